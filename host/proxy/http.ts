// The HTTP door: CONNECT for everything that is TLS, absolute-form requests (RFC 9112 §3.2.2) for plain HTTP, with
// bodies that stream, connections that are kept, and upgrades (WebSocket). The parser is node:http's, on both sides:
// one's own would be the place for request smuggling. With CertFile and KeyFile the door itself is TLS.

import { readFileSync } from "node:fs";
import {
  Agent, type ClientRequest, type IncomingMessage, STATUS_CODES, type ServerResponse, createServer, request,
} from "node:http";
import { createServer as createTlsServer } from "node:https";
import type { Server, Socket } from "node:net";
import { type Duplex, pipeline } from "node:stream";
import type { HostPort } from "../endpoint.ts";
import { WasmguardError } from "../errors.ts";
import { formatHostPort, parseAuthority } from "./address.ts";
import { Credentials } from "./credentials.ts";
import { abortOnClose, dial } from "./dial.ts";
import { classify } from "./failure.ts";
import { forwarded, requestHeaders, toObject, toText } from "./http-headers.ts";
import { Listener } from "./listener.ts";
import type { ServiceSpec } from "./spec.ts";
import { reset, splice } from "./splice.ts";
import type { Service, ServiceContext } from "./types.ts";

type HttpSpec = Extract<ServiceSpec, { kind: "http" }>;

/** The same patience as for a SOCKS5 handshake. */
const HEADERS_TIMEOUT_MS = 30_000;
const KEEP_ALIVE_MS = 60_000;
/** Connections to servers that wait for a next request: few, and not long, for servers close theirs after 5 s or so. */
const FREE_SOCKETS_MAX = 64;
const FREE_SOCKET_MS = 4_000;
/** RFC 9110 §9.2.2: what a proxy may ask again. */
const IDEMPOTENT = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"];
/** Requests of one client that are not answered yet: nobody pipelines today, and each takes a connection of its own. */
const UNANSWERED_MAX = 16;

export class HttpProxy implements Service {
  readonly #context: ServiceContext;
  readonly #credentials: Credentials | undefined;
  readonly #agent: Agent;
  readonly #unanswered = new WeakMap<Socket, number>();
  #listener!: Listener;

  private constructor(spec: HttpSpec, context: ServiceContext) {
    this.#context = context;
    this.#credentials = spec.login && new Credentials(spec.login);
    this.#agent = new TunnelAgent(context);
  }

  static async start(spec: HttpSpec, context: ServiceContext): Promise<HttpProxy> {
    const door = new HttpProxy(spec, context);
    const { tally, maxClients } = context;
    door.#listener = await Listener.open({ bind: spec.bind, tally, maxClients, server: door.#createServer(spec) });
    return door;
  }

  get address(): string {
    return this.#listener.address;
  }

  async stop(): Promise<void> {
    const stopped = this.#listener.stop();
    this.#agent.destroy();
    await stopped;
  }

  async tunnelReplaced(): Promise<void> {
    this.#agent.destroy();
  }

