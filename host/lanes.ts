// The worker threads of the daemon, seen from the main thread: start, wake, stop. One pair of lanes, out and in, is the
// default; more share the interface's queues and the port (--lanes N): the kernel keeps a flow on one queue, and a peer
// on one socket, so order within a flow is kept.

import { Worker } from "node:worker_threads";
import type { Captured } from "./capture/tap.ts";
import type { Core } from "./core.ts";
import { THREAD_MAX } from "../assembly/abi.ts";
import { WasmguardError } from "./errors.ts";
import type { TunHandle } from "./platform/linux/tun.ts";
import type { UdpHandle } from "./platform/linux/udp.ts";

export type Direction = "out" | "in";

/** What a lane is started with. */
export interface LaneData {
  direction: Direction;
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
  /** of the core */
  thread: number;
  tun: TunHandle;
  udp: UdpHandle;
  control: SharedArrayBuffer;
  /** whether datagrams are copied for a capture file */
  captures: boolean;
}

/** Words of the control buffer. */
export const CONTROL_STOP = 0; // 1 = end at the next wake-up
export const CONTROL_KICKED = 1; // 1 = a kick is on its way to the main thread
export const CONTROL_CAPTURED = 2; // bytes on their way to the capture file
const CONTROL_LEN = 12;

/** Bytes on their way to the capture file at most: a disk that is slower than the network must not fill the memory. */
export const CAPTURED_MAX_SIZE = 64 << 20;

export type LaneMessage =
  | { type: "kick" }
  | { type: "captured"; captured: Captured[]; size: number }
  | { type: "captureLost"; count: number }
  | { type: "errors"; direction: Direction; errors: [code: string, count: number][] }
  /** the interface or the socket is gone, or it was told to stop */
  | { type: "end"; direction: Direction }
  | { type: "failed"; direction: Direction; reason: string };

/** Pairs of lanes at most: the core has THREAD_MAX thread blocks, one of them the main thread's. */
export const LANES_MAX = Math.floor((THREAD_MAX - 1) / 2);

/** Threads of the core that a daemon with so many pairs of lanes takes. */
export function daemonThreads(lanes: number): number {
  return 1 + 2 * lanes;
}

const STOP_TIMEOUT_MS = 1000;

export interface LanesOptions {
  core: Core;
  /** a queue of the interface for each pair */
  tuns: TunHandle[];
  /** a socket for each pair */
  udps: UdpHandle[];
  /** the core has work for the main thread */
  onKick: () => void;
  /** where copies of all datagrams go; absent = none are made */
  onCaptured?: (captured: Captured[]) => void;
  /** datagrams that came too fast to be captured */
  onCaptureLost?: (count: number) => void;
  onErrors: (direction: Direction, errors: [code: string, count: number][]) => void;
  /** a lane ended that nobody stopped; `error` is null when its interface went away */
  onEnd: (direction: Direction, error: WasmguardError | null) => void;
}

export class Lanes {
  readonly #options: LanesOptions;
  readonly #control = new Int32Array(new SharedArrayBuffer(CONTROL_LEN));
  readonly #exits: Promise<unknown>[] = [];

  constructor(options: LanesOptions) {
    this.#options = options;
    const { tuns, udps } = options;
    for (let lane = 0; lane < udps.length; lane++) {
      this.#start("out", 1 + 2 * lane, tuns[lane], udps[lane]);
      this.#start("in", 2 + 2 * lane, tuns[lane], udps[lane]);
    }
  }

  /**
   * Ends the lanes. `wake` makes their system calls return.
   * @returns false when one did not end in time: only the end of the process can free it then
   */
  async stop(wake: () => void): Promise<boolean> {
    Atomics.store(this.#control, CONTROL_STOP, 1);
    wake();
    const all = Promise.all(this.#exits).then(() => true);
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<boolean>((resolve) => (timer = setTimeout(resolve, STOP_TIMEOUT_MS, false)));
    const ended = await Promise.race([all, late]);
    clearTimeout(timer);
    return ended;
  }

  #start(direction: Direction, thread: number, tun: TunHandle, udp: UdpHandle): void {
    const { module, memory } = this.#options.core;
    const control = this.#control.buffer as SharedArrayBuffer;
    const captures = this.#options.onCaptured !== undefined;
    const data: LaneData = { direction, module, memory, thread, tun, udp, control, captures };
    const entry = new URL(import.meta.url.endsWith(".ts") ? "../dist/lane.js" : "./lane.js", import.meta.url);
    const worker = new Worker(entry, { workerData: data });
    this.#exits.push(new Promise((resolve) => worker.once("exit", resolve)));
    worker.on("message", (message: LaneMessage) => this.#receive(message, thread));
    worker.on("error", (error: Error) => this.#end(direction, thread, error.message));
  }

  #receive(message: LaneMessage, thread: number): void {
    switch (message.type) {
      case "kick":
        // Cleared first: what comes after this is a new kick.
        Atomics.store(this.#control, CONTROL_KICKED, 0);
        this.#options.onKick();
        return;
      case "captured":
        Atomics.sub(this.#control, CONTROL_CAPTURED, message.size);
        this.#options.onCaptured?.(message.captured);
        return;
      case "captureLost":
        this.#options.onCaptureLost?.(message.count);
        return;
      case "errors":
        this.#options.onErrors(message.direction, message.errors);
        return;
      case "end":
        this.#end(message.direction, thread, null);
        return;
      case "failed":
        this.#end(message.direction, thread, message.reason);
    }
  }

  #end(direction: Direction, thread: number, reason: string | null): void {
    this.#options.core.exports.threadEnded(thread);
    if (Atomics.load(this.#control, CONTROL_STOP)) return;
    const error = reason === null ? null : new WasmguardError("ERR_LANE", `The lane "${direction}" failed: ${reason}`);
    this.#options.onEnd(direction, error);
  }
}
