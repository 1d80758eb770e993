// Why is it silent? Findings from what can be seen: the state, the reasons of refused packets, the link and the routes.
// Pure: evidence in, findings out; each finding says what was seen, so that a reader can judge it.

import { formatEndpoint } from "./endpoint.ts";
import { formatPrefix } from "./ip.ts";
import { encodeBase64Key } from "./keys.ts";
import type { DeviceState, PeerState, Statistics } from "./model.ts";

export interface LinkEvidence {
  up: boolean;
  mtu: number;
  /** "IP/cidr" */
  addresses: string[];
}

export interface Evidence {
  name: string;
  state: DeviceState;
  /** null when another WireGuard answers */
  statistics: Statistics | null;
  /** null when there is no such interface in this network namespace */
  link: LinkEvidence | null;
  /** the interface that the system's routes give for a peer's endpoint, by public key; absent where it was not asked */
  endpointRoutes: ReadonlyMap<string, string | null>;
  /** the same for an address of its allowed IPs */
  innerRoutes: ReadonlyMap<string, string | null>;
  /** largest packet of the way to the endpoint, bytes, by public key */
  endpointMtus: ReadonlyMap<string, number>;
  /** Unix time, s */
  nowSec: number;
}

export interface Finding {
  level: "ok" | "hint" | "problem";
  /** base64; null = the interface */
  peer: string | null;
  text: string;
  evidence: string;
}

/** §6.1: no session lives longer */
const SESSION_S = 180;
/** outer IP (40), UDP (8), header (16) and tag (16) */
const OVERHEAD_MAX = 80;
const OVERHEAD_IPV4 = 60;

interface Cause {
  level: Finding["level"];
  text: string;
}

// What a reason says about the other side, when nothing else is known.
const CAUSES: Record<string, Cause> = {
  badMac1: { level: "problem", text: "handshakes come that are not for our key: a peer has another public key of ours configured, or somebody probes the port" },
  badHandshake: { level: "problem", text: "handshakes do not decrypt: the preshared keys differ, or a peer has a wrong key of ours" },
  unknownPeer: { level: "problem", text: "an authentic peer shakes hands that is not configured here: add its public key" },
  oldTimestamp: { level: "problem", text: "initiations come with an older time than before: the peer's clock went backwards, or somebody replays" },
  handshakeFlood: { level: "hint", text: "a peer begins more than 50 handshakes a second" },
  unexpectedResponse: { level: "hint", text: "responses come that no initiation of ours waits for: late ones, or two answer for one" },
  unknownIndex: { level: "hint", text: "messages come for sessions that are gone, as after a restart: the peer begins anew by itself" },
  badTag: { level: "problem", text: "data does not decrypt: packets are changed on the way" },
  replayed: { level: "hint", text: "packets come twice, or much too late" },
  badSource: { level: "problem", text: "a peer sends from addresses that are not in its allowed IPs here: widen them, or mend its address" },
  badInner: { level: "hint", text: "a peer sends something that is not an IP packet" },
  truncated: { level: "problem", text: "datagrams arrive cut off" },
  rateLimited: { level: "hint", text: "too many handshakes from one source: we are under load" },
  noPrivateKey: { level: "problem", text: "handshakes come, and this interface has no private key" },
  deviceDown: { level: "problem", text: "packets come while the interface is down" },
  // The system's own multicast, as for IPv6 neighbours, goes this way on every interface.
  outNoRoute: { level: "hint", text: "packets are sent into the tunnel that no peer's allowed IPs hold" },
  outNoEndpoint: { level: "problem", text: "packets wait for a peer whose endpoint is not known: set one, or let the peer begin" },
  outTooLong: { level: "problem", text: "packets are longer than a datagram can be" },
  outStagedOverflow: { level: "hint", text: "more packets waited for a handshake than are kept" },
  outStagedPurged: { level: "hint", text: "packets waited in vain for a handshake" },
  outPoolFull: { level: "hint", text: "the room for waiting packets was used up" },
};

