// The sending half of a connection: SND.* of RFC 9293 §3.3.1, what was written, what is in flight, and when to send it:
// RFC 9293 §3.8 (retransmission, windows, Nagle, silly windows, zero-window probes), RFC 6675 with RACK-TLP (RFC 8985)
// in place of duplicate counting, PRR (RFC 6937), CUBIC. Without SACK there is NewReno (RFC 6582).
// It decides; its connection puts the segments together. Positions are offsets of sequence.ts: SYN 0, first byte 1.

import type { Budget } from "./budget.ts";
import {
  BLACK_HOLE_TIMEOUTS, DUPLICATE_THRESHOLD, INITIAL_BUFFER, PEER_ACK_DELAY_MS, PERSIST_MAX_MS, PROBE_SLACK_MS,
  SEND_BUFFER_MAX, SILLY_OVERRIDE_MS, SMALL_IN_FLIGHT_MAX, USER_TIMEOUT_MS,
} from "./constants.ts";
import { Cubic } from "./cubic.ts";
import { Recovery } from "./recovery.ts";
import { Rto } from "./rto.ts";
import { echoesBefore, Scoreboard } from "./scoreboard.ts";
import type { Segment } from "./segment.ts";
import { SendBuffer, type PagePool } from "./send-buffer.ts";
import { toOffset } from "./sequence.ts";
import { PERSIST, PROBE, REORDER, RETRANSMIT, type Timers } from "./timers.ts";

/** What a sender needs of its connection. */
export interface Transmitter {
  /** Sends [start, end) of our sequence space, with an ACK of all that arrived. */
  transmit(start: number, end: number): void;
  /** Sends what the peer must answer with an ACK though it has no data: a segment from before its window. */
  transmitProbe(): void;
  /** Full segments seem to vanish: tries smaller ones. */
  suspectBlackHole(): void;
}

export class Sender {
  readonly buffer: SendBuffer;
  readonly scoreboard: Scoreboard;
  readonly rto = new Rto();
  readonly congestion: Cubic;
  readonly recovery = new Recovery();
  /** SND.UNA, SND.NXT */
  una = 0;
  nxt = 0;
  /** SND.WND, bytes, and the largest there was */
  window = 0;
  maxWindow = 0;
  /** SND.WL1 (an offset of the peer's), SND.WL2 */
  private wl1 = 0;
  private wl2 = 0;
  /** payload bytes of a full segment */
  mss: number;
  /** payload bytes of the longest super-segment: a multiple of mss */
  superMax: number;
  sackPermitted = false;
  finQueued = false;
  noDelay = true;
  /** bytes that the buffer may hold */
  capacity = INITIAL_BUFFER;
  retransmits = 0;
  timeouts = 0;

  private readonly transmitter: Transmitter;
  private readonly timers: Timers;
  private readonly budget: Budget;
  private readonly initial: number;
  private readonly clockOffset: number;
  /** recovery was begun by a time-out: slow start, no PRR */
  private timedOut = false;
  /** the congestion window was what stopped the last output() */
  private limited = false;
  /** ACKs without progress in a row, of a peer without SACK */
  private duplicates = 0;
  /** TSval of the first retransmission of this recovery (RFC 3522); null = none yet */
  private retransmitStamp: number | null = null;
  /** TLP.end_seq, 0 = no probe is out; whether it was a retransmission, and its TSval */
  private probeEnd = 0;
  private probeIsAgain = false;
  private probeStamp = 0;
  private persistBackoffs = 0;
  /** one more than the highest byte that a window probe carried */
  private probedEnd = 0;
  private lastSentAt = -1;
  /** when the peer was last heard of; when the present silence began to count */
  private heardAt = 0;
  private stalledSince = -1;

  constructor(
    transmitter: Transmitter,
    timers: Timers,
    pool: PagePool,
    budget: Budget,
    initial: number,
    clockOffset: number,
    mss: number,
  ) {
    this.transmitter = transmitter;
    this.timers = timers;
    this.budget = budget;
    this.initial = initial;
    this.clockOffset = clockOffset;
    this.mss = mss;
    this.superMax = mss;
    this.buffer = new SendBuffer(pool);
    this.scoreboard = new Scoreboard(clockOffset);
    this.congestion = new Cubic(mss);
  }

