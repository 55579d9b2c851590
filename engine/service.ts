/**
 * Serving: each connection that comes to a listening socket is joined with one
 * to the target, or with one that has come to another listening socket.
 *
 * A connection is a {@linkcode Session}: two channels between two sockets that
 * we made. Until it has both sockets it is watched here, afterwards the engine
 * has it, and tells when a channel ends.
 *
 * @module
 */
import { ERR, F_DUPFD_CLOEXEC, HUP, IN, OUT } from "../sys/constants.ts";
import {
  EAGAIN,
  ECANCELED,
  ECONNREFUSED,
  EMFILE,
  ENFILE,
  ENOBUFS,
  ENOMEM,
  ETIMEDOUT,
} from "../sys/errno.ts";
import { UNWATCHED } from "../sys/epoll.ts";
import { DescriptorError, type SystemError } from "../sys/error.ts";
import type { Descriptor } from "../sys/descriptor.ts";
import { Fd } from "../sys/fd.ts";
import * as libc from "../sys/libc.ts";
import {
  accept,
  type Address,
  connect,
  isPassing,
  localAddress,
  raiseDescriptorLimit,
  setTcpOptions,
} from "../sys/socket.ts";
import { Channel, type ChannelStatus, type Host } from "./channel.ts";
import { Connection, Endpoint } from "./endpoint.ts";
import type { Watcher } from "./loop.ts";
import { proxyHeader } from "./proxy.ts";
import { Target } from "./target.ts";

/** How a connection stands, or ended. */
export interface SessionStatus {
  /** Its number in its service, from 1 on. */
  readonly id: number;
  /** Who made it: "192.0.2.1:4711"; "unix" for a unix socket. */
  readonly peer: string;
  /** With what it is connected; undefined as long as it is not. */
  readonly target: string | undefined;
  /** From the client to the target. */
  readonly sent: number;
  /** From the target to the client, in bytes. */
  readonly received: number;
  /** For how long it has been there, in seconds. */
  readonly seconds: number;
  /** How it ended; undefined while it is open. */
  readonly ended: "eof" | "error" | "stopped" | undefined;
  /** What went wrong, in words. */
  readonly error: string | undefined;
}

/** How a service stands. */
export interface ServiceStatus {
  /** Where it listens: "0.0.0.0:443". */
  readonly address: string;
  /** Where its connections go, in words. */
  readonly target: string;
  /** Connections so far. */
  readonly connections: number;
  /** Of these, the ones that ended with an error. */
  readonly errors: number;
  /** Those that are open. */
  readonly open: number;
  /** Bytes to the target, of all connections that have ended. */
  readonly sent: number;
  /** Bytes from the target, of all connections that have ended. */
  readonly received: number;
  /** How each open connection stands. */
  readonly sessions: Iterable<SessionStatus>;
}

/** How to serve. Times are in milliseconds; 0 is never, or no limit. */
export interface ServeOptions {
  /**
   * The most connections at one time. Others wait in the kernel's queue.
   * @default {1000}
   */
  connections?: number;
  /**
   * For how long to wait for a connection to one address of the target.
   * @default {10000}
   */
  connectTimeout?: number;
  /** Ends a connection in which nothing has moved for so long. */
  timeout?: number;
  /** The same, once one of its two directions has ended. */
  halfClosed?: number;
  /** Ends the service when there was no connection for so long. */
  exitIdle?: number;
  /** Tells the target who the client is, by the PROXY protocol of that version. */
  proxyProtocol?: 1 | 2;
  /** A connection was accepted. */
  onAccept?: (session: SessionStatus, service: ServiceStatus) => void;
  /** It is connected with its target. */
  onConnect?: (session: SessionStatus, service: ServiceStatus) => void;
  /** It has ended, or was not connected at all: then it has an error, and no target. */
  onEnd?: (session: SessionStatus, service: ServiceStatus) => void;
}

