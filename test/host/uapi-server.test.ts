// The socket server: its file, its clients good and bad, and the real `wg` against it. The device is settings alone.
// `wg` looks in /var/run/wireguard only, so those tests need root and wireguard-tools.

import assert from "node:assert";
import { execFile, execFileSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, unlinkSync, writeFileSync } from "node:fs";
import { type Socket, connect } from "node:net";
import { networkInterfaces, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { x25519 } from "@noble/curves/ed25519.js";
import fc from "fast-check";
import { suite } from "uvu";
import { parseEndpoint } from "../../host/endpoint.ts";
import { formatPrefix } from "../../host/ip.ts";
import { encodeBase64Key, generatePrivateKey, generatePresharedKey } from "../../host/keys.ts";
import type { DeviceState } from "../../host/model.ts";
import { formatShow } from "../../host/show.ts";
import { listInterfaces, readState } from "../../host/uapi-client.ts";
import { socketPath, startUapiServer, type UapiServer, type UapiServerOptions } from "../../host/uapi-server.ts";
import { deviceState } from "./arbitrary.ts";
import { leaveDeadSocket, openListeningFd } from "./listening-fd.ts";
import { MemoryDevice } from "./memory-device.ts";

const KEY_A = "aa".repeat(32);

interface Setup {
  device: MemoryDevice;
  server: UapiServer;
  directory: string;
  path: string;
  removed: Promise<void>;
  start(options?: Partial<UapiServerOptions>): Promise<UapiServer>;
}

/** Runs `use` with a server in a directory of its own. */
async function withServer(
  use: (setup: Setup) => Promise<void>,
  options: Partial<UapiServerOptions> = {},
): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "uapi-"));
  const device = new MemoryDevice();
  let onRemoved = () => {};
  const removed = new Promise<void>((resolve) => (onRemoved = resolve));
  const start = (more = {}) => startUapiServer({ name: "wgt0", device, directory, onRemoved, ...options, ...more });
  const server = await start();
  try {
    await use({ device, server, directory, path: server.path, removed, start });
  } finally {
    await server.close();
    rmSync(directory, { recursive: true });
  }
}

/** Sends each piece in a write of its own and collects what comes until `count` replies, the end or a reset. */
async function exchange(path: string, pieces: (string | Uint8Array)[], count = 1): Promise<string> {
  const socket = await dial(path);
  let text = "";
  try {
    for (const piece of pieces) await new Promise((resolve) => socket.write(piece, resolve));
    while (text.split(/errno=-?\d+\n\n/).length <= count) {
      const data = once(socket, "data").catch(() => [undefined]);
      const [chunk] = await Promise.race([data, once(socket, "close").then(() => [undefined])]);
      if (typeof chunk !== "string") break;
      text += chunk;
    }
    return text;
  } finally {
    socket.destroy();
  }
}

async function dial(path: string): Promise<Socket> {
  const socket = connect(path);
  socket.setEncoding("latin1");
  socket.on("error", () => {});
  await once(socket, "connect");
  return socket;
}

const files = suite("UAPI socket file");

files("is for its owner alone, made without a trace, gone after close", () =>
  withServer(async ({ server, directory, path }) => {
    assert.strictEqual(path, join(directory, "wgt0.sock"));
    assert.deepStrictEqual(readdirSync(directory), ["wgt0.sock"]);
    const stat = statSync(path);
    assert.ok(stat.isSocket());
    assert.strictEqual(stat.mode & 0o777, 0o600);
    await server.close();
    await server.close();
    assert.deepStrictEqual(readdirSync(directory), []);
  }),
);

files("its directory is made, for all to see", async () => {
  const parent = mkdtempSync(join(tmpdir(), "uapi-"));
  const directory = join(parent, "wireguard");
  const server = await startUapiServer({ name: "wgt0", device: new MemoryDevice(), directory });
  assert.strictEqual(statSync(directory).mode & 0o777, 0o755);
  assert.deepStrictEqual(listInterfaces(directory), ["wgt0"]);
  await server.close();
  assert.deepStrictEqual(listInterfaces(join(parent, "none")), []);
  rmSync(parent, { recursive: true });
});

