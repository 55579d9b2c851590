/**
 * Compares the simulated kernel with the real one: both get the same random calls,
 * through the same functions, and have to return the same results; and after each call,
 * poll(2) has to report the same for every descriptor.
 *
 * Sizes that the real kernel chooses (how many bytes fill a socket's buffer) are not
 * compared; only that the buffer is full, and that the bytes come out.
 *
 * @module
 */
import fc from "fast-check";
import * as real from "../../sys/libc.ts";
import {
  EPERM,
  ERR,
  F_GETPIPE_SZ,
  F_SETPIPE_SZ,
  HUP,
  IN,
  MSG_PEEK,
  MSG_TRUNC,
  O_APPEND,
  O_NONBLOCK,
  OUT,
  RDHUP,
  SO_ERROR,
} from "../../sys/constants.ts";
import {
  type End,
  O_CREAT,
  O_RDWR,
  open,
  pipe,
  SOCK_DGRAM,
  SOCK_SEQPACKET,
  tcpPair,
  unixPair,
} from "../ends.ts";
import { Description, MessageSocket, PAGE, Pipe, RegularFile, StreamSocket } from "./kernel.ts";
import * as simulated from "./libc.ts";
import { NOTHING_REFUSED, World } from "./world.ts";

/** The descriptors of a sequence of calls. */
type Stage = "pipes" | "unix" | "tcp" | "seqpacket" | "dgram" | "files";

const STAGES: readonly Stage[] = ["pipes", "unix", "tcp", "seqpacket", "dgram", "files"];

/** One call, as numbers of which all values are valid. */
export type Call = [operation: number, one: number, other: number, size: number];

const SIZES = [1, 2, 3, 5, 40, 100, 4095, 4096, 4097, 5000];

const SEQUENCE: fc.Arbitrary<Call[]> = fc.array(
  fc.tuple(fc.nat(99), fc.nat(7), fc.nat(7), fc.nat(SIZES.length - 1)),
  { minLength: 1, maxLength: 40, size: "max" },
);

/** One descriptor, on both kernels. */
interface Both {
  name: string;
  end: End;
  /** Its number in the simulated one. */
  fd: number;
  description: Description;
  kind: "reading" | "writing" | "socket" | "messages" | "file";
}

const O_RDONLY = 0, O_WRONLY = 1;

/** Makes the descriptors of a stage in both kernels. */
function build(stage: Stage, world: World, folder: string): Both[] {
  const all: Both[] = [];
  let next = 20;
  const put = (name: string, end: End, description: Description, kind: Both["kind"]) => {
    const fd = next++;
    world.give(fd, description);
    all.push({ name, end, fd, description, kind });
  };
  const putPipe = (name: string) => {
    const [reading, writing] = pipe();
    const file = new Pipe(name);
    // Fewer slots than usual if the user has many pipes (pipe(7)).
    file.most = real.fcntl(writing.fd, F_GETPIPE_SZ) / PAGE;
    put(`${name} r`, reading, new Description(file, O_RDONLY), "reading");
    put(`${name} w`, writing, new Description(file, O_WRONLY), "writing");
  };
  putPipe("p");
  switch (stage) {
    case "pipes":
      putPipe("q");
      break;
    case "unix":
    case "tcp": {
      const ends = stage === "unix" ? unixPair() : tcpPair();
      const files = StreamSocket.pair("s", stage, [100_000, 100_000]);
      for (const i of [0, 1] as const) {
        ends[i].nonBlocking = true;
        if (stage === "tcp") real.setNoDelay(ends[i].fd); // so that small pieces are sent at once
        put(`s${i}`, ends[i], new Description(files[i], O_RDWR, O_NONBLOCK), "socket");
      }
      break;
    }
    case "seqpacket":
    case "dgram": {
      const type = stage === "dgram" ? SOCK_DGRAM : SOCK_SEQPACKET;
      const ends = unixPair(type);
      const files = MessageSocket.pair("m", type, 1000);
      for (const i of [0, 1] as const) {
        ends[i].nonBlocking = true;
        put(`m${i}`, ends[i], new Description(files[i], O_RDWR, O_NONBLOCK), "messages");
      }
      break;
    }
    case "files": {
      for (const [i, flags] of [0, O_APPEND].entries()) {
        const end = open(`${folder}/${crypto.randomUUID()}`, O_RDWR | O_CREAT | flags);
        put(`f${i}`, end, new Description(new RegularFile(`f${i}`), O_RDWR, flags), "file");
      }
      break;
    }
  }
  return all;
}

type Seam = typeof real;

/** The result of a call in one of the kernels. */
type Made = (libc: Seam, fd: (both: Both) => number) => number | string;

const room = new Uint8Array(8192);

