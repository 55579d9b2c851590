import type { Loop, Task } from "./loop.ts";

/** A rate allows at once what it allows in so many milliseconds, and no more. */
const BURST_MS = 50;

/** How much a channel may read, so that it is no more than so many bytes in a second. */
export class Pace {
  readonly #rate: number;
  /** Bytes that may be read, as of a moment. */
  #allowed = 0;
  #at = performance.now();
  #isWaiting = false;

  constructor(rate: number) {
    this.#rate = rate;
  }

  /** How many bytes may be read now, `most` at the most. */
  allows(most: number): number {
    const now = performance.now();
    // What was not used in a silence is gone: it gives no burst afterwards.
    const burst = Math.max(1, this.#rate * BURST_MS / 1000);
    this.#allowed = Math.min(burst, this.#allowed + this.#rate * (now - this.#at) / 1000);
    this.#at = now;
    return Math.max(0, Math.min(most, Math.floor(this.#allowed)));
  }

  /** So many bytes were read. */
  spend(bytes: number): void {
    this.#allowed -= bytes;
  }

  /** Allows one byte ahead of its time: a read that is to find the end of file needs it. */
  allowOne(): void {
    this.#allowed = Math.max(1, this.#allowed);
  }

  /** Gives `task` a turn once half of a burst may be read. */
  whenAllowed(loop: Loop, task: Task): void {
    if (this.#isWaiting) return;
    this.#isWaiting = true;
    const wanted = Math.max(1, this.#rate * BURST_MS / 2000);
    loop.after(Math.max(1, (wanted - this.#allowed) / this.#rate * 1000), () => {
      this.#isWaiting = false;
      task.run();
    });
  }
}
