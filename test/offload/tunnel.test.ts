// Super-packets through two real devices without any privilege: TUN with virtio header -> segments -> runs
// (UDP_SEGMENT) -> runs (UDP_GRO) -> joined packets, compared with the slow twin; and both ends fed with nonsense.
import assert from "node:assert/strict";
import { suite } from "uvu";
import {
  DELIVER_MAX, DEVICE_RX_DATAGRAMS, DROP_BAD_TAG, DROP_OUT_BAD_OFFLOAD, DROP_OUT_STAGED_OVERFLOW, DROP_OUT_TOO_LONG,
  DROP_REPLAYED, DROP_TRUNCATED, IN_MAX, IN_TRUNCATED, IN_VNET, OUT_MAX, OUT_SLOT, PEER_INFO_STAGED,
  PEER_INFO_TX_PACKETS, SLOTS_SIZE, SLOT_DATA_SIZE, THREAD_DELIVER, THREAD_RANDOM_LEFT, THREAD_RANDOM_SIZE,
} from "../../assembly/abi.ts";
import { MAX_STAGED_PACKETS } from "../../assembly/protocol.ts";
import { builds } from "../helpers/wasm.ts";
import { Stream } from "../../host/simulator/random.ts";
import { takeDelivered } from "./fixture.ts";
import {
  ACK, build, buildPartial, type Bytes, type Fields, headersLength, PSH, randomFields, segmentsOf,
  superPacket, TCP, transportOffset, UDP, vnetHeader, type Vnet,
} from "./oracle.ts";
import {
  assertDelivered, datagramsOf, putIn, receiveRuns, type Run, sendVnet, slotOf, Star, takeRuns,
} from "./tunnel.ts";

const COUNTER = 8;
const counterOf = ({ buffer, byteOffset }: Bytes): bigint => new DataView(buffer, byteOffset).getBigUint64(COUNTER, true);

/** Fields of a packet to a leaf. */
function to(random: Stream, leaf: number, payload: number, more: Partial<Omit<Fields, "payload">> = {}): Fields {
  const fields = { ...randomFields(random, { payload, ...more }), ...more };
  fields.destination = fields.destination.slice();
  fields.destination.set(fields.version === 4 ? [10, leaf] : [0xfd, leaf]);
  fields.tos &= ~3;
  return fields;
}

interface Sent {
  vnet: Vnet;
  packets: Bytes[];
}

const superOf = (fields: Fields, size: number): Sent => ({
  vnet: superPacket(fields, size),
  packets: segmentsOf(fields, size),
});

/** A packet that is one, with its checksum left to us or made. */
function wholeOf(fields: Fields, partial: boolean): Sent {
  const header = partial
    ? vnetHeader(1, 0, 0, 0, transportOffset(fields), fields.protocol === TCP ? 16 : 6)
    : vnetHeader(0, 0, 0, 0, 0, 0);
  const packets = [build(fields)];
  return { vnet: { header, packet: partial ? buildPartial(fields) : packets[0] }, packets };
}

function randomSent(random: Stream, leaf: number): Sent {
  if (random.below(3) === 0) return wholeOf(to(random, leaf, random.below(1400)), random.below(2) === 0);
  const payload = 1 + random.below(random.below(3) ? 9000 : 65000);
  const fields = to(random, leaf, payload, random.below(2) ? {} : { protocol: TCP, flags: ACK | PSH });
  fields.payload = fields.payload.subarray(0, 65535 - headersLength(fields));
  return superOf(fields, 1 + random.below(1400) + (payload >> 7));
}

