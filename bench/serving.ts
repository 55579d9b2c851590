/**
 * Measures iocopy as one process for all connections beside other proxies, in one run:
 * `deno task bench:serving --help`.
 *
 * @module
 */
import { resolve } from "node:path";
import { parseArgs } from "@std/cli/parse-args";
import { chosen, count, print, run, say, unknown } from "./command.ts";
import { BINARY, isOurs, SOURCE } from "./copiers.ts";
import { Load } from "./load.ts";
import { median, Progress } from "./measure.ts";
import { plot } from "./plot.ts";
import { digits, fill, machine, markdown, type Table, text, write } from "./report.ts";

const TESTS = ["http", "kept", "churn", "idle", "bulk", "busy", "paced"].map((id) => ({ id }));

const HELP = `usage: deno task bench:serving [options]

Measures iocopy from source, the executable that the environment variable IOCOPY
names, and the other proxies that are installed, in turn.

  --quick           few of everything, once: shows whether it works, not how fast it is
  --rounds=N        runs of each program, by default 5
  --tests=A,B       only these: ${TESTS.map(({ id }) => id).join(" ")}
  --proxies=A,B     only these: iocopy source proxyd haproxy haproxy-mt socat tcpserver
  --churn=N         connections one after the other, by default 20000
  --json            print the figures as JSON
  --write           write the tables into doc/serving.md, and bench/serving.svg
  --help            print this text

Exit status: 0 everything was measured, 1 something failed, 100 wrong use, 111 it could
not start.
`;

const OPTIONS = {
  boolean: ["quick", "json", "write", "help"],
  string: ["rounds", "tests", "proxies", "churn"],
} as const;

/** A program that forwards connections from one port to another. */
interface Proxy {
  id: string;
  title: string;
  /** The command that forwards a port to a target; if `given`, it gets a listening socket as 3. */
  words: (port: number, target: number, folder: string) => string[];
  given?: boolean;
  /** Whether it starts a process for each connection; it gets fewer connections then. */
  forks?: boolean;
  /** The most connections at one time with 20,000 descriptors, if the others can have more. */
  most?: number;
  /** Programs that it needs. */
  needs: string[];
}

const PROXYD = "/lib/systemd/systemd-socket-proxyd";

function ours(id: string, title: string, command: readonly string[]): Proxy {
  const words = (_: number, target: number) => [...command, "-c", "10000", "3", here(target)];
  return { id, title, words, given: true, needs: [] };
}

function haproxy(id: string, title: string, threads: string): Proxy {
  return {
    id,
    title,
    needs: ["haproxy"],
    words: (port, target, folder) => {
      const config = `${folder}/${id}.cfg`;
      Deno.writeTextFileSync(
        config,
        `global\n  ${threads}\n  maxconn 9950\ndefaults\n  mode tcp\n  timeout client 1h\n` +
          `  timeout server 1h\n  timeout connect 10s\nlisten all\n  bind ${here(port)}\n` +
          `  server one ${here(target)}\n`,
      );
      return ["haproxy", "-db", "-f", config];
    },
  };
}

/** All proxies that are measured. */
function proxies(limit: string): Proxy[] {
  return [
    ...BINARY ? [ours("iocopy", "iocopy, compiled", [BINARY])] : [],
    ours("source", "iocopy, deno run", SOURCE),
    {
      id: "proxyd",
      title: "systemd-socket-proxyd",
      words: (_, target) => [PROXYD, "--connections-max=10000", here(target)],
      given: true,
      most: 3000, // six descriptors each
      needs: [PROXYD],
    },
    haproxy("haproxy", "haproxy, nbthread 1", "nbthread 1"),
    haproxy("haproxy-mt", "haproxy as it comes", "# as many threads as it likes"),
    {
      id: "socat",
      title: "socat, fork",
      words: (port, target) => [
        "socat",
        `TCP-LISTEN:${port},bind=127.0.0.1,fork,reuseaddr,backlog=4096`,
        `TCP:${here(target)}`,
      ],
      forks: true,
      needs: ["socat"],
    },
    {
      id: "tcpserver",
      title: "tcpserver, tcpclient, splice in C",
      words: (port, target) => [
        ..."tcpserver -c 1000 -b 4096 -H -R -l 0 127.0.0.1".split(" "),
        String(port),
        ..."tcpclient -H -R -l 0 127.0.0.1".split(" "),
        ...[String(target), limit, "0", "7", "6", "1"],
      ],
      forks: true,
      needs: ["tcpserver", "tcpclient"],
    },
  ];
}

