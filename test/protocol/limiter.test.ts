// The handshake limiter: 20 a second, 5 at once, for each IPv4 address and IPv6 /64, in a table that does not grow.
import assert from "node:assert/strict";
import { suite } from "uvu";
import {
  ENDPOINT_ADDR,
  ENDPOINT_FAMILY,
  ENDPOINT_LEN,
  ENDPOINT_PORT,
  ENDPOINT_SCOPE,
  LIMITER_ENTRY_COUNT,
  LIMITER_ENTRY_SIZE,
  THREADS_BASE,
  THREAD_ARGUMENT,
} from "../../assembly/abi.ts";
import { MAP_LIMITER, openTables, seeded } from "../helpers/tables.ts";
import { builds } from "../helpers/wasm.ts";

const ENDPOINT = THREADS_BASE + THREAD_ARGUMENT;
const MS = 1_000_000n;
const START = 1_000_000_000_000n;
const ENTRIES = 8192;

function openLimiter(build: string) {
  const tables = openTables(build);
  const { exports, u8, view } = tables;
  u8.set(Uint8Array.from({ length: 16 }, (_, i) => 17 * i + 3), ENDPOINT);
  exports.limiterInit(ENDPOINT);
  const allow = (addr: number[], now: bigint, port = 51820) => {
    u8.fill(0, ENDPOINT, ENDPOINT + ENDPOINT_LEN);
    view.setUint16(ENDPOINT + ENDPOINT_FAMILY, addr.length === 4 ? 4 : 6, true);
    view.setUint16(ENDPOINT + ENDPOINT_PORT, port);
    view.setUint32(ENDPOINT + ENDPOINT_SCOPE, port, true);
    u8.set(addr, ENDPOINT + ENDPOINT_ADDR);
    return exports.limiterAllow(ENDPOINT, now) !== 0;
  };
  return { ...tables, allow };
}

const v6 = (prefix: number[], id: number[] = []) => {
  const addr = new Array(16).fill(0);
  prefix.forEach((byte, i) => (addr[i] = byte));
  id.forEach((byte, i) => (addr[8 + i] = byte));
  return addr;
};
const numbered = (n: number) => [11, (n >> 16) & 255, (n >> 8) & 255, n & 255];