for (const name of builds) {
  const star = new Star(name).connect();
  const { hub } = star;
  const [leaf] = star.leaves;
  const across = suite(`super-packets across, ${name}`);

  for (const [version, protocol] of [[4, TCP], [6, TCP], [4, UDP], [6, UDP]] as const) {
    across(`one goes in and comes out as it was, IPv${version} ${protocol === TCP ? "TCP" : "UDP"}`, () => {
      const random = new Stream(1, `${version} ${protocol}`);
      // 45 x 1,452 bytes is the most that one UDP_SEGMENT send takes.
      const header = headersLength(to(random, 0, 0, { version, protocol, tcpOptions: new Uint8Array(0) }));
      const size = 1420 - header;
      const fields = to(random, 0, 45 * size, { version, protocol, tcpOptions: new Uint8Array(0) });
      const { vnet, packets } = superOf(fields, size);
      const runs = sendVnet(hub, [vnet]);
      assert.deepEqual(runs.map(({ bytes, segment }) => [bytes.length, segment]), [[45 * 1452, 1452]]);
      assert.deepEqual(assertDelivered(receiveRuns(leaf, runs), packets), [45]);
    });
  }

  across("random batches with small packets between them, as runs and as single datagrams", () => {
    const random = new Stream(2, "batches");
    for (let round = 0; round < 25; round++) {
      const sent = Array.from({ length: 1 + random.below(8) }, () => randomSent(random, 0));
      const expected = sent.flatMap(({ packets }) => packets);
      const runs = sendVnet(hub, sent.map(({ vnet }) => vnet));
      assert.equal(runs.flatMap(datagramsOf).length, expected.length);
      const datagrams = runs.flatMap((run) => datagramsOf(run).map((bytes): Run => ({ ...run, bytes, segment: 0 })));
      const offload = [3, 1, 0][round % 3];
      leaf.core.exports.deviceSetOffload(offload);
      const sizes = assertDelivered(receiveRuns(leaf, round % 2 ? runs : datagrams), expected, offload !== 0);
      if (offload === 0) assert.ok(sizes.every((size) => size === 1));
    }
    leaf.core.exports.deviceSetOffload(3);
  });

  across("counters go up by one, and runs hold 64 datagrams and 65,507 bytes at most", () => {
    const random = new Stream(3, "limits");
    const cases = [[60_000, 100], [65_000, 1400], [64_000, 31_000], [65_000, 32_700], [40_000, 7], [3, 1]];
    for (const [payload, size] of cases) {
      const { vnet, packets } = superOf(to(random, 0, payload, { version: 4, protocol: UDP }), size);
      const runs = sendVnet(hub, [vnet]);
      const datagrams = runs.flatMap(datagramsOf);
      for (const [i, it] of datagrams.entries()) assert.equal(counterOf(it), counterOf(datagrams[0]) + BigInt(i));
      // None is opened before the one before it is full.
      for (const run of runs.slice(0, -1)) {
        const count = datagramsOf(run).length;
        const isFull = count === 64 || run.bytes.length + datagramsOf(run)[0].length > 65507;
        assert.ok(isFull, `${run.bytes.length} in ${count}`);
      }
      assertDelivered(receiveRuns(leaf, runs), packets);
    }
  });

  across("padding ends at the MTU, so that a segment that fills it makes no longer datagram", () => {
    const random = new Stream(4, "mtu");
    for (const [mtu, packet, padded] of [
      [1420, 1420, 1420], [1420, 1419, 1420], [1420, 1000, 1008], [1421, 1421, 1421], [0, 1420, 1424],
    ]) {
      hub.core.exports.deviceSetMtu(mtu);
      const { vnet, packets } = superOf(to(random, 0, 10 * (packet - 28), { version: 4, protocol: UDP }), packet - 28);
      const runs = sendVnet(hub, [vnet]);
      assert.deepEqual(runs.map(({ segment }) => segment), [padded + 32]);
      assertDelivered(receiveRuns(leaf, runs), packets);
    }
    hub.core.exports.deviceSetMtu(1420);
  });

  across("the outer ECN is the super-packet's, and a run ends where it changes", () => {
    const random = new Stream(5, "tos");
    const sent = [0, 1, 1, 2, 3].map((tos) => {
      const fields = to(random, 0, 400, { version: 6, protocol: UDP });
      return superOf({ ...fields, tos: fields.tos | tos }, 100);
    });
    const runs = sendVnet(hub, sent.map(({ vnet }) => vnet));
    assert.deepEqual(runs.map(({ tos, bytes, segment }) => [tos, bytes.length / segment]), [[0, 4], [1, 8], [2, 8]]);
    assertDelivered(receiveRuns(leaf, runs), sent.flatMap(({ packets }) => packets));
  });

  across("congestion on the way marks every packet of a run, and they still join", () => {
    const random = new Stream(6, "ce");
    for (const version of [4, 6] as const) {
      const fields = to(random, 0, 1000, { version, protocol: TCP });
      fields.tos |= 2;
      const runs = sendVnet(hub, [superPacket(fields, 100)]);
      const delivered = receiveRuns(leaf, runs, 3 << 16);
      assert.deepEqual(assertDelivered(delivered, segmentsOf({ ...fields, tos: fields.tos | 3 }, 100)), [10]);
    }
  });

  across("a datagram of a run that is damaged or doubled takes nothing else with it", () => {
    const random = new Stream(7, "damage");
    const { vnet, packets } = superOf(to(random, 0, 1000, { version: 4, protocol: TCP }), 100);
    const [run] = sendVnet(hub, [vnet]);
    run.bytes[3 * run.segment + 20] ^= 1;
    run.bytes.copyWithin(6 * run.segment, 5 * run.segment, 6 * run.segment);
    const [tags, replays] = [leaf.drops(DROP_BAD_TAG), leaf.drops(DROP_REPLAYED)];
    const sizes = assertDelivered(receiveRuns(leaf, [run]), packets.filter((_, i) => i !== 3 && i !== 6));
    assert.deepEqual(sizes, [3, 2, 3]);
    assert.deepEqual([leaf.drops(DROP_BAD_TAG), leaf.drops(DROP_REPLAYED)], [tags + 1, replays + 1]);
  });

  across("a run that was cut is dropped whole and counted", () => {
    const random = new Stream(8, "cut");
    const [run] = sendVnet(hub, [superPacket(to(random, 0, 1000), 100)]);
    const before = leaf.drops(DROP_TRUNCATED);
    assert.deepEqual(receiveRuns(leaf, [run], IN_TRUNCATED), []);
    assert.equal(leaf.drops(DROP_TRUNCATED), before + 10);
  });

  across("more datagrams than there are DELIVER records: the call stops early, and goes on", () => {
    const random = new Stream(9, "early");
    const sent = Array.from({ length: 20 }, () => superOf(to(random, 0, 60 * 40, { version: 4, protocol: UDP }), 40));
    const runs = sent.flatMap(({ vnet }) => sendVnet(hub, [vnet])); // a run each
    assert.equal(runs.length, 20);
    runs.forEach(({ bytes, segment }, i) => {
      leaf.core.u8.set(bytes, slotOf(leaf, i) - 16);
      putIn(leaf, i, slotOf(leaf, i) - 16, bytes.length, segment, 0);
    });
    leaf.prepare();
    const { core } = leaf;
    const seen: number[] = [];
    const delivered = [];
    for (let first = 0; first < runs.length; seen.push(first)) {
      first = core.exports.deviceReceive(first, runs.length);
      assert.ok(core.deliverCount <= DELIVER_MAX, `${core.deliverCount} DELIVER records`);
      delivered.push(...takeDelivered(core.view, core.base, core.slots, core.slots + SLOTS_SIZE));
    }
    assert.deepEqual(seen, [8, 16, 20]);
    assertDelivered(delivered, sent.flatMap(({ packets }) => packets));
  });

  across("a record that claims more datagrams than there are DELIVER records is dropped", () => {
    const { core } = leaf;
    putIn(leaf, 0, slotOf(leaf, 0), DELIVER_MAX * 40 + 1, 40, 0);
    const before = leaf.drops(DROP_TRUNCATED);
    leaf.prepare();
    assert.equal(core.exports.deviceReceive(0, 1), 1);
    assert.equal(core.deliverCount, 0);
    assert.equal(leaf.drops(DROP_TRUNCATED), before + 1);
  });

  across("a super-packet that cannot be true is counted, and its neighbours pass", () => {
    const random = new Stream(10, "impossible");
    const good = [superOf(to(random, 0, 500), 100), superOf(to(random, 0, 500), 100)];
    const bad = superPacket(to(random, 0, 500), 100);
    bad.header.fill(0, 4, 6);
    const before = hub.drops(DROP_OUT_BAD_OFFLOAD);
    const runs = sendVnet(hub, [good[0].vnet, bad, good[1].vnet]);
    assert.equal(hub.drops(DROP_OUT_BAD_OFFLOAD), before + 1);
    assertDelivered(receiveRuns(leaf, runs), good.flatMap(({ packets }) => packets));
    const short = { header: vnetHeader(0, 0, 0, 0, 0, 0), packet: Uint8Array.from([0x45, 0, 0, 5, 0]) };
    assert.deepEqual(sendVnet(hub, [short]), []);
    assert.equal(hub.drops(DROP_OUT_BAD_OFFLOAD), before + 2);
  });

  across("a segment too long for a datagram is counted, whatever gso_size says of a shorter one", () => {
    const random = new Stream(11, "long");
    const long = superPacket(to(random, 0, 65_500, { version: 4, protocol: UDP }), 65_500);
    const before = hub.drops(DROP_OUT_TOO_LONG);
    assert.deepEqual(sendVnet(hub, [long]), []);
    assert.equal(hub.drops(DROP_OUT_TOO_LONG), before + 1);
    const { vnet, packets } = superOf(to(random, 0, 100, { version: 4, protocol: UDP }), 65_535);
    assertDelivered(receiveRuns(leaf, sendVnet(hub, [vnet])), packets);
  });

  across("room that is exhausted: a super-packet leaves whole or not at all", () => {
    const random = new Stream(12, "room");
    const tiny = () => superOf(to(random, 0, 20_000, { version: 4, protocol: UDP }), 5);
    const tx = () => Number(hub.info(star.numbers[0]).getBigUint64(PEER_INFO_TX_PACKETS, true));
    const [before, sentBefore] = [hub.drops(DROP_OUT_BAD_OFFLOAD), tx()];
    const one = superOf(to(random, 0, 65_000, { version: 4, protocol: UDP }), 1);
    assert.deepEqual(sendVnet(hub, [one.vnet]), []);
    assert.deepEqual([hub.drops(DROP_OUT_BAD_OFFLOAD), tx()], [before + 1, sentBefore]);
    const small = () => wholeOf(to(random, 0, 30), false);
    const sent = [tiny(), small(), tiny(), tiny(), small(), tiny(), tiny(), tiny(), small()];
    const runs = sendVnet(hub, sent.map(({ vnet }) => vnet));
    const left = runs.flatMap(datagramsOf).length;
    assert.equal(tx(), sentBefore + left);
    const dropped = hub.drops(DROP_OUT_BAD_OFFLOAD) - before - 1;
    assert.ok(dropped > 0 && dropped < 6, `${dropped} of 6 dropped`);
    assert.equal(left, (6 - dropped) * 4000 + 3, "part of one was sent, or a small one was not");
    const kept: Sent[] = [];
    let tinies = 6 - dropped;
    for (const it of sent) if (it.packets.length === 1 || tinies-- > 0) kept.push(it);
    assertDelivered(receiveRuns(leaf, runs), kept.flatMap(({ packets }) => packets));
  });

  across("records that run out, with plain packets behind: none is written past the last", () => {
    const random = new Stream(13, "records");
    const { core } = hub;
    const sent: { header?: Bytes; packet: Bytes }[] = [9000, 9000, 5000, 5000, 2500, 1200, 600, 300]
      .map((count) => superPacket(to(random, 0, count * 5, { version: 4, protocol: UDP }), 5));
    while (sent.length < IN_MAX) sent.push({ packet: build(to(random, 0, 20)) });
    // What lies behind the OUT records is the DELIVER records: a canary there.
    core.u8.fill(0xee, core.base + THREAD_DELIVER, core.base + THREAD_DELIVER + 4096);
    // Half of the slots are for runs, so the packets behind the 32nd share one: only the records count here.
    for (const [i, { header, packet }] of sent.entries()) {
      const at = i < OUT_SLOT ? slotOf(hub, i) : slotOf(hub, 20) + (i - OUT_SLOT) * 1024;
      core.u8.set(packet, at);
      if (header) core.u8.set(header, at - 10);
      putIn(hub, i, at, packet.length, 0, header ? IN_VNET : 0);
    }
    hub.prepare();
    const count = core.exports.deviceSend(IN_MAX);
    assert.ok(count > 200 && count <= OUT_MAX, `${count} records`);
    const behind = core.u8.subarray(core.base + THREAD_DELIVER, core.base + THREAD_DELIVER + 4096);
    assert.ok(behind.every((byte) => byte === 0xee));
  });

  across.run();

  const peers = suite(`super-packets to several peers, ${name}`);

  peers("a batch of several peers: runs are split by peer, and each gets its own in order", () => {
    const many = new Star(name, 3).connect();
    const random = new Stream(20, "peers");
    for (let round = 0; round < 8; round++) {
      const sent = Array.from({ length: 12 }, () => {
        const peer = random.below(3);
        return { peer, ...randomSent(random, peer) };
      });
      const runs = sendVnet(many.hub, sent.map(({ vnet }) => vnet));
      for (const [i, number] of many.numbers.entries()) {
        const own = runs.filter(({ peer }) => peer === number);
        const packets = sent.filter(({ peer }) => peer === i).flatMap((it) => it.packets);
        assert.equal(own.flatMap(datagramsOf).length, packets.length);
        assertDelivered(receiveRuns(many.leaves[i], own), packets);
      }
    }
  });

  peers("a super-packet that waits for a session is staged as its segments", () => {
    const fresh = new Star(name);
    const random = new Stream(21, "staged");
    const sent = [
      superOf(to(random, 0, 40 * 1300, { protocol: TCP }), 1300),
      wholeOf(to(random, 0, 200), true),
      superOf(to(random, 0, 3000), 1300),
    ];
    assert.deepEqual(sendVnet(fresh.hub, sent.map(({ vnet }) => vnet)), []);
    assert.equal(fresh.hub.info(fresh.numbers[0]).getUint32(PEER_INFO_STAGED, true), 40 + 1 + 3);
    assert.equal(fresh.hub.core.kicked, true);
    const delivered = fresh.settle();
    assertDelivered(delivered, sent.flatMap(({ packets }) => packets));
    assert.equal(fresh.hub.info(fresh.numbers[0]).getUint32(PEER_INFO_STAGED, true), 0);
  });

  peers("of more segments than may wait, the newest are kept and the others counted", () => {
    const fresh = new Star(name);
    const random = new Stream(22, "overflow");
    const { vnet, packets } = superOf(to(random, 0, 20_000), 100);
    assert.equal(packets.length, 200);
    assert.deepEqual(sendVnet(fresh.hub, [vnet]), []);
    assert.equal(fresh.hub.drops(DROP_OUT_STAGED_OVERFLOW), 200 - MAX_STAGED_PACKETS);
    assertDelivered(fresh.settle(), packets.slice(200 - MAX_STAGED_PACKETS));
  });

  peers.run();

  const fuzz = suite(`nonsense at both ends, ${name}`);

  fuzz("random runs, lengths and flags: no trap, every DELIVER record in the slots, every datagram counted", () => {
    const random = new Stream(30, "receive");
    const { core } = leaf;
    const counted = () => Number(core.view.getBigUint64(DEVICE_RX_DATAGRAMS, true));
    const noise = random.bytes(SLOT_DATA_SIZE);
    let delivered = 0;
    for (let round = 0; round < 400; round++) {
      const runs = sendVnet(hub, [randomSent(random, 0).vnet, randomSent(random, 0).vnet]);
      const count = 1 + random.below(8);
      let datagrams = 0;
      for (let i = 0; i < count; i++) {
        const run = runs[random.below(runs.length)];
        const at = slotOf(leaf, i) - 16;
        if (run && random.below(4)) core.u8.set(run.bytes, at);
        else core.u8.set(noise.subarray(random.below(65_000)), at);
        const whole = run?.bytes.length ?? 1000;
        const lengths = [whole, random.below(SLOT_DATA_SIZE + 17), random.below(200), SLOT_DATA_SIZE + 16];
        const length = lengths[random.below(4)];
        const own = run?.segment ?? 0;
        const near = own + random.below(3) - 1;
        const segments = [own, own, near, random.below(2000), random.u32(), 1 + random.below(64)];
        const segment = segments[random.below(6)] >>> 0;
        if (random.below(3) === 0) core.u8[at + random.below(Math.max(1, length))] ^= 1 << random.below(8);
        const flags = [0, 0, 0, IN_TRUNCATED, random.u32()][random.below(5)];
        putIn(leaf, i, at, length, segment, flags);
        const pieces = segment && segment < length ? Math.ceil(length / segment) : 1;
        datagrams += pieces > DELIVER_MAX ? 1 : pieces;
      }
      core.exports.deviceSetOffload(random.below(4));
      const before = counted();
      for (let first = 0; first < count; ) {
        leaf.prepare();
        const next = core.exports.deviceReceive(first, count);
        assert.ok(next > first && next <= count, `deviceReceive(${first}, ${count}): ${next}`);
        first = next;
        assert.ok(core.deliverCount <= DELIVER_MAX, `${core.deliverCount} DELIVER records`);
        delivered += takeDelivered(core.view, core.base, core.slots, core.slots + SLOTS_SIZE).length;
      }
      assert.equal(counted() - before, datagrams);
      leaf.service();
    }
    core.exports.deviceSetOffload(3);
    assert.ok(delivered > 400, `only ${delivered} delivered`);
    const { vnet, packets } = superOf(to(random, 0, 1000), 50);
    assertDelivered(receiveRuns(leaf, sendVnet(hub, [vnet])), packets);
  });

  fuzz("random virtio headers and packets: no trap, every OUT record in the slots, every message authentic", () => {
    const random = new Stream(31, "send");
    const { core } = hub;
    const noise = random.bytes(SLOT_DATA_SIZE);
    let messages = 0;
    for (let round = 0; round < 300; round++) {
      const count = 1 + random.below(10);
      for (let i = 0; i < count; i++) {
        const at = slotOf(hub, i);
        const { vnet } = randomSent(random, 0);
        let { length } = vnet.packet;
        core.u8.set(vnet.packet, at);
        core.u8.set(vnet.header, at - 10);
        const kind = random.below(5);
        if (kind === 0) core.u8.set(noise.subarray(random.below(60_000)), at);
        if (kind === 1) length = random.below(SLOT_DATA_SIZE + 1);
        for (let edits = kind <= 2 ? 1 + random.below(3) : 0; edits > 0; edits--) {
          core.u8[at - 10 + random.below(80)] = random.below(256);
        }
        if (kind === 3) core.view.setUint16(at - 10 + 4, 1 + random.below(30), true);
        putIn(hub, i, at, length, random.u32(), random.below(6) ? IN_VNET : 0);
      }
      hub.prepare();
      const runs = takeRuns(hub, core.exports.deviceSend(count));
      for (const run of runs) {
        const bytes = datagramsOf(run);
        messages += bytes.length;
        for (const it of bytes) assert.deepEqual([it[0], it[1], it[2], it[3], it.length >= 32], [4, 0, 0, 0, true]);
      }
      const tags = leaf.drops(DROP_BAD_TAG);
      receiveRuns(leaf, runs);
      assert.equal(leaf.drops(DROP_BAD_TAG), tags, "a message that does not open");
    }
    assert.ok(messages > 10_000, `only ${messages} messages`);
  });

  fuzz("no random bytes left, more packets than records: refused before anything is done", () => {
    const { core } = hub;
    hub.prepare();
    core.view.setUint32(core.base + THREAD_RANDOM_LEFT, 3, true);
    assert.equal(core.exports.deviceSend(1), -8);
    core.view.setUint32(core.base + THREAD_RANDOM_LEFT, THREAD_RANDOM_SIZE, true);
    assert.equal(core.exports.deviceSend(IN_MAX + 1), -5);
    assert.equal(core.exports.deviceReceive(0, IN_MAX + 1), -5);
    assert.equal(core.exports.deviceReceive(2, 1), -5);
  });

  fuzz.run();
}
