// A tunnel inside a program: the device over any transport, with packets handed in and out by calls. One thread, one
// event loop, no privileges, no native code; the same on Node and Deno.
//
// Two ways to take packets: onPacket gives each as it was sent, for programs that look at packets; onInput gives what a
// TCP/IP stack wants, runs of a flow joined to super-packets, and `link` takes such from it.

import { OFFLOAD_VNET } from "../assembly/abi.ts";
import { DEFAULT_MTU } from "../assembly/protocol.ts";
import { type Core, type CoreBuild, compileCore, createCore } from "./core.ts";
import { Device } from "./device.ts";
import { type CoreEvent, Driver, type DriverOptions } from "./driver.ts";
import { WasmguardError } from "./errors.ts";
import type { DeviceChange, DeviceState } from "./model.ts";
import type { InPacket, Link } from "./netstack/types.ts";
import { Carrier } from "./platform/portable/carrier.ts";
import { PortableClock } from "./platform/portable/clock.ts";
import { InputDelivery, PacketDelivery } from "./platform/portable/delivery.ts";
import { DeviceLink } from "./platform/portable/link.ts";
import { CoreRandom, fillRandom } from "./platform/random.ts";
import type { ErrorCounts } from "./platform/types.ts";
import type { Transport } from "./transport/types.ts";
import { UdpTransport } from "./transport/udp.ts";

export interface PortableOptions {
  /** A packet from a peer: IPv4 or IPv6, its source checked against the peer's allowed IPs. It is yours to keep. */
  onPacket?: (packet: Uint8Array) => void;
  /** In place of onPacket: packets for a stack, TCP runs joined to super-packets; valid during the call. */
  onInput?: (packet: InPacket) => void;
  onEvent?: (event: CoreEvent) => void;
  /** what carries the datagrams; default: UDP */
  transport?: Transport;
  /** address to bind, of the default transport; default: all */
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
  readonly #driver: LinkDriver;
  readonly #carrier: Carrier;
  readonly #link: DeviceLink;
  #closed = false;

  /** Use openPortable. */
  constructor(core: Core, options: PortableOptions) {
    const { onEvent, onPacket, onInput, transport, address } = options;
    if ((onPacket === undefined) === (onInput === undefined)) throw new TypeError("Cannot open a device: give onPacket or onInput");
    if (transport && address !== undefined) throw new TypeError("Cannot open a device: the address is that of the default transport");
    this.#link = new DeviceLink({
      core,
      mtu: options.mtu ?? DEFAULT_MTU,
      onPackets: (count) => this.#driver.send(count),
    });
    this.#driver = new LinkDriver(this.#link, {
      core,
      clock: new PortableClock(core),
      random: new CoreRandom(core),
      onEvent: (event) => {
        onEvent?.(event);
        this.#link.flush(); // service goes on after it
      },
    });
    this.#carrier = new Carrier({
      core,
      transport: transport ?? new UdpTransport({ address }),
      onDatagrams: (count) => this.#driver.receive(count),
    });
    this.#driver.sink = this.#carrier;
    if (onInput) core.exports.deviceSetOffload(OFFLOAD_VNET);
    this.#driver.packets = onInput ? new InputDelivery(core, onInput) : new PacketDelivery(core, onPacket!);
    this.device = new Device({ core, driver: this.#driver, network: this.#carrier });
    this.device.setMtu(this.#link.mtu);
  }

  /** The way out for a stack's packets. */
  get link(): Link {
    return this.#link;
  }

  /** The UDP port, once bound. */
  get listenPort(): number {
    return this.#carrier.listenPort;
  }

  /** Errors of the transport by code; none of them ends the device. */
  get errors(): ErrorCounts {
    return this.#carrier.errors;
  }

  /** Binds a port, if the configuration named none, and lets packets pass. */
  async up(): Promise<void> {
    await this.#carrier.open();
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
   * @throws RangeError when a packet is longer than 65,535 bytes; none is sent then
   */
  send(...packets: Uint8Array[]): void {
    if (this.#closed) throw new WasmguardError("ERR_CLOSED", "Cannot send: the device is closed");
    this.#link.flush();
    for (const packet of packets) {
      if (packet.length > PACKET_LEN_MAX) throw new RangeError(`Cannot send a packet of ${packet.length} bytes: at most ${PACKET_LEN_MAX}`);
    }
    for (const header of packets) this.#link.put({ header, payload: [], gsoSize: 0, checksumStart: 0 });
    this.#link.flush();
  }

  /** Ends the tunnel: what was sent before still leaves, then the port is closed and every key wiped. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#link.flush();
    this.#link.close();
    this.#carrier.close();
    this.device.close();
  }
}

const PACKET_LEN_MAX = 65535;

/** Sends what lies in the slots before the core may put packets of its own there. */
class LinkDriver extends Driver {
  readonly #link: DeviceLink;

  constructor(link: DeviceLink, options: DriverOptions) {
    super(options);
    this.#link = link;
  }

  override service(): void {
    this.#link.flush();
    super.service();
  }
}

/** Creates a device; configure() it, then up(). */
export async function openPortable(options: PortableOptions): Promise<PortableDevice> {
  const module = options.module ?? (await compileCore(options.build));
  return new PortableDevice(createCore(module, fillRandom, { maxPeers: options.maxPeers, threads: 1 }), options);
}
