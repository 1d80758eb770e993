// A host of its own at the end of a link: IP in and out, and TCP, UDP and ICMP above. RFC 1122, RFC 8504 for a host
// that is never a router, on a link without neighbours.
//
// In: input() checks a packet, puts fragments together, verifies the transport's checksum and hands it up; whatever it
// refuses is counted by reason in `drops`. A packet that is not for us is never answered.
// Out: send() writes the IP header before the transport's and gives the link the pieces. One rule for the checksum: a
// link that takes super-packets (gsoMaxSize > 0) completes those of TCP and UDP in every whole packet, so that it sums
// a segment once, while it copies it; all others are complete when they leave here: ICMP, fragments, and everything for
// a link without super-packets.
// A link must not call input() from within send(): its packet lives in a buffer that the next one is written to.

import { WasmguardError } from "../errors.ts";
import { formatIp, type IpAddress } from "../ip.ts";
import { chooseSource, isLoopback, isMulticast, isUnspecified } from "./address.ts";
import { be16, be32, equalBytes, join, putBe16, slicePieces, totalLength } from "./bytes.ts";
import { finish, fold, pseudoSum, sum, sumPieces } from "./checksum.ts";
import { createDrops, type DropReason, type Drops } from "./drops.ts";
import { type Complaint, Icmp } from "./icmp.ts";
import {
  FRAGMENT_HEADER_LEN,
  fragmentWord4,
  HOP_LIMIT,
  IPV4_HEADER_LEN,
  IPV6_HEADER_LEN,
  isRefusal,
  LENGTH_MAX,
  parse,
  type ParsedIp,
  PROTOCOL_ICMP,
  PROTOCOL_ICMPV6,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  putFragmentHeader6,
  putHeader4,
  putHeader6,
  type Refusal,
  UNKNOWN_NEXT_HEADER,
} from "./ip.ts";
import { Loopback } from "./loopback.ts";
import { PathMtus } from "./pathmtu.ts";
import { Reassembly } from "./reassembly.ts";
import { Tcp } from "./tcp/layer.ts";
import type { FillRandom, InPacket, IpLayer, Link, Outgoing, StackClock } from "./types.ts";
import { Udp, UDP_HEADER_LEN } from "./udp.ts";

const UDP_LENGTH = 4;
const UDP_CHECKSUM = 6;
const TRANSPORT_HEADER_MAX_LEN = 60;

export interface StackOptions {
  link: Link;
  /** ours, of either family or both; without their prefixes: there is one link and no neighbour */
  addresses: readonly IpAddress[];
  clock: StackClock;
  random: FillRandom;
}

/** Packets. received + reassembled = delivered + fragments + those that `drops` refused. */
export interface StackCounts {
  received: number;
  /** to a transport, which took them */
  delivered: number;
  /** kept for reassembly, and packets that came of it */
  fragments: number;
  reassembled: number;
  /** handed to the link, fragments and super-packets counted as one each */
  sent: number;
  /** to ourselves; they are received as well */
  looped: number;
}

export class Stack implements IpLayer {
  readonly clock: StackClock;
  readonly random: FillRandom;
  readonly addresses: readonly IpAddress[];
  readonly drops: Drops = createDrops();
  readonly counts: StackCounts = { received: 0, delivered: 0, fragments: 0, reassembled: 0, sent: 0, looped: 0 };
  readonly tcp: Tcp;
  readonly udp: Udp;
  readonly icmp: Icmp;
  readonly #link: Link;
  readonly #paths: PathMtus;
  readonly #reassembly: Reassembly;
  readonly #loopback: Loopback;
  /** where the headers of a packet are written */
  readonly #header = new Uint8Array(IPV6_HEADER_LEN + FRAGMENT_HEADER_LEN + TRANSPORT_HEADER_MAX_LEN);
  #nextId: number;
  #closed = false;

