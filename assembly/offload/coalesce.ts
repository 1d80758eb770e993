// Coalescing: consecutive packets of one TCP or UDP flow go to the TUN as one, as the kernel's GRO joins them, so that
// the host's stack is walked once for up to 64 packets. Nothing is copied: the first packet's headers are adjusted, and
// DELIVER records gather the payloads from where they were opened.
//
// A packet joins when its headers say nothing that the one header left could not say for both: same flow, same TTL,
// TOS, DF and options, next sequence number, same acknowledgment, window and urgent pointer, no flag but ACK, PSH and
// the same ECE, payload no longer than the first one's, valid checksums, no fragment, no extension header. A shorter
// payload or PSH ends the run. One flow is open at a time: packets keep their order across flows too. (A table of flows,
// as GRO has, was rejected: runs come in one after the other as the sender's super-packets left, and order across flows
// is worth more.)
//
// So segmenting a joined packet gives the same packets, byte for byte, but for the identification of IPv4 packets with
// DF: RFC 6864 §4.1 has it ignored there, and they come out counted up from the first one's.

import {
  DELIVER_CONTINUES, DELIVER_FLAGS, DELIVER_LENGTH, DELIVER_OFFSET, DELIVER_PEER, DELIVER_SIZE,
  THREAD_DELIVER, THREAD_DELIVER_COUNT, THREAD_FLOW, THREAD_FLOW_SIZE,
} from "../abi";
import { threadBase } from "../memory";
import { fold, pseudoSum, sumShort, transportChecksumValid } from "./checksum";
import {
  be16, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, IPV4_CHECKSUM, IPV4_DF, IPV4_FRAGMENT, IPV4_FRAGMENT_MASK, IPV4_HEADER_LEN,
  IPV4_ID, IPV4_PROTOCOL, IPV4_TOTAL_LENGTH, IPV4_TTL, IPV6_HEADER_LEN, IPV6_NEXT_HEADER, IPV6_PAYLOAD_LENGTH,
  PROTOCOL_TCP, PROTOCOL_UDP, putBe16, TCP_ACK, TCP_ACKNOWLEDGMENT, TCP_CHECKSUM, TCP_DATA_OFFSET, TCP_ECE, TCP_FLAGS,
  TCP_HEADER_LEN, TCP_PSH, TCP_SEQUENCE, TCP_URGENT, TCP_WINDOW, UDP_CHECKSUM, UDP_HEADER_LEN, UDP_LENGTH,
  VNET_CSUM_OFFSET, VNET_CSUM_START, VNET_F_DATA_VALID, VNET_F_NEEDS_CSUM, VNET_FLAGS, VNET_GSO_SIZE, VNET_GSO_TYPE,
  VNET_HDR_LEN, VNET_LEN,
} from "./vnet";

/** Packets joined at most: more than a sender's super-packet ever has. */
const JOIN_MAX: u32 = 64;
const IP_LEN_MAX: u32 = 65535;

/** The run being joined, in the thread block. */
@unmanaged
class Flow {
  packet: usize; //     0  first packet's headers; 0 = no run
  open: u32; //         4  1 = another may join
  version: u32; //      8
  protocol: u32; //    12
  transport: u32; //   16  offset of the transport header
  headers: u32; //     20  bytes of all headers
  segment: u32; //     24  payload bytes of the first packet
  payload: u32; //     28  payload bytes of all
  count: u32; //       32  packets
  sequence: u32; //    36  TCP: the next
  flags: u32; //       40  TCP: of all
  id: u32; //          44  IPv4: of the first
}

if (offsetof<Flow>() > <usize>THREAD_FLOW_SIZE) ERROR("a flow outgrew THREAD_FLOW_SIZE");

// @ts-ignore: decorator
@inline
function flow(): Flow {
  return changetype<Flow>(threadBase + THREAD_FLOW);
}

function put(offset: usize, len: u32, peer: u32): void {
  const base = threadBase;
  const index = load<u32>(base, THREAD_DELIVER_COUNT);
  const record = base + THREAD_DELIVER + <usize>index * DELIVER_SIZE;
  store<u32>(record, <u32>offset, DELIVER_OFFSET);
  store<u32>(record, len, DELIVER_LENGTH);
  store<u32>(record, peer, DELIVER_PEER);
  store<u32>(record, 0, DELIVER_FLAGS);
  store<u32>(base, index + 1, THREAD_DELIVER_COUNT);
}

