/**
 * Faults, one in each test: each is noticed when it happens, is reported in one
 * line, and ends its own channel only.
 */
import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  type End,
  eventfd,
  O_APPEND,
  O_CREAT,
  O_RDONLY,
  O_WRONLY,
  open,
  pipe,
  reversedPipe,
  SOCK_DGRAM,
  tcpPair,
  terminal,
  unconnected,
  unixPair,
} from "./ends.ts";
import { bystander, endsWith, staysIdle } from "./expect.ts";
import { COMMAND, type Running } from "./harness.ts";
import {
  fillUp,
  hasBytes,
  hungUp,
  inFolder,
  injecting,
  iocopy,
  limited,
  noise,
  numbered,
  same,
  strace,
  watched,
  within,
} from "./probe.ts";
import { needing } from "./programs.ts";
import { catches, pause } from "./watching.ts";

// ---- A reader that dies.

const SINKS: Record<string, { make(): [End, End]; die(reader: End): void; says: string }> = {
  "pipe": { make: pipe, die: (reader) => reader.close(), says: "Broken pipe" },
  "unix socket": { make: unixPair, die: (reader) => reader.close(), says: "" },
  "TCP socket": {
    make: tcpPair,
    die: (reader) => (reader.resetOnClose(), reader.close()),
    says: "Connection reset by peer",
  },
  "terminal": { make: terminal, die: (master) => master.close(), says: "Input/output error" },
};

for (const [kind, { make, die, says }] of Object.entries(SINKS)) {
  for (const from of ["pipe", "unix socket", "terminal"]) {
    Deno.test(`the reader of a ${kind} dies: the ${from} learns of it at once`, async () => {
      using other = bystander();
      const [reader, sink] = make();
      const [upstream, source] = from === "pipe"
        ? reversedPipe()
        : from === "terminal"
        ? terminal()
        : unixPair();
      using running = iocopy("8 9 3 4", { 3: source, 4: sink, ...other.given });
      await other.lives();
      die(reader);
      // No byte is written; the hang-up alone has to be noticed.
      await within("the upstream learns", hungUp(upstream));
      await other.lives();
      other.end();
      await endsWith(running, says ? 111 : 0, says ? `iocopy: write 4: ${says}\n` : "");
      upstream.close();
    });
  }
}

// ---- Errors of real objects.

interface Fault {
  name: string;
  /** Makes the descriptors 3 and 4 of the channel; `cause` causes the fault. */
  make(folder: string): { given: Record<number, End>; cause?(): unknown; held?: End[] };
  says: string | RegExp;
  code?: number;
}

const FAULTS: Fault[] = [
  {
    name: "EPIPE: data for a pipe that nobody reads",
    make() {
      const [[input, stdin], [stdout, output]] = [pipe(), pipe()];
      stdout.close();
      return {
        given: { 3: input, 4: output },
        cause: () => stdin.write("x").catch(() => {}),
        held: [stdin],
      };
    },
    says: "iocopy: write 4: Broken pipe\n",
  },
  {
    name: "ECONNRESET on read",
    make() {
      const [[peer, socket], [stdout, output]] = [tcpPair(), pipe()];
      peer.resetOnClose();
      return { given: { 3: socket, 4: output }, cause: () => peer.close(), held: [stdout] };
    },
    says: "iocopy: read 3: Connection reset by peer\n",
  },
  {
    name: "ECONNRESET on write",
    make() {
      const [[peer, socket], [input, stdin]] = [tcpPair(), pipe()];
      peer.resetOnClose();
      return {
        given: { 3: input, 4: socket },
        cause: async () => (peer.close(), await stdin.write("x").catch(() => {})),
        held: [stdin],
      };
    },
    says: /^iocopy: write 4: (Connection reset by peer|Broken pipe)\n$/,
  },
  {
    name: "ENOSPC",
    make() {
      const [input, stdin] = pipe();
      return {
        given: { 3: input, 4: open("/dev/full", O_WRONLY) },
        cause: () => stdin.write("x"),
        held: [stdin],
      };
    },
    says: "iocopy: write 4: No space left on device\n",
  },
  {
    name: "ENOSPC, from a socket",
    make() {
      const [peer, socket] = unixPair();
      return {
        given: { 3: socket, 4: open("/dev/full", O_WRONLY) },
        cause: () => peer.write("x"),
        held: [peer],
      };
    },
    says: "iocopy: write 4: No space left on device\n",
  },
  {
    name: "EISDIR",
    make(folder) {
      const [stdout, output] = pipe();
      return { given: { 3: open(folder, O_RDONLY), 4: output }, held: [stdout] };
    },
    says: "iocopy: read 3: Is a directory\n",
  },
  {
    name: "EIO on write: a terminal whose master is gone",
    make() {
      const [[input, stdin], [master, slave]] = [pipe(), terminal()];
      return {
        given: { 3: input, 4: slave },
        cause: async () => (master.close(), await stdin.write("x").catch(() => {})),
        held: [stdin],
      };
    },
    says: "iocopy: write 4: Input/output error\n",
  },
  {
    name: "EIO on read: a master whose terminal is gone",
    make() {
      const [[stdout, output], [master, slave]] = [pipe(), terminal()];
      return { given: { 3: master, 4: output }, cause: () => slave.close(), held: [stdout] };
    },
    says: "iocopy: read 3: Input/output error\n",
  },
  {
    name: "a terminal that hangs up is at end of file",
    make() {
      const [[stdout, output], [master, slave]] = [pipe(), terminal()];
      return { given: { 3: slave, 4: output }, cause: () => master.close(), held: [stdout] };
    },
    says: "",
    code: 0,
  },
  {
    name: "a shut-down socket: EPIPE",
    make() {
      const [[peer, socket], [input, stdin]] = [unixPair(), pipe()];
      socket.shutdownWrite();
      return {
        given: { 3: input, 4: socket },
        cause: () => stdin.write("x").catch(() => {}),
        held: [peer, stdin],
      };
    },
    says: "iocopy: write 4: Broken pipe\n",
  },
];

