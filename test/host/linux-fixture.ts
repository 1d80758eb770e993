// The core's side of the records, played by the tests of the Linux adapters: slots, IN, OUT and DELIVER records.
import assert from "node:assert/strict";
import * as abi from "../../assembly/abi.ts";
import { decodeEndpoint, encodeEndpoint, formatEndpoint, parseEndpoint } from "../../host/endpoint.ts";
import { formatIp, parseIp } from "../../host/ip.ts";
import { POLLIN, type Libc } from "../../host/platform/linux/libc.ts";
import { NativeMemory } from "../../host/platform/linux/native.ts";
import type { Receiver } from "../../host/platform/linux/receiver.ts";
import type { TunReader } from "../../host/platform/linux/tunreader.ts";

export const THREADS = 4;

export class FakeCore {
  readonly memory: WebAssembly.Memory;
  readonly u8: Uint8Array;
  readonly view: DataView;

  constructor() {
    const pages = Math.ceil((abi.THREADS_END + abi.SLOTS_SIZE * THREADS) / abi.PAGE_SIZE);
    this.memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    this.u8 = new Uint8Array(this.memory.buffer);
    this.view = new DataView(this.memory.buffer);
  }

  block(thread: number): number {
    return abi.THREADS_BASE + abi.THREAD_SIZE * thread;
  }

  slot(thread: number, index: number): number {
    return abi.THREADS_END + abi.SLOTS_SIZE * thread + abi.SLOT_SIZE * index + abi.SLOT_HEADROOM;
  }

  putOut(thread: number, index: number, out: Out): void {
    const at = this.block(thread) + abi.THREAD_OUT + abi.OUT_SIZE * index;
    const { offset = this.slot(thread, index % abi.SLOT_COUNT), bytes, length = bytes?.length ?? 0 } = out;
    if (bytes) this.u8.set(bytes, offset);
    this.view.setUint32(at + abi.OUT_OFFSET, offset, true);
    this.view.setUint32(at + abi.OUT_LENGTH, length, true);
    this.view.setUint32(at + abi.OUT_SEGMENT, out.segment ?? 0, true);
    this.view.setUint32(at + abi.OUT_PEER, out.peer ?? 0xffffffff, true);
    this.view.setUint32(at + abi.OUT_TOS, out.tos ?? 0, true);
    const endpoint = at + abi.OUT_ENDPOINT;
    this.u8.fill(0, endpoint, endpoint + abi.ENDPOINT_LEN);
    const { source } = out;
    encodeEndpoint(this.view, endpoint, parseEndpoint(out.to));
    if (source === undefined) return;
    const { family, address } = parseIp(source.address);
    this.view.setUint32(endpoint + abi.ENDPOINT_SRC_FAMILY, family, true);
    this.view.setUint32(endpoint + abi.ENDPOINT_SRC_IFINDEX, source.ifindex, true);
    this.u8.set(address, endpoint + abi.ENDPOINT_SRC_ADDR);
  }

  readIn(thread: number, index: number) {
    const at = this.block(thread) + abi.THREAD_IN + abi.IN_SIZE * index;
    const word = (offset: number) => this.view.getUint32(at + offset, true);
    const offset = word(abi.IN_OFFSET);
    const length = word(abi.IN_LENGTH);
    const endpoint = at + abi.IN_ENDPOINT;
    const from = decodeEndpoint(this.view, endpoint);
    const sourceFamily = this.view.getUint32(endpoint + abi.ENDPOINT_SRC_FAMILY, true);
    const source = endpoint + abi.ENDPOINT_SRC_ADDR;
    return {
      offset,
      bytes: this.u8.slice(offset, offset + length),
      segment: word(abi.IN_SEGMENT),
      vnet: (word(abi.IN_FLAGS) & abi.IN_VNET) !== 0,
      truncated: (word(abi.IN_FLAGS) & abi.IN_TRUNCATED) !== 0,
      tos: (word(abi.IN_FLAGS) >>> 16) & 0xff,
      from: from && formatEndpoint(from),
      reached: sourceFamily && formatIp(this.u8.slice(source, source + (sourceFamily === 4 ? 4 : 16))),
      ifindex: this.view.getUint32(endpoint + abi.ENDPOINT_SRC_IFINDEX, true),
    };
  }

  putDeliver(thread: number, index: number, offset: number, length: number, flags = 0): void {
    const at = this.block(thread) + abi.THREAD_DELIVER + abi.DELIVER_SIZE * index;
    this.view.setUint32(at + abi.DELIVER_OFFSET, offset, true);
    this.view.setUint32(at + abi.DELIVER_LENGTH, length, true);
    this.view.setUint32(at + abi.DELIVER_PEER, 0, true);
    this.view.setUint32(at + abi.DELIVER_FLAGS, flags, true);
  }
}

export interface Out {
  to: string;
  bytes?: Uint8Array;
  offset?: number;
  length?: number;
  segment?: number;
  peer?: number;
  tos?: number;
  source?: { address: string; ifindex: number };
}

/** Bytes that differ from datagram to datagram. */
export const pattern = (seed: number, length: number) => Uint8Array.from({ length }, (_, i) => seed * 31 + i);

/** Waits until a descriptor can be read, so that a receive() that follows cannot block the test for ever. */
export function assertReadable(libc: Libc, fd: number): void {
  const pollfd = new NativeMemory(libc.address, 8);
  pollfd.view.setInt32(0, fd, true);
  pollfd.view.setInt16(4, POLLIN, true);
  assert.equal(libc.poll(pollfd.address, 1, 5000), 1, "nothing arrived in 5 s");
}

/** Calls receive() until `count` records came; hands each to `read` while it is valid. */
export function receiveAll<T>(libc: Libc, fd: number, receiver: Receiver | TunReader, count: number, read: (i: number) => T): T[] {
  const all: T[] = [];
  while (all.length < count) {
    assertReadable(libc, fd);
    const batch = receiver.receive();
    assert.ok(batch > 0);
    for (let i = 0; i < batch; i++) all.push(read(i));
  }
  assert.equal(all.length, count);
  return all;
}
