/**
 * The long tests, which take hours and gigabytes. Each part prints its figures, and
 * the first failure ends the run.
 *
 *     deno task soak                                   everything
 *     deno task soak bytes --gigabytes=10              one part, a twentieth of it
 *     deno task soak starts graphs --starts=500 --seconds=60
 *
 * IOCOPY=./iocopy tests the executable.
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";
import { assert, assertEquals } from "@std/assert";
import {
  type End,
  O_APPEND,
  O_WRONLY,
  open,
  pipe,
  reversedPipe,
  serving,
  tcpPair,
  unixPair,
} from "./ends.ts";
import { count, reading, WrongUse } from "../bench/command.ts";
import { testArm64 } from "./arm64.ts";
import { BINARY, COMMAND, handOver, ROOT, type Running } from "./harness.ts";
import { descriptors, inFolder, inParallel, noise, residentBytes, same } from "./probe.ts";
import { freePort } from "./programs.ts";
import { pause } from "./watching.ts";

const GIGA = 1e9;

/** The parts, by name. */
const PARTS: Record<string, () => Promise<void>> = {
  bytes: () => bytes(much.gigabytes),
  channels: () => channels(much.channels),
  starts: () => starts(much.starts),
  connections: () => connections(much.connections),
  arguments: () => test("input_test.ts", { STARTS: String(much.starts) }),
  arm64: testArm64,
  graphs: () => test("graph_test.ts", { SECONDS: String(much.seconds) }),
  simulation: () => test("simulation_test.ts", { SECONDS: String(much.seconds) }),
};

const { names, much } = reading("soak", () => {
  const options = parseArgs(Deno.args, {
    string: ["gigabytes", "channels", "starts", "seconds", "connections"],
    unknown: (word: string) => {
      if (!Object.hasOwn(PARTS, word)) {
        throw new WrongUse(`${word} is not known; the parts are ${Object.keys(PARTS).join(" ")}`);
      }
    },
  });
  return {
    names: options._.map(String),
    much: {
      gigabytes: count("gigabytes", options.gigabytes, 200),
      channels: count("channels", options.channels, 2000),
      starts: count("starts", options.starts, 10_000),
      seconds: count("seconds", options.seconds, 3600),
      connections: count("connections", options.connections, 1_000_000),
    },
  };
});

// ---- Many bytes: memory does not grow, and no descriptor is left open.

/** The paths that bytes can take, each with two pairs of ends: [the test's, the command's]. */
const PATHS: Record<string, { source(): [End, End]; sink(): [End, End] | End }> = {
  "pipe to pipe": { source: reversedPipe, sink: pipe },
  "pipe to TCP": { source: reversedPipe, sink: tcpPair },
  "TCP to pipe": { source: tcpPair, sink: pipe },
  "TCP to TCP": { source: tcpPair, sink: tcpPair },
  "unix to unix": { source: unixPair, sink: unixPair },
  "through memory": { source: unixPair, sink: () => open("/dev/null", O_WRONLY | O_APPEND) },
};

/** The command; from source V8 tells on standard output of each garbage collection. */
const TRACED = BINARY ? COMMAND : COMMAND.toSpliced(2, 0, "--v8-flags=--trace-gc");

/** So many collections belong to the start and to the end, however many bytes are copied between. */
const COLLECTIONS = 4;

