/**
 * All schedules of small graphs: one or two channels, a few bytes. Without disturbed
 * calls, all orders of the steps are tried, to the end; with them, all ways of a limited
 * number of decisions.
 *
 *     deno task simulate --exhaustive=60     as many as can be done in a minute
 *
 * @module
 */
import { plan } from "./cases.ts";
import type { Kind, Plan, WirePlan } from "./plan.ts";
import { simulate } from "./simulate.ts";

/** A small graph, and its name. */
interface Graph {
  name: string;
  plan: Plan;
}

const BYTES = { pieces: [1, 1], reads: [200000] };

function graphs(isHostile: boolean): Graph[] {
  const all: Graph[] = [];
  const add = (name: string, wires: Partial<WirePlan>[], channels: [number, number][]) => {
    all.push({ name, plan: plan(wires, channels, { isHostile, buffer: 4096 }) });
  };
  const kinds: Kind[] = ["pipe", "unix", "tcp", "terminal"];
  for (const from of kinds) {
    for (const to of kinds) {
      const isFar = true, reads = [1];
      const source = { ...BYTES, kind: from, isFar }, sink = { kind: to, isFar, reads };
      add(`${from} to ${to}`, [source, sink], [[0, 1]]);
      if (from === to) continue;
      add(`${from} to ${to}, whose reader goes`, [source, { ...sink, diesAfter: 1 }], [[0, 1]]);
    }
  }
  const socket = (kind: Kind): Partial<WirePlan> => ({ kind, pieces: [1], isFar: false });
  for (const near of ["unix", "tcp"] as const) {
    for (const far of ["unix", "tcp"] as const) {
      add(`${near} and ${far}, both ways`, [socket(near), socket(far)], [[0, 1], [1, 0]]);
    }
  }
  const feed = { pieces: [1] };
  add("two pipes to one", [feed, feed, {}], [[0, 2], [1, 2]]);
  add("two pipes to TCP", [feed, feed, { kind: "tcp" }], [[0, 2], [1, 2]]);
  add("one pipe to two", [{ pieces: [1, 1] }, {}, {}], [[0, 1], [0, 2]]);
  add("TCP to two pipes", [{ ...BYTES, kind: "tcp" }, {}, {}], [[0, 1], [0, 2]]);
  return all;
}

/** How many decisions are tried in all ways if calls are disturbed too. */
const DEPTH = 14;

/** The results. */
interface Found {
  schedules: number;
  complete: number;
  graphs: number;
}

/**
 * Tries all schedules, for at most so many seconds. `onFailure` gets the plan with the
 * decisions that make it fail.
 */
export async function exhaust(
  seconds: number,
  tell: (what: string) => void,
  onFailure: (plan: Plan, error: unknown) => Promise<never>,
): Promise<Found> {
  const all = [...graphs(false), ...graphs(true)];
  const found: Found = { schedules: 0, complete: 0, graphs: all.length };
  const clock = Date.now;
  const began = clock();
  for (const [i, { name, plan }] of all.entries()) {
    // Time that one graph does not use is left to the others.
    const until = clock() + (began + seconds * 1000 - clock()) / (all.length - i);
    let choices: number[] | undefined = [];
    let count = 0;
    while (choices && (count % 64 !== 0 || clock() < until)) {
      choices = await next({ ...plan, choices }, onFailure);
      count++;
    }
    found.schedules += count;
    if (!choices) found.complete++;
    const how = plan.isHostile ? `, disturbed, ${DEPTH} decisions` : "";
    tell(`${name}${how}: ${count} schedules${choices ? ", and there are more" : ": all"}`);
  }
  return found;
}

/** Runs one schedule; returns the decisions of the next one, or undefined after the last. */
async function next(
  plan: Plan,
  onFailure: (plan: Plan, error: unknown) => Promise<never>,
): Promise<number[] | undefined> {
  const depth = plan.isHostile ? DEPTH : 10_000;
  let decisions;
  try {
    const { world } = await simulate(plan, { depth });
    decisions = world.decisions ?? [];
  } catch (error) {
    return await onFailure(plan, error);
  }
  for (let i = decisions.length - 1; i >= 0; i--) {
    const { made, of } = decisions[i] ?? { made: 0, of: 0 };
    if (made + 1 < of) return [...decisions.slice(0, i).map(({ made }) => made), made + 1];
  }
  return undefined;
}
