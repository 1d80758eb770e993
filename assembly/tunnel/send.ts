// Packets of the TUN on their way out: find the peer, seal, or stage for a handshake (the kernel's wg_xmit and send.c).
// Any thread, inside one run of the device lock.
//
// A plain packet is sealed where it lies. One with a virtio header may be a super-packet: it is segmented, and its
// segments are sealed one after the other into a run (run.ts), as are small packets between them.

import {
  BAD_ARGUMENT, DROP_OUT_BAD_OFFLOAD, DROP_OUT_DEVICE_DOWN, DROP_OUT_NOT_IP, DROP_OUT_NO_ENDPOINT, DROP_OUT_NO_ROUTE,
  DROP_OUT_POOL_FULL, DROP_OUT_STAGED_OVERFLOW, DROP_OUT_TOO_LONG, IN_FLAGS, IN_LENGTH, IN_MAX, IN_OFFSET, IN_SIZE, IN_VNET,
  NO_RANDOM, THREAD_IN, THREAD_OUT_COUNT,
} from "../abi";
import { DATA_HEADER_LEN, REKEY_AFTER_MESSAGES_LOG2, REKEY_AFTER_TIME_MS } from "../protocol";
import { threadBase } from "../memory";
import { segmentBegin, segmentLenMax, segmentNext, segmentPacket, segmentsLeft } from "../offload/segment";
import { IPV4_HEADER_LEN, IPV6_HEADER_LEN } from "../offload/vnet";
import { enterRun, leaveRun } from "../threads/lock";
import { allowedIpLookup } from "./allowedips";
import { deviceIsUp, DEVICE_MTU, drop } from "./device";
import { readEndpoint } from "./endpoint";
import { now, NS_PER_MS, randomLeft } from "./input";
import { beginOutput, putOut } from "./output";
import { count, NO_SESSION, Peer, peerAt, PENDING_FLUSH, PENDING_HANDSHAKE, sessionAt } from "./peer";
import { runBegin, runHasRoom, sealToRun } from "./run";
import { canSend, Session } from "./session";
import { stagePacket } from "./staging";
import { anyAuthenticatedSent, anyAuthenticatedTraversal, dataSent, post } from "./timers";
import { outerTos, PACKET_LEN_MAX, sealMessage } from "./transport";

const IPV4_DESTINATION: usize = 16;
const IPV6_DESTINATION: usize = 24;

/** Whether a session that is still good for sending should be replaced (keep_key_fresh on the sending side). */
// @ts-ignore: decorator
@inline
export function needsRekey(session: Session, now: u64): bool {
  const counter = atomic.load<u64>(changetype<usize>(session), offsetof<Session>("counter"));
  if (counter > <u64>1 << REKEY_AFTER_MESSAGES_LOG2) return true;
  return session.isInitiator != 0 && now >= session.born + <u64>REKEY_AFTER_TIME_MS * NS_PER_MS;
}

/** The peer that owns the packet's destination: its number, or -1 - a drop reason. */
// @ts-ignore: decorator
@inline
function route(packet: usize, len: u32): i32 {
  if (len < IPV4_HEADER_LEN) return -1 - DROP_OUT_NOT_IP;
  const version = load<u8>(packet) >> 4;
  let number: i32;
  if (version == 4) number = allowedIpLookup(4, packet + IPV4_DESTINATION);
  else if (version == 6 && len >= IPV6_HEADER_LEN) number = allowedIpLookup(6, packet + IPV6_DESTINATION);
  else return -1 - DROP_OUT_NOT_IP;
  return number < 0 ? -1 - DROP_OUT_NO_ROUTE : number;
}

// How a packet lies in its slot.
const PLAIN: i32 = -2; // to be sealed in place
const WHOLE: i32 = 0; // with a virtio header, one packet: what segmentBegin says
const SUPER: i32 = 1; // with a virtio header, several

function stageAll(peer: Peer, packet: usize, len: u32, form: i32, pending: u32): void {
  if (form != SUPER) return stage(peer, packet, len, pending);
  for (let size = segmentNext(); size; size = segmentNext()) stage(peer, segmentPacket(), size, pending);
}

function stage(peer: Peer, packet: usize, len: u32, pending: u32): void {
  let dropped = stagePacket(peer, packet, len);
  if (dropped < 0) {
    drop(DROP_OUT_POOL_FULL);
    dropped = -1 - dropped;
  }
  for (; dropped; dropped--) drop(DROP_OUT_STAGED_OVERFLOW);
  post(peer, pending);
}

