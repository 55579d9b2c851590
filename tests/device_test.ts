/**
 * Devices that keep records apart: what one read or write moves is one record.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import { eventfd, pipe } from "./ends.ts";
import { COMMAND, skippedIf } from "./harness.ts";
import { iocopy, outputOf } from "./probe.ts";
import { needing } from "./programs.ts";

/**
 * Has the command, which is in argv, copy from a socket of messages to a network
 * interface, or the other way; prints how long each frame is that arrives. The
 * interface is in a network of its own, and ends with this program.
 */
const FRAMES = `
import fcntl, os, socket, struct, subprocess, sys
TUNSETIFF, TAP, SIOCSIFMTU, SIOCSIFFLAGS, UP = 0x400454ca, 0x1002, 0x8922, 0x8914, 1
ALL, OURS = 3, b"\\x88\\xb5"
device = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", b"tap", TAP))
interface = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL))
fcntl.ioctl(interface, SIOCSIFMTU, struct.pack("16si20x", b"tap", 9000))
fcntl.ioctl(interface, SIOCSIFFLAGS, struct.pack("16sH22x", b"tap", UP))
interface.bind(("tap", 0))
def passes(sender, receiver, rfd, wfd):
    running = subprocess.Popen([*sys.argv[1:], str(rfd), str(wfd)], pass_fds=(rfd, wfd))
    receiver.settimeout(20)
    for length in 1000, 4096, 4097, 9000:
        frame = b"\\xff" * 6 + b"\\2\\0\\0\\0\\0\\1" + OURS + b"x" * (length - 14)
        sender.send(frame)
        while (got := receiver.recv(65536))[12:14] != OURS: pass # the system's own
        print(length if got == frame else f"{len(got)} of {length}", flush=True)
    running.terminate()
    running.wait()
here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
if sys.argv.pop(1) == "write": passes(there, interface, here.fileno(), device)
else: passes(interface, there, device, here.fileno())
`;

const UNSHARED = ["unshare", "--user", "--map-root-user", "--net"];

async function hasInterfaces(): Promise<boolean> {
  try {
    const words = [...UNSHARED, "test", "-w", "/dev/net/tun"];
    return (await outputOf(words)).code === 0;
  } catch {
    return false; // there is no unshare(1)
  }
}

const canMake = await hasInterfaces();

for (
  const [direction, options] of [
    ["write", []],
    ["read", []],
    ["read", ["--rate=50000"]], // which allows 2500 bytes at a time
  ] as const
) {
  const name = `${direction} frames of a network interface, each whole ${options.join()}`.trim();
  Deno.test(
    skippedIf(!canMake, "no user namespace, or no /dev/net/tun", needing(["python3"], name)),
    async () => {
      const words = [...UNSHARED, "python3", "-c", FRAMES, direction, ...COMMAND, ...options];
      const { stdout, stderr } = await outputOf(words);
      assertEquals(stdout, "1000\n4096\n4097\n9000\n", stderr);
    },
  );
}

Deno.test("a rate of less than a record of a device", async () => {
  const [to, sink] = pipe();
  using running = iocopy("--rate=10 3 4", { 3: eventfd(), 4: sink });
  assertEquals([...await to.readExactly(8)], [1, 0, 0, 0, 0, 0, 0, 0]);
  running.kill("SIGTERM");
  assertEquals(await running.outcome, { code: 143, signal: null, stderr: "" });
  to.close();
});
