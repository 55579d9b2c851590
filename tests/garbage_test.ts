/** A busy copy leaves no garbage: once V8 has compiled it, nothing has to be collected. */
import { assert } from "@std/assert";
import { outputOf } from "./probe.ts";
import { ROOT } from "./harness.ts";

/** Collections of what the start leaves, and the steps before V8 has compiled them. */
const AT_THE_START = 4;

/** Runs `"$@"`, which is iocopy from source, in a shell's script; returns how often V8 collected garbage. */
async function collections(script: string, code = [`${ROOT}/main.ts`]): Promise<number> {
  const x = [Deno.execPath(), "run", "--allow-ffi", "--v8-flags=--trace-gc", ...code];
  const { stderr } = await outputOf(["sh", "-c", script, "sh", ...x]);
  return stderr.match(/ (Scavenge|Mark-Compact) /g)?.length ?? 0;
}

// V8 writes its lines to X's standard output, which is the script's standard error here.
const ROUTES = {
  "from pipe to pipe": 'head -c 4G /dev/zero | "$@" 0 3 3>&1 >&2 | cat >/dev/null',
  "through a pipe": 'head -c 4G /dev/zero | "$@" 0 3 3>/dev/null >&2',
  "through a pipe that may not grow": 'head -c 4G /dev/zero | "$@" -b 64k 0 3 3>/dev/null >&2',
  "through memory": 'head -c 4G /dev/zero | "$@" 0 3 3>>/dev/null >&2',
};

for (const [route, script] of Object.entries(ROUTES)) {
  Deno.test(`4 GB ${route} leave no garbage`, async () => {
    const count = await collections(script);
    assert(count <= AT_THE_START, `${count} collections`);
  });
}

Deno.test("garbage would be seen", async () => {
  const garbage = "data:text/javascript,for (let i = 0; i < 100; i++) new Array(1e5).fill({});";
  assert(await collections('"$@" >&2', [garbage]) > AT_THE_START);
});
