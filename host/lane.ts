// The entry of a worker thread: one direction of the daemon's data path. It sits blocked in one system call, hands what
// came to the core, and gives the result to the other side. A packet never changes threads.
//
//   out: read the TUN, seal, sendmmsg          in: recvmmsg, open, write the TUN
//
// Nothing but a kick or a last word is ever posted: the main thread learns the rest from the core's memory. The loop
// never returns to the event loop, so the main thread stops it by waking its system call with CONTROL_STOP set.

import { parentPort, workerData } from "node:worker_threads";
import { type Captured, Tap } from "./capture/tap.ts";
import { attachCore } from "./core.ts";
import { CAPTURED_MAX_SIZE, CONTROL_CAPTURED, CONTROL_KICKED, CONTROL_STOP, type LaneData, type LaneMessage } from "./lanes.ts";
import { LinuxClock } from "./platform/linux/clock.ts";
import { openLibc } from "./platform/linux/libc.ts";
import { Pace } from "./platform/linux/pace.ts";
import { Receiver } from "./platform/linux/receiver.ts";
import { Sender } from "./platform/linux/sender.ts";
import { TunReader } from "./platform/linux/tunreader.ts";
import { TunWriter } from "./platform/linux/tunwriter.ts";
import { CoreRandom } from "./platform/random.ts";
import { CLOSED, type ErrorCounts } from "./platform/types.ts";

const REPORT_MS = 1000;

function run(data: LaneData): void {
  const libc = openLibc();
  const core = attachCore(data.module, data.memory, data.thread);
  const lane = new Lane(data);
  const pace = new Pace(libc);
  const clock = new LinuxClock(libc, core);
  const random = new CoreRandom(core);
  const tap = data.captures ? new Tap(core, (captured) => lane.captured(captured)) : null;
  if (data.direction === "out") {
    const reader = new TunReader(libc, core, data.tun);
    const sender = new Sender(libc, core, data.udp, { onSourceGone: (peer) => void core.exports.peerClearSource(peer) });
    for (;;) {
      const packets = reader.receive();
      if (lane.stopped || packets === CLOSED) return;
      if (packets === 0) continue;
      clock.stampMono();
      random.refill();
      const outs = core.exports.deviceSend(packets);
      if (outs < 0) throw new Error(`deviceSend: status ${outs}`);
      if (outs > 0) tap?.outgoing(outs);
      if (outs > 0) sender.send(outs);
      if (core.kicked) lane.kick();
      lane.report(sender.errors);
      pace.note(reader.size);
    }
  }
  const receiver = new Receiver(libc, core, data.udp);
  const writer = new TunWriter(libc, core, data.tun);
  for (;;) {
    const datagrams = receiver.receive();
    if (lane.stopped || datagrams === CLOSED) return;
    tap?.incoming(datagrams);
    for (let first = 0; first < datagrams; ) {
      clock.stampMono();
      random.refill();
      const next = core.exports.deviceReceive(first, datagrams);
      if (next <= first) throw new Error(`deviceReceive: status ${next}`);
      first = next;
      // The flag lasts until the next call: asked before the TUN is, so that a handshake does not wait for it.
      if (core.kicked) lane.kick();
      if (core.deliverCount > 0 && writer.deliver(core.deliverCount) === CLOSED) return;
    }
    lane.report(writer.errors);
    pace.note(receiver.size);
  }
}

class Lane {
  readonly #data: LaneData;
  readonly #control: Int32Array;
  #reported = 0;
  #reportedAt = 0;

  constructor(data: LaneData) {
    this.#data = data;
    this.#control = new Int32Array(data.control);
  }

  get stopped(): boolean {
    return Atomics.load(this.#control, CONTROL_STOP) !== 0;
  }

  /** Wakes the main thread, unless it was woken and has not come round yet. */
  kick(): void {
    if (Atomics.exchange(this.#control, CONTROL_KICKED, 1) === 0) post({ type: "kick" });
  }

  /** Hands copies of datagrams to the main thread, unless it is too far behind with those it has. */
  captured(captured: Captured[]): void {
    const size = captured.reduce((sum, { bytes }) => sum + bytes.length, 0);
    const waiting = Atomics.add(this.#control, CONTROL_CAPTURED, size);
    if (waiting <= CAPTURED_MAX_SIZE) return post({ type: "captured", captured, size });
    Atomics.sub(this.#control, CONTROL_CAPTURED, size);
    post({ type: "captureLost", count: captured.length });
  }

  /** Tells the main thread of new errors of single packets, at most once a second. */
  report(errors: ErrorCounts): void {
    if (errors.size === 0) return;
    let total = 0;
    for (const count of errors.values()) total += count;
    if (total === this.#reported || performance.now() < this.#reportedAt + REPORT_MS) return;
    this.#reported = total;
    this.#reportedAt = performance.now();
    post({ type: "errors", direction: this.#data.direction, errors: [...errors] });
  }
}

function post(message: LaneMessage): void {
  parentPort?.postMessage(message);
}

const data = workerData as LaneData;
try {
  run(data);
  post({ type: "end", direction: data.direction });
} catch (error) {
  post({ type: "failed", direction: data.direction, reason: error instanceof Error ? error.message : String(error) });
}
