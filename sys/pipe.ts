/**
 * Pipes: those of our own, through which bytes pass without ever entering the
 * process, and how large a pipe is.
 *
 * @module
 */
import { F_GETPIPE_SZ, F_SETPIPE_SZ } from "./constants.ts";
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
export function resizePipe(fd: number, size: number): number {
  return libc.fcntl(fd, F_SETPIPE_SZ, size);
}

/** The first fixed release of each kernel branch that is maintained and had the fault. */
const FIXED: Record<string, number> = {
  "5.10": 210,
  "5.15": 149,
  "6.1": 76,
  "6.6": 15,
  "6.7": 3,
};

/**
 * Whether a kernel of this release wakes who waits to write to a pipe that is
 * made larger. From Linux 5.8 on that was forgotten, and a writer could sleep
 * for ever (CVE-2023-52672). A distribution that has mended an older release
 * is not known by its number: there the pipes stay as they are.
 */
export function wakesWriters(release: string): boolean {
  const [, major = "", minor = "", patch = "0"] = /^(\d+)\.(\d+)(?:\.(\d+))?/.exec(release) ?? [];
  const version = Number(major) * 1000 + Number(minor);
  if (!major) return false;
  if (version < 5008 || version > 6007) return true;
  return Number(patch) >= (FIXED[`${major}.${minor}`] ?? Infinity);
}

/**
 * Whether the user who runs us could have so many more bytes of pipes: beyond
 * pipe-user-pages-soft new ones are cut to two pages (pipe(7)). It is tried,
 * as nothing tells it.
 */
export function hasRoomFor(bytes: number): boolean {
  const pipes: Pipe[] = [];
  let room = 0;
  while (room < bytes) {
    const pipe = Pipe.open(LARGEST);
    if (!pipe) break;
    pipes.push(pipe);
    if (pipe.size < LARGEST) break;
    room += pipe.size;
  }
  for (const pipe of pipes) pipe.close();
  return room >= bytes;
}

/** The largest pipe that an ordinary user gets where nobody has changed that: half of pipe-max-size. */
const LARGEST = 512 * 1024;

/** A pipe for splice(2) between two descriptors of which not both are pipes. */
export class Pipe {
  /** Bytes in it. */
  held = 0;
  /** How much it holds, in bytes. */
  size: number;
  /** The number to write to it by, which is also the one to resize it by. */
  readonly writing: number;
  readonly #reading: number;

  private constructor(reading: number, writing: number, size: number) {
    this.#reading = reading;
    this.writing = writing;
    this.size = pipeSize(writing);
    // Less than asked for is slower, not wrong: users have a limit (pipe(7)).
    const resized = size === this.size ? 0 : resizePipe(writing, size);
    if (resized > 0) this.size = resized;
  }

  /** An empty one that takes up to `size` bytes; undefined where no descriptor is left for it. */
  static open(size: number): Pipe | undefined {
    const ends = new Int32Array(2);
    if (libc.pipe2(ends) < 0) return undefined;
    const [reading = -1, writing = -1] = ends;
    return new Pipe(reading, writing, size);
  }

  /** Fills it, being empty, from a descriptor, with `most` bytes: how many, 0 at its proved end, or a negative errno. */
  fill(from: Fd, most: number): number {
    let result = libc.splice(from.io, this.writing, most);
    if (result === 0) {
      const room = scratch.subarray(0, Math.min(PAGE, most));
      result = from.readPastZero(room);
      if (result > 0) result = libc.write(this.writing, room.subarray(0, result));
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

  /** Takes everything out, for a descriptor that refuses splice(2). */
  takeOut(): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(this.held);
    while (this.held > 0) {
      const result = libc.read(this.#reading, bytes.subarray(bytes.length - this.held));
      if (result > 0) this.held -= result;
    }
    return bytes;
  }

  /** Closes it; what it holds is gone. */
  close(): void {
    libc.close(this.#reading);
    libc.close(this.writing);
  }
}
