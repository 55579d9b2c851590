/**
 * Readiness of many descriptors at once (epoll(7)), and an alarm that ends a
 * wait (timerfd_create(2)).
 *
 * @module
 */
import * as libc from "./libc.ts";
import { EDGE, IN } from "./constants.ts";
import { ENOENT, EPERM } from "./errno.ts";
import { SystemError } from "./error.ts";

/** The most events that one wait returns; the others come with the next. */
const MAX_EVENTS = 256;

// struct epoll_event, in 32-bit words: packed on x86-64 only (epoll_ctl(2)).
const WORDS = Deno.build.arch === "x86_64" ? 3 : 4;
const DATA = Deno.build.arch === "x86_64" ? 1 : 2;

/** The longest alarm: 11 days. */
const MAX_ALARM_NS = 1e15;

const ADD = 1, REMOVE = 2, CHANGE = 3;

/** Not watched at all; 0 is watched for errors and hang-ups alone. */
export const UNWATCHED: number = -1;

/** The descriptors that are watched, and the wait. */
export class Epoll {
  readonly #epoll = opened("epoll_create1", libc.epollCreate());
  /** The alarm's descriptor, by which its event is known. */
  readonly timer: number = opened("timerfd_create", libc.timerfdCreate());
  readonly #events = new Int32Array(MAX_EVENTS * WORDS);
  readonly #event = new Int32Array(WORDS);

  constructor() {
    // Edge-triggered, so that nobody has to read how often it has expired.
    this.watch(this.timer, UNWATCHED, IN | EDGE);
  }

  /**
   * Changes what is watched for on a descriptor from `before` to `after`: a sum
   * of IN, OUT and EDGE, 0 for errors and hang-ups alone (they always show), or
   * {@linkcode UNWATCHED}. Returns false where epoll refuses the descriptor, as
   * it does a regular file, which is always ready. Throws a
   * {@linkcode SystemError} where there is no memory, or the user's limit of
   * watched descriptors is reached.
   */
  watch(fd: number, before: number, after: number): boolean {
    if (before === after) return true;
    const operation = before === UNWATCHED ? ADD : after === UNWATCHED ? REMOVE : CHANGE;
    this.#event[0] = after;
    this.#event[DATA] = fd;
    const result = libc.epollControl(this.#epoll, operation, fd, this.#event);
    // Adding never gives ENOENT: then errno was lost to the runtime (see libc.ts).
    if (result === -EPERM || operation === ADD && result === -ENOENT) return false;
    if (result < 0) throw new SystemError("epoll_ctl", fd, result);
    return true;
  }

  /**
   * Waits on this thread, `milliseconds` at most (-1: no limit). Returns how many
   * descriptors are ready, for {@linkcode descriptor} and {@linkcode events};
   * -EINTR where a signal came.
   */
  wait(milliseconds: number): number {
    return libc.epollWait(this.#epoll, this.#events, MAX_EVENTS, milliseconds);
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
   * {@linkcode wait} returns. By poll(2), as epoll_wait(2) would consume the events
   * that are reported once only (EDGE).
   */
  async waitOnThread(): Promise<void> {
    await libc.pollOnThread(this.#epoll, IN, -1);
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

  /** Gives both descriptors back. */
  close(): void {
    libc.close(this.timer);
    libc.close(this.#epoll);
  }
}

function opened(operation: string, fd: number): number {
  if (fd < 0) throw new SystemError(operation, undefined, fd);
  return fd;
}
