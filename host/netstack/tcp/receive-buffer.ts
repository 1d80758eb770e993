// What arrived and was not read, and what arrived ahead of a gap: runs of chunks. The first run is in order and read
// from; the others, "islands", wait until the gap before them is filled (RFC 9293 §3.10.7.4, seventh: reassembly).
// Bytes are copied once, into chunks that read() gives away. Short chunks are filled up and joined, so that memory
// stays near twice the bytes, whatever a peer sends; the number of islands is bounded, the bytes are bounded by the
// window.

import { ISLAND_MAX_COUNT } from "./constants.ts";

/** A chunk made for short segments grows from here ... */
const CHUNK_MIN_LEN = 256;
/** ... to here; longer segments get a chunk of their own length */
const CHUNK_MAX_LEN = 16_384;
/** From this length on a segment gets a chunk of its own, if all before was read */
const LONG_LEN = 1024;
/** Two neighbours that are shorter together are one */
const JOIN_LEN = 2048;

/** Bytes [start, end) of memory of its own; what is after `end` is free. */
class Chunk {
  memory: Uint8Array;
  start = 0;
  end = 0;

  constructor(len: number) {
    this.memory = new Uint8Array(len);
  }

  get len(): number {
    return this.end - this.start;
  }
}

/** A run without gaps. */
class Run {
  start: number;
  end: number;
  readonly chunks: Chunk[] = [];
  /** index of the first chunk that is not read */
  first = 0;

  constructor(start: number) {
    this.start = start;
    this.end = start;
  }

  private get tail(): Chunk | null {
    return this.chunks.length > this.first ? this.chunks[this.chunks.length - 1] : null;
  }

  append(bytes: Uint8Array, from: number, to: number): void {
    if (from >= to) return;
    this.end += to - from;
    let tail = this.tail;
    if (tail !== null && tail.len === 0 && to - from >= Math.min(tail.memory.length, LONG_LEN)) {
      this.chunks.pop(); // a long segment gets memory of its own, to be given away whole
      tail = this.tail;
    }
    while (from < to) {
      if (tail === null || tail.end === tail.memory.length) {
        const longer = tail === null ? CHUNK_MIN_LEN : Math.min(2 * tail.memory.length, CHUNK_MAX_LEN);
        tail = new Chunk(Math.max(to - from, longer));
        this.chunks.push(tail);
      }
      const len = Math.min(tail.memory.length - tail.end, to - from);
      tail.memory.set(bytes.subarray(from, from + len), tail.end);
      tail.end += len;
      from += len;
    }
  }

  /** Puts what ends where this begins before it; nothing of this is read yet. */
  prepend(bytes: Uint8Array, from: number, to: number): void {
    const head = this.chunks[0];
    const len = to - from;
    this.start -= len;
    const joined = len + head.len <= JOIN_LEN;
    const chunk = new Chunk(joined ? len + head.len : len);
    chunk.memory.set(bytes.subarray(from, to));
    if (joined) chunk.memory.set(head.memory.subarray(head.start, head.end), len);
    chunk.end = chunk.memory.length;
    if (joined) this.chunks[0] = chunk;
    else this.chunks.unshift(chunk);
  }

  /** Takes all of `other`, which begins where this ends. */
  take(other: Run): void {
    for (let i = other.first; i < other.chunks.length; i++) {
      const chunk = other.chunks[i];
      const tail = this.tail;
      if (tail !== null && tail.len > 0 && tail.len + chunk.len <= JOIN_LEN) {
        this.append(chunk.memory, chunk.start, chunk.end);
        continue;
      }
      if (tail !== null && tail.len === 0) this.chunks.pop();
      this.chunks.push(chunk);
      this.end += chunk.len;
    }
  }

  /**
   * The first bytes, at most `max`. A chunk that is full is given away as it is; of others a copy, so that a caller who
   * transfers its buffer takes nothing of ours with it.
   */
  shift(max: number): Uint8Array {
    const chunk = this.chunks[this.first];
    const len = Math.min(max, chunk.len);
    const whole = len === chunk.memory.length;
    const bytes = whole ? chunk.memory : chunk.memory.slice(chunk.start, chunk.start + len);
    chunk.start += len;
    this.start += len;
    if (chunk.len > 0) return bytes;
    if (!whole && this.first + 1 === this.chunks.length && chunk.memory.length <= CHUNK_MAX_LEN) {
      chunk.start = chunk.end = 0; // the last one is filled again
    } else {
      this.drop();
    }
    return bytes;
  }

