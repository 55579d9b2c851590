/** examples/services: the units of systemd and the run scripts of s6, with other ports. */
import { assert, assertEquals } from "@std/assert";
import { denoDir, ROOT } from "./harness.ts";
import { freePort, testWith, type Workshop } from "./programs.ts";
import { readAll, readText, retrying, writeAll } from "./connections.ts";
import { within } from "./probe.ts";
import { pause } from "./watching.ts";

const SERVICES = ["freedom", "gateway", "moon"];

function text(name: string): string {
  return Deno.readTextFileSync(`${ROOT}/examples/services/${name}`);
}

/** A target that sends back what it receives. */
function echo(): Deno.TcpListener {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  (async () => {
    for await (const conn of listener) conn.readable.pipeTo(conn.writable).catch(() => {});
  })().catch(() => {});
  return listener;
}

/** The command of a service, with another target. */
function aimed(words: string, target: Deno.TcpListener): string {
  return words.replace(/(production|127\.0\.0\.1):22\b/, `127.0.0.1:${target.addr.port}`);
}

testWith(["systemd-analyze"], "systemd finds no fault with the units", async (shop) => {
  const files = SERVICES.flatMap((name) => [`${name}.socket`, `${name}.service`]);
  for (const file of files) {
    // The program has to exist, and iocopy may not be installed: true(1) is found in the same way.
    const here = text(file).replace(/^ExecStart=iocopy /m, "ExecStart=true ");
    await Deno.writeTextFile(shop.path(file), here);
  }
  const paths = files.map((file) => shop.path(file));
  assertEquals(
    await shop.run("sh", "-c", 'systemd-analyze verify --man=no "$@" 2>&1', "sh", ...paths),
    "",
  );
});

testWith(["systemd-socket-activate"], "the commands of the units work", async (shop) => {
  using target = echo();
  for (const name of SERVICES) {
    const ports = [...text(`${name}.socket`).matchAll(/^ListenStream=/gm)].map(() => freePort());
    const [, command = ""] = /^ExecStart=iocopy (.+)$/m.exec(text(`${name}.service`)) ?? [];
    const listens = ports.flatMap((port) => ["-l", `127.0.0.1:${port}`]);
    const passed = `DENO_DIR=${await denoDir()}`;
    const binder = ["systemd-socket-activate", "-E", passed, ...listens];
    const program = shop.start([...binder, shop.iocopy, ...aimed(command, target).split(" ")]);
    for (const _ of ports) await program.says(/^Listening on /);
    const connect = (port = 0) => Deno.connect({ hostname: "127.0.0.1", port });
    await meets(connect, ports);
    await program.dispose();
  }
});

testWith(["s6-ipcserver-socketbinder"], "the run scripts work", async (shop) => {
  using target = echo();
  // Debian does not have s6-tcpserver-socketbinder, so the one for unix sockets replaces
  // it, with the port as the path; and so does a script for s6-setuidgid, which needs root.
  await script(shop, "s6-tcpserver-socketbinder", 'shift; exec s6-ipcserver-socketbinder "$@"');
  await script(shop, "s6-setuidgid", 'shift; exec "$@"');
  await Deno.copyFile(`${ROOT}/examples/services/hold`, shop.path("hold"));
  for (const name of SERVICES) {
    const ports = [...text(`${name}.run`).matchAll(/socketbinder \S+ (\d+)/g)].map(([, port]) =>
      port
    );
    const run = shop.path(`${name}.run`);
    await Deno.writeTextFile(run, aimed(text(`${name}.run`), target), { mode: 0o755 });
    const path = `${shop.folder}:${Deno.env.get("PATH")}`;
    const program = shop.start([run], { env: { PATH: path, DENO_DIR: await denoDir() } });
    await meets(
      (port = "") => retrying(() => Deno.connect({ transport: "unix", path: shop.path(port) })),
      ports,
    );
    await program.dispose();
    for (const port of ports) await Deno.remove(shop.path(port ?? ""));
  }
});

testWith(
  ["s6-ipcserver-socketbinder"],
  "hold restarts without losing a connection",
  async (shop) => {
    using target = echo();
    const hold = `${ROOT}/examples/services/hold`;
    const command = [shop.iocopy, "v", "3", `127.0.0.1:${target.addr.port}`];
    const program = shop.start(["s6-ipcserver-socketbinder", shop.path("door"), hold, ...command], {
      env: { DENO_DIR: await denoDir() },
    });
    const connect = () => Deno.connect({ transport: "unix", path: shop.path("door") });
    const session = await retrying(connect);
    await program.says(/#1: connected to/);
    const children = () => {
      const text = Deno.readTextFileSync(`/proc/${program.pid}/task/${program.pid}/children`);
      return text.trim().split(" ").length;
    };
    Deno.kill(program.pid, "SIGHUP");
    while (children() < 2) await pause(0);
    // The new process does not catch it yet.
    Deno.kill(program.pid, "SIGUSR2");
    // Those that come meanwhile are served by the old process, or else are the first of the new one.
    for (;;) {
      using conn = await connect();
      await passes(conn);
      const [, id] = await program.says(/#(\d+): connected to/);
      if (id === "1") break;
    }
    await passes(session);
    Deno.kill(program.pid, "SIGTERM");
    assertEquals(await program.ends(), 0);
    assertEquals(await within("the end", readAll(session)), "");
    session.close();
  },
);

async function passes(conn: Deno.Conn): Promise<void> {
  await writeAll(conn, "hello");
  assertEquals(await within("the answer", readText(conn, 5)), "hello");
}

/** Passes bytes from one end to the other: to the echo, or to a connection to the second port. */
async function meets<P>(connect: (port?: P) => Promise<Deno.Conn>, ports: P[]): Promise<void> {
  const [user, server] = [await connect(ports[0]), ports[1] && await connect(ports[1])];
  await writeAll(user, "hello");
  if (server) {
    assertEquals(await within("the bytes", readText(server, 5)), "hello");
    await writeAll(server, "hello");
    server.close();
  }
  assertEquals(await within("the answer", readText(user, 5)), "hello");
  if (server) assertEquals(await within("the end", readAll(user)), "");
  assert(ports.length <= 2);
  user.close();
}

async function script(shop: Workshop, name: string, words: string): Promise<void> {
  await Deno.writeTextFile(shop.path(name), `#!/bin/sh\n${words}\n`, { mode: 0o755 });
}
