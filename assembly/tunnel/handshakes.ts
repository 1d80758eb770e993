// Handshake messages, both ways (the kernel's send.c and receive.c for message types 1 to 3). Main thread.
//
// consumeHandshake returns a drop reason; whatever it refuses has changed nothing but the counters.

import {
  DROP_BAD_COOKIE, DROP_BAD_MAC1, DROP_BAD_MAC2, DROP_DEVICE_DOWN, DROP_HANDSHAKE_FLOOD, DROP_NONE,
  DROP_NO_PRIVATE_KEY, DROP_OLD_TIMESTAMP, DROP_RATE_LIMITED, DROP_UNEXPECTED_RESPONSE, DROP_UNKNOWN_INDEX,
  DROP_UNKNOWN_PEER, EVENT_COOKIE_RECEIVED, EVENT_COOKIE_SENT, EVENT_HANDSHAKE_COMPLETE, EVENT_INITIATION_RECEIVED,
  EVENT_INITIATION_SENT, EVENT_RESPONSE_SENT, EVENT_ROAMED, EVENT_SESSION_CONFIRMED, EVENT_UNDER_LOAD, OK,
} from "../abi";
import {
  COOKIE_NONCE_LEN, COOKIE_REPLY_LEN, COOKIE_REPLY_RECEIVER, HANDSHAKE_DSCP, INITIATIONS_PER_SECOND,
  INITIATION_EPHEMERAL, INITIATION_LEN, INITIATION_MAC1, INITIATION_SENDER, KEY_LEN, MAC_LEN,
  MESSAGE_HANDSHAKE_COOKIE, MESSAGE_HANDSHAKE_INITIATION, MESSAGE_HANDSHAKE_RESPONSE, REKEY_TIMEOUT_MS,
  RESPONSE_EPHEMERAL, RESPONSE_LEN, RESPONSE_MAC1, RESPONSE_RECEIVER, RESPONSE_SENDER, TIMESTAMP_LEN,
  UNDER_LOAD_HANDSHAKES, UNDER_LOAD_STICKY_MS,
} from "../protocol";
import { threadBase, wipe } from "../memory";
import {
  addMacs, checkMac1, checkMac2, consumeCookieReply, cookieSecretExpired, createCookieReply, setCookieSecret,
} from "../noise/cookie";
import {
  commitInitiation, consumeInitiationPayload, consumeInitiationStatic, consumeResponse, createInitiation,
  createResponse, HANDSHAKE_CREATED_INITIATION, wipeScratch,
} from "../noise/handshake";
import { hasIdentity, IDENTITY_TIMESTAMP } from "../noise/identity";
import { SCRATCH_COOKIE, SCRATCH_PAYLOAD, SCRATCH_STATIC } from "../noise/scratch";
import { tai64nAfter, tai64nNow } from "../noise/tai64n";
import { writeBegin, writeEnd } from "../threads/lock";
import { deviceIsUp, DEVICE_LOADED_AT } from "./device";
import { readEndpoint, setEndpoint } from "./endpoint";
import { emitEvent, logEphemeral } from "./events";
import { indexLookup } from "./indextable";
import { NS_PER_MS, NS_PER_SEC, takeRandom, wallNsec, wallSec } from "./input";
import {
  beginSession, confirmNext, REFERENCE_HANDSHAKE, referenceKind, referencePeer, releaseHandshakeIndex,
  renewHandshakeIndex,
} from "./keypairs";
import { keyLookup } from "./keytable";
import { limiterAllow } from "./limiter";
import { hasRoom, putEndpoint, putOut, takeRoom } from "./output";
import { count, NO_PEER, Peer, peerAt, PENDING_FLUSH } from "./peer";
import { queuedHandshakes } from "./queue";
import { sendKeepalive } from "./staged";
import {
  anyAuthenticatedReceived, anyAuthenticatedSent, anyAuthenticatedTraversal, handshakeComplete, handshakeInitiated,
  post, sessionDerived,
} from "./timers";

