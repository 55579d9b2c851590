/**
 * Statistics: how much each channel has copied, and how it ended.
 *
 * @module
 */
import type { ChannelStatus } from "../engine.ts";
import { failure } from "../engine/channel.ts";

/** One line for each channel and one for all together, in words or as JSON. */
export function statistics(channels: readonly ChannelStatus[], json: boolean): string {
  const total = {
    channels: channels.length,
    bytes: channels.reduce((sum, channel) => sum + channel.bytes, 0),
    operations: channels.reduce((sum, channel) => sum + channel.operations, 0),
    seconds: Math.max(...channels.map((channel) => channel.seconds)),
  };
  const lines = json
    ? [...channels.map(toObject), { ...total, seconds: toMillis(total.seconds) }]
      .map((object) => JSON.stringify(object))
    : [
      ...channels.map((channel) =>
        `iocopy: ${channel.rfd} -> ${channel.wfd}: ${amount(channel)}, ${ending(channel)}`
      ),
      `iocopy: total: ${amount(total)}`,
    ];
  return lines.map((line) => line + "\n").join("");
}

function toObject(channel: ChannelStatus) {
  const { rfd, wfd, bytes, operations, seconds, route, reason, pipes, ended } = channel;
  return {
    rfd,
    wfd,
    bytes,
    operations,
    seconds: toMillis(seconds),
    route,
    reason: reason ?? null,
    pipes: { read: pipes.read ?? null, own: pipes.own ?? null, write: pipes.write ?? null },
    ended: ended ?? null,
    error: failure(channel)?.message ?? null,
  };
}

/** Seconds, to the millisecond. */
export function toMillis(seconds: number): number {
  return Math.round(seconds * 1000) / 1000;
}

function amount({ bytes, seconds }: { bytes: number; seconds: number }): string {
  return `${bytes} bytes in ${seconds.toFixed(3)} s, ${forPeople(seconds && bytes / seconds)}/s`;
}

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];

/**
 * A number of bytes with three digits: "1.03 MB". @std/fmt/bytes does the same, but
 * takes 10 ms to load, which is too long when a signal asks for statistics.
 */
export function forPeople(bytes: number): string {
  let unit = 0;
  for (; bytes >= 999.5 && unit < UNITS.length - 1; unit++) bytes /= 1000;
  return `${unit ? bytes.toPrecision(3) : Math.round(bytes)} ${UNITS[unit]}`;
}

/** How a channel or a connection has ended, in words. */
export const ENDINGS = {
  eof: "end of file",
  hangup: "hung up",
  error: "error",
  stopped: "stopped",
};

function ending(channel: ChannelStatus): string {
  return failure(channel)?.message ?? (channel.ended ? ENDINGS[channel.ended] : "open");
}
