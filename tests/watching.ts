/**
 * What the tests of statistics, dumps and the like share: lines of a log, and
 * processes that are ready for a signal.
 *
 * @module
 */
import type { End } from "./ends.ts";

/** Answers the next line of `log` at each call, without its newline; "" at the end of file. */
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

/** Resolves when a process has a handler for a signal, which would end it before. */
export async function catches(pid: number, signal: number): Promise<void> {
  for (;;) {
    const [, mask] = /SigCgt:\s+(\S+)/.exec(Deno.readTextFileSync(`/proc/${pid}/status`)) ?? [];
    if (BigInt(`0x${mask}`) >> BigInt(signal - 1) & 1n) return;
    await pause();
  }
}

/** A moment, in a loop that waits for what nobody tells of. */
export function pause(milliseconds = 5): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
