// What every carrier of the embedded device must do: two devices on this machine, packets of a stack both ways.
import assert from "node:assert/strict";
import { suite } from "uvu";
import { EVENT_HANDSHAKE_COMPLETE } from "../../assembly/abi.ts";
import type { InPacket } from "../../host/netstack/types.ts";
import { Stream } from "../../host/simulator/random.ts";
import {
  assertValid, build, type Bytes, expand, type Fields, parse, sameAfterJoin, segmentsOf, TCP, UDP,
} from "../offload/oracle.ts";
import { between, type Open, openPair, type Pair, toOutPacket, until, withHeader } from "./pair.ts";

/** The packets that came, those that were joined taken apart; each is checked. */
function packetsOf(came: InPacket[]): Bytes[] {
  return came.flatMap((packet) => {
    const { packets } = expand(withHeader(packet, parse));
    for (const one of packets) assertValid(one);
    return packets;
  });
}

/** How many packets came, those counted that were joined. */
function countPackets(came: InPacket[]): number {
  return came.reduce((sum, { bytes, gsoSize }) => sum + (gsoSize ? Math.ceil(parse(bytes).payload.length / gsoSize) : 1), 0);
}

export interface Carriage {
  /** datagrams sent at once that are sure to fit its buffers */
  burst: number;
  /** whether datagrams keep their order */
  ordered: boolean;
}

