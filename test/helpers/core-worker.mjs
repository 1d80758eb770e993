// A lane of test/memory/threads.test.ts: one thread of one device, over packets it makes up itself ("sender") or takes
// from rings ("receiver"), as a blocked worker of the daemon would: it waits outside of the core, never in it. "idle"
// waits for good after one run, "watchdog" ends a test that hangs. Plain JavaScript, since Node 20 takes no TypeScript
// as a worker's entry.
//
// What it sees that cannot be, it throws; what only the whole can judge, it writes into a log for the main thread.
import { randomFillSync } from "node:crypto";
import { writeSync } from "node:fs";
import process from "node:process";
import { parentPort, workerData } from "node:worker_threads";
import { instantiateSync } from "@assemblyscript/loader";
import {
  checkEndpoint, checkPacket, FLOWS, Log, makePacket, makeRandom, Ring, SPOOFED, WORDS, writeEndpoint,
} from "./core-worker-wire.mjs";

const { abi, module, memory, thread, role, device, shared, rings, log: logBuffer, bells, seed, peers, receivers } =
  workerData;
const core = module && instantiateSync(module, { env: { memory } }).exports;
core?.threadInit(thread);

const view = memory && new DataView(memory.buffer);
const u8 = memory && new Uint8Array(memory.buffer);
const base = abi.THREADS_BASE + abi.THREAD_SIZE * thread;
const slots = abi.THREADS_END + abi.SLOTS_SIZE * thread;
const control = new Int32Array(shared);
const clock = new BigInt64Array(shared, WORDS.CLOCK * 4, 1);
const log = logBuffer && new Log(logBuffer);
const random = makeRandom(seed);
const counts = { calls: 0, packets: 0, outs: 0, datagrams: 0, delivered: 0, lost: 0, corrupted: 0, repeated: 0 };
const report = { role, device, ...counts };

function fail(text) {
  throw new Error(`${role} of device ${device}: ${text}`);
}

function prepare() {
  const now = Atomics.load(clock, 0);
  view.setBigInt64(base + abi.THREAD_MONO, now / 1_000_000_000n, true);
  view.setBigInt64(base + abi.THREAD_MONO + 8, now % 1_000_000_000n, true);
  const used = abi.THREAD_RANDOM_SIZE - view.getUint32(base + abi.THREAD_RANDOM_LEFT, true);
  if (used < 1024) return;
  const fresh = new Uint8Array(used);
  randomFillSync(fresh);
  u8.set(fresh, base + abi.THREAD_RANDOM);
  view.setUint32(base + abi.THREAD_RANDOM_LEFT, abi.THREAD_RANDOM_SIZE, true);
}

/** Wakes the main thread when the core asks for it. */
function kick() {
  report.calls++;
  if (!view.getUint32(base + abi.THREAD_KICK, true)) return;
  Atomics.store(control, WORDS.KICK + device, 1);
  Atomics.add(control, WORDS.MAIN_BELL, 1);
  Atomics.notify(control, WORDS.MAIN_BELL);
}

/** A failed send would do this: here for any peer, there or not. */
function clearSomeSource() {
  if (random(16) === 0) core.peerClearSource(random(peers));
}

const slot = (i) => slots + i * abi.SLOT_SIZE + abi.SLOT_HEADROOM;
const drops = (reason) => Atomics.load(new BigInt64Array(memory.buffer, abi.DEVICE_DROPS + 8 * reason, 1), 0);

function writeIn(i, offset, length, segment) {
  const record = base + abi.THREAD_IN + i * abi.IN_SIZE;
  view.setUint32(record + abi.IN_OFFSET, offset, true);
  view.setUint32(record + abi.IN_LENGTH, length, true);
  view.setUint32(record + abi.IN_SEGMENT, segment, true);
  view.setUint32(record + abi.IN_FLAGS, 0, true);
  return record;
}

// --- the sender ------------------------------------------------------------------------------------------------------

