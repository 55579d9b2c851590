/**
 * Replaces sys/readiness.ts for the engine, through the import map: in the simulated
 * kernel each wait has a thread of its own. If the two modules differ, `seam` below does
 * not compile.
 *
 * @module
 */
import type * as real from "../../sys/readiness.ts";
import { pollOnThread } from "./libc.ts";

export function ready(fd: number, events: number): Promise<number> {
  return pollOnThread(fd, events, -1);
}
export function forget(_fd: number): void {}

const seam: typeof real = { ready, forget };
export { seam };
