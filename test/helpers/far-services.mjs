// What the system tests of proxy and Tunnel reach: started in a namespace, behind a peer. Prints "ready" when all listen.
//
//   HTTP 8080   any method: method, URL and SHA-256 of the body; a WebSocket that sends back what it gets
//   TCP 2222    a stream: sends BYTES in bursts with pauses, then the SHA-256 of what it got, and ends
//   UDP 53      DNS: every A is 192.0.2.53, but names under "here.test" are us

import { createHash } from "node:crypto";
import { createSocket } from "node:dgram";
import { createServer as createHttpServer } from "node:http";
import { createServer } from "node:net";
import process from "node:process";
import { decode, encode } from "@leichtgewicht/dns-packet";
import { WebSocketServer } from "ws";

const [address, bytes] = [process.argv[2], Number(process.argv[3])];
const BURST = 1 << 20;
const PAUSE_MS = 40;

const http = createHttpServer((req, res) => {
  const hash = createHash("sha256");
  req.on("data", (chunk) => hash.update(chunk));
  req.on("end", () => res.end(`${req.method} ${req.url} ${hash.digest("hex")}\n`));
});

new WebSocketServer({ server: http }).on("connection", (socket) => {
  socket.on("message", (data, binary) => socket.send(data, { binary }));
});

const stream = createServer({ allowHalfOpen: true }, (socket) => {
  const hash = createHash("sha256");
  let sent = 0;
  const burst = () => {
    if (socket.destroyed || sent === bytes) return;
    const chunk = Buffer.alloc(Math.min(BURST, bytes - sent), sent / BURST);
    sent += chunk.length;
    socket.write(chunk, () => setTimeout(burst, PAUSE_MS));
  };
  burst();
  socket.on("error", () => {});
  socket.on("data", (chunk) => hash.update(chunk));
  socket.on("end", () => {
    const finish = () => (sent === bytes ? socket.end(hash.digest("hex")) : setTimeout(finish, PAUSE_MS));
    finish();
  });
});

const dns = createSocket("udp4");
dns.on("message", (message, from) => {
  const { id, questions } = decode(message);
  const [{ name, type }] = questions;
  const data = /(^|\.)here\.test$/.test(name) ? address : "192.0.2.53";
  const answers = type === "A" ? [{ type, name, ttl: 60, data }] : [];
  dns.send(encode({ type: "response", id, questions, answers }), from.port, from.address);
});

await Promise.all([
  new Promise((resolve) => http.listen(8080, resolve)),
  new Promise((resolve) => stream.listen(2222, resolve)),
  new Promise((resolve) => dns.bind(53, resolve)),
]);
console.log("ready");
