// A TCP connection of the stack as a Duplex that behaves as net.Socket does: it may be written before it stands, a slow
// reader closes the window, a slow network makes write() return false, end() is a FIN, destroy() closes, "timeout" only
// tells.
//
// Nothing is buffered here but what a Duplex holds by itself: received bytes stay in the connection until the stream
// asks for them (and so the window closes), one write at a time waits until the connection has taken it.

import { Duplex } from "node:stream";
import { clearTimeout, setTimeout } from "node:timers";
import { WasmguardError } from "../errors.ts";
import { formatIp } from "../ip.ts";
import type { TcpConnection } from "../netstack/types.ts";
import { AbortError, onAbort } from "./abort.ts";
import { toStreams } from "./streams.ts";
import type { TunnelSocket } from "./types.ts";

export interface StreamSocketOptions {
  /** a connection that stands; else dial() brings it */
  connection?: TcpConnection;
  /** false, the default as of net.Socket: our side ends when the peer's does */
  allowHalfOpen?: boolean;
  /** destroys the socket */
  signal?: AbortSignal;
}

/** bytes taken from the connection at a time */
const READ_SIZE = 64 << 10;
/** Small writes that came together are joined up to here: one segment instead of many. */
const JOIN_SIZE = 16 << 10;
/** How long a closed socket's connection may take to end by itself (tcp_fin_timeout of Linux). */
const LINGER_MS = 60_000;
/** idle time before the first probe, where setKeepAlive names none (RFC 9293 §3.8.4) */
const KEEPALIVE_MS = 7_200_000;

export class StreamSocket extends Duplex implements TunnelSocket {
  readonly opened: Promise<void>;
  #connection: TcpConnection | null = null;
  #dialing: AbortController | null = null;
  #settle: { resolve(): void; reject(error: Error): void } | undefined;
  /** what _write waits with: for the connection to stand, or to take more */
  #chunks: Uint8Array[] = [];
  #written: ((error?: Error | null) => void) | null = null;
  #finishing: ((error?: Error | null) => void) | null = null;
  #wantsData = false;
  #ended = false;
  #bytesRead = 0;
  #bytesWritten = 0;
  #noDelay: boolean | undefined;
  #keepAliveMs: number | undefined;
  #timeoutMs = 0;
  #timer: NodeJS.Timeout | undefined;
  #activeAt = 0;
  #stopListening: () => void = () => {};

