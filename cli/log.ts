/**
 * What goes to standard error: lines, each behind the program's name.
 *
 * @module
 */
import { Descriptor } from "../sys/descriptor.ts";
import { EAGAIN } from "../sys/libc.ts";

/** What is kept for a reader that does not read, in characters. */
const KEPT = 1024 * 1024;

/** The log. It never waits for its reader: what is too much for it is dropped, and counted. */
export class Log {
  #text = "";
  #dropped = 0;
  #writing = false;
  #rest: Uint8Array<ArrayBuffer> = new Uint8Array(0);
  /** Standard error, from the first line on; null where nobody listens. */
  #descriptor: Descriptor | null | undefined;

  /** Adds a line, to be written by the next {@linkcode flush}. */
  line(text: string): void {
    if (this.#text.length > KEPT) this.#dropped++;
    else this.#text += `iocopy: ${text}\n`;
  }

  /** Writes as much as is taken without waiting. */
  flush(): void {
    if (this.#writing) return;
    if (this.#text && this.#descriptor === undefined) this.#descriptor = standardError();
    for (;;) {
      if (this.#rest.length === 0) this.#take();
      if (this.#rest.length === 0 || !this.#descriptor) return;
      if (this.#descriptor.mayWait) return void this.#writeOnThread(this.#descriptor);
      if (!this.#wrote(this.#descriptor.tryWrite(this.#rest))) return;
    }
  }

  #take(): void {
    if (this.#dropped) this.#text += `iocopy: ${this.#dropped} lines of the log are lost\n`;
    this.#dropped = 0;
    if (this.#text) this.#rest = encoder.encode(this.#text);
    this.#text = "";
  }

  /** Whether it goes on. A log that cannot be written is no reason to stop copying. */
  #wrote(length: number): boolean {
    if (length > 0) this.#rest = this.#rest.subarray(length);
    else if (length !== -EAGAIN) this.#rest = this.#rest.subarray(this.#rest.length);
    return length > 0;
  }

  async #writeOnThread(descriptor: Descriptor): Promise<void> {
    this.#writing = true;
    const length = await descriptor.writeOnThread(this.#rest);
    this.#writing = false;
    if (this.#wrote(length)) this.flush();
  }

  /** Writes all there is, waiting for the reader for `milliseconds` at the most. */
  async end(milliseconds: number): Promise<void> {
    const until = performance.now() + milliseconds;
    this.flush();
    while ((this.#rest.length || this.#text) && this.#descriptor && performance.now() < until) {
      await new Promise((resolve) => setTimeout(resolve, 5));
      this.flush();
    }
  }
}

const encoder = new TextEncoder();

function standardError(): Descriptor | null {
  try {
    return new Descriptor(2);
  } catch {
    return null;
  }
}
