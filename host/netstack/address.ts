// What an address is good for: scopes, keys for tables, and the choice of our own (RFC 6724, as far as a host with a
// few addresses on one link needs it: rules 1, 2 and 8).

import { type IpAddress, parseIp } from "../ip.ts";
import { equalBytes } from "./bytes.ts";

const LOOPBACK6 = parseIp("::1").address;

/** A key for a Map; short, and not meant to be read. */
export function addressKey(address: Uint8Array): string {
  let key = "";
  for (let i = 0; i < address.length; i += 2) key += String.fromCharCode((address[i] << 8) | address[i + 1]);
  return key;
}

export function sameAddress(a: IpAddress, b: IpAddress): boolean {
  return equalBytes(a.address, b.address);
}

/** A copy of its own, for what came in a packet. */
export function copyAddress(address: Uint8Array): IpAddress {
  return { family: address.length === 4 ? 4 : 6, address: address.slice() };
}

export function isUnspecified(address: Uint8Array): boolean {
  return address.every((byte) => byte === 0);
}

/** IPv4's limited broadcast counts as one: there is no single host behind it. */
export function isMulticast(address: Uint8Array): boolean {
  if (address.length === 16) return address[0] === 0xff;
  return (address[0] & 0xf0) === 0xe0 || address.every((byte) => byte === 0xff);
}

export function isLoopback(address: Uint8Array): boolean {
  return address.length === 4 ? address[0] === 127 : equalBytes(address, LOOPBACK6);
}

export function isLinkLocal(address: Uint8Array): boolean {
  if (address.length === 4) return address[0] === 169 && address[1] === 254;
  return address[0] === 0xfe && (address[1] & 0xc0) === 0x80;
}

/** leading bits that two addresses of one family share */
export function commonPrefixBits(a: Uint8Array, b: Uint8Array): number {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return i * 8 + Math.clz32(a[i] ^ b[i]) - 24;
  return a.length * 8;
}

/** The one of `own` to talk to `destination` from, or null when none is of its family. RFC 6724 §5. */
export function chooseSource(own: readonly IpAddress[], destination: IpAddress): IpAddress | null {
  let best: IpAddress | null = null;
  let bestScore = -1;
  for (const candidate of own) {
    if (candidate.family !== destination.family) continue;
    const sameScope = isLinkLocal(candidate.address) === isLinkLocal(destination.address);
    const score = commonPrefixBits(candidate.address, destination.address) + (sameScope ? 256 : 0);
    if (score > bestScore) {
      best = candidate;
      bestScore = score;
    }
  }
  return best;
}
