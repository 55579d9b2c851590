/**
 * One run of a service: clients come, it connects them with its target or with each
 * other, and what must hold of channels must hold here, and of the service as well.
 *
 * @module
 */
import {
  type ChannelStatus,
  Copier,
  type CopyOptions,
  Descriptor,
  type ServeOptions,
  type ServeTarget,
  type ServiceStatus,
  type SessionStatus,
} from "../../engine.ts";
import { Channel } from "../../engine/channel.ts";
import {
  EADDRNOTAVAIL,
  EAGAIN,
  ECONNREFUSED,
  EINVAL,
  EMFILE,
  EPERM,
  O_NONBLOCK,
} from "../../sys/constants.ts";
import type { Address } from "../../sys/socket.ts";
import { Description, Listening, StreamSocket } from "./kernel.ts";
import type { Plan, ServePlan, WirePlan } from "./plan.ts";
import {
  busy,
  Callbacks,
  checkChannel,
  checkEndIsTold,
  checkProgress,
  checkWire,
  Drainer,
  drive,
  Feeder,
  inWorld,
  isRefusedToLook,
  type Result,
  Track,
  Wire,
} from "./simulate.ts";
import { enterNetwork } from "./socket.ts";
import type { Actor, World } from "./world.ts";

const LISTENER = 30, MATE = 31;

/** For how long after a shortage nobody has to be accepted, in milliseconds. */
const SHORT = 200;

/** In milliseconds: a service looks every 10 ms whether a time has passed. */
const LONGEST_PAUSE = 200;

/** The pieces of a connection that carries much: each is more than is received at a time. */
const LARGE: number[] = Array(20).fill(30_000);

/** Pieces are no longer than so many of the smallest room. */
const STEPS = 10;

export async function simulateService(
  plan: ServePlan,
  options: { tracing?: boolean } = {},
): Promise<Result> {
  return await inWorld(plan.copying, options, (world) => new Serving(plan, world).run());
}

/** Somebody comes at his time. */
class Comer implements Actor {
  readonly name: string;
  readonly wakesAt: number;
  readonly #world: World;
  readonly #come: () => void;
  #hasCome = false;

  constructor(name: string, at: number, world: World, come: () => void) {
    this.name = name;
    this.wakesAt = world.now + at;
    this.#world = world;
    this.#come = come;
  }
  get isEnabled(): boolean {
    return !this.#hasCome && this.#world.now >= this.wakesAt;
  }
  step(): void {
    this.#hasCome = true;
    this.#world.log(() => this.name);
    this.#come();
  }
}

class Serving {
  readonly #plan: ServePlan;
  readonly #world: World;
  /** As the checks of channels see it. */
  readonly #copying: Plan;
  readonly #wires: Wire[] = [];
  readonly #byFd = new Map<number, Wire>();
  readonly #tracks = new Map<ChannelStatus, Track>();
  readonly #waiting = new Map<StreamSocket, Wire>();
  readonly #callbacks: Callbacks;
  readonly #listeners: Description[] = [];
  /** What a function of the program has to return yet. */
  readonly #asked = new Set<Promise<Descriptor>>();
  /** The connections of which the end was told, with the error of that time. */
  readonly #ended = new Map<SessionStatus, string | undefined>();
  /** What the callbacks were told, in all. */
  readonly #told = { accepted: 0, sent: 0, received: 0, errors: 0 };
  #accepted = 0;
  #accepts = 0;
  #connects = 0;
  #servers = 0;
  #shortAt = -Infinity;
  readonly #smallest: number;

  constructor(plan: ServePlan, world: World) {
    this.#plan = plan;
    this.#world = world;
    const { copying, timeout, halfClosed } = plan;
    const isCut = timeout > 0 || halfClosed > 0;
    // What a time that has passed cuts off is cut off as by a stop.
    const stopAt = isCut && copying.stopAt < 0 ? 0 : copying.stopAt;
    const wide = copying.isBusy ? { buffer: 2 ** 20, rate: 0 } : {};
    this.#copying = { ...copying, ...wide, stopAt };
    this.#callbacks = new Callbacks(this.#copying, world);
    const rooms = [...plan.clients, ...plan.servers].flatMap(({ reads, room, roomBack }) => [
      ...reads,
      room,
      roomBack,
    ]);
    this.#smallest = Math.min(copying.buffer, copying.rate ? 10 : Infinity, ...rooms);
  }

