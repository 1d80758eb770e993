// One end of the simulated network: the product's own core.wasm on thread 0, driven as host/driver.ts drives it, with
// clocks and random bytes from the simulator. After each call it checks what a host relies on: no trap, records inside
// of the thread's slots, and no deadline left behind in the past.
//
// The suites also look into the core's memory (timers, sessions, keys). Where those lie is declared here once more,
// from the drawings in assembly/tunnel/peer.ts and session.ts: a field that moves fails loudly, in the suites that read
// it.
import * as check from "./check.ts";
import * as abi from "../../assembly/abi.ts";
import { type Core, type CoreBuild, compileCore, createCore } from "../core.ts";
import { decodeEndpoint, encodeEndpoint, formatEndpoint, parseEndpoint } from "../endpoint.ts";
import { parsePrefix } from "../ip.ts";
import type { Datagram, Wire } from "./wire.ts";
import { describe } from "./message.ts";
import type { Stream } from "./random.ts";
import { hashOf, type Trace } from "./trace.ts";

const modules = new Map<CoreBuild, WebAssembly.Module>();

/** Compiles a build for the nodes of a simulation: before the first that has it. */
export async function prepareBuild(build: CoreBuild): Promise<void> {
  if (!modules.has(build)) modules.set(build, await compileCore(build));
}

const named = (prefix: string, other: string[]): string[] => {
  const names: string[] = [];
  for (const [name, value] of Object.entries(abi as Record<string, number>)) {
    if (name.startsWith(prefix) && !other.includes(name)) names[value] = name.slice(prefix.length).toLowerCase();
  }
  return names;
};
/** by number: "bad_mac1", "unknown_index", ... */
export const DROP_NAMES = named("DROP_", ["DROP_COUNT"]);
/** by number: "initiation_sent", "roamed", ... */
export const EVENT_NAMES = named("EVENT_", [
  "EVENT_MAX", "EVENT_SIZE", "EVENT_TYPE", "EVENT_PEER", "EVENT_ARGUMENT", "EVENT_SERIAL",
]);

const NO_PEER = 0xffffffff;
/** Where the map keeps the addresses of pools: assembly/memory.ts. */
const MAP = { peers: abi.DEVICE_BASE + 28, nodes: abi.DEVICE_BASE + 48, staged: abi.DEVICE_BASE + 52 };
/** A peer's fields: assembly/tunnel/peer.ts. */
const PEER = {
  retransmitHandshake: 160, sendKeepalive: 168, newHandshake: 176, zeroKeyMaterial: 184, sendPersistentKeepalive: 192,
  drops: 240, ephemeral: 304 + 32, sessions: 640, previous: 284, current: 288, next: 292,
} as const;
const SESSION = { size: 1152, sending: 0, receiving: 32, counter: 64, localIndex: 80, remoteIndex: 84, present: 88 };
/** Messages put into and taken from the handshake queue: assembly/tunnel/queue.ts. */
const QUEUE_COUNTS = { at: abi.DEVICE_BASE + 0x2384, length: 8 };

export type TimerName =
  | "retransmitHandshake" | "sendKeepalive" | "newHandshake" | "zeroKeyMaterial" | "sendPersistentKeepalive";
export type SessionName = "previous" | "current" | "next";

export interface PeerOptions {
  endpoint?: string;
  allowedIps?: string[];
  presharedKey?: Uint8Array;
  keepalive?: number;
}

export interface PeerInfo {
  endpoint: string;
  lastHandshake: number;
  rxBytes: number;
  txBytes: number;
  rxPackets: number;
  txPackets: number;
  drops: number;
  staged: number;
  /** bit 0 previous, 1 current, 2 next */
  sessions: number;
  attempts: number;
}

/** A session's keys, and the indices of ours and theirs. */
export interface SessionKeys {
  sending: Uint8Array;
  receiving: Uint8Array;
  local: number;
  remote: number;
}

export interface NodeEvent {
  time: number;
  what: string;
  peer: number;
  argument: number;
}

