// One client of a relay: its WebSocket and the UDP socket that belongs to it alone, connected to one address, so that
// the kernel hands us no other sender's datagrams. Both ways only what is framed as WireGuard passes (§5.4: type,
// reserved bytes, length), so that the relay is of no use for anything else; both ways what cannot be sent now is
// dropped, as a router does; nothing is kept in between. It reads no more than the first four bytes of a message.

import { createSocket, type Socket } from "node:dgram";
import type { Duplex } from "node:stream";
import type { RawData, WebSocket } from "ws";
import {
  COOKIE_REPLY_LEN, DATA_KEEPALIVE_LEN, INITIATION_LEN, MESSAGE_DATA, MESSAGE_HANDSHAKE_COOKIE,
  MESSAGE_HANDSHAKE_INITIATION, MESSAGE_HANDSHAKE_RESPONSE, RESPONSE_LEN,
} from "../../assembly/protocol.ts";
import { formatIp, type IpAddress } from "../ip.ts";

/** Why datagrams were dropped. */
export type RelayDrop = "framing" | "rate" | "backpressure" | "unreachable";

export interface RelayLimits {
  /** bytes/s of a client, both ways together; Infinity = no limit */
  bytesPerSecond: number;
}

/** Close codes of RFC 6455 §7.4.1. */
export const CLOSE_NORMAL = 1000;
export const CLOSE_GOING_AWAY = 1001;
const CLOSE_UNSUPPORTED = 1003;

/** Bytes that the WebSocket may have taken and not sent. */
const BUFFERED_MAX_LEN = 512 << 10;
/** Datagrams that the UDP socket may have taken and not sent. */
const UNSENT_MAX_COUNT = 256;
const SOCKET_BUFFER_SIZE = 1 << 20;
/** Handshake messages to the peer a second, and at once: as the kernel's own limit for one address (ratelimiter.c). */
const HANDSHAKES_PER_SECOND = 20;

/** A UDP socket connected to the first of `addresses` that can be. Rejects when none can. */
export async function connectUdp(addresses: IpAddress[], port: number): Promise<Socket> {
  let failure: unknown;
  for (const { family, address } of addresses) {
    const udp = createSocket(family === 4 ? "udp4" : "udp6");
    try {
      await new Promise<void>((resolve, reject) => {
        udp.once("error", reject);
        udp.connect(port, formatIp(address), (error?: Error) => {
          udp.off("error", reject);
          if (error) reject(error);
          else resolve();
        });
      });
      enlargeBuffers(udp);
      return udp;
    } catch (error) {
      failure = error;
      udp.close();
    }
  }
  throw failure;
}

/** So that a burst of one window waits in the kernel while the event loop is elsewhere. */
function enlargeBuffers(udp: Socket): void {
  if ("Deno" in globalThis) return; // it would take the size for that of each datagram's buffer
  try {
    udp.setRecvBufferSize(SOCKET_BUFFER_SIZE);
  } catch {
    // What the system grants is enough to work with.
  }
}

export class RelayClient {
  /** of what passed: datagrams and bytes to the peer, and from it */
  readonly sent = { count: 0, bytes: 0 };
  readonly received = { count: 0, bytes: 0 };
  readonly drops = new Map<RelayDrop, number>();
  /** milliseconds of performance.now(): the last datagram that passed, either way */
  lastPassed = performance.now();
  /** whether it has answered the last ping */
  alive = true;
  /** once, when both sockets are closed or as good as that */
  onClosed: ((reason: string) => void) | null = null;
  readonly #webSocket: WebSocket;
  /** what the WebSocket writes to */
  readonly #stream: Duplex;
  #isCorked = false;
  readonly #udp: Socket;
  readonly #peer: { address: string; port: number };
  readonly #handshakes = new Bucket(HANDSHAKES_PER_SECOND, HANDSHAKES_PER_SECOND);
  readonly #bytes: Bucket;
  #unsent = 0;
  #reason = "";

