// Every timer alone, at its exact instant: §6, and the kernel's timers.c. A jitter is known, because the simulator
// knows which random bytes the core drew for it.
import assert from "node:assert/strict";
import { suite } from "uvu";
import type { SimNode } from "../../host/simulator/node.ts";
import { builds } from "../sim/builds.ts";
import { forget, hold, openPair, openSession, SESSION_AGE } from "../sim/pair.ts";
import {
  INITIATIONS_IN_ALL, JITTER_MAX, jitterOf, KEEPALIVE_TIMEOUT, MS, NEW_HANDSHAKE_TIME, REJECT_AFTER_MESSAGES,
  REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME, REKEY_ON_RECEIVE_TIME, REKEY_TIMEOUT, SECOND,
  ZERO_KEYS_TIME,
} from "../sim/paper.ts";
import { readU32 } from "../sim/reference.ts";
import { Simulator } from "../../host/simulator/simulator.ts";

/** When the session that a node uses was born, ns. */
const bornAt = (node: SimNode, peer: number): number => node.timer(peer, "zeroKeyMaterial") - ZERO_KEYS_TIME;

/** Nothing arrives any more. */
const silence = (sim: Simulator): void => {
  sim.wire.hook = () => [];
};

for (const build of builds) {
  const test = suite(`timers (${build})`);

  test("retransmission: 5 s and the jitter drawn after each initiation, until the 20th is given up", () => {
    const { sim, a, bAtA, data } = openPair(build);
    silence(sim);
    data(a);
    let due = sim.now();
    for (let attempt = 1; attempt <= INITIATIONS_IN_ALL; attempt++) {
      assert.equal(sim.now(), due);
      assert.equal(sim.wire.of("initiation").length, attempt);
      const jitter = jitterOf(a.lastRandom);
      assert.equal(jitter < JITTER_MAX, true);
      due += REKEY_TIMEOUT + jitter;
      assert.equal(a.timer(bAtA, "retransmitHandshake"), due);
      assert.equal(a.deadline, due);
      sim.run(due - 1 - sim.now());
      assert.equal(sim.wire.of("initiation").length, attempt, "not a nanosecond early");
      assert.equal(a.eventsOf("handshake_given_up").length, 0);
      sim.run(1);
    }
    assert.equal(sim.wire.of("initiation").length, INITIATIONS_IN_ALL);
    assert.deepEqual(a.eventsOf("handshake_given_up").map((it) => it.time), [due]);
    assert.equal(a.timer(bAtA, "retransmitHandshake"), Infinity);
    assert.equal(a.timer(bAtA, "zeroKeyMaterial"), due + ZERO_KEYS_TIME);
    sim.run(3600 * SECOND);
    assert.equal(sim.wire.sent!.length, INITIATIONS_IN_ALL);
  });

  for (const [name, random, jitter] of [
    ["no jitter", 0, 0],
    ["the most jitter", 0xffffffff, JITTER_MAX - 1],
  ] as const) {
    test(`retransmission with ${name}`, () => {
      const { sim, a, data } = openPair(build);
      silence(sim);
      // index 4, ephemeral 32, then the jitter
      a.setRandom(36, Uint8Array.of(random, random, random, random));
      data(a);
      sim.run(REKEY_TIMEOUT + jitter - 1);
      assert.equal(sim.wire.of("initiation").length, 1);
      sim.run(1);
      assert.equal(sim.wire.of("initiation").length, 2);
    });
  }

  test("a response ends the retransmissions", () => {
    const { sim, a, bAtA } = openSession(build);
    assert.equal(a.timer(bAtA, "retransmitHandshake"), Infinity);
    sim.run(100 * SECOND);
    assert.equal(sim.wire.of("initiation").length, 0);
    assert.equal(a.info(bAtA).attempts, 0);
  });

  test("handshakes that are asked for begin 5 s apart, whoever asks", () => {
    const { sim, a, b, bAtA, aAtB } = openSession(build);
    sim.run(REKEY_TIMEOUT - SESSION_AGE - 20 * MS - 1);
    a.handshake(bAtA);
    a.handshake(bAtA);
    assert.equal(sim.wire.of("initiation", a.address).length, 0);
    sim.run(1);
    a.handshake(bAtA);
    a.handshake(bAtA);
    assert.equal(sim.wire.of("initiation", a.address).length, 1);
    // A response counts as well: b answered 10 ms after that.
    sim.run(10 * MS);
    assert.equal(sim.wire.of("response", b.address).length, 1);
    sim.run(REKEY_TIMEOUT - 1);
    b.handshake(aAtB);
    assert.equal(sim.wire.of("initiation", b.address).length, 0);
    sim.run(1);
    b.handshake(aAtB);
    assert.equal(sim.wire.of("initiation", b.address).length, 1);
  });

  test("passive keepalive: 10 s after data came in, when nothing went out", () => {
    const { sim, a, b, aAtB, data } = openSession(build);
    data(a);
    sim.run(10 * MS);
    assert.equal(b.delivered!.length, 1);
    const due = sim.now() + KEEPALIVE_TIMEOUT;
    assert.equal(b.timer(aAtB, "sendKeepalive"), due);
    sim.run(KEEPALIVE_TIMEOUT - 1);
    assert.equal(sim.wire.of("keepalive").length, 0);
    sim.run(1);
    assert.deepEqual(sim.wire.of("keepalive").map((it) => [it.from, it.time]), [[b.address, due]]);
    sim.run(100 * SECOND);
    assert.equal(sim.wire.of("keepalive").length, 1, "a keepalive never provokes a keepalive");
    assert.equal(a.drops("bad_inner"), 0);
  });

  test("passive keepalive: whatever goes out in time takes its place", () => {
    const { sim, a, b, aAtB, data } = openSession(build);
    data(a);
    sim.run(9 * SECOND);
    data(b);
    assert.equal(b.timer(aAtB, "sendKeepalive"), Infinity);
    sim.run(5 * SECOND);
    assert.equal(sim.wire.of("keepalive", b.address).length, 0);
    // a got data in turn
    assert.deepEqual(sim.wire.of("keepalive", a.address).length, 0);
    sim.run(10 * SECOND);
    assert.equal(sim.wire.of("keepalive", a.address).length, 1);
  });

  test("passive keepalive: data that came while one was due asks for another, 10 s after it", () => {
    const { sim, a, b, data } = openSession(build);
    data(a);
    sim.run(3 * SECOND);
    data(a);
    sim.run(1 * SECOND);
    data(a);
    sim.run(100 * SECOND);
    const times = sim.wire.of("keepalive", b.address).map((it) => it.time);
    assert.equal(times.length, 2);
    assert.equal(times[1] - times[0], KEEPALIVE_TIMEOUT);
  });

  test("new handshake: 15 s and jitter after data went out into silence; more data does not put it off", () => {
    const { sim, a, bAtA, data } = openSession(build);
    silence(sim);
    data(a);
    const due = sim.now() + NEW_HANDSHAKE_TIME + jitterOf(a.lastRandom);
    assert.equal(a.timer(bAtA, "newHandshake"), due);
    sim.run(5 * SECOND);
    data(a);
    a.keepalive(bAtA);
    assert.equal(a.timer(bAtA, "newHandshake"), due);
    sim.run(due - 1 - sim.now());
    assert.equal(sim.wire.of("initiation").length, 0);
    sim.run(1);
    assert.deepEqual(sim.wire.of("initiation").map((it) => it.time), [due]);
    assert.deepEqual(a.eventsOf("peer_silent").map((it) => it.time), [due]);
  });

  test("new handshake: a keepalive is no data, and anything authentic that comes in ends the wait", () => {
    const { sim, a, b, bAtA, data } = openSession(build);
    a.keepalive(bAtA);
    assert.equal(a.timer(bAtA, "newHandshake"), Infinity);
    data(a);
    assert.notEqual(a.timer(bAtA, "newHandshake"), Infinity);
    b.keepalive(0);
    sim.run(20 * MS);
    assert.equal(a.timer(bAtA, "newHandshake"), Infinity);
    sim.run(100 * SECOND);
    assert.equal(sim.wire.of("initiation").length, 0);
  });

  test("rekey: 120 s into a session by its initiator, when it sends; never of itself, never by the responder", () => {
    const { sim, a, b, bAtA, aAtB, data } = openSession(build);
    const born = bornAt(a, bAtA);
    assert.equal(born, sim.now() - SESSION_AGE, "when the response came");
    sim.run(born + REKEY_AFTER_TIME - 1 - sim.now());
    data(b);
    data(a);
    assert.equal(sim.wire.of("initiation").length, 0);
    sim.run(1);
    assert.equal(sim.wire.of("initiation").length, 0, "not of itself");
    data(b);
    sim.run(9 * MS);
    assert.equal(sim.wire.of("initiation").length, 0, "not by the responder");
    data(a);
    assert.equal(sim.wire.of("initiation", a.address).length, 1);
    sim.run(SECOND);
    assert.equal(a.info(bAtA).sessions, 3, "previous and current");
    assert.equal(b.info(aAtB).sessions, 3);
    assert.equal(sim.wire.of("initiation").length, 1);
  });

  test("rekey: a keepalive that is sent after 120 s asks for it too", () => {
    const { sim, a, bAtA } = openSession(build);
    sim.run(bornAt(a, bAtA) + REKEY_AFTER_TIME - sim.now());
    a.keepalive(bAtA);
    assert.equal(sim.wire.of("initiation", a.address).length, 1);
  });

  test("rekey by messages: past 2^60 sent, by whichever side", () => {
    for (const responder of [false, true]) {
      const { sim, a, b, bAtA, aAtB, data } = openSession(build);
      const [node, peer] = responder ? [b, aAtB] : [a, bAtA];
      sim.run(6 * SECOND);
      node.setSendCounter(peer, REKEY_AFTER_MESSAGES - 1n);
      data(node);
      assert.equal(sim.wire.of("initiation").length, 0);
      data(node);
      assert.equal(sim.wire.of("initiation", node.address).length, 1, "2^60 + 1 is more than 2^60");
    }
  });

  test("the last message of a session: nothing is sent at REJECT_AFTER_MESSAGES, it waits for a new session", () => {
    const { sim, a, b, bAtA, data } = openSession(build);
    sim.run(6 * SECOND);
    a.setSendCounter(bAtA, REJECT_AFTER_MESSAGES - 1n);
    data(a);
    assert.equal(sim.wire.of("data", a.address).length, 1);
    data(a);
    assert.equal(sim.wire.of("data", a.address).length, 1);
    assert.equal(a.info(bAtA).staged, 1);
    sim.run(SECOND);
    assert.equal(b.delivered!.length, 2);
  });

  test("rekey on receiving: at 165 s, by the initiator, once a session", () => {
    const { sim, a, b, bAtA, data } = openSession(build);
    const born = bornAt(a, bAtA);
    const arrive = (age: number): void => {
      sim.run(born + age - 10 * MS - sim.now());
      data(b);
      sim.run(10 * MS);
    };
    arrive(REKEY_ON_RECEIVE_TIME - 1);
    assert.equal(sim.wire.of("initiation").length, 0);
    sim.wire.hook = (datagram) => (datagram.bytes[0] === 1 ? [] : undefined);
    arrive(REKEY_ON_RECEIVE_TIME + 10 * MS);
    assert.equal(sim.wire.of("initiation", a.address).length, 1);
    for (let i = 1; i < 13; i++) arrive(REKEY_ON_RECEIVE_TIME + i * SECOND);
    // A second request would count the attempts from 1 again.
    assert.deepEqual(a.eventsOf("initiation_sent").map((it) => it.argument), [1, 2, 3]);
  });

  test("rekey on receiving: once more in each session", () => {
    const { sim, a, b, bAtA, data } = openSession(build);
    for (let session = 1; session <= 3; session++) {
      sim.run(bornAt(a, bAtA) + REKEY_ON_RECEIVE_TIME - 10 * MS - sim.now());
      data(b);
      sim.run(SECOND);
      assert.equal(a.eventsOf("handshake_complete").length, session);
      assert.equal(sim.wire.of("initiation", b.address).length, 0);
    }
  });

  test("rekey on receiving: the responder never begins one", () => {
    const { sim, a, b, bAtA, data } = openSession(build);
    sim.run(bornAt(a, bAtA) + REKEY_AFTER_TIME - SECOND - sim.now());
    const held = hold(sim);
    data(a);
    sim.wire.hook = undefined;
    sim.run(50 * SECOND);
    sim.wire.inject(held[0]);
    sim.run(MS);
    assert.equal(b.delivered!.length, 1);
    assert.equal(sim.wire.of("initiation", b.address).length, 0);
  });

  test("reject: from 180 s on nothing is sent under a session, by either side", () => {
    for (const responder of [false, true]) {
      const { sim, a, b, bAtA, aAtB, data } = openSession(build);
      const [node, peer] = responder ? [b, aAtB] : [a, bAtA];
      sim.wire.hook = () => [];
      sim.run(bornAt(node, peer) + REJECT_AFTER_TIME - 1 - sim.now());
      data(node);
      assert.equal(sim.wire.of("data", node.address).length, 1);
      sim.run(1);
      data(node);
      assert.equal(sim.wire.of("data", node.address).length, 1);
      assert.equal(node.info(peer).staged, 1);
      assert.equal(sim.wire.of("initiation", node.address).length, 1);
    }
  });

  test("reject: from 180 s on nothing is accepted under a session, by either side", () => {
    for (const responder of [false, true]) {
      const { sim, a, b, bAtA, aAtB, data } = openSession(build);
      const [node, peer, other] = responder ? [b, aAtB, a] : [a, bAtA, b];
      sim.run(100 * SECOND);
      const held = hold(sim);
      data(other);
      data(other);
      sim.run(bornAt(node, peer) + REJECT_AFTER_TIME - 1 - sim.now());
      node.receive(held[0]);
      assert.equal(node.delivered!.length, 1);
      sim.run(1);
      const before = node.snapshot();
      node.receive(held[1]);
      assert.equal(node.delivered!.length, 1);
      assert.deepEqual(node.drops(), { session_expired: 1 });
      assert.deepEqual(node.snapshot(), before);
    }
  });

  test("zero keys: 540 s after the last session was derived, then nothing is armed at all", () => {
    const { sim, a, b, bAtA, aAtB, data } = openSession(build);
    // Sessions of before do not count: a rekey first.
    sim.run(125 * SECOND);
    data(a);
    sim.run(SECOND);
    data(b); // both have heard from each other: no timer but this one is left
    sim.run(20 * SECOND);
    const due = [a.timer(bAtA, "zeroKeyMaterial"), b.timer(aAtB, "zeroKeyMaterial")];
    assert.deepEqual([a.deadline, b.deadline], due);
    assert.equal(due[0] - due[1], 10 * MS, "the responder's came with the initiation, one way earlier");
    sim.run(due[1] - 1 - sim.now());
    assert.equal(b.info(aAtB).sessions, 3);
    sim.run(1);
    assert.equal(b.info(aAtB).sessions, 0);
    assert.equal(a.info(bAtA).sessions, 3);
    sim.run(10 * MS);
    assert.equal(a.info(bAtA).sessions, 0);
    assert.deepEqual(a.eventsOf("keys_zeroed").map((it) => it.time), [due[0]]);
    assert.deepEqual(b.eventsOf("keys_zeroed").map((it) => it.time), [due[1]]);
    assert.deepEqual([a.deadline, b.deadline], [Infinity, Infinity]);
  });

  test("persistent keepalive: so long after anything authentic, sent or received", () => {
    const { sim, a, b, bAtA, data } = openSession(build);
    a.setKeepalive(bAtA, 25);
    const keepalives = sim.wire.of("keepalive").map((it) => [it.from, it.time]);
    assert.deepEqual(keepalives, [[a.address, sim.now()]], "0 to n: one now");
    let due = sim.now() + 25 * SECOND;
    const next = (): void => {
      assert.equal(a.timer(bAtA, "sendPersistentKeepalive"), due);
      const count = sim.wire.of("keepalive", a.address).length;
      sim.run(due - 1 - sim.now());
      assert.equal(sim.wire.of("keepalive", a.address).length, count);
      sim.run(1);
      assert.equal(sim.wire.of("keepalive", a.address).length, count + 1);
      due += 25 * SECOND;
    };
    next();
    next();
    sim.run(20 * SECOND);
    data(a);
    due = sim.now() + 25 * SECOND;
    sim.run(SECOND);
    b.keepalive(0);
    due = sim.now() + 10 * MS + 25 * SECOND;
    sim.run(10 * MS);
    next();
    a.setKeepalive(bAtA, 25);
    next();
    a.setKeepalive(bAtA, 0);
    sim.run(SECOND); // past the rekey that the last one asked for
    const count = sim.wire.of("keepalive", a.address).length;
    sim.run(90 * SECOND);
    assert.equal(sim.wire.of("keepalive", a.address).length, count);
  });

  test("persistent keepalive: keeps sessions coming for hours, though nobody sends", () => {
    const { sim, a, b, bAtA } = openPair(build);
    a.setKeepalive(bAtA, 25);
    sim.run(2 * 3600 * SECOND);
    assert.equal(a.info(bAtA).sessions & 2, 2);
    assert.deepEqual({ ...a.drops(), ...b.drops() }, {});
    const count = sim.wire.of("initiation").length;
    assert.equal(count >= 47 && count <= 62, true, `${count} initiations in two hours`);
  });

  test("persistent keepalive: a peer that does not answer is asked again after the handshake was given up", () => {
    const { sim, a, data } = openPair(build, { keepalive: 25 });
    silence(sim);
    data(a);
    sim.run(600 * SECOND);
    assert.equal(a.eventsOf("handshake_given_up").length >= 4, true);
    const given = a.eventsOf("handshake_given_up")[0].time;
    const last = sim.wire.of("initiation", a.address).filter((it) => it.time < given).at(-1)!;
    const next = sim.wire.of("initiation", a.address).find((it) => it.time > given)!;
    assert.equal(next.time, last.time + 25 * SECOND);
  });

  test("a device that is set up and idle arms nothing and sends nothing", () => {
    const { sim, a, b } = openPair(build);
    assert.deepEqual([a.deadline, b.deadline], [Infinity, Infinity]);
    sim.run(86_400 * SECOND);
    assert.deepEqual(sim.wire.sent, []);
  });

  test("a service call before the deadline does nothing, however often", () => {
    const { sim, a, bAtA, data } = openSession(build);
    silence(sim);
    data(a);
    const due = a.deadline;
    sim.run(SECOND);
    const before = a.snapshot();
    for (let i = 0; i < 100; i++) a.service();
    assert.deepEqual(a.snapshot(), before);
    assert.equal(a.deadline, due);
    assert.equal(a.timer(bAtA, "newHandshake"), due);
  });

  test("a host that comes late finds each timer run once, not once for each period missed", () => {
    const { sim, a, bAtA, data } = openPair(build);
    silence(sim);
    a.setKeepalive(bAtA, 1);
    data(a);
    const sent = sim.wire.sent!.length;
    a.automatic = false;
    sim.run(1000 * SECOND);
    a.service();
    assert.equal(sim.wire.sent!.length, sent + 1);
    assert.equal(readU32(sim.wire.sent!.at(-1)!.bytes, 0), 1);
    assert.equal(a.timer(bAtA, "retransmitHandshake") > sim.now() + REKEY_TIMEOUT - 1, true);
  });

  test.run();
}
