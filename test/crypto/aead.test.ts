// ChaCha20-Poly1305 and XChaCha20-Poly1305 in every build: vectors (RFC 8439, the XChaCha draft, Wycheproof whole),
// two oracles at every length 0..1100 and all alignments, forgeries, and what may not be touched.
import { suite } from "uvu";
import * as assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createCipheriv } from "node:crypto";
import { chacha20poly1305, xchacha20poly1305 } from "@noble/ciphers/chacha.js";
import { cryptoBuilds, hex, unhex } from "../helpers/wasm.ts";
import { AD, bytes, concat, counterNonce, DST, get, KEY, loadCrypto, NONCE, OUT, put, SRC } from "./fixture.ts";

interface Group {
  ivSize: number;
  tests: { tcId: number; key: string; iv: string; aad: string; msg: string; ct: string; tag: string; result: string }[];
}

const vectors = (name: string): Group[] =>
  JSON.parse(readFileSync(new URL(`../vectors/${name}.json`, import.meta.url), "utf8")).testGroups;

/** What node's OpenSSL makes of a message. */
function opensslSeal(key: Uint8Array, nonce: Uint8Array, message: Uint8Array): Uint8Array {
  const cipher = createCipheriv("chacha20-poly1305", key, nonce, { authTagLength: 16 });
  return concat(cipher.update(message), cipher.final(), cipher.getAuthTag());
}

