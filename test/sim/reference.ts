// A second WireGuard, small and slow: the messages of the paper (§5.4) written straight down over @noble's primitives.
// It shares no line with the core. The suites use it as the other end, to make messages the core would never make, and
// to look into those it made.
import { chacha20poly1305, xchacha20poly1305 } from "@noble/ciphers/chacha.js";
import { x25519 } from "@noble/curves/ed25519.js";
import { blake2s } from "@noble/hashes/blake2.js";
import { hmac } from "@noble/hashes/hmac.js";

const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);
const EMPTY = new Uint8Array(0);

export function concat(...parts: Uint8Array[]): Uint8Array {
  const joined = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}

export const u32le = (value: number): Uint8Array => Uint8Array.of(value, value >>> 8, value >>> 16, value >>> 24);
export const readU32 = (bytes: Uint8Array, at: number): number =>
  (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)) >>> 0;

// §5.4: HASH, MAC, KDF, AEAD, XAEAD
const hash = (...parts: Uint8Array[]): Uint8Array => blake2s(concat(...parts));
const mac = (key: Uint8Array, data: Uint8Array): Uint8Array => blake2s(data, { key, dkLen: 16 });

function kdf(count: number, key: Uint8Array, input: Uint8Array): Uint8Array[] {
  const secret = hmac(blake2s, key, input);
  const outputs: Uint8Array[] = [];
  let last = EMPTY;
  for (let i = 1; i <= count; i++) {
    last = hmac(blake2s, secret, concat(last, Uint8Array.of(i)));
    outputs.push(last);
  }
  return outputs;
}

function nonceOf(counter: bigint): Uint8Array {
  const nonce = new Uint8Array(12);
  new DataView(nonce.buffer).setBigUint64(4, counter, true);
  return nonce;
}

export const aeadSeal = (key: Uint8Array, counter: bigint, plain: Uint8Array, ad: Uint8Array = EMPTY): Uint8Array =>
  chacha20poly1305(key, nonceOf(counter), ad).encrypt(plain);
/** @throws when the tag is wrong */
export const aeadOpen = (key: Uint8Array, counter: bigint, sealed: Uint8Array, ad: Uint8Array = EMPTY): Uint8Array =>
  chacha20poly1305(key, nonceOf(counter), ad).decrypt(sealed);

const C0 = blake2s(utf8("Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"));
const H0 = hash(C0, utf8("WireGuard v1 zx2c4 Jason@zx2c4.com"));

// DH that gives zero for a low-order point where @noble refuses it: for making messages that must be refused.
function dh(privateKey: Uint8Array, publicKey: Uint8Array): Uint8Array {
  try {
    return x25519.getSharedSecret(privateKey, publicKey);
  } catch {
    return new Uint8Array(32);
  }
}

export const publicKeyOf = (privateKey: Uint8Array): Uint8Array => x25519.getPublicKey(privateKey);

/** Writes mac1, and mac2 when there is a cookie, over the last 32 bytes of a message to `responder`. §5.4.4 */
export function addMacs(message: Uint8Array, responder: Uint8Array, cookie?: Uint8Array): Uint8Array {
  const end = message.length;
  message.set(mac(hash(utf8("mac1----"), responder), message.subarray(0, end - 32)), end - 32);
  message.set(cookie ? mac(cookie, message.subarray(0, end - 16)) : new Uint8Array(16), end - 16);
  return message;
}

/** Opens a cookie reply. @throws when it does not answer `mac1` or is not of `responder` */
export function openCookieReply(reply: Uint8Array, responder: Uint8Array, mac1: Uint8Array): Uint8Array {
  const key = hash(utf8("cookie--"), responder);
  return xchacha20poly1305(key, reply.subarray(8, 32), mac1).decrypt(reply.subarray(32, 64));
}

/** A cookie reply of `responder` to the message with this mac1. */
export function createCookieReply(
  responder: Uint8Array, mac1: Uint8Array, receiver: number, cookie: Uint8Array, nonce: Uint8Array,
): Uint8Array {
  const key = hash(utf8("cookie--"), responder);
  return concat(u32le(3), u32le(receiver), nonce, xchacha20poly1305(key, nonce, mac1).encrypt(cookie));
}

/** TAI64N of seconds and nanoseconds of the Unix clock; nanoseconds as they are given. §5.1 */
export function tai64n(sec: number, nsec: number): Uint8Array {
  const stamp = new Uint8Array(12);
  const view = new DataView(stamp.buffer);
  view.setBigUint64(0, 0x400000000000000an + BigInt(sec));
  view.setUint32(8, nsec);
  return stamp;
}

interface State {
  chain: Uint8Array;
  hash: Uint8Array;
}

export interface Keys {
  send: Uint8Array;
  receive: Uint8Array;
  /** of ours, and of theirs */
  local: number;
  remote: number;
}

