// UDP sockets between two stacks on a virtual clock, and against what Linux sends.
import assert from "node:assert/strict";
import fc from "fast-check";
import { suite } from "uvu";
import { WasmguardError } from "../../host/errors.ts";
import { formatIp, parseIp } from "../../host/ip.ts";
import type { DeliveryError, SocketAddress } from "../../host/netstack/types.ts";
import {
  LONG_PAYLOAD,
  UDP4,
  UDP6,
  UDP_FRAGMENTS4,
  UDP_FRAGMENTS6,
  UNREACHABLE4,
  UNREACHABLE6,
} from "../helpers/kernel-packets.ts";
import {
  A4,
  A6,
  at,
  B4,
  B6,
  concat,
  createPair,
  createSingle,
  hex,
  incoming,
  ListLink,
  seeded,
  toHex,
  VirtualClock,
} from "../helpers/netstack.ts";
import { Stack } from "../../host/netstack/stack.ts";

const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);
const bytes = (value: string): Uint8Array => new TextEncoder().encode(value);

function hasCode(code: string): (error: unknown) => boolean {
  return (error) => error instanceof WasmguardError && error.code === code;
}

const sockets = suite("netstack UDP sockets");

sockets("there and back, in both families", () => {
  const { clock, a, b } = createPair();
  const heard: string[] = [];
  const server = b.udp.open({ port: 7 });
  server.onDatagram = (payload, from) => server.send(bytes(`${text(payload)} from ${formatIp(from.address)}`), from);
  const client = a.udp.open();
  client.onDatagram = (payload, from) => heard.push(`${text(payload)}, says ${formatIp(from.address)} ${from.port}`);
  client.send(bytes("one"), at(B4, 7));
  client.send(bytes("two"), at(B6, 7));
  client.send(new Uint8Array(0), at(B4, 7));
  clock.run(10);
  assert.deepEqual(heard, [
    `one from ${A4}, says ${B4} 7`,
    `two from ${A6}, says ${B6} 7`,
    ` from ${A4}, says ${B4} 7`,
  ]);
  assert.equal(b.counts.delivered, 3);
  client.close();
  server.close();
  assert.deepEqual([a.udp.size, b.udp.size, clock.timers], [0, 0, 0]);
});

sockets("Linux's datagrams", () => {
  const { stack } = createSingle();
  const heard: string[] = [];
  const socket = stack.udp.open({ port: 7 });
  socket.onDatagram = (payload, from) => heard.push(`${text(payload)} ${formatIp(from.address)} ${from.port}`);
  stack.input(incoming(UDP4));
  stack.input(incoming(UDP6));
  assert.deepEqual(heard, [`hello ${B4} 40000`, `hello ${B6} 40000`]);
});

sockets("what is sent is what Linux sends", () => {
  const { stack, link } = createSingle();
  const socket = stack.udp.open({ port: 40000 });
  socket.send(bytes("hello"), at(B4, 7));
  socket.send(bytes("hello"), at(B6, 7));
  const [four, six] = link.take();
  // The other way round the checksums are the same; Linux numbers packets and labels flows as well.
  assert.equal(toHex(four.subarray(20)), toHex(UDP4.subarray(20)));
  assert.equal(toHex(four.subarray(0, 10)), "45000021000040004011");
  assert.equal(toHex(six.subarray(40)), toHex(UDP6.subarray(40)));
  assert.equal(toHex(six.subarray(0, 8)), "60000000000d1140");
});

