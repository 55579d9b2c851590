import { type Address, localAddress } from "../sys/socket.ts";

/** What begins a header of version 2. */
const SIGNATURE = [0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a];

/**
 * The header that names the client to a target, in front of the bytes: the PROXY
 * protocol of HAProxy (proxy-protocol.txt, 2.1 and 2.2). `client` is the
 * accepted socket. A client without an address of the Internet is "UNKNOWN", in version 2
 * "LOCAL".
 */
export function proxyHeader(
  version: 1 | 2,
  peer: Address,
  client: number,
): Uint8Array<ArrayBuffer> {
  const local = localAddress(client);
  return version === 1 ? line(peer, local) : binary(peer, local);
}

function line(peer: Address, local: Address): Uint8Array<ArrayBuffer> {
  const text = peer.version
    ? `PROXY TCP${peer.version} ${peer.host} ${local.host} ${peer.port} ${local.port}\r\n`
    : "PROXY UNKNOWN\r\n";
  return new TextEncoder().encode(text);
}

function binary(peer: Address, local: Address): Uint8Array<ArrayBuffer> {
  const LOCAL = 0x20, PROXY = 0x21, TCP4 = 0x11, TCP6 = 0x21, UNSPEC = 0x00;
  const family = peer.version === 4 ? TCP4 : peer.version === 6 ? TCP6 : UNSPEC;
  const ports = [peer, local].flatMap(({ port }) => [port >> 8, port & 255]);
  const rest = peer.version ? [...peer.numbers, ...local.numbers, ...ports] : [];
  // haproxy refuses "PROXY" without an address, and takes "LOCAL".
  const command = peer.version ? PROXY : LOCAL;
  return new Uint8Array([...SIGNATURE, command, family, 0, rest.length, ...rest]);
}
