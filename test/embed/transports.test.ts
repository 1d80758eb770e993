// The embedded device over every transport: the same suite for UDP, WebSocket through a relay, and a MessagePort.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import process from "node:process";
import { createSocket } from "node:dgram";
import { fileURLToPath } from "node:url";
import { MessageChannel } from "node:worker_threads";
import { suite } from "uvu";
import type { Endpoint } from "../../host/endpoint.ts";
import { parsePrefix } from "../../host/ip.ts";
import { generatePrivateKey } from "../../host/keys.ts";
import { createPeerChange } from "../../host/model.ts";
import { openPortable, type PortableDevice } from "../../host/portable.ts";
import { PORT_ENDPOINT, type PortLike, PortTransport } from "../../host/transport/port.ts";
import { Relay } from "../../host/transport/relay.ts";
import type { Transport } from "../../host/transport/types.ts";
import { UdpTransport } from "../../host/transport/udp.ts";
import { WebSocketTransport } from "../../host/transport/websocket.ts";
import { build, type Bytes, UDP } from "../offload/oracle.ts";
import { Stream } from "../../host/simulator/random.ts";
import { between, until } from "./pair.ts";

const loopback = (port: number): Endpoint => ({ family: 4, address: Uint8Array.of(127, 0, 0, 1), port, scope: 0 });

/** Two transports that reach each other. */
interface Joint {
  left: Transport;
  right: Transport;
  /** where left finds right, and another way to the same */
  endpoints: [Endpoint, Endpoint];
  close(): Promise<void>;
}

interface Kind {
  name: string;
  /** whether a burst may lose some of its packets */
  lossy: boolean;
  /** what left's socket says of a datagram to an address that it has no way to */
  nowhere: [endpoint: Endpoint, code: string];
  join(): Promise<Joint>;
}

/** A port of its own on this machine, behind which is `target`: to left, another endpoint of the same peer. */
async function openDetour(target: number): Promise<{ port: number; close(): void }> {
  const outer = createSocket("udp4");
  const inner = createSocket("udp4");
  let from = 0;
  outer.on("message", (datagram, { port }) => {
    from = port;
    inner.send(datagram, target, "127.0.0.1");
  });
  inner.on("message", (datagram) => outer.send(datagram, from, "127.0.0.1"));
  for (const socket of [outer, inner]) await new Promise<void>((resolve) => socket.bind(0, "127.0.0.1", resolve));
  return { port: outer.address().port, close: () => [outer, inner].forEach((socket) => socket.close()) };
}

/** A UDP transport whose port is known before a device binds it, and stays the same. */
async function openFixed(): Promise<{ transport: Transport; port: number }> {
  const socket = createSocket("udp4");
  await new Promise<void>((resolve) => socket.bind(0, "127.0.0.1", resolve));
  const { port } = socket.address();
  await new Promise<void>((resolve) => socket.close(() => resolve()));
  const udp = new UdpTransport({ address: "127.0.0.1" });
  return { transport: { bind: (asked) => udp.bind(asked || port) }, port };
}

async function joinUdp(): Promise<Joint> {
  const { transport: right, port } = await openFixed();
  const detour = await openDetour(port);
  return {
    left: new UdpTransport({ address: "127.0.0.1" }),
    right,
    endpoints: [loopback(port), loopback(detour.port)],
    close: async () => detour.close(),
  };
}

async function joinWebSocket(): Promise<Joint> {
  const { transport: right, port } = await openFixed();
  const detour = await openDetour(port);
  const relay = new Relay({ allow: [`127.0.0.1:${port}`, `127.0.0.1:${detour.port}`], token: "of this test alone" });
  const at = await relay.listen(0, "127.0.0.1");
  return {
    left: new WebSocketTransport({ relay: `ws://127.0.0.1:${at.port}`, token: "of this test alone" }),
    right,
    endpoints: [loopback(port), loopback(detour.port)],
    close: async () => {
      detour.close();
      await relay.close();
    },
  };
}

async function joinPorts(): Promise<Joint> {
  const { port1, port2 } = new MessageChannel();
  return {
    left: new PortTransport(port1 as unknown as PortLike),
    right: new PortTransport(port2 as unknown as PortLike),
    endpoints: [PORT_ENDPOINT, PORT_ENDPOINT],
    close: async () => port1.close(),
  };
}

const scoped: Endpoint = { family: 6, address: Uint8Array.from([0xfe, 0x80, ...Array(13).fill(0), 1]), port: 9, scope: 1 };

const kinds: Kind[] = [
  { name: "UDP", lossy: true, nowhere: [scoped, "EAFNOSUPPORT"], join: joinUdp },
  { name: "WebSocket and relay", lossy: true, nowhere: [scoped, "EADDRNOTAVAIL"], join: joinWebSocket },
  { name: "MessagePort", lossy: false, nowhere: [loopback(9), "ENETUNREACH"], join: joinPorts },
];

interface Side {
  device: PortableDevice;
  came: Bytes[];
  privateKey: Uint8Array;
  publicKey: Uint8Array;
}

