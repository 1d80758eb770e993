// GET over a TCP connection of the netstack, HTTP/1.1 (RFC 9112) and no more of it than a look needs: one request, the
// connection closed afterwards, the answer as it came, chunks put together. No TLS: what is inside of the tunnel is
// encrypted by it.

import type { IpAddress } from "../ip.ts";
import type { TcpApi, TcpConnection } from "../netstack/types.ts";

export interface HttpAnswer {
  /** "HTTP/1.1 200 OK" */
  status: string;
  headers: string[];
  body: Uint8Array;
  /** there was more than MAX */
  cut: boolean;
}

const BODY_MAX_LEN = 1 << 20;
const HEAD_MAX_LEN = 64 << 10;
const TIMEOUT_MS = 15_000;

/** @throws Error, by the connection or by what came */
export async function get(tcp: TcpApi, to: IpAddress, url: URL): Promise<HttpAnswer> {
  const port = Number(url.port || 80);
  const connection = tcp.connect({ ...to, port });
  const headers = [`Host: ${url.host}`, "User-Agent: wasmguard-lab", "Accept: */*", "Connection: close"];
  const request = [`GET ${url.pathname}${url.search} HTTP/1.1`, ...headers, "", ""].join("\r\n");
  return parse(await exchange(connection, new TextEncoder().encode(request)));
}

function exchange(connection: TcpConnection, request: Uint8Array): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    const parts: Uint8Array[] = [];
    let length = 0;
    const timer = setTimeout(
      () => connection.abort(new Error(`No whole answer within ${TIMEOUT_MS / 1000} s`)),
      TIMEOUT_MS,
    );
    const end = (): void => {
      clearTimeout(timer);
      connection.onReadable = connection.onClosed = connection.onConnected = null;
      const all = new Uint8Array(length);
      let at = 0;
      for (const part of parts) {
        all.set(part, at);
        at += part.length;
      }
      resolve(all);
    };
    connection.onConnected = () => void connection.write(request);
    connection.onReadable = () => {
      for (let part = connection.read(); part; part = connection.read()) {
        parts.push(part);
        length += part.length;
        if (length > HEAD_MAX_LEN + BODY_MAX_LEN) {
          connection.abort();
          return end();
        }
      }
      if (!connection.ended) return;
      connection.shutdown();
      end();
    };
    connection.onClosed = (error) => {
      clearTimeout(timer);
      if (error) reject(error);
      else end();
    };
  });
}

/** @throws Error when it is no HTTP */
export function parse(bytes: Uint8Array): HttpAnswer {
  const end = headEnd(bytes);
  if (end < 0)
    throw new Error(
      bytes.length === 0 ? "The server closed the connection without an answer" : "The answer is not HTTP",
    );
  const [status, ...headers] = new TextDecoder("latin1").decode(bytes.subarray(0, end)).split("\r\n");
  if (!/^HTTP\/1\.[01] \d{3}/.test(status)) throw new Error("The answer is not HTTP/1.1");
  const chunked = headers.some((header) => /^transfer-encoding:\s*chunked\s*$/i.test(header));
  const rest = bytes.subarray(end + 4);
  const body = chunked ? unchunk(rest) : rest;
  return { status, headers, body: body.slice(0, BODY_MAX_LEN), cut: body.length > BODY_MAX_LEN };
}

function headEnd(bytes: Uint8Array): number {
  for (let i = 0; i + 3 < Math.min(bytes.length, HEAD_MAX_LEN); i++) {
    if (bytes[i] === 13 && bytes[i + 1] === 10 && bytes[i + 2] === 13 && bytes[i + 3] === 10) return i;
  }
  return -1;
}

/** RFC 9112 §7.1; what is cut off in the middle ends there. */
function unchunk(bytes: Uint8Array): Uint8Array {
  const body = new Uint8Array(bytes.length);
  let length = 0;
  for (let at = 0; at < bytes.length;) {
    let lineEnd = at;
    while (lineEnd < bytes.length && bytes[lineEnd] !== 10) lineEnd++;
    const size = Number.parseInt(new TextDecoder("latin1").decode(bytes.subarray(at, lineEnd)), 16);
    if (!(size > 0)) break;
    const chunk = bytes.subarray(lineEnd + 1, lineEnd + 1 + size);
    body.set(chunk, length);
    length += chunk.length;
    at = lineEnd + 1 + size + 2;
  }
  return body.subarray(0, length);
}
