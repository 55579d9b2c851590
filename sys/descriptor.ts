/**
 * A descriptor that the process inherited, with the surface of `Deno.FsFile`.
 *
 * @module
 */
import {
  EADDRNOTAVAIL,
  EAFNOSUPPORT,
  EAGAIN,
  EBADF,
  EBUSY,
  ECANCELED,
  ECONNREFUSED,
  EIO,
  ERR,
  IN,
  OUT,
} from "./constants.ts";
import { parseAddress } from "./address.ts";
import { printable, SystemError } from "./error.ts";
import { closeDuplicate, duplicate, Fd } from "./fd.ts";
import {
  fileInfo,
  flock,
  flockOnThread,
  ftruncate,
  futimens,
  LOCK_EX,
  LOCK_NB,
  LOCK_SH,
  LOCK_UN,
  rawMode,
  setTerminalMode,
  sync,
  syncOnThread,
  terminalMode,
} from "./file.ts";
import { Address, connect, disconnectFromItself, listen, resolve, resolveSync } from "./socket.ts";
import * as libc from "./libc.ts";
import { forget, ready } from "./readiness.ts";

/**
 * A descriptor that was inherited, or a socket that {@linkcode listen} or {@linkcode connect} has
 * made, with the methods of `Deno.FsFile`: Deno itself cannot wrap a number.
 *
 * The methods throw a {@linkcode SystemError} where the system refuses, with the
 * `code` that Deno's own error has, and with EBADF after {@linkcode close}; and a
 * `RangeError` where an argument is out of range. Of two methods that do the same, the
 * one named ...Sync waits on this thread, and the other one returns a promise.
 *
 * @example Copy standard input to standard output
 * ```ts ignore
 * import { Descriptor } from "./sys/descriptor.ts";
 *
 * using input = new Descriptor(0);
 * using output = new Descriptor(1);
 * await input.readable.pipeTo(output.writable);
 * ```
 */
export class Descriptor extends Fd implements Deno.FsFile {
  #readable: ReadableStream<Uint8Array<ArrayBuffer>> | undefined;
  #writable: WritableStream<Uint8Array> | undefined;
  readonly #reads = new Turns();
  readonly #writes = new Turns();
  /** How the terminal was set before {@linkcode setRaw}; undefined where that has not changed. */
  #modeBefore: DataView<ArrayBuffer> | undefined;

  /**
   * Wraps the number `fd`. Throws a {@linkcode DescriptorError} where it was not inherited, and a
   * {@linkcode SystemError} where the system refuses to say what it is. `made` is for sockets
   * that {@linkcode listen} and {@linkcode connect} have made.
   */
  constructor(fd: number, made?: { isUnix: boolean }) {
    super(fd, made);
  }

  /**
   * A socket of our own that listens at "HOST:PORT", "[IPv6]:PORT", a path or
   * "@name". Port 0 is any that is free. `waiting` is how many connections may wait to be
   * accepted (listen(2)).
   *
   * HOST is an IPv4 address or a name. A name is looked up on this thread, which waits
   * for getaddrinfo(3), maybe for seconds; the socket listens at the first of its
   * addresses that this machine has, and at no other. The file of a path stays when the socket is
   * closed: it is to be removed before the next `listen` there.
   *
   * Throws a {@linkcode SystemError} (bind(2), listen(2)); an `Error` with getaddrinfo's
   * words where a name has no address; and a `RangeError` where `address` is none, or
   * `waiting` is no number of 32 bits.
   */
  static listen(address: string, waiting = 4096): Descriptor {
    if (waiting !== (waiting | 0)) {
      throw new RangeError(`waiting: ${waiting} is not a whole number of 32 bits`);
    }
    const tried = `listen at ${printable(address)}`;
    const place = parseAddress(address, 0);
    const found = place instanceof Address ? [place] : resolveSync(place.host, place.port);
    let fd = -EADDRNOTAVAIL;
    for (const where of someOf(found, tried)) {
      fd = listen(where, waiting);
      if (fd >= 0) return new Descriptor(fd, { isUnix: where.isUnix });
      // One that is in use is an error: its clients would go on to whoever has it.
      if (fd !== -EADDRNOTAVAIL && fd !== -EAFNOSUPPORT) break;
    }
    throw new SystemError(tried, undefined, fd);
  }