function send() {
  const outs = rings.map((buffer) => new Ring(buffer));
  let way = 0;
  const bell = new Int32Array(bells[1 - device]);
  const next = new Uint32Array(FLOWS + 1);
  const held = [];
  const batch = [];
  // A network: repeats some datagrams, spoils copies of some, holds some back for a while. With more ways than one,
  // what is repeated takes another than what went before it.
  const put = (bytes, mark) => {
    way = (way + 1) % outs.length;
    if (!outs[way].put(bytes, mark)) report.lost++;
  };
  const transmit = (bytes) => {
    const fate = random(64);
    if (fate < 4) held.push(Uint8Array.from(bytes));
    else put(bytes, 0);
    if (fate === 5 || fate === 6 || (fate > 32 && receivers > 1)) put(bytes, Ring.REPEATED);
    if (fate === 7) held.push(Uint8Array.from(bytes), Uint8Array.from(bytes));
    if (fate === 8) {
      const copy = Uint8Array.from(bytes);
      copy[16 + random(copy.length - 16)] ^= 1 << random(8);
      put(copy, Ring.SPOILED);
    }
    while (held.length > random(256)) put(held.splice(random(held.length), 1)[0], Ring.REPEATED);
  };
  let mood = 0; // how often it waits: 0 = never, for a while
  while (!Atomics.load(control, WORDS.STOP_SENDERS)) {
    if (random(256) === 0) mood = random(4);
    const count = random(4) ? 1 + random(4) : 1 + random(64);
    const fixed = random(2) ? 100 + random(1300) : 0;
    batch.length = 0;
    for (let i = 0; i < count; i++) {
      const flow = random(FLOWS + 1);
      const seq = next[flow]++;
      const length = makePacket(u8, view, slot(i), device, flow, seq, fixed || 32 + random(1390));
      writeIn(i, slot(i), length, 0);
      batch.push({ flow, seq, length });
    }
    prepare();
    const records = core.deviceSend(count);
    if (records < 0 || records > count) fail(`deviceSend(${count}) = ${records}`);
    report.packets += count;
    report.outs += records;
    let last = -1;
    for (let i = 0; i < records; i++) {
      const record = base + abi.THREAD_OUT + i * abi.OUT_SIZE;
      const at = view.getUint32(record + abi.OUT_OFFSET, true);
      const length = view.getUint32(record + abi.OUT_LENGTH, true);
      if (view.getUint32(record + abi.OUT_SEGMENT, true)) fail("a run of plain packets");
      const which = (at + 16 - slot(0)) / abi.SLOT_SIZE;
      const packet = batch[which];
      if (!packet || which <= last) fail(`OUT record ${i} at ${at}`);
      last = which;
      if (length < packet.length + 32 || length > packet.length + 47) fail(`${packet.length} bytes became ${length}`);
      if (view.getUint32(at, true) !== 4) fail("not a data message");
      checkEndpoint(u8, view, record + abi.OUT_ENDPOINT, fail);
      log.write(view.getUint32(at + 4, true), view.getUint32(at + 8, true), packet.flow, packet.seq);
      if (view.getUint32(at + 12, true)) fail("a counter past 2^32");
      transmit(u8.subarray(at, at + length));
    }
    kick();
    clearSomeSource();
    Atomics.add(bell, 0, 1);
    Atomics.notify(bell, 0, receivers);
    for (let flow = 0; flow < FLOWS; flow++) Atomics.store(control, WORDS.SENT + device * 64 + flow, next[flow]);
    if (log.isNearlyFull) Atomics.wait(control, WORDS.STOP_SENDERS, 0, 20);
    else if (mood && random(mood) === 0) Atomics.wait(control, WORDS.STOP_SENDERS, 0, random(4));
  }
}

// --- the receiver ----------------------------------------------------------------------------------------------------

