// Poly1305, both forms of it, where carries and reductions are: against @noble/ciphers. Messages are what the AEAD
// makes of them (RFC 8439 §2.8): padded to whole blocks, then the lengths.
import { suite } from "uvu";
import * as assert from "node:assert/strict";
import { poly1305 } from "@noble/ciphers/_poly1305.js";
import { cryptoBuilds, hex } from "../helpers/wasm.ts";
import { AD, bytes, concat, get, KEY, loadCrypto, OUT, put, SRC } from "./fixture.ts";

function pad16(message: Uint8Array): Uint8Array {
  return concat(message, new Uint8Array(-message.length & 15));
}

function lengths(ad: number, message: number): Uint8Array {
  const block = new DataView(new ArrayBuffer(16));
  block.setBigUint64(0, BigInt(ad), true);
  block.setBigUint64(8, BigInt(message), true);
  return new Uint8Array(block.buffer);
}

/** The number in `count` little-endian bytes. */
function littleEndian(value: bigint, count: number): Uint8Array {
  return Uint8Array.from({ length: count }, (_, i) => Number((value >> BigInt(8 * i)) & 255n));
}

const P = (1n << 130n) - 5n;
const CLAMP = 0x0ffffffc0ffffffc0ffffffc0fffffffn;

function inverse(a: bigint): bigint {
  let result = 1n;
  for (let e = P - 2n, base = a % P; e > 0n; e >>= 1n) {
    if (e & 1n) result = (result * base) % P;
    base = (base * base) % P;
  }
  return result;
}

/** The accumulator after a padded message, before the last reduction and s. */
function evaluate(message: Uint8Array, r: bigint): bigint {
  let h = 0n;
  for (let at = 0; at < message.length; at += 16)
    h = ((h + (1n << 128n) + BigInt("0x" + hex(message.slice(at, at + 16).reverse()))) * r) % P;
  return h;
}

// r: smallest, largest after clamping, each limb of 13 bits alone and around its balance, patterns, random
const rs: bigint[] = [0n, 1n, 2n, 5n, CLAMP, (1n << 128n) - 1n, CLAMP - 3n];
for (let limb = 0n; limb < 10n; limb++) {
  for (const value of [0xfffn, 0x1000n, 0x1001n, 0x1fffn]) rs.push(value << (13n * limb));
  rs.push(((1n << 124n) - 1n) ^ (0x1fffn << (13n * limb)));
}
for (const word of ["5555", "aaaa", "1000", "0fff", "8000"]) rs.push(BigInt("0x" + word.repeat(8)));
for (let seed = 0; seed < 20; seed++) rs.push(BigInt("0x" + hex(bytes(16, seed))));

const fills: ((length: number) => Uint8Array)[] = [
  (length) => new Uint8Array(length),
  (length) => new Uint8Array(length).fill(0xff),
  (length) => Uint8Array.from({ length }, (_, i) => (i & 16 ? 0xff : 0)),
  (length) => Uint8Array.from({ length }, (_, i) => (i % 16 === 0 ? 0xfb : 0xff)),
  (length) => Uint8Array.from({ length }, (_, i) => (i & 1 ? 0xf0 : 0x0f)),
  (length) => bytes(length, length),
];

for (const build of cryptoBuilds) {
  const test = suite(`crypto/poly1305 ${build}`);
  const core = loadCrypto(build);
  const { exports: c } = core;

  const same = (key: Uint8Array, message: Uint8Array, what: string) => {
    const want = hex(poly1305(concat(pad16(message), lengths(0, message.length)), key));
    put(core, KEY, key);
    put(core, SRC, message);
    c.packetMac(OUT, SRC, message.length, KEY);
    assert.equal(hex(get(core, OUT, 16)), want, `packetMac: ${what}`);
    c.macUnderKey(OUT, 0, 0, SRC, message.length, KEY);
    assert.equal(hex(get(core, OUT, 16)), want, `poly1305: ${what}`);
  };

  test("extremes of r and of blocks, one to 34 blocks", () => {
    for (const r of rs)
      for (const s of [0n, (1n << 128n) - 1n])
        for (const fill of fills)
          for (const length of [0, 15, 16, 17, 48, 64, 65, 112, 128, 192, 208, 401, 416, 433, 528]) {
            const key = concat(littleEndian(r, 16), littleEndian(s, 16));
            same(key, fill(length), `r ${r.toString(16)}, s ${s}, ${length} bytes, fill ${fills.indexOf(fill)}`);
          }
  });

  test("64 KiB of ones under the largest r: no sum overflows", () => {
    for (const r of [CLAMP, 0x0ffffffc0ffffffc0ffffffc0ffffffbn, 0x0800000008000000080000000800000n])
      same(concat(littleEndian(r, 16), new Uint8Array(16)), new Uint8Array(65536).fill(0xff), `r ${r.toString(16)}`);
  });

  // A block is chosen so that the sum before the last reduction is 2^130 - 5 + k, or k: both sides of the subtraction.
  test("accumulators around 2^130 - 5", () => {
    let seen = 0;
    for (let seed = 1; seed <= 40; seed++) {
      const r = BigInt("0x" + hex(bytes(16, seed))) & CLAMP;
      const rInverse = inverse(r);
      for (const blocks of [1, 2, 3, 4, 5, 8, 9, 26, 31])
        for (let k = -8n; k <= 8n; k++) {
          const target = (k + P) % P;
          const rest = bytes(16 * (blocks - 1), seed * 100 + blocks);
          const tail = lengths(0, 16 * blocks);
          // target = ((h + block) r + tail) r, where `block` is the last of the message
          const beforeTail = ((target * rInverse - (1n << 128n) - BigInt("0x" + hex(tail.reverse()))) % P + 2n * P) % P;
          const block = ((beforeTail * rInverse - evaluate(rest, r) - (1n << 128n)) % P + 2n * P) % P;
          if (block >> 128n) continue; // not a block
          seen++;
          const message = concat(rest, littleEndian(block, 16));
          assert.equal(evaluate(concat(message, lengths(0, message.length)), r), target);
          same(concat(littleEndian(r, 16), new Uint8Array(16)), message, `2^130 - 5 + ${k}, ${blocks} blocks`);
        }
    }
    assert.ok(seen > 500, `${seen} cases found`);
  });

  test("associated data and message of every remainder", () => {
    for (let adLength = 0; adLength < 50; adLength++)
      for (let length = 0; length < 50; length++) {
        const key = bytes(32, adLength * 64 + length);
        const ad = bytes(adLength, 1);
        const message = bytes(length, 2);
        put(core, KEY, key);
        put(core, AD, ad);
        put(core, SRC, message);
        c.macUnderKey(OUT, AD, adLength, SRC, length, KEY);
        const want = poly1305(concat(pad16(ad), pad16(message), lengths(adLength, length)), key);
        assert.equal(hex(get(core, OUT, 16)), hex(want), `${adLength} and ${length} bytes`);
      }
  });

  test.run();
}
