import { release } from "../sys/libc.ts";
import { hasRoomFor, pipeSize, resizePipe, wakesWriters } from "../sys/pipe.ts";

/** What a pipe holds as the system makes it, in bytes (pipe(7)). */
export const PIPE = 64 * 1024;

/**
 * What a busy one is made to hold at the most, in bytes. Each time a pipe is
 * empty or full somebody has to be woken, which costs more than the bytes: with
 * 512 KiB on both sides pipes carry five times as much as with 64 KiB, with
 * 1 MiB no more than that.
 */
const BUSY_PIPE = 512 * 1024;

/** By how much all pipes of a process may grow together, in bytes: two from 64 to 512 KiB, and some. */
const IN_ALL = 1024 * 1024;

/** What is left to other programs of the same user before any pipe grows, in bytes: 64 new pipes. */
const FOR_OTHERS = 64 * PIPE;

/**
 * How much the pipes of a process may grow. An ordinary user has
 * pipe-user-pages-soft pages in all pipes together, 64 MiB where nobody has
 * changed it; beyond that each new pipe, in any program, gets 8 KiB (pipe(7)).
 */
export class PipeBudget {
  readonly #most: number;
  #left = IN_ALL;
  #isSafe: boolean | undefined;

  /** For pipes that hold `most` bytes at the most. */
  constructor(most: number) {
    this.#most = Math.min(most, BUSY_PIPE);
  }

  /** Makes an inherited pipe larger, where that is safe. As {@linkcode grow}. */
  growShared(fd: number): number {
    this.#isSafe ??= wakesWriters(release());
    return this.#isSafe ? this.grow(fd) : 0;
  }

  /** Makes a pipe larger, if that can be; returns by how many bytes, which are to be given back when it is closed. */
  grow(fd: number): number {
    const before = pipeSize(fd);
    // The system takes the next power of two.
    const wanted = 2 ** Math.floor(Math.log2(Math.min(this.#most, before + this.#left)));
    if (before <= 0 || wanted <= before || !hasRoomFor(wanted - before + FOR_OTHERS)) return 0;
    const size = resizePipe(fd, wanted);
    if (size <= before) return 0; // refused, with -EPERM or -EBUSY: it stays slower
    this.#left -= size - before;
    return size - before;
  }

  /** A pipe that has grown by so many bytes is closed. */
  giveBack(bytes: number): void {
    this.#left += Math.max(0, bytes);
  }
}
