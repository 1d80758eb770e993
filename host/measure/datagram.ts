// A datagram of a test, big-endian:
//
//    0  1  version       PROTOCOL
//    1  1  type          probe, its answer, data, a request, its answer
//    2  2  stream
//    4  4  sequence
//    8  8  time          microseconds of the sender's clock
//   16 16  token         of probes and their answers only; else filling
//
// A probe shows that its sender has the token, which was given away on the control connection: nothing is sent to an
// address that did not show it, and an answer is never longer than its question.

import { timingSafeEqual } from "node:crypto";
import { PROTOCOL } from "./message.ts";
import { DATAGRAM_LENGTH_MIN } from "./plan.ts";

export const TYPE_PROBE = 1;
export const TYPE_PROBED = 2;
export const TYPE_DATA = 3;
export const TYPE_REQUEST = 4;
export const TYPE_REPLY = 5;

const VERSION = 0;
const TYPE = 1;
const STREAM = 2;
const SEQUENCE = 4;
const TIME_HIGH = 8;
const TIME_LOW = 12;
const TOKEN = DATAGRAM_LENGTH_MIN;
export const TOKEN_LEN = 16;
export const PROBE_LEN = TOKEN + TOKEN_LEN;

export interface DatagramHeader {
  type: number;
  stream: number;
  sequence: number;
  /** ms */
  sentAt: number;
}

/** A datagram to be sent again and again, whose number and time change. */
export class Outgoing {
  readonly bytes: Buffer;

  constructor(type: number, stream: number, length: number) {
    // What is compressed on the way would be measured too fast.
    this.bytes = Buffer.alloc(length);
    for (let at = TOKEN, word = 0x9e3779b9; at < length; at++) {
      word = (Math.imul(word, 1664525) + 1013904223) >>> 0;
      this.bytes[at] = word >>> 24;
    }
    this.bytes[VERSION] = PROTOCOL;
    this.bytes[TYPE] = type;
    this.bytes.writeUInt16BE(stream, STREAM);
  }

  stamp(sequence: number, now: number): Buffer {
    const micros = Math.round(now * 1000);
    this.bytes.writeUInt32BE(sequence >>> 0, SEQUENCE);
    this.bytes.writeUInt32BE(Math.floor(micros / 2 ** 32) >>> 0, TIME_HIGH);
    this.bytes.writeUInt32BE(micros >>> 0, TIME_LOW);
    return this.bytes;
  }
}

export function encodeProbe(type: number, stream: number, token: Uint8Array): Buffer {
  const { bytes } = new Outgoing(type, stream, PROBE_LEN);
  bytes.set(token, TOKEN);
  return bytes;
}

/** @returns null for what is none of ours */
export function decodeHeader(bytes: Uint8Array): DatagramHeader | null {
  if (bytes.length < DATAGRAM_LENGTH_MIN || bytes[VERSION] !== PROTOCOL) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return {
    type: bytes[TYPE],
    stream: view.getUint16(STREAM),
    sequence: view.getUint32(SEQUENCE),
    sentAt: (view.getUint32(TIME_HIGH) * 2 ** 32 + view.getUint32(TIME_LOW)) / 1000,
  };
}

export function hasToken(probe: Uint8Array, token: Uint8Array): boolean {
  return probe.length === PROBE_LEN && timingSafeEqual(probe.subarray(TOKEN), token);
}

/** The answer to a request, made in place: the same bytes with another type. */
export function toReply(request: Uint8Array): Uint8Array {
  request[TYPE] = TYPE_REPLY;
  return request;
}
