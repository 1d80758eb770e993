// Configuration files: what wg(8) and wg-quick(8) document, then everything that can be wrong with a line.

import assert from "node:assert";
import fc from "fast-check";
import { suite } from "uvu";
import { ConfigError, parseConfig, toDeviceChange, unresolvedHosts } from "../../host/config.ts";
import { formatEndpoint } from "../../host/endpoint.ts";
import { formatIp, formatPrefix, parseIp } from "../../host/ip.ts";
import { encodeBase64Key } from "../../host/keys.ts";

const PRIVATE = Buffer.alloc(32, 0x51).toString("base64");
const PRESHARED = Buffer.alloc(32, 0x52).toString("base64");
const PEER_A = Buffer.alloc(32, 0xaa).toString("base64");
const PEER_B = Buffer.alloc(32, 0xbb).toString("base64");

const FULL = `# office
[Interface]
PrivateKey = ${PRIVATE}
ListenPort=51820
FwMark = 0xCAfe   # in hex
Address = 10.0.0.2/24, fd00::2/64
Address = 192.168.7.1
DNS = 10.0.0.1, corp.example,fd00::1
MTU = 1420
Table = off
PreUp = ip rule add x ; echo "a=b"
PostUp = one
postup = two
PreDown = three
PostDown = four
SaveConfig = true

[Peer]
PublicKey = ${PEER_A}
PresharedKey = ${PRESHARED}
AllowedIPs = 10.0.0.1/24, fd00::1
AllowedIPs =
Endpoint = vpn.example.org:51820
PersistentKeepalive = 25

[PEER]\r
  publickey\t=\t${PEER_B}  \r
endpoint = [2001:db8::1]:1
persistentkeepalive = off
`;

const files = suite("configuration files");

files("every key of wg and wg-quick", () => {
  const { interface: config, peers } = parseConfig(FULL);
  assert.strictEqual(encodeBase64Key(config.privateKey!), PRIVATE);
  assert.strictEqual(config.listenPort, 51820);
  assert.strictEqual(config.fwmark, 0xcafe);
  assert.deepStrictEqual(config.addresses.map(formatPrefix), ["10.0.0.2/24", "fd00::2/64", "192.168.7.1/32"]);
  assert.deepStrictEqual(
    config.dns.map((ip) => formatIp(ip.address)),
    ["10.0.0.1", "fd00::1"],
  );
  assert.deepStrictEqual(config.searchDomains, ["corp.example"]);
  assert.strictEqual(config.mtu, 1420);
  assert.strictEqual(config.table, "off");
  assert.deepStrictEqual(config.preUp, ['ip rule add x ; echo "a=b"']);
  assert.deepStrictEqual(config.postUp, ["one", "two"]);
  assert.deepStrictEqual(config.preDown, ["three"]);
  assert.deepStrictEqual(config.postDown, ["four"]);
  assert.strictEqual(config.saveConfig, true);

  assert.strictEqual(peers.length, 2);
  assert.strictEqual(encodeBase64Key(peers[0].publicKey), PEER_A);
  assert.strictEqual(encodeBase64Key(peers[0].presharedKey!), PRESHARED);
  assert.deepStrictEqual(peers[0].allowedIps.map(formatPrefix), ["10.0.0.0/24", "fd00::1/128"]);
  assert.deepStrictEqual(peers[0].endpoint, { host: "vpn.example.org", port: 51820 });
  assert.strictEqual(peers[0].persistentKeepalive, 25);
  assert.strictEqual(encodeBase64Key(peers[1].publicKey), PEER_B);
  assert.deepStrictEqual(peers[1].endpoint, { host: "2001:db8::1", port: 1 });
  assert.strictEqual(peers[1].persistentKeepalive, 0);
});

files("an empty file is an empty device", () => {
  const config = parseConfig("");
  assert.deepStrictEqual(config.peers, []);
  assert.deepStrictEqual(toDeviceChange(config), {
    privateKey: new Uint8Array(32),
    listenPort: 0,
    fwmark: 0,
    replacePeers: true,
    peers: [],
  });
});

files("as a change it is whole, with the names resolved by the caller", () => {
  const config = parseConfig(FULL);
  assert.deepStrictEqual(unresolvedHosts(config), ["vpn.example.org"]);
  assert.throws(() => toDeviceChange(config), { code: "ERR_UNRESOLVED_HOST", message: /vpn\.example\.org/ });
  const change = toDeviceChange(config, new Map([["vpn.example.org", parseIp("192.0.2.7")]]));
  assert.strictEqual(encodeBase64Key(change.privateKey!), PRIVATE);
  assert.deepStrictEqual([change.listenPort, change.fwmark, change.replacePeers], [51820, 0xcafe, true]);
  const [a, b] = change.peers;
  assert.deepStrictEqual([a.remove, a.updateOnly, a.replaceAllowedIps], [false, false, true]);
  assert.strictEqual(formatEndpoint(a.endpoint!), "192.0.2.7:51820");
  assert.strictEqual(formatEndpoint(b.endpoint!), "[2001:db8::1]:1");
  assert.deepStrictEqual(
    a.allowedIps.map(({ ip, remove }) => [formatPrefix(ip), remove]),
    [
      ["10.0.0.0/24", false],
      ["fd00::1/128", false],
    ],
  );
  assert.strictEqual(b.presharedKey, undefined);
});

