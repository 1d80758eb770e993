// What sends: bytes into a connection, datagrams to an address. Both until they are stopped, at a pace.

import { DATAGRAM_LENGTH_MIN } from "./plan.ts";
import { Outgoing, TYPE_DATA } from "./datagram.ts";
import { countError } from "./message.ts";
import type { Stream, UdpPort } from "./network.ts";
import { Pace } from "./pace.ts";

export interface Sender {
  bytes: number;
  datagrams: number;
  /** by error code */
  readonly errors: Record<string, number>;
  start(): void;
  /** No more. What was begun still goes out. */
  stop(): void;
  /** Everything is out, or never will be. */
  readonly done: Promise<void>;
}

export class StreamSender implements Sender {
  bytes = 0;
  readonly datagrams = 0;
  readonly errors: Record<string, number> = {};
  readonly done: Promise<void>;
  readonly #stream: Stream;
  readonly #block: Buffer;
  readonly #rate: number;
  #pace: Pace | null = null;
  #running = false;
  #timer: NodeJS.Timeout | undefined;

  /** @param rate  bit/s, 0 = as fast as the connection takes it */
  constructor(stream: Stream, length: number, rate: number) {
    this.#stream = stream;
    this.#block = new Outgoing(TYPE_DATA, 0, Math.max(length, DATAGRAM_LENGTH_MIN)).bytes.subarray(0, length);
    this.#rate = rate;
    this.done = new Promise((resolve) => {
      stream.once("finish", resolve);
      stream.once("close", () => {
        this.stop();
        resolve();
      });
    });
    stream.on("error", (error) => countError(this.errors, error));
    stream.on("drain", () => this.#pump());
  }

  start(): void {
    this.#running = true;
    this.#pace = new Pace(this.#rate, this.#block.length, performance.now());
    this.#pump();
  }

  stop(): void {
    this.#running = false;
    clearTimeout(this.#timer);
    if (!this.#stream.writableEnded && !this.#stream.destroyed) this.#stream.end();
  }

  #pump(): void {
    clearTimeout(this.#timer);
    while (this.#running) {
      const now = performance.now();
      if (this.#pace!.allowance(now, this.bytes) < this.#block.length) {
        const wait = this.#pace!.wait(now, this.bytes, this.#block.length);
        this.#timer = setTimeout(() => this.#pump(), Math.min(wait, 1000));
        return;
      }
      this.bytes += this.#block.length;
      if (!this.#stream.write(this.#block)) return;
    }
  }
}

/** datagrams that have not left yet: more of them would only wait in memory */
const WINDOW = 64;
/** datagrams between two looks at what else there is to do */
const BURST = 32;

export class DatagramSender implements Sender {
  bytes = 0;
  datagrams = 0;
  readonly errors: Record<string, number> = {};
  readonly done: Promise<void>;
  #finish!: () => void;
  readonly #port: UdpPort;
  readonly #to: { address: string; port: number };
  readonly #free: Outgoing[] = [];
  readonly #length: number;
  readonly #rate: number;
  #sequence = 0;
  #running = false;
  #waiting: (() => void) | null = null;

  constructor(port: UdpPort, to: { address: string; port: number }, stream: number, length: number, rate: number) {
    this.#port = port;
    this.#to = to;
    this.#length = length;
    this.#rate = rate;
    for (let i = 0; i < WINDOW; i++) this.#free.push(new Outgoing(TYPE_DATA, stream, length));
    this.done = new Promise((resolve) => (this.#finish = resolve));
  }

  start(): void {
    this.#running = true;
    void this.#run().then(this.#finish);
  }

  stop(): void {
    if (!this.#running) this.#finish();
    this.#running = false;
  }

  async #run(): Promise<void> {
    const pace = new Pace(this.#rate, this.#length, performance.now());
    while (this.#running) {
      for (let i = 0; i < BURST && this.#running; i++) {
        const now = performance.now();
        const offered = this.#sequence * this.#length;
        if (pace.allowance(now, offered) < this.#length) {
          const wait = Math.min(100, pace.wait(now, offered, this.#length));
          await new Promise<void>((resolve) => setTimeout(resolve, wait));
          continue;
        }
        if (this.#free.length === 0) await new Promise<void>((resolve) => (this.#waiting = resolve));
        this.#send(now);
      }
      await new Promise<void>((resolve) => setImmediate(resolve));
    }
    while (this.#free.length < WINDOW) await new Promise<void>((resolve) => (this.#waiting = resolve));
  }

  #send(now: number): void {
    const outgoing = this.#free.pop()!;
    this.#port.send(outgoing.stamp(this.#sequence++, now), this.#to.port, this.#to.address, (error) => {
      if (error) {
        countError(this.errors, error);
      } else {
        this.datagrams++;
        this.bytes += this.#length;
      }
      this.#free.push(outgoing);
      const waiting = this.#waiting;
      this.#waiting = null;
      waiting?.();
    });
  }
}
