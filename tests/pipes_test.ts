/** How pipes grow: inherited ones, and those of the process. */
import { assert, assertEquals, assertThrows } from "@std/assert";
import { BufferPool, PipeBudget } from "../engine/pool.ts";
import { Coalescing } from "../engine/pacing.ts";
import { Loop } from "../engine/loop.ts";
import { EPERM } from "../sys/constants.ts";
import { SystemError } from "../sys/error.ts";
import { Pipe } from "../sys/pipe.ts";
import { retrying } from "./connections.ts";
import { type End, pipe, tcpPair } from "./ends.ts";
import { COMMAND, start } from "./harness.ts";
import { said } from "./library.ts";
import { fillUp, inFolder, iocopy, outputOf, stateOf, watched, within } from "./probe.ts";
import { needing } from "./programs.ts";
import { catches, pause } from "./watching.ts";

const SIGTERM = 15;

/** The capacity of a new pipe, and of a busy one in the end. */
const SYSTEMS = 65536, LARGE = 1048576;

/** What `--stats=json` says of the pipes of a channel. */
interface PipeSizes {
  read: number | null;
  own: number | null;
  write: number | null;
}

/** Copies so much between two pipes made by a shell; returns what iocopy reports of them. */
async function pipesOf(options: string, bytes: string): Promise<PipeSizes> {
  const script = `head -c ${bytes} /dev/zero | "$@" --stats=json 0 1 | cat >/dev/null`;
  const words = [...COMMAND, ...options.split(" ").filter(Boolean)];
  const { stderr } = await outputOf(["sh", "-c", script, "sh", ...words]);
  const [channel = ""] = stderr.split("\n");
  return JSON.parse(channel).pipes;
}

/** Repeats `copy` until this gives what is expected: on a busy machine no channel may be a busy one. */
async function comesTo<T>(expected: T, copy: () => Promise<T>): Promise<void> {
  await retrying(async () => assertEquals(await copy(), expected));
}

Deno.test("busy pipes grow", async () => {
  await comesTo({ read: LARGE, own: null, write: LARGE }, () => pipesOf("", "64M"));
});

Deno.test("no pipe grows beyond --buffer", async () => {
  const most = Math.min(LARGE, 131072);
  await comesTo({ read: most, own: null, write: most }, () => pipesOf("-b 128k", "64M"));
  assertEquals(await pipesOf("-b 64k", "64M"), { read: SYSTEMS, own: null, write: SYSTEMS });
});

/** Copies 128 MiB from TCP to a pipe; returns what iocopy reports of the pipes. */
async function pipesFromTcp(): Promise<PipeSizes> {
  const [peer, source] = tcpPair();
  const [stdout, output] = pipe();
  using running = iocopy("--stats=json 3 1", { 3: source, 1: output });
  const bytes = 128 << 20;
  const sent = peer.write(new Uint8Array(bytes)).then(() => peer.close());
  let arrived = 0;
  while (arrived < bytes) arrived += (await within("bytes", stdout.read(LARGE))).length;
  await sent;
  stdout.close();
  const { stderr } = await running.outcome;
  return JSON.parse(stderr.split("\n")[0] ?? "").pipes;
}

Deno.test("a busy pipe that takes more than its size at a time stays as it is", async () => {
  // From TCP a slot of a pipe, which counts as 4 KiB, gets up to 32 KiB.
  let pipes: PipeSizes | undefined;
  await comesTo(LARGE, async () => (pipes = await pipesFromTcp()).own);
  assertEquals(pipes, { read: null, own: LARGE, write: SYSTEMS });
});

Deno.test("pipes of a channel that carries little stay as they are", async () => {
  const [input, stdin] = pipe();
  const [stdout, output] = pipe();
  using running = iocopy("0 1", { 0: input, 1: output });
  for (let i = 0; i < 300; i++) {
    await stdin.write("a line");
    assertEquals(await within("a line", stdout.readText(6)), "a line");
  }
  assertEquals([stdin.pipeSize, stdout.pipeSize], [SYSTEMS, SYSTEMS]);
  stdin.close();
  assertEquals((await running.outcome).code, 0);
  stdout.close();
});

