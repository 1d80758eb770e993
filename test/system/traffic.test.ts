// Traffic through a tunnel: who begins, both families inside and outside, TCP and UDP, streams, sizes, exact counters.

import assert from "node:assert";
import type { Implementation } from "../helpers/peers.ts";
import { until } from "../helpers/netlab.ts";
import {
  type Family, INNER, LINK, OUTER, PORT, endpoint, iperf, newPresharedKey, systemSuite, tunnel,
} from "../helpers/system.ts";

/** the paper's message sizes: initiation, response, and a ping of 84 bytes padded to 96 */
const INITIATION_LEN = 148;
const RESPONSE_LEN = 92;
const DATA_PING_LEN = 96 + 32;
const KEEPALIVE_LEN = 32;

const families: Family[] = [4, 6];

/** Both orders of ours and theirs: a is the one that begins. */
function orders(ours: Implementation, theirs: Implementation): { a: Implementation; b: Implementation }[] {
  return [
    { a: ours, b: theirs },
    { a: theirs, b: ours },
  ];
}

systemSuite("traffic", (test) => {
  for (const began of ["ours", "theirs"] as const) {
    test(`10 pings are counted to the byte, ${began} begins`, async ({ ours, theirs, lab }) => {
      const { a, b } = await tunnel(lab, orders(ours, theirs)[began === "ours" ? 0 : 1], { knows: "a" });
      await a.namespace.run(`ping -c 10 -f -W 1 ${INNER.b[4]}`);
      const data = 10 * DATA_PING_LEN;
      const more = INITIATION_LEN + data;
      const less = RESPONSE_LEN + data;
      assert.deepEqual([more, less], [1428, 1372]);
      // A reply may still be on its way through the daemon when ping has it.
      await until("both to count", async () => (await b.peer(a)).txBytes >= less && (await a.peer(b)).rxBytes >= less);
      const [ofA, ofB] = [await a.peer(b), await b.peer(a)];
      assert.equal(ofA.rxBytes, less);
      assert.equal(ofB.txBytes, less);
      assert.equal(ofA.txBytes, ofB.rxBytes);
      assert.ok([more, more + KEEPALIVE_LEN].includes(ofA.txBytes), `sent ${ofA.txBytes}`);
      for (const { latestHandshake } of [ofA, ofB]) {
        assert.ok(Math.abs(latestHandshake - Date.now() / 1000) < 10, `handshake at ${latestHandshake}`);
      }
      const link = JSON.parse(a.namespace.ip(`-j -s link show dev ${a.name}`))[0].stats64;
      assert.deepEqual([link.rx.packets, link.rx.bytes], [10, 840]);
    });
  }

  test("a side without an endpoint learns it from the other", async ({ ours, theirs, lab }) => {
    for (const sides of orders(ours, theirs)) {
      const { a, b } = await tunnel(lab, sides, { knows: "a" });
      assert.equal((await b.peer(a)).endpoint, null);
      await a.ping(INNER.b[4]);
      assert.equal((await b.peer(a)).endpoint, endpoint(OUTER.a[4], PORT.a));
      await b.ping(INNER.a[6]);
      await lab.clear();
    }
  });

  test("preshared key: equal ones pass, different ones do not", async ({ ours, theirs, lab }) => {
    const check = async (sides: { a: Implementation; b: Implementation }): Promise<void> => {
      const { a, b } = await tunnel(lab, sides, { presharedKey: newPresharedKey() });
      await b.set(`peer ${a.keys.publicKey} preshared-key ${b.file(newPresharedKey())}`);
      assert.equal(await a.pings(INNER.b[4]), false);
      assert.equal((await a.peer(b)).latestHandshake, 0);
      assert.equal((await b.peer(a)).latestHandshake, 0);
      await b.set(`peer ${a.keys.publicKey} preshared-key ${b.file((await a.peer(b)).presharedKey!)}`);
      await a.pingSoon(INNER.b[4]);
    };
    await Promise.all(orders(ours, theirs).map(check));
  });

  for (const outer of families) {
    for (const inner of families) {
      test(`ping and iperf3: IPv${inner} over IPv${outer}`, async ({ ours, theirs, lab }) => {
        const { a, b } = await tunnel(lab, { a: ours, b: theirs }, { outer });
        const [atA, atB] = [INNER.a[inner], INNER.b[inner]];
        await a.ping(atB);
        await b.ping(atA);
        for (const size of [0, 1, 1300, 1372, 1373, 8000, 60000]) await a.ping(atB, `-s ${size}`);
        for (const [client, server, address] of [[a, b, atB], [b, a, atA]] as const) {
          const { bytes } = await iperf(client, server, address, { bytes: "32M" });
          assert.ok(bytes > 1e6, `TCP moved ${bytes} bytes`);
        }
        for (const direction of ["", "-R"]) {
          const { packets, lostPackets } = await iperf(a, b, atB, { options: `-u -b 4M ${direction}` });
          // iperf3's own socket holds some 90 datagrams: on a busy machine it is the one that loses
          assert.ok(packets > 300 && lostPackets < packets / 5, `UDP lost ${lostPackets} of ${packets}`);
        }
      });
    }
  }

  test("iperf3 with 10 streams both ways", async ({ ours, theirs, lab }) => {
    const { a, b } = await tunnel(lab, { a: ours, b: theirs });
    for (const options of ["-P 10", "-P 10 -R", "-P 10 --bidir", "-u -b 5M -P 10"]) {
      const { bytes } = await iperf(a, b, INNER.b[4], { options });
      assert.ok(bytes > 1e6, `${options}: ${bytes} bytes`);
    }
  });

  for (const mtu of [1280, 8920, 65000]) {
    for (const other of mtu === 65000 ? (["ours"] as const) : (["ours", "theirs"] as const)) {
      test(`MTU ${mtu}, the other end is ${other}`, async ({ ours, theirs, lab }) => {
        const { a, b } = await tunnel(lab, { a: ours, b: other === "ours" ? ours : theirs }, { mtu });
        for (const inner of families) {
          const full = mtu - (inner === 4 ? 28 : 48);
          for (const size of [full - 17, full - 1, full]) await a.ping(INNER.b[inner], `-M do -s ${size}`);
          for (const options of ["", "-R"]) {
            const { bytes } = await iperf(a, b, INNER.b[inner], { options, bytes: "16M" });
            assert.ok(bytes > 1e6, `TCP moved ${bytes} bytes`);
          }
        }
      });
    }
  }

  test("padding never goes past the MTU", async ({ ours, theirs, lab }) => {
    const { a, b } = await tunnel(lab, { a: ours, b: theirs }, { mtu: 1300 });
    // 1300 inside, 32 of transport, 8 of UDP, 20 of IPv4: not one byte more may come
    await b.namespace.nft(
      "table inet t { chain c { type filter hook input priority 0; udp dport 1002 meta length > 1360 drop; }; }",
    );
    for (const size of [1269, 1270, 1271, 1272]) await a.ping(INNER.b[4], `-M do -s ${size}`);
  });

  test("the MTU changes at run time", async ({ ours, theirs, lab }) => {
    const { a, b } = await tunnel(lab, { a: ours, b: theirs }, { mtu: 1420 });
    await a.ping(INNER.b[4], "-M do -s 1392");
    a.namespace.ip(`link set ${LINK.a} mtu 9000`);
    b.namespace.ip(`link set ${LINK.b} mtu 9000`);
    for (const side of [a, b]) side.namespace.ip(`link set ${side.name} mtu 8900`);
    await a.ping(INNER.b[4], "-M do -s 8872");
    await b.ping(INNER.a[6], "-M do -s 8852");
  });
});
