/**
 * The specification of the engine. For each channel, from rfd to wfd, it has to
 *
 * 1. buffer what it read until wfd becomes writable;
 * 2. mask the readable event unless the buffer is empty;
 * 3. mask the writable event unless the buffer is non-empty;
 * 4. shut the read side down at the end of file;
 * 5. shut the write side down after the end of file on the read side, once the
 *    buffer is drained;
 * 6. exit only after both sides of all channels are shut down;
 * 7. check every call for errors, and say what failed.
 *
 * The tests look from outside: at what goes into the command, what comes out of it,
 * and how it ends. They wait for bytes, for an end of file, or for a line that `v`
 * prints, never for time to pass, except where nothing is to happen. A command that
 * hangs is killed, and what waits for it fails.
 */
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import {
  type End,
  O_RDONLY,
  O_RDWR,
  O_WRONLY,
  open,
  pipe,
  reversedPipe,
  reversedTerminal,
  SOCKETS,
  tcpPair,
  terminal,
  unixPair,
} from "./tests/ends.ts";
import { bystander, endOfFile, endsWith, passes, staysIdle, succeeds } from "./tests/expect.ts";
import { fillUp, inFolder, iocopy, numbered, prose } from "./tests/probe.ts";
import { follow, logged } from "./tests/watching.ts";

// ---- 1. It buffers what it read until wfd becomes writable.

Deno.test("1: it buffers what it read until wfd becomes writable", async (t) => {
  const sources: Record<string, () => [End, End]> = { ...SOCKETS, "terminal": terminal };
  for (const [kind, make] of Object.entries(sources)) {
    await t.step(`bytes from a ${kind} wait for a socket that is full`, async () => {
      const [upstream, source] = make();
      const [sink, downstream] = unixPair();
      using other = bystander();
      fillUp(sink);
      const { running, log } = logged("v 3 4 8 9", { 3: source, 4: sink, ...other.given });
      using _ = running;
      await upstream.write("hello\n");
      await log.until("iocopy: 3 > 6");
      await other.lives();
      await other.lives();
      assertEquals(follow(log.lines, 3, 4).held, 6);
      if (kind === "terminal") await upstream.write("\x04");
      else upstream.shutdownWrite();
      other.end();
      const all = new TextDecoder().decode(await downstream.readAll());
      assertMatch(all, /^\0+hello\n$/);
      assertEquals((await running.outcome).code, 0);
      const { held, written, ended } = follow(await log.all(), 3, 4);
      assertEquals([held, written, ended], [0, 6, true]);
      for (const end of [upstream, downstream]) end.close();
    });
  }
});

// ---- 2. It masks the readable event unless the buffer is empty.

/** More bytes than the kernel buffers on the way to a stuck reader (tcp(7), pipe(7)). */
const FLOOD = 2 * 1024 * 1024, TCP_FLOOD = 16 * 1024 * 1024;

/** Descriptors whose reader does not read. */
const STUCK: Record<string, () => [sink: End, downstream: End]> = {
  "pipe": reversedPipe,
  "unix socket": unixPair,
  "TCP socket": tcpPair,
  "terminal": reversedTerminal,
};

Deno.test("2: it reads only while it holds nothing; a reader that is stuck stops its own writer only", async (t) => {
  for (const [kind, make] of Object.entries(STUCK)) {
    for (const nonBlocking of [false, true]) {
      for (const buffer of [4096, 256 * 1024]) {
        const how = `${nonBlocking ? "non-blocking" : "blocking"} ${kind}, -b ${buffer}`;
        await t.step(how, async () => {
          const [sink, downstream] = make();
          const [source, upstream] = unixPair();
          using other = bystander();
          const given = { 3: source, 4: sink, ...other.given };
          for (const end of Object.values(given)) end.nonBlocking = nonBlocking;
          const { running, log } = logged(`v -b ${buffer} 3 4 8 9`, given);
          using _ = running;
          const sent = new Uint8Array(kind === "TCP socket" ? TCP_FLOOD : FLOOD).fill(0x78);
          let isSent = false;
          const sending = upstream.write(sent).then(() => {
            isSent = true;
            upstream.close();
          });
          sending.catch(() => {}); // it is awaited below
          // When it is stuck, the other channel goes on.
          for (let before = -1, still = 0; still < 20;) {
            await other.lives();
            const { length } = log.lines.filter((line) => / [34] [<>] /.test(line));
            still = length > 0 && length === before ? still + 1 : 0;
            before = length;
          }
          assert(!isSent, "all went into a writer that takes nothing");
          const { held } = follow(log.lines, 3, 4);
          assert(held <= buffer, `${held} bytes are held`);
          assertEquals((await downstream.readExactly(sent.length)).length, sent.length);
          await sending;
          await other.ends();
          assertEquals((await running.outcome).code, 0);
          const all = follow(await log.all(), 3, 4);
          assertEquals([all.held, all.written, all.ended], [0, sent.length, true]);
          assert(Math.max(...all.sizes) <= buffer, "it read more than it may hold");
          downstream.close();
        });
      }
    }
  }
});

