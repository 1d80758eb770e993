// A listening port of the tunnel.

import type { TcpListener } from "../netstack/types.ts";
import type { TunnelServer } from "./types.ts";

export class Server implements TunnelServer {
  readonly port: number;
  stopListening: () => void = () => {};
  readonly #listener: TcpListener;
  readonly #onClosed: () => void;

  constructor(listener: TcpListener, onClosed: () => void) {
    this.#listener = listener;
    this.#onClosed = onClosed;
    this.port = listener.local.port;
  }

  async close(): Promise<void> {
    this.stopListening();
    this.#listener.close();
    this.#onClosed();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