  /**
   * A socket of our own that is connected with such an address, on a port from 1 on. A name
   * is looked up on another thread, and its addresses are tried one after the other, each for
   * as long as the kernel tries (tcp_syn_retries in tcp(7)). Throws as {@linkcode listen} does,
   * with the first address's error (connect(2)); and the reason of `signal`, if that is aborted
   * before it is connected: during a look-up, once that has returned.
   */
  static async connect(
    address: string,
    { signal }: { signal?: AbortSignal } = {},
  ): Promise<Descriptor> {
    const tried = `connect to ${printable(address)}`;
    const place = parseAddress(address);
    const found = place instanceof Address ? [place] : await resolve(place.host, place.port);
    signal?.throwIfAborted();
    let error = 0;
    for (const where of someOf(found, tried)) {
      const fd = await connected(where, signal);
      if (fd >= 0) return new Descriptor(fd, { isUnix: where.isUnix });
      signal?.throwIfAborted();
      error ||= fd;
    }
    throw new SystemError(tried, undefined, error);
  }

  // ---- Reading and writing.

  /**
   * Reads into `p`; returns how many bytes, or null at the end of file; 0 for an empty message,
   * or where `p` has no room. Throws a {@linkcode SystemError} (read(2)).
   */
  async read(p: Uint8Array): Promise<number | null> {
    const bytes = bounded(p), isEmpty = p.byteLength === 0;
    this.#mustBeOpen("read");
    // A wait can be ended; a call that waits cannot, and holds one of the runtime's threads.
    this.openAgain();
    // Where a terminal is set to wait for no byte (termios(3): MIN), 0 is no end.
    const isFirst = this.#reads.isFree && !this.mayBlock && this.kind !== "terminal";
    let result = isFirst ? this.#readNow(bytes) : -EAGAIN;
    if (result === -EAGAIN) {
      result = isEmpty
        ? await this.#readOnceReady(bytes, 0) // which waits for nothing
        : await this.#reads.take(async () => this.#readOnceReady(bytes, await this.#ready(IN)));
    }
    return await afterTurn(this.#length("read", result, p));
  }

  /** read(2) takes nothing where there is no room: recv(2) would take a message. */
  #readNow(bytes: Uint8Array<ArrayBuffer>): number {
    return bytes.length === 0 ? this.readOnce(bytes) : this.tryRead(bytes);
  }

