// SipHash-2-4 (Aumasson, Bernstein: "SipHash: a fast short-input PRF"), the keyed hash behind initial sequence numbers,
// timestamp offsets and the connection table: short inputs, 64-bit words as two halves of 32 bits each. Its key is
// random for each layer. Rejected: BLAKE2s of the core, because the netstack stands without it; BigInt, because it
// allocates.

const BLOCK_LEN = 8;

export class SipHash {
  private readonly key: Uint32Array;
  /** v0 to v3, low half first */
  private readonly v = new Int32Array(8);

  /** @param key  16 bytes */
  constructor(key: Uint8Array) {
    this.key = new Uint32Array(4);
    for (let i = 0; i < 4; i++) this.key[i] = word(key, 4 * i);
  }

  /** @returns the low 32 bits of the hash of the first `len` bytes, unsigned */
  hash(bytes: Uint8Array, len: number = bytes.length): number {
    this.absorb(bytes, len);
    const { v } = this;
    return (v[0] ^ v[2] ^ v[4] ^ v[6]) >>> 0;
  }

  /** @returns the high 32 bits of the last hash() */
  get high(): number {
    const { v } = this;
    return (v[1] ^ v[3] ^ v[5] ^ v[7]) >>> 0;
  }

  private absorb(bytes: Uint8Array, len: number): void {
    const { v, key } = this;
    v[0] = key[0] ^ 0x70736575;
    v[1] = key[1] ^ 0x736f6d65;
    v[2] = key[2] ^ 0x6e646f6d;
    v[3] = key[3] ^ 0x646f7261;
    v[4] = key[0] ^ 0x6e657261;
    v[5] = key[1] ^ 0x6c796765;
    v[6] = key[2] ^ 0x79746573;
    v[7] = key[3] ^ 0x74656462;
    const whole = len - (len % BLOCK_LEN);
    for (let at = 0; at < whole; at += BLOCK_LEN) this.compress(word(bytes, at), word(bytes, at + 4));
    let low = 0;
    let high = len << 24;
    for (let i = whole; i < len; i++) {
      if (i - whole < 4) low |= bytes[i] << (8 * (i - whole));
      else high |= bytes[i] << (8 * (i - whole - 4));
    }
    this.compress(low, high);
    v[4] ^= 0xff;
    for (let i = 0; i < 4; i++) this.round();
  }

  private compress(low: number, high: number): void {
    this.v[6] ^= low;
    this.v[7] ^= high;
    this.round();
    this.round();
    this.v[0] ^= low;
    this.v[1] ^= high;
  }

  private round(): void {
    this.add(0, 2);
    this.rotate(2, 13);
    this.xor(2, 0);
    this.rotate(0, 32);
    this.add(4, 6);
    this.rotate(6, 16);
    this.xor(6, 4);
    this.add(0, 6);
    this.rotate(6, 21);
    this.xor(6, 0);
    this.add(4, 2);
    this.rotate(2, 17);
    this.xor(2, 4);
    this.rotate(4, 32);
  }

  private add(to: number, from: number): void {
    const { v } = this;
    const low = (v[to] >>> 0) + (v[from] >>> 0);
    v[to] = low;
    v[to + 1] = v[to + 1] + v[from + 1] + (low > 0xffffffff ? 1 : 0);
  }

  private xor(to: number, from: number): void {
    this.v[to] ^= this.v[from];
    this.v[to + 1] ^= this.v[from + 1];
  }

  private rotate(at: number, bits: number): void {
    const low = this.v[at];
    const high = this.v[at + 1];
    if (bits === 32) {
      this.v[at] = high;
      this.v[at + 1] = low;
      return;
    }
    this.v[at] = (low << bits) | (high >>> (32 - bits));
    this.v[at + 1] = (high << bits) | (low >>> (32 - bits));
  }
}

/** 32 bits, little-endian */
function word(bytes: Uint8Array, at: number): number {
  return bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24);
}
