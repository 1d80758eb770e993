// Any transport as the device's network: its one port with two-phase changes, datagrams out from OUT records, datagrams
// in through a queue.
//
// Datagrams wait in the queue for the end of the event loop's turn, so that those that came together are opened together
// and TCP runs are joined; no timer is involved, and one alone waits for nothing but the turn. The queue is memory of our
// own and not the core's slots: these are written by whatever the device does in between. It also makes a transport
// harmless that answers before its send() returns.

import {
  ENDPOINT_LEN, IN_ENDPOINT, IN_FLAGS, IN_LENGTH, IN_MAX, IN_OFFSET, IN_SEGMENT, IN_SIZE, OUT_ENDPOINT, OUT_LENGTH, OUT_MAX,
  OUT_OFFSET, OUT_SEGMENT, OUT_SIZE, SLOTS_SIZE, SLOT_DATA_SIZE, SLOT_HEADROOM, THREAD_IN, THREAD_OUT,
} from "../../../assembly/abi.ts";
import { DATA_HEADER_LEN } from "../../../assembly/protocol.ts";
import type { Core } from "../../core.ts";
import type { Network } from "../../device.ts";
import { decodeEndpoint, encodeEndpoint, type Endpoint } from "../../endpoint.ts";
import { WasmguardError } from "../../errors.ts";
import type { Transport, TransportSocket } from "../../transport/types.ts";
import type { DatagramSink, ErrorCounts } from "../types.ts";
import { RECEIVE_SIZE } from "./slots.ts";

const QUEUE_SIZE = 4 * SLOT_DATA_SIZE;
/** Datagrams lie on borders of so many bytes, in the queue as in the slots, so that the packet inside is 16-aligned. */
const ALIGNMENT = 64;

const align = (size: number): number => Math.ceil(size / ALIGNMENT) * ALIGNMENT;

if (QUEUE_SIZE + SLOT_HEADROOM > RECEIVE_SIZE) throw new RangeError("the queue outgrew the slots");

export interface CarrierOptions {
  core: Core;
  transport: Transport;
  /** the first `count` IN records hold datagrams; they are to be received before it returns */
  onDatagrams: (count: number) => void;
}

export class Carrier implements Network, DatagramSink {
  readonly errors: ErrorCounts = new Map();
  readonly fwmark = 0;
  readonly kind = "portable";
  readonly #options: CarrierOptions;
  #socket: TransportSocket | null = null;
  #closed = false;
  /** a call of the core's is under way, and its records are in use */
  #busy = false;

  readonly #queue = new Uint8Array(QUEUE_SIZE);
  readonly #lengths = new Uint32Array(IN_MAX);
  readonly #endpoints = new DataView(new ArrayBuffer(IN_MAX * ENDPOINT_LEN));
  #queued = 0;
  #used = 0;
  #turn: ReturnType<typeof setImmediate> | undefined;

  #lastEndpoint: Endpoint | null = null;
  #lastWords = new Uint32Array(ENDPOINT_LEN / 4);

  constructor(options: CarrierOptions) {
    this.#options = options;
  }

  get listenPort(): number {
    return this.#socket?.port ?? 0;
  }

