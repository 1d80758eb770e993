// HTTP through a tunnel with the libraries that people use: node:http and node:https with their agents, undici, ws, and our
// own fetch. The servers are Node's own, behind the other tunnel.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer, get, type IncomingMessage, type Server } from "node:http";
import { createServer as createTlsServer, get as getTls } from "node:https";
import { gzipSync } from "node:zlib";
import { suite } from "uvu";
import { Agent as UndiciAgent, fetch as undiciFetch } from "undici";
import { WebSocket, WebSocketServer } from "ws";
import type { TunnelServer } from "../../host/tunnel/types.ts";
import { selfSigned } from "./certificate.ts";
import { type NameServer, startNameServer } from "./nameserver.ts";
import { digest, openPair, type Pair, pattern, rejection, RIGHT, RIGHT6, until } from "./tunnels.ts";

const NAME = "shop.test";
const BULK = 3 << 20;

const http = suite("tunnel: http");
const tls = selfSigned(NAME, RIGHT);
let pair: Pair;
let names: NameServer;
let plain: TunnelServer;
let secure: TunnelServer;
let connections = 0;
const server: Server = createServer((request, response) => void answer(request, response));
const tlsServer = createTlsServer(tls, (request, response) => response.end(`secret ${request.url}`));

async function answer(request: IncomingMessage, response: import("node:http").ServerResponse): Promise<void> {
  const { pathname } = new URL(request.url!, "http://x");
  if (pathname === "/bulk") {
    for (const block of pattern(BULK)) if (!response.write(block)) await once(response, "drain");
    response.end();
  } else if (pathname === "/digest") {
    const hash = createHash("sha256");
    for await (const chunk of request) hash.update(chunk as Uint8Array);
    response.setHeader("x-length", request.headers["content-length"] ?? "chunked");
    response.end(`${request.method} ${hash.digest("hex")}`);
  } else if (pathname.startsWith("/redirect/")) {
    const status = Number(pathname.slice(10));
    response.writeHead(status, { location: `/digest?${status}` }).end("elsewhere");
  } else if (pathname === "/away") {
    response.writeHead(302, { location: `http://${NAME}:${plain.port}/headers` }).end();
  } else if (pathname === "/loop") {
    response.writeHead(302, { location: "/loop" }).end();
  } else if (pathname === "/headers") {
    response.setHeader("set-cookie", ["a=1", "b=2"]);
    response.end(JSON.stringify(request.headers));
  } else if (pathname === "/gzip") {
    response.setHeader("content-encoding", "gzip");
    response.end(gzipSync("pressed ".repeat(1000)));
  } else if (pathname === "/empty") {
    response.writeHead(204).end();
  } else if (pathname === "/never") {
    request.on("error", () => {});
  } else if (pathname === "/drip") {
    response.write("first");
  } else if (pathname === "/cut") {
    response.writeHead(200, { "content-length": "1000" });
    response.write("half");
    setTimeout(() => response.destroy(), 30);
  } else {
    response.end(`hello ${request.url}`);
  }
}

http.before(async () => {
  pair = await openPair({ left: { dns: [RIGHT, "shop.example"] } });
  names = startNameServer(pair.right, { [NAME]: { a: [RIGHT], aaaa: [RIGHT6] }, "six.test": { aaaa: [RIGHT6] } });
  server.on("connection", () => connections++);
  plain = pair.right.serve(server, { port: 80 });
  secure = pair.right.serve(tlsServer, { port: 443 });
});

http.after(async () => {
  await names.close();
  await pair.close();
  server.closeAllConnections();
});

function body(response: IncomingMessage): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = "";
    response.setEncoding("utf8");
    response.on("data", (chunk: string) => (text += chunk)).on("end", () => resolve(text)).on("error", reject);
  });
}

http("node:http: one connection for many requests with the agent, by name and by address", async () => {
  const agent = pair.left.agent({ maxSockets: 1 });
  const before = connections;
  const ask = (url: string): Promise<string> =>
    new Promise((resolve, reject) =>
      void get(url, { agent }, (response) => resolve(body(response))).on("error", reject)
    );
  for (let i = 0; i < 5; i++) assert.equal(await ask(`http://${RIGHT}/${i}`), `hello /${i}`);
  assert.equal(connections - before, 1);
  assert.equal(await ask(`http://${NAME}/by-name`), "hello /by-name");
  assert.equal(await ask(`http://[${RIGHT6}]/six`), "hello /six");
  const error = await rejection(ask("http://nobody.test/"));
  assert.equal(error.code, "ENOTFOUND");
  agent.destroy();
});

