/** Every kind of descriptor, to be read and to be written. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import {
  type End,
  makeFifo,
  O_APPEND,
  O_CREAT,
  O_DIRECT,
  O_RDONLY,
  O_RDWR,
  O_WRONLY,
  open,
  pipe,
  SOCK_SEQPACKET,
  SOCKETS,
  tcpPair,
  terminal,
  unixPair,
} from "./ends.ts";
import { endOfFile, succeeds } from "./expect.ts";
import { skippedIf } from "./harness.ts";
import { inFolder, iocopy, numbered, prose, watched } from "./probe.ts";
import { follow, logged } from "./watching.ts";

/** A descriptor to be read by the command. */
interface Source {
  given: End;
  /** Writes the content to its other end, and the end of file. */
  feed(): Promise<void>;
  content: string;
}

/** A descriptor to be written by the command. */
interface Sink {
  given: End;
  /** Waits for the end of file, and returns what arrived. */
  collect(content: string): Promise<string>;
}

async function fifo(folder: string): Promise<[End, End]> {
  const path = await Deno.makeTempDir({ dir: folder }) + "/fifo";
  makeFifo(path);
  using both = open(path, O_RDWR); // so that opening one end does not wait for the other
  assert(both.fd > 0);
  return [open(path, O_RDONLY), open(path, O_WRONLY)];
}

/** More than any pipe or buffer holds; and less for terminals, which limit the length of a line. */
const MUCH = prose(1_500_000), LITTLE = prose(500);

const SOURCES: Record<string, (folder: string) => Promise<Source> | Source> = {
  "pipe": () => fedBy(pipe()),
  "FIFO": async (folder) => fedBy(await fifo(folder)),
  "TCP socket": () => fedBy(tcpPair()),
  "unix socket": () => fedBy(unixPair()),
  "terminal": () => {
    const [master, slave] = terminal();
    const feed = async () => {
      await master.write(LITTLE + "\x04");
      // The echo is not checked, but has to be read.
      await master.readText(LITTLE.replaceAll("\n", "\r\n").length);
    };
    return { given: slave, content: LITTLE, feed };
  },
  "file": (folder) => fromFile(folder, O_RDONLY),
  "file for reading and appending": (folder) => fromFile(folder, O_RDWR | O_APPEND),
  "/dev/null": () => ({ given: open("/dev/null", O_RDONLY), content: "", feed: async () => {} }),
};

function fedBy([given, end]: [End, End]): Source {
  const feed = async () => {
    await end.write(MUCH);
    end.close();
  };
  return { given, content: MUCH, feed };
}

function fromFile(folder: string, flags: number): Source {
  const path = Deno.makeTempFileSync({ dir: folder });
  Deno.writeTextFileSync(path, MUCH);
  return { given: open(path, flags), content: MUCH, feed: async () => {} };
}

const SINKS: Record<string, (folder: string) => Promise<Sink> | Sink> = {
  "pipe": () => collectedFrom(pipe()),
  "FIFO": async (folder) => collectedFrom(await fifo(folder)),
  "TCP socket": () => collectedFrom(tcpPair()),
  "unix socket": () => collectedFrom(unixPair()),
  "terminal": () => {
    const [master, slave] = terminal();
    const collect = async (content: string) => {
      const text = await master.readText(content.replaceAll("\n", "\r\n").length);
      return text.replaceAll("\r\n", "\n");
    };
    return { given: slave, collect };
  },
  "file": (folder) => intoFile(folder, ""),
  "file for appending": (folder) => intoFile(folder, "what there was before\n"),
  "/dev/null": () => {
    return { given: open("/dev/null", O_WRONLY), collect: (content) => Promise.resolve(content) };
  },
};

function collectedFrom([end, given]: [End, End]): Sink {
  const collect = async () => {
    const all = await end.readAll();
    end.close();
    return new TextDecoder().decode(all);
  };
  return { given, collect };
}

function intoFile(folder: string, before: string): Sink {
  const path = Deno.makeTempFileSync({ dir: folder });
  Deno.writeTextFileSync(path, before);
  const collect = () => {
    const text = Deno.readTextFileSync(path);
    assert(text.startsWith(before), "what was there before is gone");
    return Promise.resolve(text.slice(before.length));
  };
  return { given: open(path, O_WRONLY | (before ? O_APPEND : 0)), collect };
}

Deno.test("it copies from every kind of descriptor to every other", async (t) => {
  await inFolder(async (folder) => {
    for (const [kind, makeSource] of Object.entries(SOURCES)) {
      await t.step(`from a ${kind}`, async () => {
        const channels: [string, Source, Sink][] = [];
        for (const [to, makeSink] of Object.entries(SINKS)) {
          channels.push([to, await makeSource(folder), await makeSink(folder)]);
        }
        const { args, given } = numbered(
          ...channels.map(([, source, sink]) => [source.given, sink.given] as const),
        );
        using running = iocopy(args, given);
        const fed = channels.map(([, source]) => source.feed());
        const collected = channels.filter(([to]) => !to.includes("file")).map(
          async ([to, { content }, sink]) => {
            assert(await sink.collect(content) === content, `${to}: not what was sent`);
          },
        );
        await Promise.all([...fed, ...collected]);
        await succeeds(running);
        for (const [to, { content }, sink] of channels) {
          if (!to.includes("file")) continue;
          assert(await sink.collect(content) === content, `${to}: not what was sent`);
        }
      });
    }
  });
});

