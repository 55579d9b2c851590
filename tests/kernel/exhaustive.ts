/**
 * All schedules of small graphs: one or two channels, a few bytes. Who steps when
 * nobody disturbs a call is tried in every order, to the end; what also befalls
 * the calls, up to a number of decisions.
 *
 *     deno task simulate --exhaustive=60     as many as can be done in a minute
 *
 * @module
 */
import { plan } from "./cases.ts";
import type { Kind, Plan, WirePlan } from "./plan.ts";
import { simulate } from "./simulate.ts";

/** A small graph, by what it is. */
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

/** How many decisions are tried in all ways where calls are disturbed as well. */
const DEPTH = 14;

/** What was found. */
export interface Found {
  schedules: number;
  complete: number;
  graphs: number;
}

/**
 * Tries all schedules, so many seconds at the most. `onFailure` gets the plan, with
 * the decisions that make it fail.
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
    // What one has left the others get.
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

/** Runs one schedule; returns the decisions of the next one, undefined after the last. */
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
