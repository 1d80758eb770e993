// wasmguard INTERFACE: the daemon, in the foreground or in a session of its own, with wireguard-go's environment.

import { spawn } from "node:child_process";
import { readdirSync, readlinkSync } from "node:fs";
import process from "node:process";
import type { CoreBuild } from "../core.ts";
import { Daemon } from "../daemon.ts";
import { WasmguardError } from "../errors.ts";
import { LANES_MAX } from "../lanes.ts";
import { createLogger, type LogLevel, parseLogLevel } from "../log.ts";
import { openLibc } from "../platform/linux/libc.ts";
import { socketPath } from "../uapi-server.ts";
import { atMost, type Command, number, parse, UsageError } from "./command.ts";

const options = {
  foreground: { type: "boolean", short: "f" },
  "max-peers": { type: "string" },
  "max-allowed-ips": { type: "string" },
  core: { type: "string" },
  "no-offload": { type: "boolean" },
  lanes: { type: "string" },
  keylog: { type: "string" },
  pcap: { type: "string" },
} as const;

type Values = { [name in keyof typeof options]?: (typeof options)[name]["type"] extends "boolean" ? boolean : string };

export const command: Command = {
  help: `Usage: wasmguard [OPTIONS] INTERFACE

Runs a WireGuard interface, configured by wg or wg-quick.

  -f, --foreground        stay in the foreground
      --max-peers N       room for N peers (default 4096)
      --max-allowed-ips N room for N allowed IPs (default 262144)
      --core BUILD        plain, relaxed, wide or auto (default, the fastest here): which build of the core to run
      --lanes N           N pairs of worker threads, for machines with more cores (default 1)
      --no-offload        one packet a system call to TUN and UDP at most, for drivers that get it wrong
      --keylog FILE       add the secret keys of each handshake to FILE, as Wireshark reads them: for debugging
      --pcap FILE         capture all datagrams to FILE (pcapng) with the keys inside: for debugging

Environment: LOG_LEVEL=verbose|error|silent, WG_PROCESS_FOREGROUND=1, WG_TUN_FD, WG_UAPI_FD
`,
  async run(args, { script }) {
    const { values, positionals } = parse(args, options);
    const [name] = positionals;
    if (name === undefined) throw new UsageError("name an interface, as in: wasmguard wg0");
    atMost(positionals, 1);
    try {
      socketPath(name);
    } catch (error) {
      throw new UsageError((error as Error).message);
    }
    const settings = daemonSettings(values);
    const foreground = values.foreground || process.env.WG_PROCESS_FOREGROUND === "1";
    return foreground ? runDaemon(name, settings) : background(["--foreground", ...args], script);
  },
};

interface DaemonSettings {
  maxPeers?: number;
  maxNodes?: number;
  build?: CoreBuild;
  offload: boolean;
  lanes?: number;
  keyLog?: string;
  pcap?: string;
}

function daemonSettings(values: Values): DaemonSettings {
  const maxPeers = number("--max-peers", values["max-peers"], 1 << 20);
  const prefixes = number("--max-allowed-ips", values["max-allowed-ips"], 1 << 24);
  const { core } = values;
  if (core !== undefined && !["plain", "relaxed", "wide", "auto"].includes(core)) {
    throw new UsageError(`--core ${core} is none of plain, relaxed, wide, auto`);
  }
  const build = core === "auto" ? undefined : (core as CoreBuild | undefined);
  const lanes = number("--lanes", values.lanes, LANES_MAX);
  const offload = !values["no-offload"];
  return { maxPeers, maxNodes: prefixes && prefixes * 2, build, offload, lanes, keyLog: values.keylog, pcap: values.pcap };
}

/**
 * Runs ourselves in a session of its own, and returns when it says that it is ready (becomeReady).
 * @param argv  of the script: what stays in the foreground
 */
