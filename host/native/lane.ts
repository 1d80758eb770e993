// The receiving thread as the main thread sees it: started, told the socket, heard, ended.
//
// It sits in a system call, and a process cannot end while one of its threads does: so a process that exits with tunnels
// open wakes their sockets first.

import { existsSync } from "node:fs";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import type { Core } from "../core.ts";
import { WasmguardError } from "../errors.ts";
import type { UdpHandle } from "../platform/linux/udp.ts";
import { createRing, type RingBuffers, RingReader } from "./ring.ts";

/** What the thread is started with. */
export interface LaneData {
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
  /** of the core */
  thread: number;
  ring: RingBuffers;
  /** packets are delivered with a virtio header before them */
  vnet: boolean;
}

export type LaneMessage =
  | { type: "ready" }
  /** packets are in the ring, or the core has work for the main thread */
  | { type: "wake" }
  | { type: "errors"; errors: [code: string, count: number][] }
  | { type: "failed"; reason: string }
  /** it is back in its event loop, and of no more use */
  | { type: "ended" };

export interface LaneListener {
  wake(): void;
  errors(errors: [code: string, count: number][]): void;
  /** it ended, and nobody told it to */
  failed(error: WasmguardError): void;
}

const THREAD = 1;
/** Of the core: the main thread's and the lane's. */
export const NATIVE_THREADS = 2;

/** Lanes that are not ended yet, for the end of the process. */
const running = new Set<Lane>();
process.on("exit", () => running.forEach((lane) => lane.stop()));

export class Lane {
  readonly ring: RingReader;
  /** resolves when the thread is gone */
  readonly ended: Promise<void>;
  listener: LaneListener | null = null;
  /** makes the socket's blocked reader return; set by whoever opens it */
  wakeSocket: () => void = () => {};
  readonly #worker: Worker;
  #began = false;
  #stopped = false;
  #failure: string | null = null;

  private constructor(core: Core, vnet: boolean, entry: URL) {
    const ring = createRing();
    const data: LaneData = { module: core.module, memory: core.memory, thread: THREAD, ring, vnet };
    this.ring = new RingReader(ring);
    // Without the flags of this process: a loader for TypeScript has no business in it.
    const worker = new Worker(entry, { workerData: data, execArgv: [], name: "wasmguard" });
    this.#worker = worker;
    running.add(this);
    this.ended = new Promise((resolve) => {
      worker.once("exit", () => {
        core.exports.threadEnded(THREAD);
        running.delete(this);
        if (!this.#stopped) this.#fail(this.#failure ?? "its thread ended");
        resolve();
      });
    });
  }

  /**
   * Starts the thread. Resolves when it is able to receive.
   * @throws WasmguardError ERR_LANE
   */
  static async start(core: Core, vnet: boolean): Promise<Lane> {
    const entry = new URL(import.meta.url.endsWith(".ts") ? "../../dist/native.js" : "./native.js", import.meta.url);
    if (entry.protocol !== "file:") throw laneError(`its code must be a file, and this is ${entry.protocol}`);
    if (!existsSync(fileURLToPath(entry))) throw laneError(`${entry.pathname} is not there`);
    const lane = new Lane(core, vnet, entry);
    await lane.#ready();
    return lane;
  }

  #ready(): Promise<void> {
    return new Promise((resolve, reject) => {
      const giveUp = (reason: string): void => {
        this.stop();
        reject(laneError(reason));
      };
      this.#worker.on("error", (error: Error) => {
        this.#failure = error.message;
        giveUp(error.message);
      });
      this.#worker.on("message", (message: LaneMessage) => {
        switch (message.type) {
          case "ready":
            return resolve();
          case "wake":
            return this.listener?.wake();
          case "errors":
            return this.listener?.errors(message.errors);
          case "failed":
            this.#failure = message.reason;
            if (!this.listener) giveUp(message.reason);
            return;
          case "ended":
            void this.#worker.terminate();
        }
      });
    });
  }

  /** Lets it receive from this socket. */
  begin(udp: UdpHandle): void {
    if (this.#began || this.#stopped) return;
    this.#began = true;
    this.#worker.postMessage(udp);
  }

  /** Ends it; `ended` tells when. */
  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    this.ring.stop();
    if (this.#began) this.wakeSocket();
    else void this.#worker.terminate();
  }

  #fail(reason: string): void {
    this.listener?.failed(laneError(reason));
  }
}

function laneError(reason: string): WasmguardError {
  return new WasmguardError("ERR_LANE", `Cannot receive in a thread: ${reason}`);
}
