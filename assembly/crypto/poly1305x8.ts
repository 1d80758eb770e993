// The MAC of a transport packet in the wide build: poly1305x4.ts twice as wide, in pairs of operations alike
// (width.ts).
//
// Eight interleaved sequences of blocks: lanes a take the first four blocks of each group of eight, lanes b the others.
// Each group multiplies by r^8, the last one by r^8, r^7 ... r, and the lanes are summed. Limbs, tables, bounds and the
// order of the sums are those of poly1305x4.ts. What belongs to a and b is loaded and stored side by side, r^8 in two
// copies for that. Rejected after measuring: one copy of it (10 % slower), and the words of the blocks transposed in a
// pass of their own (5 %).

import { threadBase } from "../memory";
import { highHalves, highWords, lowHalves, lowWords } from "./lanes";
import { polyHighPowers, polyPowers } from "./poly1305";
import {
  BLOCK_END, BYTE_NUMBERS, dot, firstLane, joinLimbs, LIMB_13, LIMB_13_MIDDLE, LIMB_26, limb0, limb1, limb2, limb3,
  limb4, LOW_HALF, macTag, pair, splitLimb, sum5, sumLanes, times5,
} from "./poly1305x4";
import { POLY_GROUP, POLY_POWERS, POLY_ROW, WIDE_HASH, WIDE_LANE_PAIRS, WIDE_PAIRS, WIDE_SUMS } from "./scratch";

const LANE_NUMBERS: usize = memory.data<i32>([0, 1, 2, 3, 4, 5, 6, 7], 16);

/** Pairs of limbs for lanes a and b. */
@unmanaged
class Pairs8 {
  // prettier-ignore
  a0: v128; b0: v128; a1: v128; b1: v128; a2: v128; b2: v128; a3: v128; b3: v128;
  a4: v128; b4: v128; a5: v128; b5: v128; a6: v128; b6: v128; a7: v128; b7: v128;
  a8: v128; b8: v128; a9: v128; b9: v128; a10: v128; b10: v128; a11: v128; b11: v128;
  a12: v128; b12: v128; a13: v128; b13: v128; a14: v128; b14: v128; a15: v128; b15: v128;
  a16: v128; b16: v128; a17: v128; b17: v128;
}

/** The accumulator: p[j] of poly1305x4.ts for lanes a and b. */
@unmanaged
class Hash8 {
  // prettier-ignore
  a0: v128; b0: v128; a1: v128; b1: v128; a2: v128; b2: v128; a3: v128; b3: v128; a4: v128; b4: v128;
}

