// A relay: WebSocket clients on one side (transport/websocket.ts), UDP on the other, for WireGuard and nothing else.
// GET /udp/HOST:PORT with an upgrade opens one UDP socket to one allowed address; each binary message is a datagram.
//
// It is admission that keeps it from being an open reflector: the token first (so that a stranger learns nothing of the
// list), then the page's origin, then room, then the list of endpoints. The same questions without an upgrade get the
// same answers, and 426 at the end: that is how a page learns why. A relay holds no key and cannot read what passes.

import { createHash, timingSafeEqual } from "node:crypto";
import type { Socket as UdpSocket } from "node:dgram";
import { createServer, type IncomingMessage, type Server, type ServerResponse, STATUS_CODES } from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import { type ServerOptions, WebSocketServer } from "ws";
import { formatEndpoint } from "../endpoint.ts";
import { quote, WasmguardError } from "../errors.ts";
import { parseIp } from "../ip.ts";
import { type Logger, silentLogger } from "../log.ts";
import { AllowList, type Resolve } from "./relay-allow.ts";
import { CLOSE_GOING_AWAY, CLOSE_NORMAL, connectUdp, RelayClient } from "./relay-client.ts";
import { base64url, offeredToken, RELAY_PROTOCOL, requestedEndpoint } from "./relay-request.ts";

export interface RelayOptions {
  /** "IP:PORT", "IP/CIDR:PORT", "NAME:PORT": see AllowList */
  allow: string[];
  /** clients must show it; default: none needed */
  token?: string;
  /**
   * Pages that may use it: "https://lab.example", "null" for a page opened as a file, "*" for all. Default: no page,
   * or, with a token, any. Clients that are no browsers send no origin, and so are never refused for it.
   */
  origins?: string[];
  /** default 256 */
  maxClients?: number;
  /** default: no limit */
  bytesPerSecond?: number;
  /** a client without a datagram either way for so long is closed; default 180,000, as NATs do */
  idleMs?: number;
  /** between pings; a client that has not answered by the next one is dropped; default 30,000 */
  pingMs?: number;
  tls?: { cert: string | Buffer; key: string | Buffer };
  log?: Logger;
  resolve?: Resolve;
}

const MAX_CLIENTS = 256;
const IDLE_MS = 180_000;
const PING_MS = 30_000;
/** What a WebSocket message may have: more than any datagram. */
const MESSAGE_MAX_LEN = 65536;
/** A request and nothing but one, from somebody slow. */
const REQUEST_TIMEOUT_MS = 10_000;
/** TCP connections beside those of clients. */
const SPARE_CONNECTIONS = 64;
const CLOSE_GRACE_MS = 1_000;

/** The answer to a request that is not carried on as a WebSocket. */
interface Refusal {
  status: number;
  text: string;
}

/** What a request led to. */
type Admission = Refusal | { udp: UdpSocket; endpoint: string };

export class Relay {
  readonly #options: RelayOptions;
  readonly #allow: AllowList;
  readonly #tokenDigest: Buffer | null;
  readonly #log: Logger;
  readonly #server: Server;
  readonly #webSockets: WebSocketServer;
  readonly #clients = new Set<RelayClient>();
  #pending = 0;
  #made = 0;
  #sweeper: ReturnType<typeof setInterval> | undefined;
  #closing: Promise<void> | null = null;
  #onEmpty: (() => void) | null = null;

  /** @throws RangeError for a rule, a token or a limit that cannot be */
  constructor(options: RelayOptions) {
    this.#options = options;
    this.#allow = new AllowList(options.allow, options.resolve);
    const { token, tls, maxClients = MAX_CLIENTS } = options;
    if (token === "") throw new RangeError("Cannot relay with an empty token");
    this.#tokenDigest = token === undefined ? null : digest(base64url(token));
    this.#log = options.log ?? silentLogger;
    this.#server = tls ? createTlsServer({ ...tls, minVersion: "TLSv1.2" }) : createServer();
    this.#server.headersTimeout = REQUEST_TIMEOUT_MS;
    this.#server.requestTimeout = REQUEST_TIMEOUT_MS;
    this.#server.maxConnections = maxClients + SPARE_CONNECTIONS;
    this.#server.on("request", (request, response) => void this.#answer(request, response));
    this.#server.on("upgrade", (request, socket, head) => void this.#upgrade(request, socket, head));
    // Half-read requests, foreign protocols, failed TLS: nothing to say, and nothing to keep.
    this.#server.on("clientError", (_, socket) => socket.destroy());
    // Its types do not know closeTimeout yet.
    const settings: ServerOptions & { closeTimeout: number } = {
      noServer: true,
      clientTracking: false,
      closeTimeout: CLOSE_GRACE_MS,
      maxPayload: MESSAGE_MAX_LEN,
      perMessageDeflate: false, // ciphertext does not shrink
      handleProtocols: (offered) => (offered.has(RELAY_PROTOCOL) ? RELAY_PROTOCOL : false),
    };
    this.#webSockets = new WebSocketServer(settings);
  }

