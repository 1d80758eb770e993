// UDP through the tunnel, in the manner of node:dgram.

import { EventEmitter } from "node:events";
import { WasmguardError } from "../errors.ts";
import { formatIp, type IpAddress } from "../ip.ts";
import type { DeliveryError, SocketAddress, UdpSocket } from "../netstack/types.ts";
import { formatTarget } from "./dial.ts";
import type { DatagramSender, TunnelDatagram } from "./types.ts";

export interface DatagramEvents {
  message: [bytes: Uint8Array, from: DatagramSender];
  error: [error: Error];
  close: [];
}

export class DatagramSocket extends EventEmitter<DatagramEvents> implements TunnelDatagram {
  readonly #udp: UdpSocket;
  readonly #resolve: (host: string) => Promise<IpAddress>;
  #closed = false;

  constructor(udp: UdpSocket, resolve: (host: string) => Promise<IpAddress>) {
    super();
    this.#udp = udp;
    this.#resolve = resolve;
    udp.onDatagram = (payload, { family, address, port }) => {
      const from: DatagramSender = { address: formatIp(address), port, family: family === 4 ? "IPv4" : "IPv6" };
      this.emit("message", payload.slice(), from);
    };
    // Of a datagram sent long ago: who listens is told, and nobody else is ended by it.
    udp.onError = (error, to) => {
      if (this.listenerCount("error") > 0) this.emit("error", deliveryError(error, to));
    };
  }

  get port(): number {
    return this.#udp.local.port;
  }

  async send(payload: Uint8Array, port: number, host: string): Promise<void> {
    const ip = await this.#resolve(host);
    if (this.#closed) throw new WasmguardError("ERR_CLOSED", "Cannot send: the datagram socket is closed");
    this.#udp.send(payload, { ...ip, port });
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#udp.close();
    queueMicrotask(() => this.emit("close"));
  }
}

/** what an ICMP message means to a program, as Linux has it (icmp_err_convert) */
const DELIVERY_CODES: Record<DeliveryError["kind"], [code: string, text: string]> = {
  unreachable: ["EHOSTUNREACH", "no way to there"],
  portUnreachable: ["ECONNREFUSED", "nobody listens there"],
  prohibited: ["EACCES", "a router forbids it"],
  tooBig: ["EMSGSIZE", "it is too long for the path"],
  timeExceeded: ["EHOSTUNREACH", "it was underway for too many hops"],
};

function deliveryError({ kind }: DeliveryError, to: SocketAddress): WasmguardError {
  const [code, text] = DELIVERY_CODES[kind];
  return new WasmguardError(
    code,
    `A datagram to ${formatTarget(formatIp(to.address), to.port)} did not arrive: ${text}`,
    {
      syscall: "send",
    },
  );
}
