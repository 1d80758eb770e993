// A laboratory of network namespaces for the system tests: programs run inside of them, connected by veth pairs, and
// everything is removed whatever happens. What a test does to a network happens in here, so the machine's own is never
// touched. (namespace.ts is the other kind: one process that opens descriptors in several namespaces.)
//
// Names begin with "wgtest-" and the process id. What a killed run left behind is removed by the next one, by the id
// that is no longer running. Processes are ended by their id alone. Output of long-lived processes goes to files: a
// pipe that nobody reads would stop them.

import { type ChildProcess, execFile, execFileSync, spawn } from "node:child_process";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";

const PREFIX = "wgtest";
const RUN_TIMEOUT_MS = 30_000;
const STOP_TIMEOUT_MS = 5000;

/** What a command left when it ended. */
export interface Output {
  /** exit status; -1 when a signal ended it */
  code: number;
  stdout: string;
  stderr: string;
}

export interface RunOptions {
  /** default 30 s */
  timeoutMs?: number;
  env?: Record<string, string>;
}

/** A process of a lab that runs beside the test; its output lies in a file. */
export class Background {
  readonly command: string[];
  readonly pid: number;
  readonly exited: Promise<number>;
  /** exit status, null while it runs, -1 when a signal ended it */
  code: number | null = null;
  readonly #child: ChildProcess;
  readonly #log: string;

  constructor(command: string[], env: Record<string, string>, log: string) {
    const fd = openSync(log, "a");
    this.command = command;
    this.#log = log;
    this.#child = spawn(command[0], command.slice(1), {
      stdio: ["ignore", fd, fd],
      env: { ...process.env, ...env } as Record<string, string>,
    });
    closeSync(fd);
    this.pid = this.#child.pid ?? 0;
    this.exited = new Promise((resolve) => {
      const end = (code: number): void => {
        this.code = code;
        resolve(code);
      };
      this.#child.on("exit", (code) => end(code ?? -1));
      this.#child.on("error", (error) => {
        writeFileSync(log, `${error}\n`, { flag: "a" });
        end(-1);
      });
    });
  }

  /** Everything it printed so far. */
  output(): string {
    return readFileSync(this.#log, "utf8");
  }

  /** By its id: Deno's ChildProcess.kill() makes the signal the reason of the end, whatever the process made of it. */
  signal(name: NodeJS.Signals): void {
    if (this.code !== null || this.pid === 0) return;
    try {
      process.kill(this.pid, name);
    } catch {
      // It has just ended by itself.
    }
  }

  /** Its exit status, once it has ended by itself. @throws when it still runs after the time */
  async ended(timeoutMs = STOP_TIMEOUT_MS): Promise<number> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<null>((resolve) => (timer = setTimeout(resolve, timeoutMs, null)));
    const code = await Promise.race([this.exited, late]);
    clearTimeout(timer);
    if (code === null) throw new Error(`process ${this.pid} still runs after ${timeoutMs} ms:\n${this.output()}`);
    return code;
  }

  async stop(): Promise<void> {
    if (this.pid === 0) return;
    this.signal("SIGTERM");
    const ended = await this.ended().catch(() => null);
    if (ended === null) {
      this.signal("SIGKILL");
      await this.exited;
    }
  }
}

/** One network namespace, with its loopback up. */
export class Namespace {
  readonly lab: Lab;
  readonly name: string;

  constructor(lab: Lab, name: string) {
    this.lab = lab;
    this.name = name;
    ip("netns", "add", name);
    this.ip("link set lo up");
    // Otherwise the other addresses of a subnet would go with the first one.
    ip("netns", "exec", name, "sysctl", "-q", "-w", "net.ipv4.conf.all.promote_secondaries=1");
  }

  /** Runs a command line, words parted by blanks, and tells how it ended. */
  try(line: string | string[], { timeoutMs = RUN_TIMEOUT_MS, env = {} }: RunOptions = {}): Promise<Output> {
    const command = ["netns", "exec", this.name, ...words(line)];
    const options = { timeout: timeoutMs, maxBuffer: 1 << 28, env: { ...process.env, ...env } };
    return new Promise((resolve) => {
      const child = execFile("ip", command, options, (error, stdout, stderr) => {
        clearTimeout(timer);
        const code = error === null ? 0 : typeof error.code === "number" ? error.code : -1;
        resolve({ code, stdout, stderr });
      });
      // Ended or not, somebody else may hold its output open: a daemon that did not let go.
      const timer = setTimeout(() => {
        child.stdout?.destroy(new Error("still open when the time was over"));
        child.stderr?.destroy();
      }, timeoutMs + 1000);
    });
  }

  /** The same, for a command that has to succeed. @returns what it printed, trimmed */
  async run(line: string | string[], options?: RunOptions): Promise<string> {
    const { code, stdout, stderr } = await this.try(line, options);
    if (code !== 0) throw new Error(`${words(line).join(" ")}: exit ${code}\n${stdout}${stderr}`);
    return stdout.trim();
  }

  /** `ip` in here, at once. */
  ip(line: string): string {
    return ip("-n", this.name, ...words(line));
  }

  /** A rule set for nft. */
  async nft(rules: string): Promise<void> {
    await this.run(["nft", "-f", this.lab.file(rules)]);
  }

  async sysctl(key: string, value: number): Promise<void> {
    await this.run(["sysctl", "-q", "-w", `${key}=${value}`]);
  }

