// Initial sequence numbers, RFC 6528: a clock of 4 us and a keyed hash of the four-tuple, so that they grow for each
// pair of sockets and cannot be guessed from those of another. Timestamps begin in the same way (RFC 7323 §5.4, §7.1)
// at an offset by the pair of addresses alone: they must grow from one connection to the next for RFC 6191 to tell them
// apart.

import type { SocketAddress } from "../types.ts";
import { SipHash } from "./siphash.ts";

const TICKS_PER_MS = 250;
const TUPLE_MAX_LEN = 36;

export class InitialNumbers {
  private readonly sipHash: SipHash;
  private readonly tuple = new Uint8Array(TUPLE_MAX_LEN);

  /** @param key  16 random bytes */
  constructor(key: Uint8Array) {
    this.sipHash = new SipHash(key);
  }

  /** @param now  ms */
  sequence(local: SocketAddress, remote: SocketAddress, now: number): number {
    const len = this.putAddresses(local, remote);
    const { tuple } = this;
    tuple[len] = local.port >> 8;
    tuple[len + 1] = local.port;
    tuple[len + 2] = remote.port >> 8;
    tuple[len + 3] = remote.port;
    return (this.sipHash.hash(tuple, len + 4) + Math.floor(now * TICKS_PER_MS)) >>> 0;
  }

  /** What to add to floor(ms) for a TSval */
  clockOffset(local: SocketAddress, remote: SocketAddress): number {
    return this.sipHash.hash(this.tuple, this.putAddresses(local, remote));
  }

  private putAddresses(local: SocketAddress, remote: SocketAddress): number {
    this.tuple.set(local.address);
    this.tuple.set(remote.address, local.address.length);
    return local.address.length + remote.address.length;
  }
}
