/**
 * Starts the tunnels and joins their halves, for the tests.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { resolve } from "node:path";
import { ROOT } from "./harness.ts";
import { find, freePort, type Program, strangeLines, type Workshop } from "./programs.ts";

/** After the session, each iocopy has to end within so many milliseconds. */
export const SOON = 1000;

/** Waits until tcpserver reports that its child has ended, with status 0. */
export async function endsWell(server: Program): Promise<void> {
  const [, status] = await server.says(/^tcpserver: end \d+ status (\d+)/, SOON);
  assertEquals(status, "0", server.story);
  await server.says(/^tcpserver: status: 0/);
  assertEquals(strangeLines(server), [], server.story);
}

/** The two halves of "moon", joined. */
interface Moon {
  moon: Program;
  destination: Program;
  port: number;
}

/** Starts both halves, and tries again if another process took a port meanwhile. */
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

/** Whether the inner tcpserver listens, or its port was taken. */
export async function hasJoined(moon: Program): Promise<boolean> {
  await moon.says(/^tcpserver: ok /);
  const [said] = await moon.says(/^tcpserver: (status: 0|fatal.*address already used)/);
  return said.includes("status");
}

/**
 * A command of doc/tunnels.md, with other addresses and ports, as a command for sh.
 *
 * As shown, it looks up names, which takes too long without DNS. So PATH has scripts
 * that call the real programs with `-HRl0`.
 */
export function asWritten(
  shop: Workshop,
  beginning: string,
  other: Record<string, string | number>,
): string[] {
  const readme = Deno.readTextFileSync(resolve(ROOT, "doc/tunnels.md"));
  const blocks = [...readme.matchAll(/^```sh\n(.*?)^```/gms)].map(([, block = ""]) => block);
  let command = blocks.find((block) => block.startsWith(beginning)) ?? "";
  assert(command, `doc/tunnels.md shows no command that begins with: ${beginning}`);
  for (const [word, by] of Object.entries(other)) {
    const found = new RegExp(`(?<= )${word}(?= )`, "g");
    assert(found.test(command), `doc/tunnels.md: no ${word} in: ${command}`);
    command = command.replaceAll(found, String(by));
  }
  Deno.mkdirSync(shop.path("bin"), { recursive: true });
  for (const program of ["tcpserver", "tcpclient"]) {
    const script = `#!/bin/sh\nexec ${find(program)} -HRl0 "$@"\n`;
    Deno.writeTextFileSync(shop.path(`bin/${program}`), script, { mode: 0o755 });
  }
  return ["sh", "-c", `PATH='${shop.path("bin")}':$PATH; exec ${command}`];
}

/** "moon", by examples/moon. */
export function joinMoonByExample(shop: Workshop, sshdPort: number): Promise<Moon> {
  return joinMoon(
    shop,
    (port1, port2) => shop.example("moon", "listen", "127.0.0.1", port1, port2),
    (port1) => shop.example("moon", "join", "127.0.0.1", port1, "127.0.0.1", sshdPort),
  );
}

/** "moon", as shown in doc/tunnels.md. */
export function joinMoonAsWritten(shop: Workshop, sshdPort: number): Promise<Moon> {
  const moon = "127.0.0.1";
  return joinMoon(
    shop,
    (port1, port2) =>
      asWritten(shop, "tcpserver -c 1 -v moon 9922", { moon, 9922: port1, 9921: port2 }),
    (port1) => asWritten(shop, "tcpclient -v moon 9922", { moon, 9922: port1, 22: sshdPort }),
  );
}
