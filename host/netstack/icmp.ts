// ICMP (RFC 792, RFC 1122 §3.2.2) and ICMPv6 (RFC 4443): echo, and errors in both directions.
//
// An error that comes is believed only if it quotes a packet from an address of ours; what the quoted transport header
// says must fit something of the transport's that is open (RFC 5927 §4), or a stranger could narrow every path of ours.
// Errors that we send are limited by a token bucket (RFC 4443 §2.4 f), and never about an error, a multicast or a
// fragment but the first (RFC 1122 §3.2.2, RFC 4443 §2.4 e): a pair of hosts must not be able to talk to each other in
// errors.

import type { IpAddress } from "../ip.ts";
import { copyAddress } from "./address.ts";
import { be16, be32, putBe16, putBe32 } from "./bytes.ts";
import { finish, sum } from "./checksum.ts";
import type { DropReason } from "./drops.ts";
import {
  findTransport,
  IPV4_CHECKSUM,
  IPV4_HEADER_LEN,
  IPV4_TOTAL_LENGTH,
  IPV6_HEADER_LEN,
  IPV6_PAYLOAD_LENGTH,
  parseQuoted,
  PROTOCOL_ICMP,
  PROTOCOL_ICMPV6,
  PROTOCOL_UDP,
} from "./ip.ts";
import { IPV4_MTU_MIN, IPV6_MTU_MIN } from "./pathmtu.ts";
import { ICMP_HEADER_LEN, Pinger, type PingOptions, type PingReply } from "./ping.ts";
import { TokenBucket } from "./tokenbucket.ts";
import type { DeliveryError, IpHeader, IpLayer, TransportLayer } from "./types.ts";

// RFC 792
const ECHO_REPLY4 = 0;
const UNREACHABLE4 = 3;
const ECHO_REQUEST4 = 8;
const TIME_EXCEEDED4 = 11;
const PARAMETER_PROBLEM4 = 12;
const SOURCE_QUENCH4 = 4;
const REDIRECT4 = 5;
// RFC 4443
const UNREACHABLE6 = 1;
const TOO_BIG6 = 2;
const TIME_EXCEEDED6 = 3;
const PARAMETER_PROBLEM6 = 4;
const INFORMATIONAL6 = 128;
const ECHO_REQUEST6 = 128;
const ECHO_REPLY6 = 129;

const PORT_CODE4 = 3;
const PROTOCOL_CODE4 = 2;
const FRAGMENTATION_NEEDED = 4;
const PORT_CODE6 = 4;
const REASSEMBLY_CODE = 1;

/** network, host or communication administratively prohibited (RFC 1122, RFC 1812 §5.2.7.1) */
const PROHIBITED4 = [9, 10, 13];
/** administratively prohibited, source address failed policy, reject route (RFC 4443 §3.1) */
const PROHIBITED6 = [1, 5, 6];

const ERRORS_PER_SECOND = 100;
const ERRORS_BURST = 50;

/** What is wrong with a packet that came to us. */
export type Complaint =
  | { kind: "portUnreachable" | "protocolUnreachable" | "reassemblyTime" }
  /** `pointer` to the byte that is wrong */
  | { kind: "parameter"; code: number; pointer: number };

/** What the messages do to the rest of the stack. */
export interface IcmpHost {
  /** A packet was too big. @returns whether that is believed */
  reducePath(destination: Uint8Array, mtu: number, packetLen: number): boolean;
  /** The transport of a protocol, or null when we speak none of that number. */
  transport(protocol: number): Pick<TransportLayer, "knows" | "error"> | null;
}

export class Icmp {
  readonly #ip: IpLayer;
  readonly #host: IcmpHost;
  readonly #pinger: Pinger;
  readonly #bucket: TokenBucket;

  constructor(ip: IpLayer, host: IcmpHost) {
    this.#ip = ip;
    this.#host = host;
    this.#pinger = new Pinger(ip);
    this.#bucket = new TokenBucket(ip.clock, ERRORS_PER_SECOND, ERRORS_BURST);
  }

  /** See Pinger.ping. */
  ping(to: IpAddress, options?: PingOptions): Promise<PingReply> {
    return this.#pinger.ping(to, options);
  }

