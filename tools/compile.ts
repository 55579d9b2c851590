/**
 * Makes the executable: the runtime with our modules, bundled to a few files of
 * JavaScript.
 *
 *     deno task compile
 *
 * The environment variable DENO_COMPILE is the path of the deno to compile with, if
 * it is not the one that runs this; DENORT_BIN is the path of the base binary, if it
 * cannot be downloaded.
 *
 * @module
 */
import { resolve } from "node:path";

/** The project's folder. */
export const ROOT = resolve(import.meta.dirname ?? ".", "..");

/** How V8 compiles in the executable. */
const V8_FLAGS = [
  // On another thread, the first compiler delays some starts: when it and the main
  // thread compete for a lock, V8 first calibrates its clock. A start takes 28 ms
  // instead of 32 (`deno task bench --tests=start --against=OTHER`).
  "--no-concurrent-sparkplug",
  // In MB. V8 would let its space for new objects grow to 16 MB, and what survives there takes
  // twice as much: an idle connection has 4.5 kB of private memory without this, 3.0 with it
  // (`deno task bench:serving --tests=idle`).
  "--max-semi-space-size=2",
];

/**
 * Bundles main.ts and its modules into a few files of JavaScript in `folder`. They do
 * not depend on where the source and the runtime's caches are.
 */
export async function bundle(folder: string): Promise<void> {
  // Without bundling, the executable would contain the whole cache of npm packages:
  // 2.8 MB more to download, and 7 MB more memory. Modules that are loaded only if
  // they are used stay separate, and names are shortened: each start reads a third
  // of what it would read otherwise.
  const files = ["--minify", "--code-splitting", "--outdir", folder];
  await deno(Deno.execPath(), ["bundle", "--quiet", ...files, `${ROOT}/main.ts`]);
  for await (const { name } of Deno.readDir(folder)) {
    await Deno.utime(`${folder}/${name}`, 0, 0); // it is embedded: the same source has to give the same bytes
  }
}

/**
 * Compiles main.ts to `output`. `target` is a Rust triple, by default this machine's.
 * Throws if that fails.
 */
export async function compile(output: string, target: string = Deno.build.target): Promise<void> {
  const work = await Deno.makeTempDir();
  try {
    await bundle(work);
    await deno(Deno.env.get("DENO_COMPILE") ?? Deno.execPath(), [
      ...["compile", "--quiet", "--no-config", "--target", target],
      ...["--allow-ffi", "--no-prompt"], // the only permission
      "--no-code-cache", // which would be a file of a known name in /tmp
      `--v8-flags=${V8_FLAGS.join()}`,
      ...["--output", resolve(output), `${work}/main.js`],
    ]);
  } finally {
    await Deno.remove(work, { recursive: true });
  }
}

async function deno(program: string, args: string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(program, { args, cwd: ROOT }).output();
  if (success) return;
  const said = new TextDecoder().decode(stderr);
  // Deno's own message about a failed download has six lines, and varies.
  if (args[0] === "compile" && /denort|download|sending request/i.test(said)) {
    throw new Error(
      "the runtime's base binary cannot be downloaded: set the variable DENORT_BIN to the path of " +
        "denort, of the same version (doc/offline.md)",
    );
  }
  if (args[0] === "bundle" && /esbuild/.test(said)) {
    throw new Error(
      "esbuild cannot be downloaded: set the variable DENO_DIR to a folder that has it (doc/offline.md)",
    );
  }
  throw new Error(`"deno ${args[0]}" failed: ${said.trim()}`);
}

if (import.meta.main) {
  try {
    await compile("iocopy");
  } catch (error) {
    console.error(`compile: ${error instanceof Error ? error.message : error}`);
    Deno.exit(1);
  }
}
