/**
 * A socket's error queue, with messages that the kernel has left for an earlier owner of
 * the socket. poll(2) reports ERR because of them, although there is no error.
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { End, pipe, tcpPair, unixPair } from "./ends.ts";
import { endsWith, staysIdle, succeeds } from "./expect.ts";
import { program, said } from "./library.ts";
import { injecting, iocopy, noise, same, watched, within } from "./probe.ts";
import { needing } from "./programs.ts";
import { pause } from "./watching.ts";

const libc = Deno.dlopen("libc.so.6", {
  bind: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
  connect: { parameters: ["i32", "buffer", "u32"], result: "i32" },
  getsockname: { parameters: ["i32", "buffer", "buffer"], result: "i32" },
  poll: { parameters: ["buffer", "u64", "i32"], result: "i32" },
  setsockopt: { parameters: ["i32", "i32", "i32", "buffer", "u32"], result: "i32" },
  socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
}).symbols;

function set(end: End, level: number, option: number, value: number): void {
  assertEquals(libc.setsockopt(end.fd, level, option, new Int32Array([value]), 4), 0);
}

/** Resolves once poll(2) reports ERR, and neither HUP nor IN. */
async function hasNotes(end: End): Promise<void> {
  const ERR = 8;
  const request = new Int32Array([end.fd, 1]);
  for (;;) {
    libc.poll(request, 1n, 1000);
    if ((request[1] ?? 0) >> 16 === ERR) return;
    await pause();
  }
}

const SOL_SOCKET = 1, SO_TIMESTAMPING = 37;

/** From now on, the kernel adds a message when a piece is sent, and when it is acknowledged. */
function stampAll(end: End): void {
  const TX_SOFTWARE = 1 << 1, SOFTWARE = 1 << 4, OPT_ID = 1 << 7, TX_SCHED = 1 << 8;
  const TX_ACK = 1 << 9, OPT_TSONLY = 1 << 11;
  const flags = TX_SOFTWARE | SOFTWARE | OPT_ID | TX_SCHED | TX_ACK | OPT_TSONLY;
  set(end, SOL_SOCKET, SO_TIMESTAMPING, flags);
}

/** Ways to get messages into the queue of a TCP socket; its peer receives "before". */
const NOTES: Record<string, (end: End) => void> = {
  "MSG_ZEROCOPY is done": (end) => {
    const SO_ZEROCOPY = 60, MSG_ZEROCOPY = 0x4000000;
    set(end, SOL_SOCKET, SO_ZEROCOPY, 1);
    end.send("before", MSG_ZEROCOPY);
  },
  "SO_TIMESTAMPING": stampAndSend,
};

function stampAndSend(end: End): void {
  stampAll(end);
  end.send("before");
}

/** Two TCP sockets; the second has messages in its error queue. */
async function withNotes(leave: (end: End) => void): Promise<[End, End]> {
  const [peer, socket] = tcpPair();
  leave(socket);
  assertEquals(await peer.readText(6), "before");
  await hasNotes(socket);
  return [peer, socket];
}

/** Copies some pieces from `from` to `to` through `args`, with a pause between them. */
async function copiesAll(
  args: string,
  given: Record<number, End>,
  from: End,
  to: End,
): Promise<void> {
  using running = iocopy(`--stats=json ${args}`, given);
  await from.write("one");
  assertEquals(await within("the first piece", to.readText(3)), "one");
  await staysIdle(running);
  await from.write("two");
  assertEquals(await within("the second", to.readText(3)), "two");
  const content = noise(3_000_000);
  void from.write(content).then(() => from.close());
  assert(same(await within("the rest", to.readAll()), content), "other bytes");
  const { code, stderr } = await running.outcome;
  assertEquals(code, 0);
  assertStringIncludes(stderr, '"reason":null');
  assertStringIncludes(stderr, '"ended":"eof","error":null');
  to.close();
}

for (const [kind, leave] of Object.entries(NOTES)) {
  Deno.test(`${kind}, as wfd: nothing ends, nothing spins, everything arrives`, async () => {
    const [peer, socket] = await withNotes(leave);
    const [input, stdin] = pipe();
    await copiesAll("0 3", { 0: input, 3: socket }, stdin, peer);
  });

  Deno.test(`${kind}, as rfd: nothing ends, nothing spins, everything arrives`, async () => {
    const [peer, socket] = await withNotes(leave);
    const [stdout, output] = pipe();
    await copiesAll("3 1", { 3: socket, 1: output }, peer, stdout);
  });

  Deno.test(`${kind}, as wfd: a reset is still reported`, async () => {
    const [peer, socket] = await withNotes(leave);
    const [input, stdin] = pipe();
    using running = iocopy("0 3", { 0: input, 3: socket });
    await stdin.write("one");
    assertEquals(await within("the first piece", peer.readText(3)), "one");
    peer.resetOnClose();
    peer.close();
    const { code, stderr } = await running.outcome;
    assertEquals([code, stderr], [111, "iocopy: write 3: Connection reset by peer\n"]);
    stdin.close();
  });

  Deno.test(`${kind}, as wfd: a rate stays as it is`, async () => {
    const [peer, socket] = await withNotes(leave);
    const [input, stdin] = pipe();
    const started = performance.now();
    using running = watched("--rate=2000 0 3", { 0: input, 3: socket });
    await stdin.write(new Uint8Array(50_000));
    for (const end of [input, socket]) end.close();
    let arrived = 0;
    while (performance.now() - started < 1000) {
      arrived += (await within("a piece", peer.read())).length;
    }
    const seconds = (performance.now() - started) / 1000;
    assert(arrived <= 2000 * (seconds + 0.1), `${arrived} bytes in ${seconds} s`);
    await staysIdle(running);
    running.kill("SIGKILL");
    await running.outcome;
    for (const end of [peer, stdin]) end.close();
  });
}

