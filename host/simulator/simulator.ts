// A network of cores on one virtual clock. Nothing in it waits: time jumps to the next thing that happens, a datagram
// that arrives, an action of a script, or a deadline of a core, and one seed decides everything that is random. So an
// hour of protocol takes a second, each instant is exact, and what happened once happens again.
//
// The clock is a number of nanoseconds (exact up to 104 days). Of things at one instant, arrivals and scripts come
// first, in the order they were scheduled, then the nodes' deadlines in the order of the nodes.
import type { CoreBuild } from "../core.ts";
import { type NodeOptions, type PeerOptions, SimNode } from "./node.ts";
import { SECOND } from "./message.ts";
import { Stream } from "./random.ts";
import { Trace } from "./trace.ts";
import { type Datagram, type Faults, Wire } from "./wire.ts";

export interface SimulatorOptions {
  seed?: number;
  /** prepared with prepareBuild; default "plain" */
  build?: CoreBuild;
  faults?: Partial<Faults>;
  /** keep the trace's lines, not only their hash */
  keepTrace?: boolean;
}

interface Action {
  time: number;
  serial: number;
  run: () => void;
}

/** A monotonic clock does not begin at 0, and a wall clock shows a real date: 2026-01-01. */
const START = 1000 * SECOND;
const WALL = 1_767_225_600 * SECOND - START;

export class Simulator {
  readonly seed: number;
  readonly build: CoreBuild;
  readonly trace: Trace;
  readonly wire: Wire;
  readonly nodes: SimNode[] = [];
  #time = START;
  #serial = 0;
  readonly #queue: Action[] = []; // a binary heap
  readonly #routes = new Map<string, SimNode>();
  #ports = 20_000;

  constructor(options: SimulatorOptions = {}) {
    this.seed = options.seed ?? 1;
    this.build = options.build ?? "plain";
    this.trace = new Trace(options.keepTrace ?? false);
    this.wire = new Wire(this, new Stream(this.seed, "wire"), this.trace);
    Object.assign(this.wire.faults, options.faults);
  }

  /** ns */
  now(): number {
    return this.#time;
  }

  /** A stream of random numbers that depends on the seed and its name alone. */
  stream(label: string): Stream {
    return new Stream(this.seed, label);
  }

  /** Adds a node, up unless it has no key. Without an address: 192.0.2.N:51820 outside, 10.0.0.N inside. */
  node(options: Partial<NodeOptions> = {}): SimNode {
    const number = this.nodes.length + 1;
    const node = new SimNode(this, this.stream(`node ${number}`), {
      name: String.fromCharCode(96 + number),
      build: this.build,
      address: `192.0.2.${number}:51820`,
      inner: `10.0.0.${number}`,
      ...options,
      wallOffset: WALL + (options.wallOffset ?? 0),
    });
    this.nodes.push(node);
    this.#routes.set(node.address, node);
    node.up();
    return node;
  }

  /** Makes two nodes peers of each other, each with the other's endpoint and inner address. @returns their numbers */
  connect(a: SimNode, b: SimNode, options: PeerOptions = {}): [bAtA: number, aAtB: number] {
    const shared = { presharedKey: options.presharedKey, keepalive: options.keepalive };
    const add = (at: SimNode, of: SimNode): number =>
      at.addPeer(of.publicKey, { endpoint: of.address, allowedIps: [`${of.inner}/32`], ...shared });
    return [add(a, b), add(b, a)];
  }

  /** The node that has the address now. */
  nodeAt(address: string): SimNode | undefined {
    return this.#routes.get(address);
  }

  /** Gives a node another address; what is under way to the old one is lost. */
  move(node: SimNode, address: string): void {
    this.#routes.delete(node.address);
    this.#routes.set(address, node);
    node.address = address;
  }

  /** For the wire: another port for whoever has the address. */
  rebind(address: string): string {
    const node = this.#routes.get(address);
    if (!node) return address;
    this.move(node, `${address.slice(0, address.lastIndexOf(":"))}:${this.#ports++}`);
    return node.address;
  }

  /** For the wire: an address that nobody has loses it. */
  arrive(datagram: Datagram): void {
    const { bytes, from, to, tos } = datagram;
    this.#routes.get(to)?.receive({ bytes, from, tos });
  }

  /** Runs `run` at `time`, ns. */
  schedule(time: number, run: () => void): void {
    const queue = this.#queue;
    const action = { time: Math.max(time, this.#time), serial: this.#serial++, run };
    let at = queue.push(action) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!before(action, queue[parent])) break;
      queue[at] = queue[parent];
      at = parent;
    }
    queue[at] = action;
  }

  /** When the next thing happens, ns, or Infinity. */
  next(): number {
    let next = this.#queue.length > 0 ? this.#queue[0].time : Infinity;
    for (const node of this.nodes) if (node.automatic && node.deadline < next) next = node.deadline;
    return next;
  }

  /** Lets the next thing happen. @returns false, with the clock at `limit`, when that is later than `limit` */
  step(limit = Infinity): boolean {
    const next = this.next();
    if (next > limit || next === Infinity) {
      if (limit !== Infinity) this.#time = Math.max(this.#time, limit);
      return false;
    }
    this.#time = Math.max(this.#time, next);
    if (this.#queue.length > 0 && this.#queue[0].time <= this.#time) {
      this.#take().run();
      return true;
    }
    for (const node of this.nodes) {
      if (node.automatic && node.deadline <= this.#time) {
        node.service();
        return true;
      }
    }
    return true;
  }

  /** Lets `span` ns pass. */
  run(span: number): void {
    const end = this.#time + span;
    while (this.step(end));
  }

  /** Lets time pass until `condition` holds, for `span` ns at most. @returns whether it does */
  runUntil(condition: () => boolean, span: number): boolean {
    const end = this.#time + span;
    while (!condition()) if (!this.step(end)) return condition();
    return true;
  }

  #take(): Action {
    const queue = this.#queue;
    const top = queue[0];
    const last = queue.pop()!;
    if (queue.length > 0) {
      let at = 0;
      for (;;) {
        let child = at * 2 + 1;
        if (child >= queue.length) break;
        if (child + 1 < queue.length && before(queue[child + 1], queue[child])) child++;
        if (!before(queue[child], last)) break;
        queue[at] = queue[child];
        at = child;
      }
      queue[at] = last;
    }
    return top;
  }
}

function before(a: Action, b: Action): boolean {
  return a.time < b.time || (a.time === b.time && a.serial < b.serial);
}
