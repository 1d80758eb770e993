// Where packets go and come from on the outside: roaming, source addresses, NAT, policy routing.

import assert from "node:assert";
import { type Lab, type Namespace, sleep } from "../helpers/netlab.ts";
import type { Implementation } from "../helpers/peers.ts";
import {
  type Family, INNER, LINK, OUTER, PORT, Side, type Tunnel, bringUp, endpoint, host, newKeys, systemSuite, tunnel,
} from "../helpers/system.ts";

const families: Family[] = [4, 6];

/** Makes the two peers of each other, everything inside allowed that `allowed` names. */
async function introduce(side: Side, id: "a" | "b", other: Side, allowed: string, at?: string): Promise<void> {
  await side.set(
    `private-key ${side.file(side.keys.privateKey)} listen-port ${PORT[id]} ` +
      `peer ${other.keys.publicKey} allowed-ips ${allowed} ${at ? `endpoint ${at}` : ""}`,
  );
}

systemSuite("roaming", (test) => {
  for (const outer of families) {
    test(`our address and listen port change under way, IPv${outer}`, async ({ ours, theirs, lab }) => {
      const { a, b } = await tunnel(lab, { a: ours, b: theirs }, { outer });
      const moved = outer === 4 ? "10.0.0.77" : "fd00:bb::77";
      const bits = outer === 4 ? 24 : 64;
      await a.ping(INNER.b[4]);
      await b.seesAt(a, endpoint(OUTER.a[outer], PORT.a));
      const { latestHandshake } = await a.peer(b);

      await a.set("listen-port 9999");
      await a.ping(INNER.b[4]);
      await b.seesAt(a, endpoint(OUTER.a[outer], 9999));
      await b.ping(INNER.a[4]);

      a.namespace.ip(`addr del ${OUTER.a[outer]}/${bits} dev ${LINK.a}`);
      a.namespace.addresses(LINK.a, `${moved}/${bits}`);
      await a.pingSoon(INNER.b[4]);
      await b.seesAt(a, endpoint(moved, 9999));
      await b.ping(INNER.a[6]);

      await a.set("listen-port 0"); // any port: a free one
      const port = Number(await a.show("listen-port"));
      assert.ok(port > 0 && port !== 9999, `port ${port}`);
      await a.ping(INNER.b[4]);
      await b.seesAt(a, endpoint(moved, port));
      assert.equal((await a.peer(b)).latestHandshake, latestHandshake, "the session was kept");
    });

    test(`the other side's address and port change, IPv${outer}`, async ({ ours, theirs, lab }) => {
      const { a, b } = await tunnel(lab, { a: theirs, b: ours }, { outer });
      const moved = outer === 4 ? "10.0.0.77" : "fd00:bb::77";
      await a.ping(INNER.b[4]);
      a.namespace.addresses(LINK.a, `${moved}/${outer === 4 ? 24 : 64}`);
      a.namespace.ip(`addr del ${OUTER.a[outer]}/${outer === 4 ? 24 : 64} dev ${LINK.a}`);
      await a.set("listen-port 9999");
      await a.pingSoon(INNER.b[4]);
      await b.seesAt(a, endpoint(moved, 9999));
      await b.ping(INNER.a[4]);
    });
  }

  // Ours on both ends: wireguard-go 0.0.20260522 answers a peer that came from IPv4 to IPv6 at its first 4 bytes.
  test("from IPv4 to IPv6 and back by configuration", async ({ ours, lab }) => {
    const { a, b } = await tunnel(lab, { a: ours, b: ours });
    for (const outer of [4, 6, 4, 6] as const) {
      await a.set(`peer ${b.keys.publicKey} endpoint ${endpoint(OUTER.b[outer], PORT.b)}`);
      await a.ping(INNER.b[4]);
      await b.seesAt(a, endpoint(OUTER.a[outer], PORT.a));
      await b.ping(INNER.a[6]);
    }
  });

  test("the same listen port again loses nothing", async ({ ours, theirs, lab }) => {
    const { a, b } = await tunnel(lab, { a: ours, b: theirs });
    await a.ping(INNER.b[4]);
    const { latestHandshake } = await a.peer(b);
    for (let i = 0; i < 5; i++) {
      await a.set(`listen-port ${PORT.a}`);
      await b.ping(INNER.a[4]);
    }
    assert.equal((await a.peer(b)).latestHandshake, latestHandshake);
  });
});

