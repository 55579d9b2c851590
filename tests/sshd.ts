/**
 * A temporary sshd with temporary keys, where the user who runs the test can log in.
 *
 * @module
 */
import { find, type Program, type Workshop } from "./programs.ts";

/** What {@linkcode startSshd} needs. */
export const SSHD = ["sshd", "ssh-keygen", "ssh", "tcpserver"] as const;

/** An sshd that listens on the loopback device. */
export interface Sshd {
  readonly port: number;
  readonly server: Program;
  /** For ssh's -F. */
  readonly config: string;
}

/** Starts it behind a tcpserver, which finds a free port by itself. */
export async function startSshd(shop: Workshop): Promise<Sshd> {
  for (const key of ["host", "user"]) {
    await shop.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", shop.path(key));
  }
  const write = (name: string, lines: string[]) => {
    Deno.writeTextFileSync(shop.path(name), lines.join("\n") + "\n");
    return shop.path(name);
  };
  const serverConfig = write("sshd_config", [
    `HostKey ${shop.path("host")}`,
    `AuthorizedKeysFile ${shop.path("user.pub")}`,
    "StrictModes no", // the keys are in /tmp, where everybody may write
    "UsePAM no",
    "PasswordAuthentication no",
    "PermitRootLogin yes",
    "PrintLastLog no",
    "Subsystem sftp internal-sftp",
  ]);
  const hostKey = Deno.readTextFileSync(shop.path("host.pub"));
  const config = write("ssh_config", [
    "HostKeyAlias iocopy",
    `UserKnownHostsFile ${write("known_hosts", [`iocopy ${hostKey}`])}`,
    "GlobalKnownHostsFile /dev/null",
    "StrictHostKeyChecking yes",
    `IdentityFile ${shop.path("user")}`,
    "IdentitiesOnly yes",
    "IdentityAgent none",
    "BatchMode yes",
    "LogLevel ERROR",
  ]);
  // Run by root, Debian's sshd needs this folder, which its service creates otherwise.
  if (Deno.uid() === 0) Deno.mkdirSync("/run/sshd", { recursive: true, mode: 0o755 });
  const sshd = [find("sshd") ?? "sshd", "-i", "-e", "-f", serverConfig];
  const server = shop.start(["tcpserver", "-1", "-v", "-HRl0", "127.0.0.1", "0", ...sshd]);
  const [port] = await server.says(/^\d+$/);
  return { port: Number(port), server, config };
}
