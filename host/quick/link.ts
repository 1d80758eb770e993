// The interface itself: what is asked of all steps, its addresses, its MTU, the move to a namespace.

import type { Config } from "../config.ts";
import { WasmguardError } from "../errors.ts";
import { formatIp, formatPrefix, type IpAddress } from "../ip.ts";
import type { System } from "./system.ts";

/** What is brought up or taken down. */
export interface Quick {
  name: string;
  config: Config;
  system: System;
  /** the network namespace of the interface, when it is not ours; the UDP socket stays in ours */
  namespace?: string;
}

/** IP header (IPv6), UDP header, message header, tag: and so much less than the path fits into a packet. */
const OVERHEAD = 80;
const MTU_DEFAULT = 1500;

/** `ip ARGS` where the interface is. */
export function ip({ namespace }: Pick<Quick, "namespace">, ...args: string[]): string[] {
  return ["ip", ...(namespace === undefined ? [] : ["-n", namespace]), ...args];
}

/** "-4" or "-6" */
export function familyFlag({ family }: IpAddress): string {
  return `-${family}`;
}

/** @throws WasmguardError EEXIST when an interface has the name, here or where it is to go */
export async function checkAbsent(quick: Quick): Promise<void> {
  for (const place of [{}, quick]) {
    if ((await quick.system.query(ip(place, "link", "show", "dev", quick.name))) !== "") {
      throw new WasmguardError("EEXIST", `${quick.name} already exists`);
    }
  }
}

/** Deletes the interface, when it is there. */
export async function removeLink(quick: Quick): Promise<void> {
  if ((await quick.system.query(ip(quick, "link", "show", "dev", quick.name))) === "") return;
  await quick.system.run(ip(quick, "link", "delete", "dev", quick.name));
}

export async function addAddresses(quick: Quick): Promise<void> {
  for (const address of quick.config.interface.addresses) {
    await quick.system.run(ip(quick, familyFlag(address), "address", "add", formatPrefix(address), "dev", quick.name));
  }
}

/**
 * The MTU, and up. In another namespace the MTU comes first, while the daemon still hears of it, then the move.
 * @param endpoints  of the peers, as far as they are known
 */
export async function setUp(quick: Quick, endpoints: readonly IpAddress[]): Promise<void> {
  const mtu = await chooseMtu(quick, endpoints);
  await quick.system.run(ip(quick, "link", "set", "mtu", String(mtu), "up", "dev", quick.name));
}

export async function moveLink(quick: Quick, endpoints: readonly IpAddress[]): Promise<void> {
  const { name, namespace, system } = quick;
  await system.run(["ip", "link", "set", "mtu", String(await chooseMtu(quick, endpoints)), "dev", name]);
  await system.run(["ip", "link", "set", "dev", name, "netns", namespace!]);
}

/** As configured; else what the widest path to a peer takes, else the default route, less what WireGuard adds. */
async function chooseMtu({ config, system }: Quick, endpoints: readonly IpAddress[]): Promise<number> {
  if (config.interface.mtu !== undefined) return config.interface.mtu;
  let mtu = 0;
  for (const { address } of endpoints) {
    mtu = Math.max(mtu, await routeMtu(system, await system.query(["ip", "route", "get", formatIp(address)])));
  }
  if (mtu === 0) {
    const [first] = (await system.query(["ip", "route", "show", "default"])).split("\n");
    mtu = await routeMtu(system, first);
  }
  return (mtu || MTU_DEFAULT) - OVERHEAD;
}

/** The MTU of a route as `ip` prints it, or of its device; 0 = not known. Asked in our namespace, the socket's. */
async function routeMtu(system: System, route: string): Promise<number> {
  const own = /mtu (\d+)/.exec(route);
  if (own) return Number(own[1]);
  const device = /dev (\S+)/.exec(route)?.[1];
  if (device === undefined) return 0;
  return Number(/mtu (\d+)/.exec(await system.query(["ip", "link", "show", "dev", device]))?.[1] ?? 0);
}

/** fe80::/64, RFC 4291 §2.5.6 */
const LINK_LOCAL = /^fe80::[^/]*\/64$/;

/** The addresses of the interface as the system has them; without those that the kernel gives to every TUN. */
export async function currentAddresses(quick: Quick): Promise<string[]> {
  const line = await quick.system.query(ip(quick, "-brief", "address", "show", "dev", quick.name));
  const configured = quick.config.interface.addresses.map(formatPrefix);
  return line.trim().split(/\s+/).slice(2).filter((word) => {
    return /^[0-9a-f:.]+\/\d+$/.test(word) && (!LINK_LOCAL.test(word) || configured.includes(word));
  });
}
