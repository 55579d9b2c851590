/**
 * A descriptor that the process inherited, with the surface of `Deno.FsFile`.
 *
 * @module
 */
import { IN, OUT } from "./constants.ts";
import { EAGAIN, EBADF } from "./errno.ts";
import { SystemError } from "./error.ts";
import { Fd } from "./fd.ts";
import { type Address, connect, listen, numericAddress, unixAddress } from "./socket.ts";
import * as libc from "./libc.ts";

/**
 * One inherited descriptor. It does what `Deno.FsFile` does for a file that was
 * opened, for a number that was inherited: Deno itself cannot wrap one.
 *
 * The methods throw a {@linkcode SystemError} where the system refuses, and the
 * constructor a {@linkcode DescriptorError} where the number was not inherited.
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
export class Descriptor extends Fd implements Disposable {
  /** Wraps `fd`. Throws a {@linkcode DescriptorError} where it was not inherited. */
  constructor(fd: number, made?: { isUnix: boolean }) {
    super(fd, made);
  }

  /**
   * A socket of our own that listens at "HOST:PORT", "[IPv6]:PORT", a path or
   * "@name"; HOST is an address, not a name. Port 0 is any that is free. Throws a
   * {@linkcode SystemError}.
   */
  static listen(address: string, waiting = 4096): Descriptor {
    const where = addressOf(address);
    const fd = listen(where, waiting);
    if (fd < 0) throw new SystemError(`listen at ${address}`, undefined, fd);
    return new Descriptor(fd, { isUnix: where.isUnix });
  }

  /** A socket of our own that is connected with such an address. Throws a {@linkcode SystemError}. */
  static async connect(address: string): Promise<Descriptor> {
    const where = addressOf(address);
    const fd = connect(where);
    const refused = (errno: number) => new SystemError(`connect to ${address}`, undefined, errno);
    if (fd < 0) throw refused(fd);
    await libc.pollOnThread(fd, OUT, -1);
    const error = libc.pendingError(fd);
    if (!error) return new Descriptor(fd, { isUnix: where.isUnix });
    libc.close(fd);
    throw refused(error);
  }

  /** Reads into `p`; returns how many bytes, or null at the end. Throws a {@linkcode SystemError}. */
  async read(p: Uint8Array): Promise<number | null> {
    const bytes = p as Uint8Array<ArrayBuffer>;
    for (;;) {
      this.#mustBeOpen("read");
      const result = this.mayBlock ? await this.readOnThread(bytes) : this.tryRead(bytes);
      if (result !== -EAGAIN) return this.#outcome("read", result) || null;
      await libc.pollOnThread(this.fd, IN, -1);
    }
  }

  /** Reads into `p`, waiting on this thread. Otherwise as {@linkcode read}. */
  readSync(p: Uint8Array): number | null {
    this.#mustBeOpen("read");
    for (;;) {
      const result = libc.read(this.fd, p as Uint8Array<ArrayBuffer>);
      if (result !== -EAGAIN) return this.#outcome("read", result) || null;
      libc.poll(this.fd, IN, -1);
    }
  }

  /** Writes from `p`; returns how many bytes, maybe fewer than all. Throws a {@linkcode SystemError}. */
  async write(p: Uint8Array): Promise<number> {
    const bytes = p as Uint8Array<ArrayBuffer>;
    for (;;) {
      this.#mustBeOpen("write");
      const result = this.mayBlock ? await this.writeOnThread(bytes) : this.tryWrite(bytes);
      if (result !== -EAGAIN) return this.#outcome("write", result);
      await libc.pollOnThread(this.fd, OUT, -1);
    }
  }

  /** Writes from `p`, waiting on this thread. Otherwise as {@linkcode write}. */
  writeSync(p: Uint8Array): number {
    this.#mustBeOpen("write");
    for (;;) {
      const result = libc.write(this.fd, p as Uint8Array<ArrayBuffer>);
      if (result !== -EAGAIN) return this.#outcome("write", result);
      libc.poll(this.fd, OUT, -1);
    }
  }

  // The number may be one of the runtime's own by now.
  #mustBeOpen(operation: string): void {
    if (this.isClosed) throw new SystemError(operation, this.fd, EBADF);
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
    thrown(this.tryShutdown(how));
  }

  /** Closes the number, once. Throws a {@linkcode SystemError}, the number being closed all the same. */
  close(): void {
    thrown(this.tryClose());
  }

  /** As {@linkcode close}. */
  [Symbol.dispose](): void {
    this.close();
  }
}

function addressOf(text: string): Address {
  if (text.includes("/") || text.startsWith("@")) return unixAddress(text);
  const [, bracketed, plain, port] = /^(?:\[(.+)\]|([^:]+)):(\d{1,5})$/.exec(text) ?? [];
  const address = numericAddress(bracketed ?? plain ?? "", Number(port));
  if (!address) throw new RangeError(`${JSON.stringify(text)} is not the address of a socket`);
  return address;
}

function thrown(error: SystemError | undefined): void {
  if (error) throw error;
}

/** Bytes that the stream of a descriptor reads at a time. */
const STREAM_CHUNK = 64 * 1024;
