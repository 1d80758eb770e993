// ChaCha20 (RFC 8439 §2.4) of the wide build: eight blocks at once, in pairs of operations alike (width.ts).
//
// Word n of blocks 0 to 3 is x[n], of blocks 4 to 7 y[n], and they lie side by side wherever they are stored, because
// pairing starts from stores. Turned back into rows of four words, they go through the scratch: the row of a block and
// that of the block four on stand side by side there, as they never do in a message. All rotations are shifts: a byte
// shuffle is not paired. Rejected after measuring: turning the words in a function of its own, and other orders of the
// quarter rounds (all within 2 %).

import { threadBase } from "../memory";
import { highHalves, highWords, lowHalves, lowWords, rotate7, rotate12 } from "./lanes";
import { WIDE_ROWS, WIDE_STATE } from "./scratch";

/** The state at WIDE_STATE. */
@unmanaged
class State8 {
  // prettier-ignore
  x0: v128; y0: v128; x1: v128; y1: v128; x2: v128; y2: v128; x3: v128; y3: v128;
  x4: v128; y4: v128; x5: v128; y5: v128; x6: v128; y6: v128; x7: v128; y7: v128;
  x8: v128; y8: v128; x9: v128; y9: v128; x10: v128; y10: v128; x11: v128; y11: v128;
  x12: v128; y12: v128; x13: v128; y13: v128; x14: v128; y14: v128; x15: v128; y15: v128;
}

// @ts-ignore: decorator
@inline
function rotate16(x: v128): v128 {
  return v128.or(i32x4.shl(x, 16), i32x4.shr_u(x, 16));
}

// @ts-ignore: decorator
@inline
function rotate8(x: v128): v128 {
  return v128.or(i32x4.shl(x, 8), i32x4.shr_u(x, 24));
}

/** Sets the state to a key, the 12-byte nonce of three words and block 0. */
// @ts-ignore: decorator
@inline
export function setState8(base: usize, key: usize, nonce0: u32, nonce1: u32, nonce2: u32): void {
  const s = changetype<State8>(base + WIDE_STATE);
  // "expand 32-byte k"
  s.x0 = s.y0 = i32x4.splat(0x61707865);
  s.x1 = s.y1 = i32x4.splat(0x3320646e);
  s.x2 = s.y2 = i32x4.splat(0x79622d32);
  s.x3 = s.y3 = i32x4.splat(0x6b206574);
  s.x4 = s.y4 = v128.load32_splat(key);
  s.x5 = s.y5 = v128.load32_splat(key, 4);
  s.x6 = s.y6 = v128.load32_splat(key, 8);
  s.x7 = s.y7 = v128.load32_splat(key, 12);
  s.x8 = s.y8 = v128.load32_splat(key, 16);
  s.x9 = s.y9 = v128.load32_splat(key, 20);
  s.x10 = s.y10 = v128.load32_splat(key, 24);
  s.x11 = s.y11 = v128.load32_splat(key, 28);
  s.x12 = i32x4(0, 1, 2, 3);
  s.y12 = i32x4(4, 5, 6, 7);
  s.x13 = s.y13 = i32x4.splat(nonce0);
  s.x14 = s.y14 = i32x4.splat(nonce1);
  s.x15 = s.y15 = i32x4.splat(nonce2);
}

