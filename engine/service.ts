/**
 * Serving: each connection that comes to a listening socket is joined with one
 * to the target, or with one that has come to another listening socket.
 *
 * A connection is a {@linkcode Session}: two channels between two sockets that
 * we made. Until it has both sockets it is watched here; then its channels are
 * copied as all others are, and call {@linkcode Session.onEnd} when they end.
 *
 * @module
 */
import { ERR, F_DUPFD_CLOEXEC, HUP, IN, OUT, RDHUP } from "../sys/constants.ts";
import {
  EAGAIN,
  ECANCELED,
  ECONNREFUSED,
  EMFILE,
  ENFILE,
  ENOBUFS,
  ENOMEM,
  EPERM,
  ETIMEDOUT,
} from "../sys/errno.ts";
import { UNWATCHED } from "../sys/epoll.ts";
import { DescriptorError, SystemError } from "../sys/error.ts";
import type { Descriptor } from "../sys/descriptor.ts";
import { Fd } from "../sys/fd.ts";
import * as libc from "../sys/libc.ts";
import {
  accept,
  Address,
  connect,
  isPassing,
  localAddress,
  raiseDescriptorLimit,
  setTcpOptions,
} from "../sys/socket.ts";
import { Channel, type ChannelStatus, type Host } from "./channel.ts";
import { Connection, Endpoint } from "./endpoint.ts";
import { mustBeTime, type Watcher } from "./loop.ts";
import { type Member, Members } from "./members.ts";
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
  /** Bytes from the client to the target. */
  readonly sent: number;
  /** Bytes from the target to the client. */
  readonly received: number;
  /** For how long it has been open, or was, in seconds. */
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
  /** Names the client to the target, by the PROXY protocol of that version. */
  proxyProtocol?: 1 | 2;
  /** A connection was accepted. */
  onAccept?: (session: SessionStatus, service: ServiceStatus) => void;
  /** It is connected with its target. */
  onConnect?: (session: SessionStatus, service: ServiceStatus) => void;
  /** It has ended, or was not connected at all: then it has an error, and no target. */
  onEnd?: (session: SessionStatus, service: ServiceStatus) => void;
}

/** What a client is joined with: an address in words, a client of another listening descriptor, or what a function returns. */
export type ServeTarget =
  | string
  | number
  | Descriptor
  | ((peer: string) => Descriptor | Promise<Descriptor>);

/** How many connections are accepted before others have their turn. */
const ACCEPTS_PER_TURN = 32;

/** Timeouts are checked this often in their time, within bounds. */
const CHECKS_PER_TIMEOUT = 20, MIN_CHECK_MS = 10, MAX_CHECK_MS = 1000;

/** After so long a call is tried again for which the system had no descriptor or memory. */
const SHORTAGE_RETRY_MS = 50;

/** After so long a unix socket is tried again whose queue was full. */
const QUEUE_RETRY_MS = 5;

/** Descriptors that are left to the program and to pipes, where their limit bounds the connections. */
const RESERVED_DESCRIPTORS = 24;

