// Where a command listens: IP:PORT, as relay and lab take it.

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
