// What the paper (WireGuard whitepaper, rev. 2020) and the kernel's messages.h say, written down once more: the suites
// hold the core to these numbers, not to the ones in its own protocol.ts.

import { MS, SECOND } from "../../host/simulator/message.ts";

export { MS, SECOND };

// §5.4: types and lengths
export const INITIATION = 1;
export const RESPONSE = 2;
export const COOKIE = 3;
export const DATA = 4;
export const INITIATION_BYTES = 148;
export const RESPONSE_BYTES = 92;
export const COOKIE_BYTES = 64;
export const DATA_OVERHEAD = 32;
export const KEEPALIVE_BYTES = 32;

// §6.1, and timers.c
export const REKEY_AFTER_TIME = 120 * SECOND;
export const REJECT_AFTER_TIME = 180 * SECOND;
export const REKEY_TIMEOUT = 5 * SECOND;
export const JITTER_MAX = 333 * MS;
export const KEEPALIVE_TIMEOUT = 10 * SECOND;
export const NEW_HANDSHAKE_TIME = 15 * SECOND;
export const REKEY_ON_RECEIVE_TIME = 165 * SECOND;
export const ZERO_KEYS_TIME = 540 * SECOND;
/** the first, and as long as timer_handshake_attempts <= 18 another */
export const INITIATIONS_IN_ALL = 20;

// cookie.c, queueing.h
export const COOKIE_SECRET_LIFE = 120 * SECOND;
export const COOKIE_USE = 115 * SECOND;
export const UNDER_LOAD_QUEUE = 512;
export const HANDSHAKE_QUEUE = 4096;
export const UNDER_LOAD_STICKY = 1 * SECOND;
export const LIMITER_BURST = 5;
export const LIMITER_GAP = 50 * MS;
export const STAGED_PACKETS = 128;

// noise.c, receive.c
export const INITIATION_GAP = 20 * MS;
export const REPLAY_WINDOW = 8128;
export const REJECT_AFTER_MESSAGES = 2n ** 64n - 1n - 8128n - 1n;
export const REKEY_AFTER_MESSAGES = 2n ** 60n;

/** The span that 32 random bits stand for in a timer's jitter, ns. */
export const jitterOf = (random: number): number => Number((BigInt(random) * BigInt(JITTER_MAX)) >> 32n);

// Fields of the messages, as [first byte, byte after the last].
export const FIELDS = {
  initiation: {
    type: [0, 4], sender: [4, 8], ephemeral: [8, 40], static: [40, 88], timestamp: [88, 116], mac1: [116, 132],
    mac2: [132, 148],
  },
  response: {
    type: [0, 4], sender: [4, 8], receiver: [8, 12], ephemeral: [12, 44], nothing: [44, 60], mac1: [60, 76],
    mac2: [76, 92],
  },
  cookie: { type: [0, 4], receiver: [4, 8], nonce: [8, 32], cookie: [32, 64] },
} as const;
