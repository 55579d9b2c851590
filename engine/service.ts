/**
 * Serving: each connection that comes to a listening socket is joined with one
 * to the target, or with one that has come to another listening socket.
 *
 * @module
 */
import { ENOSPC } from "../sys/constants.ts";
import type { Descriptor } from "../sys/descriptor.ts";
import { DescriptorError, isShortage, SystemError } from "../sys/error.ts";
import { Fd, freeNumber } from "../sys/fd.ts";
import * as libc from "../sys/libc.ts";
import { type Address, localAddress, raiseDescriptorLimit } from "../sys/socket.ts";
import type { Host } from "./channel.ts";
import { Listener } from "./listener.ts";
import { checkInterval, mustBeTime } from "./loop.ts";
import { Members } from "./members.ts";
import { Session, type SessionStatus, SHORTAGE_RETRY_MS } from "./session.ts";
import { Target } from "./target.ts";
import { Waiting } from "./waiting.ts";

/** How a service stands; always up to date. */
export interface ServiceStatus {
  /** Where it listens: "0.0.0.0:443", "/run/socket", "@name". */
  readonly address: string;
  /** Where its connections go: the address as it was given, that of the other listener, or "a function". */
  readonly target: string;
  /** How many connections it has accepted so far. */
  readonly connections: number;
  /** How many of them have ended with an error. */
  readonly errors: number;
  /** How many of them are open. */
  readonly open: number;
  /**
   * The most connections at one time, in all services of its {@linkcode Copier} together, that
   * the limit of open descriptors has room for; 0 before it runs.
   */
  readonly possible: number;
  /** Bytes to the target, of all connections that have ended. */
  readonly sent: number;
  /** Bytes from the target, of all connections that have ended. */
  readonly received: number;
  /** Why it could accept no more; undefined where it could, or was asked to end. */
  readonly error: SystemError | undefined;
  /** How each open connection stands. */
  readonly sessions: Iterable<SessionStatus>;
}

/** How to serve. Times are in milliseconds; 0 is never. What a callback throws is treated as in {@linkcode CopyOptions}. */
export interface ServeOptions {
  /**
   * The most connections at one time, a whole number from 1 on; fewer where the limit of
   * descriptors (getrlimit(2)) has no room for them. Others wait in the kernel's queue.
   * @default {1000}
   */
  connections?: number;
  /**
   * For how long to wait for a connection to one address of the target.
   * @default {10000}
   */
  connectTimeout?: number;
  /**
   * Ends a connection in which nothing has moved for so long.
   * @default {0}
   */
  timeout?: number;
  /**
   * The same, once one of its two directions has ended.
   * @default {0}
   */
  halfClosed?: number;
  /**
   * Ends the service once no service of its {@linkcode Copier} has had a connection for so long,
   * and no pair is open.
   * @default {0}
   */
  exitIdle?: number;
  /**
   * Names the client to the target, by the PROXY protocol of that version (HAProxy's
   * proxy-protocol.txt, 2.1 and 2.2); not at all by default.
   */
  proxyProtocol?: 1 | 2;
  /** Is called when a connection was accepted. */
  onAccept?: (session: SessionStatus, service: ServiceStatus) => void;
  /** Is called when it is connected with its target. */
  onConnect?: (session: SessionStatus, service: ServiceStatus) => void;
  /**
   * Is called when it has ended. One that was never connected has no target. Of two clients that
   * are joined, it is called for the one that came to `listener`: the other one's session is over,
   * "stopped", when they are joined.
   */
  onEnd?: (session: SessionStatus, service: ServiceStatus) => void;
  /**
   * Is called when a client has to wait until a connection ends, or the system is less short of
   * descriptors or memory: as often as one finds it so. `reason` is in words.
   */
  onFull?: (reason: string, service: ServiceStatus) => void;
  /** Is called when the system refuses to accept any more: all services of the Copier drain now. */
  onFailure?: (error: SystemError, service: ServiceStatus) => void;
}

/**
 * What each client is joined with: a connection to an address ("HOST:PORT", "[IPv6]:PORT", the
 * path of a unix socket with a slash in it, or "@name", an abstract one: unix(7)); a client of
 * another listening descriptor; or what a function returns.
 */
export type ServeTarget =
  | string
  | number
  | Descriptor
  | Connect;

/**
 * Returns a connected stream socket for the client at the address `peer`. `signal` is aborted when
 * nobody waits for that any more: `connectTimeout` is over, or the service was stopped. What it
 * throws, or rejects with, becomes the error of that connection. What it returns is closed with the
 * connection.
 */
