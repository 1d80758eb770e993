// The implementations that the system tests start, and what the machine must have for it.
//
//   WASMGUARD_RUNTIMES  ours on which runtimes: executables parted by commas; default: the one that runs the tests
//   WASMGUARD_PEER      the other end; default: wireguard-go as build/peers.mjs finds it. "self": our own
//   WASMGUARD_CLI       our command; default: dist/cli.js
//   WASMGUARD_LONG      1: also what takes minutes

import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { basename, delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";
import process from "node:process";
import { findWireguardGo } from "../../build/peers.mjs";

/** A program with wireguard-go's contract: `command... [-f] INTERFACE`. */
export interface Implementation {
  name: string;
  command: string[];
}

export const long = process.env.WASMGUARD_LONG === "1";

export const CLI = process.env.WASMGUARD_CLI || fileURLToPath(new URL("../../dist/cli.js", import.meta.url));

/** Ours on one runtime. @param executable  a path of node or deno; any other program is taken as it is */
export function onRuntime(executable: string): Implementation {
  const program = basename(executable);
  if (!/^(node|deno)/.test(program)) return { name: program, command: [executable] };
  const [version] = execFileSync(executable, ["--version"], { encoding: "utf8" }).split("\n");
  if (program.startsWith("deno")) return { name: version, command: [executable, "run", "-A", CLI] };
  return { name: `node ${version}`, command: [executable, CLI] };
}

/** Ours on every runtime asked for. */
export function runtimes(): Implementation[] {
  const asked = (process.env.WASMGUARD_RUNTIMES ?? "").split(",").filter(Boolean);
  return (asked.length > 0 ? asked : [process.execPath]).map(onRuntime);
}

/** The other end. @returns null when there is none */
export function otherEnd(): Implementation | null {
  const asked = process.env.WASMGUARD_PEER;
  if (asked === "self") return runtimes()[0];
  if (asked) return { name: basename(asked), command: [asked] };
  const found = findWireguardGo();
  return found && { name: "wireguard-go", command: [found.path] };
}

const TOOLS = ["ip", "ss", "wg", "wg-quick", "iperf3", "ping", "nft", "sysctl", "setpriv", "bash"];

/** Why the system tests cannot run on this machine; null when they can. */
export function obstacle(): string | null {
  if (process.platform !== "linux") return "it needs Linux";
  if (process.getuid?.() !== 0) return "it needs root";
  if (!existsSync("/dev/net/tun")) return "it needs /dev/net/tun";
  const missing = TOOLS.filter((tool) => !hasTool(tool));
  if (missing.length > 0) return `it needs ${missing.join(", ")}`;
  if (otherEnd() === null) return "it needs wireguard-go (node build/peers.mjs)";
  return null;
}

/** Whether our own command is built: a mistake, not a property of the machine. */
export function isBuilt(): boolean {
  return existsSync(CLI);
}

function hasTool(name: string): boolean {
  return (process.env.PATH ?? "").split(delimiter).some((folder) => existsSync(join(folder, name)));
}
