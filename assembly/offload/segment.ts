// Segmentation: one super-packet of up to 64 KiB from the TUN becomes packets of the size the flow can carry, what a
// network card's TSO and USO do (virtio_net_hdr, linux/virtio_net.h). The checksum that was left to the card is made here.
//
// In place: a segment's headers are written over the tail of the payload before it, which has been sealed by then. So
// the segments must be taken in order, each used before the next is asked for, and the bytes behind a segment left alone.

import { THREAD_SEGMENT, THREAD_SEGMENT_SIZE } from "../abi";
import { threadBase } from "../memory";
import { fold, pseudoSum, sum, sumShort, word } from "./checksum";
import {
  be16, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, IPV4_CHECKSUM, IPV4_FRAGMENT, IPV4_FRAGMENT_MASK,
  IPV4_HEADER_LEN, IPV4_ID, IPV4_PROTOCOL, IPV4_TOTAL_LENGTH, IPV6_DESTINATION_OPTIONS, IPV6_HEADER_LEN,
  IPV6_HOP_OPTIONS, IPV6_NEXT_HEADER, IPV6_PAYLOAD_LENGTH, IPV6_ROUTING, PROTOCOL_TCP, PROTOCOL_UDP, putBe16,
  TCP_CHECKSUM, TCP_CWR, TCP_DATA_OFFSET, TCP_FIN, TCP_FLAGS, TCP_HEADER_LEN, TCP_PSH, TCP_SEQUENCE, UDP_CHECKSUM, UDP_HEADER_LEN, UDP_LENGTH,
  VNET_CSUM_OFFSET, VNET_CSUM_START, VNET_F_NEEDS_CSUM, VNET_FLAGS, VNET_GSO_SIZE, VNET_GSO_TYPE, VNET_LEN,
} from "./vnet";

/** All headers together: no real ones are longer. */
const HEADERS_MAX: u32 = 128;

/** The super-packet being segmented, in the thread block. */
@unmanaged
class Super {
  packet: usize; //     0
  payload: u32; //      4  bytes of it in all
  offset: u32; //       8  bytes of it already segmented
  headers: u32; //     12
  transport: u32; //   16
  segment: u32; //     20  payload bytes of a segment
  version: u32; //     24
  protocol: u32; //    28
  sequence: u32; //    32  TCP: of the first segment
  id: u32; //          36  IPv4: of the next segment
  flags: u32; //       40  TCP: as the super-packet has them
  current: usize; //   44  the segment that segmentNext prepared
  pseudo: u32; //      48  sum of the pseudo-header without the length
}

// Where the super-packet's headers are kept while segments are cut.
const HEADERS: usize = 64;

if (HEADERS + HEADERS_MAX > <usize>THREAD_SEGMENT_SIZE) ERROR("a super-packet outgrew THREAD_SEGMENT_SIZE");

// @ts-ignore: decorator
@inline
function superPacket(): Super {
  return changetype<Super>(threadBase + THREAD_SEGMENT);
}

/** Makes the checksum that was left to us in a packet that is sent whole. @returns false when its place is not in it */
function complete(packet: usize, len: u32): bool {
  const header = packet - VNET_LEN;
  if (!(load<u8>(header, VNET_FLAGS) & VNET_F_NEEDS_CSUM)) return true;
  const start = <u32>load<u16>(header, VNET_CSUM_START);
  const at = start + <u32>load<u16>(header, VNET_CSUM_OFFSET);
  if (start >= len || at + 2 > len) return false;
  // The field holds the pseudo-header's sum already. 0 means "no checksum" to UDP, and the same as 0xffff to TCP.
  const checksum = ~fold(sum(packet + start, len - start)) & 0xffff;
  store<u16>(packet + at, <u16>(checksum ? checksum : 0xffff));
  return true;
}

/** Whether the headers from the IPv6 header to `transport` are options and routing, and lead to `protocol`. */
function leadsTo(packet: usize, transport: u32, protocol: u32): bool {
  let next = <u32>load<u8>(packet, IPV6_NEXT_HEADER);
  let at: u32 = IPV6_HEADER_LEN;
  while (at < transport && (next == IPV6_HOP_OPTIONS || next == IPV6_ROUTING || next == IPV6_DESTINATION_OPTIONS)) {
    next = load<u8>(packet + at);
    at += (<u32>load<u8>(packet + at, 1) + 1) << 3;
  }
  return at == transport && next == protocol;
}

/** Whether a super-packet's IP header agrees with its length, and leads to `protocol` at `transport`. */
function networkAgrees(packet: usize, len: u32, version: u32, transport: u32, protocol: u32): bool {
  if (version == 4) {
    return (
      transport >= IPV4_HEADER_LEN && transport == (<u32>load<u8>(packet) & 15) << 2 &&
      be16(packet, IPV4_TOTAL_LENGTH) == len && (be16(packet, IPV4_FRAGMENT) & IPV4_FRAGMENT_MASK) == 0 &&
      load<u8>(packet, IPV4_PROTOCOL) == protocol
    );
  }
  return be16(packet, IPV6_PAYLOAD_LENGTH) + IPV6_HEADER_LEN == len && leadsTo(packet, transport, protocol);
}

/**
 * Looks at a packet of at least 20 bytes with its virtio header before it. hdr_len is the sender's hint and may be
 * anything; every other field, and the IP header's length, must be true (one cut short by the reader is not).
 * @returns 0: send it whole (its checksum is made); 1: take its segments with segmentNext; -1: its header is impossible
 */
