/**
 * Descriptor, which does for an inherited number what Deno.FsFile does for a file.
 */
import { assert, assertEquals } from "@std/assert";
import {
  deaf,
  makeFifo,
  O_CREAT,
  O_RDONLY,
  O_RDWR,
  O_WRONLY,
  open,
  pipe,
  reversedTerminal,
  serving,
  SOCK_DGRAM,
  tcpPair,
  terminal,
  unixPair,
} from "./ends.ts";
import { DENO_26, ROOT, skippedIf } from "./harness.ts";
import { program, said } from "./library.ts";
import { fillUp, inFolder, knowing, limited, ofTwins, outputOf, strace, within } from "./probe.ts";
import { needing } from "./programs.ts";
import { pause } from "./watching.ts";

Deno.test("Descriptor reads and writes, blocking or not", async (t) => {
  for (const [kind, make] of Object.entries({ pipe, TCP: tcpPair, unix: unixPair, terminal })) {
    await t.step(`a ${kind}`, async () => {
      const [reading, first] = kind === "terminal" ? reversedTerminal() : make();
      const [out, writing] = make();
      const code = `
        const [input, output] = [new Descriptor(3), new Descriptor(4)];
        const bytes = new Uint8Array(100);
        const text = (length) => length === null ? null : new TextDecoder().decode(bytes.subarray(0, length));
        const data = new TextEncoder().encode("asked");
        say([await output.write(data), text(await input.read(bytes))]);
        say([output.writeSync(data), text(input.readSync(bytes))]);
        say([text(await input.read(bytes)), text(input.readSync(bytes))]);
        say([input.isTerminal(), output.isTerminal(), input.kind]);
      `;
      using running = program(code, { 3: reading, 4: writing });
      const eol = kind === "terminal" ? "\n" : "";
      assertEquals(await out.readText(5), "asked");
      await first.write("one" + eol);
      assertEquals(await out.readText(5), "asked");
      await first.write("two" + eol);
      if (kind === "terminal") await first.write("\x04\x04");
      else first.close();
      const isTerminal = kind === "terminal";
      const name = ["pipe", "terminal"].includes(kind) ? kind : "socket";
      assertEquals(await said(running), [
        [5, "one" + eol],
        [5, "two" + eol],
        [null, null],
        [isTerminal, isTerminal, name],
      ]);
      first.close();
      out.close();
    });
  }
});

Deno.test("what is always ready leaves timers and signals their turn", async () => {
  const code = `
    const [input, output] = [new Descriptor(3), new Descriptor(4)];
    const signal = AbortSignal.timeout(100);
    say(await input.readable.pipeTo(output.writable, { signal }).catch(({ name }) => name));
  `;
  const given = { 3: open("/dev/zero", O_RDONLY), 4: open("/dev/null", O_WRONLY) };
  using running = program(code, given);
  assertEquals(await said(running), ["TimeoutError"]);
});

Deno.test("writes that are not awaited keep their order, and are made before a close", async () => {
  const code = `
    const output = new Descriptor(3), bytes = (text) => new TextEncoder().encode(text);
    for (let i = 0; i < 20; i++) {
      const writes = Array.from("abcdefgh", (letter) => output.write(bytes(letter)));
      await new Promise((resolve) => setTimeout(resolve, 10));
      await Promise.all(writes);
    }
    const last = output.write(bytes("."));
    output.close();
    say([await last]);
  `;
  const [reader, writer] = pipe();
  using running = program(code, { 3: writer });
  assertEquals(await said(running), [[1]]);
  assertEquals(await reader.readText(161), "abcdefgh".repeat(20) + ".");
  reader.close();
});

Deno.test("reads and writes that wait keep their order, too", async () => {
  const code = `
    const [input, output] = [new Descriptor(3), new Descriptor(4)];
    const room = Array.from("ab", () => new Uint8Array(1));
    const reads = [input.read(room[0])];
    await new Promise((resolve) => setTimeout(resolve, 10));
    output.writeSync(new TextEncoder().encode("ab"));
    reads.push(input.read(room[1]));
    await Promise.all(reads);
    say(room.map((bytes) => String.fromCharCode(...bytes)));
    await output.write(new Uint8Array(65536 - 50)); // there is room for 50 bytes more
    const writes = [4000, 40].map((length, i) => output.write(new Uint8Array(length).fill(i + 1)));
    const all = new Uint8Array(70000);
    for (let at = 0; at < 65536 - 50 + 4040;) at += await input.read(all.subarray(at));
    await Promise.all(writes);
    say([all[65536 - 50], all[65536 - 50 + 4000]]);
  `;
  const [reader, writer] = pipe();
  using running = program(code, { 3: reader, 4: writer });
  assertEquals(await within("the end", said(running)), [["a", "b"], [1, 2]]);
});

Deno.test("a buffer of 4 GiB is not taken for an empty one", async () => {
  const code = `
    const room = new Uint8Array(2 ** 32); // takes no memory until it is used
    for (const end of [3, 4].map((fd) => new Descriptor(fd))) {
      say([await end.read(room), end.readSync(room)]);
    }
    const nothing = new Descriptor(5);
    say([await nothing.write(room), nothing.writeSync(room)]);
  `;
  const [first, typed] = terminal(), [received, second] = unixPair(SOCK_DGRAM);
  const nothing = open("/dev/null", O_WRONLY);
  using running = program(code, { 3: typed, 4: received, 5: nothing });
  for (const end of [first, second]) {
    await end.write("one\n");
    await end.write("three\n");
  }
  assertEquals(await said(running), [[4, 6], [4, 6], [0x7ffff000, 0x7ffff000]]);
  for (const end of [first, second]) end.close();
});

