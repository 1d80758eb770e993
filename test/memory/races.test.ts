// The words that threads share without the big lock, one after the other: two workers and the main thread in loops of
// machine code over the same few bytes (test/assembly/races.ts), in rounds with a look at the whole after each.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { Worker } from "node:worker_threads";
import { suite } from "uvu";
import {
  DEVICE_BASE, FULL, OK, PAGE_SIZE, THREADS_BASE, THREADS_END, THREAD_ARGUMENT, THREAD_RANDOM_LEFT, THREAD_RANDOM_SIZE,
} from "../../assembly/abi.ts";
import { builds } from "../helpers/wasm.ts";

interface Races {
  bindThread(thread: number): void;
  deviceInit(maxPeers: number, maxNodes: number, threads: number): number;
  deviceUp(): void;
  memoryPages(maxPeers: number, maxNodes: number, threads: number): number;
  peerAdd(key: number): number;
  peerSetPersistentKeepalive(peer: number, seconds: number): number;
  endpointWrites(peer: number, times: number, seed: number): void;
  endpointReads(peer: number, times: number): number;
  counterDraws(session: number, times: number): bigint;
  stageRuns(peer: number, times: number, first: number): number;
  unstageAll(peer: number): number;
  timerRuns(peers: number, times: number, seed: number): number;
  serviceRuns(times: number, step: number): number;
  timersForgotten(peers: number): number;
  spareSession(): number;
}

const PEERS = 5;
const WORDS = { ROUND: 0, DONE: 1, RESULT: 2 };
type Call = [loop: keyof Races, ...args: number[]];

/** Three threads over one device. */
class Trio {
  readonly core: Races;
  readonly view: DataView;
  readonly #control = new Int32Array(new SharedArrayBuffer(4096));
  readonly #workers: Worker[] = [];
  #broken: unknown;

