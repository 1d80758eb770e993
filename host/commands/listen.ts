// Where a command listens: IP:PORT, as relay and lab take it; and that it does.

import type { Server } from "node:net";
import { WasmguardError } from "../errors.ts";
import { formatIp, tryParseIp } from "../ip.ts";
import { UsageError } from "./command.ts";

/** ADDR:PORT with port 0 for any free one. @throws UsageError */
export function listenAddress(text: string): { host: string; port: number } {
  const [, bracketed, plain, digits] = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(text) ?? [];
  const ip = tryParseIp(bracketed ?? plain ?? "");
  if (ip === null || ip.family !== (bracketed === undefined ? 4 : 6) || Number(digits) > 65535) {
    throw new UsageError(`--listen ${text} is not IP:PORT or [IPv6]:PORT`);
  }
  return { host: formatIp(ip.address), port: Number(digits) };
}

/**
 * Resolves when it listens. Later errors, as too many open files at an accept, end no server.
 * @param what  for the error: "serve metrics at"
 * @throws WasmguardError with the system's `code`
 */
export function listen(server: Server, port: number, host: string, what: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.on("error", (error: NodeJS.ErrnoException) => {
      reject(new WasmguardError(error.code ?? "EIO", `Cannot ${what} ${host}:${port}: ${error.message}`));
    });
    server.listen(port, host, resolve);
  });
}
