// A world for the netstack without a platform: time that only moves when it is told to, links that end in a list or in
// another stack, randomness from a seed, and packets written down as hex.

import { parseIp } from "../../host/ip.ts";
import { Stack } from "../../host/netstack/stack.ts";
import type { InPacket, Link, OutPacket, SocketAddress, StackClock } from "../../host/netstack/types.ts";
import { Stream } from "../../host/simulator/random.ts";

interface Timer {
  at: number;
  order: number;
  callback: () => void;
}

/** Time that stands still until run() moves it. */
export class VirtualClock implements StackClock {
  #now = 0;
  #order = 0;
  readonly #timers = new Set<Timer>();

  now(): number {
    return this.#now;
  }

  setTimer(callback: () => void, delayMs: number): Timer {
    const timer = { at: this.#now + delayMs, order: this.#order++, callback };
    this.#timers.add(timer);
    return timer;
  }

  clearTimer(timer: unknown): void {
    this.#timers.delete(timer as Timer);
  }

  get timers(): number {
    return this.#timers.size;
  }

  /** Moves time on by `ms`; timers go off in order, those that they set as well. */
  run(ms: number): void {
    const end = this.#now + ms;
    for (;;) {
      let next: Timer | null = null;
      for (const timer of this.#timers) {
        if (timer.at > end) continue;
        if (next === null || timer.at < next.at || (timer.at === next.at && timer.order < next.order)) next = timer;
      }
      if (next === null) break;
      this.#timers.delete(next);
      this.#now = Math.max(this.#now, next.at);
      next.callback();
    }
    this.#now = end;
  }

  /** As run(), but lets promises go on between steps. */
  async runAsync(ms: number, stepMs = ms): Promise<void> {
    for (let left = ms; left >= 0; left -= stepMs) {
      await settle();
      this.run(Math.min(stepMs, left));
      if (left === 0) break;
    }
    await settle();
  }
}

/** Lets every promise that can go on do so. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 50; i++) await null;
}

/** Bytes that look random, the same for the same seed. */
export function seeded(seed: number): (bytes: Uint8Array) => void {
  const stream = new Stream(seed, "netstack");
  return (bytes) => stream.fill(bytes);
}

/** The bytes of a hex dump; blanks and line ends do not matter. */
export function hex(text: string): Uint8Array {
  const digits = text.replace(/\s+/g, "");
  return Uint8Array.from({ length: digits.length / 2 }, (_, i) => parseInt(digits.slice(2 * i, 2 * i + 2), 16));
}

export function toHex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function at(address: string, port: number): SocketAddress {
  return { ...parseIp(address), port };
}

export function concat(...pieces: readonly Uint8Array[]): Uint8Array {
  const joined = new Uint8Array(pieces.reduce((total, piece) => total + piece.length, 0));
  let end = 0;
  for (const piece of pieces) {
    joined.set(piece, end);
    end += piece.length;
  }
  return joined;
}

/** The checksum by the book (RFC 1071 §4.1), to hold the fast one against. */
export function slowSum(bytes: Uint8Array): number {
  let total = 0;
  for (let i = 0; i < bytes.length; i++) total += i % 2 === 0 ? bytes[i] * 256 : bytes[i];
  while (total > 0xffff) total = (total % 0x10000) + Math.floor(total / 0x10000);
  return total;
}

/** A packet as it would come from a link: pieces joined. */
export function flatten(packet: OutPacket): Uint8Array {
  return concat(packet.header, ...packet.payload);
}

export function incoming(bytes: Uint8Array): InPacket {
  return { bytes, gsoSize: 0, checksumVerified: false };
}

export interface Sent {
  bytes: Uint8Array;
  gsoSize: number;
  checksumStart: number;
}

/** A link that keeps what is sent. */
export class ListLink implements Link {
  mtu = 1420;
  gsoMaxSize = 0;
  readonly sent: Sent[] = [];

  send(packet: OutPacket): void {
    this.sent.push({ bytes: flatten(packet), gsoSize: packet.gsoSize, checksumStart: packet.checksumStart });
  }

  /** What was sent since the last call. */
  take(): Uint8Array[] {
    return this.sent.splice(0).map((packet) => packet.bytes);
  }
}

/** A link to another stack over virtual time, `delayMs` away. */
export class WireLink implements Link {
  mtu = 1420;
  gsoMaxSize = 0;
  other: Stack | null = null;
  delayMs = 1;
  sent = 0;
  /** what becomes of each packet: null loses it; several deliver several */
  change: (packet: Uint8Array) => Uint8Array[] = (packet) => [packet];
  readonly #clock: StackClock;

  constructor(clock: StackClock) {
    this.#clock = clock;
  }

  send(packet: OutPacket): void {
    this.sent++;
    const flat = flatten(packet);
    const { gsoSize } = packet;
    const checksumVerified = packet.checksumStart > 0;
    this.#clock.setTimer(() => {
      for (const bytes of this.change(flat)) this.other?.input({ bytes, gsoSize, checksumVerified });
    }, this.delayMs);
  }
}

export interface Pair {
  clock: VirtualClock;
  a: Stack;
  b: Stack;
  linkA: WireLink;
  linkB: WireLink;
}

export const A4 = "10.9.0.1";
export const B4 = "10.9.0.2";
export const A6 = "fd09::1";
export const B6 = "fd09::2";

/** Two stacks, each at the end of the other's link, on one virtual clock. */
export function createPair(seed = 1): Pair {
  const clock = new VirtualClock();
  const linkA = new WireLink(clock);
  const linkB = new WireLink(clock);
  const a = new Stack({ link: linkA, addresses: [parseIp(A4), parseIp(A6)], clock, random: seeded(seed) });
  const b = new Stack({ link: linkB, addresses: [parseIp(B4), parseIp(B6)], clock, random: seeded(seed + 1) });
  linkA.other = b;
  linkB.other = a;
  return { clock, a, b, linkA, linkB };
}

/** One stack and what it sends. */
export function createSingle(seed = 1): { clock: VirtualClock; stack: Stack; link: ListLink } {
  const clock = new VirtualClock();
  const link = new ListLink();
  const addresses = [parseIp(A4), parseIp(A6)];
  return { clock, link, stack: new Stack({ link, addresses, clock, random: seeded(seed) }) };
}
