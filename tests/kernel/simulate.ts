/**
 * One run: builds the wires of a plan, starts the engine and the peers, and checks what
 * must hold at every moment and at the end.
 *
 * @module
 */
import {
  type ChannelStatus,
  Copier,
  type CopyOptions,
  DescriptorError,
  SystemError,
} from "../../engine.ts";
import {
  EAGAIN,
  EBADF,
  ECONNREFUSED,
  ERR,
  HUP,
  IN,
  O_APPEND,
  OUT,
  RDHUP,
} from "../../sys/constants.ts";
import {
  Description,
  Device,
  ECONNRESET,
  type File,
  MessageSocket,
  PAGE,
  Pipe,
  RegularFile,
  SOCK_SEQPACKET,
  StreamSocket,
} from "./kernel.ts";
import { enterWorld } from "./libc.ts";
import type { Kind, Plan, WirePlan } from "./plan.ts";
import { type Actor, type CallName, ENOSPC, Violation, World } from "./world.ts";

// ---- Bytes of which no two pieces are equal.

const NOISE = new Uint8Array(1 << 21);
for (let i = 0, n = 1; i < NOISE.length; i++) {
  n = Math.imul(n, 1103515245) + 12345 | 0;
  NOISE[i] = n >>> 16;
}

/** Where the bytes of the `index`th source begin, of which the first ten can be long. */
function placeOf(index: number): number {
  return (index % 20) * 99_991;
}

/** The bytes of the `index`th source, from `at` on. */
function content(index: number, at: number, length: number): Uint8Array {
  const begin = placeOf(index) + at;
  return NOISE.subarray(begin, begin + length);
}

/** A part of the bytes of a source. */
interface Part {
  source: Wire;
  at: number;
  length: number;
}

const O_RDONLY = 0, O_WRONLY = 1, O_RDWR = 2;

/** The longest message that a narrow socket sends, in bytes. */
const NARROW = 50;

function isNarrow({ room }: WirePlan): boolean {
  return room % 5 === 0;
}

function keepsMessages(kind: Kind): boolean {
  return kind === "seqpacket" || kind === "dgram";
}

const scratch = new Uint8Array(1 << 18);

/** A wire at one end of channels, with the engine's side and the peer's side. */
export class Wire {
  readonly plan: WirePlan;
  readonly index: number;
  readonly name: string;
  readonly world: World;
  /** The engine's side to read, and to write. */
  source: Description | undefined;
  sink: Description | undefined;
  /** The peer's side of each. */
  feed: Description | undefined;
  drain: Description | undefined;
  readFd = -1;
  writeFd = -1;
  readonly readers: Track[] = [];
  readonly writers: Track[] = [];
  /** What the peer has sent, and what channels have read. */
  sent = 0;
  taken = 0;
  hasSentAll = false;
  /** What has been written to it, and what has arrived. */
  readonly expected: Part[] = [];
  readonly arrived: Uint8Array[] = [];
  readonly messages: number[] = [];
  sawEnd = false;
  /** Whether the peer has caused an error for channels that read it, and for those that write it. */
  sourceFault = false;
  sinkFault = false;
  /** Whether it is what a client is joined with. */
  isTarget = false;
  feedEnded = false;
  drainEnded = false;
  /** Whether it is a connection that is served: both its ways are used, whatever channels there are yet. */
  isServed = false;
  /** The bytes of a header that the engine has sent before everything else. */
  preface = 0;
  /** What the kernel has observed. */
  kernelRead = 0;
  kernelWritten = 0;

  constructor(plan: WirePlan, index: number, world: World) {
    this.plan = plan;
    this.index = index;
    this.world = world;
    this.name = `${plan.kind} ${String.fromCharCode(97 + index)}`;
  }

  /** The kernel has moved bytes from the engine's side of it, or to that. */
  moved(direction: "from" | "to", bytes: number): void {
    if (direction === "from") this.kernelRead += bytes;
    else this.kernelWritten += bytes;
  }

  get isSocket(): boolean {
    const { kind } = this.plan;
    return kind === "unix" || kind === "tcp" || kind === "seqpacket" || kind === "dgram";
  }
  get isTwoWay(): boolean {
    return this.source !== undefined && this.source === this.sink;
  }
  get isMessages(): boolean {
    return keepsMessages(this.plan.kind);
  }

  /** Makes the descriptors that a channel reads or writes. */
  make(asSource: boolean): void {
    if (asSource ? this.source : this.sink) return;
    const { kind, room, roomBack } = this.plan;
    switch (kind) {
      case "pipe": {
        const pipe = new Pipe(this.name);
        pipe.most = 2 ** Math.min(4, Math.floor(room / 8));
        const reading = new Description(pipe, O_RDONLY), writing = new Description(pipe, O_WRONLY);
        if (asSource) [this.source, this.feed] = [reading, writing.hold()];
        else [this.sink, this.drain] = [writing, reading.hold()];
        return;
      }
      case "unix":
      case "tcp": {
        const [near, far] = StreamSocket.pair(this.name, kind, [roomBack, room]);
        near.notes = kind === "tcp" ? this.plan.notes : 0;
        if (kind === "tcp" && this.plan.isFar) {
          for (const side of [near, far]) this.world.actors.push(new Network(side, this.world));
        }
        return this.#both(near, far);
      }
      case "seqpacket":
      case "dgram": {
        const type = kind === "seqpacket" ? SOCK_SEQPACKET : 2;
        const [near, far] = MessageSocket.pair(this.name, type, 1 + room % 10);
        if (isNarrow(this.plan)) near.longest = NARROW;
        return this.#both(near, far);
      }
      case "file":
      case "proc":
      case "append": {
        const file = new RegularFile(this.name, kind === "proc" && asSource);
        const flags = kind === "append" && !asSource ? O_APPEND : 0;
        const near = new Description(file, asSource ? O_RDONLY : O_WRONLY, flags);
        if (asSource) this.source = near;
        else this.sink = near;
        return;
      }
      case "terminal":
      case "device": {
        const device = new Device(this.name, kind === "terminal", Math.max(room, 1));
        const near = new Description(device, O_RDWR);
        if (asSource) this.source = near;
        else this.sink = near;
        return;
      }
    }
  }