// ---- 3. It masks the writable event unless the buffer is non-empty.

Deno.test("3: what is masked does not wake it: channels that wait use no processor time", async () => {
  const [idle, idleUp] = pipe();
  const [idleDown, idleSink] = pipe();
  const [fed, fedUp] = unixPair();
  const [full, fullDown] = unixPair();
  const [ended, endedUp] = unixPair();
  const [stuck, stuckDown] = unixPair();
  const [half, halfDown] = tcpPair();
  const [typed, typedUp] = reversedTerminal();
  const [dead, deadSink] = pipe();
  const [other, far] = unixPair();
  fillUp(full);
  fillUp(stuck);
  const { args, given, fd } = numbered(
    [idle, idleSink],
    [fed, full],
    [ended, stuck],
    [other, half],
    [half, other],
    [typed, deadSink],
  );
  const { running, log } = logged(`v ${args}`, given);
  using _ = running;
  await fedUp.write("more\n");
  await endedUp.write("last\n");
  endedUp.close();
  halfDown.shutdownWrite();
  await log.until(`iocopy: ${fd(fed)} > 5`);
  await log.until(`iocopy: ${fd(ended)} > 5`);
  await log.until(`iocopy: ${fd(half)} > 0`);
  await fedUp.write("yet more\n");
  dead.close();
  await log.until(`iocopy: write ${fd(deadSink)}: Broken pipe`);
  await staysIdle(running);
  running.kill("SIGKILL");
  await running.outcome;
  await log.all();
  for (const end of [idleUp, idleDown, fedUp, fullDown, stuckDown, halfDown, typedUp, far]) {
    end.close();
  }
});

// ---- 4. It shuts the read side down at the end of file.

Deno.test("4: at the end of file the read side is shut down at once, whatever else still runs", async () => {
  const [source, upstream] = unixPair();
  const [sink, downstream] = unixPair();
  using other = bystander();
  const { running, log } = logged("v 3 4 8 9", { 3: source, 4: sink, ...other.given });
  using _ = running;
  upstream.shutdownWrite();
  await log.until("iocopy: 3 > 0");
  await endOfFile(downstream);
  await other.lives();
  await endOfFile(upstream);
  assertEquals(follow(log.lines, 8, 9).ended, false);
  await other.ends();
  assertEquals((await running.outcome).code, 0);
  await log.all();
  for (const end of [upstream, downstream]) end.close();
});

// ---- 5. It shuts the write side down after the end of file, once the buffer is drained.

Deno.test("5: the write side is shut down after the end of file, once the buffer is drained", async (t) => {
  for (const [kind, make] of Object.entries(STUCK)) {
    await t.step(`a ${kind} that takes nothing yet`, async () => {
      const [sink, downstream] = make();
      const [source, upstream] = unixPair();
      using other = bystander();
      if (kind !== "terminal") fillUp(sink);
      const { running, log } = logged("v 3 4 8 9", { 3: source, 4: sink, ...other.given });
      using _ = running;
      const sent = prose(100_000);
      await upstream.write(sent);
      upstream.close();
      await other.lives();
      await other.ends();
      // The held bytes are now the only reason to go on.
      const expected = kind === "terminal" ? sent.replaceAll("\n", "\r\n") : sent;
      const all = kind === "terminal"
        ? await downstream.readText(expected.length)
        : new TextDecoder().decode(await downstream.readAll());
      assert(all.endsWith(expected), "something is missing");
      assertEquals((await running.outcome).code, 0);
      const { written, ended } = follow(await log.all(), 3, 4);
      assertEquals([written, ended], [sent.length, true]);
      downstream.close();
    });
  }
});

