// The exports of the core: forwarding only. What each takes and gives stands in abi.ts; who may call it, here.
//
// Keys, endpoints and prefixes are handed over at an address, as a rule the caller's THREAD_ARGUMENT. Before every call
// the host writes the clocks (THREAD_MONO, and THREAD_WALL for the main thread) and tops up THREAD_RANDOM; after every
// call it looks at THREAD_KICK.

import {
  ALLOWED_IP_ADDR, ALLOWED_IP_CIDR, ALLOWED_IP_FAMILY, BAD_ARGUMENT, DEVICE_NODE_COUNT, DEVICE_NODE_LIMIT,
  FULL, KEY_LOG, KEY_LOG_END, NOT_FOUND, OK, PEER_INFO_DROPS, PEER_INFO_ENDPOINT, PEER_INFO_HANDSHAKE_ATTEMPTS,
  PEER_INFO_LAST_HANDSHAKE_NSEC, PEER_INFO_LAST_HANDSHAKE_SEC, PEER_INFO_PERSISTENT_KEEPALIVE,
  PEER_INFO_PRESHARED_KEY, PEER_INFO_PUBLIC_KEY, PEER_INFO_RX_BYTES, PEER_INFO_RX_PACKETS, PEER_INFO_SESSIONS,
  PEER_INFO_SIZE, PEER_INFO_STAGED, PEER_INFO_TX_BYTES, PEER_INFO_TX_PACKETS, THREAD_ALLOWED_IP, THREAD_PEER_INFO,
} from "./abi";
import { x25519Public } from "./crypto/x25519";
import { bindThread, copy32, layOut, threadBase, wipe } from "./memory";
import { enterRun, forgetRun, leaveRun, writeBegin, writeEnd } from "./threads/lock";
import {
  allowedIpAfter, allowedIpFirst as firstNode, allowedIpInsert, allowedIpRead, allowedIpRemove as removeNode,
  allowedIpRemoveAll,
} from "./tunnel/allowedips";
import { deviceIsUp, DEVICE_KEY_LOG, DEVICE_MTU, DEVICE_OFFLOAD, DEVICE_UP, peerIsPresent } from "./tunnel/device";
import { clearSource, readEndpoint, setEndpoint } from "./tunnel/endpoint";
import { keyLookup } from "./tunnel/keytable";
import {
  NO_PEER, NO_SESSION, peerAt, peerListFirst, PENDING_FLUSH, PENDING_HANDSHAKE, PENDING_KEEPALIVE,
} from "./tunnel/peer";
import { disarm, post, TIMER_SEND_PERSISTENT_KEEPALIVE } from "./tunnel/timers";

// --- any thread -----------------------------------------------------------------------------------------------------------

/** Pages of 64 KiB that a device of these counts takes; 0 = out of range. The one call that needs no device. */
export function memoryPages(maxPeers: u32, maxNodes: u32, threads: u32): u32 {
  return layOut(0, maxPeers, maxNodes, threads);
}

/** Makes this instance a thread's own: 0 = main. First call of every instance. */
export function threadInit(thread: u32): void {
  bindThread(thread);
}

export { deviceSend } from "./tunnel/send";
export { deviceReceive } from "./tunnel/receive";

/** Forgets the sticky source of a peer: sending from it failed. */
export function peerClearSource(peer: u32): i32 {
  // In a run: a peer removed between the two words of its sequence lock would leave it odd for ever.
  enterRun();
  const present = peerIsPresent(peer);
  if (present) clearSource(peerAt(peer));
  leaveRun();
  return present ? OK : NOT_FOUND;
}

// --- main thread: the device ------------------------------------------------------------------------------------------------

export { deviceInit, deviceSetPrivateKey, deviceWipe } from "./tunnel/device";
export { deviceService, deviceNextDeadline } from "./tunnel/service";
import { deviceDown as stop } from "./tunnel/device";

/** Lets packets pass; persistent keepalives are sent, and whatever was staged. deviceService does the work. */
export function deviceUp(): void {
  if (deviceIsUp()) return;
  store<u32>(DEVICE_UP, 1);
  for (let number = peerListFirst(); number != NO_PEER; number = peerAt(number).listNext)
    post(peerAt(number), peerAt(number).persistentKeepalive ? PENDING_KEEPALIVE : PENDING_FLUSH);
}