export interface NodeOptions {
  name: string;
  build: CoreBuild;
  /** "IP:port" on the wire */
  address: string;
  /** the node's address inside the tunnel */
  inner?: string;
  /** ns that its wall clock is ahead of the simulator's */
  wallOffset?: number;
  maxPeers?: number;
  /** false: a device without a private key */
  key?: boolean;
}

/** What a node needs of its world. */
export interface NodeHost {
  now(): number;
  readonly wire: Wire;
  readonly trace: Trace;
}

export interface Incoming {
  bytes: Uint8Array;
  from: string;
  tos?: number;
  /** length of each datagram of a run (UDP_GRO) but the last */
  segment?: number;
  truncated?: boolean;
}

export class SimNode {
  readonly name: string;
  readonly core: Core;
  readonly inner: string;
  address: string;
  wallOffset: number;
  privateKey: Uint8Array = new Uint8Array(32);
  publicKey: Uint8Array = new Uint8Array(32);
  /** false: deviceService is called by the test alone */
  automatic = true;
  /** what came out of the tunnel; unset to keep nothing */
  delivered: { peer: number; packet: Uint8Array }[] | undefined = [];
  events: NodeEvent[] = [];
  onDeliver: ((packet: Uint8Array, peer: number) => void) | undefined;
  /** datagrams handed to the core */
  datagrams = 0;
  readonly #host: NodeHost;
  readonly #stream: Stream;
  readonly #pool = new Uint8Array(abi.THREAD_RANDOM_SIZE);
  readonly #refusals = new Float64Array(abi.DROP_COUNT);
  #eventTail = 0;
  #deadline = Infinity;

  constructor(host: NodeHost, stream: Stream, options: NodeOptions) {
    this.#host = host;
    this.#stream = stream;
    this.name = options.name;
    this.address = options.address;
    this.inner = options.inner ?? "";
    this.wallOffset = options.wallOffset ?? 0;
    const module = modules.get(options.build);
    if (!module) throw new RangeError(`Cannot run the ${options.build} build: prepareBuild was not called for it`);
    const maxPeers = options.maxPeers ?? 4;
    this.core = createCore(module, (bytes) => stream.fill(bytes), { maxPeers, maxNodes: 64 * maxPeers, shared: options.build !== "page" });
    if (options.key !== false) this.setPrivateKey(stream.bytes(32));
  }

  // --- configuration ------------------------------------------------------------------------------------------------

  setPrivateKey(key: Uint8Array): void {
    this.#prepare();
    this.core.withArgument(key, (at) => this.core.exports.deviceSetPrivateKey(at));
    this.privateKey = key.slice();
    this.publicKey = this.core.u8.slice(abi.DEVICE_PUBLIC_KEY, abi.DEVICE_PUBLIC_KEY + 32);
    this.#settle();
  }

  /** @returns the peer's number, or a negative status */
  addPeer(publicKey: Uint8Array, options: PeerOptions = {}): number {
    this.#prepare();
    const peer = this.core.withArgument(publicKey, (at) => this.core.exports.peerAdd(at));
    if (peer < 0) return peer;
    if (options.presharedKey) this.setPresharedKey(peer, options.presharedKey);
    if (options.endpoint) this.setEndpoint(peer, options.endpoint);
    for (const prefix of options.allowedIps ?? []) this.allow(peer, prefix);
    if (options.keepalive !== undefined) this.setKeepalive(peer, options.keepalive);
    return peer;
  }

  removePeer(peer: number): number {
    this.#prepare();
    return this.#after(this.core.exports.peerRemove(peer));
  }

  findPeer(publicKey: Uint8Array): number {
    return this.core.withArgument(publicKey, (at) => this.core.exports.peerFind(at));
  }

  setPresharedKey(peer: number, key: Uint8Array): void {
    check.equal(this.core.withArgument(key, (at) => this.core.exports.peerSetPresharedKey(peer, at)), abi.OK);
  }

