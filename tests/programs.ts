/**
 * Other programs, with iocopy among them. They are started from a folder that is
 * removed at the end of the test, and are killed then.
 *
 * @module
 */
import { resolve } from "node:path";
import { BINARY, COMMAND, type Head, ROOT, skippedIf } from "./harness.ts";
import { within } from "./probe.ts";

/** The Debian packages of programs, if they have another name. */
const PACKAGES: Record<string, string> = {
  "s6-ipcclient": "s6",
  "s6-ipcserver": "s6",
  "s6-ipcserver-socketbinder": "s6",
  ab: "apache2-utils",
  cc: "gcc",
  chroot: "coreutils",
  "dpkg-deb": "dpkg",
  hexdump: "bsdextrautils",
  inetd: "openbsd-inetd",
  nginx: "nginx-light",
  pkill: "procps",
  prlimit: "util-linux",
  scp: "openssh-client",
  setpriv: "util-linux",
  setsid: "util-linux",
  ssh: "openssh-client",
  "ssh-keygen": "openssh-client",
  sshd: "openssh-server",
  "systemd-analyze": "systemd",
  "systemd-socket-activate": "systemd",
  tcpclient: "ucspi-tcp",
  tcpserver: "ucspi-tcp",
  unshare: "util-linux",
};

/** The path of a program; undefined if it is missing. */
export function find(program: string): string | undefined {
  // An ordinary user's PATH does not have sshd.
  const folders = [...(Deno.env.get("PATH") ?? "").split(":"), "/usr/sbin"];
  return folders.map((folder) => resolve(folder, program)).find((path) => {
    try {
      return Deno.statSync(path).isFile;
    } catch {
      return false;
    }
  });
}

/** Whether sshd lets in who runs the tests: passwd(5) has a shell, or something in its place. */
function mayLogIn(): boolean {
  const users = Deno.readTextFileSync("/etc/passwd").split("\n").map((line) => line.split(":"));
  const shell = users.find(([, , uid]) => Number(uid) === Deno.uid())?.at(-1) ?? "";
  return !/\/(nologin|false)$/.test(shell);
}

/**
 * The name of a test that needs other programs, and whether it is skipped. Where
 * one is missing the name says so, and what to install: a line on standard error
 * does not show in a quiet run. Where the environment variable CI is set, a missing
 * program is an error.
 */
export function needing(
  programs: readonly string[],
  name: string,
): Head {
  const missing = programs.filter((program) => !find(program));
  if (missing.length === 0) {
    const locked = programs.includes("sshd") && !mayLogIn();
    return skippedIf(locked, "sshd lets in no user whose shell is nologin", name);
  }
  const packages = new Set(missing.map((program) => PACKAGES[program] ?? program));
  const advice = `${missing.join(", ")} missing, apt-get install ${[...packages].join(" ")}`;
  if (Deno.env.has("CI")) throw new Error(`${name}: ${advice}`);
  return { name: `${name} SKIPPED: ${advice}`, ignore: true };
}

/** A test that needs other programs and a folder to start them in. */
export function testWith(
  programs: readonly string[],
  name: string,
  test: (shop: Workshop) => Promise<void>,
): void {
  Deno.test(needing([...new Set([...programs, "setsid"])], name), async () => {
    await using shop = new Workshop();
    await test(shop);
  });
}

/** How a program is started. */
interface ProgramOptions {
  env?: Record<string, string>;
  /** Whether the test writes to its standard input; otherwise that is empty. */
  talks?: boolean;
}

/** A program that runs, in a process group of its own. */
export class Program {
  /** The lines that it has printed so far, to standard output and standard error. */
  readonly lines: string[] = [];
  readonly words: readonly string[];
  readonly #child: Deno.ChildProcess;
  readonly #talks: boolean;
  /** It has ended, and so has everything that it started: its outputs are closed. */
  readonly #over: Promise<void>;
  #ended = false;
  #heard = 0;
  #news = Promise.withResolvers<void>();

  constructor(words: readonly string[], cwd: string, options: ProgramOptions) {
    this.words = words;
    this.#talks = options.talks === true;
    this.#child = new Deno.Command(find("setsid") ?? "setsid", {
      args: [...words],
      cwd,
      env: options.env ?? {},
      stdin: this.#talks ? "piped" : "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const { stdout, stderr, status } = this.#child;
    const ended = status.then(() => this.#tell(this.#ended = true));
    const heard = [stdout, stderr].map((stream) => this.#listen(stream));
    this.#over = Promise.all([ended, ...heard]).then(() => {});
  }

  async #listen(stream: ReadableStream<Uint8Array<ArrayBuffer>>): Promise<void> {
    let rest = "";
    for await (const text of stream.pipeThrough(new TextDecoderStream())) {
      const pieces = (rest + text).split("\n");
      rest = pieces.pop() ?? "";
      this.lines.push(...pieces);
      this.#tell();
    }
    if (rest) this.lines.push(rest);
    this.#tell();
  }

  #tell(_news?: unknown): void {
    this.#news.resolve();
    this.#news = Promise.withResolvers<void>();
  }

