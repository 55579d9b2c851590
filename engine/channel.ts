/**
 * A channel: one pair of descriptors, its counts, and one step of its copying.
 *
 * @module
 */
import { EAGAIN, ECANCELED, EIO, EMSGSIZE, EPIPE, ERR, HUP } from "../sys/constants.ts";
import { SystemError } from "../sys/error.ts";
import * as libc from "../sys/libc.ts";
import { type Endpoint, FIRST_LOOK_MS, LAST_LOOK_MS, READ, WRITE } from "./endpoint.ts";
import type { Loop } from "./loop.ts";
import type { Member, Members } from "./members.ts";
import { Coalescing, Pace, REST_MICROSECONDS } from "./pacing.ts";
import type { BufferPool, PipeBudget } from "./pool.ts";
import {
  bestRoute,
  Direct,
  fallBack,
  type Route,
  type RoutedChannel,
  ThroughPipe,
  UNDER_WAY,
} from "./route.ts";

/**
 * How a channel ended: "eof", its input ended, and all of it was written; "hangup", the reader has
 * gone, and nothing was lost; "error"; or "stopped", by a signal, or by `stop`.
 */
export type End = "eof" | "hangup" | "error" | "stopped";

/** How a channel stands, or ended. */
export interface ChannelStatus {
  /** The number of the descriptor that it reads. */
  readonly rfd: number;
  /** The number of the descriptor that it writes. */
  readonly wfd: number;
  /** Bytes written so far. */
  readonly bytes: number;
  /** Reads and writes so far that moved bytes. */
  readonly operations: number;
  /** For how long it has been open, or was, since it was given to its Copier, in seconds. */
  readonly seconds: number;
  /**
   * Whether the kernel moves the bytes (splice(2)), or they are copied through the process, as
   * small pieces of connections that are served are at any time.
   */
  readonly route: "splice" | "copy";
  /**
   * Why they are copied: "splice: Invalid argument", "append", "file", "tls", "procfs",
   * "terminal", "device", "messages", or "dump", as `onData` asks for; undefined where they are not.
   */
  readonly reason: string | undefined;
  /** How much the pipes hold that its bytes go through, in bytes. */
  readonly pipes: PipeSizes;
  /** How it ended; undefined while it is open. */
  readonly ended: End | undefined;
  /**
   * The first thing that went wrong, if anything. A copy that was stopped before
   * the end of file was read has ECANCELED here.
   */
  readonly error: SystemError | undefined;
}

/** What went wrong in a channel; to be stopped with nothing lost is no failure. */
export function failure({ ended, error }: ChannelStatus): SystemError | undefined {
  return ended === "stopped" && error?.errno === ECANCELED ? undefined : error;
}

/** How much the pipes hold that a channel's bytes go through, in bytes; undefined where there is no pipe. */
export interface PipeSizes {
  /** The pipe that is its rfd. */
  readonly read: number | undefined;
  /** The engine's own pipe, between rfd and wfd. */
  readonly own: number | undefined;
  /** The pipe that is its wfd. */
  readonly write: number | undefined;
}

/** Whom a channel tells of its errors and of its end. */
export interface Owner {
  onError?: ((error: SystemError, channel: ChannelStatus) => void) | undefined;
  onEnd(channel: Channel): void;
}

/** What the channels of one copying share. */
export interface Host extends Owner {
  readonly loop: Loop;
  readonly pool: BufferPool;
  readonly budget: PipeBudget;
  /** All that are open. */
  readonly channels: Members<Channel>;
  /** The most bytes a second in each channel; 0 where there is no limit. */
  readonly rate: number;
  /** Set once nothing more is to be read, with the cause of the errors of what is cut off. */
  readonly stopped: { readonly reason: unknown } | undefined;
  /** Those that only wait for their peers to have everything, once the copying was stopped. */
  readonly closing: Set<Endpoint>;
  /** Whether a number is copied, served, watched, or about to be closed here. */
  isUsed(fd: number): boolean;
  onOperation?:
    | ((
      operation: "read" | "write",
      descriptor: number,
      bytes: number,
      channel: ChannelStatus,
    ) => void)
    | undefined;
  onData?: ((channel: ChannelStatus, bytes: Uint8Array) => void) | undefined;
}

