// UDP through a tunnel: a DNS question put together by hand (RFC 1035 §4), and the addresses in its answer.
// (tunnel.resolve(name) does this with the name servers of the configuration, with caching, retries and TCP.)
//   node examples/udp-dns.mjs FILE.conf SERVER NAME
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import process from "node:process";
import { Tunnel } from "wasmguard";

const [conf, server, name] = process.argv.slice(2);
const tunnel = await Tunnel.open(await readFile(conf, "utf8"));
const socket = tunnel.datagram();
try {
  const id = crypto.getRandomValues(new Uint8Array(2));
  const labels = name.split(".").flatMap((label) => [label.length, ...new TextEncoder().encode(label)]);
  const question = Uint8Array.from([...id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, ...labels, 0, 0, 1, 0, 1]);
  await socket.send(question, 53, server);
  const [answer] = await once(socket, "message", { signal: AbortSignal.timeout(5000) });
  const view = new DataView(answer.buffer, answer.byteOffset, answer.length);
  if (view.getUint16(0) !== ((id[0] << 8) | id[1])) throw new Error("an answer to another question");
  let at = question.length; // the question comes back in front of the answers
  for (let left = view.getUint16(6); left > 0; left--) {
    while (view.getUint8(at) !== 0 && view.getUint8(at) < 0xc0) at += 1 + view.getUint8(at);
    at += view.getUint8(at) === 0 ? 1 : 2; // a name ends in an empty label or a pointer
    const [type, length] = [view.getUint16(at), view.getUint16(at + 8)];
    if (type === 1) console.log(answer.subarray(at + 10, at + 14).join("."));
    at += 10 + length;
  }
} finally {
  socket.close();
  await tunnel.close();
}
