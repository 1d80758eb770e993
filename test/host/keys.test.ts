// Keys as text: against node:Buffer, and every way of being wrong. The message must never hold the text.

import assert from "node:assert";
import fc from "fast-check";
import { suite } from "uvu";
import {
  decodeBase64Key,
  decodeHexKey,
  encodeBase64Key,
  encodeHexKey,
  equalKeys,
  generatePresharedKey,
  generatePrivateKey,
  isZeroKey,
} from "../../host/keys.ts";

const key32 = fc.uint8Array({ minLength: 32, maxLength: 32 });

const text = suite("keys as text");

text("base64 is what Buffer writes, and comes back", () => {
  fc.assert(
    fc.property(key32, (key) => {
      const encoded = encodeBase64Key(key);
      assert.strictEqual(encoded, Buffer.from(key).toString("base64"));
      assert.deepStrictEqual(decodeBase64Key(encoded), key);
    }),
  );
});

text("hex is what Buffer writes, and comes back", () => {
  fc.assert(
    fc.property(key32, (key) => {
      const encoded = encodeHexKey(key);
      assert.strictEqual(encoded, Buffer.from(key).toString("hex"));
      assert.deepStrictEqual(decodeHexKey(encoded), key);
    }),
  );
});

text("every value of every character position is read as Buffer does, or refused", () => {
  const base64 = Buffer.alloc(32, 0x5a).toString("base64");
  const hex = Buffer.alloc(32, 0x5a).toString("hex");
  for (let code = 0; code < 0x180; code++) {
    const character = String.fromCharCode(code);
    const changed64 = character + base64.slice(1);
    if (/[A-Za-z0-9+/]/.test(character)) {
      assert.deepStrictEqual(decodeBase64Key(changed64), new Uint8Array(Buffer.from(changed64, "base64")));
    } else assert.throws(() => decodeBase64Key(changed64), /not base64/);
    const changedHex = hex.slice(0, 9) + character + hex.slice(10);
    if (/[0-9a-f]/.test(character)) {
      assert.deepStrictEqual(decodeHexKey(changedHex), new Uint8Array(Buffer.from(changedHex, "hex")));
    } else assert.throws(() => decodeHexKey(changedHex), /not lower-case hex/);
  }
});

text("one text a key: other last bits, other padding, other lengths are refused", () => {
  const good = Buffer.alloc(32, 0xff).toString("base64"); // ends in "8="
  assert.throws(() => decodeBase64Key(good.slice(0, 42) + "9="), /canonical/);
  assert.throws(() => decodeBase64Key(good.slice(0, 43) + "A"), /does not end/);
  assert.throws(() => decodeBase64Key(good.slice(0, 42) + "=="), /not base64/);
  assert.throws(() => decodeBase64Key(good.slice(0, 43)), /43 characters/);
  assert.throws(() => decodeBase64Key(""), /0 characters/);
  assert.throws(() => decodeBase64Key(good + " "), /45 characters/);
  assert.throws(() => decodeHexKey("00"), /2 characters/);
  assert.throws(() => decodeHexKey("AB".repeat(32)), /lower-case/);
  assert.throws(() => encodeHexKey(new Uint8Array(31)), /31 bytes/);
  assert.throws(() => encodeBase64Key(new Uint8Array(33)), /33 bytes/);
});

text("a refusal is a RangeError and shows nothing of the text", () => {
  fc.assert(
    fc.property(fc.string({ minLength: 6, unit: "binary" }), (garbage) => {
      for (const decode of [decodeBase64Key, decodeHexKey]) {
        assert.throws(
          () => decode(garbage),
          (error: Error) => error instanceof RangeError && !error.message.includes(garbage),
        );
      }
    }),
  );
});

text.run();

const made = suite("keys made and compared");

made("a private key is clamped, two differ", () => {
  const keys = Array.from({ length: 50 }, generatePrivateKey);
  for (const key of keys) {
    assert.strictEqual(key[0] & 7, 0);
    assert.strictEqual(key[31] & 0xc0, 0x40);
  }
  assert.strictEqual(new Set(keys.map(encodeHexKey)).size, 50);
  assert.notDeepStrictEqual(generatePresharedKey(), generatePresharedKey());
});

made("zero and equal look at every byte", () => {
  const zero = new Uint8Array(32);
  assert.ok(isZeroKey(zero));
  for (let i = 0; i < 32; i++) {
    const key = new Uint8Array(32);
    key[i] = 0x80;
    assert.ok(!isZeroKey(key));
    assert.ok(!equalKeys(key, zero));
    assert.ok(equalKeys(key, key.slice()));
  }
  assert.ok(!equalKeys(zero, new Uint8Array(31)));
});

made.run();
