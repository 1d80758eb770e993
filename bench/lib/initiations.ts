// Handshake initiations made in advance by our own core, on a virtual clock: authentic ones of many identities, each
// with a later timestamp than the one before it, for whoever has to answer them.

import {
  DEVICE_PUBLIC_KEY, ENDPOINT_ADDR, ENDPOINT_FAMILY, ENDPOINT_LEN, ENDPOINT_PORT, OUT_LENGTH, OUT_OFFSET, OUT_SIZE,
  THREAD_MONO, THREAD_OUT, THREAD_WALL,
} from "../../assembly/abi.ts";
import { INITIATION_LEN, MESSAGE_HANDSHAKE_INITIATION, REKEY_TIMEOUT_MS } from "../../assembly/protocol.ts";
import { type Core, compileCore, createCore } from "../../host/core.ts";
import { CoreRandom, fillRandom } from "../../host/platform/random.ts";

export interface Initiations {
  /** of the identities, 32 bytes each */
  publicKeys: Uint8Array[];
  /** every identity once, then every identity again, ...: INITIATION_LEN bytes each */
  messages: Uint8Array[];
}

/** Past the time in which a second initiation to the same peer is held back, jitter included. */
const STEP_MS = REKEY_TIMEOUT_MS + 1000;

/** 192.0.2.1:51820, an address of documentation: nothing is ever sent there. */
export function anyEndpoint(): Uint8Array {
  const bytes = new Uint8Array(ENDPOINT_LEN);
  const view = new DataView(bytes.buffer);
  view.setUint16(ENDPOINT_FAMILY, 4, true);
  view.setUint16(ENDPOINT_PORT, 51820, false);
  bytes.set([192, 0, 2, 1], ENDPOINT_ADDR);
  return bytes;
}

/** A core on a clock of the caller's. */
export class VirtualCore {
  readonly core: Core;
  readonly #random: CoreRandom;

  constructor(core: Core) {
    this.core = core;
    this.#random = new CoreRandom(core);
    this.setTime(Date.now());
    this.#random.refill();
  }

  /** ms of both clocks; must not go back */
  setTime(ms: number): void {
    for (const clock of [THREAD_MONO, THREAD_WALL]) {
      this.core.view.setBigInt64(this.core.base + clock, BigInt(Math.floor(ms / 1000)), true);
      this.core.view.setBigInt64(this.core.base + clock + 8, BigInt(Math.floor(ms % 1000)) * 1_000_000n, true);
    }
  }

  addPeer(publicKey: Uint8Array): number {
    const peer = this.core.withArgument(publicKey, (at) => this.core.exports.peerAdd(at));
    if (peer < 0) throw new Error(`peerAdd: status ${peer}`);
    return peer;
  }

  setPrivateKey(key: Uint8Array): Uint8Array {
    this.core.withArgument(key, (at) => this.core.exports.deviceSetPrivateKey(at));
    return this.core.u8.slice(DEVICE_PUBLIC_KEY, DEVICE_PUBLIC_KEY + 32);
  }

  /** One portion of what is due. @returns the number of OUT records */
  service(): number {
    this.#random.refill();
    const outs = this.core.exports.deviceService();
    if (outs < 0) throw new Error(`deviceService: status ${outs}`);
    return outs;
  }

  /** A copy of OUT record `index`'s bytes. */
  out(index: number): Uint8Array {
    const { view, u8, base } = this.core;
    const record = base + THREAD_OUT + index * OUT_SIZE;
    const offset = view.getUint32(record + OUT_OFFSET, true);
    return u8.slice(offset, offset + view.getUint32(record + OUT_LENGTH, true));
  }
}

/**
 * Makes `rounds` initiations of each of `identities` to one responder. Some 0.5 ms each.
 * @param responder  public key
 */
export async function makeInitiations(responder: Uint8Array, identities: number, rounds: number): Promise<Initiations> {
  const initiator = new VirtualCore(createCore(await compileCore(), fillRandom, { maxPeers: 1, maxNodes: 2 }));
  const { core } = initiator;
  const peer = initiator.addPeer(responder);
  core.withArgument(anyEndpoint(), (at) => core.exports.peerSetEndpoint(peer, at));
  core.exports.deviceUp();
  // In the past to the end: nobody may think these timestamps strange.
  let now = Date.now() - (identities * rounds + 1) * STEP_MS;
  const publicKeys: Uint8Array[] = [];
  const byRound: Uint8Array[][] = Array.from({ length: rounds }, () => []);
  const key = new Uint8Array(32);
  for (let identity = 0; identity < identities; identity++) {
    fillRandom(key);
    publicKeys.push(initiator.setPrivateKey(key));
    for (let round = 0; round < rounds; round++) {
      initiator.setTime((now += STEP_MS));
      core.exports.peerHandshake(peer);
      byRound[round].push(takeInitiation(initiator));
    }
  }
  key.fill(0);
  return { publicKeys, messages: byRound.flat() };
}

function takeInitiation(initiator: VirtualCore): Uint8Array {
  let found: Uint8Array | undefined;
  do {
    const outs = initiator.service();
    for (let i = 0; i < outs; i++) {
      const message = initiator.out(i);
      if (message.length === INITIATION_LEN && message[0] === MESSAGE_HANDSHAKE_INITIATION) found = message;
    }
  } while (initiator.core.more);
  if (!found) throw new Error("the core made no initiation");
  return found;
}
