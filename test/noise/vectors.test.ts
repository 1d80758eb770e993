// The public Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s vector through the core's own handshake code, at both ends: every
// message byte for byte, payloads, handshake hash, transport messages. The paper's twin (host/conform/noise.ts) runs
// through it too, because the other tests of this folder take it for the truth.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { suite } from "uvu";
import {
  DEVICE_PUBLIC_KEY, DROP_BAD_HANDSHAKE, DROP_NONE, THREADS_BASE, THREAD_MAX, THREAD_NOISE, THREAD_NOISE_SIZE,
  THREAD_SIZE,
} from "../../assembly/abi.ts";
import { builds, hex, loadTest, type TestModule, unhex } from "../helpers/wasm.ts";
import {
  AEAD, type Bytes, concat, DH_PUBLIC, initiationBody, OPEN, openInitiation, openResponse, responseBody,
} from "../../host/conform/noise.ts";

interface NoiseExports {
  HANDSHAKE_CREATED_INITIATION: { value: number };
  HANDSHAKE_CONSUMED_INITIATION: { value: number };
  HANDSHAKE_CREATED_RESPONSE: { value: number };
  HANDSHAKE_CONSUMED_RESPONSE: { value: number };
  SCRATCH_PAYLOAD: { value: number };
  SCRATCH_STATIC: { value: number };
  handshakeLen(): number;
  handshakeHash(handshake: number): number;
  noiseInit(prologue: number, len: number): void;
  setIdentity(key: number): void;
  precomputeStaticStatic(handshake: number, remote: number, hasIdentity: number): void;
  createInitiation(
    dst: number, handshake: number, remote: number, ephemeral: number, payload: number, len: number,
  ): number;
  consumeInitiationStatic(src: number): number;
  consumeInitiationPayload(src: number, payloadLen: number, handshake: number): number;
  commitInitiation(handshake: number, remoteIndex: number): void;
  createResponse(
    dst: number, handshake: number, remote: number, psk: number, ephemeral: number, payload: number, len: number,
  ): number;
  consumeResponse(src: number, payloadLen: number, handshake: number, psk: number, remoteIndex: number): number;
  deriveKeys(handshake: number, sending: number, receiving: number): void;
  wipeScratch(): void;
  aeadSeal(dst: number, src: number, len: number, ad: number, adLen: number, key: number, counter: bigint): void;
  aeadOpen(dst: number, src: number, len: number, ad: number, adLen: number, key: number, counter: bigint): number;
}

const file = JSON.parse(readFileSync(new URL("../vectors/noise_ikpsk2.json", import.meta.url), "utf8"));
const vector = file.vectors[0];
const messages: { payload: Bytes; ciphertext: Bytes }[] = vector.messages.map((message: Record<string, string>) => ({
  payload: unhex(message.payload),
  ciphertext: unhex(message.ciphertext),
}));
const [first, second, ...transport] = messages;
const prologue = unhex(vector.init_prologue);
const psk = unhex(vector.init_psks[0]);
const initiatorKey = unhex(vector.init_static);
const responderKey = unhex(vector.resp_static);

// Places of the test above the thread blocks.
const END = THREADS_BASE + THREAD_SIZE * THREAD_MAX;
const HANDSHAKE = END;
const KEY = END + 0x400;
const REMOTE = END + 0x440;
const PSK = END + 0x480;
const EPHEMERAL = END + 0x4c0;
const SENDING = END + 0x500;
const RECEIVING = END + 0x540;
const PAYLOAD = END + 0x1003;
const MESSAGE = END + 0x2005;
const REMOTE_INDEX = 0x89abcdef;

type Noise = TestModule<NoiseExports>;
const put = (core: Noise, at: number, bytes: Bytes): void => core.u8.set(bytes, at);
const get = (core: Noise, at: number, len: number): Bytes => core.u8.slice(at, at + len);
const state = (core: Noise): number => core.view.getUint32(HANDSHAKE, true);
const handshake = (core: Noise): string => hex(get(core, HANDSHAKE, core.exports.handshakeLen()));
const hash = (core: Noise): string => hex(get(core, core.exports.handshakeHash(HANDSHAKE), 32));

/** An end of the vector in a memory of its own. */
function end(build: string, own: string, remote: Bytes, ephemeral: string): Noise {
  const core = loadTest<NoiseExports>("noise", build);
  put(core, MESSAGE, prologue);
  core.exports.noiseInit(MESSAGE, prologue.length);
  put(core, KEY, unhex(own));
  core.exports.setIdentity(KEY);
  put(core, REMOTE, remote);
  put(core, PSK, psk);
  put(core, EPHEMERAL, unhex(ephemeral));
  core.exports.precomputeStaticStatic(HANDSHAKE, REMOTE, 1);
  return core;
}

const initiator = (build: string) =>
  end(build, vector.init_static, unhex(vector.init_remote_static), vector.init_ephemeral);
const responder = (build: string) =>
  end(build, vector.resp_static, DH_PUBLIC(initiatorKey), vector.resp_ephemeral);