function receive() {
  const sources = rings.map((buffer) => new Ring(buffer));
  const bell = new Int32Array(bells[device]);
  let stopping = false;
  for (;;) {
    const rung = Atomics.load(bell, 0);
    const limit = random(4) ? 1 + random(4) : 1 + random(abi.IN_MAX);
    let records = 0;
    let marks = { spoiled: 0, repeated: 0, all: 0 };
    while (records < limit) {
      const first = sources[random(sources.length)];
      const source = first.length ? first : sources.find((ring) => ring.length);
      if (!source) break;
      // Sometimes a run in one slot: equal datagrams, the last may be shorter.
      const most = random(3) === 0 ? 40 : 1;
      let length = 0;
      let segment = 0;
      for (let i = 0; i < most && source.length; i++) {
        const size = source.peek();
        if (i && size > segment) break;
        const mark = source.take(u8, slot(records) + length);
        marks.all++;
        if (mark === Ring.SPOILED) marks.spoiled++;
        if (mark === Ring.REPEATED) marks.repeated++;
        length += size;
        if (!segment) segment = size;
        if (size < segment) break;
      }
      const record = writeIn(records, slot(records), length, length > segment ? segment : 0);
      writeEndpoint(u8, view, record + abi.IN_ENDPOINT, 1 + random(60000));
      records++;
    }
    if (!records) {
      if (stopping) return;
      stopping = Atomics.load(control, WORDS.STOP_RECEIVERS) === 1; // once more, for what came before the word
      if (!stopping) Atomics.wait(bell, 0, rung, 5);
      continue;
    }
    const forged = drops(abi.DROP_BAD_TAG);
    const replayed = drops(abi.DROP_REPLAYED);
    for (let first = 0; first < records; ) {
      prepare();
      const done = core.deviceReceive(first, records);
      if (done <= first || done > records) fail(`deviceReceive(${first}, ${records}) = ${done}`);
      first = done;
      deliver(view.getUint32(base + abi.THREAD_DELIVER_COUNT, true));
      kick();
    }
    if (receivers === 1) {
      // This thread alone opens data: what was counted since is of this batch. (With more of them, the sums must do.)
      const wrong = Number(drops(abi.DROP_BAD_TAG) - forged);
      if (wrong > marks.spoiled) fail(`${wrong} packets did not open, ${marks.spoiled} were spoiled: a wrong key`);
      const again = Number(drops(abi.DROP_REPLAYED) - replayed);
      if (again > marks.repeated + marks.spoiled) fail(`${again} packets refused as replayed, ${marks.repeated} were`);
    }
    report.datagrams += marks.all;
    report.corrupted += marks.spoiled;
    report.repeated += marks.repeated;
    clearSomeSource();
  }
}

function deliver(count) {
  for (let i = 0; i < count; i++) {
    const record = base + abi.THREAD_DELIVER + i * abi.DELIVER_SIZE;
    const at = view.getUint32(record + abi.DELIVER_OFFSET, true);
    const length = view.getUint32(record + abi.DELIVER_LENGTH, true);
    const peer = view.getUint32(record + abi.DELIVER_PEER, true);
    const { flow, seq } = checkPacket(u8, view, at, length, 1 - device, fail);
    if (flow === SPOOFED) fail("a packet from a source that was never allowed");
    if (!((Atomics.load(control, WORDS.REAL_PEERS + device) >>> peer) & 1)) fail(`flow ${flow} came from peer ${peer}`);
    log.write(view.getUint32(at - 12, true), view.getUint32(at - 8, true), flow, seq);
    const seen = WORDS.RECEIVED + device * 64 + flow;
    if (seq + 1 > Atomics.load(control, seen)) Atomics.store(control, seen, seq + 1);
    report.delivered++;
  }
}

// --- one that does nothing -------------------------------------------------------------------------------------------

function idle() {
  prepare();
  core.deviceSend(0);
  core.deviceReceive(0, 0);
  parentPort.postMessage("blocked");
  Atomics.wait(control, WORDS.STOP_SENDERS, 0);
}

/** Ends the process should the main thread hang in the core, where no timer of its own could tell. */
function watch() {
  for (let last = -1; !Atomics.load(control, WORDS.STOP_RECEIVERS); ) {
    const beat = Atomics.load(control, WORDS.HEARTBEAT);
    if (beat === last) {
      writeSync(2, "threads.test.ts: the main thread made no step for 30 s: a deadlock\n");
      process.kill(process.pid, "SIGKILL");
    }
    last = beat;
    Atomics.wait(control, WORDS.STOP_RECEIVERS, 0, 30_000);
  }
}

if (role !== "idle") parentPort.postMessage("ready");
({ sender: send, receiver: receive, idle, watchdog: watch })[role]();
parentPort.postMessage(report);
