// A layer-3 network interface (TUN). linux/if_tun.h, Documentation/networking/tuntap.rst; netdevice(7).
//
// IFF_NO_PI: packets come without the 4-byte packet information. With `vnetHeader` each has a virtio_net_hdr of 10 bytes
// before it instead, and the kernel hands over super-packets of up to 64 KiB with their checksums still to be made (TSO,
// and USO since Linux 6.2), and takes such.
// The interface is found again through its descriptor (TUNGETIFF), never by the name it once had: it may be renamed, or
// moved to another network namespace under the running daemon, as wg-quick's users do.

import { OFFLOAD_UDP, OFFLOAD_VNET } from "../../../assembly/abi.ts";
import { quote } from "../../errors.ts";
import type { Tun } from "../types.ts";
import { EACCES, EBUSY, EINVAL, ENODEV, ENOENT, ENXIO, EPERM, SystemError } from "./errno.ts";
import {
  AF_UNIX,
  F_GETFL,
  F_SETFL,
  MSG_DONTWAIT,
  O_CLOEXEC,
  O_NONBLOCK,
  O_RDWR,
  SOCK_CLOEXEC,
  SOCK_DGRAM,
  type Libc,
} from "./libc.ts";

const DEVICE = "/dev/net/tun";
const TUNSETIFF = 0x400454ca;
const TUNSETOFFLOAD = 0x400454d0;
const TUNGETIFF = 0x800454d2;
const TUNSETVNETHDRSZ = 0x400454d8;
const TUN_F_CSUM = 0x01;
const TUN_F_TSO4 = 0x02;
const TUN_F_TSO6 = 0x04;
const TUN_F_USO4 = 0x20;
const TUN_F_USO6 = 0x40;
const IFF_TUN = 0x0001;
const IFF_MULTI_QUEUE = 0x0100;
const IFF_NO_PI = 0x1000;
const IFF_VNET_HDR = 0x4000;

const SIOCGIFFLAGS = 0x8913;
const SIOCSIFFLAGS = 0x8914;
const SIOCGIFMTU = 0x8921;
const SIOCSIFMTU = 0x8922;
const SIOCGIFINDEX = 0x8933;
const IFF_UP = 0x1;

/** struct ifreq: name 16 | flags u16, index or MTU i32 at 16 */
const IFREQ_SIZE = 40;
const IFREQ_VALUE = 16;
const IFNAMSIZ = 16;

const AF_PACKET = 17;
const SOCKADDR_LL_LEN = 20;
const ETH_P_IP = 0x0800;

/** struct virtio_net_hdr without the merge count. */
export const VNET_HEADER_LEN = 10;

const MTU_MAX = 65535;

export interface TunOptions {
  /** 1..15 bytes; one "%d" lets the kernel choose a number */
  name: string;
  /** 68..65535; default: the kernel's (1500) */
  mtu?: number;
  /** a virtio header before each packet; default false */
  vnetHeader?: boolean;
  /** more than one descriptor may be opened by the same name; default false */
  multiQueue?: boolean;
}

/** What a lane needs of the interface; plain data, for a worker's message. */
export interface TunHandle {
  fd: number;
  vnetHeader: boolean;
}

/**
 * Opens or creates the interface `name`.
 * @throws RangeError for a bad name or MTU; SystemError: EPERM (no CAP_NET_ADMIN), ENOENT or ENODEV (no TUN in this
 *   kernel or container), EBUSY (another program holds it), EINVAL (an interface of another kind has the name)
 */
export function openTun(libc: Libc, options: TunOptions): LinuxTun {
  const { name, mtu, vnetHeader = false, multiQueue = false } = options;
  checkName(name);
  if (mtu !== undefined) checkMtu(mtu);
  const fd = openDevice(libc);
  try {
    const flags = IFF_TUN | IFF_NO_PI | (vnetHeader ? IFF_VNET_HDR : 0) | (multiQueue ? IFF_MULTI_QUEUE : 0);
    if (libc.ioctl(fd, TUNSETIFF, putIfreq(libc, name, flags)) < 0) throw createError(libc, libc.errno(), name);
    return new LinuxTun(libc, fd, mtu);
  } catch (error) {
    libc.close(fd);
    throw error;
  }
}

/**
 * Takes over the descriptor of a TUN that another program opened (WG_TUN_FD). Its virtio header, if it has one, stays.
 * @throws SystemError EBADFD when the descriptor is no TUN; RangeError when its packets have a form we do not speak
 */
