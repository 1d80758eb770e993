// The text of the UAPI: each rule once, then properties over random devices, random garbage and random cuts.

import assert from "node:assert";
import fc from "fast-check";
import { suite } from "uvu";
import { ERRNO } from "../../host/errors.ts";
import { parseEndpoint } from "../../host/endpoint.ts";
import { parsePrefix } from "../../host/ip.ts";
import { createPeerChange, type DeviceChange, type DeviceState, type PeerChange } from "../../host/model.ts";
import {
  LINE_MAX_LEN,
  REQUEST_MAX_LEN,
  RequestReader,
  UapiError,
  formatReply,
  formatState,
  parseRequest,
  parseState,
  type Operation,
} from "../../host/uapi.ts";
import { deviceState } from "./arbitrary.ts";
import { MemoryDevice } from "./memory-device.ts";

const KEY_A = "aa".repeat(32);
const KEY_B = "bb".repeat(32);
const SECRET = "5ec2e7".repeat(10) + "5ec2";
const bytes = (hex: string) => new Uint8Array(Buffer.from(hex, "hex"));
const encode = (text: string) => new TextEncoder().encode(text);
const lines = (text: string) => text.split("\n").filter((line) => line !== "");

/** The change of a set with these lines. */
function set(...requestLines: string[]): DeviceChange {
  const request = parseRequest(["set=1", ...requestLines]);
  assert.strictEqual(request.kind, "set");
  return (request as { change: DeviceChange }).change;
}

function peer(key: string, fields: Partial<PeerChange> = {}): PeerChange {
  return { ...createPeerChange(bytes(key)), ...fields };
}

function assertRefused(code: "EPROTO" | "EINVAL", message: RegExp, ...requestLines: string[]): void {
  assert.throws(
    () => parseRequest(requestLines),
    (error: unknown) => {
      assert.ok(error instanceof UapiError, String(error));
      assert.strictEqual(error.code, code, error.message);
      assert.strictEqual(error.errno, ERRNO[code]);
      assert.match(error.message, message);
      return true;
    },
  );
}

const rules = suite("UAPI rules");

rules("get and set are told apart", () => {
  assert.deepStrictEqual(parseRequest(["get=1"]), { kind: "get" });
  assert.deepStrictEqual(set(), { replacePeers: false, peers: [] });
  assertRefused("EPROTO", /begins with/);
  for (const line of ["", "get=2", "get", "set=1 ", "SET=1", "public_key=1"]) assertRefused("EPROTO", /begins/, line);
  assertRefused("EINVAL", /get=1/, "get=1", "private_key=" + SECRET);
});

rules("keys of the device", () => {
  const change = set(`private_key=${SECRET}`, "listen_port=51820", "fwmark=4294967295", "replace_peers=true");
  assert.deepStrictEqual(change, {
    privateKey: bytes(SECRET),
    listenPort: 51820,
    fwmark: 0xffffffff,
    replacePeers: true,
    peers: [],
  });
  assert.deepStrictEqual(set(`private_key=${"00".repeat(32)}`).privateKey, new Uint8Array(32));
});

rules("keys of a peer", () => {
  const change = set(
    `public_key=${KEY_A}`,
    "update_only=true",
    `preshared_key=${SECRET}`,
    "endpoint=[2001:db8::1]:51820",
    "persistent_keepalive_interval=25",
    "replace_allowed_ips=true",
    "allowed_ip=10.1.2.3/8",
    "allowed_ip=-fd00::/64",
    "protocol_version=1",
  );
  assert.deepStrictEqual(change.peers, [
    peer(KEY_A, {
      updateOnly: true,
      presharedKey: bytes(SECRET),
      endpoint: parseEndpoint("[2001:db8::1]:51820"),
      persistentKeepalive: 25,
      replaceAllowedIps: true,
      allowedIps: [
        { ip: parsePrefix("10.0.0.0/8"), remove: false },
        { ip: parsePrefix("fd00::/64"), remove: true },
      ],
    }),
  ]);
});

rules("every public_key starts clean, also the same once more", () => {
  const loaded = [
    `preshared_key=${SECRET}`,
    "endpoint=1.2.3.4:5",
    "update_only=true",
    "persistent_keepalive_interval=9",
  ];
  const change = set(`public_key=${KEY_A}`, ...loaded, `public_key=${KEY_B}`, `public_key=${KEY_A}`);
  assert.deepStrictEqual(change.peers.slice(1), [peer(KEY_B), peer(KEY_A)]);
  const removed = set(`public_key=${KEY_A}`, "remove=true", `public_key=${KEY_B}`);
  assert.deepStrictEqual(removed.peers, [peer(KEY_A, { remove: true }), peer(KEY_B)]);
});

