// Reads a handshake from a socket to the byte: what follows it stays in the stream for whoever takes it over.

import type { Duplex } from "node:stream";

export class Intake {
  readonly #stream: Duplex;
  #wake: (() => void) | undefined;
  readonly #listener = () => this.#wake?.();

  constructor(stream: Duplex) {
    this.#stream = stream;
    for (const event of ["readable", "end", "close"]) stream.on(event, this.#listener);
  }

  /** Exactly `length` bytes. Rejects with ECONNRESET when the stream ends before them. */
  readonly take = async (length: number): Promise<Uint8Array> => {
    for (;;) {
      const bytes: Buffer | null = this.#stream.destroyed ? null : this.#stream.read(length);
      if (bytes?.length === length) return bytes;
      if (bytes !== null || this.#stream.destroyed || this.#stream.readableEnded) {
        throw Object.assign(new Error("ended within the handshake"), { code: "ECONNRESET" });
      }
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  };

  /** What has come already, of at least one byte; waits for it. */
  readonly takeAny = async (): Promise<Uint8Array> => {
    const [first] = await this.take(1);
    const rest: Buffer | null = this.#stream.read();
    return rest === null ? Uint8Array.of(first) : Buffer.concat([Uint8Array.of(first), rest]);
  };

  /** The stream is somebody else's from here on. */
  release(): void {
    for (const event of ["readable", "end", "close"]) this.#stream.off(event, this.#listener);
  }
}
