/**
 * A descriptor as the engine sees it: what it is, and reading and writing that
 * never wait.
 *
 * @module
 */
import {
  AF_INET,
  AF_INET6,
  AF_UNIX,
  EAGAIN,
  EBADF,
  EIO,
  EMSGSIZE,
  ENOTCONN,
  ENOTTY,
  EOPNOTSUPP,
  EPIPE,
  F_DUPFD_CLOEXEC,
  F_GETFD,
  F_GETFL,
  FD_CLOEXEC,
  HUP,
  IN,
  IPPROTO_TCP,
  MSG_ERRQUEUE,
  MSG_PEEK,
  MSG_TRUNC,
  O_ACCMODE,
  O_APPEND,
  O_NOCTTY,
  O_NONBLOCK,
  O_PATH,
  O_RDONLY,
  O_WRONLY,
  OUT,
  RDHUP,
  S_IFCHR,
  S_IFIFO,
  S_IFMT,
  S_IFREG,
  S_IFSOCK,
  SO_ACCEPTCONN,
  SO_DOMAIN,
  SO_PROTOCOL,
  SO_TYPE,
  SOCK_RAW,
  SOCK_STREAM,
} from "./constants.ts";
import { DescriptorError, SystemError } from "./error.ts";
import * as libc from "./libc.ts";
import { forget } from "./readiness.ts";

/** What a descriptor is, as far as moving bytes is concerned. */
export type Kind = "pipe" | "socket" | "file" | "terminal" | "device";

/** The major number of /dev/null, zero, full and random (null(4)); and the minor one of /dev/kmsg. */
const MEMORY_DEVICES = 1, KMSG = 11;
const PTMX = { major: 5, minor: 2 }; // the master side of pseudo-terminals: pts(4)

/** The most bytes of one write on another thread, so that it returns, and its bytes are counted, soon. */
const MAX_THREAD_WRITE_BYTES = 4096;

/** A descriptor as the engine uses it: programs use `Descriptor`, which is one too. */
export class Fd {
  /** The number. */
  readonly fd: number;
  /** What it is. */
  readonly kind: Kind;
  /** Equal for all numbers of one pipe, socket or file; "" for a descriptor of our own making. */
  readonly identity: string;
  /** Length in bytes of a regular file when it was looked at, else 0. */
  readonly size: number;
  /** Whether it is a regular file, not a folder or a block device. */
  readonly isRegular: boolean;
  /** Whether it is a stream of bytes: all are, but for sockets that keep messages apart. */
  readonly isStream: boolean;
  /** Whether it is a unix socket: one whose peer learns of it when the read side is shut down. */
  readonly isUnix: boolean;
  /** Whether we made it, and it has O_NONBLOCK: nobody else changes its flags. */
  readonly isOurs: boolean;
  /**
   * Whether a read or write may wait although poll(2) said ready, and no flag
   * of a single call prevents it: terminals, and devices in general.
   */
  mayBlock: boolean;
  /** The number to read and write by: another one for a terminal that was opened again. */
  io: number;
  /** Whether somebody copies from it or to it, or serves it, who will close it. */
  isCopied = false;
  readonly #isTerminalSlave: boolean;
  /** Whether it is an eventfd, an epoll instance or the like: some carry bytes, others never get ready. */
  readonly #isAnonymous: boolean;
  #closed = false;

