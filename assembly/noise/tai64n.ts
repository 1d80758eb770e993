// TAI64N timestamps (whitepaper §5.1; https://cr.yp.to/libtai/tai64.html): 8 bytes of seconds, 4 of nanoseconds, big
// endian, so that memcmp orders them. The nanoseconds are rounded down to 2^24 (as the kernel does), so that a stamp
// tells an observer nothing finer than 17 ms about our clock. A stamp never repeats or steps back while the device
// lives: after the wall clock was set back, or twice within one step, the last stamp plus one step is used.

import { TIMESTAMP_LEN } from "../protocol";

const BASE: u64 = 0x400000000000000a;
const STEP_NS: u32 = 1 << 24;
const SECOND_NS: u32 = 1_000_000_000;

/** Bytes of the state at `last`: {u64 seconds, u32 nanoseconds} of the newest stamp. */
export const TAI64N_STATE_LEN: usize = 16;

/**
 * Writes a stamp later than every one before it.
 * @param dst  12 bytes
 * @param last the device's newest stamp, updated
 */
export function tai64nNow(dst: usize, last: usize, wallSec: u64, wallNsec: u32): void {
  let sec = wallSec + BASE;
  let nsec = wallNsec & ~(STEP_NS - 1);
  const lastSec = load<u64>(last);
  const lastNsec = load<u32>(last, 8);
  if (sec < lastSec || (sec == lastSec && nsec <= lastNsec)) {
    sec = lastSec;
    nsec = lastNsec + STEP_NS;
    if (nsec >= SECOND_NS) {
      sec++;
      nsec = 0;
    }
  }
  store<u64>(last, sec);
  store<u32>(last, nsec, 8);
  store<u64>(dst, bswap<u64>(sec));
  store<u32>(dst, bswap<u32>(nsec), 8);
}

/** Whether stamp `a` is later than stamp `b`. */
export function tai64nAfter(a: usize, b: usize): bool {
  return memory.compare(a, b, TIMESTAMP_LEN) > 0;
}
