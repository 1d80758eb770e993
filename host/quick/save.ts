// SaveConfig: the configuration as it is now, in the file's place. What `wg showconf` writes, with wg-quick's own keys
// before it. Unlike wg-quick's it keeps the names of endpoints, which the device does not know, and all of DNS.

import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
import { formatEndpoint, isAddress } from "../endpoint.ts";
import { formatIp, formatPrefix } from "../ip.ts";
import { encodeBase64Key, isZeroKey } from "../keys.ts";
import type { DeviceState, PeerState } from "../model.ts";
import { currentAddresses, ip, type Quick } from "./link.ts";

/** Replaces the file, whole or not at all, and nobody else can read it at any time. */
export async function saveConfig(quick: Quick, path: string, state: DeviceState): Promise<void> {
  const link = await quick.system.query(ip(quick, "link", "show", "dev", quick.name));
  const mtu = Number(/mtu (\d+)/.exec(link)?.[1] ?? 0);
  const text = formatConfig(quick, state, await currentAddresses(quick), mtu || undefined);
  const draft = `${path}.tmp`;
  quick.system.say(`[+] ${path} saved`);
  try {
    rmSync(draft, { force: true });
    const file = openSync(draft, "wx", 0o600);
    try {
      writeSync(file, text);
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
    renameSync(draft, path);
  } catch (error) {
    rmSync(draft, { force: true });
    throw error;
  }
}

/**
 * @param addresses  of the interface, as text
 * @param mtu  of the interface; only kept where the configuration had one
 */
export function formatConfig(
  { config }: Pick<Quick, "config">,
  state: DeviceState,
  addresses: string[],
  mtu?: number,
): string {
  const { dns, searchDomains, mtu: configured, table, saveConfig, preUp, postUp, preDown, postDown } = config.interface;
  const names = new Map(config.peers.map(({ publicKey, endpoint }) => [encodeBase64Key(publicKey), endpoint]));
  const sections = [
    section("Interface", [
      ...addresses.map((address) => ["Address", address]),
      ...dns.map(({ address }) => ["DNS", formatIp(address)]),
      ...searchDomains.map((domain) => ["DNS", domain]),
      ["MTU", configured === undefined ? undefined : mtu],
      ["Table", table],
      ["SaveConfig", saveConfig ? "true" : undefined],
      ...preUp.map((line) => ["PreUp", line]),
      ...postUp.map((line) => ["PostUp", line]),
      ...preDown.map((line) => ["PreDown", line]),
      ...postDown.map((line) => ["PostDown", line]),
      ["ListenPort", state.listenPort || undefined],
      ["FwMark", state.fwmark ? `0x${state.fwmark.toString(16)}` : undefined],
      ["PrivateKey", state.privateKey ? encodeBase64Key(state.privateKey) : undefined],
    ]),
    ...state.peers.map((peer) => formatPeer(peer, names.get(encodeBase64Key(peer.publicKey)))),
  ];
  return sections.join("\n");
}

function formatPeer(peer: PeerState, configured: { host: string; port: number } | undefined): string {
  const named = configured && !isAddress(configured.host) ? `${configured.host}:${configured.port}` : undefined;
  return section("Peer", [
    ["PublicKey", encodeBase64Key(peer.publicKey)],
    ["PresharedKey", isZeroKey(peer.presharedKey) ? undefined : encodeBase64Key(peer.presharedKey)],
    ["AllowedIPs", peer.allowedIps.map(formatPrefix).join(", ") || undefined],
    ["Endpoint", named ?? (peer.endpoint ? formatEndpoint(peer.endpoint) : undefined)],
    ["PersistentKeepalive", peer.persistentKeepalive || undefined],
  ]);
}

function section(name: string, keys: (string | number | undefined)[][]): string {
  const lines = keys.filter(([, value]) => value !== undefined).map(([key, value]) => `${key} = ${value}`);
  return `[${name}]\n${lines.map((line) => `${line}\n`).join("")}`;
}
