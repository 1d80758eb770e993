// Allowed IPs against a list that is searched from end to end, and the number of nodes against what a path-compressed
// trie must have: one for each prefix, and one for each longest common prefix of two neighbours that is none itself.
import assert from "node:assert/strict";
import fc from "fast-check";
import { suite } from "uvu";
import {
  ALLOWED_IP_ADDR,
  ALLOWED_IP_CIDR,
  ALLOWED_IP_FAMILY,
  BAD_ARGUMENT,
  DEVICE_BASE,
  DEVICE_NODE_COUNT,
  DEVICE_NODE_LIMIT,
  DEVICE_SIZE,
  FULL,
  NODE_SIZE,
  OK,
  PEER_SIZE,
  THREADS_BASE,
  THREAD_ALLOWED_IP,
  THREAD_ARGUMENT,
} from "../../assembly/abi.ts";
import { MAP_NODES, openTables, seeded, shuffle, type Opened } from "../helpers/tables.ts";
import { builds, hex } from "../helpers/wasm.ts";

const ADDR = THREADS_BASE + THREAD_ARGUMENT + 1; // odd: an inner packet's addresses may lie anywhere
const RECORD = THREADS_BASE + THREAD_ALLOWED_IP;

interface Prefix {
  family: number;
  addr: Uint8Array;
  cidr: number;
}

const lengthOf = (family: number) => (family === 4 ? 4 : 16);
const bit = (addr: Uint8Array, i: number) => (addr[i >> 3] >> (7 - (i & 7))) & 1;
const text = ({ family, addr, cidr }: Prefix) => `${family} ${hex(addr)}/${cidr}`;

function common(a: Uint8Array, b: Uint8Array): number {
  for (let i = 0; i < a.length * 8; i++) if (bit(a, i) !== bit(b, i)) return i;
  return a.length * 8;
}

function masked(prefix: Prefix): Prefix {
  const addr = prefix.addr.slice();
  for (let i = prefix.cidr; i < addr.length * 8; i++) addr[i >> 3] &= ~(1 << (7 - (i & 7)));
  return { ...prefix, addr };
}

/** The slow twin: prefixes in the order in which their owners got them. */
class Oracle {
  entries: (Prefix & { peer: number; key: string })[] = [];

  insert(prefix: Prefix, peer: number): void {
    const key = text(masked(prefix));
    const i = this.entries.findIndex((entry) => entry.key === key);
    if (i >= 0 && this.entries[i].peer === peer) return;
    if (i >= 0) this.entries.splice(i, 1);
    this.entries.push({ ...masked(prefix), peer, key });
  }
  remove(prefix: Prefix, peer: number): void {
    const key = text(masked(prefix));
    this.entries = this.entries.filter((entry) => entry.key !== key || entry.peer !== peer);
  }
  removeAll(peer: number): void {
    this.entries = this.entries.filter((entry) => entry.peer !== peer);
  }
  lookup(family: number, addr: Uint8Array): number {
    let best = { cidr: -1, peer: -1 };
    for (const entry of this.entries)
      if (entry.family === family && entry.cidr > best.cidr && common(entry.addr, addr) >= entry.cidr) best = entry;
    return best.peer;
  }
  list(peer: number): string[] {
    return this.entries.filter((entry) => entry.peer === peer).map((entry) => entry.key);
  }
  nodes(): number {
    const nodes = new Set(this.entries.map((entry) => entry.key));
    for (const family of [4, 6]) {
      const sorted = this.entries.filter((entry) => entry.family === family);
      sorted.sort((a, b) => Buffer.compare(a.addr, b.addr) || a.cidr - b.cidr);
      for (let i = 1; i < sorted.length; i++) {
        const [a, b] = [sorted[i - 1], sorted[i]];
        nodes.add(text(masked({ family, addr: a.addr, cidr: Math.min(a.cidr, b.cidr, common(a.addr, b.addr)) })));
      }
    }
    return nodes.size;
  }
}

