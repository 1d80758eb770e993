// The timers (whitepaper §6; the kernel's timers.c). Five a peer, each a deadline in the peer, 0 = not armed:
//
//  - retransmitHandshake: an initiation went out; REKEY_TIMEOUT + jitter later it goes out again, until
//    MAX_TIMER_HANDSHAKES retries.
//  - sendKeepalive: data came in; if nothing went out for KEEPALIVE_TIMEOUT, an empty packet does.
//  - newHandshake: data went out; if nothing authentic came back for KEEPALIVE_TIMEOUT + REKEY_TIMEOUT + jitter, the
//    session is given up for a new handshake.
//  - zeroKeyMaterial: 3 x REJECT_AFTER_TIME after the last session, every key is wiped.
//  - sendPersistentKeepalive: when the user asked for it, that long after any authentic packet, either way.
//
// The functions below are called when something happened, by any thread; they store deadlines and, when a peer's
// earliest one moved before its place in the heap, move it (main thread) or leave word for the main thread. Clearing a
// timer is a store alone: the heap finds out when it gets there (nextDeadline). So no packet takes a lock or walks a heap.
// What to do when a timer expires stands in service.ts.

import {
  KEEPALIVE_TIMEOUT_MS, NEW_HANDSHAKE_TIMEOUT_MS, REKEY_TIMEOUT_MS, ZERO_KEY_MATERIAL_MS,
} from "../protocol";
import { threadNumber } from "../memory";
import { mailboxPut } from "../threads/mailbox";
import { deadlineSet } from "./deadlines";
import { jitter, NS_PER_MS, NS_PER_SEC, wallNsec, wallSec } from "./input";
import { kick } from "./output";
import { Peer, PENDING_TIMER } from "./peer";

export const TIMER_RETRANSMIT_HANDSHAKE: usize = offsetof<Peer>("retransmitHandshake");
export const TIMER_SEND_KEEPALIVE: usize = offsetof<Peer>("sendKeepalive");
export const TIMER_NEW_HANDSHAKE: usize = offsetof<Peer>("newHandshake");
export const TIMER_ZERO_KEY_MATERIAL: usize = offsetof<Peer>("zeroKeyMaterial");
export const TIMER_SEND_PERSISTENT_KEEPALIVE: usize = offsetof<Peer>("sendPersistentKeepalive");

/** Leaves work for the main thread. */
export function post(peer: Peer, pending: u32): void {
  if (atomic.or<u32>(changetype<usize>(peer), pending, offsetof<Peer>("pending")) == 0) mailboxPut(peer.number);
  kick();
}

// @ts-ignore: decorator
@inline
export function timerDeadline(peer: Peer, timer: usize): u64 {
  return atomic.load<u64>(changetype<usize>(peer) + timer);
}

function arm(peer: Peer, timer: usize, when: u64): void {
  atomic.store<u64>(changetype<usize>(peer) + timer, when);
  if (when >= atomic.load<u64>(changetype<usize>(peer), offsetof<Peer>("deadline"))) return;
  if (threadNumber() == 0) deadlineSet(peer.number, when);
  else post(peer, PENDING_TIMER);
}

// @ts-ignore: decorator
@inline
export function disarm(peer: Peer, timer: usize): void {
  if (timerDeadline(peer, timer)) atomic.store<u64>(changetype<usize>(peer) + timer, 0);
}

/** Disarms the timer if it still is due at `when`. @returns whether it was */
export function takeTimer(peer: Peer, timer: usize, when: u64): bool {
  return atomic.cmpxchg<u64>(changetype<usize>(peer) + timer, when, 0) == when;
}

/** The earliest of the peer's timers, u64.MAX when none is armed. */
export function earliest(peer: Peer): u64 {
  let when = u64.MAX_VALUE;
  for (let timer = TIMER_RETRANSMIT_HANDSHAKE; timer <= TIMER_SEND_PERSISTENT_KEEPALIVE; timer += 8) {
    const deadline = timerDeadline(peer, timer);
    if (deadline && deadline < when) when = deadline;
  }
  return when;
}

/** Call after data (not a keepalive) was sent. */
export function dataSent(peer: Peer, now: u64): void {
  if (!timerDeadline(peer, TIMER_NEW_HANDSHAKE))
    arm(peer, TIMER_NEW_HANDSHAKE, now + <u64>NEW_HANDSHAKE_TIMEOUT_MS * NS_PER_MS + jitter());
}

/** Call after data (not a keepalive) was received. */
export function dataReceived(peer: Peer, now: u64): void {
  if (!timerDeadline(peer, TIMER_SEND_KEEPALIVE))
    arm(peer, TIMER_SEND_KEEPALIVE, now + <u64>KEEPALIVE_TIMEOUT_MS * NS_PER_MS);
  else if (!peer.needAnotherKeepalive) peer.needAnotherKeepalive = 1;
}

/** Call after anything authentic was sent: handshake, data, keepalive. */
export function anyAuthenticatedSent(peer: Peer): void {
  disarm(peer, TIMER_SEND_KEEPALIVE);
}

/** Call after anything authentic was received. */
export function anyAuthenticatedReceived(peer: Peer): void {
  disarm(peer, TIMER_NEW_HANDSHAKE);
}

/** Call after anything authentic was sent or received. */
export function anyAuthenticatedTraversal(peer: Peer, now: u64): void {
  if (peer.persistentKeepalive)
    arm(peer, TIMER_SEND_PERSISTENT_KEEPALIVE, now + <u64>peer.persistentKeepalive * NS_PER_SEC);
}

/** Call after an initiation was sent. */
export function handshakeInitiated(peer: Peer, now: u64): void {
  arm(peer, TIMER_RETRANSMIT_HANDSHAKE, now + <u64>REKEY_TIMEOUT_MS * NS_PER_MS + jitter());
}

/** Call after a response was accepted, or the first packet under a session we answered for. Main thread. */
export function handshakeComplete(peer: Peer): void {
  disarm(peer, TIMER_RETRANSMIT_HANDSHAKE);
  peer.handshakeAttempts = 0;
  peer.sentLastMinuteHandshake = 0;
  peer.lastHandshakeSec = wallSec();
  // Readers of the user API take 0 s and 0 ns for "never".
  peer.lastHandshakeNsec = wallNsec() ? wallNsec() : 1;
}

/** Call after a session was derived: as initiator or responder, confirmed or not. */
export function sessionDerived(peer: Peer, now: u64): void {
  arm(peer, TIMER_ZERO_KEY_MATERIAL, now + <u64>ZERO_KEY_MATERIAL_MS * NS_PER_MS);
}

/** Call when a handshake is given up: keys that are still there must go some day. */
export function handshakeGivenUp(peer: Peer, now: u64): void {
  disarm(peer, TIMER_SEND_KEEPALIVE);
  if (!timerDeadline(peer, TIMER_ZERO_KEY_MATERIAL)) sessionDerived(peer, now);
}

/** Begins another passive keepalive: data came in while one was already due. */
export function keepaliveAgain(peer: Peer, now: u64): void {
  peer.needAnotherKeepalive = 0;
  arm(peer, TIMER_SEND_KEEPALIVE, now + <u64>KEEPALIVE_TIMEOUT_MS * NS_PER_MS);
}

/** Call when a peer or the device stops. Main thread. */
export function timersStop(peer: Peer): void {
  for (let timer = TIMER_RETRANSMIT_HANDSHAKE; timer <= TIMER_SEND_PERSISTENT_KEEPALIVE; timer += 8) disarm(peer, timer);
  peer.needAnotherKeepalive = 0;
  deadlineSet(peer.number, u64.MAX_VALUE);
}
