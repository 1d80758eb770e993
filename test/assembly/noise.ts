// The handshake of the core for test/noise/vectors.test.ts: its own functions, with the handshake at an address of the
// test's, plus the addresses of what they leave behind.

export { bindThread } from "../../assembly/memory";
export { aeadOpen, aeadSeal } from "../../assembly/crypto/aead";
export { x25519Public } from "../../assembly/crypto/x25519";
export * from "../../assembly/noise/cookie";
export * from "../../assembly/noise/handshake";
export * from "../../assembly/noise/identity";
export { SCRATCH_LEN, SCRATCH_PAYLOAD, SCRATCH_STATIC } from "../../assembly/noise/scratch";
export { tai64nAfter, tai64nNow } from "../../assembly/noise/tai64n";

import { Handshake } from "../../assembly/noise/handshake";

/** Bytes of a handshake. */
export function handshakeLen(): u32 {
  return <u32>offsetof<Handshake>();
}

/** Address of the handshake hash. */
export function handshakeHash(handshake: Handshake): usize {
  return handshake.hash;
}

/** Address of the chaining key. */
export function handshakeChainingKey(handshake: Handshake): usize {
  return handshake.chainingKey;
}
