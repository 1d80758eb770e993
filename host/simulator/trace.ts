// What happened, one line an event:
//
//   1000.000000000 a  out      initiation 148 b 7f0c41d2a9e35b10
//   time, s        who what    detail             hash of the bytes
//
// and a running hash over all lines, so that two runs are compared by 16 digits. The hash is FNV-1a in two lanes of 32
// bits: it tells runs apart and runs on every engine without an import; it is no defence against anybody.

/** 64 bits of a hash, as 16 hex digits. */
export class Hash {
  #low = 0x811c9dc5 | 0;
  #high = 0x01000193 | 0;

  bytes(bytes: Uint8Array): this {
    let low = this.#low;
    let high = this.#high;
    for (let i = 0; i < bytes.length; i++) {
      low = Math.imul(low ^ bytes[i], 0x01000193);
      high = Math.imul(high ^ bytes[i] ^ (low >>> 24), 0x85ebca6b);
    }
    this.#low = low;
    this.#high = high;
    return this;
  }

  text(text: string): this {
    for (let i = 0; i < text.length; i++) {
      this.#low = Math.imul(this.#low ^ text.charCodeAt(i), 0x01000193);
      this.#high = Math.imul(this.#high ^ text.charCodeAt(i) ^ (this.#low >>> 24), 0x85ebca6b);
    }
    return this;
  }

  hex(): string {
    return word(this.#high) + word(this.#low);
  }
}

const word = (value: number): string => (value >>> 0).toString(16).padStart(8, "0");

export const hashOf = (bytes: Uint8Array): string => new Hash().bytes(bytes).hex();

export class Trace {
  readonly #hash = new Hash();
  /** kept only when asked for: a long run has millions */
  readonly lines: string[] | undefined;
  count = 0;

  constructor(keep: boolean) {
    this.lines = keep ? [] : undefined;
  }

  /** @param time ns */
  add(time: number, who: string, what: string, detail: string): void {
    const line = `${formatTime(time)} ${who.padEnd(2)} ${what.padEnd(9)} ${detail}`;
    this.#hash.text(line);
    this.count++;
    this.lines?.push(line);
  }

  /** of everything so far */
  hex(): string {
    return this.#hash.hex();
  }
}

function formatTime(time: number): string {
  return `${Math.floor(time / 1e9)}.${String(time % 1e9).padStart(9, "0")}`;
}
