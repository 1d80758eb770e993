// What a sender does when something is missing: SACK, RACK, tail loss probes, time-outs, Karn, recovery without SACK.

import assert from "node:assert/strict";
import { suite } from "uvu";
import type { WasmguardError } from "../../host/errors.ts";
import { Peer } from "./tcp-peer.ts";
import { pattern, pour, Sink, Wire, type Seen } from "./tcp-wire.ts";

const loss = suite("tcp: loss");

const ranges = (peer: Peer, seen: Seen[]) => seen.map((it) => [peer.at(it.sequence), it.len]);

/** A connection with `count` segments of 1000 in flight, after a round trip of 100 ms. */
function inFlight(count: number, options: ConstructorParameters<typeof Peer>[0] = {}) {
  const peer = new Peer({ scale: 7, window: 60_000, ...options });
  const connection = peer.accept(100);
  connection.write(pattern(0, count * 1000));
  assert.equal(peer.take().reduce((sum, seen) => sum + seen.len, 0), count * 1000);
  peer.advance(100);
  const sack = (...blocks: [number, number][]) =>
    peer.acknowledge(0, { sacks: blocks.map(([from, to]) => [peer.wire(from * 1000), peer.wire(to * 1000)]) });
  return { peer, connection, sack };
}

loss("RFC 6675: exactly the holes are sent again, when three segments above them arrived", () => {
  const { peer, connection, sack } = inFlight(10);
  sack([1, 2]);
  sack([1, 3]);
  peer.takeNone();
  sack([5, 6], [1, 3]);
  assert.deepEqual(ranges(peer, peer.take()), [[0, 1000]]);
  sack([5, 7], [1, 3]);
  sack([5, 8], [1, 3]);
  sack([5, 9], [1, 3]);
  sack([5, 10], [1, 3]);
  assert.deepEqual(ranges(peer, peer.take()), [[3000, 1000], [4000, 1000]]);
  assert.deepEqual([connection.info().retransmits, connection.info().timeouts], [3, 0]);
  assert.equal(connection.info().slowStartThreshold, 7000);
  peer.acknowledge(10_000);
  assert.equal(connection.info().congestionWindow, 7000);
  peer.advance(10_000);
  peer.takeNone();
  assert.equal(peer.clock.timers, 0);
});

loss("the holes of a super-segment", () => {
  const { peer, sack } = inFlight(10, { gsoMaxSize: 65_535 });
  sack([1, 3]);
  peer.takeNone();
  sack([5, 6], [1, 3]);
  assert.deepEqual(ranges(peer, peer.take()), [[0, 1000]]);
  sack([7, 10], [5, 6], [1, 3]);
  assert.deepEqual(ranges(peer, peer.take()), [[3000, 2000], [6000, 1000]]);
});

loss("a SACK of parts of segments, upside down, of the future or of the past marks nothing", () => {
  const { peer, connection } = inFlight(10);
  const wire = (position: number) => peer.wire(position);
  peer.acknowledge(2000);
  for (const block of [
    [2001, 2999], [3000, 3999], [5500, 5600], [8000, 7000], [9000, 9000], [9000, 10_001], [9000, 2 ** 31], [100, 1900],
    [0, 2001], [-5, 10_000],
  ]) {
    peer.acknowledge(0, { sacks: [[wire(block[0]), wire(block[1])]] });
  }
  peer.takeNone();
  assert.equal(connection.info().retransmits, 0);
});

loss("RFC 8985 §6: a retransmission that is lost is sent again without a time-out", () => {
  const { peer, connection, sack } = inFlight(10);
  connection.write(pattern(10_000, 20_000));
  for (let i = 2; i <= 10; i++) sack([1, i]);
  const first = peer.take();
  assert.equal(first.filter((seen) => peer.at(seen.sequence) === 0).length, 1);
  const fresh = first.filter((seen) => peer.at(seen.sequence) >= 10_000);
  assert.equal(fresh.length > 0, true);
  peer.advance(100);
  sack([1, 13]); // what was sent after the retransmission arrived before it
  assert.equal(peer.take().some((seen) => peer.at(seen.sequence) === 0), true);
  assert.equal(connection.info().timeouts, 0);
});

