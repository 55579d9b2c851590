/**
 * Copies data between pairs of inherited descriptors. Linux only; a program that uses it
 * needs the permission `--allow-ffi`.
 *
 * Each pair is a channel: it reads while its buffer is empty, and writes while
 * it is not. That is all the flow control there is: a slow reader of its output stops
 * its own input, and no other.
 *
 * @example Copy standard input to standard output
 * ```ts ignore
 * import { copy } from "./engine.ts";
 *
 * const [channel] = await copy([[0, 1]]);
 * console.error(channel?.bytes, channel?.error?.message ?? "complete");
 * ```
 *
 * @module
 */
import { Copier, type CopyOptions, type Pair } from "./engine/copier.ts";
import type { ChannelStatus, End, PipeSizes } from "./engine/channel.ts";
import type { Connect, ServeOptions, ServeTarget, ServiceStatus } from "./engine/service.ts";
import type { SessionStatus } from "./engine/session.ts";
import { Descriptor } from "./sys/descriptor.ts";
import { DescriptorError, SystemError } from "./sys/error.ts";
import type { Fd, Kind } from "./sys/fd.ts";

export {
  type ChannelStatus,
  type Connect,
  Copier,
  type CopyOptions,
  Descriptor,
  DescriptorError,
  type End,
  type Fd,
  type Kind,
  type Pair,
  type PipeSizes,
  type ServeOptions,
  type ServeTarget,
  type ServiceStatus,
  type SessionStatus,
  SystemError,
};

/**
 * Copies each pair of descriptors until all have ended, and closes them all.
 *
 * At the end of file of a pair's read side and when all is written, the write
 * side is shut down (a socket) or closed (anything else), once no other pair
 * uses it. An error ends its own pair only. One descriptor may be in several
 * pairs, and a pair may be given twice: what is read goes to one of them each
 * time, and the end to all.
 *
 * Rejects with a {@linkcode DescriptorError} before anything moves where a
 * descriptor is not open for what is asked, or cannot carry bytes, and with a
 * `RangeError` where an option is out of range: then all descriptors stay open.
 * Rejects with a {@linkcode SystemError} where the system refuses to wait at all,
 * and with what a callback threw, when every channel has ended. What goes wrong
 * with one pair is in its result.
 */
export async function copy(
  pairs: Iterable<Pair>,
  options: CopyOptions = {},
): Promise<ChannelStatus[]> {
  return await new Copier(pairs, options).run();
}

/**
 * Serves: joins each connection that comes to `listener` with one of its own to
 * `target`. Ends when `options.signal` or `options.exitIdle` ends it, and closes `listener`.
 *
 * Rejects as {@linkcode copy} does; with a `RangeError` where `target` is no address; and with
 * a {@linkcode SystemError} where the system refuses to accept any more, once the open
 * connections have ended. An error of one connection ends that one only, and so does what the
 * function of a `target` throws.
 *
 * @example Forward a port, for half a second
 * ```ts ignore
 * import { Descriptor, serve } from "./engine.ts";
 *
 * const signal = AbortSignal.timeout(500);
 * await serve(Descriptor.listen("127.0.0.1:0"), "192.0.2.7:80", { signal });
 * ```
 */
export async function serve(
  listener: number | Descriptor,
  target: ServeTarget,
  options: ServeOptions & CopyOptions = {},
): Promise<void> {
  await using copier = new Copier([], options);
  const service = await copier.serve(listener, target, options);
  await copier.run();
  if (service.error) throw service.error;
}
