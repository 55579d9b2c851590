/**
 * What a channel costs that is added while others run: the time to add it, to move a
 * byte, and to end it; its memory while it is open; and what is left of all of them.
 * In one process, between sockets:
 *
 *     deno task bench:channels 1000000
 *
 * By default with 100000 channels; `--json` prints the figures as JSON.
 *
 * @module
 */
import { cpuUsage } from "node:process";
import { Copier } from "../engine.ts";
import { reading, unknown } from "./command.ts";

/** How many channels are open when their memory is measured. */
const OPEN = 200;

/**
 * Memory is measured after this part of the channels, when V8's young generation has
 * grown to its final size, and again at the end.
 */
const WARM = 0.25;

const { symbols: libc } = Deno.dlopen("libc.so.6", {
  close: { parameters: ["i32"], result: "i32" },
  pipe: { parameters: ["buffer"], result: "i32" },
  shutdown: { parameters: ["i32", "i32"], result: "i32" },
  socketpair: { parameters: ["i32", "i32", "i32", "buffer"], result: "i32" },
  write: { parameters: ["i32", "buffer", "usize"], result: "i32" },
});

const ends = new Int32Array(2), byte = new Uint8Array(1);

/** Two connected unix sockets that are not close-on-exec, as if they were inherited. */
function socketPair(): [number, number] {
  const AF_UNIX = 1, SOCK_STREAM = 1;
  if (libc.socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0) throw new Error("socketpair failed");
  return [ends[0] ?? -1, ends[1] ?? -1];
}

/** The number of descriptors; the heap after a garbage collection and the private memory, in bytes. */
function state(): { descriptors: number; heap: number; memory: number } {
  (globalThis as { gc?: () => void }).gc?.();
  const rollup = Deno.readTextFileSync("/proc/self/smaps_rollup");
  return {
    descriptors: [...Deno.readDirSync("/proc/self/fd")].length,
    heap: Deno.memoryUsage().heapUsed,
    memory: Number(/^Pss_Anon: +(\d+)/m.exec(rollup)?.[1]) * 1024,
  };
}

/** A connection to copy: a byte in each direction, and then the end of file. */
function connection(): { pairs: [number, number][]; far: number[] } {
  const [one, oneFar] = socketPair(), [other, otherFar] = socketPair();
  return { pairs: [[one, other], [other, one]], far: [oneFar, otherFar] };
}

function send(fd: number): void {
  libc.write(fd, byte, 1n);
  libc.shutdown(fd, 1);
}

/** The results of a run. */
export interface Figures {
  channels: number;
  /** Channels that did not copy their byte or did not end. */
  wrong: number;
  /** Time, and CPU, for each channel; and the part of the CPU that the benchmark needs for the sockets. */
  microseconds: number;
  cpu: number;
  ofThisOurs: number;
  /** Heap for each open channel. */
  heapOfOne: number;
  /** The increase since the first quarter. */
  heapLeft: number;
  memoryLeft: number;
  descriptorsLeft: number;
}

/** Adds so many channels, two at a time, each after the ones before have ended. */
export async function run(channels: number): Promise<Figures> {
  libc.pipe(ends);
  const [reading = -1, writing = -1] = ends;
  libc.pipe(ends);
  const [unread = -1, kept = -1] = ends;
  const warmed = 2 * Math.round(channels * WARM / 2);
  let rest = channels, wrong = 0, far: number[] = [];
  let added: ReturnType<Copier["add"]> = [];
  let warm = state(), left = warm, warmAt = 0, seconds = 0, warmCpu = 0, cpu = 0;
  const copier = new Copier([[reading, kept]], { // an idle channel keeps it running
    onWait: () => {
      if (added.some(({ ended }) => !ended)) return;
      wrong += added.filter(({ bytes, ended }) => bytes !== 1 || ended !== "eof").length;
      for (const fd of far) libc.close(fd);
      [added, far] = [[], []];
      if (rest === channels - warmed) {
        [warm, warmAt, warmCpu] = [state(), performance.now(), cpuTime()];
      }
      if (rest === 0) {
        seconds = (performance.now() - warmAt) / 1000;
        cpu = cpuTime() - warmCpu;
        left = state();
        libc.close(writing);
        rest = -1;
      }
      if (rest < 0) return;
      const next = connection();
      added = copier.add(next.pairs);
      far = next.far;
      far.forEach(send);
      rest -= 2;
    },
  });
  await copier.run();
  libc.close(unread);
  return {
    channels,
    wrong,
    microseconds: seconds * 1e6 / (channels - warmed),
    cpu: cpu / (channels - warmed),
    ofThisOurs: ours(),
    ...await open(),
    heapLeft: left.heap - warm.heap,
    memoryLeft: left.memory - warm.memory,
    descriptorsLeft: left.descriptors - warm.descriptors,
  };
}

/** What the process has used so far, in microseconds. */
function cpuTime(): number {
  const { user, system } = cpuUsage();
  return user + system;
}

/** The CPU to make, use and close the sockets of a channel without copying, in microseconds. */
function ours(): number {
  const times = 5000;
  const start = cpuTime();
  for (let i = 0; i < times; i++) {
    const { pairs, far } = connection();
    far.forEach(send);
    for (const fd of [...far, ...pairs.map(([fd]) => fd)]) libc.close(fd);
  }
  return (cpuTime() - start) / (2 * times);
}

/** The memory of an open channel that has copied a byte. */
async function open(): Promise<{ heapOfOne: number }> {
  const connections = Array.from({ length: OPEN / 2 }, connection);
  for (const fd of connections.flatMap(({ far }) => far)) libc.write(fd, byte, 1n);
  const before = state();
  let now = before;
  const copier = new Copier(connections.flatMap(({ pairs }) => pairs), {
    onWait: () => {
      if (now !== before || copier.channels.some(({ bytes }) => bytes < 1)) return;
      now = state();
      for (const fd of connections.flatMap(({ far }) => far)) libc.close(fd);
    },
  });
  await copier.run();
  return { heapOfOne: (now.heap - before.heap) / OPEN };
}

if (import.meta.main) {
  const words = Deno.args.filter((arg) => arg !== "--json");
  const channels = reading("bench:channels", () => {
    const wrong = words.find((word, at) => at > 0 || !/^[1-9]\d{0,8}$/.test(word));
    return wrong === undefined ? Number(words[0] ?? 100_000) : unknown(wrong);
  });
  const figures = await run(channels);
  if (words.length < Deno.args.length) console.log(JSON.stringify(figures));
  else {
    const { channels, wrong, microseconds, cpu, ofThisOurs } = figures;
    const bytes = (length: number) => `${Math.round(length).toLocaleString("en")} bytes`;
    const us = (time: number) => `${time.toFixed(1)} us`;
    console.log(
      `${channels.toLocaleString("en")} channels added, a byte through each, ended; ${wrong} wrong`,
    );
    console.log(
      `one: ${us(microseconds)}, ${us(cpu)} of CPU, of which making and closing its sockets ` +
        `takes ${us(ofThisOurs)}`,
    );
    console.log(`one that is open: ${bytes(figures.heapOfOne)} of the heap`);
    console.log(
      `left of all: ${bytes(figures.heapLeft)} of the heap, ${bytes(figures.memoryLeft)} of ` +
        `private memory, ${figures.descriptorsLeft} descriptors`,
    );
  }
}
