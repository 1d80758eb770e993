// The headers of IPv4 (RFC 791) and IPv6 (RFC 8200), read and written.
//
// parse() checks everything before it says anything: a packet whose lengths lie is refused by name, never cut to fit
// (but bytes after its stated end are left out, as RFC 1122 has it). Options and extension headers are walked and left
// behind: the layers above see an IpHeader. Where a refusal is owed an ICMP message, it says which.

import { isMulticast } from "./address.ts";
import { be16, be32, putBe16, putBe32 } from "./bytes.ts";
import { finish, sum } from "./checksum.ts";
import type { DropReason } from "./drops.ts";
import type { IpHeader } from "./types.ts";

export const PROTOCOL_ICMP = 1;
export const PROTOCOL_TCP = 6;
export const PROTOCOL_UDP = 17;
export const PROTOCOL_ICMPV6 = 58;

export const IPV4_HEADER_LEN = 20;
export const IPV6_HEADER_LEN = 40;
export const FRAGMENT_HEADER_LEN = 8;
/** of IPv4's total length and IPv6's payload length */
export const LENGTH_MAX = 0xffff;
export const HOP_LIMIT = 64;

// RFC 791 §3.1: version and header length | class | total length | id | flags and fragment offset | TTL | protocol |
// checksum | source | destination
export const IPV4_TOTAL_LENGTH = 2;
const IPV4_ID = 4;
const IPV4_FRAGMENT = 6;
const IPV4_TTL = 8;
const IPV4_PROTOCOL = 9;
export const IPV4_CHECKSUM = 10;
const IPV4_SOURCE = 12;
const IPV4_DESTINATION = 16;
const IPV4_DF = 0x4000;
const IPV4_MF = 0x2000;
const IPV4_OFFSET = 0x1fff;
const OPTION_END = 0;
const OPTION_NOP = 1;
const OPTION_LSRR = 131;
const OPTION_SSRR = 137;

// RFC 8200 §3: version, class and flow | payload length | next header | hop limit | source | destination
export const IPV6_PAYLOAD_LENGTH = 4;
export const IPV6_NEXT_HEADER = 6;
const IPV6_HOP_LIMIT = 7;
const IPV6_SOURCE = 8;
const IPV6_DESTINATION = 24;

// RFC 8200 §4
const HOP_BY_HOP = 0;
const ROUTING = 43;
const FRAGMENT = 44;
const NO_NEXT_HEADER = 59;
const DESTINATION_OPTIONS = 60;
const EXTENSIONS = [HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS];
const OPTION_PAD1 = 0;
const OPTION_PADN = 1;
/** extension headers in one packet; more are an attack on whoever walks them (RFC 8504 §5.3 allows a limit) */
const EXTENSIONS_MAX = 8;
/** options in one header (RFC 8504 §5.3: 8) */
const OPTIONS_MAX = 8;

/** Parameter problem codes. RFC 4443 §3.4, RFC 7112 */
export const ERRONEOUS_HEADER = 0;
export const UNKNOWN_NEXT_HEADER = 1;
export const UNKNOWN_OPTION = 2;
export const INCOMPLETE_CHAIN = 3;

export interface Fragment {
  id: number;
  /** bytes */
  offset: number;
  more: boolean;
  /** IPv6: offset in the packet of the Next Header field that names the fragment header; and what follows it */
  nextHeaderAt: number;
  nextHeader: number;
}

export interface ParsedIp extends IpHeader {
  /** bytes of header with options and extension headers, those before the fragment header if there is one */
  headerLen: number;
  /** offset of what follows: the transport, or a fragment of it */
  payloadAt: number;
  /** bytes of the packet, without what a link added behind */
  length: number;
  /** a part of a packet: its protocol is not known to be at payloadAt */
  fragment: Fragment | null;
  /** IPv6: offset of the Next Header field that names `protocol`, for whoever must complain of it */
  protocolAt: number;
}

/** Why a packet is refused, and the parameter problem to report, if one is owed. */
export interface Refusal {
  drop: DropReason;
  problem: { code: number; pointer: number } | null;
}

function refuse(drop: DropReason): Refusal {
  return { drop, problem: null };
}

/** Reads an IP packet; `bytes` may be longer than it. */
export function parse(bytes: Uint8Array): ParsedIp | Refusal {
  if (bytes.length === 0) return refuse("truncated");
  const version = bytes[0] >>> 4;
  if (version === 4) return parse4(bytes);
  if (version === 6) return parse6(bytes);
  return refuse("badVersion");
}

export function isRefusal(result: ParsedIp | Refusal): result is Refusal {
  return "drop" in result;
}

