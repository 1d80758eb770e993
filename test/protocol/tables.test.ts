// The index table, the key table, the deadlines and the mailbox against what JavaScript has for them; the lock under
// two worker threads that look for a write section they are not kept out of.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { Worker } from "node:worker_threads";
import fc from "fast-check";
import { suite } from "uvu";
import {
  DEVICE_WRITER,
  EXISTS,
  FULL,
  OK,
  THREADS_BASE,
  THREAD_ARGUMENT,
  THREAD_BUSY,
  THREAD_SIZE,
} from "../../assembly/abi.ts";
import { MAP_KEY_BITS, MAP_MAILBOX_BITS, MAP_STAGED, openTables, seeded, shuffle } from "../helpers/tables.ts";
import { builds } from "../helpers/wasm.ts";

const ARGUMENT = THREADS_BASE + THREAD_ARGUMENT;
const MAX = 2n ** 64n - 1n;

// --- index table ----------------------------------------------------------------------------------------------------

for (const build of builds) {
  const test = suite(`index table (${build})`);
  const PEERS = 8; // 64 slots
  const SLOTS = 64;

  // Few indices whose homes are near each other, at both ends of the table; so runs are long and wrap.
  const index = fc.oneof(
    fc.integer({ min: 0, max: 40 }),
    fc.integer({ min: 0, max: 60 }).map((n) => (0xfffffff0 + n) >>> 0),
    fc.integer({ min: 0, max: 7 }).map((n) => n * 64 + 62),
    fc.integer({ min: 0, max: 0xffffffff }),
  );
  const step = fc.oneof(
    { weight: 5, arbitrary: fc.record({ verb: fc.constant("insert" as const), index, ref: fc.nat(2 ** 22) }) },
    { weight: 1, arbitrary: fc.record({ verb: fc.constant("replace" as const), index, ref: fc.nat(2 ** 22) }) },
    { weight: 4, arbitrary: fc.record({ verb: fc.constant("remove" as const), index, ref: fc.constant(0) }) },
  );

  const seed = 20260902;
  test(`random changes against a Map, seed ${seed}`, () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 250, size: "max" }), (steps) => {
        const { exports } = openTables(build, PEERS);
        const twin = new Map<number, number>();
        for (const { verb, index, ref } of steps) {
          if (verb === "insert") {
            const expected = twin.has(index) ? EXISTS : twin.size === SLOTS ? FULL : OK;
            assert.equal(exports.indexInsert(index, ref), expected);
            if (expected === OK) twin.set(index, ref);
          } else if (verb === "replace") {
            exports.indexReplace(index, ref);
            if (twin.has(index)) twin.set(index, ref);
          } else {
            exports.indexRemove(index);
            twin.delete(index);
          }
          for (const [key, value] of twin) assert.equal(exports.indexLookup(key), value);
          assert.equal(exports.indexLookup(index), twin.get(index) ?? -1);
        }
      }),
      { seed, numRuns: 40 },
    );
  });

  test("full and emptied many times, seed 9", () => {
    const { exports } = openTables(build, PEERS);
    const random = seeded(9);
    for (let round = 0; round < 50; round++) {
      const indices = [...new Set(Array.from({ length: SLOTS + 20 }, () => random(2 ** 32)))].slice(0, SLOTS);
      indices.forEach((index, i) => assert.equal(exports.indexInsert(index, i), OK));
      assert.equal(exports.indexInsert(12345, 1), indices.includes(12345) ? EXISTS : FULL);
      assert.equal(exports.indexInsert(indices[5], 1), EXISTS);
      assert.equal(exports.indexLookup(12345), -1);
      exports.indexRemove(12345);
      const order = shuffle([...indices], random);
      order.forEach((index, i) => {
        exports.indexRemove(index);
        assert.equal(exports.indexLookup(index), -1);
        for (const later of order.slice(i + 1)) assert.equal(exports.indexLookup(later), indices.indexOf(later));
      });
    }
  });

  test("zero is an index", () => {
    const { exports } = openTables(build, PEERS);
    assert.equal(exports.indexLookup(0), -1);
    assert.equal(exports.indexInsert(0, 0), OK);
    assert.equal(exports.indexLookup(0), 0);
    exports.indexReplace(0, 7);
    assert.equal(exports.indexLookup(0), 7);
    exports.indexRemove(0);
    assert.equal(exports.indexLookup(0), -1);
  });

  test.run();
}

