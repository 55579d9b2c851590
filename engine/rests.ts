/**
 * Rests of a channel that could read on: so that it keeps to a rate, or so that more
 * comes at once.
 *
 * @module
 */
import type { Loop, Task } from "./loop.ts";

/** A rate allows at once what it allows in so many milliseconds, and no more. */
const BURST_MS = 50;

/**
 * Nothing is read before so many bytes may be, or half of a burst where that is
 * less: else each byte would be, as soon as it may.
 */
const PIECE_BYTES = 16 * 1024;

/** How much a channel may read, so that it is no more than so many bytes in a second. */
export class Pace {
  readonly #rate: number;
  /** Bytes that may be read, as of a moment. */
  #allowed = 0;
  #at = performance.now();
  #isWaiting = false;
  /** Half of a burst, in bytes. */
  readonly #half: number;
  /** Whether the next read may be of fewer bytes than are worth a call. */
  #allowsOne = false;

  constructor(rate: number) {
    this.#rate = rate;
    this.#half = Math.max(1, rate * BURST_MS / 2000);
  }

  /** How many bytes may be read now, `most` at the most. */
  allows(most: number): number {
    const now = performance.now();
    // What was not used in a silence is gone: it gives no burst afterwards.
    const burst = Math.max(1, this.#rate * BURST_MS / 1000);
    this.#allowed = Math.min(burst, this.#allowed + this.#rate * (now - this.#at) / 1000);
    this.#at = now;
    const least = this.#allowsOne ? 1 : Math.min(most, this.#half, PIECE_BYTES);
    this.#allowsOne = false;
    return this.#allowed < least ? 0 : Math.min(most, Math.floor(this.#allowed));
  }

  /** So many bytes were read. */
  spend(bytes: number): void {
    this.#allowed -= bytes;
  }

  /** Allows one byte ahead of its time: a read that is to find the end of file needs it. */
  allowOne(): void {
    this.#allowed = Math.max(1, this.#allowed);
    this.#allowsOne = true;
  }

  /** Gives `task` a turn once half of a burst may be read. */
  whenAllowed(loop: Loop, task: Task): void {
    if (this.#isWaiting) return;
    this.#isWaiting = true;
    loop.after(Math.max(1, (this.#half - this.#allowed) / this.#rate * 1000), () => {
      this.#isWaiting = false;
      task.run();
    });
  }
}

/** A read of so many bytes is large enough. */
const LARGE_READ_BYTES = 64 * 1024;

/** A pipe has to hold so much, as its writer is not to find it full after a rest. */
const LEAST_PIPE_BYTES = 512 * 1024;

/** Rests have to make the reads so many times as large. */
const GAIN = 1.5;

/** For so many windows the last answer stands, whether rests make the reads larger. */
const WINDOWS_UNTIL_RETRY = 64;

/** How long a rest is, in microseconds; the system adds about 50. */
export const REST_MICROSECONDS = 50;

/**
 * Whether a busy channel that reads little at a time rests before it reads on, so
 * that more comes at once.
 *
 * Who writes 8 KiB at a time into a pipe of 1 MiB wakes its reader for each 8 KiB.
 * To move many of them together costs half the CPU, which the programs at both
 * ends then have (`deno task bench --tests=shell`). But who waits for an answer
 * before it writes more would only be slowed down: so the rests go on only while
 * they make the reads larger.
 */
export class Coalescing {
  #isOn = false;
  /** Bytes in a read without rests, on the average. */
  #without = NaN;
  /** Windows since it was last tried. */
  #windows = WINDOWS_UNTIL_RETRY;

  /**
   * A window of some reads is over, with so many bytes in each on the average; the
   * smaller of the pipes at both ends holds `pipeBytes`.
   */
  observe(bytes: number, pipeBytes: number): void {
    const isDue = ++this.#windows >= WINDOWS_UNTIL_RETRY;
    if (this.#isOn) {
      // The reads without rests are measured anew from time to time.
      this.#isOn = !isDue && bytes >= this.#without * GAIN;
    } else if (isDue && pipeBytes >= LEAST_PIPE_BYTES) {
      this.#isOn = bytes < LARGE_READ_BYTES;
      this.#without = bytes;
      this.#windows = 0;
    }
  }

  /** The channel is not busy any more. */
  stop(): void {
    this.#isOn = false;
  }

  /** Whether it is to rest after a read of so many bytes. */
  restsAfter(bytes: number): boolean {
    return this.#isOn && bytes < LARGE_READ_BYTES;
  }
}
