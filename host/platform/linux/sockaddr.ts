// ENDPOINT records (assembly/abi.ts) to and from what the kernel reads: a socket name, and control messages that carry
// the sticky source (PKTINFO) and the outer header's DSCP and ECN (TOS, TCLASS). RFC 3542; ip(7), ipv6(7).
//
//   sockaddr_in6  family u16 | port u16 BE | flow u32 | address 16 | scope u32            28 bytes
//   sockaddr_in   family u16 | port u16 BE | address 4 | zero 8                           16 bytes
//   cmsghdr       length u64 | level i32 | type i32 | data, the next one 8-aligned
//   in6_pktinfo   address 16 | ifindex u32                       in_pktinfo  ifindex u32 | local 4 | destination 4
//
// One AF_INET6 socket carries both families: IPv4 as ::ffff:a.b.c.d, in names and in IPV6_PKTINFO alike, while its TOS
// travels as IP_TOS. An AF_INET socket stands in where the kernel has no IPv6.
// All is done in u32 words: network order survives, because words are only copied, and both sides are little-endian.

import {
  ENDPOINT_ADDR,
  ENDPOINT_FAMILY,
  ENDPOINT_SCOPE,
  ENDPOINT_SRC_ADDR,
  ENDPOINT_SRC_FAMILY,
  ENDPOINT_SRC_IFINDEX,
} from "../../../assembly/abi.ts";
import { AF_INET, AF_INET6 } from "./libc.ts";

export const SOL_IP = 0;
export const IP_TOS = 1;
export const IP_PKTINFO = 8;
export const SOL_IPV6 = 41;
export const IPV6_PKTINFO = 50;
export const IPV6_TCLASS = 67;
export const SOL_UDP = 17;
export const UDP_SEGMENT = 103;
export const UDP_GRO = 104;

/** Room for one name, bytes; both kinds fit. */
export const NAME_SIZE = 32;
export const SOCKADDR_IN_LEN = 16;
export const SOCKADDR_IN6_LEN = 28;

const CMSG_HEADER_LEN = 16;
const TOS_CMSG_LEN = CMSG_HEADER_LEN + 4;
export const TOS_CMSG_SPACE = 24;
const PKTINFO6_CMSG_LEN = CMSG_HEADER_LEN + 20;
const PKTINFO6_CMSG_SPACE = 40;
const PKTINFO4_CMSG_LEN = CMSG_HEADER_LEN + 12;
const PKTINFO4_CMSG_SPACE = 32;

const SEGMENT_CMSG_LEN = CMSG_HEADER_LEN + 2;
export const SEGMENT_CMSG_SPACE = 24;

/** Where PKTINFO stands in the room for what is sent: after the places of the segment length and the TOS. */
export const SOURCE_PLACE = SEGMENT_CMSG_SPACE + TOS_CMSG_SPACE;
/** Room for what one datagram sends. */
export const SEND_CONTROL_SIZE = SOURCE_PLACE + PKTINFO6_CMSG_SPACE;
/** Room for what one datagram may bring: PKTINFO, TOS and segment length, and as much again that nobody asked for. */
export const RECEIVE_CONTROL_SIZE = 2 * SEND_CONTROL_SIZE;

const V4_MAPPED = 0xffff0000; // bytes 8..11 of ::ffff:a.b.c.d
const ADDR = ENDPOINT_ADDR / 4;
const SCOPE = ENDPOINT_SCOPE / 4;
const FAMILY_AND_PORT = ENDPOINT_FAMILY / 4;
const SRC_IFINDEX = ENDPOINT_SRC_IFINDEX / 4;
const SRC_FAMILY = ENDPOINT_SRC_FAMILY / 4;
const SRC_ADDR = ENDPOINT_SRC_ADDR / 4;

/** 4 or 6. */
export type SocketFamily = 4 | 6;

/** Family of an endpoint: 0 (none), 4 or 6. */
export function endpointFamily(core: Uint32Array, endpoint: number): number {
  return core[endpoint + FAMILY_AND_PORT] & 0xffff;
}

