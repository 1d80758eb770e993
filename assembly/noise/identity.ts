// The device's static identity and the two constants every handshake starts from (whitepaper §5.4.2):
// Ci = HASH(construction), Hi = HASH(Ci || identifier). The identifier is a parameter of noiseInit so that the public
// Noise_IKpsk2 vectors, which have a prologue of their own, run through the same code.

import { blake2s, blake2sFinal, blake2sInit, blake2sUpdate } from "../crypto/blake2s";
import { x25519Public } from "../crypto/x25519";
import { DEVICE_BASE, DEVICE_PUBLIC_KEY } from "../abi";
import { HASH_LEN, KEY_LEN } from "../protocol";
import { copy32, isZeroConstantTime, threadBase, wipe } from "../memory";
import { SCRATCH_BLAKE2S } from "./scratch";

// offset  bytes  what                       who writes
//      0     32  private key, clamped       main, device locked
//     32     32  Ci                         main, once
//     64     32  Hi                         main, once
//     96     16  newest TAI64N stamp sent   main
//    112      4  1 = there is a key         main, device locked
export const IDENTITY: usize = DEVICE_BASE + 0x2000;
export const IDENTITY_PRIVATE_KEY: usize = IDENTITY;
export const IDENTITY_CHAINING_KEY: usize = IDENTITY_PRIVATE_KEY + KEY_LEN;
export const IDENTITY_HASH: usize = IDENTITY_CHAINING_KEY + HASH_LEN;
export const IDENTITY_TIMESTAMP: usize = IDENTITY_HASH + HASH_LEN;
export const IDENTITY_PRESENT: usize = IDENTITY_TIMESTAMP + 16;
export const IDENTITY_END: usize = IDENTITY_PRESENT + 16;

/** "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s" */
// prettier-ignore
const CONSTRUCTION: usize = memory.data<u8>([
  0x4e, 0x6f, 0x69, 0x73, 0x65, 0x5f, 0x49, 0x4b, 0x70, 0x73, 0x6b, 0x32, 0x5f, 0x32, 0x35, 0x35, 0x31, 0x39, 0x5f,
  0x43, 0x68, 0x61, 0x43, 0x68, 0x61, 0x50, 0x6f, 0x6c, 0x79, 0x5f, 0x42, 0x4c, 0x41, 0x4b, 0x45, 0x32, 0x73,
]);
const CONSTRUCTION_LEN: usize = 37;

/** "WireGuard v1 zx2c4 Jason@zx2c4.com" */
// prettier-ignore
const IDENTIFIER: usize = memory.data<u8>([
  0x57, 0x69, 0x72, 0x65, 0x47, 0x75, 0x61, 0x72, 0x64, 0x20, 0x76, 0x31, 0x20, 0x7a, 0x78, 0x32, 0x63, 0x34, 0x20,
  0x4a, 0x61, 0x73, 0x6f, 0x6e, 0x40, 0x7a, 0x78, 0x32, 0x63, 0x34, 0x2e, 0x63, 0x6f, 0x6d,
]);
const IDENTIFIER_LEN: usize = 34;

/** Computes Ci and Hi for a prologue of `len` bytes; identityInit gives WireGuard's own. */
export function noiseInit(prologue: usize, len: usize): void {
  const state = threadBase + SCRATCH_BLAKE2S;
  blake2s(IDENTITY_CHAINING_KEY, HASH_LEN, CONSTRUCTION, <u32>CONSTRUCTION_LEN, 0, 0);
  blake2sInit(state, HASH_LEN, 0, 0);
  blake2sUpdate(state, IDENTITY_CHAINING_KEY, HASH_LEN);
  blake2sUpdate(state, prologue, <u32>len);
  blake2sFinal(state, IDENTITY_HASH);
}

/** Call once, before anything else of noise/. */
export function identityInit(): void {
  noiseInit(IDENTIFIER, IDENTIFIER_LEN);
}

/** Whether the device has a private key. */
// @ts-ignore: decorator
@inline
export function hasIdentity(): bool {
  return load<u32>(IDENTITY_PRESENT) != 0;
}

/** Sets the private key (clamped here) and derives the public one; 32 zero bytes remove it. Device locked. */
export function setIdentity(privateKey: usize): void {
  if (isZeroConstantTime(privateKey, KEY_LEN)) {
    wipe(IDENTITY_PRIVATE_KEY, KEY_LEN);
    wipe(DEVICE_PUBLIC_KEY, KEY_LEN);
    store<u32>(IDENTITY_PRESENT, 0);
    return;
  }
  copy32(IDENTITY_PRIVATE_KEY, privateKey);
  clamp(IDENTITY_PRIVATE_KEY);
  x25519Public(DEVICE_PUBLIC_KEY, IDENTITY_PRIVATE_KEY);
  store<u32>(IDENTITY_PRESENT, 1);
}

/** RFC 7748 §5: makes any 32 bytes an X25519 scalar. */
export function clamp(key: usize): void {
  store<u8>(key, load<u8>(key) & 248);
  store<u8>(key, (load<u8>(key, 31) & 127) | 64, 31);
}
