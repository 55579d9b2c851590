/** One process for all connections: listening descriptors and their targets. */
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { unixAddress } from "../sys/socket.ts";
import { readAll, readText, writeAll } from "./connections.ts";
import {
  accepted,
  connected,
  deaf,
  type End,
  listeningUnix,
  makeFifo,
  O_RDONLY,
  open,
  pipe,
  serving,
  SHUT_RD,
  SHUT_RDWR,
  SOCK_SEQPACKET,
} from "./ends.ts";
import { endsWith, objects, passes } from "./expect.ts";
import { COMMAND, type Running, skippedIf } from "./harness.ts";
import {
  CONNECTING,
  descriptors,
  hasTcp,
  inFolder,
  injecting,
  iocopy,
  knowing,
  limited,
  noise,
  ofTwins,
  readable,
  same,
  succeeds,
  unlessLate,
  within,
} from "./probe.ts";
import { freePort, needing } from "./programs.ts";
import { type Log, logged, pause, stop } from "./watching.ts";

const decoder = new TextDecoder();

/** A target that sends `greeting`, and sends back what it received after the end of file. */
function echo(listener: Deno.Listener, greeting = ""): void {
  (async () => {
    for await (const conn of listener) {
      (async () => {
        await writeAll(conn, greeting);
        await writeAll(conn, await readAll(conn));
        conn.close();
      })().catch(() => {});
    }
  })().catch(() => {});
}

function listenTcp(port = 0, hostname = "127.0.0.1"): { target: Deno.TcpListener; port: number } {
  const target = Deno.listen({ hostname, port });
  return { target, port: target.addr.port };
}

/** The next connection to a target. */
function acceptedBy(target: Deno.Listener): Promise<Deno.Conn> {
  return within("a connection", target.accept());
}

/** One port at two addresses: at 127.0.0.1 nobody answers, at 127.0.0.2 `target` listens. */
async function twins() {
  for (;;) {
    const dead = await deaf();
    try {
      return { dead, ...listenTcp(dead.port, "127.0.0.2") };
    } catch (error) {
      dead[Symbol.dispose]();
      // Somebody else has that port there: take another one.
      if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    }
  }
}

/** Sends `text` and the end of file to a port; returns what comes back. */
async function ask(port: number, text: string): Promise<string> {
  const conn = await Deno.connect({ hostname: "127.0.0.1", port });
  await writeAll(conn, text);
  await conn.closeWrite();
  const back = await within("the answer", readAll(conn));
  conn.close();
  return back;
}

/** Starts a service for `act`, ends it by SIGHUP, and checks that it exits with 0. Returns its standard error. */
async function withService(
  args: (port: number) => string,
  act: (port: number, stderr: () => Promise<string>, running: Running) => Promise<void>,
): Promise<string> {
  const { listener, port } = serving();
  using running = iocopy(args(port), { 3: listener });
  const log = running.outcome.then(({ stderr }) => stderr);
  await act(port, () => log, running);
  running.kill("SIGHUP");
  const { code, stderr } = await running.outcome;
  assertEquals(code, 0, stderr);
  return stderr;
}

Deno.test("each connection gets a connection of its own, and half-close is exact", async () => {
  const { target, port: to } = listenTcp();
  echo(target);
  const stderr = await withService(() => `3 127.0.0.1:${to}`, async (port) => {
    const texts = Array.from({ length: 60 }, (_, i) => `${i}:`.repeat(1 + i * i * 50));
    const answers = await Promise.all(texts.map((text) => ask(port, text)));
    assert(answers.every((answer, i) => answer === texts[i]), "what came back is another text");
  });
  assertEquals(stderr, "");
  target.close();
});

Deno.test("targets: a path, an abstract name, IPv6, a name of several addresses", async () => {
  await inFolder(async (folder) => {
    const path = `${folder}/socket`;
    const unix = Deno.listen({ transport: "unix", path });
    echo(unix);
    const { target, port } = listenTcp(); // localhost is also ::1, where nothing listens
    echo(target);
    const six = listenTcp(0, "::1");
    echo(six.target);
    const sixes = [`[::1]:${six.port}`, `[::1%1]:${six.port}`]; // 1 is the index of lo
    for (const to of [path, `localhost:${port}`, ...sixes]) {
      await withService(() => `3 ${to}`, async (port) => {
        assertEquals(await ask(port, "hello"), "hello", to);
      });
    }
    for (const listener of [unix, target, six.target]) listener.close();
  });
});

// The engine keeps the functions of the C library that it loads in this process.
const KEEPS = { sanitizeResources: false };

Deno.test("an abstract unix socket as the target", KEEPS, async () => {
  const { target, port: to } = listenTcp();
  echo(target);
  const name = `@iocopy-test-${Deno.pid}-${to}`;
  const { Descriptor } = await import("../engine.ts");
  // Two services in a row: TCP to the abstract socket, and from there to the echo.
  const inner = Descriptor.listen(name);
  const { serve } = await import("../engine.ts");
  const stop = new AbortController();
  const ended = serve(inner, `127.0.0.1:${to}`, { signal: stop.signal, yieldAfter: 1 });
  await withService(() => `3 ${name}`, async (port) => {
    assertEquals(await ask(port, "hello"), "hello");
  });
  stop.abort();
  await ended;
  target.close();
});

Deno.test("several services, and a plain pair beside them", async () => {
  const one = listenTcp(), other = listenTcp();
  echo(one.target, "one ");
  echo(other.target, "other ");
  const [first, second] = [serving(), serving()];
  const [input, stdin] = pipe();
  const [stdout, output] = pipe();
  using running = iocopy(`3 127.0.0.1:${one.port} 0 1 4 127.0.0.1:${other.port}`, {
    0: input,
    1: output,
    3: first.listener,
    4: second.listener,
  });
  assertEquals(await ask(first.port, "a"), "one a");
  assertEquals(await ask(second.port, "b"), "other b");
  await stdin.write("c");
  stdin.close();
  assertEquals(decoder.decode(await stdout.readAll()), "c");
  assertEquals(await ask(first.port, "d"), "one d");
  running.kill("SIGHUP");
  assertEquals((await running.outcome).code, 0);
  stdout.close();
  for (const { target } of [one, other]) target.close();
});

Deno.test("two listeners: a connection to one is joined with a connection to the other", async () => {
  const [users, servers] = [serving(), serving()];
  using running = iocopy("3 4", { 3: users.listener, 4: servers.listener });
  const connect = (port: number) => Deno.connect({ hostname: "127.0.0.1", port });
  const waiting = await connect(servers.port);
  const user = await connect(users.port);
  await writeAll(user, "to the server");
  await user.closeWrite();
  assertEquals(await within("the bytes", readAll(waiting)), "to the server");
  await writeAll(waiting, "to the user");
  waiting.close();
  assertEquals(await within("the answer", readAll(user)), "to the user");
  user.close();
  const later = await connect(users.port); // now the user connects first
  const server = await connect(servers.port);
  await writeAll(server, "hello");
  assertEquals(await within("the greeting", readText(later, 5)), "hello");
  running.kill("SIGTERM");
  assertEquals((await running.outcome).code, 128 + 15);
  for (const conn of [later, server]) conn.close();
});

