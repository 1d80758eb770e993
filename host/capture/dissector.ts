// Takes WireGuard messages apart, field by field, and decrypts what the key log allows: decode, and the lab's page.
//
// It stands beside a conversation and has the secrets of one side (or of both): our static private keys, the ephemeral
// private keys of our handshakes, the static public keys of peers, preshared keys. As an initiator it recognises its own
// ephemeral key; as a responder it needs its static key alone for the first message, and its ephemeral key from then on.
// Each Noise token is a labelled step with the chaining key, hash and key after it (whitepaper §5.4.2, §5.4.3).
//
// A second reading of the protocol, beside the core's: only the primitives are the core's own.

import {
  AUTHTAG_LEN, COOKIE_REPLY_COOKIE, COOKIE_REPLY_LEN, COOKIE_REPLY_NONCE, COOKIE_REPLY_RECEIVER, DATA_COUNTER,
  DATA_HEADER_LEN, DATA_KEEPALIVE_LEN, DATA_RECEIVER, INITIATION_EPHEMERAL, INITIATION_LEN, INITIATION_MAC1,
  INITIATION_MAC2, INITIATION_SENDER, INITIATION_STATIC, INITIATION_TIMESTAMP, KEY_LEN, MAC_LEN, MESSAGE_DATA,
  MESSAGE_HANDSHAKE_COOKIE, MESSAGE_HANDSHAKE_INITIATION, MESSAGE_HANDSHAKE_RESPONSE, RESPONSE_EPHEMERAL, RESPONSE_LEN,
  RESPONSE_MAC1, RESPONSE_MAC2, RESPONSE_NOTHING, RESPONSE_RECEIVER, RESPONSE_SENDER,
} from "../../assembly/protocol.ts";
import { formatIp } from "../ip.ts";
import { encodeBase64Key } from "../keys.ts";
import type { KeyLog } from "./keylog.ts";
import type { Primitives } from "./primitives.ts";

/** A run of bytes of a message with a meaning. */
export interface Field {
  name: string;
  /** bytes */
  offset: number;
  length: number;
  /** for people */
  value: string;
  /** whether it is what it must be; absent where nothing can be said */
  valid?: boolean;
}

/** A token of the handshake, and the state after it. Secret. */
export interface Step {
  /** "e", "es", "s", "ss", "{t}", "ee", "se", "psk", "{}" */
  token: string;
  what: string;
  chainingKey: Uint8Array;
  hash: Uint8Array;
  /** of the AEAD, where the token gives one */
  key?: Uint8Array;
}

export type MessageType = "initiation" | "response" | "cookie" | "data" | "keepalive" | "unknown";

export interface Dissection {
  type: MessageType;
  fields: Field[];
  steps: Step[];
  /** what was inside of a data message, with its padding; empty for a keepalive */
  inner?: Uint8Array;
  /** what could not be done, or is wrong */
  notes: string[];
}

interface Initiation {
  chainingKey: Uint8Array;
  hash: Uint8Array;
  ephemeral: Uint8Array;
  /** of the initiator; its private half is known if it is ours */
  staticPublic: Uint8Array;
  staticPrivate: Uint8Array | null;
  ephemeralPrivate: Uint8Array | null;
  presharedKey: Uint8Array | null;
  responder: Uint8Array;
}

interface Session {
  key: Uint8Array;
  from: "initiator" | "responder";
}

const text = new TextEncoder();
const CONSTRUCTION = text.encode("Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s");
const IDENTIFIER = text.encode("WireGuard v1 zx2c4 Jason@zx2c4.com");
const LABEL_MAC1 = text.encode("mac1----");
const LABEL_COOKIE = text.encode("cookie--");
const EMPTY = new Uint8Array(0);
/** Conversations remembered at most: a capture of a flood must not fill the memory. */
const MEMORY_MAX = 65_536;

export function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

/** The state of a handshake as its tokens are worked through. */
class Transcript {
  readonly #crypto: Primitives;
  readonly steps: Step[] = [];
  chainingKey: Uint8Array;
  hash: Uint8Array;
  key: Uint8Array = EMPTY;

  constructor(crypto: Primitives, chainingKey: Uint8Array, hash: Uint8Array) {
    this.#crypto = crypto;
    this.chainingKey = chainingKey;
    this.hash = hash;
  }

  note(token: string, what: string, withKey = false): void {
    const key = withKey ? this.key : undefined;
    this.steps.push({ token, what, chainingKey: this.chainingKey, hash: this.hash, key });
  }

