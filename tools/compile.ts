/**
 * Makes the executable: the runtime, and behind it one file of JavaScript, our
 * modules and what they import.
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

/**
 * Compiles main.ts into `output`. `target` is a Rust triple; this machine's
 * where not given. Throws where that cannot be done.
 */
export async function compile(output: string, target: string = Deno.build.target): Promise<void> {
  const work = await Deno.makeTempDir();
  try {
    // Embedded as they are, the modules would come with the whole cache of npm
    // packages: 2.8 MB more to ship, and 7 MB more in memory.
    const bundle = `${work}/iocopy.js`;
    await deno(Deno.execPath(), ["bundle", "--quiet", "--output", bundle, `${ROOT}/main.ts`]);
    await Deno.utime(bundle, 0, 0); // is embedded too: the same source gives the same bytes
    await deno(Deno.env.get("DENO_COMPILE") ?? Deno.execPath(), [
      ...["compile", "--quiet", "--no-config", "--target", target],
      ...["--allow-ffi", "--no-prompt"], // all that it may do
      "--no-code-cache", // which would be a file of a known name in /tmp
      // One compiler less to have in memory: 3 MB less from the start on. The
      // other one works on what runs long, each function by itself: copied into
      // each other they are no faster, and 15 % of the CPU of the first GB go
      // into compiling them.
      "--v8-flags=--no-maglev,--no-turbo-inlining",
      ...["--output", resolve(output), bundle],
    ]);
  } finally {
    await Deno.remove(work, { recursive: true });
  }
}

async function deno(program: string, args: string[]): Promise<void> {
  const { success } = await new Deno.Command(program, { args, cwd: ROOT }).spawn().status;
  if (!success) throw new Error(`"deno ${args[0]}" failed`);
}

if (import.meta.main) {
  try {
    await compile("iocopy");
  } catch (error) {
    console.error(`compile: ${error instanceof Error ? error.message : error}`);
    Deno.exit(1);
  }
}
