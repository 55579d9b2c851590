/**
 * Replaces sys/socket.ts for the engine: see libc.ts. Addresses are the real ones, since
 * they are only bytes.
 *
 * @module
 */
import { SO_KEEPALIVE, SOL_SOCKET } from "../../sys/constants.ts";
import { SystemError } from "../../sys/error.ts";
import * as real from "../../sys/socket.ts";
import * as libc from "./libc.ts";
import type { World } from "./world.ts";

export type Address = real.Address;
export const { Address, unixAddress, concernsOneConnection } = real;

/** As the real one, which asks the C library, for IPv4. */
export function numericAddress(host: string, port: number): Address | undefined {
  if (!/^\d+\.\d+\.\d+\.\d+$/.test(host)) return undefined;
  return new Address(
    new Uint8Array([
      2,
      0,
      port >> 8,
      port & 255,
      ...host.split(".").map(Number),
      ...Array(8).fill(0),
    ]),
  );
}

/** The network of a run: the listening sockets, and the results of connect(2). */
export interface Network {
  accept(listener: number): { fd: number; peer: string } | number;
  connect(address: Address): number;
}

let world: World, network: Network;

export function enterNetwork(nextWorld: World, next: Network): void {
  world = nextWorld;
  network = next;
}

/** A name that has two addresses, which another thread looks for; there is no other. */
export async function resolve(host: string, port: number): Promise<Address[] | string> {
  await world.sleep(1);
  if (host !== "two.example") return "no such name";
  return ["192.0.2.1", "192.0.2.2"].flatMap((address) => numericAddress(address, port) ?? []);
}
export function resolveSync(_host: string, _port: number): Address[] | string {
  return world.fail("the simulated engine looks no name up on its own thread");
}
export function accept(listener: number): { fd: number; peer: string } | number {
  world.enter();
  const result = network.accept(listener);
  world.log(() => `accept ${listener} -> ${typeof result === "number" ? result : result.fd}`);
  return result;
}
export function connect(address: Address, waitsForBytes = false): number {
  world.enter();
  const result = network.connect(address);
  if (result >= 0 && waitsForBytes && !address.isUnix) libc.setQuickAck(result, false);
  world.log(() => `connect -> ${result}`);
  return result;
}
export function lacksPort(_address: Address): boolean {
  world.enter();
  return true;
}
export function listen(_address: Address, _waiting: number): number {
  return world.fail("the simulated engine is given its listening sockets");
}
export function localAddress(fd: number): Address {
  world.enter();
  world.get(fd, "getsockname");
  const refused = world.refusal("getsockname");
  if (refused) throw new SystemError("getsockname", fd, refused);
  return new Address(new Uint8Array([2, 0, 0, 80, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]));
}
/** A simulated socket has a peer of its own. */
export function disconnectFromItself(_fd: number, _address: Address): boolean {
  return false;
}
export function setKeepAlive(fd: number): void {
  libc.setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE); // nobody hears of a refusal
}
/** A simulated socket has none of these options. */
export function handedDown(_listener: number): real.SocketOption[] {
  return [];
}
export function raiseDescriptorLimit(): number {
  return 1024;
}

/** Whether this module has the same functions as the real one. */
export const seam: typeof real = {
  Address,
  unixAddress,
  numericAddress,
  concernsOneConnection,
  resolve,
  resolveSync,
  accept,
  connect,
  lacksPort,
  listen,
  localAddress,
  disconnectFromItself,
  setKeepAlive,
  handedDown,
  raiseDescriptorLimit,
};
