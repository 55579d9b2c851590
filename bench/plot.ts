/**
 * The figures as a plot: a bar for each copier, a column for each path.
 *
 * @module
 */
import { type Copier, DIRECT, type Path } from "./copiers.ts";
import { type Figures, speed } from "./measure.ts";
import { digits } from "./report.ts";

/** Lengths, in pixels. */
const LABELS = 150, COLUMN = 165, BAR = 105, ROW = 22, TOP = 56;

// The background can be light or dark, so the colours are equally far from white and
// black.
const TEXT = "#797979", OURS = "#2f81f7", THEIRS = "#9a9a9a";

/** The most columns that fit on a page. */
const MOST = 4;

/** An SVG of the throughput in one direction. */
export function plot(
  figures: Figures,
  copiers: readonly Copier[],
  paths: readonly Path[],
): string {
  const rows = copiers.filter((copier) => copier !== DIRECT);
  const columns = paths.slice(0, MOST);
  const [width, height] = [LABELS + COLUMN * columns.length, TOP + ROW * rows.length + 4];
  const parts = [
    label(0, 16, "Throughput one way, in GB/s (longer is better)", "font-weight='bold'"),
    ...rows.map((copier, i) =>
      label(LABELS - 10, middle(i), copier.title, `text-anchor='end'${weight(copier)}`)
    ),
  ];
  columns.forEach((path, column) => {
    const left = LABELS + column * COLUMN;
    const speeds = rows.map(({ id }) => figures.value(figures.get("bulk", path.id, id), speed));
    const scale = BAR / Math.max(...speeds.filter((value) => !Number.isNaN(value)));
    parts.push(label(left, TOP - 12, path.title));
    rows.forEach((copier, i) => {
      const value = speeds[i] ?? NaN;
      const length = Number.isNaN(value) ? 0 : value * scale;
      const fill = copier.id === "limit"
        ? `fill='none' stroke='${THEIRS}'`
        : `fill='${colour(copier)}'`;
      parts.push(
        `<rect x='${left}' y='${TOP + ROW * i + 4}' width='${length.toFixed(1)}' height='${
          ROW - 8
        }' ${fill}/>`,
      );
      parts.push(label(left + length + 5, middle(i), digits(value), weight(copier)));
    });
  });
  return `<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 ${width} ${height}' width='${width}' height='${height}' font-family='sans-serif' font-size='13' fill='${TEXT}'>
<title>Throughput of iocopy and other copiers</title>
${parts.join("\n")}
</svg>
`;
}

function middle(row: number): number {
  return TOP + ROW * row + ROW / 2 + 4;
}

function isOurs({ id }: Copier): boolean {
  return id === "iocopy" || id === "source";
}

function colour(copier: Copier): string {
  return isOurs(copier) ? OURS : THEIRS;
}

function weight(copier: Copier): string {
  return isOurs(copier) ? " font-weight='bold'" : "";
}

function label(x: number, y: number, text: string, attributes = ""): string {
  const escaped = text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  return `<text x='${x.toFixed(1)}' y='${y}' ${attributes}>${escaped}</text>`;
}
