// The relay: who is let in, what passes, what it bears from clients and peers; and the WebSocket transport when the relay
// is away, comes back, or is not one.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createSocket, type RemoteInfo, type Socket as UdpSocket } from "node:dgram";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer as createHttpServer } from "node:http";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { connect as connectTls } from "node:tls";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import { WebSocketServer } from "ws";
import { UsageError } from "../../host/commands/command.ts";
import { command } from "../../host/commands/relay.ts";
import type { Endpoint } from "../../host/endpoint.ts";
import { formatIp, parseIp, parsePrefix } from "../../host/ip.ts";
import { generatePrivateKey } from "../../host/keys.ts";
import { createPeerChange } from "../../host/model.ts";
import { openPortable } from "../../host/portable.ts";
import { Relay, type RelayOptions } from "../../host/transport/relay.ts";
import { AllowList } from "../../host/transport/relay-allow.ts";
import { messageType } from "../../host/transport/relay-client.ts";
import { base64url, offeredProtocols, offeredToken, requestedEndpoint } from "../../host/transport/relay-request.ts";
import type { TransportSocket } from "../../host/transport/types.ts";
import { UdpTransport } from "../../host/transport/udp.ts";
import { WebSocketTransport } from "../../host/transport/websocket.ts";
import { build, type Bytes, UDP } from "../offload/oracle.ts";
import { Stream } from "../../host/simulator/random.ts";
import { TLS_CERT, TLS_KEY } from "./localhost-tls.ts";
import { between, until } from "./pair.ts";

const TOKEN = "a secret of this test, with ünusual signs";
const loopback = (port: number): Endpoint => ({ family: 4, address: Uint8Array.of(127, 0, 0, 1), port, scope: 0 });
const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** A data message of `length` bytes; the byte after its header tells it from others. */
function dataMessage(length: number, mark = 0): Uint8Array<ArrayBuffer> {
  const message = new Uint8Array(length).fill(mark);
  message.set([4, 0, 0, 0]);
  return message;
}

// --- the list -------------------------------------------------------------------------------------------------------

const allow = suite("relay: the list of endpoints");

const NAMES: Record<string, string[]> = {
  "vpn.example": ["203.0.113.7", "2001:db8::7"],
  "mapped.example": ["::ffff:203.0.113.9"],
  "rebound.example": ["127.0.0.1", "::1", "169.254.169.254", "fe80::1", "0.0.0.0", "224.0.0.1", "::ffff:127.0.0.1"],
  "half.example": ["127.0.0.1", "203.0.113.8"],
  localhost: ["127.0.0.1"],
};

const found = async (rules: string, asked: string): Promise<string[]> => {
  const list = new AllowList(rules.split(" "), async (name) => {
    if (!NAMES[name]) throw Object.assign(new Error("no such name"), { code: "ENOTFOUND" });
    return NAMES[name].map(parseIp);
  });
  return (await list.find(asked)).addresses.map(({ address }) => formatIp(address));
};

