/**
 * What looks like an end of file, an error or a duplicate, but is not one: each of
 * these once lost bytes with exit status 0, or did other harm.
 */
import { assert, assertEquals } from "@std/assert";
import {
  type End,
  epoll,
  eventfd,
  listening,
  netlink,
  O_APPEND,
  O_CREAT,
  O_RDONLY,
  O_RDWR,
  O_WRONLY,
  open,
  packetPipe,
  pipe,
  SOCK_DGRAM,
  SOCK_SEQPACKET,
  tcpPair,
  terminal,
  unixPair,
} from "./ends.ts";
import { retrying } from "./connections.ts";
import { bystander, endsWith, succeeds } from "./expect.ts";
import { skippedIf } from "./harness.ts";
import { cpuSeconds, hasBytes, inFolder, iocopy, noise, same, watched, within } from "./probe.ts";
import { pause } from "./watching.ts";

const decoder = new TextDecoder();

for (const [kind, make] of Object.entries({ pipe, TCP: tcpPair })) {
  for (const before of [1000, 0]) {
    Deno.test(`urgent data behind ${before} bytes of TCP is not an end of file: to a ${kind}`, async () => {
      const [peer, source] = tcpPair();
      const [out, sink] = make();
      await peer.write("x".repeat(before));
      peer.sendUrgent("!");
      await peer.write("END");
      peer.close();
      using running = iocopy("3 4", { 3: source, 4: sink });
      const arrived = decoder.decode(await within("the end", out.readAll()));
      assertEquals(arrived, "x".repeat(before) + "END");
      assertEquals((await running.outcome).code, 0);
      out.close();
    });
  }
}

/** It says ERR until somebody has written to it (poll(2)). */
const PRESSURE = "/proc/pressure/memory";

Deno.test(
  skippedIf(!mayWrite(PRESSURE), `${PRESSURE} cannot be written`, "ERR of a file is no error"),
  async () => {
    const [input, writing] = pipe();
    using other = bystander();
    const given = { 3: input, 4: open(PRESSURE, O_RDWR), ...other.given };
    using running = iocopy("3 4 8 9", given);
    await other.lives(); // now it has started, but for what the runtime compiles meanwhile
    await retrying(async () => {
      const used = cpuSeconds(running.pid);
      await pause(500);
      assert(cpuSeconds(running.pid) - used < 0.2, "it does not sleep");
    });
    await writing.write("some 150000 2000000\0");
    writing.close();
    other.end();
    await succeeds(running);
  },
);

function mayWrite(path: string): boolean {
  try {
    open(path, O_RDWR).close();
    return true;
  } catch {
    return false;
  }
}

Deno.test("an empty datagram is a message, not the end", async () => {
  const [peer, source] = unixPair(SOCK_DGRAM);
  const [out, sink] = unixPair(SOCK_DGRAM);
  using running = iocopy("3 4", { 3: source, 4: sink });
  for (const message of ["one", "", "two"]) peer.send(message);
  for (const message of ["one", "", "two"]) {
    assertEquals(decoder.decode(await within("a message", out.read())), message);
  }
  running.kill("SIGTERM");
  assertEquals((await running.outcome).code, 128 + 15);
  for (const end of [peer, out]) end.close();
});

Deno.test("SEQPACKET ends when its peer has gone, not at an empty message", async () => {
  const [peer, source] = unixPair(SOCK_SEQPACKET);
  const [out, sink] = pipe();
  for (const message of ["one", "", "", "two"]) peer.send(message);
  peer.close();
  using running = iocopy("3 4", { 3: source, 4: sink });
  assertEquals(decoder.decode(await within("the end", out.readAll())), "onetwo");
  assertEquals((await running.outcome).code, 0);
  out.close();
});

