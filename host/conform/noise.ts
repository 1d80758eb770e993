// WireGuard's handshake and messages written out from the whitepaper (§5.4), over @noble: the judge of the conformance
// checks, and the other end that the tests hold the core against. Names are the paper's: C the chaining key, H the
// hash, k a key, E an ephemeral, S a static key, Q the preshared key, T a transport key, N a counter. Nothing here is
// shared with assembly/, the constants least of all: a judge with the same mistake would not see it.
import { chacha20poly1305, xchacha20poly1305 } from "@noble/ciphers/chacha.js";
import { x25519 } from "@noble/curves/ed25519.js";
import { blake2s } from "@noble/hashes/blake2.js";
import { hmac } from "@noble/hashes/hmac.js";

export type Bytes = Uint8Array;

export function concat(...parts: Bytes[]): Bytes {
  const joined = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}
const text = (s: string): Bytes => new TextEncoder().encode(s);
const zeros = (n: number): Bytes => new Uint8Array(n);

const CONSTRUCTION = text("Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s");
const IDENTIFIER = text("WireGuard v1 zx2c4 Jason@zx2c4.com");
const LABEL_MAC1 = text("mac1----");
const LABEL_COOKIE = text("cookie--");
const EPSILON = zeros(0);
export const NO_PSK = zeros(32);

// --- §5.4: the functions --------------------------------------------------------------------------------------------

export const DH = (priv: Bytes, pub: Bytes): Bytes => x25519.getSharedSecret(priv, pub);
export const DH_PUBLIC = (priv: Bytes): Bytes => x25519.getPublicKey(priv);
const HASH = (input: Bytes): Bytes => blake2s(input, { dkLen: 32 });
const MAC = (key: Bytes, input: Bytes): Bytes => blake2s(input, { key, dkLen: 16 });
const HMAC = (key: Bytes, input: Bytes): Bytes => hmac(blake2s, key, input);

function KDF(n: number, key: Bytes, input: Bytes): Bytes[] {
  const t0 = HMAC(key, input);
  const out: Bytes[] = [];
  let last = EPSILON;
  for (let i = 1; i <= n; i++) {
    last = HMAC(t0, concat(last, Uint8Array.of(i)));
    out.push(last);
  }
  return out;
}

/** The nonce: 32 bits of zeros, then the counter, little-endian. */
function nonceOf(counter: bigint): Bytes {
  const nonce = zeros(12);
  new DataView(nonce.buffer).setBigUint64(4, counter, true);
  return nonce;
}

export const AEAD = (key: Bytes, counter: bigint, plain: Bytes, auth: Bytes): Bytes =>
  chacha20poly1305(key, nonceOf(counter), auth).encrypt(plain);
/** @throws when the tag is wrong */
export const OPEN = (key: Bytes, counter: bigint, sealed: Bytes, auth: Bytes): Bytes =>
  chacha20poly1305(key, nonceOf(counter), auth).decrypt(sealed);

// --- the handshake's state -------------------------------------------------------------------------------------------

/** C and H as they go through a handshake. */
export class Symmetric {
  C: Bytes;
  H: Bytes;

  constructor(prologue: Bytes = IDENTIFIER) {
    this.C = HASH(CONSTRUCTION);
    this.H = HASH(concat(this.C, prologue));
  }

  /** The same state, to go another way from here. */
  clone(): Symmetric {
    return Object.assign(new Symmetric(), { C: this.C, H: this.H });
  }

  mixHash(input: Bytes): void {
    this.H = HASH(concat(this.H, input));
  }

  mixKey(input: Bytes): void {
    [this.C] = KDF(1, this.C, input);
  }

  mixDh(secret: Bytes): Bytes {
    const [C, k] = KDF(2, this.C, secret);
    this.C = C;
    return k;
  }

  mixPsk(Q: Bytes): Bytes {
    const [C, t, k] = KDF(3, this.C, Q);
    this.C = C;
    this.mixHash(t);
    return k;
  }

  seal(k: Bytes, plain: Bytes): Bytes {
    const sealed = AEAD(k, 0n, plain, this.H);
    this.mixHash(sealed);
    return sealed;
  }

  open(k: Bytes, sealed: Bytes): Bytes {
    const plain = OPEN(k, 0n, sealed, this.H);
    this.mixHash(sealed);
    return plain;
  }

  /** The two transport keys of §5.4.5: the initiator's sending key first. */
  split(): [Bytes, Bytes] {
    const [first, second] = KDF(2, this.C, EPSILON);
    return [first, second];
  }
}

/** One end: its static key pair, and what it knows of the other. */
export interface End {
  priv: Bytes;
  remote: Bytes;
  psk?: Bytes;
  prologue?: Bytes;
}

/** Ephemeral, encrypted static, encrypted payload, in one. */
export function initiationBody(end: End, ephemeral: Bytes, payload: Bytes): { state: Symmetric; body: Bytes } {
  const state = new Symmetric(end.prologue);
  state.mixHash(end.remote);
  const E = DH_PUBLIC(ephemeral);
  state.mixKey(E);
  state.mixHash(E);
  const sealedStatic = state.seal(state.mixDh(DH(ephemeral, end.remote)), DH_PUBLIC(end.priv));
  const sealedPayload = state.seal(state.mixDh(DH(end.priv, end.remote)), payload);
  return { state, body: concat(E, sealedStatic, sealedPayload) };
}

