/**
 * The engine on a simulated kernel: see tests/kernel/README.md. It runs in a process of
 * its own, where an import map replaces sys/libc.ts by the simulated C library. That
 * process needs no permission, since everything is done in memory.
 *
 * The fixed seeds run every time, and new random ones for SECONDS after them, which are
 * printed: a few here, and as many as there is time for in `deno task soak simulation`.
 */
import { assertEquals } from "@std/assert";
import { only, ROOT } from "./harness.ts";
import { findMutants } from "./kernel/mutants.ts";
import { compareMany, isComparable, summary } from "./kernel/truth.ts";
import { outputOf } from "./probe.ts";

const SECONDS = Deno.env.get("SECONDS") ?? "3";

/** The number of fixed seeds, of 1125 runs each. */
const FIXED = 20;

const MAP = "--import-map=tests/kernel/imports.json";

/** Runs a program of tests/kernel/ and prints its output. */
async function simulated(...args: string[]): Promise<void> {
  const words = ["run", "--quiet", "--no-prompt", "--lock=tests/deno.lock", "--frozen", MAP];
  const { code, stdout, stderr } = await outputOf([Deno.execPath(), ...words, ...args], {
    cwd: ROOT,
  });
  const said = stdout + stderr;
  console.log(said);
  assertEquals(code, 0, said);
}

Deno.test(only("source", "the engine on a simulated kernel"), async () => {
  await simulated("tests/kernel/run.ts", `--fixed=${FIXED}`, `--seconds=${SECONDS}`);
});

Deno.test(only("source", "the simulation finds faults that are put into the engine"), async () => {
  await findMutants(console.log);
});

const SEED = Number(Deno.env.get("SEED") ?? Math.trunc(Math.random() * 2 ** 31));

Deno.test({
  name: `the simulated kernel behaves like the real one (seeds 1 and ${SEED})` +
    (isComparable() ? "" : " SKIPPED: the kernel is older than 6.5"),
  ignore: !isComparable(),
  sanitizeResources: false, // the C library is never unloaded
  fn: async () => {
    for (const seed of [1, SEED]) await compareMany(seed, 60);
    console.log(summary());
  },
});

Deno.test("the simulation's import map has everything that the tests' map has", async () => {
  const importsOf = async (path: string) =>
    JSON.parse(await Deno.readTextFile(`${ROOT}/${path}`)).imports;
  assertEquals(await importsOf("tests/kernel/imports.json"), await importsOf("tests/imports.json"));
});
