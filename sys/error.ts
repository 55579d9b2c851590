import { EMFILE, ENFILE, ENOBUFS, ENOMEM } from "./constants.ts";
import { strerror, strerrorname } from "./libc.ts";

/** A system call that failed. Its message is for people: "write 7: Broken pipe". */
export class SystemError extends Error {
  /** The class's name, as for every error. */
  override readonly name = "SystemError";
  /** The error's name, as Node's errors have it: "EPIPE". */
  readonly code: string;
  /** The positive errno (errno(3)): 32. */
  readonly errno: number;
  /** What was tried: "read", "write", "close", ... */
  readonly syscall: string;
  /** On which descriptor, where on one. */
  readonly descriptor: number | undefined;

  /**
   * The error of `syscall` on `descriptor`; `errno` may be negative, as the
   * kernel gives it. `options.cause` is what led to it, if anything did.
   */
  constructor(
    syscall: string,
    descriptor: number | undefined,
    errno: number,
    options?: ErrorOptions,
  ) {
    const words = strerror(errno);
    super(`${syscall}${descriptor === undefined ? "" : ` ${descriptor}`}: ${words}`, options);
    this.code = strerrorname(errno);
    this.errno = Math.abs(errno);
    this.syscall = syscall;
    this.descriptor = descriptor;
  }
}

/** A number that cannot be used as asked: not open, not inherited, or open for the other direction only. */
export class DescriptorError extends Error {
  /** The class's name, as for every error. */
  override readonly name = "DescriptorError";
}

/** Text from outside for a line of a message: it can write no line of its own, and nothing that a terminal obeys. */
export function printable(text: string): string {
  return text.replaceAll(/[\p{Cc}\u2028\u2029]/gu, (letter) => {
    const digits = letter.charCodeAt(0).toString(16);
    return digits.length > 2 ? `\\u${digits}` : `\\x${digits.padStart(2, "0")}`;
  });
}

/** The same in quotes; JSON alone does not escape U+009B, which begins an escape sequence on a terminal. */
export function quoted(text: string): string {
  return printable(JSON.stringify(text));
}

/** Whether the system was out of descriptors or memory, so that a later call may succeed. */
export function isShortage(errno: number): boolean {
  return errno === EMFILE || errno === ENFILE || errno === ENOBUFS || errno === ENOMEM;
}
