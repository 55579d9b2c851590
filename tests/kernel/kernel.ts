/**
 * A kernel in memory: pipes, sockets, files, terminals, readiness and timers that behave
 * as in Linux, as far as iocopy can observe. It knows neither time nor order: nothing here
 * waits, and a call that would have to wait returns -EAGAIN. world.ts decides what runs
 * next.
 *
 * If Linux behaves in a surprising way, a comment names the function of the kernel that
 * does so. truth.ts compares this kernel with the real one.
 *
 * @module
 */
import {
  EAGAIN,
  EBADF,
  ECONNREFUSED,
  EINVAL,
  EIO,
  EMSGSIZE,
  ENOTCONN,
  EPERM,
  EPIPE,
  ERR,
  HUP,
  IN,
  O_ACCMODE,
  O_APPEND,
  O_NONBLOCK,
  O_WRONLY,
  OUT,
  RDHUP,
  S_IFCHR,
  S_IFIFO,
  S_IFREG,
  S_IFSOCK,
  SOCK_STREAM,
} from "../../sys/constants.ts";

export const ECONNRESET = 104, EBUSY = 16, ENOTSOCK = 88, ENOTTY = 25, EEXIST = 17;
export const SOCK_SEQPACKET = 5;
export const PAGE = 4096;

/** An open file description, which numbers refer to and processes share (open(2)). */
export class Description {
  readonly file: File;
  readonly access: number;
  flags: number;
  signal = 0;
  position = 0;
  /**
   * Whether a pipe supports RWF_NOWAIT: after the first splice(2) it does not, because of
   * pipe_clear_nowait().
   */
  isNowait = true;
  /** How many numbers, threads and peers hold it. */
  references = 0;

  constructor(file: File, access: number, flags = 0) {
    this.file = file;
    this.access = access;
    this.flags = flags;
    file.opened(this);
  }

  get isReadable(): boolean {
    return (this.access & O_ACCMODE) !== O_WRONLY;
  }
  get isWritable(): boolean {
    return (this.access & O_ACCMODE) !== 0;
  }
  get isNonBlocking(): boolean {
    return (this.flags & O_NONBLOCK) !== 0;
  }

  hold(): this {
    this.references++;
    return this;
  }
  release(): void {
    if (--this.references > 0) return;
    this.file.closed(this);
  }
  poll(): number {
    return this.file.poll(this);
  }
}

let inodes = 0;

/** The file of a description. All calls return at once; -EAGAIN means that it would block. */
export abstract class File {
  readonly name: string;
  readonly inode = ++inodes;
  abstract readonly mode: number;
  readonly major: number = 0;
  readonly minor: number = 0;
  /** Counts events that wake waiters: the edges of epoll(7). */
  edges = 0;
  /** The size as statx(2) reports it. */
  get size(): number {
    return 0;
  }
  /** Whether epoll refuses it. */
  readonly isAlwaysReady: boolean = false;

  constructor(name: string) {
    this.name = name;
  }
  opened(_by: Description): void {}
  closed(_by: Description): void {}
  abstract poll(by: Description): number;
  read(_by: Description, _into: Uint8Array): number {
    return -EINVAL;
  }
  write(_by: Description, _bytes: Uint8Array): number {
    return -EINVAL;
  }
  /** splice(2) from here into a pipe that has room. */
  spliceTo(_by: Description, _pipe: Pipe, _length: number): number {
    return -EINVAL;
  }
  /** splice(2) from a pipe that is not empty to here. */
  spliceFrom(_by: Description, _pipe: Pipe, _length: number): number {
    return -EINVAL;
  }
  shutdown(_how: number): number {
    return -ENOTSOCK;
  }
}

// ---- Pipes.

/** A page of a pipe, or a part of one. */
interface Slot {
  bytes: Uint8Array;
  /** Its offset in the page. */
  offset: number;
  /** Whether a later write may be appended to it (PIPE_BUF_FLAG_CAN_MERGE). */
  mayMerge: boolean;
}

