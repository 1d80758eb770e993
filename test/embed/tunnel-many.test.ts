// Many connections through one tunnel: a thousand at once, ten thousand short ones, and nothing is left of them.

import assert from "node:assert/strict";
import { once } from "node:events";
import process from "node:process";
import { suite } from "uvu";
import type { TunnelSocket } from "../../host/tunnel/types.ts";
import { openPair, type Pair, RIGHT, until } from "./tunnels.ts";

const CONCURRENT = 1000;
const SHORT = 10_000;
const IN_PARALLEL = 50;
const HEAP_GROWTH_MIB = 100;

const many = suite("tunnel: many connections");
let pair: Pair;

many.before(async () => {
  pair = await openPair();
  // As net.Socket: a client that resets is an error of this socket, and of nobody else.
  pair.right.listen({ port: 7, backlog: CONCURRENT }, (socket) => void socket.on("error", () => {}).pipe(socket));
});

many.after(async () => {
  await pair.close();
});

async function nothingLeft(): Promise<void> {
  for (const tunnel of [pair.left, pair.right]) {
    await until("no socket is left", () => tunnel.stats().sockets === 0);
    await until("no connection is left", () => tunnel.stats().tcp.connections === 0);
  }
}

/** Sends a word and waits for it to come back. */
async function echo(socket: TunnelSocket, word: string): Promise<void> {
  let got = "";
  const done = new Promise<void>((resolve, reject) => {
    socket.on("error", reject).on("data", (chunk: Buffer) => {
      got += chunk.toString("latin1");
      if (got.length >= word.length) resolve();
    });
  });
  socket.write(word);
  await done;
  assert.equal(got, word);
}

many(`${CONCURRENT} at once, all open together, each with its own words`, async () => {
  const sockets = Array.from({ length: CONCURRENT }, () => pair.left.connect({ host: RIGHT, port: 7 }));
  await Promise.all(sockets.map((socket) => socket.opened));
  assert.equal(pair.left.stats().tcp.connections, CONCURRENT);
  await until("the server has all", () => pair.right.stats().sockets === CONCURRENT);
  await Promise.all(sockets.map((socket, i) => echo(socket, `connection ${i} `.repeat(20))));
  await Promise.all(
    sockets.map((socket) => {
      socket.end();
      return once(socket, "close");
    }),
  );
  await nothingLeft();
});

many(`${SHORT} short ones, ${IN_PARALLEL} at a time, none lost`, async () => {
  let started = 0;
  let finished = 0;
  let heapAtTenth = 0;
  const worker = async (): Promise<void> => {
    while (started < SHORT) {
      const word = `${started++}`;
      const socket = pair.left.connect({ host: RIGHT, port: 7 });
      await echo(socket, word);
      socket.end();
      await once(socket, "close");
      if (++finished === SHORT / 10) heapAtTenth = process.memoryUsage().heapUsed;
    }
  };
  await Promise.all(Array.from({ length: IN_PARALLEL }, worker));
  assert.equal(finished, SHORT);
  await nothingLeft();
  // Loosely, because garbage counts until it is collected; what leaked of each connection would be far more.
  const grown = (process.memoryUsage().heapUsed - heapAtTenth) / 2 ** 20;
  assert.ok(grown < HEAP_GROWTH_MIB, `the heap grew by ${grown.toFixed(0)} MiB`);
});

many.run();
