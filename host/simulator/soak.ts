// A long random run: a full mesh of nodes that talk at random over a wire with every fault, and what must hold during
// and after it. The suites run it for a moment, the command line (run.ts) for as long as one likes.
import * as check from "./check.ts";
import type { CoreBuild } from "../core.ts";
import type { SimNode } from "./node.ts";
import { ipv4 } from "./packet.ts";
import { MS, SECOND } from "./message.ts";
import { Simulator } from "./simulator.ts";
import { type Faults, PERFECT } from "./wire.ts";

export interface SoakOptions {
  seed: number;
  build: CoreBuild;
  nodes: number;
  /** of virtual time, with faults */
  seconds: number;
  faults: Partial<Faults>;
  /** packets a second and node, on the average */
  rate: number;
  /** settings change at random as well: keys, peers, the device going down, keepalives */
  changes?: boolean;
  keepTrace?: boolean;
}

export const ALL_FAULTS: Faults = {
  loss: 0.1, duplicate: 0.1, corrupt: 0.05, reorder: 0.2, rebind: 0.002,
  delay: 10 * MS, jitter: 40 * MS, hold: 400 * MS,
};

export interface Soak {
  sim: Simulator;
  /** packets that nodes sent, and that came out elsewhere */
  sent: number;
  delivered: number;
}

/** Marks an inner packet, so that one that comes out twice, changed or in a wrong place is noticed. */
class Ledger {
  readonly #open = new Map<number, Uint8Array>();
  #serial = 0;

