// Datagrams on their way in (the kernel's receive.c): data is opened where it lies and checked, handshakes are queued
// for the main thread. Any thread, inside one run of the device lock.
//
// Checks come first, the commit after them: a datagram that is refused changes nothing but a drop counter. From the
// moment it is authentic, its peer roams and its timers move, even when the inner packet is then refused.

import { packetOpen } from "../crypto/aead";
import {
  BAD_ARGUMENT, DELIVER_MAX, DEVICE_RX_DATAGRAMS, DEVICE_RX_DELIVERED, DROP_BAD_INNER, DROP_BAD_LENGTH,
  DROP_BAD_SOURCE, DROP_BAD_TAG, DROP_BAD_TYPE, DROP_DEVICE_DOWN, DROP_HANDSHAKE_QUEUE_FULL, DROP_NONE, DROP_REPLAYED,
  DROP_SESSION_EXPIRED, DROP_TRUNCATED, DROP_UNKNOWN_INDEX, IN_ENDPOINT, IN_FLAGS, IN_LENGTH, IN_MAX, IN_OFFSET,
  IN_SEGMENT, IN_SIZE, IN_TRUNCATED, OFFLOAD_UDP, OFFLOAD_VNET, THREAD_DELIVER_COUNT, THREAD_IN,
} from "../abi";
import {
  AUTHTAG_LEN, COOKIE_REPLY_LEN, DATA_COUNTER, DATA_HEADER_LEN, DATA_KEEPALIVE_LEN, DATA_RECEIVER, INITIATION_LEN,
  MESSAGE_DATA, MESSAGE_HANDSHAKE_COOKIE, MESSAGE_HANDSHAKE_INITIATION, MESSAGE_HANDSHAKE_RESPONSE,
  REKEY_AFTER_TIME_RECEIVING_MS, RESPONSE_LEN,
} from "../protocol";
import { map, threadBase } from "../memory";
import { coalesce, coalesceBegin, coalesceEnd } from "../offload/coalesce";
import { be16, IPV4_HEADER_LEN, IPV6_HEADER_LEN } from "../offload/vnet";
import { enterRun, leaveRun, lockSpin, unlockSpin } from "../threads/lock";
import { allowedIpLookup } from "./allowedips";
import { deviceIsUp, DEVICE_OFFLOAD, drop } from "./device";
import { setEndpoint } from "./endpoint";
import { indexLookup } from "./indextable";
import { now, NS_PER_MS } from "./input";
import { REFERENCE_HANDSHAKE, referenceKind, referencePeer } from "./keypairs";
import { beginOutput, kick, putDeliver } from "./output";
import { count, NO_SESSION, Peer, PENDING_CONFIRMED, PENDING_HANDSHAKE, PENDING_ROAMED, sessionAt } from "./peer";
import { queueHandshake } from "./queue";
import { replayCheck, replayUpdate } from "./replay";
import { REJECT_AFTER_MESSAGES, Session, SESSION_REPLAY_LOCK, sessionExpired } from "./session";
import { anyAuthenticatedReceived, anyAuthenticatedTraversal, dataReceived, post } from "./timers";

const ECN_MASK: u32 = 3; // also the code point CE

// Datagrams this call consumed without a drop, written back to the device at its end.
const TALLY: usize = 0x48; // in the thread block, this thread's own

/** CE on the outer header is passed to an inner one that is capable of it, RFC 6040 §4.2. */
function markCongestion(packet: usize, version: u32): void {
  if (version == 4) {
    const tos = <u32>load<u8>(packet, 1);
    if ((tos & ECN_MASK) == 0 || (tos & ECN_MASK) == ECN_MASK) return;
    store<u8>(packet, tos | ECN_MASK, 1);
    // RFC 1624: HC' = ~(~HC + ~m + m'), over the first 16-bit word.
    const before = be16(packet, 0);
    const old = (before & 0xff00) | tos;
    let sum = (~be16(packet, 10) & 0xffff) + (~old & 0xffff) + before;
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    store<u16>(packet, bswap<u16>(<u16>~sum), 10);
  } else {
    const ecn = (<u32>load<u8>(packet, 1) >> 4) & ECN_MASK;
    if (ecn == 0 || ecn == ECN_MASK) return;
    store<u8>(packet, load<u8>(packet, 1) | (ECN_MASK << 4), 1);
  }
}

