// A web server that only the peers of a tunnel reach; nothing listens on this machine but the tunnel's UDP port.
//   node examples/server.mjs FILE.conf [PORT]
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import process from "node:process";
import { Tunnel } from "wasmguard";

const [conf, port = "80"] = process.argv.slice(2);
const tunnel = await Tunnel.open(await readFile(conf, "utf8"));
const http = createServer((request, response) => {
  response.end(`Hello ${request.socket.remoteAddress}, you asked for ${request.url}\n`);
});
const server = tunnel.serve(http, { port: Number(port) });
tunnel.on("handshake", ({ peer }) => console.log(`handshake with ${peer}`));
console.log(`http://${tunnel.addresses[0]}:${server.port}/`);

for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => tunnel.close());
