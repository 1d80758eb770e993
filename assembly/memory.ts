// The memory map, drawn once, and the few verbs on raw bytes.
//
//   0x00000  compiler      constants of this module (each instance writes the same bytes again)
//   0x10000  DEVICE        one page: identity, counters, events, locks (tunnel/device.ts)
//   0x20000  THREADS       THREAD_MAX pages: a control block, scratch and records for each thread (abi.ts)
//  0x120000  slots         threads x SLOTS_SIZE: packet slots
//        ..  peers         maxPeers x PEER_SIZE: peer, handshake, cookie, timers, three sessions
//        ..  index table   receiver index -> peer and what of it
//        ..  key table     public key -> peer
//        ..  deadlines     heap of peers by their earliest timer
//        ..  mailbox       ring of peers that a worker has work for on the main thread
//        ..  nodes         maxNodes x NODE_SIZE: the allowed-IP tries
//        ..  staged        STAGED_BLOCK_COUNT blocks: packets that wait for a handshake
//        ..  handshakes    MAX_QUEUED_HANDSHAKES slots: messages that wait for the main thread
//        ..  limiter       LIMITER_ENTRY_COUNT entries: sources of handshakes
//
// There is no allocator: every pool has its size from deviceInit, and a full pool is a status. Addresses that every
// thread shares are constants, or fields of the device at a constant address; `threadBase` is the one global, because
// a wasm global belongs to its instance and so to one thread. A map in globals was rejected: each instance would have
// to be told it again, and Deno checks the bounds of every access that is not to a constant address.

import {
  DEVICE_BASE,
  HANDSHAKE_SLOT_SIZE,
  LIMITER_ENTRY_COUNT,
  LIMITER_ENTRY_SIZE,
  NODE_SIZE,
  PAGE_SIZE,
  PEER_SIZE,
  SLOTS_SIZE,
  STAGED_BLOCK_COUNT,
  STAGED_BLOCK_SIZE,
  THREADS_BASE,
  THREADS_END,
  THREAD_MAX,
  THREAD_SIZE,
} from "./abi";
import { MAX_PEERS, MAX_QUEUED_HANDSHAKES } from "./protocol";

/** Address of this thread's block; the one mutable global of the core. */
export let threadBase: usize = THREADS_BASE;

/** Makes this instance thread number `thread`, 0 = main. */
export function bindThread(thread: u32): void {
  threadBase = THREADS_BASE + THREAD_SIZE * thread;
}

/** Number of the thread this instance is bound to. */
// @ts-ignore: decorator
@inline
export function threadNumber(): u32 {
  return <u32>((threadBase - THREADS_BASE) / THREAD_SIZE);
}

/** Where the pools lie: fields at MAP, written once by layOut, read by all threads. */
@unmanaged
export class Map {
  maxPeers: u32;
  maxNodes: u32;
  threads: u32;
  indexBits: u32; // log2 of the slots of the index table
  keyBits: u32; // log2 of the slots of the key table
  mailboxBits: u32; // log2 of the slots of the mailbox
  slots: usize;
  peers: usize;
  indexTable: usize;
  keyTable: usize;
  deadlines: usize;
  mailbox: usize;
  nodes: usize;
  staged: usize;
  handshakes: usize;
  limiter: usize;
  end: usize;
}

/** The map's place: the first bytes of the device page. */
export const MAP: usize = DEVICE_BASE;

// @ts-ignore: decorator
@inline
export function map(): Map {
  return changetype<Map>(MAP);
}

function bitsFor(count: u32): u32 {
  return 32 - clz<u32>(count - 1);
}

// Sums in u64: a map past 4 GiB is refused, never wrapped.
function place(cursor: u64, size: u64): u64 {
  return (cursor + size + 63) & ~63;
}

/**
 * Draws the map. With `dst` = 0 only measures.
 * @returns the map's end in pages of 64 KiB, or 0 when a count is out of range or the sum passes 4 GiB
 */
export function layOut(dst: usize, maxPeers: u32, maxNodes: u32, threads: u32): u32 {
  if (maxPeers < 1 || maxPeers > <u32>MAX_PEERS || maxNodes < 2 || maxNodes > 1 << 26) return 0;
  if (threads < 1 || threads > <u32>THREAD_MAX) return 0;
  const indexBits = bitsFor(maxPeers * 8);
  const keyBits = bitsFor(maxPeers * 2);
  const mailboxBits = bitsFor(maxPeers + 1);
  const slots: u64 = THREADS_END;
  const peers = place(slots, <u64>SLOTS_SIZE * threads);
  const indexTable = place(peers, <u64>PEER_SIZE * maxPeers);
  const keyTable = place(indexTable, 8 << indexBits);
  const deadlines = place(keyTable, 4 << keyBits);
  const mailbox = place(deadlines, 4 * <u64>maxPeers);
  const nodes = place(mailbox, 4 << mailboxBits);
  const staged = place(nodes, <u64>NODE_SIZE * maxNodes);
  const handshakes = place(staged, <u64>STAGED_BLOCK_SIZE * STAGED_BLOCK_COUNT);
  const limiter = place(handshakes, <u64>HANDSHAKE_SLOT_SIZE * MAX_QUEUED_HANDSHAKES);
  const end = place(limiter, <u64>LIMITER_ENTRY_SIZE * LIMITER_ENTRY_COUNT);
  if (end > 0xffff0000) return 0;
  if (dst != 0) {
    const m = changetype<Map>(dst);
    m.maxPeers = maxPeers;
    m.maxNodes = maxNodes;
    m.threads = threads;
    m.indexBits = indexBits;
    m.keyBits = keyBits;
    m.mailboxBits = mailboxBits;
    m.slots = <usize>slots;
    m.peers = <usize>peers;
    m.indexTable = <usize>indexTable;
    m.keyTable = <usize>keyTable;
    m.deadlines = <usize>deadlines;
    m.mailbox = <usize>mailbox;
    m.nodes = <usize>nodes;
    m.staged = <usize>staged;
    m.handshakes = <usize>handshakes;
    m.limiter = <usize>limiter;
    m.end = <usize>end;
  }
  return <u32>((end + PAGE_SIZE - 1) / PAGE_SIZE);
}

/**
 * Zeroes secret bytes. asc keeps stores to linear memory (it cannot know who reads them), so a plain fill is enough.
 */
// @ts-ignore: decorator
@inline
export function wipe(dst: usize, len: usize): void {
  memory.fill(dst, 0, len);
}

/** Copies 32 bytes. */
// @ts-ignore: decorator
@inline
export function copy32(dst: usize, src: usize): void {
  const lo = v128.load(src);
  const hi = v128.load(src, 16);
  v128.store(dst, lo);
  v128.store(dst, hi, 16);
}

/** Whether two runs of bytes are equal, in time that depends on `len` alone. */
export function equalConstantTime(a: usize, b: usize, len: usize): bool {
  let difference: u32 = 0;
  for (let i: usize = 0; i < len; i++) difference |= load<u8>(a + i) ^ load<u8>(b + i);
  return difference == 0;
}

/** Whether all bytes are zero, in time that depends on `len` alone. */
export function isZeroConstantTime(a: usize, len: usize): bool {
  let bits: u32 = 0;
  for (let i: usize = 0; i < len; i++) bits |= load<u8>(a + i);
  return bits == 0;
}
