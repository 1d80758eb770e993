// One timer of the clock for all deadlines of a connection. A deadline that moves later costs nothing: the timer comes
// early once, finds nothing due and is set again. With no deadline it is not set again: an idle connection wakes nobody
// but once, by what is left of its last exchange. (Clearing it at once would cost a timer for each ACK that is held
// back.)

import type { StackClock } from "../types.ts";

/** RFC 6298; also the handshake's */
export const RETRANSMIT = 0;
/** RFC 8985 §7: tail loss probe */
export const PROBE = 1;
/** RFC 8985 §6: the reordering window ends */
export const REORDER = 2;
/** RFC 9293 §3.8.6.1 */
export const PERSIST = 3;
/** RFC 9293 §3.8.6.3 */
export const DELAYED_ACK = 4;
/** RFC 9293 §3.8.4 */
export const KEEPALIVE = 5;
/** FIN_WAIT_2 that nobody reads */
export const FIN_WAIT = 6;
/** RFC 5681 §4.2: a report of what is ahead of a gap, held back */
export const REPORT = 7;
const KIND_COUNT = 8;

export class Timers {
  private readonly clock: StackClock;
  private readonly expired: (kind: number, now: number) => void;
  private readonly deadlines = new Float64Array(KIND_COUNT).fill(Infinity);
  private handle: unknown = null;
  /** when the clock's timer comes */
  private armed = Infinity;

  /** @param expired  called for each kind that is due; afterwards the caller's arm() is called by this */
  constructor(clock: StackClock, expired: (kind: number, now: number) => void) {
    this.clock = clock;
    this.expired = expired;
  }

  set(kind: number, at: number): void {
    this.deadlines[kind] = at;
  }

  clear(kind: number): void {
    this.deadlines[kind] = Infinity;
  }

  isSet(kind: number): boolean {
    return this.deadlines[kind] !== Infinity;
  }

  at(kind: number): number {
    return this.deadlines[kind];
  }

  /** Call after deadlines have changed. */
  arm(): void {
    let next = Infinity;
    for (let kind = 0; kind < KIND_COUNT; kind++) if (this.deadlines[kind] < next) next = this.deadlines[kind];
    if (this.armed <= next) return;
    this.disarm();
    this.armed = next;
    this.handle = this.clock.setTimer(this.fire, Math.max(0, next - this.clock.now()));
  }

  /** No deadline, no timer. */
  stop(): void {
    this.deadlines.fill(Infinity);
    this.disarm();
  }

  private disarm(): void {
    if (this.handle !== null) this.clock.clearTimer(this.handle);
    this.handle = null;
    this.armed = Infinity;
  }

  private readonly fire = (): void => {
    this.handle = null;
    this.armed = Infinity;
    const now = this.clock.now();
    for (let kind = 0; kind < KIND_COUNT; kind++) {
      if (this.deadlines[kind] > now) continue;
      this.deadlines[kind] = Infinity;
      this.expired(kind, now);
    }
    this.arm();
  };
}
