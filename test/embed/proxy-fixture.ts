// A proxy with something to reach: its tunnel leads to a far side where servers listen. Over the plain network the far
// side is loopback; through real tunnels it is another Tunnel, and nothing of it can be reached in another way.

import assert from "node:assert";
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer as createHttpServer, type RequestListener, type Server as HttpServer } from "node:http";
import { type Socket, connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Config } from "../../host/config.ts";
import { silentLogger, type Logger } from "../../host/log.ts";
import { Proxy, type ProxyOptions } from "../../host/proxy/proxy.ts";
import { type ServiceKind, parseService } from "../../host/proxy/spec.ts";
import type { Dialer, TunnelSocket } from "../../host/tunnel/types.ts";
import { DirectTunnel } from "../helpers/direct-dialer.ts";

export const PRIVATE = Buffer.alloc(32, 0x51).toString("base64");
export const PEER = Buffer.alloc(32, 0xaa).toString("base64");
export const PEER_B = Buffer.alloc(32, 0xbb).toString("base64");

/** A file whose tunnel is the plain network. */
export const PLAIN_CONF = `[Interface]
PrivateKey = ${PRIVATE}
Address = 10.7.0.1/32

[Peer]
PublicKey = ${PEER}
AllowedIPs = 0.0.0.0/0
`;

/** What is on the far side, and the proxies that lead there; closed with everything in it. */
export class World {
  readonly folder = mkdtempSync(join(tmpdir(), "wasmguard-proxy-"));
  readonly closers: (() => unknown)[] = [];
  /** of the proxies, in the order of their opening */
  readonly tunnels: DirectTunnel[] = [];
  readonly variables: Record<string, string> = {};
  names: Record<string, string[]> = {};
  #files = 0;

  /** Dialer of the far side: servers listen in it */
  readonly far: Dialer = new DirectTunnel(emptyConfig());
  /** address of the far side */
  readonly host: string = "127.0.0.1";

  file(text: string, name = `tunnel${this.#files++}.conf`): string {
    const path = join(this.folder, name);
    writeFileSync(path, text);
    return path;
  }

  /** What the proxy of this world opens for a file. */
  async openTunnel(config: Config): Promise<DirectTunnel> {
    const tunnel = new DirectTunnel(config, { names: this.names });
    this.tunnels.push(tunnel);
    return tunnel;
  }

  /** Connections through the tunnels of the proxies that are open now. */
  open(): number {
    return this.tunnels.reduce((sum, { sockets }) => sum + sockets.size, 0);
  }

  /** The proxy's address as the far side sees it. */
  near(): string {
    return "127.0.0.1";
  }

  /** Text of a file that leads to the far side. */
  conf(): string {
    return PLAIN_CONF;
  }

  /** @param services  [kind, value of the option] */
  async proxy(
    services: [ServiceKind, string][],
    {
      conf = this.conf(),
      path = this.file(conf),
      ...more
    }: Partial<ProxyOptions> & { conf?: string; path?: string } = {},
  ): Promise<RunningProxy> {
    const sources = [{ path, services: services.map(([kind, text]) => parseService(kind, text)) }];
    return this.start({ sources, ...more }, path);
  }

  async start(options: Partial<ProxyOptions> & Pick<ProxyOptions, "sources">, path = ""): Promise<RunningProxy> {
    const proxy = await Proxy.start({
      openTunnel: (config) => this.openTunnel(config),
      access: systemFiles(this.variables),
      log: silentLogger,
      maxClients: 100,
      ...options,
    });
    this.closers.unshift(() => proxy.stop());
    return new RunningProxy(proxy, path);
  }

  /** A TCP server on the far side. @returns its port */
  async serve(onSocket: (socket: TunnelSocket) => void): Promise<number> {
    const sockets = new Set<TunnelSocket>();
    const server = this.far.listen({ port: 0, allowHalfOpen: true }, (socket) => {
      sockets.add(socket);
      socket.on("error", () => {});
      socket.once("close", () => sockets.delete(socket));
      onSocket(socket);
    });
    this.closers.push(async () => {
      for (const socket of sockets) socket.destroy();
      await server.close();
    });
    return waitFor("a port of the far side", () => server.port);
  }

  /** Echoes, and ends when its client ends. */
  echo(): Promise<number> {
    return this.serve((socket) => void socket.pipe(socket));
  }

  async http(listener: RequestListener): Promise<{ port: number; server: HttpServer }> {
    const server = createHttpServer(listener);
    const port = await this.serve((socket) => void server.emit("connection", socket));
    return { port, server };
  }

