/** Serving with real programs: some that bind the socket, and some as targets. */
import { assertEquals, assertMatch } from "@std/assert";
import { serving } from "./ends.ts";
import { denoDir } from "./harness.ts";
import { find, freePort, testWith, type Workshop } from "./programs.ts";
import { SSHD, startSshd } from "./sshd.ts";
import { iocopy, within } from "./probe.ts";

/** nginx with a page, and a page with the client's address; on a port for HTTP, and on one for the PROXY protocol. */
async function startNginx(shop: Workshop): Promise<{ http: number; proxied: number }> {
  const [http, proxied] = [freePort(), freePort()];
  await Deno.writeTextFile(shop.path("index.html"), "a page\n");
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    .map((name) => `${name}_temp_path "${shop.path(name)}";`);
  await Deno.writeTextFile(
    shop.path("nginx.conf"),
    `daemon off; worker_processes 1; pid "${shop.path("pid")}"; error_log stderr notice;
    events { worker_connections 512; }
    http {
      ${temporary.join(" ")} access_log off;
      server {
        listen 127.0.0.1:${http}; listen 127.0.0.1:${proxied} proxy_protocol;
        root "${shop.folder}";
        location = /who { return 200 "$proxy_protocol_addr:$proxy_protocol_port\\n"; }
      }
    }`,
  );
  await Deno.chmod(shop.folder, 0o755); // started by root, its worker runs as another user
  const nginx = shop.start([find("nginx") ?? "", "-c", shop.path("nginx.conf"), "-p", shop.folder]);
  await nginx.says(/start worker process \d/);
  return { http, proxied };
}

/** iocopy started by systemd-socket-activate at the first connection. Returns the port. */
async function activate(shop: Workshop, ...args: string[]): Promise<number> {
  const port = freePort();
  const passed = `DENO_DIR=${await denoDir()}`;
  const binder = ["systemd-socket-activate", "-E", passed, "-l", `127.0.0.1:${port}`];
  const program = shop.start([...binder, shop.iocopy, ...args]);
  await program.says(/^Listening on /);
  return port;
}

testWith(
  ["systemd-socket-activate", "nginx", "curl"],
  "systemd binds the socket, nginx is the target, with and without the PROXY protocol",
  async (shop) => {
    const { http, proxied } = await startNginx(shop);
    const plain = await activate(shop, "3", `127.0.0.1:${http}`);
    assertEquals(await shop.run("curl", "-sS", `http://127.0.0.1:${plain}/index.html`), "a page");
    for (const version of [1, 2]) {
      const target = `127.0.0.1:${proxied}`;
      const port = await activate(shop, `--proxy-protocol=${version}`, "3", target);
      const from = String(freePort());
      const words = ["curl", "-sS", "--local-port", from, `http://127.0.0.1:${port}/who`];
      assertEquals(await shop.run(...words), `127.0.0.1:${from}`);
    }
  },
);

/** haproxy, which answers with the client's address at a port for the PROXY protocol. Returns the port. */
async function startHaproxy(shop: Workshop): Promise<number> {
  const port = freePort();
  const config = [
    "defaults",
    "  mode http",
    "  timeout client 10s",
    "frontend f",
    `  bind 127.0.0.1:${port} accept-proxy`,
    '  http-request return status 200 content-type text/plain lf-string "%[src]:%[src_port]"',
  ];
  await Deno.writeTextFile(shop.path("haproxy.cfg"), config.join("\n") + "\n");
  shop.start([find("haproxy") ?? "", "-db", "-f", shop.path("haproxy.cfg")]);
  return port;
}

testWith(
  ["systemd-socket-activate", "haproxy", "curl"],
  "haproxy accepts the PROXY protocol's header",
  async (shop) => {
    const behind = await startHaproxy(shop);
    for (const version of [1, 2]) {
      const target = `127.0.0.1:${behind}`;
      const port = await activate(shop, `--proxy-protocol=${version}`, "3", target);
      const from = String(freePort());
      const retry = ["--retry", "50", "--retry-all-errors", "--retry-delay", "1"];
      const words = ["curl", "-sS", ...retry, "--local-port", from, `http://127.0.0.1:${port}/`];
      assertEquals((await shop.run(...words)).split("\n").at(-1), `127.0.0.1:${from}`);
    }
  },
);

