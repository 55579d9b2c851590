/**
 * For any arguments, there is either a correct run, or exit status 100, one line that
 * says what is wrong, and no byte moved. And the runtime's own descriptors cannot be
 * reached.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import fc from "fast-check";
import { parse, UsageError } from "../cli/options.ts";
import { COMMAND, DENO_26, only, skippedIf } from "./harness.ts";
import { type End, pipe } from "./ends.ts";
import { endsWith } from "./expect.ts";
import { hasBytes, inFolder, inParallel, iocopy, watched } from "./probe.ts";

/** One printable line without control characters. */
// deno-lint-ignore no-control-regex
const ONE_LINE = /^[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,400}$/;

/** Words that people write, words that are almost right, and nonsense. */
const WORD = fc.oneof(
  { weight: 12, arbitrary: fc.constantFrom("0", "1", "6", "7") },
  {
    weight: 3,
    arbitrary: fc.constantFrom(
      "v",
      "s",
      "vs",
      "x",
      "-v",
      "--verbose",
      "--stats",
      "--stats=json",
      "-b1",
      "-b64k",
      "-b",
      "--buffer=3",
      "--buffer",
      "-xvs",
      "-b",
      "2k",
      "-t9",
      "--timeout=30.5",
      "--size=10",
    ),
  },
  {
    weight: 1,
    arbitrary: fc.constantFrom(
      "-",
      "--",
      "---",
      "-0",
      "+1",
      " 1",
      "1 ",
      "1.0",
      "1e0",
      "0x1",
      "007",
      "٣",
      "-1",
      "2147483647",
      "2147483648",
      "9".repeat(30),
      "",
      "vv7",
      "--buffer=",
      "--buffer=0",
      "--buffer=65M",
      "-b-1",
      "--no-verbose",
      "--verbose=false",
      "--stats=x",
      "--__proto__",
      "--_",
      "--_=3",
      "-_",
      "--constructor=1",
      "__proto__",
      "--help=1",
      "-t0",
      "--timeout=NaN",
      "--timeout=1e400",
      "--size=x",
      "--=",
      "-=",
      "--b",
      "-bb",
      "\n",
      "a\nb",
      "\x1b[31m",
      "\u009b31m",
      "\ud800",
    ),
  },
  { weight: 1, arbitrary: fc.integer({ min: -5, max: 100 }).map(String) },
  { weight: 1, arbitrary: fc.string({ unit: "binary", maxLength: 60 }) },
  { weight: 1, arbitrary: fc.string({ maxLength: 8 }).map((text) => `-${text}`) },
  { weight: 1, arbitrary: fc.string({ maxLength: 8 }).map((text) => `--${text}`) },
);
const WILD = fc.array(WORD, { maxLength: 9 });

/** Correct command lines, and ones with one wrong word. */
const PAIR = fc.tuple(fc.constantFrom("0", "6"), fc.constantFrom("1", "7"));
const OPTION = fc.constantFrom("v", "s", "x", "-v", "--stats=json", "-b7", "--buffer=2k", "-t60");
const GOOD = fc.tuple(
  fc.array(OPTION, { maxLength: 3 }),
  fc.array(PAIR, { minLength: 1, maxLength: 4 }),
)
  .map(([options, pairs]) => [...options, ...pairs.flat()].map(String));
const SPOILT = fc.tuple(GOOD, WORD, fc.nat()).map(([good, word, at]) =>
  good.toSpliced(at % (good.length + 1), 0, word)
);
const LINE = fc.oneof(WILD, GOOD, SPOILT).map((words) =>
  words.map((word) => word.replaceAll("\0", "")) // an argument cannot contain it
);

const SEED = Number(Deno.env.get("SEED") ?? Math.trunc(Math.random() * 2 ** 31));

Deno.test(`10,000 random command lines are accepted, or refused in one line (seed ${SEED})`, () => {
  let read = 0, refused = 0;
  fc.assert(
    fc.property(LINE, (args) => {
      try {
        const settings = parse(args);
        read++;
        const copied = [...settings.pairs, ...settings.services];
        assert(settings.help || settings.version || copied.length > 0);
        for (const fd of settings.pairs.flat()) {
          assert(Number.isInteger(fd) && fd >= 0 && fd < 2 ** 31);
        }
        assert(settings.buffer >= 1 && settings.buffer <= 64 * 2 ** 20);
        assert(settings.timeout >= 0 && settings.timeout <= 1e9 && settings.size >= 0);
      } catch (error) {
        if (!(error instanceof UsageError)) throw error;
        refused++;
        assertMatch(error.message, ONE_LINE);
      }
    }),
    { numRuns: 10_000, seed: SEED },
  );
  assert(read > 1000 && refused > 1000, `${read} read, ${refused} refused: the test is lopsided`);
});

const STARTS = Number(Deno.env.get("STARTS") ?? 120);

Deno.test(`${STARTS} random command lines as real commands: a correct run, or 100 and no byte moved (seed ${SEED})`, async () => {
  const kinds = new Map<number | null, number>();
  await fc.assert(
    fc.asyncProperty(LINE, async (args) => {
      const code = await check(args);
      kinds.set(code, (kinds.get(code) ?? 0) + 1);
    }),
    { numRuns: STARTS, seed: SEED, endOnFailure: true },
  );
  assert((kinds.get(0) ?? 0) > STARTS / 20 && (kinds.get(100) ?? 0) > STARTS / 10, `${[...kinds]}`);
});

