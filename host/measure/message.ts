// The messages of the control connection, and what each field may hold.
//
//   client                          server
//   hello                    ->
//                            <-     hello | error
//   test (a plan)            ->                          again and again from here
//                            <-     ready (token, UDP port)
//   data connections with the token, or UDP probes
//   go                       ->
//                            <-     going
//   ... the test; each side sends an interval a second, which also shows that it is there; stop ends it early ...
//   sent, report            <->     sent, report         sent: of datagrams, which have no end by themselves

import type { Percentiles } from "./histogram.ts";
import { Fields } from "./fields.ts";
import { type Plan, STREAMS_MAX, readPlan } from "./plan.ts";

/** Both ends must have the same. */
export const PROTOCOL = 1;

export interface Program {
  /** of wasmguard */
  version: string;
  protocol: number;
  /** "node 20.19.5" */
  runtime: string;
  /** "linux x64" */
  platform: string;
}

/** What one side received in a second, or knows of it. */
export interface Interval {
  /** 0, 1, 2 ... */
  index: number;
  ms: number;
  bytes: number;
  /** or requests, or connections */
  count: number;
  /** datagrams that were skipped; some may still come */
  lost: number;
  jitterMs: number;
  p50Ms: number;
  p99Ms: number;
}

export interface SentReport {
  bytes: number;
  datagrams: number;
  bytesByStream: number[];
  /** by error code */
  errors: Record<string, number>;
}

export interface ReceivedReport {
  bytes: number;
  datagrams: number;
  /** from the first to the last arrival */
  ms: number;
  bytesByStream: number[];
  duplicates: number;
  reordered: number;
  jitterMs: number;
}

/** Connections, or requests with their answers. */
export interface ExchangeReport {
  done: number;
  /** without an answer in time */
  lost: number;
  ms: number;
  errors: Record<string, number>;
  times: Percentiles | null;
}

/** One side of one test. */
export interface Report {
  sent: SentReport | null;
  received: ReceivedReport | null;
  exchanges: ExchangeReport | null;
  /** time on processors during the test, of one, in percent */
  cpu: number;
}

export type Message =
  | ({ type: "hello" } & Program)
  | { type: "data"; token: string; stream: number }
  | { type: "test"; plan: Plan }
  | { type: "ready"; token: string; port: number }
  | { type: "go" }
  | { type: "going" }
  | { type: "interval"; interval: Interval }
  | { type: "sent"; datagrams: number }
  | { type: "report"; report: Report }
  | { type: "stop" }
  | { type: "error"; code: string; message: string };

export type MessageOf<T extends Message["type"]> = Extract<Message, { type: T }>;

/** Counts stay exact up to here. */
const COUNT_MAX = Number.MAX_SAFE_INTEGER;
const MS_MAX = 1e8;
const CODES_MAX = 16;
export const TOKEN_TEXT = /^[0-9a-f]{32}$/;
/** nothing that moves the cursor of a terminal */
const WORDS = /^[\x20-\x7e]{1,64}$/;
const SENTENCE = /^[\x20-\x7e]{1,300}$/;

/** @throws WasmguardError EPROTO naming the field */
export function readMessage(value: unknown): Message {
  const fields = new Fields(value, "message");
  const type = fields.text("type", /^[a-z]{1,16}$/);
  switch (type) {
    case "hello":
      return { type, ...readProgram(fields) };
    case "data":
      return { type, token: fields.text("token", TOKEN_TEXT), stream: fields.integer("stream", 0, 2 * STREAMS_MAX - 1) };
    case "test":
      return { type, plan: readPlan(fields.inside("plan")) };
    case "ready":
      return { type, token: fields.text("token", TOKEN_TEXT), port: fields.integer("port", 1, 65535) };
    case "go":
    case "going":
    case "stop":
      return { type };
    case "interval":
      return { type, interval: readInterval(fields.inside("interval")) };
    case "sent":
      return { type, datagrams: fields.integer("datagrams", 0, COUNT_MAX) };
    case "report":
      return { type, report: readReport(fields.inside("report")) };
    case "error":
      return { type, code: fields.text("code", /^[A-Z][A-Z0-9_]{0,39}$/), message: fields.text("message", SENTENCE) };
    default:
      return new Fields(value, "message").oneOf("type", []);
  }
}

function readProgram(fields: Fields): Program {
  return {
    version: fields.text("version", WORDS),
    protocol: fields.integer("protocol", 1, 1e6),
    runtime: fields.text("runtime", WORDS),
    platform: fields.text("platform", WORDS),
  };
}

function readInterval(fields: Fields): Interval {
  return {
    index: fields.integer("index", 0, 1e6),
    ms: fields.number("ms", 0, MS_MAX),
    bytes: fields.integer("bytes", 0, COUNT_MAX),
    count: fields.integer("count", 0, COUNT_MAX),
    lost: fields.integer("lost", 0, COUNT_MAX),
    jitterMs: fields.number("jitterMs", 0, MS_MAX),
    p50Ms: fields.number("p50Ms", 0, MS_MAX),
    p99Ms: fields.number("p99Ms", 0, MS_MAX),
  };
}

function readReport(fields: Fields): Report {
  return {
    sent: fields.optional("sent", (sent) => ({
      bytes: sent.integer("bytes", 0, COUNT_MAX),
      datagrams: sent.integer("datagrams", 0, COUNT_MAX),
      bytesByStream: sent.numbers("bytesByStream", STREAMS_MAX, COUNT_MAX),
      errors: sent.counts("errors", CODES_MAX, COUNT_MAX),
    })),
    received: fields.optional("received", (received) => ({
      bytes: received.integer("bytes", 0, COUNT_MAX),
      datagrams: received.integer("datagrams", 0, COUNT_MAX),
      ms: received.number("ms", 0, MS_MAX),
      bytesByStream: received.numbers("bytesByStream", STREAMS_MAX, COUNT_MAX),
      duplicates: received.integer("duplicates", 0, COUNT_MAX),
      reordered: received.integer("reordered", 0, COUNT_MAX),
      jitterMs: received.number("jitterMs", 0, MS_MAX),
    })),
    exchanges: fields.optional("exchanges", (exchanges) => ({
      done: exchanges.integer("done", 0, COUNT_MAX),
      lost: exchanges.integer("lost", 0, COUNT_MAX),
      ms: exchanges.number("ms", 0, MS_MAX),
      errors: exchanges.counts("errors", CODES_MAX, COUNT_MAX),
      times: exchanges.optional("times", readPercentiles),
    })),
    cpu: fields.number("cpu", 0, 1e5),
  };
}

function readPercentiles(fields: Fields): Percentiles {
  const ms = (name: string): number => fields.number(name, 0, MS_MAX);
  return {
    minMs: ms("minMs"), meanMs: ms("meanMs"), p50Ms: ms("p50Ms"), p90Ms: ms("p90Ms"), p99Ms: ms("p99Ms"),
    p999Ms: ms("p999Ms"), maxMs: ms("maxMs"),
  };
}

/** Counts an error by its code, if it is one of the first few codes. */
export function countError(errors: Record<string, number>, error: unknown): void {
  const code = (error as { code?: unknown }).code;
  const name = typeof code === "string" && /^[A-Z][A-Z0-9_]{0,39}$/.test(code) ? code : "EIO";
  if (Object.hasOwn(errors, name) || Object.keys(errors).length < CODES_MAX) errors[name] = (errors[name] ?? 0) + 1;
}
