// The ring between the receiving thread and the event loop: every packet comes whole and in its order, whichever side is
// the slower one, and neither sleeps for good.
import assert from "node:assert/strict";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { buildSync } from "esbuild";
import { suite } from "uvu";
import { createRing, RingReader, RingWriter } from "../../host/native/ring.ts";
import { Stream } from "../../host/simulator/random.ts";
import type { WriterData } from "./ring-writer.ts";

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), "../..");
const outfile = path.join(root, "dist/test/ring-writer.mjs");
buildSync({
  entryPoints: [path.join(root, "test/embed/ring-writer.ts")], outfile, bundle: true, format: "esm", platform: "node", logLevel: "error",
});

const VNET_LEN = 10;
const test = suite("ring");

function put(writer: RingWriter, length: number, fill: number): boolean {
  if (!writer.begin(length + VNET_LEN)) return false;
  writer.appendWithHeader(new Uint8Array(VNET_LEN + length).fill(fill), VNET_LEN);
  writer.end();
  return true;
}

function take(reader: RingReader): { length: number; fill: number } | null {
  if (!reader.take()) return null;
  const bytes = reader.memory.subarray(reader.start, reader.end);
  const fill = bytes[0];
  assert.ok(bytes.every((byte) => byte === fill), "a packet with bytes of another");
  reader.release();
  return { length: bytes.length - VNET_LEN, fill };
}

test("packets of all lengths, round and round", () => {
  const buffers = createRing(1024);
  const writer = new RingWriter(buffers, () => {});
  const reader = new RingReader(buffers);
  for (let i = 0; i < 3000; i++) {
    const lengths = [i % 300, (i * 7) % 150];
    for (const length of lengths) assert.ok(put(writer, length, i & 255));
    for (const length of lengths) assert.deepEqual(take(reader), { length, fill: i & 255 });
    assert.equal(take(reader), null);
  }
});

test("payloads begin on borders of eight bytes", () => {
  const buffers = createRing(1024);
  const writer = new RingWriter(buffers, () => {});
  const reader = new RingReader(buffers);
  for (let headers = 1; headers < 200; headers++) {
    assert.ok(writer.begin(headers + 30, headers));
    writer.appendWithHeader(new Uint8Array(VNET_LEN + headers + 30).fill(headers), VNET_LEN);
    writer.end();
    assert.equal(reader.take(), true);
    assert.equal((reader.start + VNET_LEN + headers) % 8, 0);
    reader.release();
    assert.ok(put(writer, 7, 5));
    assert.deepEqual(take(reader), { length: 7, fill: 5 });
  }
});

test("positions pass 2^32", () => {
  const buffers = createRing(131_072);
  const writer = new RingWriter(buffers, () => {});
  const reader = new RingReader(buffers);
  const packet = new Uint8Array(VNET_LEN + 60_000);
  const rounds = Math.ceil(2 ** 32 / packet.length) + 10;
  for (let i = 0; i < rounds; i++) {
    packet[0] = packet[packet.length - 1] = i;
    writer.begin(packet.length);
    writer.appendWithHeader(packet, VNET_LEN);
    writer.end();
    const isRight = reader.take() && reader.memory[reader.start] === (i & 255) && reader.memory[reader.end - 1] === (i & 255);
    assert.ok(isRight, `packet ${i} of ${rounds}`);
    reader.release();
    assert.equal(reader.take(), false);
  }
});

test("a packet longer than half of the ring is refused: it might wait for ever", () => {
  const writer = new RingWriter(createRing(1024), () => {});
  assert.throws(() => writer.begin(500), { name: "RangeError", message: /500 bytes/ });
  assert.equal(writer.begin(490), true);
});

test("one message until the reader sleeps", () => {
  const buffers = createRing(4096);
  let messages = 0;
  const writer = new RingWriter(buffers, () => messages++);
  const reader = new RingReader(buffers);
  put(writer, 1, 1);
  writer.wake();
  put(writer, 2, 2);
  writer.wake();
  assert.equal(messages, 1);
  assert.ok(take(reader));
  assert.equal(reader.sleep(), false, "there is one more");
  assert.ok(take(reader));
  assert.equal(take(reader), null);
  assert.equal(reader.sleep(), true);
  put(writer, 3, 3);
  writer.wake();
  assert.equal(messages, 2);
});

interface Thread {
  worker: Worker;
  reader: RingReader;
  done: Promise<number>;
}

function start(size: number, count: number, longest: number, onWake: () => void): Thread {
  const ring = createRing(size);
  const workerData: WriterData = { ring, count, longest };
  const worker = new Worker(outfile, { workerData, execArgv: [] });
  const done = new Promise<number>((resolve, reject) => {
    worker.on("error", reject);
    worker.on("message", (message: "wake" | { written: number }) => {
      if (message === "wake") onWake();
      else resolve(message.written);
    });
  });
  return { worker, reader: new RingReader(ring), done };
}

for (const [who, pause] of [["reader", 2], ["writer", 0]] as const) {
  test(`a slow ${who}: nothing is lost`, async () => {
    const count = 20_000;
    const longest = 3000;
    const lengths = new Stream(7, "ring");
    const pauses = new Stream(9, "pauses");
    let seen = 0;
    let finish: () => void;
    const all = new Promise<void>((resolve) => (finish = resolve));
    let busy = false;
    const drain = (): void => {
      if (busy) return; // it goes on by itself
      const { reader } = thread;
      do {
        while (reader.take()) {
          const bytes = reader.memory.subarray(reader.start, reader.end);
          const length = lengths.below(longest + 1);
          lengths.below(length + 1);
          lengths.below(3);
          assert.equal(bytes.length, VNET_LEN + length);
          assert.equal(bytes[0], (seen >> 8) & 255);
          assert.ok(bytes.subarray(VNET_LEN).every((byte) => byte === (seen & 255)), `packet ${seen}`);
          reader.release();
          seen++;
          if (pause && pauses.below(400) === 0) {
            busy = true;
            setTimeout(() => {
              busy = false;
              drain();
            }, pause);
            return;
          }
        }
      } while (!reader.sleep());
      if (seen === count) finish();
    };
    const thread = start(65_536, count, longest, drain);
    assert.equal(await thread.done, count);
    await all;
    await thread.worker.terminate();
  });
}

test("a writer that sleeps before a full ring can be stopped", async () => {
  const thread = start(65_536, 1000, 3000, () => {});
  await new Promise((resolve) => setTimeout(resolve, 100));
  thread.reader.stop();
  const written = await thread.done;
  assert.ok(written > 20 && written < 1000, `${written} packets written`);
  await thread.worker.terminate();
});

test.run();
