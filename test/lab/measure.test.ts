// wasmguard bench: the arithmetic on known samples, both ends over the loopback and through tunnels, what a lossy way does to
// the counts, and a server that is used against others. No test says how fast anything is.

import assert from "node:assert/strict";
import { createSocket, type RemoteInfo, type Socket as UdpSocket } from "node:dgram";
import { spawn } from "node:child_process";
import { basename } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { suite } from "uvu";
import { Arrivals } from "../../host/measure/arrivals.ts";
import { MeasureClient } from "../../host/measure/client.ts";
import { TYPE_DATA, TYPE_PROBE, TYPE_REQUEST, Outgoing, encodeProbe } from "../../host/measure/datagram.ts";
import { FRAME_MAX, FrameReader, encodeFrame } from "../../host/measure/frame.ts";
import { Histogram } from "../../host/measure/histogram.ts";
import { PROTOCOL, type Message, readMessage } from "../../host/measure/message.ts";
import { dialerNetwork, isSameAddress, systemNetwork, type Network } from "../../host/measure/network.ts";
import { Pace } from "../../host/measure/pace.ts";
import { KINDS, type Kind, type Plan, isFlow } from "../../host/measure/plan.ts";
import { thisProgram } from "../../host/measure/program.ts";
import { Table, bits, bytes, describeResult, formatSummary, time } from "../../host/measure/report.ts";
import type { IntervalResult, TestResult } from "../../host/measure/result.ts";
import { MeasureServer, type ServerEvent } from "../../host/measure/server.ts";
import { RIGHT, openPair, rejection, until } from "../embed/tunnels.ts";

const program = thisProgram("0.0.1-test");

function plan(kind: Kind, change: Partial<Plan> = {}): Plan {
  const length = { tcp: 5000, udp: 500, packets: 32, connections: 1, tcpLatency: 100, udpLatency: 100 }[kind];
  // Few enough that all of a test would fit a socket's buffer: nothing is lost, however long a reader is held up.
  const rate = kind === "udp" ? 2e6 : kind === "packets" ? 2e5 : 0;
  return { kind, direction: "up", streams: 1, ms: 150, length, rate, ...change };
}

const sums = suite("arithmetic of a measurement");

sums("percentiles by nearest rank: exact on small numbers, to a thousandth on large ones", () => {
  const exact = new Histogram();
  for (let ns = 1; ns <= 1000; ns++) exact.add(ns / 1e6);
  const nanoseconds = (share: number): number => Math.round(exact.percentile(share) * 1e6);
  assert.deepEqual([0, 0.001, 0.5, 0.9, 0.99, 0.999, 1].map(nanoseconds), [1, 1, 500, 900, 990, 999, 1000]);
  assert.equal(exact.count, 1000);

  const wide = new Histogram();
  const samples: number[] = [];
  let word = 7;
  for (let i = 0; i < 20_000; i++) {
    word = (Math.imul(word, 1664525) + 1013904223) >>> 0;
    const ms = 10 ** ((word / 2 ** 32) * 7 - 3);
    samples.push(ms);
    wide.add(ms);
  }
  samples.sort((a, b) => a - b);
  for (const share of [0.01, 0.5, 0.9, 0.99, 0.999]) {
    const right = samples[Math.ceil(share * samples.length - 1e-9) - 1];
    const found = wide.percentile(share);
    assert.equal(Math.abs(found / right - 1) < 0.001, true, `${share}: ${found} instead of ${right}`);
  }
  const all = wide.percentiles()!;
  assert.equal(all.minMs, samples[0]);
  assert.equal(all.maxMs, samples.at(-1));
  const mean = samples.reduce((total, ms) => total + ms, 0) / samples.length;
  assert.equal(Math.abs(all.meanMs / mean - 1) < 1e-9, true);
});

sums("a histogram without samples, of one sample, with ones out of range", () => {
  const times = new Histogram();
  assert.equal(times.percentiles(), null);
  assert.equal(times.percentile(0.5), 0);
  times.add(12.345678);
  assert.deepEqual(Object.values(times.percentiles()!), Array(7).fill(12.345678));
  times.add(-5);
  times.add(1e9);
  assert.deepEqual([times.percentile(0), times.percentile(1) > 60_000, times.percentiles()!.maxMs], [0, true, 1e9]);
  times.clear();
  assert.equal(times.percentiles(), null);
});

