// Ephemeral ports, RFC 6056 §3.3.1: a random one, and upwards from there until one is free for that remote socket.

import type { FillRandom } from "../types.ts";
import { EPHEMERAL_COUNT, EPHEMERAL_FIRST } from "./constants.ts";

/** @returns a port for which `isFree`, or 0 */
export function pickPort(random: FillRandom, isFree: (port: number) => boolean): number {
  const bytes = new Uint8Array(2);
  random(bytes);
  const first = ((bytes[0] << 8) | bytes[1]) % EPHEMERAL_COUNT;
  for (let i = 0; i < EPHEMERAL_COUNT; i++) {
    const port = EPHEMERAL_FIRST + ((first + i) % EPHEMERAL_COUNT);
    if (isFree(port)) return port;
  }
  return 0;
}
