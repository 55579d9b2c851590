/**
 * Plans of runs that failed in the past, as small as possible.
 *
 * @module
 */
import type { Plan, ServePlan, WirePlan } from "./plan.ts";
import { type CallName, NOTHING_REFUSED } from "./world.ts";

const WIRE: WirePlan = {
  kind: "pipe",
  room: 4096,
  roomBack: 4096,
  pieces: [],
  pauses: [0],
  end: "close",
  reads: [200000],
  diesAfter: -1,
  urgentAt: -1,
  notes: 0,
  isShared: false,
  hasTwoNumbers: false,
  isFar: false,
};

/** The simplest plan for these wires, except for what is given. */
export function plan(
  wires: Partial<WirePlan>[],
  channels: [number, number][],
  more: Partial<Omit<Plan, "wires" | "channels" | "refusals">> & {
    refusals?: Partial<Plan["refusals"]>;
  } = {},
): Plan {
  const refusals = { ...NOTHING_REFUSED, ...more.refusals };
  return {
    channels,
    buffer: 1048576,
    rate: 0,
    dumps: false,
    stopAt: -1,
    grace: 5000,
    yieldAfter: 5,
    isBusy: false,
    throwsAt: -1,
    addsAfter: -1,
    awaits: false,
    isStandard: false,
    reusesNumbers: false,
    isHostile: false,
    choices: [],
    ...more,
    wires: wires.map((wire) => ({ ...WIRE, ...wire })),
    refusals,
  };
}

/** More of what has to be read on other threads than there are threads for it. */
const DEVICES = 30;

/** From that call on, or once, the system refuses calls of one kind with that errno. */
function refused(
  name: CallName,
  errno: number,
  after = 0,
  lasts = true,
): Partial<Plan["refusals"]> {
  return { call: { name, errno, after, lasts } };
}

const EPERM = 1, ENOMEM = 12, EMFILE = 24, ENOSYS = 38;

