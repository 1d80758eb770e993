// wasmguard bench: how fast the way to another wasmguard is, through a tunnel or beside it. One of the two is the server.

import { readFileSync } from "node:fs";
import { isIP } from "node:net";
import process from "node:process";
import { parseConfig } from "../config.ts";
import { WasmguardError, quote } from "../errors.ts";
import { MeasureClient } from "../measure/client.ts";
import { type Network, dialerNetwork, systemNetwork } from "../measure/network.ts";
import {
  DATAGRAM_LENGTH_MAX, type Direction, type Kind, type Plan, RATE_MAX_MBIT, SECONDS_MAX, STREAMS_MAX, STREAM_LENGTH_MAX,
  defaultLength, defaultRate, isDatagram, isFlow, lengthRange,
} from "../measure/plan.ts";
import { thisProgram } from "../measure/program.ts";
import { Table, describeResult, formatSummary } from "../measure/report.ts";
import type { TestResult } from "../measure/result.ts";
import { MeasureServer } from "../measure/server.ts";
import { Tunnel } from "../tunnel/tunnel.ts";
import { type Command, UsageError, atMost, number, parse } from "./command.ts";

const DEFAULT_PORT = 5202;
const DEFAULT_SECONDS = 5;
/** as a shell says of what SIGINT has ended */
const INTERRUPTED = 130;
/** of the object that --json prints */
const SCHEMA = 1;

const options = {
  server: { type: "boolean" },
  listen: { type: "string" },
  tcp: { type: "boolean" },
  udp: { type: "boolean" },
  packets: { type: "boolean" },
  connections: { type: "boolean" },
  latency: { type: "boolean" },
  all: { type: "boolean" },
  reverse: { type: "boolean" },
  both: { type: "boolean" },
  streams: { type: "string" },
  seconds: { type: "string" },
  length: { type: "string" },
  rate: { type: "string" },
  json: { type: "boolean" },
  conf: { type: "string" },
} as const;

type Values = ReturnType<typeof parse<typeof options>>["values"];

const TESTS: [name: "tcp" | "udp" | "packets" | "connections" | "latency", kinds: Kind[]][] = [
  ["tcp", ["tcp"]],
  ["udp", ["udp"]],
  ["packets", ["packets"]],
  ["connections", ["connections"]],
  ["latency", ["tcpLatency", "udpLatency"]],
];

export const command: Command = {
  help: `Usage: wasmguard bench --server [--listen ADDRESS:PORT] [--conf FILE.conf]
       wasmguard bench HOST[:PORT] [TESTS] [OPTIONS]

Measures the way between two wasmguards: start the first form on one, the second on the other. Give HOST's address in
the tunnel to measure the tunnel, its address outside to compare. Default: --tcp, port ${DEFAULT_PORT} (TCP and UDP).

      --tcp              bytes a second over TCP
      --udp              bytes a second over UDP, with loss, order and jitter; at --rate, default 100
      --packets          small datagrams a second, as many as go
      --connections      TCP connections a second
      --latency          round trips of a small request, over TCP and then UDP: percentiles
      --all              all of them, to the server and then from it

      --reverse          from the server to here
      --both             both ways at once
      --streams N        connections or UDP ports at a time (1..${STREAMS_MAX}, default 1)
      --seconds N        of each test (default ${DEFAULT_SECONDS})
      --length BYTES     of a write, datagram or request (default: TCP 131072, UDP 1372, packets and latency 64)
      --rate MBIT        no faster than this, a direction (0 = as fast as it goes)
      --json             one JSON object at the end, nothing else
      --conf FILE.conf   through a tunnel of that wg-quick file inside this process: no interface, no privilege

The server takes one client at a time, and whoever reaches its port: let only friends reach it. Default: all addresses.
Ctrl-C prints what there is so far. Exit code: 0 done, 1 it failed, 2 wrong usage, ${INTERRUPTED} by Ctrl-C (server: 0).
`,
  async run(args) {
    const { values, positionals } = parse(args, options);
    atMost(positionals, values.server ? 0 : 1);
    if (values.server) return serve(values);
    if (positionals.length === 0) throw new UsageError("bench needs a HOST, or --server");
    if (values.listen !== undefined) throw new UsageError("--listen goes with --server");
    const target = readTarget(positionals[0]);
    return measure(target, plansOf(values), values);
  },
};

