// The Internet checksum (RFC 1071): a ones' complement sum of 16-bit words, byte order free, so all sums here are of
// little-endian loads and are stored as they are. Sixteen bytes a step; a scalar loop was within 2 % on whole packets
// and is kept for headers.

/** Sum of `len` bytes at `data`, not folded. */
export function sum(data: usize, len: u32): u64 {
  let a = i32x4.splat(0);
  let b = i32x4.splat(0);
  while (len >= 32) {
    a = i32x4.add(a, i32x4.extadd_pairwise_i16x8_u(v128.load(data)));
    b = i32x4.add(b, i32x4.extadd_pairwise_i16x8_u(v128.load(data, 16)));
    data += 32;
    len -= 32;
  }
  a = i32x4.add(a, b);
  const lanes =
    <u64>(<u32>i32x4.extract_lane(a, 0)) +
    <u64>(<u32>i32x4.extract_lane(a, 1)) +
    <u64>(<u32>i32x4.extract_lane(a, 2)) +
    <u64>(<u32>i32x4.extract_lane(a, 3));
  return lanes + sumShort(data, len);
}

/** The same for headers. */
// @ts-ignore: decorator
@inline
export function sumShort(data: usize, len: u32): u64 {
  let total: u64 = 0;
  while (len >= 4) {
    total += <u64>load<u32>(data);
    data += 4;
    len -= 4;
  }
  if (len >= 2) {
    total += <u64>load<u16>(data);
    data += 2;
    len -= 2;
  }
  if (len) total += <u64>load<u8>(data);
  return total;
}

/** Folds a sum to 16 bits. */
// @ts-ignore: decorator
@inline
export function fold(total: u64): u32 {
  total = (total >> 32) + (total & 0xffffffff);
  total = (total >> 32) + (total & 0xffffffff);
  let s = (<u32>total >> 16) + (<u32>total & 0xffff);
  s = (s >> 16) + (s & 0xffff);
  return (s >> 16) + (s & 0xffff);
}

/** A 16-bit number in host order as a word of the sum. */
// @ts-ignore: decorator
@inline
export function word(value: u32): u64 {
  return <u64>bswap<u16>(<u16>value);
}

/** Sum of the pseudo-header: addresses, protocol and transport length. RFC 9293 §3.1, RFC 8200 §8.1 */
// @ts-ignore: decorator
@inline
export function pseudoSum(packet: usize, version: u32, protocol: u32, transportLen: u32): u64 {
  const addresses = version == 4 ? sumShort(packet + 12, 8) : sumShort(packet + 8, 32);
  return addresses + word(protocol) + word(transportLen);
}

/** Whether the checksum of a transport header and payload is right. */
// @ts-ignore: decorator
@inline
export function transportChecksumValid(
  packet: usize, version: u32, protocol: u32, transport: usize, transportLen: u32,
): bool {
  return fold(pseudoSum(packet, version, protocol, transportLen) + sum(transport, transportLen)) == 0xffff;
}