  /** Reads, and waits until it can. `events` have been waited for. */
  async #readOnceReady(bytes: Uint8Array<ArrayBuffer>, events: number): Promise<number> {
    for (;;) {
      this.#mustBeOpen("read");
      const result = this.mayBlock ? await this.readOnThread(bytes) : this.#readNow(bytes);
      if (result !== -EAGAIN) return result;
      if (events === ERR) this.emptyErrorQueue();
      events = await this.#ready(IN);
    }
  }

  /** As {@linkcode read}, waiting on this thread. */
  readSync(p: Uint8Array): number | null {
    const bytes = bounded(p);
    this.#mustBeOpen("read");
    for (;;) {
      const result = this.readOnce(bytes);
      if (result !== -EAGAIN) return this.#length("read", result, p);
      this.#waitSync(IN);
    }
  }

  /** 0 bytes are the end, unless there was room for none, or they are an empty message. */
  #length(syscall: string, result: number, { byteLength }: Uint8Array): number | null {
    if (result !== 0) return this.#checked(syscall, result);
    if (byteLength === 0) return 0;
    const left = this.isStream ? undefined : this.emptyMessage();
    return left === undefined ? null : this.#checked(syscall, left);
  }

  /**
   * Writes from `p`; returns how many bytes, maybe fewer than all. Throws a
   * {@linkcode SystemError} (write(2)).
   */
  async write(p: Uint8Array): Promise<number> {
    const bytes = bounded(p);
    this.#mustBeOpen("write");
    this.openAgain(); // as in read
    let result = this.#writes.isFree && !this.mayBlock ? this.tryWrite(bytes) : -EAGAIN;
    if (result === -EAGAIN) result = await this.#writes.take(() => this.#writeOnceReady(bytes));
    return await afterTurn(this.#checked("write", result));
  }

  async #writeOnceReady(bytes: Uint8Array<ArrayBuffer>): Promise<number> {
    // A device may never say that it has room.
    const waits = !this.mayBlock || this.kind !== "device";
    for (let events = waits ? await this.#ready(OUT) : 0;;) {
      this.#mustBeOpen("write");
      const result = this.mayBlock ? await this.writeOnThread(bytes) : this.tryWrite(bytes);
      if (result !== -EAGAIN) return result;
      if (events === ERR) this.emptyErrorQueue();
      events = await this.#ready(OUT);
    }
  }

  /** Waits until it is ready, or closed. */
  async #ready(events: number): Promise<number> {
    let result = 0;
    while (result === 0 && !this.isClosed) result = await ready(this.fd, events);
    turnedAt = performance.now();
    return this.isClosed ? 0 : this.#checked("poll", result);
  }

  /** As {@linkcode write}, waiting on this thread. */
  writeSync(p: Uint8Array): number {
    const bytes = bounded(p);
    this.#mustBeOpen("write");
    for (;;) {
      const result = libc.write(this.fd, bytes);
      if (result !== -EAGAIN) return this.#checked("write", result);
      this.#waitSync(OUT);
    }
  }

  /** Waits on this thread until it is ready. */
  #waitSync(events: number): void {
    if (this.#checked("poll", libc.poll(this.fd, events, -1)) === ERR) this.emptyErrorQueue();
  }

  /**
   * What is read from it, as a stream of bytes, which closes the descriptor at its end, and where
   * reading fails. Of a message that is longer than the reader's view, or than 64 KiB, the rest is
   * lost.
   */
  get readable(): ReadableStream<Uint8Array<ArrayBuffer>> {
    return this.#readable ??= new ReadableStream({
      type: "bytes", // which reads nothing before somebody asks for it
      autoAllocateChunkSize: STREAM_CHUNK,
      pull: async (controller) => {
        const request = controller.byobRequest as ReadableStreamBYOBRequest;
        const view = request.view as Uint8Array;
        let length;
        do length = await this.#orClosed(this.read(view)); while (length === 0); // an empty message
        if (length === null) {
          this.close(); // first: either may throw
          controller.close();
        }
        request.respond(length ?? 0);
      },
      cancel: () => this.close(),
    });
  }

  /** What is written to it, as a stream, which closes the descriptor at its end, and where writing fails. */
  get writable(): WritableStream<Uint8Array> {
    return this.#writable ??= new WritableStream({
      write: (bytes) => this.#orClosed(this.#writeAll(bytes)),
      close: () => this.close(),
      abort: () => this.close(),
    });
  }

  async #writeAll(bytes: Uint8Array): Promise<void> {
    if (!(bytes instanceof Uint8Array)) throw new TypeError("the chunk is not a Uint8Array");
    for (let at = 0; at < bytes.byteLength;) {
      const length = await this.write(bytes.subarray(at));
      // As /proc/PID/mem takes nothing once the process has gone: to try again would be for ever.
      if (length === 0) throw new SystemError("write", this.fd, EIO);
      at += length;
    }
  }

  /** A stream that has failed calls neither `close` nor `cancel`. What is copied is the Copier's to close. */
  async #orClosed<T>(call: Promise<T>): Promise<T> {
    try {
      return await call;
    } catch (error) {
      if (!this.isCopied) this.tryClose();
      throw error;
    }
  }

  /**
   * Sets where in the file the next read or write begins: `offset` bytes from its start, from
   * where that would be now, or from its end. Returns how many bytes from its start that is.
   * Throws a {@linkcode SystemError}: ESPIPE where there is no such place, as in a pipe, EINVAL
   * before the start (lseek(2)).
   */
  async seek(offset: number | bigint, whence: Deno.SeekMode): Promise<number> {
    return await this.seekSync(offset, whence);
  }

  /** As {@linkcode seek}. */
  seekSync(offset: number | bigint, whence: Deno.SeekMode): number {
    this.#mustBeOpen("lseek");
    return this.#checked("lseek", libc.lseek(this.fd, whole("offset", offset), whence));
  }

  // ---- The file behind it.

  /**
   * Makes the file `len` bytes long: cuts it off, or adds zeros. Throws a
   * {@linkcode SystemError}: EINVAL of what is no file, or is not open for
   * writing (ftruncate(2)).
   */
  async truncate(len?: number): Promise<void> {
    return await this.truncateSync(len);
  }

  /** As {@linkcode truncate}. */
  truncateSync(len = 0): void {
    this.#mustBeOpen("ftruncate");
    this.#checked("ftruncate", ftruncate(this.fd, whole("len", len)));
  }

  /**
   * What the system knows of the file: sizes in bytes, blocks of 512 bytes, and
   * `birthtime` null where the file system does not know it. Throws a
   * {@linkcode SystemError} (statx(2)).
   */
  async stat(): Promise<Deno.FileInfo> {
    return await this.statSync();
  }

  /** As {@linkcode stat}. */
  statSync(): Deno.FileInfo {
    this.#mustBeOpen("statx");
    const info = fileInfo(this.fd);
    if (typeof info === "number") throw new SystemError("statx", this.fd, info);
    return info;
  }

  /**
   * Waits until the disk has what was written, and all else about the file.
   * Throws a {@linkcode SystemError}: EIO, ENOSPC, EDQUOT where some is lost,
   * EINVAL of what no disk keeps, as a pipe (fsync(2)).
   */
  async sync(): Promise<void> {
    this.#mustBeOpen("fsync");
    this.#checked("fsync", await syncOnThread("fsync", this.fd));
  }

  /** As {@linkcode sync}, waiting on this thread. */
  syncSync(): void {
    this.#mustBeOpen("fsync");
    this.#checked("fsync", sync("fsync", this.fd));
  }

  /** As {@linkcode sync}, without what is not needed to read it again, as its times (fdatasync(2)). */
  async syncData(): Promise<void> {
    this.#mustBeOpen("fdatasync");
    this.#checked("fdatasync", await syncOnThread("fdatasync", this.fd));
  }

  /** As {@linkcode syncData}, waiting on this thread. */
  syncDataSync(): void {
    this.#mustBeOpen("fdatasync");
    this.#checked("fdatasync", sync("fdatasync", this.fd));
  }

  /**
   * Sets when the file was read and written last: a `Date`, or seconds since
   * 1970. Throws a {@linkcode SystemError}: EPERM where it is another user's
   * file (futimens(3)).
   */
  async utime(atime: number | Date, mtime: number | Date): Promise<void> {
    return await this.utimeSync(atime, mtime);
  }

  /** As {@linkcode utime}. */
  utimeSync(atime: number | Date, mtime: number | Date): void {
    this.#mustBeOpen("futimens");
    const [read, written] = [milliseconds("atime", atime), milliseconds("mtime", mtime)];
    this.#checked("futimens", futimens(this.fd, read, written));
  }

  /**
   * Locks the file, `exclusive` or shared, against other programs that lock it
   * so, and waits as long as one has it, on one of the runtime's 32 threads. All numbers of
   * one open file hold one lock. Meanwhile it needs one more number. Throws a
   * {@linkcode SystemError} (flock(2), fcntl(2)).
   */
  async lock(exclusive = false): Promise<void> {
    this.#mustBeOpen("flock");
    // By a number of its own: this one may be closed meanwhile, and then be another file's.
    const own = this.#checked("fcntl", duplicate(this.fd));
    const result = await flockOnThread(own, exclusive ? LOCK_EX : LOCK_SH);
    if (result === 0 && this.isClosed) flock(own, LOCK_UN);
    closeDuplicate(own);
    this.#mustBeOpen("flock");
    this.#checked("flock", result);
  }

  /** As {@linkcode lock}, waiting on this thread. */
  lockSync(exclusive = false): void {
    this.#mustBeOpen("flock");
    this.#checked("flock", flock(this.fd, exclusive ? LOCK_EX : LOCK_SH));
  }

  /** As {@linkcode lock}, but does not wait: returns whether it has the lock. */
  async tryLock(exclusive = false): Promise<boolean> {
    return await this.tryLockSync(exclusive);
  }

  /** As {@linkcode tryLock}. */
  tryLockSync(exclusive = false): boolean {
    this.#mustBeOpen("flock");
    const result = flock(this.fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB);
    return result !== -EAGAIN && this.#checked("flock", result) === 0;
  }

  /** Gives the lock back, if it has one. */
  async unlock(): Promise<void> {
    return await this.unlockSync();
  }

  /** As {@linkcode unlock}. */
  unlockSync(): void {
    this.#mustBeOpen("flock");
    this.#checked("flock", flock(this.fd, LOCK_UN));
  }

  // ---- Terminals and sockets.

  /** Whether it is a terminal. */
  isTerminal(): boolean {
    return this.kind === "terminal";
  }

  /**
   * Has a terminal give each byte as it is typed and show none, for all who
   * have it open; with `cbreak` Ctrl-C and the like still send signals. `false`
   * sets it as it was. Throws a {@linkcode SystemError}: ENOTTY of what is no
   * terminal (tcsetattr(3)).
   */
  setRaw(mode: boolean, options?: Deno.SetRawOptions): void {
    this.#mustBeOpen("tcsetattr");
    const before = this.#modeBefore ?? terminalMode(this.fd);
    if (typeof before === "number") throw new SystemError("tcgetattr", this.fd, before);
    const wanted = mode ? rawMode(before, options?.cbreak ?? false) : before;
    this.#checked("tcsetattr", setTerminalMode(this.fd, wanted));
    this.#modeBefore = mode ? before : undefined;
  }

  /**
   * Shuts one direction of a socket down for all who hold it: 0 the read side, 1
   * the write side. Throws a {@linkcode SystemError} (shutdown(2)).
   */
  shutdown(how: 0 | 1): void {
    this.#mustBeOpen("shutdown");
    thrown(this.tryShutdown(how));
  }

  // ---- The end.

  /**
   * Closes the number, once: a second call does nothing. A read or write that
   * waits fails with EBADF. Throws a {@linkcode SystemError}, the number being
   * closed all the same (close(2)); but EBUSY while it is copied: the Copier closes
   * it, and would wait for what can no longer come.
   */
  close(): void {
    if (this.isCopied && !this.isClosed) throw new SystemError("close", this.fd, EBUSY);
    thrown(this.tryClose());
  }

  /** As {@linkcode close}. */
  [Symbol.dispose](): void {
    this.close();
  }

  // The number may be one of the runtime's own by now.
  #mustBeOpen(syscall: string): void {
    if (this.isClosed) throw new SystemError(syscall, this.fd, EBADF);
  }

  #checked(syscall: string, result: number): number {
    if (result < 0) throw new SystemError(syscall, this.fd, result);
    return result;
  }
}

