// The noise scratch of a thread: locals of the handshake that do not fit wasm locals. Every function that uses it
// wipes what it wrote before it returns.

import { THREAD_NOISE } from "../abi";
import { HASH_LEN, KEY_LEN } from "../protocol";

// offset  bytes  what
export const SCRATCH_CHAINING_KEY: usize = THREAD_NOISE;
export const SCRATCH_HASH: usize = SCRATCH_CHAINING_KEY + HASH_LEN;
export const SCRATCH_KEY: usize = SCRATCH_HASH + HASH_LEN;
export const SCRATCH_DH: usize = SCRATCH_KEY + KEY_LEN;
export const SCRATCH_EPHEMERAL: usize = SCRATCH_DH + KEY_LEN; // remote ephemeral, or our new private one
export const SCRATCH_STATIC: usize = SCRATCH_EPHEMERAL + KEY_LEN; // decrypted static key of an initiator
export const SCRATCH_PAYLOAD: usize = SCRATCH_STATIC + KEY_LEN; // decrypted timestamp (tests: up to 64 bytes)
export const SCRATCH_PSK: usize = SCRATCH_PAYLOAD + 64;
export const SCRATCH_MAC: usize = SCRATCH_PSK + KEY_LEN;
export const SCRATCH_COOKIE: usize = SCRATCH_MAC + 32;
export const SCRATCH_BLAKE2S: usize = SCRATCH_COOKIE + 32; // an incremental BLAKE2s state
export const SCRATCH_END: usize = SCRATCH_BLAKE2S + 256;
export const SCRATCH_LEN: usize = SCRATCH_END - SCRATCH_CHAINING_KEY;
