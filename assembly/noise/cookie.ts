// Cookies: proof of address under load (whitepaper §5.3, §5.4.4, §5.4.7; the kernel's cookie.c).
//
// mac1 = MAC(HASH("mac1----" || responder's key), message up to mac1) proves that the sender knows whom it talks to;
// mac2 = MAC(cookie, message up to mac2) that it receives at its address. The cookie is a MAC of the address under a
// secret that lives 120 s, sent sealed with mac1 as additional data.

import { xaeadOpen, xaeadSeal } from "../crypto/aead";
import { blake2s, blake2sFinal, blake2sInit, blake2sUpdate } from "../crypto/blake2s";
import { DEVICE_BASE, DEVICE_PUBLIC_KEY, ENDPOINT_ADDR, ENDPOINT_FAMILY, ENDPOINT_PORT } from "../abi";
import {
  COOKIE_LEN,
  COOKIE_REPLY_COOKIE,
  COOKIE_REPLY_NONCE,
  COOKIE_REPLY_RECEIVER,
  COOKIE_SECRET_LATENCY_MS,
  COOKIE_SECRET_MAX_AGE_MS,
  HASH_LEN,
  KEY_LEN,
  MAC_LEN,
  MESSAGE_HANDSHAKE_COOKIE,
} from "../protocol";
import { copy32, equalConstantTime, threadBase, wipe } from "../memory";
import { SCRATCH_BLAKE2S, SCRATCH_COOKIE, SCRATCH_MAC } from "./scratch";

const NS_PER_MS: u64 = 1_000_000;

/** "mac1----", "cookie--" */
const LABEL_MAC1: usize = memory.data<u8>([0x6d, 0x61, 0x63, 0x31, 0x2d, 0x2d, 0x2d, 0x2d]);
const LABEL_COOKIE: usize = memory.data<u8>([0x63, 0x6f, 0x6f, 0x6b, 0x69, 0x65, 0x2d, 0x2d]);
const LABEL_LEN: u32 = 8;

// The checker of the device, as responder. Main thread.
// offset  bytes  what
//      0     32  key of mac1 on messages to us
//     32     32  key that seals our cookie replies
//     64     32  secret the cookies are made from
//     96      8  when the secret was drawn, ns; 0 = never
const CHECKER: usize = DEVICE_BASE + 0x2100;
const CHECKER_MAC1_KEY: usize = CHECKER;
const CHECKER_COOKIE_KEY: usize = CHECKER + 32;
const CHECKER_SECRET: usize = CHECKER + 64;
const CHECKER_SECRET_BORN: usize = CHECKER + 96;

/** What a peer knows as initiator: the keys of its responder and the newest cookie. */
@unmanaged
export class Cookie {
  private cookieBytes: v128; //     0
  private lastMac1Bytes: v128; //  16  mac1 of the last message sent
  born: u64; //                    32  ns
  valid: u32; //                   40
  sentMac1: u32; //                44  a cookie reply to lastMac1 is acceptable, once
  private mac1Lo: v128; //         48
  private mac1Hi: v128; //         64
  private openLo: v128; //         80
  private openHi: v128; //         96

  // @ts-ignore: decorator
  @inline get cookie(): usize { return changetype<usize>(this); }
  // @ts-ignore: decorator
  @inline get lastMac1(): usize { return changetype<usize>(this) + offsetof<Cookie>("lastMac1Bytes"); }
  // @ts-ignore: decorator
  @inline get mac1Key(): usize { return changetype<usize>(this) + offsetof<Cookie>("mac1Lo"); }
  // @ts-ignore: decorator
  @inline get openKey(): usize { return changetype<usize>(this) + offsetof<Cookie>("openLo"); }
}

/** HASH(label || public key). */
function labelKey(dst: usize, label: usize, publicKey: usize): void {
  const state = threadBase + SCRATCH_BLAKE2S;
  blake2sInit(state, HASH_LEN, 0, 0);
  blake2sUpdate(state, label, LABEL_LEN);
  blake2sUpdate(state, publicKey, KEY_LEN);
  blake2sFinal(state, dst);
}

/** Call after our key pair changed. */
export function precomputeDeviceKeys(): void {
  labelKey(CHECKER_MAC1_KEY, LABEL_MAC1, DEVICE_PUBLIC_KEY);
  labelKey(CHECKER_COOKIE_KEY, LABEL_COOKIE, DEVICE_PUBLIC_KEY);
}

/** Call after a peer was added. */
export function precomputePeerKeys(cookie: Cookie, publicKey: usize): void {
  labelKey(cookie.mac1Key, LABEL_MAC1, publicKey);
  labelKey(cookie.openKey, LABEL_COOKIE, publicKey);
}