/** Asks for a new session when the one in use is about to be refused by the peer (keep_key_fresh on receiving). */
function keepFresh(peer: Peer, now: u64): void {
  if (peer.sentLastMinuteHandshake || peer.current == NO_SESSION) return;
  const session = sessionAt(peer, peer.current);
  if (!session.isInitiator || !session.sendingValid || now < session.born + <u64>REKEY_AFTER_TIME_RECEIVING_MS * NS_PER_MS) return;
  peer.sentLastMinuteHandshake = 1;
  post(peer, PENDING_HANDSHAKE);
}

/** Length of the inner packet by its own header, or 0 when it is not IP or claims more than there is. */
// @ts-ignore: decorator
@inline
function innerLength(packet: usize, len: u32): u32 {
  const version = <u32>load<u8>(packet) >> 4;
  let total: u32 = 0;
  if (version == 4) {
    total = len >= IPV4_HEADER_LEN ? be16(packet, 2) : 0;
    if (total < IPV4_HEADER_LEN) return 0;
  } else if (version == 6) {
    total = len >= IPV6_HEADER_LEN ? be16(packet, 4) + IPV6_HEADER_LEN : 0;
  }
  return total > len ? 0 : total;
}

/** A main thread, one lane out, one lane in: whoever receives then has the replay windows to itself. */
const THREADS_OF_ONE_LANE: u32 = 3;

/** Marks the counter of an authentic packet. @returns false when another lane was given the same packet, and was first */
// @ts-ignore: decorator
@inline
function accept(session: Session, counter: u64): bool {
  if (map().threads <= THREADS_OF_ONE_LANE) {
    replayUpdate(session.replay, counter);
    return true;
  }
  const lock = changetype<usize>(session) + SESSION_REPLAY_LOCK;
  lockSpin(lock);
  const fresh = replayCheck(session.replay, counter);
  if (fresh) replayUpdate(session.replay, counter);
  unlockSpin(lock);
  return fresh;
}

/** @returns a drop reason, or DROP_NONE: a keepalive, or a DELIVER record was put */
function receiveData(message: usize, len: u32, endpoint: usize, tos: u32, now: u64): u32 {
  if (len < <u32>DATA_KEEPALIVE_LEN) return DROP_BAD_LENGTH;
  const reference = indexLookup(load<u32>(message, DATA_RECEIVER));
  if (reference < 0 || referenceKind(reference) == REFERENCE_HANDSHAKE) return DROP_UNKNOWN_INDEX;
  const peer = referencePeer(reference);
  const slot = referenceKind(reference);
  const session = sessionAt(peer, slot);
  const counter = load<u64>(message, DATA_COUNTER);
  if (sessionExpired(session, now)) return refused(peer, DROP_SESSION_EXPIRED);
  if (!replayCheck(session.replay, counter))
    return refused(peer, counter >= REJECT_AFTER_MESSAGES ? DROP_SESSION_EXPIRED : DROP_REPLAYED);
  const packet = message + DATA_HEADER_LEN;
  const sealedLen = len - DATA_HEADER_LEN;
  if (!packetOpen(packet, packet, sealedLen, session.receivingKey, counter)) return refused(peer, DROP_BAD_TAG);

  // Authentic: from here on, state changes.
  if (!accept(session, counter)) return refused(peer, DROP_REPLAYED);
  if (setEndpoint(peer, endpoint)) post(peer, PENDING_ROAMED);
  if (slot == peer.next && !session.confirmed) {
    atomic.store<u32>(changetype<usize>(session), 1, offsetof<Session>("confirmed"));
    post(peer, PENDING_CONFIRMED);
  }
  keepFresh(peer, now);
  anyAuthenticatedReceived(peer);
  anyAuthenticatedTraversal(peer, now);
  const packetLen = sealedLen - AUTHTAG_LEN;
  if (packetLen == 0) {
    received(peer, len);
    return DROP_NONE;
  }
  dataReceived(peer, now);
  const inner = innerLength(packet, packetLen);
  if (!inner) return refused(peer, DROP_BAD_INNER);
  const version = <u32>load<u8>(packet) >> 4;
  const owner = version == 4 ? allowedIpLookup(4, packet + 12) : allowedIpLookup(6, packet + 8);
  if (owner != <i32>peer.number) return refused(peer, DROP_BAD_SOURCE);
  if ((tos & ECN_MASK) == ECN_MASK) markCongestion(packet, version);
  received(peer, len);
  const offload = load<u32>(DEVICE_OFFLOAD);
  if (offload & OFFLOAD_VNET) coalesce(packet, inner, peer.number, (offload & OFFLOAD_UDP) != 0);
  else putDeliver(packet, inner, peer.number);
  return DROP_NONE;
}

