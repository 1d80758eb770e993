// How fast is the crypto of the core? One run: every build this engine can run beside node:crypto, libsodium-wrappers,
// @chainsafe/as-chacha20poly1305 and @noble, round by round in turn, so that a busy machine slows all alike. Medians,
// and each as a ratio to our fastest build.
//
// A packet is one call with its own nonce for every candidate. Ours lies in the core's memory, as in the data path, and
// is called in a loop inside wasm; the peers take and return Uint8Arrays, as their users call them.
//
// After `node build/core.mjs crypto`; --short takes a few seconds:
//   Node 20: node --import tsx bench/aead.ts [--short]
//   Node >= 22.18: node bench/aead.ts [--short]
//   Deno: deno run -A bench/aead.ts [--short]
import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
} from "node:crypto";
import { readFileSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";
import { ChaCha20Poly1305, newInstance } from "@chainsafe/as-chacha20poly1305";
import { chacha20poly1305 } from "@noble/ciphers/chacha.js";
import { x25519 } from "@noble/curves/ed25519.js";
import { blake2s } from "@noble/hashes/blake2.js";
import sodium from "libsodium-wrappers";
import { THREAD_MAX, THREADS_BASE, THREAD_SIZE } from "../assembly/abi.ts";
import { builds, loadTest } from "../test/helpers/wasm.ts";

const short = process.argv.includes("--short");
const ROUNDS = short ? 7 : 25;
const ROUND_MS = short ? 6 : 20;
const WARMUP_MS = short ? 40 : 250;
const SIZES = [64, 256, 1420, 16384];

/** The loops of test/assembly/crypto.ts. */
interface Loops {
  packetSeal(dst: number, src: number, len: number, key: number, counter: bigint): void;
  sealTimes(dst: number, src: number, len: number, key: number, count: number): void;
  openTimes(dst: number, src: number, len: number, key: number, count: number): number;
  x25519Times(dst: number, scalar: number, count: number): void;
  blake2sTimes(dst: number, src: number, len: number, count: number): void;
}

/** Something to time: `run` does it `count` times. */
interface Candidate {
  name: string;
  ours?: boolean;
  run(count: number): void;
}

const once =
  (operation: () => unknown) =>
  (count: number): void => {
    for (let i = 0; i < count; i++) operation();
  };

/** Microseconds an operation, by round and sorted; candidates in turn within each round. */
function measure(candidates: Candidate[]): number[][] {
  const counts = candidates.map(({ run }) => {
    let done = 0;
    const start = performance.now();
    let elapsed = 0;
    for (let batch = 1; elapsed < WARMUP_MS; batch = Math.min(batch * 2, 1024)) {
      run(batch);
      done += batch;
      elapsed = performance.now() - start;
    }
    return Math.max(1, Math.round((done / elapsed) * ROUND_MS));
  });
  const times: number[][] = candidates.map(() => []);
  for (let round = 0; round < ROUNDS; round++)
    candidates.forEach(({ run }, i) => {
      const start = performance.now();
      run(counts[i]);
      times[i].push(((performance.now() - start) * 1000) / counts[i]);
    });
  return times.map((list) => list.sort((a, b) => a - b));
}

/**
 * Times candidates and prints a line for each: median, the best round, microseconds, ratio of the medians.
 * `bytes` = 0 prints operations a second.
 */
function compare(title: string, bytes: number, candidates: Candidate[]): void {
  const times = measure(candidates);
  const medians = times.map((list) => list[list.length >> 1]);
  const fastest = Math.min(...medians.filter((_, i) => candidates[i].ours));
  const rate = (micros: number) => (bytes ? `${(bytes / micros).toFixed(1)} MB/s` : `${(1e6 / micros).toFixed(0)} /s`);
  console.log(`\n${title}`);
  candidates.forEach(({ name, ours }, i) => {
    const ratio = medians[i] / fastest;
    const note = !ours ? `ours is ${ratio.toFixed(2)} x` : ratio > 1 ? `${(1 / ratio).toFixed(2)} of our fastest` : "";
    const best = `(best ${rate(times[i][0])})`;
    const micros = `${medians[i].toFixed(3)} us`;
    const speed = `${rate(medians[i]).padStart(12)} ${best.padEnd(20)}`;
    console.log(`  ${name.padEnd(31)}${speed}${micros.padStart(12)}   ${note}`);
  });
}

function version(name: string): string {
  const file = new URL(`../node_modules/${name}/package.json`, import.meta.url);
  return `${name} ${JSON.parse(readFileSync(file, "utf8")).version}`;
}

const deno = (globalThis as { Deno?: { version: { deno: string } } }).Deno;
const runtime = deno ? `Deno ${deno.version.deno}` : `Node ${process.version}`;
const memory = `${Math.round(totalmem() / 2 ** 30)} GiB`;
const noble = ["@noble/ciphers", "@noble/curves", "@noble/hashes"];
const peers = ["@chainsafe/as-chacha20poly1305", "libsodium-wrappers", ...noble];
console.log(new Date().toISOString());
console.log(`${cpus()[0]?.model.trim()} x ${cpus().length}, ${memory}, ${process.platform} ${release()}`);
console.log(`${runtime}, V8 ${process.versions.v8}, OpenSSL ${process.versions.openssl}`);
console.log(peers.map(version).join(", "));
console.log(`${ROUNDS} rounds of ${ROUND_MS} ms a candidate, MB = 1e6 bytes`);

// Places in the core's memory, above the thread blocks.
const END = THREADS_BASE + THREAD_SIZE * THREAD_MAX;
const KEY = END;
const SCALAR = END + 64;
const OUT = END + 128;
const SRC = END + 0x1_0000;
const DST = END + 0x2_0000;
const cores = builds.map((build) => loadTest<Loops>("crypto", build));

const bytesOf = (length: number, seed: number) =>
  Uint8Array.from({ length }, (_, i) => (i * 167 + seed * 59 + 13) & 255);
const key = bytesOf(32, 1);
for (const { u8 } of cores) {
  u8.set(key, KEY);
  u8.set(bytesOf(32, 2), SCALAR);
}

await sodium.ready;
const chainsafe = new ChaCha20Poly1305(newInstance());

function nonceCounter(): () => Uint8Array {
  const nonce = new Uint8Array(12);
  const view = new DataView(nonce.buffer);
  let counter = 0;
  return () => (view.setUint32(4, counter++, true), nonce);
}

for (const size of SIZES) {
  const message = bytesOf(size, 3);
  for (const { u8 } of cores) u8.set(message, SRC);
  const next = nonceCounter();
  compare(`seal ${size} bytes`, size, [
    ...cores.map(({ build, exports }) => ({
      name: `wasmguard ${build}`,
      ours: true,
      run: (count: number) => exports.sealTimes(DST, SRC, size, KEY, count),
    })),
    {
      name: "node:crypto chacha20-poly1305",
      run: once(() => {
        const cipher = createCipheriv("chacha20-poly1305", key, next(), { authTagLength: 16 });
        cipher.update(message);
        cipher.final();
        return cipher.getAuthTag();
      }),
    },
    {
      name: "libsodium-wrappers",
      run: once(() => sodium.crypto_aead_chacha20poly1305_ietf_encrypt(message, null, null, next(), key)),
    },
    { name: "@chainsafe/as-chacha20poly1305", run: once(() => chainsafe.seal(key, next(), message)) },
    { name: "@noble/ciphers", run: once(() => chacha20poly1305(key, next()).encrypt(message)) },
  ]);

  const zero = new Uint8Array(12);
  const sealed = chacha20poly1305(key, zero).encrypt(message);
  const text = sealed.subarray(0, size);
  const tag = sealed.subarray(size);
  compare(`open ${size} bytes`, size, [
    ...cores.map(({ build, exports, u8 }) => ({
      name: `wasmguard ${build}`,
      ours: true,
      run: (count: number) => {
        u8.set(sealed, SRC);
        if (exports.openTimes(DST, SRC, size + 16, KEY, count) !== count) throw new Error(`${build} refused a packet`);
      },
    })),
    {
      name: "node:crypto chacha20-poly1305",
      run: once(() => {
        const decipher = createDecipheriv("chacha20-poly1305", key, zero, { authTagLength: 16 });
        decipher.setAuthTag(tag);
        decipher.update(text);
        return decipher.final();
      }),
    },
    {
      name: "libsodium-wrappers",
      run: once(() => sodium.crypto_aead_chacha20poly1305_ietf_decrypt(null, sealed, null, zero, key)),
    },
    {
      name: "@chainsafe/as-chacha20poly1305",
      run: once(() => {
        if (!chainsafe.open(key, zero, sealed)) throw new Error("@chainsafe refused a packet");
      }),
    },
    { name: "@noble/ciphers", run: once(() => chacha20poly1305(key, zero).decrypt(sealed)) },
  ]);
}

// PKCS #8 and SPKI of RFC 8410 around the raw keys: node:crypto takes no others everywhere.
const scalar = bytesOf(32, 2);
const point = x25519.getPublicKey(bytesOf(32, 4));
const privateKey = createPrivateKey({
  key: Buffer.concat([Buffer.from("302e020100300506032b656e04220420", "hex"), scalar]),
  format: "der",
  type: "pkcs8",
});
const publicKey = createPublicKey({
  key: Buffer.concat([Buffer.from("302a300506032b656e032100", "hex"), point]),
  format: "der",
  type: "spki",
});
compare("X25519 shared secrets", 0, [
  ...cores.map(({ build, exports, u8 }) => ({
    name: `wasmguard ${build}`,
    ours: true,
    run: (count: number) => {
      u8.set(point, OUT);
      exports.x25519Times(OUT, SCALAR, count);
    },
  })),
  { name: "node:crypto diffieHellman", run: once(() => diffieHellman({ privateKey, publicKey })) },
  { name: "@noble/curves", run: once(() => x25519.getSharedSecret(scalar, point)) },
]);

for (const size of [64, 1024]) {
  const message = bytesOf(size, 5);
  for (const { u8 } of cores) u8.set(message, SRC);
  compare(`BLAKE2s of ${size} bytes`, size, [
    ...cores.map(({ build, exports }) => ({
      name: `wasmguard ${build}`,
      ours: true,
      run: (count: number) => exports.blake2sTimes(OUT, SRC, size, count),
    })),
    { name: "node:crypto blake2s256", run: once(() => createHash("blake2s256").update(message).digest()) },
    { name: "@noble/hashes", run: once(() => blake2s(message)) },
  ]);
}