function mac(dst: usize, message: usize, len: u32, key: usize, keyLen: u32): void {
  blake2s(dst, MAC_LEN, message, len, key, keyLen);
}

/** Whether mac1 of a message to us is right. */
export function checkMac1(message: usize, mac1: usize): bool {
  const expected = threadBase + SCRATCH_MAC;
  mac(expected, message, <u32>(mac1 - message), CHECKER_MAC1_KEY, KEY_LEN);
  return equalConstantTime(expected, mac1, MAC_LEN);
}

/** Whether the cookie secret has to be drawn anew; the caller then calls setCookieSecret. */
export function cookieSecretExpired(now: u64): bool {
  const born = load<u64>(CHECKER_SECRET_BORN);
  return born == 0 || now >= born + <u64>COOKIE_SECRET_MAX_AGE_MS * NS_PER_MS;
}

/** @param secret 32 random bytes */
export function setCookieSecret(secret: usize, now: u64): void {
  copy32(CHECKER_SECRET, secret);
  store<u64>(CHECKER_SECRET_BORN, now == 0 ? 1 : now);
}

/** Cookie = MAC(secret, source address || source port). */
function makeCookie(dst: usize, endpoint: usize): void {
  const state = threadBase + SCRATCH_BLAKE2S;
  blake2sInit(state, COOKIE_LEN, CHECKER_SECRET, KEY_LEN);
  blake2sUpdate(state, endpoint + ENDPOINT_ADDR, load<u16>(endpoint, ENDPOINT_FAMILY) == 4 ? 4 : 16);
  blake2sUpdate(state, endpoint + ENDPOINT_PORT, 2);
  blake2sFinal(state, dst);
}

/** Whether mac2 of a message is right for its source. */
export function checkMac2(message: usize, mac2: usize, endpoint: usize): bool {
  const expected = threadBase + SCRATCH_MAC;
  const cookie = threadBase + SCRATCH_COOKIE;
  makeCookie(cookie, endpoint);
  mac(expected, message, <u32>(mac2 - message), cookie, COOKIE_LEN);
  wipe(cookie, COOKIE_LEN);
  return equalConstantTime(expected, mac2, MAC_LEN);
}

/**
 * Writes the cookie reply to a message, COOKIE_REPLY_LEN bytes.
 * @param nonce 24 random bytes
 * @param receiver the sender index of the message answered
 */
export function createCookieReply(dst: usize, mac1: usize, endpoint: usize, nonce: usize, receiver: u32): void {
  const cookie = threadBase + SCRATCH_COOKIE;
  store<u32>(dst, MESSAGE_HANDSHAKE_COOKIE);
  store<u32>(dst, receiver, COOKIE_REPLY_RECEIVER);
  memory.copy(dst + COOKIE_REPLY_NONCE, nonce, 24);
  makeCookie(cookie, endpoint);
  xaeadSeal(dst + COOKIE_REPLY_COOKIE, cookie, COOKIE_LEN, mac1, MAC_LEN, CHECKER_COOKIE_KEY, nonce);
  wipe(cookie, COOKIE_LEN);
}

/** Takes the cookie out of a reply to our last message; false, and nothing changed, when it is not one. */
export function consumeCookieReply(message: usize, cookie: Cookie, now: u64): bool {
  if (!cookie.sentMac1) return false;
  const opened = threadBase + SCRATCH_COOKIE;
  const sealed = message + COOKIE_REPLY_COOKIE;
  const nonce = message + COOKIE_REPLY_NONCE;
  if (!xaeadOpen(opened, sealed, COOKIE_LEN + 16, cookie.lastMac1, MAC_LEN, cookie.openKey, nonce)) return false;
  v128.store(cookie.cookie, v128.load(opened));
  cookie.born = now;
  cookie.valid = 1;
  cookie.sentMac1 = 0;
  wipe(opened, COOKIE_LEN);
  return true;
}

/** Adds mac1, and mac2 where a fresh cookie is known. The two fields end the message, mac1 first. */
export function addMacs(message: usize, mac1: usize, cookie: Cookie, now: u64): void {
  const mac2 = mac1 + MAC_LEN;
  mac(mac1, message, <u32>(mac1 - message), cookie.mac1Key, KEY_LEN);
  v128.store(cookie.lastMac1, v128.load(mac1));
  cookie.sentMac1 = 1;
  if (cookie.valid && now < cookie.born + <u64>(COOKIE_SECRET_MAX_AGE_MS - COOKIE_SECRET_LATENCY_MS) * NS_PER_MS) {
    mac(mac2, message, <u32>(mac2 - message), cookie.cookie, COOKIE_LEN);
  } else {
    wipe(cookie.cookie, COOKIE_LEN);
    cookie.valid = 0;
    wipe(mac2, MAC_LEN);
  }
}