async function openSide(transport: Transport, privateKey = generatePrivateKey()): Promise<Side> {
  const came: Bytes[] = [];
  const device = await openPortable({ transport, mtu: 65_000, maxPeers: 4, onPacket: (packet) => came.push(packet as Bytes) });
  await device.configure({ privateKey, replacePeers: false, peers: [] });
  await device.up();
  return { device, came, privateKey, publicKey: device.device.publicKey! };
}

function introduce(side: Side, other: Side, prefix: string, endpoint?: Endpoint): Promise<void> {
  const allowedIps = [{ ip: parsePrefix(prefix), remove: false }];
  return side.device.configure({ replacePeers: true, peers: [{ ...createPeerChange(other.publicKey), endpoint, allowedIps }] });
}

const move = (side: Side, other: Side, endpoint: Endpoint): Promise<void> =>
  side.device.configure({ replacePeers: false, peers: [{ ...createPeerChange(other.publicKey), updateOnly: true, endpoint }] });

const random = new Stream(1, "transports");
const packet = (toRight: boolean, length: number): Bytes => build(between(random, toRight, 4, UDP, Math.max(0, length - 28)));

for (const { name, lossy, nowhere, join } of kinds) {
  const test = suite(name);
  let joint: Joint;
  let left: Side;
  let right: Side;

  test.before.each(async () => {
    joint = await join();
    left = await openSide(joint.left);
    right = await openSide(joint.right);
    await introduce(left, right, "10.0.0.2/32", joint.endpoints[0]);
    await introduce(right, left, "10.0.0.1/32");
  });
  test.after.each(async () => {
    for (const { device } of [left, right]) device.close();
    await joint.close();
  });

  /** One packet, which must come as it was sent. */
  const pass = async (toRight: boolean, length: number): Promise<void> => {
    const [from, to] = toRight ? [left, right] : [right, left];
    const sent = packet(toRight, length);
    to.came.length = 0;
    from.device.send(sent);
    await until(() => to.came.length > 0, `a packet of ${length} bytes ${toRight ? "to the right" : "to the left"}`);
    assert.equal(to.came.length, 1);
    assert.equal(Buffer.compare(to.came[0], sent), 0, `the packet of ${length} bytes came as another`);
  };

  test("a handshake, and packets of every size both ways", async () => {
    for (const length of [40, 28, 29, 31, 32, 33, 47, 48, 100, 576, 1279, 1280, 1419, 1420, 1500, 9000, 65_000]) {
      await pass(true, length);
      await pass(false, length);
    }
    for (const { device } of [left, right]) assert.deepEqual(device.device.drops(), {});
    assert.deepEqual([...left.device.errors, ...right.device.errors], []);
  });

  test("a burst of 1,000 packets", async () => {
    await pass(true, 100);
    const sent = Array.from({ length: 1000 }, () => packet(true, 1200));
    const names = new Map(sent.map((bytes, i) => [Buffer.from(bytes).toString("latin1"), i]));
    right.came.length = 0;
    left.device.send(...sent);
    let count = 0;
    let quiet = 0;
    await until(() => {
      // All of them, or no more for a while where some may be lost.
      quiet = count === right.came.length ? quiet + 1 : 0;
      count = right.came.length;
      return count === sent.length || (lossy && quiet === 100 && count > 0);
    }, "the burst");
    const order = right.came.map((bytes) => names.get(Buffer.from(bytes).toString("latin1")) ?? -1);
    assert.equal(order.includes(-1), false, "a packet came that was not sent");
    assert.deepEqual(order, [...order].sort((a, b) => a - b));
    assert.equal(new Set(order).size, order.length);
    if (!lossy) assert.equal(order.length, sent.length);
    await pass(false, 100);
  });

  test("another endpoint of the same peer", async () => {
    await pass(true, 100);
    for (const endpoint of [joint.endpoints[1], joint.endpoints[0]]) {
      await move(left, right, endpoint);
      await pass(true, 500);
      await pass(false, 500);
    }
  });

  test("an endpoint without a way is an error with a code, and the next packet goes", async () => {
    await pass(true, 100);
    const [endpoint, code] = nowhere;
    await move(left, right, endpoint);
    left.device.send(packet(true, 100));
    await until(() => left.device.errors.size > 0, "an error");
    assert.deepEqual([...left.device.errors], [[code, 1]]);
    await move(left, right, joint.endpoints[0]);
    await pass(true, 100);
  });

  test("closed and opened again", async () => {
    for (let i = 0; i < 3; i++) {
      await pass(true, 100);
      await pass(false, 100);
      left.device.close();
      left = await openSide(joint.left, left.privateKey);
      await introduce(left, right, "10.0.0.2/32", joint.endpoints[0]);
    }
    await pass(true, 100);
    // The other side too: it hears from us before it can answer.
    right.device.close();
    right = await openSide(joint.right, right.privateKey);
    await introduce(right, left, "10.0.0.1/32");
    await introduce(left, right, "10.0.0.2/32", joint.endpoints[0]);
    await pass(true, 100);
  });

  test("another port of ours, and the old one until then", async () => {
    await pass(true, 100);
    await left.device.configure({ listenPort: 0, replacePeers: false, peers: [] });
    await pass(true, 100);
    await pass(false, 100);
  });

  test("a socket that is closed takes nothing and throws nothing", async () => {
    const socket = await joint.left.bind(0);
    const codes: string[] = [];
    socket.onError = (code) => codes.push(code);
    socket.close();
    socket.close();
    socket.send(Uint8Array.of(1), joint.endpoints[0]);
    await pass(true, 100);
    assert.equal(codes.some((code) => code !== "EBADF"), false, codes.join());
  });

  test("a datagram that is too long is an error with a code", async () => {
    const socket = await joint.left.bind(0);
    const codes: string[] = [];
    socket.onError = (code) => codes.push(code);
    socket.send(new Uint8Array(65_536), joint.endpoints[0]);
    await until(() => codes.length > 0, "an error");
    assert.deepEqual(codes, ["EMSGSIZE"]);
    socket.close();
  });

  test.run();
}