/** Who is connected with a client: an address in words, another listening descriptor, or what a function gives. */
export type ServeTarget =
  | string
  | number
  | ((peer: string) => Descriptor | Promise<Descriptor>);

/** How many connections are accepted before others have their turn. */
const AT_ONCE = 32;

/** How often it is looked whether a time has passed, in milliseconds: a twentieth of it, within bounds. */
const OFTEN = 10, SELDOM = 1000, LOOKS = 20;

/** After this a call that the system had no descriptor or memory for is tried again, in milliseconds. */
const SHORT_OF = 50;

/** After this a unix socket whose queue was full is tried again, in milliseconds. */
const QUEUE_FULL = 5;

/** Descriptors that are left to the program and to pipes, where the limit is what bounds the connections. */
const RESERVED = 24;

/** One listening socket. */
class Listener implements Watcher {
  readonly fd: Fd;
  readonly isUnix: boolean;
  readonly #host: Host;
  readonly #connection = new Connection();
  readonly #onAccepted: (fd: number, peer: Address) => void;
  readonly #mayAccept: () => boolean;
  readonly #onShort: () => void;
  #watched = UNWATCHED;
  #isClosed = false;

  constructor(
    fd: Fd,
    host: Host,
    mayAccept: () => boolean,
    onAccepted: (fd: number, peer: Address) => void,
    onShort: () => void,
  ) {
    this.fd = fd;
    this.isUnix = fd.isUnix;
    this.#host = host;
    this.#mayAccept = mayAccept;
    this.#onAccepted = onAccepted;
    this.#onShort = onShort;
    // Another process may take the connection between poll(2) and accept(2).
    if (!fd.isOurs) this.#connection.makeNonBlocking(fd.fd);
  }