files("a live one is left alone, with a clear word", () =>
  withServer(async ({ path, directory, start }) => {
    await assert.rejects(start(), {
      code: "ERR_ALREADY_RUNNING",
      message: /^wgt0 is already running \(its socket .* answers\)$/,
    });
    assert.strictEqual(await exchange(path, ["get=1\n\n"]), "errno=0\n\n");
    assert.deepStrictEqual(readdirSync(directory), ["wgt0.sock"]);
  }),
);

files("a dead one is replaced", async () => {
  const directory = mkdtempSync(join(tmpdir(), "uapi-"));
  const path = join(directory, "wgt0.sock");
  await leaveDeadSocket(path);
  assert.ok(statSync(path).isSocket());
  const server = await startUapiServer({ name: "wgt0", device: new MemoryDevice(), directory });
  assert.strictEqual(await exchange(path, ["get=1\n\n"]), "errno=0\n\n");
  await server.close();
  rmSync(directory, { recursive: true });
});

files("another kind of file is not touched", async () => {
  const directory = mkdtempSync(join(tmpdir(), "uapi-"));
  writeFileSync(join(directory, "wgt0.sock"), "mine");
  const start = startUapiServer({ name: "wgt0", device: new MemoryDevice(), directory });
  await assert.rejects(start, { code: "EEXIST", message: /is not a socket: remove it/ });
  assert.deepStrictEqual(readdirSync(directory), ["wgt0.sock"]);
  rmSync(directory, { recursive: true });
});

files("its removal is told, and nothing else in the directory is", () =>
  withServer(async ({ path, directory, removed }) => {
    let told = false;
    void removed.then(() => (told = true));
    writeFileSync(join(directory, "other.sock"), "");
    unlinkSync(join(directory, "other.sock"));
    await exchange(path, ["get=1\n\n"]);
    assert.ok(!told);
    unlinkSync(path);
    await removed;
  }),
);

files("a successor's is not taken away", () =>
  withServer(async ({ server, path, removed, start }) => {
    unlinkSync(path);
    const successor = await start({ onRemoved: undefined });
    await removed;
    await server.close();
    assert.strictEqual(await exchange(path, ["get=1\n\n"]), "errno=0\n\n");
    await successor.close();
    assert.ok(!existsSync(path));
  }),
);

files("close cuts the connections", () =>
  withServer(async ({ server, path }) => {
    const idle = await dial(path);
    const closed = once(idle.resume(), "close");
    await server.close();
    await closed;
  }),
);

files("a listening descriptor can be inherited", async () => {
  const directory = mkdtempSync(join(tmpdir(), "uapi-"));
  const path = join(directory, "wgt0.sock");
  const fd = await openListeningFd(path);
  const server = await startUapiServer({ name: "wgt0", device: new MemoryDevice(), directory, fd });
  assert.strictEqual(await exchange(path, ["get=1\n\n"]), "errno=0\n\n");
  await server.close();
  assert.ok(!existsSync(path));
  rmSync(directory, { recursive: true });
});

files("a name that no interface can have is refused", () => {
  for (const name of ["", "a/b", "..", ".", "sixteen-letters-", "a b", "a\n"])
    assert.throws(() => socketPath(name), RangeError);
  assert.strictEqual(socketPath("wg0"), "/var/run/wireguard/wg0.sock");
});

files.run();

const clients = suite("UAPI clients");

clients("many operations a connection, also when all come at once", () =>
  withServer(async ({ device, path }) => {
    const request = "set=1\nfwmark=7\n\nget=1\n\nset=1\nfwmark=x\n\nget=1\nx=1\n\nget=1\n\n";
    const reply = "errno=0\n\nfwmark=7\nerrno=0\n\nerrno=-22\n\nerrno=22\n\nfwmark=7\nerrno=0\n\n";
    assert.strictEqual(await exchange(path, [request], 5), reply);
    assert.strictEqual(await exchange(path, [...request], 5), reply);
    assert.strictEqual(device.applied, 2);
  }),
);

