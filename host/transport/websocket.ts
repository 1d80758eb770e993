// Datagrams in WebSocket messages, through a relay that has UDP (transport/relay.ts): for pages, and for networks that
// let only HTTPS out. Each endpoint has a WebSocket of its own, so that the relay can pin one UDP socket to one address
// and nobody needs a header around the datagram.
//
// It behaves as UDP does: opened by the first datagram, opened again by the next one after it broke, and a datagram
// that cannot go is dropped and counted. There is no timer at all: WireGuard's own retries (§6.4, each 5 s) are the
// clock of the backoff. While a WebSocket opens, the oldest datagrams give way, because a newer handshake message is
// worth more; while an open one is too slow, the newest, as in any full buffer.
//
// Runs in a page as it is: the engine's own WebSocket where there is one, the package "ws" on Node 20.

import { formatEndpoint, type Endpoint } from "../endpoint.ts";
import { quote, WasmguardError } from "../errors.ts";
import { endpointPath, offeredProtocols } from "./relay-request.ts";
import type { Transport, TransportSocket } from "./types.ts";

export interface WebSocketTransportOptions {
  /** of the relay: "wss://relay.example", perhaps with a path before the /udp/HOST:PORT that is added here */
  relay: string | URL;
  /** what the relay wants to see, if anything; sent as a subprotocol, so use it with wss: only */
  token?: string;
}

/** Datagrams kept while a WebSocket opens. */
const QUEUE_COUNT = 64;
/** Bytes that an open WebSocket may have taken and not sent. */
const BUFFERED_MAX_LEN = 1 << 20;
/** What UDP carries at most, and the relay takes. */
const DATAGRAM_MAX_LEN = 65507;
const CONNECT_TIMEOUT_MS = 10_000;
const BACKOFF_MIN_MS = 250;
/** Below WireGuard's REKEY_TIMEOUT, so that each of its retries finds us ready to try. */
const BACKOFF_MAX_MS = 4_000;
/** WebSockets at once; the one used longest ago gives way. */
const CHANNELS_MAX = 256;

/** What we use of a WebSocket, the same in pages, Deno, Node and "ws". */
interface Wire {
  readonly readyState: number;
  readonly bufferedAmount: number;
  binaryType: string;
  onopen: ((event: never) => void) | null;
  onmessage: ((event: { data: unknown }) => void) | null;
  onclose: ((event: { code: number }) => void) | null;
  onerror: ((event: never) => void) | null;
  send(data: Uint8Array<ArrayBuffer>): void;
  close(code?: number): void;
}
type WireClass = new (url: string, protocols: string[], ...more: object[]) => Wire;

/** Of the package "ws": a relay that hangs keeps no process alive for long. */
const PACKAGE_OPTIONS = { perMessageDeflate: false, closeTimeout: 1_000 };

const CONNECTING = 0;
const OPEN = 1;

export class WebSocketTransport implements Transport {
  /** without a slash at its end */
  readonly #base: string;
  readonly #host: string;
  readonly #token: string | undefined;
  readonly #names = new Map<string, string>();

  /** @throws RangeError when `relay` is no URL of a relay, or the token is empty */
  constructor({ relay, token }: WebSocketTransportOptions) {
    const url = relayUrl(relay);
    this.#base = url.href.replace(/\/+$/, "");
    this.#host = url.host;
    if (token === "") throw new RangeError("Cannot use an empty token");
    this.#token = token;
  }

