// RFC 9293 §3.3.2, figure 5: every transition, with the segment that each side sees; and §3.10 for the unwanted ones.

import assert from "node:assert/strict";
import { suite } from "uvu";
import { TIME_WAIT_MS } from "../../host/netstack/tcp/constants.ts";
import type { WasmguardError } from "../../host/errors.ts";
import { flagNames, Peer, PORT } from "./tcp-peer.ts";
import { FLAG, pattern, Sink, Wire } from "./tcp-wire.ts";

const { ACK, FIN, RST, SYN } = FLAG;

const opening = suite("tcp: opening");

opening("§3.5 figure 6: SYN_SENT to ESTABLISHED; SYN offers all options (RFC 7323, 2018)", () => {
  const peer = new Peer();
  const connection = peer.tcp.connect({ ...peer.address, port: 5000 });
  let connected = 0;
  connection.onConnected = () => connected++;
  assert.equal(connection.state, "synSent");
  const syn = peer.takeOne();
  assert.equal(flagNames(syn), "SYN");
  assert.deepEqual([syn.mss, syn.sackPermitted, syn.scale, syn.timestamps !== undefined], [1380, true, 7, true]);
  assert.equal(syn.window, 65_535);
  peer.hostPort = syn.sourcePort;
  peer.send({ flags: SYN | ACK, acknowledgment: syn.sequence + 1, options: peer.synOptions() });
  peer.next = peer.initial + 1;
  const ack = peer.takeOne();
  assert.equal(flagNames(ack), "ACK");
  assert.deepEqual([ack.sequence, ack.acknowledgment], [(syn.sequence + 1) >>> 0, peer.initial + 1]);
  assert.equal(connected, 1);
  assert.equal(connection.state, "established");
  peer.advance(1000);
  assert.equal(peer.clock.timers, 0);
});

opening("LISTEN to SYN_RECEIVED to ESTABLISHED; options as the SYN had them", () => {
  const peer = new Peer({ timestamps: true, sack: false });
  const listener = peer.tcp.listen(PORT);
  const states: string[] = [];
  listener.onConnection = (connection) => states.push(connection.state);
  peer.send({ flags: SYN, acknowledgment: 0, options: peer.synOptions() });
  const answer = peer.takeOne();
  assert.equal(flagNames(answer), "SYN ACK");
  assert.deepEqual([answer.sackPermitted, answer.scale, answer.timestamps?.[1]], [false, undefined, peer.timestamp]);
  assert.deepEqual(states, []);
  assert.equal(peer.tcp.counts().connections, 1);
  peer.next = peer.initial + 1;
  peer.ack = answer.sequence + 1;
  peer.send({ flags: ACK });
  assert.deepEqual(states, ["established"]);
});

opening("IPv6: MSS is 20 bytes less", () => {
  const peer = new Peer({ family: 6 });
  peer.tcp.connect({ ...peer.address, port: 5000 });
  assert.equal(peer.takeOne().mss, 1360);
});

opening("§3.5 figure 7: simultaneous open", () => {
  const peer = new Peer();
  const connection = peer.tcp.connect({ ...peer.address, port: 5000 });
  const syn = peer.takeOne();
  peer.hostPort = syn.sourcePort;
  peer.send({ flags: SYN, acknowledgment: 0, options: peer.synOptions() });
  assert.equal(connection.state, "synReceived");
  const answer = peer.takeOne();
  assert.equal(flagNames(answer), "SYN ACK");
  assert.equal(answer.sequence, syn.sequence);
  peer.send({ flags: SYN | ACK, acknowledgment: syn.sequence + 1, options: peer.synOptions() });
  assert.equal(connection.state, "established");
});

opening("simultaneous open of two of ours", () => {
  const wire = new Wire();
  const x = wire.a.tcp.connect({ ...wire.b.address, port: 1000 }, { port: 2000 });
  const y = wire.b.tcp.connect({ ...wire.a.address, port: 2000 }, { port: 1000 });
  wire.clock.advance(100);
  assert.deepEqual([x.state, y.state], ["established", "established"]);
  const sink = new Sink(y);
  x.write(pattern(0, 5000));
  wire.clock.advance(100);
  assert.deepEqual([sink.received, sink.wrongAt], [5000, -1]);
});

