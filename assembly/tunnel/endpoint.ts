// Where a peer is: an ENDPOINT record (abi.ts) under a sequence lock, because a receiving worker roams it while a
// sending one reads it. Readers retry, writers take the odd number; writers are rare.

import { ENDPOINT_FAMILY, ENDPOINT_SRC_IFINDEX } from "../abi";
import { Peer } from "./peer";

// @ts-ignore: decorator
@inline
const SEQUENCE: usize = offsetof<Peer>("endpointSequence");

// @ts-ignore: decorator
@inline
function equal(a: usize, b: usize): bool {
  const difference = v128.or(
    v128.or(v128.xor(v128.load(a), v128.load(b)), v128.xor(v128.load(a, 16), v128.load(b, 16))),
    v128.xor(v128.load(a, 32), v128.load(b, 32)),
  );
  return !v128.any_true(difference);
}

// Address and port alone, without the sticky source: the first 24 bytes.
// @ts-ignore: decorator
@inline
function sameAddress(a: usize, b: usize): bool {
  return load<u64>(a) == load<u64>(b) && load<u64>(a, 8) == load<u64>(b, 8) && load<u64>(a, 16) == load<u64>(b, 16);
}

function copy(dst: usize, src: usize): void {
  v128.store(dst, v128.load(src));
  v128.store(dst, v128.load(src, 16), 16);
  v128.store(dst, v128.load(src, 32), 32);
}

function beginWrite(peer: Peer): void {
  const at = changetype<usize>(peer) + SEQUENCE;
  for (;;) {
    const sequence = atomic.load<u32>(at);
    if (!(sequence & 1) && atomic.cmpxchg<u32>(at, sequence, sequence + 1) == sequence) return;
  }
}

function endWrite(peer: Peer): void {
  atomic.add<u32>(changetype<usize>(peer) + SEQUENCE, 1);
}

/** Copies the peer's endpoint to `dst`, ENDPOINT_LEN bytes. @returns false when it is not known */
export function readEndpoint(dst: usize, peer: Peer): bool {
  const at = changetype<usize>(peer) + SEQUENCE;
  for (;;) {
    const sequence = atomic.load<u32>(at);
    if (sequence & 1) continue;
    copy(dst, peer.endpoint);
    if (atomic.load<u32>(at) == sequence) break;
  }
  return load<u16>(dst, ENDPOINT_FAMILY) != 0;
}

/**
 * Call after an authenticated message of the peer came from `source`, and when the user sets an endpoint.
 * @returns whether its address is another than before
 */
export function setEndpoint(peer: Peer, source: usize): bool {
  if (load<u16>(source, ENDPOINT_FAMILY) == 0) return false;
  // The one writer besides us may be the user's set: a torn compare only costs a write of the same bytes.
  if (equal(peer.endpoint, source)) return false;
  beginWrite(peer);
  const moved = !sameAddress(peer.endpoint, source);
  copy(peer.endpoint, source);
  endWrite(peer);
  return moved;
}

/** Forgets which address of ours the peer last wrote to: its route or address is gone, or a handshake goes unanswered. */
export function clearSource(peer: Peer): void {
  if (load<u32>(peer.endpoint, ENDPOINT_SRC_IFINDEX) == 0 && load<u32>(peer.endpoint, ENDPOINT_SRC_IFINDEX + 4) == 0) return;
  beginWrite(peer);
  store<u64>(peer.endpoint, 0, ENDPOINT_SRC_IFINDEX);
  v128.store(peer.endpoint, i64x2.splat(0), ENDPOINT_SRC_IFINDEX + 8);
  endWrite(peer);
}