/** Stops all traffic; sessions and handshakes are wiped, the configuration stays. */
export function deviceDown(): void {
  if (deviceIsUp()) stop();
}

/** The TUN's MTU: packets are not padded past it. 0 = no limit. */
export function deviceSetMtu(mtu: u32): void {
  store<u32>(DEVICE_MTU, mtu);
}

/** 1: each handshake hands out our private ephemeral key (EVENT_EPHEMERAL), for a key log. 0, as at first: never. */
export function deviceSetKeyLog(on: u32): void {
  store<u32>(DEVICE_KEY_LOG, on);
  if (!on) wipe(KEY_LOG, KEY_LOG_END - KEY_LOG);
}

/** What the TUN can do: OFFLOAD_* of abi.ts. Before the first packet. */
export function deviceSetOffload(offload: u32): void {
  store<u32>(DEVICE_OFFLOAD, offload);
}

/** Forgets every sticky source: an address or a route of this machine changed. */
export function deviceClearSources(): void {
  for (let number = peerListFirst(); number != NO_PEER; number = peerAt(number).listNext) clearSource(peerAt(number));
}

/** Call when worker `thread` has ended, however it did. */
export function threadEnded(thread: u32): void {
  forgetRun(thread);
}

/** Writes the public key of the private key at `key` (clamped on the way) to `dst`. */
export function publicKey(dst: usize, key: usize): void {
  x25519Public(dst, key);
}

// --- main thread: peers --------------------------------------------------------------------------------------------------------

export { peerAdd, peerRemove } from "./tunnel/device";

/** The peer with the public key at `key`, or NOT_FOUND. */
export function peerFind(key: usize): i32 {
  const number = keyLookup(key);
  return number < 0 ? NOT_FOUND : number;
}

/** First peer in order of adding, or NOT_FOUND. */
export function peerFirst(): i32 {
  const number = peerListFirst();
  return number == NO_PEER ? NOT_FOUND : <i32>number;
}

/** The peer after this one, or NOT_FOUND. */
export function peerNext(peer: u32): i32 {
  if (!peerIsPresent(peer)) return NOT_FOUND;
  const next = peerAt(peer).listNext;
  return next == NO_PEER ? NOT_FOUND : <i32>next;
}

/** Sets the preshared key for handshakes to come; 32 zero bytes take it away. */
export function peerSetPresharedKey(peer: u32, key: usize): i32 {
  if (!peerIsPresent(peer)) return NOT_FOUND;
  copy32(peerAt(peer).presharedKey, key);
  return OK;
}

/** Sets where the peer is: an ENDPOINT record. */
export function peerSetEndpoint(peer: u32, endpoint: usize): i32 {
  if (!peerIsPresent(peer)) return NOT_FOUND;
  const family = load<u16>(endpoint);
  if (family != 4 && family != 6) return BAD_ARGUMENT;
  setEndpoint(peerAt(peer), endpoint);
  post(peerAt(peer), PENDING_FLUSH);
  return OK;
}

/** @param seconds 1..65535, 0 = off; from off to on, one is sent at once */
export function peerSetPersistentKeepalive(peer: u32, seconds: u32): i32 {
  if (!peerIsPresent(peer)) return NOT_FOUND;
  if (seconds > 65535) return BAD_ARGUMENT;
  const p = peerAt(peer);
  const was = p.persistentKeepalive;
  p.persistentKeepalive = seconds;
  if (!seconds) disarm(p, TIMER_SEND_PERSISTENT_KEEPALIVE);
  else if (!was && deviceIsUp()) post(p, PENDING_KEEPALIVE);
  return OK;
}

/** Asks for a handshake now, unless one began within REKEY_TIMEOUT. */
export function peerHandshake(peer: u32): i32 {
  if (!peerIsPresent(peer)) return NOT_FOUND;
  if (deviceIsUp()) post(peerAt(peer), PENDING_HANDSHAKE);
  return OK;
}

/** Asks for a keepalive now. */
export function peerKeepalive(peer: u32): i32 {
  if (!peerIsPresent(peer)) return NOT_FOUND;
  if (deviceIsUp()) post(peerAt(peer), PENDING_KEEPALIVE);
  return OK;
}

