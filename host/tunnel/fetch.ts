// fetch() through the tunnel, over node:http and node:https with the tunnel's agents: the same Request, Response, redirects
// and abortion as the global one, without its cookies, caches and CORS, which no program has. The global fetch cannot be
// told to take another socket on Deno, and on Node only by a dispatcher of the very undici that it was built with.

import { type Agent, type IncomingMessage, request as requestHttp, type RequestOptions } from "node:http";
import { request as requestHttps } from "node:https";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createBrotliDecompress, createGunzip, createInflate } from "node:zlib";
import { WasmguardError } from "../errors.ts";
import { onAbort } from "./abort.ts";

export interface FetchAgents {
  http: Agent;
  https: Agent;
}

/** Fetch standard, HTTP-redirect fetch, step 5 */
const REDIRECTS_MAX = 20;
const REDIRECT = new Set([301, 302, 303, 307, 308]);
const NULL_BODY = new Set([204, 205, 304]);
/** Fetch standard: what describes the body goes with it; what belongs to one origin stays there. */
const BODY_HEADERS = ["content-encoding", "content-language", "content-location", "content-type", "content-length"];
const ORIGIN_HEADERS = ["authorization", "proxy-authorization", "cookie", "host"];

/** What travels from hop to hop of a redirect. */
interface Hop {
  url: URL;
  method: string;
  headers: Headers;
  /** whole, or a stream that can be sent once; null = none */
  body: Uint8Array | Readable | null;
}

/**
 * As the standard has it. Rejects with a TypeError whose cause has the code (ECONNREFUSED, ENOTFOUND ...), or with the
 * signal's reason.
 */
export async function tunnelFetch(
  agents: FetchAgents,
  input: string | URL | Request,
  init?: RequestInit,
): Promise<Response> {
  const isStream = isStreamBody(input, init);
  // A stream is sent while the answer comes (half duplex): there is no other way here, so nobody has to say it.
  // The signal stays out of it: a Request's own signal only follows the given one, and loosely (it was collected on Deno).
  const request = new Request(input, { ...init, signal: null, ...(isStream && { duplex: "half" }) } as RequestInit);
  const signal = init?.signal ?? (input instanceof Request ? input.signal : new AbortController().signal);
  const { redirect } = request;
  signal.throwIfAborted();
  const hop: Hop = {
    url: new URL(request.url),
    method: request.method,
    headers: new Headers(request.headers),
    body: await readBody(request, isStream),
  };
  for (let redirects = 0; ; redirects++) {
    const message = await send(agents, hop, signal);
    const location = message.headers.location;
    if (!REDIRECT.has(message.statusCode!) || location === undefined || redirect === "manual") {
      return toResponse(message, hop, redirects > 0, signal);
    }
    message.resume();
    if (redirect === "error") {
      throw failed(new WasmguardError("ERR_REDIRECT", `${hop.url.origin} answered with a redirect`));
    }
    if (redirects === REDIRECTS_MAX) {
      throw failed(new WasmguardError("ERR_REDIRECT", `more than ${REDIRECTS_MAX} redirects`));
    }
    follow(hop, message.statusCode!, location);
  }
}

function isStreamBody(input: string | URL | Request, init: RequestInit | undefined): boolean {
  if (init?.body !== undefined && init.body !== null) {
    return init.body instanceof ReadableStream || Symbol.asyncIterator in Object(init.body);
  }
  return input instanceof Request && input.body !== null;
}

async function readBody(request: Request, isStream: boolean): Promise<Hop["body"]> {
  if (request.body === null) return null;
  if (isStream) return Readable.fromWeb(request.body as import("node:stream/web").ReadableStream);
  return new Uint8Array(await request.arrayBuffer());
}

function follow(hop: Hop, status: number, location: string): void {
  const to = parseUrl(location, hop.url);
  if (to.hash === "") to.hash = hop.url.hash;
  if (to.protocol !== "http:" && to.protocol !== "https:") {
    throw failed(new WasmguardError("ERR_REDIRECT", `a redirect to ${to.protocol} cannot be followed`));
  }
  if ((status === 303 && hop.method !== "HEAD") || ((status === 301 || status === 302) && hop.method === "POST")) {
    hop.method = "GET";
    hop.body = null;
    for (const name of BODY_HEADERS) hop.headers.delete(name);
  }
  if (hop.body instanceof Readable) {
    throw failed(new WasmguardError("ERR_REDIRECT", "the body was a stream and cannot be sent again"));
  }
  if (to.origin !== hop.url.origin) for (const name of ORIGIN_HEADERS) hop.headers.delete(name);
  hop.url = to;
}