files("a scope of an endpoint is asked for", () => {
  const config = parseConfig(`[Peer]\nPublicKey=${PEER_A}\nEndpoint=[fe80::1%eth0]:9\n`);
  assert.deepStrictEqual(unresolvedHosts(config), []);
  assert.strictEqual(toDeviceChange(config, new Map(), () => 4).peers[0].endpoint!.scope, 4);
});

files.run();

const mistakes = suite("configuration mistakes");

/** `line` as third line of a file, in [Interface] or, with a public key before it, in [Peer]. */
function refusal(section: "Interface" | "Peer", line: string): ConfigError {
  const head = section === "Peer" ? `[Peer]\nPublicKey = ${PEER_A}\n` : `[Interface]\n\n`;
  try {
    parseConfig(head + line + "\n");
  } catch (error) {
    assert.ok(error instanceof ConfigError, String(error));
    assert.strictEqual(error.code, "ERR_CONFIG");
    return error;
  }
  assert.fail(`accepted: ${line}`);
}

mistakes("line, key and value are named", () => {
  for (const [section, line, message] of [
    ["Interface", "ListenPort = 70000", 'line 3: ListenPort: "70000" is not a number in 0..65535'],
    ["Interface", "FwMark = 0x123456789", 'line 3: FwMark: "0x123456789" is not a number in 0..4294967295'],
    ["Interface", "MTU = 20", 'line 3: MTU: "20" is not a number in 68..65535'],
    ["Interface", "Address = 10.0.0.300/8", 'line 3: Address: "10.0.0.300" is not an IP address'],
    ["Interface", "Address = 10.0.0.1/8,", 'line 3: Address: "" is not an IP address'],
    ["Interface", "DNS = a b", 'line 3: DNS: "a b" is neither an address nor a host name'],
    ["Interface", "SaveConfig = yes", 'line 3: SaveConfig: "yes" is neither true nor false'],
    ["Interface", "Table = a b", 'line 3: Table: "a b" is not auto, off, a number or a name'],
    ["Interface", "Endpoint = 1.2.3.4:5", "line 3: Endpoint is not a key of [Interface]"],
    ["Peer", "PrivateKey = x", "line 3: PrivateKey is not a key of [Peer]"],
    ["Peer", "AllowedIPs = 10.0.0.0/33", 'line 3: AllowedIPs: prefix length "33" is not in 0..32'],
    ["Peer", "Endpoint = 10.0.0.1:70000", 'line 3: Endpoint: port "70000" is not in 1..65535'],
    ["Peer", "Endpoint = 10.0.0.300:7", 'line 3: Endpoint: "10.0.0.300" is neither an address nor a host name'],
    ["Peer", "Endpoint = host", 'line 3: Endpoint: "host" has no :port'],
    ["Peer", "PersistentKeepalive = -1", 'line 3: PersistentKeepalive: "-1" is not a number in 0..65535'],
    ["Peer", "PublicKey", "line 3: a line is Key = value"],
    ["Peer", "[Peers]", "line 3: a section is [Interface] or [Peer]"],
    ["Peer", "[Peer]", "line 3: this [Peer] has no PublicKey"],
  ] as const) {
    assert.strictEqual(refusal(section, line).message, message);
    assert.strictEqual(refusal(section, line).line, 3);
  }
  assert.throws(() => parseConfig("ListenPort = 1"), /line 1: a \[Interface\] or \[Peer\] must come first/);
});

mistakes("no secret is shown", () => {
  for (const line of [
    `PrivateKey = ${PRIVATE.slice(1)}`,
    `PrivateKey = ${PRIVATE}x`,
    `PrivateKey = !${PRIVATE.slice(1)}`,
    `ListenPort = ${PRIVATE}`,
    `Address = ${PRIVATE}`,
    `DNS = ${PRIVATE}`,
    `Table = ${PRIVATE}`,
    PRIVATE,
    PRIVATE.slice(0, 43),
    `[${PRIVATE}]`,
  ]) {
    assert.ok(!refusal("Interface", line).message.includes(PRIVATE.slice(1, 20)), line);
  }
  assert.strictEqual(
    refusal("Peer", `PresharedKey = ${PRESHARED.slice(1)}`).message,
    "line 3: PresharedKey: key has 43 characters of base64, not 44",
  );
});

mistakes("garbage is a ConfigError or a configuration, never a crash", () => {
  const line = fc.oneof(
    fc.constantFrom("[Interface]", "[Peer]", `PublicKey=${PEER_A}`, "AllowedIPs=0.0.0.0/0,", "#", "=", "__proto__=1"),
    fc.string(),
    fc.string({ unit: "binary" }),
  );
  fc.assert(
    fc.property(fc.array(line), (all) => {
      try {
        parseConfig(all.join("\n"));
      } catch (error) {
        assert.ok(error instanceof ConfigError, String(error));
      }
    }),
    { numRuns: 500 },
  );
});

mistakes.run();
