// The control connection: messages out, messages in by their type, and an end for whoever goes silent. Once something is
// wrong it stays so: every wait rejects with the same error.

import { WasmguardError } from "../errors.ts";
import { FrameReader, encodeFrame } from "./frame.ts";
import { type Interval, type Message, type MessageOf, readMessage } from "./message.ts";
import type { Stream } from "./network.ts";

/** Longest silence: in a test each side says something every second. */
export const SILENCE_MS = 15_000;
/** for a last word */
const LINGER_MS = 1000;
/** messages of a type that wait to be asked for */
const WAITING_MAX = 4;

export class Control {
  readonly stream: Stream;
  onInterval: ((interval: Interval) => void) | null = null;
  onStop: (() => void) | null = null;
  /** never fulfilled */
  readonly failed: Promise<never>;
  #fail!: (error: Error) => void;
  #error: Error | null = null;
  readonly #reader = new FrameReader();
  readonly #came: Message[] = [];
  readonly #waiting = new Map<string, (message: Message) => void>();
  #timer: NodeJS.Timeout | undefined;

  constructor(stream: Stream, silenceMs = SILENCE_MS) {
    this.stream = stream;
    this.failed = new Promise((_, reject) => (this.#fail = reject));
    this.failed.catch(() => {});
    stream.setNoDelay(true);
    const arm = (): void => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.fail(new WasmguardError("ETIMEDOUT", "the other end went silent")), silenceMs);
    };
    const gone = (): void => this.#end(new WasmguardError("ECONNRESET", "the other end closed the connection"));
    stream.on("data", (chunk: Buffer) => {
      if (this.#error) return;
      try {
        this.#reader.push(chunk);
        for (let value = this.#reader.next(); value !== undefined; value = this.#reader.next()) {
          arm();
          this.#take(readMessage(value));
        }
      } catch (error) {
        this.fail(error as Error);
      }
    });
    stream.on("error", (error) => this.#end(error)).on("end", gone).on("close", gone);
    arm();
    stream.resume();
  }

  get open(): boolean {
    return this.#error === null;
  }

  send(message: Message): void {
    if (!this.#error) this.stream.write(encodeFrame(message));
  }

  /** The next message of a type, now or when it comes. */
  expect<T extends Message["type"]>(type: T): Promise<MessageOf<T>> {
    const found = this.#came.findIndex((message) => message.type === type);
    if (found >= 0) return Promise.resolve(this.#came.splice(found, 1)[0] as MessageOf<T>);
    const next = new Promise<Message>((resolve) => this.#waiting.set(type, resolve));
    return Promise.race([next as Promise<MessageOf<T>>, this.failed]);
  }

  /** Ends it because of what went wrong here, which the other end is told. */
  fail(error: Error): void {
    const { code } = error as { code?: unknown };
    const known = typeof code === "string" && /^[A-Z][A-Z0-9_]{0,39}$/.test(code) ? code : "EIO";
    const message = error.message.replace(/[^\x20-\x7e]/g, "?").slice(0, 300) || "it failed";
    this.#end(error, { type: "error", code: known, message });
  }

  /** Ends it with nothing wrong, or with a word about what is. */
  close(why?: { code: string; message: string }): void {
    this.#end(new WasmguardError("ERR_CLOSED", "the connection was closed"), why && { type: "error", ...why });
  }

  #end(error: Error, last?: Message): void {
    if (this.#error) return;
    this.#error = error;
    clearTimeout(this.#timer);
    this.#fail(error);
    if (this.stream.destroyed) return;
    this.stream.end(last && encodeFrame(last));
    // The other end reads it and ends; if it does not, we do not wait.
    const timer = setTimeout(() => this.stream.destroy(), LINGER_MS);
    this.stream.once("close", () => clearTimeout(timer)).once("end", () => this.stream.destroy());
  }

  #take(message: Message): void {
    if (message.type === "error") return this.#end(new WasmguardError(message.code, message.message));
    if (message.type === "interval") return this.onInterval?.(message.interval);
    if (message.type === "stop") return this.onStop?.();
    const waiting = this.#waiting.get(message.type);
    if (waiting) {
      this.#waiting.delete(message.type);
      return waiting(message);
    }
    if (this.#came.push(message) > WAITING_MAX) throw new WasmguardError("EPROTO", `a message "${message.type}" out of turn`);
  }
}
