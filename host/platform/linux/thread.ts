// One thread's part of the core's memory, as the host sees it: the words of its block (records, counts, times) and the
// absolute addresses of its packet slots. The one place where an offset that the core gave becomes an address.
//
// Each offset and length is read once and checked as read: another thread's instance, were it taken over, could
// change the record between a check and a second look.

import {
  DELIVER_MAX,
  OUT_MAX,
  SLOTS_SIZE,
  SLOT_HEADROOM,
  SLOT_SIZE,
  THREADS_BASE,
  THREADS_END,
  THREAD_MAX,
  THREAD_SIZE,
} from "../../../assembly/abi.ts";
import type { CoreThread } from "../types.ts";
import type { Libc } from "./libc.ts";

/** The core asked the host to touch memory outside its thread's slots. It cannot be trusted any more: stop the lane. */
export class CoreAddressError extends RangeError {
  readonly code = "ERR_CORE_ADDRESS";

  constructor(message: string) {
    super(`core gave a bad address: ${message}`);
    this.name = "CoreAddressError";
  }
}

export class ThreadMemory {
  readonly thread: number;
  /** The thread block, as u32: index = offset of abi.ts / 4. */
  readonly words: Uint32Array;
  /** Offset in the core's memory of this thread's first slot. */
  readonly slots: number;
  /** Absolute address of this thread's block. */
  readonly blockAddress: number;
  #base: number;
  #memory: WebAssembly.Memory; // keeps the addresses alive

  constructor(libc: Libc, { memory, thread }: CoreThread) {
    if (!Number.isInteger(thread) || thread < 0 || thread >= THREAD_MAX) {
      throw new RangeError(`thread ${thread} is not in 0..${THREAD_MAX - 1}`);
    }
    const block = THREADS_BASE + THREAD_SIZE * thread;
    this.thread = thread;
    this.slots = THREADS_END + SLOTS_SIZE * thread;
    if (memory.buffer.byteLength < this.slots + SLOTS_SIZE) {
      throw new RangeError(`memory of ${memory.buffer.byteLength} bytes does not hold the slots of thread ${thread}`);
    }
    this.words = new Uint32Array(memory.buffer, block, THREAD_SIZE / 4);
    this.#memory = memory;
    this.#base = libc.address(new Uint8Array(memory.buffer));
    this.blockAddress = this.#base + block;
  }

  /** Offset in the core's memory of the packet in slot `index`. */
  packetOffset(index: number): number {
    return this.slots + SLOT_SIZE * index + SLOT_HEADROOM;
  }

  /** Absolute address of a place that the host itself chose. */
  addressOf(offset: number): number {
    return this.#base + offset;
  }

  /**
   * Absolute address of `length` bytes at `offset`, both given by the core.
   * @param record  for the error: the kind and number of the record they came from
   * @throws CoreAddressError unless they lie in this thread's slots
   */
  slotAddress(offset: number, length: number, kind: string, record: number): number {
    if (offset < this.slots || offset + length > this.slots + SLOTS_SIZE) {
      const range = `${this.slots}..${this.slots + SLOTS_SIZE}`;
      throw new CoreAddressError(
        `${kind} record ${record}: ${length} bytes at ${offset} are not in the slots of thread ${this.thread}, ${range}`,
      );
    }
    return this.#base + offset;
  }

  /** @throws CoreAddressError when a count of records is above the room for them */
  checkCount(count: number, kind: "OUT" | "DELIVER"): void {
    const limit = kind === "OUT" ? OUT_MAX : DELIVER_MAX;
    if (!(count >= 0 && count <= limit)) {
      throw new CoreAddressError(`${count} ${kind} records of thread ${this.thread}, room is for ${limit}`);
    }
  }
}