  get pid(): number {
    return this.#child.pid;
  }

  /** The program and what it has printed, for messages. */
  get story(): string {
    return [`${this.words.join(" ")} said:`, ...this.lines.slice(-30)].join("\n  ");
  }

  /** Waits for a line that matches `pattern`, after the last one that was waited for. */
  async says(pattern: RegExp, milliseconds?: number): Promise<RegExpExecArray> {
    return await within(() => `${pattern}; ${this.story}`, this.#says(pattern), milliseconds);
  }

  async #says(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const [news, ended] = [this.#news.promise, this.#ended];
      while (this.#heard < this.lines.length) {
        const match = pattern.exec(this.lines[this.#heard++] ?? "");
        if (match) return match;
      }
      if (ended) throw new Error(`it has ended without ${pattern}: ${this.story}`);
      await news;
    }
  }

  /**
   * Waits for its end and all of its output; returns its exit status as the shell's
   * `$?` has it: 128 plus the number of a signal that ended it.
   */
  async ends(milliseconds?: number): Promise<number> {
    await within(() => `the end of ${this.story}`, this.#over, milliseconds);
    return (await this.#child.status).code;
  }

  /** Writes to its standard input. */
  async tell(text: string): Promise<void> {
    const writer = this.#child.stdin.getWriter();
    await writer.write(new TextEncoder().encode(text));
    writer.releaseLock();
  }

  /** Closes its standard input. */
  async hush(): Promise<void> {
    await this.#child.stdin.close();
  }

  /** Kills it and everything that it has started. */
  async dispose(): Promise<void> {
    try {
      Deno.kill(-this.pid, "SIGKILL");
    } catch {
      // They have all ended.
    }
    if (this.#talks) await this.hush().catch(() => {});
    await this.#over;
  }
}

/** A folder with iocopy in it, and the programs that a test starts there. */
export class Workshop implements AsyncDisposable {
  readonly folder = Deno.makeTempDirSync({ prefix: "iocopy-" });
  readonly iocopy = this.path("iocopy");
  readonly #programs: Program[] = [];

  constructor() {
    // The tunnels need one word. sh passes on all descriptors that it has.
    const words = COMMAND.map((word) => `'${word.replaceAll("'", `'\\''`)}'`).join(" ");
    if (BINARY) Deno.symlinkSync(BINARY, this.iocopy);
    else Deno.writeTextFileSync(this.iocopy, `#!/bin/sh\nexec ${words} "$@"\n`, { mode: 0o755 });
  }

  /** A path in the folder. */
  path(name: string): string {
    return resolve(this.folder, name);
  }

  /** Starts a program in the folder. */
  start(words: readonly string[], options: ProgramOptions = {}): Program {
    const env = { IOCOPY: this.iocopy, ...options.env };
    const program = new Program(words, this.folder, { ...options, env });
    this.#programs.push(program);
    return program;
  }

  /** The words that start one of the examples. */
  example(name: string, ...args: readonly (string | number)[]): string[] {
    return [resolve(ROOT, "examples", name), ...args.map(String)];
  }

  /** Starts a tcpserver on a free port, and tries again if another process took the port meanwhile. */
  async listen(
    words: (port: number) => readonly string[],
  ): Promise<{ server: Program; port: number }> {
    for (;;) {
      const port = freePort();
      const server = this.start(words(port));
      const [said] = await server.says(/^tcpserver: (status: 0|fatal.*address already used)/);
      if (said.includes("status")) return { server, port };
    }
  }

  /** Runs a program that has to succeed; returns what it printed. */
  async run(...words: readonly string[]): Promise<string> {
    const program = this.start(words);
    if (await program.ends() !== 0) throw new Error(`it failed: ${program.story}`);
    return program.lines.join("\n");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const program of this.#programs) await program.dispose();
    await Deno.remove(this.folder, { recursive: true });
  }
}

/** A port that was free a moment ago. */
export function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

/** Lines that neither the programs of ucspi-tcp nor `iocopy v` print if all goes well. */
export function strangeLines(program: Program): string[] {
  const wellFormed =
    /^(tcpserver: (status:|pid|ok|end) |tcpclient: connected |moon: |iocopy: \d+ [<>] \d+$)/;
  return program.lines.filter((line) => !wellFormed.test(line));
}
