import { assert, assertEquals, assertMatch } from "@std/assert";
import { type Copier, TCP } from "../bench/copiers.ts";
import type { Outcome } from "../bench/load.ts";
import { Figures, median, speed } from "../bench/measure.ts";
import { plot } from "../bench/plot.ts";
import project from "../deno.json" with { type: "json" };
import { BINARY, ROOT } from "./harness.ts";
import { needing, Workshop } from "./programs.ts";
import { outputOf } from "./probe.ts";

const OURS = BINARY ? "iocopy" : "source";

/** Runs the benchmark with few bytes. */
async function bench(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  const words = ["run", "--allow-all", "bench/bench.ts", "--quick", "--bytes=1", ...args];
  const { code, stdout, stderr } = await outputOf([Deno.execPath(), ...words], { cwd: ROOT });
  return { code, out: stdout, err: stderr };
}

interface Row {
  test: string;
  path: string;
  copier: string;
  failure: string | null;
  gigabytesPerSecond?: number;
  roundTripMicroseconds?: number;
  startMilliseconds?: number;
  memoryBytes: number;
}

Deno.test({
  ...needing(["cc"], "the benchmark measures, and prints JSON"),
  async fn() {
    const copiers = ["direct", "limit", OURS];
    const paths = "--paths=pipe-pipe,file-tcp";
    const { code, out, err } = await bench("--json", paths, `--copiers=${copiers}`);
    assertEquals(code, 0, err);
    const rows: Row[] = JSON.parse(out).figures;
    const ofTest = (test: string) =>
      rows.filter((row) => row.test === test).map((row) => row.copier);
    assertEquals(ofTest("bulk"), [...copiers, ...copiers]);
    assertEquals(ofTest("both"), copiers);
    assertEquals(ofTest("ping"), ["limit", OURS]);
    assertEquals(ofTest("start"), ["limit", OURS]);
    // splice(2) refuses the last pipeline.
    assertEquals(ofTest("shell"), ["limit", OURS, "limit", OURS, "limit", OURS, OURS]);
    for (const row of rows) {
      assertEquals(row.failure, null, JSON.stringify(row));
      const { gigabytesPerSecond, roundTripMicroseconds, startMilliseconds } = row;
      const value = gigabytesPerSecond ?? roundTripMicroseconds ?? startMilliseconds;
      assert(value !== undefined && value > 0, JSON.stringify(row));
      // Private memory of a C program, and of one with a runtime.
      const [least, most] = row.copier === "limit" ? [3e4, 1e6] : [5e6, 3e7];
      const isMeasured = row.copier !== "direct" && row.test !== "shell" && row.path !== "file-tcp";
      if (isMeasured) {
        assert(row.memoryBytes >= least && row.memoryBytes <= most, JSON.stringify(row));
      }
    }
  },
});

Deno.test({
  ...needing(["cc"], "a copier that changes, loses or adds bytes, or fails, is detected"),
  async fn() {
    const wrong: Record<string, [words: string, found: RegExp]> = {
      changes: ["tr '\\000' '\\001'", /^wrong bytes after \d+$/],
      losesFirst: ["tail -c +2", /^wrong bytes after 0$/],
      losesLast: ["head -c 999999", /^999999 bytes of 1000000$/],
      adds: ["sh -c 'cat; echo'", /^1000001 bytes of 1000000$/],
      fails: ["sh -c 'cat; exit 7'", /^exit status 7$/],
    };
    const also = Object.entries(wrong).map(([name, [words]]) => `--also=${name}=${words}`);
    const only = `--copiers=cat,${Object.keys(wrong)}`;
    const { code, out } = await bench("--json", "--tests=bulk", "--paths=pipe-pipe", only, ...also);
    assertEquals(code, 1);
    const rows: Row[] = JSON.parse(out).figures;
    const failures = new Map(rows.map((row) => [row.copier, row.failure]));
    assertEquals(failures.get("cat"), null);
    for (const [name, [, found]] of Object.entries(wrong)) {
      assertMatch(failures.get(name) ?? "not found", found, name);
    }
  },
});

