/**
 * The specification, tested from outside: what goes into the command, what
 * comes out of it, and how it ends.
 *
 * A test waits for bytes, for an end of file, or for a line that `v` reports,
 * never for time to pass (but where nothing is to happen). A command that hangs
 * is killed, and what waits for it fails.
 */
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import {
  type End,
  O_APPEND,
  O_CREAT,
  O_NONBLOCK,
  O_RDONLY,
  O_RDWR,
  O_WRONLY,
  open,
  pipe,
  tcpPair,
  terminal,
  unixPair,
} from "./tests/ends.ts";
import { COMMAND, handOver, ROOT, type Running, start } from "./tests/harness.ts";
import project from "./deno.json" with { type: "json" };

// ---- What the tests are made of.

/** After this a command hangs, in milliseconds. */
const DEADLINE = 30_000;

/** Kills a command that hangs, so that what waits for it fails. */
function bounded(running: Running): Running {
  const timer = setTimeout(() => running.kill("SIGKILL"), DEADLINE);
  running.outcome.finally(() => clearTimeout(timer));
  return running;
}

/** Starts the command and leaves the descriptors to it. */
function iocopy(args: string, given: Record<number, End>): Running {
  return bounded(handOver(args.split(" "), given));
}

/** Runs the command as anyone would: through subprocess pipes. */
async function run(args: readonly string[], input: string | Uint8Array<ArrayBuffer> = "") {
  const [program = "", ...words] = COMMAND;
  const child = new Deno.Command(program, {
    args: [...words, ...args],
    cwd: ROOT,
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
    signal: AbortSignal.timeout(DEADLINE),
  }).spawn();
  const fed = new Blob([input]).stream().pipeTo(child.stdin).catch(() => {}); // may not be read
  const { code, stdout, stderr } = await child.output();
  await fed;
  return {
    code,
    stdout: new TextDecoder().decode(stdout),
    stderr: new TextDecoder().decode(stderr),
  };
}

/** Standard error, line by line as it comes. */
class Reports {
  readonly lines: string[] = [];
  readonly #end: End;
  readonly #over: Promise<void>;
  #isOver = false;
  #news = Promise.withResolvers<void>();

  constructor(end: End) {
    this.#end = end;
    this.#over = this.#pump();
  }

  async #pump(): Promise<void> {
    let rest = "";
    while (!this.#isOver) {
      const piece = await this.#end.read();
      const lines = (rest + new TextDecoder().decode(piece)).split("\n");
      rest = lines.pop() ?? "";
      this.lines.push(...lines);
      this.#isOver = piece.length === 0;
      this.#news.resolve();
      this.#news = Promise.withResolvers();
    }
  }

  /** Waits for a line. */
  async until(line: string): Promise<void> {
    while (!this.lines.includes(line)) {
      assert(!this.#isOver, `it ended without "${line}", but with: ${this.lines.join("; ")}`);
      await this.#news.promise;
    }
  }

  /** All lines, once there will be no more. */
  async all(): Promise<string[]> {
    await this.#over;
    this.#end.close();
    return this.lines;
  }
}

/** As {@linkcode iocopy}, with standard error to look at meanwhile. */
function watched(args: string, given: Record<number, End>): { running: Running; log: Reports } {
  const [log, logging] = pipe();
  return { running: iocopy(args, { ...given, 2: logging }), log: new Reports(log) };
}

/**
 * Follows what `v` reports of one channel, and checks that it only read while
 * it held nothing, and only wrote what it held.
 */
function follow(lines: readonly string[], rfd: number, wfd: number) {
  const sizes: number[] = [];
  let held = 0, written = 0, ended = false;
  for (const line of lines) {
    const [, fd, operation, bytes] = /^iocopy: (\d+) ([<>]) (\d+)$/.exec(line) ?? [];
    if (Number(fd) === rfd && operation === ">") {
      assertEquals(held, 0, `read although ${held} bytes are not yet written: ${line}`);
      assert(!ended, `read after the end of file: ${line}`);
      held = Number(bytes);
      if (held === 0) ended = true;
      else sizes.push(held);
    }
    if (Number(fd) === wfd && operation === "<") {
      assert(Number(bytes) > 0 && Number(bytes) <= held, `wrote what it does not hold: ${line}`);
      held -= Number(bytes);
      written += Number(bytes);
    }
  }
  return { sizes, held, written, ended };
}

/** Sends something there and waits for it here. */
async function passes(from: End, to: End, text = "ping"): Promise<void> {
  await from.write(text);
  assertEquals(await to.readText(text.length), text);
}

/** Waits for the end of file, nothing being left. */
async function ends(end: End): Promise<void> {
  assertEquals(await end.read(), new Uint8Array(0), "more came in place of the end of file");
}

/** Waits for the command's end. */
async function well(running: Running): Promise<void> {
  assertEquals(await running.outcome, { code: 0, signal: null, stderr: "" });
}

/** Does some of the items at a time, as each needs a process. */
async function each<T>(items: readonly T[], test: (item: T) => Promise<void>): Promise<void> {
  const rest = items.values();
  const some = async () => {
    for (const item of rest) await test(item);
  };
  await Promise.all([some(), some(), some()]);
}

/** Text of some length that no piece of is like another. */
function text(length: number): string {
  let lines = "";
  for (let i = 0; lines.length < length; i++) lines += `line ${i} of what is to be copied\n`;
  return lines.slice(0, length - 1) + "\n";
}

