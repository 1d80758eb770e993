// Types of core-worker-wire.mjs, which the workers of Node 20 read as it is.
export const WORDS: Record<
  | "STOP_SENDERS" | "STOP_RECEIVERS" | "MAIN_BELL" | "HEARTBEAT" | "CLOCK" | "KICK" | "REAL_PEERS" | "SENT"
  | "RECEIVED" | "COUNT",
  number
>;
export const FLOWS: number;
export const SPOOFED: number;
export function makeRandom(seed: number): (limit: number) => number;

export class Ring {
  static SIZE: number;
  static ENTRY: number;
  static BYTES: number;
  static REPEATED: number;
  static SPOILED: number;
  constructor(buffer: SharedArrayBuffer);
  readonly length: number;
  put(bytes: Uint8Array, mark: number): boolean;
  peek(): number;
  take(u8: Uint8Array, dst: number): number;
}

export class Log {
  static MAX: number;
  static BYTES: number;
  constructor(buffer: SharedArrayBuffer);
  readonly length: number;
  readonly isNearlyFull: boolean;
  write(index: number, counter: number, flow: number, seq: number): void;
  read(i: number): { index: number; counter: number; flow: number; seq: number };
}

type Fail = (text: string) => void;
export function makePacket(
  u8: Uint8Array, view: DataView, at: number, device: number, flow: number, seq: number, length: number,
): number;
export function checkPacket(
  u8: Uint8Array, view: DataView, at: number, length: number, device: number, fail: Fail,
): { flow: number; seq: number };
export function writeEndpoint(u8: Uint8Array, view: DataView, at: number, port: number): void;
export function checkEndpoint(u8: Uint8Array, view: DataView, at: number, fail: Fail): void;
