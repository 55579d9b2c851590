/**
 * Sockets that we make ourselves: those we accept, connect or listen with, and
 * their addresses. All have O_NONBLOCK and are close-on-exec.
 *
 * As in libc.ts, what the kernel returns is returned: 0 or more, or a negative
 * errno.
 *
 * @module
 */
import {
  AF_INET,
  AF_INET6,
  AF_UNIX,
  EINPROGRESS,
  EINTR,
  ENOENT,
  ENOTSOCK,
  EOPNOTSUPP,
  IPPROTO_TCP,
  SO_KEEPALIVE,
  SO_LINGER,
  SO_RCVLOWAT,
  SO_REUSEADDR,
  SOCK_DGRAM,
  SOCK_STREAM,
  SOL_SOCKET,
  TCP_CORK,
} from "./constants.ts";
import { DescriptorError, printable, quoted, SystemError } from "./error.ts";
import { checked, errno, find, LIBRARY, moved, retryingEnoent, threads } from "./ffi.ts";
import * as libc from "./libc.ts";

/** The calls of each connection, compiled at once: a server makes thousands of them in a second. */
function compiled() {
  find("socket", { parameters: [], result: "i32" }); // opens the library, which says what is amiss
  return Deno.dlopen(LIBRARY, {
    accept4: { parameters: ["i32", "buffer", "buffer", "i32"], result: "i32" },
    bind: { parameters: ["i32", "buffer", "u32"], result: "i32" },
    connect: { parameters: ["i32", "buffer", "u32"], result: "i32" },
    getpeername: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
    getsockname: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
    listen: { parameters: ["i32", "i32"], result: "i32" },
    socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  }).symbols;
}

let symbols: ReturnType<typeof compiled> | undefined;

function calls(): ReturnType<typeof compiled> {
  return symbols ??= compiled();
}

const SOCK_CLOEXEC = 0o2000000, SOCK_NONBLOCK = 0o4000;
const NEW_SOCKET = SOCK_CLOEXEC | SOCK_NONBLOCK;

/** The longest address there is, and the longest path in one (unix(7)). */
const MAX_ADDRESS_BYTES = 128, MAX_PATH_BYTES = 107;

/** Where a socket is: an address of the Internet and a port, or the name of a unix socket. */
export class Address {
  /** As the kernel has it: struct sockaddr_in, sockaddr_in6 or sockaddr_un. */
  readonly bytes: Uint8Array<ArrayBuffer>;

  #text: string | undefined;

  /** The address that the kernel has so. */
  constructor(bytes: Uint8Array<ArrayBuffer>) {
    this.bytes = bytes;
  }

  /** The address that was packed so, a letter for each byte: it takes a tenth of the memory. */
  static unpack(letters: string): Address {
    return new Address(Uint8Array.from(letters, (letter) => letter.charCodeAt(0)));
  }

  /** Whether it is one of a unix socket. */
  get isUnix(): boolean {
    return this.bytes[0] === AF_UNIX;
  }

  /** The Internet's version that it belongs to; undefined for a unix socket. */
  get version(): 4 | 6 | undefined {
    if (this.bytes[0] === AF_INET) return 4;
    return this.bytes[0] === AF_INET6 ? 6 : undefined;
  }

  /** The port; 0 for a unix socket. */
  get port(): number {
    return this.version ? (this.bytes[2] ?? 0) * 256 + (this.bytes[3] ?? 0) : 0;
  }

  /** The numbers of an Internet address: 4 bytes or 16. */
  get numbers(): Uint8Array<ArrayBuffer> {
    return this.version === 4 ? this.bytes.subarray(4, 8) : this.bytes.subarray(8, 24);
  }

  /** The host alone: "192.0.2.1", "2001:db8::7". */
  get host(): string {
    if (this.version === 4) return this.numbers.join(".");
    const text = new Uint8Array(64);
    const ntop = find("inet_ntop", {
      parameters: ["i32", "buffer", "buffer", "u32"],
      result: "pointer",
    });
    ntop.call(AF_INET6, new Uint8Array(this.numbers), text, text.length);
    return decoder.decode(text.subarray(0, text.indexOf(0)));
  }

  /** For people: "192.0.2.1:22", "[2001:db8::7]:22", "/run/socket", "@abstract"; "unix" where it has no name. */
  toString(): string {
    return this.#text ??= this.#toText();
  }

  #toText(): string {
    if (this.version) return `${this.version === 6 ? `[${this.host}]` : this.host}:${this.port}`;
    const name = this.bytes.subarray(2);
    if (name.length === 0) return "unix";
    if (name[0] === 0) return printable("@" + decoder.decode(name.subarray(1)));
    const end = name.indexOf(0);
    return printable(decoder.decode(end < 0 ? name : name.subarray(0, end)));
  }
}

