// Fragments in every order, twice, overlapping, lying, too many and never enough.
import assert from "node:assert/strict";
import fc from "fast-check";
import { suite } from "uvu";
import { createDrops } from "../../host/netstack/drops.ts";
import { isRefusal, parse, type ParsedIp, putFragmentHeader6, putHeader4 } from "../../host/netstack/ip.ts";
import {
  type Assembled,
  Reassembly,
  REASSEMBLY_BYTES_MAX,
  REASSEMBLY_PACKETS_MAX,
} from "../../host/netstack/reassembly.ts";
import { LONG_PAYLOAD, UDP_FRAGMENTS4, UDP_FRAGMENTS6 } from "../helpers/kernel-packets.ts";
import { concat, createSingle, hex, incoming, toHex, VirtualClock } from "../helpers/netstack.ts";

function create() {
  const clock = new VirtualClock();
  const drops = createDrops();
  const late: Uint8Array[] = [];
  const reassembly = new Reassembly(clock, drops, (first) => late.push(first));
  const add = (bytes: Uint8Array): Assembled => {
    const ip = parse(bytes);
    assert.equal(isRefusal(ip), false, JSON.stringify(ip));
    return reassembly.add(bytes, ip as ParsedIp);
  };
  const drop = (bytes: Uint8Array): string | null => {
    const result = add(bytes);
    return result !== null && "drop" in result ? result.drop : result === null ? null : "whole";
  };
  return { clock, drops, late, reassembly, add, drop };
}

const SOURCE = { 4: hex("0a090002"), 6: hex("fd090000000000000000000000000002") };
const DESTINATION = { 4: hex("0a090001"), 6: hex("fd090000000000000000000000000001") };

/** Bytes [start, end) of `data` as a fragment. */
function fragment(family: 4 | 6, id: number, data: Uint8Array, start: number, end: number, more = end < data.length) {
  const headerLen = family === 4 ? 20 : 48;
  const packet = new Uint8Array(headerLen + end - start);
  const addresses = { source: SOURCE[family], destination: DESTINATION[family] };
  const fields = { ...addresses, protocol: 17, trafficClass: 0, hopLimit: 64 };
  if (family === 4) putHeader4(packet, fields, end - start, id, (start >> 3) | (more ? 0x2000 : 0));
  else putFragmentHeader6(packet, fields, end - start, id, start, more);
  packet.set(data.subarray(start, end), headerLen);
  return packet;
}

function whole(result: Assembled): Uint8Array {
  assert.equal(result !== null && "packet" in result, true, JSON.stringify(result));
  return (result as { packet: Uint8Array }).packet;
}

/** What is behind the header of an assembled packet, which must be right in itself. */
function payloadOf(packet: Uint8Array): Uint8Array {
  const ip = parse(packet) as ParsedIp;
  assert.equal("drop" in ip, false, JSON.stringify(ip));
  assert.deepEqual([ip.fragment, ip.protocol, ip.length], [null, 17, packet.length]);
  return packet.subarray(ip.payloadAt);
}

const putting = suite("netstack reassembly");

putting("Linux's fragments, in both orders", () => {
  for (const fragments of [
    UDP_FRAGMENTS4,
    UDP_FRAGMENTS6,
    [...UDP_FRAGMENTS4].reverse(),
    [...UDP_FRAGMENTS6].reverse(),
  ]) {
    const { add, reassembly, clock } = create();
    assert.equal(add(fragments[0]), null);
    assert.equal(clock.timers, 1);
    const packet = whole(add(fragments[1]));
    assert.equal(toHex(payloadOf(packet).subarray(8)), toHex(LONG_PAYLOAD));
    assert.deepEqual([reassembly.size, reassembly.bytes, clock.timers], [0, 0, 0]);
    const { stack } = createSingle();
    let heard = "";
    stack.udp.open({ port: 7 }).onDatagram = (payload) => (heard = toHex(payload));
    for (const bytes of fragments) stack.input(incoming(bytes));
    assert.equal(heard, toHex(LONG_PAYLOAD));
  }
});

putting("any cut, any order, with repetitions: the same bytes", () => {
  const cuts = fc.uniqueArray(fc.integer({ min: 1, max: 200 }), { maxLength: 12 });
  fc.assert(
    fc.property(
      fc.constantFrom<4 | 6>(4, 6),
      fc.integer({ min: 1, max: 1608 }),
      cuts,
      fc.infiniteStream(fc.nat()),
      (family, length, at, picks) => {
        const { add, drops, reassembly, clock } = create();
        const data = Uint8Array.from({ length }, (_, i) => i * 7 + (i >> 8));
        const edges = [
          0,
          ...at
            .map((cut) => cut * 8)
            .filter((cut) => cut < length)
            .sort((a, b) => a - b),
          length,
        ];
        if (edges.length === 2) return;
        const fragments = edges.slice(1).map((end, i) => fragment(family, 99, data, edges[i], end));
        const missing = new Set(fragments.keys());
        let result: Assembled = null;
        while (missing.size > 0) {
          const pick = picks.next().value % fragments.length;
          result = add(fragments[pick]);
          if (missing.delete(pick)) {
            if (missing.size > 0) assert.equal(result, null);
          } else {
            assert.equal(result !== null && "drop" in result && result.drop, "fragmentDuplicate");
          }
        }
        assert.equal(toHex(payloadOf(whole(result))), toHex(data));
        assert.deepEqual([reassembly.size, reassembly.bytes, clock.timers], [0, 0, 0]);
        assert.deepEqual(drops, createDrops());
      },
    ),
    { numRuns: 300 },
  );
});