  setEndpoint(peer: number, endpoint: string): void {
    this.#prepare();
    encodeEndpoint(this.core.view, this.core.argument, parseEndpoint(endpoint));
    check.equal(this.#after(this.core.exports.peerSetEndpoint(peer, this.core.argument)), abi.OK);
  }

  allow(peer: number, prefix: string): void {
    const { family, address, cidr } = parsePrefix(prefix);
    const { argument, view, u8 } = this.core;
    u8.fill(0, argument, argument + abi.ALLOWED_IP_SIZE);
    view.setUint32(argument + abi.ALLOWED_IP_FAMILY, family, true);
    view.setUint32(argument + abi.ALLOWED_IP_CIDR, cidr, true);
    u8.set(address, argument + abi.ALLOWED_IP_ADDR);
    check.equal(this.core.exports.allowedIpAdd(peer, argument), abi.OK);
  }

  setKeepalive(peer: number, seconds: number): void {
    this.#prepare();
    check.equal(this.#after(this.core.exports.peerSetPersistentKeepalive(peer, seconds)), abi.OK);
  }

  setMtu(mtu: number): void {
    this.core.exports.deviceSetMtu(mtu);
  }

  handshake(peer: number): void {
    this.#prepare();
    check.equal(this.#after(this.core.exports.peerHandshake(peer)), abi.OK);
  }

  keepalive(peer: number): void {
    this.#prepare();
    check.equal(this.#after(this.core.exports.peerKeepalive(peer)), abi.OK);
  }

  up(): void {
    this.#prepare();
    this.#host.trace.add(this.#host.now(), this.name, "up", "");
    this.core.exports.deviceUp();
    this.#settle();
  }

  down(): void {
    this.#prepare();
    this.#host.trace.add(this.#host.now(), this.name, "down", "");
    this.core.exports.deviceDown();
    this.#settle();
  }

  // --- packets -----------------------------------------------------------------------------------------------------

  /** Packets of the TUN, at most 64. */
  send(...packets: Uint8Array[]): void {
    const { view, u8, base, slots } = this.core;
    packets.forEach((packet, i) => {
      const at = slots + abi.SLOT_SIZE * i + abi.SLOT_HEADROOM;
      u8.set(packet, at);
      this.#writeIn(base + abi.THREAD_IN + abi.IN_SIZE * i, at, packet.length, 0, 0);
      this.#host.trace.add(this.#host.now(), this.name, "tun", `${packet.length} ${hashOf(packet)}`);
    });
    this.#prepare();
    const outs = this.core.exports.deviceSend(packets.length);
    check.ok(outs >= 0, `deviceSend: status ${outs}`);
    check.equal(view.getUint32(base + abi.THREAD_OUT_COUNT, true), outs);
    this.#takeOuts(outs);
    this.#settle();
  }

  /** Datagrams of the socket, at most 64, in one call. */
  receive(...incoming: Incoming[]): void {
    const { view, u8, base, slots } = this.core;
    incoming.forEach(({ bytes, from, tos = 0, segment = 0, truncated = false }, i) => {
      const at = slots + abi.SLOT_SIZE * i + abi.SLOT_HEADROOM;
      const record = base + abi.THREAD_IN + abi.IN_SIZE * i;
      u8.set(bytes, at);
      this.#writeIn(record, at, bytes.length, segment, (tos << 16) | (truncated ? abi.IN_TRUNCATED : 0));
      encodeEndpoint(view, record + abi.IN_ENDPOINT, parseEndpoint(from));
      this.datagrams += segment && segment < bytes.length ? Math.ceil(bytes.length / segment) : 1;
      const text = `${describe(bytes)} ${bytes.length} ${from} ${hashOf(bytes)}`;
      this.#host.trace.add(this.#host.now(), this.name, "in", text);
    });
    for (let first = 0; first < incoming.length; ) {
      this.#prepare();
      const next = this.core.exports.deviceReceive(first, incoming.length);
      check.ok(next > first && next <= incoming.length, `deviceReceive(${first}, ${incoming.length}): ${next}`);
      first = next;
      this.#takeDelivered();
    }
    this.#settle();
  }

  /** One call of deviceService, and what it puts out. @returns whether it wants to be called again */
  serviceOnce(): boolean {
    this.#prepare();
    const outs = this.core.exports.deviceService();
    check.ok(outs >= 0, `deviceService: status ${outs}`);
    const { more } = this.core;
    this.#takeOuts(outs);
    this.#readEvents();
    return more;
  }

  /** Does what is due, all of it. */
  service(): void {
    for (let calls = 0; this.serviceOnce(); calls++) check.ok(calls < 10_000, `${this.name}: service never ends`);
    this.#refresh();
    check.ok(this.#deadline > this.#host.now(), `${this.name}: a deadline stays in the past after service`);
    this.#traceRefusals();
  }

  /** ns on the simulator's clock, Infinity when no timer is armed. */
  get deadline(): number {
    return this.#deadline;
  }

  // --- looking in --------------------------------------------------------------------------------------------------

  /** Refused so far, by reason; or all reasons that occurred. */
  drops(reason: string): number;
  drops(): Record<string, number>;
  drops(reason?: string): number | Record<string, number> {
    if (reason !== undefined) {
      const number = DROP_NAMES.indexOf(reason);
      check.ok(number > 0, `no drop reason is called ${reason}`);
      return this.#dropCount(number);
    }
    const drops: Record<string, number> = {};
    for (let number = 1; number < abi.DROP_COUNT; number++) {
      if (this.#dropCount(number)) drops[DROP_NAMES[number]] = this.#dropCount(number);
    }
    return drops;
  }

  /** Datagrams handed to deviceReceive and consumed without a drop, as the core counts them. */
  counts(): { received: number; consumed: number; queued: number } {
    const { view } = this.core;
    return {
      received: Number(view.getBigUint64(abi.DEVICE_RX_DATAGRAMS, true)),
      consumed: Number(view.getBigUint64(abi.DEVICE_RX_DELIVERED, true)),
      queued: view.getUint32(QUEUE_COUNTS.at, true) - view.getUint32(QUEUE_COUNTS.at + 4, true),
    };
  }

  info(peer: number): PeerInfo {
    const { view, base, exports } = this.core;
    check.equal(exports.peerInfo(peer), abi.OK);
    const at = base + abi.THREAD_PEER_INFO;
    const u64 = (offset: number): number => Number(view.getBigUint64(at + offset, true));
    const u32 = (offset: number): number => view.getUint32(at + offset, true);
    const endpoint = decodeEndpoint(view, at + abi.PEER_INFO_ENDPOINT);
    this.core.u8.fill(0, at + abi.PEER_INFO_PRESHARED_KEY, at + abi.PEER_INFO_PRESHARED_KEY + 32);
    return {
      endpoint: endpoint ? formatEndpoint(endpoint) : "",
      lastHandshake: u64(abi.PEER_INFO_LAST_HANDSHAKE_SEC) * 1e9 + u32(abi.PEER_INFO_LAST_HANDSHAKE_NSEC),
      rxBytes: u64(abi.PEER_INFO_RX_BYTES),
      txBytes: u64(abi.PEER_INFO_TX_BYTES),
      rxPackets: u64(abi.PEER_INFO_RX_PACKETS),
      txPackets: u64(abi.PEER_INFO_TX_PACKETS),
      drops: u64(abi.PEER_INFO_DROPS),
      staged: u32(abi.PEER_INFO_STAGED),
      sessions: u32(abi.PEER_INFO_SESSIONS),
      attempts: u32(abi.PEER_INFO_HANDSHAKE_ATTEMPTS),
    };
  }

  /** When the timer expires, ns on the simulator's clock, or Infinity. */
  timer(peer: number, name: TimerName): number {
    const when = Number(this.core.view.getBigUint64(this.peerAddress(peer) + PEER[name], true));
    return when === 0 ? Infinity : when - 1; // the core's clock is one nanosecond ahead (input.ts)
  }

  /** The keys of a session, copied, or undefined when there is none in that place. */
  session(peer: number, name: SessionName): SessionKeys | undefined {
    const at = this.#sessionAt(peer, name);
    if (!at) return undefined;
    const { u8, view } = this.core;
    return {
      sending: u8.slice(at + SESSION.sending, at + SESSION.sending + 32),
      receiving: u8.slice(at + SESSION.receiving, at + SESSION.receiving + 32),
      local: view.getUint32(at + SESSION.localIndex, true),
      remote: view.getUint32(at + SESSION.remoteIndex, true),
    };
  }

  /** Makes a session's next counter another: nobody can send 2^60 packets in a test. */
  setSendCounter(peer: number, counter: bigint): void {
    const at = this.#sessionAt(peer, "current");
    check.ok(at, "no current session");
    this.core.view.setBigUint64(at + SESSION.counter, counter, true);
  }

  /** The private ephemeral key of the handshake under way. */
  ephemeral(peer: number): Uint8Array {
    const at = this.peerAddress(peer) + PEER.ephemeral;
    return this.core.u8.slice(at, at + 32);
  }

  peerAddress(peer: number): number {
    return this.core.view.getUint32(MAP.peers, true) + peer * abi.PEER_SIZE;
  }

  /** The last 32 random bits that the core took: a call that arms a timer with jitter takes them last. */
  get lastRandom(): number {
    const left = this.core.view.getUint32(this.core.base + abi.THREAD_RANDOM_LEFT, true);
    return new DataView(this.#pool.buffer).getUint32(abi.THREAD_RANDOM_SIZE - left - 4, true);
  }

  /** Decides random bytes: `bytes` are taken after the next `skip` ones. */
  setRandom(skip: number, bytes: Uint8Array): void {
    this.#refill();
    const { view, u8, base } = this.core;
    const next = abi.THREAD_RANDOM_SIZE - view.getUint32(base + abi.THREAD_RANDOM_LEFT, true) + skip;
    this.#pool.set(bytes, next);
    u8.set(bytes, base + abi.THREAD_RANDOM + next);
  }

  /** Everything a peer's state consists of: the device page, peers, tables and allowed IPs. */
  snapshot(): Uint8Array {
    const { u8, view } = this.core;
    const pools = u8.subarray(view.getUint32(MAP.peers, true), view.getUint32(MAP.staged, true));
    const copy = new Uint8Array(abi.DEVICE_SIZE + pools.length);
    copy.set(u8.subarray(abi.DEVICE_BASE, abi.DEVICE_BASE + abi.DEVICE_SIZE));
    copy.set(pools, abi.DEVICE_SIZE);
    // What a refused datagram may move: the counters of datagrams and drops, and the turn of the queue it waited in.
    const peers = abi.DEVICE_SIZE;
    copy.fill(0, abi.DEVICE_DROPS - abi.DEVICE_BASE, abi.DEVICE_DROPS - abi.DEVICE_BASE + abi.DROP_COUNT * 8);
    copy.fill(0, abi.DEVICE_RX_DATAGRAMS - abi.DEVICE_BASE, abi.DEVICE_RX_DATAGRAMS - abi.DEVICE_BASE + 8);
    copy.fill(0, QUEUE_COUNTS.at - abi.DEVICE_BASE, QUEUE_COUNTS.at - abi.DEVICE_BASE + QUEUE_COUNTS.length);
    for (let peer = 0; peer < view.getUint32(abi.DEVICE_PEER_LIMIT, true); peer++) {
      const at = peers + peer * abi.PEER_SIZE + PEER.drops;
      copy.fill(0, at, at + 8);
    }
    return copy;
  }

  /** Addresses where `bytes` lie anywhere in the core's memory. */
  find(bytes: Uint8Array): number[] {
    return this.findAny([bytes]);
  }

  /**
   * Addresses where any of these pieces lies, in one walk over the memory. A piece does not begin with four zeros: most
   * of the memory is zero, and is skipped by words.
   */
  findAny(pieces: Uint8Array[]): number[] {
    const memory = this.core.u8.slice();
    const words = new Int32Array(memory.buffer);
    const starts = new Uint8Array(65536);
    for (const piece of pieces) {
      check.ok(piece[0] | piece[1] | piece[2] | piece[3], "a piece begins with four zeros");
      starts[piece[0] | (piece[1] << 8)] = 1;
    }
    const found: number[] = [];
    let at = 0;
    for (let word = 0; word < words.length; word++) {
      if (words[word] === 0) continue;
      for (at = Math.max(at, word * 4 - 3); at <= word * 4 + 3; at++) {
        if (!starts[memory[at] | (memory[at + 1] << 8)]) continue;
        if (pieces.some((piece) => piece.every((byte, i) => memory[at + i] === byte))) found.push(at);
      }
    }
    return found;
  }

  /** What happened of one kind. */
  eventsOf(what: string): NodeEvent[] {
    check.ok(EVENT_NAMES.includes(what), `no event is called ${what}`);
    return this.events.filter((it) => it.what === what);
  }

  // --- the calls' frame --------------------------------------------------------------------------------------------

  #prepare(): void {
    const { view, base } = this.core;
    const now = this.#host.now();
    writeTime(view, base + abi.THREAD_MONO, now);
    writeTime(view, base + abi.THREAD_WALL, now + this.wallOffset);
    this.#refill();
  }

  // As CoreRandom does: what was used, once a third is.
  #refill(): void {
    const { view, u8, base } = this.core;
    const used = abi.THREAD_RANDOM_SIZE - view.getUint32(base + abi.THREAD_RANDOM_LEFT, true);
    if (used < abi.THREAD_RANDOM_SIZE / 3) return;
    this.#stream.fill(this.#pool.subarray(0, used));
    u8.set(this.#pool.subarray(0, used), base + abi.THREAD_RANDOM);
    view.setUint32(base + abi.THREAD_RANDOM_LEFT, abi.THREAD_RANDOM_SIZE, true);
  }

  #after(status: number): number {
    this.#settle();
    return status;
  }

  // After any call that may have left work: a host that looked at THREAD_KICK would do the same, or less.
  #settle(): void {
    if (this.automatic) this.service();
    else {
      this.#refresh();
      this.#traceRefusals();
    }
  }

  #refresh(): void {
    this.core.exports.deviceNextDeadline();
    const ms = this.core.view.getFloat64(this.core.base + abi.THREAD_DEADLINE, true);
    this.#deadline = ms === Infinity ? Infinity : Math.round(ms * 1e6);
  }

  #writeIn(record: number, at: number, length: number, segment: number, flags: number): void {
    const { view } = this.core;
    view.setUint32(record + abi.IN_OFFSET, at, true);
    view.setUint32(record + abi.IN_LENGTH, length, true);
    view.setUint32(record + abi.IN_SEGMENT, segment, true);
    view.setUint32(record + abi.IN_FLAGS, flags, true);
  }

  #bytesOf(offset: number, length: number): Uint8Array {
    const { slots, u8 } = this.core;
    const inside = offset >= slots && offset + length <= slots + abi.SLOTS_SIZE;
    check.ok(inside, `${offset}+${length} is outside of the slots`);
    return u8.slice(offset, offset + length);
  }

  #takeOuts(count: number): void {
    const { view, base } = this.core;
    const outs: Datagram[] = [];
    for (let i = 0; i < count; i++) {
      const record = base + abi.THREAD_OUT + i * abi.OUT_SIZE;
      const offset = view.getUint32(record + abi.OUT_OFFSET, true);
      const bytes = this.#bytesOf(offset, view.getUint32(record + abi.OUT_LENGTH, true));
      const endpoint = decodeEndpoint(view, record + abi.OUT_ENDPOINT);
      check.ok(endpoint, "an OUT record without an endpoint");
      const to = formatEndpoint(endpoint);
      const tos = view.getUint32(record + abi.OUT_TOS, true);
      const segment = view.getUint32(record + abi.OUT_SEGMENT, true) || bytes.length;
      for (let at = 0; at < bytes.length; at += segment) {
        outs.push({ from: this.address, to, bytes: bytes.slice(at, at + segment), tos });
      }
    }
    for (const out of outs) {
      const text = `${describe(out.bytes)} ${out.bytes.length} ${out.to} ${hashOf(out.bytes)}`;
      this.#host.trace.add(this.#host.now(), this.name, "out", text);
      // The address may have moved with the datagram before.
      this.#host.wire.send({ ...out, from: this.address });
    }
  }

