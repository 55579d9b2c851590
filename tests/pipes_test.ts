/** How pipes grow: inherited ones, and those of the process. */
import { assertEquals } from "@std/assert";
import { release } from "../sys/libc.ts";
import { wakesWriters } from "../sys/pipe.ts";
import { type End, pipe, tcpPair } from "./ends.ts";
import { COMMAND } from "./harness.ts";
import { iocopy, within } from "./probe.ts";

const SYSTEMS = 65536;
/** The final capacity of a busy inherited pipe, which depends on the kernel. */
const LARGE = wakesWriters(release()) ? 524288 : SYSTEMS;

/** Copies so much between two pipes made by a shell; returns what iocopy reports of them. */
async function pipesOf(options: string, bytes: string): Promise<unknown> {
  const script = `head -c ${bytes} /dev/zero | "$@" --stats=json 0 1 | cat >/dev/null`;
  const args = ["-c", script, "sh", ...COMMAND, ...options.split(" ").filter(Boolean)];
  const { stderr } = await new Deno.Command("sh", { args, stderr: "piped" }).output();
  const [channel = ""] = new TextDecoder().decode(stderr).split("\n");
  return JSON.parse(channel).pipes;
}

Deno.test("busy pipes grow", async () => {
  assertEquals(await pipesOf("", "64M"), { read: LARGE, own: null, write: LARGE });
});

Deno.test("no pipe grows beyond --buffer", async () => {
  const most = Math.min(LARGE, 131072);
  assertEquals(await pipesOf("-b 128k", "64M"), { read: most, own: null, write: most });
  assertEquals(await pipesOf("-b 64k", "64M"), { read: SYSTEMS, own: null, write: SYSTEMS });
});

Deno.test("pipes of a channel that carries little stay as they are", async () => {
  const [input, stdin] = pipe();
  const [stdout, output] = pipe();
  using running = iocopy("0 1", { 0: input, 1: output });
  for (let i = 0; i < 300; i++) {
    await stdin.write("a line");
    assertEquals(await within("a line", stdout.readText(6)), "a line");
  }
  assertEquals([stdin.pipeSize, stdout.pipeSize], [SYSTEMS, SYSTEMS]);
  stdin.close();
  assertEquals((await running.outcome).code, 0);
  stdout.close();
});

/** Copies so many bytes between two TCP connections; returns what iocopy reports of its own pipe. */
async function ownPipeOf(bytes: number, ...options: string[]): Promise<number> {
  const [peer, source] = tcpPair();
  const [out, sink] = tcpPair();
  using running = iocopy(["--stats=json", ...options, "3 4"].join(" "), { 3: source, 4: sink });
  const arrived = countBytes(out);
  await peer.write(new Uint8Array(bytes));
  peer.close();
  assertEquals(await within("the bytes", arrived), bytes);
  out.close();
  const { stderr } = await running.outcome;
  return JSON.parse(stderr.split("\n")[0] ?? "").pipes.own;
}

async function countBytes(end: End): Promise<number> {
  return (await end.readAll()).length;
}

Deno.test("a pipe of the process begins with 64 KiB, and grows with its traffic", async () => {
  assertEquals(await ownPipeOf(1000), SYSTEMS);
  assertEquals(await ownPipeOf(64 << 20), 524288);
  assertEquals(await ownPipeOf(1000, "-b 4096"), 4096);
});

Deno.test("kernels that do not wake the writers of a pipe that grows (CVE-2023-52672)", () => {
  const forget = ["5.8.0", "5.10.209-1", "5.14.0-427.el9", "5.15.0-91-generic", "6.1.75", "6.2.0"];
  const wake = ["4.19.0", "5.7.19", "5.10.210", "5.15.149", "6.1.76-1-amd64", "6.6.15", "6.7.3"];
  for (const release of [...forget, "6.6", "6.7.2", ""]) assertEquals(wakesWriters(release), false);
  for (const release of [...wake, "6.8", "6.12.1-rc2"]) assertEquals(wakesWriters(release), true);
});
