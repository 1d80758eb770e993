// ChaCha20 (RFC 8439 §2.3, §2.4) and HChaCha20 (draft-irtf-cfrg-xchacha §2.2).
//
// Four blocks at once, vertically: a v128 holds the same word of four consecutive blocks, so that a quarter round needs
// no shuffles; the words are turned back into blocks when they are mixed with the message. Rotations by 16 and 8 are
// byte shuffles: relaxed_swizzle where the engine has it (its masks stay in range, so it is the same on every CPU),
// swizzle elsewhere. Short messages take three blocks in rows side by side. Rejected after measuring: rows for longer
// ones (4/5 of the speed), eight blocks (no faster), and the masks as constants in the relaxed build (V8 >= 13 rebuilds
// a constant at each use).

import { threadBase } from "../memory";
import { chachaGroups8, setState8 } from "./chacha20x8";
import { highHalves, highWords, lowHalves, lowWords, rotate7, rotate12 } from "./lanes";
import { CHACHA_STATE, FIRST_STREAM, LAST_STREAM, STREAM_LEN } from "./scratch";
import { CIPHER8_LEN, WIDE } from "./width";

/** "expand 32-byte k" */
const CONSTANTS: usize = memory.data<u32>([0x61707865, 0x3320646e, 0x79622d32, 0x6b206574], 16);
const FIRST_COUNTERS: usize = memory.data<u32>([0, 1, 2, 3], 16);
// prettier-ignore
const MASK_16: usize = memory.data<u8>([2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13], 16);
const MASK_8: usize = memory.data<u8>([3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14], 16);
/** A message of zeros: its ciphertext is the keystream. */
const ZEROS: usize = memory.data(STREAM_LEN, 16);

/** Messages up to here, TCP's acknowledgements and handshakes among them, take three blocks, not a group of four. */
const SHORT_LEN: u32 = 128;
/** Keystream of a group of four. */
const GROUP_LEN: u32 = 256;
/** And of a group of eight. */
const GROUP8_LEN: u32 = 512;

/** The state at CHACHA_STATE: word n of four blocks in x[n]. */
@unmanaged
class State {
  // prettier-ignore
  x0: v128; x1: v128; x2: v128; x3: v128;
  x4: v128; x5: v128; x6: v128; x7: v128;
  x8: v128; x9: v128; x10: v128; x11: v128;
  x12: v128; x13: v128; x14: v128; x15: v128;
}