export const CASES: [string, Plan][] = [
  [
    "devices for which no thread is left have their turn later",
    plan(
      [...Array.from({ length: DEVICES }, () => ({ kind: "device" as const, pieces: [3] })), {
        kind: "file",
      }],
      Array.from({ length: DEVICES }, (_, i) => [i, DEVICES]),
    ),
  ],
  [
    "splice(2) returns EAGAIN at TCP's urgent mark as long as the socket has O_NONBLOCK",
    plan([{ kind: "tcp", pieces: [3, 3], urgentAt: 1 }, {}], [[0, 1]]),
  ],
  [
    "readiness that is reported only once is not lost to the wait on another thread",
    plan([{ kind: "tcp", notes: -1, pauses: [1500] }, { kind: "unix" }], [[0, 1]]),
  ],
  [
    "the error queue of a source does not keep its sink awake",
    plan(
      [{ kind: "tcp", notes: -1, hasTwoNumbers: true, pauses: [1500] }],
      [[0, 0]],
    ),
  ],
  [
    "a lingering channel reads on although readiness is reported only once",
    plan(
      [{ kind: "tcp" }, { kind: "tcp", notes: -1, pieces: [1, 1], end: "reset" }],
      [[1, 1], [0, 0]],
      { buffer: 4096 },
    ),
  ],
  [
    "an urgent mark although readiness is reported only once",
    plan(
      [
        { kind: "unix", room: 1, diesAfter: 1 },
        { kind: "tcp", pieces: [1], urgentAt: 0, notes: -1 },
      ],
      [[0, 1], [1, 0]],
    ),
  ],
  [
    "two channels read a descriptor whose readiness is reported only once, and one of them lingers",
    plan(
      [
        { kind: "tcp", pieces: [24], end: "reset", urgentAt: 0, notes: -1 },
        { kind: "tcp", diesAfter: 0 },
      ],
      [[0, 1], [0, 0]],
      { refusals: { splice: 1 } },
    ),
  ],
  [
    "an error queue does not make a channel exceed its rate, byte by byte",
    plan(
      [
        { kind: "tcp", pieces: [8192], urgentAt: 0, notes: -1 },
        { kind: "device", pauses: [20, 0] },
      ],
      [[1, 0], [0, 0]],
      { rate: 500, dumps: true },
    ),
  ],
  [
    "a lingering channel does not spin because of an error queue",
    plan(
      [
        { kind: "tcp", pieces: [24], notes: -1, hasTwoNumbers: true },
        { kind: "tcp" },
        { kind: "device", room: 1, diesAfter: 0 },
      ],
      [[1, 0], [0, 2]],
      { rate: 500, refusals: { reopen: 13 } },
    ),
  ],
  [
    "the error queue of a source does not keep a channel from ending",
    plan([{ kind: "unix", diesAfter: 0 }, { kind: "tcp", notes: -1, pauses: [1500] }], [[1, 0]]),
  ],
  [
    "no second call on another thread while the first has the memory",
    plan(
      [
        { kind: "tcp", roomBack: 12, notes: -1 },
        { kind: "device", pieces: [24] },
      ],
      [[1, 0], [0, 0]],
      { dumps: true, yieldAfter: 0 },
    ),
  ],
  [
    "a TCP peer whose bytes are discarded gets everything of the other direction",
    plan(
      [
        { kind: "unix", diesAfter: 0 },
        { kind: "unix", pieces: [3] },
        { kind: "tcp", roomBack: 1, pieces: [1], pauses: [1500], isFar: true },
      ],
      [[2, 0], [1, 2]],
    ),
  ],
  [
    "the writer of a pipe that grows does not sleep on: it is made to grow twice (CVE-2023-52672)",
    plan([{ room: 1 }, { kind: "tcp" }], [[0, 1]], {
      isBusy: true,
      refusals: { forgetsWriters: true, setFlags: 1 },
    }),
  ],
  [
    "what onError throws of a refused close does not keep the other end open",
    plan([{ kind: "pipe", pieces: [1] }, {}], [[0, 1]], {
      throwsAt: 3,
      refusals: { call: { name: "close", errno: 5, after: 0, lasts: true } },
    }),
  ],
  [
    "what onError throws of a refused close ends the other channels silently",
    plan([{ kind: "tcp" }, {}], [[0, 1], [0, 0]], {
      stopAt: 1,
      throwsAt: 0,
      refusals: { call: { name: "close", errno: 5, after: 0, lasts: true } },
    }),
  ],
  [
    "poll(2) is refused: the end of a pipe is not awaited for ever",
    plan([{ pieces: [1] }, { kind: "tcp" }], [[0, 1]], { refusals: refused("poll", ENOMEM) }),
  ],
  [
    "poll(2) is refused: the end of messages is not taken for empty ones",
    plan([{ kind: "seqpacket", pieces: [1] }, {}], [[0, 1]], { refusals: refused("poll", EPERM) }),
  ],
  [
    "poll(2) is refused: a sink that has hung up keeps nobody awake",
    plan([{ pauses: [1500] }, { kind: "unix", diesAfter: 0 }], [[0, 1]], {
      refusals: refused("poll", EPERM),
    }),
  ],
  [
    "poll(2) is refused: a write that has failed on another thread is not made for ever",
    plan([{ pieces: [5] }, { kind: "terminal", room: 1, diesAfter: 1 }], [[0, 1]], {
      refusals: { reopen: 13, ...refused("poll", EPERM) },
    }),
  ],
  [
    "poll(2) is refused: an error queue keeps nobody awake",
    plan([{ pauses: [1500] }, { kind: "tcp", notes: 1 }], [[0, 1]], {
      refusals: refused("poll", EPERM),
    }),
  ],
  [
    "epoll_ctl(2) is refused: a pipe is not taken for what is always ready",
    plan([{ pauses: [1500] }, {}], [[0, 1]], { refusals: refused("epoll_ctl", EPERM, 1) }),
  ],
  [
    "epoll_ctl(2) is refused for the alarm: what was opened is closed",
    plan([{}, {}], [[0, 1]], { refusals: refused("epoll_ctl", ENOMEM) }),
  ],
  [
    "epoll_ctl(2) is refused: what nobody waits for any more keeps nobody awake",
    plan([{ kind: "tcp", pieces: [2] }, { kind: "unix", room: 1, roomBack: 1, reads: [1] }], [[
      0,
      1,
    ]], {
      stopAt: 7,
      isStandard: true,
      refusals: { shortOfNumbers: true, ...refused("epoll_ctl", EPERM, 2) },
    }),
  ],
  [
    "epoll_wait(2) is refused: it does not wait for ever",
    plan([{ pieces: [1] }, {}], [[0, 1]], { refusals: refused("epoll_wait", ENOSYS, 2) }),
  ],
  [
    "timerfd_create(2) is refused: what was opened is closed",
    plan([{}, {}], [[0, 1]], { refusals: refused("timerfd_create", ENOMEM) }),
  ],
  [
    "timerfd_settime(2) is refused: who stops it hears nothing of that, and the wait ends",
    plan([{ kind: "tcp", pauses: [3000] }, {}], [[0, 1]], {
      stopAt: 1001,
      yieldAfter: 5,
      refusals: refused("timerfd_settime", EPERM, 1),
    }),
  ],
  [
    "a read is under way when the reader's peer goes, and send(2) says that it is not ready: it fails all the same",
    plan(
      [{ pieces: [4095, 1], reads: [10] }, {
        kind: "unix",
        reads: [4095],
        diesAfter: 0,
        urgentAt: 0,
      }],
      [[0, 3]],
      {
        isHostile: true,
        refusals: {
          nowait: true,
          reopen: 13,
          shortOfPipes: true,
          shortOfNumbers: true,
          setFlags: 1,
          ...refused("pwritev2", EPERM, 0, false),
        },
        choices: [0, 0, 163, ...Array(16).fill(0), 240, 0, 0, 0, 0, 0, 210],
      },
    ),
  ],
  [
    "getsockopt(2) is refused: a reset is not taken for the quiet end of its reader",
    plan([{ pieces: [7], pauses: [0, 20] }, { kind: "tcp", roomBack: 3, diesAfter: 4 }], [[0, 1]], {
      refusals: refused("getsockopt", EPERM, 3),
    }),
  ],
  [
    "ioctl(2) is refused: an empty message is not taken for the end",
    plan([{ kind: "seqpacket", pieces: [0, 0, 3], room: 9 }, { kind: "tcp" }], [[0, 1]], {
      refusals: refused("ioctl", EPERM),
    }),
  ],
  [
    "fcntl(2) is refused: a flag that is not put back is told of",
    plan([{ kind: "tcp", pieces: [1], isShared: true }, {}], [[0, 1]], {
      refusals: refused("F_SETFL", EPERM, 1),
    }),
  ],
  [
    "fcntl(2) is refused: flags that are not known are not put back silently",
    plan([{ kind: "unix", room: 1 }, { kind: "unix", isShared: true }], [[1, 0]], {
      refusals: refused("F_GETFL", EPERM, 3, false),
    }),
  ],
  [
    "fcntl(2) is refused: the size of a pipe is not known",
    plan([{ pieces: [1] }, {}], [[0, 1]], { refusals: refused("F_GETPIPE_SZ", EPERM) }),
  ],
  [
    "dup3(2) is refused: standard numbers are closed all the same",
    plan([{ pieces: [1] }, {}], [[0, 1]], {
      isStandard: true,
      refusals: refused("dup3", EPERM),
    }),
  ],
  [
    "statx(2) is refused: the runtime's duplicates are found all the same",
    plan([{ pieces: [1] }, {}, { pauses: [1500] }, {}], [[0, 1], [2, 3]], {
      isStandard: true,
      refusals: refused("statx", EPERM, 4),
    }),
  ],
  [
    "channels end if epoll takes no more descriptors, although those that stay cannot be watched",
    plan([{ kind: "tcp" }, { kind: "unix" }], [[1, 0], [0, 0]], {
      stopAt: 0,
      refusals: { watches: 0 },
    }),
  ],
];

