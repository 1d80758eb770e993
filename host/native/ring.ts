// Packets from the receiving thread to the one with the event loop: a ring in shared memory, one writer, one reader.
//
// Nothing is ever dropped here: a full ring makes the writer sleep, so that datagrams wait in the socket's buffer and a
// stack's flow control is felt by the sender. The reader looks at packets where they lie and frees each at once.
//
// An entry is 16 bytes and a packet, and begins on a border of 16; it never crosses the ring's end:
//
//   offset  bytes
//   0       4      length of the packet; SKIP = the rest up to the ring's end is unused
//   4       1      shift: the packet lies 0 to 7 bytes further, so that its payload begins on a border of 8 (V8 copies
//                  from shared memory by words only where both sides lie alike, else by bytes: 5 times as slow)
//   6       10     virtio header
//   16      ...    packet
//
// HEAD and TAIL count bytes since the start, modulo 2^32. Each is written by one side alone, after the bytes it speaks of.

export const RING_SIZE = 4 << 20;
const ENTRY_HEADER = 16;
const ENTRY_SHIFT = 4;
const ENTRY_VNET = 6;
const ALIGNMENT = 16;
const SKIP = 0xffffffff;

/** Words of the control buffer. */
export const CONTROL_STOP = 0; // 1 = end at the next wake-up
export const CONTROL_WOKEN = 1; // 1 = a message is on its way to the reader, or it is at work
export const CONTROL_KICKED = 2; // 1 = the core has work for the main thread
const CONTROL_FULL = 3; // 1 = the writer sleeps on this word
const CONTROL_HEAD = 16; // each on a cache line of its own
const CONTROL_TAIL = 32;
const CONTROL_LEN = 256;

/** What both sides share; plain data, for a worker's message. */
export interface RingBuffers {
  bytes: SharedArrayBuffer;
  control: SharedArrayBuffer;
}

export function createRing(size = RING_SIZE): RingBuffers {
  return { bytes: new SharedArrayBuffer(size), control: new SharedArrayBuffer(CONTROL_LEN) };
}

const align = (size: number): number => (size + ALIGNMENT - 1) & ~(ALIGNMENT - 1);

/** The sides see the same memory and the same positions. */
class Ring {
  readonly control: Int32Array;
  protected readonly bytes: Uint8Array;
  protected readonly words: Uint32Array;
  protected readonly size: number;

  constructor({ bytes, control }: RingBuffers) {
    this.control = new Int32Array(control);
    this.bytes = new Uint8Array(bytes);
    this.words = new Uint32Array(bytes);
    this.size = bytes.byteLength;
  }

  get stopped(): boolean {
    return Atomics.load(this.control, CONTROL_STOP) !== 0;
  }

  /** Bytes between the sides. */
  protected used(): number {
    return (Atomics.load(this.control, CONTROL_HEAD) - Atomics.load(this.control, CONTROL_TAIL)) >>> 0;
  }
}

export class RingWriter extends Ring {
  readonly #wake: () => void;
  #head = 0;
  /** of the packet that was begun: its first byte, and where its next one goes */
  #packet = 0;
  #at = 0;

  /** @param wake  posts a message to the reader */
  constructor(buffers: RingBuffers, wake: () => void) {
    super(buffers);
    this.#wake = wake;
  }

