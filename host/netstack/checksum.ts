// The Internet checksum. RFC 1071; the pseudo-headers are those of RFC 9293 §3.1 and RFC 8200 §8.1.
//
// A ones' complement sum is free of byte order (RFC 1071 §2 B), so long runs are added as the machine's own 32-bit
// words and the result is swapped once at the end. Short ones go byte by byte: a view costs more than 128 bytes do.
// Sums are kept folded to 16 bits, in network order: they can be added, and carried from one piece to the next.
// A view kept from call to call was rejected: it would hold a whole memory alive after its stack is gone.

const VIEW_MIN_LEN = 128;
/** 32-bit words that two 32-bit accumulators of 16-bit halves can take */
const WORDS_MAX = 0x8000;
const LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

/** Adds carries back in until 16 bits are left. @param total  0..2^32 - 1 */
export function fold(total: number): number {
  total = (total >>> 16) + (total & 0xffff);
  return (total >>> 16) + (total & 0xffff);
}

/** The ones' complement sum of bytes[start..end), as if it stood at an even offset; an odd length is padded with 0. */
export function sum(bytes: Uint8Array, start = 0, end = bytes.length): number {
  if (end - start < VIEW_MIN_LEN) return sumBytes(bytes, start, end);
  const first = bytes.byteOffset + start;
  const aligned = start + (-first & 3);
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset + aligned, (end - aligned) >>> 2);
  let total = 0;
  for (let i = 0; i < words.length; i += WORDS_MAX) total += sumWords(words, i, Math.min(words.length, i + WORDS_MAX));
  total = fold(total);
  if (LITTLE_ENDIAN) total = swap(total);
  total += sumBytes(bytes, aligned + words.length * 4, end);
  // After an odd number of bytes, every pair straddles two words: the bytes of the sum change places.
  if ((first & 1) !== 0) total = swap(fold(total));
  return fold(total + sumBytes(bytes, start, aligned));
}

function sumWords(words: Uint32Array, start: number, end: number): number {
  let low = 0;
  let high = 0;
  for (let i = start; i < end; i++) {
    const word = words[i];
    low += word & 0xffff;
    high += word >>> 16;
  }
  return fold(low) + fold(high);
}

function sumBytes(bytes: Uint8Array, start: number, end: number): number {
  let total = 0;
  const even = start + ((end - start) & ~1);
  for (let i = start; i < even; i += 2) total += (bytes[i] << 8) | bytes[i + 1];
  if (even < end) total += bytes[even] << 8;
  return fold(total);
}

function swap(word: number): number {
  return ((word & 0xff) << 8) | (word >>> 8);
}

/** The sum of pieces that follow each other, wherever their boundaries fall. */
export function sumPieces(pieces: readonly Uint8Array[]): number {
  let total = 0;
  let odd = false;
  for (const piece of pieces) {
    const part = sum(piece);
    total = fold(total + (odd ? swap(part) : part));
    if ((piece.length & 1) !== 0) odd = !odd;
  }
  return total;
}

/** The sum of the pseudo-header, not inverted. @param length  of transport header and payload, bytes */
export function pseudoSum(source: Uint8Array, destination: Uint8Array, protocol: number, length: number): number {
  const total = sumBytes(source, 0, source.length) + sumBytes(destination, 0, destination.length);
  return fold(total + protocol + (length >>> 16) + (length & 0xffff));
}

/** The checksum that goes with a sum. */
export function finish(total: number): number {
  return ~total & 0xffff;
}
