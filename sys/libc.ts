/**
 * The system calls that iocopy makes. Every function here returns what the
 * kernel itself returns: 0 or more, or an error as a negative errno (`-EPIPE`).
 * Nothing here throws, but for what is missing from the C library.
 *
 * @module
 */
import {
  EINTR,
  EINVAL,
  ENOENT,
  F_GETFD,
  F_GETSIG,
  F_SETSIG,
  IPPROTO_TCP,
  MSG_DONTWAIT,
  MSG_MORE,
  O_CLOEXEC,
  O_NONBLOCK,
  SO_ERROR,
  SO_LINGER,
  SOL_SOCKET,
  TCP_NODELAY,
  TCP_QUICKACK,
  TCP_ULP,
} from "./constants.ts";
import {
  checked,
  errno,
  find,
  findIfAny,
  lazily,
  LIBRARY,
  moved,
  once,
  onThread,
  retryingEnoent,
} from "./ffi.ts";

/** The calls of each round of the loop, until {@linkcode compile} makes them faster. */
const cold = {
  fcntl: lazily("fcntl", "i32", "i32", "i32"),
  epoll_ctl: lazily("epoll_ctl", "i32", "i32", "i32", "buffer"),
  epoll_wait: lazily("epoll_wait", "i32", "buffer", "i32", "i32"),
  splice: lazily("splice", "i32", "pointer", "i32", "pointer", "u32", "u32"),
};

function compiled() {
  return Deno.dlopen(LIBRARY, {
    fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
    epoll_ctl: { parameters: ["i32", "i32", "i32", "buffer"], result: "i32" },
    epoll_wait: { parameters: ["i32", "buffer", "i32", "i32"], result: "i32" },
    splice: { parameters: ["i32", "pointer", "i32", "pointer", "u32", "u32"], result: "i32" },
  }).symbols;
}

let hot: ReturnType<typeof compiled> | undefined;

/**
 * Makes the calls of each round five times as fast: without it a round trip between unix
 * sockets takes 1.15 times as long, and bytes 1.3 times the CPU (`deno task bench
 * --tests=bulk,ping --paths=unix-unix --against=OTHER`). It takes 1 to 2 ms, which a short
 * copy does better without. (Each of these calls stands twice below: V8's fast calls need a
 * call site that only ever calls one function.)
 */
export function compile(): void {
  hot ??= compiled();
}

/** The calls that move bytes through memory. */
function compiledForMemory() {
  const vectored = { parameters: ["i32", "buffer", "i32", "i64", "i32"], result: "i32" } as const;
  return Deno.dlopen(LIBRARY, {
    preadv2: vectored,
    pwritev2: vectored,
    read: { parameters: ["i32", "buffer", "u32"], result: "i32" },
    recv: { parameters: ["i32", "buffer", "u32", "i32"], result: "i32" },
    send: { parameters: ["i32", "buffer", "u32", "i32"], result: "i32" },
    write: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  }).symbols;
}

let memory: ReturnType<typeof compiledForMemory> | undefined;

/**
 * After so many of them they are compiled. Until then each takes 0.6 us longer, and leaves
 * garbage: 4 GB take 1.1 times the CPU. From the first on, a start takes 2.5 ms longer
 * (`deno task bench --tests=start,shell --against=OTHER`).
 */
const COMPILE_AFTER_CALLS = 256;
let slowCalls = 0;

/** The same calls by pointers, counted until it is time to compile them. */
function slow(): typeof c {
  if (++slowCalls === COMPILE_AFTER_CALLS) memory = compiledForMemory();
  return c;
}

/** The calls of each connection that is served. */
function compiledForServing() {
  return Deno.dlopen(LIBRARY, {
    close: { parameters: ["i32"], result: "i32" },
    getsockopt: { parameters: ["i32", "i32", "i32", "buffer", "buffer"], result: "i32" },
    poll: { parameters: ["buffer", "u64", "i32"], result: "i32" },
    setsockopt: { parameters: ["i32", "i32", "i32", "buffer", "u32"], result: "i32" },
    shutdown: { parameters: ["i32", "i32"], result: "i32" },
    timerfd_settime: { parameters: ["i32", "i32", "buffer", "pointer"], result: "i32" },
  }).symbols;
}

