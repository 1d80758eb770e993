// The crypto of the core as functions of bytes: for taking messages apart, where a copy more or less is nothing.

import { AUTHTAG_LEN, HASH_LEN, KEY_LEN, MAC_LEN } from "../../assembly/protocol.ts";
import { openPrimitives, type PrimitiveExports } from "../core.ts";

export class Primitives {
  readonly #exports: PrimitiveExports;
  readonly #u8: Uint8Array;
  readonly #room: number;
  #at = 0;

  private constructor(exports: PrimitiveExports, memory: WebAssembly.Memory, room: number) {
    this.#exports = exports;
    this.#u8 = new Uint8Array(memory.buffer);
    this.#room = room;
  }

  static async open(): Promise<Primitives> {
    const { exports, memory, room } = await openPrimitives();
    return new Primitives(exports, memory, room);
  }

  /** HASH(parts joined), §5.4. */
  hash(...parts: Uint8Array[]): Uint8Array {
    return this.#run(() => {
      const src = this.#at;
      for (const part of parts) this.#put(part);
      const length = this.#at - src;
      const dst = this.#space(HASH_LEN);
      this.#exports.blake2s(dst, HASH_LEN, src, length, 0, 0);
      return this.#take(dst, HASH_LEN);
    });
  }

  /** MAC(key, message), §5.4: keyed BLAKE2s of 16 bytes. */
  mac(key: Uint8Array, message: Uint8Array): Uint8Array {
    return this.#run(() => {
      const [keyAt, src, dst] = [this.#put(key), this.#put(message), this.#space(MAC_LEN)];
      this.#exports.blake2s(dst, MAC_LEN, src, message.length, keyAt, key.length);
      return this.#take(dst, MAC_LEN);
    });
  }

  /** BLAKE2s of 32 bytes with a key, RFC 7693. */
  keyedHash(key: Uint8Array, message: Uint8Array): Uint8Array {
    return this.#run(() => {
      const [keyAt, src, dst] = [this.#put(key), this.#put(message), this.#space(HASH_LEN)];
      this.#exports.blake2s(dst, HASH_LEN, src, message.length, keyAt, key.length);
      return this.#take(dst, HASH_LEN);
    });
  }

  /** KDFn(key, input), §5.4: as many outputs as `count` says. */
  kdf(count: 1 | 2 | 3, key: Uint8Array, input: Uint8Array): Uint8Array[] {
    return this.#run(() => {
      const [keyAt, src] = [this.#put(key), this.#put(input)];
      const dst = Array.from({ length: count }, () => this.#space(HASH_LEN));
      if (count === 1) this.#exports.kdf1(dst[0], keyAt, src, input.length);
      else if (count === 2) this.#exports.kdf2(dst[0], dst[1], keyAt, src, input.length);
      else this.#exports.kdf3(dst[0], dst[1], dst[2], keyAt, src, input.length);
      return dst.map((at) => this.#take(at, HASH_LEN));
    });
  }

  /** X25519, RFC 7748. */
  dh(privateKey: Uint8Array, publicKey: Uint8Array): Uint8Array {
    return this.#run(() => {
      const [scalar, point, dst] = [this.#put(privateKey), this.#put(publicKey), this.#space(KEY_LEN)];
      this.#exports.x25519(dst, scalar, point);
      return this.#take(dst, KEY_LEN);
    });
  }

  publicKey(privateKey: Uint8Array): Uint8Array {
    return this.#run(() => {
      const [scalar, dst] = [this.#put(privateKey), this.#space(KEY_LEN)];
      this.#exports.x25519Public(dst, scalar);
      return this.#take(dst, KEY_LEN);
    });
  }

  /** AEAD of the protocol, RFC 8439. @returns null when it is not authentic */
  open(key: Uint8Array, counter: bigint, sealed: Uint8Array, ad: Uint8Array): Uint8Array | null {
    if (sealed.length < AUTHTAG_LEN) return null;
    return this.#run(() => {
      const [keyAt, adAt, src] = [this.#put(key), this.#put(ad), this.#put(sealed)];
      const length = sealed.length - AUTHTAG_LEN;
      const opened = this.#exports.aeadOpen(src, src, sealed.length, adAt, ad.length, keyAt, counter);
      return opened ? this.#take(src, length) : null;
    });
  }

  /** XChaCha20-Poly1305, for cookies. @returns null when it is not authentic */
  xopen(key: Uint8Array, nonce: Uint8Array, sealed: Uint8Array, ad: Uint8Array): Uint8Array | null {
    return this.#openNonce(this.#exports.xaeadOpen, key, nonce, sealed, ad);
  }

  /** With a nonce of 12 bytes (RFC 8439) or 24 (XChaCha20). @returns ciphertext and tag */
  sealNonce(key: Uint8Array, nonce: Uint8Array, plain: Uint8Array, ad: Uint8Array): Uint8Array {
    const seal = nonce.length === 12 ? this.#exports.aeadSealNonce : this.#exports.xaeadSeal;
    return this.#run(() => {
      const [keyAt, nonceAt, adAt, src] = [this.#put(key), this.#put(nonce), this.#put(ad), this.#put(plain)];
      this.#space(AUTHTAG_LEN);
      seal(src, src, plain.length, adAt, ad.length, keyAt, nonceAt);
      return this.#take(src, plain.length + AUTHTAG_LEN);
    });
  }

  /** The same way back. @returns null when it is not authentic */
  openNonce(key: Uint8Array, nonce: Uint8Array, sealed: Uint8Array, ad: Uint8Array): Uint8Array | null {
    const open = nonce.length === 12 ? this.#exports.aeadOpenNonce : this.#exports.xaeadOpen;
    return this.#openNonce(open, key, nonce, sealed, ad);
  }

  #openNonce(open: PrimitiveExports["xaeadOpen"], key: Uint8Array, nonce: Uint8Array, sealed: Uint8Array, ad: Uint8Array): Uint8Array | null {
    if (sealed.length < AUTHTAG_LEN) return null;
    return this.#run(() => {
      const [keyAt, nonceAt, adAt, src] = [this.#put(key), this.#put(nonce), this.#put(ad), this.#put(sealed)];
      const opened = open(src, src, sealed.length, adAt, ad.length, keyAt, nonceAt);
      return opened ? this.#take(src, sealed.length - AUTHTAG_LEN) : null;
    });
  }

  // Arguments one behind the other, wiped after the call: among them are keys.
  #run<T>(call: () => T): T {
    this.#at = this.#room;
    try {
      return call();
    } finally {
      this.#u8.fill(0, this.#room, Math.min(this.#at + SLACK, this.#u8.length));
    }
  }

  #put(bytes: Uint8Array): number {
    const at = this.#space(bytes.length);
    this.#u8.set(bytes, at);
    return at;
  }

  #space(length: number): number {
    const at = this.#at;
    if (at + length + SLACK > this.#u8.length) throw new RangeError(`${length} bytes do not fit into the memory of the crypto`);
    this.#at += length;
    return at;
  }

  #take(at: number, length: number): Uint8Array {
    return this.#u8.slice(at, at + length);
  }
}

/** The AEAD may write so far past what it opens. */
const SLACK = 256;