opening("a refused port: RST, ECONNREFUSED", () => {
  const wire = new Wire();
  const connection = wire.a.tcp.connect({ ...wire.b.address, port: 9 });
  const sink = new Sink(connection);
  wire.clock.advance(100);
  assert.equal((sink.error as WasmguardError).code, "ECONNREFUSED");
  assert.match(sink.error?.message ?? "", /10\.0\.0\.2:9 refused/);
  assert.equal(connection.state, "closed");
  assert.deepEqual(wire.a.tcp.counts(), { connections: 0, timeWait: 0, listeners: 0 });
  assert.equal(wire.b.tcp.drops.noConnection, 1);
});

opening("§3.10.7.3: SYN_SENT answers a wrong ACK with an RST there, ignores an RST without ACK", () => {
  const peer = new Peer();
  const connection = peer.tcp.connect({ ...peer.address, port: 5000 });
  const syn = peer.takeOne();
  peer.hostPort = syn.sourcePort;
  peer.send({ flags: SYN | ACK, acknowledgment: syn.sequence + 2 });
  const reset = peer.takeOne();
  assert.equal(flagNames(reset), "RST");
  assert.equal(reset.sequence, (syn.sequence + 2) >>> 0);
  peer.send({ flags: RST | ACK, acknowledgment: syn.sequence });
  peer.send({ flags: RST });
  peer.takeNone();
  assert.equal(connection.state, "synSent");
});

opening("SYN is sent again after 1, 2, 4 s (RFC 6298 §2.1, §5.5), and given up after 3 minutes (§3.8.3)", () => {
  const peer = new Peer();
  const connection = peer.tcp.connect({ ...peer.address, port: 5000 });
  const sink = new Sink(connection);
  peer.advance(400_000);
  const times = peer.take().map((seen) => seen.at - 1000);
  assert.deepEqual(times.slice(0, 6), [0, 1000, 3000, 7000, 15_000, 31_000]);
  assert.equal((sink.error as WasmguardError).code, "ETIMEDOUT");
  assert.equal(peer.clock.timers, 0);
  assert.equal(peer.tcp.counts().connections, 0);
});

opening("a half-open connection: SYN again gets the SYN-ACK again; five time-outs end it", () => {
  const peer = new Peer();
  peer.tcp.listen(PORT).onConnection = () => assert.fail("nobody completed it");
  peer.send({ flags: SYN, options: peer.synOptions() });
  const first = peer.takeOne();
  peer.send({ flags: SYN, options: peer.synOptions() });
  const second = peer.takeOne();
  assert.deepEqual([flagNames(second), second.sequence], ["SYN ACK", first.sequence]);
  peer.advance(100_000);
  assert.equal(peer.take().length, 5);
  assert.equal(peer.tcp.counts().connections, 0);
  assert.equal(peer.clock.timers, 0);
});

opening("§3.10.7.4: a bad ACK in SYN_RECEIVED is answered with an RST, a RST ends it in silence", () => {
  const peer = new Peer();
  peer.tcp.listen(PORT).onConnection = () => assert.fail("nobody completed it");
  peer.send({ flags: SYN, options: peer.synOptions() });
  const answer = peer.takeOne();
  peer.next++;
  peer.send({ flags: ACK, acknowledgment: answer.sequence + 77 });
  const reset = peer.takeOne();
  assert.deepEqual([flagNames(reset), reset.sequence], ["RST", (answer.sequence + 77) >>> 0]);
  peer.send({ flags: RST });
  peer.takeNone();
  assert.equal(peer.tcp.counts().connections, 0);
});