let served: ReturnType<typeof compiledForServing> | undefined;

/**
 * As {@linkcode compile}, for what is called once or twice in each connection, which costs 1.1
 * times the CPU without it (`deno task bench:serving --tests=http`).
 */
export function compileForServing(): void {
  compile();
  memory ??= compiledForMemory();
  served ??= compiledForServing();
}

const c = {
  close: once("close", "i32"),
  dup3: lazily("dup3", "i32", "i32", "i32"),
  epoll_create1: lazily("epoll_create1", "i32"),
  fstatfs: lazily("fstatfs", "i32", "buffer"),
  getpeername: lazily("getpeername", "i32", "buffer", "buffer"),
  getsockopt: lazily("getsockopt", "i32", "i32", "i32", "buffer", "buffer"),
  ioctl: lazily("ioctl", "i32", "u64", "buffer"),
  isatty: lazily("isatty", "i32"),
  open: lazily("open", "buffer", "i32", "i32"),
  pipe2: lazily("pipe2", "buffer", "i32"),
  poll: lazily("poll", "buffer", "u64", "i32"),
  preadv2: lazily("preadv2", "i32", "buffer", "i32", "i64", "i32"),
  pwritev2: lazily("pwritev2", "i32", "buffer", "i32", "i64", "i32"),
  read: lazily("read", "i32", "buffer", "u32"),
  recv: lazily("recv", "i32", "buffer", "u32", "i32"),
  send: lazily("send", "i32", "buffer", "u32", "i32"),
  setsockopt: lazily("setsockopt", "i32", "i32", "i32", "buffer", "u32"),
  shutdown: lazily("shutdown", "i32", "i32"),
  sigaction: lazily("sigaction", "i32", "buffer", "buffer"),
  statx: lazily("statx", "i32", "buffer", "i32", "u32", "buffer"),
  timerfd_create: lazily("timerfd_create", "i32", "i32"),
  timerfd_settime: lazily("timerfd_settime", "i32", "i32", "buffer", "pointer"),
  usleep: lazily("usleep", "u32"),
  write: lazily("write", "i32", "buffer", "u32"),
};

const thread = {
  poll: onThread("poll", "buffer", "u64", "i32"),
  read: onThread("read", "i32", "buffer", "u32"),
  usleep: onThread("usleep", "u32"),
  write: onThread("write", "i32", "buffer", "u32"),
};

// ---- Moving bytes.

const SPLICE_F_NONBLOCK = 2, RWF_NOWAIT = 8;

/** Moves up to `length` bytes between descriptors, one of them a pipe, never waiting on a pipe (splice(2)). */
export function splice(from: number, to: number, length: number): number {
  return moved(
    hot
      ? hot.splice(from, null, to, null, length, SPLICE_F_NONBLOCK)
      : cold.splice(from, null, to, null, length, SPLICE_F_NONBLOCK),
  );
}

// All of these take the first `length` bytes at the most: a view of them would be
// garbage at each call.

/** read(2): may wait, unless poll(2) said that it need not. */
export function read(fd: number, bytes: BufferSource, length: number = bytes.byteLength): number {
  return moved(memory ? memory.read(fd, bytes, length) : slow().read(fd, bytes, length));
}

/** write(2): may wait, unless the kind of descriptor never does. */
export function write(fd: number, bytes: BufferSource, length: number = bytes.byteLength): number {
  return moved(memory ? memory.write(fd, bytes, length) : slow().write(fd, bytes, length));
}

/** For what has no offset (preadv2(2)). Written in the call itself, it would be 24 bytes of garbage each time. */
const NO_OFFSET = -1n;

// struct iovec: an address, and a length, of which the upper half is always 0.
const iovec = new BigUint64Array(2), iovecWords = new Uint32Array(iovec.buffer);
/** The bytes whose address is there already. */
let iovecBytes: Uint8Array<ArrayBuffer> | undefined;

