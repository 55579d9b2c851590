/**
 * Standard error while the command runs: its lines, and what `v` reports there.
 * And processes that are ready for a signal.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { type End, pipe } from "./ends.ts";
import type { Running } from "./harness.ts";
import { iocopy, stateOf } from "./probe.ts";

/** Standard error, read as it comes. */
export class Log {
  readonly lines: string[] = [];
  readonly #end: End;
  readonly #over: Promise<void>;
  #isOver = false;
  #news = Promise.withResolvers<void>();

  constructor(end: End) {
    this.#end = end;
    this.#over = this.#pump();
  }

  async #pump(): Promise<void> {
    let rest = "";
    while (!this.#isOver) {
      const piece = await this.#end.read();
      const lines = (rest + new TextDecoder().decode(piece)).split("\n");
      rest = lines.pop() ?? "";
      this.lines.push(...lines);
      this.#isOver = piece.length === 0;
      this.#news.resolve();
      this.#news = Promise.withResolvers();
    }
  }

  /** Waits for a line, or for one that a pattern matches. */
  async until(line: string | RegExp): Promise<void> {
    const isIt = (other: string) => typeof line === "string" ? other === line : line.test(other);
    while (!this.lines.some(isIt)) {
      assert(!this.#isOver, `it ended without "${line}", but with: ${this.lines.join("; ")}`);
      await this.#news.promise;
    }
  }

  /** All lines, after the end of file. */
  async all(): Promise<string[]> {
    await this.#over;
    this.#end.close();
    return this.lines;
  }
}

/** Starts the command, with its standard error to look at meanwhile. */
export function logged(
  args: string,
  given: Record<number, End>,
  command?: readonly string[],
): { running: Running; log: Log } {
  const [log, logging] = pipe();
  const running = iocopy(args, { ...given, 2: logging }, command && { command });
  return { running, log: new Log(log) };
}

/**
 * Follows the reports of `v` for one channel, and checks that it read only while its
 * buffer was empty, and wrote only what it held.
 */
export function follow(lines: readonly string[], rfd: number, wfd: number) {
  const sizes: number[] = [];
  let held = 0, written = 0, ended = false;
  for (const line of lines) {
    const [, fd, operation, bytes] = /^iocopy: (\d+) ([<>]) (\d+)$/.exec(line) ?? [];
    if (Number(fd) === rfd && operation === ">") {
      assertEquals(held, 0, `read although ${held} bytes are not yet written: ${line}`);
      assert(!ended, `read after the end of file: ${line}`);
      held = Number(bytes);
      if (held === 0) ended = true;
      else sizes.push(held);
    }
    if (Number(fd) === wfd && operation === "<") {
      assert(Number(bytes) > 0 && Number(bytes) <= held, `wrote what it does not hold: ${line}`);
      held -= Number(bytes);
      written += Number(bytes);
    }
  }
  return { sizes, held, written, ended };
}

/**
 * Each call returns the next line of `log`, without its newline, or "" at the end
 * of file. Nothing is read in advance.
 */
export function lines(log: End): () => Promise<string> {
  let text = "";
  return async () => {
    for (;;) {
      const at = text.indexOf("\n");
      if (at >= 0) {
        const line = text.slice(0, at);
        text = text.slice(at + 1);
        return line;
      }
      const piece = await log.read();
      if (piece.length === 0) return text;
      text += new TextDecoder().decode(piece);
    }
  };
}

/** Resolves when a process has a handler for a signal; before that, the signal would end it. */
export async function catches(pid: number, signal: number): Promise<void> {
  for (;;) {
    const [, mask] = /SigCgt:\s+(\S+)/.exec(Deno.readTextFileSync(`/proc/${pid}/status`)) ?? [];
    if (BigInt(`0x${mask}`) >> BigInt(signal - 1) & 1n) return;
    await pause();
  }
}

/** Waits a moment, in a loop that polls what sends no event. */
export function pause(milliseconds = 5): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** Stops a process with SIGSTOP; resolves once it is stopped, or was dead already. */
export async function stop(pid: number): Promise<void> {
  Deno.kill(pid, "SIGSTOP");
  while (!"TZ".includes(stateOf(pid))) await pause();
}
