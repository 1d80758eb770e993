// Under load: cookies and the limiter, end to end. §5.3, §5.4.4, §5.4.7; the kernel's cookie.c and ratelimiter.c.
import assert from "node:assert/strict";
import { suite } from "uvu";
import { DEVICE_SIZE } from "../../assembly/abi.ts";
import type { SimNode } from "../../host/simulator/node.ts";
import { builds } from "../sim/builds.ts";
import { forget, openPair, openSession, openStranger, type Stranger } from "../sim/pair.ts";
import {
  COOKIE_BYTES, COOKIE_SECRET_LIFE, COOKIE_USE, HANDSHAKE_QUEUE, LIMITER_BURST, LIMITER_GAP, MS, REKEY_TIMEOUT, SECOND,
  UNDER_LOAD_QUEUE, UNDER_LOAD_STICKY,
} from "../sim/paper.ts";
import { addMacs, createCookieReply, openCookieReply, readU32 } from "../sim/reference.ts";

/** Messages of the right length that nobody made. */
function flood(node: SimNode, count: number): void {
  const bytes = new Uint8Array(148);
  bytes[0] = 1;
  for (let i = 0; i < count; i++) {
    bytes[8] = i;
    bytes[9] = i >> 8;
    node.receive({ bytes, from: "203.0.113.66:6666" });
  }
}

/** Puts a node under load for the second to come. */
function load(node: SimNode): void {
  node.automatic = false;
  flood(node, UNDER_LOAD_QUEUE);
  node.automatic = true;
  node.service();
}

const peersOf = (node: SimNode): Uint8Array => node.snapshot().subarray(DEVICE_SIZE);
const mac1Of = (message: Uint8Array): Uint8Array => message.slice(-32, -16);
const mac2Of = (message: Uint8Array): Uint8Array => message.slice(-16);
const NO_MAC = new Uint8Array(16);

/** What the node answers to an initiation of the stranger: "response", "cookie" or "". */
function answer(node: SimNode, stranger: Stranger, cookie?: Uint8Array, from = stranger.address): string {
  const { message } = stranger.initiation(undefined, cookie);
  const before = stranger.sim.wire.sent!.length;
  stranger.tell(message, from);
  const [first] = stranger.sim.wire.sent!.slice(before);
  if (!first) return "";
  assert.equal(first.to, from);
  return first.bytes[0] === 3 ? "cookie" : first.bytes[0] === 2 ? "response" : "?";
}

/** A cookie of the node for the stranger at an address. */
function fetchCookie(node: SimNode, stranger: Stranger, from = stranger.address): Uint8Array {
  const { message } = stranger.initiation();
  stranger.tell(message, from);
  const reply = stranger.sim.wire.of("cookie").at(-1)!;
  assert.equal(reply.to, from);
  return openCookieReply(reply.bytes, node.publicKey, mac1Of(message));
}

