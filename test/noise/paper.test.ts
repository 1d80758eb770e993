// The device against the whitepaper: the other end is host/conform/noise.ts, which shares no line and no constant with
// the core.
import assert from "node:assert/strict";
import { suite } from "uvu";
import {
  DROP_BAD_COOKIE, DROP_BAD_HANDSHAKE, DROP_BAD_MAC1, DROP_BAD_MAC2, DROP_OLD_TIMESTAMP, EVENT_COOKIE_RECEIVED,
  EVENT_COOKIE_SENT,
} from "../../assembly/abi.ts";
import { endpoint4, MainThread, packet4, WALL_SEC } from "../helpers/threads.ts";
import { builds, hex } from "../helpers/wasm.ts";
import {
  type Bytes, concat, cookieReply, dataMessage, DH_PUBLIC, equal, initiationBody, initiationMessage, mac1Is, mac2For,
  NO_PSK, openCookie, openData, openInitiation, openResponse, readLe32, readLe64, responseBody, responseMessage, tai64n,
  withMacs,
} from "../../host/conform/noise.ts";

const SOURCE = endpoint4(7, 4000);
const OURS = [10, 0, 0, 1];
const THEIRS = [10, 0, 0, 2];
const ECHO = packet4(THEIRS, OURS, 61);
const REPLY = packet4(OURS, THEIRS, 90);
const zero = (bytes: Bytes): boolean => bytes.every((byte) => byte === 0);

/** A device of ours with one peer, whose end is the paper. */
class Pair {
  readonly device: MainThread;
  readonly priv: Bytes;
  readonly pub: Bytes;
  readonly devicePub: Bytes;
  readonly psk: Bytes;
  readonly peer: number;

  constructor(build: string, withPsk: boolean, withEndpoint: boolean) {
    this.device = new MainThread(build, { maxPeers: 4, maxNodes: 16 }, withPsk ? 11 : 12);
    this.priv = this.device.key();
    this.pub = DH_PUBLIC(this.priv);
    const devicePriv = this.device.key();
    this.devicePub = this.device.setPrivateKey(devicePriv);
    assert.equal(hex(this.devicePub), hex(DH_PUBLIC(devicePriv)));
    this.peer = this.device.addPeer(this.pub);
    this.psk = withPsk ? this.device.key() : NO_PSK;
    if (withPsk) this.device.setPsk(this.peer, this.psk);
    assert.equal(this.device.allow(this.peer, THEIRS, 32), 0);
    if (withEndpoint) this.device.setEndpoint(this.peer, SOURCE);
    this.device.core.exports.deviceUp();
    this.device.service();
  }

  /** An initiation of the paper's, and what is needed to take the answer. */
  initiate(sender: number, second: number, cookie?: Bytes) {
    const ephemeral = this.device.key();
    const end = { priv: this.priv, remote: this.devicePub };
    const { state, body } = initiationBody(end, ephemeral, tai64n(WALL_SEC + second, 0));
    return { ephemeral, state, message: withMacs(initiationMessage(sender, body), this.devicePub, cookie) };
  }

  /** Takes the core's response. @returns its index and the two keys, ours first */
  take(made: { state: Parameters<typeof openResponse>[0]; ephemeral: Bytes }, response: Bytes, sender: number) {
    assert.equal(response.length, 92);
    assert.equal(readLe32(response, 0), 2);
    assert.equal(readLe32(response, 8), sender >>> 0);
    assert.ok(mac1Is(response, this.pub));
    assert.equal(openResponse(made.state, this.priv, made.ephemeral, this.psk, response.slice(12, 60)).length, 0);
    const [sending, receiving] = made.state.split();
    return { index: readLe32(response, 4), sending, receiving };
  }

  /** Answers the core's initiation. */
  answer(message: Bytes, sender: number) {
    const opened = openInitiation(this.priv, message.slice(8, 116));
    assert.equal(hex(opened.remote), hex(this.devicePub));
    const { state, ephemeral, remote } = opened;
    const body = responseBody(state, this.device.key(), ephemeral, remote, this.psk, new Uint8Array(0));
    const [receiving, sending] = opened.state.split();
    const index = readLe32(message, 4);
    const response = withMacs(responseMessage(sender, index, body), this.devicePub);
    return { index, sending, receiving, payload: opened.payload, message: response };
  }

