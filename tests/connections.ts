/**
 * Reads and writes `Deno.Conn`s, for the tests that are clients or servers themselves.
 *
 * @module
 */

import { DEADLINE } from "./probe.ts";
import { pause } from "./watching.ts";

const decoder = new TextDecoder();

/** Calls `attempt` until it succeeds: `Deno.connect`, for example, where the other side is still to listen. */
export async function retrying<T>(attempt: () => Promise<T>): Promise<T> {
  for (const start = performance.now();;) {
    try {
      return await attempt();
    } catch (error) {
      if (performance.now() - start > DEADLINE) throw error;
      await pause(10);
    }
  }
}

/** Writes all of it. */
export async function writeAll(
  conn: Deno.Conn,
  data: string | Uint8Array<ArrayBuffer>,
): Promise<void> {
  const bytes = typeof data === "string" ? new TextEncoder().encode(data) : data;
  for (let at = 0; at < bytes.length;) at += await conn.write(bytes.subarray(at));
}

/** Reads until there are `length` bytes, or fewer at the end of file. */
export async function readExactly(
  conn: Deno.Conn,
  length: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(length);
  let at = 0;
  while (at < length) {
    const count = await conn.read(bytes.subarray(at));
    if (count === null) break;
    at += count;
  }
  return bytes.subarray(0, at);
}

/** The same, as text. */
export async function readText(conn: Deno.Conn, length: number): Promise<string> {
  return decoder.decode(await readExactly(conn, length));
}

/** Reads until the end of file, or a reset. */
export async function readAll(conn: Deno.Conn): Promise<string> {
  const pieces: string[] = [];
  const bytes = new Uint8Array(65536);
  for (;;) {
    const length = await conn.read(bytes).catch(() => null);
    if (!length) return pieces.join("");
    pieces.push(decoder.decode(bytes.subarray(0, length)));
  }
}