  #takeDelivered(): void {
    const { view, base } = this.core;
    const count = view.getUint32(base + abi.THREAD_DELIVER_COUNT, true);
    const packets: { peer: number; packet: Uint8Array }[] = [];
    let parts: Uint8Array[] = [];
    for (let i = 0; i < count; i++) {
      const record = base + abi.THREAD_DELIVER + i * abi.DELIVER_SIZE;
      const offset = view.getUint32(record + abi.DELIVER_OFFSET, true);
      parts.push(this.#bytesOf(offset, view.getUint32(record + abi.DELIVER_LENGTH, true)));
      if (view.getUint32(record + abi.DELIVER_FLAGS, true) & abi.DELIVER_CONTINUES) continue;
      const packet = parts.length === 1 ? parts[0] : Uint8Array.from(parts.flatMap((part) => [...part]));
      packets.push({ peer: view.getUint32(record + abi.DELIVER_PEER, true), packet });
      parts = [];
    }
    for (const { peer, packet } of packets) {
      this.#host.trace.add(this.#host.now(), this.name, "deliver", `${packet.length} ${hashOf(packet)}`);
      this.delivered?.push({ peer, packet });
    }
    if (this.onDeliver) for (const { peer, packet } of packets) this.onDeliver(packet, peer);
  }

