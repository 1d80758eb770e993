// The Noise_IKpsk2 handshake (whitepaper §5.4.2 to §5.4.5), one labelled step a token, as in the kernel's noise.c.
//
// Every message is worked out in the thread's scratch and committed to the handshake in one place, after the last check:
// a refused message changes nothing. The functions know nothing of peers, indices or time beyond their arguments: the
// tunnel finds the peer between the two halves of consuming an initiation, and draws indices and random bytes.
//
// Payload lengths are arguments (12 for WireGuard's timestamp, 0 for its response), so that the public Noise vectors
// run through this very code.

import { aeadOpen, aeadSeal } from "../crypto/aead";
import { blake2sFinal, blake2sInit, blake2sUpdate } from "../crypto/blake2s";
import { kdf1, kdf2, kdf3 } from "../crypto/hkdf";
import { x25519, x25519Public } from "../crypto/x25519";
import { DEVICE_PUBLIC_KEY, DROP_BAD_HANDSHAKE, DROP_NONE } from "../abi";
import { AUTHTAG_LEN, HASH_LEN, KEY_LEN } from "../protocol";
import { copy32, isZeroConstantTime, threadBase, wipe } from "../memory";
import { clamp, IDENTITY_CHAINING_KEY, IDENTITY_HASH, IDENTITY_PRIVATE_KEY } from "./identity";
import {
  SCRATCH_BLAKE2S,
  SCRATCH_CHAINING_KEY,
  SCRATCH_DH,
  SCRATCH_EPHEMERAL,
  SCRATCH_HASH,
  SCRATCH_KEY,
  SCRATCH_LEN,
  SCRATCH_PAYLOAD,
  SCRATCH_PSK,
  SCRATCH_STATIC,
} from "./scratch";

export const HANDSHAKE_ZEROED: u32 = 0;
export const HANDSHAKE_CREATED_INITIATION: u32 = 1;
export const HANDSHAKE_CONSUMED_INITIATION: u32 = 2;
export const HANDSHAKE_CREATED_RESPONSE: u32 = 3;
export const HANDSHAKE_CONSUMED_RESPONSE: u32 = 4;

/** A peer's handshake; the main thread alone reads and writes it. */
@unmanaged
export class Handshake {
  state: u32; //                    0
  hasIndex: u32; //                 4  localIndex is in the index table
  localIndex: u32; //               8
  remoteIndex: u32; //             12
  initiationConsumed: u64; //      16  ns, when the last initiation was accepted; 0 = never
  reserved: u64; //                24
  private ephemeralLo: v128; //    32  our private ephemeral key
  private ephemeralHi: v128; //    48
  private remoteLo: v128; //       64  remote ephemeral key
  private remoteHi: v128; //       80
  private hashLo: v128; //         96
  private hashHi: v128; //        112
  private chainingLo: v128; //    128
  private chainingHi: v128; //    144
  private staticLo: v128; //      160  DH(our static, their static), all zero when the key is of low order
  private staticHi: v128; //      176
  private timestampBytes: v128; // 192  newest TAI64N stamp accepted, 12 bytes

  // @ts-ignore: decorator
  @inline get ephemeral(): usize { return changetype<usize>(this) + offsetof<Handshake>("ephemeralLo"); }
  // @ts-ignore: decorator
  @inline get remoteEphemeral(): usize { return changetype<usize>(this) + offsetof<Handshake>("remoteLo"); }
  // @ts-ignore: decorator
  @inline get hash(): usize { return changetype<usize>(this) + offsetof<Handshake>("hashLo"); }
  // @ts-ignore: decorator
  @inline get chainingKey(): usize { return changetype<usize>(this) + offsetof<Handshake>("chainingLo"); }
  // @ts-ignore: decorator
  @inline get staticStatic(): usize { return changetype<usize>(this) + offsetof<Handshake>("staticLo"); }
  // @ts-ignore: decorator
  @inline get timestamp(): usize { return changetype<usize>(this) + offsetof<Handshake>("timestampBytes"); }
}

