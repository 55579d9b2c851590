/**
 * The released packages: the same source gives the same bytes, and each package can be
 * installed, passes on every descriptor, and can be removed.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import project from "../deno.json" with { type: "json" };
import { ARCHITECTURES, archive, deb, npmExecutable, npmPackage } from "../tools/packages.ts";
import { REPOSITORY } from "../tools/project.ts";
import { pipe, unixPair } from "./ends.ts";
import { endOfFile, passes, succeeds } from "./expect.ts";
import { BINARY, denoDir, only, ROOT, skippedIf } from "./harness.ts";
import { inFolder, iocopy, outputOf } from "./probe.ts";
import { find, needing } from "./programs.ts";

const [HERE] = ARCHITECTURES.filter(({ name }) => name === Deno.build.arch);
if (!HERE) throw new Error(`no packages for ${Deno.build.arch}`);

/** Runs a program that has to succeed; returns what it printed. */
async function said(words: readonly string[], options: Deno.CommandOptions = {}): Promise<string> {
  const { code, stdout, stderr } = await outputOf(words, options);
  assertEquals(code, 0, `${words.join(" ")}: ${stdout}${stderr}`);
  return stdout;
}

/** The command copies two pairs of descriptors, and one above the numbers that shells use. */
async function joins(command: readonly string[]): Promise<void> {
  const [input, stdin] = pipe();
  const [stdout, output] = pipe();
  const [near, far] = unixPair();
  const [more, source] = pipe();
  const given = { 0: input, 1: output, 6: near, 7: near, 10: more, 11: output };
  using running = iocopy("0 7 6 1 10 11", given, { command });
  await passes(stdin, far);
  await passes(far, stdout);
  await passes(source, stdout);
  stdin.close();
  await endOfFile(far);
  far.close();
  source.close();
  await succeeds(running);
  await endOfFile(stdout);
  stdout.close();
}

/** A test of packages of the executable that needs other programs. */
function packaged(
  programs: readonly string[],
  name: string,
  test: (folder: string, executable: string, t: Deno.TestContext) => Promise<void>,
): void {
  const head = BINARY ? needing(programs, name) : only("executable", name);
  Deno.test(head, (t) => inFolder((folder) => test(folder, BINARY ?? "", t)));
}

// ---- The same bytes.

/** Makes all packages, with any file as the executable. */
async function packAll(folder: string): Promise<Map<string, Uint8Array>> {
  const executable = `${folder}/executable`;
  await Deno.writeTextFile(executable, "#!/bin/sh\nexec cat\n");
  const names = [await npmPackage(folder)];
  for (const architecture of ARCHITECTURES) {
    for (const make of [archive, deb, npmExecutable]) {
      names.push(await make(executable, architecture, folder));
    }
  }
  return new Map(names.map((name) => [name, Deno.readFileSync(`${folder}/${name}`)]));
}

Deno.test(
  needing(["dpkg-deb"], "the same executable gives the same packages, to the byte"),
  async () => {
    await inFolder(async (folder) => {
      const first = await packAll(folder);
      const other = `${folder}/another folder`;
      await Deno.mkdir(other);
      const before = Deno.umask(0o077);
      try {
        assertEquals(await packAll(other), first);
      } finally {
        Deno.umask(before);
      }
      const version = project.version;
      assertEquals([...first.keys()].sort(), [
        `iocopy-${version}-aarch64-linux.tar.gz`,
        `iocopy-${version}-x86_64-linux.tar.gz`,
        `iocopy-${version}.tgz`,
        `iocopy-linux-arm64-${version}.tgz`,
        `iocopy-linux-x64-${version}.tgz`,
        `iocopy_${version}-1_amd64.deb`,
        `iocopy_${version}-1_arm64.deb`,
      ]);
      for (const name of first.keys()) {
        if (name.endsWith(".deb")) continue;
        // Everybody may read them, and they contain no user names.
        for (const line of (await said(["tar", "-tvzf", `${folder}/${name}`])).trim().split("\n")) {
          assertMatch(line, /^(-rw-r--r--|[-d]rwxr-xr-x) 0\/0 +\d+ 2026-01-01 /);
        }
      }
    });
  },
);

packaged([], "the same source gives the same modules, wherever it is", async (folder) => {
  const made: Map<string, string>[] = [];
  for (const path of ["a", "somewhere else/and deeper"]) {
    const copy = `${folder}/${path}/copy`, caches = `${folder}/${path}/caches`;
    await Deno.mkdir(`${copy}/tests`, { recursive: true });
    await Deno.mkdir(caches);
    const parts = ["main.ts", "engine.ts", "engine", "sys", "cli", "tools", "deno.json"];
    for (const part of [...parts, "tests/imports.json"]) {
      await said(["cp", "-r", `${ROOT}/${part}`, `${copy}/${part}`]);
    }
    await said(["cp", "-r", `${await denoDir()}/npm`, caches]); // it has esbuild, after the first compilation
    const script = `import { bundle } from "./tools/compile.ts"; await bundle("${copy}/made");`;
    await said([Deno.execPath(), "eval", script], { cwd: copy, env: { DENO_DIR: caches } });
    const files = [...Deno.readDirSync(`${copy}/made`)].map(({ name }) => name).sort();
    made.push(new Map(files.map((name) => [name, Deno.readTextFileSync(`${copy}/made/${name}`)])));
  }
  const [one, other] = made;
  assert((one?.size ?? 0) > 3, "what is loaded only when asked for stays apart");
  assertEquals(one, other);
});

// ---- Installing them.

