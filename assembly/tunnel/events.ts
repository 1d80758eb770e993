// The event ring: what happened, for logs and listeners. Only the main thread writes; the host keeps a tail of its own
// and sees from the serial number whether it fell behind.

import {
  DEVICE_EVENT_HEAD, EVENTS, EVENT_ARGUMENT, EVENT_EPHEMERAL, EVENT_MAX, EVENT_PEER, EVENT_SERIAL, EVENT_SIZE, EVENT_TYPE,
  KEY_LOG,
} from "../abi";
import { copy32 } from "../memory";
import { clamp } from "../noise/identity";
import { KEY_LEN } from "../protocol";
import { DEVICE_KEY_LOG } from "./device";

export function emitEvent(type: u32, peer: u32, argument: u32): void {
  const serial = load<u32>(DEVICE_EVENT_HEAD);
  const at = <usize>EVENTS + <usize>(serial % <u32>EVENT_MAX) * EVENT_SIZE;
  store<u32>(at, type, EVENT_TYPE);
  store<u32>(at, peer, EVENT_PEER);
  store<u32>(at, argument, EVENT_ARGUMENT);
  store<u32>(at, serial, EVENT_SERIAL);
  atomic.store<u32>(DEVICE_EVENT_HEAD, serial + 1);
}

/** Hands out our private ephemeral key of a handshake, if the user asked for a key log. */
export function logEphemeral(peer: u32, index: u32, ephemeral: usize): void {
  if (!load<u32>(DEVICE_KEY_LOG)) return;
  const at = <usize>KEY_LOG + <usize>(load<u32>(DEVICE_EVENT_HEAD) % <u32>EVENT_MAX) * KEY_LEN;
  copy32(at, ephemeral);
  clamp(at);
  emitEvent(EVENT_EPHEMERAL, peer, index);
}