// @ts-ignore: decorator
@inline
function rotate16(x: v128, mask: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return i8x16.relaxed_swizzle(x, mask);
  return v128.swizzle(x, i8x16(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
}

// @ts-ignore: decorator
@inline
function rotate8(x: v128, mask: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return i8x16.relaxed_swizzle(x, mask);
  return v128.swizzle(x, i8x16(3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14));
}

/** Sets the state to a key, the 12-byte nonce of three words and block 0. */
// @ts-ignore: decorator
@inline
function setState(base: usize, key: usize, nonce0: u32, nonce1: u32, nonce2: u32): void {
  const s = changetype<State>(base + CHACHA_STATE);
  s.x0 = v128.load32_splat(CONSTANTS);
  s.x1 = v128.load32_splat(CONSTANTS, 4);
  s.x2 = v128.load32_splat(CONSTANTS, 8);
  s.x3 = v128.load32_splat(CONSTANTS, 12);
  s.x4 = v128.load32_splat(key);
  s.x5 = v128.load32_splat(key, 4);
  s.x6 = v128.load32_splat(key, 8);
  s.x7 = v128.load32_splat(key, 12);
  s.x8 = v128.load32_splat(key, 16);
  s.x9 = v128.load32_splat(key, 20);
  s.x10 = v128.load32_splat(key, 24);
  s.x11 = v128.load32_splat(key, 28);
  s.x12 = v128.load(FIRST_COUNTERS);
  s.x13 = i32x4.splat(nonce0);
  s.x14 = i32x4.splat(nonce1);
  s.x15 = i32x4.splat(nonce2);
}

/** The next `count` groups of four blocks: dst = src ^ keystream, 256 bytes each; dst may be src. */
function chachaGroups(dst: usize, src: usize, count: u32): void {
  const s = changetype<State>(threadBase + CHACHA_STATE);
  const mask16 = v128.load(MASK_16);
  const mask8 = v128.load(MASK_8);
  for (; count > 0; count--) {
    // prettier-ignore
    let x0 = s.x0; let x1 = s.x1; let x2 = s.x2; let x3 = s.x3;
    let x4 = s.x4; let x5 = s.x5; let x6 = s.x6; let x7 = s.x7;
    let x8 = s.x8; let x9 = s.x9; let x10 = s.x10; let x11 = s.x11;
    let x12 = s.x12; let x13 = s.x13; let x14 = s.x14; let x15 = s.x15;
    for (let i = 0; i < 10; i++) {
      // prettier-ignore
      // columns 0 and 1
      x0 = i32x4.add(x0, x4); x12 = rotate16(v128.xor(x12, x0), mask16);
      x1 = i32x4.add(x1, x5); x13 = rotate16(v128.xor(x13, x1), mask16);
      x8 = i32x4.add(x8, x12); x4 = rotate12(v128.xor(x4, x8));
      x9 = i32x4.add(x9, x13); x5 = rotate12(v128.xor(x5, x9));
      x0 = i32x4.add(x0, x4); x12 = rotate8(v128.xor(x12, x0), mask8);
      x1 = i32x4.add(x1, x5); x13 = rotate8(v128.xor(x13, x1), mask8);
      x8 = i32x4.add(x8, x12); x4 = rotate7(v128.xor(x4, x8));
      x9 = i32x4.add(x9, x13); x5 = rotate7(v128.xor(x5, x9));
      // columns 2 and 3
      x2 = i32x4.add(x2, x6); x14 = rotate16(v128.xor(x14, x2), mask16);
      x3 = i32x4.add(x3, x7); x15 = rotate16(v128.xor(x15, x3), mask16);
      x10 = i32x4.add(x10, x14); x6 = rotate12(v128.xor(x6, x10));
      x11 = i32x4.add(x11, x15); x7 = rotate12(v128.xor(x7, x11));
      x2 = i32x4.add(x2, x6); x14 = rotate8(v128.xor(x14, x2), mask8);
      x3 = i32x4.add(x3, x7); x15 = rotate8(v128.xor(x15, x3), mask8);
      x10 = i32x4.add(x10, x14); x6 = rotate7(v128.xor(x6, x10));
      x11 = i32x4.add(x11, x15); x7 = rotate7(v128.xor(x7, x11));
      // diagonals 0 and 1
      x0 = i32x4.add(x0, x5); x15 = rotate16(v128.xor(x15, x0), mask16);
      x1 = i32x4.add(x1, x6); x12 = rotate16(v128.xor(x12, x1), mask16);
      x10 = i32x4.add(x10, x15); x5 = rotate12(v128.xor(x5, x10));
      x11 = i32x4.add(x11, x12); x6 = rotate12(v128.xor(x6, x11));
      x0 = i32x4.add(x0, x5); x15 = rotate8(v128.xor(x15, x0), mask8);
      x1 = i32x4.add(x1, x6); x12 = rotate8(v128.xor(x12, x1), mask8);
      x10 = i32x4.add(x10, x15); x5 = rotate7(v128.xor(x5, x10));
      x11 = i32x4.add(x11, x12); x6 = rotate7(v128.xor(x6, x11));
      // diagonals 2 and 3
      x2 = i32x4.add(x2, x7); x13 = rotate16(v128.xor(x13, x2), mask16);
      x3 = i32x4.add(x3, x4); x14 = rotate16(v128.xor(x14, x3), mask16);
      x8 = i32x4.add(x8, x13); x7 = rotate12(v128.xor(x7, x8));
      x9 = i32x4.add(x9, x14); x4 = rotate12(v128.xor(x4, x9));
      x2 = i32x4.add(x2, x7); x13 = rotate8(v128.xor(x13, x2), mask8);
      x3 = i32x4.add(x3, x4); x14 = rotate8(v128.xor(x14, x3), mask8);
      x8 = i32x4.add(x8, x13); x7 = rotate7(v128.xor(x7, x8));
      x9 = i32x4.add(x9, x14); x4 = rotate7(v128.xor(x4, x9));
    }
    // prettier-ignore
    x0 = i32x4.add(x0, s.x0); x1 = i32x4.add(x1, s.x1); x2 = i32x4.add(x2, s.x2); x3 = i32x4.add(x3, s.x3);
    x4 = i32x4.add(x4, s.x4); x5 = i32x4.add(x5, s.x5); x6 = i32x4.add(x6, s.x6); x7 = i32x4.add(x7, s.x7);
    x8 = i32x4.add(x8, s.x8); x9 = i32x4.add(x9, s.x9); x10 = i32x4.add(x10, s.x10); x11 = i32x4.add(x11, s.x11);
    x12 = i32x4.add(x12, s.x12); x13 = i32x4.add(x13, s.x13); x14 = i32x4.add(x14, s.x14); x15 = i32x4.add(x15, s.x15);
    // back into blocks: words 4n to 4n + 3 of the four blocks stand 64 bytes apart
    let lo: v128, lo2: v128, hi: v128, hi2: v128;
    lo = lowWords(x0, x1), lo2 = lowWords(x2, x3), hi = highWords(x0, x1), hi2 = highWords(x2, x3);
    v128.store(dst, v128.xor(v128.load(src, 0), lowHalves(lo, lo2)), 0);
    v128.store(dst, v128.xor(v128.load(src, 64), highHalves(lo, lo2)), 64);
    v128.store(dst, v128.xor(v128.load(src, 128), lowHalves(hi, hi2)), 128);
    v128.store(dst, v128.xor(v128.load(src, 192), highHalves(hi, hi2)), 192);
    lo = lowWords(x4, x5), lo2 = lowWords(x6, x7), hi = highWords(x4, x5), hi2 = highWords(x6, x7);
    v128.store(dst, v128.xor(v128.load(src, 16), lowHalves(lo, lo2)), 16);
    v128.store(dst, v128.xor(v128.load(src, 80), highHalves(lo, lo2)), 80);
    v128.store(dst, v128.xor(v128.load(src, 144), lowHalves(hi, hi2)), 144);
    v128.store(dst, v128.xor(v128.load(src, 208), highHalves(hi, hi2)), 208);
    lo = lowWords(x8, x9), lo2 = lowWords(x10, x11), hi = highWords(x8, x9), hi2 = highWords(x10, x11);
    v128.store(dst, v128.xor(v128.load(src, 32), lowHalves(lo, lo2)), 32);
    v128.store(dst, v128.xor(v128.load(src, 96), highHalves(lo, lo2)), 96);
    v128.store(dst, v128.xor(v128.load(src, 160), lowHalves(hi, hi2)), 160);
    v128.store(dst, v128.xor(v128.load(src, 224), highHalves(hi, hi2)), 224);
    lo = lowWords(x12, x13), lo2 = lowWords(x14, x15), hi = highWords(x12, x13), hi2 = highWords(x14, x15);
    v128.store(dst, v128.xor(v128.load(src, 48), lowHalves(lo, lo2)), 48);
    v128.store(dst, v128.xor(v128.load(src, 112), highHalves(lo, lo2)), 112);
    v128.store(dst, v128.xor(v128.load(src, 176), lowHalves(hi, hi2)), 176);
    v128.store(dst, v128.xor(v128.load(src, 240), highHalves(hi, hi2)), 240);
    s.x12 = i32x4.add(s.x12, i32x4.splat(4));
    src += 256;
    dst += 256;
  }
}

// A row turned left by one, two or three words.
// @ts-ignore: decorator
@inline
function turn1(x: v128): v128 {
  return v128.shuffle<u32>(x, x, 1, 2, 3, 0);
}

// @ts-ignore: decorator
@inline
function turn2(x: v128): v128 {
  return v128.shuffle<u32>(x, x, 2, 3, 0, 1);
}

// @ts-ignore: decorator
@inline
function turn3(x: v128): v128 {
  return v128.shuffle<u32>(x, x, 3, 0, 1, 2);
}

/** Blocks 0, 1 and 2 to FIRST_STREAM, side by side, each in four rows: 2/3 of the time of a group of four. */
function chachaShort(base: usize, key: usize, nonce0: u32, nonce1: u32, nonce2: u32): void {
  const mask16 = v128.load(MASK_16);
  const mask8 = v128.load(MASK_8);
  const first = i32x4(0, nonce0, nonce1, nonce2);
  const second = i32x4.replace_lane(first, 0, 1);
  const third = i32x4.replace_lane(first, 0, 2);
  let a0 = v128.load(CONSTANTS);
  let b0 = v128.load(key);
  let c0 = v128.load(key, 16);
  let a1 = a0, b1 = b0, c1 = c0, d1 = second;
  let a2 = a0, b2 = b0, c2 = c0, d2 = third;
  let d0 = first;
  // prettier-ignore
  for (let i = 0; i < 10; i++) {
    // columns
    a0 = i32x4.add(a0, b0); d0 = rotate16(v128.xor(d0, a0), mask16);
    a1 = i32x4.add(a1, b1); d1 = rotate16(v128.xor(d1, a1), mask16);
    a2 = i32x4.add(a2, b2); d2 = rotate16(v128.xor(d2, a2), mask16);
    c0 = i32x4.add(c0, d0); b0 = rotate12(v128.xor(b0, c0));
    c1 = i32x4.add(c1, d1); b1 = rotate12(v128.xor(b1, c1));
    c2 = i32x4.add(c2, d2); b2 = rotate12(v128.xor(b2, c2));
    a0 = i32x4.add(a0, b0); d0 = rotate8(v128.xor(d0, a0), mask8);
    a1 = i32x4.add(a1, b1); d1 = rotate8(v128.xor(d1, a1), mask8);
    a2 = i32x4.add(a2, b2); d2 = rotate8(v128.xor(d2, a2), mask8);
    c0 = i32x4.add(c0, d0); b0 = rotate7(v128.xor(b0, c0));
    c1 = i32x4.add(c1, d1); b1 = rotate7(v128.xor(b1, c1));
    c2 = i32x4.add(c2, d2); b2 = rotate7(v128.xor(b2, c2));
    b0 = turn1(b0); b1 = turn1(b1); b2 = turn1(b2);
    c0 = turn2(c0); c1 = turn2(c1); c2 = turn2(c2);
    d0 = turn3(d0); d1 = turn3(d1); d2 = turn3(d2);
    // diagonals
    a0 = i32x4.add(a0, b0); d0 = rotate16(v128.xor(d0, a0), mask16);
    a1 = i32x4.add(a1, b1); d1 = rotate16(v128.xor(d1, a1), mask16);
    a2 = i32x4.add(a2, b2); d2 = rotate16(v128.xor(d2, a2), mask16);
    c0 = i32x4.add(c0, d0); b0 = rotate12(v128.xor(b0, c0));
    c1 = i32x4.add(c1, d1); b1 = rotate12(v128.xor(b1, c1));
    c2 = i32x4.add(c2, d2); b2 = rotate12(v128.xor(b2, c2));
    a0 = i32x4.add(a0, b0); d0 = rotate8(v128.xor(d0, a0), mask8);
    a1 = i32x4.add(a1, b1); d1 = rotate8(v128.xor(d1, a1), mask8);
    a2 = i32x4.add(a2, b2); d2 = rotate8(v128.xor(d2, a2), mask8);
    c0 = i32x4.add(c0, d0); b0 = rotate7(v128.xor(b0, c0));
    c1 = i32x4.add(c1, d1); b1 = rotate7(v128.xor(b1, c1));
    c2 = i32x4.add(c2, d2); b2 = rotate7(v128.xor(b2, c2));
    b0 = turn3(b0); b1 = turn3(b1); b2 = turn3(b2);
    c0 = turn2(c0); c1 = turn2(c1); c2 = turn2(c2);
    d0 = turn1(d0); d1 = turn1(d1); d2 = turn1(d2);
  }
  const stream = base + FIRST_STREAM;
  const a = v128.load(CONSTANTS);
  const b = v128.load(key);
  const c = v128.load(key, 16);
  v128.store(stream, i32x4.add(a0, a));
  v128.store(stream, i32x4.add(b0, b), 16);
  v128.store(stream, i32x4.add(c0, c), 32);
  v128.store(stream, i32x4.add(d0, first), 48);
  v128.store(stream, i32x4.add(a1, a), 64);
  v128.store(stream, i32x4.add(b1, b), 80);
  v128.store(stream, i32x4.add(c1, c), 96);
  v128.store(stream, i32x4.add(d1, second), 112);
  v128.store(stream, i32x4.add(a2, a), 128);
  v128.store(stream, i32x4.add(b2, b), 144);
  v128.store(stream, i32x4.add(c2, c), 160);
  v128.store(stream, i32x4.add(d2, third), 176);
}

/**
 * Begins a message of `len` bytes: a key, the 12-byte nonce of three words, and at FIRST_STREAM block 0, the one-time
 * key, and the keystream of the message's beginning: all of it up to SHORT_LEN, 192 bytes of a longer one.
 */
// @ts-ignore: decorator
@inline
export function chachaBegin(base: usize, key: usize, nonce0: u32, nonce1: u32, nonce2: u32, len: u32): void {
  if (len <= SHORT_LEN) {
    chachaShort(base, key, nonce0, nonce1, nonce2);
    return;
  }
  if (WIDE && len > CIPHER8_LEN) {
    setState8(base, key, nonce0, nonce1, nonce2);
    chachaGroups8(base + FIRST_STREAM, ZEROS, 1);
    return;
  }
  setState(base, key, nonce0, nonce1, nonce2);
  chachaGroups(base + FIRST_STREAM, ZEROS, 1);
}

/** dst = src ^ stream for `len` bytes, none read or written beyond them. */
// @ts-ignore: decorator
@inline
function mix(dst: usize, src: usize, stream: usize, len: u32): void {
  let i: usize = 0;
  if (WIDE)
    for (; i + 32 <= len; i += 32) {
      const a = v128.xor(v128.load(src + i), v128.load(stream + i));
      const b = v128.xor(v128.load(src + i, 16), v128.load(stream + i, 16));
      v128.store(dst + i, a);
      v128.store(dst + i, b, 16);
    }
  for (; i + 16 <= len; i += 16) v128.store(dst + i, v128.xor(v128.load(src + i), v128.load(stream + i)));
  if (i + 8 <= len) {
    store<u64>(dst + i, load<u64>(src + i) ^ load<u64>(stream + i));
    i += 8;
  }
  if (i + 4 <= len) {
    store<u32>(dst + i, load<u32>(src + i) ^ load<u32>(stream + i));
    i += 4;
  }
  for (; i < len; i++) store<u8>(dst + i, load<u8>(src + i) ^ load<u8>(stream + i));
}

/** dst = src ^ keystream for `len` bytes, whole groups. */
// @ts-ignore: decorator
@inline
function nextGroups(wide: bool, dst: usize, src: usize, len: u32): void {
  if (WIDE && wide) chachaGroups8(dst, src, len / GROUP8_LEN);
  else chachaGroups(dst, src, len / GROUP_LEN);
}

/**
 * Encrypts or decrypts a message from block 1 on. Call after chachaBegin with the same `len`.
 * @param dst  `len` bytes; the message itself, or bytes that do not overlap it
 */
// @ts-ignore: decorator
@inline
export function chachaMessage(base: usize, dst: usize, src: usize, len: u32): void {
  const wide = WIDE && len > CIPHER8_LEN;
  const group = wide ? GROUP8_LEN : GROUP_LEN;
  const first: u32 = min<u32>(len, group - 64);
  mix(dst, src, base + FIRST_STREAM + 64, first);
  dst += first;
  src += first;
  len -= first;
  const full = len & ~(group - 1);
  if (full) nextGroups(wide, dst, src, full);
  if (full != len) {
    nextGroups(wide, base + LAST_STREAM, ZEROS, group);
    mix(dst + full, src + full, base + LAST_STREAM, len - full);
  }
}

/**
 * HChaCha20: a 32-byte subkey of a key and the first 16 bytes of a nonce. One block in rows, each a v128.
 */
export function hchacha20(dst: usize, key: usize, nonce: usize): void {
  const mask16 = v128.load(MASK_16);
  const mask8 = v128.load(MASK_8);
  let a = v128.load(CONSTANTS);
  let b = v128.load(key);
  let c = v128.load(key, 16);
  let d = v128.load(nonce);
  // Twenty rounds: a column round, then the rows turned so that the diagonals stand in columns, or turned back.
  for (let i = 0; i < 20; i++) {
    a = i32x4.add(a, b);
    d = rotate16(v128.xor(d, a), mask16);
    c = i32x4.add(c, d);
    b = rotate12(v128.xor(b, c));
    a = i32x4.add(a, b);
    d = rotate8(v128.xor(d, a), mask8);
    c = i32x4.add(c, d);
    b = rotate7(v128.xor(b, c));
    c = turn2(c);
    if (i & 1) {
      b = turn3(b);
      d = turn1(d);
    } else {
      b = turn1(b);
      d = turn3(d);
    }
  }
  v128.store(dst, a);
  v128.store(dst, d, 16);
}
