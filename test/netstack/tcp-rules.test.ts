// One rule of an RFC a test: windows, acknowledgments, probes, timestamps, blind attacks, the path.

import assert from "node:assert/strict";
import { suite } from "uvu";
import type { WasmguardError } from "../../host/errors.ts";
import { CHALLENGE_COUNT, USER_TIMEOUT_MS } from "../../host/netstack/tcp/constants.ts";
import { flagNames, Peer, PORT } from "./tcp-peer.ts";
import { FLAG, pattern, pour, Sink, Wire, type Seen } from "./tcp-wire.ts";

const { ACK, FIN, PSH, RST, SYN } = FLAG;

const windows = suite("tcp: windows and acknowledgments");

windows("RFC 9293 §3.8.6.3: at once while slow start needs it, then each second full segment, else after 40 ms", () => {
  const peer = new Peer();
  new Sink(peer.accept());
  for (let i = 0; i < 16; i++) {
    peer.data(pattern(i * 1000, 1000));
    assert.equal(peer.takeOne().acknowledgment, peer.next);
  }
  peer.data(pattern(16_000, 1000));
  peer.takeNone();
  peer.data(pattern(17_000, 1000));
  assert.equal(peer.takeOne().acknowledgment, peer.next);
  peer.data(pattern(18_000, 1000));
  peer.advance(39);
  peer.takeNone();
  peer.advance(1);
  assert.equal(peer.takeOne().acknowledgment, peer.next);
  assert.equal(peer.clock.timers, 0);
});

windows("a joined segment of two or more is acknowledged at once", () => {
  const peer = new Peer();
  new Sink(peer.accept());
  for (let i = 0; i < 16; i++) peer.data(pattern(i * 1000, 1000));
  peer.take();
  peer.send({ flags: ACK, payload: pattern(16_000, 40_000), gsoSize: 1000 });
  assert.equal(peer.takeOne().acknowledgment, peer.next + 40_000);
});

windows("an answer carries the ACK, and no other follows", () => {
  const peer = new Peer();
  const connection = peer.accept();
  connection.onReadable = () => connection.write(connection.read() as Uint8Array);
  peer.data(pattern(0, 100));
  const echo = peer.takeOne();
  assert.deepEqual([echo.len, echo.acknowledgment, flagNames(echo)], [100, peer.next, "ACK"]);
  peer.advance(100);
  peer.takeNone();
});

windows("RFC 5681 §4.2, RFC 2018 §4: out of order is acknowledged at once, the latest block first", () => {
  const peer = new Peer();
  const sink = new Sink(peer.accept());
  const base = peer.next;
  const blocks = (seen: Seen) => seen.sacks.map((edges) => edges.map((edge) => edge - base));
  const put = (from: number, len: number): Seen => {
    peer.send({ flags: ACK, sequence: base + from, payload: pattern(from, len) });
    const seen = peer.takeOne();
    assert.equal(seen.acknowledgment, base + sink.received);
    return seen;
  };
  assert.deepEqual(blocks(put(2000, 1000)), [[2000, 3000]]);
  assert.deepEqual(blocks(put(6000, 1000)), [[6000, 7000], [2000, 3000]]);
  assert.deepEqual(blocks(put(4000, 1000)), [[4000, 5000], [6000, 7000], [2000, 3000]]);
  assert.deepEqual(blocks(put(3000, 1000)), [[2000, 5000], [6000, 7000]]);
  assert.deepEqual(blocks(put(2500, 200)), [[2500, 2700], [2000, 5000], [6000, 7000]]); // RFC 2883 §4: a duplicate
  assert.deepEqual(blocks(put(0, 2000)), [[6000, 7000]]);
  assert.deepEqual(blocks(put(5000, 1000)), []);
  assert.deepEqual(blocks(put(500, 100)), [[500, 600]]); // below the number, too
  assert.deepEqual([sink.received, sink.wrongAt], [7000, -1]);
});

