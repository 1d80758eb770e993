// What the proxy reads: addresses, options, wireproxy's sections; every mistake with its file and line. And what its
// metrics say, read by another program's parser.

import assert from "node:assert";
import parsePrometheus from "parse-prometheus-text-format";
import { suite } from "uvu";
import { parseConfig } from "../../host/config.ts";
import { formatEndpoint } from "../../host/endpoint.ts";
import { formatPrefix, parsePrefix } from "../../host/ip.ts";
import { type MetricFamily, counter, deviceFamilies, formatMetrics, gauge } from "../../host/metrics.ts";
import {
  formatBind, parseAuthority, parseBind, parseInnerBind, parseLocalTarget, parseTarget,
} from "../../host/proxy/address.ts";
import { type FailureReason, classify } from "../../host/proxy/failure.ts";
import { loadFile, sameInterface } from "../../host/proxy/file.ts";
import { Proxy } from "../../host/proxy/proxy.ts";
import { type ServiceKind, describe, identity, parseService } from "../../host/proxy/spec.ts";
import { PEER, PEER_B, PLAIN_CONF, PRIVATE } from "./proxy-fixture.ts";

const addresses = suite("proxy addresses");

addresses("where to listen and where to go", () => {
  assert.deepEqual(parseBind("1080"), { host: "127.0.0.1", port: 1080 });
  assert.deepEqual(parseBind(":1080"), { host: "", port: 1080 });
  assert.deepEqual(parseBind("[::1]:0"), { host: "::1", port: 0 });
  assert.deepEqual(parseBind("localhost:65535"), { host: "localhost", port: 65535 });
  assert.deepEqual(parseBind("unix:/run/x:y"), { path: "/run/x:y" });
  assert.deepEqual(parseInnerBind("80"), { host: "", port: 80 });
  assert.deepEqual(parseInnerBind("10.0.0.2:80"), { host: "10.0.0.2", port: 80 });
  assert.deepEqual(parseLocalTarget("80"), { host: "127.0.0.1", port: 80 });
  assert.deepEqual(parseTarget("a_b.c-d.example.:443"), { host: "a_b.c-d.example.", port: 443 });
  assert.deepEqual(parseAuthority("[2001:db8::1]", 80), { host: "2001:db8::1", port: 80 });
  assert.deepEqual(parseAuthority("[2001:db8::1]:81", 80), { host: "2001:db8::1", port: 81 });
  assert.deepEqual(parseAuthority("name", 80), { host: "name", port: 80 });
  assert.deepEqual(
    ["1080", ":1080", "[::1]:5", "unix:/x"].map((text) => formatBind(parseBind(text))),
    ["127.0.0.1:1080", "*:1080", "[::1]:5", "unix:/x"],
  );
});

addresses("what is none", () => {
  const bad: [(text: string) => unknown, string[]][] = [
    [
      parseBind,
      [
        "",
        "x",
        "1.2.3.4",
        "65536",
        "-1",
        "01",
        ":",
        "::1:80",
        "[1.2.3.4]:80",
        "a b:80",
        "1.2.3:80",
        "unix:",
        `unix:/${"x".repeat(200)}`,
      ],
    ],
    [parseInnerBind, ["0", "name:80", "unix:/x", "x:0"]],
    [parseTarget, ["80", ":80", "host", "host:0", "a..b:80", ".a:80", "[::1:80", "u@h:80", `${"a".repeat(64)}.b:80`]],
    [parseLocalTarget, ["0", ":80"]],
    [(text) => parseAuthority(text, 80), ["", ":80", "a:b:c", "[::1", "a/b"]],
  ];
  for (const [parse, texts] of bad) for (const text of texts) assert.throws(() => parse(text), RangeError, `"${text}"`);
});