  mixHash(bytes: Uint8Array): void {
    this.hash = this.#crypto.hash(this.hash, bytes);
  }

  ephemeral(publicKey: Uint8Array): void {
    this.mixHash(publicKey);
    [this.chainingKey] = this.#crypto.kdf(1, this.chainingKey, publicKey);
    this.note("e", "the ephemeral key is mixed into hash and chaining key");
  }

  dh(token: string, what: string, privateKey: Uint8Array, publicKey: Uint8Array): void {
    [this.chainingKey, this.key] = this.#crypto.kdf(2, this.chainingKey, this.#crypto.dh(privateKey, publicKey));
    this.note(token, what, true);
  }

  psk(presharedKey: Uint8Array): void {
    const [chainingKey, temporary, key] = this.#crypto.kdf(3, this.chainingKey, presharedKey);
    this.chainingKey = chainingKey;
    this.key = key;
    this.mixHash(temporary);
    this.note("psk", "the preshared key, or zeros, is mixed into all three", true);
  }

  decrypt(token: string, what: string, sealed: Uint8Array): Uint8Array | null {
    const plain = this.#crypto.open(this.key, 0n, sealed, this.hash);
    if (!plain) return null;
    this.mixHash(sealed);
    this.note(token, what);
    return plain;
  }
}

export class Dissector {
  readonly #crypto: Primitives;
  readonly #initialKey: Uint8Array;
  readonly #initialHash: Uint8Array;
  /** by hex public key */
  readonly #statics = new Map<string, Uint8Array>();
  readonly #ephemerals = new Map<string, { privateKey: Uint8Array; presharedKey: Uint8Array | null }>();
  /** static public keys that could be a responder's */
  readonly #publics = new Map<string, Uint8Array>();
  /** by the initiator's index */
  readonly #initiations = new Map<number, Initiation>();
  /** mac1 of the messages seen, by the index that a cookie reply names */
  readonly #mac1s = new Map<number, Uint8Array>();
  /** by receiver index */
  readonly #sessions = new Map<number, Session>();

  constructor(crypto: Primitives, keys?: KeyLog) {
    this.#crypto = crypto;
    this.#initialKey = crypto.hash(CONSTRUCTION);
    this.#initialHash = crypto.hash(this.#initialKey, IDENTIFIER);
    if (keys) this.addKeys(keys);
  }

  /** More keys, for messages that come after. */
  addKeys(keys: KeyLog): void {
    for (const privateKey of keys.staticPrivate) {
      const publicKey = this.#crypto.publicKey(privateKey);
      this.#statics.set(hex(publicKey), privateKey);
      this.#publics.set(hex(publicKey), publicKey);
    }
    for (const publicKey of keys.staticPublic) this.#publics.set(hex(publicKey), publicKey);
    for (const ephemeral of keys.ephemerals) this.#ephemerals.set(hex(this.#crypto.publicKey(ephemeral.privateKey)), ephemeral);
  }

  /** Takes one datagram apart. Never throws, whatever it is. */
  dissect(message: Uint8Array): Dissection {
    const result: Dissection = { type: "unknown", fields: [], steps: [], notes: [] };
    const view = new DataView(message.buffer, message.byteOffset, message.length);
    if (message.length < 4) {
      result.notes.push(`${message.length} bytes: too short for a message type`);
      return result;
    }
    const type = message[0];
    const lengths: Record<number, [MessageType, number]> = {
      [MESSAGE_HANDSHAKE_INITIATION]: ["initiation", INITIATION_LEN],
      [MESSAGE_HANDSHAKE_RESPONSE]: ["response", RESPONSE_LEN],
      [MESSAGE_HANDSHAKE_COOKIE]: ["cookie", COOKIE_REPLY_LEN],
      [MESSAGE_DATA]: [message.length === DATA_KEEPALIVE_LEN ? "keepalive" : "data", DATA_KEEPALIVE_LEN],
    };
    const known = lengths[type];
    result.fields.push(
      { name: "type", offset: 0, length: 1, value: known ? `${type} (${known[0]})` : String(type), valid: known !== undefined },
      { name: "reserved", offset: 1, length: 3, value: hex(message.subarray(1, 4)), valid: view.getUint32(0, true) === type },
    );
    if (!known || view.getUint32(0, true) !== type) {
      result.notes.push(known ? "the reserved bytes are not zero: every WireGuard drops it" : "no message type of WireGuard");
      return result;
    }
    const [name, length] = known;
    if (type === MESSAGE_DATA ? message.length < length : message.length !== length) {
      result.notes.push(`${message.length} bytes, and a message of this type has ${type === MESSAGE_DATA ? "at least " : ""}${length}`);
      return result;
    }
    result.type = name;
    if (type === MESSAGE_HANDSHAKE_INITIATION) this.#initiation(message, view, result);
    else if (type === MESSAGE_HANDSHAKE_RESPONSE) this.#response(message, view, result);
    else if (type === MESSAGE_HANDSHAKE_COOKIE) this.#cookie(message, view, result);
    else this.#data(message, view, result);
    return result;
  }

