// Crypto-key routing, §2: which peer owns a prefix, and whose is the longest that holds an address.
//
// A binary trie for each family, path-compressed, as in Linux allowedips.c: a node is a prefix; its children are longer
// ones, by the bit after it. A node without a peer is a pure branching node and always has two children, so a new
// prefix takes at most two nodes. The prefixes of a peer form a list, oldest first, whose ends lie in the peer: to
// list or remove them takes time in their number, whatever else is in the tries.
//
//   offset  bytes  name    a node, NODE_SIZE at map().nodes; written in write sections, read in runs (threads/lock.ts)
//        0      8  hi      the prefix's first 64 bits as a number, bits past the cidr are 0; IPv4: 32 bits in `hi`
//        8      8  lo      IPv6: the last 64 bits
//       16      4  zero    child whose next bit is 0; in a free node: the next free node
//       20      4  one     child whose next bit is 1
//       24      4  cidr
//       28      4  owner   peer + 1, 0 = pure branching node
//       32      4  parent
//       36      4  next    in the peer's list, 0 = last
//       40      4  prev    0 = first
//       44      4  family
//
// A link is the node's address, 0 = none: a step of a lookup is one load after another, with no sums between. Callers
// take it for a number that stands for the node. Nodes come from a free list, or from the part of the pool never used,
// so memory that was never needed is never touched.
//
// Rejected: multi-bit tries (quicker by some loads, but a prefix then takes a whole table, and a peer may have
// 130,000); a hash table a prefix length (33 and 129 probes, where an attacker chooses the addresses).

import {
  ALLOWED_IP_ADDR,
  ALLOWED_IP_CIDR,
  ALLOWED_IP_FAMILY,
  BAD_ARGUMENT,
  DEVICE_BASE,
  DEVICE_NODE_COUNT,
  DEVICE_NODE_LIMIT,
  FULL,
  NODE_SIZE,
  OK,
  PEER_SIZE,
} from "../abi";
import { map } from "../memory";

/** Where a peer keeps its list: first node, and last in the u32 after it; peer.ts checks it. */
export const PEER_ALLOWED_IPS: usize = 64;

// In the device page, u32 each.
const ROOT4: usize = DEVICE_BASE + 0x90;
const ROOT6: usize = DEVICE_BASE + 0x94;
const FREE: usize = DEVICE_BASE + 0x98; // first of the free list
const UNUSED: usize = DEVICE_BASE + 0x9c; // first node never used

const NODES_PER_PREFIX: u32 = 2;

@unmanaged
class Node {
  hi: u64;
  lo: u64;
  zero: u32;
  one: u32;
  cidr: u32;
  owner: u32;
  parent: u32;
  next: u32;
  prev: u32;
  family: u32;
}

/** The ends of a peer's list. */
@unmanaged
class List {
  head: u32;
  tail: u32;
}

// @ts-ignore: decorator
@inline
function at(node: u32): Node {
  return changetype<Node>(<usize>node);
}

// @ts-ignore: decorator
@inline
function listOf(peer: u32): List {
  return changetype<List>(map().peers + <usize>peer * PEER_SIZE + PEER_ALLOWED_IPS);
}

/** Empties both tries. Call once, before any other; the peers' lists must be empty. */
export function allowedIpsInit(): void {
  if (offsetof<Node>() != NODE_SIZE) ERROR("NODE_SIZE");
  if (offsetof<Node>("one") != offsetof<Node>("zero") + 4) ERROR("children are indexed by the bit");
  store<u32>(ROOT4, 0);
  store<u32>(ROOT6, 0);
  store<u32>(FREE, 0);
  store<u32>(UNUSED, map().nodes);
  store<u32>(<usize>DEVICE_NODE_COUNT, 0);
  store<u32>(<usize>DEVICE_NODE_LIMIT, map().maxNodes);
}

/** @returns the most nodes a new prefix takes: its own and one that branches to it */
export function allowedIpNodesNeeded(): u32 {
  return NODES_PER_PREFIX;
}

// --- addresses as numbers -------------------------------------------------------------------------------------------

// An IPv4 address stands in the top half, so one rule of bit positions serves both families.
// @ts-ignore: decorator
@inline
function hiOf(family: u32, addr: usize): u64 {
  return family == 4 ? (<u64>bswap<u32>(load<u32>(addr))) << 32 : bswap<u64>(load<u64>(addr));
}

// @ts-ignore: decorator
@inline
function loOf(family: u32, addr: usize): u64 {
  return family == 4 ? 0 : bswap<u64>(load<u64>(addr, 8));
}

// The first `cidr` bits of the half that begins at bit `from`.
// @ts-ignore: decorator
@inline
function mask(half: u64, from: u32, cidr: u32): u64 {
  if (cidr <= from) return 0;
  const kept = cidr - from;
  return kept >= 64 ? half : half & ~(u64.MAX_VALUE >> kept);
}

// How many first bits two addresses share, 0..128, from the halves of their difference.
// @ts-ignore: decorator
@inline
function commonBits(hi: u64, lo: u64): u32 {
  return hi ? <u32>clz<u64>(hi) : 64 + <u32>clz<u64>(lo);
}

