/**
 * The world around the engine: it decides what runs next, what time it is, and what
 * happens in each call. All decisions are drawn from one list of numbers, so that a run
 * can be repeated, and made shorter until only the essential is left: 0 is always the
 * simplest choice, and so is everything beyond the end of the list.
 *
 * The engine runs on this thread. When it blocks in epoll_wait(2), the peers have their
 * steps inside that call; when it awaits something, `turn` gives them a step.
 *
 * @module
 */
import {
  EAGAIN,
  EBADF,
  EINTR,
  EINVAL,
  EMFILE,
  EOPNOTSUPP,
  EPERM,
  F_DUPFD_CLOEXEC,
  F_GETFD,
  F_GETFL,
  F_GETPIPE_SZ,
  F_GETSIG,
  F_SETFL,
  F_SETPIPE_SZ,
  F_SETSIG,
  FD_CLOEXEC,
  O_ACCMODE,
  RDHUP,
} from "../../sys/constants.ts";
import { Description, EpollFile, type File, Pipe, splice, StreamSocket, Timer } from "./kernel.ts";

/** A broken rule. */
export class Violation extends Error {
  override readonly name = "Violation";
}

/** What the system refuses throughout a run: each value is an errno, or 0. */
export interface Refusals {
  /** splice(2), as a seccomp filter does. */
  splice: number;
  /** RWF_NOWAIT of preadv2(2) and pwritev2(2) on pipes, as before Linux 6.4. */
  nowait: boolean;
  /** Opening a terminal again. */
  reopen: number;
  /** Whether the user's limit is reached, so that pipes cannot grow, and new ones have two pages. */
  shortOfPipes: boolean;
  /** Whether the process has no descriptor left for a pipe of its own. */
  shortOfNumbers: boolean;
  /** Whether a writer of a full pipe can sleep on when the pipe grows (CVE-2023-52672). */
  forgetsWriters: boolean;
  /** Setting flags (F_SETFL), as a seccomp filter does. */
  setFlags: number;
  /** Whether something else is found where a terminal is opened again. */
  reopensOther: boolean;
  /** How many descriptors epoll takes before the user's limit is reached (ENOSPC); -1: any number. */
  watches: number;
  /** One kind of call that fails, as its manual page or a filter has it; undefined: none does. */
  call: RefusedCall | undefined;
}

/** The calls that can be refused, as their errors name them; those of fcntl(2) by their command. */
export type CallName =
  | "splice"
  | "read"
  | "write"
  | "preadv2"
  | "pwritev2"
  | "recv"
  | "send"
  | "shutdown"
  | "close"
  | "poll"
  | "epoll_create1"
  | "epoll_ctl"
  | "epoll_wait"
  | "timerfd_create"
  | "timerfd_settime"
  | "F_GETFD"
  | "F_GETFL"
  | "F_SETFL"
  | "F_DUPFD_CLOEXEC"
  | "F_GETPIPE_SZ"
  | "F_SETPIPE_SZ"
  | "dup3"
  | "pipe2"
  | "open"
  | "kcmp"
  | "statx"
  | "lseek"
  | "isatty"
  | "getsockopt"
  | "setsockopt"
  | "getsockname"
  | "getpeername"
  | "ioctl";

/** Those without which everything goes on as if nothing were refused, but for its speed. */
const UNNEEDED: readonly CallName[] = [
  "preadv2",
  "pwritev2",
  "F_GETPIPE_SZ",
  "F_SETPIPE_SZ",
  "pipe2",
  "open",
  "isatty",
  "setsockopt",
  "getpeername",
];

/** A call that the system refuses with an errno, once or from then on. */
export interface RefusedCall {
  name: CallName;
  errno: number;
  /** How many of them succeed before. */
  after: number;
  lasts: boolean;
}

/** The refusals of a system that refuses nothing. */
export const NOTHING_REFUSED: Refusals = {
  splice: 0,
  nowait: false,
  reopen: 0,
  shortOfPipes: false,
  shortOfNumbers: false,
  forgetsWriters: false,
  setFlags: 0,
  reopensOther: false,
  watches: -1,
  call: undefined,
};

export const ENOSPC = 28;

/** Something that takes steps: a peer, or a thread. */
export interface Actor {
  readonly name: string;
  /** When it can go on; Infinity if it does not wait for time. */
  readonly wakesAt: number;
  /** When it takes its next step at the latest; if undefined, it can be as late as it likes. */
  readonly latest?: number;
  readonly isEnabled: boolean;
  step(): void;
}

interface Entry {
  description: Description;
  flags: number;
  /** Whether the engine has to close it. */
  isEngines: boolean;
}

