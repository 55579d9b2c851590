/**
 * The signals that end the program, and the ones that ask it how it comes along.
 *
 * @module
 */
import { ignore, isIgnored } from "../sys/libc.ts";

/** Signals that end it, and their numbers (signal(7)). */
const ENDING = [["SIGHUP", 1], ["SIGINT", 2], ["SIGTERM", 15]] as const;

/**
 * Calls `stop` with the number of the first signal that asks the program to
 * end; the second one ends it at once, with 128 and its number. A signal that
 * is ignored from the start stays so: nohup(1) relies on it. Where there is a
 * `drain`, SIGHUP calls that instead, as often as it comes.
 */
export function onEndingSignal(stop: (signal: number) => void, drain?: () => void): void {
  const ignored = ENDING.filter(([, number]) => isIgnored(number));
  let stopping = false;
  for (const [name, number] of ENDING) {
    Deno.addSignalListener(name, () => {
      if (drain && name === "SIGHUP") return drain();
      if (stopping) Deno.exit(128 + number);
      stopping = true;
      stop(number);
    });
  }
  // Listening to one of them makes the runtime catch all three.
  for (const [, number] of ignored) ignore(number);
}

/**
 * Signals that ask for statistics, and their numbers: one that is free, and in
 * an executable dd(1)'s, which the runtime takes for its inspector otherwise.
 * (SIGINFO, BSD's, is unknown to Linux.)
 */
const ASKING: [Deno.Signal, number][] = [["SIGUSR2", 12]];
if (Deno.build.standalone) ASKING.push(["SIGUSR1", 10]);

/** Calls `answer` at each signal that asks for statistics, but for those ignored from the start. */
export function onAskingSignal(answer: () => void): void {
  for (const [name, number] of ASKING) {
    if (!isIgnored(number)) Deno.addSignalListener(name, answer);
  }
}

/**
 * Signals that would do what nobody asked for. SIGXFSZ ends the process at a
 * file that has reached its limit, which write(2) tells as an error as well.
 * SIGUSR1 makes the runtime open its inspector, which is a TCP port: it begins
 * to listen half a second after the start, and whoever listens second to a
 * signal finds a handler in place and sets none. So we listen first, and then
 * have the signal ignored. An executable has no inspector.
 */
export function ignoreOthers(): void {
  ignore(25);
  if (Deno.build.standalone) return;
  Deno.addSignalListener("SIGUSR1", () => {});
  ignore(10);
}
