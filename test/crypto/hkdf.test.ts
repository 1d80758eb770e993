// HMAC-BLAKE2s and Kdf_n (whitepaper §5.4) in every build, against @noble/hashes.
import { suite } from "uvu";
import * as assert from "node:assert/strict";
import { blake2s } from "@noble/hashes/blake2.js";
import { hkdf } from "@noble/hashes/hkdf.js";
import { hmac } from "@noble/hashes/hmac.js";
import { cryptoBuilds, hex } from "../helpers/wasm.ts";
import { bytes, get, KEY, loadCrypto, OUT, put, SRC } from "./fixture.ts";

for (const build of cryptoBuilds) {
  const test = suite(`crypto/hkdf ${build}`);
  const core = loadCrypto(build);
  const { exports: c } = core;

  test("HMAC: keys of 0..130 bytes, messages of 0..200", () => {
    for (let length = 0; length <= 200; length++) {
      const key = bytes((length * 5) % 131, length);
      const message = bytes(length, length + 1);
      put(core, KEY, key);
      put(core, SRC, message);
      c.hmacBlake2s(OUT, KEY, key.length, SRC, length);
      assert.equal(hex(get(core, OUT, 32)), hex(hmac(blake2s, key, message)), `key ${key.length}, message ${length}`);
    }
    for (const keyLength of [63, 64, 65, 128]) {
      put(core, KEY, bytes(keyLength, 9));
      c.hmacBlake2s(OUT, KEY, keyLength, SRC, 20);
      assert.equal(hex(get(core, OUT, 32)), hex(hmac(blake2s, bytes(keyLength, 9), get(core, SRC, 20))));
    }
  });

  // Kdf_n(key, input) is HKDF with the key as salt, the input as key material and no info.
  const want = (chainingKey: Uint8Array, input: Uint8Array) => {
    const output = hkdf(blake2s, input, chainingKey, new Uint8Array(0), 96);
    return [0, 32, 64].map((at) => hex(output.slice(at, at + 32)));
  };
  const at = (address: number) => hex(get(core, address, 32));

  test("Kdf_1, Kdf_2, Kdf_3: HKDF with an empty info, inputs of 0..100 bytes", () => {
    for (let length = 0; length <= 100; length++) {
      const chainingKey = bytes(32, length);
      const input = bytes(length, length + 1);
      put(core, KEY, chainingKey);
      put(core, SRC, input);
      const [t1, t2, t3] = want(chainingKey, input);
      c.kdf1(OUT, KEY, SRC, length);
      assert.equal(at(OUT), t1);
      c.kdf2(OUT, OUT + 32, KEY, SRC, length);
      assert.deepEqual([at(OUT), at(OUT + 32)], [t1, t2]);
      c.kdf3(OUT, OUT + 32, OUT + 64, KEY, SRC, length);
      assert.deepEqual([at(OUT), at(OUT + 32), at(OUT + 64)], [t1, t2, t3]);
      assert.equal(at(KEY), hex(chainingKey), "the chaining key is left");
    }
  });

  test("outputs over the chaining key or the input", () => {
    const chainingKey = bytes(32, 1);
    const input = bytes(32, 2);
    const [t1, t2, t3] = want(chainingKey, input);
    const reset = () => (put(core, KEY, chainingKey), put(core, SRC, input));
    reset();
    c.kdf1(KEY, KEY, SRC, 32);
    assert.equal(at(KEY), t1);
    reset();
    c.kdf2(KEY, SRC, KEY, SRC, 32);
    assert.deepEqual([at(KEY), at(SRC)], [t1, t2]);
    reset();
    c.kdf2(SRC, KEY, KEY, SRC, 32);
    assert.deepEqual([at(SRC), at(KEY)], [t1, t2]);
    reset();
    c.kdf3(KEY, SRC, OUT, KEY, SRC, 32);
    assert.deepEqual([at(KEY), at(SRC), at(OUT)], [t1, t2, t3]);
    reset();
    c.kdf3(OUT, KEY, SRC, KEY, SRC, 32);
    assert.deepEqual([at(OUT), at(KEY), at(SRC)], [t1, t2, t3]);
  });

  test.run();
}
