// Proportional rate reduction, RFC 6937 with its safe bound: how much may be sent for each ACK while losses are
// repaired, so that the window arrives at ssthresh at the end of recovery, neither in silence nor in a burst.

export class Recovery {
  /** recovery ends when this is acknowledged: snd.nxt when it began; -1 = none is on */
  point = -1;
  private flight = 0;
  private delivered = 0;
  private out = 0;

  get active(): boolean {
    return this.point >= 0;
  }

  /** @param flight  RecoverFS: snd.nxt - snd.una */
  begin(point: number, flight: number): void {
    this.point = point;
    this.flight = Math.max(flight, 1);
    this.delivered = 0;
    this.out = 0;
  }

  end(): void {
    this.point = -1;
  }

  /** Call after anything was sent during recovery. */
  sent(bytes: number): void {
    this.out += bytes;
  }

  /**
   * RFC 6937 §3. Call after each ACK during recovery.
   * @param progress  whether it acknowledged by number and found no new loss
   * @returns bytes that may be sent now
   */
  allowance(
    delivered: number,
    inFlight: number,
    threshold: number,
    mss: number,
    progress: boolean,
    first: boolean,
  ): number {
    this.delivered += delivered;
    let allowed: number;
    if (inFlight > threshold) {
      allowed = Math.ceil((this.delivered * threshold) / this.flight) - this.out;
    } else {
      let limit = Math.max(this.delivered - this.out, delivered);
      if (progress) limit += mss;
      allowed = Math.min(threshold - inFlight, limit);
    }
    // The fast retransmit itself never waits.
    return Math.max(allowed, first ? mss : 0);
  }
}
