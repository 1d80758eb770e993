// wasmguard show: interfaces and their peers, as `wg show` writes them and what was refused; as JSON; live; as events; or
// for Prometheus to ask.

import { createServer } from "node:http";
import process from "node:process";
import { type Core, compileCore, createCore } from "../core.ts";
import { WasmguardError } from "../errors.ts";
import { CONTENT_TYPES, deviceFamilies, formatMetrics, type InterfaceMetrics } from "../metrics.ts";
import type { DeviceState, Statistics } from "../model.ts";
import { fillRandom } from "../platform/random.ts";
import { formatShow, toJson } from "../show.ts";
import { followEvents, listInterfaces, readState, readStatistics } from "../uapi-client.ts";
import { socketPath } from "../uapi-server.ts";
import { Watch } from "../watch.ts";
import { atMost, type Command, parse, UsageError } from "./command.ts";
import { listen } from "./listen.ts";

const options = {
  json: { type: "boolean" },
  watch: { type: "boolean" },
  events: { type: "boolean" },
  metrics: { type: "string" },
} as const;

export const command: Command = {
  help: `Usage: wasmguard show [INTERFACE] [--json] [--watch | --events | --metrics ADDR:PORT]

Shows interfaces and their peers, those of other WireGuards too that answer on /var/run/wireguard. Of our own also the
packets that were refused, by reason.

      --json       for programs; with --events a line each
      --watch      live, once a second, until Ctrl-C
      --events     what happens (handshakes, roaming, silence ...) as it happens; needs INTERFACE
      --metrics A  serves them at http://A/metrics for Prometheus, until Ctrl-C
`,
  async run(args) {
    const { values, positionals } = parse(args, options);
    atMost(positionals, 1);
    const [name] = positionals;
    if (name !== undefined) socketPath(name);
    const modes = [values.watch, values.events, values.metrics].filter((value) => value !== undefined);
    if (modes.length > 1) throw new UsageError("only one of --watch, --events, --metrics");
    if (values.events) {
      if (name === undefined) throw new UsageError("--events needs an interface");
      return tellEvents(name, values.json === true);
    }
    if (values.watch) return watch(name);
    if (values.metrics !== undefined) return serveMetrics(name, values.metrics);
    return show(name, values.json === true);
  },
};

interface Seen {
  name: string;
  state: DeviceState;
  statistics: Statistics | null;
}

/** The state of one interface, or of all that answer. */
async function look(name: string | undefined): Promise<Seen[]> {
  const seen: Seen[] = [];
  for (const each of name === undefined ? listInterfaces() : [name]) {
    try {
      seen.push({ name: each, state: await readState(each), statistics: await readStatistics(each) });
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      // Listed, and gone or dead by now: not this command's business, unless it was asked for by name.
      if (name === undefined && (code === "ECONNREFUSED" || code === "ENOENT")) continue;
      if (code === "ENOENT" || code === "ECONNREFUSED") throw new WasmguardError(code, `No interface ${each} is running`);
      if (code === "EACCES") throw new WasmguardError(code, `Cannot ask ${each}: it needs root`);
      throw new WasmguardError(code ?? "EIO", `Cannot ask ${each}: ${message}`);
    }
  }
  return seen;
}

const publicKeyOf = (core: Core, { privateKey }: DeviceState): Uint8Array | null => privateKey && core.publicKey(privateKey);

async function show(name: string | undefined, json: boolean): Promise<void> {
  const core = createCore(await compileCore(), fillRandom, { maxPeers: 1, maxNodes: 2 });
  const seen = await look(name);
  if (json) {
    const shown = seen.map(({ name, state, statistics }) => toJson(name, state, publicKeyOf(core, state), statistics));
    process.stdout.write(`${JSON.stringify(name === undefined ? shown : shown[0], null, 2)}\n`);
    return;
  }
  const now = Math.floor(Date.now() / 1000);
  const texts = seen.map(({ name, state, statistics }) => formatShow(name, state, publicKeyOf(core, state), process.stdout.isTTY, now, statistics));
  process.stdout.write(texts.join("\n"));
}

