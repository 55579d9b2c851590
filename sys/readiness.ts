/**
 * Waiting for descriptors on another thread: on one, however many wait. The runtime has
 * no more than 32 threads for calls that wait; were each taken by one that waits for a
 * silent peer, nothing that needs a thread would go on, in the whole program.
 *
 * @module
 */
import { EBADF } from "./constants.ts";
import { Epoll, UNWATCHED } from "./epoll.ts";
import { SystemError } from "./error.ts";
import * as libc from "./libc.ts";

/** Somebody who waits for `events` of a descriptor. */
interface Wait {
  readonly events: number;
  readonly resolve: (revents: number) => void;
  readonly reject: (error: unknown) => void;
}

/** A wait that nothing can end, as epoll refuses it, ends after so long: it is to be tried again. */
const REFUSED_MS = 100;

/** Who waits, by the descriptor's number. */
const waits = new Map<number, readonly Wait[]>();
let shared: Epoll | undefined;

/**
 * Which of `events` hold, and ERR and HUP (poll(2)), once there are any; 0 for nothing, to be
 * tried again. Where that is refused the negative errno; -EBADF once {@linkcode forget} was called.
 */
export async function ready(fd: number, events: number): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  const before = waits.get(fd) ?? [];
  let epoll = shared;
  try {
    epoll ??= new Epoll();
    change(epoll, fd, before, [...before, { events, resolve, reject }]);
  } catch (error) {
    if (epoll !== shared) epoll?.close();
    if (!(error instanceof SystemError)) throw error;
    // Of a regular file, or where there is no descriptor or memory: on a thread of its own.
    return await libc.pollOnThread(fd, events, REFUSED_MS);
  }
  if (!shared) void wait(shared = epoll);
  return await promise;
}

/** Who waits for `fd` does so no more: to be called before it is closed. */
export function forget(fd: number): void {
  const before = shared && waits.get(fd);
  if (!shared || !before) return;
  change(shared, fd, before, []);
  for (const { resolve } of before) resolve(-EBADF);
  if (waits.size === 0) libc.timerfdSettime(shared.timer, 1); // ends the wait
}

/** Until nobody waits any more: then nothing is left open. */
async function wait(epoll: Epoll): Promise<void> {
  try {
    while (waits.size > 0) {
      await epoll.waitOnThread((fd, events) => libc.pollOnThread(fd, events, -1));
      const count = epoll.wait(0);
      for (let i = 0; i < count; i++) deliver(epoll, epoll.descriptor(i));
    }
  } catch (error) {
    for (const list of waits.values()) for (const { reject } of list) reject(error);
    waits.clear();
  }
  epoll.close();
  shared = undefined;
}

/** What epoll says may be of a number that was used before: only poll(2) is believed. */
function deliver(epoll: Epoll, fd: number): void {
  const before = waits.get(fd);
  if (!before) return;
  const results = before.map(({ events }) => libc.poll(fd, events));
  change(epoll, fd, before, before.filter((_, i) => results[i] === 0));
  for (const [i, { resolve }] of before.entries()) if (results[i]) resolve(results[i]);
}

/** Throws a {@linkcode SystemError} where that is refused. */
function change(epoll: Epoll, fd: number, before: readonly Wait[], after: readonly Wait[]): void {
  epoll.watch(fd, interest(before), interest(after));
  if (after.length > 0) waits.set(fd, after);
  else waits.delete(fd);
}

function interest(waits: readonly Wait[]): number {
  return waits.length === 0 ? UNWATCHED : waits.reduce((all, { events }) => all | events, 0);
}