  /** Forgets the first chunk; the array moves up now and then only. */
  private drop(): void {
    this.chunks[this.first++] = EMPTY;
    if (this.first === this.chunks.length) {
      this.chunks.length = this.first = 0;
    } else if (this.first >= 64 && 2 * this.first >= this.chunks.length) {
      this.chunks.splice(0, this.first);
      this.first = 0;
    }
  }
}

const EMPTY = new Chunk(0);

export class ReceiveBuffer {
  private ordered: Run;
  private islands: Run[] = [];
  /** those that grew last, for SACK (RFC 2018 §4): the latest first */
  private readonly recent: Run[] = [];

  /** @param start  offset of the first byte */
  constructor(start: number) {
    this.ordered = new Run(start);
  }

  /** RCV.NXT as far as data goes */
  get next(): number {
    return this.ordered.end;
  }

  get readable(): number {
    return this.ordered.end - this.ordered.start;
  }

  get hasGap(): boolean {
    return this.islands.length > 0;
  }

  /** where the last island ends */
  get lastEnd(): number {
    return this.islands.length > 0 ? this.islands[this.islands.length - 1].end : this.next;
  }

  /** bytes ahead of a gap */
  get waiting(): number {
    let sum = 0;
    for (const island of this.islands) sum += island.end - island.start;
    return sum;
  }

  get islandCount(): number {
    return this.islands.length;
  }

  /** The bytes [from, to) of a segment follow what is in order. @returns whether a gap was filled */
  append(bytes: Uint8Array, from: number, to: number): boolean {
    const { islands, ordered } = this;
    let filled = false;
    for (;;) {
      const island = islands.length > 0 ? islands[0] : null;
      const stop = island === null ? to : Math.min(to, from + (island.start - ordered.end));
      ordered.append(bytes, from, stop);
      if (island === null || island.start !== ordered.end) return filled;
      // What an island has already stays as it came first: RFC 9293 §3.10.7.4 leaves the choice.
      from = Math.min(to, stop + (island.end - island.start));
      islands.shift();
      this.unlist(island);
      ordered.take(island);
      filled = true;
    }
  }

  /**
   * The bytes [from, to) of a segment belong at `offset`, behind a gap.
   * @returns whether anything of it was new; null if there are too many gaps
   */
  insert(offset: number, bytes: Uint8Array, from: number, to: number): boolean | null {
    const { islands } = this;
    const end = offset + (to - from);
    // The first island that ends at the segment's start or behind it; most segments belong to the last.
    let i = islands.length;
    while (i > 0 && islands[i - 1].end >= offset) i--;
    if (i === islands.length || islands[i].start > end) {
      if (islands.length >= ISLAND_MAX_COUNT) return null;
      const island = new Run(offset);
      island.append(bytes, from, to);
      islands.splice(i, 0, island);
      this.list(island);
      return true;
    }
    const island = islands[i];
    const isNew = offset < island.start || end > island.end;
    if (offset < island.start) island.prepend(bytes, from, from + (island.start - offset));
    for (;;) {
      const next = i + 1 < islands.length ? islands[i + 1] : null;
      const stop = next === null ? end : Math.min(end, next.start);
      if (stop > island.end) island.append(bytes, to - (end - island.end), to - (end - stop));
      if (next === null || next.start !== island.end) break;
      islands.splice(i + 1, 1);
      this.unlist(next);
      island.take(next);
    }
    this.list(island);
    return isNew;
  }

  /** @returns the next bytes, at most `max`, the caller's to keep; null when there are none */
  read(max: number): Uint8Array | null {
    if (this.readable === 0 || max <= 0) return null;
    return this.ordered.shift(max);
  }

  /** Edges of the islands to report, the latest first. @returns how many */
  recentIslands(starts: number[], ends: number[], max: number): number {
    const count = Math.min(max, this.recent.length);
    for (let i = 0; i < count; i++) {
      starts[i] = this.recent[i].start;
      ends[i] = this.recent[i].end;
    }
    return count;
  }

  private list(island: Run): void {
    if (this.recent[0] === island) return;
    this.unlist(island);
    this.recent.unshift(island);
    if (this.recent.length > 4) this.recent.pop();
  }

  private unlist(island: Run): void {
    const at = this.recent.indexOf(island);
    if (at >= 0) this.recent.splice(at, 1);
  }

  /** Frees everything. */
  clear(): void {
    this.ordered = new Run(this.ordered.end);
    this.clearIslands();
  }

  /** Frees what will never be in order. */
  clearIslands(): void {
    this.islands = [];
    this.recent.length = 0;
  }
}
