/** iocopy touches nothing but the descriptors that it was given. */
import { assert, assertEquals } from "@std/assert";
import { resolve } from "node:path";
import { pipe, unixPair } from "./ends.ts";
import { BINARY, COMMAND, denoDir, only, ROOT, skippedIf } from "./harness.ts";
import { descriptors, hasTcp, inFolder, iocopy, LISTENING, makeRoot } from "./probe.ts";
import { needing } from "./programs.ts";
import { pause } from "./watching.ts";

/** Runs `command 0 1` and passes two texts through it; `meanwhile` is called between them. */
async function copies(
  command: readonly string[],
  options: { env?: Record<string, string>; cwd?: string } = {},
  meanwhile: (pid: number) => void = () => {},
): Promise<void> {
  const [input, stdin] = pipe();
  const [stdout, output] = pipe();
  using running = iocopy("0 1", { 0: input, 1: output }, { command, ...options });
  try {
    await stdin.write("there");
    const arrived = await stdout.readText(5);
    if (arrived !== "there") throw new Error((await running.outcome).stderr);
    meanwhile(running.pid);
    await stdin.write("and back");
    assertEquals(await stdout.readText(8), "and back");
    stdin.close();
    const outcome = await running.outcome;
    assertEquals([outcome.code, outcome.signal, outcome.stderr], [0, null, ""]);
  } finally {
    stdin.close();
    stdout.close();
  }
}

/** The smallest environment: the runtime needs to know its cache, the executable needs nothing. */
const MINIMAL: Record<string, string> = BINARY ? {} : { DENO_DIR: await denoDir() };

Deno.test("with an empty environment, in /", async () => {
  await copies(COMMAND, { env: MINIMAL, cwd: "/" });
});

Deno.test(
  only("source", "with the permission for FFI and no other"),
  async () => {
    const denied = ["read", "write", "net", "env", "run", "sys", "import"].map((p) =>
      `--deny-${p}`
    );
    const main = resolve(ROOT, "main.ts");
    await copies([Deno.execPath(), "run", "--allow-ffi", "--no-prompt", ...denied, main]);
    // Without the permission, one line says so.
    using running = iocopy("0 1", {}, { command: [Deno.execPath(), "run", "--no-prompt", main] });
    const { code, stderr } = await running.outcome;
    assertEquals(code, 111);
    assert(/^iocopy: .*ffi.*\n$/.test(stderr), stderr);
  },
);

Deno.test("it listens on no port, and has no files open", async () => {
  const [from, source] = unixPair();
  const [to, sink] = unixPair();
  using running = iocopy("6 7", { 6: source, 7: sink });
  await from.write("runs");
  await to.readText(4);
  assert(!hasTcp(running.pid, LISTENING));
  const files = [...descriptors(running.pid).values()].filter((name) => name.startsWith("/"));
  // From source, the runtime has its cache open, in its own folder.
  const own = BINARY ?? await denoDir();
  assertEquals(files.filter((name) => name !== "/dev/null" && !name.startsWith(own)), []);
  from.close();
  assertEquals((await running.outcome).code, 0);
  to.close();
});

