// The health door: /livez (the process answers), /readyz (every tunnel lives, or why not), /metrics. Read only, small,
// without a login: bind it to loopback or to a network of one's own.

import { type IncomingMessage, type ServerResponse, createServer } from "node:http";
import { CONTENT_TYPES, type MetricFamily, formatMetrics } from "../metrics.ts";
import type { Bind } from "./address.ts";
import type { Health } from "./check-alive.ts";
import { Listener } from "./listener.ts";
import { Tally } from "./tally.ts";

export interface DoorSources {
  /** by tunnel */
  health(): Record<string, Health>;
  metrics(): MetricFamily[];
}

const CLIENTS_MAX = 64;
const HEADERS_TIMEOUT_MS = 10_000;

export class HealthDoor {
  readonly #listener: Listener;

  private constructor(listener: Listener) {
    this.#listener = listener;
  }

  static async start(bind: Bind, sources: DoorSources): Promise<HealthDoor> {
    const options = { headersTimeout: HEADERS_TIMEOUT_MS, requestTimeout: HEADERS_TIMEOUT_MS };
    const server = createServer(options, (req, res) => respond(req, res, sources));
    return new HealthDoor(await Listener.open({ bind, tally: new Tally(), maxClients: CLIENTS_MAX, server }));
  }

  get address(): string {
    return this.#listener.address;
  }

  stop(): Promise<void> {
    return this.#listener.stop();
  }
}

function respond(req: IncomingMessage, res: ServerResponse, sources: DoorSources): void {
  const send = (status: number, type: string, body: string) => {
    res.writeHead(status, {
      "Content-Type": type,
      "Content-Length": Buffer.byteLength(body),
      "Cache-Control": "no-store",
    });
    res.end(req.method === "HEAD" ? undefined : body);
  };
  const text = "text/plain; charset=utf-8";
  if (req.method !== "GET" && req.method !== "HEAD") return send(405, text, "GET, please\n");
  switch (req.url?.split("?")[0]) {
    case "/livez":
      return send(200, text, "ok\n");
    case "/readyz": {
      const tunnels = sources.health();
      const ready = Object.values(tunnels).every((health) => health.ready);
      return send(ready ? 200 : 503, "application/json", `${JSON.stringify({ ready, tunnels })}\n`);
    }
    case "/metrics": {
      const format = /application\/openmetrics-text/.test(req.headers.accept ?? "") ? "openmetrics" : "text";
      return send(200, CONTENT_TYPES[format], formatMetrics(sources.metrics(), format));
    }
    default:
      return send(404, text, "/livez, /readyz or /metrics\n");
  }
}
