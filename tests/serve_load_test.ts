/** Many connections at the same time, and everything that can go wrong with them. */
import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { readAll, readExactly, readText, retrying, writeAll } from "./connections.ts";
import { O_NONBLOCK, serving } from "./ends.ts";
import { pause } from "./watching.ts";
import {
  CONNECTED,
  cpuSeconds,
  descriptors,
  HALF_CLOSED,
  hasTcp,
  injecting,
  iocopy,
  limited,
  noise,
  same,
  within,
} from "./probe.ts";
import { freePort } from "./programs.ts";

/** What a client asks the target to do, in its first byte; eight more bytes are an offset in the noise, and a length. */
const ECHO = 1, SPEAK_FIRST = 2, RESET = 3;

/** The longest text that is sent. */
const LONGEST = 1 << 16;

const bytes = noise(2 * LONGEST);

function piece(at: number, length: number): Uint8Array<ArrayBuffer> {
  return bytes.subarray(at, at + length);
}

function order(what: number, at: number, length: number): Uint8Array<ArrayBuffer> {
  const order = new DataView(new ArrayBuffer(9));
  order.setUint8(0, what);
  order.setUint32(1, at);
  order.setUint32(5, length);
  return new Uint8Array(order.buffer);
}

function listenTcp(port = 0): { target: Deno.TcpListener; port: number } {
  // As many as come at once: what finds the queue full is reset, in the end.
  const target = Deno.listen({ hostname: "127.0.0.1", port, tcpBacklog: 4096 });
  return { target, port: target.addr.port };
}

/** Does what clients ask for; counts the texts that arrived completely. */
function obey(target: Deno.TcpListener): { came: number; wrong: string[] } {
  const counts = { came: 0, wrong: [] as string[] };
  const serve = async (conn: Deno.Conn) => {
    const [what, ...rest] = await readExactly(conn, 9);
    const view = new DataView(new Uint8Array([...rest]).buffer);
    if (view.byteLength < 8) return;
    const wanted = piece(view.getUint32(0), view.getUint32(4));
    if (what === RESET) return void await conn.read(new Uint8Array(1)); // unread bytes reset it
    if (what === SPEAK_FIRST) {
      await writeAll(conn, wanted);
      await (conn as Deno.TcpConn).closeWrite();
    }
    const got = await readExactly(conn, wanted.length);
    if (!same(got, wanted)) return void counts.wrong.push(`${got.length} of ${wanted.length}`);
    if (what === ECHO) await writeAll(conn, got);
    if (await conn.read(new Uint8Array(1)) !== null) counts.wrong.push("more than all");
    counts.came++;
  };
  (async () => {
    for await (const conn of target) serve(conn).catch(() => {}).finally(() => conn.close());
  })().catch(() => {});
  return counts;
}

/** One client; returns what it saw, in a word. */
async function client(port: number, what: number, at: number, length: number): Promise<string> {
  const conn = await Deno.connect({ hostname: "127.0.0.1", port });
  const wanted = piece(at, length);
  try {
    await writeAll(conn, order(what, at, length));
    const sent = writeAll(conn, wanted).then(() => conn.closeWrite()).catch(() => {});
    if (what === RESET) {
      await sent;
      await readAll(conn);
      return "reset";
    }
    const got = await readExactly(conn, length);
    if (await conn.read(new Uint8Array(1)) !== null) return "more than all";
    await sent;
    return same(got, wanted) ? "well" : `${got.length} of ${length}`;
  } finally {
    conn.close();
  }
}

/** As many clients as the limit of open files allows in this process, with two files for each. */
function many(wanted: number): number {
  const [, limit = "1024"] = /^Max open files +\d+ +(\d+)/m.exec(
    Deno.readTextFileSync("/proc/self/limits"),
  ) ?? [];
  return Math.min(wanted, Math.floor((Number(limit) - 200) / 2));
}

