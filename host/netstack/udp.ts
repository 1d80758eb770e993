// UDP. RFC 768, RFC 8085; IPv6: RFC 8200 §8.1.
//
// A socket is a port, with one of our addresses or with all of both families. Nothing is queued: a datagram goes to
// onDatagram when it comes and to the link when it is sent. Ports that nobody asked for by number are random (RFC 6056
// §3.3.1), so that an answer cannot be guessed at. A datagram longer than the path goes in fragments.

import { WasmguardError } from "../errors.ts";
import { formatIp, type IpAddress } from "../ip.ts";
import { copyAddress, isUnspecified, sameAddress } from "./address.ts";
import { be16, putBe16 } from "./bytes.ts";
import type { DropReason } from "./drops.ts";
import { PROTOCOL_UDP } from "./ip.ts";
import type { DeliveryError, InPacket, IpHeader, IpLayer, SocketAddress, TransportLayer, UdpSocket } from "./types.ts";

export const UDP_HEADER_LEN = 8;
const SOURCE_PORT = 0;
const DESTINATION_PORT = 2;
const LENGTH = 4;
const CHECKSUM = 6;

/** payload bytes: 65,535 less the headers that the length field counts */
export const UDP_PAYLOAD_MAX4 = 65_507;
export const UDP_PAYLOAD_MAX6 = 65_527;

const PORT_MAX = 65_535;
const EPHEMERAL_FIRST = 32_768;
const EPHEMERAL_COUNT = PORT_MAX + 1 - EPHEMERAL_FIRST;

export interface UdpOptions {
  /** 1..65535; default: a free one at random */
  port?: number;
  /** one of ours; default: all */
  address?: IpAddress;
}

export class Udp implements TransportLayer {
  readonly #ip: IpLayer;
  /** Sockets of a port differ in their addresses. */
  readonly #ports = new Map<number, Socket[]>();

  constructor(ip: IpLayer) {
    this.#ip = ip;
  }