  #readEvents(): void {
    const { view } = this.core;
    const head = view.getUint32(abi.DEVICE_EVENT_HEAD, true);
    const lost = head - this.#eventTail - abi.EVENT_MAX;
    if (lost > 0) {
      this.#host.trace.add(this.#host.now(), this.name, "event", `lost ${lost}`);
      this.#eventTail += lost;
    }
    for (; this.#eventTail !== head; this.#eventTail++) {
      const at = abi.EVENTS + (this.#eventTail % abi.EVENT_MAX) * abi.EVENT_SIZE;
      const type = view.getUint32(at + abi.EVENT_TYPE, true);
      const peer = view.getUint32(at + abi.EVENT_PEER, true);
      const argument = view.getUint32(at + abi.EVENT_ARGUMENT, true);
      const what = EVENT_NAMES[type] ?? `event ${type}`;
      this.events.push({ time: this.#host.now(), what, peer, argument });
      const who = peer === NO_PEER ? "" : ` peer ${peer}`;
      this.#host.trace.add(this.#host.now(), this.name, "event", `${what}${who} ${argument}`);
    }
  }

  #dropCount(reason: number): number {
    const at = abi.DEVICE_DROPS + reason * 8;
    return this.core.view.getUint32(at, true) + this.core.view.getUint32(at + 4, true) * 2 ** 32;
  }

  #traceRefusals(): void {
    for (let reason = 1; reason < abi.DROP_COUNT; reason++) {
      const count = this.#dropCount(reason);
      const more = count - this.#refusals[reason];
      if (!more) continue;
      this.#refusals[reason] = count;
      this.#host.trace.add(this.#host.now(), this.name, "refuse", `${DROP_NAMES[reason]} ${more}`);
    }
  }

  #sessionAt(peer: number, name: SessionName): number {
    const at = this.peerAddress(peer);
    const slot = this.core.view.getUint32(at + PEER[name], true);
    return slot === NO_PEER ? 0 : at + PEER.sessions + slot * SESSION.size;
  }
}

// A timespec {i64 s, i64 ns}; both below 2^32.
function writeTime(view: DataView, at: number, time: number): void {
  view.setUint32(at, Math.floor(time / 1e9), true);
  view.setUint32(at + 4, 0, true);
  view.setUint32(at + 8, time % 1e9, true);
  view.setUint32(at + 12, 0, true);
}
