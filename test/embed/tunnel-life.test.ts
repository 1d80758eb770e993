// A tunnel's life: configurations it takes and refuses, peers at run time, events, datagrams, pings, and that nothing of it
// is left when it is closed.

import assert from "node:assert/strict";
import { once } from "node:events";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { suite } from "uvu";
import { parseConfig } from "../../host/config.ts";
import { encodeBase64Key, generatePrivateKey } from "../../host/keys.ts";
import type { TunnelSettings } from "../../host/tunnel/settings.ts";
import { Tunnel } from "../../host/tunnel/tunnel.ts";
import type { DatagramSender } from "../../host/tunnel/types.ts";
import { LEFT, RIGHT, RIGHT6, newPrivateKey, openPair, rejection, toText, until } from "./tunnels.ts";

const key = encodeBase64Key(generatePrivateKey());
const plain = (): TunnelSettings => ({ privateKey: key, addresses: ["10.0.0.1/24"], peers: [] });
const peer = { publicKey: encodeBase64Key(generatePrivateKey()), allowedIps: ["10.0.0.2/32"] };

const settings = suite("tunnel: configuration");

const REFUSED: [what: string, conf: unknown, message: RegExp][] = [
  ["no private key", "[Interface]\nAddress = 10.0.0.1", /^\[Interface\]: has no PrivateKey$/],
  ["no address", `[Interface]\nPrivateKey = ${key}`, /^\[Interface\]: has no Address/],
  ["a line", `[Interface]\nPrivateKey = ${key}\nAddress = 10.0.0.300`, /^line 3: Address: /],
  ["an unknown key", `[Interface]\nPrivateKy = ${key}`, /^line 2: .*PrivateKy.*\[Interface\]/],
  ["MTU too small for IPv6", { ...plain(), addresses: ["fd00::1/64"], mtu: 1279 }, /^MTU: 1279 is less than the 1280/],
  ["an object's key", { ...plain(), privateKey: "short" }, /^privateKey: key has 5 characters/],
  ["an object's address", { ...plain(), addresses: ["10.0.0.1/24", "10.0.0.2/33"] }, /^addresses\[1\]: prefix length "33"/],
  ["two in one", { ...plain(), addresses: ["10.0.0.1, 10.0.0.2"] }, /^addresses\[0\]: must be one value$/],
  ["no list", { ...plain(), addresses: "10.0.0.1" }, /^addresses: must be a list$/],
  ["missing peers", { privateKey: key, addresses: ["10.0.0.1"] }, /^peers: must be a list$/],
  ["a peer's endpoint", { ...plain(), peers: [peer, { ...peer, endpoint: "host" }] }, /^peers\[1\]\.endpoint: "host" has no :port$/],
  ["a peer without key", { ...plain(), peers: [{ allowedIps: [] }] }, /^peers\[0\]\.publicKey: is missing$/],
  ["a peer without IPs", { ...plain(), peers: [{ publicKey: key }] }, /^peers\[0\]\.allowedIps: is missing$/],
  ["an allowed IP", { ...plain(), peers: [{ ...peer, allowedIps: ["::1/129"] }] }, /^peers\[0\]\.allowedIps\[0\]: /],
  ["keepalive", { ...plain(), peers: [{ ...peer, persistentKeepalive: 65536 }] }, /^peers\[0\]\.persistentKeepalive: "65536"/],
  ["a port", { ...plain(), listenPort: -1 }, /^listenPort: "-1"/],
  ["a number", { ...plain(), mtu: "1420" }, /^mtu: must be a number$/],
  ["a misspelt setting", { ...plain(), adresses: [] }, /^configuration: "adresses" is not one of privateKey, addresses/],
  ["a smuggled line", { ...plain(), peers: [{ ...peer, endpoint: "a:1\nAllowedIPs = ::/0" }] }, /^peers\[0\]\.endpoint: has a character/],
  ["DNS", { ...plain(), dns: ["-bad-"] }, /^dns\[0\]: /],
];

for (const [what, conf, message] of REFUSED) {
  settings(`${what} is refused where it stands`, async () => {
    const error = await rejection(Tunnel.open(conf as string));
    assert.equal(error.code, "ERR_CONFIG");
    assert.match(error.message, message);
    assert.equal(error.message.includes(key), false, "the error shows a key");
  });
}

settings("what is no configuration at all is a TypeError", async () => {
  for (const conf of [undefined, null, 7]) assert.equal((await rejection(Tunnel.open(conf as never))).name, "TypeError");
});

