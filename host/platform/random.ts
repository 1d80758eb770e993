// Randomness for the core: the web's getRandomValues, which Node, Deno and browsers share. Browsers refuse to fill
// shared memory, so it goes through a buffer of our own, wiped behind it.

import { THREAD_RANDOM, THREAD_RANDOM_LEFT, THREAD_RANDOM_SIZE } from "../../assembly/abi.ts";
import type { Core } from "../core.ts";
import type { Random } from "./types.ts";

/** Refilled when this much is used: a call of the kernel for many packets, not for each. */
const USED_MAX = 1024;

/** @param bytes  of an ordinary buffer, at most 65,536 */
export function fillRandom(bytes: Uint8Array): void {
  crypto.getRandomValues(bytes as Uint8Array<ArrayBuffer>);
}

export class CoreRandom implements Random {
  readonly #core: Core;
  readonly #buffer = new Uint8Array(THREAD_RANDOM_SIZE);

  constructor(core: Core) {
    this.#core = core;
  }

  fill(bytes: Uint8Array): void {
    fillRandom(bytes);
  }

  refill(): void {
    const { view, u8, base } = this.#core;
    const used = THREAD_RANDOM_SIZE - view.getUint32(base + THREAD_RANDOM_LEFT, true);
    if (used < USED_MAX) return;
    const fresh = this.#buffer.subarray(0, used);
    fillRandom(fresh);
    u8.set(fresh, base + THREAD_RANDOM);
    fresh.fill(0);
    view.setUint32(base + THREAD_RANDOM_LEFT, THREAD_RANDOM_SIZE, true);
  }
}