clients("a client that ends its side first still gets its reply", () =>
  withServer(async ({ path }) => {
    const socket = await dial(path);
    socket.end("set=1\nlisten_port=5\n\nget=1\n\n");
    let text = "";
    for await (const chunk of socket) text += chunk;
    assert.strictEqual(text, "errno=0\n\nlisten_port=5\nerrno=0\n\n");
  }),
);

clients("a refused set is not applied, whatever came before its bad line", () =>
  withServer(async ({ device, path }) => {
    const line = fc.constantFrom("listen_port=x", "what", "allowed_ip=1", "remove=no", "protocol_version=2", "\0=");
    await fc.assert(
      fc.asyncProperty(line, async (bad) => {
        const reply = await exchange(path, [`set=1\nfwmark=1\npublic_key=${KEY_A}\nremove=true\n${bad}\n\n`]);
        assert.match(reply, /^errno=-\d+\n\n$/);
      }),
      { numRuns: 20 },
    );
    assert.strictEqual(device.applied, 0);
    assert.deepStrictEqual(device.device.peers, []);
  }),
);

clients("what the device refuses comes back as its errno", () =>
  withServer(async ({ device, path }) => {
    const busy = Object.assign(new Error("port in use"), { code: "EADDRINUSE", errno: -98 });
    for (const [error, reply] of [
      [busy, "errno=-98\n\n"],
      [Object.assign(new Error("own table"), { errno: 12 }), "errno=-12\n\n"],
      [new Error("no code at all"), "errno=-5\n\n"],
    ] as const) {
      device.refusal = error;
      assert.strictEqual(await exchange(path, ["set=1\nlisten_port=1\n\n"]), reply);
    }
  }),
);

clients("garbage gets an errno and an end, the others are served", () =>
  withServer(async ({ device, path }) => {
    const steady = await dial(path);
    for (const garbage of ["\n", "GET / HTTP/1.1\r\n\r\n", "\0".repeat(5000), new Uint8Array(100_000).fill(255)]) {
      assert.match(await exchange(path, [garbage], 2), /^errno=-(71|90)\n\n$/);
    }
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), async (data) => {
        const reply = await exchange(path, ["set=1\n", data, "\n\n"], 1);
        assert.match(reply, /^errno=(0|-\d+)\n\n/);
      }),
      { numRuns: 50 },
    );
    steady.write("get=1\n\n");
    assert.deepStrictEqual(await once(steady, "data"), ["errno=0\n\n"]);
    steady.destroy();
    assert.deepStrictEqual(device.device.peers, []);
  }),
);

clients("one that stops in the middle is cut off, one between requests is not", () =>
  withServer(
    async ({ path }) => {
      const patient = await dial(path);
      patient.write("get=1\n\n");
      await once(patient, "data");
      const stalled = await dial(path);
      stalled.resume();
      stalled.write("set=1\nprivate_ke");
      await once(stalled, "close");
      patient.write("get=1\n\n");
      assert.deepStrictEqual(await once(patient, "data"), ["errno=0\n\n"]);
      patient.destroy();
    },
    { stallMs: 100 },
  ),
);

clients("one that never reads costs one reply, is cut off, and holds up nobody", () =>
  withServer(
    async ({ device, path }) => {
      const peers = Array.from({ length: 10_000 }, (_, i) => `public_key=${i.toString(16).padStart(64, "0")}\n`);
      assert.strictEqual(await exchange(path, [`set=1\n${peers.join("")}\n`]), "errno=0\n\n");
      const deaf = connect(path).pause();
      deaf.on("error", () => {});
      const closed = once(deaf, "close");
      for (let i = 0; i < 100; i++) deaf.write("get=1\n\n");
      assert.strictEqual((await readState("wgt0", join(path, ".."))).peers.length, 10_000);
      assert.ok(device.asked <= 3, `${device.asked} replies made`);
      await sleep(600); // longer than stallMs: by now the server has given it up
      deaf.resume();
      await closed;
      assert.ok(device.asked <= 3, `${device.asked} replies made`);
    },
    { stallMs: 300 },
  ),
);

