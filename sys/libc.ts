/**
 * The C library's functions that iocopy needs, through FFI: the one place that
 * knows of pointers and errno.
 *
 * Every function answers as the kernel itself does: a result of 0 or more, or
 * an error as a negative errno (`-EPIPE`). Nothing here throws.
 *
 * @module
 */

/** errno values, the same on every Linux that Deno runs on (errno(3)). */
export const EPERM = 1;
/** No such file. */
export const ENOENT = 2;
/** Interrupted by a signal. */
export const EINTR = 4;
/** Input/output error: a terminal whose master is gone, among others. */
export const EIO = 5;
/** Not a descriptor. */
export const EBADF = 9;
/** It would have to wait. */
export const EAGAIN = 11;
/** What splice(2) says of a descriptor that it cannot serve. */
export const EINVAL = 22;
/** Nobody will read it. */
export const EPIPE = 32;
/** The kernel has no such call. */
export const ENOSYS = 38;
/** The kernel, or the descriptor, does not know that flag. */
export const EOPNOTSUPP = 95;
/** The peer has gone already. */
export const ENOTCONN = 107;
/** Another thread is at it. */
export const EINPROGRESS = 115;
/** Given up. */
export const ECANCELED = 125;

/** Readiness, of poll(2) and epoll(7) alike: there is something to read. */
export const IN = 1;
/** There is room to write. */
export const OUT = 4;
/** An error; for a pipe, that nobody will read it. */
export const ERR = 8;
/** The other side has gone. */
export const HUP = 16;
const NVAL = 32;

/** Commands of fcntl(2): the descriptor's flags. */
export const F_GETFD = 1;
/** The flags of the open file description. */
export const F_GETFL = 3;
/** Sets these. */
export const F_SETFL = 4;
/** A duplicate that is close-on-exec. */
export const F_DUPFD_CLOEXEC = 1030;
/** The size of a pipe, in bytes. */
export const F_SETPIPE_SZ = 1031;

/** The one flag of a descriptor: it does not pass an exec. */
export const FD_CLOEXEC = 1;
/** Flags of an open file description: what tells reading from writing. */
export const O_ACCMODE = 3;
/** Open for reading only. */
export const O_RDONLY = 0;
/** Open for writing only. */
export const O_WRONLY = 1;
/** Calls do not wait. */
export const O_NONBLOCK = 0o4000;
/** Open as a name only: neither for reading nor for writing. */
export const O_PATH = 0o10000000;
const O_CLOEXEC = 0o2000000;

/** The C library, by the name that it has on every Linux that Deno runs on. */
export const LIBRARY = "libc.so.6";

const SPLICE_F_NONBLOCK = 2;
const RWF_NOWAIT = 8;
const MSG_DONTWAIT = 0x40;

/** This thread's errno. */
let errno = new DataView(new ArrayBuffer(4));
let isOpen = false;

/** Opens the C library. Throws where the system is another one, or the permission is missing. */
function open(): void {
  if (Deno.build.os !== "linux") {
    throw new Error(`${Deno.build.os} will not do: splice(2) and epoll(7) are Linux's`);
  }
  const location = bound("__errno_location", { parameters: [], result: "pointer" }).call();
  errno = new DataView(Deno.UnsafePointerView.getArrayBuffer(location as Deno.PointerObject, 4));
  isOpen = true;
}

/** Looks a function up, for calls that are not worth compiling anything. */
function find<const D extends Deno.ForeignFunction>(name: string, definition: D) {
  if (!isOpen) open();
  return bound(name, definition);
}

function bound<const D extends Deno.ForeignFunction>(name: string, definition: D) {
  // Asked for as if it were a variable, a function comes as its address, and the
  // runtime compiles nothing for it: 0.3 ms less at the start, and 1 to 2 MB.
  const variable = { type: "pointer", optional: true } as const;
  const found = Deno.dlopen(LIBRARY, { [name]: variable }).symbols[name];
  if (!found) throw new Error(`the C library has no ${name}`);
  return new Deno.UnsafeFnPointer<D>(found as Deno.PointerObject<D>, definition);
}

// "i32" stands for ssize_t everywhere: "isize" comes as a BigInt, whose
// allocation may run the collector before errno is read.