  /**
   * Wraps a descriptor that was inherited, or one that was `made` here: a stream socket with
   * O_NONBLOCK, of which nothing has to be asked.
   * Throws a {@linkcode DescriptorError} where `fd` was not inherited, and a
   * {@linkcode SystemError} where the system refuses to say what it is.
   */
  constructor(fd: number, made?: { isUnix: boolean }) {
    this.fd = fd;
    this.io = fd;
    this.isOurs = made !== undefined;
    if (made) {
      this.kind = "socket";
      this.identity = "";
      this.size = 0;
      this.isRegular =
        this.mayBlock =
        this.#isTerminalSlave =
        this.#isAnonymous =
          false;
      this.isStream = true;
      this.isUnix = made.isUnix;
      return;
    }
    // The runtime's own descriptors are all close-on-exec. An inherited one
    // never is: it has come through an exec.
    const isNumber = Number.isInteger(fd) && fd >= 0 && fd < 2 ** 31;
    const flags = isNumber ? mustSucceed("fcntl", fd, libc.fcntl(fd, F_GETFD)) : -EBADF;
    const status = flags === 0 ? mustSucceed("statx", fd, libc.statx(fd)) : -EBADF;
    if (typeof status === "number") throw new DescriptorError(`descriptor ${fd} is not open`);
    const type = status.mode & S_IFMT;
    this.identity = status.identity;
    this.kind = kindOf(fd, type);
    this.isRegular = type === S_IFREG;
    this.#isAnonymous = type === 0;
    this.size = this.kind === "file" ? status.size : 0;
    const isSocket = this.kind === "socket";
    // Taken for messages, what a stream has more than the buffer would be dropped.
    this.isStream = !isSocket ||
      mustSucceed("getsockopt", fd, libc.getsockopt(fd, SO_TYPE)) === SOCK_STREAM;
    this.isUnix = isSocket &&
      mustSucceed("getsockopt", fd, libc.getsockopt(fd, SO_DOMAIN)) === AF_UNIX;
    this.#isTerminalSlave = this.kind === "terminal" &&
      !(status.major === PTMX.major && status.minor === PTMX.minor);
    this.mayBlock = this.kind === "terminal" ||
      this.kind === "device" &&
        !(type === S_IFCHR && status.major === MEMORY_DEVICES && !this.#isLog(status.minor));
  }

  /** Whether it is the kernel's log, open to be read, which may wait. To be written it never does, and poll(2) does not say so. */
  #isLog(minor: number): boolean {
    return minor === KMSG && (libc.fcntl(this.fd, F_GETFL) & O_ACCMODE) === O_RDONLY;
  }

  /**
   * Whether it is the same number, or another one of the same pipe, socket or file. Of a descriptor
   * of our own making only its number is known.
   */
  isSameAs({ fd, identity }: Fd): boolean {
    return fd === this.fd || identity !== "" && identity === this.identity;
  }

  /** Whether it can be read. */
  get isReadable(): boolean {
    return this.#isOpenFor(O_WRONLY) && !(this.#isAnonymous && libc.hasNoRead(this.fd));
  }

  /** Whether it can be written. */
  get isWritable(): boolean {
    return this.#isOpenFor(O_RDONLY) && !(this.#isAnonymous && libc.hasNoWrite(this.fd));
  }

