// Packets that wait for a handshake (the kernel's staged_packet_queue): MAX_STAGED_PACKETS a peer, the oldest dropped.
//
// They lie in chains of STAGED_BLOCK_SIZE blocks from one pool, because a peer's 128 packets of any size, times all
// peers, is more than anyone should reserve. Keepalives never wait here, so that a full pool silences nobody. One lock
// guards pool and lists: staging is off the hot path by definition.

import { DEVICE_BASE, STAGED_BLOCK_COUNT, STAGED_BLOCK_SIZE } from "../abi";
import { MAX_STAGED_PACKETS } from "../protocol";
import { map } from "../memory";
import { lockSpin, unlockSpin } from "../threads/lock";
import { Peer } from "./peer";

// offset  bytes  what
//      0      4  lock
//      4      4  first free block that was used before: number + 1, 0 = none
//      8      4  blocks never used begin here
//     12      4  free blocks in all
const POOL: usize = DEVICE_BASE + 0x2280;

@unmanaged
class Block {
  next: u32; //       0  next block of the packet, or of the free list: number + 1
  nextPacket: u32; // 4  in a packet's first block: the next packet
  length: u32; //     8  in a packet's first block: its bytes
  reserved: u32; //  12
}

const BLOCK_HEADER: usize = offsetof<Block>();
const BLOCK_DATA: usize = STAGED_BLOCK_SIZE - offsetof<Block>();

// @ts-ignore: decorator
@inline
function block(reference: u32): Block {
  return changetype<Block>(map().staged + <usize>(reference - 1) * STAGED_BLOCK_SIZE);
}

export function stagingInit(): void {
  memory.fill(POOL, 0, 16);
  store<u32>(POOL, STAGED_BLOCK_COUNT, 12);
}

function takeBlock(): u32 {
  let reference = load<u32>(POOL, 4);
  if (reference) {
    store<u32>(POOL, block(reference).next, 4);
  } else {
    const fresh = load<u32>(POOL, 8);
    if (fresh >= <u32>STAGED_BLOCK_COUNT) return 0;
    store<u32>(POOL, fresh + 1, 8);
    reference = fresh + 1;
  }
  store<u32>(POOL, load<u32>(POOL, 12) - 1, 12);
  return reference;
}

// Gives a packet's chain back, zeroed: it held somebody's plaintext.
function releasePacket(reference: u32): void {
  while (reference) {
    const b = block(reference);
    const next = b.next;
    memory.fill(changetype<usize>(b), 0, STAGED_BLOCK_SIZE);
    b.next = load<u32>(POOL, 4);
    store<u32>(POOL, reference, 4);
    store<u32>(POOL, load<u32>(POOL, 12) + 1, 12);
    reference = next;
  }
}

function dropOldest(peer: Peer): void {
  const reference = peer.stagedHead;
  peer.stagedHead = block(reference).nextPacket;
  if (!peer.stagedHead) peer.stagedTail = 0;
  peer.stagedCount--;
  releasePacket(reference);
}

/**
 * Stages a copy of a packet. Any thread.
 * @param len 1 .. 65,535 bytes
 * @returns how many of the peer's oldest were dropped for it; or, when the pool had no room even so, -1 - that number
 */
export function stagePacket(peer: Peer, packet: usize, len: u32): i32 {
  lockSpin(POOL);
  let dropped: i32 = 0;
  if (peer.stagedCount >= <u32>MAX_STAGED_PACKETS) {
    dropOldest(peer);
    dropped++;
  }
  const blocks: u32 = (len + <u32>BLOCK_DATA - 1) / <u32>BLOCK_DATA;
  // A full pool is every peer's doing: this peer gives up its own oldest packets first.
  while (load<u32>(POOL, 12) < blocks && peer.stagedCount) {
    dropOldest(peer);
    dropped++;
  }
  if (load<u32>(POOL, 12) < blocks) {
    unlockSpin(POOL);
    return -1 - dropped;
  }
  const first = takeBlock();
  const head = block(first);
  head.length = len;
  head.nextPacket = 0;
  let at = head;
  let copied: usize = 0;
  for (;;) {
    const rest = <usize>len - copied;
    const part = rest < BLOCK_DATA ? rest : BLOCK_DATA;
    memory.copy(changetype<usize>(at) + BLOCK_HEADER, packet + copied, part);
    copied += part;
    if (copied >= <usize>len) break;
    const more = takeBlock();
    at.next = more;
    at = block(more);
  }
  at.next = 0;
  if (peer.stagedTail) block(peer.stagedTail).nextPacket = first;
  else peer.stagedHead = first;
  peer.stagedTail = first;
  peer.stagedCount++;
  unlockSpin(POOL);
  return dropped;
}

/** Length of the oldest staged packet; the caller has seen stagedCount > 0 with the device locked. */
export function stagedLength(peer: Peer): u32 {
  return block(peer.stagedHead).length;
}

/** Moves the oldest staged packet to `dst`. @returns its length */
export function unstagePacket(peer: Peer, dst: usize): u32 {
  lockSpin(POOL);
  const first = peer.stagedHead;
  const len = block(first).length;
  let copied: usize = 0;
  for (let reference = first; reference; reference = block(reference).next) {
    const rest = <usize>len - copied;
    const part = rest < BLOCK_DATA ? rest : BLOCK_DATA;
    memory.copy(dst + copied, changetype<usize>(block(reference)) + BLOCK_HEADER, part);
    copied += part;
  }
  dropOldest(peer);
  unlockSpin(POOL);
  return len;
}

/** Drops all of a peer's staged packets. @returns how many */
export function purgeStaged(peer: Peer): u32 {
  lockSpin(POOL);
  const count = peer.stagedCount;
  while (peer.stagedCount) dropOldest(peer);
  unlockSpin(POOL);
  return count;
}
