/** The dump has the format of hexdump and is complete, and does no harm to the copy. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import fc from "fast-check";
import { hexdump } from "../cli/dump.ts";
import { pipe, tcpPair } from "./ends.ts";
import { DEADLINE, fillUp, inFolder, iocopy, noise, outputOf, same, within } from "./probe.ts";
import { needing } from "./programs.ts";
import { lines, pause } from "./watching.ts";

const HEAD = /^iocopy: \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (\d+ -> \d+): (\d+) bytes$/;

/** The bytes of each channel in a log, with each block at its offset. */
function reassemble(log: string): Map<string, Uint8Array> {
  const channels = new Map<string, number[]>();
  let bytes: number[] = [];
  let left = 0, row: number[] = [], repeats = false;
  for (const line of log.trimEnd().split("\n")) {
    const [, channel, length] = HEAD.exec(line) ?? [];
    if (channel) {
      assertEquals(left, 0, "the last block is whole");
      channels.set(channel, bytes = channels.get(channel) ?? []);
      left = Number(length);
      continue;
    }
    if (line === "*") {
      repeats = true;
      continue;
    }
    const [, address = "", hex = ""] = /^([0-9a-f]{8,})(?: {2}(.{49}) \|.*\|)?$/.exec(line) ?? [];
    assert(address, `no line of a dump: ${line}`);
    for (; repeats && bytes.length < parseInt(address, 16); left -= row.length) bytes.push(...row);
    repeats = false;
    assertEquals(parseInt(address, 16), bytes.length, line);
    row = hex.split(/ +/).filter((word) => word).map((word) => parseInt(word, 16));
    bytes.push(...row);
    left -= row.length;
  }
  assertEquals(left, 0, "the last block is whole");
  return new Map([...channels].map(([channel, bytes]) => [channel, Uint8Array.from(bytes)]));
}

/** Bytes of all kinds, with some repeated rows. */
const traffic = fc.array(
  fc.oneof(
    fc.uint8Array({ maxLength: 40 }),
    fc.tuple(fc.uint8Array({ minLength: 16, maxLength: 16 }), fc.integer({ min: 1, max: 5 })).map(
      ([row, times]) => Uint8Array.from(Array(times).fill([...row]).flat()),
    ),
  ),
  { maxLength: 6 },
).map((pieces) => Uint8Array.from(pieces.flatMap((piece) => [...piece])));

Deno.test({
  ...needing(["hexdump"], "a block is what hexdump -C prints"),
  fn: async () => {
    await inFolder(async (folder) => {
      const file = `${folder}/bytes`;
      const print = async (...args: string[]) => {
        return (await outputOf(["hexdump", "-C", ...args, file])).stdout;
      };
      const all = Uint8Array.from({ length: 256 }, (_, byte) => byte);
      await Deno.writeFile(file, all);
      assertEquals(hexdump(all), await print());
      await fc.assert(
        fc.asyncProperty(traffic, fc.nat(100), async (bytes, offset) => {
          await Deno.writeFile(file, new Uint8Array([...new Uint8Array(offset), ...bytes]));
          const expected = bytes.length ? await print("-s", String(offset)) : "";
          assertEquals(hexdump(bytes, offset), expected);
        }),
        { numRuns: 60 },
      );
    });
  },
});

Deno.test("both directions of a tunnel are shown, each from its beginning", async () => {
  const [input, stdin] = pipe();
  const [stdout, output] = pipe();
  const [near, far] = tcpPair();
  using running = iocopy("x 0 7 7 1", { 0: input, 1: output, 7: near });
  const request = new Uint8Array([...noise(100_000), ...new Uint8Array(50_000), 10, 255]);
  const answer = new TextEncoder().encode("250 2.0.0 Ok: \0\n".repeat(3000));
  const written = Promise.all([
    stdin.write(request).then(() => stdin.close()),
    far.write(answer).then(() => far.shutdownWrite()),
  ]);
  const arrived = await within("the copy", Promise.all([far.readAll(), stdout.readAll()]));
  await written;
  const { code, stderr } = await running.outcome;
  assertEquals(code, 0);
  const shown = reassemble(stderr);
  assertEquals([...shown.keys()].sort(), ["0 -> 7", "7 -> 1"]);
  for (const bytes of [arrived[0], shown.get("0 -> 7") ?? []]) {
    assert(same(Uint8Array.from(bytes), request), "other bytes than those sent");
  }
  for (const bytes of [arrived[1], shown.get("7 -> 1") ?? []]) {
    assert(same(Uint8Array.from(bytes), answer), "other bytes than those sent");
  }
  for (const end of [stdout, far]) end.close();
});