// --- key table ------------------------------------------------------------------------------------------------------

/** SipHash-2-4 as its paper writes it, over any bytes. */
function sipHash(key: Uint8Array, message: Uint8Array): bigint {
  const word = (bytes: Uint8Array, at: number) => new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(at, true);
  const rotate = (x: bigint, n: bigint) => ((x << n) | (x >> (64n - n))) & MAX;
  const padded = new Uint8Array((message.length >> 3) * 8 + 8);
  padded.set(message);
  padded[padded.length - 1] = message.length;
  const [k0, k1] = [word(key, 0), word(key, 8)];
  let [a, b] = [k0 ^ 0x736f6d6570736575n, k1 ^ 0x646f72616e646f6dn];
  let [c, d] = [k0 ^ 0x6c7967656e657261n, k1 ^ 0x7465646279746573n];
  const rounds = (n: number) => {
    while (n--) {
      a = (a + b) & MAX;
      b = rotate(b, 13n) ^ a;
      a = rotate(a, 32n);
      c = (c + d) & MAX;
      d = rotate(d, 16n) ^ c;
      a = (a + d) & MAX;
      d = rotate(d, 21n) ^ a;
      c = (c + b) & MAX;
      b = rotate(b, 17n) ^ c;
      c = rotate(c, 32n);
    }
  };
  for (let at = 0; at < padded.length; at += 8) {
    d ^= word(padded, at);
    rounds(2);
    a ^= word(padded, at);
  }
  c ^= 0xffn;
  rounds(4);
  return a ^ b ^ c ^ d;
}

for (const build of builds) {
  const test = suite(`key table (${build})`);
  const SECRET = Uint8Array.from({ length: 16 }, (_, i) => i);

  test("the oracle computes the value of the SipHash paper, Appendix A", () => {
    assert.equal(sipHash(SECRET, Uint8Array.from({ length: 15 }, (_, i) => i)), 0xa129ca6149be45e5n);
  });

  test("SipHash-2-4 of 32 bytes, seed 13", () => {
    const { exports, u8 } = openTables(build);
    const random = seeded(13);
    for (let i = 0; i < 200; i++) {
      const bytes = Uint8Array.from({ length: 48 }, () => random(256));
      u8.set(bytes, ARGUMENT);
      const expected = sipHash(bytes.slice(0, 16), bytes.slice(16));
      assert.equal(BigInt.asUintN(64, exports.sipHashAt(ARGUMENT, ARGUMENT + 16)), expected);
    }
  });

  // As many slots as peers, or half of them: far more load than the table has by the map's own sum.
  for (const keyBits of [7, 6, 5]) {
    test(`64 peers in ${1 << keyBits} slots: random changes against a Map, seed ${keyBits}`, () => {
      const PEERS = 64;
      const { exports, u8, view } = openTables(build, PEERS);
      const random = seeded(keyBits);
      view.setUint32(exports.MAP.value + MAP_KEY_BITS, keyBits, true);
      u8.set(SECRET, ARGUMENT);
      exports.keyTableInit(ARGUMENT);
      const keys = Array.from({ length: 200 }, () => Uint8Array.from({ length: 32 }, () => random(256)));
      keys.slice(1, 20).forEach((key, i) => (key.set(keys[0]), (key[i + 12] ^= 1))); // alike but for one bit
      const at = (key: Uint8Array) => (u8.set(key, ARGUMENT + 32), ARGUMENT + 32);
      const twin = new Map<Uint8Array, number>();
      const free = Array.from({ length: PEERS }, (_, i) => i);
      let filled = 0;
      let full = 0;
      for (let i = 0; i < 6000; i++) {
        const key = keys[random(keys.length)];
        const has = twin.get(key);
        if (has !== undefined && (random(3) === 0 || i % 1000 > 700)) {
          exports.keyRemove(at(key));
          u8.fill(0, exports.peerAddress(has), exports.peerAddress(has) + 32);
          twin.delete(key);
          free.push(has);
        } else if (has === undefined && random(8) === 0) {
          exports.keyRemove(at(key));
        } else if (has !== undefined) {
          assert.equal(exports.keyInsert(at(key), 3), EXISTS);
        } else if (free.length) {
          const peer = free[free.length - 1];
          u8.set(key, exports.peerAddress(peer));
          const status = exports.keyInsert(at(key), peer);
          assert.equal(status, twin.size === 1 << keyBits ? FULL : OK);
          if (status === FULL) full++;
          else twin.set(key, free.pop()!);
          if (status === FULL) u8.fill(0, exports.peerAddress(peer), exports.peerAddress(peer) + 32);
        } else filled++;
        assert.equal(exports.keyLookup(at(key)), twin.get(key) ?? -1);
        if (i % 16 === 0) for (const other of keys) assert.equal(exports.keyLookup(at(other)), twin.get(other) ?? -1);
      }
      assert.ok(keyBits === 5 ? full > 100 : filled > 100, `${filled} ${full}`);
    });
  }

  test.run();
}

