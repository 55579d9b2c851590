/**
 * What is printed to standard error: lines, each beginning with the program's name.
 *
 * @module
 */
import { Fd } from "../sys/fd.ts";
import { EAGAIN, OUT } from "../sys/constants.ts";
import { pollOnThread } from "../sys/libc.ts";

/**
 * With more than this pending, in characters and besides what is being written, another
 * line, block or message is dropped. Lines have the lowest limit, since they are so short that
 * each takes ten times its length in memory; messages, which matter most, have the highest.
 */
const MAX_PENDING = { line: 1 << 20, block: 16 << 20, message: 17 << 20 };

/** With more than this pending, in characters, copying waits for the reader of a dump. */
const SETTLED_PENDING = 64 * 1024;

/** A reader that has taken nothing for so long is not waited for. */
const STUCK_AFTER_MS = 1000;

/**
 * The log. If its reader does not read, copying still goes on: what exceeds the
 * limits is dropped and counted.
 */
export class Log {
  /** What was added, and is not being written yet. */
  #text = "";
  /** How many lines were dropped since the last line that says so. */
  #lost = 0;
  /** What is being written. */
  #rest: Uint8Array<ArrayBuffer> = new Uint8Array(0);
  /** Counts the writes that are done, be it with an error. */
  #taken = 0;
  /** Whether the reader has stopped reading. */
  #stuck = false;
  /** A write that is under way on another thread. */
  #writing: Promise<void> | undefined;
  /** Whether a poll(2) is under way on another thread. */
  #polling = false;
  /** The line below all others. */
  #live = "";
  /** The one that is on the screen now. */
  #shown = "";
  /** The width of the screen. */
  #columns = 80;
  /** Standard error, once something was written; null if it is closed. */
  #descriptor: Fd | null | undefined;

  /** Adds the program's name and a line, for the next {@linkcode flush}; or drops it. */
  line(text: string): void {
    this.#add(`iocopy: ${text}\n`, MAX_PENDING.line);
  }

  /** Adds many lines as they are; or drops them. */
  block(text: string): void {
    this.#add(text, MAX_PENDING.block);
  }

  /** Adds whole lines that matter: they are dropped last. */
  keep(text: string): void {
    this.#add(text, MAX_PENDING.message);
  }

  /** As {@linkcode keep}: the program's name and one line. */
  message(text: string): void {
    this.keep(`iocopy: ${text}\n`);
  }

  #add(text: string, maxPending: number): void {
    if (this.#text.length > maxPending) return void (this.#lost += text.split("\n").length - 1);
    this.#noteLoss();
    this.#text += text;
  }

  #noteLoss(): void {
    if (this.#lost) this.#text += `iocopy: ${this.#lost} lines of the log are lost\n`;
    this.#lost = 0;
  }

  /**
   * Sets the line that stays below all others, on a terminal with `columns` columns.
   * It has to be shorter than that, and printable ASCII; "" removes it.
   */
  live(text: string, columns: number): void {
    this.#live = text;
    this.#columns = columns;
  }

  /** Writes as much as possible without waiting, and the rest once the reader is ready. */
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
   * As {@linkcode flush}. If much is left, returns a promise that resolves when the
   * reader has taken it, or has taken nothing for a second.
   */
  settle(): Promise<void> | undefined {
    this.flush();
    return this.#pending > SETTLED_PENDING && !this.#stuck
      ? this.#wait(SETTLED_PENDING)
      : undefined;
  }

  /** Writes everything, and waits as long as the reader keeps reading. */
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
    // A terminal that became narrower has wrapped the line that it shows.
    const up = Math.ceil(this.#shown.length / this.#columns) - 1;
    const erase = this.#shown && `${up > 0 ? `\x1b[${up}A` : ""}\r\x1b[J`;
    this.#rest = encoder.encode(erase + this.#text + this.#live);
    this.#text = "";
    this.#shown = this.#live;
  }

  /** Takes note of a write; returns whether more can be written. An error drops the text. */
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

  /** Writes the rest when the reader is ready: the engine may have no reason to flush again. */
  #writeLater({ fd }: Fd): void {
    if (this.#polling) return;
    this.#polling = true;
    pollOnThread(fd, OUT, -1).then(() => {
      this.#polling = false;
      this.flush();
    });
  }

  /** Waits until at most `most` characters are pending, or the reader has stopped reading. */
  async #wait(most: number): Promise<void> {
    while (this.#descriptor && this.#pending > most && !this.#stuck) {
      const taken = this.#taken;
      await this.#ready(this.#descriptor);
      this.flush();
      this.#stuck = this.#taken === taken;
    }
  }

  /** Waits until the reader is ready, or for the time after which it counts as stuck. */
  async #ready({ fd }: Fd): Promise<void> {
    if (!this.#writing) return void await pollOnThread(fd, OUT, STUCK_AFTER_MS);
    const late = Promise.withResolvers<void>();
    const timer = setTimeout(late.resolve, STUCK_AFTER_MS);
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
