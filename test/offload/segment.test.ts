// Segmentation against a slow twin that builds every segment from nothing; and virtio headers that cannot be true. A
// packet lies at the very end of the memory, so that a byte read behind it is a trap.
import assert from "node:assert/strict";
import { suite } from "uvu";
import { THREAD_SEGMENT, THREAD_SEGMENT_SIZE, THREADS_BASE } from "../../assembly/abi.ts";
import { builds } from "../helpers/wasm.ts";
import { Stream } from "../../host/simulator/random.ts";
import { CEILING, FLOOR, loadOffload, type Offload } from "./fixture.ts";
import {
  ACK, assertValid, build, buildPartial, type Bytes, CWR, DF, ECE, type Fields, FIN, GSO_ECN, GSO_NONE,
  headersLength, MF, NEEDS_CSUM, onesSum, PSH, randomExtension, randomFields, segmentsOf, superPacket, TCP,
  transportOffset, UDP, URG, type Vnet, vnetHeader,
} from "./oracle.ts";

const CANARY = 0xa5;

/** Puts a packet and its header so that it ends where the memory does, or `behind` bytes before. @returns its address */
function place({ u8 }: Offload, { header, packet }: Vnet, behind = 0): number {
  const at = CEILING - behind - packet.length;
  u8.set(packet, at);
  u8.set(header, at - 10);
  return at;
}

/** All segments. Asserts that each leaves the bytes behind it alone, and that only packet and scratch change. */
function segment(core: Offload, vnet: Vnet): Bytes[] {
  const { exports, u8 } = core;
  const { packet } = vnet;
  const behind = 64;
  u8.fill(CANARY, FLOOR);
  const at = place(core, vnet, behind);
  const before = u8.slice(THREADS_BASE);
  assert.equal(exports.segmentBegin(at, packet.length), 1);
  const segments: Bytes[] = [];
  const count = exports.segmentsLeft();
  const longest = exports.segmentLenMax();
  for (let length = exports.segmentNext(); length; length = exports.segmentNext()) {
    const start = exports.segmentPacket();
    const end = start + length;
    assert.ok(start >= at && end <= at + packet.length);
    segments.push(u8.slice(start, end));
    const rest = packet.subarray(end - at);
    assert.ok(Buffer.compare(u8.subarray(end, end + rest.length), rest) === 0, "bytes behind a segment changed");
    assert.equal(exports.segmentsLeft(), count - segments.length);
  }
  assert.equal(exports.segmentNext(), 0, "the end lasts");
  assert.equal(longest, Math.max(...segments.map(({ length }) => length)));
  const after = u8.slice(THREADS_BASE);
  for (const bytes of [before, after]) {
    bytes.fill(0, at - THREADS_BASE, at - THREADS_BASE + packet.length);
    bytes.fill(0, THREAD_SEGMENT, THREAD_SEGMENT + THREAD_SEGMENT_SIZE);
  }
  assert.ok(Buffer.compare(before, after) === 0, "a byte outside of the packet changed");
  return segments;
}

function assertSame(segments: Bytes[], expected: Bytes[], what: string): void {
  assert.equal(segments.length, expected.length, what);
  for (const [i, bytes] of segments.entries()) {
    if (Buffer.compare(bytes, expected[i]) !== 0) assert.deepEqual(bytes, expected[i], `${what}, segment ${i}`);
    assertValid(bytes);
  }
}

