/**
 * Replaces sys/libc.ts for the engine, through the import map, and calls the simulated
 * kernel. If the two modules differ, `seam` below does not compile.
 *
 * @module
 */
import {
  EAGAIN,
  EINVAL,
  ENOTCONN,
  IPPROTO_TCP,
  MSG_ERRQUEUE,
  MSG_PEEK,
  MSG_TRUNC,
  O_ACCMODE,
  SHUT_RD,
  SO_ACCEPTCONN,
  SO_DOMAIN,
  SO_ERROR,
  SO_LINGER,
  SO_PROTOCOL,
  SO_TYPE,
  SOL_SOCKET,
  TCP_NODELAY,
  TCP_QUICKACK,
} from "../../sys/constants.ts";
import type * as real from "../../sys/libc.ts";
import {
  Description,
  Device,
  ENOTSOCK,
  ENOTTY,
  Listening,
  MessageSocket,
  RegularFile,
  StreamSocket,
} from "./kernel.ts";
import { Fate, type World } from "./world.ts";

/** The world of this run. */
let world: World;

export function enterWorld(next: World): void {
  world = next;
}

export function compile(): void {}
export function compileForServing(): void {}

// ---- Moving bytes.

export function splice(from: number, to: number, length: number): number {
  return world.splice(from, to, length);
}

function asBytes(bytes: BufferSource, length = bytes.byteLength): Uint8Array {
  return ArrayBuffer.isView(bytes)
    ? new Uint8Array(bytes.buffer, bytes.byteOffset, length)
    : new Uint8Array(bytes, 0, length);
}

export function read(fd: number, bytes: BufferSource, length?: number): number {
  return world.transfer("read", fd, asBytes(bytes, length), false);
}
export function write(fd: number, bytes: BufferSource, length?: number): number {
  return world.transfer("write", fd, asBytes(bytes, length), false);
}
export function pageAligned(length: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(length);
}
export function readNow(fd: number, bytes: Uint8Array<ArrayBuffer>, length?: number): number {
  return world.transfer("read", fd, asBytes(bytes, length), true);
}
export function writeNow(fd: number, bytes: Uint8Array<ArrayBuffer>, length?: number): number {
  return world.transfer("write", fd, asBytes(bytes, length), true);
}
export function readOnThread(fd: number, bytes: BufferSource): Promise<number> {
  return world.transferOnThread("read", fd, asBytes(bytes));
}
export function writeOnThread(fd: number, bytes: BufferSource): Promise<number> {
  return world.transferOnThread("write", fd, asBytes(bytes));
}

export function recv(
  socket: number,
  all: Uint8Array<ArrayBuffer>,
  flags = 0,
  most = all.length,
): number {
  world.enter();
  const bytes = all.subarray(0, most);
  world.use(bytes);
  const description = world.get(socket, "recv");
  const { file } = description;
  const refused = world.refusal("recv");
  if (refused) return -refused;
  if (flags & MSG_ERRQUEUE) {
    const result = file instanceof StreamSocket ? file.takeNote() : -EAGAIN;
    world.log(() => `recv ${socket} of the error queue -> ${result}`);
    if (result >= 0) world.happened();
    return result;
  }
  const keep = (flags & MSG_PEEK) !== 0;
  const fate = world.fate();
  let result: number;
  if (fate === Fate.Interrupted) result = -EAGAIN;
  else if (file instanceof StreamSocket) {
    const part = fate === Fate.Short ? bytes.subarray(0, world.part(bytes.length)) : bytes;
    result = file.read(description, part, keep);
  } else if (file instanceof MessageSocket) {
    const length = file.receive(bytes, keep);
    result = flags & MSG_TRUNC ? length : Math.min(length, bytes.length);
  } else result = -ENOTSOCK;
  world.log(() => `recv ${socket} (${file.name}) ${bytes.length} -> ${result}`);
  if (!keep) world.moved(file, "from", result);
  if (file instanceof MessageSocket && result === 0) world.happened();
  return result;
}