export class Pipe extends File {
  override readonly mode = S_IFIFO | 0o600;
  slots: Slot[] = [];
  most = 16;
  readers = 0;
  writers = 0;
  everWritten = false;
  held = 0;

  override opened(by: Description): void {
    if (by.isReadable) this.readers++;
    if (by.isWritable) {
      this.writers++;
      this.everWritten = true;
    }
  }
  override closed(by: Description): void {
    if (by.isReadable) this.readers--;
    if (by.isWritable) this.writers--;
    this.edges++;
  }
  get isFull(): boolean {
    return this.slots.length >= this.most;
  }

  override poll(by: Description): number {
    let events = 0;
    if (by.isReadable) {
      if (this.slots.length > 0) events |= IN;
      if (this.writers === 0 && this.everWritten) events |= HUP;
    }
    if (by.isWritable) {
      if (!this.isFull) events |= OUT;
      if (this.readers === 0) events |= ERR;
    }
    return events;
  }

  override read(_by: Description, into: Uint8Array): number {
    if (into.length === 0) return 0;
    if (this.slots.length === 0) return this.writers === 0 ? 0 : -EAGAIN;
    let at = 0;
    while (at < into.length) {
      const slot = this.slots[0];
      if (!slot) break;
      const taken = this.take(slot, into.length - at);
      into.set(taken, at);
      at += taken.length;
    }
    this.edges++;
    return at;
  }

  /** Takes up to `length` bytes of the first slot, which is removed when it is empty. */
  take(slot: Slot, length: number): Uint8Array {
    const taken = slot.bytes.subarray(0, length);
    if (taken.length === slot.bytes.length) {
      if (this.isFull) this.forgetsWriter = false;
      this.slots.shift();
    } else {
      slot.bytes = slot.bytes.subarray(length);
      slot.offset += length;
    }
    this.held -= taken.length;
    return taken;
  }

  put(bytes: Uint8Array, offset = 0, mayMerge = false): void {
    this.slots.push({ bytes, offset, mayMerge });
    this.held += bytes.length;
    this.edges++;
  }

  override write(_by: Description, bytes: Uint8Array): number {
    if (bytes.length === 0) return 0;
    if (this.readers === 0) return -EPIPE;
    let at = 0;
    // pipe_write(): the bytes beyond whole pages are appended to the last write, if they fit.
    const tail = bytes.length % PAGE, last = this.slots.at(-1);
    if (tail > 0 && last?.mayMerge && last.offset + last.bytes.length + tail <= PAGE) {
      const merged = new Uint8Array(last.bytes.length + tail);
      merged.set(last.bytes);
      merged.set(bytes.subarray(0, tail), last.bytes.length);
      last.bytes = merged;
      this.held += at = tail;
      this.edges++;
    }
    while (at < bytes.length && !this.isFull) {
      const page = bytes.slice(at, at + PAGE);
      this.put(page, 0, true);
      at += page.length;
    }
    return at || -EAGAIN;
  }

  /** From pipe to pipe, in the order of splice_pipe_to_pipe(). */
  override spliceTo(_by: Description, to: Pipe, length: number): number {
    if (this === to) return -EINVAL;
    if (this.slots.length === 0 && this.writers > 0) return -EAGAIN;
    if (to.isFull) return to.readers === 0 ? -EPIPE : -EAGAIN;
    if (to.readers === 0) return -EPIPE;
    let moved = 0;
    while (moved < length && !to.isFull) {
      const slot = this.slots[0];
      if (!slot) break;
      const { offset } = slot;
      const whole = slot.bytes.length <= length - moved;
      const taken = this.take(slot, length - moved);
      to.put(taken, offset, whole && slot.mayMerge);
      moved += taken.length;
    }
    if (moved > 0) this.edges++;
    return moved;
  }

  /**
   * Whether a writer that found it full still sleeps although there is room. Linux wakes
   * it when a slot of a full pipe becomes free, and when the pipe is resized; until 2024 it
   * did so before there was more room (CVE-2023-52672).
   */
  forgetsWriter = false;

