// The TCP layer of one host: connections found by four-tuple, listeners by port, TIME_WAIT, and what is nobody's, which
// is answered with an RST (RFC 9293 §3.10.7.1). Segments that arrive while one is processed (a link that loops back)
// wait.

import { WasmguardError } from "../../errors.ts";
import { formatIp, type IpAddress } from "../../ip.ts";
import type {
  DeliveryError, InPacket, IpHeader, IpLayer, Outgoing, SocketAddress, TcpApi, TransportLayer,
} from "../types.ts";
import { Budget } from "./budget.ts";
import { Connection, type Home } from "./connection.ts";
import {
  ACK, BACKLOG_DEFAULT, BUFFER_BUDGET, CONNECTION_MAX_COUNT, DEFERRED_MAX_COUNT, FIN, RST, SYN,
} from "./constants.ts";
import { createDrops, type DropReason, type Drops } from "./drops.ts";
import { InitialNumbers } from "./isn.ts";
import { Listener } from "./listener.ts";
import { pickPort } from "./ports.ts";
import { CHECKSUM, Segment, SegmentWriter } from "./segment.ts";
import { PagePool } from "./send-buffer.ts";
import { difference } from "./sequence.ts";
import { equal, Table } from "./table.ts";
import { TimeWait, type TimeWaitEntry } from "./time-wait.ts";

const PROTOCOL_TCP = 6;
const PORT_MAX = 65_535;
const SECRET_LEN = 24;
/** What an ICMP error quotes of a transport header at least: RFC 792 */
const QUOTED_LEN = 8;
const NO_PAYLOAD: Uint8Array[] = [];
/** RFC 9293 §3.10.7.4 and Linux: a reused pair of sockets begins well behind where the old one stopped */
const REUSE_GAP = 65_537;

/** A segment, or with `error` what an error quoted of one of ours */
interface Deferred {
  ip: IpHeader;
  bytes: Uint8Array;
  error: DeliveryError | null;
}

export class Tcp implements TransportLayer, TcpApi, Home {
  readonly ip: IpLayer;
  readonly writer = new SegmentWriter();
  readonly pool = new PagePool();
  readonly budget = new Budget(BUFFER_BUDGET);
  /** segments that were dropped, by reason */
  readonly drops: Drops = createDrops();
  private readonly connections: Table<Connection>;
  private readonly timeWait: TimeWait;
  private readonly listeners = new Map<number, Listener[]>();
  private readonly numbers: InitialNumbers;
  private readonly segment = new Segment();
  private readonly outgoing: Outgoing;
  private readonly deferred: Deferred[] = [];
  /** entries that are not done */
  private depth = 0;
  /** when the present one began */
  private time = 0;
  private drainTimer: unknown = null;
  private isClosed = false;

  constructor(ip: IpLayer) {
    this.ip = ip;
    const secret = new Uint8Array(SECRET_LEN);
    ip.random(secret);
    const seeds = new DataView(secret.buffer);
    this.numbers = new InitialNumbers(secret.subarray(0, 16));
    this.connections = new Table(seeds.getInt32(16));
    this.timeWait = new TimeWait(ip.clock, seeds.getInt32(20));
    const nowhere: IpAddress = { family: 4, address: new Uint8Array(4) };
    this.outgoing = {
      source: nowhere,
      destination: nowhere,
      protocol: PROTOCOL_TCP,
      header: secret.subarray(0, 0),
      checksumOffset: CHECKSUM,
      payload: NO_PAYLOAD,
      gsoSize: 0,
    };
  }

  // --- TcpApi ---

  connect(remote: SocketAddress, local: { address?: IpAddress; port?: number } = {}): Connection {
    this.checkOpen("connect");
    checkPort("connect to", remote.port, 1);
    const address = local.address ?? this.ip.sourceFor(remote);
    if (address === null || address.family !== remote.family || !this.ip.isOurs(address)) {
      const which = address === null ? `no IPv${remote.family} address of ours` : formatIp(address.address);
      throw new WasmguardError("EADDRNOTAVAIL", `Cannot connect to ${formatIp(remote.address)}: ${which}`);
    }
    if (this.connections.size >= CONNECTION_MAX_COUNT) {
      throw new WasmguardError("ENOBUFS", `Cannot connect: ${CONNECTION_MAX_COUNT} connections are open`);
    }
    const to = copySocket(remote, remote.port);
    const from = copySocket(address, this.localPort(address, to, local.port ?? 0));
    const connection = this.create(from, to, null);
    this.enter();
    try {
      connection.open();
    } finally {
      this.leave();
    }
    return connection;
  }

