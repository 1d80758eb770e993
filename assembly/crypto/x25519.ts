// X25519 (RFC 7748 §5): the Montgomery ladder, in constant time: no branch and no address depends on a secret.
//
// A field element mod 2^255 - 19 is ten signed limbs of 26 and 25 bits in turn (limb i has the weight 2^ceil(25.5
// i)), i32 in memory, FIELD_LEN bytes. Their products fit i64 with room for ten of them: with limbs below 1.65 x 2^26
// and 1.65 x 2^25, the sums of a product stay below 2^62. A product's limbs are at most 1.01 x 2^25 and 1.01 x 2^24
// in size, so one addition or subtraction between two products needs no carry. Rejected after measuring: two
// multiplications side by side in SIMD, which is no faster, and limbs of 51 bits, for which wasm lacks the 128-bit
// product.

import { threadBase, wipe } from "../memory";
import { FIELD_LEN, X25519_END, X25519_FIELDS, X25519_SCALAR } from "./scratch";

const MASK_26: u64 = (1 << 26) - 1;
const MASK_25: u64 = (1 << 25) - 1;
/** (486662 - 2) / 4 */
const A24: i64 = 121665;
/** The base point, u = 9. */
// prettier-ignore
const BASE_POINT: usize = memory.data<u8>([
  9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
], 16);

// Field elements of the ladder, offsets from threadBase; X2 Z2 X3 Z3 in a row, for the conditional swap.
const X1: usize = X25519_FIELDS;
const X2: usize = X1 + FIELD_LEN;
const Z2: usize = X2 + FIELD_LEN;
const X3: usize = Z2 + FIELD_LEN;
const Z3: usize = X3 + FIELD_LEN;
const A: usize = Z3 + FIELD_LEN;
const B: usize = A + FIELD_LEN;
const C: usize = B + FIELD_LEN;
const D: usize = C + FIELD_LEN;
const AA: usize = D + FIELD_LEN;
const BB: usize = AA + FIELD_LEN;
const E: usize = BB + FIELD_LEN;

/** Carries the limbs of a product down to their sizes, two chains side by side, and stores them. */
// @ts-ignore: decorator
@inline
function storeCarried(
  dst: usize,
  h0: i64, h1: i64, h2: i64, h3: i64, h4: i64,
  h5: i64, h6: i64, h7: i64, h8: i64, h9: i64,
): void {
  let c: i64;
  // prettier-ignore
{
  c = (h0 + (1 << 25)) >> 26; h1 += c; h0 -= c << 26;
  c = (h4 + (1 << 25)) >> 26; h5 += c; h4 -= c << 26;
  c = (h1 + (1 << 24)) >> 25; h2 += c; h1 -= c << 25;
  c = (h5 + (1 << 24)) >> 25; h6 += c; h5 -= c << 25;
  c = (h2 + (1 << 25)) >> 26; h3 += c; h2 -= c << 26;
  c = (h6 + (1 << 25)) >> 26; h7 += c; h6 -= c << 26;
  c = (h3 + (1 << 24)) >> 25; h4 += c; h3 -= c << 25;
  c = (h7 + (1 << 24)) >> 25; h8 += c; h7 -= c << 25;
  c = (h4 + (1 << 25)) >> 26; h5 += c; h4 -= c << 26;
  c = (h8 + (1 << 25)) >> 26; h9 += c; h8 -= c << 26;
  c = (h9 + (1 << 24)) >> 25; h0 += c * 19; h9 -= c << 25;
  c = (h0 + (1 << 25)) >> 26; h1 += c; h0 -= c << 26;
}
  store<i32>(dst, <i32>h0);
  store<i32>(dst, <i32>h1, 4);
  store<i32>(dst, <i32>h2, 8);
  store<i32>(dst, <i32>h3, 12);
  store<i32>(dst, <i32>h4, 16);
  store<i32>(dst, <i32>h5, 20);
  store<i32>(dst, <i32>h6, 24);
  store<i32>(dst, <i32>h7, 28);
  store<i32>(dst, <i32>h8, 32);
  store<i32>(dst, <i32>h9, 36);
}

