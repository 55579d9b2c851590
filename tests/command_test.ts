/**
 * The command line: its options, what it prints, and what it refuses before it
 * moves a byte.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import project from "../deno.json" with { type: "json" };
import { type End, O_RDONLY, O_WRONLY, open, pipe } from "./ends.ts";
import { endOfFile, endsWith } from "./expect.ts";
import { inParallel, iocopy, prose, run, watched } from "./probe.ts";
import { follow } from "./watching.ts";

Deno.test("v reports every operation, exactly as the original", async () => {
  assertEquals(await run(["v", "0", "1"], "hello"), {
    code: 0,
    stdout: "hello",
    stderr: "iocopy: 0 > 5\niocopy: 1 < 5\niocopy: 0 > 0\n",
  });
});

Deno.test("without v nothing is reported", async () => {
  assertEquals(await run(["0", "1"], "hello"), { code: 0, stdout: "hello", stderr: "" });
});

Deno.test("empty input is an end of file", async () => {
  assertEquals(await run(["v", "0", "1"]), { code: 0, stdout: "", stderr: "iocopy: 0 > 0\n" });
});

Deno.test("options are accepted without a dash, as in the original, and in GNU's style", async () => {
  const verbose = "iocopy: 0 > 5\niocopy: 1 < 5\niocopy: 0 > 0\n";
  const all: string[] = [
    "v 0 1",
    "vv 0 1",
    "0 1 v",
    "-v 0 1",
    "0 1 -v",
    "0 -v 1",
    "--verbose 0 1",
    "0 1 --verbose",
    "-v -- 0 1",
    "-- v 0 1",
    "-vb64k 0 1",
    "-vb 64k 0 1",
    "v -b64k 0 1",
    "--buffer 64k v 0 1",
    "-b 1 -b 5 v 0 1",
  ];
  await inParallel(all, async (args) => {
    const expected = { code: 0, stdout: "hello", stderr: verbose };
    assertEquals(await run(args.split(" "), "hello"), expected, args);
  });
});

Deno.test("v is accepted between the pairs", async () => {
  const [reading, writing] = pipe();
  const [out, into] = pipe();
  using running = iocopy("0 1 v 3 4", { 3: reading, 4: into });
  await writing.write("hello");
  assertEquals(await out.readText(5), "hello");
  writing.close();
  await endOfFile(out);
  out.close();
  const { code, stderr } = await running.outcome;
  assertEquals(code, 0);
  assertEquals(
    stderr.split("\n").filter((line) => !line.startsWith("iocopy: 0 ")),
    ["iocopy: 3 > 5", "iocopy: 4 < 5", "iocopy: 3 > 0", ""],
  );
});

Deno.test("-b limits the buffer, in each of its spellings", async () => {
  const input = prose(100_000);
  const all: [args: string, most: number][] = [
    ["-b1000", 1000],
    ["-b 1000", 1000],
    ["--buffer=1000", 1000],
    ["--buffer 1000", 1000],
    ["-b4k", 4096],
    ["-b 16K", 16384],
    ["--buffer=32k", 32768],
  ];
  await inParallel(all, async ([args, most]) => {
    const { code, stdout, stderr } = await run([...args.split(" "), "v", "0", "1"], input);
    assertEquals([code, stdout], [0, input], args);
    const { sizes } = follow(stderr.split("\n"), 0, 1);
    assertEquals(Math.max(...sizes), most, args);
  });
  // The largest size, in two ways; and the smallest.
  for (const args of ["-b64M", `--buffer=${64 * 1024 * 1024}`, "-b1"]) {
    assertEquals(await run([args, "0", "1"], "hello"), { code: 0, stdout: "hello", stderr: "" });
  }
});

Deno.test("--help where nobody can read it is one line", async () => {
  using running = iocopy("--help", { 1: open("/dev/full", O_WRONLY) });
  await endsWith(running, 111, "iocopy: write 1: No space left on device\n");
});

Deno.test("--help and --version are printed on standard output", async () => {
  for (const args of [["-h"], ["--help"], ["-hv"], ["--help", "0"], ["-h", "0", "63"]]) {
    const { code, stdout, stderr } = await run(args, "hello");
    assertEquals([code, stderr], [0, ""], args.join(" "));
    assertMatch(stdout, /^usage: iocopy \[options\] rfd1 wfd1/);
    for (const word of ["--verbose", "--buffer", "--help", "--version"]) {
      assert(stdout.includes(word), `${word} is not in the help`);
    }
  }
  for (const args of [["-V"], ["--version"], ["-V", "x"]]) {
    const { code, stdout, stderr } = await run(args, "hello");
    assertEquals([code, stderr], [0, ""], args.join(" "));
    assert(stdout.startsWith(`iocopy ${project.version} `), stdout);
    assertEquals(stdout.indexOf("\n"), stdout.length - 1, "the version is one line");
  }
});

/** Checks that a wrong use prints one line, exits with 100 and moves nothing. */
async function isWrong(
  args: readonly string[],
  says: string,
  given: Record<number, End> = {},
): Promise<void> {
  const shown = JSON.stringify(args);
  const [reading, writing] = pipe();
  const [out, into] = pipe();
  await writing.write("hello");
  using running = watched(args, { 0: reading, 1: into, ...given });
  const { code, stderr } = await running.outcome;
  assertEquals(code, 100, `${shown}: ${stderr}`);
  assertMatch(stderr, /^iocopy: \P{Cc}+; iocopy --help tells more\n$/u, shown);
  assert(stderr.includes(says), `${shown} should say ${says}: ${stderr}`);
  writing.close();
  into.close();
  const left = new TextDecoder().decode(await reading.readAll());
  assertEquals([left, await out.readText(1)], ["hello", ""], `${shown} moved something`);
  reading.close();
  out.close();
}