/** Opens the body; the initiator's static key comes out of it. @throws when a tag is wrong */
export function openInitiation(priv: Bytes, body: Bytes, prologue?: Bytes): {
  state: Symmetric;
  ephemeral: Bytes;
  remote: Bytes;
  payload: Bytes;
} {
  const state = new Symmetric(prologue);
  state.mixHash(DH_PUBLIC(priv));
  const ephemeral = body.slice(0, 32);
  state.mixKey(ephemeral);
  state.mixHash(ephemeral);
  const remote = state.open(state.mixDh(DH(priv, ephemeral)), body.slice(32, 80));
  const payload = state.open(state.mixDh(DH(priv, remote)), body.slice(80));
  return { state, ephemeral, remote, payload };
}

/** The responder's answer: ephemeral and encrypted payload. */
export function responseBody(
  state: Symmetric, ephemeral: Bytes, remoteEphemeral: Bytes, remote: Bytes, psk: Bytes, payload: Bytes,
): Bytes {
  const E = DH_PUBLIC(ephemeral);
  state.mixKey(E);
  state.mixHash(E);
  state.mixDh(DH(ephemeral, remoteEphemeral));
  state.mixDh(DH(ephemeral, remote));
  const k = state.mixPsk(psk);
  return concat(E, state.seal(k, payload));
}

/** @throws when the tag is wrong */
export function openResponse(state: Symmetric, priv: Bytes, ephemeral: Bytes, psk: Bytes, body: Bytes): Bytes {
  const E = body.slice(0, 32);
  state.mixKey(E);
  state.mixHash(E);
  state.mixDh(DH(ephemeral, E));
  state.mixDh(DH(priv, E));
  const k = state.mixPsk(psk);
  return state.open(k, body.slice(32));
}

// --- messages --------------------------------------------------------------------------------------------------------

export const le32 = (value: number): Bytes => {
  const bytes = zeros(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  return bytes;
};
const le64 = (value: bigint): Bytes => {
  const bytes = zeros(8);
  new DataView(bytes.buffer).setBigUint64(0, value, true);
  return bytes;
};
export const readLe32 = (bytes: Bytes, at: number): number =>
  new DataView(bytes.buffer, bytes.byteOffset).getUint32(at, true);
export const readLe64 = (bytes: Bytes, at: number): bigint =>
  new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(at, true);

/** §5.1, TAI64N: 8 bytes of seconds from 2^62, 10 s ahead of UTC as ever, and 4 of nanoseconds, big-endian. */
export function tai64n(sec: number, nsec: number): Bytes {
  const bytes = zeros(12);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, 2n ** 62n + 10n + BigInt(sec));
  view.setUint32(8, nsec);
  return bytes;
}

/** §5.4.4: mac1, and mac2 when there is a cookie. */
export function withMacs(message: Bytes, remote: Bytes, cookie?: Bytes): Bytes {
  const first = concat(message, MAC(HASH(concat(LABEL_MAC1, remote)), message));
  return concat(first, cookie ? MAC(cookie, first) : zeros(16));
}

/** Whether mac1 is one for `own`. */
export function mac1Is(message: Bytes, own: Bytes): boolean {
  const covered = message.slice(0, message.length - 32);
  return equal(MAC(HASH(concat(LABEL_MAC1, own)), covered), message.slice(-32, -16));
}

/** mac2 that a cookie asks for. */
export const mac2For = (message: Bytes, cookie: Bytes): Bytes => MAC(cookie, message.slice(0, message.length - 16));

export const initiationMessage = (sender: number, body: Bytes): Bytes =>
  concat(Uint8Array.of(1, 0, 0, 0), le32(sender), body);
export const responseMessage = (sender: number, receiver: number, body: Bytes): Bytes =>
  concat(Uint8Array.of(2, 0, 0, 0), le32(sender), le32(receiver), body);

/** §5.4.6: one packet of transport data; the plaintext is padded with zeros to a multiple of 16. */
export function dataMessage(receiver: number, counter: bigint, key: Bytes, packet: Bytes): Bytes {
  const padded = concat(packet, zeros(-packet.length & 15));
  return concat(Uint8Array.of(4, 0, 0, 0), le32(receiver), le64(counter), AEAD(key, counter, padded, EPSILON));
}

/** @throws when the tag is wrong */
export const openData = (message: Bytes, key: Bytes): Bytes =>
  OPEN(key, readLe64(message, 8), message.slice(16), EPSILON);

/** §5.4.7: the cookie in a reply to the message that carried `mac1`. @throws when the tag is wrong */
export const openCookie = (reply: Bytes, responder: Bytes, mac1: Bytes): Bytes =>
  xchacha20poly1305(HASH(concat(LABEL_COOKIE, responder)), reply.slice(8, 32), mac1).decrypt(reply.slice(32));

/** A cookie reply of a responder whose cookie for the sender is `cookie`. */
export const cookieReply = (receiver: number, nonce: Bytes, cookie: Bytes, responder: Bytes, mac1: Bytes): Bytes =>
  concat(
    Uint8Array.of(3, 0, 0, 0),
    le32(receiver),
    nonce,
    xchacha20poly1305(HASH(concat(LABEL_COOKIE, responder)), nonce, mac1).encrypt(cookie),
  );

export const equal = (a: Bytes, b: Bytes): boolean => a.length === b.length && a.every((byte, i) => byte === b[i]);
