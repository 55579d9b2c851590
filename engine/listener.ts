import { EAGAIN, EINVAL, EPERM, HUP, IN, RDHUP } from "../sys/constants.ts";
import { isShortage, SystemError } from "../sys/error.ts";
import type { Fd } from "../sys/fd.ts";
import * as libc from "../sys/libc.ts";
import { accept, concernsOneConnection, handedDown, type SocketOption } from "../sys/socket.ts";
import type { Host } from "./channel.ts";
import { Connection } from "./endpoint.ts";
import type { Watcher } from "./loop.ts";

/** How many connections are accepted before others have their turn: few, as for MAX_EVENTS in sys/epoll.ts. */
const ACCEPTS_PER_TURN = 4;

/** After so many in a row that are forbidden, none can be accepted. */
const MAX_FORBIDDEN = 32;

/** What a listener asks and tells its service. */
export interface Acceptor {
  /** Why no connection may be accepted now, in words; undefined where one may. */
  whyNot(): string | undefined;
  /** Somebody waits who may not be accepted. */
  onFull(reason: string): void;
  /** A connection was accepted; `peer` is the address of who made it, packed. */
  onAccepted(fd: number, peer: string): void;
  /** The system is out of descriptors or memory. */
  onShortage(): void;
  /** The system refuses to accept any connection. */
  onFailure(error: SystemError): void;
}

/** One listening socket. */
export class Listener implements Watcher {
  readonly fd: Fd;
  readonly #host: Host;
  readonly #connection = new Connection();
  readonly #acceptor: Acceptor;
  /** How many in a row were forbidden: a firewall forbids one connection, a seccomp filter all of them. */
  #forbidden = 0;
  /** Whether somebody has shut it down. */
  #isHungUp = false;
  readonly #handedDown: readonly SocketOption[];

  constructor(fd: Fd, host: Host, acceptor: Acceptor) {
    this.fd = fd;
    this.#host = host;
    this.#acceptor = acceptor;
    this.#handedDown = handedDown(fd.fd);
  }

  /** Accepts connections, or leaves those that come to the kernel's queue. */
  listen(on: boolean): void {
    if (this.fd.isClosed) return;
    if (on) this.#host.loop.watch(this.fd.fd, IN | RDHUP, this);
    else this.#host.loop.unwatch(this.fd.fd);
  }

  /** At the end of this round: a new socket may get the number of one that was closed in this one, and then its events. */
  ready(events: number): void {
    this.#isHungUp = (events & (HUP | RDHUP)) !== 0;
    this.#host.loop.soon(this);
  }

  /** Whether somebody waits to be accepted, or the system refuses to say. */
  get isAsked(): boolean {
    return !this.fd.isClosed && libc.poll(this.fd.fd, IN) !== 0;
  }

  run(): void {
    const { fd } = this.fd, acceptor = this.#acceptor;
    for (let i = 0; i < ACCEPTS_PER_TURN && !this.fd.isClosed; i++) {
      const reason = acceptor.whyNot();
      if (reason !== undefined) {
        if (i > 0) return; // until somebody waits, who may have been accepted just now
        this.listen(false);
        return acceptor.onFull(reason);
      }
      // Another process may take the connection before we do. It may put the flag back as well,
      // when it ends: so it is checked in each turn, and none is accepted that was not announced:
      // the first one by epoll, or by poll(2), as the others.
      if (i > 0 && !this.isAsked) return;
      const refused = i > 0 || this.fd.isOurs ? 0 : this.#connection.makeNonBlocking(fd);
      if (refused < 0) return this.#fail("fcntl", refused);
      const accepted = accept(fd);
      if (accepted !== -EPERM) this.#forbidden = 0;
      else if (++this.#forbidden < MAX_FORBIDDEN) continue;
      if (typeof accepted !== "number") {
        for (const [level, option, value] of this.#handedDown) {
          libc.setsockopt(accepted.fd, level, option, value);
        }
        acceptor.onAccepted(accepted.fd, accepted.peer);
      } else if (accepted === -EAGAIN) {
        // Of a unix socket that was shut down, only the event tells that none will come.
        return this.#isHungUp ? this.#fail("accept", -EINVAL) : undefined;
      } else if (isShortage(-accepted)) return acceptor.onShortage();
      else if (!concernsOneConnection(accepted)) return this.#fail("accept", accepted);
    }
  }

  #fail(syscall: string, error: number): void {
    this.#acceptor.onFailure(new SystemError(syscall, this.fd.fd, error));
  }

  /** Puts the flag back that other processes share. */
  restore(): void {
    if (!this.fd.isClosed) this.#connection.restore(this.fd.fd);
  }

  close(): void {
    this.listen(false);
    this.restore();
    this.fd.tryClose();
  }
}
