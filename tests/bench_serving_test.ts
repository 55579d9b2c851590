import { assert, assertEquals, assertMatch } from "@std/assert";
import { BINARY, ROOT } from "./harness.ts";
import { outputOf } from "./probe.ts";
import { needing } from "./programs.ts";

const OURS = BINARY ? "iocopy" : "source";

function bench(...args: string[]) {
  const words = ["run", "--allow-all", "bench/serving.ts", "--quick", ...args];
  return outputOf([Deno.execPath(), ...words], { cwd: ROOT });
}

interface Value {
  median: number;
  all: number[];
}

Deno.test({
  ...needing(["cc"], "bench:serving measures, and prints JSON"),
  async fn() {
    const tests = ["churn", "idle", "bulk", "busy", "paced"];
    const { code, stdout, stderr } = await bench(
      "--json",
      `--tests=${tests}`,
      `--proxies=${OURS}`,
      "--churn=200",
    );
    assertEquals(code, 0, stderr);
    const { failures, proxies } = JSON.parse(stdout);
    assertEquals(failures, []);
    const values: Record<string, Value> = proxies[OURS];
    for (const name of ["churn", "bulk", "busyBulk", "busyTrip", "p50", "p99"]) {
      assert((values[name]?.median ?? 0) > 0, `${name}: ${JSON.stringify(values[name])}`);
    }
    // 200 connections: whatever they leave in memory, it is no descriptor but a spare pipe.
    assert((values["churnDescriptors"]?.median ?? 99) <= 2, JSON.stringify(values));
  },
});

Deno.test("bench:serving: wrong use is one line and 100", async () => {
  for (
    const args of [["--tests=none"], ["--rounds=0"], ["--proxies=none"], ["--nothing"], ["word"]]
  ) {
    const { code, stderr } = await bench(...args);
    assertEquals(code, 100, stderr);
    assertMatch(stderr, /^bench: .*\n$/);
  }
});