sockets("ports: taken, not ours, impossible, random", () => {
  const { a } = createPair();
  a.udp.open({ port: 53, address: parseIp(A4) });
  a.udp.open({ port: 53, address: parseIp(A6) });
  assert.throws(() => a.udp.open({ port: 53 }), hasCode("EADDRINUSE"));
  assert.throws(() => a.udp.open({ port: 53, address: parseIp(A4) }), hasCode("EADDRINUSE"));
  assert.throws(() => a.udp.open({ port: 54, address: parseIp("10.0.0.9") }), hasCode("EADDRNOTAVAIL"));
  for (const port of [0, -1, 65_536, 1.5, NaN]) assert.throws(() => a.udp.open({ port }), RangeError);
  const ports = Array.from({ length: 100 }, () => a.udp.open().local.port);
  assert.equal(new Set(ports).size, 100);
  assert.equal(
    ports.every((port) => port >= 32_768 && port <= 65_535),
    true,
  );
  assert.equal(Math.max(...ports) - Math.min(...ports) > 10_000, true, "spread");
});

sockets("when every port is taken, an error says so; one that was closed is free again", () => {
  const { a } = createPair();
  const all = Array.from({ length: 32_768 }, () => a.udp.open());
  assert.throws(() => a.udp.open(), hasCode("EADDRINUSE"));
  const { port } = all[77].local;
  all[77].close();
  assert.equal(a.udp.open().local.port, port);
});

sockets("an address of a socket's own: only its datagrams", () => {
  const { clock, a, b } = createPair();
  const heard: string[] = [];
  b.udp.open({ port: 9, address: parseIp(B4) }).onDatagram = (payload) => heard.push(`4 ${text(payload)}`);
  b.udp.open({ port: 9, address: parseIp(B6) }).onDatagram = (payload) => heard.push(`6 ${text(payload)}`);
  const client = a.udp.open();
  client.send(bytes("x"), at(B6, 9));
  client.send(bytes("y"), at(B4, 9));
  clock.run(10);
  assert.deepEqual(heard, ["6 x", "4 y"]);
  const bound = a.udp.open({ address: parseIp(A4) });
  assert.throws(() => bound.send(bytes("z"), at(B6, 9)), hasCode("EHOSTUNREACH"));
});

sockets("sends that cannot be", () => {
  const { a } = createPair();
  const socket = a.udp.open();
  assert.throws(() => socket.send(new Uint8Array(65_508), at(B4, 9)), hasCode("EMSGSIZE"));
  assert.throws(() => socket.send(new Uint8Array(65_528), at(B6, 9)), hasCode("EMSGSIZE"));
  assert.throws(() => socket.send(bytes("x"), at(B4, 0)), hasCode("EDESTADDRREQ"));
  assert.throws(() => socket.send(bytes("x"), at("0.0.0.0", 9)), hasCode("EDESTADDRREQ"));
  assert.throws(() => socket.send(bytes("x"), at(B4, 65_536)), RangeError);
  assert.throws(() => socket.send(bytes("x"), at("127.0.0.1", 9)), hasCode("EHOSTUNREACH"));
  socket.close();
  assert.throws(() => socket.send(bytes("x"), at(B4, 9)), hasCode("EBADF"));
  const single = new Stack({
    link: new ListLink(),
    addresses: [parseIp(A4)],
    clock: new VirtualClock(),
    random: seeded(1),
  });
  assert.throws(() => single.udp.open().send(bytes("x"), at(B6, 9)), hasCode("EHOSTUNREACH"));
});

sockets.run();

const closed = suite("netstack UDP closed ports");

closed("the sender hears of it, in both families", () => {
  const { clock, a, b } = createPair();
  const errors: string[] = [];
  const socket = a.udp.open();
  socket.onError = (error, to) =>
    errors.push(`${error.kind} ${formatIp(to.address)} ${to.port} ${formatIp(error.from!.address)}`);
  socket.send(bytes("x"), at(B4, 9));
  socket.send(new Uint8Array(3000), at(B6, 10));
  clock.run(10);
  assert.deepEqual(errors, [`portUnreachable ${B4} 9 ${B4}`, `portUnreachable ${B6} 10 ${B6}`]);
  assert.equal(b.drops.noPort, 2);
});

