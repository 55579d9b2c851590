/**
 * A copying that can be looked at, added to and stopped while it runs.
 *
 * It stands apart from engine.ts, so that the command loads nothing that only
 * other programs need.
 *
 * @module
 */
import type { Descriptor } from "../sys/descriptor.ts";
import { DescriptorError, type SystemError } from "../sys/error.ts";
import { Channel, type ChannelStatus, type Host, THREAD_RETURN_MS } from "./channel.ts";
import { Endpoints } from "./endpoint.ts";
import { Loop, mustBeTime } from "./loop.ts";
import { Members } from "./members.ts";
import { BufferPool, PipeBudget } from "./pool.ts";
import type { ServeOptions, ServeTarget, Service, ServiceStatus } from "./service.ts";

/**
 * What a channel is to copy: from the first descriptor to the second, each the
 * number of one that was inherited, or one that `Descriptor` made or wraps.
 */
export type Pair = readonly [from: number | Descriptor, to: number | Descriptor];

/**
 * How to copy. A callback may stop the Copier and add pairs; what one throws ends
 * every channel, no other is called any more, and `run` rejects with it.
 */
export interface CopyOptions {
  /**
   * The most bytes in flight in one channel, a whole number from 1 to 1 GiB.
   * @default {1048576}
   */
  buffer?: number;
  /**
   * The most bytes a second in each channel; 0 and `Infinity` are no limit.
   * @default {0}
   */
  rate?: number;
  /**
   * Ends the copying early: nothing more is read, what was read is delivered,
   * write sides are shut down. A channel that had not come to its end has the error
   * ECANCELED, whose `cause` is the signal's reason.
   */
  signal?: AbortSignal;
  /**
   * For how long after `signal` to go on delivering, in milliseconds; `Infinity`
   * is as long as it takes.
   * @default {5000}
   */
  grace?: number;
  /**
   * The longest time for which this copying keeps the event loop to itself, in milliseconds; of
   * several Copiers that are busy, each keeps it for so long, one after the other. Longer is
   * faster for the copying, as each interruption costs 0.1 ms; shorter is better for what else
   * the program does.
   * @default {5}
   */
  yieldAfter?: number;
  /** Is called for each read and each write that moved bytes, and for each end of file (a read of 0 bytes). */
  onOperation?: (
    operation: "read" | "write",
    descriptor: number,
    bytes: number,
    channel: ChannelStatus,
  ) => void;
  /**
   * Is called with the bytes of each read. They are overwritten after it returns: keep a
   * copy (`bytes.slice()`), not the array. Makes the copying slower, as the bytes have to
   * come into memory.
   */
  onData?: (channel: ChannelStatus, bytes: Uint8Array) => void;
  /** Is called for each error when it happens; not for the ECANCELED of a channel that was stopped with nothing lost. */
  onError?: (error: SystemError, channel: ChannelStatus) => void;
  /**
   * Is called before each wait, when all that was ready has been handled. A promise that it returns
   * is awaited first: until it is settled nothing is copied, and nothing stopped.
   */
  onWait?: () => Promise<void> | undefined | void;
}

/**
 * Events after which the process may exit while it copies: Deno.exit, an uncaught error, an
 * unhandled rejection. If the program handles the error and goes on, each flag is set again after
 * the next wait.
 */
const PROGRAM_ENDS = ["unload", "error", "unhandledrejection"] as const;

/**
 * A copying that can be looked at, added to and stopped while it runs. It runs once, and
 * closes its descriptors at the end; one that is not to run is to be disposed of.
 *
 * Between its creation and its end nobody else may use the numbers. Apart from that, a
 * callback or a caller may do anything while it runs: add pairs, stop it, throw.
 *
 * @example Stop a copy after a time, and see how far it came
 * ```ts ignore
 * import { Copier } from "./engine.ts";
 *
 * const copier = new Copier([[0, 1]]);
 * const timer = setTimeout(() => copier.stop(1000, "too late"), 60_000);
 * const [channel] = await copier.run();
 * clearTimeout(timer);
 * console.error(channel?.bytes, channel?.ended);
 * ```
 */