  constructor(webSocket: WebSocket, stream: Duplex, udp: Socket, { bytesPerSecond }: RelayLimits) {
    this.#webSocket = webSocket;
    this.#stream = stream;
    this.#udp = udp;
    this.#peer = udp.remoteAddress();
    // A second's worth at once: TCP inside comes in bursts.
    this.#bytes = new Bucket(bytesPerSecond, bytesPerSecond);
    webSocket.on("message", (data, isBinary) => this.#toPeer(data, isBinary));
    webSocket.on("pong", () => (this.alive = true));
    webSocket.on("error", (error) => (this.#reason ||= error.message));
    webSocket.on("close", (code) => this.#closed(`closed by the client (${code})`));
    // Deno delivers what others send to a connected socket, too.
    udp.on("message", (datagram, { address, port }) => {
      if (port === this.#peer.port && address === this.#peer.address) this.#toClient(datagram);
    });
    // An ICMP error, asynchronously: the peer may be back in a second.
    udp.on("error", () => this.#drop("unreachable"));
  }

  /** Told to go, and not gone yet. */
  get isClosing(): boolean {
    return this.#webSocket.readyState !== this.#webSocket.OPEN;
  }

  ping(): void {
    this.alive = false;
    this.#webSocket.ping();
  }

  close(code: number, reason: string): void {
    this.#reason ||= reason;
    this.#webSocket.close(code, reason);
  }

  /** Without a closing handshake. */
  terminate(reason: string): void {
    this.#reason ||= reason;
    this.#webSocket.terminate();
  }

  #toPeer(data: RawData, isBinary: boolean): void {
    if (!isBinary || !(data instanceof Uint8Array)) return this.close(CLOSE_UNSUPPORTED, "text, not a datagram");
    const type = messageType(data);
    if (type === 0) return this.#drop("framing");
    const now = performance.now();
    if (type !== MESSAGE_DATA && !this.#handshakes.take(1, now)) return this.#drop("rate");
    if (!this.#bytes.take(data.length, now)) return this.#drop("rate");
    if (this.#unsent >= UNSENT_MAX_COUNT) return this.#drop("backpressure");
    this.#unsent++;
    this.#udp.send(data, (error) => {
      this.#unsent--;
      if (error) this.#drop("unreachable");
    });
    this.#passed(this.sent, data.length, now);
  }

  #toClient(datagram: Uint8Array): void {
    if (this.#webSocket.readyState !== this.#webSocket.OPEN) return;
    if (messageType(datagram) === 0) return this.#drop("framing");
    if (this.#webSocket.bufferedAmount + datagram.length > BUFFERED_MAX_LEN) return this.#drop("backpressure");
    const now = performance.now();
    if (!this.#bytes.take(datagram.length, now)) return this.#drop("rate");
    this.#cork();
    this.#webSocket.send(datagram, { binary: true, compress: false });
    this.#passed(this.received, datagram.length, now);
  }

  /** The datagrams of one turn of the event loop leave in one write. */
  #cork(): void {
    if (this.#isCorked) return;
    this.#isCorked = true;
    this.#stream.cork();
    setImmediate(() => {
      this.#isCorked = false;
      this.#stream.uncork();
    });
  }

  #passed(direction: { count: number; bytes: number }, length: number, now: number): void {
    direction.count++;
    direction.bytes += length;
    this.lastPassed = now;
  }

  #drop(why: RelayDrop): void {
    this.drops.set(why, (this.drops.get(why) ?? 0) + 1);
  }

  #closed(reason: string): void {
    this.#udp.close();
    this.onClosed?.(this.#reason || reason);
    this.onClosed = null;
  }
}

/** The type of a message with a header and a length of that type; 0 for anything else. */
export function messageType(bytes: Uint8Array): number {
  if (bytes.length < DATA_KEEPALIVE_LEN || (bytes[1] | bytes[2] | bytes[3]) !== 0) return 0;
  const [type] = bytes;
  switch (type) {
    case MESSAGE_HANDSHAKE_INITIATION:
      return bytes.length === INITIATION_LEN ? type : 0;
    case MESSAGE_HANDSHAKE_RESPONSE:
      return bytes.length === RESPONSE_LEN ? type : 0;
    case MESSAGE_HANDSHAKE_COOKIE:
      return bytes.length === COOKIE_REPLY_LEN ? type : 0;
    case MESSAGE_DATA:
      return type;
    default:
      return 0;
  }
}

/** A token bucket. */
class Bucket {
  readonly #perSecond: number;
  readonly #most: number;
  #left: number;
  #filled = performance.now();

  constructor(perSecond: number, most: number) {
    this.#perSecond = perSecond;
    this.#most = most;
    this.#left = most;
  }

  /** @param now  milliseconds of performance.now() */
  take(count: number, now: number): boolean {
    if (this.#most === Infinity) return true;
    this.#left = Math.min(this.#most, this.#left + ((now - this.#filled) / 1000) * this.#perSecond);
    this.#filled = now;
    if (this.#left < count) return false;
    this.#left -= count;
    return true;
  }
}
