/**
 * Error numbers, the same on every Linux that Deno runs on (errno(3)).
 *
 * @module
 */

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
/** In use. */
export const EBUSY = 16;
/** What splice(2) says of a descriptor that it cannot serve. */
export const EINVAL = 22;
/** No number is left for this process. */
export const EMFILE = 24;
/** No room is left: on a disk, or for one more descriptor that a user's epoll watches. */
export const ENOSPC = 28;
/** What is no terminal, or knows no such ioctl(2). */
export const ENOTTY = 25;
/** Nobody will read it. */
export const EPIPE = 32;
/** The kernel has no such call. */
export const ENOSYS = 38;
/** Not a socket. */
export const ENOTSOCK = 88;
/** A message that does not fit. */
export const EMSGSIZE = 90;
/** The kernel, or the descriptor, does not know that flag. */
export const EOPNOTSUPP = 95;
/** It is not connected, or the peer has gone already. */
export const ENOTCONN = 107;
/** Under way: a connect. */
export const EINPROGRESS = 115;
/** No memory. */
export const ENOMEM = 12;
/** No number is left in the whole system. */
export const ENFILE = 23;
/** No memory for sockets. */
export const ENOBUFS = 105;
/** It took too long. */
export const ETIMEDOUT = 110;
/** Nobody listens there. */
export const ECONNREFUSED = 111;
/** Given up. */
export const ECANCELED = 125;

/** Whether the system was out of descriptors or memory, so that a later call may succeed. */
export function isShortage(errno: number): boolean {
  return errno === EMFILE || errno === ENFILE || errno === ENOBUFS || errno === ENOMEM;
}
