// OUT records to the wire: each datagram, or run of equal ones, gets one mmsghdr, and one sendmmsg takes them all. A run
// is one walk through the kernel's stack (UDP_SEGMENT); where the kernel, the device or the path refuses it, its datagrams
// go out one by one, and so do all later runs to that peer until its endpoint changes.
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
  EIO,
  EMSGSIZE,
  ENETUNREACH,
  ENOBUFS,
  ENODEV,
  ENOTSOCK,
  ENXIO,
  EOPNOTSUPP,
} from "./errno.ts";
import { MSG_DONTWAIT, type Libc } from "./libc.ts";
import { MMSGHDR_WORDS, MSG_CONTROL, MSG_CONTROLLEN, MSG_NAMELEN, Messages } from "./messages.ts";
import {
  endpointFamily,
  putName,
  putSegment,
  putSource,
  putTos,
  SEGMENT_CMSG_SPACE,
  SEND_CONTROL_SIZE,
  SOURCE_PLACE,
  TOS_CMSG_SPACE,
} from "./sockaddr.ts";
import { ThreadMemory } from "./thread.ts";
import type { UdpHandle } from "./udp.ts";

/** Datagrams a system call. */
const BATCH_MAX = 256;
/** Datagrams of a run. */
const PIECES_MAX = 64;
/** How often a datagram is tried again when the kernel is short of room; each try is a system call, none sleeps. */
const RETRY_MAX = 8;

/** What the kernel says of a source that is not ours any more; of a bad destination it may say the same. */
const SOURCE_ERRNOS = new Set([EINVAL, EADDRNOTAVAIL, ENETUNREACH, EHOSTUNREACH, ENODEV, ENXIO]);

/** What the kernel says of a run that it, the device (no checksum offload) or the path (too narrow) cannot take. */
const SEGMENT_ERRNOS = new Set([EINVAL, EIO, EMSGSIZE, EOPNOTSUPP]);

const FIRST_RECORD = THREAD_OUT / 4;
const RECORD_WORDS = OUT_SIZE / 4;
const ENDPOINT = OUT_ENDPOINT / 4;
const ENDPOINT_WORDS = 6; // family, port, scope, address: what a path depends on

export interface SenderOptions {
  /** Whether to wait for room in the socket's buffer: yes in a lane, no on a thread with an event loop. Default true. */
  wait?: boolean;
  /** A sticky source was given up. `peer` as in the OUT record: tell the core (peerClearSource). */
  onSourceGone?: (peer: number) => void;
}

/** Messages for one sendmmsg, and what has to be known of each when it fails. */
class Batch {
  readonly messages: Messages;
  readonly peers: Uint32Array;
  /** bytes of control that belong to the source, at its end; 0 = none */
  readonly sourceSpace: Uint8Array;
  /** word index of the OUT record, and datagrams of it in this message */
  readonly records: Uint32Array;
  readonly datagrams: Uint32Array;
  count = 0;

  constructor(libc: Libc, size: number) {
    this.messages = new Messages(libc, size, SEND_CONTROL_SIZE);
    this.peers = new Uint32Array(size);
    this.sourceSpace = new Uint8Array(size);
    this.records = new Uint32Array(size);
    this.datagrams = new Uint32Array(size);
  }
}

export class Sender implements DatagramSink {
  readonly errors: ErrorCounts = new Map();
  readonly #libc: Libc;
  readonly #thread: ThreadMemory;
  readonly #batch: Batch;
  /** for the datagrams of a run that was refused as a whole */
  #pieces: Batch | undefined;
  readonly #flags: number;
  readonly #onSourceGone: (peer: number) => void;
  /** peers whose path refused a run, and the endpoint that was */
  readonly #unsegmented = new Map<number, string>();
  /** sticky sources given up so far */
  #sourcesGone = 0;
  #handle: UdpHandle;

  constructor(libc: Libc, thread: CoreThread, handle: UdpHandle, options: SenderOptions = {}) {
    this.#libc = libc;
    this.#thread = new ThreadMemory(libc, thread);
    this.#batch = new Batch(libc, BATCH_MAX);
    this.#flags = options.wait === false ? MSG_DONTWAIT : 0;
    this.#onSourceGone = options.onSourceGone ?? (() => {});
    this.#handle = handle;
  }

  /** Sends from another socket from now on: the listen port changed. */
  use(handle: UdpHandle): void {
    this.#handle = handle;
  }

  send(count: number): number {
    this.#thread.checkCount(count, "OUT");
    let sent = 0;
    for (let i = 0; i < count; i++) sent += this.#add(this.#batch, i, this.#handle.segments);
    return sent + this.#flush(this.#batch);
  }

  /**
   * Adds OUT record `index`: as one message when it is a run and `whole` allows it, else a message a datagram.
   * @returns datagrams sent meanwhile, because the batch was full
   */
  #add(batch: Batch, index: number, whole: boolean): number {
    const core = this.#thread.words;
    const record = FIRST_RECORD + RECORD_WORDS * index;
    const length = core[record + OUT_LENGTH / 4];
    const address = this.#thread.slotAddress(core[record + OUT_OFFSET / 4], length, "OUT", index);
    const given = core[record + OUT_SEGMENT / 4];
    const segment = given > 0 && given < length ? given : 0;
    const step = segment && !(whole && this.#takesRuns(record)) ? segment : length;
    let sent = 0;
    for (let at = 0; at < length; at += step) {
      if (batch.count === batch.messages.count) sent += this.#flush(batch);
      this.#put(batch, address + at, Math.min(step, length - at), record, step === length ? segment : 0);
    }
    return sent;
  }