  #createServer({ tls }: HttpSpec): Server {
    const headersTimeout = this.#context.handshakeMs ?? HEADERS_TIMEOUT_MS;
    const options = {
      headersTimeout,
      connectionsCheckingInterval: Math.min(Math.ceil(headersTimeout / 3), 10_000),
      requestTimeout: 0, // an upload may take as long as it does
      keepAliveTimeout: KEEP_ALIVE_MS,
      requireHostHeader: false, // the target says the host
    };
    const server = tls
      ? createTlsServer({
          ...options,
          cert: readPem("CertFile", tls.certFile),
          key: readPem("KeyFile", tls.keyFile),
          handshakeTimeout: headersTimeout,
        })
      : createServer(options);
    server.on("request", (req, res) => this.#request(req, res, false));
    server.on("checkContinue", (req, res) => this.#request(req, res, true));
    server.on("connect", (req: IncomingMessage, socket: Socket, head: Buffer) => void this.#connect(req, socket, head));
    server.on("upgrade", (req: IncomingMessage, socket: Socket, head: Buffer) => this.#upgrade(req, socket, head));
    server.on("clientError", (error: NodeJS.ErrnoException, socket: Duplex) => this.#clientError(error, socket));
    server.on("tlsClientError", () => this.#context.tally.failed("protocol"));
    return server;
  }

  async #connect(req: IncomingMessage, socket: Socket, head: Buffer): Promise<void> {
    const { tally, log, tunnel, prefer } = this.#context;
    socket.on("error", () => {});
    if (!this.#isAllowed(req)) return this.#refuse(socket, 407, "this proxy needs a login");
    let target: HostPort;
    try {
      target = parseAuthority(req.url ?? "", 443);
    } catch (error) {
      tally.failed("protocol");
      return this.#refuse(socket, 400, (error as Error).message);
    }
    let far;
    try {
      far = await dial(tunnel(), target, { prefer: prefer(), signal: abortOnClose(socket, this.#listener.signal) });
    } catch (error) {
      const { reason, httpStatus, words } = classify(error);
      tally.failed(reason);
      log.verbose(`http: CONNECT ${formatHostPort(target.host, target.port)}: ${words}`);
      return this.#refuse(socket, httpStatus, `${formatHostPort(target.host, target.port)}: ${words}`);
    }
    if (socket.destroyed) return reset(far);
    socket.write("HTTP/1.1 200 Connection established\r\n\r\n");
    await this.#splice(socket, far, head);
  }

  async #splice(near: Duplex, far: Duplex, head: Buffer): Promise<void> {
    const { tally } = this.#context;
    if (head.length > 0) {
      tally.sentBytes += head.length;
      far.write(head);
    }
    const broken = await splice(near, far, {
      onSent: (bytes) => (tally.sentBytes += bytes),
      onReceived: (bytes) => (tally.receivedBytes += bytes),
    });
    if (broken) tally.failed(classify(broken).reason);
  }

  #request(req: IncomingMessage, res: ServerResponse, expectsContinue: boolean, isRetry = false): void {
    const { tally, log } = this.#context;
    if (!isRetry && !this.#takeTurn(req, res)) return;
    res.sendDate = false; // the origin's, if any
    if (!this.#isAllowed(req)) return answer(req, res, 407, "this proxy needs a login");
    const target = parseTargetUrl(req.url ?? "", req.method ?? "");
    if (typeof target === "string") {
      tally.failed("protocol");
      return answer(req, res, 400, target);
    }
    const bodied = hasBody(req);
    const up = this.#ask(req, target, requestHeaders(req.rawHeaders, target.authority), !isRetry);
    const fail = (error: Error) => {
      // A kept connection that the server closed just now: the request may never have arrived, and is sent again.
      const code = (error as NodeJS.ErrnoException).code;
      const isStale = up.reusedSocket && (code === "ECONNRESET" || code === "EPIPE");
      const hears = !res.headersSent && !res.destroyed;
      const mayRepeat = !isRetry && !bodied && IDEMPOTENT.includes(req.method ?? "");
      if (isStale && mayRepeat && hears) return this.#request(req, res, expectsContinue, true);
      const { reason, httpStatus, words } = classify(error);
      if (!res.destroyed) {
        tally.failed(reason);
        log.verbose(`http: ${target.authority}: ${words}`);
      }
      if (res.headersSent) res.destroy();
      else answer(req, res, httpStatus, `${target.authority}: ${words}`);
    };
    up.on("error", fail);
    up.on("continue", () => res.writeContinue());
    const giveUp = () => {
      up.off("error", fail).on("error", () => {});
      up.destroy();
      fail(Object.assign(new Error("an answer that is none"), { code: "EPROTO" }));
    };
    up.on("upgrade", giveUp); // nobody asked for it
    up.on("response", (answered) => {
      try {
        res.writeHead(answered.statusCode ?? 502, answered.statusMessage, forwarded(answered.rawHeaders));
      } catch {
        // The parser takes a status of 99, and words with control characters; writeHead does not.
        answered.on("error", () => {});
        return giveUp();
      }
      answered.on("data", (chunk: Uint8Array) => (tally.receivedBytes += chunk.length));
      answered.on("error", fail);
      answered.pipe(res);
    });
    res.on("close", () => {
      if (!res.writableFinished) up.destroy();
    });
    if (!bodied) return void up.end();
    if (expectsContinue) up.flushHeaders();
    req.on("data", (chunk: Uint8Array) => (tally.sentBytes += chunk.length));
    req.pipe(up);
  }

  /** Counts a request until it is answered. @returns false when there are too many: the client is cut off */
  #takeTurn({ socket }: IncomingMessage, res: ServerResponse): boolean {
    if (socket.destroyed) return false; // and what it said in the same breath
    const count = this.#unanswered.get(socket) ?? 0;
    if (count >= UNANSWERED_MAX) {
      this.#context.tally.failed("limit");
      socket.destroy();
      return false;
    }
    this.#unanswered.set(socket, count + 1);
    res.once("close", () => this.#unanswered.set(socket, this.#unanswered.get(socket)! - 1));
    return true;
  }

  /** An absolute-form request that asks for another protocol; the server may still answer as if it had not. */
  #upgrade(req: IncomingMessage, socket: Socket, head: Buffer): void {
    const { tally, log } = this.#context;
    socket.on("error", () => {});
    if (!this.#isAllowed(req)) return this.#refuse(socket, 407, "this proxy needs a login");
    const target = parseTargetUrl(req.url ?? "", req.method ?? "");
    if (typeof target === "string" || hasBody(req)) {
      tally.failed("protocol");
      return this.#refuse(socket, 400, typeof target === "string" ? target : "an upgrade with a body is not supported");
    }
    const up = this.#ask(req, target, requestHeaders(req.rawHeaders, target.authority, { upgrade: true }), false);
    up.on("error", (error) => {
      const { reason, httpStatus, words } = classify(error);
      tally.failed(reason);
      log.verbose(`http: ${target.authority}: ${words}`);
      if (!socket.destroyed) this.#refuse(socket, httpStatus, `${target.authority}: ${words}`);
    });
    up.on("upgrade", (answered, far, farHead) => {
      writeHead(socket, answered, forwarded(answered.rawHeaders, { upgrade: true }));
      if (farHead.length > 0) socket.write(farHead);
      tally.receivedBytes += farHead.length;
      void this.#splice(socket, far, head);
    });
    up.on("response", (answered) => {
      writeHead(socket, answered, [...forwarded(answered.rawHeaders), "Connection", "close"]);
      answered.on("data", (chunk: Uint8Array) => (tally.receivedBytes += chunk.length));
      pipeline(answered, socket, () => up.destroy());
    });
    socket.once("close", () => up.destroy());
    up.end();
  }

  #ask(req: IncomingMessage, target: TargetUrl, headers: string[], reuse: boolean): ClientRequest {
    const { host, port, path } = target;
    const agent = reuse ? this.#agent : new TunnelAgent(this.#context, false);
    return request({ host, port, method: req.method, path, headers: toObject(headers), setHost: false, agent });
  }

  /** RFC 7617. */
  #isAllowed(req: IncomingMessage): boolean {
    if (this.#credentials === undefined) return true;
    const text = /^basic +([A-Za-z0-9+/=_-]+) *$/i.exec(req.headers["proxy-authorization"] ?? "")?.[1];
    const login = Buffer.from(text ?? "", "base64");
    const colon = login.indexOf(":");
    const good = colon >= 0 && this.#credentials.matches(login.subarray(0, colon), login.subarray(colon + 1));
    if (!good) this.#context.tally.failed("login");
    return good;
  }

  #clientError(error: NodeJS.ErrnoException, socket: Duplex): void {
    const isLate = error.code === "ERR_HTTP_REQUEST_TIMEOUT";
    if (error.code !== "ECONNRESET") this.#context.tally.failed(isLate ? "stalled" : "protocol");
    if (!socket.writable || error.code === "ECONNRESET") return void socket.destroy();
    this.#refuse(
      socket,
      isLate ? 408 : error.code === "HPE_HEADER_OVERFLOW" ? 431 : 400,
      "this is not an HTTP request",
    );
  }

  #refuse(socket: Duplex, status: number, words: string): void {
    const body = `wasmguard: ${words}\n`;
    const head = toText([...errorHeaders(status, body), "Connection", "close"]);
    socket.on("error", () => {});
    socket.resume();
    socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${head}\r\n${body}`, () => {
      setTimeout(() => socket.destroy(), 500).unref();
    });
  }
}

/** Connections through the tunnel, for http.request. */
class TunnelAgent extends Agent {
  readonly #context: ServiceContext;

  constructor(context: ServiceContext, keepAlive = true) {
    super({ keepAlive, maxFreeSockets: FREE_SOCKETS_MAX, timeout: FREE_SOCKET_MS });
    this.#context = context;
  }

  override createConnection(
    options: { host?: string | null; port?: string | number | null },
    callback?: (error: Error | null, stream: Duplex) => void,
  ): undefined {
    const { tunnel, prefer } = this.#context;
    dial(
      tunnel(),
      { host: String(options.host), port: Number(options.port) },
      { prefer: prefer(), allowHalfOpen: false },
    ).then(
      (socket) => callback?.(null, socket),
      (error: Error) => (callback as ((error: Error) => void) | undefined)?.(error),
    );
    return undefined;
  }
}

interface TargetUrl extends HostPort {
  /** as Host says it */
  authority: string;
  /** origin-form */
  path: string;
}

/** The target of an absolute-form request, or what is wrong with it. */
function parseTargetUrl(url: string, method: string): TargetUrl | string {
  const match = /^http:\/\/([^/?#]*)([^#]*)/i.exec(url);
  if (match === null) {
    if (/^https:/i.test(url)) return "https goes by CONNECT";
    return "this is a proxy: it takes CONNECT host:port and http://host/path";
  }
  const [, authority, rest] = match;
  try {
    const { host, port } = parseAuthority(authority, 80);
    const path = rest === "" && method === "OPTIONS" ? "*" : rest.startsWith("/") ? rest : `/${rest}`;
    return { host, port, authority, path };
  } catch (error) {
    return (error as Error).message;
  }
}

function hasBody({ headers }: IncomingMessage): boolean {
  return headers["transfer-encoding"] !== undefined || Number(headers["content-length"] ?? 0) > 0;
}

function errorHeaders(status: number, body: string): string[] {
  const challenge = status === 407 ? ["Proxy-Authenticate", 'Basic realm="wasmguard", charset="UTF-8"'] : [];
  return [...challenge, "Content-Type", "text/plain; charset=utf-8", "Content-Length", String(Buffer.byteLength(body))];
}

/** A word of our own to a request; its body, if any, is not read. */
function answer(req: IncomingMessage, res: ServerResponse, status: number, words: string): void {
  if (res.destroyed || res.headersSent) return;
  const body = `wasmguard: ${words}\n`;
  const close = hasBody(req) ? ["Connection", "close"] : [];
  res.writeHead(status, STATUS_CODES[status], [...errorHeaders(status, body), ...close]);
  res.end(body);
}

function writeHead(socket: Duplex, { statusCode, statusMessage }: IncomingMessage, headers: string[]): void {
  socket.write(`HTTP/1.1 ${statusCode} ${statusMessage}\r\n${toText(headers)}\r\n`);
}

function readPem(key: string, path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new WasmguardError((error as NodeJS.ErrnoException).code ?? "EIO", `Cannot read ${key} ${path}`, {
      cause: error,
    });
  }
}
