// A process of bench/flood.ts, in the stranger's namespace: sends the datagrams of a file over and over, at a given
// rate, for a given time. Each is a message of its own (no UDP_SEGMENT, which would let the receiver take them as
// runs). It uses the daemon's own sender, because 180,000 a second are too many for node:dgram. Prints a line when it
// begins and JSON when it has ended.
//
//   storm.ts FILE ADDRESS PORT PER_SECOND SECONDS

import { readFileSync } from "node:fs";
import {
  ENDPOINT_ADDR, ENDPOINT_FAMILY, ENDPOINT_PORT, OUT_ENDPOINT, OUT_LENGTH, OUT_OFFSET, OUT_PEER, OUT_SEGMENT, OUT_SIZE,
  OUT_TOS, SLOT_HEADROOM, THREAD_OUT,
} from "../../assembly/abi.ts";
import { INITIATION_LEN } from "../../assembly/protocol.ts";
import { compileCore, createCore } from "../../host/core.ts";
import { openLibc } from "../../host/platform/linux/libc.ts";
import { Sender } from "../../host/platform/linux/sender.ts";
import { LinuxUdp } from "../../host/platform/linux/udp.ts";
import { fillRandom } from "../../host/platform/random.ts";

/** datagrams between two looks at the clock */
const BURST = 256;
const COUNT_MAX = 10_000_000;

const [file, address, ...numbers] = process.argv.slice(2);
const [port, perSecond, seconds] = numbers.map(Number);
const messages = readFileSync(file).subarray(0, 400 * INITIATION_LEN);
const total = messages.length / INITIATION_LEN;

// The core does nothing here: its memory is where the sender takes datagrams from.
const core = createCore(await compileCore(), fillRandom, { maxPeers: 1, maxNodes: 2 });
const slot = core.slots + SLOT_HEADROOM;
core.u8.set(messages, slot);
const record = core.base + THREAD_OUT;
core.u8.fill(0, record, record + OUT_SIZE);
core.view.setUint32(record + OUT_PEER, 0xffffffff, true);
core.view.setUint32(record + OUT_TOS, 0, true);
core.view.setUint16(record + OUT_ENDPOINT + ENDPOINT_FAMILY, 4, true);
core.view.setUint16(record + OUT_ENDPOINT + ENDPOINT_PORT, port, false);
core.u8.set(address.split(".").map(Number), record + OUT_ENDPOINT + ENDPOINT_ADDR);

const libc = openLibc();
const udp = new LinuxUdp(libc, { port: 0, offload: false });
const sender = new Sender(libc, core, udp.handle);

const start = performance.now();
let tried = 0;
let sent = 0;
let next = 0;
console.log("storming");
for (;;) {
  const elapsed = (performance.now() - start) / 1000;
  if (elapsed >= seconds || tried >= COUNT_MAX) break;
  const count = Math.min(Math.floor(elapsed * perSecond) - tried, BURST, total - next);
  if (count <= 0) {
    await new Promise((resolve) => setTimeout(resolve, 1));
    continue;
  }
  core.view.setUint32(record + OUT_OFFSET, slot + next * INITIATION_LEN, true);
  core.view.setUint32(record + OUT_LENGTH, count * INITIATION_LEN, true);
  core.view.setUint32(record + OUT_SEGMENT, INITIATION_LEN, true);
  sent += sender.send(1);
  tried += count;
  next = (next + count) % total;
}
udp.close();
console.log(JSON.stringify({ sent, perSecond: sent / ((performance.now() - start) / 1000) }));