  /** Listens, or leaves who comes to the kernel's queue. */
  listen(on: boolean): void {
    const wanted = on && !this.#isClosed ? IN : UNWATCHED;
    if (wanted === this.#watched) return;
    this.#host.loop.watch(this.fd.fd, this.#watched, wanted, this);
    this.#watched = wanted;
  }

  /** Accepting makes new descriptors, whose numbers must not be taken for those of events of this round. */
  ready(): void {
    this.#host.loop.soon(this);
  }

  run(): void {
    for (let i = 0; i < AT_ONCE && !this.#isClosed; i++) {
      if (!this.#mayAccept()) return this.listen(false);
      const accepted = accept(this.fd.fd);
      if (typeof accepted !== "number") this.#onAccepted(accepted.fd, accepted.peer);
      else if (accepted === -EAGAIN) return;
      else if (!isPassing(accepted)) {
        this.listen(false);
        return this.#onShort();
      }
    }
  }

  close(): SystemError | undefined {
    if (this.#isClosed) return undefined;
    this.listen(false);
    this.#isClosed = true;
    this.#connection.restoreNow(this.fd.fd);
    return this.fd.tryClose();
  }
}

/** One connection: from its acceptance to its end. */
class Session implements SessionStatus, Watcher, Host {
  readonly id: number;
  readonly #service: Service;
  readonly #peer: Address;
  readonly #client: number;
  readonly #startedAt = performance.now();
  #endedAt = 0;
  /** The socket to the target, while it is being connected. */
  #connecting = -1;
  #tries: readonly Address[] = [];
  #tried = 0;
  #target: string | undefined;
  #sending: Channel | undefined;
  #receiving: Channel | undefined;
  #isEnded = false;
  error: string | undefined;
  /** Operations when it was last looked at, and since when there were no more. */
  #moved = 0;
  #since: number;

  constructor(id: number, service: Service, client: number, peer: Address) {
    this.id = id;
    this.#service = service;
    this.#client = client;
    this.#peer = peer;
    this.#since = this.#startedAt;
  }

  get peer(): string {
    return this.#peer.toString();
  }
  get target(): string | undefined {
    return this.#target;
  }
  get sent(): number {
    return this.#sending?.bytes ?? 0;
  }
  get received(): number {
    return this.#receiving?.bytes ?? 0;
  }
  get seconds(): number {
    return ((this.#endedAt || performance.now()) - this.#startedAt) / 1000;
  }
  get ended(): SessionStatus["ended"] {
    if (!this.#isEnded) return undefined;
    if (this.error) return "error";
    return this.#sending?.ended === "stopped" || this.#receiving?.ended === "stopped"
      ? "stopped"
      : "eof";
  }

  // ---- Connecting.

  /** Looks for the target's addresses, and tries one after the other. */
  connect(target: Target): void {
    this.#tries = target.addresses;
    if (this.#tries.length > 0) return this.#tryNext();
    let failed: string | undefined;
    const found = target.find().then((error) => {
      failed = error;
      return 0;
    });
    this.#service.host.loop.onThread(found, () => {
      if (this.#isEnded) return;
      this.#tries = target.addresses;
      if (failed === undefined) this.#tryNext();
      else this.fail(`${target}: ${failed}`);
    });
  }

  #tryNext(): void {
    for (;;) {
      if (this.#isEnded) return;
      const address = this.#tries[this.#tried];
      if (!address) return this.fail(this.#lastError);
      this.#since = performance.now();
      const fd = connect(address);
      if (fd >= 0) {
        this.#connecting = fd;
        this.#service.host.loop.watch(fd, UNWATCHED, OUT, this);
        return;
      }
      if (fd === -EAGAIN) return this.#tryLater(QUEUE_FULL);
      if (isShortage(-fd)) {
        this.#service.pause();
        return this.#tryLater(SHORT_OF);
      }
      this.#failed(-fd);
    }
  }

  /** Its turn to try the next address. */
  run(): void {
    this.#tryNext();
  }

  #lastError = "";

  #failed(errno: number): void {
    this.#lastError = `${this.#tries[this.#tried]}: ${libc.strerror(errno)}`;
    this.#tried++;
  }

  #tryLater(milliseconds: number): void {
    this.#service.host.loop.after(milliseconds, () => this.#tryNext());
  }

  /** The socket to the target is decided. */
  ready(events: number): void {
    const fd = this.#connecting;
    if (fd < 0) return;
    const error = libc.pendingError(fd);
    if (error || events & (ERR | HUP) && libc.getpeername(fd) < 0) {
      this.#dropConnecting();
      this.#failed(error || ECONNREFUSED);
      return this.#service.host.loop.soon(this); // see Listener.ready
    }
    this.#connecting = -1;
    const address = this.#tries[this.#tried];
    this.#joinEnds(new Fd(fd, { isUnix: address?.isUnix ?? false }), String(address), OUT);
  }

  #dropConnecting(): void {
    const fd = this.#connecting;
    if (fd < 0) return;
    this.#connecting = -1;
    this.#service.host.loop.watch(fd, OUT, UNWATCHED, this);
    libc.close(fd);
  }

  // ---- Copying.

  /** Joins the client with a connected socket of ours. */
  join(fd: number, isUnix: boolean, target: string): void {
    this.#joinEnds(new Fd(fd, { isUnix }), target);
  }

  /** `watched` is what `to` is watched for already. */
  #joinEnds(to: Fd, target: string, watched = UNWATCHED): void {
    if (this.#isEnded) return void to.tryClose();
    const { host, isUnix, options } = this.#service;
    this.#target = target;
    if (!isUnix) setTcpOptions(this.#client);
    if (to.kind === "socket" && !to.isUnix) setTcpOptions(to.fd);
    if (options.proxyProtocol) {
      const header = proxyHeader(options.proxyProtocol, this.#peer, this.#client);
      libc.send(to.fd, header); // it fits: nothing else was sent yet
    }
    const client = new Endpoint(new Fd(this.#client, { isUnix }), new Connection(), host.loop);
    const server = new Endpoint(to, new Connection(), host.loop, undefined, watched);
    this.#sending = new Channel(client, server, this);
    this.#receiving = new Channel(server, client, this);
    host.channels.add(this.#sending).add(this.#receiving);
    options.onConnect?.(this, this.#service);
    Channel.beginBoth(this.#sending, this.#receiving);
  }

  /** As {@linkcode join}, with what a function of the program gives. */
  joinWith(end: Fd): void {
    this.#joinEnds(end, `descriptor ${end.fd}`);
  }

  // What its channels see: see Host. Getters, as there are many sessions.

  get loop(): Host["loop"] {
    return this.#service.host.loop;
  }
  get pool(): Host["pool"] {
    return this.#service.host.pool;
  }
  get budget(): Host["budget"] {
    return this.#service.host.budget;
  }
  get rate(): number {
    return this.#service.host.rate;
  }
  get channels(): Set<Channel> {
    return this.#service.host.channels;
  }
  get isStopping(): boolean {
    return this.#service.host.isStopping;
  }
  get onOperation(): Host["onOperation"] {
    return this.#service.host.onOperation;
  }
  get onData(): Host["onData"] {
    return this.#service.host.onData;
  }

  onError(error: SystemError, channel: ChannelStatus): void {
    if (channel.error?.errno === ECANCELED) return;
    // The numbers of our own descriptors tell nobody anything.
    const side = (error.syscall === "read") === (channel === this.#sending) ? "client" : "target";
    this.error ??= `${error.syscall} ${side}: ${libc.strerror(error.errno)}`;
  }

  onEnd(channel: Channel): void {
    this.channels.delete(channel);
    if (this.#sending?.ended && this.#receiving?.ended) this.#end();
  }

  // ---- The end.

  /** Ends it before it was connected. */
  fail(error: string): void {
    if (this.#isEnded) return;
    this.error ??= error;
    this.#dropConnecting();
    if (!this.#sending) libc.close(this.#client);
    this.#end();
  }

  /** Ends it now, whatever it carries. */
  cut(errno: number, error: string): void {
    if (!this.#sending) return this.fail(error);
    this.error ??= error;
    this.#sending.cut(errno);
    this.#receiving?.cut(errno);
  }

  #end(): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#endedAt = performance.now();
    this.#service.sessionEnded(this);
  }

  /** Looks whether one of its times has passed. */
  look(now: number): void {
    const { connectTimeout, timeout = 0, halfClosed = 0 } = this.#service.options;
    const isPast = (time: number) => time > 0 && now - this.#since >= time;
    if (!this.#sending || !this.#receiving) {
      if (this.#connecting < 0 || !isPast(connectTimeout)) return;
      this.#dropConnecting();
      this.#failed(ETIMEDOUT);
      return this.#tryNext();
    }
    const moved = this.#sending.operations + this.#receiving.operations;
    if (moved !== this.#moved) {
      this.#moved = moved;
      this.#since = now;
    } else if (isPast(timeout)) {
      this.cut(ETIMEDOUT, `timeout: nothing moved for ${timeout / 1000} s`);
    } else if ((this.#sending.ended || this.#receiving.ended) && isPast(halfClosed)) {
      this.cut(ETIMEDOUT, `half-closed: nothing moved for ${halfClosed / 1000} s`);
    }
  }

  /** A client that waits for another one to come has gone. */
  get waiting(): { fd: number; peer: Address } {
    return { fd: this.#client, peer: this.#peer };
  }

  /** Gives its client away, to be joined with another one. */
  giveAway(): number {
    this.#isEnded = true;
    return this.#client;
  }
}

/** Whether the system was out of descriptors or memory, which may be better later. */
function isShortage(errno: number): boolean {
  return errno === EMFILE || errno === ENFILE || errno === ENOBUFS || errno === ENOMEM;
}

/** A client that waits for its mate, and is dropped should it go. */
class Waiting implements Watcher {
  readonly session: Session;
  readonly isUnix: boolean;
  readonly #onGone: (waiting: Waiting) => void;
  readonly #host: Host;

  constructor(session: Session, isUnix: boolean, host: Host, onGone: (waiting: Waiting) => void) {
    this.session = session;
    this.isUnix = isUnix;
    this.#host = host;
    this.#onGone = onGone;
    host.loop.watch(session.waiting.fd, UNWATCHED, 0, this);
  }

  ready(): void {
    this.#onGone(this);
  }

  /** Looks after it no more. */
  leave(): Session {
    this.#host.loop.watch(this.session.waiting.fd, 0, UNWATCHED, this);
    return this.session;
  }
}

/** What comes to a listening descriptor, and where it goes. */
export class Service implements ServiceStatus {
  readonly address: string;
  readonly target: string;
  connections = 0;
  errors = 0;
  sent = 0;
  received = 0;
  readonly isUnix: boolean;
  readonly options: ServeOptions & { connectTimeout: number };
  readonly #listener: Fd;
  readonly #mate: Fd | undefined;
  readonly #target: Target | ((peer: string) => Descriptor | Promise<Descriptor>) | undefined;
  #listeners: Listener[] = [];
  readonly #sessions = new Set<Session>();
  /** Who waits for a mate, at each of the two listeners. */
  readonly #waiting: [Set<Waiting>, Set<Waiting>] = [new Set(), new Set()];
  #host: Host | undefined;
  #most = 0;
  #isPaused = false;
  #isClosed = false;
  #timer: ReturnType<typeof setInterval> | undefined;
  #idleSince = 0;

  /**
   * What comes to `listener` is joined with `target`. Throws a
   * {@linkcode DescriptorError} where a descriptor does not listen, and a
   * `RangeError` where the target's words or an option are none.
   */
  constructor(listener: number | Fd, target: ServeTarget, options: ServeOptions = {}) {
    this.options = { connectTimeout: 10_000, ...options };
    const { connections = 1000 } = options;
    if (!(Number.isInteger(connections) && connections >= 1)) {
      throw new RangeError(`connections: ${connections} is not a whole number from 1 on`);
    }
    this.#target = typeof target === "string"
      ? new Target(target)
      : typeof target === "function"
      ? target
      : undefined;
    this.#listener = toListener(listener);
    this.#mate = typeof target === "number" ? toListener(target) : undefined;
    this.isUnix = this.#listener.isUnix;
    this.address = localAddress(this.#listener.fd).toString();
    this.target = typeof target === "function"
      ? "a function"
      : this.#mate
      ? localAddress(this.#mate.fd).toString()
      : String(target);
  }

  /** What it shares with the copying it belongs to. */
  get host(): Host {
    if (!this.#host) throw new Error("the service has not begun");
    return this.#host;
  }

  get sessions(): Iterable<SessionStatus> {
    return this.#sessions;
  }

  get open(): number {
    return this.#sessions.size;
  }

  /** Begins to listen. */
  begin(host: Host): void {
    this.#host = host;
    libc.compileForServing();
    const limit = raiseDescriptorLimit();
    const free = libc.fcntl(this.#listener.fd, F_DUPFD_CLOEXEC);
    if (free >= 0) libc.close(free);
    this.#most = Math.max(
      1,
      Math.min(this.options.connections ?? 1000, Math.floor((limit - free - RESERVED) / 2)),
    );
    const fds = this.#mate ? [this.#listener, this.#mate] : [this.#listener];
    this.#listeners = fds.map((fd, side) => {
      const mayAccept = () => this.#mayAccept(side);
      const onAccepted = (client: number, peer: Address) => this.#accepted(client, peer, side);
      return new Listener(fd, host, mayAccept, onAccepted, () => this.pause());
    });
    host.loop.hold();
    for (const listener of this.#listeners) listener.listen(true);
    this.#idleSince = performance.now();
    const { connectTimeout, timeout, halfClosed, exitIdle } = this.options;
    const shortest = Math.min(
      ...[connectTimeout, timeout, halfClosed, exitIdle].map((time) => time || Infinity),
    );
    if (shortest < Infinity) {
      const often = Math.max(OFTEN, Math.min(SELDOM, shortest / LOOKS));
      this.#timer = setInterval(() => this.#look(), often);
    }
  }

  /** Those that wait at the other listener are about to be joined with those that come to this one. */
  #mayAccept(side: number): boolean {
    const others = this.#waiting[1 - side]?.size ?? 0;
    return !this.#isPaused && this.#sessions.size - others < this.#most;
  }

  #look(): void {
    const now = performance.now();
    for (const session of this.#sessions) session.look(now);
    const { exitIdle = 0 } = this.options;
    if (this.#sessions.size > 0) this.#idleSince = now;
    else if (exitIdle > 0 && now - this.#idleSince >= exitIdle) this.drain();
    this.host.loop.wake();
  }

  #accepted(client: number, peer: Address, side: number): void {
    const session = new Session(++this.connections, this, client, peer);
    this.#sessions.add(session);
    this.options.onAccept?.(session, this);
    const target = this.#target;
    if (target === undefined) this.#waitForMate(session, side);
    else if (target instanceof Target) session.connect(target);
    else this.#ask(session, target, peer);
  }

  async #ask(
    session: Session,
    target: (peer: string) => Descriptor | Promise<Descriptor>,
    peer: Address,
  ) {
    try {
      session.joinWith(await target(String(peer)));
    } catch (error) {
      session.fail(error instanceof Error ? error.message : String(error));
    }
    this.host.loop.wake();
  }

  #waitForMate(session: Session, side: number): void {
    const [mate] = this.#waiting[1 - side] ?? [];
    const isUnix = this.#listeners[side]?.isUnix ?? false;
    if (!mate) {
      const gone = (waiting: Waiting) => {
        this.#waiting[side]?.delete(waiting);
        waiting.leave().fail("it went before another one came");
      };
      this.#waiting[side]?.add(new Waiting(session, isUnix, this.host, gone));
      return;
    }
    this.#waiting[1 - side]?.delete(mate);
    const other = mate.leave();
    // The one that came to the first listener is the client.
    const [client, server] = side === 0 ? [session, other] : [other, session];
    this.#sessions.delete(server);
    client.join(server.giveAway(), side === 0 ? mate.isUnix : isUnix, server.peer);
  }

  /** Out of descriptors or memory: accepts again when a connection has ended, or after a while. */
  pause(): void {
    if (this.#isPaused) return;
    this.#isPaused = true;
    for (const listener of this.#listeners) listener.listen(false);
    this.host.loop.after(SHORT_OF, () => this.#resume());
  }

  #resume(): void {
    this.#isPaused = false;
    for (const listener of this.#listeners) listener.listen(true);
  }

  /** A session has ended. */
  sessionEnded(session: Session): void {
    this.#sessions.delete(session);
    this.sent += session.sent;
    this.received += session.received;
    if (session.error) this.errors++;
    this.options.onEnd?.(session, this);
    if (this.#isClosed) this.#endIfIdle();
    else if (!this.#isPaused) this.#resume();
  }

  /** Accepts no more: closes its listening sockets, and ends with its last connection. */
  drain(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const listener of this.#listeners) listener.close();
    for (const waiting of [...this.#waiting[0], ...this.#waiting[1]]) {
      waiting.leave().fail("the service has ended");
    }
    this.#endIfIdle();
    this.host.loop.wake();
  }

  #endIfIdle(): void {
    if (this.#sessions.size > 0 || !this.#isHeld) return;
    this.#isHeld = false;
    clearInterval(this.#timer);
    this.host.loop.release();
  }

  #isHeld = true;

  /** As {@linkcode drain}, and gives up what is not connected yet. */
  stop(): void {
    if (!this.#host) return;
    this.drain();
    for (const session of [...this.#sessions]) {
      if (session.target === undefined) session.fail("stopped");
    }
  }
}

function toListener(listener: number | Fd): Fd {
  const fd = typeof listener === "number" ? new Fd(listener) : listener;
  if (fd.isListening) return fd;
  throw new DescriptorError(`descriptor ${fd.fd} is not a listening socket`);
}