  constructor(build: string) {
    const file = new URL(`../../dist/test/races-${build}.wasm`, import.meta.url);
    const module = new WebAssembly.Module(readFileSync(file));
    const least = THREADS_END / PAGE_SIZE;
    const bare = new WebAssembly.Memory({ initial: least, maximum: least, shared: true });
    const measure = new WebAssembly.Instance(module, { env: { memory: bare } }).exports as unknown as Races;
    const pages = measure.memoryPages(PEERS, 64, 3);
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    this.core = new WebAssembly.Instance(module, { env: { memory } }).exports as unknown as Races;
    this.view = new DataView(memory.buffer);
    this.view.setUint32(THREADS_BASE + THREAD_RANDOM_LEFT, THREAD_RANDOM_SIZE, true);
    assert.equal(this.core.deviceInit(PEERS, 64, 3), OK);
    for (let peer = 0; peer < PEERS; peer++) {
      this.view.setUint8(THREADS_BASE + THREAD_ARGUMENT, peer + 1);
      assert.equal(this.core.peerAdd(THREADS_BASE + THREAD_ARGUMENT), peer);
      assert.equal(this.core.peerSetPersistentKeepalive(peer, 1 + (peer % 3)), OK);
    }
    assert.equal(this.core.peerAdd(THREADS_BASE + THREAD_ARGUMENT + 1), FULL);
    this.core.deviceUp();
    for (const thread of [1, 2]) {
      const workerData = { module, memory, thread, control: this.#control.buffer, words: WORDS };
      const worker = new Worker(new URL("../helpers/threads-race.mjs", import.meta.url), { workerData });
      worker.on("error", (error) => (this.#broken = error));
      this.#workers.push(worker);
    }
  }

  async start(): Promise<this> {
    await Promise.all(this.#workers.map((worker) => new Promise((resolve) => worker.once("message", resolve))));
    return this;
  }

  /** The two workers run their loops while the main thread repeats its own. @returns the sum of what they gave */
  async round(calls: [Call, Call], main: () => void): Promise<number> {
    calls.forEach((call, i) => {
      const text = new TextEncoder().encode(JSON.stringify(call));
      const at = 1024 * (i + 1);
      this.#control[at / 4] = text.length;
      new Uint8Array(this.#control.buffer).set(text, at + 4);
    });
    Atomics.store(this.#control, WORDS.DONE, 0);
    Atomics.store(this.#control, WORDS.RESULT, 0);
    Atomics.add(this.#control, WORDS.ROUND, 1);
    Atomics.notify(this.#control, WORDS.ROUND);
    for (let turn = 1; Atomics.load(this.#control, WORDS.DONE) < 2; turn++) {
      main();
      // A worker that trapped says so in an event; without work of its own the main thread leaves the core to them.
      if (turn % 256 === 0) await new Promise((resolve) => setImmediate(resolve));
      if (this.#broken) throw this.#broken;
    }
    return Atomics.load(this.#control, WORDS.RESULT);
  }

  async close(): Promise<void> {
    Atomics.store(this.#control, WORDS.ROUND, -1);
    Atomics.notify(this.#control, WORDS.ROUND);
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }
}

for (const build of builds) {
  const test = suite(`races (${build})`);
  let trio: Trio;

  test.before.each(async () => {
    trio = await new Trio(build).start();
  });

  test.after.each(() => trio.close());

  test("an endpoint that two threads write is never read torn", async () => {
    const times = 300_000;
    for (let round = 1; round <= 8; round++) {
      const seed = 1000 * round;
      const torn = await trio.round(
        [["endpointReads", 0, times], round % 2 ? ["endpointReads", 0, times] : ["endpointWrites", 0, times, seed]],
        () => trio.core.endpointWrites(0, 100, seed + 1),
      );
      assert.equal(torn, 0);
      assert.equal(trio.core.endpointReads(0, 1), 0);
    }
  });

  test("a counter is drawn once", async () => {
    const session = trio.core.spareSession();
    let sum = 0n;
    const times = 1_000_000;
    for (let round = 0; round < 5; round++) {
      const theirs = await trio.round([["counterDraws", session, times], ["counterDraws", session, times]], () => {
        sum += trio.core.counterDraws(session, 1000);
      });
      sum += BigInt(theirs);
    }
    const drawn = trio.view.getBigUint64(session + 64, true); // the next one (tunnel/session.ts)
    assert.ok(drawn > 10_000_000n);
    assert.equal(BigInt.asUintN(32, sum), BigInt.asUintN(32, (drawn * (drawn - 1n)) / 2n));
  });

  test("staged packets come out whole, in order, and all of them", async () => {
    const times = 40_000;
    for (let round = 0; round < PEERS; round++) {
      const first = 1 + round * times;
      let taken = 0;
      const dropped = await trio.round([["stageRuns", round, times, first], ["stageRuns", round, times, first]], () => {
        taken += trio.core.unstageAll(round);
      });
      taken += trio.core.unstageAll(round);
      assert.equal(taken + dropped, 2 * times);
    }
  });

  test("no timer is lost, and no word left for the main thread", async () => {
    for (let round = 1; round <= 80; round++) {
      // Long rounds for what they see of one another, short ones for what is left at their ends.
      const times = round % 4 ? 2000 : 150_000;
      const loop = (thread: number): Call => ["timerRuns", 1 + (round % PEERS), times, round * 10 + thread];
      // Steps of 0.15 s, or of 4 s: then timers of 1 to 3 s expire at once, under the workers' hands.
      const step = round % 3 ? 4_000_000_000 : 150_000_000;
      const lost = await trio.round([loop(1), loop(2)], () => {
        assert.equal(trio.core.serviceRuns(4, step), OK);
      });
      assert.equal(lost, 0, "a timer that was just armed");
      assert.equal(trio.core.serviceRuns(1, 0), OK);
      assert.equal(trio.core.timersForgotten(PEERS), 0, `round ${round}`);
    }
    // All of them expire in the end, and the heap is empty.
    for (let i = 0; i < 100; i++) assert.equal(trio.core.serviceRuns(1, 2_000_000_000), OK);
    assert.equal(trio.view.getUint32(DEVICE_BASE + 0xd0, true), 0, "peers in the heap");
  });

  test.run();
}
