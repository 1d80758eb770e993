// A UDP port of the daemon: one dual-stack IPv6 socket, so that one worker blocks on one descriptor. IPv4 peers are
// ::ffff:a.b.c.d to it. Two sockets, as the kernel module has, were rejected: they need a poll before each receive, or
// a second worker. Without IPv6 in the kernel it is one IPv4 socket, and IPv6 endpoints are unreachable.

import { formatIp, type IpAddress } from "../../ip.ts";
import type { Udp } from "../types.ts";
import { EAFNOSUPPORT, SystemError } from "./errno.ts";
import type { Endpoint } from "../../endpoint.ts";
import { AF_INET, AF_INET6, SOCK_CLOEXEC, SOCK_DGRAM, SOL_SOCKET, type Libc } from "./libc.ts";
import {
  IP_PKTINFO,
  SOCKADDR_IN6_LEN,
  SOCKADDR_IN_LEN,
  SOL_IP,
  SOL_IPV6,
  SOL_UDP,
  UDP_GRO,
  UDP_SEGMENT,
  type SocketFamily,
} from "./sockaddr.ts";

const SO_SNDBUF = 7;
const SO_RCVBUF = 8;
const SO_REUSEPORT = 15;
const SO_SNDBUFFORCE = 32;
const SO_RCVBUFFORCE = 33;
const SO_MARK = 36;
const IP_RECVTOS = 13;
const IPV6_V6ONLY = 26;
const IPV6_RECVPKTINFO = 49;
const IPV6_RECVTCLASS = 66;
const SHUT_RD = 0;

/** The kernel's default loses 138,000 datagrams of a TCP test that 8 MiB carries; 32 MiB adds nothing. */
const SOCKET_BUFFER_SIZE = 8 << 20;

/** What a lane needs of the socket; plain data, for a worker's message. */
export interface UdpHandle {
  fd: number;
  family: SocketFamily;
  /** whether a run of datagrams may be sent as one message (UDP_SEGMENT, Linux >= 4.18) */
  segments: boolean;
}

export interface UdpOptions {
  /** 0..65535; 0 = let the system choose */
  port: number;
  /** default: all, of both families */
  address?: IpAddress;
  /** firewall mark, 0 = none */
  mark?: number;
  /** 4 forbids IPv6; default: both, as far as the kernel has them */
  family?: SocketFamily;
  /** other sockets, of this program alone, share the port; default false */
  shared?: boolean;
  /** whether runs of datagrams go through the kernel as one (UDP_SEGMENT, UDP_GRO); default true, where it can */
  offload?: boolean;
}

export class LinuxUdp implements Udp {
  port: number;
  readonly handle: UdpHandle;
  readonly #libc: Libc;
  #open = true;

  /** @throws RangeError, SystemError (EADDRINUSE, EACCES for a low port, EPERM for a mark) */
  constructor(libc: Libc, { port, address, mark = 0, family = 6, shared = false, offload = true }: UdpOptions) {
    if (!Number.isInteger(port) || port < 0 || port > 65535) throw new RangeError(`UDP port ${port} is not in 0..65535`);
    this.#libc = libc;
    this.handle = openSocket(libc, family);
    try {
      this.#setUp();
      if (offload) this.#setOffload();
      if (shared) this.#set(SOL_SOCKET, SO_REUSEPORT, 1, "share the UDP port among lanes");
      if (mark !== 0) this.setMark(mark);
      this.port = this.#bind(port, address);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  setMark(mark: number): void {
    if (!Number.isInteger(mark) || mark < 0 || mark > 0xffffffff) {
      throw new RangeError(`firewall mark ${mark} is not in 0..4294967295`);
    }
    this.#set(SOL_SOCKET, SO_MARK, mark, `set firewall mark ${mark}`, "it needs CAP_NET_ADMIN");
  }

  /** The firewall mark the kernel holds for this socket. */
  mark(): number {
    return this.#get(SOL_SOCKET, SO_MARK, "get firewall mark");
  }

  /** Sizes of the socket's buffers as the kernel counts them: twice what was asked for. */
  bufferSizes(): { receive: number; send: number } {
    return {
      receive: this.#get(SOL_SOCKET, SO_RCVBUF, "get receive buffer size"),
      send: this.#get(SOL_SOCKET, SO_SNDBUF, "get send buffer size"),
    };
  }

  /** Receiving ends; sending goes on, for the lane that does not know yet. */
  wake(): void {
    // The kernel says ENOTCONN of an unconnected socket, and has already woken the reader and marked the socket.
    this.#libc.shutdown(this.handle.fd, SHUT_RD);
  }

  /**
   * Puts another socket in this one's place, under the same descriptor: whoever sends on it goes on, a blocked receive()
   * returns 0 and finds the new one. `next` is used up.
   */
  replace(next: LinuxUdp): void {
    this.wake();
    const { fd } = this.handle;
    this.#libc.check(this.#libc.dup2(next.handle.fd, fd), "dup2", `move to UDP port ${next.port}`);
    this.port = next.port;
    next.close();
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#libc.close(this.handle.fd);
  }

  #setUp(): void {
    this.#setBuffer(SO_RCVBUFFORCE, SO_RCVBUF, "receive");
    this.#setBuffer(SO_SNDBUFFORCE, SO_SNDBUF, "send");
    this.#set(SOL_IP, IP_RECVTOS, 1, "ask for the TOS of datagrams");
    if (this.handle.family === 4) {
      this.#set(SOL_IP, IP_PKTINFO, 1, "ask for the destination of datagrams");
      return;
    }
    this.#set(SOL_IPV6, IPV6_V6ONLY, 0, "open the IPv6 socket for IPv4");
    this.#set(SOL_IPV6, IPV6_RECVPKTINFO, 1, "ask for the destination of datagrams");
    this.#set(SOL_IPV6, IPV6_RECVTCLASS, 1, "ask for the traffic class of datagrams");
  }

