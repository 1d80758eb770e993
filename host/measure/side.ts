// One side of one test, the same on both ends: what it sends, what it receives, an interval a second, and its report.
// The tests differ in who sends; the order of events does not:
//
//   start, ... the time is over or somebody stopped it: senders end -> "sent" -> receivers end -> "report", theirs too
//
// A connection ends by itself. Datagrams have no end: the receiver waits for as many as the sender says, or until it has
// been quiet for a while.

import process from "node:process";
import type { Arrivals } from "./arrivals.ts";
import type { Control } from "./control.ts";
import type { Exchanger } from "./exchange.ts";
import { type Interval, type Report, countError } from "./message.ts";
import type { Stream } from "./network.ts";
import type { Plan } from "./plan.ts";
import type { Sender } from "./sender.ts";

/** Longest wait for what is still underway when the time is over. */
const DRAIN_MS = 10_000;
/** Datagrams that have not come after so long without one are lost. */
const QUIET_MS = 300;
const SECOND_MS = 1000;
/** An interval that is shorter is no interval. */
const INTERVAL_MIN_MS = 250;

/** The bytes of one connection as they come. */
export class StreamReceiver {
  bytes = 0;
  /** ms; -1 = none came yet */
  firstAt = -1;
  lastAt = -1;
  readonly errors: Record<string, number> = {};
  readonly ended: Promise<void>;

  constructor(stream: Stream) {
    stream.on("data", (chunk: Uint8Array) => {
      this.bytes += chunk.length;
      this.lastAt = performance.now();
      if (this.firstAt < 0) this.firstAt = this.lastAt;
    });
    stream.on("error", (error) => countError(this.errors, error));
    this.ended = new Promise((resolve) => void stream.once("end", resolve).once("close", resolve));
  }
}

export interface Parts {
  senders: Sender[];
  streams: StreamReceiver[];
  arrivals: Arrivals[];
  exchanger: Exchanger | null;
}

export class Side {
  readonly #plan: Plan;
  readonly #control: Control;
  readonly #parts: Parts;
  #stop!: () => void;
  readonly #stopped: Promise<void>;
  /** of the interval before */
  #before = { bytes: 0, count: 0, lost: 0 };
  #index = 0;
  #intervalAt = 0;
  onInterval: ((interval: Interval) => void) | null = null;

  constructor(plan: Plan, control: Control, parts: Parts) {
    this.#plan = plan;
    this.#control = control;
    this.#parts = parts;
    this.#stopped = new Promise((resolve) => (this.#stop = resolve));
    control.onStop = () => this.stop();
  }

  /** Ends it before its time, with all that there is so far. */
  stop(): void {
    this.#stop();
  }

