// The proof of the locks: two devices, each with a main thread and two workers over one memory, exchange packets as fast
// as they can while the main thread changes all that can be changed. Time is virtual and runs 200 times as fast, so
// sessions come and go; the network repeats, spoils, delays and loses; nothing here depends on how fast the machine is.
//
// The workers check what they see (core-worker.mjs). What only the whole tells is checked at the end, from their logs: no
// counter twice under one key, nothing delivered twice, no flow out of order, every packet accounted for, nothing left.
import assert from "node:assert/strict";
import { Worker } from "node:worker_threads";
import { suite } from "uvu";
import * as abi from "../../assembly/abi.ts";
import { MainThread, productModule, seeded } from "../helpers/threads.ts";
import { checkEndpoint, FLOWS, Log, Ring, WORDS, writeEndpoint } from "../helpers/core-worker-wire.mjs";
import { builds } from "../helpers/wasm.ts";

const PEERS = 24;
const SPEED = 200n; // virtual seconds a second
const CHAOS_MS = 8000;
const STEP_MAX_NS = 20_000_000n; // a machine that stops for a while stops the clock, too

interface Report {
  role: string;
  device: number;
  calls: number;
  packets: number;
  outs: number;
  datagrams: number;
  delivered: number;
  lost: number;
  corrupted: number;
  repeated: number;
}

/** A worker: its first word, and its report when it ends. Both are refused when it breaks. */
interface Running {
  worker: Worker;
  first: Promise<unknown>;
  ended: Promise<Report>;
}

interface Lane extends Running {
  log: Log;
  ring: SharedArrayBuffer;
}

function spawn(data: Record<string, unknown>): Running {
  const worker = new Worker(new URL("../helpers/core-worker.mjs", import.meta.url), {
    workerData: { abi: { ...abi }, peers: PEERS, ...data },
  });
  let report: Report;
  let tell: (message: unknown) => void;
  let refuse: (error: Error) => void;
  const first = new Promise((resolve, reject) => ([tell, refuse] = [resolve, reject]));
  const ended = new Promise<Report>((resolve, reject) => {
    worker.on("message", (message) => (typeof message === "string" ? tell(message) : (report = message)));
    worker.on("error", (error) => [refuse, reject].forEach((give) => give(error as Error)));
    worker.on("exit", (code) => (code === 0 ? resolve(report) : reject(new Error(`worker ended with ${code}`))));
  });
  first.catch(() => {});
  ended.catch(() => {});
  return { worker, first, ended };
}

/** One device: its main thread, and what the other device is to it. */
class Side {
  readonly main: MainThread;
  readonly device: number;
  readonly ring = new SharedArrayBuffer(Ring.BYTES);
  readonly out = new Ring(this.ring);
  readonly dummies = new Set<number>();
  /** [session index, counter] of data that the main thread sealed; keepalives apart, they carry no packet */
  readonly sealed: [number, number][] = [];
  packets = 0;
  publicKey: Uint8Array;
  real = -1;
  deadline = 0;
  downFor = 0;

  constructor(build: string, device: number) {
    this.device = device;
    this.main = new MainThread(build, { maxPeers: PEERS, maxNodes: 256, threads: 3 }, 77 + device);
    this.publicKey = this.main.setPrivateKey(this.main.key());
    this.main.core.exports.deviceUp();
  }

  get exports() {
    return this.main.core.exports;
  }

  endpoint(port: number): Uint8Array {
    const bytes = new Uint8Array(abi.ENDPOINT_LEN);
    writeEndpoint(bytes, new DataView(bytes.buffer), 0, port);
    return bytes;
  }

  /** Adds the other device as a peer. */
  addReal(other: Side, psk: Uint8Array, control: Int32Array): void {
    this.real = this.main.addPeer(other.publicKey);
    assert.ok(this.real >= 0, `peerAdd: ${this.real}`);
    Atomics.or(control, WORDS.REAL_PEERS + this.device, 1 << this.real);
    this.main.setPsk(this.real, psk);
    assert.equal(this.main.setEndpoint(this.real, this.endpoint(1000)), abi.OK);
  }

