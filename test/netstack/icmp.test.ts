// Echo, errors in and out, and the paths' MTUs, against Linux's messages and forged ones.
import assert from "node:assert/strict";
import { suite } from "uvu";
import { WasmguardError } from "../../host/errors.ts";
import { formatIp, parseIp } from "../../host/ip.ts";
import { PathMtus } from "../../host/netstack/pathmtu.ts";
import type { DeliveryError } from "../../host/netstack/types.ts";
import { NO_PROTOCOL4, PING4, PING6, UDP4, UDP6, UDP_FRAGMENTS4, UNREACHABLE4 } from "../helpers/kernel-packets.ts";
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
  seeded,
  settle,
  slowSum,
  toHex,
  VirtualClock,
} from "../helpers/netstack.ts";

const A4_HEX = "0a090001";
const B4_HEX = "0a090002";
const A6_HEX = "fd090000000000000000000000000001";
const B6_HEX = "fd090000000000000000000000000002";

/** An ICMP message to us in a packet, with checksums. */
function message(family: 4 | 6, body: Uint8Array, from?: string): Uint8Array {
  const icmp = body.slice();
  icmp.fill(0, 2, 4);
  const ip =
    family === 4
      ? hex(`4500 0000 0000 4000 4001 0000 ${from ?? B4_HEX} ${A4_HEX}`)
      : hex(`60000000 0000 3a40 ${from ?? B6_HEX} ${A6_HEX}`);
  const length = family === 4 ? 20 + icmp.length : icmp.length;
  ip.set([length >>> 8, length & 0xff], family === 4 ? 2 : 4);
  const seal = (bytes: Uint8Array, at: number, ...summed: Uint8Array[]): void => {
    const value = 0xffff - slowSum(concat(...summed));
    bytes.set([value >>> 8, value & 0xff], at);
  };
  if (family === 4) seal(ip, 10, ip);
  const pseudo =
    family === 4
      ? new Uint8Array(0)
      : concat(ip.subarray(8, 40), new Uint8Array([0, 58, icmp.length >>> 8, icmp.length & 0xff]));
  seal(icmp, 2, pseudo, icmp);
  return concat(ip, icmp);
}

/** Checks that a message's checksums are right, and gives its ICMP part. */
function open(packet: Uint8Array): Uint8Array {
  const family = packet[0] >>> 4 === 4 ? 4 : 6;
  const body = packet.subarray(family === 4 ? 20 : 40);
  const again = message(family, body, toHex(family === 4 ? packet.subarray(12, 16) : packet.subarray(8, 24)));
  assert.equal(toHex(body.subarray(2, 4)), toHex(sealed(packet, family)));
  assert.equal(again.length, packet.length);
  return body;
}

function sealed(packet: Uint8Array, family: 4 | 6): Uint8Array {
  const body = packet.slice(family === 4 ? 20 : 40);
  body.fill(0, 2, 4);
  const length = new Uint8Array([0, 58, body.length >>> 8, body.length & 0xff]);
  const value = 0xffff - slowSum(family === 4 ? body : concat(packet.subarray(8, 40), length, body));
  return new Uint8Array([value >>> 8, value & 0xff]);
}

const echo = suite("netstack echo");

echo("Linux's ping is answered as Linux would", () => {
  const { stack, link } = createSingle();
  stack.input(incoming(PING4));
  stack.input(incoming(PING6));
  const [four, six] = link.take();
  const reply4 = open(four);
  assert.deepEqual([...reply4.subarray(0, 2)], [0, 0]);
  assert.equal(toHex(reply4.subarray(4)), toHex(PING4.subarray(24)));
  assert.equal(toHex(four.subarray(12, 20)), A4_HEX + B4_HEX);
  const reply6 = open(six);
  assert.deepEqual([...reply6.subarray(0, 2)], [129, 0]);
  assert.equal(toHex(reply6.subarray(4)), toHex(PING6.subarray(44)));
  assert.equal(toHex(six.subarray(8, 40)), A6_HEX + B6_HEX);
});