/** A summary of the bytes that were read. */
function told(length: number): string {
  if (length <= 0) return String(length);
  return `${length}: ${room.subarray(0, Math.min(length, 4)).join(" ")}`;
}

/** Calls that the engine does not make, so that sys/libc.ts does not have them. */
function toOther(
  [operation]: Call,
  one: Both | undefined,
  urgent: Set<Both>,
): (() => void) | undefined {
  if (!one || !(one.description.file instanceof StreamSocket)) return undefined;
  const { file } = one.description;
  if (file.family !== "tcp") return undefined;
  if (operation === 98 && !urgent.has(one)) {
    return () => {
      urgent.add(one); // a second one would replace the first
      const result = file.sendUrgent(new Uint8Array(1));
      try {
        one.end.sendUrgent("u");
      } catch {
        if (result >= 0) throw new Error("urgent data was refused");
      }
    };
  }
  if (operation === 99) {
    return () => {
      file.resets = true;
      one.end.resetOnClose();
    };
  }
  return undefined;
}

/** The call that the numbers stand for; undefined if it is not possible here. */
function toCall(
  [operation, i, j, k]: Call,
  stage: Stage,
  all: Both[],
  payload: Uint8Array<ArrayBuffer>,
): { name: string; make: Made; closes?: Both; isResize?: boolean } | undefined {
  const one = all[i % all.length], other = all[j % all.length];
  // A socket keeps a large message in pieces, each of which takes a slot of a pipe.
  const size = SIZES[stage === "pipes" || stage === "files" ? k : k % 6] ?? 1;
  if (!one || !other) return undefined;
  const bytes = payload.subarray(0, size);
  const isPipe = (both: Both) => both.kind === "reading" || both.kind === "writing";
  const isSocket = one.kind === "socket" || one.kind === "messages";
  const call = (name: string, make: Made, closes?: Both) => ({
    name: `${name} ${one.name} ${size}`,
    make,
    ...closes && { closes },
  });
  if (operation < 25) {
    if (one.kind === "writing") return call("write", (libc, fd) => libc.writeNow(fd(one), bytes));
    if (one.kind === "file") return call("write", (libc, fd) => libc.write(fd(one), bytes));
    if (isSocket) return call("send", (libc, fd) => libc.send(fd(one), bytes));
    return undefined;
  }
  if (operation < 45) {
    const into = room.subarray(0, size);
    if (one.kind === "reading") {
      return call("read", (libc, fd) => told(libc.readNow(fd(one), into)));
    }
    if (one.kind === "file") return call("read", (libc, fd) => told(libc.read(fd(one), into)));
    if (one.kind === "socket") return call("recv", (libc, fd) => told(libc.recv(fd(one), into)));
    if (one.kind === "messages") {
      return call("recv", (libc, fd) => libc.recv(fd(one), into, MSG_TRUNC));
    }
    return undefined;
  }
  if (operation < 70) {
    // The engine never splices messages.
    if (one.kind === "messages" || other.kind === "messages") return undefined;
    const splice = `splice to ${other.name}`;
    return call(splice, (libc, fd) => libc.splice(fd(one), fd(other), size));
  }
  if (operation < 75) {
    return call("SO_ERROR", (libc, fd) => libc.getsockopt(fd(one), SO_ERROR));
  }
  if (operation < 78) return call("getpeername", (libc, fd) => libc.getpeername(fd(one)));
  if (operation < 81 && isSocket && stage !== "tcp") {
    return call("FIONREAD", (libc, fd) => libc.bytesQueued(fd(one)));
  }
  if (operation < 84 && isSocket && stage !== "tcp") {
    return call("peek", (libc, fd) => libc.recv(fd(one), room.subarray(0, 1), MSG_PEEK));
  }
  if (operation < 89 && isPipe(one) && stage === "pipes") {
    const wanted = 4096 << (k % 5);
    const resize: Made = (libc, fd) => libc.fcntl(fd(one), F_SETPIPE_SZ, wanted);
    return { ...call(`resize to ${wanted}`, resize), isResize: true };
  }
  if (operation < 91 && one.kind === "file") {
    return call("lseek", (libc, fd) => libc.lseek(fd(one), size, 0));
  }
  if (operation < 95) {
    return call(`shutdown ${j % 2}`, (libc, fd) => libc.shutdown(fd(one), j % 2));
  }
  if (operation < 98) return call("close", (libc, fd) => libc.close(fd(one)), one);
  return undefined;
}

/** How long bytes sent through TCP can take in the real kernel of a busy machine, in milliseconds. */
const ARRIVES = 2000;

/**
 * So many pieces fit into any pipe. The number of slots that pieces of TCP take is not
 * compared, since the real kernel joins some of them.
 */
const MOST_WRITES = 10;

/** The sums of all sequences; and how many were left out, since the user's pipes were too small. */
export const made = { sequences: 0, calls: 0, leftOut: 0 };