// @ts-ignore: decorator
@inline
function received(peer: Peer, len: u32): void {
  count(peer, offsetof<Peer>("rxBytes"), len);
  count(peer, offsetof<Peer>("rxPackets"), 1);
}

function refused(peer: Peer, reason: u32): u32 {
  count(peer, offsetof<Peer>("drops"), 1);
  return reason;
}

/** @returns a drop reason, or DROP_NONE: queued, and counted when the main thread consumed it */
function receiveHandshake(message: usize, len: u32, type: u32, endpoint: usize): u32 {
  const expected: u32 =
    type == MESSAGE_HANDSHAKE_INITIATION ? INITIATION_LEN
    : type == MESSAGE_HANDSHAKE_RESPONSE ? RESPONSE_LEN
    : type == MESSAGE_HANDSHAKE_COOKIE ? COOKIE_REPLY_LEN
    : 0;
  if (!expected) return DROP_BAD_TYPE;
  if (len != expected) return DROP_BAD_LENGTH;
  if (!queueHandshake(message, len, endpoint)) return DROP_HANDSHAKE_QUEUE_FULL;
  kick();
  return DROP_NONE;
}

function receiveDatagram(message: usize, len: u32, flags: u32, endpoint: usize, now: u64): void {
  let reason: u32;
  if (flags & IN_TRUNCATED || len < 4) {
    reason = DROP_TRUNCATED;
  } else if (!deviceIsUp()) {
    reason = DROP_DEVICE_DOWN;
  } else {
    const type = load<u32>(message); // the three reserved bytes with it
    if (type == MESSAGE_DATA) {
      reason = receiveData(message, len, endpoint, flags >> 16, now);
      if (reason == DROP_NONE) store<u32>(threadBase, load<u32>(threadBase, TALLY) + 1, TALLY);
    } else {
      reason = receiveHandshake(message, len, type, endpoint);
    }
  }
  if (reason != DROP_NONE) drop(reason);
}

/**
 * Receives datagrams: IN records first .. count - 1 of this thread; a record with a segment length holds a run of them.
 * Data is opened where it lies, and DELIVER records tell what goes to the TUN.
 * @returns the number of the first record not consumed: `count`, or less when the DELIVER records ran out (take them,
 *   and call again from there); or BAD_ARGUMENT
 */
export function deviceReceive(first: u32, count: u32): i32 {
  if (first > count || count > <u32>IN_MAX) return BAD_ARGUMENT;
  const base = threadBase;
  const time = now();
  let datagrams: u64 = 0;
  let i = first;
  beginOutput();
  coalesceBegin();
  store<u32>(base, 0, TALLY);
  enterRun();
  for (; i < count; i++) {
    const record = base + THREAD_IN + <usize>i * IN_SIZE;
    const at = <usize>load<u32>(record, IN_OFFSET);
    const len = load<u32>(record, IN_LENGTH);
    const segment = load<u32>(record, IN_SEGMENT);
    const flags = load<u32>(record, IN_FLAGS);
    const endpoint = record + IN_ENDPOINT;
    const segments = segment && segment < len ? (len + segment - 1) / segment : 1;
    if (segments > <u32>DELIVER_MAX) {
      // No run of the kernel's has so many; a record that claims it is the host's mistake.
      drop(DROP_TRUNCATED);
      datagrams++;
      continue;
    }
    if (load<u32>(base, THREAD_DELIVER_COUNT) + segments > <u32>DELIVER_MAX) break;
    datagrams += segments;
    if (segments == 1) {
      receiveDatagram(at, len, flags, endpoint, time);
      continue;
    }
    for (let offset: u32 = 0; offset < len; offset += segment) {
      const rest = len - offset;
      receiveDatagram(at + offset, rest < segment ? rest : segment, flags, endpoint, time);
    }
  }
  coalesceEnd();
  leaveRun();
  atomic.add<u64>(DEVICE_RX_DATAGRAMS, datagrams);
  atomic.add<u64>(DEVICE_RX_DELIVERED, <u64>load<u32>(base, TALLY));
  return <i32>i;
}
