// Forwards both ways, TCP, UDP and unix sockets; standard input and output; the SNI door.

import assert from "node:assert";
import { createSocket } from "node:dgram";
import { existsSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { connect as connectTls, createServer as createTlsServer } from "node:tls";
import { suite } from "uvu";
import { serverName } from "../../host/proxy/client-hello.ts";
import { SniDoor } from "../../host/proxy/sni.ts";
import { Tally } from "../../host/proxy/tally.ts";
import { UdpSessions } from "../../host/proxy/udp-sessions.ts";
import { silentLogger } from "../../host/log.ts";
import { certificate } from "./proxy-certificate.ts";
import { Raw, World, curl, sleep, waitFor } from "./proxy-fixture.ts";
import { worlds } from "./proxy-worlds.ts";

for (const [where, open] of worlds) {
  const both = suite(`forwards, ${where}`);
  let world: World;

  both.before(async () => {
    world = await open();
    world.names["origin.test"] = [world.host];
  });
  both.after(() => world.close());

  both("TCP from here, by address, by name, and from a unix socket", async () => {
    const { port } = await world.http((_, res) => res.end("over there"));
    const path = join(world.folder, "forward.sock");
    const running = await world.proxy([
      ["forward", `0=${world.host}:${port}`],
      ["forward", `127.0.0.1:0=origin.test:${port}`],
      ["forward", `unix:${path}=${world.host}:${port}`],
    ]);
    const [first, second] = running.proxy.addresses;
    for (const { address } of [first, second]) assert.equal((await curl(`http://${address}/`)).out, "over there");
    assert.equal((await curl("--unix-socket", path, "http://any/")).out, "over there");
    await running.proxy.stop();
    assert.equal(existsSync(path), false);
  });

  both("TCP from there, to a port and to a unix socket here", async () => {
    const path = join(world.folder, "reverse.sock");
    const here = createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket));
    await new Promise<void>((resolve) => here.listen(path, resolve));
    const innerPort = await freePort();
    const running = await world.proxy([["reverse", `${innerPort}=unix:${path}`]]);
    const near = world.near();
    const socket = world.far.connect({ host: near, port: innerPort, allowHalfOpen: true });
    await socket.opened;
    const data = Buffer.alloc(500_000, "back and forth ");
    socket.end(data);
    const chunks: Buffer[] = [];
    for await (const chunk of socket) chunks.push(chunk as Buffer);
    assert.equal(Buffer.concat(chunks).equals(data), true);
    assert.ok(running.metric("wasmguard_proxy_sent_bytes") >= data.length, "counted");
    here.close();
    await running.proxy.stop();
  });

  both("UDP from here: two clients, each with its own answers", async () => {
    const port = await world.udpEcho();
    const running = await world.proxy([["udp-forward", `0=origin.test:${port}`]]);
    const clients = [createSocket("udp4"), createSocket("udp4")];
    const got: string[][] = [[], []];
    clients.forEach((client, i) => {
      client.on("message", (message) => got[i].push(message.toString()));
      client.send(`from ${i}`, running.port("udp-forward"), "127.0.0.1");
    });
    await waitFor("both answers", () => got[0].length === 1 && got[1].length === 1);
    clients[0].send(Buffer.alloc(1200, "x"), running.port("udp-forward"), "127.0.0.1");
    await waitFor("a long one", () => got[0].length === 2);
    assert.deepEqual(got, [["echo from 0", `echo ${"x".repeat(1200)}`], ["echo from 1"]]);
    assert.equal(running.metric("wasmguard_proxy_open_connections"), 2);
    for (const client of clients) client.close();
    await running.proxy.stop();
  });

  both("UDP from there", async () => {
    const here = createSocket("udp4");
    here.on("message", (message, from) => here.send(`got ${message}`, from.port, from.address));
    await new Promise<void>((resolve) => here.bind(0, "127.0.0.1", resolve));
    const innerPort = await freePort();
    const running = await world.proxy([["udp-reverse", `${innerPort}=127.0.0.1:${here.address().port}`]]);
    const there = world.far.datagram();
    const got: string[] = [];
    there.on("message", (message: Uint8Array) => got.push(Buffer.from(message).toString()));
    await waitFor("an answer", async () => {
      await there.send(Buffer.from("ping"), innerPort, world.near());
      await sleep(50);
      return got.length > 0;
    });
    assert.equal(got[0], "got ping");
    there.close();
    here.close();
    await running.proxy.stop();
  });

  both("standard input and output, as ssh uses them", async () => {
    const port = await world.serve((socket) => {
      socket.write("SSH-2.0-test\r\n");
      socket.pipe(socket);
    });
    const [input, output] = [new PassThrough(), new PassThrough()];
    const running = await world.proxy([["stdio", `${world.host}:${port}`]], { streams: () => ({ input, output }) });
    const data = Buffer.alloc(300_000, "command ");
    input.end(data);
    const chunks: Buffer[] = [];
    for await (const chunk of output) chunks.push(chunk as Buffer);
    assert.equal(Buffer.concat(chunks).toString(), `SSH-2.0-test\r\n${data}`);
    assert.equal(await running.proxy.stdioEnded, undefined);
    await running.proxy.stop();
  });

  both.run();
}

