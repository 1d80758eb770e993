// The netstack opposite the Linux kernel: packets go through a TUN in a namespace of its own, so that the kernel's TCP,
// UDP and ICMP are the peer. Between them, in this process, a shim that loses, repeats, reorders and delays. Two TUNs
// in two namespaces through the same shim give what the kernel does with itself: the measure.
//
// The kernel's programs are children (kernel-peer.mjs): a socket belongs to the namespace of the process that made it.
// The TUNs have no virtio header, so that neither side has an advantage of super-packets.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import process from "node:process";
import readline from "node:readline";
import { fileURLToPath } from "node:url";
import { parseIp } from "../../host/ip.ts";
import { Stack } from "../../host/netstack/stack.ts";
import type { Link, OutPacket, StackClock } from "../../host/netstack/types.ts";
import { F_GETFL, F_SETFL, type Libc, O_NONBLOCK, openLibc, POLLIN } from "../../host/platform/linux/libc.ts";
import { NativeMemory } from "../../host/platform/linux/native.ts";
import { type LinuxTun, openTun } from "../../host/platform/linux/tun.ts";
import { fillRandom } from "../../host/platform/random.ts";
import { Stream } from "../../host/simulator/random.ts";
import { Namespace } from "./namespace.ts";

export const A4 = "10.9.0.1";
export const B4 = "10.9.0.2";
export const A6 = "fd09::1";
export const B6 = "fd09::2";
export const MTU = 1420;

/** What the way does to packets, in each direction. */
export interface Impairment {
  /** probabilities */
  loss?: number;
  duplicate?: number;
  reorder?: number;
  /** how much later a reordered packet comes, ms; default 2 */
  reorderMs?: number;
  /** of every packet, ms; one way */
  delayMs?: number;
  seed?: number;
}

interface Waiting {
  at: number;
  packet: Uint8Array;
}

/** One direction of the way. */
export class Shim {
  readonly #impairment: Required<Impairment>;
  readonly #random: Stream;
  readonly #deliver: (packet: Uint8Array) => void;
  /** Each is in the order of time: what takes the delay, and what takes the longer one. */
  readonly #queues: Waiting[][] = [[], []];
  #timer: ReturnType<typeof setTimeout> | null = null;
  passed = 0;
  lost = 0;

  constructor(impairment: Impairment, label: string, deliver: (packet: Uint8Array) => void) {
    this.#impairment = { loss: 0, duplicate: 0, reorder: 0, reorderMs: 2, delayMs: 0, seed: 1, ...impairment };
    this.#random = new Stream(this.#impairment.seed, label);
    this.#deliver = deliver;
  }

  /** Takes a packet; `bytes` are only looked at during the call. */
  push(bytes: Uint8Array): void {
    const { loss, duplicate, reorder, reorderMs, delayMs } = this.#impairment;
    this.passed++;
    const isLost = this.#random.chance(loss);
    const copies = this.#random.chance(duplicate) ? 2 : 1;
    if (isLost) {
      this.lost++;
      return;
    }
    for (let i = 0; i < copies; i++) {
      const isLate = this.#random.chance(reorder);
      const wait = delayMs + (isLate ? reorderMs : 0);
      if (wait === 0) {
        this.#deliver(bytes);
        continue;
      }
      this.#queues[isLate ? 1 : 0].push({ at: performance.now() + wait, packet: bytes.slice() });
      this.#timer ??= setTimeout(() => this.#flush(), wait);
    }
  }

  close(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    for (const queue of this.#queues) queue.length = 0;
  }

  #flush(): void {
    const now = performance.now();
    const [usual, late] = this.#queues;
    this.#timer = null;
    let [i, k] = [0, 0];
    for (;;) {
      const first = usual[i] !== undefined && (late[k] === undefined || usual[i].at <= late[k].at);
      const next = first ? usual[i] : late[k];
      if (next === undefined || next.at > now) break;
      if (first) i++;
      else k++;
      this.#deliver(next.packet);
    }
    usual.splice(0, i);
    late.splice(0, k);
    const next = Math.min(usual[0]?.at ?? Infinity, late[0]?.at ?? Infinity);
    if (next < Infinity) this.#timer ??= setTimeout(() => this.#flush(), Math.max(1, next - performance.now()));
  }
}

/** A TUN in a namespace, whose packets are this process's to read and write. */
export class TunPort {
  readonly namespace = new Namespace();
  readonly tun: LinuxTun;
  readonly #libc: Libc;
  /** apart from each other: a packet that was read may be answered while it is looked at */
  readonly #received: NativeMemory;
  readonly #sent: NativeMemory;
  /** one packet that was read; valid during the call */
  onPacket: (packet: Uint8Array) => void = () => {};

