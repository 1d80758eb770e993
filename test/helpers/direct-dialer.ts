// A Dialer over the plain network: what the proxy is when its tunnel leads to the next room. With a table of names, and
// with a switch that makes it go away, so that the proxy can be tried without a peer.

import { type Socket as UdpSocket, createSocket } from "node:dgram";
import { lookup } from "node:dns/promises";
import { EventEmitter } from "node:events";
import { type Server, Socket, createServer, isIP } from "node:net";
import { Duplex } from "node:stream";
import type { Config } from "../../host/config.ts";
import { toDeviceChange } from "../../host/config.ts";
import type { DeviceState, PeerState } from "../../host/model.ts";
import type { ProxyTunnel } from "../../host/proxy/types.ts";
import type {
  ConnectOptions, DatagramOptions, ListenOptions, TunnelDatagram, TunnelServer, TunnelSocket,
} from "../../host/tunnel/types.ts";

export interface DirectOptions {
  /** addresses by name; what is not here goes to the system */
  names?: Record<string, string[]>;
}

export class DirectTunnel implements ProxyTunnel {
  readonly names: Record<string, string[]>;
  config: Config;
  /** how often configure() was called */
  configured = 0;
  closed = false;
  /** Unix seconds; 0 = never */
  handshake = 0;
  readonly sockets = new Set<DirectSocket>();
  readonly servers = new Set<DirectServer>();
  readonly datagrams = new Set<DirectDatagram>();
  /** addresses that answer a ping */
  readonly answering = new Set<string>();

  constructor(config: Config, { names = {} }: DirectOptions = {}) {
    this.config = config;
    this.names = names;
  }

  connect({ host, port, timeoutMs, family, allowHalfOpen, signal }: ConnectOptions): TunnelSocket {
    const socket = new DirectSocket(allowHalfOpen ?? false);
    this.sockets.add(socket);
    socket.once("close", () => this.sockets.delete(socket));
    signal?.addEventListener("abort", () => socket.destroy(coded("ABORT_ERR")));
    this.resolve(host, { family }).then(
      ([address]) => socket.dial(address, port, timeoutMs),
      (error: Error) => socket.destroy(error),
    );
    return socket;
  }

  listen({ port, host, allowHalfOpen }: ListenOptions, onSocket: (socket: TunnelSocket) => void): TunnelServer {
    const server = new DirectServer(port, host ?? "127.0.0.1", allowHalfOpen ?? false, (socket) => {
      this.sockets.add(socket);
      socket.once("close", () => this.sockets.delete(socket));
      onSocket(socket);
    });
    this.servers.add(server);
    return server;
  }

  datagram(options: DatagramOptions = {}): TunnelDatagram {
    const datagram = new DirectDatagram(options, (name) => this.resolve(name));
    this.datagrams.add(datagram);
    datagram.once("close", () => this.datagrams.delete(datagram));
    return datagram;
  }

  async resolve(name: string, { family }: { family?: 4 | 6 } = {}): Promise<string[]> {
    if (isIP(name) > 0) return [name];
    const named = this.names[name];
    if (!named && !/\.(test|invalid)$/.test(name)) {
      return (await lookup(name, { all: true, family })).map(({ address }) => address);
    }
    const found = (named ?? []).filter((address) => family === undefined || isIP(address) === family);
    if (found.length === 0) throw coded("ENOTFOUND");
    return found;
  }

  async ping(address: string): Promise<void> {
    if (!this.answering.has(address)) throw coded("ETIMEDOUT");
  }

  state(): DeviceState {
    const { privateKey = null, listenPort = 0 } = this.config.interface;
    const change = toDeviceChange(this.config, new Map());
    const peers = change.peers.map((peer): PeerState => ({
      publicKey: peer.publicKey,
      presharedKey: peer.presharedKey ?? new Uint8Array(32),
      endpoint: peer.endpoint ?? null,
      lastHandshake: { sec: this.handshake, nsec: 0 },
      txBytes: 1234n,
      rxBytes: 5678n,
      persistentKeepalive: peer.persistentKeepalive ?? 0,
      allowedIps: peer.allowedIps.map(({ ip }) => ip),
    }));
    return { privateKey, listenPort, fwmark: 0, peers };
  }

  drops(): ReadonlyMap<string, number> {
    return new Map([["badTag", 3]]);
  }

  async configure(config: Config): Promise<void> {
    this.configured++;
    this.config = config;
  }

  async close(): Promise<void> {
    this.closed = true;
    for (const socket of this.sockets) socket.destroy();
    for (const datagram of this.datagrams) datagram.close();
    await Promise.all([...this.servers].map((server) => server.close()));
  }
}

/** A net.Socket as a TunnelSocket. */
class DirectSocket extends Duplex implements TunnelSocket {
  readonly opened: Promise<void>;
  #settle!: { resolve: () => void; reject: (error: Error) => void };
  #inner: Socket;
  #connected = false;
  connecting = true;