/**
 * Writes the name of an endpoint. All places are word indices.
 * @returns its length in bytes, or 0 when a socket of this family cannot reach it
 */
export function putName(dst: Uint32Array, name: number, socket: SocketFamily, core: Uint32Array, endpoint: number): number {
  const familyAndPort = core[endpoint + FAMILY_AND_PORT];
  const family = familyAndPort & 0xffff;
  const port = familyAndPort & 0xffff0000;
  if (socket === 4) {
    if (family !== 4) return 0;
    dst[name] = AF_INET | port;
    dst[name + 1] = core[endpoint + ADDR];
    dst[name + 2] = 0;
    dst[name + 3] = 0;
    return SOCKADDR_IN_LEN;
  }
  dst[name] = AF_INET6 | port;
  dst[name + 1] = 0;
  if (family === 6) {
    putWords(dst, name + 2, core, endpoint + ADDR);
    dst[name + 6] = core[endpoint + SCOPE];
  } else if (family === 4) {
    putMapped(dst, name + 2, core[endpoint + ADDR]);
    dst[name + 6] = 0;
  } else {
    return 0;
  }
  return SOCKADDR_IN6_LEN;
}

/** Writes a name into an endpoint of the core, without a source. */
export function getName(core: Uint32Array, endpoint: number, src: Uint32Array, name: number): void {
  const port = src[name] & 0xffff0000;
  core[endpoint + SCOPE] = 0;
  if ((src[name] & 0xffff) === AF_INET) {
    core[endpoint + FAMILY_AND_PORT] = 4 | port;
    putIpv4(core, endpoint + ADDR, src[name + 1]);
  } else if (isMapped(src, name + 2)) {
    core[endpoint + FAMILY_AND_PORT] = 4 | port;
    putIpv4(core, endpoint + ADDR, src[name + 5]);
  } else {
    core[endpoint + FAMILY_AND_PORT] = 6 | port;
    core[endpoint + SCOPE] = src[name + 6];
    putWords(core, endpoint + ADDR, src, name + 2);
  }
  core[endpoint + SRC_IFINDEX] = 0;
  core[endpoint + SRC_FAMILY] = 0;
  core.fill(0, endpoint + SRC_ADDR, endpoint + SRC_ADDR + 4);
}

/** Writes the control message of DSCP and ECN at word `cmsg`, TOS_CMSG_SPACE bytes. */
export function putTos(dst: Uint32Array, cmsg: number, family: number, tos: number): void {
  dst[cmsg] = TOS_CMSG_LEN;
  dst[cmsg + 1] = 0;
  dst[cmsg + 2] = family === 6 ? SOL_IPV6 : SOL_IP;
  dst[cmsg + 3] = family === 6 ? IPV6_TCLASS : IP_TOS;
  dst[cmsg + 4] = tos & 0xff;
}

/** Writes the control message that makes a run of datagrams of one message, SEGMENT_CMSG_SPACE bytes at word `cmsg`. */
export function putSegment(dst: Uint32Array, cmsg: number, segment: number): void {
  dst[cmsg] = SEGMENT_CMSG_LEN;
  dst[cmsg + 1] = 0;
  dst[cmsg + 2] = SOL_UDP;
  dst[cmsg + 3] = UDP_SEGMENT;
  dst[cmsg + 4] = segment & 0xffff;
}

/**
 * Writes the control message of an endpoint's sticky source at word `cmsg`.
 * @returns its space in bytes, or 0 when the endpoint has none
 */
