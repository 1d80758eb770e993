// The MAC of a transport packet: Poly1305 (RFC 8439 §2.5, §2.8) without associated data, four blocks at once.
//
// A lane of each v128 is one of four interleaved block sequences; each group multiplies by r^4, the last one by r^4,
// r^3, r^2 and r, and the lanes are summed. A number is ten limbs of 13 bits, limb 2j and 2j+1 in the halves of a
// 32-bit lane of p[j], so that one i32x4.dot_i16x8_s makes eight products. The number of blocks need not be a
// multiple of four: the first group is lined up so that the last is full, and its missing blocks are masked to zero.
//
// Pairs of limbs of r: with R(n) = limb n of r, or 5 x limb n + 10 for n < 0 (2^130 = 5), limb i of h * r is the sum
// over j of h[2j] R(i - 2j) + h[2j+1] R(i - 2j - 1) = dot(p[j], t[i - 2j + 8]), where t[k] = (R(k - 8), R(k - 9)).
//
// Bounds: limbs of r are balanced, |R(n)| <= 4,100 for n >= 0 and <= 20,500 below; limbs of h lie in -26..8,217. The
// worst sum is that of limb 0: 8,217 x (4,100 + 9 x 20,500) + 2^26 < 1.63e9 < 2^31. Rejected after measuring: five
// limbs of 26 bits with i64x2.extmul (4/5 of the speed), and cipher and MAC in one pass.

import { threadBase } from "../memory";
import { highHalves, highWords, lowHalves, lowWords } from "./lanes";
import { polyPowers, polyTag } from "./poly1305";
import { POLY_GROUP, POLY_LANE_PAIRS, POLY_PAIRS, POLY_POWERS, POLY_ROW } from "./scratch";

// Constants loaded from memory, because V8 >= 13 rebuilds a v128 constant at each use.
export const LIMB_13: usize = memory.data<u32>([0x1fff, 0x1fff, 0x1fff, 0x1fff], 16);
export const LIMB_13_MIDDLE: usize = memory.data<u32>([0x1000, 0x1000, 0x1000, 0x1000], 16);
export const LOW_HALF: usize = memory.data<u32>([0xffff, 0xffff, 0xffff, 0xffff], 16);
export const LIMB_26: usize = memory.data<u32>([0x3ffffff, 0x3ffffff, 0x3ffffff, 0x3ffffff], 16);
/** The bit above a whole block, 2^128, in limb 4 of 26 bits. */
export const BLOCK_END: usize = memory.data<u32>([1 << 24, 1 << 24, 1 << 24, 1 << 24], 16);
const LANE_NUMBERS: usize = memory.data<i32>([0, 1, 2, 3], 16);
export const BYTE_NUMBERS: usize = memory.data<u8>([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], 16);

/** Limbs of 2^10 x (2^130 - 5). */
const BIAS_0: i64 = ((1 << 26) - 5) << 10;
const BIAS: i64 = ((1 << 26) - 1) << 10;

@unmanaged
class Pairs {
  // prettier-ignore
  t0: v128; t1: v128; t2: v128; t3: v128; t4: v128; t5: v128;
  t6: v128; t7: v128; t8: v128; t9: v128; t10: v128; t11: v128;
  t12: v128; t13: v128; t14: v128; t15: v128; t16: v128; t17: v128;
}

// @ts-ignore: decorator
@inline
export function dot(a: v128, b: v128): v128 {
  return i32x4.dot_i16x8_s(a, b);
}

// @ts-ignore: decorator
@inline
export function times5(a: v128): v128 {
  return i32x4.add(a, i32x4.shl(a, 2));
}

/** Two limbs in the halves of each lane. */
// @ts-ignore: decorator
@inline
export function pair(low: v128, high: v128, lowHalf: v128): v128 {
  return v128.or(v128.and(low, lowHalf), i32x4.shl(high, 16));
}

// @ts-ignore: decorator
@inline
export function firstLane(a: v128): v128 {
  return v128.shuffle<u32>(a, a, 0, 0, 0, 0);
}

// @ts-ignore: decorator
@inline
export function sum5(a: v128, b: v128, c: v128, d: v128, e: v128): v128 {
  return i32x4.add(i32x4.add(i32x4.add(a, b), i32x4.add(c, d)), e);
}

