/**
 * Starts the command with a time limit, and looks at processes and descriptors
 * from outside.
 *
 * @module
 */
import { type End, O_NONBLOCK, pipe } from "./ends.ts";
import {
  COMMAND,
  handOver,
  ROOT,
  type Running,
  skippedIf,
  start,
  type StartOptions,
} from "./harness.ts";

const libc = Deno.dlopen("libc.so.6", {
  fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
  poll: { parameters: ["buffer", "u64", "i32"], result: "i32", nonblocking: true },
  read: { parameters: ["i32", "buffer", "usize"], result: "i32" },
  splice: {
    parameters: ["i32", "pointer", "i32", "pointer", "usize", "u32"],
    result: "i32",
  },
  write: { parameters: ["i32", "buffer", "usize"], result: "i32" },
}).symbols;

/**
 * A process or a wait that takes longer than this is taken to hang, in milliseconds.
 * An emulated program takes longer: tests/arm64.ts.
 */
export const DEADLINE = Number(Deno.env.get("IOCOPY_DEADLINE") ?? 30) * 1000;

/** The result of `promise`; or an error that names what did not happen in time. */
export async function within<T>(
  what: string | (() => string),
  promise: Promise<T>,
  limit = DEADLINE,
): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    const expired = () => {
      reject(new Error(`not within ${limit} ms: ${typeof what === "string" ? what : what()}`));
    };
    timer = setTimeout(expired, limit);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Repeats an attempt that fails and took at least so many milliseconds: then the machine may have
 * been too slow for what was to happen in time.
 */
export async function unlessLate<T>(limit: number, attempt: () => Promise<T>): Promise<T> {
  const first = performance.now();
  for (;;) {
    const start = performance.now();
    try {
      return await attempt();
    } catch (error) {
      const now = performance.now();
      if (now - start < limit || now - first > DEADLINE) throw error;
    }
  }
}

/** Kills the process if it hangs, so that everything that waits for it fails. */
function bounded(running: Running, limit: number): Running {
  const timer = setTimeout(() => running.kill("SIGKILL"), limit);
  running.outcome.finally(() => clearTimeout(timer));
  return running;
}

/** The command's words; a string is split at its blanks. */
type Words = string | readonly string[];

function split(args: Words): readonly string[] {
  return typeof args === "string" ? args.split(" ") : args;
}

/** As the harness's `start`, with a time limit: the test keeps its copies of what it gives. */
export function watched(
  args: Words,
  given: Record<number, End>,
  options: StartOptions & { limit?: number } = {},
): Running {
  return bounded(start(split(args), given, options), options.limit ?? DEADLINE);
}

/** As the harness's `handOver`, with a time limit. */
export function iocopy(
  args: Words,
  given: Record<number, End>,
  options: StartOptions & { limit?: number } = {},
): Running {
  return bounded(handOver(split(args), given, options), options.limit ?? DEADLINE);
}

/** Runs the command as anyone would: through subprocess pipes. */
export async function run(args: readonly string[], input: string | Uint8Array<ArrayBuffer> = "") {
  const [program = "", ...words] = COMMAND;
  const child = new Deno.Command(program, {
    args: [...words, ...args],
    cwd: ROOT,
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
    signal: AbortSignal.timeout(DEADLINE),
  }).spawn();
  const fed = new Blob([input]).stream().pipeTo(child.stdin).catch(() => {}); // may not be read
  const { code, stdout, stderr } = await child.output();
  await fed;
  return {
    code,
    stdout: new TextDecoder().decode(stdout),
    stderr: new TextDecoder().decode(stderr),
  };
}