export function adoptTun(libc: Libc, fd: number): LinuxTun {
  const flags = libc.check(libc.fcntl(fd, F_GETFL, 0), "fcntl", `take over TUN descriptor ${fd}`);
  // The other program's event loop wanted it non-blocking; a lane wants to sleep in it.
  libc.check(libc.fcntl(fd, F_SETFL, flags & ~O_NONBLOCK), "fcntl", `take over TUN descriptor ${fd}`);
  return new LinuxTun(libc, fd);
}

export class LinuxTun implements Tun {
  readonly handle: TunHandle;
  /** Index in the namespace where it was opened. */
  readonly ifindex: number;
  /** OFFLOAD_* of abi.ts: what the core is to do; 0 without a virtio header. */
  readonly offload: number;
  readonly #libc: Libc;
  /** A socket of the namespace where the interface was opened, for its ioctls. */
  readonly #control: number;
  /** descriptors of further queues */
  readonly #queues: number[] = [];
  #open = true;

  /** Call openTun or adoptTun instead. When it throws, `fd` is the caller's again. */
  constructor(libc: Libc, fd: number, mtu?: number) {
    this.#libc = libc;
    const { flags } = getInterface(libc, fd);
    if (!(flags & IFF_TUN)) throw new RangeError(`descriptor ${fd} is a TAP interface, not a TUN`);
    if (!(flags & IFF_NO_PI)) throw new RangeError(`TUN descriptor ${fd} was opened without IFF_NO_PI`);
    const vnetHeader = (flags & IFF_VNET_HDR) !== 0;
    this.offload = vnetHeader ? this.#setOffload(fd) : 0;
    this.handle = { fd, vnetHeader };
    this.#control = libc.check(libc.socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket", "open control socket");
    try {
      this.ifindex = this.#get(SIOCGIFINDEX, "get index");
      if (mtu !== undefined) this.setMtu(mtu);
    } catch (error) {
      libc.close(this.#control);
      throw error;
    }
  }

  /** The name as it is now. @throws SystemError EBADFD when the interface was deleted */
  name(): string {
    return getInterface(this.#libc, this.handle.fd).name;
  }

  /** Whether the interface still exists, here or in another namespace. */
  exists(): boolean {
    return this.#libc.ioctl(this.handle.fd, TUNGETIFF, putIfreq(this.#libc, "", 0)) === 0;
  }

  mtu(): number {
    return this.#get(SIOCGIFMTU, "get MTU");
  }

  /** @throws RangeError, SystemError EPERM */
  setMtu(mtu: number): void {
    checkMtu(mtu);
    this.#ioctl(SIOCSIFMTU, mtu, `set MTU ${mtu}`);
  }

  up(): boolean {
    return (this.#get(SIOCGIFFLAGS, "get state") & IFF_UP) !== 0;
  }

  setUp(up: boolean): void {
    const flags = this.#get(SIOCGIFFLAGS, "get state") & 0xffff;
    this.#ioctl(SIOCSIFFLAGS, up ? flags | IFF_UP : flags & ~IFF_UP, up ? "bring up" : "bring down");
  }

  /** A further descriptor of a multi-queue interface, for another lane. */
  openQueue(): TunHandle {
    const libc = this.#libc;
    const { name, flags } = getInterface(libc, this.handle.fd);
    const fd = openDevice(libc);
    if (libc.ioctl(fd, TUNSETIFF, putIfreq(libc, name, flags)) < 0) {
      const errno = libc.errno();
      libc.close(fd);
      throw createError(libc, errno, name);
    }
    this.#queues.push(fd);
    return { fd, vnetHeader: this.handle.vnetHeader };
  }

  /**
   * Makes a blocked reader return 0, by sending the interface a packet of one byte that the reader throws away.
   * Neither a signal nor closing the descriptor would wake it.
   * @returns whether it was sent: not when the interface is down, moved or gone, or without CAP_NET_RAW; deleting the
   *   interface (deleteLink) wakes the reader in any case
   */
  wake(): boolean {
    const libc = this.#libc;
    const fd = libc.socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return false;
    const { bytes, view, address } = libc.scratch;
    bytes.fill(0, 0, 32);
    view.setUint16(0, AF_PACKET, true);
    view.setUint16(2, ETH_P_IP, false);
    view.setInt32(4, this.ifindex, true);
    const sent = libc.sendto(fd, address + 24, 1, MSG_DONTWAIT, address, SOCKADDR_LL_LEN);
    libc.close(fd);
    return sent === 1;
  }

  /** Closes its descriptors; unless it was made persistent, the interface goes with its last one. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    for (const fd of [this.handle.fd, ...this.#queues, this.#control]) this.#libc.close(fd);
  }

  /** An inherited interface may have another header and other offloads: ask for ours. @returns OFFLOAD_* */
  #setOffload(fd: number): number {
    const libc = this.#libc;
    libc.scratch.view.setInt32(0, VNET_HEADER_LEN, true);
    libc.check(libc.ioctl(fd, TUNSETVNETHDRSZ, libc.scratch.address), "ioctl", "set the size of the virtio header");
    const tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
    // USO4 and USO6 go together, and are refused as a whole by a kernel that has neither.
    if (libc.ioctl(fd, TUNSETOFFLOAD, tcp | TUN_F_USO4 | TUN_F_USO6) === 0) return OFFLOAD_VNET | OFFLOAD_UDP;
    if (libc.ioctl(fd, TUNSETOFFLOAD, tcp) === 0) return OFFLOAD_VNET;
    libc.check(libc.ioctl(fd, TUNSETOFFLOAD, 0), "ioctl", "switch off offloads");
    return OFFLOAD_VNET;
  }

  #get(request: number, what: string): number {
    this.#ioctl(request, 0, what);
    return this.#libc.scratch.view.getInt32(IFREQ_VALUE, true);
  }

  #ioctl(request: number, value: number, what: string): void {
    const libc = this.#libc;
    const { name } = getInterface(libc, this.handle.fd);
    const ifreq = putIfreq(libc, name, value);
    libc.check(libc.ioctl(this.#control, request, ifreq), "ioctl", `${what} of interface ${name}`);
  }
}

function openDevice(libc: Libc): number {
  const fd = libc.open(DEVICE, O_RDWR | O_CLOEXEC);
  if (fd >= 0) return fd;
  const errno = libc.errno();
  let advice = "";
  if (errno === ENOENT || errno === ENODEV || errno === ENXIO) {
    advice = "load the module (modprobe tun), or give the container the device";
  } else if (errno === EPERM || errno === EACCES) {
    advice = "it needs root, or the container lacks the device";
  }
  throw new SystemError(errno, "open", `open ${DEVICE}`, advice);
}

function createError(libc: Libc, errno: number, name: string): SystemError {
  let advice = "";
  if (errno === EPERM) advice = "it needs root (CAP_NET_ADMIN)";
  if (errno === EBUSY) advice = "another program holds an interface of that name";
  if (errno === EINVAL && libc.ifNametoindex(name) !== 0) advice = "an interface of another kind has that name";
  return new SystemError(errno, "ioctl", `create interface ${name}`, advice);
}

/** Name and flags of the interface behind a TUN descriptor. */
function getInterface(libc: Libc, fd: number): { name: string; flags: number } {
  const result = libc.ioctl(fd, TUNGETIFF, putIfreq(libc, "", 0));
  libc.check(result, "ioctl", `find the interface of descriptor ${fd}`, "it is no TUN, or its interface was deleted");
  return { name: libc.scratch.text(0, IFNAMSIZ), flags: libc.scratch.view.getUint16(IFREQ_VALUE, true) };
}

/** A struct ifreq in the scratch. @returns its address */
function putIfreq(libc: Libc, name: string, value: number): number {
  const { scratch } = libc;
  scratch.bytes.fill(0, 0, IFREQ_SIZE);
  scratch.putText(0, name);
  scratch.view.setInt32(IFREQ_VALUE, value, true);
  return scratch.address;
}

/** What the kernel's dev_valid_name takes, said before it says EINVAL. */
function checkName(name: string): void {
  const length = new TextEncoder().encode(name).length;
  if (length < 1 || length >= IFNAMSIZ) throw new RangeError(`interface name ${quote(name)} is not 1..15 bytes`);
  if (/[\s/:\0]/.test(name) || name === "." || name === "..") {
    throw new RangeError(`interface name ${quote(name)} has a character that the kernel refuses`);
  }
}

function checkMtu(mtu: number): void {
  if (!Number.isInteger(mtu) || mtu < 68 || mtu > MTU_MAX) throw new RangeError(`MTU ${mtu} is not in 68..${MTU_MAX}`);
}
