// The HTTP door: CONNECT and absolute-form, by curl, undici, ws and by hand; what it changes in a message and what not.

import assert from "node:assert";
import { createHash } from "node:crypto";
import { Agent, type ClientRequest, request as httpRequest } from "node:http";
import { type Server as TlsServer, createServer as createTlsServer } from "node:https";
import { Readable } from "node:stream";
import { suite } from "uvu";
import { ProxyAgent, fetch } from "undici";
import { WebSocket, WebSocketServer } from "ws";
import { forwarded, requestHeaders } from "../../host/proxy/http-headers.ts";
import { certificate } from "./proxy-certificate.ts";
import { Raw, type RunningProxy, World, curl, sleep, waitFor } from "./proxy-fixture.ts";
import { worlds } from "./proxy-worlds.ts";

for (const [where, open] of worlds) {
  const real = suite(`http proxy, ${where}: clients`);
  let world: World;
  let running: RunningProxy;
  let proxy: string[];
  let tls: TlsServer;

  real.before(async () => {
    world = await open();
    world.names["origin.test"] = [world.host];
    running = await world.proxy([["http", "0"]]);
    proxy = ["--proxy", `http://${running.at("http")}`];
    tls = createTlsServer(certificate(), (req, res) => res.end(`secret ${req.url}`));
  });
  real.after(() => world.close());

  real("curl: plain, a body each way, HTTPS, by name", async () => {
    const { port } = await world.http((req, res) => {
      const hash = createHash("sha256");
      req.on("data", (chunk) => hash.update(chunk));
      req.on("end", () => res.end(`${req.method} ${req.url} ${req.headers.host} ${hash.digest("hex")}`));
    });
    const none = createHash("sha256").digest("hex");
    const get = await curl(...proxy, `http://origin.test:${port}/a?b=c`);
    assert.deepEqual(get, { code: 0, out: `GET /a?b=c origin.test:${port} ${none}`, err: "" });
    const body = Buffer.alloc(3 << 20, "body and soul ");
    const hash = createHash("sha256").update(body).digest("hex");
    const file = world.file(body.toString(), "body");
    for (const how of [["--data-binary"], ["-H", "Transfer-Encoding: chunked", "--data-binary"]]) {
      const post = await curl(...proxy, ...how, `@${file}`, `http://${world.host}:${port}/up`);
      assert.deepEqual(post, { code: 0, out: `POST /up ${world.host}:${port} ${hash}`, err: "" });
    }
    const secret = await world.serve((socket) => void tls.emit("connection", socket));
    const https = await curl(
      ...proxy,
      "--cacert",
      world.file(certificate().cert, "ca.pem"),
      `https://origin.test:${secret}/x`,
    );
    assert.deepEqual(https, { code: 0, out: "secret /x", err: "" });
  });

  real("connections are kept on both sides", async () => {
    const ports = new Set<number | undefined>();
    const { port } = await world.http((req, res) => {
      ports.add(req.socket.remotePort);
      res.end("ok");
    });
    const before = running.metric("wasmguard_proxy_connections");
    const urls = Array.from({ length: 5 }, (_, i) => `http://${world.host}:${port}/${i}`);
    const { code, out } = await curl(...proxy, ...urls);
    assert.deepEqual([code, out], [0, "okokokokok"]);
    assert.equal(running.metric("wasmguard_proxy_connections") - before, 1);
    // Deno's server ends a connection after each answer when it was handed to it by "connection".
    if (!("Deno" in globalThis)) assert.equal(ports.size, 1);
  });

  real("undici's ProxyAgent: fetch, 20 at once, a streamed body", async () => {
    const { port } = await world.http((req, res) => void req.pipe(res));
    for (const proxyTunnel of [true, false]) {
      const dispatcher = new ProxyAgent({ uri: `http://${running.at("http")}`, proxyTunnel });
      const texts = await Promise.all(
        Array.from({ length: 20 }, async (_, i) => {
          const body = Readable.from([`${i} `, Buffer.alloc(10_000, "x")]) as unknown as BodyInit;
          const url = `http://${world.host}:${port}/`;
          const response = await fetch(url, { dispatcher, method: "POST", body, duplex: "half" } as object);
          return response.text();
        }),
      );
      texts.forEach((text, i) => assert.equal(text, `${i} ${"x".repeat(10_000)}`));
      await dispatcher.close();
    }
  });

  real("a WebSocket: through CONNECT, and as an upgrade", async () => {
    const { port, server } = await world.http((_, res) => res.end());
    const sockets = new WebSocketServer({ server });
    sockets.on("connection", (socket) =>
      socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary })),
    );
    for (const absolute of [false, true]) {
      // The other way: the request line of the upgrade itself names the server.
      const finishRequest = (req: ClientRequest): void => {
        req.path = `http://${world.host}:${port}/`;
        req.end();
      };
      const client = absolute
        ? new WebSocket(`ws://${running.at("http")}/`, { finishRequest })
        : new WebSocket(`ws://${world.host}:${port}/`, { agent: new ConnectAgent(running.port("http")) });
      const messages: Buffer[] = [];
      client.on("message", (data: Buffer) => messages.push(data));
      await new Promise((resolve, reject) => client.once("open", resolve).once("error", reject));
      const big = Buffer.alloc(300_000, 7);
      client.send("hello");
      client.send(big);
      await waitFor("both echoes", () => messages.length === 2);
      assert.deepEqual([messages[0].toString(), messages[1].equals(big)], ["hello", true]);
      client.close();
      await new Promise((resolve) => client.once("close", resolve));
    }
    sockets.close();
  });

  real.run();
}

