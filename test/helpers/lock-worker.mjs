// One worker thread of the lock's stress test (test/protocol/tables.test.ts): runs over shared words that the main
// thread changes in write sections, puts into the mailbox, and takes the small lock, until it is told to stop.
// Plain JavaScript, since Node 20 takes no TypeScript as a worker's entry.
import { parentPort, workerData } from "node:worker_threads";

const { module, memory, thread, busy, words, peers, rounds } = workerData;
const core = new WebAssembly.Instance(module, { env: { memory } }).exports;
core.bindThread(thread);
// words of the test: see `Words` there
const i32 = new Int32Array(memory.buffer);
const at = (offset) => words / 4 + offset;
const STOP = at(0);
const LOCK = words + 4;
const LOCKED = at(2);
const INSIDE = at(16 + thread);
const FIELD = at(32); // 64 words that are equal outside of write sections
const PENDING = at(128); // one a peer
const report = { runs: 0, changes: 0, torn: 0, unmarked: 0, posted: 0 };

// Not atomic, as the data path's loads are.
function isTorn() {
  const first = i32[FIELD];
  for (let i = 1; i < 64; i++) if (i32[FIELD + i] !== first) return true;
  return false;
}

let last = 0;
let seed = thread;
parentPort.postMessage("ready");
while (!Atomics.load(i32, STOP) || report.runs < rounds) {
  core.enterRun();
  Atomics.store(i32, INSIDE, 1);
  if (Atomics.load(i32, busy / 4) !== 1) report.unmarked++;
  if (!report.runs) Atomics.wait(i32, STOP, 0, 20 * thread); // the first is so long that the main thread sleeps
  if (isTorn()) report.torn++;
  const generation = i32[FIELD];
  if (generation !== last) report.changes++;
  last = generation;
  if (report.runs % 8 === 0 && isTorn()) report.torn++;
  if (i32[FIELD] !== generation) report.torn++;
  Atomics.store(i32, INSIDE, 0);
  core.leaveRun();
  report.runs++;

  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
  const peer = (seed >>> 8) % peers;
  const before = Atomics.or(i32, PENDING + peer, 1 << thread);
  if (!before) core.mailboxPut(peer);
  if (!(before & (1 << thread))) report.posted++;

  if (report.runs <= rounds) {
    core.lockSpin(LOCK);
    if (report.runs % 256 === 0) Atomics.wait(i32, STOP, 0, 0.1); // long enough that whoever wants it sleeps
    i32[LOCKED]++;
    core.unlockSpin(LOCK);
  }
  if (seed % 1024 === 0) Atomics.wait(i32, STOP, 0, 1); // now and then nobody is inside
}
parentPort.postMessage(report);