for (const options of ["", "x "]) {
  Deno.test(`a message of 100,000 bytes is not truncated: ${options}0 1`, async () => {
    const [peer, source] = unixPair(SOCK_SEQPACKET);
    const [out, sink] = unixPair(SOCK_SEQPACKET);
    using running = iocopy(`${options}3 4`, { 3: source, 4: sink });
    peer.send("y".repeat(100_000));
    assertEquals((await within("it", out.read(200_000))).length, 100_000);
    peer.close();
    assertEquals((await running.outcome).code, 0);
    out.close();
  });
}

Deno.test("a message longer than the buffer is an error, and is not truncated", async () => {
  const [peer, source] = unixPair(SOCK_DGRAM);
  const [out, sink] = pipe();
  peer.send("z".repeat(1001));
  using running = iocopy("-b 1000 3 4", { 3: source, 4: sink });
  assertEquals((await within("the end", out.readAll())).length, 0);
  const { code, stderr } = await running.outcome;
  assertEquals([code, stderr], [111, "iocopy: read 3: Message too long\n"]);
  for (const end of [peer, out]) end.close();
});

Deno.test("a message that its socket does not take is no error of the other direction", async () => {
  const [peer, one] = unixPair(SOCK_SEQPACKET);
  const [out, other] = unixPair(SOCK_SEQPACKET);
  other.sendBuffer = 4608; // the least that there is
  using running = iocopy("3 4 4 3", { 3: one, 4: other });
  peer.send("z".repeat(10_000));
  await within("the end of file", out.read());
  out.send("last words");
  assertEquals(await within("them", peer.readText(10)), "last words");
  out.close();
  const { code, stderr } = await running.outcome;
  assertEquals([code, stderr], [111, "iocopy: write 4: Message too long\n"]);
  peer.close();
});

Deno.test("a stream is sent in messages that the socket takes", async () => {
  await inFolder(async (folder) => {
    const content = noise(1_000_000);
    await Deno.writeFile(`${folder}/input`, content); // read in pieces longer than any message
    const [out, sink] = unixPair(SOCK_DGRAM);
    using running = iocopy("-b 1M 3 4", { 3: open(`${folder}/input`, O_RDONLY), 4: sink });
    const arrived: Uint8Array<ArrayBuffer>[] = [];
    for (let length = 0; length < content.length; length += arrived.at(-1)?.length ?? 0) {
      arrived.push(await within("a message", out.read(content.length)));
    }
    assert(same(new Uint8Array(await new Blob(arrived).arrayBuffer()), content), "other bytes");
    await succeeds(running);
    out.close();
  });
});

Deno.test("a file of unknown size, as in /proc, is copied completely", async () => {
  const path = "/proc/filesystems";
  for (const make of [pipe, tcpPair]) {
    const [out, sink] = make();
    using running = iocopy("3 4", { 3: open(path, O_RDONLY), 4: sink });
    const arrived = decoder.decode(await within("the end", out.readAll()));
    assertEquals(arrived, Deno.readTextFileSync(path));
    assertEquals((await running.outcome).code, 0);
    out.close();
  }
});

Deno.test("a file of /proc that gives all at its start is read at once, whatever the limits are", async () => {
  const path = "/proc/sys/kernel/pid_max", RATE = 20;
  const content = Deno.readTextFileSync(path);
  for (const options of ["-b 2", `--rate=${RATE}`, "x -b 2"]) {
    const [out, sink] = pipe();
    const start = performance.now();
    using running = iocopy(`${options} 3 4`, { 3: open(path, O_RDONLY), 4: sink });
    assertEquals(decoder.decode(await within("the end", out.readAll())), content, options);
    assertEquals((await running.outcome).code, 0);
    const seconds = (performance.now() - start) / 1000, BURST = 1;
    // The end of file comes when the rate allows what was read.
    if (options.includes("rate")) {
      assert(seconds >= (content.length - BURST) / RATE, `${seconds} s`);
    }
    out.close();
  }
});

