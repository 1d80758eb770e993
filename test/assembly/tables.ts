// The tables of the core, and the lock under them, for test/protocol/{replay,allowedips,tables,limiter}.test.ts.

export { bindThread, layOut, MAP } from "../../assembly/memory";
export * from "../../assembly/threads/lock";
export * from "../../assembly/threads/mailbox";
export * from "../../assembly/tunnel/allowedips";
export * from "../../assembly/tunnel/deadlines";
export * from "../../assembly/tunnel/indextable";
export * from "../../assembly/tunnel/keytable";
export * from "../../assembly/tunnel/limiter";
export * from "../../assembly/tunnel/replay";

import { PEER_SIZE } from "../../assembly/abi";
import { map } from "../../assembly/memory";
import { sipHash } from "../../assembly/tunnel/keytable";

/** Address of a peer's struct. */
export function peerAddress(peer: u32): usize {
  return map().peers + <usize>peer * PEER_SIZE;
}

/** SipHash of 32 bytes at `src`; the two halves as one i64. */
export function sipHashAt(secret: usize, src: usize): u64 {
  return sipHash(secret, load<u64>(src), load<u64>(src, 8), load<u64>(src, 16), load<u64>(src, 24));
}
