/**
 * A seccomp filter refuses a system call, as in containers and on hardened hosts: the
 * copy works without it, or one line names what is missing. Nothing is lost silently.
 */
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import {
  type End,
  O_APPEND,
  O_CREAT,
  O_RDONLY,
  O_WRONLY,
  open,
  pipe,
  serving,
  SOCKETS,
  tcpPair,
  unixPair,
} from "./ends.ts";
import { endsWith, passes } from "./expect.ts";
import { COMMAND } from "./harness.ts";
import { fillUp, hungUp, inFolder, injecting, iocopy, noise, same, within } from "./probe.ts";
import { needing } from "./programs.ts";

/** Installs a filter and executes the command: call number argv[1] fails with errno argv[2]; if argv[4] is not -1, only if that is its argument number argv[3]. */
const FILTER = `
import ctypes, os, struct, sys
number, errno, place, argument = map(int, sys.argv[1:5])
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
code = [(LOAD, 0, 0, 0), (EQUAL, 0, 1 if argument < 0 else 3, number)]
if argument >= 0: code += [(LOAD, 0, 0, 16 + 8 * place), (EQUAL, 0, 1, argument)]
code += [(RETURN, 0, 0, 0x50000 | errno), (RETURN, 0, 0, 0x7fff0000)]
text = b"".join(struct.pack("HBBI", *line) for line in code)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]
libc = ctypes.CDLL(None)
NO_NEW_PRIVS, SECCOMP, FILTER = 38, 22, 2
assert libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0) == 0
assert libc.prctl(SECCOMP, FILTER, ctypes.byref(Program(len(code), text)), 0, 0) == 0
os.execvp(sys.argv[5], sys.argv[5:])
`;

/** The numbers of system calls: [x86-64, aarch64] (unistd.h). */
const CALLS = {
  accept4: [288, 242],
  dup3: [292, 24],
  fcntl: [72, 25],
  getpeername: [52, 205],
  getsockname: [51, 204],
  getsockopt: [55, 209],
  ioctl: [16, 29],
  kcmp: [312, 272],
  pipe2: [293, 59],
  poll: [7, 73], // ppoll on aarch64
  preadv2: [327, 286],
  read: [0, 63],
  pwritev2: [328, 287],
  splice: [275, 76],
  statx: [332, 291],
  timerfd_create: [283, 85],
  timerfd_settime: [286, 86],
  write: [1, 64],
} as const;

const EPERM = 1, ENOENT = 2, ENOMEM = 12, EACCES = 13, EINPROGRESS = 115;

/** The command with a call that is refused, always or only with `argument`: fcntl's command, write's length, else the descriptor. */
function without(call: keyof typeof CALLS, errno = EPERM, argument = -1): readonly string[] {
  const number = CALLS[call][Deno.build.arch === "x86_64" ? 0 : 1];
  const place = call === "fcntl" ? 1 : call === "write" ? 2 : 0;
  const words = [number, errno, place, argument].map(String);
  return ["python3", "-c", FILTER, ...words, ...COMMAND];
}

type Make = (folder: string) => [from: End | undefined, source: End, sink: End, to: End];

/** Channels, each with the end that is written and the end where everything arrives. */
const CHANNELS: Record<string, Make> = {
  "pipe to pipe": () => {
    const [[source, from], [to, sink]] = [pipe(), pipe()];
    return [from, source, sink, to];
  },
  "TCP to pipe": () => {
    const [[from, source], [to, sink]] = [tcpPair(), pipe()];
    return [from, source, sink, to];
  },
  "pipe to TCP": () => {
    const [[source, from], [to, sink]] = [pipe(), tcpPair()];
    return [from, source, sink, to];
  },
  "unix to TCP": () => {
    const [[from, source], [to, sink]] = [unixPair(), tcpPair()];
    return [from, source, sink, to];
  },
  "file to pipe": (folder) => {
    const [to, sink] = pipe();
    return [undefined, open(`${folder}/input`, O_RDONLY), sink, to];
  },
  "pipe to a file for append": toFile,
};