  /** @throws RangeError for an address that cannot be a host's */
  constructor(options: StackOptions) {
    const { link, addresses, clock, random } = options;
    for (const { address } of addresses) {
      if (isMulticast(address) || isUnspecified(address)) {
        throw new RangeError(`Cannot open stack: ${formatIp(address)} is no address of a host`);
      }
    }
    this.#link = link;
    this.clock = clock;
    this.random = random;
    this.addresses = addresses.map(({ family, address }) => ({ family, address: address.slice() }));
    this.#nextId = this.#randomNumber() & 0xffff;
    this.#paths = new PathMtus(clock);
    this.#reassembly = new Reassembly(clock, this.drops, (first) => {
      this.icmp.complain(first, { kind: "reassemblyTime" });
    });
    this.#loopback = new Loopback(clock, (bytes, gsoSize) => {
      this.#receive({ bytes, gsoSize, checksumVerified: true }, true);
    });
    this.icmp = new Icmp(this, {
      reducePath: (destination, mtu, packetLen) => this.#paths.reduce(destination, mtu, packetLen, this.#link.mtu),
      transport: (protocol) => (protocol === PROTOCOL_TCP ? this.tcp : protocol === PROTOCOL_UDP ? this.udp : null),
    });
    this.udp = new Udp(this);
    this.tcp = new Tcp(this);
  }

  get gsoMaxSize(): number {
    return this.#link.gsoMaxSize;
  }

  /** A packet came by the link; its bytes are only looked at during the call. */
  input(packet: InPacket): void {
    this.#receive(packet, false);
  }

  /** @throws WasmguardError EMSGSIZE when the packet would be longer than its header can say */
  send(packet: Outgoing): void {
    if (this.#closed) return;
    const { destination } = packet;
    const headerLen = destination.family === 4 ? IPV4_HEADER_LEN : IPV6_HEADER_LEN;
    const payloadLen = totalLength(packet.payload);
    const transportLen = packet.header.length + payloadLen;
    if (transportLen > LENGTH_MAX - (destination.family === 4 ? headerLen : 0)) {
      throw new WasmguardError("EMSGSIZE", `Cannot send ${transportLen} bytes to ${formatIp(destination.address)}`);
    }
    const gsoSize = payloadLen > packet.gsoSize ? packet.gsoSize : 0;
    if (this.isOurs(destination)) this.#sendToUs(packet, transportLen, gsoSize);
    else if (gsoSize === 0 && headerLen + transportLen > this.pathMtu(destination))
      this.#sendFragments(packet, transportLen);
    else this.#sendWhole(packet, transportLen, gsoSize);
  }

  pathMtu(destination: IpAddress): number {
    return this.#paths.get(destination, this.#link.mtu);
  }

  sourceFor(destination: IpAddress): IpAddress | null {
    if (this.isOurs(destination)) return this.addresses.find((own) => equalBytes(own.address, destination.address))!;
    if (isLoopback(destination.address) || isUnspecified(destination.address)) return null;
    return chooseSource(this.addresses, destination);
  }

  isOurs(address: IpAddress): boolean {
    return this.#isOurs(address.address);
  }

  /** Connections, sockets and pings end with an error; no timer is left, and nothing is sent or taken any more. */
  close(): void {
    if (this.#closed) return;
    this.tcp.close(); // still sends its resets
    this.udp.close();
    this.icmp.close();
    this.#closed = true;
    this.#reassembly.clear();
    this.#loopback.clear();
    this.#paths.clear();
  }

  #isOurs(address: Uint8Array): boolean {
    for (const own of this.addresses) if (equalBytes(own.address, address)) return true;
    return false;
  }

  #receive(packet: InPacket, looped: boolean): void {
    this.counts.received++;
    const refusal = this.#closed ? CLOSED : this.#take(packet, looped);
    if (refusal === null) return;
    this.drops[refusal.drop]++;
    if (refusal.problem !== null) this.#complainOfProblem(packet.bytes, refusal.problem);
  }

  /** @returns why the packet goes no further, or null */
  #take(packet: InPacket, looped: boolean): Refusal | null {
    const ip = parse(packet.bytes);
    if (isRefusal(ip)) return ip;
    const { source } = ip;
    if (!this.#isOurs(ip.destination)) return NOT_OURS;
    if (!looped && this.#isBadSource(source)) return BAD_SOURCE;
    if (ip.fragment === null) return this.#deliver(ip, packet);
    const assembled = this.#reassembly.add(packet.bytes, ip);
    if (assembled !== null && "drop" in assembled) return assembled;
    this.counts.fragments++;
    if (assembled === null) return null;
    this.counts.reassembled++;
    const whole: InPacket = { bytes: assembled.packet, gsoSize: 0, checksumVerified: false };
    const parsed = parse(whole.bytes);
    if (isRefusal(parsed)) return parsed;
    if (parsed.fragment !== null) return { drop: "badFragment", problem: null };
    return this.#deliver(parsed, whole);
  }

  /** Nobody else may speak with these: an answer would go to many, to nobody, or to ourselves. */
  #isBadSource(source: Uint8Array): boolean {
    return isMulticast(source) || isUnspecified(source) || isLoopback(source) || this.#isOurs(source);
  }

  #deliver(ip: ParsedIp, packet: InPacket): Refusal | null {
    let segment = packet.bytes.subarray(ip.payloadAt, ip.length);
    switch (ip.protocol) {
      case PROTOCOL_TCP:
        if (!packet.checksumVerified && !checksumHolds(ip, segment)) return BAD_CHECKSUM;
        this.counts.delivered++;
        this.tcp.input(ip, segment, packet);
        return null;
      case PROTOCOL_UDP: {
        const length = segment.length < UDP_HEADER_LEN ? 0 : be16(segment, UDP_LENGTH);
        if (length < UDP_HEADER_LEN || length > segment.length) return BAD_TRANSPORT;
        segment = segment.subarray(0, length);
        if (!packet.checksumVerified && !udpChecksumHolds(ip, segment)) return BAD_CHECKSUM;
        const drop = this.udp.input(ip, segment, packet);
        if (drop === "noPort")
          this.icmp.complain(packet.bytes.subarray(0, ip.length), PORT_UNREACHABLE, packet.gsoSize);
        return this.#delivered(drop);
      }
      case PROTOCOL_ICMP:
      case PROTOCOL_ICMPV6:
        if ((ip.protocol === PROTOCOL_ICMP) !== (ip.family === 4)) return this.#refuseProtocol(ip, packet);
        if (!packet.checksumVerified && !checksumHolds(ip, segment)) return BAD_CHECKSUM;
        return this.#delivered(this.icmp.receive(ip, segment));
      default:
        return this.#refuseProtocol(ip, packet);
    }
  }

  #delivered(drop: DropReason | null): Refusal | null {
    if (drop !== null) return { drop, problem: null };
    this.counts.delivered++;
    return null;
  }

  #refuseProtocol(ip: ParsedIp, packet: InPacket): Refusal {
    if (ip.family === 6) return { drop: "noProtocol", problem: { code: UNKNOWN_NEXT_HEADER, pointer: ip.protocolAt } };
    this.icmp.complain(packet.bytes.subarray(0, ip.length), PROTOCOL_UNREACHABLE);
    return NO_PROTOCOL;
  }

  /** The packet was refused while its headers were read: whether it was for us is still to be seen. */
  #complainOfProblem(bytes: Uint8Array, problem: { code: number; pointer: number }): void {
    const [at, length] = bytes[0] >>> 4 === 4 ? [12, 4] : [8, 16];
    const source = bytes.subarray(at, at + length);
    const destination = bytes.subarray(at + length, at + 2 * length);
    if (!this.#isOurs(destination) || this.#isBadSource(source)) return;
    this.icmp.complain(bytes, { kind: "parameter", ...problem });
  }

  #sendWhole(packet: Outgoing, transportLen: number, gsoSize: number): void {
    const { destination, payload } = packet;
    const transportAt = destination.family === 4 ? IPV4_HEADER_LEN : IPV6_HEADER_LEN;
    const header = this.#header.subarray(0, transportAt + packet.header.length);
    this.#putIpHeader(header, packet, transportLen);
    header.set(packet.header, transportAt);
    const isPartial =
      this.#link.gsoMaxSize > 0 && (packet.protocol === PROTOCOL_TCP || packet.protocol === PROTOCOL_UDP);
    if (isPartial) putBe16(header, transportAt + packet.checksumOffset, pseudo(packet, transportLen));
    else putChecksum(header.subarray(transportAt), packet, transportLen);
    this.counts.sent++;
    this.#link.send({ header, payload, gsoSize, checksumStart: isPartial ? transportAt : 0 });
  }

  #putIpHeader(dst: Uint8Array, packet: Outgoing, transportLen: number): void {
    const fields = headerFields(packet);
    if (packet.destination.family === 6) {
      putHeader6(dst, fields, transportLen);
    } else {
      const dontFragment = !this.#paths.fragmentable(packet.destination);
      const id = dontFragment ? 0 : this.#createId();
      putHeader4(dst, fields, transportLen, id, fragmentWord4(0, false, dontFragment));
    }
  }

  /** RFC 791 §3.2, RFC 8200 §4.5: all but the last are as long as the path takes, in units of eight bytes. */
  #sendFragments(packet: Outgoing, transportLen: number): void {
    const { destination } = packet;
    const ipv4 = destination.family === 4;
    const headerLen = ipv4 ? IPV4_HEADER_LEN : IPV6_HEADER_LEN + FRAGMENT_HEADER_LEN;
    const step = (this.pathMtu(destination) - headerLen) & ~7;
    const transport = packet.header.slice();
    putChecksum(transport, packet, transportLen);
    const pieces = [transport, ...packet.payload];
    const fields = headerFields(packet);
    // IPv6: unpredictable (RFC 7739); IPv4 has too few bits for that, and must not repeat one soon (RFC 6864 §4.3).
    const id = ipv4 ? this.#createId() : this.#randomNumber();
    for (let offset = 0; offset < transportLen; offset += step) {
      const end = Math.min(offset + step, transportLen);
      const more = end < transportLen;
      const header = this.#header.subarray(0, headerLen);
      if (ipv4) putHeader4(header, fields, end - offset, id, fragmentWord4(offset, more, false));
      else putFragmentHeader6(header, fields, end - offset, id, offset, more);
      this.counts.sent++;
      this.#link.send({ header, payload: slicePieces(pieces, offset, end), gsoSize: 0, checksumStart: 0 });
    }
  }

  /** Nobody can have damaged it on the way: no checksum is made or verified, and nothing is fragmented. */
  #sendToUs(packet: Outgoing, transportLen: number, gsoSize: number): void {
    const headerLen = packet.destination.family === 4 ? IPV4_HEADER_LEN : IPV6_HEADER_LEN;
    const header = new Uint8Array(headerLen);
    this.#putIpHeader(header, packet, transportLen);
    if (this.#loopback.send(join([header, packet.header, ...packet.payload]), gsoSize)) this.counts.looped++;
    else this.drops.loopbackFull++;
  }

  #createId(): number {
    this.#nextId = (this.#nextId + 1) & 0xffff;
    return this.#nextId;
  }

  #randomNumber(): number {
    const bytes = new Uint8Array(4);
    this.random(bytes);
    return be32(bytes, 0);
  }
}

