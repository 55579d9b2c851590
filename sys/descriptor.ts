/**
 * A descriptor that the process inherited, with the surface of `Deno.FsFile`.
 *
 * @module
 */
import * as libc from "./libc.ts";
import { DescriptorError, SystemError } from "./error.ts";

/** What a descriptor is, as far as moving bytes is concerned. */
export type Kind = "pipe" | "socket" | "file" | "terminal" | "device";

const S_IFMT = 0o170000, S_IFIFO = 0o010000, S_IFCHR = 0o020000, S_IFSOCK = 0o140000;
const MEMORY_DEVICES = 1; // the major number of /dev/null, zero, full and random: null(4)
const SOCK_STREAM = 1, AF_UNIX = 1; // socket(7)

/**
 * One inherited descriptor. It does what `Deno.FsFile` does for a file that was
 * opened, for a number that was inherited: Deno itself cannot wrap one.
 *
 * The methods `tryRead` and `tryWrite` never wait and never throw; the others
 * are `Deno.FsFile`'s and throw a {@linkcode SystemError}.
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
export class Descriptor implements Disposable {
  /** The number. */
  readonly fd: number;
  /** What it is. */
  readonly kind: Kind;
  /** Equal for all numbers of one pipe, socket or file. */
  readonly identity: string;
  /** Length in bytes of a regular file, else 0. */
  readonly size: number;
  /** Whether it is a stream of bytes: all are, but for sockets that keep messages apart. */
  readonly isStream: boolean;
  /** Whether it is a unix socket: one whose peer learns of it when the read side is shut down. */
  readonly isLocal: boolean;
  /**
   * Whether a read or write may wait although poll(2) said ready, and no flag
   * of a single call prevents it: terminals, and devices in general.
   */
  mayWait: boolean;

  /** Wraps `fd`. Throws a {@linkcode DescriptorError} where it was not inherited. */
  constructor(fd: number) {
    // The runtime's own descriptors are all close-on-exec. An inherited one
    // never is: it has come through an exec.
    const flags = libc.fcntl(fd, libc.F_GETFD);
    const status = flags === 0 ? libc.status(fd) : -libc.EBADF;
    if (typeof status === "number") throw new DescriptorError(`descriptor ${fd} is not open`);
    const type = status.mode & S_IFMT;
    this.fd = fd;
    this.identity = status.identity;
    this.kind = type === S_IFIFO
      ? "pipe"
      : type === S_IFSOCK
      ? "socket"
      : type !== S_IFCHR
      ? type === 0 ? "device" : "file"
      : libc.isTerminal(fd)
      ? "terminal"
      : "device";
    this.size = this.kind === "file" ? status.size : 0;
    this.isStream = this.kind !== "socket" || libc.socketOption(fd, libc.SO_TYPE) === SOCK_STREAM;
    this.isLocal = this.kind === "socket" && libc.socketOption(fd, libc.SO_DOMAIN) === AF_UNIX;
    this.mayWait = this.kind === "terminal" ||
      this.kind === "device" && !(type === S_IFCHR && status.major === MEMORY_DEVICES);
  }

  /** Whether it can be read. */
  get isReadable(): boolean {
    return this.#isOpenFor(libc.O_WRONLY);
  }

  /** Whether it can be written. */
  get isWritable(): boolean {
    return this.#isOpenFor(libc.O_RDONLY);
  }

  #isOpenFor(otherwise: number): boolean {
    const flags = libc.fcntl(this.fd, libc.F_GETFL);
    return !(flags & libc.O_PATH) && (flags & libc.O_ACCMODE) !== otherwise;
  }

  /**
   * Reads without waiting: how many bytes, 0 at the end, or a negative errno,
   * -EAGAIN where it would wait. Not for a descriptor that {@linkcode mayWait}.
   */
  tryRead(bytes: Uint8Array<ArrayBuffer>): number {
    if (this.kind === "socket") return libc.receiveNow(this.fd, bytes);
    if (this.kind !== "pipe") return libc.read(this.fd, bytes);
    return this.#orOnThread(libc.readNow(this.fd, bytes));
  }

  /**
   * Writes without waiting: how many bytes, or a negative errno, -EAGAIN where
   * it would wait. Not for a descriptor that {@linkcode mayWait}.
   */
  tryWrite(bytes: Uint8Array<ArrayBuffer>): number {
    if (this.kind === "socket") return libc.sendNow(this.fd, bytes);
    if (this.kind !== "pipe") return libc.write(this.fd, bytes);
    return this.#orOnThread(libc.writeNow(this.fd, bytes));
  }

  // Linux before 6.4 cannot be told not to wait on a pipe by the call alone.
  #orOnThread(result: number): number {
    if (result !== -libc.EOPNOTSUPP) return result;
    this.mayWait = true;
    return -libc.EAGAIN;
  }

  /** Reads on another thread, which may wait. Results as of {@linkcode tryRead}. */
  async readOnThread(bytes: Uint8Array<ArrayBuffer>): Promise<number> {
    const result = await libc.readOnThread(this.fd, bytes);
    if (result >= 0) return result;
    // The reason stayed on the other thread. Asked again here it is told, and
    // where it has passed nothing is lost.
    return libc.poll(this.fd, libc.IN) ? libc.read(this.fd, bytes) : -libc.EAGAIN;
  }

  /** Writes on another thread, which may wait. Results as of {@linkcode tryWrite}. */
  async writeOnThread(bytes: Uint8Array<ArrayBuffer>): Promise<number> {
    const result = await libc.writeOnThread(this.fd, bytes);
    if (result >= 0) return result;
    const again = bytes.subarray(0, 1); // one byte fits where poll says ready
    return libc.poll(this.fd, libc.OUT) ? libc.write(this.fd, again) : -libc.EAGAIN;
  }

  /** Reads into `p`; answers how many bytes, or null at the end. Throws a {@linkcode SystemError}. */
  async read(p: Uint8Array): Promise<number | null> {
    const bytes = p as Uint8Array<ArrayBuffer>;
    for (;;) {
      this.#mustBeOpen("read");
      const result = this.mayWait ? await this.readOnThread(bytes) : this.tryRead(bytes);
      if (result !== -libc.EAGAIN) return this.#outcome("read", result) || null;
      await libc.pollOnThread(this.fd, libc.IN, -1);
    }
  }

  /** Reads into `p`, waiting on this thread. Otherwise as {@linkcode read}. */
  readSync(p: Uint8Array): number | null {
    this.#mustBeOpen("read");
    for (;;) {
      const result = libc.read(this.fd, p as Uint8Array<ArrayBuffer>);
      if (result !== -libc.EAGAIN) return this.#outcome("read", result) || null;
      libc.poll(this.fd, libc.IN, -1);
    }
  }

  /** Writes from `p`; answers how many bytes, maybe fewer than all. Throws a {@linkcode SystemError}. */
  async write(p: Uint8Array): Promise<number> {
    const bytes = p as Uint8Array<ArrayBuffer>;
    for (;;) {
      this.#mustBeOpen("write");
      const result = this.mayWait ? await this.writeOnThread(bytes) : this.tryWrite(bytes);
      if (result !== -libc.EAGAIN) return this.#outcome("write", result);
      await libc.pollOnThread(this.fd, libc.OUT, -1);
    }
  }

  /** Writes from `p`, waiting on this thread. Otherwise as {@linkcode write}. */
  writeSync(p: Uint8Array): number {
    this.#mustBeOpen("write");
    for (;;) {
      const result = libc.write(this.fd, p as Uint8Array<ArrayBuffer>);
      if (result !== -libc.EAGAIN) return this.#outcome("write", result);
      libc.poll(this.fd, libc.OUT, -1);
    }
  }

  // The number may be one of the runtime's own by now.
  #mustBeOpen(operation: string): void {
    if (this.#closed) throw new SystemError(operation, this.fd, libc.EBADF);
  }

  #outcome(operation: string, result: number): number {
    if (result < 0) throw new SystemError(operation, this.fd, result);
    return result;
  }

  /** What is read from it, as a stream; closes the descriptor at the end. */
  get readable(): ReadableStream<Uint8Array<ArrayBuffer>> {
    return new ReadableStream({
      pull: async (controller) => {
        const bytes = new Uint8Array(STREAM_CHUNK);
        const length = await this.read(bytes);
        if (length !== null) return controller.enqueue(bytes.subarray(0, length));
        controller.close();
        this.close();
      },
      cancel: () => this.close(),
    });
  }

  /** What is written to it, as a stream; closes the descriptor at the end. */
  get writable(): WritableStream<Uint8Array> {
    return new WritableStream({
      write: async (bytes) => {
        for (let at = 0; at < bytes.byteLength;) at += await this.write(bytes.subarray(at));
      },
      close: () => this.close(),
      abort: () => this.close(),
    });
  }

  /** Whether it is a terminal. */
  isTerminal(): boolean {
    return this.kind === "terminal";
  }

  /** Shuts one direction of a socket down for all who hold it: 0 the read side, 1 the write side. */
  shutdown(how: 0 | 1): void {
    this.#mustBeOpen("shutdown");
    // A peer that has gone already (ENOTCONN) needs no telling.
    const result = libc.shutdown(this.fd, how);
    if (result < 0 && result !== -libc.ENOTCONN) throw new SystemError("shutdown", this.fd, result);
  }

  /** Closes the number, once. Throws a {@linkcode SystemError}, the number being closed all the same. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#outcome("close", this.fd > 2 ? libc.close(this.fd) : this.#replace());
  }

  /** As {@linkcode close}. */
  [Symbol.dispose](): void {
    this.close();
  }

  // The runtime holds duplicates of 0, 1 and 2, which would keep a pipe open
  // behind our back; and these numbers, were they free, would be given to the
  // next file that the runtime opens. So all of them become something inert.
  #replace(): number {
    inert ??= libc.epollCreate();
    const access = libc.fcntl(this.fd, libc.F_GETFL) & libc.O_ACCMODE;
    let result = 0;
    if (this.kind === "file") {
      // Only a real close tells of a write that failed late (close(2)).
      const duplicate = libc.fcntl(this.fd, libc.F_DUPFD_CLOEXEC, 0);
      if (duplicate >= 0) result = libc.close(duplicate);
    }
    let first = 3, found: number[];
    do {
      found = libc.openAmong(first, AT_ONCE);
      for (const fd of found) if (this.#isCopiedTo(fd, access)) libc.replace(inert, fd);
      first += AT_ONCE;
    } while (found.length > 0);
    return Math.min(result, libc.replace(inert, this.fd), 0);
  }

  /** Whether `fd` is the runtime's duplicate of this one, open for the same `access`. */
  #isCopiedTo(fd: number, access: number): boolean {
    if (libc.fcntl(fd, libc.F_GETFD) !== libc.FD_CLOEXEC) return false;
    const status = libc.status(fd);
    if (typeof status === "number" || status.identity !== this.identity) return false;
    return (libc.fcntl(fd, libc.F_GETFL) & libc.O_ACCMODE) === access;
  }
  #closed = false;
}

/** The runtime numbers its own descriptors from 3 up, leaving smaller gaps than this. */
const AT_ONCE = 64;

/** Bytes that the stream of a descriptor reads at a time. */
const STREAM_CHUNK = 64 * 1024;

let inert: number | undefined;