function vector(bytes: Uint8Array<ArrayBuffer>, length: number): BigUint64Array<ArrayBuffer> {
  if (bytes !== iovecBytes) {
    iovec[0] = Deno.UnsafePointer.value(Deno.UnsafePointer.of(bytes));
    iovecBytes = bytes;
  }
  iovecWords[2] = length;
  return iovec;
}

/** So many bytes of memory, from the start of a page on, as files with O_DIRECT want it (open(2)). */
export function pageAligned(length: number): Uint8Array<ArrayBuffer> {
  const PAGE = 4096, bytes = new Uint8Array(length + PAGE);
  const past = Number(Deno.UnsafePointer.value(Deno.UnsafePointer.of(bytes)) % BigInt(PAGE));
  return bytes.subarray(PAGE - past, PAGE - past + length);
}

/** A read that returns -EAGAIN where it would wait, whatever O_NONBLOCK says (preadv2(2)). */
export function readNow(
  fd: number,
  bytes: Uint8Array<ArrayBuffer>,
  length: number = bytes.length,
): number {
  const iov = vector(bytes, length);
  return moved(
    memory
      ? memory.preadv2(fd, iov, 1, NO_OFFSET, RWF_NOWAIT)
      : slow().preadv2(fd, iov, 1, NO_OFFSET, RWF_NOWAIT),
  );
}

/** A write that returns -EAGAIN where it would wait, whatever O_NONBLOCK says (pwritev2(2)). */
export function writeNow(
  fd: number,
  bytes: Uint8Array<ArrayBuffer>,
  length: number = bytes.length,
): number {
  const iov = vector(bytes, length);
  return moved(
    memory
      ? memory.pwritev2(fd, iov, 1, NO_OFFSET, RWF_NOWAIT)
      : slow().pwritev2(fd, iov, 1, NO_OFFSET, RWF_NOWAIT),
  );
}

/** Whether a descriptor has no way of being read, as an epoll instance: even nothing is EINVAL then (readv(2)). */
export function hasNoRead(fd: number): boolean {
  return checked(c.preadv2(fd, iovec, 0, NO_OFFSET, 0)) === -EINVAL;
}

/** Whether it has no way of being written (writev(2)). */
export function hasNoWrite(fd: number): boolean {
  return checked(c.pwritev2(fd, iovec, 0, NO_OFFSET, 0)) === -EINVAL;
}

/** recv(2) that never waits; `flags` besides MSG_DONTWAIT. */
export function recv(
  socket: number,
  bytes: Uint8Array<ArrayBuffer>,
  flags = 0,
  length: number = bytes.length,
): number {
  const all = flags | MSG_DONTWAIT;
  return moved(
    memory ? memory.recv(socket, bytes, length, all) : slow().recv(socket, bytes, length, all),
  );
}

/** send(2) that never waits. */
export function send(
  socket: number,
  bytes: Uint8Array<ArrayBuffer>,
  length: number = bytes.length,
  isMoreToCome = false,
): number {
  const flags = isMoreToCome ? MSG_DONTWAIT | MSG_MORE : MSG_DONTWAIT;
  return moved(
    memory ? memory.send(socket, bytes, length, flags) : slow().send(socket, bytes, length, flags),
  );
}

/** read(2) on another thread, where it may wait. -1 gives no reason: ask again here. */
export function readOnThread(fd: number, bytes: BufferSource): Promise<number> {
  return thread.read(fd, bytes, bytes.byteLength);
}

/** write(2) on another thread, where it may wait. -1 gives no reason: ask again here. */
export function writeOnThread(fd: number, bytes: BufferSource): Promise<number> {
  return thread.write(fd, bytes, bytes.byteLength);
}

// ---- Waiting.

// struct pollfd (poll(2)) in two 32-bit words: the descriptor, and `revents`
// above `events`.

function revents(descriptors: Int32Array, index = 0): number {
  return (descriptors[2 * index + 1] ?? 0) >> 16;
}

