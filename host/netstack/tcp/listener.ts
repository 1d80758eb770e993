// A listening port: LISTEN of RFC 9293 §3.3.2, and its half-open connections. They are bounded: when there are as many
// as the backlog the oldest gives way to the newest. That serves a tunnel, whose peers are all authenticated; rejected:
// SYN cookies, which would cost every connection its options (RFC 4987 §3.6) to save some from a flood by a known peer.

import type { SocketAddress, TcpConnection, TcpListener } from "../types.ts";
import type { Connection } from "./connection.ts";

export class Listener implements TcpListener {
  readonly local: SocketAddress;
  /** null = all of ours */
  readonly address: Uint8Array | null;
  onConnection: ((connection: TcpConnection) => void) | null = null;
  isClosed = false;
  /** the oldest first */
  private readonly halfOpen = new Set<Connection>();
  private readonly backlog: number;
  private readonly closed: (listener: Listener) => void;

  constructor(
    local: SocketAddress,
    address: Uint8Array | null,
    backlog: number,
    closed: (listener: Listener) => void,
  ) {
    this.local = local;
    this.address = address;
    this.backlog = backlog;
    this.closed = closed;
  }

  /** @returns the half-open connection that has to go, or null */
  begin(connection: Connection): Connection | null {
    this.halfOpen.add(connection);
    if (this.halfOpen.size <= this.backlog) return null;
    const [oldest] = this.halfOpen;
    this.halfOpen.delete(oldest);
    return oldest;
  }

  /** Call when a half-open connection is open, or gone. */
  end(connection: Connection): void {
    this.halfOpen.delete(connection);
  }

  /** Hands over a connection that is open. @returns false if there is nobody to take it */
  accept(connection: Connection): boolean {
    if (this.isClosed || this.onConnection === null) return false;
    this.onConnection(connection);
    return true;
  }

  /** Those that are half-open are told with an RST: nobody will ever take them. */
  close(): void {
    if (this.isClosed) return;
    this.isClosed = true;
    this.closed(this);
    for (const connection of [...this.halfOpen]) connection.abort();
    this.halfOpen.clear();
  }
}
