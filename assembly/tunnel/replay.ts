// Sliding window of received counters. RFC 6479, with the kernel's numbers: 8192 bits, of which 8128 are the window.
//
//   offset  bytes  name            written by the thread that owns the session's receiving side
//        0      8  REPLAY_COUNTER  greatest counter accepted, plus 1; 0 = none yet
//        8   1024  REPLAY_BITMAP   128 words of 64 bits: bit of counter + 1, modulo 8192
//
// The window moves by whole words, so that nothing is ever shifted; the word that the newest counter lies in is the
// reason for the 64 bits that are not window. Check and update are two calls: a packet is looked up here before its tag
// is computed, and marked after the tag was right, so that a refused packet changes nothing.

import { COUNTER_BITS_TOTAL, COUNTER_WINDOW_SIZE, REJECT_AFTER_MESSAGES_MARGIN } from "../protocol";

export const REPLAY_COUNTER: usize = 0;
export const REPLAY_BITMAP: usize = 8;
/** Bytes of the state, 8-aligned. */
export const REPLAY_SIZE: usize = 8 + COUNTER_BITS_TOTAL / 8;

const WORDS: u64 = COUNTER_BITS_TOTAL / 64;
const REJECT_AFTER_MESSAGES: u64 = u64.MAX_VALUE - REJECT_AFTER_MESSAGES_MARGIN;

// @ts-ignore: decorator
@inline
function wordOf(state: usize, position: u64): usize {
  return state + (<usize>((position >> 6) & (WORDS - 1)) << 3);
}

/**
 * Whether `counter` may still be accepted. Changes nothing.
 * @returns false when it was seen, is more than the window behind the greatest, or is past REJECT_AFTER_MESSAGES
 */
export function replayCheck(state: usize, counter: u64): bool {
  if (counter >= REJECT_AFTER_MESSAGES) return false;
  const position = counter + 1;
  const newest = load<u64>(state, REPLAY_COUNTER);
  if (position > newest) return true;
  if (newest - position > <u64>COUNTER_WINDOW_SIZE) return false;
  return !((load<u64>(wordOf(state, position), REPLAY_BITMAP) >> (position & 63)) & 1);
}

/** Marks `counter` as seen. Call after replayCheck allowed it and its packet was authentic. */
export function replayUpdate(state: usize, counter: u64): void {
  const position = counter + 1;
  const newest = load<u64>(state, REPLAY_COUNTER);
  if (position > newest) {
    const steps = min<u64>((position >> 6) - (newest >> 6), WORDS);
    for (let step: u64 = 1; step <= steps; step++) store<u64>(wordOf(state, newest + (step << 6)), 0, REPLAY_BITMAP);
    store<u64>(state, position, REPLAY_COUNTER);
  }
  const word = wordOf(state, position);
  store<u64>(word, load<u64>(word, REPLAY_BITMAP) | ((<u64>1) << (position & 63)), REPLAY_BITMAP);
}

/** Makes the state that of a new session. */
export function replayReset(state: usize): void {
  memory.fill(state, 0, REPLAY_SIZE);
}
