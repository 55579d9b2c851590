/**
 * The command line: `iocopy [options] rfd1 wfd1 rfd2 wfd2 ...`.
 *
 * @module
 */

/** What the command line asks for. */
export interface Settings {
  /** The descriptors, two by two. */
  pairs: [number, number][];
  /** Listening descriptors, and where what comes to them goes. */
  services: [number, string][];
  /** How to serve: connections at one time; times in seconds, 0 being never. */
  connections: number;
  connectTimeout: number;
  exitIdle: number;
  /** The version of the PROXY protocol to begin each connection with; 0 is none. */
  proxyProtocol: 0 | 1 | 2;
  /** After how many seconds without a byte a half-closed connection is ended; 0 is never. */
  halfClosed: number;
  /** The most bytes a second in each channel; 0 is no limit. */
  rate: number;
  /** Report every operation. */
  verbose: boolean;
  /** The most bytes in flight in a channel. */
  buffer: number;
  /** Print statistics at the end, as JSON or for people. */
  stats: boolean;
  json: boolean;
  /** Show the progress, of so many bytes in all; 0 where that is not said. */
  progress: boolean;
  size: number;
  /** After how many seconds without a byte to give up; 0 is never. */
  timeout: number;
  /** Show the bytes themselves. */
  dump: boolean;
  /** Print the help, or the version, and do nothing else. */
  help: boolean;
  version: boolean;
}

/** A command line that cannot be followed. Its message says what is wrong, and where. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** The options that take no value: GNU's names, the first letter being the short one. */
export const FLAGS = ["verbose", "stats", "progress", "dump", "help", "version"] as const;

/** Flags in the original's spelling, without a dash: `v`. */
export const LETTERS: Record<string, typeof FLAGS[number]> = {
  v: "verbose",
  s: "stats",
  p: "progress",
  x: "dump",
};

/** Options that take a value. */
export const VALUES = [
  "buffer",
  "timeout",
  "size",
  "connections",
  "connect-timeout",
  "half-closed",
  "exit-idle",
  "rate",
] as const;

/** The short names, with one dash. */
export const SHORT: Record<string, string> = {
  ...LETTERS,
  h: "help",
  V: "version",
  b: "buffer",
  t: "timeout",
  c: "connections",
};

/** The largest descriptor: they are C's int. */
const LAST_DESCRIPTOR = 2 ** 31 - 1;

/** What a letter behind a number stands for. */
const UNITS: Record<string, number> = {
  "": 1,
  k: 2 ** 10,
  K: 2 ** 10,
  M: 2 ** 20,
  G: 2 ** 30,
  T: 2 ** 40,
};

/** The most that each size may be: memory that nothing gains from, and what a number can count. */
const MOST = { buffer: "64M", size: "8192T", rate: "8192T" } as const;

/** The most connections that may be asked for. */
const CONNECTIONS = 1_000_000;

/** The shortest timeout and the longest, in seconds: less is no time, more no use. */
const SECONDS = { least: 0.001, most: 1e9 };

/** Reads the command line. Throws a {@linkcode UsageError}. */
export function parse(args: readonly string[]): Settings {
  const settings: Settings = {
    pairs: [],
    services: [],
    connections: 1000,
    connectTimeout: 10,
    exitIdle: 0,
    proxyProtocol: 0,
    halfClosed: 0,
    rate: 0,
    verbose: false,
    buffer: 2 ** 20,
    stats: false,
    json: false,
    progress: false,
    size: 0,
    timeout: 0,
    dump: false,
    help: false,
    version: false,
  };
  const words = parseOptions(args, settings);
  if (!settings.help && !settings.version) parsePairs(words, settings);
  return settings;
}

/** Takes the options with dashes out; returns what is left. */
function parseOptions(args: readonly string[], settings: Settings): string[] {
  const words: string[] = [];
  const rest = [...args];
  // What follows an option is its value, unless it is an option itself: -1 is none.
  const next = () => /^-(?!\d)/.test(rest[0] ?? "") ? "" : rest.shift() ?? "";
  for (let arg = rest.shift(); arg !== undefined; arg = rest.shift()) {
    if (arg === "--") return [...words, ...rest];
    const [, name, value] = /^--([a-z-]+)(?:=(.*))?$/s.exec(arg) ?? [];
    if (name === "stats" && value !== undefined) setJson(value, settings);
    else if (name === "proxy-protocol") settings.proxyProtocol = parseVersion(value);
    else if (isFlag(name)) setFlag(name, value, settings);
    else if (isValue(name)) setValue(name, value ?? next(), settings);
    else if (/^-[a-zA-Z]/.test(arg)) parseShort(arg, next, settings);
    else if (arg.startsWith("-") && arg !== "-") throw unknown(arg);
    else words.push(arg);
  }
  return words;
}

