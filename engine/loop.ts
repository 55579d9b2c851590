/**
 * The loop: waits until a descriptor is ready, and calls who watches it.
 *
 * How it waits. It blocks in epoll_wait(2) on the program's one thread, since a
 * round through Deno's event loop costs 0.1 ms. So that timers, signals and
 * promises have their turn, an alarm (a timerfd in the same epoll) ends the wait
 * after `yieldAfter` ms. Then, if something was ready since the last time, the
 * loop rests for 0.1 ms on another thread while the event loop runs; if nothing was,
 * the wait itself moves to another thread, which all loops share, until something is
 * ready. Where several loops of a program have something to do, it moves there at once.
 * While a call is under way on another thread, of which only the event loop hears, the
 * alarm comes after 1 ms. It also comes when one of the loop's own timers is due.
 *
 * @module
 */
import { Epoll, UNWATCHED } from "../sys/epoll.ts";
import { SystemError } from "../sys/error.ts";
import * as libc from "../sys/libc.ts";
import { ready } from "../sys/readiness.ts";

/** What is called when a descriptor is ready, with a sum of IN, OUT, ERR and HUP. */
export interface Watcher {
  ready(events: number): void;
}

/** What is to run at the end of a round, after the watchers of all that was ready. */
export interface Task {
  run(): void;
}

/** Throws a `RangeError` where an option is no time that {@linkcode Loop.after} could wait for. */
export function mustBeTime(name: string, milliseconds: number): void {
  if (milliseconds >= 0) return;
  throw new RangeError(`${name}: ${milliseconds} is not a time in milliseconds`);
}

/** How often a timeout is checked while it runs, and the bounds of that interval. */
const CHECKS_PER_TIMEOUT = 20, MIN_CHECK_MS = 10, MAX_CHECK_MS = 1000;

/** After how many milliseconds to check again whether so many have passed without a byte. */
export function checkInterval(milliseconds: number): number {
  return Math.max(MIN_CHECK_MS, Math.min(MAX_CHECK_MS, milliseconds / CHECKS_PER_TIMEOUT));
}

/** As `yieldAfter`, while a call is under way on another thread. */
const THREAD_YIELD_MS = 1;

/** A task that is to run once `performance.now()` is `due`. */
interface Timer extends Task {
  readonly due: number;
}

/**
 * Rounds in one call of {@linkcode Loop.run}'s inner function: V8 enters
 * optimized code at a call, and would compile an endless loop once more for it.
 * In one endless loop a round trip takes 1.1 to 1.8 times as long, and 1.2 to 2.4
 * times the CPU (`deno task bench --tests=ping --against=OTHER`).
 */
const ROUNDS_PER_CALL = 64;

/**
 * After so many rounds the calls of each round are worth compiling: see libc.compile. Before
 * the first one, it would delay each start by 2.5 ms (`deno task bench --tests=start --against=OTHER`).
 */
const COMPILE_AFTER_ROUNDS = 64;

/**
 * How many loops run in this program and do not wait on the other thread. Only one that is alone
 * waits on this one: forty that did would each keep the others waiting for their `yieldAfter`.
 */
let awake = 0;

/** One loop, to be run once. */
export class Loop {
  readonly #epoll = new Epoll();
  /** By the descriptor's number. */
  readonly #watchers: (Watcher | undefined)[] = [];
  /** What epoll watches each for, by the same number; UNWATCHED for one that is to be watched again. */
  readonly #watched: (number | undefined)[] = [];
  readonly #yieldAfter: number;
  readonly #beforeWait: (() => Promise<void> | undefined | void) | undefined;
  readonly #timers = new Set<Timer>();
  /** When the first of them is due, and when the event loop has its next turn. */
  #firstDue = Infinity;
  #turnAt = Infinity;
  #tasks: Task[] = [];
  /** How many need the loop to go on. */
  #refs = 0;
  /** Calls under way on other threads. */
  #threads = 0;
  #rounds = 0;
  /** How many descriptors are ready in this round, and were not dispatched yet. */
  #toCome = 0;
  #isClosed = false;
  /** What the system has refused, to be thrown by the next round. */
  #failure: SystemError | undefined;
  /** Whether the event loop has its turn after this round. At first it has: who calls `run` has more to do. */
  #yieldDue = true;
  /** Whether nothing was ready since the event loop had its last turn. */
  #idle = false;
  /** Set while a promise of `beforeWait` is awaited: the round that follows does not ask again. */
  #isSettling = false;
  /** When this round began; 0 until somebody asks, NaN outside of a round. */
  #time = NaN;

