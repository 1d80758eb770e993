// The device: what there is one of (the kernel's struct wg_device). Main thread, but for the counters.

import {
  BAD_ARGUMENT, BAD_MEMORY, DEVICE_BASE, DEVICE_DROPS, DEVICE_PEER_COUNT, DEVICE_PEER_LIMIT, DEVICE_PUBLIC_KEY,
  DEVICE_SIZE, EXISTS, FULL, NOT_FOUND, NO_RANDOM, OK, OWN_KEY, PAGE_SIZE, THREADS_BASE, THREADS_END, THREAD_CRYPTO,
  THREAD_CRYPTO_SIZE, THREAD_NOISE, THREAD_NOISE_SIZE, THREAD_RANDOM_LEFT, THREAD_SIZE, PEER_SIZE, DROP_OUT_STAGED_PURGED,
} from "../abi";
import { DEFAULT_MTU, KEY_LEN } from "../protocol";
import { copy32, equalConstantTime, layOut, map, MAP, threadBase, wipe } from "../memory";
import { precomputeDeviceKeys, precomputePeerKeys } from "../noise/cookie";
import { precomputeStaticStatic } from "../noise/handshake";
import { hasIdentity, identityInit, IDENTITY_PRIVATE_KEY, setIdentity, clamp } from "../noise/identity";
import { SCRATCH_KEY } from "../noise/scratch";
import { writeBegin, writeEnd } from "../threads/lock";
import { allowedIpRemoveAll, allowedIpsInit } from "./allowedips";
import { deadlineRemove } from "./deadlines";
import { randomLeft, takeRandom } from "./input";
import { clearHandshakeAndIndex, clearSessions, expireSessions } from "./keypairs";
import { keyInsert, keyLookup, keyRemove, keyTableInit } from "./keytable";
import { limiterInit } from "./limiter";
import {
  NO_PEER, NO_SESSION, Peer, peerAt, peerListFirst, peerListInit, peerListRelease, peerListTake, PENDING_REMOVED,
} from "./peer";
import { purgeStaged, stagingInit } from "./staging";
import { timersStop } from "./timers";

// offset  bytes  what
//      0      4  1 = up
//      4      4  MTU of the TUN, 0 = no limit to padding
//      8      8  when the device was last under load, ns; 0 = not
//     16      4  OFFLOAD_* of the TUN
//     20      4  1 = ephemeral keys are logged
export const DEVICE: usize = DEVICE_BASE + 0x2300;
export const DEVICE_UP: usize = DEVICE;
export const DEVICE_MTU: usize = DEVICE + 4;
export const DEVICE_LOADED_AT: usize = DEVICE + 8;
export const DEVICE_OFFLOAD: usize = DEVICE + 16;
export const DEVICE_KEY_LOG: usize = DEVICE + 20;

const SECRETS: usize = SCRATCH_KEY; // 32 bytes of the noise scratch

/** Counts a refused packet. */
export function drop(reason: u32): void {
  atomic.add<u64>(<usize>DEVICE_DROPS + (<usize>reason << 3), 1);
}

// @ts-ignore: decorator
@inline
export function deviceIsUp(): bool {
  return load<u32>(DEVICE_UP) != 0;
}

/**
 * Draws the memory map and empties every pool. Once, on thread 0, over zeroed memory, with 32 random bytes.
 * @returns OK, BAD_ARGUMENT (a count out of range), BAD_MEMORY (too small for these counts), NO_RANDOM
 */
export function deviceInit(maxPeers: u32, maxNodes: u32, threads: u32): i32 {
  const pages = layOut(0, maxPeers, maxNodes, threads);
  if (!pages) return BAD_ARGUMENT;
  if (<u32>memory.size() < pages || __heap_base > <usize>DEVICE_BASE) return BAD_MEMORY;
  if (randomLeft() < 32) return NO_RANDOM;
  layOut(MAP, maxPeers, maxNodes, threads);
  store<u32>(DEVICE_PEER_LIMIT, maxPeers);
  store<u32>(DEVICE_MTU, DEFAULT_MTU);
  identityInit();
  const secret = threadBase + SECRETS;
  takeRandom(secret, 32);
  keyTableInit(secret);
  limiterInit(secret + 16);
  wipe(secret, 32);
  allowedIpsInit();
  peerListInit();
  stagingInit();
  precomputeDeviceKeys();
  return OK;
}

/** Wipes the scratch of every thread; the device is locked, so none of them is at work. */
function wipeScratches(): void {
  const threads = map().threads;
  for (let thread: u32 = 0; thread < threads; thread++) {
    const base = <usize>THREADS_BASE + <usize>thread * THREAD_SIZE;
    wipe(base + THREAD_CRYPTO, THREAD_CRYPTO_SIZE);
    wipe(base + THREAD_NOISE, THREAD_NOISE_SIZE);
  }
}

// The peer's own keys; what is left of them in the scratches is the caller's to wipe, once for all peers.
function clearKeys(peer: Peer): void {
  clearHandshakeAndIndex(peer);
  clearSessions(peer);
}

/** Wipes a peer's sessions and handshake. */
export function zeroKeys(peer: Peer): void {
  writeBegin();
  clearKeys(peer);
  wipeScratches();
  writeEnd();
}

function purge(peer: Peer): void {
  const purged = purgeStaged(peer);
  for (let i: u32 = 0; i < purged; i++) drop(DROP_OUT_STAGED_PURGED);
}

