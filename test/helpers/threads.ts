// The main thread of a device on a virtual clock, for test/noise/ and test/memory/: packets in, records out, no sockets
// and no waiting. Randomness is seeded, so a failure comes back.
import { readFileSync } from "node:fs";
import {
  DELIVER_LENGTH, DELIVER_OFFSET, DELIVER_PEER, DELIVER_SIZE, DEVICE_DROPS, DEVICE_EVENT_HEAD, DEVICE_PUBLIC_KEY,
  DEVICE_RX_DATAGRAMS, DEVICE_RX_DELIVERED, DROP_COUNT, ENDPOINT_ADDR, ENDPOINT_LEN, EVENTS, EVENT_ARGUMENT, EVENT_MAX,
  EVENT_PEER, EVENT_SIZE, EVENT_TYPE, IN_ENDPOINT, IN_FLAGS, IN_LENGTH, IN_MAX, IN_OFFSET, IN_SEGMENT, IN_SIZE,
  OUT_ENDPOINT, OUT_LENGTH, OUT_OFFSET, OUT_PEER, OUT_SIZE, OUT_TOS, SLOT_HEADROOM, SLOT_SIZE, THREAD_DEADLINE,
  THREAD_DELIVER, THREAD_IN, THREAD_MONO, THREAD_OUT, THREAD_PEER_INFO, THREAD_RANDOM, THREAD_RANDOM_LEFT,
  THREAD_RANDOM_SIZE, THREAD_WALL, PEER_INFO_SIZE,
} from "../../assembly/abi.ts";
import { type Core, type CoreLimits, createCore } from "../../host/core.ts";

export type Bytes = Uint8Array;

/** What the wall clock of every test reads when its monotonic clock reads 0. */
export const WALL_SEC = 1_800_000_000;

export interface Datagram {
  bytes: Bytes;
  peer: number;
  tos: number;
  endpoint: Bytes;
}

export interface Delivered {
  packet: Bytes;
  peer: number;
}

export interface Event {
  type: number;
  peer: number;
  argument: number;
}

const modules = new Map<string, WebAssembly.Module>();

/** The product itself, not a test's build of it. */
export function productModule(build: string): WebAssembly.Module {
  let module = modules.get(build);
  if (!module) {
    const file = new URL(`../../dist/core-${build}.wasm`, import.meta.url);
    modules.set(build, (module = new WebAssembly.Module(readFileSync(file))));
  }
  return module;
}

/** Numbers below `limit`, the same for the same seed. */
export function seeded(seed: number): (limit: number) => number {
  let state = seed >>> 0;
  return (limit) => {
    state = (state + 0x9e3779b9) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
    return ((z ^ (z >>> 16)) >>> 0) % limit;
  };
}

/** An ENDPOINT record of IPv4. */
export function endpoint4(last: number, port: number): Bytes {
  const bytes = new Uint8Array(ENDPOINT_LEN);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, 4, true);
  view.setUint16(2, port, false);
  bytes.set([192, 0, 2, last], ENDPOINT_ADDR);
  return bytes;
}

/** An ALLOWED_IP record of IPv4. */
export function allowedIp4(addr: number[], cidr: number): Bytes {
  const bytes = new Uint8Array(24);
  bytes.set([4, 0, 0, 0, cidr]);
  bytes.set(addr, 8);
  return bytes;
}

/** An IPv4 packet of `len` bytes with the given ends; its payload is `fill` of the offset. */
export function packet4(src: number[], dst: number[], len: number, fill: (at: number) => number = (at) => at): Bytes {
  const bytes = new Uint8Array(len);
  for (let at = 20; at < len; at++) bytes[at] = fill(at);
  bytes[0] = 0x45;
  bytes[2] = len >> 8;
  bytes[3] = len;
  bytes[8] = 64;
  bytes[9] = 17;
  bytes.set(src, 12);
  bytes.set(dst, 16);
  return bytes;
}

