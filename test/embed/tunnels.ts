// Two tunnels on the loopback, and what the suites of the embedding API measure them with.

import { createHash, type Hash } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { encodeBase64Key, generatePresharedKey, generatePrivateKey } from "../../host/keys.ts";
import type { PeerSettings, TunnelSettings } from "../../host/tunnel/settings.ts";
import { Tunnel, type TunnelOptions } from "../../host/tunnel/tunnel.ts";

export const LEFT = "10.77.0.1";
export const RIGHT = "10.77.0.2";
export const LEFT6 = "fd77::1";
export const RIGHT6 = "fd77::2";

export interface Pair {
  /** who calls: it knows where the other is */
  left: Tunnel;
  right: Tunnel;
  leftSettings: TunnelSettings;
  rightSettings: TunnelSettings;
  close(): Promise<void>;
}

export interface PairOptions {
  left?: Partial<TunnelSettings>;
  right?: Partial<TunnelSettings>;
  options?: TunnelOptions;
}

export function newPrivateKey(): string {
  return encodeBase64Key(generatePrivateKey());
}

/** The right one listens; the left one has its endpoint. */
export async function openPair({ left = {}, right = {}, options = {} }: PairOptions = {}): Promise<Pair> {
  const presharedKey = encodeBase64Key(generatePresharedKey());
  const rightSettings: TunnelSettings = {
    privateKey: newPrivateKey(),
    addresses: [`${RIGHT}/32`, `${RIGHT6}/128`],
    peers: [],
    ...right,
  };
  const rightTunnel = await Tunnel.open(rightSettings, { bindAddress: "127.0.0.1", ...options });
  const toRight: PeerSettings = {
    publicKey: rightTunnel.publicKey,
    presharedKey,
    allowedIps: ["0.0.0.0/0", "::/0"],
    endpoint: `127.0.0.1:${rightTunnel.listenPort}`,
  };
  const leftSettings: TunnelSettings = {
    privateKey: newPrivateKey(),
    addresses: [`${LEFT}/32`, `${LEFT6}/128`],
    peers: [toRight],
    ...left,
  };
  const leftTunnel = await Tunnel.open(leftSettings, { bindAddress: "127.0.0.1", ...options });
  await rightTunnel.setPeer({ publicKey: leftTunnel.publicKey, presharedKey, allowedIps: [LEFT, LEFT6] });
  return {
    left: leftTunnel,
    right: rightTunnel,
    leftSettings,
    rightSettings,
    async close() {
      await leftTunnel.close();
      await rightTunnel.close();
    },
  };
}

/** The text of a wg-quick file for the same tunnel. */
export function toText({ privateKey, addresses, dns = [], peers }: TunnelSettings): string {
  const lines = ["[Interface]", `PrivateKey = ${privateKey}`, `Address = ${addresses.join(", ")}`];
  if (dns.length > 0) lines.push(`DNS = ${dns.join(", ")}`);
  for (const peer of peers) {
    lines.push("", "[Peer]", `PublicKey = ${peer.publicKey}`, `AllowedIPs = ${peer.allowedIps.join(", ")}`);
    if (peer.presharedKey) lines.push(`PresharedKey = ${peer.presharedKey}`);
    if (peer.endpoint) lines.push(`Endpoint = ${peer.endpoint}`);
    if (peer.persistentKeepalive) lines.push(`PersistentKeepalive = ${peer.persistentKeepalive}`);
  }
  return `${lines.join("\n")}\n`;
}

/** The error that a promise rejects with. */
export async function rejection(promise: Promise<unknown>): Promise<Error & { code?: string }> {
  let value: unknown;
  try {
    value = await promise;
  } catch (error) {
    return error as Error & { code?: string };
  }
  throw new Error(`it was fulfilled, with ${String(value)}`);
}

/** Waits until something is so; fails with what it was waiting for. */
export async function until(what: string, isSo: () => boolean, limitMs = 10_000): Promise<void> {
  for (const end = performance.now() + limitMs; !isSo(); await sleep(5)) {
    if (performance.now() > end) throw new Error(`waited ${limitMs} ms in vain: ${what}`);
  }
}

/** Bytes that are never the same twice: a block out of place changes the digest. */
export function* pattern(total: number, blockSize = 61_001): Generator<Buffer> {
  let word = 1;
  for (let sent = 0; sent < total;) {
    const block = Buffer.alloc(Math.min(blockSize, total - sent));
    for (let i = 0; i + 4 <= block.length; i += 4) {
      block.writeUInt32LE(word = (Math.imul(word, 1664525) + 1013904223) >>> 0, i);
    }
    sent += block.length;
    yield block;
  }
}

export function digest(blocks: Iterable<Uint8Array>): string {
  const hash: Hash = createHash("sha256");
  for (const block of blocks) hash.update(block);
  return hash.digest("hex");
}