sums("jitter is that of RFC 3550", () => {
  // Sent every 20 ms by a clock that is a year ahead, with these delays on the way.
  const delays = [50, 50, 66, 50, 58, 50];
  let expected = 0;
  const arrivals = new Arrivals();
  delays.forEach((delay, i) => {
    arrivals.add(i, 100, 31e9 + i * 20, i * 20 + delay);
    if (i > 0) expected += (Math.abs(delay - delays[i - 1]) - expected) / 16;
  });
  assert.equal(Math.abs(arrivals.jitterMs - expected) < 1e-4, true, `${arrivals.jitterMs} instead of ${expected}`);
  assert.equal(expected > 2, true);
});

sums("what is lost, out of order and there twice", () => {
  const arrivals = new Arrivals();
  for (const sequence of [0, 1, 3, 2, 2, 5, 5, 5, 4, 9]) arrivals.add(sequence, 10, 0, sequence);
  const { datagrams, bytes, reordered, duplicates, expected } = arrivals;
  assert.deepEqual({ datagrams, bytes, reordered, duplicates, expected }, {
    datagrams: 7, bytes: 70, reordered: 2, duplicates: 3, expected: 10,
  });
  // Numbers come round in the window: the old ones must not count as seen.
  arrivals.add(9 + 65_536, 10, 0, 10);
  arrivals.add(9 + 65_535, 10, 0, 10);
  assert.deepEqual([arrivals.duplicates, arrivals.reordered, arrivals.datagrams], [3, 3, 9]);
  arrivals.add(10_000_000, 10, 0, 11);
  arrivals.add(9_999_999, 10, 0, 11);
  assert.deepEqual([arrivals.duplicates, arrivals.reordered, arrivals.datagrams], [3, 4, 11]);
});

sums("a pace keeps its rate, and makes up for a little only", () => {
  const pace = new Pace(8e6, 1000, 0); // 1,000 bytes a ms
  assert.equal(pace.allowance(0, 0), 0);
  assert.equal(pace.wait(0, 0, 1000), 1);
  assert.equal(pace.allowance(10, 4000), 6000);
  assert.equal(pace.allowance(1000, 10_000), 20_000);
  assert.equal(pace.allowance(1001, 30_000), 1000);
  assert.equal(new Pace(0, 1000, 0).allowance(0, 1e15), Infinity);
});

sums("units", () => {
  assert.deepEqual([0, 999, 1000, 12_345, 999_499, 999_950, 9.41e9].map(bits), [
    "0 bit/s", "999 bit/s", "1.00 kbit/s", "12.3 kbit/s", "999 kbit/s", "1.00 Mbit/s", "9.41 Gbit/s",
  ]);
  assert.deepEqual([0, 1500, 5e12].map(bytes), ["0 B", "1.50 kB", "5.00 TB"]);
  assert.deepEqual([0, 0.0123, 1.5, 123.45, 2500].map(time), ["-", "12 us", "1.50 ms", "123.5 ms", "2.50 s"]);
});

sums("addresses as sockets show them", () => {
  assert.deepEqual(
    [["::ffff:127.0.0.1", "127.0.0.1"], ["fe80::1%eth0", "FE80::1"], ["10.0.0.1", "10.0.0.2"], [undefined, undefined]].map(
      ([a, b]) => isSameAddress(a, b),
    ),
    [true, true, false, false],
  );
});

sums.run();

const wire = suite("messages of a measurement");

wire("frames come in any pieces", () => {
  const messages = [{ type: "go" }, { type: "stop" }, { text: "ä".repeat(1000) }];
  const stream = Buffer.concat(messages.map(encodeFrame));
  for (const size of [1, 3, 7, 5000]) {
    const reader = new FrameReader();
    const found: unknown[] = [];
    for (let at = 0; at < stream.length; at += size) {
      reader.push(stream.subarray(at, at + size));
      for (let next = reader.next(); next !== undefined; next = reader.next()) found.push(next);
    }
    assert.deepEqual(found, messages);
    assert.equal(reader.rest.length, 0);
  }
  assert.throws(() => encodeFrame("x".repeat(FRAME_MAX)), RangeError);
  for (const bad of [[0, 0, 0, 0, 1, 1], [0, 1, 0, 0, 1], Buffer.from("GET / HTTP/1.1"), [0, 0, 0, 3, 1, 2, 3]]) {
    const reader = new FrameReader();
    reader.push(Uint8Array.from(bad));
    assert.throws(() => reader.next(), { code: "EPROTO" });
  }
});