/** Calls that wait, and keep their order: one that comes later waits for them, too. */
class Turns {
  #last: Promise<void> | undefined;

  /** Whether none waits, so that a call may be made at once. */
  get isFree(): boolean {
    return this.#last === undefined;
  }

  /** Makes a call that may wait, once those before it are over. */
  async take<T>(call: () => Promise<T>): Promise<T> {
    const before = this.#last, { promise, resolve } = Promise.withResolvers<void>();
    this.#last = promise;
    try {
      await before;
      return await call();
    } finally {
      if (this.#last === promise) this.#last = undefined;
      resolve();
    }
  }
}

/** The most bytes that Linux moves in one call (read(2)). A length of 4 GiB would be 0 in the 32 bits that a call has for it. */
const MOST_BYTES = 0x7ffff000;

/** What one call reads into or writes of such bytes. */
function bounded(p: Uint8Array): Uint8Array<ArrayBuffer> {
  const bytes = p as Uint8Array<ArrayBuffer>;
  return p.byteLength > MOST_BYTES ? bytes.subarray(0, MOST_BYTES) : bytes;
}

/** For how long reads and writes that need not wait may keep the event loop to themselves, in milliseconds. */
const YIELD_AFTER_MS = 5;

/** When the event loop had its last turn, as far as is known here. */
let turnedAt = -Infinity;

/**
 * Promises alone give timers, signals and events no turn: a file can be read, or written, for ever.
 * After the call, not before it: two writes of which the first one is not awaited keep their order.
 */
async function afterTurn<T>(result: T): Promise<T> {
  if (performance.now() - turnedAt < YIELD_AFTER_MS) return result;
  await libc.rest();
  turnedAt = performance.now();
  return result;
}

/** The addresses that a name has: one or more. Throws an `Error` where it has none. */
function someOf(found: Address[] | string, tried: string): Address[] {
  if (typeof found === "string") throw new Error(`${tried}: ${found}`);
  if (found.length === 0) throw new Error(`${tried}: the name has no address`);
  return found;
}

/** A socket that is connected with `where`, or a negative errno (connect(2)). */
async function connected(where: Address, signal?: AbortSignal): Promise<number> {
  const fd = connect(where);
  if (fd < 0) return fd;
  const abort = () => forget(fd);
  signal?.addEventListener("abort", abort);
  let result = 0;
  try {
    while (result === 0 && !signal?.aborted) result = await ready(fd, OUT);
  } catch (error) {
    libc.close(fd);
    throw error;
  } finally {
    signal?.removeEventListener("abort", abort);
  }
  const error = signal?.aborted
    ? ECANCELED
    : result < 0
    ? -result
    : libc.pendingError(fd) || (disconnectFromItself(fd, where) ? ECONNREFUSED : 0);
  if (!error) return fd;
  libc.close(fd);
  return -error;
}

/** A number that the kernel takes as 64 bits. */
function whole(name: string, value: number | bigint): bigint {
  const isWhole = typeof value === "bigint" || Number.isInteger(value);
  if (isWhole && BigInt.asIntN(64, BigInt(value)) === BigInt(value)) return BigInt(value);
  throw new RangeError(`${name}: ${value} is not a whole number of 64 bits`);
}

function milliseconds(name: string, time: number | Date): number {
  const value = typeof time === "number" ? time * 1000 : time.getTime();
  if (Math.abs(value) <= LATEST) return value;
  throw new RangeError(`${name}: ${time} is not a time`);
}

/** The latest time that a `Date` can be, and the earliest one before 1970, in milliseconds. */
const LATEST = 8.64e15;

function thrown(error: SystemError | undefined): void {
  if (error) throw error;
}

/** Bytes that the stream of a descriptor reads at a time. */
const STREAM_CHUNK = 64 * 1024;
