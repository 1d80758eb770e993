// The stack as a whole: what is counted, what leaves for which link, itself as its own neighbour, its end, and packets
// that nobody meant to send.
import assert from "node:assert/strict";
import fc from "fast-check";
import { suite } from "uvu";
import { WasmguardError } from "../../host/errors.ts";
import { formatIp, parseIp } from "../../host/ip.ts";
import { DROP_REASONS, type DropReason } from "../../host/netstack/drops.ts";
import { Stack } from "../../host/netstack/stack.ts";
import type { InPacket } from "../../host/netstack/types.ts";
import {
  NO_PROTOCOL4,
  PING4,
  PING6,
  SYN4,
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
  createSingle,
  incoming,
  ListLink,
  seeded,
  slowSum,
  toHex,
  VirtualClock,
} from "../helpers/netstack.ts";

/** Reasons that are counted beside what became of a packet that came: they are no refusal of it. */
const ASIDE: DropReason[] = ["fragmentTimeout", "fragmentEvicted", "loopbackFull"];

function refusals(stack: Stack): number {
  return DROP_REASONS.filter((reason) => !ASIDE.includes(reason)).reduce((sum, reason) => sum + stack.drops[reason], 0);
}

/** Each packet went one way. */
function assertCounted(stack: Stack): void {
  const { received, reassembled, delivered, fragments } = stack.counts;
  assert.equal(
    received + reassembled,
    delivered + fragments + refusals(stack),
    JSON.stringify([stack.counts, stack.drops]),
  );
}

const sending = suite("netstack stack sending");

sending("a link that takes super-packets completes TCP's and UDP's checksums; others get all complete", () => {
  const { stack, link } = createSingle();
  const socket = stack.udp.open({ port: 40000 });
  const hello = new TextEncoder().encode("hello");
  for (const [to, vector, start] of [
    [B4, UDP4, 20],
    [B6, UDP6, 40],
  ] as const) {
    link.gsoMaxSize = 0;
    socket.send(hello, at(to, 7));
    const [complete] = link.sent.splice(0);
    assert.equal(complete.checksumStart, 0);
    assert.equal(toHex(complete.bytes.subarray(start)), toHex(vector.subarray(start)));
    link.gsoMaxSize = 65_535;
    socket.send(hello, at(to, 7));
    const [partial] = link.sent.splice(0);
    assert.equal(partial.checksumStart, start);
    // The field holds the pseudo-header's sum: summing from the start makes the checksum.
    const value = 0xffff - slowSum(partial.bytes.subarray(start));
    assert.equal(value, (vector[start + 6] << 8) | vector[start + 7]);
    stack.input(incoming(to === B4 ? PING4 : PING6));
    assert.equal(link.sent.splice(0)[0].checksumStart, 0, "ICMP");
    socket.send(new Uint8Array(3000), at(to, 7));
    assert.deepEqual(
      link.sent.splice(0).map(({ checksumStart }) => checksumStart),
      [0, 0, 0],
      "fragments",
    );
  }
});

sending("a super-packet has the lengths of the whole", () => {
  const { stack, link } = createSingle();
  link.gsoMaxSize = 65_535;
  for (const [from, to, headerLen] of [
    [A4, B4, 20],
    [A6, B6, 40],
  ] as const) {
    const send = (length: number, gsoSize: number): void => {
      stack.send({
        source: parseIp(from),
        destination: parseIp(to),
        protocol: 6,
        header: new Uint8Array(20),
        checksumOffset: 16,
        payload: [new Uint8Array(length - 10_000), new Uint8Array(10_000)],
        gsoSize,
      });
    };
    send(60_000, 1360);
    const [packet] = link.sent.splice(0);
    assert.deepEqual(
      [packet.gsoSize, packet.checksumStart, packet.bytes.length],
      [1360, headerLen, headerLen + 60_020],
    );
    const length = headerLen === 20 ? 60_040 : 60_020;
    const field = headerLen === 20 ? 2 : 4;
    assert.equal((packet.bytes[field] << 8) | packet.bytes[field + 1], length);
    send(10_000, 10_000);
    assert.equal(link.sent.splice(0)[0].gsoSize, 0, "one segment is no super-packet");
    assert.throws(
      () => send(65_536, 1360),
      (error: WasmguardError) => error.code === "EMSGSIZE",
    );
  }
});

