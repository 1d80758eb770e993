// RACK, RFC 8985 §6: what was sent long enough before something that has arrived is lost. It finds retransmissions that
// were lost again, and tolerates the reordering that it has seen. Times are ms with fractions, of the layer's clock.
// Which was sent first is told by a count, not by the clock, which stands still within a batch.
// Rejected: counting duplicate ACKs alone (RFC 6675): at 5 % loss every lost retransmission costs a time-out.

import { difference } from "./sequence.ts";
import type { Transmission } from "./scoreboard.ts";

/** RFC 8985 §6.2 step 4: how long a wider reordering window lasts, in recoveries */
const PERSIST_RECOVERIES = 16;
/** A path's least round trip is forgotten after so long */
const MIN_RTT_WINDOW_MS = 300_000;

export class Rack {
  /** which transmission of all this was that was sent last of those that arrived, and where it ended */
  private order = -1;
  private end = 0;
  /** round trip of that, ms */
  rtt = 0;
  minRtt = Infinity;
  private minRttAt = 0;
  /** RACK.fack: the highest end that has arrived */
  highest = 0;
  reordered = false;
  private multiplier = 1;
  private persist = 0;
  /** RACK.dsack_round: snd.nxt when a DSACK widened the window; -1 = none */
  private duplicateRound = -1;

  /**
   * §6.2 steps 1 to 3. Call for each transmission that was acknowledged for the first time.
   * @param end  where that part of it ended that arrived
   * @param echo  TSecr of the segment that said so; null without timestamps
   * @param stamp  the TSval that the transmission had
   */
  delivered(transmission: Transmission, end: number, now: number, echo: number | null, stamp: number): void {
    const rtt = now - transmission.sentAt;
    if (transmission.retransmitted) {
      if (echo !== null ? difference(echo, stamp) < 0 : rtt < this.minRtt) return; // of the first transmission
    } else {
      this.measure(rtt, now);
    }
    if (end > this.highest) this.highest = end;
    else if (!transmission.retransmitted && end < this.highest) this.reordered = true;
    if (transmission.order < this.order || (transmission.order === this.order && end <= this.end)) return;
    this.order = transmission.order;
    this.end = end;
    this.rtt = rtt;
  }

  measure(rtt: number, now: number): void {
    if (rtt > this.minRtt && now - this.minRttAt < MIN_RTT_WINDOW_MS) return;
    this.minRtt = rtt;
    this.minRttAt = now;
  }

  /** Whether what arrived was sent after this one */
  isBehind(transmission: Transmission): boolean {
    return transmission.order < this.order || (transmission.order === this.order && transmission.end < this.end);
  }

  /** §6.2 step 4: a DSACK says that we were too quick. Call once an ACK that carries one. */
  duplicateReported(una: number, nxt: number): void {
    if (this.duplicateRound >= 0 && una < this.duplicateRound) return;
    this.duplicateRound = nxt;
    this.multiplier++;
    this.persist = PERSIST_RECOVERIES;
  }

  recoveryEnded(): void {
    if (this.persist > 0 && --this.persist === 0) this.multiplier = 1;
  }

  /**
   * RACK.reo_wnd, ms.
   * @param certain  whether recovery is on, or enough was acknowledged out of order to begin it
   */
  reorderingWindow(certain: boolean, smoothed: number): number {
    if (!this.reordered && certain) return 0;
    const quarter = (this.multiplier * (this.minRtt === Infinity ? smoothed : this.minRtt)) / 4;
    return Math.min(quarter, smoothed);
  }
}
