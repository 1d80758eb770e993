// wasmguard proxy against a wireguard-go peer in another namespace, with servers behind it: curl, fetch, a long stream
// with pauses both ways, DNS over UDP. The proxy's side has no interface but its veth, and needs none.

import assert from "node:assert";
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import { type Background, type Lab, type Namespace, until } from "../helpers/netlab.ts";
import { INNER, LINK, OUTER, PORT, Side, type Bench, bringUp, newKeys, systemSuite } from "../helpers/system.ts";

const STREAM_BYTES = 20 << 20;
const FAR = fileURLToPath(new URL("../helpers/far-services.mjs", import.meta.url));
const NEAR = fileURLToPath(new URL("../helpers/near-clients.mjs", import.meta.url));

interface Scene {
  near: Namespace;
  far: Side;
  proxy: Background;
  /** our runtime, to run scripts by */
  runtime: string[];
  port(kind: string): number;
}

async function scene({ ours, theirs, lab }: Bench): Promise<Scene> {
  const [near, other] = [lab.namespace("a"), lab.namespace("b")];
  lab.connect([near, LINK.a, `${OUTER.a[4]}/24`], [other, LINK.b, `${OUTER.b[4]}/24`]);
  const keys = newKeys();
  const far = await Side.start(other, "b", theirs);
  await far.set(
    `private-key ${far.file(far.keys.privateKey)} listen-port ${PORT.b} ` +
      `peer ${keys.publicKey} allowed-ips ${INNER.a[4]}/32,${INNER.a[6]}/128`,
  );
  bringUp(far, "b");
  const runtime = ours.command.slice(0, -1);
  const services = other.start([...runtime, FAR, INNER.b[4], String(STREAM_BYTES)]);
  await until("the far services", () => services.output().includes("ready"), 20_000);
  const proxy = near.start([...ours.command, "proxy", confFile(lab, keys.privateKey, far)], { LOG_LEVEL: "verbose" });
  const announced = (kind: string): RegExpExecArray | null =>
    new RegExp(`^wasmguard: \\S+ ${kind} \\S+:(\\d+)$`, "m").exec(proxy.output());
  await until("the proxy", () => announced("udp-forward") !== null || proxy.code !== null, 20_000);
  assert.equal(proxy.code, null, proxy.output());
  return { near, far, proxy, runtime, port: (kind) => Number(announced(kind)![1]) };
}

function confFile(lab: Lab, privateKey: string, far: Side): string {
  return lab.file(
    `[Interface]
PrivateKey = ${privateKey}
Address = ${INNER.a[4]}/32, ${INNER.a[6]}/128
DNS = ${INNER.b[4]}
[Peer]
PublicKey = ${far.keys.publicKey}
Endpoint = ${OUTER.b[4]}:${PORT.b}
AllowedIPs = ${INNER.b[4]}/32, ${INNER.b[6]}/128
[Socks5]
BindAddress = 127.0.0.1:0
[http]
BindAddress = 127.0.0.1:0
[TCPClientTunnel]
BindAddress = 127.0.0.1:0
Target = stream.here.test:2222
[UDPProxyTunnel]
BindAddress = 127.0.0.1:0
Target = ${INNER.b[4]}:53
`,
    "proxy.conf",
  );
}

const sha256 = (data: Buffer | string): string => createHash("sha256").update(data).digest("hex");

systemSuite("proxy", (test) => {
  test("curl by SOCKS5 and HTTP, over IPv4, IPv6 and by name; fetch; DNS", async (bench) => {
    const { near, far, runtime, proxy, port } = await scene(bench);
    const none = sha256("");
    const hosts = [INNER.b[4], `[${INNER.b[6]}]`, "www.here.test"];
    for (const host of hosts) {
      for (const how of [`--socks5-hostname 127.0.0.1:${port("socks5")}`, `--proxy http://127.0.0.1:${port("http")}`]) {
        for (const more of ["", "-p"]) {
          const out = await near.run(`curl -sS -g -m 10 ${how} ${more} http://${host}:8080/${more}`);
          assert.equal(out, `GET /${more} ${none}`);
        }
      }
    }
    const refused = await near.run(`curl -sS -m 10 --proxy http://127.0.0.1:${port("http")} http://${INNER.b[4]}:9/`);
    assert.match(refused, /connection refused/);

    const fetched = await near.run([
      ...runtime,
      NEAR,
      "fetch",
      `http://127.0.0.1:${port("http")}`,
      "http://api.here.test:8080",
    ]);
    const expected = [1, 2, 3].map((i) => `POST /${i} ${sha256("x".repeat(i * 10_000))}`);
    assert.equal(fetched, expected.join("\n"));

    assert.equal(await near.run([...runtime, NEAR, "dns", String(port("udp-forward")), "50"]), "50 192.0.2.53");
    const [peer] = await far.peers();
    assert.ok(peer.latestHandshake > 0 && peer.rxBytes > 10_000, JSON.stringify(peer));
    proxy.signal("SIGTERM");
    assert.equal(await proxy.ended(), 0);
  });

  test("20 MB each way at once, with pauses, every byte", async (bench) => {
    const { near, runtime, port } = await scene(bench);
    const args = [...runtime, NEAR, "stream", String(port("forward")), String(STREAM_BYTES)];
    const [length, received, ours] = (await near.run(args, { timeoutMs: 50_000 })).split(" ");
    const megabytes = (of: (i: number) => number): Buffer =>
      Buffer.concat(Array.from({ length: STREAM_BYTES >> 20 }, (_, i) => Buffer.alloc(1 << 20, of(i))));
    assert.equal(Number(length), STREAM_BYTES);
    assert.equal(received, sha256(megabytes((i) => i)));
    assert.equal(ours, sha256(megabytes((i) => 0x61 + (i % 26))));
  });
});
