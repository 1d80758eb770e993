// The receiving half of a connection: RCV.* of RFC 9293 §3.3.1, what arrived, the window that is promised, and when to
// acknowledge. The window follows the reader: it closes when nobody reads, opens in steps worth a segment (§3.8.6.2.2),
// and grows with the rate of reading up to RECEIVE_BUFFER_MAX. What was promised is kept: `edge` never goes back, and
// all before it is accepted. On the wire the window counts units of 2^shift: it is rounded up where rounding down would
// take back some bytes, so the buffer may exceed its capacity by WINDOW_ROUNDING_MAX; only then is it rounded down (RFC
// 7323 §2.4 allows that).
//
// RFC 5681 §4.2 wants an ACK at once for each segment out of order, for the sake of a sender that counts them to three.
// One with SACK needs the news only: that a gap opened, closed or shrank, and the first few. What merely lengthens the
// last run waits for a moment and is reported together. An ACK for each was rejected: where the way reorders it costs as
// much as the data, and ends the slow start of a sender that looks at the spacing of ACKs (HyStart) too soon.

import type { Budget } from "./budget.ts";
import {
  ACK_DELAY_MS, DEFAULT_MSS_IPV4, INITIAL_BUFFER, QUICK_ACK_COUNT, RECEIVE_BUFFER_MAX, REPORT_AT_ONCE_COUNT,
  REPORT_DELAY_MAX_MS, REPORT_DELAY_PART, REPORT_MAX_COUNT, REPORT_RTT_MIN_MS, TIMESTAMP_VALID_MS, WINDOW_ROUNDING_MAX,
} from "./constants.ts";
import { ReceiveBuffer } from "./receive-buffer.ts";
import { SACK_BLOCK_MAX_COUNT, type Segment } from "./segment.ts";
import { difference, toWire } from "./sequence.ts";
import { DELAYED_ACK, REPORT, type Timers } from "./timers.ts";

const FIELD_MAX = 65_535;
/** RFC 7323 §4.1 leaves the filter open; the weight of a new sample of the reader's round trip */
const RTT_GAIN = 1 / 8;
const RTT_MIN_MS = 1;

export class Receiver {
  readonly buffer = new ReceiveBuffer(1);
  /** IRS */
  initial = 0;
  /** one more than what may be sent to us: never goes back */
  edge = 1;
  /** bytes that the window counts by: 1 until both sides agreed on a scale */
  unit = 1;
  capacity = INITIAL_BUFFER;
  sackPermitted = false;
  /** the peer's FIN, an offset; -1 = not seen */
  private fin = -1;
  /** TS.Recent (RFC 7323 §4.3), and when it was set */
  recentTimestamp = 0;
  private recentTimestampAt = 0;
  /** Last.ACK.sent */
  private acknowledged = 0;
  /** an ACK is due at once */
  ackNow = false;
  bytesReceived = 0;

  private readonly timers: Timers;
  private readonly budget: Budget;
  /** payload of the longest segment that the peer may send: what we announced */
  private readonly mss: number;
  /** payload of the longest that it did send */
  private segmentSize: number;
  /** bytes that arrived since the last ACK */
  private unacknowledged = 0;
  private quickAcks = QUICK_ACK_COUNT;
  private lastArrival = 0;
  /** what came twice, for RFC 2883; none if start = end */
  private repeatedStart = 0;
  private repeatedEnd = 0;
  /** segments ahead of a gap since `nxt` was what `aheadOf` is, up to REPORT_AT_ONCE_COUNT */
  private ahead = 0;
  private aheadOf = 0;
  /** segments ahead of a gap that wait to be reported */
  private unreported = 0;
  private readonly starts: number[] = [];
  private readonly ends: number[] = [];
  private readonly edges = new Uint32Array(2 * SACK_BLOCK_MAX_COUNT);
  /** auto-tuning: the present round, bytes read in it and in the best one; the sender's round trip, ms */
  private roundStart = 0;
  private roundBytes = 0;
  private bestBytes: number = INITIAL_BUFFER / 2;
  private rtt = 0;
  /** the least sample, the handshake's too, ms; 0 = none */
  private leastRtt = 0;