loss("RFC 5681 §4.3, RFC 6675 §5: a loss in each of two successive windows reduces twice", () => {
  const { peer, connection, sack } = inFlight(10);
  connection.write(pattern(10_000, 30_000));
  for (let i = 2; i <= 10; i++) sack([1, i]);
  const sent = peer.take().map((seen) => peer.at(seen.sequence) / 1000);
  const point = 10 + sent.indexOf(0); // what was sent before the first retransmission is the first window
  const next = Math.max(...sent) + 1;
  assert.equal(point > 9 && next > point + 3, true, `${sent}`);
  assert.equal(connection.info().slowStartThreshold, 7000);
  peer.advance(100);
  // The first of the second window is missing, and found so before the first window is whole.
  for (let i = point + 2; i <= next; i++) sack([point + 1, i], [1, point]);
  assert.equal(peer.take().some((seen) => peer.at(seen.sequence) === point * 1000), true);
  assert.equal(connection.info().slowStartThreshold, 7000);
  peer.acknowledge(point * 1000, { sacks: [[peer.wire((point + 1) * 1000), peer.wire(next * 1000)]] });
  assert.equal(connection.info().slowStartThreshold, 4900);
  // Once: when all of that window has arrived it is over.
  peer.advance(100);
  const end = Math.max(...peer.all.map((seen) => peer.at(seen.sequence) + seen.len));
  peer.acknowledge(end - point * 1000);
  const { slowStartThreshold, congestionWindow } = connection.info();
  assert.equal(slowStartThreshold, 4900);
  assert.equal(congestionWindow >= 4900 && congestionWindow < 5900, true, `${congestionWindow}`);
  assert.equal(connection.info().timeouts, 0);
});

loss("RFC 8985 §6.2: reordering that was seen is waited for", () => {
  const { peer, sack } = inFlight(10);
  sack([2, 3]);
  sack([1, 3]); // the second came late, not sent again: the path reorders
  sack([1, 6]);
  peer.takeNone();
  peer.advance(24); // a quarter of the round trip
  peer.takeNone();
  peer.advance(2);
  assert.deepEqual(ranges(peer, peer.take()), [[0, 1000]]);
});

loss("RFC 8985 §7: the last segment lost: a probe after two round trips, no time-out, one reduction", () => {
  const { peer, connection } = inFlight(10);
  peer.acknowledge(9000);
  const at = peer.clock.time;
  const { rto } = connection.info();
  assert.equal(rto < 400, true); // which would be two round trips and what the peer may delay its ACK
  peer.advance(400);
  const probe = peer.take();
  assert.deepEqual(ranges(peer, probe), [[9000, 1000]]);
  assert.equal(Math.round(probe[0].at - at), Math.round(rto));
  const window = connection.info().congestionWindow;
  peer.acknowledge(1000);
  peer.acknowledge(0);
  assert.equal(connection.info().timeouts, 0);
  assert.equal(connection.info().congestionWindow <= window, true);
  peer.advance(1000);
  peer.takeNone();
  assert.equal(peer.clock.timers, 0);
});

loss("§7.3: the probe shows what else is missing", () => {
  const { peer, connection, sack } = inFlight(10);
  peer.acknowledge(5000);
  peer.advance(205);
  assert.deepEqual(ranges(peer, peer.take()), [[9000, 1000]]);
  peer.advance(100);
  sack([9, 10]);
  peer.advance(100);
  assert.deepEqual(ranges(peer, peer.take()).slice(0, 1), [[5000, 1000]]);
  assert.equal(connection.info().timeouts, 0);
});

loss("RFC 6298 §5: time-out, back-off, slow start from one segment; progress ends the back-off", () => {
  const { peer, connection } = inFlight(10, { sack: false });
  const start = peer.clock.time - 100;
  const { rto } = connection.info();
  assert.equal(rto, 300); // one sample of 100 ms: 100 + 4 * 50
  peer.advance(5000);
  const again = peer.take();
  assert.deepEqual(again.map((seen) => Math.round(seen.at - start)), [300, 900, 2100, 4500]);
  assert.deepEqual(again.map((seen) => peer.at(seen.sequence)), [0, 0, 0, 0]);
  assert.deepEqual(again.map((seen) => seen.len), [1000, 1000, 536, 536]); // it might be the size: RFC 4821
  assert.deepEqual([connection.info().timeouts, connection.info().congestionWindow], [4, 536]);
  peer.acknowledge(1000);
  assert.deepEqual(ranges(peer, peer.take()), [[1000, 536], [1536, 536]]);
  assert.equal(connection.info().rto, 300); // Karn, §3: what was sent twice is no measure
  assert.equal(connection.info().slowStartThreshold, 7000);
});

