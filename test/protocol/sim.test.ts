// The simulator itself: a seed decides everything, on every engine and for both builds of the core, and the faults of
// the wire are what they say.
import assert from "node:assert/strict";
import { suite } from "uvu";
import { builds } from "../sim/builds.ts";
import { openPair } from "../sim/pair.ts";
import { MS, SECOND } from "../sim/paper.ts";
import { Stream } from "../../host/simulator/random.ts";
import { Simulator } from "../../host/simulator/simulator.ts";
import { ALL_FAULTS, soak, type SoakOptions } from "../../host/simulator/soak.ts";
import { Hash } from "../../host/simulator/trace.ts";

const RUN: Omit<SoakOptions, "build" | "seed"> = { nodes: 3, seconds: 200, rate: 1, faults: ALL_FAULTS, changes: true };
/**
 * The trace of seed 1. Node, Deno and both builds must give this one. It changes whenever the core sends other bytes,
 * draws other randomness or tells other events: when that is meant, take the new value from the failure.
 */
const TRACE_OF_SEED_1 = "78bedb144eb9592c";

const test = suite("simulator");

test("the same seed gives the same trace; another gives another", () => {
  const trace = (seed: number): string => soak({ ...RUN, seed, build: builds[0] }).sim.trace.hex();
  const first = trace(5);
  assert.equal(trace(5), first);
  assert.notEqual(trace(6), first);
});

for (const build of builds) {
  test(`the trace of seed 1 is the same everywhere (${build})`, () => {
    assert.equal(soak({ ...RUN, seed: 1, build }).sim.trace.hex(), TRACE_OF_SEED_1);
  });
}

test("keeping the lines changes nothing, and the hash is that of the lines", () => {
  const kept = soak({ ...RUN, seed: 3, build: builds[0], keepTrace: true }).sim.trace;
  assert.equal(kept.hex(), soak({ ...RUN, seed: 3, build: builds[0] }).sim.trace.hex());
  assert.equal(new Hash().text(kept.lines!.join("")).hex(), kept.hex());
  assert.equal(kept.lines!.length, kept.count);
  assert.notEqual(kept.count, 0);
});

test("streams: the same by seed and label, and nothing else", () => {
  const draw = (seed: number, label: string): string => Buffer.from(new Stream(seed, label).bytes(32)).toString("hex");
  assert.equal(draw(1, "a"), draw(1, "a"));
  assert.equal(new Set([draw(1, "a"), draw(2, "a"), draw(1, "b"), draw(1, ""), draw(0, "a")]).size, 5);
  const stream = new Stream(9, "even");
  const counts = new Array(16).fill(0);
  for (let i = 0; i < 16_000; i++) counts[stream.below(16)]++;
  assert.equal(counts.every((count) => count > 800 && count < 1200), true, counts.join(" "));
  assert.equal([stream.chance(0), stream.chance(1)].join(), "false,true");
});

test("time jumps to what happens next; what is due at one instant happens in the order it was scheduled", () => {
  const sim = new Simulator();
  const start = sim.now();
  const seen: string[] = [];
  const note = (name: string) => () => void seen.push(`${name} ${(sim.now() - start) / MS}`);
  sim.schedule(start + 3 * MS, note("c"));
  sim.schedule(start + 1 * MS, note("a"));
  sim.schedule(start + 3 * MS, note("d"));
  sim.schedule(start + 2 * MS, () => {
    note("b")();
    sim.schedule(sim.now(), note("at once"));
    sim.schedule(start, note("past"));
  });
  sim.schedule(start + 9 * MS, note("later"));
  sim.run(5 * MS);
  assert.deepEqual(seen, ["a 1", "b 2", "at once 2", "past 2", "c 3", "d 3"]);
  assert.equal(sim.now(), start + 5 * MS);
  sim.run(10 * MS);
  assert.equal(seen.at(-1), "later 9");
  const order = new Simulator();
  const drawn: number[] = [];
  const stream = order.stream("order");
  for (let i = 0; i < 500; i++) {
    const at = stream.below(100);
    order.schedule(order.now() + at, () => drawn.push(at));
  }
  order.run(SECOND);
  assert.deepEqual(drawn, drawn.slice().sort((a, b) => a - b));
  assert.equal(drawn.length, 500);
});

test("the wire's faults: loss, repetition, corruption, reordering, delay, each by its probability", () => {
  const count = (faults: object): { arrived: number; changed: number; turned: number } => {
    const sim = new Simulator({ faults });
    const [a, b] = [sim.node(), sim.node()];
    const got: number[] = [];
    let changed = 0;
    b.receive = ({ bytes }) => {
      got.push(bytes[0] | (bytes[1] << 8));
      if (bytes[2] | bytes[3] | bytes[100]) changed++;
    };
    const bytes = new Uint8Array(101);
    for (let i = 0; i < 1000; i++) {
      bytes[0] = i;
      bytes[1] = i >> 8;
      sim.wire.send({ from: a.address, to: b.address, bytes: bytes.slice(), tos: 0 });
      sim.run(MS);
    }
    sim.run(10 * SECOND);
    return { arrived: got.length, changed, turned: got.filter((it, i) => i > 0 && it < got[i - 1]).length };
  };
  assert.deepEqual(count({}), { arrived: 1000, changed: 0, turned: 0 });
  assert.deepEqual(count({ loss: 1 }), { arrived: 0, changed: 0, turned: 0 });
  assert.deepEqual(count({ duplicate: 1 }), { arrived: 2000, changed: 0, turned: 0 });
  const lossy = count({ loss: 0.2 }).arrived;
  assert.equal(lossy > 740 && lossy < 860, true, `${lossy} arrived`);
  assert.notEqual(count({ corrupt: 1 }).changed, 0);
  assert.notEqual(count({ reorder: 0.5, hold: 100 * MS }).turned, 0);
  assert.notEqual(count({ jitter: 100 * MS }).turned, 0);
});

test("hooks and injections: a script decides what becomes of a message", () => {
  const { sim, a, b, data } = openPair(builds[0]);
  const seen: string[] = [];
  sim.wire.hook = (datagram, time) => {
    seen.push(`${datagram.bytes[0]} ${datagram.from === a.address ? "a" : "b"}`);
    if (datagram.bytes[0] === 2) {
      sim.wire.inject(datagram, SECOND);
      return [];
    }
    return time < 0 ? [] : undefined;
  };
  data(a);
  sim.run(SECOND);
  assert.deepEqual(seen, ["1 a", "2 b"]);
  sim.run(SECOND);
  assert.deepEqual(seen, ["1 a", "2 b", "4 a"]);
  assert.equal(b.delivered!.length, 1);
});

test.run();