Deno.test("an eventfd as 0: the runtime's own eventfd, which has the same inode, is not touched", async () => {
  const [out, sink] = pipe();
  using running = iocopy("0 1", { 0: eventfd(), 1: sink });
  assertEquals((await within("the counter", out.readExactly(8)))[0], 1);
  running.kill("SIGTERM");
  const { code, stderr } = await running.outcome;
  assertEquals([code, stderr], [128 + 15, ""]);
  out.close();
});

Deno.test("a file is not copied to its own end", async () => {
  await inFolder(async (folder) => {
    const path = `${folder}/file`;
    await Deno.writeTextFile(path, "hello");
    const given = { 3: open(path, O_RDONLY), 4: open(path, O_WRONLY | O_APPEND) };
    using running = iocopy("3 4", given);
    const { code, stderr } = await running.outcome;
    assertEquals(code, 100);
    assertEquals(
      stderr,
      "iocopy: descriptor 3 and descriptor 4 are the same file, and the copy would never end; " +
        "iocopy --help tells more\n",
    );
    assertEquals(await Deno.readTextFile(path), "hello");
    // With equal offsets the copy ends, and changes nothing.
    using other = iocopy("3 4", { 3: open(path, O_RDONLY), 4: open(path, O_RDWR) });
    assertEquals((await other.outcome).code, 0);
    assertEquals(await Deno.readTextFile(path), "hello");
  });
});

Deno.test("an open file is not copied to itself: both share the place where they are", async () => {
  await inFolder(async (folder) => {
    const path = `${folder}/file`, content = noise(600_000);
    await Deno.writeFile(path, content);
    const both = open(path, O_RDWR), words = "each piece would be written over the next one";
    for (const [args, other] of [["3 4", 4], ["3 3", 3]] as const) {
      using running = iocopy(args, { 3: both.duplicate(), 4: both.duplicate() });
      await endsWith(
        running,
        100,
        `iocopy: descriptor 3 and descriptor ${other} are one open file, and ${words}; ` +
          "iocopy --help tells more\n",
      );
      assert(same(await Deno.readFile(path), content), "the file has changed");
    }
    both.close();
  });
});

Deno.test("a pipe is not copied into itself", async () => {
  const [input, output] = pipe();
  await output.write("x");
  using running = iocopy("3 4", { 3: input, 4: output });
  await endsWith(
    running,
    100,
    "iocopy: descriptor 3 and descriptor 4 are the same pipe, and the copy would never end; " +
      "iocopy --help tells more\n",
  );
});

for (const options of ["-b 100 ", "--rate=50k ", "x -b 1000 "]) {
  Deno.test(`packets of a pipe are not truncated: ${options}0 1`, async () => {
    const [input, stdin] = packetPipe();
    const packets = Array.from({ length: 15 }, (_, i) => String.fromCharCode(97 + i).repeat(1500));
    for (const packet of packets) await stdin.write(packet); // each one takes a page
    stdin.close();
    await inFolder(async (folder) => {
      const path = `${folder}/file`;
      const file = open(path, O_WRONLY | O_CREAT | O_APPEND); // which splice(2) refuses
      const log = open("/dev/null", O_WRONLY);
      using running = iocopy(`${options}0 1`, { 0: input, 1: file, 2: log });
      assertEquals((await running.outcome).code, 0);
      assertEquals(await Deno.readTextFile(path), packets.join(""));
    });
  });
}

Deno.test("a listening socket without a target is wrong use", async () => {
  for (const given of [[3, 4], [4, 3]]) {
    const [a, b] = unixPair();
    using running = iocopy(given.join(" "), { 3: listening(), 4: b });
    const { code, stderr } = await running.outcome;
    const words = "a listening socket: it needs a target after it, as HOST:PORT";
    assertEquals(
      [code, stderr],
      [100, `iocopy: descriptor 3 is ${words}; iocopy --help tells more\n`],
    );
    a.close();
  }
});

