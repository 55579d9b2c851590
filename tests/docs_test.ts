/** What is written for people: its links lead somewhere. */
import { assert } from "@std/assert";
import { dirname, resolve } from "node:path";
import { ROOT } from "./harness.ts";

const pages = [
  ...[...Deno.readDirSync(ROOT)].map(({ name }) => name),
  ...[...Deno.readDirSync(resolve(ROOT, "doc"))].map(({ name }) => `doc/${name}`),
].filter((name) => name.endsWith(".md")).map((name) => resolve(ROOT, name));

/** The anchors of a page: its headings, as the places that show it make them. */
function anchors(page: string): string[] {
  const headings = Deno.readTextFileSync(page).matchAll(/^#+ (.*)$/gm);
  return [...headings].map(([, heading = ""]) =>
    heading.toLowerCase().replaceAll(/[^\w\- ]/g, "").replaceAll(" ", "-")
  );
}

Deno.test("no link of the documentation is dead", () => {
  let count = 0;
  for (const page of pages) {
    const text = Deno.readTextFileSync(page).replaceAll(/^```[^]*?^```/gm, "");
    for (const [, link = ""] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^https?:/.test(link)) continue;
      const [path = "", anchor] = link.split("#");
      const target = path ? resolve(dirname(page), path) : page;
      let isThere = true;
      try {
        Deno.statSync(target);
      } catch {
        isThere = false;
      }
      assert(isThere, `${page}: ${link} is dead`);
      assert(!anchor || anchors(target).includes(anchor), `${page}: ${link} leads to no heading`);
      count++;
    }
  }
  assert(count > 30, `${count} links`);
});