/** The sums of the four lanes of a, b, c and d. */
// @ts-ignore: decorator
@inline
export function sumLanes(a: v128, b: v128, c: v128, d: v128): v128 {
  const ab = i32x4.add(v128.shuffle<u32>(a, b, 0, 4, 1, 5), v128.shuffle<u32>(a, b, 2, 6, 3, 7));
  const cd = i32x4.add(v128.shuffle<u32>(c, d, 0, 4, 1, 5), v128.shuffle<u32>(c, d, 2, 6, 3, 7));
  return i32x4.add(v128.shuffle<u64>(ab, cd, 0, 2), v128.shuffle<u64>(ab, cd, 1, 3));
}

// Word n of four blocks -> limb n of 26 bits.
// @ts-ignore: decorator
@inline
export function limb0(w0: v128, mask26: v128): v128 {
  return v128.and(w0, mask26);
}

// @ts-ignore: decorator
@inline
export function limb1(w0: v128, w1: v128, mask26: v128): v128 {
  return v128.and(v128.or(i32x4.shr_u(w0, 26), i32x4.shl(w1, 6)), mask26);
}

// @ts-ignore: decorator
@inline
export function limb2(w1: v128, w2: v128, mask26: v128): v128 {
  return v128.and(v128.or(i32x4.shr_u(w1, 20), i32x4.shl(w2, 12)), mask26);
}

// @ts-ignore: decorator
@inline
export function limb3(w2: v128, w3: v128, mask26: v128): v128 {
  return v128.and(v128.or(i32x4.shr_u(w2, 14), i32x4.shl(w3, 18)), mask26);
}

// @ts-ignore: decorator
@inline
export function limb4(w3: v128, blockEnd: v128): v128 {
  return v128.or(i32x4.shr_u(w3, 8), blockEnd);
}

/** A limb of 26 bits as a pair of 13. */
// @ts-ignore: decorator
@inline
export function splitLimb(limb: v128, mask13: v128): v128 {
  return v128.or(v128.and(limb, mask13), i32x4.shl(i32x4.shr_u(limb, 13), 16));
}

/** A pair of limbs, the low one's carry added to the high one. */
// @ts-ignore: decorator
@inline
export function joinLimbs(low: v128, high: v128, mask13: v128): v128 {
  const carried = i32x4.add(v128.and(high, mask13), i32x4.shr_s(low, 13));
  return v128.or(v128.and(low, mask13), i32x4.shl(carried, 16));
}

