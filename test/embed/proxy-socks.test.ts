// The SOCKS5 door: RFC 1928 and 1929 to the byte, real clients, and those that are none.

import assert from "node:assert";
import { type Socket as UdpSocket, createSocket } from "node:dgram";
import * as dnsPacket from "@leichtgewicht/dns-packet";
import { suite } from "uvu";
import { Raw, type RunningProxy, World, curl, sleep, waitFor } from "./proxy-fixture.ts";
import { worlds } from "./proxy-worlds.ts";

const HELLO = [5, 1, 0];
const OK_HELLO = [5, 0];

/** A request as RFC 1928 §4 draws it. */
function request(command: number, host: string, port: number): number[] {
  const address = /^[\d.]+$/.test(host) ? [1, ...host.split(".").map(Number)] : [3, host.length, ...Buffer.from(host)];
  return [5, command, 0, ...address, port >> 8, port & 255];
}

async function greeted(port: number): Promise<Raw> {
  const client = new Raw(port);
  client.send(HELLO);
  assert.deepEqual([...(await client.read(2))], OK_HELLO);
  return client;
}

async function udpClient(): Promise<{ socket: UdpSocket; next: () => Promise<Buffer>; count: () => number }> {
  const socket = createSocket("udp4");
  const queue: Buffer[] = [];
  let count = 0;
  socket.on("message", (message) => {
    count++;
    queue.push(message);
  });
  await new Promise<void>((resolve) => socket.bind(0, "127.0.0.1", resolve));
  return { socket, count: () => count, next: () => waitFor("a datagram", () => queue.shift()) };
}

/** Associates; the control connection stays open. */
async function associate(port: number, announced = request(3, "0.0.0.0", 0)): Promise<{ control: Raw; relay: number }> {
  const control = await greeted(port);
  control.send(announced);
  const reply = await control.read(10);
  assert.deepEqual([...reply.subarray(0, 8)], [5, 0, 0, 1, 127, 0, 0, 1]);
  return { control, relay: reply.readUInt16BE(8) };
}

function udpRequest(host: string, port: number, payload: string | Uint8Array, fragment = 0): Buffer {
  return Buffer.concat([
    Buffer.from([0, 0, fragment, ...request(0, host, port).slice(3)]),
    Buffer.from(payload as string),
  ]);
}

for (const [where, open] of worlds) {
  const real = suite(`socks5, ${where}: clients`);
  let world: World;
  let running: RunningProxy;

  real.before(async () => {
    world = await open();
    world.names["origin.test"] = [world.host];
    running = await world.proxy([["socks5", "0"]]);
  });
  real.after(() => world.close());

  real("curl, by address and by a name that only the tunnel knows", async () => {
    const { port } = await world.http((req, res) => res.end(`hello ${req.headers.host}`));
    const proxy = ["--proxy", `socks5h://${running.at("socks5")}`];
    const byAddress = await curl(...proxy, `http://${world.host}:${port}/`);
    assert.deepEqual(byAddress, { code: 0, out: `hello ${world.host}:${port}`, err: "" });
    const byName = await curl("--socks5-hostname", running.at("socks5"), `http://origin.test:${port}/`);
    assert.deepEqual(byName, { code: 0, out: `hello origin.test:${port}`, err: "" });
  });

  real("4 MB each way at once, every byte, ends as ends", async () => {
    const port = await world.echo();
    const client = await greeted(running.port("socks5"));
    client.send(request(1, world.host, port));
    assert.deepEqual([...(await client.read(10)).subarray(0, 4)], [5, 0, 0, 1]);
    const data = Buffer.alloc(4 << 20, "0123456789abcdefghijklmnopqrstuvwxyz!");
    client.socket.end(data);
    const back = await client.rest();
    assert.equal(back.length, data.length);
    assert.equal(back.equals(data), true);
    assert.ok(running.metric("wasmguard_proxy_sent_bytes") >= data.length, "counted out");
    assert.ok(running.metric("wasmguard_proxy_received_bytes") >= data.length, "counted in");
    client.close();
  });

  real("300 short connections, 50 at a time: none is lost, and none is left", async () => {
    const port = await world.echo();
    let right = 0;
    const one = async (i: number): Promise<void> => {
      const client = new Raw(running.port("socks5"));
      client.send(HELLO, request(1, "origin.test", port));
      await client.read(12);
      client.socket.end(`number ${i}`);
      if ((await client.rest()).toString() === `number ${i}`) right++;
      client.close();
    };
    for (let i = 0; i < 300; i += 50) await Promise.all(Array.from({ length: 50 }, (_, k) => one(i + k)));
    assert.equal(right, 300);
    await waitFor(
      "all to be gone",
      () => running.metric("wasmguard_proxy_open_connections") === 0 && world.open() === 0,
    );
  });

  real("UDP: by address, by name, and a DNS question", async () => {
    const port = await world.udpEcho();
    const { control, relay } = await associate(running.port("socks5"));
    const { socket, next } = await udpClient();
    const header = Buffer.from([0, 0, 0, ...request(0, world.host, port).slice(3)]);
    for (const host of [world.host, "origin.test"]) {
      socket.send(udpRequest(host, port, `to ${host}`), relay, "127.0.0.1");
      assert.deepEqual((await next()).toString("latin1"), header.toString("latin1") + `echo to ${host}`);
    }
    const dns = world.far.datagram();
    dns.on("message", (message: Uint8Array, from: { address: string; port: number }) => {
      const { id, questions } = dnsPacket.decode(Buffer.from(message));
      const answers = [{ type: "A" as const, name: questions![0].name, ttl: 60, data: "192.0.2.7" }];
      const answer = dnsPacket.encode({ type: "response", id, questions, answers });
      dns.send(new Uint8Array(answer), from.port, from.address).catch(() => {});
    });
    const dnsPort = await waitFor("the name server", () => {
      try {
        return dns.port;
      } catch {
        return 0;
      }
    });
    const query = dnsPacket.encode({ type: "query", id: 77, questions: [{ type: "A", name: "some.name.test" }] });
    socket.send(udpRequest(world.host, dnsPort, query), relay, "127.0.0.1");
    const { id, answers } = dnsPacket.decode((await next()).subarray(10));
    assert.equal(id, 77);
    assert.equal((answers![0] as { data: string }).data, "192.0.2.7");
    socket.close();
    dns.close();
    control.close();
    await waitFor("the association to end", () => running.metric("wasmguard_proxy_open_connections") === 0);
  });

  real.run();
}

