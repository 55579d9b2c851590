/** Signals: they end the command without losing bytes, stop and continue it, or are ignored. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { type End, pipe, tcpPair, terminal, unixPair } from "./ends.ts";
import { readAndAnswer } from "./expect.ts";
import { BINARY, COMMAND } from "./harness.ts";
import {
  fillUp,
  hasBytes,
  hasTcp,
  hungUp,
  ignores,
  injecting,
  iocopy,
  LISTENING,
  noise,
  readable,
  same,
  unlessLate,
  watched,
  within,
} from "./probe.ts";
import { needing } from "./programs.ts";
import { logged, pause, stop } from "./watching.ts";

/** Reads the report of `v` until `count` bytes were read from `fd`; returns the report. */
async function untilRead(log: End, fd: number, count = 1): Promise<string> {
  for (let text = "";;) {
    const piece = await log.read();
    text += new TextDecoder().decode(piece);
    if (piece.length === 0 || moved(text, fd, ">") >= count) return text;
  }
}

/** The number of bytes that were read (">") or written ("<") according to `v`. */
function moved(log: string, fd: number, direction: ">" | "<"): number {
  const lines = [...log.matchAll(new RegExp(`\\b${fd} ${direction} (\\d+)`, "g"))];
  return lines.reduce((sum, [, bytes]) => sum + Number(bytes), 0);
}

for (const [signal, number] of [["SIGHUP", 1], ["SIGINT", 2], ["SIGTERM", 15]] as const) {
  for (const kind of ["tcp", "unix"] as const) {
    Deno.test(`${signal}: all that was read from a ${kind} socket is delivered`, async () => {
      const pair = { tcp: tcpPair, unix: unixPair }[kind];
      const [from, source] = pair();
      const [to, sink] = pair();
      const [log, logging] = pipe();
      const content = noise(400_000, number);
      const filler = fillUp(sink); // so that the bytes have to wait
      using running = iocopy("v 6 7", { 6: source, 7: sink, 2: logging });
      const written = from.write(content).catch(() => {}); // it may not be read to the end
      const text = await within("a read", untilRead(log, 6));
      running.kill(signal);
      const delivered = await within("the end of file", to.readAll());
      const outcome = await running.outcome;
      const read = moved(text + new TextDecoder().decode(await log.readAll()), 6, ">");
      assertEquals([outcome.code, outcome.signal], [128 + number, null]);
      assertEquals(delivered.length - filler, read);
      assert(same(delivered.subarray(filler), content.subarray(0, read)), "other bytes");
      for (const end of [from, to, log]) end.close();
      await written;
    });
  }
}

Deno.test("a reader that stays stuck is given up, and an error says so", async () => {
  const [from, source] = unixPair();
  const [to, sink] = unixPair();
  const filler = fillUp(sink);
  using running = watched("6 7", { 6: source, 7: sink });
  await from.write("waits for ever");
  await within("the read", drained(source));
  running.kill("SIGTERM");
  const outcome = await running.outcome;
  assertEquals(outcome.code, 143);
  assertMatch(outcome.stderr, /^iocopy: write 7: .+\n$/);
  const left = await within("the end of file", to.readAll());
  assertEquals(left.length, filler, "shut down, with nothing more in it");
  for (const end of [from, source, to, sink]) end.close();
});

/** Resolves when the other process has read everything in `end`. */
async function drained(end: End): Promise<void> {
  while (await hasBytes(end));
}

Deno.test("SIGTERM: what the kernel still has for a peer that answers is delivered", async () => {
  const [near, far] = tcpPair();
  const content = noise(200_000);
  [near.sendBuffer, far.receiveBuffer] = [content.length, 20_000];
  const [input, stdin] = pipe();
  const { running, log } = logged("v 0 7 6 1", { 0: input, 6: near, 7: near.duplicate() });
  using _ = running;
  await stdin.write(content);
  stdin.close();
  await within("its end", log.until("iocopy: 0 > 0")); // the kernel has all of it
  running.kill("SIGTERM");
  await readAndAnswer(far, content);
  assertEquals((await running.outcome).code, 128 + 15);
  await log.all();
  far.close();
});

Deno.test("a second signal ends it at once", async () => {
  const [from, source] = unixPair();
  const [to, sink] = unixPair();
  const [stdin, stdout, output] = [unixPair(), ...pipe()];
  fillUp(sink);
  const before = sink.flags;
  using running = watched("6 7 0 1", { 6: source, 7: sink, 0: stdin[1], 1: output });
  output.close();
  await from.write("stuck");
  await drained(source);
  running.kill("SIGTERM");
  assertEquals(await stdout.readText(1), ""); // the first signal has arrived: the idle channel has ended
  running.kill("SIGINT");
  assertEquals((await running.outcome).code, 130);
  assertEquals(sink.flags, before);
  for (const end of [from, source, to, sink, stdout, ...stdin]) end.close();
});

Deno.test(
  needing(["strace"], "a signal in the first moment loses nothing and leaves no flag"),
  async () => {
    // It arrives during the first splice(2), which is the first call that moves bytes.
    const [from, source] = unixPair();
    const [to, sink] = tcpPair();
    const before = [source.flags, sink.flags];
    await from.write("already there");
    const command = injecting("splice:signal=SIGTERM:when=1");
    using running = watched("6 7", { 6: source, 7: sink }, { command });
    const outcome = await running.outcome;
    assertEquals([source.flags, sink.flags], before);
    assertEquals([outcome.code, outcome.signal], [143, null]);
    sink.shutdownWrite();
    const [left, delivered] = [await leftIn(source), (await to.readAll()).length];
    assertEquals(left + delivered, 13, `${left} left, ${delivered} delivered`);
    for (const end of [from, source, to, sink]) end.close();
  },
);

