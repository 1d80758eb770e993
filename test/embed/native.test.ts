// The embedded device over the kernel's UDP by FFI, received in a thread: what every carrier must do, and what is its own.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import dgram from "node:dgram";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import { compileCore } from "../../host/core.ts";
import { generatePrivateKey } from "../../host/keys.ts";
import { NativeCarrier } from "../../host/native/carrier.ts";
import { openLibc } from "../../host/platform/linux/libc.ts";
import { openPortable } from "../../host/portable.ts";
import { cannotRun } from "../helpers/namespace.ts";
import { parse, TCP, UDP } from "../offload/oracle.ts";
import { Stream } from "../../host/simulator/random.ts";
import { deviceSuite } from "./device-suite.ts";
import { between, type Open, openPair, toOutPacket, until } from "./pair.ts";

const isDeno = "Deno" in globalThis;
/** Root's sockets get the buffers they ask for; others what net.core.rmem_max allows. */
const hasLargeBuffers = process.getuid?.() === 0;
const open: Open = (options) => openPortable({ transport: "native", address: "127.0.0.1", ...options });

/** Why there is no such carrier here, or null. */
async function whyNot(): Promise<string | null> {
  try {
    const carrier = await NativeCarrier.open({ module: await compileCore(), onPacket: () => {}, onFailed: () => {} });
    await carrier.close();
    return null;
  } catch (error) {
    return (error as Error).message;
  }
}

interface End {
  code: number | null;
  output: string;
}

/** Runs native-end.ts. `flags` are of Deno. */
function end(mode: string, flags = ["-A"]): Promise<End> {
  const script = fileURLToPath(new URL("./native-end.ts", import.meta.url));
  const args = isDeno ? ["run", ...flags, script, mode] : [...process.execArgv, script, mode];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  child.stdout.on("data", (text) => (output += text));
  child.stderr.on("data", (text) => (output += text));
  const patience = setTimeout(() => process.kill(child.pid!, "SIGKILL"), 15_000);
  return new Promise((resolve) =>
    child.on("close", (code) => {
      clearTimeout(patience);
      resolve({ code, output });
    }),
  );
}

const sockets = (): string[] =>
  readdirSync("/proc/self/fd").filter((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).startsWith("socket:");
    } catch {
      return false; // the directory's own descriptor
    }
  });
const threads = (): number => readdirSync("/proc/self/task").length;

/** The descriptor of our socket on this port: address, port and inode stand in the kernel's table. */
function descriptorOf(port: number): number {
  const end = `:${port.toString(16).toUpperCase().padStart(4, "0")}`;
  const lines = ["udp", "udp6"].flatMap((name) => readFileSync(`/proc/self/net/${name}`, "utf8").split("\n"));
  const inode = lines.map((line) => line.trim().split(/\s+/)).find((words) => words[1]?.endsWith(end))?.[9];
  return Number(sockets().find((fd) => readlinkSync(`/proc/self/fd/${fd}`) === `socket:[${inode}]`));
}

const reason = await whyNot();

if (reason === null) {
  deviceSuite("native", open, { burst: hasLargeBuffers ? Infinity : 60, ordered: true });
} else {
  cannotRun("the native carrier", reason);
}

const own = suite("native: its thread and its socket");

own("opened and closed fifty times, nothing is left", async () => {
  const module = await compileCore();
  const rounds = async (count: number): Promise<void> => {
    for (let i = 0; i < count; i++) {
      const device = await open({ onInput: () => {}, module });
      await device.configure({ privateKey: generatePrivateKey(), replacePeers: false, peers: [] });
      if (i % 3 !== 0) await device.up();
      assert.equal(device.kind, "native");
      const closing = device.close();
      assert.equal(device.close(), closing);
      await closing;
    }
  };
  await rounds(3); // what the runtime starts once
  const before = { sockets: sockets().length, threads: threads() };
  await rounds(50);
  assert.equal(sockets().length, before.sockets);
  await until(() => threads() <= before.threads, "the threads to end");
});

