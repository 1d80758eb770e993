// Endpoints: a peer is where its last authentic message came from, whatever kind it was, and nowhere else. §2.1, §6.5.
import assert from "node:assert/strict";
import { suite } from "uvu";
import { builds } from "../sim/builds.ts";
import { openPair, openSession, openStranger } from "../sim/pair.ts";
import { ipv4 } from "../../host/simulator/packet.ts";
import { MS, SECOND } from "../sim/paper.ts";
import { createResponse, sealData } from "../sim/reference.ts";

for (const build of builds) {
  const test = suite(`roaming (${build})`);

  test("an initiation, a response, data and a keepalive each move the endpoint, IPv4 and IPv6", () => {
    const { a, stranger } = openStranger(build);
    const endpoint = (): string => a.info(stranger.peer).endpoint;
    const places = ["203.0.113.1:1", "[2001:db8::2]:2", "203.0.113.1:3", "[2001:db8::2]:4", "203.0.113.5:5"];
    stranger.tell(stranger.initiation().message, places[0]);
    assert.equal(endpoint(), places[0]);
    assert.equal(stranger.sim.wire.of("response").at(-1)!.to, places[0], "and the answer goes there");
    stranger.sim.run(6 * SECOND);
    a.setEndpoint(stranger.peer, stranger.address);
    a.handshake(stranger.peer);
    const { message, keys } = createResponse(stranger.identity, stranger.consumed(), stranger.ephemeral(), 77);
    stranger.tell(message, places[1]);
    assert.equal(endpoint(), places[1]);
    stranger.tell(stranger.data(keys, 0n), places[2]);
    assert.equal(endpoint(), places[2]);
    stranger.tell(sealData(keys, 1n, new Uint8Array(0)), places[3]);
    assert.equal(endpoint(), places[3]);
    a.send(ipv4(a.inner, stranger.inner));
    assert.equal(stranger.sim.wire.of("data").at(-1)!.to, places[3]);
    stranger.tell(stranger.data(keys, 1n), places[4]);
    assert.equal(endpoint(), places[3], "a replayed counter moves nothing");
    assert.equal(a.eventsOf("roamed").length, 4);
  });

  test("both ends move, one after the other, under traffic: nothing but what was under way is lost", () => {
    const { sim, a, b, bAtA, aAtB, data } = openSession(build);
    sim.move(a, "198.51.100.1:1111");
    data(a);
    sim.run(20 * MS);
    assert.equal(b.info(aAtB).endpoint, "198.51.100.1:1111");
    data(b);
    sim.run(20 * MS);
    sim.move(b, "[2001:db8::b]:2222");
    data(b);
    sim.run(20 * MS);
    assert.equal(a.info(bAtA).endpoint, "[2001:db8::b]:2222");
    data(a);
    sim.run(20 * MS);
    assert.equal(a.delivered!.length, 2);
    assert.equal(b.delivered!.length, 2);
    assert.equal(sim.wire.of("initiation").length, 0, "without a handshake");
  });

  test("an old datagram that comes late from the old address moves the endpoint back, as authentic ones do", () => {
    const { sim, a, b, aAtB, data } = openSession(build);
    sim.wire.hook = (datagram) => [{ ...datagram }];
    sim.wire.faults.delay = SECOND;
    data(a);
    sim.wire.faults.delay = 10 * MS;
    const old = a.address;
    sim.move(a, "198.51.100.1:1");
    data(a);
    sim.run(500 * MS);
    assert.equal(b.info(aAtB).endpoint, "198.51.100.1:1");
    sim.run(SECOND);
    assert.equal(b.info(aAtB).endpoint, old);
    data(a);
    sim.run(SECOND);
    assert.equal(b.info(aAtB).endpoint, "198.51.100.1:1");
  });

  test("somebody who repeats our datagrams from elsewhere first becomes the endpoint, until the next of ours", () => {
    const { sim, a, b, aAtB, data } = openSession(build);
    sim.wire.hook = (datagram) => {
      if (datagram.from === a.address) sim.wire.inject({ ...datagram, from: "203.0.113.66:6" }, 5 * MS);
    };
    data(a);
    sim.run(7 * MS);
    assert.equal(b.info(aAtB).endpoint, "203.0.113.66:6", "it was authentic, and the first");
    sim.run(5 * MS);
    assert.deepEqual(b.drops(), { replayed: 1 });
    sim.wire.hook = undefined;
    data(a);
    sim.run(20 * MS);
    assert.equal(b.info(aAtB).endpoint, a.address);
    assert.equal(b.delivered!.length, 2);
  });

  test("a NAT that forgets: with persistent keepalive 1 the far side gets through after 3 s, without not", () => {
    for (const keepalive of [1, 0]) {
      const { sim, a, b, bAtA, data } = openPair(build);
      if (keepalive) a.setKeepalive(bAtA, keepalive);
      // b is seen by everybody at its own address; a only by those it wrote to in the last 2 s.
      let last = -Infinity;
      sim.wire.hook = (datagram, time) => {
        if (datagram.from === a.address) last = time;
        else if (time - last > 2 * SECOND) return [];
      };
      data(a);
      sim.run(SECOND);
      data(b);
      sim.run(20 * SECOND);
      const before = a.delivered!.length;
      sim.run(3 * SECOND);
      data(b);
      sim.run(100 * MS);
      assert.equal(a.delivered!.length - before, keepalive ? 1 : 0);
    }
  });

  test("a NAT that gives a new port to every tenth datagram does not stop the tunnel", () => {
    const { sim, a, b, data } = openPair(build);
    const stream = sim.stream("nat");
    sim.wire.hook = (datagram) => {
      if (datagram.from === a.address && stream.chance(0.1)) return [{ ...datagram, from: sim.rebind(a.address) }];
    };
    for (let i = 0; i < 600; i++) {
      data(a);
      sim.run(100 * MS);
    }
    data(b);
    sim.run(SECOND);
    assert.equal(b.delivered!.length, 600);
    assert.equal(a.delivered!.length, 1);
    assert.equal(b.eventsOf("roamed").length > 30, true);
    assert.notEqual(a.address, "192.0.2.1:51820");
  });

  test("an endpoint that the user sets is used at once", () => {
    const { sim, a, bAtA, data } = openSession(build);
    a.setEndpoint(bAtA, "[2001:db8::99]:99");
    data(a);
    assert.equal(sim.wire.of("data").at(-1)!.to, "[2001:db8::99]:99");
    assert.equal(a.info(bAtA).sessions, 2);
  });

  test.run();
}
