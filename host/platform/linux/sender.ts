// OUT records to the wire: each datagram gets one mmsghdr, and one sendmmsg takes them all.
//
// A datagram that cannot be sent never stops the others. sendmmsg returns how many went; the call after that begins
// with the one that failed, and gives its reason. A sticky source that is gone (address removed, interface deleted) is
// given up and the datagram sent without it, so that an address change costs no packet.

import {
  OUT_ENDPOINT,
  OUT_LENGTH,
  OUT_OFFSET,
  OUT_PEER,
  OUT_SEGMENT,
  OUT_SIZE,
  OUT_TOS,
  THREAD_OUT,
} from "../../../assembly/abi.ts";
import type { CoreThread, DatagramSink, ErrorCounts } from "../types.ts";
import { countError } from "./counts.ts";
import {
  EADDRNOTAVAIL,
  EAGAIN,
  EBADF,
  ECONNREFUSED,
  EHOSTUNREACH,
  EINTR,
  EINVAL,
  ENETUNREACH,
  ENOBUFS,
  ENODEV,
  ENOTSOCK,
  ENXIO,
} from "./errno.ts";
import { MSG_DONTWAIT, type Libc } from "./libc.ts";
import { MMSGHDR_WORDS, MSG_CONTROL, MSG_CONTROLLEN, MSG_NAMELEN, Messages } from "./messages.ts";
import { endpointFamily, putName, putSource, putTos, SEND_CONTROL_SIZE, TOS_CMSG_SPACE } from "./sockaddr.ts";
import { ThreadMemory } from "./thread.ts";
import type { UdpHandle } from "./udp.ts";

/** Datagrams a system call. */
const BATCH_MAX = 256;
/** How often a datagram is tried again when the kernel is short of room; each try is a system call, none sleeps. */
const RETRY_MAX = 8;

/** What the kernel says of a source that is not ours any more; of a bad destination it may say the same. */
const SOURCE_ERRNOS = new Set([EINVAL, EADDRNOTAVAIL, ENETUNREACH, EHOSTUNREACH, ENODEV, ENXIO]);

const FIRST_RECORD = THREAD_OUT / 4;
const RECORD_WORDS = OUT_SIZE / 4;
const ENDPOINT = OUT_ENDPOINT / 4;
const TOS_WORDS = TOS_CMSG_SPACE / 4;

export interface SenderOptions {
  /** Whether to wait for room in the socket's buffer: yes in a lane, no on a thread with an event loop. Default true. */
  wait?: boolean;
  /** A sticky source was given up. `peer` as in the OUT record: tell the core (peerClearSource). */
  onSourceGone?: (peer: number) => void;
}

export class Sender implements DatagramSink {
  readonly errors: ErrorCounts = new Map();
  readonly #libc: Libc;
  readonly #thread: ThreadMemory;
  readonly #messages: Messages;
  readonly #flags: number;
  readonly #onSourceGone: (peer: number) => void;
  /** By message: the peer, and the bytes of control that belong to the source (0 = none). */
  readonly #peers = new Uint32Array(BATCH_MAX);
  readonly #sourceSpace = new Uint8Array(BATCH_MAX);
  #handle: UdpHandle;

  constructor(libc: Libc, thread: CoreThread, handle: UdpHandle, options: SenderOptions = {}) {
    this.#libc = libc;
    this.#thread = new ThreadMemory(libc, thread);
    this.#messages = new Messages(libc, BATCH_MAX, SEND_CONTROL_SIZE);
    this.#flags = options.wait === false ? MSG_DONTWAIT : 0;
    this.#onSourceGone = options.onSourceGone ?? (() => {});
    this.#handle = handle;
  }

  /** Sends from another socket from now on: the listen port changed. */
  use(handle: UdpHandle): void {
    this.#handle = handle;
  }

