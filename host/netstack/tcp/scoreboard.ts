// The retransmission queue: every range that was sent and is not acknowledged, with when it was sent and what became of
// it: in flight, SACKed (RFC 2018) or lost (RACK, RFC 8985). Ranges are in order of sequence; those in flight are also
// in order of time, which is the order in which they are found lost. A super-segment is one range; it is split at
// segments when only a part arrives. SACKed neighbours are joined, and edges count at segments only, so that whatever a
// peer SACKs, there are never more ranges than segments.

import { difference } from "./sequence.ts";
import { Rack } from "./rack.ts";

export const IN_FLIGHT = 0;
export const LOST = 1;
export const SACKED = 2;

export class Transmission {
  start = 0;
  end = 0;
  /** the last time, ms */
  sentAt = 0;
  /** which transmission of all it was, the last time */
  order = 0;
  /** bytes of each segment of it */
  mss = 0;
  state = IN_FLIGHT;
  retransmitted = false;
  /** by sequence */
  previous: Transmission | null = null;
  next: Transmission | null = null;
  /** by time, while in flight */
  older: Transmission | null = null;
  newer: Transmission | null = null;
}

const SPARE_MAX_COUNT = 64;

export class Scoreboard {
  readonly rack = new Rack();
  head: Transmission | null = null;
  tail: Transmission | null = null;
  private oldest: Transmission | null = null;
  private newest: Transmission | null = null;
  /** bytes by state: "pipe" is inFlight (RFC 6675) */
  inFlight = 0;
  lost = 0;
  sacked = 0;
  /** of those in flight, what was sent again */
  again = 0;
  count = 0;

  // What the last ACK brought: reset by begin().
  /** bytes acknowledged for the first time, by number or by SACK */
  delivered = 0;
  /** when the first of those acknowledged by number was sent; -1 = none */
  private firstSentAt = -1;
  /** whether the number covers something that was sent again */
  private retransmissionAcknowledged = false;

  private now = 0;
  private echo: number | null = null;
  /** what to add to a time for its timestamp */
  private readonly clockOffset: number;
  /** the highest SACKed range */
  private cursor: Transmission | null = null;
  /** no range before it is lost */
  private lostHint: Transmission | null = null;
  private spare: Transmission | null = null;
  private spareCount = 0;
  private order = 0;

  /** @param clockOffset  TSval = floor(ms) + this */
  constructor(clockOffset: number) {
    this.clockOffset = clockOffset;
  }

  /** Call after [start, end) was sent for the first time; it follows what was sent before. */
  sent(start: number, end: number, mss: number, now: number): void {
    const t = this.allocate();
    t.start = start;
    t.end = end;
    t.mss = mss;
    t.sentAt = now;
    t.previous = this.tail;
    if (this.tail === null) this.head = t;
    else this.tail.next = t;
    this.tail = t;
    this.inFlight += end - start;
    this.appendByTime(t);
  }

  /** Call after a lost range, or the last one, was sent again. */
  sentAgain(t: Transmission, mss: number, now: number): void {
    const len = t.end - t.start;
    if (t.state === LOST) {
      this.lost -= len;
      this.inFlight += len;
    } else {
      if (t.retransmitted) this.again -= len;
      this.unlinkByTime(t);
    }
    this.again += len;
    t.state = IN_FLIGHT;
    t.retransmitted = true;
    t.mss = mss;
    t.sentAt = now;
    this.appendByTime(t);
  }

  /**
   * Call before the ranges of an ACK.
   * @param echo  its TSecr, or null
   */
  begin(now: number, echo: number | null): void {
    this.now = now;
    this.echo = echo;
    this.delivered = 0;
    this.firstSentAt = -1;
    this.retransmissionAcknowledged = false;
  }

  /** Everything before `una` arrived. */
  acknowledge(una: number): void {
    let t = this.head;
    while (t !== null && t.end <= una) {
      const next: Transmission | null = t.next;
      if (t.retransmitted) this.retransmissionAcknowledged = true;
      if (t.state !== SACKED) this.arrived(t, t.end, true);
      this.forget(t, t.end - t.start);
      this.remove(t);
      t = next;
    }
    if (t !== null && t.start < una) {
      if (t.retransmitted) this.retransmissionAcknowledged = true;
      if (t.state !== SACKED) this.arrived(t, una, true);
      this.forget(t, una - t.start);
      t.start = una;
    }
  }

  /**
   * When the first of what the last ACK's number covers was sent, to measure the round trip by; -1 if something of it
   * was sent again: Karn's rule, RFC 6298 §3. (What lies behind a hole was held up by it.)
   */
  get sampleSentAt(): number {
    return this.retransmissionAcknowledged ? -1 : this.firstSentAt;
  }

