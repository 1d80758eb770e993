// A TCP connection: the states of RFC 9293 §3.3.2 and what each segment, call and timer does in them (§3.10), with the
// checks of RFC 5961 and RFC 7323. The halves do the rest: sender.ts and receiver.ts hold SND.* and RCV.*.
//
// Every entry (a segment, a call, a timer) changes the state first, then tells the application, then sends: what a
// callback writes or reads goes out with the same ACK. Callbacks may call anything, also abort(). Entries are bracketed
// by home.enter() and leave(), so that a segment that arrives while we send waits until we are done. No call of the
// application calls it back, but abort() and close(), which tell onClosed.

import { WasmguardError } from "../../errors.ts";
import { formatIp } from "../../ip.ts";
import type {
  DeliveryError, IpLayer, SocketAddress, TcpConnection, TcpInfo, TcpState,
} from "../types.ts";
import type { Budget } from "./budget.ts";
import {
  ACK, BLACK_HOLE_MSS, CHALLENGE_COUNT, CHALLENGE_PERIOD_MS, DEFAULT_MSS_IPV4, DEFAULT_MSS_IPV6, FIN, FIN_WAIT_MS,
  HEADER_LEN, IPV4_HEADER_LEN, IPV6_HEADER_LEN, KEEPALIVE_INTERVAL_MS, KEEPALIVE_PROBE_COUNT, MSS_MIN, PSH, RST,
  RTO_AFTER_SYN_LOSS_MS, SYN, SYN_ACK_RETRY_COUNT, SYN_TIMEOUT_MS, TIMESTAMPS_LEN, WINDOW_SCALE, WINDOW_SCALE_MAX,
} from "./constants.ts";
import type { DropReason } from "./drops.ts";
import type { Listener } from "./listener.ts";
import { Receiver } from "./receiver.ts";
import { SACK_BLOCK_MAX_COUNT, type Segment, type SegmentWriter } from "./segment.ts";
import type { PagePool } from "./send-buffer.ts";
import { Sender, type Transmitter } from "./sender.ts";
import { toOffset, toWire } from "./sequence.ts";
import type { TableEntry } from "./table.ts";
import type { TimeWaitEntry } from "./time-wait.ts";
import { DELAYED_ACK, FIN_WAIT, KEEPALIVE, PERSIST, PROBE, REORDER, REPORT, RETRANSMIT, Timers } from "./timers.ts";

/** What a connection needs of its layer. */
export interface Home {
  readonly ip: IpLayer;
  readonly writer: SegmentWriter;
  readonly pool: PagePool;
  readonly budget: Budget;
  /** ms; stands still within an entry */
  now(): number;
  drop(reason: DropReason): void;
  enter(): void;
  /** After a call of the application: segments that came meanwhile wait for a timer, so that no call calls back. */
  leave(): void;
  /** After anything else. */
  leaveAndDrain(): void;
  send(local: SocketAddress, remote: SocketAddress, header: Uint8Array, payload: Uint8Array[], gsoSize: number): void;
  /** The connection is over. @param entry  what is left of it in TIME_WAIT, or null */
  retire(connection: Connection, entry: TimeWaitEntry | null): void;
}

const NO_PAYLOAD: Uint8Array[] = [];
/** onWritable comes when a quarter of the buffer is free: not for every ACK */
const WRITABLE_PART = 4;

export class Connection implements TcpConnection, TableEntry<Connection>, Transmitter {
  readonly local: SocketAddress;
  readonly remote: SocketAddress;
  readonly localAddress: Uint8Array;
  readonly remoteAddress: Uint8Array;
  readonly localPort: number;
  readonly remotePort: number;
  nextInTable: Connection | null = null;

  onConnected: (() => void) | null = null;
  onReadable: (() => void) | null = null;
  onWritable: (() => void) | null = null;
  onClosed: ((error: Error | null) => void) | null = null;