  /** Either option may be missing; then datagrams pass one by one in that direction. */
  #setOffload(): void {
    const { view, address } = this.#libc.scratch;
    const set = (option: number, value: number): boolean => {
      view.setUint32(0, value, true);
      return this.#libc.setsockopt(this.handle.fd, SOL_UDP, option, address, 4) === 0;
    };
    this.handle.segments = set(UDP_SEGMENT, 0); // 0: off for the socket, and each message says for itself
    set(UDP_GRO, 1);
  }

  /** Past the system's limit where we may (CAP_NET_ADMIN), else up to it. */
  #setBuffer(forced: number, plain: number, which: string): void {
    const { view, address } = this.#libc.scratch;
    view.setInt32(0, SOCKET_BUFFER_SIZE, true);
    if (this.#libc.setsockopt(this.handle.fd, SOL_SOCKET, forced, address, 4) === 0) return;
    this.#set(SOL_SOCKET, plain, SOCKET_BUFFER_SIZE, `set ${which} buffer`);
  }

  #bind(port: number, ip?: IpAddress): number {
    const libc = this.#libc;
    const { bytes, view, address } = libc.scratch;
    const { fd, family } = this.handle;
    const length = family === 6 ? SOCKADDR_IN6_LEN : SOCKADDR_IN_LEN;
    bytes.fill(0, 0, length); // the any-address
    view.setUint16(0, family === 6 ? AF_INET6 : AF_INET, true);
    view.setUint16(2, port, false);
    if (ip) {
      if (ip.family > family) throw new SystemError(EAFNOSUPPORT, "bind", `bind UDP port ${port} of ${formatIp(ip.address)}`);
      if (ip.family < family) bytes.fill(0xff, 18, 20); // ::ffff:a.b.c.d
      bytes.set(ip.address, family === 4 ? 4 : 24 - ip.address.length);
    }
    const where = ip ? ` of ${formatIp(ip.address)}` : "";
    libc.check(libc.bind(fd, address, length), "bind", `bind UDP port ${port}${where}`);
    view.setUint32(64, length, true);
    libc.check(libc.getsockname(fd, address, address + 64), "getsockname", "learn the UDP port");
    return view.getUint16(2, false);
  }

  #set(level: number, option: number, value: number, what: string, advice?: string): void {
    const { view, address } = this.#libc.scratch;
    view.setUint32(0, value, true);
    this.#libc.check(this.#libc.setsockopt(this.handle.fd, level, option, address, 4), "setsockopt", what, advice);
  }

  #get(level: number, option: number, what: string): number {
    const { view, address } = this.#libc.scratch;
    view.setUint32(8, 4, true);
    this.#libc.check(this.#libc.getsockopt(this.handle.fd, level, option, address, address + 8), "getsockopt", what);
    return view.getUint32(0, true);
  }
}

function openSocket(libc: Libc, family: SocketFamily): UdpHandle {
  if (family === 6) {
    const fd = libc.socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd >= 0) return { fd, family: 6, segments: false };
    const errno = libc.errno();
    if (errno !== EAFNOSUPPORT) throw new SystemError(errno, "socket", "open UDP socket");
  }
  return { fd: libc.check(libc.socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket", "open UDP socket"), family: 4, segments: false };
}

/** The discard port: only the address counts, and a forged datagram may come from port 0, which none can be sent to. */
const ANY_PORT = 9;

/** The address of ours that the system takes for datagrams to there; null when there is no way. */
export function localAddressTo(libc: Libc, { family, address: remote, scope }: Endpoint): Uint8Array | null {
  const { bytes, view, address } = libc.scratch;
  const fd = libc.socket(family === 6 ? AF_INET6 : AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return null;
  try {
    const length = family === 6 ? SOCKADDR_IN6_LEN : SOCKADDR_IN_LEN;
    const at = family === 6 ? 8 : 4;
    bytes.fill(0, 0, length);
    view.setUint16(0, family === 6 ? AF_INET6 : AF_INET, true);
    view.setUint16(2, ANY_PORT, false);
    bytes.set(remote, at);
    if (family === 6) view.setUint32(24, scope, true);
    if (libc.connect(fd, address, length) < 0) return null;
    view.setUint32(64, length, true);
    if (libc.getsockname(fd, address, address + 64) < 0) return null;
    return bytes.slice(at, at + remote.length);
  } finally {
    libc.close(fd);
  }
}
