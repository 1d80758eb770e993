// Counters of one service: connections, bytes, and failures by reason. Plain numbers, read by the metrics door.

import type { FailureReason } from "./failure.ts";

export class Tally {
  /** connections or UDP sessions that are open now */
  open = 0;
  /** since the start */
  accepted = 0;
  /** payload bytes of the client, into the tunnel; for a reverse forward the other way round */
  sentBytes = 0;
  receivedBytes = 0;
  /** what did not come to be, or ended early, by reason */
  readonly failures = new Map<FailureReason, number>();
  /** UDP datagrams that were not passed on, by reason */
  readonly drops = new Map<string, number>();

  failed(reason: FailureReason): void {
    this.failures.set(reason, (this.failures.get(reason) ?? 0) + 1);
  }

  dropped(reason: string): void {
    this.drops.set(reason, (this.drops.get(reason) ?? 0) + 1);
  }
}
