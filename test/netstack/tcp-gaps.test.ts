// When a receiver tells of what is ahead of a gap: RFC 5681 §4.2 at once for what is news, together for what only
// lengthens the last run.

import assert from "node:assert/strict";
import { suite } from "uvu";
import { REPORT_AT_ONCE_COUNT } from "../../host/netstack/tcp/constants.ts";
import { Peer, type PeerOptions } from "./tcp-peer.ts";
import { FLAG, pattern, pour, Sink, Wire } from "./tcp-wire.ts";

const gaps = suite("tcp: reports of gaps");

const LEN = 1000;

/** A connection with a round trip of `rttMs`; put() sends the segments [from, to) as one. */
function begin(rttMs: number, options: PeerOptions = {}) {
  const peer = new Peer({ scale: 7, ...options });
  const connection = peer.accept(rttMs);
  const sink = new Sink(connection);
  const base = peer.next;
  const put = (from: number, to = from + 1, more: { flags?: number; gsoSize?: number; echo?: number } = {}): void => {
    const [start, end] = [Math.round(from * LEN), Math.round(to * LEN)];
    peer.send({ flags: FLAG.ACK, sequence: base + start, payload: pattern(start, end - start), ...more });
  };
  /** what the host acknowledged since the last call: the number, and the blocks */
  const reports = (): unknown[] =>
    peer.take().map((seen) => [
      (seen.acknowledgment - base) / LEN,
      ...seen.sacks.map((edges) => edges.map((edge) => (edge - base) / LEN)),
    ]);
  return { peer, connection, sink, put, reports };
}

/** [from, to) in as many segments as are reported at once */
function pieces(from: number, to: number): [number, number][] {
  const len = (to - from) / REPORT_AT_ONCE_COUNT;
  return Array.from({ length: REPORT_AT_ONCE_COUNT }, (_, i) => [from + i * len, from + (i + 1) * len]);
}

/** The same with [1, 4) there, reported one by one. */
function ahead(rttMs = 100, options: PeerOptions = {}) {
  const it = begin(rttMs, options);
  for (const [from, to] of pieces(1, 4)) {
    it.put(from, to);
    assert.deepEqual(it.reports(), [[0, [1, Math.round(to * LEN) / LEN]]]);
  }
  return it;
}

gaps("the first at once, more of the same together after 1 ms, and no timer is left", () => {
  const { peer, put, reports } = ahead();
  put(4);
  peer.advance(0.5);
  for (let i = 5; i < 10; i++) put(i);
  peer.takeNone();
  peer.advance(0.4);
  peer.takeNone();
  peer.advance(0.1);
  assert.deepEqual(reports(), [[0, [1, 10]]]);
  assert.equal(peer.clock.timers, 0);
  put(10);
  peer.takeNone();
  peer.advance(1);
  assert.deepEqual(reports(), [[0, [1, 11]]]);
  peer.advance(1000);
  peer.takeNone();
});

gaps("a twentieth of the least round trip, if that is sooner; nothing is held where it is below 4 ms", () => {
  const { peer, put, reports } = ahead(10);
  put(4);
  peer.advance(0.49);
  peer.takeNone();
  peer.advance(0.02);
  assert.deepEqual(reports(), [[0, [1, 5]]]);
  const near = ahead(3);
  near.put(4);
  assert.deepEqual(near.reports(), [[0, [1, 5]]]);
});

gaps("the round trip is also that of timestamps: the least", () => {
  const { peer, put, reports } = begin(100, { timestamps: true });
  const { echo } = peer; // of the handshake's ACK
  peer.advance(10);
  for (const [from, to] of pieces(1, 4)) put(from, to, { echo });
  assert.equal(reports().length, REPORT_AT_ONCE_COUNT);
  put(4, 5, { echo });
  peer.advance(0.51);
  assert.deepEqual(reports(), [[0, [1, 5]]]);
});

gaps("the gap filled: at once, and what waited is reported with it", () => {
  const { peer, sink, put, reports } = ahead();
  put(4);
  put(5);
  peer.takeNone();
  put(0);
  assert.deepEqual(reports(), [[6]]);
  assert.deepEqual([sink.received, sink.wrongAt], [6000, -1]);
  peer.advance(1000);
  peer.takeNone();
  assert.equal(peer.clock.timers, 0);
  // The next gap begins anew.
  for (const [from, to] of pieces(7, 10)) put(from, to);
  assert.equal(reports().length, REPORT_AT_ONCE_COUNT);
  put(10);
  peer.takeNone();
});