Deno.test(
  needing(["strace"], "once it copies, it opens no file and no socket, and makes no process"),
  async () => {
    await inFolder(async (folder) => {
      const strace = ["-D", "-f", "--quiet=attach", "-o", `${folder}/trace`];
      const calls =
        "trace=%file,socket,bind,listen,connect,accept,accept4,execve,fork,vfork,fcntl,splice";
      const [input, stdin] = pipe();
      const [stdout, output] = pipe();
      using running = iocopy("0 1", { 0: input, 1: output }, {
        command: ["strace", ...strace, "-e", calls, ...COMMAND],
      });
      for (let i = 0; i < 200; i++) {
        await stdin.write("to and fro");
        await stdout.readText(10);
      }
      stdin.close();
      assertEquals((await running.outcome).code, 0);
      const trace = (await traced(`${folder}/trace`)).split("\n");
      const first = trace.findIndex((line) => line.includes(" splice(0"));
      assert(first > 0, "no copying was traced");
      const opened = trace.slice(first).filter((line) =>
        /\b(open|openat|creat|socket|bind|listen|connect|execve|unlink|rename|mkdir)\w*\(/.test(
          line,
        )
      );
      // The runtime reads there when it sets up its clock and its heap.
      // From source it loads some modules only now, from its cache.
      const own = ["/proc/", "/sys/", ...BINARY ? [] : [await denoDir(), ROOT]];
      const foreign = opened.filter((line) =>
        !line.includes("O_RDONLY") || !own.some((folder) => line.includes(`"${folder}`))
      );
      assertEquals(foreign, []);
      if (!BINARY) return;
      // An executable writes and creates nothing from its start to its end.
      const written = trace.filter((line) =>
        /open\w*\(.*O_(WRONLY|RDWR|CREAT)|\b(bind|listen|connect|mkdir)\(/.test(line)
      );
      assertEquals(written.filter((line) => !line.includes('"/dev/null"')), []);
    });
  },
);

/** What strace wrote, once it has ended, which can be later than the process that it traces. */
async function traced(path: string): Promise<string> {
  for (;;) {
    const text = await Deno.readTextFile(path);
    if (text.includes("+++ exited with") && text.endsWith("+++\n")) return text;
    await pause(5);
  }
}

// ---- As other users, in other namespaces and roots; these need root.

const ROOTLESS = Deno.uid() !== 0;

if (Deno.env.has("CI")) {
  Deno.test("the tests of privilege are run as root", () => assertEquals(Deno.uid(), 0));
}

const NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"];

/** Copies the command to a place that everybody may read; returns the words that start it. */
async function forEverybody(folder: string): Promise<readonly string[]> {
  await Deno.chmod(folder, 0o755);
  if (BINARY) {
    await Deno.copyFile(BINARY, `${folder}/iocopy`);
    return [`${folder}/iocopy`];
  }
  await Deno.mkdir(`${folder}/tests`);
  const imports = "tests/imports.json"; // which deno.json names
  for (const part of ["main.ts", "engine.ts", "deno.json", imports, "engine", "sys", "cli"]) {
    const { success } = await new Deno.Command("cp", {
      args: ["-r", `${ROOT}/${part}`, `${folder}/${part}`],
    }).output();
    assert(success, part);
  }
  await Deno.copyFile(Deno.execPath(), `${folder}/deno`);
  await Deno.mkdir(`${folder}/cache`);
  await new Deno.Command("chmod", { args: ["-R", "a+rX", folder] }).output();
  return [`${folder}/deno`, "run", "--allow-ffi", "--no-prompt", `${folder}/main.ts`];
}

const asNobody = needing(["setpriv"], "as nobody, in /, with an empty environment");
Deno.test(skippedIf(ROOTLESS, "it needs root", asNobody), async () => {
  await inFolder(async (folder) => {
    const command = [...NOBODY, ...await forEverybody(folder)];
    const env = BINARY ? {} : { DENO_DIR: `${folder}/cache` }; // the user nobody may not write there
    await copies(command, { env: { ...env, PATH: "/usr/bin:/bin" }, cwd: "/" });
  });
});

/** Whether the process may mount; root in a Docker container may not (capabilities(7)). */
const MOUNTS = (() => {
  const CAP_SYS_ADMIN = 21n;
  const [, effective = "0"] =
    /^CapEff:\s*(\w+)/m.exec(Deno.readTextFileSync("/proc/self/status")) ?? [];
  return (BigInt(`0x${effective}`) >> CAP_SYS_ADMIN & 1n) === 1n;
})();

const readOnly = needing(["unshare", "setpriv"], "as nobody, with every file system read-only");
Deno.test(skippedIf(!MOUNTS, "to mount needs CAP_SYS_ADMIN", readOnly), async () => {
  await inFolder(async (folder) => {
    const [program = "", ...words] = await forEverybody(folder);
    const script = `set -e
      mount -n --make-rprivate /
      for to in $(cut -d' ' -f2 /proc/self/mounts | sort -r); do
        mount -n -o remount,bind,ro "$to" 2>/dev/null || :
      done
      if touch "$0" 2>/dev/null; then echo "not read-only" >&2; exit 1; fi
      exec ${NOBODY.join(" ")} "$@"`;
    const wrapped = ["unshare", "--mount", "/bin/sh", "-c", script, `${folder}/probe`, program];
    const env = BINARY ? {} : { DENO_DIR: `${folder}/cache` };
    await copies([...wrapped, ...words], {
      env: { ...env, PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
      cwd: "/",
    });
  });
});

const inChroot = only(
  "executable",
  "in a chroot that holds only it, its libraries and one link, as tcpserver -u would run it",
);
Deno.test(
  skippedIf(ROOTLESS, "chroot(2) needs root", inChroot),
  async () => {
    const executable = BINARY;
    if (!executable) return;
    await inFolder(async (folder) => {
      await Deno.chmod(folder, 0o755);
      await makeRoot(folder, executable);
      await copies(["chroot", "--userspec=65534:65534", folder, "/iocopy"], {
        env: { PATH: "/usr/sbin:/usr/bin" },
        cwd: "/",
      });
    });
  },
);
