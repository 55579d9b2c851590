/**
 * The plan of a run, as fast-check chooses it: wires, the channels between them, what the
 * peers do, what the system refuses, and the list of numbers from which all other
 * decisions are drawn.
 *
 * All values of the numbers are valid (each is taken modulo what there is), so that a plan
 * can be made smaller in any way.
 *
 * @module
 */
import fc from "fast-check";
import type { CallName, Refusals, RefusedCall } from "./world.ts";

export type Kind =
  | "pipe"
  | "unix"
  | "tcp"
  | "file"
  | "proc"
  | "append"
  | "terminal"
  | "device"
  | "seqpacket"
  | "dgram";

/** One end of a channel, and the peer behind it. */
export interface WirePlan {
  kind: Kind;
  /** Its capacity: bytes for sockets and devices, pages for pipes. */
  room: number;
  /** The capacity of a socket in the other direction. */
  roomBack: number;
  /** The pieces that the peer sends, in bytes. */
  pieces: number[];
  /** How long it waits before each piece, in milliseconds. */
  pauses: number[];
  end: "close" | "shutdown" | "reset";
  /** How much the peer reads at a time. */
  reads: number[];
  /** After how many bytes it dies; -1: never. */
  diesAfter: number;
  /** Before which piece it sends an urgent byte (TCP); -1: none. */
  urgentAt: number;
  /** The number of messages in the error queue of a TCP socket; -1: one that cannot be received. */
  notes: number;
  /** Whether the parent process keeps its own number for it until the engine has ended. */
  isShared: boolean;
  /** Whether a socket that is read and written has a number for each direction. */
  hasTwoNumbers: boolean;
  /** Whether bytes sent through TCP need time to arrive. */
  isFar: boolean;
}

export interface Plan {
  wires: WirePlan[];
  channels: [number, number][];
  buffer: number;
  rate: number;
  dumps: boolean;
  /** When it is stopped, in milliseconds (-1: never), and its grace period. */
  stopAt: number;
  grace: number;
  yieldAfter: number;
  refusals: Refusals;
  /** Whether all wires carry much and are wide, so that channels are busy and pipes grow. */
  isBusy: boolean;
  /** At which of the program's callbacks one throws; -1: at none. */
  throwsAt: number;
  /** After how many operations the last channel is added, if it has its wires for itself; -1: it is there at first. */
  addsAfter: number;
  /** Whether the program awaits something before some waits. */
  awaits: boolean;
  /** Whether the first two numbers are 0 and 1, of which the runtime has duplicates. */
  isStandard: boolean;
  /** Whether numbers are reused, as in a kernel; otherwise a closed number is never used again. */
  reusesNumbers: boolean;
  isHostile: boolean;
  choices: number[];
}

/** What becomes of one accept. */
export type Accept = "well" | "aborted" | "short" | "forbidden" | "broken";

/** A service, and who comes to it. */
export interface ServePlan {
  family: "tcp" | "unix";
  /** Where it goes: two addresses of one name; or another listening socket. */
  target: "tcp" | "unix" | "name" | "nobody" | "function" | "mate";
  /** The version of the PROXY protocol; 0: none. */
  proxyProtocol: 0 | 1 | 2;
  clients: (WirePlan & { arrivesAt: number })[];
  /** Who is behind the target; for "mate" those who come to the other listening socket. */
  servers: (WirePlan & { arrivesAt: number })[];
  /** What becomes of each connect, and of each accept, in turn. */
  connects: ("at once" | "later" | "refused" | "never" | "full" | "short")[];
  accepts: Accept[];
  connections: number;
  connectTimeout: number;
  timeout: number;
  halfClosed: number;
  exitIdle: number;
  /** When it accepts no more, in milliseconds. */
  drainAt: number;
  /** What it shares with any copying: its wires and channels are not looked at. */
  copying: Plan;
}

const length = fc.oneof(
  { weight: 6, arbitrary: fc.integer({ min: 1, max: 60 }) },
  { weight: 1, arbitrary: fc.constantFrom(4095, 4096, 4097, 8192) },
  { weight: 1, arbitrary: fc.integer({ min: 1, max: 9000 }) },
);
const large = fc.oneof(length, fc.constantFrom(65535, 65536, 66000, 131072));

const KINDS: fc.Arbitrary<Kind> = fc.oneof(
  { weight: 5, arbitrary: fc.constant<Kind>("pipe") },
  { weight: 3, arbitrary: fc.constant<Kind>("unix") },
  { weight: 4, arbitrary: fc.constant<Kind>("tcp") },
  {
    weight: 3,
    arbitrary: fc.constantFrom<Kind>(
      "file",
      "proc",
      "append",
      "terminal",
      "device",
      "seqpacket",
      "dgram",
    ),
  },
);

