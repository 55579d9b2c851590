/** The progress, on a real terminal and elsewhere. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import type { ChannelStatus } from "../engine.ts";
import { Log } from "../cli/log.ts";
import { fit, Progress, showProgress } from "../cli/progress.ts";
import { traffic } from "../cli/serving.ts";
import { listening, makeFifo, O_CREAT, O_RDONLY, O_RDWR, open, pipe, terminal } from "./ends.ts";
import { COMMAND, ROOT } from "./harness.ts";
import { DEADLINE, inFolder, iocopy, outputOf, within } from "./probe.ts";
import { needing } from "./programs.ts";
import { lines, pause } from "./watching.ts";

const CHANNEL = {
  operations: 2,
  seconds: 1,
  route: "copy" as const,
  reason: undefined,
  pipes: { read: undefined, own: undefined, write: undefined },
  ended: undefined,
  error: undefined,
};

/** The words of a line, separated by one space. */
function words(line: string): string {
  return line.replaceAll(/ +/g, " ");
}

Deno.test("a line for each width", () => {
  const there = { ...CHANNEL, rfd: 0, wfd: 7, bytes: 0 };
  const back = { ...CHANNEL, rfd: 6, wfd: 1, bytes: 0 };
  const progress = new Progress([there, back], 4_000_000, 0);
  there.bytes = 1_500_000;
  progress.pieces(false, 8000);
  there.bytes = 1_900_000;
  back.bytes = 100_000;
  const widths = [150, 120, 100, 80, 60, 40, 30, 20, 10, 1];
  assertEquals(widths.map((width) => fit(progress.pieces(false, 10_000), width)), [
    "0:00:10  0->7 1.90 MB  6->1  100 kB   250 kB/s  mean  200 kB/s  [===================>                  ]   50%  0:00:10 left",
    "0:00:10  0->7 1.90 MB  6->1  100 kB   250 kB/s  mean  200 kB/s  [=================>                ]   50%  0:00:10 left",
    "0:00:10  0->7 1.90 MB  6->1  100 kB   250 kB/s  mean  200 kB/s  [=======>      ]   50%  0:00:10 left",
    "0:00:10  0->7 1.90 MB  6->1  100 kB   250 kB/s  [=====>    ]   50%  0:00:10 left",
    "0:00:10  0->7 1.90 MB  6->1  100 kB   250 kB/s   50%",
    "0->7 1.90 MB  6->1  100 kB   50%",
    "0->7 1.90 MB  [====>   ]   50%",
    "0->7 1.90 MB   50%",
    " 50%",
    " ",
  ]);
});

Deno.test("80 columns have room for a bar, of one channel, of both directions, and for days", () => {
  const there = { ...CHANNEL, rfd: 0, wfd: 1, bytes: 0 };
  const back = { ...CHANNEL, rfd: 6, wfd: 1, bytes: 0 };
  const lineOf = (channels: ChannelStatus[], milliseconds: number) => {
    there.bytes = 0;
    const progress = new Progress(channels, 4_000_000, 0);
    there.bytes = 2_000_000;
    return fit(progress.pieces(false, milliseconds), 79);
  };
  const DAY = 24 * 60 * 60 * 1000;
  assertEquals([lineOf([there], 10_000), lineOf([there, back], 10_000), lineOf([there], DAY)], [
    "0:00:10  0->1 2.00 MB   200 kB/s  [===========>           ]   50%  0:00:10 left",
    "0:00:10  0->1 2.00 MB  6->1     0 B   200 kB/s  [====>    ]   50%  0:00:10 left",
    "24:00:00  0->1 2.00 MB     23 B/s  [==========>          ]   50%  24:00:00 left",
  ]);
});

Deno.test("no line is wider than the terminal, and none is empty", () => {
  for (const count of [1, 2, 4, 5, 100]) {
    for (const size of [1, 5000, 2 ** 53]) {
      const channels = Array.from(
        { length: count },
        (_, n) => ({ ...CHANNEL, rfd: 10 * n, wfd: 10 * n + 1, bytes: 1000 ** (n % 6) }),
      );
      const progress = new Progress(channels, size, 0);
      for (let width = 1; width < 300; width++) {
        for (const last of [false, true]) {
          const line = fit(progress.pieces(last, 1e9), width);
          assert(line.length <= width && (line.trim() !== "" || width < 4), `${width}: ${line}`);
        }
      }
    }
  }
});

Deno.test("not on a terminal: a line at the end", async () => {
  const [input, stdin] = pipe();
  using running = iocopy("p 0 1", { 0: input });
  await stdin.write("twelve bytes");
  stdin.close();
  const { code, stderr } = await running.outcome;
  assertEquals(code, 0);
  assertMatch(words(stderr), /^iocopy: 0:00:\d\d 0->1 12 B mean \S+ k?B\/s\n$/);
});

