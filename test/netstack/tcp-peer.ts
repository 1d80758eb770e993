// A peer whose every segment the test writes itself, against one host: for rules that two well-behaved ends never show.

import assert from "node:assert/strict";
import { parseIp, type IpAddress } from "../../host/ip.ts";
import type { IpHeader, TcpConnection, TcpListener } from "../../host/netstack/types.ts";
import { craft, dissect, FLAG, Host, option, VirtualClock, type Seen } from "./tcp-wire.ts";

export interface PeerOptions {
  mtu?: number;
  gsoMaxSize?: number;
  family?: 4 | 6;
  timestamps?: boolean;
  sack?: boolean;
  scale?: number;
  mss?: number;
  window?: number;
  seed?: number;
}

export const PORT = 80;

export class Peer {
  readonly clock = new VirtualClock();
  readonly host: Host;
  readonly address: IpAddress;
  /** what the host sent and take() has not given */
  private readonly queue: Seen[] = [];
  readonly all: Seen[] = [];
  options: PeerOptions;
  port = 5000;
  hostPort = PORT;
  /** ours: initial, next, what we acknowledge */
  initial = 100_000;
  next = 100_000;
  ack = 0;
  /** the host's ISS */
  hostInitial = 0;
  window: number;
  /** offset of our timestamps */
  timestampBase = 7_000_000;
  echo = 0;

  constructor(options: PeerOptions = {}) {
    this.options = { timestamps: false, sack: true, mss: 1000, ...options };
    this.window = options.window ?? 65_535;
    const v6 = options.family === 6;
    this.address = parseIp(v6 ? "fd00::2" : "10.0.0.2");
    const own = v6 ? "fd00::1" : "10.0.0.1";
    this.host = new Host("host", this.clock, own, options.mtu ?? 1420, options.gsoMaxSize ?? 0, options.seed ?? 3);
    this.host.out = (bytes) => {
      const seen = dissect(bytes, "host", this.clock.time);
      if (seen.timestamps) this.echo = seen.timestamps[0];
      this.queue.push(seen);
      this.all.push(seen);
    };
  }

  get tcp() {
    return this.host.tcp;
  }

  /** The IP header of what the host sent to us, as an ICMP error quotes it */
  get ourHeader(): IpHeader {
    const { host, address } = this;
    return {
      family: address.family,
      source: host.address.address,
      destination: address.address,
      protocol: 6,
      trafficClass: 0,
      hopLimit: 1,
    };
  }

  /** What the host sent since the last take(). */
  take(): Seen[] {
    return this.queue.splice(0);
  }

  /** The one segment that the host sent. */
  takeOne(): Seen {
    const seen = this.take();
    assert.equal(seen.length, 1, `${seen.length} segments: ${JSON.stringify(seen.map(brief))}`);
    return seen[0];
  }

  takeNone(): void {
    assert.deepEqual(this.take().map(brief), []);
  }

  send(fields: {
    flags: number;
    sequence?: number;
    acknowledgment?: number;
    window?: number;
    payload?: Uint8Array;
    options?: number[];
    timestamp?: number;
    echo?: number;
    sacks?: [number, number][];
    gsoSize?: number;
  }): void {
    let { options = [] } = fields;
    if (this.options.timestamps && fields.options === undefined) {
      options = option.timestamps(fields.timestamp ?? this.timestamp, fields.echo ?? this.echo);
    }
    if (fields.sacks) options = [...options, ...option.sacks(...fields.sacks)];
    const bytes = craft({
      sourcePort: this.port,
      destinationPort: this.hostPort,
      sequence: fields.sequence ?? this.next,
      acknowledgment: fields.acknowledgment ?? this.ack,
      flags: fields.flags,
      window: fields.window ?? this.window,
      payload: fields.payload,
      options,
    });
    this.host.receive(bytes, this.address, fields.gsoSize ?? 0);
  }

  get timestamp(): number {
    return (this.timestampBase + Math.floor(this.clock.time)) >>> 0;
  }

  synOptions(): number[] {
    const { timestamps, sack, scale, mss } = this.options;
    return [
      ...(mss ? option.mss(mss) : []),
      ...(sack ? option.sackPermitted : []),
      ...(timestamps ? option.timestamps(this.timestamp, this.echo) : []),
      ...(scale === undefined ? [] : option.scale(scale)),
    ];
  }

  /** In order, and our own next follows. */
  data(payload: Uint8Array, flags: number = FLAG.ACK): void {
    this.send({ flags, payload });
    this.next += payload.length + (flags & FLAG.FIN ? 1 : 0);
  }

  /** Acknowledges `len` more bytes. */
  acknowledge(len: number, fields: { sacks?: [number, number][]; window?: number; echo?: number } = {}): void {
    this.ack = (this.ack + len) >>> 0;
    this.send({ flags: FLAG.ACK, ...fields });
  }

  /** The host connects, we answer; `rttMs` passes in between. */
  accept(rttMs = 10): TcpConnection {
    const connection = this.tcp.connect({ ...this.address, port: this.port });
    const syn = this.takeOne();
    this.hostPort = syn.sourcePort;
    this.hostInitial = syn.sequence;
    this.ack = (syn.sequence + 1) >>> 0;
    this.clock.advance(rttMs);
    this.send({ flags: FLAG.SYN | FLAG.ACK, options: this.synOptions() });
    this.next = this.initial + 1;
    const ack = this.takeOne();
    assert.equal(ack.flags, FLAG.ACK);
    assert.equal(connection.state, "established");
    return connection;
  }

  /** We connect to the host. */
  connect(rttMs = 10): { connection: TcpConnection; listener: TcpListener } {
    const listener = this.tcp.listen(PORT);
    let connection: TcpConnection | null = null;
    listener.onConnection = (it) => (connection = it);
    this.send({ flags: FLAG.SYN, acknowledgment: 0, options: this.synOptions() });
    const answer = this.takeOne();
    assert.equal(answer.flags, FLAG.SYN | FLAG.ACK);
    this.hostInitial = answer.sequence;
    this.ack = (answer.sequence + 1) >>> 0;
    this.next = this.initial + 1;
    this.clock.advance(rttMs);
    this.send({ flags: FLAG.ACK });
    if (connection === null) throw new Error("no connection");
    return { connection, listener };
  }

  /** Position in the host's stream: the first byte is 0. */
  at(sequence: number): number {
    return (sequence - this.hostInitial - 1) | 0;
  }

  /** The wire's number of a position in the host's stream. */
  wire(position: number): number {
    return (this.hostInitial + 1 + position) >>> 0;
  }

  advance(ms: number): void {
    this.clock.advance(ms);
  }
}

export function brief(seen: Seen): { flags: number; len: number } {
  return { flags: seen.flags, len: seen.len };
}

/** Names of the flags, in the order of the header's bits. */
export function flagNames(seen: Seen): string {
  return (["FIN", "SYN", "RST", "ACK"] as const).filter((name) => seen.flags & FLAG[name]).join(" ");
}
