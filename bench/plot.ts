/**
 * Figures as a plot: a bar for each program, a column for each thing measured.
 *
 * @module
 */
import { digits } from "./report.ts";

/** Lengths, in pixels. */
const COLUMN = 165, BAR = 105, ROW = 22, TOP = 56, LETTER = 7.5;

// The background can be light or dark, so the colours are equally far from white and
// black.
const TEXT = "#797979", OURS = "#2f81f7", THEIRS = "#9a9a9a";

/** The most columns that fit on a page. */
const MOST = 4;

/** A program, and one figure for each column; NaN if there is none. */
export interface Row {
  title: string;
  values: number[];
  isOurs: boolean;
  /** Whether it shows what is possible, and is no program that people use. */
  isLimit?: boolean;
}

/** An SVG, in which each column has a scale of its own. */
export function plot(title: string, columns: readonly string[], rows: readonly Row[]): string {
  const shown = columns.slice(0, MOST);
  const labels = Math.max(150, 10 + LETTER * Math.max(...rows.map(({ title }) => title.length)));
  const [width, height] = [labels + COLUMN * shown.length, TOP + ROW * rows.length + 4];
  const parts = [
    label(0, 16, title, "font-weight='bold'"),
    ...rows.map((row, i) =>
      label(labels - 10, middle(i), row.title, `text-anchor='end'${weight(row)}`)
    ),
  ];
  shown.forEach((name, column) => {
    const left = labels + column * COLUMN;
    const values = rows.map((row) => row.values[column] ?? NaN);
    const scale = BAR / Math.max(...values.filter((value) => !Number.isNaN(value)));
    parts.push(label(left, TOP - 12, name));
    rows.forEach((row, i) => {
      const value = values[i] ?? NaN;
      const length = Number.isNaN(value) ? 0 : value * scale;
      const fill = row.isLimit
        ? `fill='none' stroke='${THEIRS}'`
        : `fill='${row.isOurs ? OURS : THEIRS}'`;
      parts.push(
        `<rect x='${left}' y='${TOP + ROW * i + 4}' width='${length.toFixed(1)}' height='${
          ROW - 8
        }' ${fill}/>`,
      );
      parts.push(label(left + length + 5, middle(i), digits(value), weight(row)));
    });
  });
  return `<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 ${width} ${height}' width='${width}' height='${height}' font-family='sans-serif' font-size='13' fill='${TEXT}'>
<title>${title}</title>
${parts.join("\n")}
</svg>
`;
}

function middle(row: number): number {
  return TOP + ROW * row + ROW / 2 + 4;
}

function weight({ isOurs }: Row): string {
  return isOurs ? " font-weight='bold'" : "";
}

function label(x: number, y: number, text: string, attributes = ""): string {
  const escaped = text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  return `<text x='${x.toFixed(1)}' y='${y}' ${attributes}>${escaped}</text>`;
}
