/**
 * The signals that end the program, and those that ask for statistics.
 *
 * @module
 */
import { ignore, isIgnored } from "../sys/libc.ts";

/** Numbers of signals on every machine that Deno runs on (signal(7)). */
const SIGHUP = 1, SIGINT = 2, SIGUSR1 = 10, SIGUSR2 = 12, SIGTERM = 15, SIGXFSZ = 25;

/** Signals that end the program. */
const ENDING = [["SIGHUP", SIGHUP], ["SIGINT", SIGINT], ["SIGTERM", SIGTERM]] as const;

/**
 * Calls `stop` with the number of a signal that ends the program, and with how many of them have
 * come. The third one exits, with 128 plus its number, should the first two not have ended it. A
 * signal that was ignored at the start stays ignored, as nohup(1) requires. If there is a `drain`,
 * SIGHUP calls that instead, each time.
 */
export function onEndingSignal(
  stop: (signal: number, count: number) => void,
  drain?: () => void,
): void {
  const ignored = ENDING.filter(([, number]) => isIgnored(number));
  let count = 0;
  for (const [name, number] of ENDING) {
    Deno.addSignalListener(name, () => {
      if (drain && name === "SIGHUP") return drain();
      if (++count > 2) Deno.exit(128 + number);
      stop(number, count);
    });
  }
  // A listener for one of them makes the runtime catch all three.
  for (const [, number] of ignored) ignore(number);
}

/**
 * Signals that ask for statistics. SIGUSR1, which dd(1) uses, is free in an
 * executable only: otherwise the runtime opens its inspector at it.
 * (Linux does not have BSD's SIGINFO.)
 */
const ASKING: [Deno.Signal, number][] = [["SIGUSR2", SIGUSR2]];
if (Deno.build.standalone) ASKING.push(["SIGUSR1", SIGUSR1]);

/** Calls `report` at each signal that asks for statistics, unless it was ignored at the start. */
export function onAskingSignal(report: () => void): void {
  for (const [name, number] of ASKING) {
    if (!isIgnored(number)) Deno.addSignalListener(name, report);
  }
}

/**
 * Ignores signals that would do harm. SIGXFSZ kills the process if a file reaches
 * its size limit, which write(2) reports as an error anyway. SIGUSR1 makes the
 * runtime open its inspector on a TCP port. The runtime installs that handler half
 * a second after the start, unless there is one already: so a listener is added
 * first, and then the signal is ignored. An executable has no inspector.
 */
export function ignoreOthers(): void {
  ignore(SIGXFSZ);
  if (Deno.build.standalone) return;
  Deno.addSignalListener("SIGUSR1", () => {});
  ignore(SIGUSR1);
}
