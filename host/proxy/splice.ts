// Joins two streams until both directions have ended, or either breaks. Backpressure goes through: a chunk that the one
// side does not take at once stops the reading of the other, so that a connection holds no more than the two buffers of
// the streams. An end goes through as an end (half-close), a break as a reset. stream.pipeline() is not used: it knows
// nothing of half-closed pairs.

import type { Duplex } from "node:stream";

export interface SpliceOptions {
  /** bytes from near to far */
  onSent?: (bytes: number) => void;
  /** bytes from far to near */
  onReceived?: (bytes: number) => void;
  /** a pair of which one side has ended is given up after so long without a byte */
  halfClosedMs?: number;
}

/** With one side gone the other has this long to say something. */
export const HALF_CLOSED_MS = 10 * 60_000;

/** @returns when both streams are closed: the error that broke them, undefined after two ends */
export function splice(near: Duplex, far: Duplex, options: SpliceOptions = {}): Promise<Error | undefined> {
  const { onSent = () => {}, onReceived = () => {}, halfClosedMs = HALF_CLOSED_MS } = options;
  return new Promise((resolve) => {
    let failure: Error | undefined;
    let open = 2;
    let idle: ReturnType<typeof setTimeout> | undefined;
    const lifeSign = () => {
      if (idle === undefined) return;
      clearTimeout(idle);
      idle = setTimeout(expire, halfClosedMs);
    };
    const halfClosed = () => {
      clearTimeout(idle);
      idle = setTimeout(expire, halfClosedMs);
    };
    const breakBoth = (error: Error) => {
      failure ??= error;
      reset(near);
      reset(far);
    };
    const expire = () => breakBoth(Object.assign(new Error("half-closed and silent"), { code: "ETIMEDOUT" }));
    const closed = (stream: Duplex, other: Duplex) => () => {
      // Closed without having ended: nobody will hear of it but through us.
      if (!stream.readableEnded || !stream.writableFinished) {
        breakBoth(Object.assign(new Error("connection closed"), { code: "ECONNRESET" }));
      }
      if (--open > 0) return;
      clearTimeout(idle);
      other.removeAllListeners("drain");
      resolve(failure);
    };
    for (const [from, to, count] of [
      [near, far, onSent],
      [far, near, onReceived],
    ] as const) {
      from.on("error", breakBoth);
      from.on("data", (chunk: Uint8Array) => {
        count(chunk.length);
        lifeSign();
        if (to.destroyed || to.writableEnded) return;
        if (!to.write(chunk)) from.pause();
      });
      to.on("drain", () => from.resume());
      from.on("end", () => {
        halfClosed();
        to.end();
      });
      if (from.destroyed) queueMicrotask(closed(from, to));
      else from.on("close", closed(from, to));
    }
  });
}

/** Ends a stream at once; a TCP connection with a reset, so that the other end does not take it for a good end. */
export function reset(stream: Duplex & { resetAndDestroy?: () => unknown }): void {
  if (stream.destroyed) return;
  stream.on("error", () => {});
  try {
    stream.resetAndDestroy?.();
  } catch {
    // a unix socket or TLS: it has no reset
  }
  if (!stream.destroyed) stream.destroy();
}