windows("without SACK there are no blocks", () => {
  const peer = new Peer({ sack: false });
  peer.accept();
  peer.send({ flags: ACK, sequence: peer.next + 1000, payload: pattern(1000, 10) });
  assert.deepEqual(peer.takeOne().sacks, []);
});

windows("the window closes when nobody reads, keeps its edge, and takes all that it promised", () => {
  for (const scale of [undefined, 7]) {
    const peer = new Peer({ scale });
    const connection = peer.accept();
    const unit = scale === undefined ? 1 : 128;
    let edge = 0;
    let at = 0;
    for (let guard = 0; guard < 500 && edge - at !== 0 || guard === 0; guard++) {
      const len = Math.min(777, guard === 0 ? 777 : edge - at);
      peer.data(pattern(at, len));
      at += len;
      peer.advance(50);
      const last = peer.take().at(-1) as Seen;
      assert.equal(last.acknowledgment, peer.next);
      const promised = at + last.window * unit;
      assert.equal(promised >= edge, true, `${edge} to ${promised}`);
      edge = promised;
    }
    assert.equal(edge, at);
    assert.equal(at >= 65_535 && at <= 65_536 + 65_536, true, `${at}`);
    assert.equal(connection.readable, at);
    peer.send({ flags: ACK, payload: pattern(at, 1) }); // a probe
    assert.equal(peer.takeOne().acknowledgment, peer.next);
    assert.equal(connection.readable, at);
    // §3.8.6.2.2: it opens by a segment or half of the buffer, not by a byte.
    connection.read(100);
    peer.takeNone();
    const rest: Uint8Array[] = [];
    for (let bytes = connection.read(); bytes !== null; bytes = connection.read()) rest.push(bytes);
    assert.deepEqual(Buffer.concat(rest).equals(pattern(100, at - 100)), true);
    const update = peer.take();
    assert.equal(update.length >= 1 && update[0].window > 0, true);
    assert.equal((update.at(-1) as Seen).window * unit >= 32_768, true);
  }
});

windows("byte by byte with nobody reading: the window closes, memory is bounded", () => {
  const peer = new Peer({ scale: 7 });
  const connection = peer.accept();
  let closed = false;
  let at = 0;
  for (; at < 200_000 && !closed; at++) {
    peer.data(pattern(at, 1));
    if (at % 100 === 0) peer.advance(50);
    for (const seen of peer.take()) closed = seen.window === 0;
  }
  assert.equal(closed, true);
  assert.equal(at < 65_536 + 65_536 + 256, true, `${at}`);
  assert.equal(connection.readable, at);
});

windows("the receive window grows with the reader, to 6 MiB", () => {
  const wire = new Wire({ gsoMaxSize: 65_535, join: true, delayMs: 20 });
  wire.record = false;
  const { client, server } = wire.pair();
  const sink = new Sink(server);
  pour(client, 60_000_000);
  let most = 0;
  while (!sink.ended && wire.clock.time < 60_000) {
    wire.clock.advance(20);
    most = Math.max(most, server.info().receiveWindow);
  }
  assert.deepEqual([sink.received, sink.wrongAt], [60_000_000, -1]);
  assert.equal(most > 3_000_000 && most < 6_500_000, true, `${most}`);
});

windows("a slow reader gets every byte, and the writer waits", () => {
  const wire = new Wire({ delayMs: 3, loss: 0.01 });
  const { client, server } = wire.pair();
  const len = 400_000;
  pour(client, len);
  wire.clock.advance(5000);
  assert.equal(client.bytesWritten < len, true);
  const got: Uint8Array[] = [];
  let size = 0;
  const slow = (): void => {
    const bytes = server.read(3000);
    if (bytes !== null) size += got.push(bytes) && bytes.length;
    if (!(server.ended && server.readable === 0)) wire.clock.at(wire.clock.time + 7, slow);
  };
  slow();
  assert.equal(wire.clock.runUntil(() => size === len, 600_000), true, `${size}`);
  assert.equal(Buffer.concat(got).equals(pattern(0, len)), true);
});

