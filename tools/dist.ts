/**
 * Makes everything that is released, in dist/: for each architecture an archive with the
 * executable, the manual page, LICENSE and README, a package for Debian and one for npm;
 * the package for npm that depends on these; and the checksums.
 *
 *     deno task dist [x86_64] [aarch64]
 *
 * By default for both architectures. What cannot be built is reported, and the exit
 * status is 1; a name that is none of these is wrong use, 100, and dist/ stays. DENO_COMPILE and DENORT_BIN are as for tools/compile.ts; DENORT_BIN is for
 * one architecture, and is not used for the other. The date of all files is
 * SOURCE_DATE_EPOCH, or a fixed one.
 *
 * @module
 */
import { compile, ROOT } from "./compile.ts";
import { ARCHITECTURES, archive, deb, npmExecutable, npmPackage } from "./packages.ts";
import { REPOSITORY } from "./project.ts";

/** The architecture in the ELF header of an executable: e_machine (elf(5)). */
const MACHINES = { x86_64: 62, aarch64: 183 };

/** Builds all files for one architecture in `folder`; returns their names. */
async function build(
  architecture: typeof ARCHITECTURES[number],
  folder: string,
): Promise<string[]> {
  const machine = MACHINES[architecture.name];
  const base = Deno.env.get("DENORT_BIN");
  if (base && machineOf(base) !== machine) {
    throw new Error(`DENORT_BIN is not for this architecture: ${base}`);
  }
  const executable = `${folder}/iocopy-${architecture.name}`;
  await compile(executable, `${architecture.name}-unknown-linux-gnu`);
  if (machineOf(executable) !== machine) throw new Error("it is for another architecture");
  const names = [];
  for (const make of [archive, deb, npmExecutable]) {
    names.push(await make(executable, architecture, folder));
  }
  await Deno.remove(executable);
  return names;
}

function machineOf(path: string): number {
  using file = Deno.openSync(path);
  const header = new Uint8Array(20);
  file.readSync(header);
  return new DataView(header.buffer).getUint16(18, true);
}

async function sum(path: string): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", await Deno.readFile(path));
  return new Uint8Array(digest).toHex();
}

if (import.meta.main) {
  const here = Deno.env.get("GITHUB_REPOSITORY"); // set in a workflow
  if (here && here !== REPOSITORY) {
    console.error(`dist: the packages would name ${REPOSITORY}, not ${here}: see tools/project.ts`);
    Deno.exit(1);
  }
  const wrong = Deno.args.find((arg) => !ARCHITECTURES.some(({ name }) => name === arg));
  if (wrong !== undefined) {
    console.error(`dist: ${wrong} is not one of ${Object.keys(MACHINES).join(", ")}`);
    Deno.exit(100);
  }
  const folder = `${ROOT}/dist`;
  await Deno.remove(folder, { recursive: true }).catch(() => {}); // it may not exist
  await Deno.mkdir(folder);
  const names: string[] = [];
  let failed = false;
  const asked = ARCHITECTURES.filter(({ name }) => !Deno.args.length || Deno.args.includes(name));
  for (const part of [...asked, undefined]) {
    try {
      const built = part ? await build(part, folder) : [await npmPackage(folder)];
      for (const one of built) console.log(`dist/${one}`);
      names.push(...built);
    } catch (error) {
      failed = true;
      const name = part?.name ?? "npm";
      console.error(`dist: ${name} not built: ${error instanceof Error ? error.message : error}`);
    }
  }
  const sums = names.map(async (name) => `${await sum(`${folder}/${name}`)}  ${name}\n`);
  await Deno.writeTextFile(`${folder}/SHA256SUMS`, (await Promise.all(sums)).join(""));
  if (failed) Deno.exit(1);
}
