// Handshake messages that wait for the main thread: whoever receives copies them here, so that a flood of them costs
// the data path a copy and nothing else. MAX_QUEUED_HANDSHAKES of them; the newest is refused when all are taken.

import { DEVICE_BASE, ENDPOINT_LEN, HANDSHAKE_SLOT_SIZE } from "../abi";
import { INITIATION_LEN, MAX_QUEUED_HANDSHAKES } from "../protocol";
import { map } from "../memory";
import { lockSpin, unlockSpin } from "../threads/lock";

// offset  bytes  what
//      0      4  lock of the receiving threads
//      4      4  messages put so far, atomic
//      8      4  messages taken so far, atomic
const QUEUE: usize = DEVICE_BASE + 0x2380;

// A slot: offset  bytes  what
//              0      4  length of the message
//             16     48  ENDPOINT record of its source
//             64    148  message
export const QUEUED_LENGTH: usize = 0;
export const QUEUED_ENDPOINT: usize = 16;
export const QUEUED_MESSAGE: usize = QUEUED_ENDPOINT + ENDPOINT_LEN;

if (QUEUED_MESSAGE + INITIATION_LEN > <usize>HANDSHAKE_SLOT_SIZE) ERROR("a queued handshake outgrew HANDSHAKE_SLOT_SIZE");

// @ts-ignore: decorator
@inline
function slotAt(position: u32): usize {
  return map().handshakes + <usize>(position % <u32>MAX_QUEUED_HANDSHAKES) * HANDSHAKE_SLOT_SIZE;
}

/** Messages that wait. */
export function queuedHandshakes(): u32 {
  return atomic.load<u32>(QUEUE, 4) - atomic.load<u32>(QUEUE, 8);
}

/** Queues a message of one of the three handshake types. Any thread. @returns false when the queue is full */
export function queueHandshake(message: usize, len: u32, endpoint: usize): bool {
  lockSpin(QUEUE);
  const put = atomic.load<u32>(QUEUE, 4);
  const full = put - atomic.load<u32>(QUEUE, 8) >= <u32>MAX_QUEUED_HANDSHAKES;
  if (!full) {
    const slot = slotAt(put);
    store<u32>(slot, len, QUEUED_LENGTH);
    memory.copy(slot + QUEUED_ENDPOINT, endpoint, ENDPOINT_LEN);
    memory.copy(slot + QUEUED_MESSAGE, message, len);
    atomic.store<u32>(QUEUE, put + 1, 4);
  }
  unlockSpin(QUEUE);
  return !full;
}

/** The oldest message's slot, or 0. It stays the main thread's until releaseHandshake. */
export function nextHandshake(): usize {
  if (!queuedHandshakes()) return 0;
  return slotAt(atomic.load<u32>(QUEUE, 8));
}

/** Gives the slot of nextHandshake back. */
export function releaseHandshake(): void {
  atomic.add<u32>(QUEUE, 1, 8);
}