  listen(port: number, options: { address?: IpAddress; backlog?: number } = {}): Listener {
    this.checkOpen("listen");
    checkPort("listen on", port, 0);
    const address = options.address === undefined ? null : options.address.address.slice();
    if (options.address !== undefined && !this.ip.isOurs(options.address)) {
      const text = formatIp(options.address.address);
      throw new WasmguardError("EADDRNOTAVAIL", `Cannot listen on ${text}: it is not ours`);
    }
    if (port === 0) port = pickPort(this.ip.random, (candidate) => !this.listeners.has(candidate));
    const others = this.listeners.get(port) ?? [];
    const clash = others.some((other) => other.address === null || address === null || equal(other.address, address));
    if (clash || port === 0) throw new WasmguardError("EADDRINUSE", `Cannot listen on port ${port}: it is in use`);
    const local: SocketAddress = {
      family: options.address?.family ?? 6,
      address: address ?? new Uint8Array(16),
      port,
    };
    const listener = new Listener(local, address, options.backlog ?? BACKLOG_DEFAULT, (it) => this.removeListener(it));
    this.listeners.set(port, [...others, listener]);
    return listener;
  }

  counts(): { connections: number; timeWait: number; listeners: number } {
    let listeners = 0;
    for (const list of this.listeners.values()) listeners += list.length;
    return { connections: this.connections.size, timeWait: this.timeWait.table.size, listeners };
  }

  private checkOpen(what: string): void {
    if (this.isClosed) throw new WasmguardError("ENETDOWN", `Cannot ${what}: the stack is closed`);
  }

  private removeListener(listener: Listener): void {
    const { port } = listener.local;
    const rest = (this.listeners.get(port) ?? []).filter((other) => other !== listener);
    if (rest.length > 0) this.listeners.set(port, rest);
    else this.listeners.delete(port);
  }

  private localPort(address: IpAddress, remote: SocketAddress, wanted: number): number {
    if (wanted !== 0) {
      checkPort("connect from", wanted, 1);
      const waiting = this.timeWait.table.find(address.address, wanted, remote.address, remote.port);
      // RFC 6191 lets the peer tell the new one from the old by its timestamps, which tick in ms.
      const reusable = waiting === null || (waiting.timestamps && this.ip.clock.now() - waiting.began > 1000);
      if (reusable && this.find(address.address, wanted, remote.address, remote.port) === null) {
        return wanted;
      }
      throw new WasmguardError("EADDRINUSE", `Cannot connect from port ${wanted}: it is in use`);
    }
    const port = pickPort(this.ip.random, (candidate) => {
      if (this.listeners.has(candidate)) return false;
      if (this.find(address.address, candidate, remote.address, remote.port) !== null) return false;
      return this.timeWait.table.find(address.address, candidate, remote.address, remote.port) === null;
    });
    if (port === 0) {
      const to = `${formatIp(remote.address)}, port ${remote.port}`;
      throw new WasmguardError("EADDRNOTAVAIL", `Cannot connect to ${to}: no ephemeral port is free`);
    }
    return port;
  }

  private find(local: Uint8Array, localPort: number, remote: Uint8Array, remotePort: number): Connection | null {
    return this.connections.find(local, localPort, remote, remotePort);
  }

  private create(local: SocketAddress, remote: SocketAddress, listener: Listener | null): Connection {
    let initial = this.numbers.sequence(local, remote, this.ip.clock.now());
    const waiting = this.timeWait.table.find(local.address, local.port, remote.address, remote.port);
    if (waiting !== null) {
      const beyond = (waiting.sequence + REUSE_GAP) >>> 0;
      if (difference(initial, beyond) < 0) initial = beyond;
      this.timeWait.remove(waiting);
    }
    const clockOffset = this.numbers.clockOffset(local, remote);
    const connection = new Connection(this, local, remote, initial, clockOffset, listener);
    this.connections.add(connection);
    return connection;
  }

  // --- TransportLayer ---

  input(ip: IpHeader, segment: Uint8Array, _packet: InPacket): void {
    if (this.isClosed) return;
    if (this.depth > 0) {
      this.defer(ip, segment, null);
      return;
    }
    this.enter();
    try {
      this.process(ip, segment);
    } finally {
      this.leaveAndDrain();
    }
  }