/** Random bytes that consuming or creating one message takes at most: ephemeral, indices, jitter, cookie secret, nonce. */
export const HANDSHAKE_RANDOM_LEN: u32 = 160;

const INITIATION_GAP_NS: u64 = NS_PER_SEC / INITIATIONS_PER_SECOND;

function putToPeer(peer: Peer, message: usize, len: u32): void {
  readEndpoint(putOut(message, len, peer.number, HANDSHAKE_DSCP), peer);
  count(peer, offsetof<Peer>("txBytes"), len);
  count(peer, offsetof<Peer>("txPackets"), 1);
}

/**
 * Begins a handshake with the peer, unless an initiation or response of ours is younger than REKEY_TIMEOUT.
 * @param isRetry whether the retransmission timer asks: else the attempts are counted anew
 * @returns false when there was no room in this call's output: ask again
 */
export function sendInitiation(peer: Peer, isRetry: bool, now: u64): bool {
  if (!isRetry) peer.handshakeAttempts = 0;
  if (now < peer.handshakeAllowedAt || !hasIdentity() || !deviceIsUp()) return true;
  if (!hasRoom(1, INITIATION_LEN)) return false;
  const ephemeral = threadBase + SCRATCH_COOKIE;
  // The scratch holds the endpoint only for this question; putToPeer reads it again.
  if (!readEndpoint(threadBase + SCRATCH_PAYLOAD, peer)) return true;
  peer.handshakeAllowedAt = now + <u64>REKEY_TIMEOUT_MS * NS_PER_MS;
  writeBegin();
  const status = renewHandshakeIndex(peer);
  writeEnd();
  if (status != OK) return true; // table full: the retransmission of another handshake will free a place
  const message = takeRoom(INITIATION_LEN);
  const timestamp = threadBase + SCRATCH_PAYLOAD;
  store<u32>(message, MESSAGE_HANDSHAKE_INITIATION);
  store<u32>(message, peer.handshake.localIndex, INITIATION_SENDER);
  takeRandom(ephemeral, KEY_LEN);
  logEphemeral(peer.number, peer.handshake.localIndex, ephemeral);
  tai64nNow(timestamp, IDENTITY_TIMESTAMP, wallSec(), wallNsec());
  const created = createInitiation(
    message + INITIATION_EPHEMERAL, peer.handshake, peer.publicKey, ephemeral, timestamp, TIMESTAMP_LEN,
  );
  if (!created) {
    writeBegin();
    releaseHandshakeIndex(peer);
    writeEnd();
    return true;
  }
  addMacs(message, message + INITIATION_MAC1, peer.cookie, now);
  anyAuthenticatedTraversal(peer, now);
  anyAuthenticatedSent(peer);
  putToPeer(peer, message, INITIATION_LEN);
  handshakeInitiated(peer, now);
  emitEvent(EVENT_INITIATION_SENT, peer.number, peer.handshakeAttempts + 1);
  return true;
}

/** Makes the next session the current one if a packet authenticated under it: staged packets can leave then. */
export function confirmSession(peer: Peer): bool {
  writeBegin();
  const confirmed = confirmNext(peer);
  writeEnd();
  if (!confirmed) return false;
  handshakeComplete(peer);
  emitEvent(EVENT_SESSION_CONFIRMED, peer.number, 0);
  return true;
}