Deno.test("processes that read one pipe go on splicing, although others are often quicker", async () => {
  const [input, output] = pipe();
  const readers = Array.from({ length: 4 }, () => watched("--stats=json 0 1", { 0: input }));
  input.close();
  for (const { pid } of readers) await within("a start", catches(pid, SIGTERM));
  for (let i = 0; i < 5000; i++) await output.write("x");
  output.close();
  const outcomes = await Promise.all(readers.map(({ outcome }) => outcome));
  const channels = outcomes.map(({ stderr }) => JSON.parse(stderr.split("\n")[0] ?? ""));
  assertEquals(channels.map(({ route }) => route), Array(4).fill("splice"));
  assertEquals(channels.reduce((sum, { bytes }) => sum + bytes, 0), 5000);
});

/** Copies so many bytes between two TCP connections; returns what iocopy reports of its own pipe. */
async function ownPipeOf(bytes: number, ...options: string[]): Promise<number> {
  const [peer, source] = tcpPair();
  const [out, sink] = tcpPair();
  using running = iocopy(["--stats=json", ...options, "3 4"].join(" "), { 3: source, 4: sink });
  const arrived = countBytes(out);
  await peer.write(new Uint8Array(bytes));
  peer.close();
  assertEquals(await within("the bytes", arrived), bytes);
  out.close();
  const { stderr } = await running.outcome;
  return JSON.parse(stderr.split("\n")[0] ?? "").pipes.own;
}

async function countBytes(end: End): Promise<number> {
  return (await end.readAll()).length;
}

Deno.test("a pipe of the process begins with 64 KiB, and grows with its traffic", async () => {
  assertEquals(await ownPipeOf(1000), SYSTEMS);
  await comesTo(LARGE, () => ownPipeOf(64 << 20));
  assertEquals(await ownPipeOf(1000, "-b 4096"), 4096);
});

Deno.test("a busy channel gets a large pipe, whichever pipe of the process it is given", {
  sanitizeResources: false, // sys/ never unloads the C library
}, () => {
  const loop = new Loop(5), pool = new BufferPool(LARGE, loop, new PipeBudget(LARGE));
  const two = (isBusy: boolean) => [pool.takePipe(isBusy), pool.takePipe(isBusy)];
  const [one, other] = two(false);
  assertEquals([one?.capacity, other?.capacity], [SYSTEMS, SYSTEMS]);
  for (const pipe of [one, other]) if (pipe) pool.givePipe(pipe);
  const large = two(true);
  assertEquals(large.map((pipe) => pipe?.capacity), [LARGE, LARGE]);
  for (const pipe of large) pipe?.close();
  pool.close();
  loop.close();
});

Deno.test("a small pipe that has grown gives back what it took of the budget", {
  sanitizeResources: false, // sys/ never unloads the C library
}, () => {
  const budget = new PipeBudget(LARGE), loop = new Loop(5);
  const pool = new BufferPool(LARGE, loop, budget);
  const full = Array.from({ length: 64 }, () => pool.takePipe());
  for (let i = 0; i < 200; i++) {
    const small = pool.takePipe(true);
    assertEquals(small?.capacity, LARGE);
    if (small) small.held = 1; // so it is closed when it is given back
    if (small) pool.givePipe(small);
  }
  for (const pipe of full) pipe?.close();
  loop.close();
});

Deno.test("a pipe of the process that cannot be read is an error, not tried for ever", {
  sanitizeResources: false, // sys/ never unloads the C library
}, () => {
  const pipe = Pipe.open(SYSTEMS);
  if (!pipe) throw new Error("no pipe");
  pipe.held = 1;
  pipe.close();
  assertThrows(() => pipe.takeOut(), SystemError, "Bad file descriptor");
});

// ---- A writer that waits while its pipe grows, on any kernel (CVE-2023-52672).

/** How often a process has slept so far. */
function sleeps(pid: number): number {
  const status = Deno.readTextFileSync(`/proc/${pid}/status`);
  return Number(/^voluntary_ctxt_switches:\s+(\d+)/m.exec(status)?.[1]);
}

