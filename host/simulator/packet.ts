// Inner packets for the tests: headers that are true, payloads that name themselves.
import { parseIp } from "../ip.ts";

/** An IPv4 packet of `length` bytes in all, UDP by its protocol number, filled with `fill`. */
export function ipv4(source: string, destination: string, length = 64, fill = 0, tos = 0): Uint8Array {
  const packet = new Uint8Array(length).fill(fill, 20);
  packet[0] = 0x45;
  packet[1] = tos;
  packet[2] = length >> 8;
  packet[3] = length;
  packet[8] = 64;
  packet[9] = 17;
  packet.set(parseIp(source).address, 12);
  packet.set(parseIp(destination).address, 16);
  const sum = checksum(packet.subarray(0, 20));
  packet[10] = sum >> 8;
  packet[11] = sum;
  return packet;
}

/** An IPv6 packet of `length` bytes in all. */
export function ipv6(source: string, destination: string, length = 64, fill = 0, tos = 0): Uint8Array {
  const packet = new Uint8Array(length).fill(fill, 40);
  packet[0] = 0x60 | (tos >> 4);
  packet[1] = tos << 4;
  packet[4] = (length - 40) >> 8;
  packet[5] = length - 40;
  packet[6] = 17;
  packet[7] = 64;
  packet.set(parseIp(source).address, 8);
  packet.set(parseIp(destination).address, 24);
  return packet;
}

/** RFC 1071 over whole words; 0 for a header whose checksum is right. */
export function checksum(header: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < header.length; i += 2) sum += (header[i] << 8) | header[i + 1];
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return ~sum & 0xffff;
}
