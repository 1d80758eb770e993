// UDP by node:dgram: one port, IPv4 and IPv6, on one event loop, with no FFI and no privileges.
//
// A dual-stack socket where the machine has IPv6, else IPv4 alone. dgram has no PKTINFO and no ECN, so there is no sticky
// source here: the system chooses our address, as for any program. What is sent is copied first, because dgram may still
// need it when the core has long written the next packet into the slot. dgram sends one datagram a system call; a pass
// through its resolver for each was half of the rest, so the socket has one of its own that answers at once.

import { type Socket, createSocket, type RemoteInfo } from "node:dgram";
import { networkInterfaces } from "node:os";
import type { Endpoint } from "../endpoint.ts";
import { WasmguardError } from "../errors.ts";
import { formatIp, tryParseIp } from "../ip.ts";
import type { Transport, TransportSocket } from "./types.ts";

const V4_MAPPED = "::ffff:";
const SOCKET_BUFFER_SIZE = 4 << 20;

export interface UdpTransportOptions {
  /** address to bind: "127.0.0.1" keeps the port to this machine; default: all, IPv4 and IPv6 */
  address?: string;
}

export class UdpTransport implements Transport {
  readonly #address: string | undefined;

  constructor({ address }: UdpTransportOptions = {}) {
    this.#address = address;
  }

  async bind(port: number): Promise<TransportSocket> {
    const address = this.#address;
    if (address !== undefined) {
      const mapped = address.includes(":");
      return new UdpSocket(await bind(mapped ? "udp6" : "udp4", port, address), mapped);
    }
    try {
      return new UdpSocket(await bind("udp6", port), true);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== "EAFNOSUPPORT" && code !== "EADDRNOTAVAIL") throw error;
      return new UdpSocket(await bind("udp4", port), false);
    }
  }
}

class UdpSocket implements TransportSocket {
  readonly port: number;
  onDatagram: TransportSocket["onDatagram"] = null;
  onError: TransportSocket["onError"] = null;
  readonly #socket: Socket;
  /** whether it is an IPv6 socket, to which IPv4 peers are ::ffff:a.b.c.d */
  readonly #mapped: boolean;
  readonly #sent = (error: Error | null): void => {
    if (error) this.#fail(error);
  };
  readonly #names = new Names();
  /** who sent last, and what it was made of: a peer's datagrams come in a row */
  #sender: Endpoint | null = null;
  #senderName = "";
  #closed = false;

  constructor(socket: Socket, mapped: boolean) {
    this.#socket = socket;
    this.#mapped = mapped;
    this.port = socket.address().port;
    socket.on("message", (datagram, from) => this.#receive(datagram, from));
    socket.on("error", (error) => this.#fail(error));
  }

  send(datagram: Uint8Array, to: Endpoint): void {
    if (this.#closed) return;
    if (to.family === 6 && !this.#mapped) return this.onError?.("EAFNOSUPPORT");
    const copy = Buffer.allocUnsafe(datagram.length);
    copy.set(datagram);
    try {
      this.#socket.send(copy, 0, copy.length, to.port, this.#names.of(to, this.#mapped), this.#sent);
    } catch (error) {
      this.#fail(error as Error); // port 0, say: dgram throws what it finds before the system does
    }
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#socket.close();
  }

  #fail(error: NodeJS.ErrnoException): void {
    if (!this.#closed) this.onError?.(error.code ?? "EIO");
  }

  #receive(datagram: Uint8Array, from: RemoteInfo): void {
    if (this.#closed) return;
    if (this.#sender?.port !== from.port || this.#senderName !== from.address) {
      this.#sender = toEndpoint(from);
      this.#senderName = from.address;
    }
    if (this.#sender) this.onDatagram?.(datagram, this.#sender);
  }
}

/** Addresses as text; one after the other goes to the same peer, so the last one is kept. */
class Names {
  #endpoint: Endpoint | null = null;
  #text = "";

  of(to: Endpoint, mapped: boolean): string {
    const last = this.#endpoint;
    if (last && last.family === to.family && last.scope === to.scope && sameBytes(last.address, to.address)) return this.#text;
    let text = formatIp(to.address);
    if (to.family === 4 && mapped) text = V4_MAPPED + text;
    if (to.scope) text += `%${to.scope}`;
    this.#endpoint = { ...to, address: to.address.slice() };
    return (this.#text = text);
  }
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

function toEndpoint(from: RemoteInfo): Endpoint | null {
  let { address } = from;
  let scope = 0;
  const percent = address.indexOf("%");
  if (percent >= 0) {
    scope = scopeNumber(address.slice(percent + 1));
    address = address.slice(0, percent);
  }
  if (address.startsWith(V4_MAPPED)) address = address.slice(V4_MAPPED.length);
  const ip = tryParseIp(address);
  return ip && { ...ip, port: from.port, scope };
}

// dgram names the zone of a link-local sender; the record holds its number, which node:os knows.
function scopeNumber(zone: string): number {
  if (/^\d+$/.test(zone)) return Number(zone);
  const found = networkInterfaces()[zone]?.find((address) => address.family === "IPv6");
  return found?.family === "IPv6" ? found.scopeid : 0;
}

type Answer = (error: null, address: string, family: number) => void;

/** Only addresses come here; dgram's own resolver would put each off to the next tick. */
function answerAtOnce(address: string, options: unknown, answer?: Answer): void {
  const reply = answer ?? (options as Answer);
  reply(null, address, address.includes(":") ? 6 : 4);
}

function bind(type: "udp4" | "udp6", port: number, address?: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = createSocket({ type, lookup: answerAtOnce });
    const fail = (error: NodeJS.ErrnoException): void => {
      const where = `UDP port ${port}${address ? ` of ${address}` : ""}`;
      const hint = error.code === "EADDRINUSE" ? "another program has it: choose another ListenPort, or 0 for any" : error.message;
      socket.close();
      const details = { errno: Math.abs(error.errno ?? 5), syscall: "bind", cause: error };
      reject(new WasmguardError(error.code ?? "EIO", `Cannot bind ${where}: ${hint}`, details));
    };
    socket.once("error", fail);
    socket.bind({ port, address: address ?? (type === "udp6" ? "::" : "0.0.0.0") }, () => {
      socket.off("error", fail);
      // Deno takes the size for that of each datagram's buffer: 4 MiB a packet made 13 Mbit/s of 400.
      if (!("Deno" in globalThis)) enlargeBuffers(socket);
      resolve(socket);
    });
  });
}

function enlargeBuffers(socket: Socket): void {
  try {
    socket.setRecvBufferSize(SOCKET_BUFFER_SIZE);
    socket.setSendBufferSize(SOCKET_BUFFER_SIZE);
  } catch {
    // What the system grants is enough to work with.
  }
}
