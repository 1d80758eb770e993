// A tunnel inside a program: the device over any transport, with packets handed in and out by calls. No privileges; the
// same on Node and Deno. One thread and no native code are enough for it; on Linux, where FFI is there, datagrams go
// through the kernel in runs and are received in a thread (native/carrier.ts).
//
// Two ways to take packets: onPacket gives each as it was sent, for programs that look at packets; onInput gives what a
// TCP/IP stack wants, runs of a flow joined to super-packets, and `link` takes such from it.

import { platform } from "node:os";
import { OFFLOAD_VNET } from "../assembly/abi.ts";
import { DEFAULT_MTU } from "../assembly/protocol.ts";
import { type Core, type CoreBuild, compileCore, createCore } from "./core.ts";
import { Device, type Network } from "./device.ts";
import { type CoreEvent, Driver, type DriverOptions } from "./driver.ts";
import { quote, WasmguardError } from "./errors.ts";
import { parseIp } from "./ip.ts";
import type { DeviceChange, DeviceState } from "./model.ts";
import type { InPacket, Link } from "./netstack/types.ts";
import { Carrier } from "./platform/portable/carrier.ts";
import { PortableClock } from "./platform/portable/clock.ts";
import { InputDelivery, PacketDelivery } from "./platform/portable/delivery.ts";
import { DeviceLink } from "./platform/portable/link.ts";
import { CoreRandom, fillRandom } from "./platform/random.ts";
import type { Clock, ErrorCounts } from "./platform/types.ts";
import type { Transport } from "./transport/types.ts";
import { UdpTransport } from "./transport/udp.ts";

export interface PortableOptions {
  /** A packet from a peer: IPv4 or IPv6, its source checked against the peer's allowed IPs. It is yours to keep. */
  onPacket?: (packet: Uint8Array) => void;
  /** In place of onPacket: packets for a stack, TCP runs joined to super-packets; valid during the call. */
  onInput?: (packet: InPacket) => void;
  onEvent?: (event: CoreEvent) => void;
  /**
   * The receiving thread of the native transport broke down, and nothing comes in any more: close the device. It should
   * never happen; without this function it is an uncaught exception.
   */
  onFailed?: (error: WasmguardError) => void;
  /**
   * What carries the datagrams. "udp" is node:dgram; "native" is UDP by FFI, on Linux with koffi or with Deno's
   * --allow-ffi --allow-read, several times as fast; "auto", the default, is the faster one that works here.
   */
  transport?: Transport | "auto" | "native" | "udp";
  /** address to bind, for UDP; default: all */
  address?: string;
  /** bytes of the largest packet that send() takes without padding past it; default 1420 */
  mtu?: number;
  maxPeers?: number;
  /** default: the fastest that the engine runs */
  build?: CoreBuild;
  /** a compiled core, to share among devices */
  module?: WebAssembly.Module;
}

/** What a device stands on: its network, with the datagrams of its core. */
interface Carriage extends Network {
  readonly errors: ErrorCounts;
  open(): Promise<void>;
  close(): Promise<void> | void;
}

/** Joins a carriage to the driver of its core. */
type Join = (driver: Driver) => Carriage;

export class PortableDevice {
  readonly device: Device;
  readonly #carriage: Carriage;
  readonly #link: DeviceLink;
  #closed: Promise<void> | null = null;

  /** Use openPortable. */
  constructor(core: Core, clock: Clock, join: Join, { mtu = DEFAULT_MTU, onEvent }: PortableOptions) {
    const link = new DeviceLink({ core, mtu, onPackets: (count) => driver.send(count) });
    const driver = new LinkDriver(link, {
      core,
      clock,
      random: new CoreRandom(core),
      onEvent: (event) => {
        onEvent?.(event);
        link.flush(); // service goes on after it
      },
    });
    this.#link = link;
    this.#carriage = join(driver);
    this.device = new Device({ core, driver, network: this.#carriage });
    this.device.setMtu(mtu);
  }

  /** The way out for a stack's packets. */
  get link(): Link {
    return this.#link;
  }

  /** The UDP port, once bound. */
  get listenPort(): number {
    return this.#carriage.listenPort;
  }

  /** Errors of the transport by code; none of them ends the device. */
  get errors(): ErrorCounts {
    return this.#carriage.errors;
  }

  /** Binds a port, if the configuration named none, and lets packets pass. */
  async up(): Promise<void> {
    await this.#carriage.open();
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

  /**
   * Ends the tunnel: what was sent before still leaves, then the port is closed and every key wiped.
   * @returns when nothing is left of it, no thread and no handle; all else is done at once
   */
  close(): Promise<void> {
    return (this.#closed ??= this.#close());
  }

  #close(): Promise<void> {
    this.#link.flush();
    this.#link.close();
    const ended = this.#carriage.close();
    this.device.close();
    return Promise.resolve(ended);
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
  const { onPacket, onInput, address, transport = "auto", maxPeers } = options;
  if ((onPacket === undefined) === (onInput === undefined)) throw new TypeError("Cannot open a device: give onPacket or onInput");
  if (typeof transport === "object") {
    if (address !== undefined) throw new TypeError("Cannot open a device: an address is for UDP, not for another transport");
  } else if (!["auto", "native", "udp"].includes(transport)) {
    throw new TypeError(`Cannot open a device: no transport is called ${quote(String(transport))}`);
  }
  const module = options.module ?? (await compileCore(options.build));
  if (transport === "native" || (transport === "auto" && platform() === "linux")) {
    try {
      return await openNative(module, options);
    } catch (error) {
      if (transport === "native") throw error;
    }
  }
  const carrying = typeof transport === "object" ? transport : new UdpTransport({ address });
  const core = createCore(module, fillRandom, { maxPeers, threads: 1 });
  if (onInput) core.exports.deviceSetOffload(OFFLOAD_VNET);
  const join = (driver: Driver): Carriage => {
    const carrier = new Carrier({ core, transport: carrying, onDatagrams: (count) => driver.receive(count) });
    driver.sink = carrier;
    driver.packets = onInput ? new InputDelivery(core, onInput) : new PacketDelivery(core, onPacket!);
    return carrier;
  };
  return new PortableDevice(core, new PortableClock(core), join, options);
}

async function openNative(module: WebAssembly.Module, options: PortableOptions): Promise<PortableDevice> {
  const { onPacket, onInput, maxPeers } = options;
  const address = options.address === undefined ? undefined : parseIp(options.address);
  const onFailed = options.onFailed ?? ((error) => {
    throw error;
  });
  const { NativeCarrier } = await import("./native/carrier.ts");
  const carrier = await NativeCarrier.open({ module, maxPeers, address, onPacket, onInput, onFailed });
  const join = (driver: Driver): Carriage => {
    carrier.use(driver);
    return carrier;
  };
  return new PortableDevice(carrier.core, carrier.clock, join, options);
}
