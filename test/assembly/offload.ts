// Segmentation and coalescing of the core, for test/offload/.

export { bindThread } from "../../assembly/memory";
export * from "../../assembly/offload/coalesce";
export * from "../../assembly/offload/segment";

import { fold, sum } from "../../assembly/offload/checksum";

/** The Internet checksum's sum of `len` bytes, folded, as the little-endian word that it is in memory. */
export function foldedSum(data: usize, len: u32): u32 {
  return fold(sum(data, len));
}
