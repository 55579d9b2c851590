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
  /** Bytes, round trips, or seconds. */
  number: number;
  /** Idle channels in addition; by default none. */
  idles?: number;
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
  get(mode: Mode, path: string, copier: string, idles = 0): Figure | undefined {
    return this.#figures.get([mode, path, copier, idles].join(" "));
  }

  /** Returns the figure of a trial, creating it if necessary. */
  of(trial: Trial): Figure {
    const { mode, path, copier, idles = 0 } = trial;
    const key = [mode, path.id, copier.id, idles].join(" ");
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
export function name({ mode, path, copier, idles }: Trial): string {
  const beside = idles ? ` beside ${idles} idle channels` : "";
  return `${mode}, ${path.title}, ${copier.title}${beside}`;
}

async function run(load: Load, { mode, path, copier, number, idles = 0 }: Trial): Promise<Outcome> {
  const { from: left, to: right } = path;
  const first = { mode, left, right, number, idles, command: arguments_(copier, idles) };
  if (copier !== DIRECT || left === right) return await load.run(first);
  // The load cannot join a file to a socket without a copier: its own limit is the slower of both.
  const [one, other] = [await load.run(first), await load.run({ ...first, left: right })];
  return speed(one) < speed(other) ? one : other;
}

/** Idle sockets are joined in pairs, in both directions: as many channels as sockets. */
function arguments_(copier: Copier, idles: number): string[] {
  const there = (fd: number) => fd % 2 ? [`${fd}`, `${fd - 1}`] : [`${fd}`, `${fd + 1}`];
  return [...copier.command, ...Array.from({ length: idles }, (_, i) => there(10 + i)).flat()];
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
