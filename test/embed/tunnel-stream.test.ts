// Connections through a tunnel, as sockets: what net.Socket promises, over two real tunnels on the loopback.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { suite } from "uvu";
import type { TunnelSocket } from "../../host/tunnel/types.ts";
import { digest, LEFT, LEFT6, openPair, type Pair, pattern, rejection, RIGHT, RIGHT6, until } from "./tunnels.ts";

/** By events: an async iterator of Node 20 destroys a socket whose readable half has ended. */
function eachChunk(socket: TunnelSocket, take: (chunk: Uint8Array) => void): Promise<void> {
  return new Promise((resolve, reject) => void socket.on("data", take).on("end", resolve).on("error", reject));
}

async function readAll(socket: TunnelSocket): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  await eachChunk(socket, (chunk) => chunks.push(chunk));
  return Buffer.concat(chunks);
}

/** @param transport  "auto" is the kernel's UDP by FFI where that works */
function define(transport: "auto" | "udp"): void {
  const streams = suite(`tunnel: sockets over ${transport}`);
  let pair: Pair;

  streams.before(async () => {
    pair = await openPair({ options: { transport } });
  });

  streams.after(async () => {
    await pair.close();
  });

  streams.after.each(async () => {
    await until("no socket is left", () => pair.left.stats().sockets === 0 && pair.right.stats().sockets === 0);
    await until(
      "no connection is left",
      () => pair.left.stats().tcp.connections === 0 && pair.right.stats().tcp.connections === 0,
    );
  });

  /** A server on the right for one test. */
  async function serve(
    onSocket: (socket: TunnelSocket) => void,
    run: (port: number) => Promise<void>,
    allowHalfOpen = false,
  ): Promise<void> {
    const server = pair.right.listen({ port: 0, allowHalfOpen }, onSocket);
    try {
      await run(server.port);
    } finally {
      await server.close();
    }
  }

  for (const host of [RIGHT, RIGHT6]) {
    streams(`${host}: 8 MiB each way at once, every byte right, counted on both sides`, async () => {
      const total = 8 << 20;
      const seen: { digest: string; bytesRead: number; bytesWritten: number }[] = [];
      const exchange = async (socket: TunnelSocket): Promise<void> => {
        const hash = createHash("sha256");
        const reading = eachChunk(socket, (chunk) => hash.update(chunk));
        const writing = (async () => {
          for (const block of pattern(total)) if (!socket.write(block)) await once(socket, "drain");
          socket.end();
        })();
        await Promise.all([reading, writing]);
        seen.push({ digest: hash.digest("hex"), bytesRead: socket.bytesRead, bytesWritten: socket.bytesWritten });
      };
      let served: Promise<void> | undefined;
      await serve((socket) => (served = exchange(socket)), async (port) => {
        const socket = pair.left.connect({ host, port, allowHalfOpen: true });
        await socket.opened;
        assert.deepEqual([socket.remoteAddress, socket.remotePort], [host, port]);
        assert.equal(socket.localAddress, host === RIGHT ? LEFT : LEFT6);
        assert.equal(socket.remoteFamily, host === RIGHT ? "IPv4" : "IPv6");
        await exchange(socket);
        await served;
      }, true);
      const expected = { digest: digest(pattern(total)), bytesRead: total, bytesWritten: total };
      assert.deepEqual(seen, [expected, expected]);
    });
  }

  streams("it may be written before it stands, and ended: all arrives in order", async () => {
    let got: Promise<Buffer> | undefined;
    await serve((socket) => (got = readAll(socket)), async (port) => {
      const socket = pair.left.connect({ host: RIGHT, port });
      assert.equal(socket.connecting, true);
      assert.equal(socket.remotePort, undefined);
      for (let i = 0; i < 100; i++) socket.write(`${i} `);
      socket.end("done");
      socket.resume();
      await once(socket, "close");
      const expected = `${Array.from({ length: 100 }, (_, i) => `${i} `).join("")}done`;
      assert.equal((await got)!.toString(), expected);
    });
  });

  streams("half-close: the answer comes after our end, where allowHalfOpen is asked for", async () => {
    await serve(
      async (socket) => {
        const question = await readAll(socket);
        await sleep(20);
        socket.end(`${question.length} bytes`);
      },
      async (port) => {
        const socket = pair.left.connect({ host: RIGHT, port, allowHalfOpen: true });
        socket.end("x".repeat(1000));
        assert.equal((await readAll(socket)).toString(), "1000 bytes");
      },
      true,
    );
  });

  streams("without allowHalfOpen our side ends when the peer's does", async () => {
    const ended: string[] = [];
    await serve(
      (socket) => {
        socket.end("bye");
        socket.on("end", () => ended.push("server"));
        socket.resume();
      },
      async (port) => {
        const socket = pair.left.connect({ host: RIGHT, port });
        assert.equal((await readAll(socket)).toString(), "bye");
        await until("the server saw our end", () => ended.length === 1);
        assert.equal(socket.writableEnded, true);
      },
      true,
    );
  });

  streams("nobody listens: ECONNREFUSED, by `opened` and by the event", async () => {
    const socket = pair.left.connect({ host: RIGHT, port: 9 });
    const [error] = (await once(socket, "error")) as [Error & { code: string; syscall: string }];
    assert.equal(error.code, "ECONNREFUSED");
    assert.equal(error.syscall, "connect");
    assert.match(error.message, /10\.77\.0\.2:9/);
    assert.equal((await rejection(socket.opened)).code, "ECONNREFUSED");
  });

  streams("a reset reaches the other side as ECONNRESET", async () => {
    const codes: string[] = [];
    await serve(
      (socket) => socket.on("error", (error: Error & { code: string }) => codes.push(error.code)),
      async (port) => {
        const socket = pair.left.connect({ host: RIGHT, port });
        await socket.opened;
        socket.resetAndDestroy();
        await until("the server was told", () => codes.length > 0);
        assert.deepEqual(codes, ["ECONNRESET"]);
      },
    );
  });

  streams("destroy with bytes that nobody will read is a reset, as of close(2)", async () => {
    let code = "";
    await serve(
      (socket) => {
        socket.on("error", (error: Error & { code: string }) => (code = error.code));
        const block = Buffer.alloc(1 << 16);
        const fill = (): void => void (!socket.destroyed && socket.write(block, fill));
        fill();
      },
      async (port) => {
        const socket = pair.left.connect({ host: RIGHT, port });
        await once(socket, "readable");
        socket.destroy();
        await until("the server was told", () => code !== "");
        assert.match(code, /^(ECONNRESET|EPIPE)$/);
      },
    );
  });

  streams("destroy with nothing unread is an end, not an error", async () => {
    let ended = false;
    const errors: Error[] = [];
    await serve(
      (socket) => socket.on("error", (error) => errors.push(error)).on("end", () => (ended = true)).resume(),
      async (port) => {
        const socket = pair.left.connect({ host: RIGHT, port });
        await new Promise<void>((resolve) => socket.write("the last words", () => resolve()));
        socket.destroy();
        await until("the server saw the end", () => ended);
        assert.deepEqual(errors, []);
      },
    );
  });

  streams("a slow reader closes the window: the writer waits, and nothing is lost", async () => {
    const total = 6 << 20;
    let sent = 0;
    await serve(
      (socket) => {
        const blocks = pattern(total);
        const counted = Readable.from((function* () {
          for (const block of blocks) {
            sent += block.length;
            yield block;
          }
        })());
        pipeline(counted, socket).catch(() => {});
      },
      async (port) => {
        const socket = pair.left.connect({ host: RIGHT, port });
        await once(socket, "readable");
        let before = -1;
        await until("the writer stands still", () => {
          const still = sent === before;
          before = sent;
          return still && sent > 0;
        });
        await sleep(200);
        const stalledAt = sent;
        assert.ok(stalledAt < total, `all ${total} bytes were taken from the writer before anybody read one`);
        const hash = createHash("sha256");
        for await (const chunk of socket) hash.update(chunk as Uint8Array);
        assert.equal(sent, total);
        assert.equal(hash.digest("hex"), digest(pattern(total)));
      },
    );
  });

  streams("AbortSignal: before the connection and after it", async () => {
    const aborted = pair.left.connect({ host: RIGHT, port: 7, signal: AbortSignal.abort(new Error("why")) });
    const [first] = (await once(aborted, "error")) as [Error & { code: string }];
    assert.deepEqual([first.name, first.code, (first.cause as Error).message], ["AbortError", "ABORT_ERR", "why"]);
    await serve(
      (socket) => socket.on("error", () => {}).resume(),
      async (port) => {
        const controller = new AbortController();
        const socket = pair.left.connect({ host: RIGHT, port, signal: controller.signal });
        await socket.opened;
        const failed = once(socket, "error") as Promise<[Error & { code: string }]>;
        controller.abort();
        assert.equal((await failed)[0].code, "ABORT_ERR");
        assert.equal(socket.destroyed, true);
      },
    );
  });

  streams("timeoutMs: an address that never answers is ETIMEDOUT", async () => {
    // An address of the right side's peer list that nobody has: the packets arrive and nobody answers.
    const socket = pair.left.connect({ host: "10.77.9.9", port: 80, timeoutMs: 150 });
    const error = await rejection(socket.opened);
    assert.match(error.code!, /^(ETIMEDOUT|EHOSTUNREACH)$/);
    socket.on("error", () => {});
  });

  streams("setTimeout tells of silence, ends nothing, and is put off by every byte", async () => {
    await serve(
      (socket) => socket.on("error", () => {}).pipe(socket),
      async (port) => {
        const socket = pair.left.connect({ host: RIGHT, port });
        await socket.opened;
        socket.resume();
        let told = 0;
        socket.setTimeout(300, () => told++);
        for (let i = 0; i < 6; i++) {
          await sleep(100);
          socket.write("x");
          assert.equal(told, 0);
        }
        await once(socket, "timeout");
        assert.equal(told, 1);
        assert.equal(socket.destroyed, false);
        socket.setTimeout(0);
        socket.end();
        await once(socket, "close");
      },
      true,
    );
  });

  streams("a local address and port of choice; what is not ours is refused at once", async () => {
    await serve(
      (socket) => socket.end(`${socket.remoteAddress} ${socket.remotePort}`),
      async (port) => {
        const socket = pair.left.connect({ host: RIGHT6, port, localAddress: LEFT6, localPort: 4321 });
        assert.equal((await readAll(socket)).toString(), `${LEFT6} 4321`);
      },
    );
    assert.throws(() => pair.left.connect({ host: RIGHT, port: 80, localAddress: "10.1.1.1" }), {
      code: "EADDRNOTAVAIL",
    });
    for (const port of [0, 65536, 1.5, NaN, "80" as unknown as number]) {
      assert.throws(() => pair.left.connect({ host: RIGHT, port }), RangeError, String(port));
    }
    assert.throws(() => pair.left.connect({ host: "", port: 80 }), TypeError);
  });

  streams("web streams: bytes both ways, backpressure, close is an end, cancel a reset", async () => {
    const total = 2 << 20;
    await serve(
      (socket) => void socket.pipe(socket),
      async (port) => {
        const { readable, writable } = pair.left.connect({ host: RIGHT, port, allowHalfOpen: true }).streams();
        const hash = createHash("sha256");
        const reading = (async () => {
          for await (const chunk of readable) {
            assert.equal(Object.getPrototypeOf(chunk), Uint8Array.prototype);
            hash.update(chunk);
          }
        })();
        const writer = writable.getWriter();
        for (const block of pattern(total)) await writer.write(block);
        await writer.close();
        await reading;
        assert.equal(hash.digest("hex"), digest(pattern(total)));
      },
      true,
    );
    let code = "";
    await serve(
      (socket) => {
        socket.on("error", (error: Error & { code: string }) => (code = error.code));
        const fill = (): void => void (!socket.destroyed && socket.write(Buffer.alloc(1 << 16), fill));
        fill();
      },
      async (port) => {
        const { readable } = pair.left.connect({ host: RIGHT, port }).streams();
        const reader = readable.getReader();
        assert.ok((await reader.read()).value!.length > 0, "nothing came");
        await reader.cancel();
        await until("the server was told", () => code !== "");
      },
    );
  });

  streams("a port is taken once; a closed server takes none, and those that are open stay", async () => {
    const sockets: TunnelSocket[] = [];
    const server = pair.right.listen({ port: 5555 }, (socket) => sockets.push(socket.on("error", () => {})));
    assert.throws(() => pair.right.listen({ port: 5555 }, () => {}), { code: "EADDRINUSE" });
    const socket = pair.left.connect({ host: RIGHT, port: 5555 });
    await socket.opened;
    await until("the server has it", () => sockets.length === 1);
    await server.close();
    const late = pair.left.connect({ host: RIGHT, port: 5555 });
    late.on("error", () => {});
    assert.equal((await rejection(late.opened)).code, "ECONNREFUSED");
    sockets[0].write("still here");
    const [bytes] = (await once(socket, "data")) as [Buffer];
    assert.equal(bytes.toString(), "still here");
    socket.destroy();
    sockets[0].destroy();
    const again = pair.right.listen({ port: 5555, signal: AbortSignal.timeout(1) }, () => {});
    await until("the signal closed it", () => pair.right.stats().servers === 0);
    await again.close();
  });

  streams.run();
}

define("auto");
define("udp");
