// What both sides of a test make of it together. The receiver's counts are the truth; what was lost is what the sender
// says less that. Both ends have both reports and this function, so both have the same result. Pure.

import type { Percentiles } from "./histogram.ts";
import type { Interval, Report } from "./message.ts";
import { type Direction, type Kind, type Plan, isDatagram, isFlow } from "./plan.ts";

export interface Flow {
  sentBytes: number;
  receivedBytes: number;
  /** from the first to the last arrival */
  seconds: number;
  /** of payload, received */
  bitsPerSecond: number;
  /** received, by stream */
  bytesByStream: number[];
  /** of datagrams only */
  datagrams: DatagramFlow | null;
  /** by code: what could not be sent, connections that broke */
  errors: Record<string, number>;
}

export interface DatagramFlow {
  sent: number;
  received: number;
  perSecond: number;
  lost: number;
  lostPercent: number;
  duplicates: number;
  reordered: number;
  /** RFC 3550 §6.4.1, mean of the streams */
  jitterMs: number;
}

export interface Exchanges {
  done: number;
  /** the same by the server's count */
  answered: number;
  lost: number;
  seconds: number;
  perSecond: number;
  times: Percentiles | null;
  errors: Record<string, number>;
}

/** A second as the receiver saw it. */
export interface IntervalResult {
  second: number;
  up: Interval | null;
  down: Interval | null;
}

export interface TestResult {
  kind: Kind;
  direction: Direction;
  streams: number;
  length: number;
  /** bit/s asked for, 0 = as fast as it goes */
  rate: number;
  plannedSeconds: number;
  /** client to server */
  up: Flow | null;
  down: Flow | null;
  exchanges: Exchanges | null;
  cpuPercent: { client: number; server: number };
  intervals: IntervalResult[];
}

export function summarize(plan: Plan, client: Report, server: Report, intervals: IntervalResult[]): TestResult {
  const { kind, direction, streams, length, rate, ms } = plan;
  return {
    kind,
    direction,
    streams,
    length,
    rate,
    plannedSeconds: ms / 1000,
    up: isFlow(kind) && direction !== "down" ? flow(plan, client, server) : null,
    down: isFlow(kind) && direction !== "up" ? flow(plan, server, client) : null,
    exchanges: isFlow(kind) ? null : exchanges(client, server),
    cpuPercent: { client: client.cpu, server: server.cpu },
    intervals,
  };
}

function flow(plan: Plan, { sent }: Report, { received }: Report): Flow {
  const sentBytes = sent?.bytes ?? 0;
  const receivedBytes = received?.bytes ?? 0;
  // All in one moment: nothing better is known than the time that was given.
  const seconds = receivedBytes === 0 ? 0 : (received?.ms || plan.ms) / 1000;
  const result: Flow = {
    sentBytes,
    receivedBytes,
    seconds,
    bitsPerSecond: seconds === 0 ? 0 : (receivedBytes * 8) / seconds,
    bytesByStream: received?.bytesByStream ?? [],
    datagrams: null,
    errors: sent?.errors ?? {},
  };
  if (!isDatagram(plan.kind)) return result;
  const sentCount = sent?.datagrams ?? 0;
  const receivedCount = received?.datagrams ?? 0;
  const lost = Math.max(0, sentCount - receivedCount);
  result.datagrams = {
    sent: sentCount,
    received: receivedCount,
    perSecond: seconds === 0 ? 0 : receivedCount / seconds,
    lost,
    lostPercent: sentCount === 0 ? 0 : (lost / sentCount) * 100,
    duplicates: received?.duplicates ?? 0,
    reordered: received?.reordered ?? 0,
    jitterMs: received?.jitterMs ?? 0,
  };
  return result;
}

function exchanges({ exchanges: asked }: Report, { exchanges: answered }: Report): Exchanges {
  const seconds = (asked?.ms ?? 0) / 1000;
  const done = asked?.done ?? 0;
  return {
    done,
    answered: answered?.done ?? 0,
    lost: asked?.lost ?? 0,
    seconds,
    perSecond: seconds === 0 ? 0 : done / seconds,
    times: asked?.times ?? null,
    errors: asked?.errors ?? {},
  };
}
