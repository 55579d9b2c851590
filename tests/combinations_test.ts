/**
 * Options in any combination, with any kind of descriptor: what comes out is what
 * went in, and the status is 0. A failure prints the seed that repeats it.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { type End, O_APPEND, O_CREAT, O_WRONLY, open, pipe, tcpPair, unixPair } from "./ends.ts";
import { inFolder, iocopy, noise, same } from "./probe.ts";
import { holds } from "./properties.ts";

/** One choice of each line, or none. */
const OPTIONS: readonly (readonly string[])[] = [
  ["v", "-v", "--verbose"],
  ["s", "--stats", "--stats=json"],
  ["p", "--progress"],
  ["x", "--dump"],
  ["-b 1", "-b4097", "--buffer=64k", "-b 64M"],
  ["-t 20", "--timeout=30.5"],
  ["--size=20000", "--size 1T"],
  ["--rate=200k", "--rate 1G"],
  ["--half-closed=20"],
];

const options = fc.tuple(...OPTIONS.map((line) => fc.option(fc.constantFrom(...line)))).map(
  (chosen) => chosen.filter((option) => option !== null),
).chain((chosen) => fc.shuffledSubarray(chosen, { minLength: chosen.length }));

const SOURCES = { pipe, TCP: tcpPair, unix: unixPair };
const SINKS = { ...SOURCES, file: "file", append: "append" } as const;

Deno.test("any options together, from anything to anything: all arrives", async () => {
  const source = fc.constantFrom(...Object.keys(SOURCES) as (keyof typeof SOURCES)[]);
  const sink = fc.constantFrom(...Object.keys(SINKS) as (keyof typeof SINKS)[]);
  const property = fc.asyncProperty(options, source, sink, (options, from, to) => {
    return inFolder(async (folder) => {
      const content = noise(20_000);
      const path = `${folder}/output`;
      const make = SINKS[to];
      const [input, feeding]: [End, End] = SOURCES[from]();
      const flags = O_WRONLY | O_CREAT | (make === "append" ? O_APPEND : 0);
      const [output, writing] = typeof make === "string" ? [undefined, open(path, flags)] : make();
      const [source, upstream] = from === "pipe" ? [input, feeding] : [feeding, input];
      const args = [...options.flatMap((option) => option.split(" ")), "3", "4"];
      using running = iocopy(args.join(" "), { 3: source, 4: writing });
      const fed = upstream.write(content).then(() => upstream.close());
      const arrived = output ? await output.readAll() : undefined;
      const { code, stderr } = await running.outcome;
      await fed;
      output?.close();
      assertEquals(code, 0, stderr);
      assert(same(arrived ?? await Deno.readFile(path), content), "other bytes");
    });
  });
  await holds(8000, property);
});
