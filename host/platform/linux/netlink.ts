// rtnetlink: what the kernel tells of interfaces, addresses and routes, and the two requests the daemon makes.
// netlink(7), rtnetlink(7).
//
//   nlmsghdr  length u32 | type u16 | flags u16 | sequence u32 | port u32                      16 bytes
//   ifinfomsg family u8 | pad | type u16 | index i32 | flags u32 | change u32                  16 bytes
//   rtattr    length u16 | type u16 | data, the next one 4-aligned
//
// The watcher waits in poll() on a thread of the runtime's pool (Libc.pollAsync): about two dozen microseconds an
// event, a few kilobytes, and no isolate. A worker of its own was rejected for its 5 MB; libuv cannot watch a netlink
// socket from JavaScript (net.Socket refuses the descriptor). It holds one of the pool's four threads on Node.

import process from "node:process";
import type { NetworkEvent, NetworkWatcher } from "../types.ts";
import { EAGAIN, EINTR, ENOBUFS, ENODEV, SystemError } from "./errno.ts";
import { MSG_DONTWAIT, O_NONBLOCK, POLLIN, SOCK_CLOEXEC, SOCK_RAW, type Libc } from "./libc.ts";
import { NativeMemory } from "./native.ts";

const AF_NETLINK = 16;
const NETLINK_ROUTE = 0;
const SOCKADDR_NL_LEN = 12;

const RTMGRP_LINK = 0x1;
const RTMGRP_IPV4_IFADDR = 0x10;
const RTMGRP_IPV4_ROUTE = 0x40;
const RTMGRP_IPV6_IFADDR = 0x100;
const RTMGRP_IPV6_ROUTE = 0x400;
const GROUPS = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE;

const NLMSG_ERROR = 2;
const RTM_NEWLINK = 16;
const RTM_DELLINK = 17;
const RTM_GETLINK = 18;
const RTM_NEWADDR = 20;
const RTM_DELADDR = 21;
const RTM_NEWROUTE = 24;
const RTM_DELROUTE = 25;
const NLM_F_REQUEST = 1;
const NLM_F_ACK = 4;

const HEADER_LEN = 16;
const LINK_FAMILY = HEADER_LEN;
const LINK_INDEX = HEADER_LEN + 4;
const LINK_FLAGS = HEADER_LEN + 8;
const LINK_ATTRIBUTES = HEADER_LEN + 16;
const ERROR_ERRNO = HEADER_LEN;
const ATTRIBUTE_HEADER_LEN = 4;
const IFLA_IFNAME = 3;
const IFLA_MTU = 4;
const IFLA_GSO_MAX_SEGS = 40;
const IFF_UP = 1;
const IFNAMSIZ = 16;

/** One message of an interface with many attributes is under 4 KiB; the kernel packs no more than this. */
const BUFFER_SIZE = 32768;

export interface Link {
  ifindex: number;
  name: string;
  mtu: number;
  /** IFF_UP: what the administrator wants */
  up: boolean;
}

/**
 * The interface by that index or name in this thread's network namespace, or null.
 * @throws SystemError for any other reason than its absence
 */
export function getLink(libc: Libc, which: number | string): Link | null {
  const ifindex = typeof which === "number" ? which : libc.ifNametoindex(which);
  if (ifindex === 0) return null;
  return request(libc, RTM_GETLINK, 0, ifindex, `get interface ${which}`);
}

/**
 * Deletes the interface of that name, and so wakes whoever is blocked reading it.
 * @returns false when there is none
 * @throws SystemError EPERM
 */
export function deleteLink(libc: Libc, name: string): boolean {
  const ifindex = libc.ifNametoindex(name);
  if (ifindex === 0) return false;
  request(libc, RTM_DELLINK, NLM_F_ACK, ifindex, `delete interface ${name}`);
  return true;
}

/**
 * Bounds the segments of a super-packet that the kernel hands to the interface, so that their messages fit one
 * UDP_SEGMENT send: one packet more, and the rest costs a system call of its own.
 * @throws SystemError EPERM
 */
export function setGsoMaxSegments(libc: Libc, ifindex: number, count: number): void {
  const attribute = { type: IFLA_GSO_MAX_SEGS, value: count };
  request(libc, RTM_NEWLINK, NLM_F_ACK, ifindex, `set gso_max_segs ${count}`, attribute);
}

