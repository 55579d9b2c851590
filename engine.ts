/**
 * Copies data between pairs of inherited descriptors.
 *
 * The engine is one loop over level-triggered readiness. Each pair is a
 * channel that is always in one of two states: its buffer is empty and it waits
 * to read, or its buffer holds something and it waits to write. That is all the
 * flow control there is: a slow writer stops its own reader, and no other.
 *
 * @example Copy standard input to standard output
 * ```ts ignore
 * import { copy } from "./engine.ts";
 *
 * const [channel] = await copy([[0, 1]]);
 * console.error(channel?.bytes, channel?.error?.message ?? "well");
 * ```
 *
 * @module
 */
import { Channel, type ChannelStatus, ENDED, READING, WRITING } from "./engine/channel.ts";
import { Port, Socket } from "./engine/port.ts";
import { BufferPool, PipeBuffer } from "./sys/buffer.ts";
import { Descriptor } from "./sys/descriptor.ts";
import { DescriptorError, SystemError } from "./sys/error.ts";
import * as libc from "./sys/libc.ts";
import { Readiness } from "./sys/readiness.ts";

export { type ChannelStatus, Descriptor, DescriptorError, SystemError };

/** What a channel is to copy: from the first descriptor to the second. */
export type Pair = readonly [rfd: number, wfd: number];

/** How to copy. */
export interface CopyOptions {
  /** The most bytes in flight in one channel, 1 or more. 1 MiB where not given. */
  buffer?: number;
  /**
   * Ends the copying early: nothing more is read, what was read is delivered,
   * write sides are shut down.
   */
  signal?: AbortSignal;
  /** For how long after `signal` to go on delivering, in milliseconds. 5000 where not given. */
  grace?: number;
  /**
   * The longest time for which the engine keeps the event loop to itself, in
   * milliseconds. Longer is faster for the copying, as each interruption costs
   * 0.1 ms; shorter is better for what else the program does. 5 where not given.
   */
  hold?: number;
  /** Sees each read and each write that moved bytes, and each end of file (a read of 0 bytes). */
  onOperation?: (operation: "read" | "write", descriptor: number, bytes: number) => void;
  /** Sees the bytes of each read. Makes the copying slower: they have to come into memory. */
  onData?: (channel: ChannelStatus, bytes: Uint8Array) => void;
  /** Sees each error as it happens. */
  onError?: (error: SystemError) => void;
  /** Is called before each wait, when all that was ready has been done. What it answers is waited for. */
  onWait?: () => Promise<void> | undefined | void;
}

/**
 * Copies each pair of descriptors until all have ended, and closes them all.
 *
 * At the end of file of a pair's read side and when all is written, the write
 * side is shut down (a socket) or closed (anything else), once no other pair
 * uses it. An error ends its own pair only.
 *
 * Throws a {@linkcode DescriptorError} before anything moves where a descriptor
 * is not open for what is asked; a {@linkcode SystemError} where the system
 * refuses to wait at all. What goes wrong with one pair is in its result.
 */
export function copy(pairs: Iterable<Pair>, options: CopyOptions = {}): Promise<ChannelStatus[]> {
  return new Copier(pairs, options).run();
}

/** A result that is neither bytes nor an error: another thread is at it. */
const UNDER_WAY = -libc.EINPROGRESS;

/** How often in a row a ready descriptor may refuse a splice before it is copied instead. */
const REFUSALS = 1000;

/** What is much, in bytes: more is likely to come at once. */
const MUCH = 64 * 1024;

/** How often a channel with much to carry reads and writes before others get their turn. */
const IN_A_ROW = 8;

/** As `hold`, while another thread is at something: only the event loop hears of its end. */
const THREAD_HOLD = 1;

/** For how long a peer that still sends is listened to, so that our answer reaches it, in milliseconds. */
const LINGER = 2000;

/**
 * How many turns one call gives. V8 has faster code ready for the next call;
 * to change it within the loop of one call it would compile all three times.
 */
const AT_A_TIME = 64;

/** After how many turns the functions of each turn are worth compiling. */
const PROVEN = 64;