async function serve(values: Values): Promise<void> {
  for (const name of Object.keys(values)) {
    if (["server", "listen", "conf"].includes(name)) continue;
    throw new UsageError(`--${name} is the client's to say, not the server's`);
  }
  const listen = values.listen === undefined ? { host: undefined, port: DEFAULT_PORT } : readListen(values.listen);
  const { network, close } = await openNetwork(values.conf);
  const program = thisProgram(readVersion());
  const server = await MeasureServer.start({
    network,
    address: listen.host,
    port: listen.port,
    program,
    log: (event) => {
      const words = {
        client: () => `wasmguard ${"program" in event ? `${event.program.version}, ${event.program.runtime}` : ""}`,
        result: () => ("result" in event ? describeResult(event.result) : ""),
        failed: () => ("error" in event ? event.error.message : ""),
        gone: () => "done",
      }[event.type]();
      process.stdout.write(`${event.from}  ${words}\n`);
    },
  }).catch(async (error: NodeJS.ErrnoException) => {
    await close();
    const where = formatWhere(listen.host ?? "all addresses", listen.port);
    const words: Record<string, string> = { EADDRINUSE: "the port is in use", EADDRNOTAVAIL: "that is no address of ours" };
    throw new WasmguardError(error.code ?? "EIO", `Cannot listen on ${where}: ${words[error.code ?? ""] ?? error.message}`);
  });
  const stop = async (): Promise<void> => {
    await Promise.race([server.close(), new Promise((resolve) => setTimeout(resolve, 500))]);
    await close();
    process.exit(0);
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => void stop());
  const inside = network.name === "tunnel" ? " inside the tunnel" : "";
  process.stdout.write(`wasmguard bench: listening on ${formatWhere(server.address, server.port)}${inside}\n`);
}

async function measure(target: { host: string; port: number }, plans: Plan[], values: Values): Promise<void> {
  const style = { terminal: !values.json && process.stdout.isTTY === true };
  const say = (text: string): void => void (values.json || process.stdout.write(text));
  const program = thisProgram(readVersion());
  let client: MeasureClient | null = null;
  let isInterrupted = false;
  const interrupt = (): void => {
    if (isInterrupted || !client) process.exit(INTERRUPTED);
    isInterrupted = true;
    // The terminal has just shown ^C.
    if (style.terminal) say("\r");
    client.stop();
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, interrupt);
  const { network, close } = await openNetwork(values.conf);
  const startedAt = new Date().toISOString();
  const results: TestResult[] = [];
  let failure: Error | null = null;
  try {
    client = await MeasureClient.connect({ network, ...target, program });
    const { version, runtime, platform } = client.program;
    const through = network.name === "tunnel" ? `, through the tunnel of ${values.conf}` : "";
    say(`${formatWhere(target.host, target.port)}: wasmguard ${version}, ${runtime}, ${platform}${through}\n`);
    for (const plan of plans) {
      if (isInterrupted) break;
      const table = new Table(plan, style);
      say(`\n${table.title()}`);
      const result = await client.run(plan, (row) => say(table.row(row)));
      if (!result) break;
      results.push(result);
      say(table.total(result));
    }
  } catch (error) {
    failure = error as Error;
  }
  if (results.length > 1) say(`\n${formatSummary(results, style)}`);
  if (values.json && client) {
    const object = {
      wasmguard: "bench",
      schema: SCHEMA,
      startedAt,
      host: target.host,
      port: target.port,
      address: client.address,
      through: network.name,
      client: program,
      server: client.program,
      interrupted: isInterrupted,
      error: failure ? { code: (failure as WasmguardError).code, message: failure.message } : null,
      tests: results,
    };
    process.stdout.write(`${JSON.stringify(object, null, 2)}\n`);
  }
  client?.close();
  await close();
  if (failure) throw failure;
  // What was just written may still be on its way into a pipe: the exit code is set, and nothing holds the process.
  process.exitCode = isInterrupted ? INTERRUPTED : 0;
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.off(signal, interrupt);
}

