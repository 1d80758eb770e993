// A message on a TCP connection: 4 bytes of length, big-endian, and that many bytes of JSON. The first frame of a
// connection says what it is for; a data connection has no other.

import type { Duplex } from "node:stream";
import { WasmguardError } from "../errors.ts";

/** bytes of JSON */
export const FRAME_MAX = 16 << 10;
const LENGTH_LEN = 4;

export function encodeFrame(message: unknown): Buffer {
  const json = Buffer.from(JSON.stringify(message), "utf8");
  if (json.length > FRAME_MAX) throw new RangeError(`Cannot send a message of ${json.length} bytes: the most is ${FRAME_MAX}`);
  const frame = Buffer.alloc(LENGTH_LEN + json.length);
  frame.writeUInt32BE(json.length);
  json.copy(frame, LENGTH_LEN);
  return frame;
}

/** Takes bytes as they come, gives messages. Holds no more than one frame and the chunk it came with. */
export class FrameReader {
  #bytes: Buffer = Buffer.alloc(0);

  push(chunk: Uint8Array): void {
    this.#bytes = Buffer.concat([this.#bytes, chunk]);
  }

  /** @returns the next message, undefined when it is not there yet. @throws WasmguardError EPROTO */
  next(): unknown {
    if (this.#bytes.length < LENGTH_LEN) return undefined;
    const length = this.#bytes.readUInt32BE();
    if (length < 2 || length > FRAME_MAX) throw new WasmguardError("EPROTO", "it does not speak the protocol of wasmguard bench");
    if (this.#bytes.length < LENGTH_LEN + length) return undefined;
    const json = this.#bytes.toString("utf8", LENGTH_LEN, LENGTH_LEN + length);
    this.#bytes = this.#bytes.subarray(LENGTH_LEN + length);
    try {
      return JSON.parse(json) as unknown;
    } catch {
      throw new WasmguardError("EPROTO", "it sent a message that is no JSON");
    }
  }

  /** What has come behind the last message. */
  get rest(): Buffer {
    return this.#bytes;
  }
}

/**
 * Reads the first message of a connection and leaves the stream paused behind it.
 * @throws WasmguardError EPROTO, ETIMEDOUT, ECONNRESET
 */
export function readFirst(socket: Duplex, patienceMs: number): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const reader = new FrameReader();
    const settle = (end: () => void): void => {
      clearTimeout(timer);
      socket.off("data", onData).off("end", onEnd).off("close", onEnd).off("error", onError);
      socket.pause();
      end();
    };
    const onError = (error: Error): void => settle(() => reject(error));
    const onEnd = (): void => onError(new WasmguardError("ECONNRESET", "it closed the connection"));
    const onData = (chunk: Buffer): void => {
      try {
        reader.push(chunk);
        const message = reader.next();
        if (message === undefined) return;
        settle(() => {
          if (reader.rest.length > 0) socket.unshift(reader.rest);
          resolve(message);
        });
      } catch (error) {
        onError(error as Error);
      }
    };
    const timer = setTimeout(() => onError(new WasmguardError("ETIMEDOUT", "it says nothing")), patienceMs);
    socket.on("data", onData).on("end", onEnd).on("close", onEnd).on("error", onError);
  });
}
