// A listening port of the tunnel, and a server of Node's behind one.

import type { Server as NetServer } from "node:net";
import type { TcpListener } from "../netstack/types.ts";
import type { TunnelServer } from "./types.ts";

export class Server implements TunnelServer {
  readonly port: number;
  readonly #listener: TcpListener;
  readonly #closing: (() => void)[] = [];

  constructor(listener: TcpListener) {
    this.#listener = listener;
    this.port = listener.local.port;
  }

  /** Calls when it is closed. */
  onClosed(call: () => void): void {
    this.#closing.push(call);
  }

  async close(): Promise<void> {
    this.#listener.close();
    for (const call of this.#closing.splice(0)) call();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

/**
 * Makes a server that is handed its connections say that it listens, until the port is closed: an http server that does
 * not (Deno 2.9 asks) closes each connection after its first answer.
 */
export function serveWhile(server: NetServer, port: Server): TunnelServer {
  Object.defineProperty(server, "listening", { configurable: true, get: () => true });
  port.onClosed(() => {
    delete (server as { listening?: boolean }).listening;
  });
  return port;
}