export function putSource(
  dst: Uint32Array,
  cmsg: number,
  socket: SocketFamily,
  core: Uint32Array,
  endpoint: number,
): number {
  const family = core[endpoint + SRC_FAMILY];
  if (family === 0 || family !== endpointFamily(core, endpoint)) return 0;
  dst[cmsg + 1] = 0;
  if (socket === 4) {
    dst[cmsg] = PKTINFO4_CMSG_LEN;
    dst[cmsg + 2] = SOL_IP;
    dst[cmsg + 3] = IP_PKTINFO;
    dst[cmsg + 4] = core[endpoint + SRC_IFINDEX];
    dst[cmsg + 5] = core[endpoint + SRC_ADDR];
    dst[cmsg + 6] = 0;
    return PKTINFO4_CMSG_SPACE;
  }
  dst[cmsg] = PKTINFO6_CMSG_LEN;
  dst[cmsg + 2] = SOL_IPV6;
  dst[cmsg + 3] = IPV6_PKTINFO;
  if (family === 6) putWords(dst, cmsg + 4, core, endpoint + SRC_ADDR);
  else putMapped(dst, cmsg + 4, core[endpoint + SRC_ADDR]);
  dst[cmsg + 8] = core[endpoint + SRC_IFINDEX];
  return PKTINFO6_CMSG_SPACE;
}

/**
 * Reads the control messages at word `control`: the address a datagram reached goes into the endpoint as its source.
 * @param length  bytes, as the kernel left msg_controllen
 * @returns DSCP and ECN of the outer header, and above these 8 bits the segment length of a run (UDP_GRO), 0 = none
 */
export function getControl(
  core: Uint32Array,
  endpoint: number,
  src: Uint32Array,
  control: number,
  length: number,
): number {
  let tos = 0;
  let segment = 0;
  const end = control + length / 4;
  let cmsg = control;
  while (cmsg + CMSG_HEADER_LEN / 4 <= end) {
    const cmsgLength = src[cmsg];
    if (cmsgLength < CMSG_HEADER_LEN || cmsg + cmsgLength / 4 > end) break;
    const level = src[cmsg + 2];
    const type = src[cmsg + 3];
    if (level === SOL_IPV6 && type === IPV6_PKTINFO && cmsgLength >= PKTINFO6_CMSG_LEN) {
      core[endpoint + SRC_IFINDEX] = src[cmsg + 8];
      if (isMapped(src, cmsg + 4)) {
        core[endpoint + SRC_FAMILY] = 4;
        putIpv4(core, endpoint + SRC_ADDR, src[cmsg + 7]);
      } else {
        core[endpoint + SRC_FAMILY] = 6;
        putWords(core, endpoint + SRC_ADDR, src, cmsg + 4);
      }
    } else if (level === SOL_IP && type === IP_PKTINFO && cmsgLength >= PKTINFO4_CMSG_LEN) {
      core[endpoint + SRC_IFINDEX] = src[cmsg + 4];
      core[endpoint + SRC_FAMILY] = 4;
      putIpv4(core, endpoint + SRC_ADDR, src[cmsg + 5]);
    } else if ((level === SOL_IP && type === IP_TOS) || (level === SOL_IPV6 && type === IPV6_TCLASS)) {
      tos = src[cmsg + 4] & 0xff; // IP_TOS comes as one byte, IPV6_TCLASS as an int
    } else if (level === SOL_UDP && type === UDP_GRO) {
      segment = src[cmsg + 4] & 0xffff;
    }
    cmsg += ((cmsgLength + 7) & ~7) / 4;
  }
  return tos | (segment << 8);
}

function isMapped(src: Uint32Array, address: number): boolean {
  return src[address] === 0 && src[address + 1] === 0 && src[address + 2] === V4_MAPPED;
}

function putMapped(dst: Uint32Array, address: number, ipv4: number): void {
  dst[address] = 0;
  dst[address + 1] = 0;
  dst[address + 2] = V4_MAPPED;
  dst[address + 3] = ipv4;
}

function putIpv4(core: Uint32Array, address: number, ipv4: number): void {
  core[address] = ipv4;
  core[address + 1] = 0;
  core[address + 2] = 0;
  core[address + 3] = 0;
}

function putWords(dst: Uint32Array, to: number, src: Uint32Array, from: number): void {
  dst[to] = src[from];
  dst[to + 1] = src[from + 1];
  dst[to + 2] = src[from + 2];
  dst[to + 3] = src[from + 3];
}