/** After a read of so many bytes more is likely to be there already. */
const LARGE_READ_BYTES = 64 * 1024;

/**
 * How often a channel with much to carry reads and writes before others have
 * their turn. With 1, TCP to a pipe takes 1.2 times the CPU (`deno task bench
 * --paths=tcp-pipe --against=OTHER`).
 */
const READS_PER_STEP = 8;

/**
 * How many bytes it carries before others have their turn: without that bound, a stream
 * through large pipes would delay each message beside it by 4 ms (`deno task bench:serving
 * --tests=paced`).
 */
const BYTES_PER_STEP = 1024 * 1024;

/**
 * How many times in a row nothing may move although epoll calls a descriptor ready, before that is
 * not believed any more. Where eight processes read one pipe, 66 in a row were seen.
 */
const MAX_STALLS = 1000;

/**
 * A channel is busy, and its pipes are worth enlarging, when so many reads in a
 * row brought so many bytes within so many milliseconds.
 */
const BUSY = { reads: 64, bytes: 256 * 1024, milliseconds: 100 };

/** How often a channel is found busy until its pipes are to grow again: there may be room for that by then. */
const CHECKS_UNTIL_GROWTH = 64;

/** Errors of one call, which say nothing of the connection's other direction. */
const OF_CALLS: readonly number[] = [EPIPE, EMSGSIZE];

/** For how long a peer that acknowledges nothing is waited for until it is reset. */
const UNACKNOWLEDGED_MS = 60_000;

/** For so long a read on another thread is waited for once its channel is to end: what it has read comes back by then. */
export const THREAD_RETURN_MS = 100;

/** Besides READ and WRITE: it waits at no endpoint, but for its rate, or for another thread. */
const NOTHING = -1;

/** One pair. */
export class Channel implements ChannelStatus, RoutedChannel, Member {
  place = 0;
  readonly source: Endpoint;
  readonly sink: Endpoint;
  readonly onData: ((bytes: Uint8Array) => void) | undefined;
  /**
   * Like the other NaNs here, a double from the start: V8 throws compiled code away when a
   * field's integer outgrows 32 bits or gets a fraction, three times in the first 6 GB.
   */
  bytes = NaN;
  operations = 0;
  error: SystemError | undefined;
  /**
   * New, open, or how it ended. Lingering: the write side has failed, and what the
   * peer still sends is read and dropped, so that it gets our reply to the other
   * direction. Draining: the read side was cut off, and the write side is to be reset
   * once its peer has acknowledged all that was sent.
   */
  #phase: "new" | "open" | "lingering" | "draining" | End = "new";
  /** What it is counted for at its endpoints: READ at the source, WRITE at the sink. */
  #waitsFor = NOTHING;
  /** Whether the sink's peer has gone during a read on another thread. */
  #isHungUp = false;
  /** How many times in a row nothing has moved although epoll had called its endpoint ready. */
  #stalls = 0;
  #route: Route;
  /** Reads since the last check whether it is busy; operations, bytes and time of that check. */
  #reads = 0;
  #operationsThen = 0;
  #bytesThen = NaN;
  #then = NaN;
  /** In how many checks it is to be found busy until its pipes grow. With the first, only a pipe of ours does. */
  #checksUntilGrowth = 2;
  /** Undefined until it is first found busy. */
  #coalescing: Coalescing | undefined;
  /** How much may be read at a time; undefined where there is no rate. */
  readonly #pace: Pace | undefined;
  readonly #host: Host;
  readonly #owner: Owner;
  readonly #startedAt: number;
  #endedAt = NaN;

  /** The channel from `source` to `sink`. */
  constructor(source: Endpoint, sink: Endpoint, host: Host, owner: Owner = host) {
    this.source = source;
    this.sink = sink;
    this.#host = host;
    this.#owner = owner;
    this.#startedAt = this.#then = host.loop.time;
    this.bytes = this.#bytesThen = 0;
    this.#pace = host.rate > 0 ? new Pace(host.rate) : undefined;
    this.onData = host.onData && ((bytes) => host.onData?.(this, bytes));
    this.#route = bestRoute(this);
  }