  /** `excluding` is the access mode in which it is open for the other direction only. */
  #isOpenFor(excluding: number): boolean {
    if (this.isOurs) return true;
    const flags = mustSucceed("fcntl", this.fd, libc.fcntl(this.fd, F_GETFL));
    return !(flags & O_PATH) && (flags & O_ACCMODE) !== excluding;
  }

  /** Whether it is a file of which each write goes to the end (or a device that is open so): splice(2) does not write it. */
  get appends(): boolean {
    const isFile = this.kind === "file" || this.kind === "device";
    return isFile && (libc.fcntl(this.fd, F_GETFL) & O_APPEND) !== 0;
  }

  /**
   * Whether what one write gives stays together for who reads it: so it is of
   * sockets with messages, and may be of a device (a network interface, a tape).
   */
  get keepsRecords(): boolean {
    return !this.isStream || this.kind === "device" && this.mayBlock;
  }

  /** Whether it is a file that the kernel makes up as it is read (proc(5)). */
  get isOfProcfs(): boolean {
    return this.isRegular && this.size === 0 && libc.isOfProcfs(this.fd);
  }

  /** Whether it is a TCP socket whose bytes the kernel enciphers or deciphers (TLS). */
  get isTls(): boolean {
    return this.kind === "socket" && !this.isUnix && !this.isOurs && libc.isTls(this.fd);
  }

  /** Whether it is a socket that waits for connections, and carries no bytes itself. */
  get isListening(): boolean {
    if (this.kind !== "socket") return false;
    return mustSucceed("getsockopt", this.fd, libc.getsockopt(this.fd, SO_ACCEPTCONN)) === 1;
  }

  /**
   * Whether it is a socket that never had a peer. One whose peer has gone has
   * none either (ENOTCONN), but both its directions are shut down then; and of
   * one that is about to connect poll(2) says nothing.
   */
  get isUnconnected(): boolean {
    if (this.kind !== "socket" || this.isOurs) return false;
    if (libc.getpeername(this.fd) !== -ENOTCONN) return false;
    // That of a raw socket is not told where its port is 0, as most of them have it.
    if (!this.isStream) return libc.getsockopt(this.fd, SO_TYPE) !== SOCK_RAW;
    const events = mustSucceed("poll", this.fd, libc.poll(this.fd, RDHUP));
    return (events & HUP) !== 0 && (events & RDHUP) === 0;
  }

  /**
   * Makes calls on a terminal never wait: it is opened once more, which gives a
   * file description of our own, and only that one has O_NONBLOCK. Where that
   * is not possible (no /proc, another user's terminal, the master side of a
   * pseudo-terminal) it stays one that {@linkcode mayBlock}.
   */
  openAgain(): void {
    if (!this.#isTerminalSlave || this.io !== this.fd) return;
    const access = libc.fcntl(this.fd, F_GETFL);
    if (access < 0) return;
    const again = libc.openAgain(this.fd, access & O_ACCMODE | O_NONBLOCK | O_NOCTTY);
    if (again < 0) return;
    const status = libc.statx(again);
    if (typeof status === "number" || status.identity !== this.identity) {
      libc.close(again);
      return;
    }
    this.io = again;
    this.mayBlock = false;
  }

  /**
   * Reads `most` bytes without waiting: how many, 0 at the end, or a negative errno,
   * -EAGAIN where it would wait. Not for one that {@linkcode mayBlock}.
   */
  tryRead(bytes: Uint8Array<ArrayBuffer>, most: number = bytes.length): number {
    if (this.kind === "socket") return libc.recv(this.io, bytes, 0, most);
    if (this.kind !== "pipe") return this.readOnce(bytes, most);
    const length = this.#unlessRefused(libc.readNow(this.io, bytes, most));
    return length === 0 ? this.#endOfPipe() : length;
  }

  /**
   * read(2), which may wait. While its master is going, a terminal gives EIO; once that has
   * gone, 0. Both are its end. Who reads in the background has EIO as well, but of a
   * terminal that lives.
   */
  protected readOnce(bytes: Uint8Array<ArrayBuffer>, most: number = bytes.length): number {
    const length = libc.read(this.io, bytes, most);
    if (length !== -EIO || !this.#isTerminalSlave) return length;
    const events = libc.poll(this.io, 0);
    return events > 0 && events & HUP ? 0 : length;
  }

  /**
   * Decides after splice(2) from it has returned 0, which proves nothing: at
   * the urgent mark of TCP it is 0 too, and so it is for files whose size is
   * said to be 0. Results as of {@linkcode tryRead}.
   */
  readPastZero(bytes: Uint8Array<ArrayBuffer>): number {
    return this.kind === "pipe" ? this.#endOfPipe() : this.tryRead(bytes);
  }

  // A FIFO that nobody has opened for writing yet reads as if it were at its end. Only where
  // writers have left does poll(2) report HUP, and HUP alone once all is read (pipe(7)).
  #endOfPipe(): number {
    const events = libc.poll(this.io, IN);
    return events === HUP ? 0 : Math.min(events, 0) || -EAGAIN;
  }

  /**
   * Receives one message from a socket that keeps messages apart, which may be
   * empty. Returns its length; `undefined` at the end of the connection, or a
   * negative errno, -EMSGSIZE where the message is longer than `bytes`.
   */
  tryReceive(bytes: Uint8Array<ArrayBuffer>): number | undefined {
    const length = libc.recv(this.io, bytes, MSG_TRUNC);
    if (length > bytes.length) return -EMSGSIZE;
    return length === 0 ? this.emptyMessage() : length;
  }

  /** To be called when a receive has returned 0: 0 if that was an empty message, `undefined` if it was the end, or a negative errno. */
  emptyMessage(): number | undefined {
    // Only a SEQPACKET connection has an end, which reads as 0 as well; it has
    // come when the peer has gone and nothing is queued any more.
    const events = libc.poll(this.io, RDHUP);
    if (events < 0) return events;
    if (!(events & (RDHUP | HUP))) return 0;
    const queued = libc.bytesQueued(this.io);
    if (queued > 0) return 0;
    if (queued < 0 && queued !== -ENOTTY) return queued; // what else is queued would be lost
    return libc.recv(this.io, oneByte, MSG_PEEK) === 0 ? undefined : 0;
  }

  /**
   * Writes the first `length` bytes without waiting: how many, or a negative errno,
   * -EAGAIN where it would wait. Not for one that {@linkcode mayBlock}.
   */
  tryWrite(bytes: Uint8Array<ArrayBuffer>, length: number = bytes.length): number {
    if (this.kind === "socket") return libc.send(this.io, bytes, length);
    if (this.kind !== "pipe") return libc.write(this.io, bytes, length);
    return this.#unlessRefused(libc.writeNow(this.io, bytes, length));
  }

  // Linux before 6.4 does not know RWF_NOWAIT for pipes, and a filter may refuse that call. Then
  // another thread makes a plain one from now on, where a true error shows as well.
  #unlessRefused(result: number): number {
    if (result >= 0 || result === -EAGAIN || result === -EPIPE) return result;
    this.mayBlock = true;
    return -EAGAIN;
  }

  /**
   * Takes the messages out of a socket's error queue, which are for a former owner of the socket
   * (MSG_ZEROCOPY, SO_TIMESTAMPING): poll(2) reports ERR because of them, and they occupy the
   * receive buffer, until nothing more comes in. A pending error (SO_ERROR) is to be read before,
   * as this may clear it.
   */
  emptyErrorQueue(): void {
    if (this.kind !== "socket" || !hasErrorQueue(this.fd)) return;
    for (let i = 0; i < MAX_QUEUED_ERRORS && libc.recv(this.fd, nothing, MSG_ERRQUEUE) >= 0; i++);
  }

  /** Reads on another thread, which may wait. Results as of {@linkcode tryRead}. */
  async readOnThread(bytes: Uint8Array<ArrayBuffer>): Promise<number> {
    const result = await libc.readOnThread(this.io, bytes);
    if (result >= 0) return result;
    if (this.#closed) return -EBADF; // the number may be another file's by now
    // errno stayed on the other thread. Tried again here the call gives it, and
    // where it has passed nothing is lost.
    const ready = libc.poll(this.io, IN);
    return ready > 0 ? this.readOnce(bytes) : ready || -EAGAIN;
  }

  /** Writes at most `most` bytes of it on another thread, which may wait. Results as of {@linkcode tryWrite}. */
  async writeOnThread(
    bytes: Uint8Array<ArrayBuffer>,
    most = MAX_THREAD_WRITE_BYTES,
  ): Promise<number> {
    const result = await libc.writeOnThread(this.io, bytes.subarray(0, most));
    if (result >= 0) return result;
    if (this.#closed) return -EBADF;
    const again = bytes.subarray(0, 1); // one byte does not wait where poll(2) says ready
    const ready = libc.poll(this.io, OUT);
    return ready > 0 ? libc.write(this.io, again) : ready || -EAGAIN;
  }

  /** Shuts one direction of a socket down for all who hold it (SHUT_RD or SHUT_WR); the error where that failed. */
  tryShutdown(how: 0 | 1): SystemError | undefined {
    const result = libc.shutdown(this.fd, how);
    // A peer that has gone already (ENOTCONN) needs no telling, and netlink(7) and
    // packet(7) know none that could be told (EOPNOTSUPP).
    if (result >= 0 || result === -ENOTCONN || result === -EOPNOTSUPP) return undefined;
    return new SystemError("shutdown", this.fd, result);
  }

  /** Whether the number has been given back, and may be another file's by now. */
  get isClosed(): boolean {
    return this.#closed;
  }

  /** Closes the number, once; the error where that failed, the number being closed all the same. */
  tryClose(): SystemError | undefined {
    if (this.#closed) return undefined;
    this.#closed = true;
    forget(this.fd);
    if (this.io !== this.fd) libc.close(this.io);
    const result = this.fd > 2 ? libc.close(this.fd) : this.#makeInert();
    return result < 0 ? new SystemError("close", this.fd, result) : undefined;
  }

  // The runtime holds duplicates of 0, 1 and 2, which would keep a pipe open
  // behind our back; and these numbers, were they free, would be given to the
  // next file that the runtime opens. So all of them become something inert.
  #makeInert(): number {
    let result = 0;
    if (this.kind === "file") {
      // Only a real close reports a write that failed late (close(2)).
      const duplicate = libc.fcntl(this.fd, F_DUPFD_CLOEXEC);
      if (duplicate >= 0) result = libc.close(duplicate);
    }
    const duplicates = this.#duplicates();
    if (inert === undefined || inert < 0) inert = libc.epollCreate();
    let replaced = inert < 0 ? inert : libc.dup3(inert, this.fd);
    if (replaced < 0) {
      // No number is left for it, or it cannot be copied: closed, this number is the lowest.
      result = Math.min(result, libc.close(this.fd));
      replaced = libc.epollCreate();
    }
    for (const fd of duplicates) result = Math.min(result, libc.dup3(replaced, fd));
    return Math.min(result, replaced, 0);
  }

  /** The runtime's duplicates of this one. */
  #duplicates(): number[] {
    const duplicates: number[] = [];
    let first = 3, found: number[];
    do {
      found = libc.openAmong(first, NUMBERS_PER_POLL);
      for (const fd of found) if (this.#isDuplicatedAs(fd)) duplicates.push(fd);
      first += NUMBERS_PER_POLL;
    } while (found.length > 0);
    return duplicates;
  }

  /** Whether `fd` is the runtime's duplicate of this one. */
  #isDuplicatedAs(fd: number): boolean {
    if (ownDuplicates.has(fd) || libc.fcntl(fd, F_GETFD) !== FD_CLOEXEC) return false;
    const status = libc.statx(fd);
    if (typeof status !== "number" && status.identity !== this.identity) return false;
    return libc.isDuplicate(this.fd, fd);
  }
}