/** The tables of pairs: r^4 in every lane, and r^4 r^3 r^2 r by lane. */
function fillPairs(base: usize, key: usize): void {
  polyPowers(base, key);
  const mask13 = v128.load(LIMB_13);
  const lowHalf = v128.load(LOW_HALF);
  const middle = v128.load(LIMB_13_MIDDLE);
  const row = base + (POLY_POWERS + POLY_ROW - 16);
  const row0 = v128.load(row);
  const row1 = v128.load(row, POLY_ROW);
  const row2 = v128.load(row, POLY_ROW * 2);
  const row3 = v128.load(row, POLY_ROW * 3);
  const row4 = v128.load(row, POLY_ROW * 4);
  // prettier-ignore
  let r0 = v128.and(row0, mask13), r1 = i32x4.shr_u(row0, 13);
  let r2 = v128.and(row1, mask13), r3 = i32x4.shr_u(row1, 13);
  let r4 = v128.and(row2, mask13), r5 = i32x4.shr_u(row2, 13);
  let r6 = v128.and(row3, mask13), r7 = i32x4.shr_u(row3, 13);
  let r8 = v128.and(row4, mask13), r9 = i32x4.shr_u(row4, 13);
  // balanced: a limb above 4,095 lends 8,192 to the next
  const q0 = i32x4.shr_s(i32x4.add(r0, middle), 13);
  const q1 = i32x4.shr_s(i32x4.add(r1, middle), 13);
  const q2 = i32x4.shr_s(i32x4.add(r2, middle), 13);
  const q3 = i32x4.shr_s(i32x4.add(r3, middle), 13);
  const q4 = i32x4.shr_s(i32x4.add(r4, middle), 13);
  const q5 = i32x4.shr_s(i32x4.add(r5, middle), 13);
  const q6 = i32x4.shr_s(i32x4.add(r6, middle), 13);
  const q7 = i32x4.shr_s(i32x4.add(r7, middle), 13);
  const q8 = i32x4.shr_s(i32x4.add(r8, middle), 13);
  const q9 = i32x4.shr_s(i32x4.add(r9, middle), 13);
  r0 = i32x4.add(i32x4.sub(r0, i32x4.shl(q0, 13)), times5(q9));
  r1 = i32x4.add(i32x4.sub(r1, i32x4.shl(q1, 13)), q0);
  r2 = i32x4.add(i32x4.sub(r2, i32x4.shl(q2, 13)), q1);
  r3 = i32x4.add(i32x4.sub(r3, i32x4.shl(q3, 13)), q2);
  r4 = i32x4.add(i32x4.sub(r4, i32x4.shl(q4, 13)), q3);
  r5 = i32x4.add(i32x4.sub(r5, i32x4.shl(q5, 13)), q4);
  r6 = i32x4.add(i32x4.sub(r6, i32x4.shl(q6, 13)), q5);
  r7 = i32x4.add(i32x4.sub(r7, i32x4.shl(q7, 13)), q6);
  r8 = i32x4.add(i32x4.sub(r8, i32x4.shl(q8, 13)), q7);
  r9 = i32x4.add(i32x4.sub(r9, i32x4.shl(q9, 13)), q8);
  const f1 = times5(r1);
  const f2 = times5(r2);
  const f3 = times5(r3);
  const f4 = times5(r4);
  const f5 = times5(r5);
  const f6 = times5(r6);
  const f7 = times5(r7);
  const f8 = times5(r8);
  const f9 = times5(r9);
  const pairs = changetype<Pairs>(base + POLY_PAIRS);
  const lanes = changetype<Pairs>(base + POLY_LANE_PAIRS);
  let t: v128;
  // prettier-ignore
  t = pair(f2, f1, lowHalf); lanes.t0 = t; pairs.t0 = firstLane(t);
  t = pair(f3, f2, lowHalf); lanes.t1 = t; pairs.t1 = firstLane(t);
  t = pair(f4, f3, lowHalf); lanes.t2 = t; pairs.t2 = firstLane(t);
  t = pair(f5, f4, lowHalf); lanes.t3 = t; pairs.t3 = firstLane(t);
  t = pair(f6, f5, lowHalf); lanes.t4 = t; pairs.t4 = firstLane(t);
  t = pair(f7, f6, lowHalf); lanes.t5 = t; pairs.t5 = firstLane(t);
  t = pair(f8, f7, lowHalf); lanes.t6 = t; pairs.t6 = firstLane(t);
  t = pair(f9, f8, lowHalf); lanes.t7 = t; pairs.t7 = firstLane(t);
  t = pair(r0, f9, lowHalf); lanes.t8 = t; pairs.t8 = firstLane(t);
  t = pair(r1, r0, lowHalf); lanes.t9 = t; pairs.t9 = firstLane(t);
  t = pair(r2, r1, lowHalf); lanes.t10 = t; pairs.t10 = firstLane(t);
  t = pair(r3, r2, lowHalf); lanes.t11 = t; pairs.t11 = firstLane(t);
  t = pair(r4, r3, lowHalf); lanes.t12 = t; pairs.t12 = firstLane(t);
  t = pair(r5, r4, lowHalf); lanes.t13 = t; pairs.t13 = firstLane(t);
  t = pair(r6, r5, lowHalf); lanes.t14 = t; pairs.t14 = firstLane(t);
  t = pair(r7, r6, lowHalf); lanes.t15 = t; pairs.t15 = firstLane(t);
  t = pair(r8, r7, lowHalf); lanes.t16 = t; pairs.t16 = firstLane(t);
  t = pair(r9, r8, lowHalf); lanes.t17 = t; pairs.t17 = firstLane(t);
}

/**
 * The tag of an accumulator of ten limbs, each within +-2^21: `even` 0, 2, 4 and 6, `odd` 1, 3, 5 and 7, `top` 8 and 9.
 */
