// The datagrams of one stream as they arrive: how many, which twice, which behind a later one, and the jitter of
// RFC 3550 §6.4.1. Only differences of the sender's times are used, so the two clocks need not agree. Pure.

/** sequence numbers that are remembered: one that is further behind counts as out of order, not as a repetition */
const WINDOW = 1 << 16;
const MASK = WINDOW - 1;

export class Arrivals {
  /** each counted once */
  datagrams = 0;
  bytes = 0;
  duplicates = 0;
  /** behind one with a higher number */
  reordered = 0;
  jitterMs = 0;
  /** ms; -1 = none came yet */
  firstAt = -1;
  lastAt = -1;
  /** the highest number so far, and one more: what was sent at least */
  expected = 0;
  readonly #seen = new Uint8Array(WINDOW);
  #transit: number | undefined;

  /**
   * @param sequence  0, 1, 2 ...
   * @param sentAt  ms of the sender's clock
   * @param now  ms of ours
   */
  add(sequence: number, length: number, sentAt: number, now: number): void {
    if (sequence >= this.expected) {
      const ahead = sequence - this.expected;
      if (ahead >= WINDOW) this.#seen.fill(0);
      else for (let skipped = this.expected; skipped < sequence; skipped++) this.#seen[skipped & MASK] = 0;
      this.expected = sequence + 1;
    } else if (sequence >= this.expected - WINDOW && this.#seen[sequence & MASK] === 1) {
      this.duplicates++;
      return;
    } else {
      this.reordered++;
    }
    this.#seen[sequence & MASK] = 1;
    this.datagrams++;
    this.bytes += length;
    if (this.firstAt < 0) this.firstAt = now;
    this.lastAt = now;
    const transit = now - sentAt;
    if (this.#transit !== undefined) this.jitterMs += (Math.abs(transit - this.#transit) - this.jitterMs) / 16;
    this.#transit = transit;
  }
}
