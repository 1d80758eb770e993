// One UDP ASSOCIATE of RFC 1928 §7: a UDP port of ours for one client, as long as its TCP connection stands. The client
// is pinned: datagrams come from the address of its TCP connection, and all from the port of the first one. Fragments
// are refused (§7 allows it). What comes back through the tunnel is passed on from whomever, as a NAT without filter
// does: programs that look for each other (STUN) need it.

import { type Socket as UdpSocket, createSocket } from "node:dgram";
import type { Socket } from "node:net";
import type { Logger } from "../log.ts";
import type { DatagramSender, Dialer, TunnelDatagram } from "../tunnel/types.ts";
import { unmapped } from "./address.ts";
import { classify } from "./failure.ts";
import { type Destination, decodeDatagram, encodeDatagram } from "./socks5-wire.ts";
import type { Tally } from "./tally.ts";
import { bindUdp } from "./udp-socket.ts";

/** Datagrams that wait for a name, or for room: more are dropped. */
const PENDING_MAX = 64;

export class Association {
  readonly #local: UdpSocket;
  readonly #far: TunnelDatagram;
  readonly #tally: Tally;
  readonly #log: Logger;
  readonly #clientAddress: string;
  /** 0 = not known before the first datagram */
  #clientPort: number;
  #pending = 0;
  #closed = false;
  /** Called when it ends by itself: the tunnel is gone. */
  onClosed: (() => void) | undefined;

  private constructor(local: UdpSocket, far: TunnelDatagram, client: Destination, tally: Tally, log: Logger) {
    this.#local = local;
    this.#far = far;
    this.#tally = tally;
    this.#log = log;
    this.#clientAddress = client.host;
    this.#clientPort = client.port;
    local.on("message", (datagram, from) => this.#fromClient(datagram, from));
    local.on("error", () => this.#end());
    far.on("message", (payload: Uint8Array, from: DatagramSender) => this.#fromTunnel(payload, from));
    far.on("error", () => {}); // an unreachable port of one destination is not the end of the others
    far.on("close", () => this.#end());
  }

  /** @param expected  what the client announced: where it will send from, or zeros */
  static async open(
    tunnel: Dialer,
    control: Socket,
    expected: Destination,
    tally: Tally,
    log: Logger,
  ): Promise<Association> {
    const ours = unmapped(control.localAddress ?? "127.0.0.1");
    const client = { host: unmapped(control.remoteAddress ?? ""), port: 0 };
    // A client behind a NAT announces an address that is not the one we see: then its port says nothing either.
    if (expected.host === client.host) client.port = expected.port;
    const local = createSocket(ours.includes(":") ? "udp6" : "udp4");
    await bindUdp(local, { host: ours, port: 0 });
    try {
      return new Association(local, tunnel.datagram(), client, tally, log);
    } catch (error) {
      local.close();
      throw error;
    }
  }

  get address(): string {
    return this.#local.address().address;
  }

  get port(): number {
    return this.#local.address().port;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#local.close();
    this.#far.close();
  }

  #end(): void {
    if (this.#closed) return;
    this.close();
    this.onClosed?.();
  }

  #fromClient(datagram: Uint8Array, from: { address: string; port: number }): void {
    if (unmapped(from.address) !== this.#clientAddress || (this.#clientPort !== 0 && from.port !== this.#clientPort)) {
      return this.#tally.dropped("stranger");
    }
    const request = decodeDatagram(datagram);
    if (request === null) return this.#tally.dropped("malformed");
    if (request === "fragment") return this.#tally.dropped("fragment");
    if (this.#pending >= PENDING_MAX) return this.#tally.dropped("queue-full");
    this.#clientPort = from.port;
    this.#pending++;
    this.#far.send(request.payload, request.port, request.host).then(
      () => {
        this.#pending--;
        this.#tally.sentBytes += request.payload.length;
      },
      (error: unknown) => {
        this.#pending--;
        if (this.#closed) return;
        const { reason, words } = classify(error);
        this.#tally.dropped(reason);
        this.#log.verbose(`socks5: UDP to ${request.host} port ${request.port}: ${words}`);
      },
    );
  }

  #fromTunnel(payload: Uint8Array, from: DatagramSender): void {
    if (this.#closed || this.#clientPort === 0) return;
    this.#tally.receivedBytes += payload.length;
    const datagram = encodeDatagram(unmapped(from.address), from.port, payload);
    this.#local.send(datagram, this.#clientPort, this.#clientAddress, (error) => {
      if (error) this.#tally.dropped(classify(error).reason);
    });
  }
}
