/**
 * The progress: a live line on a terminal; otherwise a plain line now and then.
 *
 * @module
 */
import type { ChannelStatus } from "../engine.ts";
import { Fd } from "../sys/fd.ts";
import { offset } from "../sys/libc.ts";
import type { Log } from "./log.ts";
import { forPeople } from "./stats.ts";

/** How often the line is drawn on a terminal, and printed otherwise, in milliseconds. */
const REDRAWN = 250, REPEATED = 10_000;

/** The current rate is the mean of so many milliseconds. */
const RECENTLY = 2000;

/** More channels than this are shown as one sum. */
const FEW = 4;

/** The rank of the mean rate: a bar is worth more than that, and less than all else. */
const MEAN = 5;

/** The narrowest bar that is of use, and the widest. */
const BAR = { least: 10, most: 40 };

/**
 * Shows how much the channels, if any, have copied of `size` bytes; with 0, of the bytes
 * of all rfds that are regular files; and the figures of the services, if any. Returns a
 * function that prints a last line for the channels, and one for the services, and ends it.
 */
export function showProgress(
  channels: readonly ChannelStatus[],
  size: number,
  log: Log,
  services?: Figures,
): () => void {
  const isTerminal = Deno.stderr.isTerminal();
  // Data that goes to a terminal would be mixed with the line, and erased together with it.
  const isForData = isTerminal && channels.some(({ wfd }) => new Fd(wfd).kind === "terminal");
  const all: Figures[] = services ? [services] : [];
  if (channels.length > 0) all.push(new Progress(channels, size));
  const draw = () => {
    if (isTerminal) {
      const pieces = all.flatMap((figures) => figures.pieces());
      log.live(fit(pieces, width() - 1), width());
    } else for (const figures of all) log.message(fit(figures.pieces(), Infinity));
    log.flush();
  };
  const timer = isForData ? undefined : setInterval(draw, isTerminal ? REDRAWN : REPEATED);
  if (isTerminal && !isForData) draw();
  return () => {
    clearInterval(timer);
    log.live("", width());
    for (const figures of all) {
      if (isTerminal) log.keep(fit(figures.pieces(true), width() - 1) + "\n");
      else log.message(fit(figures.pieces(true), Infinity));
    }
  };
}

/** How wide the terminal is now. */
function width(): number {
  try {
    return Deno.consoleSize().columns || 80;
  } catch {
    return 80; // the terminal has hung up
  }
}

/**
 * A piece of the line. If it is too wide, pieces are dropped, those of the highest rank first.
 * One that says how much is `done`, of 1, has a bar in front of it if there is room without the
 * mean rate.
 */
export type Piece = [rank: number, text: string, done?: number];

/** What the line is made of. */
export interface Figures {
  /** The pieces as of now; `last` leaves out what only an unfinished copy has. */
  pieces(last?: boolean): Piece[];
}

/** The progress of channels. */
export class Progress implements Figures {
  readonly #channels: readonly ChannelStatus[];
  /** The channels that copy {@linkcode #goal} bytes in the end. */
  readonly #counted: readonly ChannelStatus[];
  readonly #goal: number;
  /** Times, and the bytes that all channels had copied by then. */
  readonly #samples: { at: number; bytes: number }[] = [];
  readonly #startedAt: number;

  /** The progress of `channels` since the time `now`. */
  constructor(channels: readonly ChannelStatus[], size: number, now = performance.now()) {
    this.#channels = channels;
    const files = size ? [] : channels.filter((channel) => toCome(channel.rfd) > 0);
    this.#counted = size ? channels : files;
    this.#goal = size || files.reduce((sum, { rfd }) => sum + toCome(rfd), 0);
    this.#startedAt = now;
    this.#samples.push({ at: now, bytes: sum(channels) });
  }

  /** At the time `now`; `last` leaves out the current rate and the time left. */
  pieces(last = false, now = performance.now()): Piece[] {
    const seconds = (now - this.#startedAt) / 1000;
    const bytes = sum(this.#channels);
    const mean = seconds > 0 ? bytes / seconds : 0;
    const each: Piece[] = this.#channels.length > FEW
      ? [[1, `${this.#channels.length} channels ${size(bytes)}`]]
      : this.#channels.map(({ rfd, wfd, bytes }) => [1, `${rfd}->${wfd} ${size(bytes)}`]);
    const pieces: Piece[] = [[2, clock(seconds)], ...each];
    if (!last) pieces.push([3, speed(this.#current(now, bytes))]);
    pieces.push([last ? 3 : MEAN, `mean ${speed(mean)}`]);
    const done = sum(this.#counted) / this.#goal;
    if (this.#goal > 0) {
      pieces.push([0, `${Math.floor(done * 100)}%`.padStart(4), Math.min(1, done)]);
    }
    const left = (this.#goal - sum(this.#counted)) / mean;
    if (this.#goal > 0 && !last && left >= 0) {
      pieces.push([4, `${left === Infinity ? "-:--:--" : clock(left)} left`]);
    }
    return pieces;
  }

  #current(now: number, bytes: number): number {
    const samples = this.#samples;
    samples.push({ at: now, bytes });
    while (samples[1] && samples[1].at <= now - RECENTLY) samples.shift();
    const [first] = samples;
    return first && now > first.at ? (bytes - first.bytes) / (now - first.at) * 1000 : 0;
  }
}

/** Puts as many pieces on a line of `columns` characters as fit, and a bar in front of the percentage. */
export function fit(pieces: Piece[], columns: number): string {
  const toText = () => pieces.map(([, text]) => text).join("  ");
  const hasBar = pieces.some(([, , done]) => done !== undefined);
  while (pieces.length > 1) {
    const last = Math.max(...pieces.map(([rank]) => rank));
    const forBar = hasBar && last >= MEAN ? BAR.least + 2 : 0;
    if (toText().length + forBar <= columns) break;
    pieces.splice(pieces.findLastIndex(([rank]) => rank === last), 1);
  }
  const room = Math.min(columns - toText().length - 2, BAR.most);
  const at = pieces.findIndex(([, , done]) => done !== undefined);
  const done = pieces[at]?.[2];
  if (done !== undefined && room >= BAR.least) pieces.splice(at, 0, [0, bar(room, done)]);
  return toText().slice(0, columns);
}

function bar(width: number, done: number): string {
  const full = Math.floor(done * (width - 2));
  const head = full < width - 2 ? ">" : "";
  return `[${("=".repeat(full) + head).padEnd(width - 2)}]`;
}

/** A number of bytes, always with the same width. */
function size(bytes: number): string {
  return forPeople(bytes).padStart(7);
}

function speed(bytes: number): string {
  return `${size(bytes)}/s`;
}

/** Seconds as 0:01:04. */
function clock(seconds: number): string {
  const [s, m, h] = [seconds % 60, seconds / 60 % 60, seconds / 3600].map(Math.floor);
  return `${h}:${String(m).padStart(2, "0")}:${String(s).padStart(2, "0")}`;
}

function sum(channels: readonly ChannelStatus[]): number {
  return channels.reduce((sum, channel) => sum + channel.bytes, 0);
}

/** How much of a regular file is still to be read; 0 for anything else. */
function toCome(fd: number): number {
  const { size } = new Fd(fd);
  return size && Math.max(0, size - offset(fd));
}
