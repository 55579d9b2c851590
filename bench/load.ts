/**
 * The load: load.c, compiled into a temporary folder, run, its line read.
 *
 * @module
 */
import { resolve } from "node:path";

/** What load.c can do. */
export type Mode = "bulk" | "both" | "ping" | "start" | "idle";

/** What a side is made of. */
export type Kind = "file" | "pipe" | "tcp" | "unix";

/** What one run saw: NaN where its mode does not tell. */
export interface Outcome {
  /** bulk, both: bytes after the first tenth, for how long, and the copier's CPU meanwhile. */
  bytes: number;
  seconds: number;
  cpu: number;
  /** ping: microseconds. */
  p50: number;
  p99: number;
  /** start: milliseconds. */
  start: number;
  /** idle: how often a thread was given a processor; the same, and the CPU, as long again later. */
  wakeups: number;
  wakeupsLater: number;
  cpuLater: number;
  /** The copier's peak, in bytes. */
  memory: number;
  /** The copier's exit status. */
  exit: number;
  /** What went wrong, if anything: "wrong bytes after 65536". */
  failure: string | null;
}

const NOTHING: Outcome = {
  bytes: NaN,
  seconds: NaN,
  cpu: NaN,
  p50: NaN,
  p99: NaN,
  start: NaN,
  wakeups: NaN,
  wakeupsLater: NaN,
  cpuLater: NaN,
  memory: NaN,
  exit: NaN,
  failure: null,
};

/** After so many seconds, and what the bytes need at 10 MB/s, a copier hangs. */
const PATIENCE = 20;

/** What a run is to do. */
export interface Run {
  mode: Mode;
  left: Kind;
  right: Kind;
  /** Bytes, round trips, or seconds. */
  number: number;
  /** Idle sockets besides. */
  idles: number;
  /** The copier; none joins the left side to itself. */
  command: readonly string[];
}

/** The compiled programs, and the folder that goes with them. */
export class Load implements Disposable {
  /** For what else is temporary. */
  readonly folder = Deno.makeTempDirSync({ prefix: "iocopy-bench-" });
  /** limit.c, compiled. */
  readonly limit = `${this.folder}/limit`;
  readonly #load = `${this.folder}/load`;
  #running: Deno.ChildProcess | undefined;

  /** Compiles both. Throws where there is no C compiler. */
  compile(): void {
    this.#compile("load.c", this.#load, "-pthread");
    this.#compile("limit.c", this.limit);
  }

  #compile(source: string, program: string, ...flags: string[]): void {
    const path = resolve(import.meta.dirname ?? ".", source);
    const args = ["-O2", "-w", ...flags, "-o", program, path];
    const { success, stderr } = new Deno.Command("cc", { args }).outputSync();
    if (!success) throw new Error(`cc ${source}: ${new TextDecoder().decode(stderr).trim()}`);
  }

  /** Does one run. */
  async run({ mode, left, right, number, idles, command }: Run): Promise<Outcome> {
    const from = left === "file" ? `${this.folder}/bytes` : left;
    const bytes = mode === "bulk" || mode === "both" ? number : 0;
    const patience = PATIENCE + (mode === "idle" ? 2 * number : Math.ceil(bytes / 1e7));
    const sides = ["-l", from, "-r", right, "-n", number, "-i", idles, "-t", patience];
    const args = [mode, ...sides.map(String), "--", ...command];
    const env = { DENO_NO_UPDATE_CHECK: "1" }; // the runtime's own errand is not what is measured
    const options = { args, env, stdout: "piped", stderr: "piped" } as const;
    this.#running = new Deno.Command(this.#load, options).spawn();
    const { stdout, stderr } = await this.#running.output();
    this.#running = undefined;
    const said = new TextDecoder().decode(stderr).trim().split("\n")[0] ?? "";
    const outcome = { ...NOTHING, ...parsed(new TextDecoder().decode(stdout), said) };
    if (outcome.exit !== 0 || outcome.failure) {
      const reason = [outcome.failure ?? `exit status ${outcome.exit}`, said];
      outcome.failure = reason.filter((words) => words !== "").join(": ");
    }
    return outcome;
  }

  /** Ends what runs, and removes the folder. */
  [Symbol.dispose](): void {
    try {
      this.#running?.kill("SIGKILL"); // its copier goes with it
    } catch {
      // It has ended just now.
    }
    Deno.removeSync(this.folder, { recursive: true });
  }
}

function parsed(line: string, said: string): Partial<Outcome> {
  try {
    return JSON.parse(line);
  } catch {
    return { failure: said || "the load was killed" };
  }
}
