// A peer: everything known of the other end, in PEER_SIZE bytes (the kernel's struct wg_peer).
//
// Written by the main thread with the device locked, except: the endpoint (its own sequence lock), the timers and
// `pending` (atomic words any thread may set), and the byte counters (atomic).

import { DEVICE_BASE, ENDPOINT_LEN, PEER_SIZE } from "../abi";
import { map } from "../memory";
import { Handshake } from "../noise/handshake";
import { Cookie } from "../noise/cookie";
import { PEER_ALLOWED_IPS } from "./allowedips";
import { PEER_DEADLINE, PEER_HEAP_POSITION } from "./deadlines";
import { PEER_PUBLIC_KEY } from "./keytable";
import { Session, SESSION_SIZE } from "./session";

export const NO_PEER: u32 = 0xffffffff;
export const NO_SESSION: u32 = 0xffffffff;

// Work that a thread leaves for the main one: bits of `pending`.
export const PENDING_HANDSHAKE: u32 = 1; // begin a handshake, unless one began within REKEY_TIMEOUT
export const PENDING_CONFIRMED: u32 = 2; // first packet under the next session: it becomes the current one
export const PENDING_TIMER: u32 = 4; // a timer was armed before the peer's place in the heap
export const PENDING_FLUSH: u32 = 8; // staged packets can leave
export const PENDING_ROAMED: u32 = 16;
export const PENDING_KEEPALIVE: u32 = 32; // send what is staged, or an empty packet
export const PENDING_REMOVED: u32 = 64; // keeps the mailbox entry of a removed peer accounted for

@unmanaged
export class Peer {
  private keyLo: v128; //             0  public key
  private keyHi: v128; //            16
  private presharedLo: v128; //      32  all zero = none
  private presharedHi: v128; //      48
  allowedIpsHead: u32; //            64  allowedips.ts
  allowedIpsTail: u32; //            68
  deadline: u64; //                  72  key in the heap, u64.MAX = not in it (deadlines.ts); atomic
  heapPosition: u32; //              80
  number: u32; //                    84
  listPrevious: u32; //              88  the device's list in order of adding; NO_PEER ends it
  listNext: u32; //                  92  also links free peers
  present: u32; //                   96
  pending: u32; //                  100  PENDING_*, atomic
  persistentKeepalive: u32; //      104  seconds, 0 = off
  endpointSequence: u32; //         108  odd while the endpoint is written
  private endpointLo: v128; //      112  ENDPOINT record
  private endpointMid: v128; //     128
  private endpointHi: v128; //      144
  retransmitHandshake: u64; //      160  the five timers, ns; 0 = not armed; atomic
  sendKeepalive: u64; //            168
  newHandshake: u64; //             176
  zeroKeyMaterial: u64; //          184
  sendPersistentKeepalive: u64; //  192
  needAnotherKeepalive: u32; //     200
  handshakeAttempts: u32; //        204
  rxBytes: u64; //                  208
  txBytes: u64; //                  216
  rxPackets: u64; //                224
  txPackets: u64; //                232
  drops: u64; //                    240
  lastHandshakeSec: u64; //         248  wall clock of the newest session
  lastHandshakeNsec: u32; //        256
  sentLastMinuteHandshake: u32; //  260
  handshakeAllowedAt: u64; //       264  no initiation of ours before this, ns
  stagedHead: u32; //               272  staging.ts: block number + 1, 0 = none
  stagedTail: u32; //               276
  stagedCount: u32; //              280
  previous: u32; //                 284  session slots: 0..2 or NO_SESSION
  current: u32; //                  288
  next: u32; //                     292
  private reserved: u64; //         296
  private handshakeBytes: v128; //  304  Handshake, 208 bytes
  // @ts-ignore: decorator
  @inline get publicKey(): usize { return changetype<usize>(this); }
  // @ts-ignore: decorator
  @inline get presharedKey(): usize { return changetype<usize>(this) + offsetof<Peer>("presharedLo"); }
  // @ts-ignore: decorator
  @inline get endpoint(): usize { return changetype<usize>(this) + offsetof<Peer>("endpointLo"); }
  // @ts-ignore: decorator
  @inline get handshake(): Handshake { return changetype<Handshake>(changetype<usize>(this) + PEER_HANDSHAKE); }
  // @ts-ignore: decorator
  @inline get cookie(): Cookie { return changetype<Cookie>(changetype<usize>(this) + PEER_COOKIE); }
}

