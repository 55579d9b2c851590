/**
 * When a channel that could read on waits instead: to keep to a rate, or to get more
 * bytes at once.
 *
 * @module
 */
import type { Loop, Task } from "./loop.ts";

/** The burst of a rate: what it allows in so many milliseconds may be read at once. */
const BURST_MS = 50;

/**
 * The least that is worth a read, or half of a burst where that is less: without it, each
 * byte would be read by itself as soon as the rate allows it.
 */
const PIECE_BYTES = 16 * 1024;

/** A token bucket: how much a channel may read, to read no more than so many bytes in a second. */
export class Pace {
  readonly #rate: number;
  /** Bytes that might be read at the time {@linkcode #at}. */
  #allowed = 0;
  #at = performance.now();
  #isWaiting = false;
  /** In bytes. */
  readonly #halfBurst: number;
  /** Whether the next read may be of less than a piece. */
  #allowsOne = false;

  constructor(rate: number) {
    this.#rate = rate;
    this.#halfBurst = Math.max(1, rate * BURST_MS / 2000);
  }

  /** How many bytes may be read now, `most` at the most. */
  allows(most: number): number {
    const now = performance.now();
    // What was not used in a silence is gone: it gives no burst afterwards.
    const burst = Math.max(1, this.#rate * BURST_MS / 1000);
    this.#allowed = Math.min(burst, this.#allowed + this.#rate * (now - this.#at) / 1000);
    this.#at = now;
    const least = this.#allowsOne ? 1 : Math.min(most, this.#halfBurst, PIECE_BYTES);
    this.#allowsOne = false;
    return this.#allowed < least ? 0 : Math.min(most, Math.floor(this.#allowed));
  }

  /** Counts bytes that were read. */
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
    loop.after(Math.max(1, (this.#halfBurst - this.#allowed) / this.#rate * 1000), () => {
      this.#isWaiting = false;
      task.run();
    });
  }
}

/** From this size of a read on, a rest would gain nothing. */
const NO_REST_FROM_BYTES = 64 * 1024;

/** Without this room, the pipe's writer would find it full during a rest, and have to wait. */
const MIN_PIPE_BYTES = 512 * 1024;

/** Rests go on only while they make the reads this many times as large. */
const MIN_GAIN = 1.5;

/** How many windows pass until it is tried again whether rests make the reads larger. */
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
  /** The mean size of a read without rests, in bytes. */
  #sizeWithout = NaN;
  /** Windows since rests were last tried. */
  #windows = WINDOWS_UNTIL_RETRY;

  /**
   * To be called after each window of some reads, with their mean size, and with what the
   * smaller of the pipes at both ends holds: both in bytes.
   */
  observe(readSize: number, pipeSize: number): void {
    const isDue = ++this.#windows >= WINDOWS_UNTIL_RETRY;
    if (this.#isOn) {
      // Off when a retry is due: then the reads without rests are measured anew.
      this.#isOn = !isDue && readSize >= this.#sizeWithout * MIN_GAIN;
    } else if (isDue && pipeSize >= MIN_PIPE_BYTES) {
      this.#isOn = readSize < NO_REST_FROM_BYTES;
      this.#sizeWithout = readSize;
      this.#windows = 0;
    }
  }

  /** The channel is not busy any more. */
  stop(): void {
    this.#isOn = false;
  }

  /** Whether it is to rest after a read of so many bytes. */
  restsAfter(bytes: number): boolean {
    return this.#isOn && bytes < NO_REST_FROM_BYTES;
  }
}
