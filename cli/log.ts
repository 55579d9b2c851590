/**
 * What goes to standard error: lines, each behind the program's name.
 *
 * @module
 */
import { Fd } from "../sys/fd.ts";
import { OUT } from "../sys/constants.ts";
import { EAGAIN } from "../sys/errno.ts";
import { pollOnThread } from "../sys/libc.ts";

/**
 * What is kept for a reader that does not read, in characters, up to which
 * there is room for lines (which take ten times the memory, each being so
 * small), for blocks, and for what matters.
 */
const KEPT = { line: 1 << 20, block: 16 << 20, message: 17 << 20 };

/** A dump waits for its reader when there is more than this, in characters. */
const MUCH = 64 * 1024;

/** A reader that takes nothing for so long is not waited for, in milliseconds. */
const PATIENCE = 1000;

/**
 * The log. It never holds the copying up for a reader that does not read: what
 * is too much for that reader is dropped, and counted.
 */
export class Log {
  #text = "";
  #lost = 0;
  #rest: Uint8Array<ArrayBuffer> = new Uint8Array(0);
  /** Bytes that the reader has taken so far, and whether it has stopped taking any. */
  #taken = 0;
  #stuck = false;
  /** A write that another thread is at, and whether the reader is waited for. */
  #writing: Promise<void> | undefined;
  #polling = false;
  /** The line below all others, the one on the screen, and how wide that is. */
  #live = "";
  #shown = "";
  #columns = 80;
  /** Standard error, from the first line on; null where nobody listens. */
  #descriptor: Fd | null | undefined;

  /** Adds a line behind the program's name, to be written by the next {@linkcode flush}, or dropped. */
  line(text: string): void {
    this.#add(`iocopy: ${text}\n`, KEPT.line);
  }

  /** Adds many lines at once, as they are. */
  block(text: string): void {
    this.#add(text, KEPT.block);
  }

  /** Adds whole lines for which there is room when all other is dropped. */
  keep(text: string): void {
    this.#add(text, KEPT.message);
  }

  /** As {@linkcode keep}, one line behind the program's name. */
  message(text: string): void {
    this.keep(`iocopy: ${text}\n`);
  }

  #add(text: string, kept: number): void {
    if (this.#text.length > kept) return void (this.#lost += text.split("\n").length - 1);
    this.#noteLoss();
    this.#text += text;
  }

  #noteLoss(): void {
    if (this.#lost) this.#text += `iocopy: ${this.#lost} lines of the log are lost\n`;
    this.#lost = 0;
  }

  /**
   * Sets the line that stays below all others, on a terminal that is `columns`
   * wide now. Shorter than that, and printable ASCII; "" is none.
   */
  live(text: string, columns: number): void {
    this.#live = text;
    this.#columns = columns;
  }

  /** Writes as much as is taken without waiting; more once the reader is ready. */
  flush(): void {
    if (this.#writing || this.#isEmpty) return;
    if (this.#descriptor === undefined) this.#descriptor = standardError();
    const descriptor = this.#descriptor;
    for (;;) {
      if (this.#rest.length === 0) this.#take();
      if (this.#rest.length === 0) return;
      if (!descriptor) this.#drop();
      else if (descriptor.mayBlock) return this.#writeOnThread(descriptor);
      else if (!this.#wrote(descriptor.tryWrite(this.#rest))) return this.#writeLater(descriptor);
    }
  }

  /**
   * As {@linkcode flush}. Where much is left, answers when the reader has taken
   * it, or has taken nothing for a second.
   */
  settle(): Promise<void> | undefined {
    this.flush();
    return this.#pending > MUCH && !this.#stuck ? this.#wait(MUCH) : undefined;
  }

  /** Writes all there is, waiting for the reader for as long as it reads on. */
  end(): Promise<void> {
    this.flush();
    this.#stuck = false;
    return this.#wait(0);
  }

  get #pending(): number {
    return this.#rest.length + this.#text.length;
  }

  get #isEmpty(): boolean {
    return this.#pending === 0 && this.#lost === 0 && this.#live === this.#shown;
  }

  #take(): void {
    this.#noteLoss();
    if (this.#isEmpty) return;
    // A terminal that was made narrower has wrapped the line that it shows.
    const up = Math.ceil(this.#shown.length / this.#columns) - 1;
    const erase = this.#shown && `${up > 0 ? `\x1b[${up}A` : ""}\r\x1b[J`;
    this.#rest = encoder.encode(erase + this.#text + this.#live);
    this.#text = "";
    this.#shown = this.#live;
  }

  /** Whether it goes on. A log that cannot be written is no reason to stop copying. */
  #wrote(length: number): boolean {
    if (length === 0 || length === -EAGAIN) return false;
    if (length < 0) this.#drop();
    else this.#rest = this.#rest.subarray(length);
    this.#taken++;
    this.#stuck = false;
    return true;
  }

  #drop(): void {
    this.#rest = this.#rest.subarray(this.#rest.length);
  }

  #writeOnThread(descriptor: Fd): void {
    const written = (length: number) => {
      this.#writing = undefined;
      if (this.#wrote(length)) this.flush();
      else this.#writeLater(descriptor);
    };
    this.#writing = descriptor.writeOnThread(this.#rest).then(written);
  }

  /** There may be no turn of the engine that flushes again. */
  #writeLater({ fd }: Fd): void {
    if (this.#polling) return;
    this.#polling = true;
    pollOnThread(fd, OUT, -1).then(() => {
      this.#polling = false;
      this.flush();
    });
  }

  /** Waits until at most `most` characters are left, or the reader takes no more. */
  async #wait(most: number): Promise<void> {
    while (this.#descriptor && this.#pending > most && !this.#stuck) {
      const taken = this.#taken;
      await this.#ready(this.#descriptor);
      this.flush();
      this.#stuck = this.#taken === taken;
    }
  }

  /** Waits until the reader is ready, or has not been for too long. */
  async #ready({ fd }: Fd): Promise<void> {
    if (!this.#writing) return void await pollOnThread(fd, OUT, PATIENCE);
    const late = Promise.withResolvers<void>();
    const timer = setTimeout(late.resolve, PATIENCE);
    await Promise.race([this.#writing, late.promise]);
    clearTimeout(timer);
  }
}

const encoder = new TextEncoder();

function standardError(): Fd | null {
  try {
    return new Fd(2);
  } catch {
    return null;
  }
}