/** dst = a * b */
function multiply(dst: usize, a: usize, b: usize): void {
  const a0 = <i64>load<i32>(a);
  const a1 = <i64>load<i32>(a, 4);
  const a2 = <i64>load<i32>(a, 8);
  const a3 = <i64>load<i32>(a, 12);
  const a4 = <i64>load<i32>(a, 16);
  const a5 = <i64>load<i32>(a, 20);
  const a6 = <i64>load<i32>(a, 24);
  const a7 = <i64>load<i32>(a, 28);
  const a8 = <i64>load<i32>(a, 32);
  const a9 = <i64>load<i32>(a, 36);
  const b0 = <i64>load<i32>(b);
  const b1 = <i64>load<i32>(b, 4);
  const b2 = <i64>load<i32>(b, 8);
  const b3 = <i64>load<i32>(b, 12);
  const b4 = <i64>load<i32>(b, 16);
  const b5 = <i64>load<i32>(b, 20);
  const b6 = <i64>load<i32>(b, 24);
  const b7 = <i64>load<i32>(b, 28);
  const b8 = <i64>load<i32>(b, 32);
  const b9 = <i64>load<i32>(b, 36);
  // a product of two odd limbs counts twice: 2^25.5 rounded up twice
  const o1 = a1 * 2;
  const o3 = a3 * 2;
  const o5 = a5 * 2;
  const o7 = a7 * 2;
  const o9 = a9 * 2;
  // what passes limb 9 comes back times 19
  const w1 = b1 * 19;
  const w2 = b2 * 19;
  const w3 = b3 * 19;
  const w4 = b4 * 19;
  const w5 = b5 * 19;
  const w6 = b6 * 19;
  const w7 = b7 * 19;
  const w8 = b8 * 19;
  const w9 = b9 * 19;
  const h0 = a0 * b0 + o1 * w9 + a2 * w8 + o3 * w7 + a4 * w6 + o5 * w5 + a6 * w4 + o7 * w3 + a8 * w2 + o9 * w1;
  const h1 = a0 * b1 + a1 * b0 + a2 * w9 + a3 * w8 + a4 * w7 + a5 * w6 + a6 * w5 + a7 * w4 + a8 * w3 + a9 * w2;
  const h2 = a0 * b2 + o1 * b1 + a2 * b0 + o3 * w9 + a4 * w8 + o5 * w7 + a6 * w6 + o7 * w5 + a8 * w4 + o9 * w3;
  const h3 = a0 * b3 + a1 * b2 + a2 * b1 + a3 * b0 + a4 * w9 + a5 * w8 + a6 * w7 + a7 * w6 + a8 * w5 + a9 * w4;
  const h4 = a0 * b4 + o1 * b3 + a2 * b2 + o3 * b1 + a4 * b0 + o5 * w9 + a6 * w8 + o7 * w7 + a8 * w6 + o9 * w5;
  const h5 = a0 * b5 + a1 * b4 + a2 * b3 + a3 * b2 + a4 * b1 + a5 * b0 + a6 * w9 + a7 * w8 + a8 * w7 + a9 * w6;
  const h6 = a0 * b6 + o1 * b5 + a2 * b4 + o3 * b3 + a4 * b2 + o5 * b1 + a6 * b0 + o7 * w9 + a8 * w8 + o9 * w7;
  const h7 = a0 * b7 + a1 * b6 + a2 * b5 + a3 * b4 + a4 * b3 + a5 * b2 + a6 * b1 + a7 * b0 + a8 * w9 + a9 * w8;
  const h8 = a0 * b8 + o1 * b7 + a2 * b6 + o3 * b5 + a4 * b4 + o5 * b3 + a6 * b2 + o7 * b1 + a8 * b0 + o9 * w9;
  const h9 = a0 * b9 + a1 * b8 + a2 * b7 + a3 * b6 + a4 * b5 + a5 * b4 + a6 * b3 + a7 * b2 + a8 * b1 + a9 * b0;
  storeCarried(dst, h0, h1, h2, h3, h4, h5, h6, h7, h8, h9);
}