/** The next eight blocks of keystream to WIDE_ROWS: row r of block b at 128 r + 32 (b mod 4) + 16 (b div 4). */
function streamRows(base: usize): void {
  const s = changetype<State8>(base + WIDE_STATE);
  // prettier-ignore
  let x0 = s.x0; let y0 = s.y0; let x1 = s.x1; let y1 = s.y1; let x2 = s.x2; let y2 = s.y2;
  let x3 = s.x3; let y3 = s.y3; let x4 = s.x4; let y4 = s.y4; let x5 = s.x5; let y5 = s.y5;
  let x6 = s.x6; let y6 = s.y6; let x7 = s.x7; let y7 = s.y7; let x8 = s.x8; let y8 = s.y8;
  let x9 = s.x9; let y9 = s.y9; let x10 = s.x10; let y10 = s.y10; let x11 = s.x11; let y11 = s.y11;
  let x12 = s.x12; let y12 = s.y12; let x13 = s.x13; let y13 = s.y13; let x14 = s.x14; let y14 = s.y14;
  let x15 = s.x15; let y15 = s.y15;
  // prettier-ignore
  for (let i = 0; i < 10; i++) {
    // columns 0 and 1
    x0 = i32x4.add(x0, x4); x12 = rotate16(v128.xor(x12, x0));
    y0 = i32x4.add(y0, y4); y12 = rotate16(v128.xor(y12, y0));
    x1 = i32x4.add(x1, x5); x13 = rotate16(v128.xor(x13, x1));
    y1 = i32x4.add(y1, y5); y13 = rotate16(v128.xor(y13, y1));
    x8 = i32x4.add(x8, x12); x4 = rotate12(v128.xor(x4, x8));
    y8 = i32x4.add(y8, y12); y4 = rotate12(v128.xor(y4, y8));
    x9 = i32x4.add(x9, x13); x5 = rotate12(v128.xor(x5, x9));
    y9 = i32x4.add(y9, y13); y5 = rotate12(v128.xor(y5, y9));
    x0 = i32x4.add(x0, x4); x12 = rotate8(v128.xor(x12, x0));
    y0 = i32x4.add(y0, y4); y12 = rotate8(v128.xor(y12, y0));
    x1 = i32x4.add(x1, x5); x13 = rotate8(v128.xor(x13, x1));
    y1 = i32x4.add(y1, y5); y13 = rotate8(v128.xor(y13, y1));
    x8 = i32x4.add(x8, x12); x4 = rotate7(v128.xor(x4, x8));
    y8 = i32x4.add(y8, y12); y4 = rotate7(v128.xor(y4, y8));
    x9 = i32x4.add(x9, x13); x5 = rotate7(v128.xor(x5, x9));
    y9 = i32x4.add(y9, y13); y5 = rotate7(v128.xor(y5, y9));
    // columns 2 and 3
    x2 = i32x4.add(x2, x6); x14 = rotate16(v128.xor(x14, x2));
    y2 = i32x4.add(y2, y6); y14 = rotate16(v128.xor(y14, y2));
    x3 = i32x4.add(x3, x7); x15 = rotate16(v128.xor(x15, x3));
    y3 = i32x4.add(y3, y7); y15 = rotate16(v128.xor(y15, y3));
    x10 = i32x4.add(x10, x14); x6 = rotate12(v128.xor(x6, x10));
    y10 = i32x4.add(y10, y14); y6 = rotate12(v128.xor(y6, y10));
    x11 = i32x4.add(x11, x15); x7 = rotate12(v128.xor(x7, x11));
    y11 = i32x4.add(y11, y15); y7 = rotate12(v128.xor(y7, y11));
    x2 = i32x4.add(x2, x6); x14 = rotate8(v128.xor(x14, x2));
    y2 = i32x4.add(y2, y6); y14 = rotate8(v128.xor(y14, y2));
    x3 = i32x4.add(x3, x7); x15 = rotate8(v128.xor(x15, x3));
    y3 = i32x4.add(y3, y7); y15 = rotate8(v128.xor(y15, y3));
    x10 = i32x4.add(x10, x14); x6 = rotate7(v128.xor(x6, x10));
    y10 = i32x4.add(y10, y14); y6 = rotate7(v128.xor(y6, y10));
    x11 = i32x4.add(x11, x15); x7 = rotate7(v128.xor(x7, x11));
    y11 = i32x4.add(y11, y15); y7 = rotate7(v128.xor(y7, y11));
    // diagonals 0 and 1
    x0 = i32x4.add(x0, x5); x15 = rotate16(v128.xor(x15, x0));
    y0 = i32x4.add(y0, y5); y15 = rotate16(v128.xor(y15, y0));
    x1 = i32x4.add(x1, x6); x12 = rotate16(v128.xor(x12, x1));
    y1 = i32x4.add(y1, y6); y12 = rotate16(v128.xor(y12, y1));
    x10 = i32x4.add(x10, x15); x5 = rotate12(v128.xor(x5, x10));
    y10 = i32x4.add(y10, y15); y5 = rotate12(v128.xor(y5, y10));
    x11 = i32x4.add(x11, x12); x6 = rotate12(v128.xor(x6, x11));
    y11 = i32x4.add(y11, y12); y6 = rotate12(v128.xor(y6, y11));
    x0 = i32x4.add(x0, x5); x15 = rotate8(v128.xor(x15, x0));
    y0 = i32x4.add(y0, y5); y15 = rotate8(v128.xor(y15, y0));
    x1 = i32x4.add(x1, x6); x12 = rotate8(v128.xor(x12, x1));
    y1 = i32x4.add(y1, y6); y12 = rotate8(v128.xor(y12, y1));
    x10 = i32x4.add(x10, x15); x5 = rotate7(v128.xor(x5, x10));
    y10 = i32x4.add(y10, y15); y5 = rotate7(v128.xor(y5, y10));
    x11 = i32x4.add(x11, x12); x6 = rotate7(v128.xor(x6, x11));
    y11 = i32x4.add(y11, y12); y6 = rotate7(v128.xor(y6, y11));
    // diagonals 2 and 3
    x2 = i32x4.add(x2, x7); x13 = rotate16(v128.xor(x13, x2));
    y2 = i32x4.add(y2, y7); y13 = rotate16(v128.xor(y13, y2));
    x3 = i32x4.add(x3, x4); x14 = rotate16(v128.xor(x14, x3));
    y3 = i32x4.add(y3, y4); y14 = rotate16(v128.xor(y14, y3));
    x8 = i32x4.add(x8, x13); x7 = rotate12(v128.xor(x7, x8));
    y8 = i32x4.add(y8, y13); y7 = rotate12(v128.xor(y7, y8));
    x9 = i32x4.add(x9, x14); x4 = rotate12(v128.xor(x4, x9));
    y9 = i32x4.add(y9, y14); y4 = rotate12(v128.xor(y4, y9));
    x2 = i32x4.add(x2, x7); x13 = rotate8(v128.xor(x13, x2));
    y2 = i32x4.add(y2, y7); y13 = rotate8(v128.xor(y13, y2));
    x3 = i32x4.add(x3, x4); x14 = rotate8(v128.xor(x14, x3));
    y3 = i32x4.add(y3, y4); y14 = rotate8(v128.xor(y14, y3));
    x8 = i32x4.add(x8, x13); x7 = rotate7(v128.xor(x7, x8));
    y8 = i32x4.add(y8, y13); y7 = rotate7(v128.xor(y7, y8));
    x9 = i32x4.add(x9, x14); x4 = rotate7(v128.xor(x4, x9));
    y9 = i32x4.add(y9, y14); y4 = rotate7(v128.xor(y4, y9));
  }
  // prettier-ignore
  x0 = i32x4.add(x0, s.x0); y0 = i32x4.add(y0, s.y0); x1 = i32x4.add(x1, s.x1); y1 = i32x4.add(y1, s.y1);
  x2 = i32x4.add(x2, s.x2); y2 = i32x4.add(y2, s.y2); x3 = i32x4.add(x3, s.x3); y3 = i32x4.add(y3, s.y3);
  x4 = i32x4.add(x4, s.x4); y4 = i32x4.add(y4, s.y4); x5 = i32x4.add(x5, s.x5); y5 = i32x4.add(y5, s.y5);
  x6 = i32x4.add(x6, s.x6); y6 = i32x4.add(y6, s.y6); x7 = i32x4.add(x7, s.x7); y7 = i32x4.add(y7, s.y7);
  x8 = i32x4.add(x8, s.x8); y8 = i32x4.add(y8, s.y8); x9 = i32x4.add(x9, s.x9); y9 = i32x4.add(y9, s.y9);
  x10 = i32x4.add(x10, s.x10); y10 = i32x4.add(y10, s.y10); x11 = i32x4.add(x11, s.x11); y11 = i32x4.add(y11, s.y11);
  x12 = i32x4.add(x12, s.x12); y12 = i32x4.add(y12, s.y12); x13 = i32x4.add(x13, s.x13); y13 = i32x4.add(y13, s.y13);
  x14 = i32x4.add(x14, s.x14); y14 = i32x4.add(y14, s.y14); x15 = i32x4.add(x15, s.x15); y15 = i32x4.add(y15, s.y15);
  let xlo: v128, xlo2: v128, xhi: v128, xhi2: v128;
  let ylo: v128, ylo2: v128, yhi: v128, yhi2: v128;
  xlo = lowWords(x0, x1), xlo2 = lowWords(x2, x3), xhi = highWords(x0, x1), xhi2 = highWords(x2, x3);
  ylo = lowWords(y0, y1), ylo2 = lowWords(y2, y3), yhi = highWords(y0, y1), yhi2 = highWords(y2, y3);
  v128.store(base, lowHalves(xlo, xlo2), WIDE_ROWS);
  v128.store(base, lowHalves(ylo, ylo2), WIDE_ROWS + 16);
  v128.store(base, highHalves(xlo, xlo2), WIDE_ROWS + 32);
  v128.store(base, highHalves(ylo, ylo2), WIDE_ROWS + 48);
  v128.store(base, lowHalves(xhi, xhi2), WIDE_ROWS + 64);
  v128.store(base, lowHalves(yhi, yhi2), WIDE_ROWS + 80);
  v128.store(base, highHalves(xhi, xhi2), WIDE_ROWS + 96);
  v128.store(base, highHalves(yhi, yhi2), WIDE_ROWS + 112);
  xlo = lowWords(x4, x5), xlo2 = lowWords(x6, x7), xhi = highWords(x4, x5), xhi2 = highWords(x6, x7);
  ylo = lowWords(y4, y5), ylo2 = lowWords(y6, y7), yhi = highWords(y4, y5), yhi2 = highWords(y6, y7);
  v128.store(base, lowHalves(xlo, xlo2), WIDE_ROWS + 128);
  v128.store(base, lowHalves(ylo, ylo2), WIDE_ROWS + 144);
  v128.store(base, highHalves(xlo, xlo2), WIDE_ROWS + 160);
  v128.store(base, highHalves(ylo, ylo2), WIDE_ROWS + 176);
  v128.store(base, lowHalves(xhi, xhi2), WIDE_ROWS + 192);
  v128.store(base, lowHalves(yhi, yhi2), WIDE_ROWS + 208);
  v128.store(base, highHalves(xhi, xhi2), WIDE_ROWS + 224);
  v128.store(base, highHalves(yhi, yhi2), WIDE_ROWS + 240);
  xlo = lowWords(x8, x9), xlo2 = lowWords(x10, x11), xhi = highWords(x8, x9), xhi2 = highWords(x10, x11);
  ylo = lowWords(y8, y9), ylo2 = lowWords(y10, y11), yhi = highWords(y8, y9), yhi2 = highWords(y10, y11);
  v128.store(base, lowHalves(xlo, xlo2), WIDE_ROWS + 256);
  v128.store(base, lowHalves(ylo, ylo2), WIDE_ROWS + 272);
  v128.store(base, highHalves(xlo, xlo2), WIDE_ROWS + 288);
  v128.store(base, highHalves(ylo, ylo2), WIDE_ROWS + 304);
  v128.store(base, lowHalves(xhi, xhi2), WIDE_ROWS + 320);
  v128.store(base, lowHalves(yhi, yhi2), WIDE_ROWS + 336);
  v128.store(base, highHalves(xhi, xhi2), WIDE_ROWS + 352);
  v128.store(base, highHalves(yhi, yhi2), WIDE_ROWS + 368);
  xlo = lowWords(x12, x13), xlo2 = lowWords(x14, x15), xhi = highWords(x12, x13), xhi2 = highWords(x14, x15);
  ylo = lowWords(y12, y13), ylo2 = lowWords(y14, y15), yhi = highWords(y12, y13), yhi2 = highWords(y14, y15);
  v128.store(base, lowHalves(xlo, xlo2), WIDE_ROWS + 384);
  v128.store(base, lowHalves(ylo, ylo2), WIDE_ROWS + 400);
  v128.store(base, highHalves(xlo, xlo2), WIDE_ROWS + 416);
  v128.store(base, highHalves(ylo, ylo2), WIDE_ROWS + 432);
  v128.store(base, lowHalves(xhi, xhi2), WIDE_ROWS + 448);
  v128.store(base, lowHalves(yhi, yhi2), WIDE_ROWS + 464);
  v128.store(base, highHalves(xhi, xhi2), WIDE_ROWS + 480);
  v128.store(base, highHalves(yhi, yhi2), WIDE_ROWS + 496);
  s.x12 = i32x4.add(s.x12, i32x4.splat(8));
  s.y12 = i32x4.add(s.y12, i32x4.splat(8));
}