  /** A packet each way under the keys of the paper's end. */
  exchange(
    session: { index: number; sending: Bytes; receiving: Bytes },
    sender: number,
    next: { sent: bigint; received: bigint },
  ): void {
    const delivered = this.device.receive([dataMessage(session.index, next.sent, session.sending, ECHO)], SOURCE);
    assert.deepEqual(delivered.map(({ packet, peer }) => [hex(packet), peer]), [[hex(ECHO), this.peer]]);
    this.device.service();
    const [out, ...more] = this.device.send([REPLY]);
    assert.equal(more.length, 0);
    assert.equal(readLe32(out.bytes, 0), 4);
    assert.equal(readLe32(out.bytes, 4), sender >>> 0);
    assert.equal(readLe64(out.bytes, 8), next.received);
    assert.equal(out.bytes.length, 16 + 96 + 16); // 90 bytes, padded
    const plain = openData(out.bytes, session.receiving);
    assert.equal(hex(plain.slice(0, 90)), hex(REPLY));
    assert.ok(zero(plain.slice(90)));
    assert.equal(hex(out.endpoint), hex(SOURCE));
  }

  /** Puts the device under load: junk in the queue behind what is there. */
  flood(): void {
    const junk = concat(Uint8Array.of(1, 0, 0, 0), new Uint8Array(144));
    const run = concat(...Array.from({ length: 300 }, () => junk));
    for (let i = 0; i < 2; i++) this.device.receiveRun(run, 148, endpoint4(66, 6));
  }
}

