// The live view of `wasmguard show --watch`: peers with their rates of the last second and a minute as a sparkline. Pure:
// states and times in, text out.

import { formatEndpoint } from "./endpoint.ts";
import { encodeBase64Key } from "./keys.ts";
import type { DeviceState, PeerState, Statistics } from "./model.ts";

const SPARK = "▁▂▃▄▅▆▇█";
/** looks in a sparkline */
const SPARK_LEN = 30;

interface Track {
  rxBytes: bigint;
  txBytes: bigint;
  /** bytes a second at each look, the last one at the end */
  rates: number[];
  rx: number;
  tx: number;
}

/** What was seen of one interface so far. */
export class Watch {
  readonly #tracks = new Map<string, Track>();
  #at = 0;

  /** Another look. @param now  ms, of any clock that goes steadily */
  look(state: DeviceState, now: number): void {
    const seconds = this.#at === 0 ? 0 : (now - this.#at) / 1000;
    this.#at = now;
    const seen = new Set<string>();
    for (const peer of state.peers) {
      const key = encodeBase64Key(peer.publicKey);
      seen.add(key);
      const track = this.#tracks.get(key) ?? { rxBytes: peer.rxBytes, txBytes: peer.txBytes, rates: [], rx: 0, tx: 0 };
      // Counters begin anew when a peer is removed and added.
      const rate = (bytes: bigint, before: bigint) => (seconds > 0 && bytes >= before ? Number(bytes - before) / seconds : 0);
      track.rx = rate(peer.rxBytes, track.rxBytes);
      track.tx = rate(peer.txBytes, track.txBytes);
      track.rxBytes = peer.rxBytes;
      track.txBytes = peer.txBytes;
      track.rates = [...track.rates, track.rx + track.tx].slice(-SPARK_LEN);
      this.#tracks.set(key, track);
    }
    for (const key of this.#tracks.keys()) if (!seen.has(key)) this.#tracks.delete(key);
  }

  /**
   * The view, a line each peer, the busiest first.
   * @param rows  peers at most; 0 = all
   */
  format(name: string, state: DeviceState, statistics: Statistics | null, nowSec: number, rows = 0): string {
    const line = (...cells: string[]) =>
      cells.map((cell, i) => (i === 0 ? cell.padEnd(WIDTHS[i]) : i < 2 ? cell.padEnd(WIDTHS[i]) : cell.padStart(WIDTHS[i]))).join("  ").trimEnd();
    const track = (peer: PeerState) => this.#tracks.get(encodeBase64Key(peer.publicKey));
    const busy = (peer: PeerState) => (track(peer)?.rx ?? 0) + (track(peer)?.tx ?? 0);
    const peers = [...state.peers].sort((a, b) => busy(b) - busy(a) || Number(b.lastHandshake.sec) - Number(a.lastHandshake.sec));
    const shown = rows > 0 ? peers.slice(0, rows) : peers;
    const lines = [`${name}  port ${state.listenPort || "-"}  ${peers.length} ${peers.length === 1 ? "peer" : "peers"}`, line("peer", "endpoint", "handshake", "received", "sent", "rate")];
    for (const peer of shown) {
      const { rx, tx, rates } = track(peer)!;
      lines.push(
        line(
          `${encodeBase64Key(peer.publicKey).slice(0, 8)}…`, peer.endpoint ? formatEndpoint(peer.endpoint) : "-", age(nowSec - Number(peer.lastHandshake.sec), peer),
          perSecond(rx), perSecond(tx), sparkline(rates),
        ),
      );
    }
    if (shown.length < peers.length) lines.push(`... and ${peers.length - shown.length} more`);
    const drops = Object.entries(statistics?.drops ?? {}).map(([reason, count]) => `${reason} ${count}`);
    if (drops.length > 0) lines.push(`refused: ${drops.join(", ")}`);
    return `${lines.join("\n")}\n`;
  }
}

const WIDTHS = [9, 24, 10, 12, 12, 0];

function age(seconds: number, { lastHandshake }: PeerState): string {
  if (Number(lastHandshake.sec) === 0) return "never";
  if (seconds < 120) return `${Math.max(0, seconds)} s ago`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min ago`;
  return `${Math.floor(seconds / 3600)} h ago`;
}

function perSecond(bytes: number): string {
  let bits = bytes * 8;
  for (const unit of ["bit/s", "kbit/s", "Mbit/s"]) {
    if (bits < 1000) return `${bits < 10 && unit !== "bit/s" ? bits.toFixed(1) : bits.toFixed(0)} ${unit}`;
    bits /= 1000;
  }
  return `${bits.toFixed(2)} Gbit/s`;
}

/** Eight heights over the largest of them; spaces where nothing was seen yet. */
function sparkline(rates: number[]): string {
  const top = Math.max(...rates, 1);
  const bars = rates.map((rate) => SPARK[Math.min(SPARK.length - 1, Math.round((rate / top) * (SPARK.length - 1)))]).join("");
  return bars.padStart(SPARK_LEN);
}
