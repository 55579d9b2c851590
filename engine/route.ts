/**
 * The ways that bytes take from rfd to wfd. A route fills (it reads from rfd
 * what it then holds) and drains (it writes that to wfd), and says what it
 * waits for where neither moved anything.
 *
 * Both return how many bytes moved; 0 at the proved end of rfd; a negative errno,
 * -EAGAIN where the descriptor is not ready; or {@linkcode UNDER_WAY}.
 *
 * - {@linkcode Direct}: one splice(2) from pipe to pipe, which are buffers already.
 * - {@linkcode ThroughPipe}: two, through a pipe of ours, which is the buffer.
 * - {@linkcode BetweenSockets}: the same between two sockets of ours, but small
 *   pieces are received and sent, through a buffer of 16 KiB.
 * - {@linkcode ThroughMemory}: read(2) and write(2), to files, and for what splice(2) refuses;
 *   on another thread, where the call may wait although poll(2) said ready.
 * - {@linkcode Messages}: the same for sockets that keep messages apart.
 * - {@linkcode Whole}: the same for files of procfs, which may give all at once or not at all.
 *
 * splice(2) is refused for many reasons (a terminal, a file with O_APPEND, a
 * seccomp filter) and with any errno. So every error of it but EAGAIN means the
 * same: go on through memory, where the call that fails gives the true error.
 *
 * @module
 */
import { EAGAIN, EIO, EMFILE, EMSGSIZE, EPIPE } from "../sys/constants.ts";
import type { Fd } from "../sys/fd.ts";
import { threads } from "../sys/ffi.ts";
import * as libc from "../sys/libc.ts";
import type { Pipe } from "../sys/pipe.ts";
import { type Endpoint, READ, WRITE } from "./endpoint.ts";
import type { Loop, Task } from "./loop.ts";
import type { BufferPool } from "./pool.ts";

/** The result where another thread makes the call: below every negative errno, of which -4095 is the last. */
export const UNDER_WAY = -4096;

/** How the bytes of a channel move. */
export interface Route {
  /** Why the bytes are copied; undefined where they stay in the kernel, but for small pieces of {@linkcode BetweenSockets}. */
  readonly reason: string | undefined;
  /** Bytes that are read and not yet written. */
  readonly held: number;
  /** Whether another thread makes a call, or has made it, and its result was not taken yet. */
  readonly isUnderWay: boolean;
  /** What it waits for now: READ or WRITE. */
  readonly waitsFor: number;
  /** How much its own pipe holds, in bytes; undefined where it has none. */
  readonly pipeSize: number | undefined;
  /** Whether, after a large read, another one at once is likely to move something. */
  readonly triesAgain: boolean;
  /** Whether what it holds may wait until all that is ready has been read. */
  readonly isHeldBack: boolean;
  /** Reads up to `most` bytes, while it holds none. */
  fill(most: number): number;
  /** Writes what it holds, or a part of it. */
  drain(): number;
  /** Says whether the channel is busy, and so a pipe of ours is worth enlarging. */
  setBusy(isBusy: boolean): void;
  /** Gives its buffer back, with what it holds. */
  release(): void;
}

/** What a route needs of its channel. */
export interface RoutedChannel extends Task {
  readonly source: Endpoint;
  readonly sink: Endpoint;
  readonly pool: BufferPool;
  readonly loop: Loop;
  /** Whether it reads on at once after a read that found something, so that what is sent may wait for the rest. */
  readonly readsOn: boolean;
  /** Sees the bytes of each read, where somebody wants to. */
  readonly onData: ((bytes: Uint8Array) => void) | undefined;
}

/** The best route for these two descriptors. */
export function bestRoute(channel: RoutedChannel): Route {
  const from = channel.source.fd, to = channel.sink.fd;
  if (from.isOurs && to.isOurs) {
    if (!channel.onData) return new BetweenSockets(channel);
    libc.setNoDelay(to.fd); // which BetweenSockets does by itself
  }
  from.openAgain();
  to.openAgain();
  if (!from.isStream) return new Messages(channel, "messages");
  if (from.isOfProcfs) return new Whole(channel, "procfs");
  if (!to.isStream) return new ThroughMemory(channel, "messages");
  if (channel.onData) return new ThroughMemory(channel, "dump");
  for (const kind of ["terminal", "device"] as const) {
    const isOne = (fd: Fd) => fd.kind === kind && (fd.mayBlock || kind === "terminal");
    if (isOne(from) || isOne(to)) return new ThroughMemory(channel, kind);
  }
  // Without a try of splice(2), which would be refused: after it, the kernel refuses RWF_NOWAIT
  // for a pipe that is the source, whose reads take two calls then.
  if (to.appends) return new ThroughMemory(channel, "append");
  // Of a record that does not fit into the pipe at once, splice(2) loses bytes.
  if (from.isTls) return new ThroughMemory(channel, "tls");
  // splice(2) takes the file's offset, and puts it back, without a lock: what another process writes
  // by the same open file description meanwhile would be lost, or be written over. write(2) locks it.
  if (to.isRegular) return new ThroughMemory(channel, "file");
  // Between a pipe and something else, a pipe of ours pays although splice(2) could do without:
  // it can be larger than the one that was given. TCP to a pipe costs half the CPU.
  return from.kind === "pipe" && to.kind === "pipe"
    ? new Direct(channel)
    : new ThroughPipe(channel);
}

