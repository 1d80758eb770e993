// Sessions live for 120 s: traffic for five minutes passes through two changes of keys, unnoticed. Real time, so only
// with WASMGUARD_LONG=1; the virtual clock has the same in test/protocol.

import assert from "node:assert";
import { beside, sleep } from "../helpers/netlab.ts";
import { long } from "../helpers/peers.ts";
import { INNER, type Side, type Tunnel, iperf, systemSuite, tunnel } from "../helpers/system.ts";

const SECONDS = 300;
const INTERVAL_S = 0.5;
/** Enough to show a stall or a loss; a busy machine carries it too, so that what is lost is lost by us. */
const RATE_MBIT = 150;
/** TCP segments a second at that rate */
const SEGMENTS = (RATE_MBIT * 1e6) / 8 / 1368;

/** Datagrams that the kernel could not put into a socket because its daemon did not take them. */
async function receiveBufferErrors(side: Side): Promise<number> {
  const lines = (await side.namespace.run("grep ^Udp: /proc/net/snmp")).split("\n");
  const [names, values] = lines.map((line) => line.split(" "));
  return Number(values[names.indexOf("RcvbufErrors")]);
}

/** Different times of a latest handshake, seen once a second. */
async function handshakes({ a, b }: Tunnel): Promise<number> {
  const times = new Set<number>();
  for (let second = 0; second < SECONDS; second++) {
    times.add((await a.peer(b)).latestHandshake);
    await sleep(1000);
  }
  return times.size;
}

if (!long) console.log(`left out: rekey: it takes ${SECONDS} s; WASMGUARD_LONG=1 runs it`);
else systemSuite("rekey", (test) => {
  test(`${SECONDS} s of TCP both ways through two changes of keys, either begins`, async ({ ours, theirs, lab }) => {
    const tunnels = [await tunnel(lab, { a: ours, b: theirs }), await tunnel(lab, { a: theirs, b: ours })];
    await Promise.all(
      tunnels.map(async (it) => {
        const { a, b } = it;
        await a.ping(INNER.b[4]);
        const options = `-i ${INTERVAL_S} -b ${RATE_MBIT}M`;
        const runs = [
          beside(iperf(a, b, INNER.b[4], { seconds: SECONDS, options })),
          beside(iperf(b, a, INNER.a[4], { seconds: SECONDS, options })),
        ];
        const sessions = await handshakes(it);
        assert.ok(sessions >= 3, `${sessions} sessions`);
        for (const { intervals, retransmits, bytes } of await Promise.all(runs)) {
          const stall = intervals.findIndex((moved, i) => moved === 0 && intervals[i + 1] === 0);
          assert.equal(stall, -1, `nothing moved for a second, at ${stall * INTERVAL_S} s`);
          assert.ok(bytes > (SECONDS * RATE_MBIT * 1e6) / 8 / 2, `${bytes} bytes`);
          assert.ok(retransmits < (SEGMENTS * SECONDS) / 1000, `${retransmits} segments sent again`);
          console.log(
            `${a.implementation.name} begins: ${Math.round(bytes / 1e6)} MB, ${retransmits} segments sent again, ` +
              `${sessions} sessions, at least ${Math.min(...intervals.slice(0, -1))} bytes in ${INTERVAL_S} s`,
          );
        }
        assert.equal(await receiveBufferErrors(a), 0);
        assert.equal(await receiveBufferErrors(b), 0);
      }),
    );
  }, (SECONDS + 60) * 1000);
});
