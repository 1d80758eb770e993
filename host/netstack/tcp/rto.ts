// The retransmission time-out, RFC 6298: SRTT, RTTVAR, and the back-off. Karn's rule is the caller's: it measures no
// segment that was sent twice (or measures it by its timestamp). ms, with fractions.

import { RTO_GRANULARITY_MS, RTO_INITIAL_MS, RTO_MAX_MS } from "./constants.ts";

const ALPHA = 1 / 8;
const BETA = 1 / 4;
const K = 4;

export class Rto {
  /** 0 = nothing was measured yet */
  smoothed = 0;
  variance = 0;
  private base = RTO_INITIAL_MS;
  /** time-outs since the last new acknowledgment */
  backoffs = 0;

  /** §2.2 and §2.3 */
  sample(rtt: number): void {
    if (this.smoothed === 0) {
      this.smoothed = Math.max(rtt, Number.MIN_VALUE);
      this.variance = rtt / 2;
    } else {
      this.variance += BETA * (Math.abs(this.smoothed - rtt) - this.variance);
      this.smoothed += ALPHA * (rtt - this.smoothed);
    }
    this.base = this.smoothed + Math.max(RTO_GRANULARITY_MS, K * this.variance);
  }

  /** §2.5, §5.5 */
  get timeout(): number {
    return Math.min(this.base * (1 << Math.min(this.backoffs, 16)), RTO_MAX_MS);
  }

  /** §5.5. Call after the timer expired. */
  backOff(): void {
    this.backoffs++;
  }

  /** Call after new data was acknowledged: §5.3 restarts the timer with the time-out of what was measured. */
  progress(): void {
    this.backoffs = 0;
  }

  /** §5.7: the handshake's time-outs say that the guess was too short. */
  restart(initial: number): void {
    if (this.smoothed === 0) this.base = initial;
  }
}