rules("the other lines of a removed peer count for nothing, but must be right", () => {
  const change = set(
    `public_key=${KEY_A}`,
    `preshared_key=${SECRET}`,
    "allowed_ip=10.0.0.0/8",
    "remove=true",
    "remove=true",
    "update_only=true",
    "allowed_ip=10.0.0.0/8",
    "endpoint=1.2.3.4:5",
  );
  assert.deepStrictEqual(change.peers, [peer(KEY_A, { remove: true })]);
  assertRefused("EINVAL", /endpoint/, "set=1", `public_key=${KEY_A}`, "remove=true", "endpoint=nowhere");
});

rules("replace_allowed_ips drops what the peer was given before it", () => {
  const change = set(`public_key=${KEY_A}`, "allowed_ip=1.0.0.0/8", "replace_allowed_ips=true", "allowed_ip=2.0.0.0/8");
  assert.deepStrictEqual(change.peers[0].allowedIps, [{ ip: parsePrefix("2.0.0.0/8"), remove: false }]);
});

rules("a line without = and another protocol are EPROTO", () => {
  assertRefused("EPROTO", /no =/, "set=1", "listen_port");
  assertRefused("EPROTO", /protocol_version "2"/, "set=1", `public_key=${KEY_A}`, "protocol_version=2");
});

rules("an unknown key, a key in the wrong section and a bad value are EINVAL and named", () => {
  const inPeer = ["set=1", `public_key=${KEY_A}`];
  assertRefused("EINVAL", /^listen_ports is not a key of a device/, "set=1", "listen_ports=1");
  assertRefused("EINVAL", /^endpoint is not a key of a device/, "set=1", "endpoint=1.2.3.4:5");
  for (const line of ["private_key=" + SECRET, "listen_port=1", "replace_peers=true", "last_handshake_time_sec=1"]) {
    assertRefused("EINVAL", /is not a key of a peer/, ...inPeer, line);
  }
  for (const key of ["__proto__", "constructor", "toString", "hasOwnProperty"]) {
    assertRefused("EINVAL", /is not a key/, "set=1", `${key}=true`);
    assertRefused("EINVAL", /is not a key/, ...inPeer, `${key}=true`);
  }
  for (const value of ["65536", "-1", "+1", "01", "1.0", "0x10", "", " 1", "1e3", "99999999999999999999"]) {
    assertRefused("EINVAL", /^listen_port: .* is not a number in 0..65535/, "set=1", `listen_port=${value}`);
    assertRefused("EINVAL", /^persistent_keepalive_interval: /, ...inPeer, `persistent_keepalive_interval=${value}`);
  }
  assertRefused("EINVAL", /^fwmark: "4294967296"/, "set=1", "fwmark=4294967296");
  for (const value of ["false", "1", "", "TRUE", "true "]) {
    assertRefused("EINVAL", /^replace_peers: /, "set=1", `replace_peers=${value}`);
    for (const key of ["remove", "update_only", "replace_allowed_ips"]) {
      assertRefused("EINVAL", new RegExp(`^${key}: `), ...inPeer, `${key}=${value}`);
    }
  }
  assertRefused("EINVAL", /^endpoint: port "70000" is not in 1..65535/, ...inPeer, "endpoint=10.0.0.1:70000");
  assertRefused("EINVAL", /^endpoint: /, ...inPeer, "endpoint=example.org:51820");
  assertRefused("EINVAL", /^allowed_ip: "10.0.0.1" has no \/cidr/, ...inPeer, "allowed_ip=10.0.0.1");
  assertRefused("EINVAL", /^allowed_ip: /, ...inPeer, "allowed_ip=--10.0.0.1/8");
  assertRefused("EINVAL", /^allowed_ip: /, ...inPeer, "allowed_ip=+10.0.0.1/8");
});