closed("Linux's words for it", () => {
  const { stack } = createSingle();
  const errors: [DeliveryError, SocketAddress][] = [];
  const socket = stack.udp.open({ port: 40001 });
  socket.onError = (error, to) => errors.push([error, to]);
  stack.input(incoming(UNREACHABLE4));
  stack.input(incoming(UNREACHABLE6));
  assert.deepEqual(
    errors.map(([error, to]) => [error.kind, formatIp(to.address), to.port]),
    [
      ["portUnreachable", B4, 9],
      ["portUnreachable", B6, 9],
    ],
  );
  socket.close();
  stack.input(incoming(UNREACHABLE4));
  assert.equal(stack.drops.ignoredIcmp, 1);
});

closed("a joined packet is quoted as its first part", () => {
  const { stack, link } = createSingle();
  const payload = new Uint8Array(300).fill(1);
  for (const packet of [UDP4, UDP6]) {
    const headerLen = packet === UDP4 ? 20 : 40;
    const joined = concat(packet.subarray(0, headerLen + 8), payload);
    const at = headerLen === 20 ? 2 : 4;
    joined.set([1, headerLen === 20 ? 0x48 : 0x34], at); // 328 and 308
    joined.set([1, 0x34], headerLen + 4);
    if (headerLen === 20) joined.set(hex("0000"), 10);
    if (headerLen === 20) joined.set(hex("d725"), 10); // 0xd84c - (0x148 - 0x21)
    stack.input({ bytes: joined, gsoSize: 100, checksumVerified: true });
    const [reply] = link.take();
    const quoted = reply.subarray(headerLen + 8);
    assert.equal(quoted.length, headerLen + 108);
    assert.equal((quoted[at] << 8) | quoted[at + 1], headerLen === 20 ? 128 : 108);
    assert.equal((quoted[headerLen + 4] << 8) | quoted[headerLen + 5], 108);
  }
});

closed.run();

const lengths = suite("netstack UDP lengths");

lengths("a datagram longer than the path goes in fragments, and arrives whole", () => {
  const { clock, a, b, linkA } = createPair();
  const heard: Uint8Array[] = [];
  b.udp.open({ port: 7 }).onDatagram = (payload) => heard.push(payload);
  const client = a.udp.open();
  const random = seeded(5);
  for (const [to, length] of [
    [B4, 65_507],
    [B6, 65_527],
    [B4, 1393],
    [B6, 1373],
    [B4, 1392],
    [B6, 1372],
  ] as const) {
    const payload = new Uint8Array(length);
    random(payload);
    const before = linkA.sent;
    client.send(payload, at(to, 7));
    clock.run(10);
    assert.equal(toHex(heard.pop()!) === toHex(payload), true, `${to} ${length}`);
    const headerLen = to === B4 ? 20 : 48;
    const wanted =
      length > 1392 || (to === B6 && length > 1372) ? Math.ceil((length + 8) / ((1420 - headerLen) & ~7)) : 1;
    assert.equal(linkA.sent - before, wanted);
  }
  assert.equal(clock.timers, 0);
});

lengths("the fragments are those that Linux makes", () => {
  const { stack, link } = createSingle();
  link.mtu = 1280;
  const socket = stack.udp.open({ port: 40000 });
  socket.send(LONG_PAYLOAD, at(B4, 7));
  const four = link.take();
  socket.send(LONG_PAYLOAD, at(B6, 7));
  const six = link.take();
  assert.equal(four.length + six.length, 4);
  for (const [i, fragment] of four.entries()) {
    const theirs = UDP_FRAGMENTS4[i];
    assert.equal(toHex(fragment.subarray(20)), toHex(theirs.subarray(20)), "data");
    assert.equal(toHex(fragment.subarray(0, 4)), toHex(theirs.subarray(0, 4)), "lengths");
    assert.equal(toHex(fragment.subarray(6, 10)), toHex(theirs.subarray(6, 10)), "flags, offset, TTL, protocol");
    assert.equal(toHex(fragment.subarray(4, 6)), toHex(four[0].subarray(4, 6)), "one id");
  }
  for (const [i, fragment] of six.entries()) {
    const theirs = UDP_FRAGMENTS6[i];
    assert.equal(toHex(fragment.subarray(48)), toHex(theirs.subarray(48)), "data");
    assert.equal(toHex(fragment.subarray(4, 8)), toHex(theirs.subarray(4, 8)), "length, next header, hop limit");
    assert.equal(toHex(fragment.subarray(40, 44)), toHex(theirs.subarray(40, 44)), "offset");
    assert.equal(toHex(fragment.subarray(44, 48)), toHex(six[0].subarray(44, 48)), "one id");
  }
});