const interval = { index: 0, ms: 1000, bytes: 1, count: 1, lost: 0, jitterMs: 0, p50Ms: 0, p99Ms: 0 };
const sent = { bytes: 1, datagrams: 1, bytesByStream: [1], errors: { ENOBUFS: 1 } };
const received = { bytes: 1, datagrams: 1, ms: 1, bytesByStream: [1], duplicates: 0, reordered: 0, jitterMs: 0 };

wire("each field has its limits", () => {
  const good = plan("udp");
  const report = { sent, received, exchanges: null, cpu: 1 };
  const fine: Message[] = [
    { type: "hello", ...program },
    { type: "test", plan: good },
    { type: "ready", token: "0".repeat(32), port: 1 },
    { type: "interval", interval },
    { type: "report", report },
    { type: "error", code: "EBUSY", message: "busy" },
  ];
  for (const message of fine) assert.deepEqual(readMessage(JSON.parse(JSON.stringify(message))), message);
  const bad: [unknown, RegExp][] = [
    [null, /message is no object/],
    [[], /message is no object/],
    [{}, /message.type/],
    [{ type: "nonsense" }, /message.type/],
    [{ type: "test" }, /message.plan is no object/],
    [{ type: "test", plan: { ...good, kind: "flood" } }, /plan.kind is none of/],
    [{ type: "test", plan: { ...good, streams: 65 } }, /plan.streams is not in 1..64/],
    [{ type: "test", plan: { ...good, streams: 1.5 } }, /plan.streams is no whole number/],
    [{ type: "test", plan: { ...good, ms: 3_600_001 } }, /plan.ms/],
    [{ type: "test", plan: { ...good, ms: "1000" } }, /plan.ms/],
    [{ type: "test", plan: { ...good, length: 15 } }, /plan.length/],
    [{ type: "test", plan: { ...good, length: 65_508 } }, /plan.length/],
    [{ type: "test", plan: { ...good, rate: -1 } }, /plan.rate/],
    [{ type: "test", plan: { ...plan("udpLatency"), direction: "down" } }, /plan.direction is none of up/],
    [{ type: "data", token: "short", stream: 0 }, /message.token/],
    [{ type: "hello", ...program, version: "\x1b[2J" }, /message.version/],
    [{ type: "hello", ...program, runtime: "x".repeat(65) }, /message.runtime/],
    [{ type: "error", code: "X", message: "a\x07b" }, /message.message/],
    [{ type: "interval", interval: { ...interval, bytes: -1 } }, /interval.bytes/],
    [{ type: "report", report: { ...report, sent: { ...sent, bytesByStream: Array(65).fill(0) } } }, /bytesByStream/],
    [{ type: "report", report: { ...report, sent: { ...sent, errors: { "\x1b": 1 } } } }, /errors/],
    [{ type: "report", report: { ...report, cpu: null } }, /report.cpu/],
  ];
  for (const [message, reason] of bad) assert.throws(() => readMessage(message), { code: "EPROTO", message: reason });
});

wire.run();

interface Ends {
  server: MeasureServer;
  events: ServerEvent[];
  connect(port?: number): Promise<MeasureClient>;
  close(): Promise<void>;
}

/** Ends what a test has left open, so that one that fails does not hold up the rest. */
const left: (() => unknown)[] = [];
async function closeLeft(): Promise<void> {
  for (const close of left.splice(0)) await close();
}

async function openEnds(serverNet: Network = systemNetwork, clientNet = systemNetwork, host = "127.0.0.1"): Promise<Ends> {
  const events: ServerEvent[] = [];
  const log = (event: ServerEvent): void => void events.push(event);
  const server = await MeasureServer.start({ network: serverNet, address: host, port: 0, program, log });
  const clients: MeasureClient[] = [];
  let isClosed = false;
  left.push(() => isClosed || close());
  async function close(): Promise<void> {
    isClosed = true;
    for (const client of clients) client.close();
    await server.close();
  }
  return {
    server,
    events,
    async connect(port = server.port) {
      const client = await MeasureClient.connect({ network: clientNet, host, port, program });
      clients.push(client);
      return client;
    },
    close,
  };
}

