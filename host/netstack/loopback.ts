// Packets to our own addresses: they never see the link. Each waits for a timer of no delay, so that a sender is never
// called back from within its own send(), and an exchange of ours with ourselves leaves the event loop to others. What
// waits is bounded in bytes.

import type { StackClock } from "./types.ts";

export const LOOPBACK_BYTES_MAX = 4 << 20;

export class Loopback {
  readonly #clock: StackClock;
  readonly #deliver: (packet: Uint8Array, gsoSize: number) => void;
  #queue: { packet: Uint8Array; gsoSize: number }[] = [];
  #bytes = 0;
  #timer: unknown = null;

  constructor(clock: StackClock, deliver: (packet: Uint8Array, gsoSize: number) => void) {
    this.#clock = clock;
    this.#deliver = deliver;
  }

  /** @param packet  the queue's from now on. @returns whether there was room */
  send(packet: Uint8Array, gsoSize: number): boolean {
    if (this.#bytes + packet.length > LOOPBACK_BYTES_MAX) return false;
    this.#bytes += packet.length;
    this.#queue.push({ packet, gsoSize });
    this.#timer ??= this.#clock.setTimer(() => this.#flush(), 0);
    return true;
  }

  clear(): void {
    if (this.#timer !== null) this.#clock.clearTimer(this.#timer);
    this.#timer = null;
    this.#queue = [];
    this.#bytes = 0;
  }

  #flush(): void {
    const queue = this.#queue;
    this.#timer = null;
    this.#queue = [];
    this.#bytes = 0;
    for (const { packet, gsoSize } of queue) this.#deliver(packet, gsoSize);
  }
}