/** A folder for the time of a test. */
async function inFolder(test: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "iocopy-test-" });
  try {
    await test(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Two joined ends of each kind that carries bytes both ways. */
const SOCKETS = { "TCP": tcpPair, "unix": unixPair };

// ---- The command.

Deno.test("v reports every operation, exactly as the original", async () => {
  assertEquals(await run(["v", "0", "1"], "hello"), {
    code: 0,
    stdout: "hello",
    stderr: "iocopy: 0 > 5\niocopy: 1 < 5\niocopy: 0 > 0\n",
  });
});

Deno.test("without v nothing is reported", async () => {
  assertEquals(await run(["0", "1"], "hello"), { code: 0, stdout: "hello", stderr: "" });
});

Deno.test("no input at all is an end of file", async () => {
  assertEquals(await run(["v", "0", "1"]), { code: 0, stdout: "", stderr: "iocopy: 0 > 0\n" });
});

Deno.test("options are taken in the original's and in GNU's spelling", async () => {
  const verbose = "iocopy: 0 > 5\niocopy: 1 < 5\niocopy: 0 > 0\n";
  const all: string[] = [
    "v 0 1",
    "vv 0 1",
    "0 1 v",
    "-v 0 1",
    "0 1 -v",
    "0 -v 1",
    "--verbose 0 1",
    "0 1 --verbose",
    "-v -- 0 1",
    "-- v 0 1",
    "-vb64k 0 1",
    "-vb 64k 0 1",
    "v -b64k 0 1",
    "--buffer 64k v 0 1",
    "-b 1 -b 5 v 0 1",
  ];
  await each(all, async (args) => {
    const expected = { code: 0, stdout: "hello", stderr: verbose };
    assertEquals(await run(args.split(" "), "hello"), expected, args);
  });
});

Deno.test("v is taken between the pairs", async () => {
  const [reading, writing] = pipe();
  const [out, into] = pipe();
  using running = iocopy("0 1 v 3 4", { 3: reading, 4: into });
  await writing.write("hello");
  assertEquals(await out.readText(5), "hello");
  writing.close();
  await ends(out);
  out.close();
  const { code, stderr } = await running.outcome;
  assertEquals(code, 0);
  assertEquals(
    stderr.split("\n").filter((line) => !line.startsWith("iocopy: 0 ")),
    ["iocopy: 3 > 5", "iocopy: 4 < 5", "iocopy: 3 > 0", ""],
  );
});

Deno.test("the buffer is bounded by -b, in each of its spellings", async () => {
  const input = text(100_000);
  const all: [args: string, most: number][] = [
    ["-b1000", 1000],
    ["-b 1000", 1000],
    ["--buffer=1000", 1000],
    ["--buffer 1000", 1000],
    ["-b4k", 4096],
    ["-b 16K", 16384],
    ["--buffer=32k", 32768],
  ];
  await each(all, async ([args, most]) => {
    const { code, stdout, stderr } = await run([...args.split(" "), "v", "0", "1"], input);
    assertEquals([code, stdout], [0, input], args);
    const { sizes } = follow(stderr.split("\n"), 0, 1);
    assertEquals(Math.max(...sizes), most, args);
  });
  // M is understood: the most that is allowed, in two ways.
  for (const args of ["-b64M", `--buffer=${64 * 1024 * 1024}`, "-b1"]) {
    assertEquals(await run([args, "0", "1"], "hello"), { code: 0, stdout: "hello", stderr: "" });
  }
});

Deno.test("--help and --version are printed on standard output", async () => {
  for (const args of [["-h"], ["--help"], ["-hv"], ["--help", "0"], ["-h", "0", "63"]]) {
    const { code, stdout, stderr } = await run(args, "hello");
    assertEquals([code, stderr], [0, ""], args.join(" "));
    assertMatch(stdout, /^usage: iocopy \[options\] rfd1 wfd1/);
    for (const word of ["--verbose", "--buffer", "--help", "--version"]) {
      assert(stdout.includes(word), `${word} is not in the help`);
    }
  }
  for (const args of [["-V"], ["--version"], ["-V", "x"]]) {
    const { code, stdout, stderr } = await run(args, "hello");
    assertEquals([code, stderr], [0, ""], args.join(" "));
    assert(stdout.startsWith(`iocopy ${project.version} `), stdout);
    assertEquals(stdout.indexOf("\n"), stdout.length - 1, "the version is one line");
  }
});

/** Runs a wrong use, and checks that it says so in one line and moves nothing. */
async function isWrong(
  args: readonly string[],
  says: string,
  given: Record<number, End> = {},
): Promise<void> {
  const shown = JSON.stringify(args);
  const [reading, writing] = pipe();
  const [out, into] = pipe();
  await writing.write("hello");
  using running = bounded(start(args, { 0: reading, 1: into, ...given }));
  const { code, stderr } = await running.outcome;
  assertEquals(code, 100, `${shown}: ${stderr}`);
  assertMatch(stderr, /^iocopy: \P{Cc}+; iocopy --help tells more\n$/u, shown);
  assert(stderr.includes(says), `${shown} should say ${says}: ${stderr}`);
  writing.close();
  into.close();
  const left = new TextDecoder().decode(await reading.readAll());
  assertEquals([left, await out.readText(1)], ["hello", ""], `${shown} moved something`);
  reading.close();
  out.close();
}

Deno.test("a wrong use exits 100 with one line, and moves nothing", async () => {
  const wrong: [args: string[], says: string][] = [
    // No pair, or half of one.
    [[], "no descriptors"],
    [["v"], "no descriptors"],
    [["-v"], "no descriptors"],
    [["--"], "no descriptors"],
    [["0"], "descriptor 0"],
    [["0", "1", "0"], "descriptor 0"],
    [["v", "0", "1", "2"], "descriptor 2"],
    // Not descriptors.
    [["q", "1"], '"q"'],
    [["0", "x"], '"x"'],
    [["0", "v", "1"], '"v"'],
    [["0", "1", "vq", "0", "1"], '"vq"'],
    [["0", "1.5"], '"1.5"'],
    [["0", "0x1"], '"0x1"'],
    [["0", "1e0"], '"1e0"'],
    [["0", "+1"], '"+1"'],
    [["0", "1,"], '"1,"'],
    [["0", ""], '""'],
    [["", "1"], '""'],
    [["0", " "], '" "'],
    [["0", " 1"], '" 1"'],
    [["0", "1 "], '"1 "'],
    [["0", "1\n"], '"1\\n"'],
    [["0", "\u0661"], "is not a descriptor"],
    [["0", "2147483648"], '"2147483648"'],
    [["0", "4294967297"], '"4294967297"'],
    [["0", "18446744073709551617"], '"18446744073709551617"'],
    [["0", "-"], "-"],
    [["--", "0", "-1"], '"-1"'],
    [["-v", "--", "-v", "0", "1"], '"-v"'],
    [["-v", "0", "1.0"], '"1.0"'],
    [["-v", "0", "0x1"], '"0x1"'],
    [["-v", "0", ""], '""'],
    // Unknown options.
    [["0", "-1"], "-1"],
    [["-q", "0", "1"], "-q"],
    [["-vq", "0", "1"], "-vq"],
    [["0", "1", "-qv"], "-qv"],
    [["-v1", "0", "1"], "-v1"],
    [["-v=1", "0", "1"], "-v=1"],
    [["-v.x", "0", "1"], "-v.x"],
    [["--verbose.x", "0", "1"], "--verbose.x"],
    [["--buffer.x=1", "0", "1"], "--buffer.x"],
    [["--no-buffer", "0", "1"], "--no-buffer"],
    [["--constructor", "0", "1"], "--constructor"],
    [["--verbos", "0", "1"], "--verbos"],
    [["--no-verbose", "0", "1"], "--no-verbose"],
    [["--verbose=1", "0", "1"], "--verbose"],
    [["--help=no", "0", "1"], "--help"],
    [["--fast", "0", "1"], "--fast"],
    [["--fast=1", "0", "1"], "--fast"],
    [["---", "0", "1"], "---"],
    [["--_=3", "0", "1"], "--_"],
    [["--_", "0", "1"], "--_"],
    [["-_", "0", "1"], "-_"],
    [["-q\nz", "0", "1"], "q"],
    [["--a\nb", "0", "1"], "a"],
    [["--\x1b[31mred", "0", "1"], "red"],
    // Bad sizes.
    [["-b", "0", "0", "1"], '"0"'],
    [["-b0", "0", "1"], '"0"'],
    [["-b", "x", "0", "1"], '"x"'],
    [["-b", "-1", "0", "1"], "-1"],
    [["-b", "1.5", "0", "1"], '"1.5"'],
    [["-b", "64M", "--buffer=", "0", "1"], '""'],
    [["-b64Mk", "0", "1"], '"64Mk"'],
    [["-b", "1G", "0", "1"], '"1G"'],
    [["-b65M", "0", "1"], '"65M"'],
    [["--buffer=99999999999", "0", "1"], '"99999999999"'],
    [["0", "1", "-b"], '""'],
    [["0", "1", "--buffer"], '""'],
  ];
  await each(wrong, ([args, says]) => isWrong(args, says));
});

Deno.test("a number that is not open is a wrong use, and is named", async () => {
  await each([["0", "63"], ["63", "1"], ["0", "2147483647"], ["0", "1", "200", "1"]], (args) => {
    const number = args.find((arg) => Number(arg) > 2) ?? "";
    return isWrong(args, `descriptor ${number} is not open`);
  });
});

Deno.test("no number that was not inherited can be reached, not even the runtime's own", async () => {
  const numbers = Array.from({ length: 62 }, (_, i) => String(i + 3));
  await each(numbers, (number) => isWrong(["0", number], `descriptor ${number} is not open`));
  await each(numbers.slice(0, 20), (number) => isWrong([number, "1"], `descriptor ${number} is`));
});

Deno.test("a descriptor that is open for the other direction only is a wrong use", async () => {
  const [reading, writing] = pipe();
  using toRead = open("/dev/null", O_RDONLY);
  using toWrite = open("/dev/null", O_WRONLY);
  const O_PATH = 0o10000000;
  using named = open("/dev/null", O_PATH);
  const all: [args: string[], says: string, end: End][] = [
    [["7", "1"], "descriptor 7 is not open for reading", toWrite],
    [["0", "7"], "descriptor 7 is not open for writing", toRead],
    [["7", "1"], "descriptor 7 is not open for reading", writing],
    [["0", "7"], "descriptor 7 is not open for writing", reading],
    [["7", "1"], "descriptor 7 is not open for reading", named],
    [["0", "7"], "descriptor 7 is not open for writing", named],
    [["0", "1", "7", "1"], "descriptor 7 is not open for reading", toWrite],
    [["0", "1", "0", "7"], "descriptor 7 is not open for writing", toRead],
  ];
  await each(all, ([args, says, end]) => isWrong(args, says, { 7: end }));
  reading.close();
  writing.close();
});

// ---- The specification, point by point.

Deno.test("1: it buffers what it read until wfd becomes writable", async (t) => {
  const sources: Record<string, () => [End, End]> = { ...SOCKETS, "terminal": terminal };
  for (const [kind, make] of Object.entries(sources)) {
    await t.step(`what came from a ${kind} waits for a socket that is full`, async () => {
      const [upstream, source] = make();
      const [sink, downstream] = unixPair();
      const [other, far] = unixPair();
      const [out, into] = pipe();
      await sink.fillUp();
      const { running, log } = watched("v 3 4 5 6", { 3: source, 4: sink, 5: other, 6: into });
      using _ = running;
      await upstream.write("hello\n");
      await log.until("iocopy: 3 > 6");
      await passes(far, out);
      await passes(far, out);
      assertEquals(follow(log.lines, 3, 4).held, 6);
      if (kind === "terminal") await upstream.write("\x04");
      else upstream.shutdownWrite();
      far.shutdownWrite();
      const all = new TextDecoder().decode(await downstream.readAll());
      assertMatch(all, /^x+hello\n$/);
      assertEquals((await running.outcome).code, 0);
      const { held, written, ended } = follow(await log.all(), 3, 4);
      assertEquals([held, written, ended], [0, 6, true]);
      for (const end of [upstream, downstream, far, out]) end.close();
    });
  }
});

/** What is sent against a stuck reader: more than the system keeps on the way (tcp(7), pipe(7)). */
const FLOOD = 2 * 1024 * 1024, TCP_FLOOD = 16 * 1024 * 1024;

/** Ways to a reader that does not read. */
const STUCK: Record<string, () => [sink: End, downstream: End]> = {
  "pipe": () => pipe().reverse() as [End, End],
  "unix socket": unixPair,
  "TCP socket": tcpPair,
  "terminal": () => terminal().reverse() as [End, End],
};

Deno.test("2, 3: it reads only what it can hold; a stuck writer stops its own reader only", async (t) => {
  for (const [kind, make] of Object.entries(STUCK)) {
    for (const nonBlocking of [false, true]) {
      for (const buffer of [4096, 256 * 1024]) {
        const how = `${nonBlocking ? "non-blocking" : "blocking"} ${kind}, -b ${buffer}`;
        await t.step(how, async () => {
          const [sink, downstream] = make();
          const [source, upstream] = unixPair();
          const [other, far] = unixPair();
          const [back, into] = pipe();
          for (const end of [sink, source, other, into]) end.nonBlocking = nonBlocking;
          const { running, log } = watched(`v -b ${buffer} 3 4 5 6`, {
            3: source,
            4: sink,
            5: other,
            6: into,
          });
          using _ = running;
          const sent = new Uint8Array(kind === "TCP socket" ? TCP_FLOOD : FLOOD).fill(0x78);
          let isSent = false;
          const sending = upstream.write(sent).then(() => {
            isSent = true;
            upstream.close();
          });
          sending.catch(() => {}); // is told below
          // Once it is stuck the other channel goes on, for as long as we like.
          for (let before = -1, still = 0; still < 20;) {
            await passes(far, back);
            const { length } = log.lines.filter((line) => / [34] [<>] /.test(line));
            still = length > 0 && length === before ? still + 1 : 0;
            before = length;
          }
          assert(!isSent, "all went into a writer that takes nothing");
          const { held } = follow(log.lines, 3, 4);
          assert(held <= buffer, `${held} bytes are held`);
          assertEquals((await downstream.readExactly(sent.length)).length, sent.length);
          await sending;
          far.close();
          await ends(back);
          assertEquals((await running.outcome).code, 0);
          const all = follow(await log.all(), 3, 4);
          assertEquals([all.held, all.written, all.ended], [0, sent.length, true]);
          assert(Math.max(...all.sizes) <= buffer, "it read more than it may hold");
          downstream.close();
          back.close();
        });
      }
    }
  }
});

/** Processor time of a process so far, in milliseconds (proc(5)). */
function used(pid: number): number {
  const stat = Deno.readTextFileSync(`/proc/${pid}/stat`);
  const [user, system] = stat.slice(stat.lastIndexOf(")") + 2).split(" ").slice(11, 13);
  return (Number(user) + Number(system)) * 10;
}

Deno.test("2, 3: what is masked does not wake it: a channel that waits costs nothing", async () => {
  const [idle, idleUp] = pipe();
  const [idleDown, idleSink] = pipe();
  const [fed, fedUp] = unixPair();
  const [full, fullDown] = unixPair();
  const [ended, endedUp] = unixPair();
  const [stuck, stuckDown] = unixPair();
  const [half, halfDown] = tcpPair();
  const [typed, typedUp] = terminal().reverse() as [End, End];
  const [dead, deadSink] = pipe();
  const [other, far] = unixPair();
  await full.fillUp();
  await stuck.fillUp();
  const given = [idle, idleSink, fed, full, ended, stuck, half, other, typed, deadSink];
  const { running, log } = watched("v 3 4 5 6 7 8 10 9 9 10 11 12", {
    ...Object.fromEntries(given.map((end, i) => [i + 3, end])),
  });
  using _ = running;
  await fedUp.write("more\n");
  await endedUp.write("last\n");
  endedUp.close();
  halfDown.shutdownWrite();
  await log.until("iocopy: 5 > 5");
  await log.until("iocopy: 7 > 5");
  await log.until("iocopy: 9 > 0");
  await fedUp.write("yet more\n");
  dead.close();
  await log.until("iocopy: write 12: Broken pipe");
  const before = used(running.pid);
  await new Promise((resolve) => setTimeout(resolve, 400));
  const spent = used(running.pid) - before;
  assert(spent < 200, `${spent} of 400 ms of processor time went into waiting`);
  running.kill("SIGKILL");
  await running.outcome;
  await log.all();
  for (const end of [idleUp, idleDown, fedUp, fullDown, stuckDown, halfDown, typedUp, far]) {
    end.close();
  }
});

Deno.test("4: on eof the read side is shut down at once, whatever else still runs", async () => {
  const [source, upstream] = unixPair();
  const [sink, downstream] = unixPair();
  const [other, far] = unixPair();
  const [back, into] = pipe();
  const { running, log } = watched("v 3 4 5 6", { 3: source, 4: sink, 5: other, 6: into });
  using _ = running;
  upstream.shutdownWrite();
  await log.until("iocopy: 3 > 0");
  await ends(downstream);
  await passes(far, back);
  await ends(upstream);
  assertEquals(follow(log.lines, 5, 6).ended, false);
  far.close();
  await ends(back);
  assertEquals((await running.outcome).code, 0);
  await log.all();
  for (const end of [upstream, downstream, back]) end.close();
});

Deno.test("5: the write side is shut down after eof and when the buffer is drained", async (t) => {
  for (const [kind, make] of Object.entries(STUCK)) {
    await t.step(`a ${kind} that takes nothing yet`, async () => {
      const [sink, downstream] = make();
      const [source, upstream] = unixPair();
      const [other, far] = unixPair();
      const [back, into] = pipe();
      if (kind !== "terminal") await sink.fillUp();
      const { running, log } = watched("v 3 4 5 6", { 3: source, 4: sink, 5: other, 6: into });
      using _ = running;
      const sent = text(100_000);
      await upstream.write(sent);
      upstream.close();
      await passes(far, back);
      far.close();
      await ends(back);
      // Now only what is held keeps it.
      const expected = kind === "terminal" ? sent.replaceAll("\n", "\r\n") : sent;
      const all = kind === "terminal"
        ? await downstream.readText(expected.length)
        : new TextDecoder().decode(await downstream.readAll());
      assert(all.endsWith(expected), "something is missing");
      assertEquals((await running.outcome).code, 0);
      const { written, ended } = follow(await log.all(), 3, 4);
      assertEquals([written, ended], [sent.length, true]);
      downstream.close();
      back.close();
    });
  }
});

Deno.test("6: it exits only after both sides of all channels are shut down", async () => {
  const channels = Array.from({ length: 4 }, () => [...unixPair(), ...pipe()] as const);
  const given = channels.flatMap(([source, , , sink]) => [source, sink]);
  const args = given.map((_, i) => String(i + 3)).join(" ");
  using running = iocopy(args, Object.fromEntries(given.map((end, i) => [i + 3, end])));
  for (const [i, [, upstream, downstream]] of channels.entries()) {
    for (const [, from, to] of channels.slice(i)) await passes(from, to);
    upstream.close();
    await ends(downstream);
    downstream.close();
  }
  await well(running);
});

Deno.test("7: what fails is said: the operation, the descriptor, the reason", async (t) => {
  await inFolder(async (folder) => {
    const gone = () => {
      const [out, into] = pipe();
      out.close();
      return into;
    };
    const reset = () => {
      const [socket, peer] = tcpPair();
      peer.resetOnClose();
      peer.close();
      return socket;
    };
    const left = () => {
      const [socket, peer] = unixPair();
      peer.close();
      return socket;
    };
    const typed = () => {
      const [master, slave] = terminal();
      master.close();
      return slave;
    };
    const [out, into] = pipe();
    const intoPipe = () => into.duplicate();
    const fromPipe = () => {
      const [reading, writing] = pipe();
      writing.write("hello").then(() => writing.close());
      return reading;
    };
    await Deno.writeTextFile(`${folder}/file`, "hello");
    const hello = () => open(`${folder}/file`, O_RDONLY);
    const nothing = () => open("/dev/null", O_RDWR);
    const all: [what: string, source: () => End, sink: () => End, says: string][] = [
      ["a pipe without a reader", hello, gone, "write 4: Broken pipe"],
      ["a unix socket without a peer", hello, left, "write 4: Broken pipe"],
      ["a reset connection, read", reset, nothing, "read 3: Connection reset by peer"],
      ["a reset connection, written", hello, reset, "write 4: Connection reset by peer"],
      ["a terminal that hung up", hello, typed, "write 4: Input/output error"],
      [
        "a full device",
        hello,
        () => open("/dev/full", O_WRONLY),
        "write 4: No space left on device",
      ],
      ["a folder", () => open(folder, O_RDONLY), nothing, "read 3: Is a directory"],
      ["a folder, into a pipe", () => open(folder, O_RDONLY), intoPipe, "read 3: Is a directory"],
      ["a reset connection, into a pipe", reset, intoPipe, "read 3: Connection reset by peer"],
      ["a pipe, into a unix socket without a peer", fromPipe, left, "write 4: Broken pipe"],
      ["a pipe, into a reset connection", fromPipe, reset, "write 4: Connection reset by peer"],
    ];
    for (const [what, source, sink, says] of all) {
      await t.step(what, async () => {
        using running = iocopy("3 4", { 3: source(), 4: sink() });
        assertEquals(await running.outcome, {
          code: 111,
          signal: null,
          stderr: `iocopy: ${says}\n`,
        });
      });
    }
    out.close();
    into.close();
  });
});

// ---- Every kind of descriptor, in both roles.

/** A descriptor to be copied from: what it will give, and how to make it so. */
interface Source {
  given: End;
  /** Puts the content into it, up to the end of file. */
  feed(): Promise<void>;
  content: string;
}

/** A descriptor to be copied to, and what came of it. */
interface Sink {
  given: End;
  /** What arrived; waits for its end. */
  collect(content: string): Promise<string>;
}

async function fifo(folder: string): Promise<[End, End]> {
  const path = await Deno.makeTempDir({ dir: folder }) + "/fifo";
  await new Deno.Command("mkfifo", { args: [path] }).output();
  using both = open(path, O_RDWR); // so that opening either end does not wait for the other
  assert(both.fd > 0);
  return [open(path, O_RDONLY), open(path, O_WRONLY)];
}

/** More than any pipe or buffer holds, but for terminals: these have rules about long lines. */
const MUCH = text(1_500_000), LITTLE = text(500);

const SOURCES: Record<string, (folder: string) => Promise<Source> | Source> = {
  "pipe": () => fedBy(pipe()),
  "FIFO": async (folder) => fedBy(await fifo(folder)),
  "TCP socket": () => fedBy(tcpPair()),
  "unix socket": () => fedBy(unixPair()),
  "terminal": () => {
    const [master, slave] = terminal();
    const feed = async () => {
      await master.write(LITTLE + "\x04");
      // What it echoes is of no interest, but has to go somewhere.
      await master.readText(LITTLE.replaceAll("\n", "\r\n").length);
    };
    return { given: slave, content: LITTLE, feed };
  },
  "file": (folder) => fromFile(folder, O_RDONLY),
  "file for reading and appending": (folder) => fromFile(folder, O_RDWR | O_APPEND),
  "/dev/null": () => ({ given: open("/dev/null", O_RDONLY), content: "", feed: async () => {} }),
};

function fedBy([given, end]: [End, End]): Source {
  const feed = async () => {
    await end.write(MUCH);
    end.close();
  };
  return { given, content: MUCH, feed };
}

function fromFile(folder: string, flags: number): Source {
  const path = Deno.makeTempFileSync({ dir: folder });
  Deno.writeTextFileSync(path, MUCH);
  return { given: open(path, flags), content: MUCH, feed: async () => {} };
}

const SINKS: Record<string, (folder: string) => Promise<Sink> | Sink> = {
  "pipe": () => collectedFrom(pipe()),
  "FIFO": async (folder) => collectedFrom(await fifo(folder)),
  "TCP socket": () => collectedFrom(tcpPair()),
  "unix socket": () => collectedFrom(unixPair()),
  "terminal": () => {
    const [master, slave] = terminal();
    const collect = async (content: string) => {
      const text = await master.readText(content.replaceAll("\n", "\r\n").length);
      return text.replaceAll("\r\n", "\n");
    };
    return { given: slave, collect };
  },
  "file": (folder) => intoFile(folder, ""),
  "file for appending": (folder) => intoFile(folder, "what there was before\n"),
  "/dev/null": () => {
    return { given: open("/dev/null", O_WRONLY), collect: (content) => Promise.resolve(content) };
  },
};

function collectedFrom([end, given]: [End, End]): Sink {
  const collect = async () => {
    const all = await end.readAll();
    end.close();
    return new TextDecoder().decode(all);
  };
  return { given, collect };
}

function intoFile(folder: string, before: string): Sink {
  const path = Deno.makeTempFileSync({ dir: folder });
  Deno.writeTextFileSync(path, before);
  const collect = () => {
    const text = Deno.readTextFileSync(path);
    assert(text.startsWith(before), "what was there before is gone");
    return Promise.resolve(text.slice(before.length));
  };
  return { given: open(path, O_WRONLY | (before ? O_APPEND : 0)), collect };
}

Deno.test("it copies from every kind of descriptor into every other", async (t) => {
  await inFolder(async (folder) => {
    for (const [kind, makeSource] of Object.entries(SOURCES)) {
      await t.step(`from a ${kind}`, async () => {
        const channels: [string, Source, Sink][] = [];
        for (const [to, makeSink] of Object.entries(SINKS)) {
          channels.push([to, await makeSource(folder), await makeSink(folder)]);
        }
        const given = channels.flatMap(([, source, sink]) => [source.given, sink.given]);
        const args = given.map((_, i) => String(i + 3)).join(" ");
        using running = iocopy(args, Object.fromEntries(given.map((end, i) => [i + 3, end])));
        const fed = channels.map(([, source]) => source.feed());
        const collected = channels.filter(([to]) => !to.includes("file")).map(
          async ([to, { content }, sink]) => {
            assert(await sink.collect(content) === content, `${to}: not what was sent`);
          },
        );
        await Promise.all([...fed, ...collected]);
        await well(running);
        for (const [to, { content }, sink] of channels) {
          if (!to.includes("file")) continue;
          assert(await sink.collect(content) === content, `${to}: not what was sent`);
        }
      });
    }
  });
});

Deno.test("a device without an end is copied until its reader has enough", async (t) => {
  for (const [kind, make] of Object.entries({ pipe, ...SOCKETS })) {
    await t.step(`/dev/zero into a ${kind}`, async () => {
      const [out, into] = make();
      using running = iocopy("3 4", { 3: open("/dev/zero", O_RDONLY), 4: into });
      const bytes = await out.readExactly(1_000_000);
      assert(bytes.length === 1_000_000 && bytes.every((byte) => byte === 0));
      if (kind === "TCP") out.resetOnClose();
      out.close();
      const { code, stderr } = await running.outcome;
      assertEquals(code, 111);
      assertMatch(stderr, /^iocopy: write 4: (Broken pipe|Connection reset by peer)\n$/);
    });
  }
});

Deno.test("messages keep their bounds between sockets that have them", async () => {
  const SOCK_SEQPACKET = 5;
  const [source, upstream] = unixPair(SOCK_SEQPACKET);
  const [sink, downstream] = unixPair(SOCK_SEQPACKET);
  using running = iocopy("3 4", { 3: source, 4: sink });
  const messages = ["one", "another", text(150_000), "x"];
  for (const message of messages) await upstream.write(message);
  for (const message of messages) {
    assertEquals(new TextDecoder().decode(await downstream.read(2 ** 20)), message);
  }
  upstream.close();
  await ends(downstream);
  downstream.close();
  await well(running);
});

Deno.test("where a descriptor turns out to refuse splice(2), later reads are as long as any", async () => {
  await inFolder(async (folder) => {
    const file = open(`${folder}/file`, O_WRONLY | O_CREAT | O_APPEND);
    const [source, upstream] = unixPair();
    const { running, log } = watched("v 3 4", { 3: source, 4: file });
    using _ = running;
    await upstream.write("hello");
    await log.until("iocopy: 4 < 5");
    await upstream.write(text(100_000));
    upstream.close();
    assertEquals((await running.outcome).code, 0);
    assert(Math.max(...follow(await log.all(), 3, 4).sizes) > 4096, "it reads piece by piece");
    assertEquals(Deno.readTextFileSync(`${folder}/file`), "hello" + text(100_000));
  });
});

Deno.test("a file is written where its offset is, and the offset moves on", async () => {
  await inFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/from`, "skipped, copied");
    using from = open(`${folder}/from`, O_RDONLY);
    using to = open(`${folder}/to`, O_RDWR | O_CREAT);
    assertEquals(await from.readText(9), "skipped, ");
    await to.write("before ");
    using running = bounded(start(["3", "4"], { 3: from, 4: to }));
    await well(running);
    await to.write(" after");
    assertEquals(await Deno.readTextFile(`${folder}/to`), "before copied after");
    await ends(from);
  });
});

Deno.test("no flag of a descriptor is changed, but a socket's meanwhile", async () => {
  for (const nonBlocking of [false, true]) {
    const [reading, writing] = pipe();
    const [back, returning] = pipe();
    const [tcp, peer] = tcpPair();
    const [unix, far] = unixPair();
    const [master, slave] = terminal();
    const given = { 3: reading, 4: returning, 5: tcp, 6: unix, 7: slave };
    for (const end of Object.values(given)) end.nonBlocking = nonBlocking;
    const before = Object.values(given).map((end) => end.flags);
    using running = bounded(start("3 5 5 4 6 7 7 6".split(" "), given));
    await passes(writing, peer);
    await passes(peer, back);
    await passes(far, master);
    await master.write("typed\n");
    await far.readText(6);
    for (const [fd, end] of Object.entries(given)) {
      if (fd === "5" || fd === "6") continue;
      assertEquals(end.flags & O_NONBLOCK, nonBlocking ? O_NONBLOCK : 0, `of ${fd}, meanwhile`);
    }
    writing.close();
    peer.shutdownWrite();
    far.shutdownWrite();
    await master.write("\x04");
    await running.outcome;
    assertEquals(Object.values(given).map((end) => end.flags), before, "afterwards");
    for (const end of [back, peer, far, master, ...Object.values(given)]) end.close();
  }
});

// ---- Half-close.

Deno.test("0 6 6 1: a socket on one number works both ways, and either side may end first", async (t) => {
  for (const [kind, make] of Object.entries(SOCKETS)) {
    for (const first of ["standard input", "the peer"]) {
      await t.step(`a ${kind} socket, ${first} ends first`, async () => {
        const [reading, writing] = pipe();
        const [out, into] = pipe();
        const [socket, peer] = make();
        using running = iocopy("0 6 6 1", { 0: reading, 1: into, 6: socket });
        await passes(writing, peer);
        await passes(peer, out);
        if (first === "the peer") {
          peer.shutdownWrite();
          await ends(out);
          await passes(writing, peer);
          writing.close();
          await ends(peer);
        } else {
          writing.close();
          await ends(peer);
          await passes(peer, out);
          peer.shutdownWrite();
          await ends(out);
        }
        await well(running);
        for (const end of [peer, out]) end.close();
      });
    }
  }
});

Deno.test("0 7 6 1: under tcpserver and tcpclient each pair of numbers is one socket", async (t) => {
  for (const [kind, make] of Object.entries(SOCKETS)) {
    for (const first of [0, 1]) {
      await t.step(`${kind} sockets, side ${first} ends first`, async () => {
        const [server, local] = make();
        const [client, remote] = make();
        using running = iocopy("0 7 6 1", {
          0: server,
          1: server.duplicate(),
          6: client,
          7: client.duplicate(),
        });
        const [one, other] = first ? [local, remote] : [remote, local];
        await passes(one, other);
        await passes(other, one);
        one.shutdownWrite();
        await ends(other);
        await passes(other, one);
        other.shutdownWrite();
        await ends(one);
        await well(running);
        one.close();
        other.close();
      });
    }
  }
});

Deno.test("several channels into one wfd: it is shut down when the last has ended", async (t) => {
  for (const [kind, make] of Object.entries({ pipe, ...SOCKETS })) {
    await t.step(`a ${kind}`, async () => {
      const sources = [pipe(), unixPair(), pipe()];
      const [peer, into] = make();
      const [[a, first], [b, second], [c, third]] = sources as [[End, End], [End, End], [End, End]];
      const { running, log } = watched("v 3 7 4 7 5 7", { 3: a, 4: b, 5: c, 7: into });
      using _ = running;
      for (const end of [first, second, third]) await passes(end, peer);
      first.close();
      await log.until("iocopy: 3 > 0");
      await passes(third, peer);
      third.close();
      await log.until("iocopy: 5 > 0");
      await passes(second, peer);
      second.close();
      await ends(peer);
      peer.close();
      assertEquals((await running.outcome).code, 0);
      await log.all();
    });
  }
});

Deno.test("5 7 6 8, two numbers of one socket: shut down when the last of them has ended", async (t) => {
  for (const [kind, make] of Object.entries(SOCKETS)) {
    await t.step(`a ${kind} socket`, async () => {
      const [a, first] = pipe();
      const [b, second] = pipe();
      const [peer, into] = make();
      const given = { 5: a, 6: b, 7: into, 8: into.duplicate() };
      const { running, log } = watched("v 5 7 6 8", given);
      using _ = running;
      await passes(first, peer);
      first.close();
      await log.until("iocopy: 5 > 0");
      await passes(second, peer);
      second.close();
      await ends(peer);
      peer.close();
      assertEquals((await running.outcome).code, 0);
      await log.all();
    });
  }
});

Deno.test("one rfd in several channels: each byte goes to one of them, and the end to all", async (t) => {
  for (const kind of ["pipe", "unix", "terminal"]) {
    await t.step(`a ${kind}`, async () => {
      const [given, feed] = kind === "pipe"
        ? pipe()
        : kind === "unix"
        ? unixPair()
        : terminal().reverse() as [End, End];
      const [one, first] = pipe();
      const [other, second] = pipe();
      using running = iocopy("3 4 3 5", { 3: given, 4: first, 5: second });
      await feed.write("hello\n");
      if (kind === "terminal") await feed.write("\x04\x04");
      else feed.close();
      const all = await Promise.all([one.readAll(), other.readAll()]);
      assertEquals(all.map((bytes) => new TextDecoder().decode(bytes)).join(""), "hello\n");
      for (const end of [feed, one, other]) end.close();
      await well(running);
    });
  }
});

Deno.test("0, 1 and 2 are really let go while other channels run", async (t) => {
  await t.step("1 is a pipe: its reader sees the end", async () => {
    const [reading, writing] = pipe();
    const [out, into] = pipe();
    const [other, far] = unixPair();
    const [back, returning] = pipe();
    using running = iocopy("0 1 3 4", { 0: reading, 1: into, 3: other, 4: returning });
    await passes(writing, out);
    writing.close();
    await ends(out);
    await passes(far, back);
    far.close();
    await well(running);
    for (const end of [out, back]) end.close();
  });

  await t.step("2 is a pipe: its reader sees the end", async () => {
    const [reading, writing] = pipe();
    const [out, into] = pipe();
    const [other, far] = unixPair();
    const [back, returning] = pipe();
    using running = iocopy("0 2 3 4", { 0: reading, 2: into, 3: other, 4: returning });
    await passes(writing, out);
    writing.close();
    await ends(out);
    await passes(far, back);
    far.close();
    assertEquals((await running.outcome).code, 0);
    for (const end of [out, back]) end.close();
  });

  await t.step("0 is a pipe: its writer learns that nobody reads", async () => {
    const [reading, writing] = pipe();
    const [out, into] = pipe();
    const [other, far] = unixPair();
    const [back, returning] = pipe();
    const { running, log } = watched("0 1 3 4", { 0: reading, 1: into, 3: other, 4: returning });
    using _ = running;
    await passes(writing, out);
    out.close();
    await log.until("iocopy: write 1: Broken pipe");
    await assertRejects(() => writing.write("more"), Error, "write failed");
    await passes(far, back);
    far.close();
    assertEquals((await running.outcome).code, 111);
    await log.all();
    for (const end of [writing, back]) end.close();
  });

  await t.step("1 and 4 are one pipe: closing 1 leaves the other its own", async () => {
    const [reading, writing] = pipe();
    const [out, into] = pipe();
    const [other, far] = unixPair();
    const given = { 0: reading, 1: into, 3: other, 4: into.duplicate() };
    const { running, log } = watched("v 0 1 3 4", given);
    using _ = running;
    await passes(writing, out);
    writing.close();
    await log.until("iocopy: 0 > 0");
    await passes(far, out);
    far.close();
    await ends(out);
    out.close();
    assertEquals((await running.outcome).code, 0);
    await log.all();
  });
});

// ---- Errors.

Deno.test("an error ends its own channel only: upstream learns of it, others deliver", async (t) => {
  const upstreams = { pipe, ...SOCKETS };
  for (const [kind, make] of Object.entries(upstreams)) {
    for (const [downKind, makeDown] of Object.entries(upstreams)) {
      await t.step(`${kind} to ${downKind}`, async () => {
        const [source, upstream] = make();
        const [downstream, sink] = makeDown();
        const [other, far] = unixPair();
        const [back, returning] = pipe();
        const { running, log } = watched("3 4 5 6", { 3: source, 4: sink, 5: other, 6: returning });
        using _ = running;
        await passes(upstream, downstream);
        if (downKind === "TCP") downstream.resetOnClose();
        downstream.close();
        // It may see the hang-up on its own; what is sent into it makes sure that it does.
        await assertRejects(
          async () => {
            for (;;) await upstream.write("more");
          },
          Error,
          "write failed",
        );
        await passes(far, back);
        far.close();
        await ends(back);
        back.close();
        upstream.close();
        const { code } = await running.outcome;
        const lines = await log.all();
        if (lines.length === 0) {
          assertEquals([downKind, code], ["unix", 0], "only a unix socket says that its peer left");
        } else {
          assertEquals([lines.length, code], [1, 111], lines.join("; "));
          assertMatch(lines[0] ?? "", /^iocopy: write 4: (Broken pipe|Connection reset by peer)$/);
        }
      });
    }
  }
});

Deno.test("a writer that waits for nothing learns at once that its reader has gone", async (t) => {
  const all: [kind: string, make: () => [End, End], code: number, says: string][] = [
    ["pipe", pipe, 111, "iocopy: write 4: Broken pipe\n"],
    ["TCP socket", tcpPair, 111, "iocopy: write 4: Connection reset by peer\n"],
    ["unix socket", unixPair, 0, ""], // it says that its peer left, and nothing is lost
    ["terminal", terminal, 111, "iocopy: write 4: Input/output error\n"],
  ];
  for (const [kind, make, code, stderr] of all) {
    await t.step(`a ${kind}`, async () => {
      const [source, upstream] = unixPair();
      const [downstream, sink] = make();
      using running = iocopy("3 4", { 3: source, 4: sink });
      await passes(upstream, downstream);
      if (kind === "TCP socket") downstream.resetOnClose();
      downstream.close();
      assertEquals(await running.outcome, { code, signal: null, stderr });
      await ends(upstream);
      upstream.close();
    });
  }
});

Deno.test("a reader of a terminal that waits in vain does not keep what is over", async () => {
  const [typed, typing] = terminal().reverse() as [End, End];
  const [one, first] = pipe();
  const [other, second] = pipe();
  const { running, log } = watched("v 3 4 3 5", { 3: typed, 4: first, 5: second });
  using _ = running;
  // Both wake up for this line, one gets it, and the other waits in its read.
  await typing.write("hello\n");
  await log.until("iocopy: 3 > 6");
  one.close();
  other.close();
  assertEquals((await running.outcome).code, 111);
  await log.until("iocopy: write 4: Broken pipe");
  await log.until("iocopy: write 5: Broken pipe");
  await log.all();
  typing.close();
});

Deno.test("five hundred pairs are no more trouble than one", async () => {
  const MANY = 500;
  const channels = Array.from({ length: MANY }, () => [...unixPair(), ...pipe()] as const);
  const given = channels.flatMap(([source, , , sink]) => [source, sink]);
  const args = given.map((_, i) => String(i + 3)).join(" ");
  using running = iocopy(args, Object.fromEntries(given.map((end, i) => [i + 3, end])));
  for (const [i, [, upstream]] of channels.entries()) {
    await upstream.write(`channel ${i}`);
    upstream.close();
  }
  for (const [i, [, , downstream]] of channels.entries()) {
    assertEquals(new TextDecoder().decode(await downstream.readAll()), `channel ${i}`);
    downstream.close();
  }
  await well(running);
});
