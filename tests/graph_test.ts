/**
 * Random graphs of channels through several processes, compared with a model of what
 * must arrive and when the end of file must be seen.
 *
 * A graph has layers of wires (pipes, unix and TCP sockets). The test writes
 * the wires of the first layer and reads those of the last; channels join each
 * layer to the next, many to one and one to many, and belong to any of several
 * processes. Readers stall until others have seen their end of file; one source stays
 * open until everything that does not depend on it has ended; readers die, and
 * processes are killed.
 *
 * SEED repeats a run, SECONDS sets its length.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { type End, pipe, tcpPair, unixPair } from "./ends.ts";
import { type Running, start } from "./harness.ts";
import { within } from "./probe.ts";

const SEED = Number(Deno.env.get("SEED") ?? Math.trunc(Math.random() * 2 ** 31));
const SECONDS = Number(Deno.env.get("SECONDS") ?? 20);

type Kind = "pipe" | "unix" | "tcp";

/** A graph, as numbers of which all values are valid: each is taken modulo what there is. */
interface Plan {
  sources: { kind: Kind; size: number; piece: number; halfClose: boolean }[];
  /** The wires of each further layer, and more channels than the ones that every wire needs. */
  layers: { kinds: Kind[]; more: [number, number][] }[];
  /** How many processes there are, and which one each channel belongs to. */
  processes: number;
  owners: number[];
  /** The source that is closed last. */
  last: number;
  /** For each reader, the earlier one whose end of file it waits for; 0 for none. */
  stalls: number[];
  /** Whether the first source and the first sink are the two directions of one socket. */
  joined: boolean;
  /** Whether each channel has numbers of its own, even for the same descriptor. */
  numbers: boolean;
  buffer: number;
  /** Which reader or process dies, after how many bytes. */
  death: { who: "nobody" | "reader" | "process"; which: number; after: number };
}

const KIND = fc.constantFrom<Kind>("pipe", "unix", "tcp");
const PLAN: fc.Arbitrary<Plan> = fc.record({
  sources: fc.array(
    fc.record({
      kind: KIND,
      size: fc.oneof(fc.nat(50), fc.nat(400_000)),
      piece: fc.oneof(fc.integer({ min: 1, max: 70_000 }), fc.constantFrom(4096, 65536)),
      halfClose: fc.boolean(),
    }),
    { minLength: 1, maxLength: 4 },
  ),
  layers: fc.array(
    fc.record({
      kinds: fc.array(KIND, { minLength: 1, maxLength: 3 }),
      more: fc.array(fc.tuple(fc.nat(3), fc.nat(3)), { maxLength: 2 }),
    }),
    { minLength: 1, maxLength: 3 },
  ),
  processes: fc.integer({ min: 1, max: 3 }),
  owners: fc.array(fc.nat(2), { minLength: 1, maxLength: 8 }),
  last: fc.nat(3),
  stalls: fc.array(fc.nat(3), { minLength: 1, maxLength: 3 }),
  joined: fc.boolean(),
  numbers: fc.boolean(),
  buffer: fc.constantFrom(1, 1000, 65536, 1048576),
  death: fc.record({
    who: fc.constantFrom("nobody", "nobody", "reader", "process"),
    which: fc.nat(3),
    after: fc.nat(100_000),
  }),
});

/** The `at`th byte of a source: two bits for the source, and six that look random. */
function byteOf(source: number, at: number): number {
  return source << 6 | Math.imul(at + 1, 2654435761) >>> 26;
}

interface Wire {
  kind: Kind;
  /** The end that channels write, and the end that they read; at the edges the test has the other one. */
  write: End;
  read: End;
  readers: Link[];
  writers: Link[];
}

interface Link {
  from: Wire;
  to: Wire;
  process: number;
}

