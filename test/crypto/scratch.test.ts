// Where the crypto writes: its own thread's scratch and dst, nothing else; what it leaves behind; what it imports.
import { suite } from "uvu";
import * as assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { instantiateSync } from "@assemblyscript/loader";
import { DEVICE_BASE, THREAD_CRYPTO, THREAD_CRYPTO_SIZE, THREADS_BASE, THREAD_SIZE } from "../../assembly/abi.ts";
import { cryptoBuilds } from "../helpers/wasm.ts";
import { AD, bytes, type CryptoExports, DST, get, KEY, loadCrypto, NONCE, OUT, put, SRC } from "./fixture.ts";

const scratchOf = (thread: number) => THREADS_BASE + THREAD_SIZE * thread + THREAD_CRYPTO;
const module = (build: string) =>
  new WebAssembly.Module(readFileSync(new URL(`../../dist/test/crypto-${build}.wasm`, import.meta.url)));

for (const build of cryptoBuilds) {
  const test = suite(`crypto/scratch ${build}`);
  const core = loadCrypto(build);
  const { u8 } = core;
  const STATE = OUT + 0x400;

  /** Every exported operation once, results at OUT and DST. */
  const all = (c: CryptoExports) => {
    c.packetSeal(DST, SRC, 1420, KEY, 1n);
    c.packetOpen(DST, DST, 1436, KEY, 1n);
    c.packetOpen(DST, DST, 1436, KEY, 1n); // refused
    c.packetSeal(DST, SRC, 5, KEY, 2n);
    c.aeadSeal(DST, SRC, 77, AD, 32, KEY, 3n);
    c.aeadOpen(DST, DST, 93, AD, 32, KEY, 3n);
    c.aeadOpen(DST, DST, 93, AD, 32, KEY, 3n); // refused
    c.aeadSealNonce(DST, SRC, 400, AD, 13, KEY, NONCE);
    c.aeadOpenNonce(DST, DST, 416, AD, 13, KEY, NONCE);
    c.xaeadSeal(DST, SRC, 16, AD, 16, KEY, NONCE);
    c.xaeadOpen(DST, DST, 32, AD, 16, KEY, NONCE);
    c.blake2s(OUT, 32, SRC, 200, KEY, 32);
    c.blake2sInit(STATE, 32, KEY, 32);
    c.blake2sUpdate(STATE, SRC, 99);
    c.blake2sFinal(STATE, OUT);
    c.hmacBlake2s(OUT, KEY, 100, SRC, 100);
    c.kdf1(OUT, KEY, SRC, 32);
    c.kdf2(OUT, OUT + 32, KEY, SRC, 32);
    c.kdf3(OUT, OUT + 32, OUT + 64, KEY, SRC, 0);
    c.x25519(OUT, KEY, NONCE);
    c.x25519Public(OUT, KEY);
  };
  const fillInputs = () => {
    put(core, KEY, bytes(128, 1));
    put(core, NONCE, bytes(32, 2));
    put(core, AD, bytes(64, 3));
    put(core, SRC, bytes(1500, 4));
  };

  test("thread 3 changes no byte outside its own crypto scratch and dst", () => {
    for (const fill of [0x00, 0xc3]) {
      u8.fill(fill, DEVICE_BASE);
      fillInputs();
      const before = u8.slice();
      core.exports.bindThread(3);
      all(core.exports);
      core.exports.cryptoWipe();
      core.exports.bindThread(0);
      const mine: [number, number][] = [
        [scratchOf(3), scratchOf(3) + THREAD_CRYPTO_SIZE],
        [OUT, OUT + 96],
        [STATE, STATE + core.exports.BLAKE2S_STATE_LEN.value],
        [DST, DST + 1436],
      ];
      let changed = 0;
      for (let at = 0; at < u8.length; at++) {
        if (u8[at] === before[at]) continue;
        changed++;
        assert.ok(mine.some(([start, end]) => at >= start && at < end), `byte 0x${at.toString(16)} changed`);
      }
      assert.ok(changed > 1000, "the operations ran");
    }
  });

  // Two instances over one memory, their calls in turn: one's scratch must survive the other's work.
  test("one instance's scratch and results are not disturbed by another over the same memory", () => {
    const other = instantiateSync(module(build), { env: { memory: core.memory } }).exports as unknown as CryptoExports;
    core.exports.bindThread(0);
    other.bindThread(1);
    fillInputs();
    core.exports.packetSeal(OUT, SRC, 600, KEY, 5n);
    const alone = get(core, OUT, 616);
    const scratch = get(core, scratchOf(0), THREAD_CRYPTO_SIZE);
    all(other);
    assert.deepEqual(get(core, scratchOf(0), THREAD_CRYPTO_SIZE), scratch);
    fillInputs();
    core.exports.packetSeal(OUT, SRC, 600, KEY, 5n);
    assert.deepEqual(get(core, OUT, 616), alone);
  });

  test("handshake operations leave their scratch zeroed", () => {
    const c = core.exports;
    c.bindThread(2);
    c.cryptoWipe();
    fillInputs();
    const operations: [string, () => unknown][] = [
      ["aeadSeal", () => c.aeadSeal(DST, SRC, 77, AD, 31, KEY, 3n)],
      ["aeadOpen", () => assert.equal(c.aeadOpen(DST, DST, 93, AD, 31, KEY, 3n), 1)],
      ["aeadOpen, refused", () => assert.equal(c.aeadOpen(DST, DST, 93, AD, 31, KEY, 3n), 0)],
      ["xaeadSeal", () => c.xaeadSeal(DST, SRC, 16, AD, 16, KEY, NONCE)],
      ["xaeadOpen", () => assert.equal(c.xaeadOpen(DST, DST, 32, AD, 16, KEY, NONCE), 1)],
      ["blake2s", () => c.blake2s(OUT, 32, SRC, 200, KEY, 32)],
      ["hmacBlake2s", () => c.hmacBlake2s(OUT, KEY, 100, SRC, 100)],
      ["kdf3", () => c.kdf3(OUT, OUT + 32, OUT + 64, KEY, SRC, 32)],
      ["x25519", () => c.x25519(OUT, KEY, NONCE)],
      ["x25519Public", () => c.x25519Public(OUT, KEY)],
    ];
    for (const [name, run] of operations) {
      run();
      const left = get(core, scratchOf(2), THREAD_CRYPTO_SIZE).findIndex((byte) => byte !== 0);
      assert.equal(left, -1, `${name} left byte ${left} of the scratch`);
    }
    c.bindThread(0);
  });

  test("cryptoWipe ends what the packets left, for this thread alone", () => {
    const c = core.exports;
    for (const thread of [4, 5]) {
      c.bindThread(thread);
      c.packetSeal(DST, SRC, 1420, KEY, 1n);
      assert.ok(get(core, scratchOf(thread), THREAD_CRYPTO_SIZE).some((byte) => byte !== 0));
    }
    c.cryptoWipe();
    assert.ok(get(core, scratchOf(5), THREAD_CRYPTO_SIZE).every((byte) => byte === 0));
    assert.ok(get(core, scratchOf(4), THREAD_CRYPTO_SIZE).some((byte) => byte !== 0));
    c.cryptoWipeThread(4);
    assert.ok(get(core, scratchOf(4), THREAD_CRYPTO_SIZE).every((byte) => byte === 0));
    c.bindThread(0);
  });

  test("the module imports its memory and nothing else, and exports no allocator", () => {
    const compiled = module(build);
    assert.deepEqual(
      WebAssembly.Module.imports(compiled).map(({ module, name, kind }) => `${module}.${name} ${kind}`),
      ["env.memory memory"],
    );
    const names = WebAssembly.Module.exports(compiled).map(({ name }) => name);
    assert.ok(names.includes("packetSeal"));
    assert.deepEqual(names.filter((name) => /^__|alloc|pin|rtti|abort/i.test(name)), []);
  });

  test("the scratch ends within its region", () => {
    assert.ok(core.exports.CRYPTO_END.value <= THREAD_CRYPTO + THREAD_CRYPTO_SIZE);
  });

  test.run();
}