const WATCH_MS = 1000;

async function watch(name: string | undefined): Promise<void> {
  const watches = new Map<string, Watch>();
  const isTerminal = process.stdout.isTTY === true;
  let running = true;
  let wake = () => {};
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.once(signal, () => {
      running = false;
      wake();
    });
  }
  if (isTerminal) process.stdout.write("\x1b[?25l\x1b[2J"); // no cursor, clear
  try {
    while (running) {
      const seen = await look(name);
      const rows = isTerminal ? Math.max(1, Math.floor((process.stdout.rows - 2) / Math.max(1, seen.length)) - 4) : 0;
      const views = seen.map((each) => {
        const view = watches.get(each.name) ?? new Watch();
        watches.set(each.name, view);
        view.look(each.state, performance.now());
        return view.format(each.name, each.state, each.statistics, Math.floor(Date.now() / 1000), rows);
      });
      const text = views.join("\n") || "no interface is running\n";
      // Line by line over what was there: clearing the screen first would flicker.
      process.stdout.write(isTerminal ? `\x1b[H${text.replaceAll("\n", "\x1b[K\n")}\x1b[J` : `${text}\n`);
      const timer = new Promise<void>((resolve) => {
        const timeout = setTimeout(resolve, WATCH_MS);
        wake = () => {
          clearTimeout(timeout);
          resolve();
        };
      });
      if (running) await timer;
    }
  } finally {
    if (isTerminal) process.stdout.write("\x1b[?25h");
  }
}

async function tellEvents(name: string, json: boolean): Promise<void> {
  await look(name);
  const print = (event: object, text: string) => process.stdout.write(`${json ? JSON.stringify(event) : text}\n`);
  const { ended, stop } = followEvents(name, {
    onFollowing: () => process.stderr.write(`following ${name}, Ctrl-C ends\n`),
    onEvent: (event) => {
      const argument = event.argument ? ` ${event.argument}` : "";
      print(event, `${new Date(event.time).toISOString()}  ${event.peer ?? "-"}  ${event.name}${argument}`);
    },
    onLost: (lost) => print({ lost }, `${lost} events were lost`),
  });
  process.once("SIGINT", stop);
  process.once("SIGTERM", stop);
  await ended;
}

async function serveMetrics(name: string | undefined, address: string): Promise<void> {
  const colon = address.lastIndexOf(":");
  const port = Number(address.slice(colon + 1));
  if (colon < 0 || !Number.isInteger(port) || port < 0 || port > 65535) throw new UsageError(`--metrics ${address} is not ADDR:PORT`);
  const host = address.slice(0, colon).replace(/^\[|\]$/g, "") || "127.0.0.1";
  const server = createServer(async (request, response) => {
    if (request.url?.split("?")[0] !== "/metrics" || request.method !== "GET") {
      response.writeHead(404, { "content-type": "text/plain" }).end("GET /metrics\n");
      return;
    }
    try {
      const format = request.headers.accept?.includes("application/openmetrics-text") ? "openmetrics" : "text";
      const text = formatMetrics(deviceFamilies((await look(name)).map(toMetrics)), format);
      response.writeHead(200, { "content-type": CONTENT_TYPES[format] }).end(text);
    } catch (error) {
      response.writeHead(503, { "content-type": "text/plain" }).end(`${(error as Error).message}\n`);
    }
  });
  await listen(server, port, host, "serve metrics at");
  const bound = server.address() as { port: number };
  process.stdout.write(`metrics at http://${host.includes(":") ? `[${host}]` : host}:${bound.port}/metrics\n`);
  await new Promise<void>((resolve) => {
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => resolve());
  });
  server.closeAllConnections();
  server.close();
}

function toMetrics({ name, state, statistics }: Seen): InterfaceMetrics {
  return { name, state, drops: new Map(Object.entries(statistics?.drops ?? {}).map(([reason, count]) => [reason, Number(count)])) };
}
