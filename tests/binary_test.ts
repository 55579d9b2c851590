/**
 * The executable by itself: it needs nothing but the C library. All other tests
 * test it too, if the environment variable IOCOPY has its path.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import project from "../deno.json" with { type: "json" };
import { type End, O_CREAT, O_RDONLY, O_WRONLY, open, pipe } from "./ends.ts";
import { BINARY, only, skippedIf, start, type StartOptions } from "./harness.ts";
import { inFolder, makeRoot } from "./probe.ts";
import { find } from "./programs.ts";

if (!BINARY) {
  console.error("SKIPPED tests/binary_test.ts: deno task compile, then set IOCOPY=./iocopy");
}

const PATH = BINARY ?? "";

/** Defines a test of the executable, with a folder that is removed afterwards. */
function test(name: string, fn: (folder: string) => Promise<void>, lack = ""): void {
  Deno.test({
    ...skippedIf(lack !== "", lack, only("executable", `the executable ${name}`)),
    fn: async () => {
      await inFolder(async (folder) => {
        await fn(folder);
      });
    },
  });
}

/** The command of `options`, by default iocopy, copies 0 to 1. */
async function isCat(options: StartOptions): Promise<void> {
  const [input, feeding] = pipe();
  const [draining, output] = pipe();
  using running = start(["v", "0", "1"], { 0: input, 1: output }, options);
  for (const end of [input, output]) end.close();
  await feeding.write("hello");
  feeding.close();
  const text = new TextDecoder().decode(await draining.readAll());
  draining.close();
  const log = "iocopy: 0 > 5\niocopy: 1 < 5\niocopy: 0 > 0\n";
  assertEquals([text, await running.outcome], ["hello", { code: 0, signal: null, stderr: log }]);
}

test("tells its version and the runtime's", async () => {
  const [reading, output] = pipe();
  using running = start(["--version"], { 1: output });
  output.close();
  const text = new TextDecoder().decode(await reading.readAll());
  reading.close();
  assertEquals((await running.outcome).code, 0);
  assertMatch(text, /^iocopy \S+ \(deno \d+\.\d+\.\d+\S*\)\n$/);
  assert(text.startsWith(`iocopy ${project.version} (`), text);
});

test("needs no environment", () => isCat({ command: [PATH], env: {} }));

test("leaves an empty DENO_DIR empty", async (folder) => {
  await isCat({ command: [PATH], env: { DENO_DIR: folder, HOME: folder, TMPDIR: folder } });
  assertEquals([...Deno.readDirSync(folder)], []);
});

test("runs from another folder", (folder) => isCat({ command: [PATH], cwd: folder }));

test("runs through a symbolic link", async (folder) => {
  await Deno.symlink(PATH, `${folder}/link`);
  await isCat({ command: [`${folder}/link`] });
});

test("runs under another name", async (folder) => {
  const other = `${folder}/another name`;
  await Deno.copyFile(PATH, other);
  await isCat({ command: [other] });
});

test("runs by a relative path, and found on PATH", async (folder) => {
  await Deno.symlink(PATH, `${folder}/iocopy`);
  await isCat({ command: ["./iocopy"], cwd: folder });
  await isCat({ command: ["sh", "-c", 'exec iocopy "$@"', "sh"], env: { PATH: folder } });
});

test("runs where there is nothing but it and its libraries", async (folder) => {
  // There is no /tmp, /sys, /dev, /etc or home, and of /proc only the link to the executable.
  await makeRoot(folder, PATH);
  const chroot = find("chroot") ?? "/usr/sbin/chroot";
  await isCat({ command: [chroot, folder, "/iocopy"], env: {} });
}, Deno.uid() === 0 ? "" : "chroot(2) needs root");

test("looks at no files but its own, the C library's and the kernel's", async (folder) => {
  const strace = find("strace");
  if (!strace) throw new Error("strace missing: apt-get install strace");
  const log = `${folder}/log`;
  using input = open(`${folder}/input`, O_WRONLY | O_CREAT);
  await input.write("hello");
  const given: Record<number, End> = {
    0: open(`${folder}/input`, O_RDONLY),
    1: open("/dev/null", O_WRONLY),
  };
  const words = [strace, "-f", "--quiet=all", "-e", "trace=%file", "-o", log, PATH];
  using running = start(["--buffer=4k", "0", "1"], given, { command: words, env: {} });
  assertEquals(await running.outcome, { code: 0, signal: null, stderr: "" });
  for (const end of Object.values(given)) end.close();
  const calls = Deno.readTextFileSync(log).split("\n");
  const named = calls.flatMap((call) =>
    /^\d+ +(\w+)\([^"]*"([^"]+)"(.*)/.exec(call)?.slice(1) ?? []
  );
  const known =
    /^\/(lib|lib64|usr\/lib)\/|^\/etc\/(ld\.so\.|localtime)|^\/(proc|sys)\/|^\/dev\/urandom$/;
  let count = 0;
  for (let i = 0; i < named.length; i += 3) {
    const [call = "", path = "", rest = ""] = named.slice(i, i + 3);
    if (call === "getcwd") continue;
    count++;
    assert(path === PATH || known.test(path), `${call} ${path}`);
    assert(!/O_(WRONLY|RDWR|CREAT)/.test(rest), `${call} ${path}${rest}`);
    assertMatch(call, /^(execve|access|open|openat|readlink|readlinkat|l?stat|newfstatat|statx)$/);
  }
  assert(count > 5, "strace saw nothing"); // execve, the libraries, itself
});

const base = Deno.env.get("DENORT_BIN");

test("is no more than 1.5 MB larger than the runtime in it", async () => {
  const embedded = (await Deno.stat(PATH)).size - (await Deno.stat(base ?? "")).size;
  assert(embedded > 0 && embedded < 1_500_000, `${embedded} bytes`);
}, base ? "" : "DENORT_BIN does not name the runtime");