  // --- initiation, §5.4.2 -----------------------------------------------------------------------------------------------

  #initiation(message: Uint8Array, view: DataView, result: Dissection): void {
    const sender = view.getUint32(INITIATION_SENDER, true);
    const ephemeral = message.slice(INITIATION_EPHEMERAL, INITIATION_STATIC);
    const responder = this.#responderOf(message, INITIATION_MAC1);
    result.fields.push(
      index("sender", INITIATION_SENDER, sender),
      { name: "ephemeral", offset: INITIATION_EPHEMERAL, length: KEY_LEN, value: encodeBase64Key(ephemeral) },
      sealedField("static", INITIATION_STATIC, INITIATION_TIMESTAMP),
      sealedField("timestamp", INITIATION_TIMESTAMP, INITIATION_MAC1),
      ...this.#macFields(message, INITIATION_MAC1, INITIATION_MAC2, responder),
    );
    remember(this.#mac1s, sender, message.slice(INITIATION_MAC1, INITIATION_MAC2));
    if (!responder) return void result.notes.push("mac1 fits no static public key of the key log: for whom it is, nobody here knows");
    const transcript = new Transcript(this.#crypto, this.#initialKey, this.#crypto.hash(this.#initialHash, responder));
    result.steps = transcript.steps;
    transcript.note("", "the initial hash, with the responder's static key");
    transcript.ephemeral(ephemeral);
    const ours = this.#ephemerals.get(hex(ephemeral)) ?? null;
    const responderPrivate = this.#statics.get(hex(responder)) ?? null;
    const es = "DH of the initiator's ephemeral and the responder's static key";
    if (ours) transcript.dh("es", es, ours.privateKey, responder);
    else if (responderPrivate) transcript.dh("es", es, responderPrivate, ephemeral);
    else return void result.notes.push("neither the ephemeral key nor the responder's static private key is in the key log");
    const staticPublic = transcript.decrypt("s", "the initiator's static key, decrypted", message.slice(INITIATION_STATIC, INITIATION_TIMESTAMP));
    settle(result, "static", staticPublic && encodeBase64Key(staticPublic));
    if (!staticPublic) return;
    const staticPrivate = this.#statics.get(hex(staticPublic)) ?? null;
    const ss = "DH of both static keys";
    if (responderPrivate) transcript.dh("ss", ss, responderPrivate, staticPublic);
    else if (staticPrivate) transcript.dh("ss", ss, staticPrivate, responder);
    else return void result.notes.push("neither static private key is in the key log");
    const timestamp = transcript.decrypt("{t}", "the TAI64N timestamp, decrypted", message.slice(INITIATION_TIMESTAMP, INITIATION_MAC1));
    settle(result, "timestamp", timestamp && formatTai64n(timestamp));
    if (!timestamp) return;
    const { chainingKey, hash } = transcript;
    remember(this.#initiations, sender, {
      chainingKey, hash, ephemeral, staticPublic, staticPrivate, responder,
      ephemeralPrivate: ours?.privateKey ?? null, presharedKey: ours?.presharedKey ?? null,
    });
  }

  // --- response, §5.4.3 -------------------------------------------------------------------------------------------------

