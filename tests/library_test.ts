/**
 * engine.ts as a library, used by small programs. Each is a process of its own, since
 * descriptors have to be inherited.
 */
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { resolve } from "node:path";
import {
  accepted,
  connected,
  deaf,
  O_CREAT,
  O_NONBLOCK,
  O_RDONLY,
  O_WRONLY,
  open,
  pipe,
  reversedTerminal,
  serving,
  tcpPair,
  unixPair,
} from "./ends.ts";
import { readAndAnswer } from "./expect.ts";
import { handOver, ROOT } from "./harness.ts";
import { program, said } from "./library.ts";
import { fillUp, inFolder, limited, noise, outputOf, same, within } from "./probe.ts";

/** How many channels one process adds and ends. */
const ADDED = Number(Deno.env.get("IOCOPY_ADDED") ?? 3000);

Deno.test("copy returns how each channel ended", async () => {
  const [a, first] = pipe();
  const [out, b] = unixPair();
  const [c, second] = unixPair();
  const [gone, d] = pipe();
  gone.close();
  const code = `
    for (const { bytes, ended, error } of await copy([[3, 4], [5, 6]])) say([bytes, ended, error]);
  `;
  await second.write("lost"); // before it starts, since it may close 5 as soon as it sees that 6 has no reader
  using running = program(code, { 3: a, 4: b, 5: c, 6: d });
  await first.write("hello");
  first.close();
  assertEquals(new TextDecoder().decode(await out.readAll()), "hello");
  const error = {
    name: "SystemError",
    message: "write 6: Broken pipe",
    code: "EPIPE",
    errno: 32,
    syscall: "write",
    descriptor: 6,
  };
  assertEquals(await said(running), [[5, "eof", null], [0, "error", error]]);
  out.close();
  second.close();
});

Deno.test("copy's results have the route, the operations and the time", async () => {
  const [a, first] = unixPair();
  const [out, b] = unixPair();
  using running = program(
    `
    for (const onData of [undefined, () => {}]) {
      const [c] = await copy([[3, 4], [5, 6]].splice(onData ? 1 : 0, 1), { ...onData && { onData } });
      say([c.rfd, c.wfd, c.bytes, c.operations, c.route, c.seconds > 0 && c.seconds < 60]);
    }
  `,
    { 3: a, 4: b, 5: open("/dev/null", O_RDONLY), 6: open("/dev/null", O_WRONLY) },
  );
  await first.write("hello");
  assertEquals(await out.readText(5), "hello");
  first.close();
  assertEquals(await said(running), [
    [3, 4, 5, 2, "splice", true],
    [5, 6, 0, 0, "copy", true],
  ]);
  out.close();
});

Deno.test("callbacks see every operation, the data, and the waits", async () => {
  const [a, first] = pipe();
  const [out, b] = tcpPair();
  const code = `
    let waits = 0;
    await copy([[3, 4]], {
      onOperation: (operation, fd, bytes) => say([operation, fd, bytes]),
      onData: (channel, bytes) => say([channel.rfd, new TextDecoder().decode(bytes)]),
      onError: (error) => say(error.message),
      onWait: () => void waits++,
    });
    say(waits > 1);
  `;
  using running = program(code, { 3: a, 4: b });
  await first.write("hello");
  assertEquals(await out.readText(5), "hello");
  first.close();
  assertEquals(await said(running), [
    [3, "hello"],
    ["read", 3, 5],
    ["write", 4, 5],
    ["read", 3, 0],
    true,
  ]);
  out.close();
});

Deno.test("onError sees an error when it happens, while other channels run", async () => {
  const [a, first] = pipe();
  const [gone, b] = pipe();
  const [c, second] = unixPair();
  const [log, logging] = pipe();
  using running = program(
    `await copy([[3, 4], [5, 2]], { onError: (error) => say(error.message) });`,
    { 2: logging, 3: a, 4: b, 5: c },
  );
  gone.close();
  assertEquals(await log.readText(23), '"write 4: Broken pipe"\n');
  await second.write("hello");
  assertEquals(await log.readText(5), "hello");
  for (const end of [first, second]) end.close();
  assertEquals((await running.outcome).code, 0);
  log.close();
});

Deno.test("copy throws before anything moves if a descriptor is not suitable", async () => {
  const [reading, writing] = pipe();
  await writing.write("hello");
  const kept = reading.duplicate();
  using running = program(
    `
    const file = await Deno.open("deno.json"); // one of the runtime's own
    const own = [...Deno.readDirSync("/proc/self/fd")].map(({ name }) => Number(name)).find((fd) => {
      try {
        return fd > 4 && Deno.readLinkSync("/proc/self/fd/" + fd).endsWith("/deno.json");
      } catch {
        return false;
      }
    });
    const twice = [[3, 1], [new Descriptor(3), 1]];
    for (const pairs of [[[3, 63]], [[3, 1], [own, 1]], [[3, 1], [1, 3]], [[-1, 1]], twice]) {
      try {
        await copy(pairs);
      } catch (error) {
        say([error instanceof DescriptorError, error.message.replace(own, "OWN")]);
      }
    }
    file.close();
  `,
    { 1: open("/dev/null", O_WRONLY), 3: reading },
  );
  assertEquals(await said(running), [
    [true, "descriptor 63 is not open"],
    [true, "descriptor OWN is not open"],
    [true, "descriptor 1 is not open for reading"],
    [true, "descriptor -1 is not open"],
    [true, "descriptor 3 is given twice, not as one Descriptor"],
  ]);
  assertEquals(await kept.readText(5), "hello");
  for (const end of [writing, kept]) end.close();
});

/**
 * A program that aborts the copy at a byte from 9, and prints whether that took much less than
 * the grace; else how long.
 */
const ABORTED = (pairs: string) => `
  const controller = new AbortController();
  let at = 0;
  const asked = new Descriptor(9).read(new Uint8Array(1)).then(() => {
    at = performance.now();
    controller.abort();
  });
  const channels = await copy(${pairs}, { signal: controller.signal, grace: 60_000 });
  const time = performance.now() - at;
  await asked;
  say(at > 0 && time < 10_000 || time);
  say(results(channels));
`;

Deno.test("an AbortSignal ends channels that wait, whatever they wait for", async () => {
  const [a, first] = unixPair();
  const [out, b] = unixPair();
  const [c, typing] = reversedTerminal();
  const [back, d] = tcpPair();
  const [asked, ask] = pipe();
  using running = program(ABORTED("[[3, 4], [5, 6]]"), { 3: a, 4: b, 5: c, 6: d, 9: asked });
  await first.write("hello");
  assertEquals(await out.readText(5), "hello");
  await typing.write("hello\n");
  assertEquals(await back.readText(6), "hello\n");
  await ask.write("x");
  // Write sides are shut down, as at the end of file.
  assertEquals((await out.readAll()).length + (await back.readAll()).length, 0);
  assertEquals(await said(running), [true, [
    { rfd: 3, wfd: 4, bytes: 5, ended: "stopped", error: "read 3: Operation canceled" },
    { rfd: 5, wfd: 6, bytes: 6, ended: "stopped", error: "read 5: Operation canceled" },
  ]]);
  for (const end of [first, out, typing, back, ask]) end.close();
});

