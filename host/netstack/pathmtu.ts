// What the paths to others carry, learned from ICMP. RFC 1191 (IPv4), RFC 8201 (IPv6).
//
// Only reductions are kept, each for ten minutes after the last message (RFC 1191 §6.3), in a table of a fixed size
// that forgets the oldest; so it needs no timer. Below IPV4_MTU_MIN a message is not believed in full, or a forged one
// could make us send crumbs: the path is taken to have that MTU, and packets to it may be fragmented on the way. Below
// 1280 an IPv6 message is no news at all (RFC 8200 §5).

import type { IpAddress } from "../ip.ts";
import { addressKey } from "./address.ts";
import type { StackClock } from "./types.ts";

export const IPV4_MTU_MIN = 576;
export const IPV6_MTU_MIN = 1280;
const AGE_MS = 600_000;
const ENTRIES_MAX = 1024;

/** MTUs that links have, for routers that name none. RFC 1191 §7.1 */
const PLATEAUS = [32000, 17914, 8166, 4352, 2002, 1492, 1006, 508];

interface Entry {
  mtu: number;
  /** narrower than IPV4_MTU_MIN: routers may fragment */
  fragmentable: boolean;
  expires: number;
}

export class PathMtus {
  readonly #clock: StackClock;
  readonly #entries = new Map<string, Entry>();

  constructor(clock: StackClock) {
    this.#clock = clock;
  }

  /** paths that are narrower than the link */
  get size(): number {
    return this.#entries.size;
  }

  get(destination: IpAddress, linkMtu: number): number {
    const entry = this.#find(destination.address);
    return entry === null ? linkMtu : Math.min(entry.mtu, linkMtu);
  }

  /** Whether packets to there go without Don't Fragment, because the path is narrower than we can say. */
  fragmentable(destination: IpAddress): boolean {
    return this.#find(destination.address)?.fragmentable ?? false;
  }

  /**
   * Takes a "packet too big" about a packet of ours.
   * @param mtu  what the message says; IPv4: 0 from a router older than RFC 1191
   * @param packetLen  bytes of the packet that was too big
   * @returns whether the packet would be sent in another form now; if not, the message is stale or forged
   */
  reduce(destination: Uint8Array, mtu: number, packetLen: number, linkMtu: number): boolean {
    const ipv4 = destination.length === 4;
    if (ipv4 && mtu === 0) mtu = PLATEAUS.find((plateau) => plateau < packetLen) ?? IPV4_MTU_MIN;
    if (mtu >= packetLen || (!ipv4 && mtu < IPV6_MTU_MIN)) return false;
    const known = this.#find(destination);
    const fragmentable = ipv4 && mtu < IPV4_MTU_MIN;
    mtu = Math.max(mtu, ipv4 ? IPV4_MTU_MIN : IPV6_MTU_MIN);
    const current = Math.min(known?.mtu ?? linkMtu, linkMtu);
    if (mtu > current) return packetLen > current;
    const key = addressKey(destination);
    this.#entries.delete(key);
    if (this.#entries.size >= ENTRIES_MAX) this.#entries.delete(this.#entries.keys().next().value!);
    const expires = this.#clock.now() + AGE_MS;
    this.#entries.set(key, { mtu, fragmentable: fragmentable || (known?.fragmentable ?? false), expires });
    return true;
  }

  clear(): void {
    this.#entries.clear();
  }

  #find(destination: Uint8Array): Entry | null {
    if (this.#entries.size === 0) return null;
    const key = addressKey(destination);
    const entry = this.#entries.get(key);
    if (entry === undefined) return null;
    if (entry.expires > this.#clock.now()) return entry;
    this.#entries.delete(key);
    return null;
  }
}
