// The pump of the main thread: stamps the clock, tops up randomness, calls the core, sends what it put out, arms one
// timer for the core's next deadline. It knows no protocol and no platform.
//
// A service call does a small portion; the driver calls again while the core has more, and lets the event loop in
// between portions, so that a flood of handshakes keeps neither the UAPI nor a signal waiting.

import { EVENTS, EVENT_ARGUMENT, EVENT_MAX, EVENT_PEER, EVENT_SIZE, EVENT_TYPE, DEVICE_EVENT_HEAD } from "../assembly/abi.ts";
import { EVENT_EPHEMERAL, KEY_LOG, THREAD_DEADLINE } from "../assembly/abi.ts";
import { KEY_LEN } from "../assembly/protocol.ts";
import { type Core, statusError } from "./core.ts";
import type { Clock, DatagramSink, PacketSink, Random } from "./platform/types.ts";

export interface CoreEvent {
  /** EVENT_* of abi.ts */
  type: number;
  /** peer number, 0xffffffff = none */
  peer: number;
  argument: number;
}

export interface DriverOptions {
  core: Core;
  clock: Clock;
  random: Random;
  onEvent?: (event: CoreEvent) => void;
  /** With logKeys(true): our private ephemeral key of a handshake, before its message is sent. Wiped after the call. */
  onEphemeral?: (peer: number, privateKey: Uint8Array) => void;
  /** events that were overwritten before they were read */
  onEventsLost?: (count: number) => void;
}

/** Portions in a row before the event loop gets its turn. */
const PORTIONS = 4;
/** Longest delay of setTimeout, ms. */
const TIMEOUT_MAX_MS = 2 ** 31 - 1;

export class Driver {
  readonly core: Core;
  readonly clock: Clock;
  readonly random: Random;
  /** where OUT records go; unset while no socket is bound: what the core sends then is lost, as on a network */
  sink: DatagramSink | undefined;
  /** where DELIVER records go (portable host) */
  packets: PacketSink | undefined;
  readonly #onEvent: (event: CoreEvent) => void;
  readonly #onEphemeral: (peer: number, privateKey: Uint8Array) => void;
  readonly #onEventsLost: (count: number) => void;
  #eventTail = 0;
  #keyTail = 0;
  #logsKeys = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #turn: ReturnType<typeof setImmediate> | undefined;
  #closed = false;

  constructor(options: DriverOptions) {
    this.core = options.core;
    this.clock = options.clock;
    this.random = options.random;
    this.#onEvent = options.onEvent ?? (() => {});
    this.#onEphemeral = options.onEphemeral ?? (() => {});
    this.#onEventsLost = options.onEventsLost ?? (() => {});
  }

  /** Sends the packets of the first `count` IN records: they were put there by a packet callback, not by a lane. */
  send(count: number): void {
    if (this.#closed) return;
    this.#prepare();
    const outs = this.core.exports.deviceSend(count);
    if (outs < 0) throw statusError(`send ${count} packets`, outs);
    if (outs > 0) this.sink?.send(outs);
    if (this.core.kicked) this.service();
  }

  /** Receives the datagrams of the first `count` IN records. */
  receive(count: number): void {
    let first = 0;
    let kicked = false;
    while (first < count && !this.#closed) {
      this.#prepare();
      const next = this.core.exports.deviceReceive(first, count);
      if (next <= first) throw statusError(`receive ${count} datagrams`, next);
      first = next;
      kicked ||= this.core.kicked;
      if (this.core.deliverCount > 0) this.packets?.deliver(this.core.deliverCount);
    }
    if (kicked) this.service();
  }

  /** Does what is due: call it after a kick, after the configuration changed, and nobody else needs to. */
  service(): void {
    if (this.#closed) return;
    for (let portion = 0; portion < PORTIONS; portion++) {
      this.#prepare();
      const outs = this.core.exports.deviceService();
      if (outs < 0) throw statusError("do what is due", outs);
      const more = this.core.more;
      if (this.#logsKeys) this.#readKeys();
      if (outs > 0) this.sink?.send(outs);
      this.#readEvents();
      if (!more) {
        this.#arm();
        return;
      }
    }
    this.#turn ??= setImmediate(() => {
      this.#turn = undefined;
      this.service();
    });
  }

  /** Whether the core hands out ephemeral keys: because the user asked for a key log, never else. */
  logKeys(on: boolean): void {
    this.#logsKeys = on;
    this.#keyTail = this.core.view.getUint32(DEVICE_EVENT_HEAD, true);
    this.core.exports.deviceSetKeyLog(on ? 1 : 0);
  }

  /** No timer, no call after this. */
  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    clearImmediate(this.#turn);
  }

  #prepare(): void {
    this.clock.stamp();
    this.random.refill();
  }

  #arm(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.core.exports.deviceNextDeadline();
    const deadline = this.core.view.getFloat64(this.core.base + THREAD_DEADLINE, true);
    if (deadline === Infinity || this.#closed) return;
    const delay = Math.max(0, Math.ceil(deadline - this.clock.now()));
    this.#timer = setTimeout(() => this.service(), Math.min(delay, TIMEOUT_MAX_MS));
  }

  // Apart from the other events, and before the messages are sent: a capture wants a key before what it opens.
  #readKeys(): void {
    const { view, u8 } = this.core;
    const head = view.getUint32(DEVICE_EVENT_HEAD, true);
    if ((head - this.#keyTail) >>> 0 > EVENT_MAX) this.#keyTail = (head - EVENT_MAX) >>> 0;
    for (; this.#keyTail !== head; this.#keyTail = (this.#keyTail + 1) >>> 0) {
      const at = EVENTS + (this.#keyTail % EVENT_MAX) * EVENT_SIZE;
      if (view.getUint32(at + EVENT_TYPE, true) !== EVENT_EPHEMERAL) continue;
      const keyAt = KEY_LOG + (this.#keyTail % EVENT_MAX) * KEY_LEN;
      const key = new Uint8Array(u8.slice(keyAt, keyAt + KEY_LEN));
      u8.fill(0, keyAt, keyAt + KEY_LEN);
      try {
        this.#onEphemeral(view.getUint32(at + EVENT_PEER, true), key);
      } finally {
        key.fill(0);
      }
    }
  }

  #readEvents(): void {
    const { view } = this.core;
    const head = view.getUint32(DEVICE_EVENT_HEAD, true);
    const behind = (head - this.#eventTail) >>> 0;
    if (behind > EVENT_MAX) {
      this.#onEventsLost(behind - EVENT_MAX);
      this.#eventTail = (head - EVENT_MAX) >>> 0;
    }
    while (this.#eventTail !== head) {
      const at = EVENTS + (this.#eventTail % EVENT_MAX) * EVENT_SIZE;
      const type = view.getUint32(at + EVENT_TYPE, true);
      const peer = view.getUint32(at + EVENT_PEER, true);
      const argument = view.getUint32(at + EVENT_ARGUMENT, true);
      this.#eventTail = (this.#eventTail + 1) >>> 0;
      if (type === EVENT_EPHEMERAL) continue;
      this.#onEvent({ type, peer, argument });
    }
  }
}
