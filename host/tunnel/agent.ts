// What lets others' HTTP clients go through the tunnel: agents for node:http and node:https, the connect function of
// undici's Agent. Each makes a TunnelSocket where its library would make a net.Socket, and TLS over it where asked.

import { Agent as HttpAgent, type AgentOptions } from "node:http";
import { Agent as HttpsAgent, type AgentOptions as HttpsAgentOptions } from "node:https";
import type { Duplex } from "node:stream";
import { connect as connectTls, type ConnectionOptions, type TLSSocket } from "node:tls";
import { isAddress } from "../endpoint.ts";
import type { ConnectOptions, TunnelSocket } from "./types.ts";

/** As Dialer has it. */
export type Connect = (options: ConnectOptions) => TunnelSocket;

type Created = (error: Error | null, stream: Duplex) => void;

/** as Node's own global agent: connections are kept for the next request, and given up after 5 idle seconds */
const KEEP: AgentOptions = { keepAlive: true, timeout: 5000 };

export class TunnelHttpAgent extends HttpAgent {
  readonly #connect: Connect;

  constructor(connect: Connect, options: AgentOptions = {}) {
    super({ ...KEEP, ...options });
    this.#connect = connect;
  }

  override createConnection(
    options: { host?: string; hostname?: string; port?: number | string },
    _created?: Created,
  ): Duplex {
    return this.#connect(target(options, 80));
  }
}

export class TunnelHttpsAgent extends HttpsAgent {
  readonly #connect: Connect;

  constructor(connect: Connect, options: HttpsAgentOptions = {}) {
    super({ ...KEEP, ...options });
    this.#connect = connect;
  }

  override createConnection(options: ConnectionOptions & { hostname?: string }, _created?: Created): Duplex {
    const to = target(options, 443);
    return secure(this.#connect(to), to.host, options);
  }
}

/** What undici's Agent, Pool and Client take as `connect`. */
export type UndiciConnector = (
  options: { hostname: string; port: string | number; protocol: string; servername?: string },
  // undici's own type names net.Socket, and uses a Duplex
  // deno-lint-ignore no-explicit-any
  callback: (...args: [null, any] | [Error, null]) => void,
) => void;

export function createConnector(connect: Connect, tls: ConnectionOptions = {}): UndiciConnector {
  return ({ hostname, port, protocol, servername }, callback) => {
    const isTls = protocol === "https:";
    const socket = connect(target({ host: hostname, port }, isTls ? 443 : 80));
    const stream: Duplex = isTls
      ? secure(socket, servername || hostname, { ALPNProtocols: ["http/1.1"], ...tls })
      : socket;
    const failed = (error: Error): void => callback(error, null);
    stream.once("error", failed);
    stream.once(isTls ? "secureConnect" : "connect", () => {
      stream.off("error", failed);
      callback(null, stream);
    });
  };
}

/** TLS over a socket of the tunnel. An error of either ends both. */
export function secure(socket: TunnelSocket, host: string, options: ConnectionOptions): TLSSocket {
  // RFC 6066 §3: an address is no server name
  const servername = options.servername || (isAddress(host) ? "" : host);
  const { path: _, ...rest } = options as ConnectionOptions & { path?: string };
  const tls = connectTls({ ...rest, host, servername, socket });
  socket.once("error", (error) => tls.destroy(error));
  return tls;
}

function target(options: { host?: string; hostname?: string; port?: number | string }, port: number): ConnectOptions {
  return { host: options.host ?? options.hostname ?? "localhost", port: Number(options.port || port) };
}
