/**
 * The timeout: giving up when nothing moves any more.
 *
 * @module
 */
import type { ChannelStatus } from "../engine.ts";
import { checkInterval } from "../engine/loop.ts";

/**
 * Calls `giveUp` once no byte has moved in any channel for `seconds`, never earlier
 * and at most a tenth later. It compares what the channels count anyway, so that
 * it costs nothing for each byte. Time passes only while `isRunning` returns true.
 * Returns a function that ends it.
 */
export function onTimeout(
  channels: readonly ChannelStatus[],
  seconds: number,
  giveUp: () => void,
  isRunning: () => boolean,
): () => void {
  let last = -1, since = 0, isDue = false;
  const check = () => {
    const moved = channels.reduce(
      (sum, { operations, ended }) => sum + operations + (ended ? 1 : 0),
      0,
    );
    const now = performance.now();
    if (moved !== last || !isRunning()) [last, since, isDue] = [moved, now, false];
    else if (now - since < seconds * 1000) return;
    else if (!isDue) isDue = true; // once more: it may be this process that was stopped for a while
    else {
      clearInterval(timer);
      giveUp();
    }
  };
  const timer = setInterval(check, checkInterval(seconds * 1000));
  check();
  return () => clearInterval(timer);
}