const wire = suite("socks5: the protocol");
let world: World;
let running: RunningProxy;

wire.before(async () => {
  world = new World();
  running = await world.proxy([
    ["socks5", "0"],
    ["socks5", "alice:s3cret:with:colons@0"],
  ]);
});
wire.after(() => world.close());

const loginPort = (): number =>
  Number(running.proxy.addresses.filter(({ kind }) => kind === "socks5")[1].address.split(":")[1]);

wire("each failure has its reply", async () => {
  const closed = await world.serve(() => {});
  const refused = await world.serve(() => {});
  await world.closers.at(-1)!();
  assert.notEqual(refused, closed);
  world.names["v6only.test"] = ["::ffff:0:1"];
  const cases: [string, number[], number][] = [
    ["refused", request(1, "127.0.0.1", refused), 5],
    ["no such name", request(1, "nowhere.test", 80), 4],
    ["port 0", request(1, "127.0.0.1", 0), 2],
    ["BIND", request(2, "127.0.0.1", 80), 7],
    ["unknown command", request(9, "127.0.0.1", 80), 7],
    ["unknown address type", [5, 1, 0, 2, 1, 2, 3, 4, 0, 80], 8],
    ["empty name", [5, 1, 0, 3, 0, 0, 80], 1],
    ["name with a blank", request(1, "a b.test", 80), 1],
  ];
  for (const [name, bytes, reply] of cases) {
    const client = await greeted(running.port("socks5"));
    client.send(bytes);
    assert.deepEqual([...(await client.rest())], [5, reply, 0, 1, 0, 0, 0, 0, 0, 0], name);
    client.close();
  }
  assert.equal(running.metric("wasmguard_proxy_failures", { reason: "refused" }), 1);
  assert.equal(running.metric("wasmguard_proxy_failures", { reason: "no-such-name" }), 1);
  assert.equal(running.metric("wasmguard_proxy_failures", { reason: "unsupported" }), 2);
});