function sendResponse(peer: Peer, now: u64): void {
  peer.handshakeAllowedAt = now + <u64>REKEY_TIMEOUT_MS * NS_PER_MS;
  writeBegin();
  const status = renewHandshakeIndex(peer);
  writeEnd();
  if (status != OK) return;
  const message = takeRoom(RESPONSE_LEN);
  const ephemeral = threadBase + SCRATCH_COOKIE;
  store<u32>(message, MESSAGE_HANDSHAKE_RESPONSE);
  store<u32>(message, peer.handshake.localIndex, RESPONSE_SENDER);
  store<u32>(message, peer.handshake.remoteIndex, RESPONSE_RECEIVER);
  takeRandom(ephemeral, KEY_LEN);
  logEphemeral(peer.number, peer.handshake.localIndex, ephemeral);
  const created = createResponse(
    message + RESPONSE_EPHEMERAL, peer.handshake, peer.publicKey, peer.presharedKey, ephemeral, 0, 0,
  );
  if (!created) {
    writeBegin();
    releaseHandshakeIndex(peer);
    writeEnd();
    return;
  }
  addMacs(message, message + RESPONSE_MAC1, peer.cookie, now);
  // A worker may have confirmed the session before this one since the mailbox was looked at: it is the one in use then,
  // and must not be taken for one that nobody answered.
  if (confirmSession(peer)) post(peer, PENDING_FLUSH);
  writeBegin();
  beginSession(peer, now);
  writeEnd();
  sessionDerived(peer, now);
  anyAuthenticatedTraversal(peer, now);
  anyAuthenticatedSent(peer);
  putToPeer(peer, message, RESPONSE_LEN);
  emitEvent(EVENT_RESPONSE_SENT, peer.number, 0);
  emitEvent(EVENT_HANDSHAKE_COMPLETE, peer.number, 2);
}

function sendCookieReply(message: usize, mac1: usize, endpoint: usize): void {
  const reply = takeRoom(COOKIE_REPLY_LEN);
  const nonce = threadBase + SCRATCH_PAYLOAD;
  takeRandom(nonce, COOKIE_NONCE_LEN);
  createCookieReply(reply, mac1, endpoint, nonce, load<u32>(message, INITIATION_SENDER));
  wipe(nonce, COOKIE_NONCE_LEN);
  putEndpoint(putOut(reply, COOKIE_REPLY_LEN, NO_PEER, HANDSHAKE_DSCP), endpoint);
  emitEvent(EVENT_COOKIE_SENT, NO_PEER, 0);
}

/** Under load when an eighth of the queue is taken, and for a second after that. */
function underLoad(now: u64): bool {
  const before = load<u64>(DEVICE_LOADED_AT);
  if (queuedHandshakes() >= <u32>UNDER_LOAD_HANDSHAKES) {
    store<u64>(DEVICE_LOADED_AT, now);
    if (!before) emitEvent(EVENT_UNDER_LOAD, NO_PEER, 1);
    return true;
  }
  if (!before) return false;
  if (now < before + <u64>UNDER_LOAD_STICKY_MS * NS_PER_MS) return true;
  store<u64>(DEVICE_LOADED_AT, 0);
  emitEvent(EVENT_UNDER_LOAD, NO_PEER, 0);
  return false;
}

function roam(peer: Peer, endpoint: usize): void {
  if (setEndpoint(peer, endpoint)) emitEvent(EVENT_ROAMED, peer.number, 0);
}

function received(peer: Peer, len: u32, now: u64): void {
  count(peer, offsetof<Peer>("rxBytes"), len);
  count(peer, offsetof<Peer>("rxPackets"), 1);
  anyAuthenticatedReceived(peer);
  anyAuthenticatedTraversal(peer, now);
}

function consumeCookie(message: usize, now: u64): u32 {
  const reference = indexLookup(load<u32>(message, COOKIE_REPLY_RECEIVER));
  if (reference < 0) return DROP_UNKNOWN_INDEX;
  const peer = referencePeer(reference);
  if (!consumeCookieReply(message, peer.cookie, now)) return DROP_BAD_COOKIE;
  emitEvent(EVENT_COOKIE_RECEIVED, peer.number, 0);
  return DROP_NONE;
}