Deno.test("not on a terminal: a line every ten seconds", async () => {
  const [input, stdin] = pipe();
  const [log, logging] = pipe();
  using running = iocopy("p --size=24 0 1", { 0: input, 2: logging });
  await stdin.write("twelve bytes");
  const line = await within("a line", lines(log)());
  assertMatch(
    words(line),
    /^iocopy: 0:00:1\d 0->1 12 B 1 B\/s mean 1 B\/s \[=+> +\] 50% 0:00:1\d left$/,
  );
  stdin.close();
  assertEquals((await running.outcome).code, 0);
  log.close();
});

Deno.test("the size of a regular file is known, counted from its offset", async () => {
  await inFolder(async (folder) => {
    const path = `${folder}/file`;
    await Deno.writeFile(path, new Uint8Array(100_000));
    const file = open(path, O_RDONLY);
    await file.readExactly(40_000);
    using running = iocopy("p 0 1", { 0: file });
    const { stderr } = await running.outcome;
    assertMatch(words(stderr), / 0->1 60\.0 kB mean .* \[=+\] 100%\n$/);
  });
});

for (const isTerminal of [true, false]) {
  Deno.test(`serving ${isTerminal ? "" : "not "}on a terminal: a last line stays, even after no time at all`, () => {
    const kept: string[] = [];
    class Kept extends Log {
      override keep(text: string): void {
        kept.push(text);
      }
      override flush(): void {}
    }
    const { now } = performance;
    const { isTerminal: really } = Deno.stderr;
    try {
      performance.now = () => 1;
      Deno.stderr.isTerminal = () => isTerminal;
      showProgress([], 0, new Kept(), traffic([]))();
    } finally {
      performance.now = now;
      Deno.stderr.isTerminal = really;
    }
    // As the last line of pairs: on a terminal without the program's name.
    assertEquals(kept, [`${isTerminal ? "" : "iocopy: "}0 open  0.0 connections/s  0 B/s\n`]);
  });
}

for (const columns of [100, 60, 30]) {
  Deno.test(`pairs and services at once in ${columns} columns: one line has both`, async () => {
    const [input, stdin] = pipe();
    const [master, slave] = terminal();
    master.columns = columns;
    using running = iocopy("p 0 1 3 127.0.0.1:9", { 0: input, 2: slave, 3: listening() });
    const ERASE = "\r\x1b[J";
    let drawn = "";
    while (drawn.split(ERASE).length < 3) {
      drawn += new TextDecoder().decode(await within("a line", master.read()));
    }
    for (const line of drawn.split(ERASE).slice(1, -1)) {
      assertMatch(words(line), /^0 open .*0->1 0 B/);
      assert(line.length < columns && line.length >= columns / 2, line);
    }
    running.kill("SIGTERM");
    stdin.close();
    await running.outcome;
    master.close();
  });
}

Deno.test("on a terminal of 80 columns, the line of one channel has a bar", async () => {
  const [input, stdin] = pipe();
  const [master, slave] = terminal();
  master.columns = 80;
  using running = iocopy("p --size=24 0 1", { 0: input, 2: slave });
  await stdin.write("twelve bytes");
  let drawn = "";
  while (!drawn.includes("50%")) {
    drawn += new TextDecoder().decode(await within("50%", master.read()));
  }
  assertMatch(drawn, / 0->1 .* \[=+> +\] {3}50%/);
  stdin.close();
  await running.outcome;
  master.close();
});

for (const others of ["", " 3 4"]) {
  Deno.test(`data on the terminal${others && ", of one channel of two,"} is not mixed with the line`, async () => {
    const [input, stdin] = pipe();
    const [other, elsewhere] = pipe();
    const [master, slave] = terminal();
    master.columns = 100;
    const given = {
      0: input,
      1: slave.duplicate(),
      2: slave,
      3: other,
      4: open("/dev/null", O_RDWR),
    };
    using running = iocopy(`vp 0 1${others}`, given);
    let screen = "";
    const until = async (text: string) => {
      while (!screen.includes(text)) {
        screen += new TextDecoder().decode(await within(text, master.read()));
      }
    };
    await pause(600); // a line would be there
    await stdin.write("Password: ");
    await until("1 < 10");
    await pause(300);
    await stdin.write("x");
    await until("1 < 1\r");
    stdin.close();
    elsewhere.close();
    await until("mean");
    assertEquals((await running.outcome).code, 0);
    // What is reported comes before or after the bytes.
    const rest = screen.replaceAll(/iocopy: \d [<>] \d+\r\n/g, "");
    assertMatch(words(rest), /Password: x0:00:\d\d 0->1 11 B (3->4 0 B )?mean/);
    assert(!screen.includes("\r\x1b[J"), screen);
    master.close();
  });
}

/** A terminal in which iocopy runs. */
class Screen implements AsyncDisposable {
  readonly #directory = Deno.makeTempDirSync();
  /** What iocopy can read as 0, and write as 1. */
  readonly stdin = this.#fifo("0");
  readonly stdout = this.#fifo("1");