async function bytes(gigabytes: number): Promise<void> {
  const total = Math.round(gigabytes * GIGA);
  for (const [name, path] of Object.entries(PATHS)) {
    const [feeding, input] = path.source();
    const made = path.sink();
    const [eating, output] = Array.isArray(made) ? made : [undefined, made];
    const [counted, counting] = pipe();
    using head = handOver([], { 1: feeding }, {
      command: ["head", "-c", String(total), "/dev/zero"],
    });
    const [traced, tracing] = pipe();
    using copier = handOver([], { 1: tracing, 6: input, 7: output }, {
      command: [...TRACED, "--stats=json", "6", "7"],
    });
    const trace = traced.readAll();
    using count = eating && handOver([], { 0: eating, 1: counting }, { command: ["wc", "-c"] });
    if (!eating) counting.close();
    const began = performance.now();
    const samples = watch(copier);
    const { code, stderr } = await copier.outcome;
    const seconds = (performance.now() - began) / 1000;
    assertEquals(code, 0, stderr);
    assertEquals((await head.outcome).code, 0);
    if (count) assertEquals(Number(new TextDecoder().decode(await counted.readAll())), total);
    counted.close();
    assert(stderr.includes(String(total)), `${total} bytes are not in ${stderr}`);
    const { memory, open } = await samples;
    const collections = new TextDecoder().decode(await trace).match(/Scavenge|Mark-Compact/g);
    traced.close();
    const collected = collections?.length ?? 0;
    // After a tenth of the run it must not grow, except by 8 MB for the garbage collector.
    const steady = memory.slice(Math.ceil(memory.length / 10));
    const half = Math.ceil(steady.length / 2);
    const [first, second] = [Math.max(...steady.slice(0, half)), Math.max(...steady.slice(half))];
    say(
      `${name}: ${total / GIGA} GB in ${seconds.toFixed(1)} s (${
        (total / GIGA / seconds).toFixed(2)
      } GB/s), memory ${mega(first)} MB in the first half, ${mega(second)} in the second, ` +
        `descriptors ${Math.min(...open)} to ${Math.max(...open)}` +
        (BINARY ? "" : `, ${collected} collections`),
    );
    // A step allocates nothing while the bytes stay in the kernel.
    assert(collected <= COLLECTIONS || name === "through memory", "steps allocate memory");
    if (memory.length >= 20) {
      assert(second - first < 8e6, "the memory grows");
      assert(Math.max(...open.slice(5)) <= Math.max(...open.slice(0, 5)) + 4, "descriptors leak");
    }
  }
}

/** Samples the memory and the descriptors of a process, 20 times a second, until it ends. */
async function watch(running: Running): Promise<{ memory: number[]; open: number[] }> {
  const memory: number[] = [], open: number[] = [];
  let ended = false;
  running.outcome.finally(() => ended = true);
  while (!ended) {
    try {
      const resident = residentBytes(running.pid);
      const { size } = descriptors(running.pid);
      if (resident > 0 && size > 0) {
        memory.push(resident);
        open.push(size);
      }
    } catch { /* it has just ended */ }
    await pause(50);
  }
  return { memory, open };
}

// ---- Many channels at once.

async function channels(count: number): Promise<void> {
  const began = performance.now();
  const kinds = [pipe, unixPair, tcpPair];
  const given: Record<number, End> = {};
  const args: string[] = [];
  const ends = Array.from({ length: count }, (_, i) => {
    const [source, sink] = [kinds[i % 3], kinds[Math.floor(i / 3) % 3]];
    const [input, feeding] = source?.() ?? pipe();
    const [eating, output] = sink?.() ?? pipe();
    const [rfd, wfd] = [3 + 2 * i, 4 + 2 * i];
    given[rfd] = input;
    given[wfd] = output;
    args.push(String(rfd), String(wfd));
    return { feeding, eating };
  });
  using running = handOver([], given, { command: [...COMMAND, ...args] });
  // All of them are open, and each of them works, several times.
  for (let round = 0; round < 3; round++) {
    await inParallel(ends, async ({ feeding, eating }, i) => {
      await feeding.write(`channel ${i}`);
      assertEquals(await eating.readText(`channel ${i}`.length), `channel ${i}`);
    }, 12);
  }
  const memory = residentBytes(running.pid);
  let total = 0;
  await inParallel(ends, async ({ feeding, eating }, i) => {
    const content = noise(10_000 + i * 50, i + 1);
    const [arrived] = await Promise.all([
      eating.readAll(),
      feeding.write(content).then(() => feeding.close()),
    ]);
    assert(same(arrived, content), `other bytes in channel ${i}`);
    total += content.length;
    eating.close();
  }, 12);
  assertEquals((await running.outcome).code, 0);
  say(
    `${count} channels at once: ${mega(total)} MB, each byte checked, in ${
      ((performance.now() - began) / 1000).toFixed(1)
    } s, memory ${mega(memory)} MB`,
  );
}

