// Whatever comes: no throw, bounded memory, and nothing left at the end.

import assert from "node:assert/strict";
import { suite } from "uvu";
import type { Receiver } from "../../host/netstack/tcp/receiver.ts";
import type { Sender } from "../../host/netstack/tcp/sender.ts";
import type { TcpConnection } from "../../host/netstack/types.ts";
import { Peer, PORT } from "./tcp-peer.ts";
import { craft, FLAG, option, pattern, pour, randomFrom, Sink, Wire } from "./tcp-wire.ts";

const hostile = suite("tcp: hostile segments");

/** The halves of a connection, to look at what they hold. */
const inside = (connection: TcpConnection) => connection as unknown as { sender: Sender; receiver: Receiver };

/** A number near one of those that matter, or anywhere. */
function near(random: () => number, marks: number[]): number {
  const mark = marks[Math.floor(random() * marks.length)];
  const far = [0, 1, 2, 10, 1000, 70_000, 2 ** 31, 2 ** 32][Math.floor(random() * 8)];
  return (mark + Math.floor((random() - 0.5) * 2 * far)) >>> 0;
}

function options(random: () => number, peer: Peer): number[] {
  const parts: number[] = [];
  while (random() < 0.6 && parts.length < 36) {
    const position = () => near(random, [peer.ack, peer.wire(0), peer.wire(20_000)]);
    parts.push(
      ...[
        () => option.timestamps(near(random, [peer.timestamp]), near(random, [peer.echo, 0])),
        () => option.sacks([position(), position()]),
        () => option.sacks([position(), position()], [position(), position()]),
        () => option.mss(Math.floor(random() * 65_536)),
        () => option.scale(Math.floor(random() * 256)),
        () => [Math.floor(random() * 256), Math.floor(random() * 12)],
        () => [1],
      ][Math.floor(random() * 7)](),
    );
  }
  return parts.slice(0, 40);
}

for (const timestamps of [false, true]) {
  hostile(`any segments at a connection that sends and receives${timestamps ? ", with timestamps" : ""}`, () => {
    let survived = 0;
    for (let seed = 1; seed <= 60; seed++) {
      const random = randomFrom(seed);
      const peer = new Peer({ timestamps, scale: 7, gsoMaxSize: seed % 2 ? 65_535 : 0, seed });
      const { connection, listener } = peer.connect();
      let closed = 0;
      connection.onClosed = () => closed++;
      pour(connection, 3_000_000, { shutdown: seed % 5 === 0 });
      const { ACK, FIN, PSH, RST, SYN, URG } = FLAG;
      const flags = [ACK, ACK | PSH, ACK | URG, SYN, FIN | ACK, RST, 0xff, 0];
      for (let i = 0; i < 1500; i++) {
        const sane = random() < 0.5;
        const sequence = near(random, [peer.next, peer.next + 30_000]);
        const acknowledgment = near(random, [peer.ack, peer.wire(20_000), peer.all.at(-1)?.sequence ?? 0]);
        // Resets and FINs that hit would end the fun too soon: they are rare.
        const flag = random() < 0.97 ? flags[Math.floor(random() * 3)] : flags[Math.floor(random() * 8)];
        const bytes = craft({
          sourcePort: peer.port,
          destinationPort: random() < 0.99 ? PORT : Math.floor(random() * 3),
          sequence: sane ? peer.next + Math.floor(random() * 3) * 1000 : sequence,
          acknowledgment,
          flags: flag,
          window: [0, 1, 100, 65_535][Math.floor(random() * 4)],
          payload: random() < 0.5 ? undefined : pattern(0, Math.floor(random() ** 3 * 5000)),
          options: options(random, peer),
        });
        if (random() < 0.05) bytes[12] = Math.floor(random() * 256);
        const len = random() < 0.02 ? Math.floor(random() * bytes.length) : bytes.length;
        peer.host.receive(bytes.subarray(0, len), peer.address);
        if (random() < 0.1) peer.advance(random() * 1000);
        if (random() < 0.01) connection.read(1000);
        peer.all.length = Math.min(peer.all.length, 10);
        peer.take();
        const { sender, receiver } = inside(connection);
        assert.equal(receiver.buffer.waiting + receiver.buffer.readable < 7_000_000, true);
        assert.equal(receiver.buffer.islandCount <= 1024, true);
        assert.equal(sender.scoreboard.count <= 5000, true, `${sender.scoreboard.count} ranges`);
        const { inFlight, lost, sacked } = sender.scoreboard;
        assert.equal(inFlight >= 0 && lost >= 0 && sacked >= 0, true);
        if (connection.state !== "closed") {
          assert.equal(inFlight + lost + sacked, sender.nxt - sender.una, `seed ${seed}, ${i}`);
        }
      }
      if (closed === 0) survived++;
      listener.close();
      peer.tcp.close();
      assert.equal(peer.clock.timers, 0);
      assert.deepEqual(peer.tcp.counts(), { connections: 0, timeWait: 0, listeners: 0 });
    }
    assert.equal(survived > 0, true);
  });
}

