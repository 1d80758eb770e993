// What `wasmguard show` prints: the screen of `wg show`, or JSON for programs. Keys that are secret never leave here.
// Pure: the time is an argument, colors are a choice of the caller.

import { formatEndpoint } from "./endpoint.ts";
import { formatIp, formatPrefix } from "./ip.ts";
import { encodeBase64Key, isZeroKey } from "./keys.ts";
import type { DeviceState, PeerState, Statistics } from "./model.ts";

const BOLD = 1;
const RED = 31;
const GREEN = 32;
const YELLOW = 33;
const CYAN = 36;

/** Wraps text in terminal attributes, or gives it back as it is. */
type Paint = (text: string, ...attributes: number[]) => string;

const plain: Paint = (text) => text;
const colored: Paint = (text, ...attributes) => `${attributes.map((n) => `\x1b[${n}m`).join("")}${text}\x1b[0m`;

/** seconds */
const UNITS: [name: string, seconds: number][] = [
  ["year", 365 * 24 * 60 * 60],
  ["day", 24 * 60 * 60],
  ["hour", 60 * 60],
  ["minute", 60],
  ["second", 1],
];

/**
 * The lines of `wg show NAME`, each with its end, and after them the packets that were refused, by reason.
 * @param publicKey   the device's own, null without a private key
 * @param nowSec      Unix time, whole seconds
 * @param statistics  of our own daemons alone
 */
export function formatShow(
  name: string,
  state: DeviceState,
  publicKey: Uint8Array | null,
  color: boolean,
  nowSec = Math.floor(Date.now() / 1000),
  statistics: Statistics | null = null,
): string {
  const paint = color ? colored : plain;
  const lines = [`${paint("interface", GREEN, BOLD)}: ${paint(name, GREEN)}`];
  const field = (label: string, value: string) => lines.push(`  ${paint(label, BOLD)}: ${value}`);
  if (publicKey !== null) field("public key", encodeBase64Key(publicKey));
  if (state.privateKey !== null) field("private key", "(hidden)");
  if (state.listenPort !== 0) field("listening port", String(state.listenPort));
  if (state.fwmark !== 0) field("fwmark", `0x${state.fwmark.toString(16)}`);

  for (const peer of [...state.peers].sort(byLatestHandshake)) {
    lines.push("", `${paint("peer", YELLOW, BOLD)}: ${paint(encodeBase64Key(peer.publicKey), YELLOW)}`);
    if (!isZeroKey(peer.presharedKey)) field("preshared key", "(hidden)");
    if (peer.endpoint !== null) field("endpoint", formatEndpoint(peer.endpoint));
    field("allowed ips", formatAllowedIps(peer, paint));
    const handshakeSec = Number(peer.lastHandshake.sec);
    if (handshakeSec !== 0) field("latest handshake", formatAgo(nowSec - handshakeSec, paint));
    if (peer.rxBytes !== 0n || peer.txBytes !== 0n) {
      field("transfer", `${formatBytes(peer.rxBytes, paint)} received, ${formatBytes(peer.txBytes, paint)} sent`);
    }
    if (peer.persistentKeepalive !== 0) {
      field("persistent keepalive", `every ${formatDuration(peer.persistentKeepalive, paint)}`);
    }
  }
  const drops = Object.entries(statistics?.drops ?? {});
  if (drops.length > 0) lines.push("", `${paint("refused packets", RED, BOLD)}:`);
  for (const [reason, count] of drops) field(spell(reason), String(count));
  return lines.join("\n") + "\n";
}

/** "outNoRoute" is "out no route". */
function spell(reason: string): string {
  return reason.replace(/[A-Z]+/g, (part) => ` ${part.toLowerCase()}`);
}

/** One interface as a plain value for JSON.stringify; of secret keys it says only whether they are set. */
export function toJson(name: string, state: DeviceState, publicKey: Uint8Array | null, statistics: Statistics | null = null): object {
  return {
    name,
    publicKey: publicKey && encodeBase64Key(publicKey),
    hasPrivateKey: state.privateKey !== null,
    listenPort: state.listenPort,
    fwmark: state.fwmark,
    peers: state.peers.map((peer) => ({
      publicKey: encodeBase64Key(peer.publicKey),
      hasPresharedKey: !isZeroKey(peer.presharedKey),
      endpoint: peer.endpoint && formatEndpoint(peer.endpoint),
      allowedIps: peer.allowedIps.map(formatPrefix),
      latestHandshake: Number(peer.lastHandshake.sec), // Unix time, 0 = never
      rxBytes: Number(peer.rxBytes),
      txBytes: Number(peer.txBytes),
      persistentKeepalive: peer.persistentKeepalive,
    })),
    ...(statistics && {
      refused: Object.fromEntries(Object.entries(statistics.drops).map(([reason, count]) => [reason, Number(count)])),
      events: statistics.events,
    }),
  };
}

/** The latest first, those without a handshake last. */
function byLatestHandshake(a: PeerState, b: PeerState): number {
  const seconds = Number(b.lastHandshake.sec) - Number(a.lastHandshake.sec);
  return seconds || b.lastHandshake.nsec - a.lastHandshake.nsec;
}

function formatAllowedIps(peer: PeerState, paint: Paint): string {
  const ips = peer.allowedIps.map(({ address, cidr }) => `${formatIp(address)}${paint("/", CYAN)}${cidr}`);
  return ips.join(", ") || "(none)";
}

function formatAgo(seconds: number, paint: Paint): string {
  if (seconds === 0) return "Now";
  if (seconds < 0) return `(${paint("System clock wound backward; connection problems may ensue.", RED)})`;
  return `${formatDuration(seconds, paint)} ago`;
}

function formatDuration(seconds: number, paint: Paint): string {
  const parts: string[] = [];
  let left = seconds;
  for (const [name, length] of UNITS) {
    const count = Math.floor(left / length);
    left %= length;
    if (count > 0) parts.push(`${count} ${paint(count === 1 ? name : `${name}s`, CYAN)}`);
  }
  return parts.join(", ");
}

function formatBytes(bytes: bigint, paint: Paint): string {
  if (bytes < 1024n) return `${bytes} ${paint("B", CYAN)}`;
  const units = ["KiB", "MiB", "GiB", "TiB"];
  let value = Number(bytes) / 1024;
  while (value >= 1024 && units.length > 1) {
    value /= 1024;
    units.shift();
  }
  return `${value.toFixed(2)} ${paint(units[0], CYAN)}`;
}