/** HASH(hash || src). */
function mixHash(hash: usize, src: usize, srcLen: u32): void {
  const state = threadBase + SCRATCH_BLAKE2S;
  blake2sInit(state, HASH_LEN, 0, 0);
  blake2sUpdate(state, hash, HASH_LEN);
  blake2sUpdate(state, src, srcLen);
  blake2sFinal(state, hash);
}

/** (C, k) = Kdf2(C, DH); false when the shared secret is all zero. */
function mixDh(chainingKey: usize, key: usize, privateKey: usize, publicKey: usize): bool {
  const dh = threadBase + SCRATCH_DH;
  const valid = x25519(dh, privateKey, publicKey);
  kdf2(chainingKey, key, chainingKey, dh, KEY_LEN);
  wipe(dh, KEY_LEN);
  return valid;
}

/** The same with DH(static, static), worked out when the peer was added. */
function mixPrecomputedDh(chainingKey: usize, key: usize, staticStatic: usize): bool {
  const valid = !isZeroConstantTime(staticStatic, KEY_LEN);
  kdf2(chainingKey, key, chainingKey, staticStatic, KEY_LEN);
  return valid;
}

/** (C, t, k) = Kdf3(C, Q); H = HASH(H || t). */
function mixPsk(chainingKey: usize, hash: usize, key: usize, presharedKey: usize): void {
  const temporary = threadBase + SCRATCH_PSK;
  kdf3(chainingKey, temporary, key, chainingKey, presharedKey, KEY_LEN);
  mixHash(hash, temporary, HASH_LEN);
  wipe(temporary, KEY_LEN);
}

function encryptAndHash(dst: usize, src: usize, srcLen: u32, key: usize, hash: usize): void {
  aeadSeal(dst, src, srcLen, hash, HASH_LEN, key, 0);
  mixHash(hash, dst, srcLen + AUTHTAG_LEN);
}

function decryptAndHash(dst: usize, src: usize, srcLen: u32, key: usize, hash: usize): bool {
  if (!aeadOpen(dst, src, srcLen, hash, HASH_LEN, key, 0)) return false;
  mixHash(hash, src, srcLen);
  return true;
}

/** H = HASH(H || E), C = Kdf1(C, E). */
function mixEphemeral(chainingKey: usize, hash: usize, ephemeral: usize): void {
  mixHash(hash, ephemeral, KEY_LEN);
  kdf1(chainingKey, chainingKey, ephemeral, KEY_LEN);
}

/** C = Ci, H = HASH(Hi || responder's static key). */
function begin(chainingKey: usize, hash: usize, responderStatic: usize): void {
  copy32(chainingKey, IDENTITY_CHAINING_KEY);
  copy32(hash, IDENTITY_HASH);
  mixHash(hash, responderStatic, KEY_LEN);
}

/** Wipes every local of the functions below. */
export function wipeScratch(): void {
  wipe(threadBase + SCRATCH_CHAINING_KEY, SCRATCH_LEN);
}

/** Works out DH(static, static) again: after the peer was added or our private key changed. */
export function precomputeStaticStatic(handshake: Handshake, remoteStatic: usize, hasIdentity: bool): void {
  if (!hasIdentity || !x25519(handshake.staticStatic, IDENTITY_PRIVATE_KEY, remoteStatic))
    wipe(handshake.staticStatic, KEY_LEN);
}

/** Forgets a handshake under way, but not the newest timestamp. The caller takes localIndex out of the table. */
export function clearHandshake(handshake: Handshake): void {
  wipe(handshake.ephemeral, KEY_LEN);
  wipe(handshake.remoteEphemeral, KEY_LEN);
  wipe(handshake.hash, HASH_LEN);
  wipe(handshake.chainingKey, HASH_LEN);
  handshake.remoteIndex = 0;
  handshake.state = HANDSHAKE_ZEROED;
}

/**
 * First message, as initiator: ephemeral, static, payload, one after the other. §5.4.2
 * @param dst       32 + 48 + payloadLen + 16 bytes
 * @param ephemeral 32 random bytes
 * @returns false when the peer's key is of low order; nothing is changed then
 */