  /** `yieldAfter` in milliseconds; `beforeWait` is called before each wait, and what it returns is awaited. */
  constructor(yieldAfter: number, beforeWait?: () => Promise<void> | undefined | void) {
    this.#yieldAfter = yieldAfter;
    this.#beforeWait = beforeWait;
  }

  /**
   * Watches `fd` for `events`, and for nothing else any more. Returns false where it is always ready, as
   * only one that `mayBeRefused` can be. Throws as {@linkcode Epoll.watch} does.
   */
  watch(fd: number, events: number, watcher: Watcher, mayBeRefused = false): boolean {
    const isWatched = this.#epoll.watch(fd, this.watched(fd), events, mayBeRefused);
    this.#set(fd, isWatched ? events : UNWATCHED, watcher);
    return isWatched;
  }

  /** What `fd` is watched for, or UNWATCHED. */
  watched(fd: number): number {
    return this.#watched[fd] ?? UNWATCHED;
  }

  /** The events of `fd`, if it is watched, go to another watcher from now on. */
  handOver(fd: number, watcher: Watcher): void {
    this.#set(fd, this.watched(fd), watcher);
  }

  #set(fd: number, events: number | undefined, watcher?: Watcher): void {
    this.#watched[fd] = events;
    this.#watchers[fd] = events === UNWATCHED ? undefined : watcher;
  }

  /** Watches `fd` no more. An error does not stop who leaves: it goes to {@linkcode fail}. */
  unwatch(fd: number): void {
    const before = this.watched(fd);
    this.#set(fd, undefined);
    try {
      this.#epoll.watch(fd, before, UNWATCHED);
    } catch (error) {
      this.fail(error);
    }
  }

  /**
   * Ends the loop with the error of a {@linkcode watch} or an alarm whose caller cannot deal with
   * it. To go on would be to spin: epoll would report, for ever, what nobody waits for.
   */
  fail(error: unknown): void {
    if (!(error instanceof SystemError)) throw error;
    this.#failure ??= error;
  }

  /** Whether somebody watches `fd`, or has done so and goes on using it. */
  knows(fd: number): boolean {
    return this.#watched[fd] !== undefined;
  }

  /**
   * Forgets who watches `fd`, where that needs no call: epoll has refused it, or it is ours and has
   * no other number, so that closing it ends its watch (epoll(7)).
   */
  forget(fd: number): void {
    this.#set(fd, undefined);
  }

  /** Whether more descriptors are to be dispatched in this round, before the tasks. */
  get hasMoreReady(): boolean {
    return this.#toCome > 0;
  }

  /** Has `task` run at the end of this round; or of the next one, where a task calls this. */
  soon(task: Task): void {
    this.#tasks.push(task);
  }

  /** Keeps the loop running, until {@linkcode unref} is called as often. */
  ref(): void {
    this.#refs++;
  }

  /** The reverse of {@linkcode ref}: at 0 the loop ends. */
  unref(): void {
    this.#refs--;
  }

  /**
   * Calls `callback` in a round after so many milliseconds, unless the loop has ended. Not
   * setTimeout, of which the first call takes 6 ms in Deno 2.9.
   */
  after(milliseconds: number, callback: () => void): void {
    // In whole milliseconds, so that many timers end few waits.
    const timer = { due: Math.ceil(performance.now() + milliseconds), run: callback };
    this.#timers.add(timer);
    if (timer.due < this.#firstDue) {
      this.#firstDue = timer.due;
      this.#setAlarm();
    }
  }

  /** Has the timers run that are due, at the end of this round. */
  #runTimers(now: number): void {
    this.#firstDue = Infinity;
    for (const timer of this.#timers) {
      if (timer.due > now) this.#firstDue = Math.min(this.#firstDue, timer.due);
      else {
        this.#timers.delete(timer);
        this.soon(timer);
      }
    }
  }

  /** Gives the event loop its turn after so many milliseconds. */
  #turnAfter(milliseconds: number): void {
    this.#turnAt = performance.now() + milliseconds;
    this.#setAlarm();
  }

  /** The caller may be no part of the loop: it is {@linkcode run} that rejects where the system refuses. */
  #setAlarm(): void {
    if (this.#isClosed) return;
    try {
      this.#epoll.alarm(Math.min(this.#turnAt, this.#firstDue) - performance.now());
    } catch (error) {
      this.fail(error);
      this.#epoll.ring();
    }
  }

  #alarmHasRung(): void {
    const now = performance.now();
    if (now >= this.#turnAt) {
      this.#yieldDue = true;
      this.#turnAt = Infinity;
    }
    if (now >= this.#firstDue) this.#runTimers(now);
    if (Math.min(this.#turnAt, this.#firstDue) < Infinity) this.#setAlarm();
  }

  /** Calls `done` in a round once `call`, on another thread, is over, with what it returned. */
  onThread(call: Promise<number>, done: (result: number) => void): void {
    this.#threads++;
    this.#turnAfter(THREAD_YIELD_MS);
    call.then((result) => {
      this.#threads--;
      this.soon({ run: () => done(result) });
      this.wake();
    });
  }

  /**
   * `performance.now()`, called once a round at the most: it takes 0.1 us, and each served
   * connection asks for the time seven times (`deno task bench:serving --tests=http`).
   */
  get time(): number {
    if (this.#time === 0) this.#time = performance.now();
    return this.#time || performance.now();
  }

  /** Whether somebody needs it to go on. */
  get isNeeded(): boolean {
    return this.#refs > 0;
  }

  /** Whether a round is under way, and not the event loop's turn. */
  get isInRound(): boolean {
    return !Number.isNaN(this.#time);
  }

  /** Ends the wait, so that what has changed meanwhile is seen. */
  wake(): void {
    this.#turnAfter(0);
  }

  /** Runs until nobody needs it. Rejects with a {@linkcode SystemError} where the system refuses to wait. */
  async run(): Promise<void> {
    awake++;
    try {
      while (this.#refs > 0) {
        const pause = this.#runRounds();
        if (!pause) continue;
        await pause;
        if (this.#isSettling) continue; // a promise that was settled already has given the event loop no turn
        this.#yieldDue = false;
        this.#idle = true;
        this.#turnAfter(this.#threads > 0 ? THREAD_YIELD_MS : this.#yieldAfter);
      }
    } finally {
      awake--;
    }
  }

  /** Some rounds; where the event loop has to have its turn, what to await meanwhile. */
  #runRounds(): Promise<void> | undefined {
    for (let i = 0; i < ROUNDS_PER_CALL && this.#refs > 0; i++) {
      if (this.#failure) throw this.#failure;
      if (++this.#rounds === COMPILE_AFTER_ROUNDS) libc.compile();
      const settled = this.#isSettling ? undefined : this.#beforeWait?.();
      this.#isSettling = Boolean(settled);
      if (settled) return settled;
      const isAlone = awake === 1;
      const mayBlock = isAlone && !this.#yieldDue && this.#tasks.length === 0;
      const count = this.#epoll.wait(mayBlock ? -1 : 0);
      this.#time = 0;
      for (let i = 0; i < count; i++) {
        this.#toCome = count - 1 - i;
        this.#dispatch(i);
      }
      if (this.#tasks.length > 0) this.#runTasks();
      this.#time = NaN;
      const isDone = !isAlone && count === 0 && this.#tasks.length === 0;
      // A signal ends the wait too, with -EINTR.
      if (!this.#yieldDue && count >= 0 && !isDone) continue;
      const wait = (isDone || this.#idle && count > 0) && this.#refs > 0;
      return wait ? this.#waitOnThread() : libc.rest();
    }
    return undefined;
  }

  async #waitOnThread(): Promise<void> {
    awake--;
    if (this.#turnAt < Infinity) this.#turnAfter(Infinity); // the event loop has its turn now
    try {
      await this.#epoll.waitOnThread(ready);
    } finally {
      awake++; // before any loop goes on that has been woken together with this one
    }
  }

  #dispatch(index: number): void {
    const fd = this.#epoll.descriptor(index);
    if (fd === this.#epoll.timer) {
      this.#alarmHasRung();
      return;
    }
    this.#idle = false;
    this.#watchers[fd]?.ready(this.#epoll.events(index));
  }

  #runTasks(): void {
    this.#idle = false;
    const tasks = this.#tasks;
    this.#tasks = [];
    for (const task of tasks) task.run();
  }

  /** Gives its descriptors back; no timer is called any more. */
  close(): void {
    this.#isClosed = true;
    this.#epoll.close();
  }
}