  /** One more than the last position that an ACK may name */
  get sentEnd(): number {
    return Math.max(this.nxt, this.probedEnd);
  }

  /** Whether our FIN was acknowledged */
  get finAcknowledged(): boolean {
    return this.finQueued && this.una > this.buffer.end;
  }

  get room(): number {
    return this.finQueued ? 0 : Math.max(0, this.capacity - this.buffer.len);
  }

  /** @param superMax  payload bytes of the longest super-segment */
  setSegmentSize(mss: number, superMax: number): void {
    this.mss = mss;
    this.superMax = superMax;
    this.congestion.setMss(mss);
  }

  /** Call after a SYN (or SYN-ACK) was sent for the first time. */
  synSent(now: number): void {
    this.nxt = 1;
    this.scoreboard.sent(0, 1, this.mss, now);
    this.timers.set(RETRANSMIT, now + this.rto.timeout);
  }

  /** Call after it was sent again, by its timer. */
  synSentAgain(now: number): void {
    const { head } = this.scoreboard;
    if (head !== null) this.scoreboard.sentAgain(head, this.mss, now);
    this.retransmits++;
    this.timeouts++;
    this.rto.backOff();
    this.timers.set(RETRANSMIT, now + this.rto.timeout);
  }

  /** RFC 9293 §3.10.7.4: the window of a segment newer than the one that the present window came with. */
  updateWindow(sequence: number, ack: number, window: number): void {
    if (sequence < this.wl1 || (sequence === this.wl1 && ack < this.wl2)) return;
    this.window = window;
    this.wl1 = sequence;
    this.wl2 = ack;
    if (window > this.maxWindow) this.maxWindow = window;
  }

  /** Call at the end of the handshake, when the window is known. */
  established(sequence: number, ack: number, window: number): void {
    this.wl1 = sequence;
    this.wl2 = ack;
    this.window = this.maxWindow = window;
  }

  /**
   * Call for each acceptable ACK, RFC 5681 §3, before output().
   * @param ack  SND.UNA <= ack <= sentEnd
   * @param sequence  offset of the segment in the peer's space
   * @param window  scaled
   */
  acknowledged(segment: Segment, ack: number, sequence: number, window: number, now: number): void {
    const { scoreboard } = this;
    const progress = ack > this.una;
    const echo = segment.hasTimestamps && segment.timestampEcho !== 0 ? segment.timestampEcho : null;
    const lostBefore = scoreboard.lost;
    const inFlightBefore = scoreboard.inFlight;
    const windowBefore = this.window;
    let continues = false;
    this.heardAt = now;
    scoreboard.begin(now, echo);
    if (progress) this.advance(ack);
    const repeated = this.sackPermitted && segment.sackCount > 0 && this.takeSacks(segment);
    this.updateWindow(sequence, ack, window);
    if (scoreboard.sampleSentAt >= 0) this.rto.sample(now - scoreboard.sampleSentAt);
    else if (progress && echo !== null) this.sampleEcho(echo, now);
    if (this.probeEnd > 0) this.judgeProbe(ack, progress, repeated, echo);
    if (progress) {
      this.rto.progress();
      this.stalledSince = -1;
      if (this.recovery.active) continues = this.endRecovery(echo);
    }
    const duplicate = !progress && segment.payloadLen === 0 && window === windowBefore && this.una < this.nxt;
    if (this.sackPermitted) this.detectLoss(now);
    else this.countDuplicates(duplicate, progress);
    if (continues) this.beginRecovery(true);
    this.respond(progress, scoreboard.lost > lostBefore, inFlightBefore, now);
    if (progress) this.restartTimers(now);
    if (this.capacity < SEND_BUFFER_MAX && 2 * this.congestion.window > this.capacity) this.growBuffer();
  }

  private advance(ack: number): void {
    this.scoreboard.acknowledge(ack);
    this.buffer.release(Math.min(ack, this.buffer.end));
    this.una = ack;
    if (ack > this.nxt) this.nxt = ack; // the byte of a window probe
  }