Deno.test("a stream fails when the file behind it takes nothing", async () => {
  const other = new Deno.Command("sleep", { args: ["60"] }).spawn();
  const memory = open(`/proc/${other.pid}/mem`, O_WRONLY);
  other.kill();
  await other.status;
  const code = `
    const writer = new Descriptor(3).writable.getWriter();
    writer.closed.catch(() => {});
    await attempt(() => writer.write(new Uint8Array(5)));
  `;
  using running = program(code, { 3: memory });
  assertEquals(await said(running), [["SystemError", "write 3: Input/output error"]]);
});

Deno.test("reading into no room takes nothing, and waits for nothing", async () => {
  const [filled, first] = pipe();
  const [messages, second] = unixPair(SOCK_DGRAM);
  const [silent, third] = tcpPair();
  await first.write("bytes");
  second.send("message");
  const code = `
    const room = new Uint8Array(9), nothing = room.subarray(0, 0);
    for (const input of [3, 4, 5].map((fd) => new Descriptor(fd))) {
      say([await input.read(nothing), input.readSync(nothing)]);
      if (input.fd < 5) say(new TextDecoder().decode(room.subarray(0, await input.read(room))));
    }
  `;
  using running = program(code, { 3: filled, 4: messages, 5: silent });
  const all = await within("the end", said(running));
  assertEquals(all, [[0, 0], "bytes", [0, 0], "message", [0, 0]]);
  for (const end of [first, second, third]) end.close();
});

Deno.test("Descriptor.write waits for room, and the program goes on meanwhile", async () => {
  const [out, writing] = pipe();
  const [log, logging] = pipe();
  const code = `
    const output = new Descriptor(4);
    let at = 0, isDone = false;
    const done = (async () => {
      for (const bytes = new Uint8Array(1e6); at < bytes.length;) at += await output.write(bytes.subarray(at));
      isDone = true;
    })();
    setTimeout(() => say([isDone, at < 1e6]), 0);
    await done;
    say(at);
  `;
  using running = program(code, { 2: logging, 4: writing });
  assertEquals(await log.readText(13), "[false,true]\n");
  assertEquals((await out.readAll()).length, 1e6);
  assertEquals(await log.readText(8), "1000000\n");
  assertEquals((await running.outcome).code, 0);
  out.close();
  log.close();
});

Deno.test("Descriptor's streams copy everything, and close it at the end", async () => {
  const [reading, first] = unixPair();
  const [out, writing] = unixPair();
  const [never, unread] = unixPair();
  const code = `
    const [input, output, other] = [3, 4, 5].map((fd) => new Descriptor(fd));
    await other.readable.cancel();
    await input.readable.pipeThrough(new TransformStream()).pipeTo(output.writable);
    for (const fd of [3, 4, 5]) try { new Descriptor(fd); say("open") } catch (error) { say(error.message) }
  `;
  using running = program(code, { 3: reading, 4: writing, 5: never });
  const sent = crypto.getRandomValues(new Uint8Array(65536));
  const all = (async () => {
    for (let i = 0; i < 16; i++) await first.write(sent);
    first.close();
  })();
  const arrived = await out.readAll();
  await all;
  assertEquals(arrived.length, 16 * sent.length);
  assert(arrived.every((byte, i) => byte === sent[i % sent.length]), "not what was sent");
  assertEquals(await unread.read(), new Uint8Array(0));
  assertEquals(await said(running), [3, 4, 5].map((fd) => `descriptor ${fd} is not open`));
  out.close();
  unread.close();
});

Deno.test("Descriptor is closed by close, once, and by using", async () => {
  const [reading, writing] = pipe();
  const [out, into] = pipe();
  const [standard, output] = pipe();
  const [log, logging] = pipe();
  const code = `
    const one = new Descriptor(4);
    one.close();
    one.close();
    { using two = new Descriptor(5); two.writeSync(new Uint8Array(1)); }
    { using three = new Descriptor(1); three.writeSync(new Uint8Array(1)); }
    await new Descriptor(3).read(new Uint8Array(1));
    say("end");
  `;
  using running = program(code, {
    1: output,
    2: logging,
    3: reading,
    4: into.duplicate(),
    5: into,
  });
  into.close();
  assertEquals((await out.readAll()).length, 1);
  assertEquals((await standard.readAll()).length, 1);
  writing.close();
  assertEquals(await log.readText(6), '"end"\n');
  assertEquals((await running.outcome).code, 0);
  for (const end of [out, standard, log]) end.close();
});