  /** [start, end) arrived, RFC 2018 §5; the caller has checked that it was sent and is not acknowledged. */
  sack(start: number, end: number): void {
    let t = this.cursor !== null && start >= this.cursor.start ? this.cursor : this.head;
    while (t !== null && t.start < end) {
      if (t.end > start && t.state !== SACKED) t = this.sackPart(t, start, end);
      t = t.next;
    }
  }

  /** Marks the whole segments of `t` in [start, end). @returns the range to go on after */
  private sackPart(t: Transmission, start: number, end: number): Transmission {
    const { mss } = t;
    const from = start <= t.start ? t.start : t.start + Math.ceil((start - t.start) / mss) * mss;
    const to = end >= t.end ? t.end : t.start + Math.floor((end - t.start) / mss) * mss;
    if (from >= to) return t;
    const part = from > t.start ? this.split(t, from) : t;
    if (to < part.end) this.split(part, to);
    const len = part.end - part.start;
    this.arrived(part, part.end, false);
    this.forget(part, len);
    if (part.state === IN_FLIGHT) this.unlinkByTime(part);
    part.state = SACKED;
    this.sacked += len;
    const joined = this.joinSacked(part);
    if (this.cursor === null || joined.start > this.cursor.start) this.cursor = joined;
    return joined;
  }

  private joinSacked(t: Transmission): Transmission {
    const { next, previous } = t;
    if (next !== null && next.state === SACKED) {
      t.end = next.end;
      this.remove(next, t);
    }
    if (previous !== null && previous.state === SACKED) {
      previous.end = t.end;
      this.remove(t, previous);
      return previous;
    }
    return t;
  }

  /** The bytes of `t` up to `end` arrived, now first known. */
  private arrived(t: Transmission, end: number, sample: boolean): void {
    this.delivered += end - t.start;
    if (sample && (this.firstSentAt < 0 || t.sentAt < this.firstSentAt)) this.firstSentAt = t.sentAt;
    const stamp = this.echo === null ? 0 : Math.floor(t.sentAt) + this.clockOffset;
    this.rack.delivered(t, end, this.now, this.echo, stamp);
  }

  /** Takes bytes of `t` out of the sums. */
  private forget(t: Transmission, len: number): void {
    if (t.state === IN_FLIGHT) {
      this.inFlight -= len;
      if (t.retransmitted) this.again -= len;
    } else if (t.state === LOST) {
      this.lost -= len;
    } else {
      this.sacked -= len;
    }
  }

  /**
   * RFC 8985 §6.2 step 5.
   * @returns ms until the next range in flight would be lost; 0 = none is suspected
   */
  detectLoss(now: number, window: number): number {
    const { rack } = this;
    let t = this.oldest;
    while (t !== null && rack.isBehind(t)) {
      const newer: Transmission | null = t.newer;
      const remaining = t.sentAt + rack.rtt + window - now;
      if (remaining > 0) return remaining; // those sent later have longer still
      this.markLost(t);
      t = newer;
    }
    return 0;
  }

  /** RFC 8985 §6.3: the first range is lost, and what was sent longer ago than a round trip. */
  detectTimeout(now: number, window: number): void {
    const { head } = this;
    if (head === null) return;
    if (head.state === SACKED) this.renege();
    else if (head.state === IN_FLIGHT) this.markLost(head);
    let t = this.oldest;
    while (t !== null && t.sentAt + this.rack.rtt + window - now <= 0) {
      const newer: Transmission | null = t.newer;
      this.markLost(t);
      t = newer;
    }
  }

  /** RFC 2018 §8: what was SACKed may have been thrown away, and here it was: nothing of it counts. */
  private renege(): void {
    for (let t = this.head; t !== null; t = t.next) {
      if (t.state !== SACKED) continue;
      this.sacked -= t.end - t.start;
      this.lost += t.end - t.start;
      t.state = LOST;
    }
    this.cursor = null;
    this.lostHint = this.head;
  }

  /** Everything in flight is lost. Without SACK, a time-out tells no more. */
  markAllLost(): void {
    while (this.oldest !== null) this.markLost(this.oldest);
  }

  /** At most `len` bytes at the head are lost: fast retransmit without SACK (RFC 6582). */
  markHeadLost(len: number): void {
    const { head } = this;
    if (head === null || head.state !== IN_FLIGHT) return;
    if (head.end - head.start > len) this.split(head, head.start + len);
    this.markLost(head);
  }

  /** What was sent in segments longer than `mss` never arrives (RFC 1191 §6.5). @returns whether there was some */
  markLongerLost(mss: number): boolean {
    let found = false;
    let t = this.oldest;
    while (t !== null) {
      const newer: Transmission | null = t.newer;
      if (Math.min(t.mss, t.end - t.start) > mss) {
        this.markLost(t);
        found = true;
      }
      t = newer;
    }
    return found;
  }

