// What the lanes of core-worker.mjs and the main thread of test/memory/threads.test.ts share: rings of datagrams, logs,
// packets and endpoints that can be checked without knowing who made them.

/** Words of the control buffer (Int32). */
export const WORDS = {
  STOP_SENDERS: 0,
  STOP_RECEIVERS: 1,
  MAIN_BELL: 2,
  HEARTBEAT: 3,
  CLOCK: 4, // two words: virtual ns
  KICK: 6, // one a device
  REAL_PEERS: 8, // one a device: bit N = peer N was at some time the other device
  SENT: 64, // 64 a device: packets a flow
  RECEIVED: 192, // 64 a device: newest packet + 1 a flow
  COUNT: 320,
};

/** Numbers below `limit`. */
export function makeRandom(seed) {
  let state = seed >>> 0;
  return (limit) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
}

/** A ring of datagrams, one producer, one consumer: SIZE entries {length and mark, bytes}. */
export class Ring {
  static SIZE = 512;
  static ENTRY = 2048;
  static BYTES = 64 + Ring.SIZE * Ring.ENTRY;
  static REPEATED = 1;
  static SPOILED = 2;
  #words;
  #bytes;

  constructor(buffer) {
    this.#words = new Int32Array(buffer);
    this.#bytes = new Uint8Array(buffer);
  }

  get length() {
    return (Atomics.load(this.#words, 0) - Atomics.load(this.#words, 1)) | 0;
  }

  #entry(position) {
    return 64 + (position & (Ring.SIZE - 1)) * Ring.ENTRY;
  }

  /** @returns false when the ring is full, as a socket's buffer may be */
  put(bytes, mark) {
    if (this.length === Ring.SIZE) return false;
    const head = Atomics.load(this.#words, 0);
    const at = this.#entry(head);
    this.#words[at >> 2] = (mark << 16) | bytes.length;
    this.#bytes.set(bytes, at + 4);
    Atomics.store(this.#words, 0, (head + 1) | 0);
    return true;
  }

  /** Length of the oldest. */
  peek() {
    return this.#words[this.#entry(Atomics.load(this.#words, 1)) >> 2] & 0xffff;
  }

  /** Moves the oldest to `dst`. @returns its mark */
  take(u8, dst) {
    const tail = Atomics.load(this.#words, 1);
    const at = this.#entry(tail);
    const word = this.#words[at >> 2];
    u8.set(this.#bytes.subarray(at + 4, at + 4 + (word & 0xffff)), dst);
    Atomics.store(this.#words, 1, (tail + 1) | 0);
    return word >> 16;
  }
}

/** {session index, counter, flow, seq} of packets, written by one thread and read when it has ended. */
export class Log {
  static MAX = 1 << 20;
  static BYTES = 16 + Log.MAX * 16;
  #words;

  constructor(buffer) {
    this.#words = new Uint32Array(buffer);
  }

  get length() {
    return this.#words[0];
  }

  get isNearlyFull() {
    return this.length > Log.MAX / 2;
  }

  write(index, counter, flow, seq) {
    const at = 4 + this.#words[0]++ * 4;
    if (this.#words[0] > Log.MAX) throw new Error("the log is full");
    this.#words[at] = index;
    this.#words[at + 1] = counter;
    this.#words[at + 2] = flow;
    this.#words[at + 3] = seq;
  }

  read(i) {
    const [index, counter, flow, seq] = this.#words.subarray(4 + i * 4, 8 + i * 4);
    return { index, counter, flow, seq };
  }
}

/** Flows of each direction; one more has a source that is never allowed. */
export const FLOWS = 8;
export const SPOOFED = FLOWS;

/** Source and destination of a flow: 10.DEVICE.0.FLOW and 10.OTHER.0.FLOW. */
const endsOf = (device, flow) =>
  flow === SPOOFED ? [10, device, 77, flow, 10, 1 - device, 0, 0] : [10, device, 0, flow, 10, 1 - device, 0, flow];

const mix = (seq, flow, i) => Math.imul(seq ^ (flow << 24) ^ Math.imul(i, 0x9e3779b1), 0x85ebca6b) >>> 0;

/** Writes packet `seq` of a flow. @returns its length, a multiple of 4 */
export function makePacket(u8, view, at, device, flow, seq, length) {
  length &= ~3;
  view.setUint32(at, 0x45000000 | length);
  view.setUint32(at + 4, 0);
  view.setUint32(at + 8, 0x40110000);
  u8.set(endsOf(device, flow), at + 12);
  view.setUint32(at + 20, seq, true);
  view.setUint32(at + 24, length, true);
  for (let i = 28; i < length; i += 4) view.setUint32(at + i, mix(seq, flow, i), true);
  return length;
}

/** Checks every byte of a packet that makePacket made on `device`. */
export function checkPacket(u8, view, at, length, device, fail) {
  const flow = u8[at + 15];
  endsOf(device, flow).forEach((byte, i) => {
    if (u8[at + 12 + i] !== byte) fail(`address byte ${i} is ${u8[at + 12 + i]}, not ${byte}`);
  });
  const seq = view.getUint32(at + 20, true);
  if (view.getUint32(at + 24, true) !== length) fail(`${length} bytes of ${view.getUint32(at + 24, true)}`);
  for (let i = 28; i < length; i += 4)
    if (view.getUint32(at + i, true) !== mix(seq, flow, i)) fail(`flow ${flow}, packet ${seq}: byte ${i} is wrong`);
  return { flow, seq };
}

/** An ENDPOINT record whose every field follows from the port, so that a torn one shows. */
export function writeEndpoint(u8, view, at, port) {
  view.setUint16(at, 6, true);
  view.setUint16(at + 2, port, true);
  view.setUint32(at + 4, port, true);
  for (let i = 0; i < 16; i += 4) view.setUint32(at + 8 + i, port * 3, true);
  view.setUint32(at + 24, port, true);
  view.setUint32(at + 28, 6, true);
  for (let i = 0; i < 16; i += 4) view.setUint32(at + 32 + i, port * 5, true);
}

/** Checks a record that writeEndpoint made; its source may have been cleared. */
export function checkEndpoint(u8, view, at, fail) {
  const port = view.getUint16(at + 2, true);
  const expected = new Uint8Array(48);
  writeEndpoint(expected, new DataView(expected.buffer), 0, port);
  if (view.getUint32(at + 24, true) === 0) expected.fill(0, 24);
  for (let i = 0; i < 48; i++)
    if (u8[at + i] !== expected[i]) fail(`a torn endpoint: port ${port}, byte ${i} is ${u8[at + i]}`);
}
