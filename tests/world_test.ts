/**
 * iocopy with the programs that it is made for: ucspi servers and clients by two
 * authors, socket activation, bash, ssh's ProxyCommand, HTTP; and what happens to a
 * tunnel when one of its processes is killed.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { readExactly, writeAll } from "./connections.ts";
import { DEADLINE, within } from "./probe.ts";
import { type Program, testWith, type Workshop } from "./programs.ts";
import { SSHD, startSshd } from "./sshd.ts";
import { joinMoonByExample } from "./tunnels.ts";
import { stop } from "./watching.ts";

/** When one process of a tunnel is killed, the others have to end within so many milliseconds. */
const PROMPTLY = 5000;

const UCSPI = ["tcpserver", "tcpclient"];

/** iocopy's exit status if the system refused something, such as writing to a peer that has gone. */
const REFUSED = 111;

/** Waits until a server prints its port (-1). */
async function listening(server: Program): Promise<{ server: Program; port: number }> {
  const [port] = await server.says(/^\d+$/);
  return { server, port: Number(port) };
}

/** Forwards a free port to `port`. */
function forward(shop: Workshop, port: number): Promise<{ server: Program; port: number }> {
  return listening(shop.start(shop.example("port-forward", "127.0.0.1", 0, "127.0.0.1", port)));
}

/** iocopy as an echo server, behind tcpserver. */
function echo(shop: Workshop): Promise<{ server: Program; port: number }> {
  const words = ["tcpserver", "-1", "-v", "-HRl0", "127.0.0.1", "0", shop.iocopy, "0", "1"];
  return listening(shop.start(words));
}

/** Sends a few words through a client and reads them back. */
async function chat(client: Program): Promise<void> {
  for (const word of ["hello", "are you there", "bye"]) {
    await client.tell(`${word}\n`);
    await client.says(new RegExp(`^${word}$`));
  }
  await client.hush();
  assertEquals(await client.ends(), 0, client.story);
}

function random(size: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(size);
  for (let at = 0; at < size; at += 65536) crypto.getRandomValues(bytes.subarray(at, at + 65536));
  return bytes;
}

testWith(UCSPI, "tcpserver: 20 connections at once, an iocopy each", async (shop) => {
  const { port: echoPort } = await echo(shop);
  const { server, port } = await forward(shop, echoPort);
  const connections: Deno.TcpConn[] = [];
  try {
    for (let i = 0; i < 20; i++) connections.push(await Deno.connect({ port }));
    // None ends before all were served: so all are open at the same time.
    await Promise.all(connections.map(async (connection, i) => {
      const greeting = new Uint8Array([i]);
      await writeAll(connection, greeting);
      const served = readExactly(connection, 1);
      // By then forty processes have started.
      assertEquals(await within(() => server.story, served, 4 * DEADLINE), greeting);
    }));
    await Promise.all(connections.map(async (connection) => {
      const sent = random(300_000);
      const received = readExactly(connection, sent.length + 1);
      await writeAll(connection, sent);
      await connection.closeWrite();
      // One more byte was asked for, so this is the end of file too.
      assertEquals(await within(() => server.story, received), sent);
    }));
  } finally {
    for (const connection of connections) connection.close();
  }
  for (let i = 0; i < 20; i++) assertEquals(await statusServed(server), 0, server.story);
  assert(server.lines.includes("tcpserver: status: 20/40"), server.story);
});

testWith(
  ["s6-ipcserver", "s6-ipcclient"],
  "s6-ipcserver and s6-ipcclient: iocopy on both ends of a unix socket",
  async (shop) => {
    const server = shop.start(["s6-ipcserver", "-v", "-1", "socket", shop.iocopy, "0", "1"]);
    await server.says(/^$/); // with -1 it prints an empty line when it listens
    const words = ["s6-ipcclient", "socket", shop.iocopy, "0", "7", "6", "1"];
    await chat(shop.start(words, { talks: true }));
    const [, status] = await server.says(/ end pid \d+ uid \d+ exitcode (\d+)$/);
    assertEquals(status, "0", server.story);
  },
);