/** Runs any program to its end; returns its exit status and what it printed. */
export async function outputOf(
  words: readonly string[],
  options: Deno.CommandOptions = {},
): Promise<{ code: number; stdout: string; stderr: string }> {
  const [program = "", ...args] = words;
  const { code, stdout, stderr } = await new Deno.Command(program, { args, ...options }).output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

/** Makes `folder` a root for chroot(2) that has the executable, its libraries, and a link to it. */
export async function makeRoot(folder: string, executable: string): Promise<void> {
  const { stdout } = await outputOf(["ldd", executable]);
  const libraries = stdout.match(/\/\S+/g) ?? [];
  if (!libraries.some((path) => path.includes("libc.so.6"))) throw new Error(stdout);
  for (const path of libraries) {
    await Deno.mkdir(folder + path.slice(0, path.lastIndexOf("/")), { recursive: true });
    await Deno.copyFile(path, folder + path);
  }
  await Deno.copyFile(executable, `${folder}/iocopy`);
  // The runtime finds itself by this name; /proc is not mounted.
  await Deno.mkdir(`${folder}/proc/self`, { recursive: true });
  await Deno.symlink("/iocopy", `${folder}/proc/self/exe`);
}

/**
 * Numbers the ends of some channels, from 3 on: returns the command's arguments, the
 * descriptors by number, and a function for the number of an end. An end that is in
 * several channels has one number.
 */
export function numbered(...channels: (readonly [source: End, sink: End])[]): {
  args: string;
  given: Record<number, End>;
  fd(end: End): number;
} {
  const ends = [...new Set(channels.flat())];
  const fd = (end: End) => ends.indexOf(end) + 3;
  return {
    args: channels.flat().map(fd).join(" "),
    given: Object.fromEntries(ends.map((end) => [fd(end), end])),
    fd,
  };
}

/** The command under `strace`, which injects faults into its system calls. The process id is the command's. */
export function injecting(...injections: string[]): readonly string[] {
  const names = [...new Set(injections.map((injection) => injection.split(":")[0]))].join();
  const faults = injections.flatMap((injection) => ["-e", `inject=${injection}`]);
  return [...strace("-e", `trace=${names}`, ...faults), ...COMMAND];
}

/** strace(1), which prints nothing; the process id is that of the command, which follows. */
export function strace(...words: string[]): string[] {
  return ["strace", "-D", "--quiet=all", "-f", "-o", "/dev/null", ...words];
}

/** Resolves when all copies of the other side of `end` are closed. */
export async function hungUp(end: End): Promise<void> {
  await ready(end, 0);
}

/** Resolves when there is something to read, or the other side is closed. */
export async function readable(end: End): Promise<void> {
  await ready(end, 1);
}

async function ready(end: End, events: number): Promise<void> {
  if (await libc.poll(new Int32Array([end.fd, events]), 1n, DEADLINE) !== 1) {
    throw new Error(`nothing happened on descriptor ${end.fd}`);
  }
}

/** Calls `action` while `end` is non-blocking, and restores its flags. */
function notWaiting(end: End, action: () => void): void {
  const { flags } = end;
  end.nonBlocking = true;
  action();
  end.nonBlocking = (flags & O_NONBLOCK) !== 0;
}

const SPLICE_F_NONBLOCK = 2;

/** Writes zeros until no more fit; returns how many did. */
export function fillUp(end: End): number {
  const write = (fd: number, bytes: number) => libc.write(fd, new Uint8Array(bytes), BigInt(bytes));
  let total = 0;
  notWaiting(end, () => {
    for (const size of [4096, 1]) {
      for (let n; (n = write(end.fd, size)) > 0;) total += n;
    }
    // Before Linux 6.5, what is spliced still finds room in a unix socket that is full.
    const [reading, writing] = pipe();
    const splice = () => libc.splice(reading.fd, null, end.fd, null, 4096n, SPLICE_F_NONBLOCK);
    for (let n; write(writing.fd, 4096) > 0 && (n = splice()) > 0;) total += n;
    reading.close();
    writing.close();
  });
  return total;
}

/** Whether there is something to read now. */
export async function hasBytes(end: End): Promise<boolean> {
  const request = new Int32Array([end.fd, 1]);
  return await libc.poll(request, 1n, 0) === 1 && ((request[1] ?? 0) >> 16 & 1) === 1;
}

/** `length` bytes that differ from place to place; the same for the same seed. */
export function noise(length: number, seed = 1): Uint8Array<ArrayBuffer> {
  const words = new Uint32Array(Math.ceil(length / 4));
  let state = seed * 2654435761 >>> 0 || 1;
  for (let i = 0; i < words.length; i++) { // xorshift
    state ^= state << 13;
    state ^= state >>> 17;
    state = (state ^ state << 5) >>> 0;
    words[i] = state;
  }
  return new Uint8Array(words.buffer, 0, length);
}

/** Lines of text, `length` characters of them, no two alike. */
export function prose(length: number): string {
  let lines = "";
  for (let i = 0; lines.length < length; i++) lines += `line ${i} of what is to be copied\n`;
  return lines.slice(0, length - 1) + "\n";
}

/** Whether two arrays are equal; faster than assertEquals, which would print them too. */
export function same(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

/** Seconds of processor time that all threads of a process have used. */
export function cpuSeconds(pid: number): number {
  const [user, system] = stat(pid).slice(11, 13).map(Number);
  return ((user ?? 0) + (system ?? 0)) / 100; // USER_HZ is 100 on all that Deno runs on
}

/** The state of a process: "R", "S", "T" if it is stopped, ... (proc(5)). */
export function stateOf(pid: number): string {
  return stat(pid)[0] ?? "";
}

function stat(pid: number | string): string[] {
  const text = Deno.readTextFileSync(`/proc/${pid}/stat`);
  return text.slice(text.lastIndexOf(")") + 2).split(" ");
}

/** Whether a thread of a process runs, or waits for a processor or a disk; not for an event. */
export function isBusy(pid: number): boolean {
  return [...Deno.readDirSync(`/proc/${pid}/task`)].some(({ name }) => {
    try {
      return "RDt".includes(stat(`${pid}/task/${name}`)[0] ?? ""); // "t": strace has stopped it
    } catch {
      return false; // it has ended meanwhile
    }
  });
}

/** The resident memory of a process, in bytes. */
export function residentBytes(pid: number): number {
  const [, kilobytes] = /VmRSS:\s+(\d+)/.exec(Deno.readTextFileSync(`/proc/${pid}/status`)) ?? [];
  return Number(kilobytes) * 1024;
}

/** The descriptors of a process, by their numbers. */
export function descriptors(pid: number): Map<number, string> {
  const found = new Map<number, string>();
  for (const { name } of Deno.readDirSync(`/proc/${pid}/fd`)) {
    try {
      found.set(Number(name), Deno.readLinkSync(`/proc/${pid}/fd/${name}`));
    } catch { /* closed meanwhile */ }
  }
  return found;
}

/** States of a TCP socket, as /proc/net/tcp has them. */
export const CONNECTED = "01", CONNECTING = "02", HALF_CLOSED = "08", LISTENING = "0A";

/** Whether a process has a TCP socket in one of these states. */
export function hasTcp(pid: number, ...states: string[]): boolean {
  const inodes = ["tcp", "tcp6"].flatMap((table) =>
    Deno.readTextFileSync(`/proc/${pid}/net/${table}`).split("\n").map((line) =>
      line.trim().split(/\s+/)
    ).filter((fields) => states.includes(fields[3] ?? "")).map((fields) => `socket:[${fields[9]}]`)
  );
  return [...descriptors(pid).values()].some((name) => inodes.includes(name));
}

/** Whether a process ignores a signal (`SigIgn` in its status). */
export function ignores(pid: number, signal: number): boolean {
  const [, mask] = /SigIgn:\s+(\S+)/.exec(Deno.readTextFileSync(`/proc/${pid}/status`)) ?? [];
  return (BigInt(`0x${mask}`) >> BigInt(signal - 1) & 1n) === 1n;
}

/** The child of a wrapper such as strace, once it has started. */
export async function childOf(pid: number): Promise<number> {
  for (;;) {
    const text = Deno.readTextFileSync(`/proc/${pid}/task/${pid}/children`).trim();
    if (text) return Number(text.split(" ")[0]);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** Runs a task for each item, some at a time, since each takes a process. */
export async function inParallel<T>(
  items: readonly T[],
  task: (item: T, index: number) => Promise<void>,
  workers = 3,
): Promise<void> {
  const rest = items.entries();
  const worker = async () => {
    for (const [index, item] of rest) await task(item, index);
  };
  await Promise.all(Array.from({ length: workers }, worker));
}

/** Runs `action` with a folder that is removed afterwards. */
export async function inFolder<T>(action: (folder: string) => Promise<T>): Promise<T> {
  const folder = await Deno.makeTempDir({ prefix: "iocopy-test-" });
  try {
    return await action(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** A command that may have only so many descriptors. */
export function limited(descriptors: number, command: readonly string[] = COMMAND): string[] {
  return ["sh", "-c", `ulimit -n ${descriptors} && exec "$@"`, "sh", ...command];
}

/** Whether a command can be run here, and exits with 0. */
export function succeeds([program = "", ...args]: readonly string[]): boolean {
  try {
    return new Deno.Command(program, { args, stderr: "null" }).outputSync().success;
  } catch {
    return false; // it is missing
  }
}

/** A command, for which a file is /etc/hosts. */
export function knowing(hosts: string, command: readonly string[] = COMMAND): string[] {
  const script = 'mount --bind "$0" /etc/hosts && exec "$@"';
  return ["unshare", "--map-root-user", "--mount", "sh", "-c", script, hosts, ...command];
}

/** A test of the name "twins", which has two addresses in the file that it is given for /etc/hosts. */
export function ofTwins(name: string, test: (hosts: string) => Promise<void>): void {
  const why = "no user namespace, to have another /etc/hosts";
  const canMount = succeeds(knowing("/etc/hosts", ["true"]));
  Deno.test(skippedIf(!canMount, why, name), () =>
    inFolder(async (folder) => {
      const hosts = `${folder}/hosts`;
      await Deno.writeTextFile(hosts, "127.0.0.1 twins\n127.0.0.2 twins\n");
      await test(hosts);
    }));
}