for (const { name, make, says, code = 111 } of FAULTS) {
  Deno.test(name, async () => {
    await inFolder(async (folder) => {
      using other = bystander();
      const { given, cause, held = [] } = make(folder);
      using running = iocopy("8 9 3 4", { ...given, ...other.given });
      await other.lives();
      await cause?.();
      await other.lives();
      other.end();
      await endsWith(running, code, says);
      for (const end of held) end.close();
    });
  });
}

Deno.test(
  needing(["prlimit"], "EFBIG: a file beyond the limit is an error, not a death by SIGXFSZ"),
  async () => {
    await inFolder(async (folder) => {
      using other = bystander();
      const [input, stdin] = pipe();
      const file = open(`${folder}/file`, O_WRONLY | O_CREAT);
      using running = iocopy("8 9 3 4", { 3: input, 4: file, ...other.given });
      await other.lives(); // by now the runtime has written its files, which must not be limited
      const limits = ["--pid", String(running.pid), "--fsize=4096"];
      assert((await new Deno.Command("prlimit", { args: limits }).output()).success);
      await stdin.write(noise(5000));
      await hungUp(stdin);
      await other.lives();
      other.end();
      await endsWith(running, 111, "iocopy: write 4: File too large\n");
      assertEquals((await Deno.stat(`${folder}/file`)).size, 4096);
      stdin.close();
    });
  },
);

Deno.test("a socket that was never connected is reported before a byte moves", async () => {
  const [stdout, output] = pipe();
  using running = iocopy("3 4", { 3: unconnected(), 4: output });
  await endsWith(
    running,
    100,
    "iocopy: descriptor 3 is not connected; iocopy --help tells more\n",
  );
  stdout.close();
});

Deno.test("EBADF: descriptors that are not open are reported before a byte moves", async () => {
  for (const [args, fd] of [["0 1 5 1", 5], ["0 60", 60], ["2147483647 1", 2147483647]] as const) {
    const [input, stdin] = pipe();
    const [stdout, output] = pipe();
    await stdin.write("unread");
    using running = watched(args, { 0: input, 1: output });
    const outcome = await running.outcome;
    assertEquals(outcome.code, 100);
    assertMatch(outcome.stderr, new RegExp(`^iocopy: descriptor ${fd} is not open.*\n$`));
    assert(await hasBytes(input) && !await hasBytes(stdout), "a byte has moved");
    for (const end of [input, stdin, stdout, output]) end.close();
  }
});

