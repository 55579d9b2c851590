/**
 * Pipes: those of our own, through which bytes pass without ever entering the
 * process, and how large a pipe is.
 *
 * @module
 */
import { EAGAIN, EIO, F_GETPIPE_SZ, F_SETPIPE_SZ } from "./constants.ts";
import { SystemError } from "./error.ts";
import type { Fd } from "./fd.ts";
import * as libc from "./libc.ts";

/** Every pipe takes so much, in bytes: one page (pipe(7)). */
const PAGE = 4096;

/** What is read over where splice(2) stops: see {@linkcode Pipe.fill}. */
const scratch = new Uint8Array(PAGE);

/** How much a pipe holds, in bytes; -errno of what is none. */
export function pipeSize(fd: number): number {
  return libc.fcntl(fd, F_GETPIPE_SZ);
}

/**
 * Makes a pipe hold `size` bytes, or the next power of two of pages. Returns
 * what it holds then; -EPERM where that is more than the system allows, -EBUSY
 * where it holds more bytes just now (fcntl(2)).
 */
function resizePipe(fd: number, size: number): number {
  return libc.fcntl(fd, F_SETPIPE_SZ, size);
}

/**
 * As {@linkcode resizePipe}, for a pipe that others may be writing. Linux from
 * 5.8 on, until it was mended in 2024 (CVE-2023-52672), wakes who waits to write
 * before there is more room: they find none, sleep again, and nobody wakes them.
 * So it is done twice: the second time there is more room when they are woken.
 */
export function resizeSharedPipe(fd: number, size: number): number {
  const before = pipeSize(fd);
  const result = resizePipe(fd, size);
  // Where memory is too short for the second time, it becomes what it was.
  if (result > 0 && resizePipe(fd, size) < 0) return resizePipe(fd, before);
  return result;
}

/** The largest pipe that an ordinary user may have, where nobody has changed that (pipe(7)). */
const LARGEST = 1024 * 1024;

/**
 * Whether the user may have so many bytes more in pipes. Nobody tells, so they are taken for a
 * moment, in which other programs of the user may get small pipes: as short as can be.
 */
export function arePipesFree(bytes: number): boolean {
  const pipes: Pipe[] = [];
  try {
    for (let taken = 0; taken < bytes; taken += LARGEST) {
      const pipe = Pipe.open(PAGE);
      if (!pipe) return false;
      pipes.push(pipe);
    }
    libc.pause(200); // the next time slice is a whole one, so that it rarely ends before they are small again
    return pipes.every((pipe) => pipe.resize(LARGEST) >= LARGEST);
  } finally {
    // To close one takes ten times as long as to make it small.
    for (const pipe of pipes.reverse()) pipe.resize(PAGE);
    for (const pipe of pipes) pipe.close();
  }
}

/** A pipe for splice(2) between two descriptors of which not both are pipes. */
export class Pipe {
  /** Bytes in it. */
  held = 0;
  /** How much it can hold, in bytes. */
  capacity: number;
  /** By how much that was made more since it was opened. */
  grown = 0;
  /** The number to write to it by. */
  readonly #writing: number;
  readonly #reading: number;
  /** What was read for it and could not be written to it. */
  #unwritten: Uint8Array<ArrayBuffer> | undefined;

  private constructor(reading: number, writing: number, size: number) {
    this.#reading = reading;
    this.#writing = writing;
    this.capacity = Math.max(0, pipeSize(writing)); // unknown where the system refuses to say
    // Less than asked for is slower, not wrong: users have a limit (pipe(7)).
    if (size !== this.capacity) this.resize(size);
    this.grown = 0;
  }

  /** An empty one that takes up to `size` bytes; undefined where no descriptor is left for it. */
  static open(size: number): Pipe | undefined {
    const ends = new Int32Array(2);
    if (libc.pipe2(ends) < 0) return undefined;
    const [reading = -1, writing = -1] = ends;
    return new Pipe(reading, writing, size);
  }

  /** Makes it hold `size` bytes at the most; returns as {@linkcode resizePipe}. */
  resize(size: number): number {
    const result = resizePipe(this.#writing, size);
    if (result > 0) {
      this.grown += result - this.capacity;
      this.capacity = result;
    }
    return result;
  }

  /**
   * Fills it, being empty, from a descriptor, with `most` bytes: how many, 0 at
   * its proved end, or a negative errno. At TCP's urgent mark splice(2) returns 0,
   * or -EAGAIN where the socket has O_NONBLOCK: `isStuck` says that it may be that.
   */
  fill(from: Fd, most: number, isStuck = false): number {
    let result = libc.splice(from.io, this.#writing, most);
    if (result === 0 || isStuck && result === -EAGAIN) {
      const room = scratch.subarray(0, Math.min(PAGE, most));
      result = from.readPastZero(room);
      if (result > 0 && libc.write(this.#writing, room, result) !== result) {
        this.#unwritten = room.slice(0, result);
        this.held = result;
        return -EIO; // memory is short, or a filter refuses it: takeOut has the bytes
      }
    }
    if (result > 0) this.held = result;
    return result;
  }

  /** Drains it to a descriptor: bytes, or a negative errno. */
  drain(to: Fd): number {
    const result = libc.splice(this.#reading, to.io, this.held);
    if (result > 0) this.held -= result;
    return result;
  }

  /**
   * Takes everything out, for a descriptor that refuses splice(2). Throws a
   * {@linkcode SystemError} where read(2) is refused, too: to try again would be for ever.
   */
  takeOut(): Uint8Array<ArrayBuffer> {
    const unwritten = this.#unwritten;
    if (unwritten) {
      this.#unwritten = undefined;
      this.held = 0;
      return unwritten;
    }
    const bytes = new Uint8Array(this.held);
    while (this.held > 0) {
      const result = libc.read(this.#reading, bytes.subarray(bytes.length - this.held));
      if (result > 0) this.held -= result;
      else if (result !== -EAGAIN) throw new SystemError("read", this.#reading, result);
    }
    return bytes;
  }

  /** Closes it; what it holds is gone. */
  close(): void {
    libc.close(this.#reading);
    libc.close(this.#writing);
  }
}