const npmInstalls = "npm installs the packages from the files, and every descriptor is passed on";
packaged(["npm"], npmInstalls, async (folder, executable) => {
  const packages = [await npmPackage(folder), await npmExecutable(executable, HERE, folder)];
  const prefix = `${folder}/prefix`;
  const npm = (...words: string[]) => {
    const options = ["--global", "--offline", "--no-audit", "--no-fund", "--no-update-notifier"];
    const env = { npm_config_cache: `${folder}/cache`, npm_config_prefix: prefix };
    return said(["npm", ...words, ...options], { cwd: folder, env });
  };
  await npm("install", ...packages.map((name) => `./${name}`));
  const iocopy = `${prefix}/bin/iocopy`;
  await joins([iocopy]);
  await joins(["bash", "-c", 'PATH=$0:$PATH; exec iocopy "$@"', `${prefix}/bin`]);
  const version = await said([iocopy, "--version"]);
  assert(version.startsWith(`iocopy ${project.version} (`), version);
  await Deno.stat(`${prefix}/share/man/man1/iocopy.1`);
  // If the package of the executable is missing, one line says so.
  await npm("uninstall", `iocopy-linux-${HERE.npm}`);
  const { code, stderr } = await new Deno.Command(iocopy, { args: ["0", "1"] }).output();
  assertEquals(code, 111);
  const line = /^iocopy: the npm package iocopy-linux-\w+ is missing: [^\n]+\n$/;
  assertMatch(new TextDecoder().decode(stderr), line);
  await npm("uninstall", "iocopy");
  assertEquals([...Deno.readDirSync(`${prefix}/bin`)], []);
});

/** Why apt-get must not install something on this machine; empty if it may. */
function notHere(): string {
  if (!Deno.env.has("CI")) return "it changes the system, which it does where CI is set";
  if (Deno.uid() !== 0) return "to install needs root";
  if (find("iocopy")) return "there is an iocopy on PATH already";
  return "";
}

const debian = ["dpkg-deb", "lintian", "mandoc"];
packaged(debian, "the package for Debian", async (folder, executable, t) => {
  const path = `${folder}/${await deb(executable, HERE, folder)}`;
  await t.step("lintian finds no fault with it", async () => {
    assertEquals(await said(["lintian", "--allow-root", path]), "");
  });
  await t.step("its iocopy runs where it is unpacked", async () => {
    await said(["dpkg-deb", "-x", path, `${folder}/unpacked`]); // needs no root
    await joins([`${folder}/unpacked/usr/bin/iocopy`]);
    await said([
      "mandoc",
      "-Tlint",
      "-Werror",
      `${folder}/unpacked/usr/share/man/man1/iocopy.1.gz`,
    ]);
  });
  await t.step("its examples are ours, and run where they are", async () => {
    const examples = `${folder}/unpacked/usr/share/doc/iocopy/examples`;
    const help = await said([`${ROOT}/examples/moon`, "--help"]);
    assertEquals(await said([`${examples}/moon`, "--help"]), help);
    await said(["diff", "-r", "--exclude=*.ts", `${ROOT}/examples`, examples]);
  });
  const reason = notHere();
  await t.step({
    ...skippedIf(reason !== "", reason, "apt-get installs it, and removes it"),
    fn: async () => {
      await Deno.chmod(folder, 0o755); // apt-get reads it as another user
      const apt = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=60"];
      const env = { DEBIAN_FRONTEND: "noninteractive" };
      try {
        await said([...apt, "install", "--no-install-recommends", path], { env });
        await joins(["/usr/bin/iocopy"]);
        assertMatch(await said(["dpkg", "-s", "iocopy"]), /^Status: install ok installed$/m);
      } finally {
        await said([...apt, "purge", "iocopy"], { env });
      }
      assertEquals(find("iocopy"), undefined);
    },
  });
});

Deno.test("dist refuses an architecture that it does not know, and leaves dist/ as it is", async () => {
  await inFolder(async (folder) => {
    for (const part of ["tools", "deno.json", "tests/imports.json"]) {
      await Deno.mkdir(`${folder}/copy/tests`, { recursive: true });
      await said(["cp", "-r", `${ROOT}/${part}`, `${folder}/copy/${part}`]);
    }
    await Deno.mkdir(`${folder}/copy/dist`);
    const words = [Deno.execPath(), "run", "--allow-all", `${folder}/copy/tools/dist.ts`];
    const { code, stderr } = await outputOf([...words, "x86_64", "foo"], {
      env: { GITHUB_REPOSITORY: "", DENO_DIR: await denoDir() },
    });
    assertEquals([code, stderr], [100, "dist: foo is not one of x86_64, aarch64\n"]);
    await Deno.stat(`${folder}/copy/dist`);
  });
});

// ---- The name of the repository.

Deno.test("dist makes nothing if the packages would name another repository", async () => {
  const words = [Deno.execPath(), "run", "--allow-all", `${ROOT}/tools/dist.ts`, "none"];
  const { code, stderr } = await outputOf(words, { env: { GITHUB_REPOSITORY: "somebody/else" } });
  assertEquals(code, 1);
  const line =
    `dist: the packages would name ${REPOSITORY}, not somebody/else: see tools/project.ts\n`;
  assertEquals(stderr, line);
});

Deno.test("the README names the repository as the packages do", () => {
  const text = Deno.readTextFileSync(`${ROOT}/README.md`).replaceAll(/\s+/g, " ");
  const [, named] = /gh attestation verify \S+ --repo ([^\s`]+)/.exec(text) ?? [];
  assertEquals(named, REPOSITORY, "README.md against REPOSITORY of tools/project.ts");
});
