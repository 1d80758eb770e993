// The crypto module under test: its exports, places in its memory, and reproducible bytes.
import { loadTest, type TestModule } from "../helpers/wasm.ts";
import { THREAD_MAX, THREADS_BASE, THREAD_SIZE } from "../../assembly/abi.ts";

type Seal<N> = (dst: number, src: number, len: number, ad: number, adLen: number, key: number, nonce: N) => void;
type Open<N> = (dst: number, src: number, len: number, ad: number, adLen: number, key: number, nonce: N) => number;

/** What test/assembly/crypto.ts exports; a bool comes as 0 or 1. */
export interface CryptoExports {
  BLAKE2S_STATE_LEN: { value: number };
  CRYPTO_END: { value: number };
  bindThread(thread: number): void;
  cryptoWipe(): void;
  cryptoWipeThread(thread: number): void;
  aeadSeal: Seal<bigint>;
  aeadOpen: Open<bigint>;
  aeadSealNonce: Seal<number>;
  aeadOpenNonce: Open<number>;
  xaeadSeal: Seal<number>;
  xaeadOpen: Open<number>;
  packetSeal(dst: number, src: number, len: number, key: number, counter: bigint): void;
  packetOpen(dst: number, src: number, len: number, key: number, counter: bigint): number;
  packetMac(dst: number, src: number, len: number, key: number): void;
  macUnderKey(dst: number, ad: number, adLen: number, src: number, len: number, key: number): void;
  hchacha20(dst: number, key: number, nonce: number): void;
  blake2s(dst: number, dstLen: number, src: number, len: number, key: number, keyLen: number): void;
  blake2sInit(state: number, outLen: number, key: number, keyLen: number): void;
  blake2sUpdate(state: number, src: number, len: number): void;
  blake2sFinal(state: number, dst: number): void;
  hmacBlake2s(dst: number, key: number, keyLen: number, src: number, len: number): void;
  kdf1(dst: number, chainingKey: number, src: number, len: number): void;
  kdf2(dst1: number, dst2: number, chainingKey: number, src: number, len: number): void;
  kdf3(dst1: number, dst2: number, dst3: number, chainingKey: number, src: number, len: number): void;
  x25519(dst: number, scalar: number, point: number): number;
  x25519Public(dst: number, scalar: number): void;
}

export type Crypto = TestModule<CryptoExports>;

/** The first byte above the thread blocks; places of the tests, apart from each other and at no good alignment. */
const END = THREADS_BASE + THREAD_SIZE * THREAD_MAX;
export const KEY = END + 0x101;
export const NONCE = END + 0x203;
export const AD = END + 0x1007;
export const OUT = END + 0x3005;
export const SRC = END + 0x20_003;
export const DST = END + 0x60_009;
/** Longest message between SRC and DST. */
export const MESSAGE_MAX = 0x30_000;

export const loadCrypto = (build: string): Crypto => loadTest<CryptoExports>("crypto", build);

export function put(core: Crypto, address: number, bytes: Uint8Array): void {
  core.u8.set(bytes, address);
}

/** A copy of bytes of the memory, unshared. */
export function get(core: Crypto, address: number, length: number): Uint8Array {
  return new Uint8Array(core.u8.subarray(address, address + length));
}

/** Bytes that are the same in every run: xorshift32 of a seed. */
export function bytes(length: number, seed: number): Uint8Array {
  let state = (Math.imul(seed, 0x9e3779b1) ^ 0x6a09e667) | 1;
  return Uint8Array.from({ length }, () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 11;
  });
}

/** The nonce of whitepaper §5.4 of a counter. */
export function counterNonce(counter: bigint): Uint8Array {
  const nonce = new Uint8Array(12);
  new DataView(nonce.buffer).setBigUint64(4, counter, true);
  return nonce;
}

export function concat(...parts: Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts));
}