addresses("options", () => {
  const cases: [ServiceKind, string, string][] = [
    ["socks5", "1080", "socks5 on 127.0.0.1:1080"],
    ["http", "bob:p@ss:w@:8080", "http on *:8080"],
    ["sni", "443", "sni on 127.0.0.1:443"],
    ["forward", "unix:/x=10.0.0.1:80", "forward on unix:/x to 10.0.0.1:80"],
    ["reverse", "80=unix:/x", "reverse of *:80 in the tunnel to unix:/x"],
    ["udp-forward", "53=[fd00::1]:53", "udp-forward on 127.0.0.1:53 to [fd00::1]:53"],
    ["udp-reverse", "53=1.1.1.1:53", "udp-reverse of *:53 in the tunnel to 1.1.1.1:53"],
    ["stdio", "host:22", "stdio to host:22"],
  ];
  for (const [kind, text, words] of cases) assert.equal(describe(parseService(kind, text)), words);
  assert.deepEqual(parseService("http", "bob:p@ss:w@1"), {
    kind: "http",
    bind: { host: "127.0.0.1", port: 1 },
    login: { username: "bob", password: "p@ss:w" },
  });
  assert.equal(
    identity({ kind: "sni", bind: { host: "a", port: 1 } }),
    identity({ bind: { port: 1, host: "a" }, kind: "sni" }),
  );
  for (const [kind, text] of [
    ["socks5", "bob@1080"],
    ["socks5", ":x@1080"],
    ["socks5", "bob:@1080"],
    ["forward", "80"],
    ["udp-forward", "unix:/x=a:1"],
    ["udp-reverse", "1=unix:/x"],
    ["socks5", `bob:${"x".repeat(256)}@1080`],
  ] as [ServiceKind, string][]) {
    assert.throws(() => parseService(kind, text), RangeError, text);
  }
  assert.throws(
    () => parseService("socks5", "bob:hunter22@nowhere"),
    (error: Error) => !error.message.includes("hunter22"),
  );
});

addresses("failures: the same story in SOCKS5, in HTTP and in words", () => {
  const cases: [string, FailureReason, number, number][] = [
    ["ECONNREFUSED", "refused", 5, 502],
    ["EHOSTUNREACH", "host-unreachable", 4, 502],
    ["ENETUNREACH", "network-unreachable", 3, 502],
    ["EADDRNOTAVAIL", "network-unreachable", 3, 502],
    ["ETIMEDOUT", "timeout", 6, 504],
    ["ENOTFOUND", "no-such-name", 4, 502],
    ["EAI_AGAIN", "no-name-server", 4, 504],
    ["EACCES", "not-allowed", 2, 403],
    ["ECONNRESET", "reset", 1, 502],
    ["ERR_TUNNEL_CLOSED", "network-unreachable", 3, 502],
    ["EVERYTHING", "other", 1, 502],
  ];
  for (const [code, reason, reply, status] of cases) {
    const failure = classify(Object.assign(new Error("secret detail"), { code }));
    assert.deepEqual([failure.reason, failure.socksReply, failure.httpStatus], [reason, reply, status], code);
    assert.ok(!failure.words.includes("secret"), code);
  }
  assert.equal(classify(undefined).reason, "other");
  assert.equal(classify(AbortSignal.abort().reason).reason, "aborted");
});

addresses.run();

const files = suite("proxy files");

/** Files by path. */
function access(texts: Record<string, string>, variables: Record<string, string> = {}) {
  return {
    read(path: string): string {
      if (texts[path] === undefined) throw Object.assign(new Error("ENOENT"), { code: "ENOENT" });
      return texts[path];
    },
    variable: (name: string) => variables[name],
  };
}

const SECTIONS = `
[Interface]
PrivateKey = $KEY
Address = 10.7.0.1/32
CheckAlive = 10.7.0.2, fd00::1
checkaliveinterval = 3
PostUp = $NOT_OURS

# the one at home
[Peer]
# friendly_name = home server
PublicKey = ${PEER}

[TCPClientTunnel]
BindAddress = 127.0.0.1:25565
Target = play.example.org:25565
[TCPServerTunnel]
ListenPort = 3422
Target = localhost:25545
[STDIOTunnel]
Target = ssh.example.org:22
[socks5]
bindaddress = :25344
Username = $USER_NAME
Password = $$dollar
[http]
BindAddress = 127.0.0.1:25345
CertFile = /c.pem
KeyFile = /k.pem
[SNI]
BindAddress = 0.0.0.0:443
[UDPProxyTunnel]
BindAddress = 127.0.0.1:53
Target = 1.1.1.1:53
InactivityTimeout = 0
[Resolve]
ResolveStrategy = ipv4
`;

