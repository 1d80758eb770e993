// The two stands. Remote: a peer somewhere, that knows us by one key; all we have is the wire, and perhaps an address
// in the tunnel. Laboratory: a peer in a network namespace (laboratory.ts), configured by its UAPI socket, so that
// every check gets a peer entry, addresses and a port of its own.

import { execFile, execFileSync, spawn } from "node:child_process";
import process from "node:process";
import { type Need, hex } from "./check.ts";
import type { Family } from "./inner.ts";
import { type Bytes, DH_PUBLIC } from "./noise.ts";
import { type Address, Inbox, Port } from "./port.ts";
import type { Stand } from "./run.ts";
import type { Session } from "./session.ts";
import { type Position, Stamps, type System, type Target, Trial, random } from "./trial.ts";
import { Uapi } from "./uapi.ts";

export interface RemoteOptions {
  address: Address;
  family: Family;
  publicKey: Bytes;
  privateKey: Bytes;
  psk?: Bytes;
  /** our inner address and the peer's, by family */
  inner: Position["inner"];
  listenPort?: number;
}

/** A peer of which we have the wire alone. */
export function remoteStand({ address, family, publicKey, privateKey, psk, inner, listenPort }: RemoteOptions): Stand {
  const target: Target = { address, family, publicKey, stamps: new Stamps() };
  const sessions: Session[] = [];
  // One port for all trials: a peer that is to find us keeps one endpoint, and a runtime may be slow to let a port go.
  let inbox = new Inbox();
  let port: Port | undefined;
  return {
    has: new Set<Need>(Object.keys(inner).length > 0 ? ["inner"] : []),
    parallel: false,
    async open() {
      inbox = new Inbox();
      port ??= await Port.open(family, { put: (received) => inbox.put(received) }, { port: listenPort });
      const trial = new Trial(target, { priv: privateKey, psk, inner, port, inbox, sessions, keepsPort: true });
      trial.rest();
      return trial;
    },
    close: () => port?.close(),
  };
}

/** What laboratory.ts tells the process in our namespace. */
export interface LaboratoryPlan {
  interface: string;
  /** the peer's */
  namespace: string;
  socket: string;
  ours: [string, string];
  theirs: [string, string];
  mtu: number;
}

const LISTEN_PORT = 51820;
/** Addresses of the peer in the tunnel; those of ours lie in the same networks. */
export const INNER_ADDRESSES = { 4: "10.98.0.1", 6: "fd98::1" } as const;
export const INNER_NETWORKS = { 4: "10.98.0.1/16", 6: "fd98::1/64" } as const;

/** A peer whose system and socket are in our hands. Runs in a namespace joined with the peer's. */
export async function laboratoryStand(plan: LaboratoryPlan): Promise<Stand> {
  const uapi = new Uapi(plan.socket);
  const priv = random(32);
  await uapi.set(`private_key=${hex(priv)}`, `listen_port=${LISTEN_PORT}`, "replace_peers=true");
  const target: Target = {
    address: { host: plan.theirs[0], port: LISTEN_PORT },
    family: 4,
    publicKey: DH_PUBLIC(priv),
    stamps: new Stamps(),
    uapi,
    system: systemOf(plan),
  };
  let count = 0;
  const open = async (): Promise<Trial> => {
    const n = count++;
    const own = { 4: `10.98.${1 + Math.floor(n / 250)}.${1 + (n % 250)}`, 6: `fd98::${(n + 256).toString(16)}` };
    const inner = {
      4: { ours: own[4], theirs: INNER_ADDRESSES[4] },
      6: { ours: own[6], theirs: INNER_ADDRESSES[6] },
    };
    const inbox = new Inbox();
    const [host] = plan.ours;
    const port = await Port.open(4, inbox, { host });
    const others: Trial[] = [];
    const another = async (): Promise<Trial> => {
      const other = await open();
      others.push(other);
      return other;
    };
    const trial = new Trial(target, { priv: random(32), inner, port, inbox, host, another });
    trial.onClose = async () => {
      for (const other of others) await other.close();
      await uapi.errno([`public_key=${hex(trial.publicKey)}`, "remove=true"]).catch(() => {});
    };
    await trial.configure(`endpoint=${trial.ownEndpoint}`, `allowed_ip=${own[4]}/32`, `allowed_ip=${own[6]}/128`);
    return trial;
  };
  return { has: new Set<Need>(["inner", "uapi", "system"]), parallel: true, open };
}

function systemOf({ namespace, interface: name, ours, theirs, mtu }: LaboratoryPlan): System {
  const inside = ["netns", "exec", namespace];
  return {
    ourOther: ours[1],
    theirOther: theirs[1],
    mtu,
    ping(to, { count = 1, size = 24 } = {}) {
      const options = ["-n", "-q", "-c", String(count), "-i", "0.002", "-W", "1", "-s", String(size)];
      return new Promise((resolve) => void execFile("ip", [...inside, "ping", ...options, to], () => resolve()));
    },
    delivered() {
      const text = execFileSync("ip", ["-n", namespace, "-s", "-j", "link", "show", "dev", name], { encoding: "utf8" });
      return (JSON.parse(text) as [{ stats64: { rx: { packets: number } } }])[0].stats64.rx.packets;
    },
    takePort() {
      const script = `import("node:dgram").then(({ createSocket }) => {
        const socket = createSocket("udp4");
        socket.bind(0, () => process.stdout.write(socket.address().port + "\\n"));
        process.stdin.on("end", () => process.exit()).resume();
      })`;
      const evaluate = "Deno" in globalThis ? ["eval", script] : ["-e", script];
      const child = spawn("ip", [...inside, process.execPath, ...evaluate], { stdio: ["pipe", "pipe", "ignore"] });
      const ended = new Promise<void>((resolve) => child.once("close", () => resolve()));
      return {
        port: new Promise((resolve) => child.stdout.once("data", (text) => resolve(Number(text)))),
        release: () => {
          child.stdin.end();
          return ended;
        },
      };
    },
  };
}
