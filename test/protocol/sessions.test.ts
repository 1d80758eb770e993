// A peer's three sessions over their lives: rekeys with packets under way, changes of keys and peers, the device going
// down, settings that are set again, and what is left in memory at the end. §6.1, §6.3; the kernel's noise.c,
// netlink.c.
import assert from "node:assert/strict";
import { suite } from "uvu";
import { EXISTS, NOT_FOUND, OWN_KEY } from "../../assembly/abi.ts";
import type { SimNode } from "../../host/simulator/node.ts";
import { builds } from "../sim/builds.ts";
import { forget, hold, openPair, openSession, openStranger, SESSION_AGE } from "../sim/pair.ts";
import { ipv4 } from "../../host/simulator/packet.ts";
import {
  JITTER_MAX, MS, REJECT_AFTER_TIME, REKEY_AFTER_TIME, REKEY_TIMEOUT, SECOND, ZERO_KEYS_TIME,
} from "../sim/paper.ts";
import { openData, publicKeyOf } from "../sim/reference.ts";
import { Simulator } from "../../host/simulator/simulator.ts";
import type { Datagram } from "../../host/simulator/wire.ts";

/** Keys as ChaCha20 has them in its state for packets that are not short: each word four times. */
function states(keys: Uint8Array[]): Uint8Array[] {
  return keys.flatMap((key) =>
    Array.from({ length: key.length >> 2 }, (_, i) => {
      const word = key.subarray(i * 4, i * 4 + 4);
      return Uint8Array.of(...word, ...word, ...word, ...word);
    }),
  );
}

/** All 16-byte pieces of keys, and their words in a cipher's state: what must not be left. */
function pieces(keys: Uint8Array[]): Uint8Array[] {
  const parts = keys.flatMap((key) => Array.from({ length: key.length - 15 }, (_, i) => key.subarray(i, i + 16)));
  return [...parts, ...states(keys)];
}

function sessionKeys(node: SimNode, peer: number): Uint8Array[] {
  return (["previous", "current", "next"] as const).flatMap((name) => {
    const session = node.session(peer, name);
    return session ? [session.sending, session.receiving] : [];
  });
}