for (const closed of [[0], [1], [2], [0, 1], [1, 2], [0, 1, 2]]) {
  Deno.test(`${closed.join(", ")} closed at the start: others are copied, and these are never somebody else's file`, async () => {
    using other = bystander();
    using running = watched("8 9", other.given, { closed });
    for (const end of Object.values(other.given)) end.close();
    await other.lives();
    other.end();
    assertEquals((await running.outcome).code, 0);
    // If they are used, they are closed, or /dev/null, which the runtime opened there.
    const [stdout, output] = pipe();
    const [input, stdin] = pipe();
    await stdin.write("x");
    stdin.close();
    const args = closed[0] === 0 ? "0 3" : closed[0] === 1 ? "4 1" : "4 2";
    using second = iocopy(args, { 3: output, 4: input }, { closed });
    const outcome = await second.outcome;
    assert([0, 100].includes(outcome.code ?? -1), outcome.stderr);
    assertEquals((await stdout.readAll()).length, 0);
    stdout.close();
  });
}

// ---- Standard error that nobody reads.

const STDERRS: Record<
  string,
  () => { given: Record<number, End>; held: End[]; closed?: number[] }
> = {
  "closed": () => ({ given: {}, held: [], closed: [2] }),
  "full (ENOSPC)": () => ({ given: { 2: open("/dev/full", O_WRONLY) }, held: [] }),
  "a pipe without a reader": () => {
    const [reader, writer] = pipe();
    reader.close();
    return { given: { 2: writer }, held: [] };
  },
  "a stuck pipe": () => {
    const [reader, writer] = pipe();
    fillUp(writer);
    return { given: { 2: writer }, held: [reader] };
  },
  "a stuck socket": () => {
    const [reader, writer] = unixPair();
    fillUp(writer);
    return { given: { 2: writer }, held: [reader] };
  },
  "a stuck terminal": () => {
    const [master, slave] = terminal();
    fillUp(slave);
    return { given: { 2: slave }, held: [master] };
  },
};

for (const [name, make] of Object.entries(STDERRS)) {
  Deno.test(`standard error is ${name}: the copy goes on`, async () => {
    const { given, held, closed = [] } = make();
    // On a terminal the runtime prints warnings about its cache, and would block itself.
    await inFolder(async (folder) => {
      const env = { ...Deno.env.toObject(), DENO_DIR: `${folder}/deno` };
      const [from, source] = unixPair();
      const [to, sink] = pipe();
      using running = iocopy("v 6 7", { 6: source, 7: sink, ...given }, { closed, env });
      const content = noise(300_000);
      for (let round = 0; round < 20; round++) {
        const [bytes] = await within(
          "the copy",
          Promise.all([to.readExactly(content.length), from.write(content)]),
        );
        assert(same(bytes, content), "other bytes");
      }
      from.shutdownWrite();
      const outcome = await running.outcome;
      assertEquals([outcome.code, outcome.signal], [0, null]);
      for (const end of [from, to, ...held]) end.close();
    });
  });
}

// ---- A reader that is stuck.

const STUCK: Record<string, () => [End, End]> = {
  "pipe": pipe,
  "unix socket": unixPair,
  "TCP socket": tcpPair,
  "terminal": terminal,
};

for (const [kind, make] of Object.entries(STUCK)) {
  for (const from of ["pipe", "unix socket", "terminal"]) {
    Deno.test(`a stuck ${kind}, fed from a ${from}, stalls its own channel only`, async () => {
      using other = bystander();
      const [reader, sink] = make();
      const [upstream, source] = from === "pipe"
        ? reversedPipe()
        : from === "terminal"
        ? terminal()
        : unixPair();
      fillUp(sink);
      assertEquals(sink.flags & 0o4000, 0, "the descriptor is to be a blocking one");
      using running = iocopy("8 9 3 4", { 3: source, 4: sink, ...other.given });
      await other.lives();
      const fed = upstream.write("stuck\n".repeat(10));
      for (let i = 0; i < 50; i++) await other.lives();
      await staysIdle(running);
      await other.lives();
      running.kill("SIGKILL");
      await running.outcome;
      reader.close();
      upstream.close();
      await fed.catch(() => {});
    });
  }
}

// ---- Descriptors that several processes use.

