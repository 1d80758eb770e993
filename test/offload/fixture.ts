// The offload module under test: its exports, a place for packets, and delivered packets as bytes.
import assert from "node:assert/strict";
import {
  DELIVER_CONTINUES, DELIVER_FLAGS, DELIVER_LENGTH, DELIVER_OFFSET, DELIVER_PEER, DELIVER_SIZE, SLOTS_SIZE,
  THREAD_DELIVER, THREAD_DELIVER_COUNT, THREAD_MAX, THREAD_SIZE, THREADS_BASE,
} from "../../assembly/abi.ts";
import { loadTest, type TestModule } from "../helpers/wasm.ts";

/** What test/assembly/offload.ts exports; a bool goes in as 0 or 1. */
export interface OffloadExports {
  bindThread(thread: number): void;
  foldedSum(data: number, len: number): number;
  segmentBegin(packet: number, len: number): number;
  segmentLenMax(): number;
  segmentsLeft(): number;
  segmentNext(): number;
  segmentPacket(): number;
  coalesceBegin(): void;
  coalesceEnd(): void;
  coalesce(packet: number, len: number, peer: number, joinUdp: number): void;
}

export type Offload = TestModule<OffloadExports>;

/** The first byte above the thread blocks. */
export const FLOOR = THREADS_BASE + THREAD_SIZE * THREAD_MAX;
/** One thread's slots, and not a byte more: what reads or writes past them traps. */
export const CEILING = FLOOR + SLOTS_SIZE;

export const loadOffload = (build: string): Offload => loadTest<OffloadExports>("offload", build, CEILING / 65536);

/** A piece of a delivered packet. */
export interface Piece {
  offset: number;
  length: number;
}

export interface Delivered {
  /** virtio header and packet, gathered */
  bytes: Uint8Array;
  peer: number;
  pieces: Piece[];
}

/** The packets of a thread's DELIVER records. Asserts that each piece lies in [floor, ceiling). */
export function takeDelivered(view: DataView, block: number, floor: number, ceiling: number): Delivered[] {
  const u8 = new Uint8Array(view.buffer);
  const count = view.getUint32(block + THREAD_DELIVER_COUNT, true);
  const delivered: Delivered[] = [];
  let pieces: Piece[] = [];
  for (let i = 0; i < count; i++) {
    const record = block + THREAD_DELIVER + i * DELIVER_SIZE;
    const offset = view.getUint32(record + DELIVER_OFFSET, true);
    const length = view.getUint32(record + DELIVER_LENGTH, true);
    assert.ok(offset >= floor && offset + length <= ceiling, `DELIVER record ${i}: ${length} bytes at ${offset}`);
    pieces.push({ offset, length });
    if (view.getUint32(record + DELIVER_FLAGS, true) & DELIVER_CONTINUES) {
      assert.ok(i + 1 < count, "the last record has none after it");
      continue;
    }
    const bytes = Buffer.concat(pieces.map((it) => u8.slice(it.offset, it.offset + it.length)));
    delivered.push({ bytes: new Uint8Array(bytes), peer: view.getUint32(record + DELIVER_PEER, true), pieces });
    pieces = [];
  }
  return delivered;
}
