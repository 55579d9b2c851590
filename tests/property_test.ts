/**
 * For any sizes of pieces, stalls and buffers, the output is the input. A failure
 * prints the seed that repeats it.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { type End, pipe, SOCKETS } from "./ends.ts";
import { succeeds } from "./expect.ts";
import { iocopy, noise, numbered } from "./probe.ts";
import { holds } from "./properties.ts";

/** How long each property is tried, in milliseconds. */
const TIME = 6_000;

/**
 * What happens to a channel, in order: a piece is sent, or so many bytes are read.
 * Before a step that reads, nobody reads: that is the stall.
 */
type Step = { send: number } | { read: number };

/** A length from one byte to more than a pipe holds; all magnitudes are equally likely. */
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

/** Any size of the buffer: from one byte to more than everything that is sent. */
const buffer = fc.oneof(fc.constantFrom(1, 2, 4095, 4096, 4097), length, fc.constant(4 * 2 ** 20));

/** The most bytes to send through a tiny buffer, where each byte takes one or two system calls. */
const FEW = 2_000;

/** Takes the steps of one direction, then ends it, and checks what arrives. */
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

Deno.test("any channels at the same time, any pieces, any stalls, any buffer: everything arrives", async () => {
  const channels = fc.array(fc.record({ from: kind, to: kind, steps }), {
    minLength: 1,
    maxLength: 6,
  });
  await holds(
    TIME,
    fc.asyncProperty(channels, buffer, async (channels, buffer) => {
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
    }),
  );
});

Deno.test("both directions of two sockets at the same time: everything arrives", async () => {
  const socket = fc.constantFrom("TCP" as const, "unix" as const);
  const twoWays = fc.record({ near: socket, far: socket, there: steps, back: steps });
  await holds(
    TIME,
    fc.asyncProperty(twoWays, buffer, async ({ near, far, there, back }, buffer) => {
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
    }),
  );
});