Deno.test("two commands read one pipe: every byte arrives once, and neither hangs or spins", async () => {
  const [input, stdin] = pipe();
  const outs = [pipe(), pipe()] as const;
  using one = iocopy("0 1", { 0: input.duplicate(), 1: outs[0][1] });
  using two = iocopy("0 1", { 0: input, 1: outs[1][1] });
  const total = 3_000_000;
  const arrived = outs.map(([reader]) => reader.readAll());
  await staysIdleOnceStarted(one, two);
  await stdin.write(new Uint8Array(total).fill(7));
  stdin.close();
  const bytes = await within("the end", Promise.all(arrived));
  assertEquals(bytes.reduce((sum, { length }) => sum + length, 0), total);
  assert(bytes.every((piece) => piece.every((byte) => byte === 7)), "other bytes");
  assertEquals([(await one.outcome).code, (await two.outcome).code], [0, 0]);
  for (const [reader] of outs) reader.close();
});

/** They do not spin once they have started. */
async function staysIdleOnceStarted(...processes: Running[]): Promise<void> {
  const SIGTERM = 15; // which they handle from then on
  for (const { pid } of processes) await catches(pid, SIGTERM);
  await staysIdle(...processes);
}

for (const make of [tcpPair, unixPair]) {
  Deno.test(`two commands on both directions of one ${make === tcpPair ? "TCP" : "unix"} socket: nothing is lost, none spins`, async () => {
    const [peer, socket] = make();
    const ins = [pipe(), pipe()] as const;
    const outs = [pipe(), pipe()] as const;
    using one = iocopy("0 7 6 1", {
      0: ins[0][0],
      1: outs[0][1],
      6: socket.duplicate(),
      7: socket.duplicate(),
    });
    using two = iocopy("0 7 6 1", {
      0: ins[1][0],
      1: outs[1][1],
      6: socket.duplicate(),
      7: socket,
    });
    const total = 1_000_000;
    const arrived = outs.map(([reader]) => reader.readAll());
    const there = peer.readExactly(2 * total);
    await staysIdleOnceStarted(one, two);
    await within(
      "all written",
      Promise.all([
        ...ins.map(([, writer]) => writer.write(new Uint8Array(total).fill(5))),
        peer.write(new Uint8Array(total).fill(6)),
      ]),
    );
    assertEquals((await within("all there", there)).length, 2 * total);
    peer.shutdownWrite();
    for (const [, writer] of ins) writer.close();
    const back = await within("all back", Promise.all(arrived));
    assertEquals(back.reduce((sum, { length }) => sum + length, 0), total);
    await within("both end", Promise.all([one.outcome, two.outcome]));
    peer.close();
    for (const [reader] of outs) reader.close();
  });
}

Deno.test("two commands read one terminal: the one that gets nothing neither blocks its other channel nor spins", async () => {
  const [master, slave] = terminal();
  const others = [bystander(), bystander()] as const;
  const outs = [pipe(), pipe()] as const;
  using one = iocopy("0 1 8 9", { 0: slave.duplicate(), 1: outs[0][1], ...others[0].given });
  using two = iocopy("0 1 8 9", { 0: slave, 1: outs[1][1], ...others[1].given });
  const all = Promise.withResolvers<void>();
  let arrived = 0;
  const reading = outs.map(async ([reader]) => {
    for (let length; (length = (await reader.read()).length) > 0;) {
      if ((arrived += length) >= 100) all.resolve();
    }
  });
  for (const other of others) await other.lives();
  for (let i = 0; i < 20; i++) await master.write("line\n");
  for (const other of others) await other.lives();
  await staysIdle(one, two);
  await within("all lines", all.promise); // the kernel drops what is not read when its master goes
  master.close();
  others.forEach((other) => other.end());
  await within("the end", Promise.all(reading));
  assertEquals(arrived, 100);
  assertEquals([(await one.outcome).code, (await two.outcome).code], [0, 0]);
  for (const [reader] of outs) reader.close();
  others.forEach((other) => other[Symbol.dispose]());
});

// ---- Short reads and writes.

