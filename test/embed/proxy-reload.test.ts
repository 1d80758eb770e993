// What a reload leaves alone and what it changes; several tunnels; the health door.

import assert from "node:assert";
import { renameSync, writeFileSync } from "node:fs";
import parsePrometheus from "parse-prometheus-text-format";
import { suite } from "uvu";
import { type Config, parseConfig } from "../../host/config.ts";
import { AliveCheck } from "../../host/proxy/check-alive.ts";
import { parseService } from "../../host/proxy/spec.ts";
import { FileWatch } from "../../host/proxy/watch.ts";
import { DirectTunnel } from "../helpers/direct-dialer.ts";
import { PEER, PEER_B, PLAIN_CONF, Raw, World, curl, sleep, waitFor } from "./proxy-fixture.ts";
import { worlds } from "./proxy-worlds.ts";

for (const [where, open] of worlds) {
  const both = suite(`reload, ${where}`);

  both("a stream goes on while the file changes around it", async () => {
    const world = await open();
    try {
      const port = await world.echo();
      const section = (target: number): string =>
        `[TCPClientTunnel]\nBindAddress = 127.0.0.1:0\nTarget = ${world.host}:${target}\n`;
      const running = await world.proxy([], { conf: world.conf() + section(port) });
      const client = new Raw(running.port("forward"));
      client.send("before ");
      assert.equal((await client.read(7)).toString(), "before ");
      const handshakes = running.metric("wireguard_latest_handshake_seconds");

      // Another service, another peer; and a comment, which is no change at all.
      const peer = `[Peer]\nPublicKey = ${PEER_B}\nAllowedIPs = 10.99.0.0/24\n`;
      writeFileSync(
        running.path,
        `# comment\n${world.conf()}${peer}${section(port)}[Socks5]\nBindAddress = 127.0.0.1:0\n`,
      );
      assert.equal(await running.proxy.reload(), true);
      assert.equal(await running.proxy.reload(), false);
      assert.deepEqual(
        running.proxy.addresses.map(({ kind }) => kind),
        ["forward", "socks5"],
      );
      client.send("during ");
      assert.equal((await client.read(7)).toString(), "during ");
      assert.equal(running.metric("wireguard_latest_handshake_seconds"), handshakes);

      // The service that is gone ends, the one that stays does not.
      const socks = new Raw(running.port("socks5"));
      await waitFor(
        "it to be served",
        () => running.metric("wasmguard_proxy_open_connections", { service: "socks5" }) === 1,
      );
      writeFileSync(running.path, world.conf() + section(port));
      assert.equal(await running.proxy.reload(), true);
      await waitFor("the end of a service", () => socks.over);
      client.send("after");
      assert.equal((await client.read(5)).toString(), "after");
      socks.close();
      client.close();
    } finally {
      await world.close();
    }
  });

  both("a new Address: the tunnel is another one, its listeners stay, and reach through it", async () => {
    const world = await open();
    try {
      const port = await world.echo();
      const section = `[TCPClientTunnel]\nBindAddress = 127.0.0.1:0\nTarget = ${world.host}:${port}\n`;
      const running = await world.proxy([], { conf: world.conf() + section });
      const address = running.at("forward");
      const old = new Raw(running.port("forward"));
      old.send("x");
      await old.read(1);
      writeFileSync(
        running.path,
        world
          .conf()
          .replace(/MTU.*\n/, "")
          .replace("[Peer]", "MTU = 1300\n[Peer]") + section,
      );
      assert.equal(await running.proxy.reload(), true);
      assert.equal(running.at("forward"), address);
      await waitFor("the old connection's end", () => old.over);
      const client = new Raw(running.port("forward"));
      client.send("new");
      assert.equal((await client.read(3)).toString(), "new");
      old.close();
      client.close();
    } finally {
      await world.close();
    }
  });

  both.run();
}

const refused = suite("reload: refused");