  /** pings without a reply yet */
  get pending(): number {
    return this.#pinger.size;
  }

  /** A message with a right checksum came. @returns why it was dropped, or null */
  receive(ip: IpHeader, message: Uint8Array): DropReason | null {
    if (message.length < ICMP_HEADER_LEN) return "badIcmp";
    const type = message[0];
    if (type === (ip.family === 4 ? ECHO_REQUEST4 : ECHO_REQUEST6)) {
      this.#answerEcho(ip, message);
      return null;
    }
    if (type === (ip.family === 4 ? ECHO_REPLY4 : ECHO_REPLY6)) {
      return this.#pinger.reply(ip, message) ? null : "ignoredIcmp";
    }
    const error = ip.family === 4 ? readError4(message) : readError6(message);
    return error === null ? "ignoredIcmp" : this.#receiveError(ip, message, error);
  }

  /**
   * Complains about a packet that was sent to us, unless that is forbidden or too much.
   * @param packet  from its IP header on
   * @param gsoSize  of a joined packet: its first part is quoted, as it came
   */
  complain(packet: Uint8Array, complaint: Complaint, gsoSize = 0): void {
    const family = packet[0] >>> 4 === 4 ? 4 : 6;
    const transport = findTransport(packet);
    if (transport !== null && isIcmpError(family, transport.protocol, packet[transport.at])) return;
    if (!this.#bucket.take()) return;
    const [source, destination] = family === 4 ? [12, 16] : [8, 24];
    const addressLen = family === 4 ? 4 : 16;
    const header = family === 4 ? createError4(complaint) : createError6(complaint);
    this.#ip.send({
      // The address that was spoken to answers, so that the other side's filters know it.
      source: copyAddress(packet.subarray(destination, destination + addressLen)),
      destination: copyAddress(packet.subarray(source, source + addressLen)),
      protocol: family === 4 ? PROTOCOL_ICMP : PROTOCOL_ICMPV6,
      header,
      checksumOffset: 2,
      payload: [quote(packet, family, gsoSize, transport)],
      gsoSize: 0,
    });
  }

  close(): void {
    this.#pinger.close();
  }

  #answerEcho(ip: IpHeader, request: Uint8Array): void {
    const header = request.slice(0, ICMP_HEADER_LEN);
    header[0] = ip.family === 4 ? ECHO_REPLY4 : ECHO_REPLY6;
    header[1] = 0;
    putBe16(header, 2, 0);
    this.#ip.send({
      source: copyAddress(ip.destination),
      destination: copyAddress(ip.source),
      protocol: ip.protocol,
      trafficClass: ip.trafficClass,
      header,
      checksumOffset: 2,
      payload: [request.subarray(ICMP_HEADER_LEN)],
      gsoSize: 0,
    });
  }

  #receiveError(ip: IpHeader, message: Uint8Array, error: DeliveryError): DropReason | null {
    const quoted = message.subarray(ICMP_HEADER_LEN);
    const ours = parseQuoted(quoted);
    if (ours === null || ours.family !== ip.family) return "badIcmp";
    if (!this.#ip.isOurs({ family: ours.family, address: ours.source })) return "ignoredIcmp";
    const header = quoted.subarray(ours.transportAt);
    const isEcho = ours.protocol === PROTOCOL_ICMP || ours.protocol === PROTOCOL_ICMPV6;
    const transport = isEcho ? this.#pinger : this.#host.transport(ours.protocol);
    if (transport === null || !transport.knows(ours, header)) return "ignoredIcmp";
    if (error.kind === "tooBig") {
      if (!this.#host.reducePath(ours.destination, error.mtu!, ours.length)) return "ignoredIcmp";
      error.mtu = this.#ip.pathMtu({ family: ours.family, address: ours.destination });
    }
    error.from = copyAddress(ip.source);
    transport.error(ours, header, error);
    return null;
  }
}

