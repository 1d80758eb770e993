// BLAKE2s (RFC 7693): hashes of 1..32 bytes, keyed or not.
//
// The 4 x 4 state is four rows, each a v128, so that one step works on all four columns; the rows are turned to bring
// the diagonals into columns. The ten rounds are a loop over a table of message offsets: the loads that gather a
// round's words wait for nothing, so the latency of the rounds hides them, and forty unrolled gathers were rejected.
// Rotations go to the right: by 16 and 8 bytes move, by 12 and 7 bits do.

import { threadBase, wipe } from "../memory";
import { HASH_STATE } from "./scratch";

const BLOCK_LEN: u32 = 64;

// prettier-ignore
const IV: usize = memory.data<u32>([
  0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
], 16);

/**
 * RFC 7693 §2.7: the message words of each round, as byte offsets into the block. The words of the diagonals begin with
 * the last one: the diagonals are brought into columns by turning rows a, c and d, and b, for which all wait, stays.
 */
// prettier-ignore
const ORDER: usize = memory.data<u8>([
  0, 4, 8, 12, 16, 20, 24, 28, 56, 60, 32, 36, 40, 44, 48, 52,
  56, 40, 16, 32, 36, 60, 52, 24, 20, 12, 4, 48, 0, 8, 44, 28,
  44, 32, 48, 0, 20, 8, 60, 52, 36, 16, 40, 56, 12, 24, 28, 4,
  28, 36, 12, 4, 52, 48, 44, 56, 60, 32, 8, 24, 20, 40, 16, 0,
  36, 0, 20, 28, 8, 16, 40, 60, 12, 52, 56, 4, 44, 48, 24, 32,
  8, 48, 24, 40, 0, 44, 32, 12, 4, 36, 16, 52, 28, 20, 60, 56,
  48, 20, 4, 60, 56, 52, 16, 40, 32, 44, 0, 28, 24, 12, 36, 8,
  52, 44, 28, 56, 48, 4, 12, 36, 8, 40, 20, 0, 60, 16, 32, 24,
  24, 60, 56, 36, 44, 12, 0, 32, 40, 20, 48, 8, 52, 28, 4, 16,
  40, 8, 32, 16, 28, 24, 4, 20, 52, 0, 60, 44, 36, 56, 12, 48,
], 16);

/** An incremental hash, at any address of the caller's, BLAKE2S_STATE_LEN bytes. */
@unmanaged
export class Blake2sState {
  hLo: v128;
  hHi: v128;
  count: u64; // bytes compressed so far
  used: u32; // bytes in the block
  outLen: u32;
  block0: v128; // the block: filled up before it is compressed, because the last one is compressed apart
  block1: v128;
  block2: v128;
  block3: v128;
  // @ts-ignore: decorator
  @inline get block(): usize { return changetype<usize>(this) + offsetof<Blake2sState>("block0"); }
}

export const BLAKE2S_STATE_LEN: usize = offsetof<Blake2sState>();