putting("options and extension headers of the first fragment stay", () => {
  const data = LONG_PAYLOAD.subarray(0, 64);
  const { add } = create();
  const second = fragment(6, 1, data, 32, 64);
  const first = fragment(6, 1, data, 0, 32);
  const extended = concat(first.subarray(0, 40), hex("2c 00 010400000000"), first.subarray(40));
  extended[6] = 0; // hop by hop, then the fragment header
  extended[5] += 8;
  add(second);
  const packet = whole(add(extended));
  assert.equal(packet[6], 0);
  assert.equal(packet[40], 17);
  assert.equal(toHex(payloadOf(packet)), toHex(data));
});

putting("packets of different ids, protocols and senders do not mix", () => {
  const data = LONG_PAYLOAD.subarray(0, 32);
  const { add, reassembly } = create();
  const other = fragment(4, 1, data, 0, 16);
  other[15]++;
  other[11]--;
  const protocol = fragment(4, 1, data, 0, 16);
  protocol[9]++;
  protocol[11]--;
  assert.equal(add(other), null);
  assert.equal(add(protocol), null);
  assert.equal(add(fragment(4, 2, data, 0, 16)), null);
  assert.equal(add(fragment(6, 1, data, 0, 16)), null);
  assert.equal(add(fragment(4, 1, data, 16, 32)), null);
  assert.equal(reassembly.size, 5);
  whole(add(fragment(4, 1, data, 0, 16)));
  assert.equal(reassembly.size, 4);
});

putting.run();

const hostile = suite("netstack hostile fragments");

const DATA = LONG_PAYLOAD.subarray(0, 256);

hostile("overlaps end the packet, and what follows of it is refused until its time is over", () => {
  const overlaps: [number, number][] = [
    [24, 40],
    [40, 56],
    [32, 40],
    [24, 72],
    [40, 48],
  ];
  for (const family of [4, 6] as const) {
    for (const [start, end] of overlaps) {
      const { clock, drop, drops, reassembly } = create();
      assert.equal(drop(fragment(family, 1, DATA, 32, 64)), null);
      assert.equal(drop(fragment(family, 1, DATA, start, end)), "fragmentOverlap");
      assert.equal(drop(fragment(family, 1, DATA, 0, 16)), "fragmentOverlap");
      assert.equal(drop(fragment(family, 1, DATA, 64, 256)), "fragmentOverlap");
      assert.equal(reassembly.size, 1);
      clock.run(60_000);
      assert.deepEqual([reassembly.size, reassembly.bytes, clock.timers, drops.fragmentTimeout], [0, 0, 0, 0]);
      assert.equal(drop(fragment(family, 1, DATA, 0, 16)), null);
    }
  }
});

hostile("the same place with other bytes is an overlap", () => {
  const { drop } = create();
  const changed = DATA.slice();
  changed[40] ^= 1;
  drop(fragment(4, 1, DATA, 32, 64));
  assert.equal(drop(fragment(4, 1, DATA, 32, 64)), "fragmentDuplicate");
  assert.equal(drop(fragment(4, 1, changed, 32, 64)), "fragmentOverlap");
});

hostile("two ends, and bytes past the end", () => {
  for (const [first, second] of [
    [
      [64, 128, false],
      [32, 48, false],
    ],
    [
      [64, 128, false],
      [128, 136, true],
    ],
    [
      [64, 128, false],
      [128, 136, false],
    ],
    [
      [64, 128, false],
      [64, 128, true],
    ],
    [
      [64, 128, true],
      [64, 128, false],
    ],
    [
      [64, 128, true],
      [32, 48, false],
    ],
  ] as const) {
    const { drop } = create();
    assert.equal(drop(fragment(4, 1, DATA, first[0], first[1], first[2])), null);
    assert.equal(drop(fragment(4, 1, DATA, second[0], second[1], second[2])), "fragmentOverlap");
  }
});

hostile("lengths that cannot be", () => {
  const { drop, add, reassembly } = create();
  assert.equal(drop(fragment(4, 1, DATA, 0, 20, true)), "badFragment");
  assert.deepEqual(add(fragment(6, 1, DATA, 0, 20, true)), { drop: "badFragment", problem: { code: 0, pointer: 4 } });
  assert.equal(drop(fragment(4, 1, DATA, 16, 16, true)), "badFragment");
  assert.equal(drop(fragment(4, 1, new Uint8Array(65_600), 65_512, 65_528)), "badFragment");
  const far = add(fragment(6, 1, new Uint8Array(65_600), 65_528, 65_544));
  assert.deepEqual(far, { drop: "badFragment", problem: { code: 0, pointer: 42 } });
  assert.equal(reassembly.size, 0);
});

