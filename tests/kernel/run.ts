/**
 * Runs the engine on the simulated kernel many times.
 *
 *     deno task simulate                       the fixed seeds, and new ones for 20 s
 *     deno task simulate --seconds=3600        for an hour
 *     deno task simulate --seed=4711 --runs=1  that one again
 *     deno task simulate --fixed=0 --exhaustive=60   all schedules of small graphs, for a minute
 *
 * A plan that fails is made as small as possible, and printed with its trace.
 *
 * @module
 */
import { parseArgs } from "@std/cli/parse-args";
import fc from "fast-check";
import { CASES, SERVE_CASES } from "./cases.ts";
import { exhaust } from "./exhaustive.ts";
import { PLAN, SERVE_PLAN } from "./plan.ts";
import { simulateService } from "./serve.ts";
import { type Result, simulate } from "./simulate.ts";
import { Violation } from "./world.ts";

/** Options that are numbers. */
const NUMBERS = ["seconds", "seed", "runs", "fixed", "report", "exhaustive"] as const;

/** Wrong use is one line. */
function refuse(what: string): never {
  console.error(`simulate: ${what}`);
  Deno.exit(100);
}

const options = parseArgs(Deno.args, {
  string: NUMBERS,
  boolean: ["cases"],
  negatable: ["cases"],
  default: { seconds: "20", fixed: "8", runs: "1000", report: "0", exhaustive: "0", cases: true },
  unknown: (word: string) => refuse(`${word} is not known`),
});
for (const name of NUMBERS) {
  const text = options[name];
  if (text !== undefined && !/^\d+(\.\d+)?$/.test(text)) {
    refuse(`--${name}=${text} is not a number`);
  }
}

/** How long to make a failing plan smaller, in milliseconds. */
const SHRINKING = 20_000;

const clock = Date.now;

/** When to stop trying smaller plans. */
let giveUpAt = Infinity;

/** The sums of all runs. */
const figures = { runs: 0, calls: 0, steps: 0 };

/** How one plan is run. */
type Simulate<P> = (plan: P, options?: { tracing?: boolean }) => Promise<Result>;

async function once<P>(plan: P, simulate: Simulate<P>): Promise<void> {
  if (clock() > giveUpAt) return;
  let result;
  try {
    result = await simulate(plan);
  } catch (error) {
    if (giveUpAt === Infinity) giveUpAt = clock() + SHRINKING;
    throw error;
  }
  const { calls, steps } = result;
  figures.runs++;
  figures.calls += calls;
  figures.steps += steps;
}

/** Tries so many plans of one seed; exits at the first that fails. */
async function search(seed: number, runs: number): Promise<void> {
  await searchIn(PLAN, simulate, seed, runs);
  await searchIn(SERVE_PLAN, simulateService, seed, Math.ceil(runs / SERVICES));
}

/** For so many copyings there is one service. */
const SERVICES = 8;

/** Ends the program with the first that fails. */
async function searchIn<P>(
  plans: fc.Arbitrary<P>,
  simulate: Simulate<P>,
  seed: number,
  numRuns: number,
): Promise<void> {
  const before = figures.runs;
  const property = fc.asyncProperty(plans, (plan) => once(plan, simulate));
  const outcome = await fc.check(property, { seed, numRuns });
  if (!outcome.failed) return;
  const [plan] = outcome.counterexample ?? [];
  console.log(
    `FAILED: run ${before + outcome.numRuns}, seed ${seed}, ` +
      `made smaller ${outcome.numShrinks} times`,
  );
  if (plan !== undefined) {
    console.log(JSON.stringify(plan));
    await show(plan, simulate);
  }
  Deno.exit(1);
}

/** Runs the plan once more, and prints what happened. */
async function show<P>(plan: P, simulate: Simulate<P>): Promise<void> {
  try {
    await simulate(plan, { tracing: true });
    console.log("it does not fail a second time");
  } catch (error) {
    const trace = (error as { trace?: string[] }).trace ?? [];
    const MOST = 60;
    if (trace.length > 2 * MOST) trace.splice(MOST, trace.length - 2 * MOST, "...");
    console.log(trace.join("\n"));
    console.log(error instanceof Violation ? error.message : error);
  }
}

// Rejections that nobody handles are checked elsewhere: see simulate.ts.
globalThis.addEventListener("unhandledrejection", (event) => {
  if (event.reason instanceof Violation) event.preventDefault();
});

const began = clock();
const seconds = Number(options.seconds);
const runs = Number(options.runs);

function tell(what: string): void {
  const passed = (clock() - began) / 1000;
  console.log(
    `${what}: ${figures.runs} runs, ${figures.calls} calls, ${figures.steps} steps of the world, ` +
      `${passed.toFixed(0)} s, ${Math.round(figures.runs / passed)} runs a second`,
  );
}

if (Number(options.exhaustive) > 0) {
  const { schedules, complete, graphs } = await exhaust(
    Number(options.exhaustive),
    (what) => console.log(what),
    async (plan, error) => {
      console.log(`FAILED: ${JSON.stringify(plan)}`, String(error));
      await show(plan, simulate);
      Deno.exit(1);
    },
  );
  const passed = (clock() - began) / 1000;
  console.log(
    `${schedules} schedules of ${graphs} graphs, ${complete} of them complete, in ` +
      `${passed.toFixed(0)} s, ${Math.round(schedules / passed)} a second`,
  );
  Deno.exit(0);
}

/** Runs the plans that failed in the past. */
async function runCases<P>(cases: [string, P][], simulate: Simulate<P>): Promise<void> {
  for (const [name, plan] of cases) {
    try {
      await once(plan, simulate);
    } catch {
      console.log(`FAILED: ${name}`);
      await show(plan, simulate);
      Deno.exit(1);
    }
  }
}

if (options.cases) {
  await runCases(CASES, simulate);
  await runCases(SERVE_CASES, simulateService);
}
if (options.seed !== undefined) await search(Number(options.seed), runs);
else {
  for (let seed = 1; seed <= Number(options.fixed); seed++) await search(seed, runs);
  tell(`${CASES.length + SERVE_CASES.length} cases and seeds 1 to ${options.fixed}`);
  const seeds: number[] = [];
  const until = clock() + seconds * 1000;
  const every = Number(options.report) * 1000;
  let reported = clock();
  while (clock() < until) {
    const seed = Math.floor(Math.random() * 2 ** 31);
    seeds.push(seed);
    await search(seed, runs);
    if (every > 0 && clock() - reported >= every) {
      reported = clock();
      tell("so far");
    }
  }
  if (seeds.length < 1000) console.log(`new seeds: ${seeds.join(" ")}`);
}
tell("in all");
Deno.exit(0);