export type Connect = (peer: string, signal: AbortSignal) => Descriptor | Promise<Descriptor>;

/** After so long a unix socket is tried again whose queue was full, and any target where no local port was free. */
const QUEUE_RETRY_MS = 5;

/** Why nobody is accepted for a while. */
const SHORT = "the system is short of descriptors or memory";

/** Descriptors that are left to the program and to pipes, where their limit bounds the connections. */
const RESERVED_DESCRIPTORS = 24;

/** The options, with their defaults. */
type Settings = ServeOptions & { connections: number; connectTimeout: number };

/** What comes to a listening descriptor, and where it goes. */
export class Service implements ServiceStatus {
  readonly address: string;
  readonly target: string;
  connections = 0;
  errors = 0;
  sent = 0;
  received = 0;
  error: SystemError | undefined;
  readonly isUnix: boolean;
  #options: Settings;
  /** What it listens at: one, or two whose clients are joined with each other. */
  readonly fds: readonly Fd[];
  /** Undefined where there are two. */
  readonly #target: Target | Connect | undefined;
  /** Aborts the functions that have not returned a descriptor yet, by their sessions. */
  readonly #asked = new Map<Session, AbortController>();
  #listeners: Listener[] = [];
  readonly #sessions = new Members<Session>();
  /** Clients that wait for one to be joined with, at each of the two listeners. */
  readonly #waiting: [Set<Waiting>, Set<Waiting>] = [new Set(), new Set()];
  #host: Host | undefined;
  possible = 0;
  #isPaused = false;
  #isClosed = false;
  /** Whether it keeps the loop running. */
  #isRunning = true;
  /** Sessions that found the queue of a unix socket full, or no local port free. */
  readonly #queued = new Set<Session>();
  /** How many sessions wait for a descriptor or memory. */
  #shortages = 0;
  /** How often the timeouts are checked, in milliseconds. */
  #checkInterval = Infinity;
  /** Whether a check is to come. */
  #isChecking = false;
  /** When the last connection ended. */
  #idleSince = 0;
  /** All that run together, this one too. */
  #all: readonly Service[] = [this];