Deno.test("an AbortSignal acts under load", async (t) => {
  await t.step("descriptors that are always ready", async () => {
    const [asked, ask] = pipe();
    using running = program(ABORTED("[[3, 4]]"), {
      3: open("/dev/zero", O_RDONLY),
      4: open("/dev/null", O_WRONLY),
      9: asked,
    });
    await ask.write("x");
    const [inTime, [channel]] = await said(running) as [boolean, [Record<string, unknown>]];
    assertEquals([inTime, channel.ended, channel.error], [
      true,
      "stopped",
      "read 3: Operation canceled",
    ]);
    ask.close();
  });

  await t.step("sockets whose peers never rest", async () => {
    const [a, first] = unixPair();
    const [out, b] = unixPair();
    const [asked, ask] = pipe();
    using running = program(ABORTED("[[3, 4]]"), { 3: a, 4: b, 9: asked });
    const writing = (async () => {
      for (const bytes = new Uint8Array(65536);;) await first.write(bytes);
    })().catch(() => {}); // it ends when nobody reads any more
    let arrived = 0;
    const reading = (async () => {
      for (;;) {
        const { length } = await out.read();
        if (length === 0) return;
        const before = arrived;
        arrived += length;
        if (before < 10e6 && arrived >= 10e6) await ask.write("x");
      }
    })();
    await Promise.all([writing, reading]);
    // All that was read has arrived.
    assertEquals(await said(running), [true, [
      {
        rfd: 3,
        wfd: 4,
        bytes: arrived,
        ended: "stopped",
        error: "read 3: Operation canceled",
      },
    ]]);
    for (const end of [first, out, ask]) end.close();
  });

  await t.step("a signal that was aborted before", async () => {
    const [a, first] = pipe();
    const [out, b] = pipe();
    await first.write("hello");
    using running = program(
      `say(results(await copy([[3, 4]], { signal: AbortSignal.abort() })));`,
      { 3: a, 4: b },
    );
    assertEquals(await out.read(), new Uint8Array(0));
    assertEquals(await said(running), [[{
      rfd: 3,
      wfd: 4,
      bytes: 0,
      ended: "stopped",
      error: "read 3: Operation canceled",
    }]]);
    for (const end of [first, out]) end.close();
  });
});

Deno.test("after an AbortSignal what was read is delivered, within the grace period", async (t) => {
  for (const reads of [true, false]) {
    await t.step(
      reads ? "a reader that comes late gets all" : "a stuck one is given up",
      async () => {
        const [a, first] = unixPair();
        const [out, b] = unixPair();
        const [asked, ask] = pipe();
        const [log, logging] = pipe();
        const code = `
        const controller = new AbortController();
        new Descriptor(9).read(new Uint8Array(1)).then(() => {
          controller.abort();
          say("aborted");
        });
        const [channel] = await copy([[3, 4]], {
          signal: controller.signal,
          grace: ${reads ? 20_000 : 50},
          onOperation: (operation) => say(operation),
        });
        say([channel.bytes, channel.ended, channel.error?.message ?? "no error"]);
      `;
        fillUp(b);
        using running = program(code, { 2: logging, 3: a, 4: b, 9: asked });
        await first.write("hello");
        assertEquals(await log.readText(7), '"read"\n');
        await first.write("not to be read");
        await ask.write("x");
        assertEquals(await log.readText(10), '"aborted"\n');
        const rest = reads ? new TextDecoder().decode(await out.readAll()) : "";
        const lines = new TextDecoder().decode(await log.readAll()).trimEnd().split("\n");
        if (reads) {
          assertMatch(rest, /^\0+hello$/);
          assertEquals(lines, ['"write"', '[5,"stopped","read 3: Operation canceled"]']);
        } else {
          assertEquals(lines, ['[0,"error","write 4: Operation canceled"]']);
        }
        assertEquals((await running.outcome).code, 0);
        for (const end of [first, out, ask, log]) end.close();
      },
    );
  }
});

Deno.test("a Copier can be inspected while it runs, and the program can do other things", async () => {
  const [a, first] = unixPair();
  const [out, b] = unixPair();
  const [asked, ask] = pipe();
  const [log, logging] = pipe();
  const code = `
    const copier = new Copier([[3, 4]]);
    (async () => {
      for await (const _ of new Descriptor(9).readable) say(results(copier.channels));
    })();
    await copier.run();
    say(results(copier.channels));
  `;
  using running = program(code, { 2: logging, 3: a, 4: b, 9: asked });
  const looked = async (channel: unknown) => {
    const line = JSON.stringify([channel]) + "\n";
    assertEquals(await log.readText(line.length), line);
  };
  for (const bytes of [5, 10]) {
    await first.write("hello");
    assertEquals(await out.readText(5), "hello");
    await ask.write("x");
    await looked({ rfd: 3, wfd: 4, bytes });
  }
  first.close();
  await looked({ rfd: 3, wfd: 4, bytes: 10, ended: "eof" });
  ask.close();
  assertEquals((await running.outcome).code, 0);
  for (const end of [out, log]) end.close();
});

Deno.test("any yieldAfter is accepted, and stopping a Copier that has ended does nothing", async () => {
  for (const hold of ["0", "Infinity"]) {
    const [a, first] = pipe();
    const [out, b] = pipe();
    // Were there anything to stop, the program would wait a minute for it.
    const code = `
      const copier = new Copier([[3, 4]], { yieldAfter: ${hold}, grace: 60_000 });
      say(results(await copier.run()));
      copier.stop();
    `;
    using running = program(code, { 3: a, 4: b });
    await first.write("hello");
    first.close();
    assertEquals(await out.readText(6), "hello");
    assertEquals(await said(running), [[{ rfd: 3, wfd: 4, bytes: 5, ended: "eof" }]]);
    out.close();
  }
});