  /** Starts a process that the lab will end. */
  start(line: string | string[], env: Record<string, string> = {}): Background {
    return this.lab.background(["ip", "netns", "exec", this.name, ...words(line)], env);
  }

  /** Gives a device addresses, usable at once. */
  addresses(device: string, ...addresses: string[]): void {
    for (const address of addresses) {
      this.ip(`addr add ${address} dev ${device} ${address.includes(":") ? "nodad" : ""}`);
    }
  }
}

/** Namespaces, processes and files of one test. */
export class Lab {
  /** for files, removed with the lab */
  readonly folder = mkdtempSync(join(tmpdir(), `${PREFIX}-`));
  readonly processes: Background[] = [];
  readonly #namespaces: Namespace[] = [];
  readonly #interfaces = new Set<string>();
  readonly #number = ++labCount;
  #files = 0;
  #made = 0;

  constructor() {
    if (labCount === 1) removeLeftovers();
    openLabs.add(this);
  }

  namespace(label: string): Namespace {
    const namespace = new Namespace(this, `${PREFIX}-${process.pid}-${this.#number}-${label}${this.#made++}`);
    this.#namespaces.push(namespace);
    return namespace;
  }

  /** A name for an interface that no other lab uses: the control sockets of all namespaces lie in one folder. */
  interfaceName(label: string): string {
    const name = `wt${process.pid.toString(36)}x${this.#number.toString(36)}${label}${this.#made++}`;
    if (name.length > 15) throw new RangeError(`${name} is too long for an interface`);
    this.#interfaces.add(name);
    return name;
  }

  /** A veth pair: `[namespace, device name, addresses...]` on each side, both up. */
  connect(one: [Namespace, string, ...string[]], other: [Namespace, string, ...string[]], mtu = 1500): void {
    ip("link", "add", one[1], "netns", one[0].name, "type", "veth", "peer", "name", other[1], "netns", other[0].name);
    for (const [namespace, device, ...addresses] of [one, other]) {
      namespace.ip(`link set ${device} mtu ${mtu} up`);
      namespace.addresses(device, ...addresses);
    }
  }

  /** A file that only we may read. @returns its path */
  file(text: string, name = `file${++this.#files}`, mode = 0o600): string {
    const path = join(this.folder, name);
    writeFileSync(path, text, { mode });
    return path;
  }

  background(command: string[], env: Record<string, string> = {}): Background {
    const background = new Background(command, env, join(this.folder, `log${++this.#files}`));
    this.processes.push(background);
    return background;
  }

  /** Ends every process and removes every namespace; the lab can be used again. */
  async clear(): Promise<void> {
    await Promise.all(this.processes.splice(0).map((background) => background.stop()));
    this.#removeNamespaces();
  }

  /** The same, and removes every file. Never throws. */
  async close(): Promise<void> {
    await this.clear();
    this.closeNow();
  }

  /** The same without waiting, for the end of the test process. */
  closeNow(): void {
    for (const background of this.processes) background.signal("SIGKILL");
    this.#removeNamespaces();
    for (const name of this.#interfaces) rmSync(`/var/run/wireguard/${name}.sock`, { force: true });
    rmSync(this.folder, { recursive: true, force: true });
    openLabs.delete(this);
  }

  #removeNamespaces(): void {
    for (const { name } of this.#namespaces.splice(0)) removeNamespace(name);
  }
}

let labCount = 0;
const openLabs = new Set<Lab>();

process.on("exit", () => {
  for (const lab of openLabs) lab.closeNow();
});
for (const [signal, number] of [["SIGINT", 2], ["SIGTERM", 15], ["SIGHUP", 1]] as const) {
  process.once(signal, () => process.exit(128 + number));
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Work that goes on beside the test and is awaited later: should the test fail before, its own failure is no news. */
export function beside<T>(work: Promise<T>): Promise<T> {
  work.catch(() => {});
  return work;
}

/** Waits until `probe` says something true. @throws what was awaited, when it does not come */
export async function until<T>(what: string, probe: () => T | Promise<T>, timeoutMs = 5000): Promise<NonNullable<T>> {
  const end = Date.now() + timeoutMs;
  for (;;) {
    const value = await probe();
    if (value) return value;
    if (Date.now() > end) throw new Error(`waited ${timeoutMs} ms in vain: ${what}`);
    await sleep(20);
  }
}

/** Whether a process of that id is there (a zombie that its parent has not buried does not count). */
export function isRunning(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) [ZX]/s.test(readFileSync(`/proc/${pid}/stat`, "utf8"));
  } catch {
    return false;
  }
}

function ip(...command: string[]): string {
  return execFileSync("ip", command, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}

function words(line: string | string[]): string[] {
  return typeof line === "string" ? line.split(" ").filter(Boolean) : line;
}

/** What runs in a namespace of ours is ours: daemons that went to the background, too. */
function removeNamespace(name: string): void {
  try {
    for (const pid of ip("netns", "pids", name).split("\n").filter(Boolean)) process.kill(Number(pid), "SIGKILL");
    ip("netns", "del", name);
  } catch {
    // the test removed it
  }
}

/** Namespaces of runs that were killed. */
function removeLeftovers(): void {
  for (const line of ip("netns", "list").split("\n")) {
    const [name] = line.split(" ");
    const [prefix, pid] = name.split("-");
    if (prefix === PREFIX && !isRunning(Number(pid))) removeNamespace(name);
  }
}
