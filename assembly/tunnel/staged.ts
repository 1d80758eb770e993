// Sending what was staged, and keepalives (the kernel's wg_packet_send_staged_packets and wg_packet_send_keepalive).
// Main thread, with the device locked while it seals, so that a worker's newer packets do not overtake.

import { DROP_OUT_POOL_FULL, EVENT_KEEPALIVE_SENT } from "../abi";
import { AUTHTAG_LEN, DATA_HEADER_LEN, PADDING_MULTIPLE } from "../protocol";
import { writeBegin, writeEnd } from "../threads/lock";
import { deviceIsUp, DEVICE_MTU, drop } from "./device";
import { readEndpoint } from "./endpoint";
import { emitEvent } from "./events";
import { sendInitiation } from "./handshakes";
import { hasRoom, putOut, takeRoom } from "./output";
import { count, NO_SESSION, Peer, PENDING_FLUSH, PENDING_HANDSHAKE, sessionAt } from "./peer";
import { canSend } from "./session";
import { stagedLength, stagePacket, STAGED_POOL_FULL, unstagePacket } from "./staging";
import { anyAuthenticatedSent, anyAuthenticatedTraversal, dataSent, post } from "./timers";
import { needsRekey } from "./send";
import { outerTos, sealMessage } from "./transport";

const OVERHEAD: u32 = DATA_HEADER_LEN + AUTHTAG_LEN + PADDING_MULTIPLE;

/** Sends all staged packets under the current session, or begins a handshake when there is none to use. */
export function sendStaged(peer: Peer, now: u64): void {
  if (!peer.stagedCount || !deviceIsUp()) return;
  if (peer.current == NO_SESSION || !canSend(sessionAt(peer, peer.current), now)) {
    if (!sendInitiation(peer, false, now)) post(peer, PENDING_HANDSHAKE);
    return;
  }
  const session = sessionAt(peer, peer.current);
  const mtu = load<u32>(DEVICE_MTU);
  let bytes: u64 = 0;
  let packets: u64 = 0;
  let anyData = false;
  writeBegin();
  while (peer.stagedCount && hasRoom(1, stagedLength(peer) + OVERHEAD)) {
    const packet = takeRoom(stagedLength(peer) + OVERHEAD) + DATA_HEADER_LEN;
    const len = unstagePacket(peer, packet);
    const tos = len ? outerTos(packet) : 0;
    const messageLen = sealMessage(packet, len, session, mtu);
    readEndpoint(putOut(packet - DATA_HEADER_LEN, messageLen, peer.number, tos), peer);
    bytes += messageLen;
    packets++;
    if (len) anyData = true;
    else emitEvent(EVENT_KEEPALIVE_SENT, peer.number, 0);
  }
  writeEnd();
  if (peer.stagedCount) post(peer, PENDING_FLUSH);
  if (!packets) return;
  count(peer, offsetof<Peer>("txBytes"), bytes);
  count(peer, offsetof<Peer>("txPackets"), packets);
  anyAuthenticatedTraversal(peer, now);
  anyAuthenticatedSent(peer);
  if (anyData) dataSent(peer, now);
  if (needsRekey(session, now) && !sendInitiation(peer, false, now)) post(peer, PENDING_HANDSHAKE);
}

/** Sends what is staged, or an empty packet when nothing is. */
export function sendKeepalive(peer: Peer, now: u64): void {
  if (!deviceIsUp()) return;
  if (!peer.stagedCount && stagePacket(peer, 0, 0) == STAGED_POOL_FULL) drop(DROP_OUT_POOL_FULL);
  sendStaged(peer, now);
}