  /** RFC 2018 §5, RFC 2883 §4. @returns whether the first block says that something came twice */
  private takeSacks(segment: Segment): boolean {
    const { sacks, sackCount } = segment;
    const { una, nxt, initial } = this;
    const first = toOffset(sacks[0], initial, una);
    const firstEnd = toOffset(sacks[1], initial, una);
    let repeated = first < firstEnd && firstEnd <= una;
    if (sackCount > 1 && first < firstEnd && !repeated) {
      const second = toOffset(sacks[2], initial, una);
      repeated = first >= second && firstEnd <= toOffset(sacks[3], initial, una);
    }
    if (repeated) this.scoreboard.rack.duplicateReported(una, nxt);
    // In order of sequence, so that RACK does not take the order of the blocks for reordering.
    let from = -1;
    for (let round = 0; round < sackCount; round++) {
      let start = Infinity;
      let end = 0;
      for (let i = 0; i < sackCount; i++) {
        const left = toOffset(sacks[2 * i], initial, una);
        if (left <= from || left >= start) continue;
        start = left;
        end = toOffset(sacks[2 * i + 1], initial, una);
      }
      if (start === Infinity) break;
      from = start;
      if (start >= una && start < end && end <= nxt) this.scoreboard.sack(start, end);
    }
    return repeated;
  }

  /** RFC 7323 §4.1: measures by the echo what Karn's rule forbids to measure otherwise. */
  private sampleEcho(echo: number, now: number): void {
    const rtt = (Math.floor(now) + this.clockOffset - echo) | 0;
    if (rtt >= 0 && rtt < USER_TIMEOUT_MS) this.rto.sample(rtt);
  }

  /** RFC 8985 §7.4: a probe that repaired a loss counts as a loss. */
  private judgeProbe(ack: number, progress: boolean, repeated: boolean, echo: number | null): void {
    if (ack < this.probeEnd) return;
    const unneeded = !this.probeIsAgain || repeated || (echo !== null && echoesBefore(echo, this.probeStamp));
    if (!unneeded && ack === this.probeEnd && progress) return; // the next ACK tells
    this.probeEnd = 0;
    if (unneeded || !progress || this.recovery.active) return;
    this.congestion.reduce();
    this.congestion.window = this.congestion.threshold;
  }

  /**
   * Ends recovery if what was in flight when it began is acknowledged, or was not lost.
   * @returns whether what was sent since lost something, too: a loss of the next window (RFC 5681 §4.3, RFC 6675 §5)
   */
  private endRecovery(echo: number | null): boolean {
    const stamp = this.retransmitStamp;
    let continues = false;
    if (echo !== null && stamp !== null && this.scoreboard.again === 0 && echoesBefore(echo, stamp)) {
      // RFC 3522: what is acknowledged was sent before anything was sent again, and that was all. Nothing had been
      // lost.
      this.scoreboard.unmarkLost();
      this.congestion.undo();
    } else if (this.una < this.recovery.point) {
      return false;
    } else {
      if (!this.timedOut) this.congestion.window = this.congestion.threshold;
      continues = this.scoreboard.lost + this.scoreboard.again > 0;
    }
    this.recovery.end();
    this.timedOut = false;
    this.duplicates = 0;
    this.scoreboard.rack.recoveryEnded();
    return continues;
  }

  /** RFC 8985 §6.2 */
  private detectLoss(now: number): void {
    const { scoreboard } = this;
    const certain = this.recovery.active || scoreboard.sacked >= DUPLICATE_THRESHOLD * this.mss;
    const remaining = scoreboard.detectLoss(now, scoreboard.rack.reorderingWindow(certain, this.rto.smoothed));
    if (remaining > 0) this.timers.set(REORDER, now + remaining);
    else this.timers.clear(REORDER);
  }

  /** RFC 5681 §3.2, RFC 6582 §3.2: three duplicates, or progress that ends inside of recovery. */
  private countDuplicates(duplicate: boolean, progress: boolean): void {
    if (duplicate) this.duplicates++;
    if (progress && !this.recovery.active) this.duplicates = 0;
    if (this.timedOut) return;
    if (this.recovery.active ? progress : this.duplicates === DUPLICATE_THRESHOLD) {
      this.scoreboard.markHeadLost(this.mss);
    }
    if (duplicate) this.scoreboard.delivered += this.mss; // something left the network
  }

