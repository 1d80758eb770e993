// Two hosts with a TCP layer each, on a virtual clock, joined by a wire that may lose, repeat, reorder, delay and cut
// what it carries: everything from one seed. Super-segments are cut here by a plain second implementation; a wire may
// also pass them whole, or join segments as a receiver's offload does.

import { parseIp, type IpAddress } from "../../host/ip.ts";
import { Tcp } from "../../host/netstack/tcp/layer.ts";
import type {
  IpHeader, IpLayer, Outgoing, StackClock, TcpConnection, TcpListener,
} from "../../host/netstack/types.ts";

interface Timer {
  at: number;
  order: number;
  callback: () => void;
}

export class VirtualClock implements StackClock {
  time = 1000;
  private order = 0;
  private readonly heap: Timer[] = [];
  private readonly live = new Set<Timer>();
  /** timers that the layers set and that are neither due nor cleared */
  timers = 0;

  now(): number {
    return this.time;
  }

  setTimer(callback: () => void, delayMs: number): unknown {
    this.timers++;
    const timer = this.at(this.time + Math.max(0, delayMs), () => {
      this.timers--;
      callback();
    });
    return timer;
  }

  clearTimer(timer: unknown): void {
    if (this.live.delete(timer as Timer)) this.timers--;
  }

  /** Something of the test's own, not counted. */
  at(at: number, callback: () => void): Timer {
    const timer = { at, order: this.order++, callback };
    this.live.add(timer);
    this.push(timer);
    return timer;
  }

  /** Runs what is due until `time`, or until nothing is left. */
  run(untilMs: number): void {
    while (this.heap.length > 0 && this.heap[0].at <= untilMs) this.step();
    if (Number.isFinite(untilMs)) this.time = Math.max(this.time, untilMs);
  }

  advance(ms: number): void {
    this.run(this.time + ms);
  }

  /** Runs until `done` or for at most `ms`. @returns whether it was done */
  runUntil(done: () => boolean, ms: number): boolean {
    const end = this.time + ms;
    while (!done()) {
      if (this.heap.length === 0 || this.heap[0].at > end) {
        this.time = Math.max(this.time, end);
        return done();
      }
      this.step();
    }
    return true;
  }

  private step(): void {
    const timer = this.pop();
    if (!this.live.delete(timer)) return;
    this.time = Math.max(this.time, timer.at);
    timer.callback();
  }

  private before(a: Timer, b: Timer): boolean {
    return a.at < b.at || (a.at === b.at && a.order < b.order);
  }

  private push(timer: Timer): void {
    const { heap } = this;
    let i = heap.push(timer) - 1;
    while (i > 0 && this.before(heap[i], heap[(i - 1) >> 1])) {
      [heap[i], heap[(i - 1) >> 1]] = [heap[(i - 1) >> 1], heap[i]];
      i = (i - 1) >> 1;
    }
  }

  private pop(): Timer {
    const { heap } = this;
    const top = heap[0];
    const last = heap.pop() as Timer;
    if (heap.length === 0) return top;
    heap[0] = last;
    for (let i = 0; ; ) {
      let least = i;
      for (const child of [2 * i + 1, 2 * i + 2]) {
        if (child < heap.length && this.before(heap[child], heap[least])) least = child;
      }
      if (least === i) return top;
      [heap[i], heap[least]] = [heap[least], heap[i]];
      i = least;
    }
  }
}

