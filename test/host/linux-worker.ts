// A lane for linux.test.ts: sits blocked in one source of its own thread. It tells the test of every batch and, unless it
// echoes, waits until the test has read the IN records. Bundled to JavaScript by the test, for Node 20's sake.

import { parentPort, workerData } from "node:worker_threads";
import * as abi from "../../assembly/abi.ts";
import { openLibc } from "../../host/platform/linux/libc.ts";
import { Receiver } from "../../host/platform/linux/receiver.ts";
import { VNET_HEADER_LEN, type TunHandle } from "../../host/platform/linux/tun.ts";
import { TunReader } from "../../host/platform/linux/tunreader.ts";
import { TunWriter } from "../../host/platform/linux/tunwriter.ts";
import type { UdpHandle } from "../../host/platform/linux/udp.ts";

export interface LaneData {
  role: "udp" | "tun" | "echo";
  memory: WebAssembly.Memory;
  thread: number;
  udp?: UdpHandle;
  tun?: TunHandle;
  /** i32, shared: batches the test is done with */
  done: Int32Array;
}

const { role, memory, thread, udp, tun, done } = workerData as LaneData;
const libc = openLibc();
const source =
  role === "udp" ? new Receiver(libc, { memory, thread }, udp!) : new TunReader(libc, { memory, thread }, tun!);
const writer = role === "echo" ? new TunWriter(libc, { memory, thread }, tun!) : null;
const u8 = new Uint8Array(memory.buffer);
const block = new DataView(memory.buffer, abi.THREADS_BASE + abi.THREAD_SIZE * thread, abi.THREAD_SIZE);

/** bytes that the core would put before a packet */
const header = tun?.vnetHeader ? VNET_HEADER_LEN : 0;
const ICMP = 1;
const ECHO_REQUEST = 8;

/** Turns the IPv4 echo requests of a batch into replies, each delivered in two parts. @returns DELIVER records */
function reply(count: number): number {
  let records = 0;
  const put = (offset: number, length: number, flags: number) => {
    const at = abi.THREAD_DELIVER + abi.DELIVER_SIZE * records++;
    block.setUint32(at + abi.DELIVER_OFFSET, offset, true);
    block.setUint32(at + abi.DELIVER_LENGTH, length, true);
    block.setUint32(at + abi.DELIVER_FLAGS, flags, true);
  };
  for (let i = 0; i < count; i++) {
    const at = block.getUint32(abi.THREAD_IN + abi.IN_SIZE * i + abi.IN_OFFSET, true);
    const length = block.getUint32(abi.THREAD_IN + abi.IN_SIZE * i + abi.IN_LENGTH, true);
    if (u8[at] !== 0x45 || u8[at + 9] !== ICMP || u8[at + 20] !== ECHO_REQUEST) continue;
    const source = u8.slice(at + 12, at + 16);
    u8.copyWithin(at + 12, at + 16, at + 20);
    u8.set(source, at + 16);
    u8[at + 20] = 0;
    // The checksum's complement sum loses 0x0800 (RFC 1624).
    const sum = ((u8[at + 22] << 8) | u8[at + 23]) + (ECHO_REQUEST << 8);
    const folded = (sum & 0xffff) + (sum >>> 16);
    u8[at + 22] = folded >>> 8;
    u8[at + 23] = folded;
    u8.fill(0, at - header, at); // a virtio header that says nothing
    put(at - header, header + 24, abi.DELIVER_CONTINUES);
    put(at + 24, length - 24, 0);
  }
  return records;
}

parentPort!.postMessage("ready");
for (let batch = 1; ; batch++) {
  let count: number;
  try {
    count = source.receive();
  } catch (error) {
    parentPort!.postMessage((error as Error).message);
    break;
  }
  if (writer && count > 0) {
    writer.deliver(reply(count));
    continue;
  }
  parentPort!.postMessage(count);
  if (count <= 0) break;
  while (Atomics.load(done, 0) < batch) Atomics.wait(done, 0, batch - 1);
}