export function segmentBegin(packet: usize, len: u32): i32 {
  const header = packet - VNET_LEN;
  const type = <u32>load<u8>(header, VNET_GSO_TYPE) & ~GSO_ECN;
  if (type == GSO_NONE) return complete(packet, len) ? 0 : -1;
  const version = <u32>load<u8>(packet) >> 4;
  const segment = <u32>load<u16>(header, VNET_GSO_SIZE);
  const transport = <u32>load<u16>(header, VNET_CSUM_START);
  const isTcp = type != GSO_UDP_L4;
  const protocol = isTcp ? PROTOCOL_TCP : PROTOCOL_UDP;
  const checksum = isTcp ? TCP_CHECKSUM : UDP_CHECKSUM;
  if (type == GSO_TCPV4 ? version != 4 : type == GSO_TCPV6 ? version != 6 : type != GSO_UDP_L4) return -1;
  if (segment == 0 || (version != 4 && version != 6) || !(load<u8>(header, VNET_FLAGS) & VNET_F_NEEDS_CSUM)) return -1;
  if (load<u16>(header, VNET_CSUM_OFFSET) != <u16>checksum) return -1;
  if (transport + (isTcp ? TCP_HEADER_LEN : UDP_HEADER_LEN) > len) return -1;
  if (!networkAgrees(packet, len, version, transport, protocol)) return -1;
  let headers = transport + UDP_HEADER_LEN;
  if (isTcp) {
    const tcp = (<u32>load<u8>(packet + transport, TCP_DATA_OFFSET) >> 4) << 2;
    if (tcp < TCP_HEADER_LEN) return -1;
    headers = transport + tcp;
  }
  if (headers > HEADERS_MAX || headers >= len) return -1;
  const s = superPacket();
  s.packet = packet;
  s.payload = len - headers;
  s.offset = 0;
  s.headers = headers;
  s.transport = transport;
  s.segment = segment < s.payload ? segment : s.payload;
  s.version = version;
  s.protocol = protocol;
  s.sequence = isTcp ? bswap<u32>(load<u32>(packet + transport, TCP_SEQUENCE)) : 0;
  s.flags = isTcp ? load<u8>(packet + transport, TCP_FLAGS) : 0;
  s.id = version == 4 ? be16(packet, IPV4_ID) : 0;
  if (version == 6 && transport > IPV6_HEADER_LEN) {
    // With a routing header the pseudo-header has another destination: the kernel's sum knows it, less the length.
    const sum = <u64>load<u16>(packet + transport + checksum);
    s.pseudo = fold(sum + (word(len - transport) ^ 0xffff));
  } else {
    s.pseudo = fold(pseudoSum(packet, version, protocol, 0));
  }
  memory.copy(changetype<usize>(s) + HEADERS, packet, headers);
  return 1;
}

/** Bytes of the longest segment. */
export function segmentLenMax(): u32 {
  const s = superPacket();
  return s.headers + s.segment;
}

/** Segments that are left. */
export function segmentsLeft(): u32 {
  const s = superPacket();
  return (s.payload - s.offset + s.segment - 1) / s.segment;
}

/** The packet that segmentNext prepared. */
// @ts-ignore: decorator
@inline
export function segmentPacket(): usize {
  return superPacket().current;
}

/** Prepares the next segment. @returns its length in bytes, 0 when there are no more */
export function segmentNext(): u32 {
  const s = superPacket();
  const left = s.payload - s.offset;
  if (left == 0) return 0;
  const size = left < s.segment ? left : s.segment;
  const headers = s.headers;
  const packet = s.packet + s.offset;
  const transport = packet + s.transport;
  const transportLen = headers - s.transport + size;
  if (s.offset) memory.copy(packet, changetype<usize>(s) + HEADERS, headers);
  if (s.version == 4) {
    putBe16(packet, headers + size, IPV4_TOTAL_LENGTH);
    putBe16(packet, s.id, IPV4_ID);
    store<u16>(packet, 0, IPV4_CHECKSUM);
    store<u16>(packet, <u16>~fold(sumShort(packet, s.transport)), IPV4_CHECKSUM);
    s.id = (s.id + 1) & 0xffff;
  } else {
    putBe16(packet, headers - IPV6_HEADER_LEN + size, IPV6_PAYLOAD_LENGTH);
  }
  const pseudo = <u64>s.pseudo + word(transportLen);
  if (s.protocol == PROTOCOL_TCP) {
    let flags = s.flags;
    if (s.offset + size != s.payload) flags &= ~(TCP_FIN | TCP_PSH);
    if (s.offset) flags &= ~TCP_CWR;
    store<u32>(transport, bswap<u32>(s.sequence + s.offset), TCP_SEQUENCE);
    store<u8>(transport, flags, TCP_FLAGS);
    store<u16>(transport, 0, TCP_CHECKSUM);
    store<u16>(transport, <u16>~fold(pseudo + sum(transport, transportLen)), TCP_CHECKSUM);
  } else {
    putBe16(transport, transportLen, UDP_LENGTH);
    store<u16>(transport, 0, UDP_CHECKSUM);
    const checksum = ~fold(pseudo + sum(transport, transportLen)) & 0xffff;
    store<u16>(transport, <u16>(checksum ? checksum : 0xffff), UDP_CHECKSUM);
  }
  s.offset += size;
  s.current = packet;
  return headers + size;
}