  private phase: TcpState = "closed";
  private waiting: TimeWaitEntry | null = null;
  private readonly home: Home;
  private readonly listener: Listener | null;
  private readonly timers: Timers;
  private readonly sender: Sender;
  private readonly receiver: Receiver;
  /** ISS */
  private readonly initial: number;
  private readonly clockOffset: number;
  /** what we announced, and what the peer did */
  private readonly ourMss: number;
  private peerMss: number;
  /** the path takes no longer segments, as far as we found out ourselves */
  private pathMss = Infinity;
  private timestamps = true;
  private scaling = true;
  private sackPermitted = true;
  /** bytes that the peer's window counts by */
  private sendUnit = 1;
  private beganAt: number;
  /** nobody reads any more: close() */
  private discards = false;
  private keepAliveMs = 0;
  private keepAliveProbes = 0;
  private heardAt: number;
  private challenges = 0;
  private challengePeriod = -Infinity;
  /** what ICMP said while it did not count: the reason if we give up */
  private softError: WasmguardError | null = null;
  private written = 0;
  // What the application is to be told when the present entry is done.
  private isConnected = false;
  private tellConnected = false;
  private tellReadable = false;
  private tellClosed = false;
  private wantsRoom = false;
  private closeError: Error | null = null;
  /** callbacks that have not returned */
  private telling = 0;
  private readonly pieces: Uint8Array[] = [];

  constructor(
    home: Home,
    local: SocketAddress,
    remote: SocketAddress,
    initial: number,
    clockOffset: number,
    listener: Listener | null,
  ) {
    this.home = home;
    this.local = local;
    this.remote = remote;
    this.localAddress = local.address;
    this.remoteAddress = remote.address;
    this.localPort = local.port;
    this.remotePort = remote.port;
    this.initial = initial;
    this.clockOffset = clockOffset;
    this.listener = listener;
    this.beganAt = this.heardAt = home.now();
    this.ourMss = Math.max(MSS_MIN, home.ip.pathMtu(remote) - this.ipHeaderLen - HEADER_LEN);
    this.peerMss = local.family === 4 ? DEFAULT_MSS_IPV4 : DEFAULT_MSS_IPV6;
    this.timers = new Timers(home.ip.clock, (kind, now) => this.expired(kind, now));
    this.receiver = new Receiver(this.timers, home.budget, this.ourMss);
    this.sender = new Sender(this, this.timers, home.pool, home.budget, initial, clockOffset, this.peerMss);
  }

  // --- What the application calls ---

  get state(): TcpState {
    return this.phase === "timeWait" && this.waiting !== null && this.waiting.isOver ? "closed" : this.phase;
  }

  get bytesWritten(): number {
    return this.written;
  }

  get bytesReceived(): number {
    return this.receiver.bytesReceived;
  }

  get readable(): number {
    return this.receiver.buffer.readable;
  }

  get ended(): boolean {
    return this.receiver.ended;
  }

  get writable(): number {
    return this.mayWrite ? this.sender.room : 0;
  }

  private get mayWrite(): boolean {
    return (
      this.phase === "established" || this.phase === "closeWait" || this.phase === "synSent" ||
      this.phase === "synReceived"
    );
  }

  write(bytes: Uint8Array): number {
    const len = Math.min(this.writable, bytes.length);
    this.wantsRoom = len < bytes.length && this.mayWrite;
    if (len === 0) return 0;
    this.home.enter();
    try {
      this.sender.buffer.append(len < bytes.length ? bytes.subarray(0, len) : bytes);
      this.written += len;
      this.settle(this.now());
    } finally {
      this.home.leave();
    }
    return len;
  }

  read(max = Infinity): Uint8Array | null {
    const now = this.now();
    const bytes = this.receiver.read(max, now);
    if (bytes === null || !this.isSynchronized || !this.receiver.shouldOpenWindow) return bytes;
    this.home.enter();
    try {
      this.receiver.ackNow = true;
      // Within onReadable the ACK waits for the end of the segment's processing.
      if (this.telling === 0) this.settle(now);
    } finally {
      this.home.leave();
    }
    return bytes;
  }

  shutdown(): void {
    if (!this.mayWrite || this.sender.finQueued) return;
    this.home.enter();
    try {
      this.sender.finQueued = true;
      this.wantsRoom = false;
      this.queueFin();
      this.settle(this.now());
    } finally {
      this.home.leave();
    }
  }

