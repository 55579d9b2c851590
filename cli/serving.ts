/**
 * Serving connections, and reporting them.
 *
 * @module
 */
import type { Copier, ServeOptions, ServiceStatus, SessionStatus } from "../engine.ts";
import { UsageError } from "./options.ts";
import type { Settings } from "./options.ts";
import type { Log } from "./log.ts";
import type { Figures, Piece } from "./progress.ts";
import { ENDINGS, forPeople, toMillis } from "./stats.ts";

/** An identical error is printed once in so many milliseconds, and counted meanwhile. */
const REPEATED_ERROR = 1000;

/** That clients have to wait is printed once in so many milliseconds. */
const REPEATED_WAIT = 60_000;

/**
 * Makes `copier` serve what the command line asks for, and report it to `log`.
 * `listeners` are the pairs of which both descriptors listen. Returns how the services stand; a
 * function that, once they run, says if the system allows fewer connections than were asked for;
 * and one that reports what is only counted yet.
 */
export async function serveAll(
  copier: Copier,
  settings: Settings,
  listeners: readonly (readonly [number, number])[],
  log: Log,
): Promise<{ services: ServiceStatus[]; tellLimit: () => void; end: () => void }> {
  const failures = new Counted(log);
  const options = toOptions(settings);
  const services: ServiceStatus[] = [];
  for (const [listener, target] of [...settings.services, ...listeners]) {
    // Who waits for another client and goes was not refused by anybody.
    const refused = typeof target === "string" ? failures : undefined;
    try {
      const service = { ...options, ...telling(settings, log, refused) };
      services.push(await copier.serve(listener, target, service));
    } catch (error) {
      throw error instanceof RangeError ? new UsageError(error.message) : error;
    }
  }
  const tellLimit = () => {
    const asked = (settings.connections ?? 0) * services.length;
    const possible = services[0]?.possible ?? 0;
    if (possible === 0 || asked <= possible) return;
    log.message(
      `at most ${possible} connections, not ${asked}: the limit of open descriptors allows no more`,
    );
    log.flush();
  };
  return { services, tellLimit, end: () => failures.end() };
}

function toOptions(settings: Settings): ServeOptions {
  const { connections, connectTimeout, timeout, halfClosed, exitIdle, proxyProtocol } = settings;
  return {
    ...connections && { connections },
    connectTimeout: connectTimeout * 1000,
    timeout: timeout * 1000,
    halfClosed: halfClosed * 1000,
    exitIdle: exitIdle * 1000,
    ...proxyProtocol && { proxyProtocol },
  };
}

function telling(
  { verbose, stats, json }: Settings,
  log: Log,
  failures: Counted | undefined,
): ServeOptions {
  let saidAt = -Infinity;
  return {
    ...verbose && {
      onAccept: ({ id, address, peer }, { open }) =>
        log.message(`${address} #${id}: accepted from ${peer}, ${open} open`),
      onConnect: ({ id, address, target }) =>
        log.message(`${address} #${id}: connected to ${target}`),
    },
    onFull: (reason, { address }) => {
      const now = performance.now();
      if (now - saidAt < REPEATED_WAIT) return;
      saidAt = now;
      log.message(`${address}: ${reason}, others wait`);
      log.flush();
    },
    onFailure: (error) => {
      log.message(error.message);
      log.flush();
    },
    onEnd: (session, { address: service, open }) => {
      if (stats && json) log.keep(JSON.stringify(toObject(session, service)) + "\n");
      if (verbose) {
        const { id, address, sent, received, seconds } = session;
        const how = session.error ?? ENDINGS[session.ended ?? "eof"];
        log.message(
          `${address} #${id}: ${how}; ${sent} bytes sent, ${received} received in ` +
            `${seconds.toFixed(3)} s, ${open} open`,
        );
      } else if (session.target === undefined && session.error) failures?.say(session.error);
      log.flush();
    },
  };
}

function toObject(session: SessionStatus, service: string) {
  const { id, peer, target, sent, received, seconds, ended, error } = session;
  return {
    service,
    id,
    peer,
    target: target ?? null,
    sent,
    received,
    seconds: toMillis(seconds),
    ended: ended ?? null,
    error: error ?? null,
  };
}

/** Prints a line once, and counts its repetitions. */
class Counted {
  readonly #log: Log;
  readonly #counts = new Map<string, number>();

  constructor(log: Log) {
    this.#log = log;
  }

  say(line: string): void {
    const count = this.#counts.get(line);
    if (count !== undefined) return void this.#counts.set(line, count + 1);
    this.#log.message(line);
    this.#counts.set(line, 0);
    Deno.unrefTimer(setTimeout(() => this.#tell(line), REPEATED_ERROR));
  }

  #tell(line: string): void {
    const more = this.#counts.get(line) ?? 0;
    this.#counts.delete(line);
    if (more > 0) this.#log.message(`${line} (${more} more times)`);
    this.#log.flush();
  }

  /** Tells all that is only counted yet. */
  end(): void {
    for (const line of this.#counts.keys()) this.#tell(line);
  }
}

/** One line for each service: what it has done so far. */
export function sums(services: readonly ServiceStatus[], json: boolean): string {
  return services.map((service) => {
    const { address, target, connections, open, errors } = service;
    let { sent, received } = service;
    for (const session of service.sessions) {
      sent += session.sent;
      received += session.received;
    }
    const object = { service: address, target, connections, open, errors, sent, received };
    return json
      ? JSON.stringify(object) + "\n"
      : `iocopy: ${address} -> ${target}: ${connections} connections, ${open} open, ` +
        `${errors} failed, ${forPeople(sent)} sent, ${forPeople(received)} received\n`;
  }).join("");
}

/** How many connections are open, and the rates since the figures before; the last ones have the averages. */
export function traffic(services: readonly ServiceStatus[]): Figures {
  const start = { at: performance.now(), connections: 0, bytes: 0 };
  let before = start;
  const pieces = (last = false): Piece[] => {
    const now = { at: performance.now(), connections: 0, bytes: 0 };
    let open = 0;
    for (const service of services) {
      now.connections += service.connections;
      now.bytes += service.sent + service.received;
      open += service.open;
      for (const { sent, received } of service.sessions) now.bytes += sent + received;
    }
    const since = last ? start : before;
    const seconds = (now.at - since.at) / 1000;
    const mean = (amount: number) => seconds > 0 ? amount / seconds : 0;
    const rate = mean(now.connections - since.connections);
    const speed = forPeople(mean(Math.max(0, now.bytes - since.bytes)));
    before = now;
    return [[1, `${open} open`], [4, `${rate.toFixed(1)} connections/s`], [3, `${speed}/s`]];
  };
  return { pieces };
}
