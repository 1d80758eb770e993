// The entry of the receiving thread of an embedded tunnel: blocked in recvmmsg, it opens what came and puts the packets
// into the ring (ring.ts). Everything else, sending too, is the main thread's.
//
//   socket -> recvmmsg with UDP_GRO -> deviceReceive -> ring -> main thread: stack
//
// It says "ready" when its C library is there, and begins when it is told the socket. After that it never returns to its
// event loop: the main thread ends it by CONTROL_STOP and by waking the socket.

import { parentPort, workerData } from "node:worker_threads";
import {
  DELIVER_CONTINUES, DELIVER_FLAGS, DELIVER_LENGTH, DELIVER_MAX, DELIVER_OFFSET, DELIVER_SIZE, IN_LENGTH, IN_SIZE,
  SLOTS_SIZE, SLOT_DATA_SIZE, THREAD_DELIVER, THREAD_IN,
} from "../../assembly/abi.ts";
import { attachCore, type Core } from "../core.ts";
import { WasmguardError } from "../errors.ts";
import { LinuxClock } from "../platform/linux/clock.ts";
import { type Libc, openLibc } from "../platform/linux/libc.ts";
import { Pace } from "../platform/linux/pace.ts";
import { Receiver } from "../platform/linux/receiver.ts";
import type { UdpHandle } from "../platform/linux/udp.ts";
import { VNET_HDR_LEN, VNET_LEN } from "../platform/portable/vnet.ts";
import { CoreRandom } from "../platform/random.ts";
import type { ErrorCounts } from "../platform/types.ts";
import type { LaneData, LaneMessage } from "./lane.ts";
import { CONTROL_KICKED, RingWriter } from "./ring.ts";

const REPORT_MS = 1000;
/** Bytes opened in one go: the main thread has work when they are, while the next are opened. */
const PORTION_SIZE = 1 << 17;

function run(libc: Libc, data: LaneData, udp: UdpHandle): void {
  const core = attachCore(data.module, data.memory, data.thread);
  const ring = new RingWriter(data.ring, () => post({ type: "wake" }));
  const receiver = new Receiver(libc, core, udp);
  const pace = new Pace(libc);
  const clock = new LinuxClock(libc, core);
  const random = new CoreRandom(core);
  const report = new Report();
  while (!ring.stopped) {
    const datagrams = receiver.receive();
    for (let first = 0; first < datagrams && !ring.stopped; ) {
      clock.stampMono();
      random.refill();
      const next = core.exports.deviceReceive(first, portion(core, first, datagrams));
      if (next <= first) throw new Error(`deviceReceive: status ${next}`);
      first = next;
      if (core.kicked) {
        Atomics.store(ring.control, CONTROL_KICKED, 1);
        ring.wake();
      }
      if (core.deliverCount > 0 && !deliver(core, ring, data.vnet)) return;
    }
    report.tell(receiver.errors);
    pace.note(receiver.size);
  }
}

/** The first of the IN records from `first` on that is not to be opened in the same go. */
function portion({ view, base }: Core, first: number, count: number): number {
  let end = first;
  for (let size = 0; end < count && size < PORTION_SIZE; end++) {
    size += view.getUint32(base + THREAD_IN + end * IN_SIZE + IN_LENGTH, true);
  }
  return end;
}

/** Puts the packets of the DELIVER records into the ring. @returns false when it was told to stop */
function deliver(core: Core, ring: RingWriter, vnet: boolean): boolean {
  const { view, u8, base, slots, deliverCount } = core;
  const check = (sane: boolean, what: string): void => {
    if (!sane) throw new WasmguardError("ERR_CORE_ADDRESS", `The core gave ${what}`);
  };
  check(deliverCount <= DELIVER_MAX, `${deliverCount} packets`);
  for (let first = 0; first < deliverCount; ) {
    let size = 0;
    let end = first;
    for (let joined = true; joined && end < deliverCount; end++) {
      const record = base + THREAD_DELIVER + end * DELIVER_SIZE;
      size += view.getUint32(record + DELIVER_LENGTH, true);
      joined = (view.getUint32(record + DELIVER_FLAGS, true) & DELIVER_CONTINUES) !== 0;
    }
    check(size <= SLOT_DATA_SIZE + VNET_LEN, `a packet of ${size} bytes`);
    const start = view.getUint32(base + THREAD_DELIVER + first * DELIVER_SIZE + DELIVER_OFFSET, true);
    check(start >= slots && start < slots + SLOTS_SIZE, `a packet outside of its slots: ${start}`);
    if (!ring.begin(size, vnet ? view.getUint16(start + VNET_HDR_LEN, true) : 0)) return false;
    let left = size;
    for (let i = first; i < end; i++) {
      const record = base + THREAD_DELIVER + i * DELIVER_SIZE;
      const offset = view.getUint32(record + DELIVER_OFFSET, true);
      const length = view.getUint32(record + DELIVER_LENGTH, true);
      left -= length;
      const isInside = offset >= slots && offset + length <= slots + SLOTS_SIZE;
      check(isInside && left >= 0, `a packet outside of its slots: ${offset}+${length}`);
      const piece = u8.subarray(offset, offset + length);
      if (i === first && vnet) ring.appendWithHeader(piece, VNET_LEN);
      else ring.append(piece);
    }
    ring.end();
    first = end;
  }
  ring.wake();
  return true;
}

/** Tells the main thread of new errors of single datagrams, at most once a second. */
class Report {
  #reported = 0;
  #reportedAt = 0;

  tell(errors: ErrorCounts): void {
    if (errors.size === 0) return;
    let total = 0;
    for (const count of errors.values()) total += count;
    if (total === this.#reported || performance.now() < this.#reportedAt + REPORT_MS) return;
    this.#reported = total;
    this.#reportedAt = performance.now();
    post({ type: "errors", errors: [...errors] });
  }
}

function post(message: LaneMessage): void {
  parentPort?.postMessage(message);
}

function attempt(work: () => void): void {
  try {
    work();
  } catch (error) {
    post({ type: "failed", reason: error instanceof Error ? error.message : String(error) });
  }
}

attempt(() => {
  const libc = openLibc();
  parentPort?.once("message", (udp: UdpHandle) => {
    attempt(() => run(libc, workerData as LaneData, udp));
    post({ type: "ended" });
  });
  post({ type: "ready" });
});
