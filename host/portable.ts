// A tunnel inside a program: the device over node:dgram, with packets handed in and out by calls. One thread, one event
// loop, no privileges, no native code; the same on Node and Deno.

import {
  DELIVER_CONTINUES, DELIVER_FLAGS, DELIVER_LENGTH, DELIVER_OFFSET, DELIVER_SIZE, IN_LENGTH, IN_OFFSET, IN_SEGMENT, IN_SIZE,
  SLOTS_SIZE, SLOT_DATA_SIZE, SLOT_HEADROOM, SLOT_COUNT, SLOT_SIZE, THREAD_DELIVER, THREAD_IN,
} from "../assembly/abi.ts";
import { DEFAULT_MTU } from "../assembly/protocol.ts";
import { type Core, type CoreBuild, compileCore, createCore } from "./core.ts";
import { Device } from "./device.ts";
import { type CoreEvent, Driver } from "./driver.ts";
import { WasmguardError } from "./errors.ts";
import type { DeviceChange, DeviceState } from "./model.ts";
import { PortableClock } from "./platform/portable/clock.ts";
import { PortableUdp } from "./platform/portable/udp.ts";
import { CoreRandom, fillRandom } from "./platform/random.ts";
import type { ErrorCounts, PacketSink } from "./platform/types.ts";

export interface PortableOptions {
  /** A packet from a peer: IPv4 or IPv6, its source checked against the peer's allowed IPs. It is yours to keep. */
  onPacket: (packet: Uint8Array) => void;
  onEvent?: (event: CoreEvent) => void;
  /** address to bind; default: all */
  address?: string;
  /** bytes of the largest packet that send() takes without padding past it; default 1420 */
  mtu?: number;
  maxPeers?: number;
  /** default: the fastest that the engine runs */
  build?: CoreBuild;
  /** a compiled core, to share among devices */
  module?: WebAssembly.Module;
}

export class PortableDevice {
  readonly device: Device;
  readonly #core: Core;
  readonly #driver: Driver;
  readonly #udp: PortableUdp;
  #closed = false;

  /** Use openPortable. */
  constructor(core: Core, options: PortableOptions) {
    this.#core = core;
    const { onEvent } = options;
    this.#driver = new Driver({ core, clock: new PortableClock(core), random: new CoreRandom(core), onEvent });
    this.#udp = new PortableUdp({ core, onDatagram: () => this.#driver.receive(1), address: options.address });
    this.#driver.sink = this.#udp;
    this.#driver.packets = new CallbackSink(core, options.onPacket);
    this.device = new Device({ core, driver: this.#driver, network: this.#udp });
    this.device.setMtu(options.mtu ?? DEFAULT_MTU);
  }

  /** The UDP port, once bound. */
  get listenPort(): number {
    return this.#udp.listenPort;
  }

  /** Errors of the socket by code; none of them ends the device. */
  get errors(): ErrorCounts {
    return this.#udp.errors;
  }

  /** Binds a port, if the configuration named none, and lets packets pass. */
  async up(): Promise<void> {
    await this.#udp.open();
    this.device.up();
  }

  configure(change: DeviceChange): Promise<void> {
    return this.device.apply(change);
  }

  state(): DeviceState {
    return this.device.state();
  }

  /**
   * Sends IP packets to the peers that own their destinations; the ones that no peer owns are counted and dropped.
   * @throws RangeError when a packet is longer than 65,536 bytes or there are more than 64
   */
  send(...packets: Uint8Array[]): void {
    if (this.#closed) throw new WasmguardError("ERR_CLOSED", "Cannot send: the device is closed");
    if (packets.length > SLOT_COUNT) throw new RangeError(`Cannot send ${packets.length} packets at once: at most ${SLOT_COUNT}`);
    const { view, u8, base, slots } = this.#core;
    packets.forEach((packet, i) => {
      if (packet.length > SLOT_DATA_SIZE) throw new RangeError(`Cannot send a packet of ${packet.length} bytes`);
      const at = slots + SLOT_SIZE * i + SLOT_HEADROOM;
      const record = base + THREAD_IN + IN_SIZE * i;
      u8.set(packet, at);
      view.setUint32(record + IN_OFFSET, at, true);
      view.setUint32(record + IN_LENGTH, packet.length, true);
      view.setUint32(record + IN_SEGMENT, 0, true);
    });
    this.#driver.send(packets.length);
  }

  /** Ends the tunnel: the port is closed and every key wiped. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#udp.close();
    this.device.close();
  }
}

/** Hands delivered packets to a function. */
class CallbackSink implements PacketSink {
  readonly errors: ErrorCounts = new Map();
  readonly #core: Core;
  readonly #onPacket: (packet: Uint8Array) => void;

  constructor(core: Core, onPacket: (packet: Uint8Array) => void) {
    this.#core = core;
    this.#onPacket = onPacket;
  }

  deliver(count: number): number {
    const { view, u8, base, slots } = this.#core;
    // Taken out first: the callback may send, and that writes into the same slots and records.
    const packets: Uint8Array[] = [];
    let parts: Uint8Array[] = [];
    for (let i = 0; i < count; i++) {
      const record = base + THREAD_DELIVER + i * DELIVER_SIZE;
      const offset = view.getUint32(record + DELIVER_OFFSET, true);
      const length = view.getUint32(record + DELIVER_LENGTH, true);
      if (offset < slots || offset + length > slots + SLOTS_SIZE) {
        throw new WasmguardError("ERR_CORE_ADDRESS", `The core gave a packet outside of its slots: ${offset}+${length}`);
      }
      parts.push(u8.slice(offset, offset + length));
      if (view.getUint32(record + DELIVER_FLAGS, true) & DELIVER_CONTINUES) continue;
      packets.push(parts.length === 1 ? parts[0] : Buffer.concat(parts));
      parts = [];
    }
    for (const packet of packets) this.#onPacket(packet);
    return packets.length;
  }
}

/** Creates a device; configure() it, then up(). */
export async function openPortable(options: PortableOptions): Promise<PortableDevice> {
  const module = options.module ?? (await compileCore(options.build));
  return new PortableDevice(createCore(module, fillRandom, { maxPeers: options.maxPeers, threads: 1 }), options);
}