function parse4(bytes: Uint8Array): ParsedIp | Refusal {
  if (bytes.length < IPV4_HEADER_LEN) return refuse("truncated");
  const headerLen = (bytes[0] & 0xf) * 4;
  if (headerLen < IPV4_HEADER_LEN) return refuse("badHeaderLength");
  if (headerLen > bytes.length) return refuse("truncated");
  const length = be16(bytes, IPV4_TOTAL_LENGTH);
  if (length < headerLen) return refuse("badLength");
  if (length > bytes.length) return refuse("truncated");
  if (sum(bytes, 0, headerLen) !== 0xffff) return refuse("badHeaderChecksum");
  const bad = headerLen > IPV4_HEADER_LEN ? checkOptions4(bytes, headerLen) : null;
  if (bad !== null) return bad;
  const word = be16(bytes, IPV4_FRAGMENT);
  const offset = (word & IPV4_OFFSET) * 8;
  const more = (word & IPV4_MF) !== 0;
  const protocol = bytes[IPV4_PROTOCOL];
  const fragment: Fragment | null =
    more || offset !== 0 ? { id: be16(bytes, IPV4_ID), offset, more, nextHeaderAt: 0, nextHeader: protocol } : null;
  return {
    family: 4,
    source: bytes.subarray(IPV4_SOURCE, IPV4_DESTINATION),
    destination: bytes.subarray(IPV4_DESTINATION, IPV4_HEADER_LEN),
    protocol,
    trafficClass: bytes[1],
    hopLimit: bytes[IPV4_TTL],
    headerLen,
    payloadAt: headerLen,
    length,
    fragment,
    protocolAt: IPV4_PROTOCOL,
  };
}

/** RFC 791 §3.1: none but the source routes matter to a host, and those it may refuse (RFC 1122 §3.2.1.8). */
function checkOptions4(bytes: Uint8Array, end: number): Refusal | null {
  for (let at = IPV4_HEADER_LEN; at < end;) {
    const type = bytes[at];
    if (type === OPTION_END) return null;
    if (type === OPTION_NOP) {
      at++;
      continue;
    }
    const length = at + 1 < end ? bytes[at + 1] : 0;
    if (length < 2 || at + length > end) return problem("badOption", ERRONEOUS_HEADER, at);
    if (type === OPTION_LSRR || type === OPTION_SSRR) return refuse("sourceRoute");
    at += length;
  }
  return null;
}

function problem(drop: DropReason, code: number, pointer: number): Refusal {
  return { drop, problem: { code, pointer } };
}

function parse6(bytes: Uint8Array): ParsedIp | Refusal {
  if (bytes.length < IPV6_HEADER_LEN) return refuse("truncated");
  const payloadLen = be16(bytes, IPV6_PAYLOAD_LENGTH);
  const length = IPV6_HEADER_LEN + payloadLen;
  if (length > bytes.length) return refuse("truncated");
  const parsed: ParsedIp = {
    family: 6,
    source: bytes.subarray(IPV6_SOURCE, IPV6_DESTINATION),
    destination: bytes.subarray(IPV6_DESTINATION, IPV6_HEADER_LEN),
    protocol: bytes[IPV6_NEXT_HEADER],
    trafficClass: ((bytes[0] & 0xf) << 4) | (bytes[1] >>> 4),
    hopLimit: bytes[IPV6_HOP_LIMIT],
    headerLen: IPV6_HEADER_LEN,
    payloadAt: IPV6_HEADER_LEN,
    length,
    fragment: null,
    protocolAt: IPV6_NEXT_HEADER,
  };
  return walkExtensions(bytes, parsed) ?? parsed;
}

/** Moves `parsed` past the extension headers, up to the transport or a fragment. RFC 8200 §4 */
function walkExtensions(bytes: Uint8Array, parsed: ParsedIp): Refusal | null {
  for (let count = 0; ; count++) {
    const type = parsed.protocol;
    const at = parsed.payloadAt;
    if (type === NO_NEXT_HEADER) return refuse("noNextHeader");
    if (type === FRAGMENT) {
      const atomic = takeFragmentHeader(bytes, parsed);
      if (atomic !== true) return atomic;
    } else if (type === HOP_BY_HOP || type === ROUTING || type === DESTINATION_OPTIONS) {
      if (type === HOP_BY_HOP && at !== IPV6_HEADER_LEN) {
        return problem("badOption", UNKNOWN_NEXT_HEADER, parsed.protocolAt);
      }
      if (at + 8 > parsed.length) return refuse("truncated");
      const end = at + 8 + bytes[at + 1] * 8;
      if (end > parsed.length) return refuse("truncated");
      const bad = type === ROUTING ? checkRouting(bytes, at) : checkOptions6(bytes, at + 2, end, parsed.destination);
      if (bad !== null) return bad;
      parsed.protocolAt = at;
      parsed.protocol = bytes[at];
      parsed.payloadAt = end;
      if (parsed.fragment === null) parsed.headerLen = end;
    } else {
      return null;
    }
    if (count === EXTENSIONS_MAX) return refuse("tooManyHeaders");
  }
}

