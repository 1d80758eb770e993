// The device: configuration and state over the core's main thread, for the UAPI, the command and embedding programs.
//
// A change is checked whole, then the socket is bound, then it is applied: what can fail comes first, so that a refused
// change leaves nothing behind. Where packets come from and go to is a Network's business (a daemon's lanes, or one
// event loop).

import {
  ALLOWED_IP_ADDR, ALLOWED_IP_CIDR, ALLOWED_IP_FAMILY, ALLOWED_IP_SIZE, DEVICE_DROPS, DEVICE_NODE_COUNT,
  DEVICE_NODE_LIMIT, DEVICE_PEER_COUNT, DEVICE_PEER_LIMIT, DEVICE_PUBLIC_KEY, DROP_COUNT, ENDPOINT_LEN, EXISTS, NOT_FOUND, OWN_KEY,
  PEER_INFO_ENDPOINT, PEER_INFO_LAST_HANDSHAKE_NSEC, PEER_INFO_LAST_HANDSHAKE_SEC,
  PEER_INFO_PERSISTENT_KEEPALIVE, PEER_INFO_PRESHARED_KEY, PEER_INFO_PUBLIC_KEY, PEER_INFO_RX_BYTES,
  PEER_INFO_TX_BYTES, THREAD_ALLOWED_IP, THREAD_PEER_INFO,
} from "../assembly/abi.ts";
import type { HandshakeKeys } from "./capture/keylog.ts";
import { type Core, statusError } from "./core.ts";
import type { Driver } from "./driver.ts";
import { type Endpoint, decodeEndpoint, encodeEndpoint } from "./endpoint.ts";
import { WasmguardError } from "./errors.ts";
import { type AllowedIp, formatPrefix, mask } from "./ip.ts";
import { clamp, encodeBase64Key, isZeroKey } from "./keys.ts";
import type { AllowedIpChange, Configurable, DeviceChange, DeviceState, PeerChange, PeerState } from "./model.ts";

/** The device's one UDP port, whatever carries it. */
export interface Network {
  /** 0 = not bound */
  readonly listenPort: number;
  readonly fwmark: number;
  /**
   * Prepares another port (0 = any) or mark. Nothing changes before commit(); rollback() gives up what was prepared.
   * @throws an error with a system `code` when the port is taken or the mark not permitted
   */
  prepare(change: { listenPort?: number; fwmark?: number }): Promise<{ commit(): void; rollback(): void }>;
}

/** drop reasons by name, as counters() reports them: abi.ts without DROP_ */
// prettier-ignore
export const DROP_NAMES = [
  "none", "truncated", "badLength", "badType", "badMac1", "badMac2", "rateLimited", "handshakeQueueFull",
  "badHandshake", "unknownPeer", "oldTimestamp", "handshakeFlood", "unknownIndex", "unexpectedResponse", "badCookie",
  "sessionExpired", "badTag", "replayed", "badInner", "badSource", "deviceDown", "noPrivateKey", "outNotIp",
  "outNoRoute", "outNoEndpoint", "outTooLong", "outStagedOverflow", "outPoolFull", "outDeviceDown", "outStagedPurged",
  "outBadOffload",
] as const;

export type DropName = (typeof DROP_NAMES)[number];

export interface DeviceOptions {
  core: Core;
  driver: Driver;
  network: Network;
}

export class Device implements Configurable {
  readonly #core: Core;
  readonly #driver: Driver;
  readonly #network: Network;
  #privateKey: Uint8Array | null = null;

  constructor(options: DeviceOptions) {
    this.#core = options.core;
    this.#driver = options.driver;
    this.#network = options.network;
  }

  /** Our public key, or null without a private one. */
  get publicKey(): Uint8Array | null {
    return this.#privateKey ? this.#core.u8.slice(DEVICE_PUBLIC_KEY, DEVICE_PUBLIC_KEY + 32) : null;
  }

  /** Lets packets pass. */
  up(): void {
    this.#core.exports.deviceUp();
    this.#driver.service();
  }

  /** Stops all traffic and wipes the sessions; the configuration stays. */
  down(): void {
    this.#core.exports.deviceDown();
    this.#driver.service();
  }