export function send(
  socket: number,
  all: Uint8Array<ArrayBuffer>,
  length = all.length,
  isMoreToCome = false,
): number {
  world.enter();
  const bytes = all.subarray(0, length);
  world.use(bytes);
  const description = world.get(socket, "send");
  const { file } = description;
  const refused = world.refusal("send");
  if (refused) return -refused;
  const fate = world.fate();
  const isShort = fate === Fate.Short && file instanceof StreamSocket;
  const part = isShort ? bytes.subarray(0, world.part(bytes.length)) : bytes;
  const isSocket = file instanceof StreamSocket || file instanceof MessageSocket;
  const result = fate === Fate.Interrupted
    ? -EAGAIN
    : isSocket
    ? file.write(description, part)
    : -ENOTSOCK;
  world.log(() => `send ${socket} (${file.name}) ${bytes.length} -> ${result}`);
  world.moved(file, "to", result);
  // Where there is no room for all of it, the rest is not waited for.
  if (result < length) world.corked.delete(file);
  else if (isMoreToCome) world.corked.add(file);
  return result;
}

// ---- Waiting.

export function poll(fd: number, events: number, _milliseconds = 0): number {
  return world.poll(fd, events);
}
export async function pollOnThread(
  fd: number,
  events: number,
  milliseconds: number,
): Promise<number> {
  const ready = await world.pollOnThread(fd, events, milliseconds);
  return ready >= 0 ? ready : poll(fd, events);
}
export function openAmong(first: number, count: number): number[] {
  world.enter();
  const open: number[] = [];
  for (let fd = first; fd < first + count; fd++) if (world.entry(fd)) open.push(fd);
  return open;
}
export async function rest(): Promise<void> {
  await world.sleep(0.1);
}
export function pause(microseconds: number): void {
  world.enter();
  world.now += microseconds / 1000;
}
export function epollCreate(): number {
  return world.epollCreate();
}
export function epollControl(
  epoll: number,
  operation: number,
  fd: number,
  event: Int32Array<ArrayBuffer>,
): number {
  return world.epollControl(epoll, operation, fd, event[0] ?? 0, event[event.length - 2] ?? 0);
}
export function epollWait(
  epoll: number,
  events: Int32Array<ArrayBuffer>,
  most: number,
  milliseconds: number,
): number {
  return world.epollWait(epoll, events, most, milliseconds);
}
export function timerfdCreate(): number {
  return world.timerCreate();
}
export function timerfdSettime(fd: number, nanoseconds: number): number {
  return world.timerSet(fd, nanoseconds / 1e6);
}

// ---- Descriptors.

export function fcntl(fd: number, command: number, argument = 0): number {
  return world.fcntl(fd, command, argument);
}
export function close(fd: number): number {
  return world.close(fd);
}
export function dup3(from: number, to: number): number {
  return world.dup3(from, to);
}
export function pipe2(ends: Int32Array<ArrayBuffer>): number {
  return world.pipe2(ends);
}
export function openAgain(fd: number, flags: number): number {
  world.enter();
  const refused = world.refusals.reopen || world.refusal("open");
  if (refused) return -refused;
  const { file } = world.refusals.reopensOther
    ? { file: new Device("another terminal", true, 1) }
    : world.get(fd, "open");
  return world.install(new Description(file, flags & O_ACCMODE, flags & 0o4000));
}
export function isDuplicate(one: number, other: number): boolean {
  world.enter();
  return !world.refusal("kcmp") && world.get(one, "kcmp") === world.get(other, "kcmp");
}
export type Status = real.Status;
export function statxInto(_fd: number, _buffer: DataView<ArrayBuffer>): number {
  return world.fail("statx into a buffer is not simulated");
}
export function statx(fd: number): Status | number {
  world.enter();
  const { file } = world.get(fd, "statx");
  const refused = world.refusal("statx");
  if (refused) return -refused;
  const { mode, major, minor, size, inode } = file;
  return { mode, major, minor, size, identity: `0:0:${inode}` };
}
export function lseek(fd: number, offset: number | bigint, whence: number): number {
  const description = world.get(fd, "lseek");
  const refused = world.refusal("lseek");
  if (refused) return -refused;
  if (!(description.file instanceof RegularFile)) return -29; // ESPIPE
  if (whence === 0) description.position = Number(offset);
  return description.position;
}
export function offset(fd: number): number {
  return lseek(fd, 0, 1);
}
/** No file is: of those the buffer does not bound what is in flight. */
export function isOfProcfs(_fd: number): boolean {
  return false;
}
export function isatty(fd: number): boolean {
  const { file } = world.get(fd, "isatty");
  return !world.refusal("isatty") && file instanceof Device && file.isTerminal;
}

