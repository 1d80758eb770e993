// A TCP connection through a tunnel, joined to the terminal, as `nc` does it:
//   node examples/connect.mjs FILE.conf HOST PORT
import { readFile } from "node:fs/promises";
import process from "node:process";
import { Tunnel } from "wasmguard";

const [conf, host, port] = process.argv.slice(2);
const tunnel = await Tunnel.open(await readFile(conf, "utf8"));
const socket = tunnel.connect({ host, port: Number(port), timeoutMs: 10_000, allowHalfOpen: true });
try {
  await socket.opened;
  process.stdin.pipe(socket);
  for await (const bytes of socket) process.stdout.write(bytes);
} catch (error) {
  console.error(`${error.code}: ${error.message}`);
  process.exitCode = 1;
} finally {
  process.stdin.destroy();
  await tunnel.close();
}
