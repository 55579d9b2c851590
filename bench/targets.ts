/**
 * What iocopy is to reach, beside what it reaches.
 *
 * @module
 */
import { BINARY, type Copier, isSymmetric, limit, others, type Path, PATHS } from "./copiers.ts";
import { PIPE, S6, SOURCE, subjects, TCP } from "./copiers.ts";
import type { Load, Mode } from "./load.ts";
import {
  type Amount,
  cost,
  type Figures,
  measure,
  Progress,
  speed,
  type Trial,
  type Value,
} from "./measure.ts";
import { digits, failures, machine, text } from "./report.ts";

/** Idle channels beside a busy one. */
const BESIDE = [400, 4000];
/** How long an idle copier is watched, in seconds. */
const WATCHED = 10;
/** For the memory after many bytes: so many times those of a run, up to what the target names. */
const MANY = 100, MOST = 100e9;
/** How much more memory than the least program of this runtime is allowed, in bytes. */
const MORE = 6e6;
/** Channels of the copier that is watched while idle. */
const IDLES = 8;

/** The least program of this runtime that does something of the kind. */
const ONE_LINE = "const b = new Uint8Array(1); Deno.stdin.readSync(b); Deno.stdout.writeSync(b);\n";

/** One target. */
interface Target {
  what: string;
  wanted: string;
  measured: string;
  verdict: "met" | "missed" | "not measured";
}

/** Measures them all and prints them; answers the exit status. */
export async function targets(load: Load, much: Amount, json: boolean): Promise<number> {
  const progress = new Progress();
  const ours = subjects();
  const base = await baselines(load);
  const peers = others().found.some(({ id }) => id === S6.id) ? [S6] : [];
  const plan = Array.from({ length: much.rounds }, (_, i) => [
    ...round(load, much, ours, peers, base),
    ...i === 0 ? once(much, ours) : [],
  ]);
  const figures = await measure(load, plan, progress);
  const results = ours.map((own) => ({ of: own.title, targets: judge(figures, own, base, much) }));
  if (json) {
    console.log(JSON.stringify({ machine: machine(), ...much, results }, null, 1));
  } else {
    const columns = ["wanted", "measured", ""];
    for (const { of, targets } of results) {
      const rows = targets.map((t) => [t.what, t.wanted, t.measured, t.verdict]);
      console.log(text({ title: `${of}: ${machine()}`, columns, rows }));
    }
  }
  for (const line of failures(figures)) console.error(`bench: ${line}`);
  const all = results.flatMap(({ targets }) => targets);
  const short = all.filter(({ verdict }) => verdict !== "met").length;
  console.error(`bench: ${all.length - short} of ${all.length} targets met`);
  return short ? 1 : 0;
}

function round(
  load: Load,
  much: Amount,
  ours: readonly Copier[],
  peers: readonly Copier[],
  base: ReadonlyMap<string, Copier>,
): Trial[] {
  const each = (mode: Mode, path: Path, number: number, copiers: readonly Copier[]): Trial[] =>
    copiers.map((copier) => ({ mode, path, copier, number }));
  const measured = [limit(load.limit), ...ours];
  const symmetric = PATHS.filter(isSymmetric);
  const starting = ours.flatMap((own) => [own, ...[base.get(own.id)].filter((one) => !!one)]);
  return [
    ...PATHS.flatMap((path) => each("bulk", path, much.bytes, measured)),
    ...symmetric.flatMap((path) => each("both", path, much.bytes / 2, measured)),
    ...symmetric.flatMap((path) => each("ping", path, much.trips, [...peers, ...ours])),
    ...Array.from({ length: 2 * much.starts }, () => each("start", PIPE, 1, starting)).flat(),
    ...ours.flatMap((own) => each("bulk", TCP, much.bytes, [alone(own), verbose(load, own)])),
    ...ours.flatMap((own) =>
      [0, ...BESIDE].flatMap((idles): Trial[] => [
        { mode: "bulk", path: TCP, copier: busy(own), number: much.bytes, idles },
        { mode: "ping", path: TCP, copier: busy(own), number: much.trips, idles },
      ])
    ),
  ];
}

function once(much: Amount, ours: readonly Copier[]): Trial[] {
  return ours.flatMap((own): Trial[] => [
    { mode: "bulk", path: TCP, copier: long(own), number: many(much) },
    { mode: "idle", path: PIPE, copier: own, number: WATCHED, idles: IDLES },
  ]);
}

const many = (much: Amount) => Math.min(much.bytes * MANY, MOST);

// The same copier under another name is measured for another purpose.
const alone = (own: Copier): Copier => ({ ...own, id: `${own.id} silent` });
const busy = (own: Copier): Copier => ({ ...own, id: `${own.id} busy` });
const long = (own: Copier): Copier => ({ ...own, id: `${own.id} long` });

/** With `v`, and its log in a file. */
function verbose(load: Load, own: Copier): Copier {
  const words = own.command.toSpliced(-4, 0, "v");
  const command = ["sh", "-c", `exec "$@" 2>${load.folder}/log`, "sh", ...words];
  return { ...own, id: `${own.id} v`, title: `${own.title}, v`, command };
}

