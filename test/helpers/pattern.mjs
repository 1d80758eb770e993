// A stream of bytes that shows where each one belongs: one that is lost, doubled or moved is found. Plain JavaScript,
// because the kernel's side of the tests runs it without a loader.

const TABLE_LEN = 65_536;

export class Pattern {
  #table = new Uint8Array(TABLE_LEN);

  /** @param {number} seed */
  constructor(seed) {
    let state = seed | 1;
    for (let i = 0; i < TABLE_LEN; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) | 0;
      this.#table[i] = state >>> 24;
    }
  }

  /**
   * Bytes [start, start + length) of the stream.
   * @param {number} start
   * @param {number} length
   */
  bytes(start, length) {
    const bytes = new Uint8Array(length);
    for (let i = 0; i < length; i++) bytes[i] = this.#at(start + i);
    return bytes;
  }

  /**
   * Where `bytes`, which should begin at `start`, are wrong; -1 if nowhere.
   * @param {Uint8Array} bytes
   * @param {number} start
   */
  mismatch(bytes, start) {
    for (let i = 0; i < bytes.length; i++) if (bytes[i] !== this.#at(start + i)) return start + i;
    return -1;
  }

  #at(i) {
    return this.#table[i % TABLE_LEN] ^ (Math.floor(i / TABLE_LEN) & 0xff);
  }
}