  /**
   * Nobody reads any more: like shutdown(), and what arrives from now on is answered with an RST, as is what was not
   * read (RFC 9293 §3.6.1, RFC 2525 §2.17). The connection does not wait for the peer's FIN for ever.
   */
  close(): void {
    if (this.phase === "closed" || this.phase === "timeWait" || this.discards) return;
    this.discards = true;
    if (this.readable > 0 || this.phase === "synSent") {
      this.abort();
      return;
    }
    this.shutdown();
    if (this.phase === "finWait2") this.watchFinWait();
    this.timers.arm();
  }

  abort(error?: Error): void {
    if (this.phase === "closed" || this.phase === "timeWait") return;
    this.home.enter();
    try {
      if (this.isSynchronized || this.phase === "synReceived") this.sendReset();
      this.fail(error ?? null);
      this.finish();
    } finally {
      this.home.leave();
    }
  }

  /** Gives way to a newer half-open connection: without a word, as if it had never been. */
  evict(): void {
    this.fail(null);
  }

  setNoDelay(noDelay: boolean): void {
    this.sender.noDelay = noDelay;
    if (noDelay && this.isSynchronized) this.settleAlone();
  }

  setKeepAlive(idleMs: number): void {
    this.keepAliveMs = idleMs;
    this.keepAliveProbes = 0;
    this.timers.clear(KEEPALIVE);
    this.settleAlone();
  }

  info(): TcpInfo {
    const { sender, receiver } = this;
    return {
      srtt: sender.rto.smoothed,
      rto: sender.rto.timeout,
      congestionWindow: Math.round(sender.congestion.window),
      slowStartThreshold: sender.congestion.threshold,
      sendWindow: sender.window,
      receiveWindow: receiver.edge - receiver.nxt,
      mss: sender.mss,
      retransmits: sender.retransmits,
      timeouts: sender.timeouts,
    };
  }

  // --- Opening ---

  /** OPEN, active: RFC 9293 §3.10.1 */
  open(): void {
    const now = this.now();
    this.phase = "synSent";
    this.sendSyn();
    this.sender.synSent(now);
    this.timers.arm();
  }

  /** A SYN came for a listener: RFC 9293 §3.10.7.2. Data with it is left to be sent again. */
  openPassive(segment: Segment): void {
    const now = this.now();
    this.phase = "synReceived";
    this.scaling = segment.windowScale >= 0;
    this.timestamps = segment.hasTimestamps;
    this.sackPermitted = segment.sackPermitted;
    this.negotiate(segment, now);
    this.sendSyn();
    this.sender.synSent(now);
    this.timers.arm();
  }

  /** Takes what the peer's SYN offers: RFC 7323 §2.2, §3.2, RFC 2018 §2, RFC 9293 §3.7.1. */
  private negotiate(segment: Segment, now: number): void {
    const { sender, receiver } = this;
    this.timestamps &&= segment.hasTimestamps;
    this.sackPermitted &&= segment.sackPermitted;
    this.scaling &&= segment.windowScale >= 0;
    sender.sackPermitted = receiver.sackPermitted = this.sackPermitted;
    if (this.scaling) {
      this.sendUnit = 1 << Math.min(segment.windowScale, WINDOW_SCALE_MAX);
      receiver.unit = 1 << WINDOW_SCALE;
    }
    if (segment.mss > 0) this.peerMss = segment.mss;
    receiver.begin(segment.sequence, segment, this.timestamps, now);
    this.sizeSegments();
    sender.congestion.begin();
  }

  private sendSyn(): void {
    const { writer } = this.home;
    const isAnswer = this.phase === "synReceived";
    const acknowledgment = isAnswer ? toWire(this.receiver.nxt, this.receiver.initial) : 0;
    const window = this.receiver.promiseInitial();
    const flags = isAnswer ? SYN | ACK : SYN;
    writer.begin(this.localPort, this.remotePort, this.initial, acknowledgment, flags, window);
    writer.mss(this.ourMss);
    if (this.sackPermitted) writer.sackPermitted();
    if (this.timestamps) writer.timestamps(this.timestamp(), isAnswer ? this.receiver.recentTimestamp : 0);
    if (this.scaling) writer.windowScale(WINDOW_SCALE);
    this.home.send(this.local, this.remote, writer.end(), NO_PAYLOAD, 0);
    if (isAnswer) this.receiver.acknowledgmentSent();
  }