  make(from: SimNode, to: SimNode, length: number): Uint8Array {
    const packet = ipv4(from.inner, to.inner, length, this.#serial & 255);
    new DataView(packet.buffer).setUint32(20, ++this.#serial);
    this.#open.set(this.#serial, packet);
    return packet;
  }

  take(packet: Uint8Array, at: SimNode): void {
    const serial = new DataView(packet.buffer).getUint32(20);
    const sent = this.#open.get(serial);
    check.ok(sent, `packet ${serial} came out twice, or was never sent`);
    check.ok(packet.length === sent.length && packet.every((byte, i) => byte === sent[i]), `packet ${serial} came out changed`);
    const to = packet.subarray(16, 20).join(".");
    check.equal(to, at.inner, `packet ${serial} came out in a wrong place`);
    this.#open.delete(serial);
  }

  get made(): number {
    return this.#serial;
  }

  get taken(): number {
    return this.#serial - this.#open.size;
  }
}

/** What must hold of a node at any time. */
export function checkNode(node: SimNode): void {
  const { received, consumed, queued } = node.counts();
  check.equal(received, node.datagrams, `${node.name}: datagrams counted`);
  const refused = Object.entries(node.drops())
    .filter(([reason]) => !reason.startsWith("out_"))
    .reduce((sum, [, count]) => sum + count, 0);
  const text = `${node.name}: consumed ${consumed}, queued ${queued}, refused ${refused}`;
  check.equal(received, consumed + queued + refused, text);
}

/** Something that must hold did not; `sim` has the trace up to there. */
export class SoakFailure extends Error {
  readonly sim: Simulator;

  constructor(cause: Error, sim: Simulator) {
    super(`seed ${sim.seed} (${sim.build}) at ${sim.now() / SECOND} s: ${cause.message}`, { cause });
    this.sim = sim;
  }
}

/** @throws SoakFailure */
export function soak(options: SoakOptions): Soak {
  const sim = new Simulator({ ...options, faults: { ...PERFECT, ...options.faults } });
  try {
    return run(sim, options);
  } catch (error) {
    throw new SoakFailure(error as Error, sim);
  }
}

function run(sim: Simulator, options: SoakOptions): Soak {
  sim.wire.sent = undefined;
  const { nodes } = sim;
  for (let i = 0; i < options.nodes; i++) {
    sim.node({ maxPeers: options.nodes + 2, wallOffset: (i * 7919 - 10_000) * MS });
  }
  const psk = sim.stream("preshared keys");
  nodes.forEach((a, i) => {
    for (const b of nodes.slice(i + 1)) sim.connect(a, b, psk.chance(0.5) ? { presharedKey: psk.bytes(32) } : {});
  });
  const homes = nodes.map((node) => node.privateKey);
  const ledger = new Ledger();
  for (const node of nodes) {
    node.delivered = undefined;
    node.onDeliver = (packet) => ledger.take(packet, node);
  }
  const traffic = sim.stream("traffic");
  const end = sim.now() + options.seconds * SECOND;
  const talk = (): void => {
    const from = nodes[traffic.below(nodes.length)];
    const to = nodes[traffic.below(nodes.length)];
    // Bursts, and now and then a minute or three of silence: sessions must age.
    const burst = 1 + traffic.below(4);
    if (from !== to) from.send(...Array.from({ length: burst }, () => ledger.make(from, to, 24 + traffic.below(1397))));
    if (options.changes && traffic.chance(0.02)) {
      const who = traffic.below(nodes.length);
      change(sim, nodes[who], homes[who], traffic.below(6));
    }
    const mean = (2.5 * SECOND) / (options.rate * nodes.length);
    const pause = traffic.chance(0.003) ? traffic.below(200) * SECOND : traffic.below(mean * 2);
    if (sim.now() + pause < end) sim.schedule(sim.now() + pause, talk);
    for (const node of nodes) node.events.length = 0;
  };
  sim.schedule(sim.now(), talk);
  sim.run(end - sim.now());
  nodes.forEach(checkNode);
  recover(sim, ledger);
  nodes.forEach(checkNode);
  return { sim, sent: ledger.made, delivered: ledger.taken };
}

/** Something a user might do. Keys and the device come back as they were, so that recovery is possible. */
function change(sim: Simulator, node: SimNode, home: Uint8Array, kind: number): void {
  const peer = node.findPeer(sim.nodes[(sim.nodes.indexOf(node) + 1) % sim.nodes.length].publicKey);
  if (kind === 0) {
    node.down();
    sim.schedule(sim.now() + 3 * SECOND, () => node.up());
  } else if (kind === 1 && peer >= 0) {
    node.setKeepalive(peer, 5);
  } else if (kind === 2 && peer >= 0) {
    node.setKeepalive(peer, 0);
  } else if (kind === 3) {
    node.setPrivateKey(sim.stream(`key ${sim.now()}`).bytes(32));
    sim.schedule(sim.now() + SECOND, () => node.setPrivateKey(home));
  } else if (kind === 4 && peer >= 0) {
    node.handshake(peer);
  } else if (kind === 5) {
    sim.rebind(node.address);
  }
}

/** Faults end; all pairs must be able to talk, each way, within 20 seconds. */
function recover(sim: Simulator, ledger: Ledger): void {
  sim.wire.faults = { ...PERFECT };
  sim.run(4 * SECOND); // what was held back arrives, devices are up again
  const { nodes } = sim;
  // Both ends of a pair may have moved at once: then neither can find the other, in any WireGuard.
  for (const a of nodes) for (const b of nodes) if (a !== b) a.setEndpoint(a.findPeer(b.publicKey), b.address);
  const waiting = new Set<string>();
  for (const node of nodes) {
    node.onDeliver = (packet) => {
      ledger.take(packet, node);
      waiting.delete(`${packet[15]} ${packet[19]}`);
    };
  }
  // A ping each second, as people do: the first may go into a session that the other end has lost, which takes 15 s to
  // notice.
  const end = sim.now() + 20 * SECOND;
  const pairs = nodes
    .flatMap((a, i) => nodes.map((b, j) => ({ a, b, name: `${i + 1} ${j + 1}` })))
    .filter(({ a, b }) => a !== b);
  for (const { name } of pairs) waiting.add(name);
  while (waiting.size > 0 && sim.now() < end) {
    for (const { a, b, name } of pairs) if (waiting.has(name)) a.send(ledger.make(a, b, 84));
    sim.runUntil(() => waiting.size === 0, SECOND);
  }
  sim.run(SECOND);
  check.ok(waiting.size === 0, `no packet passed 20 s after the faults ended: ${[...waiting].join(", ")}`);
}