Deno.test("a caller's mistakes throw, and close no other files", async () => {
  const [a, first] = pipe();
  const [out, b] = pipe();
  const code = `
    const wrong = [
      ...[NaN, 0, -1, 1.5, 2 ** 30 + 1, Infinity].map((buffer) => ({ buffer })),
      ...[NaN, -1].flatMap((time) => [{ grace: time }, { yieldAfter: time }, { rate: time }]),
    ];
    for (const options of wrong) await attempt(() => copy([[3, 4]], options));
    const copier = new Copier([[3, 4]], { buffer: 2 ** 30, rate: Infinity, yieldAfter: 1e300 });
    await attempt(() => copier.stop(NaN));
    const running = copier.run();
    await attempt(() => copier.run());
    say(results(await running));
    await attempt(() => copier.run());
    await attempt(() => copier.add([[3, 4]]));
  `;
  using running = program(code, { 3: a, 4: b });
  await first.write("hello");
  first.close();
  assertEquals(await out.readText(6), "hello");
  assertEquals(await said(running), [
    ...[NaN, 0, -1, 1.5, 2 ** 30 + 1, Infinity].map((buffer) => [
      "RangeError",
      `buffer: ${buffer} is not a whole number from 1 to 1 GiB`,
    ]),
    ...[NaN, -1].flatMap((time) => [
      ["RangeError", `grace: ${time} is not a time in milliseconds`],
      ["RangeError", `yieldAfter: ${time} is not a time in milliseconds`],
      ["RangeError", `rate: ${time} is not a number of bytes a second`],
    ]),
    ["RangeError", "grace: NaN is not a time in milliseconds"],
    ["Error", "this Copier has been run already"],
    [{ rfd: 3, wfd: 4, bytes: 5, ended: "eof" }],
    ["Error", "this Copier has been run already"],
    ["Error", "this Copier is stopped, or has ended"],
  ]);
  out.close();
});

/** What tells which descriptors a program has left: those it was given, and the engine's own. */
const LEFT = `
  const left = () => [...Deno.readDirSync("/proc/self/fd")].map(({ name }) => {
    try {
      return [Number(name), Deno.readLinkSync("/proc/self/fd/" + name)];
    } catch {
      return [0, ""]; // the folder itself, closed meanwhile
    }
  }).filter(([fd, what]) => fd >= 3 && fd <= 8 && given.includes(fd) || what.includes("timerfd")).map(([fd]) => fd);
`;

/** Callbacks that throw, each with the call, and the numbers that it closes; 7 has no reader, and that of 8 is stuck. */
const THROWING: Record<string, [call: string, closed: readonly number[]]> = {
  "onOperation of a read": ["copy(pairs, { onOperation: (o) => o === 'read' && thrown() })", [
    3,
    4,
    5,
    6,
  ]],
  "onOperation of a write": ["copy(pairs, { onOperation: (o) => o === 'write' && thrown() })", [
    3,
    4,
    5,
    6,
  ]],
  "onOperation of the end": ["copy(pairs, { onOperation: (o, fd, n) => n === 0 && thrown() })", [
    3,
    4,
    5,
    6,
  ]],
  "onData": ["copy(pairs, { onData: thrown })", [3, 4, 5, 6]],
  "onError": ["copy([[3, 7], [5, 6]], { onError: thrown })", [3, 5, 6, 7]],
  "onError when the grace is over": ["stuck({ grace: 1, onError: thrown })", [3, 5, 6, 8]],
  "onError when it is stopped at once": ["stuck({ grace: 0, onError: thrown })", [3, 5, 6, 8]],
  "onWait": ["copy(pairs, { onWait: thrown })", [3, 4, 5, 6]],
  "onWait that rejects": ["copy(pairs, { onWait: async () => thrown() })", [3, 4, 5, 6]],
};

Deno.test("a callback that throws ends every channel, and run rejects with what it threw", async (t) => {
  for (const [name, [call, closed]] of Object.entries(THROWING)) {
    await t.step(name, async () => {
      const [a, first] = pipe();
      const [out, b] = pipe();
      const [c, second] = unixPair();
      const [other, d] = tcpPair();
      const [gone, e] = pipe();
      gone.close();
      const [slow, stuck] = unixPair();
      fillUp(stuck);
      const kept = d.duplicate();
      const { flags } = d;
      const code = `
        const given = ${JSON.stringify(closed)};
        ${LEFT}
        const pairs = [[3, 4], [5, 6]];
        const thrown = () => { throw new Error("mine") };
        const stuck = (options) => {
          const controller = new AbortController();
          const onOperation = () => controller.abort();
          return copy([[3, 8], [5, 6]], { ...options, onOperation, signal: controller.signal });
        };
        await ${call}.catch((error) => say([error.message, left()]));
      `;
      using running = program(code, { 3: a, 4: b, 5: c, 6: d, 7: e, 8: stuck });
      await first.write("hello");
      if (name.endsWith("the end")) first.close();
      assertEquals(await said(running), [["mine", []]]);
      assertEquals(kept.flags, flags);
      for (const end of [first, out, second, other, kept, slow]) end.close();
    });
  }
});

Deno.test("a Copier can be stopped, and added to, in any callback", async (t) => {
  const callbacks: Record<string, string> = {
    onOperation: "(operation, fd, bytes) => bytes > 0 && act()",
    "onOperation ": "(operation) => operation === 'write' && act()",
    onData: "() => act()",
    onWait: "() => copier?.channels[0].bytes > 0 && act()",
  };
  for (const [name, callback] of Object.entries(callbacks)) {
    await t.step(`${name}: ${callback}`, async () => {
      const [a, first] = pipe();
      const [out, b] = unixPair();
      const [c, second] = unixPair();
      const [other, d] = pipe();
      const code = `
        let copier, added, acted = false;
        const act = () => {
          if (acted) return;
          acted = true;
          added = copier.add([[5, 6]]);
          copier.stop(20_000, "enough");
        };
        copier = new Copier([[3, 4]], { ${name}: ${callback} });
        const [{ bytes, ended, error }] = await copier.run();
        say([bytes, ended, error.cause, added[0].ended]);
      `;
      using running = program(code, { 3: a, 4: b, 5: c, 6: d });
      await first.write("hello");
      assertEquals(await out.readText(5), "hello");
      assertEquals(await said(running), [[5, "stopped", "enough", "stopped"]]);
      for (const end of [first, out, second, other]) end.close();
    });
  }
});

/** How long a program takes that copies each of these descriptors to itself, for many short messages. */
async function echoes(copies: (fds: readonly number[]) => string): Promise<number> {
  const pairs = Array.from({ length: 40 }, () => unixPair());
  const given = pairs.map(([, end], i) => [10 + i, end] as const);
  const code = `
    const copies = ${copies(given.map(([fd]) => fd))};
    const channels = (await Promise.all(copies)).flat();
    say(channels.filter(({ bytes, ended }) => bytes === 20 && ended === "eof").length);
  `;
  using running = program(code, Object.fromEntries(given));
  await pairs[0]?.[0].write("x");
  await pairs[0]?.[0].readExactly(1); // now it runs
  const start = performance.now();
  await Promise.all(pairs.map(async ([end], i) => {
    for (let times = i === 0 ? 1 : 0; times < 20; times++) {
      await end.write("x");
      await end.readExactly(1);
    }
    end.shutdownWrite();
  }));
  const time = performance.now() - start;
  assertEquals(await said(running), [40]);
  for (const [end] of pairs) end.close();
  return time;
}