// ---- Many starts and stops.

async function starts(count: number): Promise<void> {
  const began = performance.now();
  const before = descriptors(Deno.pid).size;
  let total = 0;
  await inParallel(Array.from({ length: count }), async (_, i) => {
    const content = noise(1 + (i * 7919) % 100_000, i + 1);
    const [from, source] = i % 2 ? unixPair() : reversedPipe();
    const [to, sink] = i % 3 ? pipe() : tcpPair();
    using running = handOver([], { 6: source, 7: sink }, { command: [...COMMAND, "6", "7"] });
    const written = from.write(content);
    if (i % 4) written.then(() => from.close());
    const arrived = await to.readExactly(content.length);
    await written;
    assert(same(arrived, content), `other bytes at start ${i}`);
    if (i % 4 === 0) running.kill("SIGTERM");
    assertEquals((await to.read()).length, 0);
    assertEquals((await running.outcome).code, i % 4 ? 0 : 143);
    for (const end of [from, to]) end.close();
    total += content.length;
  }, 12);
  assert(descriptors(Deno.pid).size <= before + 10, "descriptors are left in the test itself");
  say(
    `${count} starts and stops, a quarter of them by SIGTERM: ${mega(total)} MB, each byte ` +
      `checked, in ${((performance.now() - began) / 1000).toFixed(1)} s`,
  );
}

// ---- Many connections one after the other: they leave no memory and no descriptor.

async function connections(count: number): Promise<void> {
  await inFolder(async (folder) => {
    const program = `${folder}/connections`;
    const args = ["-O2", "-pthread", "-o", program, `${ROOT}/bench/connections.c`];
    assert(
      new Deno.Command("cc", { args }).outputSync().success,
      "bench/connections.c: no compiler",
    );
    const { listener, port } = serving();
    const target = freePort();
    // V8's space for new objects grows by 16 MB at some time: kept small, what grows besides it shows.
    const env = { ...Deno.env.toObject(), DENO_V8_FLAGS: "--max-semi-space-size=2" };
    using running = handOver(["3", `127.0.0.1:${target}`], { 3: listener }, { env });
    const churn = async (count: number) => {
      const args = ["churn", "-p", port, "-t", target, "-n", count].map(String);
      const { success, stderr } = await new Deno.Command(program, { args }).output();
      assert(success, new TextDecoder().decode(stderr));
      await pause(2000); // spare pipes are closed
      return { memory: residentBytes(running.pid), open: descriptors(running.pid).size };
    };
    const began = performance.now();
    const first = await churn(1000);
    const half = await churn(count / 2), all = await churn(count / 2);
    say(
      `${count} connections in ${((performance.now() - began) / 1000).toFixed(1)} s: memory ` +
        `${mega(first.memory)} MB after the first 1000, ${mega(half.memory)} after half, ` +
        `${mega(all.memory)} after all; descriptors ${first.open}, ${half.open}, ${all.open}`,
    );
    assertEquals(all.open, first.open);
    assert(all.memory - half.memory < 4e6, "the memory grows");
    running.kill("SIGHUP");
    assertEquals((await running.outcome).code, 0);
  });
}

// ---- The random tests, for longer.

async function test(file: string, env: Record<string, string>): Promise<void> {
  const args = ["test", "--allow-all", `${ROOT}/tests/${file}`];
  const { success } = await new Deno.Command(Deno.execPath(), { args, env, cwd: ROOT }).spawn()
    .status;
  assert(success, `${file} failed`);
}

function mega(bytes: number): string {
  return (bytes / 1e6).toFixed(1);
}

function say(text: string): void {
  console.log(text);
}

say(`${BINARY ?? "from source"}, ${new Date().toISOString()}`);
for (const name of names.length ? names : Object.keys(PARTS)) await PARTS[name]?.();
Deno.exit(0);
