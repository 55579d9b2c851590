/**
 * engine_test.ts against the program on an emulated arm64: the arm64 build of this
 * Deno, from the npm registry, under qemu's emulation of a process.
 *
 *     deno task test:arm64
 *
 * It takes ten minutes, and as root installs what is missing. The emulated
 * command makes real system calls, so the test covers what differs between the
 * architectures: calling functions of the C library, and the layout of the kernel's
 * structures.
 *
 * @module
 */
import { reading, unknown } from "../bench/command.ts";
import { ROOT } from "./harness.ts";

/** Debian's packages, and a file of each. */
const PACKAGES: Record<string, string> = {
  "qemu-user-static": "/usr/bin/qemu-aarch64-static",
  "libc6-arm64-cross": "/usr/aarch64-linux-gnu/lib/libc.so.6",
  "libgcc-s1-arm64-cross": "/usr/aarch64-linux-gnu/lib/libgcc_s.so.1",
};

/** The time limit that is 30 s elsewhere, in seconds: here a start takes 2 s. */
const DEADLINE = 300;

async function run(words: string[], options: Deno.CommandOptions = {}): Promise<void> {
  const [program = "", ...args] = words;
  const { success } = await new Deno.Command(program, { args, ...options }).spawn().status;
  if (!success) throw new Error(`"${words.slice(0, 3).join(" ")}" failed`);
}

/** Makes sure that qemu and the C library of arm64 are installed. */
async function install(): Promise<void> {
  const missing = Object.entries(PACKAGES).filter(([, file]) => {
    try {
      return !Deno.statSync(file).isFile;
    } catch {
      return true;
    }
  }).map(([name]) => name);
  if (missing.length === 0) return;
  const words = ["apt-get", "install", "-y", "--no-install-recommends", ...missing];
  if (Deno.uid() !== 0) throw new Error(`as root: ${words.join(" ")}`);
  await run(["apt-get", "update", "-q"]);
  await run(words, { env: { DEBIAN_FRONTEND: "noninteractive" } });
}

/** Runs the tests; throws if one fails, or if they cannot be run. */
export async function testArm64(): Promise<void> {
  await install();
  const folder = await Deno.makeTempDir({ prefix: "iocopy-arm64-" });
  try {
    const name = `@deno/linux-arm64-glibc@${Deno.version.deno}`;
    await run(["npm", "pack", "--silent", name], { cwd: folder, stdout: "null" });
    await run(["sh", "-c", "tar -xzf *.tgz"], { cwd: folder });
    const emulated = "qemu-aarch64-static -L /usr/aarch64-linux-gnu";
    const program = `${folder}/package/deno run --allow-ffi --no-prompt '${ROOT}/main.ts'`;
    const iocopy = `${folder}/iocopy`;
    const script = `#!/bin/sh
DENO_DIR='${folder}/caches' DENO_NO_UPDATE_CHECK=1 exec ${emulated} ${program} "$@"
`;
    await Deno.writeTextFile(iocopy, script, { mode: 0o755 });
    const args = ["test", "--allow-all", "--lock=tests/deno.lock", "--frozen", "engine_test.ts"];
    const env = { IOCOPY: iocopy, IOCOPY_DEADLINE: String(DEADLINE) };
    await run([Deno.execPath(), ...args], { cwd: ROOT, env });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

if (import.meta.main) {
  reading("test:arm64", () => Deno.args.forEach(unknown));
  try {
    await testArm64();
  } catch (error) {
    console.error(`test:arm64: ${error instanceof Error ? error.message : error}`);
    Deno.exit(1);
  }
}
