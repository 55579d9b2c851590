/**
 * What a start loads.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import { ROOT } from "./harness.ts";
import { outputOf } from "./probe.ts";

interface Module {
  specifier: string;
  dependencies?: { isDynamic?: boolean; code?: { specifier: string } }[];
}

async function modules(): Promise<Map<string, string[]>> {
  const words = [Deno.execPath(), "info", "--json", "main.ts"];
  const graph: { modules: Module[] } = JSON.parse((await outputOf(words, { cwd: ROOT })).stdout);
  return new Map(graph.modules.map(({ specifier, dependencies = [] }) => {
    const loaded = dependencies.filter(({ isDynamic }) => !isDynamic);
    return [specifier, loaded.flatMap(({ code }) => code ? [code.specifier] : [])];
  }));
}

Deno.test("main.ts itself imports every module that a start loads", async () => {
  const imports = await modules();
  const main = [...imports.keys()].find((specifier) => specifier.endsWith("/main.ts")) ?? "";
  const loaded = new Set([main]);
  for (const module of loaded) for (const other of imports.get(module) ?? []) loaded.add(other);
  loaded.delete(main);
  assertEquals([...loaded].sort(), [...new Set(imports.get(main))].sort());
});