  /** @returns whether somebody takes the connection */
  private establish(sequence: number, window: number): boolean {
    const { sender } = this;
    this.phase = "established";
    sender.established(sequence, 1, window);
    this.receiver.established(sender.rto.smoothed);
    if (sender.timeouts > 0) sender.rto.restart(RTO_AFTER_SYN_LOSS_MS);
    if (sender.timeouts > 1) sender.congestion.window = sender.mss; // RFC 5681 §3.1
    this.timers.clear(RETRANSMIT);
    this.isConnected = true;
    this.tellConnected = true;
    if (sender.finQueued) this.queueFin();
    if (this.listener === null) return true;
    this.listener.end(this);
    return this.listener.accept(this);
  }

  /** The state that a FIN of ours leads to: RFC 9293 §3.10.4. */
  private queueFin(): void {
    if (this.phase === "established") this.phase = "finWait1";
    else if (this.phase === "closeWait") this.phase = "lastAck";
  }

  // --- Segments ---

  /** A segment of this connection: RFC 9293 §3.10.7.3 and §3.10.7.4. */
  input(segment: Segment): void {
    const now = this.now();
    this.heardAt = now;
    this.keepAliveProbes = 0;
    try {
      if (this.phase === "synSent") this.inputSynSent(segment, now);
      else this.inputSynchronized(segment, now);
    } finally {
      this.finish(); // also when the listener's callback threw
    }
  }

  private inputSynSent(segment: Segment, now: number): void {
    const { flags } = segment;
    const hasAck = (flags & ACK) !== 0;
    if (hasAck && segment.acknowledgment !== toWire(1, this.initial)) {
      this.home.drop("badAck");
      if ((flags & RST) === 0) this.sendResetAt(segment.acknowledgment);
      return;
    }
    if ((flags & RST) !== 0) {
      if (hasAck) this.failWith("ECONNREFUSED", "refused");
      else this.home.drop("strayReset");
      return;
    }
    if ((flags & SYN) === 0) {
      this.home.drop("flags");
      return;
    }
    this.negotiate(segment, now);
    if (!hasAck) {
      this.phase = "synReceived"; // simultaneous open
      this.sendSyn();
      return;
    }
    this.sender.acknowledged(segment, 1, 0, segment.window, now);
    this.establish(0, segment.window);
    this.receiver.ackNow = true;
    if (segment.payloadLen > 0 || (flags & FIN) !== 0) this.takeData(segment, 1, now);
  }

  private inputSynchronized(segment: Segment, now: number): void {
    const { receiver } = this;
    const { flags } = segment;
    const sequence = toOffset(segment.sequence, receiver.initial, receiver.nxt);
    const len = segment.payloadLen + (flags & SYN ? 1 : 0) + (flags & FIN ? 1 : 0);
    const isReset = (flags & RST) !== 0;
    if (this.timestamps && segment.hasTimestamps && !isReset && receiver.isOld(segment, now)) {
      this.home.drop("paws");
      this.challenge(now);
      return;
    }
    // Simultaneous open (RFC 9293 figure 8): the peer's SYN again, now with the ACK that completes it.
    const completes = this.phase === "synReceived" && sequence === 0 && (flags & (SYN | ACK | RST)) === (SYN | ACK);
    if (completes && this.listener === null) {
      this.receiver.ackNow = true;
      this.inputAck(segment, sequence, now);
      return;
    }
    if (!receiver.accepts(sequence, len)) {
      this.refuse(segment, sequence, isReset, now);
      return;
    }
    if (isReset) {
      this.inputReset(sequence, now);
      return;
    }
    if ((flags & SYN) !== 0) {
      this.home.drop("badSyn"); // RFC 5961 §4
      this.challenge(now);
      return;
    }
    if ((flags & ACK) === 0) {
      this.home.drop("noAck");
      return;
    }
    if (this.inputAck(segment, sequence, now)) this.inputData(segment, sequence, now);
  }

