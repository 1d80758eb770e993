// Echo requests of our own. RFC 792, RFC 4443 §4.1.
//
// Each ping has an identifier, a sequence number and eight bytes of payload at random, and its reply must come from the
// address that was asked and repeat them all: nobody who does not see the request can answer for another. A reply's
// time-out is the only timer.

import { WasmguardError } from "../errors.ts";
import { formatIp, type IpAddress } from "../ip.ts";
import { be16, equalBytes, putBe16 } from "./bytes.ts";
import { PROTOCOL_ICMP, PROTOCOL_ICMPV6 } from "./ip.ts";
import type { DeliveryError, IpHeader, IpLayer } from "./types.ts";

export const ICMP_HEADER_LEN = 8;
const ECHO_REQUEST4 = 8;
const ECHO_REQUEST6 = 128;
const ID = 4;
const SEQUENCE = 6;

const SIZE_DEFAULT = 56;
const TIMEOUT_DEFAULT_MS = 5000;
const COOKIE_LEN = 8;
/** payload bytes: what is left of 65,535 */
const SIZE_MAX4 = 65_535 - 20 - ICMP_HEADER_LEN;
const SIZE_MAX6 = 65_535 - ICMP_HEADER_LEN;

export interface PingOptions {
  /** payload bytes; default 56 */
  size?: number;
  /** default 5000 */
  timeoutMs?: number;
  signal?: AbortSignal;
}

export interface PingReply {
  /** round trip, with fractions */
  ms: number;
  from: IpAddress;
  /** payload bytes */
  bytes: number;
  /** of the reply as it came */
  hopLimit: number;
}

interface Pending {
  to: IpAddress;
  payload: Uint8Array;
  sentAt: number;
  send(): void;
  end(result: PingReply | Error): void;
}

const CODES = {
  unreachable: "EHOSTUNREACH",
  portUnreachable: "ECONNREFUSED",
  prohibited: "EACCES",
  tooBig: "EMSGSIZE",
  timeExceeded: "EHOSTUNREACH",
} as const;

const TEXTS = {
  unreachable: "unreachable",
  portUnreachable: "port unreachable",
  prohibited: "prohibited",
  tooBig: "packet too big",
  timeExceeded: "hop limit exceeded on the way",
} as const;

export class Pinger {
  readonly #ip: IpLayer;
  /** by identifier and sequence number */
  readonly #pending = new Map<number, Pending>();

  constructor(ip: IpLayer) {
    this.#ip = ip;
  }

  /** requests without a reply yet */
  get size(): number {
    return this.#pending.size;
  }

  /**
   * Sends one echo request and waits for its reply.
   * @throws RangeError for a bad size; WasmguardError ETIMEDOUT, EHOSTUNREACH, EACCES, ECANCELED (the stack closed);
   *   the signal's reason
   */
  async ping(to: IpAddress, options: PingOptions = {}): Promise<PingReply> {
    const { size = SIZE_DEFAULT, timeoutMs = TIMEOUT_DEFAULT_MS, signal } = options;
    const sizeMax = to.family === 4 ? SIZE_MAX4 : SIZE_MAX6;
    if (!Number.isInteger(size) || size < 0 || size > sizeMax) {
      throw new RangeError(`Cannot ping: size ${size} is not in 0..${sizeMax}`);
    }
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const source = this.#ip.sourceFor(to);
      const name = formatIp(to.address);
      if (source === null) throw new WasmguardError("EHOSTUNREACH", `Cannot ping ${name}: no way there`);
      const { key, header } = this.#createHeader(to.family);
      const payload = this.#createPayload(size);
      const onAbort = (): void => end(signal!.reason);
      const timer = this.#ip.clock.setTimer(() => {
        end(new WasmguardError("ETIMEDOUT", `No reply from ${name} in ${timeoutMs} ms`));
      }, timeoutMs);
      const end = (result: PingReply | Error): void => {
        this.#pending.delete(key);
        this.#ip.clock.clearTimer(timer);
        signal?.removeEventListener("abort", onAbort);
        if (isReply(result)) resolve(result);
        else reject(result);
      };
      const send = (): void => {
        const protocol = to.family === 4 ? PROTOCOL_ICMP : PROTOCOL_ICMPV6;
        putBe16(header, 2, 0);
        this.#ip.send({ source, destination: to, protocol, header, checksumOffset: 2, payload: [payload], gsoSize: 0 });
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#pending.set(key, { to, payload, sentAt: this.#ip.clock.now(), send, end });
      send();
    });
  }

  /** An echo reply came. @returns whether it was awaited */
  reply(ip: IpHeader, message: Uint8Array): boolean {
    const pending = this.#pending.get(keyOf(message));
    if (pending === undefined || !equalBytes(ip.source, pending.to.address)) return false;
    if (!equalBytes(message.subarray(ICMP_HEADER_LEN), pending.payload)) return false;
    pending.end({
      ms: this.#ip.clock.now() - pending.sentAt,
      from: pending.to,
      bytes: pending.payload.length,
      hopLimit: ip.hopLimit,
    });
    return true;
  }

  /** Whether a quoted header is that of a request without a reply yet. */
  knows(ip: IpHeader, request: Uint8Array): boolean {
    const pending = this.#pending.get(keyOf(request));
    return pending !== undefined && equalBytes(ip.destination, pending.to.address);
  }

  /** An error about an echo request of ours that knows() took. */
  error(_: IpHeader, request: Uint8Array, error: DeliveryError): void {
    const pending = this.#pending.get(keyOf(request))!;
    if (error.kind === "tooBig") {
      pending.send(); // in fragments this time; each such message has lowered the path's MTU, so this ends
      return;
    }
    const who = error.from === undefined ? "" : `, says ${formatIp(error.from.address)}`;
    const text = `Cannot ping ${formatIp(pending.to.address)}: ${TEXTS[error.kind]}${who}`;
    pending.end(new WasmguardError(CODES[error.kind], text));
  }

  close(): void {
    for (const pending of [...this.#pending.values()]) {
      pending.end(new WasmguardError("ECANCELED", `Ping of ${formatIp(pending.to.address)}: the stack was closed`));
    }
  }

  #createHeader(family: 4 | 6): { key: number; header: Uint8Array } {
    const header = new Uint8Array(ICMP_HEADER_LEN);
    do this.#ip.random(header.subarray(ID));
    while (this.#pending.has(keyOf(header)));
    header[0] = family === 4 ? ECHO_REQUEST4 : ECHO_REQUEST6;
    return { key: keyOf(header), header };
  }

  #createPayload(size: number): Uint8Array {
    const payload = new Uint8Array(size);
    for (let i = COOKIE_LEN; i < size; i++) payload[i] = i;
    this.#ip.random(payload.subarray(0, Math.min(size, COOKIE_LEN)));
    return payload;
  }
}

function keyOf(message: Uint8Array): number {
  return be16(message, ID) * 0x10000 + be16(message, SEQUENCE);
}

function isReply(result: PingReply | Error): result is PingReply {
  return typeof result === "object" && result !== null && "hopLimit" in result;
}