  constructor(timers: Timers, budget: Budget, mss: number) {
    this.timers = timers;
    this.budget = budget;
    this.mss = mss;
    this.segmentSize = Math.min(mss, DEFAULT_MSS_IPV4);
  }

  /** RCV.NXT */
  get nxt(): number {
    return this.buffer.next + (this.ended ? 1 : 0);
  }

  /** Whether everything up to the peer's FIN arrived */
  get ended(): boolean {
    return this.fin >= 0 && this.buffer.next === this.fin;
  }

  /** Call with the peer's SYN. */
  begin(initial: number, segment: Segment, timestamps: boolean, now: number): void {
    this.initial = initial;
    this.roundStart = now;
    this.lastArrival = now;
    if (!timestamps) return;
    this.recentTimestamp = segment.timestamp;
    this.recentTimestampAt = now;
  }

  /** The window of a SYN, which is never scaled (RFC 7323 §2.2). */
  promiseInitial(): number {
    const window = Math.min(this.capacity, FIELD_MAX);
    this.edge = Math.max(this.edge, 1 + window);
    return window;
  }

  /** RFC 7323 §5.3 R1 */
  isOld(segment: Segment, now: number): boolean {
    return (
      difference(segment.timestamp, this.recentTimestamp) < 0 && now - this.recentTimestampAt < TIMESTAMP_VALID_MS
    );
  }

  /** RFC 7323 §4.3 (2), for acceptable segments */
  recordTimestamp(segment: Segment, sequence: number, now: number): void {
    if (sequence > this.acknowledged || difference(segment.timestamp, this.recentTimestamp) < 0) return;
    this.recentTimestamp = segment.timestamp;
    this.recentTimestampAt = now;
  }

  /**
   * RFC 9293 §3.10.7.4, first; a segment that ends where the window does is one, too, and one with data before a closed
   * window: its acknowledgment counts.
   * @param len  with SYN and FIN
   */
  accepts(sequence: number, len: number): boolean {
    if (sequence > this.edge) return false;
    return len === 0 ? sequence >= this.nxt : sequence + len > this.nxt;
  }

  /**
   * The data and FIN of an acceptable segment: RFC 9293 §3.10.7.4, seventh and eighth.
   * @returns whether something was refused for too many gaps
   */
  take(segment: Segment, sequence: number, hasFin: boolean, now: number): boolean {
    const { buffer } = this;
    let from = segment.payloadStart;
    let to = from + segment.payloadLen;
    let start = sequence;
    const dataEnd = sequence + segment.payloadLen;
    this.quickenAfterIdle(now);
    // Several segments joined are longer than what we announced: they count as those they were.
    if (segment.payloadLen > this.segmentSize && segment.payloadLen <= this.mss) this.segmentSize = segment.payloadLen;
    if (start < buffer.next) {
      this.reportRepeated(start, Math.min(dataEnd, buffer.next));
      from = Math.min(to, from + (buffer.next - start));
      start = Math.min(dataEnd, buffer.next);
    }
    const isBeyond = dataEnd > this.edge;
    if (isBeyond) {
      to = Math.max(from, to - (dataEnd - this.edge));
      this.ackNow = true;
    }
    // Nothing follows a FIN.
    if (this.fin >= 0 && start + (to - from) > this.fin) to = Math.max(from, from + (this.fin - start));
    if (hasFin && !isBeyond && this.fin < 0) {
      // A FIN before data that we have already is a lie.
      if (dataEnd >= buffer.next && !this.waitsBeyond(dataEnd)) this.fin = dataEnd;
      this.ackNow = true;
    }
    if (from >= to) {
      if (segment.payloadLen > 0 || hasFin) this.ackNow = true;
      return false;
    }
    if (start > buffer.next) return this.takeAhead(segment.bytes, start, from, to, now);
    const before = buffer.next;
    const filled = buffer.append(segment.bytes, from, to);
    const len = buffer.next - before;
    this.bytesReceived += len;
    if (filled || buffer.hasGap) this.ackNow = true;
    this.scheduleAck(len, now);
    return false;
  }