function here(port: number): string {
  return `127.0.0.1:${port}`;
}

function isHere(program: string): boolean {
  const args = ["-c", 'command -v "$0" || command -v "/usr/sbin/$0"', program];
  return new Deno.Command("sh", { args, stdout: "null", stderr: "null" }).outputSync().success;
}

/**
 * How often in a run the ratios beside idle connections are measured, each time with a new
 * process: a single one of the same proxy was 0.83 to 1.27.
 */
const PAIRS = 3;

/** How much of everything. */
interface Amount {
  rounds: number;
  /**
   * Connections before those that count, from a proxy that stays one process: until some
   * 40,000 have passed, a runtime compiles what runs often, on the other processor.
   */
  warmup: number;
  requests: number;
  churn: number;
  bytes: number;
  idle: number;
  /** Idle connections beside a busy one: as many as 20,000 descriptors, a usual limit, allow. */
  beside: number;
  trips: number;
  paced: number;
  seconds: number;
}

function amount(quick: boolean, rounds: number, churn: number): Amount {
  return quick
    ? {
      rounds,
      churn,
      warmup: 200,
      requests: 200,
      bytes: 5e7,
      idle: 100,
      beside: 100,
      trips: 200,
      paced: 20,
      seconds: 1,
    }
    : {
      rounds,
      churn,
      warmup: 50_000,
      requests: 8000,
      bytes: 1.5e9,
      idle: 5000,
      beside: 9900,
      trips: 5000,
      paced: 200,
      seconds: 3,
    };
}

/** The measurements, by the columns of the table. */
type Column =
  | "http"
  | "httpCpu"
  | "kept"
  | "churn"
  | "churnMemory"
  | "churnDescriptors"
  | "bulk"
  | "idleMemory"
  | "busyBulk"
  | "busyTrip"
  | "p50"
  | "p99";

type Figures = Map<string, Map<Column, number[]>>;

/** What connections.c prints. */
interface Outcome {
  seconds: number;
  connections: number;
  bytes: number;
  p50: number;
  p99: number;
}

/** Runs proxies and measures them. */
class Bench {
  readonly #folder: string;
  readonly #program: string;
  readonly #much: Amount;
  readonly #children = new Set<Deno.ChildProcess>();
  readonly http: number;