/**
 * RFC 8200 §4.5. @returns true for an atomic fragment (RFC 6946), whose header is passed like any other; null when
 *   `parsed` is now a part of a packet
 */
function takeFragmentHeader(bytes: Uint8Array, parsed: ParsedIp): Refusal | true | null {
  const at = parsed.payloadAt;
  if (at + FRAGMENT_HEADER_LEN > parsed.length) return refuse("truncated");
  const word = be16(bytes, at + 2);
  const offset = word & 0xfff8;
  const more = (word & 1) !== 0;
  const nextHeaderAt = parsed.protocolAt;
  parsed.protocolAt = at;
  parsed.protocol = bytes[at];
  parsed.payloadAt = at + FRAGMENT_HEADER_LEN;
  if (offset === 0 && !more) {
    parsed.headerLen = parsed.payloadAt;
    return true;
  }
  parsed.fragment = { id: be32(bytes, at + 4), offset, more, nextHeaderAt, nextHeader: bytes[at] };
  return null;
}

/** A host is the end of every route (RFC 8200 §4.4); type 0 is never obeyed (RFC 5095). */
function checkRouting(bytes: Uint8Array, at: number): Refusal | null {
  const segmentsLeft = bytes[at + 3];
  return segmentsLeft === 0 ? null : problem("sourceRoute", ERRONEOUS_HEADER, at + 2);
}

/** RFC 8200 §4.2: the two high bits of an option that we do not know say what becomes of its packet. */
function checkOptions6(bytes: Uint8Array, start: number, end: number, destination: Uint8Array): Refusal | null {
  let count = 0;
  for (let at = start; at < end;) {
    const type = bytes[at];
    if (type === OPTION_PAD1) {
      at++;
      continue;
    }
    if (at + 2 > end) return problem("badOption", ERRONEOUS_HEADER, at);
    const next = at + 2 + bytes[at + 1];
    if (next > end) return problem("badOption", ERRONEOUS_HEADER, at + 1);
    if (type !== OPTION_PADN) {
      if (++count > OPTIONS_MAX) return refuse("tooManyHeaders");
      const action = type >>> 6;
      if (action === 1) return refuse("badOption");
      // 2 is answered to multicast as well, but nothing here is ever sent to multicast.
      if (action >= 2) {
        return isMulticast(destination) ? refuse("badOption") : problem("badOption", UNKNOWN_OPTION, at);
      }
    }
    at = next;
  }
  return null;
}

/**
 * The transport of a packet or first fragment that may be broken; null when its chain of headers does not end in it
 * (RFC 7112: that of a first fragment must).
 */
export function findTransport(bytes: Uint8Array): { protocol: number; at: number } | null {
  const version = bytes[0] >>> 4;
  let at = version === 4 ? (bytes[0] & 0xf) * 4 : IPV6_HEADER_LEN;
  let protocol = version === 4 ? bytes[IPV4_PROTOCOL] : bytes[IPV6_NEXT_HEADER];
  for (let count = 0; version === 6 && EXTENSIONS.includes(protocol); count++) {
    if (count > EXTENSIONS_MAX || at + 8 > bytes.length) return null;
    const length = protocol === FRAGMENT ? FRAGMENT_HEADER_LEN : 8 + bytes[at + 1] * 8;
    protocol = bytes[at];
    at += length;
  }
  return at < bytes.length ? { protocol, at } : null;
}

export interface HeaderFields {
  source: Uint8Array;
  destination: Uint8Array;
  protocol: number;
  trafficClass: number;
  hopLimit: number;
}

/**
 * Writes a header without options.
 * @param payloadLen  bytes that follow, of a super-packet all
 * @param id, fragmentWord  IPv4's two fields (RFC 6864: a packet that cannot be fragmented needs no id)
 */