  /** F_SETPIPE_SZ: returns the new size; EBUSY if more slots are in use. */
  resize(size: number, isOldKernel = false): number {
    const most = Math.max(1, 2 ** Math.ceil(Math.log2(Math.max(1, size / PAGE))));
    if (most > 256 && most > this.most) return -EPERM;
    if (most < this.slots.length) return -EBUSY;
    this.forgetsWriter = isOldKernel && this.isFull;
    this.most = most;
    this.edges++;
    return most * PAGE;
  }
}

// ---- Sockets.

const RECEIVE = 1, SEND = 2, BOTH = 3;

/** What is on its way to the other side, in order. */
type Item = { bytes: Uint8Array } | "fin" | "reset" | { urgent: Uint8Array };

/** The position of an urgent byte in a stream: a read stops before it, the next one goes on after it (tcp(7)). */
const MARK = new Uint8Array(0);

type Family = "unix" | "tcp";

/** One side of a stream connection. */
export class StreamSocket extends File {
  override readonly mode = S_IFSOCK | 0o777;
  readonly family: Family;
  readonly type: number = SOCK_STREAM;
  peer: StreamSocket | undefined;
  /** The most bytes that it can have sent and its peer not received. */
  room: number;
  /** What was sent to it and has not arrived. */
  readonly coming: Item[] = [];
  /** What has arrived. */
  readonly queue: Uint8Array[] = [];
  /** The number of bytes in both. */
  held = 0;
  pending = 0;
  down = 0;
  /** A FIN was received: reads report no error then (SOCK_DONE). */
  isDone = false;
  isGone = false;
  isClosed = false;
  /** Closing it resets the connection (SO_LINGER, 0). */
  resets = false;
  /** Its peer has done so. */
  wasReset = false;
  /** It is being connected: nothing is ready. */
  isConnecting = false;
  /** The number of messages in its error queue, for which poll(2) reports ERR; -1: one that cannot be received. */
  notes = 0;
  /** Called when something is sent to a TCP socket; if undefined, everything arrives at once. */
  onComing: (() => void) | undefined;

  constructor(name: string, family: Family, room: number) {
    super(name);
    this.family = family;
    this.room = room;
  }

  static pair(name: string, family: Family, room: [number, number]): [StreamSocket, StreamSocket] {
    const near = new StreamSocket(name, family, room[0]);
    const far = new StreamSocket(`${name}'`, family, room[1]);
    near.peer = far;
    far.peer = near;
    return [near, far];
  }

  get isConnected(): boolean {
    return this.peer !== undefined && !this.isGone;
  }

  override poll(): number {
    if (this.isConnecting) return 0;
    let events = 0;
    const used = this.peer?.held ?? 0;
    if (this.pending || this.notes) events |= ERR;
    if (this.down === BOTH || this.isGone || !this.peer) events |= HUP;
    if (this.down & RECEIVE) events |= IN | RDHUP;
    if (this.queue.length > 0 && !(this.queue.length === 1 && this.queue[0] === MARK)) events |= IN;
    // unix_writable(), and __sk_stream_is_writeable().
    const hasRoom = this.family === "unix" ? used * 4 <= this.room : this.room - used >= used / 2;
    const isCut = this.family === "tcp" && (this.down & SEND) !== 0;
    if (isCut || hasRoom && (this.family === "unix" || used < this.room)) events |= OUT;
    return events;
  }

