// The crypto scratch of a thread: THREAD_CRYPTO_SIZE bytes at threadBase + THREAD_CRYPTO. Every address below is an
// offset from threadBase: a function loads threadBase once and reaches its areas by immediate offsets.
//
// Every area may hold secrets. Handshake functions wipe theirs before they return; packetSeal and packetOpen
// leave the session key's ChaCha20 state and the one-time key of the last packet, because wiping them costs a small
// packet more than it is worth: cryptoWipe() ends them together with the session. Scratch at constant addresses was
// rejected: static memory is shared by all threads.

import { THREAD_CRYPTO, THREAD_CRYPTO_SIZE, THREAD_SIZE, THREADS_BASE } from "../abi";
import { threadNumber, wipe } from "../memory";
import { WIDE } from "./width";

/** The ChaCha20 state, each word four times: 16 x v128, word 12 counts four blocks. Holds the key. */
export const CHACHA_STATE: usize = THREAD_CRYPTO;
export const CHACHA_STATE_LEN = 256;

/** The packet's first four blocks of keystream (wide: eight): one-time key r || s, 32 unused bytes, the stream. */
export const FIRST_STREAM: usize = CHACHA_STATE + CHACHA_STATE_LEN;
export const STREAM_LEN: i32 = WIDE ? 512 : 256;

/** Keystream of a last group that is not full. */
export const LAST_STREAM: usize = FIRST_STREAM + STREAM_LEN;

/** Subkey and nonce of XChaCha20: 32 + 12 bytes. */
export const SUBKEY: usize = LAST_STREAM + STREAM_LEN;
export const SUBKEY_LEN = 64;

/** Powers of r in limbs of 26 bits (poly1305.ts): 5 rows of four lanes, r^4 r^3 r^2 r; wide: of eight, from r^8 on. */
export const POLY_POWERS: usize = SUBKEY + SUBKEY_LEN;
export const POLY_ROW: i32 = WIDE ? 32 : 16;
export const POLY_POWERS_LEN: i32 = POLY_ROW * 5;

/** Accumulator of the one-block Poly1305: limbs of 26 bits, POLY_ROW bytes apart. */
export const POLY_HASH: usize = POLY_POWERS + POLY_POWERS_LEN;
export const POLY_HASH_LEN: i32 = POLY_ROW * 5;

/** A block padded with zeros. */
export const POLY_BLOCK: usize = POLY_HASH + POLY_HASH_LEN;
export const POLY_BLOCK_LEN = 16;

/** A computed tag, before it is compared. */
export const POLY_TAG: usize = POLY_BLOCK + POLY_BLOCK_LEN;
export const POLY_TAG_LEN = 16;

/** The last four blocks (wide: eight) of a packet's MAC: padding and lengths in place. */
export const POLY_GROUP: usize = POLY_TAG + POLY_TAG_LEN;
export const POLY_GROUP_LEN: i32 = WIDE ? 128 : 64;

/** 18 pairs of limbs of r^4, each four times, and the same of r^4 r^3 r^2 r by lane (poly1305x4.ts). */
export const POLY_PAIRS: usize = POLY_GROUP + POLY_GROUP_LEN;
export const POLY_PAIRS_LEN = 18 * 16;
export const POLY_LANE_PAIRS: usize = POLY_PAIRS + POLY_PAIRS_LEN;

/** The wide build's ChaCha20 state, and eight blocks of keystream before they are put in order (chacha20x8.ts). */
export const WIDE_STATE: usize = POLY_LANE_PAIRS + POLY_PAIRS_LEN;
export const WIDE_STATE_LEN: i32 = WIDE ? 512 : 0;
export const WIDE_ROWS: usize = WIDE_STATE + WIDE_STATE_LEN;
export const WIDE_ROWS_LEN: i32 = WIDE ? 512 : 0;

/** 18 pairs of limbs of r^8, each eight times, and the same of r^8 r^7 ... r by lane (poly1305x8.ts). */
export const WIDE_PAIRS: usize = WIDE_ROWS + WIDE_ROWS_LEN;
export const WIDE_PAIRS_LEN: i32 = WIDE ? 18 * 32 : 0;
export const WIDE_LANE_PAIRS: usize = WIDE_PAIRS + WIDE_PAIRS_LEN;

/** Its accumulator: five pairs of limbs, each eight times. */
export const WIDE_HASH: usize = WIDE_LANE_PAIRS + WIDE_PAIRS_LEN;
export const WIDE_HASH_LEN: i32 = WIDE ? 5 * 32 : 0;

/** The sums of the lanes of its MAC: ten limbs, each eight times. */
export const WIDE_SUMS: usize = WIDE_HASH + WIDE_HASH_LEN;
export const WIDE_SUMS_LEN: i32 = WIDE ? 10 * 32 : 0;

/** The end of what a sealed or opened message touches. */
export const AEAD_END: usize = WIDE_SUMS + WIDE_SUMS_LEN;

/** State of the one-shot BLAKE2s, and of HMAC (the two are never under way at once). */
export const HASH_STATE: usize = AEAD_END;
export const HASH_STATE_LEN = 128;

/** HMAC: the padded key block, then the inner hash. */
export const HMAC_PAD: usize = HASH_STATE + HASH_STATE_LEN;
export const HMAC_PAD_LEN = 64;
export const HMAC_INNER: usize = HMAC_PAD + HMAC_PAD_LEN;

/** Kdf: the extracted key, then T(i-1) || i. */
export const KDF_EXTRACTED: usize = HMAC_INNER + 32;
export const KDF_INPUT: usize = KDF_EXTRACTED + 32;
export const KDF_INPUT_LEN = 48;
export const HASH_END: usize = KDF_INPUT + KDF_INPUT_LEN;

/** X25519: the clamped scalar, then field elements of FIELD_LEN bytes (x25519.ts). */
export const X25519_SCALAR: usize = HASH_END;
export const FIELD_LEN = 48;
export const X25519_FIELDS: usize = X25519_SCALAR + 32;
export const X25519_FIELD_COUNT = 12;
export const X25519_END: usize = X25519_FIELDS + FIELD_LEN * X25519_FIELD_COUNT;

export const CRYPTO_END: usize = X25519_END;

/**
 * Zeroes the crypto scratch of a thread. Call when session keys are zeroed, for each thread that used them, while none
 * of them is inside a run.
 */
export function cryptoWipeThread(thread: u32): void {
  if (CRYPTO_END > <usize>(THREAD_CRYPTO + THREAD_CRYPTO_SIZE)) ERROR("crypto scratch passes THREAD_CRYPTO_SIZE");
  wipe(THREADS_BASE + THREAD_SIZE * thread + THREAD_CRYPTO, THREAD_CRYPTO_SIZE);
}

/** The same for the calling thread. */
export function cryptoWipe(): void {
  cryptoWipeThread(threadNumber());
}