const decoder = new TextDecoder(), encoder = new TextEncoder();

/** The address of a unix socket: a path, or `@` and a name that no file has (unix(7)). Throws a `RangeError` where it is too long, or a path that a NUL would cut. */
export function unixAddress(name: string): Address {
  const isAbstract = name.startsWith("@");
  const path = encoder.encode(name);
  if (path.length > MAX_PATH_BYTES) {
    throw new RangeError(
      `${printable(name)}: the path of a socket has at most ${MAX_PATH_BYTES} bytes`,
    );
  }
  if (!isAbstract && path.includes(0)) {
    throw new RangeError(`${quoted(name)}: no path contains a NUL`);
  }
  const bytes = new Uint8Array(2 + path.length + (isAbstract ? 0 : 1));
  bytes[0] = AF_UNIX;
  bytes.set(path, 2);
  if (isAbstract) bytes[2] = 0;
  return new Address(bytes);
}

/** The address of numbers: "192.0.2.1", "2001:db8::7"; undefined where `host` is a name. */
export function numericAddress(host: string, port: number): Address | undefined {
  const pton = find("inet_pton", { parameters: ["i32", "buffer", "buffer"], result: "i32" });
  const text = encoder.encode(host + "\0");
  for (const family of [AF_INET, AF_INET6]) {
    const bytes = new Uint8Array(family === AF_INET ? 16 : 28);
    const numbers = new Uint8Array(16);
    if (pton.call(family, text, numbers) !== 1) continue;
    bytes[0] = family;
    bytes[2] = port >> 8;
    bytes[3] = port & 255;
    bytes.set(family === AF_INET ? numbers.subarray(0, 4) : numbers, family === AF_INET ? 4 : 8);
    return new Address(bytes);
  }
  return undefined;
}

const GETADDRINFO = {
  parameters: ["buffer", "buffer", "buffer", "buffer"],
  result: "i32",
} as const;

/** What is being looked up, by the name and the port. */
const lookUps = new Map<string, Promise<Address[] | string>>();

/**
 * The addresses of a name, by getaddrinfo(3) on another thread; or in words why it has none. It may
 * take half a minute where no name server replies, so each name has one thread, however many ask
 * for it.
 */
export function resolve(host: string, port: number): Promise<Address[] | string> {
  const place = `${host} ${port}`;
  let found = lookUps.get(place);
  if (!found) {
    found = lookUp(host, port).finally(() => lookUps.delete(place));
    lookUps.set(place, found);
  }
  return found;
}

async function lookUp(host: string, port: number): Promise<Address[] | string> {
  const getaddrinfo = find("getaddrinfo", { ...GETADDRINFO, nonblocking: true });
  // All of them: of an IPv6-only machine AI_ADDRCONFIG would leave out 127.0.0.1, of "localhost" too.
  const request = toRequest(host, port, 0);
  const error = await threads.run(() => getaddrinfo.call(...request));
  // Used afterwards, the memory is not given to anybody else while the thread reads it.
  return toAddresses(error, request);
}

/** As {@linkcode resolve}, waiting on this thread: for seconds, where a name server is slow. */
export function resolveSync(host: string, port: number): Address[] | string {
  const AI_ADDRCONFIG = 0x20; // to listen at
  const request = toRequest(host, port, AI_ADDRCONFIG);
  return toAddresses(find("getaddrinfo", GETADDRINFO).call(...request), request);
}

/** What getaddrinfo(3) is called with: the name, the port, hints, and room for a pointer to what it finds. */
function toRequest(host: string, port: number, flags: number) {
  const AI_NUMERICSERV = 0x400;
  // struct addrinfo in 32-bit words: flags, family, type, protocol, length, then
  // from byte 24 on the pointers to the address, the name and the next one.
  const hints = new Int32Array(12);
  hints[0] = flags | AI_NUMERICSERV;
  hints[2] = SOCK_STREAM;
  const list = new BigUint64Array(1);
  return [encoder.encode(host + "\0"), encoder.encode(port + "\0"), hints, list] as const;
}

/** The addresses that getaddrinfo(3) has found, whose list is freed here; or its error in words. */
function toAddresses(
  error: number,
  [, , , list]: ReturnType<typeof toRequest>,
): Address[] | string {
  if (error !== 0) {
    const words = find("gai_strerror", { parameters: ["i32"], result: "pointer" }).call(error);
    return words ? Deno.UnsafePointerView.getCString(words) : `error ${error}`;
  }
  const first = Deno.UnsafePointer.create(list[0] ?? 0n);
  const found: Address[] = [];
  for (let at = first; at;) {
    const info = new Deno.UnsafePointerView(at);
    const address = info.getPointer(24);
    if (address) {
      const bytes = new Uint8Array(info.getUint32(16));
      Deno.UnsafePointerView.copyInto(address, bytes);
      found.push(new Address(bytes));
    }
    at = info.getPointer(40);
  }
  find("freeaddrinfo", { parameters: ["pointer"], result: "void" }).call(first);
  return found;
}

