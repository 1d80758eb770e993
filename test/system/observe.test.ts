// What a running daemon tells: reasons, events, metrics, and what the doctor makes of it.

import assert from "node:assert/strict";
import parsePrometheusTextFormat from "parse-prometheus-text-format";
import { until } from "../helpers/netlab.ts";
import { onRuntime } from "../helpers/peers.ts";
import { INNER, newKeys, OUTER, PORT, systemSuite, tunnel } from "../helpers/system.ts";

systemSuite("observation", (test) => {
  test("reasons in show, events as they happen, metrics that a parser takes", async ({ ours, theirs, lab }) => {
    const { a, b } = await tunnel(lab, { a: ours, b: theirs }, { knows: "a" });
    const command = onRuntime(ours.command[0]).command;
    const events = a.namespace.start([...command, "show", a.name, "--events", "--json"]);
    const metrics = a.namespace.start([...command, "show", "--metrics", "127.0.0.1:0"]);
    await until("the metrics' address", () => /http:\S+/.exec(metrics.output()));
    const [url] = /http:\S+/.exec(metrics.output())!;
    await until("the events to be followed", () => events.output().includes("following"));
    await a.ping(INNER.b[4]);
    await until("an event of the handshake", () => events.output().includes("handshakeComplete"));
    const lines = events.output().split("\n").filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));
    assert.deepEqual(lines.map(({ name }) => name).slice(0, 2), ["initiationSent", "handshakeComplete"]);
    assert.equal(lines[0].peer, b.keys.publicKey);

    await b.namespace.run(["bash", "-c", `for i in 1 2 3; do printf '\\1\\0\\0\\0%0144d' 0 > /dev/udp/${OUTER.a[4]}/${PORT.a}; done`]);
    const shown = await until("the reason", async () => {
      const text = await a.namespace.run([...command, "show", a.name]);
      return text.includes("bad mac1") ? text : null;
    });
    assert.match(shown, /\nrefused packets:\n  bad mac1: 3\n/);
    // The system's own multicast may have been refused as well.
    const json = JSON.parse(await a.namespace.run([...command, "show", a.name, "--json"]));
    assert.equal(json.refused.badMac1, 3);
    assert.equal(json.events.handshakeComplete, 1);
    const families = parsePrometheusTextFormat(await a.namespace.run(`curl -sf ${url}`));
    const sample = (name: string, reason?: string) =>
      families.find((family) => family.name === name)?.metrics.find(({ labels }) => labels?.interface === a.name && labels.reason === reason);
    const { latestHandshake, rxBytes, txBytes } = await a.peer(b);
    assert.equal(Number(sample("wireguard_sent_bytes_total")?.value), txBytes);
    assert.equal(Number(sample("wireguard_received_bytes_total")?.value), rxBytes);
    assert.equal(Number(sample("wireguard_latest_handshake_seconds")?.value), latestHandshake);
    assert.equal(sample("wasmguard_dropped_packets_total", "badMac1")?.value, "3");
  });

  test("the doctor finds what is wrong, and nothing where nothing is", async ({ ours, theirs, lab }) => {
    const { a, b } = await tunnel(lab, { a: ours, b: theirs });
    const command = onRuntime(ours.command[0]).command;
    const doctor = async () => {
      const { stdout, code } = await a.namespace.try([...command, "doctor", a.name, "--json"]);
      const problems = JSON.parse(stdout).filter(({ level }: { level: string }) => level === "problem");
      assert.equal(code, problems.length > 0 ? 1 : 0, stdout);
      return problems.map(({ text }: { text: string }) => text).join("\n");
    };
    await a.ping(INNER.b[4]);
    assert.equal(await doctor(), "");
    await b.set(`peer ${a.keys.publicKey} remove`);
    await a.set(`peer ${b.keys.publicKey} remove peer ${newKeys().publicKey} endpoint ${OUTER.b[4]}:${PORT.b} allowed-ips ${INNER.b[4]}/32`);
    await a.pings(INNER.b[4]);
    assert.match(await doctor(), /nothing ever came back/);
    a.namespace.ip(`link set ${a.name} down`);
    assert.match(await doctor(), /the interface is down/);
  });

  test("show --watch shows rates until Ctrl-C", async ({ ours, theirs, lab }) => {
    const { a } = await tunnel(lab, { a: ours, b: theirs }, { knows: "a" });
    const watch = a.namespace.start([...onRuntime(ours.command[0]).command, "show", a.name, "--watch"]);
    const ping = a.namespace.start(`ping -i 0.02 -w 4 ${INNER.b[4]}`);
    await until("a rate", () => /kbit\/s\s+\d+(\.\d)? kbit\/s/.test(watch.output()), 6000);
    await ping.stop();
    watch.signal("SIGINT");
    await until("it to end", () => watch.code !== null);
    assert.equal(watch.code, 0, watch.output());
  });
});