/** Declares a function of libc that is looked up when it is first called. */
function lazily<const P extends Deno.NativeType[]>(name: string, ...parameters: P) {
  let pointer: Deno.UnsafeFnPointer<{ parameters: P; result: "i32" }> | undefined;
  return (...values: Deno.ToNativeParameterTypes<P>): number => {
    pointer ??= find(name, { parameters, result: "i32" });
    return pointer.call(...values);
  };
}

/** The same on another thread, whose errno nobody can read: -1 says only that it failed. */
function onThread<const P extends Deno.NativeType[]>(name: string, ...parameters: P) {
  type Definition = { parameters: P; result: "i32"; nonblocking: true };
  let pointer: Deno.UnsafeFnPointer<Definition> | undefined;
  return (...values: Deno.ToNativeParameterTypes<P>): Promise<number> => {
    pointer ??= find<Definition>(name, { parameters, result: "i32", nonblocking: true });
    return pointer.call(...values) as Promise<number>;
  };
}

const cold = {
  fcntl: lazily("fcntl", "i32", "i32", "i32"),
  epoll_ctl: lazily("epoll_ctl", "i32", "i32", "i32", "pointer"),
  epoll_wait: lazily("epoll_wait", "i32", "pointer", "i32", "i32"),
  splice: lazily("splice", "i32", "pointer", "i32", "pointer", "u32", "u32"),
};

/** The same, called each turn: ten times as fast, but it takes 1.5 ms to make them. */
function compiled() {
  return Deno.dlopen(LIBRARY, {
    fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
    epoll_ctl: { parameters: ["i32", "i32", "i32", "pointer"], result: "i32" },
    epoll_wait: { parameters: ["i32", "pointer", "i32", "i32"], result: "i32" },
    splice: { parameters: ["i32", "pointer", "i32", "pointer", "u32", "u32"], result: "i32" },
  }).symbols;
}

let hot: ReturnType<typeof compiled> | undefined;

/**
 * Makes the functions of every turn fast: too long for the start, and nothing
 * for what goes on. (Each has two calls in the source, as V8 makes only that
 * call fast which has never had another function to call.) The compilers need
 * memory, in place of which the start's is given back: 18 MB.
 */
export function compile(): void {
  if (hot) return;
  releaseImage();
  hot = compiled();
}

/**
 * Gives the runtime's code and constants back to the system: most of what is in
 * memory was for the start. The rest comes again, from the system's cache of the
 * file as a rule (elf(5), getauxval(3), madvise(2)).
 */
function releaseImage(): void {
  const AT_PHDR = 3n, AT_PHNUM = 5n, PT_LOAD = 1, PT_PHDR = 6, PF_W = 2, MADV_DONTNEED = 4;
  const getauxval = find("getauxval", { parameters: ["u64"], result: "u64" });
  const start = getauxval.call(AT_PHDR);
  const pointer = Deno.UnsafePointer.create(start);
  if (pointer === null) return;
  const size = 56, length = Number(getauxval.call(AT_PHNUM)) * size;
  const headers = new DataView(Deno.UnsafePointerView.getArrayBuffer(pointer, length));
  let base = 0n;
  for (let at = 0; at < length; at += size) {
    const type = headers.getUint32(at, true), flags = headers.getUint32(at + 4, true);
    const field = (offset: number) => headers.getBigUint64(at + offset, true);
    const [address, bytes, alignment] = [base + field(16), field(40), field(48)];
    if (type === PT_PHDR) base = start - address;
    if (type !== PT_LOAD || flags & PF_W) continue; // what has been written to is nowhere else
    const from = address & -alignment;
    c.madvise(Deno.UnsafePointer.create(from), address + bytes - from, MADV_DONTNEED);
  }
}

/** Turns C's -1 into the negative errno. To be called on the result at once. */
function checked(result: number): number {
  return result < 0 ? -errno.getInt32(0, true) : result;
}

/**
 * As {@linkcode checked}, for what moves bytes: interrupted before any moved is
 * as good as not ready. So is ENOENT, which no such call ever gives: between
 * the call and this line the runtime may start its clock, for which it looks
 * for files that are not there (/sys/devices/system/cpu/cpu0/tsc_freq_khz).
 */
function moved(result: number): number {
  if (result >= 0) return result;
  const error = errno.getInt32(0, true);
  return error === EINTR || error === ENOENT ? -EAGAIN : -error;
}