  /** A connection, made on neither side yet. */
  #wire(plan: WirePlan, kind: "tcp" | "unix"): Wire {
    const pieces = plan.pieces.slice(0, 4).map((n) => Math.min(n, this.#smallest * STEPS));
    const pauses = plan.pauses.map((pause) => Math.min(pause, LONGEST_PAUSE));
    const index = this.#wires.length;
    const usual = { ...plan, kind, pieces, pauses, isShared: false };
    // Two of those who come carry much; there is room for it everywhere.
    const wide = { ...busy(usual), pieces: index < 2 ? LARGE : pieces };
    const wire = new Wire(this.#copying.isBusy ? wide : usual, index, this.#world);
    this.#wires.push(wire);
    wire.isServed = true;
    wire.make(true);
    if (wire.source) wire.source.flags |= O_NONBLOCK;
    return wire;
  }

  /** The peer begins. */
  #begin(wire: Wire): void {
    this.#world.actors.push(new Feeder(wire), new Drainer(wire));
  }

  #come(listening: Listening, plan: WirePlan, isTarget: boolean): void {
    if (listening.isClosed) return; // it is refused
    const wire = this.#wire(plan, listening.family);
    wire.isTarget = isTarget;
    if (wire.source?.file instanceof StreamSocket) {
      listening.waiting.push(wire.source.file);
      this.#waiting.set(wire.source.file, wire);
    }
    listening.edges++;
    this.#begin(wire);
  }

  #accept(fd: number): { fd: number; peer: string } | number {
    const { file } = this.#world.get(fd, "accept");
    if (!(file instanceof Listening)) return -22;
    if (this.#world.isHostile && this.#world.isUnlucky) this.#world.step();
    const [next] = file.waiting;
    const wire = next && this.#waiting.get(next);
    if (!next || !wire?.source) return -EAGAIN;
    const { accepts } = this.#plan;
    switch (accepts[this.#accepts++ % accepts.length]) {
      case "aborted":
        file.waiting.shift();
        next.resets = true;
        next.closed();
        this.#world.happened();
        return -103;
      case "forbidden":
        // By a seccomp filter all of them, by a firewall one, which is gone then.
        if (accepts.some((how) => how !== "forbidden")) {
          file.waiting.shift();
          next.resets = true;
          next.closed();
          this.#world.happened();
        }
        return -EPERM;
      case "broken":
        return -EINVAL;
      case "short":
        if (accepts.every((how) => how === "short")) break;
        this.#shortAt = this.#world.now;
        return -EMFILE;
    }
    file.waiting.shift();
    this.#accepted++;
    this.#world.happened();
    const number = this.#install(wire, wire.source);
    const port = String.fromCharCode(wire.index >> 8, wire.index & 255);
    return { fd: number, peer: file.family === "tcp" ? `\x02\0${port}\x7f\0\0\x01` : "\x01\0" };
  }

  #install(wire: Wire, description: Description): number {
    const fd = this.#world.install(description);
    wire.readFd = wire.writeFd = fd;
    const { file } = description;
    if (file instanceof StreamSocket && file.family === "tcp") this.#world.nagling.set(file, false);
    this.#byFd.set(fd, wire);
    return fd;
  }

