// Congestion control: CUBIC (RFC 9438) with its Reno-friendly region, slow start and restart after idle (RFC 5681), the
// initial window of RFC 6928. In bytes; the formulas of the RFC count segments, so they are scaled by the MSS.
// The owner says how much was acknowledged, and whether the window was what held the sender back: it grows only then.

import { INITIAL_WINDOW_MAX, INITIAL_WINDOW_SEGMENTS } from "./constants.ts";

/** RFC 9438 §4.1, §4.6: segments per s^3, and the factor of a reduction */
const C = 0.4;
const BETA = 0.7;
/** RFC 9438 §4.3: what makes Reno's growth with BETA equal to Reno's own */
const ALPHA = (3 * (1 - BETA)) / (1 + BETA);
/** RFC 9438 §4.4: the target is at most so much above the window */
const TARGET_MAX_RATIO = 1.5;
const WINDOW_MIN_SEGMENTS = 2;

export class Cubic {
  mss: number;
  /** cwnd, bytes */
  window: number;
  /** ssthresh, bytes */
  threshold = Infinity;
  /** W_max, segments */
  private plateau = 0;
  /** K, s */
  private k = 0;
  /** when this epoch of congestion avoidance began, ms; -1 = not yet */
  private epochStart = -1;
  /** W_est, segments */
  private estimate = 0;
  /** cwnd_prior, segments: W_est grows with ALPHA below, with 1 above */
  private prior = 0;
  private afterTimeout = false;
  /** to undo a reduction that was for nothing */
  private savedWindow = 0;
  private savedThreshold = Infinity;
  private savedPlateau = 0;

  constructor(mss: number) {
    this.mss = mss;
    this.window = initialWindow(mss);
  }

  /** Call when the MSS is known: RFC 6928. */
  begin(): void {
    this.window = initialWindow(this.mss);
  }

  get inSlowStart(): boolean {
    return this.window < this.threshold;
  }

  /**
   * Call after new data was acknowledged outside of recovery, and only if the window was the limit.
   * @param now  ms
   * @param rtt  smoothed, ms
   */
  acknowledged(bytes: number, now: number, rtt: number): void {
    if (this.inSlowStart) {
      const used = Math.min(bytes, this.threshold - this.window);
      this.window += used;
      bytes -= used;
      if (bytes <= 0) return;
    }
    this.avoid(bytes, now, rtt);
  }

  /** RFC 9438 §4.2 to §4.5 */
  private avoid(bytes: number, now: number, rtt: number): void {
    const { mss } = this;
    const window = this.window / mss;
    if (this.epochStart < 0) this.beginEpoch(now, window);
    const segments = bytes / mss;
    this.estimate += (this.estimate < this.prior ? ALPHA : 1) * (segments / window);
    const t = (now - this.epochStart) / 1000;
    if (this.at(t) < this.estimate) {
      this.window = Math.max(this.window, this.estimate * mss); // §4.3: Reno-friendly region
      return;
    }
    const target = Math.min(Math.max(this.at(t + rtt / 1000), window), TARGET_MAX_RATIO * window);
    this.window += ((target - window) / window) * bytes;
  }

  /** W_cubic(t), segments; RFC 9438 §4.2 */
  private at(t: number): number {
    return C * (t - this.k) ** 3 + this.plateau;
  }

  private beginEpoch(now: number, window: number): void {
    this.epochStart = now;
    this.estimate = window;
    if (this.afterTimeout || this.plateau <= window) {
      this.k = 0; // §4.8, and the start without any congestion before
      this.plateau = window;
      this.prior = Math.max(this.prior, window);
    } else {
      this.k = Math.cbrt((this.plateau - window) / C);
    }
    this.afterTimeout = false;
  }

  /** RFC 9438 §4.6, §4.7. Call once when a loss is found; the window follows by PRR. */
  reduce(): void {
    this.save();
    const window = this.window / this.mss;
    this.prior = window;
    this.plateau = window < this.plateau ? (window * (1 + BETA)) / 2 : window; // §4.7: fast convergence
    this.threshold = Math.max(this.window * BETA, WINDOW_MIN_SEGMENTS * this.mss);
    this.epochStart = -1;
  }

  /**
   * RFC 9438 §4.8. Call after the first time-out in a row.
   * @param reduced  whether this flight's loss counted already
   */
  timedOut(reduced: boolean): void {
    if (!reduced) this.reduce();
    this.afterTimeout = true;
    this.epochStart = -1;
  }

  /** Takes the last reduction back. Call after it was found to be for nothing. */
  undo(): void {
    this.window = Math.max(this.window, this.savedWindow);
    this.threshold = this.savedThreshold;
    this.plateau = this.savedPlateau;
    this.epochStart = -1;
    this.afterTimeout = false;
  }

  private save(): void {
    this.savedWindow = this.window;
    this.savedThreshold = this.threshold;
    this.savedPlateau = this.plateau;
  }

  /** RFC 5681 §4.1. Call before sending after an RTO without any. */
  restartAfterIdle(): void {
    this.window = Math.min(this.window, initialWindow(this.mss));
    this.epochStart = -1;
  }

  /** RFC 9438 §5.8: time in which the application sent nothing is no time of the curve. */
  pause(ms: number): void {
    if (this.epochStart >= 0) this.epochStart += ms;
  }

  /** The window keeps its bytes when the segments change, but at least one segment. */
  setMss(mss: number): void {
    this.mss = mss;
    this.window = Math.max(this.window, mss);
  }
}

/** RFC 6928 §2 */
export function initialWindow(mss: number): number {
  return Math.min(INITIAL_WINDOW_SEGMENTS * mss, Math.max(2 * mss, INITIAL_WINDOW_MAX));
}
