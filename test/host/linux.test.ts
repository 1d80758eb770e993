// The Linux adapters on the real kernel: TUN, UDP and rtnetlink in network namespaces of the test's own, both runtimes'
// FFI. The lane runs from dist/test/linux-worker.mjs, which is bundled here first: Node 20 has no loader in a worker.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { buildSync } from "esbuild";
import { suite } from "uvu";
import * as abi from "../../assembly/abi.ts";
import { formatIp, parseIp } from "../../host/ip.ts";
import { LinuxClock } from "../../host/platform/linux/clock.ts";
import { Pace } from "../../host/platform/linux/pace.ts";
import { errnoCode, SystemError } from "../../host/platform/linux/errno.ts";
import { O_NONBLOCK, O_RDWR, openLibc, type Libc } from "../../host/platform/linux/libc.ts";
import { NativeMemory } from "../../host/platform/linux/native.ts";
import { deleteLink, getLink, watchNetwork } from "../../host/platform/linux/netlink.ts";
import { Receiver } from "../../host/platform/linux/receiver.ts";
import { Sender } from "../../host/platform/linux/sender.ts";
import { CoreAddressError, ThreadMemory } from "../../host/platform/linux/thread.ts";
import { adoptTun, openTun, VNET_HEADER_LEN, type LinuxTun } from "../../host/platform/linux/tun.ts";
import { TunReader } from "../../host/platform/linux/tunreader.ts";
import { TunWriter } from "../../host/platform/linux/tunwriter.ts";
import { LinuxUdp, type UdpOptions } from "../../host/platform/linux/udp.ts";
import { CLOSED, type NetworkEvent } from "../../host/platform/types.ts";
import { cannotRun, joinByVeth, Namespace, whyNoNamespaces } from "../helpers/namespace.ts";
import { GSO_NONE, NEEDS_CSUM, vnetHeader as vnet } from "../offload/oracle.ts";
import { assertReadable, FakeCore, pattern, receiveAll, THREADS } from "./linux-fixture.ts";
import type { LaneData } from "./linux-worker.ts";

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), "../..");
const bundleDirectory = path.join(root, "dist/test");

function bundle(entry: string, outfile: string): void {
  const entryPoints = [path.join(root, entry)];
  const external = ["koffi"];
  buildSync({ entryPoints, outfile, external, bundle: true, format: "esm", platform: "node", target: "node20", logLevel: "error" });
}

/** A lane in a worker; its messages in order. */
class Lane {
  readonly #worker: Worker;
  readonly #done = new Int32Array(new SharedArrayBuffer(4));
  readonly #messages: unknown[] = [];
  readonly #exit: Promise<unknown>;
  #wanted: ((message: unknown) => void) | undefined;

