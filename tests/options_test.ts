/** The command line, as the parser reads it. */
import { assertEquals, assertThrows } from "@std/assert";
import { parse, type Settings, UsageError } from "../cli/options.ts";

/** The settings of a command line that differ from those of `iocopy 0 1`. */
function settings(line: string): Partial<Settings> {
  const [usual, given] = [parse(["0", "1"]), parse(line.split(" "))];
  return Object.fromEntries(
    Object.entries(given).filter(([name, value]) =>
      JSON.stringify(value) !== JSON.stringify(usual[name as keyof Settings])
    ),
  );
}

const MEANINGS: [line: string, set: Partial<Settings>][] = [
  ["0 1", {}],
  ["0 7 6 1", { pairs: [[0, 7], [6, 1]] }],
  ["v 0 1", { verbose: true }],
  ["-v 0 1", { verbose: true }],
  ["0 1 --verbose", { verbose: true }],
  ["s 0 1", { stats: true }],
  ["-s 0 1", { stats: true }],
  ["--stats 0 1", { stats: true }],
  ["--stats=json 0 1", { stats: true, json: true }],
  ["p 0 1", { progress: true }],
  ["-p 0 1", { progress: true }],
  ["--progress --size=10M 0 1", { progress: true, size: 10 * 2 ** 20 }],
  ["--size 3 0 1", { size: 3 }],
  ["--size=8192T 0 1", { size: 2 ** 53 }],
  ["x 0 1", { dump: true }],
  ["-x 0 1", { dump: true }],
  ["--dump 0 1", { dump: true }],
  ["vspx 0 1", { verbose: true, stats: true, progress: true, dump: true }],
  ["v s 0 1 x 2 3", { verbose: true, stats: true, dump: true, pairs: [[0, 1], [2, 3]] }],
  ["-t 30 0 1", { timeout: 30 }],
  ["-t1.5 0 1", { timeout: 1.5 }],
  ["--timeout=.25 0 1", { timeout: 0.25 }],
  ["--timeout 2. 0 1", { timeout: 2 }],
  ["-vst1.5 0 1", { verbose: true, stats: true, timeout: 1.5 }],
  ["-vb64k -t9 0 1", { verbose: true, buffer: 65536, timeout: 9 }],
  ["-b 64M 0 1", { buffer: 64 * 2 ** 20 }],
  ["-b1 0 1", { buffer: 1 }],
  ["-h", { pairs: [], help: true }],
  ["--version", { pairs: [], version: true }],
];

for (const [line, set] of MEANINGS) {
  Deno.test(`options: ${line}`, () => assertEquals(settings(line), set));
}

const MISTAKES: [line: string, message: string][] = [
  ["", '"" is not a descriptor'],
  ["t 0 1", '"t" is not a descriptor'],
  ["vt 0 1", '"vt" is not a descriptor'],
  ["s", "no descriptors to copy"],
  ["0 1 127.0.0.1 1", '"127.0.0.1" is not a descriptor'],
  [
    "3 127.0.0.1",
    '"127.0.0.1" is neither a descriptor nor a target (HOST:PORT, [IPv6]:PORT, a path with a slash, @name)',
  ],
  [
    "v 3 4 5 socket",
    '"socket" is neither a descriptor nor a target (HOST:PORT, [IPv6]:PORT, a path with a slash, @name)',
  ],
  ["--stats=xml 0 1", '--stats: "xml" is not "json"'],
  ["--stats= 0 1", '--stats: "" is not "json"'],
  ["--stats json 0 1", '"json" is not a descriptor'],
  ["-sjson 0 1", 'unknown option "-sjson"'],
  ["--json 0 1", 'unknown option "--json"'],
  ["--progress=1 0 1", "--progress takes no value"],
  ["--dump= 0 1", "--dump takes no value"],
  ["-t 0 0 1", '--timeout: "0" is not a number of seconds from 0.001 to 1000000000'],
  ["-t-5 0 1", '--timeout: "-5" is not a number of seconds from 0.001 to 1000000000'],
  ["--timeout=1e3 0 1", '--timeout: "1e3" is not a number of seconds from 0.001 to 1000000000'],
  ["--timeout=. 0 1", '--timeout: "." is not a number of seconds from 0.001 to 1000000000'],
  [
    "--timeout=9999999999 0 1",
    '--timeout: "9999999999" is not a number of seconds from 0.001 to 1000000000',
  ],
  ["0 1 -t", '--timeout: "" is not a number of seconds from 0.001 to 1000000000'],
  ["--size=0 0 1", '--size: "0" is not a size from 1 to 8192T bytes'],
  ["--size=8193T 0 1", '--size: "8193T" is not a size from 1 to 8192T bytes'],
  ["--size=10MB 0 1", '--size: "10MB" is not a size from 1 to 8192T bytes'],
  ["--buffer=65M 0 1", '--buffer: "65M" is not a size from 1 to 64M bytes'],
  ["--buffer=1G 0 1", '--buffer: "1G" is not a size from 1 to 64M bytes'],
];

for (const [line, message] of MISTAKES) {
  Deno.test(`options, a mistake: ${line}`, () => {
    const error = assertThrows(() => parse(line.split(" ")), UsageError);
    assertEquals(error.message, message);
  });
}