Deno.test("a descriptor that can never be read or written is wrong use", async () => {
  for (const [args, word] of [["3 4", "reading"], ["4 3", "writing"]] as const) {
    const [a, b] = unixPair();
    using running = iocopy(args, { 3: epoll(), 4: b });
    const says = `iocopy: descriptor 3 is not open for ${word}; iocopy --help tells more\n`;
    await endsWith(running, 100, says);
    a.close();
  }
});

Deno.test("a socket that knows no half-close is not asked for one", async () => {
  const [input, stdin] = pipe();
  using running = iocopy("3 4", { 3: input, 4: netlink() });
  await stdin.write("n".repeat(16)); // which the kernel drops
  stdin.close();
  await succeeds(running);
});

Deno.test("a connection that was reset before is not taken for one that was never made", async () => {
  const [peer, source] = tcpPair();
  const [out, sink] = pipe();
  peer.resetOnClose();
  peer.close();
  using running = iocopy("3 4", { 3: source, 4: sink });
  assertEquals((await within("the end", out.readAll())).length, 0);
  const { code, stderr } = await running.outcome;
  assertEquals([code, stderr], [111, "iocopy: read 3: Connection reset by peer\n"]);
  out.close();
});

for (const seconds of [0, 1000]) {
  Deno.test(`closing a socket with SO_LINGER of ${seconds} s neither loses what is not sent nor waits for it`, async () => {
    const [peer, sink] = tcpPair();
    const [[input, stdin], [other, otherInput], [output, otherOutput]] = [pipe(), pipe(), pipe()];
    sink.linger = seconds;
    using running = iocopy("3 4 5 6", { 3: input, 4: sink, 5: other, 6: otherOutput });
    const bytes = noise(900_000); // more than the peer has room for as long as it reads nothing
    await stdin.write(bytes);
    stdin.close();
    await otherInput.write("goes on");
    assertEquals(await within("another channel", output.readText(7)), "goes on");
    otherInput.close();
    await succeeds(running);
    assert(same(await within("the end", peer.readAll()), bytes));
    for (const end of [peer, output]) end.close();
  });
}

Deno.test("forty terminals that nobody reads stop neither another channel nor SIGTERM", async () => {
  const terminals = Array.from({ length: 40 }, () => terminal());
  const [input, stdin] = pipe();
  const [stdout, output] = pipe();
  const zeros = open("/dev/zero", O_RDONLY);
  const given: Record<number, End> = { 3: input, 4: output, 5: zeros };
  terminals.forEach(([, slave], i) => given[10 + i] = slave);
  const args = terminals.map((_, i) => `5 ${10 + i}`).join(" ");
  using running = watched(`3 4 ${args}`, given);
  // All are full now: more writes would block than the runtime has threads.
  for (const [master] of terminals) {
    while (!await hasBytes(master)) await pause(1);
  }
  await stdin.write("hello");
  assertEquals(await within("the pipe", stdout.readText(5)), "hello");
  // Repeated, since two signals at once arrive as one; the second one ends it at once.
  const timer = setInterval(() => running.kill("SIGTERM"), 50);
  const { code } = await within("the end", running.outcome).finally(() => clearInterval(timer));
  assertEquals(code, 128 + 15);
  for (const end of [...Object.values(given), stdin, stdout, ...terminals.map(([m]) => m)]) {
    end.close();
  }
});

Deno.test("-t does not give up while bytes flow slowly to a terminal", async () => {
  const [master, slave] = terminal();
  using running = iocopy("-t 1 3 4", { 3: open("/dev/zero", O_RDONLY), 4: slave });
  // Far fewer bytes than one read of the source, for longer than the timeout.
  const until = performance.now() + 1500;
  while (performance.now() < until) {
    assert((await within("a piece", master.read(512))).length > 0);
    await pause(20);
  }
  running.kill("SIGKILL");
  const { signal, stderr } = await running.outcome;
  assertEquals([signal, stderr], [9, ""]);
  master.close();
});