/** The real one with the same verbs. */
class Real {
  tables: Opened;
  constructor(tables: Opened) {
    this.tables = tables;
    const { peerAddress } = tables.exports;
    tables.u8.fill(0, peerAddress(0), peerAddress(PEERS)); // the lists of the test before
    tables.exports.allowedIpsInit();
  }
  put(addr: Uint8Array): number {
    this.tables.u8.fill(0xff, ADDR, ADDR + 16);
    this.tables.u8.set(addr, ADDR);
    return ADDR;
  }
  insert(prefix: Prefix, peer: number): number {
    return this.tables.exports.allowedIpInsert(prefix.family, this.put(prefix.addr), prefix.cidr, peer);
  }
  remove(prefix: Prefix, peer: number): number {
    return this.tables.exports.allowedIpRemove(prefix.family, this.put(prefix.addr), prefix.cidr, peer);
  }
  removeAll(peer: number): void {
    this.tables.exports.allowedIpRemoveAll(peer);
  }
  lookup(family: number, addr: Uint8Array): number {
    return this.tables.exports.allowedIpLookup(family, this.put(addr));
  }
  list(peer: number): string[] {
    const { exports, view, u8 } = this.tables;
    const list: string[] = [];
    for (let node = exports.allowedIpFirst(peer); node; node = exports.allowedIpAfter(node)) {
      u8.fill(0xee, RECORD, RECORD + ALLOWED_IP_ADDR + 16);
      exports.allowedIpRead(node, RECORD);
      const family = view.getUint32(RECORD + ALLOWED_IP_FAMILY, true);
      const length = lengthOf(family);
      const addr = u8.slice(RECORD + ALLOWED_IP_ADDR, RECORD + ALLOWED_IP_ADDR + 16);
      assert.ok(addr.slice(length).every((byte) => byte === 0), "the rest of an IPv4 record is zero");
      list.push(text({ family, addr: addr.slice(0, length), cidr: view.getUint32(RECORD + ALLOWED_IP_CIDR, true) }));
    }
    return list;
  }
  nodes(): number {
    return this.tables.view.getUint32(DEVICE_NODE_COUNT, true);
  }
  /** Everything that an insertion might have changed. */
  state(peers: number, maxNodes: number): string {
    const { u8, view, exports } = this.tables;
    const nodes = view.getUint32(exports.MAP.value + MAP_NODES, true);
    const first = exports.peerAddress(0);
    return [
      u8.slice(DEVICE_BASE, DEVICE_BASE + DEVICE_SIZE),
      u8.slice(first, first + peers * PEER_SIZE),
      u8.slice(nodes, nodes + maxNodes * NODE_SIZE),
    ]
      .map(hex)
      .join(" ");
  }
}

const v4 = (a: number, b: number, c: number, d: number, cidr: number): Prefix => ({
  family: 4,
  addr: Uint8Array.of(a, b, c, d),
  cidr,
});

// Few values, so that prefixes nest, meet and part at all kinds of bits; some anything.
const byte = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom(0, 0x80, 0xff, 1) },
  { weight: 1, arbitrary: fc.integer({ min: 0, max: 255 }) },
);
const addrOf = (family: number) =>
  fc.array(byte, { minLength: lengthOf(family), maxLength: lengthOf(family) }).map((bytes) => Uint8Array.from(bytes));
const address = fc.constantFrom(4, 6).chain((family) => addrOf(family).map((addr) => ({ family, addr })));
const prefix = address.chain(({ family, addr }) =>
  fc.integer({ min: 0, max: lengthOf(family) * 8 }).map((cidr) => ({ family, addr, cidr })),
);
const PEERS = 4;
const peer = fc.integer({ min: 0, max: PEERS - 1 });
const step = fc.oneof(
  { weight: 12, arbitrary: fc.record({ verb: fc.constant("insert" as const), prefix, peer }) },
  { weight: 2, arbitrary: fc.record({ verb: fc.constant("remove" as const), prefix, peer }) },
  // one that is there: `which` modulo their number
  { weight: 6, arbitrary: fc.record({ verb: fc.constant("drop" as const), which: fc.nat(1000) }) },
  { weight: 4, arbitrary: fc.record({ verb: fc.constant("move" as const), which: fc.nat(1000), peer }) },
  { weight: 1, arbitrary: fc.record({ verb: fc.constant("removeAll" as const), peer }) },
);