allow("what is listed, and nothing beside it", async () => {
  const cases: [rules: string, asked: string, addresses: string[]][] = [
    ["192.0.2.1:51820", "192.0.2.1:51820", ["192.0.2.1"]],
    ["192.0.2.1:51820", "192.0.2.1:51821", []],
    ["192.0.2.1:51820", "192.0.2.2:51820", []],
    ["192.0.2.1:51820", "vpn.example:51820", []],
    ["192.0.2.1:1 192.0.2.2:2", "192.0.2.2:2", ["192.0.2.2"]],
    ["192.0.2.1:1 192.0.2.2:2", "192.0.2.2:1", []],
    ["10.0.0.0/8:51820", "10.255.0.1:51820", ["10.255.0.1"]],
    ["10.0.0.0/8:51820", "11.0.0.1:51820", []],
    ["[2001:db8::/32]:51820", "[2001:db8:ffff::1]:51820", ["2001:db8:ffff::1"]],
    ["[2001:db8::/32]:51820", "[2001:db9::1]:51820", []],
    // The same host, written in another way.
    ["192.0.2.1:51820", "[::ffff:192.0.2.1]:51820", ["192.0.2.1"]],
    ["[::ffff:192.0.2.1]:51820", "192.0.2.1:51820", ["192.0.2.1"]],
    ["[::/0]:51820", "[::ffff:127.0.0.1]:51820", []],
    ["[::ffff:0:0/96]:9", "192.0.2.1:9", ["192.0.2.1"]],
    // A rule for all is not one for this machine and its link.
    ["0.0.0.0/0:9 [::/0]:9", "127.0.0.1:9", []],
    ["0.0.0.0/0:9 [::/0]:9", "169.254.169.254:9", []],
    ["0.0.0.0/0:9 [::/0]:9", "[::1]:9", []],
    ["0.0.0.0/0:9 [::/0]:9", "[fe80::1]:9", []],
    ["0.0.0.0/0:9 [::/0]:9", "0.0.0.0:9", []],
    ["0.0.0.0/0:9 [::/0]:9", "[::]:9", []],
    ["0.0.0.0/0:9 [::/0]:9", "224.0.0.1:9", []],
    ["0.0.0.0/0:9 [::/0]:9", "255.255.255.255:9", []],
    ["0.0.0.0/0:9 [::/0]:9", "[ff02::1]:9", []],
    ["0.0.0.0/0:9 [::/0]:9", "192.0.2.1:9", ["192.0.2.1"]],
    ["127.0.0.0/8:9", "127.0.0.1:9", ["127.0.0.1"]],
    ["169.254.1.1:9", "169.254.1.1:9", ["169.254.1.1"]],
    // Names: their addresses count, whichever way they are asked for.
    ["vpn.example:9", "vpn.example:9", ["203.0.113.7", "2001:db8::7"]],
    ["vpn.example:9", "VPN.Example.:9", ["203.0.113.7", "2001:db8::7"]],
    ["vpn.example:9", "vpn.example:10", []],
    ["vpn.example:9", "203.0.113.7:9", ["203.0.113.7"]],
    ["vpn.example:9", "[2001:db8::7]:9", ["2001:db8::7"]],
    ["vpn.example:9", "203.0.113.8:9", []],
    ["mapped.example:9", "mapped.example:9", ["203.0.113.9"]],
    ["203.0.113.7:9", "vpn.example:9", []],
    ["rebound.example:9", "rebound.example:9", []],
    ["rebound.example:9", "127.0.0.1:9", []],
    ["half.example:9", "half.example:9", ["203.0.113.8"]],
    ["half.example:9 127.0.0.1:9", "half.example:9", ["127.0.0.1", "203.0.113.8"]],
    ["localhost:9", "localhost:9", ["127.0.0.1"]],
    ["localhost:9", "127.0.0.1:9", ["127.0.0.1"]],
    // Not endpoints.
    ["192.0.2.1:9", "", []],
    ["192.0.2.1:9", "192.0.2.1", []],
    ["192.0.2.1:9", "192.0.2.1:0", []],
    ["192.0.2.1:9", "192.0.2.1:65536", []],
    ["192.0.2.1:9", "192.0.2.1:9/../x", []],
    ["192.0.2.1:9", "192.0.2.01:9", []],
    ["[fe80::1]:9", "[fe80::1%1]:9", []],
  ];
  for (const [rules, asked, addresses] of cases) {
    assert.deepEqual(await found(rules, asked), addresses, `${asked} by ${rules}`);
  }
  await assert.rejects(found("gone.example:9", "gone.example:9"), { code: "ENOTFOUND" });
});

allow("a rule that cannot be is named, with what is wrong", () => {
  const wrong: [rule: string, message: RegExp][] = [
    ["192.0.2.1", /Cannot allow "192.0.2.1": .*no :port/],
    ["192.0.2.1:0", /port "0" is not in 1..65535/],
    ["192.0.2.0/33:9", /prefix length "33"/],
    ["2001:db8::1:9", /brackets/],
    ["*:9", /no host name/],
    ["-x.example:9", /no host name/],
    ["a..b:9", /no host name/],
    ["224.0.0.1:9", /not the address of a host/],
    ["[ff00::/8]:9", /not the address of a host/],
    ["0.0.0.0:9", /not the address of a host/],
    ["[fe80::1%eth0]:9", /Cannot allow/],
  ];
  for (const [rule, message] of wrong) assert.throws(() => new AllowList([rule]), { name: "RangeError", message }, rule);
  assert.throws(() => new AllowList([]), { name: "RangeError", message: /without a list/ });
  assert.throws(() => new Relay({ allow: [] }), { name: "RangeError", message: /without a list/ });
  assert.throws(() => new Relay({ allow: ["192.0.2.1:9"], token: "" }), { name: "RangeError", message: /empty token/ });
});

allow("what is framed as WireGuard", () => {
  const framed: [length: number, head: number[], type: number][] = [
    [148, [1, 0, 0, 0], 1], [147, [1, 0, 0, 0], 0], [149, [1, 0, 0, 0], 0],
    [92, [2, 0, 0, 0], 2], [91, [2, 0, 0, 0], 0], [93, [2, 0, 0, 0], 0],
    [64, [3, 0, 0, 0], 3], [63, [3, 0, 0, 0], 0], [65, [3, 0, 0, 0], 0],
    [32, [4, 0, 0, 0], 4], [31, [4, 0, 0, 0], 0], [1452, [4, 0, 0, 0], 4], [65_507, [4, 0, 0, 0], 4],
    [148, [0, 0, 0, 0], 0], [148, [5, 0, 0, 0], 0], [148, [1, 1, 0, 0], 0], [148, [1, 0, 1, 0], 0], [148, [1, 0, 0, 1], 0],
    [64, [4, 0, 0, 128], 0],
  ];
  for (const [length, head, type] of framed) {
    const message = new Uint8Array(length).fill(7);
    message.set(head);
    assert.equal(messageType(message), type, `${length} bytes, ${head.join(" ")}`);
  }
  assert.equal(messageType(new Uint8Array(0)), 0);
});