  #both(near: File, far: File): void {
    this.source = this.sink = new Description(near, O_RDWR);
    this.feed = this.drain = new Description(far, O_RDWR).hold();
  }

  /** The peer dies. */
  die(): void {
    this.world.log(() => `${this.name}: the peer goes`);
    this.sinkFault = true;
    if (this.isTwoWay) this.sourceFault = true;
    if (this.feed && (this.isTwoWay || !this.drain)) {
      this.feedEnded = true;
    }
    this.drainEnded = true;
    this.close();
  }

  /** The peer closes what it no longer needs. */
  close(): void {
    if (this.feed === this.drain) {
      if (this.feedEnded && this.drainEnded && this.feed) {
        this.feed.release();
        this.feed = this.drain = undefined;
      }
      return;
    }
    if (this.feedEnded) {
      this.feed?.release();
      this.feed = undefined;
    }
    if (this.drainEnded) {
      this.drain?.release();
      this.drain = undefined;
    }
  }
}

/**
 * The longest time for which something is on its way through TCP, in milliseconds. If it
 * were more than a quarter of the 2 seconds that the engine gives a peer to end its side, a
 * reset could overtake what was sent before: nobody can promise more than to wait so long.
 */
const LONGEST_WAY = 500;

/** Bytes that were sent through TCP arrive. */
class Network implements Actor {
  readonly name: string;
  readonly wakesAt = Infinity;
  readonly #to: StreamSocket;
  readonly #world: World;
  #sentAt = 0;
  constructor(to: StreamSocket, world: World) {
    this.#to = to;
    this.#world = world;
    this.name = `network to ${to.name}`;
    to.onComing = () => {
      if (to.coming.length === 1) this.#sentAt = world.now;
    };
  }
  get isEnabled(): boolean {
    return this.#to.coming.length > 0;
  }
  get latest(): number {
    return this.isEnabled ? this.#sentAt + LONGEST_WAY : Infinity;
  }
  step(): void {
    const isLate = this.#world.now >= this.latest;
    do this.#to.arrive(); while (isLate && this.isEnabled);
    this.#sentAt = this.#world.now;
  }
}

/** Sends the pieces of a plan and the end of file. */
export class Feeder implements Actor {
  readonly name: string;
  wakesAt = -1;
  readonly #wire: Wire;
  #piece = 0;
  #at = 0;
  #hasSentUrgent = false;

  constructor(wire: Wire) {
    this.#wire = wire;
    this.name = `feeder of ${wire.name}`;
    this.#pause();
  }
  #pause(): void {
    const { pauses } = this.#wire.plan;
    const pause = pauses[this.#piece % pauses.length] ?? 0;
    if (pause > 0) this.wakesAt = this.#wire.world.now + pause;
  }