  async prepare(change: { listenPort?: number; fwmark?: number }): Promise<{ commit(): void; rollback(): void }> {
    if (change.fwmark) {
      throw new WasmguardError("ENOTSUP", "Cannot set fwmark: this transport has no firewall marks", { errno: 95 });
    }
    const { listenPort } = change;
    const stays = listenPort === undefined || (listenPort !== 0 && listenPort === this.listenPort);
    if (stays) return { commit() {}, rollback() {} };
    const bound = await this.#options.transport.bind(listenPort);
    return { commit: () => this.#adopt(bound), rollback: () => bound.close() };
  }

  /** Binds a port if none is bound yet. */
  async open(): Promise<void> {
    if (!this.#socket) this.#adopt(await this.#options.transport.bind(0));
  }

  close(): void {
    this.#closed = true;
    this.#socket?.close();
    this.#socket = null;
    this.#queued = 0;
    clearImmediate(this.#turn);
  }

  send(count: number): number {
    if (count > OUT_MAX) throw new WasmguardError("ERR_CORE_ADDRESS", `The core gave ${count} datagrams`);
    const busy = this.#busy;
    this.#busy = true;
    try {
      let sent = 0;
      for (let i = 0; i < count; i++) sent += this.#sendRecord(this.#options.core.base + THREAD_OUT + i * OUT_SIZE);
      return sent;
    } finally {
      this.#busy = busy;
    }
  }

  #sendRecord(record: number): number {
    const { view, u8, slots } = this.#options.core;
    const offset = view.getUint32(record + OUT_OFFSET, true);
    const length = view.getUint32(record + OUT_LENGTH, true);
    const segment = view.getUint32(record + OUT_SEGMENT, true) || length;
    if (offset < slots || offset + length > slots + SLOTS_SIZE) {
      throw new WasmguardError("ERR_CORE_ADDRESS", `The core gave a datagram outside of its slots: ${offset}+${length}`);
    }
    const endpoint = this.#endpointAt(record + OUT_ENDPOINT);
    if (!endpoint || !this.#socket) return 0;
    let sent = 0;
    for (let at = 0; at < length; at += segment, sent++) {
      this.#socket.send(u8.subarray(offset + at, offset + Math.min(at + segment, length)), endpoint);
    }
    return sent;
  }

  // One after the other goes to the same peer.
  #endpointAt(record: number): Endpoint | null {
    const { view } = this.#options.core;
    const words = this.#lastWords;
    let same = this.#lastEndpoint !== null;
    for (let i = 0; i < words.length; i++) {
      const word = view.getUint32(record + i * 4, true);
      if (words[i] === word) continue;
      words[i] = word;
      same = false;
    }
    if (!same) this.#lastEndpoint = decodeEndpoint(view, record);
    return this.#lastEndpoint;
  }

  #countError(code: string): void {
    this.errors.set(code, (this.errors.get(code) ?? 0) + 1);
  }

  #adopt(bound: TransportSocket): void {
    if (this.#closed) return bound.close();
    this.#socket?.close();
    this.#socket = bound;
    bound.onDatagram = (datagram, from) => this.#enqueue(datagram, from);
    bound.onError = (code) => this.#countError(code);
  }

  #enqueue(datagram: Uint8Array, from: Endpoint): void {
    if (this.#closed) return;
    const { length } = datagram;
    if (length > SLOT_DATA_SIZE) return this.#countError("EMSGSIZE");
    if (this.#queued === IN_MAX || this.#used + length > QUEUE_SIZE) {
      if (this.#busy) return this.#countError("ENOBUFS");
      this.#receive();
    }
    this.#queue.set(datagram, this.#used);
    this.#used += align(length);
    this.#lengths[this.#queued] = length;
    encodeEndpoint(this.#endpoints, this.#queued * ENDPOINT_LEN, from);
    this.#queued++;
    this.#turn ??= setImmediate(() => this.#receive());
  }

  /** Hands over what is queued. */
  #receive(): void {
    clearImmediate(this.#turn);
    this.#turn = undefined;
    const count = this.#queued;
    if (count === 0 || this.#closed) return;
    const { view, u8, base, slots } = this.#options.core;
    const start = slots + SLOT_HEADROOM - DATA_HEADER_LEN;
    u8.set(this.#queue.subarray(0, this.#used), start);
    let at = start;
    for (let i = 0; i < count; i++) {
      const record = base + THREAD_IN + i * IN_SIZE;
      view.setUint32(record + IN_OFFSET, at, true);
      view.setUint32(record + IN_LENGTH, this.#lengths[i], true);
      view.setUint32(record + IN_SEGMENT, 0, true);
      view.setUint32(record + IN_FLAGS, 0, true);
      u8.set(new Uint8Array(this.#endpoints.buffer, i * ENDPOINT_LEN, ENDPOINT_LEN), record + IN_ENDPOINT);
      at += align(this.#lengths[i]);
    }
    this.#queued = 0;
    this.#used = 0;
    this.#busy = true;
    try {
      this.#options.onDatagrams(count);
    } finally {
      this.#busy = false;
    }
  }
}