export class MainThread {
  readonly core: Core;
  /** ns on the monotonic clock */
  time = 1_000_000_000n;
  readonly random: (limit: number) => number;
  #eventTail = 0;

  constructor(build: string, limits: CoreLimits = { maxPeers: 16, maxNodes: 64 }, seed = 1) {
    this.random = seeded(seed);
    this.core = createCore(productModule(build), (bytes) => this.fill(bytes), limits);
    this.prepare();
  }

  fill(bytes: Bytes): void {
    for (let i = 0; i < bytes.length; i++) bytes[i] = this.random(256);
  }

  key(): Bytes {
    const key = new Uint8Array(32);
    this.fill(key);
    return key;
  }

  /** Clocks and randomness, as the host does before each call. */
  prepare(): void {
    const { view, u8, base } = this.core;
    const billion = 1_000_000_000n;
    view.setBigUint64(base + THREAD_MONO, this.time / billion, true);
    view.setBigUint64(base + THREAD_MONO + 8, this.time % billion, true);
    view.setBigUint64(base + THREAD_WALL, BigInt(WALL_SEC) + this.time / billion, true);
    view.setBigUint64(base + THREAD_WALL + 8, this.time % billion, true);
    const used = THREAD_RANDOM_SIZE - view.getUint32(base + THREAD_RANDOM_LEFT, true);
    for (let i = 0; i < used; i++) u8[base + THREAD_RANDOM + i] = this.random(256);
    view.setUint32(base + THREAD_RANDOM_LEFT, THREAD_RANDOM_SIZE, true);
  }

  advance(ms: number): void {
    this.time += BigInt(Math.round(ms * 1e6));
  }

  setPrivateKey(key: Bytes): Bytes {
    this.core.withArgument(key, (at) => this.core.exports.deviceSetPrivateKey(at));
    return this.core.u8.slice(DEVICE_PUBLIC_KEY, DEVICE_PUBLIC_KEY + 32);
  }

  addPeer(publicKey: Bytes): number {
    return this.core.withArgument(publicKey, (at) => this.core.exports.peerAdd(at));
  }

  setEndpoint(peer: number, endpoint: Bytes): number {
    return this.core.withArgument(endpoint, (at) => this.core.exports.peerSetEndpoint(peer, at));
  }

  setPsk(peer: number, psk: Bytes): void {
    this.core.withArgument(psk, (at) => this.core.exports.peerSetPresharedKey(peer, at));
  }

  allow(peer: number, addr: number[], cidr: number): number {
    return this.core.withArgument(allowedIp4(addr, cidr), (at) => this.core.exports.allowedIpAdd(peer, at));
  }

  /** The peer's PEER_INFO record. */
  info(peer: number): DataView {
    if (this.core.exports.peerInfo(peer) < 0) throw new Error(`no peer ${peer}`);
    const at = this.core.base + THREAD_PEER_INFO;
    return new DataView(this.core.u8.slice(at, at + PEER_INFO_SIZE).buffer);
  }

