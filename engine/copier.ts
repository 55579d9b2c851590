/**
 * A copying that can be looked at, added to and stopped while it runs.
 *
 * It stands apart from engine.ts, so that the command loads nothing that only
 * other programs need.
 *
 * @module
 */
import { F_GETFL, O_APPEND } from "../sys/constants.ts";
import type { Descriptor } from "../sys/descriptor.ts";
import { DescriptorError, type SystemError } from "../sys/error.ts";
import { fcntl, offset } from "../sys/libc.ts";
import { PipeBudget } from "./budget.ts";
import { Channel, type ChannelStatus, type Host } from "./channel.ts";
import { Endpoints, READ, WRITE } from "./endpoint.ts";
import { Loop } from "./loop.ts";
import { BufferPool } from "./pool.ts";
import type { ServeOptions, ServeTarget, Service, ServiceStatus } from "./service.ts";

/** What a channel is to copy: from the first descriptor to the second. */
export type Pair = readonly [rfd: number, wfd: number];

/** How to copy. */
export interface CopyOptions {
  /**
   * The most bytes in flight in one channel, a whole number from 1 to 1 GiB.
   * @default {1048576}
   */
  buffer?: number;
  /**
   * The most bytes a second in each channel; 0 is no limit.
   * @default {0}
   */
  rate?: number;
  /**
   * Ends the copying early: nothing more is read, what was read is delivered,
   * write sides are shut down. A channel that had not come to its end then has
   * an error, ECANCELED, with the signal's reason as its cause.
   */
  signal?: AbortSignal;
  /**
   * For how long after `signal` to go on delivering, in milliseconds.
   * @default {5000}
   */
  grace?: number;
  /**
   * The longest time for which the engine keeps the event loop to itself, in
   * milliseconds. Longer is faster for the copying, as each interruption costs
   * 0.1 ms; shorter is better for what else the program does.
   * @default {5}
   */
  yieldAfter?: number;
  /** Sees each read and each write that moved bytes, and each end of file (a read of 0 bytes). */
  onOperation?: (
    operation: "read" | "write",
    descriptor: number,
    bytes: number,
    channel: ChannelStatus,
  ) => void;
  /**
   * Sees the bytes of each read, which are good until it returns: keep a copy
   * (`bytes.slice()`), not the array. Makes the copying slower, as the bytes
   * have to come into memory.
   */
  onData?: (channel: ChannelStatus, bytes: Uint8Array) => void;
  /** Sees each error as it happens. */
  onError?: (error: SystemError, channel: ChannelStatus) => void;
  /** Is called before each wait, when all that was ready has been done. What it returns is waited for. */
  onWait?: () => Promise<void> | undefined | void;
}

/** After this a read on another thread has come back, or still waits and holds nothing, in milliseconds. */
const THREAD_RETURNS = 100;

/** A copying that can be looked at, added to and stopped while it runs. {@linkcode copy} is the short form. */
export class Copier implements AsyncDisposable {
  readonly #loop: Loop;
  readonly #pool: BufferPool;
  readonly #endpoints: Endpoints;
  readonly #host: Host & { isStopping: boolean };
  readonly #grace: number;
  readonly #signal: AbortSignal | undefined;
  /** Those of the constructor, in the order given. */
  readonly #given: readonly Channel[];
  readonly #open = new Set<Channel>();
  readonly #services: Service[] = [];
  #isRunning = false;
  #ended: Promise<ChannelStatus[]> | undefined;
  #stop: { grace: number; reason: unknown } | undefined;