  /** @throws WasmguardError with the system's code: EADDRINUSE, EACCES, EADDRNOTAVAIL */
  async listen(port: number, host: string): Promise<{ address: string; port: number }> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once("error", (error: NodeJS.ErrnoException) => {
        const { code = "EIO", errno, syscall } = error;
        const details = { errno, syscall, cause: error };
        reject(new WasmguardError(code, `Cannot listen at ${host} port ${port}: ${code}`, details));
      });
      this.#server.listen({ port, host }, () => resolve());
    });
    this.#server.removeAllListeners("error");
    this.#server.on("error", (error) => this.#log.error(`Cannot accept a connection: ${error.message}`));
    const { address, port: bound } = this.#server.address() as AddressInfo;
    return { address, port: bound };
  }

  /** Clients that are connected now. */
  get clientCount(): number {
    return this.#clients.size;
  }

  /** Tells every client to go, and resolves when none and nothing is left. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    clearInterval(this.#sweeper);
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeIdleConnections?.();
    for (const client of this.#clients) client.close(CLOSE_GOING_AWAY, "the relay stops");
    const grace = setTimeout(() => {
      for (const client of this.#clients) client.terminate("the relay stops");
      this.#server.closeAllConnections?.();
    }, CLOSE_GRACE_MS);
    await closed;
    if (this.#clients.size > 0) await new Promise<void>((resolve) => (this.#onEmpty = resolve));
    clearTimeout(grace);
  }

  /** Plain HTTP: the health door, and why an upgrade would be refused. */
  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { status, text } = await this.#plainAnswer(request);
    const headers: Record<string, string> = { "content-type": "text/plain", connection: "close", vary: "origin" };
    const { origin } = request.headers;
    if (origin !== undefined && this.#isOriginAllowed(origin)) {
      headers["access-control-allow-origin"] = origin;
      headers["access-control-allow-headers"] = "authorization";
    }
    if (status === 426) Object.assign(headers, { upgrade: "websocket", connection: "upgrade, close" });
    if (status === 401) headers["www-authenticate"] = "Bearer";
    response.writeHead(status, headers).end(status === 204 ? undefined : `${text}\n`);
  }

  async #plainAnswer(request: IncomingMessage): Promise<Refusal> {
    const path = request.url ?? "/";
    if (path === "/readyz") return this.#closing ? refusal(503, "stopping") : refusal(200, "ready");
    if (request.method === "OPTIONS") return refusal(204, "");
    if (request.method !== "GET" && request.method !== "HEAD") return refusal(405, "GET only");
    const upgrade = refusal(426, `open a WebSocket of the protocol ${RELAY_PROTOCOL} at /udp/HOST:PORT`);
    if (requestedEndpoint(path) === null) return upgrade;
    const admission = await this.#admit(request);
    if ("status" in admission) return admission;
    admission.udp.close();
    return upgrade;
  }

  async #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> {
    let gone = false;
    const onGone = (): void => void (gone = true);
    socket.on("error", onGone).on("close", onGone);
    this.#pending++;
    const admission = await this.#admit(request, 1);
    this.#pending--;
    socket.off("error", onGone).off("close", onGone);
    const from = clientAddress(request);
    if ("status" in admission) {
      this.#log.verbose(`Refused ${from}: ${admission.status} ${admission.text}`);
      return refuse(socket, admission);
    }
    if (gone || this.#closing) {
      admission.udp.close();
      return void socket.destroy();
    }
    let opened = false;
    socket.once("close", () => opened || admission.udp.close());
    this.#webSockets.handleUpgrade(request, socket, head, (webSocket) => {
      opened = true;
      const { bytesPerSecond = Infinity } = this.#options;
      const client = new RelayClient(webSocket, socket, admission.udp, { bytesPerSecond });
      this.#add(client, `${from} to ${admission.endpoint}`);
    });
  }

  /** @param own  how many of the pending requests are this one */
  async #admit(request: IncomingMessage, own = 0): Promise<Admission> {
    if (!this.#isTokenRight(request)) return refusal(401, "no token, or a wrong one");
    const { origin } = request.headers;
    if (origin !== undefined && !this.#isOriginAllowed(origin)) {
      return refusal(403, `origin ${quote(origin)} is not allowed`);
    }
    const asked = requestedEndpoint(request.url ?? "/");
    if (asked === null) return refusal(404, "no endpoint: ask for /udp/HOST:PORT");
    const { maxClients = MAX_CLIENTS } = this.#options;
    if (this.#closing) return refusal(503, "stopping");
    if (this.#clients.size + this.#pending - own >= maxClients) return refusal(503, "no room for another client");
    try {
      const { addresses, port } = await this.#allow.find(asked);
      if (addresses.length === 0) return refusal(403, `endpoint ${quote(asked)} is not allowed`);
      const udp = await connectUdp(addresses, port);
      const remote = udp.remoteAddress();
      return { udp, endpoint: formatEndpoint({ ...parseIp(remote.address), port: remote.port, scope: 0 }) };
    } catch (error) {
      return refusal(502, `endpoint ${quote(asked)}: ${(error as NodeJS.ErrnoException).code ?? "no way there"}`);
    }
  }

  #isTokenRight(request: IncomingMessage): boolean {
    if (this.#tokenDigest === null) return true;
    const bearer = /^Bearer +(\S.*)$/i.exec(request.headers.authorization ?? "")?.[1];
    const offered = bearer === undefined ? offeredToken(request.headers["sec-websocket-protocol"]) : base64url(bearer);
    // Digests are of one length, and comparing them tells nothing of the token.
    return timingSafeEqual(digest(offered ?? ""), this.#tokenDigest);
  }

  #isOriginAllowed(origin: string): boolean {
    const { origins } = this.#options;
    if (origins === undefined) return this.#tokenDigest !== null;
    return origins.includes("*") || origins.includes(origin);
  }

  #add(client: RelayClient, title: string): void {
    const { idleMs = IDLE_MS, pingMs = PING_MS } = this.#options;
    const name = `client ${++this.#made}`;
    this.#log.verbose(`${name}: ${title}`);
    this.#clients.add(client);
    this.#sweeper ??= setInterval(() => this.#sweep(idleMs), Math.min(pingMs, idleMs));
    client.onClosed = (reason) => {
      this.#clients.delete(client);
      if (this.#clients.size === 0) {
        clearInterval(this.#sweeper);
        this.#sweeper = undefined;
        this.#onEmpty?.();
      }
      this.#log.verbose(`${name}: ${reason}; ${summary(client)}`);
    };
  }

  /** Closes the idle and the dead, and asks the others for a sign of life. */
  #sweep(idleMs: number): void {
    const now = performance.now();
    for (const client of this.#clients) {
      if (client.isClosing) client.terminate("no answer to a close");
      else if (!client.alive) client.terminate("no answer to a ping");
      else if (now - client.lastPassed >= idleMs) client.close(CLOSE_NORMAL, "idle");
      else client.ping();
    }
  }
}

const refusal = (status: number, text: string): Refusal => ({ status, text });

function refuse(socket: Duplex, { status, text }: Refusal): void {
  const body = `${text}\n`;
  socket.on("error", () => {});
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nConnection: close\r\nContent-Type: text/plain\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
    () => socket.destroy(),
  );
}

function digest(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}

function clientAddress({ socket }: IncomingMessage): string {
  const { remoteAddress = "", remotePort = 0 } = socket;
  return remoteAddress.includes(":") ? `[${remoteAddress}]:${remotePort}` : `${remoteAddress}:${remotePort}`;
}

function summary({ sent, received, drops }: RelayClient): string {
  const dropped = [...drops].map(([why, count]) => `${count} ${why}`).join(", ");
  return `${sent.count} datagrams (${sent.bytes} bytes) out, ${received.count} (${received.bytes} bytes) in` +
    (dropped && `, dropped: ${dropped}`);
}
