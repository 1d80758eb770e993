// What the module may import, export and hold; where everything lies; and what a full pool does: give a status, and
// change nothing else. The module under test is the product, read from its bytes.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import {
  BAD_ARGUMENT, BAD_MEMORY, DEVICE_BASE, DEVICE_NODE_COUNT, DEVICE_NODE_LIMIT, DEVICE_PEER_COUNT, DEVICE_PEER_LIMIT,
  DROP_HANDSHAKE_QUEUE_FULL, DROP_OUT_POOL_FULL, DROP_OUT_STAGED_OVERFLOW, DROP_OUT_STAGED_PURGED, FULL,
  HANDSHAKE_SLOT_SIZE, LIMITER_ENTRY_COUNT, LIMITER_ENTRY_SIZE, NODE_SIZE, NO_RANDOM, OK, PAGE_SIZE, PEER_INFO_STAGED,
  PEER_SIZE, SLOTS_SIZE, STAGED_BLOCK_COUNT, STAGED_BLOCK_SIZE, THREADS_END, THREAD_RANDOM_LEFT, THREAD_RANDOM_SIZE,
} from "../../assembly/abi.ts";
import { INITIATION_LEN, MAX_QUEUED_HANDSHAKES, MAX_STAGED_PACKETS } from "../../assembly/protocol.ts";
import { attachCore, Core, type CoreLimits } from "../../host/core.ts";
import { endpoint4, MainThread, packet4, productModule } from "../helpers/threads.ts";
import { builds } from "../helpers/wasm.ts";

const root = fileURLToPath(new URL("../../", import.meta.url));

// --- the binary ------------------------------------------------------------------------------------------------------

interface Binary {
  /** of each module global, imported ones first: whether it may change */
  globals: boolean[];
  /** [first byte, byte after the last] of each data segment */
  data: [number, number][];
}

/** Reads the sections that are asked about: globals and data. WebAssembly core specification, 5.5. */
function parse(bytes: Uint8Array): Binary {
  const binary: Binary = { globals: [], data: [] };
  let at = 8;
  const leb = (): number => {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++];
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value >>> 0;
    }
  };
  // A constant expression: i32.const, i64.const, f32.const, f64.const or v128.const, then end.
  const constant = (): number => {
    const opcode = bytes[at++];
    let value = 0;
    if (opcode === 0x41 || opcode === 0x42) {
      value = leb();
    } else {
      const skip = { 0x43: 4, 0x44: 8, 0xfd: 17 }[opcode];
      assert.ok(skip, `opcode ${opcode} in a constant expression`);
      at += skip;
    }
    assert.equal(bytes[at++], 0x0b);
    return value;
  };
  while (at < bytes.length) {
    const id = bytes[at++];
    const end = leb() + at;
    if (id === 6) {
      for (let count = leb(); count; count--) {
        at++; // value type
        binary.globals.push(bytes[at++] === 1);
        constant();
      }
    } else if (id === 11) {
      for (let count = leb(); count; count--) {
        assert.equal(leb(), 0, "an active segment of memory 0");
        const offset = constant();
        const length = leb();
        binary.data.push([offset, offset + length]);
        at += length;
      }
    }
    at = end;
  }
  return binary;
}

/** The names of an interface's methods, or of a module's exports, in a source text. */
const names = (text: string, pattern: RegExp): string[] => [...text.matchAll(pattern)].map(([, name]) => name).sort();