Deno.test("many Copiers that have little to do hardly delay each other", async () => {
  const pairs = (fds: readonly number[]) => fds.map((fd) => `[${fd}, ${fd}]`);
  const one = await echoes((fds) => `[copy([${pairs(fds)}])]`); // as slow as the machine is
  const many = await echoes((fds) => `[${pairs(fds).map((pair) => `copy([${pair}])`)}]`);
  // It was 4 s more when each waited for 5 ms at a time.
  assert(many < 1000 + 3 * one, `${many} ms, and ${one} ms of one Copier`);
});

Deno.test("a service can be stopped in any of its callbacks", async (t) => {
  for (const name of ["onAccept", "onConnect", "onEnd"]) {
    await t.step(name, async () => {
      const code = `
        const controller = new AbortController();
        const path = "@iocopy-test-" + crypto.randomUUID();
        const target = Descriptor.listen(path);
        const service = path + "-service";
        const done = serve(Descriptor.listen(service), path, {
          signal: controller.signal,
          ${name}: (session) => {
            controller.abort();
            say(session.id);
          },
        });
        const client = await Descriptor.connect(service);
        if (${name === "onEnd"}) client.close();
        await done;
        say("end");
      `;
      using running = program(code, {});
      assertEquals(await said(running), [1, "end"]);
    });
  }
});

/** What tells how many sockets, epoll instances and the like a program has open. */
const SOCKETS = `
  const sockets = () => [...Deno.readDirSync("/proc/self/fd")].filter(({ name }) => {
    try {
      return /socket|anon_inode/.test(Deno.readLinkSync("/proc/self/fd/" + name));
    } catch {
      return false; // the folder itself, closed meanwhile
    }
  }).length;
`;

/** What begins a program that serves at a name of its own: `target` and `listener` listen there. */
const SERVING = `
  const path = "@iocopy-test-" + crypto.randomUUID();
  const target = Descriptor.listen(path);
  const listener = Descriptor.listen(path + "-service");
`;

Deno.test("serve closes what its function returns that is no connection, unless somebody else has it", async () => {
  const { listener, port } = serving();
  const [input, output] = pipe();
  const code = `
    // The last one is the number that is served.
    const returned = [3, 4, 5].map((fd) => new Descriptor(fd));
    const stop = new AbortController();
    let asked = 0;
    const ended = serve(5, () => returned[asked++], {
      signal: stop.signal,
      onEnd: ({ id, error }) => {
        say([error, returned[id - 1].isClosed]);
        if (id === 3) stop.abort();
      },
    });
    const clients = [1, 2, 3].map(() => Descriptor.connect("127.0.0.1:${port}"));
    await Promise.all([ended, ...clients]);
  `;
  using running = program(code, { 3: open(`${ROOT}/deno.json`, O_RDONLY), 4: input, 5: listener });
  assertEquals(await said(running), [
    ["descriptor 3 is not a connection", true],
    ["descriptor 4 is not a connection", true],
    ["descriptor 5 is not a connection", false],
  ]);
  output.close();
});

Deno.test("without a descriptor for the look-up of its target a connection waits for one", async () => {
  const { listener, port } = serving();
  const target = serving();
  const code = `
    const stop = new AbortController(), opened = [];
    const ended = serve(3, "localhost:${target.port}", {
      signal: stop.signal,
      yieldAfter: 1,
      onAccept: () => {
        try {
          for (;;) opened.push(Deno.openSync("/dev/null"));
        } catch (error) {
          say(error.message);
        }
        setTimeout(() => opened.forEach((file) => file.close()), 200);
      },
      onConnect: () => stop.abort(),
      onEnd: ({ error }) => {
        say(error ?? "joined");
        stop.abort();
      },
    });
    await Promise.all([ended, Descriptor.connect("127.0.0.1:${port}")]);
  `;
  using running = program(code, { 3: listener }, limited(64, []));
  assertEquals(await said(running), [
    "Too many open files (os error 24): open '/dev/null'",
    "joined",
  ]);
  target.listener.close();
});

Deno.test("a callback of a service that throws ends all, and serve rejects with what it threw", async (t) => {
  for (const name of ["onAccept", "onConnect", "onEnd"]) {
    await t.step(name, async () => {
      const code = `
        ${SERVING}
        ${SOCKETS}
        const clients = await Promise.all([1, 2].map(() => Descriptor.connect(path + "-service")));
        if (${name === "onEnd"}) clients.forEach((client) => client.close());
        const before = sockets();
        let calls = 0;
        const thrown = () => {
          calls++;
          throw new Error("mine");
        };
        await serve(listener, path, { ${name}: thrown }).catch((error) => say(error.message));
        say([calls, listener.isClosed, sockets() - before]); // the listener has gone
      `;
      using running = program(code, {});
      assertEquals(await said(running), ["mine", [1, true, -1]]);
    });
  }
});

Deno.test("the clients of two Descriptors that listen are joined", async () => {
  const code = `
    ${SERVING}
    const done = serve(listener, target, { exitIdle: 1 });
    const [one, other] = await Promise.all([Descriptor.connect(path + "-service"), Descriptor.connect(path)]);
    await one.write(new TextEncoder().encode("hello"));
    one.shutdown(1);
    say(await new Response(other.readable).text());
    one.close();
    await done;
    say([listener.isClosed, target.isClosed]);
  `;
  using running = program(code, {});
  assertEquals(await said(running), ["hello", [true, true]]);
});

Deno.test("what a caller may get wrong with serve is refused, and the listener stays open", async () => {
  const code = `
    ${SERVING}
    const tried = (to, options) => serve(listener, to, options)
      .catch((error) => say([error.constructor.name, error.message]));
    for (const name of ["connectTimeout", "timeout", "halfClosed", "exitIdle", "grace"]) {
      await tried(path, { [name]: NaN });
      await tried(path, { [name]: -1 });
    }
    for (const connections of [NaN, 0, 1.5]) await tried(path, { connections });
    await tried(path, { proxyProtocol: 3 });
    await tried("localhost");
    await tried(NaN);
    await tried(0);
    say(listener.isClosed);
    const copier = new Copier([]);
    await copier.serve(listener, path, {});
    copier.drain();
    say(results(await copier.run()));
    await copier.serve(target, path).catch((error) => say(error.message));
    say([listener.isClosed, target.isClosed]);
  `;
  using running = program(code, {});
  const time = (name: string) =>
    [NaN, -1].map((value) => ["RangeError", `${name}: ${value} is not a time in milliseconds`]);
  assertEquals(await said(running), [
    ...["connectTimeout", "timeout", "halfClosed", "exitIdle", "grace"].flatMap(time),
    ...[NaN, 0, 1.5].map((value) => [
      "RangeError",
      `connections: ${value} is not a whole number from 1 on`,
    ]),
    ["RangeError", "proxyProtocol: 3 is neither 1 nor 2"],
    ["RangeError", '"localhost" is not HOST:PORT, [IPv6]:PORT, a path or @name'],
    ["DescriptorError", "descriptor NaN is not open"],
    ["DescriptorError", "descriptor 0 is not a listening socket"],
    false,
    [],
    "this Copier runs already, or has ended",
    [true, false],
  ]);
});

