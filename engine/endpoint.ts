import {
  EDGE,
  ERR,
  F_GETFL,
  F_SETFL,
  HUP,
  IN,
  O_NONBLOCK,
  OUT,
  RDHUP,
  SHUT_RD,
  SHUT_WR,
} from "../sys/constants.ts";
import { UNWATCHED } from "../sys/epoll.ts";
import { DescriptorError, SystemError } from "../sys/error.ts";
import { Fd } from "../sys/fd.ts";
import * as libc from "../sys/libc.ts";
import { pipeSize, resizeSharedPipe } from "../sys/pipe.ts";
import type { Channel } from "./channel.ts";
import type { Loop, Watcher } from "./loop.ts";
import type { PipeBudget } from "./pool.ts";

/**
 * How a socket to a target is watched at first: edge-triggered (epoll(7)), from before it is
 * connected until it has brought something that is not its end. So a connection of one request
 * and one answer needs two calls fewer.
 */
export const FIRST_WATCH: number = IN | OUT | RDHUP | EDGE;

/** What a channel waits for at one of its endpoints. */
export const READ = 0, WRITE = 1;

/** For how long a peer that still sends is read from after our reply, so that no reset overtakes that. */
const LINGER_MS = 2000;

/** The first and the longest time until it is looked again whether a peer has acknowledged everything, in milliseconds. */
export const FIRST_LOOK_MS = 5, LAST_LOOK_MS = 1000;

/**
 * One number and the channels on it. It watches the number for what they wait
 * for; the last writer to leave shuts its socket down, the last user closes it.
 */
export class Endpoint implements Watcher {
  readonly fd: Fd;
  /** The connection behind it, shared with all other numbers of that socket. */
  readonly connection: Connection | undefined;
  /** How much it holds, in bytes, when that was last asked; undefined where it is no pipe. */
  pipeSize: number | undefined;
  /** By how many bytes it was enlarged, which its budget gets back when it is closed. */
  grown = 0;
  /** Once the copying was stopped: where it is while it waits, at its end, for its peer to acknowledge everything. */
  closing: Set<Endpoint> | undefined;
  /** Whether epoll refuses it, as it does a regular file. */
  isAlwaysReady = false;
  /** Whether the peer has sent its end, so that all that is left to read is there. Known of sockets of ours only. */
  isEnding = false;
  /** Whether it acknowledges with what is sent, and not at once (connect in sys/socket.ts). */
  delaysAck = false;
  /** Whether who is written to learns by a reset that its peer was cut off. */
  passesReset = false;
  /** Whether its own peer is to get a reset when it is closed, in place of an end of file. */
  resets = false;
  readonly #loop: Loop;
  readonly #onClose: (endpoint: Endpoint) => void;
  /**
   * Made anew at each change: an array that a push has made has room for 17 elements, and a served
   * connection has four such arrays.
   */
  #readers: readonly Channel[] = NONE;
  #writers: readonly Channel[] = NONE;
  /** How many of them wait to read, and to write. */
  #reading = 0;
  #writing = 0;
  /** EDGE (report each change once) after epoll has kept reporting what was not so; else 0. */
  #edge = 0;

  constructor(
    fd: Fd,
    connection: Connection | undefined,
    loop: Loop,
    onClose: (endpoint: Endpoint) => void = nothing,
  ) {
    this.fd = fd;
    fd.isCopied = true;
    this.connection = connection;
    this.#loop = loop;
    this.#onClose = onClose;
    if (fd.kind === "pipe") this.pipeSize = knownSize(fd);
  }

  /** How much it holds now, as another process may have changed that; 0 where it is no pipe. */
  get capacity(): number {
    return this.pipeSize === undefined ? 0 : pipeSize(this.fd.fd);
  }

  /** Makes it hold so many bytes, being a pipe. */
  resize(size: number): number {
    const before = this.capacity, result = resizeSharedPipe(this.fd.fd, size);
    if (result > 0) this.grown += result - before;
    this.pipeSize = knownSize(this.fd);
    return result;
  }