// A plain packet: ten bytes of header that say nothing, or that the checksum is known to be right.
function putPlain(packet: usize, len: u32, peer: u32, flags: u32): void {
  const header = packet - VNET_LEN;
  store<u64>(header, <u64>flags);
  store<u16>(header, 0, 8);
  put(header, len + <u32>VNET_LEN, peer);
}

/** Begins a call: no run. */
export function coalesceBegin(): void {
  flow().packet = 0;
  flow().open = 0;
}

/** Ends the run, if there is one: its header now speaks for all its packets. Call before the records are given out. */
export function coalesceEnd(): void {
  const f = flow();
  const packet = f.packet;
  f.packet = 0;
  f.open = 0;
  if (packet == 0 || f.count == 1) return;
  const total = f.headers + f.payload;
  const transportLen = total - f.transport;
  const header = packet - VNET_LEN;
  const transport = packet + f.transport;
  const isTcp = f.protocol == PROTOCOL_TCP;
  const type: u32 = isTcp ? (f.version == 4 ? GSO_TCPV4 : GSO_TCPV6) : GSO_UDP_L4;
  store<u8>(header, VNET_F_NEEDS_CSUM, VNET_FLAGS);
  store<u8>(header, type, VNET_GSO_TYPE);
  store<u16>(header, <u16>f.headers, VNET_HDR_LEN);
  store<u16>(header, <u16>f.segment, VNET_GSO_SIZE);
  store<u16>(header, <u16>f.transport, VNET_CSUM_START);
  store<u16>(header, <u16>(isTcp ? TCP_CHECKSUM : UDP_CHECKSUM), VNET_CSUM_OFFSET);
  if (f.version == 4) {
    putBe16(packet, total, IPV4_TOTAL_LENGTH);
    store<u16>(packet, 0, IPV4_CHECKSUM);
    store<u16>(packet, <u16>~fold(sumShort(packet, IPV4_HEADER_LEN)), IPV4_CHECKSUM);
  } else {
    putBe16(packet, total - IPV6_HEADER_LEN, IPV6_PAYLOAD_LENGTH);
  }
  const pseudo = <u16>fold(pseudoSum(packet, f.version, f.protocol, transportLen));
  if (isTcp) {
    store<u8>(transport, f.flags, TCP_FLAGS);
    store<u16>(transport, pseudo, TCP_CHECKSUM);
  } else {
    putBe16(transport, transportLen, UDP_LENGTH);
    store<u16>(transport, pseudo, UDP_CHECKSUM);
  }
}

// Whether the headers from the first byte to the payload let the packet join the run. Sequence and size are next.
function sameHeaders(f: Flow, packet: usize): bool {
  const first = f.packet;
  const transport = packet + f.transport;
  const firstTransport = first + f.transport;
  if (load<u32>(transport) != load<u32>(firstTransport)) return false; // ports
  if (f.version == 4) {
    if (load<u16>(packet) != load<u16>(first)) return false; // version, header length, TOS
    if (load<u64>(packet, 12) != load<u64>(first, 12)) return false; // addresses
    if (load<u8>(packet, IPV4_TTL) != load<u8>(first, IPV4_TTL)) return false;
    const fragment = be16(packet, IPV4_FRAGMENT);
    if (fragment != be16(first, IPV4_FRAGMENT)) return false;
    // Without DF the numbers matter; segmenting the run again gives consecutive ones.
    if (!(fragment & IPV4_DF) && be16(packet, IPV4_ID) != ((f.id + f.count) & 0xffff)) return false;
  } else {
    if (load<u32>(packet) != load<u32>(first)) return false; // version, traffic class, flow label
    if (load<u16>(packet, IPV6_NEXT_HEADER) != load<u16>(first, IPV6_NEXT_HEADER)) return false; // and hop limit
    const addresses = v128.or(
      v128.xor(v128.load(packet, 8), v128.load(first, 8)), v128.xor(v128.load(packet, 24), v128.load(first, 24)),
    );
    if (v128.any_true(addresses)) return false;
  }
  if (f.protocol == PROTOCOL_UDP) return true;
  if (load<u32>(transport, TCP_ACKNOWLEDGMENT) != load<u32>(firstTransport, TCP_ACKNOWLEDGMENT)) return false;
  if (load<u16>(transport, TCP_WINDOW) != load<u16>(firstTransport, TCP_WINDOW)) return false;
  if (load<u16>(transport, TCP_URGENT) != load<u16>(firstTransport, TCP_URGENT)) return false;
  // Header length, reserved bits (AE of accurate ECN is one) and flags; PSH is the last one's.
  const bits = load<u16>(transport, TCP_DATA_OFFSET) ^ load<u16>(firstTransport, TCP_DATA_OFFSET);
  if (bits & ~<u16>(TCP_PSH << 8)) return false;
  for (let at: u32 = f.transport + TCP_HEADER_LEN; at < f.headers; at += 4) {
    if (load<u32>(packet + at) != load<u32>(first + at)) return false; // options
  }
  return true;
}

