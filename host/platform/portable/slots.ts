// Who has which of thread 0's packet slots, so that a packet to send can be put beside one being received. The core's own
// packets (deviceService) go to any of them: send what is there first.
//
//   0 .. 15   datagrams being received, one after the other
//   16 .. 31  packets to send, one after the other
//   32 .. 63  what the core seals of them (OUT_SLOT)

import { OUT_SLOT, SLOT_SIZE } from "../../../assembly/abi.ts";

const SEND_SLOT = OUT_SLOT / 2;

/** Bytes from the first slot on. */
export const RECEIVE_SIZE = SEND_SLOT * SLOT_SIZE;
export const SEND_START = RECEIVE_SIZE;
export const SEND_END = OUT_SLOT * SLOT_SIZE;
