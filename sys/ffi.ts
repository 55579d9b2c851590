/**
 * Finding and calling functions of the C library, and reading errno: the one
 * place that knows of pointers.
 *
 * A call through {@linkcode lazily} costs 0.7 us and nothing at the start; one
 * through `Deno.dlopen` costs 0.13 us, and 0.1 to 0.2 ms at the start for each
 * function.
 *
 * @module
 */
import { EAGAIN, EINTR, ENOENT } from "./constants.ts";

/** The C library, by the name that it has on every Linux that Deno runs on. */
export const LIBRARY = "libc.so.6";

/** This thread's errno. */
let location = new DataView(new ArrayBuffer(4));
let isOpen = false;

/** Opens the C library. Throws where the system is another one, or the permission is missing. */
function open(): void {
  if (Deno.build.os !== "linux") {
    throw new Error(`it runs on Linux only, for splice(2) and epoll(7); this is ${Deno.build.os}`);
  }
  lookUp("__errno_location", ...AT_EACH_START);
  const pointer = look("__errno_location", { parameters: [], result: "pointer" })?.call();
  if (!pointer) throw new Error("the C library has no errno");
  location = new DataView(Deno.UnsafePointerView.getArrayBuffer(pointer, 4));
  isOpen = true;
}

/** Finds a function; throws where the C library has none of that name. */
export function find<const D extends Deno.ForeignFunction>(
  name: string,
  definition: D,
): Deno.UnsafeFnPointer<D> {
  const found = findIfAny(name, definition);
  if (!found) throw new Error(`the C library has no ${name}`);
  return found;
}

/** As {@linkcode find}, but undefined where an older C library has no such function. */
export function findIfAny<const D extends Deno.ForeignFunction>(
  name: string,
  definition: D,
): Deno.UnsafeFnPointer<D> | undefined {
  if (!isOpen) open();
  return look(name, definition);
}

/**
 * What each start calls, all looked up at once: a look-up of its own for each takes 0.3 ms more
 * (`deno task bench --tests=start --against=OTHER`).
 */
const AT_EACH_START = [
  ...["epoll_create1", "epoll_ctl", "epoll_wait", "fcntl", "getsockopt", "pipe2", "sigaction"],
  ...["splice", "statx", "timerfd_create", "timerfd_settime"],
];

/** Where functions are that were looked up: each time anew, it would take 270 bytes for good. */
const addresses = new Map<string, unknown>();

function lookUp(...names: string[]): void {
  // Looked up as if it were a variable, a function comes as its address, and the
  // runtime compiles nothing for it.
  const variable = { type: "pointer", optional: true } as const;
  const { symbols } = Deno.dlopen(
    LIBRARY,
    Object.fromEntries(names.map((name) => [name, variable])),
  );
  for (const name of names) addresses.set(name, symbols[name]);
}

function look<const D extends Deno.ForeignFunction>(name: string, definition: D) {
  if (!addresses.has(name)) lookUp(name);
  const found = addresses.get(name);
  return found
    ? new Deno.UnsafeFnPointer<D>(found as Deno.PointerObject<D>, definition)
    : undefined;
}

// "i32" stands for ssize_t everywhere: "isize" comes as a BigInt, whose
// allocation may run the collector before errno is read.

/** Declares a function that is looked up when it is first called. */
export function once<const P extends Deno.NativeType[]>(
  name: string,
  ...parameters: P
): (...values: Deno.ToNativeParameterTypes<P>) => number {
  let pointer: Deno.UnsafeFnPointer<{ parameters: P; result: "i32" }> | undefined;
  return (...values: Deno.ToNativeParameterTypes<P>): number => {
    pointer ??= find(name, { parameters, result: "i32" });
    return pointer.call(...values);
  };
}

/**
 * The same, but a call that has failed with ENOENT is made once more: the errno may be that of the
 * runtime's clock, see {@linkcode moved}; a true one comes again. Not for close(2), after which the
 * number may be another file's, and fsync(2), which may tell an error only once.
 */
export function lazily<const P extends Deno.NativeType[]>(
  name: string,
  ...parameters: P
): (...values: Deno.ToNativeParameterTypes<P>) => number {
  const call = once(name, ...parameters);
  return (...values: Deno.ToNativeParameterTypes<P>): number => {
    const result = call(...values);
    return result < 0 && errno() === ENOENT ? call(...values) : result;
  };
}

/** The same on another thread, whose errno nobody can read: -1 says only that it failed. */
export function onThread<const P extends Deno.NativeType[]>(
  name: string,
  ...parameters: P
): (...values: Deno.ToNativeParameterTypes<P>) => Promise<number> {
  type Definition = { parameters: P; result: "i32"; nonblocking: true };
  let pointer: Deno.UnsafeFnPointer<Definition> | undefined;
  return (...values: Deno.ToNativeParameterTypes<P>): Promise<number> => {
    pointer ??= find<Definition>(name, { parameters, result: "i32", nonblocking: true });
    return pointer.call(...values) as Promise<number>;
  };
}

/** The most calls on other threads at one time: the runtime has 32 threads, some of which it needs itself. */
const MAX_THREADS = 24;

/** A semaphore: of all calls that may block, no more than {@linkcode MAX_THREADS} are under way. */
export const threads = {
  free: MAX_THREADS,
  waiting: [] as (() => void)[],
  async run(call: () => Promise<number>): Promise<number> {
    if (this.free === 0) await new Promise<void>((resolve) => this.waiting.push(resolve));
    else this.free--;
    try {
      return await call();
    } finally {
      const next = this.waiting.shift();
      if (next) next();
      else this.free++;
    }
  },
};

/** The errno of the last call on this thread that failed: to be read at once. */
export function errno(): number {
  return location.getInt32(0, true);
}

/** Turns C's -1 into the negative errno. To be called on the result at once. */
export function checked(result: number): number {
  return result < 0 ? -errno() : result;
}

/** How often ENOENT is taken for that of the runtime's clock: see {@linkcode moved}. */
const MAX_CLOCK_ERRORS = 16;
let clockErrors = 0;

/**
 * As {@linkcode checked}, for what moves bytes or accepts connections: -EAGAIN where a signal
 * has interrupted it before it did. -EAGAIN as well for ENOENT, the first times: between the
 * call and this line the runtime may start its clock, for which it looks for files that are not
 * there (/sys/devices/system/cpu/cpu0/tsc_freq_khz), and errno is theirs. It does so once; of a
 * file of FUSE, ENOENT may be a true error, each time.
 */
export function moved(result: number): number {
  if (result >= 0) return result;
  const error = errno();
  if (error === ENOENT) return clockErrors++ < MAX_CLOCK_ERRORS ? -EAGAIN : -ENOENT;
  return error === EINTR ? -EAGAIN : -error;
}

/** As {@linkcode lazily} does, for what is compiled: makes a call again that has returned -ENOENT. */
export function retryingEnoent(call: () => number): number {
  const result = call();
  return result === -ENOENT ? call() : result;
}