/** The one-line program, run as each of ours is; without the one that cannot be made. */
async function baselines(load: Load): Promise<Map<string, Copier>> {
  const script = `${load.folder}/one.js`; // not .ts: that would leave something in Deno's cache
  Deno.writeTextFileSync(script, ONE_LINE);
  const made = (id: string, command: readonly string[]): [string, Copier] => [
    id,
    { id: `${id} one line`, title: "the one-line program", command, twoWays: false },
  ];
  const all = [made("source", [...SOURCE.slice(0, -1), script])];
  if (BINARY) {
    const program = `${load.folder}/one`;
    const flags = ["--allow-ffi", "--no-prompt", "--no-code-cache", "--quiet"];
    const args = ["compile", ...flags, "--output", program, script];
    const compiler = Deno.env.get("DENO_COMPILE") ?? Deno.execPath();
    const { success } = await new Deno.Command(compiler, { args, stderr: "inherit" }).output();
    if (success) all.push(made("iocopy", [program]));
  }
  return new Map(all);
}

function judge(
  figures: Figures,
  own: Copier,
  base: ReadonlyMap<string, Copier>,
  much: Amount,
): Target[] {
  const targets: Target[] = [];
  const add = (what: string, wanted: string, value: number, met: boolean, detail = "") => {
    const verdict = Number.isNaN(value) ? "not measured" : met ? "met" : "missed";
    const measured = Number.isNaN(value) ? "-" : digits(value) + detail;
    targets.push({ what, wanted, measured, verdict });
  };
  const atLeast = (what: string, least: number, of: string, value: number, detail = "") =>
    add(what, `>= ${least} of ${of}`, value, value >= least, detail);
  const atMost = (what: string, most: number, of: string, value: number, detail = "") =>
    add(what, `<= ${most} of ${of}`, value, value <= most, detail);
  const compare = (mode: Mode, path: Path, other: string, value: Value): [number, string] => {
    const [one, two] = [figures.get(mode, path.id, own.id), figures.get(mode, path.id, other)];
    const detail = ` (${digits(figures.value(one, value))} : ${digits(figures.value(two, value))})`;
    return [figures.ratio(one, two, value), detail];
  };

  for (const path of PATHS) {
    atLeast(`GB/s, ${path.title}`, 0.95, "limit", ...compare("bulk", path, "limit", speed));
  }
  for (const path of PATHS.filter(isSymmetric)) {
    atLeast(
      `GB/s both ways, ${path.title}`,
      0.95,
      "limit",
      ...compare("both", path, "limit", speed),
    );
  }
  for (const path of PATHS) {
    atMost(`CPU s/GB, ${path.title}`, 1.25, "limit", ...compare("bulk", path, "limit", cost));
  }
  for (const path of PATHS.filter(isSymmetric)) {
    const [p50, p99] = [(run: { p50: number }) => run.p50, (run: { p99: number }) => run.p99];
    atMost(
      `round trip µs, median, ${path.title}`,
      1.05,
      S6.id,
      ...compare("ping", path, S6.id, p50),
    );
    atMost(`round trip µs, 99th, ${path.title}`, 1.2, S6.id, ...compare("ping", path, S6.id, p99));
  }

  const one = base.get(own.id)?.id ?? "";
  const start = compare("start", PIPE, one, (run) => run.start);
  atMost("start to first byte, ms", 1.15, "one-line program", ...start);
  const least = figures.value(figures.get("start", PIPE.id, one), (run) => run.memory);
  const memory = (what: string, mode: Mode, path: Path, id: string) => {
    const value = figures.value(figures.get(mode, path.id, id), (run) => run.memory);
    const detail = ` MB more (${digits(value / 1e6)} : ${digits(least / 1e6)})`;
    add(
      `memory after ${what}`,
      "<= 6 MB more",
      (value - least) / 1e6,
      value - least <= MORE,
      detail,
    );
  };
  memory("1 byte", "start", PIPE, own.id);
  memory(`${many(much) / 1e9} GB`, "bulk", TCP, long(own).id);

  for (const idles of BESIDE) {
    const [of, path] = [busy(own).id, TCP.id];
    const ratio = (mode: Mode, value: Value) =>
      figures.ratio(figures.get(mode, path, of, idles), figures.get(mode, path, of), value);
    atLeast(`GB/s beside ${idles} idle`, 0.9, "alone", ratio("bulk", speed));
    const trips = 1 / ratio("ping", (run) => run.p50);
    atLeast(`round trips/s beside ${idles} idle`, 0.9, "alone", trips);
  }
  const idle = figures.get("idle", PIPE.id, own.id, IDLES);
  const none = (what: string, value: Value) => {
    const seen = figures.value(idle, value);
    add(`${what} s`, "none", seen, seen === 0);
  };
  none(`wake-ups while idle, the first ${WATCHED}`, (run) => run.wakeups);
  none(`wake-ups while idle, the next ${WATCHED}`, (run) => run.wakeupsLater);
  none(`CPU s while idle, the first ${WATCHED}`, (run) => run.cpu);
  none(`CPU s while idle, the next ${WATCHED}`, (run) => run.cpuLater);
  const [loud, silent] = [verboseId(own), alone(own).id].map((id) =>
    figures.get("bulk", TCP.id, id)
  );
  atLeast("GB/s with v into a file", 0.5, "without", figures.ratio(loud, silent, speed));
  return targets;
}

const verboseId = (own: Copier) => `${own.id} v`;
