/**
 * The command line: `iocopy [options] rfd1 wfd1 rfd2 wfd2 ...`.
 *
 * @module
 */

/** What the command line asks for. */
export interface Settings {
  /** The descriptors, two by two. */
  pairs: [number, number][];
  /** Report every operation. */
  verbose: boolean;
  /** The most bytes in flight in a channel. */
  buffer: number;
  /** Print the help, or the version, and do nothing else. */
  help: boolean;
  version: boolean;
}

/** A command line that cannot be followed. Its message says what is wrong, and where. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** The options that take no value: GNU's names, the first letter being the short one. */
const FLAGS = ["verbose", "help", "version"] as const;

/** Flags in the original's spelling, without a dash: `v`. */
const LETTERS: Record<string, typeof FLAGS[number]> = { v: "verbose" };

/** The same with one dash. */
const SHORT: Record<string, string> = { v: "verbose", h: "help", V: "version", b: "buffer" };

/** Options that take a value. */
const VALUES = ["buffer"] as const;

/** The largest descriptor: they are C's int. */
const LAST_DESCRIPTOR = 2 ** 31 - 1;

const KILO = 1024, MEGA = 1024 * KILO;

/** Less would be a system call for each few bytes, more is memory that nothing gains from. */
const BUFFER = { least: 1, most: 64 * MEGA, usual: MEGA };

/** Reads the command line. Throws a {@linkcode UsageError}. */
export async function parse(args: readonly string[]): Promise<Settings> {
  const settings: Settings = {
    pairs: [],
    verbose: false,
    buffer: BUFFER.usual,
    help: false,
    version: false,
  };
  // A line in the original's spelling does without the parser: it costs a
  // tenth of the time that the first byte takes.
  const gnu = args.some((arg) => arg.startsWith("-"));
  const words = gnu ? await parseOptions(args, settings) : args;
  if (!settings.help && !settings.version) settings.pairs = parsePairs(words, settings);
  return settings;
}

/** Takes the options with dashes out; answers what is left. */
async function parseOptions(args: readonly string[], settings: Settings): Promise<string[]> {
  const { parseArgs } = await import("@std/cli/parse-args");
  const parsed = parseArgs(separateValues(args), {
    boolean: [...FLAGS],
    string: ["_", ...VALUES],
    alias: SHORT,
    unknown: (arg: string) => {
      if (arg.startsWith("-")) throw unknown(arg);
    },
  });
  for (const flag of FLAGS) settings[flag] = parsed[flag] === true;
  if (parsed.buffer !== undefined) settings.buffer = parseSize("buffer", parsed.buffer);
  return parsed._.map(String);
}

/** `-vb64k` as `-v -b 64k`; and no value where none belongs. */
function separateValues(args: readonly string[]): string[] {
  return args.flatMap((arg) => {
    const [, name] = /^--([^=]+)=/.exec(arg) ?? [];
    if (FLAGS.some((flag) => flag === name)) throw new UsageError(`--${name} takes no value`);
    const [, letters, value] = /^(-[a-zA-Z]*b)(.+)$/.exec(arg) ?? [];
    if (letters && value) return [letters, value];
    // parseArgs takes what follows a letter for its value, and "_" for its own.
    if (/^-[a-zA-Z]+[^a-zA-Z]|^--?_/.test(arg)) throw unknown(arg);
    return [arg];
  });
}

function unknown(option: string): UsageError {
  return new UsageError(`unknown option ${quote(option)}`);
}

/** The number of bytes that `text` says. */
function parseSize(option: string, text: string | string[]): number {
  const [, digits, suffix] = /^(\d{1,9})([kKM]?)$/.exec(String(text)) ?? [];
  const size = Number(digits) * (suffix === "M" ? MEGA : suffix ? KILO : 1);
  if (size >= BUFFER.least && size <= BUFFER.most) return size;
  throw new UsageError(
    `--${option}: ${quote(text)} is not a size from ${BUFFER.least} to ${
      BUFFER.most / MEGA
    }M bytes`,
  );
}

/** Reads descriptors two by two, and before or between the pairs options in the original's spelling. */
function parsePairs(words: readonly string[], settings: Settings): [number, number][] {
  const pairs: [number, number][] = [];
  let rfd: number | undefined;
  for (const word of words) {
    if (rfd === undefined && parseLetters(word, settings)) continue;
    const fd = parseDescriptor(word);
    if (rfd !== undefined) pairs.push([rfd, fd]);
    rfd = rfd === undefined ? fd : undefined;
  }
  if (rfd !== undefined) throw new UsageError(`descriptor ${rfd} has nothing to be copied to`);
  if (pairs.length === 0) throw new UsageError("no descriptors to copy");
  return pairs;
}

function parseLetters(word: string, settings: Settings): boolean {
  const flags = [...word].map((letter) => LETTERS[letter]);
  if (flags.length === 0 || flags.includes(undefined)) return false;
  for (const flag of flags) if (flag) settings[flag] = true;
  return true;
}

function parseDescriptor(word: string): number {
  const fd = /^\d+$/.test(word) ? Number(word) : NaN;
  if (fd <= LAST_DESCRIPTOR) return fd;
  throw new UsageError(`${quote(word)} is not a descriptor`);
}

/** Puts what the user wrote on one line, whatever it is. */
function quote(word: unknown): string {
  const text = String(word);
  return JSON.stringify(text.length > 40 ? text.slice(0, 40) + "..." : text);
}