  /** What was thought lost is in flight after all (a reduction is undone). */
  unmarkLost(): void {
    for (let t = this.lostHint; t !== null; t = t.next) {
      if (t.state !== LOST) continue;
      this.lost -= t.end - t.start;
      this.inFlight += t.end - t.start;
      if (t.retransmitted) this.again += t.end - t.start;
      t.state = IN_FLIGHT;
      this.insertByTime(t);
    }
    this.lostHint = null;
  }

  private markLost(t: Transmission): void {
    const len = t.end - t.start;
    this.inFlight -= len;
    if (t.retransmitted) this.again -= len;
    this.lost += len;
    this.unlinkByTime(t);
    t.state = LOST;
    if (this.lostHint === null || t.start < this.lostHint.start) this.lostHint = t;
  }

  /**
   * The first lost range, at most `room` bytes of it in whole segments (but at least one segment); lost neighbours are
   * joined to fill it.
   */
  nextLost(mss: number, room: number): Transmission | null {
    let t = this.lostHint;
    while (t !== null && t.state !== LOST) t = t.next;
    this.lostHint = t;
    if (t === null) return null;
    const most = Math.max(mss, room - (room % mss));
    for (let next = t.next; next !== null && next.state === LOST && t.end - t.start < most; next = t.next) {
      t.end = next.end;
      t.retransmitted ||= next.retransmitted;
      this.remove(next, t);
    }
    if (t.end - t.start > most) this.split(t, t.start + most);
    return t;
  }

  /** The last range, at most `mss` bytes of its end, if it is in flight: what a tail loss probe sends. */
  last(mss: number): Transmission | null {
    const { tail } = this;
    if (tail === null || tail.state !== IN_FLIGHT) return null;
    return tail.end - tail.start > mss ? this.split(tail, tail.end - mss) : tail;
  }

  clear(): void {
    this.head = this.tail = this.oldest = this.newest = this.cursor = this.lostHint = this.spare = null;
    this.inFlight = this.lost = this.sacked = this.again = this.count = this.spareCount = 0;
  }

  /** Cuts `t` at `at`. @returns the second part */
  private split(t: Transmission, at: number): Transmission {
    const second = this.allocate();
    second.start = at;
    second.end = t.end;
    second.sentAt = t.sentAt;
    second.order = t.order;
    second.mss = t.mss;
    second.state = t.state;
    second.retransmitted = t.retransmitted;
    t.end = at;
    second.previous = t;
    second.next = t.next;
    if (t.next === null) this.tail = second;
    else t.next.previous = second;
    t.next = second;
    if (t.state === IN_FLIGHT) {
      second.older = t;
      second.newer = t.newer;
      if (t.newer === null) this.newest = second;
      else t.newer.older = second;
      t.newer = second;
    }
    return second;
  }

  /** @param heir  the neighbour that has its bytes now */
  private remove(t: Transmission, heir: Transmission | null = null): void {
    if (t.state === IN_FLIGHT) this.unlinkByTime(t);
    if (t.previous === null) this.head = t.next;
    else t.previous.next = t.next;
    if (t.next === null) this.tail = t.previous;
    else t.next.previous = t.previous;
    if (this.cursor === t) this.cursor = heir;
    if (this.lostHint === t) this.lostHint = heir ?? t.next;
    this.count--;
    if (this.spareCount >= SPARE_MAX_COUNT) return;
    t.previous = null;
    t.next = this.spare;
    this.spare = t;
    this.spareCount++;
  }

  private allocate(): Transmission {
    this.count++;
    const t = this.spare;
    if (t === null) return new Transmission();
    this.spare = t.next;
    this.spareCount--;
    t.next = t.previous = t.older = t.newer = null;
    t.state = IN_FLIGHT;
    t.retransmitted = false;
    return t;
  }

  private appendByTime(t: Transmission): void {
    t.order = this.order++;
    t.older = this.newest;
    t.newer = null;
    if (this.newest === null) this.oldest = t;
    else this.newest.newer = t;
    this.newest = t;
  }

  private insertByTime(t: Transmission): void {
    let after = this.newest;
    while (after !== null && (after.order > t.order || (after.order === t.order && after.end > t.end))) {
      after = after.older;
    }
    t.older = after;
    t.newer = after === null ? this.oldest : after.newer;
    if (t.newer === null) this.newest = t;
    else t.newer.older = t;
    if (after === null) this.oldest = t;
    else after.newer = t;
  }

  private unlinkByTime(t: Transmission): void {
    if (t.older === null) this.oldest = t.newer;
    else t.older.newer = t.newer;
    if (t.newer === null) this.newest = t.older;
    else t.newer.older = t.older;
    t.older = t.newer = null;
  }
}

/** Whether an echoed timestamp is older than another: what was acknowledged was sent before. */
export function echoesBefore(echo: number, stamp: number): boolean {
  return difference(echo, stamp) < 0;
}