export function diagnose(evidence: Evidence): Finding[] {
  const findings: Finding[] = [];
  const { name, state, link, statistics } = evidence;
  const add = (level: Finding["level"], text: string, seen: string, peer: string | null = null): void => {
    findings.push({ level, peer, text, evidence: seen });
  };
  if (state.privateKey === null) add("problem", "the interface has no private key", `wg set ${name} private-key FILE`);
  if (state.listenPort === 0) add("problem", "no UDP port is bound yet", `bring the interface up: ip link set ${name} up`);
  if (!link) add("hint", "there is no such interface in this network namespace", "its link and routes could not be looked at");
  else {
    if (!link.up) add("problem", "the interface is down", `ip link set ${name} up`);
    if (link.addresses.length === 0) add("problem", "the interface has no address", `ip address add ... dev ${name}`);
  }
  if (state.peers.length === 0) add("problem", "no peer is configured", `wg show ${name}`);
  for (const peer of state.peers) diagnosePeer(evidence, peer, (level, text, seen) => add(level, text, seen, encodeBase64Key(peer.publicKey)));
  for (const [reason, count] of Object.entries(statistics?.drops ?? {})) {
    const cause = CAUSES[reason];
    if (cause) add(cause.level, cause.text, `${count} packets refused: ${reason}`);
  }
  if ((statistics?.events.underLoad ?? 0) > 0) add("hint", "so many handshakes came that each needed a cookie", `underLoad ${statistics!.events.underLoad}`);
  if (!statistics) add("hint", "this daemon does not tell reasons: it is another WireGuard", "only its state was looked at");
  return findings;
}

function diagnosePeer(
  { name, nowSec, endpointRoutes, innerRoutes, endpointMtus, link, state }: Evidence, peer: PeerState,
  add: (level: Finding["level"], text: string, seen: string) => void,
): void {
  const key = encodeBase64Key(peer.publicKey);
  const last = Number(peer.lastHandshake.sec);
  const age = nowSec - last;
  const endpoint = peer.endpoint ? formatEndpoint(peer.endpoint) : null;
  if (peer.allowedIps.length === 0) add("problem", "it has no allowed IPs: nothing is sent to it, and nothing of it accepted", `wg set ${name} peer ... allowed-ips ...`);
  if (last > nowSec + 5) add("problem", "its last handshake is in the future: this machine's clock went backwards", `${last - nowSec} s ahead`);
  const route = endpointRoutes.get(key);
  if (route === null) add("problem", "there is no route to its endpoint", `${endpoint}: network is unreachable`);
  else if (route === name && state.fwmark === 0) add("problem", "its endpoint is routed into the tunnel itself: a loop", `${endpoint} goes to ${name}; exclude it, or set a firewall mark`);
  const inner = innerRoutes.get(key);
  if (inner !== undefined && inner !== name) {
    add("problem", "its allowed IPs are not routed into the tunnel", `${formatPrefix(peer.allowedIps[0])} goes to ${inner ?? "nowhere"}: ip route add ... dev ${name}`);
  }
  const pathMtu = endpointMtus.get(key);
  const overhead = peer.endpoint?.family === 4 ? OVERHEAD_IPV4 : OVERHEAD_MAX;
  if (pathMtu !== undefined && link && link.mtu + overhead > pathMtu) {
    add("problem", "full packets do not fit the way to it: small ones pass, large ones stall", `MTU ${link.mtu} + ${overhead} is more than ${pathMtu}; set it to ${pathMtu - overhead}`);
  }
  if (last === 0) {
    if (endpoint === null) add("problem", "it never shook hands, and its endpoint is not known: it must begin", "no endpoint");
    else if (peer.txBytes > 0n && peer.rxBytes === 0n) {
      add("problem", "nothing ever came back: wrong endpoint, a firewall, a wrong key on either side, or it is off", `${peer.txBytes} bytes sent to ${endpoint}, 0 received`);
    } else if (peer.txBytes === 0n) {
      add("hint", "nothing was sent to it yet: a handshake begins with the first packet", "0 bytes sent; persistent-keepalive would begin at once");
    } else add("problem", "messages came, but no handshake completed: keys or preshared keys differ", `${peer.rxBytes} bytes received`);
  } else if (age > SESSION_S) {
    const why = peer.persistentKeepalive ? "it stopped answering" : "idle, or it stopped answering";
    add(peer.persistentKeepalive ? "problem" : "hint", `no handshake for ${age} s: ${why}`, `endpoint ${endpoint ?? "not known"}, ${peer.txBytes} bytes sent, ${peer.rxBytes} received`);
  } else {
    add("ok", "it lives", `handshake ${age} s ago, ${peer.rxBytes} bytes received, ${peer.txBytes} sent`);
  }
}