/** A call on another thread. */
class Call implements Actor {
  readonly name: string;
  readonly wakesAt: number;
  readonly #world: World;
  readonly #attempt: () => number | undefined;
  /** Its buffer, which must not be used otherwise meanwhile. */
  readonly buffer: ArrayBufferLike | undefined;
  readonly mayBeInterrupted: boolean;
  /** Its description, which stays open until it returns. */
  readonly held: Description | undefined;
  result: number | undefined;
  #resolve: (result: number) => void = () => {};
  readonly promise: Promise<number>;

  constructor(
    world: World,
    name: string,
    attempt: () => number | undefined,
    { buffer, held, wakesAt = Infinity, mayBeInterrupted = false }: {
      buffer?: ArrayBufferLike;
      held?: Description;
      wakesAt?: number;
      mayBeInterrupted?: boolean;
    },
  ) {
    this.#world = world;
    this.name = `thread ${name}`;
    this.#attempt = attempt;
    this.wakesAt = wakesAt;
    this.buffer = buffer;
    this.held = held;
    this.mayBeInterrupted = mayBeInterrupted;
    this.promise = new Promise((resolve) => this.#resolve = resolve);
  }
  get isEnabled(): boolean {
    return this.result === undefined && this.canReturn();
  }
  canReturn: () => boolean = () => true;
  step(): void {
    const interrupted = this.mayBeInterrupted && this.#world.isUnlucky;
    this.result = interrupted ? -1 : this.#attempt();
    if (this.result !== undefined && this.held) this.#world.release(this.held);
    this.#world.log(() =>
      `${this.name} -> ${interrupted ? "-1, interrupted" : this.result ?? "waits on"}`
    );
  }
  /** The program gets its result. */
  settle(result: number): void {
    this.result = result;
    this.#world.log(() => `${this.name} comes back`);
    this.#resolve(result);
  }
}

interface Alarm {
  due: number;
  every: number | undefined;
  callback: () => void;
  id: number;
}

/** What happens in a call. */
export const Fate = { Nothing: 0, Interrupted: 1, Short: 2 } as const;
type Fate = typeof Fate[keyof typeof Fate];

/** The commands of fcntl(2) that can be refused. */
const COMMANDS: Record<number, CallName> = {
  [F_GETFD]: "F_GETFD",
  [F_GETFL]: "F_GETFL",
  [F_SETFL]: "F_SETFL",
  [F_DUPFD_CLOEXEC]: "F_DUPFD_CLOEXEC",
  [F_GETPIPE_SZ]: "F_GETPIPE_SZ",
  [F_SETPIPE_SZ]: "F_SETPIPE_SZ",
};

/** The name of a wait for anything at all. */
const EPOLL = "poll of epoll";

/** For so many turns of the event loop the exhaustive search puts off what is ready. */
const MOST_PUT_OFF = 1;

/** After so many calls without any progress the engine is taken to spin. */
const MOST_CALLS = 600, MOST_CALLS_EACH = 6;

/** After so many calls a run is given up: it makes no real progress. */
const MOST_IN_ALL = 30_000;

export class World {
  now = 1000;
  readonly refusals: Refusals;
  /** Whether calls can be disturbed. */
  readonly isHostile: boolean;
  readonly #choices: ArrayLike<number>;
  #next = 0;
  /** So many decisions are made; what comes after them is the dullest. */
  readonly #depth: number;
  #turns = 0;
  /** How often in a row the event loop had something to do, and it was put off. */
  #putOff = 0;
  /** For the exhaustive search: how many ways each decision had. */
  decisions: { made: number; of: number }[] | undefined;
  readonly actors: Actor[] = [];
  readonly calls = new Set<Call>();
  readonly #alarms = new Map<number, Alarm>();
  #alarmIds = 0;
  readonly #table: (Entry | undefined)[] = [];
  readonly #reusesNumbers: boolean;
  #nextNumber = 100;
  readonly trace: string[] | undefined;
  /** Whether the engine has ended, so that nothing is checked any more. */
  isOver = false;
  /** All calls of the engine; the calls without progress; and the waits since then that reported something. */
  count = 0;
  #idleCalls = 0;
  idleRounds = 0;
  /** The most of {@linkcode idleRounds}. */
  mostIdleRounds = 12;
  /** Whether calls that do not block are interrupted too. */
  mayInterrupt = true;
  /** Called when everything waits, before time passes. */
  onIdle: (() => void) | undefined;
  /** The bytes that the engine has read from each number, and written to it. */
  onMoved: ((file: File, direction: "from" | "to", bytes: number) => void) | undefined;
  /** Descriptions that replace closed ones: see sys/fd.ts. */
  static readonly inert = new Map<number, Description>();
  readonly #inertSources = new Set<number>();
  /** Standard numbers that the engine has closed: the next descriptor gets the lowest. */
  readonly #freed = new Set<number>();
  steps = 0;
  /** When epoll has taken no more descriptors. */
  refusedToWatchAt = -Infinity;
  get hasRefusedToWatch(): boolean {
    return this.refusedToWatchAt >= 0;
  }
  /** When there was no free descriptor number for a duplicate. */
  hadNoNumberAt = -Infinity;
  /** Sockets whose pending error was asked for, and the system refused to tell it. */
  readonly unheard = new Set<File>();
  /** How often the kind of call was made that is refused at some time; and whether it was refused. */
  #ofThatKind = 0;
  hasRefusedCall = false;