function createFirst(core: Noise): boolean {
  put(core, PAYLOAD, first.payload);
  return !!core.exports.createInitiation(MESSAGE, HANDSHAKE, REMOTE, EPHEMERAL, PAYLOAD, first.payload.length);
}

/** @returns the drop reason, with the payload left in the scratch when there is none */
function consumeFirst(core: Noise, message: Bytes): number {
  put(core, MESSAGE, message);
  const reason = core.exports.consumeInitiationStatic(MESSAGE);
  if (reason !== DROP_NONE) return reason;
  return core.exports.consumeInitiationPayload(MESSAGE, first.payload.length, HANDSHAKE);
}

function consumeSecond(core: Noise, message: Bytes): number {
  put(core, MESSAGE, message);
  return core.exports.consumeResponse(MESSAGE, second.payload.length, HANDSHAKE, PSK, REMOTE_INDEX);
}

/** Seals what this end sends and opens what it receives, in the vector's order: the initiator begins. */
function checkTransport(core: Noise, isInitiator: boolean): void {
  const counters = { sent: 0n, received: 0n };
  transport.forEach(({ payload, ciphertext }, i) => {
    if ((i % 2 === 0) === isInitiator) {
      put(core, PAYLOAD, payload);
      core.exports.aeadSeal(MESSAGE, PAYLOAD, payload.length, 0, 0, SENDING, counters.sent++);
      assert.equal(hex(get(core, MESSAGE, ciphertext.length)), hex(ciphertext));
    } else {
      put(core, MESSAGE, ciphertext);
      assert.ok(core.exports.aeadOpen(PAYLOAD, MESSAGE, ciphertext.length, 0, 0, RECEIVING, counters.received++));
      assert.equal(hex(get(core, PAYLOAD, payload.length)), hex(payload));
    }
  });
  assert.deepEqual(counters, { sent: 2n, received: 2n });
}

/** Each byte of `message` once with a bit of it flipped. */
function* spoiled(message: Bytes): Generator<Bytes> {
  for (let i = 0; i < message.length; i++) {
    const copy = message.slice();
    copy[i] ^= 1 << i % 7; // never bit 255 of a point: X25519 ignores it
    yield copy;
  }
}

const scratch = (core: Noise): Bytes => get(core, THREADS_BASE + THREAD_NOISE, THREAD_NOISE_SIZE);