const CONTENT = { 0: "what is in zero", 6: "and in six" } as const;

/** Runs the command with content in 0 and 6, and 1 and 7 to write to; returns its exit status. */
async function check(args: string[]): Promise<number | null> {
  const [in0, fill0] = pipe(), [in6, fill6] = pipe();
  const [out1, fd1] = pipe(), [out7, fd7] = pipe();
  using _ = closing(in0, in6, out1, out7, fd1, fd7);
  await fill0.write(CONTENT[0]);
  await fill6.write(CONTENT[6]);
  fill0.close();
  fill6.close();
  using running = watched(args, { 0: in0, 6: in6, 1: fd1, 7: fd7 }, { limit: 20_000 });
  fd1.close();
  fd7.close();
  const [text1, text7] = await Promise.all([text(out1), text(out7)]);
  const { code, signal, stderr } = await running.outcome;
  assertEquals(signal, null, `killed by a signal: ${stderr}`);
  if (code === 100) {
    assert(stderr.startsWith("iocopy: ") && stderr.endsWith("\n"), stderr);
    assertMatch(stderr.slice(0, -1), ONE_LINE);
    assertEquals([text1, text7], ["", ""]);
    for (const input of [in0, in6]) assert(await hasBytes(input), "a byte was read");
    return code;
  }
  assertEquals(code, 0, stderr);
  assert(!/\bat .*:\d+:\d+/.test(stderr), stderr);
  const settings = parse(args);
  if (settings.help || settings.version) {
    assert(text1.length > 10);
    return code;
  }
  // If several channels read one descriptor, either can get a piece; the sum is the same.
  const reads = new Set(settings.pairs.map(([rfd]) => rfd));
  const writes = new Set(settings.pairs.map(([, wfd]) => wfd));
  const expected = ([0, 6] as const).map((fd) => reads.has(fd) ? CONTENT[fd] : "").join("");
  if (!writes.has(2)) assertEquals(letters(text1 + text7), letters(expected));
  if (!writes.has(1)) assertEquals(text1, "");
  if (!writes.has(7)) assertEquals(text7, "");
  return code;
}

function letters(text: string): string {
  return [...text].sort().join("");
}

async function text(end: End): Promise<string> {
  return new TextDecoder().decode(await end.readAll());
}

function closing(...ends: End[]): Disposable {
  return { [Symbol.dispose]: () => ends.forEach((end) => end.close()) };
}

const notUtf8 = only("source", "an argument that is not UTF-8");
Deno.test(skippedIf(DENO_26, "Deno 2.6 itself refuses it", notUtf8), async () => {
  // The runtime of an executable panics before the program's first line.
  using running = iocopy([], {}, {
    command: ["bash", "-c", `exec "$@" $'\\xff' 1`, "-", ...COMMAND],
  });
  await endsWith(running, 100, 'iocopy: "\ufffd" is not a descriptor; iocopy --help tells more\n');
});

// ---- The runtime's own descriptors.

/** Every number from 3 up is refused, whether the runtime has a descriptor there or not. */
async function refusesAll(env: () => Record<string, string>): Promise<void> {
  const numbers = Array.from({ length: 62 }, (_, i) => i + 3);
  const refuses = async (fd: number) => {
    const [reading, writing] = pipe();
    await writing.write("unread");
    const pair = fd % 2 ? ["0", `${fd}`] : [`${fd}`, "1"];
    using running = watched(pair, { 0: reading, 1: writing }, { env: env() });
    const { code, stderr } = await running.outcome;
    assertEquals(code, 100, stderr);
    assertMatch(stderr, new RegExp(`iocopy: descriptor ${fd} is not open; .*\\n$`));
    assertEquals(await reading.readText(6), "unread");
    for (const end of [reading, writing]) end.close();
  };
  await inParallel(numbers, refuses, 2);
}

Deno.test("the runtime's descriptors cannot be reached by any number up to 64", async () => {
  const env = Deno.env.toObject();
  await refusesAll(() => env);
});

Deno.test(
  only("source", "the runtime's descriptors cannot be reached with a cold cache either"),
  async () => {
    await inFolder(async (folder) => {
      let count = 0;
      await refusesAll(() => ({ ...Deno.env.toObject(), DENO_DIR: `${folder}/${count++}` }));
    });
  },
);

Deno.test("while it runs, all descriptors that it was not given are close-on-exec", async () => {
  const [input, stdin] = pipe();
  const [stdout, output] = pipe();
  using running = iocopy("0 9", { 0: input, 9: output });
  await stdin.write("runs");
  await stdout.readText(4);
  const inherited: string[] = [];
  let closedOnExec = 0;
  for (const { name } of Deno.readDirSync(`/proc/${running.pid}/fdinfo`)) {
    try {
      const text = Deno.readTextFileSync(`/proc/${running.pid}/fdinfo/${name}`);
      const flags = parseInt(/flags:\s+(\d+)/.exec(text)?.[1] ?? "", 8);
      if (flags & 0o2000000) closedOnExec++;
      else inherited.push(name);
    } catch (error) {
      // The runtime's own threads open and close files all the while.
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  assertEquals(inherited.sort(), ["0", "1", "2", "9"]);
  assert(closedOnExec > 0, "the runtime has descriptors of its own");
  stdin.close();
  assertEquals((await running.outcome).code, 0);
  stdout.close();
});