windows("RFC 9293 §3.8.6.1: a closed window is probed with back-off, for as long as the peer answers", () => {
  const peer = new Peer({ window: 1000 });
  const connection = peer.accept();
  connection.write(pattern(0, 5000));
  assert.equal(peer.takeOne().len, 1000);
  peer.advance(10);
  peer.acknowledge(1000, { window: 0 });
  peer.takeNone();
  const probes: number[] = [];
  for (let i = 0; i < 12; i++) {
    const before = peer.clock.time;
    assert.equal(peer.clock.runUntil(() => peer.all.length > 0 && peer.all.at(-1)!.at > before, 70_000), true);
    const probe = peer.takeOne();
    assert.deepEqual([peer.at(probe.sequence), probe.len], [1000, 1]);
    probes.push(Math.round(probe.at - before));
    peer.send({ flags: ACK, window: 0 });
  }
  assert.deepEqual(probes.slice(0, 4), [210, 420, 840, 1680]);
  assert.equal(probes.at(-1), 60_000);
  peer.acknowledge(0, { window: 65_535 });
  assert.deepEqual(peer.take().map((seen) => [peer.at(seen.sequence), seen.len]), [
    [1000, 1000], [2000, 1000], [3000, 1000], [4000, 1000],
  ]);
});

windows("a probe's byte that was taken counts", () => {
  const peer = new Peer({ window: 1000 });
  const connection = peer.accept();
  connection.write(pattern(0, 3000));
  peer.take();
  peer.acknowledge(1000, { window: 0 });
  peer.advance(300);
  peer.takeOne();
  peer.acknowledge(1, { window: 5000 });
  assert.deepEqual(peer.take().map((seen) => [peer.at(seen.sequence), seen.len]), [[1001, 1000], [2001, 999]]);
});

windows("a peer that stays silent behind a closed window is given up", () => {
  const peer = new Peer({ window: 1000 });
  const connection = peer.accept();
  const sink = new Sink(connection);
  connection.write(pattern(0, 3000));
  peer.acknowledge(1000, { window: 0 });
  peer.advance(2 * USER_TIMEOUT_MS);
  assert.equal((sink.error as WasmguardError).code, "ETIMEDOUT");
  assert.equal(peer.clock.timers, 0);
});

windows("§3.8.6.2.1: no silly segments into a small window; after a while what fits", () => {
  const peer = new Peer({ window: 10_000 });
  const connection = peer.accept();
  connection.write(pattern(0, 20_000));
  const sent = peer.take().reduce((sum, seen) => sum + seen.len, 0);
  assert.equal(sent, 10_000);
  peer.acknowledge(10_000, { window: 300 });
  peer.takeNone();
  peer.advance(199);
  peer.takeNone();
  peer.advance(2);
  assert.equal(peer.takeOne().len, 300);
});

windows("§3.8.6: a window that shrinks is borne: nothing beyond it is sent, what was sent comes again", () => {
  const peer = new Peer({ window: 8000 });
  const connection = peer.accept();
  connection.write(pattern(0, 20_000));
  assert.equal(peer.take().length, 8);
  peer.acknowledge(1000, { window: 2000 });
  peer.takeNone();
  peer.advance(10_000);
  assert.equal(peer.take().every((seen) => peer.at(seen.sequence) < 8000), true);
  peer.acknowledge(7000, { window: 8000 });
  assert.equal(peer.at(peer.take()[0].sequence), 8000);
});

windows("§3.7.4: Nagle holds what is short while something is in flight; no delay does not", () => {
  const peer = new Peer();
  const connection = peer.accept();
  connection.setNoDelay(false);
  connection.write(pattern(0, 10));
  connection.write(pattern(10, 10));
  connection.write(pattern(20, 10));
  assert.equal(peer.takeOne().len, 10);
  peer.acknowledge(10);
  assert.equal(peer.takeOne().len, 20);
  connection.setNoDelay(true);
  connection.write(pattern(30, 10));
  connection.write(pattern(40, 10));
  assert.equal(peer.take().length, 2);
});

