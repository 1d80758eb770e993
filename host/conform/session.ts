// A session as we hold it: keys, indices and a counter, all in the open, so that a check can send what no right peer
// would: any counter, any index, any plaintext.

import { type Bytes, concat, dataMessage, openData, readLe32, readLe64 } from "./noise.ts";
import { Deviation, hex } from "./check.ts";
import type { Received } from "./port.ts";

export const KEEPALIVE: Bytes = new Uint8Array(0);
/** header and tag, bytes */
export const DATA_OVERHEAD = 32;

export class Session {
  /** the index that the peer sends to */
  readonly local: number;
  /** the index that we send to */
  readonly remote: number;
  readonly sendingKey: Bytes;
  readonly receivingKey: Bytes;
  /** next to send */
  counter = 0n;
  /** ms, performance.now() */
  readonly born = performance.now();

  constructor(local: number, remote: number, sendingKey: Bytes, receivingKey: Bytes) {
    this.local = local;
    this.remote = remote;
    this.sendingKey = sendingKey;
    this.receivingKey = receivingKey;
  }

  /** A message for the peer, padded; with the next counter if none is given. */
  seal(packet: Bytes, counter = this.counter): Bytes {
    if (counter >= this.counter && counter < 2n ** 63n) this.counter = counter + 1n;
    return dataMessage(this.remote, counter, this.sendingKey, packet);
  }

  /** Whether it is a data message to this session. */
  owns({ bytes }: Received): boolean {
    return bytes.length >= DATA_OVERHEAD && readLe32(bytes, 0) === 4 && readLe32(bytes, 4) === this.local;
  }

  /** @throws Deviation when the tag is wrong */
  open(message: Bytes): { plain: Bytes; counter: bigint } {
    try {
      return { plain: openData(message, this.receivingKey), counter: readLe64(message, 8) };
    } catch {
      throw new Deviation(
        `data under this session's index that its key does not open: ${hex(message.slice(0, 32))} ...`,
      );
    }
  }
}

/** The message with one bit of byte `at` turned; from the end if negative. */
export function flipped(message: Bytes, at: number): Bytes {
  const copy = concat(message);
  copy[at < 0 ? copy.length + at : at] ^= 1;
  return copy;
}
