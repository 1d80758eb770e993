// The main thread's share: work that others left in the mailbox, timers that expired, handshakes that wait. In small
// portions, so that a flood of handshakes keeps nobody else from the main thread: THREAD_MORE asks for another call.

import {
  DEVICE_RX_DELIVERED, DROP_BAD_MAC1, DROP_BAD_MAC2, DROP_NONE, DROP_OUT_STAGED_PURGED, EVENT_HANDSHAKE_GIVEN_UP, EVENT_KEYS_ZEROED,
  EVENT_PEER_SILENT, EVENT_ROAMED, NO_RANDOM, THREAD_DEADLINE, THREAD_KICK, THREAD_MORE, THREAD_OUT_COUNT,
} from "../abi";
import { INITIATION_LEN, MAX_TIMER_HANDSHAKES } from "../protocol";
import { threadBase } from "../memory";
import { mailboxTake } from "../threads/mailbox";
import { deadlineSet, deadlineTop, deadlineTopTime } from "./deadlines";
import { drop, zeroKeys } from "./device";
import { clearSource } from "./endpoint";
import { emitEvent } from "./events";
import { confirmSession, consumeHandshake, HANDSHAKE_RANDOM_LEN, sendInitiation } from "./handshakes";
import { now, NS_PER_MS, randomLeft } from "./input";
import { beginOutput, hasRoom } from "./output";
import {
  Peer, peerAt, PENDING_CONFIRMED, PENDING_FLUSH, PENDING_HANDSHAKE, PENDING_KEEPALIVE, PENDING_ROAMED,
  PENDING_TIMER,
} from "./peer";
import { nextHandshake, QUEUED_ENDPOINT, QUEUED_LENGTH, QUEUED_MESSAGE, releaseHandshake } from "./queue";
import { sendKeepalive, sendStaged } from "./staged";
import { purgeStaged } from "./staging";
import {
  earliest, handshakeGivenUp, keepaliveAgain, post, takeTimer, timerDeadline, TIMER_NEW_HANDSHAKE,
  TIMER_RETRANSMIT_HANDSHAKE, TIMER_SEND_KEEPALIVE, TIMER_SEND_PERSISTENT_KEEPALIVE,
  TIMER_ZERO_KEY_MATERIAL,
} from "./timers";

/** What a call spends on handshakes at most, in units of about half a microsecond: some milliseconds. */
const HANDSHAKE_BUDGET: u32 = 4096;
const COST_MAC: u32 = 1; // a wrong mac1
const COST_COOKIE: u32 = 8; // a cookie reply
const COST_DH: u32 = 256; // X25519, once or more

// @ts-ignore: decorator
@inline
function costOf(reason: u32): u32 {
  return reason == DROP_BAD_MAC1 ? COST_MAC : reason == DROP_BAD_MAC2 ? COST_COOKIE : COST_DH;
}

// A step may send one message of its own and one initiation, and flushes look for room themselves.
function canStep(): bool {
  return hasRoom(2, INITIATION_LEN) && randomLeft() >= HANDSHAKE_RANDOM_LEN;
}

/**
 * Gives the peer its place in the heap. A worker that arms a timer stores it and then looks whether the heap knows an
 * earlier one; so after the heap was told, look at the timers again: one of the two sees the other.
 */
function place(peer: Peer): void {
  for (;;) {
    const when = earliest(peer);
    deadlineSet(peer.number, when);
    // An atomic that changes nothing orders the store before it and the loads after it.
    atomic.or<u64>(changetype<usize>(peer), 0, offsetof<Peer>("deadline"));
    if (earliest(peer) >= when) return;
  }
}

/** What other threads, or the calls of this one, left to do for a peer. */
function settle(peer: Peer, time: u64): void {
  const pending = atomic.xchg<u32>(changetype<usize>(peer), 0, offsetof<Peer>("pending"));
  if (!peer.present) return;
  if (pending & PENDING_ROAMED) emitEvent(EVENT_ROAMED, peer.number, 0);
  if (pending & PENDING_TIMER) place(peer);
  let flush = (pending & PENDING_FLUSH) != 0;
  if (pending & PENDING_CONFIRMED && confirmSession(peer)) flush = true;
  // A persistent keepalive that had no endpoint to go to has armed no timer for the next: now is its time.
  const overdue = flush && peer.persistentKeepalive && !timerDeadline(peer, TIMER_SEND_PERSISTENT_KEEPALIVE);
  if (pending & PENDING_KEEPALIVE || overdue) sendKeepalive(peer, time);
  else if (flush) sendStaged(peer, time);
  if (pending & PENDING_HANDSHAKE && !sendInitiation(peer, false, time)) post(peer, PENDING_HANDSHAKE);
}

// --- what to do when a timer expired ---------------------------------------------------------------------------------

