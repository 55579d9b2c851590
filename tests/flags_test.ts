/**
 * However the command ends, every open file description has the flags that it had
 * before; and pipes and terminals are never changed at all, since other processes
 * share them.
 */
import { assertEquals } from "@std/assert";
import {
  type End,
  makeFifo,
  O_NONBLOCK,
  O_RDWR,
  open,
  pipe,
  reversedPipe,
  tcpPair,
  terminal,
  unixPair,
} from "./ends.ts";
import { fillUp, hasBytes, inFolder, iocopy, watched, within } from "./probe.ts";
import type { Running } from "./harness.ts";

/** The command's descriptors by what they are. The network is one socket on two numbers. */
const FD = {
  stdin: 0,
  stdout: 1,
  fromNetwork: 6,
  toNetwork: 7,
  terminal: 3,
  local: 4,
  file: 5,
  sink: 8,
};

/** A ucspi client over TCP, a terminal joined to a unix socket, and a file. */
const CHANNELS = [
  [FD.stdin, FD.toNetwork],
  [FD.fromNetwork, FD.stdout],
  [FD.terminal, FD.local],
  [FD.local, FD.terminal],
  [FD.file, FD.sink],
];

/** {@linkcode CHANNELS} over real descriptors, and what the test holds of them. */
class Fixture implements Disposable {
  readonly [Symbol.dispose]: () => void;
  readonly given: Record<number, End>;
  readonly stdin: End;
  readonly stdout: End;
  readonly network: End;
  readonly local: End;
  readonly master: End;
  static readonly ARGS = CHANNELS.flat().join(" ");
  readonly #before: [string, number][];

  constructor(nonBlocking: boolean) {
    const [input, stdin] = pipe();
    const [stdout, output] = pipe();
    const [network, socket] = tcpPair();
    const [local, unix] = unixPair();
    const [master, slave] = terminal();
    const [reading, writing] = pipe();
    const [file, sink] = [open("/dev/null", O_RDWR), open("/dev/null", O_RDWR)];
    Object.assign(this, { stdin, stdout, network, local, master });
    [this.stdin, this.stdout, this.network, this.local, this.master] = //
      [stdin, stdout, network, local, master];
    this.given = {
      [FD.stdin]: input,
      [FD.stdout]: output,
      [FD.fromNetwork]: socket,
      [FD.toNetwork]: socket,
      [FD.terminal]: slave,
      [FD.local]: unix,
      [FD.file]: file,
      [FD.sink]: sink,
    };
    const all = [stdin, stdout, network, local, master, reading, writing, ...this.inherited];
    for (const end of this.inherited) end.nonBlocking = nonBlocking;
    this.#before = this.flags;
    this[Symbol.dispose] = () => all.forEach((end) => end.close());
  }

  get inherited(): End[] {
    return [...new Set(Object.values(this.given))];
  }

  /** The current flags of all inherited descriptors. */
  get flags(): [string, number][] {
    return Object.entries(this.given).map(([fd, end]) => [fd, end.flags]);
  }

  /** Passes text through each channel, so that all of them run. */
  async roundTrips(): Promise<void> {
    await this.stdin.write("to the network");
    assertEquals(await this.network.readText(14), "to the network");
    await this.network.write("to stdout");
    assertEquals(await this.stdout.readText(9), "to stdout");
    await this.master.write("typed\n");
    assertEquals(await this.local.readText(6), "typed\n");
    await this.local.write("shown");
    assertEquals(await this.master.readText(7 + 5), "typed\r\nshown"); // the echo first
  }

