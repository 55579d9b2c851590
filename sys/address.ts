/**
 * Addresses of sockets as people write them.
 *
 * @module
 */
import { quoted } from "./error.ts";
import { type Address, numericAddress, unixAddress } from "./socket.ts";

/** A name, which has to be looked up, and a port. */
export interface Place {
  /** As getaddrinfo(3) takes it. */
  readonly host: string;
  /** 0 to 65535. */
  readonly port: number;
}

/**
 * Reads HOST:PORT, [IPv6]:PORT, a path with a slash, or @name: an address, or a name
 * and a port from `leastPort` on. Throws a `RangeError` that says what is wrong.
 */
export function parseAddress(text: string, leastPort = 1): Address | Place {
  // With its slashes it would be taken for a path, and there is no such file.
  if (/^[a-z][a-z\d+.-]*:\/\//i.test(text)) {
    throw new RangeError(`${quoted(text)} is a URL: write HOST:PORT or a path alone`);
  }
  if (text.length > 1 && (text.includes("/") || text.startsWith("@"))) return unixAddress(text);
  // A control character is in no name; the C library would take a NUL for the end.
  const [, numbers, zone = "", name = "", digits] =
    /^(?:\[([\da-fA-F:.]+)(%[^\]\s\p{Cc}]+)?\]|([^:[\]\s\p{Cc}]+)):(\d+|[a-z][\w-]*)$/iu.exec(
      text,
    ) ?? [];
  const host = numbers ?? name, port = Number(digits);
  if (!host) {
    throw new RangeError(`${quoted(text)} is not HOST:PORT, [IPv6]:PORT, a path or @name`);
  }
  if (!(port >= leastPort && port <= 65535)) {
    throw new RangeError(`${quoted(text)}: a port is a number from ${leastPort} to 65535`);
  }
  const address = numericAddress(host, port);
  if (numbers && address?.version !== 6) {
    throw new RangeError(`${quoted(text)}: the brackets do not contain an IPv6 address`);
  }
  // "fe80::1%eth0", of one interface, is getaddrinfo(3)'s to know.
  return address && !zone ? address : { host: host + zone, port };
}