function parseUrl(text: string, base: URL): URL {
  try {
    return new URL(text, base);
  } catch (error) {
    throw failed(error);
  }
}

function send(agents: FetchAgents, { url, method, headers, body }: Hop, signal: AbortSignal): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const isTls = url.protocol === "https:";
    if (!isTls && url.protocol !== "http:") {
      throw failed(new WasmguardError("ERR_PROTOCOL", `no way to fetch ${url.protocol}`));
    }
    const options: RequestOptions = {
      method,
      headers: toHeaders(headers, body, method),
      agent: isTls ? agents.https : agents.http,
    };
    const outgoing = (isTls ? requestHttps : requestHttp)(url, options);
    const abort = (): void => {
      outgoing.destroy(toError(signal.reason));
      reject(signal.reason);
    };
    const stop = onAbort(signal, abort);
    // Deno 2.9 takes our own end for that of a kept connection, and sends the request once more.
    outgoing.on("socket", (socket) => signal.aborted && socket.destroy());
    outgoing.once("close", stop);
    outgoing.once("response", resolve);
    outgoing.on("error", (error) => reject(signal.aborted ? signal.reason : failed(error)));
    if (body instanceof Readable) {
      pipeline(body, outgoing).catch((error) => outgoing.destroy(error));
    } else {
      outgoing.end(body ?? undefined);
    }
  });
}

function toHeaders(headers: Headers, body: Hop["body"], method: string): Record<string, string> {
  const fields: Record<string, string> = {
    accept: "*/*",
    "accept-encoding": "gzip, deflate, br",
    ...Object.fromEntries(headers),
  };
  if (body instanceof Uint8Array) fields["content-length"] = String(body.length);
  else if (body === null && (method === "POST" || method === "PUT")) fields["content-length"] = "0";
  return fields;
}

function toResponse(message: IncomingMessage, hop: Hop, redirected: boolean, signal: AbortSignal): Response {
  const status = message.statusCode!;
  const headers = new Headers();
  const { rawHeaders } = message;
  for (let i = 0; i < rawHeaders.length; i += 2) headers.append(rawHeaders[i], rawHeaders[i + 1]);
  const isEmpty = hop.method === "HEAD" || NULL_BODY.has(status);
  if (isEmpty) message.resume();
  const body = isEmpty ? null : toBody(decode(message), signal);
  const response = new Response(body, { status, statusText: message.statusMessage, headers });
  Object.defineProperty(response, "url", { value: hop.url.href });
  Object.defineProperty(response, "redirected", { value: redirected });
  return response;
}

function decode(message: IncomingMessage): Readable {
  const coding = message.headers["content-encoding"]?.toLowerCase();
  const create =
    { gzip: createGunzip, "x-gzip": createGunzip, deflate: createInflate, br: createBrotliDecompress }[coding ?? ""];
  if (!create) return message;
  const decoder = create();
  pipeline(message, decoder).catch(() => {}); // the reader of the decoder hears of it
  return decoder;
}

/** A body that asks for more only when it is read, and takes the request down when it is cancelled or aborted. */
function toBody(source: Readable, signal: AbortSignal): ReadableStream<Uint8Array> {
  const bytes = source[Symbol.asyncIterator]() as AsyncIterator<Uint8Array>;
  source.once("close", onAbort(signal, () => void source.destroy(toError(signal.reason))));
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          const { value, done } = await bytes.next();
          if (done) controller.close();
          else controller.enqueue(new Uint8Array(value.buffer as ArrayBuffer, value.byteOffset, value.byteLength));
        } catch (error) {
          throw signal.aborted ? signal.reason : failed(error);
        }
      },
      cancel() {
        source.destroy();
      },
    },
    { highWaterMark: 0 },
  );
}

function toError(reason: unknown): Error {
  return reason instanceof Error ? reason : new Error(String(reason));
}

function failed(cause: unknown): TypeError {
  return new TypeError(`fetch failed: ${(cause as Error).message}`, { cause });
}