Deno.test("what a function has given is as it was when the program ends, by an error too", async (t) => {
  const ends = {
    "Deno.exit();": 0,
    'setTimeout(() => { throw new Error("mine") });': 1,
    'throw new Error("mine");': 1,
  };
  for (const [end, status] of Object.entries(ends)) {
    await t.step(end, async () => {
      const [peer, given] = unixPair();
      const kept = given.duplicate();
      const code = `
        const name = "@iocopy-test-" + crypto.randomUUID();
        void serve(Descriptor.listen(name), () => new Descriptor(3));
        const client = await Descriptor.connect(name);
        await client.write(new TextEncoder().encode("hello"));
        await client.read(new Uint8Array(9));
        ${end}
      `;
      using running = program(code, { 3: given });
      assertEquals(await peer.readText(5), "hello");
      assertEquals(kept.flags & O_NONBLOCK, O_NONBLOCK);
      await peer.write("x");
      assertEquals((await running.outcome).code, status);
      assertEquals(kept.flags & O_NONBLOCK, 0);
      for (const end of [peer, kept]) end.close();
    });
  }
});

Deno.test("a flag is put back although another number of its socket is closed already", async () => {
  const [near, far] = tcpPair();
  const [other, peer] = tcpPair();
  const kept = other.duplicate();
  other.shutdownWrite();
  // What the peer of 6 is to get fails at once, and 3 lingers for its own peer, which gets an answer.
  const code = `
    const copier = new Copier([[3, 7], [6, 4]], { onError: () => setTimeout(() => Deno.exit()) });
    await copier.run();
  `;
  const given = { 3: near, 4: near.duplicate(), 6: other, 7: other.duplicate() };
  using running = program(code, given);
  await peer.write("an answer");
  assertEquals(await within("an answer", far.readText(9)), "an answer");
  assertEquals(kept.flags & O_NONBLOCK, O_NONBLOCK);
  await far.write("lost");
  assertEquals((await running.outcome).code, 0);
  assertEquals(kept.flags & O_NONBLOCK, 0);
  for (const end of [far, peer, kept]) end.close();
});