/** The tables of pairs: r^8 in every lane, and r^8 r^7 ... r by lane. */
function fillPairs8(base: usize, key: usize): void {
  polyPowers(base, key);
  polyHighPowers(base);
  const row = base + POLY_POWERS;
  const mask13 = v128.load(LIMB_13);
  const lowHalf = v128.load(LOW_HALF);
  const middle = v128.load(LIMB_13_MIDDLE);
  const rowA0 = v128.load(row);
  const rowB0 = v128.load(row, 16);
  const rowA1 = v128.load(row, POLY_ROW);
  const rowB1 = v128.load(row, POLY_ROW + 16);
  const rowA2 = v128.load(row, POLY_ROW * 2);
  const rowB2 = v128.load(row, POLY_ROW * 2 + 16);
  const rowA3 = v128.load(row, POLY_ROW * 3);
  const rowB3 = v128.load(row, POLY_ROW * 3 + 16);
  const rowA4 = v128.load(row, POLY_ROW * 4);
  const rowB4 = v128.load(row, POLY_ROW * 4 + 16);
  // prettier-ignore
  let a0 = v128.and(rowA0, mask13), a1 = i32x4.shr_u(rowA0, 13);
  let b0 = v128.and(rowB0, mask13), b1 = i32x4.shr_u(rowB0, 13);
  let a2 = v128.and(rowA1, mask13), a3 = i32x4.shr_u(rowA1, 13);
  let b2 = v128.and(rowB1, mask13), b3 = i32x4.shr_u(rowB1, 13);
  let a4 = v128.and(rowA2, mask13), a5 = i32x4.shr_u(rowA2, 13);
  let b4 = v128.and(rowB2, mask13), b5 = i32x4.shr_u(rowB2, 13);
  let a6 = v128.and(rowA3, mask13), a7 = i32x4.shr_u(rowA3, 13);
  let b6 = v128.and(rowB3, mask13), b7 = i32x4.shr_u(rowB3, 13);
  let a8 = v128.and(rowA4, mask13), a9 = i32x4.shr_u(rowA4, 13);
  let b8 = v128.and(rowB4, mask13), b9 = i32x4.shr_u(rowB4, 13);
  // balanced, as in poly1305x4.ts
  const p0 = i32x4.shr_s(i32x4.add(a0, middle), 13);
  const q0 = i32x4.shr_s(i32x4.add(b0, middle), 13);
  const p1 = i32x4.shr_s(i32x4.add(a1, middle), 13);
  const q1 = i32x4.shr_s(i32x4.add(b1, middle), 13);
  const p2 = i32x4.shr_s(i32x4.add(a2, middle), 13);
  const q2 = i32x4.shr_s(i32x4.add(b2, middle), 13);
  const p3 = i32x4.shr_s(i32x4.add(a3, middle), 13);
  const q3 = i32x4.shr_s(i32x4.add(b3, middle), 13);
  const p4 = i32x4.shr_s(i32x4.add(a4, middle), 13);
  const q4 = i32x4.shr_s(i32x4.add(b4, middle), 13);
  const p5 = i32x4.shr_s(i32x4.add(a5, middle), 13);
  const q5 = i32x4.shr_s(i32x4.add(b5, middle), 13);
  const p6 = i32x4.shr_s(i32x4.add(a6, middle), 13);
  const q6 = i32x4.shr_s(i32x4.add(b6, middle), 13);
  const p7 = i32x4.shr_s(i32x4.add(a7, middle), 13);
  const q7 = i32x4.shr_s(i32x4.add(b7, middle), 13);
  const p8 = i32x4.shr_s(i32x4.add(a8, middle), 13);
  const q8 = i32x4.shr_s(i32x4.add(b8, middle), 13);
  const p9 = i32x4.shr_s(i32x4.add(a9, middle), 13);
  const q9 = i32x4.shr_s(i32x4.add(b9, middle), 13);
  a0 = i32x4.add(i32x4.sub(a0, i32x4.shl(p0, 13)), times5(p9));
  b0 = i32x4.add(i32x4.sub(b0, i32x4.shl(q0, 13)), times5(q9));
  a1 = i32x4.add(i32x4.sub(a1, i32x4.shl(p1, 13)), p0);
  b1 = i32x4.add(i32x4.sub(b1, i32x4.shl(q1, 13)), q0);
  a2 = i32x4.add(i32x4.sub(a2, i32x4.shl(p2, 13)), p1);
  b2 = i32x4.add(i32x4.sub(b2, i32x4.shl(q2, 13)), q1);
  a3 = i32x4.add(i32x4.sub(a3, i32x4.shl(p3, 13)), p2);
  b3 = i32x4.add(i32x4.sub(b3, i32x4.shl(q3, 13)), q2);
  a4 = i32x4.add(i32x4.sub(a4, i32x4.shl(p4, 13)), p3);
  b4 = i32x4.add(i32x4.sub(b4, i32x4.shl(q4, 13)), q3);
  a5 = i32x4.add(i32x4.sub(a5, i32x4.shl(p5, 13)), p4);
  b5 = i32x4.add(i32x4.sub(b5, i32x4.shl(q5, 13)), q4);
  a6 = i32x4.add(i32x4.sub(a6, i32x4.shl(p6, 13)), p5);
  b6 = i32x4.add(i32x4.sub(b6, i32x4.shl(q6, 13)), q5);
  a7 = i32x4.add(i32x4.sub(a7, i32x4.shl(p7, 13)), p6);
  b7 = i32x4.add(i32x4.sub(b7, i32x4.shl(q7, 13)), q6);
  a8 = i32x4.add(i32x4.sub(a8, i32x4.shl(p8, 13)), p7);
  b8 = i32x4.add(i32x4.sub(b8, i32x4.shl(q8, 13)), q7);
  a9 = i32x4.add(i32x4.sub(a9, i32x4.shl(p9, 13)), p8);
  b9 = i32x4.add(i32x4.sub(b9, i32x4.shl(q9, 13)), q8);
  const f1 = times5(a1);
  const g1 = times5(b1);
  const f2 = times5(a2);
  const g2 = times5(b2);
  const f3 = times5(a3);
  const g3 = times5(b3);
  const f4 = times5(a4);
  const g4 = times5(b4);
  const f5 = times5(a5);
  const g5 = times5(b5);
  const f6 = times5(a6);
  const g6 = times5(b6);
  const f7 = times5(a7);
  const g7 = times5(b7);
  const f8 = times5(a8);
  const g8 = times5(b8);
  const f9 = times5(a9);
  const g9 = times5(b9);
  const pairs = changetype<Pairs8>(base + WIDE_PAIRS);
  const lanes = changetype<Pairs8>(base + WIDE_LANE_PAIRS);
  let t: v128, u: v128;
  // prettier-ignore
  t = pair(f2, f1, lowHalf); u = pair(g2, g1, lowHalf); lanes.a0 = t; lanes.b0 = u;
  t = pair(f3, f2, lowHalf); u = pair(g3, g2, lowHalf); lanes.a1 = t; lanes.b1 = u;
  t = pair(f4, f3, lowHalf); u = pair(g4, g3, lowHalf); lanes.a2 = t; lanes.b2 = u;
  t = pair(f5, f4, lowHalf); u = pair(g5, g4, lowHalf); lanes.a3 = t; lanes.b3 = u;
  t = pair(f6, f5, lowHalf); u = pair(g6, g5, lowHalf); lanes.a4 = t; lanes.b4 = u;
  t = pair(f7, f6, lowHalf); u = pair(g7, g6, lowHalf); lanes.a5 = t; lanes.b5 = u;
  t = pair(f8, f7, lowHalf); u = pair(g8, g7, lowHalf); lanes.a6 = t; lanes.b6 = u;
  t = pair(f9, f8, lowHalf); u = pair(g9, g8, lowHalf); lanes.a7 = t; lanes.b7 = u;
  t = pair(a0, f9, lowHalf); u = pair(b0, g9, lowHalf); lanes.a8 = t; lanes.b8 = u;
  t = pair(a1, a0, lowHalf); u = pair(b1, b0, lowHalf); lanes.a9 = t; lanes.b9 = u;
  t = pair(a2, a1, lowHalf); u = pair(b2, b1, lowHalf); lanes.a10 = t; lanes.b10 = u;
  t = pair(a3, a2, lowHalf); u = pair(b3, b2, lowHalf); lanes.a11 = t; lanes.b11 = u;
  t = pair(a4, a3, lowHalf); u = pair(b4, b3, lowHalf); lanes.a12 = t; lanes.b12 = u;
  t = pair(a5, a4, lowHalf); u = pair(b5, b4, lowHalf); lanes.a13 = t; lanes.b13 = u;
  t = pair(a6, a5, lowHalf); u = pair(b6, b5, lowHalf); lanes.a14 = t; lanes.b14 = u;
  t = pair(a7, a6, lowHalf); u = pair(b7, b6, lowHalf); lanes.a15 = t; lanes.b15 = u;
  t = pair(a8, a7, lowHalf); u = pair(b8, b7, lowHalf); lanes.a16 = t; lanes.b16 = u;
  t = pair(a9, a8, lowHalf); u = pair(b9, b8, lowHalf); lanes.a17 = t; lanes.b17 = u;
  // r^8 is in the first lane of a
  pairs.a0 = pairs.b0 = firstLane(lanes.a0);
  pairs.a1 = pairs.b1 = firstLane(lanes.a1);
  pairs.a2 = pairs.b2 = firstLane(lanes.a2);
  pairs.a3 = pairs.b3 = firstLane(lanes.a3);
  pairs.a4 = pairs.b4 = firstLane(lanes.a4);
  pairs.a5 = pairs.b5 = firstLane(lanes.a5);
  pairs.a6 = pairs.b6 = firstLane(lanes.a6);
  pairs.a7 = pairs.b7 = firstLane(lanes.a7);
  pairs.a8 = pairs.b8 = firstLane(lanes.a8);
  pairs.a9 = pairs.b9 = firstLane(lanes.a9);
  pairs.a10 = pairs.b10 = firstLane(lanes.a10);
  pairs.a11 = pairs.b11 = firstLane(lanes.a11);
  pairs.a12 = pairs.b12 = firstLane(lanes.a12);
  pairs.a13 = pairs.b13 = firstLane(lanes.a13);
  pairs.a14 = pairs.b14 = firstLane(lanes.a14);
  pairs.a15 = pairs.b15 = firstLane(lanes.a15);
  pairs.a16 = pairs.b16 = firstLane(lanes.a16);
  pairs.a17 = pairs.b17 = firstLane(lanes.a17);
}

