/**
 * Numbers of the kernel's interface, the same on every Linux that Deno runs on.
 *
 * @module
 */

/** Readiness, of poll(2) and epoll(7) alike: there is something to read. */
export const IN = 1;
/** There is room to write. */
export const OUT = 4;
/** An error, or a socket's error queue; for a pipe, that nobody will read it. */
export const ERR = 8;
/** The other side has gone. */
export const HUP = 16;
/** The peer of a stream socket will send no more. */
export const RDHUP = 0x2000;
/** Report a change only once (epoll(7)). */
export const EDGE = 1 << 31;

/** Commands of fcntl(2). Returns the descriptor's own flags. */
export const F_GETFD = 1;
/** Returns the flags of the open file description. */
export const F_GETFL = 3;
/** Sets these. */
export const F_SETFL = 4;
/** Sets the signal that O_ASYNC makes an open file description send. */
export const F_SETSIG = 10;
/** Returns it. */
export const F_GETSIG = 11;
/** Makes a duplicate that is close-on-exec. */
export const F_DUPFD_CLOEXEC = 1030;
/** Sets how many bytes a pipe holds. */
export const F_SETPIPE_SZ = 1031;
/** Returns it. */
export const F_GETPIPE_SZ = 1032;

/** The one flag of a descriptor: it does not pass an exec. */
export const FD_CLOEXEC = 1;

/** Flags of an open file description: the part that says whether it is for reading or writing. */
export const O_ACCMODE = 3;
/** Open for reading only. */
export const O_RDONLY = 0;
/** Open for writing only. */
export const O_WRONLY = 1;
/** A terminal that is opened does not become the process's own. */
export const O_NOCTTY = 0o400;
/** Each write goes to the end of the file. */
export const O_APPEND = 0o2000;
/** Calls do not wait. */
export const O_NONBLOCK = 0o4000;
/** Closed by exec. */
export const O_CLOEXEC = 0o2000000;
/** Open as a name only: neither for reading nor for writing. */
export const O_PATH = 0o10000000;

/** File types, of the mode that statx(2) returns (inode(7)). */
export const S_IFMT = 0o170000;
/** A pipe or FIFO. */
export const S_IFIFO = 0o010000;
/** A character device. */
export const S_IFCHR = 0o020000;
/** A regular file. */
export const S_IFREG = 0o100000;
/** A socket. */
export const S_IFSOCK = 0o140000;

/** Levels of a socket's options (getsockopt(2)): of all sockets. */
export const SOL_SOCKET = 1;
/** Of TCP. */
export const IPPROTO_TCP = 6;
/** Options of a socket (socket(7)): an address may be used again. */
export const SO_REUSEADDR = 2;
/** Stream or messages. */
export const SO_TYPE = 3;
/** The pending error, which asking clears. */
export const SO_ERROR = 4;
/** The kernel finds out that a peer has vanished. */
export const SO_KEEPALIVE = 9;
/** What close(2) does with what is not sent. */
export const SO_LINGER = 13;
/** How many bytes there have to be until it is readable. */
export const SO_RCVLOWAT = 18;
/** Whether it listens. */
export const SO_ACCEPTCONN = 30;
/** The protocol that it speaks: TCP's number, and so on. */
export const SO_PROTOCOL = 38;
/** The family of its addresses. */
export const SO_DOMAIN = 39;
/** Options of TCP (tcp(7)): small pieces go at once. */
export const TCP_NODELAY = 1;
/** Nothing goes that does not fill a packet. */
export const TCP_CORK = 3;
/** What comes in is acknowledged at once. */
export const TCP_QUICKACK = 12;
/** The name of what is between TCP and the program. */
export const TCP_ULP = 31;
/** The types of sockets that carry a stream, and messages. */
export const SOCK_STREAM = 1, SOCK_DGRAM = 2, SOCK_RAW = 3;
/** Unix sockets. */
export const AF_UNIX = 1;
/** The Internet's, version 4. */
export const AF_INET = 2;
/** The Internet's, version 6. */
export const AF_INET6 = 10;

/** For recv(2) and send(2): do not wait. */
export const MSG_DONTWAIT = 0x40;
/** The next bytes follow at once: a part of a packet waits for them. */
export const MSG_MORE = 0x8000;
/** Return the length of the whole message, even if it did not fit. */
export const MSG_TRUNC = 0x20;
/** Leave what is received where it is. */
export const MSG_PEEK = 2;
/** Receive from the error queue (recv(2)). */
export const MSG_ERRQUEUE = 0x2000;

/** For shutdown(2): nothing more is read. */
export const SHUT_RD = 0;
/** Nothing more is written. */
export const SHUT_WR = 1;

// Error numbers (errno(3)).

/** Not permitted: what epoll says of a regular file, and a seccomp filter of any call. */
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
/** No memory. */
export const ENOMEM = 12;
/** In use. */
export const EBUSY = 16;
/** What splice(2) says of a descriptor that it cannot serve. */
export const EINVAL = 22;
/** No number is left in the whole system. */
export const ENFILE = 23;
/** No number is left for this process. */
export const EMFILE = 24;
/** What is no terminal, or knows no such ioctl(2). */
export const ENOTTY = 25;
/** No room is left: on a disk, or for one more descriptor that a user's epoll watches. */
export const ENOSPC = 28;
/** Nobody will read it. */
export const EPIPE = 32;
/** Not a socket. */
export const ENOTSOCK = 88;
/** A message that does not fit. */
export const EMSGSIZE = 90;
/** The kernel, or the descriptor, does not know that flag. */
export const EOPNOTSUPP = 95;
/** An address of a kind that this system does not know. */
export const EAFNOSUPPORT = 97;
/** No address of this machine. */
export const EADDRNOTAVAIL = 99;
/** No memory for sockets. */
export const ENOBUFS = 105;
/** It is not connected, or the peer has gone already. */
export const ENOTCONN = 107;
/** It took too long. */
export const ETIMEDOUT = 110;
/** The peer has reset the connection. */
export const ECONNRESET = 104;
/** Nobody listens there. */
export const ECONNREFUSED = 111;
/** Under way: a connect. */
export const EINPROGRESS = 115;
/** Given up. */
export const ECANCELED = 125;
