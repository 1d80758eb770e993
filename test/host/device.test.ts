// Device: what the UAPI asks for, done over the real core. The portable host stands in for the daemon's network.

import assert from "node:assert/strict";
import { suite } from "uvu";
import { parseEndpoint } from "../../host/endpoint.ts";
import { parsePrefix } from "../../host/ip.ts";
import { generatePresharedKey, generatePrivateKey } from "../../host/keys.ts";
import { createPeerChange, type DeviceChange, type PeerChange } from "../../host/model.ts";
import { openPortable, type PortableDevice } from "../../host/portable.ts";
import { formatState } from "../../host/uapi.ts";

const test = suite("device");

let device: PortableDevice;
test.before.each(async () => {
  device = await openPortable({ onPacket: () => {}, transport: "udp", address: "127.0.0.1", maxPeers: 4 });
});
test.after.each(() => device.close());

const set = (change: Partial<DeviceChange>): Promise<void> => device.configure({ replacePeers: false, peers: [], ...change });
const peer = (more: Partial<PeerChange> = {}): PeerChange => ({ ...createPeerChange(generatePresharedKey()), ...more });
const allow = (...prefixes: string[]) => prefixes.map((text) => ({ ip: parsePrefix(text), remove: false }));
const text = (): string => formatState(device.state());

test("tells what was set", async () => {
  const presharedKey = generatePresharedKey();
  const one = peer({ presharedKey, endpoint: parseEndpoint("[2001:db8::1]:5"), persistentKeepalive: 25, allowedIps: allow("10.0.0.0/8", "::/0") });
  const two = peer();
  await set({ privateKey: generatePrivateKey(), peers: [one, two] });
  const { peers } = device.state();
  assert.deepEqual(peers.map((p) => p.publicKey), [one.publicKey, two.publicKey]);
  assert.deepEqual(peers[0].presharedKey, presharedKey);
  assert.deepEqual(peers[0].endpoint, one.endpoint);
  assert.equal(peers[0].persistentKeepalive, 25);
  assert.deepEqual(peers[0].allowedIps, one.allowedIps.map(({ ip }) => ip));
});

test("update_only leaves an unknown peer out, and updates a known one", async () => {
  const known = peer();
  await set({ peers: [known] });
  const update = { updateOnly: true, persistentKeepalive: 7 };
  await set({ peers: [peer(update), { ...known, ...update }] });
  assert.deepEqual(device.state().peers.map((p) => p.persistentKeepalive), [7]);
});

test("our own public key is no peer, whichever came first", async () => {
  const privateKey = generatePrivateKey();
  await set({ privateKey });
  const publicKey = device.device.publicKey!;
  await set({ peers: [peer({ publicKey, allowedIps: allow("10.0.0.0/8") })] });
  assert.equal(device.state().peers.length, 0);
  await set({ privateKey: new Uint8Array(32), peers: [peer({ publicKey })] });
  assert.equal(device.state().peers.length, 1);
  await set({ privateKey });
  assert.equal(device.state().peers.length, 0);
});

test("a prefix has one owner, and leaves with it", async () => {
  const one = peer({ allowedIps: allow("10.0.0.0/24", "10.0.1.0/24") });
  const two = peer({ allowedIps: allow("10.0.1.0/24") });
  await set({ peers: [one, two] });
  assert.deepEqual(device.state().peers.map((p) => p.allowedIps.length), [1, 1]);
  await set({ peers: [{ ...createPeerChange(two.publicKey), remove: true }] });
  assert.deepEqual(device.state().peers.map((p) => p.allowedIps.length), [1]);
});

test("replacing allowed IPs keeps what stays, and removes the rest", async () => {
  const one = peer({ allowedIps: allow("10.0.0.0/24", "10.0.1.0/24", "fd00::/64") });
  await set({ peers: [one] });
  const replace = { ...createPeerChange(one.publicKey), replaceAllowedIps: true };
  const removed = { ip: parsePrefix("10.0.3.0/24"), remove: true };
  await set({ peers: [{ ...replace, allowedIps: [...allow("10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24"), removed] }] });
  assert.deepEqual(device.state().peers[0].allowedIps, [parsePrefix("10.0.1.0/24"), parsePrefix("10.0.2.0/24")]);
  const unmasked = { ip: { family: 4 as const, address: Uint8Array.of(10, 0, 2, 9), cidr: 24 }, remove: false };
  await set({ peers: [{ ...replace, allowedIps: [unmasked] }] });
  assert.deepEqual(device.state().peers[0].allowedIps, [parsePrefix("10.0.2.0/24")]);
  await set({ peers: [replace] });
  assert.deepEqual(device.state().peers[0].allowedIps, []);
});

test("a set that needs more peers than there is room for changes nothing", async () => {
  await set({ peers: [peer(), peer()] });
  const before = text();
  const change = set({ privateKey: generatePrivateKey(), peers: [peer(), peer(), peer()] });
  await assert.rejects(change, { code: "ENOMEM", message: /5 peers: the limit is 4 \(--max-peers\)/ });
  assert.equal(text(), before);
  await set({ replacePeers: true, peers: [peer(), peer(), peer(), peer()] });
  assert.equal(device.state().peers.length, 4);
});

test("a port that is taken refuses the whole set", async () => {
  const other = await openPortable({ onPacket: () => {}, transport: "udp", address: "127.0.0.1" });
  await other.up();
  const before = text();
  const change = set({ privateKey: generatePrivateKey(), listenPort: other.listenPort, peers: [peer()] });
  await assert.rejects(change, { code: "EADDRINUSE" });
  assert.equal(text(), before);
  other.close();
});

test("a firewall mark is refused where there is none", async () => {
  await assert.rejects(set({ fwmark: 1 }), { code: "ENOTSUP" });
});

test("nothing is sent to a key of low order", async () => {
  const drops = device.device.drops();
  await set({ privateKey: generatePrivateKey() });
  await device.up();
  const lowOrder = new Uint8Array(32);
  await set({ peers: [peer({ publicKey: lowOrder, endpoint: parseEndpoint("127.0.0.1:9"), persistentKeepalive: 1 })] });
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(device.state().peers[0].txBytes, 0n);
  assert.deepEqual(drops, {});
});

test.run();
