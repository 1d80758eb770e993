// The peers by their earliest timer: a binary heap of peer numbers, the soonest on top.
//
// The key (ns) and the place in the heap lie in the peer, so to move or remove one is O(log n) without a search.
// A peer is in the heap once, whatever number of timers it has armed: the timers choose their earliest (timers.ts).
// Rejected: a timer wheel, which has to be turned while nothing happens, or rounds instants that tests want exact.
//
// Only the main thread reads and writes it. The heap's numbers are at map().deadlines, maxPeers of them, so it cannot
// overflow.

import { DEVICE_BASE, PEER_SIZE } from "../abi";
import { map } from "../memory";

/** Where a peer keeps its key, u64 ns, and its position + 1, u32, 0 = not in the heap; peer.ts checks both. */
export const PEER_DEADLINE: usize = 72;
export const PEER_HEAP_POSITION: usize = 80;

/** u32 in the device page. */
export const DEADLINE_COUNT: usize = DEVICE_BASE + 0xd0;

// @ts-ignore: decorator
@inline
function peerAt(peer: u32): usize {
  return map().peers + <usize>peer * PEER_SIZE;
}

// @ts-ignore: decorator
@inline
function slotAt(position: u32): usize {
  return map().deadlines + (<usize>position << 2);
}

// @ts-ignore: decorator
@inline
function keyAt(position: u32): u64 {
  return load<u64>(peerAt(load<u32>(slotAt(position))), PEER_DEADLINE);
}

// @ts-ignore: decorator
@inline
function put(position: u32, peer: u32): void {
  store<u32>(slotAt(position), peer);
  store<u32>(peerAt(peer), position + 1, PEER_HEAP_POSITION);
}

// Puts `peer` where it belongs, given that all but `position` are in order and `position` is free.
function settle(position: u32, peer: u32): void {
  const when = load<u64>(peerAt(peer), PEER_DEADLINE);
  while (position) {
    const parent = (position - 1) >> 1;
    if (keyAt(parent) <= when) break;
    put(position, load<u32>(slotAt(parent)));
    position = parent;
  }
  const count = load<u32>(DEADLINE_COUNT);
  for (;;) {
    let child = position * 2 + 1;
    if (child >= count) break;
    if (child + 1 < count && keyAt(child + 1) < keyAt(child)) child++;
    if (keyAt(child) >= when) break;
    put(position, load<u32>(slotAt(child)));
    position = child;
  }
  put(position, peer);
}

/**
 * Arms or moves a peer's deadline.
 * @param when  ns; u64.MAX_VALUE removes it
 */
export function deadlineSet(peer: u32, when: u64): void {
  if (when == u64.MAX_VALUE) {
    deadlineRemove(peer);
    return;
  }
  let position = load<u32>(peerAt(peer), PEER_HEAP_POSITION);
  if (!position) {
    position = load<u32>(DEADLINE_COUNT) + 1;
    store<u32>(DEADLINE_COUNT, position);
  }
  store<u64>(peerAt(peer), when, PEER_DEADLINE);
  settle(position - 1, peer);
}

/** Takes a peer out of the heap, if it is in it; its key becomes u64.MAX_VALUE. */
export function deadlineRemove(peer: u32): void {
  const address = peerAt(peer);
  const position = load<u32>(address, PEER_HEAP_POSITION);
  store<u64>(address, u64.MAX_VALUE, PEER_DEADLINE);
  if (!position) return;
  store<u32>(address, 0, PEER_HEAP_POSITION);
  const last = load<u32>(DEADLINE_COUNT) - 1;
  store<u32>(DEADLINE_COUNT, last);
  if (position - 1 != last) settle(position - 1, load<u32>(slotAt(last)));
}

/** @returns the peer whose deadline is soonest, or -1 */
export function deadlineTop(): i32 {
  return load<u32>(DEADLINE_COUNT) ? <i32>load<u32>(slotAt(0)) : -1;
}

/** @returns the soonest deadline, ns, or u64.MAX_VALUE when none is armed */
export function deadlineTopTime(): u64 {
  return load<u32>(DEADLINE_COUNT) ? keyAt(0) : u64.MAX_VALUE;
}