const ports = suite("MessagePort from a hostile side");

ports("nothing it posts does harm", async () => {
  const { port1, port2 } = new MessageChannel();
  const socket = await new PortTransport(port1 as unknown as PortLike).bind(0);
  const codes: string[] = [];
  const came: number[] = [];
  socket.onError = (code) => codes.push(code);
  socket.onDatagram = ({ length }, from) => {
    assert.deepEqual(from, PORT_ENDPOINT);
    came.push(length);
  };
  const hostile = [
    "text", null, undefined, {}, [1, 2], true, 1n, new Date(), new ArrayBuffer(8), new Uint16Array(4), { length: 9 },
    new Uint8Array(new SharedArrayBuffer(64)), -1, 0.5, NaN, Infinity, new Map(), new Uint8Array(65_536),
  ];
  for (const message of hostile) port2.postMessage(message);
  for (const report of [1e300, 2 ** 53, 5]) port2.postMessage(report); // believed, and harmless
  for (const length of [0, 1, 65_535]) port2.postMessage(new Uint8Array(length));
  await until(() => came.length === 3, "the datagrams");
  assert.deepEqual(came, [0, 1, 65_535]);
  assert.equal(codes.length, hostile.length);
  assert.deepEqual(new Set(codes), new Set(["EPROTO", "EMSGSIZE"]));
  socket.close();
  port1.close();
});

ports("a side that never reads is not fed without bound", async () => {
  const { port1, port2 } = new MessageChannel();
  const socket = await new PortTransport(port1 as unknown as PortLike).bind(0);
  const codes: string[] = [];
  socket.onError = (code) => codes.push(code);
  for (let i = 0; i < 5000; i++) socket.send(new Uint8Array(100), PORT_ENDPOINT);
  assert.deepEqual(codes, Array(5000 - 4096).fill("ENOBUFS"));
  // It comes to life: what waits is taken, and there is room again.
  const other = await new PortTransport(port2 as unknown as PortLike).bind(0);
  let came = 0;
  other.onDatagram = () => came++;
  await until(() => came === 4096, "what waited");
  codes.length = 0;
  let sent = 0;
  while (sent < 9000) {
    for (let i = 0; i < 1000; i++, sent++) socket.send(new Uint8Array(100), PORT_ENDPOINT);
    await until(() => came === 4096 + sent, "more");
  }
  assert.deepEqual(codes, []);
  for (const each of [socket, other]) each.close();
  port1.close();
});

ports("a device in a worker's place: several sockets over one port, each with every datagram", async () => {
  const { port1, port2 } = new MessageChannel();
  const transport = new PortTransport(port1 as unknown as PortLike);
  const came: string[] = [];
  const sockets = [await transport.bind(0), await transport.bind(7)];
  assert.deepEqual(sockets.map(({ port }) => port), [0, 7]);
  sockets.forEach((socket, i) => (socket.onDatagram = ([byte]) => void came.push(`${i}:${byte}`)));
  port2.postMessage(Uint8Array.of(1));
  await until(() => came.length === 2, "a datagram for both");
  sockets[0].close();
  port2.postMessage(Uint8Array.of(2));
  await until(() => came.length === 3, "a datagram for the other");
  assert.deepEqual(came, ["0:1", "1:1", "1:2"]);
  sockets[1].close();
  port1.close();
});

ports.run();

const ends = suite("nothing is left");

ends("a process that opened and closed each transport ends by itself", async () => {
  const script = fileURLToPath(new URL("./transports-end.ts", import.meta.url));
  const isDeno = "Deno" in globalThis;
  const args = isDeno ? ["run", "-A", script] : [...process.execArgv, script];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
  let output = "";
  child.stdout.on("data", (chunk) => (output += chunk));
  const timer = setTimeout(() => child.kill("SIGKILL"), 20_000);
  const [code, signal] = await once(child, "close");
  clearTimeout(timer);
  assert.equal(output, "udp passed\nwebsocket passed\nport passed\n");
  assert.deepEqual([code, signal], [0, null]);
});

ends.run();
