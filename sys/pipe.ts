/**
 * A pipe of our own, through which bytes pass without ever entering the process.
 *
 * @module
 */
import { F_SETPIPE_SZ } from "./constants.ts";
import type { Fd } from "./fd.ts";
import * as libc from "./libc.ts";

/** Every pipe takes so much, in bytes: one page (pipe(7)). */
const PAGE = 4096;

/** What is read over where splice(2) stops: see {@linkcode Pipe.fill}. */
const scratch = new Uint8Array(PAGE);

/** A pipe for splice(2) between two descriptors of which not both are pipes. */
export class Pipe {
  /** Bytes in it. */
  held = 0;
  readonly #reading: number;
  readonly #writing: number;
  readonly #size: number;

  private constructor(reading: number, writing: number, size: number) {
    this.#reading = reading;
    this.#writing = writing;
    this.#size = size;
    // Less than asked for is slower, not wrong: users have a limit (pipe(7)).
    libc.fcntl(writing, F_SETPIPE_SZ, size);
  }

  /** An empty one that takes up to `size` bytes; undefined where no descriptor is left for it. */
  static open(size: number): Pipe | undefined {
    const ends = new Int32Array(2);
    if (libc.pipe2(ends) < 0) return undefined;
    const [reading = -1, writing = -1] = ends;
    return new Pipe(reading, writing, size);
  }

  /** Fills it, being empty, from a descriptor: bytes, 0 at its proved end, or a negative errno. */
  fill(from: Fd): number {
    let result = libc.splice(from.io, this.#writing, this.#size);
    if (result === 0) {
      const room = scratch.subarray(0, Math.min(PAGE, this.#size));
      result = from.readPastZero(room);
      if (result > 0) result = libc.write(this.#writing, room.subarray(0, result));
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
    libc.close(this.#writing);
  }
}