/** dst = a^2 */
function square(dst: usize, a: usize): void {
  const a0 = <i64>load<i32>(a);
  const a1 = <i64>load<i32>(a, 4);
  const a2 = <i64>load<i32>(a, 8);
  const a3 = <i64>load<i32>(a, 12);
  const a4 = <i64>load<i32>(a, 16);
  const a5 = <i64>load<i32>(a, 20);
  const a6 = <i64>load<i32>(a, 24);
  const a7 = <i64>load<i32>(a, 28);
  const a8 = <i64>load<i32>(a, 32);
  const a9 = <i64>load<i32>(a, 36);
  // twice: each product of two different limbs; four times: of two odd ones
  const t0 = a0 * 2;
  const t1 = a1 * 2;
  const t2 = a2 * 2;
  const t3 = a3 * 2;
  const t4 = a4 * 2;
  const t5 = a5 * 2;
  const t6 = a6 * 2;
  const t7 = a7 * 2;
  const t8 = a8 * 2;
  const t9 = a9 * 2;
  const q1 = a1 * 4;
  const q3 = a3 * 4;
  const q5 = a5 * 4;
  const q7 = a7 * 4;
  const w5 = a5 * 19;
  const w6 = a6 * 19;
  const w7 = a7 * 19;
  const w8 = a8 * 19;
  const w9 = a9 * 19;
  const h0 = a0 * a0 + q1 * w9 + t2 * w8 + q3 * w7 + t4 * w6 + t5 * w5;
  const h1 = t0 * a1 + t2 * w9 + t3 * w8 + t4 * w7 + t5 * w6;
  const h2 = t0 * a2 + t1 * a1 + q3 * w9 + t4 * w8 + q5 * w7 + a6 * w6;
  const h3 = t0 * a3 + t1 * a2 + t4 * w9 + t5 * w8 + t6 * w7;
  const h4 = t0 * a4 + q1 * a3 + a2 * a2 + q5 * w9 + t6 * w8 + t7 * w7;
  const h5 = t0 * a5 + t1 * a4 + t2 * a3 + t6 * w9 + t7 * w8;
  const h6 = t0 * a6 + q1 * a5 + t2 * a4 + t3 * a3 + q7 * w9 + a8 * w8;
  const h7 = t0 * a7 + t1 * a6 + t2 * a5 + t3 * a4 + t8 * w9;
  const h8 = t0 * a8 + q1 * a7 + t2 * a6 + q3 * a5 + a4 * a4 + t9 * w9;
  const h9 = t0 * a9 + t1 * a8 + t2 * a7 + t3 * a6 + t4 * a5;
  storeCarried(dst, h0, h1, h2, h3, h4, h5, h6, h7, h8, h9);
}

/** dst = a ^ (2^count) */
function squareTimes(dst: usize, a: usize, count: i32): void {
  square(dst, a);
  for (let i = 1; i < count; i++) square(dst, dst);
}

/** dst = a + A24 * b */
function addA24(dst: usize, a: usize, b: usize): void {
  storeCarried(
    dst,
    <i64>load<i32>(a) + <i64>load<i32>(b) * A24,
    <i64>load<i32>(a, 4) + <i64>load<i32>(b, 4) * A24,
    <i64>load<i32>(a, 8) + <i64>load<i32>(b, 8) * A24,
    <i64>load<i32>(a, 12) + <i64>load<i32>(b, 12) * A24,
    <i64>load<i32>(a, 16) + <i64>load<i32>(b, 16) * A24,
    <i64>load<i32>(a, 20) + <i64>load<i32>(b, 20) * A24,
    <i64>load<i32>(a, 24) + <i64>load<i32>(b, 24) * A24,
    <i64>load<i32>(a, 28) + <i64>load<i32>(b, 28) * A24,
    <i64>load<i32>(a, 32) + <i64>load<i32>(b, 32) * A24,
    <i64>load<i32>(a, 36) + <i64>load<i32>(b, 36) * A24,
  );
}

/** dst = a + b, not carried */
// @ts-ignore: decorator
@inline
function add(dst: usize, a: usize, b: usize): void {
  v128.store(dst, i32x4.add(v128.load(a), v128.load(b)));
  v128.store(dst, i32x4.add(v128.load(a, 16), v128.load(b, 16)), 16);
  v128.store(dst, i32x4.add(v128.load(a, 32), v128.load(b, 32)), 32);
}

/** dst = a - b, not carried */
// @ts-ignore: decorator
@inline
function subtract(dst: usize, a: usize, b: usize): void {
  v128.store(dst, i32x4.sub(v128.load(a), v128.load(b)));
  v128.store(dst, i32x4.sub(v128.load(a, 16), v128.load(b, 16)), 16);
  v128.store(dst, i32x4.sub(v128.load(a, 32), v128.load(b, 32)), 32);
}

