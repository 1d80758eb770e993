// What a trace says of a message, and the units of its times.

/** ns */
export const MS = 1_000_000;
export const SECOND = 1_000_000_000;

const DATA = 4;
const KEEPALIVE_LEN = 32;
const TYPE_NAMES = ["?", "initiation", "response", "cookie", "data"];

/** "initiation", "response", "cookie", "data", "keepalive", or "?" */
export function describe(message: Uint8Array): string {
  const type = message.length >= 4 && message[1] + message[2] + message[3] === 0 ? message[0] : 0;
  if (type === DATA && message.length === KEEPALIVE_LEN) return "keepalive";
  return TYPE_NAMES[type] ?? "?";
}