for (const build of builds) {
  const test = suite(`module (${build})`);
  const module = productModule(build);
  const bytes = new Uint8Array(readFileSync(join(root, `dist/core-${build}.wasm`)));

  test("imports one thing: its memory", () => {
    assert.deepEqual(WebAssembly.Module.imports(module), [{ module: "env", name: "memory", kind: "memory" }]);
  });

  test("exports what the host declares, no more: no allocator, no table, no global", () => {
    const exports = WebAssembly.Module.exports(module).filter(({ name }) => name !== "memory");
    assert.ok(exports.every(({ kind }) => kind === "function"));
    const text = readFileSync(join(root, "host/core.ts"), "utf8");
    const declared = /interface CoreExports \{([\s\S]*?)\n\}/.exec(text)?.[1] ?? "";
    assert.deepEqual(exports.map(({ name }) => name).sort(), names(declared, /^ {2}(\w+)\(/gm));
    assert.ok(exports.every(({ name }) => /^(?:device|peer|allowedIp|thread|memory|public)[A-Z]\w*$/.test(name)));
  });

  test("one global may change: the base of the thread", () => {
    assert.equal(parse(bytes).globals.filter((mutable) => mutable).length, 1);
  });

  test("static data ends below the device page, and no segment meets another", () => {
    const { data } = parse(bytes);
    assert.ok(data.length > 0);
    data.sort(([a], [b]) => a - b);
    data.forEach(([start, end], i) => assert.ok(end <= (data[i + 1]?.[0] ?? DEVICE_BASE), `${start}..${end}`));
  });

  test("no instruction grows the memory", async () => {
    const { default: binaryen } = await import("binaryen"); // the compiler's own
    const text = binaryen.readBinary(bytes).emitText();
    assert.match(text, /i32\.atomic\.rmw\.cmpxchg/); // it is the whole text
    assert.doesNotMatch(text, /memory\.grow/);
  });

  test.run();
}

// --- the map ---------------------------------------------------------------------------------------------------------

const zero = (bytes: Uint8Array): boolean => bytes.every((byte) => byte === 0);
const memoryOf = (pages: number) => new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });

/** The words of the map in the device page, in the order of `class Map` (memory.ts). */
function mapOf(view: DataView) {
  const word = (i: number) => view.getUint32(DEVICE_BASE + 4 * i, true);
  const words = Array.from({ length: 17 }, (_, i) => word(i));
  const [maxPeers, maxNodes, threads, indexBits, keyBits, mailboxBits, ...places] = words;
  const [slots, peers, indexTable, keyTable, deadlines, mailbox, nodes, staged, handshakes, limiter, end] = places;
  const pools = [
    { name: "slots", at: slots, size: threads * SLOTS_SIZE },
    { name: "peers", at: peers, size: maxPeers * PEER_SIZE },
    { name: "indexTable", at: indexTable, size: 8 * 2 ** indexBits },
    { name: "keyTable", at: keyTable, size: 4 * 2 ** keyBits },
    { name: "deadlines", at: deadlines, size: 4 * maxPeers },
    { name: "mailbox", at: mailbox, size: 4 * 2 ** mailboxBits },
    { name: "nodes", at: nodes, size: NODE_SIZE * maxNodes },
    { name: "staged", at: staged, size: STAGED_BLOCK_SIZE * STAGED_BLOCK_COUNT },
    { name: "handshakes", at: handshakes, size: HANDSHAKE_SLOT_SIZE * MAX_QUEUED_HANDSHAKES },
    { name: "limiter", at: limiter, size: LIMITER_ENTRY_SIZE * LIMITER_ENTRY_COUNT },
  ];
  return { maxPeers, maxNodes, threads, indexBits, keyBits, mailboxBits, pools, end };
}

type Pool = ReturnType<typeof mapOf>["pools"][number]["name"];

/** A copy of a pool's bytes. */
function poolOf(device: MainThread, name: Pool): Buffer {
  const { at, size } = mapOf(device.core.view).pools.find((pool) => pool.name === name)!;
  return Buffer.from(device.core.u8.slice(at, at + size));
}

/** Addresses, at most five, where two copies of a memory differ. */
function differences(a: Uint8Array, b: Uint8Array): string[] {
  const found: string[] = [];
  if (Buffer.compare(a, b) !== 0)
    for (let at = 0; at < a.length && found.length < 5; at++) if (a[at] !== b[at]) found.push(`0x${at.toString(16)}`);
  return found;
}

const snapshot = (device: MainThread): Buffer => Buffer.from(device.core.u8.slice());

