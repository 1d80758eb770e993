// A session: two transport keys, their counters and the replay window (the kernel's struct noise_keypair), and which of
// a peer's three a packet may use.
//
// Keys and indices are written once, by the main thread with the device locked, and read by every thread inside a run.
// The send counter is atomic (a keepalive of the main thread and data of a worker draw from it). The replay window
// belongs to the receiving thread; with more lanes than one it has a lock, for a peer whose address changes in the middle.

import { COUNTER_WINDOW_SIZE, REJECT_AFTER_TIME_MS } from "../protocol";
import { wipe } from "../memory";
import { REPLAY_SIZE } from "./replay";
import { NS_PER_MS } from "./input";

/** REJECT_AFTER_MESSAGES, §6.1. */
export const REJECT_AFTER_MESSAGES: u64 = u64.MAX_VALUE - <u64>COUNTER_WINDOW_SIZE - 1;

@unmanaged
export class Session {
  private sendingLo: v128; //      0
  private sendingHi: v128; //     16
  private receivingLo: v128; //   32
  private receivingHi: v128; //   48
  counter: u64; //                64  next to send, atomic
  born: u64; //                   72  ns
  localIndex: u32; //             80
  remoteIndex: u32; //            84
  present: u32; //                88  1 = in one of the peer's slots
  sendingValid: u32; //           92
  isInitiator: u32; //            96
  confirmed: u32; //             100  a packet authenticated under it: it may leave "next"; any thread, atomic
  private replayCounter: u64; // 104  the replay window, REPLAY_SIZE bytes; behind it, SESSION_REPLAY_LOCK

  // @ts-ignore: decorator
  @inline get sendingKey(): usize { return changetype<usize>(this); }
  // @ts-ignore: decorator
  @inline get receivingKey(): usize { return changetype<usize>(this) + offsetof<Session>("receivingLo"); }
  // @ts-ignore: decorator
  @inline get replay(): usize { return changetype<usize>(this) + offsetof<Session>("replayCounter"); }
}

export const SESSION_SIZE: usize = 1152;

/** u32, a lock (threads/lock.ts) for the replay window, where more than one lane receives. */
export const SESSION_REPLAY_LOCK: usize = SESSION_SIZE - 16;

/** Whether the session is too old to send or accept data under. */
// @ts-ignore: decorator
@inline
export function sessionExpired(session: Session, now: u64): bool {
  return now >= session.born + <u64>REJECT_AFTER_TIME_MS * NS_PER_MS;
}

/** Whether a packet may be sent under it now. */
// @ts-ignore: decorator
@inline
export function canSend(session: Session, now: u64): bool {
  return (
    session.sendingValid != 0 &&
    !sessionExpired(session, now) &&
    atomic.load<u64>(changetype<usize>(session), offsetof<Session>("counter")) < REJECT_AFTER_MESSAGES
  );
}

/** Draws the next counter. */
// @ts-ignore: decorator
@inline
export function nextCounter(session: Session): u64 {
  return atomic.add<u64>(changetype<usize>(session), 1, offsetof<Session>("counter"));
}

/** Zeroes all of it: keys, window, indices. */
export function wipeSession(session: Session): void {
  wipe(changetype<usize>(session), SESSION_SIZE);
}

if (offsetof<Session>("replayCounter") + REPLAY_SIZE > SESSION_REPLAY_LOCK) ERROR("a session outgrew SESSION_SIZE");
