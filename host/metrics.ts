// Counters as Prometheus reads them: OpenMetrics 1.0, or the older text format 0.0.4 for whoever does not ask for the
// new one. Peers are named as prometheus_wireguard_exporter names them, so that its dashboards go on. Pure: state in,
// text out; keys that are secret are not looked at.

import { formatEndpoint } from "./endpoint.ts";
import { formatPrefix } from "./ip.ts";
import { encodeBase64Key } from "./keys.ts";
import type { DeviceState, PeerState } from "./model.ts";

export type MetricsFormat = "openmetrics" | "text";

export const CONTENT_TYPES: Record<MetricsFormat, string> = {
  openmetrics: "application/openmetrics-text; version=1.0.0; charset=utf-8",
  text: "text/plain; version=0.0.4; charset=utf-8",
};

export interface Sample {
  labels: Record<string, string>;
  value: number | bigint;
}

export interface MetricFamily {
  /** without the _total of a counter */
  name: string;
  type: "counter" | "gauge";
  help: string;
  samples: Sample[];
}

export interface InterfaceMetrics {
  name: string;
  state: DeviceState;
  /** by public key in base64 */
  friendlyNames?: ReadonlyMap<string, string>;
  /** packets dropped, by the reason's name */
  drops?: ReadonlyMap<string, number>;
}

/** All families, each once; one without a sample is left out. */
export function formatMetrics(families: readonly MetricFamily[], format: MetricsFormat): string {
  const lines: string[] = [];
  for (const { name, type, help, samples } of families) {
    if (samples.length === 0) continue;
    const sampleName = type === "counter" ? `${name}_total` : name;
    // OpenMetrics describes the family, the older format the very name of the samples.
    const described = format === "openmetrics" ? name : sampleName;
    lines.push(`# HELP ${described} ${escapeHelp(help)}`, `# TYPE ${described} ${type}`);
    for (const { labels, value } of samples) lines.push(`${sampleName}${formatLabels(labels)} ${value}`);
  }
  if (format === "openmetrics") lines.push("# EOF");
  return lines.length === 0 ? "" : `${lines.join("\n")}\n`;
}

/** What there is to tell of interfaces and their peers. */
export function deviceFamilies(interfaces: readonly InterfaceMetrics[]): MetricFamily[] {
  const ofPeers = (value: (peer: PeerState) => number | bigint): Sample[] =>
    interfaces.flatMap((each) =>
      each.state.peers.map((peer) => ({ labels: peerLabels(each, peer), value: value(peer) })),
    );
  const drops = interfaces.flatMap(({ name, drops: counts = new Map<string, number>() }) =>
    [...counts].map(([reason, value]) => ({ labels: { interface: name, reason }, value })),
  );
  return [
    counter(
      "wireguard_sent_bytes",
      "Bytes sent to the peer",
      ofPeers((peer) => peer.txBytes),
    ),
    counter(
      "wireguard_received_bytes",
      "Bytes received from the peer",
      ofPeers((peer) => peer.rxBytes),
    ),
    gauge(
      "wireguard_latest_handshake_seconds",
      "UNIX timestamp seconds of the last handshake, 0 = never",
      ofPeers((peer) => peer.lastHandshake.sec),
    ),
    gauge(
      "wireguard_persistent_keepalive_seconds",
      "Seconds between keepalives, 0 = off",
      ofPeers((peer) => peer.persistentKeepalive),
    ),
    counter("wasmguard_dropped_packets", "Packets that were dropped, by reason", drops),
  ];
}

export function counter(name: string, help: string, samples: Sample[]): MetricFamily {
  return { name, type: "counter", help, samples };
}

export function gauge(name: string, help: string, samples: Sample[]): MetricFamily {
  return { name, type: "gauge", help, samples };
}

function peerLabels({ name, friendlyNames }: InterfaceMetrics, peer: PeerState): Record<string, string> {
  const publicKey = encodeBase64Key(peer.publicKey);
  const friendly = friendlyNames?.get(publicKey);
  const endpoint = peer.endpoint && formatEndpoint(peer.endpoint);
  const colon = endpoint?.lastIndexOf(":") ?? 0;
  return {
    interface: name,
    public_key: publicKey,
    allowed_ips: peer.allowedIps.map(formatPrefix).join(","),
    ...(friendly === undefined ? {} : { friendly_name: friendly }),
    ...(endpoint
      ? { remote_ip: endpoint.slice(0, colon).replace(/[[\]]/g, ""), remote_port: endpoint.slice(colon + 1) }
      : {}),
  };
}

function formatLabels(labels: Record<string, string>): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escapeLabel(value)}"`);
  return pairs.length === 0 ? "" : `{${pairs.join(",")}}`;
}

function escapeLabel(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n").replaceAll('"', '\\"');
}

function escapeHelp(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n");
}