// @ts-ignore: decorator
@inline
function rotate16(x: v128): v128 {
  return v128.swizzle(x, i8x16(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
}

// @ts-ignore: decorator
@inline
function rotate12(x: v128): v128 {
  return v128.or(i32x4.shr_u(x, 12), i32x4.shl(x, 20));
}

// @ts-ignore: decorator
@inline
function rotate8(x: v128): v128 {
  return v128.swizzle(x, i8x16(1, 2, 3, 0, 5, 6, 7, 4, 9, 10, 11, 8, 13, 14, 15, 12));
}

// @ts-ignore: decorator
@inline
function rotate7(x: v128): v128 {
  return v128.or(i32x4.shr_u(x, 7), i32x4.shl(x, 25));
}

/** Four message words whose offsets are every second byte from `order`. */
// @ts-ignore: decorator
@inline
function gather(block: usize, order: usize): v128 {
  let words = v128.load32_zero(block + load<u8>(order));
  words = v128.load32_lane(block + load<u8>(order, 2), words, 1);
  words = v128.load32_lane(block + load<u8>(order, 4), words, 2);
  return v128.load32_lane(block + load<u8>(order, 6), words, 3);
}

/** One block, the last of `count` bytes in all; `last` is all ones for the final block, else zero. */
function compress(state: Blake2sState, block: usize, count: u64, last: u32): void {
  let a = state.hLo;
  let b = state.hHi;
  let c = v128.load(IV);
  let d = v128.xor(v128.load(IV, 16), i32x4(<u32>count, <u32>(count >> 32), last, 0));
  const end = ORDER + 160;
  for (let order = ORDER; order < end; order += 16) {
    a = i32x4.add(i32x4.add(a, gather(block, order)), b);
    d = rotate16(v128.xor(d, a));
    c = i32x4.add(c, d);
    b = rotate12(v128.xor(b, c));
    a = i32x4.add(i32x4.add(a, gather(block, order + 1)), b);
    d = rotate8(v128.xor(d, a));
    c = i32x4.add(c, d);
    b = rotate7(v128.xor(b, c));
    a = v128.shuffle<u32>(a, a, 3, 0, 1, 2);
    c = v128.shuffle<u32>(c, c, 1, 2, 3, 0);
    d = v128.shuffle<u32>(d, d, 2, 3, 0, 1);
    a = i32x4.add(i32x4.add(a, gather(block, order + 8)), b);
    d = rotate16(v128.xor(d, a));
    c = i32x4.add(c, d);
    b = rotate12(v128.xor(b, c));
    a = i32x4.add(i32x4.add(a, gather(block, order + 9)), b);
    d = rotate8(v128.xor(d, a));
    c = i32x4.add(c, d);
    b = rotate7(v128.xor(b, c));
    a = v128.shuffle<u32>(a, a, 1, 2, 3, 0);
    c = v128.shuffle<u32>(c, c, 3, 0, 1, 2);
    d = v128.shuffle<u32>(d, d, 2, 3, 0, 1);
  }
  state.hLo = v128.xor(state.hLo, v128.xor(a, c));
  state.hHi = v128.xor(state.hHi, v128.xor(b, d));
}

/**
 * Begins a hash.
 * @param state   BLAKE2S_STATE_LEN bytes
 * @param outLen  bytes of the hash, 1..32
 * @param key     keyLen bytes, 0..32; 0 = not keyed
 */
export function blake2sInit(state: usize, outLen: u32, key: usize, keyLen: u32): void {
  const s = changetype<Blake2sState>(state);
  // parameter block of a sequential hash: digest length, key length, fanout 1, depth 1
  s.hLo = v128.xor(v128.load(IV), i32x4(outLen | (keyLen << 8) | 0x01010000, 0, 0, 0));
  s.hHi = v128.load(IV, 16);
  s.count = 0;
  s.used = 0;
  s.outLen = outLen;
  if (keyLen == 0) return;
  memory.fill(s.block, 0, BLOCK_LEN);
  memory.copy(s.block, key, keyLen);
  s.used = BLOCK_LEN;
}

/** Hashes `srcLen` more bytes. */
export function blake2sUpdate(state: usize, src: usize, srcLen: u32): void {
  if (srcLen == 0) return;
  const s = changetype<Blake2sState>(state);
  const used = s.used;
  const room = BLOCK_LEN - used;
  if (srcLen <= room) {
    memory.copy(s.block + used, src, srcLen);
    s.used = used + srcLen;
    return;
  }
  let count = s.count;
  if (used) {
    memory.copy(s.block + used, src, room);
    src += room;
    srcLen -= room;
    count += BLOCK_LEN;
    compress(s, s.block, count, 0);
  }
  for (; srcLen > BLOCK_LEN; srcLen -= BLOCK_LEN) {
    count += BLOCK_LEN;
    compress(s, src, count, 0);
    src += BLOCK_LEN;
  }
  s.count = count;
  memory.copy(s.block, src, srcLen);
  s.used = srcLen;
}

/** Writes the hash, outLen bytes, and wipes the state. */
export function blake2sFinal(state: usize, dst: usize): void {
  const s = changetype<Blake2sState>(state);
  const used = s.used;
  const outLen = s.outLen;
  memory.fill(s.block + used, 0, BLOCK_LEN - used);
  compress(s, s.block, s.count + used, 0xffffffff);
  memory.copy(dst, state, outLen);
  wipe(state, BLAKE2S_STATE_LEN);
}

/**
 * The hash of `srcLen` bytes, keyed if keyLen > 0. dst may be src or key.
 * @param dst  dstLen bytes, 1..32
 */
export function blake2s(dst: usize, dstLen: u32, src: usize, srcLen: u32, key: usize, keyLen: u32): void {
  const state = threadBase + HASH_STATE;
  blake2sInit(state, dstLen, key, keyLen);
  blake2sUpdate(state, src, srcLen);
  blake2sFinal(state, dst);
}