  /** Call for a segment with data or FIN outside of the window: it may be one whose ACK was lost. */
  refused(sequence: number, len: number): void {
    this.reportRepeated(sequence, Math.min(sequence + len, this.buffer.next));
  }

  private waitsBeyond(offset: number): boolean {
    return this.buffer.hasGap && this.buffer.lastEnd > offset;
  }

  /** @returns whether it was refused */
  private takeAhead(bytes: Uint8Array, start: number, from: number, to: number, now: number): boolean {
    const { buffer } = this;
    const lengthens = buffer.hasGap && start === buffer.lastEnd;
    const isNew = buffer.insert(start, bytes, from, to);
    if (isNew === false) this.reportRepeated(start, start + (to - from));
    if (this.aheadOf !== buffer.next) {
      this.aheadOf = buffer.next;
      this.ahead = 0;
    }
    if (lengthens && this.ahead >= REPORT_AT_ONCE_COUNT) this.scheduleReport(now);
    else this.ackNow = true; // RFC 5681 §4.2
    if (this.ahead < REPORT_AT_ONCE_COUNT) this.ahead++;
    return isNew === null;
  }

  private scheduleReport(now: number): void {
    const holds = this.sackPermitted && this.leastRtt >= REPORT_RTT_MIN_MS;
    if (!holds || ++this.unreported > REPORT_MAX_COUNT) {
      this.ackNow = true;
    } else if (!this.timers.isSet(REPORT)) {
      this.timers.set(REPORT, now + Math.min(REPORT_DELAY_MAX_MS, this.leastRtt * REPORT_DELAY_PART));
    }
  }

  private forgetReport(): void {
    this.unreported = 0;
    this.timers.clear(REPORT);
  }

  private reportRepeated(start: number, end: number): void {
    if (end > start) {
      this.repeatedStart = start;
      this.repeatedEnd = end;
    }
    this.ackNow = true;
  }

  /** RFC 9293 §3.8.6.3: at once for the second full segment, for several in one, and while slow start needs it. */
  private scheduleAck(len: number, now: number): void {
    this.unacknowledged += len;
    if (this.unacknowledged >= 2 * this.segmentSize || this.quickAcks > 0) {
      if (this.quickAcks > 0) this.quickAcks--;
      this.ackNow = true;
    } else if (!this.timers.isSet(DELAYED_ACK)) {
      this.timers.set(DELAYED_ACK, now + ACK_DELAY_MS);
    }
  }

  /** After a pause the sender is in slow start again. */
  private quickenAfterIdle(now: number): void {
    if (now - this.lastArrival > 1000) this.quickAcks = QUICK_ACK_COUNT;
    this.lastArrival = now;
  }

  /** The window field of a segment that acknowledges nxt. Call for each segment that is sent. */
  promise(): number {
    const { unit } = this;
    const next = this.nxt;
    const free = this.capacity - this.buffer.readable;
    const promised = this.edge - next;
    let units = Math.floor(Math.max(0, free) / unit);
    // RFC 9293 §3.8.6.2.2: a larger window by a segment or half of the buffer, or the same.
    if (units * unit - promised < Math.min(this.capacity / 2, this.mss)) {
      units = Math.ceil(promised / unit);
      if (units * unit - free > WINDOW_ROUNDING_MAX) units = Math.floor(promised / unit);
    }
    units = Math.min(units, FIELD_MAX);
    this.edge = Math.max(this.edge, next + units * unit);
    return units;
  }

