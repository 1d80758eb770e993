// Times, counted in buckets whose width grows with the value: percentiles to a part in a thousand of any number of
// samples in the same 110 KB. A sorted list was rejected: an hour of requests is a gigabyte of it.
//
//   bucket   0 .. 2,047        one nanosecond each
//            then 1,024 for every doubling, up to 2^36 ns = 68 s; what is longer counts as that

/** buckets of a doubling */
const STEPS = 1024;
const STEPS_BITS = 10;
const DOUBLINGS = 25;
const BUCKETS = STEPS * (DOUBLINGS + 2);
const LIMIT_NS = 2 ** (STEPS_BITS + 1 + DOUBLINGS) - 1;

export interface Percentiles {
  minMs: number;
  meanMs: number;
  p50Ms: number;
  p90Ms: number;
  p99Ms: number;
  p999Ms: number;
  maxMs: number;
}

export class Histogram {
  readonly #counts = new Float64Array(BUCKETS);
  #count = 0;
  #sumMs = 0;
  #minMs = Infinity;
  #maxMs = 0;

  get count(): number {
    return this.#count;
  }

  add(ms: number): void {
    const time = Math.max(0, ms);
    this.#counts[bucketOf(Math.min(LIMIT_NS, Math.round(time * 1e6)))]++;
    this.#count++;
    this.#sumMs += time;
    this.#minMs = Math.min(this.#minMs, time);
    this.#maxMs = Math.max(this.#maxMs, time);
  }

  /**
   * The least time that `share` of the samples do not exceed (nearest rank).
   * @param share  0..1
   * @returns ms; 0 without a sample
   */
  percentile(share: number): number {
    // 0.999 * 1000 is a little more than 999 in floating point.
    const rank = Math.max(1, Math.ceil(share * this.#count - 1e-9));
    let seen = 0;
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      seen += this.#counts[bucket];
      if (seen >= rank) return Math.min(this.#maxMs, Math.max(this.#minMs, middleOf(bucket) / 1e6));
    }
    return this.#count === 0 ? 0 : this.#maxMs;
  }

  percentiles(): Percentiles | null {
    if (this.#count === 0) return null;
    return {
      minMs: this.#minMs,
      meanMs: this.#sumMs / this.#count,
      p50Ms: this.percentile(0.5),
      p90Ms: this.percentile(0.9),
      p99Ms: this.percentile(0.99),
      p999Ms: this.percentile(0.999),
      maxMs: this.#maxMs,
    };
  }

  clear(): void {
    this.#counts.fill(0);
    this.#count = this.#sumMs = this.#maxMs = 0;
    this.#minMs = Infinity;
  }
}

function bucketOf(ns: number): number {
  if (ns < 2 * STEPS) return ns;
  const doubling = Math.floor(Math.log2(ns)) - STEPS_BITS;
  return STEPS * doubling + Math.floor(ns / 2 ** doubling);
}

function middleOf(bucket: number): number {
  if (bucket < 2 * STEPS) return bucket;
  const doubling = Math.floor(bucket / STEPS) - 1;
  return (bucket - STEPS * doubling) * 2 ** doubling + (2 ** doubling - 1) / 2;
}