rules("no refusal shows a key, wherever it came", () => {
  const base64 = Buffer.from(SECRET, "hex").toString("base64");
  for (const secret of [SECRET, SECRET.slice(1), SECRET.toUpperCase(), base64]) {
    const inPeer = [`public_key=${KEY_A}`, `preshared_key=${secret}z`];
    for (const bad of [
      [`private_key=${secret}z`],
      [`private_key= ${secret}`],
      [secret],
      [`${secret}=`],
      [`listen_port=${secret}`],
      [`public_key=${secret}z`],
      inPeer,
      [inPeer[0], `endpoint=${secret}:1`],
      [inPeer[0], `allowed_ip=${secret}/8`],
    ]) {
      assert.throws(
        () => set(...bad),
        (error: Error) =>
          error instanceof UapiError && !error.message.toLowerCase().includes(secret.slice(1, 30).toLowerCase()),
      );
    }
  }
});

rules.run();

const replies = suite("UAPI replies");

replies("keys come in the order of wireguard-go, and only those that are set", () => {
  const full: DeviceState = {
    privateKey: bytes(SECRET),
    listenPort: 51820,
    fwmark: 7,
    peers: [
      {
        publicKey: bytes(KEY_A),
        presharedKey: new Uint8Array(32),
        endpoint: parseEndpoint("[fe80::1%3]:9"),
        lastHandshake: { sec: 1700000000n, nsec: 0 },
        txBytes: 2n ** 64n - 1n,
        rxBytes: 1n,
        persistentKeepalive: 25,
        allowedIps: [parsePrefix("10.0.0.0/8"), parsePrefix("::/0")],
      },
    ],
  };
  assert.strictEqual(
    formatState(full),
    `private_key=${SECRET}
listen_port=51820
fwmark=7
public_key=${KEY_A}
preshared_key=${"0".repeat(64)}
protocol_version=1
endpoint=[fe80::1%3]:9
last_handshake_time_sec=1700000000
last_handshake_time_nsec=1
tx_bytes=18446744073709551615
rx_bytes=1
persistent_keepalive_interval=25
allowed_ip=10.0.0.0/8
allowed_ip=::/0
`,
  );
  assert.strictEqual(formatState({ privateKey: null, listenPort: 0, fwmark: 0, peers: [] }), "");
});

replies("a set answers with a negative errno, a get with a positive one", () => {
  assert.strictEqual(formatReply("set", 0), "errno=0\n\n");
  assert.strictEqual(formatReply("get", 0, "fwmark=1\n"), "fwmark=1\nerrno=0\n\n");
  assert.strictEqual(formatReply("set", 22), "errno=-22\n\n");
  assert.strictEqual(formatReply("get", 22), "errno=22\n\n");
});

replies("a client reads back the state", () => {
  fc.assert(
    fc.property(deviceState, (state) => {
      assert.deepStrictEqual(parseState(lines(formatState(state))), state);
    }),
  );
  assert.throws(() => parseState([`private_key=${SECRET}0`]), /^UapiError: private_key: /);
  assert.throws(() => parseState(["what"]), /no =/);
});

replies("the state, set on an empty device, gives the same device", async () => {
  const reportOnly = /^(last_handshake_time_n?sec|[tr]x_bytes)=/;
  await fc.assert(
    fc.asyncProperty(deviceState, async (state) => {
      const device = new MemoryDevice();
      await device.apply(set(...lines(formatState(state)).filter((line) => !reportOnly.test(line))));
      const settings = (text: string) => lines(text).filter((line) => !reportOnly.test(line));
      assert.deepStrictEqual(settings(formatState(device.device)), settings(formatState(state)));
    }),
  );
});

replies.run();

const reader = suite("UAPI reader");

/** Operations of `text`, cut at `cuts`. */
function read(text: string, cuts: number[] = []): { operations: Operation[]; broken: boolean; idle: boolean } {
  const requestReader = new RequestReader();
  const data = encode(text);
  const at = [0, ...cuts.map((cut) => cut % (data.length + 1)).sort((a, b) => a - b), data.length];
  const operations = at.slice(1).flatMap((end, i) => requestReader.push(data.subarray(at[i], end)));
  return { operations, broken: requestReader.broken, idle: requestReader.idle };
}

/** What can be compared of an operation: errors by code and text. */
function summary(operations: Operation[]): unknown[] {
  return operations.map((it) => (it.kind === "refused" ? [it.of, it.error.code, it.error.message] : it));
}

const line = fc.oneof(
  fc.constantFrom("get=1", "set=1", "", "listen_port=1", "listen_port=x", `public_key=${KEY_A}`, "remove=true"),
  fc.constantFrom("allowed_ip=10.0.0.0/8", "allowed_ip=-::/0", "endpoint=1.2.3.4:5", "protocol_version=1", "what"),
  fc.string({ unit: "binary" }),
);
const garbage = fc.array(line, { maxLength: 20 }).map((all) => all.join("\n"));