  #response(message: Uint8Array, view: DataView, result: Dissection): void {
    const sender = view.getUint32(RESPONSE_SENDER, true);
    const receiver = view.getUint32(RESPONSE_RECEIVER, true);
    const ephemeral = message.slice(RESPONSE_EPHEMERAL, RESPONSE_NOTHING);
    const initiation = this.#initiations.get(receiver);
    const initiator = initiation?.staticPublic ?? this.#responderOf(message, RESPONSE_MAC1);
    result.fields.push(
      index("sender", RESPONSE_SENDER, sender),
      index("receiver", RESPONSE_RECEIVER, receiver),
      { name: "ephemeral", offset: RESPONSE_EPHEMERAL, length: KEY_LEN, value: encodeBase64Key(ephemeral) },
      sealedField("nothing", RESPONSE_NOTHING, RESPONSE_MAC1),
      ...this.#macFields(message, RESPONSE_MAC1, RESPONSE_MAC2, initiator),
    );
    remember(this.#mac1s, sender, message.slice(RESPONSE_MAC1, RESPONSE_MAC2));
    if (!initiation) return void result.notes.push("the initiation that it answers was not seen, or not decrypted");
    const ours = this.#ephemerals.get(hex(ephemeral)) ?? null;
    const { ephemeralPrivate, staticPrivate } = initiation;
    const transcript = new Transcript(this.#crypto, initiation.chainingKey, initiation.hash);
    result.steps = transcript.steps;
    transcript.ephemeral(ephemeral);
    const ee = "DH of both ephemeral keys";
    const se = "DH of the initiator's static and the responder's ephemeral key";
    if (ours) {
      transcript.dh("ee", ee, ours.privateKey, initiation.ephemeral);
      transcript.dh("se", se, ours.privateKey, initiation.staticPublic);
    } else if (ephemeralPrivate && staticPrivate) {
      transcript.dh("ee", ee, ephemeralPrivate, ephemeral);
      transcript.dh("se", se, staticPrivate, ephemeral);
    } else {
      return void result.notes.push("no ephemeral private key of this handshake is in the key log");
    }
    transcript.psk(ours?.presharedKey ?? initiation.presharedKey ?? new Uint8Array(KEY_LEN));
    const nothing = transcript.decrypt("{}", "an empty text, whose tag proves all of the above", message.slice(RESPONSE_NOTHING, RESPONSE_MAC1));
    settle(result, "nothing", nothing && "(empty)");
    if (!nothing) return void result.notes.push("another preshared key, or another handshake");
    const [sending, receiving] = this.#crypto.kdf(2, transcript.chainingKey, EMPTY);
    transcript.key = sending;
    transcript.note("split", "the initiator's sending key", true);
    transcript.key = receiving;
    transcript.note("split", "the responder's sending key", true);
    remember(this.#sessions, sender, { key: sending, from: "initiator" });
    remember(this.#sessions, receiver, { key: receiving, from: "responder" });
  }

  // --- cookie reply, §5.4.7 ----------------------------------------------------------------------------------------------

  #cookie(message: Uint8Array, view: DataView, result: Dissection): void {
    const receiver = view.getUint32(COOKIE_REPLY_RECEIVER, true);
    result.fields.push(
      index("receiver", COOKIE_REPLY_RECEIVER, receiver),
      { name: "nonce", offset: COOKIE_REPLY_NONCE, length: COOKIE_REPLY_COOKIE - COOKIE_REPLY_NONCE, value: hex(message.subarray(COOKIE_REPLY_NONCE, COOKIE_REPLY_COOKIE)) },
      sealedField("cookie", COOKIE_REPLY_COOKIE, COOKIE_REPLY_LEN),
    );
    const mac1 = this.#mac1s.get(receiver);
    if (!mac1) return void result.notes.push("the message that it answers was not seen");
    const nonce = message.slice(COOKIE_REPLY_NONCE, COOKIE_REPLY_COOKIE);
    // Sealed under the public key of who is under load: no secret is needed.
    for (const publicKey of this.#publics.values()) {
      const cookie = this.#crypto.xopen(this.#crypto.hash(LABEL_COOKIE, publicKey), nonce, message.slice(COOKIE_REPLY_COOKIE), mac1);
      if (cookie) return settle(result, "cookie", hex(cookie));
    }
    result.notes.push("no static public key of the key log opens it");
  }

  // --- transport data, §5.4.6 ---------------------------------------------------------------------------------------------

  #data(message: Uint8Array, view: DataView, result: Dissection): void {
    const receiver = view.getUint32(DATA_RECEIVER, true);
    const counter = view.getBigUint64(DATA_COUNTER, true);
    const tag = message.length - AUTHTAG_LEN;
    result.fields.push(index("receiver", DATA_RECEIVER, receiver), { name: "counter", offset: DATA_COUNTER, length: 8, value: String(counter) });
    if (tag > DATA_HEADER_LEN) result.fields.push({ name: "packet", offset: DATA_HEADER_LEN, length: tag - DATA_HEADER_LEN, value: "sealed" });
    result.fields.push({ name: "tag", offset: tag, length: AUTHTAG_LEN, value: hex(message.subarray(tag)) });
    const session = this.#sessions.get(receiver);
    if (!session) return void result.notes.push("the handshake of this session was not seen, or not decrypted");
    const inner = this.#crypto.open(session.key, counter, message.slice(DATA_HEADER_LEN), EMPTY);
    const field = result.fields.find(({ name }) => name === "tag")!;
    field.valid = inner !== null;
    if (!inner) return void result.notes.push("the tag is wrong: a changed byte, or another key");
    result.inner = inner;
    if (inner.length > 0) settle(result, "packet", `${inner.length} bytes from the ${session.from}, ${describePacket(inner)}`);
  }

  // --- macs, §5.4.4 ----------------------------------------------------------------------------------------------------------

  #mac1(message: Uint8Array, at: number, receiver: Uint8Array): Uint8Array {
    return this.#crypto.mac(this.#crypto.hash(LABEL_MAC1, receiver), message.slice(0, at));
  }