Deno.test("wrong use exits with 100 and one line, and moves nothing", async () => {
  const wrong: [args: string[], says: string][] = [
    // No pair, or half of one.
    [[], "no descriptors"],
    [["v"], "no descriptors"],
    [["-v"], "no descriptors"],
    [["--"], "no descriptors"],
    [["0"], "descriptor 0"],
    [["0", "1", "0"], "descriptor 0"],
    [["v", "0", "1", "2"], "descriptor 2"],
    // Not descriptors.
    [["q", "1"], '"q"'],
    [["0", "x"], '"x"'],
    [["0", "v", "1"], '"v"'],
    [["0", "1", "vq", "0", "1"], '"vq"'],
    [["0", "1.5"], '"1.5"'],
    [["0", "0x1"], '"0x1"'],
    [["0", "1e0"], '"1e0"'],
    [["0", "+1"], '"+1"'],
    [["0", "1,"], '"1,"'],
    [["0", ""], '""'],
    [["", "1"], '""'],
    [["0", " "], '" "'],
    [["0", " 1"], '" 1"'],
    [["0", "1 "], '"1 "'],
    [["0", "1\n"], '"1\\n"'],
    [["0", "\u0661"], "is neither a descriptor nor a target"],
    [["0", "2147483648"], '"2147483648"'],
    [["0", "4294967297"], '"4294967297"'],
    [["0", "18446744073709551617"], '"18446744073709551617"'],
    [["0", "-"], "-"],
    [["--", "0", "-1"], '"-1"'],
    [["-v", "--", "-v", "0", "1"], '"-v"'],
    [["-v", "0", "1.0"], '"1.0"'],
    [["-v", "0", "0x1"], '"0x1"'],
    [["-v", "0", ""], '""'],
    // Unknown options.
    [["0", "-1"], "-1"],
    [["-q", "0", "1"], "-q"],
    [["-vq", "0", "1"], "-vq"],
    [["0", "1", "-qv"], "-qv"],
    [["-v1", "0", "1"], "-v1"],
    [["-v=1", "0", "1"], "-v=1"],
    [["-v.x", "0", "1"], "-v.x"],
    [["--verbose.x", "0", "1"], "--verbose.x"],
    [["--buffer.x=1", "0", "1"], "--buffer.x"],
    [["--no-buffer", "0", "1"], "--no-buffer"],
    [["--constructor", "0", "1"], "--constructor"],
    [["--verbos", "0", "1"], "--verbos"],
    [["--no-verbose", "0", "1"], "--no-verbose"],
    [["--verbose=1", "0", "1"], "--verbose"],
    [["--help=no", "0", "1"], "--help"],
    [["--fast", "0", "1"], "--fast"],
    [["--fast=1", "0", "1"], "--fast"],
    [["---", "0", "1"], "---"],
    [["--_=3", "0", "1"], "--_"],
    [["--_", "0", "1"], "--_"],
    [["-_", "0", "1"], "-_"],
    [["-q\nz", "0", "1"], "q"],
    [["--a\nb", "0", "1"], "a"],
    [["--\x1b[31mred", "0", "1"], "red"],
    // Bad sizes.
    [["-b", "0", "0", "1"], '"0"'],
    [["-b0", "0", "1"], '"0"'],
    [["-b", "x", "0", "1"], '"x"'],
    [["-b", "-1", "0", "1"], "-1"],
    [["-b", "1.5", "0", "1"], '"1.5"'],
    [["-b", "64M", "--buffer=", "0", "1"], '""'],
    [["-b64Mk", "0", "1"], '"64Mk"'],
    [["-b", "1G", "0", "1"], '"1G"'],
    [["-b65M", "0", "1"], '"65M"'],
    [["--buffer=99999999999", "0", "1"], '"99999999999"'],
    [["0", "1", "-b"], '""'],
    [["0", "1", "--buffer"], '""'],
    // Options of serving, where nobody listens.
    [["-c5", "0", "1"], "--connections: none of the descriptors listens"],
    [["--connect-timeout=3", "0", "1"], "--connect-timeout: none of the descriptors listens"],
    [["0", "1", "--exit-idle=20"], "--exit-idle: none of the descriptors listens"],
    [["--proxy-protocol", "0", "1"], "--proxy-protocol: none of the descriptors listens"],
  ];
  await inParallel(wrong, ([args, says]) => isWrong(args, says));
});

