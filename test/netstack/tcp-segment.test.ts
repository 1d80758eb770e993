// The parts that stand alone: header and options, sequence numbers, SipHash, RTO, CUBIC, the two buffers.

import assert from "node:assert/strict";
import { suite } from "uvu";
import { Cubic } from "../../host/netstack/tcp/cubic.ts";
import { ReceiveBuffer } from "../../host/netstack/tcp/receive-buffer.ts";
import { Recovery } from "../../host/netstack/tcp/recovery.ts";
import { Rto } from "../../host/netstack/tcp/rto.ts";
import { Segment, SegmentWriter } from "../../host/netstack/tcp/segment.ts";
import { PagePool, SendBuffer } from "../../host/netstack/tcp/send-buffer.ts";
import { difference, toOffset, toWire } from "../../host/netstack/tcp/sequence.ts";
import { SipHash } from "../../host/netstack/tcp/siphash.ts";
import { craft, dissect, FLAG, option, pattern, randomFrom } from "./tcp-wire.ts";

const header = suite("tcp: segments");
const plain = { sourcePort: 1, destinationPort: 2, sequence: 3, flags: FLAG.ACK };

header("what is written is what another reader reads", () => {
  const writer = new SegmentWriter();
  writer.begin(0xfffe, 0x0102, 0xfedcba98, 0x89abcdef, 0x12, 0xabcd);
  writer.mss(1380);
  writer.sackPermitted();
  writer.timestamps(0xf0000001, 0x80000002);
  writer.windowScale(7);
  const seen = dissect(writer.end().slice());
  assert.deepEqual(
    [seen.sourcePort, seen.destinationPort, seen.sequence, seen.acknowledgment, seen.flags, seen.window],
    [0xfffe, 0x0102, 0xfedcba98, 0x89abcdef, 0x12, 0xabcd],
  );
  assert.deepEqual(
    [seen.mss, seen.sackPermitted, seen.timestamps, seen.scale, seen.len],
    [1380, true, [0xf0000001, 0x80000002], 7, 0],
  );
  writer.begin(1, 2, 3, 4, 5, 6);
  writer.timestamps(1, 2);
  assert.equal(writer.sackRoom, 3);
  writer.sacks(new Uint32Array([1, 2, 3, 4, 0xfffffff0, 5]), 3);
  const full = dissect(writer.end().slice());
  assert.deepEqual(full.sacks, [[1, 2], [3, 4], [0xfffffff0, 5]]);
});

header("RFC 9293 §3.2: options in any order and alignment, unknown ones skipped", () => {
  const segment = new Segment();
  const timestamps = [8, 10, 0, 0, 0, 7, 0, 0, 0, 8];
  const options = [1, ...option.scale(5).slice(1), 254, 4, 9, 9, ...option.mss(99), 4, 2, ...timestamps, 0];
  const bytes = craft({ ...plain, options, payload: pattern(0, 3) });
  assert.equal(segment.parse(bytes), null);
  assert.deepEqual(
    [segment.windowScale, segment.mss, segment.sackPermitted, segment.timestamp, segment.timestampEcho],
    [5, 99, true, 7, 8],
  );
  assert.deepEqual([segment.payloadLen, segment.bytes[segment.payloadStart + 2]], [3, pattern(0, 3)[2]]);
  assert.equal(segment.parse(craft({ ...plain, options: option.sacks([1, 2], [3, 4]) })), null);
  assert.deepEqual([segment.sackCount, [...segment.sacks.subarray(0, 4)]], [2, [1, 2, 3, 4]]);
  assert.equal(segment.hasTimestamps, false);
});

header("lies about lengths, and flags that cannot be", () => {
  const segment = new Segment();
  const bad = (options: number[]) => segment.parse(craft({ ...plain, options }));
  assert.equal(segment.parse(new Uint8Array(19)), "short");
  const offset = craft(plain);
  offset[12] = 4 << 4;
  assert.equal(segment.parse(offset), "dataOffset");
  offset[12] = 6 << 4;
  assert.equal(segment.parse(offset), "dataOffset");
  assert.equal(bad([2, 0, 0, 0]), "option");
  assert.equal(bad([2, 1, 0, 0]), "option");
  assert.equal(bad([2, 5, 0, 0]), "option");
  assert.equal(bad([1, 1, 1, 2]), "option");
  assert.equal(bad([2, 3, 5, 0]), "option"); // an MSS of one byte
  assert.equal(bad([5, 4, 0, 0]), "option");
  assert.equal(bad([5, 2, 0, 0]), "option");
  assert.equal(bad([8, 6, 0, 0, 0, 0]), "option");
  assert.equal(bad([0, 2, 0, 0]), null); // what follows the end does not count
  assert.equal(segment.parse(craft({ ...plain, flags: FLAG.SYN | FLAG.FIN })), "flags");
  assert.equal(segment.parse(craft({ ...plain, flags: FLAG.SYN | FLAG.RST })), "flags");
  assert.equal(segment.parse(craft({ ...plain, flags: 0 })), "flags");
  assert.equal(segment.parse(craft({ ...plain, sourcePort: 0 })), "port");
});

