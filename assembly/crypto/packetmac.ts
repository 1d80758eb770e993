// The MAC of a transport packet: Poly1305 over its ciphertext and lengths, without associated data.

import { packetMac4 } from "./poly1305x4";
import { packetMac8 } from "./poly1305x8";
import { MAC8_LEN, WIDE } from "./width";

/**
 * The MAC of a packet's ciphertext and its length.
 * @param dst  16 bytes
 * @param src  `len` bytes; up to 112 bytes before them and 15 after them are read, and do not matter
 * @param key  one-time key, 32 bytes
 */
// @ts-ignore: decorator
@inline
export function packetMac(dst: usize, src: usize, len: u32, key: usize): void {
  if (WIDE && len > MAC8_LEN) packetMac8(dst, src, len, key);
  else packetMac4(dst, src, len, key);
}
