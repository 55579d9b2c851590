/**
 * Pipes, sockets, terminals and files, of which iocopy is given one end in a test and
 * the test has the other, made by system calls.
 *
 * Calls that can block are made on another thread, so that a test can wait for what it
 * expects and need not sleep. All descriptors are close-on-exec: a process under test
 * has nothing but what it was given.
 *
 * @module
 */

const libc = Deno.dlopen("libc.so.6", {
  accept4: { parameters: ["i32", "pointer", "pointer", "i32"], result: "i32" },
  bind: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
  connect: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  epoll_create1: { parameters: ["i32"], result: "i32" },
  eventfd: { parameters: ["u32", "i32"], result: "i32" },
  fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
  getsockname: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  grantpt: { parameters: ["i32"], result: "i32" },
  ioctl: { parameters: ["i32", "u64", "buffer"], result: "i32" },
  listen: { parameters: ["i32", "i32"], result: "i32" },
  mkfifo: { parameters: ["buffer", "u32"], result: "i32" },
  open: { parameters: ["buffer", "i32", "i32"], result: "i32" },
  pipe2: { parameters: ["buffer", "i32"], result: "i32" },
  posix_openpt: { parameters: ["i32"], result: "i32" },
  ptsname_r: { parameters: ["i32", "buffer", "usize"], result: "i32" },
  read: { parameters: ["i32", "buffer", "usize"], result: "i32", nonblocking: true },
  send: { parameters: ["i32", "buffer", "usize", "i32"], result: "i32" },
  setsockopt: { parameters: ["i32", "i32", "i32", "buffer", "u32"], result: "i32" },
  shutdown: { parameters: ["i32", "i32"], result: "i32" },
  socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  socketpair: { parameters: ["i32", "i32", "i32", "buffer"], result: "i32" },
  unlockpt: { parameters: ["i32"], result: "i32" },
  write: { parameters: ["i32", "buffer", "usize"], result: "i32", nonblocking: true },
}).symbols;

const O_CLOEXEC = 0o2000000, O_NOCTTY = 0o400;
const AF_UNIX = 1, AF_INET = 2, SOCK_STREAM = 1, SOCK_CLOEXEC = 0o2000000;
const F_GETFL = 3, F_SETFL = 4, F_DUPFD_CLOEXEC = 1030;

/** Types of sockets that keep messages apart (socket(2)). */
export const SOCK_DGRAM = 2, SOCK_SEQPACKET = 5;

/** What of a socket to shut down (shutdown(2)). */
export const SHUT_RD = 0, SHUT_RDWR = 2;

/** open(2)'s flags. */
export const O_RDONLY = 0, O_WRONLY = 1, O_RDWR = 2, O_CREAT = 0o100, O_APPEND = 0o2000;
export const O_NONBLOCK = 0o4000;
export const O_DIRECT = Deno.build.arch === "x86_64" ? 0o40000 : 0o200000;

