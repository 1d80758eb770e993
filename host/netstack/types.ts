// What the netstack needs of the world, and what its layers need of each other.
//
// The stack is a host of its own at the far end of a tunnel: IP packets in by Stack.input, IP packets out by a Link. It
// knows no platform: clock, timers and randomness are arguments, so that it runs in a page and on a virtual clock.
// Packets come as views that are valid during the call; who keeps bytes copies them.

import type { IpAddress } from "../ip.ts";

/** An IP packet to send, in pieces, so that payload is copied once: by the link, to where the core seals it. */
export interface OutPacket {
  /** IP and transport headers, complete but for the checksum below; the stack's again when send() returns */
  header: Uint8Array;
  /** what follows the headers, in order; the stack's again when send() returns */
  payload: readonly Uint8Array[];
  /**
   * Payload bytes of each packet of a super-packet, TCP or UDP as the header says; 0 = one packet. The lengths in the
   * headers are then those of the whole (IPv4 total length, IPv6 payload length), as a TSO packet has them.
   */
  gsoSize: number;
  /**
   * Offset of the transport header if its checksum is left to the link: the field holds the sum of the pseudo-header,
   * not inverted, as VIRTIO_NET_HDR_F_NEEDS_CSUM has it. 0 = the checksum is complete.
   */
  checksumStart: number;
}

/** An IP packet that came, whole: headers and payload. */
export interface InPacket {
  bytes: Uint8Array;
  /** payload bytes of each packet but the last that this one was joined from; 0 = it came as it is */
  gsoSize: number;
  /** the transport checksum was verified below: do not again (a joined packet's field does not hold one) */
  checksumVerified: boolean;
}

/** What carries the stack's packets. */
export interface Link {
  /** bytes of the longest IP packet */
  readonly mtu: number;
  /** bytes of the longest super-packet with its headers; 0 = the link takes none (gsoSize must be 0) */
  readonly gsoMaxSize: number;
  send(packet: OutPacket): void;
}

/** Time. The tests bring a virtual one. */
export interface StackClock {
  /** monotonic, ms, with fractions */
  now(): number;
  /** @returns what clearTimer takes */
  setTimer(callback: () => void, delayMs: number): unknown;
  clearTimer(timer: unknown): void;
}

export type FillRandom = (bytes: Uint8Array) => void;

export interface SocketAddress extends IpAddress {
  port: number;
}

/** The fields of an IPv4 or IPv6 header that the layers above look at; extension headers and options are behind. */
export interface IpHeader {
  family: 4 | 6;
  source: Uint8Array;
  destination: Uint8Array;
  /** of the transport: 6 TCP, 17 UDP, 1 ICMP, 58 ICMPv6 */
  protocol: number;
  /** DSCP and ECN */
  trafficClass: number;
  /** TTL or hop limit */
  hopLimit: number;
}

/** What a transport (TCP, UDP, ICMP) sends through the IP layer: see OutPacket for gsoSize. */
export interface Outgoing {
  source: IpAddress;
  destination: IpAddress;
  protocol: number;
  trafficClass?: number;
  /** transport header; its checksum field is filled by the IP layer (0 when handed over) */
  header: Uint8Array;
  /** offset of the checksum in `header` */
  checksumOffset: number;
  payload: readonly Uint8Array[];
  gsoSize: number;
}

/** An error about a packet of ours: an ICMP message quoted it, or the stack itself found no way. */
export interface DeliveryError {
  kind: "unreachable" | "portUnreachable" | "prohibited" | "tooBig" | "timeExceeded";
  /** of tooBig: the MTU of the path, bytes of an IP packet */
  mtu?: number;
  /** who said so */
  from?: IpAddress;
}

/** The IP layer as the transports see it (netstack/stack.ts has it). */
export interface IpLayer {
  readonly clock: StackClock;
  readonly random: FillRandom;
  send(packet: Outgoing): void;
  /** bytes of the longest IP packet to there: the link's MTU, or less by path MTU discovery */
  pathMtu(destination: IpAddress): number;
  /** bytes of the longest super-packet, 0 = none */
  readonly gsoMaxSize: number;
  /** The address of ours to talk from; null when we have none of that family. */
  sourceFor(destination: IpAddress): IpAddress | null;
  isOurs(address: IpAddress): boolean;
}

