// Offloads on the real kernel: runs of datagrams through UDP_SEGMENT and UDP_GRO, what happens where a path refuses
// them, super-packets out of a TUN and joined packets into one. In network namespaces of the test's own.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import process from "node:process";
import { suite } from "uvu";
import * as abi from "../../assembly/abi.ts";
import { openLibc, SOL_SOCKET, type Libc } from "../../host/platform/linux/libc.ts";
import { Receiver } from "../../host/platform/linux/receiver.ts";
import { Sender } from "../../host/platform/linux/sender.ts";
import { SOL_UDP } from "../../host/platform/linux/sockaddr.ts";
import { adoptTun, openTun, type LinuxTun } from "../../host/platform/linux/tun.ts";
import { TunReader } from "../../host/platform/linux/tunreader.ts";
import { TunWriter } from "../../host/platform/linux/tunwriter.ts";
import { LinuxUdp, type UdpOptions } from "../../host/platform/linux/udp.ts";
import { cannotRun, joinByVeth, Namespace, whyNoNamespaces } from "../helpers/namespace.ts";
import { builds } from "../helpers/wasm.ts";
import { CEILING, FLOOR, loadOffload, type Offload } from "../offload/fixture.ts";
import { GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, parse, superPacket, UDP } from "../offload/oracle.ts";
import { assertReadable, FakeCore, pattern, receiveAll } from "./linux-fixture.ts";

const SO_NO_CHECK = 11;
const UDP_NO_CHECK6_TX = 101;
const UDP_NO_CHECK6_RX = 102;

const why = whyNoNamespaces();
if (why) cannotRun("linux offloads in namespaces", why);
else testOffloads(openLibc());