  /** The known static public key that mac1 was made for. */
  #responderOf(message: Uint8Array, at: number): Uint8Array | null {
    const mac1 = message.subarray(at, at + MAC_LEN);
    for (const publicKey of this.#publics.values()) if (same(this.#mac1(message, at, publicKey), mac1)) return publicKey;
    return null;
  }

  #macFields(message: Uint8Array, mac1At: number, mac2At: number, receiver: Uint8Array | null): Field[] {
    const mac1 = message.subarray(mac1At, mac2At);
    const mac2 = message.subarray(mac2At, mac2At + MAC_LEN);
    const valid = receiver ? same(this.#mac1(message, mac1At, receiver), mac1) : undefined;
    const none = mac2.every((byte) => byte === 0);
    return [
      { name: "mac1", offset: mac1At, length: MAC_LEN, value: hex(mac1), valid },
      { name: "mac2", offset: mac2At, length: MAC_LEN, value: none ? "none (no cookie)" : hex(mac2) },
    ];
  }
}

function index(name: string, offset: number, value: number): Field {
  return { name, offset, length: 4, value: `0x${value.toString(16).padStart(8, "0")}` };
}

function sealedField(name: string, from: number, to: number): Field {
  return { name, offset: from, length: to - from, value: "sealed" };
}

/** Says what a sealed field held, or that it does not open. */
function settle(result: Dissection, name: string, value: string | null): void {
  const field = result.fields.find((field) => field.name === name)!;
  field.valid = value !== null;
  if (value !== null) field.value = value;
  else result.notes.push(`${name} does not decrypt`);
}

function remember<T>(map: Map<number, T>, key: number, value: T): void {
  map.delete(key);
  map.set(key, value);
  if (map.size > MEMORY_MAX) map.delete(map.keys().next().value!);
}

/** TAI64N, https://cr.yp.to/libtai/tai64.html, as the time of day without leap seconds that WireGuard puts there. */
function formatTai64n(stamp: Uint8Array): string {
  const view = new DataView(stamp.buffer, stamp.byteOffset);
  const seconds = view.getBigUint64(0) - 0x400000000000000an;
  const millis = Number(seconds) * 1000;
  if (seconds < 0n || millis > 8.64e15) return `TAI64N ${hex(stamp)}`;
  return `${new Date(millis).toISOString().slice(0, 19)}.${String(view.getUint32(8)).padStart(9, "0")}Z`;
}

const PROTOCOLS: Record<number, string> = { 1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6" };

/** "IPv4 10.0.0.1 > 10.0.0.2 ICMP, 84 bytes" */
function describePacket(packet: Uint8Array): string {
  const view = new DataView(packet.buffer, packet.byteOffset, packet.length);
  const version = packet[0] >> 4;
  if (version === 4 && packet.length >= 20) {
    const [source, destination] = [packet.subarray(12, 16), packet.subarray(16, 20)].map((ip) => ip.join("."));
    return `IPv4 ${source} > ${destination} ${PROTOCOLS[packet[9]] ?? packet[9]}, ${view.getUint16(2)} bytes`;
  }
  if (version === 6 && packet.length >= 40) {
    const [source, destination] = [packet.slice(8, 24), packet.slice(24, 40)].map(formatIp);
    return `IPv6 ${source} > ${destination} ${PROTOCOLS[packet[6]] ?? packet[6]}, ${view.getUint16(4) + 40} bytes`;
  }
  return "not an IP packet";
}