clients("more connections than fit push out the longest silent", () =>
  withServer(async ({ path }) => {
    const first = await dial(path);
    const firstClosed = once(first.resume(), "close");
    const second = await dial(path);
    const sockets = [];
    for (let i = 0; i < 62; i++) sockets.push(await dial(path));
    second.write("get=1\n\n");
    await once(second, "data");
    sockets.push(await dial(path));
    await firstClosed;
    second.write("get=1\n\n");
    assert.deepStrictEqual(await once(second, "data"), ["errno=0\n\n"]);
    for (const socket of [second, ...sockets]) socket.destroy();
  }),
);

clients("the scope of an endpoint may be an interface's name", () =>
  withServer(async ({ device, path }) => {
    const [name] = Object.keys(networkInterfaces());
    const set = (scope: string) => exchange(path, [`set=1\npublic_key=${KEY_A}\nendpoint=[fe80::1%${scope}]:7\n\n`]);
    assert.strictEqual(await set(name), "errno=0\n\n");
    assert.ok(device.device.peers[0].endpoint!.scope > 0);
    assert.strictEqual(await set("../lo"), "errno=-22\n\n");
  }),
);

clients("readState gives the state, or says why not", async () => {
  await withServer(async ({ device, directory }) => {
    await fc.assert(
      fc.asyncProperty(deviceState, async (state) => {
        device.device = state;
        assert.deepStrictEqual(await readState("wgt0", directory), state);
      }),
      { numRuns: 20 },
    );
    device.state = () => {
      throw Object.assign(new Error("gone"), { code: "ENODEV" });
    };
    await assert.rejects(readState("wgt0", directory), { code: "ERR_UAPI", errno: 19 });
    await assert.rejects(readState("wgt1", directory), { code: "ENOENT" });
  });
});

clients.run();

const tools = suite("wg, the program");
const toolsMissing = process.getuid?.() !== 0 ? "root" : hasWg() ? "" : "wireguard-tools";
const name = `wgt${process.pid % 100_000}`;

function hasWg(): boolean {
  try {
    return execFileSync("wg", ["--version"]).length > 0;
  } catch {
    return false;
  }
}

/** Runs wg; `code` and what it printed. `{}` in an argument is the path of a file that holds `input`. */
async function wg(args: string[], input = "", env = {}): Promise<{ code: number; stdout: string; stderr: string }> {
  const directory = mkdtempSync(join(tmpdir(), "wg-"));
  const file = join(directory, "input");
  writeFileSync(file, input, { mode: 0o600 });
  const full = args.map((arg) => arg.replace("{}", file));
  const result = await new Promise<{ code: number; stdout: string; stderr: string }>((resolve) => {
    execFile("wg", full, { env: { ...process.env, ...env } }, (error, stdout, stderr) =>
      resolve({ code: error ? Number(error.code ?? -1) : 0, stdout, stderr }),
    );
  });
  rmSync(directory, { recursive: true });
  return result;
}

async function wgDone(args: string[], input = "", env = {}): Promise<string> {
  const { code, stdout, stderr } = await wg(args, input, env);
  assert.deepStrictEqual([code, stderr], [0, ""], args.join(" "));
  return stdout;
}

/** As `tools`, with a server where wg looks for it. */
function withWg(title: string, use: (device: MemoryDevice) => Promise<void>): void {
  if (toolsMissing) return;
  tools(title, async () => {
    const device = new MemoryDevice();
    const server = await startUapiServer({ name, device });
    try {
      await use(device);
    } finally {
      await server.close();
    }
  });
}

const privateKey = generatePrivateKey();
const presharedKey = generatePresharedKey();
const [peerA, peerB, peerC] = [1, 2, 3].map(() => encodeBase64Key(x25519.getPublicKey(generatePrivateKey())));
const find = (device: MemoryDevice, key: string) =>
  device.device.peers.find((it) => encodeBase64Key(it.publicKey) === key);