wire("user and password, in pieces of one byte", async () => {
  const login = (name: string, password: string): number[] => [
    1,
    name.length,
    ...Buffer.from(name),
    password.length,
    ...Buffer.from(password),
  ];
  for (const [name, password, good] of [
    ["alice", "s3cret:with:colons", true],
    ["alice", "s3cret:with:colon", false],
    ["alice", "", false],
    ["", "s3cret:with:colons", false],
    ["bob", "s3cret:with:colons", false],
    ["a".repeat(255), "b".repeat(255), false],
  ] as const) {
    const client = new Raw(loginPort());
    client.socket.setNoDelay(true);
    for (const byte of [5, 2, 0, 2]) {
      client.send([byte]);
      await sleep(1);
    }
    assert.deepEqual([...(await client.read(2))], [5, 2]);
    for (const byte of login(name, password).slice(0, 30)) {
      client.send([byte]);
      await sleep(1);
    }
    client.send(login(name, password).slice(30));
    assert.deepEqual([...(await client.read(2))], [1, good ? 0 : 1], `${name} ${password}`);
    if (!good) assert.equal((await client.rest()).length, 0);
    client.close();
  }
  const without = new Raw(loginPort());
  without.send(HELLO);
  assert.deepEqual([...(await without.rest())], [5, 255]);
  without.close();
  const { port } = await world.http((_, res) => res.end("inside"));
  const proxy = `socks5h://alice:s3cret%3Awith%3Acolons@127.0.0.1:${loginPort()}`;
  assert.equal((await curl("--proxy", proxy, `http://127.0.0.1:${port}/`)).out, "inside");
});

wire("what follows a request in the same packet goes to the server", async () => {
  const port = await world.echo();
  const client = new Raw(running.port("socks5"));
  client.send(HELLO, request(1, "127.0.0.1", port), "early bird");
  const answer = await client.read(12 + 10);
  assert.equal(answer.subarray(12).toString(), "early bird");
  client.close();
});

wire("no SOCKS5: nothing is said, and it is over", async () => {
  for (const bytes of ["GET / HTTP/1.1\r\n\r\n", [4, 1, 0, 80, 127, 0, 0, 1, 0], [5, 0], [0]]) {
    const client = new Raw(running.port("socks5"));
    client.send(bytes);
    if (bytes.length < 2) client.socket.end();
    assert.equal((await client.rest()).length, 0);
    client.close();
  }
});

wire("a server's reset and a client's reset go through", async () => {
  const resets = await world.serve((socket) => socket.once("data", () => socket.resetAndDestroy()));
  const client = await greeted(running.port("socks5"));
  client.send(request(1, "127.0.0.1", resets));
  await client.read(10);
  let code = "";
  client.socket.on("error", (error: NodeJS.ErrnoException) => (code = error.code ?? ""));
  client.send("x");
  await waitFor("the client to hear of it", () => client.closed);
  assert.equal(code, "ECONNRESET");

  let ended = "";
  const watches = await world.serve((socket) => {
    socket.on("error", (error: NodeJS.ErrnoException) => (ended ||= error.code ?? "?"));
    socket.on("end", () => (ended ||= "end"));
    socket.resume();
  });
  const second = await greeted(running.port("socks5"));
  second.send(request(1, "127.0.0.1", watches));
  await second.read(10);
  second.socket.resetAndDestroy();
  assert.equal(await waitFor("the server to hear of it", () => ended), "ECONNRESET");
});

wire("half-closed: an answer after the client's end arrives", async () => {
  const port = await world.serve((socket) => {
    let text = "";
    socket.on("data", (chunk) => (text += chunk));
    socket.on("end", () => setTimeout(() => socket.end(`got ${text.length}`), 50));
  });
  const client = await greeted(running.port("socks5"));
  client.send(request(1, "127.0.0.1", port));
  await client.read(10);
  client.socket.end("question");
  assert.equal((await client.rest()).toString(), "got 8");
  client.close();
});

wire("UDP: strangers, fragments and nonsense are dropped and counted", async () => {
  const port = await world.udpEcho();
  const { control, relay } = await associate(running.port("socks5"));
  const { socket, next, count } = await udpClient();
  const stranger = await udpClient();
  const good = udpRequest("127.0.0.1", port, "good");
  for (const bad of [
    [],
    [0],
    [0, 0, 0],
    [1, 0, 0, 1, 1, 1, 1, 1, 0, 1],
    [0, 0, 0, 9, 1, 1, 1, 1, 0, 1],
    [0, 0, 0, 3, 200, 1],
  ]) {
    socket.send(Buffer.from(bad), relay, "127.0.0.1");
  }
  socket.send(udpRequest("127.0.0.1", 0, "port 0"), relay, "127.0.0.1");
  socket.send(udpRequest("127.0.0.1", port, "part", 1), relay, "127.0.0.1");
  socket.send(good, relay, "127.0.0.1");
  assert.equal((await next()).subarray(10).toString(), "echo good");
  // The port is pinned now.
  stranger.socket.send(good, relay, "127.0.0.1");
  await waitFor("the drop", () => running.metric("wasmguard_proxy_dropped_datagrams", { reason: "stranger" }) === 1);
  assert.equal(running.metric("wasmguard_proxy_dropped_datagrams", { reason: "fragment" }), 1);
  assert.ok(running.metric("wasmguard_proxy_dropped_datagrams", { reason: "malformed" }) >= 6, "malformed");
  assert.deepEqual([count(), stranger.count()], [1, 0]);
  // The association ends with its connection.
  control.socket.end();
  await waitFor("the control connection to end", () => control.ended);
  await waitFor("the relay to close", () => world.tunnels[0].datagrams.size === 0);
  socket.close();
  stranger.socket.close();
  control.close();
});