  /** The congestion window after an ACK. */
  private respond(progress: boolean, newLoss: boolean, inFlightBefore: number, now: number): void {
    const { scoreboard, congestion, recovery } = this;
    const begins = newLoss && !recovery.active;
    if (begins) this.beginRecovery(false);
    if (recovery.active && !this.timedOut) {
      const { delivered, inFlight } = scoreboard;
      const allowed = recovery.allowance(
        delivered, inFlight, congestion.threshold, this.mss, progress && !newLoss, begins,
      );
      congestion.window = Math.max(inFlight + Math.max(allowed, 0), this.mss);
      return;
    }
    // RFC 5681 §3.2: not for what came out of order, unless the path is known to reorder.
    if (scoreboard.delivered === 0 || !(progress || scoreboard.rack.reordered)) return;
    const grows = this.limited || this.timedOut || (congestion.inSlowStart && congestion.window < 2 * inFlightBefore);
    if (grows) congestion.acknowledged(scoreboard.delivered, now, this.rto.smoothed);
  }

  /** @param continues  some of it was sent again already, so that the stamp of that stays */
  private beginRecovery(continues: boolean): void {
    this.congestion.reduce();
    this.recovery.begin(this.nxt, this.nxt - this.una);
    this.timedOut = false;
    if (!continues) this.retransmitStamp = null;
    this.probeEnd = 0;
    this.timers.clear(PROBE);
  }

  /** RFC 6298 §5.2, §5.3, and RFC 8985 §7.2. Call after progress. */
  private restartTimers(now: number): void {
    if (this.scoreboard.head === null) {
      this.timers.clear(RETRANSMIT);
      this.timers.clear(PROBE);
      this.timers.clear(REORDER);
      return;
    }
    this.timers.set(RETRANSMIT, now + this.rto.timeout);
    this.scheduleProbe(now);
  }

  /** RFC 8985 §7.2: two round trips after the last of the flight; in place of a time-out that would come before. */
  private scheduleProbe(now: number): void {
    const { scoreboard, timers } = this;
    const useful =
      this.sackPermitted && !this.recovery.active && scoreboard.sacked === 0 && this.probeEnd === 0 &&
      scoreboard.inFlight > 0 && this.rto.smoothed > 0 && this.rto.backoffs === 0;
    if (!useful) {
      timers.clear(PROBE);
      return;
    }
    const single = scoreboard.inFlight <= this.mss;
    const at = now + 2 * this.rto.smoothed + (single ? PEER_ACK_DELAY_MS : PROBE_SLACK_MS);
    timers.set(PROBE, Math.min(at, timers.at(RETRANSMIT)));
  }

  private growBuffer(): void {
    const wanted = Math.min(SEND_BUFFER_MAX, Math.floor(2 * this.congestion.window));
    if (this.budget.take(wanted - this.capacity)) this.capacity = wanted;
  }

  /** Sends what may be sent: first what was lost, then what is new. Call after every change. */
  output(now: number): void {
    if (this.scoreboard.lost > 0) this.retransmit(now);
    this.sendNew(now);
    this.watchWindow(now);
  }

  private retransmit(now: number): void {
    const { scoreboard, congestion } = this;
    while (scoreboard.lost > 0) {
      const room = Math.floor(congestion.window) - scoreboard.inFlight;
      const t = scoreboard.nextLost(this.mss, Math.min(room, this.superMax));
      if (t === null) return;
      const len = t.end - t.start;
      if (len > room && scoreboard.inFlight > 0) return;
      if (this.retransmitStamp === null) this.retransmitStamp = this.stamp(now);
      this.transmitter.transmit(t.start, t.end);
      scoreboard.sentAgain(t, this.mss, now);
      this.retransmits += Math.ceil(len / this.mss);
      this.afterSending(len, now);
      if (t === scoreboard.head) this.timers.set(RETRANSMIT, now + this.rto.timeout);
    }
  }

  private stamp(now: number): number {
    return (Math.floor(now) + this.clockOffset) >>> 0;
  }