  /** Makes an inherited socket non-blocking; others are so already, or stay as they are. See {@linkcode Connection.makeNonBlocking}. */
  makeNonBlocking(): number {
    const { fd, connection } = this;
    return connection && !fd.isOurs ? connection.makeNonBlocking(fd.fd) : 0;
  }

  /** Puts its flag back, as the process ends. While a channel lingers, its sink is closed already. */
  restore(): void {
    if (!this.fd.isClosed) this.connection?.restore(this.fd.fd);
  }

  /** Acknowledges what has come in, and from now on at once. */
  acknowledge(): void {
    this.delaysAck = false;
    libc.setQuickAck(this.fd.fd, true);
  }

  // ---- Joining and leaving.

  addReader(channel: Channel): void {
    this.#readers = withAlso(this.#readers, channel);
    this.connection?.addReader();
  }

  addWriter(channel: Channel): void {
    this.#writers = withAlso(this.#writers, channel);
    this.connection?.addWriter();
  }

  /** A channel that reads here leaves. Returns what went wrong, if anything did. */
  removeReader(channel: Channel): SystemError | undefined {
    this.#readers = without(this.#readers, channel);
    // A unix peer learns of it; a TCP peer does not, and what it still sends
    // would be answered by a reset.
    const isLast = this.connection?.removeReader() && this.fd.isUnix;
    const error = isLast ? this.fd.tryShutdown(SHUT_RD) : undefined;
    return this.#leave(error);
  }

  /** A channel that writes here leaves. Returns what went wrong, if anything did. */
  removeWriter(channel: Channel): SystemError | undefined {
    this.#writers = without(this.#writers, channel);
    const isLast = this.connection?.removeWriter();
    // A socket of ours that nobody reads any more is closed now, which tells the peer as well.
    const isClosing = this.fd.isOurs && this.#readers.length === 0;
    const tells = isLast && !isClosing && !this.resets;
    const error = tells ? this.fd.tryShutdown(SHUT_WR) : undefined;
    if (isLast) this.connection?.startLingering(this.#loop);
    return this.#leave(error);
  }

  /** Closes the number after its last user; `error` is what went wrong before. */
  #leave(error: SystemError | undefined): SystemError | undefined {
    if (this.#readers.length + this.#writers.length > 0) {
      this.#rearmForOthers();
      return error;
    }
    const closing = this.#isUnacknowledged && !this.resets ? this.closing : undefined;
    if (this.fd.isOurs && !closing || this.isAlwaysReady) this.#loop.forget(this.fd.io);
    else this.#loop.unwatch(this.fd.io);
    const kept = this.connection?.restoreIfUnused(this.fd.fd);
    // Who made it may have had close(2), or an exit, drop what is not sent yet, or wait for that.
    if (this.connection && !this.fd.isOurs) libc.setNoLinger(this.fd.fd);
    if (closing) {
      if (this.fd.isOurs) error ??= this.fd.tryShutdown(SHUT_WR);
      closing.add(this);
      this.#loop.ref();
      this.#lookAgain(FIRST_LOOK_MS);
      return error ?? kept;
    }
    const lost = this.#close();
    return error ?? lost ?? kept;
  }