/** One request about an interface, and its answer: a link, or null for an acknowledgement or ENODEV. */
function request(
  libc: Libc,
  type: number,
  flags: number,
  ifindex: number,
  what: string,
  attribute?: { type: number; value: number },
): Link | null {
  const fd = openNetlink(libc, 0);
  try {
    const memory = new NativeMemory(libc.address, BUFFER_SIZE);
    const { view, address } = memory;
    const size = LINK_ATTRIBUTES + (attribute ? ATTRIBUTE_HEADER_LEN + 4 : 0);
    view.setUint32(0, size, true);
    view.setUint16(4, type, true);
    view.setUint16(6, NLM_F_REQUEST | flags, true);
    view.setUint32(8, 1, true);
    view.setInt32(LINK_INDEX, ifindex, true);
    if (attribute) {
      view.setUint16(LINK_ATTRIBUTES, ATTRIBUTE_HEADER_LEN + 4, true);
      view.setUint16(LINK_ATTRIBUTES + 2, attribute.type, true);
      view.setUint32(LINK_ATTRIBUTES + ATTRIBUTE_HEADER_LEN, attribute.value, true);
    }
    libc.check(libc.sendto(fd, address, size, 0, 0, 0), "sendto", what);
    // The kernel has answered before sendto returns.
    let length: number;
    do {
      length = libc.recv(fd, address, BUFFER_SIZE, MSG_DONTWAIT);
    } while (length < 0 && libc.errno() === EINTR);
    libc.check(length, "recv", what);
    const answer = view.getUint16(4, true);
    if (answer === NLMSG_ERROR) {
      const errno = -view.getInt32(ERROR_ERRNO, true);
      if (errno !== 0 && errno !== ENODEV) throw new SystemError(errno, "netlink", what);
      return null;
    }
    return answer === RTM_NEWLINK ? parseLink(view, memory, 0, view.getUint32(0, true)) : null;
  } finally {
    libc.close(fd);
  }
}

function openNetlink(libc: Libc, groups: number): number {
  const type = SOCK_RAW | SOCK_CLOEXEC;
  const fd = libc.check(libc.socket(AF_NETLINK, type, NETLINK_ROUTE), "socket", "open netlink socket");
  if (groups === 0) return fd;
  const { bytes, view, address } = libc.scratch;
  bytes.fill(0, 0, SOCKADDR_NL_LEN);
  view.setUint16(0, AF_NETLINK, true);
  view.setUint32(8, groups, true);
  if (libc.bind(fd, address, SOCKADDR_NL_LEN) < 0) {
    const error = new SystemError(libc.errno(), "bind", "subscribe to network changes");
    libc.close(fd);
    throw error;
  }
  return fd;
}

/** Reads an RTM_NEWLINK or RTM_DELLINK message of `length` bytes at `at`; both were checked against the buffer. */
function parseLink(view: DataView, memory: NativeMemory, at: number, length: number): Link | null {
  if (length < LINK_ATTRIBUTES) return null;
  const link: Link = {
    ifindex: view.getInt32(at + LINK_INDEX, true),
    name: "",
    mtu: 0,
    up: (view.getUint32(at + LINK_FLAGS, true) & IFF_UP) !== 0,
  };
  const end = at + length;
  let attribute = at + LINK_ATTRIBUTES;
  while (attribute + ATTRIBUTE_HEADER_LEN <= end) {
    const size = view.getUint16(attribute, true);
    if (size < ATTRIBUTE_HEADER_LEN || attribute + size > end) break;
    const data = attribute + ATTRIBUTE_HEADER_LEN;
    const type = view.getUint16(attribute + 2, true);
    if (type === IFLA_IFNAME) link.name = memory.text(data, Math.min(size - ATTRIBUTE_HEADER_LEN, IFNAMSIZ));
    if (type === IFLA_MTU && size >= ATTRIBUTE_HEADER_LEN + 4) link.mtu = view.getUint32(data, true);
    attribute += (size + 3) & ~3;
  }
  return link;
}

/** What the watcher remembers of an interface, to tell a rename. */
type Names = Map<number, string>;