  constructor(data: Omit<LaneData, "done">) {
    const workerData: LaneData = { ...data, done: this.#done };
    this.#worker = new Worker(path.join(bundleDirectory, "linux-worker.mjs"), { workerData });
    this.#exit = once(this.#worker, "exit");
    this.#worker.on("error", (error) => this.#push(error));
    this.#worker.on("message", (message) => this.#push(message));
  }

  #push(message: unknown): void {
    const { stack } = (message ?? {}) as { stack?: string };
    if (this.#wanted) this.#wanted(stack ?? message);
    else this.#messages.push(stack ?? message);
    this.#wanted = undefined;
  }

  /** The lane's next message: "ready", a count, or an error's text. */
  async next(): Promise<unknown> {
    if (this.#messages.length) return this.#messages.shift();
    return new Promise((resolve) => (this.#wanted = resolve));
  }

  /** The records of the last count were read: receive again. */
  go(): void {
    Atomics.add(this.#done, 0, 1);
    Atomics.notify(this.#done, 0);
  }

  async exited(): Promise<void> {
    await this.#exit;
  }
}

/** Waits until the lane is asleep in its system call: a fact of the kernel's that a thread can be asked for. */
const asleep = () => new Promise((resolve) => setTimeout(resolve, 50));

// --- without privileges ---------------------------------------------------------------------------------------------

const errors = suite("linux errors");

errors("a SystemError has code, errno and syscall, and says what was tried", () => {
  const error = new SystemError(98, "bind", "bind UDP port 51820");
  assert.equal(error.message, "bind UDP port 51820: address already in use (EADDRINUSE)");
  assert.deepEqual([error.code, error.errno, error.syscall, error.name], ["EADDRINUSE", 98, "bind", "SystemError"]);
  assert.equal(new SystemError(1, "ioctl", "create it", "be root").message, "create it: operation not permitted (EPERM); be root");
});

errors("numbers without a name keep their number", () => {
  assert.deepEqual([11, 77, 9999].map(errnoCode), ["EAGAIN", "EBADFD", "E9999"]);
});

errors("every file is importable without koffi, and openLibc says what is missing", () => {
  const directory = mkdtempSync(path.join(os.tmpdir(), "wasmguard-"));
  try {
    bundle("host/platform/linux/libc.ts", path.join(directory, "libc.mjs"));
    // One that cannot be loaded, before any that stands in a folder above.
    const koffi = path.join(directory, "node_modules/koffi");
    mkdirSync(koffi, { recursive: true });
    writeFileSync(path.join(koffi, "package.json"), '{ "main": "none.js" }');
    const script = `import("${directory}/libc.mjs").then(({ openLibc }) => openLibc()).catch((e) => console.log(e.code, e.message))`;
    const output = execFileSync("node", ["-e", script], { cwd: directory, encoding: "utf8" });
    assert.equal(output.trim(), "ERR_NO_KOFFI koffi is not installed: npm install koffi, or use the portable host");
  } finally {
    rmSync(directory, { recursive: true });
  }
});

errors.run();

if (os.platform() !== "linux") cannotRun("linux", `these are Linux's system calls, and this is ${os.platform()}`);
else testUnprivileged(openLibc());

function testUnprivileged(libc: Libc): void {
  const core = new FakeCore();
  const thread = (number: number) => ({ memory: core.memory, thread: number });

  const memory = suite("linux memory");

  memory("an address is where the bytes are, for native and for shared memory", () => {
    const native = new NativeMemory(libc.address, 64);
    const timespec = 16;
    assert.equal(libc.clockGettime(0, native.address + timespec), 0);
    assert.ok(Math.abs(native.words[4] - Date.now() / 1000) < 5);
    const fd = libc.eventfd(7, 0);
    libc.read(fd, new ThreadMemory(libc, thread(1)).addressOf(core.slot(1, 3)), 8);
    libc.close(fd);
    assert.equal(core.view.getUint32(core.slot(1, 3), true), 7);
  });

  memory("pointers above 2^32 are stored whole", () => {
    const native = new NativeMemory(libc.address, 16);
    native.putPointer(8, 0x7fff_89ab_cdef);
    assert.equal(native.view.getBigUint64(8, true), 0x7fff_89ab_cdefn);
  });

  memory("text for the system fits and holds no zero", () => {
    const native = new NativeMemory(libc.address, 16);
    native.putText(0, "wg-ü");
    assert.equal(native.text(0, 16), "wg-ü");
    assert.throws(() => native.putText(0, "a\0b"), RangeError);
    assert.throws(() => native.putText(0, "0123456789abcdef"), RangeError);
  });

  memory("a thread outside the memory is refused", () => {
    assert.throws(() => new ThreadMemory(libc, thread(abi.THREAD_MAX)), RangeError);
    assert.throws(() => new ThreadMemory(libc, thread(THREADS)), /does not hold the slots of thread 4/);
  });

  memory("only the thread's own slots become addresses", () => {
    const mine = new ThreadMemory(libc, thread(1));
    const start = abi.THREADS_END + abi.SLOTS_SIZE;
    const end = start + abi.SLOTS_SIZE;
    assert.equal(mine.slotAddress(start, abi.SLOTS_SIZE, "OUT", 0) - mine.addressOf(0), start);
    for (const [offset, length] of [
      [start - 1, 1],
      [end - 1, 2],
      [end, 1],
      [0, 1],
      [start, abi.SLOTS_SIZE + 1],
      [start, 0xffffffff],
      [0xffffffff, 0xffffffff],
      [core.block(1), 64],
    ]) {
      assert.throws(() => mine.slotAddress(offset, length, "OUT", 0), CoreAddressError, `${offset}+${length}`);
    }
  });

  memory.run();

  const lanes = suite("linux lanes refuse what the core may not ask");

  lanes("an OUT record out of the slots, a count above the records", () => {
    const udp = new LinuxUdp(libc, { port: 0 });
    const sender = new Sender(libc, thread(1), udp.handle);
    const to = `127.0.0.1:${udp.port}`;
    core.putOut(1, 0, { to, bytes: pattern(1, 32) });
    core.putOut(1, 1, { to, offset: core.slot(2, 0), length: 32 });
    assert.throws(() => sender.send(2), (error: CoreAddressError) => {
      assert.equal(error.code, "ERR_CORE_ADDRESS");
      assert.match(error.message, /^core gave a bad address: OUT record 1: 32 bytes at \d+ are not in the slots of thread 1/);
      return error instanceof RangeError;
    });
    for (const count of [abi.OUT_MAX + 1, -1, NaN]) assert.throws(() => sender.send(count), CoreAddressError);
    udp.close();
  });

  lanes("a DELIVER record out of the slots, a count above the records", () => {
    const fd = libc.eventfd(0, 0);
    const writer = new TunWriter(libc, thread(1), { fd, vnetHeader: false });
    core.putDeliver(1, 0, core.block(0) + abi.THREAD_RANDOM, 32);
    assert.throws(() => writer.deliver(1), /DELIVER record 0: 32 bytes/);
    assert.throws(() => writer.deliver(abi.DELIVER_MAX + 1), CoreAddressError);
    libc.close(fd);
  });

  lanes.run();

  const clock = suite("linux clock");

  clock("writes both clocks of its thread's block, and agrees with itself", () => {
    const one = new LinuxClock(libc, thread(1));
    const before = one.now();
    one.stamp();
    const after = one.now();
    const at = core.block(1);
    const mono = Number(core.view.getBigInt64(at + abi.THREAD_MONO, true)) * 1e3 + Number(core.view.getBigInt64(at + abi.THREAD_MONO + 8, true)) / 1e6;
    assert.ok(before <= mono && mono <= after, `${before} <= ${mono} <= ${after}`);
    const wall = Number(core.view.getBigInt64(at + abi.THREAD_WALL, true));
    assert.ok(Math.abs(wall - Date.now() / 1000) < 5);
    assert.ok(Math.abs(after / 1000 - os.uptime()) < 5, "not the time since boot");
  });

  clock.run();
}

// --- in namespaces ------------------------------------------------------------------------------------------------------

const why = whyNoNamespaces();
if (why) cannotRun("linux in namespaces", why);
else testInNamespaces(openLibc());

function testInNamespaces(libc: Libc): void {
  mkdirSync(bundleDirectory, { recursive: true });
  bundle("test/host/linux-worker.ts", path.join(bundleDirectory, "linux-worker.mjs"));

  const core = new FakeCore();
  const thread = (number: number) => ({ memory: core.memory, thread: number });
  const near = new Namespace();
  const far = new Namespace();
  joinByVeth(near, "near0", far, "far0");
  const addresses: [Namespace, string, string[]][] = [
    [near, "near0", ["10.91.0.1/24", "10.91.0.3/24", "fd91::1/64", "fd91::3/64", "fe80::1/64"]],
    [far, "far0", ["10.91.0.2/24", "fd91::2/64", "fe80::2/64"]],
  ];
  const addAddress = (namespace: Namespace, name: string, address: string) => {
    // IPv6 prefers the newest address; a deprecated one is taken only when asked for, as IPv4's second is.
    const deprecated = address.startsWith("fd91::3") ? ["preferred_lft", "0"] : [];
    namespace.ip("addr", "add", address, "dev", name, ...(address.includes(":") ? ["nodad", ...deprecated] : []));
  };
  for (const [namespace, name, list] of addresses) for (const address of list) addAddress(namespace, name, address);
  const nearIndex = near.enter(libc, () => libc.ifNametoindex("near0"));
  const farIndex = far.enter(libc, () => libc.ifNametoindex("far0"));

  const openNear = (options: Partial<UdpOptions> = {}) => near.enter(libc, () => new LinuxUdp(libc, { port: 0, ...options }));
  const openFar = (options: Partial<UdpOptions> = {}) => far.enter(libc, () => new LinuxUdp(libc, { port: 0, ...options }));

  // ---- UDP

  const udp = suite("linux UDP");

  udp("64 datagrams of both families in one call each, with sender, destination and interface", () => {
    const a = openNear();
    const b = openFar();
    const sender = new Sender(libc, thread(1), a.handle);
    const receiver = new Receiver(libc, thread(2), b.handle);
    const to = [`10.91.0.2:${b.port}`, `[fd91::2]:${b.port}`, `[fe80::2%${nearIndex}]:${b.port}`];
    for (let i = 0; i < 64; i++) core.putOut(1, i, { to: to[i % 3], bytes: pattern(i, 32 + 20 * i) });
    assert.equal(sender.send(64), 64);
    const all = receiveAll(libc, b.handle.fd, receiver, 64, (i) => ({ ...core.readIn(2, i), place: core.slot(2, i) - 16 }));
    for (const [i, datagram] of all.entries()) {
      assert.deepEqual(datagram.bytes, pattern(i, 32 + 20 * i));
      assert.equal(datagram.offset, datagram.place, "the plaintext would not land where a packet belongs");
      const from = [`10.91.0.1:${a.port}`, `[fd91::1]:${a.port}`, `[fe80::1%${farIndex}]:${a.port}`];
      assert.equal(datagram.from, from[i % 3]);
      assert.equal(datagram.reached, ["10.91.0.2", "fd91::2", "fe80::2"][i % 3]);
      assert.equal(datagram.ifindex, farIndex);
      assert.deepEqual([datagram.segment, datagram.truncated, datagram.tos], [0, false, 0]);
    }
    assert.equal(sender.errors.size + receiver.errors.size, 0);
    a.close();
    b.close();
  });

  udp("256 records in one send, and the largest datagram whole", () => {
    const a = openNear();
    const b = openFar();
    const sender = new Sender(libc, thread(1), a.handle);
    const receiver = new Receiver(libc, thread(2), b.handle);
    const offset = core.slot(1, 0);
    for (let i = 0; i < abi.OUT_MAX; i++) core.putOut(1, i, { to: `10.91.0.2:${b.port}`, offset, length: 100 });
    assert.equal(sender.send(abi.OUT_MAX), abi.OUT_MAX);
    receiveAll(libc, b.handle.fd, receiver, abi.OUT_MAX, () => 0);
    const largest = pattern(3, 65507);
    core.putOut(1, 0, { to: `10.91.0.2:${b.port}`, bytes: largest });
    assert.equal(sender.send(1), 1);
    const [datagram] = receiveAll(libc, b.handle.fd, receiver, 1, (i) => core.readIn(2, i));
    assert.ok(Buffer.from(datagram.bytes).equals(largest));
    assert.equal(datagram.truncated, false);
    a.close();
    b.close();
  });

  for (const [family, first, second, there] of [
    [4, "10.91.0.1", "10.91.0.3", "10.91.0.2"],
    [6, "[fd91::1]", "[fd91::3]", "[fd91::2]"],
  ] as const) {
    const bare = second.replace(/[[\]]/g, "");

    udp(`a sticky source is honoured, IPv${family}`, () => {
      const a = openNear();
      const b = openFar();
      const sender = new Sender(libc, thread(1), a.handle);
      const receiver = new Receiver(libc, thread(2), b.handle);
      for (const ifindex of [nearIndex, 0]) {
        core.putOut(1, 0, { to: `${there}:${b.port}`, bytes: pattern(1, 32) });
        core.putOut(1, 1, { to: `${there}:${b.port}`, bytes: pattern(2, 32), source: { address: bare, ifindex } });
        core.putOut(1, 2, { to: `${there}:${b.port}`, bytes: pattern(3, 32), source: { address: bare, ifindex }, tos: 2 });
        assert.equal(sender.send(3), 3);
        const all = receiveAll(libc, b.handle.fd, receiver, 3, (i) => core.readIn(2, i));
        assert.deepEqual(all.map(({ from }) => from), [`${first}:${a.port}`, `${second}:${a.port}`, `${second}:${a.port}`]);
        assert.deepEqual(all.map(({ tos }) => tos), [0, 0, 2]);
      }
      a.close();
      b.close();
    });

    udp(`an answer leaves from the address that was asked, IPv${family}`, () => {
      const a = openNear();
      const b = openFar();
      const asked = new Receiver(libc, thread(1), a.handle);
      const answered = new Receiver(libc, thread(2), b.handle);
      const asker = new Sender(libc, thread(2), b.handle);
      core.putOut(2, 0, { to: `${second}:${a.port}`, bytes: pattern(1, 32) });
      assert.equal(asker.send(1), 1);
      assertReadable(libc, a.handle.fd);
      assert.equal(asked.receive(), 1);
      // What the core does: the IN record's endpoint, sticky source and all, becomes the OUT record's.
      const from = core.block(1) + abi.THREAD_IN + abi.IN_ENDPOINT;
      core.putOut(1, 0, { to: "127.0.0.1:1", bytes: pattern(2, 32) });
      core.u8.copyWithin(core.block(1) + abi.THREAD_OUT + abi.OUT_ENDPOINT, from, from + abi.ENDPOINT_LEN);
      assert.equal(new Sender(libc, thread(1), a.handle).send(1), 1);
      const [answer] = receiveAll(libc, b.handle.fd, answered, 1, (i) => core.readIn(2, i));
      assert.equal(answer.from, `${second}:${a.port}`);
      a.close();
      b.close();
    });

    udp(`a source that is gone is given up once, and no datagram is lost, IPv${family}`, () => {
      const a = openNear();
      const b = openFar();
      const gone: number[] = [];
      const sender = new Sender(libc, thread(1), a.handle, { onSourceGone: (peer) => gone.push(peer) });
      const receiver = new Receiver(libc, thread(2), b.handle);
      const to = `${there}:${b.port}`;
      near.ip("addr", "del", `${bare}/${family === 4 ? 24 : 64}`, "dev", "near0");
      try {
        for (const source of [{ address: bare, ifindex: nearIndex }, { address: bare, ifindex: 0 }, { address: first.replace(/[[\]]/g, ""), ifindex: 4242 }]) {
          gone.length = 0;
          for (let i = 0; i < 3; i++) core.putOut(1, i, { to, bytes: pattern(i, 32), source, peer: 7 });
          core.putOut(1, 3, { to, bytes: pattern(3, 32), peer: 8, tos: 1 });
          core.putOut(1, 4, { to, bytes: pattern(4, 32), source, peer: 9, tos: 1 });
          assert.equal(sender.send(5), 5);
          const all = receiveAll(libc, b.handle.fd, receiver, 5, (i) => core.readIn(2, i));
          assert.deepEqual(all.map(({ bytes }) => bytes), [0, 1, 2, 3, 4].map((i) => pattern(i, 32)));
          assert.deepEqual(all.map(({ from }) => from), Array(5).fill(`${first}:${a.port}`));
          assert.deepEqual(all.map(({ tos }) => tos), [0, 0, 0, 1, 1]);
          assert.deepEqual(gone, [7, 9]);
        }
        assert.equal(sender.errors.size, 0);
      } finally {
        addAddress(near, "near0", `${bare}/${family === 4 ? 24 : 64}`);
      }
      a.close();
      b.close();
    });

    udp(`DSCP and ECN go out and come in, IPv${family}`, () => {
      const a = openNear();
      const b = openFar();
      const sender = new Sender(libc, thread(1), a.handle);
      const receiver = new Receiver(libc, thread(2), b.handle);
      const values = [0x00, 0x01, 0x02, 0x03, 0x88, 0xb8];
      for (const [i, tos] of values.entries()) core.putOut(1, i, { to: `${there}:${b.port}`, bytes: pattern(i, 32), tos });
      assert.equal(sender.send(values.length), values.length);
      const all = receiveAll(libc, b.handle.fd, receiver, values.length, (i) => core.readIn(2, i).tos);
      assert.deepEqual(all, values);
      a.close();
      b.close();
    });
  }

  udp("a datagram that cannot be sent is counted and does not stop the others", () => {
    const a = openNear();
    const b = openFar();
    const gone: number[] = [];
    const sender = new Sender(libc, thread(1), a.handle, { onSourceGone: (peer) => gone.push(peer) });
    const receiver = new Receiver(libc, thread(2), b.handle);
    const to = `10.91.0.2:${b.port}`;
    core.putOut(1, 0, { to: "192.0.2.1:9", bytes: pattern(0, 32) }); // no route
    core.putOut(1, 1, { to, bytes: pattern(1, 32) });
    core.putOut(1, 2, { to, offset: core.slot(1, 2), length: 65508 }); // above the largest datagram
    core.putOut(1, 3, { to: "10.91.0.255:9", bytes: pattern(3, 32) }); // broadcast was not asked for
    core.putOut(1, 4, { to: "[2001:db8::1]:9", bytes: pattern(4, 32), source: { address: "fd91::1", ifindex: 0 }, peer: 5 });
    core.putOut(1, 5, { to, bytes: pattern(5, 32) });
    assert.equal(sender.send(6), 2);
    const all = receiveAll(libc, b.handle.fd, receiver, 2, (i) => core.readIn(2, i).bytes);
    assert.deepEqual(all, [pattern(1, 32), pattern(5, 32)]);
    assert.deepEqual(Object.fromEntries(sender.errors), { ENETUNREACH: 2, EMSGSIZE: 1, EACCES: 1 });
    a.close();
    b.close();
  });

  udp("an endpoint without a family is counted and skipped", () => {
    const a = openNear();
    const sender = new Sender(libc, thread(1), a.handle);
    core.putOut(1, 0, { to: "10.91.0.2:9", bytes: pattern(0, 32) });
    core.view.setUint16(core.block(1) + abi.THREAD_OUT + abi.OUT_ENDPOINT + abi.ENDPOINT_FAMILY, 0, true);
    assert.equal(sender.send(1), 0);
    assert.deepEqual(Object.fromEntries(sender.errors), { EAFNOSUPPORT: 1 });
    a.close();
  });

  udp("an IPv4 socket stands in where there is no IPv6", () => {
    const a = openNear({ family: 4 });
    const b = openFar({ family: 4 });
    assert.equal(a.handle.family, 4);
    const sender = new Sender(libc, thread(1), a.handle);
    const receiver = new Receiver(libc, thread(2), b.handle);
    const source = { address: "10.91.0.3", ifindex: nearIndex };
    core.putOut(1, 0, { to: `10.91.0.2:${b.port}`, bytes: pattern(0, 32), source, tos: 2 });
    core.putOut(1, 1, { to: `[fd91::2]:${b.port}`, bytes: pattern(1, 32) });
    core.putOut(1, 2, { to: `10.91.0.2:${b.port}`, bytes: pattern(2, 32), source: { address: "10.91.0.77", ifindex: 0 } });
    assert.equal(sender.send(3), 2);
    assert.deepEqual(Object.fromEntries(sender.errors), { EAFNOSUPPORT: 1 });
    const all = receiveAll(libc, b.handle.fd, receiver, 2, (i) => core.readIn(2, i));
    assert.deepEqual(
      all.map(({ from, reached, ifindex, tos }) => ({ from, reached, ifindex, tos })),
      [
        { from: `10.91.0.3:${a.port}`, reached: "10.91.0.2", ifindex: farIndex, tos: 2 },
        { from: `10.91.0.1:${a.port}`, reached: "10.91.0.2", ifindex: farIndex, tos: 0 },
      ],
    );
    a.close();
    b.close();
  });

  udp("an empty datagram is no wake", () => {
    const a = openNear();
    const b = openFar();
    const receiver = new Receiver(libc, thread(2), b.handle);
    const name = new NativeMemory(libc.address, 32);
    name.view.setUint16(0, 10, true);
    name.view.setUint16(2, b.port, false);
    name.bytes.set(parseIp("fd91::2").address, 8);
    assert.equal(libc.sendto(a.handle.fd, name.address, 0, 0, name.address, 28), 0);
    const [empty] = receiveAll(libc, b.handle.fd, receiver, 1, (i) => core.readIn(2, i));
    assert.deepEqual([empty.bytes.length, empty.from], [0, `[fd91::1]:${a.port}`]);
    a.close();
    b.close();
  });

  udp("the port is the one asked for, and a taken one is said to be taken", () => {
    const a = openNear();
    assert.ok(a.port > 0);
    assert.throws(() => openNear({ port: a.port }), (error: SystemError) => {
      assert.equal(error.message, `bind UDP port ${a.port}: address already in use (EADDRINUSE)`);
      return error.code === "EADDRINUSE" && error.syscall === "bind";
    });
    const port = a.port;
    a.close();
    const b = openNear({ port });
    assert.equal(b.port, port);
    b.close();
    for (const bad of [-1, 65536, 1.5, NaN]) assert.throws(() => openNear({ port: bad }), RangeError);
  });

  udp("the firewall mark is set at once and live, and rules see it", () => {
    const a = openNear({ mark: 51820 });
    const b = openFar();
    assert.equal(a.mark(), 51820);
    a.setMark(0x80000001);
    assert.equal(a.mark(), 0x80000001);
    // A rule of the kernel's: marked packets have no route.
    near.ip("rule", "add", "fwmark", "0x80000001", "unreachable");
    const sender = new Sender(libc, thread(1), a.handle);
    const out = () => core.putOut(1, 0, { to: `10.91.0.2:${b.port}`, bytes: pattern(0, 32) });
    out();
    assert.equal(sender.send(1), 0);
    a.setMark(0);
    out();
    assert.equal(sender.send(1), 1);
    near.ip("rule", "del", "fwmark", "0x80000001", "unreachable");
    a.close();
    b.close();
  });

  udp("the buffers hold 8 MiB", () => {
    const a = openNear();
    assert.deepEqual(a.bufferSizes(), { receive: 16 << 20, send: 16 << 20 });
    a.close();
  });

  udp("a blocked receiver gets datagrams, wakes without one, and the sender still sends", async () => {
    const a = openNear();
    const b = openFar();
    const lane = new Lane({ role: "udp", memory: core.memory, thread: 2, udp: b.handle });
    assert.equal(await lane.next(), "ready");
    await asleep();
    core.putOut(1, 0, { to: `10.91.0.2:${b.port}`, bytes: pattern(5, 148) });
    const sender = new Sender(libc, thread(1), a.handle);
    assert.equal(sender.send(1), 1);
    assert.equal(await lane.next(), 1);
    assert.deepEqual(core.readIn(2, 0).bytes, pattern(5, 148));
    lane.go();
    await asleep();
    b.wake();
    assert.equal(await lane.next(), 0);
    await lane.exited();
    core.putOut(2, 0, { to: `10.91.0.1:${a.port}`, bytes: pattern(6, 148) });
    assert.equal(new Sender(libc, thread(2), b.handle).send(1), 1, "a woken socket cannot send any more");
    assertReadable(libc, a.handle.fd);
    assert.equal(new Receiver(libc, thread(2), b.handle).receive(), 0, "woken is for ever");
    a.close();
    b.close();
  });

  udp("a closed socket is fatal to a receiver and only counted by a sender", () => {
    const a = openNear();
    const receiver = new Receiver(libc, thread(2), { fd: -1, family: 6, segments: true });
    assert.throws(() => receiver.receive(), (error: SystemError) => error.code === "EBADF" && error.syscall === "recvmmsg");
    const sender = new Sender(libc, thread(1), { fd: -1, family: 6, segments: true });
    for (let i = 0; i < 3; i++) core.putOut(1, i, { to: "10.91.0.2:9", bytes: pattern(i, 32) });
    assert.equal(sender.send(3), 0);
    assert.deepEqual(Object.fromEntries(sender.errors), { EBADF: 3 });
    sender.use(a.handle);
    assert.equal(sender.send(3), 3);
    a.close();
  });

  udp.run();

  // ---- TUN

  const tun = suite("linux TUN");
  const open = (name: string, options = {}) => near.enter(libc, () => openTun(libc, { name, ...options }));
  const setUpTun = (interfaceTun: LinuxTun) => {
    const name = interfaceTun.name();
    near.exec("sysctl", "-qw", `net.ipv6.conf.${name}.disable_ipv6=1`); // no packets that nobody sent
    near.ip("addr", "add", "10.92.0.1/24", "dev", name);
    interfaceTun.setUp(true);
  };

  tun("opens by name with MTU, and follows a rename", () => {
    const one = open("wgt0", { mtu: 1420 });
    assert.equal(one.name(), "wgt0");
    assert.equal(one.mtu(), 1420);
    assert.equal(one.ifindex, near.enter(libc, () => libc.ifNametoindex("wgt0")));
    assert.equal(one.up(), false);
    one.setUp(true);
    assert.match(near.ip("link", "show", "wgt0"), /[<,]UP[,>].* mtu 1420 /);
    one.setMtu(9000);
    assert.match(near.ip("link", "show", "wgt0"), / mtu 9000 /);
    one.setUp(false);
    near.ip("link", "set", "wgt0", "name", "renamed");
    assert.equal(one.name(), "renamed");
    assert.equal(one.mtu(), 9000);
    assert.equal(one.exists(), true);
    one.close();
    assert.throws(() => near.ip("link", "show", "renamed"));
  });

  tun("lets the kernel choose a number", () => {
    const one = open("wgt%d");
    const two = open("wgt%d");
    assert.deepEqual([one.name(), two.name()], ["wgt0", "wgt1"]);
    one.close();
    two.close();
  });

  tun("says why it cannot be opened", () => {
    const one = open("wgt0");
    const refusal = (name: string, options = {}) => {
      try {
        open(name, options).close();
      } catch (error) {
        return `${(error as SystemError).code ?? (error as Error).name}: ${(error as Error).message}`;
      }
      return "opened";
    };
    assert.equal(refusal("wgt0"), "EBUSY: create interface wgt0: device or resource busy (EBUSY); another program holds an interface of that name");
    assert.equal(refusal("near0"), "EINVAL: create interface near0: invalid argument (EINVAL); an interface of another kind has that name");
    assert.equal(refusal(""), 'RangeError: interface name "" is not 1..15 bytes');
    assert.equal(refusal("sixteen-bytes-xx"), 'RangeError: interface name "sixteen-bytes-xx" is not 1..15 bytes');
    for (const bad of ["a b", "a/b", "a:b", ".", "..", "a\0b"]) assert.match(refusal(bad), /^RangeError: .*the kernel refuses$/);
    for (const mtu of [67, 65536, 1.5]) assert.match(refusal("wgt1", { mtu }), /^RangeError: MTU .* is not in 68\.\.65535$/);
    assert.throws(() => near.ip("link", "show", "wgt1"), "an interface was left behind");
    one.close();
  });

  tun("takes over a descriptor, whatever its virtio header", () => {
    for (const vnetHeader of [false, true]) {
      const one = open("wgt0", { vnetHeader });
      libc.fcntl(one.handle.fd, 4, O_RDWR | O_NONBLOCK);
      const two = near.enter(libc, () => adoptTun(libc, one.handle.fd));
      assert.deepEqual(two.handle, { fd: one.handle.fd, vnetHeader });
      assert.equal(two.name(), "wgt0");
      assert.equal(libc.fcntl(one.handle.fd, 3, 0) & O_NONBLOCK, 0, "a lane could not sleep in it");
      two.close();
    }
    const pipe = libc.eventfd(0, 0);
    assert.throws(() => adoptTun(libc, pipe), /find the interface of descriptor \d+/);
    libc.close(pipe);
    assert.throws(() => adoptTun(libc, 9999), (error: SystemError) => error.code === "EBADF");
  });

  for (const vnetHeader of [false, true]) {
    const title = vnetHeader ? "with virtio header" : "plain";

    tun(`reads a batch and writes gathered packets, ${title}`, () => {
      const one = open("wgt0", { vnetHeader });
      setUpTun(one);
      const local = near.enter(libc, () => new LinuxUdp(libc, { port: 0 }));
      const sender = new Sender(libc, thread(1), local.handle);
      const reader = new TunReader(libc, thread(2), one.handle);
      const writer = new TunWriter(libc, thread(2), one.handle);
      const COUNT = 40;
      for (let i = 0; i < COUNT; i++) core.putOut(1, i, { to: "10.92.0.2:7", bytes: pattern(i, 10 * i) });
      core.putOut(1, 0, { to: "10.92.0.2:7", bytes: pattern(0, 1) });
      assert.equal(sender.send(COUNT), COUNT);
      assertReadable(libc, one.handle.fd);
      assert.equal(reader.receive(), 32, "one batch takes what is there");
      for (let i = 0; i < 32; i++) {
        const { bytes, offset, from } = core.readIn(2, i);
        assert.equal(offset, core.slot(2, i));
        assert.equal(from, null);
        assert.equal(formatIp(bytes.subarray(16, 20)), "10.92.0.2");
        assert.deepEqual(bytes.subarray(28), i === 0 ? pattern(0, 1) : pattern(i, 10 * i));
      }
      assert.equal(reader.receive(), COUNT - 32);
      // The last packet back, in three parts, source and destination swapped (the checksums stay right). The kernel left
      // UDP's checksum to whoever has a virtio header; the test plays the core, which puts one before what it delivers.
      const { offset, bytes } = core.readIn(2, 7);
      const header = vnetHeader ? VNET_HEADER_LEN : 0;
      if (vnetHeader) core.u8.set(vnet(NEEDS_CSUM, GSO_NONE, 0, 0, 20, 6), offset - header);
      core.u8.set(bytes.subarray(12, 16), offset + 16);
      core.u8.set(bytes.subarray(16, 20), offset + 12);
      core.view.setUint16(offset + 20, 7, false);
      core.view.setUint16(offset + 22, local.port, false);
      core.putDeliver(2, 0, offset - header, header + 20, abi.DELIVER_CONTINUES);
      core.putDeliver(2, 1, offset + 20, 8, abi.DELIVER_CONTINUES);
      core.putDeliver(2, 2, offset + 28, bytes.length - 28);
      core.putDeliver(2, 3, offset - header, header + bytes.length);
      assert.equal(writer.deliver(4), 2);
      const receiver = new Receiver(libc, thread(3), local.handle);
      const all = receiveAll(libc, local.handle.fd, receiver, 2, (i) => core.readIn(3, i));
      for (const datagram of all) {
        assert.equal(datagram.from, "10.92.0.2:7");
        assert.deepEqual(datagram.bytes, pattern(COUNT - 1, 10 * (COUNT - 1)));
      }
      // Not an IP packet; interface down.
      core.u8[offset] = 0x15;
      core.putDeliver(2, 0, offset - header, header + bytes.length);
      assert.equal(writer.deliver(1), 0);
      core.u8[offset] = 0x45;
      one.setUp(false);
      assert.equal(writer.deliver(1), 0);
      assert.deepEqual(Object.fromEntries(writer.errors), { EINVAL: 1, EIO: 1 });
      near.enter(libc, () => deleteLink(libc, "wgt0"));
      assert.equal(writer.deliver(1), CLOSED);
      assert.equal(reader.receive(), CLOSED);
      assert.equal(one.exists(), false);
      assert.throws(() => one.name(), /its interface was deleted/);
      one.close();
      local.close();
    });

    tun(`a lane answers ping, and ends when the interface is deleted, ${title}`, async () => {
      const one = open("wgt0", { vnetHeader });
      setUpTun(one);
      const lane = new Lane({ role: "echo", memory: core.memory, thread: 3, tun: one.handle });
      assert.equal(await lane.next(), "ready");
      assert.match(near.exec("ping", "-c", "3", "-i", "0.01", "-W", "2", "10.92.0.2"), / 3 received/);
      await asleep();
      assert.equal(near.enter(libc, () => deleteLink(libc, "wgt0")), true);
      assert.equal(await lane.next(), CLOSED);
      await lane.exited();
      one.close();
    });
  }

  tun("a blocked reader wakes without losing its interface", async () => {
    const one = open("wgt0");
    assert.equal(near.enter(libc, () => one.wake()), false, "down: nothing can be sent");
    setUpTun(one);
    const lane = new Lane({ role: "tun", memory: core.memory, thread: 3, tun: one.handle });
    assert.equal(await lane.next(), "ready");
    await asleep();
    assert.equal(near.enter(libc, () => one.wake()), true);
    assert.equal(await lane.next(), 0);
    await lane.exited();
    assert.equal(one.exists(), true);
    one.close();
  });

  tun("a multi-queue interface has a second descriptor", () => {
    const one = open("wgt0", { multiQueue: true });
    const queue = near.enter(libc, () => one.openQueue());
    setUpTun(one);
    assert.notEqual(queue.fd, one.handle.fd);
    assert.match(near.ip("-d", "link", "show", "wgt0"), / multi_queue numqueues 2 /);
    libc.close(queue.fd);
    one.close();
  });

  tun.run();

  // ---- netlink

  const netlink = suite("linux netlink");

  netlink("finds an interface by index and by name, and deletes one", () => {
    const one = open("wgt0", { mtu: 1400 });
    near.enter(libc, () => {
      const link = { ifindex: one.ifindex, name: "wgt0", mtu: 1400, up: false };
      assert.deepEqual(getLink(libc, one.ifindex), link);
      assert.deepEqual(getLink(libc, "wgt0"), link);
      one.setUp(true);
      assert.deepEqual(getLink(libc, "wgt0"), { ...link, up: true });
      assert.equal(libc.ifIndextoname(one.ifindex), "wgt0");
      assert.equal(deleteLink(libc, "wgt0"), true);
      assert.equal(deleteLink(libc, "wgt0"), false);
      assert.equal(getLink(libc, one.ifindex), null);
      assert.equal(getLink(libc, "wgt0"), null);
      assert.equal(libc.ifIndextoname(one.ifindex), "");
    });
    one.close();
  });

  netlink("reports MTU, state, rename, deletion, addresses and routes of its own namespace", async () => {
    const events: NetworkEvent[] = [];
    let arrived = () => {};
    const watcher = near.enter(libc, () =>
      watchNetwork(libc, (event) => {
        events.push(event);
        arrived();
      }),
    );
    /** Waits for an event like `wanted`, and forgets all before it. */
    const expect = async (wanted: Partial<NetworkEvent>) => {
      for (;;) {
        const at = events.findIndex((event) => Object.entries(wanted).every(([key, value]) => (event as any)[key] === value));
        if (at >= 0) return void events.splice(0, at + 1);
        await new Promise<void>((resolve, reject) => {
          const timer = setTimeout(() => reject(new Error(`no ${JSON.stringify(wanted)} in ${JSON.stringify(events)}`)), 5000);
          arrived = () => {
            clearTimeout(timer);
            resolve();
          };
        });
      }
    };
    try {
      const one = open("wgt0");
      const { ifindex } = one;
      await expect({ type: "link", ifindex, name: "wgt0", mtu: 1500, up: false, renamed: false });
      one.setMtu(1280);
      await expect({ type: "link", ifindex, mtu: 1280 });
      one.setUp(true);
      await expect({ type: "link", ifindex, up: true });
      near.ip("addr", "add", "10.93.0.1/24", "dev", "wgt0");
      await expect({ type: "network" });
      near.ip("route", "add", "10.94.0.0/16", "dev", "wgt0");
      await expect({ type: "network" });
      near.ip("addr", "add", "fd93::1/64", "dev", "wgt0");
      await expect({ type: "network" });
      one.setUp(false);
      await expect({ type: "link", ifindex, up: false });
      near.ip("link", "set", "wgt0", "name", "wgt9");
      await expect({ type: "link", ifindex, name: "wgt9", renamed: true });
      near.ip("link", "del", "wgt9");
      await expect({ type: "deleted", ifindex });
      one.close();
    } finally {
      watcher.close();
    }
    watcher.close(); // twice is once
  });

  netlink("a watcher does not keep the process from exiting", () => {
    const directory = mkdtempSync(path.join(bundleDirectory, "exit-"));
    try {
      bundle("host/platform/linux/libc.ts", path.join(directory, "libc.mjs"));
      bundle("host/platform/linux/netlink.ts", path.join(directory, "netlink.mjs"));
      const script = `
        import { openLibc } from "${directory}/libc.mjs";
        import { watchNetwork } from "${directory}/netlink.mjs";
        import process from "node:process";
        watchNetwork(openLibc(), () => {});
        setTimeout(() => process.exit(3), 50);`;
      const inline = (globalThis as { Deno?: unknown }).Deno ? ["eval", script] : ["--input-type=module", "-e", script];
      assert.throws(
        () => execFileSync(process.execPath, inline, { timeout: 10_000, cwd: root }),
        (error: { status: number | null }) => error.status === 3,
      );
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  netlink("long runs make a batch thread of it, short ones end that", () => {
    // proc(5): the policy is the 41st field; the second, in parentheses, may hold blanks.
    const policy = (): number => Number(readFileSync("/proc/thread-self/stat", "utf8").split(") ")[1].split(" ")[38]);
    const pace = new Pace(libc);
    const note = (count: number, size: number): void => {
      for (let i = 0; i < count; i++) pace.note(size);
    };
    assert.equal(policy(), 0);
    note(31, 65536);
    assert.equal(policy(), 0);
    note(1, 65536);
    assert.equal(policy(), 3);
    note(31, 84);
    assert.equal(policy(), 3);
    note(1, 84);
    assert.equal(policy(), 0);
  });

  netlink.run();

  const cleanUp = suite("linux clean-up");
  cleanUp("the namespaces go", () => {
    near.remove();
    far.remove();
  });
  cleanUp.run();
}