/** What must be so of every result where nothing is lost. */
function checkWhole({ kind, up, down, exchanges, streams }: TestResult): void {
  for (const flow of [up, down]) {
    if (!flow) continue;
    assert.equal(flow.receivedBytes > 0, true, `${kind}: something came`);
    assert.equal(flow.receivedBytes, flow.sentBytes, kind);
    assert.equal(flow.bytesByStream.length, streams);
    assert.equal(flow.bytesByStream.reduce((a, b) => a + b), flow.receivedBytes);
    assert.deepEqual(flow.errors, {});
    if (kind === "tcp") assert.equal(flow.datagrams, null);
    else assert.deepEqual([flow.datagrams!.received, flow.datagrams!.lost], [flow.datagrams!.sent, 0]);
    assert.equal(Math.abs(flow.bitsPerSecond - (flow.receivedBytes * 8) / flow.seconds) < 1, true);
  }
  if (!exchanges) return;
  assert.equal(exchanges.done > 0, true, `${kind}: something was answered`);
  assert.deepEqual([exchanges.answered, exchanges.lost, exchanges.errors], [exchanges.done, 0, {}], kind);
  const { minMs, p50Ms, p90Ms, p99Ms, p999Ms, maxMs } = exchanges.times!;
  const rising = [minMs, p50Ms, p90Ms, p99Ms, p999Ms, maxMs];
  assert.deepEqual([...rising].sort((a, b) => a - b), rising);
}

/** The same without what only the client knows: seconds one by one. */
function withoutIntervals({ intervals: _, ...rest }: TestResult): unknown {
  return rest;
}

const ends = suite("measuring over the loopback");
ends.after.each(closeLeft);

ends("every test, every way: counts add up, and both ends say the same", async () => {
  const { events, connect, close } = await openEnds();
  const client = await connect();
  assert.deepEqual(client.program, program);
  const results: TestResult[] = [];
  for (const kind of KINDS) {
    for (const direction of isFlow(kind) ? (["up", "down", "both"] as const) : (["up"] as const)) {
      const result = (await client.run(plan(kind, { direction, streams: kind === "connections" ? 1 : 2 })))!;
      assert.deepEqual([result.up !== null, result.down !== null], [isFlow(kind) && direction !== "down", isFlow(kind) && direction !== "up"]);
      checkWhole(result);
      results.push(result);
    }
  }
  await until("the server's results", () => events.filter(({ type }) => type === "result").length === results.length);
  const theirs = events.flatMap((event) => (event.type === "result" ? [event.result] : []));
  assert.deepEqual(theirs.map(withoutIntervals), results.map(withoutIntervals));
  for (const result of results) assert.match(describeResult(result), /^[A-Z].*: .*\d/);
  await close();
});

ends("a second is a row: of the receiver, and they add up to no more than the total", async () => {
  const { connect, close } = await openEnds();
  const client = await connect();
  const rows: IntervalResult[] = [];
  const asked = plan("udp", { direction: "both", ms: 2200 });
  const result = (await client.run(asked, (row) => rows.push(row)))!;
  assert.deepEqual(rows, result.intervals);
  assert.deepEqual(rows.slice(0, 2).map(({ second }) => second), [1, 2]);
  for (const [way, flow] of [["up", result.up!], ["down", result.down!]] as const) {
    const inRows = rows.reduce((total, row) => total + row[way]!.bytes, 0);
    assert.equal(inRows > 0 && inRows <= flow.receivedBytes, true, `${way}: ${inRows} of ${flow.receivedBytes}`);
  }
  for (const terminal of [true, false]) {
    const table = new Table(asked, { terminal });
    const text = table.title() + rows.map((row) => table.row(row)).join("") + table.total(result) + formatSummary([result], { terminal });
    assert.equal(text.includes("\x1b") && text.includes("█"), terminal);
    assert.match(text, /1 up .*\n.*1 down .*bit\/s/);
    assert.match(text, /all down/);
  }
  await close();
});

ends("stopped in the middle: what there is so far; and no test after that", async () => {
  const { connect, close, events } = await openEnds();
  const client = await connect();
  setTimeout(() => client.stop(), 300);
  const begun = performance.now();
  const result = (await client.run(plan("tcp", { ms: 60_000, direction: "both", rate: 8e6 })))!;
  assert.equal(performance.now() - begun < 30_000, true, "it did not run its minute");
  checkWhole(result);
  assert.equal(await client.run(plan("tcp")), null);
  client.close();
  await until("the server to notice", () => events.at(-1)?.type === "gone");
  await close();
});