header("sequence numbers wrap on the wire only", () => {
  for (const offset of [0, 1, 2 ** 31, 2 ** 32 + 5, 2 ** 45 + 123]) {
    for (const initial of [0, 1, 0x7fffffff, 0xffffffff]) {
      for (const distance of [-(2 ** 31), -70_000, -1, 0, 1, 70_000, 2 ** 31 - 1]) {
        if (offset + distance < 0) continue;
        assert.equal(toOffset(toWire(offset + distance, initial), initial, offset), offset + distance);
      }
    }
  }
  assert.deepEqual([difference(1, 0xffffffff), difference(0xffffffff, 1)], [2, -2]);
});

header("SipHash-2-4: vectors of its authors", () => {
  const key = new Uint8Array(16).map((_, i) => i);
  const sipHash = new SipHash(key);
  const input = new Uint8Array(15).map((_, i) => i);
  for (const [len, high, low] of [
    [0, 0x726fdb47, 0xdd0e0e31],
    [1, 0x74f839c5, 0x93dc67fd],
    [8, 0x93f5f579, 0x9a932462],
    [15, 0xa129ca61, 0x49be45e5],
  ]) {
    assert.equal(sipHash.hash(input, len), low);
    assert.equal(sipHash.high, high);
  }
});

header("RFC 6298 §2 by hand", () => {
  const rto = new Rto();
  assert.equal(rto.timeout, 1000);
  rto.backOff();
  assert.equal(rto.timeout, 2000);
  rto.progress();
  rto.sample(100);
  assert.deepEqual([rto.smoothed, rto.variance, rto.timeout], [100, 50, 300]);
  rto.sample(200);
  assert.deepEqual([rto.smoothed, rto.variance, rto.timeout], [112.5, 62.5, 362.5]);
  for (let i = 0; i < 20; i++) rto.backOff();
  assert.equal(rto.timeout, 60_000);
  rto.progress();
  for (let i = 0; i < 200; i++) rto.sample(1);
  assert.equal(Math.round(rto.timeout), 201);
  const lost = new Rto();
  lost.restart(3000); // §5.7
  assert.equal(lost.timeout, 3000);
});

header.run();

const cubic = suite("tcp: CUBIC and PRR");
const MSS = 1000;

/** Acknowledges a window a round trip, in segments. */
function runFor(it: Cubic, rtt: number, from: number, to: number, each: (t: number) => void = () => {}): void {
  for (let now = from; now < to; now += rtt) {
    for (let left = it.window; left > 0; left -= MSS) it.acknowledged(Math.min(MSS, left), now, rtt);
    each(now + rtt);
  }
}

cubic("RFC 6928 §2 and slow start: ten segments, doubled each round trip", () => {
  assert.equal(new Cubic(1460).window, 14_600);
  assert.equal(new Cubic(1000).window, 10_000);
  assert.equal(new Cubic(9000).window, 18_000);
  const it = new Cubic(MSS);
  runFor(it, 100, 0, 300);
  assert.equal(it.window, 80_000);
});

cubic("RFC 9438 figure 1: W(t) = C (t - K)^3 + W_max, after a reduction to 0.7", () => {
  const it = new Cubic(MSS);
  it.window = 1000 * MSS;
  it.reduce();
  assert.equal(it.threshold, 700 * MSS);
  it.window = it.threshold;
  const k = Math.cbrt((1000 * (1 - 0.7)) / 0.4);
  runFor(it, 100, 0, 2 * k * 1000, (now) => {
    const t = now / 1000;
    const expected = 0.4 * (t - k) ** 3 + 1000;
    const actual = it.window / MSS;
    if (t < 0.5) return; // the first round trip, all at once, begins the curve
    assert.equal(Math.abs(actual - expected) < 0.02 * expected, true, `${t} s: ${actual}, not ${expected}`);
  });
});

cubic("§4.3: where Reno is faster, as fast as Reno: 9/17 of a segment a round trip, above the old window one", () => {
  const it = new Cubic(MSS);
  it.window = 20 * MSS;
  it.reduce();
  it.window = it.threshold;
  const windows: number[] = [];
  runFor(it, 10, 0, 300, () => windows.push(it.window / MSS));
  const slope = (from: number, to: number) => (windows[to] - windows[from]) / (to - from);
  assert.equal(Math.abs(slope(0, 8) - 9 / 17) < 0.08, true, `${slope(0, 8)}`);
  assert.equal(Math.abs(slope(16, 28) - 1) < 0.1, true, `${slope(16, 28)}`);
});

cubic("§4.7: a second loss below the old plateau gives room to others", () => {
  const it = new Cubic(MSS);
  it.window = 1000 * MSS;
  it.reduce();
  it.window = 800 * MSS;
  it.reduce();
  it.window = it.threshold;
  assert.equal(it.window, 560 * MSS);
  const k = Math.cbrt((680 - 560) / 0.4);
  runFor(it, 100, 0, k * 1000);
  assert.equal(Math.abs(it.window / MSS - 680) < 5, true, `${it.window}`);
});