// ---- 6. It exits only after both sides of all channels are shut down.

Deno.test("6: it exits only after both sides of all channels are shut down", async () => {
  const channels = Array.from({ length: 4 }, () => [...unixPair(), ...pipe()] as const);
  const { args, given } = numbered(
    ...channels.map(([source, , , sink]) => [source, sink] as const),
  );
  using running = iocopy(args, given);
  for (const [i, [, upstream, downstream]] of channels.entries()) {
    for (const [, from, to] of channels.slice(i)) await passes(from, to);
    upstream.close();
    await endOfFile(downstream);
    downstream.close();
  }
  await succeeds(running);
});

// ---- 7. It checks every call for errors, and says what failed.

Deno.test("7: an error names the operation, the descriptor and the reason", async (t) => {
  await inFolder(async (folder) => {
    const gone = () => {
      const [out, into] = pipe();
      out.close();
      return into;
    };
    const reset = () => {
      const [socket, peer] = tcpPair();
      peer.resetOnClose();
      peer.close();
      return socket;
    };
    const left = () => {
      const [socket, peer] = unixPair();
      peer.close();
      return socket;
    };
    const typed = () => {
      const [master, slave] = terminal();
      master.close();
      return slave;
    };
    const [out, into] = pipe();
    const intoPipe = () => into.duplicate();
    const fromPipe = async () => {
      const [reading, writing] = pipe();
      await writing.write("hello"); // before the start, where a peer that has gone is no error yet
      writing.close();
      return reading;
    };
    await Deno.writeTextFile(`${folder}/file`, "hello");
    const hello = () => open(`${folder}/file`, O_RDONLY);
    const nothing = () => open("/dev/null", O_RDWR);
    const all: [what: string, source: () => End | Promise<End>, sink: () => End, says: string][] = [
      ["a pipe without a reader", hello, gone, "write 4: Broken pipe"],
      ["a unix socket without a peer", hello, left, "write 4: Broken pipe"],
      ["a reset connection, read", reset, nothing, "read 3: Connection reset by peer"],
      ["a reset connection, written", hello, reset, "write 4: Connection reset by peer"],
      ["a terminal that hung up", hello, typed, "write 4: Input/output error"],
      [
        "a full device",
        hello,
        () => open("/dev/full", O_WRONLY),
        "write 4: No space left on device",
      ],
      ["a folder", () => open(folder, O_RDONLY), nothing, "read 3: Is a directory"],
      ["a folder, into a pipe", () => open(folder, O_RDONLY), intoPipe, "read 3: Is a directory"],
      ["a reset connection, into a pipe", reset, intoPipe, "read 3: Connection reset by peer"],
      ["a pipe, into a unix socket without a peer", fromPipe, left, "write 4: Broken pipe"],
      ["a pipe, into a reset connection", fromPipe, reset, "write 4: Connection reset by peer"],
    ];
    for (const [what, source, sink, says] of all) {
      await t.step(what, async () => {
        using running = iocopy("3 4", { 3: await source(), 4: sink() });
        await endsWith(running, 111, `iocopy: ${says}\n`);
      });
    }
    out.close();
    into.close();
  });
});

// ---- Half-close.

Deno.test("0 6 6 1: a socket on one number works both ways, and either side may end first", async (t) => {
  for (const [kind, make] of Object.entries(SOCKETS)) {
    for (const first of ["standard input", "the peer"]) {
      await t.step(`a ${kind} socket, ${first} ends first`, async () => {
        const [reading, writing] = pipe();
        const [out, into] = pipe();
        const [socket, peer] = make();
        using running = iocopy("0 6 6 1", { 0: reading, 1: into, 6: socket });
        await passes(writing, peer);
        await passes(peer, out);
        if (first === "the peer") {
          peer.shutdownWrite();
          await endOfFile(out);
          await passes(writing, peer);
          writing.close();
          await endOfFile(peer);
        } else {
          writing.close();
          await endOfFile(peer);
          await passes(peer, out);
          peer.shutdownWrite();
          await endOfFile(out);
        }
        await succeeds(running);
        for (const end of [peer, out]) end.close();
      });
    }
  }
});

