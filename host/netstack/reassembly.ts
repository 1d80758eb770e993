// Packets put together from fragments. RFC 791 §3.2, RFC 8200 §4.5.
//
// Overlapping fragments end their packet, and what follows of it is refused until its time is over (RFC 5722, and for
// IPv4 the same): nothing honest makes them. A fragment that came twice, byte for byte, is only ignored. What waits is
// bounded in bytes, in packets, in fragments of one packet and in time; the oldest makes room, so that a flood of first
// halves costs the newest comers nothing. One timer, and only while something waits.

import { addressKey } from "./address.ts";
import { equalBytes, putBe16 } from "./bytes.ts";
import { finish, sum } from "./checksum.ts";
import type { Drops } from "./drops.ts";
import {
  ERRONEOUS_HEADER,
  findTransport,
  INCOMPLETE_CHAIN,
  IPV4_CHECKSUM,
  IPV4_TOTAL_LENGTH,
  IPV6_HEADER_LEN,
  IPV6_PAYLOAD_LENGTH,
  LENGTH_MAX,
  type ParsedIp,
  type Refusal,
} from "./ip.ts";
import type { StackClock } from "./types.ts";

/** RFC 8200 §4.5; RFC 1122 §3.3.2 has 60 to 120 s */
export const REASSEMBLY_TIMEOUT_MS = 60_000;
export const REASSEMBLY_BYTES_MAX = 1 << 20;
export const REASSEMBLY_PACKETS_MAX = 64;
/** 65,535 bytes in fragments of 256: far below what any path with an MTU of 576 makes */
export const REASSEMBLY_FRAGMENTS_MAX = 256;
/** what a fragment costs beside its bytes */
const FRAGMENT_OVERHEAD = 128;

interface Part {
  offset: number;
  bytes: Uint8Array;
}

interface Waiting {
  key: string;
  deadline: number;
  /** by offset, without overlaps */
  parts: Part[];
  /** payload bytes in parts, and those of all when the last fragment is known; else -1 */
  received: number;
  total: number;
  /** the first fragment as it came, up to its payload; the rest of it is parts[0] */
  head: Uint8Array | null;
  headerLen: number;
  nextHeaderAt: number;
  nextHeader: number;
  /** bytes that it is charged with */
  cost: number;
  /** fragments overlapped: it only stands here to refuse what is left */
  dead: boolean;
}

/** The packet, or why not, or null when more is to come. */
export type Assembled = { packet: Uint8Array } | Refusal | null;

export class Reassembly {
  readonly #clock: StackClock;
  readonly #drops: Drops;
  readonly #onTimeout: (first: Uint8Array) => void;
  /** oldest first */
  readonly #waiting = new Map<string, Waiting>();
  #bytes = 0;
  #timer: unknown = null;

  /** @param onTimeout  a packet did not become whole; `first` is its first fragment, if that came */
  constructor(clock: StackClock, drops: Drops, onTimeout: (first: Uint8Array) => void) {
    this.#clock = clock;
    this.#drops = drops;
    this.#onTimeout = onTimeout;
  }

  /** packets that wait, and the bytes that they are charged with */
  get size(): number {
    return this.#waiting.size;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Takes a fragment; its bytes are copied. */
  add(bytes: Uint8Array, ip: ParsedIp): Assembled {
    const refusal = check(bytes, ip);
    if (refusal !== null) return refusal;
    const fragment = ip.fragment!;
    const key = keyOf(ip);
    const waiting = this.#waiting.get(key) ?? this.#begin(key);
    if (waiting.dead) return { drop: "fragmentOverlap", problem: null };
    const data = bytes.subarray(ip.payloadAt, ip.length);
    const place = findPlace(waiting, fragment.offset, data, fragment.more);
    if (place === "duplicate") return { drop: "fragmentDuplicate", problem: null };
    if (place === "overlap") {
      this.#kill(waiting);
      return { drop: "fragmentOverlap", problem: null };
    }
    if (waiting.parts.length === REASSEMBLY_FRAGMENTS_MAX) {
      this.#remove(waiting);
      return { drop: "tooManyFragments", problem: null };
    }
    waiting.parts.splice(place, 0, { offset: fragment.offset, bytes: data.slice() });
    waiting.received += data.length;
    if (!fragment.more) waiting.total = fragment.offset + data.length;
    this.#charge(waiting, data.length + FRAGMENT_OVERHEAD);
    if (fragment.offset === 0) {
      waiting.head = bytes.slice(0, ip.payloadAt);
      waiting.headerLen = ip.headerLen;
      waiting.nextHeaderAt = fragment.nextHeaderAt;
      waiting.nextHeader = fragment.nextHeader;
      this.#charge(waiting, waiting.head.length);
    }
    if (waiting.received === waiting.total) return this.#finish(waiting);
    this.#makeRoom(waiting);
    return null;
  }

  clear(): void {
    for (const waiting of [...this.#waiting.values()]) this.#remove(waiting);
  }

  #begin(key: string): Waiting {
    const waiting: Waiting = {
      key,
      deadline: this.#clock.now() + REASSEMBLY_TIMEOUT_MS,
      parts: [],
      received: 0,
      total: -1,
      head: null,
      headerLen: 0,
      nextHeaderAt: 0,
      nextHeader: 0,
      cost: 0,
      dead: false,
    };
    this.#waiting.set(key, waiting);
    this.#charge(waiting, FRAGMENT_OVERHEAD);
    if (this.#timer === null) this.#arm();
    return waiting;
  }

  #charge(waiting: Waiting, bytes: number): void {
    waiting.cost += bytes;
    this.#bytes += bytes;
  }

  #kill(waiting: Waiting): void {
    this.#bytes -= waiting.cost;
    Object.assign(waiting, { parts: [], head: null, cost: 0, dead: true });
    this.#charge(waiting, FRAGMENT_OVERHEAD);
    this.#makeRoom(waiting);
  }

  /** Evicts the oldest, but not the newest comer. */
  #makeRoom(newest: Waiting): void {
    for (const waiting of this.#waiting.values()) {
      if (this.#waiting.size <= REASSEMBLY_PACKETS_MAX && this.#bytes <= REASSEMBLY_BYTES_MAX) return;
      if (waiting === newest) continue;
      if (!waiting.dead) this.#drops.fragmentEvicted++;
      this.#remove(waiting);
    }
  }

  #remove(waiting: Waiting): void {
    this.#waiting.delete(waiting.key);
    this.#bytes -= waiting.cost;
    if (this.#waiting.size > 0 || this.#timer === null) return;
    this.#clock.clearTimer(this.#timer);
    this.#timer = null;
  }

  #finish(waiting: Waiting): Assembled {
    this.#remove(waiting);
    const head = waiting.head!;
    const ipv4 = head[0] >>> 4 === 4;
    const length = waiting.headerLen + waiting.total;
    if (length - (ipv4 ? 0 : IPV6_HEADER_LEN) > LENGTH_MAX) return { drop: "badFragment", problem: null };
    const packet = new Uint8Array(length);
    packet.set(head.subarray(0, waiting.headerLen));
    for (const part of waiting.parts) packet.set(part.bytes, waiting.headerLen + part.offset);
    if (ipv4) {
      putBe16(packet, IPV4_TOTAL_LENGTH, length);
      packet.fill(0, 6, 8); // flags and offset
      putBe16(packet, IPV4_CHECKSUM, 0);
      putBe16(packet, IPV4_CHECKSUM, finish(sum(packet, 0, waiting.headerLen)));
    } else {
      putBe16(packet, IPV6_PAYLOAD_LENGTH, length - IPV6_HEADER_LEN);
      packet[waiting.nextHeaderAt] = waiting.nextHeader;
    }
    return { packet };
  }

