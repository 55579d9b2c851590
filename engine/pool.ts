/**
 * What channels take their buffers from, and by how much pipes may grow.
 *
 * @module
 */
import { pageAligned } from "../sys/libc.ts";
import { arePipesFree, Pipe } from "../sys/pipe.ts";
import type { Loop } from "./loop.ts";

/** What a pipe holds as the system makes it, in bytes (pipe(7)). */
const DEFAULT_PIPE_BYTES = 64 * 1024;

/**
 * What a busy one is made to hold at the most, in bytes: the most that an
 * ordinary user may have, where nobody has changed that. Each time a pipe is
 * empty or full somebody has to be woken, which costs more than the bytes: with
 * 1 MiB on both sides pipes cost a quarter of the CPU that they cost with 64 KiB,
 * with 512 KiB a third.
 */
const BUSY_PIPE_BYTES = 1024 * 1024;

/** By how much all pipes of a process may grow together, in bytes: an eighth of what a user has. */
const MAX_GROWTH_BYTES = 8 * 1024 * 1024;

/** What is left to other programs of the same user by any pipe that grows, in bytes: 256 new pipes. */
const LEFT_TO_OTHERS_BYTES = 256 * DEFAULT_PIPE_BYTES;

/**
 * For how long no pipe tries to grow after the user's limit was reached, in milliseconds; twice
 * as long after each time that follows, as for a moment of each try nothing is left to others.
 */
const FIRST_RETRY_MS = 60_000;

/** A pipe that may be made to hold more. */
export interface GrowingPipe {
  /** How much it holds, in bytes; not more than 0 where that is not known. */
  readonly capacity: number;
  /** Makes it hold so many bytes; returns what it holds then, or a negative errno. */
  resize(size: number): number;
}

/**
 * How much the pipes of a process may grow. An ordinary user has
 * pipe-user-pages-soft pages in all pipes together, 64 MiB where nobody has
 * changed it; beyond that each new pipe, in any program, gets 8 KiB (pipe(7)).
 * How much of it is in use nobody tells. So pipes grow only after as much, and what is
 * to be left to others, was there for a moment.
 */
export class PipeBudget {
  readonly #most: number;
  #left = MAX_GROWTH_BYTES;
  #retryMs = FIRST_RETRY_MS;
  #notBefore = 0;

  /** For pipes that hold `most` bytes at the most. */
  constructor(most: number) {
    this.#most = Math.min(most, BUSY_PIPE_BYTES);
  }

  /**
   * Makes pipes larger, the first one first, if that can be. By how much they grow is
   * to be given back when they are closed.
   */
  grow(...pipes: GrowingPipe[]): void {
    const growing = pipes.filter((pipe) => this.mayGrow(pipe));
    if (growing.length === 0) return;
    const enough = LEFT_TO_OTHERS_BYTES + growing.length * this.#most;
    if (arePipesFree(enough) && growing.every((pipe) => this.#grow(pipe))) {
      this.#retryMs = FIRST_RETRY_MS;
    } else { // refused, with -EPERM or -EBUSY: they stay slower
      this.#notBefore = performance.now() + this.#retryMs;
      this.#retryMs *= 2;
    }
  }

  /** Whether to make a pipe larger may be tried: asked at each step of a busy channel, it leaves no garbage. */
  mayGrow({ capacity }: GrowingPipe): boolean {
    return this.#sizeAfter(capacity) > capacity && performance.now() >= this.#notBefore;
  }

  /** What a pipe may be made to hold: the system takes the next power of two. */
  #sizeAfter(capacity: number): number {
    if (capacity <= 0 || capacity >= this.#most) return capacity;
    return 2 ** Math.floor(Math.log2(Math.min(this.#most, capacity + this.#left)));
  }

  #grow(pipe: GrowingPipe): boolean {
    const before = pipe.capacity, wanted = this.#sizeAfter(before);
    if (wanted <= before) return true;
    const size = pipe.resize(wanted);
    if (size <= before) return false;
    this.#left -= size - before;
    return true;
  }

  /** A pipe that has grown by so many bytes is closed. */
  giveBack(bytes: number): void {
    this.#left += bytes;
  }
}

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
  /** How many pipes are open, in use or not. */
  #open = 0;
  /** How often a pipe was taken so far; and until the last check of the spare ones. */
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
    if (this.#budget.mayGrow(pipe)) this.#budget.grow(pipe);
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
    return this.#memory.pop() ?? pageAligned(this.memorySize);
  }

  giveMemory(memory: Uint8Array<ArrayBuffer>): void {
    if (this.#memory.length < MAX_SPARE) this.#memory.push(memory);
  }

  close(): void {
    for (const pipe of this.#pipes.splice(0)) this.#closePipe(pipe);
  }
}