echo("ping: time, hop limit and bytes, in both families, small and in fragments", async () => {
  const { clock, a, linkA } = createPair();
  linkA.delayMs = 20;
  for (const to of [B4, B6]) {
    for (const size of [0, 5, 56, 1372, 20_000, to === B4 ? 65_507 : 65_527]) {
      const reply = a.icmp.ping(parseIp(to), { size });
      await clock.runAsync(30);
      const { ms, from, bytes, hopLimit } = await reply;
      assert.deepEqual([ms, formatIp(from.address), bytes, hopLimit], [21, to, size, 64]);
    }
  }
  assert.deepEqual([clock.timers, a.icmp.pending], [0, 0]);
});

echo("ping of ourselves", async () => {
  const { clock, stack, link } = createSingle();
  const replies = Promise.all([stack.icmp.ping(parseIp(A4)), stack.icmp.ping(parseIp(A6), { size: 60_000 })]);
  await clock.runAsync(1);
  assert.deepEqual(
    (await replies).map(({ bytes }) => bytes),
    [56, 60_000],
  );
  assert.equal(link.take().length, 0);
});

echo("nobody answers: a time-out, and no timer is left", async () => {
  const { clock, stack } = createSingle();
  const ping = stack.icmp.ping(parseIp(B4), { timeoutMs: 700 });
  await clock.runAsync(699);
  assert.equal(stack.icmp.pending, 1);
  const failed = assert.rejects(ping, (error: WasmguardError) => error.code === "ETIMEDOUT");
  await clock.runAsync(1);
  await failed;
  assert.deepEqual([clock.timers, stack.icmp.pending], [0, 0]);
});

echo("ended by a signal, by close(), refused for a size or a family", async () => {
  const { clock, stack } = createSingle();
  const controller = new AbortController();
  const ping = stack.icmp.ping(parseIp(B4), { signal: controller.signal });
  const reason = new Error("enough");
  controller.abort(reason);
  await assert.rejects(ping, reason);
  await assert.rejects(stack.icmp.ping(parseIp(B4), { signal: controller.signal }), reason);
  for (const size of [-1, 1.5, 65_508]) await assert.rejects(stack.icmp.ping(parseIp(B4), { size }), RangeError);
  await assert.rejects(stack.icmp.ping(parseIp("::")), (error: WasmguardError) => error.code === "EHOSTUNREACH");
  const last = assert.rejects(stack.icmp.ping(parseIp(B4)), (error: WasmguardError) => error.code === "ECANCELED");
  stack.close();
  await last;
  assert.equal(clock.timers, 0);
});

echo("a reply from another, with another payload or another id is not the reply", async () => {
  const { clock, stack, link } = createSingle();
  const ping = stack.icmp.ping(parseIp(B4), { size: 16 });
  await settle();
  const request = link.take()[0].subarray(20);
  const reply = concat(new Uint8Array([0]), request.subarray(1));
  const change = (at: number): Uint8Array => reply.map((byte, i) => (i === at ? byte ^ 1 : byte));
  const wrong = [
    message(4, reply, "0a090003"),
    ...[4, 6, 8, 23].map((at) => message(4, change(at))),
    message(4, reply.slice(0, 20)),
  ];
  for (const packet of wrong) stack.input(incoming(packet));
  assert.deepEqual([stack.drops.ignoredIcmp, stack.icmp.pending], [wrong.length, 1]);
  stack.input(incoming(message(4, reply)));
  assert.equal((await ping).bytes, 16);
  stack.input(incoming(message(4, reply)));
  assert.equal(stack.drops.ignoredIcmp, wrong.length + 1);
  assert.equal(clock.timers, 0);
});

echo("an error about a ping is its end", async () => {
  const { stack, link } = createSingle();
  for (const [to, type, code, wanted] of [
    [B4, 3, 1, "EHOSTUNREACH"],
    [B4, 3, 13, "EACCES"],
    [B4, 11, 0, "EHOSTUNREACH"],
    [B6, 1, 0, "EHOSTUNREACH"],
    [B6, 1, 1, "EACCES"],
    [B6, 3, 0, "EHOSTUNREACH"],
  ] as const) {
    const ping = stack.icmp.ping(parseIp(to));
    await settle();
    const [request] = link.take();
    const body = concat(new Uint8Array([type, code, 0, 0, 0, 0, 0, 0]), request);
    const failed = assert.rejects(ping, (error: WasmguardError) => error.code === wanted && /says/.test(error.message));
    stack.input(incoming(message(to === B4 ? 4 : 6, body)));
    await failed;
  }
});