Deno.test("2000 connections at the same time, with half-closes and resets, and every byte arrives where it should", async () => {
  const { target, port: to } = listenTcp();
  const counts = obey(target);
  const { listener, port } = serving();
  using running = iocopy(`-c 3000 3 127.0.0.1:${to}`, { 3: listener }, { limit: 120_000 });
  assertEquals(await client(port, ECHO, 0, 10), "well");
  const before = descriptors(running.pid).size;
  const count = many(2000);
  const all = Array.from({ length: count }, (_, i) => {
    const what = [ECHO, SPEAK_FIRST, ECHO, RESET][i % 4] ?? ECHO;
    const length = 1 + (i * 7919) % (i % 10 ? 9000 : LONGEST);
    return { what, seen: client(port, what, (i * 104729) % LONGEST, length) };
  });
  const seen = await within("their end", Promise.all(all.map(({ seen }) => seen)), 110_000);
  const wrong = seen.filter((word, i) => word !== (all[i]?.what === RESET ? "reset" : "well"));
  assertEquals(wrong, []);
  assertEquals(counts.wrong, []);
  const came = all.filter(({ what }) => what !== RESET).length;
  assertEquals(counts.came, 1 + came);
  // After a while its spare pipes are closed too.
  const closed = async () => {
    // From source, the runtime opens two for signals, half a second after the start.
    while (descriptors(running.pid).size > before + 2) await pause();
  };
  await within("as many descriptors as before", closed());
  running.kill("SIGHUP");
  assertEquals((await running.outcome).code, 0);
  target.close();
});

Deno.test("a limit of 100 descriptors: 500 clients are served, and waiting clients cost nothing", async () => {
  const { target, port: to } = listenTcp();
  const { listener, port } = serving();
  // A second service has only the descriptors that the first one leaves.
  const second = serving();
  using running = iocopy(`3 127.0.0.1:${to} 4 127.0.0.1:${to}`, {
    3: listener,
    4: second.listener,
  }, { command: limited(100) });
  const ask = async (i: number) => {
    const conn = await Deno.connect({ hostname: "127.0.0.1", port: i % 2 ? second.port : port });
    await writeAll(conn, `client ${i}`);
    await conn.closeWrite();
    const text = await readAll(conn);
    conn.close();
    return text;
  };
  const answers = Array.from({ length: 500 }, (_, i) => ask(i));
  // No client gets its bytes back before no more connections arrive: it is full then, and others wait.
  const held: Deno.Conn[] = [];
  const arrived = (async () => {
    for await (const conn of target) held.push(conn);
  })().catch(() => {});
  const full = async () => {
    for (let before = -1; held.length <= 10 || held.length !== before;) {
      before = held.length;
      await pause(300);
    }
  };
  await within("more than ten at the same time", full());
  assert(held.length < 100, `${held.length} at the same time`);
  await retrying(async () => { // what it has still to do is not the cost of those who wait
    const used = cpuSeconds(running.pid);
    await pause(1000);
    assert(cpuSeconds(running.pid) - used <= 0.15, `${cpuSeconds(running.pid) - used} s of CPU`);
  });
  const answer = async (conn: Deno.Conn) => {
    await writeAll(conn, await readAll(conn));
    conn.close();
  };
  let next = 0, done = 0;
  const all = Promise.all(answers);
  void all.finally(() => done = 1);
  while (!done) {
    while (next < held.length) {
      const conn = held[next++];
      if (conn) void answer(conn).catch(() => {});
    }
    await pause(1);
  }
  assertEquals(await all, Array.from({ length: 500 }, (_, i) => `client ${i}`));
  running.kill("SIGHUP");
  const { code, stderr } = await running.outcome;
  assertEquals(code, 0);
  const reason =
    /^iocopy: \S+: the limit of open descriptors has room for [23]\d connections, others wait$/;
  const lines = stderr.trim().split("\n");
  assertEquals(lines.length, 2, stderr); // one of each service
  for (const line of lines) assertMatch(line, reason);
  target.close();
  await arrived;
});