Deno.test({
  ...needing(["cc"], "the benchmark compares two builds, figure by figure"),
  async fn() {
    await using shop = new Workshop(); // whose iocopy has no blank in its path
    const only = ["--paths=pipe-pipe", "--tests=bulk,ping,start,shell"];
    const { code, out, err } = await bench(`--against=${shop.iocopy}`, ...only);
    assertEquals(code, 0, err);
    for (const what of ["bulk, pipe to pipe: GB/s", "ping, pipe to pipe: median", "start, pipe"]) {
      assertMatch(out, new RegExp(`${what}.*( +[\\d.]+){4}\\n`));
    }
    assertMatch(out, /shell, .* wc -c .*: CPU s( +[\d.]+){4}\n/);
  },
});

Deno.test("the benchmark refuses what it does not know", async () => {
  for (const arg of ["--quack", "--paths=tcp-moon", "--copiers=nobody", "--rounds=0", "12"]) {
    const { code, out, err } = await bench(arg);
    assertEquals([code, out], [100, ""], arg);
    assertMatch(err, /^bench: .+\n$/);
  }
});

/** Tasks, and arguments that they do not know. */
const WRONG = {
  "bench:channels": ["--nope", "-1", "many", "10 20"],
  simulate: ["--nope", "--seconds=abc", "--seed", "12"],
  soak: ["--help", "nothing", "bytes --gigabytes=0", "--starts"],
  "test:arm64": ["--help"],
};

Deno.test("the tasks that take long refuse what they do not know, before they begin", async () => {
  for (const [task, wrong] of Object.entries(WRONG)) {
    const [, ...program] = project.tasks[task as keyof typeof WRONG].command.split(" ");
    for (const words of wrong) {
      const command = [Deno.execPath(), ...program, ...words.split(" ")];
      const { code, stdout, stderr } = await outputOf(command, { cwd: ROOT });
      assertEquals([code, stdout], [100, ""], `${task} ${words}: ${stderr}`);
      assertMatch(stderr, new RegExp(`^${task}: .+\\n$`));
    }
  }
});

function outcome(seconds: number): Outcome {
  const nothing = { cpu: 0, p50: NaN, p99: NaN, start: NaN, memory: 0, exit: 0 };
  return { ...nothing, bytes: 1e9, seconds, failure: null };
}

const copier = (id: string): Copier => ({ id, title: id, command: [], twoWays: true });

function figures(seconds: Record<string, number[]>): Figures {
  const all = new Figures();
  for (const [id, runs] of Object.entries(seconds)) {
    const trial = { mode: "bulk", path: TCP, copier: copier(id), number: 1 } as const;
    all.of(trial).runs.push(...runs.map(outcome));
  }
  return all;
}

Deno.test("figures are medians; ratios are medians of ratios within each round", () => {
  assertEquals([median([3, 1, 2]), median([4, 1, 2, 3]), median([])], [2, 2.5, NaN]);
  // The machine is three times slower in the second and third round.
  const both = figures({ one: [1, 3, 3.3], two: [2, 6, 6.6] });
  const [one, two] = ["one", "two"].map((id) => both.get("bulk", "tcp-tcp", id));
  assertEquals(both.value(one, speed), 1 / 3);
  assertEquals(both.ratio(one, two, speed), 2);
  const failed = figures({ one: [1], two: [1] });
  const [well, wrong] = ["one", "two"].map((id) => failed.get("bulk", "tcp-tcp", id));
  if (wrong) wrong.failure = "wrong bytes after 0";
  assertEquals([failed.value(wrong, speed), failed.ratio(well, wrong, speed)], [NaN, NaN]);
});

Deno.test("the length of a bar in the plot is the program's figure", () => {
  const rows = [4, 1, NaN].map((value) => ({ title: "it", values: [value], isOurs: false }));
  const image = plot("Speed", ["TCP to TCP"], rows);
  const lengths = [...image.matchAll(/<rect [^>]*width='([\d.]+)'/g)].map(([, width]) => width);
  assertEquals(lengths, ["105.0", "26.3", "0.0"]);
  assert(!image.includes("NaN"));
});