export function putHeader4(
  dst: Uint8Array,
  fields: HeaderFields,
  payloadLen: number,
  id: number,
  fragmentWord: number,
) {
  dst[0] = 0x45;
  dst[1] = fields.trafficClass;
  putBe16(dst, IPV4_TOTAL_LENGTH, IPV4_HEADER_LEN + payloadLen);
  putBe16(dst, IPV4_ID, id);
  putBe16(dst, IPV4_FRAGMENT, fragmentWord);
  dst[IPV4_TTL] = fields.hopLimit;
  dst[IPV4_PROTOCOL] = fields.protocol;
  putBe16(dst, IPV4_CHECKSUM, 0);
  dst.set(fields.source, IPV4_SOURCE);
  dst.set(fields.destination, IPV4_DESTINATION);
  putBe16(dst, IPV4_CHECKSUM, finish(sum(dst, 0, IPV4_HEADER_LEN)));
}

export function fragmentWord4(offset: number, more: boolean, dontFragment: boolean): number {
  return (offset >>> 3) | (more ? IPV4_MF : 0) | (dontFragment ? IPV4_DF : 0);
}

export function putHeader6(dst: Uint8Array, fields: HeaderFields, payloadLen: number): void {
  dst[0] = 0x60 | (fields.trafficClass >>> 4);
  dst[1] = fields.trafficClass << 4;
  dst[2] = 0;
  dst[3] = 0;
  putBe16(dst, IPV6_PAYLOAD_LENGTH, payloadLen);
  dst[IPV6_NEXT_HEADER] = fields.protocol;
  dst[IPV6_HOP_LIMIT] = fields.hopLimit;
  dst.set(fields.source, IPV6_SOURCE);
  dst.set(fields.destination, IPV6_DESTINATION);
}

/** A header with a fragment header behind: 48 bytes. */
export function putFragmentHeader6(
  dst: Uint8Array,
  fields: HeaderFields,
  payloadLen: number,
  id: number,
  offset: number,
  more: boolean,
): void {
  putHeader6(dst, { ...fields, protocol: FRAGMENT }, FRAGMENT_HEADER_LEN + payloadLen);
  dst[IPV6_HEADER_LEN] = fields.protocol;
  dst[IPV6_HEADER_LEN + 1] = 0;
  putBe16(dst, IPV6_HEADER_LEN + 2, offset | (more ? 1 : 0));
  putBe32(dst, IPV6_HEADER_LEN + 4, id);
}

/** What an ICMP error quotes: the start of a packet of ours. */
export interface QuotedIp extends IpHeader {
  transportAt: number;
  /** of the whole packet, as its header says */
  length: number;
}

/**
 * Reads the header of a quoted packet: its end may be missing, and a router may have changed TTL and checksum.
 * @returns null when it is cut before 8 bytes of its transport, or is a fragment but the first
 */
export function parseQuoted(bytes: Uint8Array): QuotedIp | null {
  if (bytes.length < IPV4_HEADER_LEN + 8) return null;
  const version = bytes[0] >>> 4;
  if (version === 4) {
    const headerLen = (bytes[0] & 0xf) * 4;
    if (headerLen < IPV4_HEADER_LEN || headerLen + 8 > bytes.length) return null;
    if ((be16(bytes, IPV4_FRAGMENT) & IPV4_OFFSET) !== 0) return null;
    return {
      family: 4,
      source: bytes.subarray(IPV4_SOURCE, IPV4_DESTINATION),
      destination: bytes.subarray(IPV4_DESTINATION, IPV4_HEADER_LEN),
      protocol: bytes[IPV4_PROTOCOL],
      trafficClass: bytes[1],
      hopLimit: bytes[IPV4_TTL],
      transportAt: headerLen,
      length: be16(bytes, IPV4_TOTAL_LENGTH),
    };
  }
  if (version !== 6 || bytes.length < IPV6_HEADER_LEN + 8) return null;
  let protocol = bytes[IPV6_NEXT_HEADER];
  let transportAt = IPV6_HEADER_LEN;
  // We send no extension header but this one.
  if (protocol === FRAGMENT) {
    if ((be16(bytes, transportAt + 2) & 0xfff8) !== 0) return null;
    protocol = bytes[transportAt];
    transportAt += FRAGMENT_HEADER_LEN;
    if (transportAt + 8 > bytes.length) return null;
  }
  return {
    family: 6,
    source: bytes.subarray(IPV6_SOURCE, IPV6_DESTINATION),
    destination: bytes.subarray(IPV6_DESTINATION, IPV6_HEADER_LEN),
    protocol,
    trafficClass: ((bytes[0] & 0xf) << 4) | (bytes[1] >>> 4),
    hopLimit: bytes[IPV6_HOP_LIMIT],
    transportAt,
    length: IPV6_HEADER_LEN + be16(bytes, IPV6_PAYLOAD_LENGTH),
  };
}
