/**
 * Proof that the simulation finds faults: they are put into copies of the engine, one at
 * a time, and each of them has to be found.
 *
 *     deno run --allow-all tests/kernel/mutants.ts
 *
 * @module
 */
import { ROOT } from "../harness.ts";
import { inFolder, inParallel } from "../probe.ts";

/** A fault: a piece of text that is replaced in a file. */
interface Mutant {
  name: string;
  file: string;
  before: string;
  after: string;
}

const MUTANTS: Mutant[] = [
  {
    name: "a missing shutdown",
    file: "engine/endpoint.ts",
    before: "tells ? this.fd.tryShutdown(SHUT_WR) : undefined",
    after: "undefined",
  },
  {
    name: "a lost wake-up",
    file: "engine/channel.ts",
    before: "if (direction === WRITE) this.sink.awaitWritable(1);",
    after: "",
  },
  {
    name: "an end of file too early",
    file: "sys/pipe.ts",
    before: "if (result === 0 || isStuck",
    after: "if (isStuck",
  },
  {
    name: "a read under way on another thread that is taken for nothing",
    file: "engine/channel.ts",
    before: "connection && route.isUnderWay",
    after: "false",
  },
  {
    name: "a double close",
    file: "sys/pipe.ts",
    before: "libc.close(this.#writing);",
    after: "libc.close(this.#reading);",
  },
  {
    name: "a forgotten mask",
    file: "engine/channel.ts",
    before: "if (this.#waitsFor === READ) this.source.awaitReadable(-1);",
    after: "",
  },
  {
    name: "a close while others still use it",
    file: "engine/endpoint.ts",
    before: "if (this.#readers.length + this.#writers.length > 0) {",
    after: "if (this.#readers.length > 0) {",
  },
  {
    name: "bytes lost where splice(2) is given up",
    file: "engine/route.ts",
    before: "if (route.held > 0) memory.hold(",
    after: "if (route.held < 0) memory.hold(",
  },
  {
    name: "a flag that is not put back",
    file: "engine/endpoint.ts",
    before: "this.connection?.restoreIfUnused(this.fd.fd)",
    after: "undefined",
  },
  {
    name: "memory given away while another thread has it",
    file: "engine/route.ts",
    before: "if (this.isUnderWay) return;",
    after: "",
  },
  {
    name: "a wait that is refused, and made again and again",
    file: "sys/epoll.ts",
    before: "if (count < 0 && count !== -EINTR) throw",
    after: "if (count < -4095) throw",
  },
  {
    name: "an error that is told after the end of its connection",
    file: "engine/session.ts",
    before: "if (channel.error) this.onError(channel.error, channel);",
    after: "",
  },
  {
    name: "a connection to the target that is given up and stays open",
    file: "engine/session.ts",
    before: "see #giveBack\n    libc.close(fd);",
    after: "",
  },
  {
    name: "a reply that waits for an end that does not follow",
    file: "engine/channel.ts",
    before: "return this.source.isEnding && !this.#pace;",
    after: "return !this.#pace;",
  },
  {
    name: "a piece that waits for an acknowledgement",
    file: "engine/route.ts",
    before: "libc.setNoDelay(this.#to.fd);\n    }",
    after: "}",
  },
  {
    name: "a target that does not hear that it is connected",
    file: "engine/session.ts",
    before: "libc.setQuickAck(fd.fd, true);",
    after: "true;",
  },
  {
    name: "an acknowledgement that waits for what is sent next",
    file: "engine/channel.ts",
    before: "if (this.source.delaysAck &&",
    after: "if (!this.source &&",
  },
  {
    name: "an upload that was cut off, and looks whole",
    file: "engine/endpoint.ts",
    before: "if (this.resets) libc.setReset(this.fd.fd);",
    after: "",
  },
  {
    name: "bytes that are lost, and an end of file in order",
    file: "engine/channel.ts",
    before: "this.#tellOfLoss();\n    this.#end",
    after: "this.#end",
  },
  {
    name: "a reset that overtakes what was sent",
    file: "engine/channel.ts",
    before: "if (bytes <= 0 || now - changed",
    after: "if (bytes <= Infinity || now - changed",
  },
  {
    name: "an event that is reported once, and is not all there is",
    file: "engine/channel.ts",
    before: "if (hasWaited) endpoint.endFirstWatch();",
    after: "",
  },
];

/** How long to look for each fault, in seconds. */
const SECONDS = 120;

async function copyFolder(from: string, to: string): Promise<void> {
  await Deno.mkdir(to, { recursive: true });
  for await (const { name, isFile } of Deno.readDir(from)) {
    if (isFile) await Deno.copyFile(`${from}/${name}`, `${to}/${name}`);
  }
}

/** Looks for one fault; returns the number of the run that found it, and the message. */
async function find({ name, file, before, after }: Mutant, folder: string): Promise<string> {
  for (const part of ["engine", "sys", "tests/kernel"]) {
    await copyFolder(`${ROOT}/${part}`, `${folder}/${part}`);
  }
  await Deno.copyFile(`${ROOT}/engine.ts`, `${folder}/engine.ts`);
  const text = await Deno.readTextFile(`${folder}/${file}`);
  if (text.split(before).length !== 2) {
    throw new Error(`${name}: ${file} has not this text, once: ${before}`);
  }
  await Deno.writeTextFile(`${folder}/${file}`, text.replace(before, after));
  const map = `--import-map=${folder}/tests/kernel/imports.json`;
  const search = ["--no-cases", "--fixed=100000", `--seconds=${SECONDS}`];
  const { code, stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--no-prompt", "--no-lock", map, `${folder}/tests/kernel/run.ts`]
      .concat(search),
    cwd: ROOT,
  }).output();
  const lines = new TextDecoder().decode(stdout).trim().split("\n");
  const failed = lines.find((line) => line.startsWith("FAILED"));
  if (code !== 1 || !failed) throw new Error(`${name} was not found: ${lines.at(-1)}`);
  return `${name}: ${failed.replace("FAILED: ", "")}: ${lines.at(-1)}`;
}

/** Looks for all of them, each in a copy of its own. Throws if one is not found. */
export async function findMutants(say: (what: string) => void): Promise<void> {
  const workers = navigator.hardwareConcurrency;
  await inParallel(
    MUTANTS,
    async (mutant) => say(await inFolder((folder) => find(mutant, folder))),
    workers,
  );
}

if (import.meta.main) await findMutants(console.log);