cubic("a reduction is taken back whole; after idle the window is the initial one", () => {
  const it = new Cubic(MSS);
  it.window = 50 * MSS;
  it.reduce();
  it.window = it.threshold;
  it.undo();
  assert.deepEqual([it.window, it.threshold], [50 * MSS, Infinity]);
  it.restartAfterIdle();
  assert.equal(it.window, 10 * MSS);
});

cubic("RFC 6937: the sum that is sent follows the sum that arrived, by ssthresh / RecoverFS", () => {
  const recovery = new Recovery();
  recovery.begin(21, 20 * MSS);
  let inFlight = 16 * MSS;
  let sent = 0;
  for (let i = 0; i < 15; i++) {
    inFlight -= MSS;
    const allowed = recovery.allowance(MSS, inFlight, 10 * MSS, MSS, false, i === 0);
    const now = Math.max(0, Math.floor(allowed / MSS)) * MSS;
    recovery.sent(now);
    inFlight += now;
    sent += now;
  }
  assert.equal(inFlight, 10 * MSS);
  assert.equal(sent, 9 * MSS);
});

cubic.run();

const buffers = suite("tcp: buffers");

buffers("the send buffer gives back what was written, at every cut, and its pages", () => {
  const random = randomFrom(7);
  const pool = new PagePool();
  const buffer = new SendBuffer(pool);
  const pieces: Uint8Array[] = [];
  let written = 0;
  for (let round = 0; round < 3000; round++) {
    const len = Math.floor(random() ** 4 * 150_000);
    if (buffer.len < 400_000) {
      buffer.append(pattern(written, len));
      written += len;
    }
    const from = buffer.start + Math.floor(random() * buffer.len);
    const to = from + Math.floor(random() * (buffer.end - from));
    buffer.slice(from, to, pieces);
    if (!Buffer.concat(pieces).equals(pattern(from - 1, to - from))) assert.fail(`[${from}, ${to})`);
    buffer.release(buffer.start + Math.floor(random() * (buffer.len + 1)));
  }
  buffer.clear();
  assert.equal(buffer.len, 0);
  buffer.slice(buffer.end, buffer.end, pieces);
  assert.equal(pieces.length, 0);
});

/** Any segments within a window of 20000, some twice and overlapping, until all arrived; read at any pace. */
function reassemble(seed: number): void {
  const random = randomFrom(seed);
  const total = 60_000;
  const buffer = new ReceiveBuffer(1);
  const most = [1, 30, 1500, 9000][seed % 4];
  const got: Uint8Array[] = [];
  let read = 0;
  for (let round = 0; read < total; round++) {
    if (round > 2_000_000) assert.fail(`seed ${seed}: no end`);
    const next = buffer.next;
    const end = Math.min(total + 1, 1 + read + 20_000);
    const offset = random() < 0.3 ? next : next + Math.floor(random() * (end - next));
    const len = Math.min(1 + Math.floor(random() * most), end - offset);
    if (len > 0) {
      const around = 3;
      const bytes = new Uint8Array(len + 2 * around);
      bytes.set(pattern(offset - 1, len), around);
      if (offset === next) buffer.append(bytes, around, around + len);
      else buffer.insert(offset, bytes, around, around + len);
      bytes.fill(0xee); // only a view during the call
    }
    if (random() < 0.3) {
      const bytes = buffer.read(random() < 0.5 ? Infinity : 1 + Math.floor(random() * 5000));
      if (bytes !== null) {
        got.push(bytes);
        read += bytes.length;
      }
    }
  }
  assert.equal(buffer.hasGap, false);
  if (!Buffer.concat(got).equals(pattern(0, total))) assert.fail(`seed ${seed}`);
}

buffers("reassembly: every byte, whatever the order and the overlaps", () => {
  for (let seed = 1; seed <= 40; seed++) if (seed % 4 !== 0) reassemble(seed);
});

buffers("what read() gives away may be transferred: nothing of ours goes with it", () => {
  const buffer = new ReceiveBuffer(1);
  let at = 0;
  for (const len of [10, 300, 1400, 40_000, 5, 9000, 1400, 1400]) {
    buffer.append(pattern(at, len), 0, len);
    at += len;
    const bytes = buffer.read(len - 1) as Uint8Array;
    structuredClone(bytes, { transfer: [bytes.buffer as ArrayBuffer] });
    assert.deepEqual(buffer.read(Infinity), pattern(at - 1, 1));
  }
});

buffers("islands are bounded", () => {
  const buffer = new ReceiveBuffer(1);
  let refused = 0;
  for (let i = 0; i < 5000; i++) if (buffer.insert(10 + 2 * i, pattern(0, 1), 0, 1) === null) refused++;
  assert.deepEqual([buffer.islandCount, refused], [1024, 5000 - 1024]);
});

buffers.run();