  constructor(allowHalfOpen: boolean, inner?: Socket) {
    super({ allowHalfOpen });
    this.opened = new Promise((resolve, reject) => (this.#settle = { resolve, reject }));
    this.opened.catch(() => {});
    this.#inner = inner ?? new Socket({ allowHalfOpen: true });
    this.#inner.on("data", (chunk) => {
      if (!this.push(chunk)) this.#inner.pause();
    });
    this.#inner.on("end", () => this.push(null));
    this.#inner.on("error", (error) => this.destroy(error));
    this.#inner.on("close", () => this.destroy());
    if (inner) this.#connect();
  }

  dial(host: string, port: number, timeoutMs = 20_000): void {
    if (this.destroyed) return;
    const timer = setTimeout(() => this.destroy(coded("ETIMEDOUT")), timeoutMs);
    this.once("close", () => clearTimeout(timer));
    this.#inner.connect(port, host, () => {
      clearTimeout(timer);
      this.#connect();
    });
  }

  #connect(): void {
    this.#connected = true;
    this.connecting = false;
    this.#settle.resolve();
    this.emit("connect");
  }

  override _read(): void {
    this.#inner.resume();
  }

  override _write(chunk: Uint8Array, _: string, done: (error?: Error | null) => void): void {
    if (this.#connected) this.#inner.write(chunk, done);
    else this.opened.then(() => this.#inner.write(chunk, done), done);
  }

  override _final(done: (error?: Error | null) => void): void {
    this.opened.then(
      () => this.#inner.end(done),
      () => done(),
    );
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.connecting = false;
    this.#settle.reject(error ?? coded("ABORT_ERR"));
    this.#inner.destroy();
    done(error);
  }

  get localAddress(): string | undefined {
    return this.#inner.localAddress;
  }
  get localPort(): number | undefined {
    return this.#inner.localPort;
  }
  get remoteAddress(): string | undefined {
    return this.#inner.remoteAddress;
  }
  get remotePort(): number | undefined {
    return this.#inner.remotePort;
  }
  get remoteFamily(): "IPv4" | "IPv6" | undefined {
    return this.#inner.remoteFamily as "IPv4" | "IPv6" | undefined;
  }
  get bytesRead(): number {
    return this.#inner.bytesRead;
  }
  get bytesWritten(): number {
    return this.#inner.bytesWritten;
  }
  setNoDelay(noDelay?: boolean): this {
    this.#inner.setNoDelay(noDelay);
    return this;
  }
  setKeepAlive(enable?: boolean, initialDelayMs?: number): this {
    this.#inner.setKeepAlive(enable, initialDelayMs);
    return this;
  }
  setTimeout(ms: number, callback?: () => void): this {
    this.#inner.removeAllListeners("timeout");
    if (ms > 0) this.#inner.on("timeout", () => this.emit("timeout"));
    if (callback) this.once("timeout", callback);
    this.#inner.setTimeout(ms);
    return this;
  }
  ref(): this {
    this.#inner.ref();
    return this;
  }
  unref(): this {
    this.#inner.unref();
    return this;
  }
  resetAndDestroy(): this {
    if (this.#connected) this.#inner.resetAndDestroy();
    this.destroy();
    return this;
  }
  streams(): { readable: ReadableStream<Uint8Array>; writable: WritableStream<Uint8Array> } {
    return Duplex.toWeb(this) as { readable: ReadableStream<Uint8Array>; writable: WritableStream<Uint8Array> };
  }
}

class DirectServer implements TunnelServer {
  readonly #server: Server;
  readonly #listening: Promise<void>;

  constructor(port: number, host: string, allowHalfOpen: boolean, onSocket: (socket: DirectSocket) => void) {
    this.#server = createServer({ allowHalfOpen: true }, (inner) => onSocket(new DirectSocket(allowHalfOpen, inner)));
    this.#listening = new Promise((resolve) => this.#server.listen(port, host, resolve));
  }

  get port(): number {
    const address = this.#server.address();
    return typeof address === "object" && address !== null ? address.port : 0;
  }

  async close(): Promise<void> {
    await this.#listening;
    this.#server.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

class DirectDatagram extends EventEmitter implements TunnelDatagram {
  readonly #socket: UdpSocket = createSocket("udp4");
  readonly #bound: Promise<void>;
  readonly #resolve: (name: string) => Promise<string[]>;
  #closed = false;

  constructor({ port = 0, host = "127.0.0.1" }: DatagramOptions, resolve: (name: string) => Promise<string[]>) {
    super();
    this.#resolve = resolve;
    this.#bound = new Promise((done) => this.#socket.bind(port, host, done));
    this.#socket.on("message", (payload, { address, port, family }) =>
      this.emit("message", payload, { address, port, family }),
    );
    this.#socket.on("error", (error) => this.listenerCount("error") > 0 && this.emit("error", error));
  }

  get port(): number {
    return this.#socket.address().port;
  }

  async send(payload: Uint8Array, port: number, host: string): Promise<void> {
    const [address] = await this.#resolve(host);
    await this.#bound;
    if (this.#closed) throw coded("ERR_SOCKET_CLOSED");
    await new Promise<void>((resolve, reject) => {
      this.#socket.send(payload, port, address, (error) => (error ? reject(error) : resolve()));
    });
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    void this.#bound.then(() => this.#socket.close(() => this.emit("close")));
  }
}

function coded(code: string): Error {
  return Object.assign(new Error(code), { code });
}