  /** RFC 9293 §3.8.6.2.1 (silly windows), §3.7.4 (Nagle); whole segments but for the end. */
  private sendNew(now: number): void {
    const { buffer, congestion, scoreboard } = this;
    const end = buffer.end + (this.finQueued ? 1 : 0);
    this.limited = false;
    if (this.nxt >= end) return;
    if (scoreboard.head === null) this.resume(now);
    while (this.nxt < end) {
      const data = buffer.end - this.nxt;
      const windowRoom = this.una + this.window - this.nxt;
      if (windowRoom <= 0) return;
      if (data <= 0) {
        this.sendRange(this.nxt + 1, now);
        return;
      }
      const congestionRoom = Math.floor(congestion.window) - scoreboard.inFlight;
      let len = Math.min(data, this.superMax, windowRoom);
      if (len > congestionRoom) {
        this.limited = true;
        len = congestionRoom;
      }
      if (len < data) {
        if (len >= this.mss) len -= len % this.mss;
        else if (this.limited || len < this.maxWindow / 2) return;
      } else if (len < this.mss && !this.mayBeShort()) {
        return;
      }
      if (this.limited && this.shouldGather(congestionRoom)) return;
      const withFin = len === data && this.finQueued && windowRoom > len;
      this.sendRange(this.nxt + len + (withFin ? 1 : 0), now);
    }
  }

  /**
   * Whether to wait for more room than there is, so that super-segments stay long: ACKs are on their way while an
   * eighth of the window is not in use.
   */
  private shouldGather(room: number): boolean {
    if (this.superMax === this.mss || this.recovery.active) return false;
    return room < this.superMax && room < this.congestion.window / 8;
  }

  private mayBeShort(): boolean {
    if (this.una === this.nxt || this.finQueued) return true;
    return this.noDelay && this.scoreboard.count < SMALL_IN_FLIGHT_MAX;
  }

  /** Call before sending when nothing is in flight. */
  private resume(now: number): void {
    if (this.lastSentAt < 0) return;
    const idle = now - this.lastSentAt;
    if (idle > this.rto.timeout) this.congestion.restartAfterIdle();
    else this.congestion.pause(idle);
  }

  private sendRange(end: number, now: number): void {
    const start = this.nxt;
    this.nxt = end;
    this.transmitter.transmit(start, end);
    this.scoreboard.sent(start, end, this.mss, now);
    this.timers.clear(PERSIST);
    this.persistBackoffs = 0;
    if (!this.timers.isSet(RETRANSMIT)) this.timers.set(RETRANSMIT, now + this.rto.timeout);
    this.scheduleProbe(now);
    this.afterSending(end - start, now);
  }

  private afterSending(len: number, now: number): void {
    this.lastSentAt = now;
    if (this.recovery.active) this.recovery.sent(len);
  }

  /** RFC 9293 §3.8.6.1: with nothing in flight, nobody would tell us that a window opened again. */
  private watchWindow(now: number): void {
    const waits = this.scoreboard.head === null && this.nxt < this.buffer.end + (this.finQueued ? 1 : 0);
    if (!waits) {
      this.timers.clear(PERSIST);
      return;
    }
    if (this.timers.isSet(PERSIST)) return;
    const open = this.una + this.window > this.nxt;
    const delay = open ? SILLY_OVERRIDE_MS : this.rto.timeout * 2 ** Math.min(this.persistBackoffs, 16);
    this.timers.set(PERSIST, now + Math.min(delay, PERSIST_MAX_MS));
  }

  /** Call when PERSIST is due. @returns whether the peer has been silent for too long */
  persistExpired(now: number): boolean {
    if (this.persistBackoffs > 0 && this.hasGivenUp(now)) return true;
    this.persistBackoffs++;
    const data = this.buffer.end - this.nxt;
    const windowRoom = this.una + this.window - this.nxt;
    if (windowRoom > 0 && data > 0) {
      const backoffs = this.persistBackoffs;
      this.sendRange(this.nxt + Math.min(data, windowRoom, this.mss), now);
      this.persistBackoffs = backoffs;
    } else if (data > 0) {
      // Not counted as sent: the peer may throw it away for ever, and it is what comes next when the window opens.
      this.probedEnd = this.nxt + 1;
      this.transmitter.transmit(this.nxt, this.nxt + 1);
    } else {
      this.transmitter.transmitProbe();
    }
    this.watchWindow(now);
    return false;
  }