Deno.test("a device without an end is copied until its reader goes away", async (t) => {
  for (const [kind, make] of Object.entries({ pipe, ...SOCKETS })) {
    await t.step(`/dev/zero into a ${kind}`, async () => {
      const [out, into] = make();
      using running = iocopy("3 4", { 3: open("/dev/zero", O_RDONLY), 4: into });
      const bytes = await out.readExactly(1_000_000);
      assert(bytes.length === 1_000_000 && bytes.every((byte) => byte === 0));
      if (kind === "TCP") out.resetOnClose();
      out.close();
      const { code, stderr } = await running.outcome;
      assertEquals(code, 111);
      assertMatch(stderr, /^iocopy: write 4: (Broken pipe|Connection reset by peer)\n$/);
    });
  }
});

Deno.test("messages keep their boundaries between sockets that have them", async () => {
  const [source, upstream] = unixPair(SOCK_SEQPACKET);
  const [sink, downstream] = unixPair(SOCK_SEQPACKET);
  using running = iocopy("3 4", { 3: source, 4: sink });
  const messages = ["one", "another", prose(150_000), "x"];
  for (const message of messages) await upstream.write(message);
  for (const message of messages) {
    assertEquals(new TextDecoder().decode(await downstream.read(2 ** 20)), message);
  }
  upstream.close();
  await endOfFile(downstream);
  downstream.close();
  await succeeds(running);
});

Deno.test("after a descriptor has refused splice(2), reads are as long as before", async () => {
  await inFolder(async (folder) => {
    const file = open(`${folder}/file`, O_WRONLY | O_CREAT | O_APPEND);
    const [source, upstream] = unixPair();
    const { running, log } = logged("v 3 4", { 3: source, 4: file });
    using _ = running;
    await upstream.write("hello");
    await log.until("iocopy: 4 < 5");
    await upstream.write(prose(100_000));
    upstream.close();
    assertEquals((await running.outcome).code, 0);
    assert(Math.max(...follow(await log.all(), 3, 4).sizes) > 4096, "it reads piece by piece");
    assertEquals(Deno.readTextFileSync(`${folder}/file`), "hello" + prose(100_000));
  });
});

Deno.test("what another process writes to the same open file meanwhile is not lost", async () => {
  await inFolder(async (folder) => {
    const size = 200_000_000, mark = "a line of somebody else\n";
    Deno.createSync(`${folder}/zeros`).close();
    Deno.truncateSync(`${folder}/zeros`, size);
    using file = open(`${folder}/file`, O_WRONLY | O_CREAT);
    using running = watched("3 4", { 3: open(`${folder}/zeros`, O_RDONLY), 4: file });
    let marks = 0, isOver = false;
    void running.outcome.then(() => isOver = true);
    while (!isOver) {
      await Promise.all(Array.from({ length: 8 }, () => file.write(mark)));
      marks += 8;
    }
    await succeeds(running);
    assertEquals(Deno.statSync(`${folder}/file`).size, size + marks * mark.length);
  });
});

/** Whether the file system of temporary files has O_DIRECT: tmpfs does from Linux 6.6 on. */
function takesDirect(): boolean {
  const path = Deno.makeTempFileSync();
  try {
    open(path, O_RDONLY | O_DIRECT).close();
    return true;
  } catch {
    return false;
  } finally {
    Deno.removeSync(path);
  }
}

const past = "files that go past the page cache (O_DIRECT) are read and written";
Deno.test(skippedIf(!takesDirect(), "its file system has no O_DIRECT", past), async () => {
  await inFolder(async (folder) => {
    const content = prose(1_000_000).slice(0, 4096 * 200);
    await Deno.writeTextFile(`${folder}/from`, content);
    for (const [read, write] of [[O_DIRECT, 0], [0, O_DIRECT], [O_DIRECT, O_DIRECT]] as const) {
      const to = `${folder}/to-${read}-${write}`;
      await succeeds(iocopy("3 4", {
        3: open(`${folder}/from`, O_RDONLY | read),
        4: open(to, O_WRONLY | O_CREAT | write),
      }));
      assert(await Deno.readTextFile(to) === content);
    }
  });
});

/** Two TCP sockets, between which the kernel enciphers what is sent; undefined where it does not do that. */
function tlsPair(): [End, End] | undefined {
  const [one, other] = tcpPair();
  try {
    one.encipher(1, 2);
    other.encipher(2, 1);
    return [one, other];
  } catch {
    one.close();
    other.close();
    return undefined;
  }
}

const lacksTls = !tlsPair()?.map((end) => end.close());
const tls = "TLS of the kernel is read and written, with a pipe that no record fits into as well";
Deno.test(skippedIf(lacksTls, "its kernel has no TLS", tls), async () => {
  for (const options of ["", "-b 4096 "]) {
    for (const isSource of [true, false]) {
      const pair = tlsPair();
      if (!pair) throw new Error("no TLS");
      const [source, upstream] = isSource ? pair : tcpPair();
      const [sink, downstream] = isSource ? tcpPair() : pair;
      const running = iocopy(`${options}3 4`, { 3: source, 4: sink });
      const arrived = downstream.readAll();
      await upstream.write(MUCH);
      upstream.shutdownWrite();
      assert(new TextDecoder().decode(await arrived) === MUCH, `${options}, ${isSource}`);
      await succeeds(running);
      for (const one of [upstream, downstream]) one.close();
    }
  }
});

Deno.test("a file is written at its offset, which moves on", async () => {
  await inFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/from`, "skipped, copied");
    using from = open(`${folder}/from`, O_RDONLY);
    using to = open(`${folder}/to`, O_RDWR | O_CREAT);
    assertEquals(await from.readText(9), "skipped, ");
    await to.write("before ");
    using running = watched("3 4", { 3: from, 4: to });
    await succeeds(running);
    await to.write(" after");
    assertEquals(await Deno.readTextFile(`${folder}/to`), "before copied after");
    await endOfFile(from);
  });
});