  removeReal(): void {
    assert.equal(this.exports.peerRemove(this.real), abi.OK);
    this.real = -1;
  }

  addDummy(): void {
    const peer = this.main.addPeer(this.main.key());
    if (peer < 0) return assert.equal(peer, abi.FULL);
    this.dummies.add(peer);
    this.main.setEndpoint(peer, this.endpoint(2000 + peer));
    assert.equal(this.main.allow(peer, [10, 1 - this.device, 77, 0], 24), abi.OK);
  }

  dummy(random: (limit: number) => number): number {
    return [...this.dummies][random(this.dummies.size)] ?? -1;
  }

  /** Which peer packets of a flow go to, and may come from. */
  moveFlow(flow: number, peer: number): void {
    const status = this.main.allow(peer, [10, 1 - this.device, 0, flow], 32);
    assert.equal(status, abi.OK, `flow ${flow} to ${peer}: ${status}`);
  }

  restoreFlows(): void {
    for (let flow = 0; flow < FLOWS; flow++) this.moveFlow(flow, this.real);
  }

  /** Does what is due and gives it to the network. */
  service(): void {
    const { main } = this;
    for (const { bytes, endpoint } of main.service()) {
      checkEndpoint(endpoint, new DataView(endpoint.buffer), 0, (text: string) => assert.fail(text));
      if (bytes[0] === 4 && bytes.length > 32) {
        const view = new DataView(bytes.buffer);
        this.sealed.push([view.getUint32(4, true), view.getUint32(8, true)]);
        assert.equal(view.getUint32(12, true), 0);
      }
      this.out.put(bytes, 0);
    }
    this.deadline = main.deadline();
  }

  drops(...reasons: number[]): number {
    return reasons.reduce((sum, reason) => sum + this.main.drops(reason), 0);
  }
}

/** Says the word that lanes end on, and wakes those that wait on it. */
function stop(shared: SharedArrayBuffer, word: number): void {
  const control = new Int32Array(shared);
  Atomics.store(control, word, 1);
  Atomics.notify(control, word);
}

/** Ends the process when the main thread hangs: nothing in it could. */
const startWatchdog = (shared: SharedArrayBuffer): Running => spawn({ role: "watchdog", shared });

const range = (first: number, last: number): number[] => Array.from({ length: last - first + 1 }, (_, i) => first + i);
const INBOUND = range(abi.DROP_TRUNCATED, abi.DROP_NO_PRIVATE_KEY);
const OUTBOUND = range(abi.DROP_OUT_NOT_IP, abi.DROP_COUNT - 1);

