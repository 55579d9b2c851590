/**
 * The command: arguments in, exit status out.
 *
 * @module
 */
import { Log } from "./cli/log.ts";
import { parse, type Settings, UsageError } from "./cli/options.ts";
import { onEndingSignal } from "./cli/signals.ts";
import { Copier, DescriptorError } from "./engine.ts";

/** All channels ended well; wrong use; the system refused something; a signal, plus its number. */
const WELL = 0, WRONG_USE = 100, REFUSED = 111, SIGNALLED = 128;

/** How long the event loop waits for the copying at a stretch, in milliseconds: signals wait with it. */
const HOLD = 50;

/** How long the end waits for a log whose reader is slow, in milliseconds. */
const LOG_GRACE = 1000;

async function main(args: readonly string[]): Promise<number> {
  try {
    const settings = await parse(args);
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
  const copier = new Copier(settings.pairs, {
    buffer: settings.buffer,
    hold: HOLD,
    onError: (error) => log.line(error.message),
    onWait: () => log.flush(),
    ...settings.verbose && {
      onOperation: (operation, descriptor, bytes) =>
        log.line(`${descriptor} ${operation === "read" ? ">" : "<"} ${bytes}`),
    },
  });
  const running = copier.run(); // first, as it costs time to listen to signals
  let endedBy = 0;
  onEndingSignal((signal) => {
    endedBy = signal;
    copier.stop();
  });
  const channels = await running;
  await log.end(LOG_GRACE);
  if (endedBy) return SIGNALLED + endedBy;
  return channels.some((channel) => channel.error) ? REFUSED : WELL;
}

function isWrongUse(error: unknown): error is Error {
  return error instanceof UsageError || error instanceof DescriptorError;
}

function print(text: string): number {
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at < bytes.length;) at += Deno.stdout.writeSync(bytes.subarray(at));
  return WELL;
}

function say(text: string, status: number): number {
  try {
    Deno.stderr.writeSync(new TextEncoder().encode(`iocopy: ${text}\n`));
  } catch {
    // Nobody listens: the status has to say it.
  }
  return status;
}

if (import.meta.main) Deno.exit(await main(Deno.args));