  setMtu(mtu: number): void {
    this.#core.exports.deviceSetMtu(mtu);
  }

  /** Forgets cached source addresses: routes or addresses of this machine changed. */
  clearSources(): void {
    this.#core.exports.deviceClearSources();
  }

  /** Datagrams and packets refused since the start, by reason; only reasons that occurred. */
  drops(): Partial<Record<DropName, bigint>> {
    const drops: Partial<Record<DropName, bigint>> = {};
    for (let reason = 1; reason < DROP_COUNT; reason++) {
      const count = this.#core.view.getBigUint64(DEVICE_DROPS + reason * 8, true);
      if (count) drops[DROP_NAMES[reason]] = count;
    }
    return drops;
  }

  state(): DeviceState {
    const peers: PeerState[] = [];
    for (let peer = this.#core.exports.peerFirst(); peer >= 0; peer = this.#core.exports.peerNext(peer)) {
      peers.push(this.#peerState(peer));
    }
    const { listenPort, fwmark } = this.#network;
    return { privateKey: this.#privateKey?.slice() ?? null, listenPort, fwmark, peers };
  }

  /** The public key and the endpoint of a peer by its number, as events have it; null when it is gone. */
  peerIdentity(peer: number): { publicKey: Uint8Array; endpoint: Endpoint | null } | null {
    if (this.#core.exports.peerInfo(peer) < 0) return null;
    const publicKey = this.#core.u8.slice(this.#infoAt(PEER_INFO_PUBLIC_KEY), this.#infoAt(PEER_INFO_PUBLIC_KEY) + 32);
    const endpoint = decodeEndpoint(this.#core.view, this.#infoAt(PEER_INFO_ENDPOINT));
    this.#wipeInfo();
    return { publicKey, endpoint };
  }

  /** A name for logs: the ends of the peer's public key. */
  peerName(peer: number): string {
    const identity = this.peerIdentity(peer);
    if (identity === null) return "peer(removed)";
    const text = encodeBase64Key(identity.publicKey);
    return `peer(${text.slice(0, 4)}…${text.slice(39, 43)})`;
  }

  /** What a key log says of a handshake with this peer. The caller wipes it. @returns null when the peer is gone */
  handshakeKeys(peer: number, localEphemeralPrivate: Uint8Array): HandshakeKeys | null {
    if (!this.#privateKey || this.#core.exports.peerInfo(peer) < 0) return null;
    const copy = (field: number) => new Uint8Array(this.#core.u8.slice(this.#infoAt(field), this.#infoAt(field) + 32));
    const keys = {
      localStaticPrivate: this.#privateKey.slice(),
      remoteStaticPublic: copy(PEER_INFO_PUBLIC_KEY),
      localEphemeralPrivate,
      presharedKey: copy(PEER_INFO_PRESHARED_KEY),
    };
    this.#wipeInfo();
    return keys;
  }

  /** Begins a handshake with every peer, without waiting for a packet; who has no endpoint is passed over. */
  beginHandshakes(): void {
    this.#driver.service(); // the clock is stamped by it
    const { exports } = this.#core;
    for (let peer = exports.peerFirst(); peer >= 0; peer = exports.peerNext(peer)) exports.peerHandshake(peer);
    this.#driver.service();
  }

  /** Our private key, or null; the caller wipes it. */
  privateKey(): Uint8Array | null {
    return this.#privateKey?.slice() ?? null;
  }

  async apply(change: DeviceChange): Promise<void> {
    this.#checkRoom(change);
    const { listenPort, fwmark } = change;
    const network = await this.#network.prepare({ listenPort, fwmark });
    try {
      if (change.privateKey) this.#setPrivateKey(change.privateKey);
      if (change.replacePeers) this.#removeAllPeers();
      for (const peer of change.peers) this.#applyPeer(peer);
    } catch (error) {
      network.rollback();
      throw error;
    }
    network.commit();
    this.#driver.service();
  }

  /** Wipes every key and peer; the device is of no use after it. */
  close(): void {
    this.#driver.close();
    this.#privateKey?.fill(0);
    this.#privateKey = null;
    this.#core.exports.deviceWipe();
  }

  // A change that would fill a pool is refused before anything is touched. Counted as if every prefix were new; who has
  // which prefixes is looked up only when that sum would not fit, so that a small change costs no walk of all peers.
  #checkRoom(change: DeviceChange): void {
    const { view } = this.#core;
    const peers = view.getUint32(DEVICE_PEER_COUNT, true) + change.peers.length;
    const prefixes = change.peers.reduce((sum, peer) => sum + peer.allowedIps.length, 0);
    const used = view.getUint32(DEVICE_NODE_COUNT, true) + prefixes * 2;
    if (peers <= view.getUint32(DEVICE_PEER_LIMIT, true) && used <= view.getUint32(DEVICE_NODE_LIMIT, true)) return;
    const known = new Map<string, number>(); // public key -> prefixes
    let nodes = view.getUint32(DEVICE_NODE_COUNT, true);
    if (change.replacePeers) nodes = 0;
    else if (change.peers.length > 0) {
      for (const { publicKey, allowedIps } of this.state().peers) known.set(encodeBase64Key(publicKey), allowedIps.length);
    }
    for (const peer of change.peers) {
      const key = encodeBase64Key(peer.publicKey);
      const prefixes = known.get(key);
      if (prefixes !== undefined && (peer.remove || peer.replaceAllowedIps)) nodes -= prefixes;
      if (peer.remove) known.delete(key);
      else if (prefixes !== undefined || !peer.updateOnly) {
        const added = peer.allowedIps.filter((ip) => !ip.remove).length;
        nodes += added * 2;
        known.set(key, (peer.replaceAllowedIps ? 0 : (prefixes ?? 0)) + added);
      }
    }
    const maxPeers = view.getUint32(DEVICE_PEER_LIMIT, true);
    if (known.size > maxPeers) {
      throw new WasmguardError("ENOMEM", `Cannot have ${known.size} peers: the limit is ${maxPeers} (--max-peers)`);
    }
    const maxNodes = view.getUint32(DEVICE_NODE_LIMIT, true);
    if (nodes > maxNodes) {
      throw new WasmguardError("ENOMEM", `Cannot add the allowed IPs: there is room for ${maxNodes / 2} (--max-allowed-ips)`);
    }
  }

  #setPrivateKey(key: Uint8Array): void {
    this.#privateKey?.fill(0);
    this.#privateKey = null;
    if (!isZeroKey(key)) {
      this.#privateKey = key.slice();
      clamp(this.#privateKey);
    }
    this.#core.withArgument(key, (address) => this.#core.exports.deviceSetPrivateKey(address));
  }

  #removeAllPeers(): void {
    for (let peer = this.#core.exports.peerFirst(); peer >= 0; peer = this.#core.exports.peerFirst()) {
      this.#core.exports.peerRemove(peer);
    }
  }

  #applyPeer(change: PeerChange): void {
    const { exports } = this.#core;
    const find = (): number => this.#core.withArgument(change.publicKey, (address) => exports.peerFind(address));
    if (change.remove) {
      const peer = find();
      if (peer >= 0) exports.peerRemove(peer);
      return;
    }
    let peer = change.updateOnly ? find() : this.#core.withArgument(change.publicKey, (at) => exports.peerAdd(at));
    if (peer === OWN_KEY || (peer === NOT_FOUND && change.updateOnly)) return;
    if (peer === EXISTS) peer = find();
    check("add a peer", peer);
    const { presharedKey, endpoint, persistentKeepalive } = change;
    if (presharedKey) {
      this.#core.withArgument(presharedKey, (at) => check("set a preshared key", exports.peerSetPresharedKey(peer, at)));
    }
    if (endpoint) this.#setEndpoint(peer, endpoint);
    if (change.replaceAllowedIps) this.#replaceAllowedIps(peer, change.allowedIps);
    else for (const { ip, remove } of change.allowedIps) this.#changeAllowedIp(peer, ip, remove);
    if (persistentKeepalive !== undefined) {
      check("set a persistent keepalive", exports.peerSetPersistentKeepalive(peer, persistentKeepalive));
    }
  }

  #setEndpoint(peer: number, endpoint: Endpoint): void {
    const { argument, view, u8, exports } = this.#core;
    u8.fill(0, argument, argument + ENDPOINT_LEN);
    encodeEndpoint(view, argument, endpoint);
    check("set an endpoint", exports.peerSetEndpoint(peer, argument));
  }

  // The new ones first, then the old ones that are not among them: `wg syncconf` sends every peer again, and a prefix that
  // stays must not be away for an instant, or a packet that comes just then is lost.
  #replaceAllowedIps(peer: number, changes: AllowedIpChange[]): void {
    const { exports } = this.#core;
    const fits = exports.allowedIpRoom(changes.length) >= 0;
    const before = fits ? this.#allowedIps(peer) : [];
    if (!fits) check("clear allowed IPs", exports.allowedIpClear(peer));
    const kept = new Set<string>();
    for (const { ip, remove } of changes) {
      this.#changeAllowedIp(peer, ip, remove);
      if (remove) kept.delete(prefixKey(ip));
      else kept.add(prefixKey(ip));
    }
    for (const ip of before) if (!kept.has(prefixKey(ip))) this.#changeAllowedIp(peer, ip, true);
  }

  #changeAllowedIp(peer: number, ip: AllowedIp, remove: boolean): void {
    const { argument, view, u8, exports } = this.#core;
    u8.fill(0, argument, argument + ALLOWED_IP_SIZE);
    view.setUint32(argument + ALLOWED_IP_FAMILY, ip.family, true);
    view.setUint32(argument + ALLOWED_IP_CIDR, ip.cidr, true);
    u8.set(ip.address, argument + ALLOWED_IP_ADDR);
    if (remove) check("remove an allowed IP", exports.allowedIpRemove(peer, argument));
    else check("add an allowed IP", exports.allowedIpAdd(peer, argument));
  }

