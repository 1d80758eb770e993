// A tunnel inside a program: the device over any transport, with packets handed in and out by calls. No privileges; the
// same on Node and Deno. One thread and no native code are enough for it; on Linux, where FFI is there, datagrams go
// through the kernel in runs and are received in a thread (native/carrier.ts).
//
// Two ways to take packets: onPacket gives each as it was sent, for programs that look at packets; onInput gives what a
// TCP/IP stack wants, runs of a flow joined to super-packets, and `link` takes such from it.

import { platform } from "node:os";
import { compileCore } from "./core.ts";
import type { Driver } from "./driver.ts";
import { quote, type WasmguardError } from "./errors.ts";
import { parseIp } from "./ip.ts";
import { type Carriage, type DeviceOptions, openOver, PortableDevice } from "./portable-device.ts";
import type { Transport } from "./transport/types.ts";
import { UdpTransport } from "./transport/udp.ts";

export { type CarriageKind, PortableDevice } from "./portable-device.ts";

export interface PortableOptions extends DeviceOptions {
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
  return openOver(carrying, { ...options, module });
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