const c = {
  close: lazily("close", "i32"),
  dup3: lazily("dup3", "i32", "i32", "i32"),
  epoll_create1: lazily("epoll_create1", "i32"),
  getsockopt: lazily("getsockopt", "i32", "i32", "i32", "buffer", "buffer"),
  isatty: lazily("isatty", "i32"),
  madvise: lazily("madvise", "pointer", "u64", "i32"),
  pipe2: lazily("pipe2", "buffer", "i32"),
  poll: lazily("poll", "buffer", "u64", "i32"),
  preadv2: lazily("preadv2", "i32", "buffer", "i32", "i64", "i32"),
  pwritev2: lazily("pwritev2", "i32", "buffer", "i32", "i64", "i32"),
  read: lazily("read", "i32", "buffer", "usize"),
  recv: lazily("recv", "i32", "buffer", "usize", "i32"),
  send: lazily("send", "i32", "buffer", "usize", "i32"),
  shutdown: lazily("shutdown", "i32", "i32"),
  sigaction: lazily("sigaction", "i32", "buffer", "buffer"),
  statx: lazily("statx", "i32", "buffer", "i32", "u32", "buffer"),
  timerfd_create: lazily("timerfd_create", "i32", "i32"),
  timerfd_settime: lazily("timerfd_settime", "i32", "i32", "buffer", "pointer"),
  write: lazily("write", "i32", "buffer", "usize"),
};

const thread = {
  epoll_wait: onThread("epoll_wait", "i32", "buffer", "i32", "i32"),
  poll: onThread("poll", "buffer", "u64", "i32"),
  read: onThread("read", "i32", "buffer", "usize"),
  usleep: onThread("usleep", "u32"),
  write: onThread("write", "i32", "buffer", "usize"),
};

/** Moves up to `length` bytes between descriptors, one of them a pipe, never waiting on a pipe (splice(2)). */
export function splice(from: number, to: number, length: number): number {
  return moved(
    hot
      ? hot.splice(from, null, to, null, length, SPLICE_F_NONBLOCK)
      : cold.splice(from, null, to, null, length, SPLICE_F_NONBLOCK),
  );
}

/** fcntl(2). */
export function fcntl(fd: number, command: number, argument = 0): number {
  return checked(hot ? hot.fcntl(fd, command, argument) : cold.fcntl(fd, command, argument));
}

/** read(2): may wait, unless poll(2) said that it need not. */
export function read(fd: number, bytes: BufferSource): number {
  return moved(c.read(fd, bytes, BigInt(bytes.byteLength)));
}

/** write(2): may wait, unless the kind of descriptor never does. */
export function write(fd: number, bytes: BufferSource): number {
  return moved(c.write(fd, bytes, BigInt(bytes.byteLength)));
}

const iovec = new BigUint64Array(2);

function vector(bytes: Uint8Array<ArrayBuffer>): BigUint64Array<ArrayBuffer> {
  iovec[0] = Deno.UnsafePointer.value(Deno.UnsafePointer.of(bytes));
  iovec[1] = BigInt(bytes.byteLength);
  return iovec;
}

/** A read that answers -EAGAIN where it would wait, whatever O_NONBLOCK says (preadv2(2)). */
export function readNow(fd: number, bytes: Uint8Array<ArrayBuffer>): number {
  return moved(c.preadv2(fd, vector(bytes), 1, -1n, RWF_NOWAIT));
}

/** A write that answers -EAGAIN where it would wait, whatever O_NONBLOCK says (pwritev2(2)). */
export function writeNow(fd: number, bytes: Uint8Array<ArrayBuffer>): number {
  return moved(c.pwritev2(fd, vector(bytes), 1, -1n, RWF_NOWAIT));
}

/** As {@linkcode readNow}, for a socket; every Linux knows it (recv(2)). */
export function receiveNow(socket: number, bytes: Uint8Array<ArrayBuffer>): number {
  return moved(c.recv(socket, bytes, BigInt(bytes.byteLength), MSG_DONTWAIT));
}

/** As {@linkcode writeNow}, for a socket; every Linux knows it (send(2)). */
export function sendNow(socket: number, bytes: Uint8Array<ArrayBuffer>): number {
  return moved(c.send(socket, bytes, BigInt(bytes.byteLength), MSG_DONTWAIT));
}