testWith(
  ["s6-ipcserver-socketbinder", "haproxy", "curl"],
  "haproxy accepts the PROXY protocol's header of a client of a unix socket",
  async (shop) => {
    const target = `127.0.0.1:${await startHaproxy(shop)}`;
    for (const version of [1, 2]) {
      const path = shop.path(`socket${version}`);
      const option = `--proxy-protocol=${version}`;
      shop.start(["s6-ipcserver-socketbinder", path, shop.iocopy, option, "0", target]);
      const retry = ["--retry", "50", "--retry-all-errors", "--retry-delay", "1"];
      const words = ["curl", "-sS", ...retry, "--unix-socket", path, "http://localhost/"];
      // It has no address: haproxy takes that of the connection.
      assertMatch((await shop.run(...words)).split("\n").at(-1) ?? "", /^127\.0\.0\.1:\d+$/);
    }
  },
);

testWith(
  ["s6-ipcserver-socketbinder", "nginx", "curl"],
  "s6 binds a unix socket",
  async (shop) => {
    const { http } = await startNginx(shop);
    const path = shop.path("socket");
    shop.start(["s6-ipcserver-socketbinder", path, shop.iocopy, "0", `127.0.0.1:${http}`]);
    const retry = ["--retry", "50", "--retry-all-errors", "--retry-delay", "1"];
    const words = ["curl", "-sS", ...retry, "--unix-socket", path, "http://localhost/index.html"];
    assertEquals((await shop.run(...words)).split("\n").at(-1), "a page");
  },
);

testWith(["inetd", "nginx", "curl"], "inetd in wait mode, several times", async (shop) => {
  const { http } = await startNginx(shop);
  const port = freePort();
  const user = new TextDecoder().decode(
    new Deno.Command("id", { args: ["-un"] }).outputSync().stdout,
  ).trim();
  const words = `${shop.iocopy} iocopy --exit-idle=0.2 0 127.0.0.1:${http}`;
  await Deno.writeTextFile(
    shop.path("inetd.conf"),
    `127.0.0.1:${port} stream tcp wait ${user} ${words}\n`,
  );
  const env = { DENO_DIR: await denoDir() };
  shop.start([find("inetd") ?? "", "-i", shop.path("inetd.conf")], { env });
  const retry = ["--retry", "50", "--retry-all-errors", "--retry-delay", "1"];
  for (let i = 0; i < 3; i++) {
    const url = `http://127.0.0.1:${port}/index.html`;
    assertEquals((await shop.run("curl", "-sS", ...retry, url)).split("\n").at(-1), "a page");
  }
});

testWith(
  [...SSHD, "rsync", "systemd-socket-activate"],
  "ssh and rsync through a service",
  async (shop) => {
    const sshd = await startSshd(shop);
    const port = await activate(shop, "3", `127.0.0.1:${sshd.port}`);
    const shell = `ssh -F '${sshd.config}' -p ${port}`;
    await Deno.mkdir(shop.path("tree"));
    for (let i = 0; i < 100; i++) {
      await Deno.writeTextFile(shop.path(`tree/${i}`), `${i}\n`.repeat(i * 100));
    }
    const to = `127.0.0.1:${shop.path("copy").replaceAll(" ", "\\ ")}`;
    await shop.run("rsync", "-a", "-e", shell, `${shop.path("tree")}/`, to);
    assertEquals(await shop.run("diff", "-r", shop.path("tree"), shop.path("copy")), "");
  },
);

testWith(["ab", "nginx", "curl"], "a rolling restart loses no connection", async (shop) => {
  const { http } = await startNginx(shop);
  const { listener, port } = serving();
  const args = `-v 3 127.0.0.1:${http}`;
  // As with systemd and s6, both have the socket: the old one ends, the new one goes on.
  using old = iocopy(args, { 3: listener.duplicate() });
  const url = `http://127.0.0.1:${port}/index.html`;
  assertEquals(await shop.run("curl", "-sS", url), "a page");
  const load = shop.start(["ab", "-q", "-n", "4000", "-c", "20", url]);
  using next = iocopy(args, { 3: listener });
  old.kill("SIGHUP");
  const { code } = await within("the old one's end", old.outcome);
  await load.ends();
  assertEquals(await shop.run("curl", "-sS", url), "a page");
  next.kill("SIGHUP");
  const ended = await within("the new one's end", next.outcome);
  assertEquals([code, ended.code], [0, 0]);
  assertMatch(load.story, /Complete requests: +4000\n/);
  assertMatch(load.story, /Failed requests: +0\n/);
  assertMatch(ended.stderr, /accepted from/);
});