/** dst = 1 / a = a ^ (2^255 - 21), 0 of 0. Uses A, B, C and D; a is none of them. */
function invert(dst: usize, a: usize): void {
  const base = threadBase;
  const a11 = base + A; // a^11, then a^(2^n - 1) for n = 5, 10, 20 ...
  const n5 = base + B;
  const n10 = base + C;
  const t = base + D;
  squareTimes(t, a, 1); // a^2
  squareTimes(n5, t, 2); // a^8
  multiply(n5, n5, a); // a^9
  multiply(a11, n5, t);
  square(t, a11); // a^22
  multiply(n5, t, n5); // n = 5: a^31
  squareTimes(t, n5, 5);
  multiply(n10, t, n5); // n = 10
  squareTimes(t, n10, 10);
  multiply(n5, t, n10); // n = 20
  squareTimes(t, n5, 20);
  multiply(t, t, n5); // n = 40
  squareTimes(t, t, 10);
  multiply(n10, t, n10); // n = 50
  squareTimes(t, n10, 50);
  multiply(n5, t, n10); // n = 100
  squareTimes(t, n5, 100);
  multiply(t, t, n5); // n = 200
  squareTimes(t, t, 50);
  multiply(t, t, n10); // n = 250
  squareTimes(t, t, 5);
  multiply(dst, t, a11); // 2^255 - 32 + 11
}

/** Exchanges X2 Z2 with X3 Z3 when `bit` is 1. */
// @ts-ignore: decorator
@inline
function swapPairs(base: usize, bit: u32): void {
  const mask = i32x4.splat(-<i32>bit);
  let p = base;
  for (let i = 0; i < 6; i++) {
    const a = v128.load(p, X2);
    const b = v128.load(p, X3);
    const difference = v128.and(v128.xor(a, b), mask);
    v128.store(p, v128.xor(a, difference), X2);
    v128.store(p, v128.xor(b, difference), X3);
    p += 16;
  }
}

/** A coordinate of 32 bytes; its top bit is ignored (§5), and values of p or more are taken as they are. */
function fromBytes(dst: usize, src: usize): void {
  const w0 = load<u64>(src);
  const w1 = load<u64>(src, 8);
  const w2 = load<u64>(src, 16);
  const w3 = load<u64>(src, 24);
  store<i32>(dst, <i32>(w0 & MASK_26));
  store<i32>(dst, <i32>((w0 >> 26) & MASK_25), 4);
  store<i32>(dst, <i32>(((w0 >> 51) | (w1 << 13)) & MASK_26), 8);
  store<i32>(dst, <i32>((w1 >> 13) & MASK_25), 12);
  store<i32>(dst, <i32>((w1 >> 38) & MASK_26), 16);
  store<i32>(dst, <i32>(w2 & MASK_25), 20);
  store<i32>(dst, <i32>((w2 >> 25) & MASK_26), 24);
  store<i32>(dst, <i32>(((w2 >> 51) | (w3 << 13)) & MASK_25), 28);
  store<i32>(dst, <i32>((w3 >> 12) & MASK_26), 32);
  store<i32>(dst, <i32>((w3 >> 38) & MASK_25), 36);
  v128.store(dst, v128.load64_zero(dst, 32), 32); // the two unused words
}

