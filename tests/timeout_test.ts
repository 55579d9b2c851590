/** The timeout, which ends a copy when nothing has moved for so long, and never earlier. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { onTimeout } from "../cli/timeout.ts";
import { pipe, tcpPair, terminal, unixPair } from "./ends.ts";
import { fillUp, iocopy, within } from "./probe.ts";
import { pause } from "./watching.ts";

Deno.test("nothing moves at all: exit status 111, and the peer sees the end of file", async () => {
  const [input, stdin] = pipe();
  const [near, far] = tcpPair();
  using running = iocopy("-t 0.3 0 7 7 1", { 0: input, 7: near });
  assertEquals(await within("the end of file", far.readAll()), new Uint8Array(0));
  assertEquals(await running.outcome, {
    code: 111,
    signal: null,
    stderr: "iocopy: timeout: nothing moved for 0.3 s\n",
  });
  for (const end of [stdin, far]) end.close();
});

Deno.test("something moves, and then nothing: all of it is delivered", async () => {
  const [input, stdin] = pipe();
  const [stdout, output] = pipe();
  await stdin.write("onetwo");
  using running = iocopy("--timeout=.5 s 0 1", { 0: input, 1: output });
  assertEquals(new TextDecoder().decode(await within("the end", stdout.readAll())), "onetwo");
  const { code, stderr } = await running.outcome;
  assertEquals(code, 111);
  const [why = "", channel = ""] = stderr.split("\n");
  assertEquals(why, "iocopy: timeout: nothing moved for 0.5 s");
  assertMatch(channel, /^iocopy: 0 -> 1: 6 bytes in .*, stopped$/);
  for (const end of [stdin, stdout]) end.close();
});

Deno.test("a stuck reader is not waited for any longer, and what it loses is an error", async () => {
  const [from, source] = tcpPair();
  const [to, sink] = unixPair();
  fillUp(sink);
  await from.write("nobody reads this");
  using running = iocopy("-t1 --stats=json 6 7 7 6", { 6: source, 7: sink });
  assertEquals(await within("the end of file", from.readAll()), new Uint8Array(0));
  const { code, stderr } = await running.outcome;
  const [why, loss, stuck = ""] = stderr.split("\n");
  assertEquals([code, why, loss], [
    111,
    "iocopy: timeout: nothing moved for 1 s",
    "iocopy: write 7: Operation canceled",
  ]);
  const GRACE = 5; // seconds that a signal would have allowed
  assert(JSON.parse(stuck).seconds < 1 + GRACE, stuck);
  for (const end of [from, to]) end.close();
});

Deno.test("a terminal where nobody types times out too", async () => {
  const [master, slave] = terminal();
  using running = iocopy("-t 0.3 6 6", { 6: slave });
  const { code, stderr } = await running.outcome;
  assertEquals([code, stderr], [111, "iocopy: timeout: nothing moved for 0.3 s\n"]);
  master.close();
});

Deno.test("-t and --half-closed at the same time: only the first one says so", async () => {
  const [input, stdin] = pipe();
  const [stdout, output] = pipe();
  const [other, silent] = pipe();
  const [out, into] = pipe();
  stdin.close();
  const given = { 0: input, 1: output, 6: other, 7: into };
  using running = iocopy("-t 0.1 --half-closed=0.1 0 1 6 7", given);
  const { code, stderr } = await running.outcome;
  assertEquals(code, 111);
  // Which of them is the first is the scheduler's choice.
  assertMatch(stderr, /^iocopy: (timeout|half-closed): nothing moved for 0\.1 s\n$/);
  for (const end of [stdout, silent, out]) end.close();
});

Deno.test("one channel that moves keeps all of them going", async () => {
  const SECONDS = 1;
  const [input, stdin] = pipe();
  const [stdout, output] = pipe();
  const [idle, unused] = pipe();
  using running = iocopy(`-t ${SECONDS} 0 1 3 1`, { 0: input, 1: output, 3: idle });
  const start = performance.now();
  // For twice the timeout, unless this machine itself stalls.
  let longest = 0, last = start;
  while (last - start < 2000 * SECONDS) {
    await stdin.write("x");
    await within("a byte", stdout.readExactly(1));
    const now = performance.now();
    [longest, last] = [Math.max(longest, now - last), now];
    await pause();
  }
  stdin.close();
  unused.close();
  const { code, stderr } = await running.outcome;
  assert(code === 0 && stderr === "" || longest > 400 * SECONDS, `${code} ${stderr}`);
  stdout.close();
});

Deno.test("the timeout never comes early, counted from the last byte or end, and only once", async () => {
  const channel = { rfd: 0, wfd: 1, bytes: 0, operations: 0, seconds: 0, route: "copy" as const };
  const pipes = { read: undefined, own: undefined, write: undefined };
  const still = { ...channel, pipes, reason: undefined, error: undefined };
  const moving = { ...still, ended: undefined };
  const ending: typeof still & { ended: "eof" | undefined } = { ...still, ended: undefined };
  const times: number[] = [];
  const start = performance.now();
  const expired = () => times.push(performance.now());
  const end = onTimeout([moving, ending], 0.2, expired, () => true);
  let last = start;
  while (performance.now() - start < 500) {
    last = performance.now();
    moving.operations++;
    await pause();
  }
  await pause(100);
  last = performance.now();
  ending.ended = "eof";
  while (times.length === 0 && performance.now() - start < 30_000) await pause();
  assert((times[0] ?? 0) - last >= 199, `${times} after ${last}`);
  await pause(300);
  assertEquals(times.length, 1);
  end();
});