settings("text, what parseConfig made of it and a plain object are the same tunnel", async () => {
  const object: TunnelSettings = { ...plain(), dns: ["10.0.0.53", "example.org"], peers: [{ ...peer, endpoint: "127.0.0.1:9" }] };
  for (const conf of [object, toText(object), parseConfig(toText(object))]) {
    await using tunnel = await Tunnel.open(conf, { bindAddress: "127.0.0.1" });
    const { peers } = tunnel.stats();
    assert.deepEqual(tunnel.addresses, ["10.0.0.1"]);
    assert.deepEqual(peers.map(({ publicKey, endpoint, allowedIps }) => ({ publicKey, endpoint, allowedIps })), [
      { publicKey: peer.publicKey, endpoint: "127.0.0.1:9", allowedIps: ["10.0.0.2/32"] },
    ]);
  }
});

settings("an endpoint whose name nobody knows, a taken port, an abortion: each with its code, and nothing is left", async () => {
  const nowhere = { ...plain(), peers: [{ ...peer, endpoint: "no-such-host.invalid:1" }] };
  const error = await rejection(Tunnel.open(nowhere, { signal: AbortSignal.timeout(8000) }));
  assert.match(error.code!, /^(ENOTFOUND|EAI_AGAIN|EAI_FAIL|ABORT_ERR)$/);
  if (error.code !== "ABORT_ERR") assert.match(error.message, /no-such-host\.invalid/);
  await using first = await Tunnel.open(plain(), { bindAddress: "127.0.0.1" });
  const taken = await rejection(Tunnel.open(plain(), { bindAddress: "127.0.0.1", listenPort: first.listenPort }));
  assert.equal(taken.code, "EADDRINUSE");
  assert.equal((await rejection(Tunnel.open(plain(), { signal: AbortSignal.abort() }))).code, "ABORT_ERR");
});

settings.run();

const running = suite("tunnel: running");

running("events: a handshake on both sides, the peer by name; roaming when it comes from elsewhere", async () => {
  const pair = await openPair();
  const events: string[] = [];
  pair.left.on("handshake", (event) => events.push(`left ${event.role} ${event.peer === pair.right.publicKey}`));
  pair.right.on("handshake", (event) => events.push(`right ${event.role} ${event.peer === pair.left.publicKey}`));
  const roamed = once(pair.right, "roamed") as Promise<[{ peer: string; endpoint: string }]>;
  await pair.left.ping(RIGHT, { timeoutMs: 5000 });
  await until("both have told", () => events.length === 2);
  assert.deepEqual(events.sort(), ["left initiator true", "right responder true"]);
  const before = pair.left.listenPort;
  await pair.left.configure({ ...pair.leftSettings, listenPort: await freePort() });
  assert.notEqual(pair.left.listenPort, before);
  await pair.left.ping(RIGHT, { timeoutMs: 5000 });
  const [{ peer: who, endpoint }] = await roamed;
  assert.deepEqual([who, endpoint], [pair.left.publicKey, `127.0.0.1:${pair.left.listenPort}`]);
  await pair.close();
});

async function freePort(): Promise<number> {
  await using tunnel = await Tunnel.open(plain(), { bindAddress: "127.0.0.1" });
  return tunnel.listenPort;
}

running("ping: both families, its size, and nobody there", async () => {
  const pair = await openPair();
  for (const to of [RIGHT, RIGHT6]) {
    const reply = await pair.left.ping(to, { size: 1000, timeoutMs: 5000 });
    assert.deepEqual([reply.from, reply.bytes], [to, 1000]);
    assert.ok(reply.ms >= 0 && reply.hopLimit > 0, JSON.stringify(reply));
  }
  assert.equal((await rejection(pair.left.ping("10.99.99.99", { timeoutMs: 100 }))).code, "ETIMEDOUT");
  assert.equal((await rejection(pair.left.ping(RIGHT, { signal: AbortSignal.abort() }))).code, "ABORT_ERR");
  await pair.close();
});

running("datagrams: both ways, nobody there, too long, an address of ours", async () => {
  const pair = await openPair();
  const server = pair.right.datagram({ port: 5353, host: RIGHT });
  server.on("message", (bytes: Uint8Array, from: DatagramSender) => void server.send(bytes.toReversed(), from.port, from.address));
  assert.throws(() => pair.right.datagram({ port: 5353 }), { code: "EADDRINUSE" });
  assert.throws(() => pair.right.datagram({ host: "10.9.9.9" }), { code: "EADDRNOTAVAIL" });
  const client = pair.left.datagram();
  await client.send(Uint8Array.of(1, 2, 3), 5353, RIGHT);
  const [bytes, from] = (await once(client, "message")) as [Uint8Array, DatagramSender];
  assert.deepEqual([[...bytes], from], [[3, 2, 1], { address: RIGHT, port: 5353, family: "IPv4" }]);
  const refused = once(client, "error") as Promise<[{ code: string }]>;
  await client.send(Uint8Array.of(1), 5354, RIGHT);
  assert.equal((await refused)[0].code, "ECONNREFUSED");
  assert.equal((await rejection(client.send(new Uint8Array(70_000), 5353, RIGHT))).code, "EMSGSIZE");
  client.close();
  assert.equal((await rejection(client.send(Uint8Array.of(1), 5353, RIGHT))).code, "ERR_CLOSED");
  assert.deepEqual([pair.left.stats().datagrams, pair.right.stats().datagrams], [0, 1]);
  await pair.close();
  assert.equal(pair.right.stats().datagrams, 0);
});

