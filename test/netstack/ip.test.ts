// The checksum against the book's; headers against packets that Linux sent and that the RFCs print; lies of every kind.
import assert from "node:assert/strict";
import fc from "fast-check";
import { suite } from "uvu";
import { parseIp } from "../../host/ip.ts";
import { chooseSource } from "../../host/netstack/address.ts";
import { finish, fold, pseudoSum, sum, sumPieces } from "../../host/netstack/checksum.ts";
import {
  fragmentWord4,
  isRefusal,
  parse,
  parseQuoted,
  type ParsedIp,
  putFragmentHeader6,
  putHeader4,
  putHeader6,
} from "../../host/netstack/ip.ts";
import {
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
import { concat, hex, slowSum, toHex } from "../helpers/netstack.ts";

const checksum = suite("netstack checksum");

checksum("RFC 1071 §3: the example", () => {
  assert.equal(sum(hex("0001 f203 f4f5 f6f7")), 0xddf2);
  assert.equal(finish(sum(hex("0001 f203 f4f5 f6f7"))), 0x220d);
});

checksum("any bytes, at any place of any buffer, as the book has it", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 700 }), fc.nat(7), (bytes, offset) => {
      const buffer = new Uint8Array(bytes.length + 16).fill(0xa5);
      buffer.set(bytes, offset);
      assert.equal(sum(buffer, offset, offset + bytes.length), slowSum(bytes));
      assert.equal(sum(buffer.subarray(offset, offset + bytes.length)), slowSum(bytes));
    }),
  );
});

checksum("64 KiB of ones do not overflow", () => {
  const bytes = new Uint8Array(65_535 + 3).fill(0xff);
  for (let start = 0; start < 4; start++) {
    const part = bytes.subarray(start, start + 65_535);
    assert.equal(sum(part), slowSum(part));
  }
  const large = new Uint8Array(1 << 18).fill(0xff);
  assert.equal(sum(large), 0xffff);
});

checksum("pieces of any lengths sum to the whole", () => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 6 }), (pieces) => {
      assert.equal(sumPieces(pieces), slowSum(concat(...pieces)));
    }),
  );
});

checksum("Linux's packets sum to all ones", () => {
  assert.equal(sum(UDP4, 0, 20), 0xffff);
  assert.equal(fold(sum(UDP4, 20) + pseudoSum(UDP4.subarray(12, 16), UDP4.subarray(16, 20), 17, 13)), 0xffff);
  assert.equal(fold(sum(UDP6, 40) + pseudoSum(UDP6.subarray(8, 24), UDP6.subarray(24, 40), 17, 13)), 0xffff);
  assert.equal(fold(sum(SYN4, 20) + pseudoSum(SYN4.subarray(12, 16), SYN4.subarray(16, 20), 6, 40)), 0xffff);
  assert.equal(sum(PING4, 20), 0xffff);
});

checksum.run();

const reading = suite("netstack IP headers read");

function read(bytes: Uint8Array): ParsedIp {
  const result = parse(bytes);
  assert.equal(isRefusal(result), false, JSON.stringify(result));
  return result as ParsedIp;
}

function refused(bytes: Uint8Array): string {
  const result = parse(bytes);
  return isRefusal(result) ? result.drop : "taken";
}

/** A correct IPv4 packet with options and payload. */
function ipv4(options: Uint8Array, payload: Uint8Array, word = 0): Uint8Array {
  const packet = new Uint8Array(20 + options.length + payload.length);
  const fields = { source: hex("0a090002"), destination: hex("0a090001"), protocol: 17, trafficClass: 0, hopLimit: 9 };
  putHeader4(packet, fields, options.length + payload.length, 7, word);
  packet[0] = 0x40 | ((20 + options.length) / 4);
  packet.set(options, 20);
  packet.set(payload, 20 + options.length);
  return reseal(packet);
}

function reseal(packet: Uint8Array): Uint8Array {
  packet.fill(0, 10, 12);
  const length = (packet[0] & 0xf) * 4;
  const value = 0xffff - slowSum(packet.subarray(0, length));
  packet.set([value >>> 8, value & 0xff], 10);
  return packet;
}

/** An IPv6 packet: the first next header, and what follows. */
function ipv6(next: number, ...rest: Uint8Array[]): Uint8Array {
  const payload = concat(...rest);
  const packet = new Uint8Array(40 + payload.length);
  const source = parseIp("fd09::2").address;
  const destination = parseIp("fd09::1").address;
  putHeader6(packet, { source, destination, protocol: next, trafficClass: 0, hopLimit: 9 }, payload.length);
  packet.set(payload, 40);
  return packet;
}