const PEER_HANDSHAKE: usize = 304;
const PEER_COOKIE: usize = 512;
const PEER_SESSIONS: usize = 640;

if (offsetof<Peer>("handshakeBytes") != PEER_HANDSHAKE) ERROR("PEER_HANDSHAKE");
if (PEER_HANDSHAKE + offsetof<Handshake>() > PEER_COOKIE) ERROR("a handshake outgrew its place");
if (PEER_COOKIE + offsetof<Cookie>() > PEER_SESSIONS) ERROR("a cookie outgrew its place");
if (PEER_SESSIONS + 3 * SESSION_SIZE > <usize>PEER_SIZE) ERROR("a peer outgrew PEER_SIZE");
if (offsetof<Peer>("keyLo") != PEER_PUBLIC_KEY) ERROR("PEER_PUBLIC_KEY");
if (offsetof<Peer>("allowedIpsHead") != PEER_ALLOWED_IPS) ERROR("PEER_ALLOWED_IPS");
if (offsetof<Peer>("deadline") != PEER_DEADLINE) ERROR("PEER_DEADLINE");
if (offsetof<Peer>("heapPosition") != PEER_HEAP_POSITION) ERROR("PEER_HEAP_POSITION");
if (offsetof<Peer>("endpointLo") + ENDPOINT_LEN != offsetof<Peer>("retransmitHandshake")) ERROR("ENDPOINT_LEN");

/** The peer with this number, present or not. */
// @ts-ignore: decorator
@inline
export function peerAt(number: u32): Peer {
  return changetype<Peer>(map().peers + <usize>number * PEER_SIZE);
}

/** The peer's session in place `slot`, 0..2. */
// @ts-ignore: decorator
@inline
export function sessionAt(peer: Peer, slot: u32): Session {
  return changetype<Session>(changetype<usize>(peer) + PEER_SESSIONS + <usize>slot * SESSION_SIZE);
}

/** Adds to one of a peer's 64-bit counters. */
// @ts-ignore: decorator
@inline
export function count(peer: Peer, field: usize, amount: u64): void {
  atomic.add<u64>(changetype<usize>(peer) + field, amount);
}

// --- the device's list of peers, and the free ones ------------------------------------------------------------------
// offset  bytes  what
//      0      4  first peer, NO_PEER = none
//      4      4  last peer
//      8      4  first free peer that was used before
//     12      4  peers never used begin here
const LIST: usize = DEVICE_BASE + 0x2200;

export function peerListInit(): void {
  store<u32>(LIST, NO_PEER);
  store<u32>(LIST, NO_PEER, 4);
  store<u32>(LIST, NO_PEER, 8);
  store<u32>(LIST, 0, 12);
}

/** First peer in order of adding, or NO_PEER. */
export function peerListFirst(): u32 {
  return load<u32>(LIST);
}

/** Takes a free peer and appends it to the list; NO_PEER when all are in use. */
export function peerListTake(): u32 {
  let number = load<u32>(LIST, 8);
  if (number != NO_PEER) {
    store<u32>(LIST, peerAt(number).listNext, 8);
  } else {
    number = load<u32>(LIST, 12);
    if (number >= map().maxPeers) return NO_PEER;
    store<u32>(LIST, number + 1, 12);
  }
  const peer = peerAt(number);
  const last = load<u32>(LIST, 4);
  peer.listPrevious = last;
  peer.listNext = NO_PEER;
  if (last == NO_PEER) store<u32>(LIST, number);
  else peerAt(last).listNext = number;
  store<u32>(LIST, number, 4);
  return number;
}

/** Takes the peer off the list and makes its place free. */
export function peerListRelease(number: u32): void {
  const peer = peerAt(number);
  if (peer.listPrevious == NO_PEER) store<u32>(LIST, peer.listNext);
  else peerAt(peer.listPrevious).listNext = peer.listNext;
  if (peer.listNext == NO_PEER) store<u32>(LIST, peer.listPrevious, 4);
  else peerAt(peer.listNext).listPrevious = peer.listPrevious;
  peer.listNext = load<u32>(LIST, 8);
  store<u32>(LIST, number, 8);
}
