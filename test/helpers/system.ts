// Tunnels for the system tests: two sides in two namespaces, driven by the real `wg`, filled by ping and iperf3.
//
//    namespace a                                    namespace b
//   ┌──────────────────────────┐      veth        ┌──────────────────────────┐
//   │ daemon  IFACE  192.168.241.1/24              │ daemon  IFACE  192.168.241.2/24
//   │                fd00:aa::1/64    outer: 10.0.0.1/24 ── 10.0.0.2/24       │
//   │ port 1001                       fd00:bb::1/64 ── fd00:bb::2/64  port 1002
//   └──────────────────────────┘                  └──────────────────────────┘

import { Socket, connect } from "node:net";
import { existsSync } from "node:fs";
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { suite } from "uvu";
import { Lab, until, type Background, type Namespace } from "./netlab.ts";
import { cannotRun } from "./namespace.ts";
import { type Implementation, isBuilt, obstacle, otherEnd, runtimes } from "./peers.ts";

export type Family = 4 | 6;

/** base64, as wg writes them */
export interface Keys {
  privateKey: string;
  publicKey: string;
}

export function newKeys(): Keys {
  const { x, d } = generateKeyPairSync("x25519").privateKey.export({ format: "jwk" }) as { x: string; d: string };
  const standard = (text: string): string => Buffer.from(text, "base64url").toString("base64");
  return { privateKey: standard(d), publicKey: standard(x) };
}

export function newPresharedKey(): string {
  return randomBytes(32).toString("base64");
}

/** A peer as `wg show IFACE dump` tells it. */
export interface PeerDump {
  publicKey: string;
  presharedKey: string | null;
  endpoint: string | null;
  allowedIps: string[];
  /** Unix time in seconds, 0 = never */
  latestHandshake: number;
  rxBytes: number;
  txBytes: number;
  /** seconds, 0 = off */
  keepalive: number;
}

/** A daemon with its interface, in a namespace. */
export class Side {
  readonly namespace: Namespace;
  readonly name: string;
  readonly implementation: Implementation;
  readonly daemon: Background;
  keys = newKeys();

  private constructor(namespace: Namespace, name: string, implementation: Implementation) {
    this.namespace = namespace;
    this.name = name;
    this.implementation = implementation;
    this.daemon = namespace.start([...implementation.command, "-f", name], { LOG_LEVEL: "verbose" });
  }

  /** Starts a daemon and waits for its control socket. */
  static async start(namespace: Namespace, label: string, implementation: Implementation): Promise<Side> {
    const side = new Side(namespace, namespace.lab.interfaceName(label), implementation);
    try {
      await until("the control socket", () => side.daemon.code !== null || answers(side.name), 15_000);
    } catch (error) {
      throw new Error(`${implementation.name} ${side.name}: ${(error as Error).message}\n${side.daemon.output()}`);
    }
    if (side.daemon.code === null) return side;
    throw new Error(`${implementation.name} ended with ${side.daemon.code}:\n${side.daemon.output()}`);
  }

  /** `wg set`; secrets go by files: `file(...)`. */
  async set(line: string): Promise<void> {
    await this.namespace.run(`wg set ${this.name} ${line}`);
  }

  file(text: string): string {
    return this.namespace.lab.file(text + "\n");
  }

  /** Sets our private key, a new one if none is given. */
  async setKeys(keys = newKeys()): Promise<void> {
    this.keys = keys;
    await this.set(`private-key ${this.file(keys.privateKey)}`);
  }

  /** `wg show IFACE WHAT`. */
  show(what: string): Promise<string> {
    return this.namespace.run(`wg show ${this.name} ${what}`);
  }

  async peers(): Promise<PeerDump[]> {
    const [, ...lines] = (await this.show("dump")).split("\n");
    const orNull = (text: string): string | null => (text === "(none)" ? null : text);
    return lines.map((line) => {
      const [publicKey, psk, endpoint, allowed, handshake, rx, tx, keepalive] = line.split("\t");
      return {
        publicKey,
        presharedKey: orNull(psk),
        endpoint: orNull(endpoint),
        allowedIps: allowed === "(none)" ? [] : allowed.split(","),
        latestHandshake: Number(handshake),
        rxBytes: Number(rx),
        txBytes: Number(tx),
        keepalive: keepalive === "off" ? 0 : Number(keepalive),
      };
    });
  }

  /** What this side knows of another. */
  async peer(other: Side): Promise<PeerDump> {
    const peer = (await this.peers()).find(({ publicKey }) => publicKey === other.keys.publicKey);
    if (!peer) throw new Error(`${this.name} has no such peer:\n${await this.show("")}`);
    return peer;
  }

