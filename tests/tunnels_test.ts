/**
 * The three tunnels, with the real programs: the scripts in examples/, and the
 * commands in README.md as they stand there.
 *
 * Nobody has to look for the processes: tcpserver says how each of its children
 * has ended, and on the destination it is iocopy's own status that the script
 * ends with, as tcpclient and sh become iocopy by exec.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { resolve } from "node:path";
import { ROOT } from "./harness.ts";
import { find, freePort, type Program, strangeLines, testWith, type Workshop } from "./programs.ts";
import { SSHD, type Sshd, startSshd } from "./sshd.ts";

const NEEDED = [...SSHD, "tcpclient", "setsid"];

/** How soon after the session each iocopy has to end, in milliseconds. */
const SOON = 1000;

/** Waits for tcpserver to say that its child has ended, and looks at the status. */
async function endsWell(server: Program): Promise<void> {
  const [, status] = await server.says(/^tcpserver: end \d+ status (\d+)/, SOON);
  assertEquals(status, "0", server.story);
  await server.says(/^tcpserver: status: 0/);
  assertEquals(strangeLines(server), [], server.story);
}

function ssh({ config }: Sshd, port: number, ...words: string[]): string[] {
  return ["ssh", "-F", config, "-p", String(port), "127.0.0.1", ...words];
}

/** A session as a person has it: something is asked, and the answer read before the next. */
async function converse(shop: Workshop, sshd: Sshd, port: number): Promise<void> {
  const session = shop.start(ssh(sshd, port, "sh"), { talks: true });
  for (let i = 0; i < 200; i++) {
    await session.tell(`echo ${i} squared is $((${i} * ${i}))\n`);
    await session.says(new RegExp(`^${i} squared is ${i * i}$`));
  }
  await session.tell("exit 7\n");
  assertEquals(await session.ends(), 7, session.story);
}

/** The two halves of "moon", joined. */
interface Moon {
  moon: Program;
  destination: Program;
  port: number;
}

/** Starts both halves; on other ports where somebody was quicker. */
async function joinMoon(
  shop: Workshop,
  moonWords: (port1: number, port2: number) => readonly string[],
  destinationWords: (port1: number) => readonly string[],
): Promise<Moon> {
  for (;;) {
    const port2 = freePort();
    const { server: moon, port: port1 } = await shop.listen((port) => moonWords(port, port2));
    const destination = shop.start(destinationWords(port1));
    if (await hasJoined(moon)) return { moon, destination, port: port2 };
  }
}

/** Whether the inner tcpserver listens, on a port that was free when it was chosen. */
async function hasJoined(moon: Program): Promise<boolean> {
  await moon.says(/^tcpserver: ok /);
  const [said] = await moon.says(/^tcpserver: (status: 0|fatal.*address already used)/);
  return said.includes("status");
}

testWith(NEEDED, "moon: a conversation by ssh, twice", async (shop) => {
  const sshd = await startSshd(shop);
  const join = (port: number) =>
    shop.example("moon", "join", "127.0.0.1", port, "127.0.0.1", sshd.port);
  const { moon, destination, port } = await joinMoon(
    shop,
    (port1, port2) => shop.example("moon", "listen", "127.0.0.1", port1, port2),
    join,
  );
  const port1 = Number(moon.words[4]);
  for (let session = destination, last = false;; last = true) {
    await converse(shop, sshd, port);
    assertEquals(await session.ends(SOON), 0, session.story);
    assertEquals(strangeLines(session), [], session.story);
    await moon.says(/^moon: the session has ended, iocopy with status 0$/, SOON);
    await endsWell(moon);
    if (last) break;
    session = shop.start(join(port1));
    assert(await hasJoined(moon), moon.story);
  }
});

testWith([...NEEDED, "scp"], "gateway: scp of 50 MB", async (shop) => {
  const sshd = await startSshd(shop);
  const { server: gateway, port } = await shop.listen((port) =>
    shop.example("gateway", "127.0.0.1", port, "127.0.0.1", sshd.port)
  );
  const size = 50_000_000;
  await shop.run("sh", "-c", `head -c ${size} /dev/urandom > somefile`);
  const target = `127.0.0.1:${shop.path("copy")}`;
  await shop.run("scp", "-F", sshd.config, "-o", `Port=${port}`, "somefile", target);
  await endsWell(gateway);
  await shop.run("cmp", "somefile", "copy");

  // What `v` says is what has moved.
  const moved = (operation: string) =>
    gateway.lines.filter((line) => line.startsWith(`iocopy: ${operation} `))
      .reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
  assert(moved("0 >") > size, gateway.story);
  assertEquals(moved("7 <"), moved("0 >"));
  assertEquals(moved("1 <"), moved("6 >"));
});

testWith([...NEEDED, "rsync"], "gateway: rsync of a tree of 400 files", async (shop) => {
  const sshd = await startSshd(shop);
  const { server: gateway, port } = await shop.listen((port) =>
    shop.example("gateway", "127.0.0.1", port, "127.0.0.1", sshd.port)
  );
  for (let i = 0; i < 400; i++) {
    const folder = shop.path(`somedir/${i % 7}/${i % 3}`);
    Deno.mkdirSync(folder, { recursive: true });
    const content = crypto.getRandomValues(new Uint8Array(i * i % 5000));
    Deno.writeFileSync(resolve(folder, `file ${i}`), content, { mode: i % 2 ? 0o600 : 0o755 });
  }
  const rsync = ["rsync", "-e", `ssh -F ${sshd.config} -p ${port}`, "-avzp"];
  const target = `127.0.0.1:${shop.path("copy")}/`;
  await shop.run(...rsync, "somedir/", target);
  await endsWell(gateway);
  await shop.run("diff", "-r", "somedir", "copy");
  // Names, modes and times too: with --checksum and --dry-run it says what differs.
  const differs = await shop.run("rsync", "-anic", "--delete", "somedir/", "copy/");
  assertEquals(differs, "");
  // Through the same gateway again, and back.
  await shop.run(...rsync, target, "back/");
  await endsWell(gateway);
  await shop.run("diff", "-r", "somedir", "back");
});