files("everything of wireproxy's", () => {
  const { config, sections, friendlyNames, name } = loadFile(
    "/etc/home.conf",
    access({ "/etc/home.conf": SECTIONS }, { KEY: PRIVATE, USER_NAME: "bob" }),
  );
  assert.equal(Buffer.from(config.interface.privateKey!).toString("base64"), PRIVATE);
  assert.deepEqual(config.interface.postUp, ["$NOT_OURS"]);
  assert.deepEqual(config.peers[0].allowedIps.map(formatPrefix), ["0.0.0.0/0", "::/0"]);
  assert.deepEqual(sections.checkAlive, { addresses: ["10.7.0.2", "fd00::1"], intervalSec: 3 });
  assert.equal(sections.family, "ipv4");
  assert.deepEqual([name, friendlyNames.get(PEER)], ["home", "home server"]);
  assert.deepEqual(
    sections.services.map(({ spec }) => spec),
    [
      { kind: "forward", bind: { host: "127.0.0.1", port: 25565 }, target: { host: "play.example.org", port: 25565 } },
      { kind: "reverse", inner: { host: "", port: 3422 }, target: { host: "localhost", port: 25545 } },
      { kind: "stdio", target: { host: "ssh.example.org", port: 22 } },
      { kind: "socks5", bind: { host: "", port: 25344 }, login: { username: "bob", password: "$dollar" } },
      { kind: "http", bind: { host: "127.0.0.1", port: 25345 }, tls: { certFile: "/c.pem", keyFile: "/k.pem" } },
      { kind: "sni", bind: { host: "0.0.0.0", port: 443 } },
      { kind: "udp-forward", bind: { host: "127.0.0.1", port: 53 }, target: { host: "1.1.1.1", port: 53 }, idleSec: 0 },
    ],
  );
});

files("WGConfig: beside the file, or where it says", () => {
  const texts = {
    "/etc/w/proxy.conf": "WGConfig = wg0.conf\n[Socks5]\nBindAddress = 127.0.0.1:1\n",
    "/etc/w/wg0.conf": PLAIN_CONF.replace("[Peer]", "CheckAlive = 10.7.0.2\n[Peer]"),
    "/etc/w/other.conf": "wgconfig = /srv/wg.conf\n[Socks5]\nBindAddress = 127.0.0.1:1\n",
    "/srv/wg.conf": PLAIN_CONF + "[Socks5]\nBindAddress = 127.0.0.1:2\n",
    "/etc/w/both.conf": `WGConfig = wg0.conf\n${PLAIN_CONF}`,
    "/etc/w/gone.conf": "WGConfig = none.conf\n[Socks5]\nBindAddress = 127.0.0.1:1\n",
  };
  const file = loadFile("/etc/w/proxy.conf", access(texts));
  assert.deepEqual(file.sections.checkAlive.addresses, ["10.7.0.2"]);
  assert.deepEqual([...file.texts.keys()], ["/etc/w/proxy.conf", "/etc/w/wg0.conf"]);
  const refused = (path: string, pattern: RegExp): void => assert.throws(() => loadFile(path, access(texts)), pattern);
  refused("/etc/w/other.conf", /^WasmguardError: \/srv\/wg.conf: line \d+: a section is \[Interface\] or \[Peer\]$/);
  refused("/etc/w/both.conf", /both.conf: line 1: WGConfig: this file has an \[Interface\] or \[Peer\] of its own/);
  refused("/etc/w/gone.conf", /Cannot read \/etc\/w\/none.conf: there is no such file/);
});