  /** A segment outside of the window: RFC 9293 §3.10.7.4, first. */
  private refuse(segment: Segment, sequence: number, isReset: boolean, now: number): void {
    this.home.drop("outOfWindow");
    if (isReset) return;
    if (this.phase === "synReceived" && (segment.flags & (SYN | ACK)) === SYN && sequence === 0) {
      if (this.mayChallenge(now)) this.sendSyn(); // our SYN-ACK was lost
      return;
    }
    if (segment.payloadLen > 0 || (segment.flags & FIN) !== 0) {
      this.receiver.refused(sequence, segment.payloadLen);
    } else {
      this.challenge(now);
    }
  }

  /** RFC 5961 §3: only the very next number resets. */
  private inputReset(sequence: number, now: number): void {
    if (sequence !== this.receiver.nxt) {
      this.home.drop("strayReset");
      this.challenge(now);
      return;
    }
    if (this.phase === "synReceived") {
      if (this.listener === null) this.failWith("ECONNREFUSED", "refused");
      else this.fail(null);
      return;
    }
    const isDone = (this.phase === "closing" || this.phase === "lastAck") && this.sender.una >= this.sender.buffer.end;
    if (isDone) this.fail(null);
    else this.failWith("ECONNRESET", "was reset by the peer");
  }

  /** RFC 9293 §3.10.7.4, fifth. @returns whether the segment's data counts */
  private inputAck(segment: Segment, sequence: number, now: number): boolean {
    const { sender } = this;
    const ack = toOffset(segment.acknowledgment, this.initial, sender.una);
    const window = segment.window * this.sendUnit;
    const isOpening = this.phase === "synReceived";
    if (ack > sender.sentEnd || ack < sender.una - sender.maxWindow || (isOpening && ack <= 0)) {
      this.home.drop("badAck");
      if (isOpening) this.sendResetAt(segment.acknowledgment);
      else this.challenge(now); // RFC 5961 §5
      return false;
    }
    if (segment.hasTimestamps && this.timestamps) this.receiver.recordTimestamp(segment, sequence, now);
    if (ack >= sender.una) sender.acknowledged(segment, ack, sequence, window, now);
    if (isOpening && !this.establish(sequence, window)) {
      this.sendReset(); // the listener is gone
      this.fail(null);
      return false;
    }
    if (sender.finAcknowledged) this.finAcknowledged();
    return this.phase !== "closed";
  }

  /** Our FIN arrived. */
  private finAcknowledged(): void {
    if (this.phase === "finWait1") {
      this.phase = "finWait2";
      if (this.discards) this.watchFinWait();
    } else if (this.phase === "closing") {
      this.phase = "timeWait";
    } else if (this.phase === "lastAck") {
      this.fail(null);
    }
  }

  private watchFinWait(): void {
    this.timers.set(FIN_WAIT, this.now() + FIN_WAIT_MS);
  }

  private inputData(segment: Segment, sequence: number, now: number): void {
    const hasFin = (segment.flags & FIN) !== 0;
    if (segment.payloadLen === 0 && !hasFin) return;
    if (this.discards && segment.payloadLen > 0 && sequence + segment.payloadLen > this.receiver.nxt) {
      this.home.drop("nobodyReads");
      this.sendReset();
      this.failWith("ECONNRESET", "got data that nobody reads");
      return;
    }
    if (this.timestamps && segment.timestampEcho !== 0) {
      const rtt = (this.timestamp() - segment.timestampEcho) | 0;
      if (rtt >= 0) this.receiver.measure(rtt);
    }
    this.takeData(segment, sequence, now);
  }