Deno.test("short reads and writes of every size, down to one byte", async () => {
  await inFolder(async (folder) => {
    for (const size of [1, 2, 3, 5, 4095, 4096, 4097]) {
      const content = noise(size < 10 ? 500 : 50_000, size);
      const [from, source] = unixPair();
      const [to, sink] = tcpPair();
      const [input, stdin] = pipe();
      const [stdout, output] = pipe();
      const [peer, appending] = unixPair();
      const file = open(`${folder}/${size}`, O_WRONLY | O_CREAT | O_APPEND);
      const { args, given } = numbered([source, sink], [input, output], [peer, file]);
      using running = iocopy(`--buffer=${size} ${args}`, given);
      const pieces = async (end: End) => { // they come in pieces of that size, too
        for (let at = 0; at < content.length; at += size) {
          await end.write(content.slice(at, at + size));
        }
      };
      const [a, b] = await within(
        "all bytes",
        Promise.all([
          to.readExactly(content.length),
          stdout.readExactly(content.length),
          pieces(from),
          pieces(stdin),
          pieces(appending),
        ]),
      );
      for (const end of [from, stdin, appending]) end.close();
      assertEquals((await running.outcome).code, 0);
      assert(same(a, content) && same(b, content), "other bytes");
      assert(same(await Deno.readFile(`${folder}/${size}`), content), "other bytes in the file");
      for (const end of [to, stdout]) end.close();
    }
  });
});

// ---- Faults that no real object produces at will: strace injects them.

/** One channel for each route that bytes can take; its output is checked. */
const ROUTES: Record<
  string,
  (folder: string) => { given: [End, End]; from: End; result(): Promise<Uint8Array> }
> = {
  "pipe to pipe": () => {
    const [[input, from], [to, output]] = [pipe(), pipe()];
    return { given: [input, output], from, result: () => to.readAll().finally(() => to.close()) };
  },
  "socket to pipe": () => {
    const [[from, source], [to, output]] = [tcpPair(), pipe()];
    return { given: [source, output], from, result: () => to.readAll().finally(() => to.close()) };
  },
  "pipe to socket": () => {
    const [[input, from], [to, sink]] = [pipe(), tcpPair()];
    return { given: [input, sink], from, result: () => to.readAll().finally(() => to.close()) };
  },
  "socket to socket": () => {
    const [[from, source], [to, sink]] = [unixPair(), tcpPair()];
    return { given: [source, sink], from, result: () => to.readAll().finally(() => to.close()) };
  },
  "socket to an appended file": (folder) => {
    const [from, source] = unixPair();
    const file = open(`${folder}/file`, O_WRONLY | O_CREAT | O_APPEND);
    return { given: [source, file], from, result: () => Deno.readFile(`${folder}/file`) };
  },
};

/** What is injected; the copy goes on in spite of it. */
const INJECTIONS: { what: string; inject: string[] }[] = [
  {
    what: "an EAGAIN storm",
    inject: [
      "splice:error=EAGAIN:when=1+2",
      "preadv2:error=EAGAIN:when=1+2",
      "recvfrom:error=EAGAIN:when=1+2",
      "sendto:error=EAGAIN:when=1+2",
      "pwritev2:error=EAGAIN:when=1+2",
    ],
  },
  {
    what: "EINTR at every second call",
    inject: [
      "splice:error=EINTR:when=1+2",
      "preadv2:error=EINTR:when=1+2",
      "recvfrom:error=EINTR:when=1+2",
      "sendto:error=EINTR:when=1+2",
      "pwritev2:error=EINTR:when=1+2",
    ],
  },
  { what: "spurious readiness, ten times in a row", inject: ["splice:error=EAGAIN:when=3..13"] },
  { what: "a kernel without splice", inject: ["splice:error=ENOSYS"] },
  { what: "splice refused from the second call on", inject: ["splice:error=EINVAL:when=2+"] },
  { what: "splice refused from the third call on", inject: ["splice:error=EINVAL:when=3+"] },
  { what: "splice refused once", inject: ["splice:error=EOPNOTSUPP:when=4"] },
  {
    what: "a kernel before 6.4: no RWF_NOWAIT on pipes and sockets",
    inject: ["splice:error=EINVAL", "preadv2:error=EOPNOTSUPP", "pwritev2:error=EOPNOTSUPP"],
  },
  {
    what: "a kernel before 6.4, with splice",
    inject: ["preadv2:error=EOPNOTSUPP", "pwritev2:error=EOPNOTSUPP"],
  },
  // Whatever error splice(2) returns, the copy goes on through memory, where a real error shows.
  { what: "EPERM of splice from the second call on", inject: ["splice:error=EPERM:when=2+"] },
  { what: "EACCES of splice", inject: ["splice:error=EACCES"] },
  { what: "EIO of splice, once", inject: ["splice:error=EIO:when=3"] },
  { what: "ENOMEM of splice, once", inject: ["splice:error=ENOMEM:when=2"] },
];

