/**
 * One connection of a service: two channels between two sockets that we made.
 * Until it has both sockets it is watched here; then its channels are copied as
 * all others are, and call {@linkcode Session.onEnd} when they end.
 *
 * @module
 */
import {
  EADDRNOTAVAIL,
  EAGAIN,
  ECONNREFUSED,
  ECONNRESET,
  EPIPE,
  ERR,
  ETIMEDOUT,
  HUP,
  OUT,
} from "../sys/constants.ts";
import { isShortage, SystemError } from "../sys/error.ts";
import { Fd, freeNumber } from "../sys/fd.ts";
import * as libc from "../sys/libc.ts";
import { Address, connect, disconnectFromItself, lacksPort, setKeepAlive } from "../sys/socket.ts";
import { Channel, type ChannelStatus, failure, type Owner } from "./channel.ts";
import { Connection, Endpoint, FIRST_WATCH } from "./endpoint.ts";
import type { Loop, Watcher } from "./loop.ts";
import type { Member } from "./members.ts";
import { proxyHeader } from "./proxy.ts";
import type { Service } from "./service.ts";
import type { Target } from "./target.ts";

/** How a connection stands, or ended; always up to date. */
export interface SessionStatus {
  /** Its number in its service, from 1 on. */
  readonly id: number;
  /** The address of the listening socket that it came to: of two, either {@linkcode ServiceStatus.address} or the other one. */
  readonly address: string;
  /** Who made it: "192.0.2.1:4711"; "unix" for a unix socket. */
  readonly peer: string;
  /** The address that it is connected with, or another client's, or "descriptor N"; undefined as long as it is not. */
  readonly target: string | undefined;
  /** Bytes from the client to the target. */
  readonly sent: number;
  /** Bytes from the target to the client. */
  readonly received: number;
  /** For how long it has been open, or was, in seconds. */
  readonly seconds: number;
  /** How it ended: "eof", both directions did; "error", see there; or "stopped"; undefined while it is open. */
  readonly ended: "eof" | "error" | "stopped" | undefined;
  /** The first thing that went wrong, in words: "read client: Connection reset by peer"; undefined if nothing did. */
  readonly error: string | undefined;
}

/** After so long a call is tried again for which the system had no descriptor or memory. */
export const SHORTAGE_RETRY_MS = 50;

const NONE: readonly Address[] = [];

/** One connection: from its acceptance to its end. */
export class Session implements SessionStatus, Watcher, Owner, Member {
  place = 0;
  readonly id: number;
  readonly address: string;
  readonly #service: Service;
  /** An {@linkcode Address}, packed: there are many sessions. */
  readonly #peer: string;
  readonly #client: number;
  readonly #startedAt: number;
  #endedAt = 0;
  /** The socket to the target, while it is being connected. */
  #connecting = -1;
  /** The target's addresses, the index of the one that is tried now, and how many have failed. */
  #addresses: readonly Address[] = NONE;
  #index = 0;
  #failures = 0;
  /** The errno with which the system had no descriptor or memory for the last try; else 0. */
  #shortage = 0;
  #target: Address | string | undefined;
  /** What a function of the program has returned, until it is joined, or given back. */
  #given: Fd | undefined;
  #sending: Channel | undefined;
  #receiving: Channel | undefined;
  #isEnded = false;
  error: string | undefined;
  /** Operations and ends, as counted at the last check. */
  #activity = 0;
  /** When a timeout began to run: with the last activity that a check has found, or with the attempt to connect. */
  #since: number;
  #isKeptAlive = false;

