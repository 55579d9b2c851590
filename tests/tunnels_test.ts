/**
 * The three tunnels, with the real programs: the scripts in examples/, and the
 * commands in doc/tunnels.md exactly as shown.
 *
 * tcpserver reports how each of its children ended. On the destination, the script's
 * exit status is iocopy's, since tcpclient and sh are replaced by iocopy (exec).
 *
 * @module
 */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { resolve } from "node:path";
import { strangeLines, testWith, type Workshop } from "./programs.ts";
import { SSHD, type Sshd, startSshd } from "./sshd.ts";
import {
  asWritten,
  endsWell,
  hasJoined,
  joinMoonAsWritten,
  joinMoonByExample,
  SOON,
} from "./tunnels.ts";

const NEEDED = [...SSHD, "tcpclient"];

function ssh({ config }: Sshd, port: number, ...words: string[]): string[] {
  return ["ssh", "-F", config, "-p", String(port), "127.0.0.1", ...words];
}

/** A session as a person has it: a question, its answer, the next question. */
async function converse(shop: Workshop, sshd: Sshd, port: number): Promise<void> {
  const session = shop.start(ssh(sshd, port, "sh"), { talks: true });
  for (let i = 0; i < 200; i++) {
    await session.tell(`echo ${i} squared is $((${i} * ${i}))\n`);
    await session.says(new RegExp(`^${i} squared is ${i * i}$`));
  }
  await session.tell("exit 7\n");
  assertEquals(await session.ends(), 7, session.story);
}

testWith(NEEDED, "moon: a conversation by ssh, twice", async (shop) => {
  const sshd = await startSshd(shop);
  const { moon, destination, port } = await joinMoonByExample(shop, sshd.port);
  for (let session = destination, last = false;; last = true) {
    await converse(shop, sshd, port);
    assertEquals(await session.ends(SOON), 0, session.story);
    assertEquals(strangeLines(session), [], session.story);
    await moon.says(/^moon: the session has ended, iocopy with status 0$/, SOON);
    await endsWell(moon);
    if (last) break;
    session = shop.start(destination.words);
    assert(await hasJoined(moon), moon.story);
  }
});

testWith([...NEEDED, "pkill"], "moon: after SIGTERM nothing listens any more", async (shop) => {
  const sshd = await startSshd(shop);
  const { moon, port } = await joinMoonByExample(shop, sshd.port);
  (await Deno.connect({ hostname: "127.0.0.1", port: sshd.port })).close(); // the port is open
  Deno.kill(moon.pid, "SIGTERM");
  await moon.ends(); // and everything that it started: its standard error is closed
  await assertRejects(
    () => Deno.connect({ hostname: "127.0.0.1", port }),
    Deno.errors.ConnectionRefused,
  );
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

  // `v` has reported every byte.
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
  // Names, modes and times too: with --checksum and --dry-run rsync lists what differs.
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

testWith(NEEDED, "moon, as doc/tunnels.md has it", async (shop) => {
  const sshd = await startSshd(shop);
  const { moon, destination, port } = await joinMoonAsWritten(shop, sshd.port);
  assertEquals(await shop.run(...ssh(sshd, port, "echo", "there")), "there");
  assertEquals(await destination.ends(SOON), 0, destination.story);
  await endsWell(moon);
});

testWith(NEEDED, "gateway and freedom, as doc/tunnels.md has them", async (shop) => {
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

/** Arguments for each example. */
const EXAMPLES = {
  moon: ["listen", "0", "1", "2"],
  gateway: ["0", "1", "host", "2"],
  freedom: ["0", "1"],
  "port-forward": ["0", "1", "host", "2"],
  "proxy-command": ["host", "1"],
};

for (const [name, args] of Object.entries(EXAMPLES)) {
  testWith(
    [],
    `${name}: prints its usage, refuses wrong use, names what is missing`,
    async (shop) => {
      const says = async (status: number, beginning: string, args: string[], env = {}) => {
        const example = shop.start(shop.example(name, ...args), { env });
        assertEquals(await example.ends(), status, example.story);
        assert(example.lines[0]?.startsWith(beginning), example.story);
      };
      await says(0, `usage: ${name} `, ["--help"]);
      await says(100, `usage: ${name} `, []);
      await says(100, `usage: ${name} `, ["one word is too few"]);
      const env = { PATH: shop.path("bin"), IOCOPY: "no/iocopy" };
      Deno.mkdirSync(env.PATH);
      const first = name === "proxy-command" ? "tcpclient" : "tcpserver";
      await says(111, `${name}: ${first} not found: install ucspi-tcp`, args, env);
      for (const program of ["tcpserver", "tcpclient"]) {
        Deno.writeTextFileSync(`${env.PATH}/${program}`, "#!/bin/sh\n", { mode: 0o755 });
      }
      await says(111, `${name}: no/iocopy not found: put it on PATH`, args, env);
    },
  );
}