  #connect(address: Address): number {
    const { connects, servers } = this.#plan;
    let how = connects[this.#connects++ % connects.length];
    // A program that waits for ever has to give up by itself.
    if (how === "never" && this.#plan.target === "function") how = "refused";
    const isHopeless = connects.every((how) => how === "full" || how === "short");
    this.#world.happened();
    if (how === "short" && !isHopeless) {
      this.#shortAt = this.#world.now;
      return -EMFILE;
    }
    if (how === "full" && !isHopeless) return address.isUnix ? -EAGAIN : -EADDRNOTAVAIL;
    if (address.isUnix && how === "refused") return -ECONNREFUSED;
    const plan = servers[this.#servers++ % servers.length];
    if (!plan) return -ECONNREFUSED;
    const wire = this.#wire(plan, address.isUnix ? "unix" : "tcp");
    wire.isTarget = true;
    const near = wire.source?.file;
    if (!wire.source || !(near instanceof StreamSocket)) return -ECONNREFUSED;
    const fd = this.#install(wire, wire.source);
    if (address.isUnix) {
      this.#begin(wire);
      return fd;
    }
    near.isConnecting = true;
    const decide = (well: boolean) => {
      near.isConnecting = false;
      near.edges++;
      if (well && wire.source && wire.source.references > 0) return this.#begin(wire);
      wire.feedEnded = wire.drainEnded = true;
      if (well) return;
      near.pending = ECONNREFUSED;
      near.isGone = true;
      near.down = 3;
    };
    if (how === "never") {
      wire.feedEnded = wire.drainEnded = true;
      return fd;
    }
    if (how === "at once") decide(true);
    else {
      const after = how === "later" ? 20 : 0;
      const name = `${wire.name}: the connect is decided`;
      const decided = () => decide(how !== "refused");
      this.#world.actors.push(new Comer(name, after, this.#world, decided));
    }
    return fd;
  }

  /** The program's view of a channel becomes ours. */
  #track(status: ChannelStatus): void {
    const from = this.#byFd.get(status.rfd), to = this.#byFd.get(status.wfd);
    if (!from || !to) return this.#world.fail(`a channel of ${status.rfd} and ${status.wfd}`);
    const track = new Track(from, to);
    to.preface = to.kernelWritten;
    track.status = status;
    from.readers.push(track);
    to.writers.push(track);
    this.#tracks.set(status, track);
  }

  /** Runs it, and hears of each channel when it begins: later its numbers can be others' already. */
  async run(): Promise<void> {
    const begin = Channel.begin;
    Channel.begin = (channels) => {
      for (const channel of channels) this.#track(channel);
      return begin.call(Channel, channels);
    };
    try {
      await this.#run();
    } finally {
      Channel.begin = begin;
    }
  }

  async #run(): Promise<void> {
    const plan = this.#plan, world = this.#world;
    world.mostIdleRounds = 12 * (plan.clients.length + plan.servers.length);
    enterNetwork(world, {
      accept: (fd) => this.#accept(fd),
      connect: (address) => this.#connect(address),
    });
    const listening = this.#listen(LISTENER, plan.clients);
    if (plan.target === "mate") this.#listen(MATE, plan.servers);
    world.onMoved = (file, direction, bytes) =>
      this.#wires.find(({ source }) => source?.file === file)?.moved(direction, bytes);
    const begun = await this.#begun();
    if (!begun) return this.#isUntouched();
    const { copier, service } = begun;
    const timers = this.#endInTime(copier);
    world.onIdle = () => this.#checkIdle(listening, service);
    const isCutOff = await this.#callbacks.drive(
      copier.run(),
      ({ syscall, errno }) =>
        syscall === "fcntl" && errno === plan.copying.refusals.setFlags ||
        syscall === "accept" && (errno === EPERM || errno === EINVAL),
    );
    await drive(world, Promise.allSettled(this.#asked));

    for (const timer of timers) world.clearTimer(timer);
    world.log(() => "the engine has ended");
    this.#checkEnd(service, isCutOff);
    world.isOver = true;
    for (const listener of this.#listeners) listener.release();
    world.runOut();
    this.#checkChannels(isCutOff);
  }

  /** A listening socket, to which clients will come. */
  #listen(fd: number, comers: (WirePlan & { arrivesAt: number })[]): Listening {
    const world = this.#world;
    const listening = new Listening(`listener ${fd}`, this.#plan.family);
    const description = new Description(listening, 2);
    world.give(fd, description);
    this.#listeners.push(description.hold());
    for (const comer of comers) {
      const come = () => this.#come(listening, comer, fd === MATE);
      world.actors.push(new Comer(`somebody comes to ${fd}`, comer.arrivesAt, world, come));
    }
    return listening;
  }

  /** Undefined where the system refuses to look at the descriptors. */
  async #begun(): Promise<{ copier: Copier; service: ServiceStatus } | undefined> {
    let copier: Copier | undefined;
    try {
      copier = new Copier([], this.#options());
      const service = await copier.serve(LISTENER, this.#target(), this.#serveOptions());
      return { copier, service };
    } catch (error) {
      if (!isRefusedToLook(this.#world, error)) throw error;
      await copier?.[Symbol.asyncDispose]();
      return undefined;
    }
  }

  #target(): ServeTarget {
    const targets = {
      tcp: "192.0.2.1:80",
      unix: "/target",
      name: "two.example:80",
      nobody: "nobody.example:80",
      mate: MATE,
      function: () => {
        const connected = Descriptor.connect("192.0.2.1:80");
        this.#asked.add(connected);
        return connected;
      },
    };
    return targets[this.#plan.target];
  }

  #options(): CopyOptions {
    const { buffer, rate, yieldAfter } = this.#copying;
    return {
      buffer,
      rate,
      yieldAfter,
      onOperation: (operation, _fd, length, status) => {
        const track = this.#tracks.get(status);
        if (operation === "read") track?.onRead(length);
        else track?.onWrite(length, this.#world);
        this.#callbacks.made();
      },
    };
  }

  #serveOptions(): ServeOptions {
    const { connections, connectTimeout, timeout, halfClosed, exitIdle, proxyProtocol } =
      this.#plan;
    return {
      connections,
      connectTimeout,
      timeout,
      halfClosed,
      exitIdle,
      ...proxyProtocol > 0 && { proxyProtocol: proxyProtocol === 1 ? 1 : 2 },
      onAccept: () => {
        this.#told.accepted++;
        this.#callbacks.made();
      },
      onConnect: () => this.#callbacks.made(),
      onEnd: (session) => this.#onEnd(session),
    };
  }

  #onEnd(session: SessionStatus): void {
    const world = this.#world, told = this.#told;
    if (this.#ended.has(session)) world.fail(`connection ${session.id} has ended twice`);
    this.#ended.set(session, session.error);
    told.sent += session.sent;
    told.received += session.received;
    if (session.error) told.errors++;
    world.log(() => `connection ${session.id} has ended: ${session.error ?? session.ended}`);
    if (session.ended === undefined) world.fail(`connection ${session.id} has not ended`);
    this.#callbacks.made();
  }

  /** Has it drained and stopped when the plan says so, which may be before it runs; returns the timers. */
  #endInTime(copier: Copier): number[] {
    const { drainAt, connections, copying: { stopAt } } = this.#plan, timers: number[] = [];
    const drain = () => copier.drain();
    const stop = () => copier.stop(this.#copying.grace, "enough");
    if (drainAt === 0 && connections === 1) drain();
    else timers.push(this.#world.setTimer(drain, drainAt, false));
    if (stopAt === 0) stop();
    else if (stopAt > 0) timers.push(this.#world.setTimer(stop, stopAt, false));
    return timers;
  }

  /** Everything waits. */
  #checkIdle(listening: Listening, service: ServiceStatus): void {
    const world = this.#world, { connections, target } = this.#plan;
    checkProgress(this.#copying, world, [...this.#tracks.values()]);
    for (const wire of this.#wires) checkEndIsTold(world, wire);
    const isLate = listening.waiting.length > 0 && service.open < connections &&
      world.entry(LISTENER) !== undefined;
    // After a shortage it tries again, as soon as the event loop has a turn.
    const shortAt = Math.max(this.#shortAt, world.refusedToWatchAt, world.hadNoNumberAt);
    const isShort = world.now - shortAt < SHORT || world.isTimerDue;
    // Those of the other listener count, as long as they wait.
    if (isLate && !isShort && target !== "mate") {
      world.fail("somebody waits to be accepted, and there is room");
    }
  }

  /** The engine has ended. */
  #checkEnd(service: ServiceStatus, isCutOff: boolean): void {
    const world = this.#world, { accepted, sent, received, errors } = this.#told;
    for (const fd of world.leaks) world.fail(`${fd} is not closed`);
    if (world.timersLeft > 0) world.fail(`${world.timersLeft} timers are left`);
    for (const { flags } of this.#listeners) {
      const isRefused = this.#copying.refusals.call?.name.endsWith("ETFL") && world.hasRefusedCall;
      if (flags !== 0 && !isRefused) world.fail("a listener's flags are changed");
    }
    for (const [{ id, error }, told] of this.#ended) {
      if (error !== told) world.fail(`connection ${id} ended with ${told}, and has ${error}`);
    }
    if (isCutOff) return;
    if (accepted !== this.#accepted) world.fail(`${accepted} of ${this.#accepted} were told of`);
    this.#checkSums(service, { sent, received, errors, ended: this.#ended.size });
  }

  /** The peers have ended, too. */
  #checkChannels(isCutOff: boolean): void {
    const world = this.#world, statuses = [...this.#tracks.keys()];
    const isDisturbed = isCutOff || world.hasRefusedToWatch || world.hasRefusedCall;
    const seen = isDisturbed ? { ...this.#copying, stopAt: 0 } : this.#copying;
    for (const track of this.#tracks.values()) checkChannel(seen, world, track, statuses);
    for (const wire of this.#wires) {
      if (wire.readers.length + wire.writers.length > 0) checkWire(seen, world, wire);
    }
  }

  /** What was not begun leaves its listening sockets open, and nothing else. */
  #isUntouched(): void {
    const { leaks } = this.#world;
    if (leaks.length !== this.#listeners.length) this.#world.fail(`${leaks} are open`);
  }

  #checkSums(
    service: { connections: number; open: number; errors: number; sent: number; received: number },
    { sent, received, errors, ended }: Record<"sent" | "received" | "errors" | "ended", number>,
  ): void {
    const world = this.#world;
    if (service.connections !== this.#accepted) {
      world.fail(`${service.connections} connections are counted, of ${this.#accepted}`);
    }
    if (service.open !== 0) world.fail(`${service.open} connections are said to be open`);
    // A pair of clients is one connection in the end, and two at first.
    if (this.#plan.target !== "mate" && ended !== this.#accepted) {
      world.fail(`${ended} connections have ended, of ${this.#accepted}`);
    }
    const isTrue = service.sent === sent && service.received === received &&
      service.errors === errors;
    if (!isTrue) {
      world.fail(
        `${service.sent} and ${service.received} bytes, ${service.errors} errors are said`,
      );
    }
  }
}
