// What the measurement goes through: the system's network, or a tunnel inside this process. The Dialer of the tunnel is
// wrapped rather than taken as it is: a datagram of dgram has to tell when it has left, or a fast sender fills the memory.

import { type Socket as UdpSocket, createSocket } from "node:dgram";
import { type AddressInfo, connect as connectTcp, createServer, isIPv4 } from "node:net";
import type { Duplex } from "node:stream";
import { WasmguardError } from "../errors.ts";
import type { DatagramSender, Dialer } from "../tunnel/types.ts";

/** What net.Socket and TunnelSocket have in common, as far as it is used here. */
export interface Stream extends Duplex {
  readonly localAddress?: string | undefined;
  readonly remoteAddress?: string | undefined;
  readonly remotePort?: number | undefined;
  setNoDelay(noDelay?: boolean): unknown;
  resetAndDestroy?(): unknown;
}

export interface Listening {
  address: string;
  port: number;
  close(): Promise<void>;
}

export interface UdpPort {
  readonly port: number;
  onDatagram: ((bytes: Uint8Array, from: { address: string; port: number }) => void) | null;
  /** @param sent  `bytes` are the caller's again; with what went wrong */
  send(bytes: Uint8Array, port: number, address: string, sent: (error: unknown) => void): void;
  close(): void;
}

export interface Network {
  readonly name: "system" | "tunnel";
  /** Rejects with ECONNREFUSED, ENOTFOUND, ETIMEDOUT ... */
  connect(host: string, port: number): Promise<Stream>;
  /** @param address  undefined = all of ours. Rejects with EADDRINUSE ... */
  listen(address: string | undefined, port: number, onStream: (stream: Stream) => void): Promise<Listening>;
  /** @param port  0 = any */
  udp(address: string, port: number): Promise<UdpPort>;
}

/** As long as nobody answers. */
const CONNECT_MS = 10_000;
/** bytes; the system gives what it allows */
const UDP_BUFFER = 4 << 20;

export const systemNetwork: Network = {
  name: "system",

  connect(host, port) {
    return new Promise((resolve, reject) => {
      const socket = connectTcp({ host, port });
      const timer = setTimeout(() => socket.destroy(new WasmguardError("ETIMEDOUT", "no answer")), CONNECT_MS);
      socket.once("error", reject);
      socket.once("close", () => clearTimeout(timer));
      socket.once("connect", () => {
        clearTimeout(timer);
        socket.off("error", reject);
        resolve(socket);
      });
    });
  },

  listen(address, port, onStream) {
    return new Promise((resolve, reject) => {
      const server = createServer({ allowHalfOpen: true }, onStream);
      server.once("error", reject);
      server.listen(port, address, () => {
        server.off("error", reject);
        const bound = server.address() as AddressInfo;
        const close = (): Promise<void> => new Promise((done) => void server.close(() => done()));
        resolve({ address: bound.address, port: bound.port, close });
      });
    });
  },

  udp(address, port) {
    const plain = plainAddress(address);
    // The zone of a link-local address is not known here: all of the family, then.
    const own = plain.startsWith("fe80:") ? "::" : plain;
    return new Promise((resolve, reject) => {
      const socket = createSocket({ type: isIPv4(own) ? "udp4" : "udp6", ipv6Only: !isIPv4(own) });
      const fail = (error: Error): void => {
        socket.close();
        reject(error);
      };
      socket.once("error", fail);
      socket.bind(port, own, () => {
        socket.off("error", fail);
        resolve(new SystemPort(socket));
      });
    });
  },
};

class SystemPort implements UdpPort {
  onDatagram: UdpPort["onDatagram"] = null;
  readonly port: number;
  readonly #socket: UdpSocket;
  #closed = false;

  constructor(socket: UdpSocket) {
    this.#socket = socket;
    this.port = socket.address().port;
    // Deno 2.9 takes the size for that of each datagram's buffer, and then receives a tenth.
    if (!("Deno" in globalThis)) enlargeBuffer(socket);
    socket.on("message", (bytes, from) => this.onDatagram?.(bytes, from));
    // What comes back from a send (ECONNREFUSED): the datagram counts as lost.
    socket.on("error", () => {});
  }

  send(bytes: Uint8Array, port: number, address: string, sent: (error: unknown) => void): void {
    if (this.#closed) return sent(new WasmguardError("ERR_CLOSED", "the port is closed"));
    this.#socket.send(bytes, port, address, sent);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#socket.close();
  }
}

function enlargeBuffer(socket: UdpSocket): void {
  try {
    socket.setRecvBufferSize(UDP_BUFFER);
  } catch {
    // More is lost then, and it is told how much.
  }
}

/** Through a tunnel, or whatever stands for one. */
export function dialerNetwork(dialer: Dialer): Network {
  return {
    name: "tunnel",

    async connect(host, port) {
      const socket = dialer.connect({ host, port, timeoutMs: CONNECT_MS });
      socket.on("error", () => {});
      await socket.opened;
      return socket;
    },

    async listen(address, port, onStream) {
      const server = dialer.listen({ host: address, port, allowHalfOpen: true }, onStream);
      return { address: address ?? "::", port: server.port, close: () => server.close() };
    },

    async udp(address, port) {
      const socket = dialer.datagram({ host: plainAddress(address), port: port === 0 ? undefined : port });
      const udp: UdpPort = {
        port: socket.port,
        onDatagram: null,
        send: (bytes, to, host, sent) => void socket.send(bytes, to, host).then(() => sent(null), sent),
        close: () => socket.close(),
      };
      socket.on("message", (bytes: Uint8Array, from: DatagramSender) => udp.onDatagram?.(bytes, from));
      socket.on("error", () => {});
      return udp;
    },
  };
}

/** An IPv4 address that a socket of both families shows as IPv6; else as it is. */
export function plainAddress(address: string): string {
  return /^::ffff:\d+\.\d+\.\d+\.\d+$/i.test(address) ? address.slice(7) : address;
}

/** Whether two texts, as sockets show them, are the same machine. */
export function isSameAddress(a: string | undefined, b: string | undefined): boolean {
  if (a === undefined || b === undefined) return false;
  const bare = (address: string): string => plainAddress(address).replace(/%.*$/, "").toLowerCase();
  return bare(a) === bare(b);
}