function expiredRetransmitHandshake(peer: Peer, time: u64): void {
  if (peer.handshakeAttempts > <u32>MAX_TIMER_HANDSHAKES) {
    emitEvent(EVENT_HANDSHAKE_GIVEN_UP, peer.number, peer.handshakeAttempts + 1);
    // Packets that waited for this handshake are lost; so their senders learn of it by their own time-outs.
    const purged = purgeStaged(peer);
    for (let i: u32 = 0; i < purged; i++) drop(DROP_OUT_STAGED_PURGED);
    handshakeGivenUp(peer, time);
    return;
  }
  peer.handshakeAttempts++;
  clearSource(peer); // perhaps it is the way out that is gone
  if (!sendInitiation(peer, true, time)) post(peer, PENDING_HANDSHAKE);
}

function expiredSendKeepalive(peer: Peer, time: u64): void {
  sendKeepalive(peer, time);
  if (peer.needAnotherKeepalive) keepaliveAgain(peer, time);
}

function expiredNewHandshake(peer: Peer, time: u64): void {
  emitEvent(EVENT_PEER_SILENT, peer.number, 0);
  clearSource(peer);
  if (!sendInitiation(peer, false, time)) post(peer, PENDING_HANDSHAKE);
}

function expiredZeroKeyMaterial(peer: Peer): void {
  zeroKeys(peer);
  emitEvent(EVENT_KEYS_ZEROED, peer.number, 0);
}

/** Runs the earliest expired timer of the peer, and gives the peer its new place in the heap. */
function expire(peer: Peer, time: u64): void {
  let timer: usize = 0;
  let when: u64 = time;
  for (let t = TIMER_RETRANSMIT_HANDSHAKE; t <= TIMER_SEND_PERSISTENT_KEEPALIVE; t += 8) {
    const deadline = timerDeadline(peer, t);
    if (deadline && deadline <= when && (timer == 0 || deadline < when)) {
      timer = t;
      when = deadline;
    }
  }
  // A worker that cleared or moved it in the meantime goes first: what it armed must not be lost.
  if (timer && takeTimer(peer, timer, when)) {
    if (timer == TIMER_RETRANSMIT_HANDSHAKE) expiredRetransmitHandshake(peer, time);
    else if (timer == TIMER_SEND_KEEPALIVE) expiredSendKeepalive(peer, time);
    else if (timer == TIMER_NEW_HANDSHAKE) expiredNewHandshake(peer, time);
    else if (timer == TIMER_ZERO_KEY_MATERIAL) expiredZeroKeyMaterial(peer);
    else if (peer.persistentKeepalive) sendKeepalive(peer, time);
  }
  place(peer);
}

/**
 * Does what is due. Main thread; the host calls it when another call raised THREAD_KICK, when the deadline came, and as
 * long as it raises THREAD_MORE. OUT records tell what to send.
 * @returns the number of OUT records, or NO_RANDOM (fill THREAD_RANDOM and call again)
 */
export function deviceService(): i32 {
  if (randomLeft() < HANDSHAKE_RANDOM_LEN) return NO_RANDOM;
  const base = threadBase;
  const time = now();
  beginOutput();
  let more = false;
  for (;;) {
    if (!canStep()) {
      more = true;
      break;
    }
    const number = mailboxTake();
    if (number < 0) break;
    settle(peerAt(number), time);
  }
  while (!more && deadlineTopTime() <= time) {
    if (canStep()) expire(peerAt(deadlineTop()), time);
    else more = true;
  }
  let spent: u32 = 0;
  let delivered: u64 = 0;
  while (!more) {
    const slot = nextHandshake();
    if (!slot) break;
    if (spent >= HANDSHAKE_BUDGET || !canStep()) {
      more = true;
      break;
    }
    const message = slot + QUEUED_MESSAGE;
    const reason = consumeHandshake(message, load<u32>(slot, QUEUED_LENGTH), slot + QUEUED_ENDPOINT, time);
    if (reason == DROP_NONE) delivered++;
    else drop(reason);
    releaseHandshake();
    spent += costOf(reason);
  }
  if (delivered) atomic.add<u64>(DEVICE_RX_DELIVERED, delivered);
  store<u32>(base, more || pendingWork() ? 1 : 0, THREAD_MORE);
  return load<u32>(base, THREAD_OUT_COUNT);
}

/** Whether this call's own work left something in the mailbox. */
function pendingWork(): bool {
  return load<u32>(threadBase, THREAD_KICK) != 0;
}

/**
 * When to call deviceService next if nothing else happens: milliseconds on the monotonic clock at THREAD_DEADLINE,
 * Infinity when no timer is armed. Never before the earliest armed timer, never after it.
 */
export function deviceNextDeadline(): void {
  let when = deadlineTopTime();
  while (when != u64.MAX_VALUE) {
    // A timer that was cleared, or moved back by other threads, leaves its peer too near the top.
    const number = deadlineTop();
    const real = earliest(peerAt(number));
    if (real <= when) break;
    place(peerAt(number));
    when = deadlineTopTime();
  }
  // Clocks inside are one nanosecond ahead of the host's (input.ts).
  const ms: f64 = when == u64.MAX_VALUE ? Infinity : <f64>(when - 1) / <f64>NS_PER_MS;
  store<f64>(threadBase, ms, THREAD_DEADLINE);
}