  get isEnabled(): boolean {
    const wire = this.#wire;
    if (wire.feedEnded || wire.world.now < this.wakesAt) return false;
    if (this.#piece >= wire.plan.pieces.length) return true;
    const { feed } = wire;
    if (feed?.file instanceof Pipe && feed.file.forgetsWriter && feed.file.readers > 0) {
      return false;
    }
    return !feed || (feed.poll() & (OUT | ERR | HUP)) !== 0;
  }

  step(): void {
    const wire = this.#wire, { plan, world } = wire;
    const size = plan.pieces[this.#piece];
    if (size === undefined) return this.#end();
    if (plan.urgentAt === this.#piece && !this.#hasSentUrgent && plan.kind === "tcp") {
      this.#hasSentUrgent = true;
      if (wire.feed?.file instanceof StreamSocket) {
        world.log(() => `${this.name} sends an urgent byte`);
        wire.feed.file.sendUrgent(new Uint8Array(1));
        return;
      }
    }
    const bytes = content(wire.index, wire.sent, size - this.#at);
    // An empty line would be the end of a terminal's input.
    const isNothing = size === 0 && wire.source?.file instanceof Device;
    const result = isNothing ? 0 : this.#write(bytes);
    world.log(() => `${this.name} sends ${bytes.length} -> ${result}`);
    if (result === -EAGAIN) return;
    if (result < 0) {
      // A datagram that is refused drops what had arrived: see MessageSocket.write.
      if (result === -ECONNREFUSED) wire.sinkFault = true;
      wire.feedEnded = true;
      wire.close();
      return;
    }
    wire.sent += result;
    this.#at += result;
    if (this.#at < size) return;
    this.#at = 0;
    this.#piece++;
    if (this.#piece < plan.pieces.length || plan.pauses.length > 1) this.#pause();
  }

  #write(bytes: Uint8Array): number {
    const { feed, source } = this.#wire;
    if (feed) return feed.file.write(feed, bytes);
    if (source?.file instanceof RegularFile) source.file.append(bytes);
    if (source?.file instanceof Device) source.file.type(bytes.slice());
    return bytes.length;
  }

  #end(): void {
    const wire = this.#wire, { plan, feed, source, world } = wire;
    wire.hasSentAll = true;
    wire.feedEnded = true;
    const isReset = plan.end === "reset" && plan.kind === "tcp";
    world.log(() => `${this.name} ends (${plan.end})`);
    if (source?.file instanceof Device) return source.file.type(new Uint8Array(0));
    if (isReset && feed?.file instanceof StreamSocket) {
      feed.file.resets = true;
      wire.sourceFault = true;
      if (wire.isTwoWay) wire.sinkFault = true;
      wire.drainEnded = true;
      return wire.close();
    }
    const isRead = wire.isServed || wire.writers.length > 0;
    const isUsed = wire.drain !== undefined && !wire.drainEnded && isRead;
    if (feed && wire.isSocket && (plan.end !== "close" || isUsed)) feed.file.shutdown(1);
    if (!isRead) wire.drainEnded = true;
    wire.close();
  }
}

/** Reads what arrives until the end of file, or dies before. */
export class Drainer implements Actor {
  readonly name: string;
  wakesAt = -1;
  readonly #wire: Wire;
  #reads = 0;
  #length = 0;

  constructor(wire: Wire) {
    this.#wire = wire;
    this.name = `reader of ${wire.name}`;
  }

  get #isDying(): boolean {
    const { diesAfter } = this.#wire.plan;
    return diesAfter >= 0 && this.#length >= diesAfter;
  }

  get isEnabled(): boolean {
    const wire = this.#wire;
    if (wire.drainEnded || wire.world.now < this.wakesAt) return false;
    if (this.#isDying) return true;
    if (wire.drain) return (wire.drain.poll() & (IN | HUP | ERR)) !== 0;
    return wire.sink?.file instanceof Device && wire.sink.file.waiting > 0;
  }

  step(): void {
    const wire = this.#wire, { plan, world } = wire;
    if (this.#isDying) {
      if (wire.sink?.file instanceof Device) wire.sink.file.hangUp();
      return wire.die();
    }
    const most = plan.reads[this.#reads++ % plan.reads.length] ?? 1;
    if (wire.sink?.file instanceof Device && !wire.drain) {
      return this.#got(wire.sink.file.look(most));
    }
    const { drain } = wire;
    if (!drain) return;
    const room = wire.isMessages ? scratch : scratch.subarray(0, most);
    const isEmptyMessage = drain.file instanceof MessageSocket && drain.file.queue[0]?.length === 0;
    const result = drain.file.read(drain, room);
    world.log(() => `${this.name} reads ${room.length} -> ${result}`);
    if (result > 0) return this.#got(room.slice(0, result));
    if (isEmptyMessage) return void wire.messages.push(0);
    if (result === -EAGAIN) return;
    if (result === 0) {
      wire.sawEnd = true;
      checkEnd(wire);
    } else {
      // Bytes of the other direction that will not be read, because its channel has failed; or a
      // client was cut off.
      wire.sawEnd = wire.readers.some(({ status }) => status?.error !== undefined) ||
        wire.writers.some((track) => isCutOff(track));
      wire.world.log(() => `${this.name} gets an error`);
    }
    wire.drainEnded = true;
    wire.close();
  }

  #got(bytes: Uint8Array): void {
    this.#wire.arrived.push(bytes);
    if (this.#wire.isMessages) this.#wire.messages.push(bytes.length);
    this.#length += bytes.length;
    const { pauses } = this.#wire.plan;
    const pause = pauses[this.#reads % pauses.length] ?? 0;
    if (pause > 0) this.wakesAt = this.#wire.world.now + pause;
  }
}

/** Whether the client of a served connection was cut off. */
function isCutOff({ from, status }: Track): boolean {
  const error = status?.error;
  return from.sourceFault && error?.syscall === "read" && error.errno === ECONNRESET;
}

/** An end of file that a peer sees has to be one. */
function checkEnd(wire: Wire): void {
  if (wire.sinkFault) return;
  checkWhole(wire);
  for (const { status, name } of wire.writers) {
    if (status && (status.ended !== undefined || status.error)) continue;
    wire.world.fail(`${wire.name} is at its end, and ${name} has not ended`);
  }
}

/** What comes to its end in order over TCP, where connections are served, is all that there was. */
function checkWhole({ name, world, drain, isServed, isTarget, writers }: Wire): void {
  const far = drain?.file;
  // A write can have told of the reset: then a read finds the end.
  const isTold = !(far instanceof StreamSocket && far.family === "tcp") || far.wasReset;
  if (!isServed || isTold || world.refusals.call) return;
  if (isTarget && writers.some((track) => isCutOff(track))) {
    world.fail(`${name} is at its end, and its client was cut off`);
  }
  if (writers.some(({ read, written, status }) => status?.ended && read > written)) {
    world.fail(`${name} is at its end, and some of its bytes are lost`);
  }
}

/** What is known of a channel. */
export class Track {
  readonly from: Wire;
  readonly to: Wire;
  readonly name: string;
  status: ChannelStatus | undefined;
  read = 0;
  written = 0;
  operations = 0;
  sawEnd = false;
  /** What it has read and not yet written. */
  readonly held: Part[] = [];

  constructor(from: Wire, to: Wire) {
    this.from = from;
    this.to = to;
    this.name = `channel ${from.name} to ${to.name}`;
  }

  onRead(length: number): void {
    const { from } = this;
    if (length === 0) {
      this.sawEnd = true;
      return;
    }
    this.operations++;
    this.read += length;
    this.held.push({ source: from, at: from.taken, length });
    from.taken += length;
  }

  onWrite(length: number, world: World): void {
    this.operations++;
    this.written += length;
    if (this.written > this.read) world.fail(`${this.name} writes what it has not read`);
    for (let rest = length; rest > 0;) {
      const part = this.held[0];
      if (!part) break;
      const taken = Math.min(rest, part.length);
      this.to.expected.push({ source: part.source, at: part.at, length: taken });
      part.at += taken;
      part.length -= taken;
      if (part.length === 0) this.held.shift();
      rest -= taken;
    }
  }
}

/** The program's clock and timers, as the engine finds them during a run. */
const real = {
  now: performance.now.bind(performance),
  setTimeout: globalThis.setTimeout,
  clearTimeout: globalThis.clearTimeout,
  setInterval: globalThis.setInterval,
  clearInterval: globalThis.clearInterval,
};

/** Replaces the program's clock by the clock of a world; returns a function that restores it. */
function takeClock(world: World): () => void {
  performance.now = () => world.now;
  const clear = (id: unknown) => world.clearTimer(Number(id));
  Object.assign(globalThis, {
    setTimeout: (callback: () => void, milliseconds = 0) =>
      world.setTimer(callback, milliseconds, false),
    setInterval: (callback: () => void, milliseconds = 0) =>
      world.setTimer(callback, milliseconds, true),
    clearTimeout: clear,
    clearInterval: clear,
  });
  return () => {
    const { now, ...timers } = real;
    performance.now = now;
    Object.assign(globalThis, timers);
  };
}

/** More promises than the engine ever chains: after so many, everything that it awaits has resolved. */
const IN_A_ROW = 16;

export async function settle(): Promise<void> {
  for (let i = 0; i < IN_A_ROW; i++) await undefined;
}

/** Runs the engine to its end; whenever it awaits something, the world has a turn. */
export async function drive(world: World, running: Promise<unknown>): Promise<void> {
  let over = false, failure: unknown;
  running.then(() => over = true, (error) => {
    over = true;
    failure = error;
  });
  for (;;) {
    await settle();
    if (over) break;
    world.turn();
    if (world.violation) throw world.violation;
  }
  if (world.violation) throw world.violation;
  if (failure) throw failure;
}

/** The figures of a run. */
export interface Result {
  world: World;
  calls: number;
  steps: number;
}

const SPLICED: Kind[] = ["pipe", "unix", "tcp", "file"];

const WITHOUT_END: Kind[] = ["dgram"];

/** Runs a plan. Throws a {@linkcode Violation} if a rule is broken. */
export async function simulate(
  plan: Plan,
  options: { tracing?: boolean; depth?: number } = {},
): Promise<Result> {
  return await inWorld(plan, options, (world) => new Copying(plan, world).run());
}

/** Runs something in the world of a plan. */
export async function inWorld(
  plan: Plan,
  options: { tracing?: boolean; depth?: number },
  run: (world: World) => Promise<void>,
): Promise<Result> {
  const world = new World(plan.choices, plan.refusals, {
    tracing: options.tracing ?? false,
    hostile: plan.isHostile,
    reuse: plan.reusesNumbers,
    ...options.depth !== undefined && { depth: options.depth },
  });
  if (options.depth !== undefined) world.decisions = [];
  // Who is told once only must not be interrupted, which Linux does to no call that does not wait.
  world.mayInterrupt = plan.refusals.call?.name !== "poll";
  enterWorld(world);
  const restoreClock = takeClock(world);
  try {
    await run(world);
    // Calls on other threads that return now find that the engine has ended.
    world.end();
    await settle();
    if (world.violation) throw world.violation;
  } catch (error) {
    if (error instanceof Violation) Object.assign(error, { trace: world.trace });
    throw error;
  } finally {
    world.end();
    await settle();
    restoreClock();
  }
  return { world, calls: world.count, steps: world.steps };
}

/** The most steps for one piece, so that a run is short. */
const STEPS = 10;

/** The most pieces if the smallest capacity is less than a page. */
const FEW = 6;

/** So many pieces of so many bytes make a channel busy, so that its pipes grow. */
const BUSY_PIECES = 80, BUSY_BYTES = 8192;

/** A wire that carries much, with much room. */
export function busy(wire: WirePlan): WirePlan {
  const { kind } = wire;
  return {
    ...wire,
    room: kind === "pipe" ? wire.room : 65_536,
    roomBack: 65_536,
    pieces: Array(BUSY_PIECES).fill(BUSY_BYTES),
    pauses: [0],
    reads: [200_000],
  };
}

/** The wires of a plan, with pieces that are not too long for the smallest capacity on their way. */
function wiresOf(plan: Plan, world: World): Wire[] {
  if (plan.isBusy) return plan.wires.map((wire, i) => new Wire(busy(wire), i, world));
  const smallest = Math.min(
    plan.buffer,
    plan.rate ? 10 : Infinity,
    ...plan.wires.flatMap(({ kind, room, roomBack, reads }) =>
      kind === "pipe" ? reads : [...reads, room, roomBack]
    ),
    ...plan.wires.some((wire) => keepsMessages(wire.kind) && isNarrow(wire)) ? [NARROW] : [],
  );
  return plan.wires.map((wire, i) => {
    const some = smallest < 4096 ? wire.pieces.slice(0, FEW) : wire.pieces;
    const pieces = some.map((length) => Math.min(length, smallest * STEPS));
    return new Wire({ ...wire, pieces }, i, world);
  });
}

/** Whether a wire can be read and written on other threads. */
function usesThreads(plan: Plan, { plan: { kind } }: Wire): boolean {
  if (kind !== "pipe") return kind === "terminal" || kind === "device";
  // After splice(2) was given up, a pipe can only be read and written on other threads.
  const isGood = ({ kind, end, diesAfter, notes }: WirePlan) =>
    SPLICED.includes(kind) && end !== "reset" && diesAfter < 0 && notes === 0;
  const { splice, setFlags, shortOfNumbers, call } = plan.refusals;
  const isSpliced = splice === 0 && setFlags === 0 && !shortOfNumbers && !call &&
    plan.wires.every(isGood);
  // So can one of which small parts are taken by splice(2), as RWF_NOWAIT is gone then.
  const takesParts = plan.dumps && (plan.rate > 0 || plan.buffer < PAGE);
  return plan.refusals.nowait || !isSpliced || takesParts;
}

/** The valid channels of a plan. */
function channelsOf(plan: Plan, wires: Wire[]): [Wire, Wire][] {
  const pairs: [Wire, Wire][] = [];
  const sources = new Set<Wire>(), sinks = new Set<Wire>();
  for (const [a, b] of plan.channels) {
    const from = wires[a % wires.length], to = wires[b % wires.length];
    if (!from || !to) continue;
    const { kind } = from.plan;
    // A terminal's end of file is told to one reader only; messages to several are not in order,
    // nor is what other threads do known to be.
    if (from.isMessages && sources.has(from)) continue;
    if (usesThreads(plan, from) && sources.has(from)) continue;
    if (usesThreads(plan, to) && sinks.has(to)) continue;
    if (WITHOUT_END.includes(kind) && plan.stopAt < 0) continue;
    if (from.isMessages && from === to) continue;
    if (pairs.some(([f, t]) => f === from && t === to)) continue;
    sources.add(from);
    sinks.add(to);
    pairs.push([from, to]);
  }
  return pairs;
}

/** The program's callbacks, one of which can throw. */
export class Callbacks {
  readonly #throwsAt: number;
  readonly #world: World;
  #made = 0;
  #thrown: Error | undefined;

  constructor({ throwsAt }: Plan, world: World) {
    this.#throwsAt = throwsAt;
    this.#world = world;
  }

  /** One has done its work. */
  made(): void {
    if (this.#thrown) this.#world.fail("a callback is called although one has thrown");
    if (this.#made++ !== this.#throwsAt) return;
    this.#world.log(() => "a callback throws");
    // Whatever it throws, it is not taken for an error of the engine's own calls.
    throw this.#thrown = this.#throwsAt % 2 === 0
      ? new SystemError("epoll_ctl", 0, ENOSPC)
      : new Error("thrown by the program");
  }

  /**
   * Drives the engine to its end. Returns whether it has been cut off: by what a callback
   * has thrown, or by the system, if `mayRefuse` says so of its error.
   */
  async drive(
    running: Promise<unknown>,
    mayRefuse: (error: SystemError) => boolean = () => false,
  ): Promise<boolean> {
    const world = this.#world;
    try {
      await drive(world, running);
    } catch (error) {
      const isWatch = (errno: number) => world.hasRefusedToWatch && errno === ENOSPC;
      const isRefused = error instanceof SystemError &&
        (isWatch(error.errno) || world.isRefusal(error) || mayRefuse(error));
      if (!isRefused && error !== this.#thrown) throw error;
      return true;
    }
    if (this.#thrown) world.fail("what a callback has thrown is lost");
    return false;
  }
}

/** One run of a Copier: its wires, the program around it, and what must hold. */
class Copying {
  readonly #plan: Plan;
  readonly #world: World;
  readonly #wires: Wire[];
  readonly #tracks: Track[];
  readonly #callbacks: Callbacks;
  readonly #controller = new AbortController();
  /** What the engine was given, with the flags of that time. */
  readonly #before: { description: Description; flags: number }[] = [];
  /** What the parent process has as well, until the engine has ended. */
  readonly #kept: Description[] = [];
  readonly #byFile = new Map<File, Wire>();
  readonly #byStatus = new Map<ChannelStatus, Track>();
  /** The channels of which an error was told. */
  readonly #told: ChannelStatus[] = [];
  #isToldOfFlags = false;
  #operations = 0;
  #copier: Copier | undefined;
  /** The channel that is to be added while the others run. */
  #later: Track | undefined;
  /** The number that the next descriptor gets. */
  #next: number;

  constructor(given: Plan, world: World) {
    this.#plan = given.isBusy ? { ...given, buffer: 2 ** 20, rate: 0 } : given;
    this.#world = world;
    this.#wires = wiresOf(this.#plan, world);
    this.#tracks = channelsOf(this.#plan, this.#wires).map(([from, to]) => new Track(from, to));
    this.#callbacks = new Callbacks(this.#plan, world);
    this.#next = this.#plan.isStandard ? 0 : 20;
  }

  async run(): Promise<void> {
    const plan = this.#plan, world = this.#world, tracks = this.#tracks;
    if (tracks.length === 0) return;
    world.mayInterrupt &&= plan.wires.every(({ kind, notes }) => kind !== "tcp" || notes === 0);
    world.mostIdleRounds = 6 * (tracks.length + 1);
    this.#connect();
    this.#later = plan.addsAfter < 0 ? undefined : separate(tracks);
    const copier = this.#create();
    if (!copier) return;
    if (plan.addsAfter === 0) this.#add();
    const stopping = this.#stopInTime(copier);
    world.onIdle = () => {
      checkProgress(plan, world, tracks);
      for (const wire of this.#wires) checkEndIsTold(world, wire);
    };
    const isCutOff = await this.#callbacks.drive(copier.run());
    await copier[Symbol.asyncDispose]();
    world.log(() => "the engine has ended");
    this.#takeBackLater();
    for (const fd of world.leaks) world.fail(`${fd} is not closed`);
    world.clearTimer(stopping);
    if (world.timersLeft > 0) world.fail(`${world.timersLeft} timers are left`);
    if (!this.#isToldOfFlags && !isCutOff) checkFlags(world, this.#before);
    this.#letPeersEnd();
    this.#checkAll(isCutOff);
  }

  /** Makes the wires, gives the engine its ends of them, and the peers theirs. */
  #connect(): void {
    const world = this.#world;
    for (const track of this.#tracks) {
      track.from.make(true);
      track.to.make(false);
      track.from.readers.push(track);
      track.to.writers.push(track);
    }
    for (const wire of this.#wires) {
      if (wire.source && wire.readers.length > 0) {
        wire.readFd = this.#give(wire.source, wire);
        this.#byFile.set(wire.source.file, wire);
      }
      if (wire.sink && wire.writers.length > 0) {
        const isSame = wire.isTwoWay && wire.readFd >= 0 && !wire.plan.hasTwoNumbers;
        wire.writeFd = isSame ? wire.readFd : this.#give(wire.sink, wire);
        this.#byFile.set(wire.sink.file, wire);
      }
      if (wire.readers.length > 0) world.actors.push(new Feeder(wire));
      else wire.feedEnded = true;
      if (wire.writers.length > 0 && (wire.drain || wire.sink?.file instanceof Device)) {
        world.actors.push(new Drainer(wire));
      } else wire.drainEnded = true;
    }
    world.onMoved = (file, direction, bytes) => this.#byFile.get(file)?.moved(direction, bytes);
  }

  /** Gives the engine a number for it. */
  #give(description: Description, wire: Wire): number {
    const fd = this.#next;
    this.#next = fd === 1 ? 20 : fd + 1;
    this.#world.give(fd, description);
    if (fd < 2) this.#world.give(8 + fd, description, true); // the runtime's duplicate
    this.#before.push({ description: description, flags: description.flags });
    if (wire.plan.isShared && wire.isSocket) this.#kept.push(description.hold());
    return fd;
  }

  /** Undefined where the system refuses to look at the descriptors. */
  #create(): Copier | undefined {
    const world = this.#world;
    const first = this.#tracks.filter((track) => track !== this.#later);
    try {
      this.#copier = new Copier(first.map(pairOf), this.#options());
    } catch (error) {
      if (!isRefusedToLook(world, error)) throw error;
      // Then nothing was opened, closed or changed.
      if (world.leaks.length !== this.#before.length) world.fail(`${world.leaks} are open`);
      checkFlags(world, this.#before);
      return undefined;
    }
    this.#copier.channels.forEach((status, i) => {
      const track = first[i];
      if (track) this.#know(status, track);
    });
    return this.#copier;
  }

  #options(): CopyOptions {
    const { buffer, rate, yieldAfter, grace, awaits, dumps } = this.#plan, world = this.#world;
    return {
      buffer,
      rate,
      yieldAfter,
      grace,
      signal: this.#controller.signal,
      ...awaits && {
        onWait: () =>
          world.isUnlucky
            ? new Promise<void>((resolve) => void world.setTimer(resolve, 1, false))
            : undefined,
      },
      onOperation: (...operation) => this.#onOperation(...operation),
      onError: (error, status) => {
        this.#told.push(status);
        this.#isToldOfFlags ||= error.syscall === "fcntl";
        this.#callbacks.made();
      },
      ...dumps && { onData: () => this.#callbacks.made() },
    };
  }

  #onOperation(operation: "read" | "write", fd: number, length: number, status: ChannelStatus) {
    const track = this.#byStatus.get(status), world = this.#world, { buffer } = this.#plan;
    if (!track) return;
    const expected = operation === "read" ? track.from.readFd : track.to.writeFd;
    if (fd !== expected) world.fail(`${track.name}: ${operation} is told of ${fd}`);
    if (operation === "read") track.onRead(length);
    else track.onWrite(length, world);
    const inFlight = track.read - track.written;
    if (inFlight > buffer && !status.error) {
      world.fail(`${track.name} has ${inFlight} bytes in flight, of ${buffer} at the most`);
    }
    checkStatus(world, track);
    if (++this.#operations === this.#plan.addsAfter) this.#add();
    this.#callbacks.made();
  }

  #know(status: ChannelStatus, track: Track): void {
    track.status = status;
    this.#byStatus.set(status, track);
    this.#world.log(() => `${track.name} is ${status.rfd} ${status.wfd}`);
  }

  /** Adds the channel that is to come later. */
  #add(): void {
    const later = this.#later, world = this.#world;
    if (!later) return;
    try {
      const [status] = this.#copier?.add([pairOf(later)]) ?? [];
      if (status) this.#know(status, later);
    } catch (error) {
      const isWatch = error instanceof SystemError && error.syscall === "epoll_ctl" &&
        world.hasRefusedToWatch;
      if (error instanceof Violation) throw error;
      if (!isWatch) {
        // It is being stopped, or the system refuses to say what they are: it has not taken them.
        if (this.#plan.stopAt < 0 && !isRefusedToLook(world, error)) throw error;
        for (const fd of pairOf(later)) world.get(fd, "a close by who was given it");
        return;
      }
      forget(this.#tracks, later);
    }
    this.#later = undefined;
  }

  /** Has it stopped when the plan says so, which may be before it runs; returns the timer, or -1. */
  #stopInTime(copier: Copier): number {
    const { stopAt, grace } = this.#plan, world = this.#world;
    const stop = () => {
      world.log(() => "the program stops it");
      if (stopAt % 2 === 0) copier.stop(grace, "enough");
      else this.#controller.abort("enough");
    };
    if (stopAt > 1) return world.setTimer(stop, stopAt, false);
    if (stopAt >= 0) stop();
    return -1;
  }

  /** What was never added the program closes itself. */
  #takeBackLater(): void {
    const later = this.#later;
    if (!later) return;
    forget(this.#tracks, later);
    this.#world.takeBack(later.from.readFd);
    this.#world.takeBack(later.to.writeFd);
  }

  /** The process has ended, and the peers take what is left. */
  #letPeersEnd(): void {
    const world = this.#world;
    world.isOver = true;
    // What the system has not let the engine replace ends with the process at the latest.
    if (world.hasRefusedCall) { for (const fd of [8, 9]) world.takeBack(fd); }
    for (const description of this.#kept) description.release();
    world.runOut();
  }

  #checkAll(isCutOff: boolean): void {
    const plan = this.#plan, world = this.#world;
    // What is cut off all at once is cut off as by a stop, and no callback hears of it.
    // So is what a call cuts off that is refused, but it is told.
    const seen = isCutOff || world.hasRefusedCall ? { ...plan, stopAt: 0 } : plan;
    for (const track of this.#tracks) {
      if (plan.stopAt < 0 && !isCutOff) checkHangUp(world, track);
      checkChannel(seen, world, track, isCutOff ? [...this.#byStatus.keys()] : this.#told);
    }
    for (const wire of this.#wires) checkWire(seen, world, wire);
  }
}

function pairOf({ from, to }: Track): readonly [number, number] {
  return [from.readFd, to.writeFd];
}

/** Whether the system refuses to say what a descriptor is, or to wait at all. */
export function isRefusedToLook(world: World, error: unknown): boolean {
  // EBADF says of a number that it is not open.
  const isNone = error instanceof DescriptorError && world.refusals.call?.errno === EBADF;
  return world.hasRefusedCall && (isNone || error instanceof SystemError && world.isRefusal(error));
}

function checkFlags(world: World, before: { description: Description; flags: number }[]): void {
  for (const { description, flags } of before) {
    if (description.references > 0 && description.flags !== flags) {
      world.fail(`${description.file.name} has the flags ${description.flags}, and had ${flags}`);
    }
  }
}

/** The last channel, if it has its wires for itself and there are others. */
function separate(tracks: Track[]): Track | undefined {
  const last = tracks.at(-1);
  if (!last || tracks.length < 2) return undefined;
  const isAlone = [last.from, last.to].every(({ readers, writers }) =>
    readers.length + writers.length === 1
  );
  return isAlone ? last : undefined;
}

/** A channel does not come to be. */
function forget(tracks: Track[], track: Track): void {
  tracks.splice(tracks.indexOf(track), 1);
  track.from.readers.length = 0;
  track.to.writers.length = 0;
}

/** What a channel says of itself is so. */
function checkStatus(world: World, { from, to, status, name, written, operations }: Track): void {
  if (!status) return;
  // Reading bytes to discard them is not an operation of the channel.
  const isDiscarding = to.sinkFault || world.hasRefusedCall;
  if (status.bytes !== written || !isDiscarding && status.operations !== operations) {
    world.fail(
      `${name} says ${status.bytes} bytes in ${status.operations} operations, and had ` +
        `${written} in ${operations}`,
    );
  }
  const sizeOf = (end: Description | undefined) =>
    end?.file instanceof Pipe ? end.file.most * PAGE : undefined;
  const { read, write } = status.pipes;
  const mayBeUnknown = world.refusals.call?.name === "F_GETPIPE_SZ";
  const isTrue = (size: number | undefined, end: Description | undefined) =>
    size === sizeOf(end) || mayBeUnknown && size === undefined;
  if (!isTrue(read, from.source) || !isTrue(write, to.sink)) {
    world.fail(`${name} says that its pipes hold ${read} and ${write}`);
  }
}

/** With so many calls on other threads there may be no thread left: the engine has 24. */
const MANY_CALLS = 23;

/** Everything waits: there must be no byte that could move. */
export function checkProgress(plan: Plan, world: World, tracks: Track[]): void {
  for (const track of tracks) {
    const { from, to, status, name } = track;
    if (!status) continue;
    checkStatus(world, track);
    if (status.ended !== undefined || plan.rate > 0 || plan.stopAt >= 0) continue;
    if (!from.source || !to.sink) continue;
    if (status.error?.syscall === "read") continue; // all that it waits for is that its bytes are acknowledged
    if (world.isUnderWay(from.source) || world.isUnderWay(to.sink)) continue;
    // One of those that need a thread can wait for one, until it is heard that another one has it no more.
    if (world.calls.size >= MANY_CALLS) continue;
    const mask = (wire: Wire) => wire.plan.notes && wire.plan.kind === "tcp" ? ~ERR : ~0;
    const readable = from.source.poll() & mask(from) & (IN | HUP | ERR);
    const writable = to.sink.poll() & mask(to) & (OUT | HUP | ERR);
    if (readable && writable) world.fail(`${name} waits, and both its ends are ready`);
    if (writable && track.read > track.written && !status.error && !to.sinkFault) {
      world.fail(`${name} holds ${track.read - track.written} bytes that could be written`);
    }
  }
}

/** What the engine tells an end by; and what finds and replaces the runtime's duplicates of a standard number. */
const TELLS_ENDS: readonly CallName[] = ["shutdown", "dup3", "epoll_create1", "F_GETFD", "kcmp"];

/** Everybody waits: who reads what all its channels have left has to know that it is at its end. */
export function checkEndIsTold(
  world: World,
  { name, plan, writers, drain, drainEnded }: Wire,
): void {
  if (writers.length === 0 || !drain || drainEnded || plan.kind === "dgram") return;
  const { call } = world.refusals;
  if (world.hasRefusedCall && call && TELLS_ENDS.includes(call.name)) return;
  if (writers.some(({ status }) => status?.ended === undefined)) return;
  if ((drain.poll() & (IN | HUP | RDHUP)) === 0) world.fail(`${name}: the end is not told`);
}

/** Each ending of a channel has to have a reason. */
export function checkChannel(plan: Plan, world: World, track: Track, told: ChannelStatus[]): void {
  const { from, to, status, name } = track;
  if (!status) return;
  const { ended, error, bytes } = status;
  if (ended === undefined) world.fail(`${name} has not ended`);
  if (bytes !== track.written) {
    world.fail(`${name} says ${bytes} bytes, and wrote ${track.written}`);
  }
  const isStopped = plan.stopAt >= 0;
  const longest = to.isMessages && isNarrow(to.plan) ? Math.min(NARROW, plan.buffer) : plan.buffer;
  const isTooLong = from.isMessages && from.plan.pieces.some((length) => length > longest);
  const isCaused = from.sourceFault || to.sinkFault || isStopped || isTooLong;
  if (error && !isCaused) world.fail(`${name} has an error without a cause: ${error.message}`);
  if (ended !== "eof" && !isCaused) world.fail(`${name} ended by ${ended} without a cause`);
  if (error && !told.includes(status) && ended !== "stopped") {
    world.fail(`${name}: nobody was told of ${error.message}`);
  }
  if (ended === "eof" && !error) {
    if (track.read !== track.written) {
      world.fail(`${name} lost ${track.read - track.written} bytes, and says nothing`);
    }
    if (!track.sawEnd) world.fail(`${name} ended, and has read no end of file`);
  }
  if (ended === "hangup" && track.read !== track.written && !error) {
    world.fail(`${name} hung up with ${track.read - track.written} bytes lost, and says nothing`);
  }
}

/** What is refused is no peer that has gone. */
function checkHangUp(world: World, { from, to, status, name }: Track): void {
  const isSilent = status?.ended === "hangup" && !status.error;
  if (isSilent && !from.sourceFault && !to.sinkFault) world.fail(`${name} hung up without a cause`);
  if (isSilent && to.sink && world.unheard.has(to.sink.file)) {
    world.fail(`${name} hung up, and there is an error that was not told`);
  }
}

/** Without the zeros at its end. */
function withoutEnd(lengths: number[]): number[] {
  return lengths.slice(0, lengths.findLastIndex((length) => length > 0) + 1);
}

/** Compares what has arrived with what was written; returns its length, or -1 if it is more. */
function compareBytes({ world, name, expected, preface }: Wire, arrived: Uint8Array[]): number {
  let part = 0, at = 0, length = 0;
  for (let bytes of arrived) {
    const skipped = Math.min(preface, bytes.length);
    preface -= skipped;
    bytes = bytes.subarray(skipped);
    while (bytes.length > 0) {
      const next = expected[part];
      if (!next) return -1;
      const count = Math.min(bytes.length, next.length - at);
      const first = placeOf(next.source.index) + next.at + at;
      for (let i = 0; i < count; i++) {
        if (NOISE[first + i] !== bytes[i]) world.fail(`${name}: byte ${length + i} is another one`);
      }
      length += count;
      at += count;
      bytes = bytes.subarray(count);
      if (at < next.length) continue;
      part++;
      at = 0;
    }
  }
  return length;
}

/** Everything that has to arrive has arrived, in order. */
export function checkWire(plan: Plan, world: World, wire: Wire): void {
  const { readers, writers } = wire;
  const all = (how: string) =>
    readers.length > 0 && readers.every(({ status }) => status?.ended === how && !status.error);
  if (wire.readFd >= 0 && wire.kernelRead < wire.taken) {
    world.fail(`${wire.name}: ${wire.taken} bytes are said to be read, of ${wire.kernelRead}`);
  }
  // Bytes that a thread has read when its channel ends, and a message that is too long, are lost,
  // which is an error of the channel.
  const isLost = plan.stopAt >= 0 || wire.isMessages || usesThreads(plan, wire);
  if (wire.kernelRead !== wire.taken && (!isLost || all("eof") || all("hangup"))) {
    world.fail(`${wire.name}: ${wire.kernelRead} bytes were read, ${wire.taken} are told of`);
  }
  if (all("eof") && !wire.sourceFault) {
    const isFile = wire.source?.file instanceof RegularFile;
    if (!isFile && !wire.hasSentAll) {
      world.fail(`${wire.name} was taken to be at its end too early`);
    }
    if (!isFile && wire.taken !== wire.sent) {
      world.fail(`${wire.name}: ${wire.taken} bytes of ${wire.sent} were read`);
    }
  }
  if (writers.length === 0) return;
  let { arrived } = wire;
  if (wire.sink?.file instanceof RegularFile) arrived = [wire.sink.file.content];
  const total = writers.reduce((sum, { written }) => sum + written, wire.preface);
  const isTwice = wire.kernelWritten !== total;
  if (isTwice && plan.stopAt < 0 && !wire.sinkFault) {
    world.fail(`${wire.name}: ${wire.kernelWritten} bytes were written, and others are told of`);
  }
  const length = compareBytes(wire, arrived);
  if (length < 0) {
    // What was written by a call on another thread when all was stopped is not told of.
    if (plan.stopAt >= 0) return;
    world.fail(`${wire.name}: more arrived than was written`);
  }
  const written = wire.expected.reduce((sum, { length }) => sum + length, 0);
  const hasReader = !(wire.sink?.file instanceof RegularFile);
  // If it is stopped with unread bytes, TCP resets the connection and drops what was on its way.
  if (wire.sinkFault || wire.plan.kind === "tcp" && plan.stopAt >= 0) return;
  // Empty messages at the very end cannot be distinguished from the end. If the engine closes a
  // connection with one of them unread, its peer is told of a reset.
  if (wire.plan.kind === "seqpacket" && wire.plan.pieces.at(-1) === 0) return;
  // A reader of messages sees a reset before the messages that came earlier.
  if (wire.isMessages && readers.some(({ status }) => status?.error)) return;
  if (length !== written) world.fail(`${wire.name}: ${length} bytes arrived of ${written}`);
  const seesEnd = hasReader && !(wire.sink?.file instanceof Device) && wire.plan.kind !== "dgram";
  if (seesEnd && !wire.sawEnd) world.fail(`${wire.name}: its reader never saw the end`);
  if (wire.isMessages && writers.length === 1 && writers[0]?.from.plan.kind === "seqpacket") {
    // Empty messages at the very end cannot be distinguished from the end.
    const sent = withoutEnd(writers[0].from.plan.pieces);
    const come = withoutEnd(wire.messages);
    if (come.join() !== sent.slice(0, come.length).join()) {
      world.fail(`${wire.name}: messages of ${come} bytes, of ${sent}`);
    }
  }
}