reading("Linux's packets", () => {
  const udp4 = read(UDP4);
  assert.equal(udp4.protocol, 17);
  assert.deepEqual([...udp4.source, ...udp4.destination], [10, 9, 0, 2, 10, 9, 0, 1]);
  assert.deepEqual([udp4.payloadAt, udp4.length, udp4.hopLimit, udp4.fragment], [20, 33, 64, null]);
  const udp6 = read(UDP6);
  assert.deepEqual([udp6.family, udp6.protocol, udp6.payloadAt, udp6.length], [6, 17, 40, 53]);
  assert.equal(toHex(udp6.destination), "fd090000000000000000000000000001");
  assert.equal(read(UNREACHABLE4).trafficClass, 0xc0);
  assert.equal(read(PING6).protocol, 58);
  const [first, second] = UDP_FRAGMENTS4.map((packet) => read(packet).fragment!);
  assert.deepEqual([first.id, first.offset, first.more], [0x4ed2, 0, true]);
  assert.deepEqual([second.id, second.offset, second.more], [0x4ed2, 1256, false]);
  const sixth = read(UDP_FRAGMENTS6[1]);
  assert.deepEqual(sixth.fragment, { id: 0xa70a6391, offset: 1232, more: false, nextHeaderAt: 6, nextHeader: 17 });
  assert.deepEqual([sixth.headerLen, sixth.payloadAt], [40, 48]);
});

reading("what follows the packet is not its own", () => {
  assert.equal(read(concat(UDP4, new Uint8Array(9))).length, 33);
  assert.equal(read(concat(UDP6, new Uint8Array(9))).length, 53);
});

reading("a packet cut anywhere is refused", () => {
  for (const packet of [UDP4, UDP6, SYN4, UDP_FRAGMENTS6[1]]) {
    for (let length = 0; length < packet.length; length++)
      assert.equal(refused(packet.subarray(0, length)), "truncated");
  }
});

reading("lies of an IPv4 header", () => {
  const lie = (at: number, value: number): string => {
    const packet = UDP4.slice();
    packet[at] = value;
    return refused(reseal(packet));
  };
  assert.equal(lie(0, 0x55), "badVersion");
  assert.equal(lie(0, 0x44), "badHeaderLength");
  assert.equal(lie(0, 0x4f), "truncated");
  assert.equal(lie(3, 19), "badLength");
  assert.equal(lie(3, 34), "truncated");
  const packet = UDP4.slice();
  packet[8]--;
  assert.equal(refused(packet), "badHeaderChecksum");
});

reading("IPv4 options are passed, source routes refused, malformed ones a parameter problem", () => {
  const timestamp = hex("44080501 00000000");
  const parsed = read(ipv4(concat(hex("01010101"), timestamp), hex("aabb")));
  assert.deepEqual([parsed.payloadAt, parsed.length], [32, 34]);
  assert.equal(read(ipv4(hex("00ffffff"), hex("aabb"))).payloadAt, 24);
  assert.equal(refused(ipv4(hex("83070400000000 00"), hex("aa"))), "sourceRoute");
  assert.equal(refused(ipv4(hex("89070400000000 00"), hex("aa"))), "sourceRoute");
  for (const options of ["01440000", "44010000", "44050000", "01010144"]) {
    const result = parse(ipv4(hex(options), hex("aa")));
    assert.equal(isRefusal(result) && result.drop, "badOption", options);
    assert.equal(isRefusal(result) && result.problem?.code, 0, options);
  }
});

const UDP_BYTES = hex("00010002 0008 0000");

reading("IPv6 extension headers are passed", () => {
  const padded = hex("3c 00 010400000000");
  const destination = hex("2b 00 010400000000");
  const routing = hex("11 00 0200 00000000");
  const parsed = read(ipv6(0, padded, destination, routing, UDP_BYTES));
  assert.deepEqual([parsed.protocol, parsed.payloadAt, parsed.protocolAt, parsed.headerLen], [17, 64, 56, 64]);
  const atomic = read(ipv6(44, hex("11 00 0000 12345678"), UDP_BYTES));
  assert.deepEqual([atomic.fragment, atomic.protocol, atomic.payloadAt], [null, 17, 48]);
  const behind = read(ipv6(0, hex("2c 00 010400000000"), hex("11 00 0009 12345678"), UDP_BYTES));
  assert.deepEqual(behind.fragment, { id: 0x12345678, offset: 8, more: true, nextHeaderAt: 40, nextHeader: 17 });
  assert.deepEqual([behind.headerLen, behind.payloadAt], [48, 56]);
});