  /**
   * Whether its TCP peer has not got everything. If it sends something after the socket was closed,
   * the kernel resets the connection, and drops what is on its way (RFC 2525, 2.17).
   */
  get #isUnacknowledged(): boolean {
    const { fd, isUnix, isStream, isClosed } = this.fd;
    return this.closing !== undefined && this.connection?.wasWritten === true && isStream &&
      !isUnix && !isClosed &&
      libc.bytesUnacknowledged(fd) > 0 && libc.getpeername(fd) >= 0;
  }

  #lookAgain(pause: number): void {
    this.#loop.after(pause, () => {
      if (this.#isUnacknowledged) this.#lookAgain(Math.min(2 * pause, LAST_LOOK_MS));
      else this.close();
    });
  }

  /** Closes it, whatever its peer has got: see {@linkcode closing}. */
  close(): void {
    if (!this.closing?.delete(this)) return;
    this.#loop.unref();
    this.#close();
  }

  #close(): SystemError | undefined {
    if (this.resets) libc.setReset(this.fd.fd);
    this.#onClose(this);
    return this.fd.tryClose();
  }

  // ---- Readiness.

  /** One more (1) or one fewer (-1) of the channels waits to read here. */
  awaitReadable(change: 1 | -1): void {
    this.#reading += change;
    this.rearm();
  }

  /** One more (1) or one fewer (-1) of the channels waits to write here. */
  awaitWritable(change: 1 | -1): void {
    this.#writing += change;
    this.rearm();
  }

  /** One fewer waits here. Without {@linkcode rearm}: it is about to leave, which does that. */
  awaitNothing(direction: typeof READ | typeof WRITE): void {
    if (direction === READ) this.#reading--;
    else this.#writing--;
  }

  /** Whether epoll reports each change once: then who has moved bytes tries again without an event. */
  get isEdgeTriggered(): boolean {
    return this.#edge !== 0;
  }

  /** More than 0 if poll(2) says that it is ready for `direction` now; a negative errno where that is refused. */
  readiness(direction: number): number {
    const events = libc.poll(this.fd.io, direction === READ ? IN : OUT);
    return events > 0 && this.connection ? events & ~ERR : events;
  }

  /** Has each change reported once, as epoll keeps reporting what is not so. */
  makeEdgeTriggered(): void {
    this.#edge = EDGE;
    this.rearm();
  }

  get #isFirstWatch(): boolean {
    return this.#loop.watched(this.fd.io) === FIRST_WATCH && this.#edge === 0;
  }

  /** Watches for what its channels wait for, and for its end. */
  rearm(): void {
    if (this.isAlwaysReady) return;
    // In the first watch an event comes once: with readers of which none waits, it would be lost.
    const isAwaited = this.#reading > 0 || this.#readers.length === 0;
    if (!this.#isFirstWatch || this.#writing > 0 || !isAwaited) this.#arm();
  }

  /**
   * Ends its {@linkcode FIRST_WATCH}, if that is how it is watched: from now on it is
   * level-triggered, so that what is left of an event that was reported is reported again.
   */
  endFirstWatch(): void {
    if (this.#isFirstWatch) this.#arm();
  }

  #arm(): void {
    const input = this.fd.isOurs ? IN | RDHUP : IN;
    const events = (this.#reading ? input : 0) | (this.#writing ? OUT : 0);
    // A descriptor that is written to is watched at all times: its reader may die.
    const wanted = events || this.#writers.length ? events | this.#edge : UNWATCHED;
    if (wanted === this.#loop.watched(this.fd.io)) return;
    const { io, kind } = this.fd;
    const mayBeRefused = kind === "file" || kind === "device";
    this.isAlwaysReady = !this.#loop.watch(io, wanted, this, mayBeRefused);
  }

  /**
   * As {@linkcode rearm}, for those who stay when one leaves. An error does not stop who leaves:
   * it ends the loop; but where nothing is watched yet, those who stay get it when they wait.
   */
  #rearmForOthers(): void {
    try {
      this.rearm();
    } catch (error) {
      if (this.#loop.watched(this.fd.io) !== UNWATCHED || !(error instanceof SystemError)) {
        this.#loop.fail(error);
      }
    }
  }

  /** As the loop calls it. By indices, as an iterator would be garbage at each turn until V8 has optimized this. */
  ready(events: number): void {
    if (events & RDHUP) this.isEnding = true;
    if (events & ~OUT) {
      const readers = this.#readers;
      for (let i = 0; i < readers.length; i++) {
        if (readers[i]?.waitsFor === READ) readers[i]?.run();
      }
    }
    if (events & ~(IN | RDHUP)) {
      const writers = this.#writers;
      for (let i = 0; i < writers.length; i++) {
        if (writers[i]?.waitsFor === WRITE) writers[i]?.run();
        else if (events & (ERR | HUP)) writers[i]?.sinkHungUp();
      }
    }
    if (events & (ERR | HUP)) this.endFirstWatch();
    if (events & ERR) this.#silenceErr();
  }

  /**
   * An ERR that remains once the pending error was read is a socket's error queue, or the
   * news of a file, and would be reported for ever.
   */
  #silenceErr(): void {
    const isUsed = this.#readers.length + this.#writers.length > 0;
    if (!isUsed || !this.connection && this.fd.kind !== "file") return;
    const events = libc.poll(this.fd.io, 0);
    if (events === ERR) this.fd.emptyErrorQueue();
    // Refused, poll(2) cannot say that it remains: nobody is to be kept awake by it.
    if (events < 0 || events === ERR && libc.poll(this.fd.io, 0) === ERR) this.makeEdgeTriggered();
  }
}

