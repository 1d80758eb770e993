// Handshakes between two cores, and between a core and the reference implementation, on a virtual clock: §5.4, §6.2.
import assert from "node:assert/strict";
import { suite } from "uvu";
import type { SimNode } from "../../host/simulator/node.ts";
import { builds } from "../sim/builds.ts";
import { openPair, openSession, openStranger, Stranger } from "../sim/pair.ts";
import { ipv4 } from "../../host/simulator/packet.ts";
import {
  INITIATION_BYTES, INITIATION_GAP, INITIATIONS_IN_ALL, KEEPALIVE_BYTES, MS, REKEY_TIMEOUT, RESPONSE_BYTES, SECOND,
} from "../sim/paper.ts";
import { addMacs, createInitiation, openData, publicKeyOf, readU32, sealData, tai64n } from "../sim/reference.ts";
import { Simulator } from "../../host/simulator/simulator.ts";

// The seven points of low order and their other encodings that X25519 takes (RFC 7748 §6.1, and the contributory
// behaviour list of the curve's designers): 0, 1, two of order eight, p - 1, p, p + 1.
const LOW_ORDER = [
  "0000000000000000000000000000000000000000000000000000000000000000",
  "0100000000000000000000000000000000000000000000000000000000000000",
  "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
  "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
  "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
  "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
  "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
].map((hex) => Uint8Array.from(Buffer.from(hex, "hex")));

