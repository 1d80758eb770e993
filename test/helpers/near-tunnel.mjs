// A program with a tunnel inside, in a namespace without an interface of its own: `node near-tunnel.mjs CONF HOST BYTES`.
// Reaches everything that far-services.mjs has; a line of JSON with what came of it.

import { createHash } from "node:crypto";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import process from "node:process";
import { Agent, fetch as undiciFetch } from "undici";
import { Tunnel } from "wasmguard";
import { WebSocket } from "ws";

const [conf, host, bytes] = process.argv.slice(2);
const tunnel = await Tunnel.open(await readFile(conf, "utf8"));
const roles = [];
tunnel.on("handshake", ({ role }) => roles.push(role));

const posted = { method: "POST", body: "x".repeat(100_000) };
const fetched = await (await tunnel.fetch("http://www.here.test:8080/own", posted)).text();
const dispatcher = new Agent({ connect: tunnel.connector() });
const undici = await (await undiciFetch("http://www.here.test:8080/undici", { ...posted, dispatcher })).text();
await dispatcher.close();

const webSocket = new WebSocket(`ws://${host.includes(":") ? `[${host}]` : host}:8080/`, { createConnection: () => tunnel.connect({ host, port: 8080 }) });
await once(webSocket, "open");
webSocket.send("hello");
const [echo] = await once(webSocket, "message");
webSocket.close();
await once(webSocket, "close");

const stream = tunnel.connect({ host, port: 2222, allowHalfOpen: true });
const hash = createHash("sha256");
let received = 0;
let tail = Buffer.alloc(0);
stream.on("data", (chunk) => {
  // The last 64 bytes are the server's hash of ours.
  const all = Buffer.concat([tail, chunk]);
  const known = all.subarray(0, Math.max(0, all.length - 64));
  hash.update(known);
  received += known.length;
  tail = all.subarray(known.length);
});
const ours = createHash("sha256");
for (let sent = 0; sent < Number(bytes); sent += 1 << 20) {
  const chunk = Buffer.alloc(Math.min(1 << 20, Number(bytes) - sent), sent >> 16);
  ours.update(chunk);
  if (!stream.write(chunk)) await once(stream, "drain");
  if (sent % (4 << 20) === 0) await new Promise((resolve) => setTimeout(resolve, 40));
}
stream.end();
await once(stream, "end");

const [address] = await tunnel.resolve("elsewhere.test");
const { ms } = await tunnel.ping(host, { timeoutMs: 2000 });
await tunnel.close();
const result = {
  fetched, undici, echo: String(echo), received, hash: hash.digest("hex"), theyGotOurs: tail.toString() === ours.digest("hex"), address, pinged: ms > 0, roles,
};
process.stdout.write(`${JSON.stringify(result)}\n`);