function well(call: string, result: number): number {
  if (result < 0) throw new Error(`${call} failed`);
  return result;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** A descriptor in the test's hands. */
export class End implements Disposable {
  /** The number, in the test's process. */
  readonly fd: number;
  #closed = false;

  /** Takes charge of `fd`. */
  constructor(fd: number) {
    this.fd = fd;
  }

  /** Reads once; returns no bytes at the end of file. Throws if the read fails. */
  async read(most = 65536): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = new Uint8Array(most);
    return bytes.subarray(0, well("read", await libc.read(this.fd, bytes, BigInt(most))));
  }

  /** Reads until there are `length` bytes, or fewer at the end of file. */
  async readExactly(length: number): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = new Uint8Array(length);
    let at = 0;
    while (at < length) {
      const piece = await this.read(length - at);
      if (piece.length === 0) break;
      bytes.set(piece, at);
      at += piece.length;
    }
    return bytes.subarray(0, at);
  }

  /** Reads everything until the end of file. */
  async readAll(): Promise<Uint8Array<ArrayBuffer>> {
    const pieces: Uint8Array<ArrayBuffer>[] = [];
    for (;;) {
      const piece = await this.read();
      if (piece.length === 0) return new Uint8Array(await new Blob(pieces).arrayBuffer());
      pieces.push(piece);
    }
  }

  /** Reads `length` characters. */
  async readText(length: number): Promise<string> {
    return decoder.decode(await this.readExactly(length));
  }

  /** Writes all of it. Throws if a write fails. */
  async write(data: string | Uint8Array<ArrayBuffer>): Promise<void> {
    let rest = typeof data === "string" ? encoder.encode(data) : data;
    while (rest.length > 0) {
      const length = well("write", await libc.write(this.fd, rest, BigInt(rest.length)));
      rest = rest.subarray(length);
    }
  }

  /** Sends one message, which can be empty. */
  send(message: string, flags = 0): void {
    const bytes = encoder.encode(message);
    well("send", libc.send(this.fd, bytes, BigInt(bytes.length), flags));
  }

  /** Sends one byte of urgent data (tcp(7)). */
  sendUrgent(byte: string): void {
    const MSG_OOB = 1;
    this.send(byte, MSG_OOB);
  }

  /** A duplicate of it. */
  duplicate(): End {
    return new End(well("dup", libc.fcntl(this.fd, F_DUPFD_CLOEXEC, 3)));
  }

  /** The flags of the open file description: F_GETFL. */
  get flags(): number {
    return well("fcntl", libc.fcntl(this.fd, F_GETFL, 0));
  }

  /** How much a pipe holds, in bytes. */
  get pipeSize(): number {
    const F_GETPIPE_SZ = 1032;
    return well("fcntl", libc.fcntl(this.fd, F_GETPIPE_SZ, 0));
  }

  set pipeSize(size: number) {
    const F_SETPIPE_SZ = 1031;
    well("fcntl", libc.fcntl(this.fd, F_SETPIPE_SZ, size));
  }

  /** How many bytes of a TCP socket its peer's kernel has not acknowledged: SIOCOUTQ (tcp(7)). */
  get onTheirWay(): number {
    const SIOCOUTQ = 0x5411n;
    const count = new Int32Array(1);
    well("ioctl", libc.ioctl(this.fd, SIOCOUTQ, count));
    return count[0] ?? 0;
  }

  /** How wide a terminal is (ioctl_tty(2)). */
  set columns(columns: number) {
    const TIOCSWINSZ = 0x5414n, ROWS = 24;
    well("ioctl", libc.ioctl(this.fd, TIOCSWINSZ, new Uint16Array([ROWS, columns, 0, 0])));
  }

  /** Sets or clears O_NONBLOCK. */
  set nonBlocking(on: boolean) {
    libc.fcntl(this.fd, F_SETFL, on ? this.flags | O_NONBLOCK : this.flags & ~O_NONBLOCK);
  }

  /** Shuts the write side of a socket down: its peer sees the end of file. */
  shutdownWrite(): void {
    well("shutdown", libc.shutdown(this.fd, 1));
  }

  /** Both directions; a listening socket listens no more, whoever else has it. */
  shutdown(how = SHUT_RDWR): void {
    well("shutdown", libc.shutdown(this.fd, how));
  }

  /** Makes close(2) reset a TCP connection. */
  resetOnClose(): void {
    this.linger = 0;
  }

  /** For how many seconds close(2) waits until all is sent; with 0 it drops what is not (socket(7)). */
  set linger(seconds: number) {
    const SOL_SOCKET = 1, SO_LINGER = 13, value = new Int32Array([1, seconds]);
    well("linger", libc.setsockopt(this.fd, SOL_SOCKET, SO_LINGER, value, 8));
  }

  /** How much a socket can have sent and its peer not received: SO_SNDBUF (socket(7)). */
  set sendBuffer(bytes: number) {
    const SOL_SOCKET = 1, SO_SNDBUF = 7;
    well("sndbuf", libc.setsockopt(this.fd, SOL_SOCKET, SO_SNDBUF, new Int32Array([bytes]), 4));
  }

  /** How much a socket can have received and not read: SO_RCVBUF (socket(7)). */
  set receiveBuffer(bytes: number) {
    const SOL_SOCKET = 1, SO_RCVBUF = 8;
    well("rcvbuf", libc.setsockopt(this.fd, SOL_SOCKET, SO_RCVBUF, new Int32Array([bytes]), 4));
  }

  /** Has the kernel decipher and encipher what a TCP socket carries (TLS), with keys that two numbers stand for. */
  encipher(from: number, to: number): void {
    const IPPROTO_TCP = 6, TCP_ULP = 31, SOL_TLS = 282, TLS_TX = 1, TLS_RX = 2;
    well("TCP_ULP", libc.setsockopt(this.fd, IPPROTO_TCP, TCP_ULP, encoder.encode("tls"), 3));
    for (const [option, key] of [[TLS_TX, to], [TLS_RX, from]] as const) {
      // struct tls12_crypto_info_aes_gcm_128: the version 1.2, the cipher, and all that it needs.
      const value = new Uint8Array(40).fill(key, 4);
      value.set([3, 3, 51, 0]);
      well("SOL_TLS", libc.setsockopt(this.fd, SOL_TLS, option, value, value.length));
    }
  }

  /** How many bytes there have to be until it is readable: SO_RCVLOWAT (socket(7)). */
  set lowWater(bytes: number) {
    const SOL_SOCKET = 1, SO_RCVLOWAT = 18;
    well("rcvlowat", libc.setsockopt(this.fd, SOL_SOCKET, SO_RCVLOWAT, new Int32Array([bytes]), 4));
  }

  /** Closes it. */
  close(): void {
    if (!this.#closed) libc.close(this.fd);
    this.#closed = true;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function ends(call: string, make: (numbers: Int32Array<ArrayBuffer>) => number): [End, End] {
  const numbers = new Int32Array(2);
  well(call, make(numbers));
  return [new End(numbers[0] ?? -1), new End(numbers[1] ?? -1)];
}

/** A pipe: [reading end, writing end]. */
export function pipe(flags = 0): [End, End] {
  return ends("pipe2", (numbers) => libc.pipe2(numbers, O_CLOEXEC | flags));
}

/** A pipe that keeps what is written at a time apart, as a packet (pipe(7)). */
export function packetPipe(): [End, End] {
  return pipe(O_DIRECT);
}

/** A pipe, the writing end first. */
export function reversedPipe(): [End, End] {
  const [reading, writing] = pipe();
  return [writing, reading];
}

/** Two connected unix sockets. */
export function unixPair(type = SOCK_STREAM): [End, End] {
  return ends("socketpair", (n) => libc.socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, n));
}

