/**
 * The command line: `iocopy [options] rfd1 wfd1 rfd2 wfd2 ...`.
 *
 * @module
 */
import { quoted } from "../sys/error.ts";

/** What the command line asks for. */
export interface Settings {
  /** The pairs of descriptors: rfd, wfd. */
  pairs: [number, number][];
  /** Listening descriptors and their targets. */
  services: [number, string][];
  /** How to serve: the most connections at a time, undefined for the default. */
  connections: number | undefined;
  /** Times in seconds; 0 for never. */
  connectTimeout: number;
  exitIdle: number;
  /** The version of the PROXY protocol to use; 0 for none. */
  proxyProtocol: 0 | 1 | 2;
  /** The last option of serving that was given: wrong use where no descriptor listens. */
  serving: string | undefined;
  /** After how many seconds without a byte to end a half-closed connection; 0 for never. */
  halfClosed: number;
  /** The most bytes per second in each channel; 0 for no limit. */
  rate: number;
  /** Report every operation. */
  verbose: boolean;
  /** The most bytes in flight in a channel. */
  buffer: number;
  /** Print statistics at the end, as JSON or in words. */
  stats: boolean;
  json: boolean;
  /** Show the progress, and the number of bytes to copy; 0 if that is unknown. */
  progress: boolean;
  size: number;
  /** After how many seconds without a byte to give up; 0 for never. */
  timeout: number;
  /** Show the bytes. */
  dump: boolean;
  /** Print the help, or the version, and do nothing else. */
  help: boolean;
  version: boolean;
}

/** An error in the command line. Its message says what is wrong, and where. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** Options without a value. */
export const FLAGS = ["verbose", "stats", "progress", "dump", "help", "version"] as const;

/** Flags that need no dash, as in the original iocopy: `v`. */
const LETTERS: Record<string, typeof FLAGS[number]> = {
  v: "verbose",
  s: "stats",
  p: "progress",
  x: "dump",
};

/** Options with a value. */
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

/** Those of them that say how to serve. */
const OF_SERVING: readonly string[] = ["connections", "connect-timeout", "exit-idle"];

/** Short options, with one dash. */
export const SHORT: Record<string, string> = {
  ...LETTERS,
  h: "help",
  V: "version",
  b: "buffer",
  t: "timeout",
  c: "connections",
};

/** The largest descriptor: it has to fit C's int. */
const LAST_DESCRIPTOR = 2 ** 31 - 1;

/** The suffixes of sizes. */
const UNITS: Record<string, number> = {
  "": 1,
  k: 2 ** 10,
  K: 2 ** 10,
  M: 2 ** 20,
  G: 2 ** 30,
  T: 2 ** 40,
};

/** The largest values: more memory gains nothing, and more bytes cannot be counted exactly. */
const MOST = { buffer: "64M", size: "8192T", rate: "8192T" } as const;

/** The largest number of connections. */
const CONNECTIONS = 1_000_000;

/** The shortest and the longest timeout, in seconds. */
const SECONDS = { least: 0.001, most: 1e9 };

/** Reads the command line. Throws a {@linkcode UsageError}. */
export function parse(args: readonly string[]): Settings {
  const settings: Settings = {
    pairs: [],
    services: [],
    connections: undefined,
    connectTimeout: 10,
    exitIdle: 0,
    proxyProtocol: 0,
    serving: undefined,
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

/** Reads the options with dashes; returns the other words. */
function parseOptions(args: readonly string[], settings: Settings): string[] {
  const words: string[] = [];
  const rest = [...args];
  // The next word is the value, unless it is an option; -1 is not one.
  const next = () => /^-(?!\d)/.test(rest[0] ?? "") ? "" : rest.shift() ?? "";
  for (let arg = rest.shift(); arg !== undefined; arg = rest.shift()) {
    if (arg === "--") return [...words, ...rest];
    if (!arg.startsWith("-") || arg === "-") words.push(arg);
    else parseOption(arg, next, settings);
  }
  return words;
}

function parseOption(arg: string, next: () => string, settings: Settings): void {
  const [, name, value] = /^--([a-z-]+)(?:=(.*))?$/s.exec(arg) ?? [];
  if (name === "stats" && value !== undefined) setJson(value, settings);
  else if (name === "proxy-protocol") {
    settings.proxyProtocol = parseVersion(value);
    settings.serving = name;
  } else if (isFlag(name)) setFlag(name, value, settings);
  else if (isValue(name)) setValue(name, value ?? next(), settings);
  else if (/^-[a-zA-Z]/.test(arg)) parseShort(arg, next, settings);
  else throw unknown(arg);
}

/** Short options after one dash: `-vs`, `-b64k`, `-vb 64k`. */
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
  if (OF_SERVING.includes(name)) settings.serving = name;
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

/** A number of bytes, with or without a suffix. */
function parseSize(option: keyof typeof MOST, text: string): number {
  const size = toBytes(text);
  if (size >= 1 && size <= toBytes(MOST[option])) return size;
  throw new UsageError(`--${option}: ${quote(text)} is not a size from 1 to ${MOST[option]} bytes`);
}

function toBytes(text: string): number {
  const [, digits, unit = ""] = /^(\d{1,16})([kKMGT]?)$/.exec(text) ?? [];
  return Number(digits) * (UNITS[unit] ?? NaN);
}

/** A number of seconds, which can have a fraction. */
function parseSeconds(option: string, text: string): number {
  const seconds = /^(\d+\.?|\d*\.\d+)$/.test(text) ? Number(text) : NaN;
  const { least, most } = SECONDS;
  if (seconds >= least && seconds <= most) return seconds;
  const wanted = `a number of seconds from ${least} to ${most}`;
  throw new UsageError(`--${option}: ${quote(text)} is not ${wanted}`);
}

/** Reads the pairs, and flags without a dash before and between them. */
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
    const fd = parseDescriptor(word, rfd === undefined ? "not a descriptor" : NEITHER);
    if (rfd !== undefined) pairs.push([rfd, fd]);
    rfd = rfd === undefined ? fd : undefined;
  }
  if (rfd !== undefined) throw new UsageError(`descriptor ${rfd} has nothing to be copied to`);
  if (pairs.length + services.length === 0) throw new UsageError("no descriptors to copy");
}

/** Whether a word is meant to be a target, valid or not: HOST:PORT, a path, @name. */
function isTarget(word: string): boolean {
  return /[:/]|^@/.test(word);
}

function parseLetters(word: string, settings: Settings): boolean {
  const flags = [...word].map((letter) => LETTERS[letter]);
  if (flags.length === 0 || flags.includes(undefined)) return false;
  for (const flag of flags) if (flag) settings[flag] = true;
  return true;
}

/** What the second word of a pair is where it is nothing: a target without its port, most often. */
const NEITHER =
  "neither a descriptor nor a target (HOST:PORT, [IPv6]:PORT, a path with a slash, @name)";

function parseDescriptor(word: string, otherwise: string): number {
  const fd = /^\d+$/.test(word) ? Number(word) : NaN;
  if (fd <= LAST_DESCRIPTOR) return fd;
  throw new UsageError(`${quote(word)} is ${otherwise}`);
}

/** Quotes a word of the user on one line, whatever it contains. */
function quote(word: string): string {
  return quoted(word.length > 40 ? word.slice(0, 40) + "..." : word);
}