// --- deadlines ------------------------------------------------------------------------------------------------------

for (const build of builds) {
  const test = suite(`deadlines (${build})`);
  const seed = 20260903;

  test(`random changes against a search for the least, seed ${seed}`, () => {
    const PEERS = 24;
    const when = fc.oneof(fc.bigInt({ min: 0n, max: 12n }), fc.bigInt({ min: 0n, max: MAX }), fc.constant(MAX));
    const step = fc.record({ peer: fc.nat(PEERS - 1), when, remove: fc.nat(5) });
    const tables = openTables(build, PEERS);
    const { exports } = tables;
    fc.assert(
      fc.property(fc.array(step, { maxLength: 150, size: "max" }), (steps) => {
        const twin = new Map<number, bigint>();
        for (const { peer, when, remove } of steps) {
          if (remove === 0) exports.deadlineRemove(peer);
          else exports.deadlineSet(peer, BigInt.asIntN(64, when));
          if (remove === 0 || when === MAX) twin.delete(peer);
          else twin.set(peer, when);
          const least = [...twin.values()].reduce((a, b) => (b < a ? b : a), MAX);
          assert.equal(BigInt.asUintN(64, exports.deadlineTopTime()), least);
          const top = exports.deadlineTop();
          if (twin.size) assert.equal(twin.get(top), least);
          else assert.equal(top, -1);
        }
        // Drained, they come sorted, each once.
        const drained: [number, bigint][] = [];
        for (let top = exports.deadlineTop(); top >= 0; top = exports.deadlineTop()) {
          drained.push([top, BigInt.asUintN(64, exports.deadlineTopTime())]);
          exports.deadlineRemove(top);
          assert.ok(drained.length <= twin.size, "more come out than went in");
        }
        assert.deepEqual(new Map(drained), twin);
        assert.ok(drained.every(([, time], i) => !i || drained[i - 1][1] <= time), "not sorted");
        assert.equal(exports.deadlineTopTime(), -1n); // as u64, MAX
      }),
      { seed, numRuns: 200 },
    );
  });

  test("20,000 peers armed, moved and drained, seed 21", () => {
    const PEERS = 20_000;
    const { exports } = openTables(build, PEERS);
    const random = seeded(21);
    const times = Array.from({ length: PEERS }, () => BigInt(random(2 ** 31)));
    times.forEach((time, peer) => exports.deadlineSet(peer, time));
    times.forEach((_, peer) => exports.deadlineSet(peer, (times[peer] = BigInt(random(2 ** 31)))));
    for (const time of [...times].sort((a, b) => Number(a - b))) {
      assert.equal(exports.deadlineTopTime(), time);
      const top = exports.deadlineTop();
      assert.equal(times[top], time);
      times[top] = -1n;
      exports.deadlineRemove(top);
    }
    assert.equal(exports.deadlineTop(), -1);
  });

  test.run();
}

