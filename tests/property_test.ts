/**
 * Whatever the sizes of the pieces, the stalls and the buffer: what comes out
 * is what went in. A failure prints the seed that repeats it.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { type End, pipe, SOCKETS } from "./ends.ts";
import { succeeds } from "./expect.ts";
import { iocopy, noise, numbered } from "./probe.ts";

/** How long each property is tried, in milliseconds. */
const TIME = 6_000;

/**
 * What happens to a channel, in order: a piece is sent, or so many bytes are
 * awaited and read. Until such a step nobody reads: that is the stall.
 */
type Step = { send: number } | { read: number };

/** A length from one byte to more than a pipe holds, the small ones as likely as the large ones. */
const length = fc.integer({ min: 0, max: 17 }).chain((bits) =>
  fc.integer({ min: 1, max: 2 ** bits })
);

const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(fc.record({ send: length }), fc.record({ read: length })),
  { maxLength: 20 },
);

const kind = fc.constantFrom("pipe" as const, "TCP" as const, "unix" as const);

/** Each kind: [the end to read, the end to write]. */
const PAIRS = { pipe, ...SOCKETS };

/** Any bound of the buffer: from byte by byte to more than all that is sent. */
const buffer = fc.oneof(fc.constantFrom(1, 2, 4095, 4096, 4097), length, fc.constant(4 * 2 ** 20));

/** A byte buffer of one, and a lot to send: each byte is a system call or two. */
const FEW = 2_000;

/** Does the steps of one direction, then ends it; checks what arrives. */
async function drive(from: End, to: End, steps: readonly Step[], buffer: number, end: () => void) {
  const least = buffer < 64 ? FEW / steps.length : Infinity;
  const sizes = steps.map((step) => "send" in step ? Math.ceil(Math.min(step.send, least)) : 0);
  const sent = noise(sizes.reduce((sum, size) => sum + size, 0), steps.length + buffer);
  const arrived: Uint8Array<ArrayBuffer>[] = [];
  let sending = Promise.resolve();
  let asked = 0, read = 0;
  for (const [i, step] of steps.entries()) {
    if ("send" in step) {
      const piece = sent.subarray(asked, asked += sizes[i] ?? 0);
      sending = sending.then(() => from.write(piece));
      sending.catch(() => {}); // it is awaited below
    } else {
      const piece = await to.readExactly(Math.min(step.read, asked - read));
      arrived.push(piece);
      read += piece.length;
    }
  }
  sending = sending.then(end);
  arrived.push(await to.readAll());
  await sending;
  const all = new Uint8Array(await new Blob(arrived).arrayBuffer());
  assertEquals(all.length, sent.length, "the length of what arrived");
  const wrong = all.findIndex((byte, at) => byte !== sent[at]);
  assert(wrong < 0, `byte ${wrong} of ${sent.length} is another one`);
}

async function holds<T extends [unknown, ...unknown[]]>(
  property: fc.IAsyncPropertyWithHooks<T>,
): Promise<void> {
  let tried = 0;
  await fc.assert(property.beforeEach(() => void tried++), {
    numRuns: 1000,
    interruptAfterTimeLimit: TIME,
  });
  assert(tried > 5, `only ${tried} were tried`);
}

Deno.test("any channels at one time, any pieces, any stalls, any buffer: all arrives", async () => {
  const channels = fc.array(fc.record({ from: kind, to: kind, steps }), {
    minLength: 1,
    maxLength: 6,
  });
  await holds(fc.asyncProperty(channels, buffer, async (channels, buffer) => {
    const all = channels.map(({ from, to, steps }) => {
      const [source, upstream] = PAIRS[from]();
      const [downstream, sink] = PAIRS[to]();
      return { source, upstream, sink, downstream, steps };
    });
    const { args, given } = numbered(
      ...all.map(({ source, sink }) => [source, sink] as const),
    );
    using running = iocopy(`-b ${buffer} ${args}`, given);
    await Promise.all(all.map(async ({ upstream, downstream, steps }) => {
      await drive(upstream, downstream, steps, buffer, () => upstream.close());
      downstream.close();
    }));
    await succeeds(running);
  }));
});

Deno.test("both directions of two sockets at once: all arrives, either way", async () => {
  const socket = fc.constantFrom("TCP" as const, "unix" as const);
  const twoWays = fc.record({ near: socket, far: socket, there: steps, back: steps });
  await holds(fc.asyncProperty(twoWays, buffer, async ({ near, far, there, back }, buffer) => {
    const [a, left] = PAIRS[near]();
    const [b, right] = PAIRS[far]();
    using running = iocopy(`-b ${buffer} 3 4 4 3`, { 3: a, 4: b });
    await Promise.all([
      drive(left, right, there, buffer, () => left.shutdownWrite()),
      drive(right, left, back, buffer, () => right.shutdownWrite()),
    ]);
    await succeeds(running);
    left.close();
    right.close();
  }));
});