Deno.test("0 7 6 1: under tcpserver and tcpclient each pair of numbers is one socket", async (t) => {
  for (const [kind, make] of Object.entries(SOCKETS)) {
    for (const first of [0, 1]) {
      await t.step(`${kind} sockets, side ${first} ends first`, async () => {
        const [server, local] = make();
        const [client, remote] = make();
        using running = iocopy("0 7 6 1", {
          0: server,
          1: server.duplicate(),
          6: client,
          7: client.duplicate(),
        });
        const [one, other] = first ? [local, remote] : [remote, local];
        await passes(one, other);
        await passes(other, one);
        one.shutdownWrite();
        await endOfFile(other);
        await passes(other, one);
        other.shutdownWrite();
        await endOfFile(one);
        await succeeds(running);
        one.close();
        other.close();
      });
    }
  }
});

/**
 * Runs channels that share what they write, whose other end is `peer`, and ends their
 * sources in order: the peer sees the end of file with the last one, and not before.
 */
async function endInTurn(
  args: string,
  given: Record<number, End>,
  sources: [writer: End, rfd: number][],
  peer: End,
): Promise<void> {
  const { running, log } = logged(`v ${args}`, given);
  using _ = running;
  for (const [writer] of sources) await passes(writer, peer);
  for (const [i, [writer, rfd]] of sources.entries()) {
    await passes(writer, peer);
    writer.close();
    if (i < sources.length - 1) await log.until(`iocopy: ${rfd} > 0`);
  }
  await endOfFile(peer);
  peer.close();
  assertEquals((await running.outcome).code, 0);
  await log.all();
}

Deno.test("several channels into one wfd: it is shut down when the last has ended", async (t) => {
  for (const [kind, make] of Object.entries({ pipe, ...SOCKETS })) {
    await t.step(`a ${kind}`, async () => {
      const [a, first] = pipe();
      const [b, second] = unixPair();
      const [c, third] = pipe();
      const [peer, into] = make();
      const { args, given, fd } = numbered([a, into], [b, into], [c, into]);
      await endInTurn(args, given, [[first, fd(a)], [third, fd(c)], [second, fd(b)]], peer);
    });
  }
});

Deno.test("5 7 6 8, two numbers of one socket: it is shut down when the last channel has ended", async (t) => {
  for (const [kind, make] of Object.entries(SOCKETS)) {
    await t.step(`a ${kind} socket`, async () => {
      const [a, first] = pipe();
      const [b, second] = pipe();
      const [peer, into] = make();
      const given = { 5: a, 6: b, 7: into, 8: into.duplicate() };
      await endInTurn("5 7 6 8", given, [[first, 5], [second, 6]], peer);
    });
  }
});

Deno.test("one rfd in several channels: each byte goes to one of them, and the end of file to all", async (t) => {
  for (const kind of ["pipe", "unix", "terminal"]) {
    await t.step(`a ${kind}`, async () => {
      const [given, feed] = kind === "pipe"
        ? pipe()
        : kind === "unix"
        ? unixPair()
        : reversedTerminal();
      const [one, first] = pipe();
      const [other, second] = pipe();
      using running = iocopy("3 4 3 5", { 3: given, 4: first, 5: second });
      await feed.write("hello\n");
      if (kind === "terminal") await feed.write("\x04\x04");
      else feed.close();
      const all = await Promise.all([one.readAll(), other.readAll()]);
      assertEquals(all.map((bytes) => new TextDecoder().decode(bytes)).join(""), "hello\n");
      for (const end of [feed, one, other]) end.close();
      await succeeds(running);
    });
  }
});

Deno.test("0, 1 and 2 are really closed while other channels run", async (t) => {
  for (const number of [1, 2]) {
    await t.step(`${number} is a pipe: its reader sees the end`, async () => {
      const [reading, writing] = pipe();
      const [out, into] = pipe();
      using other = bystander();
      using running = iocopy(`0 ${number} 8 9`, { 0: reading, [number]: into, ...other.given });
      await passes(writing, out);
      writing.close();
      await endOfFile(out);
      await other.lives();
      other.end();
      await succeeds(running);
      out.close();
    });
  }

  await t.step("0 is a pipe: its writer learns that nobody reads", async () => {
    const [reading, writing] = pipe();
    const [out, into] = pipe();
    using other = bystander();
    const { running, log } = logged("0 1 8 9", { 0: reading, 1: into, ...other.given });
    using _ = running;
    await passes(writing, out);
    out.close();
    await log.until("iocopy: write 1: Broken pipe");
    await assertRejects(() => writing.write("more"), Error, "write failed");
    await other.lives();
    other.end();
    assertEquals((await running.outcome).code, 111);
    await log.all();
    writing.close();
  });

  await t.step("1 and 4 are one pipe: closing 1 leaves 4 open", async () => {
    const [reading, writing] = pipe();
    const [out, into] = pipe();
    const [other, far] = unixPair();
    const given = { 0: reading, 1: into, 3: other, 4: into.duplicate() };
    await endInTurn("0 1 3 4", given, [[writing, 0], [far, 3]], out);
  });
});

