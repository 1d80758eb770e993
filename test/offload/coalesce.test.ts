// Coalescing against what the kernel makes of it: every delivered packet is taken apart again by the slow twin, and the
// packets must be those that came, in their order, byte for byte but for the identification beside DF (RFC 6864).
//
// What may join is checked against tcp_gro_receive, udp_gro_receive_segment and inet_gro_receive: never more than they
// join but for that identification (they want a counted or a constant one), and all of a plain bulk flow.
import assert from "node:assert/strict";
import { suite } from "uvu";
import {
  DELIVER_MAX, DELIVER_SIZE, THREAD_DELIVER, THREAD_DELIVER_COUNT, THREAD_FLOW, THREAD_FLOW_SIZE, THREADS_BASE,
} from "../../assembly/abi.ts";
import { builds } from "../helpers/wasm.ts";
import { Stream } from "../../host/simulator/random.ts";
import { CEILING, type Delivered, FLOOR, loadOffload, type Offload, takeDelivered } from "./fixture.ts";
import {
  ACK, assertValid, build, type Bytes, CWR, DF, ECE, expand, type Fields, FIN, headersLength, MF, PSH, randomExtension,
  randomFields, RST, sameAfterJoin, segmentFields, SYN, TCP, transportOffset, UDP, URG,
} from "./oracle.ts";

const CANARY = 0x5a;

interface Incoming {
  packet: Bytes;
  peer: number;
}

/** Hands packets to the core as if just opened, each 16 to 40 bytes behind the one before. @returns what it delivers */
function coalesce({ exports, u8, view }: Offload, incoming: Incoming[], joinUdp = true): Delivered[] {
  assert.ok(incoming.length <= DELIVER_MAX);
  view.setUint32(THREADS_BASE + THREAD_DELIVER_COUNT, 0, true);
  let at = CEILING;
  const places: number[] = [];
  // The last ends where the memory does: a byte read behind it would be a trap.
  for (let i = incoming.length - 1; i >= 0; i--) {
    at -= incoming[i].packet.length;
    u8.set(incoming[i].packet, at);
    places[i] = at;
    at -= 16 + ((i * 7) % 25);
    u8.fill(CANARY, at, places[i]);
  }
  assert.ok(at >= FLOOR);
  exports.coalesceBegin();
  const udp = joinUdp ? 1 : 0;
  for (const [i, { packet, peer }] of incoming.entries()) exports.coalesce(places[i], packet.length, peer, udp);
  exports.coalesceEnd();
  assert.ok(view.getUint32(THREADS_BASE + THREAD_DELIVER_COUNT, true) <= incoming.length, "a record for each at most");
  for (const [i, place] of places.entries()) {
    const gap = u8.subarray(i === 0 ? at : places[i - 1] + incoming[i - 1].packet.length, place - 10);
    assert.ok(gap.every((byte) => byte === CANARY), "a byte between the packets changed");
  }
  return takeDelivered(view, THREADS_BASE, FLOOR, CEILING);
}

/** Asserts that the delivered packets are the ones that came, and that each peer has its own. */
function assertStream(delivered: Delivered[], incoming: Incoming[]): void {
  let at = 0;
  for (const { bytes, peer } of delivered) {
    const { packets, valid } = expand(bytes);
    for (const packet of packets) {
      const came = incoming[at++];
      assert.ok(came, "more packets than came");
      assert.equal(peer, came.peer);
      const same = packets.length > 1 ? sameAfterJoin : (a: Bytes, b: Bytes) => Buffer.compare(a, b) === 0;
      if (!same(came.packet, packet)) assert.deepEqual(packet, came.packet, `packet ${at - 1}`);
      if (valid) assertValid(came.packet);
    }
  }
  assert.equal(at, incoming.length, "a packet was lost");
}

/** Asserts the stream. @returns how many packets each delivered one was made of */
function sizes(core: Offload, packets: Bytes[], joinUdp = true): number[] {
  const incoming = packets.map((packet) => ({ packet, peer: 3 }));
  const delivered = coalesce(core, incoming, joinUdp);
  assertStream(delivered, incoming);
  return delivered.map(({ bytes }) => expand(bytes).packets.length);
}