  /** Runs the test to its end. Rejects when the control connection fails. @returns our report and theirs */
  async run(): Promise<{ ours: Report; theirs: Report }> {
    const { senders, exchanger } = this.#parts;
    const cpu = startCpu();
    this.#intervalAt = performance.now();
    const ticker = setInterval(() => this.#tick(), SECOND_MS);
    const timer = setTimeout(() => this.#stop(), this.#plan.ms);
    try {
      for (const sender of senders) sender.start();
      exchanger?.start();
      await Promise.race([this.#stopped, this.#control.failed]);
      const cpuPercent = cpu();
      for (const sender of senders) sender.stop();
      exchanger?.stop();
      await Promise.race([this.#settle(), this.#control.failed]);
      if (performance.now() - this.#intervalAt >= INTERVAL_MIN_MS && this.#index * SECOND_MS < this.#plan.ms) this.#tick();
      const ours = this.#report(cpuPercent);
      this.#control.send({ type: "report", report: ours });
      const { report: theirs } = await this.#control.expect("report");
      return { ours, theirs };
    } finally {
      clearInterval(ticker);
      clearTimeout(timer);
      for (const sender of senders) sender.stop();
      exchanger?.stop();
    }
  }

  /** Waits for what is underway. */
  async #settle(): Promise<void> {
    const { senders, streams, exchanger } = this.#parts;
    await within(DRAIN_MS, Promise.all([exchanger?.done, ...senders.map(({ done }) => done)]));
    this.#control.send({ type: "sent", datagrams: sum(senders, ({ datagrams }) => datagrams) });
    const { datagrams } = await this.#control.expect("sent");
    await within(DRAIN_MS, Promise.all(streams.map(({ ended }) => ended)));
    await this.#quiet(datagrams);
  }

  async #quiet(sent: number): Promise<void> {
    const { arrivals } = this.#parts;
    const came = (): number => sum(arrivals, ({ datagrams }) => datagrams);
    const end = performance.now() + DRAIN_MS;
    for (let quietAt = performance.now(), last = came(); arrivals.length > 0 && last < sent; ) {
      const now = performance.now();
      if (now > end || now - quietAt > QUIET_MS) return;
      await new Promise((resolve) => setTimeout(resolve, 10));
      if (came() > last) quietAt = performance.now();
      last = came();
    }
  }

  #tick(): void {
    const { streams, arrivals, exchanger } = this.#parts;
    const now = performance.now();
    const bytes = sum(streams, (stream) => stream.bytes) + sum(arrivals, (arrival) => arrival.bytes);
    const came = sum(arrivals, ({ datagrams }) => datagrams);
    const count = came + (exchanger?.count ?? 0);
    const lost = sum(arrivals, ({ expected }) => expected) - came + (exchanger?.lost ?? 0);
    const times = exchanger?.second ?? null;
    const interval: Interval = {
      index: this.#index++,
      ms: now - this.#intervalAt,
      bytes: bytes - this.#before.bytes,
      count: count - this.#before.count,
      lost: Math.max(0, lost - this.#before.lost),
      jitterMs: mean(arrivals, ({ jitterMs }) => jitterMs),
      p50Ms: times?.percentile(0.5) ?? 0,
      p99Ms: times?.percentile(0.99) ?? 0,
    };
    times?.clear();
    this.#before = { bytes, count, lost };
    this.#intervalAt = now;
    this.#control.send({ type: "interval", interval });
    this.onInterval?.(interval);
  }

  #report(cpu: number): Report {
    const { senders, streams, arrivals, exchanger } = this.#parts;
    const receivers = [...streams, ...arrivals];
    const first = Math.min(...receivers.filter(({ firstAt }) => firstAt >= 0).map(({ firstAt }) => firstAt));
    const last = Math.max(...receivers.map(({ lastAt }) => lastAt));
    return {
      sent: senders.length === 0 ? null : {
        bytes: sum(senders, ({ bytes }) => bytes),
        datagrams: sum(senders, ({ datagrams }) => datagrams),
        bytesByStream: senders.map(({ bytes }) => bytes),
        errors: addErrors([...senders, ...streams].map(({ errors }) => errors)),
      },
      received: receivers.length === 0 ? null : {
        bytes: sum(receivers, ({ bytes }) => bytes),
        datagrams: sum(arrivals, ({ datagrams }) => datagrams),
        ms: first < last ? last - first : 0,
        bytesByStream: receivers.map(({ bytes }) => bytes),
        duplicates: sum(arrivals, ({ duplicates }) => duplicates),
        reordered: sum(arrivals, ({ reordered }) => reordered),
        jitterMs: mean(arrivals, ({ jitterMs }) => jitterMs),
      },
      exchanges: exchanger?.report() ?? null,
      cpu,
    };
  }
}

/** @returns what tells how busy this process was since, in percent of one processor */
function startCpu(): () => number {
  const from = process.cpuUsage();
  const at = performance.now();
  return () => {
    const { user, system } = process.cpuUsage(from);
    return Math.max(0, (user + system) / 10 / Math.max(1, performance.now() - at));
  };
}

function sum<T>(items: readonly T[], value: (item: T) => number): number {
  return items.reduce((total, item) => total + value(item), 0);
}

function mean<T>(items: readonly T[], value: (item: T) => number): number {
  return items.length === 0 ? 0 : sum(items, value) / items.length;
}

function addErrors(all: Record<string, number>[]): Record<string, number> {
  const total: Record<string, number> = {};
  for (const [code, count] of all.flatMap((errors) => Object.entries(errors))) total[code] = (total[code] ?? 0) + count;
  return Object.fromEntries(Object.entries(total).slice(0, 16));
}

function within(ms: number, work: Promise<unknown>): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    work.then(() => resolve(), reject).finally(() => clearTimeout(timer));
  });
}
