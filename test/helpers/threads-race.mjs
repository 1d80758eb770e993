// A thread of test/memory/races.test.ts: in each round calls one loop of test/assembly/races.ts and says what it gave.
// Plain JavaScript, since Node 20 takes no TypeScript as a worker's entry.
import { parentPort, workerData } from "node:worker_threads";

const { module, memory, thread, control: buffer, words } = workerData;
const core = new WebAssembly.Instance(module, { env: { memory } }).exports;
core.bindThread(thread);
const control = new Int32Array(buffer);

/** The next round, or 0 at the end; the wait is short, for the threads shall begin at once. */
function nextRound(last) {
  for (let spins = 0; ; spins++) {
    const round = Atomics.load(control, words.ROUND);
    if (round !== last) return round;
    if (spins > 2000) Atomics.wait(control, words.ROUND, last);
  }
}

parentPort.postMessage("ready");
for (let round = nextRound(0); round > 0; round = nextRound(round)) {
  const text = new Uint8Array(buffer, 1024 * thread + 4, control[256 * thread]).slice(); // shared bytes are not decoded
  const [loop, ...args] = JSON.parse(new TextDecoder().decode(text));
  let result = core[loop](...args);
  if (typeof result === "bigint") result = Number(BigInt.asIntN(32, result));
  Atomics.add(control, words.RESULT, result ?? 0);
  Atomics.add(control, words.DONE, 1);
  Atomics.notify(control, words.DONE);
}