  private takeData(segment: Segment, sequence: number, now: number): void {
    const { receiver } = this;
    const before = receiver.nxt;
    const hadEnded = receiver.ended;
    if (receiver.take(segment, sequence, (segment.flags & FIN) !== 0, now)) this.home.drop("islands");
    if (receiver.nxt === before) return;
    this.tellReadable = true;
    if (!receiver.ended || hadEnded) return;
    // The peer's FIN: RFC 9293 §3.10.7.4, eighth.
    receiver.ackNow = true;
    if (this.phase === "established") this.phase = "closeWait";
    else if (this.phase === "finWait1") this.phase = "closing";
    else if (this.phase === "finWait2") this.phase = "timeWait";
  }

  // --- After each entry ---

  /** Tells the application what happened, then sends what there is to send, also if a callback throws. */
  private finish(): void {
    this.telling++;
    try {
      if (this.tellConnected) {
        this.tellConnected = false;
        this.onConnected?.();
      }
      if (this.tellReadable) {
        this.tellReadable = false;
        this.onReadable?.();
      }
      if (this.wantsRoom && this.mayWrite && this.sender.room >= this.sender.capacity / WRITABLE_PART) {
        this.wantsRoom = false;
        this.onWritable?.();
      }
    } finally {
      this.telling--;
      if (this.telling === 0) this.conclude();
    }
  }

  private conclude(): void {
    if (this.phase !== "closed") this.settle(this.now());
    if (this.phase === "timeWait" && this.waiting === null) this.beginTimeWait();
    if (!this.tellClosed) return;
    this.tellClosed = false;
    this.onClosed?.(this.closeError);
  }

  /** Sends what there is to send and sets the timer. */
  private settle(now: number): void {
    if (this.isSynchronized) {
      this.sender.output(now);
      if (this.receiver.ackNow) this.sendAck();
      if (this.keepAliveMs > 0 && !this.timers.isSet(KEEPALIVE)) {
        this.timers.set(KEEPALIVE, this.heardAt + this.keepAliveMs);
      }
    } else if (this.phase === "synReceived" && this.receiver.ackNow) {
      this.sendAck();
    }
    this.timers.arm();
  }

  private settleAlone(): void {
    if (this.phase === "closed" || this.phase === "timeWait") return;
    this.home.enter();
    try {
      this.settle(this.now());
    } finally {
      this.home.leave();
    }
  }

  /** Both SYNs are acknowledged, and it is not over. */
  private get isSynchronized(): boolean {
    return this.isConnected && this.phase !== "closed" && this.waiting === null;
  }

  private beginTimeWait(): void {
    const { sender, receiver } = this;
    this.waiting = {
      localAddress: this.localAddress,
      remoteAddress: this.remoteAddress,
      localPort: this.localPort,
      remotePort: this.remotePort,
      nextInTable: null,
      family: this.local.family,
      sequence: toWire(sender.nxt, this.initial),
      acknowledgment: toWire(receiver.nxt, receiver.initial),
      window: receiver.promise(),
      timestamps: this.timestamps,
      recentTimestamp: receiver.recentTimestamp,
      clockOffset: this.clockOffset,
      began: this.now(),
      isOver: false,
    };
    this.free(false, this.waiting);
    this.tellClosed = true;
  }

  /** It is over: everything is freed, onClosed comes at the end of the entry. */
  private fail(error: Error | null): void {
    if (this.phase === "closed") return;
    this.phase = "closed";
    this.closeError = error;
    this.tellClosed = this.isConnected || this.listener === null;
    this.free(error !== null || this.discards, null);
  }

  private failWith(code: string, what: string): void {
    const { remote } = this;
    const to = remote.family === 4 ? formatIp(remote.address) : `[${formatIp(remote.address)}]`;
    const cause = this.softError ?? undefined;
    this.fail(new WasmguardError(code, `TCP connection to ${to}:${remote.port} ${what}`, { cause }));
  }

  private free(discard: boolean, entry: TimeWaitEntry | null): void {
    this.timers.stop();
    this.sender.close();
    this.receiver.close(discard);
    this.listener?.end(this);
    this.home.retire(this, entry);
  }

  // --- Timers ---

  private expired(kind: number, now: number): void {
    this.home.enter();
    try {
      this.handleExpired(kind, now);
      this.finish();
    } finally {
      this.home.leaveAndDrain();
    }
  }