files("mistakes name file, line and key, and nothing secret", () => {
  const secret = "hunter22hunter22";
  const cases: [string, RegExp][] = [
    ["[Socks6]\n", /line 9: \[Socks6\] is not a section that is known here/],
    ["[Socks5\n", /line 9: this is not a section/],
    ["[Socks5]\nBindAdress = 1\n", /line 10: BindAdress is not a key of \[Socks5\]/],
    ["[Socks5]\n", /line 9: this \[Socks5\] has no BindAddress/],
    ["[Socks5]\nBindAddress = nowhere\n", /line 10: BindAddress: "nowhere" has no port in 0..65535/],
    ["[Socks5]\nBindAddress = :1\nBindAddress = :2\n", /line 11: BindAddress: it stands twice/],
    [`[Socks5]\nBindAddress = :1\nPassword = ${secret}\n`, /line 9: this \[Socks5\] has a Password without a Username/],
    [
      `[http]\nBindAddress = :1\nUsername = a:b\nPassword = ${secret}\n`,
      /line 11: Username: a user name has 1 to 255 bytes and no colon/,
    ],
    ["[http]\nBindAddress = :1\nKeyFile = x\n", /line 9: this \[http\] has one of CertFile and KeyFile/],
    ["[TCPClientTunnel]\nBindAddress = :1\nTarget = :80\n", /line 11: Target: ":80" has no address/],
    ["[TCPServerTunnel]\nListenPort = 0\nTarget = :80\n", /line 10: ListenPort: "0" is not in 1..65535/],
    ["[UDPProxyTunnel]\nBindAddress = unix:/x\nTarget = a:1\n", /line 10: BindAddress: a unix socket is for TCP/],
    [
      "[UDPProxyTunnel]\nBindAddress = :1\nTarget = a:1\nInactivityTimeout = x\n",
      /line 12: InactivityTimeout: "x" is not a number/,
    ],
    ["[Resolve]\nResolveStrategy = ipv5\n", /line 10: ResolveStrategy: "ipv5" is none of/],
    ["[STDIOTunnel]\nTarget = $UNSET_ONE\n", /line 10: Target: the environment variable UNSET_ONE is not set/],
    [`[STDIOTunnel]\nTarget = $not a name ${secret}\n`, /line 10: Target: after \$ comes a variable's name/],
    [`[Socks5]\nBindAddress = bob:${secret}@127.0.0.1:1080\n`, /line 10: BindAddress: an address has no @/],
    [`[STDIOTunnel]\n${secret}==\n`, /line 10: .*is not a key of \[STDIOTunnel\]/],
    ["", /x.conf: no service: give an option/],
  ];
  for (const [text, pattern] of cases) {
    const texts = access({ "/x.conf": `${PLAIN_CONF}\n${text}` });
    const check = (): void => Proxy.check({ sources: [{ path: "/x.conf", services: [] }], access: texts });
    assert.throws(check, (error: Error) => {
      assert.match(error.message, pattern);
      assert.ok(error.message.startsWith("/x.conf: "), error.message);
      assert.ok(!error.message.includes("hunter22hunter22") || text.startsWith("[STDIO"), error.message);
      return true;
    });
  }
  const plain: [string, RegExp][] = [
    [
      PLAIN_CONF.replace("[Peer]", "CheckAliveInterval = 3\n[Peer]"),
      /line 4: |line 5: CheckAliveInterval: it needs a CheckAlive/,
    ],
    [PLAIN_CONF.replace("[Peer]", "CheckAlive = name.test\n[Peer]"), /CheckAlive: "name.test" is not an IP address/],
    [`Elephant = 1\n${PLAIN_CONF}`, /line 1: Elephant is not a key of this place/],
    [PLAIN_CONF.replace(/PrivateKey.*\n/, ""), /\[Interface\] has no PrivateKey/],
    [PLAIN_CONF.replace(/Address.*\n/, ""), /\[Interface\] has no Address/],
    [PLAIN_CONF.replace(/\[Peer\][^]*/, ""), /it has no \[Peer\]/],
  ];
  for (const [text, pattern] of plain) assert.throws(() => loadFile("/x.conf", access({ "/x.conf": text })), pattern);
  assert.throws(() => parseConfig("[Socks5]\n"), /line 1: a section is \[Interface\] or \[Peer\]/);
});

files("several files: a place belongs to one", () => {
  const socks = (port: number) => parseService("socks5", String(port));
  const texts = access({ "/a.conf": PLAIN_CONF, "/b.conf": PLAIN_CONF, "/d/a.conf": PLAIN_CONF });
  const check =
    (...sources: { path: string; services: ReturnType<typeof socks>[] }[]) =>
    () =>
      Proxy.check({ sources, access: texts });
  check({ path: "/a.conf", services: [socks(1), socks(0), socks(0)] }, { path: "/b.conf", services: [socks(2)] })();
  check(
    { path: "/a.conf", services: [parseService("reverse", "80=80")] },
    { path: "/b.conf", services: [parseService("reverse", "80=81")] },
  )();
  check({ path: "/a.conf", services: [parseService("forward", "53=a:1"), parseService("udp-forward", "53=a:1")] })();
  assert.throws(
    check({ path: "/a.conf", services: [socks(1)] }, { path: "/b.conf", services: [socks(1)] }),
    /\/b.conf: socks5 on 127.0.0.1:1: socks5 on 127.0.0.1:1 has that place already/,
  );
  assert.throws(
    check({ path: "/a.conf", services: [parseService("stdio", "a:1"), parseService("stdio", "b:1")] }),
    /has that place already/,
  );
  assert.throws(
    check({ path: "/a.conf", services: [socks(1)] }, { path: "/d/a.conf", services: [socks(2)] }),
    /another file is called a too/,
  );
});

files("which changes need a new tunnel", () => {
  const base = parseConfig(PLAIN_CONF);
  const other = (from: string, to: string): boolean => sameInterface(base, parseConfig(PLAIN_CONF.replace(from, to)));
  assert.equal(other(PEER, PEER_B), true);
  assert.equal(other("[Peer]", "DNS = 1.1.1.1\n[Peer]"), true);
  assert.equal(other("10.7.0.1/32", "10.7.0.3/32"), false);
  assert.equal(other("[Peer]", "MTU = 1400\n[Peer]"), false);
});

files.run();

const metrics = suite("metrics");

const STATE = {
  privateKey: Buffer.from(PRIVATE, "base64"),
  listenPort: 1,
  fwmark: 0,
  peers: [
    {
      publicKey: Buffer.from(PEER, "base64"),
      presharedKey: Buffer.alloc(32, 9),
      persistentKeepalive: 25,
      endpoint: { family: 6 as const, address: parsePrefix("fd00::9/128").address, port: 5, scope: 0 },
      lastHandshake: { sec: 1700000000n, nsec: 5 },
      txBytes: 2n ** 60n,
      rxBytes: 7n,
      allowedIps: [parsePrefix("10.0.0.0/24"), parsePrefix("fd00::/64")],
    },
  ],
};

metrics("peers, as another program reads them", () => {
  assert.equal(formatEndpoint(STATE.peers[0].endpoint), "[fd00::9]:5");
  const friendlyNames = new Map([[PEER, 'the "best"\\one']]);
  const families = deviceFamilies([{ name: "wg0", state: STATE, friendlyNames, drops: new Map([["replayed", 4]]) }]);
  const text = formatMetrics(families, "text");
  const parsed = parsePrometheus(text) as {
    name: string;
    type: string;
    metrics: { value: string; labels: Record<string, string> }[];
  }[];
  const labels = {
    interface: "wg0",
    public_key: PEER,
    allowed_ips: "10.0.0.0/24,fd00::/64",
    friendly_name: 'the "best"\\one',
    remote_ip: "fd00::9",
    remote_port: "5",
  };
  const expected: [string, string, string, object][] = [
    ["wireguard_sent_bytes_total", "COUNTER", "1152921504606846976", labels],
    ["wireguard_received_bytes_total", "COUNTER", "7", labels],
    ["wireguard_latest_handshake_seconds", "GAUGE", "1700000000", labels],
    ["wireguard_persistent_keepalive_seconds", "GAUGE", "25", labels],
    ["wasmguard_dropped_packets_total", "COUNTER", "4", { interface: "wg0", reason: "replayed" }],
  ];
  assert.deepEqual(
    parsed.map(({ name, type, metrics: [{ value, labels }] }) => [name, type, value, labels]),
    expected,
  );
  assert.ok(!text.includes(PRIVATE) && !text.includes(Buffer.alloc(32, 9).toString("base64")), "nothing secret");
});

metrics("OpenMetrics describes families, and ends", () => {
  const families: MetricFamily[] = [counter("a_b", "what\nit is", [{ labels: {}, value: 1 }]), gauge("c", "none", [])];
  assert.equal(
    formatMetrics(families, "openmetrics"),
    "# HELP a_b what\\nit is\n# TYPE a_b counter\na_b_total 1\n# EOF\n",
  );
  assert.equal(
    formatMetrics(families, "text"),
    "# HELP a_b_total what\\nit is\n# TYPE a_b_total counter\na_b_total 1\n",
  );
  assert.equal(formatMetrics([], "text"), "");
});

metrics.run();