function toFile(folder: string): [End, End, End, End] {
  const [source, from] = pipe();
  const sink = open(`${folder}/output`, O_WRONLY | O_CREAT | O_APPEND);
  return [from, source, sink, open(`${folder}/output`, O_RDONLY)];
}

/** Copies through one of {@linkcode CHANNELS}; everything has to arrive. Returns the statistics. */
async function copies(make: Make, command: readonly string[]): Promise<string> {
  return await inFolder(async (folder) => {
    const content = noise(300_000);
    await Deno.writeFile(`${folder}/input`, content);
    const [from, source, sink, to] = make(folder);
    using running = iocopy("--stats=json 3 4", { 3: source, 4: sink }, { command });
    void from?.write(content).then(() => from.close());
    if (make === toFile) await running.outcome;
    assert(same(await within("the end", to.readAll()), content), "other bytes");
    const { code, stderr } = await running.outcome;
    assertEquals(code, 0, stderr);
    to.close();
    return stderr;
  });
}

for (const [kind, make] of Object.entries(CHANNELS)) {
  for (
    const [errno, words] of [
      [EPERM, "Operation not permitted"],
      [EACCES, "Permission denied"],
      [EINPROGRESS, "Operation now in progress"],
    ] as const
  ) {
    const name = `splice(2) is refused with "${words}": ${kind}`;
    Deno.test(needing(["python3"], name), async () => {
      const stats = await copies(make, without("splice", errno));
      const reason = make === toFile ? "append" : `splice: ${words}`; // splice(2) is not tried there
      assertStringIncludes(stats, `"route":"copy","reason":"${reason}"`);
    });
  }
}

for (const call of ["getpeername", "ioctl", "kcmp", "pipe2", "preadv2", "pwritev2"] as const) {
  Deno.test(needing(["python3"], `it works without ${call}`), async () => {
    const command = without(call);
    await Promise.all(Object.values(CHANNELS).map((make) => copies(make, command)));
  });
}

Deno.test(
  needing(
    ["python3"],
    "poll is refused: everything arrives, and nothing waits for ever for an end",
  ),
  async () => {
    // With any other errno the runtime itself does not start.
    const command = without("poll", ENOMEM);
    const others = Object.values(CHANNELS).filter((make) => make !== toFile);
    await Promise.all(others.map((make) => copies(make, command)));
    // Here the end of a pipe cannot be proved, and a line says so.
    await inFolder(async (folder) => {
      const [from, source, sink, to] = toFile(folder);
      using running = iocopy("3 4", { 3: source, 4: sink }, { command });
      await from.write("all");
      from.close();
      await endsWith(running, 111, "iocopy: read 3: Cannot allocate memory\n");
      assertEquals(new TextDecoder().decode(await to.readAll()), "all");
      to.close();
    });
  },
);

Deno.test(
  needing(["python3"], "what is read over at TCP's urgent mark is not lost if a write is refused"),
  async () => {
    const [[peer, source], [out, sink]] = [tcpPair(), tcpPair()];
    const length = 777; // by which the write is known
    await peer.write("before");
    peer.sendUrgent("!");
    await peer.write("x".repeat(length));
    peer.close();
    using running = iocopy("3 4", { 3: source, 4: sink }, {
      command: without("write", ENOMEM, length),
    });
    const arrived = new TextDecoder().decode(await within("the end", out.readAll()));
    assertEquals(arrived, "before" + "x".repeat(length));
    assertEquals(await running.outcome, { code: 0, signal: null, stderr: "" });
    out.close();
  },
);

const F_GETFD = 1, F_GETFL = 3, F_SETFL = 4;

/** Calls without which it cannot work, and the line that says so. */
const NEEDED: [keyof typeof CALLS, argument: number, says: string][] = [
  ["fcntl", F_GETFD, "fcntl 3"],
  ["fcntl", F_GETFL, "fcntl 3"],
  ["getsockopt", -1, "getsockopt 3"],
  ["statx", -1, "statx 3"],
  ["timerfd_create", -1, "timerfd_create"],
  ["timerfd_settime", -1, "timerfd_settime"],
];