export function deviceSuite(name: string, open: Open, { burst, ordered }: Carriage): void {
  const test = suite(name);

  const assertSame = (came: Bytes[], sent: Bytes[]): void => {
    assert.equal(came.length, sent.length);
    const left = [...sent];
    came.forEach((packet, i) => {
      const at = ordered ? 0 : left.findIndex((one) => sameAfterJoin(one, packet));
      assert.ok(at >= 0 && sameAfterJoin(left[at], packet), `packet ${i} of ${sent.length} is another`);
      left.splice(at, 1);
    });
  };

  let pair: Pair;

  test.before.each(async () => {
    pair = await openPair(open);
  });
  test.after.each(async () => {
    await pair.close();
  });

  /** Sends super-packets, as many at once as the carriage bears, and waits for them. @returns how many came as one */
  const exchange = async (isToRight: boolean, flows: [fields: Fields, gsoSize: number][]): Promise<number> => {
    const random = new Stream(1, "pieces");
    const [from, to] = isToRight ? [pair.left, pair.right] : [pair.right, pair.left];
    let came = 0;
    for (let at = 0; at < flows.length; ) {
      to.came.length = 0;
      const sent: Bytes[] = [];
      while (at < flows.length) {
        const [fields, gsoSize] = flows[at];
        const packets = gsoSize ? segmentsOf(fields, gsoSize) : [build(fields)];
        if (sent.length > 0 && sent.length + packets.length > burst) break;
        from.device.link.send(toOutPacket(random, fields, gsoSize));
        sent.push(...packets);
        at++;
      }
      await until(() => countPackets(to.came) >= sent.length, "the packets");
      assertSame(packetsOf(to.came), sent);
      came += to.came.length;
    }
    return came;
  };

  for (const version of [4, 6] as const) {
    test(`IPv${version}: TCP super-packets both ways come joined`, async () => {
      const random = new Stream(1, `tcp ${version}`);
      for (const isToRight of [true, false, true]) {
        const fields = between(random, isToRight, version, TCP, 40 * 1340 + 7);
        const came = await exchange(isToRight, [[fields, 1340]]);
        assert.ok(came < 41, `${came} packets came of 41 that could be joined`);
      }
      for (const { device } of [pair.left, pair.right]) assert.deepEqual(device.device.drops(), {});
    });

    test(`IPv${version}: UDP super-packets, single packets and small ones between them keep their order`, async () => {
      const random = new Stream(1, `mixed ${version}`);
      await exchange(true, [[between(random, true, version, UDP, 10), 0]]);
      for (const isToRight of [true, false]) {
        const flows = Array.from({ length: 40 }, (_, i): [Fields, number] => {
          const protocol = i % 3 ? TCP : UDP;
          return i % 4
            ? [between(random, isToRight, version, protocol, 1 + random.below(900)), 0]
            : [between(random, isToRight, version, protocol, 1 + random.below(20_000)), 500 + random.below(800)];
        });
        await exchange(isToRight, flows);
      }
    });
  }

  test("more than the slots hold, put in one go", async () => {
    const random = new Stream(1, "flood");
    await exchange(true, [[between(random, true, 4, TCP, 10), 0]]);
    const flows = Array.from({ length: 24 }, (): [Fields, number] => [between(random, true, 4, TCP, 45 * 1340), 1340]);
    await exchange(true, flows);
  });

  test("answers from inside of the input are sent as they were meant", async () => {
    const random = new Stream(1, "echo");
    const longest = burst === Infinity ? 4000 : 1000;
    const answer = (): Fields => between(random, false, 4, TCP, 1 + random.below(longest));
    const answers = Array.from({ length: Math.min(80, burst) }, answer);
    await exchange(true, [[between(random, true, 4, TCP, 10), 0]]);
    pair.right.came.length = 0;
    let asked = 0;
    pair.right.onInput = () => {
      // Each packet that comes is answered while others may still lie beside it.
      for (const fields of answers.slice(asked, (asked += answers.length / 4))) {
        pair.right.device.link.send(toOutPacket(random, fields, 2000));
      }
    };
    const questions = Array.from({ length: 4 }, () => between(random, true, 4, UDP, 100));
    for (const fields of questions) pair.left.device.link.send(toOutPacket(random, fields, 0));
    const sent = answers.flatMap((fields) => segmentsOf(fields, 2000));
    await until(() => countPackets(pair.left.came) >= sent.length, "the answers");
    assertSame(packetsOf(pair.left.came), sent);
    assertSame(packetsOf(pair.right.came), questions.map(build));
  });

  test("what no packet can be is refused, and said so", async () => {
    const random = new Stream(1, "refused");
    const { link } = pair.left.device;
    const send = (fields: Fields, gsoSize: number, change = {}): void => {
      link.send({ ...toOutPacket(random, fields, gsoSize), ...change });
    };
    const tcp = between(random, true, 4, TCP, 3000);
    const long = between(random, true, 4, TCP, 65_536);
    assert.throws(() => send(long, 1340), { name: "RangeError", message: /Cannot send a packet of 655\d\d bytes: at most 65535/ });
    assert.throws(() => send(between(random, true, 4, TCP, 60_000), 1), { name: "RangeError", message: /60000 segments/ });
    assert.throws(() => send(tcp, 1340, { checksumStart: 0 }), { name: "RangeError", message: /neither TCP nor UDP/ });
    assert.throws(() => send(tcp, 1340, { checksumStart: 24 }), { name: "RangeError", message: /no checksum is at its byte 24/ });
    assert.throws(() => send(tcp, 0, { checksumStart: 200 }), { name: "RangeError" });
    assert.throws(() => pair.left.device.send(new Uint8Array(65_536)), { name: "RangeError", message: /65536 bytes/ });
    assert.deepEqual(pair.left.device.device.drops(), {});
    await exchange(true, [[tcp, 1340]]);
  });

  test("as long as a super-packet may be, and no longer than one run", async () => {
    const random = new Stream(1, "longest");
    const { gsoMaxSize, mtu } = pair.left.device.link;
    assert.ok(gsoMaxSize > 40 * mtu && gsoMaxSize <= 65535, `gsoMaxSize ${gsoMaxSize}`);
    const fields = { ...between(random, true, 6, TCP, gsoMaxSize - 60), tcpOptions: new Uint8Array(0) };
    await exchange(true, [[fields, mtu - 60]]);
  });

  test("another port, and none when it is taken", async () => {
    const random = new Stream(1, "port");
    const { left, right } = pair;
    await exchange(true, [[between(random, true, 4, TCP, 5000), 1000]]);
    const before = left.device.listenPort;
    const taken = { listenPort: right.device.listenPort, replacePeers: true, peers: [] };
    await assert.rejects(left.device.configure(taken), { code: "EADDRINUSE" });
    assert.equal(left.device.listenPort, before);
    assert.equal(left.device.state().peers.length, 1);
    await exchange(false, [[between(random, false, 4, TCP, 5000), 1000]]);
    await left.device.configure({ listenPort: 0, replacePeers: false, peers: [] });
    assert.notEqual(left.device.listenPort, before);
    // The right side hears from the new port and answers there.
    await exchange(true, [[between(random, true, 4, TCP, 50_000), 1000]]);
    await exchange(false, [[between(random, false, 4, TCP, 50_000), 1000]]);
    assert.equal(right.device.state().peers[0].endpoint?.port, left.device.listenPort);
  });

  test("an endpoint that cannot be reached is counted, and the next is not", async () => {
    const random = new Stream(1, "errors");
    const { left } = pair;
    const [peer] = left.device.state().peers;
    const change = { publicKey: peer.publicKey, remove: false, updateOnly: true, replaceAllowedIps: false, allowedIps: [] };
    await exchange(true, [[between(random, true, 4, TCP, 100), 0]]);
    const nowhere = { family: 4 as const, address: Uint8Array.of(240, 0, 0, 1), port: 9, scope: 0 };
    await left.device.configure({ replacePeers: false, peers: [{ ...change, endpoint: nowhere }] });
    left.device.link.send(toOutPacket(random, between(random, true, 4, TCP, 100), 0));
    await until(() => left.device.errors.size > 0, "an error");
    await left.device.configure({ replacePeers: false, peers: [{ ...change, endpoint: peer.endpoint! }] });
    await exchange(true, [[between(random, true, 4, TCP, 100), 0]]);
  });

  test("what was sent before close() still arrives; after it nothing is sent", async () => {
    const random = new Stream(1, "close");
    await exchange(true, [[between(random, true, 4, TCP, 100), 0]]);
    pair.right.came.length = 0;
    const fields = between(random, true, 4, TCP, 500);
    pair.left.device.link.send(toOutPacket(random, fields, 0));
    pair.left.device.close();
    pair.left.device.link.send(toOutPacket(random, between(random, true, 4, TCP, 500), 0));
    assert.throws(() => pair.left.device.send(build(fields)), { code: "ERR_CLOSED" });
    await until(() => pair.right.came.length > 0, "the last packet");
    await new Promise((resolve) => setTimeout(resolve, 20));
    assertSame(packetsOf(pair.right.came), [build(fields)]);
  });

  test("closed from inside of the input", async () => {
    const random = new Stream(1, "close inside");
    pair.right.onInput = () => pair.right.device.close();
    pair.left.device.link.send(toOutPacket(random, between(random, true, 4, TCP, 5000), 1000));
    await until(() => pair.right.came.length > 0, "a packet");
  });

  test("packets whole, for who wants them so", async () => {
    const came: Bytes[] = [];
    const handshakes: number[] = [];
    const options = { onPacket: (packet: Bytes) => void came.push(packet), onInput: undefined };
    const onEvent = ({ type }: { type: number }): void => void (type === EVENT_HANDSHAKE_COMPLETE && handshakes.push(type));
    const whole = await openPair((given) => open({ ...given, ...options, onEvent }));
    try {
      const random = new Stream(1, "whole");
      const packets = Array.from({ length: 100 }, () => build(between(random, true, 4, TCP, random.below(1300))));
      whole.left.device.send(packets[0]);
      await until(() => came.length === 1, "the first packet");
      whole.left.device.send(...packets.slice(1));
      await until(() => came.length === packets.length, "the packets");
      assert.deepEqual(came, packets);
      assert.equal(handshakes.length, 2);
      whole.left.device.send(packets[0].slice(0, 19), Uint8Array.of(0x45));
      assert.deepEqual(whole.left.device.device.drops(), { outNotIp: 2n });
    } finally {
      whole.close();
    }
  });

  test("either onPacket or onInput", async () => {
    const wrong = { name: "TypeError", message: /onPacket or onInput/ };
    await assert.rejects(open({}), wrong);
    await assert.rejects(open({ onPacket: () => {}, onInput: () => {} }), wrong);
  });

  test.run();
}
