// The two clocks of the core, written by the kernel straight into the thread block: 0.2 us a clock, no conversion.
// CLOCK_BOOTTIME counts the time asleep, as the kernel module's ktime_get_coarse_boottime does: a laptop that wakes up
// finds its sessions as old as they are.

import { THREAD_MONO, THREAD_WALL } from "../../../assembly/abi.ts";
import type { Clock, CoreThread } from "../types.ts";
import type { Libc } from "./libc.ts";
import { ThreadMemory } from "./thread.ts";

const CLOCK_REALTIME = 0;
const CLOCK_BOOTTIME = 7;

export class LinuxClock implements Clock {
  readonly #libc: Libc;
  readonly #thread: ThreadMemory;

  constructor(libc: Libc, thread: CoreThread) {
    this.#libc = libc;
    this.#thread = new ThreadMemory(libc, thread);
  }

  stamp(): void {
    this.stampMono();
    this.#libc.clockGettime(CLOCK_REALTIME, this.#thread.blockAddress + THREAD_WALL);
  }

  /** The monotonic clock alone: all that a lane's calls of the core look at. */
  stampMono(): void {
    this.#libc.clockGettime(CLOCK_BOOTTIME, this.#thread.blockAddress + THREAD_MONO);
  }

  now(): number {
    const { address, words, view } = this.#libc.scratch;
    this.#libc.clockGettime(CLOCK_BOOTTIME, address);
    return (words[0] + view.getInt32(4, true) * 0x1_0000_0000) * 1e3 + words[2] / 1e6;
  }
}
