// The TCP segment on the wire: header and options, RFC 9293 §3.1 and §3.2, RFC 7323 (window scale, timestamps), RFC
// 2018 (SACK). One Segment and one SegmentWriter serve a whole layer: a segment is looked at during input() and not
// after. What lies about its lengths is refused whole, with its reason: half a header is worth nothing.

import { ACK, FIN, HEADER_LEN, HEADER_MAX_LEN, RST, SYN } from "./constants.ts";
import type { DropReason } from "./drops.ts";

const SEQUENCE = 4;
const ACKNOWLEDGMENT = 8;
const DATA_OFFSET = 12;
const FLAGS = 13;
const WINDOW = 14;
/** offset of the checksum in the header */
export const CHECKSUM = 16;

const END_OF_OPTIONS = 0;
const NO_OPERATION = 1;
const MAXIMUM_SEGMENT_SIZE = 2;
const WINDOW_SCALE_OPTION = 3;
const SACK_PERMITTED = 4;
const SACK = 5;
const TIMESTAMPS = 8;

const SACK_BLOCK_LEN = 8;
/** What 40 bytes of options hold */
export const SACK_BLOCK_MAX_COUNT = 4;

/** NOP, NOP, Timestamps, 10: how nearly every segment's options begin (RFC 7323 appendix A) */
const ALIGNED_TIMESTAMPS = 0x0101080a;

function read32(bytes: Uint8Array, at: number): number {
  return ((bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3]) >>> 0;
}

function read16(bytes: Uint8Array, at: number): number {
  return (bytes[at] << 8) | bytes[at + 1];
}

export class Segment {
  sourcePort = 0;
  destinationPort = 0;
  sequence = 0;
  acknowledgment = 0;
  flags = 0;
  /** as it stands in the header, not scaled */
  window = 0;
  /** the whole segment; payload is from `payloadStart` to the end */
  bytes: Uint8Array = new Uint8Array(0);
  payloadStart = 0;
  payloadLen = 0;
  /** 0 = not there */
  mss = 0;
  /** -1 = not there */
  windowScale = -1;
  sackPermitted = false;
  hasTimestamps = false;
  timestamp = 0;
  timestampEcho = 0;
  sackCount = 0;
  /** left and right edge of each block */
  readonly sacks = new Uint32Array(2 * SACK_BLOCK_MAX_COUNT);

  /** Takes a segment apart. @returns why it is none, or null */
  parse(bytes: Uint8Array): DropReason | null {
    if (bytes.length < HEADER_LEN) return "short";
    const headerLen = (bytes[DATA_OFFSET] >> 4) * 4;
    if (headerLen < HEADER_LEN || headerLen > bytes.length) return "dataOffset";
    this.bytes = bytes;
    this.sourcePort = read16(bytes, 0);
    this.destinationPort = read16(bytes, 2);
    this.sequence = read32(bytes, SEQUENCE);
    this.acknowledgment = read32(bytes, ACKNOWLEDGMENT);
    this.flags = bytes[FLAGS];
    this.window = read16(bytes, WINDOW);
    this.payloadStart = headerLen;
    this.payloadLen = bytes.length - headerLen;
    if (this.sourcePort === 0 || this.destinationPort === 0) return "port";
    if ((this.flags & (SYN | ACK | RST | FIN)) === 0) return "flags";
    if ((this.flags & SYN) !== 0 && (this.flags & (FIN | RST)) !== 0) return "flags";
    this.mss = 0;
    this.windowScale = -1;
    this.sackPermitted = false;
    this.hasTimestamps = false;
    this.sackCount = 0;
    if (headerLen === HEADER_LEN) return null;
    if (headerLen === HEADER_LEN + 12 && read32(bytes, HEADER_LEN) === ALIGNED_TIMESTAMPS) {
      this.hasTimestamps = true;
      this.timestamp = read32(bytes, HEADER_LEN + 4);
      this.timestampEcho = read32(bytes, HEADER_LEN + 8);
      return null;
    }
    return this.parseOptions(bytes, headerLen) ? null : "option";
  }

  private parseOptions(bytes: Uint8Array, end: number): boolean {
    let at = HEADER_LEN;
    while (at < end) {
      const kind = bytes[at];
      if (kind === END_OF_OPTIONS) return true;
      if (kind === NO_OPERATION) {
        at++;
        continue;
      }
      const len = at + 1 < end ? bytes[at + 1] : 0;
      if (len < 2 || at + len > end || !this.parseOption(bytes, kind, at + 2, len - 2)) return false;
      at += len;
    }
    return true;
  }

