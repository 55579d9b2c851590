/**
 * Runs the command under test, from source, or the executable whose path is in the
 * environment variable IOCOPY.
 *
 * @module
 */
import { resolve } from "node:path";
import { type End, O_RDWR, open, pipe } from "./ends.ts";
import { spawn, wait } from "./spawn.ts";

/** The project's folder. */
export const ROOT = resolve(import.meta.dirname ?? ".", "..");

/** The executable under test; undefined if the source is tested. */
export const BINARY = Deno.env.get("IOCOPY") ? resolve(Deno.env.get("IOCOPY") ?? "") : undefined;

/** The words that start the command under test. */
export const COMMAND: readonly string[] = BINARY
  ? [BINARY]
  : [Deno.execPath(), "run", "--allow-ffi", "--no-prompt", resolve(ROOT, "main.ts")];

/** A test's name, which says why it is skipped if it is. */
export interface Head {
  readonly name: string;
  readonly ignore: boolean;
}

/** A test that is skipped for `reason` if `condition` holds, or if it is skipped anyway. */
export function skippedIf(condition: boolean, reason: string, test: string | Head): Head {
  const head = typeof test === "string" ? { name: test, ignore: false } : test;
  if (!condition || head.ignore) return head;
  return { name: `${head.name} SKIPPED: ${reason}`, ignore: true };
}

/** A test of the source only, or of the executable only. */
export function only(what: "source" | "executable", name: string): Head {
  const reason = BINARY
    ? "it is about the source, and IOCOPY names an executable"
    : "it is about the executable, which IOCOPY does not name";
  return skippedIf((BINARY !== undefined) !== (what === "executable"), reason, name);
}

/** Whether this is the oldest Deno, which lacks what a few tests use. */
export const DENO_26 = Deno.version.deno.startsWith("2.6.");

// From source, the runtime would ask the network for its newest version.
Deno.env.set("DENO_NO_UPDATE_CHECK", "1");

/** Where the runtime keeps its caches, and the packages. */
export function denoDir(): Promise<string> {
  return cacheFolder ??= askForFolder();
}

let cacheFolder: Promise<string> | undefined;

async function askForFolder(): Promise<string> {
  const info = await new Deno.Command(Deno.execPath(), { args: ["info", "--json"] }).output();
  return JSON.parse(new TextDecoder().decode(info.stdout)).denoDir;
}

/** How a process ended. */
export interface Outcome {
  /** The exit status; null if a signal ended it. */
  code: number | null;
  /** The number of the signal that ended it; null if none did. */
  signal: number | null;
  /** What it wrote to standard error, unless the test gave it another one. */
  stderr: string;
}

/** A process under test, which is killed if the test ends before it. */
export interface Running extends Disposable {
  readonly pid: number;
  /** Resolves when it has ended. */
  readonly outcome: Promise<Outcome>;
  kill(signal: Deno.Signal): void;
}

/** How to start a process. */
export interface StartOptions {
  /** The words that start it, instead of {@linkcode COMMAND}. */
  command?: readonly string[];
  env?: Record<string, string>;
  cwd?: string;
  /** Which of 0, 1 and 2 are closed at the start. */
  closed?: readonly number[];
}

/**
 * Starts iocopy with `args`. `given` has the test's descriptors that it gets, by
 * their numbers in the process. It gets no others, except /dev/null as 0 and 1, and a
 * pipe to {@linkcode Outcome.stderr} as 2, if these are not given.
 *
 * The test's own copies stay open, so that no reader sees the end of file before they
 * are closed. {@linkcode handOver} closes them.
 */
export function start(
  args: readonly string[],
  given: Record<number, End> = {},
  options: StartOptions = {},
): Running {
  const [program = "", ...words] = [...options.command ?? COMMAND, ...args];
  using nothing = open("/dev/null", O_RDWR);
  const [log, logging] = pipe();
  const all: Record<number, End> = { 0: nothing, 1: nothing, 2: logging, ...given };
  for (const fd of options.closed ?? []) delete all[fd];
  const numbers = Object.entries(all).map(([fd, end]) => [fd, end.fd]);
  const pid = spawn(program, words, {
    given: Object.fromEntries(numbers),
    env: options.env ?? Deno.env.toObject(),
    cwd: options.cwd ?? ROOT,
  });
  logging.close();
  let running = true;
  const outcome = (async () => {
    const stderr = log.readAll();
    const ended = await wait(pid);
    running = false;
    const text = new TextDecoder().decode(await stderr);
    log.close();
    return { ...ended, stderr: text };
  })();
  const kill = (signal: Deno.Signal) => {
    try {
      if (running) Deno.kill(pid, signal);
    } catch {
      // It has just ended, and the event loop does not know yet.
    }
  };
  return { pid, outcome, kill, [Symbol.dispose]: () => kill("SIGKILL") };
}

/** As {@linkcode start}, and closes the test's copies of what it gave. */
export function handOver(
  args: readonly string[],
  given: Record<number, End> = {},
  options: StartOptions = {},
): Running {
  const running = start(args, given, options);
  for (const end of Object.values(given)) end.close();
  return running;
}
