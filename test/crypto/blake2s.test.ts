// BLAKE2s in every build: RFC 7693 appendices B and E, the reference's keyed vectors, and @noble/hashes at every
// length.
import { suite } from "uvu";
import * as assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { blake2s } from "@noble/hashes/blake2.js";
import { cryptoBuilds, hex, unhex } from "../helpers/wasm.ts";
import { bytes, get, KEY, loadCrypto, OUT, put, SRC } from "./fixture.ts";

const STATE = OUT + 0x100;

for (const build of cryptoBuilds) {
  const test = suite(`crypto/blake2s ${build}`);
  const core = loadCrypto(build);
  const { exports: c } = core;

  const hash = (message: Uint8Array, key: Uint8Array, length = 32): Uint8Array => {
    put(core, SRC, message);
    put(core, KEY, key);
    c.blake2s(OUT, length, SRC, message.length, KEY, key.length);
    return get(core, OUT, length);
  };

  test("RFC 7693 appendix B: abc", () => {
    const want = "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982";
    assert.equal(hex(hash(new TextEncoder().encode("abc"), new Uint8Array(0))), want);
  });

  test("RFC 7693 appendix E: the hash of hashes of six lengths, four sizes, keyed and not", () => {
    const sequence = (length: number, seed: number): Uint8Array => {
      let a = Math.imul(0xdead4bad, seed);
      let b = 1;
      return Uint8Array.from({ length }, () => {
        const t = (a + b) | 0;
        a = b;
        b = t;
        return t >>> 24;
      });
    };
    const all: Uint8Array[] = [];
    for (const size of [16, 20, 28, 32])
      for (const length of [0, 3, 64, 65, 255, 1024]) {
        const message = sequence(length, length);
        all.push(hash(message, new Uint8Array(0), size), hash(message, sequence(size, size), size));
      }
    const want = "6a411f08ce25adcdfb02aba641451cec53c598b24f4fc787fbdc88797f4c1dfe";
    assert.equal(hex(hash(new Uint8Array(Buffer.concat(all)), new Uint8Array(0))), want);
  });

  test("the reference's known answers, keyed, 0..255 bytes", () => {
    const text = readFileSync(new URL("../vectors/blake2s-kat.txt", import.meta.url), "utf8");
    const cases = [...text.matchAll(/in:\t([0-9a-f]*)\nkey:\t([0-9a-f]+)\nhash:\t([0-9a-f]{64})/g)];
    assert.equal(cases.length, 256);
    for (const [, message, key, want] of cases) {
      assert.equal(hex(hash(unhex(message), unhex(key))), want, `${message.length / 2} bytes`);
    }
  });

  test("every length 0..600, keys of 0..32 bytes, hashes of 1..32 bytes: as @noble/hashes", () => {
    for (let length = 0; length <= 600; length++) {
      const message = bytes(length, length);
      const key = bytes(length % 33, length + 1);
      const dkLen = 1 + (length % 32);
      const want = blake2s(message, key.length ? { dkLen, key } : { dkLen });
      assert.equal(hex(hash(message, key, dkLen)), hex(want), `${length} bytes, key of ${key.length}`);
    }
  });

  test("in pieces: every split of 0..200 bytes, and byte by byte", () => {
    for (let length = 0; length <= 200; length += 1) {
      const message = bytes(length, length);
      put(core, SRC, message);
      const want = hex(blake2s(message));
      for (let split = 0; split <= length; split += length > 130 ? 7 : 1) {
        c.blake2sInit(STATE, 32, 0, 0);
        c.blake2sUpdate(STATE, SRC, split);
        c.blake2sUpdate(STATE, SRC + split, length - split);
        c.blake2sFinal(STATE, OUT);
        assert.equal(hex(get(core, OUT, 32)), want, `${split} of ${length}`);
      }
      c.blake2sInit(STATE, 32, 0, 0);
      for (let at = 0; at < length; at++) c.blake2sUpdate(STATE, SRC + at, 1);
      c.blake2sFinal(STATE, OUT);
      assert.equal(hex(get(core, OUT, 32)), want, `${length} single bytes`);
    }
  });

  test("keyed in pieces, dst over the message, nothing after dst, and the state wiped", () => {
    const message = bytes(150, 1);
    const key = bytes(32, 2);
    put(core, SRC, message);
    put(core, KEY, key);
    c.blake2sInit(STATE, 16, KEY, 32);
    c.blake2sUpdate(STATE, SRC, 70);
    c.blake2sUpdate(STATE, SRC + 70, 80);
    c.blake2sFinal(STATE, SRC);
    assert.equal(hex(get(core, SRC, 16)), hex(blake2s(message, { key, dkLen: 16 })));
    assert.deepEqual(get(core, SRC + 16, 134), message.slice(16));
    const length = c.BLAKE2S_STATE_LEN.value;
    assert.ok(length >= 32 + 64, `state of ${length} bytes`);
    assert.ok(get(core, STATE, length).every((byte) => byte === 0));
  });

  test.run();
}
