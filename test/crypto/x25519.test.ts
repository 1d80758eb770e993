// X25519 in every build: RFC 7748, Wycheproof whole, @noble/curves, and the borders of the field.
import { suite } from "uvu";
import * as assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { x25519 } from "@noble/curves/ed25519.js";
import { cryptoBuilds, hex, unhex } from "../helpers/wasm.ts";
import { bytes, get, KEY, loadCrypto, NONCE, OUT, put } from "./fixture.ts";

const POINT = NONCE;
const P = (1n << 255n) - 19n;

const littleEndian = (value: bigint): Uint8Array =>
  Uint8Array.from({ length: 32 }, (_, i) => Number((value >> BigInt(8 * i)) & 255n));

/** The oracle's shared secret; it throws on an all-zero one, which stands for zeros here. */
function oracle(scalar: Uint8Array, point: Uint8Array): string {
  try {
    return hex(x25519.getSharedSecret(scalar, point));
  } catch (error) {
    assert.match((error as Error).message, /invalid private or public key/);
    return "00".repeat(32);
  }
}

for (const build of cryptoBuilds) {
  const test = suite(`crypto/x25519 ${build}`);
  const core = loadCrypto(build);
  const { exports: c } = core;

  const shared = (scalar: Uint8Array, point: Uint8Array): { valid: boolean; secret: string } => {
    put(core, KEY, scalar);
    put(core, POINT, point);
    const valid = c.x25519(OUT, KEY, POINT) === 1;
    assert.equal(hex(get(core, KEY, 32)), hex(scalar), "the scalar is left");
    assert.equal(hex(get(core, POINT, 32)), hex(point), "the point is left");
    return { valid, secret: hex(get(core, OUT, 32)) };
  };

  test("RFC 7748 §5.2: two vectors, 1 and 1,000 iterations", () => {
    for (const [scalar, point, want] of [
      [
        "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
        "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
        "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
      ],
      [
        "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
        "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
        "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
      ],
    ])
      assert.deepEqual(shared(unhex(scalar), unhex(point)), { valid: true, secret: want });
    let k = littleEndian(9n);
    let u = k;
    for (let i = 1; i <= 1000; i++) {
      const next = unhex(shared(k, u).secret);
      u = k;
      k = next;
      if (i === 1) assert.equal(hex(k), "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079");
    }
    assert.equal(hex(k), "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51");
  });

  test("RFC 7748 §6.1: both sides reach the secret", () => {
    const alice = unhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
    const bob = unhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
    put(core, KEY, alice);
    c.x25519Public(OUT, KEY);
    const alicePublic = get(core, OUT, 32);
    assert.equal(hex(alicePublic), "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
    put(core, KEY, bob);
    c.x25519Public(OUT, KEY);
    const bobPublic = get(core, OUT, 32);
    assert.equal(hex(bobPublic), "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
    const secret = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742";
    assert.deepEqual(shared(alice, bobPublic), { valid: true, secret });
    assert.deepEqual(shared(bob, alicePublic), { valid: true, secret });
  });

  test("Wycheproof, whole: false exactly for an all-zero secret", () => {
    const file = JSON.parse(readFileSync(new URL("../vectors/wycheproof_x25519.json", import.meta.url), "utf8"));
    let seen = 0;
    for (const group of file.testGroups)
      for (const { tcId, public: point, private: scalar, shared: want } of group.tests) {
        seen++;
        const valid = !/^0*$/.test(want);
        assert.deepEqual(shared(unhex(scalar), unhex(point)), { valid, secret: want }, `case ${tcId}`);
      }
    assert.equal(seen, 518);
  });

  test("300 scalars and points: as @noble/curves; the base point", () => {
    for (let seed = 0; seed < 300; seed++) {
      const scalar = bytes(32, seed);
      const point = bytes(32, seed + 1000);
      assert.equal(shared(scalar, point).secret, oracle(scalar, point), `seed ${seed}`);
      put(core, KEY, scalar);
      c.x25519Public(OUT, KEY);
      assert.equal(hex(get(core, OUT, 32)), hex(x25519.getPublicKey(scalar)), `public key, seed ${seed}`);
    }
  });

  test("coordinates around 0, p, 2^255 and the limbs' borders, with the top bit and without", () => {
    const scalar = bytes(32, 7);
    const coordinates: bigint[] = [];
    for (let k = -3n; k <= 20n; k++) coordinates.push(k + 3n, P + k, (1n << 255n) - 1n - (k + 3n));
    for (const bits of [26n, 51n, 77n, 102n, 128n, 153n, 179n, 204n, 230n])
      coordinates.push(1n << bits, (1n << bits) - 1n, (1n << 255n) - 1n - (1n << bits));
    for (const u of coordinates) {
      const point = littleEndian(u & ((1n << 255n) - 1n));
      const want = oracle(scalar, point);
      assert.equal(shared(scalar, point).secret, want, `u = ${u.toString(16)}`);
      point[31] |= 0x80;
      assert.equal(shared(scalar, point).secret, want, `u = ${u.toString(16)} with bit 255`);
    }
  });

  test("the scalar is clamped: its fixed bits do not matter, all others do", () => {
    const point = bytes(32, 3);
    const scalar = bytes(32, 4);
    const want = shared(scalar, point).secret;
    for (let bit = 0; bit < 256; bit++) {
      const other = scalar.slice();
      other[bit >> 3] ^= 1 << (bit & 7);
      const fixed = bit < 3 || bit > 253;
      assert.equal(shared(other, point).secret === want, fixed, `bit ${bit}`);
    }
  });

  test("dst over the scalar, and over the point", () => {
    const scalar = bytes(32, 5);
    const point = bytes(32, 6);
    const want = oracle(scalar, point);
    put(core, KEY, scalar);
    put(core, POINT, point);
    assert.equal(c.x25519(KEY, KEY, POINT), 1);
    assert.equal(hex(get(core, KEY, 32)), want);
    put(core, KEY, scalar);
    assert.equal(c.x25519(POINT, KEY, POINT), 1);
    assert.equal(hex(get(core, POINT, 32)), want);
    c.x25519Public(KEY, KEY);
    assert.equal(hex(get(core, KEY, 32)), hex(x25519.getPublicKey(scalar)));
  });

  test.run();
}
