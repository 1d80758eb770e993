// The crypto of the core for test/crypto/*.test.ts and bench/aead.ts, with loops for the bench: a BigInt argument a
// packet would cost the short ones more than their cipher.

export { bindThread } from "../../assembly/memory";
export * from "../../assembly/crypto/aead";
export { blake2s, blake2sFinal, blake2sInit, BLAKE2S_STATE_LEN, blake2sUpdate } from "../../assembly/crypto/blake2s";
export { hchacha20 } from "../../assembly/crypto/chacha20";
export { hmacBlake2s, kdf1, kdf2, kdf3 } from "../../assembly/crypto/hkdf";
export { packetMac } from "../../assembly/crypto/packetmac";
export { sealTimes } from "../../assembly/crypto/speed";
export { CRYPTO_END, cryptoWipe, cryptoWipeThread } from "../../assembly/crypto/scratch";
export { x25519, x25519Public } from "../../assembly/crypto/x25519";

import { packetOpen } from "../../assembly/crypto/aead";
import { blake2s } from "../../assembly/crypto/blake2s";
import { poly1305 } from "../../assembly/crypto/poly1305";
import { FIRST_STREAM } from "../../assembly/crypto/scratch";
import { threadBase } from "../../assembly/memory";
import { x25519 } from "../../assembly/crypto/x25519";

/** The block-at-a-time MAC under a given one-time key. */
export function macUnderKey(dst: usize, ad: usize, adLen: u32, src: usize, srcLen: u32, key: usize): void {
  memory.copy(threadBase + FIRST_STREAM, key, 32);
  poly1305(dst, ad, adLen, src, srcLen);
}

/** Opens one packet `count` times under counter 0. @returns how often it was authentic */
export function openTimes(dst: usize, src: usize, srcLen: u32, key: usize, count: u32): u32 {
  let opened: u32 = 0;
  for (let i: u32 = 0; i < count; i++) if (packetOpen(dst, src, srcLen, key, 0)) opened++;
  return opened;
}

/** Takes the result as the next point, `count` times. */
export function x25519Times(dst: usize, scalar: usize, count: u32): void {
  for (let i: u32 = 0; i < count; i++) x25519(dst, scalar, dst);
}

export function blake2sTimes(dst: usize, src: usize, srcLen: u32, count: u32): void {
  for (let i: u32 = 0; i < count; i++) blake2s(dst, 32, src, srcLen, 0, 0);
}
