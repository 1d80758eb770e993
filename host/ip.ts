// IP addresses and prefixes as text. Reads RFC 4291 §2.2 and dotted quads strictly (no leading zeros, no octal, no
// missing parts: what inet_pton takes), writes RFC 5952. Addresses are bytes in network order; a prefix is kept masked.
// Pure: no name is ever resolved here.

import { quote } from "./errors.ts";

export type Family = 4 | 6;

export interface IpAddress {
  family: Family;
  /** 4 or 16 bytes, network order */
  address: Uint8Array;
}

/** An address and the length of its network's prefix, as an interface has it. */
export interface InterfaceAddress extends IpAddress {
  /** leading bits that count: 0..32 or 0..128 */
  cidr: number;
}

/** A prefix: all bits after the first `cidr` are zero. */
export type AllowedIp = InterfaceAddress;

export const IPV4_LEN = 4;
export const IPV6_LEN = 16;
const IPV6_GROUP_COUNT = 8;

const DECIMAL_BYTE = /^(?:0|[1-9]\d{0,2})$/;
const HEX_GROUP = /^[0-9a-fA-F]{1,4}$/;
const CIDR = /^(?:0|[1-9]\d{0,2})$/;

/** @throws RangeError unless `text` is an IPv4 or IPv6 address, without port, prefix or scope */
export function parseIp(text: string): IpAddress {
  const ip = tryParseIp(text);
  if (ip === null) throw new RangeError(`${quote(text)} is not an IP address`);
  return ip;
}

/** Like parseIp, but null for text that is no address (a host name, say). */
export function tryParseIp(text: string): IpAddress | null {
  if (text.includes(":")) {
    const address = parseIpv6(text);
    return address && { family: 6, address };
  }
  const address = parseIpv4(text);
  return address && { family: 4, address };
}

/**
 * Reads "IP/cidr" and clears the bits after the prefix.
 * @param bare  whether an address alone stands for the prefix of all its bits, as in a configuration file
 * @throws RangeError
 */
export function parsePrefix(text: string, bare = false): AllowedIp {
  const prefix = parseInterfaceAddress(text, bare);
  mask(prefix.address, prefix.cidr);
  return prefix;
}

/** Like parsePrefix, but keeps all bits. */
export function parseInterfaceAddress(text: string, bare = false): InterfaceAddress {
  const slash = text.indexOf("/");
  if (slash < 0 && !bare) throw new RangeError(`${quote(text)} has no /cidr`);
  const { family, address } = parseIp(slash < 0 ? text : text.slice(0, slash));
  const bits = address.length * 8;
  const length = slash < 0 ? String(bits) : text.slice(slash + 1);
  if (!CIDR.test(length) || Number(length) > bits) {
    throw new RangeError(`prefix length ${quote(length)} is not in 0..${bits}`);
  }
  return { family, address, cidr: Number(length) };
}

export function formatPrefix(prefix: AllowedIp): string {
  return `${formatIp(prefix.address)}/${prefix.cidr}`;
}

/** @param address  4 or 16 bytes */
export function formatIp(address: Uint8Array): string {
  return address.length === IPV4_LEN ? address.join(".") : formatIpv6(address);
}

/** Clears every bit of `address` after the first `cidr`. */
export function mask(address: Uint8Array, cidr: number): void {
  const whole = cidr >> 3;
  if (whole >= address.length) return;
  address[whole] &= 0xff00 >> (cidr & 7);
  address.fill(0, whole + 1);
}

function parseIpv4(text: string): Uint8Array | null {
  const parts = text.split(".", IPV4_LEN + 1);
  if (parts.length !== IPV4_LEN) return null;
  const address = new Uint8Array(IPV4_LEN);
  for (let i = 0; i < IPV4_LEN; i++) {
    if (!DECIMAL_BYTE.test(parts[i]) || Number(parts[i]) > 255) return null;
    address[i] = Number(parts[i]);
  }
  return address;
}

function parseIpv6(text: string): Uint8Array | null {
  const halves = text.split("::", 3);
  if (halves.length > 2) return null;
  const compressed = halves.length === 2;
  const head = parseGroups(halves[0], !compressed);
  const tail = compressed ? parseGroups(halves[1], true) : [];
  if (head === null || tail === null) return null;
  const count = head.length + tail.length;
  if (compressed ? count >= IPV6_GROUP_COUNT : count !== IPV6_GROUP_COUNT) return null;
  const address = new Uint8Array(IPV6_LEN);
  head.forEach((group, i) => setGroup(address, i, group));
  tail.forEach((group, i) => setGroup(address, IPV6_GROUP_COUNT - tail.length + i, group));
  return address;
}

/** The 16-bit groups of one side of "::"; the very last may be two groups as a dotted quad. */
function parseGroups(text: string, last: boolean): number[] | null {
  if (text === "") return [];
  const groups: number[] = [];
  const parts = text.split(":", IPV6_GROUP_COUNT + 1);
  for (let i = 0; i < parts.length; i++) {
    if (HEX_GROUP.test(parts[i])) {
      groups.push(parseInt(parts[i], 16));
      continue;
    }
    const quad = last && i === parts.length - 1 ? parseIpv4(parts[i]) : null;
    if (quad === null) return null;
    groups.push((quad[0] << 8) | quad[1], (quad[2] << 8) | quad[3]);
  }
  return groups;
}

function setGroup(address: Uint8Array, index: number, group: number): void {
  address[index * 2] = group >> 8;
  address[index * 2 + 1] = group & 0xff;
}

function formatIpv6(address: Uint8Array): string {
  const groups = Array.from({ length: IPV6_GROUP_COUNT }, (_, i) => (address[i * 2] << 8) | address[i * 2 + 1]);
  if (groups[5] === 0xffff && groups.slice(0, 5).every((group) => group === 0)) {
    return `::ffff:${address.subarray(12).join(".")}`; // RFC 5952 §5: IPv4-mapped
  }
  const { start, end } = longestZeroRun(groups);
  const hex = groups.map((group) => group.toString(16));
  if (start === end) return hex.join(":");
  return `${hex.slice(0, start).join(":")}::${hex.slice(end).join(":")}`;
}

/** RFC 5952 §4.2: the first of the longest runs, and never a single group; start = end when there is none. */
function longestZeroRun(groups: number[]): { start: number; end: number } {
  const best = { start: 0, end: 0 };
  for (let start = 0; start < groups.length; start++) {
    let end = start;
    while (end < groups.length && groups[end] === 0) end++;
    if (end - start > 1 && end - start > best.end - best.start) Object.assign(best, { start, end });
    if (end > start) start = end;
  }
  return best;
}