// --- mailbox --------------------------------------------------------------------------------------------------------

for (const build of builds) {
  const test = suite(`mailbox (${build})`);

  test("first in, first out, around the ring, filled with every peer", () => {
    const PEERS = 15; // 16 slots
    const { exports, view } = openTables(build, PEERS);
    assert.equal(view.getUint32(exports.MAP.value + MAP_MAILBOX_BITS, true), 4);
    const random = seeded(31);
    const queue: number[] = [];
    assert.equal(exports.mailboxTake(), -1);
    let filled = 0;
    for (let i = 0; i < 5000; i++) {
      const peer = random(PEERS);
      if (!queue.includes(peer)) {
        exports.mailboxPut(peer);
        queue.push(peer);
      }
      if (queue.length === PEERS) filled++;
      if (i % 200 > 100 && random(2)) assert.equal(exports.mailboxTake(), queue.shift() ?? -1);
    }
    assert.ok(filled > 100, `full only ${filled} times`);
    while (queue.length) assert.equal(exports.mailboxTake(), queue.shift());
    assert.equal(exports.mailboxTake(), -1);
  });

  test("tickets wrap at 2^32", () => {
    const { exports, view, u8 } = openTables(build, 5);
    for (const word of [0x88, 0x8c]) view.setUint32(exports.MAP.value + word, 0xfffffffe, true);
    const before = u8.slice();
    for (let round = 0; round < 3; round++) {
      for (let peer = 0; peer < 5; peer++) exports.mailboxPut(peer);
      for (let peer = 0; peer < 5; peer++) assert.equal(exports.mailboxTake(), peer);
      assert.equal(exports.mailboxTake(), -1);
    }
    assert.equal(view.getUint32(exports.MAP.value + 0x88, true), 13);
    for (const word of [0x88, 0x8c]) view.setUint32(exports.MAP.value + word, 0xfffffffe, true);
    assert.equal(Buffer.compare(u8, before), 0);
  });

  test.run();
}

// --- lock -----------------------------------------------------------------------------------------------------------