  /** Waits until the other side is seen at this endpoint. */
  async seesAt(other: Side, endpoint: string): Promise<void> {
    let seen: string | null = null;
    const isThere = async (): Promise<boolean> => (seen = (await this.peer(other)).endpoint) === endpoint;
    await until(`endpoint ${endpoint}`, isThere, 3000).catch((error: Error) => {
      throw new Error(`${error.message}; it is ${seen}`);
    });
  }

  /** Whether one ping comes back. */
  async pings(address: string, options = ""): Promise<boolean> {
    return (await this.namespace.try(`ping -n -c 1 -W 1 ${options} ${address}`)).code === 0;
  }

  /** One ping that must come back; the first of a session may be lost where a handshake is given up and repeated. */
  async ping(address: string, options = ""): Promise<void> {
    await this.namespace.run(`ping -n -c 1 -W 2 ${options} ${address}`);
  }

  /** The same where a handshake may have to be tried again, which comes after 5 s. */
  async pingSoon(address: string): Promise<void> {
    await this.namespace.run(`ping -n -c 1 -i 0.5 -w 9 ${address}`);
  }

  /** Makes the daemon end and checks that it left no socket. */
  async stop(): Promise<void> {
    this.daemon.signal("SIGTERM");
    await this.daemon.ended();
    if (existsSync(socketPath(this.name))) throw new Error(`${this.name}: its control socket is still there`);
  }
}

export interface TunnelOptions {
  /** of the outer addresses that the two know of each other; default 4 */
  outer?: Family;
  /** of the interfaces; default: as the daemons choose. The veth pair gets as much as it needs */
  mtu?: number;
  presharedKey?: string;
  /** which sides know the other's endpoint; default: both */
  knows?: "a" | "b" | "both";
}

export interface Tunnel {
  a: Side;
  b: Side;
}

/** Addresses by side and family. */
export const INNER = {
  a: { 4: "192.168.241.1", 6: "fd00:aa::1" },
  b: { 4: "192.168.241.2", 6: "fd00:aa::2" },
} as const;
export const OUTER = { a: { 4: "10.0.0.1", 6: "fd00:bb::1" }, b: { 4: "10.0.0.2", 6: "fd00:bb::2" } } as const;
export const PORT = { a: 1001, b: 1002 } as const;
/** veth devices */
export const LINK = { a: "veth-a", b: "veth-b" } as const;

const OUTER_OVERHEAD_MAX = 80;