type Change = [what: string, change: (it: Fields) => void];

const flipped = (bytes: Bytes, at: number): Bytes => Uint8Array.from(bytes, (byte, i) => (i === at ? byte ^ 1 : byte));

const kinds = [[4, TCP], [6, TCP], [4, UDP], [6, UDP]] as const;

for (const name of builds) {
  const core = loadOffload(name);

  const joins = suite(`coalescing joins, ${name}`);

  for (const [version, protocol] of kinds) {
    const random = new Stream(1, `${version} ${protocol}`);
    const title = `IPv${version} ${protocol === TCP ? "TCP" : "UDP"}`;
    const base = (payload: number) => randomFields(random, { version, protocol, payload });
    /** Segments of a flow as a sender's card makes them. */
    const bulk = (fields: Fields, size: number) => segmentFields(fields, size).map(build);

    joins(`segments come out as the super-packet they were, ${title}`, () => {
      const cases = [[45 * 1448, 1448], [44 * 1448 + 7, 1448], [64, 1], [2, 1], [1000, 999], [1000, 1000]];
      for (const [payload, size] of cases) {
        const packets = bulk(base(payload), size);
        assert.deepEqual(sizes(core, packets), [packets.length], `${payload} in ${size}`);
      }
    });

    joins(`random super-packets one after the other, ${title}`, () => {
      for (let round = 0; round < 40; round++) {
        const packets: Bytes[] = [];
        const expected: number[] = [];
        for (let i = 0; i < 1 + random.below(5); i++) {
          const size = 1 + random.below(1400);
          const fields = base(1 + random.below(Math.min(64 * size, 20_000)));
          if (protocol === TCP) fields.flags |= random.below(2) ? PSH : 0;
          const segments = bulk(fields, size);
          packets.push(...segments);
          expected.push(segments.length);
        }
        assert.deepEqual(sizes(core, packets), expected);
      }
    });

    joins(`no more than 64, and no more than an IP packet holds, ${title}`, () => {
      assert.deepEqual(sizes(core, bulk(base(200 * 100), 100)), [64, 64, 64, 8]);
      const fields = base(90 * 1400);
      const fit = Math.floor((65535 - headersLength(fields)) / 1400);
      assert.deepEqual(sizes(core, segmentFields(fields, 1400).map(build)), [fit, 90 - fit]);
      const exact = base(0);
      exact.payload = random.bytes(65535 - headersLength(exact));
      const two = { ...exact, payload: random.bytes(exact.payload.length + 1) };
      for (const whole of [exact, two]) {
        const size = Math.ceil(whole.payload.length / 2);
        assert.deepEqual(sizes(core, bulk(whole, size)), whole === exact ? [2] : [1, 1]);
      }
    });

    joins(`a shorter one ends the run, a longer one begins another, ${title}`, () => {
      const fields = base(0);
      const of = (...lengths: number[]) => {
        let sequence = 0;
        return lengths.map((length, i) => {
          const it = { ...fields, id: (fields.id + i) % 65536, payload: random.bytes(length) };
          if (protocol === TCP) it.sequence = (fields.sequence + sequence) % 2 ** 32;
          sequence += length;
          return build(it);
        });
      };
      assert.deepEqual(sizes(core, of(100, 100, 99, 100, 100)), [3, 2]);
      assert.deepEqual(sizes(core, of(100, 101, 101, 1, 1, 1)), [1, 3, 2]);
      assert.deepEqual(sizes(core, of(1, 1, 1)), [3]);
    });

    joins(`in order across flows, ${title}`, () => {
      const [a, b] = [bulk(base(400), 100), bulk(base(400), 100)];
      assert.deepEqual(sizes(core, [a[0], a[1], b[0], a[2], b[1], b[2], b[3], a[3]]), [2, 1, 1, 3, 1]);
    });

    // One at a time, what makes a second packet another's: the kernel joins none of these either.
    const changes: Change[] = [
      ["TOS", (it) => (it.tos ^= 4)],
      ["ECN", (it) => (it.tos ^= 1)],
      ["TTL", (it) => (it.ttl ^= 1)],
      ["source", (it) => (it.source = flipped(it.source, 0))],
      ["destination", (it) => (it.destination = flipped(it.destination, it.destination.length - 1))],
      ["source port", (it) => (it.sourcePort ^= 1)],
      ["destination port", (it) => (it.destinationPort ^= 256)],
      ["protocol", (it) => Object.assign(it, { ...it, protocol: it.protocol === TCP ? UDP : TCP, flags: ACK })],
    ];
    if (version === 4) {
      changes.push(
        ["DF", (it) => (it.fragment ^= DF)],
        ["reserved flag", (it) => (it.fragment |= 0x8000)],
        ["options", (it) => (it.ipOptions = Uint8Array.from([1, 1, 1, 1]))],
        ["more fragments", (it) => (it.fragment |= MF)],
        ["fragment offset", (it) => (it.fragment = 3)],
      );
    } else {
      changes.push(
        ["flow label", (it) => (it.flowLabel ^= 1)],
        ["extension", (it) => (it.extensions = [randomExtension(random)])],
      );
    }
    if (protocol === TCP) {
      changes.push(
        ["sequence", (it) => (it.sequence = (it.sequence + 1) % 2 ** 32)],
        ["sequence back", (it) => (it.sequence = (it.sequence + 2 ** 32 - 100) % 2 ** 32)],
        ["acknowledgment", (it) => (it.acknowledgment ^= 1)],
        ["window", (it) => (it.window ^= 1)],
        ["zero window", (it) => (it.window = it.window === 0 ? 1 : 0)],
        ["urgent pointer", (it) => (it.urgent ^= 1)],
        ["option", (it) => (it.tcpOptions = flipped(it.tcpOptions, 5))],
        ["more options", (it) => (it.tcpOptions = Uint8Array.from([1, 1, 1, 1, 1, 1, 1, 1]))],
        ["no payload", (it) => (it.payload = it.payload.subarray(0, 0))],
        ["reserved bits", (it) => (it.reserved ^= 1)],
        ...[FIN, SYN, RST, URG, ECE, CWR].map((flag): Change => [`flag ${flag}`, (it) => (it.flags ^= flag)]),
        ["no ACK", (it) => (it.flags ^= ACK)],
      );
    } else {
      changes.push(
        ["no checksum", (it) => (it.unchecked = true)],
        ["no payload", (it) => (it.payload = it.payload.subarray(0, 0))],
      );
    }

    joins(`each difference keeps two packets apart, ${title}`, () => {
      for (const [what, change] of changes) {
        const fields = base(300);
        fields.tcpOptions = protocol === TCP ? Uint8Array.from([1, 1, 8, 10, 1, 2, 3, 4]) : fields.tcpOptions;
        if (what === "fragment offset") fields.fragment = DF;
        const all = segmentFields(fields, 100);
        assert.deepEqual(sizes(core, all.map(build)), [3], "the control");
        change(all[1]);
        const parts = sizes(core, all.map(build));
        assert.ok(parts[0] === 1, `${what}: joined to the one before, ${parts}`);
        // And the run does not go on over it, unless it is the third that fits the second.
        assert.deepEqual(sizes(core, [build(all[0]), build(all[1])]), [1, 1], what);
        // Neither as the first of a run, when it is of a kind that joins nothing.
        const never = /fragment|options|extension|flag (1|2|4|32|128)|no (ACK|checksum|payload)/;
        if (never.test(what) && what !== "more options") {
          const sequence = (all[1].sequence + all[1].payload.length) % 2 ** 32;
          const again = { ...all[1], sequence, id: (all[1].id + 1) % 65536 };
          assert.deepEqual(sizes(core, [build(all[1]), build(again)]), [1, 1], `two with ${what}`);
        }
      }
    });

    joins(`a wrong checksum passes by itself and unmarked, ${title}`, () => {
      const packets = bulk(base(500), 100);
      const header = transportOffset(base(0));
      for (const at of [header + 4, packets[2].length - 1, ...(version === 4 ? [11] : [])]) {
        const broken = packets.map((packet) => packet.slice());
        broken[2][at] ^= 1;
        const incoming = broken.map((packet) => ({ packet, peer: 1 }));
        const delivered = coalesce(core, incoming);
        assertStream(delivered, incoming);
        assert.deepEqual(delivered.map(({ bytes }) => expand(bytes).packets.length), [2, 1, 2]);
        assert.equal(expand(delivered[1].bytes).valid, false, `byte ${at}`);
      }
    });

    joins(`a single packet says that its checksum was verified, ${title}`, () => {
      const [only] = coalesce(core, [{ packet: build(base(50)), peer: 1 }]);
      assert.equal(expand(only.bytes).valid, true);
    });

    joins(`a run is gathered from where its payloads lie, ${title}`, () => {
      const packets = bulk(base(1000), 100);
      const [only] = coalesce(core, packets.map((packet) => ({ packet, peer: 1 })));
      assert.equal(only.pieces.length, 10);
      assert.deepEqual(only.pieces.map(({ length }) => length), [10 + packets[0].length, ...Array(9).fill(100)]);
    });
  }

  joins("UDP is joined only where the interface takes it", () => {
    const fields = randomFields(new Stream(2, "udp"), { protocol: UDP, payload: 500 });
    assert.deepEqual(sizes(core, segmentFields(fields, 100).map(build), false), [1, 1, 1, 1, 1]);
    const tcp = randomFields(new Stream(2, "tcp"), { protocol: TCP, payload: 500 });
    assert.deepEqual(sizes(core, segmentFields(tcp, 100).map(build), false), [5]);
  });

  joins("without DF the identification counts, with it it does not matter", () => {
    const fields = randomFields(new Stream(3, "id"), { version: 4, payload: 300, protocol: TCP });
    for (const [fragment, ids, expected] of [
      [0, [65535, 0, 1], [3]],
      [0, [7, 7, 7], [1, 1, 1]],
      [0, [7, 9, 10], [1, 2]],
      [DF, [65535, 0, 1], [3]],
      [DF, [0, 0, 0], [3]],
      [DF, [9, 3, 7], [3]],
    ] as const) {
      const packets = segmentFields({ ...fields, fragment }, 100).map((it, i) => build({ ...it, id: ids[i] }));
      assert.deepEqual(sizes(core, packets), expected, `${fragment} ${ids}`);
    }
  });

  joins("PSH ends a run and stays where it was", () => {
    const fields = randomFields(new Stream(4, "psh"), { payload: 600, protocol: TCP });
    const packets = segmentFields(fields, 100).map((it, i) =>
      build({ ...it, flags: i === 2 || i === 3 ? ACK | PSH : ACK }),
    );
    assert.deepEqual(sizes(core, packets), [3, 1, 2]);
  });

  joins("ECE that all have does not keep them apart", () => {
    const fields = randomFields(new Stream(5, "ece"), { payload: 600, protocol: TCP });
    const packets = segmentFields(fields, 100).map((it, i) => build({ ...it, flags: i < 3 ? ACK | ECE : ACK }));
    assert.deepEqual(sizes(core, packets), [3, 3]);
  });

  joins("UDP without a checksum is not joined, even where none would be right", () => {
    const fields = randomFields(new Stream(11, "none"), { protocol: UDP, version: 6, payload: 32 });
    // The last word makes the sum what it takes for a checksum of zero, which is sent as 0xffff.
    fields.payload.fill(0, 30);
    fields.payload.set(build(fields).subarray(46, 48), 30);
    assert.deepEqual([...build(fields).subarray(46, 48)], [255, 255]);
    assert.deepEqual(sizes(core, [build(fields), build(fields)]), [2], "the control");
    const packet = build({ ...fields, unchecked: true });
    assert.deepEqual(sizes(core, [packet, packet]), [1, 1]);
  });

  joins("what is neither TCP nor UDP passes as it is", () => {
    const random = new Stream(6, "other");
    for (const version of [4, 6] as const) {
      const packet = build(randomFields(random, { version, protocol: UDP, payload: 30 }));
      packet[version === 4 ? 9 : 6] = 1;
      assert.deepEqual(sizes(core, [packet, packet]), [1, 1]);
    }
    const header = new Uint8Array(20);
    header.set([0x45, 0, 0, 20]);
    const header6 = new Uint8Array(40);
    header6.set([0x60]);
    for (const protocol of [TCP, UDP, 59]) {
      header[9] = protocol;
      header6[6] = protocol;
      assert.deepEqual(sizes(core, [header, header6, header]), [1, 1, 1], "headers alone");
    }
  });

  joins("a TCP or UDP header that is cut, or lies about its length", () => {
    const random = new Stream(7, "cut");
    for (const [version, protocol] of kinds) {
      const fields = randomFields(random, { version, protocol, payload: 60 });
      const packets = segmentFields(fields, 30).map(build);
      const at = transportOffset(fields);
      for (let length = at; length < packets[1].length; length++) {
        const cut = packets[1].slice(0, length);
        new DataView(cut.buffer).setUint16(version === 4 ? 2 : 4, version === 4 ? length : length - 40, false);
        const incoming = [packets[0], cut, packets[1]].map((packet) => ({ packet, peer: 1 }));
        const delivered = coalesce(core, incoming);
        assert.equal(delivered.length, 3);
        assert.deepEqual(delivered.map(({ bytes }) => bytes.slice(10)), [packets[0], cut, packets[1]]);
      }
      for (let words = 0; words < 16 && protocol === TCP; words++) {
        const lying = packets[1].slice();
        lying[at + 12] = words * 16;
        coalesce(core, [packets[0], lying].map((packet) => ({ packet, peer: 1 }))); // its last byte ends the memory
      }
    }
  });

  joins.run();

  const streams = suite(`coalescing random streams, ${name}`);

  /** Several flows in bulk, mixed; then changed, reordered, doubled and lost. */
  function randomStream(random: Stream): Incoming[] {
    const flows = Array.from({ length: 1 + random.below(4) }, (_, peer) => {
      const fields = randomFields(random, { payload: 0 });
      return { fields, size: 1 + random.below(300), peer, bursts: 1 + random.below(12) };
    });
    const stream: Incoming[] = [];
    const calm = random.below(4) === 0;
    const total = 20 + random.below(200);
    while (stream.length < total) {
      const flow = flows[random.below(flows.length)];
      for (let i = 1 + random.below(flow.bursts); i > 0; i--) {
        const { fields } = flow;
        const length = random.chance(0.9) ? flow.size : 1 + random.below(flow.size);
        const it: Fields = { ...fields, payload: random.bytes(length) };
        if (it.protocol === TCP) {
          fields.sequence = (fields.sequence + length) % 2 ** 32;
          if (random.chance(0.05)) it.flags |= PSH;
        }
        fields.id = (fields.id + 1) % 65536;
        let packet = build(it);
        if (!calm && random.chance(0.1)) packet = disturb(random, it, fields);
        if (!calm && random.chance(0.02)) continue; // lost
        stream.push({ packet, peer: flow.peer });
        if (!calm && random.chance(0.02)) stream.push({ packet: packet.slice(), peer: flow.peer });
        if (!calm && random.chance(0.03) && stream.length > 1) stream.splice(-2, 2, stream.at(-1)!, stream.at(-2)!);
      }
    }
    return stream.slice(0, DELIVER_MAX);
  }

  /** Changes one packet, or the flow from here on. */
  function disturb(random: Stream, it: Fields, flow: Fields): Bytes {
    const kind = random.below(16);
    const flag = (flags: number) => (it.flags = it.protocol === TCP ? it.flags ^ flags : 0);
    if (kind === 0) it.ttl = flow.ttl = 1 + random.below(255);
    else if (kind === 1) it.tos = flow.tos = random.below(256);
    else if (kind === 2) flag([FIN, SYN, RST, URG, ECE, CWR][random.below(6)]);
    else if (kind === 3) flow.acknowledgment = it.acknowledgment = it.protocol === TCP ? random.u32() : 0;
    else if (kind === 4) flow.window = it.window = it.protocol === TCP && random.below(3) ? random.below(65536) : 0;
    else if (kind === 5) it.payload = it.payload.subarray(0, 0);
    else if (kind === 6) it.unchecked = it.protocol === UDP;
    else if (kind === 7) it.id = random.below(65536);
    else if (kind === 8) it.fragment = it.version === 4 ? [DF, 0, MF, 100, 0x8000][random.below(5)] : 0;
    else if (kind === 9 && it.version === 4) it.ipOptions = random.bytes(4);
    else if (kind === 9) it.extensions = [randomExtension(random)];
    else if (kind === 10 && it.tcpOptions.length) flow.tcpOptions = it.tcpOptions = random.bytes(it.tcpOptions.length);
    else if (kind === 11 && it.protocol === TCP) it.reserved = random.below(16);
    else if (kind === 12 && it.protocol === TCP) it.urgent = random.below(65536);
    else if (kind === 13) it.payload = random.bytes(it.payload.length + random.below(40));
    else if (kind === 14 && it.version === 6) it.flowLabel = random.below(2 ** 20);
    const packet = build(it);
    if (kind === 15) packet[random.below(packet.length)] ^= 1 << random.below(8);
    // A header that lies about its length would not have come so far.
    const version = packet[0] >> 4;
    const length = packet.length;
    if (version !== (it.version as number)) packet[0] ^= (version ^ it.version) << 4;
    new DataView(packet.buffer).setUint16(it.version === 4 ? 2 : 4, it.version === 4 ? length : length - 40, false);
    return packet;
  }

  streams("800 streams of several flows, disturbed: the same packets in the same order", () => {
    const random = new Stream(8, "streams");
    let packets = 0;
    let delivered = 0;
    let joined = 0;
    for (let round = 0; round < 800; round++) {
      const stream = randomStream(random);
      const out = coalesce(core, stream);
      assertStream(out, stream);
      packets += stream.length;
      delivered += out.length;
      for (const { pieces } of out) joined += pieces.length > 1 ? pieces.length : 0;
    }
    // It must have joined a good part, or the test says little.
    assert.ok(joined > packets / 3, `${joined} of ${packets} joined, ${delivered} delivered`);
  });

  streams("garbage behind a version: nothing read past the packet, nothing lost", () => {
    const random = new Stream(9, "garbage");
    const noise = random.bytes(4096);
    for (let round = 0; round < 3000; round++) {
      const stream: Incoming[] = [];
      for (let i = 0; i < 8; i++) {
        const version = random.below(2) ? 4 : 6;
        const length = (version === 4 ? 20 : 40) + random.below(60);
        const from = random.below(4000);
        const packet = new Uint8Array(noise.buffer.slice(from, from + length));
        const whole = packet.length === length ? packet : new Uint8Array(length);
        whole[0] = version === 4 ? (random.below(3) ? 0x45 : 0x40 | random.below(16)) : 0x60;
        whole[version === 4 ? 9 : 6] = random.below(3) ? [TCP, UDP][random.below(2)] : random.below(256);
        new DataView(whole.buffer).setUint16(version === 4 ? 2 : 4, version === 4 ? length : length - 40, false);
        stream.push({ packet: whole, peer: 1 });
      }
      const before = stream.map(({ packet }) => packet.slice());
      const out = coalesce(core, stream);
      assert.equal(out.length, 8);
      assert.deepEqual(out.map(({ bytes }) => bytes.slice(10)), before);
    }
  });

  streams("nothing but packets, records and the run's own place is written", () => {
    const random = new Stream(10, "places");
    const { u8 } = core;
    const stream = randomStream(random);
    const before = u8.slice(THREADS_BASE, FLOOR);
    coalesce(core, stream);
    const after = u8.slice(THREADS_BASE, FLOOR);
    for (const bytes of [before, after]) {
      bytes.fill(0, THREAD_FLOW, THREAD_FLOW + THREAD_FLOW_SIZE);
      bytes.fill(0, THREAD_DELIVER, THREAD_DELIVER + DELIVER_MAX * DELIVER_SIZE);
      bytes.fill(0, THREAD_DELIVER_COUNT, THREAD_DELIVER_COUNT + 4);
    }
    assert.ok(Buffer.compare(before, after) === 0);
  });

  streams.run();
}