export class Copier implements AsyncDisposable {
  readonly #loop: Loop;
  readonly #pool: BufferPool;
  readonly #endpoints: Endpoints;
  readonly #host: Host & { stopped: Host["stopped"] };
  readonly #grace: number;
  readonly #signal: AbortSignal | undefined;
  /** The channels of the constructor, in the order given. */
  readonly #given: readonly Channel[];
  readonly #open = new Members<Channel>();
  readonly #services: Service[] = [];
  #phase: "new" | "running" | "ended" = "new";
  #isDrained = false;
  /** Is resolved when {@linkcode run} is over, however that ends. */
  readonly #over = Promise.withResolvers<void>();
  #stop: { grace: number; reason: unknown } | undefined;

  /**
   * Looks at the descriptors. Throws a {@linkcode DescriptorError} where one will
   * not do, a `RangeError` where an option is out of range, and a {@linkcode SystemError} where
   * no number is left for the two that it needs itself; then nothing has been opened, closed or
   * changed.
   */
  constructor(pairs: Iterable<Pair>, options: CopyOptions = {}) {
    const { buffer = 1024 * 1024, grace = 5000, yieldAfter = 5, rate = 0 } = options;
    if (!(Number.isInteger(buffer) && buffer >= 1 && buffer <= 2 ** 30)) {
      throw new RangeError(`buffer: ${buffer} is not a whole number from 1 to 1 GiB`);
    }
    mustBeTime("grace", grace);
    mustBeTime("yieldAfter", yieldAfter);
    if (!(rate >= 0)) throw new RangeError(`rate: ${rate} is not a number of bytes a second`);
    this.#grace = grace;
    this.#signal = options.signal;
    this.#loop = new Loop(yieldAfter, options.onWait);
    const budget = new PipeBudget(buffer);
    this.#pool = new BufferPool(buffer, this.#loop, budget);
    this.#endpoints = new Endpoints(this.#loop, budget);
    this.#host = {
      loop: this.#loop,
      pool: this.#pool,
      budget,
      stopped: undefined,
      closing: new Set(),
      onOperation: options.onOperation,
      onData: options.onData,
      onError: options.onError,
      channels: this.#open,
      rate: rate === Infinity ? 0 : rate,
      isUsed: (number) =>
        this.#endpoints.has(number) || this.#loop.knows(number) ||
        this.#services.some(({ fds }) =>
          fds.some(({ fd, isClosed }) => fd === number && !isClosed)
        ),
      onEnd: (channel) => this.#open.delete(channel),
    };
    try {
      this.#given = this.#make(pairs);
    } catch (error) {
      this.#loop.close();
      throw error;
    }
  }

  #make(pairs: Iterable<Pair>): Channel[] {
    return this.#endpoints.ofPairs(pairs).map(([source, sink]) => {
      const channel = new Channel(source, sink, this.#host);
      this.#open.add(channel);
      return channel;
    });
  }

  /** How each channel of the constructor stands, in the order given; always up to date. */
  get channels(): readonly ChannelStatus[] {
    return this.#given;
  }

  /**
   * Adds pairs while it runs, or before. Returns how they stand, always up to
   * date. Throws as the constructor does, and an `Error` where it has ended or is
   * being stopped: then nothing is added or closed. Throws a
   * {@linkcode SystemError} where the system refuses to watch one of them: then
   * these pairs are closed.
   */
  add(pairs: Iterable<Pair>): readonly ChannelStatus[] {
    if (this.#stop || this.#phase === "ended") {
      throw new Error("this Copier is stopped, or has ended");
    }
    const channels = this.#make(pairs);
    if (this.#phase === "running") {
      const refused = Channel.begin(channels);
      if (refused) throw refused;
      this.#loop.wake();
    }
    return channels;
  }

  /**
   * Adds a service before it runs: see `serve` in engine.ts. Returns how it stands, always up to
   * date. Rejects with a `DescriptorError` or a `RangeError` as `serve` does, and with an `Error`
   * where this Copier runs already, or has ended.
   */
  async serve(
    listener: number | Descriptor,
    target: ServeTarget,
    options: ServeOptions = {},
  ): Promise<ServiceStatus> {
    const { Service } = await import("./service.ts");
    if (this.#phase !== "new" || this.#stop) {
      throw new Error("this Copier runs already, or has ended");
    }
    const service = new Service(listener, target, options);
    const fds = [...this.#services, service].flatMap(({ fds }) => fds);
    const twice = fds.find((one, at) => fds.slice(0, at).some((other) => one.isSameAs(other)));
    if (twice) throw new DescriptorError(`descriptor ${twice.fd} is served twice`);
    service.claim();
    this.#services.push(service);
    return service;
  }

  /**
   * Ends the pairs of the constructor at once; what they still hold is lost, which is an error.
   * Services go on, and pairs that were added. Before it runs, and after its end, it does nothing.
   */
  stopPairs(): void {
    if (this.#phase !== "running") return;
    this.#inNextRound(() => {
      for (const channel of this.#given) {
        channel.stop();
        channel.stopReading();
        channel.giveUp();
      }
    });
  }

  /** Has all services accept no more connections, and lets those that are open end in their own time. */
  drain(): void {
    this.#isDrained = true;
    if (this.#phase !== "running") return;
    this.#inNextRound(() => {
      for (const service of this.#services) service.drain();
    });
  }

  /**
   * Copies until every channel has ended. Rejects where it was called before, as
   * the numbers may be other files' by now; and as `copy` does.
   */
  async run(): Promise<ChannelStatus[]> {
    if (this.#phase !== "new") throw new Error("this Copier has been run already");
    this.#phase = "running";
    try {
      return await this.#run();
    } finally {
      this.#over.resolve();
    }
  }

  async #run(): Promise<ChannelStatus[]> {
    const restore = ({ type }: Event) => {
      // Within a round, a splice(2) may be about to follow, and would wait: only the exit is sure.
      if (type !== "unload" && this.#loop.isInRound) return;
      for (const { source, sink } of this.#open) for (const end of [source, sink]) end.restore();
      for (const service of this.#services) service.restore();
    };
    const abort = () => this.stop(this.#grace, this.#signal?.reason);
    for (const event of PROGRAM_ENDS) globalThis.addEventListener(event, restore);
    this.#signal?.addEventListener("abort", abort);
    try {
      if (this.#signal?.aborted) abort();
      const refused = Channel.begin([...this.#open]);
      if (refused) throw refused;
      for (const service of this.#services) service.begin(this.#host, this.#services);
      if (this.#isDrained) this.drain();
      if (this.#stop) this.#beginToStop(this.#stop);
      // A microtask may add pairs after the loop has ended and before this function goes on.
      do await this.#loop.run(); while (this.#loop.isNeeded);
    } finally {
      this.#phase = "ended";
      this.#host.stopped ??= { reason: undefined };
      this.#signal?.removeEventListener("abort", abort);
      for (const event of PROGRAM_ENDS) globalThis.removeEventListener(event, restore);
      // Something is left only where a callback threw: then no other one is called.
      this.#host.onOperation = this.#host.onError = undefined;
      for (const service of this.#services) service.silence();
      for (const service of this.#services) service.stop();
      this.#giveUp();
      this.#pool.close();
      this.#loop.close();
    }
    return this.#given.map((channel) => channel.status());
  }

  /**
   * Reads nothing more; delivers what was read, for `grace` milliseconds at the
   * most. `reason` becomes the cause of the errors of the channels that are cut
   * off. A second call may only shorten that time; after the end a call does
   * nothing. Throws a `RangeError` where `grace` is no time.
   */
  stop(grace: number = this.#grace, reason?: unknown): void {
    mustBeTime("grace", grace);
    const before = this.#stop;
    const stop = before ? { ...before, grace: Math.min(before.grace, grace) } : { grace, reason };
    this.#stop = stop;
    if (this.#phase !== "running") return;
    this.#host.stopped = stop;
    this.#inNextRound(() => this.#beginToStop(stop));
  }

  /** The caller may be a callback, in the midst of a channel's step; and what a callback throws has to leave through the loop. */
  #inNextRound(run: () => void): void {
    this.#loop.soon({ run });
    this.#loop.wake();
  }

  #beginToStop(stop: { grace: number; reason: unknown }): void {
    const { grace } = this.#host.stopped = stop;
    for (const service of this.#services) service.stop();
    for (const channel of this.#open) channel.stop();
    // A read on another thread may have bytes that have not come back yet.
    this.#loop.after(Math.min(THREAD_RETURN_MS, grace), () => {
      for (const channel of this.#open) channel.stopReading();
    });
    this.#loop.after(grace, () => this.#giveUp());
  }

  #giveUp(): void {
    for (const channel of this.#open) channel.giveUp();
    for (const endpoint of this.#host.closing) endpoint.close();
  }

  /**
   * Stops it at once, and waits for its end. Does not reject with what
   * {@linkcode run} has rejected with already.
   */
  async [Symbol.asyncDispose](): Promise<void> {
    this.stop(0);
    if (this.#phase === "new") await this.run();
    else await this.#over.promise;
  }
}
