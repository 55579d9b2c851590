/**
 * The engine on a simulated kernel: see tests/kernel/README.md. It runs in a
 * process of its own, in which an import map puts the simulated C library in the
 * place of sys/libc.ts, and which needs no permission at all: whatever it does is
 * done in memory.
 *
 * SECONDS says for how long new random runs go on, beside the fixed ones.
 */
import { assertEquals } from "@std/assert";
import { only, ROOT } from "./harness.ts";
import { outputOf } from "./probe.ts";

const SECONDS = Deno.env.get("SECONDS") ?? "20";

const MAP = "--import-map=tests/kernel/imports.json";

/** Runs a program of tests/kernel/ and prints what it says. */
async function simulated(...args: string[]): Promise<void> {
  const words = ["run", "--quiet", "--no-prompt", "--lock=tests/deno.lock", "--frozen", MAP];
  const { code, stdout, stderr } = await outputOf([Deno.execPath(), ...words, ...args], {
    cwd: ROOT,
  });
  const said = stdout + stderr;
  console.log(said);
  assertEquals(code, 0, said);
}

Deno.test(only("source", `the engine on a simulated kernel, for ${SECONDS} s`), async () => {
  await simulated("tests/kernel/run.ts", `--seconds=${SECONDS}`);
});

Deno.test("the simulation's import map has what the tests' has", async () => {
  const importsOf = async (path: string) =>
    JSON.parse(await Deno.readTextFile(`${ROOT}/${path}`)).imports;
  assertEquals(await importsOf("tests/kernel/imports.json"), await importsOf("tests/imports.json"));
});
