/**
 * Figures as tables, for a terminal and for doc/, and as data.
 *
 * @module
 */
import { resolve } from "node:path";
import { BINARY, type Copier, isSymmetric, type Path, PIPE, PIPELINES } from "./copiers.ts";
import {
  cost,
  duration,
  type Figure,
  type Figures,
  memory,
  name,
  speed,
  type Value,
} from "./measure.ts";

/** A table. */
export interface Table {
  title: string;
  columns: string[];
  rows: string[][];
}

/** A number with the digits that matter. */
export function digits(value: number): string {
  if (Number.isNaN(value)) return "-";
  if (value === 0) return "0";
  if (value < 0.1) return value.toPrecision(2);
  return value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);
}

/** The tables of a comparison. */
export function tables(
  figures: Figures,
  copiers: readonly Copier[],
  paths: readonly Path[],
): Table[] {
  const symmetric = paths.filter(isSymmetric);
  const rows = (cells: (copier: Copier) => string[]) =>
    copiers.map((copier) => [copier.title, ...cells(copier)]).filter((row) =>
      row.some((cell, i) => i > 0 && cell !== "-")
    );
  const titles = (paths: readonly Path[], of = "") => paths.map(({ title }) => of + title);

  const speeds = (mode: "bulk" | "both", path: Path, { id }: Copier) => {
    const [own, limit] = [figures.get(mode, path.id, id), figures.get(mode, path.id, "limit")];
    if (own?.failure) return "fails";
    const ratio = id === "limit" ? NaN : figures.ratio(own, limit, speed);
    const suffix = Number.isNaN(ratio) ? "" : ` (${ratio.toFixed(2)})`;
    return digits(figures.value(own, speed)) + suffix;
  };
  const trip = (path: Path, { id }: Copier) => {
    const own = figures.get("ping", path.id, id);
    if (!own) return "-";
    if (own.failure) return "fails";
    const [p50, p99] = [figures.value(own, (r) => r.p50), figures.value(own, (r) => r.p99)];
    return `${digits(p50)} / ${digits(p99)}`;
  };
  const costs = (path: Path, { id }: Copier) =>
    id === "direct" ? "-" : digits(figures.value(figures.get("bulk", path.id, id), cost));
  const starts = (id: string) =>
    digits(figures.value(figures.get("start", PIPE.id, id), (run) => run.start));

  return [
    {
      title: "One direction, in GB/s (in brackets: the ratio to splice(2) in C)",
      columns: titles(paths),
      rows: rows((copier) => paths.map((path) => speeds("bulk", path, copier))),
    },
    {
      title:
        "Both directions at the same time, in GB/s; round trip of one byte, median / 99th percentile, in µs",
      columns: [...titles(symmetric, "both: "), ...titles(symmetric, "trip: ")],
      rows: rows((copier) => [
        ...symmetric.map((path) => speeds("both", path, copier)),
        ...symmetric.map((path) => trip(path, copier)),
      ]),
    },
    {
      title: "CPU seconds of the copier per GB",
      columns: titles(paths),
      rows: rows((copier) => paths.map((path) => costs(path, copier))),
    },
    {
      title: "Start to first byte, in ms; private memory after the start and after a run, in MB",
      columns: ["start", "memory after the start", "after a run"],
      rows: rows(({ id }) => [
        starts(id),
        digits(figures.value(figures.get("start", PIPE.id, id), memory)),
        digits(largest(figures, id)),
      ]),
    },
    {
      title: "Pipelines of a shell, in which X is the program, in seconds; CPU seconds of X",
      columns: [
        ...PIPELINES.map(({ title }) => title),
        ...PIPELINES.map(({ id }) => `CPU: ${id}`),
      ],
      rows: rows(({ id }) => {
        const each = PIPELINES.map((path) => figures.get("shell", path.id, id));
        const cpu: Value = (run) => run.cpu;
        return [
          ...each.map((figure) =>
            figure?.failure ? "fails" : digits(figures.value(figure, duration))
          ),
          ...each.map((figure) => digits(figures.value(figure, cpu))),
        ];
      }),
    },
  ];
}

/** The private memory of a copier after the run that needed most, in MB. */
function largest(figures: Figures, id: string): number {
  const runs = figures.all.filter(({ trial }) => trial.copier.id === id && trial.mode !== "start")
    .map((figure) => figures.value(figure, memory)).filter((value) => value > 0);
  return runs.length ? Math.max(...runs) : NaN;
}

/** Two builds side by side, figure by figure: which is slower or larger, and by how much. */
export function comparison(figures: Figures, copier: string): Table {
  const row = (mode: string, figure: Figure, unit: string, value: Value): string[] => {
    const before = figures.get(figure.trial.mode, figure.trial.path.id, "against");
    const [now, then] = [figures.value(figure, value), figures.value(before, value)];
    const paired = figures.ratio(figure, before, value);
    if (Number.isNaN(paired)) return [];
    const what = `${mode}, ${figure.trial.path.title}: ${unit}`;
    return [what, digits(now), digits(then), (now / then).toFixed(3), paired.toFixed(3)];
  };
  const rows = figures.all.filter(({ trial }) => trial.copier.id === copier).flatMap((figure) => {
    switch (figure.trial.mode) {
      case "bulk":
      case "both":
        return [
          row(figure.trial.mode, figure, "GB/s", speed),
          row(figure.trial.mode, figure, "CPU s/GB", cost),
          row(figure.trial.mode, figure, "memory, MB", memory),
        ];
      case "ping":
        return [
          row("ping", figure, "median, µs", (run) => run.p50),
          row("ping", figure, "99th percentile, µs", (run) => run.p99),
        ];
      case "start":
        return [
          row("start", figure, "ms", (run) => run.start),
          row("start", figure, "memory, MB", memory),
        ];
      case "shell":
        return [
          row("shell", figure, "s", duration),
          row("shell", figure, "CPU s", (run) => run.cpu),
        ];
    }
  });
  return {
    title: "This build beside the other one",
    columns: ["this", "the other", "ratio of the medians", "median of the ratios"],
    rows: rows.filter((row) => row.length > 0),
  };
}