export function createInitiation(
  dst: usize, handshake: Handshake, remoteStatic: usize, ephemeral: usize, payload: usize, payloadLen: u32,
): bool {
  const base = threadBase;
  const chainingKey = base + SCRATCH_CHAINING_KEY;
  const hash = base + SCRATCH_HASH;
  const key = base + SCRATCH_KEY;
  const ephemeralPrivate = base + SCRATCH_EPHEMERAL;
  const encryptedStatic = dst + KEY_LEN;
  const encryptedPayload = encryptedStatic + KEY_LEN + AUTHTAG_LEN;
  begin(chainingKey, hash, remoteStatic);
  // e
  copy32(ephemeralPrivate, ephemeral);
  clamp(ephemeralPrivate);
  x25519Public(dst, ephemeralPrivate);
  mixEphemeral(chainingKey, hash, dst);
  // es
  let valid = mixDh(chainingKey, key, ephemeralPrivate, remoteStatic);
  // s
  encryptAndHash(encryptedStatic, DEVICE_PUBLIC_KEY, KEY_LEN, key, hash);
  // ss
  if (!mixPrecomputedDh(chainingKey, key, handshake.staticStatic)) valid = false;
  // {t}
  encryptAndHash(encryptedPayload, payload, payloadLen, key, hash);
  if (valid) {
    copy32(handshake.ephemeral, ephemeralPrivate);
    copy32(handshake.hash, hash);
    copy32(handshake.chainingKey, chainingKey);
    handshake.state = HANDSHAKE_CREATED_INITIATION;
  }
  wipeScratch();
  return valid;
}

/**
 * First half of the first message, as responder: who is it? Leaves the static key at SCRATCH_STATIC, and the state of
 * the handshake in the scratch for the second half; the caller wipes the scratch when it stops in between.
 * @param src 32 + 48 + payload + 16 bytes
 */
export function consumeInitiationStatic(src: usize): u32 {
  const base = threadBase;
  const chainingKey = base + SCRATCH_CHAINING_KEY;
  const hash = base + SCRATCH_HASH;
  const key = base + SCRATCH_KEY;
  begin(chainingKey, hash, DEVICE_PUBLIC_KEY);
  // e
  copy32(base + SCRATCH_EPHEMERAL, src);
  mixEphemeral(chainingKey, hash, src);
  // es
  if (!mixDh(chainingKey, key, IDENTITY_PRIVATE_KEY, src)) return DROP_BAD_HANDSHAKE;
  // s
  if (!decryptAndHash(base + SCRATCH_STATIC, src + KEY_LEN, KEY_LEN + AUTHTAG_LEN, key, hash)) return DROP_BAD_HANDSHAKE;
  return DROP_NONE;
}

/** Second half: authenticates the payload, left at SCRATCH_PAYLOAD (at most 64 bytes). */
export function consumeInitiationPayload(src: usize, payloadLen: u32, handshake: Handshake): u32 {
  const base = threadBase;
  const key = base + SCRATCH_KEY;
  const encryptedPayload = src + KEY_LEN + KEY_LEN + AUTHTAG_LEN;
  // ss
  if (!mixPrecomputedDh(base + SCRATCH_CHAINING_KEY, key, handshake.staticStatic)) return DROP_BAD_HANDSHAKE;
  // {t}
  if (!decryptAndHash(base + SCRATCH_PAYLOAD, encryptedPayload, payloadLen + AUTHTAG_LEN, key, base + SCRATCH_HASH))
    return DROP_BAD_HANDSHAKE;
  return DROP_NONE;
}

/** The one commit point of an initiation, after the tunnel has checked its timestamp. */
export function commitInitiation(handshake: Handshake, remoteIndex: u32): void {
  const base = threadBase;
  copy32(handshake.remoteEphemeral, base + SCRATCH_EPHEMERAL);
  copy32(handshake.hash, base + SCRATCH_HASH);
  copy32(handshake.chainingKey, base + SCRATCH_CHAINING_KEY);
  handshake.remoteIndex = remoteIndex;
  handshake.state = HANDSHAKE_CONSUMED_INITIATION;
}