for (const build of builds) {
  const test = suite(`handshake (${build})`);

  test("sizes, types and reserved bytes of the messages", () => {
    const { sim, a, b, data } = openPair(build);
    data(a);
    sim.run(100 * MS);
    b.keepalive(0);
    sim.run(100 * MS);
    const [initiation, response, packet, keepalive] = sim.wire.sent!.map((it) => it.bytes);
    assert.equal(initiation.length, INITIATION_BYTES);
    assert.equal(response.length, RESPONSE_BYTES);
    assert.equal(packet.length, 64 + 32);
    assert.equal(keepalive.length, KEEPALIVE_BYTES);
    assert.deepEqual(sim.wire.sent!.map((it) => readU32(it.bytes, 0)), [1, 2, 4, 4]);
    assert.deepEqual([...initiation.subarray(132)], new Array(16).fill(0), "no cookie: mac2 is zero");
    // AF41 on handshakes, nothing on a packet without ECN.
    assert.deepEqual(sim.wire.sent!.map((it) => it.tos), [0x88, 0x88, 0, 0]);
  });

  for (const presharedKey of [undefined, new Uint8Array(32).fill(7)]) {
    const name = presharedKey ? " with a preshared key" : "";

    test(`as initiator${name}: the reference responder agrees on everything`, () => {
      const { sim, a, stranger } = openStranger(build, { presharedKey });
      const packet = ipv4(a.inner, stranger.inner, 100, 9);
      a.send(packet);
      const { initiator, timestamp } = stranger.consumed();
      assert.deepEqual(initiator, a.publicKey);
      const wall = Math.floor((sim.now() + a.wallOffset) / SECOND);
      assert.deepEqual(timestamp.subarray(0, 8), tai64n(wall, 0).subarray(0, 8));
      const keys = stranger.respond();
      assert.equal(a.eventsOf("handshake_complete").length, 1);
      const { counter, plain } = openData(keys, stranger.heard("data").bytes);
      assert.equal(counter, 0n);
      assert.deepEqual(plain.subarray(0, 100), packet);
      assert.deepEqual([...plain.subarray(100)], new Array(12).fill(0));
      const back = ipv4(stranger.inner, a.inner, 51, 3);
      stranger.tell(stranger.data(keys, 0n, back));
      assert.deepEqual(a.delivered!.map((it) => it.packet), [back]);
    });

    test(`as responder${name}: the reference initiator agrees on everything`, () => {
      const { a, stranger } = openStranger(build, { presharedKey });
      const keys = stranger.initiate();
      const packet = ipv4(stranger.inner, a.inner, 80, 5);
      stranger.tell(stranger.data(keys, 0n, packet));
      assert.deepEqual(a.delivered!.map((it) => it.packet), [packet]);
      const back = ipv4(a.inner, stranger.inner, 33, 6);
      a.send(back);
      const { counter, plain } = openData(keys, stranger.heard("data").bytes);
      assert.equal(counter, 0n);
      assert.deepEqual(plain.subarray(0, 33), back);
      assert.deepEqual(a.drops(), {});
    });
  }

  test("both sides initiate at once, and converge on sessions that carry data both ways", () => {
    for (let seed = 1; seed <= 5; seed++) {
      const { sim, a, b, bAtA, aAtB, data } = openPair(build, {}, seed);
      data(a);
      data(b);
      assert.equal(sim.wire.of("initiation").length, 2);
      assert.ok(
        sim.runUntil(() => a.delivered!.length === 1 && b.delivered!.length === 1, 20 * SECOND),
        `seed ${seed}: what was staged on both sides arrives`,
      );
      data(a);
      data(b);
      sim.run(SECOND);
      assert.equal(a.delivered!.length, 2);
      assert.equal(b.delivered!.length, 2);
      assert.equal(a.info(bAtA).sessions & 2, 2);
      assert.equal(b.info(aAtB).sessions & 2, 2);
      // Both use one session: what one sends to is what the other listens at.
      assert.equal(a.session(bAtA, "current")!.remote, b.session(aAtB, "current")!.local);
      assert.equal(b.session(aAtB, "current")!.remote, a.session(bAtA, "current")!.local);
    }
  });

  test("a late response to a superseded initiation is refused, the one to the newest accepted", () => {
    const { sim, a, b, bAtA, data } = openPair(build);
    const responses: Parameters<typeof sim.wire.inject>[0][] = [];
    sim.wire.hook = (datagram) => {
      if (datagram.bytes[0] !== 2) return;
      responses.push(datagram);
      return [];
    };
    data(a);
    assert.equal(sim.runUntil(() => responses.length === 2, 12 * SECOND), true);
    sim.wire.hook = undefined;
    const before = a.snapshot();
    sim.wire.inject(responses[0]);
    sim.run(MS);
    assert.deepEqual(a.drops(), { unknown_index: 1 });
    assert.deepEqual(a.snapshot(), before);
    sim.wire.inject(responses[1]);
    sim.run(100 * MS);
    assert.equal(a.info(bAtA).sessions, 2);
    assert.equal(b.delivered!.length, 1);
    // And once more: the session is there, nobody waits for it.
    sim.wire.inject(responses[1]);
    sim.run(MS);
    assert.deepEqual(a.drops(), { unknown_index: 1, unexpected_response: 1 });
  });

  test("another preshared key: the response is refused with its reason, and no data passes", () => {
    const { sim, a, b, bAtA, aAtB, data } = openPair(build, { presharedKey: new Uint8Array(32).fill(1) });
    b.setPresharedKey(aAtB, new Uint8Array(32).fill(2));
    data(a);
    sim.run(SECOND);
    assert.deepEqual(a.drops(), { bad_handshake: 1 });
    assert.equal(a.info(bAtA).drops, 1);
    assert.equal(a.info(bAtA).sessions, 0);
    assert.equal(a.info(bAtA).lastHandshake, 0);
    assert.equal(b.info(aAtB).sessions, 4, "what b derived stays unconfirmed");
    assert.equal(b.info(aAtB).lastHandshake, 0);
    b.setPresharedKey(aAtB, new Uint8Array(32).fill(1));
    assert.ok(sim.runUntil(() => b.delivered!.length === 1, 6 * SECOND), "right again at the next attempt");
  });

  test("key confirmation: the responder sends nothing under a session that the initiator has not used", () => {
    const { sim, a, b, aAtB, data } = openPair(build);
    let held: Parameters<typeof sim.wire.inject>[0] | undefined;
    sim.wire.hook = (datagram) => {
      if (datagram.from !== a.address || datagram.bytes[0] !== 4) return;
      held ??= datagram;
      return [];
    };
    data(a);
    sim.run(30 * MS);
    assert.ok(held, "a confirmed at once");
    assert.equal(b.info(aAtB).sessions, 4);
    data(b);
    data(b);
    sim.run(SECOND);
    assert.equal(sim.wire.of("data", b.address).length, 0);
    assert.equal(sim.wire.of("keepalive", b.address).length, 0);
    assert.equal(b.info(aAtB).staged, 2);
    assert.equal(b.info(aAtB).lastHandshake, 0, "and the handshake is not complete");
    sim.wire.inject(held);
    sim.run(20 * MS);
    assert.equal(b.info(aAtB).sessions, 2);
    assert.equal(b.eventsOf("session_confirmed").length, 1);
    assert.equal(a.delivered!.length, 2, "what waited goes out with the confirmation");
    assert.notEqual(b.info(aAtB).lastHandshake, 0);
  });

  test("the initiator confirms at once: with what is staged, or else with a keepalive", () => {
    for (const staged of [true, false]) {
      const { sim, a, b, bAtA, data } = openPair(build);
      if (staged) data(a);
      else a.handshake(bAtA);
      sim.run(20 * MS);
      const [first] = sim.wire.sent!.filter((it) => it.from === a.address && it.bytes[0] === 4);
      assert.equal(first.bytes.length, staged ? 96 : KEEPALIVE_BYTES);
      assert.equal(first.time, sim.wire.of("response", b.address)[0].time + 10 * MS);
    }
  });

  test("a replayed initiation is refused, though its session is long gone, and moves nothing", () => {
    const { sim, a, b, aAtB } = openSession(build);
    for (let i = 0; i < 2; i++) {
      sim.run(6 * SECOND);
      a.handshake(0);
    }
    sim.run(SECOND);
    const initiations = sim.wire.of("initiation", a.address);
    assert.equal(initiations.length, 2);
    const before = b.snapshot();
    for (const { bytes } of initiations) b.receive({ bytes, from: "203.0.113.9:9" });
    assert.deepEqual(b.drops(), { old_timestamp: initiations.length });
    assert.equal(b.info(aAtB).drops, initiations.length);
    assert.deepEqual(b.snapshot(), before);
  });

  test("a stamp equal to the newest or before it is refused, one a nanosecond later passes", () => {
    const { sim, a, stranger } = openStranger(build);
    const at = (sec: number, nsec: number): void => {
      stranger.tell(stranger.initiation(tai64n(sec, nsec)).message);
      sim.run(SECOND);
    };
    at(1_900_000_000, 500);
    assert.equal(a.eventsOf("response_sent").length, 1);
    at(1_900_000_000, 500);
    at(1_900_000_000, 499);
    at(1_899_999_999, 999_999_999);
    assert.deepEqual(a.drops(), { old_timestamp: 3 });
    at(1_900_000_000, 501);
    at(1_900_000_001, 0);
    assert.equal(a.eventsOf("response_sent").length, 3);
  });

  test("one peer's initiations are taken 20 ms apart", () => {
    const { sim, a, stranger } = openStranger(build);
    const tell = (): void => stranger.tell(stranger.initiation().message);
    tell();
    sim.run(INITIATION_GAP - 1);
    tell();
    assert.deepEqual(a.drops(), { handshake_flood: 1 });
    sim.run(1);
    tell();
    assert.equal(a.eventsOf("response_sent").length, 2);
    assert.deepEqual(a.drops(), { handshake_flood: 1 }, "the refused one has not moved the gap");
  });

  test("stamps of ours always rise: with the clock standing, and with the clock set back by years", () => {
    const { sim, a, stranger } = openStranger(build);
    const stamps: string[] = [];
    for (let i = 0; i < 12; i++) {
      if (i === 4) a.wallOffset -= 3 * 365 * 86400 * SECOND;
      if (i === 8) a.wallOffset += 5 * 365 * 86400 * SECOND;
      a.handshake(stranger.peer);
      const { timestamp } = stranger.consumed();
      stamps.push(Buffer.from(timestamp).toString("hex"));
      assert.equal(Buffer.from(timestamp).readUInt32BE(8) & 0xffffff, 0, "rounded to 2^24 ns");
      assert.ok(Buffer.from(timestamp).readUInt32BE(8) < SECOND, "nanoseconds");
      sim.run(REKEY_TIMEOUT - 1);
      a.wallOffset -= REKEY_TIMEOUT; // the wall stands still
      sim.run(400 * MS);
      a.wallOffset -= 400 * MS - 1;
    }
    assert.deepEqual(stamps, [...new Set(stamps)].sort(), "rising, and none twice");
  });

  test("an unknown key, and a device without one", () => {
    const { sim, a } = openStranger(build);
    const other = new Simulator({ build, seed: 2 });
    const twin = new Stranger(other, other.node());
    const privateKey = other.stream("x").bytes(32);
    const them = { privateKey, publicKey: publicKeyOf(privateKey) };
    const unknown = createInitiation(them, a.publicKey, twin.ephemeral(), 1, tai64n(2_000_000_000, 0)).message;
    const before = a.snapshot();
    a.receive({ bytes: unknown, from: "203.0.113.9:9" });
    assert.deepEqual(a.drops(), { unknown_peer: 1 });
    assert.deepEqual(a.snapshot(), before);
    const keyless = sim.node({ key: false });
    keyless.addPeer(a.publicKey, { endpoint: a.address, allowedIps: ["10.0.0.1/32"], keepalive: 1 });
    keyless.receive({ bytes: unknown, from: "203.0.113.9:9" });
    keyless.send(ipv4("10.0.0.2", "10.0.0.1"));
    sim.run(60 * SECOND);
    assert.deepEqual(keyless.drops(), { no_private_key: 1 });
    assert.equal(sim.wire.sent!.length, 0);
  });

  test("peers with keys of low order never get a packet, not even with keepalive 1", () => {
    const sim = new Simulator({ build });
    const a = sim.node({ maxPeers: 8 });
    LOW_ORDER.forEach((key, i) => {
      const peer = a.addPeer(key, { endpoint: `198.51.100.${i + 1}:1`, allowedIps: [`10.1.0.${i}/32`], keepalive: 1 });
      assert.equal(peer, i);
      a.send(ipv4(a.inner, `10.1.0.${i}`));
      a.handshake(peer);
    });
    sim.run(120 * SECOND);
    assert.deepEqual(sim.wire.sent, []);
    assert.equal(a.deadline, Infinity, "and no timer runs for them");
    // A new key of ours changes nothing about it.
    a.setPrivateKey(sim.stream("other").bytes(32));
    LOW_ORDER.forEach((_, i) => a.handshake(i));
    sim.run(120 * SECOND);
    assert.deepEqual(sim.wire.sent, []);
  });

  test("an ephemeral key of low order is refused, in initiation and response", () => {
    for (const point of LOW_ORDER) {
      const { a, stranger } = openStranger(build);
      const { message } = stranger.initiation();
      message.set(point, 8);
      addMacs(message, a.publicKey);
      const before = a.snapshot();
      stranger.tell(message);
      assert.deepEqual(a.drops(), { bad_handshake: 1 });
      assert.deepEqual(a.snapshot(), before);
      a.handshake(stranger.peer);
      const response = new Uint8Array(92);
      response.set([2, 0, 0, 0, 1, 2, 3, 4]);
      response.set(stranger.heard("initiation").bytes.subarray(4, 8), 8);
      response.set(point, 12);
      addMacs(response, a.publicKey);
      const waiting = a.snapshot();
      stranger.tell(response);
      assert.deepEqual(a.drops(), { bad_handshake: 2 });
      assert.deepEqual(a.snapshot(), waiting);
    }
  });

  test("our own messages, reflected, are refused and change nothing", () => {
    const { sim, a, b, data } = openPair(build);
    const reflect = (node: SimNode, type: string, reason: string): void => {
      const own = sim.wire.of(type, node.address).at(-1)!;
      const before = node.snapshot();
      const count = node.drops(reason);
      node.receive({ bytes: own.bytes, from: own.to });
      assert.equal(node.drops(reason), count + 1, `${type}: ${JSON.stringify(node.drops())}`);
      assert.deepEqual(node.snapshot(), before, type);
    };
    data(a);
    reflect(a, "initiation", "bad_mac1");
    sim.run(15 * MS);
    reflect(b, "response", "bad_mac1");
    sim.run(85 * MS);
    data(b);
    reflect(a, "data", "unknown_index");
    reflect(b, "data", "unknown_index");
  });

  test("a handshake that nobody answers: 20 initiations, each of its own, then what was staged is dropped", () => {
    const { sim, a, b, bAtA, data } = openPair(build);
    sim.wire.hook = () => [];
    for (let i = 0; i < 3; i++) data(a);
    sim.run(200 * SECOND);
    const initiations = sim.wire.of("initiation", a.address);
    assert.equal(initiations.length, INITIATIONS_IN_ALL);
    assert.equal(new Set(initiations.map((it) => readU32(it.bytes, 4))).size, INITIATIONS_IN_ALL, "a new index each");
    assert.equal(new Set(initiations.map((it) => it.bytes.subarray(8, 40).join())).size, INITIATIONS_IN_ALL, "and key");
    assert.deepEqual(a.drops(), { out_staged_purged: 3 });
    assert.equal(a.info(bAtA).staged, 0);
    assert.equal(a.eventsOf("handshake_given_up").length, 1);
    assert.deepEqual(a.eventsOf("initiation_sent").map((it) => it.argument), initiations.map((_, i) => i + 1));
    sim.wire.hook = undefined;
    data(a);
    sim.run(SECOND);
    assert.equal(b.delivered!.length, 1, "the next packet begins anew");
  });

  test("a sealed message of a session that is no more is refused by its index", () => {
    const { a, stranger } = openStranger(build);
    const keys = stranger.initiate();
    stranger.tell(sealData({ ...keys, remote: keys.remote ^ 1 }, 0n, new Uint8Array(0)));
    assert.deepEqual(a.drops(), { unknown_index: 1 });
  });

  test.run();
}