/** How much a pipe holds; undefined where the system refuses to say. */
function knownSize({ fd }: Fd): number | undefined {
  const size = pipeSize(fd);
  return size >= 0 ? size : undefined;
}

const NONE: readonly Channel[] = [];

function nothing(): void {}

/** By hand, as `concat` takes 0.1 us, four times for each served connection. */
function withAlso(channels: readonly Channel[], channel: Channel): readonly Channel[] {
  return channels.length === 0 ? [channel] : [...channels, channel];
}

function without(channels: readonly Channel[], channel: Channel): readonly Channel[] {
  return channels.length === 1 ? NONE : channels.filter((other) => other !== channel);
}

/** What is known of a socket, which may have several numbers. */
export class Connection {
  /** Whether any channel writes it, or did. */
  wasWritten = false;
  /** Its pending error (an errno, or 0), kept as the kernel reports it only once. */
  error = 0;
  /** How many numbers of it are known. */
  #numbers = 0;
  #readers = 0;
  #writers = 0;
  #wasBlocking = false;
  /** Channels that only read until the peer stops sending. */
  #lingering: Channel[] | undefined;

  addNumber(): void {
    this.#numbers++;
  }

  /** Returns whether that was the last one. */
  removeNumber(): boolean {
    return --this.#numbers === 0;
  }

  addReader(): void {
    this.#readers++;
  }

  addWriter(): void {
    this.#writers++;
    this.wasWritten = true;
  }

  /** Returns whether that was the last one. */
  removeReader(): boolean {
    return --this.#readers === 0;
  }

  /** Returns whether that was the last one. */
  removeWriter(): boolean {
    return --this.#writers === 0;
  }