  knows(ip: IpHeader, quoted: Uint8Array): boolean {
    if (quoted.length < QUOTED_LEN) return false;
    const { sourcePort, destinationPort, sequence } = quotedHeader(quoted);
    const connection = this.find(ip.source, sourcePort, ip.destination, destinationPort);
    return connection !== null && connection.isInFlight(sequence);
  }

  error(ip: IpHeader, quoted: Uint8Array, error: DeliveryError): void {
    if (this.isClosed || quoted.length < QUOTED_LEN) return;
    if (this.depth > 0) {
      this.defer(ip, quoted, error);
      return;
    }
    this.enter();
    try {
      this.processError(ip, quoted, error);
    } finally {
      this.leaveAndDrain();
    }
  }

  private processError(ip: IpHeader, quoted: Uint8Array, error: DeliveryError): void {
    const { sourcePort, destinationPort, sequence } = quotedHeader(quoted);
    const connection = this.find(ip.source, sourcePort, ip.destination, destinationPort);
    if (connection === null) this.drop("strayError");
    else connection.deliveryFailed(sequence, error);
  }

  close(): void {
    this.isClosed = true;
    const error = new WasmguardError("ECONNABORTED", "The stack was closed");
    for (const list of [...this.listeners.values()]) for (const listener of list) listener.close();
    for (const connection of [...this.connections]) connection.abort(error);
    this.timeWait.close();
    this.deferred.length = 0;
    if (this.drainTimer !== null) this.ip.clock.clearTimer(this.drainTimer);
    this.drainTimer = null;
  }

  private process(ip: IpHeader, bytes: Uint8Array): void {
    const { segment } = this;
    const reason = segment.parse(bytes) ?? (isOneHost(ip) ? null : "address");
    if (reason !== null) {
      this.drop(reason);
      return;
    }
    const { sourcePort, destinationPort } = segment;
    const connection = this.find(ip.destination, destinationPort, ip.source, sourcePort);
    if (connection !== null) {
      connection.input(segment);
      return;
    }
    const waiting = this.timeWait.table.find(ip.destination, destinationPort, ip.source, sourcePort);
    if (waiting !== null && !this.inputTimeWait(waiting, ip)) return;
    const listener = this.findListener(ip.destination, destinationPort);
    if (listener !== null) this.inputListen(listener, ip);
    else this.refuse(ip);
  }

  private findListener(address: Uint8Array, port: number): Listener | null {
    const list = this.listeners.get(port);
    if (list === undefined) return null;
    for (const listener of list) if (listener.address === null || equal(listener.address, address)) return listener;
    return null;
  }

  /** RFC 9293 §3.10.7.2 */
  private inputListen(listener: Listener, ip: IpHeader): void {
    const { segment } = this;
    if ((segment.flags & RST) !== 0) {
      this.drop("strayReset");
      return;
    }
    if ((segment.flags & ACK) !== 0 || listener.onConnection === null) {
      this.refuse(ip);
      return;
    }
    if ((segment.flags & SYN) === 0) {
      this.drop("noAck");
      return;
    }
    if (ip.source.every((byte, i) => byte === ip.destination[i]) && segment.sourcePort === segment.destinationPort) {
      this.drop("address"); // a socket does not call itself
      return;
    }
    if (this.connections.size >= CONNECTION_MAX_COUNT) {
      this.drop("connections");
      return;
    }
    const local: SocketAddress = { family: ip.family, address: ip.destination.slice(), port: segment.destinationPort };
    const remote: SocketAddress = { family: ip.family, address: ip.source.slice(), port: segment.sourcePort };
    const connection = this.create(local, remote, listener);
    const evicted = listener.begin(connection);
    connection.openPassive(segment);
    if (evicted === null) return;
    this.drop("backlog");
    evicted.evict();
  }

  /** RFC 9293 §3.10.7.4 for TIME_WAIT. @returns whether the segment is a SYN that may open it again */
  private inputTimeWait(entry: TimeWaitEntry, ip: IpHeader): boolean {
    const { segment } = this;
    if ((segment.flags & RST) !== 0) return false; // RFC 1337
    if ((segment.flags & (SYN | ACK)) === SYN && this.timeWait.mayReopen(entry, segment)) {
      return this.findListener(ip.destination, segment.destinationPort) !== null;
    }
    const isNext = segment.sequence === entry.acknowledgment && segment.payloadLen === 0;
    if (isNext && (segment.flags & (SYN | FIN)) === 0) return false;
    if ((segment.flags & FIN) !== 0) this.timeWait.restart(entry);
    const { writer } = this;
    const { sequence, acknowledgment, window } = entry;
    writer.begin(segment.destinationPort, segment.sourcePort, sequence, acknowledgment, ACK, window);
    if (entry.timestamps) {
      writer.timestamps((Math.floor(this.ip.clock.now()) + entry.clockOffset) >>> 0, entry.recentTimestamp);
    }
    this.reply(ip);
    return false;
  }