  /** The errno with which a call is refused; 0: it is made. */
  refusal(name: CallName): number {
    const { call } = this.refusals;
    if (this.isOver || call?.name !== name) return 0;
    // What stands in for an alarm needs a pipe, and to be watched.
    const { shortOfNumbers, watches } = this.refusals;
    if (name === "timerfd_settime" && (shortOfNumbers || watches >= 0)) return 0;
    const made = this.#ofThatKind++;
    if (made < call.after || made > call.after && !call.lasts) return 0;
    if (!UNNEEDED.includes(name)) this.hasRefusedCall = true;
    this.log(() => `${name} is refused: ${call.errno}`);
    return call.errno;
  }

  /** Whether an error tells of the call that is refused. */
  isRefusal({ syscall, errno }: { syscall: string; errno: number }): boolean {
    const { call } = this.refusals;
    if (!this.hasRefusedCall || call?.errno !== errno) return false;
    return syscall === (call.name.startsWith("F_") ? "fcntl" : call.name);
  }

  constructor(
    choices: ArrayLike<number>,
    refusals: Refusals,
    options: { tracing?: boolean; hostile?: boolean; reuse?: boolean; depth?: number } = {},
  ) {
    this.#depth = options.depth ?? choices.length;
    this.#choices = choices;
    this.refusals = refusals;
    this.isHostile = options.hostile ?? true;
    this.#reusesNumbers = options.reuse ?? false;
    if (options.tracing) this.trace = [];
    for (const [fd, description] of World.inert) {
      this.#table[fd] = { description, flags: FD_CLOEXEC, isEngines: false };
    }
  }

  log(what: () => string): void {
    this.trace?.push(`${this.now.toFixed(3)} ${what()}`);
  }

  /** The first rule that was broken. */
  violation: Violation | undefined;

  fail(what: string): never {
    this.violation ??= new Violation(what);
    this.log(() => `VIOLATION ${what}`);
    throw this.violation;
  }

  // ---- Decisions.

  /** A number below `ways`; 0 is the simplest choice. */
  choose(ways: number): number {
    if (ways <= 1 || this.decisions && !this.areChoicesLeft) return 0;
    const made = (this.#choices[this.#next++] ?? 0) % ways;
    this.decisions?.push({ made, of: ways });
    return made;
  }

  get areChoicesLeft(): boolean {
    return this.#next < this.#depth;
  }

  /** Now and then. */
  get isUnlucky(): boolean {
    return this.areChoicesLeft && this.#pick([240, 16]) === 1;
  }

  /** One of several things, the first of which is the dullest; the weights, 256 in all, say how likely each is. */
  #pick(weights: readonly number[]): number {
    if (this.decisions) return this.choose(weights.length);
    let drawn = this.choose(256);
    for (const [i, weight] of weights.entries()) {
      if (drawn < weight) return i;
      drawn -= weight;
    }
    return 0;
  }

  /** Decides what happens in a call that moves bytes; a peer can have a step before it. */
  fate(): Fate {
    if (!this.isHostile || this.isOver || !this.areChoicesLeft) return Fate.Nothing;
    switch (this.#pick([170, 40, 15, 31])) {
      case 1:
        this.step();
        return Fate.Nothing;
      case 2:
        if (!this.mayInterrupt) return Fate.Nothing;
        this.happened();
        return Fate.Interrupted;
      case 3:
        return Fate.Short;
    }
    return Fate.Nothing;
  }

  /** How much of so many bytes a call moves that is cut short. */
  part(length: number): number {
    return 1 + this.choose(this.decisions ? 1 : Math.max(1, length));
  }

  /** There was progress: looking again is not spinning. */
  happened(): void {
    this.#idleCalls = 0;
    this.idleRounds = 0;
  }