  constructor(folder: string, much: Amount) {
    this.#folder = folder;
    this.#much = much;
    this.#program = `${folder}/connections`;
    this.http = serverPort();
    const source = resolve(import.meta.dirname ?? ".", "connections.c");
    const args = ["-O2", "-w", "-pthread", "-o", this.#program, source];
    const { success, stderr } = new Deno.Command("cc", { args }).outputSync();
    if (!success) throw new Error(`cc connections.c: ${new TextDecoder().decode(stderr).trim()}`);
  }

  #start(words: readonly string[], piped = false): Deno.ChildProcess {
    const [program = "", ...args] = words;
    const child = new Deno.Command(program, {
      args,
      env: { DENO_NO_UPDATE_CHECK: "1", PATH: `${Deno.env.get("PATH")}:/usr/sbin` },
      stdin: piped ? "piped" : "null",
      stdout: piped ? "piped" : "null",
      stderr: "null",
    }).spawn();
    this.#children.add(child);
    void child.status.then(() => this.#children.delete(child));
    return child;
  }

  /** nginx, with a small page. */
  async serveHttp(): Promise<void> {
    const folder = this.#folder;
    await Deno.writeTextFile(`${folder}/index.html`, "a page\n");
    await Deno.chmod(folder, 0o755);
    const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
      .map((name) => `${name}_temp_path ${folder}/${name};`).join(" ");
    await Deno.writeTextFile(
      `${folder}/nginx.conf`,
      `daemon off; worker_processes 1; pid ${folder}/pid; error_log /dev/null;
      events { worker_connections 4096; }
      http { ${temporary} access_log off; keepalive_requests 1000000;
        server { listen 127.0.0.1:${this.http} backlog=4096; root ${folder}; } }`,
    );
    this.#start(["nginx", "-c", `${folder}/nginx.conf`, "-p", folder]);
    await listens(this.http);
  }

  /** Starts a proxy, measures `tests` with it, and ends it. */
  async measure(proxy: Proxy, tests: readonly string[], figures: Figures): Promise<string[]> {
    const failures: string[] = [];
    const add = (column: Column, value: number) => {
      const own = figures.get(proxy.id) ?? new Map<Column, number[]>();
      figures.set(proxy.id, own);
      own.set(column, [...own.get(column) ?? [], value]);
    };
    for (const test of tests) {
      const port = freePort();
      const target = test === "http" || test === "kept" ? this.http : freePort();
      const words = proxy.words(port, target, this.#folder);
      const child = this.#start(
        proxy.given ? [this.#program, "bind", String(port), ...words] : words,
      );
      try {
        await listens(port, test === "http" || test === "kept");
        await this.#measure(test, { proxy, pid: child.pid, port, target, add });
      } catch (error) {
        failures.push(`${proxy.title}, ${test}: ${error instanceof Error ? error.message : error}`);
      } finally {
        for (const pid of family(child.pid)) kill(pid, "SIGKILL");
        await child.status;
      }
    }
    return failures;
  }

  async #measure(
    test: string,
    { proxy, pid, port, target, add }: {
      proxy: Proxy;
      pid: number;
      port: number;
      target: number;
      add: (column: Column, value: number) => void;
    },
  ): Promise<void> {
    const much = this.#much;
    const run = (mode: string, ...args: (string | number)[]) =>
      this.#run(mode, ["-p", port, "-t", target, ...args]);
    const few = (count: number) => Math.min(count, proxy.forks ? 100 : proxy.most ?? count);
    switch (test) {
      case "http": {
        await this.#ab(port, proxy.forks ? 200 : much.warmup);
        const before = cpu(pid);
        add("http", await this.#ab(port, much.requests));
        if (!proxy.forks) add("httpCpu", (cpu(pid) - before) / much.requests * 1e6);
        break;
      }
      case "kept":
        await this.#ab(port, proxy.forks ? 200 : much.warmup, "-k");
        add("kept", await this.#ab(port, much.requests * 5, "-k"));
        break;
      case "churn": {
        const count = proxy.forks ? Math.min(much.churn, 2000) : much.churn;
        await run("churn", "-n", Math.min(1000, count));
        const [memory, descriptors] = await settled(pid);
        await run("churn", "-n", count);
        const [memoryLater, descriptorsLater] = await settled(pid);
        const { connections, seconds } = await run("churn", "-n", count);
        add("churn", connections / seconds);
        add("churnMemory", (memoryLater - memory) / 1e6);
        add("churnDescriptors", descriptorsLater - descriptors);
        break;
      }
      case "bulk":
        await run("bulk", "-n", 1e8);
        add("bulk", gigabytes(await run("bulk", "-n", much.bytes)));
        break;
      case "idle": {
        const count = few(much.idle);
        await run("churn", "-n", few(200));
        const [before] = await settled(pid);
        const [after] = await this.#opened(port, target, count, () => settled(pid));
        add("idleMemory", (after - before) / count / 1e3);
        break;
      }
      case "busy": {
        if (proxy.forks) break;
        await run("bulk", "-n", 1e8);
        const bulk = [await run("bulk", "-n", much.bytes)];
        const trip = [await run("ping", "-n", much.trips)];
        bulk.push(await run("bulk", "-n", much.bytes, "-i", few(much.beside)));
        trip.push(await run("ping", "-n", much.trips, "-i", few(much.beside)));
        const [alone, beside] = bulk.map(gigabytes), [quick, slow] = trip.map(({ p50 }) => p50);
        add("busyBulk", (beside ?? NaN) / (alone ?? NaN));
        add("busyTrip", (quick ?? NaN) / (slow ?? NaN));
        break;
      }
      case "paced": {
        const clients = few(much.paced);
        const { p50, p99 } = await run("paced", "-n", much.seconds, "-c", clients, "-s");
        add("p50", p50 / 1e3);
        add("p99", p99 / 1e3);
      }
    }
  }

  async #run(mode: string, args: (string | number)[]): Promise<Outcome> {
    const { success, stdout, stderr } = await new Deno.Command(this.#program, {
      args: [mode, ...args.map(String)],
    }).output();
    if (!success) throw new Error(new TextDecoder().decode(stderr).trim());
    return JSON.parse(new TextDecoder().decode(stdout));
  }

  /** The result of `look` while so many connections are open. */
  async #opened<T>(port: number, target: number, count: number, look: () => Promise<T>) {
    const args = ["open", "-p", port, "-t", target, "-n", count].map(String);
    const child = this.#start([this.#program, ...args], true);
    const reader = child.stdout.getReader();
    const { done } = await reader.read();
    if (done) throw new Error(`${count} connections cannot be opened`);
    try {
      return await look();
    } finally {
      await child.stdin.close();
      await reader.cancel();
      await child.status;
    }
  }