  #fifo(name: string) {
    const path = `${this.#directory}/${name}`;
    makeFifo(path);
    return open(path, O_RDWR | O_CREAT);
  }

  async tmux(...args: string[]): Promise<string> {
    const socket = ["-f", "/dev/null", "-S", `${this.#directory}/tmux`];
    const { code, stdout, stderr } = await outputOf(["tmux", ...socket, ...args], { cwd: ROOT });
    assertEquals(code, 0, `tmux ${args}: ${stderr}`);
    return stdout;
  }

  /** Starts iocopy on a terminal with so many columns. */
  async start(columns: number, args: string): Promise<void> {
    const run =
      `seq 9; "$@" < ${this.#directory}/0 > ${this.#directory}/1; echo "status $?"; exec cat`;
    // On a terminal, and only there, the runtime prints warnings if other processes
    // change its cache: so it has one of its own.
    const caches = `${this.#directory}/deno`;
    await this.tmux(
      ...["new-session", "-d", "-x", String(columns), "-y", "24", "-e", "LANG=C"],
      ...["-e", `DENO_DIR=${caches}`],
      ...["sh", "-c", run, "sh", ...COMMAND, ...args.split(" ")],
    );
  }

  /** The lines below the line "9", without empty ones, as soon as `isThere` accepts them. */
  async until(what: string, isThere: (lines: string[]) => boolean): Promise<string[]> {
    const late = performance.now() + DEADLINE;
    for (;;) {
      const text = await this.tmux("capture-pane", "-p");
      const [above = "", below = ""] = text.split(/^9$/m);
      const lines = below.split("\n").filter((line) => line);
      if (above.endsWith("8\n") && isThere(lines)) return lines;
      assert(performance.now() < late, `${what} is not on the screen:\n${text}`);
      await pause();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.tmux("kill-server");
    for (const end of [this.stdin, this.stdout]) end.close();
    await Deno.remove(this.#directory, { recursive: true });
  }
}

function isOver(lines: string[]): boolean {
  return lines.at(-1)?.startsWith("status ") ?? false;
}

Deno.test({
  ...needing(["tmux"], "the live line follows the bytes, and the width of the terminal"),
  fn: async () => {
    await using screen = new Screen();
    await screen.start(100, "p --size=4000 0 1");
    await screen.until("the line", ([line = ""]) => line.includes("   0%  -:--:-- left"));
    await screen.stdin.write("x".repeat(1000));
    const [quarter = ""] = await screen.until("25%", ([line = ""]) => line.includes("  25%"));
    assertMatch(
      words(quarter),
      /^0:00:\d\d 0->1 1\.00 kB \S+ k?B\/s mean \S+ k?B\/s \[=+> +\] 25% 0:00:\d\d left$/,
    );
    // A terminal that becomes narrower wraps the line; nothing of that may be left.
    const widths = [[60, 40], [30, 18], [45, 31], [12, 4], [200, 101], [100, 80]] as const;
    for (const [columns, least] of widths) {
      await pause(300); // tmux reports a second change within 250 ms late
      await screen.tmux("resize-window", "-x", String(columns));
      await screen.until(
        `one line in ${columns} columns`,
        ([line = "", ...others]) =>
          line.length < columns && line.length >= least && / 25%/.test(line) && !others.length,
      );
    }
    await screen.stdin.write("x".repeat(3000));
    await screen.until("100%", ([line = ""]) => line.includes(" 100%"));
    screen.stdin.close();
    const [line = "", ...others] = await screen.until("the end", isOver);
    assertEquals(others, ["status 0"], line);
    assertMatch(words(line), /^0:00:\d\d 0->1 4\.00 kB mean \S+ k?B\/s \[=+\] 100%$/);
  },
});

Deno.test({
  ...needing(["tmux"], "the live line does not mix with reports, errors and statistics"),
  fn: async () => {
    await using screen = new Screen();
    await screen.start(80, "vxps --size=10 0 1");
    for (let i = 1; i <= 3; i++) {
      await screen.stdin.write("\x1b");
      await screen.until("a report", (lines) => lines.at(-1)?.includes(` ${i}0%`) ?? false);
    }
    screen.stdout.close();
    const lines = await screen.until("the end", isOver);
    const patterns = [
      ...Array(3).fill([
        /^iocopy: \d{4}\S+Z 0 -> 1: 1 bytes$/,
        /^0000000\d {2}1b {48}\|\.\|$/,
        /^0000000\d$/,
        /^iocopy: 0 > 1$/,
        /^iocopy: 1 < 1$/,
      ]).flat(),
      /^iocopy: write 1: Broken pipe$/,
      /^0:00:\d\d {2}0->1 {5}3 B .* 30%$/,
      /^iocopy: 0 -> 1: 3 bytes in .*, write 1: Broken pipe$/,
      /^iocopy: total: 3 bytes in /,
      /^status 111$/,
    ];
    assertEquals(lines.length, patterns.length, lines.join("\n"));
    patterns.forEach((pattern, i) => assertMatch(lines[i] ?? "", pattern));
  },
});
