// An IP packet around a datagram, for capture files: the host sees datagrams, Wireshark wants packets. And the way back,
// from what a capture file holds to the datagram.

import { finish, fold, pseudoSum, sum } from "../netstack/checksum.ts";
import {
  LINKTYPE_ETHERNET, LINKTYPE_IPV4, LINKTYPE_IPV6, LINKTYPE_LINUX_SLL, LINKTYPE_LINUX_SLL2, LINKTYPE_LOOP, LINKTYPE_NULL,
  LINKTYPE_RAW,
} from "./pcapng.ts";

export interface Side {
  /** 4 or 16 bytes */
  address: Uint8Array;
  port: number;
}

export interface UdpDatagram {
  source: Side;
  destination: Side;
  payload: Uint8Array;
}

const UDP = 17;
const UDP_HEADER_LEN = 8;
const HOP_LIMIT = 64;

/** RFC 768 over RFC 791 or RFC 8200. Both sides are of one family. */
export function udpPacket(source: Side, destination: Side, payload: Uint8Array): Uint8Array {
  const isIpv4 = source.address.length === 4;
  const ipLen = isIpv4 ? 20 : 40;
  const packet = new Uint8Array(ipLen + UDP_HEADER_LEN + payload.length);
  const view = new DataView(packet.buffer);
  const udpLen = UDP_HEADER_LEN + payload.length;
  packet.set(source.address, isIpv4 ? 12 : 8);
  packet.set(destination.address, isIpv4 ? 16 : 24);
  view.setUint16(ipLen, source.port);
  view.setUint16(ipLen + 2, destination.port);
  view.setUint16(ipLen + 4, udpLen);
  packet.set(payload, ipLen + UDP_HEADER_LEN);
  const pseudo = pseudoSum(source.address, destination.address, UDP, udpLen);
  view.setUint16(ipLen + 6, finish(fold(pseudo + sum(packet, ipLen))) || 0xffff);
  if (isIpv4) {
    packet.set([0x45, 0], 0);
    view.setUint16(2, packet.length);
    packet.set([HOP_LIMIT, UDP], 8);
    view.setUint16(10, finish(sum(packet, 0, ipLen)));
  } else {
    packet[0] = 0x60;
    view.setUint16(4, udpLen);
    packet.set([UDP, HOP_LIMIT], 6);
  }
  return packet;
}

/** Bytes before the IP packet; null for a link that we do not read, or one that carries something else. */
function linkHeaderLen(bytes: Uint8Array, linkType: number): number | null {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  switch (linkType) {
    case LINKTYPE_RAW:
    case LINKTYPE_IPV4:
    case LINKTYPE_IPV6:
      return 0;
    case LINKTYPE_NULL:
    case LINKTYPE_LOOP:
      return 4;
    case LINKTYPE_LINUX_SLL:
      return 16;
    case LINKTYPE_LINUX_SLL2:
      return 20;
    case LINKTYPE_ETHERNET: {
      let at = 12;
      while (at + 2 <= bytes.length && [0x8100, 0x88a8].includes(view.getUint16(at))) at += 4; // VLAN tags
      if (at + 2 > bytes.length || ![0x0800, 0x86dd].includes(view.getUint16(at))) return null;
      return at + 2;
    }
    default:
      return null;
  }
}

/** The UDP datagram in a captured packet; null when it holds none, or not the whole of one. */
export function udpDatagram(captured: Uint8Array, linkType: number): UdpDatagram | null {
  const link = linkHeaderLen(captured, linkType);
  if (link === null || captured.length < link + 20) return null;
  const packet = captured.subarray(link);
  const view = new DataView(packet.buffer, packet.byteOffset, packet.length);
  const version = packet[0] >> 4;
  let ipLen: number;
  let addresses: [Uint8Array, Uint8Array];
  if (version === 4) {
    ipLen = (packet[0] & 15) * 4;
    // Fragments have no datagram in them.
    if (ipLen < 20 || packet[9] !== UDP || (view.getUint16(6) & 0x3fff) !== 0) return null;
    addresses = [packet.slice(12, 16), packet.slice(16, 20)];
  } else if (version === 6 && packet.length >= 40) {
    ipLen = 40;
    if (packet[6] !== UDP) return null;
    addresses = [packet.slice(8, 24), packet.slice(24, 40)];
  } else {
    return null;
  }
  if (packet.length < ipLen + UDP_HEADER_LEN) return null;
  const length = view.getUint16(ipLen + 4);
  if (length < UDP_HEADER_LEN || ipLen + length > packet.length) return null;
  return {
    source: { address: addresses[0], port: view.getUint16(ipLen) },
    destination: { address: addresses[1], port: view.getUint16(ipLen + 2) },
    payload: packet.subarray(ipLen + UDP_HEADER_LEN, ipLen + length),
  };
}