// ---- Sockets.

/** No socket is. */
export function isTls(_socket: number): boolean {
  return false;
}
export function getsockopt(fd: number, option: number): number {
  world.enter();
  const { file } = world.get(fd, "getsockopt");
  const isStream = file instanceof StreamSocket;
  const refused = world.refusal("getsockopt");
  if (refused) {
    if (option === SO_ERROR && isStream && file.pending) world.unheard.add(file);
    return -refused;
  }
  if (!(isStream || file instanceof MessageSocket || file instanceof Listening)) return -ENOTSOCK;
  switch (option) {
    case SO_TYPE:
      return file.type;
    case SO_DOMAIN:
      return file.family === "unix" ? 1 : 2;
    case SO_PROTOCOL:
      return file.family === "tcp" ? file instanceof StreamSocket && file.notes < 0 ? 262 : 6 : 0;
    case SO_ACCEPTCONN:
      return file instanceof Listening ? 1 : 0;
    case SO_ERROR: {
      const error = file instanceof Listening ? 0 : file.takeError();
      world.log(() => `getsockopt ${fd} SO_ERROR -> ${error}`);
      return error;
    }
  }
  return -EINVAL;
}
export function pendingError(socket: number): number {
  return Math.abs(getsockopt(socket, SO_ERROR));
}
export function getpeername(socket: number): number {
  world.enter();
  const { file } = world.get(socket, "getpeername");
  const refused = world.refusal("getpeername");
  if (refused) return -refused;
  if (!(file instanceof StreamSocket || file instanceof MessageSocket)) return -ENOTSOCK;
  return file.isConnected ? 0 : -ENOTCONN;
}
export function setsockopt(fd: number, _level: number, _option: number): number {
  world.enter();
  world.get(fd, "setsockopt");
  return -world.refusal("setsockopt");
}
export function setNoLinger(fd: number): void {
  setsockopt(fd, SOL_SOCKET, SO_LINGER);
}
export function setReset(fd: number): void {
  if (setsockopt(fd, SOL_SOCKET, SO_LINGER) < 0) return;
  const { file } = world.get(fd, "setsockopt");
  if (file instanceof StreamSocket) file.resets = true;
}
export function setNoDelay(fd: number): void {
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY);
  const { file } = world.get(fd, "setsockopt");
  world.corked.delete(file); // if it is refused, the kernel waits for up to 200 ms
  world.nagling.delete(file);
}
export function setQuickAck(fd: number, isQuick: boolean): void {
  const refused = setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK) < 0;
  const { file } = world.get(fd, "setsockopt");
  if (isQuick) {
    world.unacknowledged.delete(file); // if it is refused, the kernel waits for up to 200 ms
    if (world.nagling.get(file) !== false) world.delaying.delete(file);
  } else if (!refused) {
    world.unacknowledged.add(file);
    world.delaying.add(file);
  }
}
export function hasNoRead(_fd: number): boolean {
  return false; // every descriptor of this kernel can be read or written
}
export function hasNoWrite(_fd: number): boolean {
  return false;
}
export function bytesQueued(fd: number): number {
  world.enter();
  const { file } = world.get(fd, "ioctl");
  const refused = world.refusal("ioctl");
  if (refused) return -refused;
  if (file instanceof MessageSocket) {
    return file.type === 5
      ? file.queue.reduce((sum, message) => sum + message.length, 0)
      : file.queue[0]?.length ?? 0;
  }
  if (file instanceof StreamSocket) return file.queue.reduce((sum, piece) => sum + piece.length, 0);
  return -ENOTTY;
}
export function bytesUnacknowledged(fd: number): number {
  world.enter();
  const { file } = world.get(fd, "ioctl");
  const refused = world.refusal("ioctl");
  if (refused) return -refused;
  return file instanceof StreamSocket ? file.unacknowledged : -ENOTTY;
}
export function shutdown(fd: number, how: number): number {
  world.enter();
  const { file } = world.get(fd, "shutdown");
  const result = -world.refusal("shutdown") || file.shutdown(how);
  if (how !== SHUT_RD) world.sent(file);
  world.log(() => `shutdown ${fd} (${file.name}) ${how} -> ${result}`);
  return result;
}