for (const build of builds) {
  const test = suite(`against the paper (${build})`);

  for (const withPsk of [false, true]) {
    const name = withPsk ? "with a preshared key" : "without a preshared key";

    test(`§5.4.2, 5.4.3: the core as responder, ${name}`, () => {
      const pair = new Pair(build, withPsk, false);
      const made = pair.initiate(0xc0ffee01, 1);
      pair.device.receive([made.message], SOURCE);
      const [response, ...more] = pair.device.service();
      assert.equal(more.length, 0);
      assert.equal(hex(response.endpoint), hex(SOURCE));
      assert.ok(zero(response.bytes.slice(-16)), "mac2 without a cookie");
      const session = pair.take(made, response.bytes, 0xc0ffee01);
      // §5.4.5: until the first packet under it, the responder does not send under the new session.
      assert.equal(pair.device.send([REPLY]).length, 0);
      const delivered = pair.device.receive([dataMessage(session.index, 0n, session.sending, ECHO)], SOURCE);
      assert.equal(hex(delivered[0].packet), hex(ECHO));
      const [staged, ...others] = pair.device.service();
      assert.equal(others.length, 0);
      assert.equal(hex(openData(staged.bytes, session.receiving).slice(0, 90)), hex(REPLY));
      pair.exchange(session, 0xc0ffee01, { sent: 1n, received: 1n });
    });

    test(`§5.4.2, 5.4.3: the core as initiator, ${name}`, () => {
      const pair = new Pair(build, withPsk, true);
      assert.equal(pair.device.send([REPLY]).length, 0);
      const [initiation, ...more] = pair.device.service();
      assert.equal(more.length, 0);
      assert.equal(initiation.bytes.length, 148);
      assert.equal(readLe32(initiation.bytes, 0), 1);
      assert.ok(mac1Is(initiation.bytes, pair.pub));
      assert.ok(zero(initiation.bytes.slice(-16)), "mac2 without a cookie");
      const answer = pair.answer(initiation.bytes, 0x5eed0002);
      // The stamp is of now, and no finer than 2^24 ns.
      assert.equal(hex(answer.payload), hex(tai64n(WALL_SEC + 1, 0)));
      pair.device.receive([answer.message], SOURCE);
      const [staged, ...others] = pair.device.service();
      assert.equal(others.length, 0);
      assert.equal(readLe32(staged.bytes, 4), 0x5eed0002);
      assert.equal(readLe64(staged.bytes, 8), 0n);
      assert.equal(hex(openData(staged.bytes, answer.receiving).slice(0, 90)), hex(REPLY));
      pair.exchange(answer, 0x5eed0002, { sent: 0n, received: 1n });
    });

    test(`a wrong preshared key, ${name}`, () => {
      const pair = new Pair(build, withPsk, true);
      pair.device.send([REPLY]);
      const [initiation] = pair.device.service();
      const opened = openInitiation(pair.priv, initiation.bytes.slice(8, 116));
      const wrong = pair.psk.slice();
      wrong[0] ^= 1;
      const { state, ephemeral, remote } = opened;
      const body = responseBody(state, pair.device.key(), ephemeral, remote, wrong, new Uint8Array(0));
      pair.device.receive([withMacs(responseMessage(9, readLe32(initiation.bytes, 4), body), pair.devicePub)], SOURCE);
      assert.equal(pair.device.service().length, 0);
      assert.equal(pair.device.drops(DROP_BAD_HANDSHAKE), 1);
      // The handshake goes on: the right answer is still taken.
      pair.device.receive([pair.answer(initiation.bytes, 10).message], SOURCE);
      assert.equal(pair.device.service().length, 1);
    });
  }

  test("an initiator that is answered with nothing to say sends an empty packet", () => {
    const pair = new Pair(build, true, true);
    pair.device.core.exports.peerHandshake(pair.peer);
    const [initiation] = pair.device.service();
    const answer = pair.answer(initiation.bytes, 3);
    pair.device.receive([answer.message], SOURCE);
    const [keepalive, ...more] = pair.device.service();
    assert.equal(more.length, 0);
    assert.equal(keepalive.bytes.length, 32);
    assert.equal(openData(keepalive.bytes, answer.receiving).length, 0);
  });

  test("§5.1: a stamp not later than the last is refused, whatever else is right", () => {
    const pair = new Pair(build, false, false);
    const first = pair.initiate(1, 10);
    pair.device.receive([first.message], SOURCE);
    assert.equal(pair.device.service().length, 1);
    pair.device.advance(1000);
    pair.device.receive([first.message, pair.initiate(2, 10).message, pair.initiate(3, 9).message], SOURCE);
    assert.equal(pair.device.service().length, 0);
    assert.equal(pair.device.drops(DROP_OLD_TIMESTAMP), 3);
    pair.device.receive([pair.initiate(4, 11).message], SOURCE);
    assert.equal(pair.device.service().length, 1);
  });

  test("§5.4.4: a wrong mac1 gets no answer at all, not even under load", () => {
    const pair = new Pair(build, false, false);
    const { message } = pair.initiate(1, 1);
    for (const at of [0, 15]) {
      const copy = message.slice();
      copy[116 + at] ^= 0x80;
      pair.device.receive([copy], SOURCE);
    }
    pair.flood();
    assert.equal(pair.device.service().length, 0);
    assert.equal(pair.device.drops(DROP_BAD_MAC1), 602);
  });

  test("§5.3, 5.4.7: under load the core asks for mac2, and takes it from that source alone", () => {
    const pair = new Pair(build, true, false);
    const made = pair.initiate(0x1234, 1);
    pair.device.receive([made.message], SOURCE);
    pair.flood();
    const [reply, ...more] = pair.device.service();
    assert.equal(more.length, 0);
    assert.equal(pair.device.drops(DROP_BAD_MAC2), 1);
    assert.equal(reply.bytes.length, 64);
    assert.equal(readLe32(reply.bytes, 0), 3);
    assert.equal(readLe32(reply.bytes, 4), 0x1234);
    assert.equal(hex(reply.endpoint), hex(SOURCE));
    assert.ok(pair.device.events().some(({ type }) => type === EVENT_COOKIE_SENT));
    const cookie = openCookie(reply.bytes, pair.devicePub, made.message.slice(116, 132));
    assert.equal(cookie.length, 16);

    // The core is still under load (it stays so for a second): mac2 is checked.
    pair.device.advance(100);
    const withMac2 = pair.initiate(0x1235, 2, cookie);
    const wrong = withMac2.message.slice();
    wrong[147] ^= 1;
    pair.device.receive([wrong], SOURCE);
    pair.device.receive([withMac2.message], endpoint4(7, 4001));
    pair.device.receive([withMac2.message], endpoint4(8, 4000));
    const replies = pair.device.service();
    assert.deepEqual(replies.map(({ bytes }) => readLe32(bytes, 0)), [3, 3, 3]);
    const mac1 = withMac2.message.slice(116, 132);
    const cookies = replies.map(({ bytes }) => hex(openCookie(bytes, pair.devicePub, mac1)));
    assert.equal(cookies[0], hex(cookie), "the same source, the same cookie");
    assert.equal(new Set(cookies).size, 3, "a cookie of its own for another port and another address");
    assert.equal(new Set(replies.map(({ bytes }) => hex(bytes.slice(8, 32)))).size, 3, "nonces");

    pair.device.receive([withMac2.message], SOURCE);
    const [response] = pair.device.service();
    const session = pair.take(withMac2, response.bytes, 0x1235);
    pair.exchange(session, 0x1235, { sent: 0n, received: 0n });
  });

  test("§5.4.7: a cookie that the core was given is in its next initiation's mac2, for 115 s", () => {
    const pair = new Pair(build, false, true);
    pair.device.core.exports.peerHandshake(pair.peer);
    const [first] = pair.device.service();
    const index = readLe32(first.bytes, 4);
    const mac1 = first.bytes.slice(116, 132);
    const cookie = pair.device.key().slice(0, 16);
    const nonce = pair.device.key().slice(0, 24);
    const good = cookieReply(index, nonce, cookie, pair.pub, mac1);

    const forged = good.slice();
    forged[63] ^= 1;
    const stale = cookieReply(index, nonce, cookie, pair.pub, new Uint8Array(16));
    pair.device.receive([forged, stale], SOURCE);
    pair.device.service();
    assert.equal(pair.device.drops(DROP_BAD_COOKIE), 2);
    pair.device.receive([good, good], SOURCE);
    pair.device.service();
    assert.equal(pair.device.drops(DROP_BAD_COOKIE), 3, "once a mac1");
    assert.equal(pair.device.events().filter(({ type }) => type === EVENT_COOKIE_RECEIVED).length, 1);

    const initiations: Bytes[] = [];
    const born = pair.device.time;
    const ages = { young: 0, old: 0 };
    while (pair.device.time < born + 125_000_000_000n) {
      pair.device.time = BigInt(Math.ceil(pair.device.deadline() * 1e6));
      let outs = pair.device.service();
      if (!outs.length) {
        // It gave up: ask again.
        pair.device.core.exports.peerHandshake(pair.peer);
        outs = pair.device.service();
      }
      const [{ bytes }] = outs;
      const age = Number(pair.device.time - born) / 1e9;
      assert.equal(readLe32(bytes, 0), 1);
      assert.ok(mac1Is(bytes, pair.pub));
      if (age < 115) assert.ok(equal(bytes.slice(-16), mac2For(bytes, cookie)), `mac2 at ${age} s`);
      else assert.ok(zero(bytes.slice(-16)), `no mac2 at ${age} s`);
      ages[age < 115 ? "young" : "old"]++;
      initiations.push(bytes);
    }
    assert.ok(ages.young >= 20 && ages.old >= 2, `${ages.young} initiations with the cookie, ${ages.old} after it`);
    assert.equal(new Set(initiations.map((bytes) => hex(bytes.slice(8, 40)))).size, initiations.length, "ephemerals");
    // And the handshake still works, a cookie or not.
    const answer = pair.answer(initiations[initiations.length - 1], 77);
    pair.device.receive([answer.message], SOURCE);
    assert.equal(pair.device.service().length, 1);
  });

  test("§5.4.7: a response of the core's carries mac2 when it was given a cookie", () => {
    const pair = new Pair(build, false, false);
    const made = pair.initiate(1, 1);
    pair.device.receive([made.message], SOURCE);
    const [response] = pair.device.service();
    const cookie = pair.device.key().slice(0, 16);
    const nonce = pair.device.key().slice(0, 24);
    const reply = cookieReply(readLe32(response.bytes, 4), nonce, cookie, pair.pub, response.bytes.slice(60, 76));
    pair.device.receive([reply], SOURCE);
    pair.device.service();
    pair.device.advance(30);
    const again = pair.initiate(2, 2);
    pair.device.receive([again.message], SOURCE);
    const [second] = pair.device.service();
    assert.ok(mac1Is(second.bytes, pair.pub));
    assert.equal(hex(second.bytes.slice(-16)), hex(mac2For(second.bytes, cookie)));
    pair.take(again, second.bytes, 2);
  });

  test.run();
}