/** The route to fall back to, with what `route` holds, after splice(2) has failed with -`error`. */
export function fallBack(
  route: Direct | ThroughPipe,
  channel: RoutedChannel,
  error: number,
): Route {
  const memory = new ThroughMemory(channel, `splice: ${libc.strerror(error)}`, error);
  if (route.held > 0) memory.hold((route as ThroughPipe).takeOut());
  // A part of a packet may wait in the socket for what follows at once: no more.
  if (route instanceof BetweenSockets) libc.setNoDelay(channel.sink.fd.fd);
  route.release();
  return memory;
}

/** One splice(2) from pipe to pipe. */
export class Direct implements Route {
  readonly reason = undefined;
  readonly isUnderWay = false;
  /** Always 0 between two calls: what is filled is written. */
  held = 0;
  waitsFor = READ;
  readonly pipeSize = undefined;
  /**
   * It takes all that fits, so that the next try would move nothing, and make the channel
   * wait for the wrong side. That was a third of all calls.
   */
  readonly triesAgain = false;
  readonly isHeldBack = false;
  readonly #from: Fd;
  readonly #to: Fd;

  constructor({ source, sink }: RoutedChannel) {
    this.#from = source.fd;
    this.#to = sink.fd;
  }

  fill(most: number): number {
    const length = libc.splice(this.#from.io, this.#to.io, most);
    if (length > 0) return this.held = length;
    // splice gives EPIPE on a readerless pipe even at end of file; poll(2) knows which.
    if (length === 0 || length === -EPIPE) {
      const end = this.#from.readPastZero(empty);
      return length === 0 || end === 0 ? end : length;
    }
    // It does not say which side was not ready: wait for the other one now.
    if (length === -EAGAIN) this.waitsFor = this.waitsFor === READ ? WRITE : READ;
    return length;
  }

  /** The bytes are in wfd already. */
  drain(): number {
    const length = this.held;
    this.held = 0;
    return length;
  }

  setBusy(): void {}

  release(): void {}
}

const empty = new Uint8Array(0);

/** Two splices, through a pipe of ours. */
export class ThroughPipe implements Route {
  protected readonly channel: RoutedChannel;
  /** Taken to fill it, and given back when it is drained. */
  #pipe: Pipe | undefined;
  #isBusy = false;
  /** Fills in a row that found nothing, although epoll had called it ready. */
  #misses = 0;
  /** Whether it may have waited since O_NONBLOCK was checked, which other processes may have changed meanwhile. */
  #hasWaited = true;
  pipeSize: number | undefined;

  constructor(channel: RoutedChannel) {
    this.channel = channel;
  }

  // Getters, as fields would take memory in each of many served connections.
  get reason(): undefined {
    return undefined;
  }
  get isUnderWay(): boolean {
    return false;
  }
  get triesAgain(): boolean {
    return true;
  }
  get isHeldBack(): boolean {
    return false;
  }

  get held(): number {
    return this.#pipe === undefined ? 0 : this.#pipe.held;
  }

  get waitsFor(): number {
    return this.held > 0 ? WRITE : READ;
  }

  fill(most: number): number {
    const refused = this.#hasWaited ? this.#makeNonBlocking() : 0;
    if (refused < 0) return refused;
    const { fd, isEdgeTriggered } = this.channel.source;
    const pipe = this.#pipe ??= this.channel.pool.takePipe(this.#isBusy);
    if (pipe === undefined) return -EMFILE; // not splice's error, but it goes the same way
    this.pipeSize = pipe.capacity || undefined;
    const length = pipe.fill(fd, most, this.#misses >= MAX_MISSES || isEdgeTriggered);
    this.#misses = length === -EAGAIN ? this.#misses + 1 : 0;
    return length;
  }

  drain(): number {
    const pipe = this.#pipe;
    if (pipe === undefined) return 0;
    const refused = this.#hasWaited ? this.#makeNonBlocking() : 0;
    if (refused < 0) return refused;
    const length = pipe.drain(this.channel.sink.fd);
    this.#hasWaited = pipe.held > 0;
    return length;
  }

  /** Makes both sides non-blocking, as splice(2) would wait otherwise. Returns a negative errno where that is refused. */
  #makeNonBlocking(): number {
    const { source, sink } = this.channel;
    const refused = Math.min(source.makeNonBlocking(), sink.makeNonBlocking(), 0);
    this.#hasWaited = refused < 0;
    return refused;
  }

