/**
 * Small programs that use the library. Each is a process of its own, since
 * descriptors have to be inherited.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import type { End } from "./ends.ts";
import type { Running } from "./harness.ts";
import { iocopy } from "./probe.ts";

/**
 * What every program begins with. `say` prints a line of JSON to standard error, and `attempt`
 * what a call returns, or the class and the message of its error.
 */
const BEGINNING = `
  import { copy, Copier, Descriptor, DescriptorError, serve, SystemError } from "./engine.ts";
  // With the first listener the runtime opens two sockets. Else it would half a second after the
  // start, when a test counts them, or has numbers that are free.
  Deno.addSignalListener("SIGUSR1", () => {});
  const say = (value) => console.error(JSON.stringify(value, (key, value) =>
    value instanceof Error ? { ...value, name: value.name, message: value.message } : value));
  const attempt = async (call) => {
    try {
      say(await call());
    } catch (error) {
      say([error.constructor.name, error.message]);
    }
  };
  const results = (channels) => channels.map((c) => ({
    rfd: c.rfd, wfd: c.wfd, bytes: c.bytes, ended: c.ended, error: c.error?.message,
  }));
`;

/** Starts a program with these descriptors; `under` are the words of what it runs under. */
export function program(
  code: string,
  given: Record<number, End>,
  under: readonly string[] = [],
): Running {
  const command = [...under, Deno.execPath(), "eval", "--ext=ts"];
  return iocopy([BEGINNING + code], given, { command });
}

/** What a program has printed, once it has ended with status 0. */
export async function said(running: Running): Promise<unknown[]> {
  const { code, stderr } = await running.outcome;
  assertEquals(code, 0, stderr);
  return stderr.split("\n").filter((line) => line).map((line) => JSON.parse(line));
}
