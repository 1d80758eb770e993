// What the host gives a call besides packets: the two clocks and random bytes. The core has neither of its own, so the
// same inputs give the same bytes anywhere.

import { THREAD_MONO, THREAD_RANDOM, THREAD_RANDOM_LEFT, THREAD_RANDOM_SIZE, THREAD_WALL } from "../abi";
import { REKEY_TIMEOUT_JITTER_MAX_MS } from "../protocol";
import { threadBase, wipe } from "../memory";

export const NS_PER_MS: u64 = 1_000_000;
export const NS_PER_SEC: u64 = 1_000_000_000;

/** The monotonic clock, ns; never 0, which in deadlines and birthdays means "none". */
// @ts-ignore: decorator
@inline
export function now(): u64 {
  const base = threadBase;
  return load<u64>(base, THREAD_MONO) * NS_PER_SEC + load<u64>(base, THREAD_MONO + 8) + 1;
}

// @ts-ignore: decorator
@inline
export function wallSec(): u64 {
  return load<u64>(threadBase, THREAD_WALL);
}

// @ts-ignore: decorator
@inline
export function wallNsec(): u32 {
  return <u32>load<u64>(threadBase, THREAD_WALL + 8);
}

// @ts-ignore: decorator
@inline
export function randomLeft(): u32 {
  return load<u32>(threadBase, THREAD_RANDOM_LEFT);
}

/** Moves random bytes of the host to `dst`; the caller has made sure with randomLeft that there are enough. */
export function takeRandom(dst: usize, len: u32): void {
  const base = threadBase;
  let left = load<u32>(base, THREAD_RANDOM_LEFT);
  if (left > <u32>THREAD_RANDOM_SIZE) left = THREAD_RANDOM_SIZE;
  if (len > left) unreachable(); // a caller forgot to ask: better no answer than a predictable one
  const from = base + THREAD_RANDOM + THREAD_RANDOM_SIZE - left;
  memory.copy(dst, from, len);
  wipe(from, len);
  store<u32>(base, left - len, THREAD_RANDOM_LEFT);
}

/** A random span of 0 to 333 ms, ns; 0 when the host gave too few bytes. */
export function jitter(): u64 {
  if (randomLeft() < 4) return 0;
  const base = threadBase;
  const left = load<u32>(base, THREAD_RANDOM_LEFT);
  const from = base + THREAD_RANDOM + THREAD_RANDOM_SIZE - left;
  const random = <u64>load<u32>(from);
  store<u32>(from, 0);
  store<u32>(base, left - 4, THREAD_RANDOM_LEFT);
  return (random * (<u64>REKEY_TIMEOUT_JITTER_MAX_MS * NS_PER_MS)) >> 32;
}