reader("several operations of one connection", () => {
  const { operations, idle } = read(`get=1\n\nset=1\nfwmark=1\n\nset=1\nfwmark=x\nfwmark=2\n\nget=1\nx=1\n\nget=1\n\n`);
  assert.deepStrictEqual(summary(operations), [
    { kind: "get" },
    { kind: "set", change: { fwmark: 1, replacePeers: false, peers: [] } },
    ["set", "EINVAL", 'fwmark: "x" is not a number in 0..4294967295'],
    ["get", "EINVAL", "get=1 takes no further lines"],
    { kind: "get" },
  ]);
  assert.ok(idle);
});

reader("wherever it is cut, the operations are the same", () => {
  fc.assert(
    fc.property(garbage, fc.array(fc.nat(2000), { maxLength: 12 }), (text, cuts) => {
      const whole = read(text);
      const cut = read(text, cuts);
      assert.deepStrictEqual(summary(cut.operations), summary(whole.operations));
      assert.deepStrictEqual([cut.broken, cut.idle], [whole.broken, whole.idle]);
    }),
    { numRuns: 500 },
  );
});

reader("garbage gets an errno, and nothing else happens", () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (data) => {
      for (const start of ["", "get=1\n", "set=1\n", `set=1\npublic_key=${KEY_A}\n`]) {
        const requestReader = new RequestReader();
        const operations = [
          ...requestReader.push(encode(start)),
          ...requestReader.push(data),
          ...requestReader.push(encode("\n\n")),
        ];
        assert.ok(operations.length > 0);
        for (const it of operations) {
          if (it.kind === "refused") assert.ok(it.error.errno > 0);
        }
      }
    }),
    { numRuns: 500 },
  );
});

reader("what begins no request breaks the connection at its first line", () => {
  for (const text of ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\nget=1\n\n", "get=1\r\n\r\n"]) {
    const { operations, broken } = read(text);
    assert.deepStrictEqual(summary(operations), [["set", "EPROTO", "a request begins with get=1 or set=1"]]);
    assert.ok(broken);
  }
});

reader("a line without end is cut off at its limit, one of that length is still read", () => {
  const requestReader = new RequestReader();
  requestReader.push(encode("set=1\n"));
  const chunk = encode("x".repeat(1000));
  for (let i = 0; i < 4; i++) assert.deepStrictEqual(requestReader.push(chunk), []);
  assert.deepStrictEqual(summary(requestReader.push(chunk)), [["set", "EMSGSIZE", "a line is longer than 4096 bytes"]]);
  assert.ok(requestReader.broken);
  assert.deepStrictEqual(requestReader.push(encode("\n\nget=1\n\n")), []);
  assert.match(String(summary(read(`set=1\n${"x".repeat(LINE_MAX_LEN)}\n\n`).operations)), /EPROTO/);
  assert.match(String(summary(read(`get=1\n${"x".repeat(LINE_MAX_LEN + 1)}\n\n`).operations)), /get,EMSGSIZE/);
});

reader("a request without end is cut off at its limit", () => {
  const requestReader = new RequestReader();
  requestReader.push(encode("set=1\nwhat\n")); // refused already: its lines are only counted
  const chunk = encode(("x".repeat(1023) + "\n").repeat(1024));
  const operations: Operation[] = [];
  for (let i = 0; i < REQUEST_MAX_LEN / chunk.length; i++) operations.push(...requestReader.push(chunk));
  assert.deepStrictEqual(summary(operations), [
    ["set", "EMSGSIZE", `a request is longer than ${REQUEST_MAX_LEN} bytes`],
  ]);
});

reader("10,000 peers are one set", () => {
  const text: string[] = ["set=1", "replace_peers=true"];
  for (let i = 0; i < 10_000; i++) {
    text.push(`public_key=${i.toString(16).padStart(64, "0")}`, "replace_allowed_ips=true");
    for (let j = 0; j < 10; j++) text.push(`allowed_ip=10.${i >> 8}.${i & 255}.${j}/32`);
  }
  const [operation] = read(text.join("\n") + "\n\n", [70_000, 300_000, 1_000_001]).operations;
  assert.strictEqual(operation.kind, "set");
  const { peers } = (operation as { change: DeviceChange }).change;
  assert.strictEqual(peers.length, 10_000);
  assert.ok(peers.every((it) => it.allowedIps.length === 10));
});

reader.run();