  unchanged(when: string): void {
    assertEquals(this.flags, this.#before, `flags ${when}`);
  }

  /** While the command runs, only O_NONBLOCK of sockets may have changed. */
  unchangedButSockets(): void {
    const sockets = [FD.fromNetwork, FD.toNetwork, FD.local];
    const bare = (flags: [string, number][]) =>
      flags.map(([fd, value]) => [fd, sockets.includes(Number(fd)) ? value & ~O_NONBLOCK : value]);
    assertEquals(bare(this.flags), bare(this.#before), "flags while it runs");
  }
}

/** Every way to end, and its exit status. */
const ENDINGS: Record<
  string,
  { status: number; end(fixture: Fixture, running: Running): unknown }
> = {
  "the end of file": {
    status: 0,
    async end(fixture) {
      fixture.stdin.close();
      fixture.network.shutdownWrite();
      fixture.local.shutdownWrite();
      await fixture.master.write("\x04");
    },
  },
  "EPIPE": {
    status: 111,
    async end(fixture) {
      fixture.stdout.close();
      await fixture.network.write("nobody reads this");
      fixture.network.close();
      fixture.stdin.close();
      fixture.local.close();
      await fixture.master.write("\x04");
    },
  },
  "a read error": {
    status: 111,
    end(fixture) {
      fixture.network.resetOnClose();
      fixture.network.close();
      fixture.stdin.close();
      fixture.master.close();
      fixture.local.close();
    },
  },
  "SIGTERM": { status: 143, end: (_, running) => running.kill("SIGTERM") },
  "SIGINT": { status: 130, end: (_, running) => running.kill("SIGINT") },
  "SIGHUP": { status: 129, end: (_, running) => running.kill("SIGHUP") },
  "a second signal": {
    status: 129,
    async end(fixture, running) {
      // One channel holds bytes that nobody takes, so that the first signal does not end it.
      const { [FD.terminal]: slave, [FD.local]: unix } = fixture.given;
      if (unix) fillUp(unix);
      await fixture.master.write("stuck\n");
      assertEquals(await fixture.master.readText(7), "stuck\r\n"); // now it is there
      while (slave && await hasBytes(slave)); // until it has been read
      running.kill("SIGTERM");
      assertEquals(await fixture.network.readText(1), ""); // the others have ended
      running.kill("SIGHUP");
    },
  },
};

for (const [name, { status, end }] of Object.entries(ENDINGS)) {
  for (const nonBlocking of [false, true]) {
    Deno.test(`flags are as before after ${name}, O_NONBLOCK ${nonBlocking ? "set" : "clear"}`, async () => {
      using fixture = new Fixture(nonBlocking);
      using running = watched(Fixture.ARGS, fixture.given);
      await within("round trips", fixture.roundTrips());
      fixture.unchangedButSockets();
      await within(name, Promise.resolve(end(fixture, running)));
      const outcome = await running.outcome;
      assertEquals([outcome.code, outcome.signal], [status, null], outcome.stderr);
      fixture.unchanged(`after ${name}`);
    });
  }
}

for (const wrong of ["0 1 2.5", "99", "9 9", "--buffer=0", "3"]) {
  Deno.test(`flags are as before after wrong use: ${wrong}`, async () => {
    using fixture = new Fixture(false);
    using running = watched(`${Fixture.ARGS} ${wrong}`, fixture.given);
    assertEquals((await running.outcome).code, 100);
    fixture.unchanged("after wrong use");
  });
}

/** Two commands on one socket, one for each direction; either can end first. */
for (const first of ["writer", "reader"] as const) {
  for (const by of ["the end of file", "SIGTERM"]) {
    Deno.test(`two commands share a socket, the ${first} ends first by ${by}`, async () => {
      const [network, socket] = tcpPair();
      const [input, stdin] = pipe();
      const [stdout, output] = pipe();
      using _ = {
        [Symbol.dispose]: () => [network, socket, stdin, stdout].forEach((e) => e.close()),
      };
      const before = socket.flags;
      using writer = iocopy("0 7", { 0: input, 7: socket.duplicate() });
      using reader = iocopy("6 1", { 6: socket.duplicate(), 1: output });
      const to = async (text: string) => {
        await stdin.write(text);
        assertEquals(await network.readText(text.length), text);
      };
      const from = async (text: string) => {
        await network.write(text);
        assertEquals(await stdout.readText(text.length), text);
      };
      await to("there");
      await from("back");
      const ending = {
        writer: [writer, () => stdin.close(), to],
        reader: [reader, () => network.shutdownWrite(), from],
      } as const;
      const other = first === "writer" ? "reader" : "writer";
      for (const [which, still] of [[first, other], [other, undefined]] as const) {
        const [running, eof] = ending[which];
        if (by === "SIGTERM") running.kill("SIGTERM");
        else eof();
        assertEquals((await running.outcome).code, by === "SIGTERM" ? 143 : 0);
        if (still) await within(`the ${still} goes on`, ending[still][2]("still"));
      }
      assertEquals(socket.flags, before);
    });
  }
}

Deno.test("a FIFO's and a file's flags are never changed", async () => {
  await inFolder(async (folder) => {
    makeFifo(`${folder}/fifo`);
    await Deno.writeTextFile(`${folder}/file`, "content");
    using fifo = open(`${folder}/fifo`, O_RDWR);
    using file = open(`${folder}/file`, O_RDWR);
    const [stdin, input] = reversedPipe();
    const before = [fifo.flags, file.flags, input.flags];
    using running = iocopy("0 3 4 5", {
      0: input,
      3: fifo.duplicate(),
      4: file.duplicate(),
      5: fifo.duplicate(),
    });
    await stdin.write("mixed");
    const text = await fifo.readText(12);
    assertEquals([...text].sort().join(""), [..."mixedcontent"].sort().join(""));
    assertEquals([fifo.flags, file.flags], before.slice(0, 2));
    stdin.close();
    assertEquals((await running.outcome).code, 0);
    assertEquals([fifo.flags, file.flags], before.slice(0, 2));
  });
});