Deno.test("Descriptor's errors are SystemErrors, and name the operation", async () => {
  const [gone, writing] = pipe();
  gone.close();
  const [reset, peer] = tcpPair();
  peer.resetOnClose();
  peer.close();
  const code = `
    const bytes = new Uint8Array(10);
    const calls = [
      () => new Descriptor(4).write(bytes),
      () => new Descriptor(4).writeSync(bytes),
      () => new Descriptor(5).read(bytes),
      () => new Descriptor(6).readSync(bytes),
      () => new Descriptor(6).shutdown(1),
      () => new Descriptor(6).setRaw(true),
      () => new Descriptor(7).truncate(-1),
      () => new Descriptor(7).seek(-1, Deno.SeekMode.End),
      () => new Descriptor(4).sync(),
    ];
    for (const call of calls) {
      try {
        say(await call());
      } catch (error) {
        say([error instanceof SystemError, error.message, error.syscall, error.descriptor, error.errno]);
      }
    }
  `;
  const path = await Deno.makeTempFile({ prefix: "iocopy-test-" });
  const file = open(path, O_RDWR);
  using running = program(code, { 4: writing, 5: reset, 6: open(ROOT, O_RDONLY), 7: file });
  assertEquals(await said(running), [
    [true, "write 4: Broken pipe", "write", 4, 32],
    [true, "write 4: Broken pipe", "write", 4, 32],
    [true, "read 5: Connection reset by peer", "read", 5, 104],
    [true, "read 6: Is a directory", "read", 6, 21],
    [true, "shutdown 6: Socket operation on non-socket", "shutdown", 6, 88],
    [true, "tcgetattr 6: Inappropriate ioctl for device", "tcgetattr", 6, 25],
    [true, "ftruncate 7: Invalid argument", "ftruncate", 7, 22],
    [true, "lseek 7: Invalid argument", "lseek", 7, 22],
    [true, "fsync 4: Invalid argument", "fsync", 4, 22],
  ]);
  await Deno.remove(path);
});

Deno.test("Descriptor does nothing after close: its number can be another file by then", async () => {
  const code = `
    const closed = new Descriptor(3);
    closed.close();
    using file = await Deno.open("deno.json"); // it gets the free number
    const bytes = new Uint8Array(10);
    const calls = [
      () => closed.read(bytes),
      () => closed.readSync(bytes),
      () => closed.write(bytes),
      () => closed.writeSync(bytes),
      () => closed.shutdown(1),
      () => closed.seek(0, 0),
      () => closed.truncate(0),
      () => closed.stat(),
      () => closed.sync(),
      () => closed.syncSync(),
      () => closed.syncData(),
      () => closed.syncDataSync(),
      () => closed.utime(0, 0),
      () => closed.lock(),
      () => closed.lockSync(),
      () => closed.tryLock(),
      () => closed.unlock(),
      () => closed.setRaw(true),
    ];
    for (const call of calls) {
      try {
        say(await call());
      } catch (error) {
        say(error.message);
      }
    }
  `;
  using running = program(code, { 3: open("/dev/null", O_RDONLY) });
  const says = (operation: string) => `${operation} 3: Bad file descriptor`;
  const operations = [
    ...["read", "read", "write", "write", "shutdown", "lseek", "ftruncate", "statx"],
    ...["fsync", "fsync", "fdatasync", "fdatasync", "futimens"],
    ...["flock", "flock", "flock", "flock", "tcsetattr"],
  ];
  assertEquals(await said(running), operations.map(says));
});

Deno.test("Descriptor has properties of the descriptor", async () => {
  await inFolder(async (folder) => {
    const file = open(`${folder}/file`, O_WRONLY | O_CREAT);
    await file.write("hello");
    const [socket, peer] = unixPair();
    const code = `
    for (const fd of [0, 3, 4, 5]) {
      const d = new Descriptor(fd);
      say([d.fd, d.kind, d.size, d.isReadable, d.isWritable, d.isStream, d.isUnix, d.mayBlock]);
    }
    say(new Descriptor(4).identity === new Descriptor(5).identity);
    say(new Descriptor(3).identity === new Descriptor(4).identity);
  `;
    using running = program(code, { 3: file, 4: socket, 5: socket.duplicate() });
    assertEquals(await said(running), [
      [0, "device", 0, true, true, true, false, false],
      [3, "file", 5, false, true, true, false, false],
      [4, "socket", 0, true, true, true, true, false],
      [5, "socket", 0, true, true, true, true, false],
      true,
      false,
    ]);
    peer.close();
  });
});

// ---- The same calls of a Deno.FsFile and of a Descriptor.

/**
 * Makes the same calls, one after the other, of a `Deno.FsFile` for `path` and of a
 * Descriptor for 3, and prints what both returned, or the code of their error.
 */
const COMPARED = (path: string, open: string, calls: string) => `
  const file = Deno.openSync(${JSON.stringify(path)}, ${open});
  const descriptor = new Descriptor(3);
  const text = new TextEncoder().encode("hello, world");
  const read = async (f, length, how) => {
    const bytes = new Uint8Array(length);
    const result = await f[how](bytes);
    return [result, new TextDecoder().decode(bytes)];
  };
  const told = async (call, f) => {
    try {
      return await call(f) ?? "nothing";
    } catch (error) {
      // Deno's error for an illegal seek has only the number.
      return error.code ?? (error.message.includes("os error 29") ? "ESPIPE" : error.name);
    }
  };
  for (const call of [${calls}]) say([String(call), await told(call, file), await told(call, descriptor)]);
`;

/** Runs {@linkcode COMPARED} with two equal files. Returns the results, which have to be the same. */
async function compared(
  make: (path: string) => void,
  flags: number,
  options: string,
  calls: readonly string[],
): Promise<unknown[]> {
  return await inFolder(async (folder) => {
    const paths = [`${folder}/one`, `${folder}/other`] as const;
    paths.forEach(make);
    using running = program(COMPARED(paths[0], options, calls.join()), {
      3: open(paths[1], flags),
    });
    const all = await said(running) as [string, unknown, unknown][];
    assertEquals(all.map(([call, , ours]) => [call, ours]), all.map(([call, fs]) => [call, fs]));
    return all.map(([, , ours]) => ours);
  });
}