Deno.test("what is copied elsewhere is not closed, though a function gives it", async () => {
  await inFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/in`, "hello");
    const [stuck, sink] = unixPair();
    fillUp(sink);
    const code = `
      const { localAddress } = await import("./sys/socket.ts");
      const listener = Descriptor.listen("127.0.0.1:0"), own = String(localAddress(listener.fd));
      const copier = new Copier([[3, 4]]);
      await copier.serve(listener, () => new Descriptor(3), {
        onEnd: ({ error }) => {
          say([error, Deno.readLinkSync("/proc/self/fd/3").endsWith("/in")]);
          copier.drain();
          copier.stop(0);
        },
      });
      const client = await Descriptor.connect(own);
      await copier.run();
      client.close();
    `;
    using running = program(code, { 3: open(`${folder}/in`, O_RDONLY), 4: sink });
    assertEquals(await said(running), [["descriptor 3 is not a connection", true]]);
    stuck.close();
  });
});

Deno.test("a client that resets: an inherited socket that a function has given is not reset", async () => {
  const { listener, port } = serving();
  const [peer, given] = tcpPair();
  using _kept = given.duplicate();
  const code = `
    const stop = new AbortController();
    await serve(4, () => new Descriptor(3), {
      signal: stop.signal,
      onEnd: ({ error }) => {
        say(error);
        stop.abort();
      },
    });
  `;
  using running = program(code, { 3: given, 4: listener });
  const client = connected(port);
  await client.write("hello");
  assertEquals(await peer.readText(5), "hello");
  client.resetOnClose();
  client.close();
  assertEquals(await within("the end of file", peer.readAll()), new Uint8Array());
  assertEquals(await said(running), ["read client: Connection reset by peer"]);
  peer.close();
});

Deno.test("a function that connects is told when nobody waits for that any more", async () => {
  using silent = await deaf();
  const code = `
    const { localAddress } = await import("./sys/socket.ts");
    ${SOCKETS}
    const before = sockets();
    const listener = Descriptor.listen("127.0.0.1:0"), own = String(localAddress(listener.fd));
    const stop = new AbortController(), connecting = [];
    const done = serve(listener, (peer, signal) => {
      connecting.push(Descriptor.connect("127.0.0.1:${silent.port}", { signal }));
      if (connecting.length === 2) queueMicrotask(() => stop.abort()); // before its time is over
      return connecting.at(-1);
    }, { connectTimeout: 100, signal: stop.signal, onEnd: ({ ended, error }) => say(error ?? ended) });
    const timedOut = await Descriptor.connect(own);
    await timedOut.read(new Uint8Array(9));
    const stopped = await Descriptor.connect(own);
    await done;
    for (const end of [timedOut, stopped]) end.close();
    say((await Promise.allSettled(connecting)).map(({ reason }) => reason.name));
    while (sockets() > before) await new Promise((resolve) => setTimeout(resolve));
  `;
  using running = program(code, {});
  const expected = ["a function: Connection timed out", "stopped", ["AbortError", "AbortError"]];
  assertEquals(await said(running), expected);
});

Deno.test("a target that was reached for a client that has reset sees a reset, not the client's end", async () => {
  const { listener, port } = serving(), target = serving();
  const code = `
    const stop = new AbortController();
    const gone = (signal) => new Promise((resolve) => signal.addEventListener("abort", resolve));
    await serve(3, async (peer, signal) => {
      const end = await Descriptor.connect("127.0.0.1:${target.port}");
      await gone(signal);
      setTimeout(() => stop.abort());
      return end;
    }, { connectTimeout: 20_000, signal: stop.signal, onEnd: ({ error }) => say(error) });
  `;
  using running = program(code, { 3: listener });
  const client = connected(port);
  const reached = accepted(target.listener);
  client.resetOnClose();
  client.close();
  await assertRejects(() => within("its end", reached.read()), Error, "read failed");
  assertEquals(await said(running), ["a function: the client went before it answered"]);
  for (const end of [reached, target.listener]) end.close();
});

Deno.test("a connection that is stopped with bytes that its target does not take has an error", async () => {
  const code = `
    const { localAddress } = await import("./sys/socket.ts");
    const target = Descriptor.listen("127.0.0.1:0"), listener = Descriptor.listen("127.0.0.1:0");
    const own = String(localAddress(listener.fd)), stop = new AbortController();
    let session;
    const done = serve(listener, String(localAddress(target.fd)), {
      signal: stop.signal,
      grace: 100,
      onConnect: (status) => session = status,
      onEnd: ({ ended, error }) => say([ended, error]),
    });
    const client = await Descriptor.connect(own);
    const written = (async () => {
      for (;;) await client.write(new Uint8Array(1 << 20));
    })().catch(() => {});
    // Nobody reads at the target: in the end nothing moves in many turns, and a buffer is full.
    for (let before = 0, still = 0; still < 20;) {
      await new Promise((resolve) => setTimeout(resolve, 15));
      still = session?.sent > 0 && session.sent === before ? still + 1 : 0;
      before = session?.sent;
    }
    stop.abort();
    await done;
    client.close();
    await written;
    target.close();
  `;
  using running = program(code, {});
  assertEquals(await said(running), [["error", "write target: Operation canceled"]]);
});

Deno.test("a stop may be shortened by another one, and by disposal, which waits for the end", async (t) => {
  for (const how of ["copier.stop(0);", "await copier[Symbol.asyncDispose]();"]) {
    await t.step(how, async () => {
      const [a, first] = unixPair();
      const [slow, b] = unixPair();
      fillUp(b);
      const code = `
        const copier = new Copier([[3, 4]], {
          onOperation: () => {
            copier.stop(Infinity, "enough");
            copier.stop(3e9);
            setTimeout(async () => {
              say(copier.channels[0].ended ?? "open");
              ${how}
            }, 100);
          },
        });
        say(results(await copier.run()));
        copier.stop();
        await copier[Symbol.asyncDispose]();
        await copier.run().catch((error) => say(error.message));
      `;
      using running = program(code, { 3: a, 4: b });
      await first.write("hello");
      assertEquals(await said(running), [
        "open",
        [{ rfd: 3, wfd: 4, bytes: 0, ended: "error", error: "write 4: Operation canceled" }],
        "this Copier has been run already",
      ]);
      for (const end of [first, slow]) end.close();
    });
  }
});

Deno.test("if one pair is not suitable none is added, and their numbers are free", async () => {
  const [a, first] = pipe();
  const [out, b] = pipe();
  const [c, second] = pipe();
  const [socket, peer] = unixPair();
  const code = `
    const given = [];
    ${LEFT}
    const { symbols: { dup2 } } = Deno.dlopen("libc.so.6", { dup2: { parameters: ["i32", "i32"], result: "i32" } });
    const before = left().length;
    function* pairs() {
      yield [5, 4];
      throw new Error("mine");
    }
    await attempt(() => copy(pairs()));
    await attempt(() => new Copier([[5, 4], [4, 5]]));
    await attempt(() => copy([[5, 1.5]]));
    await attempt(() => copy([[NaN, 4]]));
    await attempt(() => copy([]));
    say(left().length - before);
    const copier = new Copier([[3, 4]], {
      onWait: () => {
        if (copier.channels[0].bytes === 0 || channel) return;
        try {
          copier.add([[5, 4], [63, 4]]);
        } catch (error) {
          say(error.message);
        }
        dup2(6, 5); // now it is another file's
        [channel] = copier.add([[5, 4]]);
        say(channel.pipes.read ?? "no pipe");
      },
    });
    let channel;
    say(results(await copier.run()));
    say(results([channel]));
  `;
  using running = program(code, { 3: a, 4: b, 5: c, 6: socket });
  await peer.write(" and more");
  peer.shutdownWrite();
  await first.write("hello");
  assertEquals(await out.readText(14), "hello and more");
  first.close();
  assertEquals(await said(running), [
    ["Error", "mine"],
    ["DescriptorError", "descriptor 4 is not open for reading"],
    ["DescriptorError", "descriptor 1.5 is not open"],
    ["DescriptorError", "descriptor NaN is not open"],
    [],
    0,
    "descriptor 63 is not open",
    "no pipe",
    [{ rfd: 3, wfd: 4, bytes: 5, ended: "eof" }],
    [{ rfd: 5, wfd: 4, bytes: 9, ended: "eof" }],
  ]);
  for (const end of [out, second, peer]) end.close();
});

Deno.test("if the system refuses to watch a descriptor, run rejects, and the others are closed", async () => {
  const [a, first] = pipe();
  const [out, b] = pipe();
  const [c, second] = pipe();
  const [other, d] = unixPair();
  const code = `
    const given = [3, 4, 5, 6];
    ${LEFT}
    const copier = new Copier([[3, 4], [5, 4], [3, 6]]);
    new Descriptor(5).close(); // which nobody should do
    await copier.run().catch((error) => say([error.constructor.name, error.message]));
    say(left());
  `;
  using running = program(code, { 3: a, 4: b, 5: c, 6: d });
  assertEquals(await said(running), [["SystemError", "epoll_ctl 5: Bad file descriptor"], []]);
  for (const end of [first, out, second, other]) end.close();
});

Deno.test("a pair given twice is two channels: each byte goes through one of them", async () => {
  const [a, first] = pipe();
  const [out, b] = pipe();
  await first.write("hello");
  using running = program("say(results(await copy([[3, 4], [3, 4]])));", { 3: a, 4: b });
  assertEquals(await out.readText(5), "hello");
  first.close();
  const ends = (bytes: number) => ({ rfd: 3, wfd: 4, bytes, ended: "eof" });
  assertEquals(await said(running), [[ends(5), ends(0)]]); // the first of those that wait gets them
  out.close();
});

Deno.test("a Copier that was stopped before it runs, or is disposed of, reads nothing and closes everything", async (t) => {
  for (
    const how of ["copier.stop(); say(results(await copier.run()));", "{ await using _ = copier }"]
  ) {
    await t.step(how, async () => {
      const [a, first] = pipe();
      const [out, b] = pipe();
      await first.write("hello");
      using running = program(`const copier = new Copier([[3, 4]]); ${how}`, { 3: a, 4: b });
      assertEquals(await out.read(), new Uint8Array(0));
      const error = "read 3: Operation canceled";
      const result = [{ rfd: 3, wfd: 4, bytes: 0, ended: "stopped", error }];
      assertEquals(await said(running), how.includes("stop") ? [result] : []);
      for (const end of [first, out]) end.close();
    });
  }
});

Deno.test("disposal does not repeat an error that run has thrown", async () => {
  const [a, first] = pipe();
  const [out, b] = pipe();
  const code = `
    try {
      await using copier = new Copier([[3, 4]], { onWait: () => { throw new Error("mine") } });
      await copier.run();
    } catch (error) {
      say([error.constructor.name, error.message]);
    }
  `;
  using running = program(code, { 3: a, 4: b });
  assertEquals(await said(running), [["Error", "mine"]]);
  for (const end of [first, out]) end.close();
});

Deno.test("pairs are added while it runs, and leave nothing behind when they end", async () => {
  const args = ["run", "-A", "--v8-flags=--expose-gc", "bench/channels.ts", `${ADDED}`, "--json"];
  const { code, stdout, stderr } = await outputOf([Deno.execPath(), ...args], { cwd: ROOT });
  assertEquals(code, 0, stderr);
  const figures = JSON.parse(stdout);
  assertEquals([figures.channels, figures.wrong], [ADDED, 0]);
  assert(figures.heapLeft < 500_000, `${figures.heapLeft} bytes of the heap`);
  // The pool may hold one pipe more, or less.
  assert(Math.abs(figures.descriptorsLeft) <= 2, `${figures.descriptorsLeft} descriptors`);
});

Deno.test("a descriptor that Descriptor made is copied as an inherited one is, and closed", async () => {
  const target = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = target.addr;
  const [input, into] = pipe();
  const [out, output] = pipe();
  const code = `
    const tried = (pairs) => copy(pairs).catch((error) => say([error.name, error.message.replace(/\\d+/, "N")]));
    const connected = await Descriptor.connect("127.0.0.1:${port}");
    const [sent, received] = await copy([[new Descriptor(3), connected], [connected, 4]]);
    say([sent.bytes, sent.ended, received.bytes, received.ended, connected.isClosed]);
    await tried([[connected, 1]]);
    await tried([[Descriptor.listen("127.0.0.1:0"), 1]]);
  `;
  using running = program(code, { 3: input, 4: output });
  await into.write("asked");
  into.close();
  const conn = await within("a connection", target.accept());
  assertEquals(await new Response(conn.readable).text(), "asked"); // to its end, which closes it
  assertEquals(await out.readAll(), new Uint8Array(0));
  assertEquals(await said(running), [
    [5, "eof", 0, "eof", true],
    ["DescriptorError", "descriptor N is closed"],
    [
      "DescriptorError",
      "descriptor N is a listening socket: it needs a target after it, as HOST:PORT",
    ],
  ]);
  out.close();
  target.close();
});

// ---- The examples.

/** The TypeScript examples in a file: in its docstrings, or in a section of a README. */
function examples(text: string): string[] {
  const lines = text.replaceAll(/^ *\* ?/gm, "");
  return [...lines.matchAll(/^```ts\b.*\n([^]*?)^```/gm)].map(([, code = ""]) => code);
}

/** The examples of each page. */
function allExamples(): [page: string, codes: string[]][] {
  const read = (name: string) => Deno.readTextFileSync(resolve(ROOT, name));
  const [, section = ""] = /^## As a library$([^]*?)(?=^## |$(?![^]))/m.exec(read("README.md")) ??
    [];
  const whole = ["engine.ts", "engine/copier.ts", "sys/descriptor.ts", "doc/library.md"];
  return [
    ...whole.map((name): [string, string[]] => [name, examples(read(name))]),
    ["README.md", examples(section)],
  ];
}

Deno.test("the examples of the documentation have no type errors", async () => {
  await inFolder(async (folder) => {
    const codes = allExamples().flatMap(([, codes]) => codes);
    const names = codes.map((code, i) => {
      const name = `${folder}/${i}.ts`;
      Deno.writeTextFileSync(name, code.replaceAll('from "./', `from "${ROOT}/`));
      return name;
    });
    const { code, stderr } = await outputOf([Deno.execPath(), "check", ...names]);
    assertEquals(code, 0, stderr);
  });
});

