/**
 * Replaces sys/socket.ts for the engine: see libc.ts. Addresses are the real ones, since
 * they are only bytes.
 *
 * @module
 */
import * as real from "../../sys/socket.ts";
import { Description } from "./kernel.ts";
import type { World } from "./world.ts";

export type Address = real.Address;
export const { Address, unixAddress, numericAddress, isPassing } = real;

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

export function resolve(host: string, _port: number): Promise<Address[] | string> {
  return Promise.resolve(`${host} is not known to the simulator`);
}
export function accept(listener: number): { fd: number; peer: string } | number {
  world.enter();
  const result = network.accept(listener);
  world.log(() => `accept ${listener} -> ${typeof result === "number" ? result : result.fd}`);
  return result;
}
export function connect(address: Address): number {
  world.enter();
  const result = network.connect(address);
  world.log(() => `connect -> ${result}`);
  return result;
}
export function listen(_address: Address, _waiting: number): number {
  return world.fail("the simulated engine is given its listening sockets");
}
export function localAddress(fd: number): Address {
  world.enter();
  world.get(fd, "getsockname");
  return new Address(new Uint8Array([2, 0, 0, 80, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]));
}
export function setTcpOptions(fd: number): void {
  world.enter();
  world.get(fd, "setsockopt");
}
export function raiseDescriptorLimit(): number {
  return 1024;
}

/** A new number for a socket that the engine makes; it is non-blocking. */
export function installSocket(world: World, file: Description["file"]): number {
  const O_RDWR = 2, O_NONBLOCK = 0o4000;
  return world.install(new Description(file, O_RDWR, O_NONBLOCK));
}

/** Whether this module has the same functions as the real one. */
export const seam: typeof real = {
  Address,
  unixAddress,
  numericAddress,
  isPassing,
  resolve,
  accept,
  connect,
  listen,
  localAddress,
  setTcpOptions,
  raiseDescriptorLimit,
};