testWith(
  ["systemd-socket-activate"],
  "socket activation: the connection is descriptor 3",
  async (shop) => {
    const env = ["PATH", "HOME", "DENO_DIR"].flatMap((name) => ["-E", name]);
    const words = ["systemd-socket-activate", "-a", ...env, "-l", shop.path("socket")];
    const server = shop.start([...words, shop.iocopy, "3", "3"]);
    await server.says(/^Listening on /);
    using connection = await Deno.connect({ transport: "unix", path: shop.path("socket") });
    const sent = random(100_000);
    const received = readExactly(connection, sent.length + 1);
    await writeAll(connection, sent);
    await connection.closeWrite();
    assertEquals(await within(() => server.story, received), sent);
    const [, status] = await server.says(/^Child \d+ died with code (\d+)$/);
    assertEquals(status, "0", server.story);
  },
);

testWith([...UCSPI, "bash"], "bash: /dev/tcp on 6 and 7", async (shop) => {
  const { port } = await echo(shop);
  const script = `exec 6<>/dev/tcp/127.0.0.1/${port} 7>&6; exec "$IOCOPY" 0 7 6 1`;
  await chat(shop.start(["bash", "-c", script], { talks: true }));
});

testWith([...UCSPI, ...SSHD, "scp"], "ssh and scp: iocopy as the ProxyCommand", async (shop) => {
  const sshd = await startSshd(shop);
  const ways = [
    `tcpclient 127.0.0.1 ${sshd.port} ./iocopy 0 7 6 1`,
    // ssh passes it to a shell, and the folder can have a blank in its name.
    shop.example("proxy-command", "%h", sshd.port).map((word) => `'${word}'`).join(" "),
  ];
  for (const way of ways) {
    const options = ["-F", sshd.config, "-o", `ProxyCommand=${way}`];
    const session = shop.start(["ssh", ...options, "127.0.0.1", "cat"], { talks: true });
    await chat(session);
    const complaints = session.lines.filter((line) => line.startsWith("iocopy: "));
    // ssh closes both of its pipes at the same time, which is not an error if nothing is lost.
    assertEquals(complaints, [], session.story);
    await Deno.writeFile(shop.path("somefile"), random(5_000_000));
    await shop.run("scp", ...options, "somefile", `127.0.0.1:${shop.path("copy")}`);
    await shop.run("cmp", "somefile", "copy");
    // Neither of them is left: sshd has seen both end.
    for (let i = 0; i < 2; i++) await statusServed(sshd.server);
  }
});

// ---- HTTP.

testWith(
  [...UCSPI, "curl", "python3"],
  "HTTP: downloads on one connection, kept alive",
  async (shop) => {
    Deno.mkdirSync(shop.path("www"));
    for (const name of ["a", "b"]) Deno.writeFileSync(shop.path(`www/${name}`), random(10_000_000));
    const python = ["python3", "-u", "-m", "http.server", "--protocol", "HTTP/1.1"];
    const http = shop.start([...python, "--bind", "127.0.0.1", "--directory", "www", "0"]);
    const [, httpPort] = await http.says(/ port (\d+)/);
    const { server, port } = await forward(shop, Number(httpPort));
    const url = `http://127.0.0.1:${port}`;
    const connects = await shop.run(
      ...["curl", "-sSf", "-w", "%{num_connects}\n"],
      ...["-o", "a", `${url}/a`, "-o", "b", `${url}/b`],
    );
    assertEquals(connects, "1\n0");
    for (const name of ["a", "b"]) await shop.run("cmp", name, `www/${name}`);
    assertEquals(await statusServed(server), 0, server.story);
  },
);

testWith([...UCSPI, "curl"], "HTTP: an upload that comes back as it goes", async (shop) => {
  await using http = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen: () => {} },
    (request) => new Response(request.body),
  );
  const { server, port } = await forward(shop, http.addr.port);
  await Deno.writeFile(shop.path("sent"), random(20_000_000));
  await shop.run("curl", "-sSf", "-T", "sent", "-o", "back", `http://127.0.0.1:${port}/`);
  await shop.run("cmp", "sent", "back");
  assertEquals(await statusServed(server), 0, server.story);
});