  /**
   * What comes to `listener` is joined with `target`. Throws a
   * {@linkcode DescriptorError} where a descriptor does not listen, and a
   * `RangeError` where the target is no address, or an option is out of range.
   */
  constructor(listener: number | Fd, target: ServeTarget, options: ServeOptions = {}) {
    const { connections = 1000, connectTimeout = 10_000, proxyProtocol = 1 } = options;
    this.#options = { ...options, connections, connectTimeout };
    if (!(Number.isInteger(connections) && connections >= 1)) {
      throw new RangeError(`connections: ${connections} is not a whole number from 1 on`);
    }
    for (const name of ["connectTimeout", "timeout", "halfClosed", "exitIdle"] as const) {
      mustBeTime(name, options[name] ?? 0);
    }
    if (proxyProtocol !== 1 && proxyProtocol !== 2) {
      throw new RangeError(`proxyProtocol: ${proxyProtocol} is neither 1 nor 2`);
    }
    const first = toListener(listener);
    this.fds = [first];
    this.isUnix = first.isUnix;
    this.address = localAddress(first.fd).toString();
    if (typeof target === "function") {
      this.#target = target;
      this.target = "a function";
    } else if (typeof target === "string") {
      this.#target = new Target(target);
      this.target = String(this.#target);
    } else {
      const second = toListener(target);
      this.fds = [first, second];
      this.target = localAddress(second.fd).toString();
    }
  }

  /** Takes its listening sockets: nobody else may close or serve them from now on. */
  claim(): void {
    for (const fd of this.fds) fd.isCopied = true;
  }

  /** What it shares with its Copier. */
  get host(): Host {
    if (!this.#host) throw new Error("the service has not begun");
    return this.#host;
  }

  /** Whether it accepts no more, and ends with its last connection. */
  get isClosed(): boolean {
    return this.#isClosed;
  }

  /** Whether it joins clients of two listening sockets: one waits for the other without a timeout. */
  get isMeeting(): boolean {
    return this.#target === undefined;
  }

  /** Whether its target is an address or a name, not what a function returns. */
  get hasTarget(): boolean {
    return this.#target instanceof Target;
  }

  get options(): Settings {
    return this.#options;
  }

  /** Calls no callback any more. */
  silence(): void {
    const { onAccept: _, onConnect: __, onEnd: ___, onFull: ____, onFailure: _____, ...options } =
      this.#options;
    this.#options = options;
  }

  get sessions(): Iterable<SessionStatus> {
    return this.#sessions;
  }

  get open(): number {
    return this.#sessions.size;
  }

  /** Begins to listen, together with `all`. */
  begin(host: Host, all: readonly Service[]): void {
    this.#host = host;
    this.#all = all;
    libc.compileForServing();
    const limit = raiseDescriptorLimit();
    const free = freeNumber(this.fds[0]?.fd ?? -1);
    this.possible = Math.max(1, Math.floor((limit - free - RESERVED_DESCRIPTORS) / 2));
    this.#listeners = this.fds.map((fd, side) => {
      return new Listener(fd, host, {
        whyNot: () => this.#whyNot(side),
        onAccepted: (client, peer) => this.#accepted(client, peer, side),
        onFull: (reason) => this.#full(reason),
        onShortage: () => {
          this.pause();
          this.#full(SHORT);
        },
        onFailure: (error) => this.#failed(error),
      });
    });
    host.loop.ref();
    for (const listener of this.#listeners) listener.listen(true);
    this.#idleSince = performance.now();
    const { connectTimeout, timeout, halfClosed, exitIdle } = this.options;
    const times = [connectTimeout, timeout, halfClosed, exitIdle].map((time) => time || Infinity);
    this.#checkInterval = checkInterval(Math.min(...times));
    if (exitIdle) this.#checkLater();
  }

  /**
   * Why nobody may be accepted at this listener now; undefined where one may.
   * Who waits at the other listener does not count: one that comes here is joined with it.
   * Clients of several services that wait for the address of a name could take all descriptors:
   * then none would be left for a target, and nothing would ever move.
   */
  #whyNot(side: number): string | undefined {
    const others = this.#waiting[1 - side]?.size ?? 0, { connections } = this.options;
    if (this.#isPaused || this.#shortages > 0) return SHORT;
    if (this.open - others >= connections) {
      return `the limit of connections (${connections}) is reached`;
    }
    let all = 0;
    for (const service of this.#all) all += service.open;
    if (all - others < this.possible) return undefined;
    return `the limit of open descriptors has room for ${this.possible} connections`;
  }

  /** Somebody has to wait. */
  #full(reason: string): void {
    this.options.onFull?.(reason, this);
  }

  /**
   * Has the sessions checked in a while, if that is not to come anyway: their timeouts, and once
   * for each its keepalive. Further checks follow only while a timeout may expire.
   */
  #checkLater(): void {
    if (this.#isChecking || this.#isClosed && this.#sessions.size === 0) return;
    this.#isChecking = true;
    this.host.loop.after(this.#checkInterval, () => this.#checkTimeouts());
  }

  #checkTimeouts(): void {
    this.#isChecking = false;
    const now = performance.now();
    const { timeout, halfClosed, exitIdle = 0 } = this.options;
    if (this.host.channels.size > 0) this.#idleSince = now; // of a plain pair too
    let mayExpire = exitIdle > 0;
    for (const session of this.#sessions) {
      session.checkTimeouts(now);
      mayExpire ||= Boolean(timeout || halfClosed) || session.isConnecting && !this.isMeeting;
    }
    if (exitIdle > 0 && this.#isIdle(now - exitIdle)) this.#drainUnlessAsked(exitIdle);
    if (mayExpire) this.#checkLater();
  }

  /**
   * Whether nothing was open since then, in other services and plain pairs either:
   * while one of them keeps the program, nobody else would accept what comes here.
   */
  #isIdle(since: number): boolean {
    return this.host.channels.size === 0 &&
      this.#all.every((service) => service.open === 0 && service.#idleSince <= since);
  }

  /** Ends the services with that time, unless a connection has come at the last moment. */
  #drainUnlessAsked(exitIdle: number): void {
    for (const service of this.#all) {
      for (const listener of service.#listeners) if (listener.isAsked) listener.run();
    }
    if (this.#all.some((service) => service.open > 0)) return;
    for (const service of this.#all) {
      if (service.options.exitIdle === exitIdle) service.drain();
    }
  }

  #accepted(client: number, peer: string, side: number): void {
    const address = side === 0 ? this.address : this.target;
    const session = new Session(++this.connections, this, address, client, peer);
    this.#sessions.add(session);
    this.options.onAccept?.(session, this);
    const target = this.#target;
    if (target === undefined) this.#waitForMate(session, side);
    else if (target instanceof Target) session.connect(target);
    else this.#ask(session, target);
    this.#checkLater();
  }

  /** One of the addresses of the target was reached. */
  reached(address: Address): void {
    if (this.#target instanceof Target) this.#target.prefer(address);
  }

  async #ask(session: Session, target: Connect) {
    const { loop } = this.host;
    const asked = new AbortController();
    this.#asked.set(session, asked);
    try {
      const end = await target(session.peer, asked.signal);
      if (!(end instanceof Fd)) throw new TypeError("the function has returned no Descriptor");
      session.joinLater(end);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      loop.soon({ run: () => session.fail(reason) });
    }
    this.#asked.delete(session);
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
    if (!mate) {
      const isUnix = this.#listeners[side]?.fd.isUnix ?? false;
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
    client.join(server.giveAway(), this.fds[1]?.isUnix ?? false, server.peer);
  }

  /** Out of descriptors or memory: accepts again after {@linkcode SHORTAGE_RETRY_MS}, even if a connection ends sooner. */
  pause(): void {
    if (this.#isPaused) return;
    this.#isPaused = true;
    for (const listener of this.#listeners) listener.listen(false);
    this.host.loop.after(SHORTAGE_RETRY_MS, () => this.#resume());
  }

  /** A session waits for a descriptor or memory, or no longer does. */
  setShort(isShort: boolean): void {
    this.#shortages += isShort ? 1 : -1;
    if (!isShort && !this.#isPaused) this.#resume();
  }

  #resume(): void {
    this.#isPaused = false;
    try {
      for (const listener of this.#listeners) listener.listen(true);
    } catch (error) {
      // The user's limit of watched descriptors is reached, or memory is short.
      const isShort = error instanceof SystemError &&
        (error.errno === ENOSPC || isShortage(error.errno));
      if (isShort) this.pause();
      else this.host.loop.fail(error); // once whoever called has done its work
    }
  }

  /** A session has ended. */
  sessionEnded(session: Session): void {
    this.#sessions.delete(session);
    this.#asked.get(session)?.abort();
    this.#idleSince = this.host.loop.time;
    this.sent += session.sent;
    this.received += session.received;
    if (session.error) this.errors++;
    this.options.onEnd?.(session, this);
    if (this.#isClosed) this.#endIfIdle();
    for (const service of this.#all) {
      if (!service.#isPaused) service.#resume();
    }
  }

  /**
   * It can accept no more. So all services drain: serving ends with the last connection, and
   * whoever supervises the program can start it anew.
   */
  #failed(error: SystemError): void {
    this.error = error;
    this.options.onFailure?.(error, this);
    for (const service of this.#all) service.drain();
  }

  /** The target's queue is full, or no local port is free: tries again in a while, one of those that wait after the other. */
  queue(session: Session): void {
    if (this.#queued.size === 0) this.host.loop.after(QUEUE_RETRY_MS, () => this.#tryQueued());
    this.#queued.add(session);
  }

  /** Tries them until one finds that it is still so. */
  #tryQueued(): void {
    const queued = [...this.#queued];
    this.#queued.clear();
    for (const session of queued) {
      // What one has found, the others would find, too.
      if (this.#queued.size > 0) this.#queued.add(session);
      else session.run();
    }
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
    if (this.#sessions.size > 0 || !this.#isRunning) return;
    this.#isRunning = false;
    this.host.loop.unref();
  }

  /** Puts the flags of its listening sockets back. */
  restore(): void {
    for (const listener of this.#listeners) listener.restore();
  }

  /** As {@linkcode drain}, and gives up what is not connected yet. */
  stop(): void {
    if (!this.#host) { // it never began
      for (const fd of this.fds) fd.tryClose();
      return;
    }
    this.drain();
    for (const session of this.#sessions) {
      if (session.target === undefined) session.fail();
    }
  }
}

function toListener(listener: number | Fd): Fd {
  const fd = typeof listener === "number" ? new Fd(listener) : listener;
  if (fd.isClosed) throw new DescriptorError(`descriptor ${fd.fd} is closed`);
  if (fd.isCopied) throw new DescriptorError(`descriptor ${fd.fd} is served already`);
  if (!fd.isListening) throw new DescriptorError(`descriptor ${fd.fd} is not a listening socket`);
  // What it accepts is taken for streams, of which a message may be cut in two.
  if (fd.isStream) return fd;
  throw new DescriptorError(
    `descriptor ${fd.fd} listens for messages (SEQPACKET), not for streams`,
  );
}