/** After this a read on another thread has come back, or still waits and holds nothing, in milliseconds. */
const RETURN = 100;

/** For shutdown(2). */
const READ_SIDE = 0, WRITE_SIDE = 1;

/** A copying that can be looked at while it runs. {@linkcode copy} is the short form. */
export class Copier {
  readonly #options: CopyOptions;
  readonly #hold: number;
  readonly #pool: BufferPool;
  readonly #readiness: Readiness;
  readonly #ports = new Map<number, Port>();
  readonly #sockets = new Map<string, Socket>();
  readonly #channels: Channel[] = [];
  readonly #timers = new Set<ReturnType<typeof setTimeout>>();
  /** Channels that need no readiness: always ready, or come back from another thread. */
  #ready: Channel[] = [];
  #open = 0;
  /** Calls under way on other threads. */
  #underWay = 0;
  /** Turns of the loop so far. */
  #count = 0;
  /** Whether the event loop gets its turn now. The first one comes at once: the caller has more to do. */
  #rang = true;
  /** Whether no channel has had a turn since the last time. */
  #still = false;
  #stopping = false;

  /** Looks at the descriptors; throws a {@linkcode DescriptorError} where one will not do. */
  constructor(pairs: Iterable<Pair>, options: CopyOptions = {}) {
    this.#options = options;
    this.#hold = options.hold ?? 5;
    this.#pool = new BufferPool(options.buffer ?? 1024 * 1024);
    const copied = options.onData !== undefined;
    for (const [rfd, wfd] of pairs) {
      this.#channels.push(new Channel(this.#port(rfd, true), this.#port(wfd, false), copied));
    }
    this.#readiness = new Readiness();
  }

  #port(fd: number, toRead: boolean): Port {
    let port = this.#ports.get(fd);
    if (!port) {
      const descriptor = new Descriptor(fd);
      port = new Port(descriptor, this.#socket(descriptor));
      this.#ports.set(fd, port);
    }
    if (toRead && !port.descriptor.isReadable) {
      throw new DescriptorError(`descriptor ${fd} is not open for reading`);
    }
    if (!toRead && !port.descriptor.isWritable) {
      throw new DescriptorError(`descriptor ${fd} is not open for writing`);
    }
    return port;
  }

