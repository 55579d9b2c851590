/**
 * Makes packages of an executable: an archive, a package for Debian, and two for
 * npm. The same executable gives the same packages, byte by byte: owners, dates and the
 * order of the files do not depend on the machine.
 *
 * @module
 */
import { createHash } from "node:crypto";
import project from "../deno.json" with { type: "json" };
import { ROOT } from "./compile.ts";
import { REPOSITORY } from "./project.ts";

/** An architecture, by the names that the kernel, Debian and npm have for it. */
interface Architecture {
  readonly name: "x86_64" | "aarch64";
  readonly debian: string;
  readonly npm: string;
}

export const ARCHITECTURES: readonly Architecture[] = [
  { name: "x86_64", debian: "amd64", npm: "x64" },
  { name: "aarch64", debian: "arm64", npm: "arm64" },
];

/** The date of all files, in seconds since 1970; Debian rejects files of that year. */
const DATE = Number(Deno.env.get("SOURCE_DATE_EPOCH") ?? Date.UTC(2026, 0, 1) / 1000);

const DESCRIPTION = "Copies data between pairs of inherited descriptors: pipes, sockets, files";
const HOMEPAGE = `https://github.com/${REPOSITORY}`;

/** Debian's version: ours, and 1 for the first package of it. */
const DEBIAN_VERSION = `${project.version}-1`;

/** A folder to be packaged. */
class Tree implements AsyncDisposable {
  private constructor(readonly path: string) {}

  static async make(): Promise<Tree> {
    return new Tree(await Deno.makeTempDir());
  }

  async write(path: string, content: string | Uint8Array, mode = 0o644): Promise<void> {
    const whole = `${this.path}/${path}`;
    await Deno.mkdir(whole.slice(0, whole.lastIndexOf("/")), { recursive: true });
    if (typeof content === "string") await Deno.writeTextFile(whole, content);
    else await Deno.writeFile(whole, content);
    await Deno.chmod(whole, mode);
  }

  async copy(from: string, path: string, mode = 0o644): Promise<void> {
    await this.write(path, await Deno.readFile(from), mode);
  }

  /** Sets the mode of the folders, which depends on the umask otherwise, and all dates. */
  async settle(path = this.path): Promise<void> {
    await Deno.chmod(path, 0o755);
    for await (const { name, isDirectory } of Deno.readDir(path)) {
      if (isDirectory) await this.settle(`${path}/${name}`);
      else await Deno.utime(`${path}/${name}`, DATE, DATE);
    }
    await Deno.utime(path, DATE, DATE);
  }

  /** Packs its subfolder `name`. */
  async tar(name: string, archive: string): Promise<void> {
    await this.settle();
    const same = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=ustar"];
    await run("tar", [...same, "-C", this.path, "-czf", archive, name]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.path, { recursive: true });
  }
}

async function run(program: string, args: string[]): Promise<Uint8Array<ArrayBuffer>> {
  const env = { SOURCE_DATE_EPOCH: String(DATE) };
  const command = new Deno.Command(program, { args, env, stderr: "inherit" });
  const { success, stdout } = await command.output();
  if (!success) throw new Error(`${program} failed`);
  return stdout;
}

/** Makes the archive; returns its name in `folder`. */
export async function archive(
  executable: string,
  { name: architecture }: Architecture,
  folder: string,
): Promise<string> {
  const name = `iocopy-${project.version}-${architecture}-linux`;
  await using tree = await Tree.make();
  await tree.copy(executable, `${name}/iocopy`, 0o755);
  for (const path of ["man/iocopy.1", "LICENSE", "README.md"]) {
    await tree.copy(`${ROOT}/${path}`, `${name}/${path.split("/").at(-1)}`);
  }
  await tree.tar(name, `${folder}/${name}.tar.gz`);
  return `${name}.tar.gz`;
}

