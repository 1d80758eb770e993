// One data message: header, padding, seal (§5.4.6). What send.ts does with packets of the TUN and staged.ts with those
// that waited.

import { packetSeal } from "../crypto/aead";
import { AUTHTAG_LEN, DATA_COUNTER, DATA_HEADER_LEN, DATA_RECEIVER, MESSAGE_DATA, PADDING_MULTIPLE } from "../protocol";
import { nextCounter, Session } from "./session";

/** The most a packet may hold for its message, padded, to fit a UDP datagram. */
export const PACKET_LEN_MAX: u32 = (65507 - DATA_HEADER_LEN - AUTHTAG_LEN) & ~(PADDING_MULTIPLE - 1);

/** Length after padding: to PADDING_MULTIPLE, but never past the MTU (0 = no limit). */
// @ts-ignore: decorator
@inline
export function paddedLen(len: u32, mtu: u32): u32 {
  let last = len;
  if (mtu && last > mtu) last %= mtu;
  let padded = (last + PADDING_MULTIPLE - 1) & ~(PADDING_MULTIPLE - 1);
  if (mtu && padded > mtu) padded = mtu;
  return len - last + padded;
}

/**
 * Pads and seals the packet where it lies; the message begins DATA_HEADER_LEN bytes before it.
 * @param packet address of `len` bytes, with DATA_HEADER_LEN bytes of ours before and 32 behind
 * @returns length of the message
 */
// @ts-ignore: decorator
@inline
export function sealMessage(packet: usize, len: u32, session: Session, mtu: u32): u32 {
  const padded = paddedLen(len, mtu);
  const message = packet - DATA_HEADER_LEN;
  const counter = nextCounter(session);
  memory.fill(packet + len, 0, padded - len);
  store<u32>(message, MESSAGE_DATA);
  store<u32>(message, session.remoteIndex, DATA_RECEIVER);
  store<u64>(message, counter, DATA_COUNTER);
  packetSeal(packet, packet, padded, session.sendingKey, counter);
  return DATA_HEADER_LEN + padded + AUTHTAG_LEN;
}

/**
 * ECN of the outer header for a packet of ours, RFC 6040 §4.1 as the kernel does it: ECT is copied, CE goes out as ECT(0)
 * (the mark was seen; a new one may be made), and the DSCP stays with the inner packet.
 */
// @ts-ignore: decorator
@inline
export function outerTos(packet: usize): u32 {
  const first = <u32>load<u8>(packet);
  const second = <u32>load<u8>(packet, 1);
  const ecn = (first >> 4 == 4 ? second : second >> 4) & 3;
  return ecn == 3 ? 2 : ecn;
}
