/**
 * The timeout: giving up when nothing moves any more.
 *
 * @module
 */
import type { ChannelStatus } from "../engine.ts";

/** How often the counts are compared during a timeout, and the bounds of that interval in milliseconds. */
const LOOKS = 20, OFTEN = 10, SELDOM = 1000;

/**
 * Calls `giveUp` once no byte has moved in any channel for `seconds`, never earlier
 * and at most a twentieth later. It compares what the channels count anyway, so that
 * it costs nothing for each byte. Time passes only while `counts` returns true.
 * Returns a function that ends it.
 */
export function onTimeout(
  channels: readonly ChannelStatus[],
  seconds: number,
  giveUp: () => void,
  counts: () => boolean = () => true,
): () => void {
  let last = -1, since = 0;
  const look = () => {
    const moved = channels.reduce((sum, channel) => sum + channel.operations, 0);
    const now = performance.now();
    if (moved !== last || !counts()) [last, since] = [moved, now];
    else if (now - since >= seconds * 1000) {
      clearInterval(timer);
      giveUp();
    }
  };
  const timer = setInterval(look, Math.max(OFTEN, Math.min(SELDOM, seconds * 1000 / LOOKS)));
  look();
  return () => clearInterval(timer);
}