/** The wires and channels of a plan. */
function build(plan: Plan): { layers: Wire[][]; links: Link[]; joined: boolean } {
  const wire = (kind: Kind): Wire => {
    const [read, write] = { pipe, unix: unixPair, tcp: tcpPair }[kind]();
    return { kind, read, write, readers: [], writers: [] };
  };
  const layers = [plan.sources.map(({ kind }) => wire(kind))];
  const links: Link[] = [];
  for (const { kinds, more } of plan.layers) {
    const [before = [], here] = [layers.at(-1), kinds.map(wire)];
    layers.push(here);
    const pairs: [number, number][] = [
      ...before.map((_, i): [number, number] => [i, i % here.length]),
      ...here.map((_, i): [number, number] => [i % before.length, i]),
      ...more.map(([a, b]): [number, number] => [a % before.length, b % here.length]),
    ];
    for (const key of new Set(pairs.map(([a, b]) => `${a} ${b}`))) {
      const [from, to] = [before[Number(key.split(" ")[0])], here[Number(key.split(" ")[1])]];
      if (!from || !to) continue;
      // Shutting a socket down affects all processes, so one process has all channels of a side.
      const peer = from.kind !== "pipe" && from.readers[0] || to.kind !== "pipe" && to.writers[0];
      const both = from.kind !== "pipe" && from.readers[0] && to.kind !== "pipe" && to.writers[0];
      if (both && from.readers[0]?.process !== to.writers[0]?.process) continue;
      const owner = (plan.owners[links.length % plan.owners.length] ?? 0) % plan.processes;
      const link = { from, to, process: peer ? peer.process : owner };
      links.push(link);
      from.readers.push(link);
      to.writers.push(link);
    }
  }
  const [source, sink] = [layers[0]?.[0], layers.at(-1)?.[0]];
  const joined = plan.joined && source?.kind !== "pipe" && source?.kind === sink?.kind;
  if (joined && source && sink) {
    for (const end of [sink.write, sink.read]) end.close();
    [sink.read, sink.write] = [source.write.duplicate(), source.read.duplicate()];
  }
  return { layers, links, joined };
}

/** The wires that the bytes of one wire can reach. */
function reached(wire: Wire, all = new Set<Wire>()): Set<Wire> {
  if (!all.has(wire)) {
    all.add(wire);
    for (const { to } of wire.readers) reached(to, all);
  }
  return all;
}

/** Starts the processes, each with the ends of its channels, and closes these in the test. */
function launch(plan: Plan, links: Link[], layers: Wire[][]): Running[] {
  const running: Running[] = [];
  for (let process = 0; process < plan.processes; process++) {
    const most = Math.max(...plan.sources.map(({ size }) => size));
    const args: string[] = [`--buffer=${Math.max(plan.buffer, Math.ceil(most / 2000))}`];
    const given: Record<number, End> = {};
    const number = (end: End) => {
      const known = Object.entries(given).find(([, other]) => other === end);
      if (known && !plan.numbers) return known[0];
      const fd = 3 + Object.keys(given).length;
      given[fd] = end;
      return String(fd);
    };
    for (const { from, to, process: owner } of links) {
      if (owner === process) args.push(number(from.read), number(to.write));
    }
    if (args.length > 1) running.push(start(args, given));
  }
  for (const wire of layers.slice(0, -1).flat()) wire.read.close();
  for (const wire of layers.slice(1).flat()) wire.write.close();
  return running;
}

/** How many graphs ran, and what was copied. */
const figures = { graphs: 0, channels: 0, processes: 0, bytes: 0, deaths: 0 };