Deno.test("setting the capacity of a pipe again wakes a writer that waits", async () => {
  const [reading, writing] = pipe();
  fillUp(writing);
  using writer = start([], { 1: writing }, { command: ["head", "-c", "1", "/dev/zero"] });
  const sleepsAgain = async (before: number) => {
    while (sleeps(writer.pid) <= before || stateOf(writer.pid) !== "S") await pause();
  };
  await within("head to be stuck", sleepsAgain(0));
  for (let i = 0; i < 3; i++) {
    const before = sleeps(writer.pid);
    writing.pipeSize = SYSTEMS;
    await within("head to be woken, and stuck again", sleepsAgain(before));
  }
  reading.close();
  writing.close();
  await writer.outcome;
});

Deno.test(needing(["strace"], "so each inherited pipe is enlarged twice"), async () => {
  await inFolder(async (folder) => {
    const traced = `strace -f -e trace=fcntl,pipe2,close -o ${folder}/trace "$@" 0 1`;
    const script = `head -c 64M /dev/zero | ${traced} | cat >/dev/null`;
    const trace = await retrying(async () => {
      await outputOf(["sh", "-c", script, "sh", ...COMMAND]);
      const text = await Deno.readTextFile(`${folder}/trace`);
      assert(text.includes("F_SETPIPE_SZ, 1048576"), "it was never busy");
      return text;
    });
    const grown = [...trace.matchAll(/fcntl\((\d+), F_SETPIPE_SZ, 1048576\) += (\d+)/g)];
    const ofOthers = grown.map(([, fd, size]) => [Number(fd), Number(size)])
      .filter(([fd]) => fd === 0 || fd === 1);
    assertEquals(ofOthers, [[1, LARGE], [1, LARGE], [0, LARGE], [0, LARGE]]);

    // Before, 18 MiB are taken once for both, and given back in the next calls.
    const [thread] = /^\d+ /m.exec(trace.slice(trace.search(/.*F_SETPIPE_SZ/))) ?? [""];
    const calls = trace.split("\n").filter((line) => line.startsWith(thread));
    const isTaken = (line: string) => line.includes("F_SETPIPE_SZ, 1048576");
    const first = calls.findIndex(isTaken);
    const expected = [...Array(18).fill("1048576"), ...Array(18).fill("4096")];
    const sizes = calls.slice(first, first + 36)
      .map((line) => / F_SETPIPE_SZ, (\d+)\) += \1$/.exec(line)?.[1]);
    assertEquals(sizes, expected);
    assertEquals(calls.filter(isTaken).length, 18 + 4);
  });
});

Deno.test("after a refusal no pipe tries to grow for a minute, then for two, and so on", () => {
  const { now } = performance, minutes: number[] = [];
  let time = 0;
  const pipe = {
    capacity: SYSTEMS,
    resize() {
      minutes.push(time / 60_000);
      return -EPERM;
    },
  };
  const budget = new PipeBudget(LARGE);
  performance.now = () => time;
  try {
    for (; time < 20 * 60_000; time += 1000) budget.grow(pipe);
  } finally {
    performance.now = now;
  }
  assertEquals(minutes, [0, 1, 3, 7, 15]);
});

// ---- Rests of a busy channel.

Deno.test("a busy channel rests after small reads, and only while that makes them larger", () => {
  const coalescing = new Coalescing();
  const observe = (bytes: number, windows = 1, pipeBytes = LARGE) => {
    for (let i = 0; i < windows; i++) coalescing.observe(bytes, pipeBytes);
    return [coalescing.restsAfter(4096), coalescing.restsAfter(65536)];
  };
  assertEquals(observe(8192, 1, SYSTEMS), [false, false], "a small pipe is full too soon");
  assertEquals(observe(8192), [true, false], "once it has grown");
  assertEquals(observe(12288), [true, false], "half as large again is enough");
  assertEquals(observe(12287), [false, false], "the rests gain too little");
  assertEquals(observe(8192, 61), [false, false], "that stands for some time");
  assertEquals(observe(8192), [true, false], "and is tried again");
  assertEquals(observe(100_000, 63), [true, false]);
  assertEquals(observe(100_000), [false, false], "without rests it is measured anew");
  assertEquals(observe(100_000, 65), [false, false], "large reads need none");
  assertEquals(observe(8192, 64), [true, false]);
  coalescing.stop();
  assertEquals(coalescing.restsAfter(4096), false);
});