/** Throws where the system refuses a call (a seccomp filter) whose result cannot be guessed without risking bytes. */
function mustSucceed<T>(syscall: string, fd: number, result: T): T {
  if (typeof result !== "number" || result >= 0 || result === -EBADF) return result;
  throw new SystemError(syscall, fd, result);
}

/** The lowest number that is free, by a duplicate of `fd`; a negative errno where there is none (fcntl(2)). */
export function freeNumber(fd: number): number {
  const number = libc.fcntl(fd, F_DUPFD_CLOEXEC);
  if (number >= 0) libc.close(number);
  return number;
}

function kindOf(fd: number, type: number): Kind {
  if (type === S_IFIFO) return "pipe";
  if (type === S_IFSOCK) return "socket";
  if (type === S_IFCHR) return libc.isatty(fd) ? "terminal" : "device";
  return type === 0 ? "device" : "file"; // an eventfd, a timerfd and the like have no type
}

/** The most messages that are taken out of an error queue at a time, as new ones may come all the time. */
const MAX_QUEUED_ERRORS = 256;

const nothing = new Uint8Array(0), oneByte = new Uint8Array(1);

/** Whether recv(2) with MSG_ERRQUEUE is sure to take no data: other sockets do not know that flag. */
function hasErrorQueue(socket: number): boolean {
  const IPPROTO_UDP = 17;
  const domain = libc.getsockopt(socket, SO_DOMAIN);
  const protocol = libc.getsockopt(socket, SO_PROTOCOL);
  return (domain === AF_INET || domain === AF_INET6) &&
    (protocol === IPPROTO_TCP || protocol === IPPROTO_UDP);
}

/** Duplicates of our own, close-on-exec as the runtime's are. */
const ownDuplicates = new Set<number>();

/** Another number of what `fd` is; or a negative errno (fcntl(2)). */
export function duplicate(fd: number): number {
  const number = libc.fcntl(fd, F_DUPFD_CLOEXEC);
  if (number >= 0) ownDuplicates.add(number);
  return number;
}

/** Gives such a number back. */
export function closeDuplicate(number: number): void {
  ownDuplicates.delete(number);
  libc.close(number);
}

/** The runtime numbers its own descriptors from 3 up, with gaps smaller than this. */
const NUMBERS_PER_POLL = 64;

/** The epoll instance that 0, 1 and 2 become duplicates of when they are closed; a negative errno where it was refused. */
let inert: number | undefined;