const rarely = <T>(usual: T, ...others: T[]) =>
  fc.oneof(
    { weight: 6, arbitrary: fc.constant(usual) },
    { weight: 1, arbitrary: fc.constantFrom(...others) },
  );

const seldom = <T>(usual: T, others: fc.Arbitrary<T>) =>
  fc.oneof(
    { weight: 40, arbitrary: fc.constant(usual) },
    { weight: 1, arbitrary: others },
  );

const WIRE: fc.Arbitrary<WirePlan> = fc.record({
  kind: KINDS,
  room: fc.oneof(fc.integer({ min: 1, max: 200 }), fc.constantFrom(4096, 65536, 200000)),
  roomBack: fc.oneof(fc.integer({ min: 1, max: 200 }), fc.constantFrom(4096, 65536)),
  pieces: fc.oneof(
    { weight: 80, arbitrary: fc.array(length, { maxLength: 5 }) },
    { weight: 8, arbitrary: fc.array(large, { maxLength: 4 }) },
    // Empty messages; to a stream they are nothing.
    { weight: 8, arbitrary: fc.array(fc.constantFrom(0, 1, 40), { maxLength: 5 }) },
  ),
  pauses: fc.oneof(
    { weight: 3, arbitrary: fc.constant<number[]>([0]) },
    {
      weight: 1,
      arbitrary: fc.array(fc.constantFrom(0, 0.01, 3, 20, 200, 1500, 4000), {
        minLength: 1,
        maxLength: 3,
      }),
    },
  ),
  end: fc.constantFrom("close", "close", "shutdown", "shutdown", "shutdown", "reset"),
  reads: fc.oneof(
    { weight: 4, arbitrary: fc.constant<number[]>([200000]) },
    { weight: 1, arbitrary: fc.array(large, { minLength: 1, maxLength: 3 }) },
  ),
  diesAfter: fc.oneof(
    { weight: 5, arbitrary: fc.constant(-1) },
    { weight: 1, arbitrary: fc.nat(80) },
  ),
  urgentAt: rarely(-1, 0, 1, 2),
  notes: fc.oneof(
    { weight: 30, arbitrary: fc.constant(0) },
    { weight: 1, arbitrary: fc.constantFrom(-1, 1, 300) },
  ),
  isShared: fc.boolean(),
  hasTwoNumbers: fc.boolean(),
  isFar: fc.boolean(),
});

/** The errors that a call can fail with, according to its manual page or because of a filter. */
const REFUSED = [1, 13, 38, 22, 12, 9, 29, 95];

/** The errors of a filter: EPERM, EACCES, ENOSYS. */
const OF_FILTERS = [1, 13, 38];

/** The errors of each call, according to its manual page or because of a filter. */
const ERRORS: Record<CallName, number[]> = {
  splice: [...OF_FILTERS, 9, 12, 22, 29],
  read: [5, 21],
  write: [5, 27, 28, 122],
  preadv2: [...OF_FILTERS, 22, 95],
  pwritev2: [...OF_FILTERS, 22, 95],
  recv: [...OF_FILTERS, 12, 104, 110, 113],
  send: [...OF_FILTERS, 12, 32, 104, 105, 110, 113],
  shutdown: [...OF_FILTERS, 22, 107],
  close: [5, 28, 122],
  poll: [...OF_FILTERS, 12, 22],
  epoll_create1: [...OF_FILTERS, 12, 23, 24],
  epoll_ctl: [...OF_FILTERS, 12, 22, 28, 40],
  epoll_wait: [...OF_FILTERS, 9, 22],
  timerfd_create: [...OF_FILTERS, 12, 19, 22, 23, 24],
  timerfd_settime: [...OF_FILTERS, 9, 22, 125],
  F_GETFD: [...OF_FILTERS, 9],
  F_GETFL: [...OF_FILTERS, 9],
  F_SETFL: [...OF_FILTERS, 9],
  F_DUPFD_CLOEXEC: [...OF_FILTERS, 22, 24],
  F_GETPIPE_SZ: [...OF_FILTERS, 9],
  F_SETPIPE_SZ: [...OF_FILTERS, 12, 16, 22],
  dup3: [...OF_FILTERS, 4, 9, 16, 24],
  pipe2: [...OF_FILTERS, 22, 23, 24],
  open: [...OF_FILTERS, 2, 6, 12, 16, 23, 24, 40],
  kcmp: OF_FILTERS,
  statx: [...OF_FILTERS, 2, 9, 12],
  lseek: [...OF_FILTERS, 22, 29, 75],
  isatty: [...OF_FILTERS, 25],
  getsockopt: [...OF_FILTERS, 9, 12, 22, 88, 92],
  setsockopt: [...OF_FILTERS, 12, 22, 92],
  getsockname: [...OF_FILTERS, 105],
  getpeername: [...OF_FILTERS, 22, 105],
  ioctl: [...OF_FILTERS, 22, 25],
};