  #takeError(): number {
    const error = this.pending;
    this.pending = 0;
    return -error;
  }

  /** SO_ERROR, which is cleared by reading it. */
  takeError(): number {
    return -this.#takeError();
  }

  /** The result of a read if nothing has arrived, in the order of tcp_recvmsg() and unix_stream_read_generic(). */
  #nothing(): number {
    if (this.isDone && this.family === "tcp") return 0;
    if (this.pending) return this.#takeError();
    if (this.down & RECEIVE) return 0;
    if (!this.peer) return this.family === "tcp" ? -ENOTCONN : -EINVAL;
    return -EAGAIN;
  }

  override read(_by: Description, into: Uint8Array, keep = false): number {
    if (into.length === 0 && this.family === "tcp") return 0;
    if (this.queue[0] === MARK) this.queue.shift();
    if (this.queue.length === 0) return this.#nothing();
    if (keep) {
      const first = this.queue[0]?.subarray(0, into.length) ?? MARK;
      into.set(first);
      return first.length;
    }
    let at = 0;
    while (at < into.length) {
      const taken = this.#take(into.length - at);
      if (!taken) break;
      into.set(taken, at);
      at += taken.length;
    }
    this.#made();
    return at;
  }

  #take(length: number): Uint8Array | undefined {
    const [first] = this.queue;
    if (!first || first === MARK) return undefined;
    const taken = first.subarray(0, length);
    if (taken.length === first.length) this.queue.shift();
    else this.queue[0] = first.subarray(length);
    this.held -= taken.length;
    return taken;
  }

  /** The peer has more room now. */
  #made(): void {
    if (this.peer) this.peer.edges++;
  }

  override spliceTo(by: Description, pipe: Pipe, length: number): number {
    if (this.queue.length === 0 || this.queue[0] === MARK) {
      const result = this.#nothing();
      // tcp_splice_read(): unless it is non-blocking, it returns 0 at the urgent mark if there are bytes behind it.
      const isAtMark = this.queue.length > 1 && !by.isNonBlocking;
      return result === -EAGAIN && isAtMark ? 0 : result;
    }
    let moved = 0;
    while (moved < length && !pipe.isFull) {
      const taken = this.#take(Math.min(PAGE, length - moved));
      if (!taken) break;
      pipe.put(taken);
      moved += taken.length;
    }
    this.#made();
    return moved;
  }

  /** Whether it can be written: 0, or a negative errno. */
  #cannotSend(): number {
    const { peer } = this;
    if (!peer) return this.family === "unix" ? -ENOTCONN : -EPIPE;
    if (this.family === "tcp") {
      if (this.pending || this.down & SEND) return this.pending ? this.#takeError() : -EPIPE;
      if (this.isGone) return -EPIPE;
    } else {
      if (this.down & SEND || peer.isClosed || peer.down & RECEIVE) return -EPIPE;
      if (this.pending) return this.#takeError();
    }
    return 0;
  }

  override write(_by: Description, bytes: Uint8Array): number {
    const cannot = this.#cannotSend();
    if (cannot < 0) return cannot;
    if (bytes.length === 0) return 0;
    const free = this.room - (this.peer?.held ?? 0);
    if (free <= 0) return -EAGAIN;
    const taken = bytes.slice(0, free);
    this.#send({ bytes: taken });
    return taken.length;
  }

  override spliceFrom(_by: Description, pipe: Pipe, length: number): number {
    const cannot = this.#cannotSend();
    if (cannot < 0) return cannot;
    // splice_to_socket() sends all slots in one call.
    const most = Math.min(length, pipe.held, this.room - (this.peer?.held ?? 0));
    if (most <= 0) return -EAGAIN;
    const bytes = new Uint8Array(most);
    for (let at = 0; at < most;) {
      const [slot] = pipe.slots;
      if (!slot) break;
      const taken = pipe.take(slot, most - at);
      bytes.set(taken, at);
      at += taken.length;
    }
    pipe.edges++;
    this.#send({ bytes });
    return most;
  }

  /** recv(2) with MSG_ERRQUEUE. */
  takeNote(): number {
    if (this.notes <= 0) return -EAGAIN;
    this.notes--;
    return 0;
  }

  sendUrgent(byte: Uint8Array): number {
    const cannot = this.#cannotSend();
    if (cannot < 0) return cannot;
    this.#send({ urgent: byte });
    return 1;
  }

  #send(item: Item): void {
    const { peer } = this;
    if (!peer) return;
    if (typeof item === "object" && "bytes" in item) peer.held += item.bytes.length;
    peer.coming.push(item);
    if (peer.onComing && this.family === "tcp") peer.onComing();
    else while (peer.coming.length > 0) peer.arrive();
  }

  /** The next piece that was sent to it arrives. */
  arrive(): void {
    const item = this.coming.shift();
    if (item === undefined) return;
    if (item === "reset") return this.#wasReset();
    if (this.isGone) return;
    if (item === "fin") {
      this.down |= RECEIVE;
      this.isDone = this.family === "tcp";
      this.edges++;
      // Both have received a FIN: the TCP connection has ended.
      if (this.isDone && this.peer?.isDone) this.isGone = this.peer.isGone = true;
      return;
    }
    const length = "bytes" in item ? item.bytes.length : 0;
    if (this.isClosed || this.family === "unix" && this.down & RECEIVE) {
      // No one will read it, and TCP resets the connection.
      this.held -= length;
      if (this.family === "tcp") this.#reset();
      return;
    }
    if (this.family === "tcp" && this.down === BOTH && !this.isDone) {
      // tcp_rcv_state_process(): neither direction is in use any more.
      this.held -= length;
      this.#reset();
      this.pending = ECONNRESET;
      this.edges++;
      return;
    }
    if ("urgent" in item) {
      // A second mark replaces the first, whose byte is then an ordinary one.
      this.queue.push(MARK);
    } else this.queue.push(item.bytes);
    this.edges++;
  }

  /** Resets the connection: the peer gets an error, and nothing of what is still on its way. */
  #reset(): void {
    this.isGone = true;
    const { peer } = this;
    if (!peer || peer.isGone) return;
    for (const item of peer.coming.splice(0)) {
      if (typeof item === "object" && "bytes" in item) peer.held -= item.bytes.length;
    }
    this.#send("reset");
  }

  #wasReset(): void {
    if (this.isGone) return;
    this.wasReset = true;
    // tcp_reset(): EPIPE if the peer had ended its side before.
    this.pending = this.isDone ? EPIPE : ECONNRESET;
    this.isGone = true;
    this.down = BOTH;
    this.edges++;
    const { peer } = this;
    if (peer) {
      for (const item of peer.coming.splice(0)) {
        if (typeof item === "object" && "bytes" in item) peer.held -= item.bytes.length;
      }
    }
  }

  override shutdown(how: number): number {
    const { peer } = this;
    if (!peer) return -ENOTCONN;
    if (this.family === "tcp" && this.isGone) return -ENOTCONN;
    const bits = how === 0 ? RECEIVE : how === 1 ? SEND : BOTH;
    const isNew = (bits & ~this.down) !== 0;
    this.down |= bits;
    this.edges++;
    if (bits & SEND && isNew) this.#send("fin");
    if (bits & RECEIVE && this.family === "unix" && !peer.isClosed) {
      peer.down |= SEND;
      peer.edges++;
    }
    return 0;
  }

  /** How many bytes were sent to it and have not arrived. */
  get bytesComing(): number {
    return this.coming.reduce(
      (sum, item) => sum + (typeof item === "object" && "bytes" in item ? item.bytes.length : 0),
      0,
    );
  }

  /** How many bytes its TCP peer has not acknowledged, which are those that have not arrived. */
  get unacknowledged(): number {
    return this.peer?.bytesComing ?? 0;
  }

  override closed(): void {
    this.isClosed = true;
    const { peer } = this;
    if (!peer || this.isGone) return;
    const unread = this.queue.length > 0; // an urgent byte counts
    this.queue.length = 0;
    if (this.family === "unix") {
      // unix_release_sock()
      this.held = 0;
      this.down = BOTH;
      if (unread) peer.pending = ECONNRESET;
      peer.down = BOTH;
      peer.edges++;
      return;
    }
    this.held = this.bytesComing;
    if (unread || this.resets) return this.#reset();
    if (!(this.down & SEND)) this.#send("fin");
    this.down |= SEND;
  }
}

