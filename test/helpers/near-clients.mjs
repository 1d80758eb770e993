// Clients of the proxy's system test, in the proxy's namespace: `node near-clients.mjs WHAT ARGS...`, result on stdout.

import { createHash } from "node:crypto";
import { createSocket } from "node:dgram";
import { connect } from "node:net";
import process from "node:process";
import { decode, encode } from "@leichtgewicht/dns-packet";
import { ProxyAgent, fetch } from "undici";

const clients = {
  /** PROXY URL */
  async fetch(proxy, url) {
    const dispatcher = new ProxyAgent({ uri: proxy, proxyTunnel: true });
    const answers = await Promise.all(
      [1, 2, 3].map(async (i) => {
        const response = await fetch(`${url}/${i}`, { dispatcher, method: "POST", body: "x".repeat(i * 10_000) });
        return response.text();
      }),
    );
    process.stdout.write(answers.join(""));
  },

  /** PORT BYTES: sends so many while it receives; prints the hash of what came and what the server says of ours */
  stream(port, bytes) {
    const socket = connect({ port: Number(port), host: "127.0.0.1", allowHalfOpen: true });
    let sent = 0;
    const send = () => {
      const left = Number(bytes) - sent;
      if (left === 0) return socket.end();
      const chunk = Buffer.alloc(Math.min(left, 1 << 20), 0x61 + ((sent >> 20) % 26));
      sent += chunk.length;
      socket.write(chunk, () => setTimeout(send, 40));
    };
    send();
    const chunks = [];
    socket.on("data", (chunk) => chunks.push(chunk));
    return new Promise((resolve, reject) => {
      socket.on("error", reject);
      socket.on("end", () => {
        const all = Buffer.concat(chunks);
        const received = all.subarray(0, all.length - 64);
        process.stdout.write(
          `${received.length} ${createHash("sha256").update(received).digest("hex")} ${all.subarray(-64)}`,
        );
        resolve();
      });
    });
  },

  /** PORT COUNT: so many DNS questions at once, each asked again until it is answered */
  async dns(port, count) {
    const socket = createSocket("udp4");
    const open = new Map();
    socket.on("message", (message) => {
      const { id, answers } = decode(message);
      open.get(id)?.(answers[0].data);
    });
    const ask = async (id) => {
      const question = encode({ type: "query", id, questions: [{ type: "A", name: `name${id}.test` }] });
      for (;;) {
        socket.send(question, Number(port), "127.0.0.1");
        const answer = await new Promise((resolve) => {
          const timer = setTimeout(resolve, 1000, null);
          open.set(id, (data) => {
            clearTimeout(timer);
            resolve(data);
          });
        });
        if (answer !== null) return answer;
      }
    };
    const answers = await Promise.all(Array.from({ length: Number(count) }, (_, i) => ask(i + 1)));
    process.stdout.write(`${answers.length} ${[...new Set(answers)].join(" ")}`);
    socket.close();
  },
};

const [what, ...args] = process.argv.slice(2);
await clients[what](...args);