function testOffloads(libc: Libc): void {
  const core = new FakeCore();
  const thread = (number: number) => ({ memory: core.memory, thread: number });
  const near = new Namespace();
  const far = new Namespace();
  joinByVeth(near, "near0", far, "far0");
  const addAddress = (namespace: Namespace, name: string, address: string) => {
    // IPv6 prefers the newest address; a deprecated one is taken only when asked for, as IPv4's second is.
    const deprecated = address.startsWith("fd91::3") ? ["preferred_lft", "0"] : [];
    namespace.ip("addr", "add", address, "dev", name, ...(address.includes(":") ? ["nodad", ...deprecated] : []));
  };
  const nearAddresses = ["10.91.0.1/24", "10.91.0.3/24", "fd91::1/64", "fd91::3/64"];
  for (const address of nearAddresses) addAddress(near, "near0", address);
  for (const address of ["10.91.0.2/24", "fd91::2/64"]) addAddress(far, "far0", address);
  const nearIndex = near.enter(libc, () => libc.ifNametoindex("near0"));

  /** What a test opened; closed after it, however it ended. */
  const opened: { close(): void }[] = [];
  const closeAll = () => {
    for (const it of opened.splice(0)) it.close();
  };
  const keep = <T extends { close(): void }>(it: T): T => {
    opened.push(it);
    return it;
  };
  const openIn = (namespace: Namespace, options: Partial<UdpOptions>) =>
    keep(namespace.enter(libc, () => new LinuxUdp(libc, { port: 0, ...options })));
  const openNear = (options: Partial<UdpOptions> = {}) => openIn(near, options);
  const openFar = (options: Partial<UdpOptions> = {}) => openIn(far, options);

  interface Came {
    from: string | null;
    tos: number;
    /** length of each, as it came: 0 = one datagram */
    segment: number;
    bytes: Uint8Array;
  }

  /** Receives until `count` datagrams came, in runs or not; none more may come. */
  function receiveDatagrams(udp: LinuxUdp, count: number): Came[] {
    const receiver = new Receiver(libc, thread(2), udp.handle);
    const records: Came[] = [];
    for (let seen = 0; seen < count; ) {
      assertReadable(libc, udp.handle.fd);
      const batch = receiver.receive();
      assert.ok(batch > 0);
      for (let i = 0; i < batch; i++) {
        const record = core.readIn(2, i);
        records.push(record);
        seen += record.segment ? Math.ceil(record.bytes.length / record.segment) : 1;
      }
      assert.ok(seen <= count, `${seen} datagrams instead of ${count}`);
    }
    assert.equal(receiver.errors.size, 0);
    return records;
  }

  /** The datagrams of all records, one by one. */
  const datagramsOf = (records: Came[]): Uint8Array[] =>
    records.flatMap(({ bytes, segment }) => {
      const step = segment || bytes.length;
      return Array.from({ length: Math.ceil(bytes.length / step) }, (_, i) => bytes.slice(i * step, (i + 1) * step));
    });

  const cut = (bytes: Uint8Array, segment: number): Uint8Array[] => datagramsOf([{ from: "", tos: 0, segment, bytes }]);

  // ---- UDP

  const udp = suite("linux UDP runs");
  udp.after.each(closeAll);

  for (const [title, there, first, second, options] of [
    ["IPv4", "10.91.0.2", "10.91.0.1", "10.91.0.3", {}],
    ["IPv6", "[fd91::2]", "[fd91::1]", "[fd91::3]", {}],
    ["IPv4 socket", "10.91.0.2", "10.91.0.1", "10.91.0.3", { family: 4 }],
  ] as const) {
    const bare = second.replace(/[[\]]/g, "");

    udp(`a run leaves as one and arrives as one, ${title}`, () => {
      const [a, b] = [openNear(options), openFar(options)];
      assert.equal(a.handle.segments, true);
      const sender = new Sender(libc, thread(1), a.handle);
      const run = pattern(9, 40 * 1452 + 77);
      core.putOut(1, 0, { to: `${there}:${b.port}`, bytes: run, segment: 1452 });
      core.putOut(1, 1, { to: `${there}:${b.port}`, bytes: run.subarray(0, 100), segment: 100 });
      assert.equal(sender.send(2), 42);
      const records = receiveDatagrams(b, 42);
      assert.deepEqual(records.map(({ bytes, segment }) => [bytes.length, segment]), [[run.length, 1452], [100, 0]]);
      assert.ok(Buffer.from(records[0].bytes).equals(run));
      assert.equal(sender.errors.size, 0);
    });

    udp(`to a socket that takes no runs it arrives as its datagrams, ${title}`, () => {
      const [a, b] = [openNear(options), openFar({ ...options, offload: false })];
      const run = pattern(9, 40 * 1452 + 77);
      core.putOut(1, 0, { to: `${there}:${b.port}`, bytes: run, segment: 1452 });
      assert.equal(new Sender(libc, thread(1), a.handle).send(1), 41);
      const records = receiveDatagrams(b, 41);
      assert.deepEqual(records.map(({ segment }) => segment), Array(41).fill(0));
      assert.deepEqual(datagramsOf(records), cut(run, 1452));
    });

    udp(`from a socket without offload it leaves as its datagrams, ${title}`, () => {
      const [a, b] = [openNear({ ...options, offload: false }), openFar({ ...options, offload: false })];
      assert.equal(a.handle.segments, false);
      const run = pattern(4, 40 * 1452 + 77);
      core.putOut(1, 0, { to: `${there}:${b.port}`, bytes: run, segment: 1452 });
      assert.equal(new Sender(libc, thread(1), a.handle).send(1), 41);
      assert.deepEqual(datagramsOf(receiveDatagrams(b, 41)), cut(run, 1452));
    });

    udp(`the largest run, and 64 datagrams of one byte, ${title}`, () => {
      const [a, b] = [openNear(options), openFar(options)];
      const sender = new Sender(libc, thread(1), a.handle);
      const to = `${there}:${b.port}`;
      const largest = pattern(5, abi.OUT_RUN_LEN_MAX);
      core.putOut(1, 0, { to, bytes: largest, segment: 1452 });
      core.putOut(1, 1, { to, bytes: pattern(6, 64), segment: 1 });
      assert.equal(sender.send(2), 46 + 64);
      assert.deepEqual(datagramsOf(receiveDatagrams(b, 110)), [...cut(largest, 1452), ...cut(pattern(6, 64), 1)]);
      assert.equal(sender.errors.size, 0);
    });

    udp(`sticky source, TOS and segment length go together, ${title}`, () => {
      const [a, b] = [openNear(options), openFar(options)];
      const sender = new Sender(libc, thread(1), a.handle);
      const to = `${there}:${b.port}`;
      const source = { address: bare, ifindex: nearIndex };
      const run = pattern(7, 5 * 1000 + 1);
      core.putOut(1, 0, { to, bytes: run, segment: 1000, source, tos: 2 });
      core.putOut(1, 1, { to, bytes: run, segment: 1000, source });
      core.putOut(1, 2, { to, bytes: run, segment: 1000, tos: 1 });
      core.putOut(1, 3, { to, bytes: run, segment: 1000, source: { address: bare, ifindex: 0 }, tos: 0x8b });
      assert.equal(sender.send(4), 24);
      const records = receiveDatagrams(b, 24);
      assert.deepEqual(
        records.map(({ from, tos, segment }) => [from, tos, segment]),
        [[second, 2], [second, 0], [first, 1], [second, 0x8b]].map(([from, tos]) => [`${from}:${a.port}`, tos, 1000]),
      );
      for (const { bytes } of records) assert.ok(Buffer.from(bytes).equals(run));
    });

    udp(`a path that refuses a run gets its datagrams, other peers keep theirs, ${title}`, () => {
      const [a, b, c] = [openNear(options), openFar(options), openFar(options)];
      const gone: number[] = [];
      const sender = new Sender(libc, thread(1), a.handle, { onSourceGone: (peer) => gone.push(peer) });
      const source = { address: bare, ifindex: nearIndex };
      // Datagrams of 2,000 bytes do not fit the MTU of 1,500: one by one they are fragmented, a run is refused.
      const wide = pattern(1, 6 * 2000);
      const fits = pattern(2, 6 * 1000);
      core.putOut(1, 0, { to: `${there}:${b.port}`, bytes: wide, segment: 2000, peer: 1, source });
      core.putOut(1, 1, { to: `${there}:${c.port}`, bytes: fits, segment: 1000, peer: 2, source });
      core.putOut(1, 2, { to: `${there}:${b.port}`, bytes: fits, segment: 1000, peer: 1, source });
      assert.equal(sender.send(3), 18);
      const own = receiveDatagrams(b, 12);
      assert.deepEqual(datagramsOf(own), [...cut(wide, 2000), ...cut(fits, 1000)]);
      assert.deepEqual(own.slice(0, 6).map(({ segment }) => segment), Array(6).fill(0));
      const other = receiveDatagrams(c, 6);
      assert.deepEqual(other.map(({ segment }) => segment), [1000], "the other peer lost its run");
      for (const { from } of [...own, ...other]) assert.equal(from, `${second}:${a.port}`);
      assert.deepEqual(gone, [], "a source was blamed for what the run was refused for");
      // From now on its runs are not even tried; until the endpoint changes.
      core.putOut(1, 0, { to: `${there}:${b.port}`, bytes: fits, segment: 1000, peer: 1 });
      core.putOut(1, 1, { to: `${there}:${c.port}`, bytes: fits, segment: 1000, peer: 2 });
      assert.equal(sender.send(2), 12);
      assert.deepEqual(receiveDatagrams(b, 6).map(({ segment }) => segment), Array(6).fill(0));
      assert.deepEqual(receiveDatagrams(c, 6).map(({ segment }) => segment), [1000]);
      core.putOut(1, 0, { to: `${there}:${c.port}`, bytes: fits, segment: 1000, peer: 1 });
      assert.equal(sender.send(1), 6);
      assert.deepEqual(receiveDatagrams(c, 6).map(({ segment }) => segment), [1000], "not tried at the new endpoint");
      core.putOut(1, 0, { to: `${there}:${b.port}`, bytes: fits, segment: 1000, peer: 1 });
      assert.equal(sender.send(1), 6);
      assert.deepEqual(receiveDatagrams(b, 6).map(({ segment }) => segment), [1000], "nor when it came back");
      assert.equal(sender.errors.size, 0);
    });

    udp(`a run that is refused with the errno of a bad source keeps its source, ${title}`, () => {
      const [a, b] = [openNear(options), openFar(options)];
      const gone: number[] = [];
      const sender = new Sender(libc, thread(1), a.handle, { onSourceGone: (peer) => gone.push(peer) });
      // A socket that makes no checksums may send no runs: EINVAL. IPv6 has its own word, and wants it of both ends.
      const switchOn = ({ handle }: LinuxUdp, level: number, option: number) => {
        libc.scratch.view.setInt32(0, 1, true);
        assert.equal(libc.setsockopt(handle.fd, level, option, libc.scratch.address, 4), 0);
      };
      switchOn(a, SOL_SOCKET, SO_NO_CHECK);
      if (a.handle.family === 6) switchOn(a, SOL_UDP, UDP_NO_CHECK6_TX);
      if (b.handle.family === 6) switchOn(b, SOL_UDP, UDP_NO_CHECK6_RX);
      const run = pattern(3, 6 * 1000);
      const source = { address: bare, ifindex: nearIndex };
      const to = `${there}:${b.port}`;
      for (let i = 0; i < 2; i++) core.putOut(1, i, { to, bytes: run, segment: 1000, peer: 7, source });
      assert.equal(sender.send(2), 12);
      const records = receiveDatagrams(b, 12);
      assert.deepEqual(records.map(({ segment }) => segment), Array(12).fill(0), "it was not refused");
      assert.deepEqual(datagramsOf(records), [...cut(run, 1000), ...cut(run, 1000)]);
      for (const { from } of records) assert.equal(from, `${second}:${a.port}`);
      assert.deepEqual(gone, []);
      assert.equal(sender.errors.size, 0);
    });

    udp(`a source that is gone is given up once, and the runs stay runs, ${title}`, () => {
      const [a, b] = [openNear(options), openFar(options)];
      const gone: number[] = [];
      const sender = new Sender(libc, thread(1), a.handle, { onSourceGone: (peer) => gone.push(peer) });
      const prefix = `${bare}/${bare.includes(":") ? 64 : 24}`;
      const run = pattern(3, 6 * 1000);
      const to = `${there}:${b.port}`;
      near.ip("addr", "del", prefix, "dev", "near0");
      try {
        const source = { address: bare, ifindex: nearIndex };
        for (let i = 0; i < 3; i++) core.putOut(1, i, { to, bytes: run, segment: 1000, peer: 7, source });
        assert.equal(sender.send(3), 18);
        const records = receiveDatagrams(b, 18);
        assert.deepEqual(datagramsOf(records), [...cut(run, 1000), ...cut(run, 1000), ...cut(run, 1000)]);
        for (const { from } of records) assert.equal(from, `${first}:${a.port}`);
        assert.deepEqual(gone, [7]);
        core.putOut(1, 0, { to, bytes: run, segment: 1000, peer: 7 });
        assert.equal(sender.send(1), 6);
        assert.deepEqual(receiveDatagrams(b, 6).map(({ segment }) => segment), [1000], "runs were blamed for it");
        assert.equal(sender.errors.size, 0);
      } finally {
        addAddress(near, "near0", prefix);
      }
    });
  }

  udp("a run that can go nowhere is counted by its datagrams, and stops no other", () => {
    const [a, b] = [openNear(), openFar()];
    const sender = new Sender(libc, thread(1), a.handle);
    const run = pattern(1, 3000);
    core.putOut(1, 0, { to: "192.0.2.1:9", bytes: run, segment: 1000 });
    core.putOut(1, 1, { to: `10.91.0.2:${b.port}`, bytes: run, segment: 1000 });
    core.putOut(1, 2, { to: "10.91.0.255:9", bytes: run, segment: 1000 });
    assert.equal(sender.send(3), 3);
    assert.deepEqual(datagramsOf(receiveDatagrams(b, 3)), cut(run, 1000));
    assert.deepEqual(Object.fromEntries(sender.errors), { ENETUNREACH: 3, EACCES: 3 });
  });

  udp.run();

  // ---- TUN

  const TUNGETVNETHDRSZ = 0x800454d7;
  const TUNSETVNETHDRSZ = 0x400454d8;
  const TUNSETOFFLOAD = 0x400454d0;
  const tun = suite("linux TUN offloads");
  tun.after.each(closeAll);
  const open = (namespace: Namespace, options = {}) =>
    keep(namespace.enter(libc, () => openTun(libc, { name: "wgo0", mtu: 1420, ...options })));

  /** Addresses of both families, and no packets that nobody sent, as far as IPv6 can be quiet. */
  function setUp(namespace: Namespace, one: LinuxTun, last: number): void {
    namespace.exec("sysctl", "-qw", "net.ipv6.conf.wgo0.addr_gen_mode=1", "net.ipv6.conf.wgo0.router_solicitations=0");
    namespace.ip("addr", "add", `10.92.0.${last}/24`, "dev", "wgo0");
    namespace.ip("addr", "add", `fd92::${last}/64`, "dev", "wgo0", "nodad");
    one.setUp(true);
  }

  tun("the offloads that were granted are told", () => {
    const plain = open(near);
    assert.equal(plain.offload, 0);
    plain.close();
    const one = open(near, { vnetHeader: true });
    assert.equal(one.offload, abi.OFFLOAD_VNET | abi.OFFLOAD_UDP, "this kernel has USO");
    // Another program's wishes: a longer header, no offloads.
    libc.scratch.view.setInt32(0, 12, true);
    assert.equal(libc.ioctl(one.handle.fd, TUNSETVNETHDRSZ, libc.scratch.address), 0);
    assert.equal(libc.ioctl(one.handle.fd, TUNSETOFFLOAD, 0), 0);
    opened.splice(opened.indexOf(one), 1); // the descriptor has another owner now
    const two = keep(near.enter(libc, () => adoptTun(libc, one.handle.fd)));
    assert.equal(two.offload, abi.OFFLOAD_VNET | abi.OFFLOAD_UDP);
    assert.equal(libc.ioctl(one.handle.fd, TUNGETVNETHDRSZ, libc.scratch.address), 0);
    assert.equal(libc.scratch.view.getInt32(0, true), 10);
  });

  for (const there of ["10.92.0.2", "[fd92::2]"]) {
    tun(`a run of a UDP socket is read as one super-packet, to ${there}`, () => {
      const one = open(near, { vnetHeader: true });
      setUp(near, one, 1);
      const local = openNear();
      const run = pattern(8, 45 * 1300 + 7);
      core.putOut(1, 0, { to: `${there}:7`, bytes: run, segment: 1300, tos: 2 });
      assert.equal(new Sender(libc, thread(1), local.handle).send(1), 46);
      const reader = new TunReader(libc, thread(2), one.handle);
      const read = () => {
        for (;;) {
          assertReadable(libc, one.handle.fd);
          const count = reader.receive();
          for (let i = 0; i < count; i++) {
            const { bytes, offset, vnet } = core.readIn(2, i);
            // Other than what IPv6 says of itself.
            if (bytes[bytes[0] >> 4 === 4 ? 9 : 6] !== UDP) continue;
            return { bytes, header: core.u8.slice(offset - 10, offset), vnet };
          }
        }
      };
      const { bytes, header, vnet } = read();
      assert.equal(vnet, true);
      const fields = parse(bytes);
      assert.ok(Buffer.from(fields.payload).equals(run));
      assert.equal(fields.tos, 2);
      const expected = superPacket(fields, 1300);
      assert.deepEqual(bytes, expected.packet, "the kernel leaves the pseudo-header's sum");
      for (const at of [2, 3]) header[at] = expected.header[at]; // a hint that may be anything
      assert.deepEqual(header, expected.header);
    });
  }

  /** Between two TUNs what the core does, without the tunnel: super-packets in, segments, joined packets out. */
  class Direction {
    readonly types = new Set<number>();
    joined = 0;
    readonly #core: Offload;
    readonly #from: LinuxTun;
    readonly #reader: TunReader;
    readonly writer: TunWriter;

    constructor(build: string, from: LinuxTun, to: LinuxTun) {
      this.#core = loadOffload(build);
      const { memory } = this.#core;
      this.#from = from;
      this.#reader = new TunReader(libc, { memory, thread: 0 }, from.handle);
      this.writer = new TunWriter(libc, { memory, thread: 0 }, to.handle);
    }

    /** Moves what is there. @returns whether there was anything */
    move(): boolean {
      libc.scratch.view.setInt32(0, this.#from.handle.fd, true);
      libc.scratch.view.setInt32(4, 1, true);
      if (libc.poll(libc.scratch.address, 1, 0) !== 1) return false;
      const { exports, u8, view } = this.#core;
      const count = this.#reader.receive();
      const segments: { at: number; length: number }[] = [];
      let cursor = FLOOR + abi.OUT_SLOT * abi.SLOT_SIZE;
      const put = (at: number, length: number) => {
        cursor += 16;
        u8.copyWithin(cursor, at, at + length);
        segments.push({ at: cursor, length });
        cursor += length;
      };
      for (let i = 0; i < count; i++) {
        const record = abi.THREADS_BASE + abi.THREAD_IN + abi.IN_SIZE * i;
        const at = view.getUint32(record + abi.IN_OFFSET, true);
        const length = view.getUint32(record + abi.IN_LENGTH, true);
        this.types.add(u8[at - 9] & 0x7f);
        const form = exports.segmentBegin(at, length);
        assert.ok(form >= 0, "the kernel's own super-packet was refused");
        if (form === 0) put(at, length);
        else for (let size; (size = exports.segmentNext()); ) put(exports.segmentPacket(), size);
      }
      assert.ok(cursor < CEILING && segments.length <= abi.DELIVER_MAX);
      view.setUint32(abi.THREADS_BASE + abi.THREAD_DELIVER_COUNT, 0, true);
      exports.coalesceBegin();
      for (const { at, length } of segments) exports.coalesce(at, length, 0, 1);
      exports.coalesceEnd();
      const records = view.getUint32(abi.THREADS_BASE + abi.THREAD_DELIVER_COUNT, true);
      assert.equal(records, segments.length);
      const written = this.writer.deliver(records);
      this.joined += records - written;
      return true;
    }
  }

  /** Two TUNs in two namespaces and a wire between them. */
  function openWire(build: string) {
    const [a, b] = [open(near, { vnetHeader: true }), open(far, { vnetHeader: true })];
    setUp(near, a, 1);
    setUp(far, b, 2);
    const [there, back] = [new Direction(build, a, b), new Direction(build, b, a)];
    return { there, back };
  }

  /** Packets that a namespace's kernel found damaged. */
  function damaged(namespace: Namespace): number {
    const lines = namespace.exec("cat", "/proc/net/snmp", "/proc/net/snmp6").split("\n");
    let sum = 0;
    for (const kind of ["Tcp", "Udp"]) {
      const [names, values] = lines.filter((line) => line.startsWith(`${kind}: `)).map((line) => line.split(" "));
      sum += Number(values[names.indexOf("InCsumErrors")]);
    }
    const [, udp6] = /^Udp6InCsumErrors\s+(\d+)/m.exec(lines.join("\n")) ?? assert.fail("no Udp6InCsumErrors");
    return sum + Number(udp6);
  }

  for (const build of builds) {
    tun(`joined UDP packets are taken by the kernel and arrive intact, both families, ${build}`, () => {
      const { there, back } = openWire(build);
      const [local, remote] = [openNear(), openFar()];
      const sender = new Sender(libc, thread(1), local.handle);
      for (const address of ["10.92.0.2", "[fd92::2]"]) {
        const run = pattern(6, 45 * 1300 + 7);
        core.putOut(1, 0, { to: `${address}:${remote.port}`, bytes: run, segment: 1300, tos: 1 });
        core.putOut(1, 1, { to: `${address}:${remote.port}`, bytes: run.subarray(0, 2600), segment: 1300 });
        core.putOut(1, 2, { to: `${address}:${remote.port}`, bytes: run.subarray(0, 99), tos: 2 });
        assert.equal(sender.send(3), 49);
        while (there.move());
        const records = receiveDatagrams(remote, 49);
        const came = records.map(({ bytes, segment, tos }) => [bytes.length, segment, tos]);
        assert.deepEqual(came, [[run.length, 1300, 1], [2600, 1300, 0], [99, 0, 2]]);
        for (const { bytes } of records) assert.ok(Buffer.from(bytes).equals(run.subarray(0, bytes.length)));
      }
      assert.ok(there.types.has(GSO_UDP_L4));
      assert.ok(there.joined >= 2 * 46);
      assert.equal(there.writer.errors.size + back.writer.errors.size, 0);
      assert.equal(damaged(near) + damaged(far), 0);
    });

    tun(`joined UDP packets reach a socket that takes no runs, ${build}`, () => {
      const { there } = openWire(build);
      const [local, remote] = [openNear(), openFar({ offload: false })];
      for (const address of ["10.92.0.2", "[fd92::2]"]) {
        const run = pattern(6, 45 * 1300 + 7);
        core.putOut(1, 0, { to: `${address}:${remote.port}`, bytes: run, segment: 1300 });
        assert.equal(new Sender(libc, thread(1), local.handle).send(1), 46);
        while (there.move());
        assert.deepEqual(datagramsOf(receiveDatagrams(remote, 46)), cut(run, 1300));
      }
      assert.equal(there.writer.errors.size, 0);
    });

    tun(`TCP carries its bytes through super-packets and joined ones, both families, ${build}`, async () => {
      const { there, back } = openWire(build);
      const LENGTH = 3_000_000;
      const server = start(far, `
        import net from "node:net";
        import { createHash } from "node:crypto";
        const answer = (socket) => {
          const hash = createHash("sha256");
          socket.on("data", (bytes) => hash.update(bytes));
          socket.on("end", () => socket.end(hash.digest("hex")));
        };
        net.createServer({ allowHalfOpen: true }, answer).listen(7000, "::", () => console.log("ready"));`);
      const children = [server];
      try {
        await server.line();
        const client = start(near, `
          import net from "node:net";
          const bytes = Uint8Array.from({ length: ${LENGTH} }, (_, i) => (i * i) >> 7);
          for (const host of ["10.92.0.2", "fd92::2"]) {
            const socket = net.connect(7000, host);
            socket.end(bytes);
            let text = "";
            for await (const part of socket) text += part;
            console.log(text);
          }`);
        children.push(client);
        const digests: string[] = [];
        let failed: unknown;
        void (async () => {
          for (let i = 0; i < 2; i++) digests.push(await client.line());
        })().catch((error) => (failed = error));
        while (digests.length < 2 && !failed) {
          const moved = [there.move(), back.move()];
          // The children's words arrive by the event loop.
          await new Promise((resolve) => (moved.includes(true) ? setImmediate(resolve) : setTimeout(resolve, 1)));
        }
        if (failed) throw failed;
        const bytes = Uint8Array.from({ length: LENGTH }, (_, i) => (i * i) >> 7);
        const expected = createHash("sha256").update(bytes).digest("hex");
        assert.deepEqual(digests, [expected, expected]);
      } finally {
        for (const child of children) child.stop();
      }
      assert.ok(there.types.has(GSO_TCPV4) && there.types.has(GSO_TCPV6), `only types ${[...there.types]}`);
      assert.ok(there.joined > 500, `only ${there.joined} joined`);
      assert.equal(there.writer.errors.size + back.writer.errors.size, 0);
      assert.equal(damaged(near) + damaged(far), 0);
    });
  }

  tun.run();

  const cleanUp = suite("linux offloads clean-up");
  cleanUp("the namespaces go", () => {
    near.remove();
    far.remove();
  });
  cleanUp.run();
}

interface Program {
  /** The next line it prints. Rejects when it ends, or says nothing for 20 s. */
  line(): Promise<string>;
  stop(): void;
}

/** Runs a script of this runtime in a namespace, while this thread goes on. */
function start(namespace: Namespace, script: string): Program {
  const inline = (globalThis as { Deno?: unknown }).Deno ? ["eval", script] : ["--input-type=module", "-e", script];
  const stdio: ["ignore", "pipe", "pipe"] = ["ignore", "pipe", "pipe"];
  const child: ChildProcess = spawn("ip", ["netns", "exec", namespace.name, process.execPath, ...inline], { stdio });
  const lines: string[] = [];
  let rest = "";
  let errors = "";
  let heard = () => {};
  child.stderr!.on("data", (bytes) => (errors += bytes));
  child.stdout!.on("data", (bytes) => {
    const parts = (rest + bytes).split("\n");
    rest = parts.pop()!;
    lines.push(...parts);
    heard();
  });
  const ended = once(child, "close");
  return {
    async line() {
      if (lines.length === 0) {
        let timer: ReturnType<typeof setTimeout> | undefined;
        const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, 20_000)));
        await Promise.race([new Promise<void>((resolve) => (heard = resolve)), ended, late]);
        clearTimeout(timer);
      }
      return lines.shift() ?? assert.fail(`a program in ${namespace.name} said nothing: ${errors}`);
    },
    stop: () => void child.kill("SIGKILL"),
  };
}
