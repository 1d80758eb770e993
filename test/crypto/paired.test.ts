// The wide build as V8 compiles it with paired operations: the bytes of node:crypto at every length. The other suites
// run it as any engine does; here the optimizing compiler compiles its functions before they run, under the flag. Only
// for engines that know the flag: elsewhere there is no such code.
import { suite } from "uvu";
import * as assert from "node:assert/strict";
import { createCipheriv } from "node:crypto";
import { setFlagsFromString } from "node:v8";
import { canPair, setPairing } from "../../host/core-choice.ts";
import { bytes, concat, counterNonce, DST, get, KEY, loadCrypto, put, SRC } from "./fixture.ts";

const test = suite("crypto/paired");

if (canPair())
  test("every length 0..1500 and some longer, sealed and opened, and forgeries refused", async () => {
    await setPairing(true);
    setFlagsFromString("--no-liftoff");
    try {
      const core = loadCrypto("wide");
      const { exports: c, u8 } = core;
      for (const length of [...Array(1501).keys(), 4096, 9000, 16384, 65535, 65536]) {
        const key = bytes(32, length);
        const message = bytes(length, length + 1);
        const counter = BigInt(length) * 0x1_0000_0003n;
        const cipher = createCipheriv("chacha20-poly1305", key, counterNonce(counter), { authTagLength: 16 });
        const sealed = concat(cipher.update(message), cipher.final(), cipher.getAuthTag());
        const src = SRC + (length % 33);
        const dst = DST + ((length >> 3) % 35);
        put(core, KEY, key);
        put(core, src, message);
        c.packetSeal(dst, src, length, KEY, counter);
        assert.deepEqual(get(core, dst, length + 16), sealed, `packetSeal of ${length}`);
        u8[dst + (length >> 1)] ^= 4;
        assert.equal(c.packetOpen(dst, dst, length + 16, KEY, counter), 0, `forgery of ${length}`);
        u8[dst + (length >> 1)] ^= 4;
        assert.equal(c.packetOpen(dst, dst, length + 16, KEY, counter), 1, `packetOpen of ${length}`);
        assert.deepEqual(get(core, dst, length), message, `packetOpen of ${length}`);
      }
    } finally {
      setFlagsFromString("--liftoff");
      await setPairing(false);
    }
  });

test.run();
