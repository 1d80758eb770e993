// Handshake limiter by source: a token bucket for each IPv4 address and each IPv6 /64. Linux ratelimiter.c.
//
// A bucket holds time: a message costs 50 ms (20/s), at most 250 ms are saved up (5 at once). A source without an entry
// has a full bucket; so an entry whose bucket is full again may be taken by another source, and nothing is
// forgotten by that. The table is LIMITER_ENTRY_COUNT entries in sets of eight, the set by SipHash under a
// secret of the device's own: whatever arrives, a call looks at eight entries and the memory stays as it is. A set of
// eight sources that all still owe refuses a ninth.
//
//   offset  bytes  name      an entry; main thread only
//        0      8  last      ns, when the entry was last used
//        8      8  tokens    ns saved up at `last`
//       16      8  prefix    the address's first 4 (IPv4) or 8 bytes (IPv6)
//       24      4  family    4 or 6, 0 = never used
//
// Rejected: the kernel's chains and sweep each second (a sweep stops the thread, chains grow).

import {
  DEVICE_BASE,
  ENDPOINT_ADDR,
  ENDPOINT_FAMILY,
  LIMITER_ENTRY_COUNT,
  LIMITER_ENTRY_SIZE,
} from "../abi";
import { map } from "../memory";
import { LIMITER_PACKETS_BURSTABLE, LIMITER_PACKETS_PER_SECOND } from "../protocol";
import { sipHash } from "./keytable";

/** 16 bytes in the device page. */
export const LIMITER_SECRET: usize = DEVICE_BASE + 0xc0;

const PACKET_COST_NS: u64 = 1_000_000_000 / LIMITER_PACKETS_PER_SECOND;
const TOKEN_MAX_NS: u64 = PACKET_COST_NS * LIMITER_PACKETS_BURSTABLE;
const WAYS: u32 = 8;
const SETS: u32 = LIMITER_ENTRY_COUNT / WAYS;

@unmanaged
class Entry {
  last: u64;
  tokens: u64;
  prefix: u64;
  family: u32;
  reserved: u32;
}

/**
 * Sets the hash's secret. Call once, before the first limiterAllow.
 * @param secret  16 random bytes
 */
export function limiterInit(secret: usize): void {
  if (offsetof<Entry>() != LIMITER_ENTRY_SIZE) ERROR("LIMITER_ENTRY_SIZE");
  v128.store(LIMITER_SECRET, v128.load(secret));
}

// What the bucket holds now. A clock that stands or steps back adds nothing.
// @ts-ignore: decorator
@inline
function tokensAt(entry: Entry, now: u64): u64 {
  const elapsed = now > entry.last ? now - entry.last : 0;
  return elapsed >= TOKEN_MAX_NS ? TOKEN_MAX_NS : min<u64>(TOKEN_MAX_NS, entry.tokens + elapsed);
}

/**
 * Takes one handshake message out of its source's bucket.
 * @param endpoint  ENDPOINT record of the source; port and zone do not count
 * @param now  ns on a clock that does not step back
 * @returns false: the source has sent too many, or its set is taken by sources that did
 */
export function limiterAllow(endpoint: usize, now: u64): bool {
  const family = <u32>load<u16>(endpoint, ENDPOINT_FAMILY);
  const prefix = family == 4 ? <u64>load<u32>(endpoint, ENDPOINT_ADDR) : load<u64>(endpoint, ENDPOINT_ADDR);
  const set = <u32>sipHash(LIMITER_SECRET, prefix, family, 0, 0) & (SETS - 1);
  const first = map().limiter + <usize>set * (WAYS * LIMITER_ENTRY_SIZE);
  let entry: usize = 0;
  for (let way: u32 = 0; way < WAYS; way++) {
    const candidate = first + way * LIMITER_ENTRY_SIZE;
    const e = changetype<Entry>(candidate);
    if (e.family == family && e.prefix == prefix) {
      entry = candidate;
      break;
    }
    if (!entry && (!e.family || tokensAt(e, now) == TOKEN_MAX_NS)) entry = candidate;
  }
  if (!entry) return false;
  const e = changetype<Entry>(entry);
  // Whose entry it was does not matter: it is this source's, or its bucket is full as a new source's is.
  const tokens = e.family ? tokensAt(e, now) : TOKEN_MAX_NS;
  e.family = family;
  e.prefix = prefix;
  e.last = now;
  if (tokens < PACKET_COST_NS) {
    e.tokens = tokens;
    return false;
  }
  e.tokens = tokens - PACKET_COST_NS;
  return true;
}