  async #ab(port: number, requests: number, ...options: string[]): Promise<number> {
    const url = `http://${here(port)}/index.html`;
    const args = ["-q", "-n", String(requests), "-c", "20", ...options, url];
    const { stdout, stderr } = await new Deno.Command("ab", { args }).output();
    const said = new TextDecoder().decode(stdout);
    const [, failed] = /^Failed requests: +(\d+)/m.exec(said) ?? [];
    const [, rate] = /^Requests per second: +([\d.]+)/m.exec(said) ?? [];
    if (failed !== "0") throw new Error(new TextDecoder().decode(stderr).trim() || "ab: failed");
    return Number(rate);
  }

  close(): void {
    for (const { pid } of this.#children) for (const one of family(pid)) kill(one, "SIGKILL");
  }
}

function gigabytes({ bytes, seconds }: Outcome): number {
  return bytes / seconds / 1e9;
}

function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

/** A free port that Linux gives to no socket that connects (ip(7): ip_local_port_range), as most servers have. */
function serverPort(): number {
  for (;;) {
    const port = 10_000 + Math.floor(20_000 * Math.random());
    try {
      Deno.listen({ hostname: "127.0.0.1", port }).close();
      return port;
    } catch (error) {
      if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    }
  }
}

/** Waits until a program listens on a port; with `reaches`, until a connection reaches the target. */
async function listens(port: number, reaches = false): Promise<void> {
  const hex = port.toString(16).toUpperCase().padStart(4, "0");
  for (let i = 0; i < 500; i++) {
    const table = await Deno.readTextFile("/proc/net/tcp");
    if (new RegExp(`:${hex} 00000000:0000 0A`).test(table)) {
      if (reaches) (await Deno.connect({ hostname: "127.0.0.1", port })).close();
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`nobody listens at port ${port}`);
}

function kill(pid: number, signal: Deno.Signal): void {
  try {
    Deno.kill(pid, signal);
  } catch {
    // It has just ended.
  }
}

/** A process and everything that it has started. */
function family(pid: number): number[] {
  const children = new Map<number, number[]>();
  for (const name of names("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const [, parent] = /\) \S (\d+)/.exec(read(`/proc/${name}/stat`)) ?? [];
    children.set(Number(parent), [...children.get(Number(parent)) ?? [], Number(name)]);
  }
  const all = [pid];
  for (let i = 0; i < all.length; i++) all.push(...children.get(all[i] ?? -1) ?? []);
  return all;
}

function read(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch {
    return ""; // it has just ended
  }
}

function names(folder: string): string[] {
  try {
    return [...Deno.readDirSync(folder)].map(({ name }) => name);
  } catch {
    return [];
  }
}

/** Processor seconds of all threads of a process. */
function cpu(pid: number): number {
  let nanoseconds = 0;
  for (const name of names(`/proc/${pid}/task`)) {
    nanoseconds += Number(read(`/proc/${pid}/task/${name}/schedstat`).split(" ")[0]);
  }
  return nanoseconds / 1e9;
}

/** Private memory, in bytes, and descriptors of a process and everything that it has started. */
function look(pid: number): [memory: number, descriptors: number] {
  let memory = 0, descriptors = 0;
  for (const one of family(pid)) {
    const [, kilobytes = "0"] = /^Pss_Anon: +(\d+)/m.exec(read(`/proc/${one}/smaps_rollup`)) ?? [];
    memory += Number(kilobytes) * 1024;
    descriptors += names(`/proc/${one}/fd`).length;
  }
  return [memory, descriptors];
}

/** The same, once it no longer changes. */
async function settled(pid: number): Promise<[memory: number, descriptors: number]> {
  let before = look(pid), same = 0;
  for (let i = 0; i < 40 && same < 4; i++) {
    await new Promise((resolve) => setTimeout(resolve, 250));
    const now = look(pid);
    same = now.every((value, i) => Math.abs(value - (before[i] ?? 0)) < 65536) ? same + 1 : 0;
    before = now;
  }
  return before;
}

const COLUMNS: [Column, title: string][] = [
  ["http", "connections/s (ab)"],
  ["httpCpu", "CPU each, µs"],
  ["kept", "requests/s (ab -k)"],
  ["churn", "connections/s, one byte"],
  ["churnMemory", "memory after, MB"],
  ["churnDescriptors", "descriptors after"],
  ["idleMemory", "idle connection, kB"],
  ["bulk", "one stream, GB/s"],
  ["busyBulk", "beside idle: stream"],
  ["busyTrip", "beside idle: trips"],
  ["p50", "beside a stream: p50, ms"],
  ["p99", "p99, ms"],
];

function table(figures: Figures, all: readonly Proxy[], columns: [Column, string][]): Table {
  return {
    title: "",
    columns: columns.map(([, title]) => title),
    rows: all.map(({ id, title }) => [
      title,
      ...columns.map(([column]) => digits(median(figures.get(id)?.get(column) ?? []))),
    ]),
  };
}

/** What README shows: each program once. */
function summary(figures: Figures, all: readonly Proxy[]): Table {
  const others = [BINARY ? "source" : "iocopy", "haproxy-mt"];
  const shown = all.filter(({ id }) => !others.includes(id));
  return table(figures, shown, [
    ["http", "connections/s"],
    ["kept", "requests/s, kept alive"],
    ["idleMemory", "an idle connection, kB"],
    ["bulk", "a stream, GB/s"],
  ]);
}

/** Two tables that fit the width of a page: connections, then bytes. */
function tables(figures: Figures, all: readonly Proxy[], much: Amount): Table[] {
  const measured = COLUMNS.filter(([column]) => [...figures.values()].some((f) => f.has(column)));
  const [one, other] = [measured.filter((_, i) => i < 6), measured.filter((_, i) => i >= 6)];
  return [
    {
      ...table(figures, all, one),
      title: `${much.requests} connections from ab, 20 at a time, to a small page of nginx, ` +
        `after ${much.warmup} that do not count; ` +
        `${much.churn} connections that carry a byte there and back, after as many that do not ` +
        "count, and by how much memory and descriptors were more by then than after the first " +
        "thousand",
    },
    {
      ...table(figures, all, other),
      title: `Private memory of each of ${much.idle} idle connections; a stream of ` +
        `${much.bytes / 1e9} GB; stream and round trips beside ${much.beside} idle connections, ` +
        `as a ratio to those alone; round trip of ${much.paced} connections, 20 times a second ` +
        "each, while a stream runs at full speed",
    },
  ].filter(({ columns }) => columns.length > 0);
}

async function main(args: string[]): Promise<number> {
  const options = parseArgs(args, { ...OPTIONS, unknown });
  if (options.help) return print(HELP);
  const quick = options.quick === true;
  const rounds = count("rounds", options.rounds, quick ? 1 : 5);
  const much = amount(quick, rounds, count("churn", options.churn, quick ? 500 : 20_000));
  const tests = chosen("tests", options.tests, TESTS).map(({ id }) => id);
  using load = new Load();
  load.compile();
  const known = proxies(load.limit);
  const wanted = chosen("proxies", options.proxies, known);
  const listed = known.filter((proxy) => wanted.includes(proxy));
  const found = listed.filter(({ needs }) => needs.every(isHere));
  const missing = listed.filter((proxy) => !found.includes(proxy)).map(({ title }) => title);
  if (missing.length) say(`not installed, and left out: ${missing.join(", ")}`);
  const hasHttp = isHere("nginx") && isHere("ab");
  if (!hasHttp) say("nginx or ab is missing: no figures of HTTP");
  const todo = tests.filter((test) => hasHttp || test !== "http" && test !== "kept");
  const bench = new Bench(load.folder, much);
  const interrupted = () => {
    bench.close();
    load[Symbol.dispose]();
    Deno.exit(130);
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const) Deno.addSignalListener(signal, interrupted);
  const figures: Figures = new Map(), wrong: string[] = [];
  try {
    if (hasHttp) await bench.serveHttp();
    const progress = new Progress();
    for (let round = 1; round <= rounds; round++) {
      progress.round(round, rounds);
      for (const test of todo) {
        for (const proxy of found) {
          progress.step(`${test}, ${proxy.title}`);
          const often = Array<string>(test === "busy" ? PAIRS : 1).fill(test);
          wrong.push(...await bench.measure(proxy, often, figures));
        }
      }
    }
    progress.end();
  } finally {
    bench.close();
  }
  const how = `${machine()}; medians of ${rounds} runs, in turn`;
  const results = tables(figures, found, much);
  if (options.json) print(JSON.stringify(data(figures, much, missing, wrong), null, 1) + "\n");
  else print([how + "\n", ...results.map(text)].join("\n"));
  if (options.write) {
    write("serving", how, results, missing, bars(figures, found));
    fill("README.md", markdown(summary(figures, found)) + "\n");
  }
  for (const line of wrong) say(line);
  return wrong.length ? 1 : 0;
}

function data(figures: Figures, much: Amount, missing: string[], failures: string[]) {
  const values = (of: Map<Column, number[]>) =>
    Object.fromEntries([...of].map(([column, all]) => [column, { median: median(all), all }]));
  const proxies = Object.fromEntries([...figures].map(([id, of]) => [id, values(of)]));
  return { machine: machine(), ...much, missing, failures, proxies };
}

/** What a service is chosen for. */
function bars(figures: Figures, all: readonly Proxy[]): string {
  const columns: [Column, title: string][] = [
    ["http", "connections/s"],
    ["kept", "requests/s, kept alive"],
    ["bulk", "one stream, GB/s"],
  ];
  const rows = all.map(({ id, title }) => ({
    title,
    values: columns.map(([column]) => median(figures.get(id)?.get(column) ?? [])),
    isOurs: isOurs(id),
  }));
  const title = "Serving connections (longer is better)";
  return plot(title, columns.map(([, title]) => title), rows);
}

if (import.meta.main) await run(main);
