// wasmguard doctor: why is the interface silent? Looks at state, refused packets, link and routes, and says what it makes
// of them.

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { networkInterfaces } from "node:os";
import process from "node:process";
import { diagnose, type Finding, type LinkEvidence } from "../doctor.ts";
import { WasmguardError } from "../errors.ts";
import { formatIp } from "../ip.ts";
import { encodeBase64Key } from "../keys.ts";
import type { DeviceState } from "../model.ts";
import { readState, readStatistics } from "../uapi-client.ts";
import { socketPath } from "../uapi-server.ts";
import { atMost, type Command, parse, style, UsageError } from "./command.ts";

/** Peers whose routes are asked for: each is a program started. */
const ROUTES_MAX = 32;

export const command: Command = {
  help: `Usage: wasmguard doctor INTERFACE [--json]

Says why an interface is silent, by the evidence of its counters, link and routes. Exit code 1 when there is a problem.
`,
  async run(args) {
    const { values, positionals } = parse(args, { json: { type: "boolean" } });
    atMost(positionals, 1);
    const [name] = positionals;
    if (name === undefined) throw new UsageError("name an interface, as in: wasmguard doctor wg0");
    socketPath(name);
    const state = await readState(name).catch((error: NodeJS.ErrnoException) => {
      if (error.code === "EACCES") throw new WasmguardError("EACCES", `Cannot ask ${name}: it needs root`);
      throw new WasmguardError(error.code ?? "EIO", `Nobody answers for ${name}: no daemon is running (${error.message})`);
    });
    const findings = diagnose({
      name, state, statistics: await readStatistics(name), link: linkOf(name), ...routesOf(state), nowSec: Math.floor(Date.now() / 1000),
    });
    process.stdout.write(values.json ? `${JSON.stringify(findings, null, 2)}\n` : format(name, findings));
    if (findings.some(({ level }) => level === "problem")) process.exitCode = 1;
  },
};

function linkOf(name: string): LinkEvidence | null {
  try {
    const flags = Number(readFileSync(`/sys/class/net/${name}/flags`, "ascii").trim());
    const mtu = Number(readFileSync(`/sys/class/net/${name}/mtu`, "ascii"));
    const addresses = (networkInterfaces()[name] ?? []).flatMap(({ cidr }) => (cidr ? [cidr] : []));
    return { up: (flags & 1) !== 0, mtu, addresses };
  } catch {
    return null;
  }
}

interface Route {
  dev: string | null;
  mtu?: number;
}

/** What `ip route get` says; undefined where there is no such program. */
function routeTo(address: string, mark: number): Route | undefined {
  try {
    const args = ["-j", "route", "get", address, ...(mark ? ["mark", String(mark)] : [])];
    const text = execFileSync("ip", args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"], timeout: 2000 });
    const [route] = JSON.parse(text) as { dev?: string; metrics?: { mtu?: number }[] }[];
    const dev = route?.dev ?? null;
    return { dev, mtu: route?.metrics?.find(({ mtu }) => mtu)?.mtu ?? deviceMtu(dev) };
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ENOENT" ? undefined : { dev: null };
  }
}

function deviceMtu(dev: string | null): number | undefined {
  try {
    return dev === null ? undefined : Number(readFileSync(`/sys/class/net/${dev}/mtu`, "ascii"));
  } catch {
    return undefined;
  }
}

function routesOf(state: DeviceState) {
  const endpointRoutes = new Map<string, string | null>();
  const innerRoutes = new Map<string, string | null>();
  const endpointMtus = new Map<string, number>();
  for (const { publicKey, endpoint, allowedIps } of state.peers.slice(0, ROUTES_MAX)) {
    const key = encodeBase64Key(publicKey);
    const outer = endpoint && routeTo(formatIp(endpoint.address), state.fwmark);
    if (outer) {
      endpointRoutes.set(key, outer.dev);
      if (outer.mtu !== undefined) endpointMtus.set(key, outer.mtu);
    }
    // The prefix's own address says where it goes; of "everything" it says too little.
    const prefix = allowedIps.find(({ cidr }) => cidr > 0);
    const inner = prefix && routeTo(formatIp(prefix.address), 0);
    if (inner) innerRoutes.set(key, inner.dev);
  }
  return { endpointRoutes, innerRoutes, endpointMtus };
}

const [dim, red, green, yellow] = [2, 31, 32, 33].map(style);
const MARKS = { ok: green("ok     "), hint: yellow("hint   "), problem: red("problem") };

function format(name: string, findings: Finding[]): string {
  const lines: string[] = [];
  let of: string | null | undefined;
  for (const { level, peer, text, evidence } of findings.toSorted((a, b) => (a.peer ?? "").localeCompare(b.peer ?? ""))) {
    if (peer !== of) lines.push(peer ? `peer ${peer}` : `interface ${name}`);
    of = peer;
    lines.push(`  ${MARKS[level]}  ${text}`, `           ${dim(evidence)}`);
  }
  return `${lines.join("\n")}\n`;
}
