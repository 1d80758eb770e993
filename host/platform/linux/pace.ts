// How the kernel schedules a lane. In bulk SCHED_BATCH is better: a lane that becomes ready does not push another off its
// core, so batches fill and there are fewer switches (TCP 1.1 to 1.4 times as fast with both ends on two cores). For
// single packets it is worse: they wait behind whoever is running (ping 1.7 ms for 0.7 on a busy machine). So a lane
// asks for it while runs are long, and gives it back when they are not.

import type { Libc } from "./libc.ts";

const SCHED_OTHER = 0;
const SCHED_BATCH = 3;
/** bytes of a long run: about a dozen full packets */
const BULK_SIZE = 16384;
/** long runs more than short ones before the change, so that it is made seldom */
const STREAK = 32;

export class Pace {
  readonly #libc: Libc;
  #streak = 0;
  #isBatch = false;

  constructor(libc: Libc) {
    this.#libc = libc;
  }

  /** Call after each run, with its bytes. */
  note(size: number): void {
    if (size >= BULK_SIZE) {
      if (this.#streak < STREAK && ++this.#streak === STREAK && !this.#isBatch) this.#set(true);
    } else if (this.#streak > 0 && --this.#streak === 0 && this.#isBatch) {
      this.#set(false);
    }
  }

  #set(isBatch: boolean): void {
    this.#isBatch = isBatch;
    const { view, address } = this.#libc.scratch;
    view.setInt32(0, 0, true); // priority
    // Where it is refused (musl has no such call) the lane goes on as it is.
    this.#libc.schedSetscheduler(0, isBatch ? SCHED_BATCH : SCHED_OTHER, address);
  }
}