  /** Call after a segment with an ACK was sent. */
  acknowledgmentSent(): void {
    this.acknowledged = this.nxt;
    this.unacknowledged = 0;
    this.timers.clear(DELAYED_ACK);
    // Gaps are reported by a pure ACK: a segment with data has no room for blocks.
    if (this.buffer.hasGap || this.repeatedEnd > 0) return;
    this.ackNow = false;
    this.forgetReport();
  }

  /** Call after an ACK with its SACK blocks was sent. */
  reportSent(): void {
    this.repeatedStart = this.repeatedEnd = 0;
    this.ackNow = false;
    this.forgetReport();
  }

  /** RFC 2018 §4, RFC 2883. @returns how many blocks `sackEdges` holds then */
  sackBlocks(max: number): number {
    if (!this.sackPermitted) return 0;
    let count = 0;
    if (this.repeatedEnd > 0) this.setBlock(count++, this.repeatedStart, this.repeatedEnd);
    if (!this.buffer.hasGap) return count;
    const islands = this.buffer.recentIslands(this.starts, this.ends, max - count);
    for (let i = 0; i < islands; i++) this.setBlock(count++, this.starts[i], this.ends[i]);
    return count;
  }

  get sackEdges(): Uint32Array {
    return this.edges;
  }

  private setBlock(index: number, start: number, end: number): void {
    this.edges[2 * index] = toWire(start, this.initial);
    this.edges[2 * index + 1] = toWire(end, this.initial);
  }

  /** @returns the next bytes, at most `max`; null when there are none */
  read(max: number, now: number): Uint8Array | null {
    const bytes = this.buffer.read(max);
    if (bytes !== null) this.tune(bytes.length, now);
    return bytes;
  }

  /** Call when the handshake is done. @param rtt  of it, ms; 0 = unknown */
  established(rtt: number): void {
    this.leastRtt = rtt;
  }

  /** A sample of the sender's round trip, ms */
  measure(rtt: number): void {
    const sample = Math.max(rtt, RTT_MIN_MS);
    if (this.leastRtt === 0 || sample < this.leastRtt) this.leastRtt = sample;
    this.rtt = this.rtt === 0 ? sample : this.rtt + RTT_GAIN * (sample - this.rtt);
  }

  /** The buffer holds twice what is read in a round trip, and more while that grows: slow start doubles each round. */
  private tune(bytes: number, now: number): void {
    this.roundBytes += bytes;
    if (now - this.roundStart < Math.max(this.rtt, RTT_MIN_MS)) return;
    const read = this.roundBytes;
    this.roundBytes = 0;
    this.roundStart = now;
    if (read <= this.bestBytes) return;
    const growth = (read - this.bestBytes) / this.bestBytes;
    this.bestBytes = read;
    const wanted = Math.min(RECEIVE_BUFFER_MAX, Math.ceil((2 * read + 16 * this.mss) * (1 + Math.min(growth, 1))));
    if (wanted <= this.capacity || this.unit === 1) return;
    if (this.budget.take(wanted - this.capacity)) this.capacity = wanted;
  }

  /** Whether an ACK for a larger window is worth while: RFC 9293 §3.8.6.2.2, and twice what the sender knows of. */
  get shouldOpenWindow(): boolean {
    if (this.fin >= 0) return false;
    const promised = this.edge - this.nxt;
    const free = this.capacity - this.buffer.readable;
    return free - promised >= Math.min(this.capacity / 2, 2 * this.mss) && free >= 2 * promised;
  }

  /** Frees what is shared; what was received stays readable, unless `discard`. */
  close(discard: boolean): void {
    if (discard) this.buffer.clear();
    else this.buffer.clearIslands();
    this.budget.give(this.capacity - INITIAL_BUFFER);
    this.capacity = INITIAL_BUFFER;
  }
}