  #infoAt(offset: number): number {
    return this.#core.base + THREAD_PEER_INFO + offset;
  }

  #wipeInfo(): void {
    const at = this.#infoAt(PEER_INFO_PRESHARED_KEY);
    this.#core.u8.fill(0, at, at + 32);
  }

  #peerState(peer: number): PeerState {
    const { u8, view, exports } = this.#core;
    check("read a peer", exports.peerInfo(peer));
    const at = (offset: number): number => this.#infoAt(offset);
    const state: PeerState = {
      publicKey: u8.slice(at(PEER_INFO_PUBLIC_KEY), at(PEER_INFO_PUBLIC_KEY) + 32),
      presharedKey: u8.slice(at(PEER_INFO_PRESHARED_KEY), at(PEER_INFO_PRESHARED_KEY) + 32),
      endpoint: decodeEndpoint(view, at(PEER_INFO_ENDPOINT)),
      lastHandshake: {
        sec: view.getBigInt64(at(PEER_INFO_LAST_HANDSHAKE_SEC), true),
        nsec: view.getUint32(at(PEER_INFO_LAST_HANDSHAKE_NSEC), true),
      },
      txBytes: view.getBigUint64(at(PEER_INFO_TX_BYTES), true),
      rxBytes: view.getBigUint64(at(PEER_INFO_RX_BYTES), true),
      persistentKeepalive: view.getUint32(at(PEER_INFO_PERSISTENT_KEEPALIVE), true),
      allowedIps: this.#allowedIps(peer),
    };
    this.#wipeInfo();
    return state;
  }

  #allowedIps(peer: number): AllowedIp[] {
    const { u8, view, exports } = this.#core;
    const record = this.#core.base + THREAD_ALLOWED_IP;
    const list: AllowedIp[] = [];
    for (let node = exports.allowedIpFirst(peer); node !== 0; node = exports.allowedIpNext(node)) {
      const family = view.getUint32(record + ALLOWED_IP_FAMILY, true) as 4 | 6;
      const addr = record + ALLOWED_IP_ADDR;
      const address = u8.slice(addr, addr + (family === 4 ? 4 : 16));
      list.push({ family, address, cidr: view.getUint32(record + ALLOWED_IP_CIDR, true) });
    }
    return list;
  }
}

/** The same for every address of a prefix: the core masks what it is given. */
function prefixKey({ family, address, cidr }: AllowedIp): string {
  const masked = address.slice();
  mask(masked, cidr);
  return formatPrefix({ family, address: masked, cidr });
}

function check(what: string, status: number): void {
  if (status < 0) throw statusError(what, status);
}