// @ts-ignore: decorator
@inline
export function macTag(dst: usize, key: usize, even: v128, odd: v128, top: v128): void {
  // limbs of 26 bits, each below 2^35 in size; 2^10 x (2^130 - 5) makes them positive
  const h01 = i64x2.add(i64x2.extend_low_i32x4_s(even), i64x2.shl(i64x2.extend_low_i32x4_s(odd), 13));
  const h23 = i64x2.add(i64x2.extend_high_i32x4_s(even), i64x2.shl(i64x2.extend_high_i32x4_s(odd), 13));
  const h4 = <i64>i32x4.extract_lane(top, 0) + (<i64>i32x4.extract_lane(top, 1) << 13);
  polyTag(
    dst,
    key,
    i64x2.extract_lane(h01, 0) + BIAS_0,
    i64x2.extract_lane(h01, 1) + BIAS,
    i64x2.extract_lane(h23, 0) + BIAS,
    i64x2.extract_lane(h23, 1) + BIAS,
    h4 + BIAS,
  );
}

/**
 * The accumulator over groups of four blocks, then the tag.
 * @param dst    16 bytes
 * @param src    the first group; where it has fewer than four blocks, the missing ones before them are read and masked
 * @param live   blocks of the first group, 1..4
 * @param count  groups after the first: they follow it in memory, but the last of them is at POLY_GROUP
 */