sending("sources: ours of the family, none for loopback", () => {
  const { stack } = createSingle();
  const source = (to: string): string | null => {
    const ip = stack.sourceFor(parseIp(to));
    return ip && formatIp(ip.address);
  };
  assert.deepEqual(["1.1.1.1", "2001::1", A4, A6, "127.0.0.1", "::1", "0.0.0.0", "::"].map(source), [
    A4,
    A6,
    A4,
    A6,
    null,
    null,
    null,
    null,
  ]);
  assert.deepEqual(
    [A4, A6, B4, "::"].map((text) => stack.isOurs(parseIp(text))),
    [true, true, false, false],
  );
  const clock = new VirtualClock();
  for (const address of ["224.0.0.1", "255.255.255.255", "0.0.0.0", "::", "ff02::1"]) {
    const open = () => new Stack({ link: new ListLink(), addresses: [parseIp(address)], clock, random: seeded(1) });
    assert.throws(open, RangeError);
  }
});

sending.run();

const loop = suite("netstack stack loopback");

loop("our own addresses are reached without the link, never from within send()", () => {
  const { clock, stack, link } = createSingle();
  const heard: string[] = [];
  const server = stack.udp.open({ port: 7 });
  server.onDatagram = (payload, from) => heard.push(`${payload.length} ${formatIp(from.address)}`);
  const client = stack.udp.open();
  client.send(new Uint8Array(10), at(A4, 7));
  client.send(new Uint8Array(60_000), at(A6, 7));
  assert.deepEqual(heard, []);
  assert.equal(clock.timers, 1);
  clock.run(0);
  assert.deepEqual(heard, [`10 ${A4}`, `60000 ${A6}`]);
  const errors: string[] = [];
  client.onError = (error, to) => errors.push(`${error.kind} ${to.port}`);
  client.send(new Uint8Array(10), at(A4, 8));
  clock.run(0);
  assert.deepEqual(errors, ["portUnreachable 8"]);
  assert.deepEqual([clock.timers, link.sent.length, stack.counts.looped], [0, 0, 4]);
  assertCounted(stack);
});

loop("is bounded", () => {
  const { clock, stack } = createSingle();
  const client = stack.udp.open({ port: 7 });
  let heard = 0;
  client.onDatagram = () => heard++;
  for (let i = 0; i < 100; i++) client.send(new Uint8Array(60_000), at(A4, 7));
  clock.run(0);
  assert.equal(heard > 50 && heard < 100, true, String(heard));
  assert.equal(stack.drops.loopbackFull, 100 - heard);
});

loop("TCP with ourselves", () => {
  const { clock, stack, link } = createSingle();
  const received: number[] = [];
  const listener = stack.tcp.listen(80);
  listener.onConnection = (connection) => {
    connection.onReadable = () => {
      for (let chunk = connection.read(); chunk !== null; chunk = connection.read()) received.push(...chunk);
      if (connection.ended) connection.shutdown();
    };
  };
  const client = stack.tcp.connect(at(A6, 80));
  let closed: Error | null | undefined;
  client.onConnected = () => {
    client.write(Uint8Array.from({ length: 5000 }, (_, i) => i));
    client.shutdown();
  };
  client.onClosed = (error: Error | null) => (closed = error);
  clock.run(5000);
  assert.equal(received.length, 5000);
  assert.equal(
    received.every((byte, i) => byte === (i & 0xff)),
    true,
  );
  clock.run(300_000);
  assert.equal(closed, null);
  listener.close();
  assert.deepEqual([link.sent.length, clock.timers], [0, 0]);
});

loop.run();

const ending = suite("netstack stack end");

ending("nothing is taken, sent or waited for after close()", async () => {
  const { clock, stack, link } = createSingle();
  const socket = stack.udp.open({ port: 7 });
  stack.tcp.listen(80);
  const connection = stack.tcp.connect(at(B4, 80));
  let closed: Error | null | undefined;
  connection.onClosed = (error: Error | null) => (closed = error);
  stack.input(incoming(UDP_FRAGMENTS4[0]));
  socket.send(new Uint8Array(1), at(A4, 9));
  const ping = assert.rejects(stack.icmp.ping(parseIp(B4)));
  assert.equal(clock.timers > 0, true);
  stack.close();
  stack.close();
  await ping;
  assert.equal(closed instanceof Error, true);
  assert.equal(clock.timers, 0);
  link.take();
  for (const packet of [UDP4, PING4, SYN4, UDP_FRAGMENTS6[0]]) stack.input(incoming(packet));
  assert.equal(stack.drops.closed, 4);
  assert.deepEqual([link.take().length, clock.timers, stack.udp.size], [0, 0, 0]);
  assertCounted(stack);
});