refused("a bad file changes nothing, and says where it is bad", async () => {
  const world = new World();
  try {
    const port = await world.echo();
    const section = `[TCPClientTunnel]\nBindAddress = 127.0.0.1:0\nTarget = 127.0.0.1:${port}\n`;
    const running = await world.proxy([["socks5", "0"]], { conf: PLAIN_CONF + section });
    const before = running.proxy.addresses;
    const client = new Raw(running.port("forward"));
    client.send("1");
    await client.read(1);
    const taken = await world.proxy([["socks5", "0"]]);
    const bad: [string, RegExp][] = [
      ["[Interface]\nPrivateKey = short\n", /line 2: PrivateKey: key has 5 characters/],
      [`${PLAIN_CONF}[Sock5]\n`, /line 8: \[Sock5\]/],
      [
        `${PLAIN_CONF.replace(PEER, PEER_B)}${section}[Socks5]\nBindAddress = ${taken.at("socks5")}\n`,
        /Cannot listen on 127.0.0.1:\d+: the address is in use/,
      ],
      [
        `${PLAIN_CONF}[http]\nBindAddress = 127.0.0.1:0\nCertFile = /none\nKeyFile = /none\n`,
        /Cannot read CertFile \/none/,
      ],
    ];
    for (const [text, pattern] of bad) {
      writeFileSync(running.path, text);
      await assert.rejects(running.proxy.reload(), pattern);
      assert.deepEqual(running.proxy.addresses, before);
      client.send("2");
      assert.equal((await client.read(1)).toString(), "2");
    }
    assert.equal(world.tunnels[0].configured, 0);
    client.close();
  } finally {
    await world.close();
  }
});

refused("a tunnel that does not take it: all others go back", async () => {
  const world = new World();
  try {
    const paths = [world.file(PLAIN_CONF, "a.conf"), world.file(PLAIN_CONF, "b.conf")];
    const sources = paths.map((path) => ({ path, services: [parseService("socks5", "0")] }));
    const running = await world.start({ sources });
    const before = running.proxy.addresses;
    const [a, b] = world.tunnels;
    b.configure = () => Promise.reject(new Error("no"));
    for (const path of paths)
      writeFileSync(path, PLAIN_CONF.replace(PEER, PEER_B) + "[http]\nBindAddress = 127.0.0.1:0\n");
    await assert.rejects(running.proxy.reload(), /no/);
    assert.deepEqual(running.proxy.addresses, before);
    assert.equal(a.configured, 2);
    assert.equal(Buffer.from(a.config.peers[0].publicKey).toString("base64"), PEER);
  } finally {
    await world.close();
  }
});

refused("the same place with other settings: taken over", async () => {
  const world = new World();
  try {
    const port = await world.echo();
    const first = await world.proxy([["socks5", "0"]]);
    const address = first.at("socks5");
    await first.proxy.stop();
    const section = (login: string): string => `${PLAIN_CONF}[Socks5]\nBindAddress = ${address}\n${login}`;
    const running = await world.proxy([], { conf: section("") });
    writeFileSync(running.path, section("Username = bob\nPassword = pass\n"));
    assert.equal(await running.proxy.reload(), true);
    const open = new Raw(running.port("socks5"));
    open.send([5, 1, 0]);
    assert.deepEqual([...(await open.rest())], [5, 255]);
    open.close();
    assert.equal(port > 0, true);
  } finally {
    await world.close();
  }
});

refused("changed files are noticed: written in place, replaced, and no others", async () => {
  const world = new World();
  const path = world.file("one");
  let times = 0;
  const watch = new FileWatch(() => void times++);
  try {
    assert.deepEqual(watch.set([path]), []);
    assert.deepEqual(watch.set([path]), []);
    const replace = (): void => renameSync(world.file("three", "new"), path);
    for (const change of [() => writeFileSync(path, "two"), replace, () => writeFileSync(path, "four")]) {
      const before = times;
      change();
      await waitFor("the change", () => times > before);
    }
    await sleep(300);
    const before = times;
    world.file("of no interest", "other.conf");
    await sleep(400);
    assert.equal(times, before);
    assert.equal(watch.set(["/nowhere/at/all/x.conf"]).length, 1);
  } finally {
    watch.close();
    await world.close();
  }
});