for (const build of builds) {
  const test = suite(`cookies (${build})`);

  test("under load from 512 waiting handshakes on, and for one second more", () => {
    const { sim, a, stranger } = openStranger(build);
    a.automatic = false;
    flood(a, UNDER_LOAD_QUEUE - 1);
    a.automatic = true;
    a.service();
    assert.equal(answer(a, stranger), "response");
    assert.deepEqual(a.eventsOf("under_load"), []);
    load(a);
    assert.deepEqual(a.eventsOf("under_load").map((it) => it.argument), [1]);
    assert.equal(answer(a, stranger), "cookie");
    sim.run(UNDER_LOAD_STICKY - 1);
    assert.equal(answer(a, stranger), "cookie");
    sim.run(1);
    assert.equal(answer(a, stranger), "response");
    assert.deepEqual(a.eventsOf("under_load").map((it) => it.argument), [1, 0]);
    assert.equal(a.drops("bad_mac1"), UNDER_LOAD_QUEUE * 2 - 1);
  });

  test("a valid mac1 alone gets a cookie reply, and changes nothing of the peer", () => {
    const { a, stranger } = openStranger(build);
    const { sim } = stranger;
    load(a);
    const before = peersOf(a);
    const { message, sender } = stranger.initiation();
    stranger.tell(message, "203.0.113.5:555");
    assert.deepEqual(peersOf(a), before);
    assert.equal(a.drops("bad_mac2"), 1);
    assert.equal(a.info(stranger.peer).endpoint, stranger.address);
    assert.equal(a.eventsOf("cookie_sent").length, 1);
    const [reply] = sim.wire.sent!;
    assert.equal(reply.bytes.length, COOKIE_BYTES);
    assert.equal(reply.to, "203.0.113.5:555");
    assert.equal(reply.tos, 0x88);
    assert.equal(readU32(reply.bytes, 0), 3);
    assert.equal(readU32(reply.bytes, 4), sender);
    assert.equal(openCookieReply(reply.bytes, a.publicKey, mac1Of(message)).length, 16);
    const other = mac1Of(stranger.initiation().message);
    assert.throws(() => openCookieReply(reply.bytes, a.publicKey, other), "bound to its mac1");
  });

  test("a wrong mac1 gets no answer at all", () => {
    const { a, stranger } = openStranger(build);
    load(a);
    assert.equal(stranger.sim.wire.sent!.length, 0, "the flood got none either");
    const { message } = stranger.initiation();
    message[116] ^= 1;
    stranger.tell(message);
    assert.equal(a.drops("bad_mac1"), UNDER_LOAD_QUEUE + 1);
    assert.equal(stranger.sim.wire.sent!.length, 0);
  });

  test("the cookie opens the door, for its address and port alone", () => {
    const { sim, a, stranger } = openStranger(build);
    load(a);
    const cookie = fetchCookie(a, stranger);
    assert.equal(answer(a, stranger, cookie), "response");
    sim.run(100 * MS);
    const [ip, port] = stranger.address.split(":");
    assert.equal(answer(a, stranger, cookie, `${ip}:${Number(port) + 1}`), "cookie", "another port");
    assert.equal(answer(a, stranger, cookie, `198.51.100.8:${port}`), "cookie", "another address");
    assert.equal(answer(a, stranger, cookie, `[::ffff:${ip}]:${port}`), "cookie", "the same, mapped into IPv6");
    const wrong = cookie.slice();
    wrong[15] ^= 0x80;
    assert.equal(answer(a, stranger, wrong), "cookie");
    assert.equal(answer(a, stranger, cookie), "response");
    assert.equal(a.info(stranger.peer).endpoint, stranger.address);
  });

  test("a cookie of an IPv6 source", () => {
    const { a, stranger } = openStranger(build);
    load(a);
    const cookie = fetchCookie(a, stranger, "[2001:db8::5]:5");
    assert.equal(answer(a, stranger, cookie, "[2001:db8::6]:5"), "cookie");
    assert.equal(answer(a, stranger, cookie, "[2001:db8::5]:5"), "response");
  });

  test("mac2 is not looked at without load", () => {
    const { a, stranger } = openStranger(build);
    assert.equal(answer(a, stranger, new Uint8Array(16).fill(9)), "response");
  });

  test("the secret behind the cookies lives 120 s from its first use", () => {
    const { sim, a, stranger } = openStranger(build);
    load(a);
    const cookie = fetchCookie(a, stranger);
    sim.run(COOKIE_SECRET_LIFE - 1);
    load(a);
    assert.equal(answer(a, stranger, cookie), "response");
    sim.run(1);
    assert.equal(answer(a, stranger, cookie), "cookie");
    sim.run(100 * MS);
    assert.notDeepEqual(fetchCookie(a, stranger), cookie);
  });

  test("two cores: the initiator is told, tries again with mac2, and is let in while the load lasts", () => {
    const { sim, a, b, bAtA, aAtB, data } = openPair(build);
    load(b);
    data(a);
    sim.run(100 * MS);
    assert.equal(sim.wire.of("cookie", b.address).length, 1);
    assert.equal(a.eventsOf("cookie_received").length, 1);
    assert.equal(a.info(bAtA).endpoint, b.address);
    assert.equal(b.info(aAtB).sessions, 0);
    assert.ok(sim.runUntil(() => sim.wire.of("initiation").length === 2, 6 * SECOND), "a second initiation");
    const [first, second] = sim.wire.of("initiation").map((it) => it.bytes);
    assert.deepEqual(mac2Of(first), NO_MAC);
    const cookie = openCookieReply(sim.wire.of("cookie")[0].bytes, b.publicKey, mac1Of(first));
    assert.deepEqual(mac2Of(second), mac2Of(addMacs(second.slice(), b.publicKey, cookie)));
    load(b);
    sim.run(100 * MS);
    assert.equal(b.delivered!.length, 1);
    assert.equal(b.drops("bad_mac2"), 1);
  });

  test("a response is asked for a cookie as well, and the next one has it", () => {
    const { sim, a, b, data } = openPair(build);
    data(a);
    sim.run(15 * MS);
    load(a); // the response is under way
    sim.run(10 * MS);
    assert.equal(sim.wire.of("cookie", a.address).length, 1);
    sim.run(10 * MS);
    assert.equal(b.eventsOf("cookie_received").length, 1);
    assert.equal(a.drops("bad_mac2"), 1);
    assert.ok(sim.runUntil(() => sim.wire.of("response").length === 2, 6 * SECOND), "a second response");
    load(a);
    sim.run(100 * MS);
    assert.notDeepEqual(mac2Of(sim.wire.of("response")[1].bytes), NO_MAC);
    assert.equal(b.delivered!.length, 1);
  });

  test("the initiator uses a cookie for 115 s from the time it came", () => {
    const { sim, a, stranger } = openStranger(build);
    a.handshake(stranger.peer);
    const reply = (): Uint8Array => {
      const { bytes } = stranger.heard("initiation");
      const cookie = sim.stream("cookie").bytes(16);
      return createCookieReply(
        stranger.identity.publicKey, mac1Of(bytes), readU32(bytes, 4), cookie, sim.stream("nonce").bytes(24),
      );
    };
    sim.wire.faults.delay = 0;
    stranger.tell(reply());
    const since = sim.now();
    assert.equal(a.eventsOf("cookie_received").length, 1);
    // The retransmissions end after 20; then a handshake is asked for at both sides of the instant.
    const macAt = (age: number): Uint8Array => {
      sim.run(since + age - sim.now());
      const before = sim.wire.of("initiation").length;
      a.handshake(stranger.peer);
      assert.equal(sim.wire.of("initiation").length, before + 1);
      return mac2Of(stranger.heard("initiation").bytes);
    };
    sim.run(COOKIE_USE - 6 * SECOND);
    a.down(); // no initiation of late that would be in the way
    a.up();
    assert.notDeepEqual(macAt(COOKIE_USE - 1), NO_MAC);
    a.down();
    a.up();
    assert.deepEqual(macAt(COOKIE_USE), NO_MAC);
    a.down();
    a.up();
    assert.deepEqual(macAt(COOKIE_USE + 1), NO_MAC);
  });

  test("a cookie reply is taken once for each mac1 sent, and never moves an endpoint", () => {
    const { sim, a, stranger } = openStranger(build);
    a.handshake(stranger.peer);
    const { bytes } = stranger.heard("initiation");
    const { publicKey } = stranger.identity;
    const make = (mac1: Uint8Array, receiver: number, key = publicKey): Uint8Array =>
      createCookieReply(key, mac1, receiver, new Uint8Array(16).fill(1), sim.stream("nonce").bytes(24));
    const refuse = (message: Uint8Array, reason: string): void => {
      const before = a.snapshot();
      const count = a.drops(reason);
      stranger.tell(message, "203.0.113.80:80");
      assert.equal(a.drops(reason), count + 1, JSON.stringify(a.drops()));
      assert.deepEqual(a.snapshot(), before);
    };
    const index = readU32(bytes, 4);
    refuse(make(mac1Of(bytes), index ^ 1), "unknown_index");
    refuse(make(mac2Of(bytes), index), "bad_cookie");
    refuse(make(mac1Of(bytes), index, a.publicKey), "bad_cookie");
    stranger.tell(make(mac1Of(bytes), index), "203.0.113.80:80");
    assert.equal(a.eventsOf("cookie_received").length, 1);
    assert.equal(a.info(stranger.peer).endpoint, stranger.address);
    refuse(make(mac1Of(bytes), index), "bad_cookie");
    sim.run(6 * SECOND);
    const again = stranger.heard("initiation").bytes;
    assert.notDeepEqual(again, bytes);
    refuse(make(mac1Of(bytes), readU32(again, 4)), "bad_cookie");
    stranger.tell(make(mac1Of(again), readU32(again, 4)));
    assert.equal(a.eventsOf("cookie_received").length, 2);
  });

  test("a cookie reply out of the blue is refused", () => {
    const { a, b, bAtA, aAtB } = openSession(build);
    // b never sent what this would answer since: its response got an answer by a session, not a cookie.
    const reply = createCookieReply(
      a.publicKey, new Uint8Array(16).fill(3), b.session(aAtB, "current")!.local, new Uint8Array(16),
      new Uint8Array(24),
    );
    const before = b.snapshot();
    b.receive({ bytes: reply, from: a.address });
    assert.deepEqual(b.drops(), { bad_cookie: 1 });
    assert.deepEqual(b.snapshot(), before);
    assert.equal(a.info(bAtA).sessions, 2);
  });

  test("limiter: of one address 5 pass at once, then one every 50 ms; a neighbour has a bucket of its own", () => {
    const { sim, a, stranger } = openStranger(build);
    load(a);
    const sources = ["198.51.100.7:1234", "198.51.100.7:999", "198.51.100.8:1234"];
    const cookies = sources.map((source) => fetchCookie(a, stranger, source));
    // Whether it passed: refusals of what comes after the limiter (the same instant twice) are as good as a response.
    const passes = (source: number): boolean => {
      const before = a.drops("rate_limited");
      answer(a, stranger, cookies[source], sources[source]);
      return a.drops("rate_limited") === before;
    };
    for (let i = 0; i < LIMITER_BURST; i++) assert.equal(passes(i % 2), true, "both ports draw from one bucket");
    assert.equal(passes(0), false);
    assert.equal(passes(1), false);
    assert.equal(passes(2), true);
    sim.run(LIMITER_GAP - 1);
    assert.equal(passes(0), false);
    sim.run(1);
    assert.equal(passes(0), true);
    assert.equal(passes(1), false);
  });

  test("limiter: one bucket for an IPv6 /64, another for its neighbour", () => {
    const { a, stranger } = openStranger(build);
    load(a);
    const sources = ["[2001:db8:0:1::1]:1", "[2001:db8:0:1:ffff::2]:2", "[2001:db8:0:2::1]:1"];
    const cookies = sources.map((source) => fetchCookie(a, stranger, source));
    for (let i = 0; i < 8; i++) answer(a, stranger, cookies[i % 2], sources[i % 2]);
    assert.equal(a.drops("rate_limited"), 3);
    answer(a, stranger, cookies[2], sources[2]);
    assert.equal(a.drops("rate_limited"), 3);
  });

  test("limiter: not asked before the cookie is right", () => {
    const { a, stranger } = openStranger(build);
    load(a);
    for (let i = 0; i < 20; i++) assert.equal(answer(a, stranger), "cookie");
    assert.equal(answer(a, stranger, fetchCookie(a, stranger)), "response");
    assert.equal(a.drops("rate_limited"), 0);
  });

  test("the queue holds 4096 handshakes, the next is refused, and none of them is lost", () => {
    const { sim, a, b, bAtA, data } = openSession(build);
    a.automatic = false;
    flood(a, HANDSHAKE_QUEUE + 7);
    assert.deepEqual(a.drops(), { handshake_queue_full: 7 });
    assert.equal(a.counts().queued, HANDSHAKE_QUEUE);
    // Data is none of its business.
    data(b);
    sim.run(10 * MS);
    assert.equal(a.delivered!.length, 1);
    while (a.serviceOnce());
    assert.deepEqual(a.drops(), { handshake_queue_full: 7, bad_mac1: HANDSHAKE_QUEUE });
    assert.equal(a.counts().queued, 0);
    assert.equal(a.info(bAtA).sessions, 2);
  });

  test("handshakes that cost a DH are consumed in portions: others get their turn in between", () => {
    const { a, stranger } = openStranger(build);
    const messages = Array.from({ length: 200 }, () => stranger.initiation().message);
    a.automatic = false;
    for (const message of messages) stranger.tell(message);
    let calls = 0;
    for (let queued = 200; queued > 0; calls++) {
      const more = a.serviceOnce();
      const taken = queued - a.counts().queued;
      assert.equal(taken > 0 && taken <= 64, true, `${taken} in one call`);
      queued -= taken;
      assert.equal(more, queued > 0);
    }
    assert.equal(a.drops("handshake_flood"), 199);
    assert.equal(calls > 3, true);
  });

  test("a session goes on undisturbed under a flood, and renews itself through it", () => {
    const { sim, a, b, bAtA, aAtB, data } = openSession(build);
    forget(sim);
    sim.run(125 * SECOND);
    load(b);
    data(a); // with it, an initiation
    sim.run(100 * MS);
    assert.equal(b.delivered!.length, 1);
    assert.equal(b.info(aAtB).sessions, 2, "asked for a cookie");
    const again = sim.runUntil(() => sim.wire.of("initiation").length === 2, REKEY_TIMEOUT + SECOND);
    assert.ok(again, "a second initiation");
    load(b);
    sim.run(100 * MS);
    assert.equal(b.info(aAtB).sessions, 3);
    assert.equal(a.info(bAtA).sessions, 3);
  });

  test.run();
}