/** Nobody listens on it just now. */
function freePort(): Promise<number> {
  const server = createServer();
  return new Promise((resolve) => {
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}

const edges = suite("forwards: edges");

edges("who cannot be reached: the client hears a reset, and it is counted", async () => {
  const world = new World();
  try {
    const running = await world.proxy([["forward", "0=nowhere.test:1"]]);
    const client = new Raw(running.port("forward"));
    await waitFor("the reset", () => client.closed);
    assert.equal(running.metric("wasmguard_proxy_failures", { reason: "no-such-name" }), 1);

    const innerPort = await freePort();
    const nobody = await freePort();
    const reverse = await world.proxy([["reverse", `${innerPort}=127.0.0.1:${nobody}`]]);
    await waitFor("the port in the tunnel", () => world.tunnels[1].servers.size === 1);
    await sleep(50);
    const socket = world.far.connect({ host: "127.0.0.1", port: innerPort });
    let code = "";
    socket.on("error", (error: NodeJS.ErrnoException) => (code = error.code ?? ""));
    socket.resume();
    await waitFor("the end", () => socket.destroyed);
    assert.equal(code, "ECONNRESET");
    assert.equal(reverse.metric("wasmguard_proxy_failures", { reason: "refused" }), 1);
  } finally {
    await world.close();
  }
});

edges("an abandoned unix socket is taken over, one in use or another file is not", async () => {
  const world = new World();
  try {
    const port = await world.echo();
    const path = join(world.folder, "left.sock");
    const running = await world.proxy([["forward", `unix:${path}=127.0.0.1:${port}`]]);
    await assert.rejects(
      world.proxy([["forward", `unix:${path}=127.0.0.1:${port}`]]),
      /Cannot listen on unix:.*left.sock: the address is in use/,
    );
    await running.proxy.stop();
    writeFileSync(path, "precious");
    await assert.rejects(world.proxy([["forward", `unix:${path}=127.0.0.1:${port}`]]), /the address is in use/);
    assert.equal(existsSync(path), true);
  } finally {
    await world.close();
  }
});

edges("UDP sessions: the one that was silent longest goes first, and all go in time", async () => {
  const tally = new Tally();
  const opened: { closed: boolean; sent: string[]; answer: (payload: Uint8Array) => void }[] = [];
  const replies: string[] = [];
  const sessions = new UdpSessions({
    openBack: async (onMessage) => {
      const back = { closed: false, sent: [] as string[], answer: onMessage };
      opened.push(back);
      return {
        send: async (payload) => void back.sent.push(Buffer.from(payload).toString()),
        close: () => void (back.closed = true),
      };
    },
    reply: (payload, port, address) => void replies.push(`${address} ${port} ${Buffer.from(payload)}`),
    tally,
    max: 2,
    idleMs: 300,
    onFailure: () => {},
  });
  const from = (port: number, text: string): void => sessions.receive(Buffer.from(text), "192.0.2.1", port);
  from(1, "a");
  from(2, "b");
  from(1, "c");
  from(3, "d"); // 2 was silent longest
  await sleep(1);
  assert.deepEqual(
    opened.map(({ sent }) => sent),
    [["a", "c"], [], ["d"]],
  );
  assert.deepEqual(
    opened.map(({ closed }) => closed),
    [false, true, false],
  );
  opened[0].answer(Buffer.from("x"));
  opened[1].answer(Buffer.from("too late"));
  assert.deepEqual(replies, ["192.0.2.1 1 x"]);
  await waitFor("all to be idle", () => sessions.size === 0);
  assert.deepEqual(
    opened.map(({ closed }) => closed),
    [true, true, true],
  );
  assert.deepEqual([tally.open, tally.accepted, tally.failures.get("limit")], [0, 3, 1]);
  for (let i = 0; i < 100; i++) from(9, "flood"); // before the session's socket stands
  assert.equal(tally.drops.get("queue-full"), 36);
  sessions.close();
});

edges("UDP: only the target answers a client", async () => {
  const world = new World();
  try {
    const port = await world.udpEcho();
    const running = await world.proxy([["udp-forward", `0=127.0.0.1:${port}`]]);
    const client = createSocket("udp4");
    const got: string[] = [];
    client.on("message", (message) => got.push(message.toString()));
    client.send("one", running.port("udp-forward"), "127.0.0.1");
    await waitFor("an answer", () => got.length === 1);
    const stranger = createSocket("udp4");
    const [session] = world.tunnels[0].datagrams;
    stranger.send("forged", session.port, "127.0.0.1");
    await sleep(50);
    client.send("two", running.port("udp-forward"), "127.0.0.1");
    await waitFor("a second answer", () => got.length === 2);
    assert.deepEqual(got, ["echo one", "echo two"]);
    client.close();
    stranger.close();
  } finally {
    await world.close();
  }
});

edges("UDP to an address that is none of a host: each datagram is dropped, and no session is left", async () => {
  const world = new World();
  try {
    const innerPort = await freePort();
    const running = await world.proxy([["udp-reverse", `${innerPort}=255.255.255.255:9`]]);
    const there = world.far.datagram();
    await waitFor("a drop", async () => {
      await there.send(Buffer.from("ping"), innerPort, world.near());
      await sleep(20);
      return running.metric("wasmguard_proxy_dropped_datagrams") > 0;
    });
    there.close();
    if ("Deno" in globalThis) return; // its connect() never fails: the sending does, each time
    assert.ok(running.metric("wasmguard_proxy_dropped_datagrams", { reason: "not-allowed" }) > 0, "why");
    await waitFor("no session", () => running.metric("wasmguard_proxy_open_connections") === 0);
  } finally {
    await world.close();
  }
});

edges.run();

const sni = suite("SNI door");

sni("a TLS client that knows no proxy reaches the server that it names", async () => {
  const world = new World();
  const { cert, key } = certificate();
  const server = createTlsServer({ cert, key }, (socket) =>
    socket.end(`you asked for ${(socket as { servername?: string }).servername}`),
  );
  const port = await world.serve((socket) => void server.emit("connection", socket));
  world.names["origin.test"] = ["127.0.0.1"];
  const tally = new Tally();
  const tunnel = await world.openTunnel(world.far as never);
  const context = {
    tunnel: () => tunnel,
    log: silentLogger,
    tally,
    maxClients: 10,
    prefer: () => "auto" as const,
    handshakeMs: 500,
  };
  const door = await SniDoor.start({ kind: "sni", bind: { host: "127.0.0.1", port: 0 } }, context, port);
  const doorPort = Number(door.address.split(":")[1]);
  try {
    const socket = connectTls({ port: doorPort, host: "127.0.0.1", servername: "origin.test", ca: cert });
    let text = "";
    for await (const chunk of socket) text += chunk;
    assert.equal(text, "you asked for origin.test");
    for (const bytes of ["GET / HTTP/1.1\r\n\r\n", [22, 3, 1, 0, 5, 2, 0, 0, 1, 0], [22, 3, 1]]) {
      const client = new Raw(doorPort);
      client.send(bytes);
      assert.equal((await client.rest()).length, 0);
      client.close();
    }
    assert.deepEqual([tally.failures.get("protocol"), tally.failures.get("stalled")], [2, 1]);
  } finally {
    await door.stop();
    await world.close();
  }
});

sni("names in any splitting of records; nothing that is cut or made up is believed", async () => {
  const hello = await new Promise<Buffer>((resolve) => {
    const sink = createServer((socket) =>
      socket.once("data", (data) => {
        socket.destroy();
        sink.close();
        resolve(data);
      }),
    );
    sink.listen(0, "127.0.0.1", () => {
      const { port } = sink.address() as { port: number };
      connectTls({ port, host: "127.0.0.1", servername: "some.name.test" }).on("error", () => {});
    });
  });
  assert.equal(serverName(hello), "some.name.test");
  for (let length = 0; length < hello.length; length++)
    assert.equal(serverName(hello.subarray(0, length)), "more", `${length}`);
  const body = hello.subarray(5);
  for (const size of [1, 7, 100]) {
    const records: Buffer[] = [];
    for (let at = 0; at < body.length; at += size) {
      const part = body.subarray(at, at + size);
      records.push(Buffer.from([22, 3, 1, part.length >> 8, part.length & 255]), part);
    }
    assert.equal(serverName(Buffer.concat(records)), "some.name.test", `records of ${size}`);
  }
  // A hello that will be long, in records of a byte each: given up, because each byte would cost another look at all.
  const crumbs = Buffer.concat(Array.from({ length: 4100 }, (_, i) => Buffer.from([22, 3, 1, 0, 1, [1, 0, 0x40][i] ?? 0])));
  assert.equal(serverName(crumbs.subarray(0, 6 * 4000)), "more");
  assert.equal(serverName(crumbs), null);
  let other = 0;
  for (let at = 0; at < hello.length; at++) {
    for (const value of [0, 1, 255]) {
      const bad = Buffer.from(hello);
      bad[at] = value;
      const name = serverName(bad);
      if (name !== "some.name.test") other++;
      assert.ok(name === null || name === "more" || /^[a-z0-9_.-]+$/i.test(name), `${at} = ${value}: ${name}`);
    }
  }
  assert.ok(other > 20, `${other} of the changes matter`);
});

sni.run();