refused("a tunnel that could not be replaced is opened again, and its health is that of the new one", async () => {
  const world = new World();
  try {
    const address = "10.7.0.9";
    const conf = PLAIN_CONF.replace("[Peer]", `ListenPort = 51999\nCheckAlive = ${address}\n[Peer]`);
    const path = world.file(`${conf}[Socks5]\nBindAddress = 127.0.0.1:0\n`);
    let opened = 0;
    const openTunnel = async (config: Config) => {
      if (++opened === 2) throw Object.assign(new Error("no luck"), { code: "EADDRINUSE" });
      const tunnel = await world.openTunnel(config);
      // The first one answers nothing: only a check of the later one can be content.
      if (opened > 2) tunnel.answering.add(address);
      return tunnel;
    };
    const running = await world.start({ sources: [{ path, services: [] }], openTunnel }, path);
    assert.equal(Object.values(running.proxy.health())[0].ready, false);
    writeFileSync(path, `${conf.replace("[Peer]", "MTU = 1300\n[Peer]")}[Socks5]\nBindAddress = 127.0.0.1:0\n`);
    await assert.rejects(running.proxy.reload(), /no luck/);
    assert.equal(opened, 3);
    await waitFor("health", () => Object.values(running.proxy.health())[0].ready);
  } finally {
    await world.close();
  }
});

refused.run();

const doors = suite("several tunnels, health, metrics");

doors("two files, each with its own services, in one process", async () => {
  const world = new World();
  try {
    const [one, two] = [await world.http((_, res) => res.end("one")), await world.http((_, res) => res.end("two"))];
    const opened: DirectTunnel[] = [];
    const running = await world.start({
      sources: [
        { path: world.file(PLAIN_CONF, "home.conf"), services: [parseService("http", "0")] },
        { path: world.file(PLAIN_CONF, "work.conf"), services: [parseService("http", "0")] },
      ],
      openTunnel: async (config, name) => {
        const tunnel = new DirectTunnel(config, {
          names: { "site.test": ["127.0.0.1"], [`${name}.test`]: ["127.0.0.1"] },
        });
        opened.push(tunnel);
        return tunnel;
      },
    });
    const [home, work] = running.proxy.addresses.map(({ address }) => `http://${address}`);
    assert.equal((await curl("--proxy", home, `http://home.test:${one.port}/`)).out, "one");
    assert.equal((await curl("--proxy", work, `http://work.test:${two.port}/`)).out, "two");
    assert.match((await curl("--proxy", work, `http://home.test:${one.port}/`)).out, /no such name/);
    assert.equal(running.metric("wasmguard_proxy_connections", { tunnel: "home" }), 1);
    assert.equal(running.metric("wasmguard_proxy_connections", { tunnel: "work" }), 2);
    assert.equal(opened.length, 2);
  } finally {
    await world.close();
  }
});

doors("a start that fails leaves nothing open", async () => {
  const world = new World();
  try {
    const taken = await world.proxy([["socks5", "0"]]);
    const sources = [
      { path: world.file(PLAIN_CONF, "a.conf"), services: [parseService("http", "0")] },
      { path: world.file(PLAIN_CONF, "b.conf"), services: [parseService("socks5", taken.at("socks5"))] },
    ];
    await assert.rejects(world.start({ sources }), /Cannot listen on 127.0.0.1:\d+: the address is in use/);
    assert.deepEqual(
      world.tunnels.map(({ closed }) => closed),
      [false, true, true],
    );
    const metrics = { host: "127.0.0.1", port: taken.port("socks5") };
    await assert.rejects(world.start({ sources: [sources[0]], metrics }), /Cannot listen on/);
    const failing = {
      sources: [sources[0]],
      openTunnel: () => Promise.reject(Object.assign(new Error("no socket"), { code: "EACCES" })),
    };
    await assert.rejects(world.start(failing), /Cannot open the tunnel of .*a.conf: no socket/);
    await assert.rejects(
      world.proxy([["socks5", "192.0.2.1:0"]]),
      /Cannot listen on 192.0.2.1:0: this machine has no such address/,
    );
    await assert.rejects(
      world.proxy([["forward", `unix:${world.folder}/none/x=a:1`]]),
      /Cannot listen on unix:.*: (there is no such folder|it is not permitted)/,
    );
  } finally {
    await world.close();
  }
});