  /** Call when REORDER is due. */
  reorderExpired(now: number): void {
    const { scoreboard } = this;
    const lostBefore = scoreboard.lost;
    scoreboard.begin(now, null);
    this.detectLoss(now);
    this.respond(false, scoreboard.lost > lostBefore, scoreboard.inFlight, now);
    this.output(now);
  }

  /** Call when PROBE is due: RFC 8985 §7.3, new data if there is some, else the last segment again. */
  probeExpired(now: number): void {
    const { scoreboard, buffer } = this;
    this.timers.set(RETRANSMIT, now + this.rto.timeout);
    this.timers.clear(PROBE);
    if (scoreboard.head === null || this.recovery.active) return;
    const data = Math.min(buffer.end - this.nxt, this.mss, this.una + this.window - this.nxt);
    if (data > 0) {
      this.probeIsAgain = false;
      this.probeEnd = this.nxt + data;
      this.sendRange(this.probeEnd, now);
    } else {
      const last = scoreboard.last(this.mss);
      if (last === null) return;
      this.probeIsAgain = true;
      this.probeEnd = this.nxt;
      this.transmitter.transmit(last.start, last.end);
      scoreboard.sentAgain(last, this.mss, now);
      this.retransmits++;
      this.lastSentAt = now;
    }
    this.probeStamp = this.stamp(now);
    this.timers.clear(PROBE);
  }

  /** Call when RETRANSMIT is due in a synchronized state: RFC 6298 §5.4 ff. @returns whether it is time to give up */
  timeoutExpired(now: number): boolean {
    const { scoreboard, congestion, recovery } = this;
    if (scoreboard.head === null) return false;
    if (this.timers.isSet(PROBE)) {
      this.probeExpired(now);
      return false;
    }
    if (this.stalledSince < 0) this.stalledSince = now;
    if (this.hasGivenUp(now)) return true;
    this.timeouts++;
    this.rto.backOff();
    const again = this.timedOut && recovery.active;
    if (!again) {
      congestion.timedOut(recovery.active);
      this.retransmitStamp = null;
    }
    if (this.sackPermitted) {
      scoreboard.detectTimeout(now, scoreboard.rack.reorderingWindow(recovery.active, this.rto.smoothed));
    } else {
      scoreboard.markAllLost();
    }
    recovery.begin(this.nxt, this.nxt - this.una);
    this.timedOut = true;
    this.duplicates = 0;
    this.probeEnd = 0;
    this.timers.clear(PROBE);
    this.timers.clear(REORDER);
    congestion.window = scoreboard.inFlight + this.mss;
    if (this.rto.backoffs >= BLACK_HOLE_TIMEOUTS) this.transmitter.suspectBlackHole();
    this.timers.set(RETRANSMIT, now + this.rto.timeout);
    this.output(now);
    return false;
  }

  /** RFC 9293 §3.8.3 R2; a peer that answers with a closed window is there (§3.8.6.1). */
  private hasGivenUp(now: number): boolean {
    if (this.window === 0 && now - this.heardAt < USER_TIMEOUT_MS) return false;
    const since = this.stalledSince < 0 ? this.heardAt : this.stalledSince;
    return now - since >= USER_TIMEOUT_MS;
  }

  /** The path takes no more than `mss` a segment: RFC 1191 §6.5. No sign of congestion. */
  shrink(mss: number, superMax: number, now: number): void {
    this.setSegmentSize(mss, superMax);
    const { scoreboard, congestion } = this;
    if (!scoreboard.markLongerLost(mss)) return;
    congestion.window = Math.max(congestion.window, scoreboard.inFlight + mss);
    if (!this.timers.isSet(RETRANSMIT)) this.timers.set(RETRANSMIT, now + this.rto.timeout);
  }

  /** Frees everything. */
  close(): void {
    this.buffer.clear();
    this.scoreboard.clear();
    this.budget.give(this.capacity - INITIAL_BUFFER);
    this.capacity = INITIAL_BUFFER;
  }
}