allow("requests are read as they are written", () => {
  assert.equal(requestedEndpoint("/udp/192.0.2.1:9"), "192.0.2.1:9");
  assert.equal(requestedEndpoint("/behind/a/proxy/udp/[2001:db8::1]:9?x=1"), "[2001:db8::1]:9");
  assert.equal(requestedEndpoint("/udp/%5B2001:db8::1%5D:9"), "[2001:db8::1]:9");
  for (const path of ["/", "/readyz", "/udp", "/tcp/1.2.3.4:5", "/udp/%zz"]) assert.equal(requestedEndpoint(path), null, path);
  assert.equal(offeredToken(offeredProtocols(TOKEN).join(", ")), base64url(TOKEN));
  assert.match(offeredProtocols(TOKEN)[1], /^[A-Za-z0-9._-]+$/);
  for (const protocols of [undefined, "", "wasmguard.v1"]) assert.equal(offeredToken(protocols), null);
});

allow.run();

// --- a relay with a peer behind -----------------------------------------------------------------------------------

const relays = suite("relay");

let peer: UdpSocket;
/** what the peer got, and from where */
let got: [Uint8Array, RemoteInfo][];
let lines: string[];
let opened: { close(): unknown }[];

relays.before.each(async () => {
  got = [];
  lines = [];
  opened = [];
  peer = await openUdp();
  peer.on("message", (bytes, from) => got.push([bytes, from]));
});

relays.after.each(async () => {
  for (const each of opened.reverse()) await each.close();
  peer.close();
});

async function openUdp(): Promise<UdpSocket> {
  const socket = createSocket("udp4");
  await new Promise<void>((resolve) => socket.bind(0, "127.0.0.1", resolve));
  return socket;
}

interface Running {
  relay: Relay;
  port: number;
  url: string;
  /** the path that asks for the peer */
  path: string;
}

async function start(options: Partial<RelayOptions> = {}, port = 0): Promise<Running> {
  const write = (text: string): void => void lines.push(text);
  const relay = new Relay({ allow: [`127.0.0.1:${peer.address().port}`], log: { verbose: write, error: write }, ...options });
  opened.push(relay);
  const bound = await relay.listen(port, "127.0.0.1");
  return { relay, port: bound.port, url: `ws://127.0.0.1:${bound.port}`, path: `/udp/127.0.0.1:${peer.address().port}` };
}

async function openClient(options: ConstructorParameters<typeof WebSocketTransport>[0]): Promise<TransportSocket & { codes: string[]; came: Bytes[] }> {
  const socket = await new WebSocketTransport(options).bind(0);
  const codes: string[] = [];
  const came: Bytes[] = [];
  socket.onError = (code) => codes.push(code);
  socket.onDatagram = (bytes) => came.push(bytes.slice() as Bytes);
  opened.push(socket);
  return Object.assign(socket, { codes, came });
}

