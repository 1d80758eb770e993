// The worker threads of the daemon, seen from the main thread: start, wake, stop. One lane a direction.

import { Worker } from "node:worker_threads";
import type { Core } from "./core.ts";
import { WasmguardError } from "./errors.ts";
import type { TunHandle } from "./platform/linux/tun.ts";
import type { UdpHandle } from "./platform/linux/udp.ts";

export type Direction = "out" | "in";

/** What a lane is started with. */
export interface LaneData {
  direction: Direction;
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
  /** of the core: 1 out, 2 in */
  thread: number;
  tun: TunHandle;
  udp: UdpHandle;
  control: SharedArrayBuffer;
}

/** Words of the control buffer. */
export const CONTROL_STOP = 0; // 1 = end at the next wake-up
export const CONTROL_KICKED = 1; // 1 = a kick is on its way to the main thread
const CONTROL_LEN = 8;

export type LaneMessage =
  | { type: "kick" }
  | { type: "errors"; direction: Direction; errors: [code: string, count: number][] }
  /** the interface or the socket is gone, or it was told to stop */
  | { type: "end"; direction: Direction }
  | { type: "failed"; direction: Direction; reason: string };

/** Threads of the core that a daemon takes: main, out, in. */
export const DAEMON_THREADS = 3;

const THREAD: Record<Direction, number> = { out: 1, in: 2 };
const STOP_TIMEOUT_MS = 1000;

export interface LanesOptions {
  core: Core;
  tun: TunHandle;
  udp: UdpHandle;
  /** the core has work for the main thread */
  onKick: () => void;
  onErrors: (direction: Direction, errors: [code: string, count: number][]) => void;
  /** a lane ended that nobody stopped; `error` is null when its interface went away */
  onEnd: (direction: Direction, error: WasmguardError | null) => void;
}

export class Lanes {
  readonly #options: LanesOptions;
  readonly #control = new Int32Array(new SharedArrayBuffer(CONTROL_LEN));
  readonly #workers = new Map<Direction, { worker: Worker; exited: Promise<unknown> }>();

  constructor(options: LanesOptions) {
    this.#options = options;
    this.#start("out");
    this.#start("in");
  }

  /**
   * Ends the lanes. `wake` makes their system calls return.
   * @returns false when one did not end in time: only the end of the process can free it then
   */
  async stop(wake: () => void): Promise<boolean> {
    Atomics.store(this.#control, CONTROL_STOP, 1);
    wake();
    const all = Promise.all([...this.#workers.values()].map(({ exited }) => exited)).then(() => true);
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<boolean>((resolve) => (timer = setTimeout(resolve, STOP_TIMEOUT_MS, false)));
    const ended = await Promise.race([all, late]);
    clearTimeout(timer);
    return ended;
  }

  #start(direction: Direction): void {
    const { core, tun, udp } = this.#options;
    const data: LaneData = {
      direction, module: core.module, memory: core.memory, thread: THREAD[direction], tun, udp,
      control: this.#control.buffer as SharedArrayBuffer,
    };
    const entry = new URL(import.meta.url.endsWith(".ts") ? "../dist/lane.js" : "./lane.js", import.meta.url);
    const worker = new Worker(entry, { workerData: data });
    const exited = new Promise((resolve) => worker.once("exit", resolve));
    this.#workers.set(direction, { worker, exited });
    worker.on("message", (message: LaneMessage) => this.#receive(message));
    worker.on("error", (error: Error) => this.#end(direction, error.message));
  }

  #receive(message: LaneMessage): void {
    switch (message.type) {
      case "kick":
        // Cleared first: what comes after this is a new kick.
        Atomics.store(this.#control, CONTROL_KICKED, 0);
        this.#options.onKick();
        return;
      case "errors":
        this.#options.onErrors(message.direction, message.errors);
        return;
      case "end":
        this.#end(message.direction, null);
        return;
      case "failed":
        this.#end(message.direction, message.reason);
    }
  }

  #end(direction: Direction, reason: string | null): void {
    this.#options.core.exports.threadEnded(THREAD[direction]);
    if (Atomics.load(this.#control, CONTROL_STOP)) return;
    const error = reason === null ? null : new WasmguardError("ERR_LANE", `The lane "${direction}" failed: ${reason}`);
    this.#options.onEnd(direction, error);
  }
}
