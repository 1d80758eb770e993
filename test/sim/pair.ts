// Two nodes that are peers of each other, and a third party made of the reference implementation: what most suites
// begin with.
import assert from "node:assert/strict";
import type { CoreBuild } from "../../host/core.ts";
import type { PeerOptions, SimNode } from "../../host/simulator/node.ts";
import { ipv4 } from "../../host/simulator/packet.ts";
import { MS } from "./paper.ts";
import {
  type Consumed, consumeInitiation, consumeResponse, createInitiation, createResponse, type Identity, type Keys,
  publicKeyOf, sealData, tai64n,
} from "./reference.ts";
import { Simulator } from "../../host/simulator/simulator.ts";
import type { Datagram, Sent } from "../../host/simulator/wire.ts";

export interface Pair {
  sim: Simulator;
  a: SimNode;
  b: SimNode;
  /** number of b at a, and of a at b */
  bAtA: number;
  aAtB: number;
  /** sends a packet from a node to the other */
  data(from: SimNode, length?: number): Uint8Array;
}

export function openPair(build: CoreBuild, options: PeerOptions = {}, seed = 1): Pair {
  const sim = new Simulator({ build, seed });
  const [a, b] = [sim.node(), sim.node()];
  const [bAtA, aAtB] = sim.connect(a, b, options);
  let serial = 0;
  const data = (from: SimNode, length = 64): Uint8Array => {
    const packet = ipv4(from.inner, from === a ? b.inner : a.inner, length, ++serial);
    from.send(packet);
    return packet;
  };
  return { sim, a, b, bAtA, aAtB, data };
}

/**
 * The same with a session that a began 70 ms ago (SESSION_AGE after its response came). Both have confirmed it, each
 * has heard the other's last word, so that no timer is armed but the one that zeroes keys; what was sent is forgotten.
 */
export function openSession(build: CoreBuild, options: PeerOptions = {}, seed = 1): Pair {
  // Keepalives come last: with them from the start, both sides would begin at once.
  const { keepalive, ...rest } = options;
  const pair = openPair(build, rest, seed);
  const { sim, a, b } = pair;
  pair.data(a);
  sim.run(40 * MS);
  pair.data(b);
  sim.run(15 * MS);
  a.keepalive(pair.bAtA);
  sim.run(15 * MS);
  if (keepalive) {
    a.setKeepalive(pair.bAtA, keepalive);
    b.setKeepalive(pair.aAtB, keepalive);
    sim.run(15 * MS);
  }
  assert.equal(a.info(pair.bAtA).sessions, 2, "a has a current session");
  assert.equal(b.info(pair.aAtB).sessions, 2, "b has a current session");
  forget(sim);
  return pair;
}

/** How long ago the session of openSession was derived by its initiator, ns. */
export const SESSION_AGE = 50 * MS;

export function forget(sim: Simulator): void {
  sim.wire.sent = [];
  for (const node of sim.nodes) {
    node.delivered = [];
    node.events = [];
  }
}

/** From now on nothing arrives: what is sent gathers in the list. */
export function hold(sim: Simulator): Datagram[] {
  const held: Datagram[] = [];
  sim.wire.hook = (datagram) => {
    held.push(datagram);
    return [];
  };
  return held;
}

/** A peer of one node that is no core: tests make its messages by hand. */
export class Stranger {
  readonly identity: Identity;
  readonly address: string;
  readonly inner: string;
  /** its number at the node */
  readonly peer: number;
  readonly node: SimNode;
  readonly sim: Simulator;
  /** seconds of its wall clock; each initiation is one later */
  clock = 1_800_000_000;
  #serial = 0;

  constructor(sim: Simulator, node: SimNode, options: PeerOptions = {}) {
    const privateKey = sim.stream("stranger").bytes(32);
    const { presharedKey } = options;
    this.identity = { privateKey, publicKey: publicKeyOf(privateKey), presharedKey };
    this.address = "198.51.100.7:1234";
    this.inner = "10.9.9.9";
    this.sim = sim;
    this.node = node;
    this.peer = node.addPeer(this.identity.publicKey, {
      endpoint: this.address, allowedIps: [`${this.inner}/32`], ...options,
    });
  }

  ephemeral(): Uint8Array {
    return this.sim.stream(`ephemeral ${this.#serial++}`).bytes(32);
  }

  /** Hands a message to the node. */
  tell(message: Uint8Array, from = this.address): void {
    this.node.receive({ bytes: message, from });
  }

  /** The newest message of a type that the node sent to this address. */
  heard(type: string): Sent {
    const heard = this.sim.wire.of(type).filter((it) => it.to === this.address).at(-1);
    assert.ok(heard, `the node sent no ${type}`);
    return heard;
  }

  initiation(stamp = tai64n(++this.clock, 0), cookie?: Uint8Array) {
    const sender = (0x5000_0000 + this.#serial) >>> 0;
    return createInitiation(this.identity, this.node.publicKey, this.ephemeral(), sender, stamp, cookie);
  }

  /** A whole handshake that the stranger begins, up to the node's unconfirmed session. */
  initiate(): Keys {
    const initiation = this.initiation();
    this.tell(initiation.message);
    return consumeResponse(this.identity, initiation, this.heard("response").bytes);
  }

  /** What the node's newest initiation says. */
  consumed(): Consumed {
    return consumeInitiation(this.identity, this.heard("initiation").bytes);
  }

  /** Answers the node's newest initiation. */
  respond(): Keys {
    const sender = 0x6000_0000 + this.#serial;
    const { message, keys } = createResponse(this.identity, this.consumed(), this.ephemeral(), sender);
    this.tell(message);
    return keys;
  }

  /** A data message with a packet of its own inner address, padded as the paper says. */
  data(keys: Keys, counter: bigint, packet = ipv4(this.inner, this.node.inner)): Uint8Array {
    const padded = new Uint8Array(Math.ceil(packet.length / 16) * 16);
    padded.set(packet);
    return sealData(keys, counter, padded);
  }
}

/** A node and a stranger. */
export function openStranger(
  build: CoreBuild, options: PeerOptions = {},
): { sim: Simulator; a: SimNode; stranger: Stranger } {
  const sim = new Simulator({ build });
  const a = sim.node();
  return { sim, a, stranger: new Stranger(sim, a, options) };
}