systemSuite("source address", (test) => {
  for (const family of families) {
    const first = OUTER.a[family];
    const [second, third] = family === 4 ? ["10.0.0.11", "10.0.0.12"] : ["fd00:bb::11", "fd00:bb::12"];
    const bits = family === 4 ? 24 : 64;

    test(`a host with several addresses answers from the one asked, IPv${family}`, async ({ ours, theirs, lab }) => {
      const { a, b } = await tunnel(lab, { a: ours, b: theirs }, { outer: family, knows: "b" });
      a.namespace.addresses(LINK.a, `${second}/${bits}`, `${third}/${bits}`);
      for (const address of [second, third, first, third]) {
        await b.set(`peer ${a.keys.publicKey} endpoint ${endpoint(address, PORT.a)}`);
        await b.ping(INNER.a[4]);
        await b.seesAt(a, endpoint(address, PORT.a));
        await a.ping(INNER.b[4]);
        await b.seesAt(a, endpoint(address, PORT.a));
      }
    });

    test(`an address of another interface answers, IPv${family}`, async ({ ours, theirs, lab }) => {
      const { a, b } = await tunnel(lab, { a: ours, b: theirs }, { outer: family, knows: "b" });
      const far = family === 4 ? "10.50.0.1" : "fd00:50::1";
      lab.connect([a.namespace, "far0", host(far)], [a.namespace, "far1"]);
      b.namespace.ip(`route add ${host(far)} via ${OUTER.a[family]}`);
      await b.set(`peer ${a.keys.publicKey} endpoint ${endpoint(far, PORT.a)}`);
      await b.ping(INNER.a[4]);
      await b.seesAt(a, endpoint(far, PORT.a));
      await a.ping(INNER.b[4]);
      await b.seesAt(a, endpoint(far, PORT.a));

      a.namespace.ip("link del far0"); // address and interface go away: the route's own source takes over
      await a.pingSoon(INNER.b[4]);
      await b.seesAt(a, endpoint(OUTER.a[family], PORT.a));
    });

    test(`the address that was answered from goes away, IPv${family}`, async ({ ours, theirs, lab }) => {
      const { a, b } = await tunnel(lab, { a: ours, b: theirs }, { outer: family, knows: "b" });
      a.namespace.addresses(LINK.a, `${second}/${bits}`);
      await b.set(`peer ${a.keys.publicKey} endpoint ${endpoint(second, PORT.a)}`);
      await b.ping(INNER.a[4]);
      await b.seesAt(a, endpoint(second, PORT.a));
      a.namespace.ip(`addr del ${second}/${bits} dev ${LINK.a}`);
      await a.pingSoon(INNER.b[4]);
      await b.seesAt(a, endpoint(OUTER.a[family], PORT.a));
    });

    // Ours on both ends: b has to answer from the address that was asked, or a would roam to another.
    test(`a better route appears and goes, IPv${family}`, async ({ ours, lab }) => {
      const { a, b } = await tunnel(lab, { a: ours, b: ours }, { outer: family, knows: "b" });
      const [nearA, nearB, far] =
        family === 4 ? ["10.7.0.1", "10.7.0.2", "10.9.9.9"] : ["fd00:77::1", "fd00:77::2", "fd00:99::9"];
      lab.connect([a.namespace, "veth-c", `${nearA}/${bits}`], [b.namespace, "veth-d", `${nearB}/${bits}`]);
      b.namespace.addresses("lo", host(far));
      a.namespace.ip(`route add ${host(far)} via ${OUTER.b[family]} metric 100`);
      await a.set(`peer ${b.keys.publicKey} endpoint ${endpoint(far, PORT.b)}`);
      await a.ping(INNER.b[4]);
      await b.seesAt(a, endpoint(OUTER.a[family], PORT.a));
      a.namespace.ip(`route add ${host(far)} via ${nearB} metric 50`);
      await a.pingSoon(INNER.b[4]);
      await b.seesAt(a, endpoint(nearA, PORT.a));
      a.namespace.ip(`route del ${host(far)} via ${nearB} metric 50`);
      await a.pingSoon(INNER.b[4]);
      await b.seesAt(a, endpoint(OUTER.a[family], PORT.a));
    });

    test(`no route, no address, link down: the daemon lives on, IPv${family}`, async ({ ours, theirs, lab }) => {
      const { a, b } = await tunnel(lab, { a: ours, b: theirs }, { outer: family });
      await a.ping(INNER.b[4]);
      a.namespace.ip(`link set ${LINK.a} down`);
      assert.equal(await a.pings(INNER.b[4]), false);
      a.namespace.ip(`link set ${LINK.a} up`);
      if (family === 6) a.namespace.addresses(LINK.a, `${OUTER.a[6]}/64`); // IPv6 addresses go with the link
      await a.pingSoon(INNER.b[4]);
      await b.ping(INNER.a[4]);
      assert.equal(a.daemon.code, null);
    });
  }
});