Deno.test("the examples of the documentation run", async (t) => {
  for (const [page, codes] of allExamples()) {
    assert(codes.length > 0, `${page} has no example`);
    for (const [i, code] of codes.entries()) {
      await t.step(`${page}, example ${i + 1}`, async () => {
        assertMatch(code, /from "\.\/(engine|sys\/descriptor)\.ts"/);
        const [reading, writing] = pipe();
        const [out, into] = pipe();
        const command = [Deno.execPath(), "eval", "--ext=ts"];
        using running = handOver([code], { 0: reading, 1: into }, { command });
        await writing.write("hello");
        writing.close();
        const text = new TextDecoder().decode(await out.readAll());
        out.close();
        const { code: status, stderr } = await running.outcome;
        // Those that copy have something to copy; serving says nothing.
        assertEquals([text, status], [code.includes("serve(") ? "" : "hello", 0], stderr);
      });
    }
  }
});

Deno.test("a Descriptor that is copied can be neither closed nor given to another Copier", async () => {
  const [[source, from], [to, sink]] = [pipe(), pipe()];
  const code = `
    const [input, output] = [new Descriptor(3), new Descriptor(4)];
    const said = [];
    const tell = (action) => {
      try {
        action();
      } catch (error) {
        said.push(error.message);
      }
    };
    const onOperation = (operation) => {
      if (operation !== "write") return;
      tell(() => input.close());
      tell(() => new Copier([[input, output]]));
    };
    tell(() => new Copier([[input, output], [9, 9]]));
    said.push(input.isCopied);
    say(results(await copy([[input, output]], { onOperation })));
    input.close();
    say(said);
  `;
  using running = program(code, { 3: source, 4: sink });
  await from.write("hello");
  assertEquals(await to.readText(5), "hello");
  from.close();
  assertEquals(await said(running), [
    [{ rfd: 3, wfd: 4, bytes: 5, ended: "eof" }],
    [
      "descriptor 9 is not open",
      false,
      "close 3: Device or resource busy",
      "descriptor 3 is another Copier's",
    ],
  ]);
  to.close();
});

Deno.test("errors leave nothing behind", async () => {
  const code = `
    let opened = 0;
    const { dlopen } = Deno;
    Deno.dlopen = (...words) => ++opened && dlopen(...words);
    const fail = () => Descriptor.connect("/nowhere/at all").catch((error) => error.code);
    const [first, before] = [await fail(), opened];
    for (let i = 0; i < 100; i++) await fail();
    say([first, before > 0, opened - before]);
  `;
  assertEquals(await said(program(code, {})), [["ENOENT", true, 0]]);
});

Deno.test("a promise of onWait is awaited, and then it copies; timers go on", async () => {
  const [a, first] = pipe();
  const [out, b] = pipe();
  const code = `
    let timers = 0, waits = 0;
    const timer = setInterval(() => timers++, 1);
    const onWait = async () => {
      waits++;
      if (waits === 2) await new Promise((resolve) => setTimeout(resolve, 20));
    };
    say(results(await copy([[3, 4]], { onWait })));
    say([timers > 0, waits > 1]);
    clearInterval(timer);
  `;
  using running = program(code, { 3: a, 4: b });
  const content = noise(1 << 20);
  const written = first.write(content).then(() => first.close());
  const read = await within("the bytes", out.readExactly(content.length));
  assert(same(read, content));
  await written;
  assertEquals(await within("the end", said(running)), [
    [{ rfd: 3, wfd: 4, bytes: 1 << 20, ended: "eof" }],
    [true, true],
  ]);
  out.close();
});

