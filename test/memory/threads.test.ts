// The proof of the locks: two devices, each with a main thread and workers over one memory, exchange packets as fast as
// they can while the main thread changes all that can be changed. Time is virtual and runs 200 times as fast, so
// sessions come and go; the network repeats, spoils, delays and loses; nothing here depends on how fast the machine is.
//
// The workers check what they see (core-worker.mjs). What only the whole tells is checked at the end, from their logs:
// no counter twice under one key, nothing delivered twice, no flow out of order, every packet accounted for, and nothing
// left behind.
import assert from "node:assert/strict";
import { Worker } from "node:worker_threads";
import { suite } from "uvu";
import * as abi from "../../assembly/abi.ts";
import { MainThread, productModule, seeded } from "../helpers/threads.ts";
import { checkEndpoint, FLOWS, Log, Ring, WORDS, writeEndpoint } from "../helpers/core-worker-wire.mjs";
import { builds } from "../helpers/wasm.ts";

const PEERS = 24;
const SPEED = 200n; // virtual seconds a second
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
  /** [session index, counter] of what the main thread sealed: staged packets, and keepalives, which carry none */
  readonly staged: [number, number][] = [];
  readonly keepalives: [number, number][] = [];
  packets = 0;
  publicKey: Uint8Array;
  real = -1;
  deadline = 0;
  downFor = 0;

  constructor(build: string, device: number, threads: number) {
    this.device = device;
    this.main = new MainThread(build, { maxPeers: PEERS, maxNodes: 256, threads }, 77 + device);
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

  /** Sets the other device's endpoint many times, while workers read it and write it too. */
  moveEndpoint(port: number, times: number): void {
    const { u8, argument } = this.main.core;
    const places = [argument, argument + abi.ENDPOINT_LEN];
    places.forEach((at, i) => u8.set(this.endpoint(port + i), at));
    for (let i = 0; i <= times; i++) assert.equal(this.exports.peerSetEndpoint(this.real, places[i & 1]), abi.OK);
  }

  restoreFlows(): void {
    for (let flow = 0; flow < FLOWS; flow++) this.moveFlow(flow, this.real);
  }

  /** Does what is due and gives it to the network. */
  service(): void {
    const { main } = this;
    for (const { bytes, endpoint } of main.service()) {
      checkEndpoint(endpoint, new DataView(endpoint.buffer), 0, (text: string) => assert.fail(text));
      if (bytes[0] === 4) {
        const view = new DataView(bytes.buffer);
        const list = bytes.length > 32 ? this.staged : this.keepalives;
        list.push([view.getUint32(4, true), view.getUint32(8, true)]);
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

  let shared: SharedArrayBuffer;

  test.before.each(() => {
    shared = new SharedArrayBuffer(WORDS.COUNT * 4);
  });

  // Should the test break off, its workers must not go on.
  test.after.each(() => {
    stop(shared, WORDS.STOP_SENDERS);
    stop(shared, WORDS.STOP_RECEIVERS);
  });

  /** @param receivers how many lanes in: the network gives what it repeats to the one that did not get it first */
  const underFire = async (receivers: number, milliseconds: number): Promise<void> => {
    const control = new Int32Array(shared);
    const clock = new BigInt64Array(shared, WORDS.CLOCK * 4, 1);
    const bells = [new SharedArrayBuffer(4), new SharedArrayBuffer(4)];
    const random = seeded(42);
    const sides = [0, 1].map((device) => new Side(build, device, 2 + receivers));
    const other = (side: Side): Side => sides[1 - side.device];
    let psk: Uint8Array = new Uint8Array(32);
    for (const side of sides) side.addReal(other(side), psk, control);
    for (const side of sides) side.restoreFlows();

    const module = productModule(build);
    const start = (role: string, device: number, thread: number, rings: SharedArrayBuffer[]): Lane => {
      const log = new SharedArrayBuffer(Log.BYTES);
      const { memory } = sides[device].main.core;
      const seed = 100 * device + thread;
      const running = spawn({ module, memory, thread, role, device, shared, rings, log, bells, seed, receivers });
      return { ...running, log: new Log(log) };
    };
    // From the sender of a device to each receiver of the other one.
    const links = sides.map(() => Array.from({ length: receivers }, () => new SharedArrayBuffer(Ring.BYTES)));
    const senders = sides.map(({ device }) => start("sender", device, 1, links[device]));
    const inbound = sides.map((side) =>
      links[1 - side.device].map((link, i) =>
        start("receiver", side.device, 2 + i, i === 0 ? [link, other(side).ring] : [link]),
      ),
    );
    const lanes = [...senders, ...inbound.flat()];
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
        side.moveEndpoint(1 + random(60000), random(500));
        if (random(4) === 0) exports.deviceClearSources();
        counts.endpoints++;
      } else if (dice < 92) {
        const peer = random(3) ? side.real : side.dummy(random);
        [exports.peerHandshake, exports.peerKeepalive][random(2)](peer);
        exports.peerSetPersistentKeepalive(peer, random(3) * 7);
        if (peer >= 0) main.info(peer);
        // Keepalives draw from the same counter as the worker, and outside of write sections.
        for (let times = random(40); times; times--) {
          exports.peerKeepalive(side.real);
          side.service();
        }
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

    const until = Date.now() + milliseconds;
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
    const sentBy = await Promise.all(senders.map(({ ended }) => ended));
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
    const receivedBy = await Promise.all(inbound.map((each) => Promise.all(each.map(({ ended }) => ended))));
    await watchdog.ended;
    for (const side of sides) side.service();

    // --- every packet and datagram is accounted for ---------------------------------------------------------------
    for (const side of sides) {
      const sent = sentBy[side.device];
      const received = (what: "datagrams" | "delivered" | "corrupted" | "repeated"): number =>
        receivedBy[side.device].reduce((sum, report) => sum + report[what], 0);
      const { view } = side.main.core;
      assert.equal(side.main.rxDatagrams, received("datagrams"));
      assert.equal(side.main.rxDelivered + side.drops(...INBOUND), received("datagrams"), "datagrams");
      assert.ok(received("delivered") <= side.main.rxDelivered);
      assert.ok(side.drops(abi.DROP_BAD_TAG) <= received("corrupted"));
      assert.ok(side.drops(abi.DROP_REPLAYED) <= received("repeated") + received("corrupted"));
      assert.equal(
        sent.outs + side.staged.length + side.drops(...OUTBOUND), sent.packets,
        `packets: ${sent.outs} sealed at once, ${side.staged.length} later, drops ${side.main.allDrops()}`,
      );
      assert.equal(senders[side.device].log.length, sent.outs);
      // Nothing posted and not done, no timer that the heap knows nothing of (offsets: tunnel/peer.ts).
      const peers = view.getUint32(abi.DEVICE_BASE + 7 * 4, true);
      for (let number = 0; number < PEERS; number++) {
        const peer = peers + number * abi.PEER_SIZE;
        assert.equal(view.getUint32(peer + 100, true), 0, `pending of peer ${number}`);
        for (let timer = 160; timer < 200; timer += 8)
          assert.equal(view.getBigUint64(peer + timer, true), 0n, "a timer");
      }
      assert.equal(side.main.deadline(), Infinity);
      for (let thread = 1; thread < 2 + receivers; thread++)
        assert.equal(view.getUint32(abi.THREADS_BASE + abi.THREAD_SIZE * thread + abi.THREAD_BUSY, true), 0);
    }

    // --- counters, replays, order -----------------------------------------------------------------------------------
    let sessions = 0;
    for (const side of sides) {
      const sender = senders[side.device].log;
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
      for (const [index, counter] of side.staged) seal(index, counter, "staged");
      for (const [index, counter] of side.keepalives) seal(index, counter, "keepalive");
      sessions += bySession.size;

      const packets = new Set<number>();
      const orders = new Map<string, { counter: number; seq: number }[]>();
      const entries = inbound[1 - side.device].flatMap(({ log }) => range(0, log.length - 1).map((i) => log.read(i)));
      for (const { index, counter, flow, seq } of entries) {
        const what = bySession.get(index)?.get(counter);
        const name = `flow ${flow} packet ${seq}`;
        assert.ok(what === "staged" || what === name, `${what} came as ${name}`);
        const packet = flow * 2 ** 32 + seq;
        assert.ok(!packets.has(packet), `${name} came twice`);
        packets.add(packet);
        const run = `${index} ${flow}`;
        let order = orders.get(run);
        if (!order) orders.set(run, (order = []));
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
  };

  test("two devices under fire", () => underFire(1, 6000));

  test("two lanes in: what one was given, the other is given again", () => underFire(2, 4000));

  test("a worker that waits outside of a run, or is ended there, holds nobody up", async () => {
    const words = new SharedArrayBuffer(WORDS.COUNT * 4);
    const main = new MainThread(build, { maxPeers: 8, maxNodes: 64, threads: 3 });
    const { memory } = main.core;
    const busyAt = (thread: number) => abi.THREADS_BASE + abi.THREAD_SIZE * thread + abi.THREAD_BUSY;
    const busy = (thread: number) => main.core.view.getUint32(busyAt(thread), true);
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
    main.core.view.setUint32(busyAt(2), 1, true);
    main.core.exports.threadEnded(2);
    write();
    stop(words, WORDS.STOP_SENDERS);
    stop(words, WORDS.STOP_RECEIVERS);
    assert.equal((await idle[0].ended).role, "idle");
    await watchdog.ended;
  });

  test.run();
}