  get rfd(): number {
    return this.source.fd.fd;
  }
  get wfd(): number {
    return this.sink.fd.fd;
  }
  get loop(): Loop {
    return this.#host.loop;
  }
  get pool(): BufferPool {
    return this.#host.pool;
  }
  get route(): "splice" | "copy" {
    return this.reason === undefined ? "splice" : "copy";
  }
  get reason(): string | undefined {
    return this.#route.reason;
  }
  get seconds(): number {
    return ((this.#endedAt || performance.now()) - this.#startedAt) / 1000;
  }
  get pipes(): PipeSizes {
    return {
      read: this.source.pipeSize,
      own: this.#route.pipeSize,
      write: this.sink.pipeSize,
    };
  }
  get ended(): End | undefined {
    const phase = this.#phase;
    const isOver = phase !== "new" && phase !== "open" && phase !== "lingering" &&
      phase !== "draining";
    return isOver ? phase : undefined;
  }
  get waitsFor(): number {
    return this.#waitsFor;
  }
  /**
   * Whether the peer has sent its end: then a piece that is sent waits for that, so that both
   * leave in one packet. A connection costs 5 % less CPU so (`deno task bench:serving
   * --tests=http`). With a rate, the piece would have to wait for too long.
   */
  get readsOn(): boolean {
    return this.source.isEnding && !this.#pace;
  }

  /** How it stands, in an object of its own. */
  status(): ChannelStatus {
    const { rfd, wfd, bytes, operations, seconds, route, reason, pipes, ended, error } = this;
    return { rfd, wfd, bytes, operations, seconds, route, reason, pipes, ended, error };
  }

  /**
   * Opens channels: all of them take their places at their endpoints before the first one waits
   * to read, so that each descriptor is watched once for all of them. Returns the error where the
   * system refuses to watch one; then all of these have ended with it. It is returned, not
   * thrown, as what a callback throws may be of the same class. By indices, as for
   * {@linkcode Endpoint.ready}: 1 kB less garbage for each served connection.
   */
  static begin(channels: readonly Channel[]): SystemError | undefined {
    const { length } = channels;
    for (let i = 0; i < length; i++) (channels[i] as Channel).#enter();
    for (let i = 0; i < length; i++) (channels[i] as Channel).#endIfStopped();
    try {
      for (let i = 0; i < length; i++) (channels[i] as Channel).#awaitFirst();
      for (let i = 0; i < length; i++) (channels[i] as Channel).#watchSink();
    } catch (error) {
      // No callback is called in there: the error is the system's.
      if (!(error instanceof SystemError)) throw error;
      for (const channel of channels) channel.cut(error);
      return error;
    }
    return undefined;
  }

  #endIfStopped(): void {
    if (this.#host.stopped) this.#end("stopped");
  }

  #awaitFirst(): void {
    if (this.#isOpen) this.#wait(READ);
  }

  #watchSink(): void {
    if (!this.#isOpen) return;
    this.sink.rearm();
    // That its reader has gone was reported, maybe, before this channel came.
    if (this.sink.isEdgeTriggered) this.loop.soon({ run: () => this.sinkHungUp() });
  }

  #enter(): void {
    this.#phase = "open";
    this.loop.ref();
    this.source.addReader(this);
    this.sink.addWriter(this);
  }

  // ---- Copying: from rfd into the buffer, from the buffer to wfd.

  /** One step: whatever can move at once, within bounds that leave others their turn. */
  run(): void {
    if (this.#phase === "lingering") return this.#discard();
    if (this.#phase !== "open") return;
    const route = this.#route;
    // After a full read or a blocked write more is probably queued: skip epoll once.
    let more = route.isHeldBack ? this.readsOn : route.held > 0;
    const isAlone = this.#host.channels.size <= 2; // it has at most its other direction beside it
    const enough = isAlone ? Infinity : this.bytes + BYTES_PER_STEP;
    let length = 0;
    for (let times = 0; times < READS_PER_STEP; times++) {
      if (route.held === 0) {
        const most = this.#pace ? this.#pace.allows(this.pool.size) : this.pool.size;
        if (most === 0) return this.#pause();
        length = route.fill(most);
        if (length <= 0) return this.#stalled(READ, length);
        // Its peer may wait for that before it sends the rest (RFC 1122, 4.2.3.4).
        if (this.source.delaysAck && !this.source.isEnding) this.source.acknowledge();
        this.#count("read", this.rfd, length);
        this.#pace?.spend(length);
        if (++this.#reads === BUSY.reads) this.#checkIfBusy();
        // All that is ready is read before any of it is sent: who is woken by one piece would
        // be woken again by the next. `ab` makes 1.0 to 1.1 times as many connections a second then
        // (`deno task bench:serving --tests=http`).
        if (route.isHeldBack && this.loop.hasMoreReady) return this.loop.soon(this);
        more = this.readsOn || length >= LARGE_READ_BYTES && route.triesAgain;
      }
      length = route.drain();
      if (length <= 0) return this.#stalled(WRITE, length);
      this.bytes += length;
      this.#count("write", this.wfd, length);
      if (route.held > 0) return this.#wait(WRITE, true);
      if (!more || this.bytes >= enough || this.#host.stopped) break;
    }
    if (isAlone && this.#coalescing?.restsAfter(length)) libc.pause(REST_MICROSECONDS);
    this.#wait(route.waitsFor, true);
  }

  #checkIfBusy(): void {
    const now = performance.now(), bytes = this.bytes - this.#bytesThen;
    const isBusy = bytes >= BUSY.bytes && now - this.#then <= BUSY.milliseconds;
    const writes = this.operations - this.#operationsThen - BUSY.reads;
    this.#reads = 0;
    this.#operationsThen = this.operations;
    this.#bytesThen = this.bytes;
    this.#then = now;
    this.#route.setBusy(isBusy);
    if (isBusy && --this.#checksUntilGrowth === 0) {
      this.#checksUntilGrowth = CHECKS_UNTIL_GROWTH;
      this.#growPipes(bytes / BUSY.reads, bytes / writes);
    }
    // No rests where bytes are copied: they would leave the processor's cache meanwhile, and
    // `append` takes 1.5 times as long (`deno task bench --tests=shell --against=OTHER`).
    if (!isBusy || this.route === "copy") return this.#coalescing?.stop();
    const { source, sink } = this;
    this.#coalescing ??= new Coalescing();
    this.#coalescing.observe(
      bytes / BUSY.reads,
      Math.min(source.pipeSize ?? 0, sink.pipeSize ?? Infinity),
    );
  }

  /** Enlarges its pipes. The arguments are the mean sizes of a read and of a write, in bytes. */
  #growPipes(readSize: number, writeSize: number): void {
    const { source, sink } = this, pipes: Endpoint[] = [];
    // A pipe that takes more than its size at once has slots of more than 4 KiB, as they come from
    // TCP: enlarged, it would hold more than the processor's cache does (doc/design.md).
    // The sink comes first: if it stayed small, enlarging the source would gain nothing.
    if (writeSize <= (sink.pipeSize ?? 0)) pipes.push(sink);
    if (readSize <= (source.pipeSize ?? 0)) pipes.push(source);
    this.#host.budget.grow(...pipes);
  }

  /** Reads nothing until its pace allows it. */
  #pause(): void {
    this.#wait(NOTHING);
    this.#pace?.whenAllowed(this.loop, this);
  }

  #count(operation: "read" | "write", fd: number, length: number): void {
    this.#stalls = 0;
    this.operations++;
    this.#host.onOperation?.(operation, fd, length, this);
  }

  /** Nothing moved: `result` of the route's fill (READ) or drain (WRITE) says why. */
  #stalled(direction: typeof READ | typeof WRITE, result: number): void {
    switch (result) {
      case UNDER_WAY:
        return this.#wait(NOTHING);
      case 0:
        if (direction === READ) return this.#endOfFile();
        return this.#notReady();
      case -EAGAIN:
        return this.#notReady();
      case -EPIPE: { // also of a fill, by splice(2): it is wfd that nobody reads, or a device lost something
        const isDevice = direction === READ && this.source.fd.kind === "device";
        return this.#fail(isDevice ? "read" : "write", result);
      }
      default:
        if (this.#fallBack(-result)) return this.run();
        // Not `direction`: a fill may have an empty message to send first.
        this.#fail(this.#route.waitsFor === READ ? "read" : "write", result);
    }
  }

  /** epoll said ready, but nothing moved. After {@linkcode MAX_STALLS} of these it is not believed. */
  #notReady(): void {
    if (this.#isHungUp) return this.#route.held > 0 ? this.loop.soon(this) : this.sinkHungUp();
    if (++this.#stalls > MAX_STALLS) {
      this.#stalls = 0;
      const { waitsFor } = this.#route;
      const waitsAt = waitsFor === READ ? this.source : this.sink;
      // Where poll(2) says "not ready", another process was quicker each time. Where it says
      // "ready", splice(2) is what fails; and where that is not in use, epoll is wrong.
      const ready = waitsAt.readiness(waitsFor);
      if (ready < 0) return this.#fail(waitsFor === READ ? "read" : "write", ready);
      if (ready > 0 && !this.#fallBack(EAGAIN)) waitsAt.makeEdgeTriggered();
    }
    this.#wait(this.#route.waitsFor);
  }

  /** Goes on through memory in place of splice(2), with nothing lost. Returns false where it does so already. */
  #fallBack(error: number): boolean {
    const route = this.#route;
    if (!(route instanceof Direct || route instanceof ThroughPipe)) return false;
    this.#route = fallBack(route, this, error);
    return true;
  }

  // ---- Waiting: watch for readable while the buffer is empty, for writable while it is not.

  /** Waits for its next turn; `moved` says that there may be more without any news from epoll. */
  #wait(direction: number, moved = false): void {
    const route = this.#route;
    if (route.held === 0 && !route.isUnderWay) {
      route.release();
      if (this.#host.stopped && this.#phase === "open") return this.#end("stopped");
    }
    const hasWaited = direction === this.#waitsFor;
    if (!hasWaited) this.#waitFor(direction);
    if (direction === NOTHING) return;
    const endpoint = direction === READ ? this.source : this.sink;
    if (hasWaited) endpoint.endFirstWatch();
    if (endpoint.isAlwaysReady || moved && endpoint.isEdgeTriggered) this.loop.soon(this);
  }

  #waitFor(direction: number): void {
    if (this.#waitsFor === READ) this.source.awaitReadable(-1);
    if (this.#waitsFor === WRITE) this.sink.awaitWritable(-1);
    this.#waitsFor = direction;
    if (direction === READ) this.source.awaitReadable(1);
    if (direction === WRITE) this.sink.awaitWritable(1);
  }

  // ---- The end.

  #endOfFile(): void {
    const lost = this.source.connection?.error;
    // EPIPE: the peer had ended its side before its reset, so this end is true (tcp_reset() of Linux).
    if (lost && lost !== EPIPE) return this.#fail("read", lost);
    this.#host.onOperation?.("read", this.rfd, 0, this);
    this.#end("eof");
  }

  get #isOpen(): boolean {
    return this.#phase === "open";
  }

