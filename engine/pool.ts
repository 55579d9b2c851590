import { Pipe } from "../sys/pipe.ts";
import type { Loop } from "./loop.ts";
import { DEFAULT_PIPE_BYTES, type PipeBudget } from "./budget.ts";

/** The most memory of one buffer: more copies more slowly, as it leaves the processor's cache. */
const MAX_MEMORY_BYTES = 256 * 1024;

/** The most unused buffers that are kept. */
const MAX_SPARE = 16;

/** For how long an unused pipe is kept. */
const SPARE_MS = 1000;

/** So many pipes of ours have the size that the system gives them; those beyond get two pages. */
const FULL_SIZE_PIPES = 64, SMALL_PIPE_BYTES = 8192;

/**
 * Empty buffers that wait for the next channel with something to carry: there
 * need be no more of them than channels that hold bytes at one time.
 */
export class BufferPool {
  /** The bound of each buffer, in bytes. */
  readonly size: number;
  /** The bound of each piece of memory, in bytes. */
  readonly memorySize: number;
  readonly #loop: Loop;
  readonly #budget: PipeBudget;
  readonly #pipes: Pipe[] = [];
  readonly #memory: Uint8Array<ArrayBuffer>[] = [];
  /** Pipes that are open, in use or not. */
  #open = 0;
  /** How often a pipe was taken; and how often when the spare ones were last looked at. */
  #taken = 0;
  #takenThen = 0;
  #isWatching = false;

  constructor(size: number, loop: Loop, budget: PipeBudget) {
    this.size = size;
    this.memorySize = Math.min(size, MAX_MEMORY_BYTES);
    this.#loop = loop;
    this.#budget = budget;
  }

  /**
   * A pipe, which is enlarged for a channel that is busy, if that can be: another one
   * had it before. undefined where the system has no descriptor left for one.
   */
  takePipe(isBusy = false): Pipe | undefined {
    this.#taken++;
    const pipe = this.#pipes.pop() ?? this.#openPipe();
    if (isBusy && pipe) this.enlarge(pipe);
    return pipe;
  }

  /** Enlarges a pipe, as {@linkcode takePipe} does. */
  enlarge(pipe: Pipe): void {
    this.#budget.grow(pipe);
  }

  #openPipe(): Pipe | undefined {
    const pipe = Pipe.open(
      Math.min(this.size, this.#open < FULL_SIZE_PIPES ? DEFAULT_PIPE_BYTES : SMALL_PIPE_BYTES),
    );
    if (pipe) this.#open++;
    return pipe;
  }

  /** Takes a pipe back; closes it where it is not empty, or one too many. */
  givePipe(pipe: Pipe): void {
    if (pipe.held > 0 || this.#pipes.length >= MAX_SPARE) return this.#closePipe(pipe);
    this.#pipes.push(pipe);
    if (!this.#isWatching) this.#watchSpare();
  }

  /** Spare pipes count against their user's limit: what nobody takes for a while is closed. */
  #watchSpare(): void {
    this.#isWatching = true;
    this.#takenThen = this.#taken;
    this.#loop.after(SPARE_MS, () => {
      this.#isWatching = false;
      if (this.#taken !== this.#takenThen) return this.#watchSpare();
      for (const pipe of this.#pipes.splice(0)) this.#closePipe(pipe);
    });
  }

  #closePipe(pipe: Pipe): void {
    this.#budget.giveBack(pipe.grown);
    this.#open--;
    pipe.close();
  }

  takeMemory(): Uint8Array<ArrayBuffer> {
    return this.#memory.pop() ?? new Uint8Array(this.memorySize);
  }

  giveMemory(memory: Uint8Array<ArrayBuffer>): void {
    if (this.#memory.length < MAX_SPARE) this.#memory.push(memory);
  }

  close(): void {
    for (const pipe of this.#pipes.splice(0)) this.#closePipe(pipe);
  }
}
