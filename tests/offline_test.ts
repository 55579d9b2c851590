/**
 * No command asks a registry for packages that it does not use: each way to run the
 * program and its tools starts with empty caches and a network that counts connections.
 */
import { assertEquals, assertMatch } from "@std/assert";
import { only, ROOT } from "./harness.ts";

const TEXT = "some text\n";

/** Runs a command for which every registry and every proxy is `port` of this machine. */
async function run(
  args: readonly string[],
  port: number,
  denoDir: string,
): Promise<{ code: number; stdout: string; stderr: string }> {
  const nowhere = `http://127.0.0.1:${port}/`;
  const names = ["NPM_CONFIG_REGISTRY", "JSR_URL", "HTTP_PROXY", "HTTPS_PROXY"];
  const env = Object.fromEntries(names.map((name) => [name, nowhere]));
  // deno task looks for "deno" on PATH.
  const PATH = `${denoDir}/bin:${Deno.env.get("PATH")}`;
  await Deno.mkdir(`${denoDir}/bin`, { recursive: true });
  await Deno.symlink(Deno.execPath(), `${denoDir}/bin/deno`).catch(() => {}); // it exists
  const child = new Deno.Command(Deno.execPath(), {
    args: [...args],
    cwd: ROOT,
    env: { ...env, PATH, DENO_DIR: denoDir, NO_COLOR: "1", NO_PROXY: "" },
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(TEXT)).catch(() => {}); // some do not read it
  await writer.close().catch(() => {});
  const { code, stdout, stderr } = await child.output();
  const [out = "", err = ""] = [stdout, stderr].map((text) => new TextDecoder().decode(text));
  return { code, stdout: out, stderr: err };
}

/** Runs `test` with the port of a server that closes every connection; returns how many there were. */
async function counting(test: (port: number, denoDir: string) => Promise<void>): Promise<number> {
  let count = 0;
  const denoDir = await Deno.makeTempDir({ prefix: "iocopy-" });
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const accepting = (async () => {
    for await (const connection of listener) {
      count++;
      connection.close();
    }
  })();
  try {
    await test(listener.addr.port, denoDir);
  } finally {
    listener.close();
    await accepting;
    await Deno.remove(denoDir, { recursive: true });
  }
  return count;
}

/** Commands, and what they print. */
const COMMANDS: readonly [string, RegExp][] = [
  ["run --allow-ffi --no-prompt main.ts 0 1", /^some text\n$/],
  ["run --allow-ffi --no-prompt main.ts -s --buffer=64k -t 30 0 1", /^some text\n$/],
  ["run --allow-ffi --no-prompt main.ts --version", /^iocopy /],
  ["run --allow-ffi --no-prompt main.ts --help", /^usage: /i],
  ["task --quiet start -s 0 1", /^some text\n$/],
  ["task --quiet doctor", /^ok +Linux/],
  ["task --quiet doctor --packages", /^ucspi-tcp /],
];

for (const [words, expected] of COMMANDS) {
  Deno.test(
    only("source", `with empty caches nothing is downloaded by deno ${words}`),
    async () => {
      const count = await counting(async (port, denoDir) => {
        // The second run finds what the first one has left in the caches.
        for (const _ of [1, 2]) {
          const { code, stdout, stderr } = await run(words.split(" "), port, denoDir);
          assertEquals(code, 0, stderr);
          assertMatch(stdout, expected);
          assertEquals(stderr.replaceAll(/^iocopy: .*\n/gm, ""), "");
        }
      });
      assertEquals(count, 0, "connections to a registry");
    },
  );
}

Deno.test(
  only("source", "if esbuild cannot be downloaded, compile says so in one line"),
  async () => {
    const count = await counting(async (port, denoDir) => {
      const { code, stderr } = await run(["task", "--quiet", "compile"], port, denoDir);
      assertEquals(code, 1);
      assertMatch(stderr, /^compile: .*esbuild.*DENO_DIR.*doc\/offline\.md.*\n$/);
    });
    assertEquals(count > 0, true, "it was not asked: the counting counts nothing");
  },
);