/** Asks for a WebSocket by hand. @returns the connection, and what it said up to the first empty line */
async function upgrade(port: number, path: string, headers: Record<string, string> = {}): Promise<{ socket: Socket; head: string }> {
  const socket = connect(port, "127.0.0.1");
  opened.push({ close: () => socket.destroy() });
  socket.on("error", () => {});
  const lines = { connection: "Upgrade", upgrade: "websocket", "sec-websocket-version": "13", "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==" };
  const all = { host: "relay", ...lines, "sec-websocket-protocol": "wasmguard.v1", ...headers };
  socket.write(`GET ${path} HTTP/1.1\r\n${Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`).join("")}\r\n`);
  let head = "";
  await new Promise<void>((resolve) => {
    const take = (chunk: Buffer): void => {
      head += chunk.toString("latin1");
      if (!head.includes("\r\n\r\n")) return;
      socket.off("data", take);
      socket.pause();
      resolve();
    };
    socket.on("data", take);
    socket.on("close", () => resolve());
  });
  return { socket, head };
}

const statusOf = async (port: number, path: string, headers?: Record<string, string>): Promise<number> => {
  const { socket, head } = await upgrade(port, path, headers);
  socket.destroy();
  return Number(/^HTTP\/1\.1 (\d{3})/.exec(head)?.[1] ?? 0);
};

/** A client's frame, RFC 6455 §5.2, masked with zeros. */
function frame(opcode: number, payload: Uint8Array, length = payload.length): Buffer {
  const size = length < 126 ? [0x80 | length] : length < 65536 ? [0xfe, length >> 8, length & 255] : [0xff, 0, 0, 0, 0, length >>> 24, (length >> 16) & 255, (length >> 8) & 255, length & 255];
  return Buffer.concat([Uint8Array.of(0x80 | opcode, ...size, 0, 0, 0, 0), payload]);
}

/** Resolves with all that comes until the other side ends, from a connection that upgrade() left paused. */
async function rest(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  socket.on("data", (chunk: Buffer) => chunks.push(chunk));
  socket.resume();
  await once(socket, "close");
  return Buffer.concat(chunks);
}

/** The code of the close frame at the start of what a server sent. */
const closeCode = (bytes: Buffer): number => ((bytes[0] & 15) === 8 ? bytes.readUInt16BE(2) : 0);

relays("who is let in: an endpoint that is allowed, and no other", async () => {
  const { port, path, relay } = await start();
  assert.equal(await statusOf(port, path), 101);
  for (const wrong of ["/udp/127.0.0.1:1", "/udp/192.0.2.1:51820", "/udp/localhost:9", "/udp/", "/udp/x", `${path}0`]) {
    assert.equal(await statusOf(port, wrong), 403, wrong);
  }
  assert.equal(await statusOf(port, "/"), 404);
  assert.equal(await statusOf(port, "/readyz"), 404);
  assert.equal(await statusOf(port, path, { "sec-websocket-version": "7" }), 400);
  assert.equal(await statusOf(port, path, { "sec-websocket-key": "short" }), 400);
  await until(() => relay.clientCount === 0, "the end of all clients");
  assert.equal(lines.some((line) => line.includes("403 endpoint \"127.0.0.1:1\" is not allowed")), true, lines.join("\n"));
});

relays("the token: as a subprotocol or a header, never in a log", async () => {
  const { port, path } = await start({ token: TOKEN });
  const offer = (token: string): Record<string, string> => ({ "sec-websocket-protocol": offeredProtocols(token).join(", ") });
  assert.equal(await statusOf(port, path), 401);
  assert.equal(await statusOf(port, path, offer("wrong")), 401);
  assert.equal(await statusOf(port, path, offer(TOKEN.slice(1))), 401);
  assert.equal(await statusOf(port, path, { authorization: "Bearer wrong" }), 401);
  assert.equal(await statusOf(port, path, { authorization: `Basic ${TOKEN}` }), 401);
  // A stranger does not learn what is allowed.
  assert.equal(await statusOf(port, "/udp/192.0.2.1:9"), 401);
  assert.equal(await statusOf(port, "/udp/192.0.2.1:9", offer(TOKEN)), 403);
  const { head } = await upgrade(port, path, offer(TOKEN));
  assert.match(head, /^HTTP\/1\.1 101/);
  assert.match(head, /sec-websocket-protocol: wasmguard\.v1\r\n/i);
  assert.equal(head.includes(base64url(TOKEN)), false, "the answer repeats the token");
  const log = lines.join("\n");
  for (const secret of [TOKEN, base64url(TOKEN), TOKEN.slice(1), base64url(TOKEN.slice(1))]) {
    assert.equal(log.includes(secret), false, "the log has a token");
  }
});

relays("pages: of an origin that is named, or with the token", async () => {
  const origin = "https://lab.example";
  const open = await start();
  assert.equal(await statusOf(open.port, open.path, { origin }), 403);
  const named = await start({ origins: [origin, "null"] });
  assert.equal(await statusOf(named.port, named.path, { origin }), 101);
  assert.equal(await statusOf(named.port, named.path, { origin: "null" }), 101);
  assert.equal(await statusOf(named.port, named.path), 101);
  for (const other of ["http://lab.example", "https://lab.example.evil", "https://evil"]) {
    assert.equal(await statusOf(named.port, named.path, { origin: other }), 403, other);
  }
  const any = await start({ origins: ["*"] });
  assert.equal(await statusOf(any.port, any.path, { origin }), 101);
  const token = await start({ token: TOKEN });
  const offer = { "sec-websocket-protocol": offeredProtocols(TOKEN).join(", ") };
  assert.equal(await statusOf(token.port, token.path, { origin, ...offer }), 101);
  assert.equal(await statusOf(token.port, token.path, { origin }), 401);
});

relays("plain HTTP: health, and the same answers as an upgrade gets", async () => {
  const origin = "https://lab.example";
  const { port, path } = await start({ token: TOKEN, origins: [origin] });
  const ask = async (path: string, init: RequestInit = {}): Promise<Response> => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`, init);
    await response.text();
    return response;
  };
  const authorization = { authorization: `Bearer ${base64url("x")}` };
  assert.equal((await ask("/readyz")).status, 200);
  assert.equal((await ask("/")).status, 426);
  assert.equal((await ask("/", { method: "POST", body: "x" })).status, 405);
  assert.equal((await ask(path)).status, 401);
  assert.equal((await ask(path, { headers: authorization })).status, 401);
  const preflight = await ask(path, { method: "OPTIONS", headers: { origin } });
  assert.equal(preflight.status, 204);
  assert.equal(preflight.headers.get("access-control-allow-headers"), "authorization");
  const ascii = await start({ token: "sixteen characters", origins: [origin] });
  const transport = new WebSocketTransport({ relay: ascii.url, token: "sixteen characters" });
  await transport.check(loopback(peer.address().port));
  await assert.rejects(transport.check(loopback(1)), { code: "EACCES", message: /does not allow 127\.0\.0\.1:1/ });
  const stranger = new WebSocketTransport({ relay: ascii.url });
  await assert.rejects(stranger.check(loopback(1)), { code: "EACCES", message: /token/ });
  await ascii.relay.close();
  await assert.rejects(transport.check(loopback(1)), { code: "ECONNREFUSED", message: /Cannot reach/ });
});