/** These sums, in words. */
export function summary(): string {
  const { sequences, calls, leftOut } = made;
  const without = leftOut > 0 ? ` (${leftOut} left out: this user has too many pipes)` : "";
  return `${sequences} sequences, ${calls} calls, all alike${without}`;
}

/** Makes the calls in both kernels. Throws an error that lists them if the results differ. */
export async function compare(stage: Stage, calls: readonly Call[], folder: string): Promise<void> {
  const world = new World([], NOTHING_REFUSED, { hostile: false });
  simulated.enterWorld(world);
  const all = build(stage, world, folder);
  const opened = [...all];
  const isShort = all.some(({ description: { file } }) => file instanceof Pipe && file.most < 16);
  // Where slots are not compared, there have to be enough: see MOST_WRITES.
  const isLeftOut = stage === "tcp" && isShort;
  const log: string[] = [];
  const urgent = new Set<Both>();
  let writes = 0;
  const differ = (what: string): never => {
    throw new Error(`${stage}: ${log.join("; ")}: ${what}`);
  };
  try {
    for (const [at, numbers] of isLeftOut ? [] : calls.entries()) {
      const payload = new Uint8Array(5000).fill(at + 1);
      if (numbers[0] < 25 && ++writes > MOST_WRITES) continue;
      const other = toOther(numbers, all[numbers[1] % all.length], urgent);
      if (other) {
        log.push(
          `${numbers[0] === 98 ? "urgent" : "reset on close"} ${
            all[numbers[1] % all.length]?.name
          }`,
        );
        other();
        await samePolls(all, stage, differ);
      }
      const call = toCall(numbers, stage, all, payload);
      if (!call) continue;
      world.happened();
      // End closes the descriptor again later, so its number must not be used by then.
      const isClose = call.closes !== undefined;
      const there = isClose ? (call.closes?.end.close(), 0) : call.make(real, ({ end }) => end.fd);
      // Other programs of the same user have so many pipes that none may grow.
      if (call.isResize && there === -EPERM) continue;
      const here = call.make(simulated.seam, ({ fd }) => fd);
      log.push(`${call.name} -> ${here}`);
      if (here !== there) differ(`the real one returns ${there}`);
      if (call.closes) all.splice(all.indexOf(call.closes), 1);
      made.calls++;
      await samePolls(all, stage, differ);
      if (all.length === 0) break;
    }
    if (isLeftOut) made.leftOut++;
    else made.sequences++;
  } finally {
    for (const { end } of opened) end.close();
  }
}

/** As soon as everything has arrived, poll(2) reports the same for all descriptors. */
async function samePolls(all: Both[], stage: Stage, differ: (what: string) => never) {
  const began = performance.now();
  for (;;) {
    const wrong = all.find(({ end, description }) => {
      const events = IN | OUT | RDHUP;
      const { file } = description;
      if (file instanceof StreamSocket) {
        const isWithout = (mark: StreamSocket) => mark.queue.every(({ length }) => length > 0);
        // With an urgent byte, FIONREAD counts only a part of the bytes, and their sender has to say
        // whether they have arrived.
        if (isWithout(file)) {
          const queued = file.queue.reduce((sum, { length }) => sum + length, 0);
          if (real.bytesQueued(end.fd) !== queued) return true;
        }
        const isUp = (description.poll() & (ERR | HUP)) === 0;
        if (file.peer && !isWithout(file.peer) && isUp && end.onTheirWay > 0) return true;
      }
      return real.poll(end.fd, events) !== (description.poll() & (events | 8 | 16));
    });
    if (!wrong) return;
    if (stage !== "tcp" || performance.now() - began > ARRIVES) {
      differ(
        `poll or FIONREAD says ${wrong.description.poll()} of ${wrong.name}, and the real one ` +
          `${real.poll(wrong.end.fd, IN | OUT | RDHUP)}`,
      );
    }
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** Compares the sequences of one seed. Throws the first that differs, as short as possible. */
export async function compareMany(seed: number, numRuns: number): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    for (const stage of STAGES) {
      await fc.assert(
        fc.asyncProperty(SEQUENCE, (calls) => compare(stage, calls, folder)),
        { seed, numRuns },
      );
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/**
 * Whether the kernel is new enough: before 6.4 pipes did not support RWF_NOWAIT, and
 * before 6.5 splice(2) to a socket took one page at a time.
 */
export function isComparable(): boolean {
  const [major = 0, minor = 0] = Deno.osRelease().split(".").map(Number);
  return major > 6 || major === 6 && minor >= 5;
}

if (import.meta.main) {
  const [seed = "1", runs = "500"] = Deno.args;
  await compareMany(Number(seed), Number(runs));
  console.log(summary());
  Deno.exit(0);
}