/** The errors, one on each line. */
export function failures(figures: Figures): string[] {
  return figures.all.filter((figure) => figure.failure).map((figure) =>
    `${name(figure.trial)}: ${figure.failure}`
  );
}

/** A table for a terminal. */
export function text({ title, columns, rows }: Table): string {
  const lines = [["", ...columns], ...rows];
  const width = (i: number) => Math.max(...lines.map((line) => (line[i] ?? "").length));
  return `${title}\n\n` +
    lines.map((line) =>
      "  " + line.map((cell, i) => i ? cell.padStart(width(i)) : cell.padEnd(width(0))).join("  ")
    ).join("\n") + "\n";
}

/** A table in Markdown. */
export function markdown({ title, columns, rows }: Table): string {
  const line = (cells: string[]) =>
    `| ${cells.map((cell) => cell.replaceAll(/[|<>]/g, "\\$&")).join(" | ")} |`;
  const strong = (row: string[]) => /^iocopy/.test(row[0] ?? "") ? row.map((c) => `**${c}**`) : row;
  return [
    ...title ? [`${title}:`, ""] : [],
    line(["", ...columns]),
    line(["---", ...columns.map(() => "---:")]),
    ...rows.map(strong).map(line),
    "",
  ].join("\n");
}

const ROOT = resolve(import.meta.dirname ?? ".", "..");

/** Writes tables into doc/`name`.md, between its two marks, and a plot as bench/`name`.svg. */
export function write(
  name: string,
  how: string,
  tables: readonly Table[],
  missing: readonly string[],
  image: string,
): void {
  const absent = missing.length ? `Not installed there: ${missing.join(", ")}.\n\n` : "";
  fill(`doc/${name}.md`, `Measured on ${how}.\n\n${tables.map(markdown).join("\n")}\n${absent}`);
  Deno.writeTextFileSync(`${ROOT}/bench/${name}.svg`, image);
  format(`bench/${name}.svg`);
}

/** Puts a text between the two marks of a page. */
export function fill(page: string, section: string): void {
  const path = `${ROOT}/${page}`, text = Deno.readTextFileSync(path);
  const marked = /(<!-- bench -->\n)[^]*(<!-- \/bench -->)/;
  if (!marked.test(text)) throw new Error(`${page} has no <!-- bench --> ... <!-- /bench -->`);
  Deno.writeTextFileSync(path, text.replace(marked, (_, a, b) => `${a}\n${section}${b}`));
  format(page);
}

/** As `deno task check` requires. */
function format(file: string): void {
  new Deno.Command(Deno.execPath(), { args: ["fmt", "--quiet", file], cwd: ROOT }).outputSync();
}

/** A figure as data. */
export function data(figures: Figures, figure: Figure): Record<string, unknown> {
  const { mode, path, copier, number } = figure.trial;
  const limit = figures.get(mode, path.id, "limit");
  const value = (of: Parameters<Figures["value"]>[1]) => {
    const result = figures.value(figure, of);
    return Number.isNaN(result) ? undefined : result;
  };
  const ratio = figures.ratio(figure, limit, speed);
  return {
    test: mode,
    path: path.id,
    copier: copier.id,
    number,
    failure: figure.failure,
    seconds: value(duration),
    gigabytesPerSecond: value(speed),
    ofLimit: Number.isNaN(ratio) ? undefined : ratio,
    cpuSecondsPerGigabyte: copier.id === "direct" ? undefined : value(cost),
    roundTripMicroseconds: value((run) => run.p50),
    roundTripMicroseconds99: value((run) => run.p99),
    startMilliseconds: value((run) => run.start),
    memoryBytes: value((run) => run.memory),
    runs: figure.runs.length,
  };
}

/** A description of the machine. */
export function machine(): string {
  const read = (path: string) => {
    try {
      return Deno.readTextFileSync(path);
    } catch {
      return "";
    }
  };
  const cores = navigator.hardwareConcurrency;
  const kernel = Deno.osRelease().split(".").slice(0, 2).join(".");
  const virtual = /^flags.*\bhypervisor\b/m.test(read("/proc/cpuinfo"));
  return [
    `${cores} ${cores === 1 ? "core" : "cores"}`,
    `Linux ${kernel}`,
    ...virtual ? ["a virtual machine"] : [],
    `Deno ${Deno.version.deno}${executable()}`,
  ].join(", ");
}

/** Whether others use the machine too: what is measured then is not worth much. */
export function isQuiet(): boolean {
  return (Deno.loadavg()[0] ?? 0) < 0.5;
}

/** The version of Deno in the executable, which can be another one. */
function executable(): string {
  if (!BINARY) return "";
  const { stdout } = new Deno.Command(BINARY, { args: ["--version"] }).outputSync();
  const [, version = "unknown"] = /deno ([\d.]+)/.exec(new TextDecoder().decode(stdout)) ?? [];
  return version === Deno.version.deno ? "" : ` (in the executable: ${version})`;
}