relays("datagrams pass, both ways, and only those that are framed as WireGuard", async () => {
  const { url, relay } = await start();
  const client = await openClient({ relay: url });
  const to = loopback(peer.address().port);
  const garbage = [new Uint8Array(0), Uint8Array.of(1), new Uint8Array(148), dataMessage(31), new TextEncoder().encode("GET / HTTP/1.1\r\n\r\n12345678901234")];
  client.send(dataMessage(32, 1), to);
  for (const bytes of garbage) client.send(bytes, to);
  client.send(dataMessage(9000, 2), to);
  await until(() => got.length === 2, "two datagrams");
  assert.deepEqual(got.map(([bytes]) => [bytes.length, bytes[31]]), [[32, 1], [9000, 2]]);
  const [, from] = got[0];
  for (const bytes of garbage) peer.send(bytes, from.port, from.address);
  peer.send(dataMessage(1400, 3), from.port, from.address);
  await until(() => client.came.length > 0, "an answer");
  assert.deepEqual(client.came, [dataMessage(1400, 3)]);
  // Nobody else can speak to the client, framed or not.
  const stranger = await openUdp();
  stranger.send(dataMessage(100, 66), from.port, from.address);
  await pause(20);
  peer.send(dataMessage(100, 4), from.port, from.address);
  await until(() => client.came.length > 1, "another answer");
  assert.deepEqual(client.came[1], dataMessage(100, 4));
  stranger.close();
  assert.equal(relay.clientCount, 1);
  client.close();
  await until(() => relay.clientCount === 0, "the end of the client");
  const summary = lines.find((line) => line.includes("datagrams")) ?? "";
  assert.match(summary, /2 datagrams \(9032 bytes\) out, 2 \(1500 bytes\) in, dropped: \d+ framing$/);
  assert.deepEqual(client.codes, []);
});

relays("handshake messages are limited, as a peer's own limit for an address is", async () => {
  const { url } = await start();
  const client = await openClient({ relay: url });
  const initiation = new Uint8Array(148);
  initiation[0] = 1;
  for (let i = 0; i < 60; i++) client.send(initiation, loopback(peer.address().port));
  client.send(dataMessage(32), loopback(peer.address().port));
  await until(() => got.some(([bytes]) => bytes[0] === 4), "the last message");
  const handshakes = got.filter(([bytes]) => bytes[0] === 1).length;
  assert.equal(handshakes >= 20 && handshakes < 40, true, `${handshakes} of 60 passed`);
});

relays("bytes are limited when the operator says so", async () => {
  const { url } = await start({ bytesPerSecond: 10_000 });
  const client = await openClient({ relay: url });
  for (let i = 0; i < 40; i++) client.send(dataMessage(1000), loopback(peer.address().port));
  await until(() => got.length >= 10, "the datagrams");
  await pause(20);
  assert.equal(got.length < 20, true, `${got.length} of 40 passed`);
});

relays("text, and messages that are too long, end the client and nobody else", async () => {
  const { port, path, relay, url } = await start();
  const other = await openClient({ relay: url });
  other.send(dataMessage(32), loopback(peer.address().port));
  await until(() => got.length === 1, "a datagram");
  const text = await upgrade(port, path);
  text.socket.write(frame(1, new TextEncoder().encode("hello")));
  assert.equal(closeCode(await rest(text.socket)), 1003);
  const long = await upgrade(port, path);
  long.socket.write(frame(2, new Uint8Array(0), 65_537));
  assert.equal(closeCode(await rest(long.socket)), 1009);
  const huge = await upgrade(port, path);
  huge.socket.write(frame(2, new Uint8Array(0), 0x7fffffff));
  assert.equal(closeCode(await rest(huge.socket)), 1009);
  const reserved = await upgrade(port, path);
  reserved.socket.write(Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff));
  assert.equal(closeCode(await rest(reserved.socket)), 1002);
  const cut = await upgrade(port, path);
  cut.socket.write(frame(2, new Uint8Array(9), 100));
  cut.socket.destroy();
  await until(() => relay.clientCount === 1, "the end of the others");
  other.send(dataMessage(32), loopback(peer.address().port));
  await until(() => got.length === 2, "a datagram");
});

relays("a client that never reads: what comes for it is dropped, and then it is", async () => {
  const { port, path, relay } = await start({ pingMs: 300 });
  const { socket, head } = await upgrade(port, path);
  assert.match(head, /^HTTP\/1\.1 101/);
  socket.write(frame(2, dataMessage(32)));
  await until(() => got.length === 1, "a datagram");
  const [, from] = got[0];
  // More than the buffers of both kernels take for one connection.
  const memory = process.memoryUsage().rss;
  while (relay.clientCount > 0) {
    for (let i = 0; i < 16; i++) peer.send(dataMessage(60_000), from.port, from.address);
    await pause(1);
  }
  const summary = lines.find((line) => line.includes("datagrams")) ?? "";
  assert.match(summary, /no answer to a ping; .*dropped: .*\d+ backpressure/);
  const grown = process.memoryUsage().rss - memory;
  assert.equal(grown < 200 << 20, true, `memory grew by ${grown >> 20} MiB`);
});