const callsOnFile = "Descriptor's calls on a file return what Deno.FsFile's return";
Deno.test(skippedIf(DENO_26, "Deno 2.6 sets no time before 1970", callsOnFile), async () => {
  const results = await compared(
    (path) => Deno.writeTextFileSync(path, "nothing of it stays"),
    O_RDWR,
    "{ read: true, write: true }",
    [
      "(f) => f.truncate()",
      "(f) => f.write(text)",
      "(f) => f.seek(-5, Deno.SeekMode.End)",
      '(f) => read(f, 20, "read")',
      '(f) => read(f, 20, "read")',
      '(f) => read(f, 0, "read")',
      "(f) => f.seekSync(2n, Deno.SeekMode.Start)",
      '(f) => read(f, 3, "readSync")',
      "(f) => f.seekSync(1, Deno.SeekMode.Current)",
      '(f) => read(f, 0, "readSync")',
      "(f) => f.truncateSync(8)",
      '(f) => read(f, 20, "readSync")',
      "(f) => f.truncate(3e9)",
      "(f) => f.seek(0, Deno.SeekMode.End)",
      "(f) => f.truncate(5)",
      "(f) => f.stat().then(({ size, isFile, nlink }) => [size, isFile, nlink])",
      "(f) => f.sync()",
      "(f) => f.syncSync()",
      "(f) => f.syncData()",
      "(f) => f.syncDataSync()",
      "(f) => f.utime(1556495550.25, new Date(-12345))",
      "(f) => f.stat().then(({ atime, mtime }) => [+atime, +mtime])",
      "(f) => f.utimeSync(new Date(86400_000), -1.5)",
      "(f) => [+f.statSync().atime, +f.statSync().mtime]",
      "(f) => f.seek(-1, Deno.SeekMode.Start)",
      "(f) => f.isTerminal()",
      "(f) => f.readable === f.readable && f.writable === f.writable",
    ],
  );
  assertEquals(results, [
    "nothing",
    12,
    7,
    [5, "world" + "\0".repeat(15)],
    [null, "\0".repeat(20)],
    [0, ""],
    2,
    [3, "llo"],
    6,
    [0, ""],
    "nothing",
    [2, " w" + "\0".repeat(18)],
    "nothing",
    3e9,
    "nothing",
    [5, true, 1],
    "nothing",
    "nothing",
    "nothing",
    "nothing",
    "nothing",
    [1556495550250, -12345],
    "nothing",
    [86400_000, -1500],
    "EINVAL",
    false,
    true,
  ]);
});

Deno.test("Descriptor's calls fail as Deno.FsFile's do", async (t) => {
  const kinds: Record<string, Parameters<typeof compared>> = {
    "a file that is open for reading only": [
      (path) => Deno.writeTextFileSync(path, "hello"),
      O_RDONLY,
      "{ read: true }",
      ["(f) => f.write(text)", "(f) => f.writeSync(text)", "(f) => f.truncate()"],
    ],
    "a file that is open for writing only": [
      (path) => Deno.writeTextFileSync(path, "hello"),
      O_WRONLY,
      "{ write: true }",
      ['(f) => read(f, 5, "read")', '(f) => read(f, 5, "readSync")'],
    ],
    "a folder": [
      (path) => Deno.mkdirSync(path),
      O_RDONLY,
      "{ read: true }",
      ['(f) => read(f, 5, "read")', "(f) => f.truncateSync()"],
    ],
    "a FIFO": [
      makeFifo,
      O_RDWR,
      "{ read: true, write: true }",
      [
        "(f) => f.seek(0, Deno.SeekMode.Current)",
        "(f) => f.seekSync(0, Deno.SeekMode.End)",
        "(f) => f.truncate()",
        "(f) => f.sync()",
        "(f) => f.syncDataSync()",
        "(f) => f.stat().then(({ isFifo, isFile, size }) => [isFifo, isFile, size])",
      ],
    ],
  };
  const expected: Record<string, unknown[]> = {
    "a file that is open for reading only": ["EBADF", "EBADF", "EINVAL"],
    "a file that is open for writing only": ["EBADF", "EBADF"],
    "a folder": ["EISDIR", "EINVAL"],
    "a FIFO": ["ESPIPE", "ESPIPE", "EINVAL", "EINVAL", "EINVAL", [true, false, 0]],
  };
  for (const [kind, call] of Object.entries(kinds)) {
    await t.step(kind, async () => assertEquals(await compared(...call), expected[kind]));
  }
});

