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