export function isIgnored(_signal: number): boolean {
  return true;
}
export function ignore(_signal: number): number {
  return 0;
}

const NAMES: Record<number, [string, string]> = {
  1: ["EPERM", "Operation not permitted"],
  4: ["EINTR", "Interrupted system call"],
  5: ["EIO", "Input/output error"],
  9: ["EBADF", "Bad file descriptor"],
  11: ["EAGAIN", "Resource temporarily unavailable"],
  12: ["ENOMEM", "Cannot allocate memory"],
  13: ["EACCES", "Permission denied"],
  22: ["EINVAL", "Invalid argument"],
  24: ["EMFILE", "Too many open files"],
  28: ["ENOSPC", "No space left on device"],
  32: ["EPIPE", "Broken pipe"],
  38: ["ENOSYS", "Function not implemented"],
  90: ["EMSGSIZE", "Message too long"],
  95: ["EOPNOTSUPP", "Operation not supported"],
  104: ["ECONNRESET", "Connection reset by peer"],
  107: ["ENOTCONN", "Transport endpoint is not connected"],
  110: ["ETIMEDOUT", "Connection timed out"],
  111: ["ECONNREFUSED", "Connection refused"],
  125: ["ECANCELED", "Operation canceled"],
};

export function contentOf(_path: string): string {
  return ""; // no file of this kernel has a path
}

export function strerror(error: number): string {
  return NAMES[Math.abs(error)]?.[1] ?? `error ${error}`;
}
export function strerrorname(error: number): string {
  return NAMES[Math.abs(error)]?.[0] ?? `E${Math.abs(error)}`;
}

/** Whether this module has the same functions as the real one. */
const seam: typeof real = {
  compile,
  compileForServing,
  splice,
  pageAligned,
  read,
  write,
  readNow,
  writeNow,
  hasNoRead,
  hasNoWrite,
  recv,
  send,
  readOnThread,
  writeOnThread,
  poll,
  pollOnThread,
  openAmong,
  rest,
  pause,
  epollCreate,
  epollControl,
  epollWait,
  timerfdCreate,
  timerfdSettime,
  fcntl,
  close,
  dup3,
  pipe2,
  openAgain,
  contentOf,
  isDuplicate,
  statxInto,
  statx,
  lseek,
  offset,
  isOfProcfs,
  isatty,
  isTls,
  getsockopt,
  pendingError,
  getpeername,
  setsockopt,
  setNoDelay,
  setNoLinger,
  setReset,
  setQuickAck,
  bytesQueued,
  bytesUnacknowledged,
  shutdown,
  isIgnored,
  ignore,
  strerror,
  strerrorname,
};
export { seam };
