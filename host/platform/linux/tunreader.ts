// Packets of the interface into a thread's slots: one blocked read, then preadv2 with RWF_NOWAIT for those that are
// there already. Draining before sending doubles the rate of small packets and delays none; a poll and a non-blocking
// descriptor were 7 % slower.

import {
  IN_ENDPOINT,
  IN_FLAGS,
  IN_LENGTH,
  IN_MAX,
  IN_OFFSET,
  IN_SEGMENT,
  IN_SIZE,
  IN_VNET,
  OUT_SLOT,
  SLOT_COUNT,
  SLOT_DATA_SIZE,
  THREAD_IN,
} from "../../../assembly/abi.ts";
import { CLOSED, type BlockingSource, type CoreThread, type ErrorCounts } from "../types.ts";
import { countError } from "./counts.ts";
import { EBADF, EBADFD, EFAULT, EINTR, EINVAL, EIO, ENODEV, SystemError } from "./errno.ts";
import type { Libc } from "./libc.ts";
import { IOVEC_SIZE } from "./messages.ts";
import { NativeMemory } from "./native.ts";
import { ThreadMemory } from "./thread.ts";
import { VNET_HEADER_LEN, type TunHandle } from "./tun.ts";

const RWF_NOWAIT = 8;
/** Anything shorter is no IP packet: LinuxTun.wake() sends one byte. */
const IPV4_HEADER_LEN = 20;
const DEFAULT_BATCH = 32;
/** Super-packets are sent when this much was read: what is read later waits no longer than these take to seal. */
const DRAIN_SIZE = 65536;
const PAUSE_MS = 1;

/** The interface is gone. EBADFD: the descriptor lost it; EIO and ENODEV: older kernels' words for it. */
const CLOSED_ERRNOS = new Set([EBADFD, EIO, ENODEV]);

const FIRST_RECORD = THREAD_IN / 4;
const RECORD_WORDS = IN_SIZE / 4;

export interface TunReaderOptions {
  /** packets a call, 1..SLOT_COUNT; default 32 */
  batch?: number;
}

export class TunReader implements BlockingSource {
  readonly errors: ErrorCounts = new Map();
  /** bytes that the last receive() brought */
  size = 0;
  readonly #libc: Libc;
  readonly #thread: ThreadMemory;
  readonly #iovecs: NativeMemory;
  readonly #fd: number;
  readonly #batch: number;
  readonly #headerLength: number;

  constructor(libc: Libc, thread: CoreThread, handle: TunHandle, { batch = DEFAULT_BATCH }: TunReaderOptions = {}) {
    const limit = Math.min(handle.vnetHeader ? OUT_SLOT : SLOT_COUNT, IN_MAX);
    if (!(batch >= 1 && batch <= limit)) throw new RangeError(`batch ${batch} is not in 1..${limit}`);
    this.#libc = libc;
    this.#thread = new ThreadMemory(libc, thread);
    this.#fd = handle.fd;
    this.#batch = batch;
    this.#headerLength = handle.vnetHeader ? VNET_HEADER_LEN : 0;
    this.#iovecs = new NativeMemory(libc.address, IOVEC_SIZE * batch);
    for (let i = 0; i < batch; i++) {
      this.#iovecs.putPointer(IOVEC_SIZE * i, this.#bufferAddress(i));
      this.#iovecs.putPointer(IOVEC_SIZE * i + 8, SLOT_DATA_SIZE + this.#headerLength);
    }
  }

  receive(): number {
    const first = this.#wait();
    if (first < 0) return CLOSED;
    let count = this.#record(0, first);
    if (count === 0) return 0; // woken: the caller has something to look at
    const { address } = this.#iovecs;
    this.size = first;
    while (count < this.#batch && this.size < DRAIN_SIZE) {
      const length = this.#libc.preadv2(this.#fd, address + IOVEC_SIZE * count, 1, RWF_NOWAIT);
      if (length <= 0) break; // EAGAIN, or an error that the next blocked read will meet
      const taken = this.#record(count, length);
      if (taken === 0) break;
      count += taken;
      this.size += length;
    }
    return count;
  }

  #bufferAddress(index: number): number {
    return this.#thread.addressOf(this.#thread.packetOffset(index) - this.#headerLength);
  }

  /** Blocks for one packet in the first slot. @returns its bytes, or CLOSED */
  #wait(): number {
    const libc = this.#libc;
    let faults = 0;
    for (;;) {
      const length = libc.readv(this.#fd, this.#iovecs.address, 1);
      if (length >= 0) return length;
      const errno = libc.errno();
      if (errno === EINTR) continue;
      if (CLOSED_ERRNOS.has(errno)) return CLOSED;
      // A reader that was asleep when the interface went is told EFAULT; its next read says EBADFD.
      if (errno === EBADF || errno === EINVAL || (errno === EFAULT && faults++ > 0)) {
        throw new SystemError(errno, "readv", "read from the TUN");
      }
      if (errno === EFAULT) continue;
      countError(this.errors, errno);
      libc.poll(0, 0, PAUSE_MS);
    }
  }

  /** Writes the IN record of the packet in slot `index`. @returns 1, or 0 when it is none */
  #record(index: number, read: number): number {
    const length = read - this.#headerLength;
    if (length < IPV4_HEADER_LEN) return 0;
    const core = this.#thread.words;
    const record = FIRST_RECORD + RECORD_WORDS * index;
    core[record + IN_OFFSET / 4] = this.#thread.packetOffset(index);
    core[record + IN_LENGTH / 4] = length;
    core[record + IN_SEGMENT / 4] = 0;
    core[record + IN_FLAGS / 4] = this.#headerLength ? IN_VNET : 0;
    core[record + IN_ENDPOINT / 4] = 0; // family 0: none
    return 1;
  }
}
