// A device that is only its settings: what UAPI text must do to it, with no tunnel behind.

import { type AllowedIp, formatPrefix } from "../../host/ip.ts";
import { equalKeys, isZeroKey } from "../../host/keys.ts";
import type { Configurable, DeviceChange, DeviceState, PeerChange, PeerState } from "../../host/model.ts";

export class MemoryDevice implements Configurable {
  device: DeviceState = { privateKey: null, listenPort: 0, fwmark: 0, peers: [] };
  applied = 0;
  asked = 0;
  /** what the next applies throw */
  refusal: Error | undefined;

  state(): DeviceState {
    this.asked++;
    return this.device;
  }

  async apply(change: DeviceChange): Promise<void> {
    await Promise.resolve(); // as a device that waits for the system
    if (this.refusal) throw this.refusal;
    this.applied++;
    const { device } = this;
    if (change.privateKey) device.privateKey = isZeroKey(change.privateKey) ? null : change.privateKey;
    device.listenPort = change.listenPort ?? device.listenPort;
    device.fwmark = change.fwmark ?? device.fwmark;
    if (change.replacePeers) device.peers = [];
    for (const peer of change.peers) this.#applyPeer(peer);
  }

  #applyPeer(change: PeerChange): void {
    const { device } = this;
    let peer = device.peers.find((it) => equalKeys(it.publicKey, change.publicKey));
    if (change.remove) device.peers = device.peers.filter((it) => it !== peer);
    if (change.remove || (!peer && change.updateOnly)) return;
    if (!peer) device.peers.push((peer = createPeer(change.publicKey)));
    peer.presharedKey = change.presharedKey ?? peer.presharedKey;
    peer.endpoint = change.endpoint ?? peer.endpoint;
    peer.persistentKeepalive = change.persistentKeepalive ?? peer.persistentKeepalive;
    if (change.replaceAllowedIps) peer.allowedIps = [];
    for (const { ip, remove } of change.allowedIps) {
      const owners = remove ? [peer] : device.peers;
      for (const it of owners) it.allowedIps = it.allowedIps.filter((other) => !samePrefix(ip, other));
      if (!remove) peer.allowedIps.push(ip);
    }
  }
}

function samePrefix(a: AllowedIp, b: AllowedIp): boolean {
  return formatPrefix(a) === formatPrefix(b);
}

function createPeer(publicKey: Uint8Array): PeerState {
  return {
    publicKey,
    presharedKey: new Uint8Array(32),
    endpoint: null,
    lastHandshake: { sec: 0, nsec: 0 },
    txBytes: 0n,
    rxBytes: 0n,
    persistentKeepalive: 0,
    allowedIps: [],
  };
}
