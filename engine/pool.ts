import { Pipe } from "../sys/pipe.ts";

/** Memory beyond this copies more slowly: it leaves the processor's cache. In bytes. */
const MEMORY = 256 * 1024;

/** The most buffers kept unused. */
const SPARE = 16;

/**
 * Empty buffers that wait for the next channel with something to carry: there
 * need be no more of them than channels that hold bytes at one time.
 */
export class BufferPool {
  /** The bound of each buffer, in bytes. */
  readonly size: number;
  /** The bound of each piece of memory, in bytes. */
  readonly memorySize: number;
  readonly #pipes: Pipe[] = [];
  readonly #memory: Uint8Array<ArrayBuffer>[] = [];

  constructor(size: number) {
    this.size = size;
    this.memorySize = Math.min(size, MEMORY);
  }

  /** A pipe; undefined where the system has no descriptor left for one. */
  takePipe(): Pipe | undefined {
    return this.#pipes.pop() ?? Pipe.open(this.size);
  }

  /** Takes a pipe back; closes it where it is not empty, or one too many. */
  givePipe(pipe: Pipe): void {
    if (pipe.held > 0 || this.#pipes.length >= SPARE) pipe.close();
    else this.#pipes.push(pipe);
  }

  takeMemory(): Uint8Array<ArrayBuffer> {
    return this.#memory.pop() ?? new Uint8Array(this.memorySize);
  }

  giveMemory(memory: Uint8Array<ArrayBuffer>): void {
    if (this.#memory.length < SPARE) this.#memory.push(memory);
  }

  close(): void {
    for (const pipe of this.#pipes.splice(0)) pipe.close();
  }
}
