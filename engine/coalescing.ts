/**
 * Coalescing: a busy channel that reads little at a time rests before it reads on,
 * so that more comes at once.
 *
 * Who writes 8 KiB at a time into a pipe of 1 MiB wakes its reader for each 8 KiB.
 * To move many of them together costs half the CPU, which the programs at both
 * ends then have (`deno task bench --tests=shell`). But who waits for an answer
 * before it writes more would only be slowed down: so the rests go on only while
 * they make the reads larger.
 *
 * @module
 */

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

/** Whether a channel rests. */
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