running("peers at run time: connections of those that stay go on", async () => {
  const pair = await openPair();
  const server = pair.right.listen({ port: 80 }, (socket) => void socket.on("error", () => {}).pipe(socket));
  const socket = pair.left.connect({ host: RIGHT, port: 80 });
  const echo = async (text: string): Promise<string> => {
    socket.write(text);
    return String(((await once(socket, "data")) as [Buffer])[0]);
  };
  assert.equal(await echo("one"), "one");
  const handshakes = { left: pair.left.stats().peers[0].lastHandshake, right: pair.right.stats().peers[0].lastHandshake };
  const other = { ...peer, allowedIps: ["10.88.0.0/16"] };
  await pair.left.setPeer(other);
  assert.equal(pair.left.stats().peers.length, 2);
  await pair.left.configure({ ...pair.leftSettings, peers: [...pair.leftSettings.peers, { ...other, persistentKeepalive: 7 }] });
  assert.equal(pair.left.stats().peers.find(({ publicKey }) => publicKey === other.publicKey)!.persistentKeepalive, 7);
  assert.equal(await echo("two"), "two");
  assert.equal(await pair.left.removePeer(other.publicKey), true);
  assert.equal(await pair.left.removePeer(other.publicKey), false);
  await pair.left.configure(toText(pair.leftSettings));
  assert.equal(await echo("three"), "three");
  const after = { left: pair.left.stats().peers[0].lastHandshake, right: pair.right.stats().peers[0].lastHandshake };
  assert.deepEqual(after, handshakes, "a session was lost");
  const moved = await rejection(pair.left.configure({ ...pair.leftSettings, addresses: ["10.77.0.9/32"] }));
  assert.equal(moved.code, "ERR_CONFIG");
  assert.equal((await rejection(pair.left.setPeer({ ...other, endpoint: "x" }))).message, 'endpoint: "x" has no :port');
  assert.equal((await rejection(pair.left.removePeer("x"))).name, "RangeError");
  assert.equal(await echo("four"), "four");
  await server.close();
  await pair.close();
});

running("a peer that goes away mid-stream: its RST comes, or the caller's timeout ends it", async () => {
  const pair = await openPair();
  const drip = (port: number): void => void pair.right.listen({ port }, (socket) => {
    socket.on("error", () => {}).write("first");
  });
  drip(80);
  const socket = pair.left.connect({ host: RIGHT, port: 80 });
  await once(socket, "data");
  const failed = once(socket, "error") as Promise<[{ code: string }]>;
  await pair.right.close(); // orderly: it resets its connections
  assert.equal((await failed)[0].code, "ECONNRESET");
  await pair.close();

  const other = await openPair();
  other.right.listen({ port: 80 }, (served) => void served.on("error", () => {}).write("first"));
  const silent = other.left.connect({ host: RIGHT, port: 80 });
  await once(silent, "data");
  await other.right.removePeer(other.left.publicKey); // as if its cable was cut: nothing comes any more
  silent.setTimeout(200, () => silent.destroy(Object.assign(new Error("silence"), { code: "ETIMEDOUT" })));
  const [error] = (await once(silent, "error")) as [{ code: string }];
  assert.equal(error.code, "ETIMEDOUT");
  await other.close();
});

