// Keys and crypto-key routing: who may send what, keys that change, come and go, points that are no keys.

import assert from "node:assert";
import { Socket } from "node:net";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { type Namespace, beside, sleep, until } from "../helpers/netlab.ts";
import type { Implementation } from "../helpers/peers.ts";
import {
  INNER, OUTER, PORT, endpoint, host, iperf, newKeys, newPresharedKey, request, systemSuite, socketPath, tunnel,
} from "../helpers/system.ts";

const STRANGERS = fileURLToPath(new URL("../helpers/strangers.mjs", import.meta.url));

/** the points of small order and their other forms, little-endian: whoever meets them gets zero */
const LOW_ORDER_POINTS = [
  "0000000000000000000000000000000000000000000000000000000000000000",
  "0100000000000000000000000000000000000000000000000000000000000000",
  "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
  "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
  "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
  "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
  "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

/** Counts what leaves a namespace by UDP port. */
async function countUdpTo(namespace: Namespace, ...ports: number[]): Promise<(port: number) => Promise<number>> {
  const counters = ports.map((port) => `counter to${port} { };`).join(" ");
  const rules = ports.map((port) => `udp dport ${port} counter name to${port};`).join(" ");
  await namespace.nft(`table inet count { ${counters} chain c { type filter hook output priority 0; ${rules} }; }`);
  return async (port: number): Promise<number> =>
    Number(/packets (\d+)/.exec(await namespace.run(`nft list counter inet count to${port}`))![1]);
}

systemSuite("crypto-key routing", (test) => {
  test("a source that another peer owns is dropped, yet the endpoint roams", async ({ ours, theirs, lab }) => {
    const { a, b } = await tunnel(lab, { a: ours, b: theirs });
    await b.ping(INNER.a[4]);
    const other = newKeys().publicKey;
    await a.set(`peer ${other} allowed-ips ${host(INNER.b[4])},${host(INNER.b[6])}`);
    await b.set("listen-port 9997");
    const link = (): number => JSON.parse(a.namespace.ip(`-j -s link show dev ${a.name}`))[0].stats64.rx.packets;
    const before = link();
    assert.equal(await b.pings(INNER.a[4]), false);
    assert.equal(await b.pings(INNER.a[6]), false);
    assert.equal(link(), before, "nothing came out of the interface");
    await a.seesAt(b, endpoint(OUTER.b[4], 9997));
    await a.set(`peer ${other} remove`);
    assert.equal(await b.pings(INNER.a[4]), false, "removed with its owner, not given back");
    await a.set(`peer ${b.keys.publicKey} allowed-ips ${host(INNER.b[4])}`);
    await b.ping(INNER.a[4]);
  });

  test("the longest prefix routes, and tells which source a peer may have", async ({ ours, theirs, lab }) => {
    const { a, b } = await tunnel(lab, { a: ours, b: theirs });
    const other = newKeys().publicKey;
    await a.set(`peer ${other} allowed-ips 192.168.0.0/16,0.0.0.0/0,::/0`);
    await a.ping(INNER.b[4]);
    await a.ping(INNER.b[6]);
    await a.set(`peer ${b.keys.publicKey} allowed-ips 192.168.241.0/24`);
    await a.ping(INNER.b[4]);
    await a.set(`peer ${other} allowed-ips ${host(INNER.b[4])}`);
    assert.equal(await a.pings(INNER.b[4]), false);
    await a.set(`peer ${b.keys.publicKey} allowed-ips ${host(INNER.b[4])}`); // the owner changes
    await a.ping(INNER.b[4]);
    assert.deepEqual((await a.peers()).find(({ publicKey }) => publicKey === other)!.allowedIps, []);
  });

  test("a destination that nobody owns is refused at once", async ({ ours, theirs, lab }) => {
    const { a } = await tunnel(lab, { a: ours, b: theirs });
    a.namespace.ip(`route add 10.99.0.0/16 dev ${a.name}`);
    assert.equal(await a.pings("10.99.0.1"), false);
    await a.ping(INNER.b[4]);
  });

  test("many allowed IPs, set whole, shown whole, removed one by one", async ({ ours, theirs, lab }) => {
    const { a, b } = await tunnel(lab, { a: ours, b: theirs });
    const peers = Array.from({ length: 40 }, () => newKeys().publicKey);
    const hex = (number: number): string => (number + 16).toString(16);
    const ips = (peer: number): string[] =>
      Array.from({ length: 52 }, (_, i) => (i % 2 ? `10.${peer}.${i}.0/24` : `fd00:${hex(peer)}:${hex(i)}::/48`));
    const config = peers.map((key, i) => `[Peer]\nPublicKey = ${key}\nAllowedIPs = ${ips(i).join(", ")}\n`).join("\n");
    await a.namespace.run(`wg addconf ${a.name} ${lab.file(config)}`);
    const shown = new Map((await a.peers()).map(({ publicKey, allowedIps }) => [publicKey, allowedIps]));
    assert.equal(shown.size, 41);
    for (const [i, key] of peers.entries()) assert.deepEqual(shown.get(key)!.toSorted(), ips(i).toSorted());
    const removal = ips(7).slice(0, 26).map((ip) => `allowed_ip=-${ip}\n`).join("");
    const key = Buffer.from(peers[7], "base64").toString("hex");
    assert.equal(await request(a.name, `set=1\npublic_key=${key}\n${removal}\n`), "errno=0\n\n");
    const left = (await a.peers()).find(({ publicKey }) => publicKey === peers[7])!.allowedIps;
    assert.deepEqual(left.toSorted(), ips(7).slice(26).toSorted());
    await a.ping(INNER.b[4]);
  });
});

systemSuite("keys", (test) => {
  test("our private key changes under traffic", async ({ ours, theirs, lab }) => {
    const check = async (sides: { a: Implementation; b: Implementation }): Promise<void> => {
      const { a, b } = await tunnel(lab, sides);
      await a.ping(INNER.b[4]);
      const traffic = a.namespace.start(`ping -n -f -i 0.01 ${INNER.b[4]}`);
      for (let i = 0; i < 2; i++) {
        const old = a.keys.publicKey;
        await a.setKeys();
        const knows = `allowed-ips ${host(INNER.a[4])} endpoint ${endpoint(OUTER.a[4], PORT.a)}`;
        await b.set(`peer ${old} remove peer ${a.keys.publicKey} ${knows}`);
        await a.pingSoon(INNER.b[4]);
        assert.ok((await b.peer(a)).latestHandshake > 0);
      }
      assert.equal(traffic.code, null);
    };
    await Promise.all([check({ a: ours, b: theirs }), check({ a: theirs, b: ours })]);
  });

  test("two peers swap keys", async ({ ours, theirs, lab }) => {
    const { a, b } = await tunnel(lab, { a: ours, b: theirs });
    await a.ping(INNER.b[4]);
    const [keysOfA, keysOfB] = [a.keys, b.keys];
    await a.set(`peer ${keysOfB.publicKey} remove`);
    await b.set(`peer ${keysOfA.publicKey} remove`);
    await a.setKeys(keysOfB);
    await b.setKeys(keysOfA);
    await a.set(`peer ${keysOfA.publicKey} allowed-ips ${host(INNER.b[4])} endpoint ${endpoint(OUTER.b[4], PORT.b)}`);
    await b.set(`peer ${keysOfB.publicKey} allowed-ips ${host(INNER.a[4])} endpoint ${endpoint(OUTER.a[4], PORT.a)}`);
    await a.ping(INNER.b[4]);
    await b.ping(INNER.a[4]);
    assert.equal(await a.show("public-key"), keysOfB.publicKey);
  });

  test("private and preshared key go to none and come back", async ({ ours, theirs, lab }) => {
    const { a, b } = await tunnel(lab, { a: ours, b: theirs });
    await a.ping(INNER.b[4]);
    await a.set("private-key /dev/null");
    assert.equal(await a.show("private-key"), "(none)");
    assert.equal(await a.show("public-key"), "(none)");
    assert.equal((await a.peers()).length, 1);
    assert.equal(await a.pings(INNER.b[4]), false);
    const psk = newPresharedKey();
    await a.set(`peer ${b.keys.publicKey} preshared-key ${a.file(psk)}`);
    await b.set(`peer ${a.keys.publicKey} preshared-key ${b.file(psk)}`);
    assert.equal((await a.peer(b)).presharedKey, psk);
    await a.setKeys(a.keys);
    await a.pingSoon(INNER.b[4]);
    await a.set(`peer ${b.keys.publicKey} preshared-key /dev/null`);
    await b.set(`peer ${a.keys.publicKey} preshared-key /dev/null`);
    assert.equal((await a.peer(b)).presharedKey, null);
    await a.setKeys(a.keys); // the sessions are ended; the next handshake is without
    await a.pingSoon(INNER.b[4]);
  });

  test("our own key is no peer", async ({ ours, theirs, lab }) => {
    const { a, b } = await tunnel(lab, { a: ours, b: theirs });
    await a.set(`peer ${a.keys.publicKey} allowed-ips 10.98.0.0/16 endpoint 10.0.0.2:5`);
    assert.deepEqual((await a.peers()).map(({ publicKey }) => publicKey), [b.keys.publicKey]);
    // and a peer whose key becomes ours is gone
    const next = newKeys();
    await a.set(`peer ${next.publicKey} allowed-ips 10.98.0.0/16`);
    assert.equal((await a.peers()).length, 2);
    await a.setKeys(next);
    assert.deepEqual((await a.peers()).map(({ publicKey }) => publicKey), [b.keys.publicKey]);
  });

  test("points of small order as peers send nothing", async ({ ours, theirs, lab }) => {
    const { a, b } = await tunnel(lab, { a: ours, b: theirs });
    const valid = 9999;
    const bad = 9998;
    const count = await countUdpTo(a.namespace, valid, bad);
    for (const [i, point] of LOW_ORDER_POINTS.entries()) {
      const key = Buffer.from(point, "hex").toString("base64");
      await a.set(`peer ${key} persistent-keepalive 1 endpoint ${OUTER.b[4]}:${bad} allowed-ips 10.97.${i}.0/24`);
    }
    await a.set(`peer ${newKeys().publicKey} persistent-keepalive 1 endpoint ${OUTER.b[4]}:${valid}`);
    a.namespace.ip(`route add 10.97.0.0/16 dev ${a.name}`);
    await Promise.all(LOW_ORDER_POINTS.map((_, i) => a.namespace.try(`ping -n -c 1 -W 2 10.97.${i}.1`)));
    await until("the good one to send", async () => (await count(valid)) > 0);
    assert.equal(await count(bad), 0);
    await a.ping(INNER.b[4]);
  });

  test("wg syncconf under traffic drops no session", async ({ ours, theirs, lab }) => {
    const { a, b } = await tunnel(lab, { a: ours, b: theirs }, { presharedKey: newPresharedKey() });
    await a.ping(INNER.b[4]);
    const config = lab.file(await a.namespace.run(`wg showconf ${a.name}`));
    const handshake = (await a.peer(b)).latestHandshake;
    const traffic = beside(iperf(b, a, INNER.a[4], { seconds: 3 }));
    const pings = beside(a.namespace.run(`ping -n -c 100 -i 0.02 -W 2 ${INNER.b[4]}`));
    for (let i = 0; i < 20; i++) {
      await a.namespace.run(`wg syncconf ${a.name} ${config}`);
      await sleep(50);
    }
    assert.match(await pings, / 0% packet loss/);
    assert.ok((await traffic).bytes > 1e6);
    assert.equal((await a.peer(b)).latestHandshake, handshake, "no new handshake");
    const extra = newKeys().publicKey;
    await a.set(`peer ${extra} allowed-ips 10.9.0.0/16`);
    await a.namespace.run(`wg syncconf ${a.name} ${config}`);
    assert.deepEqual((await a.peers()).map(({ publicKey }) => publicKey), [b.keys.publicKey]);
    await b.ping(INNER.a[4]);
  });

  test("wg setconf, addconf, showconf agree", async ({ ours, theirs, lab }) => {
    const { a, b } = await tunnel(lab, { a: ours, b: theirs }, { presharedKey: newPresharedKey() });
    const before = await a.namespace.run(`wg showconf ${a.name}`);
    await a.namespace.run(`wg setconf ${a.name} ${lab.file(before)}`);
    assert.equal(await a.namespace.run(`wg showconf ${a.name}`), before);
    await a.pingSoon(INNER.b[4]);
    assert.match(await a.show(""), /latest handshake: /);
    await b.ping(INNER.a[6]);
  });

  test("nonsense on the control socket harms nobody", async ({ ours, theirs, lab }) => {
    const { a, b } = await tunnel(lab, { a: ours, b: theirs });
    await a.ping(INNER.b[4]);
    const before = await a.show("dump");
    const pings = beside(b.namespace.run(`ping -n -c 150 -i 0.01 -W 2 ${INNER.a[4]}`));
    const stuck: Socket[] = [];
    for (const text of ["", "set=1\nprivate_key=", "get=1\n", "x".repeat(100_000)]) {
      const socket = new Socket();
      socket.on("error", () => {});
      socket.connect(socketPath(a.name), () => socket.write(text));
      stuck.push(socket);
    }
    const greedy = new Socket().on("error", () => {}); // asks and never reads
    greedy.connect(socketPath(a.name), () => greedy.pause().write("get=1\n\n".repeat(20_000)));
    stuck.push(greedy);
    const key = "11".repeat(32);
    for (const text of [
      "bogus\n\n",
      "get=2\n\n",
      "get=1\nx=y\n\n",
      "set=1\nno equals sign\n\n",
      "set=1\nwhat=1\n\n",
      "set=1\nlisten_port=65536\n\n",
      "set=1\nlisten_port=-1\n\n",
      "set=1\nprivate_key=00\n\n",
      `set=1\npublic_key=${key}\nendpoint=1.2.3.4\n\n`,
      `set=1\npublic_key=${key}\nallowed_ip=10.0.0.0/33\n\n`,
      `set=1\npublic_key=${key}\nprotocol_version=2\n\n`,
      `set=1\nlisten_port=4444\npublic_key=${key}\nallowed_ip=10.7.0.0/16\npersistent_keepalive_interval=65536\n\n`,
      "\u0000\u0001\u0002\n\n",
    ]) {
      const reply = await request(a.name, text);
      assert.match(reply, /^errno=-?[1-9]\d*\n\n$/, JSON.stringify(text));
    }
    assert.match(await pings, / 0% packet loss/);
    const unchanging = (dump: string): string[] => dump.split("\n").map((line) => line.split("\t").slice(0, 4).join());
    assert.deepEqual(unchanging(await a.show("dump")), unchanging(before));
    for (const socket of stuck) socket.destroy();
    assert.equal(await request(a.name, "get=1\n\nget=1\n\n").then((text) => text.endsWith("errno=0\n\n")), true);
    assert.equal(a.daemon.code, null);
  });

  test("datagrams of nobody are dropped", async ({ ours, theirs, lab }) => {
    const { a, b } = await tunnel(lab, { a: ours, b: theirs });
    await a.ping(INNER.b[4]);
    const before = await a.peer(b);
    const runtime = process.versions.deno ? [process.execPath, "run", "-A"] : [process.execPath];
    await b.namespace.run([...runtime, STRANGERS, `${PORT.a}`, OUTER.a[4]]);
    await b.ping(INNER.a[4]);
    const after = await a.peer(b);
    assert.equal(after.endpoint, before.endpoint);
    assert.equal(after.latestHandshake, before.latestHandshake);
    assert.equal(after.rxBytes - before.rxBytes, 128, "only the ping is counted for the peer");
    assert.equal(a.daemon.code, null);
  });
});
