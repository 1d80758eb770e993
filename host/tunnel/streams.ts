// The web-stream forms of a Duplex, for socket.streams(). Backpressure passes both ways: bytes are read when the web asks
// for them, and a write is done when the socket has taken it. Node's own Duplex.toWeb was rejected: it gives Buffers from
// a pool and queues 16 of them, and an aborted half does not reset the connection.

import type { Duplex } from "node:stream";

/** Ends of the readable half: cancel() destroys the socket; of the writable half: close() is a FIN, abort() destroys. */
export function toStreams(
  socket: Duplex,
): { readable: ReadableStream<Uint8Array>; writable: WritableStream<Uint8Array> } {
  return { readable: toReadable(socket), writable: toWritable(socket) };
}

function toReadable(socket: Duplex): ReadableStream<Uint8Array> {
  let wake: (() => void) | null = null;
  let failed: Error | null = null;
  const changed = (): void => {
    wake?.();
    wake = null;
  };
  socket.on("readable", changed).on("end", changed).on("close", changed);
  socket.on("error", (error: Error) => {
    failed = error;
    changed();
  });
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        for (;;) {
          const bytes = socket.read() as Uint8Array | null;
          if (bytes !== null) return controller.enqueue(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length));
          if (socket.readableEnded) return controller.close();
          if (socket.destroyed) throw failed ?? socket.errored ?? new Error("The socket was closed");
          await new Promise<void>((resolve) => (wake = resolve));
        }
      },
      cancel(reason) {
        socket.destroy(reason instanceof Error ? reason : undefined);
      },
    },
    { highWaterMark: 0 },
  );
}

function toWritable(socket: Duplex): WritableStream<Uint8Array> {
  return new WritableStream<Uint8Array>({
    start(controller) {
      socket.on("error", (error: Error) => controller.error(error));
    },
    write(bytes) {
      return new Promise<void>((resolve, reject) =>
        socket.write(bytes, (error) => (error ? reject(error) : resolve()))
      );
    },
    close() {
      return new Promise<void>((resolve, reject) => {
        socket.end((error?: Error | null) => (error ? reject(error) : resolve()));
      });
    },
    abort(reason) {
      socket.destroy(reason instanceof Error ? reason : undefined);
    },
  });
}