  /** The engine makes a call. */
  enter(): void {
    if (this.violation) throw this.violation;
    this.now += 0.0005;
    if (this.isOver) return;
    if (++this.count > MOST_IN_ALL) this.fail(`${this.count} calls, and no end`);
    if (++this.#idleCalls > MOST_CALLS + MOST_CALLS_EACH * this.mostIdleRounds) {
      this.fail(`spins: ${this.#idleCalls} calls, and nothing moved or happened`);
    }
  }

  // ---- Steps of the others.

  /** A peer or a thread has a step; returns false if none can. */
  step(): boolean {
    const enabled: Actor[] = [];
    for (const actor of this.actors) if (actor.isEnabled) enabled.push(actor);
    for (const call of this.calls) if (call.isEnabled) enabled.push(call);
    if (enabled.length === 0) return false;
    // Beyond the list they take turns.
    const chosen = this.areChoicesLeft ? this.choose(enabled.length) : this.#turns++;
    const actor = enabled[chosen % enabled.length];
    this.happened();
    this.steps++;
    actor?.step();
    return true;
  }

  /** Lets time pass until one of them can go on; returns false if none ever can. */
  #passTime(isAsync: boolean): boolean {
    let next = Infinity;
    for (const { wakesAt } of this.actors) if (wakesAt > this.now && wakesAt < next) next = wakesAt;
    for (const { wakesAt } of this.calls) if (wakesAt > this.now && wakesAt < next) next = wakesAt;
    for (const timer of this.#timers) {
      if (timer.due !== undefined && timer.due < next) next = timer.due;
    }
    if (isAsync) { for (const { due } of this.#alarms.values()) if (due < next) next = due; }
    for (const { latest = Infinity } of this.actors) if (latest < next) next = latest;
    if (next === Infinity) return false;
    this.now = Math.max(this.now, next);
    for (const actor of this.actors) {
      if (actor.latest !== undefined && actor.latest <= this.now) actor.step();
    }
    return true;
  }

  /** Whether the engine waits for readiness on another thread, not only for the event loop. */
  get #isWaiting(): boolean {
    for (const call of this.calls) if (call.name === `thread ${EPOLL}`) return true;
    return false;
  }