reading("IPv6 extension headers that are refused, and with what complaint", () => {
  const refusal = (packet: Uint8Array) => {
    const result = parse(packet);
    assert.equal(isRefusal(result), true);
    return isRefusal(result) ? [result.drop, result.problem && [result.problem.code, result.problem.pointer]] : [];
  };
  const options = (text: string) => ipv6(60, hex("11 00"), hex(text), UDP_BYTES);
  assert.deepEqual(refusal(ipv6(60, hex("00 00 010400000000"), hex("11 00 010400000000"), UDP_BYTES)), [
    "badOption",
    [1, 40],
  ]);
  assert.deepEqual(refusal(ipv6(43, hex("11 02 0001 00000000"), new Uint8Array(16), UDP_BYTES)), [
    "sourceRoute",
    [0, 42],
  ]);
  assert.deepEqual(refusal(options("41 04 00000000")), ["badOption", null]);
  assert.deepEqual(refusal(options("81 04 00000000")), ["badOption", [2, 42]]);
  assert.deepEqual(refusal(options("c2 04 00010000")), ["badOption", [2, 42]]); // a jumbogram's
  assert.equal(read(options("01 00 01 00 00 00")).protocol, 17);
  assert.equal(read(options("3e 04 00000000")).protocol, 17);
  assert.deepEqual(refusal(options("01 05 00000000")), ["badOption", [0, 43]]);
  assert.deepEqual(refusal(options("00 00 00 00 00 01")), ["badOption", [0, 47]]);
  assert.deepEqual(refusal(ipv6(59, UDP_BYTES)), ["noNextHeader", null]);
  assert.deepEqual(refusal(ipv6(60, hex("11 05 010400000000"), UDP_BYTES)), ["truncated", null]);
  const chain = Array.from({ length: 9 }, (_, i) => hex(`${i === 8 ? "11" : "3c"} 00 010400000000`));
  assert.deepEqual(refusal(ipv6(60, ...chain, UDP_BYTES)), ["tooManyHeaders", null]);
  assert.equal(read(ipv6(60, ...chain.slice(1), UDP_BYTES)).protocol, 17);
  const many = ipv6(60, hex("11 02"), hex("1e00".repeat(9)), hex("01 02 0000"), UDP_BYTES);
  assert.deepEqual(refusal(many), ["tooManyHeaders", null]);
});

reading("any bytes at all: a header or a named refusal, never an exception, never outside of the packet", () => {
  const check = (bytes: Uint8Array): void => {
    const result = parse(bytes);
    if (isRefusal(result)) return;
    assert.equal(result.payloadAt <= result.length && result.length <= bytes.length, true, toHex(bytes));
    assert.equal(result.headerLen <= result.payloadAt, true);
    assert.equal(result.source.length, result.family === 4 ? 4 : 16);
    assert.equal(result.destination.length, result.source.length);
  };
  const first = fc.constantFrom(0x45, 0x46, 0x4f, 0x60, 0x6f, 0x00);
  fc.assert(
    fc.property(first, fc.uint8Array({ maxLength: 120 }), (version, rest) => {
      check(concat(new Uint8Array([version]), rest));
      parseQuoted(concat(new Uint8Array([version]), rest));
    }),
    { numRuns: 500 },
  );
  const next = fc.constantFrom(0, 43, 44, 60, 59, 17);
  const chain = fc.array(fc.tuple(next, fc.nat(2), fc.uint8Array({ minLength: 6, maxLength: 22 })), { maxLength: 12 });
  fc.assert(
    fc.property(next, chain, (type, headers) => {
      check(ipv6(type, ...headers.map(([after, length, body]) => concat(new Uint8Array([after, length]), body))));
    }),
    { numRuns: 500 },
  );
});

reading.run();

const writing = suite("netstack IP headers written");

const bytesOf = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });

writing("what is written is read again", () => {
  const byte = fc.nat(255);
  const fields = fc.tuple(fc.constantFrom(6, 17, 58, 200), byte, byte, fc.uint8Array({ maxLength: 40 }));
  fc.assert(
    fc.property(fields, bytesOf(4), bytesOf(4), ([protocol, trafficClass, hopLimit, payload], source, destination) => {
      const packet = concat(new Uint8Array(20), payload);
      const wanted = { protocol, trafficClass, hopLimit, source, destination };
      putHeader4(packet, wanted, payload.length, 0x1234, fragmentWord4(0, false, true));
      const { family, headerLen, length, fragment, payloadAt, protocolAt, ...rest } = read(packet);
      assert.deepEqual(
        { family, headerLen, length, fragment, payloadAt, protocolAt },
        { family: 4, headerLen: 20, length: packet.length, fragment: null, payloadAt: 20, protocolAt: 9 },
      );
      for (const [name, value] of Object.entries(wanted)) {
        assert.deepEqual(Array.of(rest[name as keyof typeof rest]).flat(), Array.of(value).flat(), name);
      }
    }),
  );
  fc.assert(
    fc.property(fields, bytesOf(16), bytesOf(16), fc.nat(1000), fc.boolean(), (some, source, destination, at, more) => {
      const [protocol, trafficClass, hopLimit, payload] = some;
      const packet = concat(new Uint8Array(48), payload);
      const wanted = { protocol, trafficClass, hopLimit, source, destination };
      putFragmentHeader6(packet, wanted, payload.length, 0xdeadbeef, at * 8, more);
      const parsed = read(packet);
      const isAtomic = at === 0 && !more;
      const fragment = { id: 0xdeadbeef, offset: at * 8, more, nextHeaderAt: 6, nextHeader: protocol };
      assert.deepEqual(parsed.fragment, isAtomic ? null : fragment);
      assert.deepEqual([parsed.trafficClass, parsed.hopLimit, parsed.protocol], [trafficClass, hopLimit, protocol]);
      assert.deepEqual([toHex(parsed.source), toHex(parsed.destination)], [toHex(source), toHex(destination)]);
    }),
  );
});

writing("Linux's header, byte for byte", () => {
  const packet = new Uint8Array(20);
  const [source, destination] = [hex("0a090002"), hex("0a090001")];
  putHeader4(packet, { source, destination, protocol: 17, trafficClass: 0, hopLimit: 64 }, 13, 0x4e6b, 0x4000);
  assert.equal(toHex(packet), toHex(UDP4.subarray(0, 20)));
});

writing("quoted packets", () => {
  const four = parseQuoted(UNREACHABLE4.subarray(28))!;
  assert.deepEqual([four.protocol, four.transportAt, four.length, [...four.source]], [17, 20, 33, [10, 9, 0, 1]]);
  const six = parseQuoted(UNREACHABLE6.subarray(48))!;
  assert.deepEqual([six.protocol, six.transportAt, six.length, six.source[15]], [17, 40, 53, 1]);
  assert.equal(parseQuoted(UNREACHABLE4.subarray(28, 28 + 27)), null);
  assert.equal(parseQuoted(UNREACHABLE6.subarray(48, 48 + 47)), null);
  assert.equal(parseQuoted(UDP_FRAGMENTS4[0].subarray(0, 28))?.protocol, 17);
  assert.equal(parseQuoted(UDP_FRAGMENTS6[0].subarray(0, 56))?.transportAt, 48);
  assert.equal(parseQuoted(UDP_FRAGMENTS4[1]), null);
  assert.equal(parseQuoted(UDP_FRAGMENTS6[1]), null);
});

writing.run();

const choice = suite("netstack source addresses");

choice("the family's, then the scope's, then the nearest", () => {
  const own = ["10.1.0.1", "10.2.0.1", "fe80::1", "fd00:1::1", "2001:db8::1"].map(parseIp);
  const chosen = (to: string, addresses = own) => {
    const source = chooseSource(addresses, parseIp(to));
    return source && own.indexOf(source);
  };
  assert.equal(chosen("10.2.9.9"), 1);
  assert.equal(chosen("10.1.9.9"), 0);
  assert.equal(chosen("8.8.8.8"), 0);
  assert.equal(chosen("fe80::9"), 2);
  assert.equal(chosen("fd00:2::1"), 3);
  assert.equal(chosen("2001:4860::1"), 4);
  assert.equal(chosen("2001:db8::9", own.slice(0, 2)), null);
  assert.equal(chosen("2001:db8::9", own.slice(0, 3)), 2);
});

choice.run();