for (const build of builds) {
  const test = suite(`limiter (${build})`);

  for (const [name, source] of Object.entries({ IPv4: [192, 0, 2, 1], IPv6: v6([0x20, 1, 0x0d, 0xb8]) })) {
    test(`${name}: five pass, the sixth does not, one more every 50 ms`, () => {
      const { allow } = openLimiter(build);
      for (let i = 0; i < 5; i++) assert.equal(allow(source, START), true);
      for (let i = 0; i < 10; i++) assert.equal(allow(source, START), false);
      assert.equal(allow(source, START + 50n * MS - 1n), false);
      assert.equal(allow(source, START + 50n * MS), true);
      assert.equal(allow(source, START + 50n * MS), false);
      assert.equal(allow(source, START + 99n * MS), false);
      assert.equal(allow(source, START + 100n * MS), true);
      assert.equal(allow(source, START + 200n * MS), true);
      assert.equal(allow(source, START + 200n * MS), true);
      assert.equal(allow(source, START + 200n * MS), false);
      for (let i = 0; i < 5; i++) assert.equal(allow(source, START + 450n * MS), true, "full after 250 ms");
      assert.equal(allow(source, START + 450n * MS), false);
      const later = START + 3_600_000n * MS;
      for (let i = 0; i < 5; i++) assert.equal(allow(source, later), true);
      assert.equal(allow(source, later), false, "never holds more than five");
    });
  }

  test("neighbours have buckets of their own, ports and the rest of a /64 do not", () => {
    const { allow } = openLimiter(build);
    const drain = (addr: number[]) => {
      for (let i = 0; i < 5; i++) assert.equal(allow(addr, START, i), true);
      assert.equal(allow(addr, START, 99), false);
    };
    drain([10, 0, 0, 1]);
    drain([10, 0, 0, 2]);
    drain([11, 0, 0, 1]);
    drain([0, 0, 0, 0]);
    drain(v6([0, 0, 0, 0])); // not the IPv4 address with the same bytes
    drain(v6([10, 0, 0, 1]));
    // Pairs of such, enough for some that share a set of the table.
    for (let n = 0; n < 8192; n++) {
      const now = START + BigInt(n + 1) * 1000n * MS;
      for (let i = 0; i < 5; i++) allow(numbered(n), now);
      assert.equal(allow(numbered(n), now), false);
      assert.equal(allow(v6(numbered(n)), now), true);
    }
    drain(v6([0xfd, 0, 0, 0, 0, 0, 0, 1], [1]));
    assert.equal(allow(v6([0xfd, 0, 0, 0, 0, 0, 0, 1], [2]), START), false);
    assert.equal(allow(v6([0xfd, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 9]), START), false);
    drain(v6([0xfd, 0, 0, 0, 0, 0, 0, 2], [1]));
  });

  test("a clock that stands or steps back gives nothing", () => {
    const { allow } = openLimiter(build);
    for (let i = 0; i < 5; i++) assert.equal(allow([10, 0, 0, 1], START), true);
    assert.equal(allow([10, 0, 0, 1], START - 1000n * MS), false);
    assert.equal(allow([10, 0, 0, 1], START - 1000n * MS), false);
  });

  test("an instant before 250 ms after boot is no trap", () => {
    const { allow } = openLimiter(build);
    for (let i = 0; i < 5; i++) assert.equal(allow([10, 0, 0, 1], 0n), true);
    assert.equal(allow([10, 0, 0, 1], 0n), false);
    assert.equal(allow([10, 0, 0, 1], 50n * MS), true);
  });

  test("100,000 sources: no memory outside the table changes, and no bucket that owes is forgotten", () => {
    const { allow, u8, view, exports } = openLimiter(build);
    assert.equal(LIMITER_ENTRY_COUNT, ENTRIES);
    const first = view.getUint32(exports.MAP.value + MAP_LIMITER, true);
    const end = first + LIMITER_ENTRY_COUNT * LIMITER_ENTRY_SIZE;
    const mine = [10, 9, 8, 7];
    for (let i = 0; i < 5; i++) assert.equal(allow(mine, START), true);
    allow(mine, START);
    const before = u8.slice(0, ENDPOINT);
    const between = u8.slice(ENDPOINT + ENDPOINT_LEN, first);
    let allowed = 0;
    for (let i = 0; i < 100_000; i++) if (allow(numbered(i), START)) allowed++;
    assert.equal(allowed, ENTRIES - 1, "every entry is taken once");
    assert.equal(allow(mine, START + 49n * MS), false);
    assert.equal(allow(mine, START + 50n * MS), true);
    const soon = START + 50n * MS - 1n;
    for (let i = 0; i < 10_000; i++) assert.equal(allow(numbered(100_000 + i), soon), false, "all owe 1 ns");
    // but then the table is free again for others, except for the one entry
    allowed = 0;
    for (let i = 0; i < 100_000; i++) if (allow(numbered(200_000 + i), START + 50n * MS)) allowed++;
    assert.equal(allowed, ENTRIES - 1);
    assert.equal(Buffer.compare(u8.slice(0, ENDPOINT), before), 0);
    assert.equal(Buffer.compare(u8.slice(ENDPOINT + ENDPOINT_LEN, first), between), 0);
    assert.ok(u8.slice(end).every((byte) => byte === 0), "nothing behind the table");
  });

  test("random sources and times against buckets that are never forgotten, seed 5", () => {
    const { allow } = openLimiter(build);
    const random = seeded(5);
    const buckets = new Map<string, { last: bigint; tokens: bigint }>();
    let now = START;
    let refused = 0;
    for (let i = 0; i < 50_000; i++) {
      now += BigInt(random(4) ? random(1_000_000) : random(20_000_000));
      const n = random(random(2) ? 400 : 8);
      const source = n % 2 ? [10, 0, n >> 8, n & 255] : v6([0x20, 1, n >> 8, n & 255], [random(256)]);
      const key = n.toString();
      const bucket = buckets.get(key) ?? { last: now, tokens: 250n * MS };
      const saved = bucket.tokens + now - bucket.last;
      const tokens = saved > 250n * MS ? 250n * MS : saved;
      const expected = tokens >= 50n * MS;
      buckets.set(key, { last: now, tokens: expected ? tokens - 50n * MS : tokens });
      assert.equal(allow(source, now), expected, `step ${i}`);
      if (!expected) refused++;
    }
    assert.ok(refused > 1000 && refused < 49_000, `${refused} refused`);
  });

  test.run();
}
