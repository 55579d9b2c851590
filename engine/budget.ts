import { holdingBack, pipeSize, resizePipe, resizeSharedPipe } from "../sys/pipe.ts";

/** What a pipe holds as the system makes it, in bytes (pipe(7)). */
export const DEFAULT_PIPE_BYTES = 64 * 1024;

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
 * For how long no pipe tries to grow after the user's limit was reached: for 0.4 ms of each
 * try, nothing may be left to others.
 */
const RETRY_MS = 60_000;

/**
 * How much the pipes of a process may grow. An ordinary user has
 * pipe-user-pages-soft pages in all pipes together, 64 MiB where nobody has
 * changed it; beyond that each new pipe, in any program, gets 8 KiB (pipe(7)).
 * How much of it is in use nobody tells. So a pipe grows while what is to be left
 * to others is held back, and the system itself refuses what would be too much.
 */
export class PipeBudget {
  readonly #most: number;
  #left = MAX_GROWTH_BYTES;
  #notBefore = 0;

  /** For pipes that hold `most` bytes at the most. */
  constructor(most: number) {
    this.#most = Math.min(most, BUSY_PIPE_BYTES);
  }

  /** Makes an inherited pipe larger. As {@linkcode grow}. */
  growShared(fd: number): number {
    return this.#grow(fd, pipeSize(fd), resizeSharedPipe);
  }

  /**
   * Makes a pipe that holds `before` bytes larger, if that can be; returns by how
   * many bytes, which are to be given back when it is closed.
   */
  grow(fd: number, before: number): number {
    return this.#grow(fd, before, resizePipe);
  }

  #grow(fd: number, before: number, resize: (fd: number, size: number) => number): number {
    if (before >= this.#most) return 0;
    // The system takes the next power of two.
    const wanted = 2 ** Math.floor(Math.log2(Math.min(this.#most, before + this.#left)));
    if (before <= 0 || wanted <= before || performance.now() < this.#notBefore) return 0;
    const size = holdingBack(LEFT_TO_OTHERS_BYTES, () => resize(fd, wanted)) ?? 0;
    if (size <= before) { // refused, with -EPERM or -EBUSY: it stays slower
      this.#notBefore = performance.now() + RETRY_MS;
      return 0;
    }
    this.#left -= size - before;
    return size - before;
  }

  /** A pipe that has grown by so many bytes is closed. */
  giveBack(bytes: number): void {
    this.#left += bytes;
  }
}