hostile("the last byte that a packet can have", () => {
  for (const [family, length] of [
    [4, 65_515],
    [6, 65_535],
  ] as const) {
    const data = new Uint8Array(length + 8).map((_, i) => i);
    const { add, drop } = create();
    assert.equal(add(fragment(family, 1, data, 0, 32_768)), null);
    assert.equal(payloadOf(whole(add(fragment(family, 1, data.subarray(0, length), 32_768, length)))).length, length);
    assert.equal(drop(fragment(family, 1, data, 65_512, length + 1)), "badFragment");
  }
});

hostile("a first fragment without the whole chain of headers (RFC 7112)", () => {
  const { add } = create();
  const packet = fragment(6, 1, concat(hex("11 03 011600000000"), new Uint8Array(64)), 0, 8, true);
  packet[40] = 60;
  assert.deepEqual(add(packet), { drop: "badFragment", problem: { code: 3, pointer: 0 } });
});

hostile("what never becomes whole goes after a minute, and its sender is told", () => {
  const { clock, drop, drops, late, reassembly } = create();
  const first = fragment(4, 1, DATA, 0, 64);
  drop(first);
  clock.run(30_000);
  drop(fragment(4, 2, DATA, 64, 128));
  clock.run(29_999);
  assert.equal(reassembly.size, 2);
  clock.run(1);
  assert.deepEqual([reassembly.size, drops.fragmentTimeout, late.length], [1, 1, 1]);
  assert.equal(toHex(late[0]), toHex(first));
  clock.run(30_000);
  assert.deepEqual([reassembly.size, drops.fragmentTimeout, late.length], [0, 2, 1]);
  assert.deepEqual([reassembly.bytes, clock.timers], [0, 0]);
});

hostile("through the stack: time exceeded, quoting the first fragment", () => {
  for (const family of [4, 6] as const) {
    const { clock, stack, link } = createSingle();
    stack.input(incoming(fragment(family, 1, DATA, 0, 64)));
    clock.run(60_000);
    const [message] = link.take();
    const at = family === 4 ? 20 : 40;
    assert.deepEqual([...message.subarray(at, at + 2)], family === 4 ? [11, 1] : [3, 1]);
    assert.equal(toHex(message.subarray(at + 8)), toHex(fragment(family, 1, DATA, 0, 64)));
    assert.equal(toHex(message.subarray(...(family === 4 ? [16, 20] : [24, 40]))), toHex(SOURCE[family]));
    stack.input(incoming(fragment(family, 2, DATA, 64, 128)));
    clock.run(60_000);
    assert.equal(link.take().length, 0);
  }
});

hostile("a flood is bounded in packets and bytes; the oldest makes room; who is complete still passes", () => {
  const { clock, add, drops, reassembly } = create();
  const big = new Uint8Array(65_000);
  for (let id = 0; id < 1000; id++) {
    add(fragment(6, id, big, 0, 1232));
    assert.equal(reassembly.size <= REASSEMBLY_PACKETS_MAX, true);
  }
  assert.equal(drops.fragmentEvicted, 1000 - REASSEMBLY_PACKETS_MAX);
  for (let id = 2000; id < 2100; id++) {
    add(fragment(6, id, big, 0, 32_000));
    assert.equal(reassembly.bytes <= REASSEMBLY_BYTES_MAX, true);
    assert.equal(clock.timers, 1);
  }
  add(fragment(4, 7, DATA, 0, 64));
  assert.equal(toHex(payloadOf(whole(add(fragment(4, 7, DATA, 64, 256))))), toHex(DATA));
  reassembly.clear();
  assert.deepEqual([reassembly.size, reassembly.bytes, clock.timers], [0, 0, 0]);
});

hostile("crumbs: a packet of too many fragments is given up", () => {
  const { drop, reassembly } = create();
  const big = new Uint8Array(4096);
  let given = 0;
  for (let at = 8; at < 4096; at += 8) if (drop(fragment(4, 1, big, at, at + 8, true)) === "tooManyFragments") given++;
  assert.equal(given > 0, true);
  assert.equal(reassembly.bytes < 64 * 1024, true);
});

hostile("random fragments of few packets: nothing is thrown, nothing stays", () => {
  const part = fc.record({
    family: fc.constantFrom<4 | 6>(4, 6),
    id: fc.nat(2),
    start: fc.nat(20).map((n) => n * 8),
    length: fc.nat(40),
    more: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(part, { maxLength: 60 }), (parts) => {
      const { clock, add, reassembly } = create();
      for (const { family, id, start, length, more } of parts) {
        const packet = fragment(family, id, DATA, start, start + length, more);
        const ip = parse(packet) as ParsedIp;
        if (ip.fragment === null) continue;
        const result = add(packet);
        if (result !== null && "packet" in result) payloadOf(result.packet);
      }
      clock.run(60_000);
      assert.deepEqual([reassembly.size, reassembly.bytes, clock.timers], [0, 0, 0]);
    }),
    { numRuns: 300 },
  );
});

hostile.run();