  #arm(): void {
    const first: Waiting | undefined = this.#waiting.values().next().value;
    this.#timer = null;
    if (first === undefined) return;
    this.#timer = this.#clock.setTimer(() => this.#expire(), Math.max(0, first.deadline - this.#clock.now()));
  }

  #expire(): void {
    const now = this.#clock.now();
    const late: Waiting[] = [];
    for (const waiting of this.#waiting.values()) {
      if (waiting.deadline > now) break;
      late.push(waiting);
    }
    this.#timer = null; // it fired: nothing to clear
    for (const waiting of late) {
      this.#remove(waiting);
      if (waiting.dead) continue;
      this.#drops.fragmentTimeout++;
      if (waiting.head !== null) this.#onTimeout(join(waiting.head, waiting.parts[0].bytes));
    }
    this.#arm();
  }
}

function join(a: Uint8Array, b: Uint8Array): Uint8Array {
  const joined = new Uint8Array(a.length + b.length);
  joined.set(a);
  joined.set(b, a.length);
  return joined;
}

/** RFC 791: addresses, protocol and id; RFC 8200: addresses and id. */
function keyOf(ip: ParsedIp): string {
  const { id } = ip.fragment!;
  const number = ip.family === 4 ? `${id}.${ip.protocol}` : `${id}`;
  return addressKey(ip.source) + addressKey(ip.destination) + number;
}

function check(bytes: Uint8Array, ip: ParsedIp): Refusal | null {
  const { offset, more } = ip.fragment!;
  const length = ip.length - ip.payloadAt;
  const refuse = (code: number, pointer: number): Refusal => {
    return { drop: "badFragment", problem: ip.family === 6 ? { code, pointer } : null };
  };
  if (more && (length & 7) !== 0) return refuse(ERRONEOUS_HEADER, IPV6_PAYLOAD_LENGTH);
  if (length === 0) return refuse(ERRONEOUS_HEADER, IPV6_PAYLOAD_LENGTH);
  const before = ip.family === 6 ? ip.headerLen - IPV6_HEADER_LEN : ip.headerLen;
  if (before + offset + length > LENGTH_MAX) return refuse(ERRONEOUS_HEADER, ip.protocolAt + 2);
  if (offset === 0 && findTransport(bytes.subarray(0, ip.length)) === null) return refuse(INCOMPLETE_CHAIN, 0);
  return null;
}

/** Where the fragment belongs among the parts. */
function findPlace(
  waiting: Waiting,
  offset: number,
  data: Uint8Array,
  more: boolean,
): number | "duplicate" | "overlap" {
  const { parts, total } = waiting;
  const end = offset + data.length;
  let place = parts.length;
  while (place > 0 && parts[place - 1].offset > offset) place--;
  const before = place > 0 ? parts[place - 1] : null;
  const after = place < parts.length ? parts[place] : null;
  if (before !== null && before.offset === offset && equalBytes(before.bytes, data)) {
    return more === (end !== total) ? "duplicate" : "overlap"; // the same bytes, once last and once not
  }
  if (before !== null && before.offset + before.bytes.length > offset) return "overlap";
  if (after !== null && end > after.offset) return "overlap";
  if (total >= 0 && (end > total || !more)) return "overlap";
  if (!more && after !== null) return "overlap";
  return place;
}
