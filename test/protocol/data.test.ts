// Data messages, both ways: lengths, padding, the inner packet against its header and its peer's allowed IPs, staging,
// runs of datagrams, and what is not a message at all. §5.4.6, §6.4; the kernel's send.c and receive.c.
import assert from "node:assert/strict";
import { suite } from "uvu";
import { builds } from "../sim/builds.ts";
import { openPair, openSession, openStranger } from "../sim/pair.ts";
import { checksum, ipv4, ipv6 } from "../../host/simulator/packet.ts";
import { DATA_OVERHEAD, KEEPALIVE_BYTES, MS, SECOND, STAGED_PACKETS } from "../sim/paper.ts";
import { concat, openData, readU32, sealData } from "../sim/reference.ts";
import { Simulator } from "../../host/simulator/simulator.ts";

for (const build of builds) {
  const test = suite(`data (${build})`);

  test("a packet is padded to 16 bytes with zeros, and never past the MTU", () => {
    const { a, stranger } = openStranger(build);
    const keys = stranger.initiate();
    stranger.tell(stranger.data(keys, 0n));
    for (const [mtu, length, padded] of [
      [1420, 20, 32], [1420, 32, 32], [1420, 33, 48], [1420, 1408, 1408], [1420, 1409, 1420], [1420, 1419, 1420],
      [1420, 1420, 1420], [1500, 1420, 1424], [1283, 1281, 1283], [0, 1409, 1424], [0, 1421, 1424],
      // Past the MTU: only the last unit is looked at, as in the kernel.
      [1420, 1421, 1420 + 16], [1420, 2840, 2840], [1420, 2841, 2840 + 16], [100, 199, 200],
    ]) {
      a.setMtu(mtu);
      const packet = ipv4(a.inner, stranger.inner, length, 0xff);
      a.send(packet);
      const message = stranger.heard("data").bytes;
      assert.equal(message.length, padded + DATA_OVERHEAD, `MTU ${mtu}, ${length} bytes`);
      const { plain } = openData(keys, message);
      assert.deepEqual(plain.subarray(0, length), packet);
      assert.deepEqual(plain.subarray(length), new Uint8Array(padded - length));
    }
  });

  test("every length from 20 to 1500 passes as it was, IPv4 and IPv6", () => {
    const sim = new Simulator({ build, faults: { delay: 0 } });
    const [a, b] = [sim.node(), sim.node()];
    const [bAtA, aAtB] = sim.connect(a, b);
    a.allow(bAtA, "fd00::2/128");
    b.allow(aAtB, "fd00::1/128");
    a.handshake(bAtA);
    sim.run(MS);
    const sent: Uint8Array[] = [];
    for (let length = 20; length <= 1500; length++) {
      const packets = [ipv4(a.inner, b.inner, length, length)];
      if (length >= 40) packets.push(ipv6("fd00::1", "fd00::2", length, length));
      a.send(...packets);
      sent.push(...packets);
    }
    sim.run(MS);
    const received = b.delivered!.map((it) => it.packet);
    assert.equal(received.length, sent.length);
    for (let i = 0; i < sent.length; i++) assert.deepEqual(received[i], sent[i]);
    assert.deepEqual(b.drops(), {});
  });

  test("the longest packet whose message, padded, fits a UDP datagram passes; the next longer is refused", () => {
    const { sim, a, b, data } = openSession(build);
    a.setMtu(0);
    data(a, 65_456);
    data(a, 65_457);
    data(a, 65_472);
    data(a, 65_473);
    sim.run(20 * MS);
    assert.deepEqual(b.delivered!.map((it) => it.packet.length), [65_456, 65_457, 65_472]);
    assert.equal(a.drops("out_too_long"), 1);
    for (const { bytes } of sim.wire.of("data", a.address)) assert.equal(bytes.length <= 65_507, true);
  });

  test("what has no peer, is no IP, or has nowhere to go is dropped with its reason", () => {
    const { sim, a, b, bAtA } = openPair(build);
    const nowhere = a.addPeer(sim.stream("nowhere").bytes(32), { allowedIps: ["10.5.0.0/16"] });
    a.send(
      ipv4(a.inner, "10.77.0.1"), ipv6("fd00::1", "fd00::2"), new Uint8Array(19).fill(0x45), new Uint8Array(64),
      Uint8Array.of(0x60, ...new Uint8Array(38)), ipv4(a.inner, "10.5.1.1"),
    );
    assert.deepEqual(a.drops(), { out_no_route: 2, out_not_ip: 3, out_no_endpoint: 1 });
    assert.deepEqual([a.info(nowhere).staged, a.info(bAtA).staged], [0, 0]);
    a.down();
    a.send(ipv4(a.inner, b.inner));
    assert.equal(a.drops("out_device_down"), 1);
    assert.deepEqual(sim.wire.sent, []);
  });

  test("the inner length: what the header says is delivered, more than there is refused", () => {
    const { a, stranger } = openStranger(build);
    const six = "fd00::9";
    a.allow(stranger.peer, `${six}/128`);
    const keys = stranger.initiate();
    let counter = 0n;
    /** Tells `plain` under the session. @returns the length that came out, or the reason it did not */
    const tell = (plain: Uint8Array): number | string => {
      const before = a.drops("bad_inner");
      const count = a.delivered!.length;
      stranger.tell(sealData(keys, counter++, plain));
      if (a.drops("bad_inner") > before) return "bad_inner";
      assert.equal(a.delivered!.length, count + 1);
      return a.delivered![count].packet.length;
    };
    const claim4 = (claimed: number, length: number): Uint8Array => {
      const packet = ipv4(stranger.inner, a.inner, Math.max(length, 20)).slice(0, length);
      new DataView(packet.buffer).setUint16(2, claimed);
      return packet;
    };
    const claim6 = (claimed: number, length: number): Uint8Array => {
      const packet = ipv6(six, "fd00::1", Math.max(length, 40)).slice(0, length);
      new DataView(packet.buffer).setUint16(4, claimed);
      return packet;
    };
    assert.equal(tell(claim4(20, 20)), 20);
    assert.equal(tell(claim4(20, 48)), 20);
    assert.equal(tell(claim4(48, 48)), 48);
    assert.equal(tell(claim4(37, 48)), 37);
    for (const claimed of [0, 19, 49, 65535]) assert.equal(tell(claim4(claimed, 48)), "bad_inner", `IPv4, ${claimed}`);
    assert.equal(tell(claim4(16, 19)), "bad_inner");
    assert.equal(tell(claim6(0, 40)), 40);
    assert.equal(tell(claim6(8, 48)), 48);
    assert.equal(tell(claim6(3, 48)), 43);
    for (const claimed of [9, 65535, 65496]) assert.equal(tell(claim6(claimed, 48)), "bad_inner", `IPv6, ${claimed}`);
    assert.equal(tell(claim6(0, 39)), "bad_inner");
    for (const version of [0, 1, 5, 7, 15]) {
      const packet = claim4(48, 48);
      packet[0] = (version << 4) | 5;
      assert.equal(tell(packet), "bad_inner", `version ${version}`);
    }
    assert.equal(tell(new Uint8Array(1)), "bad_inner");
    assert.equal(a.info(stranger.peer).drops, a.drops("bad_inner"));
  });

  test("a refused inner source: the packet is dropped, yet it was authentic: the endpoint roams, timers move", () => {
    const { sim, a, stranger } = openStranger(build);
    const keys = stranger.initiate();
    stranger.tell(stranger.data(keys, 0n));
    sim.run(20 * SECOND);
    const before = a.info(stranger.peer);
    const elsewhere = "203.0.113.7:777";
    for (const [counter, packet] of [
      ipv4("10.9.9.8", a.inner), ipv4(a.inner, a.inner), ipv6("fd00::9", "fd00::1"),
    ].entries()) {
      stranger.tell(stranger.data(keys, BigInt(counter) + 1n, packet), elsewhere);
    }
    assert.equal(a.delivered!.length, 1);
    assert.deepEqual(a.drops(), { bad_source: 3 });
    const after = a.info(stranger.peer);
    assert.equal(after.endpoint, elsewhere);
    assert.equal(after.drops, 3);
    assert.equal(after.rxBytes, before.rxBytes, "what was refused is not counted as received");
    assert.equal(a.timer(stranger.peer, "sendKeepalive"), sim.now() + 10 * SECOND);
  });

  test("crypto-key routing: the longest prefix decides whose an address is, and a moved prefix moves at once", () => {
    const { sim, a, stranger } = openStranger(build);
    const keys = stranger.initiate();
    const other = a.addPeer(sim.stream("other").bytes(32), { allowedIps: ["10.9.0.0/16"] });
    stranger.tell(stranger.data(keys, 0n));
    assert.equal(a.delivered!.length, 1);
    stranger.tell(stranger.data(keys, 1n, ipv4("10.9.9.10", a.inner)));
    assert.equal(a.drops("bad_source"), 1);
    a.allow(other, `${stranger.inner}/32`);
    stranger.tell(stranger.data(keys, 2n));
    assert.equal(a.drops("bad_source"), 2);
    a.allow(stranger.peer, `${stranger.inner}/32`);
    stranger.tell(stranger.data(keys, 3n));
    assert.equal(a.delivered!.length, 2);
  });

  test("a keepalive is 32 bytes, and delivers nothing", () => {
    const { a, stranger } = openStranger(build);
    const keys = stranger.initiate();
    const keepalive = sealData(keys, 0n, new Uint8Array(0));
    assert.equal(keepalive.length, KEEPALIVE_BYTES);
    const { rxBytes } = a.info(stranger.peer);
    stranger.tell(keepalive);
    assert.equal(a.info(stranger.peer).sessions, 2, "but confirms the session");
    assert.equal(a.info(stranger.peer).rxBytes, rxBytes + 32);
    a.keepalive(stranger.peer);
    const { plain } = openData(keys, stranger.heard("keepalive").bytes);
    assert.equal(plain.length, 0);
    assert.deepEqual(a.delivered, []);
    assert.deepEqual(a.drops(), {});
    assert.equal(a.timer(stranger.peer, "sendKeepalive"), Infinity, "and asks for none back");
  });

  test("ECN going out: ECT is copied, CE becomes ECT(0), the DSCP stays inside", () => {
    const { sim, a, b, bAtA } = openSession(build);
    a.allow(bAtA, "fd00::2/128");
    for (const [tos, outer] of [[0, 0], [1, 1], [2, 2], [3, 2], [0xfc, 0], [0xb9, 1], [0xba, 2], [0xbb, 2]]) {
      sim.wire.sent = [];
      a.send(ipv4(a.inner, b.inner, 64, 0, tos), ipv6("fd00::1", "fd00::2", 64, 0, tos));
      assert.deepEqual(sim.wire.sent.map((it) => it.tos), [outer, outer], `TOS ${tos}`);
    }
  });

  test("ECN going out: staged packets are marked like others", () => {
    const { sim, a, b } = openPair(build);
    a.send(ipv4(a.inner, b.inner, 64, 0, 3), ipv4(a.inner, b.inner, 64, 0, 1));
    sim.run(50 * MS);
    assert.deepEqual(sim.wire.of("data").map((it) => it.tos), [2, 1]);
  });

  test("ECN coming in: CE outside marks a packet that is capable of it, its checksum right; nothing else does", () => {
    const { a, stranger } = openStranger(build);
    a.allow(stranger.peer, "fd00::9/128");
    const keys = stranger.initiate();
    let counter = 0n;
    const through = (packet: Uint8Array, tos: number): Uint8Array => {
      const bytes = stranger.data(keys, counter++, packet);
      a.receive({ bytes, from: stranger.address, tos });
      return a.delivered!.at(-1)!.packet;
    };
    for (let inner = 0; inner < 256; inner += 5) {
      for (const outer of [0, 1, 2, 3, 0xff, 0xfc]) {
        const ce = (outer & 3) === 3 && (inner & 3) !== 0;
        const four = through(ipv4(stranger.inner, a.inner, 64, 1, inner), outer);
        assert.equal(four[1], ce ? inner | 3 : inner);
        assert.equal(checksum(four.subarray(0, 20)), 0);
        const six = through(ipv6("fd00::9", "fd00::1", 64, 1, inner), outer);
        assert.deepEqual(six, ipv6("fd00::9", "fd00::1", 64, 1, ce ? inner | 3 : inner));
      }
    }
  });

  test("staged packets leave in order when the session is there, and the oldest of 129 is dropped and counted", () => {
    const { sim, a, b, bAtA, data } = openPair(build);
    const sent = Array.from({ length: STAGED_PACKETS + 1 }, (_, i) => data(a, 20 + ((i * 37) % 3000)));
    assert.equal(a.info(bAtA).staged, STAGED_PACKETS);
    assert.deepEqual(a.drops(), { out_staged_overflow: 1 });
    sim.run(SECOND);
    assert.deepEqual(b.delivered!.map((it) => it.packet), sent.slice(1));
    assert.equal(a.info(bAtA).staged, 0);
    assert.equal(sim.wire.of("keepalive", a.address).length, 0, "no keepalive where there is data");
  });

  test("staging: packets of one peer do not wait for another", () => {
    const sim = new Simulator({ build });
    const [a, b, c] = [sim.node(), sim.node(), sim.node()];
    sim.connect(a, b);
    sim.connect(a, c);
    sim.wire.hook = (datagram) => (datagram.to === b.address ? [] : undefined);
    for (let i = 0; i < 10; i++) a.send(ipv4(a.inner, b.inner), ipv4(a.inner, c.inner));
    sim.run(SECOND);
    assert.equal(c.delivered!.length, 10);
    assert.equal(a.info(0).staged, 10);
  });

  test("a persistent keepalive that had nowhere to go begins when an endpoint is set", () => {
    const { sim, a } = openPair(build);
    const late = sim.node();
    const peer = late.addPeer(a.publicKey, { allowedIps: [`${a.inner}/32`] });
    const back = a.addPeer(late.publicKey, { allowedIps: [`${late.inner}/32`] });
    late.setKeepalive(peer, 25);
    sim.run(60 * SECOND);
    assert.deepEqual(sim.wire.sent, []);
    late.setEndpoint(peer, a.address);
    sim.run(SECOND);
    assert.equal(late.info(peer).sessions, 2);
    assert.equal(a.info(back).endpoint, late.address);
    sim.run(25 * SECOND);
    assert.equal(sim.wire.of("keepalive", late.address).length, 2);
    // Set again, or moved: nothing more is sent for it.
    late.setEndpoint(peer, a.address);
    late.setEndpoint(peer, "192.0.2.77:1");
    assert.equal(sim.wire.of("keepalive", late.address).length, 2);
  });

  test("a run of datagrams in one record: the bad ones in it cost only themselves", () => {
    const { a, stranger } = openStranger(build);
    const keys = stranger.initiate();
    const message = (counter: bigint, fill: number): Uint8Array =>
      stranger.data(keys, counter, ipv4(stranger.inner, a.inner, 64, fill));
    const flipped = message(2n, 2);
    flipped[40] ^= 1;
    const stray = message(3n, 3);
    stray[4] ^= 1;
    const unknown = message(9n, 9);
    unknown[0] = 9;
    const run = [
      message(0n, 0), message(1n, 1), flipped, message(1n, 1), stray, unknown, message(2n, 2), message(5n, 5),
      message(4n, 4).subarray(0, 31),
    ];
    a.receive({ bytes: concat(...run), from: stranger.address, segment: 96 });
    assert.deepEqual(a.delivered!.map((it) => it.packet[20]), [0, 1, 2, 5]);
    assert.deepEqual(a.drops(), { bad_tag: 1, replayed: 1, unknown_index: 1, bad_type: 1, bad_length: 1 });
    const { received, consumed } = a.counts();
    assert.equal(received, run.length + 1, "and the initiation");
    assert.equal(consumed, 5);
  });

  test("a run that ends with a shorter datagram, and one that is a single datagram after all", () => {
    const { a, stranger } = openStranger(build);
    const keys = stranger.initiate();
    const message = (counter: bigint, length: number): Uint8Array =>
      stranger.data(keys, counter, ipv4(stranger.inner, a.inner, length, 1));
    const last = message(2n, 20);
    a.receive({ bytes: concat(message(0n, 64), message(1n, 64), last), from: stranger.address, segment: 96 });
    a.receive({ bytes: message(3n, 64), from: stranger.address, segment: 96 });
    a.receive({ bytes: message(4n, 64), from: stranger.address, segment: 2000 });
    assert.deepEqual(a.delivered!.map((it) => it.packet.length), [64, 64, 20, 64, 64]);
    assert.deepEqual(a.drops(), {});
  });

  test("a whole table of records in one call, runs of 64 in each: none is lost for want of records", () => {
    const { a, stranger } = openStranger(build);
    const keys = stranger.initiate();
    const records: Uint8Array[] = [];
    let counter = 0n;
    for (let i = 0; i < 20; i++) {
      const run = Array.from({ length: 64 }, () => stranger.data(keys, counter++, ipv4(stranger.inner, a.inner, 20)));
      records.push(concat(...run));
    }
    a.receive(...records.map((bytes) => ({ bytes, from: stranger.address, segment: 64 })));
    assert.equal(a.delivered!.length, 20 * 64);
    assert.deepEqual(a.drops(), {});
  });

  test("truncated, oversized and random datagrams are refused, counted, and change nothing", () => {
    const { sim, a, b, data } = openSession(build);
    sim.run(6 * SECOND);
    a.handshake(0);
    sim.run(100 * MS);
    data(a);
    sim.run(100 * MS);
    const messages = ["initiation", "response", "data", "keepalive"].map((type) => sim.wire.of(type).at(-1)!);
    const cookie = new Uint8Array(64);
    cookie[0] = 3;
    const before = b.snapshot();
    let told = 0;
    const tell = (bytes: Uint8Array): void => {
      b.receive({ bytes, from: "203.0.113.4:4" });
      told++;
    };
    for (const bytes of [...messages.map((it) => it.bytes), cookie]) {
      for (let length = 0; length < bytes.length; length++) tell(bytes.subarray(0, length));
      for (const more of [1, 15, 16, 1000]) tell(concat(bytes, new Uint8Array(more)));
    }
    const random = sim.stream("random datagrams");
    for (let i = 0; i < 2000; i++) tell(random.bytes(random.below(200)));
    for (let i = 0; i < 2000; i++) {
      const bytes = random.bytes(random.below(200) + 8);
      bytes.set([1 + random.below(4), 0, 0, 0]);
      if (i & 1) bytes.set(messages[2].bytes.subarray(4, 8), 4); // an index that is somebody's
      tell(bytes);
    }
    b.receive({ bytes: messages[2].bytes, from: a.address, truncated: true });
    told++;
    const refused = Object.values(b.drops()).reduce((sum, count) => sum + count, 0);
    assert.equal(refused, told, JSON.stringify(b.drops()));
    assert.deepEqual(b.snapshot(), before);
    for (const reason of ["truncated", "bad_length", "bad_type", "bad_mac1", "unknown_index", "bad_tag"]) {
      assert.notEqual(b.drops(reason), 0, reason);
    }
  });

  test("counters of bytes and packets: what the kernel would show after ten pings", () => {
    const { sim, a, b, bAtA, aAtB, data } = openPair(build);
    for (let i = 0; i < 10; i++) {
      data(a, 84);
      sim.run(50 * MS);
      data(b, 84);
      sim.run(50 * MS);
    }
    const there = a.info(bAtA);
    const here = b.info(aAtB);
    assert.equal(readU32(sim.wire.sent![0].bytes, 0), 1);
    assert.equal(there.txBytes, 148 + 10 * 128);
    assert.equal(there.rxBytes, 92 + 10 * 128);
    assert.deepEqual([here.txBytes, here.rxBytes], [there.rxBytes, there.txBytes]);
    assert.deepEqual([there.txPackets, there.rxPackets, here.txPackets, here.rxPackets], [11, 11, 11, 11]);
  });

  test.run();
}