echo.run();

const errors = suite("netstack ICMP errors sent");

errors("port unreachable as Linux has it", () => {
  const { stack, link } = createSingle();
  for (const packet of [UDP4, UDP6]) {
    stack.input(incoming(packet));
    const [reply] = link.take();
    const body = open(reply);
    assert.deepEqual([...body.subarray(0, 2)], packet === UDP4 ? [3, 3] : [1, 4]);
    assert.equal(toHex(body.subarray(4)), "00000000" + toHex(packet));
  }
  assert.equal(toHex(UNREACHABLE4.subarray(20, 22)), "0303");
});

errors("a protocol that we do not speak", () => {
  const { stack, link } = createSingle();
  const four = hex("4500001c1234400040c813d20a0900020a0900013132333435363738");
  stack.input(incoming(four));
  // Linux, the other way round: the same but for its class, id and checksums
  assert.equal(toHex(open(link.take()[0]).subarray(4, 8)), toHex(NO_PROTOCOL4.subarray(24, 28)));
  const six = concat(UDP6.subarray(0, 40), hex("c8000104 00000000"), hex("3132333435363738"));
  six.set([0, 16], 4);
  six[6] = 60;
  stack.input(incoming(six));
  const body = open(link.take()[0]);
  assert.equal(toHex(body.subarray(0, 8)).replace(/^(....)..../, "$1"), "0401" + "00000028");
  assert.equal(toHex(body.subarray(8)), toHex(six));
  assert.equal(stack.drops.noProtocol, 2);
});

errors("long packets are quoted up to 576 and 1280 bytes", () => {
  const { clock, a, b, linkB } = createPair();
  const lengths: number[] = [];
  linkB.change = (packet) => {
    open(packet);
    lengths.push(packet.length);
    return [packet];
  };
  a.udp.open().send(new Uint8Array(1300), at(B4, 9));
  a.udp.open().send(new Uint8Array(1300), at(B6, 9));
  clock.run(5);
  assert.deepEqual(lengths, [576, 1280]);
  assert.equal(b.drops.noPort, 2);
});

errors("never about an error, a fragment but the first, another host's packet, a source that is nobody", () => {
  const { stack, link } = createSingle();
  stack.udp.open({ port: 40001 });
  const bad = UNREACHABLE4.slice();
  bad[22] ^= 1; // its checksum
  stack.input(incoming(bad));
  stack.input(incoming(message(4, concat(hex("0303 0000 00000000"), hex("45000021")))));
  stack.input(incoming(UDP_FRAGMENTS4[1]));
  const forOther = UDP4.slice();
  forOther[19] = 9;
  forOther[11] -= 8;
  stack.input(incoming(forOther));
  for (const source of ["e0000001", "ffffffff", "00000000", "7f000001", A4_HEX]) {
    stack.input(incoming(message(4, hex("0800 0000 00010001"), source)));
  }
  for (const source of ["ff020000000000000000000000000001", "00".repeat(16), "00".repeat(15) + "01", A6_HEX]) {
    stack.input(incoming(message(6, hex("8000 0000 00010001"), source)));
  }
  // an ICMPv6 error behind a header that calls for a parameter problem
  const error = concat(hex("3a00 8104 00000000"), hex("0104 0000 00000000"), new Uint8Array(48));
  const packet = concat(UDP6.subarray(0, 40), error);
  packet[6] = 60;
  packet[5] = error.length;
  stack.input(incoming(packet));
  assert.equal(link.take().length, 0);
  assert.deepEqual([stack.drops.badSource, stack.drops.notOurs, stack.drops.badOption], [9, 1, 1]);
  packet[48] = 128; // an echo request there is answered with one
  stack.input(incoming(packet));
  assert.equal(toHex(open(link.take()[0]).subarray(0, 2)), "0402");
});