const CLOSED: Refusal = { drop: "closed", problem: null };
const NOT_OURS: Refusal = { drop: "notOurs", problem: null };
const BAD_SOURCE: Refusal = { drop: "badSource", problem: null };
const BAD_CHECKSUM: Refusal = { drop: "badChecksum", problem: null };
const BAD_TRANSPORT: Refusal = { drop: "badTransport", problem: null };
const NO_PROTOCOL: Refusal = { drop: "noProtocol", problem: null };
const PORT_UNREACHABLE: Complaint = { kind: "portUnreachable" };
const PROTOCOL_UNREACHABLE: Complaint = { kind: "protocolUnreachable" };

function headerFields(packet: Outgoing) {
  return {
    source: packet.source.address,
    destination: packet.destination.address,
    protocol: packet.protocol,
    trafficClass: packet.trafficClass ?? 0,
    hopLimit: HOP_LIMIT,
  };
}

/** The sum of the pseudo-header; ICMP for IPv4 has none. */
function pseudo(packet: Outgoing, transportLen: number): number {
  if (packet.protocol === PROTOCOL_ICMP) return 0;
  return pseudoSum(packet.source.address, packet.destination.address, packet.protocol, transportLen);
}

/** Completes the checksum in a transport header, which is a copy of packet.header. */
function putChecksum(transport: Uint8Array, packet: Outgoing, transportLen: number): void {
  const total = pseudo(packet, transportLen) + sumPieces([transport, ...packet.payload]);
  const checksum = finish(fold(total));
  // 0 would say that there is none (RFC 768).
  putBe16(transport, packet.checksumOffset, checksum === 0 && packet.protocol === PROTOCOL_UDP ? 0xffff : checksum);
}

function checksumHolds(ip: ParsedIp, segment: Uint8Array): boolean {
  let total = sum(segment);
  if (ip.protocol !== PROTOCOL_ICMP) total += pseudoSum(ip.source, ip.destination, ip.protocol, segment.length);
  return fold(total) === 0xffff;
}

/** 0 = none was made: IPv4's right (RFC 768), and not IPv6's (RFC 8200 §8.1). */
function udpChecksumHolds(ip: ParsedIp, segment: Uint8Array): boolean {
  if (be16(segment, UDP_CHECKSUM) === 0) return ip.family === 4;
  return checksumHolds(ip, segment);
}