opening("a listener that is gone, or that nobody attends, answers with RST", () => {
  const peer = new Peer();
  const listener = peer.tcp.listen(PORT);
  peer.send({ flags: SYN, acknowledgment: 0, options: peer.synOptions() });
  assert.equal(flagNames(peer.takeOne()), "RST ACK");
  listener.onConnection = () => {};
  peer.send({ flags: SYN, acknowledgment: 0, options: peer.synOptions() });
  peer.takeOne();
  listener.close();
  assert.equal(flagNames(peer.takeOne()), "RST ACK"); // to the half-open one
  peer.send({ flags: SYN, acknowledgment: 0, options: peer.synOptions() });
  assert.equal(flagNames(peer.takeOne()), "RST ACK");
  assert.deepEqual(peer.tcp.counts(), { connections: 0, timeWait: 0, listeners: 0 });
});

opening("data in a SYN is not taken, and comes again; data with the third segment is", () => {
  const peer = new Peer();
  let connection: import("../../host/netstack/types.ts").TcpConnection | null = null;
  peer.tcp.listen(PORT).onConnection = (it) => (connection = it);
  peer.send({ flags: SYN, options: peer.synOptions(), payload: pattern(0, 10) });
  const answer = peer.takeOne();
  assert.equal(answer.acknowledgment, peer.initial + 1);
  peer.next++;
  peer.ack = answer.sequence + 1;
  peer.data(pattern(0, 10));
  assert.deepEqual(connection!.read(), pattern(0, 10));
});

opening("errors of the caller", () => {
  const { tcp, address } = new Peer();
  assert.throws(() => tcp.connect({ ...address, port: 70_000 }), /port 70000: it is not in 1\.\.65535/);
  const v6 = { family: 6 as const, address: new Uint8Array(16).fill(1), port: 1 };
  assert.throws(() => tcp.connect(v6), { code: "EADDRNOTAVAIL" });
  tcp.listen(1);
  assert.throws(() => tcp.listen(1), { code: "EADDRINUSE" });
  assert.throws(() => tcp.listen(2, { address }), { code: "EADDRNOTAVAIL" });
  tcp.connect({ ...address, port: 5 }, { port: 6 });
  assert.throws(() => tcp.connect({ ...address, port: 5 }, { port: 6 }), { code: "EADDRINUSE" });
  tcp.close();
  assert.throws(() => tcp.listen(3), { code: "ENETDOWN" });
  assert.deepEqual(tcp.counts(), { connections: 0, timeWait: 0, listeners: 0 });
});

opening.run();

const closing = suite("tcp: closing");

closing("§3.6 figure 12: FIN_WAIT_1, FIN_WAIT_2, TIME_WAIT, CLOSED after 2 MSL", () => {
  const peer = new Peer();
  const connection = peer.accept();
  const sink = new Sink(connection);
  connection.shutdown();
  assert.equal(connection.state, "finWait1");
  const fin = peer.takeOne();
  assert.equal(flagNames(fin), "FIN ACK");
  peer.acknowledge(1);
  assert.equal(connection.state, "finWait2");
  peer.data(pattern(0, 100)); // half-close: the other direction lives
  assert.equal(sink.received, 100);
  peer.take();
  peer.data(new Uint8Array(0), FIN | ACK);
  assert.equal(connection.state, "timeWait");
  assert.equal(peer.takeOne().acknowledgment, peer.next);
  assert.deepEqual([sink.closed, sink.ended, sink.error], [true, true, null]);
  assert.deepEqual(peer.tcp.counts(), { connections: 0, timeWait: 1, listeners: 0 });
  peer.send({ flags: FIN | ACK, sequence: peer.next - 1 }); // the last ACK was lost
  assert.equal(peer.takeOne().acknowledgment, peer.next);
  peer.send({ flags: RST, sequence: peer.next }); // RFC 1337
  assert.equal(peer.tcp.counts().timeWait, 1);
  peer.advance(TIME_WAIT_MS + 2000);
  assert.equal(connection.state, "closed");
  assert.equal(peer.tcp.counts().timeWait, 0);
  assert.equal(peer.clock.timers, 0);
});