const NVAL = 32;
const pollfd = new Int32Array(2);

/**
 * Which of `events` hold, and ERR and HUP: now, or once `milliseconds` have
 * passed (-1: no limit; the thread does nothing else meanwhile) (poll(2)). 0 for
 * none, and where a signal came. Where the call is refused the negative errno: to take
 * that for none would be to wait for ever.
 */
export function poll(fd: number, events: number, milliseconds = 0): number {
  pollfd[0] = fd;
  pollfd[1] = events;
  let result = pollOnce(milliseconds);
  if (result === -ENOENT) result = pollOnce(milliseconds); // as in fcntl
  return result > 0 ? revents(pollfd) : result === -EINTR ? 0 : result;
}

function pollOnce(milliseconds: number): number {
  return checked(
    served ? served.poll(pollfd, 1n, milliseconds) : c.poll(pollfd, 1n, milliseconds),
  );
}

/**
 * As {@linkcode poll}, waiting on another thread, for at most `milliseconds` (-1:
 * for ever).
 */
export async function pollOnThread(
  fd: number,
  events: number,
  milliseconds: number,
): Promise<number> {
  const descriptor = new Int32Array([fd, events]);
  const ready = await thread.poll(descriptor, 1n, milliseconds);
  // Read afterwards, the memory is not given to anybody else while the kernel
  // has its address.
  if (ready < 0) return poll(fd, events); // errno stayed on the other thread
  return ready > 0 ? revents(descriptor) : 0;
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
    const closed = allTold ? revents(descriptors, i) & NVAL : fcntl(fd, F_GETFD) < 0;
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

/** Does nothing on this thread for so long (usleep(3)), and a little longer: the timer slack of prctl(2). */
export function pause(microseconds: number): void {
  c.usleep(microseconds);
}

/** An epoll(7) instance. */
export function epollCreate(): number {
  return checked(c.epoll_create1(O_CLOEXEC));
}

/**
 * epoll_ctl(2): `operation` is 1 to add, 2 to remove, 3 to change. Called again after ENOENT, as
 * {@linkcode fcntl} is: where that is true, it comes again.
 */
export function epollControl(
  epoll: number,
  operation: number,
  fd: number,
  event: Int32Array<ArrayBuffer>,
): number {
  const result = epollControlOnce(epoll, operation, fd, event);
  return result === -ENOENT ? epollControlOnce(epoll, operation, fd, event) : result;
}

function epollControlOnce(
  epoll: number,
  operation: number,
  fd: number,
  event: Int32Array<ArrayBuffer>,
): number {
  return checked(
    hot ? hot.epoll_ctl(epoll, operation, fd, event) : cold.epoll_ctl(epoll, operation, fd, event),
  );
}

/** epoll_wait(2) for at most `milliseconds`; the thread does nothing else meanwhile. -EINTR also for ENOENT, which is not its own: see {@linkcode moved}. */
export function epollWait(
  epoll: number,
  events: Int32Array<ArrayBuffer>,
  most: number,
  milliseconds: number,
): number {
  const result = checked(
    hot
      ? hot.epoll_wait(epoll, events, most, milliseconds)
      : cold.epoll_wait(epoll, events, most, milliseconds),
  );
  return result === -ENOENT ? -EINTR : result;
}

/** A descriptor that becomes readable at a time that is set (timerfd_create(2)). */
export function timerfdCreate(): number {
  const CLOCK_MONOTONIC = 1;
  return checked(c.timerfd_create(CLOCK_MONOTONIC, O_CLOEXEC | O_NONBLOCK));
}

const itimerspec = new BigInt64Array(4);

/** Sets it to become readable once, after `nanoseconds` (more than 0), and not before (timerfd_settime(2)). */
export function timerfdSettime(fd: number, nanoseconds: number): number {
  itimerspec[2] = BigInt(Math.floor(nanoseconds / 1e9));
  itimerspec[3] = BigInt(nanoseconds % 1e9);
  return retryingEnoent(() =>
    checked(
      served
        ? served.timerfd_settime(fd, 0, itimerspec, null)
        : c.timerfd_settime(fd, 0, itimerspec, null),
    )
  );
}

// ---- Descriptors.

/**
 * fcntl(2). Called again after ENOENT, which it cannot have itself: see {@linkcode moved}. Not by
 * {@linkcode retryingEnoent}, whose closure would be garbage for each call.
 */
export function fcntl(fd: number, command: number, argument = 0): number {
  const result = fcntlOnce(fd, command, argument);
  return result === -ENOENT ? fcntlOnce(fd, command, argument) : result;
}

function fcntlOnce(fd: number, command: number, argument: number): number {
  return checked(hot ? hot.fcntl(fd, command, argument) : cold.fcntl(fd, command, argument));
}

/** close(2). */
export function close(fd: number): number {
  return checked(served ? served.close(fd) : c.close(fd));
}

/** Makes number `to` a close-on-exec duplicate of `from`, closing what it was, in one step (dup3(2)). */
export function dup3(from: number, to: number): number {
  return checked(c.dup3(from, to, O_CLOEXEC));
}

/** A pipe of our own: [reading end, writing end] in `ends` (pipe2(2)). */
export function pipe2(ends: Int32Array<ArrayBuffer>): number {
  return checked(c.pipe2(ends, O_CLOEXEC));
}

/**
 * Opens what `fd` is once more, by /proc/self/fd, which gives a file description
 * that nobody shares (proc(5)). -errno where that is not possible.
 */
export function openAgain(fd: number, flags: number): number {
  const path = new TextEncoder().encode(`/proc/self/fd/${fd}\0`);
  return checked(c.open(path, flags | O_CLOEXEC, 0));
}

/** What is in a short file, as those of /proc/sys; "" where it cannot be read. */
export function contentOf(path: string): string {
  const fd = c.open(new TextEncoder().encode(`${path}\0`), O_CLOEXEC, 0);
  if (fd < 0) return "";
  const bytes = new Uint8Array(64), length = c.read(fd, bytes, bytes.length);
  c.close(fd);
  return new TextDecoder().decode(bytes.subarray(0, Math.max(0, length)));
}

/** Whether two numbers are one open file description: 0 if they are (kcmp(2)); -errno where the kernel does not say. */
function kcmp(one: number, other: number): number {
  const SYS_KCMP = Deno.build.arch === "x86_64" ? 312n : 272n, KCMP_FILE = 0;
  const parameters = ["i64", "i32", "i32", "i32", "u64", "u64"] as const;
  const syscall = find("syscall", { parameters: [...parameters], result: "i64" });
  const result = syscall.call(
    SYS_KCMP,
    Deno.pid,
    Deno.pid,
    KCMP_FILE,
    BigInt(one),
    BigInt(other),
  );
  return result < 0n ? -errno() : Number(result);
}

/**
 * Whether two numbers are one open file description. An equal inode does not
 * prove it: all eventfds, timerfds and the like have one.
 */
export function isDuplicate(one: number, other: number): boolean {
  const order = kcmp(one, other);
  if (order >= 0) return order === 0;
  // Where kcmp(2) is missing or forbidden: the signal that O_ASYNC would send is
  // kept in the open file description, and shows through all its numbers. It
  // is looked at by nobody as long as O_ASYNC is off.
  const before = fcntl(one, F_GETSIG);
  if (before < 0 || fcntl(other, F_GETSIG) !== before) return false;
  const PROBES = [40, 41]; // real-time signals
  const mark = PROBES.find((signal) => signal !== before) ?? 0;
  if (fcntl(one, F_SETSIG, mark) < 0) return false;
  const same = fcntl(other, F_GETSIG) === mark;
  fcntl(one, F_SETSIG, before);
  return same;
}

/** What statx(2) returns of a descriptor, as far as copying needs it. */
export interface Status {
  /** The file type and permissions, as st_mode. */
  mode: number;
  /** Device and inode: equal for all descriptors of one pipe, socket or file. */
  identity: string;
  /** The major number, where it is a device. */
  major: number;
  /** The minor number. */
  minor: number;
  /** Length in bytes, where it is a regular file. */
  size: number;
}

const emptyPath = new Uint8Array(1);
const statxBuffer = new DataView(new ArrayBuffer(256));

/** statx(2) as it fills its structure, which is the same on every architecture; -errno where it fails. */
export function statxInto(fd: number, buffer: DataView<ArrayBuffer>): number {
  const AT_EMPTY_PATH = 0x1000, STATX_BASIC_STATS = 0x7ff, STATX_BTIME = 0x800;
  return checked(c.statx(fd, emptyPath, AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, buffer));
}

/** statx(2), as far as copying needs it; -errno where it fails. */
export function statx(fd: number): Status | number {
  const buffer = statxBuffer;
  const result = statxInto(fd, buffer);
  if (result < 0) return result;
  return {
    mode: buffer.getUint16(28, true),
    identity: `${buffer.getUint32(136, true)}:${buffer.getUint32(140, true)}:${
      buffer.getBigUint64(32, true)
    }`,
    major: buffer.getUint32(128, true),
    minor: buffer.getUint32(132, true),
    size: Number(buffer.getBigUint64(40, true)),
  };
}

/** Sets where in a file the next read or write begins, and returns it; -errno where there is no such place (lseek(2)). */
export function lseek(fd: number, offset: number | bigint, whence: number): number {
  const seek = find("lseek", { parameters: ["i32", "i64", "i32"], result: "i64" });
  const result = Number(seek.call(fd, BigInt(offset), whence));
  return result < 0 ? -errno() : result;
}

/** Where in a file the next read or write begins; -errno of what has no such place. */
export function offset(fd: number): number {
  const SEEK_CUR = 1;
  return lseek(fd, 0, SEEK_CUR);
}

/** Whether a file is one of procfs (fstatfs(2)); not where the system refuses to say. */
export function isOfProcfs(fd: number): boolean {
  const PROC_SUPER_MAGIC = 0x9fa0;
  const status = new Int32Array(64); // more than struct statfs has anywhere; the type is the first
  return checked(c.fstatfs(fd, status)) === 0 && status[0] === PROC_SUPER_MAGIC;
}

/** isatty(3). */
export function isatty(fd: number): boolean {
  return c.isatty(fd) === 1;
}

// ---- Sockets.

const optionValue = new Int32Array(1), optionLength = new Uint32Array(1);

/** An option of a socket that is an int, or the first one of its structure (getsockopt(2)). */
export function getsockopt(fd: number, option: number, level: number = SOL_SOCKET): number {
  optionLength[0] = 4;
  const result = checked(
    served
      ? served.getsockopt(fd, level, option, optionValue, optionLength)
      : c.getsockopt(fd, level, option, optionValue, optionLength),
  );
  return result < 0 ? result : optionValue[0] ?? 0;
}

/** Whether the kernel enciphers or deciphers the bytes of a socket (TLS). */
export function isTls(socket: number): boolean {
  optionValue[0] = 0; // stays where there is nothing between
  return getsockopt(socket, TCP_ULP, IPPROTO_TCP) === NAME_OF_TLS;
}

/** "tls", with the zero that ends it. */
const NAME_OF_TLS = 0x00736c74;

/**
 * The pending error (SO_ERROR), which reading it clears; 0 for none. Where the system refuses
 * to tell, the errno of that: to take it for none would be to lose one.
 */
export function pendingError(socket: number): number {
  return Math.abs(getsockopt(socket, SO_ERROR));
}

/** 0 where a socket has a peer, else -ENOTCONN (getpeername(2)). */
export function getpeername(socket: number): number {
  return checked(c.getpeername(socket, new Uint8Array(128), new Uint32Array([128])));
}

const on = new Int32Array([1]), off = new Int32Array([0]);
const noLinger = new Int32Array([0, 0]), reset = new Int32Array([1, 0]); // struct linger

/** Switches an option of a socket on, or off (setsockopt(2)). */
export function setsockopt(fd: number, level: number, option: number, value = on): number {
  return checked(
    served
      ? served.setsockopt(fd, level, option, value, value.byteLength)
      : c.setsockopt(fd, level, option, value, value.byteLength),
  );
}

/**
 * Whether what a TCP peer sends is acknowledged at once (tcp(7)). If it is switched off before
 * connect(2), the peer's SYN-ACK is not acknowledged by a packet of its own, but by the first bytes
 * that are sent, or when this is switched on, or after 0.2 s. That saves a packet, and the peer
 * wakes up once, for the connection and the bytes together. A connection takes 3 to
 * 5 % less CPU then, and 5 to 10 % less of a web server behind it (`deno task bench:serving
 * --tests=http`). It has to be switched on after the first bytes as well: Linux takes them for an
 * answer, and would delay what acknowledges the peer's next ones by 40 ms.
 */
export function setQuickAck(fd: number, isQuick: boolean): void {
  setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, isQuick ? on : off);
}