for (const build of builds) {
  const test = suite(`allowed IPs (${build})`);
  const small = openTables(build, PEERS, 512);

  const seed = 20260901;
  test(`random changes against the list, seed ${seed}`, () => {
    const others = fc.array(address, { minLength: 8, maxLength: 8 });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), others, (steps, extra) => {
        const real = new Real(small);
        const oracle = new Oracle();
        for (const s of steps) {
          if (s.verb === "insert") {
            assert.equal(real.insert(s.prefix, s.peer), OK);
            oracle.insert(s.prefix, s.peer);
          } else if (s.verb === "remove") {
            assert.equal(real.remove(s.prefix, s.peer), OK);
            oracle.remove(s.prefix, s.peer);
          } else if (s.verb === "removeAll") {
            real.removeAll(s.peer);
            oracle.removeAll(s.peer);
          } else if (oracle.entries.length) {
            const entry = oracle.entries[s.which % oracle.entries.length];
            if (s.verb === "drop") {
              assert.equal(real.remove(entry, entry.peer), OK);
              oracle.remove(entry, entry.peer);
            } else {
              assert.equal(real.insert(entry, s.peer), OK);
              oracle.insert(entry, s.peer);
            }
          }
          assert.equal(real.nodes(), oracle.nodes());
        }
        for (const { family, addr } of [...extra, ...oracle.entries])
          assert.equal(real.lookup(family, addr), oracle.lookup(family, addr), `${family} ${hex(addr)}`);
        for (let p = 0; p < PEERS; p++) assert.deepEqual(real.list(p), oracle.list(p));
        for (let p = 0; p < PEERS; p++) real.removeAll(p);
        assert.equal(real.nodes(), 0);
      }),
      { seed, numRuns: 300 },
    );
  });

  test("many prefixes, random addresses near their edges, seed 7", () => {
    const tables = openTables(build, 64, 8192);
    const real = new Real(tables);
    const oracle = new Oracle();
    const random = seeded(7);
    const byte = () => [0, 255, 10, random(256)][random(4)];
    const some = (family: number) => Uint8Array.from({ length: lengthOf(family) }, byte);
    for (let i = 0; i < 1500; i++) {
      const family = random(2) ? 4 : 6;
      const entry = { family, addr: some(family), cidr: random(lengthOf(family) * 8 + 1) };
      const owner = random(64);
      assert.equal(real.insert(entry, owner), OK);
      oracle.insert(entry, owner);
    }
    assert.equal(real.nodes(), oracle.nodes());
    for (let i = 0; i < 1500; i++) {
      const near = oracle.entries[random(oracle.entries.length)];
      const addr = near.addr.slice();
      const at = random(addr.length * 8);
      addr[at >> 3] ^= 1 << (7 - (at & 7));
      assert.equal(real.lookup(near.family, addr), oracle.lookup(near.family, addr), `${near.family} ${hex(addr)}`);
    }
  });

  for (const [family, bits] of [[4, 32], [6, 128]] as const) {
    test(`IPv${family}: one address under every length 0..${bits}`, () => {
      const peers = bits + 1;
      const tables = openTables(build, peers, 512);
      const real = new Real(tables);
      const addr = Uint8Array.from({ length: bits / 8 }, (_, i) => 0x9e + 37 * i);
      const lengths = shuffle(Array.from({ length: peers }, (_, i) => i), seeded(3));
      for (const cidr of lengths) assert.equal(real.insert({ family, addr, cidr }, cidr), OK);
      assert.equal(real.nodes(), peers); // a chain branches nowhere
      assert.equal(real.lookup(family, addr), bits);
      for (let i = 0; i < bits; i++) {
        const other = addr.slice();
        other[i >> 3] ^= 1 << (7 - (i & 7));
        assert.equal(real.lookup(family, other), i, `first difference at bit ${i}`);
      }
      const other = addr.slice();
      other[0] ^= 0x80;
      for (const [i, cidr] of shuffle(lengths, seeded(4)).entries()) {
        assert.equal(real.remove({ family, addr, cidr }, cidr), OK);
        assert.equal(real.nodes(), peers - 1 - i);
        const left = Math.max(-1, ...lengths.slice(i + 1));
        assert.equal(real.lookup(family, addr), left);
        assert.equal(real.lookup(family, other), lengths.slice(i + 1).includes(0) ? 0 : -1);
      }
    });
  }

  test("the families do not meet", () => {
    const real = new Real(small);
    real.insert({ family: 4, addr: new Uint8Array(4), cidr: 0 }, 1);
    assert.equal(real.lookup(6, new Uint8Array(16)), -1);
    real.insert({ family: 6, addr: new Uint8Array(16), cidr: 0 }, 2);
    assert.equal(real.lookup(4, Uint8Array.of(255, 255, 255, 255)), 1);
    assert.equal(real.lookup(6, new Uint8Array(16).fill(255)), 2);
    real.removeAll(1);
    assert.equal(real.lookup(4, new Uint8Array(4)), -1);
    assert.equal(real.lookup(6, new Uint8Array(16)), 2);
  });

  test("a prefix has one owner: it moves, and to set it again is nothing", () => {
    const real = new Real(small);
    for (const d of [1, 2, 3]) real.insert(v4(10, 0, 0, d, 32), 0);
    real.insert(v4(10, 0, 0, 2, 32), 0);
    assert.deepEqual(real.list(0), ["4 0a000001/32", "4 0a000002/32", "4 0a000003/32"]);
    const nodes = real.nodes();
    real.insert(v4(10, 0, 0, 2, 32), 1);
    assert.deepEqual(real.list(0), ["4 0a000001/32", "4 0a000003/32"]);
    assert.deepEqual(real.list(1), ["4 0a000002/32"]);
    assert.equal(real.lookup(4, Uint8Array.of(10, 0, 0, 2)), 1);
    real.remove(v4(10, 0, 0, 2, 32), 0); // no longer its own
    assert.equal(real.lookup(4, Uint8Array.of(10, 0, 0, 2)), 1);
    assert.equal(real.nodes(), nodes);
  });

  test("unmasked input is masked", () => {
    const real = new Real(small);
    real.insert(v4(192, 168, 77, 99, 20), 3);
    assert.deepEqual(real.list(3), ["4 c0a84000/20"]);
    assert.equal(real.lookup(4, Uint8Array.of(192, 168, 79, 1)), 3);
    assert.equal(real.lookup(4, Uint8Array.of(192, 168, 80, 1)), -1);
    real.insert(v4(192, 168, 64, 1, 20), 2);
    assert.deepEqual([real.list(3), real.list(2)], [[], ["4 c0a84000/20"]]);
    real.remove(v4(192, 168, 70, 1, 20), 2);
    assert.equal(real.nodes(), 0);
  });

  test("bad arguments change nothing", () => {
    const real = new Real(small);
    real.insert(v4(10, 0, 0, 0, 8), 0);
    const before = real.state(PEERS, 512);
    const addr = new Uint8Array(16);
    const bad: [family: number, cidr: number, peer: number][] = [
      [0, 0, 0], [5, 0, 0], [10, 8, 0], [-4, 0, 0], [4, 33, 0], [4, -1, 0], [4, 128, 0], [6, 129, 0], [6, -1, 0],
      [4, 8, PEERS], [6, 8, -1],
    ];
    for (const [family, cidr, owner] of bad) {
      assert.equal(real.insert({ family, addr, cidr }, owner), BAD_ARGUMENT, `insert ${family} ${cidr} ${owner}`);
      assert.equal(real.remove({ family, addr, cidr }, owner), BAD_ARGUMENT, `remove ${family} ${cidr} ${owner}`);
    }
    assert.equal(real.state(PEERS, 512), before);
  });

  test("a full pool is a status, changes nothing, and is over when nodes come back", () => {
    const MAX = 9;
    const tables = openTables(build, PEERS, MAX);
    const real = new Real(tables);
    assert.equal(tables.view.getUint32(DEVICE_NODE_LIMIT, true), MAX);
    // Neighbours: each but the first takes two, itself and a branch.
    let inserted = 0;
    while (real.insert(v4(10, 0, 0, inserted, 32), 0) === OK) inserted++;
    assert.equal(inserted, (MAX + 1) / 2);
    assert.equal(real.nodes(), MAX);
    const before = real.state(PEERS, MAX);
    assert.equal(real.insert(v4(10, 0, 0, inserted, 32), 0), FULL);
    assert.equal(real.insert(v4(0, 0, 0, 0, 0), 1), FULL);
    assert.equal(real.insert({ family: 6, addr: new Uint8Array(16), cidr: 64 }, 1), FULL);
    assert.equal(real.state(PEERS, MAX), before);
    assert.equal(real.insert(v4(10, 0, 0, 1, 32), 1), OK, "a move takes no node");
    assert.equal(real.insert(v4(10, 0, 0, 0, 31), 1), OK, "nor does what branches already");
    assert.equal(real.nodes(), MAX);
    // 10.0.0.4 and its branch go: two free; a prefix of the other family takes one, a second would need two
    real.remove(v4(10, 0, 0, 4, 32), 0);
    assert.equal(real.nodes(), MAX - 2);
    assert.equal(real.insert({ family: 6, addr: new Uint8Array(16).fill(1), cidr: 64 }, 1), OK);
    const one = real.state(PEERS, MAX);
    assert.equal(real.insert({ family: 6, addr: new Uint8Array(16).fill(2), cidr: 64 }, 1), FULL);
    assert.equal(real.state(PEERS, MAX), one);
    assert.equal(real.insert({ family: 6, addr: new Uint8Array(16), cidr: 0 }, 1), OK);
    assert.equal(real.nodes(), MAX);
  });

  test("255 x 256 of each family on one peer, added and removed one by one", () => {
    const tables = openTables(build, 2, 255 * 256 * 4);
    const real = new Real(tables);
    const random = seeded(11);
    const prefixes: Prefix[] = [];
    for (let i = 1; i <= 255; i++)
      for (let j = 0; j < 256; j++) {
        prefixes.push(v4(10, i, j, 1, 32));
        const addr = new Uint8Array(16);
        addr.set([0xfd, 0, i, j], 0);
        addr[15] = 1;
        prefixes.push({ family: 6, addr, cidr: 128 });
      }
    for (const entry of prefixes) if (real.insert(entry, 0) !== OK) assert.fail(text(entry));
    const nodes = real.nodes();
    assert.equal(nodes, 2 * (2 * 255 * 256 - 1)); // n leaves, n - 1 branches, in each family
    const listed = real.list(0);
    assert.deepEqual(listed, prefixes.map(text));
    for (const entry of prefixes) if (real.lookup(entry.family, entry.addr) !== 0) assert.fail(text(entry));
    shuffle(prefixes, random);
    prefixes.forEach((entry, i) => {
      if (real.remove(entry, 0) !== OK || real.lookup(entry.family, entry.addr) !== -1) assert.fail(text(entry));
      const later = prefixes[i + 1 + random(prefixes.length - i - 1)];
      if (later && real.lookup(later.family, later.addr) !== 0) assert.fail(text(later));
    });
    assert.equal(real.nodes(), 0);
    assert.deepEqual(real.list(0), []);
    // and once more out of the free list, removed all at once
    for (const entry of prefixes) if (real.insert(entry, 1) !== OK) assert.fail(text(entry));
    assert.equal(real.nodes(), nodes);
    real.removeAll(1);
    assert.equal(real.nodes(), 0);
  });

  test("40 peers of 52 prefixes: one goes, the others stay", () => {
    const tables = openTables(build, 40, 8192);
    const real = new Real(tables);
    for (let p = 0; p < 40; p++)
      for (let i = 0; i < 52; i++) real.insert(i % 2 ? v4(10, p, i, 0, 24) : v4(10, p, i, p, 32), p);
    for (let gone = 0; gone < 40; gone++) {
      real.removeAll(gone);
      assert.deepEqual(real.list(gone), []);
      for (let p = 0; p < 40; p++)
        assert.equal(real.lookup(4, Uint8Array.of(10, p, 1, 9)), p <= gone ? -1 : p, `${gone} gone, peer ${p}`);
    }
    assert.equal(real.nodes(), 0);
  });

  test.run();
}
