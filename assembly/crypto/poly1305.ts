// Poly1305 (RFC 8439 §2.5) a block at a time, for messages with associated data: handshakes and cookies. It needs no
// slack around its input and is the twin that poly1305x4.ts, the packets' MAC, is tested against.
//
// A number mod 2^130 - 5 is five limbs of 26 bits, POLY_ROW bytes apart, so that four numbers (in the wide build eight)
// interleave into five rows of lanes: the layout in which poly1305x4.ts and poly1305x8.ts take the powers of r. Limb 1
// may exceed 26 bits by a few units.
// Rejected: limbs of 44 bits, because wasm has no 64 x 64 -> 128 multiplication.

import { threadBase } from "../memory";
import { FIRST_STREAM, POLY_BLOCK, POLY_BLOCK_LEN, POLY_HASH, POLY_HASH_LEN, POLY_POWERS, POLY_ROW } from "./scratch";

const LIMB: u64 = (1 << 26) - 1;
/** The bit above a whole block, 2^128, in limb 4. */
const BLOCK_END: u32 = 1 << 24;
/** The last lane of POLY_POWERS: r itself. */
const LANE_R: usize = POLY_ROW - 4;

/** Clamps the first half of a one-time key into limbs at `dst`. */
// @ts-ignore: decorator
@inline
function loadR(dst: usize, key: usize): void {
  store<u32>(dst, load<u32>(key) & 0x3ffffff);
  store<u32>(dst, (load<u32>(key, 3) >> 2) & 0x3ffff03, POLY_ROW);
  store<u32>(dst, (load<u32>(key, 6) >> 4) & 0x3ffc0ff, POLY_ROW * 2);
  store<u32>(dst, (load<u32>(key, 9) >> 6) & 0x3f03fff, POLY_ROW * 3);
  store<u32>(dst, (load<u32>(key, 12) >> 8) & 0x00fffff, POLY_ROW * 4);
}

/**
 * dst = a * b mod 2^130 - 5, limbs below 2^26 + 32. Limbs of a below 2^28, of b below 2^26 + 32.
 * Inlined: as calls, the three of polyPowers cost a packet of 64 bytes 3 %.
 */
// @ts-ignore: decorator
@inline
function multiply(dst: usize, a: usize, b: usize): void {
  const a0 = <u64>load<u32>(a);
  const a1 = <u64>load<u32>(a, POLY_ROW);
  const a2 = <u64>load<u32>(a, POLY_ROW * 2);
  const a3 = <u64>load<u32>(a, POLY_ROW * 3);
  const a4 = <u64>load<u32>(a, POLY_ROW * 4);
  const b0 = <u64>load<u32>(b);
  const b1 = <u64>load<u32>(b, POLY_ROW);
  const b2 = <u64>load<u32>(b, POLY_ROW * 2);
  const b3 = <u64>load<u32>(b, POLY_ROW * 3);
  const b4 = <u64>load<u32>(b, POLY_ROW * 4);
  const f1 = b1 * 5; // 2^130 = 5
  const f2 = b2 * 5;
  const f3 = b3 * 5;
  const f4 = b4 * 5;
  let d0 = a0 * b0 + a1 * f4 + a2 * f3 + a3 * f2 + a4 * f1;
  let d1 = a0 * b1 + a1 * b0 + a2 * f4 + a3 * f3 + a4 * f2;
  let d2 = a0 * b2 + a1 * b1 + a2 * b0 + a3 * f4 + a4 * f3;
  let d3 = a0 * b3 + a1 * b2 + a2 * b1 + a3 * b0 + a4 * f4;
  let d4 = a0 * b4 + a1 * b3 + a2 * b2 + a3 * b1 + a4 * b0;
  d1 += d0 >> 26;
  d2 += d1 >> 26;
  d3 += d2 >> 26;
  d4 += d3 >> 26;
  d0 = (d0 & LIMB) + (d4 >> 26) * 5;
  d1 = (d1 & LIMB) + (d0 >> 26);
  store<u32>(dst, <u32>(d0 & LIMB));
  store<u32>(dst, <u32>d1, POLY_ROW);
  store<u32>(dst, <u32>(d2 & LIMB), POLY_ROW * 2);
  store<u32>(dst, <u32>(d3 & LIMB), POLY_ROW * 3);
  store<u32>(dst, <u32>(d4 & LIMB), POLY_ROW * 4);
}

/** r^4, r^3, r^2 and r in the last four lanes of POLY_POWERS. */
export function polyPowers(base: usize, key: usize): void {
  const r = base + POLY_POWERS + LANE_R;
  loadR(r, key);
  multiply(r - 4, r, r);
  multiply(r - 8, r - 4, r);
  multiply(r - 12, r - 4, r - 4);
}

