// How fast is the crypto of the core? One run: every build this engine can run beside node:crypto, libsodium-wrappers,
// @chainsafe/as-chacha20poly1305 and @noble, round by round in turn, so that a busy machine slows all alike. Medians,
// and each as a ratio to our fastest build. The wide build runs where V8 can pair its operations, and only there.
//
// Then OpenSSL's own loop, whole and limited to SSE, in turn with ours, and which of our promises hold. Best rounds by
// CPU time on both sides, as `openssl speed` counts: so long a measurement would else show the machine's other work.
//
// A packet is one call with its own nonce for every candidate. Ours lies in the core's memory, as in the data path, and
// is called in a loop inside wasm; the peers take and return Uint8Arrays, as their users call them.
//
// After `node build/core.mjs crypto`; --short takes a few seconds:
//   Node 20: node --import tsx bench/aead.ts [--short]
//   Node >= 22.18: node bench/aead.ts [--short]
//   Deno: deno run -A bench/aead.ts [--short]
import { spawnSync } from "node:child_process";
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
import { setFlagsFromString } from "node:v8";
import { ChaCha20Poly1305, newInstance } from "@chainsafe/as-chacha20poly1305";
import { chacha20poly1305 } from "@noble/ciphers/chacha.js";
import { x25519 } from "@noble/curves/ed25519.js";
import { blake2s } from "@noble/hashes/blake2.js";
import sodium from "libsodium-wrappers";
import { THREAD_MAX, THREADS_BASE, THREAD_SIZE } from "../assembly/abi.ts";
import { canPair, setPairing } from "../host/core-choice.ts";
import { builds, loadTest, type TestModule } from "../test/helpers/wasm.ts";

const short = process.argv.includes("--short");
const ROUNDS = short ? 7 : 25;
const ROUND_MS = short ? 6 : 20;
const WARMUP_MS = short ? 40 : 250;
const SIZES = [64, 256, 1420, 16384];
/** A full packet at the usual MTU, the size of the promises. */
const FULL = 1420;
const OPENSSL_ROUNDS = short ? 2 : 7;

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
 * @returns the best rounds by name, microseconds: what a busy machine leaves to compare
 */
function compare(title: string, bytes: number, candidates: Candidate[]): Map<string, number> {
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
  return new Map(candidates.map(({ name }, i) => [name, times[i][0]]));
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
if (canPair()) {
  // Compiled whole by the optimizing compiler, the flag set for the wide build alone.
  setFlagsFromString("--no-liftoff");
  cores.forEach(callAll);
  await setPairing(true);
  cores.push(loadTest<Loops>("crypto", "wide"));
  callAll(cores[cores.length - 1]);
  await setPairing(false);
  setFlagsFromString("--liftoff");
} else {
  console.log("wide build: not run, this engine pairs no operations");
}

function callAll({ exports }: TestModule<Loops>): void {
  for (const size of SIZES) {
    exports.sealTimes(DST, SRC, size, KEY, 1);
    exports.openTimes(SRC, DST, size + 16, KEY, 1);
  }
  exports.x25519Times(OUT, SCALAR, 1);
  exports.blake2sTimes(OUT, SRC, 1024, 1);
}

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

let fullSeal = new Map<string, number>();
for (const size of SIZES) {
  const message = bytesOf(size, 3);
  for (const { u8 } of cores) u8.set(message, SRC);
  const next = nonceCounter();
  const seal = compare(`seal ${size} bytes`, size, [
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
  if (size === FULL) fullSeal = seal;

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

/** CPU features taken from OpenSSL: AVX and all that came after it. */
const SSE_ONLY = "~0x1000000000000000:0";

/**
 * MB/s of \`openssl speed\` over packets of \`FULL\` bytes; 0 when there is no openssl.
 * @param packets  a nonce and a tag for each of them, not one endless message
 */
function opensslSpeed(packets: boolean, ia32cap?: string): number {
  const args = ["speed", "-mr", "-seconds", "1", "-bytes", String(FULL), "-evp", "chacha20-poly1305"];
  if (packets) args.push("-aead");
  const env = { ...process.env, ...(ia32cap && { OPENSSL_ia32cap: ia32cap }) };
  const { stdout } = spawnSync("openssl", args, { env, encoding: "utf8" });
  return Number(/^\+F:.*:([\d.]+)$/m.exec(stdout ?? "")?.[1] ?? 0) / 1e6;
}

/** MB/s of our seal by the CPU time of this process, over about a third of a second. */
function sealSpeed({ exports }: TestModule<Loops>): number {
  const start = process.cpuUsage();
  let packets = 0;
  for (;;) {
    exports.sealTimes(DST, SRC, FULL, KEY, 4096);
    packets += 4096;
    const { user } = process.cpuUsage(start);
    if (user > 300_000) return (packets * FULL) / user;
  }
}

const openssl: Record<string, () => number> = {
  "openssl speed": () => opensslSpeed(false),
  "openssl, a packet": () => opensslSpeed(true),
  "openssl, a packet, SSE only": () => opensslSpeed(true, SSE_ONLY),
};
const ours = Object.fromEntries(cores.map((core) => [`wasmguard ${core.build}`, () => sealSpeed(core)]));
const speeds = new Map<string, number[]>();
for (let round = 0; round < OPENSSL_ROUNDS; round++)
  for (const [name, run] of Object.entries({ ...ours, ...openssl })) {
    speeds.set(name, [...(speeds.get(name) ?? []), run()]);
  }
const speed = (name: string): number => Math.max(...(speeds.get(name) ?? [0]));
console.log(`\nseal ${FULL} bytes by CPU time, best of ${OPENSSL_ROUNDS} rounds, ${opensslVersion()}`);
for (const name of speeds.keys()) console.log(`  ${name.padEnd(31)}${speed(name).toFixed(1).padStart(7)} MB/s`);

function opensslVersion(): string {
  return spawnSync("openssl", ["version"], { encoding: "utf8" }).stdout?.trim() || "openssl: not found";
}

/** What we promise, for builds that are here: at least \`least\` times the speed of the other. */
const relaxed = "wasmguard relaxed";
const promises: [build: string, least: number, than: string][] = [
  [relaxed, 0.95, "openssl, a packet, SSE only"],
  [relaxed, 0.5, "openssl, a packet"],
  [relaxed, 2.7, "libsodium-wrappers"],
  [relaxed, 6, "@chainsafe/as-chacha20poly1305"],
  ["wasmguard plain", 0.33, "openssl speed"],
  ["wasmguard wide", 0.5, "openssl speed"],
];
console.log("\npromises");
for (const [build, least, than] of promises) {
  if (!cores.some((core) => `wasmguard ${core.build}` === build)) continue;
  const ratio = speeds.has(than) ? speed(build) / speed(than) : (fullSeal.get(than) ?? 0) / (fullSeal.get(build) ?? 0);
  const verdict = !Number.isFinite(ratio) ? "cannot say" : ratio >= least ? "holds" : "DOES NOT HOLD";
  console.log(`  ${build} >= ${least} x ${than}: ${ratio.toFixed(2)}, ${verdict}`);
}