systemSuite("NAT", (test) => {
  /** a behind a router that forgets UDP flows after 2 s */
  async function behindNat(lab: Lab, a: Implementation, b: Implementation): Promise<Tunnel & { router: Namespace }> {
    const [inside, router, outside] = [lab.namespace("a"), lab.namespace("r"), lab.namespace("b")];
    lab.connect([inside, LINK.a, "192.168.1.100/24"], [router, "veth-i", "192.168.1.1/24"]);
    lab.connect([router, "veth-o", "10.0.0.1/24"], [outside, LINK.b, "10.0.0.100/24"]);
    inside.ip("route add default via 192.168.1.1");
    await router.sysctl("net.ipv4.ip_forward", 1);
    await router.nft(
      "table ip t { chain c { type nat hook postrouting priority 100; " +
        "ip saddr 192.168.1.0/24 oifname veth-o masquerade; }; }",
    );
    await router.sysctl("net.netfilter.nf_conntrack_udp_timeout", 2);
    await router.sysctl("net.netfilter.nf_conntrack_udp_timeout_stream", 2);
    const sides = { a: await Side.start(inside, "a", a), b: await Side.start(outside, "b", b) };
    await introduce(sides.a, "a", sides.b, host(INNER.b[4]), "10.0.0.100:1002");
    await introduce(sides.b, "b", sides.a, host(INNER.a[4]));
    bringUp(sides.a, "a");
    bringUp(sides.b, "b");
    return { ...sides, router };
  }

  test("persistent keepalive 1 holds a mapping that lives for 2 s", async ({ ours, theirs, lab }) => {
    const { a, b } = await behindNat(lab, ours, theirs);
    await a.set(`peer ${b.keys.publicKey} persistent-keepalive 1`);
    await a.ping(INNER.b[4]);
    await b.ping(INNER.a[4]);
    await b.seesAt(a, endpoint("10.0.0.1", PORT.a));
    await sleep(3500);
    await b.ping(INNER.a[4]);
    await a.set(`peer ${b.keys.publicKey} persistent-keepalive 0`);
    await sleep(3500);
    assert.equal(await b.pings(INNER.a[4]), false, "without it the mapping is gone");
    await a.ping(INNER.b[4]);
    await b.ping(INNER.a[4]);
  });

  test("ours outside answers a peer behind NAT whose mapping moves", async ({ ours, theirs, lab }) => {
    const { a, b, router } = await behindNat(lab, theirs, ours);
    await a.ping(INNER.b[4]);
    await b.ping(INNER.a[4]);
    await router.nft(
      "flush table ip t; table ip t { chain c { ip saddr 192.168.1.0/24 udp dport 1002 masquerade to :5000; }; }",
    );
    await sleep(3500);
    await a.ping(INNER.b[4]);
    await b.seesAt(a, "10.0.0.1:5000");
    await b.ping(INNER.a[4]);
  });
});

systemSuite("policy routing", (test) => {
  for (const family of families) {
    test(`0/0 through the tunnel with a firewall mark, IPv${family}`, async ({ ours, theirs, lab }) => {
      const { a, b } = await tunnel(lab, { a: ours, b: theirs }, { outer: family });
      const any = family === 4 ? "0.0.0.0/0" : "::/0";
      const v = `-${family}`;
      await a.set(`fwmark 51820 peer ${b.keys.publicKey} allowed-ips ${any}`);
      a.namespace.ip(`${v} route add default dev ${a.name} table 51820`);
      a.namespace.ip(`${v} rule add not fwmark 51820 table 51820`);
      a.namespace.ip(`${v} rule add table main suppress_prefixlength 0`);
      // The outer address of b by way of the tunnel is a loop unless the mark takes our own packets out of it.
      const beyond = family === 4 ? "203.0.113.5" : "2001:db8::5";
      b.namespace.addresses("lo", host(beyond));
      await a.ping(beyond, `-c 2 -i 0.2 -I ${INNER.a[family]}`);
      await a.ping(INNER.b[family]);
      const before = (await a.peer(b)).txBytes;
      await a.ping(beyond);
      assert.ok((await a.peer(b)).txBytes > before, "it went through the tunnel");
      assert.equal(await a.show("fwmark"), "0xca6c");
      await a.set("fwmark 0");
      assert.equal(await a.show("fwmark"), "off");
    });
  }

  test("a new peer by fwmark keeps the session; the mark is on every packet", async ({ ours, theirs, lab }) => {
    const { a, b } = await tunnel(lab, { a: ours, b: theirs });
    await a.namespace.nft(
      "table inet t { counter marked { }; counter bare { }; chain c { type filter hook output priority 0; " +
        "udp dport 1002 meta mark 0x1234 counter name marked; udp dport 1002 meta mark 0 counter name bare; }; }",
    );
    const count = async (name: string): Promise<number> =>
      Number(/packets (\d+)/.exec(await a.namespace.run(`nft list counter inet t ${name}`))![1]);
    await a.ping(INNER.b[4]);
    const bare = await count("bare");
    assert.ok(bare >= 2, `${bare} without a mark`);
    await a.set("fwmark 0x1234");
    await a.set(`peer ${newKeys().publicKey} allowed-ips 10.99.0.0/16`);
    await a.ping(INNER.b[4], "-c 3 -i 0.1");
    assert.ok((await count("marked")) >= 3);
    assert.equal(await count("bare"), bare);
    await a.set("fwmark 0");
    await a.ping(INNER.b[4]);
    assert.ok((await count("bare")) > bare);
  });
});
