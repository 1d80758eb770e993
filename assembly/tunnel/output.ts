// What a call gives the host: OUT and DELIVER records of this thread, and for packets the core makes itself (handshakes,
// keepalives, staged data) room in the thread's slots, handed out from the first byte on and taken back at the next call.

import {
  DELIVER_FLAGS, DELIVER_LENGTH, DELIVER_OFFSET, DELIVER_PEER, DELIVER_SIZE, ENDPOINT_LEN, OUT_ENDPOINT, OUT_LENGTH,
  OUT_MAX, OUT_OFFSET, OUT_PEER, OUT_SEGMENT, OUT_SIZE, OUT_TOS, SLOTS_SIZE, SLOT_HEADROOM, THREAD_DELIVER,
  THREAD_DELIVER_COUNT, THREAD_KICK, THREAD_MORE, THREAD_OUT, THREAD_OUT_COUNT,
} from "../abi";
import { map, threadBase, threadNumber } from "../memory";

// Room for the core's own packets: bytes of this thread's slots in use.
const ROOM_USED: usize = 0x44; // THREAD_BUSY's neighbour on its line: nobody else's business but this thread's

/** Begins a call: no records, no flags, all room free. */
export function beginOutput(): void {
  const base = threadBase;
  store<u32>(base, 0, THREAD_OUT_COUNT);
  store<u32>(base, 0, THREAD_DELIVER_COUNT);
  store<u32>(base, 0, THREAD_KICK);
  store<u32>(base, 0, THREAD_MORE);
  store<u32>(base, 0, ROOM_USED);
}

/** Whether `datagrams` more of `len` bytes each fit this call's records and room. */
export function hasRoom(datagrams: u32, len: u32): bool {
  const base = threadBase;
  const used = load<u32>(base, ROOM_USED) + datagrams * (len + 2 * SLOT_HEADROOM);
  return load<u32>(base, THREAD_OUT_COUNT) + datagrams <= <u32>OUT_MAX && used <= <u32>SLOTS_SIZE;
}

/** Room for one packet of `len` bytes, 16-aligned, with the AEAD's slack around it; hasRoom was asked before. */
export function takeRoom(len: u32): usize {
  const base = threadBase;
  const used = load<u32>(base, ROOM_USED);
  store<u32>(base, (used + len + 2 * SLOT_HEADROOM + 15) & ~15, ROOM_USED);
  return map().slots + <usize>SLOTS_SIZE * threadNumber() + used + SLOT_HEADROOM;
}

/** Appends an OUT record, and returns the address of its ENDPOINT for the caller to fill. */
// @ts-ignore: decorator
@inline
export function putOut(offset: usize, len: u32, peer: u32, tos: u32): usize {
  const base = threadBase;
  const index = load<u32>(base, THREAD_OUT_COUNT);
  const record = base + THREAD_OUT + <usize>index * OUT_SIZE;
  store<u32>(record, <u32>offset, OUT_OFFSET);
  store<u32>(record, len, OUT_LENGTH);
  store<u32>(record, 0, OUT_SEGMENT);
  store<u32>(record, peer, OUT_PEER);
  store<u32>(record, tos, OUT_TOS);
  store<u32>(base, index + 1, THREAD_OUT_COUNT);
  return record + OUT_ENDPOINT;
}

/** Copies an ENDPOINT record to the place putOut gave. */
export function putEndpoint(dst: usize, endpoint: usize): void {
  memory.copy(dst, endpoint, ENDPOINT_LEN);
}

/** Appends a DELIVER record: one packet for the TUN. */
// @ts-ignore: decorator
@inline
export function putDeliver(offset: usize, len: u32, peer: u32): void {
  const base = threadBase;
  const index = load<u32>(base, THREAD_DELIVER_COUNT);
  const record = base + THREAD_DELIVER + <usize>index * DELIVER_SIZE;
  store<u32>(record, <u32>offset, DELIVER_OFFSET);
  store<u32>(record, len, DELIVER_LENGTH);
  store<u32>(record, peer, DELIVER_PEER);
  store<u32>(record, 0, DELIVER_FLAGS);
  store<u32>(base, index + 1, THREAD_DELIVER_COUNT);
}

/** Tells the host that the main thread has work. */
// @ts-ignore: decorator
@inline
export function kick(): void {
  store<u32>(threadBase, 1, THREAD_KICK);
}