  /** The sink says ERR or HUP, while this channel does not wait to write it. */
  sinkHungUp(): void {
    const { fd, connection } = this.sink;
    const route = this.#route;
    if (this.#phase === "draining" && libc.poll(fd.io, 0) & HUP) return this.#end("error");
    if (!this.#isOpen || route.held > 0) return;
    const events = libc.poll(fd.io, 0);
    if (events < 0) return this.#fail("write", events);
    if (!(events & (ERR | HUP))) return; // the event has passed
    if (fd.kind === "file" && !(events & HUP)) return; // ERR is news there, as in /proc/pressure
    if (connection && !(events & HUP)) {
      // ERR without an error is an error queue, of which the endpoint takes care.
      connection.error ||= libc.pendingError(fd.fd);
      if (!connection.error) return;
    }
    // Reading decides: at the end of file nothing is lost, and that is no error.
    const ready = route.isUnderWay ? 0 : this.source.readiness(READ);
    if (ready < 0) return this.#fail("read", ready);
    if (ready > 0) {
      this.#pace?.allowOne();
      this.run();
      // The error of a refused datagram shows once only: the next one is sent.
      if (connection?.error && this.#isOpen) this.#fail("write", connection.error);
      return;
    }
    if (connection) connection.error ||= libc.pendingError(fd.fd);
    if (!connection?.error) {
      // A program that closes both its pipes (ssh's ProxyCommand), or its unix
      // socket, has ended the session: an error only if the peer still sends,
      // see #discard.
      if (this.#peerAwaitsReply) return this.#linger();
      if (connection && route.isUnderWay) return this.#hangUpLater();
      if (connection) return this.#end("hangup");
    }
    this.#fail("write", connection?.error ?? (fd.kind === "pipe" ? EPIPE : EIO));
  }

  /**
   * The sink's peer has gone while another thread reads: whether there was anything left for it
   * shows soon. If the read has not come back by then it is an error, as it would take the
   * writer's next bytes with it.
   */
  #hangUpLater(): void {
    if (this.#isHungUp) return;
    this.#isHungUp = true;
    this.sink.makeEdgeTriggered(); // HUP would be reported for ever
    this.loop.after(THREAD_RETURN_MS, () => {
      if (this.#isOpen) this.#fail("write", EPIPE);
    });
  }

  /** An error ends its own channel: what it still held is lost, and others go on. */
  #fail(operation: "read" | "write", errno: number): void {
    const { fd, connection } = operation === "read" ? this.source : this.sink;
    const error = new SystemError(operation, fd.fd, errno);
    this.error ??= error;
    if (connection && !OF_CALLS.includes(error.errno)) connection.error = error.errno;
    if (operation === "write" && this.#peerAwaitsReply) this.#linger();
    else if (operation === "read" && this.#isCutOff) this.#passReset();
    else this.#end("error");
    this.#owner.onError?.(error, this); // last, so that the callback finds the descriptors closed
  }

  /** Whether the peer that it reads waits for an answer on the same TCP connection. */
  get #peerAwaitsReply(): boolean {
    const { fd, connection } = this.source;
    return !this.#host.stopped && connection?.wasWritten === true && !fd.isUnix &&
      !this.source.resets;
  }

  /** Whether the peer that it reads has gone, with an error, and a TCP peer is to learn of that. */
  get #isCutOff(): boolean {
    // A call that is refused, by a filter for example, says nothing of the peer.
    return this.source.passesReset && this.#canReset &&
      (libc.poll(this.source.fd.io, 0) & HUP) !== 0;
  }

  /** An end of file would let what was cut off look whole. */
  #passReset(): void {
    this.sink.resets = true;
    this.#route.release();
    this.#waitFor(NOTHING);
    this.#phase = "draining";
    libc.setNoDelay(this.wfd); // for a part of a packet that waits for the end (MSG_MORE)
    this.#endOnceAcknowledged(Infinity, this.loop.time, FIRST_LOOK_MS);
  }

  /** A reset drops what is not acknowledged: so much that was `before`, as last changed at `since`. */
  #endOnceAcknowledged(before: number, since: number, pause: number): void {
    if (this.#phase !== "draining") return;
    const bytes = libc.bytesUnacknowledged(this.wfd);
    if (bytes < 0) this.sink.resets = false; // the system does not tell: the kernel sends them, and the end
    const now = this.loop.time, changed = bytes < before ? now : since;
    if (bytes <= 0 || now - changed >= UNACKNOWLEDGED_MS) return this.#end("error");
    const next = Math.min(2 * pause, LAST_LOOK_MS);
    this.loop.after(pause, () => this.#endOnceAcknowledged(bytes, changed, next));
  }

  /**
   * Reads what still comes, and drops it, until the peer stops. Were its
   * connection closed with bytes unread, TCP would reset it, answer and all
   * (RFC 2525, 2.17).
   */
  #linger(): void {
    this.#route.release();
    this.#waitFor(READ);
    this.#phase = "lingering";
    this.#report(this.sink.removeWriter(this));
    this.source.connection?.linger(this, this.loop);
    this.source.endFirstWatch();
    if (this.source.isEdgeTriggered) this.loop.soon(this); // what has arrived comes without an event
  }

  #discard(): void {
    const room = this.pool.takeMemory();
    const length = this.source.fd.tryRead(room);
    this.pool.giveMemory(room);
    if (length === -EAGAIN) return;
    if (length <= 0) return this.endLingering();
    if (this.source.delaysAck) this.source.acknowledge();
    this.#host.onOperation?.("read", this.rfd, length, this);
    if (!this.error) this.#report(new SystemError("write", this.wfd, EPIPE));
    if (this.source.isEdgeTriggered) this.loop.soon(this); // and so does the rest
  }

  /** The peer has stopped sending, or had its time, or nobody is there any more whose reply it could wait for. */
  endLingering(): void {
    if (this.#phase === "lingering") this.#end(this.error ? "error" : "hangup");
  }

  /**
   * Whether what it waits for is there already, and only this process is late: it was stopped for
   * a while, is busy with others, or its rate forbids it to go on.
   */
  get isLate(): boolean {
    if (!this.#isOpen) return false;
    const waitsFor = this.#route.waitsFor;
    return (waitsFor === READ ? this.source : this.sink).readiness(waitsFor) > 0;
  }

  /** Ends it unless it has something to deliver, or another thread may bring something. */
  stop(): void {
    if (this.#phase === "draining") return;
    const { held, isUnderWay } = this.#route;
    if (held === 0 && !isUnderWay || this.#phase === "lingering") this.#end("stopped");
  }

  /** Ends it if all that it waits for is a read on another thread. */
  stopReading(): void {
    if (this.#route.held === 0 && this.#route.isUnderWay) this.#end("stopped");
  }

  /** Ends it now, with an error for its status alone: `onError` is not called, whatever is refused meanwhile. */
  cut(cause: number | SystemError): void {
    if (this.ended) return;
    this.error ??= typeof cause === "number" ? new SystemError("read", this.rfd, cause) : cause;
    // Its peer has not ended, which an end of file would say.
    if (this.source.passesReset && this.#canReset) this.sink.resets = true;
    this.#tellOfLoss();
    this.#end("error", false);
  }

  /** Gives up what it still holds. */
  giveUp(): void {
    if (this.ended) return;
    this.#tellOfLoss();
    const error = this.#canceled("write", this.wfd);
    this.error ??= error;
    this.#end("error");
    this.#owner.onError?.(error, this);
  }

  /** The error of who was stopped too early, with the reason for that as its cause. */
  #canceled(operation: "read" | "write", fd: number): SystemError {
    const cause = this.#host.stopped?.reason;
    return new SystemError(operation, fd, ECANCELED, cause === undefined ? undefined : { cause });
  }

  /** What it holds is lost: an end of file would let the rest look whole. */
  #tellOfLoss(): void {
    if (this.#route.held > 0 && this.#canReset) this.sink.resets = true;
  }

  /** Whether its sink can be reset, as unix sockets cannot; and nobody else has it, as one that was inherited. */
  get #canReset(): boolean {
    return this.sink.fd.isOurs && !this.sink.fd.isUnix;
  }

  #end(how: End, isTold = true): void {
    if (this.ended) return;
    const wasLingering = this.#phase === "lingering";
    if (how === "stopped" && !wasLingering) {
      this.error ??= this.#canceled("read", this.rfd);
    }
    if (this.#host.stopped) this.source.closing = this.sink.closing = this.#host.closing;
    this.#route.release();
    if (this.#waitsFor === READ) this.source.awaitNothing(READ);
    if (this.#waitsFor === WRITE) this.sink.awaitNothing(WRITE);
    this.#waitsFor = NOTHING;
    this.#phase = how;
    this.#endedAt = this.loop.time;
    const first = wasLingering ? undefined : this.sink.removeWriter(this);
    const second = this.source.removeReader(this);
    this.error ??= first ?? second;
    this.loop.unref();
    this.#owner.onEnd(this);
    if (!isTold) return;
    // At the end, as a callback may throw.
    this.#report(first);
    this.#report(second);
  }

  #report(error: SystemError | undefined): void {
    if (!error) return;
    this.error ??= error;
    this.#owner.onError?.(error, this);
  }
}
