// What a tunnel gives to a program, and to the proxy: sockets as Node's own, so that http, tls and streams take them.

import type { Duplex } from "node:stream";

export interface ConnectOptions {
  /** an address, or a name that the tunnel's DNS resolves */
  host: string;
  port: number;
  /** only addresses of this family */
  family?: 4 | 6;
  /** of ours, where there are several; default: chosen by the destination */
  localAddress?: string;
  localPort?: number;
  /** milliseconds for name and connection together; default: TCP's own patience */
  timeoutMs?: number;
  /** our side stays open when the peer's has ended, as of net.Socket; default false */
  allowHalfOpen?: boolean;
  /** destroys the socket, connected or not */
  signal?: AbortSignal;
}

/**
 * A TCP connection through the tunnel. Like net.Socket it may be written at once; "connect" and `opened` tell when it
 * stands. Errors carry a code: ECONNREFUSED, ECONNRESET, ETIMEDOUT, EHOSTUNREACH (at once, when no peer's AllowedIPs hold
 * the address), ENOTFOUND, ABORT_ERR.
 */
export interface TunnelSocket extends Duplex {
  /** fulfilled when the connection stands, rejected when it cannot */
  readonly opened: Promise<void>;
  readonly connecting: boolean;
  readonly localAddress: string | undefined;
  readonly localPort: number | undefined;
  readonly remoteAddress: string | undefined;
  readonly remotePort: number | undefined;
  readonly remoteFamily: "IPv4" | "IPv6" | undefined;
  /** payload bytes so far */
  readonly bytesRead: number;
  readonly bytesWritten: number;
  setNoDelay(noDelay?: boolean): this;
  setKeepAlive(enable?: boolean, initialDelayMs?: number): this;
  /** "timeout" after so long without a byte either way; 0 = never */
  setTimeout(ms: number, callback?: () => void): this;
  ref(): this;
  unref(): this;
  /** Ends it at once: the peer gets a RST. */
  resetAndDestroy(): this;
  /** web-stream forms of the same connection */
  streams(): { readable: ReadableStream<Uint8Array>; writable: WritableStream<Uint8Array> };
}

export interface ListenOptions {
  /** 0 = any free one */
  port: number;
  /** one of the tunnel's addresses; default: all */
  host?: string;
  backlog?: number;
  /** of the sockets that come in, see ConnectOptions */
  allowHalfOpen?: boolean;
  /** closes the server */
  signal?: AbortSignal;
}

export interface TunnelServer extends AsyncDisposable {
  readonly port: number;
  /** No new connections; resolves at once, those that are open stay. */
  close(): Promise<void>;
}

export interface DatagramOptions {
  /** default, and 0: any free one */
  port?: number;
  host?: string;
  signal?: AbortSignal;
}

export interface DatagramSender {
  address: string;
  port: number;
  family: "IPv4" | "IPv6";
}

/** UDP through the tunnel. Events: "message" (bytes: Uint8Array, from: DatagramSender), "error" (with `code`), "close". */
export interface TunnelDatagram extends NodeJS.EventEmitter {
  readonly port: number;
  /** @param host  an address, or a name. Rejects with EMSGSIZE, EHOSTUNREACH, ENOTFOUND. */
  send(payload: Uint8Array, port: number, host: string): Promise<void>;
  close(): void;
}

/** What the proxy needs of a tunnel: class Tunnel has it, and so has the plain network in tests. */
export interface Dialer {
  connect(options: ConnectOptions): TunnelSocket;
  listen(options: ListenOptions, onSocket: (socket: TunnelSocket) => void): TunnelServer;
  datagram(options?: DatagramOptions): TunnelDatagram;
  /** Addresses of a name, by the tunnel's DNS; an address is its own. Rejects with ENOTFOUND, EAI_AGAIN (no answer). */
  resolve(name: string, options?: { family?: 4 | 6; signal?: AbortSignal }): Promise<string[]>;
}
