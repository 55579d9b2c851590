/**
 * Forwards a port: what Alan Grow's tcpforward did.
 *
 *     deno run --allow-ffi examples/tcpforward.ts -l HOST:PORT -c HOST:PORT [-v]
 *     deno compile --allow-ffi -o tcpforward examples/tcpforward.ts
 *
 * Listens on the address of -l, and joins each connection with a new one to the
 * address of -c. HOST is an IPv4 address or a name. Both can also be [IPv6]:PORT, the
 * path of a unix socket, or @name. It reports what fails, and with -v each connection. At
 * SIGTERM it delivers what was read, and exits.
 *
 * The file of a unix socket stays at the end, and the next start fails with "Address already in
 * use": remove it before each start, as in `rm -f PATH; tcpforward -l PATH ...`. It is not removed
 * here, as another process may listen at it.
 */
import { Descriptor, serve, type SessionStatus } from "../engine.ts";

const USAGE = "usage: tcpforward -l HOST:PORT -c HOST:PORT [-v]";

/** Prints an error, and exits. */
function die(message: string, status: number): never {
  console.error(`tcpforward: ${message}`);
  Deno.exit(status);
}

function log({ id, peer, target, sent, received, ended, error }: SessionStatus): void {
  const how = error ?? ended ?? `connected to ${target}`;
  console.error(`tcpforward: #${id} ${peer}: ${how}, ${sent} bytes sent, ${received} received`);
}

let listen: string | undefined, connect: string | undefined, verbose = false;
const words = [...Deno.args];
for (let word = words.shift(); word !== undefined; word = words.shift()) {
  if (word === "-l") listen = words.shift();
  else if (word === "-c") connect = words.shift();
  else if (word === "-v") verbose = true;
  else die(USAGE, 100);
}
if (!listen || !connect) die(USAGE, 100);

const stop = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  Deno.addSignalListener(signal, () => stop.abort());
}
try {
  await serve(Descriptor.listen(listen), connect, {
    signal: stop.signal,
    ...verbose && { onConnect: log },
    onEnd: (session) => {
      if (verbose || session.error) log(session);
    },
  });
} catch (error) {
  const status = error instanceof RangeError ? 100 : 111;
  die(error instanceof Error ? error.message : String(error), status);
}
Deno.exit(0);