loss("RFC 7323 §4.1: with timestamps also what was sent twice is measured", () => {
  const { peer, connection } = inFlight(10, { timestamps: true, sack: false, mss: 1012 });
  assert.equal(connection.info().srtt, 100);
  peer.advance(1000);
  const again = peer.take().at(-1) as Seen;
  const took = peer.clock.time - again.at;
  peer.acknowledge(again.len, { echo: again.timestamps?.[0] });
  assert.equal(Math.abs(connection.info().srtt - (100 + (took - 100) / 8)) < 1, true, `${connection.info().srtt}`);
});

loss("RFC 3522: a time-out for nothing is taken back", () => {
  const { peer, connection } = inFlight(10, { timestamps: true, mss: 1012 });
  const window = connection.info().congestionWindow;
  const echo = peer.echo;
  peer.advance(1000);
  assert.equal(connection.info().timeouts > 0, true);
  peer.take();
  peer.acknowledge(1000, { echo }); // of the first transmission
  assert.equal(connection.info().congestionWindow >= window, true);
  assert.equal(connection.info().slowStartThreshold, Infinity);
});

loss("RFC 2018 §8: a peer that throws away what it SACKed gets all of it after a time-out", () => {
  const { peer, sack } = inFlight(10);
  sack([1, 10]);
  peer.take();
  peer.acknowledge(1000); // and nothing of what it had SACKed
  peer.advance(400);
  const again = ranges(peer, peer.take());
  assert.deepEqual(again.at(-1), [1000, 1000]);
  peer.acknowledge(1000);
  assert.deepEqual(ranges(peer, peer.take())[0], [2000, 1000]);
});

loss("RFC 5681 §3.2, RFC 6582: without SACK three duplicates send again, a partial ACK the next hole", () => {
  const { peer, connection } = inFlight(10, { sack: false });
  peer.acknowledge(1000);
  peer.acknowledge(0);
  peer.acknowledge(0);
  peer.takeNone();
  peer.acknowledge(0);
  assert.deepEqual(ranges(peer, peer.take()), [[1000, 1000]]);
  for (let i = 0; i < 5; i++) peer.acknowledge(0);
  peer.take();
  peer.acknowledge(3000);
  assert.deepEqual(ranges(peer, peer.take()).slice(0, 1), [[4000, 1000]]);
  peer.acknowledge(6000);
  assert.equal(connection.info().timeouts, 0);
  peer.advance(5000);
  peer.takeNone();
});

loss("a window update is no duplicate ACK", () => {
  const { peer } = inFlight(10, { sack: false });
  for (let i = 0; i < 5; i++) peer.acknowledge(0, { window: 50_000 + i });
  peer.takeNone();
});

loss("RFC 9293 §3.8.3: after five minutes without an answer it is over", () => {
  const { peer, connection } = inFlight(1);
  const sink = new Sink(connection);
  peer.advance(301_000);
  assert.equal((sink.error as WasmguardError | null)?.code, undefined);
  peer.advance(70_000);
  assert.equal((sink.error as WasmguardError).code, "ETIMEDOUT");
  assert.equal(peer.clock.timers, 0);
});

loss("goodput: a loss of 1 % and of 5 % costs what the formula says and hardly a time-out", () => {
  // Mathis et al.: MSS / RTT * 1.22 / sqrt(p) is what Reno reaches; CUBIC in its Reno-friendly region the same or more.
  for (const [p, timeouts] of [[0.01, 1], [0.05, 4]]) {
    for (const gsoMaxSize of [0, 65_535]) {
      let rate = 0;
      let worst = 0;
      for (const seed of [1, 2, 3, 4]) {
        const wire = new Wire({ seed, loss: p, delayMs: 10, gsoMaxSize });
        wire.record = false;
        const { client, server } = wire.pair();
        const sink = new Sink(server);
        const start = wire.clock.time;
        pour(client, 2_000_000);
        assert.equal(wire.clock.runUntil(() => sink.ended, 200_000), true);
        rate += 2_000_000 / (wire.clock.time - start) / 4;
        worst = Math.max(worst, client.info().timeouts);
      }
      const reno = (1368 / 20) * (1.22 / Math.sqrt(p));
      assert.equal(rate > 0.75 * reno, true, `${p}: ${rate} of ${reno} bytes a ms`);
      assert.equal(worst <= timeouts, true, `${p}: ${worst} time-outs`);
    }
  }
});

loss.run();