/** A TCP socket that listens on a free port of the loopback device. */
export function listening(): End {
  return listenAt(loopback());
}

/** The same for many clients at a time; and its port. */
export function serving(waiting = 4096): { listener: End; port: number } {
  const address = loopback();
  const listener = listenAt(address, waiting);
  return { listener, port: new DataView(address.buffer).getUint16(2) };
}

/** A unix socket that listens at a name that the system chooses. */
export function listeningUnix(type = SOCK_STREAM): End {
  const listener = new End(well("socket", libc.socket(AF_UNIX, type | SOCK_CLOEXEC, 0)));
  const family = new Uint8Array(2);
  new DataView(family.buffer).setUint16(0, AF_UNIX, true);
  well("bind", libc.bind(listener.fd, family, 2)); // autobind: unix(7)
  well("listen", libc.listen(listener.fd, 1));
  return listener;
}

/** The next connection that comes to a listening socket, for which it waits on this thread. */
export function accepted(listener: End): End {
  return new End(well("accept", libc.accept4(listener.fd, null, null, SOCK_CLOEXEC)));
}

/** A socket that listens, and never answers: its queue is full; and its port. */
export async function deaf(): Promise<Disposable & { port: number }> {
  const { listener, port } = serving(0);
  // In a queue for none there is room for one (listen(2)): what comes then is dropped.
  const first = await Deno.connect({ hostname: "127.0.0.1", port });
  return {
    port,
    [Symbol.dispose]: () => {
      first.close();
      listener.close();
    },
  };
}