for (const build of builds) {
  const test = suite(`sessions (${build})`);

  test("the previous session is usable during a rekey: what is under way arrives, whichever session sealed it", () => {
    const { sim, a, b, bAtA, aAtB, data } = openSession(build);
    sim.run(REKEY_AFTER_TIME);
    const held: Datagram[] = [];
    sim.wire.hook = (datagram) => {
      if (datagram.bytes[0] !== 4) return;
      held.push(datagram);
      return [];
    };
    data(a); // and the rekey begins
    data(b);
    sim.run(SECOND);
    // Confirmed by nobody: b listens at three sessions now, sends under the old one still.
    assert.equal(a.info(bAtA).sessions, 3);
    assert.equal(b.info(aAtB).sessions, 2 | 4);
    data(b);
    data(a); // under the new one
    const from = (node: SimNode): Datagram[] => held.filter((it) => it.from === node.address);
    assert.equal(from(b).length, 2);
    const localOfNew = a.session(bAtA, "current")!.local;
    assert.equal(from(b).every((it) => new DataView(it.bytes.buffer).getUint32(4, true) !== localOfNew), true);
    sim.wire.hook = undefined;
    for (const datagram of held.reverse()) sim.wire.inject(datagram);
    sim.run(SECOND);
    assert.equal(a.delivered!.length, 2);
    assert.equal(b.delivered!.length, 2);
    assert.equal(b.info(aAtB).sessions, 3);
    data(b);
    assert.equal(new DataView(sim.wire.of("data", b.address).at(-1)!.bytes.buffer).getUint32(4, true), localOfNew);
    assert.deepEqual([a.drops(), b.drops()], [{}, {}]);
  });

  test("no packet is lost over an hour of traffic both ways, through all rekeys", () => {
    const { sim, a, b, data } = openSession(build);
    let sent = 0;
    for (let second = 0; second < 3600; second += 2) {
      data(a);
      data(b);
      sent++;
      sim.run(2 * SECOND);
    }
    assert.equal(a.delivered!.length, sent);
    assert.equal(b.delivered!.length, sent);
    assert.deepEqual([a.drops(), b.drops()], [{}, {}]);
    const began = sim.wire.of("initiation").length;
    assert.equal(began, Math.floor(3600 / 122), "with the first packet after 120 s, and by one side alone");
    assert.equal(new Set(sim.wire.of("initiation").map((it) => it.from)).size, 1);
  });

  test("the session before the previous one is gone", () => {
    const { sim, a, b, data } = openSession(build);
    const held = hold(sim);
    data(a);
    sim.wire.hook = undefined;
    for (let i = 0; i < 2; i++) {
      sim.run(6 * SECOND);
      a.handshake(0);
      sim.run(SECOND);
    }
    sim.wire.inject(held[0]);
    sim.run(MS);
    assert.equal(b.delivered!.length, 0);
    assert.deepEqual(b.drops(), { unknown_index: 1 });
  });

  test("a responder that is asked twice drops the session nobody confirmed, and keeps the one in use", () => {
    const { sim, a, b, aAtB, data } = openSession(build);
    sim.run(6 * SECOND);
    const current = b.session(aAtB, "current")!;
    sim.wire.hook = (datagram) => (datagram.bytes[0] === 2 ? [] : undefined);
    a.handshake(0);
    sim.run(SECOND);
    const first = b.session(aAtB, "next")!;
    sim.run(6 * SECOND);
    const second = b.session(aAtB, "next")!;
    assert.notDeepEqual(first, second);
    assert.deepEqual(b.session(aAtB, "current"), current);
    assert.deepEqual(b.find(first.sending), []);
    data(b);
    data(a);
    sim.run(SECOND);
    assert.equal(a.delivered!.length, 1);
    assert.equal(b.delivered!.length, 1);
  });

  test("a responder gives up its previous session for the next one, before that is confirmed", () => {
    const { sim, a, b, bAtA, aAtB } = openSession(build);
    sim.run(6 * SECOND);
    a.handshake(bAtA);
    sim.run(SECOND);
    assert.equal(b.info(aAtB).sessions, 3);
    const previous = b.session(aAtB, "previous")!;
    sim.run(6 * SECOND);
    sim.wire.hook = (datagram) => (datagram.bytes[0] === 2 ? [] : undefined);
    a.handshake(bAtA);
    sim.run(SECOND);
    assert.equal(b.info(aAtB).sessions, 2 | 4);
    assert.deepEqual(b.find(previous.receiving), []);
    assert.equal(a.info(bAtA).sessions, 3, "the initiator keeps its own until the answer");
  });

  test("a new private key: nothing more is sent under the old sessions, what is under way still arrives", () => {
    const { sim, a, b, bAtA, aAtB, data } = openSession(build);
    const held = hold(sim);
    data(b);
    const key = sim.stream("new key").bytes(32);
    a.setPrivateKey(key);
    assert.deepEqual(a.publicKey, publicKeyOf(key));
    data(a);
    assert.equal(sim.wire.of("data", a.address).length, 0);
    assert.equal(sim.wire.of("initiation", a.address).length, 1, "a handshake under the new key");
    assert.equal(a.info(bAtA).staged, 1);
    sim.wire.hook = undefined;
    sim.wire.inject(held[0]);
    sim.run(SECOND);
    assert.equal(a.delivered!.length, 1);
    assert.equal(b.drops("unknown_peer"), 0, "held back by the hook");
    sim.run(REKEY_TIMEOUT);
    assert.equal(b.drops("unknown_peer") >= 1, true, "b does not know the new key");
    assert.equal(b.delivered!.length, 0);
    b.removePeer(aAtB);
    const again = b.addPeer(a.publicKey, { endpoint: a.address, allowedIps: [`${a.inner}/32`] });
    sim.run(REKEY_TIMEOUT + JITTER_MAX);
    assert.equal(b.delivered!.length, 1, "what was staged arrives");
    b.send(ipv4(b.inner, a.inner));
    sim.run(SECOND);
    assert.equal(a.delivered!.length, 2);
    assert.equal(b.info(again).sessions, 2);
  });

  test("two peers swap their private keys under traffic", () => {
    const { sim, a, b, data } = openSession(build);
    const [keyOfA, keyOfB] = [a.privateKey, b.privateKey];
    // Each removes the peer that has its new key: the other. Then they meet again with keys swapped.
    a.setPrivateKey(keyOfB);
    b.setPrivateKey(keyOfA);
    assert.equal(a.findPeer(a.publicKey) < 0, true);
    assert.equal(b.findPeer(b.publicKey) < 0, true);
    data(a);
    assert.equal(a.drops("out_no_route"), 1);
    sim.connect(a, b);
    data(a);
    data(b);
    sim.run(12 * SECOND);
    assert.equal(a.delivered!.length, 1);
    assert.equal(b.delivered!.length, 1);
  });

  test("our own key is no peer: not when it is added, not when it becomes ours", () => {
    const { sim, a, b, bAtA } = openPair(build);
    assert.equal(a.addPeer(a.publicKey), OWN_KEY);
    assert.equal(a.addPeer(b.publicKey), EXISTS);
    a.setPrivateKey(b.privateKey);
    assert.equal(a.findPeer(b.publicKey) < 0, true);
    assert.equal(a.removePeer(bAtA), NOT_FOUND);
    a.send(ipv4(a.inner, b.inner));
    sim.run(SECOND);
    assert.deepEqual(sim.wire.sent, []);
    assert.deepEqual(a.drops(), { out_no_route: 1 });
  });

  test("the private key taken away: silence; given back: as before", () => {
    const { sim, a, b, data } = openSession(build);
    const key = a.privateKey;
    a.setPrivateKey(new Uint8Array(32));
    assert.deepEqual(a.publicKey, new Uint8Array(32));
    sim.run(6 * SECOND);
    forget(sim);
    data(a);
    sim.run(20 * SECOND);
    assert.deepEqual(sim.wire.sent, []);
    a.setPrivateKey(key);
    data(a);
    sim.run(SECOND);
    assert.equal(b.delivered!.length, 2);
  });

  test("setting again what is set drops no session and sends nothing", () => {
    const presharedKey = new Uint8Array(32).fill(9);
    const { sim, a, b, bAtA, aAtB, data } = openSession(build, { presharedKey, keepalive: 25 });
    const before = a.snapshot();
    a.setPrivateKey(a.privateKey);
    const unclamped = a.privateKey.slice();
    unclamped[0] |= 7;
    unclamped[31] = (unclamped[31] & 0x3f) | 0x80;
    a.setPrivateKey(unclamped);
    a.setPresharedKey(bAtA, presharedKey);
    a.setEndpoint(bAtA, b.address);
    a.allow(bAtA, `${b.inner}/32`);
    a.setKeepalive(bAtA, 25);
    a.up();
    assert.equal(a.addPeer(b.publicKey), EXISTS);
    assert.deepEqual(a.snapshot().subarray(65536 / 2), before.subarray(65536 / 2));
    assert.deepEqual(sim.wire.sent, []);
    data(a);
    data(b);
    sim.run(SECOND);
    assert.equal(a.delivered!.length, 1);
    assert.equal(b.delivered!.length, 1);
    assert.equal(sim.wire.of("initiation").length, 0);
    assert.equal(b.info(aAtB).sessions, 2);
  });

  test("another preshared key leaves the session as it is, and counts for the next", () => {
    const { sim, a, b, bAtA, aAtB, data } = openSession(build);
    const presharedKey = new Uint8Array(32).fill(5);
    a.setPresharedKey(bAtA, presharedKey);
    data(a);
    sim.run(SECOND);
    assert.equal(b.delivered!.length, 1);
    sim.run(6 * SECOND);
    a.handshake(bAtA);
    sim.run(100 * MS);
    assert.equal(a.drops("bad_handshake"), 1);
    b.setPresharedKey(aAtB, presharedKey);
    sim.run(6 * SECOND);
    assert.equal(a.eventsOf("handshake_complete").length, 1);
  });

  test("device down: no timer, no key, no packet; up again: a new handshake at the first packet", () => {
    const { sim, a, b, bAtA, aAtB, data } = openSession(build);
    data(a, 1000);
    const keys = sessionKeys(a, bAtA);
    assert.equal(keys.length, 2);
    assert.notDeepEqual(a.findAny(states(keys)), []);
    a.down();
    assert.equal(a.deadline, Infinity);
    assert.equal(a.info(bAtA).sessions, 0);
    assert.deepEqual(a.findAny(pieces(keys)), []);
    data(b);
    sim.run(11 * SECOND);
    assert.deepEqual(a.drops(), { device_down: 2 }, "data, and b's keepalive");
    data(a);
    assert.equal(a.drops("out_device_down"), 1);
    a.handshake(bAtA);
    a.keepalive(bAtA);
    sim.run(SECOND);
    assert.equal(sim.wire.of("initiation", a.address).length, 0);
    assert.equal(a.info(bAtA).endpoint, b.address, "the configuration stays");
    a.up();
    assert.equal(sim.wire.of("initiation", a.address).length, 0);
    data(a);
    sim.run(SECOND);
    assert.equal(b.delivered!.length, 2);
    assert.equal(b.info(aAtB).sessions, 2 | 1);
  });

  test("device down with work waiting: staged packets, queued handshakes and requests are not sent after it", () => {
    const { sim, a, b, bAtA, data } = openPair(build);
    a.automatic = false;
    data(a); // staged, and a handshake asked for
    a.keepalive(bAtA);
    b.handshake(0);
    sim.run(20 * MS); // its initiation waits in a's queue
    assert.equal(a.counts().queued, 1);
    forget(sim);
    a.down();
    a.automatic = true;
    a.service();
    sim.run(100 * SECOND);
    assert.deepEqual(sim.wire.of("initiation", a.address), []);
    assert.deepEqual(sim.wire.of("response", a.address), []);
    assert.equal(a.deadline, Infinity);
    assert.equal(a.drops("out_staged_purged"), 1);
    assert.equal(a.info(bAtA).staged, 0);
  });

  test("device up with persistent keepalive: one at once", () => {
    const { sim, a, b, bAtA } = openSession(build);
    a.down();
    a.setKeepalive(bAtA, 30);
    assert.deepEqual(sim.wire.sent, []);
    a.up();
    assert.equal(sim.wire.of("initiation", a.address).length, 1);
    sim.run(SECOND);
    assert.equal(sim.wire.of("keepalive", a.address).length, 1);
    assert.equal(b.drops("unknown_index"), 0);
  });

  test("a removed peer leaves nothing: not its keys, not its name, not a packet that waited", () => {
    const presharedKey = new Uint8Array(32).map((_, i) => 0xa0 + i);
    const { sim, a, b, bAtA, data } = openSession(build, { presharedKey, keepalive: 25 });
    sim.run(REKEY_AFTER_TIME);
    data(a);
    sim.run(SECOND);
    const keys = sessionKeys(a, bAtA);
    assert.equal(keys.length, 4, "previous and current");
    sim.run(6 * SECOND);
    sim.wire.hook = () => [];
    a.handshake(bAtA);
    const ephemeral = a.ephemeral(bAtA);
    const staged = new Uint8Array(100).fill(0xcd, 20);
    const second = a.addPeer(sim.stream("second").bytes(32), { endpoint: "192.0.2.9:9", allowedIps: ["10.9.0.0/16"] });
    a.send(Uint8Array.from(ipv4(a.inner, "10.9.0.1", 100, 0xcd)));
    assert.deepEqual([second, a.info(second).staged], [1, 1]);
    const secrets = [...keys, ephemeral, presharedKey, b.publicKey];
    for (const secret of secrets) assert.notDeepEqual(a.find(secret), [], "the search finds what is there");
    const pools = a.peerAddress(0);
    assert.notDeepEqual(a.find(staged.subarray(20)).filter((at) => at >= pools), []);
    a.removePeer(bAtA);
    a.removePeer(second);
    assert.deepEqual(a.findAny(pieces(secrets)), []);
    assert.deepEqual(a.find(staged.subarray(20)).filter((at) => at >= pools), [], "but for the slot it came in");
    assert.equal(a.deadline, Infinity);
    data(b);
    data(a);
    sim.wire.hook = undefined;
    data(b);
    sim.run(SECOND);
    assert.equal(a.drops("out_no_route"), 1);
    assert.equal(a.drops("unknown_index"), 1);
    assert.equal(a.drops("out_staged_purged"), 1);
  });

  test("a peer removed with work waiting, and another in its place: the work is not done for it", () => {
    const { sim, a, b, bAtA, data } = openPair(build);
    a.automatic = false;
    data(a);
    a.handshake(bAtA);
    a.removePeer(bAtA);
    const other = a.addPeer(sim.stream("other").bytes(32), { endpoint: b.address, allowedIps: ["10.9.0.0/16"] });
    assert.equal(other, bAtA, "in the same place");
    forget(sim);
    a.automatic = true;
    a.service();
    sim.run(100 * SECOND);
    assert.deepEqual(sim.wire.sent, []);
    // Its own work is done.
    a.send(ipv4(a.inner, "10.9.0.1"));
    assert.equal(sim.wire.of("initiation", a.address).length, 1);
  });

  test("zeroization: 540 s after the last session no piece of any key is left anywhere in memory", () => {
    const { sim, a, b, bAtA, aAtB, data } = openSession(build);
    const secrets: Uint8Array[] = [];
    const collect = (): void => {
      for (const secret of [...sessionKeys(a, bAtA), ...sessionKeys(b, aAtB)]) {
        assert.notDeepEqual([...a.find(secret), ...b.find(secret)], [], "the search finds what is there");
        secrets.push(secret);
      }
      for (const [node, peer] of [[a, bAtA], [b, aAtB]] as const) {
        const ephemeral = node.ephemeral(peer);
        if (ephemeral.some((byte) => byte !== 0)) secrets.push(ephemeral);
      }
    };
    collect();
    sim.run(REKEY_AFTER_TIME - SESSION_AGE);
    data(b);
    data(a);
    collect(); // with a's ephemeral key
    sim.run(15 * MS);
    collect(); // with b's unconfirmed session
    sim.run(SECOND);
    data(b, 1000);
    sim.run(SECOND);
    collect();
    const distinct = [...new Set(secrets.map((it) => Buffer.from(it).toString("hex")))];
    // Two sessions have two keys, that are four at the two ends but the same bytes; and the ephemeral one.
    assert.equal(distinct.length, 5);
    sim.run(ZERO_KEYS_TIME - 3 * SECOND);
    assert.notEqual(a.info(bAtA).sessions, 0);
    // The state of the cipher that sealed and opened last holds a key until then.
    assert.notDeepEqual(a.findAny(states(sessionKeys(a, bAtA))), []);
    sim.run(3 * SECOND);
    assert.deepEqual([a.info(bAtA).sessions, b.info(aAtB).sessions], [0, 0]);
    const all = pieces(distinct.map((hex) => Uint8Array.from(Buffer.from(hex, "hex"))));
    assert.deepEqual([a.findAny(all), b.findAny(all)], [[], []]);
    // And the tunnel works on.
    data(a);
    sim.run(SECOND);
    assert.equal(b.delivered!.length, 2);
  });

  test("forward secrecy: an ephemeral key goes with its handshake, a session with its second successor", () => {
    const { sim, a, b, bAtA, aAtB, data } = openPair(build);
    data(a);
    const ephemeral = a.ephemeral(bAtA);
    assert.notDeepEqual(a.find(ephemeral), []);
    sim.run(SECOND);
    assert.deepEqual(a.find(ephemeral), []);
    const first = a.session(bAtA, "current")!;
    for (let i = 0; i < 2; i++) {
      sim.run(REJECT_AFTER_TIME);
      data(a);
      data(b);
      sim.run(SECOND);
    }
    for (const key of [first.sending, first.receiving]) assert.deepEqual([a.find(key), b.find(key)], [[], []]);
    assert.equal(b.info(aAtB).sessions & 2, 2);
  });

  test("a handshake given up leaves its ephemeral key until the keys are zeroed, and not longer", () => {
    const { sim, a, stranger } = openStranger(build);
    a.handshake(stranger.peer);
    sim.runUntil(() => a.eventsOf("handshake_given_up").length === 1, 200 * SECOND);
    const ephemeral = a.ephemeral(stranger.peer);
    assert.notDeepEqual(a.find(ephemeral), []);
    sim.run(ZERO_KEYS_TIME - 1);
    assert.notDeepEqual(a.find(ephemeral), []);
    sim.run(1);
    assert.deepEqual(a.findAny(pieces([ephemeral])), []);
    assert.equal(a.eventsOf("keys_zeroed").length, 1);
  });

  test("a device wiped holds no byte of any key", () => {
    const presharedKey = new Uint8Array(32).map((_, i) => i + 1);
    const { a, b, bAtA } = openSession(build, { presharedKey });
    // Clamping changes the first and the last byte of a private key.
    const secrets = [...sessionKeys(a, bAtA), a.privateKey.slice(1, 31), a.publicKey, b.publicKey, presharedKey];
    for (const secret of secrets) assert.notDeepEqual(a.find(secret), []);
    a.core.exports.deviceWipe();
    assert.deepEqual(a.findAny(pieces(secrets)), []);
  });

  test("one key pair, two sessions: an initiator and a responder never seal under one key and counter twice", () => {
    const { sim, a, stranger } = openStranger(build);
    const keys = stranger.initiate();
    stranger.tell(stranger.data(keys, 0n));
    const counters: bigint[] = [];
    for (let i = 0; i < 100; i++) {
      if (i % 3 === 0) a.keepalive(stranger.peer);
      else a.send(ipv4(a.inner, stranger.inner), ipv4(a.inner, stranger.inner));
    }
    for (const { bytes } of sim.wire.sent!.filter((it) => it.to === stranger.address && it.bytes[0] === 4)) {
      counters.push(openData(keys, bytes).counter);
    }
    assert.deepEqual(counters, counters.map((_, i) => BigInt(i)));
    assert.equal(counters.length, 34 + 66 * 2);
  });

  test("as many peers as there is room for, and no more", () => {
    const sim = new Simulator({ build });
    const a = sim.node({ maxPeers: 3 });
    const keys = Array.from({ length: 4 }, (_, i) => sim.stream(`peer ${i}`).bytes(32));
    const added = keys.map((key) => a.addPeer(key));
    assert.deepEqual(added, [0, 1, 2, -3]);
    a.removePeer(1);
    assert.equal(a.addPeer(keys[3]), 1);
  });

  test.run();
}