gaps("a part of a gap filled, another gap opened or shrunk, a repeated segment: at once", () => {
  const { peer, put, reports } = ahead();
  put(4);
  put(6); // opens
  assert.deepEqual(reports(), [[0, [6, 7], [1, 5]]]);
  put(9);
  assert.deepEqual(reports(), [[0, [9, 10], [6, 7], [1, 5]]]);
  put(7); // shrinks
  assert.deepEqual(reports(), [[0, [6, 8], [9, 10], [1, 5]]]);
  put(8); // closes
  assert.deepEqual(reports(), [[0, [6, 10], [1, 5]]]);
  put(10);
  peer.takeNone();
  put(2); // RFC 2883
  assert.deepEqual(reports(), [[0, [2, 3], [1, 5], [6, 11]]]);
  put(11);
  peer.takeNone();
  put(0);
  assert.deepEqual(reports(), [[5, [6, 12]]]);
  peer.advance(1000);
  peer.takeNone();
});

gaps("at most 44 wait", () => {
  const { peer, put, reports } = ahead();
  for (let i = 4; i < 48; i++) put(i);
  peer.takeNone();
  put(48);
  assert.deepEqual(reports(), [[0, [1, 49]]]);
  for (let i = 49; i < 60; i++) put(i);
  peer.takeNone();
});

gaps("without SACK each one is a duplicate ACK: RFC 5681 §3.2 counts them", () => {
  const { put, reports } = begin(100, { sack: false });
  for (let i = 1; i < 10; i++) put(i);
  assert.deepEqual(reports(), new Array(9).fill([0]));
});

gaps("a super-segment counts as one", () => {
  const { peer, put, reports } = begin(100);
  for (const [from, to] of pieces(1, 1 + 3 * REPORT_AT_ONCE_COUNT)) {
    put(from, to, { gsoSize: LEN });
    assert.deepEqual(reports(), [[0, [1, to]]]);
  }
  put(31, 34, { gsoSize: LEN });
  peer.takeNone();
  peer.advance(1);
  assert.deepEqual(reports(), [[0, [1, 34]]]);
});

gaps("data of ours carries no blocks: the report follows all the same", () => {
  const { peer, connection, put, reports } = ahead();
  put(4);
  connection.write(pattern(0, 100));
  assert.equal(peer.takeOne().len, 100);
  peer.advance(1);
  assert.deepEqual(reports(), [[0, [1, 5]]]);
});

gaps("the gap filled and answered with data: nothing follows", () => {
  const { peer, connection, put } = ahead();
  connection.onReadable = () => {
    while (connection.read() !== null);
    connection.write(pattern(0, 100));
  };
  put(4);
  put(0);
  assert.deepEqual(peer.take().map(({ len }) => len), [100]);
  peer.advance(1);
  peer.takeNone();
});

gaps("a FIN ahead of a gap is acknowledged at once; an end while a report waits leaves no timer", () => {
  const { peer, connection, put, reports } = ahead();
  put(4);
  put(5, 6, { flags: FLAG.ACK | FLAG.FIN });
  assert.deepEqual(reports(), [[0, [1, 6]]]);
  const other = ahead();
  other.put(4);
  other.connection.abort();
  assert.deepEqual(other.peer.take().map(({ flags }) => flags & FLAG.RST), [FLAG.RST]);
  assert.equal(other.peer.clock.timers, 0);
  connection.abort();
  assert.equal(peer.clock.timers, 0);
});

gaps("on a way that reorders, hardly more ACKs than on one that does not", () => {
  // 300 Mbit/s: about 26 segments come in a ms. Each hundredth is late by 2 ms, behind 52 others.
  const wire = new Wire({ delayMs: 5, rate: 300_000, queueLen: 1_200_000 });
  const { client, server } = wire.pair();
  const sink = new Sink(server);
  let data = 0;
  wire.delay = (seen) => (seen.len > 0 && data++ % 100 === 99 ? 2 : 0);
  const total = 4_000_000;
  pour(client, total);
  assert.equal(wire.clock.runUntil(() => sink.ended, 10_000), true);
  const acks = wire.seen.filter(({ from, len }) => from === "b" && len === 0).length;
  assert.deepEqual([sink.received, sink.wrongAt, client.info().timeouts], [total, -1, 0]);
  const count = `${acks} ACKs for ${data} segments`;
  assert.equal(acks < 0.55 * data, true, count);
});

gaps.run();