/** read(2) on another thread, where it may wait. -1 tells no reason: ask again here. */
export function readOnThread(fd: number, bytes: BufferSource): Promise<number> {
  return thread.read(fd, bytes, BigInt(bytes.byteLength));
}

/** write(2) on another thread, where it may wait. -1 tells no reason: ask again here. */
export function writeOnThread(fd: number, bytes: BufferSource): Promise<number> {
  return thread.write(fd, bytes, BigInt(bytes.byteLength));
}

// struct pollfd (poll(2)) in two 32-bit words: the descriptor, and what is asked
// for below what is told.

/** What poll(2) told of the `index`th descriptor. */
function told(descriptors: Int32Array, index = 0): number {
  return (descriptors[2 * index + 1] ?? 0) >> 16;
}

const pollfd = new Int32Array(2);

/**
 * Which of `events` hold, and ERR and HUP: now, or once `milliseconds` have
 * passed (-1: no limit; the thread does nothing else meanwhile) (poll(2)).
 */
export function poll(fd: number, events: number, milliseconds = 0): number {
  pollfd[0] = fd;
  pollfd[1] = events;
  const ready = checked(c.poll(pollfd, 1n, milliseconds));
  return ready > 0 ? told(pollfd) : ready;
}

/** As {@linkcode poll}, waiting on another thread, for at most `milliseconds` (-1: for ever). */
export async function pollOnThread(
  fd: number,
  events: number,
  milliseconds: number,
): Promise<number> {
  const descriptors = new Int32Array([fd, events]);
  const ready = await thread.poll(descriptors, 1n, milliseconds);
  // Read afterwards, the memory is not given to anybody else while the kernel
  // has its address.
  return ready > 0 ? told(descriptors) : ready;
}

/**
 * Which of `count` numbers from `first` on are open descriptors, by one poll(2):
 * it says of each whether it is. (Of more than the process may have it says nothing.)
 */
export function openAmong(first: number, count: number): number[] {
  const descriptors = new Int32Array(2 * count);
  for (let i = 0; i < count; i++) descriptors[2 * i] = first + i;
  const allTold = c.poll(descriptors, BigInt(count), 0) >= 0;
  const open: number[] = [];
  for (let i = 0; i < count; i++) {
    const fd = first + i;
    const closed = allTold ? told(descriptors, i) & NVAL : fcntl(fd, F_GETFD) < 0;
    if (!closed) open.push(fd);
  }
  return open;
}

/**
 * Lets the event loop run for 0.1 ms. Where what is awaited is there sooner, the
 * runtime does not look at anything else: signals went unheard for seconds.
 */
export async function rest(): Promise<void> {
  await thread.usleep(1);
}

/** What statx(2) tells of a descriptor. */
export interface Status {
  /** The file type and permissions, as st_mode. */
  mode: number;
  /** Device and inode: equal for all descriptors of one pipe, socket or file. */
  identity: string;
  /** The major number, where it is a device. */
  major: number;
  /** Length in bytes, where it is a regular file. */
  size: number;
}

const emptyPath = new Uint8Array(1);
const statx = new DataView(new ArrayBuffer(256));

/** statx(2), whose structure is the same on every architecture; -errno where it fails. */
export function status(fd: number): Status | number {
  const AT_EMPTY_PATH = 0x1000, STATX_BASIC_STATS = 0x7ff;
  const result = checked(c.statx(fd, emptyPath, AT_EMPTY_PATH, STATX_BASIC_STATS, statx));
  if (result < 0) return result;
  return {
    mode: statx.getUint16(28, true),
    identity: `${statx.getUint32(136, true)}:${statx.getUint32(140, true)}:${
      statx.getBigUint64(32, true)
    }`,
    major: statx.getUint32(128, true),
    size: Number(statx.getBigUint64(40, true)),
  };
}

/** Where in a file the next read begins; -1 of what has no such place (lseek(2)). */
export function offset(fd: number): number {
  const lseek = find("lseek", { parameters: ["i32", "i64", "i32"], result: "i64" });
  const SEEK_CUR = 1;
  return Number(lseek.call(fd, 0n, SEEK_CUR));
}

/** isatty(3). */
export function isTerminal(fd: number): boolean {
  return c.isatty(fd) === 1;
}

