import { Pipe } from "../sys/pipe.ts";
import type { Loop } from "./loop.ts";
import { PIPE, type PipeBudget } from "./budget.ts";

/** Memory beyond this copies more slowly: it leaves the processor's cache. In bytes. */
const MEMORY = 256 * 1024;

/** The most buffers kept unused. */
const SPARE = 16;

/** For how long, in milliseconds. */
const KEPT = 1000;

/** So many pipes of ours are as large as the system makes them; what is beyond gets two pages. */
const MANY = 64, FEW_PAGES = 8192;

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
    this.memorySize = Math.min(size, MEMORY);
    this.#loop = loop;
    this.#budget = budget;
  }

  /** A pipe; undefined where the system has no descriptor left for one. */
  takePipe(): Pipe | undefined {
    this.#taken++;
    return this.#pipes.pop() ?? this.#openPipe();
  }

  #openPipe(): Pipe | undefined {
    const pipe = Pipe.open(Math.min(this.size, this.#open < MANY ? PIPE : FEW_PAGES));
    if (pipe) this.#open++;
    return pipe;
  }

  /** Takes a pipe back; closes it where it is not empty, or one too many. */
  givePipe(pipe: Pipe): void {
    if (pipe.held > 0 || this.#pipes.length >= SPARE) return this.#closePipe(pipe);
    this.#pipes.push(pipe);
    if (!this.#isWatching) this.#watchSpare();
  }

  /** Spare pipes count against their user's limit: what nobody takes for a while is closed. */
  #watchSpare(): void {
    this.#isWatching = true;
    this.#takenThen = this.#taken;
    this.#loop.after(KEPT, () => {
      this.#isWatching = false;
      if (this.#taken !== this.#takenThen) return this.#watchSpare();
      for (const pipe of this.#pipes.splice(0)) this.#closePipe(pipe);
    });
  }

  #closePipe(pipe: Pipe): void {
    this.#budget.giveBack(pipe.size - PIPE);
    this.#open--;
    pipe.close();
  }

  takeMemory(): Uint8Array<ArrayBuffer> {
    return this.#memory.pop() ?? new Uint8Array(this.memorySize);
  }

  giveMemory(memory: Uint8Array<ArrayBuffer>): void {
    if (this.#memory.length < SPARE) this.#memory.push(memory);
  }

  close(): void {
    for (const pipe of this.#pipes.splice(0)) this.#closePipe(pipe);
  }
}