/** Short options behind one dash: `-vs`, `-b64k`, `-vb 64k`. */
function parseShort(arg: string, next: () => string, settings: Settings): void {
  for (let at = 1; at < arg.length; at++) {
    const name = Object.hasOwn(SHORT, arg.charAt(at)) ? SHORT[arg.charAt(at)] : undefined;
    if (isValue(name)) return setValue(name, arg.slice(at + 1) || next(), settings);
    if (!isFlag(name)) throw unknown(arg);
    settings[name] = true;
  }
}

function isFlag(name: string | undefined): name is typeof FLAGS[number] {
  return FLAGS.some((flag) => flag === name);
}

function isValue(name: string | undefined): name is typeof VALUES[number] {
  return VALUES.some((option) => option === name);
}

function setFlag(name: typeof FLAGS[number], value: string | undefined, settings: Settings): void {
  if (value !== undefined) throw new UsageError(`--${name} takes no value`);
  settings[name] = true;
}

function setJson(value: string, settings: Settings): void {
  if (value !== "json") throw new UsageError(`--stats: ${quote(value)} is not "json"`);
  settings.stats = settings.json = true;
}

function setValue(name: typeof VALUES[number], value: string, settings: Settings): void {
  switch (name) {
    case "buffer":
    case "size":
    case "rate":
      settings[name] = parseSize(name, value);
      break;
    case "connections":
      settings.connections = parseCount(name, value);
      break;
    case "timeout":
      settings.timeout = parseSeconds(name, value);
      break;
    case "connect-timeout":
      settings.connectTimeout = parseSeconds(name, value);
      break;
    case "half-closed":
      settings.halfClosed = parseSeconds(name, value);
      break;
    case "exit-idle":
      settings.exitIdle = parseSeconds(name, value);
  }
}

function parseVersion(value = "1"): 1 | 2 {
  if (value === "1" || value === "2") return value === "1" ? 1 : 2;
  throw new UsageError(`--proxy-protocol: ${quote(value)} is not version 1 or 2`);
}

function parseCount(option: string, text: string): number {
  const count = /^\d{1,9}$/.test(text) ? Number(text) : NaN;
  if (count >= 1 && count <= CONNECTIONS) return count;
  const wanted = `a whole number from 1 to ${CONNECTIONS}`;
  throw new UsageError(`--${option}: ${quote(text)} is not ${wanted}`);
}

function unknown(option: string): UsageError {
  return new UsageError(`unknown option ${quote(option)}`);
}

/** The number of bytes that `text` says. */
function parseSize(option: keyof typeof MOST, text: unknown): number {
  const size = toBytes(String(text));
  if (size >= 1 && size <= toBytes(MOST[option])) return size;
  throw new UsageError(`--${option}: ${quote(text)} is not a size from 1 to ${MOST[option]} bytes`);
}

function toBytes(text: string): number {
  const [, digits, unit = ""] = /^(\d{1,16})([kKMGT]?)$/.exec(text) ?? [];
  return Number(digits) * (UNITS[unit] ?? NaN);
}

/** The number of seconds that `text` says, fractions and all. */
function parseSeconds(option: string, text: unknown): number {
  const seconds = /^(\d+\.?|\d*\.\d+)$/.test(String(text)) ? Number(text) : NaN;
  const { least, most } = SECONDS;
  if (seconds >= least && seconds <= most) return seconds;
  const wanted = `a number of seconds from ${least} to ${most}`;
  throw new UsageError(`--${option}: ${quote(text)} is not ${wanted}`);
}

/** Reads descriptors two by two, and before or between the pairs options in the original's spelling. */
function parsePairs(words: readonly string[], settings: Settings): void {
  const { pairs, services } = settings;
  let rfd: number | undefined;
  for (const word of words) {
    if (rfd === undefined && parseLetters(word, settings)) continue;
    if (rfd !== undefined && isTarget(word)) {
      services.push([rfd, word]);
      rfd = undefined;
      continue;
    }
    const fd = parseDescriptor(word);
    if (rfd !== undefined) pairs.push([rfd, fd]);
    rfd = rfd === undefined ? fd : undefined;
  }
  if (rfd !== undefined) throw new UsageError(`descriptor ${rfd} has nothing to be copied to`);
  if (pairs.length + services.length === 0) throw new UsageError("no descriptors to copy");
}

/** Whether a word is meant as a target, be it right or wrong: HOST:PORT, a path, @name. */
function isTarget(word: string): boolean {
  return /[:/]|^@/.test(word);
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
  const json = JSON.stringify(text.length > 40 ? text.slice(0, 40) + "..." : text);
  // JSON leaves these as they are, and a terminal takes U+009B for an escape sequence.
  return json.replace(/[\x7f-\x9f\u2028\u2029]/g, (letter) => {
    return `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`;
  });
}