errors("parameter problems name the byte", () => {
  const { stack, link } = createSingle();
  const four = concat(hex("4600001d4e6b40004011d84c"), UDP4.subarray(12, 20), hex("44010000"), new Uint8Array(5));
  four.fill(0, 10, 12);
  const value = 0xffff - slowSum(four.subarray(0, 24));
  four.set([value >>> 8, value & 0xff], 10);
  stack.input(incoming(four));
  assert.equal(toHex(open(link.take()[0]).subarray(4, 8)), "14000000");
  four[19] = 9; // to another
  four.fill(0, 10, 12);
  const other = 0xffff - slowSum(four.subarray(0, 24));
  four.set([other >>> 8, other & 0xff], 10);
  stack.input(incoming(four));
  assert.equal(link.take().length, 0);
});

errors("a flood is answered fifty times, and a hundred times a second", () => {
  const { clock, stack, link } = createSingle();
  for (let i = 0; i < 1000; i++) stack.input(incoming(UDP4));
  assert.equal(link.take().length, 50);
  clock.run(100);
  for (let i = 0; i < 1000; i++) stack.input(incoming(UDP6));
  assert.equal(link.take().length, 10);
  for (let i = 0; i < 100; i++) stack.input(incoming(PING4));
  assert.equal(link.take().length, 100, "echo is no error");
  assert.deepEqual([stack.drops.noPort, clock.timers], [2000, 0]);
});

errors.run();

const mtu = suite("netstack path MTU");

/** "too big" about a packet of ours. */
function tooBig(packet: Uint8Array, value: number): Uint8Array {
  if (packet[0] >>> 4 === 4)
    return message(
      4,
      concat(hex("0304 0000 0000"), new Uint8Array([value >>> 8, value & 0xff]), packet.subarray(0, 28)),
    );
  const field = new Uint8Array([value >>> 24, value >>> 16, value >>> 8, value]);
  return message(6, concat(hex("0200 0000"), field, packet.subarray(0, 1232)));
}

mtu("is learned, told to the socket, used, and forgotten after ten minutes", () => {
  for (const [to, from] of [
    [B4, A4],
    [B6, A6],
  ]) {
    const { clock, stack, link } = createSingle();
    const told: (DeliveryError & { port: number })[] = [];
    const socket = stack.udp.open();
    socket.onError = (error, { port }) => told.push({ ...error, port });
    socket.send(new Uint8Array(1300), at(to, 9));
    const [packet] = link.take();
    stack.input(incoming(tooBig(packet, 1290)));
    assert.deepEqual(
      told.map(({ kind, mtu, port }) => [kind, mtu, port]),
      [["tooBig", 1290, 9]],
    );
    assert.equal(stack.pathMtu(parseIp(to)), 1290);
    assert.equal(stack.pathMtu(parseIp(from)), 1420);
    socket.send(new Uint8Array(1300), at(to, 9));
    assert.equal(link.take().length, 2);
    clock.run(599_999);
    assert.equal(stack.pathMtu(parseIp(to)), 1290);
    clock.run(1);
    assert.equal(stack.pathMtu(parseIp(to)), 1420);
    assert.equal(clock.timers, 0);
  }
});

mtu("what cannot be about a packet of ours is ignored", () => {
  const { stack, link } = createSingle();
  const socket = stack.udp.open();
  socket.send(new Uint8Array(1300), at(B4, 9));
  socket.send(new Uint8Array(1300), at(B6, 9));
  socket.send(new Uint8Array(100), at(B4, 9));
  const [four, six, small] = link.take();
  const foreign = four.slice();
  foreign[15] = 77;
  const lies = [
    tooBig(foreign, 1000), // not from us
    tooBig(four, 1328), // it would have fitted
    tooBig(small, 1000),
    tooBig(small, 0),
    tooBig(six, 1279), // below IPv6's minimum
    tooBig(six, 0),
    tooBig(six, 100_000),
    tooBig(four.subarray(0, 27), 600),
  ];
  for (const lie of lies) stack.input(incoming(lie));
  assert.equal(stack.drops.ignoredIcmp + stack.drops.badIcmp, lies.length);
  assert.deepEqual([stack.pathMtu(parseIp(B4)), stack.pathMtu(parseIp(B6))], [1420, 1420]);
});

