// Every single bit of each of the four messages, flipped: refused with the reason of its field, and nothing changed,
// byte for byte, in the device's and the peers' memory but the counters of datagrams and drops.
//
// A flip on the wire of a handshake message is caught by mac1 before anything else sees it. So each field is flipped a
// second time under a mac1 made anew, by an attacker who knows the public key: then the field itself must hold.
import assert from "node:assert/strict";
import { suite } from "uvu";
import type { SimNode } from "../../host/simulator/node.ts";
import { builds } from "../sim/builds.ts";
import { openSession, openStranger, type Stranger } from "../sim/pair.ts";
import { FIELDS, SECOND } from "../sim/paper.ts";
import { addMacs, createCookieReply, createResponse, readU32, sealData } from "../sim/reference.ts";

/** Names the field that a byte lies in. */
function fieldOf(fields: Record<string, readonly [number, number]>, at: number): string {
  for (const [name, [begin, end]] of Object.entries(fields)) if (at >= begin && at < end) return name;
  throw new RangeError(`no field at ${at}`);
}

/** Tells the node `message` with each bit of [begin, end) flipped; `expected` says the reason by bit. */
function flipAll(
  node: SimNode, message: Uint8Array, [begin, end]: readonly [number, number], expected: (bit: number) => string,
  finish: (flipped: Uint8Array) => Uint8Array = (flipped) => flipped,
): void {
  const before = node.snapshot();
  for (let bit = begin * 8; bit < end * 8; bit++) {
    const flipped = message.slice();
    flipped[bit >> 3] ^= 1 << (bit & 7);
    const reason = expected(bit);
    const count = node.drops(reason);
    node.receive({ bytes: finish(flipped), from: "203.0.113.3:333" });
    const text = `bit ${bit & 7} of byte ${bit >> 3}: not ${reason}: ${JSON.stringify(node.drops())}`;
    assert.equal(node.drops(reason), count + 1, text);
    if (bit % 8 === 7 || bit === end * 8 - 1) {
      assert.equal(Buffer.compare(node.snapshot(), before), 0, `state changed with a bit of byte ${bit >> 3}`);
    }
  }
}

/** The message must pass when nothing is flipped: else the flips above would prove nothing. */
function passes(node: SimNode, stranger: Stranger, message: Uint8Array): void {
  const drops = node.drops();
  const before = node.snapshot();
  stranger.tell(message);
  assert.deepEqual(node.drops(), drops);
  assert.notEqual(Buffer.compare(node.snapshot(), before), 0);
}

// The type's byte can become another type, whose length is not this one's; the rest of the word is never 0.
const typeReason = (type: number, bit: number): string =>
  bit < 8 && [1, 2, 3].includes(type ^ (1 << bit)) ? "bad_length" : "bad_type";

