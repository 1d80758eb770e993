// getrandom(2), straight into the core's memory or the caller's.

import { THREAD_RANDOM, THREAD_RANDOM_LEFT, THREAD_RANDOM_SIZE } from "../../../assembly/abi.ts";
import type { CoreThread, Random } from "../types.ts";
import { EINTR, SystemError } from "./errno.ts";
import type { Libc } from "./libc.ts";
import { ThreadMemory } from "./thread.ts";

export class LinuxRandom implements Random {
  readonly #libc: Libc;
  readonly #thread: ThreadMemory;

  constructor(libc: Libc, thread: CoreThread) {
    this.#libc = libc;
    this.#thread = new ThreadMemory(libc, thread);
  }

  refill(): void {
    const { words, blockAddress } = this.#thread;
    const left = words[THREAD_RANDOM_LEFT / 4];
    if (left === THREAD_RANDOM_SIZE) return;
    // A count above the size can only be the core's mistake: everything is filled anew.
    const used = left < THREAD_RANDOM_SIZE ? THREAD_RANDOM_SIZE - left : THREAD_RANDOM_SIZE;
    this.#fill(blockAddress + THREAD_RANDOM, used);
    words[THREAD_RANDOM_LEFT / 4] = THREAD_RANDOM_SIZE;
  }

  fill(bytes: Uint8Array): void {
    this.#fill(this.#libc.address(bytes), bytes.length);
  }

  #fill(address: number, length: number): void {
    for (let done = 0; done < length; ) {
      const result = this.#libc.getrandom(address + done, length - done, 0);
      if (result > 0) done += result;
      else if (this.#libc.errno() !== EINTR) throw new SystemError(this.#libc.errno(), "getrandom", "get random bytes");
    }
  }
}