/** How many bytes are unread in a socket. */
async function leftIn(end: End): Promise<number> {
  return await hasBytes(end) ? (await end.read()).length : 0;
}

Deno.test(
  needing(["strace"], "what another thread is reading when the signal comes is delivered"),
  async () => {
    // A terminal is read on another thread; here the read is delayed.
    const [master, slave] = terminal();
    const [stdout, output] = pipe();
    const path = await Deno.readLink(`/proc/self/fd/${slave.fd}`);
    const delay = injecting("read:delay_exit=50000:when=1");
    const command = ["strace", "-P", path, ...delay.slice(1)];
    await master.write("a line\n");
    await readable(slave); // it takes a moment, in which there is nothing to be drained
    using running = watched("0 1", { 0: slave, 1: output }, { command });
    output.close();
    await within("the read", drained(slave));
    running.kill("SIGTERM");
    assertEquals((await running.outcome).code, 143);
    assertEquals(await stdout.readText(7), "a line\n");
    for (const end of [master, slave, stdout]) end.close();
  },
);

Deno.test("SIGPIPE never kills it", async () => {
  const [input, stdin] = pipe();
  const [stdout, output] = pipe();
  const [dead, sink] = pipe();
  const [from, source] = unixPair();
  using running = iocopy("0 1 6 7", { 0: input, 1: output, 6: source, 7: sink });
  for (let i = 0; i < 10; i++) {
    running.kill("SIGPIPE");
    await stdin.write("alive");
    assertEquals(await stdout.readText(5), "alive");
  }
  dead.close();
  await from.write("for nobody").catch(() => {});
  await hungUp(from);
  await stdin.write("alive");
  assertEquals(await stdout.readText(5), "alive");
  stdin.close();
  const outcome = await running.outcome;
  assertEquals([outcome.code, outcome.stderr], [111, "iocopy: write 7: Broken pipe\n"]);
  for (const end of [stdout, from]) end.close();
});

Deno.test("stopped and continued, it loses nothing", async () => {
  const [from, source] = tcpPair();
  const [to, sink] = unixPair();
  const [input, stdin] = pipe();
  const [stdout, output] = pipe();
  const content = noise(1_000_000);
  using running = iocopy("6 7 0 1", { 6: source, 7: sink, 0: input, 1: output });
  for (let round = 0; round < 8; round++) {
    const arrived = [to.readExactly(content.length), stdout.readExactly(content.length)];
    const sent = [from.write(content), stdin.write(content)];
    await stop(running.pid);
    running.kill("SIGCONT");
    for (const bytes of await within("all bytes", Promise.all(arrived))) {
      assert(same(bytes, content), "other bytes");
    }
    await Promise.all(sent);
  }
  from.shutdownWrite();
  stdin.close();
  assertEquals((await running.outcome).code, 0);
  for (const end of [from, to, stdout]) end.close();
});

Deno.test("a signal that was ignored at the start stays ignored, as nohup(1) requires", async () => {
  // From source, the runtime catches it after half a second, if main.ts does not run by then.
  await unlessLate(BINARY ? Infinity : 500, async () => {
    const [input, stdin] = pipe();
    const [stdout, output] = pipe();
    const command = ["/bin/sh", "-c", `trap "" HUP; exec "$0" "$@"`, ...COMMAND];
    using running = iocopy("0 1", { 0: input, 1: output }, { command });
    for (let i = 0; i < 3; i++) {
      await stdin.write("on");
      assertEquals(await stdout.readText(2), "on");
      running.kill("SIGHUP");
    }
    running.kill("SIGTERM");
    assertEquals((await running.outcome).code, 143);
    for (const end of [stdin, stdout]) end.close();
  });
});

Deno.test("SIGUSR1 opens no inspector", async () => {
  const [input, stdin] = pipe();
  const [stdout, output] = pipe();
  using running = iocopy("0 1", { 0: input, 1: output });
  const roundTrip = async () => {
    await stdin.write("alive");
    assertEquals(await stdout.readText(5), "alive");
  };
  await roundTrip();
  // The runtime adds its own listener half a second after the start, which cannot be observed.
  if (!BINARY) await pause(1000);
  await roundTrip();
  if (!BINARY) assert(ignores(running.pid, 10), "SIGUSR1 is not ignored");
  if (!BINARY) running.kill("SIGUSR1");
  await roundTrip();
  assert(!hasTcp(running.pid, LISTENING), "it listens on a port");
  stdin.close();
  const outcome = await running.outcome;
  assertEquals([outcome.code, outcome.stderr], [0, ""]);
  stdout.close();
});

Deno.test("interrupted by signals again and again, it copies every byte", async () => {
  // SIGCONT interrupts system calls without a handler.
  const [from, source] = unixPair();
  const [to, sink] = tcpPair();
  const content = noise(4_000_000);
  using running = iocopy("6 7", { 6: source, 7: sink });
  const arrived = to.readExactly(content.length);
  const sent = from.write(content);
  let done = false;
  arrived.finally(() => done = true);
  while (!done) {
    running.kill("SIGCONT");
    await pause(0);
  }
  assert(same(await arrived, content), "other bytes");
  await sent;
  from.shutdownWrite();
  assertEquals((await running.outcome).code, 0);
  for (const end of [from, to]) end.close();
});
