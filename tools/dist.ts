/**
 * Makes what is released into dist/: for each architecture an archive of the
 * executable, the manual page, LICENSE and README; and the sums of them all.
 *
 *     deno task dist [x86_64] [aarch64]
 *
 * Both architectures where none is named. What cannot be built is said, and the
 * exit status is 1 then. DENO_COMPILE and DENORT_BIN are as for tools/compile.ts;
 * the latter is one architecture's, and is not used for the other.
 *
 * @module
 */
import project from "../deno.json" with { type: "json" };
import { compile, ROOT } from "./compile.ts";

/** What the ELF header of an executable says of its architecture: e_machine (elf(5)). */
const MACHINES: Record<string, number> = { x86_64: 62, aarch64: 183 };

const BESIDES = ["man/iocopy.1", "LICENSE", "README.md"];

/** Builds one archive in `folder`; answers its name. */
async function build(architecture: string, folder: string): Promise<string> {
  const machine = MACHINES[architecture];
  if (!machine) throw new Error(`not one of ${Object.keys(MACHINES).join(", ")}`);
  const base = Deno.env.get("DENORT_BIN");
  if (base && machineOf(base) !== machine) {
    throw new Error(`DENORT_BIN is not for this architecture: ${base}`);
  }
  const name = `iocopy-${project.version}-${architecture}-linux`;
  const content = `${folder}/${name}`;
  await Deno.remove(content, { recursive: true }).catch(() => {}); // there may be none
  await Deno.mkdir(content, { recursive: true });
  await compile(`${content}/iocopy`, `${architecture}-unknown-linux-gnu`);
  if (machineOf(`${content}/iocopy`) !== machine) throw new Error("it is for another architecture");
  for (const path of BESIDES) {
    await Deno.copyFile(`${ROOT}/${path}`, `${content}/${path.split("/").at(-1)}`);
  }
  // Owners and times as no machine has them: the same source gives the same archive.
  const same = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0"];
  const args = [...same, "--mode=u=rwX,go=rX", "-C", folder, "-czf", `${content}.tar.gz`, name];
  const { success } = await new Deno.Command("tar", { args }).spawn().status;
  if (!success) throw new Error("tar failed");
  return `${name}.tar.gz`;
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
  const folder = `${ROOT}/dist`;
  const sums: string[] = [];
  let failed = false;
  for (const architecture of Deno.args.length ? Deno.args : Object.keys(MACHINES)) {
    try {
      const name = await build(architecture, folder);
      sums.push(`${await sum(`${folder}/${name}`)}  ${name}\n`);
      console.log(`dist/${name}`);
    } catch (error) {
      failed = true;
      console.error(
        `dist: ${architecture} not built: ${error instanceof Error ? error.message : error}`,
      );
    }
  }
  if (sums.length) await Deno.writeTextFile(`${folder}/SHA256SUMS`, sums.join(""));
  if (failed) Deno.exit(1);
}