ends("JSON: the same fields as ever", async () => {
  const { connect, close } = await openEnds();
  const client = await connect();
  const shape = (value: unknown): unknown => {
    if (value === null || typeof value !== "object") return value === null ? null : typeof value;
    if (Array.isArray(value)) return value.slice(0, 1).map(shape);
    return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, shape(inner)]));
  };
  const flow = {
    sentBytes: "number", receivedBytes: "number", seconds: "number", bitsPerSecond: "number", bytesByStream: ["number"],
    datagrams: {
      sent: "number", received: "number", perSecond: "number", lost: "number", lostPercent: "number", duplicates: "number",
      reordered: "number", jitterMs: "number",
    },
    errors: {},
  };
  const head = {
    kind: "string", direction: "string", streams: "number", length: "number", rate: "number", plannedSeconds: "number",
  };
  const cpuPercent = { client: "number", server: "number" };
  const second = {
    index: "number", ms: "number", bytes: "number", count: "number", lost: "number", jitterMs: "number", p50Ms: "number",
    p99Ms: "number",
  };
  const udp = await client.run(plan("udp", { ms: 1100 }));
  assert.deepEqual(shape(udp), {
    ...head, up: flow, down: null, exchanges: null, cpuPercent, intervals: [{ second: "number", up: second, down: null }],
  });
  const latency = await client.run(plan("tcpLatency"));
  const times = {
    minMs: "number", meanMs: "number", p50Ms: "number", p90Ms: "number", p99Ms: "number", p999Ms: "number", maxMs: "number",
  };
  assert.deepEqual(shape({ ...latency, intervals: [] }), {
    ...head, up: null, down: null, cpuPercent, intervals: [],
    exchanges: { done: "number", answered: "number", lost: "number", seconds: "number", perSecond: "number", times, errors: {} },
  });
  await close();
});

/** A way to the server that does with the datagrams what `fate` says: how often each goes on. TCP goes through as it is. */
class LossyWay {
  readonly #tcp: Server;
  readonly #udp: UdpSocket;
  readonly #target: number;
  readonly #back = new Map<number, UdpSocket>();
  readonly #sockets = new Set<Socket>();
  #isClosed = false;
  dropped = 0;
  repeated = 0;
  port = 0;