/** Has small pieces of a TCP connection go at once, and those that wait for more (MSG_MORE) now (tcp(7)). */
export function setNoDelay(fd: number): void {
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY);
}

/** Has close(2) leave it to the kernel to send what is not sent yet (socket(7)). */
export function setNoLinger(fd: number): void {
  setsockopt(fd, SOL_SOCKET, SO_LINGER, noLinger);
}

/**
 * Has close(2) reset a TCP connection: its peer gets an error in place of an end of file, and
 * nothing of what it has not acknowledged yet (socket(7); RFC 9293, 3.10.5, "ABORT").
 */
export function setReset(fd: number): void {
  setsockopt(fd, SOL_SOCKET, SO_LINGER, reset);
}

/** How many bytes wait to be read (FIONREAD: unix(7), tcp(7)). */
export function bytesQueued(fd: number): number {
  const FIONREAD = 0x541bn;
  return countOf(fd, FIONREAD);
}

/** How many bytes a TCP peer has not acknowledged (SIOCOUTQ: tcp(7)). */
export function bytesUnacknowledged(fd: number): number {
  const SIOCOUTQ = 0x5411n;
  return countOf(fd, SIOCOUTQ);
}

function countOf(fd: number, request: bigint): number {
  const count = new Int32Array(1);
  const result = checked(c.ioctl(fd, request, count));
  return result < 0 ? result : count[0] ?? 0;
}