closing("CLOSE_WAIT, LAST_ACK, CLOSED: the reader of a half-closed stream may still be written to", () => {
  const peer = new Peer();
  const { connection } = peer.connect();
  const sink = new Sink(connection);
  peer.data(new Uint8Array(0), FIN | ACK);
  assert.equal(connection.state, "closeWait");
  assert.equal(connection.ended, true);
  assert.equal(peer.takeOne().acknowledgment, peer.next);
  connection.write(pattern(0, 10));
  assert.equal(peer.takeOne().len, 10);
  connection.shutdown();
  assert.equal(connection.state, "lastAck");
  peer.takeOne();
  peer.acknowledge(11);
  assert.deepEqual([connection.state, sink.closed, sink.error], ["closed", true, null]);
  assert.equal(peer.tcp.counts().connections, 0);
});

closing("§3.6 figure 13: simultaneous close: FIN_WAIT_1, CLOSING, TIME_WAIT", () => {
  const peer = new Peer();
  const connection = peer.accept();
  connection.shutdown();
  peer.takeOne();
  peer.data(new Uint8Array(0), FIN | ACK); // does not acknowledge ours
  assert.equal(connection.state, "closing");
  peer.take();
  peer.acknowledge(1);
  assert.equal(connection.state, "timeWait");
});

closing("FIN with ACK of ours: FIN_WAIT_1 to TIME_WAIT at once", () => {
  const peer = new Peer();
  const connection = peer.accept();
  connection.shutdown();
  peer.takeOne();
  peer.ack++;
  peer.data(new Uint8Array(0), FIN | ACK);
  assert.equal(connection.state, "timeWait");
});

closing("FIN waits for data, goes with the last of it, and is sent again", () => {
  const peer = new Peer();
  const connection = peer.accept();
  connection.write(pattern(0, 30_000));
  connection.shutdown();
  let data = peer.take();
  assert.equal(data.some((seen) => seen.flags & FIN), false);
  while (!data.some((seen) => seen.flags & FIN)) {
    peer.acknowledge(data.reduce((sum, seen) => sum + seen.len, 0));
    data = peer.take();
    assert.equal(data.length > 0, true);
  }
  const last = data[data.length - 1];
  assert.equal(last.len > 0 && (last.flags & FIN) !== 0, true);
  assert.equal(connection.write(pattern(0, 1)), 0);
  peer.advance(3000);
  assert.equal(peer.take().some((seen) => seen.flags & FIN), true);
});

closing("a FIN ahead of a gap counts when the gap is filled", () => {
  const peer = new Peer();
  const connection = peer.accept();
  const sink = new Sink(connection);
  peer.send({ flags: FIN | ACK, sequence: peer.next + 100, payload: pattern(100, 50) });
  assert.deepEqual([connection.state, sink.received], ["established", 0]);
  assert.equal(peer.takeOne().acknowledgment, peer.next);
  peer.data(pattern(0, 100));
  assert.deepEqual([connection.state, sink.received, sink.ended], ["closeWait", 150, true]);
  assert.equal(peer.take().at(-1)?.acknowledgment, peer.next + 51);
});

closing("abort: RST at our next number, onClosed with the error", () => {
  const peer = new Peer();
  const connection = peer.accept();
  const sink = new Sink(connection);
  connection.write(pattern(0, 10));
  peer.take();
  connection.abort(new Error("enough"));
  const reset = peer.takeOne();
  assert.deepEqual([flagNames(reset), peer.at(reset.sequence)], ["RST ACK", 10]);
  assert.equal(sink.error?.message, "enough");
  assert.equal(peer.clock.timers, 0);
  peer.data(pattern(0, 10));
  assert.equal(flagNames(peer.takeOne()), "RST"); // half-open: there is nobody any more
});

