// TIME_WAIT, RFC 9293 §3.6.1: what is left of a connection that closed first, for twice the maximum segment lifetime,
// so that its late segments meet nobody else and a lost last ACK is sent again. Few numbers each, in order of their
// end, one timer for all of them; when there are too many the oldest goes early. RSTs are ignored (RFC 1337 §4).

import type { StackClock } from "../types.ts";
import { TIME_WAIT_MAX_COUNT, TIME_WAIT_MS } from "./constants.ts";
import { difference } from "./sequence.ts";
import type { Segment } from "./segment.ts";
import { Table, type TableEntry } from "./table.ts";

export interface TimeWaitEntry extends TableEntry<TimeWaitEntry> {
  family: 4 | 6;
  /** SND.NXT and RCV.NXT on the wire */
  sequence: number;
  acknowledgment: number;
  window: number;
  timestamps: boolean;
  recentTimestamp: number;
  clockOffset: number;
  /** ms */
  began: number;
  isOver: boolean;
}

/** A sweep is late by at most this: one timer serves all that end within it. */
const SWEEP_MS = 1000;

export class TimeWait {
  readonly table: Table<TimeWaitEntry>;
  private readonly clock: StackClock;
  /** by when they began */
  private readonly queue = new Set<TimeWaitEntry>();
  private timer: unknown = null;

  constructor(clock: StackClock, seed: number) {
    this.clock = clock;
    this.table = new Table(seed);
  }

  add(entry: TimeWaitEntry): void {
    if (this.queue.size >= TIME_WAIT_MAX_COUNT) {
      const [oldest] = this.queue;
      this.remove(oldest);
    }
    this.table.add(entry);
    this.queue.add(entry);
    this.arm(TIME_WAIT_MS);
  }

  remove(entry: TimeWaitEntry): void {
    entry.isOver = true;
    this.table.remove(entry);
    this.queue.delete(entry);
    if (this.queue.size === 0) this.disarm();
  }

  /** RFC 9293 §3.10.7.4: the FIN came again, and the time begins anew. */
  restart(entry: TimeWaitEntry): void {
    entry.began = this.clock.now();
    this.queue.delete(entry);
    this.queue.add(entry);
  }

  /** RFC 6191 §2, RFC 9293 §3.6.1: whether this SYN is of a new connection, and no late duplicate. */
  mayReopen(entry: TimeWaitEntry, segment: Segment): boolean {
    if (entry.timestamps && segment.hasTimestamps) {
      const newer = difference(segment.timestamp, entry.recentTimestamp);
      if (newer !== 0) return newer > 0;
    }
    return difference(segment.sequence, entry.acknowledgment) > 0;
  }

  close(): void {
    for (const entry of [...this.queue]) this.remove(entry);
  }

  private arm(delayMs: number): void {
    if (this.timer !== null) return;
    this.timer = this.clock.setTimer(() => this.sweep(), delayMs);
  }

  private disarm(): void {
    if (this.timer !== null) this.clock.clearTimer(this.timer);
    this.timer = null;
  }

  private sweep(): void {
    this.timer = null;
    const now = this.clock.now();
    for (const entry of this.queue) {
      const left = entry.began + TIME_WAIT_MS - now;
      if (left > 0) {
        this.arm(Math.max(left, SWEEP_MS));
        return;
      }
      this.remove(entry);
    }
  }
}
