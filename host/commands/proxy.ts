// wasmguard proxy: tunnels and their proxies in one process, with no privilege. Signals: SIGHUP reads the files again,
// SIGINT and SIGTERM end it, the second one at once.

import process from "node:process";
import { parseArgs } from "node:util";
import { createLogger, parseLogLevel } from "../log.ts";
import { parseBind } from "../proxy/address.ts";
import { readVariable } from "../proxy/environment.ts";
import { systemAccess } from "../proxy/file.ts";
import { MAX_CLIENTS, Proxy, type ProxySource } from "../proxy/proxy.ts";
import { type ServiceKind, type ServiceSpec, parseService } from "../proxy/spec.ts";
import { openTunnel } from "../proxy/tunnel.ts";
import { FileWatch } from "../proxy/watch.ts";
import { type Command, UsageError, number } from "./command.ts";

const SERVICES = ["socks5", "http", "sni", "forward", "reverse", "udp-forward", "udp-reverse", "stdio"] as const;

const options = {
  ...(Object.fromEntries(SERVICES.map((name) => [name, { type: "string", multiple: true }])) as Record<
    (typeof SERVICES)[number],
    { type: "string"; multiple: true }
  >),
  metrics: { type: "string" },
  "max-clients": { type: "string" },
  "no-watch": { type: "boolean" },
  check: { type: "boolean" },
} as const;

export const command: Command = {
  help: `Usage: wasmguard proxy FILE.conf [SERVICE...] [FILE.conf [SERVICE...]]... [OPTIONS]

Opens the tunnel of each file inside this process and serves it to programs: no privilege, no interface.
Services belong to the file before them; sections of the file ([Socks5], [http], [TCPClientTunnel], ...) add to them.

      --socks5 [USER:PASS@]ADDR    SOCKS5: CONNECT and UDP ASSOCIATE, names resolved in the tunnel
      --http [USER:PASS@]ADDR      HTTP proxy: CONNECT and http:// requests
      --sni ADDR                   TLS connections, to the host that they name
      --forward LOCAL=REMOTE       TCP from here to a place behind the tunnel
      --reverse REMOTE=LOCAL       TCP from a port in the tunnel to a place here
      --udp-forward LOCAL=REMOTE   the same for UDP
      --udp-reverse REMOTE=LOCAL
      --stdio REMOTE               standard input and output, for ssh's ProxyCommand

      --metrics ADDR               /livez, /readyz and /metrics
      --max-clients N              of one service at a time (default ${MAX_CLIENTS})
      --no-watch                   read changed files on SIGHUP alone
      --check                      read and check the files, then end

ADDR: "1080" (127.0.0.1), ":1080" (every address), "192.0.2.1:1080", "[2001:db8::1]:1080"; LOCAL of TCP also unix:/path.
Environment: LOG_LEVEL=verbose|error|silent, and variables that the files name
`,
  async run(args) {
    const { sources, values } = readArguments(args);
    const log = createLogger("proxy", parseLogLevel(readVariable("LOG_LEVEL")));
    const access = systemAccess(readVariable);
    if (values.check) return Proxy.check({ sources, access });
    const metrics = values.metrics === undefined ? undefined : inOption("metrics", () => parseBind(values.metrics!));
    const maxClients = number("--max-clients", values["max-clients"], 1 << 20) ?? MAX_CLIENTS;

    let proxy: Proxy | undefined;
    let watch: FileWatch | undefined;
    let stopping = false;
    const stop = async (status: number): Promise<void> => {
      stopping = true;
      watch?.close();
      await proxy?.stop();
      process.exit(status);
    };
    const reload = async (): Promise<void> => {
      try {
        if (await proxy?.reload()) log.verbose("Reloaded");
      } catch (error) {
        log.error(`Not reloaded, the old configuration goes on: ${(error as Error).message}`);
      }
      if (proxy) watch?.set(proxy.files);
    };
    // Before the start: whoever sees a port open may send a signal at once.
    process.on("SIGHUP", () => void reload());
    for (const signal of ["SIGINT", "SIGTERM"] as const) {
      process.on(signal, () => {
        if (stopping) process.exit(1);
        void stop(0);
      });
    }
    proxy = await Proxy.start({ sources, openTunnel: openTunnel(log), access, log, metrics, maxClients });
    if (stopping) return stop(0);
    if (!values["no-watch"]) {
      watch = new FileWatch(() => void reload());
      for (const path of watch.set(proxy.files)) log.verbose(`${path} cannot be watched: changes need a SIGHUP`);
    }
    // The one thing that is said unasked: which ports they are. Standard output may belong to a [STDIOTunnel].
    for (const { tunnel, kind, address } of proxy.addresses) {
      if (kind === "stdio") continue; // it is nowhere, and ssh would show the line
      process.stderr.write(`wasmguard: ${[tunnel, kind].filter(Boolean).join(" ")} ${address}\n`);
    }
    void proxy.stdioEnded.then((error) => stop(error ? 1 : 0));
  },
};

type Values = Partial<Record<"metrics" | "max-clients", string> & Record<"no-watch" | "check", boolean>>;

/** Services after a file are its own, so the order of the arguments counts. @throws UsageError */
function readArguments(args: string[]): { sources: ProxySource[]; values: Values } {
  let parsed;
  try {
    parsed = parseArgs({ args, options, allowPositionals: true, tokens: true });
  } catch (error) {
    throw new UsageError((error as Error).message.replace(/\. To specify.*$/s, ""));
  }
  const sources: ProxySource[] = [];
  const early: ServiceSpec[] = [];
  for (const token of parsed.tokens) {
    if (token.kind === "positional") sources.push({ path: token.value, services: [] });
    if (token.kind !== "option" || !isService(token.name)) continue;
    const spec = inOption(token.name, () => parseService(token.name as ServiceKind, token.value ?? ""));
    (sources.at(-1)?.services ?? early).push(spec);
  }
  if (sources.length === 0) throw new UsageError("name a file, as in: wasmguard proxy wg0.conf --socks5 1080");
  if (early.length > 0 && sources.length > 1) throw new UsageError("services come after the file that they belong to");
  sources[0].services.unshift(...early);
  return { sources, values: parsed.values as Values };
}

function isService(name: string): boolean {
  return (SERVICES as readonly string[]).includes(name);
}

function inOption<T>(name: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new UsageError(`--${name}: ${error.message}`);
  }
}