/** Where the kernel puts an address, and its length. */
const sockaddr = new Uint8Array(MAX_ADDRESS_BYTES), sockaddrLength = new Uint32Array(1);

/** The address that was put there, in memory of its own. */
function toAddress(): Address {
  return new Address(sockaddr.slice(0, Math.min(sockaddrLength[0] ?? 0, MAX_ADDRESS_BYTES)));
}

/**
 * The next connection that waits at a listening socket, and the address of who
 * made it, packed; or a negative errno (accept4(2)).
 */
export function accept(listener: number): { fd: number; peer: string } | number {
  sockaddrLength[0] = MAX_ADDRESS_BYTES;
  const fd = moved(calls().accept4(listener, sockaddr, sockaddrLength, NEW_SOCKET));
  if (fd < 0) return fd;
  if (sockaddr[0] !== AF_INET) {
    const bytes = sockaddr.subarray(0, Math.min(sockaddrLength[0], MAX_ADDRESS_BYTES));
    return { fd, peer: String.fromCharCode(...bytes) };
  }
  // What follows the first 8 bytes of an IPv4 address is nothing (ip(7)). Spread, they would
  // take 0.3 us, twenty times as long as each by itself.
  const [family = 0, upper = 0, port1 = 0, port2 = 0, a = 0, b = 0, c = 0, d = 0] = sockaddr;
  return { fd, peer: String.fromCharCode(family, upper, port1, port2, a, b, c, d) };
}

/**
 * Options that Linux hands down from a listening TCP socket to each of its connections, with what
 * they are otherwise. With SO_LINGER, close(2) would drop what is not sent yet, or wait until it
 * is; with the others, small pieces would wait for more (socket(7), tcp(7)).
 */
const HANDED_DOWN: readonly SocketOption[] = [
  [SOL_SOCKET, SO_LINGER, new Int32Array([0, 0])],
  [SOL_SOCKET, SO_RCVLOWAT, new Int32Array([1])],
  [IPPROTO_TCP, TCP_CORK, new Int32Array([0])],
];

/** An option of a socket, and a value, as setsockopt(2) has it. */
export type SocketOption = readonly [level: number, option: number, value: Int32Array<ArrayBuffer>];

/** Those of these options that are set at `listener`: what to set at each of its connections. */
export function handedDown(listener: number): SocketOption[] {
  return HANDED_DOWN.filter(([level, option, [otherwise = 0]]) =>
    libc.getsockopt(listener, option, level) > otherwise
  );
}

/** socket(2), with O_NONBLOCK. */
function newSocket(address: Address, type = SOCK_STREAM): number {
  return retryingEnoent(() => checked(calls().socket(address.bytes[0] ?? 0, type | NEW_SOCKET, 0)));
}

/**
 * A socket that is about to be connected with `address`: poll(2) says that it
 * can be written, or failed, once it is decided. -EAGAIN: a unix socket's queue
 * is full, to be tried again (connect(2)). With `waitsForBytes`, the SYN-ACK, and what comes then,
 * are acknowledged by the next bytes that are sent; a caller that has none to send at once switches
 * quick acknowledgement on ({@linkcode libc.setQuickAck}).
 */
export function connect(address: Address, waitsForBytes = false): number {
  const fd = newSocket(address);
  if (fd < 0) return fd;
  if (waitsForBytes && !address.isUnix) libc.setQuickAck(fd, false);
  if (calls().connect(fd, address.bytes, address.bytes.length) === 0) return fd;
  const error = errno();
  // Only of a unix socket ENOENT is true: else errno is that of the runtime's clock, see moved.
  const isOfClock = error === ENOENT && !address.isUnix;
  if (error === EINPROGRESS || error === EINTR || isOfClock) return fd;
  libc.close(fd);
  return -error;
}

/**
 * Whether it is for want of a local port that connect(2) to `address` says EADDRNOTAVAIL: all are
 * in use (ip_local_port_range in ip(7)). If this machine has no address from which that one can be
 * reached, it says so of a datagram socket, too, which takes none of these ports.
 */
export function lacksPort(address: Address): boolean {
  const fd = newSocket(address, SOCK_DGRAM);
  if (fd < 0) return false;
  const result = calls().connect(fd, address.bytes, address.bytes.length);
  libc.close(fd);
  return result === 0;
}

/**
 * A socket that listens at `address`, with room for so many connections that wait to be
 * accepted; or a negative errno (listen(2)).
 */