/** Connections through CONNECT, for http.request. */
class ConnectAgent extends Agent {
  readonly #proxyPort: number;

  constructor(proxyPort: number) {
    super();
    this.#proxyPort = proxyPort;
  }

  override createConnection(
    options: { host?: string | null; port?: string | number | null },
    callback?: unknown,
  ): undefined {
    const raw = new Raw(this.#proxyPort);
    const target = `${options.host}:${options.port}`;
    raw.send(`CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n\r\n`);
    void raw.readUntil("\r\n\r\n").then(() => {
      raw.socket.removeAllListeners();
      (callback as (error: null, socket: Raw["socket"]) => void)(null, raw.socket);
    });
    return undefined;
  }
}

const wire = suite("http proxy: the protocol");
let world: World;
let running: RunningProxy;

wire.before(async () => {
  world = new World();
  running = await world.proxy([["http", "0"]]);
});
wire.after(() => world.close());

wire("headers of one hop stay there, all others go on as they were", async () => {
  let seen: string[] = [];
  const { port } = await world.http((req, res) => {
    seen = req.rawHeaders;
    res.writeHead(
      200,
      "Fine",
      [
        ["Set-Cookie", "a=1"],
        ["Set-Cookie", "b=2"],
        ["Keep-Alive", "timeout=9"],
        ["X-Gone", "1"],
        ["Connection", "x-gone"],
        ["X-KEPT", "2"],
        ["Content-Length", "2"],
        ["Date", "now"],
      ].flat(),
    );
    res.end("ok");
  });
  const client = new Raw(running.port("http"));
  client.send(
    `GET http://127.0.0.1:${port}/p HTTP/1.1\r\nhost: other.test\r\nX-Case: A\r\nx-case: B\r\n` +
      "Connection: x-hop, keep-alive\r\nX-Hop: 1\r\nProxy-Connection: keep-alive\r\n" +
      "Proxy-Authorization: Basic eDp5\r\nTE: trailers\r\nUser-Agent: me\r\n\r\n",
  );
  const head = await client.readUntil("\r\n\r\n");
  assert.equal((await client.read(2)).toString(), "ok");
  const pairs = seen.flatMap((name, i) => (i % 2 === 0 ? [`${name}: ${seen[i + 1]}`] : []));
  assert.deepEqual(
    pairs.filter((pair) => !/^connection:/i.test(pair)),
    [`Host: 127.0.0.1:${port}`, "X-Case: A", "X-Case: B", "User-Agent: me", "Via: 1.1 wasmguard"],
  );
  assert.equal(head.split("\r\n")[0], "HTTP/1.1 200 Fine");
  assert.ok(/\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n/.test(head), head);
  assert.ok(/\r\nX-KEPT: 2\r\n/.test(head) && /\r\nVia: 1.1 wasmguard\r\n/.test(head), head);
  assert.ok(!/x-gone|timeout=9/i.test(head), head);
  client.close();
});

wire("header lists, by themselves", () => {
  assert.deepEqual(forwarded(["Via", "1.0 a", "Upgrade", "h2c", "Connection", "close, X-A", "x-a", "1", "B", "2"]), [
    "B",
    "2",
    "Via",
    "1.0 a, 1.1 wasmguard",
  ]);
  assert.deepEqual(requestHeaders(["Host", "x", "Transfer-Encoding", "chunked", "A", "1"], "h:1"), [
    "Host",
    "h:1",
    "A",
    "1",
    "Via",
    "1.1 wasmguard",
    "Transfer-Encoding",
    "chunked",
  ]);
  const upgrade = forwarded(["Connection", "Upgrade, HTTP2-Settings", "Upgrade", "h2c", "HTTP2-Settings", "x"], {
    upgrade: true,
  });
  assert.deepEqual(upgrade, [
    "Upgrade",
    "h2c",
    "HTTP2-Settings",
    "x",
    "Connection",
    "Upgrade, http2-settings",
    "Via",
    "1.1 wasmguard",
  ]);
});

wire("the body of a GET stays a body: no smuggling", async () => {
  const urls: string[] = [];
  const { port } = await world.http((req, res) => {
    urls.push(`${req.method} ${req.url}`);
    req.resume().on("end", () => res.end("x"));
  });
  const inner = `GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n`;
  const client = new Raw(running.port("http"));
  client.send(
    `GET http://127.0.0.1:${port}/1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n` +
      `${inner.length.toString(16)}\r\n${inner}\r\n0\r\n\r\n`,
  );
  await client.readUntil("\r\n\r\n");
  const second = new Raw(running.port("http"));
  second.send(`GET http://127.0.0.1:${port}/2 HTTP/1.1\r\nHost: a\r\nContent-Length: ${inner.length}\r\n\r\n${inner}`);
  await second.readUntil("\r\n\r\n");
  const third = new Raw(running.port("http"));
  third.send(
    `POST http://127.0.0.1:${port}/3 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n` +
      `Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
  );
  assert.ok((await third.rest()).toString().startsWith("HTTP/1.1 400 "), "both lengths");
  const fourth = new Raw(running.port("http"));
  fourth.send(
    `GET http://127.0.0.1:${port}/4 HTTP/1.1\r\nHost: a\r\nConnection: Content-Length\r\n` +
      `Content-Length: ${inner.length}\r\n\r\n${inner}`,
  );
  await fourth.readUntil("\r\n\r\n");
  await sleep(50);
  assert.deepEqual(urls, ["GET /1", "GET /2", "GET /4"]);
  const both = ["Content-Length", "3", "Transfer-Encoding", "chunked"];
  assert.deepEqual(forwarded(both), ["Via", "1.1 wasmguard"]);
  for (const each of [client, second, third, fourth]) each.close();
});

wire("what is wrong gets a status and a plain reason", async () => {
  const refused = await world.serve(() => {});
  await world.closers.at(-1)!();
  const cases: [string, number, RegExp][] = [
    ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, /this is a proxy/],
    ["GET https://a.test/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, /https goes by CONNECT/],
    ["GET http://user:pw@a.test/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, /no port|name/],
    ["GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", 400, /no address/],
    [`GET http://127.0.0.1:${refused}/ HTTP/1.1\r\nHost: a\r\n\r\n`, 502, /connection refused/],
    [`POST http://127.0.0.1:${refused}/ HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n`, 502, /connection refused/],
    ["GET http://nowhere.test/ HTTP/1.1\r\nHost: a\r\n\r\n", 502, /nowhere.test: no such name/],
    ["CONNECT nowhere.test:443 HTTP/1.1\r\nHost: a\r\n\r\n", 502, /nowhere.test:443: no such name/],
    [`CONNECT 127.0.0.1:${refused} HTTP/1.1\r\nHost: a\r\n\r\n`, 502, /connection refused/],
    ["CONNECT 127.0.0.1:0 HTTP/1.1\r\nHost: a\r\n\r\n", 400, /no port in 1/],
    ["CONNECT a:b:c HTTP/1.1\r\nHost: a\r\n\r\n", 400, /./],
    ["nonsense\r\n\r\n", 400, /not an HTTP request/],
  ];
  for (const [text, status, reason] of cases) {
    const client = new Raw(running.port("http"));
    client.send(text);
    const head = await client.readUntil("\r\n\r\n");
    assert.equal(head.slice(0, 13), `HTTP/1.1 ${status} `, text);
    assert.match((await client.readUntil("\n")).toString(), reason, text);
    client.close();
  }
});

wire("an upgrade that the server does not want is an answer; one with a body is refused", async () => {
  const { port } = await world.http((_, res) => res.writeHead(200, { "X-Plain": "yes" }).end("plain"));
  const client = new Raw(running.port("http"));
  client.send(`GET http://127.0.0.1:${port}/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: strange\r\n\r\n`);
  const text = (await client.rest()).toString();
  assert.ok(text.startsWith("HTTP/1.1 200 OK\r\n") && /X-Plain: yes/.test(text) && text.includes("plain"), text);
  const second = new Raw(running.port("http"));
  second.send(
    `POST http://127.0.0.1:${port}/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n` +
      "Upgrade: h2c\r\nContent-Length: 1\r\n\r\nx",
  );
  assert.ok((await second.rest()).toString().startsWith("HTTP/1.1 400 "), "a body");
  client.close();
  second.close();
});

wire("Expect: 100-continue is the server's to answer", async () => {
  const { port, server } = await world.http((req, res) => void req.resume().on("end", () => res.end("taken")));
  server.on("checkContinue", (req, res) => {
    if (req.url === "/no") return void res.writeHead(417, { Connection: "close" }).end();
    res.writeContinue();
    server.emit("request", req, res);
  });
  const ask = (path: string): Promise<[boolean, number | undefined]> =>
    new Promise((resolve, reject) => {
      let continued = false;
      const req = httpRequest({
        host: "127.0.0.1",
        port: running.port("http"),
        path: `http://127.0.0.1:${port}${path}`,
        method: "POST",
        headers: { Expect: "100-continue", "Content-Length": 4 },
      });
      req.on("continue", () => {
        continued = true;
        req.end("body");
      });
      req.on("response", (res) => {
        res.resume();
        resolve([continued, res.statusCode]);
        if (!continued) req.destroy();
      });
      req.on("error", reject);
      req.flushHeaders();
    });
  assert.deepEqual(await ask("/yes"), [true, 200]);
  assert.deepEqual(await ask("/no"), [false, 417]);
});

wire("a server that breaks off, a client that goes away", async () => {
  let gone = 0;
  const { port } = await world.http((req, res) => {
    res.on("close", () => void gone++);
    res.writeHead(200, { "Content-Length": 1000 });
    res.write("first");
    if (req.url === "/break") setTimeout(() => req.socket.destroy(), 20);
  });
  const broken = await curl("--proxy", `http://${running.at("http")}`, `http://127.0.0.1:${port}/break`);
  assert.notEqual(broken.code, 0, "a part is not the whole");
  const client = new Raw(running.port("http"));
  client.send(`GET http://127.0.0.1:${port}/wait HTTP/1.1\r\nHost: a\r\n\r\n`);
  await client.readUntil("first");
  client.close();
  await waitFor("the server to hear of it", () => gone === 2);
});

wire("a kept connection that the server closes meanwhile: asked again, once", async () => {
  let count = 0;
  const { port, server } = await world.http((_, res) => {
    count++;
    res.end("ok");
  });
  server.keepAliveTimeout = 60_000;
  const sockets: { destroy(): void }[] = [];
  server.on("connection", (socket) => sockets.push(socket));
  const url = `http://127.0.0.1:${port}/`;
  const proxy = ["--proxy", `http://${running.at("http")}`];
  assert.equal((await curl(...proxy, url)).out, "ok");
  for (const socket of sockets.splice(0)) socket.destroy();
  const answers = await Promise.all([curl(...proxy, url), curl(...proxy, url)]);
  assert.deepEqual(
    answers.map(({ out }) => out),
    ["ok", "ok"],
  );
  assert.equal(count, 3);
});

wire("an answer that no server may give is a 502, and nobody's end", async () => {
  const answers = ["200 \u0001OK", "099 X", "000 X", "101 Other\r\nConnection: upgrade\r\nUpgrade: x"];
  for (const answer of answers) {
    const port = await world.serve((socket) => {
      socket.on("data", () => socket.write(`HTTP/1.1 ${answer}\r\nContent-Length: 2\r\n\r\nhi`));
    });
    const client = new Raw(running.port("http"));
    client.send(`GET http://127.0.0.1:${port}/ HTTP/1.1\r\nHost: a\r\n\r\n`);
    assert.match(await client.readUntil("\r\n\r\n"), /^HTTP\/1\.1 502 /, JSON.stringify(answer));
    client.close();
  }
});

wire("requests in a row without waiting: a few are answered, in order; many end their client", async () => {
  let open = 0;
  const { port } = await world.http((req, res) => {
    open++;
    if (req.url !== "/wait") res.end(req.url);
  });
  const ask = (path: string) => `GET http://127.0.0.1:${port}${path} HTTP/1.1\r\nHost: a\r\n\r\n`;
  const polite = new Raw(running.port("http"));
  for (let round = 0; round < 5; round++) {
    polite.send(...Array.from({ length: 8 }, (_, i) => ask(`/${round}.${i}`)));
    for (let i = 0; i < 8; i++) await polite.readUntil(`\r\n\r\n/${round}.${i}`);
  }
  open = 0;
  const before = running.metric("wasmguard_proxy_failures", { reason: "limit" });
  const flood = new Raw(running.port("http"));
  flood.send(ask("/wait").repeat(500));
  await waitFor("its end", () => flood.over);
  await sleep(50);
  assert.ok(open <= 16, `${open} connections for one client`);
  assert.equal(running.metric("wasmguard_proxy_failures", { reason: "limit" }) - before, 1);
  for (const each of [polite, flood]) each.close();
});

wire.run();

const guarded = suite("http proxy: login, TLS, limits");

guarded("407 with a challenge; a right login; nothing of it goes on", async () => {
  const world = new World();
  try {
    const running = await world.proxy([["http", "alice:s3:cret@0"]]);
    const { port } = await world.http((req, res) => res.end(JSON.stringify(req.headers)));
    const url = `http://127.0.0.1:${port}/`;
    const proxy = (login: string): string[] => ["--proxy", `http://${login}${running.at("http")}`];
    for (const login of ["", "alice:wrong@", "bob:s3%3Acret@", "alice:@"]) {
      for (const more of [[], ["-p"], ["--data", "x=1"]]) {
        const { out, code } = await curl(...proxy(login), ...more, "-w", "%{http_code} %{http_connect}", url);
        assert.ok(out.includes("407"), `${login} ${more}: ${code} ${out}`);
      }
    }
    const good = await curl(...proxy("alice:s3%3Acret@"), url);
    assert.ok(good.out.includes('"via":"1.1 wasmguard"') && !good.out.includes("authorization"), good.out);
    assert.ok((await curl(...proxy("alice:s3%3Acret@"), "-p", url)).out.startsWith("{"), "CONNECT");
    const raw = new Raw(running.port("http"));
    raw.send(`GET ${url} HTTP/1.1\r\nHost: a\r\n\r\n`);
    assert.match(
      await raw.readUntil("\r\n\r\n"),
      /\r\nProxy-Authenticate: Basic realm="wasmguard", charset="UTF-8"\r\n/,
    );
    raw.close();
    assert.ok(running.metric("wasmguard_proxy_failures", { reason: "login" }) >= 12, "counted");
  } finally {
    await world.close();
  }
});

guarded("CertFile and KeyFile: the door itself is TLS", async () => {
  const world = new World();
  try {
    const { cert, key } = certificate();
    const files = `CertFile = ${world.file(cert, "cert.pem")}\nKeyFile = ${world.file(key, "key.pem")}\n`;
    const running = await world.proxy([], { conf: `${world.conf()}\n[http]\nBindAddress = 127.0.0.1:0\n${files}` });
    const { port } = await world.http((_, res) => res.end("inside"));
    const proxy = [
      "--proxy",
      `https://localhost:${running.port("http")}`,
      "--proxy-cacert",
      world.file(cert, "ca.pem"),
    ];
    for (const how of [[], ["-p"]]) {
      const { code, out, err } = await curl(...proxy, ...how, `http://127.0.0.1:${port}/`);
      assert.deepEqual([code, out, err], [0, "inside", ""]);
    }
    const none = `CertFile = ${world.folder}/none\nKeyFile = x\n`;
    const missing = `${world.conf()}\n[http]\nBindAddress = 127.0.0.1:0\n${none}`;
    await assert.rejects(world.proxy([], { conf: missing }), /Cannot read CertFile .*none/);
  } finally {
    await world.close();
  }
});

guarded("headers that do not end are ended", async () => {
  const world = new World();
  try {
    const running = await world.proxy([["http", "0"]], { handshakeMs: 500 });
    const slow = new Raw(running.port("http"));
    slow.send("GET http://127.0.0.1:1/ HTTP/1.1\r\n");
    const drip = setInterval(() => slow.send("X: y\r\n"), 50);
    world.closers.push(() => clearInterval(drip));
    const endless = new Raw(running.port("http"));
    endless.send(`GET http://127.0.0.1:1/ HTTP/1.1\r\nX: ${"y".repeat(100_000)}`);
    await waitFor("both to be ended", () => slow.over && endless.over);
    slow.close();
    endless.close();
    await sleep(20);
    assert.equal(running.metric("wasmguard_proxy_open_connections"), 0);
  } finally {
    await world.close();
  }
});

guarded.run();