if (!hasLargeBuffers) cannotRun("native: a slow consumer", "it needs root, for a large socket buffer");
else own("a consumer that sleeps loses nothing, though the ring is full", async () => {
  const pair = await openPair(open);
  try {
    const random = new Stream(1, "slow");
    pair.left.device.link.send(toOutPacket(random, between(random, true, 4, TCP, 100), 0));
    await until(() => pair.right.came.length === 1, "the first packet");
    pair.right.came.length = 0;
    // More than the ring holds, without a turn of the event loop: the rest waits in the lane and in the socket's buffer.
    const fields = between(random, true, 4, TCP, 45 * 1340);
    const out = toOutPacket(random, fields, 1340);
    const count = 74;
    for (let i = 0; i < count; i++) pair.left.device.link.send(out);
    const whole = fields.payload.length;
    const came = (): number => pair.right.came.reduce((sum, { bytes }) => sum + bytes.length - 40 - fields.tcpOptions.length, 0);
    await until(() => came() >= count * whole, "all of it");
    let at = 0;
    for (const { bytes } of pair.right.came) {
      const { sequence, payload } = parse(bytes);
      assert.equal((sequence - fields.sequence) >>> 0, at % whole, `byte ${at}`);
      at += payload.length;
    }
    assert.equal(at, count * whole);
  } finally {
    await pair.close();
  }
});

own("a descriptor that breaks is told, and the device can be closed", async () => {
  const poke = dgram.createSocket("udp4");
  await new Promise<void>((resolve) => poke.bind(0, "127.0.0.1", resolve));
  const failed: { code: string }[] = [];
  const device = await open({ onInput: () => {}, onFailed: (error) => failed.push(error) });
  await device.configure({ privateKey: generatePrivateKey(), replacePeers: false, peers: [] });
  await device.up();
  const { listenPort } = device;
  openLibc().close(descriptorOf(listenPort));
  // The blocked call still holds the socket; one datagram lets it come back.
  poke.send("x", listenPort, "127.0.0.1");
  await until(() => failed.length > 0, "the failure");
  assert.equal(failed[0].code, "ERR_LANE");
  poke.close();
  await device.close();
});

own("a stack that throws is called again, and a closed device binds nothing", async () => {
  const pair = await openPair(open);
  const thrown = new Promise<Error>((resolve) => process.once("uncaughtException", resolve));
  let calls = 0;
  pair.right.onInput = () => {
    if (calls++ === 0) throw new Error("a stack that throws");
  };
  const random = new Stream(1, "throws");
  for (let i = 0; i < 5; i++) pair.left.device.link.send(toOutPacket(random, between(random, true, 4, UDP, 100), 0));
  assert.equal((await thrown).message, "a stack that throws");
  await until(() => calls === 5, "the other packets");
  const { device } = pair.right;
  const closed = pair.close();
  await assert.rejects(device.configure({ listenPort: 0, replacePeers: false, peers: [] }), { code: "ERR_CLOSED" });
  await assert.rejects(device.up(), { code: "ERR_CLOSED" });
  await closed;
});

own("an address that is none, and one that is not ours", async () => {
  await assert.rejects(open({ onInput: () => {}, address: "localhost" }), { name: "RangeError", message: /"localhost"/ });
  const device = await open({ onInput: () => {}, address: "192.0.2.1" });
  await assert.rejects(device.up(), { code: "EADDRNOTAVAIL", message: /192\.0\.2\.1/ });
  await device.close();
});

own("IPv6 on its own address", async () => {
  const device = await open({ onPacket: () => {}, address: "::1" });
  await device.up();
  assert.ok(device.listenPort > 0);
  await device.close();
});

for (const [mode, code] of [["exit", 3], ["throw", 1], ["half open", 0], ["close", 0]] as const) {
  own(`a process ends with its tunnels: ${mode}`, async () => {
    const { code: given, output } = await end(mode);
    assert.match(output, /^native native\n/);
    assert.equal(given, code, output);
  });
}

if (reason === null) own.run();
else cannotRun("the native carrier's thread", reason);

const fallback = suite("native: what there is without it");

if (isDeno) {
  fallback("Deno without --allow-ffi is not asked for it", async () => {
    const { code, output } = await end("native only", ["--allow-net", "--allow-read", "--allow-env"]);
    assert.equal(output, "portable portable ENOTSUP\n");
    assert.equal(code, 0);
  });
} else {
  fallback("without koffi it is node:dgram", async () => {
    const { code, output } = await end("without koffi");
    assert.equal(output, "portable portable\n");
    assert.equal(code, 0);
  });
}

fallback("no transport of that name", async () => {
  const wrong = { onInput: () => {}, transport: "tcp" as "udp" };
  await assert.rejects(openPortable(wrong), { name: "TypeError", message: /"tcp"/ });
});

fallback.run();
