// What the application wrote and the peer has not acknowledged. Bytes are copied once, into pages of the layer's pool;
// segments are views of them. Positions are sequence offsets: 1 is the first byte. Small writes get small pages, so
// that a thousand quiet connections cost little. Rejected: one ring, since it must be copied to grow.

const SMALL_PAGE_LEN = 4096;
const PAGE_LEN = 65_536;
const SPARE_MAX_COUNT = 64;

/** Pages of both sizes that nobody uses, for all connections of a layer. */
export class PagePool {
  private readonly small: Uint8Array[] = [];
  private readonly large: Uint8Array[] = [];

  take(len: number): Uint8Array {
    const spare = len > SMALL_PAGE_LEN ? this.large : this.small;
    return spare.pop() ?? new Uint8Array(len > SMALL_PAGE_LEN ? PAGE_LEN : SMALL_PAGE_LEN);
  }

  give(page: Uint8Array): void {
    const spare = page.length > SMALL_PAGE_LEN ? this.large : this.small;
    if (spare.length < SPARE_MAX_COUNT) spare.push(page);
  }
}

export class SendBuffer {
  private readonly pool: PagePool;
  private pages: Uint8Array[] = [];
  /** offset of the first byte of each page; full pages but for the last one's end */
  private starts: number[] = [];
  /** the first byte that is kept, and the one after the last */
  start = 1;
  end = 1;

  constructor(pool: PagePool) {
    this.pool = pool;
  }

  get len(): number {
    return this.end - this.start;
  }

  /** Copies all of `bytes`. */
  append(bytes: Uint8Array): void {
    let from = 0;
    while (from < bytes.length) {
      const { page, at } = this.room(bytes.length - from);
      const len = Math.min(page.length - at, bytes.length - from);
      page.set(from === 0 && len === bytes.length ? bytes : bytes.subarray(from, from + len), at);
      from += len;
      this.end += len;
    }
  }

  private room(wanted: number): { page: Uint8Array; at: number } {
    const last = this.pages.length - 1;
    if (last >= 0) {
      const at = this.end - this.starts[last];
      if (at < this.pages[last].length) return { page: this.pages[last], at };
    }
    const page = this.pool.take(last >= 0 ? Math.max(wanted, SMALL_PAGE_LEN + 1) : wanted);
    this.pages.push(page);
    this.starts.push(this.end);
    return { page, at: 0 };
  }

  /** Puts views of [from, to) into `pieces`, which it empties first. */
  slice(from: number, to: number, pieces: Uint8Array[]): void {
    pieces.length = 0;
    if (from >= to) return;
    let i = this.find(from);
    while (from < to) {
      const page = this.pages[i];
      const at = from - this.starts[i];
      const len = Math.min(page.length - at, to - from);
      pieces.push(page.subarray(at, at + len));
      from += len;
      i++;
    }
  }

  /** @returns the index of the page that holds `offset` */
  private find(offset: number): number {
    let low = 0;
    let high = this.starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.starts[middle] <= offset) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** Everything before `offset` arrived. */
  release(offset: number): void {
    if (offset <= this.start) return;
    this.start = offset;
    let count = 0;
    while (count < this.pages.length && this.starts[count] + this.pages[count].length <= offset) {
      this.pool.give(this.pages[count++]);
    }
    // The last page, too, when it is empty: an idle connection holds none.
    if (offset === this.end && count < this.pages.length) this.pool.give(this.pages[count++]);
    if (count > 0) {
      this.pages.splice(0, count);
      this.starts.splice(0, count);
    }
  }

  clear(): void {
    this.release(this.end);
  }
}