testWith(
  [...UCSPI, "curl"],
  "HTTP: the answer of a server that closes while the client still sends",
  async (shop) => {
    using http = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { server, port } = await forward(shop, http.addr.port);
    await Deno.writeFile(shop.path("sent"), random(50_000_000));
    for (let i = 0; i < 5; i++) {
      const words = ["curl", "-sS", "-T", "sent", "-H", "Expect:", "-w", "%{http_code}"];
      const curl = shop.start([...words, `http://127.0.0.1:${port}/`]);
      using connection = await within(() => server.story, http.accept());
      await readExactly(connection, 20_000);
      // Were it awake between the answer and the end, curl could be the first to end.
      const pid = await pidServing(server);
      await stop(pid);
      const answer =
        "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 9\r\n\r\ntoo large";
      await writeAll(connection, new TextEncoder().encode(answer));
      connection.close(); // with most of it unread: TCP resets the connection
      Deno.kill(pid, "SIGCONT");
      await curl.ends();
      assertEquals(curl.lines, ["too large413"], curl.story);
      assertEquals(await statusServed(server), REFUSED, server.story);
    }
  },
);

// ---- One process of a tunnel is killed while a session floods it.

const MURDERS = [
  ["the source's ssh", "SIGTERM"],
  ["the source's ssh", "SIGKILL"],
  ["moon's iocopy", "SIGTERM"],
  ["moon's iocopy", "SIGKILL"],
  ["the destination's iocopy", "SIGTERM"],
  ["the destination's iocopy", "SIGKILL"],
  ["sshd", "SIGTERM"],
] as const;

for (const [victim, signal] of MURDERS) {
  testWith([...UCSPI, ...SSHD], `moon: ${signal} to ${victim} ends all`, async (shop) => {
    const sshd = await startSshd(shop);
    const { moon, destination, port } = await joinMoonByExample(shop, sshd.port);
    const flood = "echo begun >&2; exec cat /dev/zero";
    const ssh = `exec ssh -F ${sshd.config} -p ${port} 127.0.0.1 '${flood}' > /dev/null`;
    const source = shop.start(["sh", "-c", ssh]);
    await source.says(/^begun$/);
    const pid = {
      "the source's ssh": source.pid,
      // moon has a sh between tcpserver and iocopy.
      "moon's iocopy": childOf(await pidServing(moon)),
      "the destination's iocopy": destination.pid,
      "sshd": await pidServing(sshd.server),
    };
    Deno.kill(pid[victim], signal);

    const statuses: Record<typeof victim, number> = {
      "the source's ssh": await source.ends(PROMPTLY),
      "moon's iocopy": await statusOnMoon(moon),
      "the destination's iocopy": await destination.ends(PROMPTLY),
      "sshd": await statusServed(sshd.server),
    };
    for (const iocopy of ["moon's iocopy", "the destination's iocopy"] as const) {
      const killed = 128 + { SIGTERM: 15, SIGKILL: 9 }[signal];
      const statusesOf = iocopy === victim ? [killed] : [0, REFUSED];
      assert(statusesOf.includes(statuses[iocopy]), `${iocopy} ended with ${statuses[iocopy]}`);
    }
    // moon is ready for the next session.
    await moon.says(/^tcpserver: status: 0\/1$/, PROMPTLY);
  });
}

/** The process that a tcpserver has started for its latest connection. */
async function pidServing(server: Program): Promise<number> {
  const [, pid] = await server.says(/^tcpserver: pid (\d+) /);
  return Number(pid);
}

async function statusOnMoon(moon: Program): Promise<number> {
  const [, status] = await moon.says(/^moon: .* with status (\d+)$/, PROMPTLY);
  return Number(status);
}

async function statusServed(server: Program): Promise<number> {
  const [, status] = await server.says(/^tcpserver: end \d+ status (\d+)$/, PROMPTLY);
  return Number(status) >> 8; // tcpserver prints what waitpid(2) gave it
}

function childOf(pid: number): number {
  return Number(Deno.readTextFileSync(`/proc/${pid}/task/${pid}/children`).trim());
}