/**
 * Gives the device another private key; 32 zero bytes take it away. A peer that has our new public key is removed, and
 * nothing more is sent under the sessions of the old key. The same key again changes nothing.
 */
export function deviceSetPrivateKey(key: usize): void {
  const clamped = threadBase + SECRETS;
  copy32(clamped, key);
  let any: u32 = 0;
  for (let i: usize = 0; i < <usize>KEY_LEN; i++) any |= load<u8>(key + i);
  if (any) clamp(clamped);
  const same = equalConstantTime(clamped, IDENTITY_PRIVATE_KEY, KEY_LEN);
  if (same) {
    wipe(clamped, KEY_LEN);
    return;
  }
  writeBegin();
  setIdentity(clamped);
  writeEnd();
  wipe(clamped, KEY_LEN);
  precomputeDeviceKeys();
  const own = hasIdentity() ? keyLookup(DEVICE_PUBLIC_KEY) : NOT_FOUND;
  if (own >= 0) peerRemove(own);
  for (let number = peerListFirst(); number != NO_PEER; number = peerAt(number).listNext) {
    const peer = peerAt(number);
    precomputeStaticStatic(peer.handshake, peer.publicKey, hasIdentity());
    writeBegin();
    clearHandshakeAndIndex(peer);
    expireSessions(peer);
    writeEnd();
    peer.handshakeAllowedAt = 0;
  }
  writeBegin();
  wipeScratches();
  writeEnd();
}

/**
 * Adds a peer.
 * @param publicKey 32 bytes
 * @returns its number, EXISTS (peerFind tells which), OWN_KEY, or FULL
 */
export function peerAdd(publicKey: usize): i32 {
  if (hasIdentity() && memory.compare(publicKey, DEVICE_PUBLIC_KEY, KEY_LEN) == 0) return OWN_KEY;
  if (keyLookup(publicKey) >= 0) return EXISTS;
  const number = peerListTake();
  if (number == NO_PEER) return FULL;
  const peer = peerAt(number);
  writeBegin();
  copy32(peer.publicKey, publicKey);
  peer.number = number;
  peer.deadline = u64.MAX_VALUE;
  peer.previous = NO_SESSION;
  peer.current = NO_SESSION;
  peer.next = NO_SESSION;
  keyInsert(peer.publicKey, number);
  precomputePeerKeys(peer.cookie, peer.publicKey);
  peer.present = 1;
  writeEnd();
  precomputeStaticStatic(peer.handshake, peer.publicKey, hasIdentity());
  store<u32>(DEVICE_PEER_COUNT, load<u32>(DEVICE_PEER_COUNT) + 1);
  return number;
}

/** Removes a peer and wipes all of it. @returns OK or NOT_FOUND */
export function peerRemove(number: u32): i32 {
  if (!peerIsPresent(number)) return NOT_FOUND;
  const peer = peerAt(number);
  writeBegin();
  allowedIpRemoveAll(number);
  clearHandshakeAndIndex(peer);
  clearSessions(peer);
  keyRemove(peer.publicKey);
  timersStop(peer);
  deadlineRemove(number);
  purge(peer);
  wipeScratches();
  // Its entry in the mailbox, if it has one, is still there: the mark keeps a second from being put.
  const pending = atomic.load<u32>(changetype<usize>(peer), offsetof<Peer>("pending")) ? PENDING_REMOVED : 0;
  const previous = peer.listPrevious;
  const next = peer.listNext;
  wipe(changetype<usize>(peer), PEER_SIZE);
  peer.listPrevious = previous;
  peer.listNext = next;
  peer.number = number;
  peer.deadline = u64.MAX_VALUE;
  atomic.store<u32>(changetype<usize>(peer), pending, offsetof<Peer>("pending"));
  peerListRelease(number);
  writeEnd();
  store<u32>(DEVICE_PEER_COUNT, load<u32>(DEVICE_PEER_COUNT) - 1);
  return OK;
}

/** Whether there is a peer of this number. */
export function peerIsPresent(number: u32): bool {
  return number < map().maxPeers && peerAt(number).present != 0;
}

/** Stops everything: timers, handshakes, sessions, staged packets. Peers and their configuration stay. */
export function deviceDown(): void {
  store<u32>(DEVICE_UP, 0);
  for (let number = peerListFirst(); number != NO_PEER; number = peerAt(number).listNext) {
    const peer = peerAt(number);
    writeBegin();
    clearKeys(peer);
    writeEnd();
    timersStop(peer);
    purge(peer);
    peer.handshakeAllowedAt = 0;
    peer.handshakeAttempts = 0;
  }
  writeBegin();
  wipeScratches();
  writeEnd();
}

/** Wipes the whole device: every key, every peer. The memory can be thrown away after it, or initialized again. */
export function deviceWipe(): void {
  writeBegin();
  const m = map();
  wipe(<usize>THREADS_END, m.end - THREADS_END);
  for (let thread: u32 = 0; thread < m.threads; thread++) {
    const base = <usize>THREADS_BASE + <usize>thread * THREAD_SIZE;
    store<u32>(base, 0, THREAD_RANDOM_LEFT); // the bytes go with the rest: zeros must not be taken for random ones
    wipe(base + 0x100, THREAD_SIZE - 0x100); // all but the lock's words
  }
  writeEnd();
  wipe(DEVICE_BASE, DEVICE_SIZE);
}
