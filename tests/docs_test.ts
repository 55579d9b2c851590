/**
 * The documentation: its links lead somewhere, every page is linked, and the
 * options and tasks that it names exist.
 */
import { assert, assertEquals } from "@std/assert";
import { dirname, relative, resolve } from "node:path";
import { HELP } from "../cli/help.ts";
import { FLAGS, VALUES } from "../cli/options.ts";
import project from "../deno.json" with { type: "json" };
import { ROOT } from "./harness.ts";

/** The text of a file, by its path from the project's folder. */
function read(path: string): string {
  return Deno.readTextFileSync(resolve(ROOT, path));
}

/** The pages in Markdown, by their paths. */
const PAGES = ["", "doc/", "tests/kernel/"].flatMap((folder) =>
  [...Deno.readDirSync(resolve(ROOT, folder))].map(({ name }) => folder + name)
).filter((name) => name.endsWith(".md"));

/** The anchors of a page: its headings, as GitHub makes them. */
function anchors(page: string): string[] {
  const headings = read(page).matchAll(/^#+ (.*)$/gm);
  return [...headings].map(([, heading = ""]) =>
    heading.toLowerCase().replaceAll(/[^\w\- ]/g, "").replaceAll(" ", "-")
  );
}

/** The links of a page to files of the project: the path, and what follows `#`. */
function links(page: string): { link: string; path: string; anchor: string | undefined }[] {
  const text = read(page).replaceAll(/^```[^]*?^```/gm, "");
  return [...text.matchAll(/\]\(([^)\s]+)\)/g)]
    .map(([, link = ""]) => link)
    .filter((link) => !/^https?:/.test(link))
    .map((link) => {
      const [file = "", anchor] = link.split("#");
      const path = file ? relative(ROOT, resolve(ROOT, dirname(page), file)) : page;
      return { link, path, anchor };
    });
}

function exists(path: string): boolean {
  try {
    Deno.statSync(resolve(ROOT, path));
    return true;
  } catch {
    return false;
  }
}

Deno.test("no link of the documentation is dead", () => {
  const all = PAGES.flatMap((page) => links(page).map((link) => ({ page, ...link })));
  for (const { page, link, path, anchor } of all) {
    assert(exists(path), `${page}: ${link}: there is no such file`);
    if (anchor) assert(anchors(path).includes(anchor), `${page}: ${link}: no such heading`);
  }
  assert(all.length > 30, `only ${all.length} links`);
});

Deno.test("every file of doc/ is linked from another page", () => {
  for (const { name } of Deno.readDirSync(resolve(ROOT, "doc"))) {
    const path = `doc/${name}`;
    const pages = PAGES.filter((page) => page !== path);
    const isLinked = pages.some((page) => links(page).some((link) => link.path === path));
    assert(isLinked, `${path} is linked from nowhere`);
  }
});

/** Options of other programs that the documentation shows. */
const FOREIGN = [
  "--against",
  "--allow-ffi",
  "--check",
  "--global",
  "--ignore-missing",
  "--include",
  "--lock",
  "--detailed",
  "--exhaustive",
  "--frozen",
  "--name",
  "--no-code-cache",
  "--no-prompt",
  "--offline",
  "--quick",
  "--repo",
  "--rounds",
  "--seconds",
  "--seed",
];

Deno.test("the documentation shows no option that does not exist", () => {
  const own: readonly string[] = [...FLAGS, ...VALUES, "proxy-protocol"].map((name) => `--${name}`);
  const manual = read("man/iocopy.1").replaceAll("Fl Fl ", "--");
  const texts = [
    ["--help", HELP],
    ["man/iocopy.1", manual],
    ...PAGES.map((page) => [page, read(page)]),
  ];
  const shown = new Set<string>();
  for (const [where = "", text = ""] of texts) {
    for (const [option] of text.matchAll(/(?<![\w-])--[a-z][a-z-]*/g)) {
      assert(own.includes(option) || FOREIGN.includes(option), `${where}: no option ${option}`);
      shown.add(option);
    }
  }
  assertEquals(FOREIGN.filter((option) => !shown.has(option)), [], "foreign options nobody shows");
});

Deno.test("the documentation names no task that does not exist", () => {
  for (const page of PAGES) {
    for (const [, task = ""] of read(page).matchAll(/\bdeno task ([a-z][\w:-]*)/g)) {
      assert(Object.hasOwn(project.tasks, task), `${page}: there is no task ${task}`);
    }
  }
});
