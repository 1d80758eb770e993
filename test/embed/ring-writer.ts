// A thread that fills a ring as fast as it can (ring.test.ts): packets of random lengths, each with its number in all bytes.
import { parentPort, workerData } from "node:worker_threads";
import { type RingBuffers, RingWriter } from "../../host/native/ring.ts";
import { Stream } from "../../host/simulator/random.ts";

export interface WriterData {
  ring: RingBuffers;
  count: number;
  /** bytes of a packet at most */
  longest: number;
}

const { ring, count, longest } = workerData as WriterData;
const writer = new RingWriter(ring, () => parentPort!.postMessage("wake"));
const random = new Stream(7, "ring");
let written = 0;
for (; written < count; written++) {
  const length = random.below(longest + 1);
  const packet = new Uint8Array(length).fill(written);
  if (!writer.begin(length + 10)) break;
  writer.appendWithHeader(new Uint8Array(10).fill(written >> 8), 10);
  const cut = random.below(length + 1);
  writer.append(packet.subarray(0, cut));
  writer.append(packet.subarray(cut));
  writer.end();
  if (random.below(3) === 0) writer.wake();
}
writer.wake();
parentPort!.postMessage({ written });