/** Options of a socket (socket(7)): stream or messages. */
export const SO_TYPE = 3;
/** The pending error, which asking clears. */
export const SO_ERROR = 4;
/** The family of its addresses. */
export const SO_DOMAIN = 39;

/** An option of a socket (getsockopt(2), level SOL_SOCKET). */
export function socketOption(fd: number, option: number): number {
  const value = new DataView(new ArrayBuffer(4));
  const result = checked(c.getsockopt(fd, 1, option, value, new Uint32Array([4])));
  return result < 0 ? result : value.getInt32(0, true);
}

/** shutdown(2): `how` is 0 for the read side, 1 for the write side. */
export function shutdown(fd: number, how: number): number {
  return checked(c.shutdown(fd, how));
}

/** close(2). */
export function close(fd: number): number {
  return checked(c.close(fd));
}

/** Makes number `to` a duplicate of `from`, closing what it was, in one step (dup3(2)). */
export function replace(from: number, to: number): number {
  return checked(c.dup3(from, to, O_CLOEXEC));
}

/** A pipe of our own: [reading end, writing end] in `ends` (pipe2(2)). */
export function pipe(ends: Int32Array<ArrayBuffer>): number {
  return checked(c.pipe2(ends, O_CLOEXEC));
}

/** An epoll(7) instance. */
export function epollCreate(): number {
  return checked(c.epoll_create1(O_CLOEXEC));
}

/** epoll_ctl(2): `operation` is 1 to add, 2 to remove, 3 to change. */
export function epollControl(
  epoll: number,
  operation: number,
  fd: number,
  event: Deno.PointerValue,
): number {
  return checked(
    hot ? hot.epoll_ctl(epoll, operation, fd, event) : cold.epoll_ctl(epoll, operation, fd, event),
  );
}

/** epoll_wait(2) for at most `milliseconds`; the thread does nothing else meanwhile. */
export function epollWait(
  epoll: number,
  events: Deno.PointerValue,
  most: number,
  milliseconds: number,
): number {
  return checked(
    hot
      ? hot.epoll_wait(epoll, events, most, milliseconds)
      : cold.epoll_wait(epoll, events, most, milliseconds),
  );
}

/** epoll_wait(2) on another thread; what it finds goes into `events`, -1 tells no reason. */
export function epollWaitOnThread(
  epoll: number,
  events: BufferSource,
  most: number,
  milliseconds: number,
): Promise<number> {
  return thread.epoll_wait(epoll, events, most, milliseconds);
}

/** A descriptor that becomes readable at a time that is set (timerfd_create(2)). */
export function timer(): number {
  const CLOCK_MONOTONIC = 1;
  return checked(c.timerfd_create(CLOCK_MONOTONIC, O_CLOEXEC | O_NONBLOCK));
}

const itimerspec = new BigInt64Array(4);

/** Sets it to become readable once, after `nanoseconds` (more than 0), and not before (timerfd_settime(2)). */
export function setTimer(fd: number, nanoseconds: number): number {
  itimerspec[2] = BigInt(Math.floor(nanoseconds / 1e9));
  itimerspec[3] = BigInt(nanoseconds % 1e9);
  return checked(c.timerfd_settime(fd, 0, itimerspec, null));
}

const SIG_IGN = 1n;

/** Whether a signal is ignored, as nohup(1) does it for its program (sigaction(2)). */
export function isIgnored(signal: number): boolean {
  const action = new BigUint64Array(SIGACTION);
  return checked(c.sigaction(signal, null, action)) === 0 && action[0] === SIG_IGN;
}

/** Ignores a signal, whoever listens to it. */
export function ignore(signal: number): number {
  const action = new BigUint64Array(SIGACTION);
  action[0] = SIG_IGN;
  return checked(c.sigaction(signal, action, null));
}

/** More 64-bit words than struct sigaction has anywhere; the first is the handler. */
const SIGACTION = 32;

/** The reason in words, as strerror(3) has it: "Broken pipe". */
export function reason(error: number): string {
  const strerror = find("strerror", { parameters: ["i32"], result: "pointer" });
  const text = strerror.call(Math.abs(error));
  return text === null ? `error ${error}` : Deno.UnsafePointerView.getCString(text);
}
