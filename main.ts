/**
 * The command: arguments in, exit status out.
 *
 * @module
 */
import { Log } from "./cli/log.ts";
import { parse, type Settings, UsageError } from "./cli/options.ts";
import { ignoreOthers, onAskingSignal, onEndingSignal } from "./cli/signals.ts";
import { SO_ACCEPTCONN } from "./sys/constants.ts";
import { getsockopt } from "./sys/libc.ts";
import type { ChannelStatus, CopyOptions } from "./engine.ts";
import { failure } from "./engine/channel.ts";
import { Copier } from "./engine/copier.ts";
import { DescriptorError } from "./sys/error.ts";

// From source, Deno decodes the source map of each module that is the first to import another
// one, to know in which line: 0.3 ms each. So main.ts is the first to import all that a start
// loads (`deno task bench --tests=start --against=OTHER`).
import "./engine/endpoint.ts";
import "./engine/loop.ts";
import "./engine/members.ts";
import "./engine/pacing.ts";
import "./engine/pool.ts";
import "./engine/route.ts";
import "./sys/epoll.ts";
import "./sys/fd.ts";
import "./sys/ffi.ts";
import "./sys/pipe.ts";
import "./sys/readiness.ts";

/** No error; wrong use; the system refused something; a signal, plus its number. */
const OK = 0, WRONG_USE = 100, REFUSED = 111, SIGNALLED = 128;

/**
 * How long copying can keep the event loop, and with it the handling of signals, waiting; in
 * milliseconds. With 25, pipes take 1.04 times the CPU (`deno task bench --paths=pipe-pipe
 * --against=OTHER`); but a service that has to stop should not accept hundreds of connections more.
 */
const YIELD_AFTER = { pairs: 100, serving: 25 };

async function main(args: readonly string[]): Promise<number> {
  try {
    const settings = parse(args);
    if (settings.help) return print((await import("./cli/help.ts")).HELP);
    if (settings.version) return print((await import("./cli/version.ts")).version());
    return await run(settings);
  } catch (error) {
    if (isWrongUse(error)) return say(`${error.message}; iocopy --help tells more`, WRONG_USE);
    const message = error instanceof Error ? error.message : String(error);
    return say(message.replaceAll(/\s+/g, " "), REFUSED);
  }
}

async function run(settings: Settings): Promise<number> {
  const log = new Log();
  const listeners = settings.pairs.filter(([one, other]) => isListening(one) && isListening(other));
  const pairs = settings.pairs.filter((pair) => !listeners.includes(pair));
  const serving = settings.services.length + listeners.length > 0
    ? await import("./cli/serving.ts")
    : undefined;
  const yieldAfter = serving ? YIELD_AFTER.serving : YIELD_AFTER.pairs;
  const copier = new Copier(pairs, { ...await copyOptions(settings, log), yieldAfter });
  // Of a pair with one that listens the Copier has said what is wrong.
  if (settings.serving && !serving) {
    throw new UsageError(`--${settings.serving}: none of the descriptors listens`);
  }
  const served = await serving?.serveAll(copier, settings, listeners, log);
  const services = served?.services ?? [];
  const { channels } = copier;
  let status = OK, hasGivenUp = false;
  const giveUp = (reason: string) => {
    if (hasGivenUp) return; // -t and --half-closed can be due together
    hasGivenUp = true;
    status = REFUSED;
    log.message(reason);
    if (serving) copier.stopPairs();
    else copier.stop(0);
  };
  const watchers: (() => void)[] = served ? [served.end] : [];
  if (settings.progress) {
    const { showProgress } = await import("./cli/progress.ts");
    watchers.push(showProgress(channels, settings.size, log, serving?.traffic(services)));
  }
  if (pairs.length > 0) watchers.push(...await onTimeouts(channels, settings, giveUp));
  const report = async () => {
    const { statistics } = await import("./cli/stats.ts");
    if (serving) log.keep(serving.sums(services, settings.json));
    if (pairs.length > 0) log.keep(statistics(channels, settings.json));
    log.flush();
  };
  // Before a byte moves: until there is a listener, a signal kills the process.
  onEndingSignal((signal, count) => {
    status = SIGNALLED + signal;
    copier.stop(count > 1 ? 0 : undefined); // no exit: what was cut off would look whole
  }, serving && (() => copier.drain()));
  onAskingSignal(() => void report());
  ignoreOthers();
  const running = copier.run();
  served?.tellLimit();
  void import("./cli/stats.ts"); // now, so that no signal has to wait for it
  try {
    await running;
  } finally {
    watchers.forEach((end) => end());
    if (settings.stats) await report();
    await log.end();
  }
  const hasFailed = channels.some(failure) || services.some(({ error }) => error);
  return status || (hasFailed ? REFUSED : OK);
}

async function copyOptions(settings: Settings, log: Log): Promise<CopyOptions> {
  return {
    buffer: settings.buffer,
    rate: settings.rate,
    onError: (error) => {
      log.message(error.message);
      log.flush();
    },
    ...settings.verbose && {
      onWait: () => log.flush(),
      onOperation: (operation, descriptor, bytes) =>
        log.line(`${descriptor} ${operation === "read" ? ">" : "<"} ${bytes}`),
    },
    // Loaded only if it is used, as are other modules: that makes the start faster.
    ...settings.dump && (await import("./cli/dump.ts")).dumping(log),
  };
}

/** Calls `giveUp` when -t or --half-closed is due. Returns the functions that end that. */
async function onTimeouts(
  channels: readonly ChannelStatus[],
  { timeout, halfClosed }: Settings,
  giveUp: (reason: string) => void,
): Promise<(() => void)[]> {
  if (!timeout && !halfClosed) return [];
  const { onTimeout } = await import("./cli/timeout.ts");
  const isOpen = () => channels.some(({ ended }) => !ended); // else there are services that go on
  const isHalfClosed = () => isOpen() && channels.some(({ ended }) => ended);
  const all = [["timeout", timeout, isOpen], ["half-closed", halfClosed, isHalfClosed]] as const;
  return all.filter(([, seconds]) => seconds > 0).map(([name, seconds, isRunning]) => {
    const expired = () => giveUp(`${name}: nothing moved for ${seconds} s`);
    return onTimeout(channels, seconds, expired, isRunning);
  });
}

function isListening(fd: number): boolean {
  return getsockopt(fd, SO_ACCEPTCONN) === 1;
}

function isWrongUse(error: unknown): error is Error {
  return error instanceof UsageError || error instanceof DescriptorError;
}

function print(text: string): number {
  const bytes = new TextEncoder().encode(text);
  try {
    for (let at = 0; at < bytes.length;) at += Deno.stdout.writeSync(bytes.subarray(at));
  } catch (error) {
    return say(`write 1: ${String(error).replace(/^\w+: | \(os error \d+\)$/g, "")}`, REFUSED);
  }
  return OK;
}

function say(text: string, status: number): number {
  try {
    Deno.stderr.writeSync(new TextEncoder().encode(`iocopy: ${text}\n`));
  } catch {
    // Standard error is closed: the exit status has to do.
  }
  return status;
}

if (import.meta.main) Deno.exit(await main(Deno.args));
