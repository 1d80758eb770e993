// Runs: packets sealed one after the other into this thread's upper slots, so that consecutive messages of one size to
// one peer leave in one system call (UDP_SEGMENT). The last may be shorter, and ends its run.

import {
  IN_MAX, OUT_ENDPOINT, OUT_LENGTH, OUT_MAX, OUT_RUN_COUNT_MAX, OUT_RUN_LEN_MAX, OUT_SEGMENT, OUT_SLOT, SLOTS_SIZE,
  SLOT_HEADROOM, SLOT_SIZE, THREAD_OUT_COUNT, THREAD_RUN, THREAD_RUN_SIZE,
} from "../abi";
import { packetSeal } from "../crypto/aead";
import { AUTHTAG_LEN, DATA_COUNTER, DATA_HEADER_LEN, DATA_RECEIVER, MESSAGE_DATA } from "../protocol";
import { map, threadBase, threadNumber } from "../memory";
import { readEndpoint } from "./endpoint";
import { putOut } from "./output";
import { Peer } from "./peer";
import { nextCounter, Session } from "./session";
import { paddedLen } from "./transport";

@unmanaged
class Run {
  cursor: usize; //   0  where the next message goes
  end: usize; //      4  of the room
  record: usize; //   8  OUT record of the run; 0 = none open
  peer: u32; //      12
  tos: u32; //       16
  segment: u32; //   20  bytes of its first message
  count: u32; //     24  messages
}

if (offsetof<Run>() > <usize>THREAD_RUN_SIZE) ERROR("a run outgrew THREAD_RUN_SIZE");

const OVERHEAD: u32 = DATA_HEADER_LEN + AUTHTAG_LEN;

// @ts-ignore: decorator
@inline
function run(): Run {
  return changetype<Run>(threadBase + THREAD_RUN);
}

/** Begins a call: no run, all room free. */
export function runBegin(): void {
  const r = run();
  const slots = map().slots + <usize>SLOTS_SIZE * threadNumber();
  r.cursor = slots + <usize>OUT_SLOT * SLOT_SIZE + SLOT_HEADROOM;
  r.end = slots + SLOTS_SIZE - SLOT_HEADROOM;
  r.record = 0;
}

/** Whether `packets` messages with `bytes` of packets in all are sure to fit. */
export function runHasRoom(packets: u32, bytes: u32): bool {
  const r = run();
  const need = <u64>bytes + <u64>packets * (OVERHEAD + 32);
  // A super-packet leaves a record to each packet that may come after it; a run cut for its bytes holds half its limit.
  const records = packets == 1 ? 1 : packets / OUT_RUN_COUNT_MAX + need / 32768 + 2 + IN_MAX;
  return <u64>r.cursor + need < <u64>r.end && load<u32>(threadBase, THREAD_OUT_COUNT) + records <= <u64>OUT_MAX;
}

/**
 * Seals a packet behind the ones before it. The 16 bytes behind the packet are as before when it returns, though they
 * serve as padding meanwhile: they may be the next segment's payload.
 * @returns length of the message
 */
export function sealToRun(packet: usize, len: u32, peer: Peer, session: Session, mtu: u32, tos: u32): u32 {
  const r = run();
  const padded = paddedLen(len, mtu);
  const size = padded + OVERHEAD;
  let message = r.cursor;
  const record = r.record;
  if (
    record && r.peer == peer.number && r.tos == tos && size <= r.segment && r.count < <u32>OUT_RUN_COUNT_MAX &&
    load<u32>(record, OUT_LENGTH) + size <= <u32>OUT_RUN_LEN_MAX
  ) {
    store<u32>(record, load<u32>(record, OUT_LENGTH) + size, OUT_LENGTH);
    store<u32>(record, r.segment, OUT_SEGMENT);
    r.count++;
    if (size < r.segment) r.record = 0;
  } else {
    message = (message + 15) & ~15;
    const endpoint = putOut(message, size, peer.number, tos);
    readEndpoint(endpoint, peer);
    r.record = endpoint - OUT_ENDPOINT;
    r.peer = peer.number;
    r.tos = tos;
    r.segment = size;
    r.count = 1;
  }
  r.cursor = message + size;
  const counter = nextCounter(session);
  store<u32>(message, MESSAGE_DATA);
  store<u32>(message, session.remoteIndex, DATA_RECEIVER);
  store<u64>(message, counter, DATA_COUNTER);
  const tail = packet + len;
  const behind = v128.load(tail);
  v128.store(tail, i64x2.splat(0));
  packetSeal(message + DATA_HEADER_LEN, packet, padded, session.sendingKey, counter);
  v128.store(tail, behind);
  return size;
}