for (const [route, make] of Object.entries(ROUTES)) {
  for (const { what, inject } of INJECTIONS) {
    Deno.test(needing(["strace"], `${route}: ${what}`), async () => {
      await inFolder(async (folder) => {
        const { given: [source, sink], from, result } = make(folder);
        const content = noise(900_000);
        using running = iocopy("6 7", { 6: source, 7: sink }, { command: injecting(...inject) });
        const written = from.write(content).catch(() => {}).finally(() => from.close());
        const streams = route.includes("file") ? undefined : result();
        const outcome = await running.outcome;
        const arrived = await (streams ?? result());
        await written;
        assertEquals(outcome.signal, null);
        assertEquals([outcome.code, outcome.stderr], [0, ""]);
        assert(same(arrived, content), `${arrived.length} other bytes of ${content.length}`);
      });
    });
  }
}

Deno.test(
  needing(
    ["strace"],
    "a kernel before 6.4: what comes back for a dead reader is dropped without spinning",
  ),
  async () => {
    const [peer, socket] = tcpPair();
    const [input, stdin] = pipe();
    const [stdout, output] = pipe();
    const old = ["preadv2:error=EOPNOTSUPP", "pwritev2:error=EOPNOTSUPP"];
    using running = iocopy("0 7 6 1", { 0: input, 7: socket, 6: socket, 1: output }, {
      command: injecting(...old),
    });
    await stdin.write("there");
    assertEquals(await peer.readText(5), "there");
    await peer.write("back");
    assertEquals(await stdout.readText(4), "back");
    stdout.close();
    await within("all is read", peer.write(noise(10_000_000)));
    await staysIdle(running);
    await stdin.write("still");
    assertEquals(await within("the other way", peer.readText(5)), "still");
    stdin.close();
    // The peer need not close its side: after some time the connection is closed.
    assertEquals((await running.outcome).code, 111);
    peer.close();
  },
);

Deno.test(
  needing(["strace"], "the errno that the runtime's clock leaves is not taken for fcntl's"),
  async () => {
    await inFolder(async (folder) => {
      const path = `${folder}/file`;
      Deno.writeTextFileSync(path, "all of it");
      const [stdout, output] = pipe();
      const [strace = "", ...words] = injecting("fcntl:error=ENOENT:when=1");
      using running = iocopy("7 1", { 7: open(path, O_RDONLY), 1: output }, {
        command: [strace, "-P", path, ...words],
      });
      const arrived = await stdout.readAll();
      const { code, stderr } = await running.outcome;
      assertEquals([code, stderr], [0, ""]);
      assertEquals(new TextDecoder().decode(arrived), "all of it");
      stdout.close();
    });
  },
);

Deno.test(
  needing(["strace"], "empty messages without an end leave other channels their turn"),
  async () => {
    const [from, source] = unixPair(SOCK_DGRAM);
    const [to, sink] = pipe();
    using other = bystander();
    using running = iocopy("3 4 8 9", { 3: source, 4: sink, ...other.given }, {
      command: injecting("recvfrom:retval=0"),
    });
    from.send("is never received");
    await other.lives();
    running.kill("SIGKILL");
    await running.outcome;
    from.close();
    to.close();
  },
);

Deno.test(
  needing(["strace"], "empty messages without an end do not make each turn longer"),
  async () => {
    await inFolder(async (folder) => {
      const [from, source] = unixPair(SOCK_DGRAM);
      const [to, sink] = pipe();
      const log = `${folder}/log`, options = ["-e", "trace=recvfrom,/epoll_p?wait", "-o", log];
      Deno.createSync(log).close();
      using running = iocopy("3 4", { 3: source, 4: sink }, {
        command: strace(...options, "-e", "inject=recvfrom:retval=0", ...COMMAND),
      });
      from.send("is never received");
      const turns = () => {
        const calls = Deno.readTextFileSync(log).split("\n");
        return calls.filter((call) => call.startsWith(`${running.pid} `)).join("").split("epoll_");
      };
      const received = () => turns().map((turn) => turn.split("recvfrom(").length - 1);
      const sum = () => received().reduce((all, some) => all + some, 0);
      const many = async () => {
        while (sum() < 5000) await pause(50);
      };
      await within("many messages", many());
      running.kill("SIGKILL");
      await running.outcome;
      // Two steps of 64 messages, with two calls for each.
      assert(Math.max(...received()) <= 256, String(received()));
      from.close();
      to.close();
    });
  },
);