Deno.test("slow clients, a byte at a time, do not delay fast ones, or the reverse", async () => {
  const { target, port: to } = listenTcp();
  (async () => {
    for await (const conn of target) conn.readable.pipeTo(conn.writable).catch(() => {});
  })().catch(() => {});
  const { listener, port } = serving();
  using running = iocopy(`3 127.0.0.1:${to}`, { 3: listener });
  const slow = await Promise.all(
    Array.from({ length: 50 }, () => Deno.connect({ hostname: "127.0.0.1", port })),
  );
  let isBusy = true, rounds = 0;
  const slowly = (async () => {
    while (isBusy || rounds < 3) {
      await Promise.all(slow.map(async (conn) => {
        await writeAll(conn, "s");
        assertEquals(await readText(conn, 1), "s");
      }));
      rounds++;
    }
  })();
  const fast = await Deno.connect({ hostname: "127.0.0.1", port });
  const sent = (async () => {
    for (let i = 0; i < 200; i++) await writeAll(fast, bytes);
    await fast.closeWrite();
  })();
  for (let i = 0; i < 200; i++) {
    assert(same(await within("the fast one", readExactly(fast, bytes.length)), bytes), `${i}`);
  }
  await sent;
  isBusy = false;
  await within("the slow ones", slowly);
  for (const conn of [...slow, fast]) conn.close();
  running.kill("SIGHUP");
  assertEquals((await running.outcome).code, 0);
  target.close();
});

for (const signal of ["SIGHUP", "SIGTERM"] as const) {
  Deno.test(`${signal} under load`, async () => {
    const { target, port: to } = listenTcp();
    const counts = obey(target);
    const { listener, port } = serving();
    using running = iocopy(`-c 300 3 127.0.0.1:${to}`, { 3: listener });
    assertEquals(await client(port, ECHO, 0, 10), "well");
    let begun = 0;
    const half = Promise.withResolvers<void>();
    const seen = Array.from({ length: 100 }, async (_, i) => {
      const conn = await Deno.connect({ hostname: "127.0.0.1", port });
      const wanted = piece(i, LONGEST);
      const order_ = order(ECHO, i, LONGEST);
      try {
        await writeAll(conn, order_);
        await writeAll(conn, wanted.subarray(0, LONGEST / 2));
        if (++begun === 100) half.resolve();
        await half.promise;
        await writeAll(conn, wanted.subarray(LONGEST / 2));
        await conn.closeWrite();
        return same(await readExactly(conn, LONGEST), wanted);
      } catch {
        return false; // SIGTERM ends it
      } finally {
        conn.close();
      }
    });
    await within("half of all", half.promise);
    running.kill(signal);
    const results = await within("their end", Promise.all(seen));
    const { code } = await within("its end", running.outcome);
    assertEquals(code, signal === "SIGHUP" ? 0 : 128 + 15);
    // Connections that were still in the kernel's queue are refused; accepted ones are served.
    if (signal === "SIGHUP") {
      assertEquals([1 + results.filter((well) => well).length, counts.wrong], [counts.came, []]);
      assert(counts.came > 1);
    }
    target.close();
  });
}

Deno.test("a target that is killed ends its connections, not the service", async () => {
  const { target, port: to } = listenTcp();
  obey(target);
  // The target that dies is a process of its own.
  const middle = serving();
  const again = middle.listener.duplicate();
  const { listener, port } = serving();
  using first = iocopy(`3 127.0.0.1:${to}`, { 3: middle.listener });
  using running = iocopy(`3 127.0.0.1:${middle.port}`, { 3: listener });
  const conns = await Promise.all(Array.from({ length: 20 }, async () => {
    const conn = await Deno.connect({ hostname: "127.0.0.1", port });
    await writeAll(conn, order(ECHO, 0, 1000));
    await writeAll(conn, piece(0, 1000));
    assert(same(await readExactly(conn, 1000), piece(0, 1000)));
    return conn;
  }));
  first.kill("SIGKILL");
  await first.outcome;
  await within("the end of all", Promise.all(conns.map(readAll)));
  for (const conn of conns) conn.close();
  using second = iocopy(`3 127.0.0.1:${to}`, { 3: again });
  assertEquals(await within("the next one", client(port, ECHO, 0, 1000)), "well");
  for (const program of [running, second]) program.kill("SIGHUP");
  assertEquals([(await running.outcome).code, (await second.outcome).code], [0, 0]);
  target.close();
});