for (const build of builds) {
  const test = suite(`map (${build})`);
  const bare = new Core(productModule(build), memoryOf(THREADS_END / PAGE_SIZE), 0);
  const pages = (peers: number, nodes: number, threads: number) =>
    bare.exports.memoryPages(peers, nodes, threads) >>> 0;

  test("memoryPages grows with each count", () => {
    const peers = [1, 2, 3, 7, 8, 9, 100, 4096, 65536, 500_000];
    const nodes = [2, 3, 100, 65536, 2 ** 19, 2 ** 24];
    for (const grow of [
      peers.map((count) => pages(count, 2 ** 16, 3)),
      nodes.map((count) => pages(4096, count, 3)),
      Array.from({ length: 16 }, (_, i) => pages(4096, 2 ** 16, i + 1)),
    ]) {
      grow.forEach((value, i) => assert.ok(value > 0 && value >= (grow[i - 1] ?? 0), `${grow}`));
      assert.ok(grow[grow.length - 1] > grow[0]);
    }
  });

  test("memoryPages is 0 for what is out of range, or past 4 GiB", () => {
    for (const [peers, nodes, threads] of [
      [0, 64, 1], [-1, 64, 1], [2 ** 20 + 1, 64, 1], [8, 0, 1], [8, 1, 1], [8, 2 ** 26 + 1, 1], [8, 64, 0], [8, 64, 17],
      [8, 64, -1], [2 ** 20, 64, 1], [800_000, 2 ** 25, 1],
    ])
      assert.equal(pages(peers, nodes, threads), 0, `${peers} ${nodes} ${threads}`);
    assert.ok(pages(1, 2, 1) > 0);
    assert.ok(pages(8, 2 ** 26, 1) > 0);
  });

  test("deviceInit refuses a memory one page too small, no randomness and counts out of range: nothing changes", () => {
    const size = pages(16, 64, 2);
    const small = new Core(productModule(build), memoryOf(size - 1), 0);
    small.view.setUint32(small.base + THREAD_RANDOM_LEFT, THREAD_RANDOM_SIZE, true);
    let before = Buffer.from(small.u8.slice());
    assert.equal(small.exports.deviceInit(16, 64, 2), BAD_MEMORY);
    assert.deepEqual(differences(before, Buffer.from(small.u8.slice())), []);

    const core = new Core(productModule(build), memoryOf(size), 0);
    core.view.setUint32(core.base + THREAD_RANDOM_LEFT, 31, true);
    before = Buffer.from(core.u8.slice());
    assert.equal(core.exports.deviceInit(16, 64, 2), NO_RANDOM);
    assert.equal(core.exports.deviceInit(0, 64, 2), BAD_ARGUMENT);
    assert.equal(core.exports.deviceInit(16, 64, 17), BAD_ARGUMENT);
    assert.deepEqual(differences(before, Buffer.from(core.u8.slice())), []);
    core.view.setUint32(core.base + THREAD_RANDOM_LEFT, 32, true);
    assert.equal(core.exports.deviceInit(16, 64, 2), OK);
  });

  test("pools lie one behind the other, in memory, each on a cache line", () => {
    const limits: CoreLimits[] = [
      { maxPeers: 1, maxNodes: 2, threads: 1 },
      { maxPeers: 7, maxNodes: 13, threads: 3 },
      { maxPeers: 64, maxNodes: 1000, threads: 2 },
      { maxPeers: 1025, maxNodes: 4097, threads: 1 },
    ];
    for (const limit of limits) {
      const { core } = new MainThread(build, limit);
      const map = mapOf(core.view);
      assert.deepEqual({ maxPeers: map.maxPeers, maxNodes: map.maxNodes, threads: map.threads }, limit);
      let cursor = THREADS_END;
      for (const { name, at, size } of map.pools) {
        assert.ok(at >= cursor && at < cursor + 64, `${name} at ${at}, ${cursor} before it`);
        assert.equal(at % 64, 0, name);
        cursor = at + size;
      }
      assert.ok(map.end >= cursor && map.end < cursor + 64);
      const size = pages(map.maxPeers, map.maxNodes, map.threads);
      assert.equal(size, Math.ceil(map.end / PAGE_SIZE));
      assert.equal(core.memory.buffer.byteLength, size * PAGE_SIZE);
      // Four indices a peer; a key; and a mailbox that its peers cannot fill.
      assert.ok(2 ** map.indexBits >= 2 * 4 * map.maxPeers);
      assert.ok(2 ** map.keyBits >= 2 * map.maxPeers);
      assert.ok(2 ** map.mailboxBits > map.maxPeers);
      assert.equal(core.view.getUint32(DEVICE_PEER_LIMIT, true), map.maxPeers);
      assert.equal(core.view.getUint32(DEVICE_NODE_LIMIT, true), map.maxNodes);
    }
  });

  test.run();
}

