// Memory for the kernel's structures (msghdr, iovec, sockaddr, ifreq): an ordinary buffer of this thread, which the core
// cannot reach. A core that a hostile packet had taken over can write all of its linear memory; if an iovec lay there,
// it could point a system call at any byte of the process.

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export class NativeMemory {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly words: Uint32Array<ArrayBuffer>;
  readonly view: DataView<ArrayBuffer>;
  /** Absolute address of the first byte; holds while this object lives. */
  readonly address: number;

  /** @param addressOf  Libc.address */
  constructor(addressOf: (view: ArrayBufferView) => number, size: number) {
    const buffer = new ArrayBuffer((size + 7) & ~7);
    this.bytes = new Uint8Array(buffer);
    this.words = new Uint32Array(buffer);
    this.view = new DataView(buffer);
    this.address = addressOf(this.bytes);
  }

  /** Stores a pointer or a 64-bit size; `offset` is a multiple of 4. */
  putPointer(offset: number, value: number): void {
    this.words[offset >>> 2] = value; // modulo 2^32
    this.words[(offset >>> 2) + 1] = value / 0x1_0000_0000;
  }

  /** Stores UTF-8 and a zero byte. @returns its absolute address @throws RangeError when it does not fit or has a zero */
  putText(offset: number, text: string): number {
    const utf8 = encoder.encode(text);
    if (utf8.includes(0)) throw new RangeError("text for the system holds a zero byte");
    if (offset + utf8.length >= this.bytes.length) throw new RangeError(`text of ${utf8.length} bytes is too long`);
    this.bytes.set(utf8, offset);
    this.bytes[offset + utf8.length] = 0;
    return this.address + offset;
  }

  /** Reads UTF-8 up to a zero byte or `size` bytes. */
  text(offset: number, size: number): string {
    const field = this.bytes.subarray(offset, offset + size);
    const end = field.indexOf(0);
    return decoder.decode(end < 0 ? field : field.subarray(0, end));
  }
}