/** A transport as the IP layer sees it. `segment` is transport header and payload, valid during the call. */
export interface TransportLayer {
  input(ip: IpHeader, segment: Uint8Array, packet: InPacket): void;
  /**
   * Whether a quoted transport header, of 8 bytes or more, can be one that we sent and that still matters: who forges
   * an ICMP error must know that much (RFC 5927 §4). error() follows only then.
   */
  knows(ip: IpHeader, quoted: Uint8Array): boolean;
  /** An error about a packet of ours; `quoted` begins with the transport header that we had sent, 8 bytes or more. */
  error(ip: IpHeader, quoted: Uint8Array, error: DeliveryError): void;
  /** Ends everything: connections are aborted, no timer is left. */
  close(): void;
}

/** A TCP connection: RFC 9293 §3.9.1 as calls. Sans-IO above, too: whoever wants a stream wraps it. */
export interface TcpConnection {
  /** RFC 9293 §3.3.2 */
  readonly state: TcpState;
  readonly local: SocketAddress;
  readonly remote: SocketAddress;
  /** payload bytes, acknowledged or not / delivered to the reader or not */
  readonly bytesWritten: number;
  readonly bytesReceived: number;
  /** Copies as much as the send buffer has room for. @returns bytes taken; 0 = wait for onWritable */
  write(bytes: Uint8Array): number;
  /** bytes that write() would take now */
  readonly writable: number;
  /** The next received bytes, the caller's to keep, at most `max`; null when there are none now. Opens the window. */
  read(max?: number): Uint8Array | null;
  /** bytes that read() could give now */
  readonly readable: number;
  /** Our FIN follows what was written. write() takes nothing after it. */
  shutdown(): void;
  /**
   * Nobody reads any more: like shutdown(), but what was not read, or comes later, is answered with an RST, and the
   * connection does not wait for the peer's FIN for ever.
   */
  close(): void;
  /** RST, and it is over: onClosed comes with `error`, before this returns. */
  abort(error?: Error): void;
  /** No Nagle (RFC 9293 §3.7.4); off = Nagle on. Default: no delay. */
  setNoDelay(noDelay: boolean): void;
  /** RFC 9293 §3.8.4; 0 = off, the default. */
  setKeepAlive(idleMs: number): void;
  /** ESTABLISHED reached */
  onConnected: (() => void) | null;
  /** there is something to read, or the end was reached */
  onReadable: (() => void) | null;
  /** write() has room again after it took less than all */
  onWritable: (() => void) | null;
  /** the peer's FIN: nothing follows what was received */
  readonly ended: boolean;
  /** everything is over and freed but for TIME_WAIT; an Error (with code ECONNRESET, ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH, ...) if it went wrong */
  onClosed: ((error: Error | null) => void) | null;
  /** figures for stats and tests */
  info(): TcpInfo;
}

export type TcpState =
  | "listen" | "synSent" | "synReceived" | "established" | "finWait1" | "finWait2" | "closeWait" | "closing" | "lastAck"
  | "timeWait" | "closed";

export interface TcpInfo {
  /** ms */
  srtt: number;
  rto: number;
  /** bytes */
  congestionWindow: number;
  slowStartThreshold: number;
  sendWindow: number;
  receiveWindow: number;
  mss: number;
  /** segments sent again, time-outs */
  retransmits: number;
  timeouts: number;
}

export interface TcpListener {
  readonly local: SocketAddress;
  /** a connection that reached ESTABLISHED */
  onConnection: ((connection: TcpConnection) => void) | null;
  /** No new ones; those that are open stay. */
  close(): void;
}

/** The TCP layer (netstack/tcp/layer.ts: class Tcp implements TransportLayer, TcpApi; constructor (ip: IpLayer)). */
export interface TcpApi {
  /** @throws WasmguardError EADDRINUSE, EADDRNOTAVAIL (no address of that family) */
  connect(remote: SocketAddress, local?: { address?: IpAddress; port?: number }): TcpConnection;
  /** @param address  one of ours; default: all of both families */
  listen(port: number, options?: { address?: IpAddress; backlog?: number }): TcpListener;
  /** connections by state, listeners: nothing is left when all are closed */
  counts(): { connections: number; timeWait: number; listeners: number };
}

export interface UdpSocket {
  readonly local: { port: number; address: IpAddress | null };
  /** @throws WasmguardError EMSGSIZE, EHOSTUNREACH, EDESTADDRREQ */
  send(payload: Uint8Array, to: SocketAddress): void;
  onDatagram: ((payload: Uint8Array, from: SocketAddress) => void) | null;
  onError: ((error: DeliveryError, to: SocketAddress) => void) | null;
  close(): void;
}