for (const build of builds) {
  const test = suite(`lock (${build})`);
  const THREADS = 3;
  const PEERS = 37;
  const SECTIONS = 3000;
  const ROUNDS = 20_000; // runs a worker does at least, and times it takes the small lock
  // Words that the test and its workers share, in a pool that nothing else uses here.
  const Words = { STOP: 0, LOCK: 1, LOCKED: 2, INSIDE: 16, FIELD: 32, FIELDS: 64, PENDING: 128 };

  test("alone, the main thread neither waits nor marks a run", () => {
    const { exports, view } = openTables(build, 1, 2, 1);
    exports.enterRun();
    assert.equal(view.getUint32(THREADS_BASE + THREAD_BUSY, true), 0);
    exports.writeBegin();
    assert.equal(view.getUint32(DEVICE_WRITER, true), 1);
    exports.enterRun();
    exports.leaveRun();
    exports.writeEnd();
    assert.equal(view.getUint32(DEVICE_WRITER, true), 0);
  });

  test("a worker that ended inside its run is forgotten", () => {
    const { exports, view } = openTables(build, 1, 2, 2);
    exports.bindThread(1);
    exports.enterRun();
    assert.equal(view.getUint32(THREADS_BASE + THREAD_SIZE + THREAD_BUSY, true), 1);
    exports.bindThread(0);
    exports.forgetRun(1);
    exports.writeBegin(); // would never return
    exports.writeEnd();
  });

  test("write sections and runs exclude each other, no peer is lost on the way, the small lock counts", async () => {
    const { exports, memory, view } = openTables(build, PEERS, 64, THREADS);
    const file = new URL(`../../dist/test/tables-${build}.wasm`, import.meta.url);
    const module = new WebAssembly.Module(readFileSync(file));
    const words = view.getUint32(exports.MAP.value + MAP_STAGED, true);
    const i32 = new Int32Array(memory.buffer, words, 1024);
    const workers = Array.from({ length: THREADS - 1 }, (_, i) => {
      const busy = THREADS_BASE + THREAD_SIZE * (i + 1) + THREAD_BUSY;
      const workerData = { module, memory, thread: i + 1, busy, words, peers: PEERS, rounds: ROUNDS };
      return new Worker(new URL("../helpers/lock-worker.mjs", import.meta.url), { workerData });
    });
    const heard = <T>(worker: Worker) =>
      new Promise<T>((resolve, reject) => worker.once("message", resolve).once("error", reject));
    // The first time that each side waits is before its code is optimized, and each waits long enough to sleep: the
    // workers for this write section, the main thread in the next one for their first runs.
    exports.writeBegin();
    await Promise.all(workers.map((worker) => heard(worker)));
    const reports = workers.map((worker) =>
      heard<{ runs: number; changes: number; torn: number; unmarked: number; posted: number }>(worker),
    );

    let inside = 0;
    let received = 0;
    let locked = 0;
    const take = () => {
      for (let peer = exports.mailboxTake(); peer >= 0; peer = exports.mailboxTake()) {
        const pending = Atomics.exchange(i32, Words.PENDING + peer, 0);
        assert.ok(pending, `peer ${peer} was in the mailbox twice`);
        for (let bits = pending; bits; bits &= bits - 1) received++;
      }
    };
    const change = () => {
      exports.writeBegin();
      for (let i = 0; i < Words.FIELDS; i++) {
        i32[Words.FIELD + i]++;
        for (let thread = 1; thread < THREADS; thread++) inside += Atomics.load(i32, Words.INSIDE + thread);
      }
      exports.writeEnd();
    };
    try {
      Atomics.wait(i32, Words.STOP, 0, 20);
      exports.writeEnd();
      for (let thread = 1; thread < THREADS; thread++)
        while (!Atomics.load(i32, Words.INSIDE + thread)) Atomics.wait(i32, Words.STOP, 0, 1);
      for (let section = 0; section < SECTIONS; section++) {
        change();
        take();
        exports.lockSpin(words + 4 * Words.LOCK);
        i32[Words.LOCKED]++;
        exports.unlockSpin(words + 4 * Words.LOCK);
        locked++;
        // Sections in a row, then a moment for the workers: waits for both sides.
        if (section % 16 === 0) Atomics.wait(i32, Words.STOP, 0, 0.2);
      }
    } finally {
      Atomics.store(i32, Words.STOP, 1);
      Atomics.notify(i32, Words.STOP);
    }
    const done = await Promise.all(reports);
    take();
    assert.equal(exports.mailboxTake(), -1);
    assert.equal(inside, 0, "a run was inside a write section");
    for (const { torn, unmarked, runs, changes } of done) {
      assert.equal(unmarked, 0, "a run that had waited was not marked as one: see `pause` in lock.ts");
      assert.equal(torn, 0, "a run saw a write section half done");
      assert.ok(runs >= ROUNDS, `only ${runs} runs`);
      assert.ok(changes > 10, `only ${changes} sections fell between runs`);
    }
    assert.equal(received, done.reduce((sum, { posted }) => sum + posted, 0));
    assert.equal(i32[Words.LOCKED], locked + ROUNDS * (THREADS - 1));
    assert.deepEqual([...i32.slice(Words.FIELD, Words.FIELD + Words.FIELDS)], new Array(Words.FIELDS).fill(SECTIONS));
    assert.equal(view.getUint32(DEVICE_WRITER, true), 0);
    await Promise.all(workers.map((worker) => worker.terminate()));
  });

  test.run();
}