  constructor(options: StreamSocketOptions = {}) {
    const { connection, allowHalfOpen = false, signal } = options;
    super({ allowHalfOpen, highWaterMark: READ_SIZE });
    this.opened = new Promise((resolve, reject) => (this.#settle = { resolve, reject }));
    this.opened.catch(() => {}); // who does not look at it hears of it by "error"
    if (connection) this.#adopt(connection);
    this.#stopListening = onAbort(
      signal,
      () => this.destroy(new AbortError(this.connecting ? "connect" : "keep the connection", signal!.reason)),
    );
  }

  /** Connects by a function that brings a connection that stands. The signal tells it that nobody waits any more. */
  dial(connect: (signal: AbortSignal) => Promise<TcpConnection>): this {
    if (this.destroyed) return this;
    this.#dialing = new AbortController();
    connect(this.#dialing.signal).then(
      (connection) => {
        this.#dialing = null;
        if (this.destroyed) return connection.abort();
        this.#adopt(connection);
        this.emit("connect");
        this.emit("ready");
      },
      (error: Error) => {
        this.#dialing = null;
        this.destroy(error);
      },
    );
    return this;
  }

  get connecting(): boolean {
    return this.#connection === null && !this.destroyed;
  }

  /** As of net.Socket: not connected yet, or no more. */
  get pending(): boolean {
    return this.#connection === null;
  }

  get readyState(): "opening" | "open" | "readOnly" | "writeOnly" | "closed" {
    if (this.connecting) return "opening";
    if (this.readable && this.writable) return "open";
    if (this.readable) return "readOnly";
    return this.writable ? "writeOnly" : "closed";
  }

  get localAddress(): string | undefined {
    return this.#connection ? formatIp(this.#connection.local.address) : undefined;
  }

  get localPort(): number | undefined {
    return this.#connection?.local.port;
  }

  get remoteAddress(): string | undefined {
    return this.#connection ? formatIp(this.#connection.remote.address) : undefined;
  }

  get remotePort(): number | undefined {
    return this.#connection?.remote.port;
  }

  get remoteFamily(): "IPv4" | "IPv6" | undefined {
    if (!this.#connection) return undefined;
    return this.#connection.remote.family === 4 ? "IPv4" : "IPv6";
  }

  get bytesRead(): number {
    return this.#bytesRead;
  }

  get bytesWritten(): number {
    return this.#bytesWritten + this.writableLength;
  }

  /** As of net.Socket; {} while there is no connection. */
  address(): { address?: string; port?: number; family?: string } {
    const { localAddress: address, localPort: port, remoteFamily: family } = this;
    return address === undefined ? {} : { address, port, family };
  }

  setNoDelay(noDelay = true): this {
    this.#noDelay = noDelay;
    this.#connection?.setNoDelay(noDelay);
    return this;
  }

  setKeepAlive(enable = false, initialDelayMs = 0): this {
    this.#keepAliveMs = enable ? initialDelayMs || KEEPALIVE_MS : 0;
    this.#connection?.setKeepAlive(this.#keepAliveMs);
    return this;
  }

  setTimeout(ms: number, callback?: () => void): this {
    if (!(ms >= 0)) throw new RangeError(`Cannot set a timeout of ${ms} ms`);
    if (callback) {
      if (ms > 0) this.once("timeout", callback);
      else this.off("timeout", callback);
    }
    this.#timeoutMs = ms;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (ms > 0 && !this.destroyed) {
      this.#activeAt = performance.now();
      this.#armTimeout(ms);
    }
    return this;
  }

  get timeout(): number {
    return this.#timeoutMs;
  }

  /** A socket of a tunnel keeps no process alive by itself: the tunnel does, until it is closed. */
  ref(): this {
    return this;
  }

  unref(): this {
    return this;
  }

  /** Closes once everything is written, as net.Socket does: http servers ask for it. */
  destroySoon(): void {
    if (this.writable) this.end();
    if (this.writableFinished) this.destroy();
    else this.once("finish", () => this.destroy());
  }

  resetAndDestroy(): this {
    this.#connection?.abort();
    this.destroy();
    return this;
  }

  streams(): { readable: ReadableStream<Uint8Array>; writable: WritableStream<Uint8Array> } {
    return toStreams(this);
  }

  #adopt(connection: TcpConnection): void {
    this.#connection = connection;
    connection.onConnected = null;
    connection.onReadable = () => this.#pull();
    connection.onWritable = () => this.#flush();
    connection.onClosed = (error) => this.#closed(error);
    if (this.#noDelay !== undefined) connection.setNoDelay(this.#noDelay);
    if (this.#keepAliveMs !== undefined) connection.setKeepAlive(this.#keepAliveMs);
    this.#settle?.resolve();
    this.#touch();
    this.#flush();
    if (this.#finishing) this.#shutdown();
    // As net.Socket: the end is noticed, and a buffer filled, even if nobody reads yet.
    this.read(0);
    this.#pull();
  }

  #touch(): void {
    if (this.#timeoutMs > 0) this.#activeAt = performance.now();
  }

  // One timer, moved when it fires: arming it again for every packet would cost more than the packet.
  #armTimeout(ms: number): void {
    this.#timer = setTimeout(() => {
      const left = this.#activeAt + this.#timeoutMs - performance.now();
      if (left > 0) return this.#armTimeout(Math.ceil(left));
      this.#activeAt = performance.now();
      this.#timer = undefined;
      this.emit("timeout");
    }, ms);
    this.#timer.unref?.();
  }

  override _read(): void {
    this.#wantsData = true;
    this.#pull();
  }

