// Datagrams as messages of a MessagePort: two devices of one page or process, or one in a worker, joined by a
// MessageChannel. There is one other end, so there is one endpoint, PORT_ENDPOINT, whatever the peer's address.
//
// A port queues without bound what the other side does not read, and UDP must not: so the receiver reports in plain
// numbers how many datagrams it has taken, and a sender that is too far ahead drops. 0 says "I have just bound: count
// anew". Nothing that the other side posts can throw here.

import type { Endpoint } from "../endpoint.ts";
import type { Transport, TransportSocket } from "./types.ts";

/** Of the range kept for documentation (RFC 5737): never a real host's. "192.0.2.1:51820" in a configuration. */
export const PORT_ENDPOINT: Readonly<Endpoint> = {
  family: 4, address: Uint8Array.of(192, 0, 2, 1), port: 51820, scope: 0,
};

/** A MessagePort of a page, a worker or node:worker_threads. */
export interface PortLike {
  postMessage(message: unknown, transfer: ArrayBuffer[]): void;
  addEventListener(type: "message" | "messageerror", listener: (event: { data: unknown }) => void): void;
  removeEventListener(type: "message" | "messageerror", listener: (event: { data: unknown }) => void): void;
  start(): void;
}

const DATAGRAM_MAX_LEN = 65535;
/** Datagrams that the other side has not taken yet. */
const AHEAD_COUNT = 4096;
/** A report for each so many. */
const REPORT_COUNT = 64;

export class PortTransport implements Transport {
  readonly #port: PortLike;
  readonly #sockets = new Set<PortSocket>();
  #ahead = 0;
  #taken = 0;

  /** @param port  stays the caller's, who closes it in the end */
  constructor(port: PortLike) {
    this.#port = port;
  }

  /** Several sockets may be open at once, as while a device changes its port: each gets every datagram. */
  async bind(port: number): Promise<TransportSocket> {
    const socket = new PortSocket(port, (bytes) => this.#send(bytes), () => this.#release(socket));
    this.#sockets.add(socket);
    if (this.#sockets.size === 1) {
      this.#port.addEventListener("message", this.#onMessage);
      this.#port.addEventListener("messageerror", this.#onMessageError);
      this.#port.start();
      this.#taken = 0;
      this.#port.postMessage(0, []);
    }
    return socket;
  }

  #release(socket: PortSocket): void {
    if (!this.#sockets.delete(socket) || this.#sockets.size > 0) return;
    this.#port.removeEventListener("message", this.#onMessage);
    this.#port.removeEventListener("messageerror", this.#onMessageError);
  }

  /** @returns an error code, or null */
  #send(datagram: Uint8Array): string | null {
    if (datagram.length > DATAGRAM_MAX_LEN) return "EMSGSIZE";
    if (this.#ahead >= AHEAD_COUNT) return "ENOBUFS";
    this.#ahead++;
    // Copied first: to post a view is to post all of the memory behind it.
    const copy = new Uint8Array(datagram);
    this.#port.postMessage(copy, [copy.buffer]);
    return null;
  }

  readonly #onMessage = ({ data }: { data: unknown }): void => {
    if (typeof data === "number") return this.#report(data);
    if (!(data instanceof Uint8Array) || !(data.buffer instanceof ArrayBuffer)) return this.#fail("EPROTO");
    if (++this.#taken === REPORT_COUNT) {
      this.#port.postMessage(this.#taken, []);
      this.#taken = 0;
    }
    if (data.length > DATAGRAM_MAX_LEN) return this.#fail("EMSGSIZE");
    for (const socket of this.#sockets) socket.onDatagram?.(data, PORT_ENDPOINT);
  };

  readonly #onMessageError = (): void => this.#fail("EPROTO");

  /** How many the other side has taken. */
  #report(count: number): void {
    if (!Number.isInteger(count) || count < 0) return this.#fail("EPROTO");
    this.#ahead = count === 0 ? 0 : Math.max(0, this.#ahead - count);
  }

  #fail(code: string): void {
    for (const socket of this.#sockets) socket.onError?.(code);
  }
}

class PortSocket implements TransportSocket {
  readonly port: number;
  onDatagram: TransportSocket["onDatagram"] = null;
  onError: TransportSocket["onError"] = null;
  readonly #send: (datagram: Uint8Array) => string | null;
  readonly #release: () => void;
  #closed = false;

  constructor(port: number, send: (datagram: Uint8Array) => string | null, release: () => void) {
    this.port = port;
    this.#send = send;
    this.#release = release;
  }

  send(datagram: Uint8Array, to: Endpoint): void {
    const code = this.#closed ? "EBADF" : isOther(to) ? "ENETUNREACH" : this.#send(datagram);
    if (code !== null) this.onError?.(code);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#release();
  }
}

function isOther({ family, address, port }: Endpoint): boolean {
  return family !== 4 || port !== PORT_ENDPOINT.port || address.some((byte, i) => byte !== PORT_ENDPOINT.address[i]);
}