// --- instances -------------------------------------------------------------------------------------------------------

const A = [10, 0, 0, 1];
const B = [10, 0, 0, 2];
const AT_A = endpoint4(1, 1001);
const AT_B = endpoint4(2, 1002);

/** Two devices with a session, and a handshake under way besides. */
function connected(build: string): [MainThread, MainThread] {
  const a = new MainThread(build, { maxPeers: 16, maxNodes: 64, threads: 3 }, 5);
  const b = new MainThread(build, { maxPeers: 16, maxNodes: 64, threads: 3 }, 6);
  const keyA = a.setPrivateKey(a.key());
  const keyB = b.setPrivateKey(b.key());
  const peerB = a.addPeer(keyB);
  const peerA = b.addPeer(keyA);
  const other = a.addPeer(a.key());
  assert.equal(a.allow(peerB, B, 32), OK);
  assert.equal(b.allow(peerA, A, 32), OK);
  assert.equal(a.allow(other, [10, 9, 0, 0], 16), OK);
  a.setEndpoint(peerB, AT_B);
  a.setEndpoint(other, endpoint4(9, 9));
  for (const device of [a, b]) {
    device.core.exports.deviceUp();
    device.service();
  }
  a.send([packet4(A, B, 100), packet4(A, [10, 9, 1, 1], 300)]);
  const bytes = (outs: { bytes: Uint8Array; endpoint: Uint8Array }[], to: Uint8Array) =>
    outs.filter(({ endpoint }) => Buffer.compare(endpoint, to) === 0).map((out) => out.bytes);
  b.receive(bytes(a.service(), AT_B), AT_A);
  a.receive(bytes(b.service(), AT_A), AT_B);
  const [delivered] = b.receive(bytes(a.service(), AT_B), AT_A);
  assert.equal(delivered.packet.length, 100);
  b.service();
  return [a, b];
}

/** One packet from a to b. */
function passes(a: MainThread, b: MainThread): boolean {
  const outs = a.send([packet4(A, B, 200)]);
  const delivered = b.receive(outs.map(({ bytes }) => bytes), AT_A);
  return delivered.length === 1 && Buffer.compare(delivered[0].packet, packet4(A, B, 200)) === 0;
}

for (const build of builds) {
  const test = suite(`instances (${build})`);

  test("another instance over a live device changes no byte of it", () => {
    const [a, b] = connected(build);
    const before = snapshot(a);
    const instances = [1, 2, 0, 1].map((thread) => attachCore(productModule(build), a.core.memory, thread));
    assert.deepEqual(differences(before, snapshot(a)), []);
    assert.equal(instances.length, 4);
    assert.ok(passes(a, b) && passes(b, a) === false); // b's allowed source is A: what passes is a to b
    assert.ok(passes(a, b));
  });

  test("an instance works in its own thread's block and slots", () => {
    const [a, b] = connected(build);
    const second = attachCore(productModule(build), a.core.memory, 2);
    const before = snapshot(a);
    second.exports.publicKey(second.argument + 32, second.argument); // all the scratch of X25519
    const changed = snapshot(a);
    const from = second.base;
    assert.deepEqual(differences(before.subarray(0, from), changed.subarray(0, from)), []);
    assert.deepEqual(differences(before.subarray(from + PAGE_SIZE), changed.subarray(from + PAGE_SIZE)), []);
    assert.ok(differences(before, changed).length > 0);
    assert.ok(passes(a, b));
  });

  test.run();
}

// --- full pools ------------------------------------------------------------------------------------------------------