  setBusy(isBusy: boolean): void {
    if (isBusy && !this.#isBusy && this.#pipe) this.channel.pool.enlarge(this.#pipe);
    this.#isBusy = isBusy;
  }

  takeOut(): Uint8Array<ArrayBuffer> {
    return this.#pipe?.takeOut() ?? empty;
  }

  release(): void {
    if (this.#pipe) this.channel.pool.givePipe(this.#pipe);
    this.#pipe = undefined;
    this.#hasWaited = true;
  }
}

/** After so many fills that found nothing, it may be TCP's urgent mark where splice(2) stops: see Pipe.fill. */
const MAX_MISSES = 3;

/** To receive and send up to so many bytes costs less than two splices. */
const SMALL_BYTES = 16 * 1024;

/** Buffers of that size which are not in use: no more than one wait of epoll has events. */
const spareBuffers: Uint8Array<ArrayBuffer>[] = [];

/** Between two sockets of ours: small pieces through memory, large ones through a pipe. */
class BetweenSockets extends ThroughPipe {
  readonly #from: Fd;
  readonly #to: Fd;
  /** A small piece, from its fill to its drain, and the piece's length in bytes. */
  #buffer = empty;
  #buffered = 0;
  /** What the sink did not take of it. */
  #unsent = empty;
  #isLarge = false;
  /** Whether something was sent: TCP sends the first small piece at once, the next one when that is acknowledged. */
  #hasSent = false;
  /**
   * Whether TCP sends all pieces at once (TCP_NODELAY). Not set before the second one: a
   * connection of one request and one answer saves two calls.
   */
  #hasNoDelay: boolean;

  constructor(channel: RoutedChannel) {
    super(channel);
    this.#from = channel.source.fd;
    this.#to = channel.sink.fd;
    this.#hasNoDelay = this.#to.isUnix;
  }

  override get isHeldBack(): boolean {
    return this.#buffered > 0;
  }

  override get held(): number {
    return this.#buffered + this.#unsent.length + super.held;
  }

  override fill(most: number): number {
    if (this.#isLarge) {
      const length = super.fill(most);
      this.#isLarge = length >= SMALL_BYTES;
      return length;
    }
    this.#buffer = spareBuffers.pop() ?? new Uint8Array(SMALL_BYTES);
    const length = libc.recv(this.#from.fd, this.#buffer, 0, Math.min(most, SMALL_BYTES));
    this.#isLarge = length === SMALL_BYTES;
    if (length > 0) this.#buffered = length;
    else this.#giveBuffer();
    return length;
  }

  override drain(): number {
    const waitsForEnd = this.#buffered > 0 && this.channel.readsOn;
    if (!this.#hasNoDelay && this.#hasSent && !waitsForEnd) {
      this.#hasNoDelay = true;
      libc.setNoDelay(this.#to.fd);
    }
    const sent = this.#buffered > 0
      ? this.#sendBuffer()
      : this.#unsent.length > 0
      ? this.#sendUnsent()
      : super.drain();
    if (sent > 0) this.#hasSent = true;
    // A part of a packet may be held back in the socket (MSG_MORE) for these bytes, which cannot
    // follow at once.
    if (sent === -EAGAIN && this.channel.readsOn) libc.setNoDelay(this.#to.fd);
    return sent;
  }

  #sendBuffer(): number {
    const length = this.#buffered;
    const sent = libc.send(this.#to.fd, this.#buffer, length, this.channel.readsOn);
    if (sent < length) this.#unsent = this.#buffer.slice(Math.max(0, sent), length);
    this.#giveBuffer();
    return sent;
  }

  /** Gives its buffer back. */
  #giveBuffer(): void {
    spareBuffers.push(this.#buffer);
    this.#buffer = empty;
    this.#buffered = 0;
  }

  #sendUnsent(): number {
    const sent = libc.send(this.#to.fd, this.#unsent);
    if (sent > 0) this.#unsent = this.#unsent.slice(sent);
    return sent;
  }

  override takeOut(): Uint8Array<ArrayBuffer> {
    return this.#unsent.length > 0 ? this.#unsent : super.takeOut();
  }

  override release(): void {
    super.release();
    if (this.#buffered > 0) this.#giveBuffer();
    this.#unsent = empty;
  }
}

/** The longest packet of a pipe whose writer keeps them apart, in bytes (pipe(7)). */
const PIPE_BUF = 4096;

/** read(2) and write(2). */
class ThroughMemory implements Route {
  readonly reason: string;
  readonly pipeSize = undefined;
  readonly triesAgain: boolean = true;
  readonly isHeldBack = false;
  protected readonly source: Fd;
  protected readonly sink: Fd;
  protected readonly channel: RoutedChannel;
  #memory: Uint8Array<ArrayBuffer> | undefined;
  /** Its first {@linkcode held} bytes are what is held: a view of them would be garbage at each read. */
  #content: Uint8Array<ArrayBuffer> = empty;
  held = 0;
  /** The result of the call on another thread, {@linkcode UNDER_WAY} until it is there; undefined without a call. */
  #call: number | undefined;
  /**
   * The errno of the splice(2) that failed before, until a read or write has shown whether it was
   * the socket's own: that is reported once, and the next call finds the end. Else 0.
   */
  #spliceError: number;
  /** The longest message that the sink takes, in bytes, as far as that is known. */
  #longest = Infinity;

  constructor(channel: RoutedChannel, reason: string, spliceError = 0) {
    this.channel = channel;
    this.source = channel.source.fd;
    this.sink = channel.sink.fd;
    this.reason = reason;
    this.#spliceError = spliceError;
  }

  get isUnderWay(): boolean {
    return this.#call !== undefined;
  }

  get waitsFor(): number {
    return this.held > 0 ? WRITE : READ;
  }

  /** Takes over bytes that were read elsewhere, be they more than the room. */
  hold(bytes: Uint8Array<ArrayBuffer>): void {
    this.#content = bytes;
    this.held = bytes.length;
  }

  fill(most: number): number {
    const { source } = this, room = this.room();
    // All the room, whatever the rate allows: what does not fit of a record would be lost.
    const length = source.keepsRecords ? room.length : Math.min(most, room.length);
    if (source.kind === "pipe" && (most < PIPE_BUF || source.mayBlock) && !this.isUnderWay) {
      const part = this.#takePart(room, length);
      if (part !== undefined) return this.filled(part);
    }
    if (source.mayBlock) return this.filled(this.#readOnThread(room, length));
    const result = source.tryRead(room, length);
    // That may have been refused for good (RWF_NOWAIT). Then it is read another way at once, as
    // a source that is watched edge-triggered is not reported ready again.
    return source.mayBlock ? this.fill(most) : this.filled(result);
  }

  /**
   * Reads a part of what may be a packet (O_DIRECT in pipe(7)), by splice(2), which leaves the
   * rest of it in the pipe; read(2) would drop it. So it reads all of a pipe that refuses
   * RWF_NOWAIT, too, as splice(2) needs no other thread. Undefined where splice(2) is refused.
   */
  #takePart(room: Uint8Array<ArrayBuffer>, most: number): number | undefined {
    const { pool } = this.channel;
    const pipe = pool.takePipe();
    if (!pipe) return undefined;
    const length = pipe.fill(this.source, most);
    if (length > 0) room.set(pipe.takeOut());
    pool.givePipe(pipe);
    return length < 0 && length !== -EAGAIN ? undefined : length;
  }

  drain(): number {
    const { sink } = this;
    const length = sink.mayBlock
      ? this.#writeOnThread()
      : sink.isStream || !this.source.isStream
      ? sink.tryWrite(this.#content, this.held)
      : this.#sendPart();
    // A file that takes nothing, as /proc/PID/mem once the process has gone, never says when it would.
    const nothing = sink.kind === "file" ? -EIO : -EAGAIN;
    const result = length === 0 ? nothing : this.#withSpliceError(length);
    if (result > 0) {
      if (result < this.held) this.#content = this.#content.subarray(result);
      this.held -= result;
    }
    return result;
  }

  #readOnThread(room: Uint8Array<ArrayBuffer>, length: number): number {
    return this.#onThread(() => this.source.readOnThread(room.subarray(0, length)));
  }

  #writeOnThread(): number {
    const content = this.#content.subarray(0, this.held);
    return this.#onThread(() => this.sink.writeOnThread(content, this.#mostOnThread));
  }

  /** How much one write takes: a record is written whole; undefined for the default. */
  get #mostOnThread(): number | undefined {
    return this.source.keepsRecords && this.sink.keepsRecords ? Infinity : undefined;
  }

  /** Sends bytes of a stream as one message, as long as the sink takes it. */
  #sendPart(): number {
    for (;;) {
      const part = Math.min(this.held, this.#longest);
      const length = this.sink.tryWrite(this.#content, part);
      if (length !== -EMSGSIZE || part === 1) return length;
      this.#longest = part >> 1;
    }
  }

  /**
   * Starts `call` on another thread, and returns {@linkcode UNDER_WAY}. When it is over, the
   * channel runs, and comes here once more, to take the result.
   */
  #onThread(call: () => Promise<number>): number {
    const result = this.#call;
    if (result === undefined) {
      this.#call = UNDER_WAY;
      this.channel.loop.onThread(threads.run(call), (returned) => {
        this.#call = returned;
        this.channel.run();
      });
      return UNDER_WAY;
    }
    if (result !== UNDER_WAY) this.#call = undefined;
    return result;
  }

  /** What a read may write to, while nothing is held. */
  protected room(): Uint8Array<ArrayBuffer> {
    return this.#memory ??= this.channel.pool.takeMemory();
  }

  /** A read has put so many bytes into {@linkcode room}. */
  protected filled(length: number): number {
    const result = this.#withSpliceError(length);
    if (result > 0) {
      this.#content = this.room();
      this.held = result;
      this.channel.onData?.(this.#content.subarray(0, result));
    }
    return result;
  }

  // After splice(2) has failed with a socket's own error, the next call finds the end, or some
  // other error: the first one is the true one.
  #withSpliceError(result: number): number {
    const error = this.#spliceError;
    if (error === 0 || result === -EAGAIN || result === UNDER_WAY) return result;
    this.#spliceError = 0;
    return result <= 0 && isOfSockets(error) ? -error : result;
  }

  setBusy(): void {}

  release(): void {
    if (this.isUnderWay) return; // the other thread still uses the buffer
    if (this.#memory) this.channel.pool.giveMemory(this.#memory);
    this.#memory = undefined;
    this.#content = empty;
    this.held = 0;
  }
}

/** Whether an errno is one that a connection ends with: 100 to 113, and EPIPE (errno(3)). */
function isOfSockets(errno: number): boolean {
  return errno === EPIPE || errno >= 100 && errno <= 113;
}

/** How many empty messages are copied before others have their turn: they may come for ever. */
const EMPTIES_PER_STEP = 64;

/** From a socket that keeps messages apart: one at a time, whole or not at all. */
class Messages extends ThroughMemory {
  /** Room for the longest message that the bound allows. */
  readonly #room: Uint8Array<ArrayBuffer>;
  /** Whether an empty message waits to be sent. */
  #holdsEmpty = false;
  /** Whether it is to go on in the next round, be there an event or not. */
  #isDue = false;

  constructor(channel: RoutedChannel, reason: string) {
    super(channel, reason);
    this.#room = new Uint8Array(channel.pool.size);
  }

  override get waitsFor(): number {
    return this.#holdsEmpty ? WRITE : super.waitsFor;
  }

  protected override room(): Uint8Array<ArrayBuffer> {
    return this.#room;
  }

  override fill(): number {
    for (let empties = 0; empties < EMPTIES_PER_STEP; empties++) {
      if (this.#holdsEmpty) {
        const sent = this.sink.tryWrite(empty);
        if (sent < 0) return sent;
        this.#holdsEmpty = false;
      }
      const length = this.source.tryReceive(this.#room);
      if (length === undefined) return 0;
      if (length !== 0) return this.filled(length);
      this.#holdsEmpty = !this.sink.isStream; // to a stream an empty message is nothing
    }
    this.#goOn();
    return -EAGAIN;
  }

  /** There may be more, without any news from epoll. Once: if there is news, that makes one more step. */
  #goOn(): void {
    if (this.#isDue) return;
    this.#isDue = true;
    this.channel.loop.soon({
      run: () => {
        this.#isDue = false;
        this.channel.run();
      },
    });
  }
}

/** What is read at a time of a file of procfs, as cat(1) does. */
const WHOLE_BYTES = 128 * 1024;

/**
 * From a file of procfs. Many, as those of sysctl(8), give what they have to a read at their start,
 * and nothing to the next one: so there is room for all of it, whatever the limits are. A rate
 * holds on the average.
 */
class Whole extends ThroughMemory {
  /** A read that has found all there is may wait for more, as one of /proc/kmsg does. */
  override readonly triesAgain = false;
  readonly #room = new Uint8Array(WHOLE_BYTES);

  protected override room(): Uint8Array<ArrayBuffer> {
    return this.#room;
  }

  override fill(): number {
    return super.fill(WHOLE_BYTES);
  }
}
