// Public key -> peer number.
//
// Open addressing with linear probing; a slot is a u32, peer + 1, 0 = empty, and the key is compared where it lies, in
// the peer. SipHash-2-4 with a secret of the device's own, as anybody may offer keys of his choice for a peer. A
// removal shifts the entries behind it back (indextable.ts). Two slots a peer: half full at worst. Public keys are no
// secrets: comparing them may stop at the first difference.
//
// Only the main thread reads and writes it.

import { DEVICE_BASE, EXISTS, FULL, OK, PEER_SIZE } from "../abi";
import { map } from "../memory";

/** Where a peer keeps its public key; peer.ts checks it. */
export const PEER_PUBLIC_KEY: usize = 0;

/** 16 bytes in the device page. */
export const KEY_TABLE_SECRET: usize = DEVICE_BASE + 0xb0;

/**
 * SipHash-2-4 (Aumasson, Bernstein 2012) of a message of four little-endian words.
 * @param secret  16 bytes
 */
export function sipHash(secret: usize, m0: u64, m1: u64, m2: u64, m3: u64): u64 {
  const k0 = load<u64>(secret);
  const k1 = load<u64>(secret, 8);
  let v0 = k0 ^ 0x736f6d6570736575;
  let v1 = k1 ^ 0x646f72616e646f6d;
  let v2 = k0 ^ 0x6c7967656e657261;
  let v3 = k1 ^ 0x7465646279746573;
  for (let block: u32 = 0; block < 6; block++) {
    let word: u64 = 0;
    let rounds: u32 = 2;
    if (block == 0) word = m0;
    else if (block == 1) word = m1;
    else if (block == 2) word = m2;
    else if (block == 3) word = m3;
    else if (block == 4) word = (<u64>32) << 56; // the message's length closes it
    else {
      v2 ^= 0xff; // finalization: no word, four rounds
      rounds = 4;
    }
    v3 ^= word;
    for (; rounds; rounds--) {
      v0 += v1;
      v2 += v3;
      v1 = rotl<u64>(v1, 13) ^ v0;
      v3 = rotl<u64>(v3, 16) ^ v2;
      v0 = rotl<u64>(v0, 32);
      v2 += v1;
      v0 += v3;
      v1 = rotl<u64>(v1, 17) ^ v2;
      v3 = rotl<u64>(v3, 21) ^ v0;
      v2 = rotl<u64>(v2, 32);
    }
    v0 ^= word;
  }
  return v0 ^ v1 ^ v2 ^ v3;
}

// @ts-ignore: decorator
@inline
function keyMask(): u32 {
  return ((<u32>1) << map().keyBits) - 1;
}

// @ts-ignore: decorator
@inline
function slotAt(slot: u32): usize {
  return map().keyTable + (<usize>slot << 2);
}

// @ts-ignore: decorator
@inline
function keyOf(entry: u32): usize {
  return map().peers + <usize>(entry - 1) * PEER_SIZE + PEER_PUBLIC_KEY;
}

// The slot where a key would lie in an empty table.
function home(key: usize): u32 {
  const hash = sipHash(KEY_TABLE_SECRET, load<u64>(key), load<u64>(key, 8), load<u64>(key, 16), load<u64>(key, 24));
  return <u32>hash & keyMask();
}

function equalKeys(a: usize, b: usize): bool {
  const lo = v128.xor(v128.load(a), v128.load(b));
  const hi = v128.xor(v128.load(a, 16), v128.load(b, 16));
  return !v128.any_true(v128.or(lo, hi));
}

// The slot that holds `key`, or -1; all slots may be taken.
function find(key: usize): i32 {
  const mask = keyMask();
  const first = home(key);
  for (let step: u32 = 0; step <= mask; step++) {
    const slot = (first + step) & mask;
    const entry = load<u32>(slotAt(slot));
    if (!entry) return -1;
    if (equalKeys(keyOf(entry), key)) return <i32>slot;
  }
  return -1;
}

/**
 * Sets the hash's secret. Call once, before anything is inserted.
 * @param secret  16 random bytes
 */
export function keyTableInit(secret: usize): void {
  v128.store(KEY_TABLE_SECRET, v128.load(secret));
}

/**
 * Call with the key already at PEER_PUBLIC_KEY of `peer`, where it must stay until keyRemove.
 * @param key  32 bytes
 * @returns OK, EXISTS (a peer has that key; nothing changes) or FULL
 */
export function keyInsert(key: usize, peer: u32): i32 {
  const mask = keyMask();
  const first = home(key);
  for (let step: u32 = 0; step <= mask; step++) {
    const slot = slotAt((first + step) & mask);
    const entry = load<u32>(slot);
    if (!entry) {
      store<u32>(slot, peer + 1);
      return OK;
    }
    if (equalKeys(keyOf(entry), key)) return EXISTS;
  }
  return FULL;
}

/** @returns the peer with that public key, or -1 */
export function keyLookup(key: usize): i32 {
  const slot = find(key);
  return slot < 0 ? -1 : <i32>load<u32>(slotAt(<u32>slot)) - 1;
}

/** Removes a key, if it is there. Call while it still lies in its peer, as the keys of all other entries do. */
export function keyRemove(key: usize): void {
  const found = find(key);
  if (found < 0) return;
  const mask = keyMask();
  let hole = <u32>found;
  for (let step: u32 = 1, slot = hole; step <= mask; step++) {
    slot = (slot + 1) & mask;
    const entry = load<u32>(slotAt(slot));
    if (!entry) break;
    if (((slot - home(keyOf(entry))) & mask) < ((slot - hole) & mask)) continue;
    store<u32>(slotAt(hole), entry);
    hole = slot;
  }
  store<u32>(slotAt(hole), 0);
}
