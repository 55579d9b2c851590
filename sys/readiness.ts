/**
 * Readiness of many descriptors at once: epoll(7), level-triggered.
 *
 * @module
 */
import * as libc from "./libc.ts";
import { SystemError } from "./error.ts";

/** The most descriptors that one wait reports; the others come with the next. */
const MOST = 256;

// struct epoll_event, in 32-bit words: packed on x86-64 only (epoll_ctl(2)).
const WORDS = Deno.build.arch === "x86_64" ? 3 : 4;
const DATA = Deno.build.arch === "x86_64" ? 1 : 2;

/** The longest alarm, in nanoseconds: 11 days. */
const LONGEST = 1e15;

const ADD = 1, REMOVE = 2, CHANGE = 3;
const EDGE = 1 << 31;

/** The descriptors that are waited for, and the wait. */
export class Readiness {
  readonly #epoll = opened("epoll_create1", libc.epollCreate());
  /** Ends a wait when its time has come. */
  readonly #timer = opened("timerfd_create", libc.timer());
  readonly #events = new Int32Array(MOST * WORDS);
  readonly #pointer = Deno.UnsafePointer.of(this.#events);
  readonly #event = new Int32Array(WORDS);
  readonly #eventPointer = Deno.UnsafePointer.of(this.#event);
  readonly #ignored = new Int32Array(WORDS);

  /** To be made while all descriptors are open: the alarm is told from them by its number. */
  constructor() {
    // Edge-triggered, so that nobody has to read how often it rang.
    this.watch(this.#timer, -1, libc.IN | EDGE);
  }

  /**
   * Changes what is waited for on a descriptor from `before` to `after`: a sum
   * of IN and OUT, 0 for errors and hang-ups alone (they always show), -1 for
   * nothing at all. Answers false where the descriptor is always ready (a
   * regular file), so that epoll refuses it.
   */
  watch(fd: number, before: number, after: number): boolean {
    if (before === after) return true;
    const operation = before === -1 ? ADD : after === -1 ? REMOVE : CHANGE;
    this.#event[0] = after;
    this.#event[DATA] = fd;
    const result = libc.epollControl(this.#epoll, operation, fd, this.#eventPointer);
    // Adding never gives ENOENT: then errno was lost to the runtime (see libc.ts).
    if (result === -libc.EPERM || operation === ADD && result === -libc.ENOENT) return false;
    if (result < 0) throw new SystemError("epoll_ctl", fd, result);
    return true;
  }

  /**
   * Waits on this thread, `milliseconds` at most (-1: no limit). Answers how many
   * descriptors are ready, for {@linkcode descriptor} and {@linkcode events}; the
   * alarm is one that nobody asked for. -EINTR where a signal came.
   */
  wait(milliseconds: number): number {
    return libc.epollWait(this.#epoll, this.#pointer, MOST, milliseconds);
  }

  /** Ends a {@linkcode wait} or an {@linkcode idle} once, after `milliseconds`: any earlier alarm is off. */
  alarm(milliseconds: number): void {
    libc.setTimer(this.#timer, Math.min(Math.max(1, Math.round(milliseconds * 1e6)), LONGEST));
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
   * Lets the event loop run until something is ready, or an alarm rings. The
   * wait itself is on another thread; what is ready the next {@linkcode wait}
   * tells.
   */
  async idle(): Promise<void> {
    await libc.epollWaitOnThread(this.#epoll, this.#ignored, 1, -1);
  }

  /** Gives both descriptors back. */
  close(): void {
    libc.close(this.#timer);
    libc.close(this.#epoll);
  }
}

function opened(operation: string, fd: number): number {
  if (fd < 0) throw new SystemError(operation, undefined, fd);
  return fd;
}