/** One listening socket. */
class Listener implements Watcher {
  readonly fd: Fd;
  readonly isUnix: boolean;
  readonly #host: Host;
  readonly #connection = new Connection();
  readonly #onAccepted: (fd: number, peer: string) => void;
  readonly #mayAccept: () => boolean;
  readonly #onShort: () => void;
  #watched = UNWATCHED;
  #isClosed = false;

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
    this.#host.loop.watch(this.fd.fd, this.#watched, wanted, this);
    this.#watched = wanted;
  }

  /** In the next round: a new socket may get the number of one that was closed in this one, and then its events. */
  ready(): void {
    this.#host.loop.soon(this);
  }

  run(): void {
    const { fd } = this.fd;
    let forbidden = 0;
    for (let i = 0; i < ACCEPTS_PER_TURN && !this.#isClosed; i++) {
      if (!this.#mayAccept()) return this.listen(false);
      // Another process may take the connection before we do. It may put the flag
      // back as well, when it ends: so it is checked each time.
      const refused = this.fd.isOurs ? 0 : this.#connection.makeNonBlocking(fd);
      if (refused < 0) throw new SystemError("fcntl", fd, refused);
      const accepted = accept(fd);
      if (typeof accepted !== "number") this.#onAccepted(accepted.fd, accepted.peer);
      else if (accepted === -EAGAIN) return;
      else if (isShortage(-accepted)) return this.#onShort();
      else if (!isPassing(accepted)) throw new SystemError("accept", fd, accepted);
      // A firewall forbids one connection, a seccomp filter all of them.
      else if (accepted === -EPERM) forbidden++;
    }
    if (forbidden === ACCEPTS_PER_TURN) throw new SystemError("accept", fd, EPERM);
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

/** One connection: from its acceptance to its end. */
class Session implements SessionStatus, Watcher, Host, Member {
  place = 0;
  readonly id: number;
  readonly #service: Service;
  /** An {@linkcode Address}, packed: there are many sessions. */
  readonly #peer: string;
  readonly #client: number;
  readonly #startedAt = performance.now();
  #endedAt = 0;
  /** The socket to the target, while it is being connected. */
  #connecting = -1;
  /** The target's addresses, the index of the one that is tried now, and how many were tried. */
  #tries: readonly Address[] = NONE;
  #at = 0;
  #tried = 0;
  /** Whether the system had no descriptor or memory for the last try. */
  #isShort = false;
  #target: Address | string | undefined;
  /** What a function of the program has given, until it is joined. */
  #given: Fd | undefined;
  #sending: Channel | undefined;
  #receiving: Channel | undefined;
  #isEnded = false;
  error: string | undefined;
  /** Operations at the last check, and since when there were no more. */
  #moved = 0;
  #since: number;

  constructor(id: number, service: Service, client: number, peer: string) {
    this.id = id;
    this.#service = service;
    this.#client = client;
    this.#peer = peer;
    this.#since = this.#startedAt;
  }

  get peer(): string {
    return String(Address.unpack(this.#peer));
  }
  get target(): string | undefined {
    return this.#target?.toString();
  }
  get isConnecting(): boolean {
    return this.#target === undefined;
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
    this.#begin(target);
    if (this.#tries.length > 0) return this.#try();
    let failed: string | undefined;
    const found = target.find().then((error) => {
      failed = error;
      return 0;
    });
    this.#service.host.loop.onThread(found, () => {
      if (this.#isEnded) return;
      this.#begin(target);
      if (failed === undefined) this.#try();
      else this.fail(`${target}: ${failed}`);
    });
  }

  #begin(target: Target): void {
    this.#tries = target.addresses;
    this.#at = target.best;
    this.#since = performance.now();
  }

  get #address(): Address | undefined {
    return this.#tries[this.#at];
  }

  #try(): void {
    if (this.#isEnded || this.#connecting >= 0 || this.#target !== undefined) return;
    for (;;) {
      const address = this.#address;
      if (!address) return this.fail("the name has no address");
      const fd = connect(address);
      this.#setShort(isShortage(-fd));
      if (fd >= 0) return this.#watch(fd);
      if (this.#isShort) return this.#tryLater(SHORTAGE_RETRY_MS);
      if (fd === -EAGAIN) return this.#tryLater(QUEUE_RETRY_MS);
      if (!this.#failed(-fd)) return;
    }
  }

  #watch(fd: number): void {
    this.#connecting = fd;
    try {
      this.#service.host.loop.watch(fd, UNWATCHED, OUT, this);
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      this.fail(`${this.#address}: ${libc.strerror(error.errno)}`);
    }
  }

  /** As long as it is, no connection is accepted: what becomes free is for this one. */
  #setShort(isShort: boolean): void {
    if (isShort === this.#isShort) return;
    this.#isShort = isShort;
    this.#service.setShort(isShort);
  }

  /** Its turn to try again, or the next address. */
  run(): void {
    this.#try();
  }

  /** An address failed. Returns whether there is another one; else it has ended. */
  #failed(errno: number): boolean {
    const error = `${this.#address}: ${libc.strerror(errno)}`;
    this.#at = (this.#at + 1) % this.#tries.length;
    this.#since = performance.now();
    if (++this.#tried < this.#tries.length) return true;
    this.fail(error);
    return false;
  }

  #tryLater(milliseconds: number): void {
    this.#service.host.loop.after(milliseconds, () => {
      if (this.#isShort) this.#since = performance.now(); // that is not the target's fault
      this.#try();
    });
  }

  /** The socket to the target is connected, or has failed. */
  ready(events: number): void {
    const fd = this.#connecting, address = this.#address;
    if (fd < 0 || !address) return;
    if (events & (ERR | HUP)) {
      const error = libc.pendingError(fd);
      if (error || libc.getpeername(fd) < 0) {
        this.#dropConnecting();
        // Its number must not be given away in this round: see Listener.ready.
        if (this.#failed(error || ECONNREFUSED)) this.#service.host.loop.soon(this);
        return;
      }
    }
    this.#connecting = -1;
    this.#service.reached(address);
    this.#joinEnds(new Fd(fd, { isUnix: address.isUnix }), address, OUT);
  }

  #dropConnecting(): void {
    const fd = this.#connecting;
    if (fd < 0) return;
    this.#connecting = -1;
    this.#service.host.loop.forget(fd);
    libc.close(fd);
  }

  // ---- Copying.

  /** Joins the client with a connected socket of ours. */
  join(fd: number, isUnix: boolean, target: string): void {
    this.#joinEnds(new Fd(fd, { isUnix }), target);
  }

  /** `watched` is what `to` is watched for already. */
  #joinEnds(to: Fd, target: Address | string, watched = UNWATCHED): void {
    if (this.#isEnded) return void to.tryClose();
    const { host, isUnix, options } = this.#service;
    if (options.proxyProtocol && !this.#sendsHeader(to, options.proxyProtocol)) {
      if (watched !== UNWATCHED) host.loop.forget(to.fd);
      to.tryClose();
      return this.fail(`${target}: the PROXY header was not taken`);
    }
    this.#target = target;
    if (!isUnix) setTcpOptions(this.#client);
    if (to.kind === "socket" && !to.isUnix) setTcpOptions(to.fd);
    const client = new Endpoint(new Fd(this.#client, { isUnix }), new Connection(), host.loop);
    const server = new Endpoint(to, new Connection(), host.loop, undefined, watched);
    this.#sending = new Channel(client, server, this);
    this.#receiving = new Channel(server, client, this);
    host.channels.add(this.#sending);
    host.channels.add(this.#receiving);
    options.onConnect?.(this, this.#service);
    try {
      Channel.begin([this.#sending, this.#receiving]);
    } catch (error) {
      // The user's limit of watched descriptors is reached: this connection has ended.
      if (!(error instanceof SystemError)) throw error;
    }
  }

  /** Sends it whole, or fails: half of it would spoil all that follows. It fits, as nothing else was sent yet. */
  #sendsHeader(to: Fd, version: 1 | 2): boolean {
    const header = proxyHeader(version, Address.unpack(this.#peer), this.#client);
    return libc.send(to.fd, header) === header.length;
  }

  /**
   * As {@linkcode join}, with what a function of the program gives; in the next round, so that
   * what a callback throws leaves through the loop.
   */
  joinLater(end: Fd): void {
    if (this.#isEnded) return void end.tryClose();
    this.#given = end;
    this.loop.soon({
      run: () => {
        this.#given = undefined;
        this.#joinWith(end);
      },
    });
  }

  #joinWith(end: Fd): void {
    const isGood = !end.isClosed && end.kind === "socket" && end.isStream && !end.isListening &&
      !end.isUnconnected;
    if (!isGood) return this.fail(`descriptor ${end.fd} is not a connection`);
    if (this.#service.host.loop.watches(end.fd)) {
      return this.fail(`descriptor ${end.fd} is another connection's`);
    }
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
  get channels(): Host["channels"] {
    return this.#service.host.channels;
  }
  get stopped(): Host["stopped"] {
    return this.#service.host.stopped;
  }
  get onOperation(): Host["onOperation"] {
    return this.#service.host.onOperation;
  }
  get onData(): Host["onData"] {
    return this.#service.host.onData;
  }

  onError(error: SystemError, channel: ChannelStatus): void {
    if (channel.error?.errno === ECANCELED) return;
    // The numbers of our own descriptors would mean nothing to a reader.
    const side = (error.syscall === "read") === (channel === this.#sending) ? "client" : "target";
    this.error ??= `${error.syscall} ${side}: ${libc.strerror(error.errno)}`;
  }

  onEnd(channel: Channel): void {
    this.channels.delete(channel);
    // A channel tells of its error after its end, and with the second one this connection ends.
    if (channel.error) this.onError(channel.error, channel);
    if (this.#sending?.ended && this.#receiving?.ended) this.#end();
  }

  // ---- The end.

  /** Ends it before it was connected. */
  fail(error: string): void {
    if (this.#isEnded) return;
    this.error ??= error;
    this.#setShort(false);
    this.#dropConnecting();
    this.#given?.tryClose();
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

  /** Ends it, or its attempt to connect, if one of its times has passed. */
  look(now: number): void {
    const { connectTimeout, timeout = 0, halfClosed = 0 } = this.#service.options;
    const isPast = (time: number) => time > 0 && now - this.#since >= time;
    if (!this.#sending || !this.#receiving) {
      if (this.#isShort || this.#service.isMeeting || !isPast(connectTimeout)) return;
      this.#dropConnecting();
      if (this.#tries.length === 0) {
        this.fail(`${this.#service.target}: ${libc.strerror(ETIMEDOUT)}`);
      } else if (this.#failed(ETIMEDOUT)) this.#try();
      return;
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

  /** The client's socket, while it waits for another one to come. */
  get client(): number {
    return this.#client;
  }

  /** Gives its client away, to be joined with another one. */
  giveAway(): number {
    this.#isEnded = true;
    return this.#client;
  }
}

/** Whether the system was out of descriptors or memory, so that a later call may succeed. */
function isShortage(errno: number): boolean {
  return errno === EMFILE || errno === ENFILE || errno === ENOBUFS || errno === ENOMEM;
}

/** A client that waits for its mate, and is dropped should it go. */
class Waiting implements Watcher {
  readonly session: Session;
  readonly isUnix: boolean;
  readonly #onGone: (waiting: Waiting) => void;
  #watched = RDHUP;
  readonly #host: Host;

  constructor(session: Session, isUnix: boolean, host: Host, onGone: (waiting: Waiting) => void) {
    this.session = session;
    this.isUnix = isUnix;
    this.#host = host;
    this.#onGone = onGone;
    host.loop.watch(session.client, UNWATCHED, this.#watched, this);
  }

  ready(events: number): void {
    if (this.#isGone(events)) this.drop();
    else this.#watch(0);
  }

  /** Whether its client has gone. */
  get isGone(): boolean {
    return this.#isGone(libc.poll(this.session.client, RDHUP));
  }

  /** Its client has gone, without having met anybody. */
  drop(): void {
    this.#onGone(this);
  }

  // A half-close looks like a close. A client that has sent nothing has gone; one
  // that has may wait for a reply.
  #isGone(events: number): boolean {
    if (events & (ERR | HUP)) return true;
    return (events & RDHUP) !== 0 && libc.bytesQueued(this.session.client) === 0;
  }

  #watch(events: number): void {
    this.#host.loop.watch(this.session.client, this.#watched, events, this);
    this.#watched = events;
  }

  /** Watches it no more. */
  leave(): Session {
    this.#watch(UNWATCHED);
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
  #options: ServeOptions & { connectTimeout: number };
  readonly #listener: Fd;
  readonly #mate: Fd | undefined;
  readonly #target: Target | ((peer: string) => Descriptor | Promise<Descriptor>) | undefined;
  #listeners: Listener[] = [];
  readonly #sessions = new Members<Session>();
  /** Who waits for a mate, at each of the two listeners. */
  readonly #waiting: [Set<Waiting>, Set<Waiting>] = [new Set(), new Set()];
  #host: Host | undefined;
  #most = 0;
  #isPaused = false;
  #isClosed = false;
  /** Sessions that the system has no descriptor or memory for. */
  #short = 0;
  /** How often to check them, in milliseconds; and whether a check is due. */
  #often = MAX_CHECK_MS;
  #willLook = false;
  #stopLooking: (() => void) | undefined;
  #idleSince = 0;

  /**
   * What comes to `listener` is joined with `target`. Throws a
   * {@linkcode DescriptorError} where a descriptor does not listen, and a
   * `RangeError` where the target is no address, or an option is out of range.
   */
  constructor(listener: number | Fd, target: ServeTarget, options: ServeOptions = {}) {
    this.#options = { connectTimeout: 10_000, ...options };
    const { connections = 1000, proxyProtocol = 1 } = options;
    if (!(Number.isInteger(connections) && connections >= 1)) {
      throw new RangeError(`connections: ${connections} is not a whole number from 1 on`);
    }
    for (const name of ["connectTimeout", "timeout", "halfClosed", "exitIdle"] as const) {
      mustBeTime(name, options[name] ?? 0);
    }
    if (proxyProtocol !== 1 && proxyProtocol !== 2) {
      throw new RangeError(`proxyProtocol: ${proxyProtocol} is neither 1 nor 2`);
    }
    this.#listener = toListener(listener);
    if (typeof target === "string") this.#target = new Target(target);
    else if (typeof target === "function") this.#target = target;
    else this.#mate = toListener(target);
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

  /** Whether it joins those who come to two listening sockets, who wait for each other for any time. */
  get isMeeting(): boolean {
    return this.#mate !== undefined;
  }

  get options(): ServeOptions & { connectTimeout: number } {
    return this.#options;
  }

  /** Calls no callback any more. */
  silence(): void {
    const { onAccept: _, onConnect: __, onEnd: ___, ...options } = this.#options;
    this.#options = options;
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
      Math.min(
        this.options.connections ?? 1000,
        Math.floor((limit - free - RESERVED_DESCRIPTORS) / 2),
      ),
    );
    const fds = this.#mate ? [this.#listener, this.#mate] : [this.#listener];
    this.#listeners = fds.map((fd, side) => {
      const mayAccept = () => this.#mayAccept(side);
      const onAccepted = (client: number, peer: string) => this.#accepted(client, peer, side);
      return new Listener(fd, host, mayAccept, onAccepted, () => this.pause());
    });
    host.loop.ref();
    for (const listener of this.#listeners) listener.listen(true);
    this.#idleSince = performance.now();
    const { connectTimeout, timeout, halfClosed, exitIdle } = this.options;
    const times = [connectTimeout, timeout, halfClosed, exitIdle].map((time) => time || Infinity);
    this.#often = Math.max(
      MIN_CHECK_MS,
      Math.min(MAX_CHECK_MS, Math.min(...times) / CHECKS_PER_TIMEOUT),
    );
    if (exitIdle) this.#lookLater();
  }

  /** Those that wait at the other listener are about to be joined with those that come to this one. */
  #mayAccept(side: number): boolean {
    const others = this.#waiting[1 - side]?.size ?? 0;
    return !this.#isPaused && this.#short === 0 && this.#sessions.size - others < this.#most;
  }

  /** There is no check where there is no time that may pass. */
  #lookLater(): void {
    if (this.#willLook || this.#isClosed && this.#sessions.size === 0) return;
    this.#willLook = true;
    this.#stopLooking = this.host.loop.after(this.#often, () => this.#look());
  }

  #look(): void {
    this.#willLook = false;
    const now = performance.now();
    const { timeout, halfClosed, exitIdle = 0 } = this.options;
    let isTimed = false;
    for (const session of this.#sessions) {
      session.look(now);
      isTimed ||= Boolean(timeout || halfClosed) || session.isConnecting && !this.isMeeting;
    }
    if (this.#sessions.size > 0) this.#idleSince = now;
    else if (exitIdle > 0 && now - this.#idleSince >= exitIdle) this.#endUnlessAsked();
    if (isTimed || exitIdle > 0) this.#lookLater();
  }

  /** A connection may have come at the last moment. */
  #endUnlessAsked(): void {
    for (const listener of this.#listeners) listener.run();
    if (this.#sessions.size === 0) this.drain();
  }

  #accepted(client: number, peer: string, side: number): void {
    const session = new Session(++this.connections, this, client, peer);
    this.#sessions.add(session);
    this.options.onAccept?.(session, this);
    const target = this.#target;
    if (target === undefined) return this.#waitForMate(session, side);
    if (target instanceof Target) session.connect(target);
    else this.#ask(session, target);
    this.#lookLater();
  }

  /** One of the addresses of the target was reached. */
  reached(address: Address): void {
    if (this.#target instanceof Target) this.#target.prefer(address);
  }

  async #ask(
    session: Session,
    target: (peer: string) => Descriptor | Promise<Descriptor>,
  ) {
    const { loop } = this.host;
    try {
      session.joinLater(await target(session.peer));
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      loop.soon({ run: () => session.fail(reason) });
    }
    loop.wake();
  }

  /** The first of those that wait at the other listener, and have not gone. */
  #mateFor(side: number): Waiting | undefined {
    for (const waiting of this.#waiting[1 - side] ?? []) {
      if (!waiting.isGone) return waiting;
      waiting.drop();
    }
    return undefined;
  }

  #waitForMate(session: Session, side: number): void {
    const mate = this.#mateFor(side);
    const isUnix = this.#listeners[side]?.isUnix ?? false;
    if (!mate) {
      const gone = (waiting: Waiting) => {
        this.#waiting[side]?.delete(waiting);
        waiting.leave().fail("it went before another one came");
      };
      try {
        this.#waiting[side]?.add(new Waiting(session, isUnix, this.host, gone));
      } catch (error) {
        if (!(error instanceof SystemError)) throw error;
        session.fail(libc.strerror(error.errno));
      }
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
    this.host.loop.after(SHORTAGE_RETRY_MS, () => this.#resume());
  }

  /** A session lacks a descriptor, or no longer does. */
  setShort(isShort: boolean): void {
    this.#short += isShort ? 1 : -1;
    if (!isShort && !this.#isPaused) this.#resume();
  }

  #resume(): void {
    this.#isPaused = false;
    try {
      for (const listener of this.#listeners) listener.listen(true);
    } catch (error) {
      // The user's limit of watched descriptors is reached.
      if (!(error instanceof SystemError)) throw error;
      this.pause();
    }
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
    this.#stopLooking?.();
    this.host.loop.unref();
  }

  #isHeld = true;

  /** Puts the flags of its listening sockets back. */
  restore(): void {
    for (const listener of this.#listeners) listener.restore();
  }

  /** As {@linkcode drain}, and gives up what is not connected yet. */
  stop(): void {
    if (!this.#host) { // it never began
      this.#listener.tryClose();
      this.#mate?.tryClose();
      return;
    }
    this.drain();
    for (const session of this.#sessions) {
      if (session.target === undefined) session.fail("stopped");
    }
  }
}

const NONE: readonly Address[] = [];

function toListener(listener: number | Fd): Fd {
  const fd = typeof listener === "number" ? new Fd(listener) : listener;
  if (fd.isListening) return fd;
  throw new DescriptorError(`descriptor ${fd.fd} is not a listening socket`);
}