doors("/livez, /readyz with its reason, /metrics in both forms", async () => {
  const world = new World();
  try {
    const conf = PLAIN_CONF.replace(
      "[Peer]",
      "CheckAlive = 10.7.0.2\nCheckAliveInterval = 1\n[Peer]\n# friendly_name = far\n",
    );
    const sources = [{ path: world.file(conf, "wg7.conf"), services: [parseService("http", "0")] }];
    const running = await world.start({ sources, metrics: { host: "127.0.0.1", port: 0 } });
    const url = `http://${running.at("metrics")}`;
    const ask = async (path: string, ...more: string[]): Promise<[string, string]> => {
      const { out } = await curl("-w", "\n%{http_code}", ...more, url + path);
      return [out.split("\n").at(-1)!, out];
    };
    assert.equal((await ask("/livez"))[0], "200");
    const [status, text] = await ask("/readyz");
    assert.equal(status, "503");
    assert.deepEqual(JSON.parse(text.split("\n")[0]), {
      ready: false,
      tunnels: { wg7: { ready: false, reason: "10.7.0.2 has not answered yet", checkAlive: { "10.7.0.2": 0 } } },
    });
    world.tunnels[0].answering.add("10.7.0.2");
    await waitFor("readiness", async () => (await ask("/readyz"))[0] === "200");

    const { port } = await world.http((_, res) => res.end("12345"));
    await curl("--proxy", `http://${running.at("http")}`, `http://127.0.0.1:${port}/`);
    const [, page] = await ask("/metrics");
    const families = parsePrometheus(page.replace(/\n200$/, "\n")) as {
      name: string;
      metrics: { value: string; labels: Record<string, string> }[];
    }[];
    const value = (name: string): string | undefined => families.find((each) => each.name === name)?.metrics[0].value;
    assert.deepEqual(
      [
        value("wireguard_sent_bytes_total"),
        value("wasmguard_tunnel_ready"),
        value("wasmguard_proxy_received_bytes_total"),
        value("wasmguard_dropped_packets_total"),
      ],
      ["1234", "1", "5", "3"],
    );
    const sent = families.find(({ name }) => name === "wireguard_sent_bytes_total")!.metrics[0].labels;
    assert.deepEqual([sent.interface, sent.public_key, sent.friendly_name], ["wg7", PEER, "far"]);
    const [, open] = await ask("/metrics", "-H", "Accept: application/openmetrics-text; version=1.0.0");
    assert.ok(open.includes("# TYPE wireguard_sent_bytes counter\n") && /\n# EOF\n\n200$/.test(open), open);
    assert.deepEqual(
      [(await ask("/"))[0], (await ask("/livez", "--data", "x"))[0], (await ask("/livez", "-I"))[0]],
      ["404", "405", "200"],
    );
  } finally {
    await world.close();
  }
});

doors("ready without CheckAlive: a handshake of the last 180 s", () => {
  const tunnel = new DirectTunnel(parseConfig(PLAIN_CONF));
  const check = new AliveCheck({ addresses: [], intervalSec: 5 }, tunnel);
  const now = 1_700_000_000_000;
  assert.deepEqual(check.health(now), { ready: false, reason: "no handshake yet", checkAlive: {} });
  tunnel.handshake = 1_700_000_000 - 180;
  assert.equal(check.health(now).ready, true);
  tunnel.handshake--;
  assert.deepEqual(check.health(now).reason, "no handshake for 181 s");
  check.stop();
});

doors("an answer that stays away", async () => {
  const tunnel = new DirectTunnel(parseConfig(PLAIN_CONF));
  tunnel.answering.add("10.0.0.9");
  const check = new AliveCheck({ addresses: ["10.0.0.9"], intervalSec: 5 }, tunnel);
  await sleep(1);
  assert.equal(check.health().ready, true);
  assert.match(check.health(Date.now() + 8_000).reason ?? "", /10.0.0.9 has not answered for [78] s/);
  check.stop();
});

doors.run();