  private handleExpired(kind: number, now: number): void {
    switch (kind) {
      case RETRANSMIT:
        if (!this.isSynchronized) this.handshakeExpired(now);
        else if (this.sender.timeoutExpired(now)) this.failWith("ETIMEDOUT", "timed out");
        return;
      case PROBE:
        return this.sender.probeExpired(now);
      case REORDER:
        return this.sender.reorderExpired(now);
      case PERSIST:
        if (this.sender.persistExpired(now)) this.failWith("ETIMEDOUT", "timed out: the window stays closed");
        return;
      case DELAYED_ACK:
      case REPORT:
        this.receiver.ackNow = true;
        return;
      case KEEPALIVE:
        return this.keepAliveExpired(now);
      case FIN_WAIT:
        return this.fail(null);
    }
  }

  private handshakeExpired(now: number): void {
    const isPassive = this.listener !== null;
    if (isPassive ? this.sender.timeouts >= SYN_ACK_RETRY_COUNT : now - this.beganAt >= SYN_TIMEOUT_MS) {
      this.failWith(this.softError?.code ?? "ETIMEDOUT", "timed out: no answer to SYN");
      return;
    }
    this.sendSyn();
    this.sender.synSentAgain(now);
  }

  private keepAliveExpired(now: number): void {
    if (this.keepAliveMs === 0) return;
    const quiet = now - this.heardAt;
    const busy = this.sender.una < this.sender.nxt; // the time-out looks after that
    if (quiet < this.keepAliveMs || busy) {
      this.timers.set(KEEPALIVE, busy ? now + this.keepAliveMs : this.heardAt + this.keepAliveMs);
      return;
    }
    if (this.keepAliveProbes >= KEEPALIVE_PROBE_COUNT) {
      this.sendReset();
      this.failWith("ETIMEDOUT", "timed out: no answer to keepalive");
      return;
    }
    this.keepAliveProbes++;
    this.transmitProbe();
    this.timers.set(KEEPALIVE, now + Math.min(this.keepAliveMs, KEEPALIVE_INTERVAL_MS));
  }

  // --- Sending ---

  transmit(start: number, end: number): void {
    const { sender, receiver, pieces } = this;
    const { writer } = this.home;
    const dataEnd = Math.min(end, sender.buffer.end);
    let flags = ACK;
    if (dataEnd === sender.buffer.end) flags |= PSH;
    if (sender.finQueued && end > sender.buffer.end) flags |= FIN;
    this.beginSegment(start, flags);
    sender.buffer.slice(start, dataEnd, pieces);
    const gsoSize = dataEnd - start > sender.mss ? sender.mss : 0;
    this.home.send(this.local, this.remote, writer.end(), pieces, gsoSize);
    receiver.acknowledgmentSent();
  }

  /** A number before the peer's window, and no data: RFC 9293 §3.8.4. It must answer with an ACK. */
  transmitProbe(): void {
    this.beginSegment(this.sender.una - 1, ACK);
    this.home.send(this.local, this.remote, this.home.writer.end(), NO_PAYLOAD, 0);
  }

  private sendAck(): void {
    const { sender, receiver } = this;
    const { writer } = this.home;
    // The peer must find it in its window, also if it took some of that back.
    this.beginSegment(Math.max(sender.una, Math.min(sender.nxt, sender.una + sender.window)), ACK);
    const blocks = receiver.sackBlocks(Math.min(writer.sackRoom, SACK_BLOCK_MAX_COUNT));
    if (blocks > 0) writer.sacks(receiver.sackEdges, blocks);
    this.home.send(this.local, this.remote, writer.end(), NO_PAYLOAD, 0);
    receiver.acknowledgmentSent();
    receiver.reportSent();
  }

  private beginSegment(offset: number, flags: number): void {
    const { receiver } = this;
    const { writer } = this.home;
    const acknowledgment = toWire(receiver.nxt, receiver.initial);
    const sequence = toWire(offset, this.initial);
    writer.begin(this.localPort, this.remotePort, sequence, acknowledgment, flags, receiver.promise());
    if (this.timestamps) writer.timestamps(this.timestamp(), receiver.recentTimestamp);
  }

