/**
 * Starts a process with exactly the given descriptors, by posix_spawn(3) through FFI.
 * `Deno.Command` passes on 0 to 2 only, and `node:child_process` changes the flags of
 * the descriptors that it passes on.
 *
 * @module
 */

const FACTIONS = 128; // bytes: more than the size of posix_spawn_file_actions_t (80 in glibc)

const libc = Deno.dlopen("libc.so.6", {
  fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
  posix_spawnp: {
    parameters: ["buffer", "buffer", "buffer", "pointer", "buffer", "buffer"],
    result: "i32",
  },
  posix_spawn_file_actions_init: { parameters: ["buffer"], result: "i32" },
  posix_spawn_file_actions_destroy: { parameters: ["buffer"], result: "i32" },
  posix_spawn_file_actions_adddup2: { parameters: ["buffer", "i32", "i32"], result: "i32" },
  posix_spawn_file_actions_addclose: { parameters: ["buffer", "i32"], result: "i32" },
  posix_spawn_file_actions_addchdir_np: { parameters: ["buffer", "buffer"], result: "i32" },
  waitpid: { parameters: ["i32", "buffer", "i32"], result: "i32", nonblocking: true },
}).symbols;

const F_SETFD = 2, F_DUPFD_CLOEXEC = 1030, FD_CLOEXEC = 1;

// The process under test must not inherit what the tests themselves inherited.
for (const { name } of Deno.readDirSync("/proc/self/fd")) {
  if (Number(name) > 2) libc.fcntl(Number(name), F_SETFD, FD_CLOEXEC);
}

const encoder = new TextEncoder();

/** `char *words[]` of C: the pointers, and the bytes that they point to. */
class Words {
  readonly pointers: BigUint64Array<ArrayBuffer>;
  readonly #bytes: Uint8Array<ArrayBuffer>[];

  constructor(words: readonly string[]) {
    this.#bytes = words.map((word) => encoder.encode(word + "\0"));
    this.pointers = new BigUint64Array(words.length + 1);
    this.#bytes.forEach((bytes, i) =>
      this.pointers[i] = Deno.UnsafePointer.value(Deno.UnsafePointer.of(bytes))
    );
  }
}

/** How to start a process. */
interface SpawnOptions {
  /** The descriptors that it gets, by their numbers in the process; it gets no others. */
  given: Record<number, number>;
  env: Record<string, string>;
  cwd: string;
}

/** Starts `program` with `args`; returns its process id. Throws if it cannot be started. */
export function spawn(program: string, args: readonly string[], options: SpawnOptions): number {
  const actions = new Uint8Array(FACTIONS);
  libc.posix_spawn_file_actions_init(actions);
  libc.posix_spawn_file_actions_addchdir_np(actions, encoder.encode(options.cwd + "\0"));
  // First duplicate all of them above the wanted numbers, so that none overwrites another.
  const above = 1 + Math.max(2, ...Object.keys(options.given).map(Number));
  const aside = Object.entries(options.given).map(([to, from]): [number, number] => {
    const copy = libc.fcntl(from, F_DUPFD_CLOEXEC, above);
    if (copy < 0) throw new Error(`descriptor ${from} cannot be given as ${to}`);
    return [copy, Number(to)];
  });
  for (const [from, to] of aside) libc.posix_spawn_file_actions_adddup2(actions, from, to);
  for (const fd of [0, 1, 2]) {
    if (!(fd in options.given)) libc.posix_spawn_file_actions_addclose(actions, fd);
  }
  const argv = new Words([program, ...args]);
  const envp = new Words(Object.entries(options.env).map(([name, value]) => `${name}=${value}`));
  const pid = new Int32Array(1);
  const path = encoder.encode(program + "\0");
  const error = libc.posix_spawnp(pid, path, actions, null, argv.pointers, envp.pointers);
  libc.posix_spawn_file_actions_destroy(actions);
  for (const [from] of aside) libc.close(from);
  if (error !== 0) throw new Error(`${program} cannot be started: error ${error}`);
  return pid[0] ?? -1;
}

/** Waits for a process to end; returns its exit status, or the number of the signal that ended it. */
export async function wait(pid: number): Promise<{ code: number | null; signal: number | null }> {
  const status = new Int32Array(1);
  while (await libc.waitpid(pid, status, 0) !== pid);
  const [word = 0] = status;
  const signal = word & 0x7f; // waitpid(2): WTERMSIG, WEXITSTATUS
  return signal ? { code: null, signal } : { code: word >> 8 & 0xff, signal: null };
}
