// HMAC (RFC 2104) over BLAKE2s and the whitepaper's Kdf_n (§5.4, RFC 5869 with an empty info): the chaining of keys
// through a handshake. Every function wipes its scratch.

import { threadBase, wipe } from "../memory";
import { HASH_LEN } from "../protocol";
import { blake2s, blake2sFinal, blake2sInit, blake2sUpdate } from "./blake2s";
import { HASH_STATE, HMAC_INNER, HMAC_PAD, HMAC_PAD_LEN, KDF_EXTRACTED, KDF_INPUT, KDF_INPUT_LEN } from "./scratch";

// HMAC_PAD ^= a byte, everywhere.
// @ts-ignore: decorator
@inline
function flipPad(pad: usize, byte: i8): void {
  const bits = i8x16.splat(byte);
  v128.store(pad, v128.xor(v128.load(pad), bits));
  v128.store(pad, v128.xor(v128.load(pad, 16), bits), 16);
  v128.store(pad, v128.xor(v128.load(pad, 32), bits), 32);
  v128.store(pad, v128.xor(v128.load(pad, 48), bits), 48);
}

/**
 * HMAC-BLAKE2s.
 * @param dst  32 bytes; may be key or src
 * @param key  of any length; beyond 64 bytes its hash is taken
 */
export function hmacBlake2s(dst: usize, key: usize, keyLen: u32, src: usize, srcLen: u32): void {
  const base = threadBase;
  const pad = base + HMAC_PAD;
  const state = base + HASH_STATE;
  const inner = base + HMAC_INNER;
  memory.fill(pad, 0, HMAC_PAD_LEN);
  if (keyLen > <u32>HMAC_PAD_LEN) blake2s(pad, HASH_LEN, key, keyLen, 0, 0);
  else memory.copy(pad, key, keyLen);
  flipPad(pad, 0x36);
  blake2sInit(state, HASH_LEN, 0, 0);
  blake2sUpdate(state, pad, HMAC_PAD_LEN);
  blake2sUpdate(state, src, srcLen);
  blake2sFinal(state, inner);
  flipPad(pad, 0x36 ^ 0x5c);
  blake2sInit(state, HASH_LEN, 0, 0);
  blake2sUpdate(state, pad, HMAC_PAD_LEN);
  blake2sUpdate(state, inner, HASH_LEN);
  blake2sFinal(state, dst);
  wipe(pad, HMAC_PAD_LEN);
  wipe(inner, HASH_LEN);
}

// t0 = HMAC(chaining key, src)
function extract(base: usize, chainingKey: usize, src: usize, srcLen: u32): void {
  hmacBlake2s(base + KDF_EXTRACTED, chainingKey, HASH_LEN, src, srcLen);
}

// t[n] = HMAC(t0, t[n-1] || n); the last 32 bytes before the number in KDF_INPUT are t[n-1], none for the first.
function expand(base: usize, dst: usize, n: u8): void {
  const previous = base + KDF_INPUT;
  store<u8>(previous, n, HASH_LEN);
  const first = n == 1 ? HASH_LEN : 0;
  hmacBlake2s(previous, base + KDF_EXTRACTED, HASH_LEN, previous + first, HASH_LEN + 1 - first);
  memory.copy(dst, previous, HASH_LEN);
}

function wipeKdf(base: usize): void {
  wipe(base + KDF_EXTRACTED, HASH_LEN);
  wipe(base + KDF_INPUT, KDF_INPUT_LEN);
}

/**
 * Kdf_1. §5.4
 * @param dst          32 bytes; every dst may be the chaining key or src
 * @param chainingKey  32 bytes
 */
export function kdf1(dst: usize, chainingKey: usize, src: usize, srcLen: u32): void {
  const base = threadBase;
  extract(base, chainingKey, src, srcLen);
  expand(base, dst, 1);
  wipeKdf(base);
}

/** Kdf_2: two outputs of 32 bytes. */
export function kdf2(dst1: usize, dst2: usize, chainingKey: usize, src: usize, srcLen: u32): void {
  const base = threadBase;
  extract(base, chainingKey, src, srcLen);
  expand(base, dst1, 1);
  expand(base, dst2, 2);
  wipeKdf(base);
}

/** Kdf_3: three outputs of 32 bytes. */
export function kdf3(dst1: usize, dst2: usize, dst3: usize, chainingKey: usize, src: usize, srcLen: u32): void {
  const base = threadBase;
  extract(base, chainingKey, src, srcLen);
  expand(base, dst1, 1);
  expand(base, dst2, 2);
  expand(base, dst3, 3);
  wipeKdf(base);
}
