/**
 * Readiness of many descriptors at once (epoll(7)), and an alarm that ends a
 * wait (timerfd_create(2)).
 *
 * @module
 */
import * as libc from "./libc.ts";
import { EBADF, EDGE, EINTR, ENOENT, EPERM, IN, OUT } from "./constants.ts";
import { SystemError } from "./error.ts";

/**
 * The most events that one wait returns; the others come with the next. So few, as all of them are
 * dealt with before anything is sent: with 256, twenty connections are closed in a row while the
 * programs at both sides have nothing to do, and `ab` makes 0.98 times as many (`deno task
 * bench:serving --tests=http`).
 */
const MAX_EVENTS = 8;

// struct epoll_event, in 32-bit words: packed on x86-64 only (epoll_ctl(2)).
const WORDS = Deno.build.arch === "x86_64" ? 3 : 4;
const DATA = Deno.build.arch === "x86_64" ? 1 : 2;

/** The longest alarm: 11 days. */
const MAX_ALARM_NS = 1e15;

/** So many waits on another thread may be refused in a row, as memory may be short for a moment. */
const MAX_REFUSALS = 1000;

const ADD = 1, REMOVE = 2, CHANGE = 3;

/** Not watched at all; 0 is watched for errors and hang-ups alone. */
export const UNWATCHED: number = -1;

/** The descriptors that are watched, and the wait. */
export class Epoll {
  readonly #epoll: number;
  /** The alarm's descriptor, by which its event is known. */
  readonly timer: number;
  /** A pipe that stands in for an alarm that is refused. */
  readonly #bell = new Int32Array([-1, -1]);
  readonly #events = new Int32Array(MAX_EVENTS * WORDS);
  readonly #event = new Int32Array(WORDS);
  #refusals = 0;

  /** Throws a {@linkcode SystemError} where the system refuses one of its descriptors; then it has none. */
  constructor() {
    this.#epoll = opened("epoll_create1", libc.epollCreate());
    this.timer = libc.timerfdCreate();
    try {
      opened("timerfd_create", this.timer);
      // Edge-triggered, so that nobody has to read how often it has expired.
      this.watch(this.timer, UNWATCHED, IN | EDGE);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /**
   * Changes what is watched for on a descriptor from `before` to `after`: a sum
   * of IN, OUT and EDGE, 0 for errors and hang-ups alone (they always show), or
   * {@linkcode UNWATCHED}. Returns false where epoll refuses the descriptor, as
   * it does a regular file, which is always ready: only one that `mayBeRefused`. Throws a
   * {@linkcode SystemError} where there is no memory, the user's limit of
   * watched descriptors is reached, or a filter refuses the call.
   */
  watch(fd: number, before: number, after: number, mayBeRefused = false): boolean {
    if (before === after) return true;
    const operation = before === UNWATCHED ? ADD : after === UNWATCHED ? REMOVE : CHANGE;
    this.#event[0] = after;
    this.#event[DATA] = fd;
    const result = libc.epollControl(this.#epoll, operation, fd, this.#event);
    if (result >= 0) return true;
    if (operation === ADD && result === -EPERM && mayBeRefused) return false;
    // What is closed already is watched no more.
    if (operation === REMOVE && (result === -ENOENT || result === -EBADF)) return true;
    throw new SystemError("epoll_ctl", fd, result);
  }

  /**
   * Waits on this thread, `milliseconds` at most (-1: no limit). Returns how many
   * descriptors are ready, for {@linkcode descriptor} and {@linkcode events};
   * -EINTR where a signal came. Throws a {@linkcode SystemError} where that is refused.
   */
  wait(milliseconds: number): number {
    const count = libc.epollWait(this.#epoll, this.#events, MAX_EVENTS, milliseconds);
    if (count < 0 && count !== -EINTR) throw new SystemError("epoll_wait", undefined, count);
    return count;
  }

  /** The descriptor of the `index`th event of the last wait. */
  descriptor(index: number): number {
    return this.#events[index * WORDS + DATA] ?? -1;
  }

  /** What the `index`th event of the last wait says: IN, OUT, ERR, HUP. */
  events(index: number): number {
    return this.#events[index * WORDS] ?? 0;
  }

  /**
   * Waits on another thread until something is ready, which the next
   * {@linkcode wait} returns. By `poll`, as epoll_wait(2) would consume the events
   * that are reported once only (EDGE). Where it is refused, the wait is over after 0.1 ms, and
   * rejects with a {@linkcode SystemError} after so many in a row.
   */
  async waitOnThread(poll: (fd: number, events: number) => Promise<number>): Promise<void> {
    const result = await poll(this.#epoll, IN);
    this.#refusals = result < 0 ? this.#refusals + 1 : 0;
    if (this.#refusals > MAX_REFUSALS) throw new SystemError("poll", undefined, result);
    if (result < 0) await libc.rest();
  }

  /**
   * Ends a wait once, after `milliseconds`: any earlier alarm is off. Throws a
   * {@linkcode SystemError} where that is refused, as a wait would have no end.
   */
  alarm(milliseconds: number): void {
    const nanoseconds = Math.min(Math.max(1, Math.round(milliseconds * 1e6)), MAX_ALARM_NS);
    const result = libc.timerfdSettime(this.timer, nanoseconds);
    if (result < 0) throw new SystemError("timerfd_settime", undefined, result);
  }

  /** Ends this wait and all others, where no alarm can: an empty pipe is always ready to be written. */
  ring(): void {
    const [reading = -1] = this.#bell;
    if (reading >= 0 || libc.pipe2(this.#bell) < 0) return;
    const [, writing = -1] = this.#bell;
    this.#event[0] = OUT;
    this.#event[DATA] = writing;
    libc.epollControl(this.#epoll, ADD, writing, this.#event);
  }

  /** Gives its descriptors back. */
  close(): void {
    for (const fd of [...this.#bell, this.timer, this.#epoll]) if (fd >= 0) libc.close(fd);
  }
}

function opened(operation: string, fd: number): number {
  if (fd < 0) throw new SystemError(operation, undefined, fd);
  return fd;
}
