// Datagrams into a thread's slots: one blocked recvmmsg, which takes what else is there without waiting for more.
// Each lands 16 bytes before a packet's place, so that the plaintext after its message header is where a packet belongs.

import {
  IN_ENDPOINT,
  IN_FLAGS,
  IN_LENGTH,
  IN_MAX,
  IN_OFFSET,
  IN_SEGMENT,
  IN_SIZE,
  IN_TRUNCATED,
  SLOT_COUNT,
  SLOT_DATA_SIZE,
  THREAD_IN,
} from "../../../assembly/abi.ts";
import type { BlockingSource, CoreThread, ErrorCounts } from "../types.ts";
import { countError } from "./counts.ts";
import { EBADF, EFAULT, EINTR, EINVAL, ENOTSOCK, SystemError } from "./errno.ts";
import type { Libc } from "./libc.ts";
import { MMSGHDR_WORDS, MSG_CONTROLLEN, MSG_FLAGS, MSG_LENGTH, MSG_NAMELEN, Messages } from "./messages.ts";
import { getControl, getName, NAME_SIZE, RECEIVE_CONTROL_SIZE } from "./sockaddr.ts";
import { ThreadMemory } from "./thread.ts";
import type { UdpHandle } from "./udp.ts";

/** Bytes of the header before the ciphertext of a transport message. */
const MESSAGE_HEADER_LEN = 16;
const MSG_TRUNC = 0x20;
const MSG_WAITFORONE = 0x10000;
/** Pause after an error that is not about the socket, ms: the next call may find the same one. */
const PAUSE_MS = 1;
/** The bits of IN_FLAGS that hold DSCP and ECN. */
const IN_TOS_SHIFT = 16;

/** Errors that no later call can get over. All others (ECONNREFUSED, ENETDOWN, ENOMEM ...) pass. */
const FATAL_ERRNOS = new Set([EBADF, ENOTSOCK, EFAULT, EINVAL]);

const FIRST_RECORD = THREAD_IN / 4;
const RECORD_WORDS = IN_SIZE / 4;

export interface ReceiverOptions {
  /** datagrams a call, 1..SLOT_COUNT (default) */
  batch?: number;
}

export class Receiver implements BlockingSource {
  readonly errors: ErrorCounts = new Map();
  /** bytes that the last receive() brought */
  size = 0;
  readonly #libc: Libc;
  readonly #thread: ThreadMemory;
  readonly #messages: Messages;
  readonly #batch: number;
  #handle: UdpHandle;

  constructor(libc: Libc, thread: CoreThread, handle: UdpHandle, { batch = SLOT_COUNT }: ReceiverOptions = {}) {
    if (!(batch >= 1 && batch <= SLOT_COUNT && batch <= IN_MAX)) throw new RangeError(`batch ${batch} is not in 1..${SLOT_COUNT}`);
    this.#libc = libc;
    this.#thread = new ThreadMemory(libc, thread);
    this.#messages = new Messages(libc, batch, RECEIVE_CONTROL_SIZE);
    this.#batch = batch;
    this.#handle = handle;
    for (let i = 0; i < batch; i++) {
      const address = this.#thread.addressOf(this.#datagramOffset(i));
      this.#messages.putBuffer(i, address, SLOT_DATA_SIZE + MESSAGE_HEADER_LEN);
      this.#ready(i);
    }
  }

  /** Receives from another socket from now on: the listen port changed. */
  use(handle: UdpHandle): void {
    this.#handle = handle;
  }

  receive(): number {
    const libc = this.#libc;
    for (;;) {
      const received = libc.recvmmsg(this.#handle.fd, this.#messages.address(0), this.#batch, MSG_WAITFORONE);
      if (received >= 0) return this.#record(received);
      const errno = libc.errno();
      if (FATAL_ERRNOS.has(errno)) throw new SystemError(errno, "recvmmsg", "receive from UDP");
      if (errno === EINTR) continue;
      countError(this.errors, errno);
      libc.poll(0, 0, PAUSE_MS);
    }
  }

  #datagramOffset(index: number): number {
    return this.#thread.packetOffset(index) - MESSAGE_HEADER_LEN;
  }

  /** Sets what the kernel writes over: room for the name and the control messages. */
  #ready(index: number): void {
    const header = MMSGHDR_WORDS * index;
    const { words } = this.#messages;
    words[header + MSG_NAMELEN] = NAME_SIZE;
    words[header + MSG_CONTROLLEN] = RECEIVE_CONTROL_SIZE;
    words[header + MSG_CONTROLLEN + 1] = 0;
  }

  /** Writes the IN records of `received` messages. @returns how many; a message without a sender is a wake() */
  #record(received: number): number {
    const messages = this.#messages;
    const { words } = messages;
    const core = this.#thread.words;
    let count = 0;
    this.size = 0;
    for (let i = 0; i < received; i++) {
      const header = MMSGHDR_WORDS * i;
      if (words[header + MSG_NAMELEN] !== 0) {
        const record = FIRST_RECORD + RECORD_WORDS * count++;
        const endpoint = record + IN_ENDPOINT / 4;
        core[record + IN_OFFSET / 4] = this.#datagramOffset(i);
        core[record + IN_LENGTH / 4] = words[header + MSG_LENGTH];
        this.size += words[header + MSG_LENGTH];
        getName(core, endpoint, words, messages.name(i));
        const control = getControl(core, endpoint, words, messages.control(i), words[header + MSG_CONTROLLEN]);
        const truncated = words[header + MSG_FLAGS] & MSG_TRUNC ? IN_TRUNCATED : 0;
        core[record + IN_SEGMENT / 4] = control >>> 8;
        core[record + IN_FLAGS / 4] = truncated | ((control & 0xff) << IN_TOS_SHIFT);
      }
      this.#ready(i);
    }
    return count;
  }
}