  /**
   * An endpoint that stands for a name, which the relay resolves: a page has no resolver of its own. The address is of
   * 100::/64, which RFC 6666 keeps free for discarding, so it is nobody's.
   */
  named(host: string, port: number): Endpoint {
    const asked = `${host}:${port}`;
    if (!/^[A-Za-z0-9._-]{1,253}$/.test(host)) throw new RangeError(`${quote(host)} is no host name`);
    if (!Number.isInteger(port) || port < 1 || port > 65535) throw new RangeError(`port ${port} is not in 1..65535`);
    let index = [...this.#names.values()].indexOf(asked);
    if (index < 0) index = this.#names.size;
    const address = new Uint8Array(16);
    new DataView(address.buffer).setUint16(0, 0x0100);
    new DataView(address.buffer).setUint32(12, index + 1);
    const endpoint: Endpoint = { family: 6, address, port, scope: 0 };
    this.#names.set(formatEndpoint(endpoint), asked);
    return endpoint;
  }

  /** Nothing is opened yet: a relay that is away is found out by the first datagrams, as with UDP. */
  async bind(port: number): Promise<TransportSocket> {
    const global = (globalThis as { WebSocket?: WireClass }).WebSocket;
    const WebSocket = global ?? ((await import("ws")).WebSocket as unknown as WireClass);
    const more = global ? [] : [PACKAGE_OPTIONS];
    return new WebSocketSocket(port, (endpoint) => {
      const wire = new WebSocket(this.#url(endpoint), offeredProtocols(this.#token), ...more);
      wire.binaryType = "arraybuffer";
      return wire;
    });
  }

  /**
   * Asks the relay over HTTP whether it would carry datagrams to `endpoint`: a WebSocket that is refused does not tell
   * why. From a page this needs the page's origin to be one of the relay's.
   * @throws WasmguardError EACCES (its token or its allow-list), EAGAIN (it is full), EPROTO (no relay), ECONNREFUSED
   */
  async check(endpoint: Endpoint, signal?: AbortSignal): Promise<void> {
    const url = this.#url(endpoint).replace(/^ws/, "http");
    const headers: Record<string, string> = this.#token === undefined ? {} : { authorization: `Bearer ${this.#token}` };
    const where = `relay ${this.#host}`;
    let response: Response;
    try {
      response = await fetch(url, { headers, signal, redirect: "error" });
      await response.body?.cancel();
    } catch (error) {
      signal?.throwIfAborted();
      throw new WasmguardError("ECONNREFUSED", `Cannot reach ${where}`, { cause: error });
    }
    const { status } = response;
    if (status === 426) return;
    const wanted = this.#names.get(formatEndpoint(endpoint)) ?? formatEndpoint(endpoint);
    if (status === 401) throw new WasmguardError("EACCES", `The ${where} does not take our token`);
    if (status === 403) throw new WasmguardError("EACCES", `The ${where} does not allow ${wanted}, or not this origin`);
    if (status === 503) throw new WasmguardError("EAGAIN", `The ${where} has no room for another client now`);
    throw new WasmguardError("EPROTO", `Not a relay: ${this.#host} answered with status ${status}`);
  }

  #url(endpoint: Endpoint): string {
    const text = formatEndpoint(endpoint);
    return this.#base + endpointPath(this.#names.get(text) ?? text);
  }
}

/** The URL with ws: or wss:. @throws RangeError */
function relayUrl(relay: string | URL): URL {
  let url: URL;
  try {
    url = new URL(relay);
  } catch {
    throw new RangeError(`Cannot use relay ${quote(String(relay))}: it is no URL`);
  }
  const refuse = (why: string): never => {
    throw new RangeError(`Cannot use relay ${quote(`${url.protocol}//${url.host}`)}: ${why}`);
  };
  if (!/^(?:ws|http)s?:$/.test(url.protocol)) refuse("it must begin with wss:// or ws://");
  if (url.username || url.password) refuse("give a secret as the token, not in the URL");
  if (url.search || url.hash) refuse("it can have a path, but no ? or #");
  return new URL(url.href.replace(/^http/, "ws"));
}

class WebSocketSocket implements TransportSocket {
  readonly port: number;
  onDatagram: TransportSocket["onDatagram"] = null;
  onError: TransportSocket["onError"] = null;
  readonly #open: (endpoint: Endpoint) => Wire;
  readonly #channels = new Map<string, Channel>();
  #last: Channel | null = null;
  #closed = false;

  constructor(port: number, open: (endpoint: Endpoint) => Wire) {
    this.port = port;
    this.#open = open;
  }

  send(datagram: Uint8Array, to: Endpoint): void {
    if (this.#closed) return this.#fail("EBADF");
    if (datagram.length > DATAGRAM_MAX_LEN) return this.#fail("EMSGSIZE");
    // A zone is a matter of this machine; the relay has interfaces of its own.
    if (to.scope !== 0) return this.#fail("EADDRNOTAVAIL");
    if (!this.#last || !isSame(this.#last.endpoint, to)) this.#last = this.#channel(to);
    this.#last.send(datagram);
  }

  close(): void {
    this.#closed = true;
    for (const channel of this.#channels.values()) channel.close();
    this.#channels.clear();
    this.#last = null;
  }

  #channel(to: Endpoint): Channel {
    const key = formatEndpoint(to);
    let channel = this.#channels.get(key);
    if (channel) this.#channels.delete(key);
    else if (this.#channels.size === CHANNELS_MAX) {
      const [[oldest, unused]] = this.#channels;
      unused.close();
      this.#channels.delete(oldest);
    }
    channel ??= new Channel({ ...to, address: to.address.slice() }, this.#open, {
      datagram: (bytes, from) => this.onDatagram?.(bytes, from),
      error: (code) => this.#fail(code),
    });
    this.#channels.set(key, channel); // the newest stands last
    return channel;
  }

  #fail(code: string): void {
    this.onError?.(code);
  }
}

interface ChannelEvents {
  datagram(bytes: Uint8Array, from: Endpoint): void;
  /** one datagram is lost */
  error(code: string): void;
}

/** One endpoint and its WebSocket, if it has one just now. */
class Channel {
  readonly endpoint: Endpoint;
  readonly #open: (endpoint: Endpoint) => Wire;
  readonly #events: ChannelEvents;
  readonly #queue: Uint8Array<ArrayBuffer>[] = [];
  #wire: Wire | null = null;
  /** milliseconds of performance.now() */
  #triedAt = 0;
  /** how long to stay away after #triedAt; 0 while all is well */
  #backoff = 0;

  constructor(endpoint: Endpoint, open: (endpoint: Endpoint) => Wire, events: ChannelEvents) {
    this.endpoint = endpoint;
    this.#open = open;
    this.#events = events;
  }

  send(datagram: Uint8Array): void {
    const now = performance.now();
    if (this.#wire?.readyState === CONNECTING && now - this.#triedAt > CONNECT_TIMEOUT_MS) this.#lose("ETIMEDOUT");
    const state = this.#wire?.readyState;
    if (state === OPEN) return this.#write(datagram);
    if (state !== CONNECTING) {
      if (this.#backoff > 0 && now - this.#triedAt < this.#backoff) return this.#events.error("ECONNREFUSED");
      if (!this.#connect(now)) return this.#events.error("EPERM");
    }
    if (this.#queue.length === QUEUE_COUNT) {
      this.#queue.shift();
      this.#events.error("ENOBUFS");
    }
    this.#queue.push(new Uint8Array(datagram));
  }

  close(): void {
    this.#queue.length = 0;
    this.#drop();
  }

  #write(datagram: Uint8Array): void {
    const wire = this.#wire!;
    if (wire.bufferedAmount + datagram.length > BUFFERED_MAX_LEN) return this.#events.error("ENOBUFS");
    try {
      // A copy: the bytes are the caller's again, and pages refuse those of shared memory.
      wire.send(new Uint8Array(datagram));
    } catch {
      this.#events.error("ECONNRESET");
    }
  }

  /** @returns false when the engine forbids it: a page of https: may open wss: only */
  #connect(now: number): boolean {
    this.#drop();
    this.#triedAt = now;
    // Until the relay has proved itself by a datagram, a next attempt would have to wait.
    this.#backoff = Math.min(Math.max(this.#backoff * 2, BACKOFF_MIN_MS), BACKOFF_MAX_MS);
    let wire: Wire;
    try {
      wire = this.#open(this.endpoint);
    } catch {
      return false;
    }
    this.#wire = wire;
    wire.onopen = () => {
      for (const datagram of this.#queue.splice(0)) this.#write(datagram);
    };
    wire.onmessage = ({ data }) => this.#receive(data);
    // The close event follows, and says no less.
    wire.onerror = () => {};
    wire.onclose = () => this.#lose("ECONNREFUSED");
    return true;
  }

  #receive(data: unknown): void {
    if (!(data instanceof ArrayBuffer)) return this.#events.error("EPROTO");
    if (data.byteLength > DATAGRAM_MAX_LEN) return this.#events.error("EMSGSIZE");
    this.#backoff = 0;
    this.#events.datagram(new Uint8Array(data), this.endpoint);
  }

  /** The WebSocket is gone, or as good as gone, and with it what waited. */
  #lose(code: string): void {
    this.#drop();
    for (let lost = this.#queue.splice(0).length; lost > 0; lost--) this.#events.error(code);
  }

  #drop(): void {
    const wire = this.#wire;
    if (!wire) return;
    this.#wire = null;
    wire.onopen = wire.onmessage = wire.onclose = null;
    wire.close(1000);
  }
}

function isSame(a: Endpoint, b: Endpoint): boolean {
  if (a.port !== b.port || a.family !== b.family) return false;
  for (let i = 0; i < a.address.length; i++) if (a.address[i] !== b.address[i]) return false;
  return true;
}