function readError4(message: Uint8Array): DeliveryError | null {
  const code = message[1];
  switch (message[0]) {
    case UNREACHABLE4:
      if (code === PORT_CODE4) return { kind: "portUnreachable" };
      if (code === FRAGMENTATION_NEEDED) return { kind: "tooBig", mtu: be16(message, 6) };
      return { kind: PROHIBITED4.includes(code) ? "prohibited" : "unreachable" };
    case TIME_EXCEEDED4:
      return { kind: "timeExceeded" };
    case PARAMETER_PROBLEM4:
      return { kind: "unreachable" };
    default:
      return null;
  }
}

function readError6(message: Uint8Array): DeliveryError | null {
  const code = message[1];
  switch (message[0]) {
    case UNREACHABLE6:
      if (code === PORT_CODE6) return { kind: "portUnreachable" };
      return { kind: PROHIBITED6.includes(code) ? "prohibited" : "unreachable" };
    case TOO_BIG6:
      return { kind: "tooBig", mtu: be32(message, 4) };
    case TIME_EXCEEDED6:
      return { kind: "timeExceeded" };
    case PARAMETER_PROBLEM6:
      return { kind: "unreachable" };
    default:
      return null;
  }
}

function isIcmpError(family: 4 | 6, protocol: number, type: number): boolean {
  if (family === 6) return protocol === PROTOCOL_ICMPV6 && type < INFORMATIONAL6;
  const errors = [UNREACHABLE4, SOURCE_QUENCH4, REDIRECT4, TIME_EXCEEDED4, PARAMETER_PROBLEM4];
  return protocol === PROTOCOL_ICMP && errors.includes(type);
}

function createError4(complaint: Complaint): Uint8Array {
  const header = new Uint8Array(ICMP_HEADER_LEN);
  switch (complaint.kind) {
    case "portUnreachable":
      header.set([UNREACHABLE4, PORT_CODE4]);
      break;
    case "protocolUnreachable":
      header.set([UNREACHABLE4, PROTOCOL_CODE4]);
      break;
    case "reassemblyTime":
      header.set([TIME_EXCEEDED4, REASSEMBLY_CODE]);
      break;
    case "parameter":
      header.set([PARAMETER_PROBLEM4, 0]);
      header[4] = complaint.pointer;
  }
  return header;
}

function createError6(complaint: Complaint): Uint8Array {
  const header = new Uint8Array(ICMP_HEADER_LEN);
  switch (complaint.kind) {
    case "portUnreachable":
      header.set([UNREACHABLE6, PORT_CODE6]);
      break;
    case "protocolUnreachable":
      throw new TypeError("ICMPv6 has no protocol unreachable: a parameter problem says it (RFC 4443 §3.4)");
    case "reassemblyTime":
      header.set([TIME_EXCEEDED6, REASSEMBLY_CODE]);
      break;
    case "parameter":
      header.set([PARAMETER_PROBLEM6, complaint.code]);
      putBe32(header, 4, complaint.pointer);
  }
  return header;
}

/**
 * As much of the packet as fits an error that every path carries: 576 bytes (RFC 1812 §4.3.2.3) or 1280 (RFC 4443
 * §2.4 c). A joined packet is quoted as its first part: the sender never sent the whole.
 */
function quote(
  packet: Uint8Array,
  family: 4 | 6,
  gsoSize: number,
  transport: { protocol: number; at: number } | null,
): Uint8Array {
  const room = family === 4 ? IPV4_MTU_MIN - IPV4_HEADER_LEN : IPV6_MTU_MIN - IPV6_HEADER_LEN;
  const quoted = packet.slice(0, room - ICMP_HEADER_LEN);
  if (gsoSize === 0 || transport === null || transport.protocol !== PROTOCOL_UDP) return quoted;
  const { at } = transport;
  const udpLen = 8 + gsoSize;
  if (at + udpLen > packet.length) return quoted;
  putBe16(quoted, at + 4, udpLen);
  if (family === 6) {
    putBe16(quoted, IPV6_PAYLOAD_LENGTH, at - IPV6_HEADER_LEN + udpLen);
  } else {
    putBe16(quoted, IPV4_TOTAL_LENGTH, at + udpLen);
    putBe16(quoted, IPV4_CHECKSUM, 0);
    putBe16(quoted, IPV4_CHECKSUM, finish(sum(quoted, 0, at)));
  }
  return quoted.subarray(0, at + udpLen);
}