for (const build of builds) {
  const test = suite(`Noise_IKpsk2 vector (${build})`);

  test("as initiator", () => {
    const core = initiator(build);
    assert.equal(hex(get(core, DEVICE_PUBLIC_KEY, 32)), hex(DH_PUBLIC(initiatorKey)));
    assert.ok(createFirst(core));
    assert.equal(hex(get(core, MESSAGE, first.ciphertext.length)), hex(first.ciphertext));
    assert.equal(state(core), core.exports.HANDSHAKE_CREATED_INITIATION.value);
    assert.equal(consumeSecond(core, second.ciphertext), DROP_NONE);
    assert.equal(state(core), core.exports.HANDSHAKE_CONSUMED_RESPONSE.value);
    assert.equal(hash(core), vector.handshake_hash);
    core.exports.deriveKeys(HANDSHAKE, SENDING, RECEIVING);
    checkTransport(core, true);
  });

  test("as responder", () => {
    const core = responder(build);
    assert.equal(consumeFirst(core, first.ciphertext), DROP_NONE);
    const at = (name: "SCRATCH_PAYLOAD" | "SCRATCH_STATIC") => THREADS_BASE + core.exports[name].value;
    assert.equal(hex(get(core, at("SCRATCH_STATIC"), 32)), hex(DH_PUBLIC(initiatorKey)));
    assert.equal(hex(get(core, at("SCRATCH_PAYLOAD"), first.payload.length)), hex(first.payload));
    core.exports.commitInitiation(HANDSHAKE, REMOTE_INDEX);
    assert.equal(state(core), core.exports.HANDSHAKE_CONSUMED_INITIATION.value);
    put(core, PAYLOAD, second.payload);
    const { length } = second.payload;
    assert.ok(core.exports.createResponse(MESSAGE, HANDSHAKE, REMOTE, PSK, EPHEMERAL, PAYLOAD, length));
    assert.equal(hex(get(core, MESSAGE, second.ciphertext.length)), hex(second.ciphertext));
    assert.equal(state(core), core.exports.HANDSHAKE_CREATED_RESPONSE.value);
    assert.equal(hash(core), vector.handshake_hash);
    core.exports.deriveKeys(HANDSHAKE, SENDING, RECEIVING);
    checkTransport(core, false);
  });

  test("nothing of a handshake is left behind, but the secret of the static keys", () => {
    for (const isInitiator of [true, false]) {
      const core = isInitiator ? initiator(build) : responder(build);
      const before = handshake(core);
      if (isInitiator) {
        createFirst(core);
        assert.ok(scratch(core).every((byte) => byte === 0), "scratch after createInitiation");
        consumeSecond(core, second.ciphertext);
      } else {
        consumeFirst(core, first.ciphertext);
        core.exports.commitInitiation(HANDSHAKE, REMOTE_INDEX);
        core.exports.createResponse(MESSAGE, HANDSHAKE, REMOTE, PSK, EPHEMERAL, PAYLOAD, second.payload.length);
      }
      assert.ok(scratch(core).every((byte) => byte === 0), "scratch after the second message");
      core.exports.deriveKeys(HANDSHAKE, SENDING, RECEIVING);
      assert.equal(handshake(core), before);
      assert.ok(scratch(core).every((byte) => byte === 0), "scratch after deriveKeys");
    }
  });

  test("a first message with any bit flipped is refused and changes nothing", () => {
    const core = responder(build);
    const before = handshake(core);
    for (const message of spoiled(first.ciphertext)) {
      assert.equal(consumeFirst(core, message), DROP_BAD_HANDSHAKE);
      assert.equal(handshake(core), before);
      core.exports.wipeScratch();
    }
    assert.equal(consumeFirst(core, first.ciphertext), DROP_NONE);
  });

  test("a second message with any bit flipped is refused and changes nothing", () => {
    const core = initiator(build);
    createFirst(core);
    const before = handshake(core);
    for (const message of spoiled(second.ciphertext)) {
      assert.equal(consumeSecond(core, message), DROP_BAD_HANDSHAKE);
      assert.equal(handshake(core), before);
      assert.ok(scratch(core).every((byte) => byte === 0));
    }
    assert.equal(consumeSecond(core, second.ciphertext), DROP_NONE);
  });

  test("another preshared key, static key or prologue is refused", () => {
    const core = initiator(build);
    createFirst(core);
    const before = handshake(core);
    put(core, PSK, concat(psk.slice(0, 31), Uint8Array.of(psk[31] ^ 1)));
    assert.equal(consumeSecond(core, second.ciphertext), DROP_BAD_HANDSHAKE);
    assert.equal(handshake(core), before);

    const stranger = responder(build);
    put(stranger, REMOTE, DH_PUBLIC(responderKey));
    stranger.exports.precomputeStaticStatic(HANDSHAKE, REMOTE, 1);
    assert.equal(consumeFirst(stranger, first.ciphertext), DROP_BAD_HANDSHAKE);

    const foreign = responder(build);
    foreign.exports.noiseInit(MESSAGE, 0);
    assert.equal(consumeFirst(foreign, first.ciphertext), DROP_BAD_HANDSHAKE);
  });

  test("points of low order are refused at every place", () => {
    const low = new Uint8Array(32); // 0: of order 2; x25519 itself is held to every one of them elsewhere
    const remote = initiator(build);
    put(remote, REMOTE, low);
    remote.exports.precomputeStaticStatic(HANDSHAKE, REMOTE, 1);
    const before = handshake(remote);
    assert.ok(!createFirst(remote), "a static key to send to");
    assert.equal(handshake(remote), before);

    const core = responder(build);
    assert.equal(consumeFirst(core, concat(low, first.ciphertext.slice(32))), DROP_BAD_HANDSHAKE);

    const answered = initiator(build);
    createFirst(answered);
    // A response that is right but for its ephemeral being 0, which only the check can refuse.
    const { state } = initiationBody(
      { priv: initiatorKey, remote: DH_PUBLIC(responderKey), prologue }, unhex(vector.init_ephemeral), first.payload,
    );
    const zero = new Uint8Array(32);
    state.mixKey(zero);
    state.mixHash(zero);
    state.mixDh(zero);
    state.mixDh(zero);
    const forged = concat(zero, state.seal(state.mixPsk(psk), second.payload));
    assert.equal(consumeSecond(answered, forged), DROP_BAD_HANDSHAKE);
  });

  test.run();
}

const twin = suite("the paper's twin");

twin("Noise_IKpsk2 vector at both ends", () => {
  const remote = DH_PUBLIC(responderKey);
  const made = initiationBody({ priv: initiatorKey, remote, prologue }, unhex(vector.init_ephemeral), first.payload);
  assert.equal(hex(made.body), hex(first.ciphertext));
  const opened = openInitiation(responderKey, first.ciphertext, prologue);
  assert.equal(hex(opened.remote), hex(DH_PUBLIC(initiatorKey)));
  assert.equal(hex(opened.payload), hex(first.payload));
  const ephemeral = unhex(vector.resp_ephemeral);
  const body = responseBody(opened.state, ephemeral, opened.ephemeral, opened.remote, psk, second.payload);
  assert.equal(hex(body), hex(second.ciphertext));
  const payload = openResponse(made.state, initiatorKey, unhex(vector.init_ephemeral), psk, second.ciphertext);
  assert.equal(hex(payload), hex(second.payload));
  for (const { state } of [made, opened]) {
    assert.equal(hex(state.H), vector.handshake_hash);
    const keys = state.split();
    transport.forEach(({ payload, ciphertext }, i) => {
      const counter = BigInt(i >> 1);
      assert.equal(hex(AEAD(keys[i % 2], counter, payload, new Uint8Array(0))), hex(ciphertext));
      assert.equal(hex(OPEN(keys[i % 2], counter, ciphertext, new Uint8Array(0))), hex(payload));
    });
  }
});

twin.run();