/**
 * Takes one opened packet, its length checked by its own header, with VNET_LEN bytes of ours before it. DELIVER records
 * for it are put at once; the run's header is finished by coalesceEnd.
 */
export function coalesce(packet: usize, len: u32, peer: u32, joinUdp: bool): void {
  const f = flow();
  const version = <u32>load<u8>(packet) >> 4;
  let protocol: u32;
  let transport: u32;
  let plain = false;
  if (version == 4) {
    transport = IPV4_HEADER_LEN;
    protocol = load<u8>(packet, IPV4_PROTOCOL);
    plain = load<u8>(packet) == 0x45 && (be16(packet, IPV4_FRAGMENT) & IPV4_FRAGMENT_MASK) == 0;
    if (plain && fold(sumShort(packet, IPV4_HEADER_LEN)) != 0xffff) plain = false;
  } else {
    transport = IPV6_HEADER_LEN;
    protocol = load<u8>(packet, IPV6_NEXT_HEADER);
    plain = true;
  }
  let headers: u32 = 0;
  let flags: u32 = 0;
  if (plain && protocol == PROTOCOL_TCP && len >= transport + TCP_HEADER_LEN) {
    headers = transport + ((<u32>load<u8>(packet + transport, TCP_DATA_OFFSET) >> 4) << 2);
    flags = load<u8>(packet + transport, TCP_FLAGS);
    plain = headers >= transport + TCP_HEADER_LEN && headers < len && (flags & ~(TCP_PSH | TCP_ECE)) == TCP_ACK;
  } else if (plain && protocol == PROTOCOL_UDP && joinUdp && len > transport + UDP_HEADER_LEN) {
    headers = transport + UDP_HEADER_LEN;
    if (be16(packet + transport, UDP_LENGTH) != len - transport || load<u16>(packet + transport, UDP_CHECKSUM) == 0)
      plain = false;
  } else {
    plain = false;
  }
  if (!plain || !transportChecksumValid(packet, version, protocol, packet + transport, len - transport)) {
    coalesceEnd();
    putPlain(packet, len, peer, 0);
    return;
  }
  const payload = len - headers;
  const sequence = protocol == PROTOCOL_TCP ? bswap<u32>(load<u32>(packet + transport, TCP_SEQUENCE)) : 0;
  const joins =
    f.open && f.version == version && f.protocol == protocol && f.headers == headers && payload <= f.segment &&
    f.headers + f.payload + payload <= IP_LEN_MAX && f.count < JOIN_MAX && sequence == f.sequence &&
    sameHeaders(f, packet);
  if (joins) {
    const last = threadBase + THREAD_DELIVER + <usize>(load<u32>(threadBase, THREAD_DELIVER_COUNT) - 1) * DELIVER_SIZE;
    store<u32>(last, DELIVER_CONTINUES, DELIVER_FLAGS);
    put(packet + headers, payload, peer);
    f.payload += payload;
    f.count++;
    f.flags |= flags;
    if (protocol == PROTOCOL_TCP) f.sequence += payload;
    if (payload < f.segment || flags & TCP_PSH) f.open = 0;
    return;
  }
  coalesceEnd();
  f.packet = packet;
  f.open = flags & TCP_PSH ? 0 : 1;
  f.version = version;
  f.protocol = protocol;
  f.transport = transport;
  f.headers = headers;
  f.segment = payload;
  f.payload = payload;
  f.count = 1;
  f.sequence = protocol == PROTOCOL_TCP ? sequence + payload : 0;
  f.flags = flags;
  f.id = version == 4 ? be16(packet, IPV4_ID) : 0;
  putPlain(packet, len, peer, VNET_F_DATA_VALID);
}
