export class Pattern {
  constructor(seed: number);
  /** Bytes [start, start + length) of the stream. */
  bytes(start: number, length: number): Uint8Array<ArrayBuffer>;
  /** Where `bytes`, which should begin at `start`, are wrong; -1 if nowhere. */
  mismatch(bytes: Uint8Array, start: number): number;
}