function consumeInitiation(message: usize, endpoint: usize, now: u64): u32 {
  const reason = consumeInitiationStatic(message + INITIATION_EPHEMERAL);
  if (reason != DROP_NONE) return reason;
  const number = keyLookup(threadBase + SCRATCH_STATIC);
  if (number < 0) return DROP_UNKNOWN_PEER;
  const peer = peerAt(number);
  const handshake = peer.handshake;
  const stale = consumeInitiationPayload(message + INITIATION_EPHEMERAL, TIMESTAMP_LEN, handshake);
  if (stale != DROP_NONE) return refused(peer, stale);
  const timestamp = threadBase + SCRATCH_PAYLOAD;
  if (!tai64nAfter(timestamp, handshake.timestamp)) return refused(peer, DROP_OLD_TIMESTAMP);
  const last = handshake.initiationConsumed;
  if (last && now < last + INITIATION_GAP_NS) return refused(peer, DROP_HANDSHAKE_FLOOD);
  commitInitiation(handshake, load<u32>(message, INITIATION_SENDER));
  memory.copy(handshake.timestamp, timestamp, TIMESTAMP_LEN);
  handshake.initiationConsumed = now;
  emitEvent(EVENT_INITIATION_RECEIVED, number, 0);
  roam(peer, endpoint);
  sendResponse(peer, now);
  received(peer, INITIATION_LEN, now);
  return DROP_NONE;
}

function refused(peer: Peer, reason: u32): u32 {
  count(peer, offsetof<Peer>("drops"), 1);
  return reason;
}

function consumeAnswer(message: usize, endpoint: usize, now: u64): u32 {
  const reference = indexLookup(load<u32>(message, RESPONSE_RECEIVER));
  if (reference < 0) return DROP_UNKNOWN_INDEX;
  const peer = referencePeer(reference);
  const handshake = peer.handshake;
  if (referenceKind(reference) != REFERENCE_HANDSHAKE || handshake.state != HANDSHAKE_CREATED_INITIATION)
    return DROP_UNEXPECTED_RESPONSE;
  const sender = load<u32>(message, RESPONSE_SENDER);
  const reason = consumeResponse(message + RESPONSE_EPHEMERAL, 0, handshake, peer.presharedKey, sender);
  if (reason != DROP_NONE) return refused(peer, reason);
  roam(peer, endpoint);
  writeBegin();
  beginSession(peer, now);
  writeEnd();
  sessionDerived(peer, now);
  handshakeComplete(peer);
  emitEvent(EVENT_HANDSHAKE_COMPLETE, peer.number, 1);
  received(peer, RESPONSE_LEN, now);
  // Whatever waits goes out now, or an empty packet: the responder cannot use the session before it sees one.
  sendKeepalive(peer, now);
  return DROP_NONE;
}

/**
 * Consumes one queued message, and answers it. The caller has made sure of room for a response and of
 * HANDSHAKE_RANDOM_LEN random bytes. The length was checked for its type when it was queued.
 * @returns a drop reason, or DROP_NONE
 */
export function consumeHandshake(message: usize, len: u32, endpoint: usize, now: u64): u32 {
  if (!deviceIsUp()) return DROP_DEVICE_DOWN;
  const type = load<u32>(message);
  if (type == MESSAGE_HANDSHAKE_COOKIE) return consumeCookie(message, now);
  const loaded = underLoad(now);
  if (!hasIdentity()) return DROP_NO_PRIVATE_KEY;
  const mac1 = message + len - 2 * MAC_LEN;
  if (!checkMac1(message, mac1)) return DROP_BAD_MAC1;
  if (loaded) {
    if (cookieSecretExpired(now)) {
      const secret = threadBase + SCRATCH_PAYLOAD;
      takeRandom(secret, KEY_LEN);
      setCookieSecret(secret, now);
      wipe(secret, KEY_LEN);
    }
    if (!checkMac2(message, mac1 + MAC_LEN, endpoint)) {
      sendCookieReply(message, mac1, endpoint);
      return DROP_BAD_MAC2;
    }
    if (!limiterAllow(endpoint, now)) return DROP_RATE_LIMITED;
  }
  if (type == MESSAGE_HANDSHAKE_RESPONSE) return consumeAnswer(message, endpoint, now);
  const reason = consumeInitiation(message, endpoint, now);
  wipeScratch();
  return reason;
}