function macGroups(dst: usize, key: usize, src: usize, live: i32, count: u32): void {
  const base = threadBase;
  const pairs = changetype<Pairs>(base + POLY_PAIRS);
  const mask13 = v128.load(LIMB_13);
  const mask26 = v128.load(LIMB_26);
  const blockEnd = v128.load(BLOCK_END);

  // The first group: word n of its blocks in w[n], the missing ones masked.
  let ab = lowWords(v128.load(src), v128.load(src, 16));
  let cd = lowWords(v128.load(src, 32), v128.load(src, 48));
  let w0 = lowHalves(ab, cd);
  let w1 = highHalves(ab, cd);
  ab = highWords(v128.load(src), v128.load(src, 16));
  cd = highWords(v128.load(src, 32), v128.load(src, 48));
  let w2 = lowHalves(ab, cd);
  let w3 = highHalves(ab, cd);
  const mask = i32x4.ge_s(v128.load(LANE_NUMBERS), i32x4.splat(4 - live));
  let p0 = splitLimb(v128.and(limb0(w0, mask26), mask), mask13);
  let p1 = splitLimb(v128.and(limb1(w0, w1, mask26), mask), mask13);
  let p2 = splitLimb(v128.and(limb2(w1, w2, mask26), mask), mask13);
  let p3 = splitLimb(v128.and(limb3(w2, w3, mask26), mask), mask13);
  let p4 = splitLimb(v128.and(limb4(w3, blockEnd), mask), mask13);

  for (; count > 0; count--) {
    src = count > 1 ? src + 64 : base + POLY_GROUP;
    ab = lowWords(v128.load(src), v128.load(src, 16));
    cd = lowWords(v128.load(src, 32), v128.load(src, 48));
    w0 = lowHalves(ab, cd);
    w1 = highHalves(ab, cd);
    ab = highWords(v128.load(src), v128.load(src, 16));
    cd = highWords(v128.load(src, 32), v128.load(src, 48));
    w2 = lowHalves(ab, cd);
    w3 = highHalves(ab, cd);

    // h = h * r^4 + block: even limbs, to which the block's limbs of 26 bits are added whole; by outer products, so
    // that each pair of the table is loaded once
    const t0 = pairs.t0;
    let d0 = i32x4.add(limb0(w0, mask26), dot(p4, t0));
    const t2 = pairs.t2;
    d0 = i32x4.add(d0, dot(p3, t2));
    let d2 = i32x4.add(limb1(w0, w1, mask26), dot(p4, t2));
    const t4 = pairs.t4;
    d0 = i32x4.add(d0, dot(p2, t4));
    d2 = i32x4.add(d2, dot(p3, t4));
    let d4 = i32x4.add(limb2(w1, w2, mask26), dot(p4, t4));
    const t6 = pairs.t6;
    d0 = i32x4.add(d0, dot(p1, t6));
    d2 = i32x4.add(d2, dot(p2, t6));
    d4 = i32x4.add(d4, dot(p3, t6));
    let d6 = i32x4.add(limb3(w2, w3, mask26), dot(p4, t6));
    const t8 = pairs.t8;
    d0 = i32x4.add(d0, dot(p0, t8));
    d2 = i32x4.add(d2, dot(p1, t8));
    d4 = i32x4.add(d4, dot(p2, t8));
    d6 = i32x4.add(d6, dot(p3, t8));
    let d8 = i32x4.add(limb4(w3, blockEnd), dot(p4, t8));
    const t10 = pairs.t10;
    d2 = i32x4.add(d2, dot(p0, t10));
    d4 = i32x4.add(d4, dot(p1, t10));
    d6 = i32x4.add(d6, dot(p2, t10));
    d8 = i32x4.add(d8, dot(p3, t10));
    const t12 = pairs.t12;
    d4 = i32x4.add(d4, dot(p0, t12));
    d6 = i32x4.add(d6, dot(p1, t12));
    d8 = i32x4.add(d8, dot(p2, t12));
    const t14 = pairs.t14;
    d6 = i32x4.add(d6, dot(p0, t14));
    d8 = i32x4.add(d8, dot(p1, t14));
    const t16 = pairs.t16;
    d8 = i32x4.add(d8, dot(p0, t16));
    // what passes 13 bits goes to the odd limbs
    const c0 = i32x4.shr_s(d0, 13);
    const c2 = i32x4.shr_s(d2, 13);
    const c4 = i32x4.shr_s(d4, 13);
    const c6 = i32x4.shr_s(d6, 13);
    const c8 = i32x4.shr_s(d8, 13);
    d0 = v128.and(d0, mask13);
    d2 = v128.and(d2, mask13);
    d4 = v128.and(d4, mask13);
    d6 = v128.and(d6, mask13);
    d8 = v128.and(d8, mask13);
    const t1 = pairs.t1;
    let d1 = i32x4.add(c0, dot(p4, t1));
    const t3 = pairs.t3;
    d1 = i32x4.add(d1, dot(p3, t3));
    let d3 = i32x4.add(c2, dot(p4, t3));
    const t5 = pairs.t5;
    d1 = i32x4.add(d1, dot(p2, t5));
    d3 = i32x4.add(d3, dot(p3, t5));
    let d5 = i32x4.add(c4, dot(p4, t5));
    const t7 = pairs.t7;
    d1 = i32x4.add(d1, dot(p1, t7));
    d3 = i32x4.add(d3, dot(p2, t7));
    d5 = i32x4.add(d5, dot(p3, t7));
    let d7 = i32x4.add(c6, dot(p4, t7));
    const t9 = pairs.t9;
    d1 = i32x4.add(d1, dot(p0, t9));
    d3 = i32x4.add(d3, dot(p1, t9));
    d5 = i32x4.add(d5, dot(p2, t9));
    d7 = i32x4.add(d7, dot(p3, t9));
    let d9 = i32x4.add(c8, dot(p4, t9));
    const t11 = pairs.t11;
    d3 = i32x4.add(d3, dot(p0, t11));
    d5 = i32x4.add(d5, dot(p1, t11));
    d7 = i32x4.add(d7, dot(p2, t11));
    d9 = i32x4.add(d9, dot(p3, t11));
    const t13 = pairs.t13;
    d5 = i32x4.add(d5, dot(p0, t13));
    d7 = i32x4.add(d7, dot(p1, t13));
    d9 = i32x4.add(d9, dot(p2, t13));
    const t15 = pairs.t15;
    d7 = i32x4.add(d7, dot(p0, t15));
    d9 = i32x4.add(d9, dot(p1, t15));
    const t17 = pairs.t17;
    d9 = i32x4.add(d9, dot(p0, t17));
    // and from them to the even ones, and once more to the odd ones while the halves are joined
    d0 = i32x4.add(d0, times5(i32x4.shr_s(d9, 13)));
    d2 = i32x4.add(d2, i32x4.shr_s(d1, 13));
    d4 = i32x4.add(d4, i32x4.shr_s(d3, 13));
    d6 = i32x4.add(d6, i32x4.shr_s(d5, 13));
    d8 = i32x4.add(d8, i32x4.shr_s(d7, 13));
    p0 = joinLimbs(d0, d1, mask13);
    p1 = joinLimbs(d2, d3, mask13);
    p2 = joinLimbs(d4, d5, mask13);
    p3 = joinLimbs(d6, d7, mask13);
    p4 = joinLimbs(d8, d9, mask13);
  }

  // h * (r^4, r^3, r^2, r) by lane, one carry, and the sum of the lanes
  const lanes = changetype<Pairs>(base + POLY_LANE_PAIRS);
  // prettier-ignore
  const d0 = sum5(dot(p0, lanes.t8), dot(p1, lanes.t6), dot(p2, lanes.t4), dot(p3, lanes.t2), dot(p4, lanes.t0));
  const d1 = sum5(dot(p0, lanes.t9), dot(p1, lanes.t7), dot(p2, lanes.t5), dot(p3, lanes.t3), dot(p4, lanes.t1));
  const d2 = sum5(dot(p0, lanes.t10), dot(p1, lanes.t8), dot(p2, lanes.t6), dot(p3, lanes.t4), dot(p4, lanes.t2));
  const d3 = sum5(dot(p0, lanes.t11), dot(p1, lanes.t9), dot(p2, lanes.t7), dot(p3, lanes.t5), dot(p4, lanes.t3));
  const d4 = sum5(dot(p0, lanes.t12), dot(p1, lanes.t10), dot(p2, lanes.t8), dot(p3, lanes.t6), dot(p4, lanes.t4));
  const d5 = sum5(dot(p0, lanes.t13), dot(p1, lanes.t11), dot(p2, lanes.t9), dot(p3, lanes.t7), dot(p4, lanes.t5));
  const d6 = sum5(dot(p0, lanes.t14), dot(p1, lanes.t12), dot(p2, lanes.t10), dot(p3, lanes.t8), dot(p4, lanes.t6));
  const d7 = sum5(dot(p0, lanes.t15), dot(p1, lanes.t13), dot(p2, lanes.t11), dot(p3, lanes.t9), dot(p4, lanes.t7));
  const d8 = sum5(dot(p0, lanes.t16), dot(p1, lanes.t14), dot(p2, lanes.t12), dot(p3, lanes.t10), dot(p4, lanes.t8));
  const d9 = sum5(dot(p0, lanes.t17), dot(p1, lanes.t15), dot(p2, lanes.t13), dot(p3, lanes.t11), dot(p4, lanes.t9));
  const e0 = i32x4.add(v128.and(d0, mask13), times5(i32x4.shr_s(d9, 13)));
  const e1 = i32x4.add(v128.and(d1, mask13), i32x4.shr_s(d0, 13));
  const e2 = i32x4.add(v128.and(d2, mask13), i32x4.shr_s(d1, 13));
  const e3 = i32x4.add(v128.and(d3, mask13), i32x4.shr_s(d2, 13));
  const e4 = i32x4.add(v128.and(d4, mask13), i32x4.shr_s(d3, 13));
  const e5 = i32x4.add(v128.and(d5, mask13), i32x4.shr_s(d4, 13));
  const e6 = i32x4.add(v128.and(d6, mask13), i32x4.shr_s(d5, 13));
  const e7 = i32x4.add(v128.and(d7, mask13), i32x4.shr_s(d6, 13));
  const e8 = i32x4.add(v128.and(d8, mask13), i32x4.shr_s(d7, 13));
  const e9 = i32x4.add(v128.and(d9, mask13), i32x4.shr_s(d8, 13));
  macTag(dst, key, sumLanes(e0, e2, e4, e6), sumLanes(e1, e3, e5, e7), sumLanes(e8, e9, e8, e9));
}

