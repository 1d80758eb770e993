// The device over any transport, with packets handed in and out by calls: what portable.ts opens over UDP, and a page over
// a WebSocket. Nothing in here is of one runtime: it runs wherever there are timers and a core.

import { OFFLOAD_VNET } from "../assembly/abi.ts";
import { DEFAULT_MTU } from "../assembly/protocol.ts";
import type { HandshakeKeys } from "./capture/keylog.ts";
import { type Core, type CoreBuild, compileCore, createCore } from "./core.ts";
import { Device, type Network } from "./device.ts";
import { type CoreEvent, Driver, type DriverOptions } from "./driver.ts";
import { WasmguardError } from "./errors.ts";
import type { DeviceChange, DeviceState } from "./model.ts";
import type { InPacket, Link } from "./netstack/types.ts";
import { Carrier } from "./platform/portable/carrier.ts";
import { PortableClock } from "./platform/portable/clock.ts";
import { InputDelivery, PacketDelivery } from "./platform/portable/delivery.ts";
import { DeviceLink } from "./platform/portable/link.ts";
import { CoreRandom, fillRandom } from "./platform/random.ts";
import type { Clock, ErrorCounts } from "./platform/types.ts";
import type { Transport } from "./transport/types.ts";

/** What a device needs to know, whatever carries its datagrams. */
export interface DeviceOptions {
  /** A packet from a peer: IPv4 or IPv6, its source checked against the peer's allowed IPs. It is yours to keep. */
  onPacket?: (packet: Uint8Array) => void;
  /** In place of onPacket: packets for a stack, TCP runs joined to super-packets; valid during the call. */
  onInput?: (packet: InPacket) => void;
  onEvent?: (event: CoreEvent) => void;
  /** The secrets of each handshake, before its message is sent: for a key log. They are wiped after the call. */
  onHandshakeKeys?: (keys: HandshakeKeys) => void;
  /** bytes of the largest packet that send() takes without padding past it; default 1420 */
  mtu?: number;
  maxPeers?: number;
  /** default: the fastest that the engine runs */
  build?: CoreBuild;
  /** a compiled core, to share among devices */
  module?: WebAssembly.Module;
}

/** What a device stands on: its network, with the datagrams of its core. */
export interface Carriage extends Network {
  readonly kind: CarriageKind;
  readonly errors: ErrorCounts;
  open(): Promise<void>;
  close(): Promise<void> | void;
}

/** Joins a carriage to the driver of its core. */
export type Join = (driver: Driver) => Carriage;

export type CarriageKind = "native" | "portable";

export class PortableDevice {
  readonly device: Device;
  readonly #carriage: Carriage;
  readonly #link: DeviceLink;
  #closed: Promise<void> | null = null;

  /** Use openPortable. */
  constructor(core: Core, clock: Clock, join: Join, { mtu = DEFAULT_MTU, onEvent, onHandshakeKeys }: DeviceOptions) {
    const link = new DeviceLink({ core, mtu, onPackets: (count) => driver.send(count) });
    const driver = new LinkDriver(link, {
      core,
      clock,
      random: new CoreRandom(core),
      onEvent: (event) => {
        onEvent?.(event);
        link.flush(); // service goes on after it
      },
      onEphemeral: (peer, key) => this.#tellKeys(peer, key, onHandshakeKeys!),
    });
    if (onHandshakeKeys) driver.logKeys(true);
    this.#link = link;
    this.#carriage = join(driver);
    this.device = new Device({ core, driver, network: this.#carriage });
    this.device.setMtu(mtu);
  }

  /** The way out for a stack's packets. */
  get link(): Link {
    return this.#link;
  }

  /** Whether datagrams go by FFI and a thread of their own, or by the transport on the event loop. */
  get kind(): CarriageKind {
    return this.#carriage.kind;
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

  #tellKeys(peer: number, ephemeral: Uint8Array, tell: (keys: HandshakeKeys) => void): void {
    const keys = this.device.handshakeKeys(peer, ephemeral);
    if (!keys) return;
    try {
      tell(keys);
    } finally {
      for (const key of [keys.localStaticPrivate, keys.presharedKey]) key.fill(0);
    }
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

/** Creates a device over a transport; configure() it, then up(). */
export async function openOver(transport: Transport, options: DeviceOptions): Promise<PortableDevice> {
  const { onPacket, onInput, maxPeers } = options;
  const module = options.module ?? (await compileCore(options.build));
  const core = createCore(module, fillRandom, { maxPeers, threads: 1, shared: options.build !== "page" });
  if (onInput) core.exports.deviceSetOffload(OFFLOAD_VNET);
  const join = (driver: Driver): Carriage => {
    const carrier = new Carrier({ core, transport, onDatagrams: (count) => driver.receive(count) });
    driver.sink = carrier;
    driver.packets = onInput ? new InputDelivery(core, onInput) : new PacketDelivery(core, onPacket!);
    return carrier;
  };
  return new PortableDevice(core, new PortableClock(core), join, options);
}