for (const build of builds) {
  const test = suite(`threads (${build})`);

  const lanes: Lane[] = [];
  const shared = new SharedArrayBuffer(WORDS.COUNT * 4);

  // Should the test break off, its workers must not go on.
  test.after.each(() => {
    stop(shared, WORDS.STOP_SENDERS);
    stop(shared, WORDS.STOP_RECEIVERS);
  });

  test("two devices under fire", async () => {
    const control = new Int32Array(shared);
    const clock = new BigInt64Array(shared, WORDS.CLOCK * 4, 1);
    const bells = [new SharedArrayBuffer(4), new SharedArrayBuffer(4)];
    const random = seeded(42);
    const sides = [0, 1].map((device) => new Side(build, device));
    const other = (side: Side): Side => sides[1 - side.device];
    let psk: Uint8Array = new Uint8Array(32);
    for (const side of sides) side.addReal(other(side), psk, control);
    for (const side of sides) side.restoreFlows();

    const module = productModule(build);
    const start = (role: string, device: number): Lane => {
      const ring = new SharedArrayBuffer(Ring.BYTES);
      const log = new SharedArrayBuffer(Log.BYTES);
      const rings = role === "sender" ? [ring] : [lanes[1 - device].ring, sides[1 - device].ring];
      const { memory } = sides[device].main.core;
      const thread = role === "sender" ? 1 : 2;
      const seed = 100 * device + thread;
      const running = spawn({ module, memory, thread, role, device, shared, rings, log, bells, seed });
      return { ...running, log: new Log(log), ring };
    };
    for (const role of ["sender", "receiver"]) for (const device of [0, 1]) lanes.push(start(role, device));
    let broken: unknown;
    for (const lane of lanes) lane.ended.catch((error) => (broken ??= error));
    const watchdog = startWatchdog(shared);
    await Promise.all([...lanes, watchdog].map(({ first }) => first));

    // --- the main thread's own loop -------------------------------------------------------------------------------
    let before = process.hrtime.bigint();
    const tick = async (step: number): Promise<void> => {
      const rung = Atomics.load(control, WORDS.MAIN_BELL);
      const at = process.hrtime.bigint();
      const passed = at - before < STEP_MAX_NS ? at - before : STEP_MAX_NS;
      before = at;
      for (const side of sides) side.main.time += passed * SPEED;
      Atomics.store(clock, 0, sides[0].main.time);
      Atomics.add(control, WORDS.HEARTBEAT, 1);
      for (const side of sides) {
        const kicked = Atomics.exchange(control, WORDS.KICK + side.device, 0) !== 0;
        if (kicked || side.main.core.kicked || side.deadline * 1e6 <= Number(side.main.time)) {
          side.service();
          const bell = new Int32Array(bells[1 - side.device]);
          Atomics.add(bell, 0, 1);
          Atomics.notify(bell, 0);
        }
      }
      if (step % 8 === 0) await new Promise((resolve) => setImmediate(resolve));
      else Atomics.wait(control, WORDS.MAIN_BELL, rung, 1);
      if (broken) throw broken;
    };

    const counts = { moves: 0, adds: 0, removes: 0, keys: 0, psks: 0, replaced: 0, downs: 0, endpoints: 0, asked: 0 };
    const change = (side: Side): void => {
      const { main, exports } = side;
      if (side.downFor && --side.downFor === 0) exports.deviceUp();
      const dice = random(100);
      if (dice < 40) {
        const to = random(10) < 7 ? side.real : side.dummy(random);
        if (to >= 0) side.moveFlow(random(FLOWS), to);
        counts.moves++;
      } else if (dice < 55) {
        side.addDummy();
        counts.adds++;
      } else if (dice < 69) {
        const peer = side.dummy(random);
        if (peer < 0) return;
        side.dummies.delete(peer);
        if (random(2)) assert.equal(exports.allowedIpClear(peer), abi.OK);
        assert.equal(exports.peerRemove(peer), abi.OK);
        counts.removes++;
      } else if (dice < 80) {
        assert.equal(main.setEndpoint(side.real, side.endpoint(1 + random(60000))), abi.OK);
        if (random(4) === 0) exports.deviceClearSources();
        counts.endpoints++;
      } else if (dice < 92) {
        const peer = random(3) ? side.real : side.dummy(random);
        [exports.peerHandshake, exports.peerKeepalive][random(2)](peer);
        exports.peerSetPersistentKeepalive(peer, random(3) * 7);
        if (peer >= 0) main.info(peer);
        counts.asked++;
      } else if (dice < 94) {
        psk = main.key();
        for (const each of sides) each.main.setPsk(each.real, psk);
        counts.psks++;
      } else if (dice < 95) {
        side.removeReal();
        side.addReal(other(side), psk, control);
        side.restoreFlows();
        counts.replaced++;
      } else if (dice < 96 && random(4) === 0) {
        // Another private key here; there, the new peer takes the flows before or after the old one goes.
        side.publicKey = main.setPrivateKey(main.key());
        const there = other(side);
        const old = there.real;
        if (random(2)) {
          there.removeReal();
          there.addReal(side, psk, control);
          there.restoreFlows();
        } else {
          there.addReal(side, psk, control);
          there.restoreFlows();
          assert.equal(there.exports.peerRemove(old), abi.OK);
        }
        counts.keys++;
      } else if (dice < 97 && !side.downFor && random(4) === 0) {
        exports.deviceDown();
        side.downFor = 1 + random(10);
        counts.downs++;
      }
    };

    const until = Date.now() + CHAOS_MS;
    let step = 0;
    // A place is kept free for the peer that a new key makes.
    const mayAdd = (side: Side): boolean => side.dummies.size < PEERS - 3;
    while (Date.now() < until) {
      for (const side of sides)
        for (let times = random(4); times; times--) {
          if (mayAdd(side) || !side.dummies.size) change(side);
          else {
            const peer = side.dummy(random);
            side.dummies.delete(peer);
            assert.equal(side.exports.peerRemove(peer), abi.OK);
          }
        }
      await tick(++step);
    }

    // --- quiet: the tunnel must work again, for every flow, both ways ---------------------------------------------
    for (const side of sides) {
      side.exports.deviceUp();
      side.restoreFlows();
      side.exports.peerSetPersistentKeepalive(side.real, 0);
    }
    const counted = (word: number, device: number): number[] =>
      range(0, FLOWS - 1).map((flow) => Atomics.load(control, word + device * 64 + flow));
    const sent = sides.map(({ device }) => counted(WORDS.SENT, device));
    const stuck = (): string[] =>
      sides.flatMap(({ device }) =>
        counted(WORDS.RECEIVED, device)
          .map((got, flow) => (got > sent[1 - device][flow] ? "" : `flow ${flow} to device ${device} at packet ${got}`))
          .filter((text) => text !== ""),
      );
    const patience = Date.now() + 20_000;
    while (stuck().length) {
      await tick(++step);
      if (Date.now() > patience) assert.fail(stuck().join("; "));
    }

    // --- the end: senders first, then what is under way -----------------------------------------------------------
    stop(shared, WORDS.STOP_SENDERS);
    const reports = await Promise.all(lanes.slice(0, 2).map(({ ended }) => ended));
    for (let i = 0; i < 50; i++) await tick(++step);
    for (const side of sides) {
      side.exports.deviceDown();
      side.service();
    }
    stop(shared, WORDS.STOP_RECEIVERS);
    for (const bell of bells) {
      Atomics.add(new Int32Array(bell), 0, 1);
      Atomics.notify(new Int32Array(bell), 0);
    }
    reports.push(...(await Promise.all(lanes.slice(2).map(({ ended }) => ended))));
    await watchdog.ended;
    for (const side of sides) side.service();

    // --- every packet and datagram is accounted for ---------------------------------------------------------------
    for (const side of sides) {
      const [senderReport, receiverReport] = [reports[side.device], reports[side.device + 2]];
      const { view } = side.main.core;
      assert.equal(side.main.rxDatagrams, receiverReport.datagrams);
      assert.equal(side.main.rxDelivered + side.drops(...INBOUND), receiverReport.datagrams, "datagrams");
      assert.ok(receiverReport.delivered <= side.main.rxDelivered);
      assert.equal(
        senderReport.outs + side.sealed.length + side.drops(...OUTBOUND), senderReport.packets,
        `packets: ${senderReport.outs} sealed at once, ${side.sealed.length} later, drops ${side.main.allDrops()}`,
      );
      assert.equal(lanes[side.device].log.length, senderReport.outs);
      // Nothing posted and not done, no timer that the heap knows nothing of (offsets: tunnel/peer.ts).
      const peers = view.getUint32(abi.DEVICE_BASE + 7 * 4, true);
      for (let number = 0; number < PEERS; number++) {
        const peer = peers + number * abi.PEER_SIZE;
        assert.equal(view.getUint32(peer + 100, true), 0, `pending of peer ${number}`);
        for (let timer = 160; timer < 200; timer += 8) assert.equal(view.getBigUint64(peer + timer, true), 0n, "a timer");
      }
      assert.equal(side.main.deadline(), Infinity);
      for (let thread = 1; thread < 3; thread++)
        assert.equal(view.getUint32(abi.THREADS_BASE + abi.THREAD_SIZE * thread + abi.THREAD_BUSY, true), 0);
    }

    // --- counters, replays, order -----------------------------------------------------------------------------------
    let sessions = 0;
    for (const side of sides) {
      const sender = lanes[side.device].log;
      const receiver = lanes[3 - side.device].log;
      const bySession = new Map<number, Map<number, string>>();
      const seal = (index: number, counter: number, what: string): void => {
        let session = bySession.get(index);
        if (!session) bySession.set(index, (session = new Map()));
        const before = session.get(counter);
        assert.ok(before === undefined, `counter ${counter} twice under session ${index}: ${before}, ${what}`);
        session.set(counter, what);
      };
      // Packets of the worker: sealed in the order they came, under one session after the other.
      const newest = new Map<number, { seq: number; index: number; counter: number }>();
      const left = new Set<string>();
      for (let i = 0; i < sender.length; i++) {
        const { index, counter, flow, seq } = sender.read(i);
        seal(index, counter, `flow ${flow} packet ${seq}`);
        const last = newest.get(flow);
        if (last) {
          assert.ok(seq > last.seq);
          if (last.index !== index) left.add(`${flow} ${last.index}`);
          else assert.ok(counter > last.counter, `flow ${flow}: counter ${counter} after ${last.counter}`);
          assert.ok(!left.has(`${flow} ${index}`), `flow ${flow} went back to session ${index}`);
        }
        newest.set(flow, { seq, index, counter });
      }
      for (const [index, counter] of side.sealed) seal(index, counter, "staged");
      sessions += bySession.size;

      const packets = new Set<number>();
      const orders = new Map<string, { counter: number; seq: number }[]>();
      for (let i = 0; i < receiver.length; i++) {
        const { index, counter, flow, seq } = receiver.read(i);
        const what = bySession.get(index)?.get(counter);
        assert.ok(what === "staged" || what === `flow ${flow} packet ${seq}`, `${what} came as flow ${flow} packet ${seq}`);
        const packet = flow * 2 ** 32 + seq;
        assert.ok(!packets.has(packet), `flow ${flow} packet ${seq} came twice`);
        packets.add(packet);
        const name = `${index} ${flow}`;
        let order = orders.get(name);
        if (!order) orders.set(name, (order = []));
        order.push({ counter, seq });
      }
      for (const [name, order] of orders) {
        order.sort((a, b) => a.counter - b.counter);
        order.forEach(({ seq }, i) => assert.ok(!i || seq > order[i - 1].seq, `session and flow ${name}: order`));
      }
      assert.ok(packets.size > 1000, `${packets.size} packets delivered`);
    }
    assert.ok(sessions > 10, `${sessions} sessions`);
    for (const [name, count] of Object.entries(counts)) assert.ok(count > 0, `no ${name}`);
  });

  test("a worker that waits outside of a run, or is ended there, holds nobody up", async () => {
    const words = new SharedArrayBuffer(WORDS.COUNT * 4);
    const main = new MainThread(build, { maxPeers: 8, maxNodes: 64, threads: 3 });
    const { memory } = main.core;
    const busy = (thread: number) => main.core.view.getUint32(abi.THREADS_BASE + abi.THREAD_SIZE * thread + abi.THREAD_BUSY, true);
    const watchdog = startWatchdog(words);
    const idle = [1, 2].map((thread) =>
      spawn({ role: "idle", module: productModule(build), memory, thread, device: 0, shared: words, seed: thread }),
    );
    assert.deepEqual(await Promise.all(idle.map(({ first }) => first)), ["blocked", "blocked"]);
    const write = (): void => {
      for (let i = 0; i < 500; i++) {
        const peer = main.addPeer(main.key());
        assert.equal(peer, 0);
        assert.equal(main.allow(peer, [10, 0, i >> 8, i & 255], 32), abi.OK);
        main.setPrivateKey(main.key());
        assert.equal(main.core.exports.peerRemove(peer), abi.OK);
      }
    };
    write();
    assert.deepEqual([busy(1), busy(2)], [0, 0]);
    idle[1].ended.catch(() => {}); // its end is ours
    await idle[1].worker.terminate();
    main.core.exports.threadEnded(2);
    write();
    // As if it had been ended inside a run, where nobody can wait for it: threadEnded says so.
    main.core.view.setUint32(abi.THREADS_BASE + abi.THREAD_SIZE * 2 + abi.THREAD_BUSY, 1, true);
    main.core.exports.threadEnded(2);
    write();
    stop(words, WORDS.STOP_SENDERS);
    stop(words, WORDS.STOP_RECEIVERS);
    assert.equal((await idle[0].ended).role, "idle");
    await watchdog.ended;
  });

  test.run();
}