for (const build of builds) {
  const test = suite(`flips (${build})`);

  test("initiation: type by its kind, all up to mac1 by mac1", () => {
    const { a, stranger } = openStranger(build);
    const { message } = stranger.initiation();
    flipAll(a, message, FIELDS.initiation.type, (bit) => typeReason(1, bit));
    flipAll(a, message, [4, 132], () => "bad_mac1");
    passes(a, stranger, message);
  });

  test("initiation under a new mac1: ephemeral, static and timestamp hold by themselves", () => {
    const { a, stranger } = openStranger(build);
    const { message } = stranger.initiation();
    flipAll(a, message, [8, 116], () => "bad_handshake", (flipped) => addMacs(flipped, a.publicKey));
    // The sender's index is covered by mac1 alone: it only says where the answer goes.
    message[4] ^= 1;
    passes(a, stranger, addMacs(message, a.publicKey));
    assert.equal(readU32(stranger.heard("response").bytes, 8), readU32(message, 4));
  });

  test("initiation and response under load: mac2 holds; without load it is not looked at", () => {
    const { sim, a, stranger } = openStranger(build);
    const { message } = stranger.initiation();
    message[140] ^= 1;
    passes(a, stranger, message);
    const flood = new Uint8Array(148);
    flood[0] = 1;
    a.automatic = false;
    for (let i = 0; i < 512; i++) a.receive({ bytes: flood, from: "203.0.113.66:6" });
    a.automatic = true;
    a.service();
    // Each refusal is answered by a cookie reply: an event, and nothing of the peer.
    const fresh = stranger.initiation().message;
    for (let bit = 132 * 8; bit < 148 * 8; bit++) {
      const flipped = fresh.slice();
      flipped[bit >> 3] ^= 1 << (bit & 7);
      stranger.tell(flipped);
    }
    assert.equal(a.drops("bad_mac2"), 128);
    assert.equal(sim.wire.of("cookie").length, 128);
    assert.equal(a.eventsOf("initiation_received").length, 1);
  });

  test("response: type by its kind, all up to mac1 by mac1, and each field under a new mac1", () => {
    const { a, stranger } = openStranger(build);
    a.handshake(stranger.peer);
    const { message } = createResponse(stranger.identity, stranger.consumed(), stranger.ephemeral(), 0x1234);
    const expected = (bit: number): string => {
      const field = fieldOf(FIELDS.response, bit >> 3);
      return field === "type" ? typeReason(2, bit) : "bad_mac1";
    };
    flipAll(a, message, [0, 76], expected);
    const remac = (flipped: Uint8Array): Uint8Array => addMacs(flipped, a.publicKey);
    flipAll(a, message, FIELDS.response.receiver, () => "unknown_index", remac);
    flipAll(a, message, [12, 60], () => "bad_handshake", remac);
    // Not covered by anything but mac1: the sender's index is what we send to from now on.
    message[4] ^= 1;
    passes(a, stranger, remac(message));
    assert.equal(a.session(stranger.peer, "current")!.remote, 0x1235);
  });

  test("cookie reply: receiver by the index, nonce and cookie by their tag", () => {
    const { a, stranger } = openStranger(build);
    a.handshake(stranger.peer);
    const { bytes } = stranger.heard("initiation");
    const reply = createCookieReply(
      stranger.identity.publicKey, bytes.slice(116, 132), readU32(bytes, 4), new Uint8Array(16).fill(5),
      new Uint8Array(24).fill(6),
    );
    flipAll(a, reply, [0, 64], (bit) => {
      const field = fieldOf(FIELDS.cookie, bit >> 3);
      return field === "type" ? typeReason(3, bit) : field === "receiver" ? "unknown_index" : "bad_cookie";
    });
    passes(a, stranger, reply);
  });

  for (const [name, length] of [["a keepalive", 0], ["a short packet", 32], ["a long packet", 304]] as const) {
    test(`data, ${name}: receiver by the index, counter and sealed bytes by the tag`, () => {
      const { a, stranger } = openStranger(build);
      const keys = stranger.initiate();
      const message = sealData(keys, 0n, new Uint8Array(length));
      const confirm = sealData(keys, 1n, new Uint8Array(0));
      passes(a, stranger, confirm);
      flipAll(a, message, [0, message.length], (bit) => {
        if (bit < 32) return "bad_type";
        if (bit < 64) return "unknown_index";
        // counter 1 was the confirming keepalive
        return bit === 64 ? "replayed" : "bad_tag";
      });
      const { rxPackets } = a.info(stranger.peer);
      stranger.tell(message);
      if (length === 0) assert.equal(a.info(stranger.peer).rxPackets, rxPackets + 1);
      else assert.equal(a.drops("bad_inner"), 1, "authentic, though no IP packet");
    });
  }

  test("data between two cores, deep into a session: no flip moves the replay window or the endpoint", () => {
    const { sim, a, b, aAtB, data } = openSession(build);
    for (let i = 0; i < 50; i++) data(a);
    sim.run(SECOND);
    sim.wire.hook = () => [];
    data(a, 100);
    const { bytes } = sim.wire.of("data", a.address).at(-1)!;
    const before = b.info(aAtB);
    flipAll(b, bytes, [0, bytes.length], (bit) => {
      if (bit < 32) return "bad_type";
      if (bit < 64) return "unknown_index";
      if (bit >= 128) return "bad_tag";
      const counter = new DataView(bytes.buffer).getBigUint64(8, true) ^ (1n << BigInt(bit - 64));
      return counter < 52n ? "replayed" : "bad_tag";
    });
    assert.deepEqual({ ...b.info(aAtB), drops: 0 }, { ...before, drops: 0 });
    b.receive({ bytes, from: a.address });
    assert.equal(b.delivered!.at(-1)!.packet.length, 100);
  });

  test.run();
}
