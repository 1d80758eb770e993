// wasmguard relay: WebSocket in, UDP out, for peers that can speak HTTPS only. See docs/transports.md.

import { readFileSync } from "node:fs";
import process from "node:process";
import { createLogger, parseLogLevel } from "../log.ts";
import { Relay, type RelayOptions } from "../transport/relay.ts";
import { atMost, type Command, number, parse, UsageError } from "./command.ts";
import { listenAddress } from "./listen.ts";

const DEFAULT_LISTEN = "127.0.0.1:8080";
/** Less can be guessed. */
const TOKEN_MIN_LEN = 16;

export const command: Command = {
  help: `Usage: wasmguard relay --allow ENDPOINT[,ENDPOINT...] [OPTIONS]

Carries WireGuard between WebSocket clients and UDP endpoints. It sees ciphertext only.

      --allow ENDPOINT    where to: HOST:PORT, IP:PORT or IP/CIDR:PORT; [IPv6]:PORT. Nowhere else.
      --listen ADDR:PORT  where from (default ${DEFAULT_LISTEN})
      --token FILE        clients must show the secret in FILE
      --origin ORIGIN     pages of ORIGIN may use it, as in https://lab.example; "null" for files, "*" for all
      --max-clients N     (default 256)
      --max-rate MBIT     Mbit/s of a client, both ways together
      --tls-cert FILE, --tls-key FILE
                          speak wss:// itself, without a proxy in front

Ready when /readyz answers 200. Environment: LOG_LEVEL=verbose|error|silent
`,
  run(args) {
    const { values, positionals } = parse(args, {
      allow: { type: "string", multiple: true },
      listen: { type: "string" },
      token: { type: "string" },
      origin: { type: "string", multiple: true },
      "max-clients": { type: "string" },
      "max-rate": { type: "string" },
      "tls-cert": { type: "string" },
      "tls-key": { type: "string" },
    });
    atMost(positionals, 0);
    const allow = list(values.allow);
    if (allow.length === 0) throw new UsageError("--allow is missing: a relay without a list would be open to all");
    const listen = listenAddress(values.listen ?? DEFAULT_LISTEN);
    const { "tls-cert": cert, "tls-key": key } = values;
    if ((cert === undefined) !== (key === undefined)) throw new UsageError("--tls-cert and --tls-key go together");
    const rate = number("--max-rate", values["max-rate"], 100_000);
    return serve(listen, {
      allow,
      token: values.token === undefined ? undefined : readToken(values.token),
      origins: values.origin && list(values.origin),
      maxClients: number("--max-clients", values["max-clients"], 65536),
      bytesPerSecond: rate && (rate * 1e6) / 8,
      tls: cert === undefined ? undefined : { cert: readFileSync(cert), key: readFileSync(key!) },
    });
  },
};

async function serve({ host, port }: { host: string; port: number }, options: RelayOptions): Promise<void> {
  const log = createLogger("relay", parseLogLevel(process.env.LOG_LEVEL ?? "verbose"));
  let relay: Relay;
  try {
    relay = new Relay({ ...options, log });
  } catch (error) {
    if (error instanceof RangeError) throw new UsageError(error.message);
    throw error;
  }
  const stopped = new Promise<string>((resolve) => {
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => resolve(signal));
  });
  const bound = await relay.listen(port, host);
  const where = bound.address.includes(":") ? `[${bound.address}]` : bound.address;
  log.verbose(`Relaying ${options.tls ? "wss" : "ws"}://${where}:${bound.port} to ${options.allow.join(", ")}`);
  if (!isLoopback(bound.address) && options.token === undefined) {
    log.error("Anyone who reaches this address may use it: there is no --token");
  }
  const signal = await stopped;
  log.verbose(`Stopping: ${signal}`);
  await relay.close();
  process.exit(0);
}

function list(values: string[] | undefined): string[] {
  return (values ?? []).flatMap((value) => value.split(",")).map((value) => value.trim()).filter(Boolean);
}

function isLoopback(address: string): boolean {
  return address === "::1" || address.startsWith("127.");
}

/** @throws Error with the path, and never what is in it */
function readToken(path: string): string {
  const token = readFileSync(path, "utf8").trim();
  if (token.length < TOKEN_MIN_LEN) {
    throw new Error(`Cannot use ${path} as the token: it has less than ${TOKEN_MIN_LEN} characters`);
  }
  return token;
}
