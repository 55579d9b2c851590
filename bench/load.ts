/**
 * The load: compiles load.c in a temporary folder, runs it, and reads its line.
 *
 * @module
 */
import { resolve } from "node:path";

/** The modes of load.c. */
export type Mode = "bulk" | "both" | "ping" | "start" | "shell";

/** The kinds of descriptors on a side. */
export type Kind = "file" | "pipe" | "largepipe" | "tcp" | "unix";

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
  /** The private memory of the copier at rest, in bytes: after its start, or with all bytes copied. */
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
  /** Bytes, or round trips. */
  number: number;
  /** shell: the pipeline, in which X stands for the copier; DIR and FILE have so many bytes. */
  script?: string | undefined;
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
  async run({ mode, left, right, number, script, command }: Run): Promise<Outcome> {
    const from = left === "file" ? `${this.folder}/bytes` : left;
    const patience = PATIENCE + (mode === "ping" ? 0 : Math.ceil(number / 1e7));
    const sides = ["-l", from, "-r", right, "-n", number, "-t", patience];
    const words = script === undefined ? command : this.#pipeline(script, number, command);
    const args = [mode, ...sides.map(String), "--", ...words];
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

  /** The words that run `command` in a pipeline of the shell. */
  #pipeline(script: string, bytes: number, command: readonly string[]): string[] {
    const [dir, file] = [`${this.folder}/tree`, `${this.folder}/zeros`];
    if (script.includes("FILE") && sizeOf(file) !== bytes) {
      Deno.writeFileSync(file, new Uint8Array());
      Deno.truncateSync(file, bytes);
    }
    if (script.includes("DIR") && sizeOf(`${dir}/text`) !== bytes) {
      Deno.mkdirSync(dir, { recursive: true });
      Deno.writeFileSync(`${dir}/text`, hexadecimal(bytes));
    }
    const words: Record<string, string> = { X: '"$@"', DIR: dir, FILE: file, N: String(bytes) };
    const text = script.replaceAll(/\b(X|DIR|FILE|N)\b/g, (name) => words[name] ?? name);
    return ["sh", "-c", text, "sh", this.#load, "filter", "--", ...command];
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

function sizeOf(path: string): number {
  try {
    return Deno.statSync(path).size;
  } catch {
    return -1;
  }
}

/** So many bytes that compress to half. */
function hexadecimal(bytes: number): Uint8Array {
  const text = new Uint8Array(bytes);
  for (let i = 0, state = 1; i < bytes; i++) {
    state = state * 48271 % 2147483647; // the minimal standard generator of Park and Miller
    text[i] = "0123456789abcdef".charCodeAt(state & 15);
  }
  return text;
}
