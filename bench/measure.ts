/**
 * Runs trials in turn, and summarizes the results.
 *
 * @module
 */
import { type Copier, DIRECT, type Path } from "./copiers.ts";
import type { Load, Mode, Outcome } from "./load.ts";

/** How much is measured. */
export interface Amount {
  rounds: number;
  bytes: number;
  /** Round trips in a run. */
  trips: number;
  /** Starts in a round. */
  starts: number;
}

/** One measurement. */
export interface Trial {
  mode: Mode;
  path: Path;
  copier: Copier;
  /** Bytes, or round trips. */
  number: number;
}

/** The results of the runs of one trial, in order. */
export interface Figure {
  trial: Trial;
  runs: Outcome[];
  failure: string | null;
}

/** All figures, by trial. */
export class Figures {
  readonly #figures = new Map<string, Figure>();

  /** All of them, in the order of the first measurements. */
  get all(): Figure[] {
    return [...this.#figures.values()];
  }

  /** The figure of a trial, if it was measured without an error. */
  get(mode: Mode, path: string, copier: string): Figure | undefined {
    return this.#figures.get([mode, path, copier].join(" "));
  }

  /** Returns the figure of a trial, creating it if necessary. */
  of(trial: Trial): Figure {
    const { mode, path, copier } = trial;
    const key = [mode, path.id, copier.id].join(" ");
    const figure = this.#figures.get(key) ?? { trial, runs: [], failure: null };
    this.#figures.set(key, figure);
    return figure;
  }

  /** A value of a figure: the median of its runs. */
  value(figure: Figure | undefined, value: Value): number {
    return figure && !figure.failure ? median(figure.runs.map(value)) : NaN;
  }

  /**
   * The ratio of a figure to another one: the median of the ratios of consecutive
   * runs, since the speed of the machine varies.
   */
  ratio(figure: Figure | undefined, to: Figure | undefined, value: Value): number {
    if (!figure || !to || figure.failure || to.failure) return NaN;
    return median(figure.runs.flatMap((run, i) => {
      const other = to.runs[i];
      return other ? [value(run) / value(other)] : [];
    }));
  }
}

/** A value of a result. */
export type Value = (outcome: Outcome) => number;

/** GB/s. */
export const speed: Value = ({ bytes, seconds }) => bytes / seconds / 1e9;
/** CPU seconds of the copier per GB. */
export const cost: Value = ({ bytes, cpu }) => cpu / bytes * 1e9;

/** Seconds. */
export const duration: Value = ({ seconds }) => seconds;
/** Private memory, in MB. */
export const memory: Value = (run) => run.memory / 1e6;

/** The median; NaN if there are no values. */
export function median(values: readonly number[]): number {
  const sorted = values.filter((value) => !Number.isNaN(value)).sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? NaN;
  return sorted.length % 2 ? upper : ((sorted[middle - 1] ?? NaN) + upper) / 2;
}

/** Runs the trials of each round in turn, once each. A trial that failed is not repeated. */
export async function measure(
  load: Load,
  rounds: readonly (readonly Trial[])[],
  progress: Progress,
): Promise<Figures> {
  const figures = new Figures();
  const count = rounds.reduce((sum, trials) => sum + trials.length, 0);
  let done = 0;
  for (const [round, trials] of rounds.entries()) {
    progress.round(round + 1, rounds.length);
    for (const trial of trials) {
      progress.step(`${++done} of ${count}: ${name(trial)}`);
      const figure = figures.of(trial);
      if (figure.failure) continue;
      const outcome = await run(load, trial);
      figure.runs.push(outcome);
      figure.failure = outcome.failure;
    }
  }
  progress.end();
  return figures;
}

/** A trial in words. */
export function name({ mode, path, copier }: Trial): string {
  return `${mode}, ${path.title}, ${copier.title}`;
}

async function run(load: Load, { mode, path, copier, number }: Trial): Promise<Outcome> {
  const { from: left, to: right, script } = path;
  if (mode === "shell") {
    return await load.run({ mode, left, right, number, script, command: copier.filter ?? [] });
  }
  const first = { mode, left, right, number, command: copier.command };
  if (copier === DIRECT && left !== right) {
    // The load cannot join a file to a socket without a copier: its own limit is the slower of both.
    const [one, other] = [await load.run(first), await load.run({ ...first, left: right })];
    return speed(one) < speed(other) ? one : other;
  }
  if (copier.id === "limit" && (left === "pipe") !== (right === "pipe")) {
    // Directly or through a pipe of its own, the given pipe enlarged or kept: the limit is the fastest.
    const [program = "", ...pairs] = copier.command, runs: Outcome[] = [];
    for (const options of [[], ["-p"], ["-k"], ["-k", "-p"]]) {
      runs.push(await load.run({ ...first, command: [program, ...options, ...pairs] }));
    }
    return runs.reduce((best, one) => speed(one) > speed(best) ? one : best);
  }
  return await load.run(first);
}

/** Shows the progress on standard error: one line that changes on a terminal, otherwise a line for each round. */
export class Progress {
  readonly #terminal = Deno.stderr.isTerminal();

  round(round: number, rounds: number): void {
    if (!this.#terminal) say(`bench: round ${round} of ${rounds}\n`);
  }

  step(text: string): void {
    if (this.#terminal) say(`\r\x1b[K${text}`);
  }

  end(): void {
    if (this.#terminal) say("\r\x1b[K");
  }
}

function say(text: string): void {
  Deno.stderr.writeSync(new TextEncoder().encode(text));
}