  constructor(libc: Libc, addresses: readonly string[], mtu: number) {
    this.#libc = libc;
    this.#received = new NativeMemory(libc.address, 65_536);
    this.#sent = new NativeMemory(libc.address, 65_536);
    this.tun = this.namespace.enter(libc, () => openTun(libc, { name: "lab", mtu }));
    const flags = libc.check(libc.fcntl(this.tun.handle.fd, F_GETFL, 0), "fcntl", "set up the TUN");
    libc.check(libc.fcntl(this.tun.handle.fd, F_SETFL, flags | O_NONBLOCK), "fcntl", "set up the TUN");
    this.namespace.ip("link", "set", "lab", "addrgenmode", "none");
    // What waits for us to read is not to be lost in a queue of 500 packets: the shim alone loses.
    this.namespace.ip("link", "set", "lab", "txqueuelen", "20000", "up");
    for (const address of addresses) {
      if (address.includes(":")) this.namespace.ip("addr", "add", `${address}/64`, "dev", "lab", "nodad");
      else this.namespace.ip("addr", "add", `${address}/24`, "dev", "lab");
    }
    // RFC 9438 on both sides: a machine may have another default. As a property of the route, because a namespace may
    // not choose every algorithm for its sockets; and nothing is learned from one connection for the next.
    this.namespace.ip("route", "replace", "10.9.0.0/24", "dev", "lab", "congctl", "cubic");
    this.namespace.ip("route", "replace", "fd09::/64", "dev", "lab", "metric", "256", "congctl", "cubic");
    this.namespace.exec("sh", "-c", "echo 1 > /proc/sys/net/ipv4/tcp_no_metrics_save");
  }

  write(packet: Uint8Array): void {
    this.#sent.bytes.set(packet);
    this.#libc.write(this.tun.handle.fd, this.#sent.address, packet.length);
  }

  /** Hands over what is there, up to `max` packets. @returns how many */
  drain(max = 64): number {
    for (let count = 0; count < max; count++) {
      const length = this.#libc.read(this.tun.handle.fd, this.#received.address, this.#received.bytes.length);
      if (length <= 0) return count;
      this.onPacket(this.#received.bytes.subarray(0, length));
    }
    return max;
  }

  close(): void {
    this.tun.close();
    this.namespace.remove();
  }
}

/** Reads ports as long as it is open: in turns of the event loop while packets come, else asleep in poll(). */
class Pump {
  readonly #libc: Libc;
  readonly #ports: TunPort[];
  readonly #pollfds: NativeMemory;
  readonly #ended: Promise<void>;
  #open = true;

  constructor(libc: Libc, ports: TunPort[]) {
    this.#libc = libc;
    this.#ports = ports;
    this.#pollfds = new NativeMemory(libc.address, 8 * ports.length);
    this.#ended = this.#run();
  }

  async #run(): Promise<void> {
    while (this.#open) {
      let count = 0;
      for (const port of this.#ports) count += port.drain();
      if (count > 0) {
        await new Promise((resolve) => setImmediate(resolve));
        continue;
      }
      for (const [i, port] of this.#ports.entries()) {
        this.#pollfds.view.setInt32(8 * i, port.tun.handle.fd, true);
        this.#pollfds.view.setInt16(8 * i + 4, POLLIN, true);
      }
      await this.#libc.pollAsync(this.#pollfds.address, this.#ports.length, 20);
    }
  }

  async close(): Promise<void> {
    this.#open = false;
    await this.#ended;
  }
}

/** A connection of the kernel's that ended. */
export interface Done {
  done: number;
  received: number;
  sent: number;
  /** place of the first wrong byte, -1 = none */
  wrong: number;
  error: string | null;
}

export type Mode = "sink" | "source" | "echo" | "stall" | "reset" | "count";

/** A program in a namespace that uses the kernel's sockets. */
export class KernelPeer {
  readonly #child: ChildProcess;
  readonly #answers = new Map<number, { resolve: (answer: never) => void; reject: (error: Error) => void }>();
  readonly #done: Done[] = [];
  readonly #waiting: { port: number; resolve: (done: Done) => void }[] = [];
  readonly #ready: Promise<void>;
  #id = 0;

