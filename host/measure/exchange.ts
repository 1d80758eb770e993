// Tests of questions and answers. The client asks one at a time (a connection, a request) and takes the time; the server
// only counts what it answered, so that both can say the same number.

import { WasmguardError } from "../errors.ts";
import { Outgoing, TYPE_REPLY, TYPE_REQUEST, decodeHeader } from "./datagram.ts";
import { encodeFrame } from "./frame.ts";
import { Histogram } from "./histogram.ts";
import { type ExchangeReport, countError } from "./message.ts";
import type { Network, Stream, UdpPort } from "./network.ts";

/** Without an answer for so long, a request is lost. */
const ANSWER_MS = 1000;
/** After a connection that could not be made. */
const PAUSE_MS = 20;

export interface Exchanger {
  /** answered so far */
  count: number;
  lost: number;
  /** times since somebody looked; of the client only */
  readonly second: Histogram | null;
  start(): void;
  stop(): void;
  /** the last one is over */
  readonly done: Promise<unknown>;
  report(): ExchangeReport;
}

/** The server's part. */
export class Answers implements Exchanger {
  count = 0;
  readonly lost = 0;
  readonly second = null;
  readonly done = Promise.resolve();
  start(): void {}
  stop(): void {}

  report(): ExchangeReport {
    return { done: this.count, lost: 0, ms: 0, errors: {}, times: null };
  }
}

/** One question. @returns false when no answer came in time */
export type Ask = () => Promise<boolean>;

/** The client's part: several loops, each asking again when it was answered. */
export class Questions implements Exchanger {
  count = 0;
  lost = 0;
  readonly second = new Histogram();
  readonly done: Promise<unknown>;
  readonly #all = new Histogram();
  readonly #errors: Record<string, number> = {};
  readonly #asks: Ask[];
  #settle!: (work: unknown) => void;
  #running = false;
  #startedAt = 0;
  #endedAt = 0;

  /** @param asks  one for each loop */
  constructor(asks: Ask[]) {
    this.#asks = asks;
    this.done = new Promise((resolve) => (this.#settle = resolve));
  }

  start(): void {
    this.#running = true;
    this.#startedAt = performance.now();
    this.#settle(Promise.all(this.#asks.map((ask) => this.#loop(ask))));
  }

  /** No more questions; those that are asked get their time. */
  stop(): void {
    if (!this.#running) this.#settle(null);
    this.#running = false;
  }

  async #loop(ask: Ask): Promise<void> {
    while (this.#running) {
      const at = performance.now();
      try {
        if (await ask()) {
          const ms = performance.now() - at;
          this.count++;
          this.#all.add(ms);
          this.second.add(ms);
        } else {
          this.lost++;
        }
      } catch (error) {
        countError(this.#errors, error);
        await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      }
      this.#endedAt = performance.now();
    }
  }

  report(): ExchangeReport {
    return {
      done: this.count,
      lost: this.lost,
      ms: Math.max(0, this.#endedAt - this.#startedAt),
      errors: this.#errors,
      times: this.#all.percentiles(),
    };
  }
}

/** Connects, shows the token, waits for the one byte that says it was seen, and closes. */
export function connectAgain(network: Network, host: string, port: number, token: string, stream: number): Ask {
  const hello = encodeFrame({ type: "data", token, stream });
  return async () => {
    const connection = await network.connect(host, port);
    try {
      connection.write(hello);
      return await firstByte(connection);
    } finally {
      // By a reset: thousands of connections in TIME-WAIT would use up the ports (RFC 9293 §3.6.1).
      if (connection.resetAndDestroy) connection.resetAndDestroy();
      else connection.destroy();
    }
  };
}

function firstByte(connection: Stream): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => resolve(false), ANSWER_MS);
    const gone = (): void => reject(new WasmguardError("ECONNRESET", "the connection was closed"));
    connection.once("data", () => resolve(true)).on("error", reject).once("close", gone).once("end", gone);
    connection.once("close", () => clearTimeout(timer));
  });
}

/** Requests over a connection: `length` bytes there, the same back. */
export function askStream(stream: Stream, length: number): Ask {
  const request = Buffer.alloc(length, 0x5a);
  const gone = new WasmguardError("ECONNRESET", "the connection was closed");
  let missing = 0;
  let settle: { resolve(isAnswered: boolean): void; reject(error: Error): void } | null = null;
  stream.setNoDelay(true);
  stream.on("data", (chunk: Uint8Array) => {
    missing -= chunk.length;
    if (missing <= 0) settle?.resolve(true);
  });
  stream.on("error", (error) => settle?.reject(error)).on("close", () => settle?.reject(gone));
  // A request over TCP is late and never lost: its loop waits for the answer, or for the end.
  return () =>
    new Promise((resolve, reject) => {
      if (stream.destroyed) return reject(gone);
      missing = length;
      settle = { resolve, reject };
      stream.write(request);
    });
}

/** Requests by datagrams. An answer that comes too late is not taken for the next one's. */
export function askUdp(port: UdpPort, to: { address: string; port: number }, stream: number, length: number): Ask {
  const request = new Outgoing(TYPE_REQUEST, stream, length);
  let sequence = 0;
  let answered: (() => void) | null = null;
  port.onDatagram = (bytes) => {
    const header = decodeHeader(bytes);
    if (header?.type === TYPE_REPLY && header.sequence === sequence) answered?.();
  };
  return () =>
    new Promise((resolve, reject) => {
      sequence++;
      const timer = setTimeout(() => resolve(false), ANSWER_MS);
      const settle = (end: () => void): void => {
        clearTimeout(timer);
        end();
      };
      answered = () => settle(() => resolve(true));
      port.send(request.stamp(sequence, performance.now()), to.port, to.address, (error) => {
        if (error) settle(() => reject(error));
      });
    });
}