  #outs(count: number): Datagram[] {
    const { view, u8, base } = this.core;
    return Array.from({ length: count }, (_, i) => {
      const record = base + THREAD_OUT + i * OUT_SIZE;
      const offset = view.getUint32(record + OUT_OFFSET, true);
      return {
        bytes: u8.slice(offset, offset + view.getUint32(record + OUT_LENGTH, true)),
        peer: view.getUint32(record + OUT_PEER, true),
        tos: view.getUint32(record + OUT_TOS, true),
        endpoint: u8.slice(record + OUT_ENDPOINT, record + OUT_ENDPOINT + ENDPOINT_LEN),
      };
    });
  }

  #in(i: number, bytes: Bytes, segment: number, endpoint: Bytes): void {
    const { view, u8, base, slots } = this.core;
    const record = base + THREAD_IN + i * IN_SIZE;
    const offset = slots + i * SLOT_SIZE + SLOT_HEADROOM;
    u8.set(bytes, offset);
    view.setUint32(record + IN_OFFSET, offset, true);
    view.setUint32(record + IN_LENGTH, bytes.length, true);
    view.setUint32(record + IN_SEGMENT, segment, true);
    view.setUint32(record + IN_FLAGS, 0, true);
    u8.set(endpoint, record + IN_ENDPOINT);
  }

  /** Packets of the TUN; at most IN_MAX. */
  send(packets: Bytes[]): Datagram[] {
    packets.forEach((packet, i) => this.#in(i, packet, 0, new Uint8Array(ENDPOINT_LEN)));
    this.prepare();
    const count = this.core.exports.deviceSend(packets.length);
    if (count < 0) throw new Error(`deviceSend: ${count}`);
    return this.#outs(count);
  }

  /** Datagrams of one source. */
  receive(datagrams: Bytes[], from: Bytes): Delivered[] {
    const delivered: Delivered[] = [];
    for (let at = 0; at < datagrams.length; at += IN_MAX) {
      const batch = datagrams.slice(at, at + IN_MAX);
      batch.forEach((bytes, i) => this.#in(i, bytes, 0, from));
      delivered.push(...this.#receive(batch.length));
    }
    return delivered;
  }

  /** One record with a run of datagrams of `segment` bytes. */
  receiveRun(run: Bytes, segment: number, from: Bytes): Delivered[] {
    this.#in(0, run, segment, from);
    return this.#receive(1);
  }

  #receive(count: number): Delivered[] {
    const { view, u8, base } = this.core;
    const delivered: Delivered[] = [];
    for (let first = 0; first < count; ) {
      this.prepare();
      first = this.core.exports.deviceReceive(first, count);
      if (first < 0) throw new Error(`deviceReceive: ${first}`);
      for (let i = 0; i < this.core.deliverCount; i++) {
        const record = base + THREAD_DELIVER + i * DELIVER_SIZE;
        const offset = view.getUint32(record + DELIVER_OFFSET, true);
        delivered.push({
          packet: u8.slice(offset, offset + view.getUint32(record + DELIVER_LENGTH, true)),
          peer: view.getUint32(record + DELIVER_PEER, true),
        });
      }
    }
    return delivered;
  }

  /** Service until there is no more to do. */
  service(): Datagram[] {
    const outs: Datagram[] = [];
    do {
      this.prepare();
      const count = this.core.exports.deviceService();
      if (count < 0) throw new Error(`deviceService: ${count}`);
      outs.push(...this.#outs(count));
    } while (this.core.more);
    return outs;
  }

  /** ms on the monotonic clock, Infinity when no timer is armed */
  deadline(): number {
    this.core.exports.deviceNextDeadline();
    return this.core.view.getFloat64(this.core.base + THREAD_DEADLINE, true);
  }

  /** Events since the last call. */
  events(): Event[] {
    const { view } = this.core;
    const head = view.getUint32(DEVICE_EVENT_HEAD, true);
    const events: Event[] = [];
    for (this.#eventTail = Math.max(this.#eventTail, head - EVENT_MAX); this.#eventTail < head; this.#eventTail++) {
      const at = EVENTS + (this.#eventTail % EVENT_MAX) * EVENT_SIZE;
      events.push({
        type: view.getUint32(at + EVENT_TYPE, true),
        peer: view.getUint32(at + EVENT_PEER, true),
        argument: view.getUint32(at + EVENT_ARGUMENT, true),
      });
    }
    return events;
  }

  drops(reason: number): number {
    return Number(this.core.view.getBigUint64(DEVICE_DROPS + reason * 8, true));
  }

  allDrops(): number[] {
    return Array.from({ length: DROP_COUNT }, (_, reason) => this.drops(reason));
  }

  get rxDatagrams(): number {
    return Number(this.core.view.getBigUint64(DEVICE_RX_DATAGRAMS, true));
  }

  get rxDelivered(): number {
    return Number(this.core.view.getBigUint64(DEVICE_RX_DELIVERED, true));
  }
}