http("node:https: the certificate is checked against the name", async () => {
  const agent = pair.left.httpsAgent({ ca: tls.cert });
  const ask = (url: string): Promise<string> =>
    new Promise((resolve, reject) =>
      void getTls(url, { agent }, (response) => resolve(body(response))).on("error", reject)
    );
  assert.equal(await ask(`https://${NAME}/a`), "secret /a");
  assert.equal(await ask(`https://${RIGHT}/b`), "secret /b");
  await rejection(ask(`https://[${RIGHT6}]/c`)); // not in the certificate
  agent.destroy();
  const strict = pair.left.httpsAgent();
  const unknown = new Promise((resolve, reject) =>
    void getTls(`https://${NAME}/`, { agent: strict }, resolve).on("error", reject)
  );
  await rejection(unknown);
  strict.destroy();
});

http("undici: fetch with a dispatcher, plain and TLS", async () => {
  const dispatcher = new UndiciAgent({ connect: pair.left.connector({ ca: tls.cert }) });
  for (let i = 0; i < 3; i++) {
    assert.equal(await (await undiciFetch(`http://${NAME}/${i}`, { dispatcher })).text(), `hello /${i}`);
  }
  assert.equal(await (await undiciFetch(`https://${NAME}/x`, { dispatcher })).text(), "secret /x");
  const bulk = new Uint8Array(await (await undiciFetch(`http://${RIGHT}/bulk`, { dispatcher })).arrayBuffer());
  assert.equal(digest([bulk]), digest(pattern(BULK)));
  const error = await rejection(undiciFetch(`http://${RIGHT}:90/`, { dispatcher }));
  assert.equal((error.cause as { code: string }).code, "ECONNREFUSED");
  await dispatcher.close();
});

http("ws: a WebSocket client and server, each inside its tunnel", async () => {
  const sockets = new WebSocketServer({ noServer: true });
  const upgrades = createServer().on("upgrade", (request, socket, head) => {
    sockets.handleUpgrade(
      request,
      socket,
      head,
      (client) => client.on("message", (data, binary) => client.send(data, { binary })),
    );
  });
  const listening = pair.right.serve(upgrades, { port: 0 });
  const createConnection = () => pair.left.connect({ host: RIGHT, port: listening.port }) as never;
  const client = new WebSocket(`ws://${RIGHT}:${listening.port}/`, { createConnection });
  await once(client, "open");
  const message = Buffer.concat([...pattern(300_000)]);
  client.send(message);
  const [echo] = (await once(client, "message")) as [Buffer];
  assert.equal(digest([echo]), digest([message]));
  client.close();
  await once(client, "close");
  await listening.close();
  sockets.close();
});

http("tunnel.fetch: answers as of the global one", async () => {
  const response = await pair.left.fetch(`http://${NAME}/hello?x=1`);
  assert.deepEqual([response.status, response.ok, response.redirected, response.url], [
    200,
    true,
    false,
    `http://${NAME}/hello?x=1`,
  ]);
  assert.equal(await response.text(), "hello /hello?x=1");
  const headers = await pair.left.fetch(`http://${NAME}/headers`, { headers: { "x-mine": "yes" } });
  assert.deepEqual(headers.headers.getSetCookie(), ["a=1", "b=2"]);
  assert.equal(((await headers.json()) as Record<string, string>)["x-mine"], "yes");
  assert.equal(await (await pair.left.fetch(`http://${NAME}/gzip`)).text(), "pressed ".repeat(1000));
  const empty = await pair.left.fetch(`http://${NAME}/empty`);
  assert.deepEqual([empty.status, empty.body], [204, null]);
  assert.equal(await (await pair.left.fetch(`http://${NAME}/bulk`, { method: "HEAD" })).text(), "");
  const bulk = await pair.left.fetch(new Request(`http://${NAME}/bulk`));
  const hash = createHash("sha256");
  for await (const chunk of bulk.body!) hash.update(chunk);
  assert.equal(hash.digest("hex"), digest(pattern(BULK)));
});

http("tunnel.fetch: bodies of every kind", async () => {
  const url = `http://${NAME}/digest`;
  const post = async (value: RequestInit["body"]): Promise<[string, string]> => {
    const response = await pair.left.fetch(url, { method: "POST", body: value });
    return [await response.text(), response.headers.get("x-length")!];
  };
  const expected = (text: string): string => `POST ${digest([Buffer.from(text)])}`;
  assert.deepEqual(await post("text"), [expected("text"), "4"]);
  assert.deepEqual(await post(new TextEncoder().encode("bytes")), [expected("bytes"), "5"]);
  assert.deepEqual(await post(new URLSearchParams({ a: "1 2" })), [expected("a=1+2"), "5"]);
  assert.deepEqual(await post(new Blob(["blob"])), [expected("blob"), "4"]);
  const blocks = pattern(BULK);
  const stream = new ReadableStream<Uint8Array>({
    pull(controller) {
      const { value, done } = blocks.next();
      if (done) controller.close();
      else controller.enqueue(new Uint8Array(value));
    },
  });
  assert.deepEqual(await post(stream), [`POST ${digest(pattern(BULK))}`, "chunked"]);
});