  /** RFC 5961 §7: bounded, for each connection alone; a bound shared by all would tell a stranger about others. */
  private challenge(now: number): void {
    if (this.mayChallenge(now)) this.receiver.ackNow = true;
  }

  private mayChallenge(now: number): boolean {
    if (now - this.challengePeriod >= CHALLENGE_PERIOD_MS) {
      this.challengePeriod = now;
      this.challenges = 0;
    }
    return this.challenges++ < CHALLENGE_COUNT;
  }

  private sendReset(): void {
    this.beginSegment(this.sender.nxt, RST | ACK);
    this.home.send(this.local, this.remote, this.home.writer.end(), NO_PAYLOAD, 0);
  }

  private sendResetAt(sequence: number): void {
    const { writer } = this.home;
    writer.begin(this.localPort, this.remotePort, sequence, 0, RST, 0);
    this.home.send(this.local, this.remote, writer.end(), NO_PAYLOAD, 0);
  }

  // --- The path ---

  private get ipHeaderLen(): number {
    return this.local.family === 4 ? IPV4_HEADER_LEN : IPV6_HEADER_LEN;
  }

  private sizes(): { mss: number; superMax: number } {
    const { ip } = this.home;
    const options = this.timestamps ? TIMESTAMPS_LEN : 0;
    const path = ip.pathMtu(this.remote) - this.ipHeaderLen - HEADER_LEN;
    const mss = Math.max(MSS_MIN, Math.min(this.peerMss, path, this.pathMss) - options);
    const most = Math.min(ip.gsoMaxSize, 65_535) - this.ipHeaderLen - HEADER_LEN - options;
    return { mss, superMax: Math.max(mss, most - (most % mss)) };
  }

  private sizeSegments(): void {
    const { mss, superMax } = this.sizes();
    this.sender.setSegmentSize(mss, superMax);
  }

  private shrinkSegments(): void {
    const { mss, superMax } = this.sizes();
    if (mss < this.sender.mss) this.sender.shrink(mss, superMax, this.now());
  }

  suspectBlackHole(): void {
    const smaller = BLACK_HOLE_MSS.find((mss) => mss < this.sender.mss);
    if (smaller === undefined) return;
    this.pathMss = smaller + (this.timestamps ? TIMESTAMPS_LEN : 0);
    this.shrinkSegments();
  }

  /** Whether the byte with this number, on the wire, was sent and is not acknowledged. */
  isInFlight(sequence: number): boolean {
    const { sender } = this;
    const offset = toOffset(sequence, this.initial, sender.una);
    return offset >= sender.una && offset < Math.max(sender.sentEnd, 1);
  }

  /**
   * ICMP about a segment of ours: RFC 5927 (only what is in flight counts), RFC 5461, RFC 1191.
   * @param sequence  of the segment, on the wire
   */
  deliveryFailed(sequence: number, error: DeliveryError): void {
    if (!this.isInFlight(sequence)) {
      this.home.drop("strayError");
      return;
    }
    if (error.kind === "tooBig") {
      if (error.mtu !== undefined) {
        this.pathMss = Math.min(this.pathMss, Math.max(MSS_MIN, error.mtu - this.ipHeaderLen - HEADER_LEN));
      }
      this.shrinkSegments();
    } else if (this.phase === "synSent" && error.kind !== "timeExceeded") {
      if (error.kind === "portUnreachable") this.failWith("ECONNREFUSED", "refused: port unreachable");
      else this.failWith("EHOSTUNREACH", `failed: ${error.kind}`);
    } else {
      this.softError = new WasmguardError("EHOSTUNREACH", `ICMP: ${error.kind}`);
    }
    this.finish();
  }

  private now(): number {
    return this.home.now();
  }

  /** TSval of now, unsigned: ms (RFC 7323 §5.4 wants 1 ms to 1 s) */
  private timestamp(): number {
    return (Math.floor(this.now()) + this.clockOffset) >>> 0;
  }
}