  /** Nobody's segment: RFC 9293 §3.10.7.1. */
  private refuse(ip: IpHeader): void {
    const { segment, writer } = this;
    const { flags, sourcePort, destinationPort } = segment;
    if ((flags & RST) !== 0) {
      this.drop("strayReset");
      return;
    }
    this.drop("noConnection");
    if ((flags & ACK) !== 0) {
      writer.begin(destinationPort, sourcePort, segment.acknowledgment, 0, RST, 0);
    } else {
      const len = segment.payloadLen + (flags & SYN ? 1 : 0) + (flags & FIN ? 1 : 0);
      writer.begin(destinationPort, sourcePort, 0, (segment.sequence + len) >>> 0, RST | ACK, 0);
    }
    this.reply(ip);
  }

  /** Sends what the writer holds back to where a segment came from. */
  private reply(ip: IpHeader): void {
    const local: SocketAddress = { family: ip.family, address: ip.destination, port: 0 };
    const remote: SocketAddress = { family: ip.family, address: ip.source, port: 0 };
    this.send(local, remote, this.writer.end(), NO_PAYLOAD, 0);
  }

  // --- Home ---

  drop(reason: DropReason): void {
    this.drops[reason]++;
  }

  now(): number {
    return this.depth > 0 ? this.time : this.ip.clock.now();
  }

  enter(): void {
    if (this.depth++ === 0) this.time = this.ip.clock.now();
  }

  leave(): void {
    this.depth--;
    if (this.depth > 0 || this.deferred.length === 0 || this.drainTimer !== null) return;
    this.drainTimer = this.ip.clock.setTimer(() => {
      this.drainTimer = null;
      this.enter();
      this.leaveAndDrain();
    }, 0);
  }

  leaveAndDrain(): void {
    try {
      // More may come while these are processed.
      while (this.depth === 1 && this.deferred.length > 0) {
        const next = this.deferred.shift() as Deferred;
        if (next.error === null) this.process(next.ip, next.bytes);
        else this.processError(next.ip, next.bytes, next.error);
      }
    } finally {
      this.leave();
    }
  }

  send(local: SocketAddress, remote: SocketAddress, header: Uint8Array, payload: Uint8Array[], gsoSize: number): void {
    const { outgoing } = this;
    outgoing.source = local;
    outgoing.destination = remote;
    outgoing.header = header;
    outgoing.payload = payload;
    outgoing.gsoSize = gsoSize;
    this.ip.send(outgoing);
  }

  retire(connection: Connection, entry: TimeWaitEntry | null): void {
    this.connections.remove(connection);
    if (entry !== null && !this.isClosed) this.timeWait.add(entry);
  }

  private defer(ip: IpHeader, bytes: Uint8Array, error: DeliveryError | null): void {
    if (this.deferred.length >= DEFERRED_MAX_COUNT) {
      this.drop("deferred");
      return;
    }
    const copy: IpHeader = { ...ip, source: ip.source.slice(), destination: ip.destination.slice() };
    this.deferred.push({ ip: copy, bytes: bytes.slice(), error });
  }
}

function copySocket(address: IpAddress, port: number): SocketAddress {
  return { family: address.family, address: address.address.slice(), port };
}

function checkPort(what: string, port: number, least: number): void {
  if (Number.isInteger(port) && port >= least && port <= PORT_MAX) return;
  throw new RangeError(`Cannot ${what} port ${port}: it is not in ${least}..${PORT_MAX}`);
}

function quotedHeader(bytes: Uint8Array): { sourcePort: number; destinationPort: number; sequence: number } {
  return {
    sourcePort: (bytes[0] << 8) | bytes[1],
    destinationPort: (bytes[2] << 8) | bytes[3],
    sequence: ((bytes[4] << 24) | (bytes[5] << 16) | (bytes[6] << 8) | bytes[7]) >>> 0,
  };
}

/** RFC 9293 §3.9.2.3: no connection with a group, or with nobody. */
function isOneHost(ip: IpHeader): boolean {
  const { source, destination } = ip;
  if (ip.family === 4) return source[0] !== 0 && source[0] < 224 && destination[0] < 224;
  return source[0] !== 0xff && destination[0] !== 0xff && !source.every((byte) => byte === 0);
}