  constructor(target: number, fate: (n: number) => number) {
    this.#target = target;
    this.#tcp = createServer((socket) => {
      const on = connect(target, "127.0.0.1");
      for (const each of [socket, on]) {
        this.#sockets.add(each);
        each.on("error", () => {}).on("close", () => [socket, on].forEach((other) => other.destroy()));
      }
      socket.pipe(on).pipe(socket);
    });
    this.#udp = createSocket("udp4");
    let n = 0;
    this.#udp.on("message", (bytes: Buffer, from: RemoteInfo) => {
      const times = bytes[1] === TYPE_DATA || bytes[1] === TYPE_REQUEST ? fate(n++) : 1;
      if (times === 0) this.dropped++;
      if (times === 2) this.repeated++;
      for (let i = 0; i < times; i++) this.#onward(from).send(bytes, this.#target, "127.0.0.1");
    });
  }

  #onward(from: RemoteInfo): UdpSocket {
    let socket = this.#back.get(from.port);
    if (!socket) {
      socket = createSocket("udp4");
      socket.on("message", (bytes) => this.#udp.send(bytes, from.port, from.address));
      this.#back.set(from.port, socket);
    }
    return socket;
  }

  /** On the server's address of another number: both ports have the same. */
  async open(): Promise<void> {
    await new Promise<void>((resolve) => this.#tcp.listen(0, "127.0.0.1", resolve));
    this.port = (this.#tcp.address() as AddressInfo).port;
    await new Promise<void>((resolve) => this.#udp.bind(this.port, "127.0.0.1", resolve));
    left.push(() => this.close());
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const socket of this.#sockets) socket.destroy();
    for (const socket of this.#back.values()) socket.close();
    this.#udp.close();
    this.#tcp.close();
  }
}

/** The client reaches the way, and asks for the UDP port that the server names: that of the way. */
function through(way: LossyWay, server: MeasureServer): Network {
  return {
    ...systemNetwork,
    async udp(address, port) {
      const udp = await systemNetwork.udp(address, port);
      const relayed: typeof udp = {
        port: udp.port,
        onDatagram: null,
        send: (bytes, to, host, done) => udp.send(bytes, to === server.port ? way.port : to, host, done),
        close: () => udp.close(),
      };
      udp.onDatagram = (bytes, from) =>
        relayed.onDatagram?.(bytes, { ...from, port: from.port === way.port ? server.port : from.port });
      return relayed;
    },
  };
}

ends("datagrams that are dropped or come twice on the way are told as that", async () => {
  const { server, close } = await openEnds();
  const way = new LossyWay(server.port, (n) => (n % 10 === 3 ? 0 : n % 10 === 6 ? 2 : 1));
  await way.open();
  const network = through(way, server);
  const client = await MeasureClient.connect({ network, host: "127.0.0.1", port: way.port, program });
  const { up } = (await client.run(plan("udp", { streams: 2, ms: 400 })))!;
  const { sent, received, lost, lostPercent, duplicates } = up!.datagrams!;
  assert.equal(way.dropped > 5, true, `${way.dropped} were dropped`);
  assert.deepEqual([lost, duplicates, received], [way.dropped, way.repeated, sent - way.dropped]);
  assert.equal(lostPercent, (way.dropped / sent) * 100);
  assert.equal(up!.receivedBytes, received * 500);
  client.close();
  way.close();
  await close();
});

ends("a request that is lost is lost, and the next one goes on", async () => {
  const { server, close } = await openEnds();
  const way = new LossyWay(server.port, (n) => (n === 5 ? 0 : 1));
  await way.open();
  const client = await MeasureClient.connect({ network: through(way, server), host: "127.0.0.1", port: way.port, program });
  const { exchanges } = (await client.run(plan("udpLatency", { ms: 1500 })))!;
  assert.deepEqual([way.dropped, exchanges!.lost, exchanges!.answered], [1, 1, exchanges!.done]);
  assert.equal(exchanges!.done > 5, true);
  client.close();
  way.close();
  await close();
});

ends.run();

const tunnels = suite("measuring through tunnels");
tunnels.after.each(closeLeft);

tunnels("every test from one embedded tunnel to another", async () => {
  const pair = await openPair();
  left.push(() => pair.close());
  const { server, connect, close } = await openEnds(dialerNetwork(pair.right), dialerNetwork(pair.left), RIGHT);
  const client = await connect();
  assert.equal(client.address, RIGHT);
  for (const kind of KINDS) {
    const result = (await client.run(plan(kind, { direction: isFlow(kind) ? "both" : "up", ms: 300 })))!;
    checkWhole(result);
  }
  assert.equal(server.port > 0, true);
  await close();
  await pair.close();
});

tunnels.run();

const hostile = suite("a server for measurements and those who are no clients");
hostile.after.each(closeLeft);

async function raw(port: number): Promise<{ socket: Socket; send(message: unknown): void; next(): Promise<Message | null> }> {
  const socket = connect(port, "127.0.0.1");
  const reader = new FrameReader();
  const came: Message[] = [];
  let isClosed = false;
  socket.on("error", () => {}).on("close", () => (isClosed = true));
  socket.on("data", (chunk: Buffer) => {
    reader.push(chunk);
    for (let next = reader.next(); next !== undefined; next = reader.next()) came.push(readMessage(next));
  });
  await new Promise<void>((resolve) => socket.once("connect", resolve));
  return {
    socket,
    send: (message) => void socket.write(encodeFrame(message)),
    async next() {
      await until("a message, or the end", () => came.length > 0 || isClosed);
      return came.shift() ?? null;
    },
  };
}

const hello: Message = { type: "hello", ...program };

hostile("another version, a second client, nonsense: each is told, or left alone, and the next is served", async () => {
  const { server, connect, close } = await openEnds();
  const old = await raw(server.port);
  old.send({ ...hello, protocol: PROTOCOL + 1 });
  const answer = await old.next();
  assert.equal(answer?.type === "error" && answer.code, "ERR_VERSION");
  for (const bytes of ["GET / HTTP/1.1\r\n\r\n", "\0\0\0\x02{}", "\0\0\0\x01", encodeFrame({ type: "go" })]) {
    const stranger = await raw(server.port);
    stranger.socket.write(bytes);
    assert.equal(await stranger.next(), null);
  }
  const client = await connect();
  const error = await rejection(connect());
  assert.deepEqual([error.code, /busy/.test(error.message)], ["EBUSY", true]);
  checkWhole((await client.run(plan("tcp")))!);
  client.close();
  await close();
});

hostile("a plan beyond the limits ends the connection with the field's name", async () => {
  const { server, close } = await openEnds();
  const client = await raw(server.port);
  client.send(hello);
  assert.equal((await client.next())?.type, "hello");
  client.send({ type: "test", plan: { ...plan("udp"), rate: 1e30 } });
  const answer = await client.next();
  assert.match(answer?.type === "error" ? answer.message : "", /plan.rate is not in 0\.\./);
  assert.equal(await client.next(), null);
  await close();
});

hostile("datagrams go nowhere without the token, and connections count only with it", async () => {
  const { server, close, events } = await openEnds();
  const client = await raw(server.port);
  client.send(hello);
  await client.next();
  client.send({ type: "test", plan: plan("udp", { direction: "down", ms: 500 }) });
  const ready = await client.next();
  assert.equal(ready?.type, "ready");
  const token = Buffer.from(ready.type === "ready" ? ready.token : "", "hex");

  const stranger = createSocket("udp4");
  const owner = createSocket("udp4");
  const came = { stranger: 0, owner: 0 };
  stranger.on("message", () => came.stranger++);
  owner.on("message", () => came.owner++);
  const wrong = Buffer.from(token.map((byte, i) => (i === 15 ? byte ^ 1 : byte)));
  for (const bytes of [encodeProbe(TYPE_PROBE, 0, wrong), encodeProbe(TYPE_PROBE, 7, token), new Outgoing(TYPE_REQUEST, 0, 100).bytes]) {
    stranger.send(bytes, server.port, "127.0.0.1");
  }
  client.send({ type: "go" });
  await new Promise((resolve) => setTimeout(resolve, 200));
  assert.deepEqual(came, { stranger: 0, owner: 0 });

  owner.send(encodeProbe(TYPE_PROBE, 0, token), server.port, "127.0.0.1");
  await until("the probe's answer", () => came.owner > 0);
  // Whoever shows the token later does not turn the stream to himself.
  stranger.send(encodeProbe(TYPE_PROBE, 0, token), server.port, "127.0.0.1");
  await until("datagrams", () => came.owner > 5);
  assert.equal(came.stranger, 0);
  const data = await raw(server.port);
  data.send({ type: "data", token: token.toString("hex"), stream: 0 });
  assert.equal(await data.next(), null);

  // The control connection ends: so do the datagrams.
  client.socket.destroy();
  await until("the server to notice", () => events.some(({ type }) => type === "failed"));
  await new Promise((resolve) => setTimeout(resolve, 50));
  const before = came.owner;
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.equal(came.owner, before);
  stranger.close();
  owner.close();
  await close();
});

hostile("refused, unknown, not ours: the client says what and where", async () => {
  const refused = await rejection(MeasureClient.connect({ network: systemNetwork, host: "127.0.0.1", port: 1, program }));
  assert.match(refused.message, /^Cannot reach 127\.0\.0\.1:1: nobody listens there/);
  assert.equal(refused.code, "ECONNREFUSED");
  const unknown = await rejection(MeasureClient.connect({ network: systemNetwork, host: "no-such-name.invalid", port: 1, program }));
  assert.match(unknown.message, /no-such-name\.invalid:1: /);
  assert.equal(["ENOTFOUND", "EAI_AGAIN"].includes(unknown.code!), true, unknown.code);
  const answers: [string | Buffer, RegExp, string][] = [
    ["HTTP/1.1 400 Bad Request\r\n\r\n", /does not speak the protocol/, "EPROTO"],
    ["", /it closed the connection/, "ECONNRESET"],
    [encodeFrame({ ...hello, protocol: 9, version: "9.9.9" }), /wasmguard 9\.9\.9, speaks protocol 9, not 1/, "ERR_VERSION"],
  ];
  for (const [answer, reason, code] of answers) {
    const other = createServer((socket) => void socket.on("error", () => {}).end(answer));
    await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve));
    const { port } = other.address() as AddressInfo;
    const error = await rejection(MeasureClient.connect({ network: systemNetwork, host: "127.0.0.1", port, program }));
    assert.match(error.message, reason);
    assert.equal(error.code, code);
    other.close();
  }
});

hostile("the server goes away in the middle of a test: an error, and no waiting", async () => {
  const { server, connect } = await openEnds();
  const client = await connect();
  const running = rejection(client.run(plan("tcp", { ms: 60_000, rate: 8e6 })));
  setTimeout(() => void server.close(), 300);
  const error = await running;
  assert.match(error.message, /^The test with 127\.0\.0\.1 failed: the server was stopped/);
});

hostile.run();

const CLI = process.env.WASMGUARD_CLI || fileURLToPath(new URL("../../dist/cli.js", import.meta.url));
const isDeno = basename(process.execPath).startsWith("deno");
const RUNTIME = isDeno ? ["run", "--no-prompt", "--allow-net", "--allow-read", CLI] : [CLI];

interface Run {
  out: string;
  err: string;
  code: number | null;
  signal(): void;
}

function bench(...args: string[]): Run {
  const child = spawn(process.execPath, [...RUNTIME, "bench", ...args]);
  // By its id: Deno's kill() would make the signal the reason of the end.
  const run: Run = { out: "", err: "", code: null, signal: () => void process.kill(child.pid!, "SIGINT") };
  child.stdout.on("data", (chunk) => (run.out += chunk));
  child.stderr.on("data", (chunk) => (run.err += chunk));
  child.on("close", (code) => (run.code = code ?? -1));
  left.push(() => run.code === null && child.kill("SIGKILL"));
  return run;
}

const ended = (run: Run): Promise<void> => until("the command to end", () => run.code !== null, 15_000);

const command = suite("wasmguard bench");
command.after.each(closeLeft);

command("a server, JSON, plain lines, Ctrl-C on both", async () => {
  const server = bench("--server", "--listen", "127.0.0.1:0");
  await until("the server's port", () => /listening on 127\.0\.0\.1:\d+\n/.test(server.out) || server.code !== null);
  const at = /127\.0\.0\.1:\d+/.exec(server.out)?.[0] ?? server.err;

  const json = bench(at, "--tcp", "--rate", "8", "--seconds", "1", "--json");
  await ended(json);
  assert.deepEqual([json.code, json.err], [0, ""]);
  const { tests, startedAt, ...head } = JSON.parse(json.out);
  const { version, protocol } = head.server;
  assert.match(version, /^\d+\.\d+\.\d+/);
  assert.equal(protocol, PROTOCOL);
  assert.deepEqual(head, {
    wasmguard: "bench", schema: 1, host: "127.0.0.1", port: Number(at.split(":")[1]), address: "127.0.0.1", through: "system",
    client: head.server, server: head.server, interrupted: false, error: null,
  });
  assert.equal(Number.isNaN(Date.parse(startedAt)), false);
  assert.equal(tests.length, 1);
  checkWhole(tests[0]);

  const long = bench(at, "--all", "--rate", "1", "--seconds", "600");
  await until("two rows", () => / 2 .*bit\/s/.test(long.out));
  long.signal();
  await ended(long);
  assert.equal(long.code, 130, long.err);
  assert.match(long.out, /\n +all .*bit\/s\n/);
  assert.equal(long.out.includes("\x1b"), false);

  server.signal();
  await ended(server);
  assert.equal(server.code, 0, server.err);
  assert.match(server.out, /127\.0\.0\.1 {2}TCP to the server, .*at 8\.00 Mbit\/s, 1 s: /);
});

command("wrong usage is 2, what cannot be reached is 1, with the reason", async () => {
  const cases: [string[], number, RegExp][] = [
    [[], 2, /bench needs a HOST, or --server/],
    [["a", "b"], 2, /unexpected argument "b"/],
    [["a:99999"], 2, /"a:99999" is not HOST or HOST:PORT/],
    [["a", "--reverse", "--both"], 2, /choose one/],
    [["a", "--streams", "65"], 2, /--streams 65 is not in 1\.\.64/],
    [["a", "--udp", "--length", "8"], 2, /a datagram has 16\.\.65507/],
    [["--server", "--udp"], 2, /--udp is the client's to say/],
    [["--server", "--listen", "x"], 2, /"x" is not ADDRESS:PORT/],
    [["127.0.0.1:1"], 1, /Cannot reach 127\.0\.0\.1:1: nobody listens there/],
    [["127.0.0.1", "--conf", "/nonexistent.conf"], 1, /Cannot read --conf \/nonexistent\.conf: ENOENT/],
  ];
  const runs = cases.map(([args]) => bench(...args));
  for (const [i, [args, code, reason]] of cases.entries()) {
    await ended(runs[i]);
    assert.match(runs[i].err, reason);
    assert.equal(runs[i].code, code, args.join(" "));
  }
});

command.run();