windows("super-segments: one segment of many MSS, in whole ones, bounded by the windows; PSH at the end", () => {
  const peer = new Peer({ gsoMaxSize: 65_535, timestamps: true, scale: 7 });
  const connection = peer.accept();
  connection.write(pattern(0, 60_000));
  const first = peer.takeOne();
  assert.equal(first.len, 9880); // 10 segments: the initial window
  assert.equal(first.flags & PSH, 0);
  peer.acknowledge(9880);
  const second = peer.takeOne();
  assert.equal(second.len, 19_760);
  peer.acknowledge(19_760);
  const third = peer.takeOne();
  assert.deepEqual([third.len, third.flags & PSH], [60_000 - 9880 - 19_760, PSH]);
});

windows("RFC 9293 §3.8.4: keepalive probes an idle peer, and gives up on one that is gone", () => {
  const peer = new Peer();
  const connection = peer.accept();
  const sink = new Sink(connection);
  peer.advance(60_000);
  peer.takeNone();
  assert.equal(peer.clock.timers, 0); // off by default: an idle connection has no timer
  connection.setKeepAlive(10_000);
  peer.advance(5000);
  peer.data(pattern(0, 10));
  peer.take();
  peer.advance(9999);
  peer.takeNone();
  peer.advance(2);
  const probe = peer.takeOne();
  assert.deepEqual([peer.at(probe.sequence), probe.len], [-1, 0]);
  peer.send({ flags: ACK });
  peer.advance(9000);
  peer.takeNone();
  peer.advance(200_000);
  const probes = peer.take();
  assert.equal(probes.length, 10);
  assert.equal(flagNames(probes.at(-1) as Seen), "RST ACK");
  assert.equal((sink.error as WasmguardError).code, "ETIMEDOUT");
  assert.equal(peer.clock.timers, 0);
});

windows("a keepalive of the peer is answered", () => {
  const peer = new Peer();
  peer.accept();
  peer.send({ flags: ACK, sequence: peer.next - 1 });
  assert.equal(peer.takeOne().acknowledgment, peer.next);
});

windows("the urgent pointer is ignored, data stays in line (RFC 6093)", () => {
  const peer = new Peer();
  const sink = new Sink(peer.accept());
  peer.data(pattern(0, 10), ACK | FLAG.URG);
  assert.equal(sink.received, 10);
});

windows("onWritable comes after a write that did not fit, when there is worthwhile room", () => {
  const peer = new Peer({ window: 60_000 });
  const connection = peer.accept();
  let calls = 0;
  connection.onWritable = () => calls++;
  const taken = connection.write(new Uint8Array(100_000));
  assert.equal(taken, 65_536);
  assert.equal(connection.writable, 0);
  peer.acknowledge(1000);
  assert.equal(calls, 0);
  peer.acknowledge(9000);
  peer.acknowledge(10_000);
  assert.equal(calls, 1);
  assert.equal(connection.writable >= 16_384, true);
});

windows.run();

const guards = suite("tcp: timestamps, blind attacks, floods");

guards("RFC 7323 §5.3 PAWS: an older timestamp is dropped and acknowledged; RST is exempt", () => {
  const peer = new Peer({ timestamps: true });
  const sink = new Sink(peer.accept());
  peer.advance(100);
  peer.data(pattern(0, 10));
  peer.take();
  peer.send({ flags: ACK, payload: pattern(10, 10), timestamp: peer.timestamp - 50 });
  assert.equal(sink.received, 10);
  assert.equal(peer.tcp.drops.paws, 1);
  assert.equal(peer.takeOne().acknowledgment, peer.next);
  peer.data(pattern(10, 10));
  assert.equal(sink.received, 20);
  peer.send({ flags: RST, timestamp: peer.timestamp - 50 });
  assert.equal(sink.closed, true);
});