lengths("a length that lies is refused; bytes after the datagram are not its own", () => {
  const { stack } = createSingle();
  const heard: string[] = [];
  stack.udp.open({ port: 7 }).onDatagram = (payload) => heard.push(text(payload));
  const lie = (value: number): void => {
    const packet = UDP4.slice();
    packet.set([value >>> 8, value & 0xff], 24);
    stack.input(incoming(packet));
  };
  lie(7);
  lie(14);
  lie(0);
  assert.equal(stack.drops.badTransport, 3);
  lie(12);
  assert.equal(stack.drops.badChecksum, 1);
  const padded = concat(UDP4, hex("ffff"));
  padded[3] += 2;
  padded[11] -= 2;
  stack.input(incoming(padded));
  assert.deepEqual(heard, ["hello"]);
});

lengths("no checksum: IPv4 may, IPv6 may not", () => {
  const { stack } = createSingle();
  let heard = 0;
  stack.udp.open({ port: 7 }).onDatagram = () => heard++;
  for (const [packet, at] of [
    [UDP4, 26],
    [UDP6, 46],
  ] as const) {
    const without = packet.slice();
    without.fill(0, at, at + 2);
    stack.input(incoming(without));
    without[at] = 1;
    stack.input(incoming(without));
  }
  assert.equal(heard, 1);
  assert.equal(stack.drops.badChecksum, 3);
});

lengths("a checksum that comes to 0 is sent as all ones, and taken", () => {
  const { clock, a, b, linkA } = createPair();
  let heard = 0;
  b.udp.open({ port: 7 }).onDatagram = () => heard++;
  const socket = a.udp.open({ port: 40000 });
  let field = 0;
  linkA.change = (packet) => {
    field = (packet[26] << 8) | packet[27];
    return [packet];
  };
  socket.send(new Uint8Array(2), at(B4, 7));
  clock.run(5);
  socket.send(new Uint8Array([field >>> 8, field & 0xff]), at(B4, 7)); // makes the sum all ones
  clock.run(5);
  assert.equal(field, 0xffff);
  assert.equal(heard, 2);
});

lengths("a joined packet is taken apart", () => {
  const { stack } = createSingle();
  const heard: number[] = [];
  stack.udp.open({ port: 7 }).onDatagram = (payload) => heard.push(payload.length);
  const joined = concat(UDP4.subarray(0, 28), new Uint8Array(250));
  joined.set([1, 0x16], 2);
  joined.set([1, 2], 24);
  joined.set(hex("d757"), 10);
  stack.input({ bytes: joined, gsoSize: 100, checksumVerified: true });
  assert.deepEqual(heard, [100, 100, 50]);
});

lengths("any payload arrives as it is, over any MTU, checksum left to the link or not", () => {
  const { clock, a, b, linkA } = createPair();
  let last: string | null = null;
  b.udp.open({ port: 7 }).onDatagram = (payload) => (last = toHex(payload));
  const socket = a.udp.open();
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 5000, size: "max" }),
      fc.integer({ min: 576, max: 3000 }),
      fc.boolean(),
      (payload, mtu, six) => {
        linkA.mtu = Math.max(mtu, six ? 1280 : 0);
        linkA.gsoMaxSize = mtu % 2 === 0 ? 65_535 : 0;
        last = null;
        socket.send(payload, at(six ? B6 : B4, 7));
        clock.run(5);
        assert.equal(last, toHex(payload));
      },
    ),
    { numRuns: 200 },
  );
});

lengths.run();
