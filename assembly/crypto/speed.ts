// How fast this build seals packets, for a host that has to choose one (host/core-choice.ts) and for the bench. A module
// of its own, dist/speed-<build>.wasm, so that the core has no export that only a measurement needs.

import { packetSeal } from "./aead";

/** Seals one packet `count` times under counters 0, 1, 2 ... Addresses as of packetSeal. */
export function sealTimes(dst: usize, src: usize, srcLen: u32, key: usize, count: u32): void {
  for (let i: u32 = 0; i < count; i++) packetSeal(dst, src, srcLen, key, i);
}