export async function background(argv: string[], script: string): Promise<void> {
  const isDeno = "Deno" in globalThis;
  const args = [...(isDeno ? ["run", "-A", script] : [...process.execArgv, script]), ...argv];
  const inherited = [process.env.WG_TUN_FD, process.env.WG_UAPI_FD].flatMap((fd) => (fd ? [Number(fd)] : []));
  const stdio: ("ignore" | "pipe" | "inherit" | number)[] = ["ignore", "pipe", "inherit"];
  for (const fd of inherited) stdio[fd] = fd;
  for (let i = 0; i < stdio.length; i++) stdio[i] ??= "ignore";
  const child = spawn(process.execPath, args, { detached: true, stdio, env: { ...process.env, [BACKGROUND]: "1" } });
  // It is no longer of our terminal's group: what ends us has to be told.
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => process.kill(child.pid!, signal));
  const started = await new Promise<boolean>((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", () => resolve(false));
    child.stdout!.once("data", () => resolve(true));
  });
  if (!started) {
    // It has said why on standard error.
    process.exitCode = child.exitCode || 1;
    return;
  }
  child.unref();
  process.exit(0);
}

/** Set for the child of background(): it says when it is ready and then lets go of the terminal. */
const BACKGROUND = "WASMGUARD_BACKGROUND";

async function runDaemon(name: string, settings: DaemonSettings): Promise<void> {
  const level: LogLevel = parseLogLevel(process.env.LOG_LEVEL);
  const log = createLogger(name, level);
  const libc = openLibc();
  const descriptor = (variable: string): number | undefined => {
    const text = process.env[variable];
    if (text === undefined || text === "") return undefined;
    if (!/^\d+$/.test(text)) throw new WasmguardError("EINVAL", `${variable}=${text} is not a file descriptor`);
    return Number(text);
  };
  const exit = (status: number, ended: boolean): void => {
    // A lane that sleeps in a system call would keep the process for ever.
    if (!ended) libc.exitNow(status);
    process.exit(status);
  };
  // Before the start: whoever sees the socket answer may send a signal at once.
  process.on("SIGHUP", () => {});
  let starting: Promise<Daemon> | undefined;
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.on(signal, () => {
      log.verbose(`Stopped: ${signal}`);
      // A start that fails says so itself.
      void starting?.then((daemon) => daemon.stop()).then((ended) => exit(0, ended), () => {});
    });
  }
  starting = Daemon.start({
    name, log, ...settings, tunFd: descriptor("WG_TUN_FD"), uapiFd: descriptor("WG_UAPI_FD"),
    onStopped: (reason, error) => {
      if (error) log.error(`Stopped: ${reason}`);
      else log.verbose(`Stopped: ${reason}`);
      exit(error ? 1 : 0, false);
    },
  });
  await starting;
  log.verbose("Ready");
  becomeReady(level);
}

/** @param ended  whether all threads did: a lane that sleeps in a system call would keep the process for ever */
export function exit(status: number, ended: boolean): void {
  if (!ended) openLibc().exitNow(status);
  process.exit(status);
}

/** Tells background(), if that started us, and lets go of its terminal. */
export function becomeReady(level: LogLevel): void {
  if (process.env[BACKGROUND] !== "1") return;
  openLibc().setsid();
  process.stdout.write("ready\n", () => letGo(process.env.LOG_LEVEL !== undefined && level !== "silent"));
}

/**
 * Points the standard descriptors at nothing, so that whoever waits for the end of our output need not wait for ours.
 * Deno keeps copies of them under other numbers, which would hold a pipe open just as well.
 */
function letGo(keepErrors: boolean): void {
  const libc = openLibc();
  const standard = keepErrors ? [1] : [1, 2];
  const targets = standard.map(descriptorTarget);
  const copies = readdirSync("/proc/self/fd").map(Number).filter((fd) => fd > 2 && targets.includes(descriptorTarget(fd)));
  const nothing = libc.open("/dev/null", 2);
  if (nothing < 0) return;
  for (const fd of [...standard, ...copies]) libc.dup2(nothing, fd);
  if (nothing > 2) libc.close(nothing);
}

/** What a descriptor of ours is: "pipe:[123]", or a path. Another text for one that is closed. */
function descriptorTarget(fd: number): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return `closed ${fd}`;
  }
}