/** r^8, r^7, r^6 and r^5 in the first four. Call after polyPowers. */
export function polyHighPowers(base: usize): void {
  const r = base + POLY_POWERS + LANE_R;
  multiply(r - 16, r - 12, r);
  multiply(r - 20, r - 12, r - 4);
  multiply(r - 24, r - 12, r - 8);
  multiply(r - 28, r - 12, r - 12);
}

/**
 * The tag: the limbs of an accumulator reduced below 2^130 - 5, plus s, the second half of the key. In time that does
 * not depend on them. Limbs of any size below 2^38.
 */
export function polyTag(dst: usize, key: usize, h0: u64, h1: u64, h2: u64, h3: u64, h4: u64): void {
  h1 += h0 >> 26;
  h2 += h1 >> 26;
  h3 += h2 >> 26;
  h4 += h3 >> 26;
  h0 = (h0 & LIMB) + (h4 >> 26) * 5;
  h1 = (h1 & LIMB) + (h0 >> 26);
  h0 &= LIMB;
  h2 &= LIMB;
  h3 &= LIMB;
  h4 &= LIMB;
  // lo + 2^64 hi + 2^128 top; h1 may be 2^26, so the low sum carries
  const low = h0 + (h1 << 26);
  let lo = low + (h2 << 52);
  const carry = <u64>(lo < low);
  let hi = (h2 >> 12) + (h3 << 14) + (h4 << 40) + carry;
  const top = (h4 >> 24) + <u64>(hi < carry);
  // plus 5: when that passes 2^130, the number was 2^130 - 5 or more, and the low 128 bits of the sum are its residue
  const lo5 = lo + 5;
  const carry5 = <u64>(lo5 < lo);
  const hi5 = hi + carry5;
  const top5 = top + <u64>(hi5 < carry5);
  const reduce = <u64>-(<i64>(top5 >> 2));
  lo = (lo & ~reduce) | (lo5 & reduce);
  hi = (hi & ~reduce) | (hi5 & reduce);
  const s = load<u64>(key, 16);
  lo += s;
  hi += load<u64>(key, 24) + <u64>(lo < s);
  store<u64>(dst, lo);
  store<u64>(dst, hi, 8);
}

/** Adds a whole block and multiplies by r. */
function absorbBlock(base: usize, block: usize): void {
  const h = base + POLY_HASH;
  const lo = load<u64>(block);
  const hi = load<u64>(block, 8);
  store<u32>(h, load<u32>(h) + <u32>(lo & LIMB));
  store<u32>(h, load<u32>(h, POLY_ROW) + <u32>((lo >> 26) & LIMB), POLY_ROW);
  store<u32>(h, load<u32>(h, POLY_ROW * 2) + <u32>(((lo >> 52) | (hi << 12)) & LIMB), POLY_ROW * 2);
  store<u32>(h, load<u32>(h, POLY_ROW * 3) + <u32>((hi >> 14) & LIMB), POLY_ROW * 3);
  store<u32>(h, load<u32>(h, POLY_ROW * 4) + (<u32>(hi >> 40) | BLOCK_END), POLY_ROW * 4);
  multiply(h, h, base + POLY_POWERS + LANE_R);
}

/** Absorbs `len` bytes, padded with zeros to whole blocks (pad16 of §2.8). */
function absorb(base: usize, src: usize, len: u32): void {
  for (; len >= 16; len -= 16) {
    absorbBlock(base, src);
    src += 16;
  }
  if (!len) return;
  const block = base + POLY_BLOCK;
  memory.fill(block, 0, POLY_BLOCK_LEN);
  memory.copy(block, src, len);
  absorbBlock(base, block);
}

/**
 * The MAC of §2.8 over associated data and ciphertext, under the one-time key that chachaBegin left.
 * @param dst  16 bytes
 */
export function poly1305(dst: usize, ad: usize, adLen: u32, src: usize, srcLen: u32): void {
  const base = threadBase;
  const key = base + FIRST_STREAM;
  const h = base + POLY_HASH;
  loadR(base + POLY_POWERS + LANE_R, key);
  memory.fill(h, 0, POLY_HASH_LEN);
  absorb(base, ad, adLen);
  absorb(base, src, srcLen);
  const block = base + POLY_BLOCK;
  store<u64>(block, adLen);
  store<u64>(block, srcLen, 8);
  absorbBlock(base, block);
  polyTag(
    dst,
    key,
    load<u32>(h),
    load<u32>(h, POLY_ROW),
    load<u32>(h, POLY_ROW * 2),
    load<u32>(h, POLY_ROW * 3),
    load<u32>(h, POLY_ROW * 4),
  );
}