export interface Identity {
  privateKey: Uint8Array;
  publicKey: Uint8Array;
  presharedKey?: Uint8Array;
}

const NO_PSK = new Uint8Array(32);

export interface Initiation {
  message: Uint8Array;
  state: State;
  sender: number;
  ephemeral: Uint8Array;
}

/** §5.4.2 */
export function createInitiation(
  us: Identity, responder: Uint8Array, ephemeral: Uint8Array, sender: number, timestamp: Uint8Array,
  cookie?: Uint8Array,
): Initiation {
  const public_ = publicKeyOf(ephemeral);
  let h = hash(H0, responder);
  let [c] = kdf(1, C0, public_);
  h = hash(h, public_);
  let k: Uint8Array;
  [c, k] = kdf(2, c, dh(ephemeral, responder));
  const static_ = aeadSeal(k, 0n, us.publicKey, h);
  h = hash(h, static_);
  [c, k] = kdf(2, c, dh(us.privateKey, responder));
  const stamp = aeadSeal(k, 0n, timestamp, h);
  h = hash(h, stamp);
  const message = concat(u32le(1), u32le(sender), public_, static_, stamp, new Uint8Array(32));
  addMacs(message, responder, cookie);
  return { message, state: { chain: c, hash: h }, sender, ephemeral };
}

export interface Consumed {
  initiator: Uint8Array;
  timestamp: Uint8Array;
  sender: number;
  ephemeral: Uint8Array;
  state: State;
}

/** Opens an initiation to us. @throws when a field does not decrypt */
export function consumeInitiation(us: Identity, message: Uint8Array): Consumed {
  const ephemeral = message.slice(8, 40);
  let h = hash(H0, us.publicKey);
  let [c] = kdf(1, C0, ephemeral);
  h = hash(h, ephemeral);
  let k: Uint8Array;
  [c, k] = kdf(2, c, dh(us.privateKey, ephemeral));
  const initiator = aeadOpen(k, 0n, message.subarray(40, 88), h);
  h = hash(h, message.subarray(40, 88));
  [c, k] = kdf(2, c, dh(us.privateKey, initiator));
  const timestamp = aeadOpen(k, 0n, message.subarray(88, 116), h);
  h = hash(h, message.subarray(88, 116));
  return { initiator, timestamp, sender: readU32(message, 4), ephemeral, state: { chain: c, hash: h } };
}

/** §5.4.3 */
export function createResponse(
  us: Identity, initiation: Consumed, ephemeral: Uint8Array, sender: number,
): { message: Uint8Array; keys: Keys } {
  const public_ = publicKeyOf(ephemeral);
  let { chain: c, hash: h } = initiation.state;
  [c] = kdf(1, c, public_);
  h = hash(h, public_);
  [c] = kdf(1, c, dh(ephemeral, initiation.ephemeral));
  [c] = kdf(1, c, dh(ephemeral, initiation.initiator));
  const [c2, t, k] = kdf(3, c, us.presharedKey ?? NO_PSK);
  h = hash(h, t);
  const nothing = aeadSeal(k, 0n, EMPTY, h);
  const message = concat(u32le(2), u32le(sender), u32le(initiation.sender), public_, nothing, new Uint8Array(32));
  addMacs(message, initiation.initiator);
  const [receive, send] = kdf(2, c2, EMPTY);
  return { message, keys: { send, receive, local: sender, remote: initiation.sender } };
}

/** Opens the response to our initiation. @throws when it does not decrypt */
export function consumeResponse(us: Identity, initiation: Initiation, message: Uint8Array): Keys {
  const ephemeral = message.subarray(12, 44);
  let { chain: c, hash: h } = initiation.state;
  [c] = kdf(1, c, ephemeral);
  h = hash(h, ephemeral);
  [c] = kdf(1, c, dh(initiation.ephemeral, ephemeral));
  [c] = kdf(1, c, dh(us.privateKey, ephemeral));
  const [c2, t, k] = kdf(3, c, us.presharedKey ?? NO_PSK);
  h = hash(h, t);
  aeadOpen(k, 0n, message.subarray(44, 60), h);
  const [send, receive] = kdf(2, c2, EMPTY);
  return { send, receive, local: initiation.sender, remote: readU32(message, 4) };
}

/** §5.4.6: the plaintext as it is given, no padding of our own. */
export function sealData(keys: Keys, counter: bigint, plain: Uint8Array): Uint8Array {
  const header = concat(u32le(4), u32le(keys.remote), new Uint8Array(8));
  new DataView(header.buffer).setBigUint64(8, counter, true);
  return concat(header, aeadSeal(keys.send, counter, plain));
}

/** @throws when the tag is wrong */
export function openData(keys: Keys, message: Uint8Array): { counter: bigint; plain: Uint8Array } {
  const counter = new DataView(message.buffer, message.byteOffset).getBigUint64(8, true);
  return { counter, plain: aeadOpen(keys.receive, counter, message.subarray(16)) };
}
