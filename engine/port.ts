import type { Descriptor } from "../sys/descriptor.ts";
import * as libc from "../sys/libc.ts";
import type { Channel } from "./channel.ts";

/** One number, and the channels on it. */
export class Port {
  readonly descriptor: Descriptor;
  /** The socket behind it, shared with all other numbers of that socket. */
  readonly socket: Socket | undefined;
  readonly readers: Channel[] = [];
  readonly writers: Channel[] = [];
  /** Channels that are open on it, and of these the ones that write it. */
  open = 0;
  openWriters = 0;
  /** Channels that wait to read it, and to write it. */
  reading = 0;
  writing = 0;
  /** What epoll watches it for; -1 is nothing. */
  watched = -1;
  /** A regular file, say, which epoll refuses. */
  alwaysReady = false;

  constructor(descriptor: Descriptor, socket: Socket | undefined) {
    this.descriptor = descriptor;
    this.socket = socket;
  }
}

/** What all numbers of one socket share. */
export class Socket {
  /** Channels that still read it, and that still write it. */
  readers = 0;
  writers = 0;
  /** Whether any channel writes it, or did. */
  isWritten = false;
  /** An error that the kernel tells only once. */
  error = 0;
  #wasBlocking = false;

  /**
   * Makes it non-blocking, without which splice(2) waits. Asked before each
   * splice, as another process may have put its own flag back meanwhile.
   */
  makeNonBlocking(fd: number): void {
    const flags = libc.fcntl(fd, libc.F_GETFL);
    if (flags < 0 || flags & libc.O_NONBLOCK) return;
    this.#wasBlocking = true;
    libc.fcntl(fd, libc.F_SETFL, flags | libc.O_NONBLOCK);
  }

  /** Puts the flag back, which other processes share. */
  restore(fd: number): void {
    if (!this.#wasBlocking) return;
    this.#wasBlocking = false;
    const flags = libc.fcntl(fd, libc.F_GETFL);
    if (flags >= 0) libc.fcntl(fd, libc.F_SETFL, flags & ~libc.O_NONBLOCK);
  }
}