/** The events in one datagram of the kernel. */
function parseMessages(memory: NativeMemory, length: number, names: Names): NetworkEvent[] {
  const { view } = memory;
  const events: NetworkEvent[] = [];
  let network = false;
  for (let at = 0; at + HEADER_LEN <= length; ) {
    const size = view.getUint32(at, true);
    if (size < HEADER_LEN || at + size > length) break;
    const type = view.getUint16(at + 4, true);
    if (type === RTM_NEWLINK || type === RTM_DELLINK) {
      // A family is given when a bridge port or an IPv6 setting changes, and DELLINK then deletes no interface.
      const whole = size >= LINK_ATTRIBUTES && view.getUint8(at + LINK_FAMILY) === 0;
      const link = whole ? parseLink(view, memory, at, size) : null;
      if (link) events.push(linkEvent(type, link, names));
    } else if (type === RTM_NEWADDR || type === RTM_DELADDR || type === RTM_NEWROUTE || type === RTM_DELROUTE) {
      network = true;
    }
    at += (size + 3) & ~3;
  }
  if (network) events.push({ type: "network" });
  return events;
}

function linkEvent(type: number, link: Link, names: Names): NetworkEvent {
  const { ifindex, name } = link;
  if (type === RTM_DELLINK) {
    names.delete(ifindex);
    return { type: "deleted", ifindex };
  }
  const before = names.get(ifindex);
  names.set(ifindex, name);
  return { type: "link", ...link, renamed: before !== undefined && before !== name };
}

const EFD_FLAGS = SOCK_CLOEXEC | O_NONBLOCK;
const POLLFD_SIZE = 8;
const POLLFD_COUNT = 2;
const WAKE_PLACE = POLLFD_SIZE * POLLFD_COUNT;

/**
 * Reports changes of this network namespace to `onEvent`, on this thread, until close().
 * @throws SystemError
 */
export function watchNetwork(libc: Libc, onEvent: (event: NetworkEvent) => void): NetworkWatcher {
  const socket = openNetlink(libc, GROUPS);
  const wake = libc.eventfd(0, EFD_FLAGS);
  if (wake < 0) {
    const error = new SystemError(libc.errno(), "eventfd", "watch the network");
    libc.close(socket);
    throw error;
  }
  const memory = new NativeMemory(libc.address, BUFFER_SIZE);
  const control = new NativeMemory(libc.address, WAKE_PLACE + 8);
  const names: Names = new Map();
  let closed = false;

  for (const [i, fd] of [socket, wake].entries()) {
    control.view.setInt32(POLLFD_SIZE * i, fd, true);
    control.view.setInt16(POLLFD_SIZE * i + 4, POLLIN, true);
  }
  control.view.setUint32(WAKE_PLACE, 1, true); // the u64 that adds to an eventfd

  const stop = () => {
    closed = true;
    libc.write(wake, control.address + WAKE_PLACE, 8);
  };

  /** Takes all that is there. @returns the events; many changes of routes make one */
  const drain = (): NetworkEvent[] => {
    const events: NetworkEvent[] = [];
    for (;;) {
      const length = libc.recv(socket, memory.address, BUFFER_SIZE, MSG_DONTWAIT);
      if (length > 0) {
        for (const event of parseMessages(memory, length, names)) {
          if (event.type !== "network" || events.at(-1)?.type !== "network") events.push(event);
        }
        continue;
      }
      const errno = length < 0 ? libc.errno() : EAGAIN;
      if (errno === EINTR) continue;
      if (errno === ENOBUFS) events.push({ type: "lost" });
      if (errno !== ENOBUFS) return events;
    }
  };

  const watch = async () => {
    try {
      while (!closed) {
        await libc.pollAsync(control.address, POLLFD_COUNT, -1);
        if (closed) break;
        for (const event of drain()) if (!closed) onEvent(event);
      }
    } finally {
      // Only here is nobody waiting on them any more.
      process.off("exit", stop);
      libc.close(socket);
      libc.close(wake);
    }
  };

  // Node waits at exit for the threads of its pool: without this, process.exit() would never return.
  process.on("exit", stop);
  void watch();
  return {
    close: () => {
      if (!closed) stop();
    },
  };
}
