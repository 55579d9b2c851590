/**
 * Calls on files and terminals that copying needs none of, and
 * {@linkcode Descriptor} has.
 *
 * As in libc.ts, what the kernel returns is returned: 0 or more, or a negative
 * errno.
 *
 * @module
 */
import { EAGAIN, EINTR, EIO, S_IFCHR, S_IFIFO, S_IFMT, S_IFREG, S_IFSOCK } from "./constants.ts";
import { checked, lazily, once, onThread } from "./ffi.ts";
import { statxInto } from "./libc.ts";

const c = {
  fdatasync: once("fdatasync", "i32"),
  flock: lazily("flock", "i32", "i32"),
  fsync: once("fsync", "i32"),
  ftruncate: lazily("ftruncate", "i32", "i64"),
  futimens: lazily("futimens", "i32", "buffer"),
  tcgetattr: lazily("tcgetattr", "i32", "buffer"),
  tcsetattr: lazily("tcsetattr", "i32", "i32", "buffer"),
};

const thread = {
  fdatasync: onThread("fdatasync", "i32"),
  flock: onThread("flock", "i32", "i32"),
  fsync: onThread("fsync", "i32"),
};

/** Makes a file `length` bytes long (ftruncate(2)). */
export function ftruncate(fd: number, length: bigint): number {
  return checked(c.ftruncate(fd, length));
}

// ---- What a file is.

const S_IFBLK = 0o060000, S_IFDIR = 0o040000, S_IFLNK = 0o120000;

/** The bit of statx(2)'s mask that says whether the file system knows when a file was made. */
const STATX_BTIME = 0x800;

/** All that statx(2) returns of a descriptor, in Deno's form; -errno where it fails. */
export function fileInfo(fd: number): Deno.FileInfo | number {
  const status = new DataView(new ArrayBuffer(256));
  const result = statxInto(fd, status);
  if (result < 0) return result;
  const u32 = (at: number) => status.getUint32(at, true);
  const u64 = (at: number) => Number(status.getBigUint64(at, true));
  const time = (at: number) =>
    new Date(Number(status.getBigInt64(at, true)) * 1000 + Math.floor(u32(at + 8) / 1e6));
  const mode = status.getUint16(28, true), type = mode & S_IFMT;
  return {
    isFile: type === S_IFREG,
    isDirectory: type === S_IFDIR,
    isSymlink: type === S_IFLNK,
    size: u64(40),
    mtime: time(112),
    atime: time(64),
    birthtime: u32(0) & STATX_BTIME ? time(80) : null,
    ctime: time(96),
    dev: device(u32(136), u32(140)),
    ino: u64(32),
    mode,
    nlink: u32(16),
    uid: u32(20),
    gid: u32(24),
    rdev: device(u32(128), u32(132)),
    blksize: u32(4),
    blocks: u64(48),
    isBlockDevice: type === S_IFBLK,
    isCharDevice: type === S_IFCHR,
    isFifo: type === S_IFIFO,
    isSocket: type === S_IFSOCK,
  };
}

/** A device's number, as makedev(3) composes it. */
function device(major: number, minor: number): number {
  return (major >>> 12) * 2 ** 44 + (minor >>> 8) * 2 ** 20 + (major & 0xfff) * 256 +
    (minor & 0xff);
}

/** Sets when a file was read and written last, in milliseconds since 1970 (futimens(3)). */
export function futimens(fd: number, read: number, written: number): number {
  const times = [read, written].flatMap((time) => {
    const seconds = Math.floor(time / 1000);
    return [BigInt(seconds), BigInt(Math.round((time - seconds * 1000) * 1e6))];
  });
  return checked(c.futimens(fd, new BigInt64Array(times)));
}

// ---- What may take long.

/** What is to come to the disk: the data alone, or all that is known of the file (fsync(2)). */
export type Synced = "fdatasync" | "fsync";

/** Waits on this thread until the disk has it. */
export function sync(what: Synced, fd: number): number {
  return checked(c[what](fd));
}

/** Waits on another thread until the disk has it. */
export async function syncOnThread(what: Synced, fd: number): Promise<number> {
  if (await thread[what](fd) === 0) return 0;
  // errno stayed on the other thread. The same call gives it again, unless it was
  // an error of the disk, which fsync(2) reports once.
  return sync(what, fd) || -EIO;
}

/** For flock(2): a lock that others may have too, one that nobody else has, none; without waiting. */
export const LOCK_SH = 1, LOCK_EX = 2, LOCK_UN = 8, LOCK_NB = 4;

/** Locks a file against others that lock it, or unlocks it; may wait unless LOCK_NB is in `how` (flock(2)). */
export function flock(fd: number, how: number): number {
  let result;
  do result = checked(c.flock(fd, how)); while (result === -EINTR);
  return result;
}

/** The same, waiting on another thread. */
export async function flockOnThread(fd: number, how: number): Promise<number> {
  for (;;) {
    if (await thread.flock(fd, how) === 0) return 0;
    // As in syncOnThread: an error comes again; a signal was none.
    const result = flock(fd, how | LOCK_NB);
    if (result !== -EAGAIN) return result;
  }
}

// ---- Terminals.

/** struct termios of the C library, in bytes, and the places in it. */
const TERMIOS = 60, IFLAG = 0, CFLAG = 8, LFLAG = 12, CC = 17;

/** How a terminal is set (tcgetattr(3)), or -errno where it is none. */
export function terminalMode(fd: number): DataView<ArrayBuffer> | number {
  const mode = new DataView(new ArrayBuffer(TERMIOS));
  const result = checked(c.tcgetattr(fd, mode));
  return result < 0 ? result : mode;
}

/** Sets a terminal, once what was written to it is out (tcsetattr(3)). */
export function setTerminalMode(fd: number, mode: DataView<ArrayBuffer>): number {
  const TCSADRAIN = 1;
  return checked(c.tcsetattr(fd, TCSADRAIN, mode));
}

/** `mode`, but each byte comes as it is typed and is not shown; with `signals` Ctrl-C still sends one (termios(3)). */
export function rawMode(mode: DataView<ArrayBuffer>, signals: boolean): DataView<ArrayBuffer> {
  const BRKINT = 0o2, INPCK = 0o20, ISTRIP = 0o40, ICRNL = 0o400, IXON = 0o2000;
  const ISIG = 0o1, ICANON = 0o2, ECHO = 0o10, IEXTEN = 0o100000;
  const CS8 = 0o60, VTIME = 5, VMIN = 6;
  const raw = new DataView(mode.buffer.slice(0));
  const change = (at: number, off: number, on = 0) =>
    raw.setUint32(at, raw.getUint32(at, true) & ~off | on, true);
  change(IFLAG, BRKINT | INPCK | ISTRIP | ICRNL | IXON);
  change(CFLAG, 0, CS8);
  change(LFLAG, ECHO | ICANON | IEXTEN | (signals ? 0 : ISIG));
  raw.setUint8(CC + VMIN, 1);
  raw.setUint8(CC + VTIME, 0);
  return raw;
}