testWith(NEEDED, "freedom: a conversation by ssh", async (shop) => {
  const sshd = await startSshd(shop);
  const { server: freedom, port } = await shop.listen((port) =>
    shop.example("freedom", "127.0.0.1", port, "127.0.0.1", sshd.port)
  );
  await converse(shop, sshd, port);
  await endsWell(freedom);
});

/**
 * The command that README.md shows, with other addresses and ports: sh's words.
 *
 * As it is written it looks names up, for which a test cannot wait where there is
 * no DNS: so the programs it starts are put in front of the real ones, with `-HRl0`.
 */
function asWritten(
  shop: Workshop,
  beginning: string,
  other: Record<string, string | number>,
): string[] {
  const readme = Deno.readTextFileSync(resolve(ROOT, "README.md"));
  const blocks = [...readme.matchAll(/^```sh\n(.*?)^```/gms)].map(([, block = ""]) => block);
  let command = blocks.find((block) => block.startsWith(beginning)) ?? "";
  assert(command, `README.md shows no command that begins with: ${beginning}`);
  for (const [word, by] of Object.entries(other)) {
    const found = new RegExp(`(?<= )${word}(?= )`, "g");
    assert(found.test(command), `README.md: no ${word} in: ${command}`);
    command = command.replaceAll(found, String(by));
  }
  Deno.mkdirSync(shop.path("bin"), { recursive: true });
  for (const program of ["tcpserver", "tcpclient"]) {
    const script = `#!/bin/sh\nexec ${find(program)} -HRl0 "$@"\n`;
    Deno.writeTextFileSync(shop.path(`bin/${program}`), script, { mode: 0o755 });
  }
  return ["sh", "-c", `PATH='${shop.path("bin")}':$PATH; exec ${command}`];
}

testWith(NEEDED, "moon, as README.md has it", async (shop) => {
  const sshd = await startSshd(shop);
  const { moon, destination, port } = await joinMoon(
    shop,
    (port1, port2) =>
      asWritten(shop, "tcpserver -c 1 -v moon 9922", {
        moon: "127.0.0.1",
        9922: port1,
        9921: port2,
      }),
    (port1) =>
      asWritten(shop, "tcpclient -v moon 9922", { moon: "127.0.0.1", 9922: port1, 22: sshd.port }),
  );
  assertEquals(await shop.run(...ssh(sshd, port, "echo", "there")), "there");
  assertEquals(await destination.ends(SOON), 0, destination.story);
  await endsWell(moon);
});

testWith(NEEDED, "gateway and freedom, as README.md has them", async (shop) => {
  const sshd = await startSshd(shop);
  for (
    const [beginning, from, host] of [
      ["tcpserver -c 1 -v 0 9922", 9922, { production: "127.0.0.1" }],
      ["tcpserver -c 1 -v 0 443", 443, {}],
    ] as const
  ) {
    const { server, port } = await shop.listen((port) =>
      asWritten(shop, beginning, { ...host, [from]: port, 22: sshd.port })
    );
    assertEquals(await shop.run(...ssh(sshd, port, "echo", "there")), "there");
    await endsWell(server);
  }
});

const EXAMPLES = ["moon", "gateway", "freedom", "port-forward", "proxy-command"];

testWith(
  ["setsid"],
  "each example helps, refuses wrong use, and says what is missing",
  async (shop) => {
    const args: Record<string, string[]> = {
      moon: ["listen", "0", "1", "2"],
      gateway: ["0", "1", "host", "2"],
      freedom: ["0", "1"],
      "port-forward": ["0", "1", "host", "2"],
      "proxy-command": ["host", "1"],
    };
    for (const name of EXAMPLES) {
      assert(
        (await shop.run(...shop.example(name, "--help"))).startsWith(`usage: ${name} `),
        "--help begins with the usage",
      );
      const wrong = shop.start(shop.example(name, "one word is too few"));
      assertEquals(await wrong.ends(), 100, wrong.story);
      assertEquals(wrong.lines[0]?.startsWith(`usage: ${name} `), true, wrong.story);

      const words = shop.example(name, ...args[name] ?? []);
      const sh = Deno.realPathSync("/bin/sh");
      const bare = shop.start([sh, ...words.slice(1)], { env: { PATH: shop.folder } });
      assertEquals(await bare.ends(), 111, bare.story);
      assert(/ is not here: install ucspi-tcp$/.test(bare.lines[0] ?? ""), bare.story);

      for (const program of ["tcpserver", "tcpclient"]) {
        Deno.writeTextFileSync(shop.path(program), "#!/bin/sh\n", { mode: 0o755 });
      }
      const env = { PATH: shop.folder, IOCOPY: "/nowhere/iocopy" };
      const without = shop.start([sh, ...words.slice(1)], { env });
      assertEquals(await without.ends(), 111, without.story);
      assert(
        /\/nowhere\/iocopy is not here: put it on PATH/.test(without.lines[0] ?? ""),
        without.story,
      );
      for (const program of ["tcpserver", "tcpclient"]) Deno.removeSync(shop.path(program));
    }
  },
);
