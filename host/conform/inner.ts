// The packets that go through the tunnel: an ICMP echo, which every system answers, tells whether a peer took what was
// sent to it. Nothing of the netstack is used: the judge is made of parts of its own.

import { concat } from "./noise.ts";

export type Family = 4 | 6;

const ECHO = { 4: { request: 8, reply: 0 }, 6: { request: 128, reply: 129 } } as const;
const PROTOCOL = { 4: 1, 6: 58 } as const;
const HEADER_LEN = { 4: 20, 6: 40 } as const;
export const ICMP_LEN = 8;

export interface Echo {
  family: Family;
  kind: "request" | "reply";
  source: string;
  destination: string;
  id: number;
  sequence: number;
  data: Uint8Array;
}

const be16 = (value: number): Uint8Array => Uint8Array.of(value >>> 8, value);

/** RFC 1071 */
function checksum(bytes: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) sum += (bytes[i] << 8) | (bytes[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

/** An address as bytes: IPv4, or IPv6 with at most one "::". */
export function addressBytes(text: string): Uint8Array {
  if (!text.includes(":")) return Uint8Array.from(text.split(".").map(Number));
  const [head, tail] = text.split("::").map((part) => part.split(":").filter(Boolean));
  const middle = Array<string>(8 - head.length - (tail?.length ?? 0)).fill("0");
  return concat(...[...head, ...middle, ...(tail ?? [])].map((group) => be16(Number.parseInt(group, 16))));
}

function addressText(bytes: Uint8Array): string {
  return bytes.length === 4 ? bytes.join(".") : Array.from({ length: 8 }, (_, i) => hex16(bytes, 2 * i)).join(":");
}

const hex16 = (bytes: Uint8Array, at: number): string => ((bytes[at] << 8) | bytes[at + 1]).toString(16);
/** One text for one address. */
const canonical = (text: string): string => addressText(addressBytes(text));

/** An IP packet that holds an echo; `length` overrides the total (IPv4) or payload (IPv6) length of its header. */
export function echoPacket(echo: Echo, length?: number): Uint8Array {
  const { family, kind, id, sequence, data } = echo;
  const source = addressBytes(echo.source);
  const destination = addressBytes(echo.destination);
  const icmp = concat(Uint8Array.of(ECHO[family][kind], 0, 0, 0), be16(id), be16(sequence), data);
  const pseudo = concat(source, destination, be16(0), be16(icmp.length), Uint8Array.of(0, 0, 0, PROTOCOL[6]));
  icmp.set(be16(checksum(family === 4 ? icmp : concat(pseudo, icmp))), 2);
  const total = HEADER_LEN[family] + icmp.length;
  const flow = Uint8Array.of(0, 0, 0, 0, 64, PROTOCOL[4], 0, 0);
  const header =
    family === 4
      ? concat(Uint8Array.of(0x45, 0), be16(length ?? total), flow, source, destination)
      : concat(
          Uint8Array.of(0x60, 0, 0, 0),
          be16(length ?? icmp.length),
          Uint8Array.of(PROTOCOL[6], 64),
          source,
          destination,
        );
  if (family === 4) header.set(be16(checksum(header)), 10);
  return concat(header, icmp);
}

/** The length an IP packet says it has; 0 when it is none. */
export function innerLength(packet: Uint8Array): number {
  const version = packet[0] >> 4;
  if (version === 4 && packet.length >= 20) return (packet[2] << 8) | packet[3];
  return version === 6 && packet.length >= 40 ? ((packet[4] << 8) | packet[5]) + 40 : 0;
}

/** Reads what a packet, perhaps padded, holds; null when it is no echo. */
export function readEcho(packet: Uint8Array): Echo | null {
  const family = (packet[0] >> 4) as Family;
  const total = innerLength(packet);
  if ((family !== 4 && family !== 6) || total > packet.length || total < HEADER_LEN[family] + ICMP_LEN) return null;
  const icmp = packet.slice(HEADER_LEN[family], total);
  const kind = (["request", "reply"] as const).find((each) => ECHO[family][each] === icmp[0]);
  if (packet[family === 4 ? 9 : 6] !== PROTOCOL[family] || !kind) return null;
  const [from, to, len] = family === 4 ? [12, 16, 4] : [8, 24, 16];
  return {
    family,
    kind,
    source: addressText(packet.slice(from, from + len)),
    destination: addressText(packet.slice(to, to + len)),
    id: (icmp[4] << 8) | icmp[5],
    sequence: (icmp[6] << 8) | icmp[7],
    data: icmp.slice(ICMP_LEN),
  };
}

export const sameAddress = (a: string, b: string): boolean => canonical(a) === canonical(b);