/**
 * The MAC of a packet's ciphertext and its length.
 * @param dst  16 bytes
 * @param src  `len` bytes; up to 48 bytes before them and 15 after them are read, and do not matter
 * @param key  one-time key, 32 bytes
 */
export function packetMac4(dst: usize, src: usize, len: u32, key: usize): void {
  const base = threadBase;
  fillPairs(base, key);
  const blocks = (len + 15) >> 4;
  // The last group: three blocks of ciphertext, the last of them padded, and the block of the lengths.
  const tail = src + (blocks << 4) - 48;
  const tailLen = ((len - 1) & 15) + 1;
  const padding = i8x16.lt_u(v128.load(BYTE_NUMBERS), i8x16.splat(<i8>tailLen));
  v128.store(base, v128.load(tail), POLY_GROUP);
  v128.store(base, v128.load(tail, 16), POLY_GROUP + 16);
  v128.store(base, v128.and(v128.load(tail, 32), padding), POLY_GROUP + 32);
  store<u64>(base, 0, POLY_GROUP + 48);
  store<u64>(base, len, POLY_GROUP + 56);
  if (blocks <= 3) {
    macGroups(dst, key, base + POLY_GROUP, blocks + 1, 0);
    return;
  }
  const before = blocks - 3;
  const live = ((before - 1) & 3) + 1;
  macGroups(dst, key, src - ((4 - live) << 4), live, ((before - live) >> 2) + 1);
}