/** The next `count` groups of eight blocks: dst = src ^ keystream, 512 bytes each; dst may be src. */
export function chachaGroups8(dst: usize, src: usize, count: u32): void {
  const base = threadBase;
  for (; count > 0; count--) {
    streamRows(base);
    v128.store(dst, v128.xor(v128.load(src), v128.load(base, WIDE_ROWS)));
    v128.store(dst, v128.xor(v128.load(src, 16), v128.load(base, WIDE_ROWS + 128)), 16);
    v128.store(dst, v128.xor(v128.load(src, 32), v128.load(base, WIDE_ROWS + 256)), 32);
    v128.store(dst, v128.xor(v128.load(src, 48), v128.load(base, WIDE_ROWS + 384)), 48);
    v128.store(dst, v128.xor(v128.load(src, 64), v128.load(base, WIDE_ROWS + 32)), 64);
    v128.store(dst, v128.xor(v128.load(src, 80), v128.load(base, WIDE_ROWS + 160)), 80);
    v128.store(dst, v128.xor(v128.load(src, 96), v128.load(base, WIDE_ROWS + 288)), 96);
    v128.store(dst, v128.xor(v128.load(src, 112), v128.load(base, WIDE_ROWS + 416)), 112);
    v128.store(dst, v128.xor(v128.load(src, 128), v128.load(base, WIDE_ROWS + 64)), 128);
    v128.store(dst, v128.xor(v128.load(src, 144), v128.load(base, WIDE_ROWS + 192)), 144);
    v128.store(dst, v128.xor(v128.load(src, 160), v128.load(base, WIDE_ROWS + 320)), 160);
    v128.store(dst, v128.xor(v128.load(src, 176), v128.load(base, WIDE_ROWS + 448)), 176);
    v128.store(dst, v128.xor(v128.load(src, 192), v128.load(base, WIDE_ROWS + 96)), 192);
    v128.store(dst, v128.xor(v128.load(src, 208), v128.load(base, WIDE_ROWS + 224)), 208);
    v128.store(dst, v128.xor(v128.load(src, 224), v128.load(base, WIDE_ROWS + 352)), 224);
    v128.store(dst, v128.xor(v128.load(src, 240), v128.load(base, WIDE_ROWS + 480)), 240);
    v128.store(dst, v128.xor(v128.load(src, 256), v128.load(base, WIDE_ROWS + 16)), 256);
    v128.store(dst, v128.xor(v128.load(src, 272), v128.load(base, WIDE_ROWS + 144)), 272);
    v128.store(dst, v128.xor(v128.load(src, 288), v128.load(base, WIDE_ROWS + 272)), 288);
    v128.store(dst, v128.xor(v128.load(src, 304), v128.load(base, WIDE_ROWS + 400)), 304);
    v128.store(dst, v128.xor(v128.load(src, 320), v128.load(base, WIDE_ROWS + 48)), 320);
    v128.store(dst, v128.xor(v128.load(src, 336), v128.load(base, WIDE_ROWS + 176)), 336);
    v128.store(dst, v128.xor(v128.load(src, 352), v128.load(base, WIDE_ROWS + 304)), 352);
    v128.store(dst, v128.xor(v128.load(src, 368), v128.load(base, WIDE_ROWS + 432)), 368);
    v128.store(dst, v128.xor(v128.load(src, 384), v128.load(base, WIDE_ROWS + 80)), 384);
    v128.store(dst, v128.xor(v128.load(src, 400), v128.load(base, WIDE_ROWS + 208)), 400);
    v128.store(dst, v128.xor(v128.load(src, 416), v128.load(base, WIDE_ROWS + 336)), 416);
    v128.store(dst, v128.xor(v128.load(src, 432), v128.load(base, WIDE_ROWS + 464)), 432);
    v128.store(dst, v128.xor(v128.load(src, 448), v128.load(base, WIDE_ROWS + 112)), 448);
    v128.store(dst, v128.xor(v128.load(src, 464), v128.load(base, WIDE_ROWS + 240)), 464);
    v128.store(dst, v128.xor(v128.load(src, 480), v128.load(base, WIDE_ROWS + 368)), 480);
    v128.store(dst, v128.xor(v128.load(src, 496), v128.load(base, WIDE_ROWS + 496)), 496);
    src += 512;
    dst += 512;
  }
}
