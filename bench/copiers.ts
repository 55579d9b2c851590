/**
 * The programs that are compared, and the paths on which.
 *
 * @module
 */
import { resolve } from "node:path";
import type { Kind } from "./load.ts";

/** From one kind of descriptor to another. */
export interface Path {
  id: string;
  title: string;
  from: Kind;
  to: Kind;
  /** A pipeline of the shell instead, in which X stands for the copier: see {@linkcode PIPELINES}. */
  script?: string;
  /** Whether splice(2) refuses it, so that limit.c cannot do it. */
  isCopied?: boolean;
}

function path(
  from: Kind,
  to: Kind,
  title = [from, to].map((kind) => kind === "tcp" ? "TCP" : kind).join(" to "),
): Path {
  return { id: `${from}-${to}`, title, from, to };
}

/** The two most important paths. */
export const TCP = path("tcp", "tcp"), PIPE = path("pipe", "pipe");

/** All paths that are measured. */
export const PATHS: readonly Path[] = [
  TCP,
  PIPE,
  path("largepipe", "largepipe", "pipes of 1 MiB"),
  path("unix", "unix"),
  path("file", "pipe"),
  path("file", "tcp"),
  path("pipe", "tcp"),
  path("tcp", "pipe"),
];

function pipeline(id: string, script: string): Path {
  return { id, title: script, from: "pipe", to: "pipe", script };
}

/** What a shell runs, and what is measured in a run of the whole pipeline. */
export const PIPELINES: readonly Path[] = [
  pipeline("head-cat", "head -c N /dev/zero | X | cat >/dev/null"),
  pipeline("tar-gzip", "tar -c DIR 2>/dev/null | X | gzip -1 >/dev/null"),
  pipeline("file-wc", "X <FILE | wc -c >/dev/null"),
  { ...pipeline("append", "head -c N /dev/zero | X >>/dev/null"), isCopied: true },
];

/** Whether both ends of a path are of the same kind, so that it can be used in both directions. */
export function isSymmetric({ from, to }: Path): boolean {
  return from === to;
}

/** A program that copies from 0 to 7, and if it can, also from 6 to 1. */
export interface Copier {
  id: string;
  title: string;
  command: readonly string[];
  /** The same as a filter, from 0 to 1, if it can be one. */
  filter?: readonly string[];
  twoWays: boolean;
}

/** The load without a copier in between. */
export const DIRECT: Copier = {
  id: "direct",
  title: "the load alone",
  command: [],
  twoWays: true,
};

const PAIRS = ["0", "7", "6", "1"];

/** The command that runs iocopy from source, without arguments. */
export const SOURCE: readonly string[] = [
  Deno.execPath(),
  "run",
  "--allow-ffi",
  "--no-prompt",
  resolve(import.meta.dirname ?? ".", "../main.ts"),
];

/** The executable to measure too, if the environment variable IOCOPY has its path. */
export const BINARY = Deno.env.get("IOCOPY") ? resolve(Deno.env.get("IOCOPY") ?? "") : undefined;

/** iocopy from source, and the executable if there is one. */
export function subjects(): Copier[] {
  const source = subject("source", "iocopy, deno run", SOURCE);
  return BINARY ? [subject("iocopy", "iocopy, compiled", [BINARY]), source] : [source];
}

function subject(id: string, title: string, command: readonly string[]): Copier {
  return {
    id,
    title,
    command: [...command, ...PAIRS],
    filter: [...command, "0", "1"],
    twoWays: true,
  };
}

/** The build to compare with: the words of a command without its pairs. */
export function against(words: string): Copier {
  return subject("against", words, words.split(" "));
}

/** Whether an id is that of iocopy, compiled or from source. */
export function isOurs(id: string): boolean {
  return id === "iocopy" || id === "source";
}

/** limit.c. */
export function limit(program: string): Copier {
  return subject("limit", "C, splice(2) alone", [program]);
}

/** s6-ioconnect, which uses the same descriptors. */
const S6: Copier = {
  id: "s6-ioconnect",
  title: "s6-ioconnect",
  command: ["s6-ioconnect"],
  twoWays: true,
};

function socat(id: string, title: string, ...options: string[]): Copier {
  const command = ["socat", ...options, "-", "FD:6!!FD:7"];
  return { id, title, command, filter: ["socat", "-u", ...options, "-", "-"], twoWays: true };
}

/** A filter from 0 to 1; its 1 is descriptor 7. */
export function filter(id: string, title: string, words: string): Copier {
  const command = ["sh", "-c", `exec ${words} >&7 6<&- 7>&-`];
  return { id, title, command, filter: ["sh", "-c", `exec ${words}`], twoWays: false };
}

/** A program with its version: "cat (GNU coreutils) 9.1". */
function named(tool: string): string {
  const script = 'command -v "$0" >/dev/null && "$0" --version';
  const { stdout } = new Deno.Command("sh", { args: ["-c", script, tool] }).outputSync();
  const [line = ""] = new TextDecoder().decode(stdout).split("\n");
  const [, name = tool] = new RegExp(`^(${tool} .*?[\\d.]+)`).exec(line) ?? [];
  return name;
}

const STREAMS = "await Deno.stdin.readable.pipeTo(Deno.stdout.writable)";

const OTHERS: readonly [tool: string, package_: string, Copier][] = [
  ["s6-ioconnect", "s6", S6],
  ["socat", "socat", socat("socat-b", "socat -b 262144", "-b", "262144")],
  ["socat", "socat", socat("socat", "socat")],
  ["pv", "pv", filter("pv", named("pv"), "pv -q")],
  ["cat", "coreutils", filter("cat", named("cat"), "cat")],
  [
    Deno.execPath(),
    "deno",
    filter("streams", "Deno's streams", `${Deno.execPath()} eval '${STREAMS}'`),
  ],
];

/** The other programs that are installed, and the names of those that are missing. */
export function others(): { found: Copier[]; missing: string[] } {
  const here = OTHERS.filter(([tool]) => isHere(tool));
  const missing = OTHERS.filter((other) => !here.includes(other)).map(([tool, name]) =>
    tool === name ? tool : `${tool} (package ${name})`
  );
  return { found: here.map(([, , copier]) => copier), missing: [...new Set(missing)] };
}

function isHere(tool: string): boolean {
  const args = ["-c", 'command -v "$0"', tool];
  return new Deno.Command("sh", { args, stdout: "null", stderr: "null" }).outputSync().success;
}