const CONFIG = `[Interface]
ListenPort = 51820
FwMark = 0xca6c
PrivateKey = ${encodeBase64Key(privateKey)}

[Peer]
PublicKey = ${peerA}
PresharedKey = ${encodeBase64Key(presharedKey)}
AllowedIPs = 10.0.0.0/24, fd00::/64
Endpoint = [2001:db8::1]:51820
PersistentKeepalive = 25

[Peer]
PublicKey = ${peerB}
AllowedIPs = 192.168.0.0/16
Endpoint = 192.0.2.1:7
`;

withWg("set gives every value, and show dump reads it", async (device) => {
  await wgDone(
    ["set", name, "listen-port", "51820", "fwmark", "0xca6c", "private-key", "{}"],
    encodeBase64Key(privateKey),
  );
  const peer = [
    "peer",
    peerA,
    "endpoint",
    "[fe80::1%lo]:51820",
    "persistent-keepalive",
    "25",
    "allowed-ips",
    "10.0.0.0/8,::/0",
  ];
  await wgDone(["set", name, ...peer, "preshared-key", "{}"], encodeBase64Key(presharedKey));
  await wgDone(["set", name, "peer", peerB]);
  assert.deepStrictEqual(device.device.privateKey, privateKey);
  assert.strictEqual(device.device.fwmark, 0xca6c);
  const [a] = device.device.peers;
  assert.deepStrictEqual(a.presharedKey, presharedKey);
  assert.deepStrictEqual(a.endpoint, parseEndpoint("[fe80::1%1]:51820"));
  assert.deepStrictEqual(a.allowedIps.map(formatPrefix), ["10.0.0.0/8", "::/0"]);
  Object.assign(a, { lastHandshake: { sec: 1_700_000_000, nsec: 0 }, txBytes: 2n ** 63n, rxBytes: 3n });
  const publicKey = encodeBase64Key(x25519.getPublicKey(privateKey));
  assert.strictEqual(
    await wgDone(["show", name, "dump"]),
    [
      [encodeBase64Key(privateKey), publicKey, "51820", "0xca6c"],
      [
        peerA,
        encodeBase64Key(presharedKey),
        "[fe80::1%lo]:51820",
        "10.0.0.0/8,::/0",
        "1700000000",
        "3",
        2n ** 63n,
        "25",
      ],
      [peerB, "(none)", "(none)", "(none)", "0", "0", "0", "off"],
    ]
      .map((row) => row.join("\t") + "\n")
      .join(""),
  );
});

withWg("set takes things away", async (device) => {
  await wgDone(["setconf", name, "{}"], CONFIG);
  await wgDone(["set", name, "private-key", "/dev/null", "fwmark", "off", "peer", peerB, "remove"]);
  await wgDone([
    "set",
    name,
    "peer",
    peerA,
    "preshared-key",
    "/dev/null",
    "persistent-keepalive",
    "off",
    "allowed-ips",
    "",
  ]);
  assert.strictEqual(device.device.privateKey, null);
  assert.strictEqual(device.device.fwmark, 0);
  assert.strictEqual(find(device, peerB), undefined);
  assert.deepStrictEqual(find(device, peerA)!.presharedKey, new Uint8Array(32));
  assert.deepStrictEqual(find(device, peerA)!.allowedIps, []);
  assert.strictEqual(find(device, peerA)!.persistentKeepalive, 0);
});

withWg("setconf and showconf are inverse", async () => {
  await wgDone(["setconf", name, "{}"], CONFIG);
  assert.strictEqual(await wgDone(["showconf", name]), CONFIG);
});

withWg("addconf adds, syncconf keeps, setconf replaces", async (device) => {
  const only = (key: string, port: number) => `[Peer]\nPublicKey = ${key}\nEndpoint = 192.0.2.9:${port}\n`;
  const known = () => device.device.peers.map((it) => encodeBase64Key(it.publicKey)).sort();
  await wgDone(["setconf", name, "{}"], CONFIG);
  await wgDone(["addconf", name, "{}"], only(peerC, 1));
  assert.deepStrictEqual(known(), [peerA, peerB, peerC].sort());
  const kept = find(device, peerA);
  await wgDone(["syncconf", name, "{}"], CONFIG);
  assert.deepStrictEqual(known(), [peerA, peerB].sort());
  assert.strictEqual(find(device, peerA), kept);
  assert.deepStrictEqual(kept!.allowedIps.map(formatPrefix), ["10.0.0.0/24", "fd00::/64"]);
  await wgDone(["setconf", name, "{}"], only(peerC, 2));
  assert.deepStrictEqual(known(), [peerC]);
  assert.strictEqual(device.device.privateKey, null);
});

