import { EAGAIN, EPERM, IN } from "../sys/constants.ts";
import { UNWATCHED } from "../sys/epoll.ts";
import { isShortage, SystemError } from "../sys/error.ts";
import type { Fd } from "../sys/fd.ts";
import { accept, isPassing } from "../sys/socket.ts";
import type { Host } from "./channel.ts";
import { Connection } from "./endpoint.ts";
import type { Watcher } from "./loop.ts";

/** How many connections are accepted before others have their turn. With 32 there are 1 % fewer in a second. */
const ACCEPTS_PER_TURN = 8;

/** A firewall forbids one connection, a seccomp filter all of them: so many in a row are all. */
const MAX_FORBIDDEN = 32;

/** One listening socket. */
export class Listener implements Watcher {
  readonly fd: Fd;
  readonly isUnix: boolean;
  readonly #host: Host;
  readonly #connection = new Connection();
  readonly #onAccepted: (fd: number, peer: string) => void;
  readonly #mayAccept: () => boolean;
  readonly #onShort: () => void;
  #watched = UNWATCHED;
  #isClosed = false;
  /** How many in a row were forbidden. */
  #forbidden = 0;

  constructor(
    fd: Fd,
    host: Host,
    mayAccept: () => boolean,
    onAccepted: (fd: number, peer: string) => void,
    onShort: () => void,
  ) {
    this.fd = fd;
    this.isUnix = fd.isUnix;
    this.#host = host;
    this.#mayAccept = mayAccept;
    this.#onAccepted = onAccepted;
    this.#onShort = onShort;
  }

  /** Accepts connections, or leaves those that come to the kernel's queue. */
  listen(on: boolean): void {
    const wanted = on && !this.#isClosed ? IN : UNWATCHED;
    if (wanted === this.#watched) return;
    const { loop } = this.#host;
    if (wanted === UNWATCHED) loop.unwatch(this.fd.fd, this.#watched);
    else loop.watch(this.fd.fd, this.#watched, wanted, this);
    this.#watched = wanted;
  }

  /**
   * After all else in this round: a new socket may get the number of one that was closed in it,
   * and then its events. And who gets an answer first goes on meanwhile: 1.01 to 1.03 times as
   * many connections are made in a second (`deno task bench:serving --tests=http`).
   */
  ready(): void {
    this.#host.loop.atLast(this);
  }

  run(): void {
    const { fd } = this.fd;
    for (let i = 0; i < ACCEPTS_PER_TURN && !this.#isClosed; i++) {
      if (!this.#mayAccept()) return this.listen(false);
      // Another process may take the connection before we do. It may put the flag
      // back as well, when it ends: so it is checked each time.
      const refused = this.fd.isOurs ? 0 : this.#connection.makeNonBlocking(fd);
      if (refused < 0) throw new SystemError("fcntl", fd, refused);
      const accepted = accept(fd);
      this.#forbidden = accepted === -EPERM ? this.#forbidden + 1 : 0;
      if (this.#forbidden === MAX_FORBIDDEN) throw new SystemError("accept", fd, EPERM);
      if (typeof accepted !== "number") this.#onAccepted(accepted.fd, accepted.peer);
      else if (accepted === -EAGAIN) return;
      else if (isShortage(-accepted)) return this.#onShort();
      else if (!isPassing(accepted)) throw new SystemError("accept", fd, accepted);
    }
  }

  /** Puts the flag back that other processes share. */
  restore(): void {
    if (!this.#isClosed) this.#connection.restoreNow(this.fd.fd);
  }

  close(): SystemError | undefined {
    if (this.#isClosed) return undefined;
    this.listen(false);
    this.restore();
    this.#isClosed = true;
    return this.fd.tryClose();
  }
}