async function run(plan: Plan): Promise<void> {
  const { layers, links, joined } = build(plan);
  const [sources = [], sinks = []] = [layers[0], layers.at(-1)];
  const running = launch(plan, links, layers);
  const { death } = plan;
  const ended = sinks.map(() => Promise.withResolvers<void>());
  const arrived: Uint8Array[][] = sinks.map(() => []);
  const dying = death.who === "reader" ? death.which % sinks.length : -1;
  const killed = death.who === "process" ? death.which % running.length : -1;
  const mortal = dying >= 0 && !(joined && dying === 0) ? dying : -1;
  let total = 0;

  const last = plan.last % sources.length;
  const dependent = (i: number) => {
    const [source, sink] = [sources[last], sinks[i]];
    return source !== undefined && sink !== undefined && reached(source).has(sink);
  };
  // No two readers may wait for each other: those that do not depend on the last
  // source come first.
  const order = sinks.map((_, i) => i).sort((a, b) => Number(dependent(a)) - Number(dependent(b)));

  const reads = sinks.map(async ({ read }, i) => {
    const place = order.indexOf(i);
    const stall = (plan.stalls[i % plan.stalls.length] ?? 0) % (place + 1);
    if (stall > 0) await ended[order[place - stall] ?? -1]?.promise;
    for (let length = 0;;) {
      const piece = await read.read().catch(() => new Uint8Array(0)); // a reset is an end
      arrived[i]?.push(piece);
      length += piece.length;
      total += piece.length;
      if (killed >= 0 && total >= death.after) running[killed]?.kill("SIGKILL");
      if (piece.length === 0 || i === mortal && length >= death.after) break;
    }
    if (i === mortal) read.close();
    ended[i]?.resolve();
  });

  const writes = sources.map(async ({ write }, i) => {
    const { size = 0, piece = 1, halfClose = false, kind } = plan.sources[i] ?? {};
    const content = Uint8Array.from({ length: size }, (_, at) => byteOf(i, at));
    const step = Math.max(piece, Math.ceil(size / 200)); // otherwise one graph takes all the time
    try {
      for (let at = 0; at < size; at += step) await write.write(content.slice(at, at + step));
    } catch {
      assert(mortal >= 0 || killed >= 0, `source ${i} cannot be written`);
    }
    if (i === last && killed < 0) {
      await Promise.all(sinks.map((_, sink) => dependent(sink) ? undefined : ended[sink]?.promise));
    }
    // The other direction of a joined socket goes on.
    if (kind !== "pipe" && (halfClose || joined && i === 0)) {
      try {
        write.shutdownWrite();
      } catch { /* reset meanwhile */ }
    } else write.close();
  });

  try {
    const all = Promise.all([...reads, ...writes, ...running.map(({ outcome }) => outcome)]);
    await within("the end", all);
    for (const [i, process] of running.entries()) {
      const { code, signal, stderr } = await process.outcome;
      if (i === killed && signal === 9) continue;
      const codes = mortal < 0 && killed < 0 ? [0] : [0, 111];
      assert(signal === null && codes.includes(code ?? -1), `${code} ${signal}: ${stderr}`);
      assertEquals(stderr.includes("    at "), false, stderr);
    }
    check(plan, sources, sinks, arrived.map(joinedBytes), mortal >= 0 || killed >= 0);
  } finally {
    for (const process of running) process.kill("SIGKILL");
    for (const wire of layers.flat()) {
      wire.read.close();
      wire.write.close();
    }
  }
  figures.graphs++;
  figures.channels += links.length;
  figures.processes += running.length;
  figures.bytes += total;
  if (mortal >= 0 || killed >= 0) figures.deaths++;
}

function joinedBytes(pieces: Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const piece of pieces) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}

/** Compares what arrived with the model. */
function check(plan: Plan, sources: Wire[], sinks: Wire[], arrived: Uint8Array[], died: boolean) {
  for (const [i, source] of sources.entries()) {
    const size = plan.sources[i]?.size ?? 0;
    const wires = reached(source);
    const pieces = arrived.map((bytes) => bytes.filter((byte) => byte >> 6 === i));
    for (const [sink, piece] of pieces.entries()) {
      const wire = sinks[sink];
      if (wire && !wires.has(wire)) assertEquals(piece.length, 0, "bytes on the wrong way");
    }
    const length = pieces.reduce((sum, piece) => sum + piece.length, 0);
    if (died) assert(length <= size, `source ${i}: ${length} bytes of ${size}`);
    else assertEquals(length, size, `bytes of source ${i}`);
    if ([...wires].every(({ readers }) => readers.length <= 1)) {
      // There is only one way: everything arrives in order.
      const [piece = new Uint8Array(0)] = pieces.filter((piece) => piece.length > 0);
      assert(piece.every((byte, at) => byte === byteOf(i, at)), `source ${i} out of order`);
    } else if (!died) {
      // Each byte took one of several ways: the number of bytes of each value has to be right.
      const count = new Int32Array(64);
      const add = (byte: number, n: number) => count[byte & 63] = (count[byte & 63] ?? 0) + n;
      for (const piece of pieces) for (const byte of piece) add(byte, 1);
      for (let at = 0; at < size; at++) add(byteOf(i, at), -1);
      assert(count.every((n) => n === 0), `source ${i} with other bytes`);
    }
  }
}

/** Graphs that failed in the past. */
const EXAMPLES: [Plan][] = [];

Deno.test(`random graphs for ${SECONDS} s (seed ${SEED})`, async () => {
  let last: Promise<void> | undefined;
  await fc.assert(fc.asyncProperty(PLAN, (plan) => last = run(plan)), {
    seed: SEED,
    numRuns: 1_000_000,
    interruptAfterTimeLimit: SECONDS * 1000,
    markInterruptAsFailure: false,
    examples: EXAMPLES,
    endOnFailure: Deno.env.has("FIRST"),
  });
  await last; // which the time limit does not end
  console.log(JSON.stringify(figures));
  assert(figures.graphs >= EXAMPLES.length && figures.bytes > 0);
});
