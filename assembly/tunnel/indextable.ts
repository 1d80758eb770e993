// Receiver index -> what it stands for: the caller's reference, a peer number and which of its sessions or handshake.
//
// Open addressing with linear probing. Our own side draws the indices at random, so an index is its own hash. A removal
// shifts the entries behind it back, so there are no tombstones and a table that lives for years stays as quick as
// a new one. Four indices a peer at most in eight slots a peer: half full at worst.
//
//   offset  bytes  name    an entry, 8 bytes; written by the main thread in a write section, read in runs
//        0      4  index
//        4      4  ref + 1, 0 = empty
//
// Rejected: the index as a direct slot number, as it would tell an observer how many sessions there are.

import { EXISTS, FULL, OK } from "../abi";
import { map } from "../memory";

const REF: usize = 4;

// @ts-ignore: decorator
@inline
function indexMask(): u32 {
  return ((<u32>1) << map().indexBits) - 1;
}

// @ts-ignore: decorator
@inline
function entryOf(slot: u32): usize {
  return map().indexTable + (<usize>slot << 3);
}

// The entry that holds `index`, or 0. The walk ends after one turn, for a table may be quite full.
// @ts-ignore: decorator
@inline
function find(index: u32): usize {
  const mask = indexMask();
  for (let step: u32 = 0; step <= mask; step++) {
    const entry = entryOf((index + step) & mask);
    if (!load<u32>(entry, REF)) return 0;
    if (load<u32>(entry) == index) return entry;
  }
  return 0;
}

/**
 * @param ref  below 2^31
 * @returns OK, EXISTS (nothing changes: draw another index) or FULL
 */
export function indexInsert(index: u32, ref: u32): i32 {
  const mask = indexMask();
  for (let step: u32 = 0; step <= mask; step++) {
    const entry = entryOf((index + step) & mask);
    if (!load<u32>(entry, REF)) {
      store<u32>(entry, index);
      store<u32>(entry, ref + 1, REF);
      return OK;
    }
    if (load<u32>(entry) == index) return EXISTS;
  }
  return FULL;
}

/** @returns the reference of `index`, or -1 */
export function indexLookup(index: u32): i32 {
  const entry = find(index);
  return entry ? <i32>load<u32>(entry, REF) - 1 : -1;
}

/** Makes `index`, if it is there, stand for another reference: a handshake's index becomes its session's. */
export function indexReplace(index: u32, ref: u32): void {
  const entry = find(index);
  if (entry) store<u32>(entry, ref + 1, REF);
}

/** Removes `index`, if it is there. */
export function indexRemove(index: u32): void {
  const entry = find(index);
  if (!entry) return;
  const mask = indexMask();
  let hole = <u32>((entry - map().indexTable) >> 3);
  for (let step: u32 = 1, slot = hole; step <= mask; step++) {
    slot = (slot + 1) & mask;
    const next = entryOf(slot);
    if (!load<u32>(next, REF)) break;
    // An entry may move to the hole if that is not before its home: it is at least as far from home as from the hole.
    if (((slot - load<u32>(next)) & mask) < ((slot - hole) & mask)) continue;
    store<u64>(entryOf(hole), load<u64>(next));
    hole = slot;
  }
  store<u64>(entryOf(hole), 0);
}