/** Call after a run of packets of one peer was sealed. */
function sent(peer: Peer, session: Session, bytes: u64, packets: u64, now: u64): void {
  count(peer, offsetof<Peer>("txBytes"), bytes);
  count(peer, offsetof<Peer>("txPackets"), packets);
  anyAuthenticatedTraversal(peer, now);
  anyAuthenticatedSent(peer);
  dataSent(peer, now);
  if (needsRekey(session, now)) post(peer, PENDING_HANDSHAKE);
}

/** Seals all segments of a super-packet. @returns bytes of the messages, 0 when there is no room for so many */
function sealSuper(peer: Peer, session: Session, packet: usize, len: u32, mtu: u32): u32 {
  const segments = segmentsLeft();
  if (!runHasRoom(segments, len + segments * 128)) return 0;
  const tos = outerTos(packet);
  let bytes: u32 = 0;
  for (let size = segmentNext(); size; size = segmentNext())
    bytes += sealToRun(segmentPacket(), size, peer, session, mtu, tos);
  return bytes;
}

/**
 * Sends `packets` packets: IN records 0 .. packets - 1 of this thread, each with DATA_HEADER_LEN bytes before it and 32
 * behind it that are its own; with IN_VNET in the slots below OUT_SLOT. OUT records tell what to send.
 * @returns the number of OUT records, BAD_ARGUMENT, or NO_RANDOM (4 bytes a packet are wanted)
 */
export function deviceSend(packets: u32): i32 {
  if (packets > <u32>IN_MAX) return BAD_ARGUMENT;
  if (randomLeft() < packets << 2) return NO_RANDOM;
  const base = threadBase;
  const time = now();
  beginOutput();
  runBegin();
  enterRun();
  const up = deviceIsUp();
  const mtu = load<u32>(DEVICE_MTU);
  let runPeer = changetype<Peer>(0);
  let runSession = changetype<Session>(0);
  let runBytes: u64 = 0;
  let runPackets: u64 = 0;
  for (let i: u32 = 0; i < packets; i++) {
    const record = base + THREAD_IN + <usize>i * IN_SIZE;
    const packet = <usize>load<u32>(record, IN_OFFSET);
    const len = load<u32>(record, IN_LENGTH);
    if (!up) {
      drop(DROP_OUT_DEVICE_DOWN);
      continue;
    }
    const form = load<u32>(record, IN_FLAGS) & IN_VNET ? (len < IPV4_HEADER_LEN ? -1 : segmentBegin(packet, len)) : PLAIN;
    if (form == -1) {
      drop(DROP_OUT_BAD_OFFLOAD);
      continue;
    }
    const number = route(packet, len);
    if (number < 0) {
      drop(-1 - number);
      continue;
    }
    if ((form == SUPER ? segmentLenMax() : len) > PACKET_LEN_MAX) {
      drop(DROP_OUT_TOO_LONG);
      continue;
    }
    const peer = peerAt(number);
    const usable = peer.current != NO_SESSION && canSend(sessionAt(peer, peer.current), time);
    if (!usable || peer.stagedCount) {
      if (load<u16>(peer.endpoint) == 0) drop(DROP_OUT_NO_ENDPOINT);
      else stageAll(peer, packet, len, form, usable ? PENDING_FLUSH : PENDING_HANDSHAKE);
      continue;
    }
    const session = sessionAt(peer, peer.current);
    if (changetype<usize>(peer) != changetype<usize>(runPeer)) {
      if (runPackets) sent(runPeer, runSession, runBytes, runPackets, time);
      runPeer = peer;
      runSession = session;
      runBytes = 0;
      runPackets = 0;
    }
    if (form == SUPER) {
      const segments = segmentsLeft();
      const bytes = sealSuper(peer, session, packet, len, mtu);
      if (!bytes) {
        drop(DROP_OUT_BAD_OFFLOAD);
        continue;
      }
      runBytes += bytes;
      runPackets += segments;
      continue;
    }
    const tos = outerTos(packet);
    if (form == WHOLE) {
      if (!runHasRoom(1, len)) {
        drop(DROP_OUT_BAD_OFFLOAD);
        continue;
      }
      runBytes += sealToRun(packet, len, peer, session, mtu, tos);
    } else {
      const messageLen = sealMessage(packet, len, session, mtu);
      readEndpoint(putOut(packet - DATA_HEADER_LEN, messageLen, number, tos), peer);
      runBytes += messageLen;
    }
    runPackets++;
  }
  if (runPackets) sent(runPeer, runSession, runBytes, runPackets, time);
  leaveRun();
  return load<u32>(base, THREAD_OUT_COUNT);
}