/** @throws UsageError */
function plansOf(values: Values): Plan[] {
  if (values.reverse && values.both) throw new UsageError("--reverse and --both: choose one");
  const chosen = TESTS.filter(([name]) => values.all || values[name]);
  const kinds = (chosen.length > 0 ? chosen : TESTS.slice(0, 1)).flatMap(([, kinds]) => kinds);
  const streams = number("--streams", values.streams, STREAMS_MAX) ?? 1;
  const seconds = number("--seconds", values.seconds, SECONDS_MAX) ?? DEFAULT_SECONDS;
  const length = number("--length", values.length, STREAM_LENGTH_MAX);
  const rate = values.rate === "0" ? 0 : number("--rate", values.rate, RATE_MAX_MBIT);
  if (length !== undefined) checkLength(length, kinds);
  const directions: Direction[] = values.both ? ["both"] : values.reverse ? ["down"] : values.all ? ["up", "down"] : ["up"];
  return kinds.flatMap((kind) =>
    (isFlow(kind) ? directions : (["up"] as const)).map((direction) => ({
      kind,
      direction,
      streams,
      ms: seconds * 1000,
      length: kind === "connections" ? defaultLength(kind) : (length ?? defaultLength(kind)),
      rate: !isFlow(kind) ? 0 : rate === undefined ? defaultRate(kind) : rate * 1e6,
    })),
  );
}

function checkLength(length: number, kinds: Kind[]): void {
  for (const kind of kinds) {
    const [min, max] = lengthRange(kind);
    if (kind === "connections" || (length >= min && length <= max)) continue;
    const what = isDatagram(kind) ? `a datagram has ${min}..${DATAGRAM_LENGTH_MAX}` : `it is not in ${min}..${max}`;
    throw new UsageError(`--length ${length}: ${what}`);
  }
}

/** "HOST", "HOST:PORT", "::1", "[::1]:PORT". @throws UsageError */
function readTarget(text: string): { host: string; port: number } {
  const bare = text.replace(/%.*$/, "");
  if (isIP(bare) === 6) return { host: text, port: DEFAULT_PORT };
  const match = /^(?:\[([^\]]+)\]|([^:[\]\s/]+))(?::(\d{1,5}))?$/.exec(text);
  const port = Number(match?.[3] ?? DEFAULT_PORT);
  if (!match || port < 1 || port > 65535) throw new UsageError(`${quote(text)} is not HOST or HOST:PORT`);
  return { host: match[1] ?? match[2], port };
}

/** "ADDRESS:PORT", "ADDRESS", ":PORT", "PORT"; port 0 is any free one. @throws UsageError */
function readListen(text: string): { host: string | undefined; port: number } {
  if (isIP(text) !== 0) return { host: text, port: DEFAULT_PORT };
  const match = /^(?:(?:\[([^\]]+)\]|([\d.]+))?:)?(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  if (!match || Number(match[3]) > 65535 || (host !== undefined && isIP(host.replace(/%.*$/, "")) === 0)) {
    throw new UsageError(`--listen ${quote(text)} is not ADDRESS:PORT`);
  }
  return { host, port: Number(match[3]) };
}

function formatWhere(host: string, port: number): string {
  return `${host.includes(":") ? `[${host}]` : host}:${port}`;
}

async function openNetwork(path: string | undefined): Promise<{ network: Network; close(): Promise<void> }> {
  if (path === undefined) return { network: systemNetwork, close: async () => {} };
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    throw new WasmguardError("EIO", `Cannot read --conf ${path}: ${(error as NodeJS.ErrnoException).code}`);
  }
  let tunnel: Tunnel;
  try {
    tunnel = await Tunnel.open(parseConfig(text));
  } catch (error) {
    const { code, message } = error as WasmguardError;
    throw new WasmguardError(code ?? "EIO", `${path}: ${message}`, { cause: error });
  }
  return { network: dialerNetwork(tunnel), close: () => tunnel.close() };
}

function readVersion(): string {
  // The bundle is one folder below the package, this source two.
  for (const up of ["../package.json", "../../package.json"]) {
    try {
      const found = JSON.parse(readFileSync(new URL(up, import.meta.url), "utf8")) as { name?: string; version: string };
      if (found.name === "wasmguard") return found.version;
    } catch {
      // the other one
    }
  }
  return "unknown";
}