/**
 * The first group to WIDE_HASH, as pairs of limbs. In a function of its own: what V8 cannot pair here must not keep it
 * from pairing the rest.
 * @param src   the group; where it has fewer than eight blocks, the missing ones before them are read and masked
 * @param live  its blocks, 1..8
 */
function firstGroup8(base: usize, src: usize, live: i32): void {
  const hash = changetype<Hash8>(base + WIDE_HASH);
  const mask13 = v128.load(LIMB_13);
  const mask26 = v128.load(LIMB_26);
  const blockEnd = v128.load(BLOCK_END);
  let abA = lowWords(v128.load(src), v128.load(src, 16));
  let cdA = lowWords(v128.load(src, 32), v128.load(src, 48));
  let abB = lowWords(v128.load(src, 64), v128.load(src, 80));
  let cdB = lowWords(v128.load(src, 96), v128.load(src, 112));
  const wA0 = lowHalves(abA, cdA);
  const wA1 = highHalves(abA, cdA);
  const wB0 = lowHalves(abB, cdB);
  const wB1 = highHalves(abB, cdB);
  abA = highWords(v128.load(src), v128.load(src, 16));
  cdA = highWords(v128.load(src, 32), v128.load(src, 48));
  abB = highWords(v128.load(src, 64), v128.load(src, 80));
  cdB = highWords(v128.load(src, 96), v128.load(src, 112));
  const wA2 = lowHalves(abA, cdA);
  const wA3 = highHalves(abA, cdA);
  const wB2 = lowHalves(abB, cdB);
  const wB3 = highHalves(abB, cdB);
  const missing = i32x4.splat(8 - live);
  const maskA = i32x4.ge_s(v128.load(LANE_NUMBERS), missing);
  const maskB = i32x4.ge_s(v128.load(LANE_NUMBERS, 16), missing);
  hash.a0 = splitLimb(v128.and(limb0(wA0, mask26), maskA), mask13);
  hash.b0 = splitLimb(v128.and(limb0(wB0, mask26), maskB), mask13);
  hash.a1 = splitLimb(v128.and(limb1(wA0, wA1, mask26), maskA), mask13);
  hash.b1 = splitLimb(v128.and(limb1(wB0, wB1, mask26), maskB), mask13);
  hash.a2 = splitLimb(v128.and(limb2(wA1, wA2, mask26), maskA), mask13);
  hash.b2 = splitLimb(v128.and(limb2(wB1, wB2, mask26), maskB), mask13);
  hash.a3 = splitLimb(v128.and(limb3(wA2, wA3, mask26), maskA), mask13);
  hash.b3 = splitLimb(v128.and(limb3(wB2, wB3, mask26), maskB), mask13);
  hash.a4 = splitLimb(v128.and(limb4(wA3, blockEnd), maskA), mask13);
  hash.b4 = splitLimb(v128.and(limb4(wB3, blockEnd), maskB), mask13);
}