  /**
   * Begins a packet of at most `room` bytes, its virtio header not counted; sleeps until there is room for it.
   * @param headers  bytes before its payload, 0 = unknown
   * @returns false when it was told to stop
   * @throws RangeError when it is longer than half of the ring, and so may find no place in an empty one
   */
  begin(room: number, headers = 0): boolean {
    const shift = -headers & 7;
    const need = align(ENTRY_HEADER + shift + room);
    if (need > this.size / 2) throw new RangeError(`a packet of ${room} bytes in a ring of ${this.size}`);
    const position = this.#head % this.size;
    const rest = this.size - position;
    if (rest < need) {
      if (!this.#waitFor(rest + need)) return false;
      this.words[position / 4] = SKIP;
      this.#head = (this.#head + rest) >>> 0;
    } else if (!this.#waitFor(need)) {
      return false;
    }
    const start = this.#head % this.size;
    this.words.fill(0, start / 4, start / 4 + ENTRY_HEADER / 4);
    this.bytes[start + ENTRY_SHIFT] = shift;
    this.#at = this.#packet = start + ENTRY_HEADER + shift;
    return true;
  }

  /** Where the packet's next byte goes; a virtio header is put first, before the packet. */
  append(piece: Uint8Array): void {
    this.bytes.set(piece, this.#at);
    this.#at += piece.length;
  }

  /** The same for the piece that the packet and its virtio header of `length` bytes begin with. */
  appendWithHeader(piece: Uint8Array, length: number): void {
    this.#at -= length;
    this.append(piece);
  }

  /** Hands the packet over. The reader may be asleep: see wake(). */
  end(): void {
    const start = this.#head % this.size;
    this.words[start / 4] = this.#at - this.#packet;
    this.#head = (this.#head + align(this.#at - start)) >>> 0;
    Atomics.store(this.control, CONTROL_HEAD, this.#head | 0);
  }

  /** Makes sure that the reader comes round. */
  wake(): void {
    if (Atomics.exchange(this.control, CONTROL_WOKEN, 1) === 0) this.#wake();
  }

  #waitFor(need: number): boolean {
    for (;;) {
      if (this.stopped) return false;
      if (this.size - this.#used() >= need) return true;
      Atomics.store(this.control, CONTROL_FULL, 1);
      this.wake();
      // Looked at again: the reader may have freed it before it could see the word. What it changes after this wakes us.
      if (this.size - this.#used() >= need || this.stopped) Atomics.store(this.control, CONTROL_FULL, 0);
      else Atomics.wait(this.control, CONTROL_FULL, 1);
    }
  }

  // A position that was skipped to is not handed over yet.
  #used(): number {
    return (this.#head - Atomics.load(this.control, CONTROL_TAIL)) >>> 0;
  }
}

export class RingReader extends Ring {
  /** the bytes of the whole ring: a packet and its virtio header lie at start..end of it */
  readonly memory: Uint8Array;
  start = 0;
  end = 0;
  #tail = 0;
  #next = 0;

  constructor(buffers: RingBuffers) {
    super(buffers);
    this.memory = this.bytes;
  }

  /** Looks at the next packet: where its virtio header begins and where it ends. @returns false when there is none */
  take(): boolean {
    if (Atomics.load(this.control, CONTROL_HEAD) >>> 0 === this.#tail) return false;
    let position = this.#tail % this.size;
    let { [position / 4]: length } = this.words;
    if (length === SKIP) {
      this.#tail = (this.#tail + this.size - position) >>> 0;
      position = 0;
      length = this.words[0];
    }
    const shift = this.bytes[position + ENTRY_SHIFT];
    this.start = position + ENTRY_VNET + shift;
    this.end = position + ENTRY_HEADER + shift + length;
    this.#next = (this.#tail + align(ENTRY_HEADER + shift + length)) >>> 0;
    return true;
  }

  /** Gives the packet's room back. */
  release(): void {
    this.#tail = this.#next;
    Atomics.store(this.control, CONTROL_TAIL, this.#tail | 0);
    // Not for each packet's room: a writer that sleeps is woken when half of the ring is free.
    if (Atomics.load(this.control, CONTROL_FULL) && this.used() <= this.size / 2) this.#wakeWriter();
  }

  /**
   * Call when take() found nothing: the next packet will send a message.
   * @returns false when one came meanwhile: go on
   */
  sleep(): boolean {
    Atomics.store(this.control, CONTROL_WOKEN, 0);
    return Atomics.load(this.control, CONTROL_HEAD) >>> 0 === this.#tail;
  }

  /** Ends the writer, if it sleeps here; one that waits for datagrams must be woken besides. */
  stop(): void {
    Atomics.store(this.control, CONTROL_STOP, 1);
    this.#wakeWriter();
  }

  #wakeWriter(): void {
    Atomics.store(this.control, CONTROL_FULL, 0);
    Atomics.notify(this.control, CONTROL_FULL);
  }
}