  constructor(id: number, service: Service, address: string, client: number, peer: string) {
    this.id = id;
    this.address = address;
    this.#service = service;
    this.#client = client;
    this.#peer = peer;
    this.#since = this.#startedAt = service.host.loop.time;
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
    if (!this.#sending) return "stopped"; // before it was connected
    return this.#sending.ended === "stopped" || this.#receiving?.ended === "stopped"
      ? "stopped"
      : "eof";
  }

  get loop(): Loop {
    return this.#service.host.loop;
  }

  // ---- Connecting.

  /** Looks for the target's addresses, and tries one after the other. */
  connect(target: Target): void {
    this.#begin(target);
    if (this.#addresses.length > 0) return this.#try();
    // A look-up that has no descriptor fails in several ways, and does not say why.
    const before = this.#lackOfDescriptors();
    let failed: string | undefined;
    const found = target.find().then((error) => {
      failed = error;
      return 0;
    });
    this.loop.onThread(found, () => {
      if (this.#isEnded) return;
      this.#begin(target);
      if (failed === undefined) return this.#try();
      this.#setShortage(before || this.#lackOfDescriptors());
      if (this.#shortage) this.#tryLater(() => this.connect(target));
      else this.fail(`${target}: ${failed}`);
    });
  }

  #lackOfDescriptors(): number {
    return shortage(freeNumber(this.#client));
  }

  #begin(target: Target): void {
    this.#addresses = target.addresses;
    this.#index = target.best;
    if (!this.#shortage) this.#since = this.loop.time;
  }

  get #address(): Address | undefined {
    return this.#addresses[this.#index];
  }

  #try(): void {
    if (this.#isEnded || this.#connecting >= 0 || this.#target !== undefined) return;
    for (;;) {
      const address = this.#address;
      if (!address) return this.fail("the name has no address");
      const fd = connect(address, true);
      this.#setShortage(shortage(fd));
      if (fd >= 0) return this.#watch(fd);
      if (this.#shortage) return this.#tryLater(() => this.#try());
      const isFull = fd === -EAGAIN || fd === -EADDRNOTAVAIL && lacksPort(address);
      if (isFull) return this.#service.queue(this);
      if (!this.#failed(-fd)) return;
    }
  }

  #watch(fd: number): void {
    this.#connecting = fd;
    try {
      this.loop.watch(fd, FIRST_WATCH, this);
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      this.fail(`${this.#tried}: ${libc.strerror(error.errno)}`);
    }
  }

  /** The target as it was given, and where that is a name, the address that is tried. */
  get #tried(): string {
    const { target } = this.#service, address = String(this.#address);
    return address === target ? target : `${target} (${address})`;
  }

  /** While one session is short, none is accepted, so that it gets what becomes free. */
  #setShortage(errno: number): void {
    const wasShort = this.#shortage !== 0, isShort = errno !== 0;
    this.#shortage = errno;
    if (isShort === wasShort) return;
    this.#since = performance.now();
    this.#service.setShort(isShort);
  }

  /** As a task of the loop: connects to the next address, or, once connected, sends the first bytes. */
  run(): void {
    if (this.#sending) this.#sendFirst(this.#sending);
    else this.#try();
  }

  /** An address failed. Returns whether there is another one; else it has ended. */
  #failed(errno: number): boolean {
    // That of the first one, which is the best: this machine may have no way to the last one at all.
    this.error ??= `${this.#tried}: ${libc.strerror(errno)}`;
    this.#index = (this.#index + 1) % this.#addresses.length;
    this.#since = performance.now();
    if (++this.#failures < this.#addresses.length) return true;
    this.fail(this.error);
    return false;
  }

  #tryLater(again: () => void): void {
    this.loop.after(SHORTAGE_RETRY_MS, () => {
      if (!this.#isEnded) again();
    });
  }

  /** The socket to the target is connected, or has failed. */
  ready(events: number): void {
    const fd = this.#connecting, address = this.#address;
    if (fd < 0 || !address) return;
    const error = refusal(fd, address, events);
    // What it has sent before is passed on, unless it was to get a header first. EPIPE: it had
    // ended its side before its reset, see Channel.
    const hasSpoken = (error === ECONNRESET || error === EPIPE) &&
      !this.#service.options.proxyProtocol &&
      libc.bytesQueued(fd) > 0;
    if (error && !hasSpoken) {
      this.#dropConnecting();
      // Its number must not be given away in this round: see Listener.ready.
      if (this.#failed(error)) this.loop.soon(this);
      return;
    }
    this.#connecting = -1;
    this.error = undefined; // of another address
    if (!error) this.#service.reached(address);
    this.#joinEnds(new Fd(fd, { isUnix: address.isUnix }), address, events, error);
  }

  #dropConnecting(): void {
    const fd = this.#connecting;
    if (fd < 0) return;
    this.#connecting = -1;
    this.loop.forget(fd);
    libc.setReset(fd); // it may be connected by now: see #giveBack
    libc.close(fd);
  }

  // ---- Copying.

  /** Joins the client with a connected socket of ours. */
  join(fd: number, isUnix: boolean, target: string): void {
    this.#joinEnds(new Fd(fd, { isUnix }), target);
  }

  /**
   * `events` are those that the {@linkcode FIRST_WATCH} of `to` has brought already; undefined
   * where it is not watched. `error` is its pending error, which was read.
   */
  #joinEnds(to: Fd, target: Address | string, events?: number, error = 0): void {
    if (this.#isEnded) return void to.tryClose();
    const { host, isUnix, options } = this.#service;
    const refused = options.proxyProtocol && this.#sendHeader(to, options.proxyProtocol);
    if (refused) {
      if (events !== undefined) host.loop.forget(to.fd);
      to.tryClose();
      return this.fail(`${target}: ${refused}`);
    }
    this.#target = target;
    this.#since = this.loop.time;
    // What was sent already may be small and not acknowledged: then Nagle's algorithm (RFC 1122,
    // 4.2.3.4) would hold the next small piece back.
    if (isTcp(to) && (options.proxyProtocol || events === undefined)) libc.setNoDelay(to.fd);
    const client = new Endpoint(new Fd(this.#client, { isUnix }), new Connection(), host.loop);
    client.passesReset = true;
    const connection = new Connection();
    connection.error = error;
    const server = new Endpoint(to, connection, host.loop);
    server.delaysAck = events !== undefined && isTcp(to);
    host.loop.handOver(to.fd, server);
    this.#sending = new Channel(client, server, host, this);
    this.#receiving = new Channel(server, client, host, this);
    host.channels.add(this.#sending);
    host.channels.add(this.#receiving);
    options.onConnect?.(this, this.#service);
    // Where the user's limit of watched descriptors is reached, this connection has ended now.
    Channel.begin([this.#sending, this.#receiving]);
    if (events !== OUT) server.endFirstWatch();
    // The client has mostly spoken by now. Without waiting for epoll to say so there are 3 %
    // more connections in a second (`deno task bench:serving --tests=http`).
    this.loop.soon(this);
  }

  /**
   * Sends what the client has sent by now. Where that is nothing, the handshake is completed without
   * it; `delaysAck` stays, since Linux delays again with the first bytes that are sent.
   */
  #sendFirst(sending: Channel): void {
    sending.run();
    const { delaysAck, fd } = sending.sink;
    if (delaysAck && sending.bytes === 0 && !fd.isClosed) libc.setQuickAck(fd.fd, true);
  }

  /**
   * Sends it whole: half of it would spoil all that follows. It fits, as nothing else was sent
   * yet. Returns in words why it was not sent.
   */
  #sendHeader(to: Fd, version: 1 | 2): string | undefined {
    try {
      const header = proxyHeader(version, Address.unpack(this.#peer), this.#client);
      if (libc.send(to.fd, header) === header.length) return undefined;
      return "the PROXY header was not taken";
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      return `the PROXY header needs ${error.syscall}: ${libc.strerror(error.errno)}`;
    }
  }

  /**
   * As {@linkcode join}, with what a function of the program gives; as a task of the loop, so that
   * what a callback throws leaves through the loop.
   */
  joinLater(end: Fd): void {
    if (this.#isEnded) return this.#giveBack(end);
    this.#given = end;
    this.loop.soon({ run: () => this.#joinWith(end) });
  }

  #joinWith(end: Fd): void {
    try {
      const isGood = !end.isClosed && end.kind === "socket" && end.isStream && !end.isListening &&
        !end.isUnconnected;
      if (!isGood) return this.fail(`descriptor ${end.fd} is not a connection`);
    } catch (error) {
      if (!(error instanceof SystemError)) throw error;
      return this.fail(error.message);
    }
    if (this.#isAnothers(end)) return this.fail(`descriptor ${end.fd} is another connection's`);
    this.#given = undefined;
    this.#joinEnds(end, `descriptor ${end.fd}`);
  }

  /** Whether it is copied or served elsewhere, or its number is: who does that closes it. */
  #isAnothers(end: Fd): boolean {
    return end.isCopied || this.#service.host.isUsed(end.fd);
  }

  /**
   * What a function has given is closed with its connection, were it none itself. By a reset: an
   * end of file would tell the target that the client has ended, with nothing to say.
   */
  #giveBack(end: Fd): void {
    if (this.#isAnothers(end)) return;
    if (end.isOurs && !end.isUnix && !end.isClosed) libc.setReset(end.fd);
    end.tryClose();
  }

  // ---- What its channels tell it.

  onError(error: SystemError, channel: ChannelStatus): void {
    // To be stopped is none, unless what was read is lost.
    if (!failure(channel)) return;
    // The numbers of our own descriptors would mean nothing to a reader.
    const side = (error.syscall === "read") === (channel === this.#sending) ? "client" : "target";
    this.error ??= `${error.syscall} ${side}: ${libc.strerror(error.errno)}`;
  }

  onEnd(channel: Channel): void {
    this.#service.host.channels.delete(channel);
    // A channel tells of its error after its end, and with the second one this connection ends.
    if (channel.error) this.onError(channel.error, channel);
    if (channel.sink.resets) this.#receiving?.endLingering();
    if (this.#sending?.ended && this.#receiving?.ended) this.#end();
  }

  // ---- The end.

  /** Ends it before it was connected: with an error, or stopped. */
  fail(error?: string): void {
    if (this.#isEnded) return;
    this.error = error;
    this.#setShortage(0);
    this.#dropConnecting();
    if (this.#given) this.#giveBack(this.#given);
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
    this.#endedAt = this.loop.time;
    this.#service.sessionEnded(this);
  }

  /** Ends it, or its attempt to connect, if one of its times has passed. */
  checkTimeouts(now: number): void {
    const { connectTimeout, timeout = 0, halfClosed = 0 } = this.#service.options;
    const isPast = (time: number) => time > 0 && now - this.#since >= time;
    if (!this.#sending || !this.#receiving) {
      // It is not the target's fault. But a service that drains is to end some time.
      if (this.#shortage && !this.#service.isClosed) this.#since = now;
      if (this.#service.isMeeting) return; // see Waiting
      if (this.#hasGone) {
        return this.fail(`${this.#service.target}: the client went before it answered`);
      }
      if (!isPast(connectTimeout)) return;
      if (this.#connecting >= 0 && libc.poll(this.#connecting, OUT) > 0) return; // its event is to come
      // With an address that it is not being connected to, it waits: see Service.queue.
      const hasNoPort = this.#connecting < 0 && this.#address?.isUnix === false;
      this.#dropConnecting();
      const errno = this.#shortage || (hasNoPort ? EADDRNOTAVAIL : ETIMEDOUT);
      if (this.#shortage || this.#addresses.length === 0) {
        const isLookingUp = !this.#shortage && this.#service.hasTarget;
        const reason = isLookingUp
          ? "the look-up of the name takes too long"
          : libc.strerror(errno);
        this.fail(`${this.#service.target}: ${reason}`);
      } else if (this.#failed(errno)) this.#try();
      return;
    }
    this.#keepAlive(this.#sending);
    // An end is activity, too: the direction that is left has the whole of its timeout.
    const ends = Number(this.#sending.ended !== undefined) +
      Number(this.#receiving.ended !== undefined);
    const activity = this.#sending.operations + this.#receiving.operations + ends;
    if (activity !== this.#activity) {
      this.#activity = activity;
      this.#since = now;
      return;
    }
    const isOver = ends > 0 && isPast(halfClosed);
    if (!isPast(timeout) && !isOver || this.#sending.isLate || this.#receiving.isLate) return;
    const [name, time] = isPast(timeout) ? ["timeout", timeout] : ["half-closed", halfClosed];
    this.cut(ETIMEDOUT, `${name}: nothing moved for ${time / 1000} s`);
  }

  /** Whether the client has reset its connection, or closed its unix socket, with nothing to deliver: it needs no place here. */
  get #hasGone(): boolean {
    return (libc.poll(this.#client, 0) & HUP) !== 0 && libc.bytesQueued(this.#client) === 0;
  }

  /**
   * The kernel finds out that a peer has vanished, after two hours where nobody has changed
   * that. So it is asked to when a connection is first looked at, up to a second after it
   * was accepted: a short one saves two calls, 1 us (`deno task bench:serving --tests=http`).
   */
  #keepAlive({ source, sink }: Channel): void {
    if (this.#isKeptAlive) return;
    this.#isKeptAlive = true;
    keepAlive(source.fd);
    keepAlive(sink.fd);
  }

  /** The client's socket, while it waits for another one to come. */
  get client(): number {
    return this.#client;
  }

  /** Ends without closing the client's socket, which another session takes. */
  giveAway(): number {
    this.#isEnded = true;
    this.#endedAt = this.loop.time;
    return this.#client;
  }
}

/** The errno with which a connection was refused; 0 where it was made. `events` are those of the socket to the target. */
function refusal(fd: number, address: Address, events: number): number {
  if (events & (ERR | HUP)) {
    const error = libc.pendingError(fd);
    if (error) return error;
    if (libc.getpeername(fd) < 0) return ECONNREFUSED;
  }
  return disconnectFromItself(fd, address) ? ECONNREFUSED : 0;
}

/** The errno of a call that returned `result`, where it failed for want of a descriptor or memory; else 0. */
function shortage(result: number): number {
  return isShortage(-result) ? -result : 0;
}

function isTcp(fd: Fd): boolean {
  return fd.kind === "socket" && !fd.isUnix;
}

/** Not of one that is closed: while one direction lingers, the other socket may be. */
function keepAlive(fd: Fd): void {
  if (isTcp(fd) && !fd.isClosed) setKeepAlive(fd.fd);
}
