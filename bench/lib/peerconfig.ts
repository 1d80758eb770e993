// Configuration of many peers, as `wg addconf` takes it.

import { randomBytes } from "node:crypto";

/** A section a peer, each with an address of its own in 10.0.0.0/8. */
export function peerSections(publicKeys: Uint8Array[]): string {
  return publicKeys
    .map((key, i) => {
      const address = `10.${64 + ((i >> 16) & 63)}.${(i >> 8) & 255}.${i & 255}`;
      return `[Peer]\nPublicKey = ${Buffer.from(key).toString("base64")}\nAllowedIPs = ${address}/32\n`;
    })
    .join("");
}

/** Public keys that nobody has the private ones of: any 32 bytes are a point. */
export function strangersKeys(count: number): Uint8Array[] {
  return Array.from({ length: count }, () => new Uint8Array(randomBytes(32)));
}