running("close: sockets fail with ERR_TUNNEL_CLOSED, calls too, the other side sees resets, no handle is left", async () => {
  const handles = (): number => process.getActiveResourcesInfo?.().filter((name) => /UDP|Timeout|Immediate/.test(name)).length ?? 0;
  const before = handles();
  const pair = await openPair();
  const codes: string[] = [];
  const closed: string[] = [];
  pair.left.on("closed", () => closed.push("left"));
  const server = pair.right.listen({ port: 80 }, (served) => served.on("error", (error: Error & { code: string }) => codes.push(error.code)));
  const sockets = await Promise.all(
    Array.from({ length: 5 }, async () => {
      const socket = pair.left.connect({ host: RIGHT, port: 80 });
      await socket.opened;
      return socket;
    }),
  );
  const deaf = pair.left.connect({ host: RIGHT, port: 80 }); // nobody listens for its error, and nothing is thrown
  await deaf.opened;
  await until("the server has them", () => pair.right.stats().sockets === 6);
  const connecting = pair.left.connect({ host: "10.99.0.1", port: 1 });
  const datagram = pair.left.datagram();
  const errors = Promise.all([...sockets, connecting].map(async (socket) => ((await once(socket, "error")) as [{ code: string }])[0].code));
  const pinging = rejection(pair.left.ping("10.99.0.1", { timeoutMs: 60_000 }));
  await sleep(10);
  await pair.left.close();
  assert.deepEqual(await errors, Array(6).fill("ERR_TUNNEL_CLOSED"));
  assert.ok((await pinging).code, "a ping went on");
  assert.deepEqual(closed, ["left"]);
  assert.equal(deaf.destroyed, true);
  await until("the server's sockets were reset", () => codes.length === 6);
  assert.deepEqual(codes, Array(6).fill("ECONNRESET"));
  for (const call of [() => pair.left.ping(RIGHT), () => pair.left.resolve("a.b"), () => pair.left.setPeer(peer)]) {
    assert.equal((await rejection(call())).code, "ERR_TUNNEL_CLOSED");
  }
  for (const call of [() => pair.left.listen({ port: 1 }, () => {}), () => pair.left.datagram()]) {
    assert.throws(call, { code: "ERR_TUNNEL_CLOSED" });
  }
  const late = pair.left.connect({ host: RIGHT, port: 80 });
  assert.equal(((await once(late, "error")) as [{ code: string }])[0].code, "ERR_TUNNEL_CLOSED");
  assert.equal((await rejection(datagram.send(Uint8Array.of(1), 1, LEFT))).code, "ERR_CLOSED");
  const { sockets: left, servers, tcp } = pair.left.stats();
  assert.deepEqual([left, servers, tcp.connections, tcp.listeners], [0, 0, 0, 0]);
  await server.close();
  await pair.close();
  await pair.close(); // once more is no matter
  await until("no handle is left", () => handles() <= before);
});

running("a signal closes the tunnel; `await using` too", async () => {
  const controller = new AbortController();
  const tunnel = await Tunnel.open(plain(), { bindAddress: "127.0.0.1", signal: controller.signal });
  const closed = once(tunnel, "closed");
  controller.abort();
  await closed;
  assert.equal(tunnel.closed, true);
  let kept: Tunnel;
  {
    await using inner = await Tunnel.open({ ...plain(), privateKey: newPrivateKey() }, { bindAddress: "127.0.0.1" });
    kept = inner;
    assert.equal(kept.closed, false);
  }
  assert.equal(kept.closed, true);
});

running("an address that no peer has in its AllowedIPs is unreachable at once; it follows the peers", async () => {
  const pair = await openPair();
  const { right } = pair;
  const [stranger, port] = ["10.99.0.1", 9];
  // The right one's only peer is the left one, with its two addresses.
  const datagram = right.datagram({ port: 0 });
  assert.ok(datagram.port > 0, "a port was chosen");
  for (const host of [stranger, "fd99::1"]) {
    const attempts = [
      right.connect({ host, port }).on("error", () => {}).opened, right.ping(host), datagram.send(Uint8Array.of(1), port, host),
    ];
    for (const attempt of attempts) {
      const error = await rejection(attempt);
      assert.equal(error.code, "EHOSTUNREACH");
      assert.match(error.message, new RegExp(`no peer has ${host} in its AllowedIPs`));
    }
  }
  await right.ping(RIGHT, { timeoutMs: 5000 }); // itself
  const { peers: [{ publicKey, allowedIps }] } = right.stats();
  const [{ presharedKey }] = pair.leftSettings.peers;
  const change = { publicKey, presharedKey, allowedIps: [...allowedIps, "10.99.0.0/16"] };
  await right.setPeer(change);
  await datagram.send(Uint8Array.of(1), port, stranger);
  // Taken over by another peer, and gone with it: the first one does not have it again.
  const other = { publicKey: encodeBase64Key(generatePrivateKey()), allowedIps: ["10.99.0.0/16"] };
  await right.setPeer(other);
  await datagram.send(Uint8Array.of(1), port, stranger);
  await right.removePeer(other.publicKey);
  assert.equal((await rejection(datagram.send(Uint8Array.of(1), port, stranger))).code, "EHOSTUNREACH");
  await right.configure({ ...pair.rightSettings, peers: [{ ...change, allowedIps: [LEFT, "0.0.0.0/0"] }] });
  await datagram.send(Uint8Array.of(1), port, stranger);
  await right.removePeer(publicKey);
  assert.equal((await rejection(right.ping(LEFT))).code, "EHOSTUNREACH");
  await pair.close();
});

running.run();
