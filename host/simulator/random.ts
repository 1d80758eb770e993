// Seeded randomness for the simulator: the same seed gives the same numbers on every engine, because it is 32-bit
// integer arithmetic alone. Each part of a simulation (a node, the wire, the traffic) draws from a stream of its own,
// so that one more draw in one part moves nothing in another.
//
// sfc32 (PractRand), seeded through the finalizer of MurmurHash3. Not for anything but tests.

export class Stream {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  /** @param label names the stream: other labels, other numbers */
  constructor(seed: number, label: string) {
    let state = seed >>> 0;
    for (let i = 0; i < label.length; i++) state = mix(state ^ label.charCodeAt(i), 0x9e3779b9);
    this.#a = mix(state, 0x243f6a88);
    this.#b = mix(state, 0x85a308d3);
    this.#c = mix(seed >>> 0, 0x13198a2e);
    for (let i = 0; i < 12; i++) this.u32();
  }

  /** 0 .. 2^32 - 1 */
  u32(): number {
    const sum = (this.#a + this.#b + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + sum) | 0;
    return sum >>> 0;
  }

  /** 0 .. limit - 1; limit <= 2^32 */
  below(limit: number): number {
    return Math.floor((this.u32() / 2 ** 32) * limit);
  }

  /** true with this probability; draws a number even when the answer is sure, so that no draw depends on an option */
  chance(probability: number): boolean {
    return this.u32() < probability * 2 ** 32;
  }

  fill(bytes: Uint8Array): void {
    for (let i = 0; i < bytes.length; i++) bytes[i] = this.u32() >>> 24;
  }

  bytes(length: number): Uint8Array {
    const bytes = new Uint8Array(length);
    this.fill(bytes);
    return bytes;
  }
}

function mix(state: number, constant: number): number {
  let h = (state ^ constant) | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