Deno.test("two listeners: --timeout ends a silent connection, and none that waits", async () => {
  const [users, servers] = [serving(), serving()];
  const { running, log } = logged("v -t 0.6 3 4", { 3: users.listener, 4: servers.listener });
  using _ = running;
  const server = await Deno.connect({ hostname: "127.0.0.1", port: servers.port });
  await within("its acceptance", log.until(/#1: accepted/));
  await pause(800);
  await stop(running.pid); // or the time could begin long before there are bytes
  const user = await Deno.connect({ hostname: "127.0.0.1", port: users.port });
  await writeAll(user, "here");
  running.kill("SIGCONT");
  assertEquals(await within("the bytes", readText(server, 4)), "here");
  assertEquals(await within("its end", readAll(user)), "");
  assertEquals(await within("the other end", readAll(server)), "");
  // The time counts from when they met.
  await unlessLate(1400, async () => {
    using first = await Deno.connect({ hostname: "127.0.0.1", port: users.port });
    await pause(800);
    using second = await Deno.connect({ hostname: "127.0.0.1", port: servers.port });
    await pause(100);
    await writeAll(second, "hello");
    assertEquals(await within("the greeting", readText(first, 5)), "hello");
  });
  for (const conn of [user, server]) conn.close();
  running.kill("SIGHUP");
  assertEquals((await running.outcome).code, 0);
  assertMatch((await log.all()).join("\n"), /#2: timeout: nothing moved for 0.6 s/);
});

Deno.test("a target that refuses a connection is one line, and the service goes on", async () => {
  const { target, port: to } = listenTcp();
  target.close();
  let seconds = NaN;
  const stderr = await withService(() => `3 127.0.0.1:${to}`, async (port) => {
    const start = performance.now();
    for (let i = 0; i < 20; i++) assertEquals(await ask(port, "lost").catch(() => ""), "");
    seconds = (performance.now() - start) / 1000;
    const again = listenTcp(to);
    echo(again.target);
    assertEquals(await ask(port, "up again"), "up again");
    again.target.close();
  });
  // The first one is printed, the others are counted: every second, and at the end.
  const line = `iocopy: 127.0.0.1:${to}: Connection refused`;
  const lines = stderr.trimEnd().split("\n");
  assertEquals(lines[0], line);
  assert(lines.length <= 4 + 2 * seconds, `${stderr} in ${seconds} s`);
  const counts = lines.map((text) =>
    text === line ? 1 : Number(/ \((\d+) more times\)$/.exec(text)?.[1])
  );
  assertEquals(counts.reduce((sum, count) => sum + count), 20, stderr);
});

Deno.test("no more connections at a time than --connections", async () => {
  const { target, port: to } = listenTcp();
  await withService(() => `-c 1 3 127.0.0.1:${to}`, async (port) => {
    const first = await Deno.connect({ hostname: "127.0.0.1", port });
    const atTarget = await acceptedBy(target);
    const second = await Deno.connect({ hostname: "127.0.0.1", port });
    await writeAll(second, "I wait");
    await writeAll(first, "I do not");
    assertEquals(await within("the first", readText(atTarget, 8)), "I do not");
    first.close();
    atTarget.close();
    const next = await acceptedBy(target);
    assertEquals(await readText(next, 6), "I wait");
    second.close();
    next.close();
  });
  target.close();
});

Deno.test("that others wait is said when somebody does, and once", async () => {
  const { target, port: to } = listenTcp();
  echo(target);
  const { listener, port } = serving();
  const { running, log } = logged(`-c 1 3 127.0.0.1:${to}`, { 3: listener });
  using _ = running;
  const line = `iocopy: 127.0.0.1:${port}: the limit of connections (1) is reached, others wait`;
  assertEquals(await ask(port, "one"), "one");
  await pause(50);
  assertEquals(log.lines, []); // nobody else was there
  const first = await Deno.connect({ hostname: "127.0.0.1", port });
  const others = ["two", "three"].map((text) => ask(port, text));
  await within("the line", log.until(line));
  first.close();
  assertEquals(await Promise.all(others), ["two", "three"]);
  running.kill("SIGHUP");
  assertEquals([await log.all(), (await running.outcome).code], [[line], 0]);
  target.close();
});

/** What may be printed with a limit of 100 descriptors: not even that, where the clients come late. */
const NO_ROOM =
  /^(iocopy: \S+: the limit of open descriptors has room for [23]\d connections, others wait\n)*$/;

Deno.test("with few descriptors all connections are served in the end", async () => {
  const { target, port: to } = listenTcp();
  echo(target);
  const { listener, port } = serving();
  using running = iocopy(`3 127.0.0.1:${to}`, { 3: listener }, { command: limited(100) });
  const texts = Array.from({ length: 300 }, (_, i) => `client ${i}`);
  assertEquals(await Promise.all(texts.map((text) => ask(port, text))), texts);
  running.kill("SIGHUP");
  const { code, stderr } = await running.outcome;
  assertEquals(code, 0);
  assertMatch(stderr, NO_ROOM);
  target.close();
});

Deno.test("if there are descriptors for fewer connections than -c asks for, it says so", async () => {
  const services: [string, RegExp][] = [
    ["-c 1000 3 127.0.0.1:1", /^iocopy: at most [23]\d connections, not 1000: /],
    ["-c 20 3 127.0.0.1:1 4 127.0.0.1:1", /^iocopy: at most [23]\d connections, not 40: /],
  ];
  for (const [args, line] of services) {
    const given = { 3: serving().listener, 4: serving().listener };
    const { running, log } = logged(args, given, limited(100));
    using _ = running;
    await within("the line", log.until(line));
    running.kill("SIGHUP");
    assertEquals((await running.outcome).code, 0);
    assertEquals((await log.all()).length, 1);
  }
});

Deno.test("with few descriptors the clients of one service leave some to the targets of others", async () => {
  const { target, port: to } = listenTcp();
  echo(target);
  const services = [3, 4, 5, 6].map((fd) => ({ fd, ...serving() }));
  const texts = Array.from({ length: 160 }, (_, i) => `client ${i}`);
  // They wait when the services begin: all are accepted before the name's address is found.
  const answers = Promise.all(texts.map((text, i) => ask(services[i % 4]?.port ?? 0, text)));
  const args = services.map(({ fd }) => `${fd} localhost:${to}`).join(" ");
  const given = Object.fromEntries(services.map(({ fd, listener }) => [fd, listener]));
  using running = iocopy(args, given, { command: limited(100) });
  assertEquals(await answers, texts);
  running.kill("SIGHUP");
  const { code, stderr } = await running.outcome;
  assertEquals(code, 0);
  assertMatch(stderr, NO_ROOM);
  target.close();
});

for (const version of [1, 2]) {
  Deno.test(`--proxy-protocol=${version} tells the target who the client is`, async () => {
    const { target, port: to } = listenTcp();
    const args = `--proxy-protocol=${version} 3 127.0.0.1:${to}`;
    await withService(() => args, async (port) => {
      const client = await Deno.connect({ hostname: "127.0.0.1", port });
      const mine = (client.localAddr as Deno.NetAddr).port;
      await writeAll(client, "bytes");
      const conn = await acceptedBy(target);
      if (version === 1) {
        const wanted = `PROXY TCP4 127.0.0.1 127.0.0.1 ${mine} ${port}\r\nbytes`;
        assertEquals(await readText(conn, wanted.length), wanted);
      } else {
        const header = new Uint8Array(28 + 5);
        for (let at = 0; at < header.length;) at += await conn.read(header.subarray(at)) ?? 99;
        const view = new DataView(header.buffer);
        assertEquals(decoder.decode(header.subarray(0, 12)), "\r\n\r\n\0\r\nQUIT\n");
        assertEquals([view.getUint8(12), view.getUint8(13), view.getUint16(14)], [0x21, 0x11, 12]);
        assertEquals([...header.subarray(16, 24)], [127, 0, 0, 1, 127, 0, 0, 1]);
        assertEquals([view.getUint16(24), view.getUint16(26)], [mine, port]);
        assertEquals(decoder.decode(header.subarray(28)), "bytes");
      }
      client.close();
      conn.close();
    });
    target.close();
  });
}

Deno.test("a reply and the end of file that follows it leave in one packet", KEEPS, async () => {
  const { Descriptor } = await import("../engine.ts");
  const { target, port: to } = listenTcp();
  const { listener, port } = serving();
  using running = iocopy(`3 127.0.0.1:${to}`, { 3: listener });
  using client = await Descriptor.connect(`127.0.0.1:${port}`);
  const server = await acceptedBy(target);
  await stop(running.pid);
  await writeAll(server, "reply");
  server.close();
  const before = packetsIn(client.fd);
  running.kill("SIGCONT");
  const bytes = new Uint8Array(9);
  assertEquals(await within("the reply", client.read(bytes)), 5);
  assertEquals(await within("the end", client.read(bytes)), null);
  assertEquals(packetsIn(client.fd) - before, 1);
  client.close();
  running.kill("SIGHUP");
  assertEquals((await running.outcome).code, 0);
  target.close();
});

Deno.test("all that is ready is read before it is sent", async () => {
  const { target, port: to } = listenTcp();
  const log = await withService(() => `-v 3 127.0.0.1:${to}`, async (port, _stderr, running) => {
    const clients = [], servers = [];
    for (let i = 0; i < 3; i++) {
      const client = await Deno.connect({ hostname: "127.0.0.1", port });
      await writeAll(client, "it");
      const server = await acceptedBy(target);
      assertEquals(await readText(server, 2), "it"); // now they are joined
      clients.push(client);
      servers.push(server);
    }
    await stop(running.pid);
    for (const client of clients) await writeAll(client, "a piece");
    running.kill("SIGCONT");
    for (const server of servers) assertEquals(await readText(server, 7), "a piece");
    for (const end of [...clients, ...servers]) end.close();
  });
  target.close();
  // The last one is sent at once: nobody else is left to read.
  const pieces = log.matchAll(/([<>]) 7$/gm);
  assertEquals([...pieces].map(([, operation]) => operation).join(""), ">>><<<");
});

Deno.test("the target hears with the first bytes of the client that it is connected", async () => {
  const { listener: target, port: to } = serving();
  await withService(() => `3 127.0.0.1:${to}`, async (port, _stderr, running) => {
    await stop(running.pid);
    const client = await Deno.connect({ hostname: "127.0.0.1", port });
    await writeAll(client, "it");
    running.kill("SIGCONT");
    await readable(target);
    const server = accepted(target);
    assertEquals(await server.readText(2), "it");
    // A client that connects, and then sends, needs a packet more.
    const other = await Deno.connect({ hostname: "127.0.0.1", port: to });
    const plain = accepted(target);
    await writeAll(other, "it");
    assertEquals(await plain.readText(2), "it");
    assertEquals(packetsIn(server.fd), packetsIn(plain.fd) - 1);
    for (const end of [client, other, server, plain]) end.close();
  });
  target.close();
});

for (const onData of [undefined, () => {}]) {
  const how = onData ? "copied" : "spliced";
  Deno.test(
    `of two small pieces, ${how}, the second waits for no acknowledgement`,
    KEEPS,
    async () => {
      const { Descriptor, serve } = await import("../engine.ts");
      const { target, port: to } = listenTcp();
      const port = freePort();
      const end = new AbortController();
      const ended = serve(Descriptor.listen(`127.0.0.1:${port}`), `127.0.0.1:${to}`, {
        signal: end.signal,
        yieldAfter: 1,
        ...onData && { onData },
      });
      const client = await Deno.connect({ hostname: "127.0.0.1", port });
      await writeAll(client, "1");
      const server = await acceptedBy(target);
      for (const piece of ["1", "2"]) {
        if (piece !== "1") await writeAll(client, piece);
        assertEquals(await readText(server, 1), piece);
        await writeAll(server, piece);
        assertEquals(await readText(client, 1), piece);
      }
      const TCP_NODELAY = 1;
      for (
        const ports of [[port, portOf(client.localAddr)], [portOf(server.remoteAddr), to]] as const
      ) {
        assertEquals(tcpOption(descriptorOf(...ports), TCP_NODELAY).getInt32(0, true), 1);
      }
      client.close();
      server.close();
      target.close();
      end.abort();
      await ended;
    },
  );
}

/** The number of a TCP socket of this process's own (proc(5)). */
function descriptorOf(from: number, to: number): number {
  const connections = Deno.readTextFileSync("/proc/net/tcp").split("\n");
  const line = connections.find((line) => isBetween(line, from, to));
  const socket = `socket:[${line?.trim().split(/ +/)[9]}]`;
  for (const [fd, file] of descriptors(Deno.pid)) if (file === socket) return fd;
  return -1;
}

/** How many packets a TCP socket has received (struct tcp_info). */
function packetsIn(fd: number): number {
  const TCP_INFO = 11, SEGS_IN = 140;
  return tcpOption(fd, TCP_INFO).getUint32(SEGS_IN, true);
}

function tcpOption(fd: number, option: number): DataView {
  const IPPROTO_TCP = 6;
  const value = new DataView(new ArrayBuffer(256)), length = new Uint32Array([value.byteLength]);
  const parameters = ["i32", "i32", "i32", "buffer", "buffer"] as const;
  const libc = Deno.dlopen("libc.so.6", { getsockopt: { parameters, result: "i32" } });
  assertEquals(libc.symbols.getsockopt(fd, IPPROTO_TCP, option, value, length), 0);
  libc.close();
  return value;
}

Deno.test("after a while TCP connections have keepalive, on both sides", async () => {
  const { target, port: to } = listenTcp();
  await withService(() => `3 127.0.0.1:${to}`, async (port) => {
    const client = await Deno.connect({ hostname: "127.0.0.1", port });
    const server = await acceptedBy(target);
    // From the service's sides to the others.
    const both = [[port, portOf(client.localAddr)], [portOf(server.remoteAddr), to]] as const;
    for (const [from, peer] of both) {
      await within(
        "keepalive",
        (async () => {
          while (!isKeptAlive(from, peer)) await pause(50);
        })(),
      );
    }
    client.close();
    server.close();
  });
  target.close();
});

function portOf(address: Deno.Addr): number {
  return (address as Deno.NetAddr).port;
}

/** Whether a timer runs for a TCP connection that is no retransmission: 02 in /proc/net/tcp (proc(5)). */
function isKeptAlive(from: number, to: number): boolean {
  return Deno.readTextFileSync("/proc/net/tcp").split("\n").some((line) =>
    isBetween(line, from, to) && / 01 [0-9A-F]{8}:[0-9A-F]{8} 02:/.test(line)
  );
}

/** Whether a line of /proc/net/tcp is about the connection between these ports, as seen from the first. */
function isBetween(line: string, from: number, to: number): boolean {
  const hex = (port: number) => `[0-9A-F]{8}:${port.toString(16).toUpperCase().padStart(4, "0")}`;
  return new RegExp(`: ${hex(from)} ${hex(to)} `).test(line);
}

Deno.test("two listeners: a client that waits has keepalive", async () => {
  const [users, servers] = [serving(), serving()];
  using running = iocopy("3 4", { 3: users.listener, 4: servers.listener });
  const client = await Deno.connect({ hostname: "127.0.0.1", port: users.port });
  const isWatched = async () => {
    while (!isKeptAlive(users.port, portOf(client.localAddr))) await pause(20);
  };
  await within("keepalive", isWatched());
  client.close();
  running.kill("SIGHUP");
  assertEquals((await running.outcome).code, 0);
});

Deno.test("--timeout and --half-closed end a silent connection, and no other", async () => {
  for (const option of ["-t 0.2", "--half-closed=0.2"]) {
    const { target, port: to } = listenTcp();
    const args = `v ${option} 3 127.0.0.1:${to}`;
    const stderr = await withService(() => args, async (port, _stderr, running) => {
      const silent = await Deno.connect({ hostname: "127.0.0.1", port });
      const atTarget = await acceptedBy(target);
      if (option !== "-t 0.2") await silent.closeWrite();
      assertEquals(await within("its end", readAll(silent)), "");
      await stop(running.pid); // or the time could begin long before there are bytes
      const other = await Deno.connect({ hostname: "127.0.0.1", port });
      await writeAll(other, "here");
      running.kill("SIGCONT");
      const next = await acceptedBy(target);
      assertEquals(await readText(next, 4), "here");
      for (const conn of [silent, atTarget, other, next]) conn.close();
    });
    assertMatch(stderr, /#1: (timeout|half-closed): nothing moved for 0.2 s/);
    target.close();
  }
});

Deno.test("what came while the process was stopped is in time: no timeout ends those connections", async () => {
  const { listener: target, port: to } = serving();
  const args = `-t 0.5 --half-closed=0.5 3 127.0.0.1:${to}`;
  await withService(() => args, async (port, _, running) => {
    const pairs = await unlessLate(400, async () => {
      const start = performance.now();
      const pairs = Array.from({ length: 40 }, () => [connected(port), accepted(target)] as const);
      for (const [client] of pairs) {
        client.send("request");
        client.shutdownWrite();
      }
      for (const [, server] of pairs) {
        assertEquals(await within("the request", server.readText(8)), "request");
      }
      await pause(60); // a check of the timeouts sees all of that
      assert(performance.now() - start < 400, "too late for what follows");
      return pairs;
    });
    running.kill("SIGSTOP");
    await pause(200); // a check of the timeouts is due before what comes now
    for (const [, server] of pairs) {
      await server.write("answer");
      server.close();
    }
    await pause(600);
    running.kill("SIGCONT");
    for (const [client] of pairs) {
      assertEquals(decoder.decode(await within("the answer", client.readAll())), "answer");
      client.close();
    }
  });
  target.close();
});

for (const ends of [false, true]) {
  const name = "what a target says before it resets, ere anybody has looked, is not lost" +
    (ends ? ", nor its end" : "");
  Deno.test(needing(["strace"], name), async () => {
    const { listener: target, port: to } = serving();
    const { listener, port } = serving();
    const command = injecting("connect:delay_exit=500000");
    const { running, log } = logged(`--stats=json 3 127.0.0.1:${to}`, { 3: listener }, command);
    using _ = running;
    using client = connected(port);
    const server = accepted(target);
    await server.write("421 too busy");
    if (ends) server.shutdownWrite();
    while (server.onTheirWay > 0) await pause();
    server.resetOnClose();
    server.close();
    assertEquals(decoder.decode(await within("the end", client.readAll())), "421 too busy");
    client.close();
    // The reset is told by whichever direction comes upon it; or by none, if the client's end does.
    const error = ends
      ? '(null|"write target: Broken pipe")'
      : '"(read|write) target: Connection reset by peer"';
    await within("its end", log.until(new RegExp(`"received":12,.*"error":${error}`)));
    running.kill("SIGTERM");
    await running.outcome;
    await log.all();
    target.close();
  });
}

Deno.test("--half-closed counts from the half-close, not from the last byte before it", async () => {
  const { target, port: to } = listenTcp();
  const act = async (port: number) => {
    using conn = await Deno.connect({ hostname: "127.0.0.1", port });
    using server = await acceptedBy(target);
    await writeAll(conn, "?");
    assertEquals(await readText(server, 1), "?");
    await pause(1300);
    await conn.closeWrite();
    assertEquals(await within("the end", readAll(server)), "");
    await pause(400);
    await writeAll(server, "an answer");
    server.close();
    assertEquals(await within("the answer", readAll(conn)), "an answer");
  };
  const args = `--half-closed=1 3 127.0.0.1:${to}`;
  await withService(() => args, (port) => unlessLate(2300, () => act(port)));
  target.close();
});

for (const isOpen of [true, false]) {
  const what = isOpen ? "a timeout" : "the end of file";
  Deno.test(`${what} of plain pairs does not end the services beside them`, async () => {
    using target = listenTcp().target;
    // Every gap has to be shorter than the timeout.
    await unlessLate(1200, () => outlivesPair(isOpen, target));
  });
}

async function outlivesPair(isOpen: boolean, target: Deno.TcpListener): Promise<void> {
  const { listener, port } = serving();
  const [input, stdin] = pipe();
  const [stdout, output] = pipe();
  const args = `-t 0.5 0 1 3 127.0.0.1:${target.addr.port}`;
  using running = iocopy(args, { 0: input, 1: output, 3: listener });
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  using server = await acceptedBy(target);
  if (!isOpen) stdin.close();
  const nothing = stdout.readAll();
  for (let i = 0; i < 8; i++) { // for longer than the timeout
    await pause(100);
    await writeAll(conn, "x");
    assertEquals(await within("a byte", readText(server, 1)), "x");
  }
  assertEquals(await within("the pair's end", nothing), new Uint8Array(0));
  for (const end of [conn, server]) end.close();
  running.kill("SIGHUP");
  const { code, stderr } = await running.outcome;
  const timeout = "iocopy: timeout: nothing moved for 0.5 s\n";
  assertEquals([code, stderr], isOpen ? [111, timeout] : [0, ""]);
  if (isOpen) stdin.close();
  stdout.close();
}

Deno.test("a listening socket that listens no more: open connections go on, and then 111", async () => {
  const { target, port: to } = listenTcp();
  const [one, other] = [serving(), serving()];
  using mine = one.listener.duplicate();
  const args = `s 3 127.0.0.1:${to} 4 127.0.0.1:${to}`;
  using running = iocopy(args, { 3: one.listener, 4: other.listener });
  const conn = await Deno.connect({ hostname: "127.0.0.1", port: other.port });
  const server = await acceptedBy(target);
  mine.shutdown();
  await within("its end", refused(other.port));
  await writeAll(conn, "still here");
  await conn.closeWrite();
  assertEquals(await within("the bytes", readAll(server)), "still here");
  server.close();
  assertEquals(await within("the end", readAll(conn)), "");
  conn.close();
  const { code, stderr } = await running.outcome;
  assertEquals(code, 111);
  assertMatch(stderr, /^iocopy: accept 3: Invalid argument\n(iocopy: .* connections, .*\n){2}$/);
  target.close();
});

Deno.test("a listening unix socket that was shut down is told from one that nobody asks for", async () => {
  for (const how of [SHUT_RD, SHUT_RDWR]) {
    const listener = listeningUnix();
    using mine = listener.duplicate();
    using running = iocopy("3 127.0.0.1:1", { 3: listener });
    mine.shutdown(how);
    await within("the end", endsWith(running, 111, "iocopy: accept 3: Invalid argument\n"));
  }
});

Deno.test("what a listening socket hands down to its connections changes nothing", async (t) => {
  const { listener: target, port: to } = serving();
  await t.step("SO_LINGER: a slow client gets all of it", async () => {
    const { listener, port } = serving();
    listener.linger = 0;
    const { running, log } = logged(`--stats=json 3 127.0.0.1:${to}`, { 3: listener });
    using _ = running;
    using client = connected(port);
    client.shutdownWrite();
    const server = accepted(target);
    const content = noise(1 << 18);
    await server.write(content);
    server.close();
    await within("its end", log.until(/"ended":"eof"/));
    assert(same(await within("the bytes", client.readAll()), content));
    running.kill("SIGHUP");
    assertEquals((await running.outcome).code, 0);
    await log.all();
  });
  await t.step("SO_RCVLOWAT: a small piece waits for no other", async () => {
    const { listener, port } = serving();
    listener.lowWater = 1000;
    using running = iocopy(`3 127.0.0.1:${to}`, { 3: listener });
    using client = connected(port);
    using server = accepted(target);
    for (const piece of ["one", "two"]) await within(piece, passes(client, server, piece));
    running.kill("SIGTERM");
    await running.outcome;
  });
  target.close();
});

Deno.test("a second SIGTERM skips the waiting: what was cut off ends by a reset, not an end of file", async () => {
  const { listener: target, port: to } = serving();
  const { listener, port } = serving();
  const { running, log } = logged(`v 3 127.0.0.1:${to}`, { 3: listener });
  using _ = running;
  using client = connected(port);
  using server = accepted(target);
  const written = server.write(noise(2 ** 25)).catch(() => {}); // more than all buffers hold
  while (moved(log, ">") === moved(log, "<")) await pause(); // then it holds what the client does not take
  running.kill("SIGTERM");
  await within("the end of listening", refused(port));
  running.kill("SIGTERM");
  assertEquals((await within("the end", running.outcome)).code, 128 + 15);
  await log.all();
  await assertRejects(() => within("the reset", client.readAll()), Error, "read failed");
  await written;
  target.close();
});

/** Runs `act`, for a shell, in a network of its own, where the kernel chooses one of two ports for those who connect. */
function isolated(act: string): string[] {
  const ports = 'echo "45000 45001" >/proc/sys/net/ipv4/ip_local_port_range';
  return [
    ...["unshare", "--map-root-user", "--net", "sh", "-c"],
    `ip link set lo up && ${ports} && ${act}`,
    "sh",
  ];
}

const ISOLATED = isolated('exec "$@"');

const itself = "a target that is down is not replaced by a connection of a socket with itself";
const canIsolate = succeeds([...ISOLATED, "true"]);

Deno.test(skippedIf(!canIsolate, "no user namespace, or no ip(8)", itself), async () => {
  const { listener, port } = serving();
  using running = iocopy("3 127.0.0.1:45000", { 3: listener }, {
    command: [...ISOLATED, ...COMMAND],
  });
  for (let i = 0; i < 3; i++) {
    assertEquals(await ask(port, "hello").catch(() => ""), "");
  }
  running.kill("SIGHUP");
  const { code, stderr } = await running.outcome;
  assertEquals(code, 0);
  assertMatch(stderr, /^(iocopy: 127.0.0.1:45000: Connection refused.*\n)+$/);
});

const withoutPort = "clients for whom there is no local port wait for one, and all are served";
Deno.test(
  skippedIf(!canIsolate, "no user namespace, or no ip(8)", needing(["socat"], withoutPort)),
  async () => {
    const { listener, port } = serving();
    // It closes first, so that no port of ours stays in use for a minute (TIME_WAIT).
    const target =
      "timeout 60 socat TCP-LISTEN:46000,fork,backlog=5 EXEC:'head -c 5' 3<&- & target=$!";
    const isThere = "until grep -q ':B3B0 .* 0A ' /proc/net/tcp; do sleep 0.01; done";
    const ending = '"$@"; status=$?; kill $target; exit $status';
    using running = iocopy("--exit-idle=1 3 127.0.0.1:46000", { 3: listener }, {
      command: [...isolated(`{ ${target}; ${isThere}; ${ending}; }`), ...COMMAND],
    });
    const clients = await Promise.all(
      Array.from({ length: 5 }, () => Deno.connect({ hostname: "127.0.0.1", port })),
    );
    const answers = await Promise.all(clients.map(async (client) => {
      await writeAll(client, "hello");
      const answer = await within("the answer", readAll(client));
      client.close();
      return answer;
    }));
    assertEquals(answers, Array(5).fill("hello"));
    listener.close();
    assertEquals(await running.outcome, { code: 0, signal: null, stderr: "" });
  },
);

Deno.test(
  "two listeners: what a unix client sends before it goes is delivered",
  KEEPS,
  async () => {
    const { Descriptor, serve } = await import("../engine.ts");
    await inFolder(async (folder) => {
      const path = `${folder}/door`;
      const port = freePort();
      const doors: string[] = [];
      const stop = new AbortController();
      const { promise: accepted, resolve } = Promise.withResolvers<void>();
      const ended = serve(Descriptor.listen(path), Descriptor.listen(`127.0.0.1:${port}`), {
        signal: stop.signal,
        yieldAfter: 1,
        onAccept: ({ address }) => {
          doors.push(address);
          resolve();
        },
      });
      const client = await Deno.connect({ transport: "unix", path });
      await writeAll(client, "message");
      client.close();
      await within("its acceptance", accepted);
      const mate = await Deno.connect({ hostname: "127.0.0.1", port });
      assertEquals(await within("the message", readAll(mate)), "message");
      mate.close();
      stop.abort();
      await within("the end", ended);
      assertEquals(doors, [path, `127.0.0.1:${port}`]);
    });
  },
);

Deno.test("--connect-timeout gives up a target that does not reply", async () => {
  // A backlog of 0 has room for one connection (listen(2)); the next ones are dropped.
  const full = serving(0);
  const first = await Deno.connect({ hostname: "127.0.0.1", port: full.port });
  const args = `--connect-timeout=0.1 3 127.0.0.1:${full.port}`;
  const stderr = await withService(() => args, async (port) => {
    assertEquals(await ask(port, "").catch(() => ""), "");
  });
  assertEquals(stderr, `iocopy: 127.0.0.1:${full.port}: Connection timed out\n`);
  first.close();
  full.listener.close();
});

Deno.test("a client that resets before its target answers leaves its place to the next one", async () => {
  using full = await deaf();
  const { listener, port } = serving();
  // Each could keep the only place for longer than the test may take.
  const { running, log } = logged(`-v -c 1 --connect-timeout=40 3 127.0.0.1:${full.port}`, {
    3: listener,
  });
  using _ = running;
  for (let i = 1; i <= 2; i++) {
    const client = connected(port);
    await within("its acceptance", log.until(new RegExp(`#${i}: accepted`)));
    client.resetOnClose();
    client.close();
  }
  running.kill("SIGHUP");
  assertEquals((await running.outcome).code, 0);
  const ended = `127.0.0.1:${full.port}: the client went before it answered; 0 bytes sent`;
  assertEquals((await log.all()).filter((line) => line.includes(ended)).length, 2);
});

ofTwins(
  "of two addresses, one that is dead costs the first connection its time only",
  async (hosts) => {
    const { dead, target, port: to } = await twins();
    using _dead = dead;
    echo(target);
    const { listener, port } = serving();
    const args = `--connect-timeout=1 3 twins:${to}`;
    using running = iocopy(args, { 3: listener }, { command: knowing(hosts) });
    const took = async (text: string) => {
      const start = performance.now();
      assertEquals(await ask(port, text), text);
      return performance.now() - start;
    };
    const first = await took("first");
    assert(first >= 1000, `${first} ms: the dead one was not tried`);
    const next = Math.min(await took("second"), await took("third"));
    assert(next < 1000, `${next} ms: the dead one was tried again`);
    running.kill("SIGHUP");
    assertEquals(await running.outcome, { code: 0, signal: null, stderr: "" });
    target.close();
  },
);

ofTwins("a new look-up of a name keeps the address that was reached", async (hosts) => {
  const script = `
    import { Target } from ${JSON.stringify(import.meta.resolve("../engine/target.ts"))};
    const target = new Target("twins:80"), best = () => String(target.addresses[target.best]);
    await target.find();
    const reached = target.addresses[1];
    target.prefer(reached);
    await target.find();
    const found = best();
    target.prefer(reached); // by who was connecting meanwhile
    console.log(String(reached), found, best());`;
  const [program = "", ...args] = knowing(hosts, [Deno.execPath(), "eval", script]);
  const { stdout } = await new Deno.Command(program, { args, stderr: "inherit" }).output();
  const [reached, ...later] = decoder.decode(stdout).trim().split(" ");
  assertMatch(reached ?? "", /^127\.0\.0\.[12]:80$/);
  assertEquals(later, [reached, reached]);
});

ofTwins("where all addresses of a name fail, the error of the first one is told", async (hosts) => {
  using dead = await deaf(); // and at 127.0.0.2 nobody listens
  const { listener, port } = serving();
  const args = `--connect-timeout=0.1 3 twins:${dead.port}`;
  using running = iocopy(args, { 3: listener }, { command: knowing(hosts) });
  assertEquals(await ask(port, "").catch(() => ""), "");
  running.kill("SIGHUP");
  const stderr = `iocopy: twins:${dead.port} (127.0.0.1:${dead.port}): Connection timed out\n`;
  assertEquals(await running.outcome, { code: 0, signal: null, stderr });
});

const V6_ONLY = 'ip address add 2001:db8::1/128 dev lo && exec "$@"';

if (succeeds([...ISOLATED, "sh", "-c", V6_ONLY, "sh", "true"])) {
  ofTwins(
    "a machine that has IPv6 only reaches a name that has IPv4 only on itself",
    async (hosts) => {
      const script = `
      import { Descriptor } from ${JSON.stringify(import.meta.resolve("../engine.ts"))};
      const tried = await Descriptor.connect("twins:5000").catch(({ message }) => message);
      const listener = Descriptor.listen("127.0.0.2:5000");
      const connected = await Descriptor.connect("twins:5000");
      console.log(tried, connected.kind);`;
      const deno = knowing(hosts, [Deno.execPath(), "eval", script]);
      const [program = "", ...args] = [...ISOLATED, "sh", "-c", V6_ONLY, "sh", ...deno];
      const { stdout } = await new Deno.Command(program, { args, stderr: "inherit" }).output();
      const expected = "connect to twins:5000: Connection refused socket\n";
      assertEquals(decoder.decode(stdout), expected);
    },
  );
}

ofTwins("look-ups that take long leave threads for all else", async (hosts) => {
  // Who opens it waits, as for a name server that does not reply.
  await Deno.remove(hosts);
  makeFifo(hosts);
  const script = `
    import { Descriptor } from ${JSON.stringify(import.meta.resolve("../engine.ts"))};
    const names = Array.from({ length: 40 }, (_, i) => "name" + i);
    for (const name of [...Array(40).fill("twins"), ...names]) {
      Descriptor.connect(name + ":80").catch(() => {});
    }
    await Deno.stat("/"); // on another thread
    console.log("it goes on");
    Deno.exit();`;
  const [program = "", ...args] = knowing(hosts, [Deno.execPath(), "eval", script]);
  const options = { args, stdin: "null", stdout: "piped", stderr: "inherit" } as const;
  await using running = new Deno.Command(program, options).spawn();
  const { stdout } = await within("the end", running.output());
  assertEquals(decoder.decode(stdout), "it goes on\n");
});

Deno.test("a name of a unix socket is one line, which a terminal shows as it is", () => {
  for (const name of ["@a\nb\x1b[2J\u009b\u2028", "/a\nb\x1b[2J\u009b\u2028"]) {
    const text = String(unixAddress(name));
    assertEquals(text, name.charAt(0) + "a\\x0ab\\x1b[2J\\x9b\\u2028");
  }
});

Deno.test("no name of a unix socket writes lines of its own", async () => {
  const { listener, port } = serving();
  const to = "/nowhere/a\niocopy: b\x1b[2J\u009b\u2028";
  using running = iocopy(["v", "p", "3", to], { 3: listener });
  assertEquals(await ask(port, "").catch(() => ""), "");
  running.kill("SIGHUP");
  const { code, stderr } = await running.outcome;
  assertEquals(code, 0);
  const lines = stderr.trimEnd().split("\n");
  assertMatch(
    lines[1] ?? "",
    /nowhere\/a\\x0aiocopy: b\\x1b\[2J\\x9b\\u2028: No such file or directory/,
  );
  // The last line of the progress.
  assertMatch(lines[2] ?? "", /^iocopy: 0 open {2}[\d.]+ connections\/s {2}0 B\/s$/);
  assertEquals(lines.length, 3);
});

Deno.test("--exit-idle ends it without connections", async () => {
  const { listener } = serving();
  using running = iocopy("--exit-idle=0.1 3 127.0.0.1:9", { 3: listener });
  assertEquals(await running.outcome, { code: 0, signal: null, stderr: "" });
});

Deno.test("--exit-idle counts from the end of the last connection, however short it was", async () => {
  const { target, port: to } = listenTcp();
  echo(target);
  const { listener, port } = serving();
  using running = iocopy(`--exit-idle=2 3 127.0.0.1:${to}`, { 3: listener });
  assertEquals(await ask(port, "first"), "first");
  await pause(500);
  const asked = performance.now();
  assertEquals(await ask(port, "second"), "second");
  assertEquals(await running.outcome, { code: 0, signal: null, stderr: "" });
  const idle = performance.now() - asked;
  assert(idle >= 1900, `it ended ${idle} ms after a connection had begun`);
  target.close();
});

Deno.test("--exit-idle counts from the end of a plain pair, too", async () => {
  const [input, stdin] = pipe();
  using running = iocopy("--exit-idle=1 3 127.0.0.1:1 0 1", { 0: input, 3: serving().listener });
  await pause(1200);
  const ended = performance.now();
  stdin.close();
  assertEquals((await running.outcome).code, 0);
  const idle = performance.now() - ended;
  assert(idle >= 900, `${idle} ms after the end of the pair`); // looked at every 50 ms
});

Deno.test("--exit-idle: a service listens on while another one has a connection", async () => {
  const { target, port: to } = listenTcp();
  echo(target, "welcome ");
  const [idle, busy] = [serving(), serving()];
  const args = `--exit-idle=0.2 3 127.0.0.1:${to} 4 127.0.0.1:${to}`;
  const client = await Deno.connect({ hostname: "127.0.0.1", port: busy.port });
  using running = iocopy(args, { 3: idle.listener, 4: busy.listener });
  assertEquals(await within("its target", readText(client, 8)), "welcome ");
  await pause(500);
  assertEquals(await ask(idle.port, "still served"), "welcome still served");
  client.close();
  assertEquals(await running.outcome, { code: 0, signal: null, stderr: "" });
  target.close();
});

Deno.test("SIGHUP stops accepting at once, and connections end by themselves", async () => {
  const { target, port: to } = listenTcp();
  const { listener, port } = serving();
  using running = iocopy(`3 127.0.0.1:${to}`, { 3: listener });
  const client = await Deno.connect({ hostname: "127.0.0.1", port });
  const conn = await acceptedBy(target);
  running.kill("SIGHUP");
  await within("the end of listening", refused(port));
  await writeAll(client, "still there");
  assertEquals(await readText(conn, 11), "still there");
  client.close();
  conn.close();
  target.close(); // this resets the connections that came before
  assertEquals(await running.outcome, { code: 0, signal: null, stderr: "" });
});

/** How many bytes were read, or written, as `v` has reported it. */
function moved(log: Log, operation: ">" | "<"): number {
  return log.lines.reduce((sum, line) => sum + Number(line.split(` ${operation} `)[1] ?? 0), 0);
}

Deno.test("SIGTERM delivers what was read, and ends with 128 + 15", async () => {
  const { target, port: to } = listenTcp();
  const { listener, port } = serving();
  const { running, log } = logged(`v 3 127.0.0.1:${to}`, { 3: listener });
  using _ = running;
  const client = await Deno.connect({ hostname: "127.0.0.1", port });
  const conn = await acceptedBy(target);
  const content = noise(2 ** 25); // more than the kernel holds
  const sent = writeAll(client, content).catch(() => {});
  // Before it waits for the target, which does not read, all of this is in the log.
  while (moved(log, ">") === moved(log, "<")) await pause();
  running.kill("SIGTERM");
  await within("the end of listening", refused(port));
  const arrived = new Uint8Array(
    await within("the end", new Response(conn.readable).arrayBuffer()),
  );
  assertEquals((await running.outcome).code, 128 + 15);
  await log.all();
  assertEquals([moved(log, ">"), moved(log, "<")], [arrived.length, arrived.length]);
  assert(same(arrived, content.subarray(0, arrived.length)), "other bytes");
  await sent;
  for (const end of [client, target]) end.close();
});

Deno.test("SIGTERM while a target is being connected is no error of the connection", async () => {
  using silent = await deaf();
  for (const option of ["-c 9", "--stats=json"]) {
    const { listener, port } = serving();
    using running = iocopy(`${option} 3 127.0.0.1:${silent.port}`, { 3: listener });
    const client = await Deno.connect({ hostname: "127.0.0.1", port });
    while (!hasTcp(running.pid, CONNECTING)) await pause();
    running.kill("SIGTERM");
    const { code, stderr } = await running.outcome;
    client.close();
    assertEquals(code, 128 + 15);
    const told = stderr.split("\n").filter(Boolean).map((line) => JSON.parse(line));
    const ends = told.map(({ ended, error, errors }) => [ended, error, errors]);
    const wanted = [["stopped", null, undefined], [undefined, undefined, 0]];
    assertEquals(ends, option === "--stats=json" ? wanted : []);
  }
});

/** Waits until nothing listens on a port. */
async function refused(port: number): Promise<void> {
  for (;;) {
    try {
      (await Deno.connect({ hostname: "127.0.0.1", port })).close();
    } catch {
      return;
    }
    await pause(); // in a hurry they would fill the target's queue, and be refused at its end
  }
}

Deno.test("v reports each connection, and --stats=json prints a line for it", async () => {
  const { target, port: to } = listenTcp();
  echo(target);
  const args = `v --stats=json 3 127.0.0.1:${to}`;
  let at = 0;
  const stderr = await withService(() => args, async (port) => {
    at = port;
    assertEquals(await ask(port, "hello"), "hello");
  });
  const service = `127.0.0.1:${at}`;
  assertMatch(
    stderr,
    new RegExp(`^iocopy: ${service} #1: accepted from 127.0.0.1:\\d+, 1 open$`, "m"),
  );
  assertMatch(stderr, new RegExp(`^iocopy: ${service} #1: connected to 127.0.0.1:${to}$`, "m"));
  assertMatch(
    stderr,
    /#1: end of file; 5 bytes sent, 5 received in \d\.\d{3} s, 0 open$/m,
  );
  const [one, all] = objects(stderr);
  assertEquals(one, {
    service,
    id: 1,
    peer: one.peer,
    target: `127.0.0.1:${to}`,
    sent: 5,
    received: 5,
    seconds: one.seconds,
    ended: "eof",
    error: null,
  });
  assertEquals(all, {
    service,
    target: `127.0.0.1:${to}`,
    connections: 1,
    open: 0,
    errors: 0,
    sent: 5,
    received: 5,
  });
  target.close();
});

Deno.test("a client that resets: its target gets all that was sent, and then a reset, not an end of file", async () => {
  const { listener: target, port: to } = serving();
  const upload = noise(1 << 20);
  const stderr = await withService(() => `--stats=json 3 127.0.0.1:${to}`, async (port) => {
    const client = connected(port);
    await client.write(upload);
    using server = accepted(target);
    while (client.onTheirWay > 0) await pause();
    client.resetOnClose();
    client.close();
    const got = await within("all that was sent", server.readExactly(upload.length));
    assert(same(got, upload), `${got.length} bytes of ${upload.length}`);
    await assertRejects(() => within("the reset", server.read()), Error, "read failed");
    // The service goes on.
    using next = connected(port);
    using served = accepted(target);
    await next.write("next");
    assertEquals(await within("the next client's", served.readText(4)), "next");
  });
  const [one] = objects(stderr);
  assertEquals([one.sent, one.error], [
    upload.length,
    "read client: Connection reset by peer",
  ]);
  target.close();
});

Deno.test("a client that resets what was whole: its target sees the end of file", async () => {
  const { listener: target, port: to } = serving();
  const stderr = await withService(() => `--stats=json 3 127.0.0.1:${to}`, async (port) => {
    const client = connected(port);
    using server = accepted(target);
    await client.write("all of it");
    client.shutdownWrite();
    while (client.onTheirWay > 0) await pause();
    client.resetOnClose();
    client.close();
    assertEquals(decoder.decode(await within("the end", server.readAll())), "all of it");
  });
  assertMatch(stderr, /"sent":9,/);
  target.close();
});

Deno.test("a client that is given up with bytes that it has not taken: it sees a reset, not an end of file", async () => {
  const { listener: target, port: to } = serving();
  const content = noise(2 ** 25); // made now: that takes time
  // Long enough to fill all buffers, however busy the machine is: before that, nothing is held.
  const stderr = await withService(() => `-t 2 --stats=json 3 127.0.0.1:${to}`, async (port) => {
    using client = connected(port);
    using server = accepted(target);
    // More than all buffers hold, so that the end of the connection is what ends this.
    await within("the end", server.write(content).catch(() => {}));
    await assertRejects(() => within("the reset", client.readAll()), Error, "read failed");
  });
  assertMatch(stderr, /"error":"timeout: nothing moved for 2 s"/);
  target.close();
});

Deno.test("--timeout ends an upload that has stalled: its target sees a reset, not an end of file", async () => {
  const { listener: target, port: to } = serving();
  const args = `-t 0.3 --stats=json 3 127.0.0.1:${to}`;
  const stderr = await withService(() => args, async (port, _stderr, running) => {
    await stop(running.pid); // or the time could begin long before there are bytes
    using client = connected(port);
    await client.write("half of it");
    running.kill("SIGCONT");
    using server = accepted(target);
    assertEquals(await within("half of it", server.readText(10)), "half of it");
    await assertRejects(() => within("the reset", server.read()), Error, "read failed");
    assertEquals(await within("the end of file", client.readAll()), new Uint8Array());
  });
  assertMatch(stderr, /"error":"timeout: nothing moved for 0.3 s"/);
  target.close();
});

Deno.test("an error of the direction that ends last is told with the end of the connection", async () => {
  const { listener: target, port: to } = serving();
  const stderr = await withService(() => `--stats=json 3 127.0.0.1:${to}`, async (port) => {
    const client = await Deno.connect({ hostname: "127.0.0.1", port });
    using server = accepted(target);
    await client.closeWrite();
    assertEquals(await within("the end of file", server.readAll()), new Uint8Array());
    server.resetOnClose();
    server.close();
    await within("the end", readAll(client)).catch(() => {});
    client.close();
  });
  const [one, all] = objects(stderr);
  assertEquals([one.ended, one.error, all.errors], [
    "error",
    "read target: Connection reset by peer",
    1,
  ]);
  target.close();
});

Deno.test(
  needing(["strace"], "the errno that the runtime's clock leaves is not taken for a connection's"),
  async () => {
    const { target, port: to } = listenTcp();
    echo(target);
    // The call that finds nobody waiting, after each of the first connections; and of the target's.
    const lost = injecting(
      "accept4:error=ENOENT:when=2..6+2",
      "socket:error=ENOENT:when=1",
      "connect:error=ENOENT:when=2",
    );
    const { listener, port } = serving();
    using running = iocopy(`3 127.0.0.1:${to}`, { 3: listener }, { command: lost });
    for (const text of ["one", "two", "three"]) {
      const isSent = text !== "two"; // whose connect was made by nobody
      assertEquals(await ask(port, text), isSent ? text : "", text);
    }
    running.kill("SIGHUP");
    const { code } = await running.outcome;
    assertEquals(code, 0);
    target.close();
  },
);

Deno.test(
  needing(["strace"], "connections that a firewall forbids do not end the service"),
  async () => {
    const { target, port: to } = listenTcp();
    echo(target);
    const { listener, port } = serving();
    // One fewer than say that all are forbidden.
    const forbidden = injecting("accept4:error=EPERM:when=1..31");
    using running = iocopy(`3 127.0.0.1:${to}`, { 3: listener }, { command: forbidden });
    assertEquals(await ask(port, "after them"), "after them");
    running.kill("SIGHUP");
    const { code, stderr } = await running.outcome;
    assertEquals([code, stderr], [0, ""]);
    target.close();
  },
);

Deno.test(
  needing(["strace"], "a name that is not found in time is not taken for a target that is silent"),
  async () => {
    const { listener, port } = serving();
    const [strace = "", ...words] = injecting("openat:delay_enter=2000000");
    using running = iocopy("--connect-timeout=0.1 3 localhost:9", { 3: listener }, {
      command: [strace, "-P", "/etc/hosts", ...words],
    });
    assertEquals(await ask(port, "hello"), "");
    running.kill("SIGHUP");
    const { stderr } = await running.outcome;
    assertMatch(stderr, /^iocopy: localhost:9: the look-up of the name takes too long$/m);
  },
);

Deno.test("wrong use of a target is one line and 100, before anything is accepted", async () => {
  const lines: [string, RegExp][] = [
    ["3 localhost", /^iocopy: "localhost" is neither a descriptor nor a target \(HOST:PORT/],
    ["3 localhost:", /is not HOST:PORT/],
    ["3 localhost:http", /^iocopy: "localhost:http": a port is a number from 1 to 65535/],
    ["3 localhost:0", /a port is a number from 1 to 65535/],
    ["3 localhost:65536", /a port is a number from 1 to 65535/],
    ["3 http://app:80", /^iocopy: "http:\/\/app:80" is a URL: write HOST:PORT or a path alone/],
    ["3 unix:///run/app", /^iocopy: "unix:\/\/\/run\/app" is a URL/],
    ["3 [127.0.0.1]:22", /the brackets do not contain an IPv6 address/],
    ["3 @", /is not HOST:PORT/],
    ["0 127.0.0.1:22", /^iocopy: descriptor 0 is not a listening socket/],
    ["9 127.0.0.1:22", /^iocopy: descriptor 9 is not open/],
    ["0 3", /^iocopy: descriptor 3 is a listening socket/],
    ["3 1", /^iocopy: descriptor 3 is a listening socket/],
    ["-c 5 3 1", /^iocopy: descriptor 3 is a listening socket/],
    ["--exit-idle=1 3 99", /^iocopy: descriptor 3 is a listening socket/],
    ["3 3", /^iocopy: descriptor 3 is served twice/],
    ["3 127.0.0.1:22 3 127.0.0.1:23", /^iocopy: descriptor 3 is served twice/],
    ["3 5", /^iocopy: descriptor 5 is served twice/],
    ["-c 0 3 127.0.0.1:22", /^iocopy: --connections: "0" is not a whole number/],
    ["--proxy-protocol=3 3 127.0.0.1:22", /^iocopy: --proxy-protocol: "3" is not version 1 or 2/],
    ["4 127.0.0.1:22", /^iocopy: descriptor 4 listens for messages \(SEQPACKET\)/],
    ["3 4", /^iocopy: descriptor 4 listens for messages/],
    [`3 /${"x".repeat(200)}`, /the path of a socket has at most 107 bytes/],
    [`3 /${"\n".repeat(200)}`, /^iocopy: \/\\x0a\\x0a.*the path of a socket has at most 107 bytes/],
    ["3 \u009b31m\u2028\n:x", /^iocopy: "\\x9b31m\\u2028\\n:x" is not HOST:PORT/],
  ];
  for (const [args, message] of lines) {
    const { listener } = serving();
    const given = { 3: listener, 4: listeningUnix(SOCK_SEQPACKET), 5: listener.duplicate() };
    using running = iocopy(args, given);
    const { code, stderr } = await running.outcome;
    assertEquals([code, stderr.split("\n").length], [100, 2], `${args}: ${stderr}`);
    assertMatch(stderr, /^[^\p{Cc}\u2028\u2029]+\n$/u, args);
    assertMatch(stderr, message, args);
  }
});

Deno.test("a rate limits each channel, and does not delay its end of file", async () => {
  const [input, stdin] = pipe();
  const [stdout, output] = pipe();
  const start = performance.now();
  using running = iocopy("--rate=200k 0 1", { 0: input, 1: output });
  const arrived = readBytes(stdout);
  await stdin.write(new Uint8Array(100 * 1024));
  stdin.close();
  assertEquals(await within("the end", arrived), 100 * 1024);
  // At most 10 KiB come at once: the other 90 take 0.45 s.
  assert(performance.now() - start >= 440, `${performance.now() - start} ms`);
  assertEquals((await running.outcome).code, 0);
  stdout.close();
});

Deno.test("a rate reads large pieces, not each byte as soon as it may be", async () => {
  const [stdout, output] = pipe();
  const input = open("/dev/zero", O_RDONLY);
  using running = iocopy("--rate=1M --stats=json 0 1", { 0: input, 1: output });
  await stdout.readExactly(200 * 1024);
  running.kill("SIGTERM");
  await stdout.readAll();
  const { stderr } = await running.outcome;
  const { bytes, operations } = JSON.parse(stderr.split("\n")[0] ?? "");
  assert(operations / 2 <= bytes / 10_000, `${operations} operations for ${bytes} bytes`);
  stdout.close();
});

async function readBytes(end: End): Promise<number> {
  return (await end.readAll()).length;
}

Deno.test("--half-closed with plain pairs: one has ended and the others are silent", async () => {
  const [input, stdin] = pipe();
  const [stdout, output] = pipe();
  const [other, silent] = pipe();
  const [out, into] = pipe();
  using running = iocopy("--half-closed=0.1 0 1 6 7", { 0: input, 1: output, 6: other, 7: into });
  stdin.close();
  const { code, stderr } = await running.outcome;
  assertEquals([code, stderr], [111, "iocopy: half-closed: nothing moved for 0.1 s\n"]);
  for (const end of [stdout, silent, out]) end.close();
});

Deno.test("the library: a function chooses the target of each connection", KEEPS, async () => {
  const { Descriptor, serve } = await import("../engine.ts");
  const { target, port: to } = listenTcp();
  echo(target, "hello ");
  const port = freePort();
  const listener = Descriptor.listen(`127.0.0.1:${port}`);
  const stop = new AbortController();
  const peers: string[] = [];
  const ended = serve(listener, async (peer) => {
    peers.push(peer);
    if (peers.length === 2) throw new Error("not you");
    return await Descriptor.connect(`127.0.0.1:${to}`);
  }, { signal: stop.signal, yieldAfter: 1 });
  assertEquals(await ask(port, "world"), "hello world");
  assertEquals(await ask(port, "").catch(() => ""), "");
  assertEquals(await ask(port, "again"), "hello again");
  stop.abort();
  await ended;
  assertEquals(peers.length, 3);
  assertMatch(peers[0] ?? "", /^127\.0\.0\.1:\d+$/);
  target.close();
});

Deno.test(
  "the library: what a callback throws ends a service, whatever its target",
  KEEPS,
  async () => {
    const { Descriptor, serve } = await import("../engine.ts");
    const { target, port: to } = listenTcp();
    const address = `127.0.0.1:${to}`;
    for (const way of [address, () => Descriptor.connect(address)]) {
      const port = freePort();
      const thrown = new Error("enough");
      const onConnect = () => {
        throw thrown;
      };
      const ended = serve(Descriptor.listen(`127.0.0.1:${port}`), way, { onConnect })
        .catch((error) => error);
      const conn = await Deno.connect({ hostname: "127.0.0.1", port });
      assertEquals(await within("the end", ended), thrown);
      assertEquals(await within("the client's end", readAll(conn).catch(() => "")), "");
      conn.close();
    }
    target.close();
  },
);

Deno.test(
  "the library: what a callback throws while a service is drained leaves through run",
  KEEPS,
  async () => {
    const { Copier, Descriptor } = await import("../engine.ts");
    const { promise: accepted, resolve } = Promise.withResolvers<void>();
    const thrown = new Error("enough");
    const copier = new Copier([], { yieldAfter: 1 });
    const port = freePort();
    const one = Descriptor.listen(`127.0.0.1:${port}`);
    const other = Descriptor.listen(`127.0.0.2:${port}`);
    await copier.serve(one, other, {
      onAccept: () => resolve(),
      onEnd: () => {
        throw thrown;
      },
    });
    const ended = copier.run().catch((error) => error);
    const conn = await Deno.connect({ hostname: "127.0.0.1", port });
    await within("the client", accepted);
    copier.drain();
    assertEquals(await within("the end", ended), thrown);
    conn.close();
  },
);
