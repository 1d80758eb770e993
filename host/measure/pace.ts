// How much may be sent by now at a steady rate. What a sender could not send in time it may make up for, but only a
// little of it: after a long pause it goes on at the rate, and does not flood. Pure.

/** of the rate: what may come at once after a pause */
const CATCH_UP_MS = 20;

export class Pace {
  readonly #bytesPerMs: number;
  readonly #burst: number;
  #from: number;

  /** @param rate  bit/s, 0 = no limit */
  constructor(rate: number, length: number, now: number) {
    this.#bytesPerMs = rate / 8000;
    this.#burst = Math.max(length, this.#bytesPerMs * CATCH_UP_MS);
    this.#from = now;
  }

  /** @returns bytes that may be sent at `now` (ms), after `sent` were */
  allowance(now: number, sent: number): number {
    if (this.#bytesPerMs === 0) return Infinity;
    const due = (now - this.#from) * this.#bytesPerMs - sent;
    if (due <= this.#burst) return due;
    this.#from += (due - this.#burst) / this.#bytesPerMs;
    return this.#burst;
  }

  /** @returns ms until `bytes` may be sent */
  wait(now: number, sent: number, bytes: number): number {
    return Math.max(0, (bytes - this.allowance(now, sent)) / this.#bytesPerMs);
  }
}
