// The tap: copies of the datagrams that pass a thread of the core, as they are on the wire, for a capture file. It reads
// the records that the host reads and writes anyway, before the core opens what came in (in place, so the ciphertext is
// gone afterwards) and before what goes out is sent.

import {
  ENDPOINT_SRC_ADDR, ENDPOINT_SRC_FAMILY, IN_ENDPOINT, IN_LENGTH, IN_OFFSET, IN_SEGMENT, IN_SIZE, OUT_ENDPOINT, OUT_LENGTH,
  OUT_OFFSET, OUT_SEGMENT, OUT_SIZE, SLOTS_SIZE, THREAD_IN, THREAD_OUT,
} from "../../assembly/abi.ts";
import type { Core } from "../core.ts";
import { decodeEndpoint, type Endpoint } from "../endpoint.ts";
import type { DatagramSink, ErrorCounts } from "../platform/types.ts";

/** A datagram that passed. */
export interface Captured {
  incoming: boolean;
  /** where it came from or goes to */
  remote: Endpoint;
  /** the address of ours that it came to, or leaves from; null when only the system knows */
  local: Uint8Array | null;
  bytes: Uint8Array;
  /** ms since 1970, with fractions */
  at: number;
}

export class Tap {
  readonly #core: Core;
  readonly #emit: (captured: Captured[]) => void;

  constructor(core: Core, emit: (captured: Captured[]) => void) {
    this.#core = core;
    this.#emit = emit;
  }

  /** The first `count` IN records: call before deviceReceive. */
  incoming(count: number): void {
    const { base } = this.#core;
    const captured: Captured[] = [];
    for (let i = 0; i < count; i++) {
      const record = base + THREAD_IN + i * IN_SIZE;
      this.#take(captured, true, record + IN_OFFSET, record + IN_LENGTH, record + IN_SEGMENT, record + IN_ENDPOINT);
    }
    if (captured.length > 0) this.#emit(captured);
  }

  /** The first `count` OUT records: call before they are sent. */
  outgoing(count: number): void {
    const { base } = this.#core;
    const captured: Captured[] = [];
    for (let i = 0; i < count; i++) {
      const record = base + THREAD_OUT + i * OUT_SIZE;
      this.#take(captured, false, record + OUT_OFFSET, record + OUT_LENGTH, record + OUT_SEGMENT, record + OUT_ENDPOINT);
    }
    if (captured.length > 0) this.#emit(captured);
  }

  #take(captured: Captured[], incoming: boolean, offsetAt: number, lengthAt: number, segmentAt: number, endpointAt: number): void {
    const { view, u8, slots } = this.#core;
    const offset = view.getUint32(offsetAt, true);
    const length = view.getUint32(lengthAt, true);
    const segment = view.getUint32(segmentAt, true) || length;
    const remote = decodeEndpoint(view, endpointAt);
    // What lies outside of the slots is refused by the sender, who says so.
    if (!remote || length === 0 || offset < slots || offset + length > slots + SLOTS_SIZE) return;
    const family = view.getUint32(endpointAt + ENDPOINT_SRC_FAMILY, true);
    const source = endpointAt + ENDPOINT_SRC_ADDR;
    const local = family === remote.family ? new Uint8Array(u8.slice(source, source + (family === 4 ? 4 : 16))) : null;
    const at = performance.timeOrigin + performance.now();
    for (let start = 0; start < length; start += segment) {
      const bytes = new Uint8Array(Math.min(segment, length - start));
      bytes.set(u8.subarray(offset + start, offset + start + bytes.length));
      captured.push({ incoming, remote, local, bytes, at });
    }
  }
}

/** A sink that shows what it sends to a tap. */
export class TappedSink implements DatagramSink {
  readonly #sink: DatagramSink;
  readonly #tap: Tap;

  constructor(sink: DatagramSink, tap: Tap) {
    this.#sink = sink;
    this.#tap = tap;
  }

  get errors(): ErrorCounts {
    return this.#sink.errors;
  }

  send(count: number): number {
    this.#tap.outgoing(count);
    return this.#sink.send(count);
  }
}
