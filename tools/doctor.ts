/**
 * Reports what iocopy and its tests need and this machine lacks, and how to get it.
 *
 *     deno task doctor               what is there, what is missing, and for what
 *     deno task doctor --packages    the names of all Debian packages, except npm
 *
 * The exit status is 1 if iocopy itself would not run.
 *
 * @module
 */
import { LIBRARY } from "../sys/ffi.ts";

/** The oldest Deno that all tests pass with, on every commit. */
export const OLDEST = "2.6.0";

/** Programs by purpose: their Debian packages, and a file by which each is recognized. */
const PROGRAMS: Record<string, Record<string, string>> = {
  "the tunnels": { "ucspi-tcp": "tcpserver", "openssh-client": "ssh" },
  "all tests": {
    "openssh-server": "/usr/sbin/sshd",
    rsync: "rsync",
    curl: "curl",
    s6: "s6-ipcserver",
    socat: "socat",
    ncat: "ncat",
    strace: "strace",
    shellcheck: "shellcheck",
    mandoc: "mandoc",
    tmux: "tmux",
    procps: "ps",
    systemd: "systemd-socket-activate",
    python3: "python3",
    bsdextrautils: "hexdump",
    "nginx-light": "/usr/sbin/nginx",
    haproxy: "/usr/sbin/haproxy",
    "apache2-utils": "ab",
    "openbsd-inetd": "/usr/sbin/inetd",
    lintian: "lintian",
    dpkg: "dpkg-deb",
    tar: "tar",
    "util-linux": "unshare",
  },
  "the benchmark": { pv: "pv", gcc: "cc", "libc6-dev": "/usr/include/stdio.h" },
  "the package for npm": { npm: "npm" },
};

/** Comes with Node, whose own npm Debian's package must not replace. */
const OF_NODE = "npm";

function isThere(program: string): boolean {
  const folders = program.startsWith("/") ? [""] : (Deno.env.get("PATH") ?? "").split(":");
  return folders.some((folder) => {
    try {
      return Deno.statSync(folder ? `${folder}/${program}` : program).isFile;
    } catch {
      return false;
    }
  });
}

/** What iocopy itself needs: whether it is there, what it is, and what to do if not. */
function necessities(): [boolean, string, string][] {
  const { os } = Deno.build;
  const [major = 0, minor = 0] = Deno.version.deno.split(".").map(Number);
  const [oldMajor = 0, oldMinor = 0] = OLDEST.split(".").map(Number);
  const isNew = major > oldMajor || major === oldMajor && minor >= oldMinor;
  return [
    [os === "linux", `Linux (this is ${os})`, "splice(2) and epoll(7) are Linux's"],
    [isNew, `Deno ${OLDEST} or later (this is ${Deno.version.deno})`, "deno upgrade"],
    [hasLibc(), `the GNU C library (${LIBRARY})`, "neither iocopy nor Deno runs with musl"],
  ];
}

function hasLibc(): boolean {
  try {
    Deno.dlopen(LIBRARY, {}).close();
    return true;
  } catch {
    return false;
  }
}

if (import.meta.main) {
  if (Deno.args.includes("--packages")) {
    const names = Object.values(PROGRAMS).flatMap(Object.keys);
    console.log(names.filter((name) => name !== OF_NODE).join(" "));
    Deno.exit(0);
  }
  const needed = necessities();
  for (const [well, what, advice] of needed) {
    console.log(well ? `ok       ${what}` : `MISSING  ${what}: ${advice}`);
  }
  for (const [purpose, programs] of Object.entries(PROGRAMS)) {
    const missing = Object.keys(programs).filter((name) => !isThere(programs[name] ?? name));
    console.log(
      missing.length
        ? `missing  for ${purpose}: apt-get install ${missing.join(" ")}`
        : `ok       for ${purpose}`,
    );
  }
  if (needed.some(([well]) => !well)) Deno.exit(1);
}
