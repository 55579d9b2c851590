/**
 * Makes the executable: the runtime, and behind it our modules as JavaScript, in
 * a few files.
 *
 *     deno task compile
 *
 * The environment variable DENO_COMPILE names the deno to compile with where
 * it is not the one that runs this, and DENORT_BIN the runtime's base binary
 * where it cannot be downloaded.
 *
 * @module
 */
import { resolve } from "node:path";

/** The project's folder. */
export const ROOT = resolve(import.meta.dirname ?? ".", "..");

/** How the executable's V8 compiles what it runs. */
const V8_FLAGS = [
  // One compiler less to have in memory: 3 MB less from the start on.
  "--no-maglev",
  // Copied into each other our functions are no faster, and 15 % of the CPU of
  // the first GB would go into compiling them.
  "--no-turbo-inlining",
  // On another thread the first compiler is in the way of four starts in ten:
  // where both want one lock, V8 measures its clock first, which takes 3 ms.
  "--no-concurrent-sparkplug",
];

/**
 * Compiles main.ts into `output`. `target` is a Rust triple; this machine's
 * where not given. Throws where that cannot be done.
 */
export async function compile(output: string, target: string = Deno.build.target): Promise<void> {
  const work = await Deno.makeTempDir();
  try {
    // Embedded as they are, the modules would come with the whole cache of npm
    // packages: 2.8 MB more to ship, and 7 MB more in memory. What is loaded only
    // when asked for stays apart, and no name is longer than it must be: each
    // start has a third to read of what it would have otherwise.
    const files = ["--minify", "--code-splitting", "--outdir", work];
    await deno(Deno.execPath(), ["bundle", "--quiet", ...files, `${ROOT}/main.ts`]);
    for await (const { name } of Deno.readDir(work)) {
      await Deno.utime(`${work}/${name}`, 0, 0); // is embedded too: the same source gives the same bytes
    }
    await deno(Deno.env.get("DENO_COMPILE") ?? Deno.execPath(), [
      ...["compile", "--quiet", "--no-config", "--target", target],
      ...["--allow-ffi", "--no-prompt"], // all that it may do
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
  // Deno's way to say that something could not be downloaded has six lines, and changes.
  if (args[0] === "compile" && /denort|download|sending request/i.test(said)) {
    throw new Error(
      "the runtime's base binary cannot be downloaded: take denort of this Deno along, and name it " +
        "by the variable DENORT_BIN (doc/offline.md)",
    );
  }
  if (args[0] === "bundle" && /esbuild/.test(said)) {
    throw new Error(
      "esbuild cannot be downloaded: take along a DENO_DIR that has it (doc/offline.md)",
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