Deno.test("messages do not pile up until nothing more can be received", async () => {
  const [peer, socket] = tcpPair();
  const [far, other] = unixPair();
  stampAll(socket);
  using running = iocopy("--stats=json 3 4 4 3", { 3: socket, 4: other });
  for (let i = 0; i < 3000; i++) { // each leaves three messages; the buffer holds some hundreds
    far.send("x");
    assertEquals((await peer.read()).length, 1);
  }
  const content = noise(2_000_000);
  void peer.write(content).then(() => peer.shutdownWrite());
  assert(same(await within("the other way", far.readAll()), content), "other bytes");
  far.shutdownWrite();
  const { code, stderr } = await running.outcome;
  assertEquals(code, 0);
  assertEquals(stderr.match(/"reason":null/g)?.length, 2, stderr);
  for (const end of [peer, far]) end.close();
});

/** A UDP socket that is connected to a port where nobody is. */
function toNobody(): End {
  const AF_INET = 2, SOCK_DGRAM = 2, SOCK_CLOEXEC = 0o2000000;
  const nobody = libc.socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  const address = new Uint8Array(16);
  address.set([AF_INET, 0, 0, 0, 127, 0, 0, 1]);
  assertEquals(libc.bind(nobody, address, 16), 0);
  libc.getsockname(nobody, address, new Uint32Array([16]));
  const socket = new End(libc.socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  assertEquals(libc.connect(socket.fd, address, 16), 0);
  libc.close(nobody);
  return socket;
}

Deno.test("a datagram that is refused is an error, even if an earlier owner asked for messages", async () => {
  const IPPROTO_IP = 0, IP_RECVERR = 11;
  const socket = toNobody();
  set(socket, IPPROTO_IP, IP_RECVERR, 1);
  const [input, stdin] = pipe();
  using running = iocopy("0 3", { 0: input, 3: socket });
  await stdin.write("to nobody");
  await endsWith(running, 111, "iocopy: write 3: Connection refused\n");
  stdin.close();
});

Deno.test("an empty datagram that is refused is an error of writing, too", async () => {
  const SOCK_DGRAM = 2;
  const [input, sender] = unixPair(SOCK_DGRAM);
  for (let i = 0; i < 3; i++) sender.send(""); // the next one learns that this one was refused
  using running = iocopy("3 4", { 3: input, 4: toNobody() });
  await endsWith(running, 111, "iocopy: write 4: Connection refused\n");
  sender.close();
});

Deno.test("the library's Descriptor: messages in the error queue do not keep it busy", async () => {
  const [peer, socket] = await withNotes(stampAndSend);
  const [stdout, output] = pipe();
  const code = `
    const bytes = new Uint8Array(9);
    new Descriptor(1).writeSync(bytes); // it has started
    const length = await new Descriptor(3).read(bytes);
    say(new TextDecoder().decode(bytes.subarray(0, length)));
  `;
  using running = program(code, { 1: output, 3: socket });
  await stdout.readExactly(9);
  await staysIdle(running);
  await peer.write("one");
  assertEquals(await said(running), ["one"]);
  for (const end of [peer, stdout]) end.close();
});

const INTERRUPTED = "a signal that interrupts poll(2) is not taken for a reader that has gone";
Deno.test(needing(["strace"], INTERRUPTED), async () => {
  // In several rhythms, so that each place that calls it has its turn.
  await Promise.all(["2+4", "3+4", "2+7"].map(async (when) => {
    const [peer, socket] = await withNotes(stampAndSend);
    const [input, stdin] = pipe();
    const command = injecting(`/^p?poll$:error=EINTR:when=${when}`);
    using running = iocopy("0 3", { 0: input, 3: socket }, { command });
    for (let i = 0; i < 20; i++) {
      await stdin.write("piece");
      assertEquals(await within("a piece", peer.readText(5)), "piece");
      await pause();
    }
    stdin.close();
    await succeeds(running);
    peer.close();
  }));
});

const UNTRUE =
  "a descriptor that was wrongly reported ready too often is watched edge-triggered, and no byte is missed";
Deno.test(needing(["strace"], UNTRUE), async () => {
  const [input, stdin] = pipe();
  const [stdout, output] = pipe();
  // First it gives up splice(2), and then it no longer believes the readiness.
  const untrue = ["splice:error=EAGAIN", "preadv2:error=EAGAIN:when=1..1001"];
  const command = injecting(...untrue);
  using running = iocopy("--stats=json 0 1", { 0: input, 1: output }, { command });
  for (let i = 0; i < 5; i++) {
    await stdin.write("again");
    assertEquals(await within("a piece", stdout.readText(5)), "again");
    await staysIdle(running); // by now it waits on another thread
  }
  stdin.close();
  const { code, stderr } = await running.outcome;
  assertEquals(code, 0);
  assertStringIncludes(stderr, '"reason":"splice: Resource temporarily unavailable"');
  stdout.close();
});

Deno.test("readSync waits without spinning although the error queue is not empty", async () => {
  const [peer, socket] = await withNotes(stampAndSend);
  socket.nonBlocking = true;
  const code = `
    const used = () => Deno.cpuUsage().user + Deno.cpuUsage().system;
    const before = used();
    const length = new Descriptor(3).readSync(new Uint8Array(9));
    say([length, used() - before < 300_000]);
  `;
  using running = program(code, { 3: socket });
  await pause(2500);
  await peer.write("after");
  assertEquals(await said(running), [[5, true]]);
  peer.close();
});
