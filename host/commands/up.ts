// wasmguard up: what `wg-quick up` does, with the daemon in the same process. It reads the file itself, so that no
// secret goes from process to process; in the background it is the same command in a session of its own
// (commands/daemon.ts). A signal takes the tunnel down as `wasmguard down` would, hooks and all.

import process from "node:process";
import { Daemon } from "../daemon.ts";
import { type Config, toDeviceChange } from "../config.ts";
import { EndpointKeeper, namedPeers, type Resolution, resolveNames } from "../endpoints.ts";
import { isAddress, toEndpoint } from "../endpoint.ts";
import { WasmguardError } from "../errors.ts";
import type { IpAddress } from "../ip.ts";
import { createLogger, type Logger, type LogLevel, parseLogLevel } from "../log.ts";
import { createPeerChange } from "../model.ts";
import { checkNamespace, type ConfigFile, readConfigFile } from "../quick/file.ts";
import { checkAbsent, type Quick, removeLink } from "../quick/link.ts";
import { forgetNamespace, noteNamespace } from "../quick/namespace.ts";
import { bringUp, type Progress, runHooks, takeBack, takeDown } from "../quick/quick.ts";
import { LinuxSystem } from "../quick/system.ts";
import { background, becomeReady, exit } from "./daemon.ts";
import { atMost, type Command, parse, UsageError } from "./command.ts";

const options = {
  foreground: { type: "boolean", short: "f" },
  netns: { type: "string" },
} as const;

export const command: Command = {
  help: `Usage: wasmguard up [OPTIONS] FILE.conf | NAME

Brings up a tunnel from a configuration file, as wg-quick does, without wg-quick, wg or a kernel module.
NAME stands for /etc/wireguard/NAME.conf; the file's name is the interface's.

  -f, --foreground     stay in the foreground, and take the tunnel down at the end
      --netns NAME     put the interface into a network namespace; the UDP socket stays in this one

Environment: LOG_LEVEL=verbose|error|silent, WG_ENDPOINT_RESOLUTION_RETRIES=N|infinity
`,
  async run(args, { script }) {
    const { values, positionals } = parse(args, options);
    const [file] = positionals;
    if (file === undefined) throw new UsageError("name a configuration, as in: wasmguard up wg0");
    atMost(positionals, 1);
    requireRoot("up");
    if (!values.foreground) return background(["up", "--foreground", ...args], script);
    const level = parseLogLevel(process.env.LOG_LEVEL);
    const say = (line: string): void => new LinuxSystem().say(line);
    await new Tunnel(readConfigFile(file, say), values.netns, level).up();
  },
};

/** @throws WasmguardError EPERM */
export function requireRoot(what: string): void {
  if (process.platform !== "linux") throw new WasmguardError("ENOTSUP", `wasmguard ${what} is for Linux alone`);
  if (process.getuid?.() !== 0) throw new WasmguardError("EPERM", `wasmguard ${what} needs root`);
}

/** One tunnel from up to down. */
class Tunnel {
  readonly #file: ConfigFile;
  readonly #level: LogLevel;
  readonly #log: Logger;
  readonly #namespace: string | undefined;
  /** aborted by what ends us before we are ready */
  readonly #starting = new AbortController();
  readonly #progress: Progress = { dns: false, firewall: false };
  #daemon: Daemon | null = null;
  #keeper: EndpointKeeper | null = null;
  #fwmark: number;
  #ready = false;
  #ending = false;

  constructor(file: ConfigFile, namespace: string | undefined, level: LogLevel) {
    this.#file = file;
    this.#namespace = namespace;
    this.#level = level;
    this.#fwmark = file.config.interface.fwmark ?? 0;
    this.#log = createLogger(file.name, level);
  }

