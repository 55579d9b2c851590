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
}

function path(from: Kind, to: Kind): Path {
  const title = [from, to].map((kind) => kind === "tcp" ? "TCP" : kind).join(" to ");
  return { id: `${from}-${to}`, title, from, to };
}

/** The two most important paths. */
export const TCP = path("tcp", "tcp"), PIPE = path("pipe", "pipe");

/** All paths that are measured. */
export const PATHS: readonly Path[] = [
  TCP,
  PIPE,
  path("unix", "unix"),
  path("file", "pipe"),
  path("file", "tcp"),
  path("pipe", "tcp"),
  path("tcp", "pipe"),
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
  return { id, title, command: [...command, ...PAIRS], twoWays: true };
}

/** limit.c. */
export function limit(program: string): Copier {
  return { id: "limit", title: "C, splice(2) alone", command: [program, ...PAIRS], twoWays: true };
}

/** s6-ioconnect, which uses the same descriptors. */
export const S6: Copier = {
  id: "s6-ioconnect",
  title: "s6-ioconnect",
  command: ["s6-ioconnect"],
  twoWays: true,
};

function socat(id: string, title: string, ...options: string[]): Copier {
  return { id, title, command: ["socat", ...options, "-", "FD:6!!FD:7"], twoWays: true };
}

/** A filter from 0 to 1; its 1 is descriptor 7. */
export function filter(id: string, title: string, words: string): Copier {
  return { id, title, command: ["sh", "-c", `exec ${words} >&7 6<&- 7>&-`], twoWays: false };
}

const STREAMS = "await Deno.stdin.readable.pipeTo(Deno.stdout.writable)";

const OTHERS: readonly [tool: string, package_: string, Copier][] = [
  ["s6-ioconnect", "s6", S6],
  ["socat", "socat", socat("socat-b", "socat -b 262144", "-b", "262144")],
  ["socat", "socat", socat("socat", "socat")],
  ["pv", "pv", filter("pv", "pv", "pv -q")],
  ["cat", "coreutils", filter("cat", "cat", "cat")],
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