/**
 * The accumulator over groups of eight blocks, then the tag. Call after firstGroup8.
 * @param dst    16 bytes
 * @param src    the first group
 * @param count  groups after the first: they follow it in memory, but the last of them is at POLY_GROUP
 */
function macGroups8(dst: usize, key: usize, src: usize, count: u32): void {
  const base = threadBase;
  const pairs = changetype<Pairs8>(base + WIDE_PAIRS);
  const hash = changetype<Hash8>(base + WIDE_HASH);
  const mask13 = v128.load(LIMB_13);
  const mask26 = v128.load(LIMB_26);
  const blockEnd = v128.load(BLOCK_END);
  // prettier-ignore
  let a0 = hash.a0, b0 = hash.b0;
  let a1 = hash.a1, b1 = hash.b1;
  let a2 = hash.a2, b2 = hash.b2;
  let a3 = hash.a3, b3 = hash.b3;
  let a4 = hash.a4, b4 = hash.b4;

  for (; count > 0; count--) {
    src = count > 1 ? src + 128 : base + POLY_GROUP;
    let abA = lowWords(v128.load(src), v128.load(src, 16));
    let cdA = lowWords(v128.load(src, 32), v128.load(src, 48));
    let abB = lowWords(v128.load(src, 64), v128.load(src, 80));
    let cdB = lowWords(v128.load(src, 96), v128.load(src, 112));
    const wA0 = lowHalves(abA, cdA);
    const wA1 = highHalves(abA, cdA);
    const wB0 = lowHalves(abB, cdB);
    const wB1 = highHalves(abB, cdB);
    abA = highWords(v128.load(src), v128.load(src, 16));
    cdA = highWords(v128.load(src, 32), v128.load(src, 48));
    abB = highWords(v128.load(src, 64), v128.load(src, 80));
    cdB = highWords(v128.load(src, 96), v128.load(src, 112));
    const wA2 = lowHalves(abA, cdA);
    const wA3 = highHalves(abA, cdA);
    const wB2 = lowHalves(abB, cdB);
    const wB3 = highHalves(abB, cdB);

    // h = h * r^8 + block; d are limbs of lanes a, e of lanes b
    const s0 = pairs.a0, t0 = pairs.b0;
    let d0 = i32x4.add(limb0(wA0, mask26), dot(a4, s0));
    let e0 = i32x4.add(limb0(wB0, mask26), dot(b4, t0));
    const s2 = pairs.a2, t2 = pairs.b2;
    d0 = i32x4.add(d0, dot(a3, s2));
    e0 = i32x4.add(e0, dot(b3, t2));
    let d2 = i32x4.add(limb1(wA0, wA1, mask26), dot(a4, s2));
    let e2 = i32x4.add(limb1(wB0, wB1, mask26), dot(b4, t2));
    const s4 = pairs.a4, t4 = pairs.b4;
    d0 = i32x4.add(d0, dot(a2, s4));
    e0 = i32x4.add(e0, dot(b2, t4));
    d2 = i32x4.add(d2, dot(a3, s4));
    e2 = i32x4.add(e2, dot(b3, t4));
    let d4 = i32x4.add(limb2(wA1, wA2, mask26), dot(a4, s4));
    let e4 = i32x4.add(limb2(wB1, wB2, mask26), dot(b4, t4));
    const s6 = pairs.a6, t6 = pairs.b6;
    d0 = i32x4.add(d0, dot(a1, s6));
    e0 = i32x4.add(e0, dot(b1, t6));
    d2 = i32x4.add(d2, dot(a2, s6));
    e2 = i32x4.add(e2, dot(b2, t6));
    d4 = i32x4.add(d4, dot(a3, s6));
    e4 = i32x4.add(e4, dot(b3, t6));
    let d6 = i32x4.add(limb3(wA2, wA3, mask26), dot(a4, s6));
    let e6 = i32x4.add(limb3(wB2, wB3, mask26), dot(b4, t6));
    const s8 = pairs.a8, t8 = pairs.b8;
    d0 = i32x4.add(d0, dot(a0, s8));
    e0 = i32x4.add(e0, dot(b0, t8));
    d2 = i32x4.add(d2, dot(a1, s8));
    e2 = i32x4.add(e2, dot(b1, t8));
    d4 = i32x4.add(d4, dot(a2, s8));
    e4 = i32x4.add(e4, dot(b2, t8));
    d6 = i32x4.add(d6, dot(a3, s8));
    e6 = i32x4.add(e6, dot(b3, t8));
    let d8 = i32x4.add(limb4(wA3, blockEnd), dot(a4, s8));
    let e8 = i32x4.add(limb4(wB3, blockEnd), dot(b4, t8));
    const s10 = pairs.a10, t10 = pairs.b10;
    d2 = i32x4.add(d2, dot(a0, s10));
    e2 = i32x4.add(e2, dot(b0, t10));
    d4 = i32x4.add(d4, dot(a1, s10));
    e4 = i32x4.add(e4, dot(b1, t10));
    d6 = i32x4.add(d6, dot(a2, s10));
    e6 = i32x4.add(e6, dot(b2, t10));
    d8 = i32x4.add(d8, dot(a3, s10));
    e8 = i32x4.add(e8, dot(b3, t10));
    const s12 = pairs.a12, t12 = pairs.b12;
    d4 = i32x4.add(d4, dot(a0, s12));
    e4 = i32x4.add(e4, dot(b0, t12));
    d6 = i32x4.add(d6, dot(a1, s12));
    e6 = i32x4.add(e6, dot(b1, t12));
    d8 = i32x4.add(d8, dot(a2, s12));
    e8 = i32x4.add(e8, dot(b2, t12));
    const s14 = pairs.a14, t14 = pairs.b14;
    d6 = i32x4.add(d6, dot(a0, s14));
    e6 = i32x4.add(e6, dot(b0, t14));
    d8 = i32x4.add(d8, dot(a1, s14));
    e8 = i32x4.add(e8, dot(b1, t14));
    const s16 = pairs.a16, t16 = pairs.b16;
    d8 = i32x4.add(d8, dot(a0, s16));
    e8 = i32x4.add(e8, dot(b0, t16));
    // what passes 13 bits goes to the odd limbs
    const c0 = i32x4.shr_s(d0, 13), g0 = i32x4.shr_s(e0, 13);
    const c2 = i32x4.shr_s(d2, 13), g2 = i32x4.shr_s(e2, 13);
    const c4 = i32x4.shr_s(d4, 13), g4 = i32x4.shr_s(e4, 13);
    const c6 = i32x4.shr_s(d6, 13), g6 = i32x4.shr_s(e6, 13);
    const c8 = i32x4.shr_s(d8, 13), g8 = i32x4.shr_s(e8, 13);
    d0 = v128.and(d0, mask13);
    e0 = v128.and(e0, mask13);
    d2 = v128.and(d2, mask13);
    e2 = v128.and(e2, mask13);
    d4 = v128.and(d4, mask13);
    e4 = v128.and(e4, mask13);
    d6 = v128.and(d6, mask13);
    e6 = v128.and(e6, mask13);
    d8 = v128.and(d8, mask13);
    e8 = v128.and(e8, mask13);
    const s1 = pairs.a1, t1 = pairs.b1;
    let d1 = i32x4.add(c0, dot(a4, s1));
    let e1 = i32x4.add(g0, dot(b4, t1));
    const s3 = pairs.a3, t3 = pairs.b3;
    d1 = i32x4.add(d1, dot(a3, s3));
    e1 = i32x4.add(e1, dot(b3, t3));
    let d3 = i32x4.add(c2, dot(a4, s3));
    let e3 = i32x4.add(g2, dot(b4, t3));
    const s5 = pairs.a5, t5 = pairs.b5;
    d1 = i32x4.add(d1, dot(a2, s5));
    e1 = i32x4.add(e1, dot(b2, t5));
    d3 = i32x4.add(d3, dot(a3, s5));
    e3 = i32x4.add(e3, dot(b3, t5));
    let d5 = i32x4.add(c4, dot(a4, s5));
    let e5 = i32x4.add(g4, dot(b4, t5));
    const s7 = pairs.a7, t7 = pairs.b7;
    d1 = i32x4.add(d1, dot(a1, s7));
    e1 = i32x4.add(e1, dot(b1, t7));
    d3 = i32x4.add(d3, dot(a2, s7));
    e3 = i32x4.add(e3, dot(b2, t7));
    d5 = i32x4.add(d5, dot(a3, s7));
    e5 = i32x4.add(e5, dot(b3, t7));
    let d7 = i32x4.add(c6, dot(a4, s7));
    let e7 = i32x4.add(g6, dot(b4, t7));
    const s9 = pairs.a9, t9 = pairs.b9;
    d1 = i32x4.add(d1, dot(a0, s9));
    e1 = i32x4.add(e1, dot(b0, t9));
    d3 = i32x4.add(d3, dot(a1, s9));
    e3 = i32x4.add(e3, dot(b1, t9));
    d5 = i32x4.add(d5, dot(a2, s9));
    e5 = i32x4.add(e5, dot(b2, t9));
    d7 = i32x4.add(d7, dot(a3, s9));
    e7 = i32x4.add(e7, dot(b3, t9));
    let d9 = i32x4.add(c8, dot(a4, s9));
    let e9 = i32x4.add(g8, dot(b4, t9));
    const s11 = pairs.a11, t11 = pairs.b11;
    d3 = i32x4.add(d3, dot(a0, s11));
    e3 = i32x4.add(e3, dot(b0, t11));
    d5 = i32x4.add(d5, dot(a1, s11));
    e5 = i32x4.add(e5, dot(b1, t11));
    d7 = i32x4.add(d7, dot(a2, s11));
    e7 = i32x4.add(e7, dot(b2, t11));
    d9 = i32x4.add(d9, dot(a3, s11));
    e9 = i32x4.add(e9, dot(b3, t11));
    const s13 = pairs.a13, t13 = pairs.b13;
    d5 = i32x4.add(d5, dot(a0, s13));
    e5 = i32x4.add(e5, dot(b0, t13));
    d7 = i32x4.add(d7, dot(a1, s13));
    e7 = i32x4.add(e7, dot(b1, t13));
    d9 = i32x4.add(d9, dot(a2, s13));
    e9 = i32x4.add(e9, dot(b2, t13));
    const s15 = pairs.a15, t15 = pairs.b15;
    d7 = i32x4.add(d7, dot(a0, s15));
    e7 = i32x4.add(e7, dot(b0, t15));
    d9 = i32x4.add(d9, dot(a1, s15));
    e9 = i32x4.add(e9, dot(b1, t15));
    const s17 = pairs.a17, t17 = pairs.b17;
    d9 = i32x4.add(d9, dot(a0, s17));
    e9 = i32x4.add(e9, dot(b0, t17));
    // and from them to the even ones, and once more to the odd ones while the halves are joined
    d0 = i32x4.add(d0, times5(i32x4.shr_s(d9, 13)));
    e0 = i32x4.add(e0, times5(i32x4.shr_s(e9, 13)));
    d2 = i32x4.add(d2, i32x4.shr_s(d1, 13));
    e2 = i32x4.add(e2, i32x4.shr_s(e1, 13));
    d4 = i32x4.add(d4, i32x4.shr_s(d3, 13));
    e4 = i32x4.add(e4, i32x4.shr_s(e3, 13));
    d6 = i32x4.add(d6, i32x4.shr_s(d5, 13));
    e6 = i32x4.add(e6, i32x4.shr_s(e5, 13));
    d8 = i32x4.add(d8, i32x4.shr_s(d7, 13));
    e8 = i32x4.add(e8, i32x4.shr_s(e7, 13));
    a0 = joinLimbs(d0, d1, mask13);
    b0 = joinLimbs(e0, e1, mask13);
    a1 = joinLimbs(d2, d3, mask13);
    b1 = joinLimbs(e2, e3, mask13);
    a2 = joinLimbs(d4, d5, mask13);
    b2 = joinLimbs(e4, e5, mask13);
    a3 = joinLimbs(d6, d7, mask13);
    b3 = joinLimbs(e6, e7, mask13);
    a4 = joinLimbs(d8, d9, mask13);
    b4 = joinLimbs(e8, e9, mask13);
  }

  // h * (r^8, r^7 ... r) by lane, one carry, and the sum of the lanes
  const lanes = changetype<Pairs8>(base + WIDE_LANE_PAIRS);
  // prettier-ignore
  const d0 = sum5(dot(a0, lanes.a8), dot(a1, lanes.a6), dot(a2, lanes.a4), dot(a3, lanes.a2), dot(a4, lanes.a0));
  // prettier-ignore
  const e0 = sum5(dot(b0, lanes.b8), dot(b1, lanes.b6), dot(b2, lanes.b4), dot(b3, lanes.b2), dot(b4, lanes.b0));
  // prettier-ignore
  const d1 = sum5(dot(a0, lanes.a9), dot(a1, lanes.a7), dot(a2, lanes.a5), dot(a3, lanes.a3), dot(a4, lanes.a1));
  // prettier-ignore
  const e1 = sum5(dot(b0, lanes.b9), dot(b1, lanes.b7), dot(b2, lanes.b5), dot(b3, lanes.b3), dot(b4, lanes.b1));
  // prettier-ignore
  const d2 = sum5(dot(a0, lanes.a10), dot(a1, lanes.a8), dot(a2, lanes.a6), dot(a3, lanes.a4), dot(a4, lanes.a2));
  // prettier-ignore
  const e2 = sum5(dot(b0, lanes.b10), dot(b1, lanes.b8), dot(b2, lanes.b6), dot(b3, lanes.b4), dot(b4, lanes.b2));
  // prettier-ignore
  const d3 = sum5(dot(a0, lanes.a11), dot(a1, lanes.a9), dot(a2, lanes.a7), dot(a3, lanes.a5), dot(a4, lanes.a3));
  // prettier-ignore
  const e3 = sum5(dot(b0, lanes.b11), dot(b1, lanes.b9), dot(b2, lanes.b7), dot(b3, lanes.b5), dot(b4, lanes.b3));
  // prettier-ignore
  const d4 = sum5(dot(a0, lanes.a12), dot(a1, lanes.a10), dot(a2, lanes.a8), dot(a3, lanes.a6), dot(a4, lanes.a4));
  // prettier-ignore
  const e4 = sum5(dot(b0, lanes.b12), dot(b1, lanes.b10), dot(b2, lanes.b8), dot(b3, lanes.b6), dot(b4, lanes.b4));
  // prettier-ignore
  const d5 = sum5(dot(a0, lanes.a13), dot(a1, lanes.a11), dot(a2, lanes.a9), dot(a3, lanes.a7), dot(a4, lanes.a5));
  // prettier-ignore
  const e5 = sum5(dot(b0, lanes.b13), dot(b1, lanes.b11), dot(b2, lanes.b9), dot(b3, lanes.b7), dot(b4, lanes.b5));
  // prettier-ignore
  const d6 = sum5(dot(a0, lanes.a14), dot(a1, lanes.a12), dot(a2, lanes.a10), dot(a3, lanes.a8), dot(a4, lanes.a6));
  // prettier-ignore
  const e6 = sum5(dot(b0, lanes.b14), dot(b1, lanes.b12), dot(b2, lanes.b10), dot(b3, lanes.b8), dot(b4, lanes.b6));
  // prettier-ignore
  const d7 = sum5(dot(a0, lanes.a15), dot(a1, lanes.a13), dot(a2, lanes.a11), dot(a3, lanes.a9), dot(a4, lanes.a7));
  // prettier-ignore
  const e7 = sum5(dot(b0, lanes.b15), dot(b1, lanes.b13), dot(b2, lanes.b11), dot(b3, lanes.b9), dot(b4, lanes.b7));
  // prettier-ignore
  const d8 = sum5(dot(a0, lanes.a16), dot(a1, lanes.a14), dot(a2, lanes.a12), dot(a3, lanes.a10), dot(a4, lanes.a8));
  // prettier-ignore
  const e8 = sum5(dot(b0, lanes.b16), dot(b1, lanes.b14), dot(b2, lanes.b12), dot(b3, lanes.b10), dot(b4, lanes.b8));
  // prettier-ignore
  const d9 = sum5(dot(a0, lanes.a17), dot(a1, lanes.a15), dot(a2, lanes.a13), dot(a3, lanes.a11), dot(a4, lanes.a9));
  // prettier-ignore
  const e9 = sum5(dot(b0, lanes.b17), dot(b1, lanes.b15), dot(b2, lanes.b13), dot(b3, lanes.b11), dot(b4, lanes.b9));
  const sums = base + WIDE_SUMS;
  v128.store(sums, i32x4.add(v128.and(d0, mask13), times5(i32x4.shr_s(d9, 13))));
  v128.store(sums, i32x4.add(v128.and(e0, mask13), times5(i32x4.shr_s(e9, 13))), 16);
  v128.store(sums, i32x4.add(v128.and(d1, mask13), i32x4.shr_s(d0, 13)), 32);
  v128.store(sums, i32x4.add(v128.and(e1, mask13), i32x4.shr_s(e0, 13)), 48);
  v128.store(sums, i32x4.add(v128.and(d2, mask13), i32x4.shr_s(d1, 13)), 64);
  v128.store(sums, i32x4.add(v128.and(e2, mask13), i32x4.shr_s(e1, 13)), 80);
  v128.store(sums, i32x4.add(v128.and(d3, mask13), i32x4.shr_s(d2, 13)), 96);
  v128.store(sums, i32x4.add(v128.and(e3, mask13), i32x4.shr_s(e2, 13)), 112);
  v128.store(sums, i32x4.add(v128.and(d4, mask13), i32x4.shr_s(d3, 13)), 128);
  v128.store(sums, i32x4.add(v128.and(e4, mask13), i32x4.shr_s(e3, 13)), 144);
  v128.store(sums, i32x4.add(v128.and(d5, mask13), i32x4.shr_s(d4, 13)), 160);
  v128.store(sums, i32x4.add(v128.and(e5, mask13), i32x4.shr_s(e4, 13)), 176);
  v128.store(sums, i32x4.add(v128.and(d6, mask13), i32x4.shr_s(d5, 13)), 192);
  v128.store(sums, i32x4.add(v128.and(e6, mask13), i32x4.shr_s(e5, 13)), 208);
  v128.store(sums, i32x4.add(v128.and(d7, mask13), i32x4.shr_s(d6, 13)), 224);
  v128.store(sums, i32x4.add(v128.and(e7, mask13), i32x4.shr_s(e6, 13)), 240);
  v128.store(sums, i32x4.add(v128.and(d8, mask13), i32x4.shr_s(d7, 13)), 256);
  v128.store(sums, i32x4.add(v128.and(e8, mask13), i32x4.shr_s(e7, 13)), 272);
  v128.store(sums, i32x4.add(v128.and(d9, mask13), i32x4.shr_s(d8, 13)), 288);
  v128.store(sums, i32x4.add(v128.and(e9, mask13), i32x4.shr_s(e8, 13)), 304);
  macTag(
    dst,
    key,
    sumLanes(bothSums(sums), bothSums(sums + 64), bothSums(sums + 128), bothSums(sums + 192)),
    sumLanes(bothSums(sums + 32), bothSums(sums + 96), bothSums(sums + 160), bothSums(sums + 224)),
    sumLanes(bothSums(sums + 256), bothSums(sums + 288), bothSums(sums + 256), bothSums(sums + 288)),
  );
}