  send(count: number): number {
    const thread = this.#thread;
    const core = thread.words;
    thread.checkCount(count, "OUT");
    let sent = 0;
    let filled = 0;
    for (let i = 0; i < count; i++) {
      const record = FIRST_RECORD + RECORD_WORDS * i;
      const length = core[record + OUT_LENGTH / 4];
      const address = thread.slotAddress(core[record + OUT_OFFSET / 4], length, "OUT", i);
      const segment = core[record + OUT_SEGMENT / 4];
      const step = this.#stepOf(length, segment);
      for (let at = 0; at < length; at += step) {
        if (filled === BATCH_MAX) {
          sent += this.#flush(filled);
          filled = 0;
        }
        if (this.#put(filled, address + at, Math.min(step, length - at), record)) filled++;
      }
    }
    return sent + this.#flush(filled);
  }

  /**
   * UDP_SEGMENT: the place for it. A run of equal datagrams leaves here as one message a datagram; with the option it
   * becomes one message a run (at most 65507 bytes and 64 datagrams), the segment length in a third control message.
   */
  #stepOf(length: number, segment: number): number {
    return segment > 0 && segment < length ? segment : length;
  }

  /** Fills message `index`. @returns false when this socket cannot reach the endpoint; it is counted */
  #put(index: number, address: number, length: number, record: number): boolean {
    const messages = this.#messages;
    const { words } = messages;
    const core = this.#thread.words;
    const { family: socket } = this.#handle;
    const endpoint = record + ENDPOINT;
    const nameLength = putName(words, messages.name(index), socket, core, endpoint);
    if (nameLength === 0) {
      countError(this.errors, "EAFNOSUPPORT");
      return false;
    }
    messages.putBuffer(index, address, length);
    const header = MMSGHDR_WORDS * index;
    words[header + MSG_NAMELEN] = nameLength;
    const tos = core[record + OUT_TOS / 4] & 0xff;
    const control = messages.control(index);
    const tosSpace = tos === 0 ? 0 : TOS_CMSG_SPACE;
    if (tosSpace) putTos(words, control, endpointFamily(core, endpoint), tos);
    const sourceSpace = putSource(words, control + TOS_WORDS, socket, core, endpoint);
    // The source stands after the place of the TOS, which begins later when there is none.
    const start = messages.native.address + 4 * control + (TOS_CMSG_SPACE - tosSpace);
    messages.native.putPointer(4 * (header + MSG_CONTROL), start);
    words[header + MSG_CONTROLLEN] = tosSpace + sourceSpace;
    this.#peers[index] = core[record + OUT_PEER / 4];
    this.#sourceSpace[index] = sourceSpace;
    return true;
  }

  /** Tries the first `count` messages, each until it is sent or given up. @returns how many were sent */
  #flush(count: number): number {
    const libc = this.#libc;
    const { fd } = this.#handle;
    let sent = 0;
    let retries = 0;
    let at = 0;
    while (at < count) {
      const result = libc.sendmmsg(fd, this.#messages.address(at), count - at, this.#flags);
      if (result > 0) {
        at += result;
        sent += result;
        retries = 0;
        continue;
      }
      const errno = result < 0 ? libc.errno() : EAGAIN;
      if (errno === EINTR) continue;
      // ECONNREFUSED is about a datagram before this one (an ICMP error that came since).
      const passing = errno === ECONNREFUSED || errno === ENOBUFS || errno === EAGAIN;
      if (passing && retries++ < RETRY_MAX) continue;
      if (this.#sourceSpace[at] && SOURCE_ERRNOS.has(errno)) {
        this.#giveUpSource(at, count);
        continue;
      }
      if (errno === EBADF || errno === ENOTSOCK) {
        countError(this.errors, errno, count - at);
        return sent;
      }
      countError(this.errors, errno);
      retries = 0;
      at++;
    }
    return sent;
  }

  /** Takes the source from message `at` and those after it that go to the same peer. */
  #giveUpSource(at: number, count: number): void {
    const peer = this.#peers[at];
    const { words } = this.#messages;
    for (let i = at; i < count && this.#peers[i] === peer; i++) {
      words[MMSGHDR_WORDS * i + MSG_CONTROLLEN] -= this.#sourceSpace[i];
      this.#sourceSpace[i] = 0;
    }
    this.#onSourceGone(peer);
  }
}