/** A unix datagram or SEQPACKET socket. */
export class MessageSocket extends File {
  override readonly mode = S_IFSOCK | 0o777;
  readonly family: Family = "unix";
  readonly type: number;
  peer: MessageSocket | undefined;
  readonly queue: Uint8Array[] = [];
  /** The most messages in its queue. */
  most: number;
  /** The longest message that it sends, in bytes: a part of SO_SNDBUF. */
  longest = 200_000;
  down = 0;
  pending = 0;
  isClosed = false;

  constructor(name: string, type: number, most: number) {
    super(name);
    this.type = type;
    this.most = most;
  }
  static pair(name: string, type: number, most: number): [MessageSocket, MessageSocket] {
    const near = new MessageSocket(name, type, most);
    const far = new MessageSocket(`${name}'`, type, most);
    near.peer = far;
    far.peer = near;
    return [near, far];
  }
  get isConnected(): boolean {
    return this.peer !== undefined;
  }
  get #isConnection(): boolean {
    return this.type === SOCK_SEQPACKET;
  }
  override poll(): number {
    let events = 0;
    if (this.pending) events |= ERR;
    if (this.down === BOTH) events |= HUP;
    if (this.down & RECEIVE) events |= IN | RDHUP;
    if (this.queue.length > 0) events |= IN;
    const { peer } = this;
    if (!peer || peer.queue.length < peer.most) events |= OUT;
    return events;
  }
  takeError(): number {
    const error = this.pending;
    this.pending = 0;
    return error;
  }
  /** Returns the length of the message, which can be more than the buffer. */
  receive(into: Uint8Array, keep: boolean): number {
    if (this.pending) return -this.takeError(); // __skb_recv_datagram(): before everything else
    const [message] = this.queue;
    if (!message) {
      return this.#isConnection && this.down & RECEIVE ? 0 : -EAGAIN;
    }
    into.set(message.subarray(0, into.length));
    if (!keep) {
      this.queue.shift();
      if (this.peer) this.peer.edges++;
    }
    return message.length;
  }
  override read(_by: Description, into: Uint8Array): number {
    return Math.min(into.length, this.receive(into, false));
  }
  override write(_by: Description, bytes: Uint8Array): number {
    const { peer } = this;
    if (!peer) return this.down & SEND ? -EPIPE : -ENOTCONN;
    if (this.pending) return -this.takeError();
    if (this.down & SEND || this.#isConnection && (peer.isClosed || peer.down & RECEIVE)) {
      return -EPIPE;
    }
    if (peer.isClosed) {
      this.peer = undefined;
      this.queue.length = 0; // unix_dgram_disconnected()
      return -ECONNREFUSED;
    }
    if (peer.down & RECEIVE) return -EPIPE;
    if (bytes.length > this.longest) return -EMSGSIZE;
    if (peer.queue.length >= peer.most) return -EAGAIN;
    peer.queue.push(bytes.slice());
    peer.edges++;
    return bytes.length;
  }
  override shutdown(how: number): number {
    const { peer } = this;
    const bits = how === 0 ? RECEIVE : how === 1 ? SEND : BOTH;
    this.down |= bits;
    this.edges++;
    if (this.#isConnection && peer) {
      peer.down |= (bits & SEND ? RECEIVE : 0) | (bits & RECEIVE ? SEND : 0);
      peer.edges++;
    }
    return 0;
  }
  override closed(): void {
    this.isClosed = true;
    const { peer } = this;
    const unread = this.queue.splice(0).length > 0;
    if (!peer || peer.isClosed) return;
    if (this.#isConnection) {
      if (unread) peer.pending = ECONNRESET;
      peer.down = BOTH;
    }
    peer.edges++;
  }
}