for (const hangsUp of [true, false]) {
  const name = hangsUp ? "read after its master has gone is its end" : "read is an error";
  Deno.test(needing(["strace"], `EIO of a terminal that is ${name}`), async () => {
    const [[stdout, output], [master, slave]] = [pipe(), terminal()];
    const path = Deno.readLinkSync(`/proc/self/fd/${slave.fd}`);
    const [strace = "", ...words] = injecting("read:error=EIO");
    using other = bystander();
    using running = iocopy("7 1 8 9", { 7: slave, 1: output, ...other.given }, {
      command: [strace, "-P", path, ...words],
    });
    await other.lives();
    if (hangsUp) master.close();
    else await master.write("line\n");
    assertEquals((await within("the end", stdout.readAll())).length, 0);
    other.end();
    const { code, stderr } = await running.outcome;
    const says = hangsUp ? "" : "iocopy: read 7: Input/output error\n";
    assertEquals([code, stderr], [hangsUp ? 0 : 111, says]);
    for (const end of hangsUp ? [stdout] : [stdout, master]) end.close();
  });
}

Deno.test(
  needing(["strace"], "EPIPE of a device that is read, as of /dev/kmsg, is not the reader's"),
  async () => {
    const [stdout, output] = pipe();
    const path = "/dev/zero";
    const [strace = "", ...words] = injecting("read:error=EPIPE");
    using running = iocopy("x 7 1", { 7: open(path, O_RDONLY), 1: output }, {
      command: [strace, "-P", path, ...words],
    });
    assertEquals((await within("the end", stdout.readAll())).length, 0);
    await endsWith(running, 111, "iocopy: read 7: Broken pipe\n");
    stdout.close();
  },
);

Deno.test("no descriptor left for a pipe of its own: it copies through memory", async () => {
  const content = noise(500_000);
  let well = 0;
  for (let limit = 16; limit < 48; limit += 2) {
    const [from, source] = unixPair();
    const [to, sink] = unixPair();
    using running = iocopy("6 7", { 6: source, 7: sink }, { command: limited(limit) });
    const written = from.write(content).then(() => from.shutdownWrite(), () => {});
    const arrived = await within(`a limit of ${limit}`, to.readAll());
    await written;
    const { code } = await running.outcome;
    // With fewer descriptors not even the runtime starts, which is no fault of the copy.
    if (code === 0) assert(same(arrived, content), `other bytes with a limit of ${limit}`);
    if (code === 0) well++;
    for (const end of [from, to]) end.close();
  }
  assert(well > 0, "it never ran");
});

for (
  const { how, limit, beside } of [
    { how: "the process may have only 48 descriptors", limit: 48, beside: 0 },
    { how: "a hundred more are inherited", limit: 1024, beside: 100 },
  ]
) {
  Deno.test(`1 is closed while others are copied, if ${how}`, async () => {
    using other = bystander();
    const [input, stdin] = pipe();
    const [stdout, output] = pipe();
    const more = Array.from({ length: beside }, (_, i) => [10 + i, open("/dev/null", O_RDONLY)]);
    const given = { 0: input, 1: output, ...other.given, ...Object.fromEntries(more) };
    using running = iocopy("0 1 8 9", given, { command: limited(limit) });
    await other.lives();
    stdin.close();
    assertEquals(await within("the end of file", stdout.read()), new Uint8Array(0));
    await other.lives();
    other.end();
    await endsWith(running, 0, "");
    stdout.close();
  });
}

Deno.test("what another thread reads for a peer that has gone is an error, not a quiet end", async () => {
  const [peer, sink] = unixPair();
  peer.close();
  using running = iocopy("0 1", { 0: eventfd(), 1: sink }); // which is read on another thread
  await endsWith(running, 111, "iocopy: write 1: Broken pipe\n");
});

Deno.test("a file that takes nothing is an error, not one that is not ready yet", async () => {
  const other = new Deno.Command("sleep", { args: ["60"] }).spawn();
  const memory = open(`/proc/${other.pid}/mem`, O_WRONLY);
  other.kill();
  await other.status;
  const [input, stdin] = pipe();
  using running = iocopy("0 1", { 0: input, 1: memory });
  await stdin.write("hello");
  await within("its end", endsWith(running, 111, "iocopy: write 1: Input/output error\n"));
  stdin.close();
});