guards("RFC 7323 §5.5: after 24 days of silence the old timestamp does not count", () => {
  const peer = new Peer({ timestamps: true });
  const sink = new Sink(peer.accept());
  peer.advance(25 * 24 * 3_600_000);
  peer.timestampBase -= 26 * 24 * 3_600_000;
  peer.data(pattern(0, 10));
  assert.equal(sink.received, 10);
});

guards("RFC 7323 §4.3: the echo is of the segment that the ACK waits for, not of one ahead of a gap", () => {
  const peer = new Peer({ timestamps: true });
  new Sink(peer.accept());
  peer.advance(10);
  const first = peer.timestamp;
  peer.data(pattern(0, 1000));
  assert.equal(peer.takeOne().timestamps?.[1], first);
  peer.advance(10);
  peer.send({ flags: ACK, sequence: peer.next + 1000, payload: pattern(2000, 1000) });
  assert.equal(peer.takeOne().timestamps?.[1], first);
  peer.advance(10);
  const filling = peer.timestamp;
  peer.data(pattern(1000, 1000));
  assert.equal(peer.takeOne().timestamps?.[1], filling);
});

guards("RFC 5961 §3: a RST in the window but not next gets a challenge ACK; the next number resets", () => {
  const peer = new Peer();
  const connection = peer.accept();
  peer.send({ flags: RST, sequence: peer.next + 10 });
  assert.equal(connection.state, "established");
  assert.deepEqual([flagNames(peer.takeOne())], ["ACK"]);
  peer.send({ flags: RST, sequence: peer.next - 10 });
  peer.send({ flags: RST, sequence: peer.next + 100_000 });
  peer.takeNone();
  peer.send({ flags: RST });
  assert.equal(connection.state, "closed");
});

guards("RFC 5961 §4: a SYN gets a challenge ACK", () => {
  const peer = new Peer();
  const connection = peer.accept();
  peer.send({ flags: SYN, sequence: peer.next + 10 });
  const challenge = peer.takeOne();
  assert.deepEqual([flagNames(challenge), challenge.acknowledgment], ["ACK", peer.next]);
  assert.equal(connection.state, "established");
});

guards("RFC 5961 §5: an ACK of what was never sent, or long ago, gets a challenge ACK and nothing else counts", () => {
  const peer = new Peer();
  const sink = new Sink(peer.accept());
  peer.send({ flags: ACK, acknowledgment: peer.ack + 1, payload: pattern(0, 10) });
  peer.send({ flags: ACK, acknowledgment: peer.ack - 70_000, payload: pattern(0, 10) });
  assert.equal(sink.received, 0);
  assert.deepEqual(peer.take().map(flagNames), ["ACK", "ACK"]);
  assert.equal(peer.tcp.drops.badAck, 2);
});

guards("RFC 5961 §7: challenge ACKs are few", () => {
  const peer = new Peer();
  peer.accept();
  for (let i = 0; i < 1000; i++) peer.send({ flags: RST, sequence: peer.next + 10 });
  assert.equal(peer.take().length, CHALLENGE_COUNT);
  peer.advance(5000);
  peer.send({ flags: SYN, sequence: peer.next + 10 });
  peer.takeOne();
});

guards("RFC 9293 §3.10.7.4: outside of the window is dropped and acknowledged", () => {
  const peer = new Peer();
  const sink = new Sink(peer.accept());
  peer.send({ flags: ACK, sequence: peer.next + 70_000, payload: pattern(0, 10) });
  assert.equal(peer.takeOne().acknowledgment, peer.next);
  assert.equal(sink.received, 0);
  assert.equal(peer.tcp.drops.outOfWindow, 1);
});

guards("data that reaches beyond the window is cut there", () => {
  const peer = new Peer();
  const connection = peer.accept();
  const edge = connection.info().receiveWindow;
  peer.data(pattern(0, edge - 10));
  peer.take();
  peer.send({ flags: ACK | FIN, payload: pattern(edge - 10, 30) });
  assert.equal(peer.takeOne().acknowledgment, peer.next + 10);
  assert.deepEqual([connection.readable, connection.ended], [edge, false]);
});