/** "10.0.0.1:1001" or "[fd00:bb::1]:1001" */
export function endpoint(address: string, port: number): string {
  return address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`;
}

/** `PREFIX/32` or `/128` */
export function host(address: string): string {
  return `${address}/${address.includes(":") ? 128 : 32}`;
}

/** The picture above, configured and up; no packet has passed yet. */
export async function tunnel(
  lab: Lab,
  implementations: { a: Implementation; b: Implementation },
  { outer = 4, mtu, presharedKey, knows = "both" }: TunnelOptions = {},
): Promise<Tunnel> {
  const namespaces = { a: lab.namespace("a"), b: lab.namespace("b") };
  connectOuter(lab, namespaces.a, namespaces.b, mtu);
  const [a, b] = await Promise.all([
    Side.start(namespaces.a, "a", implementations.a),
    Side.start(namespaces.b, "b", implementations.b),
  ]);
  for (const [side, other, id, otherId] of [[a, b, "a", "b"], [b, a, "b", "a"]] as const) {
    await side.set(
      `private-key ${side.file(side.keys.privateKey)} listen-port ${PORT[id]} peer ${other.keys.publicKey} ` +
        (presharedKey ? `preshared-key ${side.file(presharedKey)} ` : "") +
        (knows === id || knows === "both" ? `endpoint ${endpoint(OUTER[otherId][outer], PORT[otherId])} ` : "") +
        `allowed-ips ${host(INNER[otherId][4])},${host(INNER[otherId][6])}`,
    );
    bringUp(side, id, mtu);
  }
  return { a, b };
}

function connectOuter(lab: Lab, a: Namespace, b: Namespace, mtu?: number): void {
  const addresses = (id: "a" | "b"): string[] => [`${OUTER[id][4]}/24`, `${OUTER[id][6]}/64`];
  const outerMtu = Math.max(1500, Math.min((mtu ?? 0) + OUTER_OVERHEAD_MAX, 65535));
  lab.connect([a, LINK.a, ...addresses("a")], [b, LINK.b, ...addresses("b")], outerMtu);
}

/** Inner addresses on a side's interface, and the interface up. */
export function bringUp(side: Side, id: "a" | "b", mtu?: number): void {
  side.namespace.ip(`link set ${side.name} ${mtu ? `mtu ${mtu} ` : ""}up`);
  side.namespace.addresses(side.name, `${INNER[id][4]}/24`, `${INNER[id][6]}/64`);
}

export function socketPath(name: string): string {
  return `/var/run/wireguard/${name}.sock`;
}

/** Whether somebody accepts on an interface's control socket. */
export function answers(name: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(socketPath(name));
    socket.on("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.on("error", () => resolve(false));
  });
}

/** Sends text to an interface's control socket. @returns what came until the first empty line, or the end */
export function request(name: string, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let reply = "";
    const socket = new Socket();
    socket.setTimeout(5000, () => socket.destroy(new Error(`no reply, only ${JSON.stringify(reply)}`)));
    socket.on("data", (chunk) => {
      reply += chunk;
      if (reply.endsWith("\n\n")) socket.end();
    });
    socket.on("close", () => resolve(reply));
    socket.on("error", reject);
    socket.connect(socketPath(name), () => socket.write(text));
  });
}

export interface IperfOptions {
  /** "-R", "-P 10", "-u -b 20M", ...; default none: one TCP stream from client to server */
  options?: string;
  /** how long, default 1; or with `bytes` how much */
  seconds?: number;
  /** "16M" */
  bytes?: string;
}

/** What of `iperf3 --json` the tests look at. */
export interface IperfResult {
  /** arrived at the receiver */
  bytes: number;
  bitsPerSecond: number;
  /** TCP, of the sender */
  retransmits: number;
  /** UDP, of the receiver */
  lostPackets: number;
  packets: number;
  /** bytes of every second, or what -i says */
  intervals: number[];
}

/** One iperf3 run from a client side to an inner address of the server side. @throws what iperf3 said */
export async function iperf(
  client: Side,
  server: Side,
  address: string,
  { options = "", seconds = 1, bytes }: IperfOptions = {},
): Promise<IperfResult> {
  const service = server.namespace.start(`iperf3 -s -1 --forceflush -B ${address}`);
  await until("iperf3 to listen", () => service.output().includes("listening") || service.code !== null);
  const line = `iperf3 -c ${address} -J ${bytes ? `-n ${bytes}` : `-t ${seconds}`} --connect-timeout 5000 ${options}`;
  const { stdout, stderr } = await client.namespace.try(line, { timeoutMs: seconds * 1000 + 30_000 });
  await service.stop();
  const report = stdout.startsWith("{") ? JSON.parse(stdout) : { error: stderr };
  if (!report.end || report.error) throw new Error(`${line}: ${report.error}\n${service.output()}`);
  const { end, intervals } = report;
  const received = end.sum_received ?? end.sum;
  return {
    bytes: received.bytes,
    bitsPerSecond: received.bits_per_second,
    retransmits: end.sum_sent?.retransmits ?? 0,
    lostPackets: received.lost_packets ?? 0,
    packets: received.packets ?? 0,
    intervals: intervals.map(({ sum }: { sum: { bytes: number } }) => sum.bytes),
  };
}

/** What a system test gets: our implementation, a peer, and a lab that is removed after it. */
export interface Bench {
  ours: Implementation;
  theirs: Implementation;
  lab: Lab;
}

export type SystemTest = (name: string, run: (bench: Bench) => Promise<void>, timeoutMs?: number) => void;

const TEST_TIMEOUT_MS = 60_000;

/**
 * A suite of tests over real networks, once for every runtime of ours. Where it cannot run it says so by name; with
 * WASMGUARD_NO_SKIP=1 that is a failure.
 */
export function systemSuite(name: string, define: (test: SystemTest) => void): void {
  const reason = obstacle();
  if (reason !== null) return cannotRun(name, reason);
  const theirs = otherEnd()!;
  for (const ours of runtimes()) {
    const title = `${name}, ${ours.name}`;
    const tests = suite(title);
    if (!isBuilt()) {
      tests("is built", () => {
        throw new Error("dist/cli.js is missing: npm run build");
      });
    }
    define((testName, run, timeoutMs = TEST_TIMEOUT_MS) => {
      tests(testName, async () => {
        const lab = new Lab();
        try {
          await within(timeoutMs, run({ ours, theirs, lab }));
        } catch (error) {
          throw withLogs(error as Error, lab);
        } finally {
          await lab.close();
        }
      });
    });
    tests.run();
  }
}

function within<T>(timeoutMs: number, work: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout>;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done after ${timeoutMs} ms`)), timeoutMs);
  });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

/** An error with the last words of every process of its lab. */
function withLogs(error: Error, lab: Lab): Error {
  for (const process of lab.processes) {
    const lines = process.output().trim().split("\n").slice(-12);
    error.message += `\n--- ${process.command.slice(4).join(" ")}, ${process.code ?? "running"}:\n${lines.join("\n")}`;
  }
  return error;
}