const CALL: fc.Arbitrary<RefusedCall> = fc.oneof(
  ...(Object.keys(ERRORS) as CallName[]).map((name) =>
    fc.record({
      name: fc.constant(name),
      errno: fc.constantFrom(...ERRORS[name]),
      after: fc.oneof(fc.nat(6), fc.nat(60), fc.nat(1000)),
      lasts: fc.boolean(),
    })
  ),
);

export const PLAN: fc.Arbitrary<Plan> = fc.record({
  wires: fc.array(WIRE, { minLength: 2, maxLength: 4 }),
  channels: fc.array(fc.tuple(fc.nat(3), fc.nat(3)), { minLength: 1, maxLength: 4 }),
  buffer: fc.constantFrom(1048576, 65536, 65536, 4096, 4096, 100, 2, 1),
  rate: rarely(0, 500, 100000),
  dumps: rarely(false, true),
  stopAt: rarely(-1, 0, 1, 7, 300),
  grace: fc.constantFrom(5000, 100, 0),
  yieldAfter: fc.constantFrom(5, 25, 0),
  refusals: fc.record({
    splice: rarely(0, ...REFUSED),
    nowait: rarely(false, true),
    reopen: rarely(0, 13, 5),
    shortOfPipes: rarely(false, true),
    shortOfNumbers: rarely(false, true),
    forgetsWriters: fc.boolean(),
    setFlags: rarely(0, 1, 13),
    reopensOther: rarely(false, true),
    watches: seldom(-1, fc.nat(6)),
    call: fc.oneof(
      { weight: 8, arbitrary: fc.constant(undefined) },
      { weight: 1, arbitrary: CALL },
    ),
  }),
  isBusy: seldom(false, fc.constant(true)),
  throwsAt: seldom(-1, fc.nat(12)),
  addsAfter: rarely(-1, 0, 1, 3),
  awaits: rarely(false, true),
  isStandard: rarely(false, true),
  reusesNumbers: fc.boolean(),
  isHostile: fc.boolean(),
  choices: fc.array(fc.nat(255), { maxLength: 160, size: "max" }),
});

const COMER = WIRE.chain((wire) =>
  fc.constantFrom(0, 0, 1, 30, 300).map((arrivesAt) => ({ ...wire, notes: 0, arrivesAt }))
);

export const SERVE_PLAN: fc.Arbitrary<ServePlan> = fc.record({
  family: fc.constantFrom("tcp", "unix"),
  target: fc.oneof(
    { weight: 8, arbitrary: fc.constantFrom("tcp", "unix", "name", "function", "mate") },
    { weight: 1, arbitrary: fc.constant("nobody" as const) },
  ),
  proxyProtocol: rarely(0, 1, 2),
  clients: fc.array(COMER, { minLength: 1, maxLength: 4 }),
  servers: fc.array(COMER, { minLength: 1, maxLength: 4 }),
  connects: fc.array(
    fc.oneof(
      { weight: 3, arbitrary: fc.constant("at once" as const) },
      {
        weight: 2,
        arbitrary: fc.constantFrom(
          "later" as const,
          "refused" as const,
          "never" as const,
          "full" as const,
          "short" as const,
        ),
      },
    ),
    { minLength: 1, maxLength: 4 },
  ),
  accepts: fc.array(
    fc.oneof(
      {
        weight: 10,
        arbitrary: rarely<Accept>("well", "aborted", "short", "forbidden"),
      },
      { weight: 1, arbitrary: fc.constant<Accept>("broken") },
    ),
    { minLength: 1, maxLength: 4 },
  ),
  connections: fc.constantFrom(1000, 2, 1),
  connectTimeout: fc.constantFrom(10_000, 50),
  timeout: rarely(0, 100, 3000),
  halfClosed: rarely(0, 100),
  exitIdle: fc.constantFrom(0, 20, 3000),
  drainAt: fc.constantFrom(5000, 100, 0),
  copying: PLAN,
});
