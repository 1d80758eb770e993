// Our UDP sockets, and one inbox for what comes to them: kept until somebody asks for it, with its time and port of
// arrival, so that a check may send first and look later. Nothing is lost but what a check takes and drops.

import { type Socket, createSocket } from "node:dgram";
import type { Bytes } from "./noise.ts";

/** How long an answer may take, ms: long for a network, short for a person. */
export const ANSWER_MS = 2500;

export interface Address {
  host: string;
  port: number;
}

export interface Received {
  bytes: Bytes;
  /** ms, performance.now() */
  at: number;
  from: Address;
  /** the socket of ours it came to */
  port: Port;
}

/** Where a port puts what comes. */
export type Sink = Pick<Inbox, "put">;
export type Want = (received: Received) => boolean;

export class Inbox {
  #kept: Received[] = [];
  readonly #waiters = new Set<{ want: Want; resolve: (received: Received) => void }>();

  /** Takes the first datagram, come or still to come, that is wanted; null when there is none after `timeoutMs`. */
  next(want: Want, timeoutMs = ANSWER_MS): Promise<Received | null> {
    const at = this.#kept.findIndex(want);
    if (at >= 0) return Promise.resolve(this.#kept.splice(at, 1)[0]);
    return new Promise((resolve) => {
      const end = (received: Received | null): void => {
        clearTimeout(timer);
        this.#waiters.delete(waiter);
        resolve(received);
      };
      const waiter = { want, resolve: end };
      const timer = setTimeout(end, timeoutMs, null);
      this.#waiters.add(waiter);
    });
  }

  /** Takes everything wanted that has come. */
  all(want: Want): Received[] {
    const taken = this.#kept.filter(want);
    this.#kept = this.#kept.filter((received) => !taken.includes(received));
    return taken;
  }

  put(received: Received): void {
    for (const { want, resolve } of this.#waiters) {
      if (want(received)) return resolve(received);
    }
    this.#kept.push(received);
  }
}

export class Port {
  readonly #socket: Socket;

  private constructor(socket: Socket, inbox: Sink) {
    this.#socket = socket;
    socket.on("error", () => {}); // an ICMP error that an earlier datagram met
    socket.on("message", (bytes, { address, port }) => {
      const from = { host: address, port };
      inbox.put({ bytes: new Uint8Array(bytes), at: performance.now(), from, port: this });
    });
  }

  /** @throws the system's error when the port is taken or the address is not ours */
  static open(family: 4 | 6, inbox: Sink, local: { host?: string; port?: number } = {}): Promise<Port> {
    return new Promise((resolve, reject) => {
      const socket = createSocket({ type: family === 4 ? "udp4" : "udp6" });
      socket.once("error", reject);
      socket.bind(local.port ?? 0, local.host, () => {
        socket.off("error", reject);
        resolve(new Port(socket, inbox));
      });
    });
  }

  get number(): number {
    return this.#socket.address().port;
  }

  /** Resolves when the system has taken it; an unreachable peer is as silent as any other. */
  send(bytes: Bytes, to: Address): Promise<void> {
    return new Promise((resolve) => this.#socket.send(bytes, to.port, to.host, () => resolve()));
  }

  /** Many at once, none awaited but the last. */
  async sendAll(messages: Bytes[], to: Address): Promise<void> {
    const last = messages.length - 1;
    for (let i = 0; i < last; i++) this.#socket.send(messages[i], to.port, to.host, () => {});
    if (last >= 0) await this.send(messages[last], to);
  }

  close(): void {
    this.#socket.close();
  }
}