relays("as many clients as there is room for", async () => {
  const { port, path, relay } = await start({ maxClients: 2 });
  const first = await upgrade(port, path);
  const second = await upgrade(port, path);
  assert.match(second.head, /^HTTP\/1\.1 101/);
  assert.equal(await statusOf(port, path), 503);
  const transport = new WebSocketTransport({ relay: `ws://127.0.0.1:${port}` });
  await assert.rejects(transport.check(loopback(peer.address().port)), { code: "EAGAIN" });
  assert.equal(relay.clientCount, 2);
  first.socket.destroy();
  await until(() => relay.clientCount === 1, "room");
  // All at once: no more than there is room for.
  const statuses = await Promise.all(Array.from({ length: 8 }, () => upgrade(port, path)));
  assert.equal(statuses.filter(({ head }) => head.startsWith("HTTP/1.1 101")).length, 1);
});

relays("a client without datagrams is closed, one with some is not", async () => {
  const { url, relay, path, port } = await start({ idleMs: 200, pingMs: 50 });
  const idle = await upgrade(port, path);
  // It answers pings, and is idle all the same.
  const answers: Buffer[] = [];
  idle.socket.on("data", (chunk: Buffer) => {
    answers.push(chunk);
    if ((chunk[0] & 15) === 9) idle.socket.write(frame(10, new Uint8Array(0)));
  });
  idle.socket.resume();
  const busy = await openClient({ relay: url });
  let ended = false;
  idle.socket.on("close", () => (ended = true));
  await until(() => {
    busy.send(dataMessage(32), loopback(peer.address().port));
    return ended;
  }, "the end of the idle one");
  const all = Buffer.concat(answers);
  assert.equal(all.includes("idle"), true, "no reason was given");
  assert.equal(relay.clientCount, 1);
});

relays("close() ends clients that do not answer, too", async () => {
  const { port, path, relay } = await start();
  await upgrade(port, path); // paused: never reads, never answers
  const slow = connect(port, "127.0.0.1");
  slow.on("error", () => {});
  slow.write("GET /udp/ HT");
  await until(() => relay.clientCount === 1, "a client");
  await relay.close();
  assert.equal(relay.clientCount, 0);
  slow.destroy();
  await relay.close();
});

relays("a peer whose port is closed is no end of the client", async () => {
  const { url, relay } = await start();
  const client = await openClient({ relay: url });
  const { port } = peer.address();
  client.send(dataMessage(32), loopback(port));
  await until(() => got.length === 1, "a datagram");
  peer.close();
  for (let i = 0; i < 5; i++) {
    client.send(dataMessage(32), loopback(port));
    await pause(5);
  }
  assert.equal(relay.clientCount, 1);
  peer = createSocket("udp4");
  peer.on("message", (bytes, from) => got.push([bytes, from]));
  await new Promise<void>((resolve) => peer.bind(port, "127.0.0.1", resolve));
  client.send(dataMessage(40), loopback(port));
  await until(() => got.some(([bytes]) => bytes.length === 40), "a datagram after the peer came back");
});

relays("TLS of its own", async () => {
  const { port, path } = await start({ tls: { cert: TLS_CERT, key: TLS_KEY } });
  const socket = connectTls({ port, host: "127.0.0.1", servername: "localhost", ca: TLS_CERT });
  opened.push({ close: () => socket.destroy() });
  await once(socket, "secureConnect");
  const headers = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
  socket.write(`GET ${path} HTTP/1.1\r\nHost: localhost\r\n${headers}\r\n`);
  const [head] = (await once(socket, "data")) as [Buffer];
  assert.match(head.toString("latin1"), /^HTTP\/1\.1 101/);
  socket.write(frame(2, dataMessage(64)));
  await until(() => got.length === 1, "a datagram");
  assert.equal(await statusOf(port, path), 0); // without TLS
});

relays("a port that is taken is said so", async () => {
  const { port } = await start();
  const second = new Relay({ allow: ["192.0.2.1:9"] });
  await assert.rejects(second.listen(port, "127.0.0.1"), { code: "EADDRINUSE", message: /127\.0\.0\.1 port \d+/ });
});

// --- the transport ----------------------------------------------------------------------------------------------------

relays("a name is for the relay to resolve", async () => {
  const { port } = peer.address();
  const { url } = await start({ allow: [`vpn.example:${port}`, `127.0.0.1:${port}`], resolve: async () => [parseIp("127.0.0.1")] });
  const transport = new WebSocketTransport({ relay: url });
  const endpoint = transport.named("vpn.example", port);
  assert.deepEqual(transport.named("vpn.example", port), endpoint);
  assert.notDeepEqual(transport.named("other.example", port), endpoint);
  await transport.check(endpoint);
  await assert.rejects(transport.check(transport.named("other.example", port)), { code: "EACCES", message: /other\.example/ });
  const socket = await transport.bind(0);
  opened.push(socket);
  let from: Endpoint | undefined;
  socket.onDatagram = (_, sender) => (from = sender);
  socket.send(dataMessage(32), endpoint);
  await until(() => got.length === 1, "a datagram");
  peer.send(dataMessage(32), got[0][1].port);
  await until(() => from !== undefined, "an answer");
  assert.deepEqual(from, endpoint);
  for (const name of ["", "a b", "x/../y", "a?b"]) assert.throws(() => transport.named(name, 9), { name: "RangeError" }, name);
  assert.throws(() => transport.named("a", 0), { name: "RangeError" });
});