  #socket(descriptor: Descriptor): Socket | undefined {
    if (descriptor.kind !== "socket") return undefined;
    let socket = this.#sockets.get(descriptor.identity);
    if (!socket) this.#sockets.set(descriptor.identity, socket = new Socket());
    return socket;
  }

  /** How each channel stands, in the order given; goes on to tell while it runs. */
  get channels(): readonly ChannelStatus[] {
    return this.#channels;
  }

  /** Copies until every channel has ended. To be called once. */
  async run(): Promise<ChannelStatus[]> {
    const restore = () => this.#restore();
    const stop = () => this.stop();
    globalThis.addEventListener("unload", restore);
    this.#options.signal?.addEventListener("abort", stop);
    try {
      for (const channel of this.#channels) this.#begin(channel);
      if (this.#options.signal?.aborted) this.stop();
      await this.#loop();
    } finally {
      this.#stopping = true; // there is nothing left to stop
      this.#options.signal?.removeEventListener("abort", stop);
      globalThis.removeEventListener("unload", restore);
      for (const timer of this.#timers) clearTimeout(timer);
      this.#restore();
      this.#pool.close();
      this.#readiness.close();
    }
    return this.#channels.map((channel) => channel.status());
  }

  /** Reads nothing more; delivers what was read, for `grace` milliseconds at the most. */
  stop(grace: number = this.#options.grace ?? 5000): void {
    if (this.#stopping) return;
    this.#stopping = true;
    // A read on another thread may have bytes that have not come back yet.
    const reads = (channel: Channel) => channel.underWay && !channel.buffer?.held;
    for (const channel of this.#channels) {
      const holds = channel.buffer?.held || channel.outcome || reads(channel);
      if (!holds || channel.lingering) this.#end(channel, "stopped");
    }
    this.#after(Math.min(RETURN, grace), () => {
      for (const channel of this.#channels) if (reads(channel)) this.#end(channel, "stopped");
    });
    this.#after(grace, () => {
      for (const channel of this.#channels) {
        if (channel.state !== ENDED) this.#fail(channel, "write", libc.ECANCELED);
      }
    });
    this.#readiness.alarm(0);
  }

  // ---- The loop: wait, then give a turn to each channel that is ready.

  async #loop(): Promise<void> {
    while (this.#open > 0) {
      const pause = this.#turns();
      if (!pause) continue;
      await pause;
      this.#rang = false;
      this.#still = true;
      this.#readiness.alarm(this.#underWay ? THREAD_HOLD : this.#hold);
    }
  }

  /** Gives turns, until the event loop has to have its own: then it answers when that is over. */
  #turns(): Promise<void> | undefined {
    for (let turns = 0; turns < AT_A_TIME && this.#open > 0; turns++) {
      if (++this.#count === PROVEN) libc.compile();
      const busy = this.#options.onWait?.();
      if (busy) return busy;
      const ready = this.#ready;
      const events = this.#readiness.wait(this.#rang || ready.length > 0 ? 0 : -1);
      for (let i = 0; i < events; i++) this.#dispatch(i);
      if (ready.length > 0) {
        this.#ready = [];
        for (const channel of ready) if (channel.state !== ENDED) this.#turn(channel);
      }
      // A signal ends the wait too, with -EINTR.
      if (!this.#rang && events >= 0) continue;
      return this.#still && events > 0 && this.#open > 0 ? this.#readiness.idle() : libc.rest();
    }
    return undefined;
  }

  #dispatch(index: number): void {
    const port = this.#ports.get(this.#readiness.descriptor(index));
    if (!port) {
      this.#rang = true; // only the alarm has none
      return;
    }
    const events = this.#readiness.events(index);
    if (events & ~libc.OUT) {
      for (const channel of port.readers) if (channel.waits === READING) this.#turn(channel);
    }
    if (events & ~libc.IN) {
      for (const channel of port.writers) {
        if (channel.waits === WRITING) this.#turn(channel);
        else if (events & (libc.ERR | libc.HUP)) this.#hungUp(channel);
      }
    }
  }

  // ---- The way of a byte: from rfd into the buffer, from the buffer to wfd.

  #turn(channel: Channel): void {
    this.#still = false;
    if (channel.lingering) return this.#discard(channel);
    if (channel.direct) return this.#splice(channel);
    this.#makeNonBlocking(channel);
    // Behind much, or behind what was stuck, there is more: it is fetched
    // without asking again.
    let more = channel.state === WRITING;
    for (let times = 0; times < IN_A_ROW; times++) {
      if (channel.state === READING) {
        const length = this.#fill(channel);
        if (length <= 0) return this.#notFilled(channel, length);
        this.#saw(channel, "read", channel.rfd, length);
        more = length >= MUCH;
      }
      const length = this.#drain(channel);
      if (length <= 0) return this.#notDrained(channel, length);
      this.#saw(channel, "write", channel.wfd, length);
      if (channel.buffer?.held) return this.#await(channel, WRITING);
      channel.state = READING;
      if (!more || this.#stopping) break;
    }
    this.#await(channel, READING);
  }

  /** One call moves bytes from rfd to wfd: both are pipes, and so buffers already. */
  #splice(channel: Channel): void {
    const length = libc.splice(channel.rfd, channel.wfd, this.#pool.size);
    if (length <= 0) return this.#notSpliced(channel, length);
    this.#saw(channel, "read", channel.rfd, length);
    this.#saw(channel, "write", channel.wfd, length);
    this.#await(channel, channel.state);
  }

  #notSpliced(channel: Channel, length: number): void {
    // A pipe that nobody reads is broken even where there is nothing to write.
    const atEnd = length === -libc.EPIPE && libc.poll(channel.rfd, libc.IN) === libc.HUP;
    if (length === 0 || atEnd) return this.#endOfFile(channel);
    // It does not say which side was not ready: wait for the other one now.
    if (length === -libc.EAGAIN) return this.#refused(channel, 1 - channel.state);
    if (this.#copiesInstead(channel, length)) return this.#turn(channel);
    this.#fail(channel, "write", length);
  }

  /** What splice(2) needs of a socket; asked each turn, as other processes share the flag. */
  #makeNonBlocking({ spliced, source, sink, rfd, wfd }: Channel): void {
    if (!spliced) return;
    source.socket?.makeNonBlocking(rfd);
    sink.socket?.makeNonBlocking(wfd);
  }

  /** Reads into the buffer, which is empty. */
  #fill(channel: Channel): number {
    const { descriptor } = channel.source;
    const buffer = channel.buffer ??= (channel.spliced ? this.#pool.takePipe() : undefined) ??
      this.#pool.takeMemory();
    if (buffer instanceof PipeBuffer) return buffer.fill(descriptor);
    const length = descriptor.mayWait
      ? this.#onThread(channel, () => descriptor.readOnThread(buffer.room))
      : descriptor.tryRead(buffer.room);
    if (length > 0) {
      buffer.filled(length);
      this.#options.onData?.(channel, buffer.content);
    }
    return length;
  }

  /** Writes from the buffer. */
  #drain(channel: Channel): number {
    const { descriptor } = channel.sink;
    const buffer = channel.buffer;
    if (buffer === undefined) return 0;
    if (buffer instanceof PipeBuffer) return buffer.drain(descriptor);
    const length = descriptor.mayWait
      ? this.#onThread(channel, () => descriptor.writeOnThread(buffer.content))
      : descriptor.tryWrite(buffer.content);
    if (length > 0) buffer.drained(length);
    return length;
  }

  #notFilled(channel: Channel, length: number): void {
    if (length === UNDER_WAY) return;
    if (length === 0) return this.#endOfFile(channel);
    if (length === -libc.EAGAIN) return this.#refused(channel, READING);
    if (this.#copiesInstead(channel, length)) return this.#turn(channel);
    this.#fail(channel, "read", length);
  }

  #notDrained(channel: Channel, length: number): void {
    channel.state = WRITING;
    if (length === UNDER_WAY) return;
    if (length === 0 || length === -libc.EAGAIN) return this.#refused(channel, WRITING);
    if (this.#copiesInstead(channel, length)) return this.#turn(channel);
    this.#fail(channel, "write", length);
  }

  /** A call may wait: another thread makes it, and the channel gets its next turn with the outcome. */
  #onThread(channel: Channel, call: () => Promise<number>): number {
    const { outcome } = channel;
    channel.outcome = undefined;
    if (outcome !== undefined) return outcome;
    channel.underWay = true;
    this.#underWay++;
    this.#readiness.alarm(THREAD_HOLD);
    this.#waitFor(channel, undefined);
    call().then((result) => {
      channel.underWay = false;
      channel.outcome = result;
      this.#underWay--;
      this.#ready.push(channel);
      if (this.#open > 0) this.#readiness.alarm(0);
    });
    return UNDER_WAY;
  }

  #saw(channel: Channel, operation: "read" | "write", fd: number, length: number): void {
    channel.refused = 0;
    channel.count(operation === "write" ? length : 0);
    this.#options.onOperation?.(operation, fd, length);
  }

  // ---- Waiting: the readable event is masked unless the buffer is empty, the
  // writable one unless it is not.

  #await(channel: Channel, state: number): void {
    channel.state = state;
    if (!channel.buffer?.held) {
      if (channel.buffer) this.#pool.give(channel.buffer);
      channel.buffer = undefined;
      if (this.#stopping) return this.#end(channel, "stopped");
    }
    this.#waitFor(channel, state);
    const port = state === READING ? channel.source : channel.sink;
    if (port.alwaysReady) this.#ready.push(channel);
  }

  #waitFor(channel: Channel, waits: number | undefined): void {
    if (channel.waits === waits) return;
    if (channel.waits === READING) this.#watch(channel.source, -1, 0);
    if (channel.waits === WRITING) this.#watch(channel.sink, 0, -1);
    channel.waits = waits;
    if (waits === READING) this.#watch(channel.source, 1, 0);
    if (waits === WRITING) this.#watch(channel.sink, 0, 1);
  }

  #watch(port: Port, readers: number, writers: number): void {
    port.reading += readers;
    port.writing += writers;
    if (port.alwaysReady) return;
    const events = (port.reading ? libc.IN : 0) | (port.writing ? libc.OUT : 0);
    // A descriptor that is written to is watched at all times: its reader may die.
    const wanted = events || port.openWriters ? events : -1;
    port.alwaysReady = !this.#readiness.watch(port.descriptor.fd, port.watched, wanted);
    port.watched = wanted;
  }

  /** Ready, it was said, but nothing moved. Where that does not end, splice(2) is not to be trusted. */
  #refused(channel: Channel, state: number): void {
    if (++channel.refused > REFUSALS) this.#copiesInstead(channel, -libc.EINVAL);
    this.#await(channel, channel.direct || channel.buffer?.held ? state : READING);
  }

  /** Where a descriptor refuses splice(2) the channel reads and writes instead; nothing is lost. */
  #copiesInstead(channel: Channel, error: number): boolean {
    const refuses = error === -libc.EINVAL || error === -libc.ENOSYS || error === -libc.EOPNOTSUPP;
    if (!channel.spliced || !refuses) return false;
    channel.spliced = channel.direct = false;
    const pipe = channel.buffer;
    channel.buffer = undefined;
    channel.state = READING;
    if (!(pipe instanceof PipeBuffer)) return true;
    if (pipe.held > 0) {
      channel.buffer = this.#pool.takeMemory();
      channel.buffer.hold(pipe.empty());
      channel.state = WRITING;
    }
    this.#pool.give(pipe);
    return true;
  }

  // ---- Begin and end.

  #begin(channel: Channel): void {
    const { source, sink } = channel;
    this.#open++;
    source.open++;
    sink.open++;
    sink.openWriters++;
    if (source.socket) source.socket.readers++;
    if (sink.socket) {
      sink.socket.writers++;
      sink.socket.isWritten = true;
    }
    source.readers.push(channel);
    sink.writers.push(channel);
    this.#watch(sink, 0, 0);
    this.#await(channel, READING);
  }

  #endOfFile(channel: Channel): void {
    const lost = channel.source.socket?.error;
    if (lost) return this.#fail(channel, "read", lost);
    this.#options.onOperation?.("read", channel.rfd, 0);
    this.#end(channel, "eof");
  }

  /** Nobody will ever read what this channel writes, and it has nothing to write yet. */
  #hungUp(channel: Channel): void {
    if (channel.state !== READING || channel.outcome !== undefined || channel.lingering) return;
    // What it can read decides: an end of file is none the worse for it.
    if (!channel.underWay && libc.poll(channel.rfd, libc.IN)) return this.#turn(channel);
    const { kind, fd } = channel.sink.descriptor;
    const { socket } = channel.sink;
    if (socket) socket.error ||= Math.max(0, libc.socketOption(fd, libc.SO_ERROR));
    // A peer that has closed a unix socket has gone, but nothing is lost.
    if (socket && !socket.error) return this.#end(channel, "hangup");
    // Nor where the program on our side closes two pipes together, the session
    // being over, unless the other side still sends: see #discard.
    if (!socket && this.#answers(channel)) return this.#listenOn(channel);
    this.#fail(channel, "write", socket?.error ?? (kind === "pipe" ? libc.EPIPE : libc.EIO));
  }

  /** An error ends its own channel: what it still held is lost, and others go on. */
  #fail(channel: Channel, operation: "read" | "write", errno: number): void {
    const port = operation === "read" ? channel.source : channel.sink;
    const error = new SystemError(operation, port.descriptor.fd, errno);
    channel.error ??= error;
    if (port.socket && error.errno !== libc.EPIPE) port.socket.error = error.errno;
    if (operation === "write" && this.#answers(channel)) this.#listenOn(channel);
    else this.#end(channel, "error");
    this.#options.onError?.(error); // who hears of it finds the descriptors closed
  }

  /** Whether the peer that a channel reads waits for an answer on the same TCP connection. */
  #answers({ source }: Channel): boolean {
    return !this.#stopping && source.socket?.isWritten === true && !source.descriptor.isLocal;
  }

  /**
   * Reads what still comes, and drops it, until the peer stops. Were its
   * connection closed with bytes unread, TCP would reset it, answer and all
   * (RFC 2525, 2.17).
   */
  #listenOn(channel: Channel): void {
    this.#drop(channel);
    channel.lingering = true;
    this.#endWriting(channel);
    this.#linger(channel.source.socket);
    this.#await(channel, READING);
  }

  /** Once all is written to a socket, its peer has some time to stop sending. */
  #linger(socket: Socket | undefined): void {
    const lingering = this.#channels.filter((channel) =>
      channel.lingering && channel.source.socket === socket
    );
    if (socket?.writers || lingering.length === 0) return;
    this.#after(LINGER, () => {
      for (const channel of lingering) this.#endLingering(channel);
    });
  }

  #discard(channel: Channel): void {
    const buffer = this.#pool.takeMemory();
    const length = channel.source.descriptor.tryRead(buffer.room);
    this.#pool.give(buffer);
    if (length === -libc.EAGAIN) return;
    if (length <= 0) return this.#endLingering(channel);
    this.#options.onOperation?.("read", channel.rfd, length);
    if (!channel.error) this.#report(channel, new SystemError("write", channel.wfd, libc.EPIPE));
  }

  #endLingering(channel: Channel): void {
    this.#end(channel, channel.error ? "error" : "hangup");
  }

  #end(channel: Channel, how: "eof" | "hangup" | "error" | "stopped"): void {
    if (channel.state === ENDED) return;
    this.#drop(channel);
    this.#waitFor(channel, undefined);
    channel.end(how);
    this.#open--;
    if (!channel.lingering) this.#endWriting(channel);
    this.#endReading(channel);
  }

  #drop(channel: Channel): void {
    // A buffer that another thread uses is left to it.
    if (channel.buffer && !channel.underWay) this.#pool.give(channel.buffer);
    channel.buffer = undefined;
  }

  #endWriting(channel: Channel): void {
    const { sink } = channel;
    sink.openWriters--;
    if (sink.socket && --sink.socket.writers === 0) {
      this.#checked(channel, () => sink.descriptor.shutdown(WRITE_SIDE));
      this.#linger(sink.socket);
    }
    this.#release(channel, sink);
  }

  #endReading(channel: Channel): void {
    const { source } = channel;
    if (source.socket && --source.socket.readers === 0 && source.descriptor.isLocal) {
      this.#checked(channel, () => source.descriptor.shutdown(READ_SIDE));
    }
    this.#release(channel, source);
  }

  /** The channel is done with one of its numbers; the last to be so closes it. */
  #release(channel: Channel, port: Port): void {
    port.open--;
    this.#watch(port, 0, 0);
    if (port.open > 0) return;
    const { socket, descriptor } = port;
    if (socket && socket.readers + socket.writers === 0) socket.restore(descriptor.fd);
    this.#checked(channel, () => descriptor.close());
  }

  #checked(channel: Channel, call: () => void): void {
    try {
      call();
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      this.#report(channel, error);
    }
  }

  #report(channel: Channel, error: SystemError): void {
    channel.error ??= error;
    this.#options.onError?.(error);
  }

  #after(milliseconds: number, callback: () => void): void {
    this.#timers.add(setTimeout(() => {
      callback();
      this.#readiness.alarm(0); // even where the last channel has ended: the loop has to see it
    }, milliseconds));
  }

  /** Puts the flags of all sockets back that are still open: at the end, however it comes. */
  #restore(): void {
    for (const port of this.#ports.values()) {
      if (port.open > 0) port.socket?.restore(port.descriptor.fd);
    }
  }
}
