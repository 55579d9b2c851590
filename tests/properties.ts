/**
 * Properties that are tried in as many cases as a time allows.
 *
 * @module
 */
import fc from "fast-check";

/** The cases that are tried however long that takes. */
const LEAST = 6;

/** Tries a property for so many milliseconds. (A time limit of fast-check would not wait for the last case.) */
export async function holds<T extends [unknown, ...unknown[]]>(
  milliseconds: number,
  property: fc.IAsyncPropertyWithHooks<T>,
): Promise<void> {
  let tried = 0;
  const start = performance.now();
  const run = property.run.bind(property);
  property.run = async (value) =>
    tried++ < LEAST || performance.now() - start < milliseconds ? await run(value) : null;
  await fc.assert(property, { numRuns: 1000 });
}
