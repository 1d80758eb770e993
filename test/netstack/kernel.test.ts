// The netstack opposite Linux: every byte right in both directions, in both families, over ways that lose, repeat and
// reorder; ends of every kind; echo, datagrams and path MTUs. Needs root, for the namespace and its TUN.
import assert from "node:assert/strict";
import { suite } from "uvu";
import { formatIp, parseIp } from "../../host/ip.ts";
import type { TcpConnection } from "../../host/netstack/types.ts";
import { at } from "../helpers/netstack.ts";
import { cannotRun, joinByVeth, Namespace, whyNoNamespaces } from "../helpers/namespace.ts";
import { A4, A6, B4, B6, type Done, KernelPeer, type LabOptions, StackLab } from "../helpers/netstack-lab.ts";
import { Pattern } from "../helpers/pattern.mjs";

const pattern = new Pattern(7);
const CHUNK_LEN = 65_536;
/** for anything at all */
const PATIENCE_MS = 15_000;

/** A connection of ours that ended. */
interface Ended {
  received: number;
  wrong: number;
  error: string | null;
}

/** Fails instead of waiting for ever, and says for what. */
async function soon<T>(promise: Promise<T>, what: string): Promise<T> {
  let timer: ReturnType<typeof setTimeout>;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not in ${PATIENCE_MS} ms`)), PATIENCE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/**
 * Sends `bytes` of the pattern and our FIN, reads and checks what comes.
 * @param linger  our FIN only after theirs
 */
function exchange(connection: TcpConnection, bytes: number, linger = false): Promise<Ended> {
  return new Promise((resolve) => {
    const ended: Ended = { received: 0, wrong: -1, error: null };
    let sent = 0;
    let shut = false;
    const send = (): void => {
      while (sent < bytes) {
        const taken = connection.write(pattern.bytes(sent, Math.min(CHUNK_LEN, bytes - sent)));
        if (taken === 0) return;
        sent += taken;
      }
      if (shut || (linger && !connection.ended)) return;
      shut = true;
      connection.shutdown();
    };
    const read = (): void => {
      for (let chunk = connection.read(); chunk !== null; chunk = connection.read()) {
        if (ended.wrong < 0) ended.wrong = pattern.mismatch(chunk, ended.received);
        ended.received += chunk.length;
      }
      if (connection.ended && linger) send();
    };
    connection.onConnected = send;
    connection.onWritable = send;
    connection.onReadable = read;
    connection.onClosed = (error) => {
      read();
      ended.error = error === null ? null : String((error as { code?: string }).code);
      resolve(ended);
    };
    if (connection.state === "established") send();
    read();
  });
}

const fine = (received: number, sent: number): Omit<Done, "done"> => ({ received, sent, wrong: -1, error: null });

async function done(lab: StackLab, port: number, what: string): Promise<Omit<Done, "done">> {
  const { done: _, ...rest } = await soon(lab.kernel.done(port), what);
  return rest;
}

/** Our connection to a port of the kernel's, to its end on both sides. */
async function connectTo(lab: StackLab, host: string, port: number, bytes: number, linger = false) {
  const ours = exchange(lab.stack.tcp.connect(at(host, port)), bytes, linger);
  return { ours: await soon(ours, "our end"), theirs: await done(lab, port, "the kernel's end") };
}

/** The kernel's connections to a listener of ours. */
function listen(lab: StackLab, bytes: number, linger = false): { port: number; ended: () => Promise<Ended> } {
  const listener = lab.stack.tcp.listen(0);
  const results: Promise<Ended>[] = [];
  const waiting: ((result: Promise<Ended>) => void)[] = [];
  listener.onConnection = (connection) => {
    const result = exchange(connection, bytes, linger);
    const first = waiting.shift();
    if (first !== undefined) first(result);
    else results.push(result);
  };
  const ended = (): Promise<Ended> => results.shift() ?? new Promise((resolve) => waiting.push(resolve));
  return { port: listener.local.port, ended: () => soon(ended(), "our end") };
}

async function withLab(options: LabOptions, use: (lab: StackLab) => Promise<void>): Promise<void> {
  const lab = new StackLab(options);
  try {
    await use(lab);
    assert.equal(lab.stack.drops.badChecksum + lab.stack.drops.truncated + lab.stack.drops.badLength, 0, "damaged");
  } finally {
    await lab.close();
  }
}

/** Both directions, both who begins, both families. */
async function everyWay(lab: StackLab, bytes: number): Promise<void> {
  const sink = await lab.kernel.listen("sink");
  const source = await lab.kernel.listen("source", bytes);
  for (const [ours, theirs] of [
    [A4, B4],
    [A6, B6],
  ]) {
    const up = await connectTo(lab, theirs, sink, bytes);
    assert.deepEqual(up.ours, { received: 0, wrong: -1, error: null }, `up ${theirs}`);
    assert.deepEqual(up.theirs, fine(bytes, 0), `up ${theirs}`);
    const down = await connectTo(lab, theirs, source, 0, true);
    assert.deepEqual(down.ours, { received: bytes, wrong: -1, error: null }, `down ${theirs}`);
    assert.deepEqual(down.theirs, fine(0, bytes), `down ${theirs}`);
    const listener = listen(lab, bytes, true);
    await lab.kernel.connect(ours, listener.port, "source", bytes);
    assert.deepEqual(await listener.ended(), { received: bytes, wrong: -1, error: null }, `both ${ours}`);
    assert.deepEqual(await done(lab, listener.port, "both"), fine(bytes, bytes), `both ${ours}`);
  }
}

function addAddress(namespace: Namespace, name: string, address: string): void {
  namespace.ip("addr", "add", address, "dev", name, ...(address.includes(":") ? ["nodad"] : []));
}

const reason = whyNoNamespaces();

function define(): void {
  const streams = suite("netstack and kernel: streams");

  const ways: [name: string, way: LabOptions, bytes: number][] = [
    ["a clean way", {}, 3_000_000],
    ["loss of 0.1 %, 2 ms each way", { loss: 0.001, delayMs: 2 }, 1_500_000],
    ["loss of 1 %, 2 ms each way", { loss: 0.01, delayMs: 2 }, 600_000],
    ["loss of 5 %, 2 ms each way", { loss: 0.05, delayMs: 2 }, 150_000],
    ["a tenth reordered", { reorder: 0.1, delayMs: 1 }, 1_000_000],
    ["a tenth twice", { duplicate: 0.1 }, 1_000_000],
    ["all of it", { loss: 0.02, reorder: 0.05, duplicate: 0.05, delayMs: 1 }, 200_000],
  ];
  for (const [name, way, bytes] of ways) {
    streams(`every byte both ways, both families: ${name}`, () => withLab(way, (lab) => everyWay(lab, bytes)));
  }

  streams("200 connections at once, both ways each", () =>
    withLab({ delayMs: 1, loss: 0.005 }, async (lab) => {
      const bytes = 20_000;
      const echo = await lab.kernel.listen("echo");
      const all = Array.from({ length: 200 }, (_, i) =>
        exchange(lab.stack.tcp.connect(at(i % 2 ? B4 : B6, echo)), bytes),
      );
      for (const each of await soon(Promise.all(all), "200 connections")) {
        assert.deepEqual(each, { received: bytes, wrong: -1, error: null });
      }
      const listener = listen(lab, 0, true);
      for (let i = 0; i < 200; i++) await lab.kernel.connect(i % 2 ? A4 : A6, listener.port, "source", bytes);
      for (let i = 0; i < 200; i++)
        assert.deepEqual(await listener.ended(), { received: bytes, wrong: -1, error: null });
      assert.equal(lab.stack.tcp.counts().connections, 0);
    }),
  );

  streams.run();

  const ends = suite("netstack and kernel: ends");

  ends("half-close: the other direction goes on", () =>
    withLab({}, async (lab) => {
      // Ours first: the kernel answers after our FIN.
      const source = await lab.kernel.listen("source", 500_000);
      const first = await connectTo(lab, B4, source, 10_000);
      assert.deepEqual([first.ours.received, first.ours.wrong, first.ours.error], [500_000, -1, null]);
      assert.equal(first.theirs.received, 10_000);
      // Theirs first.
      const listener = listen(lab, 500_000, true);
      await lab.kernel.connect(A6, listener.port, "source", 10_000);
      assert.deepEqual(await listener.ended(), { received: 10_000, wrong: -1, error: null });
      assert.deepEqual(await done(lab, listener.port, "half-close"), fine(500_000, 10_000));
    }),
  );

  ends("the kernel's RST is ECONNRESET, ours is its ECONNRESET", () =>
    withLab({}, async (lab) => {
      const reset = await lab.kernel.listen("reset");
      const { ours } = await connectTo(lab, B6, reset, 100, true);
      assert.equal(ours.error, "ECONNRESET");
      const echo = await lab.kernel.listen("echo");
      const connection = lab.stack.tcp.connect(at(B4, echo));
      connection.onConnected = () => connection.write(new Uint8Array(100));
      connection.onReadable = () => connection.abort();
      assert.equal((await done(lab, echo, "our RST")).error, "ECONNRESET");
    }),
  );

  ends("closed ports refuse, on both sides", () =>
    withLab({}, async (lab) => {
      for (const host of [B4, B6]) {
        const { error } = await soon(exchange(lab.stack.tcp.connect(at(host, 1)), 0), "refusal");
        assert.equal(error, "ECONNREFUSED", host);
      }
      for (const host of [A4, A6]) {
        await lab.kernel.connect(host, 1, "sink");
        assert.equal((await done(lab, 1, "refusal")).error, "ECONNREFUSED", host);
      }
    }),
  );

  ends("a reader that stalls closes the window; the stream waits and then goes on", () =>
    withLab({}, async (lab) => {
      const bytes = 12_000_000;
      const stall = await lab.kernel.listen("stall");
      const connection = lab.stack.tcp.connect(at(B4, stall));
      const ours = exchange(connection, bytes);
      let before = -1;
      while (connection.info().sendWindow > 0 || connection.bytesWritten !== before) {
        before = connection.bytesWritten;
        await new Promise((resolve) => setTimeout(resolve, 300));
        assert.equal(connection.bytesWritten < bytes, true, "the window never closed");
      }
      await lab.kernel.ask("resume");
      assert.deepEqual(await done(lab, stall, "a stalled reader"), fine(bytes, 0));
      assert.equal((await soon(ours, "our end")).error, null);
    }),
  );

  ends("we stall: the kernel is held back, and nothing is lost", () =>
    withLab({}, async (lab) => {
      const bytes = 12_000_000;
      const source = await lab.kernel.listen("source", bytes);
      const connection = lab.stack.tcp.connect(at(B6, source));
      let before = -1;
      while (connection.readable === 0 || connection.readable !== before) {
        before = connection.readable;
        await new Promise((resolve) => setTimeout(resolve, 300));
      }
      assert.equal(before < bytes, true, String(before));
      assert.deepEqual(await soon(exchange(connection, 0, true), "our end"), {
        received: bytes,
        wrong: -1,
        error: null,
      });
    }),
  );

  ends.run();

  const messages = suite("netstack and kernel: echo and datagrams");

  messages("ping both ways, small and in fragments", () =>
    withLab({ delayMs: 2 }, async (lab) => {
      for (const host of [B4, B6]) {
        for (const size of [0, 56, 5000, 60_000]) {
          const reply = await lab.stack.icmp.ping(parseIp(host), { size });
          assert.deepEqual([formatIp(reply.from.address), reply.bytes, reply.hopLimit], [host, size, 64]);
        }
      }
      for (const host of [A4, A6]) {
        for (const size of [8, 5000, 60_000]) {
          const args = ["-c", "2", "-i", "0.05", "-W", "5", "-s", String(size), host];
          const { code, output } = await lab.kernel.ask<{ code: number; output: string }>("exec", {
            program: "ping",
            args,
          });
          assert.equal(code, 0, output);
          assert.equal(/ 2 received/.test(output), true, output);
        }
      }
    }),
  );

  messages("datagrams of every length, in fragments both ways, to closed ports", () =>
    withLab({ reorder: 0.2, delayMs: 1 }, async (lab) => {
      for (const [family, host, longest] of [
        [4, B4, 65_507],
        [6, B6, 65_527],
      ] as const) {
        const { port } = await lab.kernel.ask<{ port: number }>("udp", { family });
        const socket = lab.stack.udp.open();
        for (const length of [0, 1, 1392, 1393, 9000, longest]) {
          const echoed = new Promise<Uint8Array>((resolve) => (socket.onDatagram = resolve));
          socket.send(pattern.bytes(0, length), at(host, port));
          const payload = await soon(echoed, `${length} bytes`);
          assert.deepEqual([payload.length, pattern.mismatch(payload, 0)], [length, -1]);
        }
        const refused = new Promise<string>((resolve) => (socket.onError = ({ kind }) => resolve(kind)));
        socket.send(new Uint8Array(10), at(host, 1));
        assert.equal(await soon(refused, "port unreachable"), "portUnreachable");
      }
    }),
  );

  messages("a narrower way behind the kernel: its packet too big is heard, and the stream goes on", () =>
    withLab({}, async (lab) => {
      const router = lab.port.namespace;
      const far = new Namespace();
      joinByVeth(router, "near", far, "far");
      // Narrow for the router alone: what is behind it offers a longer segment than fits.
      router.ip("link", "set", "near", "mtu", "1280");
      for (const address of ["10.8.0.1/24", "fd08::1/64", "fe80::1/64"]) addAddress(router, "near", address);
      for (const address of ["10.8.0.9/24", "fd08::9/64", "fe80::9/64"]) addAddress(far, "far", address);
      router.exec(
        "sh",
        "-c",
        "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
      );
      far.ip("route", "add", "default", "via", "10.8.0.1");
      far.ip("-6", "route", "add", "default", "via", "fd08::1");
      const peer = new KernelPeer(far);
      try {
        const bytes = 500_000;
        const sink = await peer.listen("sink");
        for (const host of ["10.8.0.9", "fd08::9"]) {
          const ours = exchange(lab.stack.tcp.connect(at(host, sink)), bytes);
          const { done: _, ...theirs } = await soon(peer.done(sink), host);
          assert.deepEqual(theirs, fine(bytes, 0), host);
          assert.equal((await soon(ours, "our end")).error, null, host);
          assert.equal(lab.stack.pathMtu(parseIp(host)), 1280, host);
        }
        far.ip("link", "set", "far", "mtu", "1280"); // or what it says would not fit
        for (const host of ["10.8.0.9", "fd08::9"]) {
          const reply = await lab.stack.icmp.ping(parseIp(host), { size: 1300 });
          assert.deepEqual([reply.bytes, reply.hopLimit], [1300, 63], host);
        }
      } finally {
        await peer.close();
        far.remove();
      }
    }),
  );

  messages("a peer with a lower MTU", () => withLab({ kernelMtu: 1280 }, (lab) => everyWay(lab, 400_000)));

  messages.run();
}

if (reason === null) define();
else cannotRun("netstack and kernel", reason);