Deno.test("a pair that is added in the moment when the last one has ended is copied", async () => {
  const [[a, first], [out, b], [c, second], [other, d]] = [pipe(), pipe(), pipe(), pipe()];
  await first.write("one");
  await second.write("two");
  for (const end of [first, second]) end.close();
  const code = `
    let added;
    const copier = new Copier([[3, 4]], {
      onOperation: (operation, fd, bytes) => {
        if (fd === 3 && bytes === 0) queueMicrotask(() => added = copier.add([[5, 6]]));
      },
    });
    say(results(await copier.run()));
    say(results(added));
  `;
  using running = program(code, { 3: a, 4: b, 5: c, 6: d });
  assertEquals(await said(running), [
    [{ rfd: 3, wfd: 4, bytes: 3, ended: "eof" }],
    [{ rfd: 5, wfd: 6, bytes: 3, ended: "eof" }],
  ]);
  assertEquals([await out.readText(9), await other.readText(9)], ["one", "two"]);
  for (const end of [out, other]) end.close();
});

Deno.test("what a peer that answers has not got when all is stopped is delivered", async () => {
  const [near, far] = tcpPair();
  const content = noise(100_000);
  [near.sendBuffer, far.receiveBuffer] = [content.length, 20_000];
  const [input, from] = pipe();
  const code = `
    const copier = new Copier([[3, 4]], {
      onOperation: (operation) => {
        if (operation === "write" && copier.channels[0].bytes === ${content.length}) copier.stop();
      },
    });
    say(results(await copier.run()));
  `;
  using running = program(code, { 3: input, 4: near });
  await from.write(content);
  await readAndAnswer(far, content);
  const error = "read 3: Operation canceled";
  const result = { rfd: 3, wfd: 4, bytes: content.length, ended: "stopped", error };
  assertEquals(await said(running), [[result]]);
  for (const end of [far, from]) end.close();
});

Deno.test("what is cut off says why: the cause of its error is the reason", async () => {
  const [a, first] = unixPair();
  const [slow, b] = unixPair();
  fillUp(b);
  const code = `
    const copier = new Copier([[3, 4]], { onOperation: () => copier.stop(10, "enough") });
    const [{ ended, error }] = await copier.run();
    say([ended, error.code, error.cause]);
  `;
  using running = program(code, { 3: a, 4: b });
  await first.write("hello");
  assertEquals(await said(running), [["error", "ECANCELED", "enough"]]);
  for (const end of [first, slow]) end.close();
});

Deno.test("a Copier may be disposed of in any callback", async (t) => {
  for (const callback of ["onWait", "onOperation", "onData"]) {
    await t.step(callback, async () => {
      const [a, first] = pipe();
      const [out, b] = pipe();
      await first.write("hello");
      const code = `
        let disposed;
        const copier = new Copier([[3, 4]], {
          ${callback}: () => void (disposed ??= copier[Symbol.asyncDispose]().then(() => say("over"))),
        });
        const [{ ended }] = await copier.run();
        await disposed;
        say(ended);
      `;
      using running = program(code, { 3: a, 4: b });
      assertEquals(await said(running), ["over", "stopped"]);
      for (const end of [first, out]) end.close();
    });
  }
});

Deno.test("stopPairs waits for nobody, not for a peer that may still get an answer either", async () => {
  const [near, far] = tcpPair();
  const [stuck, other] = unixPair();
  const [deaf, unread] = tcpPair();
  for (const end of [other, unread]) fillUp(end);
  const [nothing, never] = pipe();
  const code = `
    const pairs = [[3, 4], [4, 3], [5, 6]];
    let waits = 0;
    const copier = new Copier(pairs, {
      onOperation: () => {
        copier.stopPairs();
        waits = 0;
      },
      onWait: () => void waits++,
    });
    const channels = await copier.run();
    say(channels.map(({ ended, error }) => [ended, error.message]));
    say(waits);
  `;
  using running = program(code, { 3: near, 4: other, 5: nothing, 6: unread });
  await far.write("hello");
  assertEquals(await within("the end", said(running)), [
    [
      ["error", "write 4: Operation canceled"],
      ["stopped", "read 4: Operation canceled"],
      ["stopped", "read 5: Operation canceled"],
    ],
    0,
  ]);
  for (const end of [far, stuck, deaf, never]) end.close();
});

Deno.test("a connection gets the number that a file had in another pair", async () => {
  await inFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/in`, "hello");
    // Two of the four numbers may go to the epoll instance and the timer of Descriptor.connect.
    const given = Object.fromEntries([3, 4, 5, 6].map((fd) => [
      fd,
      fd % 2 ? open(`${folder}/in`, O_RDONLY) : open(`${folder}/out${fd}`, O_WRONLY | O_CREAT),
    ]));
    const code = `
      const { localAddress } = await import("./sys/socket.ts");
      const listener = Descriptor.listen("127.0.0.1:0"), target = Descriptor.listen("127.0.0.1:0");
      const [own, to] = [listener, target].map(({ fd }) => String(localAddress(fd)));
      const client = await Descriptor.connect(own);
      const copier = new Copier([[3, 4], [5, 6]]), numbers = [];
      await copier.serve(listener, async () => {
        while (!copier.channels.every(({ ended }) => ended)) {
          await new Promise((resolve) => setTimeout(resolve));
        }
        // The lower one is such a number, and is joined with the client.
        const made = [await Descriptor.connect(to), await Descriptor.connect(to)];
        numbers.push(...made.map(({ fd }) => fd));
        const [one, other] = made.sort((one, other) => one.fd - other.fd);
        other.close();
        return one;
      }, { onConnect: () => copier.drain(), onEnd: ({ error }) => say(error ?? "no error") });
      client.shutdown(1);
      const running = copier.run();
      while (numbers.length < 2) await new Promise((resolve) => setTimeout(resolve));
      target.close(); // which resets both
      await running;
      say(Math.min(...numbers) <= 6);
    `;
    using running = program(code, given);
    assertEquals(await said(running), ["read target: Connection reset by peer", true]);
  });
});

Deno.test("of two clients that are joined, one is a session that ends, and the other's time stands still", async () => {
  const code = `
    const { localAddress } = await import("./sys/socket.ts");
    const [one, other] = [Descriptor.listen("127.0.0.1:0"), Descriptor.listen("127.0.0.1:0")];
    const addresses = [one, other].map(({ fd }) => String(localAddress(fd)));
    const accepted = [];
    const copier = new Copier([]);
    await copier.serve(one, other, {
      onAccept: (session) => accepted.push(session),
      onEnd: ({ id, ended }) => say([id, ended]),
    });
    const running = copier.run();
    const clients = [await Descriptor.connect(addresses[0])];
    while (accepted.length < 1) await new Promise((resolve) => setTimeout(resolve));
    clients.push(await Descriptor.connect(addresses[1]));
    while (accepted.length < 2) await new Promise((resolve) => setTimeout(resolve));
    for (const client of clients) client.close();
    copier.drain();
    await running;
    const times = accepted.map(({ seconds }) => seconds);
    await new Promise((resolve) => setTimeout(resolve, 20));
    say(accepted.map(({ ended, seconds }, i) => [ended, seconds === times[i]]));
  `;
  assertEquals(await said(program(code, {})), [
    [1, "eof"],
    [["eof", true], ["stopped", true]],
  ]);
});
