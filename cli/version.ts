import project from "../deno.json" with { type: "json" };

/** The program's version and the runtime's, in one line. */
export function version(): string {
  return `iocopy ${project.version} (deno ${Deno.version.deno})\n`;
}