closing("close(): unread data is answered with RST, later data too; FIN_WAIT_2 ends by itself", () => {
  const first = new Peer();
  const unread = first.accept();
  first.data(pattern(0, 10));
  first.take();
  unread.close();
  assert.equal(flagNames(first.takeOne()), "RST ACK");

  const second = new Peer();
  const later = second.accept();
  const sink = new Sink(later);
  later.close();
  assert.equal(flagNames(second.takeOne()), "FIN ACK");
  second.acknowledge(1);
  second.data(pattern(0, 10));
  assert.equal(flagNames(second.takeOne()), "RST ACK");
  assert.equal((sink.error as WasmguardError).code, "ECONNRESET");
  assert.equal(second.tcp.drops.nobodyReads, 1);

  const third = new Peer();
  const silent = third.accept();
  silent.close();
  third.take();
  third.acknowledge(1);
  assert.equal(silent.state, "finWait2");
  third.advance(61_000);
  assert.equal(silent.state, "closed");
  assert.equal(third.clock.timers, 0);
});

closing("RST in ESTABLISHED: ECONNRESET", () => {
  const peer = new Peer();
  const sink = new Sink(peer.accept());
  peer.send({ flags: RST });
  assert.equal((sink.error as WasmguardError).code, "ECONNRESET");
  peer.takeNone();
});

closing("§3.10.7.1: what belongs to nobody gets an RST that its sender accepts", () => {
  const peer = new Peer();
  peer.send({ flags: ACK, acknowledgment: 12_345, payload: pattern(0, 5) });
  const withAck = peer.takeOne();
  assert.deepEqual([flagNames(withAck), withAck.sequence], ["RST", 12_345]);
  peer.send({ flags: SYN | FLAG.PSH, sequence: 500, payload: pattern(0, 5) });
  const withoutAck = peer.takeOne();
  assert.deepEqual([flagNames(withoutAck), withoutAck.sequence, withoutAck.acknowledgment], ["RST ACK", 0, 506]);
  peer.send({ flags: RST });
  peer.takeNone();
  assert.deepEqual([peer.tcp.drops.noConnection, peer.tcp.drops.strayReset], [2, 1]);
});

/** A connection of the peer's that the host closed first. */
function waiting(timestamps: boolean): Peer {
  const peer = new Peer({ timestamps });
  const { connection } = peer.connect();
  connection.shutdown();
  peer.acknowledge(1);
  peer.data(new Uint8Array(0), FIN | ACK);
  peer.take();
  assert.equal(connection.state, "timeWait");
  return peer;
}

closing("RFC 6191: a SYN with a newer timestamp, or a higher number, opens it again; an older one gets an ACK", () => {
  for (const timestamps of [true, false]) {
    const peer = waiting(timestamps);
    const old = peer.next;
    peer.advance(5);
    if (timestamps) peer.timestampBase -= 1000;
    peer.send({ flags: SYN, sequence: old - 5000, options: peer.synOptions() });
    assert.equal(flagNames(peer.takeOne()), "ACK");
    if (timestamps) peer.timestampBase += 2000;
    peer.send({ flags: SYN, sequence: timestamps ? old - 5000 : old + 5000, options: peer.synOptions() });
    const answer = peer.takeOne();
    assert.equal(flagNames(answer), "SYN ACK");
    assert.equal(peer.at(answer.sequence) > 1, true); // beyond what the old one used
    assert.equal(peer.tcp.counts().timeWait, 0);
  }
});

closing("the stack closes: everyone is told, nothing is left", () => {
  const wire = new Wire();
  const { client, server } = wire.pair();
  const [atClient, atServer] = [new Sink(client), new Sink(server)];
  wire.a.tcp.close();
  assert.equal((atClient.error as WasmguardError).code, "ECONNABORTED");
  wire.clock.advance(100);
  assert.equal((atServer.error as WasmguardError).code, "ECONNRESET");
  wire.b.tcp.close();
  assert.equal(wire.clock.timers, 0);
  assert.deepEqual(wire.b.tcp.counts(), { connections: 0, timeWait: 0, listeners: 0 });
});

closing.run();
