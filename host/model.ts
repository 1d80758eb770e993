// What a device is and what can be asked of it, as the UAPI, the configuration file and `show` see it: plain data.
// device.ts does it over the core; everything else works on these types alone. A change is complete before it is
// applied, so that a refused one leaves nothing behind.

import type { Endpoint } from "./endpoint.ts";
import type { DeviceEvent } from "./events.ts";
import type { AllowedIp } from "./ip.ts";

export interface PeerState {
  /** 32 bytes, as every key here */
  publicKey: Uint8Array;
  /** zeros = none */
  presharedKey: Uint8Array;
  endpoint: Endpoint | null;
  /** Unix epoch; 0 s = never */
  lastHandshake: { sec: number | bigint; nsec: number };
  txBytes: bigint;
  rxBytes: bigint;
  /** seconds, 0 = off */
  persistentKeepalive: number;
  allowedIps: AllowedIp[];
}

export interface DeviceState {
  privateKey: Uint8Array | null;
  /** 0 = none yet */
  listenPort: number;
  /** 0 = off */
  fwmark: number;
  peers: PeerState[];
}

export interface AllowedIpChange {
  ip: AllowedIp;
  remove: boolean;
}

/** In the order of its fields: removed, or created if need be, then set; what is undefined stays as it is. */
export interface PeerChange {
  publicKey: Uint8Array;
  /** nothing else of this change counts */
  remove: boolean;
  /** an unknown peer is skipped, not created */
  updateOnly: boolean;
  /** zeros = none */
  presharedKey?: Uint8Array;
  endpoint?: Endpoint;
  persistentKeepalive?: number;
  /** before allowedIps */
  replaceAllowedIps: boolean;
  allowedIps: AllowedIpChange[];
}

/** In the order of its fields. The same peer may come more than once. */
export interface DeviceChange {
  /** zeros = remove it */
  privateKey?: Uint8Array;
  /** 0 = any */
  listenPort?: number;
  fwmark?: number;
  /** before peers */
  replacePeers: boolean;
  peers: PeerChange[];
}

export interface Configurable {
  state(): DeviceState;
  /** Whole or not at all. @throws an error with a system error `code`, or `errno` */
  apply(change: DeviceChange): void | Promise<void>;
}

/** Counts since the start. */
export interface Statistics {
  /** packets refused, by reason; only reasons that occurred */
  drops: Partial<Record<string, bigint>>;
  /** what happened, by event */
  events: Partial<Record<string, number>>;
}

/** A device that can be watched. */
export interface Observable extends Configurable {
  statistics(): Statistics;
  /** @returns what ends it */
  listen(listener: (event: DeviceEvent) => void): () => void;
}

/** A change that creates the peer if need be, and sets nothing. */
export function createPeerChange(publicKey: Uint8Array): PeerChange {
  return { publicKey, remove: false, updateOnly: false, replaceAllowedIps: false, allowedIps: [] };
}