export function listen(address: Address, waiting: number): number {
  return retryingEnoent(() => listenOnce(address, waiting));
}

function listenOnce(address: Address, waiting: number): number {
  const fd = newSocket(address);
  if (fd < 0) return fd;
  libc.setsockopt(fd, SOL_SOCKET, SO_REUSEADDR);
  if (
    calls().bind(fd, address.bytes, address.bytes.length) === 0 && calls().listen(fd, waiting) === 0
  ) return fd;
  const error = errno();
  libc.close(fd);
  return -error;
}

/** What a socket is bound to. */
export function localAddress(fd: number): Address {
  sockaddrLength[0] = MAX_ADDRESS_BYTES;
  const result = retryingEnoent(() => checked(calls().getsockname(fd, sockaddr, sockaddrLength)));
  if (result >= 0) return toAddress();
  if (result !== -ENOTSOCK) throw new SystemError("getsockname", fd, result);
  throw new DescriptorError(`descriptor ${fd} is not a socket`);
}

/** The first and the last port that the kernel gives to sockets that connect, and for how many of them that is believed. */
let firstGiven = 0, lastGiven = 0, believedFor = 0;
/** It may be changed at any time, and to ask takes as long as a connection does. */
const BELIEVED_FOR = 256;

/** Whether the kernel may give that port to a socket that connects (ip_local_port_range in ip(7)). */
function isGiven(port: number): boolean {
  if (--believedFor < 0) {
    const text = libc.contentOf("/proc/sys/net/ipv4/ip_local_port_range");
    const [, first, last] = /^(\d+)\s+(\d+)\n$/.exec(text) ?? [];
    firstGiven = Number(first ?? 0);
    lastGiven = Number(last ?? 65535);
    believedFor = BELIEVED_FOR;
  }
  return port >= firstGiven && port <= lastGiven;
}

/**
 * Disconnects a TCP socket that is connected with itself; returns whether it was. Where nobody
 * listens at a port of this machine which the kernel may also give to a socket that connects, it
 * may give it just that one, and TCP connects it (RFC 9293, 3.5, "simultaneous connection").
 */
export function disconnectFromItself(fd: number, { bytes, isUnix, port }: Address): boolean {
  // Mostly it may not: a system call less for each connection, 2 % of its CPU.
  if (isUnix || !isGiven(port)) return false;
  const { getsockname, getpeername, connect } = calls();
  sockaddrLength[0] = MAX_ADDRESS_BYTES;
  if (getsockname(fd, sockaddr, sockaddrLength) < 0) return false;
  if (sockaddr[2] !== bytes[2] || sockaddr[3] !== bytes[3]) return false; // another port
  const own = toAddress().toString();
  sockaddrLength[0] = MAX_ADDRESS_BYTES;
  if (getpeername(fd, sockaddr, sockaddrLength) < 0 || toAddress().toString() !== own) return false;
  // To no address (AF_UNSPEC), which disconnects it at once (connect(2)). If it were closed as it
  // is, its port would be in use for a minute more (TIME_WAIT).
  connect(fd, new Uint8Array(16), 16);
  return true;
}

/** Has the kernel find out that the peer of a TCP connection has vanished (tcp(7)). */
export function setKeepAlive(fd: number): void {
  libc.setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE);
}

/** How many descriptors the process may have: the soft limit, raised to the hard one where it was less (getrlimit(2)). */
export function raiseDescriptorLimit(): number {
  const RLIMIT_NOFILE = 7;
  const limits = new BigUint64Array(2);
  const parameters = ["i32", "buffer"] as const;
  if (find("getrlimit", { parameters, result: "i32" }).call(RLIMIT_NOFILE, limits) < 0) return 1024;
  const [soft = 0n, hard = 0n] = limits;
  limits[0] = hard;
  const setrlimit = find("setrlimit", { parameters, result: "i32" });
  return Number(setrlimit.call(RLIMIT_NOFILE, limits) < 0 ? soft : hard);
}

/** Whether accept(2) failed because of the one connection that it would have returned: the next one may be accepted. */
export function concernsOneConnection(error: number): boolean {
  // accept(2): errors of the network that the new socket already has.
  const ECONNABORTED = 103, EPROTO = 71, ENETDOWN = 100, ENOPROTOOPT = 92, EHOSTDOWN = 112;
  const ENONET = 64, EHOSTUNREACH = 113, ENETUNREACH = 101;
  return [
    ECONNABORTED,
    EPROTO,
    ENETDOWN,
    ENOPROTOOPT,
    EHOSTDOWN,
    ENONET,
    EHOSTUNREACH,
    EOPNOTSUPP,
    ENETUNREACH,
  ].includes(-error);
}