/** Writes the PEER_INFO record of this thread. It holds the preshared key: the host wipes it when it has read it. */
export function peerInfo(peer: u32): i32 {
  if (!peerIsPresent(peer)) return NOT_FOUND;
  const p = peerAt(peer);
  const info = threadBase + THREAD_PEER_INFO;
  wipe(info, PEER_INFO_SIZE);
  copy32(info + PEER_INFO_PUBLIC_KEY, p.publicKey);
  copy32(info + PEER_INFO_PRESHARED_KEY, p.presharedKey);
  readEndpoint(info + PEER_INFO_ENDPOINT, p);
  store<u64>(info, p.lastHandshakeSec, PEER_INFO_LAST_HANDSHAKE_SEC);
  store<u32>(info, p.lastHandshakeNsec, PEER_INFO_LAST_HANDSHAKE_NSEC);
  store<u32>(info, p.persistentKeepalive, PEER_INFO_PERSISTENT_KEEPALIVE);
  store<u64>(info, p.rxBytes, PEER_INFO_RX_BYTES);
  store<u64>(info, p.txBytes, PEER_INFO_TX_BYTES);
  store<u64>(info, p.rxPackets, PEER_INFO_RX_PACKETS);
  store<u64>(info, p.txPackets, PEER_INFO_TX_PACKETS);
  store<u64>(info, p.drops, PEER_INFO_DROPS);
  store<u32>(info, p.stagedCount, PEER_INFO_STAGED);
  const sessions: u32 =
    (p.previous != NO_SESSION ? 1 : 0) | (p.current != NO_SESSION ? 2 : 0) | (p.next != NO_SESSION ? 4 : 0);
  store<u32>(info, sessions, PEER_INFO_SESSIONS);
  store<u32>(info, p.handshakeAttempts, PEER_INFO_HANDSHAKE_ATTEMPTS);
  return OK;
}

// --- main thread: allowed IPs ------------------------------------------------------------------------------------------------------

/** Whether `prefixes` more are sure to fit: each takes two nodes at most. */
export function allowedIpRoom(prefixes: u32): i32 {
  return load<u32>(DEVICE_NODE_COUNT) + prefixes * 2 <= load<u32>(DEVICE_NODE_LIMIT) ? OK : FULL;
}

/** Gives the peer the prefix of the ALLOWED_IP record; another owner loses it. @returns OK, FULL, BAD_ARGUMENT, NOT_FOUND */
export function allowedIpAdd(peer: u32, record: usize): i32 {
  if (!peerIsPresent(peer)) return NOT_FOUND;
  const family = load<u32>(record, ALLOWED_IP_FAMILY);
  const cidr = load<u32>(record, ALLOWED_IP_CIDR);
  writeBegin();
  const status = allowedIpInsert(family, record + ALLOWED_IP_ADDR, cidr, peer);
  writeEnd();
  return status;
}

/** Takes the prefix from the peer, if it has it. @returns OK, BAD_ARGUMENT, NOT_FOUND (no such peer) */
export function allowedIpRemove(peer: u32, record: usize): i32 {
  if (!peerIsPresent(peer)) return NOT_FOUND;
  const family = load<u32>(record, ALLOWED_IP_FAMILY);
  const cidr = load<u32>(record, ALLOWED_IP_CIDR);
  writeBegin();
  const status = removeNode(family, record + ALLOWED_IP_ADDR, cidr, peer);
  writeEnd();
  return status;
}

/** Takes all prefixes from the peer. */
export function allowedIpClear(peer: u32): i32 {
  if (!peerIsPresent(peer)) return NOT_FOUND;
  writeBegin();
  allowedIpRemoveAll(peer);
  writeEnd();
  return OK;
}

/** The peer's first prefix: its node, with the ALLOWED_IP record of this thread written; 0 = none. */
export function allowedIpFirst(peer: u32): u32 {
  if (!peerIsPresent(peer)) return 0;
  return read(firstNode(peer));
}

/** The prefix after `node`, in the same way. */
export function allowedIpNext(node: u32): u32 {
  return read(allowedIpAfter(node));
}

function read(node: u32): u32 {
  if (node) allowedIpRead(node, threadBase + THREAD_ALLOWED_IP);
  return node;
}
