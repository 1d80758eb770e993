// Which of a peer's sessions is which: previous, current, next (the kernel's struct noise_keypairs), and the indices
// they are found by. Main thread with the device locked, but for the look-ups.
//
// The responder's new session stays `next` until the first authentic packet under it: before that, only the initiator
// can know that both have the key. A fourth session never exists, so three places in the peer are enough.

import { randomLeft, takeRandom } from "./input";
import { EXISTS, FULL, NO_RANDOM, OK } from "../abi";
import { threadBase } from "../memory";
import { clearHandshake, deriveKeys, HANDSHAKE_CONSUMED_RESPONSE } from "../noise/handshake";
import { SCRATCH_MAC } from "../noise/scratch";
import { indexInsert, indexRemove, indexReplace } from "./indextable";
import { NO_SESSION, Peer, peerAt, sessionAt } from "./peer";
import { Session, wipeSession } from "./session";
import { replayReset } from "./replay";

// A reference in the index table: peer number and what of it.
export const REFERENCE_HANDSHAKE: u32 = 3; // 0..2: the session in that place

// @ts-ignore: decorator
@inline
export function referencePeer(reference: u32): Peer {
  return peerAt(reference >> 2);
}

// @ts-ignore: decorator
@inline
export function referenceKind(reference: u32): u32 {
  return reference & 3;
}

/** Takes the handshake's index out of the table. */
export function releaseHandshakeIndex(peer: Peer): void {
  const handshake = peer.handshake;
  if (!handshake.hasIndex) return;
  indexRemove(handshake.localIndex);
  handshake.hasIndex = 0;
}

/** Gives the handshake a new random index, in place of the one it may have. @returns OK, FULL or NO_RANDOM */
export function renewHandshakeIndex(peer: Peer): i32 {
  const random = threadBase + SCRATCH_MAC;
  releaseHandshakeIndex(peer);
  for (;;) {
    if (randomLeft() < 4) return NO_RANDOM;
    takeRandom(random, 4);
    const index = load<u32>(random);
    const status = indexInsert(index, (peer.number << 2) | REFERENCE_HANDSHAKE);
    if (status == EXISTS) continue;
    if (status != OK) return FULL;
    peer.handshake.localIndex = index;
    peer.handshake.hasIndex = 1;
    return OK;
  }
}

function drop(peer: Peer, slot: u32): void {
  if (slot == NO_SESSION) return;
  const session = sessionAt(peer, slot);
  indexRemove(session.localIndex);
  wipeSession(session);
}

function freeSlot(peer: Peer): u32 {
  if (peer.previous != 0 && peer.current != 0 && peer.next != 0) return 0;
  if (peer.previous != 1 && peer.current != 1 && peer.next != 1) return 1;
  return 2;
}

/**
 * Turns a finished handshake into a session, §5.4.5, and gives it its place. The handshake's index becomes the session's.
 * @returns the session
 */
export function beginSession(peer: Peer, now: u64): Session {
  const handshake = peer.handshake;
  const isInitiator = handshake.state == HANDSHAKE_CONSUMED_RESPONSE;
  if (isInitiator) {
    // Our initiation was answered: the session can be used at once, and the one before it a little longer.
    drop(peer, peer.previous);
    if (peer.next != NO_SESSION) {
      // The peer answered us while we answered it: its session, never confirmed, may carry packets under way.
      peer.previous = peer.next;
      peer.next = NO_SESSION;
      drop(peer, peer.current);
    } else {
      peer.previous = peer.current;
    }
    peer.current = NO_SESSION;
    peer.current = freeSlot(peer);
  } else {
    drop(peer, peer.next);
    drop(peer, peer.previous);
    peer.previous = NO_SESSION;
    peer.next = NO_SESSION;
    peer.next = freeSlot(peer);
  }
  const slot = isInitiator ? peer.current : peer.next;
  const session = sessionAt(peer, slot);
  session.localIndex = handshake.localIndex;
  session.remoteIndex = handshake.remoteIndex;
  session.counter = 0;
  session.born = now;
  session.isInitiator = isInitiator ? 1 : 0;
  deriveKeys(handshake, session.sendingKey, session.receivingKey);
  replayReset(session.replay);
  session.sendingValid = 1;
  session.present = 1;
  indexReplace(session.localIndex, (peer.number << 2) | slot);
  handshake.hasIndex = 0;
  return session;
}

/**
 * Makes the next session the current one, if a packet authenticated under it. (Which one that was is kept in the
 * session: between the packet and this call, a newer handshake may have put another in its place.)
 */
export function confirmNext(peer: Peer): bool {
  if (peer.next == NO_SESSION) return false;
  const next = sessionAt(peer, peer.next);
  if (!atomic.load<u32>(changetype<usize>(next), offsetof<Session>("confirmed"))) return false;
  drop(peer, peer.previous);
  peer.previous = peer.current;
  peer.current = peer.next;
  peer.next = NO_SESSION;
  return true;
}

/** Wipes all sessions. */
export function clearSessions(peer: Peer): void {
  drop(peer, peer.previous);
  drop(peer, peer.current);
  drop(peer, peer.next);
  peer.previous = NO_SESSION;
  peer.current = NO_SESSION;
  peer.next = NO_SESSION;
}

/** Forgets the handshake under way and its index. */
export function clearHandshakeAndIndex(peer: Peer): void {
  releaseHandshakeIndex(peer);
  clearHandshake(peer.handshake);
}

/** No more sending under the sessions there are; what is under way to us is still accepted. After our key changed. */
export function expireSessions(peer: Peer): void {
  if (peer.current != NO_SESSION) sessionAt(peer, peer.current).sendingValid = 0;
  if (peer.next != NO_SESSION) sessionAt(peer, peer.next).sendingValid = 0;
}
