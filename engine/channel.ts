import type { MemoryBuffer, PipeBuffer } from "../sys/buffer.ts";
import type { SystemError } from "../sys/error.ts";
import type { Port } from "./port.ts";

/** How a channel stands, or ended. */
export interface ChannelStatus {
  /** What it reads. */
  readonly rfd: number;
  /** What it writes. */
  readonly wfd: number;
  /** Bytes written so far. */
  readonly bytes: number;
  /** Reads and writes so far that moved bytes. */
  readonly operations: number;
  /** For how long it has been open, or was, in seconds. */
  readonly seconds: number;
  /** Whether the bytes stay in the kernel (splice(2)), or are copied. */
  readonly route: "splice" | "copy";
  /** How it ended; undefined while it is open. */
  readonly ended: "eof" | "hangup" | "error" | "stopped" | undefined;
  /** The first thing that went wrong, if anything. */
  readonly error: SystemError | undefined;
}

/** What a channel waits for: to read, its buffer being empty, or to write. */
export const READING = 0, WRITING = 1, ENDED = 2;

/** One pair. */
export class Channel implements ChannelStatus {
  readonly rfd: number;
  readonly wfd: number;
  error: SystemError | undefined;
  ended: "eof" | "hangup" | "error" | "stopped" | undefined;
  state = READING;
  /** Which readiness it is counted for at its ports. */
  waits: number | undefined;
  /** Empty is none: a buffer is taken to read into, and given back when drained. */
  buffer: PipeBuffer | MemoryBuffer | undefined;
  /** Whether splice moves bytes from rfd to wfd: through a pipe of ours, or directly. */
  spliced: boolean;
  direct: boolean;
  /** Refused splices in a row. */
  refused = 0;
  /** The write side has failed; what still comes is read and dropped, so that the peer gets our answer. */
  lingering = false;
  /** Whether another thread is at it, and what it came to. */
  underWay = false;
  outcome: number | undefined;
  /** Bytes and operations: doubles from the start, or V8 would compile all anew at 2 GiB. */
  readonly #counts = new Float64Array(2);
  readonly #startedAt = performance.now();
  #endedAt: number | undefined;

  /** Where it reads, and where it writes. */
  readonly source: Port;
  readonly sink: Port;

  /** The channel from `source` to `sink`; `copied` where its bytes have to come into memory. */
  constructor(source: Port, sink: Port, copied: boolean) {
    this.source = source;
    this.sink = sink;
    const [from, to] = [source.descriptor, sink.descriptor];
    this.rfd = from.fd;
    this.wfd = to.fd;
    this.spliced = !copied && from.isStream && to.isStream && !from.mayWait && !to.mayWait;
    // What is not a pipe gives and takes more at once than a pipe of another's
    // making holds: through one of ours, larger, TCP to a pipe costs half.
    this.direct = this.spliced && from.kind === "pipe" && to.kind === "pipe";
  }

  get bytes(): number {
    return this.#counts[0] ?? 0;
  }
  get operations(): number {
    return this.#counts[1] ?? 0;
  }
  get route(): "splice" | "copy" {
    return this.spliced ? "splice" : "copy";
  }
  get seconds(): number {
    return ((this.#endedAt ?? performance.now()) - this.#startedAt) / 1000;
  }

  /** Counts a read, or a write of `bytes`. */
  count(bytes: number): void {
    const counts = this.#counts;
    counts[0] = (counts[0] ?? 0) + bytes;
    counts[1] = (counts[1] ?? 0) + 1;
  }

  /** How it stands, in an object of its own. */
  status(): ChannelStatus {
    const { rfd, wfd, bytes, operations, seconds, route, ended, error } = this;
    return { rfd, wfd, bytes, operations, seconds, route, ended, error };
  }

  end(how: "eof" | "hangup" | "error" | "stopped"): void {
    this.state = ENDED;
    this.ended = how;
    this.#endedAt = performance.now();
  }
}