// ---- Errors.

Deno.test("an error ends its own channel only: its writer learns of it, other channels deliver", async (t) => {
  const upstreams = { pipe, ...SOCKETS };
  for (const [kind, make] of Object.entries(upstreams)) {
    for (const [downKind, makeDown] of Object.entries(upstreams)) {
      await t.step(`${kind} to ${downKind}`, async () => {
        const [source, upstream] = make();
        const [downstream, sink] = makeDown();
        using other = bystander();
        const { running, log } = logged("3 4 8 9", { 3: source, 4: sink, ...other.given });
        using _ = running;
        await passes(upstream, downstream);
        if (downKind === "TCP") downstream.resetOnClose();
        downstream.close();
        // It can notice the hang-up on its own; bytes sent through it make sure of that.
        await assertRejects(
          async () => {
            for (;;) await upstream.write("more");
          },
          Error,
          "write failed",
        );
        await other.lives();
        await other.ends();
        upstream.close();
        const { code } = await running.outcome;
        const lines = await log.all();
        if (lines.length === 0) {
          assertEquals([downKind, code], ["unix", 0], "only a unix socket says that its peer left");
        } else {
          assertEquals([lines.length, code], [1, 111], lines.join("; "));
          assertMatch(lines[0] ?? "", /^iocopy: write 4: (Broken pipe|Connection reset by peer)$/);
        }
      });
    }
  }
});

Deno.test("an idle writer learns at once that its reader has gone", async (t) => {
  const all: [kind: string, make: () => [End, End], code: number, says: string][] = [
    ["pipe", pipe, 111, "iocopy: write 4: Broken pipe\n"],
    ["TCP socket", tcpPair, 111, "iocopy: write 4: Connection reset by peer\n"],
    ["unix socket", unixPair, 0, ""], // epoll reports that its peer has gone, and nothing is lost
    ["terminal", terminal, 111, "iocopy: write 4: Input/output error\n"],
  ];
  for (const [kind, make, code, stderr] of all) {
    await t.step(`a ${kind}`, async () => {
      const [source, upstream] = unixPair();
      const [downstream, sink] = make();
      using running = iocopy("3 4", { 3: source, 4: sink });
      await passes(upstream, downstream);
      if (kind === "TCP socket") downstream.resetOnClose();
      downstream.close();
      await endsWith(running, code, stderr);
      await endOfFile(upstream);
      upstream.close();
    });
  }
});

Deno.test("a read of a terminal that still waits does not keep a channel that has ended", async () => {
  const [typed, typing] = reversedTerminal();
  const [one, first] = pipe();
  const [other, second] = pipe();
  const { running, log } = logged("v 3 4 3 5", { 3: typed, 4: first, 5: second });
  using _ = running;
  // Both channels wake up for this line; one gets it, and the other blocks in read(2).
  await typing.write("hello\n");
  await log.until("iocopy: 3 > 6");
  one.close();
  other.close();
  assertEquals((await running.outcome).code, 111);
  await log.until("iocopy: write 4: Broken pipe");
  await log.until("iocopy: write 5: Broken pipe");
  await log.all();
  typing.close();
});

// ---- Many channels.

Deno.test("five hundred pairs work like one", async () => {
  const MANY = 500;
  const channels = Array.from({ length: MANY }, () => [...unixPair(), ...pipe()] as const);
  const { args, given } = numbered(
    ...channels.map(([source, , , sink]) => [source, sink] as const),
  );
  using running = iocopy(args, given);
  for (const [i, [, upstream]] of channels.entries()) {
    await upstream.write(`channel ${i}`);
    upstream.close();
  }
  for (const [i, [, , downstream]] of channels.entries()) {
    assertEquals(new TextDecoder().decode(await downstream.readAll()), `channel ${i}`);
    downstream.close();
  }
  await succeeds(running);
});
