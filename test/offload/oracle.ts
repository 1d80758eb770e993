// Packets from fields and back, and what segmentation means: the slow twin of assembly/offload/, written from RFC 791,
// 8200, 9293, 768, 1071 and linux/virtio_net.h. It works on fields and lists of bytes and always builds a packet from
// nothing, so it can share no mistake with code that adjusts headers where they lie.
import assert from "node:assert/strict";
import type { Stream } from "../../host/simulator/random.ts";

export type Bytes = Uint8Array;

export const TCP = 6;
export const UDP = 17;
export const FIN = 1;
export const SYN = 2;
export const RST = 4;
export const PSH = 8;
export const ACK = 16;
export const URG = 32;
export const ECE = 64;
export const CWR = 128;
/** Of the IPv4 word of flags and fragment offset. */
export const DF = 0x4000;
export const MF = 0x2000;

export const GSO_NONE = 0;
export const GSO_TCPV4 = 1;
export const GSO_TCPV6 = 4;
export const GSO_UDP_L4 = 5;
export const GSO_ECN = 0x80;
export const NEEDS_CSUM = 1;
export const DATA_VALID = 2;

const ROUTING = 43;

export interface Fields {
  version: 4 | 6;
  protocol: number;
  /** 4 or 16 bytes */
  source: Bytes;
  destination: Bytes;
  tos: number;
  ttl: number;
  /** IPv4 alone */
  id: number;
  fragment: number;
  ipOptions: Bytes;
  /** IPv6 alone: extension headers, whole; each begins with the type of the one after it, which build() writes */
  flowLabel: number;
  extensions: { type: number; bytes: Bytes }[];
  sourcePort: number;
  destinationPort: number;
  /** TCP alone */
  sequence: number;
  acknowledgment: number;
  /** four bits beside the header length */
  reserved: number;
  flags: number;
  window: number;
  urgent: number;
  tcpOptions: Bytes;
  /** UDP alone: the checksum field is zero */
  unchecked: boolean;
  payload: Bytes;
}

const none = new Uint8Array(0);
const be16 = (value: number): number[] => [(value >>> 8) & 255, value & 255];
const be32 = (value: number): number[] => [...be16(value >>> 16), ...be16(value)];
const read16 = (bytes: Bytes, at: number): number => bytes[at] * 256 + bytes[at + 1];
const read32 = (bytes: Bytes, at: number): number => read16(bytes, at) * 65536 + read16(bytes, at + 2);

/** RFC 1071: the ones' complement sum of big-endian words; an odd byte has a zero after it. */
export function onesSum(bytes: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) {
    sum += bytes[i] * 256 + (i + 1 < bytes.length ? bytes[i + 1] : 0);
    if (sum > 0xffff) sum -= 0xffff;
  }
  return sum;
}

/** The destination of the pseudo-header: a routing header's last address while segments are left, RFC 8200 §8.1. */
function finalDestination(fields: Fields): Bytes {
  for (const { type, bytes } of fields.extensions) {
    if (type === ROUTING && bytes[3] > 0) return bytes.subarray(bytes.length - 16);
  }
  return fields.destination;
}

export function pseudoHeader(fields: Fields, length: number): number[] {
  return [...fields.source, ...finalDestination(fields), ...be32(length), ...be32(fields.protocol)];
}

function networkHeader(fields: Fields, transportLength: number): number[] {
  if (fields.version === 4) {
    const length = 20 + fields.ipOptions.length;
    const header = [
      0x40 | (length / 4), fields.tos, ...be16(length + transportLength), ...be16(fields.id), ...be16(fields.fragment),
      fields.ttl, fields.protocol, 0, 0, ...fields.source, ...fields.destination, ...fields.ipOptions,
    ];
    header.splice(10, 2, ...be16(0xffff - onesSum(header)));
    return header;
  }
  const types = [...fields.extensions.map(({ type }) => type), fields.protocol];
  const extensions = fields.extensions.flatMap(({ bytes }, i) => [types[i + 1], ...bytes.subarray(1)]);
  return [
    ...be32(0x6000_0000 + fields.tos * 2 ** 20 + fields.flowLabel), ...be16(extensions.length + transportLength),
    types[0], fields.ttl, ...fields.source, ...fields.destination, ...extensions,
  ];
}