http("tunnel.fetch: redirects as the standard has them", async () => {
  const empty = digest([]);
  const sent = digest([Buffer.from("again")]);
  for (
    const [status, expected] of [[301, `GET ${empty}`], [302, `GET ${empty}`], [303, `GET ${empty}`], [
      307,
      `POST ${sent}`,
    ], [308, `POST ${sent}`]] as const
  ) {
    const response = await pair.left.fetch(`http://${NAME}/redirect/${status}`, { method: "POST", body: "again" });
    assert.deepEqual([await response.text(), response.redirected, response.url], [
      expected,
      true,
      `http://${NAME}/digest?${status}`,
    ]);
  }
  const manual = await pair.left.fetch(`http://${NAME}/redirect/302`, { redirect: "manual" });
  assert.equal(manual.status, 302);
  await manual.text();
  const away = await pair.left.fetch(`http://${RIGHT}/away`, {
    headers: { authorization: "secret", "x-mine": "stays" },
  });
  const headers = (await away.json()) as Record<string, string>;
  assert.deepEqual([headers.authorization, headers["x-mine"], headers.host], [undefined, "stays", NAME]);
  for (const [path, init] of [["/loop", {}], ["/redirect/302", { redirect: "error" }]] as [string, RequestInit][]) {
    const error = await rejection(pair.left.fetch(`http://${NAME}${path}`, init));
    assert.deepEqual([error.name, (error.cause as { code: string }).code], ["TypeError", "ERR_REDIRECT"]);
  }
});

http("tunnel.fetch: errors with their codes, and abortion at every stage", async () => {
  const code = async (promise: Promise<unknown>): Promise<string> =>
    ((await rejection(promise)).cause as { code: string }).code;
  assert.equal(await code(pair.left.fetch(`http://${RIGHT}:90/`)), "ECONNREFUSED");
  assert.equal(await code(pair.left.fetch("http://nobody.test/")), "ENOTFOUND");
  assert.equal((await rejection(pair.left.fetch("ftp://x/"))).name, "TypeError");
  assert.equal((await rejection(pair.left.fetch("nonsense"))).name, "TypeError");
  assert.equal(
    (await rejection(pair.left.fetch(`http://${NAME}/`, { signal: AbortSignal.abort() }))).name,
    "AbortError",
  );
  assert.equal(
    (await rejection(pair.left.fetch(`http://${NAME}/never`, { signal: AbortSignal.timeout(100) }))).name,
    "TimeoutError",
  );
  const controller = new AbortController();
  const dripping = await pair.left.fetch(`http://${NAME}/drip`, { signal: controller.signal });
  const text = rejection(dripping.text());
  controller.abort();
  assert.equal((await text).name, "AbortError");
  await rejection((await pair.left.fetch(`http://${NAME}/cut`)).text());
  const cancelled = await pair.left.fetch(`http://${NAME}/drip`);
  await cancelled.body!.cancel();
});

http("names: families, an answer kept for its time, a name without addresses", async () => {
  assert.deepEqual((await pair.left.resolve(NAME)).sort(), [RIGHT, RIGHT6]);
  assert.deepEqual(await pair.left.resolve(NAME, { family: 6 }), [RIGHT6]);
  assert.deepEqual(await pair.left.resolve("10.1.2.3"), ["10.1.2.3"]);
  const before = names.questions.length;
  assert.deepEqual(await pair.left.resolve(NAME, { family: 4 }), [RIGHT]);
  assert.equal(names.questions.length, before, "it asked again within the time to live");
  assert.equal((await rejection(pair.left.resolve("nobody.test"))).code, "ENOTFOUND");
  assert.equal((await rejection(pair.left.resolve("six.test", { family: 4 }))).code, "ENOTFOUND");
  assert.equal((await rejection(pair.left.resolve(NAME, { signal: AbortSignal.abort() }))).code, "ABORT_ERR");
  assert.equal((await rejection(pair.right.resolve(NAME))).code, "ENOTFOUND"); // it has no name server
  const socket = pair.left.connect({ host: "six.test", port: 80 });
  await socket.opened;
  assert.equal(socket.remoteAddress, RIGHT6);
  socket.destroy();
});

http("nothing is left when clients and servers are gone", async () => {
  await plain.close();
  await secure.close();
  assert.equal(server.listening, false);
  await until("no socket is left", () => pair.right.stats().sockets === 0 && pair.left.stats().sockets === 0, 15_000);
});

http.run();
