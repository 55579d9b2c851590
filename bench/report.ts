/**
 * Figures as tables, for a terminal and for doc/performance.md, and as data.
 *
 * @module
 */
import { BINARY, type Copier, isSymmetric, type Path, PIPE } from "./copiers.ts";
import { cost, type Figure, type Figures, name, speed } from "./measure.ts";

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

/** The three tables of a comparison. */
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
  const starts = ({ id }: Copier) =>
    digits(figures.value(figures.get("start", PIPE.id, id), (run) => run.start));

  return [
    {
      title: "One way, in GB/s (in brackets: as a ratio to splice(2) in C)",
      columns: titles(paths),
      rows: rows((copier) => paths.map((path) => speeds("bulk", path, copier))),
    },
    {
      title: "Both ways at once, in GB/s; round trip of one byte, median / 99th percentile, in µs",
      columns: [...titles(symmetric, "both: "), ...titles(symmetric, "trip: ")],
      rows: rows((copier) => [
        ...symmetric.map((path) => speeds("both", path, copier)),
        ...symmetric.map((path) => trip(path, copier)),
      ]),
    },
    {
      title: "CPU seconds of the copier per GB; start to first byte, in ms; peak memory, in MB",
      columns: [...titles(paths), "start", "memory"],
      rows: rows((copier) => [
        ...paths.map((path) => costs(path, copier)),
        starts(copier),
        digits(peak(figures, copier)),
      ]),
    },
  ];
}

/** The peak memory of a copier in all runs, in MB. */
function peak(figures: Figures, { id }: Copier): number {
  if (id === "direct") return NaN;
  const runs = figures.all.filter((figure) => figure.trial.copier.id === id && !figure.failure)
    .flatMap(({ runs }) => runs);
  return runs.length ? Math.max(...runs.map(({ memory }) => memory)) / 1e6 : NaN;
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
  const line = (cells: string[]) => `| ${cells.join(" | ")} |`;
  const strong = (row: string[]) => /^iocopy/.test(row[0] ?? "") ? row.map((c) => `**${c}**`) : row;
  return [
    `${title}:`,
    "",
    line(["", ...columns]),
    line(["---", ...columns.map(() => "---:")]),
    ...rows.map(strong).map(line),
    "",
  ].join("\n");
}

/** A figure as data. */
export function data(figures: Figures, figure: Figure): Record<string, unknown> {
  const { mode, path, copier, number, idles = 0 } = figure.trial;
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
    idles,
    failure: figure.failure,
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

/** The version of Deno in the executable, which can be another one. */
function executable(): string {
  if (!BINARY) return "";
  const { stdout } = new Deno.Command(BINARY, { args: ["--version"] }).outputSync();
  const [, version = "unknown"] = /deno ([\d.]+)/.exec(new TextDecoder().decode(stdout)) ?? [];
  return version === Deno.version.deno ? "" : ` (in the executable: ${version})`;
}