  /** Whether no run to this record's peer was refused since it has its endpoint. */
  #takesRuns(record: number): boolean {
    if (this.#unsegmented.size === 0) return true;
    const peer = this.#thread.words[record + OUT_PEER / 4];
    const refused = this.#unsegmented.get(peer);
    if (refused === undefined) return true;
    if (refused === this.#path(record)) return false;
    this.#unsegmented.delete(peer);
    return true;
  }

  #path(record: number): string {
    return this.#thread.words.subarray(record + ENDPOINT, record + ENDPOINT + ENDPOINT_WORDS).join();
  }

  /** Fills the next message; an endpoint that this socket cannot reach is counted and left out. */
  #put(batch: Batch, address: number, length: number, record: number, segment: number): void {
    const { messages } = batch;
    const { words } = messages;
    const core = this.#thread.words;
    const { family: socket } = this.#handle;
    const endpoint = record + ENDPOINT;
    const index = batch.count;
    const nameLength = putName(words, messages.name(index), socket, core, endpoint);
    if (nameLength === 0) {
      countError(this.errors, "EAFNOSUPPORT");
      return;
    }
    messages.putBuffer(index, address, length);
    const header = MMSGHDR_WORDS * index;
    words[header + MSG_NAMELEN] = nameLength;
    // The source stands last, so that it can be cut off; what else there is ends where it begins.
    const source = messages.control(index) + SOURCE_PLACE / 4;
    const sourceSpace = putSource(words, source, socket, core, endpoint);
    let control = source;
    const tos = core[record + OUT_TOS / 4] & 0xff;
    if (tos !== 0) {
      control -= TOS_CMSG_SPACE / 4;
      putTos(words, control, endpointFamily(core, endpoint), tos);
    }
    if (segment !== 0) {
      control -= SEGMENT_CMSG_SPACE / 4;
      putSegment(words, control, segment);
    }
    messages.native.putPointer(4 * (header + MSG_CONTROL), messages.native.address + 4 * control);
    words[header + MSG_CONTROLLEN] = 4 * (source - control) + sourceSpace;
    batch.peers[index] = core[record + OUT_PEER / 4];
    batch.sourceSpace[index] = sourceSpace;
    batch.records[index] = record;
    batch.datagrams[index] = segment ? Math.ceil(length / segment) : 1;
    batch.count++;
  }

  /** Tries all messages, each until it is sent or given up. @returns how many datagrams were sent */
  #flush(batch: Batch): number {
    const libc = this.#libc;
    const { fd } = this.#handle;
    const { count } = batch;
    batch.count = 0;
    let sent = 0;
    let retries = 0;
    let at = 0;
    while (at < count) {
      const result = libc.sendmmsg(fd, batch.messages.address(at), count - at, this.#flags);
      if (result > 0) {
        for (let i = 0; i < result; i++) sent += batch.datagrams[at + i];
        at += result;
        retries = 0;
        continue;
      }
      const errno = result < 0 ? libc.errno() : EAGAIN;
      if (errno === EINTR) continue;
      // ECONNREFUSED is about a datagram before this one (an ICMP error that came since).
      const passing = errno === ECONNREFUSED || errno === ENOBUFS || errno === EAGAIN;
      if (passing && retries++ < RETRY_MAX) continue;
      // EINVAL may be about either; the datagrams of a run show which, because they try the source again.
      const isRunRefused = batch.datagrams[at] > 1 && SEGMENT_ERRNOS.has(errno);
      if (batch.sourceSpace[at] && SOURCE_ERRNOS.has(errno) && !isRunRefused) {
        this.#giveUpSource(batch, at, count);
        continue;
      }
      if (errno === EBADF || errno === ENOTSOCK) {
        countError(this.errors, errno, count - at);
        return sent;
      }
      if (isRunRefused) {
        sent += this.#sendPieces(batch, at, count);
      } else {
        countError(this.errors, errno, batch.datagrams[at]);
      }
      retries = 0;
      at++;
    }
    return sent;
  }

  /** Sends the datagrams of the refused run `at` one by one. */
  #sendPieces(batch: Batch, at: number, count: number): number {
    const pieces = (this.#pieces ??= new Batch(this.#libc, PIECES_MAX));
    const record = batch.records[at];
    const before = this.#sourcesGone;
    const sent = this.#add(pieces, (record - FIRST_RECORD) / RECORD_WORDS, false) + this.#flush(pieces);
    if (this.#sourcesGone === before) this.#unsegmented.set(batch.peers[at], this.#path(record));
    else this.#cutSource(batch, at + 1, count, batch.peers[at]); // it was to blame, and not the run
    return sent;
  }

  /** Takes the source from message `at` and those after it that go to the same peer. */
  #giveUpSource(batch: Batch, at: number, count: number): void {
    const peer = batch.peers[at];
    this.#sourcesGone++;
    this.#cutSource(batch, at, count, peer);
    this.#onSourceGone(peer);
  }

  #cutSource(batch: Batch, at: number, count: number, peer: number): void {
    const { words } = batch.messages;
    for (let i = at; i < count && batch.peers[i] === peer; i++) {
      words[MMSGHDR_WORDS * i + MSG_CONTROLLEN] -= batch.sourceSpace[i];
      batch.sourceSpace[i] = 0;
    }
  }
}