/** A limb of lanes a plus that of lanes b. */
// @ts-ignore: decorator
@inline
function bothSums(sums: usize): v128 {
  return i32x4.add(v128.load(sums), v128.load(sums, 16));
}

/**
 * The MAC of a packet's ciphertext and its length.
 * @param dst  16 bytes
 * @param src  `len` > 112 bytes; up to 112 bytes before them and 15 after them are read, and do not matter
 * @param key  one-time key, 32 bytes
 */
export function packetMac8(dst: usize, src: usize, len: u32, key: usize): void {
  const base = threadBase;
  fillPairs8(base, key);
  const blocks = (len + 15) >> 4;
  // The last group: seven blocks of ciphertext, the last of them padded, and the block of the lengths.
  const tail = src + (blocks << 4) - 112;
  const tailLen = ((len - 1) & 15) + 1;
  const padding = i8x16.lt_u(v128.load(BYTE_NUMBERS), i8x16.splat(<i8>tailLen));
  v128.store(base, v128.load(tail), POLY_GROUP);
  v128.store(base, v128.load(tail, 16), POLY_GROUP + 16);
  v128.store(base, v128.load(tail, 32), POLY_GROUP + 32);
  v128.store(base, v128.load(tail, 48), POLY_GROUP + 48);
  v128.store(base, v128.load(tail, 64), POLY_GROUP + 64);
  v128.store(base, v128.load(tail, 80), POLY_GROUP + 80);
  v128.store(base, v128.and(v128.load(tail, 96), padding), POLY_GROUP + 96);
  store<u64>(base, 0, POLY_GROUP + 112);
  store<u64>(base, len, POLY_GROUP + 120);
  const before = blocks - 7;
  const live = ((before - 1) & 7) + 1;
  const first = src - ((8 - live) << 4);
  firstGroup8(base, first, live);
  macGroups8(dst, key, first, ((before - live) >> 3) + 1);
}