/** A listening socket, with the connections that wait to be accepted. */
export class Listening extends File {
  override readonly mode = S_IFSOCK | 0o777;
  readonly family: Family;
  readonly type = SOCK_STREAM;
  readonly waiting: StreamSocket[] = [];
  isClosed = false;
  most = 128;
  constructor(name: string, family: Family) {
    super(name);
    this.family = family;
  }
  override poll(): number {
    return this.waiting.length > 0 ? IN : 0;
  }
  override closed(): void {
    this.isClosed = true;
    for (const socket of this.waiting.splice(0)) {
      socket.resets = true;
      socket.closed();
    }
  }
}

// ---- Files, devices, terminals.

export class RegularFile extends File {
  override readonly mode = S_IFREG | 0o600;
  override readonly isAlwaysReady: boolean = true;
  readonly #hidesSize: boolean;
  content = new Uint8Array(0);

  /** `hidesSize`: like a file in /proc, whose size is reported as 0, and which is empty for splice(2). */
  constructor(name: string, hidesSize = false) {
    super(name);
    this.#hidesSize = hidesSize;
  }
  override get size(): number {
    return this.#hidesSize ? 0 : this.content.length;
  }
  override poll(): number {
    return IN | OUT;
  }
  append(bytes: Uint8Array): void {
    const all = new Uint8Array(this.content.length + bytes.length);
    all.set(this.content);
    all.set(bytes, this.content.length);
    this.content = all;
  }
  override read(by: Description, into: Uint8Array): number {
    const bytes = this.content.subarray(by.position, by.position + into.length);
    into.set(bytes);
    by.position += bytes.length;
    return bytes.length;
  }
  override write(by: Description, bytes: Uint8Array): number {
    const at = by.flags & O_APPEND ? this.content.length : by.position;
    const end = at + bytes.length;
    if (end > this.content.length) this.append(new Uint8Array(end - this.content.length));
    this.content.set(bytes, at);
    by.position = end;
    return bytes.length;
  }
  override spliceTo(by: Description, pipe: Pipe, length: number): number {
    if (this.#hidesSize) return 0;
    let moved = 0;
    while (moved < length && !pipe.isFull) {
      const { position } = by;
      const room = Math.min(length - moved, PAGE - position % PAGE);
      const bytes = this.content.slice(position, position + room);
      if (bytes.length === 0) break;
      pipe.put(bytes, position % PAGE);
      by.position += bytes.length;
      moved += bytes.length;
    }
    return moved;
  }
  override spliceFrom(by: Description, pipe: Pipe, length: number): number {
    if (by.flags & O_APPEND) return -EINVAL;
    let moved = 0;
    while (moved < length) {
      const [slot] = pipe.slots;
      if (!slot) break;
      const taken = pipe.take(slot, length - moved);
      this.write(by, taken);
      moved += taken.length;
    }
    pipe.edges++;
    return moved;
  }
}

/** A terminal; or, as a "device", anything else whose calls can block. */
export class Device extends File {
  override readonly mode: number = S_IFCHR | 0o600;
  override readonly major: number;
  override readonly minor = 7;
  readonly isTerminal: boolean;
  /** Typed lines; an empty one is the end of file (^D), which is read once. */
  readonly typed: Uint8Array[] = [];
  readonly shown: Uint8Array[] = [];
  waiting = 0;
  room: number;
  isGone = false;