type Comer = ServePlan["clients"][number];

/** The simplest service for these clients and servers, except for what is given. */
function servePlan(
  clients: Partial<Comer>[],
  servers: Partial<Comer>[],
  { copying, ...more }: Partial<ServePlan> = {},
): ServePlan {
  const comer = (wire: Partial<Comer>) => ({ ...WIRE, arrivesAt: 0, ...wire });
  return {
    family: "tcp",
    target: "tcp",
    proxyProtocol: 0,
    connects: ["at once"],
    accepts: ["well"],
    connections: 1000,
    connectTimeout: 10_000,
    timeout: 0,
    halfClosed: 0,
    exitIdle: 0,
    drainAt: 5000,
    ...more,
    clients: clients.map(comer),
    servers: servers.map(comer),
    copying: copying ?? plan([{}], [[0, 0]]),
  };
}

export const SERVE_CASES: [string, ServePlan][] = [
  [
    "an error of the direction that ends last is told with the end of the connection",
    servePlan([{}], [{ pieces: [1], pauses: [200], end: "reset" }]),
  ],
  [
    "a connection for which epoll has no room is not said to have come to its end",
    servePlan([{}], [{}], {
      target: "function",
      copying: plan([{}], [[0, 0]], { refusals: { watches: 1 } }),
    }),
  ],
  [
    "what a callback throws while the service is drained leaves through run",
    servePlan([{ diesAfter: 0 }], [{}, { pieces: [1], diesAfter: 1 }], {
      target: "mate",
      copying: plan([{}], [[0, 0]], { throwsAt: 5, refusals: { nowait: true } }),
    }),
  ],
  [
    "getsockname(2) is refused: the PROXY header cannot be made, and nothing stays open",
    servePlan([{}], [{}], {
      proxyProtocol: 1,
      copying: plan([{}], [[0, 0]], { refusals: refused("getsockname", EPERM, 1) }),
    }),
  ],
  [
    "getsockopt(2) is refused: what a function gives is closed, and the others go on",
    servePlan([{}], [{}], {
      target: "function",
      copying: plan([{}], [[0, 0]], { refusals: refused("getsockopt", EPERM, 4, false) }),
    }),
  ],
  [
    "epoll_ctl(2) is refused: a service that can accept no more ends",
    servePlan([{}, { arrivesAt: 30 }], [{}], {
      connections: 1,
      copying: plan([{}], [[0, 0]], { refusals: refused("epoll_ctl", EPERM, 4) }),
    }),
  ],
  [
    "epoll_ctl(2) is refused to the listener: a connection that is being made is closed",
    servePlan([{ diesAfter: 0 }], [{}], {
      connects: ["short", "later"],
      accepts: ["short", "well"],
      copying: plan([{}], [[0, 0]], { refusals: refused("epoll_ctl", EPERM, 5, false) }),
    }),
  ],
  [
    "epoll_ctl(2) is refused: a service that ends closes all that it has",
    servePlan([{}], [{}], {
      target: "mate",
      copying: plan([{}], [[0, 0]], { refusals: refused("epoll_ctl", ENOMEM, 3) }),
    }),
  ],
  [
    "what onEnd throws is not taken for epoll's error, because of which the connection ends",
    servePlan([{}], [{}], {
      target: "function",
      copying: plan([{}], [[0, 0]], { throwsAt: 2, refusals: { watches: 1 } }),
    }),
  ],
  [
    "what onConnect throws is not taken for the failure of a target that is a function",
    servePlan([{}], [{ diesAfter: 0 }], {
      target: "function",
      copying: plan([{}], [[0, 0]], { throwsAt: 1 }),
    }),
  ],
  [
    "fcntl(2) finds no free descriptor, ever: a service that drains does not wait for one for ever",
    servePlan([{}], [{}], {
      target: "nobody",
      copying: plan([{}], [[0, 0]], { refusals: refused("F_DUPFD_CLOEXEC", EMFILE) }),
    }),
  ],
  [
    "fcntl(2) finds no free descriptor once: who comes meanwhile is accepted a little later",
    servePlan([{}, { arrivesAt: 30 }], [{}], {
      target: "nobody",
      copying: plan([{}], [[0, 0]], { refusals: refused("F_DUPFD_CLOEXEC", EMFILE, 1, false) }),
    }),
  ],
  [
    "send(2) is refused: the target's bytes are acknowledged at once when the first were written otherwise",
    servePlan([{ pieces: [1] }], [{}], {
      connects: ["later"],
      copying: plan([{}], [[0, 0]], { rate: 500, refusals: refused("send", EPERM, 0, false) }),
    }),
  ],
  [
    "a client that has ended its side, and is reset for our answer, has not cut anything off",
    servePlan(
      [{ kind: "tcp", pieces: [4095], diesAfter: 0 }],
      [{ kind: "tcp", roomBack: 37, pieces: [1], isFar: true }],
      {
        proxyProtocol: 1,
        connects: ["later"],
        copying: plan([{}], [[0, 0]], { choices: [0, 0] }),
      },
    ),
  ],
  [
    "a client that is reset while its target reads slowly: that gets all, and then the reset",
    servePlan(
      [{ kind: "tcp", pieces: [10, 10, 10], end: "reset" }],
      [{ kind: "tcp", roomBack: 7, reads: [1], pauses: [0, 30] }],
    ),
  ],
];