Deno.test("a dump is complete even if its reader starts late", async () => {
  const [input, stdin] = pipe();
  const [stdout, output] = pipe();
  const [log, logging] = pipe();
  fillUp(logging);
  using running = iocopy("x 0 1", { 0: input, 1: output, 2: logging });
  const content = noise(300_000);
  const written = stdin.write(content).then(() => stdin.close());
  const first = await within("the first bytes", stdout.readExactly(1)); // the log is full then
  const [rest, text] = await within(
    "the copy",
    Promise.all([stdout.readAll(), log.readAll()]),
  );
  await written;
  const shown = reassemble(new TextDecoder().decode(text).replaceAll("\0", ""));
  assert(same(shown.get("0 -> 1") ?? first, content), "other bytes than those sent");
  assertEquals(rest.length, content.length - 1);
  assertEquals((await running.outcome).code, 0);
  for (const end of [stdout, log]) end.close();
});

Deno.test("a log that nobody reads delays no copy; lost lines are counted, errors are never lost", async () => {
  const [input, stdin] = pipe();
  const [stdout, output] = pipe();
  const [log, logging] = pipe();
  const content = noise(4_000_000); // 20 MB of text
  const limit = 3 * DEADLINE; // that is much work for a busy machine
  using running = iocopy("x 0 1", { 0: input, 1: output, 2: logging }, { limit });
  const written = stdin.write(content);
  const arrived = await within("the copy", stdout.readExactly(content.length), limit);
  assert(same(arrived, content), "other bytes than those sent");
  await written;
  stdout.close(); // this is an error at once
  const reading = log.readAll();
  const text = new TextDecoder().decode(await within("the log", reading, limit));
  const { code } = await running.outcome;
  assertEquals(code, 111);
  const lost = text.split("\n").filter((line) => line.endsWith("lines of the log are lost"));
  assertEquals(lost.length, 1);
  assertMatch(lost[0] ?? "", /^iocopy: \d+ lines/);
  assertMatch(text, /\niocopy: write 1: Broken pipe\n$/);
  const rows = content.length / 16 + 2 * content.length / (16 * 1024); // at least
  const shown = text.split("\n").length;
  assert(shown + parseInt(lost[0]?.slice(8) ?? "") > rows, "all lines are shown or counted");
  for (const end of [stdin, log]) end.close();
});

Deno.test("a log whose reader has gone does not affect the copy", async () => {
  const [input, stdin] = pipe();
  const [stdout, output] = pipe();
  const [log, logging] = pipe();
  log.close();
  using running = iocopy("vxs 0 1", { 0: input, 1: output, 2: logging });
  const content = noise(200_000);
  const written = stdin.write(content).then(() => stdin.close());
  assert(same(await within("the copy", stdout.readAll()), content), "other bytes than those sent");
  await written;
  assertEquals((await running.outcome).code, 0);
  stdout.close();
});

Deno.test("lines that an idle copy could not write to its log are written when there is room", async () => {
  const [input, stdin] = pipe();
  const [stdout, output] = pipe();
  const [log, logging] = pipe();
  const filler = fillUp(logging);
  using running = iocopy("v 0 1", { 0: input, 1: output, 2: logging });
  await stdin.write("x");
  await within("a byte", stdout.readExactly(1));
  await pause(200); // by then the engine has no reason of its own to flush the log
  await log.readExactly(filler);
  const next = lines(log);
  const report = [await within("a line", next()), await within("a line", next())];
  assertEquals(report, ["iocopy: 0 > 1", "iocopy: 1 < 1"]);
  stdin.close();
  assertEquals((await running.outcome).code, 0);
  for (const end of [stdout, log]) end.close();
});