for (const name of builds) {
  const core = loadOffload(name);
  const { exports, u8 } = core;

  const good = suite(`segmentation, ${name}`);

  for (const [version, protocol] of [[4, TCP], [6, TCP], [4, UDP], [6, UDP]] as const) {
    good(`random super-packets, IPv${version} ${protocol === TCP ? "TCP" : "UDP"}`, () => {
      const random = new Stream(1, `super ${version} ${protocol}`);
      for (let round = 0; round < 60; round++) {
        const payload = 1 + random.below(round % 4 === 0 ? 65000 : 5000);
        const fields = randomFields(random, { version, protocol, payload });
        if (version === 4 && random.below(3) === 0) fields.ipOptions = random.bytes(4 * (1 + random.below(10)));
        if (version === 6 && random.below(3) === 0) fields.extensions = [randomExtension(random)];
        if (protocol === TCP) {
          fields.flags = random.below(256);
          fields.reserved = random.below(16);
          fields.urgent = random.below(65536);
        }
        fields.payload = fields.payload.subarray(0, Math.min(payload, 65535 - headersLength(fields)));
        if (headersLength(fields) > 128) continue;
        const length = fields.payload.length;
        const divisor = 1 + random.below(20);
        // A size of the network's; one that divides the payload; the whole; more than there is.
        const size = [1 + random.below(1500), Math.ceil(length / divisor), length, length + 1][random.below(4)];
        if (random.below(4) === 0) fields.payload = fields.payload.subarray(0, Math.max(1, length - (length % size)));
        assertSame(segment(core, superPacket(fields, size)), segmentsOf(fields, size), `round ${round}, size ${size}`);
      }
    });
  }

  const tcp = (payload: number, more: Partial<Fields> = {}) =>
    ({ ...randomFields(new Stream(2, "tcp"), { version: 4, protocol: TCP, payload }), ...more });

  good("one byte a segment, and the last one shorter, alone and exact", () => {
    const cases = [[200, 1], [1, 1], [1448 * 45, 1448], [1448 * 44 + 1, 1448], [1447, 1448], [65495, 8]];
    for (const [payload, size] of cases) {
      const fields = tcp(payload, { tcpOptions: new Uint8Array(0) });
      assertSame(segment(core, superPacket(fields, size)), segmentsOf(fields, size), `${payload} in ${size}`);
    }
  });

  good("CWR stays with the first, FIN and PSH with the last, all else with each", () => {
    const fields = tcp(1000, { flags: ACK | CWR | ECE | PSH | FIN | URG });
    const flags = segment(core, superPacket(fields, 400)).map((bytes) => bytes[transportOffset(fields) + 13]);
    assert.deepEqual(flags, [ACK | CWR | ECE | URG, ACK | ECE | URG, ACK | ECE | URG | PSH | FIN]);
  });

  good("the identification wraps, with DF and without", () => {
    for (const fragment of [DF, 0]) {
      const segments = segment(core, superPacket(tcp(500, { id: 65534, fragment }), 100));
      assert.deepEqual(segments.map((bytes) => bytes[4] * 256 + bytes[5]), [65534, 65535, 0, 1, 2]);
      for (const bytes of segments) assert.equal(bytes[6] * 256 + bytes[7], fragment);
    }
  });

  good("the sequence number wraps", () => {
    const fields = tcp(300, { sequence: 2 ** 32 - 100 });
    assertSame(segment(core, superPacket(fields, 100)), segmentsOf(fields, 100), "wrap");
  });

  good("a UDP checksum that comes out as zero is sent as its complement", () => {
    const random = new Stream(3, "zero");
    const fields = randomFields(random, { version: 6, protocol: UDP, payload: 64 });
    // The first segment's last word makes its sum what it takes.
    fields.payload.fill(0, 30, 32);
    const [first] = segmentsOf(fields, 32);
    fields.payload.set(first.subarray(46, 48), 30);
    const [made] = segmentsOf(fields, 32);
    assert.deepEqual([...made.subarray(46, 48)], [255, 255]);
    assertSame(segment(core, superPacket(fields, 32)), segmentsOf(fields, 32), "zero");
  });

  good("the hint hdr_len may be anything", () => {
    const fields = tcp(3000);
    for (const hint of [0, 1, 54, 1024, 65535]) {
      const vnet = superPacket(fields, 1000);
      vnet.header[2] = hint & 255;
      vnet.header[3] = hint >> 8;
      assertSame(segment(core, vnet), segmentsOf(fields, 1000), `hint ${hint}`);
    }
  });

  good("a packet sent whole gets the checksum that was left to us, wherever it lies", () => {
    const random = new Stream(4, "whole");
    for (let round = 0; round < 300; round++) {
      const fields = randomFields(random, { payload: random.below(300) });
      if (fields.version === 6 && random.below(2)) fields.extensions = [randomExtension(random)];
      const packet = buildPartial(fields);
      const offset = fields.protocol === TCP ? 16 : 6;
      const header = vnetHeader(NEEDS_CSUM, GSO_NONE, 0, 0, transportOffset(fields), offset);
      const at = place(core, { packet, header });
      assert.equal(exports.segmentBegin(at, packet.length), 0);
      assertValid(u8.slice(at));
      // As a card would: zero is never left, not even in TCP.
      const sum = onesSum(packet.subarray(transportOffset(fields)));
      const field = transportOffset(fields) + offset;
      assert.equal(u8[at + field] * 256 + u8[at + field + 1], 0xffff - sum || 0xffff);
      packet.fill(0, field, field + 2);
      u8.fill(0, at + field, at + field + 2);
      assert.deepEqual(u8.slice(at), packet, "more than the checksum changed");
    }
  });

  good("a packet without anything left to do is not touched", () => {
    const fields = tcp(100);
    const packet = build(fields);
    for (const flags of [0, 2]) {
      const at = place(core, { packet, header: vnetHeader(flags, GSO_NONE, 9, 9, 60000, 60000) });
      assert.equal(exports.segmentBegin(at, packet.length), 0);
      assert.deepEqual(u8.slice(at), packet);
    }
  });

  good("the sum is right at every length and alignment", () => {
    const random = new Stream(5, "sum");
    const bytes = random.bytes(200);
    for (let start = 0; start < 17; start++)
      for (let length = 0; length <= 150; length++) {
        const at = CEILING - 300 + start;
        u8.set(bytes.subarray(0, length), at);
        const sum = exports.foldedSum(at, length);
        assert.equal((sum >> 8) | ((sum & 255) << 8), onesSum(bytes.subarray(0, length)), `${length} at ${start}`);
      }
    const ones = new Uint8Array(65535).fill(255);
    u8.set(ones, CEILING - ones.length);
    const sum = exports.foldedSum(CEILING - ones.length, ones.length);
    assert.equal((sum >> 8) | ((sum & 255) << 8), onesSum(ones));
  });

  good.run();

  const bad = suite(`segmentation refuses, ${name}`);

  /** Asserts that it is refused and left as it is. */
  const refuse = (what: string, vnet: Vnet, length = vnet.packet.length) => {
    const at = place(core, vnet);
    assert.equal(exports.segmentBegin(at, length), -1, what);
    assert.deepEqual(u8.slice(at), vnet.packet, `${what}: it was changed`);
  };
  const samples: [string, Fields, Vnet][] = [];
  for (const [version, protocol] of [[4, TCP], [6, TCP], [4, UDP], [6, UDP]] as const) {
    const fields = randomFields(new Stream(6, `${version} ${protocol}`), { version, protocol, payload: 2000 });
    samples.push([`IPv${version}, protocol ${protocol}`, fields, superPacket(fields, 500)]);
  }
  const edited = (vnet: Vnet, edit: (header: DataView, packet: Bytes) => void): Vnet => {
    const copy = { header: vnet.header.slice(), packet: vnet.packet.slice() };
    edit(new DataView(copy.header.buffer), copy.packet);
    return copy;
  };

  bad("segments of no size", () => {
    for (const [what, , vnet] of samples) refuse(what, edited(vnet, (header) => header.setUint16(4, 0, true)));
  });

  bad("a checksum that is not left to us, or not where the transport has it", () => {
    for (const [what, fields, vnet] of samples) {
      refuse(what, edited(vnet, (header) => header.setUint8(0, 0)));
      refuse(what, edited(vnet, (header) => header.setUint16(8, fields.protocol === TCP ? 6 : 16, true)));
    }
  });

  bad("a transport header that is somewhere else", () => {
    for (const [what, fields, vnet] of samples) {
      const start = transportOffset(fields);
      for (const wrong of [0, 1, start - 1, start + 1, start + 4, start + 8, 2000, vnet.packet.length, 65535]) {
        refuse(`${what} at ${wrong}`, edited(vnet, (header) => header.setUint16(6, wrong, true)));
      }
      if (fields.version === 4) {
        for (const words of [0, 4, 6, 15]) {
          refuse(`${words} words`, edited(vnet, (_, packet) => (packet[0] = 0x40 | words)));
        }
      }
    }
  });

  bad("a type that is not the packet's", () => {
    for (const [what, fields, vnet] of samples) {
      const right = vnet.header[1];
      for (let type = 1; type < 256; type++) {
        if ((type & ~GSO_ECN) === right || (type & ~GSO_ECN) === GSO_NONE) continue;
        refuse(`${what}: type ${type}`, edited(vnet, (header) => header.setUint8(1, type)));
      }
      refuse(what, edited(vnet, (_, packet) => (packet[0] = (fields.version === 4 ? 0x60 : 0x40) | 5)));
      refuse(what, edited(vnet, (_, packet) => (packet[0] = 0x55)));
      refuse(what, edited(vnet, (_, packet) => (packet[fields.version === 4 ? 9 : 6] ^= 1)));
    }
  });

  bad("a TCP header shorter than it can be, or longer than the packet", () => {
    for (const [what, fields, vnet] of samples) {
      if (fields.protocol !== TCP) continue;
      const at = transportOffset(fields) + 12;
      for (let words = 0; words < 5; words++) refuse(what, edited(vnet, (_, packet) => (packet[at] = words * 16)));
      const short = superPacket({ ...fields, payload: fields.payload.subarray(0, 8) }, 4);
      refuse(what, edited(short, (_, packet) => (packet[at] = 15 * 16)));
    }
  });

  bad("an IP length that disagrees, and a packet cut short", () => {
    for (const [what, fields, vnet] of samples) {
      const at = fields.version === 4 ? 2 : 4;
      refuse(what, edited(vnet, (_, packet) => (packet[at + 1] ^= 1)));
      refuse(what, edited(vnet, (_, packet) => packet.fill(0, at, at + 2)));
      for (let length = 20; length < headersLength(fields) + 8; length++) {
        refuse(`${what} in ${length}`, { header: vnet.header, packet: vnet.packet.slice(0, length) });
      }
      refuse(what, { header: vnet.header, packet: vnet.packet.slice(0, -1) });
      const empty = superPacket({ ...fields, payload: new Uint8Array(0) }, 500);
      refuse(`${what} without payload`, empty);
    }
  });

  bad("a fragment", () => {
    for (const fragment of [MF, 1, 0x1fff, MF | DF]) {
      refuse(`${fragment}`, superPacket({ ...samples[0][1], fragment }, 500));
      refuse(`${fragment}`, superPacket({ ...samples[2][1], fragment }, 500));
    }
    const header = { type: 44, bytes: Uint8Array.from([0, 0, 0, 1, 1, 2, 3, 4]) };
    refuse("IPv6", superPacket({ ...samples[1][1], extensions: [header] }, 500));
  });

  bad("headers of more than 128 bytes, and IPv6 headers that lead elsewhere", () => {
    const extension = { type: 0, bytes: Uint8Array.from([0, 3, ...Array(30).fill(0)]) };
    const extensions = [extension, extension];
    refuse("long", superPacket({ ...samples[1][1], extensions }, 500));
    const fields = { ...samples[3][1], extensions: extensions.slice(1) };
    segment(core, superPacket(fields, 500));
    refuse("longer than it says", edited(superPacket(fields, 500), (_, packet) => (packet[41] = 2)));
    refuse("shorter than it says", edited(superPacket(fields, 500), (_, packet) => (packet[41] = 255)));
    refuse("another transport", edited(superPacket(fields, 500), (_, packet) => (packet[40] = TCP)));
  });

  bad("a checksum to be made outside of the packet", () => {
    const packet = build(samples[0][1]);
    const { length } = packet;
    for (const [start, offset] of [
      [length, 0], [length - 1, 0], [length - 2, 1], [0, length - 1], [0, 65535], [65535, 0], [65535, 65535],
      [length + 1, 0],
    ]) {
      refuse(`${start} + ${offset}`, { packet, header: vnetHeader(NEEDS_CSUM, GSO_NONE, 0, 0, start, offset) });
    }
    const at = place(core, { packet, header: vnetHeader(NEEDS_CSUM, GSO_NONE, 0, 0, length - 2, 0) });
    assert.equal(exports.segmentBegin(at, length), 0, "the last word is inside");
  });

  bad("garbage: 100,000 random headers and packets, none read past its end, none written outside of it", () => {
    const random = new Stream(7, "garbage");
    const noise = random.bytes(4096);
    const seeds = samples.flatMap(([, , vnet]) => [vnet, { header: vnet.header, packet: vnet.packet.slice(0, 700) }]);
    let segmented = 0;
    let refused = 0;
    u8.fill(CANARY, FLOOR);
    for (let round = 0; round < 100_000; round++) {
      const length = 20 + random.below(round % 2 ? 200 : 80);
      const at = CEILING - length;
      if (random.below(3) === 0) {
        const from = random.below(noise.length - length - 10);
        u8.set(noise.subarray(from, from + length + 10), at - 10);
        u8[at] = [0x45, 0x46, 0x60, 0x4f][random.below(4)];
      } else {
        const { header, packet } = seeds[random.below(seeds.length)];
        u8.set(header, at - 10);
        u8.set(packet.subarray(0, length), at);
        const isV4 = packet[0] >> 4 === 4;
        core.view.setUint16(at + (isV4 ? 2 : 4), isV4 ? length : Math.max(0, length - 40), false);
        for (let edits = random.below(4); edits > 0; edits--) u8[at - 10 + random.below(70)] = random.below(256);
      }
      u8.fill(CANARY, at - 64, at - 10);
      const result = exports.segmentBegin(at, length);
      if (result === 1) {
        segmented++;
        const most = exports.segmentLenMax();
        let left = exports.segmentsLeft();
        for (let size = exports.segmentNext(); size; size = exports.segmentNext(), left--) {
          const start = exports.segmentPacket();
          const inside = size <= most && start >= at && start + size <= CEILING;
          assert.ok(inside, `segment ${start - at} + ${size} of ${length}`);
        }
        assert.equal(left, 0);
      } else if (result === -1) {
        refused++;
      }
      for (let i = at - 64; i < at - 10; i++) assert.equal(u8[i], CANARY, "written before the virtio header");
    }
    assert.ok(u8.subarray(FLOOR, CEILING - 300).every((byte) => byte === CANARY), "written far from the packet");
    assert.ok(segmented > 5000 && refused > 20_000, `${segmented} segmented, ${refused} refused`);
  });

  bad.run();
}