relays("a relay's URL is checked when it is given", () => {
  const wrong: [relay: string, message: RegExp][] = [
    ["relay.example", /no URL/], ["ftp://relay.example", /wss:\/\//], ["wss://me:hunter2@relay.example", /token/],
    ["wss://relay.example?x", /no \? or #/], ["", /no URL/],
  ];
  for (const [relay, message] of wrong) {
    assert.throws(() => new WebSocketTransport({ relay }), { name: "RangeError", message }, relay);
  }
  try {
    new WebSocketTransport({ relay: "wss://me:hunter2@relay.example" });
  } catch (error) {
    assert.equal((error as Error).message.includes("hunter2"), false);
  }
  assert.throws(() => new WebSocketTransport({ relay: "wss://relay.example", token: "" }), { name: "RangeError" });
});

relays("a relay that is away: each datagram is counted, and soon the next attempt", async () => {
  const { port, relay } = await start();
  await relay.close();
  const client = await openClient({ relay: `ws://127.0.0.1:${port}` });
  const to = loopback(peer.address().port);
  for (let i = 0; i < 3; i++) client.send(dataMessage(32, i), to);
  await until(() => client.codes.length === 3, "errors");
  client.send(dataMessage(32, 3), to); // too soon
  assert.deepEqual(client.codes, Array(4).fill("ECONNREFUSED"));
  await start({}, port);
  let sent = 4;
  await until(() => {
    client.send(dataMessage(32, sent++), to);
    return got.length > 0;
  }, "a datagram");
  // And an attempt that never ends loses the oldest.
  const silent = createServer((socket) => void sockets.push(socket));
  const sockets: Socket[] = [];
  silent.listen(0, "127.0.0.1");
  await once(silent, "listening");
  const patient = await openClient({ relay: `ws://127.0.0.1:${(silent.address() as AddressInfo).port}` });
  for (let i = 0; i < 70; i++) patient.send(dataMessage(32, i), to);
  assert.deepEqual(patient.codes, Array(6).fill("ENOBUFS"));
  patient.close();
  await pause(20);
  for (const socket of sockets) socket.destroy();
  silent.close();
});

relays("the newest that waited are sent, in order", async () => {
  const { url } = await start();
  const client = await openClient({ relay: url });
  for (let i = 0; i < 100; i++) client.send(dataMessage(32, i), loopback(peer.address().port));
  await until(() => got.length === 64, "the datagrams");
  assert.deepEqual(got.map(([bytes]) => bytes[31]), Array.from({ length: 64 }, (_, i) => 36 + i));
});

relays("what a server that is no relay sends does no harm", async () => {
  const server = createHttpServer();
  const webSockets = new WebSocketServer({ server });
  webSockets.on("connection", (webSocket) => {
    webSocket.on("error", () => {});
    webSocket.send("text");
    webSocket.send(new Uint8Array(70_000));
    webSocket.send(new Uint8Array(0));
    webSocket.send(dataMessage(65_507));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const client = await openClient({ relay: `ws://127.0.0.1:${(server.address() as AddressInfo).port}` });
  client.send(dataMessage(32), loopback(9));
  await until(() => client.came.length === 2, "the datagrams");
  assert.deepEqual(client.came.map(({ length }) => length), [0, 65_507]);
  assert.deepEqual(client.codes, ["EPROTO", "EMSGSIZE"]);
  client.close();
  for (const webSocket of webSockets.clients) webSocket.terminate();
  webSockets.close();
  await new Promise<void>((resolve) => server.close(() => resolve()));
});

relays("the relay starts again, and the tunnel comes back with the same session", async () => {
  const right = await openPortable({ transport: new UdpTransport({ address: "127.0.0.1" }), onPacket: (packet) => came.push(packet as Bytes), maxPeers: 2 });
  opened.push(right);
  const came: Bytes[] = [];
  await right.configure({ privateKey: generatePrivateKey(), replacePeers: false, peers: [] });
  await right.up();
  const options = { allow: [`127.0.0.1:${right.listenPort}`] };
  const { relay, port, url } = await start(options);
  const left = await openPortable({ transport: new WebSocketTransport({ relay: url }), onPacket: () => {}, maxPeers: 2 });
  opened.push(left);
  await left.configure({ privateKey: generatePrivateKey(), replacePeers: false, peers: [] });
  await left.up();
  const know = (key: Uint8Array, prefix: string, endpoint?: Endpoint) => ({
    replacePeers: true,
    peers: [{ ...createPeerChange(key), endpoint, allowedIps: [{ ip: parsePrefix(prefix), remove: false }] }],
  });
  await left.configure(know(right.device.publicKey!, "10.0.0.2/32", loopback(right.listenPort)));
  await right.configure(know(left.device.publicKey!, "10.0.0.1/32"));
  const random = new Stream(1, "relay");
  const packet = (): Bytes => build(between(random, true, 4, UDP, 200));
  left.send(packet());
  await until(() => came.length === 1, "a packet");
  const { lastHandshake, endpoint } = right.state().peers[0];
  await relay.close();
  await start(options, port);
  await until(() => {
    left.send(packet());
    return came.length > 2;
  }, "a packet after the relay came back");
  const after = right.state().peers[0];
  assert.deepEqual(after.lastHandshake, lastHandshake);
  assert.notEqual(after.endpoint?.port, endpoint?.port); // it followed us
});

relays.run();

// --- the command --------------------------------------------------------------------------------------------------------

const cli = suite("wasmguard relay");

const script = fileURLToPath(new URL("../../host/cli.ts", import.meta.url));
const runtime = "Deno" in globalThis ? ["run", "-A"] : process.execArgv;

function run(...args: string[]) {
  const child = spawn(process.execPath, [...runtime, script, "relay", ...args], {
    stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, LOG_LEVEL: "verbose" },
  });
  const output = { text: "" };
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk) => (output.text += chunk));
  return { child, output, closed: once(child, "close") as Promise<[number | null, string | null]> };
}

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  cli(`runs until ${signal}, and ends with code 0`, async () => {
    const folder = mkdtempSync(join(tmpdir(), "relay-"));
    writeFileSync(join(folder, "token"), `${TOKEN}\n`);
    const target = await openUdp();
    const came: number[] = [];
    target.on("message", ({ length }) => came.push(length));
    const { port } = target.address();
    const { child, output, closed } = run("--listen", "127.0.0.1:0", "--allow", `192.0.2.1:9,127.0.0.1:${port}`, "--token", join(folder, "token"));
    await until(() => /Relaying/.test(output.text) || child.exitCode !== null, "its first line", 30_000);
    const url = /ws:\/\/127\.0\.0\.1:\d+/.exec(output.text)?.[0] ?? "";
    assert.match(output.text, /Relaying ws:\/\/127\.0\.0\.1:\d+ to 192\.0\.2\.1:9, 127\.0\.0\.1:\d+\n/);
    assert.equal((await fetch(`${url.replace("ws", "http")}/readyz`)).status, 200);
    const socket = await new WebSocketTransport({ relay: url, token: TOKEN }).bind(0);
    socket.send(dataMessage(32), loopback(port));
    await until(() => came.length === 1, "a datagram");
    process.kill(child.pid!, signal); // after child.kill() Deno reports the signal, whatever the code was
    assert.deepEqual(await closed, [0, null], output.text);
    assert.match(output.text, new RegExp(`client 1: 127\\.0\\.0\\.1:\\d+ to 127\\.0\\.0\\.1:${port}\n[^]*client 1: the relay stops; 1 datagrams \\(32 bytes\\) out`));
    assert.equal(output.text.includes(TOKEN), false);
    socket.close();
    target.close();
    rmSync(folder, { recursive: true });
  });
}

