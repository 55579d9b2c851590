import { reason } from "./libc.ts";

/** A system call that failed. Its message is for people: "write 7: Broken pipe". */
export class SystemError extends Error {
  /** The class's name, as for every error. */
  override readonly name = "SystemError";
  /** What was tried: "read", "write", "close", ... */
  readonly operation: string;
  /** On which descriptor, where on one. */
  readonly descriptor: number | undefined;
  /** The positive errno (errno(3)). */
  readonly errno: number;

  /** The error of `operation` on `descriptor`; `errno` may be negative, as the kernel gives it. */
  constructor(operation: string, descriptor: number | undefined, errno: number) {
    super(`${operation}${descriptor === undefined ? "" : ` ${descriptor}`}: ${reason(errno)}`);
    this.operation = operation;
    this.descriptor = descriptor;
    this.errno = Math.abs(errno);
  }
}

/** A number that cannot be used as asked: not open, not inherited, or open for the other direction only. */
export class DescriptorError extends Error {
  /** The class's name, as for every error. */
  override readonly name = "DescriptorError";
}
