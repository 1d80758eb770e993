// The fast way for an embedded tunnel on Linux, with FFI and without privileges: the same socket as the daemon's, UDP_GRO
// and UDP_SEGMENT, received by a thread of its own.
//
//   main thread   stack -> link -> deviceSend -> sendmmsg          ring -> stack; handshakes, timers, configuration
//   lane          recvmmsg -> deviceReceive -> ring
//
// A packet that is sent crosses no thread, and one that is received crosses one, because the stack lives on the event
// loop. The lane is woken by the kernel alone and the main thread by one message for all that came while it was busy; an
// idle tunnel wakes neither. (Rejected: a poll in the lane and recvmmsg on the main thread, which leaves one core idle;
// Atomics.waitAsync for the message, 10 % cheaper, which does not keep a process alive.)

import { OFFLOAD_VNET } from "../../assembly/abi.ts";
import { type Core, createCore } from "../core.ts";
import type { Driver } from "../driver.ts";
import { WasmguardError } from "../errors.ts";
import type { IpAddress } from "../ip.ts";
import type { InPacket } from "../netstack/types.ts";
import { LinuxClock } from "../platform/linux/clock.ts";
import { type Libc, openLibc } from "../platform/linux/libc.ts";
import { LinuxNetwork } from "../platform/linux/network.ts";
import { Sender } from "../platform/linux/sender.ts";
import { toInPacket } from "../platform/portable/delivery.ts";
import { VNET_LEN } from "../platform/portable/vnet.ts";
import { fillRandom } from "../platform/random.ts";
import type { Clock, ErrorCounts } from "../platform/types.ts";
import { Lane, NATIVE_THREADS } from "./lane.ts";
import { CONTROL_KICKED } from "./ring.ts";

/** Packets and bytes handed to the stack before the event loop gets its turn. */
const PORTION_COUNT = 64;
const PORTION_SIZE = 1 << 17;

export interface NativeOptions {
  module: WebAssembly.Module;
  maxPeers?: number;
  /** address to bind; default: all */
  address?: IpAddress;
  /** one of the two */
  onPacket?: (packet: Uint8Array) => void;
  onInput?: (packet: InPacket) => void;
  /** the receiving thread broke down: nothing comes in any more */
  onFailed: (error: WasmguardError) => void;
}

export class NativeCarrier {
  readonly kind = "native";
  readonly core: Core;
  readonly clock: Clock;
  readonly #options: NativeOptions;
  readonly #libc: Libc;
  readonly #lane: Lane;
  readonly #network: LinuxNetwork;
  readonly #laneErrors: ErrorCounts = new Map();
  #driver: Driver | null = null;
  #sender: Sender | null = null;
  #turn: ReturnType<typeof setImmediate> | undefined;
  #closed = false;
  #ended: Promise<void> | null = null;

  private constructor(options: NativeOptions, libc: Libc, core: Core, lane: Lane) {
    this.#options = options;
    this.#libc = libc;
    this.#lane = lane;
    this.core = core;
    this.clock = new LinuxClock(libc, core);
    this.#network = new LinuxNetwork({
      libc,
      lanes: 1,
      offload: true,
      address: options.address,
      onBound: ([handle]) => {
        const onSourceGone = (peer: number): void => void core.exports.peerClearSource(peer);
        this.#sender = new Sender(libc, core, handle, { wait: false, onSourceGone });
        if (this.#driver) this.#driver.sink = this.#sender;
        lane.begin(handle);
      },
    });
    lane.wakeSocket = () => this.#network.wake();
    lane.listener = {
      wake: () => this.#receive(),
      errors: (errors) => errors.forEach(([code, count]) => this.#laneErrors.set(code, count)),
      failed: options.onFailed,
    };
  }

  /** @throws WasmguardError that says what is missing: not Linux, no koffi, no permission for FFI, no thread */
  static async open(options: NativeOptions): Promise<NativeCarrier> {
    await checkPermissions();
    const libc = openLibc();
    const core = createCore(options.module, fillRandom, { maxPeers: options.maxPeers, threads: NATIVE_THREADS });
    const vnet = options.onInput !== undefined;
    if (vnet) core.exports.deviceSetOffload(OFFLOAD_VNET);
    return new NativeCarrier(options, libc, core, await Lane.start(core, vnet));
  }

  /** The driver whose core this is: sends through this socket, and is asked when the lane leaves it work. */
  use(driver: Driver): void {
    this.#driver = driver;
  }

  get listenPort(): number {
    return this.#network.listenPort;
  }

  get fwmark(): number {
    return this.#network.fwmark;
  }

  async prepare(change: { listenPort?: number; fwmark?: number }): Promise<{ commit(): void; rollback(): void }> {
    this.#checkOpen();
    return this.#network.prepare(change);
  }

  /** Binds a port if none is bound yet. */
  async open(): Promise<void> {
    this.#checkOpen();
    this.#network.open();
  }

  get errors(): ErrorCounts {
    const all: ErrorCounts = new Map(this.#laneErrors);
    for (const [code, count] of this.#sender?.errors ?? []) all.set(code, (all.get(code) ?? 0) + count);
    return all;
  }

  /** Resolves when the thread and the socket are gone. */
  close(): Promise<void> {
    this.#closed = true;
    clearImmediate(this.#turn);
    this.#lane.stop();
    return (this.#ended ??= this.#lane.ended.then(() => this.#network.close()));
  }

  #checkOpen(): void {
    if (this.#closed) throw new WasmguardError("ERR_CLOSED", "Cannot bind a port: the device is closed");
  }

  /** Does what the lane left: the core's work first, then packets, a portion at a time. */
  #receive(): void {
    clearImmediate(this.#turn);
    // Taken back when all is done: what is left over, be it because the stack threw, has its turn after others.
    this.#turn = setImmediate(() => this.#receive());
    try {
      if (this.#closed || this.#drain()) clearImmediate(this.#turn);
    } catch (error) {
      // Uncaught, and not in the handler of a message: Deno's reads no other after it.
      setImmediate(() => {
        throw error;
      });
    }
  }

  /** @returns whether the ring is empty, and the next packet will send a message */
  #drain(): boolean {
    const { ring } = this.#lane;
    let count = 0;
    let size = 0;
    do {
      if (Atomics.exchange(ring.control, CONTROL_KICKED, 0)) this.#driver?.service();
      while (ring.take()) {
        if (count++ === PORTION_COUNT || size >= PORTION_SIZE) return false;
        size += ring.end - ring.start;
        try {
          this.#give(ring.memory, ring.start, ring.end);
        } finally {
          ring.release();
        }
        if (this.#closed) return true;
      }
    } while (!ring.sleep());
    return true;
  }

  #give(memory: Uint8Array, start: number, end: number): void {
    const { onInput, onPacket } = this.#options;
    if (onInput) {
      onInput(toInPacket(memory, start, end));
      return;
    }
    const packet = new Uint8Array(end - start - VNET_LEN);
    packet.set(memory.subarray(start + VNET_LEN, end));
    onPacket?.(packet);
  }
}

interface DenoPermissions {
  permissions: { query(descriptor: { name: string; path?: URL }): Promise<{ state: string }> };
}

/** Deno would ask the user in the middle of things: so nothing is touched that was not granted. */
async function checkPermissions(): Promise<void> {
  const { Deno } = globalThis as { Deno?: DenoPermissions };
  if (!Deno) return;
  for (const name of ["ffi", "read"]) {
    const { state } = await Deno.permissions.query({ name });
    if (state !== "granted") throw new WasmguardError("ENOTSUP", `Cannot use FFI: --allow-${name} is not granted`);
  }
}