/** A product as 32 bytes, fully reduced. @returns whether any of them is not zero */
function toBytes(dst: usize, src: usize): bool {
  let h0 = <i64>load<i32>(src);
  let h1 = <i64>load<i32>(src, 4);
  let h2 = <i64>load<i32>(src, 8);
  let h3 = <i64>load<i32>(src, 12);
  let h4 = <i64>load<i32>(src, 16);
  let h5 = <i64>load<i32>(src, 20);
  let h6 = <i64>load<i32>(src, 24);
  let h7 = <i64>load<i32>(src, 28);
  let h8 = <i64>load<i32>(src, 32);
  let h9 = <i64>load<i32>(src, 36);
  // q = 1 when the value is p or more, -1 when it is negative, else 0: the carry out of value + 19
  let q = (h9 * 19 + (1 << 24)) >> 25;
  q = (h0 + q) >> 26;
  q = (h1 + q) >> 25;
  q = (h2 + q) >> 26;
  q = (h3 + q) >> 25;
  q = (h4 + q) >> 26;
  q = (h5 + q) >> 25;
  q = (h6 + q) >> 26;
  q = (h7 + q) >> 25;
  q = (h8 + q) >> 26;
  q = (h9 + q) >> 25;
  h0 += q * 19;
  let c: i64;
  // prettier-ignore
{
  c = h0 >> 26; h1 += c; h0 -= c << 26;
  c = h1 >> 25; h2 += c; h1 -= c << 25;
  c = h2 >> 26; h3 += c; h2 -= c << 26;
  c = h3 >> 25; h4 += c; h3 -= c << 25;
  c = h4 >> 26; h5 += c; h4 -= c << 26;
  c = h5 >> 25; h6 += c; h5 -= c << 25;
  c = h6 >> 26; h7 += c; h6 -= c << 26;
  c = h7 >> 25; h8 += c; h7 -= c << 25;
  c = h8 >> 26; h9 += c; h8 -= c << 26;
}
  h9 &= <i64>MASK_25;
  const w0 = h0 | (h1 << 26) | (h2 << 51);
  const w1 = (h2 >> 13) | (h3 << 13) | (h4 << 38);
  const w2 = h5 | (h6 << 25) | (h7 << 51);
  const w3 = (h7 >> 13) | (h8 << 12) | (h9 << 38);
  store<i64>(dst, w0);
  store<i64>(dst, w1, 8);
  store<i64>(dst, w2, 16);
  store<i64>(dst, w3, 24);
  return (w0 | w1 | w2 | w3) != 0;
}

/** One step of the ladder, §5: (X2:Z2) doubled, (X3:Z3) the sum of both, X1 their difference. */
function step(base: usize): void {
  const a = base + A;
  const b = base + B;
  const c = base + C;
  const d = base + D;
  const aa = base + AA;
  const bb = base + BB;
  const e = base + E;
  const x2 = base + X2;
  const z2 = base + Z2;
  const x3 = base + X3;
  const z3 = base + Z3;
  add(a, x2, z2);
  subtract(b, x2, z2);
  add(c, x3, z3);
  subtract(d, x3, z3);
  multiply(d, d, a);
  multiply(c, c, b);
  square(aa, a);
  square(bb, b);
  add(x3, d, c);
  square(x3, x3);
  subtract(z3, d, c);
  square(z3, z3);
  multiply(z3, z3, base + X1);
  multiply(x2, aa, bb);
  subtract(e, aa, bb);
  addA24(aa, aa, e);
  multiply(z2, e, aa);
}

/**
 * The shared secret of a scalar and a point. Wipes its scratch.
 * @param dst     32 bytes; may be scalar or point
 * @param scalar  32 bytes, clamped here and left as they are
 * @param point   32 bytes: a u coordinate, any of them accepted
 * @returns false when the result is all zero, i.e. the point is of low order (found in constant time)
 */
export function x25519(dst: usize, scalar: usize, point: usize): bool {
  const base = threadBase;
  const clamped = base + X25519_SCALAR;
  store<u64>(clamped, load<u64>(scalar) & ~7);
  store<u64>(clamped, load<u64>(scalar, 8), 8);
  store<u64>(clamped, load<u64>(scalar, 16), 16);
  store<u64>(clamped, (load<u64>(scalar, 24) & 0x7fffffffffffffff) | 0x4000000000000000, 24);
  fromBytes(base + X1, point);
  memory.fill(base + X2, 0, 4 * FIELD_LEN);
  store<i32>(base, 1, X2);
  memory.copy(base + X3, base + X1, FIELD_LEN);
  store<i32>(base, 1, Z3);
  let swapped: u32 = 0;
  for (let i = 254; i >= 0; i--) {
    const bit = (<u32>load<u8>(clamped + (i >> 3)) >> (i & 7)) & 1;
    swapPairs(base, swapped ^ bit);
    swapped = bit;
    step(base);
  }
  // the last bit is clamped to 0: no swap is left
  invert(base + E, base + Z2);
  multiply(base + E, base + E, base + X2);
  const valid = toBytes(dst, base + E);
  wipe(clamped, X25519_END - X25519_SCALAR);
  return valid;
}

/** The public key of a private one. @param dst 32 bytes; may be scalar */
export function x25519Public(dst: usize, scalar: usize): void {
  x25519(dst, scalar, BASE_POINT);
}