  /** Resolves when it is up; the daemon goes on. @throws when a step fails: nothing is left behind then */
  async up(): Promise<void> {
    if (this.#namespace !== undefined) checkNamespace(this.#namespace);
    process.on("SIGHUP", () => {});
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => void this.#stopped(signal));
    await checkAbsent(this.#quick());
    try {
      await this.#start();
      this.#starting.signal.throwIfAborted();
    } catch (error) {
      const ended = await this.#undo();
      if (ended) throw error;
      process.stderr.write(`wasmguard: ${(error as Error).message}\n`, () => exit(1, false));
      return new Promise(() => {}); // and no ordinary end
    }
    this.#ready = true;
    this.#log.verbose("Ready");
    becomeReady(this.#level);
  }

  /** @param whileStarting  whether its commands end when the start is aborted */
  #quick(whileStarting = true): Quick {
    const { name, config } = this.#file;
    const system = new LinuxSystem(whileStarting ? this.#starting.signal : undefined);
    return { name, config, system, namespace: this.#namespace };
  }

  async #start(): Promise<void> {
    const { name, config } = this.#file;
    const quick = this.#quick();
    const { system } = quick;
    await runHooks(quick, config.interface.preUp);
    const { signal } = this.#starting;
    const onRetry = (host: string, code: string, delayMs: number): void =>
      system.say(
        `[!] ${host} cannot be resolved yet (${code}), trying again in ${(delayMs / 1000).toFixed(2)} seconds`,
      );
    const resolved = await resolveNames(config, { retries: resolutionRetries(), signal, onRetry });
    system.say(`[#] wasmguard ${name}`);
    const daemon = await this.#startDaemon();
    if (this.#namespace !== undefined) noteNamespace(name, this.#namespace);
    await this.#configure(daemon, resolved);
    const device = {
      fwmark: () => this.#fwmark,
      setFwmark: (fwmark: number) => {
        this.#fwmark = fwmark;
        return daemon.device.apply({ fwmark, replacePeers: false, peers: [] });
      },
    };
    await bringUp(quick, device, knownEndpoints(config, resolved), this.#progress);
  }

  async #startDaemon(): Promise<Daemon> {
    const { name, config } = this.#file;
    const prefixes = config.peers.reduce((sum, peer) => sum + peer.allowedIps.length, 0);
    this.#daemon = await Daemon.start({
      name,
      log: this.#log,
      maxPeers: Math.max(PEERS_MIN, config.peers.length * 2),
      maxNodes: Math.max(NODES_MIN, prefixes * 4),
      onPeerEvent: (publicKey, type) => this.#keeper?.event(publicKey, type),
      onStopped: (reason, error) => this.#gone(reason, error),
    });
    return this.#daemon;
  }

  /** Keys, port, mark and peers, as `wg setconf`; from here on the names are looked after. */
  async #configure(daemon: Daemon, resolved: Map<string, Resolution>): Promise<void> {
    const { config } = this.#file;
    const first = new Map([...resolved].map(([host, { addresses }]) => [host, addresses[0]]));
    const interfaceIndex = (name: string): number => Number(new LinuxSystem().read(`/sys/class/net/${name}/ifindex`));
    await daemon.device.apply(toDeviceChange(config, first, interfaceIndex));
    config.interface.privateKey?.fill(0);
    for (const { presharedKey } of config.peers) presharedKey?.fill(0);
    this.#keeper = new EndpointKeeper({
      peers: namedPeers(config),
      resolved,
      log: this.#log,
      setEndpoint: (publicKey, endpoint) => {
        const change = { ...createPeerChange(publicKey), updateOnly: true, endpoint };
        return daemon.device.apply({ replacePeers: false, peers: [change] });
      },
    });
    this.#keeper.start();
  }

  /** By a signal: as `wasmguard down`, but a hook that fails keeps nothing up. */
  async #stopped(signal: string): Promise<void> {
    const { name, path } = this.#file;
    if (!this.#ready) return this.#starting.abort(new WasmguardError("EINTR", `${name}: stopped by ${signal}`));
    if (this.#ending) return;
    this.#ending = true;
    let status = 0;
    let ended = true;
    const removeInterface = async (): Promise<void> => void (ended = await this.#end());
    try {
      await takeDown(this.#quick(false), { path, state: this.#daemon!.device.state(), removeInterface });
    } catch (error) {
      process.stderr.write(`wasmguard: ${(error as Error).message}\n`);
      status = 1;
      ended = await this.#undo();
    }
    exit(status, ended);
  }

  /** The interface was deleted, by down for one, or a lane failed. */
  #gone(reason: string, error: Error | null): void {
    if (!this.#ready) return this.#starting.abort(error ?? new WasmguardError("ERR_STOPPED", reason));
    if (this.#ending) return;
    if (error) this.#log.error(`Stopped: ${reason}`);
    this.#keeper?.close();
    forgetNamespace(this.#file.name, process.pid);
    exit(error ? 1 : 0, false);
  }

  /** Takes everything back. @returns whether all threads ended */
  async #undo(): Promise<boolean> {
    if (this.#daemon === null) return true;
    // Of our own memory: a daemon that stopped by itself has nothing left to be asked.
    const allowedIps = this.#file.config.peers.flatMap((peer) => peer.allowedIps);
    await takeBack(this.#quick(false), this.#fwmark, allowedIps, this.#progress);
    return this.#end();
  }

  async #end(): Promise<boolean> {
    this.#keeper?.close();
    // Elsewhere, the daemon cannot delete it itself.
    if (this.#namespace !== undefined) await removeLink(this.#quick(false));
    const ended = await this.#daemon!.stop();
    forgetNamespace(this.#file.name, process.pid);
    return ended;
  }
}

/** The daemon's own defaults: room for what is added later. */
const PEERS_MIN = 4096;
const NODES_MIN = 524_288;

/** wg's variable. @throws UsageError */
function resolutionRetries(): number | undefined {
  const text = process.env.WG_ENDPOINT_RESOLUTION_RETRIES;
  if (text === undefined || text === "") return undefined;
  if (text === "infinity") return Infinity;
  if (!/^\d{1,9}$/.test(text)) throw new UsageError(`WG_ENDPOINT_RESOLUTION_RETRIES is neither a number nor infinity`);
  return Number(text);
}

function knownEndpoints(config: Config, resolved: ReadonlyMap<string, Resolution>): IpAddress[] {
  return config.peers.flatMap(({ endpoint }) => {
    if (endpoint === undefined) return [];
    const found = resolved.get(endpoint.host);
    if (found !== undefined) return found.addresses.slice(0, 1);
    // One with a scope is on the link, which `ip route get` cannot be asked about without it.
    return isAddress(endpoint.host) && !endpoint.host.includes("%") ? [toEndpoint(endpoint.host, endpoint.port)] : [];
  });
}