// The bit after a prefix of `cidr` bits. The shift counts modulo 64, so one expression serves both halves; for
// 128 it is some bit, which names a child that is not there.
// @ts-ignore: decorator
@inline
function bitAfter(hi: u64, lo: u64, cidr: u32): u32 {
  return <u32>(((cidr < 64 ? hi : lo) >> (63 - cidr)) & 1);
}

// @ts-ignore: decorator
@inline
function childSlot(node: u32, bit: u32): usize {
  return <usize>node + offsetof<Node>("zero") + (<usize>bit << 2);
}

// @ts-ignore: decorator
@inline
function rootSlot(family: u32): usize {
  return family == 4 ? ROOT4 : ROOT6;
}

// @ts-ignore: decorator
@inline
function isPrefix(family: u32, cidr: u32, peer: u32): bool {
  return (family == 4 ? cidr <= 32 : family == 6 && cidr <= 128) && peer < map().maxPeers;
}

// --- lookup: the hot path -------------------------------------------------------------------------------------------

function lookup4(key: u32): u32 {
  let owner: u32 = 0;
  let node = load<u32>(ROOT4);
  while (node) {
    const cidr = load<u32>(node, offsetof<Node>("cidr"));
    if (<u32>clz<u32>(key ^ load<u32>(node, offsetof<Node>("hi") + 4)) < cidr) break;
    const mine = load<u32>(node, offsetof<Node>("owner"));
    if (mine) owner = mine;
    node = load<u32>(childSlot(node, (key >> (31 - cidr)) & 1));
  }
  return owner;
}

function lookup6(hi: u64, lo: u64): u32 {
  let owner: u32 = 0;
  let node = load<u32>(ROOT6);
  while (node) {
    const cidr = load<u32>(node, offsetof<Node>("cidr"));
    const n = at(node);
    if (commonBits(hi ^ n.hi, lo ^ n.lo) < cidr) break;
    if (n.owner) owner = n.owner;
    node = load<u32>(childSlot(node, bitAfter(hi, lo, cidr)));
  }
  return owner;
}

/**
 * The owner of the longest prefix that holds an address. Any thread, inside a run.
 * @param family  4 or 6
 * @param addr  4 or 16 bytes, network order, no alignment
 * @returns peer number, or -1
 */
export function allowedIpLookup(family: u32, addr: usize): i32 {
  const owner =
    family == 4
      ? lookup4(bswap<u32>(load<u32>(addr)))
      : lookup6(bswap<u64>(load<u64>(addr)), bswap<u64>(load<u64>(addr, 8)));
  return <i32>owner - 1;
}

// --- the pool -------------------------------------------------------------------------------------------------------

// @ts-ignore: decorator
@inline
function freeNodes(): u32 {
  return load<u32>(<usize>DEVICE_NODE_LIMIT) - load<u32>(<usize>DEVICE_NODE_COUNT);
}

// A node for a prefix that is masked already, without links. The caller has seen freeNodes.
function create(family: u32, hi: u64, lo: u64, cidr: u32, owner: u32): u32 {
  let node = load<u32>(FREE);
  if (node) store<u32>(FREE, at(node).zero);
  else {
    node = load<u32>(UNUSED);
    store<u32>(UNUSED, node + NODE_SIZE);
  }
  store<u32>(<usize>DEVICE_NODE_COUNT, load<u32>(<usize>DEVICE_NODE_COUNT) + 1);
  memory.fill(<usize>node, 0, NODE_SIZE);
  const n = at(node);
  n.hi = hi;
  n.lo = lo;
  n.cidr = cidr;
  n.owner = owner;
  n.family = family;
  return node;
}

function release(node: u32): void {
  memory.fill(<usize>node, 0, NODE_SIZE);
  at(node).zero = load<u32>(FREE);
  store<u32>(FREE, node);
  store<u32>(<usize>DEVICE_NODE_COUNT, load<u32>(<usize>DEVICE_NODE_COUNT) - 1);
}

// --- the peers' lists -----------------------------------------------------------------------------------------------

function append(node: u32): void {
  const n = at(node);
  const list = listOf(n.owner - 1);
  n.next = 0;
  n.prev = list.tail;
  if (list.tail) at(list.tail).next = node;
  else list.head = node;
  list.tail = node;
}

function unlink(node: u32): void {
  const n = at(node);
  const list = listOf(n.owner - 1);
  if (n.prev) at(n.prev).next = n.next;
  else list.head = n.next;
  if (n.next) at(n.next).prev = n.prev;
  else list.tail = n.prev;
  n.next = 0;
  n.prev = 0;
}

// --- changes: main thread, in a write section -----------------------------------------------------------------------

// The longest node that is a prefix of, or equal to, the given one; 0 = none.
function place(family: u32, hi: u64, lo: u64, cidr: u32): u32 {
  let found: u32 = 0;
  let node = load<u32>(rootSlot(family));
  while (node) {
    const n = at(node);
    if (n.cidr > cidr || commonBits(hi ^ n.hi, lo ^ n.lo) < n.cidr) break;
    found = node;
    if (n.cidr == cidr) break;
    node = load<u32>(childSlot(node, bitAfter(hi, lo, n.cidr)));
  }
  return found;
}

