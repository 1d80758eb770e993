// UDP by node:dgram: the device's one port, IPv4 and IPv6, on one event loop, with no FFI and no privileges.
//
// A dual-stack socket where the machine has IPv6, else IPv4 alone. dgram has no PKTINFO and no ECN, so there is no sticky
// source here: the system chooses our address, as for any program. What is sent is copied first, because dgram may still
// need it when the core has long written the next packet into the slot.

import { type Socket, createSocket, type RemoteInfo } from "node:dgram";
import { networkInterfaces } from "node:os";
import {
  IN_ENDPOINT, IN_FLAGS, IN_LENGTH, IN_OFFSET, IN_SEGMENT, IN_SIZE, OUT_ENDPOINT, OUT_LENGTH, OUT_OFFSET, OUT_SEGMENT,
  OUT_SIZE, SLOTS_SIZE, SLOT_DATA_SIZE, SLOT_HEADROOM, THREAD_IN, THREAD_OUT,
} from "../../../assembly/abi.ts";
import { DATA_HEADER_LEN } from "../../../assembly/protocol.ts";
import type { Core } from "../../core.ts";
import type { Network } from "../../device.ts";
import { decodeEndpoint, encodeEndpoint, type Endpoint } from "../../endpoint.ts";
import { WasmguardError } from "../../errors.ts";
import { formatIp, tryParseIp } from "../../ip.ts";
import type { DatagramSink, ErrorCounts } from "../types.ts";

const V4_MAPPED = "::ffff:";
const SOCKET_BUFFER_SIZE = 4 << 20;

export interface PortableUdpOptions {
  core: Core;
  /** a datagram is in IN record 0 */
  onDatagram: () => void;
  /** address to bind: "127.0.0.1" keeps the port to this machine; default: all, IPv4 and IPv6 */
  address?: string;
}

export class PortableUdp implements Network, DatagramSink {
  readonly errors: ErrorCounts = new Map();
  readonly fwmark = 0;
  readonly #options: PortableUdpOptions;
  #socket: Socket | null = null;
  #mapped = false;
  #closed = false;

  constructor(options: PortableUdpOptions) {
    this.#options = options;
  }

  get listenPort(): number {
    return this.#socket?.address().port ?? 0;
  }

  async prepare(change: { listenPort?: number; fwmark?: number }): Promise<{ commit(): void; rollback(): void }> {
    if (change.fwmark) {
      throw new WasmguardError("ENOTSUP", "Cannot set fwmark: node:dgram has no firewall marks", { errno: 95 });
    }
    const { listenPort } = change;
    if (listenPort === undefined || (listenPort !== 0 && listenPort === this.listenPort)) return { commit() {}, rollback() {} };
    const bound = await this.#bind(listenPort);
    return { commit: () => this.#adopt(bound), rollback: () => bound.socket.close() };
  }

  /** Binds a port if none is bound yet. */
  async open(): Promise<void> {
    if (!this.#socket) this.#adopt(await this.#bind(0));
  }

  close(): void {
    this.#closed = true;
    this.#socket?.close();
    this.#socket = null;
  }

  send(count: number): number {
    const { view, u8, base, slots } = this.#options.core;
    let sent = 0;
    for (let i = 0; i < count; i++) {
      const record = base + THREAD_OUT + i * OUT_SIZE;
      const offset = view.getUint32(record + OUT_OFFSET, true);
      const length = view.getUint32(record + OUT_LENGTH, true);
      const segment = view.getUint32(record + OUT_SEGMENT, true) || length;
      const endpoint = decodeEndpoint(view, record + OUT_ENDPOINT);
      if (offset < slots || offset + length > slots + SLOTS_SIZE) {
        throw new WasmguardError("ERR_CORE_ADDRESS", `The core gave a datagram outside of its slots: ${offset}+${length}`);
      }
      if (!endpoint || !this.#socket) continue;
      for (let at = 0; at < length; at += segment) {
        this.#sendOne(Buffer.from(u8.slice(offset + at, offset + Math.min(at + segment, length))), endpoint);
        sent++;
      }
    }
    return sent;
  }

  #sendOne(datagram: Buffer, endpoint: Endpoint): void {
    let address = formatIp(endpoint.address);
    if (endpoint.family === 4 && this.#mapped) address = V4_MAPPED + address;
    if (endpoint.family === 6 && !this.#mapped) return this.#count("EAFNOSUPPORT");
    if (endpoint.scope) address += `%${endpoint.scope}`;
    this.#socket!.send(datagram, endpoint.port, address, (error) => {
      if (error) this.#count((error as NodeJS.ErrnoException).code ?? "EIO");
    });
  }

  #count(code: string): void {
    this.errors.set(code, (this.errors.get(code) ?? 0) + 1);
  }

  #adopt(bound: { socket: Socket; mapped: boolean }): void {
    this.#socket?.close();
    this.#socket = bound.socket;
    this.#mapped = bound.mapped;
    bound.socket.on("message", (datagram, from) => this.#receive(datagram, from));
    bound.socket.on("error", (error) => this.#count((error as NodeJS.ErrnoException).code ?? "EIO"));
    if (this.#closed) bound.socket.close();
  }

  async #bind(port: number): Promise<{ socket: Socket; mapped: boolean }> {
    const { address } = this.#options;
    if (address !== undefined) {
      const mapped = address.includes(":");
      return { socket: await bind(mapped ? "udp6" : "udp4", port, address), mapped };
    }
    try {
      return { socket: await bind("udp6", port), mapped: true };
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== "EAFNOSUPPORT" && code !== "EADDRNOTAVAIL") throw error;
      return { socket: await bind("udp4", port), mapped: false };
    }
  }

  #receive(datagram: Uint8Array, from: RemoteInfo): void {
    const { core, onDatagram } = this.#options;
    const { view, u8, base } = core;
    const endpoint = toEndpoint(from);
    if (!endpoint || this.#closed) return;
    // So that the packet inside lies 16-aligned.
    const at = core.slots + SLOT_HEADROOM - DATA_HEADER_LEN;
    const record = base + THREAD_IN;
    const length = Math.min(datagram.length, SLOT_DATA_SIZE);
    u8.set(length === datagram.length ? datagram : datagram.subarray(0, length), at);
    u8.fill(0, record, record + IN_SIZE);
    view.setUint32(record + IN_OFFSET, at, true);
    view.setUint32(record + IN_LENGTH, length, true);
    view.setUint32(record + IN_SEGMENT, 0, true);
    view.setUint32(record + IN_FLAGS, 0, true);
    encodeEndpoint(view, record + IN_ENDPOINT, endpoint);
    onDatagram();
  }
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

function bind(type: "udp4" | "udp6", port: number, address?: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = createSocket({ type });
    const fail = (error: NodeJS.ErrnoException): void => {
      const where = `UDP port ${port}${address ? ` of ${address}` : ""}`;
      const hint = error.code === "EADDRINUSE" ? "another program has it: choose another ListenPort, or 0 for any" : error.message;
      socket.close();
      const details = { errno: Math.abs(error.errno ?? 5), syscall: "bind", cause: error };
      reject(new WasmguardError(error.code ?? "EIO", `Cannot bind ${where}: ${hint}`, details));
    };
    socket.once("error", fail);
    socket.bind({ port, address }, () => {
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