  /** open sockets */
  get size(): number {
    let size = 0;
    for (const sockets of this.#ports.values()) size += sockets.length;
    return size;
  }

  /** @throws RangeError for a port that is none; WasmguardError EADDRINUSE, EADDRNOTAVAIL */
  open(options: UdpOptions = {}): UdpSocket {
    const { address = null } = options;
    if (address !== null && !this.#ip.isOurs(address)) {
      throw new WasmguardError("EADDRNOTAVAIL", `Cannot open UDP socket: ${formatIp(address.address)} is not ours`);
    }
    const port = options.port === undefined ? this.#choosePort() : checkPort(options.port, "open UDP socket");
    const others = this.#ports.get(port) ?? [];
    if (others.some((other) => clash(other.local.address, address))) {
      throw new WasmguardError("EADDRINUSE", `Cannot open UDP socket: port ${port} is in use`);
    }
    const socket = new Socket(this.#ip, port, address, () => this.#forget(socket));
    this.#ports.set(port, [...others, socket]);
    return socket;
  }

  /**
   * Takes a datagram whose length and checksum are right.
   * @returns why it was dropped ("noPort" is owed a port unreachable), or null
   */
  input(ip: IpHeader, datagram: Uint8Array, packet: InPacket): DropReason | null {
    const port = be16(datagram, DESTINATION_PORT);
    const socket = this.#find(port, ip.destination);
    if (socket === undefined) return "noPort";
    const from: SocketAddress = { ...copyAddress(ip.source), port: be16(datagram, SOURCE_PORT) };
    const payload = datagram.subarray(UDP_HEADER_LEN);
    const size = packet.gsoSize === 0 ? Math.max(payload.length, 1) : packet.gsoSize;
    let at = 0;
    do {
      socket.onDatagram?.(payload.slice(at, at + size), from);
      at += size;
    } while (at < payload.length && socket.open);
    return null;
  }

  /** Sockets are not connected and keep no list of where they sent to: an open port is all that there is to know. */
  knows(ip: IpHeader, quoted: Uint8Array): boolean {
    return this.#find(be16(quoted, SOURCE_PORT), ip.source) !== undefined;
  }

  error(ip: IpHeader, quoted: Uint8Array, error: DeliveryError): void {
    const socket = this.#find(be16(quoted, SOURCE_PORT), ip.source);
    socket?.onError?.(error, { ...copyAddress(ip.destination), port: be16(quoted, DESTINATION_PORT) });
  }

  close(): void {
    for (const sockets of [...this.#ports.values()]) for (const socket of sockets) socket.close();
  }

  #find(port: number, address: Uint8Array): Socket | undefined {
    for (const socket of this.#ports.get(port) ?? []) {
      const own = socket.local.address;
      if (
        own === null ||
        (own.address.length === address.length && own.address.every((byte, i) => byte === address[i]))
      ) {
        return socket;
      }
    }
    return undefined;
  }

  #forget(socket: Socket): void {
    const { port } = socket.local;
    const others = this.#ports.get(port)!.filter((other) => other !== socket);
    if (others.length === 0) this.#ports.delete(port);
    else this.#ports.set(port, others);
  }

  /** A port where no socket is at all: at random, and from there the next that is free. */
  #choosePort(): number {
    const random = new Uint8Array(2);
    this.#ip.random(random);
    const start = be16(random, 0);
    for (let i = 0; i < EPHEMERAL_COUNT; i++) {
      const port = EPHEMERAL_FIRST + ((start + i) % EPHEMERAL_COUNT);
      if (!this.#ports.has(port)) return port;
    }
    throw new WasmguardError("EADDRINUSE", "Cannot open UDP socket: no port is free");
  }
}

class Socket implements UdpSocket {
  readonly local: { port: number; address: IpAddress | null };
  onDatagram: ((payload: Uint8Array, from: SocketAddress) => void) | null = null;
  onError: ((error: DeliveryError, to: SocketAddress) => void) | null = null;
  readonly #ip: IpLayer;
  readonly #onClose: () => void;
  readonly #header = new Uint8Array(UDP_HEADER_LEN);
  open = true;

  constructor(ip: IpLayer, port: number, address: IpAddress | null, onClose: () => void) {
    this.#ip = ip;
    this.local = { port, address };
    this.#onClose = onClose;
    putBe16(this.#header, SOURCE_PORT, port);
  }

  send(payload: Uint8Array, to: SocketAddress): void {
    const what = `send to ${formatIp(to.address)}`;
    if (!this.open) throw new WasmguardError("EBADF", `Cannot ${what}: the socket is closed`);
    if (to.port === 0 || isUnspecified(to.address)) {
      throw new WasmguardError("EDESTADDRREQ", `Cannot ${what} port ${to.port}: that is nobody's`);
    }
    checkPort(to.port, what);
    const payloadMax = to.family === 4 ? UDP_PAYLOAD_MAX4 : UDP_PAYLOAD_MAX6;
    if (payload.length > payloadMax) {
      throw new WasmguardError("EMSGSIZE", `Cannot ${what}: ${payload.length} bytes are more than ${payloadMax}`);
    }
    const own = this.local.address;
    const source = own !== null && own.family === to.family ? own : own === null ? this.#ip.sourceFor(to) : null;
    if (source === null) throw new WasmguardError("EHOSTUNREACH", `Cannot ${what}: no way there`);
    const header = this.#header;
    putBe16(header, DESTINATION_PORT, to.port);
    putBe16(header, LENGTH, UDP_HEADER_LEN + payload.length);
    putBe16(header, CHECKSUM, 0);
    this.#ip.send({
      source,
      destination: to,
      protocol: PROTOCOL_UDP,
      header,
      checksumOffset: CHECKSUM,
      payload: [payload],
      gsoSize: 0,
    });
  }

  close(): void {
    if (!this.open) return;
    this.open = false;
    this.onDatagram = null;
    this.onError = null;
    this.#onClose();
  }
}

function checkPort(port: number, what: string): number {
  if (!Number.isInteger(port) || port < 1 || port > PORT_MAX) {
    throw new RangeError(`Cannot ${what}: port ${port} is not in 1..${PORT_MAX}`);
  }
  return port;
}

/** Whether two sockets of one port would fight for a datagram. */
function clash(a: IpAddress | null, b: IpAddress | null): boolean {
  return a === null || b === null || sameAddress(a, b);
}