for (const [call, argument, says] of NEEDED) {
  const name = `${call} is refused${argument < 0 ? "" : ` (${argument})`}: it says so`;
  Deno.test(needing(["python3"], name), async () => {
    const [from, source] = tcpPair();
    const [to, sink] = unixPair();
    const command = without(call, EPERM, argument);
    using running = iocopy("3 4 4 3", { 3: source, 4: sink }, { command });
    void from.write(noise(300_000)).catch(() => {}); // more than the buffers hold
    await endsWith(running, 111, `iocopy: ${says}: Operation not permitted\n`);
    for (const end of [from, to]) end.close();
  });
}

// The runtime may leave its own errno between a call and the reading of errno: see sys/ffi.ts.
for (const call of ["getpeername", "kcmp", "timerfd_create", "timerfd_settime"] as const) {
  Deno.test(needing(["strace"], `the errno of ${call} is another call's, once`), async () => {
    const command = injecting(`${call}:error=ENOENT:when=1`);
    await Promise.all(Object.values(CHANNELS).map((make) => copies(make, command)));
  });
}

Deno.test(
  needing(["python3"], "a read that fails with ENOENT, as of a FUSE file, is an error"),
  async () => {
    await inFolder(async (folder) => {
      await Deno.writeTextFile(`${folder}/input`, "x");
      const input = open(`${folder}/input`, O_RDONLY);
      const output = open(`${folder}/output`, O_WRONLY | O_CREAT | O_APPEND);
      const command = without("read", ENOENT, 3);
      using running = iocopy("3 4", { 3: input, 4: output }, { command });
      await endsWith(running, 111, "iocopy: read 3: No such file or directory\n");
    });
  },
);

/** What a service cannot work without. */
const SERVING: [keyof typeof CALLS, argument: number, says: string][] = [
  ["accept4", -1, "accept 3"],
  ["fcntl", F_SETFL, "fcntl 3"],
  ["getsockname", -1, "getsockname 3"],
];

for (const [call, argument, says] of SERVING) {
  const name = `${call} is refused to a service: a line says so, and nothing spins or hangs`;
  Deno.test(needing(["python3"], name), async () => {
    const { listener, port } = serving();
    const command = without(call, EPERM, argument);
    using running = iocopy("3 127.0.0.1:1", { 3: listener }, { command });
    const client = await Deno.connect({ port }).catch(() => undefined); // it may have ended
    await endsWith(running, 111, `iocopy: ${says}: Operation not permitted\n`);
    client?.close();
  });
}

Deno.test(
  needing(["python3"], "dup3 is refused: the copy is complete, and a line says so"),
  async () => {
    const [[input, stdin], [stdout, output]] = [pipe(), pipe()];
    using running = iocopy("0 1", { 0: input, 1: output }, { command: without("dup3") });
    await passes(stdin, stdout);
    stdin.close();
    assertEquals((await stdout.readAll()).length, 0);
    const { code, stderr } = await running.outcome;
    assertEquals(code, 111);
    assertStringIncludes(stderr, "iocopy: close 1: Operation not permitted\n");
    stdout.close();
  },
);

for (const [kind, make] of Object.entries(SOCKETS)) {
  const name = `a ${kind} socket stays blocking, stuck: the other channel goes on`;
  Deno.test(needing(["python3"], name), async () => {
    const [[input, stdin], [stdout, output]] = [pipe(), pipe()];
    const [peer, sink] = make();
    fillUp(sink);
    const [source, from] = pipe();
    const command = without("fcntl", EPERM, F_SETFL);
    using running = iocopy("0 1 3 4", { 0: input, 1: output, 3: source, 4: sink }, { command });
    await passes(stdin, stdout);
    await from.write("stuck");
    for (let i = 0; i < 10; i++) await within("the other channel", passes(stdin, stdout));
    peer.close();
    await within("the upstream learns", hungUp(from));
    stdin.close();
    await running.outcome;
    for (const end of [from, stdout]) end.close();
  });
}