  #pull(): void {
    const connection = this.#connection;
    if (!connection || this.#ended || this.destroyed) return;
    while (this.#wantsData) {
      const bytes = connection.read(READ_SIZE);
      if (bytes === null) break;
      this.#bytesRead += bytes.length;
      this.#touch();
      if (!this.#push(bytes)) this.#wantsData = false;
    }
    if (connection.ended && connection.readable === 0 && !this.#ended) this.#end();
  }

  #push(bytes: Uint8Array): boolean {
    // Consumers of a net.Socket call Buffer's methods on what they get.
    return this.push(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length));
  }

  #end(): void {
    this.#ended = true;
    this.push(null);
    // As net.Socket: an end that nobody reads still closes our side.
    if (this.readableLength === 0) this.read(0);
  }

  override _write(chunk: Uint8Array, _: BufferEncoding, callback: (error?: Error | null) => void): void {
    this.#queue([chunk], callback);
  }

  override _writev(entries: { chunk: Uint8Array }[], callback: (error?: Error | null) => void): void {
    const chunks = entries.map((entry) => entry.chunk);
    const total = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
    this.#queue(total <= JOIN_SIZE ? [Buffer.concat(chunks, total)] : chunks, callback);
  }

  #queue(chunks: Uint8Array[], callback: (error?: Error | null) => void): void {
    this.#chunks = chunks;
    this.#written = callback;
    this.#flush();
  }

  #flush(): void {
    const connection = this.#connection;
    if (!connection || !this.#written) return;
    while (this.#chunks.length > 0) {
      const chunk = this.#chunks[0];
      const taken = chunk.length === 0 ? 0 : connection.write(chunk);
      if (this.#written === null) return; // it ended while it was written to
      if (taken > 0) this.#touch();
      this.#bytesWritten += taken;
      if (taken < chunk.length) {
        this.#chunks[0] = chunk.subarray(taken);
        return;
      }
      this.#chunks.shift();
    }
    const written = this.#written;
    this.#written = null;
    written();
  }

  override _final(callback: (error?: Error | null) => void): void {
    this.#finishing = callback;
    if (this.#connection) this.#shutdown();
  }

  #shutdown(): void {
    const finished = this.#finishing;
    this.#finishing = null;
    this.#connection!.shutdown();
    finished?.();
  }

  // Over without an error: both sides have ended. What was received and not read yet is still to be given.
  #closed(error: Error | null): void {
    if (error) {
      this.destroy(error);
      return;
    }
    const connection = this.#connection!;
    for (let bytes = connection.read(); bytes !== null && !this.destroyed; bytes = connection.read()) {
      this.#bytesRead += bytes.length;
      this.#push(bytes);
    }
    if (!this.#ended && !this.destroyed) this.#end();
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.#stopListening();
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#dialing?.abort();
    this.#settle?.reject(error ?? new WasmguardError("ABORT_ERR", "Cannot connect: the socket was closed before"));
    const written = this.#written;
    this.#chunks = [];
    this.#written = null;
    this.#finishing = null;
    if (this.#connection) release(this.#connection);
    callback(error);
    written?.(error ?? new WasmguardError("ERR_STREAM_DESTROYED", "Cannot write: the socket was closed"));
  }
}

/**
 * Gives up a connection as close(2) does: FIN behind what was written, or RST if bytes that came will not be read, or
 * come later (RFC 9293 §3.6.1, RFC 2525 §2.17).
 */
function release(connection: TcpConnection): void {
  connection.onWritable = null;
  if (connection.state === "closed" || connection.state === "timeWait") return;
  if (connection.readable > 0) {
    connection.onReadable = null;
    connection.onClosed = null;
    connection.abort();
    return;
  }
  const timer = setTimeout(() => connection.abort(), LINGER_MS);
  timer.unref?.();
  connection.onReadable = () => {
    if (connection.readable > 0) connection.abort();
  };
  connection.onClosed = () => clearTimeout(timer);
  connection.shutdown();
}
