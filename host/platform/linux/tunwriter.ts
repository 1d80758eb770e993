// DELIVER records to the interface: a record or a run of joined ones is one packet, and one writev. Where the interface
// has a virtio header, the core has put it before the packet (OFFLOAD_VNET).

import {
  DELIVER_CONTINUES,
  DELIVER_FLAGS,
  DELIVER_LENGTH,
  DELIVER_MAX,
  DELIVER_OFFSET,
  DELIVER_SIZE,
  THREAD_DELIVER,
} from "../../../assembly/abi.ts";
import { CLOSED, type CoreThread, type ErrorCounts, type PacketSink } from "../types.ts";
import { countError } from "./counts.ts";
import { EBADF, EBADFD, EINTR, ENODEV } from "./errno.ts";
import type { Libc } from "./libc.ts";
import { IOVEC_SIZE } from "./messages.ts";
import { NativeMemory } from "./native.ts";
import { ThreadMemory } from "./thread.ts";
import type { TunHandle } from "./tun.ts";

/** The interface is gone. EIO is not among them: it means that it is down, and the packet is lost. */
const CLOSED_ERRNOS = new Set([EBADF, EBADFD, ENODEV]);

const FIRST_RECORD = THREAD_DELIVER / 4;
const RECORD_WORDS = DELIVER_SIZE / 4;

export class TunWriter implements PacketSink {
  readonly errors: ErrorCounts = new Map();
  readonly #libc: Libc;
  readonly #thread: ThreadMemory;
  readonly #native: NativeMemory;
  readonly #fd: number;

  constructor(libc: Libc, thread: CoreThread, handle: TunHandle) {
    this.#libc = libc;
    this.#thread = new ThreadMemory(libc, thread);
    this.#fd = handle.fd;
    this.#native = new NativeMemory(libc.address, IOVEC_SIZE * DELIVER_MAX);
  }

  deliver(count: number): number {
    const thread = this.#thread;
    const core = thread.words;
    thread.checkCount(count, "DELIVER");
    let written = 0;
    let parts = 0;
    for (let i = 0; i < count; i++) {
      const record = FIRST_RECORD + RECORD_WORDS * i;
      const length = core[record + DELIVER_LENGTH / 4];
      const address = thread.slotAddress(core[record + DELIVER_OFFSET / 4], length, "DELIVER", i);
      const iovec = IOVEC_SIZE * parts++;
      this.#native.putPointer(iovec, address);
      this.#native.putPointer(iovec + 8, length);
      if (core[record + DELIVER_FLAGS / 4] & DELIVER_CONTINUES && i + 1 < count) continue;
      const result = this.#write(parts);
      if (result < 0) return CLOSED;
      written += result;
      parts = 0;
    }
    return written;
  }

  /** Writes one packet of `parts` records. @returns 1, 0 (counted and lost) or CLOSED */
  #write(parts: number): number {
    const libc = this.#libc;
    for (;;) {
      if (libc.writev(this.#fd, this.#native.address, parts) >= 0) return 1;
      const errno = libc.errno();
      if (errno === EINTR) continue;
      if (CLOSED_ERRNOS.has(errno)) return CLOSED;
      countError(this.errors, errno);
      return 0;
    }
  }
}