guards("nothing follows a FIN", () => {
  const peer = new Peer();
  const sink = new Sink(peer.accept());
  peer.send({ flags: ACK, sequence: peer.next + 10, payload: pattern(10, 10) });
  peer.send({ flags: ACK | FIN, sequence: peer.next, payload: pattern(0, 5) }); // a FIN before what came already
  peer.data(pattern(0, 10));
  assert.deepEqual([sink.received, sink.ended], [20, false]);
});

guards("a SYN flood: half-open ones are bounded, the oldest gives way, the newest still gets in", () => {
  const peer = new Peer();
  let open = 0;
  peer.tcp.listen(PORT, { backlog: 16 }).onConnection = () => open++;
  for (let i = 0; i < 5000; i++) {
    peer.port = 1024 + i;
    peer.send({ flags: SYN, options: peer.synOptions() });
  }
  assert.equal(peer.tcp.counts().connections, 16);
  assert.equal(peer.clock.timers <= 16, true);
  assert.equal(peer.tcp.drops.backlog, 4984);
  const answer = peer.take().at(-1) as Seen;
  peer.send({ flags: ACK, sequence: peer.initial + 1, acknowledgment: answer.sequence + 1 });
  assert.equal(open, 1);
  peer.advance(200_000);
  assert.equal(peer.tcp.counts().connections, 1);
  assert.equal(peer.clock.timers, 0);
});

guards("RFC 6528: numbers differ by socket pair, grow with the clock; RFC 6056: ports are spread", () => {
  const peer = new Peer();
  const connect = (port: number) => {
    peer.tcp.connect({ ...peer.address, port }).abort();
    return peer.take()[0];
  };
  const first = peer.tcp.connect({ ...peer.address, port: 1 }, { port: 4000 });
  const a = peer.takeOne().sequence;
  first.abort();
  peer.advance(100);
  peer.tcp.connect({ ...peer.address, port: 1 }, { port: 4000 });
  assert.equal((peer.takeOne().sequence - a) >>> 0, 25_000); // 4 us each
  const seen = Array.from({ length: 50 }, (_, i) => connect(100 + i));
  assert.equal(new Set(seen.map((syn) => syn.sequence)).size, 50);
  const ports = seen.map((syn) => syn.sourcePort);
  assert.equal(new Set(ports).size > 45, true);
  assert.equal(ports.every((port) => port >= 32_768), true);
  const ascending = ports.filter((port, i) => i > 0 && port > ports[i - 1]).length;
  assert.equal(ascending > 10 && ascending < 40, true, `${ascending}`);
});

guards.run();

const path = suite("tcp: the path");

path("RFC 9293 §3.7.1: segments are no longer than the peer's MSS, less the options; 536 without one", () => {
  const cases = [[700, false, 700], [700, true, 688], [0, false, 536], [9000, false, 1380]] as const;
  for (const [mss, timestamps, expected] of cases) {
    const peer = new Peer({ mss, timestamps });
    peer.accept().write(pattern(0, 3000));
    assert.equal(peer.take()[0].len, expected);
  }
});

path("RFC 1191: too big lowers the size and sends again, without slowing down", () => {
  const peer = new Peer({ mss: 1380 });
  const connection = peer.accept();
  connection.write(pattern(0, 6000));
  const first = peer.take();
  assert.equal(first[0].len, 1380);
  const window = connection.info().congestionWindow;
  peer.tcp.error(peer.ourHeader, first[0].bytes.subarray(0, 8), { kind: "tooBig", mtu: 1000 });
  const again = peer.take();
  assert.deepEqual([peer.at(again[0].sequence), again[0].len], [0, 960]);
  assert.equal(again.every((seen) => seen.len <= 960), true);
  assert.equal(again.reduce((sum, seen) => sum + seen.len, 0) >= 4 * 1380, true);
  assert.equal(connection.info().congestionWindow >= window, true);
  const stale = first[0].bytes.slice(0, 8);
  new DataView(stale.buffer).setUint32(4, first[0].sequence - 5000);
  peer.tcp.error(peer.ourHeader, stale, { kind: "tooBig", mtu: 300 }); // RFC 5927: not in flight
  assert.equal(connection.info().mss, 960);
  assert.equal(peer.tcp.drops.strayError, 1);
});