/** mulberry32: small, seeded, good enough to toss coins */
export function randomFrom(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Bytes that differ at every position of a stream, so that a wrong offset shows. */
export function pattern(from: number, len: number): Uint8Array {
  const bytes = new Uint8Array(len);
  for (let i = 0; i < len; i++) {
    const at = from + i;
    bytes[i] = (at ^ (at >>> 8) * 31 ^ (at >>> 16) * 17) & 0xff;
  }
  return bytes;
}

export const FLAG = { FIN: 1, SYN: 2, RST: 4, PSH: 8, ACK: 16, URG: 32 } as const;

/** A segment taken apart by the test, not by the code under test. */
export interface Seen {
  from: string;
  at: number;
  bytes: Uint8Array;
  sourcePort: number;
  destinationPort: number;
  sequence: number;
  acknowledgment: number;
  flags: number;
  window: number;
  len: number;
  payload: Uint8Array;
  mss?: number;
  scale?: number;
  sackPermitted: boolean;
  timestamps?: [value: number, echo: number];
  sacks: [start: number, end: number][];
}

export function dissect(bytes: Uint8Array, from = "", at = 0): Seen {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const headerLen = (bytes[12] >> 4) * 4;
  const seen: Seen = {
    from,
    at,
    bytes,
    sourcePort: view.getUint16(0),
    destinationPort: view.getUint16(2),
    sequence: view.getUint32(4),
    acknowledgment: view.getUint32(8),
    flags: bytes[13],
    window: view.getUint16(14),
    len: bytes.length - headerLen,
    payload: bytes.subarray(headerLen),
    sackPermitted: false,
    sacks: [],
  };
  for (let i = 20; i < headerLen && bytes[i] !== 0; ) {
    if (bytes[i] === 1) {
      i++;
      continue;
    }
    if (bytes[i] === 2) seen.mss = view.getUint16(i + 2);
    if (bytes[i] === 3) seen.scale = bytes[i + 2];
    if (bytes[i] === 4) seen.sackPermitted = true;
    if (bytes[i] === 5) {
      for (let j = i + 2; j < i + bytes[i + 1]; j += 8) seen.sacks.push([view.getUint32(j), view.getUint32(j + 4)]);
    }
    if (bytes[i] === 8) seen.timestamps = [view.getUint32(i + 2), view.getUint32(i + 6)];
    i += bytes[i + 1];
  }
  return seen;
}

export interface SegmentFields {
  sourcePort: number;
  destinationPort: number;
  sequence: number;
  acknowledgment?: number;
  flags: number;
  window?: number;
  payload?: Uint8Array;
  /** as bytes, padded with zeros */
  options?: number[];
}

/** A segment put together by the test. */
export function craft(fields: SegmentFields): Uint8Array {
  const options = fields.options ?? [];
  const headerLen = 20 + Math.ceil(options.length / 4) * 4;
  const payload = fields.payload ?? new Uint8Array(0);
  const bytes = new Uint8Array(headerLen + payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, fields.sourcePort);
  view.setUint16(2, fields.destinationPort);
  view.setUint32(4, fields.sequence >>> 0);
  view.setUint32(8, (fields.acknowledgment ?? 0) >>> 0);
  bytes[12] = (headerLen / 4) << 4;
  bytes[13] = fields.flags;
  view.setUint16(14, fields.window ?? 65535);
  bytes.set(options, 20);
  bytes.set(payload, headerLen);
  return bytes;
}

export const option = {
  mss: (mss: number) => [2, 4, mss >> 8, mss & 255],
  scale: (shift: number) => [1, 3, 3, shift],
  sackPermitted: [1, 1, 4, 2],
  timestamps: (value: number, echo: number) => [1, 1, 8, 10, ...word(value), ...word(echo)],
  sacks: (...blocks: [number, number][]) => [1, 1, 5, 2 + 8 * blocks.length, ...blocks.flat().flatMap(word)],
};

function word(value: number): number[] {
  return [(value >>> 24) & 255, (value >>> 16) & 255, (value >>> 8) & 255, value & 255];
}

export class Host implements IpLayer {
  readonly name: string;
  readonly clock: VirtualClock;
  readonly address: IpAddress;
  gsoMaxSize: number;
  mtu: number;
  readonly tcp: Tcp;
  readonly random: (bytes: Uint8Array) => void;
  /** where segments go */
  out: (bytes: Uint8Array, gsoSize: number, outgoing: Outgoing) => void = () => {};

  constructor(name: string, clock: VirtualClock, address: string, mtu: number, gsoMaxSize: number, seed: number) {
    this.name = name;
    this.clock = clock;
    this.address = parseIp(address);
    this.mtu = mtu;
    this.gsoMaxSize = gsoMaxSize;
    const next = randomFrom(seed);
    this.random = (bytes) => {
      for (let i = 0; i < bytes.length; i++) bytes[i] = next() * 256;
    };
    this.tcp = new Tcp(this);
  }

  send(outgoing: Outgoing): void {
    let len = outgoing.header.length;
    for (const piece of outgoing.payload) len += piece.length;
    const bytes = new Uint8Array(len);
    bytes.set(outgoing.header);
    let at = outgoing.header.length;
    for (const piece of outgoing.payload) {
      bytes.set(piece, at);
      at += piece.length;
    }
    this.out(bytes, outgoing.gsoSize, outgoing);
  }

  pathMtu(): number {
    return this.mtu;
  }

  sourceFor(destination: IpAddress): IpAddress | null {
    return destination.family === this.address.family ? this.address : null;
  }

  isOurs(address: IpAddress): boolean {
    return Buffer.compare(address.address, this.address.address) === 0;
  }

  /** A segment from `source` arrives. */
  receive(bytes: Uint8Array, source: IpAddress, gsoSize = 0): void {
    const ip: IpHeader = {
      family: this.address.family,
      source: source.address,
      destination: this.address.address,
      protocol: 6,
      trafficClass: 0,
      hopLimit: 64,
    };
    this.tcp.input(ip, bytes, { bytes, gsoSize, checksumVerified: true });
  }
}

export interface WireOptions {
  seed?: number;
  family?: 4 | 6;
  /** one way, ms */
  delayMs?: number;
  /** fractions of packets */
  loss?: number;
  duplicate?: number;
  /** delayed by as much again */
  reorder?: number;
  cut?: number;
  mtu?: number;
  gsoMaxSize?: number;
  /** super-segments are not cut; neighbours are joined up to this many bytes */
  join?: boolean;
  /** bits per ms; a queue of `queueLen` bytes before it */
  rate?: number;
  queueLen?: number;
}

/** Payload and header of each packet of a super-segment, slowly. */
export function segmentSlowly(bytes: Uint8Array, gsoSize: number): Uint8Array[] {
  const headerLen = (bytes[12] >> 4) * 4;
  const payload = bytes.subarray(headerLen);
  if (gsoSize === 0 || payload.length <= gsoSize) return [bytes];
  const packets: Uint8Array[] = [];
  const sequence = new DataView(bytes.buffer, bytes.byteOffset).getUint32(4);
  for (let at = 0; at < payload.length; at += gsoSize) {
    const part = payload.subarray(at, at + gsoSize);
    const packet = new Uint8Array(headerLen + part.length);
    packet.set(bytes.subarray(0, headerLen));
    packet.set(part, headerLen);
    new DataView(packet.buffer).setUint32(4, (sequence + at) >>> 0);
    if (at + gsoSize < payload.length) packet[13] &= ~(FLAG.FIN | FLAG.PSH);
    packets.push(packet);
  }
  return packets;
}

export class Wire {
  readonly clock = new VirtualClock();
  readonly a: Host;
  readonly b: Host;
  readonly seen: Seen[] = [];
  record = true;
  options: WireOptions;
  /** decides about each packet: true = it is lost */
  filter: (seen: Seen) => boolean = () => false;
  /** how much later than the others a packet comes, ms */
  delay: (seen: Seen) => number = () => 0;
  carried = 0;
  /** when each direction's bottleneck is free again */
  private readonly freeAt = new Map<Host, number>();
  private readonly held = new Map<Host, { bytes: Uint8Array; gsoSize: number }>();
  readonly random: () => number;

  constructor(options: WireOptions = {}) {
    this.options = options;
    const { seed = 1, family = 4, mtu = 1420, gsoMaxSize = 0 } = options;
    const addresses = family === 4 ? ["10.0.0.1", "10.0.0.2"] : ["fd00::1", "fd00::2"];
    this.random = randomFrom(seed);
    this.a = new Host("a", this.clock, addresses[0], mtu, gsoMaxSize, seed + 1);
    this.b = new Host("b", this.clock, addresses[1], mtu, gsoMaxSize, seed + 2);
    this.a.out = (bytes, gsoSize, outgoing) => this.carry(this.a, this.b, bytes, gsoSize, outgoing);
    this.b.out = (bytes, gsoSize, outgoing) => this.carry(this.b, this.a, bytes, gsoSize, outgoing);
  }

  private carry(from: Host, to: Host, bytes: Uint8Array, gsoSize: number, outgoing: Outgoing): void {
    const headers = from.address.family === 4 ? 20 : 40;
    if (gsoSize > 0 && from.gsoMaxSize === 0) throw new Error("a super-segment for a link that takes none");
    const most = gsoSize > 0 ? Math.min(from.gsoMaxSize, 65535) : from.mtu;
    if (headers + bytes.length > most) throw new Error(`${headers + bytes.length} bytes for a link of ${most}`);
    if (gsoSize > 0 && headers + outgoing.header.length + gsoSize > from.mtu) throw new Error(`segments of ${gsoSize}`);
    if (outgoing.checksumOffset !== 16) throw new Error("checksum offset");
    const packets = this.options.join ? [bytes] : segmentSlowly(bytes, gsoSize);
    for (const packet of packets) this.carryPacket(from, to, packet, this.options.join ? gsoSize : 0);
  }

  private carryPacket(from: Host, to: Host, packet: Uint8Array, gsoSize: number): void {
    const { delayMs = 5, loss = 0, duplicate = 0, reorder = 0, cut = 0 } = this.options;
    const seen = dissect(packet, from.name, this.clock.time);
    if (this.record) this.seen.push(seen);
    this.carried++;
    if (this.filter(seen) || this.random() < loss) return;
    const copies = this.random() < duplicate ? 2 : 1;
    for (let i = 0; i < copies; i++) {
      let late = delayMs + this.queue(from, packet.length) + this.delay(seen);
      if (late === Infinity) return;
      if (this.random() < reorder) late += delayMs * (0.2 + this.random());
      let bytes = packet;
      // What is cut never reaches a TCP behind a checksum but as a lie about the header's length.
      if (this.random() < cut) bytes = packet.subarray(0, Math.floor(this.random() * 20));
      this.clock.at(this.clock.time + late, () => this.deliver(from, to, bytes.slice(), gsoSize));
    }
  }

  /** @returns ms that the packet waits for its turn; Infinity = the queue is full */
  private queue(from: Host, len: number): number {
    const { rate, queueLen = 100_000 } = this.options;
    if (rate === undefined) return 0;
    const start = Math.max(this.clock.time, this.freeAt.get(from) ?? 0);
    if ((start - this.clock.time) * rate > queueLen * 8) return Infinity;
    const end = start + ((len + 20) * 8) / rate;
    this.freeAt.set(from, end);
    return end - this.clock.time;
  }

  private deliver(from: Host, to: Host, bytes: Uint8Array, gsoSize: number): void {
    if (this.options.join) this.joinAndDeliver(from, to, bytes, gsoSize);
    else to.receive(bytes, from.address);
  }

  /** Segments that follow each other within the same instant arrive as one. */
  private joinAndDeliver(from: Host, to: Host, bytes: Uint8Array, gsoSize: number): void {
    const waiting = this.held.get(to);
    if (waiting !== undefined) {
      const joined = join(waiting.bytes, bytes);
      if (joined !== null) {
        waiting.bytes = joined;
        waiting.gsoSize ||= gsoSize;
        return;
      }
      this.held.delete(to);
      to.receive(waiting.bytes, from.address, waiting.gsoSize);
    }
    const entry = { bytes, gsoSize };
    this.held.set(to, entry);
    this.clock.at(this.clock.time, () => {
      if (this.held.get(to) !== entry) return;
      this.held.delete(to);
      to.receive(entry.bytes, from.address, entry.gsoSize);
    });
  }

  /** A connection of each side. */
  pair(port = 80): { client: TcpConnection; server: TcpConnection; listener: TcpListener } {
    const listener = this.b.tcp.listen(port);
    let server: TcpConnection | null = null;
    listener.onConnection = (connection) => (server = connection);
    const client = this.a.tcp.connect({ ...this.b.address, port });
    if (!this.clock.runUntil(() => server !== null && client.state === "established", 200_000)) {
      throw new Error(`no connection: ${client.state}`);
    }
    return { client, server: server as unknown as TcpConnection, listener };
  }

  of(from: string): Seen[] {
    return this.seen.filter((seen) => seen.from === from);
  }
}

function join(first: Uint8Array, second: Uint8Array): Uint8Array | null {
  const a = dissect(first);
  const b = dissect(second);
  const headerLen = first.length - a.len;
  const follows = (a.sequence + a.len) >>> 0 === b.sequence;
  const plain = (a.flags | b.flags) & (FLAG.SYN | FLAG.FIN | FLAG.RST);
  if (!follows || plain || a.len === 0 || b.len === 0 || a.acknowledgment !== b.acknowledgment) return null;
  if (headerLen !== second.length - b.len || first.length + b.len > 65_000 || a.flags & FLAG.PSH) return null;
  const joined = new Uint8Array(first.length + b.len);
  joined.set(first);
  joined.set(b.payload, first.length);
  joined[13] |= b.flags;
  return joined;
}

/** Writes `len` bytes of the pattern as room comes, then shuts down if told. */
export function pour(connection: TcpConnection, len: number, options: { shutdown?: boolean } = {}): void {
  const { shutdown = true } = options;
  const chunk = 100_000;
  let sent = 0;
  const more = (): void => {
    while (sent < len) {
      const bytes = pattern(sent, Math.min(chunk, len - sent));
      const taken = connection.write(bytes);
      sent += taken;
      if (taken < bytes.length) return;
    }
    connection.onWritable = null;
    if (shutdown) connection.shutdown();
  };
  connection.onWritable = more;
  more();
}

/** Reads everything as it comes and compares it with the pattern. */
export class Sink {
  received = 0;
  wrongAt = -1;
  ended = false;
  closed = false;
  error: Error | null = null;

  constructor(connection: TcpConnection) {
    const take = (): void => {
      for (let bytes = connection.read(); bytes !== null; bytes = connection.read()) {
        if (this.wrongAt < 0 && Buffer.compare(bytes, pattern(this.received, bytes.length)) !== 0) {
          this.wrongAt = this.received;
        }
        this.received += bytes.length;
      }
      this.ended = connection.ended;
    };
    connection.onReadable = take;
    connection.onClosed = (error) => {
      take();
      this.closed = true;
      this.error = error;
    };
    take();
  }
}
