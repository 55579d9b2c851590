/**
 * What tests expect of descriptors, and of how the command ends.
 *
 * @module
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { type End, pipe, unixPair } from "./ends.ts";
import type { Running } from "./harness.ts";
import { cpuSeconds, DEADLINE, isBusy, same, within } from "./probe.ts";
import { pause } from "./watching.ts";

/** Text written to one end arrives at the other. */
export async function passes(from: End, to: End, text = "ping"): Promise<void> {
  await from.write(text);
  assertEquals(await to.readText(text.length), text);
}

/** The next that comes is the end of file. */
export async function endOfFile(end: End): Promise<void> {
  assertEquals(await end.read(), new Uint8Array(0), "more came in place of the end of file");
}

/** The command ends with this status, and has written exactly this to standard error. */
export async function endsWith(
  running: Running,
  code: number,
  stderr: string | RegExp,
): Promise<void> {
  const outcome = await running.outcome;
  assertEquals([outcome.code, outcome.signal], [code, null], outcome.stderr);
  if (typeof stderr === "string") assertEquals(outcome.stderr, stderr);
  else assertMatch(outcome.stderr, stderr);
}

/** The command ends with status 0 and an empty standard error. */
export async function succeeds(running: Running): Promise<void> {
  await endsWith(running, 0, "");
}

/** Reads `content` from a socket until its end of file, and answers to each piece. */
export async function readAndAnswer(end: End, content: Uint8Array): Promise<void> {
  let arrived = 0;
  for (;;) {
    const piece = await within("a piece", end.read(10_000));
    if (piece.length === 0) break;
    assert(same(piece, content.subarray(arrived, arrived + piece.length)));
    arrived += piece.length;
    try {
      end.send("ok"); // which is answered by a reset once the socket is closed
    } catch { /* after everything has come, that is in order */ }
  }
  assertEquals(arrived, content.length);
}

/**
 * None of the processes spins: before they have used much processor time together, which a start
 * can take, there is a third of a second in which they mostly sleep. One that spins never sleeps,
 * however little of the processor it gets; and one that has little to do gets its turn late.
 */
export async function staysIdle(...processes: Running[]): Promise<void> {
  const used = () => processes.reduce((sum, { pid }) => sum + cpuSeconds(pid), 0);
  const before = used();
  for (const looks = 30;;) {
    let busy = 0;
    for (let i = 0; i < looks; i++) {
      await pause(10);
      if (processes.some(({ pid }) => isBusy(pid))) busy++;
    }
    if (busy < looks / 2) return;
    const seconds = used() - before;
    assert(seconds < DEADLINE / 20_000, `${seconds} s of processor time without a rest: it spins`);
  }
}

/** A channel beside the one under test, which has to go on: `8 9`. */
export function bystander() {
  const [from, source] = unixPair();
  const [to, sink] = pipe();
  return {
    given: { 8: source, 9: sink },
    /** It copies. */
    async lives(): Promise<void> {
      await within("the other channel", passes(from, to, "alive"));
    },
    /** Ends it. */
    end(): void {
      from.shutdownWrite();
    },
    /** Ends it, and waits for its end of file. */
    async ends(): Promise<void> {
      from.shutdownWrite();
      await endOfFile(to);
    },
    [Symbol.dispose](): void {
      from.close();
      to.close();
    },
  };
}

/** The objects that `--stats=json` has printed, of all that is on standard error. */
export function objects(stderr: string) {
  return stderr.split("\n").filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));
}