for (const build of builds) {
  const test = suite(`full pools (${build})`);

  test("peers", () => {
    const device = new MainThread(build, { maxPeers: 8, maxNodes: 64 });
    const keys = Array.from({ length: 9 }, () => device.key());
    const numbers = keys.slice(0, 8).map((key) => device.addPeer(key));
    assert.deepEqual(numbers, [0, 1, 2, 3, 4, 5, 6, 7]);
    const before = snapshot(device);
    assert.equal(device.addPeer(keys[8]), FULL);
    assert.deepEqual(differences(before, snapshot(device)), []);
    device.core.exports.peerRemove(3);
    assert.equal(device.addPeer(keys[8]), 3);
    assert.equal(device.core.view.getUint32(DEVICE_PEER_COUNT, true), 8);
  });

  test("nodes of the allowed IPs", () => {
    const device = new MainThread(build, { maxPeers: 2, maxNodes: 9 });
    const peer = device.addPeer(device.key());
    let fitted = 0;
    // Prefixes that part at once: each but the first takes two nodes.
    while (device.allow(peer, [fitted * 16, 0, 0, 0], 8) === OK) fitted++;
    assert.equal(fitted, 5);
    assert.equal(device.core.view.getUint32(DEVICE_NODE_COUNT, true), 9);
    const before = snapshot(device);
    assert.equal(device.allow(peer, [250, 0, 0, 0], 8), FULL);
    assert.equal(device.core.exports.allowedIpRoom(1), FULL);
    assert.deepEqual(differences(before, snapshot(device)), []);
    assert.equal(device.allow(peer, [16, 0, 0, 0], 8), OK, "one that is there already");
    device.core.exports.allowedIpClear(peer);
    assert.equal(device.core.view.getUint32(DEVICE_NODE_COUNT, true), 0);
    assert.equal(device.allow(peer, [250, 0, 0, 0], 8), OK);
  });

  /** A device of silent peers, one for 10.0.N.0/24 each. */
  function silentPeers(count: number): MainThread {
    const device = new MainThread(build, { maxPeers: count, maxNodes: 2 * count + 2 });
    device.setPrivateKey(device.key());
    for (let i = 0; i < count; i++) {
      const peer = device.addPeer(device.key());
      assert.equal(device.allow(peer, [10, 0, i, 0], 24), OK);
      device.setEndpoint(peer, endpoint4(i + 1, 1000));
    }
    device.core.exports.deviceUp();
    device.service();
    return device;
  }

  const stage = (device: MainThread, peer: number, count: number, len = 1000): void => {
    for (let left = count; left > 0; left -= 64)
      device.send(Array.from({ length: Math.min(left, 64) }, () => packet4(A, [10, 0, peer, 1], len)));
  };
  const staged = (device: MainThread, peer: number): number => device.info(peer).getUint32(PEER_INFO_STAGED, true);

  test("staged blocks", () => {
    const device = silentPeers(34);
    const peers = STAGED_BLOCK_COUNT / MAX_STAGED_PACKETS;
    for (let peer = 0; peer < peers; peer++) stage(device, peer, MAX_STAGED_PACKETS);
    assert.deepEqual([DROP_OUT_POOL_FULL, DROP_OUT_STAGED_OVERFLOW].map((reason) => device.drops(reason)), [0, 0]);
    let pool = poolOf(device, "staged");
    stage(device, peers, 3);
    assert.equal(device.drops(DROP_OUT_POOL_FULL), 3);
    assert.equal(staged(device, peers), 0);
    assert.deepEqual(differences(pool, poolOf(device, "staged")), [], "others' packets");

    // A peer with packets of its own there pays with them: one for one, three for one of three blocks.
    stage(device, 0, 1);
    assert.equal(device.drops(DROP_OUT_STAGED_OVERFLOW), 1);
    assert.equal(staged(device, 0), MAX_STAGED_PACKETS);
    stage(device, 0, 1, 5000);
    assert.equal(device.drops(DROP_OUT_STAGED_OVERFLOW), 4);
    assert.equal(staged(device, 0), MAX_STAGED_PACKETS - 2);

    // More than it could ever pay for: it keeps what it has.
    stage(device, 1, 1, 65000);
    stage(device, peers, 1);
    pool = poolOf(device, "staged");
    assert.equal(device.drops(DROP_OUT_POOL_FULL) + device.drops(DROP_OUT_STAGED_OVERFLOW), 4 + 4 + 32);
    assert.equal(staged(device, 1), MAX_STAGED_PACKETS - 31);

    // What was given back is zero, and can be taken again.
    for (let peer = 0; peer < peers; peer++) device.core.exports.peerRemove(peer);
    const left = device.drops(DROP_OUT_STAGED_PURGED);
    assert.equal(left, MAX_STAGED_PACKETS * peers - 2 - 31);
    const words = new Uint32Array(poolOf(device, "staged").buffer);
    for (let block = 0; block < STAGED_BLOCK_COUNT; block++) {
      const first = (block * STAGED_BLOCK_SIZE) / 4; // but for the link of the free list
      assert.ok(zero(new Uint8Array(words.buffer, first * 4 + 4, STAGED_BLOCK_SIZE - 4)), `block ${block}`);
    }
    stage(device, peers, MAX_STAGED_PACKETS);
    assert.equal(staged(device, peers), MAX_STAGED_PACKETS);
    assert.equal(device.service().filter(({ bytes }) => bytes.length === INITIATION_LEN).length, 1);
  });

  test("the queue of handshakes", () => {
    const device = silentPeers(2);
    const junk = new Uint8Array(INITIATION_LEN).fill(7);
    junk.set([1, 0, 0, 0]);
    const queue = (count: number): void => {
      for (let left = count; left > 0; left -= 256) {
        const run = new Uint8Array(Math.min(left, 256) * INITIATION_LEN);
        for (let at = 0; at < run.length; at += INITIATION_LEN) run.set(junk, at);
        device.receiveRun(run, INITIATION_LEN, AT_B);
      }
    };
    queue(MAX_QUEUED_HANDSHAKES);
    assert.equal(device.drops(DROP_HANDSHAKE_QUEUE_FULL), 0);
    const before = poolOf(device, "handshakes");
    const limiter = poolOf(device, "limiter");
    junk.fill(9, 4);
    queue(1);
    assert.equal(device.drops(DROP_HANDSHAKE_QUEUE_FULL), 1);
    queue(5);
    assert.equal(device.drops(DROP_HANDSHAKE_QUEUE_FULL), 6);
    assert.deepEqual(differences(before, poolOf(device, "handshakes")), []);
    assert.deepEqual(differences(limiter, poolOf(device, "limiter")), []);
    device.service();
    queue(MAX_QUEUED_HANDSHAKES);
    assert.equal(device.drops(DROP_HANDSHAKE_QUEUE_FULL), 6, "emptied, it takes as many again");
    device.service();
    assert.equal(device.rxDelivered + device.allDrops().reduce((sum, count) => sum + count, 0), device.rxDatagrams);
  });

  test("the index table", () => {
    const device = silentPeers(2);
    const { indexBits, pools } = mapOf(device.core.view);
    const table = pools.find(({ name }) => name === "indexTable")!;
    // Its size rules a full one out; so every slot is taken by hand.
    for (let slot = 0; slot < 2 ** indexBits; slot++) {
      device.core.view.setUint32(table.at + 8 * slot, slot, true);
      device.core.view.setUint32(table.at + 8 * slot + 4, 1, true);
    }
    const before = poolOf(device, "indexTable");
    stage(device, 0, 1);
    assert.equal(device.service().length, 0);
    assert.deepEqual(differences(before, poolOf(device, "indexTable")), []);
    assert.equal(staged(device, 0), 1);
    // With a place free, the next packet begins the handshake that the first one could not.
    device.core.view.setBigUint64(table.at, 0n, true);
    device.advance(6000);
    stage(device, 0, 1);
    assert.equal(device.service().length, 1);
  });

  test("nothing is ever written past the map's end", () => {
    const device = silentPeers(3);
    const { end } = mapOf(device.core.view);
    for (let peer = 0; peer < 3; peer++) stage(device, peer, 300, 65000);
    device.receiveRun(new Uint8Array(64_000), 64, AT_B);
    device.service();
    assert.ok(zero(device.core.u8.slice(end)));
  });

  test.run();
}
