/**
 * The load: compiles load.c in a temporary folder, runs it, and reads its line.
 *
 * @module
 */
import { resolve } from "node:path";

/** The modes of load.c. */
export type Mode = "bulk" | "both" | "ping" | "start" | "idle";

/** The kinds of descriptors on a side. */
export type Kind = "file" | "pipe" | "tcp" | "unix";

/** The results of one run; NaN for what its mode does not measure. */
export interface Outcome {
  /** bulk, both: the bytes after the first tenth, the time for them, and the copier's processor time. */
  bytes: number;
  seconds: number;
  cpu: number;
  /** ping: microseconds. */
  p50: number;
  p99: number;
  /** start: milliseconds. */
  start: number;
  /** idle: context switches; the same once more, and the processor time, in a second period. */
  wakeups: number;
  wakeupsLater: number;
  cpuLater: number;
  /** The copier's peak memory, in bytes. */
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

/** A copier has so many seconds, and the time that the bytes need at 10 MB/s; then it counts as hanging. */
const PATIENCE = 20;

/** The parameters of a run. */
export interface Run {
  mode: Mode;
  left: Kind;
  right: Kind;
  /** Bytes, round trips, or seconds. */
  number: number;
  /** Idle sockets in addition. */
  idles: number;
  /** The copier; without one, the left side is joined to itself. */
  command: readonly string[];
}

/** The compiled programs in a folder of their own. */
export class Load implements Disposable {
  /** For other temporary files. */
  readonly folder = Deno.makeTempDirSync({ prefix: "iocopy-bench-" });
  /** limit.c, compiled. */
  readonly limit = `${this.folder}/limit`;
  readonly #load = `${this.folder}/load`;
  #running: Deno.ChildProcess | undefined;

  /** Compiles both. Throws if there is no C compiler. */
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
    const env = { DENO_NO_UPDATE_CHECK: "1" }; // the runtime would ask the network for its newest version
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
      this.#running?.kill("SIGKILL"); // which ends its copier too
    } catch {
      // It has just ended.
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