  /** UDP on the far side: answers each datagram by "echo " and itself. */
  async udpEcho(port = 0): Promise<number> {
    const datagram = this.far.datagram(port === 0 ? {} : { port });
    datagram.on("message", (payload: Uint8Array, from: { address: string; port: number }) => {
      const answer = Buffer.concat([Buffer.from("echo "), payload]);
      datagram.send(answer, from.port, from.address).catch(() => {});
    });
    this.closers.push(() => datagram.close());
    return waitFor("a UDP port of the far side", () => {
      try {
        return datagram.port;
      } catch {
        return 0; // not bound yet
      }
    });
  }

  async close(): Promise<void> {
    for (const closer of this.closers) await closer();
    await (this.far as DirectTunnel).close();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

export class RunningProxy {
  readonly proxy: Proxy;
  readonly path: string;

  constructor(proxy: Proxy, path: string) {
    this.proxy = proxy;
    this.path = path;
  }

  /** "127.0.0.1:40000" of the first service of a kind. */
  at(kind: string): string {
    const found = this.proxy.addresses.find((each) => each.kind === kind);
    assert.notEqual(found, undefined, `no ${kind}`);
    return found!.address;
  }

  port(kind: string): number {
    return Number(this.at(kind).split(":").at(-1));
  }

  /** Value of a metric, summed over its labels. */
  metric(name: string, labels: Record<string, string> = {}): number {
    const family = this.proxy.metrics().find((each) => each.name === name);
    const samples = family?.samples.filter((sample) =>
      Object.entries(labels).every(([key, value]) => sample.labels[key] === value),
    );
    return (samples ?? []).reduce((sum, { value }) => sum + Number(value), 0);
  }
}

export function systemFiles(variables: Record<string, string> = {}): ProxyOptions["access"] {
  return { read: (path) => readFileSync(path, "utf8"), variable: (name) => variables[name] };
}

/** A logger that remembers. */
export function memoryLogger(): Logger & { lines: string[] } {
  const lines: string[] = [];
  return { lines, verbose: (text) => void lines.push(text), error: (text) => void lines.push(text) };
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Waits until `probe` says something true. */
export async function waitFor<T>(what: string, probe: () => T | Promise<T>, timeoutMs = 8000): Promise<NonNullable<T>> {
  for (const end = Date.now() + timeoutMs; ; await sleep(10)) {
    const value = await probe();
    if (value) return value;
    if (Date.now() > end) throw new Error(`waited ${timeoutMs} ms in vain: ${what}`);
  }
}

export interface CurlResult {
  code: number;
  out: string;
  err: string;
}

export function curl(...args: string[]): Promise<CurlResult> {
  const env = { PATH: process.env.PATH ?? "" };
  return new Promise((resolve) => {
    const options = { env, maxBuffer: 1 << 26, timeout: 20_000 };
    execFile("curl", ["-sS", "-m", "15", ...args], options, (error, out, err) => {
      resolve({ code: error === null ? 0 : typeof error.code === "number" ? error.code : -1, out, err });
    });
  });
}

/** A raw client of a proxy: writes bytes, reads exactly so many. */
export class Raw {
  readonly socket: Socket;
  #received = Buffer.alloc(0);
  ended = false;
  closed = false;

  constructor(port: number, host = "127.0.0.1") {
    this.socket = connect({ port, host, allowHalfOpen: true });
    this.socket.on("data", (chunk) => (this.#received = Buffer.concat([this.#received, chunk])));
    this.socket.on("end", () => (this.ended = true));
    this.socket.on("close", () => (this.closed = true));
    this.socket.on("error", () => {});
  }

  send(...parts: (string | number[] | Uint8Array)[]): void {
    this.socket.write(Buffer.concat(parts.map((part) => Buffer.from(part as string))));
  }

  async read(length: number): Promise<Buffer> {
    await waitFor(`${length} bytes (there are ${this.#received.length})`, () => this.#received.length >= length);
    const bytes = this.#received.subarray(0, length);
    this.#received = this.#received.subarray(length);
    return bytes;
  }

  async readUntil(text: string): Promise<string> {
    await waitFor(JSON.stringify(text), () => this.#received.includes(text));
    return (await this.read(this.#received.indexOf(text) + text.length)).toString();
  }

  /** Everything until the end. */
  async rest(): Promise<Buffer> {
    await waitFor("the end", () => this.over);
    return this.#received;
  }

  /** The other side has ended it, by whatever means. */
  get over(): boolean {
    return this.ended || this.closed;
  }

  close(): void {
    this.socket.destroy();
  }
}

function emptyConfig(): Config {
  const lists = { addresses: [], dns: [], searchDomains: [], preUp: [], postUp: [], preDown: [], postDown: [] };
  return { interface: { ...lists, saveConfig: false }, peers: [] };
}
