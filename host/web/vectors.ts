// The vectors of others, run over the core's primitives: the same in the page and in Node, so that the results compare.

import type { Primitives } from "../capture/primitives.ts";

/** All bytes as hex. */
export interface Vectors {
  /** Wycheproof: nonces of 12 bytes, and of 24 */
  aead: SealedVector[];
  xaead: SealedVector[];
  /** Wycheproof */
  x25519: { id: number; private: string; public: string; shared: string }[];
  /** of BLAKE2's authors: keyed */
  blake2s: { in: string; key: string; hash: string }[];
}

export interface SealedVector {
  id: number;
  key: string;
  iv: string;
  aad: string;
  msg: string;
  ct: string;
  tag: string;
  valid: boolean;
}

export interface VectorResult {
  name: string;
  source: string;
  passed: number;
  /** which ones */
  failed: string[];
}

function unhex(text: string): Uint8Array {
  return Uint8Array.from({ length: text.length / 2 }, (_, i) => Number.parseInt(text.slice(i * 2, i * 2 + 2), 16));
}

function same(bytes: Uint8Array | null, wanted: string): boolean {
  return bytes !== null && Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("") === wanted;
}

function check<T>(
  name: string,
  source: string,
  vectors: T[],
  id: (vector: T, i: number) => string,
  passes: (vector: T) => boolean,
): VectorResult {
  const failed = vectors.flatMap((vector, i) => (passes(vector) ? [] : [id(vector, i)]));
  return { name, source, passed: vectors.length - failed.length, failed };
}

function sealed(crypto: Primitives, { key, iv, aad, msg, ct, tag, valid }: SealedVector): boolean {
  const [keyBytes, nonce, ad] = [unhex(key), unhex(iv), unhex(aad)];
  const opened = crypto.openNonce(keyBytes, nonce, unhex(ct + tag), ad);
  if (!valid) return opened === null;
  return same(opened, msg) && same(crypto.sealNonce(keyBytes, nonce, unhex(msg), ad), ct + tag);
}

/** One result a step, so that a page can paint in between. */
export function* runVectors(crypto: Primitives, { aead, xaead, x25519, blake2s }: Vectors): Generator<VectorResult> {
  const byId = ({ id }: { id: number }): string => `case ${id}`;
  yield check("ChaCha20-Poly1305", "Wycheproof", aead, byId, (vector) => sealed(crypto, vector));
  yield check("XChaCha20-Poly1305", "Wycheproof", xaead, byId, (vector) => sealed(crypto, vector));
  yield check("X25519", "Wycheproof", x25519, byId, (vector) =>
    same(crypto.dh(unhex(vector.private), unhex(vector.public)), vector.shared),
  );
  yield check(
    "BLAKE2s, keyed",
    "its authors",
    blake2s,
    (_, i) => `${i} bytes`,
    ({ in: message, key, hash }) => {
      return same(crypto.keyedHash(unhex(key), unhex(message)), hash);
    },
  );
}