  constructor(namespace: Namespace) {
    const script = path.join(path.dirname(fileURLToPath(import.meta.url)), "kernel-peer.mjs");
    const runtime = "Deno" in globalThis ? [process.execPath, "run", "-A", script] : [process.execPath, script];
    const args = ["netns", "exec", namespace.name, ...runtime];
    const env = { ...process.env, NODE_OPTIONS: "" };
    this.#child = spawn("ip", args, { stdio: ["pipe", "pipe", "inherit"], env });
    this.#ready = new Promise((resolve, reject) => {
      this.#child.once("exit", (code) => reject(new Error(`the kernel's program ended with ${code}`)));
      readline.createInterface({ input: this.#child.stdout! }).on("line", (line) => {
        const message = JSON.parse(line);
        if (message.ready) resolve();
        else if ("done" in message) this.#end(message);
        else this.#answer(message);
      });
    });
    this.#ready.catch(() => {}); // whoever asks for something hears of it
  }

  async ask<T>(command: string, rest: object = {}): Promise<T> {
    await this.#ready;
    const id = this.#id++;
    const answer = new Promise<T>((resolve, reject) => this.#answers.set(id, { resolve, reject }));
    this.#child.stdin!.write(`${JSON.stringify({ id, command, ...rest })}\n`);
    return answer;
  }

  /** @returns the port */
  async listen(mode: Mode, bytes = 0): Promise<number> {
    return (await this.ask<{ port: number }>("listen", { mode, bytes })).port;
  }

  async connect(host: string, port: number, mode: Mode, bytes = 0): Promise<void> {
    await this.ask("connect", { host, port, mode, bytes });
  }

  /** The next connection of a port that ended. */
  done(port: number): Promise<Done> {
    const index = this.#done.findIndex((each) => each.done === port);
    if (index >= 0) return Promise.resolve(this.#done.splice(index, 1)[0]);
    return new Promise((resolve) => this.#waiting.push({ port, resolve }));
  }

  async close(): Promise<void> {
    if (this.#child.exitCode !== null) return;
    this.#child.stdin!.end();
    await once(this.#child, "exit");
  }

  #end(done: Done): void {
    const index = this.#waiting.findIndex(({ port }) => port === done.done);
    if (index >= 0) this.#waiting.splice(index, 1)[0].resolve(done);
    else this.#done.push(done);
  }

  #answer({ id, failed, ...answer }: { id: number; failed?: string }): void {
    const { resolve, reject } = this.#answers.get(id)!;
    this.#answers.delete(id);
    if (failed === undefined) resolve(answer as never);
    else reject(new Error(failed));
  }
}

/** Real time. */
export const realClock: StackClock = {
  now: () => performance.now(),
  setTimer: (callback, delayMs) => setTimeout(callback, delayMs),
  clearTimer: (timer) => clearTimeout(timer as ReturnType<typeof setTimeout>),
};

/** A link into a shim. */
class ShimLink implements Link {
  readonly mtu: number;
  readonly gsoMaxSize = 0;
  readonly #packet = new Uint8Array(65_536);
  readonly #shim: Shim;

  constructor(mtu: number, shim: Shim) {
    this.mtu = mtu;
    this.#shim = shim;
  }

  send({ header, payload }: OutPacket): void {
    this.#packet.set(header);
    let end = header.length;
    for (const piece of payload) {
      this.#packet.set(piece, end);
      end += piece.length;
    }
    this.#shim.push(this.#packet.subarray(0, end));
  }
}

export interface LabOptions extends Impairment {
  /** of the kernel's interface; default MTU */
  kernelMtu?: number;
}

/** Our stack (A4, A6) opposite the kernel (B4, B6). */
export class StackLab {
  readonly stack: Stack;
  readonly kernel: KernelPeer;
  readonly port: TunPort;
  readonly #pump: Pump;
  readonly #shims: Shim[];

  constructor({ kernelMtu = MTU, ...impairment }: LabOptions = {}) {
    const libc = openLibc();
    this.port = new TunPort(libc, [B4, B6], kernelMtu);
    const out = new Shim(impairment, "out", (packet) => this.port.write(packet));
    const back = new Shim(impairment, "back", (bytes) => {
      this.stack.input({ bytes, gsoSize: 0, checksumVerified: false });
    });
    this.#shims = [out, back];
    const addresses = [parseIp(A4), parseIp(A6)];
    this.stack = new Stack({ link: new ShimLink(MTU, out), addresses, clock: realClock, random: fillRandom });
    this.port.onPacket = (packet) => back.push(packet);
    this.#pump = new Pump(libc, [this.port]);
    this.kernel = new KernelPeer(this.port.namespace);
  }

  async close(): Promise<void> {
    this.stack.close();
    await this.kernel.close();
    await this.#pump.close();
    for (const shim of this.#shims) shim.close();
    this.port.close();
  }
}

/** The kernel opposite itself, by the same way. */
export class KernelLab {
  readonly a: KernelPeer;
  readonly b: KernelPeer;
  readonly #ports: TunPort[];
  readonly #pump: Pump;
  readonly #shims: Shim[];

  constructor(impairment: Impairment = {}) {
    const libc = openLibc();
    const [a, b] = [new TunPort(libc, [A4, A6], MTU), new TunPort(libc, [B4, B6], MTU)];
    const out = new Shim(impairment, "out", (packet) => b.write(packet));
    const back = new Shim(impairment, "back", (packet) => a.write(packet));
    a.onPacket = (packet) => out.push(packet);
    b.onPacket = (packet) => back.push(packet);
    this.#ports = [a, b];
    this.#shims = [out, back];
    this.#pump = new Pump(libc, this.#ports);
    this.a = new KernelPeer(a.namespace);
    this.b = new KernelPeer(b.namespace);
  }

  async close(): Promise<void> {
    await this.a.close();
    await this.b.close();
    await this.#pump.close();
    for (const shim of this.#shims) shim.close();
    for (const port of this.#ports) port.close();
  }
}