Deno.test("a number that is not open is wrong use, and is named", async () => {
  await inParallel(
    [["0", "63"], ["63", "1"], ["0", "2147483647"], ["0", "1", "200", "1"]],
    (args) => {
      const number = args.find((arg) => Number(arg) > 2) ?? "";
      return isWrong(args, `descriptor ${number} is not open`);
    },
  );
});

Deno.test("a descriptor that is open for the other direction only is wrong use", async () => {
  const [reading, writing] = pipe();
  using toRead = open("/dev/null", O_RDONLY);
  using toWrite = open("/dev/null", O_WRONLY);
  const O_PATH = 0o10000000;
  using named = open("/dev/null", O_PATH);
  const all: [args: string[], says: string, end: End][] = [
    [["7", "1"], "descriptor 7 is not open for reading", toWrite],
    [["0", "7"], "descriptor 7 is not open for writing", toRead],
    [["7", "1"], "descriptor 7 is not open for reading", writing],
    [["0", "7"], "descriptor 7 is not open for writing", reading],
    [["7", "1"], "descriptor 7 is not open for reading", named],
    [["0", "7"], "descriptor 7 is not open for writing", named],
    [["0", "1", "7", "1"], "descriptor 7 is not open for reading", toWrite],
    [["0", "1", "0", "7"], "descriptor 7 is not open for writing", toRead],
  ];
  await inParallel(all, ([args, says, end]) => isWrong(args, says, { 7: end }));
  reading.close();
  writing.close();
});