for (const build of cryptoBuilds) {
  const test = suite(`crypto/aead ${build}`);
  const core = loadCrypto(build);
  const { exports: c, u8 } = core;

  test("RFC 8439 §2.8.2", () => {
    const message = new TextEncoder().encode(
      "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, " +
        "sunscreen would be it.",
    );
    put(core, KEY, unhex("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f"));
    put(core, NONCE, unhex("070000004041424344454647"));
    put(core, AD, unhex("50515253c0c1c2c3c4c5c6c7"));
    put(core, SRC, message);
    c.aeadSealNonce(DST, SRC, message.length, AD, 12, KEY, NONCE);
    assert.equal(
      hex(get(core, DST, message.length + 16)),
      "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6" +
        "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36" +
        "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc" +
        "3ff4def08e4b7a9de576d26586cec64b6116" +
        "1ae10b594f09e26a7e902ecbd0600691",
    );
  });

  test("HChaCha20: draft-irtf-cfrg-xchacha §2.2.1", () => {
    put(core, KEY, unhex("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"));
    put(core, NONCE, unhex("000000090000004a0000000031415927"));
    c.hchacha20(OUT, KEY, NONCE);
    assert.equal(hex(get(core, OUT, 32)), "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc");
  });

  for (const [name, ivSize, count, seal, open] of [
    ["wycheproof_chacha20_poly1305", 96, 316, c.aeadSealNonce, c.aeadOpenNonce],
    ["wycheproof_xchacha20_poly1305", 192, 306, c.xaeadSeal, c.xaeadOpen],
  ] as const) {
    // Groups of other nonce sizes cannot be expressed: the nonce is an address, its size is the function's.
    test(`Wycheproof: ${name}`, () => {
      let seen = 0;
      for (const group of vectors(name)) {
        if (group.ivSize !== ivSize) {
          assert.ok(group.tests.every(({ result }) => result === "invalid"));
          continue;
        }
        for (const { tcId, key, iv, aad, msg, ct, tag, result } of group.tests) {
          seen++;
          const length = msg.length / 2;
          put(core, KEY, unhex(key));
          put(core, NONCE, unhex(iv));
          put(core, AD, unhex(aad));
          put(core, SRC, unhex(ct + tag));
          u8.fill(0xa5, DST, DST + length);
          const opened = open(DST, SRC, length + 16, AD, aad.length / 2, KEY, NONCE);
          assert.equal(opened, result === "valid" ? 1 : 0, `case ${tcId}`);
          const want = result === "valid" ? msg : "a5".repeat(length);
          assert.equal(hex(get(core, DST, length)), want, `case ${tcId}: dst`);
          if (result !== "valid") continue;
          put(core, SRC, unhex(msg));
          seal(DST, SRC, length, AD, aad.length / 2, KEY, NONCE);
          assert.equal(hex(get(core, DST, length + 16)), ct + tag, `case ${tcId}: sealed`);
        }
      }
      assert.equal(seen, count);
    });
  }

  test("packet calls: Wycheproof's keys, messages and counters, as node:crypto", () => {
    for (const group of vectors("wycheproof_chacha20_poly1305"))
      for (const { tcId, key, iv, msg } of group.tests) {
        if (group.ivSize !== 96) continue;
        const message = unhex(msg);
        const counter = new DataView(unhex(iv).buffer).getBigUint64(4, true);
        put(core, KEY, unhex(key));
        put(core, SRC, message);
        c.packetSeal(DST, SRC, message.length, KEY, counter);
        const want = opensslSeal(unhex(key), counterNonce(counter), message);
        assert.equal(hex(get(core, DST, want.length)), hex(want), `case ${tcId}`);
        assert.equal(c.packetOpen(DST, DST, want.length, KEY, counter), 1, `case ${tcId}`);
        assert.equal(hex(get(core, DST, message.length)), msg, `case ${tcId}`);
      }
  });

  // Every length, both packet and handshake calls, moving through all alignments of src and dst.
  test("every length 0..1100 and some longer: the bytes of node:crypto and @noble/ciphers", () => {
    const longer = [1419, 1420, 1421, 1500, 2048, 9000, 16383, 16384, 16385, 65519, 65535, 65536];
    for (const length of [...Array(1101).keys(), ...longer]) {
      const key = bytes(32, length + 1);
      const message = bytes(length, length + 2);
      const ad = bytes((length * 7) % 70, length + 3);
      const counter = BigInt(length) * 0x1_0000_0003n;
      const nonce = counterNonce(counter);
      const src = SRC + (length % 17);
      const dst = DST + ((length >> 4) % 19);
      const sealed = opensslSeal(key, nonce, message);
      put(core, KEY, key);
      put(core, src, message);
      c.packetSeal(dst, src, length, KEY, counter);
      assert.deepEqual(get(core, dst, length + 16), sealed, `packetSeal of ${length}`);
      assert.deepEqual(get(core, src, length), message, `packetSeal of ${length} left src`);
      u8.fill(0, src, src + length);
      assert.equal(c.packetOpen(src, dst, length + 16, KEY, counter), 1, `packetOpen of ${length}`);
      assert.deepEqual(get(core, src, length), message, `packetOpen of ${length}`);
      // in place
      c.packetSeal(src, src, length, KEY, counter);
      assert.deepEqual(get(core, src, length + 16), sealed, `packetSeal of ${length} in place`);
      assert.equal(c.packetOpen(src, src, length + 16, KEY, counter), 1, `packetOpen of ${length} in place`);
      assert.deepEqual(get(core, src, length), message, `packetOpen of ${length} in place`);

      const sealedAd = chacha20poly1305(key, nonce, ad).encrypt(message);
      put(core, AD, ad);
      c.aeadSeal(dst, src, length, AD, ad.length, KEY, counter);
      assert.deepEqual(get(core, dst, length + 16), sealedAd, `aeadSeal of ${length}`);
      assert.equal(c.aeadOpen(dst, dst, length + 16, AD, ad.length, KEY, counter), 1, `aeadOpen of ${length}`);
      assert.deepEqual(get(core, dst, length), message, `aeadOpen of ${length}`);
      if (length > 300 && length % 50) continue;
      const nonce24 = bytes(24, length + 4);
      put(core, NONCE, nonce24);
      c.xaeadSeal(dst, src, length, AD, ad.length, KEY, NONCE);
      const sealedX = xchacha20poly1305(key, nonce24, ad).encrypt(message);
      assert.deepEqual(get(core, dst, length + 16), sealedX, `xaeadSeal of ${length}`);
      assert.equal(c.xaeadOpen(dst, dst, length + 16, AD, ad.length, KEY, NONCE), 1, `xaeadOpen of ${length}`);
      assert.deepEqual(get(core, dst, length), message, `xaeadOpen of ${length}`);
    }
  });

  test("all 16 x 16 alignments of src and dst", () => {
    const key = bytes(32, 1);
    const message = bytes(467, 2);
    const sealed = opensslSeal(key, counterNonce(9n), message);
    put(core, KEY, key);
    for (let s = 0; s < 16; s++)
      for (let d = 0; d < 16; d++) {
        put(core, SRC + s, message);
        c.packetSeal(DST + d, SRC + s, 467, KEY, 9n);
        assert.deepEqual(get(core, DST + d, 483), sealed, `src + ${s}, dst + ${d}`);
        assert.equal(c.packetOpen(SRC + s, DST + d, 483, KEY, 9n), 1);
        assert.deepEqual(get(core, SRC + s, 467), message, `src + ${s}, dst + ${d}`);
      }
  });

  test("counters: both halves reach the nonce, up to 2^64 - 1", () => {
    const key = bytes(32, 5);
    const message = bytes(33, 6);
    put(core, KEY, key);
    put(core, SRC, message);
    for (const counter of [0n, 1n, 0xffff_ffffn, 0x1_0000_0000n, 0x8000_0000_0000_0000n, 0xffff_ffff_ffff_ffffn]) {
      c.packetSeal(DST, SRC, 33, KEY, counter);
      assert.deepEqual(get(core, DST, 49), opensslSeal(key, counterNonce(counter), message), `counter ${counter}`);
    }
  });

  test("forgeries: every bit of the tag, of the message, of the associated data; dst untouched", () => {
    for (const length of [0, 1, 16, 47, 48, 64, 200, 1420]) {
      put(core, KEY, bytes(32, length + 10));
      put(core, SRC, bytes(length, length + 11));
      put(core, AD, bytes(32, length + 12));
      for (const withAd of [false, true]) {
        const adLen = withAd ? 32 : 0;
        const open = () =>
          withAd ? c.aeadOpen(DST, OUT, length + 16, AD, 32, KEY, 3n) : c.packetOpen(DST, OUT, length + 16, KEY, 3n);
        c.aeadSeal(OUT, SRC, length, AD, adLen, KEY, 3n);
        u8.fill(0x5a, DST, DST + length + 16);
        const refused = (what: string) => {
          assert.equal(open(), 0, `${what} of ${length} bytes`);
          assert.ok(get(core, DST, length + 16).every((byte) => byte === 0x5a), `dst after ${what}`);
        };
        for (let bit = 0; bit < 128; bit++) {
          u8[OUT + length + (bit >> 3)] ^= 1 << (bit & 7);
          refused(`tag bit ${bit}`);
          u8[OUT + length + (bit >> 3)] ^= 1 << (bit & 7);
        }
        for (let at = 0; at < length; at += length > 64 ? 37 : 1) {
          u8[OUT + at] ^= 1 << (at & 7);
          refused(`byte ${at}`);
          u8[OUT + at] ^= 1 << (at & 7);
        }
        for (let at = 0; at < adLen; at++) {
          u8[AD + at] ^= 0x80;
          refused(`associated byte ${at}`);
          u8[AD + at] ^= 0x80;
        }
        assert.equal(open(), 1, `the unchanged message of ${length} bytes`);
      }
    }
  });

  test("a forgery opened in place leaves the ciphertext", () => {
    put(core, KEY, bytes(32, 20));
    put(core, SRC, bytes(500, 21));
    c.packetSeal(SRC, SRC, 500, KEY, 1n);
    const sealed = get(core, SRC, 516);
    assert.equal(c.packetOpen(SRC, SRC, 516, KEY, 2n), 0, "another counter");
    assert.deepEqual(get(core, SRC, 516), sealed);
    assert.equal(c.packetOpen(SRC, SRC, 515, KEY, 1n), 0, "a byte short");
    assert.deepEqual(get(core, SRC, 516), sealed);
  });

  test("a message shorter than a tag is refused, also by a length that would wrap", () => {
    u8.fill(0x5a, DST, DST + 64);
    for (let length = 0; length < 16; length++) {
      assert.equal(c.packetOpen(DST, SRC, length, KEY, 0n), 0);
      assert.equal(c.aeadOpen(DST, SRC, length, AD, 0, KEY, 0n), 0);
      assert.equal(c.aeadOpenNonce(DST, SRC, length, AD, 0, KEY, NONCE), 0);
      assert.equal(c.xaeadOpen(DST, SRC, length, AD, 0, KEY, NONCE), 0);
    }
    assert.ok(get(core, DST, 64).every((byte) => byte === 0x5a));
  });

  // Neighbours in a run of datagrams are live data: they may be read, not written, and their bytes do not matter.
  test("bytes around src and dst: none changed, none of influence", () => {
    const margin = 320;
    for (let length = 0; length <= 700; length++) {
      const key = bytes(32, length);
      const message = bytes(length, length + 1);
      const want = opensslSeal(key, counterNonce(7n), message);
      put(core, KEY, key);
      for (const fill of [0x00, 0xff]) {
        const around = (address: number, inside: number, what: string) => {
          const before = get(core, address - margin, margin);
          const after = get(core, address + inside, margin);
          assert.ok(before.every((byte) => byte === fill), `${what} of ${length}: before`);
          assert.ok(after.every((byte) => byte === fill), `${what} of ${length}: after`);
        };
        u8.fill(fill, SRC - margin, SRC + length + 16 + margin);
        u8.fill(fill, DST - margin, DST + length + 16 + margin);
        put(core, SRC, message);
        c.packetSeal(DST, SRC, length, KEY, 7n);
        around(DST, length + 16, "packetSeal");
        around(SRC, length, "packetSeal, src");
        assert.deepEqual(get(core, DST, length + 16), want);
        u8.fill(fill, SRC, SRC + length);
        assert.equal(c.packetOpen(SRC, DST, length + 16, KEY, 7n), 1);
        around(SRC, length, "packetOpen");
        around(DST, length + 16, "packetOpen, src");
        if (length > 150) continue;
        c.aeadSeal(DST, SRC, length, AD, 20, KEY, 7n);
        around(DST, length + 16, "aeadSeal");
        u8.fill(fill, SRC, SRC + length);
        assert.equal(c.aeadOpen(SRC, DST, length + 16, AD, 20, KEY, 7n), 1);
        around(SRC, length, "aeadOpen");
      }
    }
  });

  test.run();
}
