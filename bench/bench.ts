/**
 * Measures iocopy beside other programs, in one run: `deno task bench --help`.
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";
import { chosen, count, print, run, say, unknown, WrongUse } from "./command.ts";
import { BINARY, type Copier, DIRECT, limit, others, type Path, PATHS } from "./copiers.ts";
import { against, filter, isOurs, isSymmetric, PIPE, PIPELINES, subjects } from "./copiers.ts";
import { Load } from "./load.ts";
import { type Amount, type Figures, measure, Progress, speed, type Trial } from "./measure.ts";
import { plot } from "./plot.ts";
import { comparison, data, failures, isQuiet, machine } from "./report.ts";
import { tables, text, write } from "./report.ts";

const TESTS = [{ id: "bulk" }, { id: "both" }, { id: "ping" }, { id: "start" }, { id: "shell" }];

const HELP = `usage: deno task bench [options]

Measures iocopy from source, the executable that the environment variable IOCOPY
names, and the other copiers that are installed, in turn.

  --quick           few bytes, once: shows whether it works, not how fast it is
  --rounds=N        runs of each program, by default 5
  --bytes=N         megabytes in each run, by default 1500
  --paths=A,B       only these: ${PATHS.map(({ id }) => id).join(" ")}
  --tests=A,B       only these: ${TESTS.map(({ id }) => id).join(" ")}
  --copiers=A,B     only these: direct limit iocopy source s6-ioconnect socat ...
  --also=NAME=WORDS one more copier from standard input to standard output
  --against=WORDS   only another build beside this one: WORDS start it, without pairs
  --json            print the figures as JSON
  --write           write the tables into doc/performance.md, and bench/performance.svg
  --help            print this text

Exit status: 0 everything was measured, 1 a copier failed,
100 wrong use, 111 it could not start.
`;

const OPTIONS = {
  boolean: ["quick", "json", "write", "help"],
  string: ["rounds", "bytes", "paths", "tests", "copiers", "also", "against"],
  collect: ["also"],
} as const;

/** The most bytes that gzip is given: of much less it would be the start that is measured. */
const GZIPPED = 300e6;

const SIGNALS = ["SIGINT", "SIGTERM"] as const;

function amount(quick: boolean, rounds: number, megabytes: number): Amount {
  const bytes = megabytes * 1e6;
  return quick
    ? { rounds, bytes, trips: 200, starts: 1 }
    : { rounds, bytes, trips: 20_000, starts: 5 };
}

async function main(args: string[]): Promise<number> {
  const options = parseArgs(args, { ...OPTIONS, unknown });
  if (options.help) return print(HELP);
  const quick = options.quick === true;
  const rounds = count("rounds", options.rounds, quick ? 1 : 5);
  const much = amount(quick, rounds, count("bytes", options.bytes, quick ? 20 : 1500));
  const paths = chosen("paths", options.paths, PATHS);
  const tests = chosen("tests", options.tests, TESTS).map(({ id }) => id);
  using load = new Load();
  const interrupted = () => {
    load[Symbol.dispose]();
    Deno.exit(130);
  };
  for (const signal of SIGNALS) Deno.addSignalListener(signal, interrupted);
  try {
    const { found, missing } = others();
    const also = (options.also ?? []).map(other);
    const [own] = subjects();
    const all = options.against && own
      ? [own, against(options.against)]
      : [DIRECT, limit(load.limit), ...subjects(), ...found, ...also];
    const copiers = chosen("copiers", options.copiers, all);
    load.compile();
    if (missing.length) say(`not installed, and left out: ${missing.join(", ")}`);
    if (!BINARY) say("IOCOPY names no executable: iocopy runs from source only");
    // Who comes second finds another machine: in every other round that is who came first.
    const order = (i: number) => i % 2 ? copiers.toReversed() : copiers;
    const plan = Array.from(
      { length: rounds },
      (_, i) => round(order(i), paths, much).filter(({ mode }) => tests.includes(mode)),
    );
    const quiet = isQuiet();
    if (!quiet) say("others use this machine: only ratios are worth something");
    const figures = await measure(load, plan, new Progress());
    const how = `${machine()}; ${quiet ? "nothing else ran" : "others used the machine too"}; ` +
      `medians of ${rounds} runs of ${much.bytes / 1e6} MB, in turn`;
    const results = options.against && own
      ? [comparison(figures, own.id)]
      : tables(figures, copiers, paths).filter(({ rows }) => rows.length > 0);
    if (options.json) print(JSON.stringify(report(figures, much, missing), null, 1) + "\n");
    else print([how + "\n", ...results.map(text)].join("\n"));
    if (options.write && !options.against) {
      write("performance", how, results, missing, bars(figures, copiers, paths));
    }
    const wrong = failures(figures);
    for (const line of wrong) say(line);
    return wrong.length ? 1 : 0;
  } finally {
    for (const signal of SIGNALS) Deno.removeSignalListener(signal, interrupted);
  }
}

/** The trials of each round. */
function round(copiers: readonly Copier[], paths: readonly Path[], much: Amount): Trial[] {
  const twoWays = copiers.filter((copier) => copier.twoWays);
  const real = copiers.filter((copier) => copier !== DIRECT);
  return [
    ...paths.flatMap((path): Trial[] => [
      ...copiers.map((copier): Trial => ({ mode: "bulk", path, copier, number: much.bytes })),
      ...isSymmetric(path) ? twoWays.flatMap((c) => thereAndBack(path, c, much)) : [],
    ]),
    ...Array.from({ length: much.starts }, () => real).flat()
      .map((copier): Trial => ({ mode: "start", path: PIPE, copier, number: 1 })),
    ...PIPELINES.flatMap((path) =>
      real.filter(({ id, filter }) => filter && !(path.isCopied && id === "limit"))
        .map((copier): Trial => ({ mode: "shell", path, copier, number: piped(path, much) }))
    ),
  ];
}

/** gzip(1) takes its time. */
function piped({ id }: Path, { bytes }: Amount): number {
  return id === "tar-gzip" ? Math.min(bytes, GZIPPED) : bytes;
}

function thereAndBack(path: Path, copier: Copier, much: Amount): Trial[] {
  const both: Trial = { mode: "both", path, copier, number: Math.round(much.bytes / 2) };
  if (copier === DIRECT) return [both];
  return [both, { mode: "ping", path, copier, number: much.trips }];
}

function report(figures: Figures, much: Amount, missing: string[]): Record<string, unknown> {
  return {
    machine: machine(),
    ...much,
    missing,
    figures: figures.all.map((figure) => data(figures, figure)),
  };
}

/** The throughput in one direction. */
function bars(figures: Figures, copiers: readonly Copier[], paths: readonly Path[]): string {
  const rows = copiers.filter((copier) => copier !== DIRECT).map(({ id, title }) => ({
    title,
    values: paths.map((path) => figures.value(figures.get("bulk", path.id, id), speed)),
    isOurs: isOurs(id),
    isLimit: id === "limit",
  }));
  const title = "Throughput one way, in GB/s (longer is better)";
  return plot(title, paths.map(({ title }) => title), rows);
}

function other(words: string): Copier {
  const [, id, command] = /^([^=]+)=(.+)$/.exec(words) ?? [];
  if (!id || !command) throw new WrongUse(`--also=${words} is not NAME=WORDS`);
  return filter(id, id, command);
}

if (import.meta.main) await run(main);