ending.run();

const fuzz = suite("netstack stack fuzz");

const VECTORS = [
  UDP4,
  UDP6,
  PING4,
  PING6,
  SYN4,
  UNREACHABLE4,
  UNREACHABLE6,
  NO_PROTOCOL4,
  ...UDP_FRAGMENTS4,
  ...UDP_FRAGMENTS6,
];

/** Makes an IPv4 header's checksum right again, so that what is behind it is looked at. */
function reseal(packet: Uint8Array): void {
  const length = (packet[0] & 0xf) * 4;
  if (packet.length < 20 || packet[0] >>> 4 !== 4 || length > packet.length) return;
  packet.fill(0, 10, 12);
  const value = 0xffff - slowSum(packet.subarray(0, length));
  packet.set([value >>> 8, value & 0xff], 10);
}

/** A stack with everything open that a packet could reach. */
function createBusy() {
  const single = createSingle();
  const { stack } = single;
  const socket = stack.udp.open({ port: 7 });
  stack.udp.open({ port: 40001 });
  socket.onDatagram = (payload, from) => {
    if (from.port !== 0) socket.send(payload, from);
  };
  stack.tcp.listen(80).onConnection = (connection) => connection.abort();
  stack.tcp.connect(at(B4, 49240), { port: 80 + 1 });
  stack.icmp.ping(parseIp(B4)).catch(() => {});
  return single;
}

function check({ stack, clock, link }: ReturnType<typeof createBusy>): void {
  assertCounted(stack);
  for (const { bytes, gsoSize } of link.sent) assert.equal(gsoSize > 0 || bytes.length <= link.mtu, true, "MTU");
  stack.close();
  assert.equal(clock.timers, 0);
}

fuzz("mutations of Linux's packets", () => {
  const edit = fc.tuple(fc.nat(120), fc.nat(255));
  const mutant = fc.record({
    vector: fc.nat(VECTORS.length - 1),
    edits: fc.array(edit, { maxLength: 4 }),
    cut: fc.option(fc.nat(120)),
    verified: fc.boolean(),
    gsoSize: fc.constantFrom(0, 0, 0, 3, 100),
    wait: fc.constantFrom(0, 0, 0, 10, 70_000),
  });
  fc.assert(
    fc.property(fc.array(mutant, { minLength: 1, maxLength: 30 }), (mutants) => {
      const busy = createBusy();
      for (const { vector, edits, cut, verified, gsoSize, wait } of mutants) {
        const bytes = VECTORS[vector].slice(0, cut ?? undefined);
        for (const [at, value] of edits) if (at < bytes.length) bytes[at] = value;
        if (verified) reseal(bytes);
        const packet: InPacket = { bytes, gsoSize, checksumVerified: verified };
        busy.stack.input(packet);
        busy.clock.run(wait);
      }
      check(busy);
    }),
    { numRuns: 400 },
  );
});

fuzz("random bytes behind a header that is right", () => {
  const family = fc.constantFrom(4, 6);
  const protocol = fc.constantFrom(0, 1, 6, 17, 43, 44, 58, 60, 200);
  fc.assert(
    fc.property(
      fc.array(fc.tuple(family, protocol, fc.uint8Array({ maxLength: 100 })), { maxLength: 20 }),
      (packets) => {
        const busy = createBusy();
        for (const [version, type, payload] of packets) {
          const header = version === 4 ? UDP4.slice(0, 20) : UDP6.slice(0, 40);
          const length = version === 4 ? 20 + payload.length : payload.length;
          header.set([length >>> 8, length & 0xff], version === 4 ? 2 : 4);
          header[version === 4 ? 9 : 6] = type;
          const bytes = new Uint8Array(header.length + payload.length);
          bytes.set(header);
          bytes.set(payload, header.length);
          reseal(bytes);
          busy.stack.input({ bytes, gsoSize: 0, checksumVerified: true });
        }
        check(busy);
      },
    ),
    { numRuns: 400 },
  );
});

fuzz("random bytes", () => {
  const { stack, clock } = createSingle();
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => stack.input(incoming(bytes))),
    { numRuns: 500 },
  );
  assertCounted(stack);
  assert.deepEqual([stack.counts.received, stack.counts.delivered, clock.timers], [500, 0, 0]);
});

fuzz.run();