  private parseOption(bytes: Uint8Array, kind: number, at: number, len: number): boolean {
    switch (kind) {
      case MAXIMUM_SEGMENT_SIZE:
        this.mss = read16(bytes, at);
        return len === 2;
      case WINDOW_SCALE_OPTION:
        this.windowScale = bytes[at];
        return len === 1;
      case SACK_PERMITTED:
        this.sackPermitted = true;
        return len === 0;
      case TIMESTAMPS:
        this.hasTimestamps = true;
        this.timestamp = read32(bytes, at);
        this.timestampEcho = read32(bytes, at + 4);
        return len === 8;
      case SACK:
        if (len % SACK_BLOCK_LEN !== 0 || len === 0 || len > SACK_BLOCK_LEN * SACK_BLOCK_MAX_COUNT) return false;
        this.sackCount = len / SACK_BLOCK_LEN;
        for (let i = 0; i < 2 * this.sackCount; i++) this.sacks[i] = read32(bytes, at + 4 * i);
        return true;
      default:
        return true; // RFC 9293 §3.2: what we do not know we skip
    }
  }
}

/** Puts a header together: begin(), options in any order, end(). */
export class SegmentWriter {
  private readonly bytes = new Uint8Array(HEADER_MAX_LEN);
  /** a view of each length that a header can have */
  private readonly views: Uint8Array[] = [];
  private at = HEADER_LEN;

  constructor() {
    for (let len = 0; len <= HEADER_MAX_LEN; len += 4) this.views.push(this.bytes.subarray(0, len));
  }

  begin(
    sourcePort: number,
    destinationPort: number,
    sequence: number,
    acknowledgment: number,
    flags: number,
    window: number,
  ): void {
    const bytes = this.bytes;
    bytes[0] = sourcePort >> 8;
    bytes[1] = sourcePort;
    bytes[2] = destinationPort >> 8;
    bytes[3] = destinationPort;
    this.write32(SEQUENCE, sequence);
    this.write32(ACKNOWLEDGMENT, acknowledgment);
    bytes[FLAGS] = flags;
    bytes[WINDOW] = window >> 8;
    bytes[WINDOW + 1] = window;
    bytes[CHECKSUM] = bytes[CHECKSUM + 1] = 0;
    bytes[CHECKSUM + 2] = bytes[CHECKSUM + 3] = 0; // urgent pointer
    this.at = HEADER_LEN;
  }

  mss(value: number): void {
    this.bytes[this.at] = MAXIMUM_SEGMENT_SIZE;
    this.bytes[this.at + 1] = 4;
    this.bytes[this.at + 2] = value >> 8;
    this.bytes[this.at + 3] = value;
    this.at += 4;
  }

  windowScale(shift: number): void {
    this.bytes[this.at] = NO_OPERATION;
    this.bytes[this.at + 1] = WINDOW_SCALE_OPTION;
    this.bytes[this.at + 2] = 3;
    this.bytes[this.at + 3] = shift;
    this.at += 4;
  }

  sackPermitted(): void {
    this.bytes[this.at] = NO_OPERATION;
    this.bytes[this.at + 1] = NO_OPERATION;
    this.bytes[this.at + 2] = SACK_PERMITTED;
    this.bytes[this.at + 3] = 2;
    this.at += 4;
  }

  timestamps(timestamp: number, echo: number): void {
    this.write32(this.at, ALIGNED_TIMESTAMPS);
    this.write32(this.at + 4, timestamp);
    this.write32(this.at + 8, echo);
    this.at += 12;
  }

  /** How many SACK blocks still fit */
  get sackRoom(): number {
    return (HEADER_MAX_LEN - this.at - 4) >> 3;
  }

  /** @param edges  left and right edge of each block, 32 bits */
  sacks(edges: Uint32Array, count: number): void {
    this.bytes[this.at] = NO_OPERATION;
    this.bytes[this.at + 1] = NO_OPERATION;
    this.bytes[this.at + 2] = SACK;
    this.bytes[this.at + 3] = 2 + SACK_BLOCK_LEN * count;
    this.at += 4;
    for (let i = 0; i < 2 * count; i++, this.at += 4) this.write32(this.at, edges[i]);
  }

  /** @returns the header, valid until the next begin() */
  end(): Uint8Array {
    this.bytes[DATA_OFFSET] = (this.at >> 2) << 4;
    return this.views[this.at >> 2];
  }

  private write32(at: number, value: number): void {
    const bytes = this.bytes;
    bytes[at] = value >>> 24;
    bytes[at + 1] = value >>> 16;
    bytes[at + 2] = value >>> 8;
    bytes[at + 3] = value;
  }
}
