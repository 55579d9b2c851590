/** examples/tcpforward.ts, run from source and compiled. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { readAll, readText, retrying, writeAll } from "./connections.ts";
import { ROOT } from "./harness.ts";
import { freePort, testWith, type Workshop } from "./programs.ts";
import { within } from "./probe.ts";

const SOURCE = [
  Deno.execPath(),
  "run",
  "--allow-ffi",
  "--no-prompt",
  `${ROOT}/examples/tcpforward.ts`,
];

testWith([], "tcpforward forwards a port, and reports it with -v", async (shop) => {
  await forwards(shop, SOURCE);
});

testWith([], "tcpforward's addresses can be names", async (shop) => {
  await forwards(shop, SOURCE, "localhost");
});

testWith(
  [],
  "tcpforward: wrong use is one line and 100, an error of the system one line and 111",
  async (shop) => {
    const { target, port } = listen();
    const lines: [args: string[], status: number, line: RegExp][] = [
      [[], 100, /^tcpforward: usage: /],
      [["-l", "127.0.0.1:0"], 100, /^tcpforward: usage: /],
      [["-x"], 100, /^tcpforward: usage: /],
      [["-l", "localhost", "-c", "127.0.0.1:1"], 100, /^tcpforward: "localhost" is not /],
      [["-l", "::1:0", "-c", "127.0.0.1:1"], 100, /^tcpforward: "::1:0" is not /],
      [["-l", "127.0.0.1:0", "-c", "nowhere"], 100, /^tcpforward: "nowhere" is not /],
      [
        ["-l", `127.0.0.1:${port}`, "-c", "127.0.0.1:1"],
        111,
        /^tcpforward: .*Address already in use$/,
      ],
      [["-l", "nosuch.invalid:1", "-c", "127.0.0.1:1"], 111, /^tcpforward: .*nosuch\.invalid:1: ./],
    ];
    for (const [args, status, line] of lines) {
      const program = shop.start([...SOURCE, ...args]);
      assertEquals([await program.ends(), program.lines.length], [status, 1], program.story);
      assertMatch(program.lines[0] ?? "", line);
    }
    target.close();
  },
);

testWith([], "tcpforward reports a target that refuses, without -v, too", async (shop) => {
  const [port, nobody] = [freePort(), freePort()];
  const program = shop.start([...SOURCE, "-l", `127.0.0.1:${port}`, "-c", `127.0.0.1:${nobody}`]);
  const conn = await retrying(() => Deno.connect({ hostname: "127.0.0.1", port }));
  assertEquals(await within("the end", readAll(conn)), "");
  conn.close();
  await program.says(/^tcpforward: #1 \S+: 127.0.0.1:\d+: Connection refused, 0 bytes/);
  Deno.kill(program.pid, "SIGTERM");
  assertEquals([await program.ends(), program.lines.length], [0, 1], program.story);
});

// If nothing can be downloaded, DENORT_BIN is the path of the base binary.
const canCompile = Deno.env.has("DENORT_BIN") || Deno.env.has("CI");

Deno.test({
  name: "tcpforward is compiled by one command" +
    (canCompile ? "" : " SKIPPED: set the variable DENORT_BIN, and DENO_COMPILE (doc/offline.md)"),
  ignore: !canCompile,
  fn: async () => {
    await using shop = new (await import("./programs.ts")).Workshop();
    const deno = Deno.env.get("DENO_COMPILE") ?? Deno.execPath();
    const output = shop.path("tcpforward");
    const words = ["compile", "--quiet", "--allow-ffi", "-o", output, "examples/tcpforward.ts"];
    const { success, stderr } = await new Deno.Command(deno, { args: words, cwd: ROOT }).output();
    assert(success, new TextDecoder().decode(stderr));
    await forwards(shop, [output]);
  },
});

function listen(): { target: Deno.TcpListener; port: number } {
  const target = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return { target, port: target.addr.port };
}

async function forwards(
  shop: Workshop,
  command: readonly string[],
  host = "127.0.0.1",
): Promise<void> {
  const { target, port: to } = listen();
  const port = freePort();
  const words = ["-v", "-l", `${host}:${port}`, "-c", `${host}:${to}`];
  const program = shop.start([...command, ...words]);
  const conn = await retrying(() => Deno.connect({ hostname: host, port }));
  await writeAll(conn, "there");
  await conn.closeWrite();
  const other = await within("a connection", target.accept());
  assertEquals(await within("the bytes", readAll(other)), "there");
  await writeAll(other, "back");
  other.close();
  assertEquals(await within("the answer", readText(conn, 4)), "back");
  conn.close();
  await program.says(/^tcpforward: #1 \S+:\d+: connected to \S+:\d+, 0 bytes/);
  await program.says(/^tcpforward: #1 .*: eof, 5 bytes sent, 4 received$/);
  Deno.kill(program.pid, "SIGTERM");
  assertEquals(await program.ends(), 0, program.story);
  target.close();
}