hostile("one byte here, one byte there: gaps are bounded, and the stream is whole when they are filled", () => {
  const peer = new Peer({ scale: 7 });
  const connection = peer.accept();
  for (let at = 60_000; at > 0; at -= 2) {
    peer.send({ flags: FLAG.ACK, sequence: peer.next + at, payload: pattern(at, 1) });
  }
  assert.equal(inside(connection).receiver.buffer.islandCount, 1024);
  assert.equal(peer.tcp.drops.islands > 20_000, true);
  const sink = new Sink(connection);
  for (let at = 0; at < 60_000; at += 1000) {
    peer.send({ flags: FLAG.ACK, sequence: peer.next + at, payload: pattern(at, 1000) });
  }
  assert.deepEqual([sink.received, sink.wrongAt], [60_001, -1]);
});

hostile("a peer that SACKs every second segment and never the first", () => {
  const peer = new Peer({ scale: 7, mss: 536, gsoMaxSize: 65_535 });
  const connection = peer.accept();
  pour(connection, 2_000_000, { shutdown: false });
  for (let i = 0; i < 3000; i++) {
    const from = (2 * (i % 600) + 1) * 536;
    peer.acknowledge(0, { sacks: [[peer.wire(from), peer.wire(from + 536)]] });
    peer.advance(1);
    peer.all.length = 0;
    peer.take();
    assert.equal(inside(connection).sender.scoreboard.count < 4000, true);
  }
  connection.abort();
  assert.equal(peer.clock.timers, 0);
});

hostile("many short connections over a bad wire: none is lost, nothing is left", () => {
  const wire = new Wire({ loss: 0.02, duplicate: 0.02, reorder: 0.05, delayMs: 3 });
  wire.record = false;
  let served = 0;
  const listener = wire.b.tcp.listen(80, { backlog: 1000 });
  listener.onConnection = (connection) => {
    connection.onReadable = () => {
      for (let bytes = connection.read(); bytes !== null; bytes = connection.read()) connection.write(bytes);
      if (connection.ended) connection.shutdown();
    };
    connection.onClosed = (error) => {
      if (error === null) served++;
    };
  };
  const sinks: Sink[] = [];
  for (let i = 0; i < 1000; i++) {
    const connection = wire.a.tcp.connect({ ...wire.b.address, port: 80 });
    sinks.push(new Sink(connection));
    pour(connection, 3000);
    wire.clock.advance(1);
  }
  wire.clock.advance(60_000);
  assert.equal(sinks.filter((sink) => sink.received === 3000 && sink.wrongAt < 0 && sink.error === null).length, 1000);
  assert.equal(served, 1000);
  listener.close();
  wire.clock.advance(130_000);
  for (const { tcp } of [wire.a, wire.b]) assert.deepEqual(tcp.counts(), { connections: 0, timeWait: 0, listeners: 0 });
  assert.equal(wire.clock.timers, 0);
  assert.equal(wire.a.tcp.budget.used, 0);
  assert.equal(wire.b.tcp.budget.used, 0);
});

hostile("errors about nothing, and too short", () => {
  const peer = new Peer();
  peer.accept();
  for (const len of [0, 7, 8, 20]) peer.tcp.error(peer.ourHeader, new Uint8Array(len), { kind: "tooBig", mtu: 1 });
  const quoted = craft({ sourcePort: peer.hostPort, destinationPort: peer.port, sequence: 1, flags: 16 });
  for (const mtu of [undefined, 0, 1, -5, 68, 1e9]) peer.tcp.error(peer.ourHeader, quoted, { kind: "tooBig", mtu });
  assert.equal(peer.tcp.drops.strayError, 8);
});

hostile("an address that is no host's gets no answer", () => {
  const peer = new Peer();
  const segment = craft({ sourcePort: 1, destinationPort: 2, sequence: 1, flags: FLAG.SYN });
  for (const first of [0, 224, 255]) {
    const source = new Uint8Array([first, 0, 0, 1]);
    peer.host.receive(segment, { family: 4, address: source });
  }
  peer.takeNone();
  assert.equal(peer.tcp.drops.address, 3);
});

hostile.run();
