/**
 * The bounded buffers of a channel: a pipe in the kernel, through which bytes
 * pass without ever entering the process, and memory for what refuses that.
 *
 * @module
 */
import * as libc from "./libc.ts";
import type { Descriptor } from "./descriptor.ts";

/** A pipe of our own, for splice(2) between two descriptors of which none is a pipe. */
export class PipeBuffer {
  /** Bytes in it. */
  held = 0;
  readonly #reading: number;
  readonly #writing: number;
  readonly #size: number;

  /** An empty one that takes up to `size` bytes. */
  constructor(reading: number, writing: number, size: number) {
    this.#reading = reading;
    this.#writing = writing;
    this.#size = size;
    // Less than asked for is slower, not wrong: users have a limit (pipe(7)).
    libc.fcntl(writing, libc.F_SETPIPE_SZ, size);
  }

  /** Splices from a descriptor. Results as of `Descriptor.tryRead`. */
  fill(from: Descriptor): number {
    const result = libc.splice(from.fd, this.#writing, this.#size);
    if (result > 0) this.held += result;
    return result;
  }

  /** Splices to a descriptor. Results as of `Descriptor.tryWrite`. */
  drain(to: Descriptor): number {
    const result = libc.splice(this.#reading, to.fd, this.held);
    if (result > 0) this.held -= result;
    return result;
  }

  /** Takes everything out, for a descriptor that refuses splice(2). */
  empty(): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(this.held);
    while (this.held > 0) {
      const result = libc.read(this.#reading, bytes.subarray(bytes.length - this.held));
      if (result > 0) this.held -= result;
    }
    return bytes;
  }

  /** Closes it; what it holds is gone. */
  close(): void {
    libc.close(this.#reading);
    libc.close(this.#writing);
  }
}

/** Memory, for read(2) and write(2). */
export class MemoryBuffer {
  /** What a read may write to, while nothing is held. */
  readonly room: Uint8Array<ArrayBuffer>;
  /** What is held, in order. */
  content: Uint8Array<ArrayBuffer>;

  /** An empty one of `size` bytes. */
  constructor(size: number) {
    this.room = new Uint8Array(size);
    this.content = this.room.subarray(0, 0);
  }

  /** Bytes in it. */
  get held(): number {
    return this.content.length;
  }

  /** Says that a read put `length` bytes into {@linkcode room}. */
  filled(length: number): void {
    this.content = this.room.subarray(0, length);
  }

  /** Says that a write took `length` bytes of {@linkcode content}. */
  drained(length: number): void {
    this.content = this.content.subarray(length);
  }

  /** Takes over bytes that were read elsewhere, be they more than the room. */
  hold(bytes: Uint8Array<ArrayBuffer>): void {
    this.content = bytes;
  }

  /** Nothing to give back. */
  close(): void {}
}

/**
 * Empty buffers that wait for the next channel with something to carry: there
 * need be no more of them than channels that hold bytes at one time.
 */
export class BufferPool {
  /** The bound of each buffer, in bytes. */
  readonly size: number;
  readonly #pipes: PipeBuffer[] = [];
  readonly #memory: MemoryBuffer[] = [];

  /** A pool of buffers of `size` bytes. */
  constructor(size: number) {
    this.size = size;
  }

  /** A pipe; undefined where the system has no descriptor left for one. */
  takePipe(): PipeBuffer | undefined {
    const spare = this.#pipes.pop();
    if (spare) return spare;
    const ends = new Int32Array(2);
    if (libc.pipe(ends) < 0) return undefined;
    const [reading = -1, writing = -1] = ends;
    return new PipeBuffer(reading, writing, this.size);
  }

  /** Memory. */
  takeMemory(): MemoryBuffer {
    return this.#memory.pop() ?? new MemoryBuffer(Math.min(this.size, MEMORY));
  }

  /** Takes a buffer back. */
  give(buffer: PipeBuffer | MemoryBuffer): void {
    if (buffer.held > 0 || this.#pipes.length + this.#memory.length >= SPARE) buffer.close();
    else if (buffer instanceof PipeBuffer) this.#pipes.push(buffer);
    else this.#memory.push(buffer);
  }

  /** Closes all that it has. */
  close(): void {
    for (const pipe of this.#pipes.splice(0)) pipe.close();
  }
}

/** Memory beyond this copies more slowly: it leaves the processor's cache. */
const MEMORY = 256 * 1024;

/** The most buffers kept unused. */
const SPARE = 16;
