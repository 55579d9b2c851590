import { assert, assertEquals } from "@std/assert";
import { ROOT } from "./harness.ts";
import { testWith } from "./programs.ts";

/** The files of a folder that sh reads. */
function scripts(folder: string): string[] {
  return [...Deno.readDirSync(`${ROOT}/${folder}`)]
    .filter(({ isFile }) => isFile)
    .map(({ name }) => `${ROOT}/${folder}/${name}`)
    .filter((path) => /^#!.*sh\b|^# shellcheck /.test(Deno.readTextFileSync(path)));
}

testWith(["shellcheck"], "shellcheck finds no fault with the shell scripts", async (shop) => {
  const all = ["examples", "examples/services", ".ci", "tools"].flatMap(scripts);
  assert(all.length > 6, `${all.length} scripts`);
  assertEquals(await shop.run("shellcheck", ...all), "");
});
