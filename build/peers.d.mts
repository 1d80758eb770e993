/** The other implementation that tests and benchmarks compare with. */
export interface Peer {
  path: string;
  /** with its origin, for reports */
  version: string;
}

export function findWireguardGo(): Peer | null;
/** @throws {Error} what apt said, when there is no way to get one */
export function fetchWireguardGo(): Peer;