function transportHeader(fields: Fields, checksum: number): number[] {
  const ports = [...be16(fields.sourcePort), ...be16(fields.destinationPort)];
  if (fields.protocol === UDP) return [...ports, ...be16(8 + fields.payload.length), ...be16(checksum)];
  return [
    ...ports, ...be32(fields.sequence), ...be32(fields.acknowledgment),
    (5 + fields.tcpOptions.length / 4) * 16 + fields.reserved, fields.flags, ...be16(fields.window), ...be16(checksum),
    ...be16(fields.urgent), ...fields.tcpOptions,
  ];
}

function concat(...parts: ArrayLike<number>[]): Bytes {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** The packet with all its checksums. */
export function build(fields: Fields): Bytes {
  const length = transportHeader(fields, 0).length + fields.payload.length;
  const sum = onesSum(concat(pseudoHeader(fields, length), transportHeader(fields, 0), fields.payload));
  let checksum = 0xffff - sum;
  if (fields.protocol === UDP) checksum = fields.unchecked ? 0 : checksum || 0xffff;
  return concat(networkHeader(fields, length), transportHeader(fields, checksum), fields.payload);
}

/** A packet as a network card that makes checksums wants it: the pseudo-header's sum alone where the checksum goes. */
export function buildPartial(fields: Fields): Bytes {
  const length = transportHeader(fields, 0).length + fields.payload.length;
  const sum = onesSum(pseudoHeader(fields, length));
  return concat(networkHeader(fields, length), transportHeader(fields, sum), fields.payload);
}

/** Where the transport header begins. */
export function transportOffset(fields: Fields): number {
  return fields.version === 4
    ? 20 + fields.ipOptions.length
    : 40 + fields.extensions.reduce((sum, { bytes }) => sum + bytes.length, 0);
}

export function headersLength(fields: Fields): number {
  return transportOffset(fields) + (fields.protocol === TCP ? 20 + fields.tcpOptions.length : 8);
}

/** The fields of a TCP or UDP packet whose lengths are true; checksums are not looked at. */
export function parse(packet: Bytes): Fields {
  const version = packet[0] >> 4;
  assert.ok(version === 4 || version === 6, `version ${version}`);
  const fields = {
    version, extensions: [], ipOptions: none, tcpOptions: none, payload: none, id: 0, fragment: 0, flowLabel: 0,
    sequence: 0, acknowledgment: 0, reserved: 0, flags: 0, window: 0, urgent: 0, unchecked: false,
  } as unknown as Fields;
  let at: number;
  if (version === 4) {
    at = (packet[0] & 15) * 4;
    assert.equal(read16(packet, 2), packet.length, "IPv4 total length");
    fields.tos = packet[1];
    fields.id = read16(packet, 4);
    fields.fragment = read16(packet, 6);
    fields.ttl = packet[8];
    fields.protocol = packet[9];
    fields.source = packet.slice(12, 16);
    fields.destination = packet.slice(16, 20);
    fields.ipOptions = packet.slice(20, at);
  } else {
    assert.equal(read16(packet, 4) + 40, packet.length, "IPv6 payload length");
    fields.tos = (read16(packet, 0) >> 4) & 255;
    fields.flowLabel = read32(packet, 0) % 2 ** 20;
    fields.ttl = packet[7];
    fields.source = packet.slice(8, 24);
    fields.destination = packet.slice(24, 40);
    fields.protocol = packet[6];
    for (at = 40; fields.protocol !== TCP && fields.protocol !== UDP; ) {
      const end = at + 8 * (packet[at + 1] + 1);
      fields.extensions.push({ type: fields.protocol, bytes: packet.slice(at, end) });
      fields.protocol = packet[at];
      at = end;
    }
  }
  fields.sourcePort = read16(packet, at);
  fields.destinationPort = read16(packet, at + 2);
  if (fields.protocol === UDP) {
    assert.equal(read16(packet, at + 4), packet.length - at, "UDP length");
    fields.unchecked = read16(packet, at + 6) === 0;
    fields.payload = packet.slice(at + 8);
    return fields;
  }
  assert.equal(fields.protocol, TCP);
  fields.sequence = read32(packet, at + 4);
  fields.acknowledgment = read32(packet, at + 8);
  fields.reserved = packet[at + 12] & 15;
  fields.flags = packet[at + 13];
  fields.window = read16(packet, at + 14);
  fields.urgent = read16(packet, at + 18);
  const end = at + 4 * (packet[at + 12] >> 4);
  fields.tcpOptions = packet.slice(at + 20, end);
  fields.payload = packet.slice(end);
  return fields;
}

/** Asserts that lengths and checksums of a packet are right. */
export function assertValid(packet: Bytes): void {
  const fields = parse(packet);
  const at = transportOffset(fields);
  if (fields.version === 4) assert.equal(onesSum(packet.subarray(0, at)), 0xffff, "IPv4 header checksum");
  if (fields.unchecked) return;
  const sum = onesSum(concat(pseudoHeader(fields, packet.length - at), packet.subarray(at)));
  assert.equal(sum, 0xffff, "transport checksum");
}

/** A packet or super-packet beside its virtio header, as a TUN hands it over. */
export interface Vnet {
  header: Bytes;
  packet: Bytes;
}

export function vnetHeader(
  flags: number, type: number, hdrLen: number, size: number, start: number, offset: number,
): Bytes {
  const header = new Uint8Array(10);
  const view = new DataView(header.buffer);
  view.setUint8(0, flags);
  view.setUint8(1, type);
  [hdrLen, size, start, offset].forEach((value, i) => view.setUint16(2 + 2 * i, value, true));
  return header;
}

export function gsoType(fields: Fields): number {
  if (fields.protocol === UDP) return GSO_UDP_L4;
  return fields.version === 4 ? GSO_TCPV4 : GSO_TCPV6;
}

/** All of `fields` as one super-packet. */
export function superPacket(fields: Fields, gsoSize: number): Vnet {
  const packet = buildPartial(fields);
  const ecn = fields.protocol === TCP && fields.flags & CWR ? GSO_ECN : 0;
  const offset = fields.protocol === TCP ? 16 : 6;
  const start = transportOffset(fields);
  const header = vnetHeader(NEEDS_CSUM, gsoType(fields) | ecn, headersLength(fields), gsoSize, start, offset);
  return { packet, header };
}

/** The fields of each segment: what TSO and USO promise. */
export function segmentFields(fields: Fields, gsoSize: number): Fields[] {
  const segments: Fields[] = [];
  for (let at = 0; at < fields.payload.length; at += gsoSize) {
    let { flags } = fields;
    if (at > 0) flags &= ~CWR;
    if (at + gsoSize < fields.payload.length) flags &= ~(FIN | PSH);
    segments.push({
      ...fields, flags, id: (fields.id + segments.length) % 65536, sequence: (fields.sequence + at) % 2 ** 32,
      payload: fields.payload.subarray(at, at + gsoSize),
    });
  }
  return segments;
}

export const segmentsOf = (fields: Fields, gsoSize: number): Bytes[] => segmentFields(fields, gsoSize).map(build);

/**
 * What the kernel makes of bytes written to a TUN with IFF_VNET_HDR: one packet, or the segments of a joined one.
 * Asserts that the header is one that virtio_net_hdr_to_skb takes, and tells the whole truth.
 */
export function expand(delivered: Bytes): { packets: Bytes[]; valid: boolean; fields?: Fields } {
  const header = delivered.slice(0, 10);
  const packet = delivered.slice(10);
  if (header[1] === GSO_NONE) {
    assert.ok(header[0] === 0 || header[0] === DATA_VALID, `flags ${header[0]} of a single packet`);
    assert.deepEqual([...header.subarray(2)], Array(8).fill(0), "fields that say nothing");
    return { packets: [packet], valid: header[0] === DATA_VALID };
  }
  const fields = parse(packet);
  const size = header[4] + header[5] * 256;
  assert.deepEqual(header, superPacket(fields, size).header, "virtio header of a joined packet");
  assert.ok(Buffer.from(packet).equals(buildPartial(fields)), "lengths and checksums of a joined packet");
  assert.ok(fields.payload.length > size, "a joined packet of one");
  assert.ok(packet.length <= 65535);
  assert.equal(fields.fragment & ~DF & 0x7fff, 0, "a fragment was joined");
  assert.equal(fields.ipOptions.length + fields.extensions.length, 0, "options or extension headers were joined");
  if (fields.protocol === TCP) assert.equal(fields.flags & ~(PSH | ECE), ACK, "flags of a joined packet");
  return { packets: segmentsOf(fields, size), valid: true, fields };
}

/** Whether a segment of a joined packet is the packet that came, but for the identification beside DF (RFC 6864). */
export function sameAfterJoin(came: Bytes, segment: Bytes): boolean {
  const [a, b] = [came.slice(), segment.slice()];
  if (a[0] >> 4 === 4 && a[6] & 0x40) for (const packet of [a, b]) packet.fill(0, 4, 6).fill(0, 10, 12);
  return Buffer.from(a).equals(b);
}

// --- random ones -----------------------------------------------------------------------------------------------------

/** TCP options of a real stack: timestamps, or any bytes of a length that is a multiple of four. */
function tcpOptions(random: Stream): Bytes {
  const kind = random.below(4);
  if (kind === 0) return none;
  if (kind < 3) return Uint8Array.from([1, 1, 8, 10, ...random.bytes(8)]);
  return random.bytes(4 * (1 + random.below(10)));
}

export interface Shape {
  version?: 4 | 6;
  protocol?: number;
  payload: number;
}

/** A packet of a flow, of the kind that a stack sends in bulk. */
export function randomFields(random: Stream, { version, protocol, payload }: Shape): Fields {
  const v = version ?? (random.below(2) ? 4 : 6);
  const p = protocol ?? (random.below(2) ? TCP : UDP);
  const addressLength = v === 4 ? 4 : 16;
  return {
    version: v, protocol: p, source: random.bytes(addressLength), destination: random.bytes(addressLength),
    tos: random.below(256), ttl: 1 + random.below(255), id: random.below(65536),
    fragment: v === 4 && random.below(2) ? DF : 0, ipOptions: none, flowLabel: v === 6 ? random.below(2 ** 20) : 0,
    extensions: [], sourcePort: random.below(65536), destinationPort: random.below(65536),
    sequence: p === TCP ? random.u32() : 0, acknowledgment: p === TCP ? random.u32() : 0, reserved: 0,
    flags: p === TCP ? ACK : 0, window: p === TCP ? random.below(65536) : 0, urgent: 0,
    tcpOptions: p === TCP ? tcpOptions(random) : none, unchecked: false, payload: random.bytes(payload),
  };
}

/** Hop-by-hop or destination options, or a routing header with segments left. */
export function randomExtension(random: Stream): { type: number; bytes: Bytes } {
  const type = [0, 60, ROUTING][random.below(3)];
  const bytes = random.bytes(type === ROUTING ? 24 : 8 * (1 + random.below(2)));
  bytes[1] = bytes.length / 8 - 1;
  if (type === ROUTING) bytes.set([4, 1], 2);
  return { type, bytes };
}