path("a path that swallows long segments without a word", () => {
  const wire = new Wire({ delayMs: 2 });
  const { client, server } = wire.pair();
  const sink = new Sink(server);
  wire.filter = (seen) => seen.bytes.length + 20 > 1280;
  pour(client, 100_000);
  assert.equal(wire.clock.runUntil(() => sink.ended, 120_000), true);
  assert.deepEqual([sink.received, sink.wrongAt], [100_000, -1]);
  assert.equal(client.info().mss, 1200);
});

path("ICMP: hard while connecting, soft later (RFC 5461)", () => {
  const hard = [
    ["unreachable", "EHOSTUNREACH"],
    ["portUnreachable", "ECONNREFUSED"],
    ["prohibited", "EHOSTUNREACH"],
  ] as const;
  for (const [kind, code] of hard) {
    const peer = new Peer();
    const sink = new Sink(peer.tcp.connect({ ...peer.address, port: 5000 }));
    peer.tcp.error(peer.ourHeader, peer.takeOne().bytes, { kind });
    assert.equal((sink.error as WasmguardError).code, code);
    assert.equal(peer.clock.timers, 0);
  }
  const peer = new Peer();
  const connection = peer.accept();
  const sink = new Sink(connection);
  connection.write(pattern(0, 10));
  peer.tcp.error(peer.ourHeader, peer.takeOne().bytes, { kind: "unreachable" });
  assert.equal(connection.state, "established");
  peer.advance(2 * USER_TIMEOUT_MS);
  assert.equal((sink.error as WasmguardError).code, "ETIMEDOUT");
  assert.match(String((sink.error as Error).cause), /unreachable/);
});

path("a callback that throws harms nobody else: the ACK goes out, the timer is set, the stream goes on", () => {
  const peer = new Peer();
  const connection = peer.accept();
  connection.onReadable = () => {
    connection.write(pattern(0, 10));
    throw new Error("of the application");
  };
  assert.throws(() => peer.data(pattern(0, 10)), /of the application/);
  assert.equal(peer.takeOne().acknowledgment, peer.initial + 11);
  peer.next = peer.initial + 11;
  peer.advance(1000);
  assert.equal(peer.take().length > 0, true); // sent again
  connection.onReadable = null;
  peer.data(pattern(10, 10));
  assert.deepEqual(connection.read(), pattern(0, 20));
});

path("an error that the stack finds within connect() is told after it", () => {
  const peer = new Peer();
  const { out } = peer.host;
  peer.host.out = (bytes, gsoSize, outgoing) => {
    out(bytes, gsoSize, outgoing);
    peer.tcp.error(peer.ourHeader, bytes, { kind: "unreachable" });
  };
  const sink = new Sink(peer.tcp.connect({ ...peer.address, port: 5000 }));
  assert.equal(sink.closed, false);
  peer.advance(1);
  assert.equal((sink.error as WasmguardError).code, "EHOSTUNREACH");
  assert.equal(peer.clock.timers, 0);
});

path("segments that arrive while one is sent wait: a link that answers within send()", () => {
  const wire = new Wire();
  wire.record = false;
  wire.a.out = (bytes) => wire.b.receive(bytes.slice(), wire.a.address);
  wire.b.out = (bytes) => wire.a.receive(bytes.slice(), wire.b.address);
  const { client, server } = wire.pair();
  const sinks = [new Sink(client), new Sink(server)];
  pour(client, 300_000);
  pour(server, 300_000);
  wire.clock.advance(10_000);
  for (const sink of sinks) assert.deepEqual([sink.received, sink.wrongAt, sink.ended], [300_000, -1, true]);
});

path.run();
