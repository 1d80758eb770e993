// What is found by four-tuple: connections and those in TIME_WAIT. A map by a 32-bit hash that is keyed, since a peer
// chooses its ports; the few that share one are chained. Rejected: text keys, which cost an allocation a segment.

/** IPv4 or IPv6 addresses and ports of a connection; entries are chained by `nextInTable`. */
export interface TableEntry<Entry> {
  readonly localAddress: Uint8Array;
  readonly remoteAddress: Uint8Array;
  readonly localPort: number;
  readonly remotePort: number;
  nextInTable: Entry | null;
}

export class Table<Entry extends TableEntry<Entry>> {
  private readonly map = new Map<number, Entry>();
  private readonly seed: number;
  size = 0;

  constructor(seed: number) {
    this.seed = seed | 1;
  }

  find(localAddress: Uint8Array, localPort: number, remoteAddress: Uint8Array, remotePort: number): Entry | null {
    let entry = this.map.get(this.hash(localAddress, localPort, remoteAddress, remotePort)) ?? null;
    while (entry !== null) {
      const isIt =
        entry.localPort === localPort && entry.remotePort === remotePort &&
        equal(entry.remoteAddress, remoteAddress) && equal(entry.localAddress, localAddress);
      if (isIt) return entry;
      entry = entry.nextInTable;
    }
    return null;
  }

  add(entry: Entry): void {
    const hash = this.hashOf(entry);
    entry.nextInTable = this.map.get(hash) ?? null;
    this.map.set(hash, entry);
    this.size++;
  }

  remove(entry: Entry): void {
    const hash = this.hashOf(entry);
    let before: Entry | null = null;
    let at = this.map.get(hash) ?? null;
    while (at !== null && at !== entry) {
      before = at;
      at = at.nextInTable;
    }
    if (at === null) return;
    if (before !== null) before.nextInTable = entry.nextInTable;
    else if (entry.nextInTable !== null) this.map.set(hash, entry.nextInTable);
    else this.map.delete(hash);
    entry.nextInTable = null;
    this.size--;
  }

  *[Symbol.iterator](): Generator<Entry> {
    for (const first of this.map.values()) {
      for (let entry: Entry | null = first; entry !== null; ) {
        const next: Entry | null = entry.nextInTable;
        yield entry;
        entry = next;
      }
    }
  }

  private hashOf(entry: Entry): number {
    return this.hash(entry.localAddress, entry.localPort, entry.remoteAddress, entry.remotePort);
  }

  /** Multiply and mix, from a random seed: even enough, and not to be aimed at without knowing the seed. */
  private hash(localAddress: Uint8Array, localPort: number, remoteAddress: Uint8Array, remotePort: number): number {
    let h = mix(this.seed, (localPort << 16) | remotePort);
    for (let i = 0; i < remoteAddress.length; i += 4) h = mix(h, word(remoteAddress, i));
    for (let i = 0; i < localAddress.length; i += 4) h = mix(h, word(localAddress, i));
    h ^= h >>> 16;
    return h;
  }
}

function mix(h: number, value: number): number {
  h = Math.imul(h ^ value, 0x9e3779b1);
  return (h ^ (h >>> 15)) | 0;
}

function word(bytes: Uint8Array, at: number): number {
  return bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24);
}

export function equal(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
