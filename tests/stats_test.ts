/** Statistics: at the end, and whenever a signal asks for them. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { statistics } from "../cli/stats.ts";
import type { ChannelStatus } from "../engine.ts";
import { type End, O_RDONLY, open, pipe, tcpPair } from "./ends.ts";
import { endsWith, objects } from "./expect.ts";
import { BINARY, COMMAND } from "./harness.ts";
import { ignores, injecting, iocopy, noise, within } from "./probe.ts";
import { needing } from "./programs.ts";
import { catches, lines, pause } from "./watching.ts";

const CHANNEL = {
  rfd: 0,
  wfd: 7,
  operations: 4,
  route: "splice" as const,
  reason: undefined,
  pipes: { read: undefined, own: undefined, write: undefined },
  error: undefined,
};

Deno.test("statistics in words: a line for each channel, and a total", () => {
  const channels: ChannelStatus[] = [
    { ...CHANNEL, bytes: 1234567, seconds: 1.2044, ended: "eof" },
    { ...CHANNEL, rfd: 6, wfd: 1, bytes: 999, seconds: 2, ended: undefined },
    { ...CHANNEL, rfd: 8, wfd: 9, bytes: 0, seconds: 0, ended: "hangup" },
  ];
  assertEquals(statistics(channels, false).split("\n"), [
    "iocopy: 0 -> 7: 1234567 bytes in 1.204 s, 1.03 MB/s, end of file",
    "iocopy: 6 -> 1: 999 bytes in 2.000 s, 500 B/s, open",
    "iocopy: 8 -> 9: 0 bytes in 0.000 s, 0 B/s, hung up",
    "iocopy: total: 1235566 bytes in 2.000 s, 618 kB/s",
    "",
  ]);
});

Deno.test("rates keep three digits from bytes to exabytes", () => {
  const rates = [0, 1, 999.4, 999.6, 1000, 12_345, 999_499, 999_501, 5e9, 1.5e15, 2e18].map(
    (bytes) => {
      const text = statistics([{ ...CHANNEL, bytes, seconds: 1, ended: "eof" }], false);
      return /s, (.*)\/s, end/.exec(text)?.[1];
    },
  );
  const expected = "0 B|1 B|999 B|1.00 kB|1.00 kB|12.3 kB|999 kB|1.00 MB|5.00 GB|1.50 PB|2.00 EB";
  assertEquals(rates.join("|"), expected);
});

Deno.test("--stats: what was copied and how it ended, at the end", async () => {
  const [input, stdin] = pipe();
  const [stdout, output] = pipe();
  using running = iocopy("s 0 1", { 0: input, 1: output });
  const content = noise(300_000);
  const written = stdin.write(content).finally(() => stdin.close());
  assertEquals((await within("the copy", stdout.readAll())).length, content.length);
  await written;
  const { code, stderr } = await running.outcome;
  assertEquals(code, 0);
  const amount = String.raw`300000 bytes in \d+\.\d{3} s, [\d.]+ [kMG]?B/s`;
  assertMatch(
    stderr,
    new RegExp(`^iocopy: 0 -> 1: ${amount}, end of file\niocopy: total: ${amount}\n$`),
  );
  stdout.close();
});

Deno.test("--stats=json: one object per line, for every ending and route", async () => {
  const [input, stdin] = pipe(); // its writer goes away: end of file
  const [reader, unread] = pipe(); // its reader goes away: an error
  const [near, far] = tcpPair();
  using file = open("/dev/zero", O_RDONLY);
  using running = iocopy("--stats=json 0 7 6 8", { 0: input, 7: near, 6: file, 8: unread });
  await stdin.write("to the network");
  assertEquals(await within("the bytes", far.readText(14)), "to the network");
  stdin.close();
  reader.close();
  far.shutdownWrite();
  const { code, stderr } = await running.outcome;
  assertEquals(code, 111);
  const printed = objects(stderr);
  const [first, second, total] = printed;
  assertEquals(printed.length, 3);
  for (const { seconds } of printed) assert(seconds >= 0 && seconds < 3600);
  assertEquals(first, {
    rfd: 0,
    wfd: 7,
    bytes: 14,
    operations: first.operations,
    seconds: first.seconds,
    route: "splice",
    reason: null,
    pipes: { read: 65536, own: 65536, write: null },
    ended: "eof",
    error: null,
  });
  assert(first.operations >= 2, "a read and a write");
  assertEquals([second.ended, second.error], ["error", "write 8: Broken pipe"]);
  assertEquals(total, {
    channels: 2,
    bytes: first.bytes + second.bytes,
    operations: first.operations + second.operations,
    seconds: total.seconds,
  });
  far.close();
});

Deno.test("--stats=json: the route of bytes that are dumped is copy", async () => {
  const [input, stdin] = pipe();
  using running = iocopy("-x --stats=json 0 1", { 0: input });
  await stdin.write("seen");
  stdin.close();
  const { stderr } = await running.outcome;
  const [line = ""] = stderr.split("\n").filter((line) => line.startsWith("{"));
  const { bytes, route, reason } = JSON.parse(line);
  assertEquals([bytes, route, reason], [4, "copy", "dump"]);
});

/** Signals that ask for statistics, and their numbers. From source, the runtime uses SIGUSR1 itself. */
const ASKING = [["SIGUSR2", 12], ...BINARY ? [["SIGUSR1", 10]] as const : []] as const;