// Hangs `child` under `parent` on the side of its own next bit.
function attach(parent: u32, child: u32): void {
  const p = at(parent);
  const c = at(child);
  store<u32>(childSlot(parent, bitAfter(c.hi, c.lo, p.cidr)), child);
  c.parent = parent;
}

// Puts `node`, or nothing, where `old` hangs.
function replace(old: u32, node: u32): void {
  const o = at(old);
  const parent = o.parent;
  if (!parent) store<u32>(rootSlot(o.family), node);
  else if (at(parent).zero == old) at(parent).zero = node;
  else at(parent).one = node;
  if (node) at(node).parent = parent;
}

/**
 * Gives a prefix to a peer; whoever owned it owns it no longer. Bits past the cidr are ignored.
 * @param family  4 or 6
 * @param addr  4 or 16 bytes, network order
 * @returns OK (also when the peer owns it already), FULL, or BAD_ARGUMENT; then nothing has changed
 */
export function allowedIpInsert(family: u32, addr: usize, cidr: u32, peer: u32): i32 {
  if (!isPrefix(family, cidr, peer)) return BAD_ARGUMENT;
  const hi = mask(hiOf(family, addr), 0, cidr);
  const lo = mask(loOf(family, addr), 64, cidr);
  const owner = peer + 1;
  const above = place(family, hi, lo, cidr);
  if (above && at(above).cidr == cidr) {
    const n = at(above);
    if (n.owner == owner) return OK;
    if (n.owner) unlink(above);
    n.owner = owner;
    append(above);
    return OK;
  }

  const slot = above ? childSlot(above, bitAfter(hi, lo, at(above).cidr)) : rootSlot(family);
  const down = load<u32>(slot);
  // `down` is longer than the new prefix, or parts from it at this bit.
  const shared = down ? min<u32>(cidr, commonBits(hi ^ at(down).hi, lo ^ at(down).lo)) : cidr;
  if (freeNodes() < (shared < cidr ? NODES_PER_PREFIX : 1)) return FULL;

  const node = create(family, hi, lo, cidr, owner);
  let top = node;
  if (shared < cidr) {
    top = create(family, mask(hi, 0, shared), mask(lo, 64, shared), shared, 0);
    attach(top, node);
  }
  if (down) attach(top, down);
  store<u32>(slot, top);
  at(top).parent = above;
  append(node);
  return OK;
}

// Takes a node with an owner out of the list and, where it holds nothing together, out of the trie.
function remove(node: u32): void {
  const n = at(node);
  unlink(node);
  n.owner = 0;
  if (n.zero && n.one) return; // stays, to branch
  const child = n.zero | n.one;
  const parent = n.parent;
  replace(node, child);
  release(node);
  // Without its only other child a branching node above is of no use: its sibling takes its place.
  if (child || !parent || at(parent).owner) return;
  replace(parent, at(parent).zero | at(parent).one);
  release(parent);
}

/**
 * Takes a prefix from a peer. Bits past the cidr are ignored.
 * @returns OK, also when the peer does not own it (then nothing changes), or BAD_ARGUMENT
 */
export function allowedIpRemove(family: u32, addr: usize, cidr: u32, peer: u32): i32 {
  if (!isPrefix(family, cidr, peer)) return BAD_ARGUMENT;
  const node = place(family, mask(hiOf(family, addr), 0, cidr), mask(loOf(family, addr), 64, cidr), cidr);
  if (node && at(node).cidr == cidr && at(node).owner == peer + 1) remove(node);
  return OK;
}

/** Takes all prefixes from a peer. */
export function allowedIpRemoveAll(peer: u32): void {
  const list = listOf(peer);
  while (list.head) remove(list.head);
}

// --- listing: main thread -------------------------------------------------------------------------------------------

/** @returns the peer's oldest prefix, or 0 when it has none */
export function allowedIpFirst(peer: u32): u32 {
  return listOf(peer).head;
}

/** @returns the prefix after `node` in its peer's list, or 0 */
export function allowedIpAfter(node: u32): u32 {
  return at(node).next;
}

/** Writes the ALLOWED_IP record of a node that allowedIpFirst or allowedIpAfter gave. */
export function allowedIpRead(node: u32, dst: usize): void {
  const n = at(node);
  store<u32>(dst, n.family, ALLOWED_IP_FAMILY);
  store<u32>(dst, n.cidr, ALLOWED_IP_CIDR);
  if (n.family == 4) {
    store<u64>(dst, <u64>bswap<u32>(<u32>(n.hi >> 32)), ALLOWED_IP_ADDR);
    store<u64>(dst, 0, ALLOWED_IP_ADDR + 8);
  } else {
    store<u64>(dst, bswap<u64>(n.hi), ALLOWED_IP_ADDR);
    store<u64>(dst, bswap<u64>(n.lo), ALLOWED_IP_ADDR + 8);
  }
}
