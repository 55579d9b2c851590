import { ERR, HUP, RDHUP } from "../sys/constants.ts";
import { UNWATCHED } from "../sys/epoll.ts";
import * as libc from "../sys/libc.ts";
import { setKeepAlive } from "../sys/socket.ts";
import type { Host } from "./channel.ts";
import type { Watcher } from "./loop.ts";
import type { Session } from "./session.ts";

/** A client of one of two listening sockets, until one comes to the other; it is dropped should it go. */
export class Waiting implements Watcher {
  readonly session: Session;
  readonly #onGone: (waiting: Waiting) => void;
  readonly #host: Host;

  constructor(session: Session, isUnix: boolean, host: Host, onGone: (waiting: Waiting) => void) {
    this.session = session;
    this.#host = host;
    this.#onGone = onGone;
    host.loop.watch(session.client, RDHUP, this);
    if (!isUnix) setKeepAlive(session.client); // one that has vanished is not to be joined
  }

  ready(events: number): void {
    if (this.#isGone(events)) this.drop();
    else this.#host.loop.watch(this.session.client, events & HUP ? UNWATCHED : 0, this); // else that would be reported for ever
  }

  /** Whether its client has gone. */
  get isGone(): boolean {
    return this.#isGone(libc.poll(this.session.client, RDHUP));
  }

  /** Its client has gone, without having met anybody. */
  drop(): void {
    this.#onGone(this);
  }

  // A half-close looks like a close, and a unix socket's close leaves what was sent. A client
  // that has sent nothing has gone; one that has may wait for a reply, or wants it delivered.
  #isGone(events: number): boolean {
    if (events & ERR) return true;
    return (events & (RDHUP | HUP)) !== 0 && libc.bytesQueued(this.session.client) === 0;
  }

  /** Watches it no more. */
  leave(): Session {
    this.#host.loop.unwatch(this.session.client);
    return this.session;
  }
}