wire("UDP: the client's announced port is the only one", async () => {
  const port = await world.udpEcho();
  const { socket, next } = await udpClient();
  const stranger = await udpClient();
  const { control, relay } = await associate(running.port("socks5"), request(3, "127.0.0.1", socket.address().port));
  stranger.socket.send(udpRequest("127.0.0.1", port, "first"), relay, "127.0.0.1");
  socket.send(udpRequest("127.0.0.1", port, "mine"), relay, "127.0.0.1");
  assert.equal((await next()).subarray(10).toString(), "echo mine");
  assert.equal(stranger.count(), 0);
  for (const each of [socket, stranger.socket]) each.close();
  control.close();
});

wire.run();

const limits = suite("socks5: limits");

limits("who stalls at every byte is ended, who is one too many is not served", async () => {
  const world = new World();
  try {
    const running = await world.proxy([["socks5", "0"]], { handshakeMs: 400, maxClients: 3 });
    const slow = new Raw(running.port("socks5"));
    const drip = setInterval(() => slow.send([5]), 50);
    world.closers.push(() => clearInterval(drip));
    const silent = new Raw(running.port("socks5"));
    const late = new Raw(running.port("socks5"));
    late.send(HELLO, [5, 1, 0, 3, 200]);
    await waitFor("three to be served", () => running.metric("wasmguard_proxy_open_connections") === 3);
    const fourth = new Raw(running.port("socks5"));
    await waitFor("the fourth to be refused", () => fourth.over);
    assert.equal(running.metric("wasmguard_proxy_failures", { reason: "limit" }), 1);
    await waitFor("all to be ended", () => slow.over && silent.over && late.over);
    assert.ok(running.metric("wasmguard_proxy_failures", { reason: "stalled" }) >= 2, "stalled");
    const port = await world.echo();
    const client = await greeted(running.port("socks5"));
    client.send(request(1, "127.0.0.1", port), "in time");
    assert.equal((await client.read(17)).subarray(10).toString(), "in time");
    await sleep(600); // the handshake's time does not count afterwards
    client.send("still");
    assert.equal((await client.read(5)).toString(), "still");
    client.close();
  } finally {
    await world.close();
  }
});

limits("a server that is not read is not asked for more", async () => {
  const world = new World();
  try {
    let written = 0;
    const port = await world.serve((socket) => {
      const chunk = Buffer.alloc(65536);
      const more = (): void => {
        while (!socket.destroyed && written < 256 << 20) {
          written += chunk.length;
          if (!socket.write(chunk)) return void socket.once("drain", more);
        }
      };
      more();
    });
    const running = await world.proxy([["socks5", "0"]]);
    const client = await greeted(running.port("socks5"));
    client.send(request(1, "127.0.0.1", port));
    await client.read(10);
    client.socket.pause();
    let before = -1;
    await waitFor("the stream to stand still", async () => {
      const same = before === written;
      before = written;
      await sleep(200);
      return same;
    });
    assert.ok(written < 64 << 20, `${written} bytes are under way`);
    client.close();
    await waitFor("its end", () => world.tunnels[0].sockets.size === 0);
  } finally {
    await world.close();
  }
});

limits("stop ends clients, sockets and timers", async () => {
  const world = new World();
  const port = await world.echo();
  const running = await world.proxy([["socks5", "0"]]);
  const busy = await greeted(running.port("socks5"));
  busy.send(request(1, "127.0.0.1", port));
  await busy.read(10);
  const half = new Raw(running.port("socks5"));
  half.send([5]);
  const { control } = await associate(running.port("socks5"));
  await running.proxy.stop();
  await waitFor("all clients to hear of it", () => busy.over && half.over && control.over);
  for (const client of [busy, half, control]) client.close();
  const [tunnel] = world.tunnels;
  assert.deepEqual([tunnel.sockets.size, tunnel.datagrams.size, tunnel.closed], [0, 0, true]);
  await world.close();
});

limits.run();