/** As {@linkcode listening}; the address goes into `address`. */
function listenAt(address: Uint8Array<ArrayBuffer>, waiting = 1): End {
  const listener = new End(well("socket", libc.socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)));
  well("bind", libc.bind(listener.fd, address, 16));
  well("listen", libc.listen(listener.fd, waiting));
  well("getsockname", libc.getsockname(listener.fd, address, new Uint32Array([16])));
  return listener;
}

/** Two TCP sockets, connected over the loopback device. */
export function tcpPair(): [End, End] {
  const address = loopback();
  using listener = listenAt(address);
  return [connectTo(address), accepted(listener)];
}

/** A connection to a port of the loopback device, which has to be accepted, or queued, at once. */
export function connected(port: number): End {
  return connectTo(loopback(port));
}

/** A port of the loopback device, as an address (ip(7)); 0 is any. */
function loopback(port = 0): Uint8Array<ArrayBuffer> {
  const address = new Uint8Array(16), view = new DataView(address.buffer);
  view.setUint16(0, AF_INET, true);
  view.setUint16(2, port);
  address.set([127, 0, 0, 1], 4);
  return address;
}

function connectTo(address: Uint8Array<ArrayBuffer>): End {
  const client = new End(well("socket", libc.socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)));
  well("connect", libc.connect(client.fd, address, 16));
  return client;
}

/** An instance of epoll(7), which is open for reading and writing, and can do neither. */
export function epoll(): End {
  const EPOLL_CLOEXEC = O_CLOEXEC;
  return new End(well("epoll_create1", libc.epoll_create1(EPOLL_CLOEXEC)));
}

/** A counter that stands at 1 (eventfd(2)). */
export function eventfd(): End {
  const EFD_CLOEXEC = O_CLOEXEC;
  return new End(well("eventfd", libc.eventfd(1, EFD_CLOEXEC)));
}

/** A TCP socket that was never connected. */
export function unconnected(): End {
  return new End(well("socket", libc.socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)));
}

/** A socket to the kernel, which has no half-close (netlink(7)). */
export function netlink(): End {
  const AF_NETLINK = 16, SOCK_RAW = 3, NETLINK_ROUTE = 0;
  const type = SOCK_RAW | SOCK_CLOEXEC;
  return new End(well("socket", libc.socket(AF_NETLINK, type, NETLINK_ROUTE)));
}

/** A pseudo-terminal, [master, slave], with the default settings: line by line, with echo. */
export function terminal(): [End, End] {
  const master = new End(well("posix_openpt", libc.posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC)));
  well("grantpt", libc.grantpt(master.fd));
  well("unlockpt", libc.unlockpt(master.fd));
  const name = new Uint8Array(128);
  well("ptsname_r", -libc.ptsname_r(master.fd, name, 128n));
  return [master, open(decoder.decode(name.subarray(0, name.indexOf(0))), O_RDWR | O_NOCTTY)];
}

/** A pseudo-terminal, the slave first. */
export function reversedTerminal(): [End, End] {
  const [master, slave] = terminal();
  return [slave, master];
}

/** Two connected ends of each kind that carries bytes in both directions. */
export const SOCKETS = { "TCP": tcpPair, "unix": unixPair };

/** Makes a FIFO. */
export function makeFifo(path: string): void {
  well(`mkfifo ${path}`, libc.mkfifo(encoder.encode(path + "\0"), 0o600));
}

/** Opens a file. A FIFO's other end has to be opened on another thread, or with O_RDWR. */
export function open(path: string, flags: number): End {
  const bytes = encoder.encode(path + "\0");
  return new End(well(`open ${path}`, libc.open(bytes, flags | O_CLOEXEC, 0o600)));
}