Deno.test(
  needing(["strace"], "a writer that waits for an answer is not slowed by rests"),
  async () => {
    await inFolder(async (folder) => {
      const trace = `${folder}/trace`, message = new Uint8Array(8192);
      // So many trips that the rests are tried once, and then no more.
      const TRIPS = 64 * 16;
      let rests = 0;
      const busy = async () => {
        while (rests < 64) { // the channel was not quick enough to be busy, or only at its end
          const [input, stdin] = pipe();
          const [stdout, output] = pipe();
          const command = ["strace", "-f", "-o", trace, "-e", "trace=clock_nanosleep", ...COMMAND];
          using running = iocopy("0 1", { 0: input, 1: output }, { command });
          for (let i = 0; i < TRIPS; i++) {
            await stdin.write(message);
            assertEquals((await stdout.readExactly(message.length)).length, message.length);
          }
          stdin.close();
          assertEquals((await running.outcome).code, 0);
          stdout.close();
          rests = (await Deno.readTextFile(trace)).match(/nanosleep\(.*tv_nsec=50000\}/g)?.length ??
            0;
        }
      };
      await within("a busy channel", busy());
      assertEquals(rests, 64);
    });
  },
);

// ---- Other programs of the same user. Root has no limit, so the test becomes an unused user.

/**
 * Uses the user's limit of pipes except for so many bytes, and tries to enlarge a pipe.
 * Returns whether that worked, and the capacity of a new pipe afterwards.
 */
const GROWS = (left: number) => `
  import { PipeBudget } from "./engine/pool.ts";
  import { Pipe } from "./sys/pipe.ts";
  const { setresuid } = Deno.dlopen("libc.so.6", {
    setresuid: { parameters: ["u32", "u32", "u32"], result: "i32" },
  }).symbols;
  const user = 1_000_000 + Deno.pid;
  if (setresuid(user, user, user) < 0) throw new Error("setresuid");
  const MIB = 1024 * 1024, taken = [];
  for (;;) {
    const pipe = Pipe.open(MIB);
    taken.push(pipe);
    if (pipe.capacity < MIB) break;
  }
  for (let free = -MIB; free < ${left}; free += MIB) taken.pop().close();
  const budget = new PipeBudget(MIB), pipe = Pipe.open(65536);
  budget.grow(pipe);
  // As many as have to be left to others.
  const others = Array.from({ length: 250 }, () => Pipe.open(65536));
  console.error(JSON.stringify([pipe.grown, Math.min(...others.map(({ capacity }) => capacity))]));
`;

async function grows(left: number): Promise<unknown> {
  const command = [Deno.execPath(), "eval", "--ext=ts"];
  const [result] = await said(start([GROWS(left)], {}, { command }));
  return result;
}

const isRoot = Deno.uid() === 0;

Deno.test({
  name: "a pipe grows only where 16 MiB of pipes are left to other programs of the user" +
    (isRoot ? "" : " SKIPPED: it needs root"),
  ignore: !isRoot,
  async fn() {
    const MIB = 1024 * 1024;
    assertEquals(await grows(18 * MIB), [LARGE - SYSTEMS, SYSTEMS]);
    assertEquals(await grows(16 * MIB), [0, SYSTEMS]);
  },
});

Deno.test("all pipes of a process together grow by 8 MiB, and a closed pipe gives its part back", {
  sanitizeResources: false, // sys/ never unloads the C library
}, () => {
  const budget = new PipeBudget(LARGE);
  const pipes = Array.from({ length: 21 }, () => Pipe.open(SYSTEMS)).filter((one) => !!one);
  const growth = () => pipes.map(({ grown }) => grown);
  budget.grow(...pipes);
  assertEquals(growth()[0], LARGE - SYSTEMS);
  assertEquals(growth().reduce((sum, bytes) => sum + bytes), 8 << 20);
  assertEquals(growth().at(-1), 0);
  budget.giveBack(SYSTEMS);
  budget.grow(...pipes);
  assertEquals(growth().reduce((sum, bytes) => sum + bytes), (8 << 20) + SYSTEMS);
  for (const one of pipes) one.close();
});