/** Makes the package for Debian; returns its name in `folder`. */
export async function deb(
  executable: string,
  { debian: architecture }: Architecture,
  folder: string,
): Promise<string> {
  await using tree = await Tree.make();
  const owner = REPOSITORY.split("/")[0];
  const maintainer = `${owner} <${owner}@users.noreply.github.com>`;
  const changes = `iocopy (${DEBIAN_VERSION}) unstable; urgency=medium

  * Version ${project.version}; /usr/share/doc/iocopy/changelog.gz has its changes.

 -- ${maintainer}  ${new Date(DATE * 1000).toUTCString().replace("GMT", "+0000")}
`;
  const license = (await Deno.readTextFile(`${ROOT}/LICENSE`)).split("\n").slice(4).join("\n");
  const copyright = (await Deno.readTextFile(`${ROOT}/tools/debian/copyright`))
    .replace("@HOMEPAGE@", HOMEPAGE)
    .replace("@LICENSE@", license.trim().replaceAll(/^$/gm, ".").replaceAll(/^/gm, " "));
  const doc = "usr/share/doc/iocopy";
  await tree.copy(executable, "usr/bin/iocopy", 0o755);
  await tree.copy(`${ROOT}/man/iocopy.1`, "usr/share/man/man1/iocopy.1");
  await tree.copy(`${ROOT}/CHANGELOG.md`, `${doc}/changelog`);
  await tree.write(`${doc}/changelog.Debian`, changes);
  await tree.write(`${doc}/copyright`, copyright);
  await tree.copy(`${ROOT}/tools/debian/lintian-overrides`, "usr/share/lintian/overrides/iocopy");
  for (const path of await filesBelow(`${ROOT}/examples`)) {
    if (path.endsWith(".ts")) continue; // it imports engine.ts
    const { mode } = await Deno.stat(`${ROOT}/examples/${path}`);
    const isScript = ((mode ?? 0) & 0o100) !== 0;
    await tree.copy(
      `${ROOT}/examples/${path}`,
      `${doc}/examples/${path}`,
      isScript ? 0o755 : 0o644,
    );
  }
  const zipped = ["usr/share/man/man1/iocopy.1", `${doc}/changelog`, `${doc}/changelog.Debian`];
  await run("gzip", ["-9", "-n", ...zipped.map((path) => `${tree.path}/${path}`)]);
  const files = await filesBelow(tree.path);
  let size = 0;
  let sums = "";
  for (const path of files) {
    const content = await Deno.readFile(`${tree.path}/${path}`);
    size += Math.ceil(content.length / 1024);
    sums += `${createHash("md5").update(content).digest("hex")}  ${path}\n`;
  }
  await tree.write("DEBIAN/md5sums", sums);
  await tree.write(
    "DEBIAN/control",
    `Package: iocopy
Version: ${DEBIAN_VERSION}
Architecture: ${architecture}
Maintainer: ${maintainer}
Installed-Size: ${size}
Depends: libc6 (>= 2.28), libgcc-s1
Suggests: ucspi-tcp
Section: net
Priority: optional
Homepage: ${HOMEPAGE}
Description: copy data between pairs of descriptors
 iocopy copies bytes between the descriptors it was started with, any number of
 pairs at the same time, and between the two sides of every connection that
 comes to a descriptor which listens. It is the engine for programs such as
 tcpserver and tcpclient; the kernel moves the bytes wherever it can.
`,
  );
  await tree.settle();
  const name = `iocopy_${DEBIAN_VERSION}_${architecture}.deb`;
  // With one thread: the number of threads changes what xz writes.
  await run("dpkg-deb", [
    ...["--root-owner-group", "-Zxz", "-z1", "--threads-max=1", "--build"],
    ...[tree.path, `${folder}/${name}`],
  ]);
  return name;
}

async function filesBelow(folder: string, path = ""): Promise<string[]> {
  const files: string[] = [];
  for await (const { name, isDirectory } of Deno.readDir(`${folder}/${path}`)) {
    if (isDirectory) files.push(...await filesBelow(folder, `${path}${name}/`));
    else files.push(`${path}${name}`);
  }
  return files.sort();
}

/** The metadata of each package for npm. */
const COMMON = {
  version: project.version,
  description: DESCRIPTION,
  license: project.license,
  homepage: HOMEPAGE,
  repository: { type: "git", url: `git+${HOMEPAGE}.git` },
  os: ["linux"],
};

async function npm(
  name: string,
  contents: object,
  folder: string,
  fill: (tree: Tree) => Promise<void>,
): Promise<string> {
  await using tree = await Tree.make();
  const description = JSON.stringify({ name, ...COMMON, ...contents }, undefined, 2);
  await tree.write("package/package.json", `${description}\n`);
  await tree.copy(`${ROOT}/LICENSE`, "package/LICENSE");
  await fill(tree);
  const file = `${name}-${project.version}.tgz`;
  await tree.tar("package", `${folder}/${file}`);
  return file;
}

/** Makes npm's package of the executable alone; returns its name in `folder`. */
export function npmExecutable(
  executable: string,
  { npm: architecture }: Architecture,
  folder: string,
): Promise<string> {
  const contents = { cpu: [architecture], libc: ["glibc"], preferUnplugged: true };
  return npm(`iocopy-linux-${architecture}`, contents, folder, async (tree) => {
    await tree.copy(executable, "package/iocopy", 0o755);
    await tree.write(
      "package/README.md",
      `The executable of [iocopy](${HOMEPAGE}) for Linux on ${architecture}: \`npm install iocopy\`.\n`,
    );
  });
}

/** Makes the package for npm that people install, which depends on the others; returns its name. */
export function npmPackage(folder: string): Promise<string> {
  const names = ARCHITECTURES.map((architecture) => `iocopy-linux-${architecture.npm}`);
  const contents = {
    cpu: ARCHITECTURES.map((architecture) => architecture.npm),
    bin: { iocopy: "bin/iocopy" },
    man: ["man/iocopy.1"],
    optionalDependencies: Object.fromEntries(names.map((name) => [name, project.version])),
  };
  return npm("iocopy", contents, folder, async (tree) => {
    await tree.copy(`${ROOT}/tools/npm/iocopy`, "package/bin/iocopy", 0o755);
    await tree.copy(`${ROOT}/man/iocopy.1`, "package/man/iocopy.1");
    await tree.copy(`${ROOT}/README.md`, "package/README.md");
  });
}
