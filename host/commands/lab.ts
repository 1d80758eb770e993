// wasmguard lab: serves the lab's page (host/web/, built to dist/lab/) with the headers it likes best. A handful of
// files, read once: a request is a name among them or nothing, so that no path leads anywhere else.

import { readdirSync, readFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { extname } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { WasmguardError } from "../errors.ts";
import { atMost, type Command, parse } from "./command.ts";
import { listen, listenAddress } from "./listen.ts";

const DEFAULT_LISTEN = "127.0.0.1:0";

const TYPES: Record<string, string> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".json": "application/json",
  ".wasm": "application/wasm",
};

// The relay can be anywhere, so connect-src is wide; nothing else is.
const HEADERS: Record<string, string> = {
  "Content-Security-Policy":
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' data:; " +
    "connect-src 'self' ws: wss: http: https:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
  "Cache-Control": "no-cache",
};
/** What makes a page cross-origin isolated: shared memory, finer clocks. */
const ISOLATION: Record<string, string> = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};

export const command: Command = {
  help: `Usage: wasmguard lab [OPTIONS]

Serves the lab, a page that shows the protocol: two peers moved by hand, a real peer through a relay, captures, a check
of the browser. Prints its address; Ctrl-C ends it. The folder dist/lab works on any other web server as well.

      --listen ADDR:PORT  where (default ${DEFAULT_LISTEN}, any free port)
      --no-isolation      without the headers for shared memory, as on a simple web server
`,
  async run(args) {
    const { values, positionals } = parse(args, { listen: { type: "string" }, "no-isolation": { type: "boolean" } });
    atMost(positionals, 0);
    const { host, port } = listenAddress(values.listen ?? DEFAULT_LISTEN);
    const server = labServer({ isolated: !values["no-isolation"] });
    const stopped = new Promise<void>((resolve) => {
      for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => resolve());
    });
    await listen(server, port, host, "listen on");
    const { address, port: bound } = server.address() as AddressInfo;
    process.stdout.write(`http://${address.includes(":") ? `[${address}]` : address}:${bound}/\n`);
    await stopped;
    process.exit(0);
  },
};

/** @throws WasmguardError ENOENT when the page was not built */
export function labServer({ isolated }: { isolated: boolean }): Server {
  const files = readFiles();
  return createServer((request, response) => {
    const path = (request.url ?? "/").replace(/[?#].*$/s, "");
    const name = path === "/" ? "index.html" : path.slice(1);
    const body = files.get(name);
    const allowed = request.method === "GET" || request.method === "HEAD";
    const status = !allowed ? 405 : body ? 200 : 404;
    response.writeHead(status, {
      ...HEADERS,
      ...(isolated ? ISOLATION : {}),
      "Content-Type":
        status === 200 ? (TYPES[extname(name)] ?? "application/octet-stream") : "text/plain; charset=utf-8",
      ...(status === 200 ? { "Content-Length": String(body!.length) } : {}),
    });
    response.end(
      request.method === "HEAD" ? undefined : status === 200 ? body : status === 404 ? "Not found\n" : "GET only\n",
    );
  });
}

function readFiles(): Map<string, Buffer> {
  const folder = fileURLToPath(
    new URL(import.meta.url.endsWith(".ts") ? "../../dist/lab/" : "./lab/", import.meta.url),
  );
  try {
    return new Map(readdirSync(folder).map((name) => [name, readFileSync(`${folder}/${name}`)]));
  } catch (error) {
    throw new WasmguardError("ENOENT", `Cannot serve the lab: ${folder} is not there; npm run build makes it`, {
      cause: error,
    });
  }
}