  /** A channel only reads until the peer stops sending, or for some time once all is written. */
  linger(channel: Channel, loop: Loop): void {
    (this.#lingering ??= []).push(channel);
    if (this.#writers === 0) this.startLingering(loop);
  }

  /** All is written: the peer has some time to stop sending. */
  startLingering(loop: Loop): void {
    for (const channel of this.#lingering ?? []) {
      loop.after(LINGER_MS, () => channel.endLingering());
    }
    this.#lingering = undefined;
  }

  /**
   * Makes it non-blocking, as splice(2) would block otherwise. To be called again after each
   * wait: another process may have put its own flag back meanwhile. Returns a negative errno
   * where that is refused.
   */
  makeNonBlocking(fd: number): number {
    const flags = libc.fcntl(fd, F_GETFL);
    if (flags < 0 || flags & O_NONBLOCK) return flags;
    const result = libc.fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    if (result >= 0) this.#wasBlocking = true;
    return result;
  }

  /** As {@linkcode restore}, once no channel uses it any more. */
  restoreIfUnused(fd: number): SystemError | undefined {
    return this.#readers + this.#writers > 0 ? undefined : this.restore(fd);
  }

  /** Clears O_NONBLOCK again, which other processes share; the error where that failed. */
  restore(fd: number): SystemError | undefined {
    if (!this.#wasBlocking) return undefined;
    this.#wasBlocking = false;
    const flags = libc.fcntl(fd, F_GETFL);
    const result = flags < 0 ? flags : libc.fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
    return result < 0 ? new SystemError("fcntl", fd, result) : undefined;
  }
}

/** All endpoints in use, by their numbers. */
export class Endpoints {
  readonly #loop: Loop;
  readonly #byNumber = new Map<number, Endpoint>();
  readonly #connections = new Map<string, Connection>();
  readonly #budget: PipeBudget;

  constructor(loop: Loop, budget: PipeBudget) {
    this.#loop = loop;
    this.#budget = budget;
  }

  /**
   * The endpoints of inherited numbers, and of descriptors of ours. Throws a
   * {@linkcode DescriptorError} where one will not do, and then knows none that it
   * did not know before.
   */
  ofPairs(
    pairs: Iterable<readonly [from: number | Fd, to: number | Fd]>,
  ): (readonly [source: Endpoint, sink: Endpoint])[] {
    const opened: Endpoint[] = [];
    try {
      return Array.from(pairs, ([from, to]) => {
        const source = this.#get(from, READ, opened), sink = this.#get(to, WRITE, opened);
        mustEnd(source.fd, sink.fd);
        return [source, sink] as const;
      });
    } catch (error) {
      for (const endpoint of opened) this.#forget(endpoint);
      throw error;
    }
  }

  /** Whether a number is in use. */
  has(number: number): boolean {
    return this.#byNumber.has(number);
  }

  #get(end: number | Fd, direction: typeof READ | typeof WRITE, opened: Endpoint[]): Endpoint {
    const number = typeof end === "number" ? end : end.fd;
    if (typeof end !== "number" && end.isClosed) {
      throw new DescriptorError(`descriptor ${number} is closed`);
    }
    let endpoint = this.#byNumber.get(number);
    if (!endpoint) {
      if (typeof end !== "number" && end.isCopied) {
        throw new DescriptorError(`descriptor ${number} is another Copier's`);
      }
      endpoint = this.#open(typeof end === "number" ? new Fd(end) : end);
      opened.push(endpoint);
      this.#byNumber.set(number, endpoint);
    }
    const { fd } = endpoint;
    if (typeof end !== "number" && end !== fd) {
      throw new DescriptorError(`descriptor ${number} is given twice, not as one Descriptor`);
    }
    if (direction === READ && !fd.isReadable) {
      throw new DescriptorError(`descriptor ${number} is not open for reading`);
    }
    if (direction === WRITE && !fd.isWritable) {
      throw new DescriptorError(`descriptor ${number} is not open for writing`);
    }
    if (fd.isListening) {
      throw new DescriptorError(
        `descriptor ${number} is a listening socket: it needs a target after it, as HOST:PORT`,
      );
    }
    if (fd.isUnconnected && (fd.isStream || direction === WRITE)) {
      throw new DescriptorError(`descriptor ${number} is not connected`);
    }
    return endpoint;
  }

  #open(fd: Fd): Endpoint {
    const onClose = (endpoint: Endpoint) => this.#forget(endpoint);
    if (fd.isOurs) return new Endpoint(fd, new Connection(), this.#loop, onClose);
    if (fd.kind !== "socket") return new Endpoint(fd, undefined, this.#loop, onClose);
    const connection = this.#connections.get(fd.identity) ?? new Connection();
    connection.addNumber();
    this.#connections.set(fd.identity, connection);
    return new Endpoint(fd, connection, this.#loop, onClose);
  }

  #forget({ fd, connection, grown }: Endpoint): void {
    this.#byNumber.delete(fd.fd);
    fd.isCopied = false;
    this.#budget.giveBack(grown);
    if (connection && !fd.isOurs && connection.removeNumber()) {
      this.#connections.delete(fd.identity);
    }
  }
}

/**
 * Refuses a copy of a file to another place of itself that grows ahead of what is
 * read, or that moves with what is read, and of a pipe into itself, of which we keep the
 * writing end open.
 */
function mustEnd(from: Fd, to: Fd): void {
  if (from.identity !== to.identity) return;
  if (from.kind !== "pipe") {
    if (!from.isRegular) return;
    if (!to.appends && libc.offset(to.fd) <= libc.offset(from.fd)) {
      if (!libc.isDuplicate(from.fd, to.fd)) return;
      throw new DescriptorError(
        `descriptor ${from.fd} and descriptor ${to.fd} are one open file, ` +
          "and each piece would be written over the next one",
      );
    }
  }
  const what = from.kind === "pipe" ? "pipe" : "file";
  throw new DescriptorError(
    `descriptor ${from.fd} and descriptor ${to.fd} are the same ${what}, ` +
      "and the copy would never end",
  );
}