Deno.test("a PROXY header that is taken in part ends its connection", async () => {
  const { target, port: to } = listenTcp();
  const { listener, port } = serving();
  const command = injecting("sendto:retval=5:when=1");
  // It ends by itself, since the runtime uses sendto(2) for signals, too.
  const args = `--exit-idle=0.3 --proxy-protocol 3 127.0.0.1:${to}`;
  const conn = await Deno.connect({ hostname: "127.0.0.1", port }); // first, or it could be late
  await writeAll(conn, "bytes");
  using running = iocopy(args, { 3: listener }, { command });
  const other = await within("a connection", target.accept());
  assertEquals(await within("its end", readAll(other)), "");
  assertEquals(await within("its end", readAll(conn)), "");
  for (const end of [conn, other]) end.close();
  const { code, stderr } = await running.outcome;
  assertEquals([code, stderr], [0, `iocopy: 127.0.0.1:${to}: the PROXY header was not taken\n`]);
  target.close();
});

Deno.test("two listeners: a connection that ends while it waits is dropped, unless it has sent something", async () => {
  const [users, servers] = [serving(), serving()];
  using running = iocopy("v 3 4", { 3: users.listener, 4: servers.listener });
  const connect = (port: number) => Deno.connect({ hostname: "127.0.0.1", port });
  const gone = await connect(users.port);
  await pause(100); // it has been accepted by now, or will be together with its end of file
  gone.close();
  const asking = await connect(users.port);
  await writeAll(asking, "a question");
  await asking.closeWrite();
  const server = await connect(servers.port);
  assertEquals(await within("the question", readAll(server)), "a question");
  await writeAll(server, "an answer");
  server.close();
  assertEquals(await within("the answer", readAll(asking)), "an answer");
  asking.close();
  running.kill("SIGHUP");
  const { code, stderr } = await running.outcome;
  assertEquals(code, 0);
  assertMatch(stderr, /#1: it went before another one came; /);
});

Deno.test("two listeners: without v nothing is reported of who waits and goes", async () => {
  const [users, servers] = [serving(), serving()];
  using running = iocopy("3 4", { 3: users.listener, 4: servers.listener });
  const gone = await Deno.connect({ hostname: "127.0.0.1", port: users.port });
  while (!hasTcp(running.pid, CONNECTED)) await pause();
  gone.close();
  while (hasTcp(running.pid, CONNECTED, HALF_CLOSED)) await pause();
  running.kill("SIGHUP");
  assertEquals(await running.outcome, { code: 0, signal: null, stderr: "" });
});

Deno.test("O_NONBLOCK of the listening socket is restored, and accepting never blocks", async () => {
  for (const signal of ["SIGHUP", "SIGTERM"] as const) {
    const { target, port: to } = listenTcp();
    const { listener, port } = serving();
    using mine = listener.duplicate();
    using running = iocopy(`3 127.0.0.1:${to}`, { 3: listener });
    const connect = async () => {
      const conn = await Deno.connect({ hostname: "127.0.0.1", port });
      const other = await within("the target's", target.accept());
      await writeAll(conn, "ping");
      assertEquals(await within("ping", readText(other, 4)), "ping");
      return [conn, other];
    };
    const conns = await connect();
    assert(mine.flags & O_NONBLOCK);
    // As if another process had set it, and restored it at its end.
    mine.nonBlocking = false;
    conns.push(...await connect());
    running.kill(signal);
    for (const conn of conns) conn.close();
    await running.outcome;
    assertEquals(mine.flags & O_NONBLOCK, 0);
    target.close();
  }
});

// The engine keeps the functions of the C library that it loads in this process.
const KEEPS = { sanitizeResources: false };

Deno.test("the library: what is served or copied is nobody else's", KEEPS, async () => {
  const { copy, Descriptor, serve } = await import("../engine.ts");
  const { target, port: to } = listenTcp();
  obey(target);
  const port = freePort();
  const listener = Descriptor.listen(`127.0.0.1:${port}`);
  const copied = await Descriptor.connect(`127.0.0.1:${to}`);
  const stop = new AbortController();
  const options = { signal: stop.signal, yieldAfter: 1 };
  const copying = copy([[copied, copied]], options);
  const { promise: error, resolve } = Promise.withResolvers<string | undefined>();
  const ended = serve(listener, () => copied, {
    ...options,
    onEnd: (session) => resolve(session.error),
  });
  await assertRejects(() => serve(listener, "127.0.0.1:9"), Error, "is served already");
  assertThrows(() => listener.close(), Error, "close");
  const conn = await Deno.connect({ hostname: "127.0.0.1", port });
  assertEquals(await within("its end", readAll(conn)), "");
  conn.close();
  assertMatch(await error ?? "", /is another connection's$/);
  assertEquals(copied.isClosed, false);
  stop.abort();
  await within("both ends", Promise.all([ended, copying]));
  await assertRejects(() => serve(listener, "127.0.0.1:9"), Error, "is closed");
  target.close();
});

Deno.test("the library: what the function that chooses a target may return", KEEPS, async () => {
  const { Descriptor, serve } = await import("../engine.ts");
  const { target, port: to } = listenTcp();
  obey(target);
  const port = freePort();
  const stop = new AbortController();
  const errors: (string | undefined)[] = [];
  let last: InstanceType<typeof Descriptor> | undefined;
  let asked = 0;
  const ended = serve(Descriptor.listen(`127.0.0.1:${port}`), async () => {
    switch (asked++) {
      case 1: { // one that is closed
        const closed = await Descriptor.connect(`127.0.0.1:${to}`);
        closed.close();
        return closed;
      }
      case 2: // one that is another connection's
        if (last) return last;
        break;
      case 3: // one that never comes
        return await new Promise<never>(() => {});
      case 4: // one that waits for connections itself
        return Descriptor.listen("127.0.0.1:0");
      case 5: // nothing, as a program without types may
        return undefined as unknown as InstanceType<typeof Descriptor>;
    }
    return last = await Descriptor.connect(`127.0.0.1:${to}`);
  }, {
    signal: stop.signal,
    yieldAfter: 1,
    connectTimeout: 500,
    onEnd: ({ error }) => errors.push(error),
  });
  const connect = () => Deno.connect({ hostname: "127.0.0.1", port });
  const first = await connect();
  await writeAll(first, order(ECHO, 0, 5));
  await writeAll(first, piece(0, 5));
  assert(same(await within("the echo", readExactly(first, 5)), piece(0, 5)));
  for (let i = 1; i < 6; i++) {
    const conn = await connect();
    assertEquals(await within("its end", readAll(conn)), "");
    conn.close();
  }
  assertEquals(await within("the last", client(port, ECHO, 7, 1000)), "well");
  first.close();
  stop.abort();
  await within("its end", ended);
  const wrong = errors.filter((error) => error !== undefined);
  assertMatch(wrong[0] ?? "", /^descriptor \d+ is not a connection$/);
  assertMatch(wrong[1] ?? "", /^descriptor \d+ is another connection's$/);
  assertMatch(wrong[2] ?? "", /^a function: Connection timed out$/);
  assertMatch(wrong[3] ?? "", /^descriptor \d+ is not a connection$/);
  assertMatch(wrong[4] ?? "", /^the function has returned no Descriptor$/);
  target.close();
});
