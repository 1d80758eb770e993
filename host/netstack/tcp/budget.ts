// Memory that all connections of a layer share, beyond what each has for itself: buffers grow only out of this.

export class Budget {
  private readonly limit: number;
  used = 0;

  /** @param limit  bytes */
  constructor(limit: number) {
    this.limit = limit;
  }

  /** @returns whether there were so many bytes */
  take(bytes: number): boolean {
    if (this.used + bytes > this.limit) return false;
    this.used += bytes;
    return true;
  }

  give(bytes: number): void {
    this.used -= bytes;
  }
}