for (const [signal, number] of ASKING) {
  Deno.test(`${signal} prints statistics of an idle copy, which goes on`, async () => {
    const [input, stdin] = pipe();
    const [stdout, output] = pipe();
    const [log, logging] = pipe();
    using running = iocopy("0 1", { 0: input, 1: output, 2: logging });
    const asked = lines(log);
    await stdin.write("one");
    assertEquals(await within("a byte", stdout.readText(3)), "one");
    await within("a listener", catches(running.pid, number));
    for (let times = 0; times < 3; times++) {
      running.kill(signal);
      assertMatch(await within("statistics", asked()), /^iocopy: 0 -> 1: 3 bytes in .*, open$/);
      assertMatch(await within("a total", asked()), /^iocopy: total: 3 bytes in /);
    }
    await stdin.write("two");
    assertEquals(await within("a byte", stdout.readText(3)), "two");
    stdin.close();
    assertEquals((await running.outcome).code, 0);
    assertEquals(await asked(), "", "nothing is printed at the end");
    for (const end of [stdout, log]) end.close();
  });

  Deno.test(`${signal} prints statistics of a copy at full speed, nothing lost`, async () => {
    const [input, stdin] = pipe();
    const [stdout, output] = pipe();
    const [log, logging] = pipe();
    using running = iocopy("--stats=json 0 1", { 0: input, 1: output, 2: logging });
    const asked = lines(log);
    await stdin.write("x");
    await within("a byte", stdout.readExactly(1));
    await within("a listener", catches(running.pid, number));
    let feeding = true;
    const fed = feed(stdin, () => feeding);
    const drained = drain(stdout);
    let before = -1;
    for (let times = 0; times < 5; times++) {
      running.kill(signal);
      const { bytes, ended } = JSON.parse(await within("statistics", asked()));
      assertEquals(ended, null);
      assert(bytes >= before, `${bytes} after ${before}`);
      before = bytes;
      await within("a total", asked());
    }
    feeding = false;
    const [sent, received] = await within("the end", Promise.all([fed, drained]));
    assertEquals(received, sent);
    assertEquals(JSON.parse(await asked()).bytes, sent + 1);
    assertEquals((await running.outcome).code, 0);
    for (const end of [stdout, log]) end.close();
  });
}

Deno.test("a signal that asks for statistics stays ignored if it was ignored at the start", async () => {
  const [input, stdin] = pipe();
  const [stdout, output] = pipe();
  const ignoring = ["sh", "-c", 'trap \'\' USR2; exec "$0" "$@"', ...COMMAND];
  using running = iocopy("0 1", { 0: input, 1: output }, { command: ignoring });
  await stdin.write("x");
  await within("a byte", stdout.readExactly(1));
  await within("a listener", catches(running.pid, 15));
  running.kill("SIGUSR2");
  await pause(100); // for output that must not come
  assert(ignores(running.pid, 12));
  stdin.close();
  assertEquals(await running.outcome, { code: 0, signal: null, stderr: "" });
  stdout.close();
});

/** Writes as fast as possible while `on` returns true; returns the number of bytes. */
async function feed(to: End, on: () => boolean): Promise<number> {
  const block = new Uint8Array(65536);
  let sent = 0;
  for (; on(); sent += block.length) await to.write(block);
  to.close();
  return sent;
}

async function drain(from: End): Promise<number> {
  for (let received = 0;;) {
    const { length } = await from.read(1 << 20);
    if (length === 0) return received;
    received += length;
  }
}

Deno.test(
  needing(["strace"], "statistics are printed although the system refuses to set an alarm"),
  async () => {
    const [input, stdin] = pipe();
    const [stdout, output] = pipe();
    const command = injecting("timerfd_settime:error=EPERM");
    using running = iocopy("s 3 4", { 3: input, 4: output }, { command });
    const told = /^(iocopy: .*\n)*iocopy: total: .*\niocopy: timerfd_settime: .* not permitted\n$/;
    await within("the end", endsWith(running, 111, told));
    for (const end of [stdin, stdout]) end.close();
  },
);
