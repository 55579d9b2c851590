/**
 * What the commands of this folder share: their options, their output and their exit status.
 *
 * @module
 */

/** An error in the command line. */
export class WrongUse extends Error {}

/** For parseArgs, which calls it with what it does not know. */
export function unknown(word: string): never {
  throw new WrongUse(`${word} is not known`);
}

/** The number that an option has, or the usual one. */
export function count(option: string, text: string | undefined, usual: number): number {
  if (text === undefined) return usual;
  if (/^[1-9]\d{0,6}$/.test(text)) return Number(text);
  throw new WrongUse(`--${option}=${text} is not a number from 1 to 9999999`);
}

/** Reads the command line of another program: wrong use is one line, and ends it with 100. */
export function reading<T>(program: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof WrongUse)) throw error;
    console.error(`${program}: ${error.message}`);
    Deno.exit(100);
  }
}

/** Those that an option lists by their ids, or all of them. */
export function chosen<T extends { id: string }>(
  option: string,
  text: string | undefined,
  all: readonly T[],
): T[] {
  if (text === undefined) return [...all];
  return text.split(",").map((id) => {
    const one = all.find((one) => one.id === id);
    if (one) return one;
    throw new WrongUse(`--${option}: ${id} is not one of ${all.map(({ id }) => id).join(", ")}`);
  });
}

/** Writes a text to standard output; returns the exit status of success. */
export function print(text: string): number {
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at < bytes.length;) at += Deno.stdout.writeSync(bytes.subarray(at));
  return 0;
}

/** Writes a line to standard error. */
export function say(line: string): void {
  Deno.stderr.writeSync(new TextEncoder().encode(`bench: ${line}\n`));
}

/** Runs a command, which returns its exit status, and ends the program. */
export async function run(main: (args: string[]) => Promise<number>): Promise<never> {
  let status: number;
  try {
    status = await main(Deno.args);
  } catch (error) {
    say(error instanceof Error ? error.message : String(error));
    status = error instanceof WrongUse ? 100 : 111;
  }
  Deno.exit(status);
}