  /** Whether an alarm is set that ends the wait at once: somebody has a turn. */
  get #isAboutToRing(): boolean {
    return this.#timers.some(({ due }) => due !== undefined && due - this.now < 0.01);
  }

  /** Whether another thread is at it, or has been and is not heard yet. */
  isUnderWay(description: Description): boolean {
    for (const { held } of this.calls) if (held?.file === description.file) return true;
    return false;
  }

  /** Once the engine has ended: the peers go on until nothing is left to do. */
  runOut(): void {
    for (let i = 0; this.step() || this.#wakeNext(); i++) {
      if (i > 20_000) this.fail("the peers come to no end");
    }
  }

  /** Lets the time pass until the next actor has something to do. */
  #wakeNext(): boolean {
    const times = this.actors.map(({ wakesAt }) => wakesAt).filter((time) => time > this.now);
    const next = Math.min(...times);
    if (next === Infinity) return false;
    this.now = next;
    return true;
  }

  readonly #timers: Timer[] = [];

  #ring(): void {
    for (const timer of this.#timers) timer.look(this.now);
  }

  /** The event loop has a turn: one promise of the program resolves, or a peer has a step. */
  turn(): void {
    this.#ring();
    const ready: (() => void)[] = [];
    for (const call of this.calls) {
      const { result } = call;
      if (result === undefined) continue;
      ready.push(() => {
        this.calls.delete(call);
        call.settle(result);
      });
    }
    let first: Alarm | undefined;
    for (const alarm of this.#alarms.values()) {
      if (alarm.due <= this.now && (!first || alarm.due < first.due)) first = alarm;
    }
    const due = first;
    if (due) {
      ready.push(() => {
        if (due.every === undefined) this.#alarms.delete(due.id);
        else due.due = this.now + due.every;
        this.log(() => "a timer of the program is due");
        due.callback();
      });
    }
    // In the exhaustive search nothing waits for ever, as there would be no end of schedules.
    const mayWait = !this.decisions || this.#putOff < MOST_PUT_OFF;
    const chosen = this.choose(ready.length + (mayWait ? 1 : 0));
    const happens = ready[chosen];
    this.#putOff = happens || ready.length === 0 ? 0 : this.#putOff + 1;
    if (happens) {
      this.happened();
      return happens();
    }
    if (this.isHostile && this.isUnlucky && this.#passTime(true)) return;
    if (this.step() || ready.length > 0) return;
    if (this.#isWaiting && !this.#isAboutToRing) this.onIdle?.();
    if (!this.#passTime(true)) this.fail("everybody waits, for ever");
  }

  // ---- The program's clock.

  setTimer(callback: () => void, milliseconds: number, repeats: boolean): number {
    const every = repeats ? Math.max(1, milliseconds) : undefined;
    const id = ++this.#alarmIds;
    this.#alarms.set(id, { due: this.now + Math.max(0, milliseconds), every, callback, id });
    return id;
  }
  clearTimer(id: number): void {
    this.#alarms.delete(id);
  }
  /** Whether one of the program's timers is due, and the event loop has had no turn for it yet. */
  get isTimerDue(): boolean {
    for (const { due } of this.#alarms.values()) if (due <= this.now) return true;
    return false;
  }
  get timersLeft(): number {
    return this.#alarms.size;
  }

  // ---- Numbers.

  /** Gives the engine a number, inherited or the runtime's own. */
  give(fd: number, description: Description, isRuntimes = false): void {
    this.#table[fd] = {
      description: description.hold(),
      flags: isRuntimes ? FD_CLOEXEC : 0,
      isEngines: !isRuntimes,
    };
  }

  #lowest(): number {
    for (const fd of this.#freed) {
      this.#freed.delete(fd);
      this.#inertSources.add(fd); // it is never closed again
      return fd;
    }
    if (!this.#reusesNumbers) {
      while (this.#table[this.#nextNumber]) this.#nextNumber++;
      return this.#nextNumber++;
    }
    for (let fd = 3;; fd++) if (!this.#table[fd]) return fd;
  }

  /** A new number for a descriptor that the engine makes. */
  install(description: Description): number {
    const fd = this.#lowest();
    this.#table[fd] = { description: description.hold(), flags: FD_CLOEXEC, isEngines: true };
    return fd;
  }

  entry(fd: number): Entry | undefined {
    return this.#table[fd];
  }

  /** The description of a number. Using a closed number is a fault of the engine. */
  get(fd: number, call: string): Description {
    const entry = this.#table[fd];
    if (!entry) this.fail(`${call} of ${fd}, which is closed`);
    return entry.description;
  }

  close(fd: number): number {
    this.enter();
    const entry = this.#table[fd];
    if (!entry) this.fail(`close of ${fd}, which is closed`);
    if (!entry.isEngines) this.fail(`close of ${fd}, which is the runtime's`);
    this.#table[fd] = undefined;
    if (fd < 3) this.#freed.add(fd);
    this.log(() => `close ${fd} (${entry.description.file.name})`);
    this.sent(entry.description.file);
    this.release(entry.description);
    return -this.refusal("close"); // it is closed all the same (close(2))
  }

  /** Somebody else closes a number that the engine was never given, if it is open. */
  takeBack(fd: number): void {
    const entry = this.#table[fd];
    this.#table[fd] = undefined;
    if (entry) this.release(entry.description);
  }

  /** Drops a reference to a description. */
  release(description: Description): void {
    description.release();
    if (description.references > 0) return;
    for (const entry of this.#table) {
      if (entry?.description.file instanceof EpollFile) entry.description.file.forget(description);
    }
  }

  dup3(from: number, to: number): number {
    this.enter();
    const source = this.#table[from];
    if (!source) this.fail(`dup3 of ${from}, which is closed`);
    this.#inertSources.add(from);
    const refused = this.refusal("dup3");
    if (refused) return -refused;
    const before = this.#table[to];
    this.#table[to] = {
      description: source.description.hold(),
      flags: FD_CLOEXEC,
      isEngines: false,
    };
    this.log(() => `dup3 ${from} ${to}`);
    if (before) this.release(before.description);
    return to;
  }

  /** Numbers that the engine has not closed. */
  get leaks(): number[] {
    const fds: number[] = [];
    for (const [fd, entry] of this.#table.entries()) {
      if (entry?.isEngines && !this.#inertSources.has(fd)) fds.push(fd);
    }
    return fds;
  }

  /** Ends the run: all calls on other threads return. */
  end(): void {
    this.isOver = true;
    for (const call of this.calls) call.settle(-1);
    this.calls.clear();
    for (const fd of this.#inertSources) {
      const entry = this.#table[fd];
      if (entry && fd > 2) World.inert.set(fd, entry.description);
    }
  }

  // ---- Calls that need order or time; the others are in libc.ts.

  /** A call that can move bytes. */
  moved(file: File, direction: "from" | "to", bytes: number): void {
    if (bytes <= 0) return;
    if (direction === "from" && this.delaying.delete(file)) this.unacknowledged.add(file);
    if (direction === "to") {
      this.corked.delete(file);
      this.unacknowledged.delete(file);
      // Any but the first may wait until that is acknowledged (Nagle's algorithm).
      if (this.nagling.get(file)) this.corked.add(file);
      if (this.nagling.has(file)) this.nagling.set(file, true);
    }
    this.happened();
    this.onMoved?.(file, direction, bytes);
  }

  /** Sockets with a part of a packet that waits for what is sent next, or the end (MSG_MORE). */
  readonly corked = new Set<File>();

  /** TCP sockets that were connected so that they acknowledge with what is sent, until something has come in. */
  readonly delaying = new Set<File>();

  /** Those of them whose peer waits for an acknowledgement. */
  readonly unacknowledged = new Set<File>();

  /** All that waited in a socket is sent. */
  sent(file: File): void {
    this.corked.delete(file);
    this.unacknowledged.delete(file);
  }

  /** The TCP sockets that were accepted or connected and have no TCP_NODELAY, and whether they have sent something. */
  readonly nagling = new Map<File, boolean>();

  /** Checks that a buffer is not in use by another thread. */
  use({ buffer }: Uint8Array): void {
    for (const call of this.calls) {
      if (call.buffer === buffer) this.fail(`${call.name} has that memory`);
    }
  }

  splice(fd: number, out: number, length: number): number {
    this.enter();
    const from = this.get(fd, "splice"), to = this.get(out, "splice");
    const refused = this.refusals.splice || this.refusal("splice");
    let result: number;
    if (refused) result = -refused;
    else {
      if (length > 0) from.isNowait = to.isNowait = false;
      const fate = this.fate();
      const most = fate === Fate.Short ? this.part(Math.min(length, 5000)) : length;
      result = fate === Fate.Interrupted ? -EAGAIN : splice(from, to, Math.min(most, length));
      // Only the side that is not the pipe can block.
      if (result === -EAGAIN && fate !== Fate.Interrupted) this.#mustNotWait(from, to);
    }
    this.log(() => `splice ${fd} ${out} ${length} -> ${result}`);
    this.moved(from.file, "from", result);
    this.moved(to.file, "to", result);
    return result;
  }

  #mustNotWait(from: Description, to: Description): void {
    const isWaiting = (other: Description, pipe: Pipe, isReady: boolean) =>
      !(other.file instanceof Pipe) && !other.isNonBlocking && isReady && pipe !== undefined;
    const source = from.file, sink = to.file;
    const waits = sink instanceof Pipe && isWaiting(from, sink, !sink.isFull) ||
      source instanceof Pipe && isWaiting(to, source, source.slots.length > 0);
    if (waits) this.fail(`splice of ${source.name} to ${sink.name} blocks`);
  }

  /** read(2) or write(2) on this thread. */
  transfer(
    call: "read" | "write",
    fd: number,
    bytes: Uint8Array,
    nowait: boolean,
  ): number {
    this.enter();
    this.use(bytes);
    const description = this.get(fd, call);
    const { file } = description;
    if (call === "read" ? !description.isReadable : !description.isWritable) return -EBADF;
    // No pipe fails by itself; and without read(2) and write(2) the runtime could do nothing.
    const refused = nowait
      ? this.refusal(call === "read" ? "preadv2" : "pwritev2")
      : file instanceof Pipe
      ? 0
      : this.refusal(call);
    if (refused) return -refused;
    let result: number;
    if (nowait && (this.refusals.nowait || !description.isNowait)) result = -EOPNOTSUPP;
    else {
      // A pipe takes a write of up to a page completely or not at all.
      const isAtomic = file instanceof Pipe && call === "write" && bytes.length <= 4096;
      const fate = isAtomic && !nowait ? Fate.Nothing : this.fate();
      const isShort = fate === Fate.Short && !isAtomic;
      const part = isShort ? bytes.subarray(0, this.part(bytes.length)) : bytes;
      result = fate === Fate.Interrupted
        ? -EAGAIN
        : call === "read"
        ? file.read(description, part)
        : file.write(description, part);
      const waits = result === -EAGAIN && fate !== Fate.Interrupted && !nowait &&
        !description.isNonBlocking;
      if (waits) this.fail(`${call} ${fd} (${file.name}) blocks`);
    }
    this.log(() => `${call} ${fd} (${file.name}) ${bytes.length} -> ${result}`);
    this.moved(file, call === "read" ? "from" : "to", result);
    return result;
  }

  transferOnThread(call: "read" | "write", fd: number, bytes: Uint8Array): Promise<number> {
    this.enter();
    this.use(bytes);
    const description = this.get(fd, call).hold();
    const { file } = description;
    const attempt = () => {
      if (!(file instanceof Pipe) && this.refusal(call)) return -1;
      const result = call === "read"
        ? file.read(description, bytes)
        : file.write(description, bytes);
      if (result === -EAGAIN && !description.isNonBlocking) return undefined;
      this.moved(file, call === "read" ? "from" : "to", result);
      return result < 0 ? -1 : result;
    };
    const options = {
      buffer: bytes.buffer,
      held: description,
      mayBeInterrupted: this.isHostile,
    };
    const made = new Call(this, `${call} ${fd} (${file.name}) ${bytes.length}`, attempt, options);
    const wanted = call === "read" ? 1 : 4;
    made.canReturn = () => description.isNonBlocking || (description.poll() & (wanted | 24)) !== 0;
    return this.#begin(made);
  }

  #begin(call: Call): Promise<number> {
    this.calls.add(call);
    this.log(() => `${call.name} begins`);
    return call.promise;
  }

  poll(fd: number, events: number): number {
    this.enter();
    if (this.isHostile && this.isUnlucky) this.step();
    const refused = this.refusal("poll");
    const result = -refused || this.get(fd, "poll").poll() & (events | 8 | 16);
    this.log(() => `poll ${fd} ${events} -> ${result}`);
    return result;
  }

  pollOnThread(fd: number, events: number, milliseconds: number): Promise<number> {
    this.enter();
    const description = this.get(fd, "poll").hold();
    const wakesAt = milliseconds < 0 ? Infinity : this.now + milliseconds;
    const ready = () => {
      this.#ring();
      return description.poll() & (events | 8 | 16);
    };
    const isEpoll = description.file instanceof EpollFile;
    const refused = this.refusal("poll");
    const call = new Call(this, isEpoll ? EPOLL : `poll ${fd}`, () => {
      if (refused) return -1;
      const result = ready();
      return result === 0 && this.now < wakesAt ? undefined : result;
    }, { held: description, wakesAt });
    call.canReturn = () => refused > 0 || ready() !== 0 || this.now >= wakesAt;
    return this.#begin(call);
  }

  sleep(milliseconds: number): Promise<number> {
    this.enter();
    const wakesAt = this.now + milliseconds;
    const call = new Call(this, "usleep", () => 0, { wakesAt });
    call.canReturn = () => this.now >= wakesAt;
    return this.#begin(call);
  }

  // ---- epoll and timers.

  epollCreate(): number {
    this.enter();
    const refused = this.refusal("epoll_create1");
    if (refused) return -refused;
    return this.install(new Description(new EpollFile("epoll"), 2));
  }

  timerCreate(): number {
    this.enter();
    const refused = this.refusal("timerfd_create");
    if (refused) return -refused;
    const timer = new Timer("timer");
    this.#timers.push(timer);
    return this.install(new Description(timer, 2, 0o4000));
  }

  timerSet(fd: number, milliseconds: number): number {
    this.enter();
    const { file } = this.get(fd, "timerfd_settime");
    if (!(file instanceof Timer)) return -EINVAL;
    const refused = this.refusal("timerfd_settime");
    if (refused) return -refused;
    file.set(this.now + milliseconds);
    return 0;
  }

  #epoll(fd: number): EpollFile {
    const { file } = this.get(fd, "epoll");
    return file instanceof EpollFile ? file : this.fail(`${fd} is no epoll`);
  }

  epollControl(epoll: number, op: number, fd: number, events: number, data: number): number {
    this.enter();
    const file = this.#epoll(epoll), description = this.get(fd, "epoll_ctl");
    const refused = this.refusal("epoll_ctl");
    if (refused) {
      this.refusedToWatchAt = this.now;
      return -refused;
    }
    const { watches } = this.refusals;
    // The alarm is the first of them.
    const isFull = op === 1 && watches >= 0 && file.watches.length > watches;
    const result = isFull && !description.file.isAlwaysReady
      ? -ENOSPC
      : file.control(op, fd, description, events, data);
    if (isFull && result < 0) this.refusedToWatchAt = this.now;
    this.log(() => `epoll_ctl ${["", "add", "remove", "change"][op]} ${fd} ${events} -> ${result}`);
    return result;
  }

  /** What waits in a socket for more would wait for as long as the engine does. */
  #mustHaveSent(): void {
    for (const file of this.corked) {
      this.fail(`${file.name} has bytes that wait for what does not follow at once`);
    }
    for (const file of this.unacknowledged) {
      if (!(file instanceof StreamSocket) || file.isConnecting) continue;
      if (file.poll() & RDHUP) continue; // its peer has sent everything, and waits for nothing
      this.fail(`${file.name} does not acknowledge at once`);
    }
  }

  epollWait(epoll: number, events: Int32Array, most: number, milliseconds: number): number {
    this.enter();
    const file = this.#epoll(epoll);
    const refused = this.refusal("epoll_wait");
    if (refused) return -refused;
    // A call on another thread takes time; the engine sees its result after an alarm.
    if (this.idleRounds > 2 && this.calls.size > 0) this.now += 0.25;
    this.#ring();
    if (milliseconds !== 0 && !file.isAnyReady) this.#mustHaveSent();
    while (milliseconds !== 0) {
      const isReady = file.isAnyReady;
      const drawn = this.isHostile && this.areChoicesLeft ? this.#pick([192, 32, 16, 16]) : 0;
      if (drawn === 3) {
        this.happened();
        this.log(() => "epoll_wait -> interrupted");
        return -EINTR;
      }
      if (isReady && drawn === 0) break;
      if (drawn === 2 && this.#passTime(false)) this.#ring();
      else if (!this.step()) {
        if (isReady) break;
        if (!this.#isAboutToRing) this.onIdle?.();
        if (!this.#passTime(false)) this.fail("epoll_wait never returns");
        this.#ring();
      }
    }
    const words = events.length % 3 === 0 ? 3 : 4;
    const first = file.watches.length > 2 ? this.choose(file.watches.length) : 0;
    const count = file.collect(events, most, words, first);
    this.log(() => {
      const told = Array.from({ length: count }, (_, i) => {
        const data = events[i * words + (words === 3 ? 1 : 2)] ?? 0;
        return `${data}:${events[i * words]}`;
      });
      return `epoll_wait ${milliseconds} -> ${told.join(" ") || "nothing"}`;
    });
    const isTimers = count === 1 && this.#isTimer(events[words === 3 ? 1 : 2] ?? -1);
    if (count > 0 && !isTimers && ++this.idleRounds > this.mostIdleRounds) {
      this.fail(`spins: readiness was told ${this.idleRounds} times, and nothing moved`);
    }
    return count;
  }

  #isTimer(fd: number): boolean {
    return this.#table[fd]?.description.file instanceof Timer;
  }

  // ---- fcntl(2), and pipes.

  fcntl(fd: number, command: number, argument: number): number {
    this.enter();
    const entry = this.#table[fd];
    if (!entry) return command === F_GETFD ? -EBADF : this.fail(`fcntl of ${fd}, which is closed`);
    const { description } = entry;
    const { file } = description;
    const name = COMMANDS[command];
    const refused = name ? this.refusal(name) : 0;
    if (command === F_DUPFD_CLOEXEC && refused === EMFILE) this.hadNoNumberAt = this.now;
    if (refused) return -refused;
    switch (command) {
      case F_GETFD:
        return entry.flags;
      case F_GETFL:
        return description.flags | description.access & O_ACCMODE;
      case F_SETFL:
        if (this.refusals.setFlags) return -this.refusals.setFlags;
        this.log(() => `fcntl ${fd} F_SETFL ${argument}`);
        description.flags = argument & ~O_ACCMODE;
        return 0;
      case F_GETSIG:
        return description.signal;
      case F_SETSIG:
        description.signal = argument;
        return 0;
      case F_DUPFD_CLOEXEC:
        return this.install(description);
      case F_GETPIPE_SZ:
        return file instanceof Pipe ? file.most * 4096 : -EBADF;
      case F_SETPIPE_SZ: {
        if (!(file instanceof Pipe)) return -EBADF;
        const result = this.refusals.shortOfPipes && argument > file.most * 4096
          ? -EPERM
          : file.resize(argument, this.refusals.forgetsWriters);
        this.log(() => `fcntl ${fd} F_SETPIPE_SZ ${argument} -> ${result}`);
        return result;
      }
    }
    return this.fail(`fcntl: command ${command} is not known to the simulator`);
  }

  pipe2(ends: Int32Array): number {
    this.enter();
    const refused = this.refusal("pipe2");
    if (refused) return -refused;
    if (this.refusals.shortOfNumbers) return -EMFILE;
    const pipe = new Pipe("pipe of the engine's");
    if (this.refusals.shortOfPipes) pipe.most = 2;
    ends[0] = this.install(new Description(pipe, 0));
    ends[1] = this.install(new Description(pipe, 1));
    this.log(() => `pipe2 -> ${ends[0]} ${ends[1]}`);
    return 0;
  }
}