mtu("what nothing of ours has sent is ignored: no such socket, ping, connection or sequence number", async () => {
  const { stack, link } = createSingle();
  const socket = stack.udp.open();
  socket.send(new Uint8Array(1300), at(B4, 9));
  socket.close();
  const connection = stack.tcp.connect(at(B4, 80));
  const controller = new AbortController();
  const ping = assert.rejects(stack.icmp.ping(parseIp(B4), { size: 1300, signal: controller.signal }));
  const [datagram, syn, request] = link.take();
  /** The packet as if it had been longer, and with a byte of its transport changed. */
  const altered = (packet: Uint8Array, at: number): Uint8Array => {
    const copy = packet.slice();
    copy.set([5, 0x50], 2);
    copy[20 + at] ^= 1;
    return copy;
  };
  const lies = [datagram, altered(syn, 1), altered(syn, 3), altered(syn, 6), altered(request, 5), altered(request, 7)];
  for (const lie of lies) stack.input(incoming(tooBig(lie, 700)));
  assert.deepEqual([stack.drops.ignoredIcmp, stack.pathMtu(parseIp(B4))], [lies.length, 1420]);
  stack.input(incoming(tooBig(altered(syn, 15), 700))); // its window, which nobody asks about
  assert.equal(stack.pathMtu(parseIp(B4)), 700);
  stack.input(incoming(tooBig(request, 600)));
  assert.equal(stack.pathMtu(parseIp(B4)), 600);
  controller.abort();
  await ping;
  connection.abort();
});

mtu("a router that names none: the next lower plateau; below 576 others may fragment", () => {
  const { stack, link } = createSingle();
  const socket = stack.udp.open();
  const path = (): number => stack.pathMtu(parseIp(B4));
  socket.send(new Uint8Array(1300), at(B4, 9));
  stack.input(incoming(tooBig(link.take()[0], 0)));
  assert.equal(path(), 1006);
  socket.send(new Uint8Array(970), at(B4, 9));
  const [packet] = link.take();
  assert.equal(packet[6] & 0x40, 0x40, "do not fragment");
  stack.input(incoming(tooBig(packet, 300)));
  assert.equal(path(), 576);
  socket.send(new Uint8Array(500), at(B4, 9));
  socket.send(new Uint8Array(500), at(B4, 9));
  const [third, fourth] = link.take();
  assert.equal(third[6] & 0x40, 0, "fragment");
  assert.notEqual(toHex(third.subarray(4, 6)), toHex(fourth.subarray(4, 6)), "ids");
  assert.equal(slowSum(third.subarray(0, 20)), 0xffff);
});

mtu("the table is bounded", () => {
  const clock = new VirtualClock();
  const paths = new PathMtus(clock);
  const random = seeded(3);
  const address = new Uint8Array(16);
  for (let i = 0; i < 5000; i++) {
    random(address);
    assert.equal(paths.reduce(address, 1300, 1400, 1420), true);
  }
  assert.equal(paths.size, 1024);
  assert.equal(paths.get({ family: 6, address }, 1420), 1300);
  assert.equal(paths.get({ family: 6, address }, 1280), 1280);
});

mtu("a ping that was too big goes again, in fragments", async () => {
  const { clock, a, b, linkA } = createPair();
  for (const to of [B4, B6]) {
    let told = 0;
    linkA.change = (packet) => {
      if (packet.length <= 1300) return [packet];
      told++;
      clock.setTimer(() => a.input(incoming(tooBig(packet, 1300))), 1);
      return [];
    };
    const ping = a.icmp.ping(parseIp(to), { size: 1350 });
    await clock.runAsync(20, 1);
    assert.equal((await ping).bytes, 1350);
    assert.equal(told, 1);
  }
  assert.equal(b.counts.reassembled, 2);
});

mtu.run();