Deno.test("Descriptor.stat returns for each kind of file what Deno's stat returns", async () => {
  await inFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/file`, "hello", { mode: 0o640 });
    await Deno.link(`${folder}/file`, `${folder}/second name`);
    const paths = [folder, `${folder}/file`, "/dev/null", "/proc/self/fd/6", "/proc/self/fd/7"];
    const [reading, writing] = pipe();
    const [socket, peer] = unixPair();
    const code = `
    for (const [i, path] of ${JSON.stringify(paths)}.entries()) {
      const [theirs, ours] = [Deno.statSync(path), new Descriptor(3 + i).statSync()];
      // Deno rounds that time to seconds, and returns null for 0.
      for (const info of [theirs, ours]) info.ctime = Math.floor((info.ctime ?? 0) / 1000);
      const sorted = (info) => JSON.stringify(Object.entries(info).sort());
      if (sorted(theirs) !== sorted(ours)) say([path, theirs, ours]);
      say(Object.keys(theirs).length > 15 && Object.keys(theirs).filter((key) => ours[key] === true));
    }
  `;
    using running = program(code, {
      3: open(folder, O_RDONLY),
      4: open(`${folder}/file`, O_RDONLY),
      5: open("/dev/null", O_RDONLY),
      6: reading,
      7: socket,
    });
    assertEquals(await said(running), [
      ["isDirectory"],
      ["isFile"],
      ["isCharDevice"],
      ["isFifo"],
      ["isSocket"],
    ]);
    writing.close();
    peer.close();
  });
});

const locks =
  "Descriptor's locks and Deno.FsFile's exclude each other, and waiting for one does not block the program";
Deno.test(skippedIf(DENO_26, "Deno 2.6 has no FsFile.tryLock", locks), async () => {
  await inFolder(async (folder) => {
    const file = open(`${folder}/file`, O_RDWR | O_CREAT);
    const code = `
    const other = await Deno.open(${JSON.stringify(`${folder}/file`)}, { read: true, write: true });
    const ours = new Descriptor(3);
    const both = () => [other.tryLockSync(true), ours.tryLockSync(true)];
    await ours.lock();
    say([await other.tryLock(), await other.tryLock(true), await ours.tryLock()]);
    await other.unlock();
    ours.lockSync(true);
    say([await other.tryLock(), await ours.tryLock(true)]);
    ours.unlockSync();
    await other.lock(true);
    say([await ours.tryLock(), ours.tryLockSync(true)]);
    let has = false;
    const waiting = ours.lock(true).then(() => has = true);
    setTimeout(() => { // the event loop runs while the program waits for the lock
      say(has);
      other.unlockSync();
    }, 0);
    await waiting;
    say([has, other.tryLockSync()]);
    await ours.unlock();
    say(other.tryLockSync(true));
  `;
    using running = program(code, { 3: file });
    assertEquals(await said(running), [
      [true, false, true],
      [false, true],
      [false, false],
      false,
      [true, false],
      true,
    ]);
  });
});

Deno.test("Descriptor.setRaw sets a terminal as Deno.FsFile.setRaw does, and back", async () => {
  const [one, first] = terminal();
  const [other, second] = terminal();
  const code = `
    const settings = (fd) => new TextDecoder().decode(
      new Deno.Command("stty", { args: ["-F", Deno.readLinkSync("/proc/self/fd/" + fd), "-g"] }).outputSync().stdout);
    const ours = new Descriptor(3);
    const file = Deno.openSync(Deno.readLinkSync("/proc/self/fd/4"), { read: true, write: true });
    const before = settings(3);
    for (const [mode, options] of [[true], [true, { cbreak: true }], [false], [true, { cbreak: true }], [false], [false]]) {
      ours.setRaw(mode, options);
      file.setRaw(mode, options);
      say([settings(3) === settings(4), settings(3) === before]);
    }
  `;
  using running = program(code, { 3: first, 4: second });
  const [changed, back] = [[true, false], [true, true]];
  assertEquals(await said(running), [changed, changed, back, changed, back, back]);
  one.close();
  other.close();
});

Deno.test("Descriptor refuses what cannot be a number or an address", async () => {
  const none = "is not HOST:PORT, [IPv6]:PORT, a path or @name";
  const refused: [addresses: string[], reason: string][] = [
    [["localhost:-1", "localhost", "localhost:", ":80", "", "@", "/", "::1:80", "::1"], ` ${none}`],
    [["[::1]", "[localhost]:80", "[fe80::1%]:80", "[%lo]:80", "local host:80"], ` ${none}`],
    [["localhost\0.example:80", "127.0.0.1\0:80"], ` ${none}`],
    [
      ["127.0.0.1:65536", "localhost:100000", "localhost:http"],
      ": a port is a number from 0 to 65535",
    ],
    [["[127.0.0.1]:80", "[::1::]:80"], ": the brackets do not contain an IPv6 address"],
    [["/tmp/a\0b"], ": no path contains a NUL"],
  ];
  const addresses = refused.flatMap(([addresses]) => addresses);
  const code = `
    const d = new Descriptor(3), addresses = ${JSON.stringify(addresses)};
    const calls = [
      () => d.seek(1.5, 0),
      () => d.seekSync(2n ** 63n, 0),
      () => d.truncateSync(NaN),
      () => d.utimeSync(NaN, 0),
      () => d.utimeSync(0, new Date(NaN)),
      ...addresses.map((address) => () => Descriptor.listen(address)),
      () => Descriptor.connect("localhost:0"),
      ...[NaN, 1.5, 2 ** 31, "9"].map((waiting) => () => Descriptor.listen("@a", waiting)),
      () => Descriptor.listen("\\u009b2J:80"),
      () => Descriptor.listen("/nowhere/\\u009b2J"),
      () => Descriptor.connect("/nowhere/\\u009b2J"),
      ...[NaN, 1.5, -1, 2 ** 32 + 3, Infinity].map((fd) => () => new Descriptor(fd)),
    ];
    for (const call of calls) await attempt(call);
  `;
  using running = program(code, { 3: open("/dev/null", O_RDONLY) });
  assertEquals(await said(running), [
    ["RangeError", "offset: 1.5 is not a whole number of 64 bits"],
    ["RangeError", "offset: 9223372036854775808 is not a whole number of 64 bits"],
    ["RangeError", "len: NaN is not a whole number of 64 bits"],
    ["RangeError", "atime: NaN is not a time"],
    ["RangeError", "mtime: Invalid Date is not a time"],
    ...refused.flatMap(([addresses, reason]) =>
      addresses.map((address) => ["RangeError", JSON.stringify(address) + reason])
    ),
    ["RangeError", '"localhost:0": a port is a number from 1 to 65535'],
    ...[NaN, 1.5, 2 ** 31, "9"].map((waiting) => [
      "RangeError",
      `waiting: ${waiting} is not a whole number of 32 bits`,
    ]),
    // Nothing that a terminal obeys.
    ["RangeError", `"\\x9b2J:80" ${none}`],
    ["SystemError", "listen at /nowhere/\\x9b2J: No such file or directory"],
    ["SystemError", "connect to /nowhere/\\x9b2J: No such file or directory"],
    ...[NaN, 1.5, -1, 2 ** 32 + 3, Infinity].map((fd) => [
      "DescriptorError",
      `descriptor ${fd} is not open`,
    ]),
  ]);
});

Deno.test("Descriptor listens at a name, and connects with one", async () => {
  const code = `
    const { localAddress } = await import("./sys/socket.ts");
    const listener = Descriptor.listen("localhost:0");
    const own = localAddress(listener.fd), name = "localhost:" + own.port;
    using one = await Descriptor.connect(name);
    using other = await Descriptor.connect(String(own));
    say([own.port > 0, listener.isUnix, one.isUnix, one.kind]);
    listener.close();
    say(await Descriptor.connect(name).catch((error) =>
      [error.constructor.name, error.code, error.message.replace(own.port, "PORT")]));
  `;
  using running = program(code, {});
  assertEquals(await said(running), [
    [true, false, false, "socket"],
    ["SystemError", "ECONNREFUSED", "connect to localhost:PORT: Connection refused"],
  ]);
});

Deno.test("a name that has no address is an Error that says why", async () => {
  const names = ["nosuch.invalid:80", "[fe80::1%nosuch]:80"];
  const code = `
    for (const name of ${JSON.stringify(names)}) {
      await attempt(() => Descriptor.listen(name));
      await attempt(() => Descriptor.connect(name));
    }
  `;
  using running = program(code, {});
  // The words at the end depend on whether there is a network.
  const errors = await said(running) as [string, string][];
  const beginnings = errors.map(([kind, message]) => [kind, message.replace(/: [A-Z][^:]+$/, "")]);
  assertEquals(
    beginnings,
    names.flatMap((name) => [["Error", `listen at ${name}`], ["Error", `connect to ${name}`]]),
  );
});

ofTwins(
  "Descriptor connects with each address of a name, and listens at the first",
  async (hosts) => {
    const code = `
    const { localAddress } = await import("./sys/socket.ts");
    for (const own of ["127.0.0.1", "127.0.0.2"]) {
      const listener = Descriptor.listen(own + ":0");
      const { port } = localAddress(listener.fd);
      const twins = "twins:" + port;
      using client = await Descriptor.connect(twins);
      try {
        using second = Descriptor.listen(twins);
        say(localAddress(second.fd).host);
      } catch (error) {
        say([error.code, error.message.replace(port, "0")]);
      }
      listener.close();
      say(await Descriptor.connect(twins).catch((error) => error.code));
    }
  `;
    using running = program(code, {}, knowing(hosts, []));
    const inUse = ["EADDRINUSE", "listen at twins:0: Address already in use"];
    assertEquals(await said(running), [inUse, "ECONNREFUSED", "127.0.0.1", "ECONNREFUSED"]);
  },
);

Deno.test("0, 1 and 2 can be closed when no number is left", async () => {
  const [[input, stdin], [stdout, output]] = [pipe(), pipe()];
  const code = `
    const [input, output] = [new Descriptor(0), new Descriptor(1)];
    const files = [];
    try {
      for (;;) files.push(Deno.openSync("/dev/null"));
    } catch { /* that was the last one */ }
    output.close();
    const read = input.readSync(new Uint8Array(9)); // the test hears of the end meanwhile
    input.close();
    files.forEach((file) => file.close());
    console.error(read);
  `;
  using running = program(code, { 0: input, 1: output }, limited(64, []));
  assertEquals((await stdout.readAll()).length, 0);
  await stdin.write("x");
  assertEquals(await running.outcome, { code: 0, signal: null, stderr: "1\n" });
  for (const end of [stdin, stdout]) end.close();
});

Deno.test("what waits when no number is left ends as well, and fails once it is closed", async () => {
  const [[input, stdin], [source, other]] = [pipe(), pipe()];
  const code = `
    const [input, source] = [new Descriptor(0), new Descriptor(3)];
    const files = [];
    try {
      for (;;) files.push(Deno.openSync("/dev/null"));
    } catch { /* that was the last one */ }
    const reads = [input, source].map((end) => end.read(new Uint8Array(9)));
    setTimeout(() => {
      for (const file of [source, ...files]) file.close(); // soon, as the runtime needs some
    });
    console.error(...await Promise.all(reads.map((read) => read.catch(({ code }) => code))));
  `;
  using running = program(code, { 0: input, 3: source }, limited(64, []));
  await stdin.write("x");
  assertEquals(await running.outcome, { code: 0, signal: null, stderr: "1 EBADF\n" });
  for (const end of [stdin, other]) end.close();
});

Deno.test("what waits when a Descriptor is closed fails, and the program ends", async (t) => {
  for (const [kind, make] of Object.entries({ pipe, TCP: tcpPair, terminal: reversedTerminal })) {
    await t.step(`a ${kind}`, async () => {
      const [source, other] = make();
      const [second, another] = make();
      const [full, writing] = pipe();
      fillUp(writing);
      const code = `
        const [input, second, output] = [3, 4, 5].map((fd) => new Descriptor(fd));
        const code = (error) => error.code;
        const read = input.read(new Uint8Array(9)).then(null, code);
        const cancelled = second.readable.getReader();
        void cancelled.read();
        const written = output.write(new Uint8Array(9)).then(null, code);
        setTimeout(async () => {
          await cancelled.cancel();
          input.close();
          output.close();
          say([await read, await written]);
        });
      `;
      using running = program(code, { 3: source, 4: second, 5: writing });
      assertEquals(await said(running), [["EBADF", "EBADF"]]);
      for (const end of [other, another, full]) end.close();
    });
  }
});

Deno.test("what waits for a number that a Copier closes fails, and nobody else's wait", async () => {
  const [[source, other], [out, sink]] = [pipe(), pipe()];
  const code = `
    const listener = Descriptor.listen("@iocopy-test-" + Deno.pid);
    const read = new Descriptor(3).read(new Uint8Array(9)).catch(({ code }) => code);
    await copy([[3, 4]], { signal: AbortSignal.timeout(50) });
    using next = await Descriptor.connect("@iocopy-test-" + Deno.pid);
    const another = next.read(new Uint8Array(9)).catch(({ code }) => code);
    setTimeout(() => listener.close(), 50); // which resets it
    say([next.fd, await read, await another]);
  `;
  using running = program(code, { 3: source, 4: sink });
  assertEquals(await within("the end", said(running)), [[3, "EBADF", "ECONNRESET"]]);
  for (const end of [other, out]) end.close();
});

Deno.test("however many wait, everything else goes on", async () => {
  using silent = await deaf();
  const { listener, port } = serving();
  const code = `
    const open = () => Descriptor.connect("127.0.0.1:${port}");
    const ends = await Promise.all(Array.from({ length: 80 }, open));
    const reads = ends.slice(0, 40).map((end) => end.read(new Uint8Array(9)));
    const copies = ends.slice(40).map((end) => copy([[end, end]]));
    const connect = () => Descriptor.connect("127.0.0.1:${silent.port}", { signal: stop.signal });
    const stop = new AbortController();
    const connects = Array.from({ length: 40 }, connect);
    const settled = Promise.race([...reads, ...copies, ...connects]).then(() => "settled", String);
    const later = new Promise((resolve) => setTimeout(() => resolve("they wait"), 100));
    say(await Promise.race([settled, later]));
    using another = await open();
    say((await Deno.stat(".")).isDirectory);
    stop.abort(new Error("enough"));
    say((await Promise.allSettled(connects)).every(({ reason }) => reason.message === "enough"));
    for (const end of ends.slice(0, 40)) end.close();
    say((await Promise.allSettled(reads)).every(({ reason }) => reason.code === "EBADF"));
    Deno.exit(0);
  `;
  using running = program(code, {});
  assertEquals(await said(running), ["they wait", true, true, true]);
  listener.close();
});

Deno.test(
  needing(["stty"], "a terminal that is set to wait for no byte is not at its end"),
  async () => {
    const [master, slave] = terminal();
    const path = Deno.readLinkSync(`/proc/self/fd/${slave.fd}`);
    await outputOf(["stty", "-F", path, "-icanon", "min", "0", "time", "0"]);
    using running = program(`say(await new Descriptor(3).read(new Uint8Array(9)));`, { 3: slave });
    await pause(300);
    await master.write("one");
    assertEquals(await said(running), [3]);
    master.close();
  },
);

Deno.test("forty terminals that nobody reads hold up nothing else", async () => {
  const terminals = Array.from({ length: 40 }, terminal);
  const given = terminals.map(([, slave], i) => [10 + i, slave] as const);
  const code = `
    const ends = Array.from({ length: 40 }, (_, i) => new Descriptor(10 + i));
    const fill = async (end) => {
      for (const bytes = new Uint8Array(65536).fill(65);;) await end.write(bytes);
    };
    const writes = ends.map((end) => fill(end).catch((error) => error.code));
    await new Promise((resolve) => setTimeout(resolve, 100));
    say((await Deno.stat(".")).isDirectory);
    for (const end of ends) end.close();
    say((await Promise.all(writes)).every((code) => code === "EBADF"));
  `;
  using running = program(code, Object.fromEntries(given));
  assertEquals(await within("the end", said(running)), [true, true]);
  for (const [master] of terminals) master.close();
});

Deno.test(
  needing(["strace"], "EIO of a terminal that is read after its master has gone is its end"),
  async () => {
    const [[input, stdin], [stdout, output], [master, slave]] = [pipe(), pipe(), terminal()];
    const path = Deno.readLinkSync(`/proc/self/fd/${slave.fd}`);
    const code = `
      const input = new Descriptor(3), room = new Uint8Array(9);
      new Descriptor(1).writeSync(new Uint8Array(1));
      new Descriptor(0).readSync(room);
      say([await input.read(room), input.readSync(room)]);
    `;
    const under = strace("-P", path, "-e", "trace=read", "-e", "inject=read:error=EIO");
    using running = program(code, { 0: input, 1: output, 3: slave }, under);
    await stdout.readExactly(1);
    master.close();
    stdin.close();
    assertEquals(await said(running), [[null, null]]);
    stdout.close();
  },
);

Deno.test(
  needing(["strace"], "a close or a sync that has failed is not made again, whatever its errno is"),
  async () => {
    await inFolder(async (folder) => {
      const path = `${folder}/file`, faults = ["fsync", "fdatasync", "close"];
      const code = `
        const file = new Descriptor(3);
        await attempt(() => file.syncSync());
        await attempt(() => file.syncDataSync());
        await attempt(() => file.close());
      `;
      const words = faults.flatMap((call) => ["-e", `inject=${call}:error=ENOENT:when=1`]);
      const under = strace("-P", path, "-e", `trace=${faults.join()}`, ...words);
      using running = program(code, { 3: open(path, O_WRONLY | O_CREAT) }, under);
      const says = faults.map((call) => ["SystemError", `${call} 3: No such file or directory`]);
      assertEquals(await said(running), says);
    });
  },
);

Deno.test("a stream that fails does not close what is copied", async () => {
  const [out, sink] = pipe();
  const code = `
    const input = new Descriptor(3);
    const failed = input.readable.getReader().read().catch((error) => error.code);
    const copier = new Copier([[input, 4]]);
    say([await failed, input.isClosed]);
    using other = Deno.openSync("deno.json"); // gets the lowest number that is free
    say(results(await copier.run()));
  `;
  using running = program(code, { 3: open("/", O_RDONLY), 4: sink });
  assertEquals(await said(running), [["EISDIR", false], [
    { rfd: 3, wfd: 4, bytes: 0, ended: "error", error: "read 3: Is a directory" },
  ]]);
  assertEquals(await out.readText(1), "");
  out.close();
});

Deno.test("a stream that fails closes its Descriptor", async () => {
  const [out, writing] = pipe();
  out.close();
  const folder = open("/", O_RDONLY);
  const code = `
    const [input, output] = [new Descriptor(3), new Descriptor(4)];
    const code = (error) => error.code;
    const read = await input.readable.getReader().read().catch(code);
    const written = await output.writable.getWriter().write(new Uint8Array(1)).catch(code);
    say([read, written, input.isClosed, output.isClosed]);
  `;
  using running = program(code, { 3: folder, 4: writing });
  assertEquals(await said(running), [["EISDIR", "EPIPE", true, true]]);
});

Deno.test("a stream reads nothing ahead, and into the reader's own buffer", async () => {
  const [input, from] = pipe();
  const [to, output] = pipe();
  await from.write("header body, byte by byte, and the rest");
  from.close();
  const code = `
    const input = new Descriptor(3), text = (bytes) => new TextDecoder().decode(bytes);
    void input.readable;
    say(await input.read(new Uint8Array(7)));
    const reader = input.readable.getReader({ mode: "byob" });
    say(text((await reader.read(new Uint8Array(5))).value));
    reader.releaseLock();
    say(results(await copy([[input, 4]])));
  `;
  using running = program(code, { 3: input, 4: output });
  assertEquals(await said(running), [7, "body,", [{ rfd: 3, wfd: 4, bytes: 27, ended: "eof" }]]);
  assertEquals(await to.readText(99), " byte by byte, and the rest");
  to.close();
});

Deno.test("a stream closes its Descriptor also where its reader is left with a part of a number", async () => {
  const [input, from] = pipe();
  await from.write("odd");
  from.close();
  const code = `
    const input = new Descriptor(3), reader = input.readable.getReader({ mode: "byob" });
    await reader.read(new Uint16Array(1));
    await attempt(() => reader.read(new Uint16Array(1)));
    say(input.isClosed);
  `;
  const [failed, isClosed] = await said(program(code, { 3: input }));
  assertEquals([Array.isArray(failed) && failed[0], isClosed], ["TypeError", true]);
});

Deno.test("an empty message is no end", async () => {
  const [far, near] = unixPair(SOCK_DGRAM);
  for (const message of ["one", "", "two"]) far.send(message);
  const code = `
    const messages = new Descriptor(3), bytes = new Uint8Array(9);
    for (const _ of "..") say(await messages.read(bytes));
    for await (const piece of messages.readable) {
      say(piece.length);
      break;
    }
  `;
  assertEquals(await said(program(code, { 3: near })), [3, 0, 3]);
  far.close();
});

Deno.test("writable takes bytes only", async () => {
  const [to, output] = pipe();
  const code = `
    for (const chunk of ["text", new Uint16Array(3)]) {
      const output = new Descriptor(3 + (chunk !== "text"));
      await attempt(() => output.writable.getWriter().write(chunk));
      say(output.isClosed);
    }
  `;
  const error = ["TypeError", "the chunk is not a Uint8Array"];
  const running = program(code, { 3: output.duplicate(), 4: output });
  assertEquals(await said(running), [error, true, error, true]);
  to.close();
});

Deno.test("a Descriptor that is closed while it waits for a lock has none", async () => {
  await inFolder(async (folder) => {
    const [one, other] = [open(`${folder}/file`, O_RDWR | O_CREAT), open(`${folder}/file`, O_RDWR)];
    for (const fd of [0, 4]) { // 0: the runtime's duplicates of it are closed as well
      const code = `
        const [holder, waiting] = [new Descriptor(3), new Descriptor(${fd})];
        holder.lockSync(true);
        const locked = attempt(() => waiting.lock(true));
        setTimeout(() => {
          waiting.close();
          holder.unlockSync();
        }, 50);
        await locked;
        say(holder.tryLockSync(true)); // the open file has no lock through 5 either
      `;
      const given = { 3: one.duplicate(), [fd]: other.duplicate(), 5: other.duplicate() };
      using running = program(code, given);
      const error = ["SystemError", `flock ${fd}: Bad file descriptor`];
      assertEquals(await said(running), [error, true]);
    }
    for (const end of [one, other]) end.close();
  });
});
