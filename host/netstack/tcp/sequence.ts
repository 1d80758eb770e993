// Sequence numbers, RFC 9293 §3.4. On the wire they are 32 bits that wrap; inside they are offsets from the initial
// sequence number that do not (exact up to 2^53): SYN is 0, the first byte 1. So that <, min and Map keys mean what
// they say everywhere, the wrap exists only here. Rejected: signed 32-bit comparison at each place, as kernels do.

/** @returns the offset that `wire` stands for: the one nearest to `near` */
export function toOffset(wire: number, initial: number, near: number): number {
  return near + ((wire - initial - near) | 0);
}

/** @returns the 32 bits that stand for `offset` */
export function toWire(offset: number, initial: number): number {
  return (initial + offset) >>> 0;
}

/** a - b for two numbers that wrap (timestamps): negative when a is older; RFC 7323 §5.2 */
export function difference(a: number, b: number): number {
  return (a - b) | 0;
}
