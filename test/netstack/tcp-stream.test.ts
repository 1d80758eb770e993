// Streams over wires that misbehave: every byte both ways, both ends closed, nothing left.

import assert from "node:assert/strict";
import { suite } from "uvu";
import { pour, Sink, Wire, type WireOptions } from "./tcp-wire.ts";

const stream = suite("tcp: streams over bad wires");

/** Sends both ways at once, closes, and looks for what is left. */
function exchange(options: WireOptions, len: number, withinMs: number, prepare = (_: Wire): void => {}): Wire {
  const wire = new Wire(options);
  wire.record = false;
  prepare(wire);
  const { client, server, listener } = wire.pair();
  const atServer = new Sink(server);
  const atClient = new Sink(client);
  pour(client, len);
  pour(server, len);
  const done = wire.clock.runUntil(() => atServer.closed && atClient.closed, withinMs);
  const state = `${client.state} ${atClient.received}, ${server.state} ${atServer.received}`;
  assert.equal(done, true, `${JSON.stringify(options)}: ${state}`);
  assert.deepEqual([atServer.wrongAt, atClient.wrongAt], [-1, -1]);
  assert.deepEqual([atServer.received, atClient.received], [len, len]);
  assert.deepEqual([atServer.error, atClient.error], [null, null]);
  assert.deepEqual([client.bytesWritten, client.bytesReceived], [len, len]);
  listener.close();
  wire.clock.advance(62_000);
  assert.deepEqual(wire.a.tcp.counts(), { connections: 0, timeWait: 0, listeners: 0 });
  assert.deepEqual(wire.b.tcp.counts(), { connections: 0, timeWait: 0, listeners: 0 });
  assert.equal(wire.clock.timers, 0);
  return wire;
}

for (const gsoMaxSize of [0, 65_535]) {
  for (const family of [4, 6] as const) {
    for (const loss of [0, 0.01, 0.05]) {
      stream(`IPv${family}, ${gsoMaxSize ? "super-segments" : "plain"}, loss ${loss}`, () => {
        for (const seed of [1, 2]) exchange({ seed, family, gsoMaxSize, loss }, 1_000_000, 200_000);
      });
    }
  }
  stream(`${gsoMaxSize ? "super-segments" : "plain"}: repeated, reordered, cut, lost`, () => {
    for (let seed = 1; seed <= 6; seed++) {
      exchange({ seed, gsoMaxSize, loss: 0.02, duplicate: 0.03, reorder: 0.1, cut: 0.01 }, 400_000, 300_000);
    }
  });
}

stream("super-segments pass whole and are joined", () => {
  for (const loss of [0, 0.01]) exchange({ gsoMaxSize: 65_535, join: true, loss }, 3_000_000, 100_000);
});

stream("sequence numbers and timestamps wrap in the middle", () => {
  for (const gsoMaxSize of [0, 65_535]) {
    exchange({ gsoMaxSize, loss: 0.02, reorder: 0.02 }, 300_000, 100_000, (wire) => {
      for (const { tcp } of [wire.a, wire.b]) {
        const { numbers } = tcp as unknown as { numbers: Record<"sequence" | "clockOffset", () => number> };
        numbers.sequence = () => 2 ** 32 - 100_001;
        numbers.clockOffset = () => 2 ** 32 - 1200;
      }
    });
  }
});

// Not more: of a third, time-outs of 60 s follow each other, and an end may rightly be gone before the other's last FIN.
stream("a fifth of everything is lost", () => {
  for (const seed of [1, 2, 3, 4]) exchange({ seed, loss: 0.2, delayMs: 2 }, 100_000, 1_000_000);
});

stream("through a bottleneck with a short queue", () => {
  exchange({ rate: 10_000, queueLen: 20_000, delayMs: 10 }, 2_000_000, 60_000);
});

stream.run();