  /**
   * Looks at the descriptors. Throws a {@linkcode DescriptorError} where one will
   * not do, and a `RangeError` where an option is out of range.
   */
  constructor(pairs: Iterable<Pair>, options: CopyOptions = {}) {
    const { buffer = 1024 * 1024, grace = 5000, yieldAfter = 5, rate = 0 } = options;
    if (!(Number.isInteger(buffer) && buffer >= 1 && buffer <= 2 ** 30)) {
      throw new RangeError(`buffer: ${buffer} is not a whole number from 1 to 1 GiB`);
    }
    if (!(grace >= 0)) throw new RangeError(`grace: ${grace} is not a time in milliseconds`);
    if (!(yieldAfter >= 0)) {
      throw new RangeError(`yieldAfter: ${yieldAfter} is not a time in milliseconds`);
    }
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
      isStopping: false,
      onOperation: options.onOperation,
      onData: options.onData,
      onError: options.onError,
      channels: this.#open,
      rate,
      onEnd: (channel) => void this.#open.delete(channel),
    };
    try {
      this.#given = this.#make(pairs);
    } catch (error) {
      this.#loop.close();
      throw error;
    }
  }

  #make(pairs: Iterable<Pair>): Channel[] {
    const ends = Array.from(pairs, ([rfd, wfd]) => {
      const source = this.#endpoints.get(rfd, READ), sink = this.#endpoints.get(wfd, WRITE);
      if (source.fd.isRegular && source.fd.identity === sink.fd.identity && isEndless(rfd, wfd)) {
        throw new DescriptorError(
          `descriptor ${rfd} and descriptor ${wfd} are the same file, and the copy would never end`,
        );
      }
      return [source, sink] as const;
    });
    return ends.map(([source, sink]) => {
      const channel = new Channel(source, sink, this.#host);
      this.#open.add(channel);
      return channel;
    });
  }

  /** How each channel of the constructor stands, in the order given; goes on to tell while it runs. */
  get channels(): readonly ChannelStatus[] {
    return this.#given;
  }

  /**
   * Adds pairs while it runs, or before. Returns how they stand, which goes on to
   * tell. Throws as the constructor does, and an `Error` where it has ended or
   * is being stopped.
   */
  add(pairs: Iterable<Pair>): readonly ChannelStatus[] {
    if (this.#stop) throw new Error("this Copier is stopped, or has ended");
    const channels = this.#make(pairs);
    if (!this.#isRunning) return channels;
    for (const channel of channels) channel.begin();
    this.#loop.wake();
    return channels;
  }

  /**
   * Adds a service, before it runs: see {@linkcode serve}. Returns how it stands,
   * which goes on to tell.
   */
  async serve(
    listener: number | Descriptor,
    target: ServeTarget,
    options: ServeOptions = {},
  ): Promise<ServiceStatus> {
    const { Service } = await import("./service.ts");
    const service = new Service(listener, target, options);
    if (this.#isRunning || this.#stop) throw new Error("this Copier runs already, or has ended");
    this.#services.push(service);
    return service;
  }

  /** Accepts no more connections, and lets those that are open end in their own time. */
  drain(): void {
    for (const service of this.#services) service.drain();
  }

  /**
   * Copies until every channel has ended. Rejects where it was called before, as
   * the numbers may be other files' by now.
   */
  async run(): Promise<ChannelStatus[]> {
    if (this.#isRunning) throw new Error("this Copier has been run already");
    this.#isRunning = true;
    return await (this.#ended = this.#run());
  }

  async #run(): Promise<ChannelStatus[]> {
    const restore = () => {
      this.#endpoints.restore();
      for (const service of this.#services) service.restore();
    };
    const abort = () => this.stop(this.#grace, this.#signal?.reason);
    globalThis.addEventListener("unload", restore);
    this.#signal?.addEventListener("abort", abort);
    try {
      for (const channel of this.#open) channel.begin();
      for (const service of this.#services) service.begin(this.#host);
      if (this.#stop) this.#begunToStop(this.#stop);
      if (this.#signal?.aborted) abort();
      await this.#loop.run();
    } finally {
      this.#stop ??= { grace: 0, reason: undefined }; // there is nothing left to stop
      this.#host.isStopping = true;
      this.#signal?.removeEventListener("abort", abort);
      globalThis.removeEventListener("unload", restore);
      // Something is left only where a callback threw.
      this.#host.onOperation = this.#host.onError = undefined;
      for (const service of this.#services) service.stop();
      for (const channel of this.#open) channel.giveUp();
      this.#endpoints.restore();
      this.#pool.close();
      this.#loop.close();
    }
    return this.#given.map((channel) => channel.status());
  }

  /**
   * Reads nothing more; delivers what was read, for `grace` milliseconds at the
   * most. `reason` becomes the cause of the errors of the channels that are cut off.
   */
  stop(grace: number = this.#grace, reason?: unknown): void {
    if (this.#stop) return;
    this.#stop = { grace, reason };
    if (this.#isRunning) this.#begunToStop(this.#stop);
  }

  #begunToStop({ grace, reason }: { grace: number; reason: unknown }): void {
    this.#host.isStopping = true;
    for (const service of this.#services) service.stop();
    for (const channel of this.#open) channel.stop(reason);
    // A read on another thread may have bytes that have not come back yet.
    this.#loop.after(Math.min(THREAD_RETURNS, grace), () => {
      for (const channel of this.#open) channel.stopReading();
    });
    this.#loop.after(grace, () => {
      for (const channel of this.#open) channel.giveUp();
    });
    this.#loop.wake();
  }

  /** Stops it at once, and waits for its end. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.stop(0);
    await (this.#ended ?? this.run());
  }
}

/** Whether a file that is copied to another place of itself grows ahead of what is read. */
function isEndless(rfd: number, wfd: number): boolean {
  return (fcntl(wfd, F_GETFL) & O_APPEND) !== 0 || offset(wfd) > offset(rfd);
}