/** shutdown(2): `how` is SHUT_RD or SHUT_WR. */
export function shutdown(fd: number, how: number): number {
  return retryingEnoent(() => checked(served ? served.shutdown(fd, how) : c.shutdown(fd, how)));
}

// ---- Signals, and errors in words.

const SIG_IGN = 1n;

/** More 64-bit words than struct sigaction has anywhere; the first is the handler. */
const SIGACTION = 32;

/** Whether a signal is ignored: nohup(1) starts its program so (sigaction(2)). */
export function isIgnored(signal: number): boolean {
  const action = new BigUint64Array(SIGACTION);
  return checked(c.sigaction(signal, null, action)) === 0 && action[0] === SIG_IGN;
}

/** Ignores a signal, even one with a listener: that is not called any more. */
export function ignore(signal: number): number {
  const action = new BigUint64Array(SIGACTION);
  action[0] = SIG_IGN;
  return checked(c.sigaction(signal, action, null));
}

function textOf(pointer: Deno.PointerValue | undefined): string | undefined {
  return pointer ? Deno.UnsafePointerView.getCString(pointer) : undefined;
}

/** The reason in words, as strerror(3) has it: "Broken pipe". */
export function strerror(error: number): string {
  const words = find("strerror", { parameters: ["i32"], result: "pointer" });
  return textOf(words.call(Math.abs(error))) ?? `error ${error}`;
}

/** The error's name: "EPIPE" (strerrorname_np(3), from glibc 2.32 on; else "E32"). */
export function strerrorname(error: number): string {
  const name = findIfAny("strerrorname_np", { parameters: ["i32"], result: "pointer" });
  return textOf(name?.call(Math.abs(error))) ?? `E${Math.abs(error)}`;
}
