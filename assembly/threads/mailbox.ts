// Ring of peers that a worker has work for on the main thread: many threads put, the main thread takes.
//
// Each peer is in it at most once (the caller sets its pending bit atomically and puts only who set the first, and
// clears the bits after the take), and the ring has more slots than there are peers: so it cannot overflow, and a
// ticket's slot was emptied before the ticket is drawn. A slot holds peer + 1, 0 = empty; the store into it publishes
// what its thread wrote before. A producer stopped between ticket and store hides those behind it from the taker until
// it goes on; so every put must be followed by a kick of the main thread, as the kick of the last one finds them all.
//
// Rejected: a linked stack through the peers (last in, first out: a busy peer would starve the first).

import { DEVICE_BASE } from "../abi";
import { map } from "../memory";

/** u32: slots taken so far; written by the main thread. */
export const MAILBOX_HEAD: usize = DEVICE_BASE + 0x88;
/** u32: tickets drawn so far; atomic. */
export const MAILBOX_TAIL: usize = DEVICE_BASE + 0x8c;

// Tickets wrap at 2^32, a multiple of the slots.
// @ts-ignore: decorator
@inline
function slotOf(ticket: u32): usize {
  const m = map();
  return m.mailbox + (<usize>(ticket & ((1 << m.mailboxBits) - 1)) << 2);
}

/** Puts a peer that is not in the mailbox. Any thread. */
export function mailboxPut(peer: u32): void {
  atomic.store<u32>(slotOf(atomic.add<u32>(MAILBOX_TAIL, 1)), peer + 1);
}

/**
 * Takes the oldest. Main thread only.
 * @returns peer number, or -1 when there is none (or the next is still being put: its kick follows)
 */
export function mailboxTake(): i32 {
  const head = load<u32>(MAILBOX_HEAD);
  const slot = slotOf(head);
  const entry = atomic.load<u32>(slot);
  if (!entry) return -1;
  atomic.store<u32>(slot, 0);
  store<u32>(MAILBOX_HEAD, head + 1);
  return <i32>entry - 1;
}
