/** The manual page, and what it has to say in common with --help and the README. */
import { assert, assertEquals } from "@std/assert";
import { HELP } from "../cli/help.ts";
import { FLAGS, SHORT, VALUES } from "../cli/options.ts";
import { ROOT } from "./harness.ts";
import { testWith } from "./programs.ts";

const MANUAL = `${ROOT}/man/iocopy.1`;

/** The options that the program accepts: `-b --buffer`, `--size`, ... */
const OPTIONS = [...FLAGS, ...VALUES, "proxy-protocol"].map((long) => {
  const [letter] = Object.entries(SHORT).find(([, name]) => name === long) ?? [];
  return letter ? `-${letter} --${long}` : `--${long}`;
}).sort();

/** The options of a text, in the same form: from each line that matches `line`. */
function optionsOf(text: string, line: RegExp): string[] {
  const lines = text.split("\n").filter((candidate) => line.test(candidate));
  return lines.map((line) => {
    const [, letter] = /(?:^|[^-\w])-(\w)\b/.exec(line) ?? [];
    const [, long] = /--([\w-]+)/.exec(line) ?? [];
    return letter ? `-${letter} --${long}` : `--${long}`;
  }).sort();
}

Deno.test("--help lists every option", () => {
  assertEquals(optionsOf(HELP, /^ .*--\w/), OPTIONS);
});

Deno.test("the README lists every option", () => {
  const readme = Deno.readTextFileSync(`${ROOT}/README.md`);
  assertEquals(optionsOf(readme, /^\| .*`--\w/), OPTIONS);
});

Deno.test("the manual page lists every option", () => {
  const manual = Deno.readTextFileSync(MANUAL)
    .replaceAll("Fl Fl ", "--").replaceAll("Fl ", "-");
  assertEquals(optionsOf(manual, /^\.It -/), OPTIONS);
});

Deno.test("the manual page's SYNOPSIS lists every option", () => {
  const [, synopsis = ""] = /^\.Sh SYNOPSIS\n([^]*?)^\.Sh /m.exec(Deno.readTextFileSync(MANUAL)) ??
    [];
  const long = [...synopsis.matchAll(/\bFl Fl ([\w-]+)/g)].map(([, name]) => `--${name}`);
  const groups = [...synopsis.matchAll(/(?<!Fl )\bFl (?!Fl)(\w+)(?: \| (\w))?/g)];
  const letters = groups.flatMap(([, first = "", second = ""]) => [...first + second]);
  const listed = OPTIONS.filter((option) => {
    const [, letter = "", name = ""] = /^(?:-(\w) )?(--.*)$/.exec(option) ?? [];
    return long.includes(name) || letters.includes(letter);
  });
  assertEquals(listed, OPTIONS);
});

Deno.test("--help, the README and the manual page list the same exit statuses", () => {
  const manual = Deno.readTextFileSync(MANUAL);
  const readme = Deno.readTextFileSync(`${ROOT}/README.md`);
  for (const status of ["0", "100", "111", "128"]) {
    assert(new RegExp(`\\b${status} `).test(HELP), `--help: ${status}`);
    assert(new RegExp(`^\\.It ${status}\\b`, "m").test(manual), `manual page: ${status}`);
    assert(new RegExp(`^\\| ${status} `, "m").test(readme), `README: ${status}`);
  }
});

Deno.test("lines of --help fit a terminal", () => {
  for (const line of HELP.split("\n")) assert(line.length <= 80, line);
});

testWith(["mandoc"], "mandoc finds no fault with the manual page", async (shop) => {
  assertEquals(await shop.run("mandoc", "-Tlint", "-Wwarning", MANUAL), "");
});