withWg("show prints what our own show prints, to the byte", async (device) => {
  await wgDone(["setconf", name, "{}"], CONFIG + `\n[Peer]\nPublicKey = ${peerC}\n`);
  const [a, b] = device.device.peers;
  // Half of a minute's unit from its edges, so that the answer is the same a moment later.
  const now = Math.floor(Date.now() / 1000);
  Object.assign(b, { lastHandshake: { sec: now + 1000, nsec: 5 }, txBytes: 1023n, rxBytes: 5n * 1024n ** 4n });
  Object.assign(a, { txBytes: 1536n, rxBytes: 0n });
  const publicKey = x25519.getPublicKey(privateKey);
  const show = (state: DeviceState, color: boolean) => formatShow(name, state, publicKey, color);
  assert.strictEqual(await wgDone(["show", name], "", { WG_COLOR_MODE: "never" }), show(device.device, false));
  assert.strictEqual(
    await wgDone(["show", name], "", { WG_COLOR_MODE: "always" }),
    "\x1b[0m" + show(device.device, true),
  );

  a.lastHandshake = { sec: now - 90_061, nsec: 5 };
  const printed = await wgDone(["show", name], "", { WG_COLOR_MODE: "never" });
  const ago = /latest handshake: 1 day, 1 hour, 1 minute, (\d+) seconds? ago/.exec(printed);
  assert.ok(ago, printed);
  assert.strictEqual(printed, formatShow(name, device.device, publicKey, false, now - 1 + Number(ago[1])));
});

withWg("errors print the message of their errno", async (device) => {
  device.refusal = Object.assign(new Error("in use"), { code: "EADDRINUSE" });
  const { code, stderr } = await wg(["set", name, "listen-port", "5"]);
  assert.deepStrictEqual([code, stderr], [1, "Unable to modify interface: Address already in use\n"]);
  device.state = () => {
    throw Object.assign(new Error("gone"), { code: "ENODEV" });
  };
  assert.deepStrictEqual(await wg(["show", name]), {
    code: 1,
    stdout: "",
    stderr: "Unable to access interface: No such device\n",
  });
});

withWg("10,000 peers go in and come out", async (device) => {
  const peers = Array.from({ length: 10_000 }, (_, i) => {
    const key = new Uint8Array(32).fill(7);
    new DataView(key.buffer).setUint32(0, i);
    return `[Peer]\nPublicKey = ${encodeBase64Key(key)}\nAllowedIPs = fd00::${i.toString(16)}/128\n`;
  });
  device.apply = async (change) => {
    // One owner is looked for in all: too slow for this many here, and not the question.
    device.device.peers = change.peers.map((it) => ({
      publicKey: it.publicKey,
      presharedKey: new Uint8Array(32),
      endpoint: null,
      lastHandshake: { sec: 0, nsec: 0 },
      txBytes: 0n,
      rxBytes: 0n,
      persistentKeepalive: 0,
      allowedIps: it.allowedIps.map(({ ip }) => ip),
    }));
  };
  await wgDone(["setconf", name, "{}"], peers.join(""));
  const shown = (await wgDone(["show", name, "allowed-ips"])).trim().split("\n");
  assert.strictEqual(shown.length, 10_000);
  assert.match(shown[9_999], /\tfd00::270f\/128$/);
});

withWg("the interface is listed by name", async () => {
  assert.ok((await wgDone(["show", "interfaces"])).split(/\s+/).includes(name));
  assert.ok(listInterfaces().includes(name));
});

if (toolsMissing) tools.skip(`skipped: ${toolsMissing} missing`, () => {});
tools.run();
