// Sending what was staged, and keepalives (the kernel's wg_packet_send_staged_packets and wg_packet_send_keepalive).
// Main thread, with the device locked while it seals what was staged: a worker's newer packets get later counters.

import { EVENT_KEEPALIVE_SENT } from "../abi";
import { AUTHTAG_LEN, DATA_HEADER_LEN, PADDING_MULTIPLE } from "../protocol";
import { writeBegin, writeEnd } from "../threads/lock";
import { deviceIsUp, DEVICE_MTU } from "./device";
import { readEndpoint } from "./endpoint";
import { emitEvent } from "./events";
import { sendInitiation } from "./handshakes";
import { hasRoom, putOut, takeRoom } from "./output";
import { count, NO_SESSION, Peer, PENDING_FLUSH, PENDING_HANDSHAKE, PENDING_KEEPALIVE, sessionAt } from "./peer";
import { canSend, Session } from "./session";
import { stagedLength, unstagePacket } from "./staging";
import { anyAuthenticatedSent, anyAuthenticatedTraversal, dataSent, post } from "./timers";
import { needsRekey } from "./send";
import { outerTos, sealMessage } from "./transport";

const OVERHEAD: u32 = DATA_HEADER_LEN + AUTHTAG_LEN + PADDING_MULTIPLE;

function hasSession(peer: Peer, now: u64): bool {
  return peer.current != NO_SESSION && canSend(sessionAt(peer, peer.current), now);
}

function beginHandshake(peer: Peer, now: u64): void {
  if (!sendInitiation(peer, false, now)) post(peer, PENDING_HANDSHAKE);
}

/** Seals the packet in the room taken for it and puts its OUT record. @returns length of the message */
function seal(peer: Peer, session: Session, packet: usize, len: u32, tos: u32): u32 {
  const messageLen = sealMessage(packet, len, session, load<u32>(DEVICE_MTU));
  readEndpoint(putOut(packet - DATA_HEADER_LEN, messageLen, peer.number, tos), peer);
  return messageLen;
}

/** Call after packets of a peer were sealed. */
function sent(peer: Peer, session: Session, bytes: u64, packets: u64, now: u64): void {
  count(peer, offsetof<Peer>("txBytes"), bytes);
  count(peer, offsetof<Peer>("txPackets"), packets);
  anyAuthenticatedTraversal(peer, now);
  anyAuthenticatedSent(peer);
  if (needsRekey(session, now)) beginHandshake(peer, now);
}

/** Sends all staged packets under the current session, or begins a handshake when there is none to use. */
export function sendStaged(peer: Peer, now: u64): void {
  if (!peer.stagedCount || !deviceIsUp()) return;
  if (!hasSession(peer, now)) {
    beginHandshake(peer, now);
    return;
  }
  const session = sessionAt(peer, peer.current);
  let bytes: u64 = 0;
  let packets: u64 = 0;
  writeBegin();
  while (peer.stagedCount && hasRoom(1, stagedLength(peer) + OVERHEAD)) {
    const packet = takeRoom(stagedLength(peer) + OVERHEAD) + DATA_HEADER_LEN;
    const len = unstagePacket(peer, packet);
    bytes += seal(peer, session, packet, len, outerTos(packet));
    packets++;
  }
  writeEnd();
  if (peer.stagedCount) post(peer, PENDING_FLUSH);
  if (!packets) return;
  dataSent(peer, now);
  sent(peer, session, bytes, packets, now);
}

/**
 * Sends what is staged, or an empty packet when nothing is. Without a session it begins a handshake, and no empty packet
 * waits for it: whoever began a handshake ends it with a packet anyhow.
 */
export function sendKeepalive(peer: Peer, now: u64): void {
  if (!deviceIsUp()) return;
  if (peer.stagedCount) {
    sendStaged(peer, now);
  } else if (!hasSession(peer, now)) {
    beginHandshake(peer, now);
  } else if (!hasRoom(1, OVERHEAD)) {
    post(peer, PENDING_KEEPALIVE);
  } else {
    const session = sessionAt(peer, peer.current);
    const bytes = seal(peer, session, takeRoom(OVERHEAD) + DATA_HEADER_LEN, 0, 0);
    emitEvent(EVENT_KEEPALIVE_SENT, peer.number, 0);
    sent(peer, session, bytes, 1, now);
  }
}