  constructor(name: string, isTerminal: boolean, room: number) {
    super(name);
    this.isTerminal = isTerminal;
    this.major = isTerminal ? 136 : 10;
    this.room = room;
  }
  override poll(): number {
    if (this.isGone) return IN | OUT | ERR | HUP;
    return (this.typed.length > 0 ? IN : 0) | (this.waiting < this.room ? OUT : 0);
  }
  override read(_by: Description, into: Uint8Array): number {
    const [line] = this.typed;
    if (!line) return this.isGone ? -EIO : -EAGAIN;
    const taken = line.subarray(0, into.length);
    into.set(taken);
    if (taken.length === line.length) this.typed.shift();
    else this.typed[0] = line.subarray(taken.length);
    return taken.length;
  }
  override write(_by: Description, bytes: Uint8Array): number {
    if (this.isGone) return -EIO;
    const taken = bytes.slice(0, Math.max(0, this.room - this.waiting));
    if (taken.length === 0) return bytes.length === 0 ? 0 : -EAGAIN;
    this.shown.push(taken);
    this.waiting += taken.length;
    return taken.length;
  }
  /** Input is typed. */
  type(line: Uint8Array): void {
    this.typed.push(line);
    this.edges++;
  }
  /** Up to so many bytes of output are shown. */
  look(most: number): Uint8Array {
    const [first] = this.shown;
    if (!first) return MARK;
    const taken = first.subarray(0, most);
    if (taken.length === first.length) this.shown.shift();
    else this.shown[0] = first.subarray(most);
    this.waiting -= taken.length;
    this.edges++;
    return taken;
  }
  hangUp(): void {
    this.isGone = true;
    this.edges++;
  }
}

// ---- Readiness and time.

export class Timer extends File {
  override readonly mode = 0o600;
  /** When it expires; undefined if it is off. */
  due: number | undefined;
  hasRung = false;
  override poll(): number {
    return this.hasRung ? IN : 0;
  }
  override closed(): void {
    this.due = undefined;
  }
  set(at: number): void {
    this.due = at;
    this.hasRung = false;
  }
  /** Expires if it is time. */
  look(now: number): void {
    if (this.due === undefined || now < this.due) return;
    this.due = undefined;
    this.hasRung = true;
    this.edges++;
  }
}

const EDGE_TRIGGERED = 1 << 31;

interface Watch {
  fd: number;
  description: Description;
  events: number;
  data: number;
  /** The file's edges when it was last reported. */
  told: number;
}

export class EpollFile extends File {
  override readonly mode = 0o600;
  readonly watches: Watch[] = [];
  override poll(): number {
    return this.isAnyReady ? IN : 0;
  }
  find(fd: number, description: Description): Watch | undefined {
    return this.watches.find((watch) => watch.fd === fd && watch.description === description);
  }
  control(op: number, fd: number, description: Description, events: number, data: number): number {
    const known = this.find(fd, description);
    if (op === 1) {
      if (description.file.isAlwaysReady) return -EPERM;
      if (known) return -EEXIST;
      this.watches.push({ fd, description, events, data, told: -1 });
      return 0;
    }
    if (!known) return -2; // ENOENT
    if (op === 2) this.watches.splice(this.watches.indexOf(known), 1);
    else Object.assign(known, { events, data, told: -1 });
    return 0;
  }
  #readyFor(watch: Watch): number {
    // A description that is closed everywhere is no longer watched.
    if (watch.description.references <= 0) return 0;
    const events = watch.description.poll() & (watch.events | ERR | HUP);
    if (watch.events & EDGE_TRIGGERED && watch.told === watch.description.file.edges) return 0;
    return events;
  }
  get isAnyReady(): boolean {
    for (const watch of this.watches) if (this.#readyFor(watch) !== 0) return true;
    return false;
  }
  /** Reports what is ready, from the `first`th watch on. */
  collect(into: Int32Array, most: number, words: number, first: number): number {
    let count = 0;
    const { watches } = this;
    for (let i = 0; i < watches.length && count < most; i++) {
      const watch = watches[(i + first) % watches.length];
      const events = watch ? this.#readyFor(watch) : 0;
      if (!watch || events === 0) continue;
      watch.told = watch.description.file.edges;
      into[count * words] = events;
      into[count * words + (words === 3 ? 1 : 2)] = watch.data;
      count++;
    }
    return count;
  }
  forget(description: Description): void {
    for (let i = this.watches.length - 1; i >= 0; i--) {
      if (this.watches[i]?.description === description) this.watches.splice(i, 1);
    }
  }
}

/** splice(2) with SPLICE_F_NONBLOCK: do_splice(). If the other side would block, it returns -EAGAIN too. */
export function splice(from: Description, to: Description, length: number): number {
  if (length === 0) return 0;
  if (!from.isReadable || !to.isWritable) return -EBADF;
  const source = from.file, sink = to.file;
  if (source instanceof Pipe && sink instanceof Pipe) return source.spliceTo(from, sink, length);
  if (sink instanceof Pipe) {
    if (sink.readers === 0) return -EPIPE;
    if (sink.isFull) return -EAGAIN;
    const room = (sink.most - sink.slots.length) * PAGE;
    return source.spliceTo(from, sink, Math.min(length, room));
  }
  if (source instanceof Pipe) {
    if (to.flags & O_APPEND) return -EINVAL;
    if (sink instanceof Device || sink instanceof EpollFile || sink instanceof Timer) {
      return -EINVAL;
    }
    if (source.slots.length === 0) return source.writers === 0 ? 0 : -EAGAIN;
    return sink.spliceFrom(to, source, length);
  }
  return -EINVAL;
}