/**
 * Second message, as responder: ephemeral, payload. §5.4.3
 * @param dst 32 + payloadLen + 16 bytes
 * @returns false when no initiation is waiting or the remote ephemeral is of low order
 */
export function createResponse(
  dst: usize, handshake: Handshake, remoteStatic: usize, presharedKey: usize, ephemeral: usize,
  payload: usize, payloadLen: u32,
): bool {
  if (handshake.state != HANDSHAKE_CONSUMED_INITIATION) return false;
  const base = threadBase;
  const chainingKey = base + SCRATCH_CHAINING_KEY;
  const hash = base + SCRATCH_HASH;
  const key = base + SCRATCH_KEY;
  const ephemeralPrivate = base + SCRATCH_EPHEMERAL;
  copy32(chainingKey, handshake.chainingKey);
  copy32(hash, handshake.hash);
  // e
  copy32(ephemeralPrivate, ephemeral);
  clamp(ephemeralPrivate);
  x25519Public(dst, ephemeralPrivate);
  mixEphemeral(chainingKey, hash, dst);
  // ee
  let valid = mixDh(chainingKey, key, ephemeralPrivate, handshake.remoteEphemeral);
  // se
  if (!mixDh(chainingKey, key, ephemeralPrivate, remoteStatic)) valid = false;
  // psk
  mixPsk(chainingKey, hash, key, presharedKey);
  // {}
  encryptAndHash(dst + KEY_LEN, payload, payloadLen, key, hash);
  if (valid) {
    copy32(handshake.hash, hash);
    copy32(handshake.chainingKey, chainingKey);
    handshake.state = HANDSHAKE_CREATED_RESPONSE;
  }
  wipeScratch();
  return valid;
}

/**
 * Second message, as initiator.
 * @returns a drop reason, or DROP_NONE: the handshake is then in HANDSHAKE_CONSUMED_RESPONSE
 */
export function consumeResponse(
  src: usize, payloadLen: u32, handshake: Handshake, presharedKey: usize, remoteIndex: u32,
): u32 {
  const base = threadBase;
  const chainingKey = base + SCRATCH_CHAINING_KEY;
  const hash = base + SCRATCH_HASH;
  const key = base + SCRATCH_KEY;
  copy32(chainingKey, handshake.chainingKey);
  copy32(hash, handshake.hash);
  // e
  mixEphemeral(chainingKey, hash, src);
  // ee
  let valid = mixDh(chainingKey, key, handshake.ephemeral, src);
  // se
  if (!mixDh(chainingKey, key, IDENTITY_PRIVATE_KEY, src)) valid = false;
  // psk
  mixPsk(chainingKey, hash, key, presharedKey);
  // {}
  if (!decryptAndHash(base + SCRATCH_PAYLOAD, src + KEY_LEN, payloadLen + AUTHTAG_LEN, key, hash)) valid = false;
  if (valid) {
    copy32(handshake.remoteEphemeral, src);
    copy32(handshake.hash, hash);
    copy32(handshake.chainingKey, chainingKey);
    handshake.remoteIndex = remoteIndex;
    handshake.state = HANDSHAKE_CONSUMED_RESPONSE;
  }
  wipeScratch();
  return valid ? DROP_NONE : DROP_BAD_HANDSHAKE;
}

/**
 * Derives the transport keys and forgets the handshake. §5.4.5: (T1, T2) = Kdf2(C, empty); T1 is the initiator's
 * sending key.
 */
export function deriveKeys(handshake: Handshake, sendingKey: usize, receivingKey: usize): void {
  if (handshake.state == HANDSHAKE_CONSUMED_RESPONSE) kdf2(sendingKey, receivingKey, handshake.chainingKey, 0, 0);
  else kdf2(receivingKey, sendingKey, handshake.chainingKey, 0, 0);
  clearHandshake(handshake);
}