cli("wrong usage is named, with code 2", async () => {
  const wrong: [args: string[], message: RegExp][] = [
    [[], /--allow is missing/],
    [["--allow", ""], /--allow is missing/],
    [["--allow", "192.0.2.1"], /Cannot allow "192\.0\.2\.1".*no :port/],
    [["--allow", "192.0.2.1:9", "--listen", "here:1"], /--listen here:1/],
    [["--allow", "192.0.2.1:9", "--tls-cert", "x"], /go together/],
    [["--allow", "192.0.2.1:9", "--max-clients", "0"], /--max-clients 0/],
    [["--allow", "192.0.2.1:9", "--max-rate", "fast"], /--max-rate fast/],
    [["--allow", "192.0.2.1:9", "extra"], /unexpected argument "extra"/],
  ];
  for (const [args, message] of wrong) {
    await assert.rejects(async () => command.run(args, { script }), (error: Error) => {
      assert.equal(error instanceof UsageError, true, String(error));
      assert.match(error.message, message);
      return true;
    });
  }
  const { output, closed } = run();
  assert.deepEqual(await closed, [2, null]);
  assert.match(output.text, /--allow is missing/);
});

cli("a token file that cannot be is named, and not what is in it", async () => {
  const folder = mkdtempSync(join(tmpdir(), "relay-"));
  const short = join(folder, "short");
  writeFileSync(short, "hunter2\n");
  const start = (token: string) => async () => command.run(["--allow", "192.0.2.1:9", "--token", token], { script });
  await assert.rejects(start(short), (error: Error) => error.message.includes(short) && !error.message.includes("hunter2"));
  await assert.rejects(start(join(folder, "none")), { code: "ENOENT" });
  rmSync(folder, { recursive: true });
});

cli.run();
