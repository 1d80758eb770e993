// The protocol's constants: WireGuard whitepaper (NDSS 2017, rev. 2020) §5 and §6, Linux messages.h.
// Specification first, our own choices after it. Both asc and tsc read this file, so it holds only
// `export const NAME = <integer expression>`.

// --- sizes, bytes -----------------------------------------------------------------------------------------
export const KEY_LEN = 32;
export const HASH_LEN = 32;
export const AUTHTAG_LEN = 16;
export const TIMESTAMP_LEN = 12;
export const MAC_LEN = 16;
export const COOKIE_LEN = 16;
export const COOKIE_NONCE_LEN = 24;
export const PADDING_MULTIPLE = 16;

// --- message types, §5.4 ----------------------------------------------------------------------------------
export const MESSAGE_HANDSHAKE_INITIATION = 1;
export const MESSAGE_HANDSHAKE_RESPONSE = 2;
export const MESSAGE_HANDSHAKE_COOKIE = 3;
export const MESSAGE_DATA = 4;

// --- initiation, §5.4.2: each offset from the one before ----------------------------------------------------
export const INITIATION_SENDER = 4;
export const INITIATION_EPHEMERAL = INITIATION_SENDER + 4;
export const INITIATION_STATIC = INITIATION_EPHEMERAL + KEY_LEN;
export const INITIATION_TIMESTAMP = INITIATION_STATIC + KEY_LEN + AUTHTAG_LEN;
export const INITIATION_MAC1 = INITIATION_TIMESTAMP + TIMESTAMP_LEN + AUTHTAG_LEN;
export const INITIATION_MAC2 = INITIATION_MAC1 + MAC_LEN;
export const INITIATION_LEN = INITIATION_MAC2 + MAC_LEN;

// --- response, §5.4.3 ---------------------------------------------------------------------------------------
export const RESPONSE_SENDER = 4;
export const RESPONSE_RECEIVER = RESPONSE_SENDER + 4;
export const RESPONSE_EPHEMERAL = RESPONSE_RECEIVER + 4;
export const RESPONSE_NOTHING = RESPONSE_EPHEMERAL + KEY_LEN;
export const RESPONSE_MAC1 = RESPONSE_NOTHING + AUTHTAG_LEN;
export const RESPONSE_MAC2 = RESPONSE_MAC1 + MAC_LEN;
export const RESPONSE_LEN = RESPONSE_MAC2 + MAC_LEN;

// --- cookie reply, §5.4.7 -----------------------------------------------------------------------------------
export const COOKIE_REPLY_RECEIVER = 4;
export const COOKIE_REPLY_NONCE = COOKIE_REPLY_RECEIVER + 4;
export const COOKIE_REPLY_COOKIE = COOKIE_REPLY_NONCE + COOKIE_NONCE_LEN;
export const COOKIE_REPLY_LEN = COOKIE_REPLY_COOKIE + COOKIE_LEN + AUTHTAG_LEN;

// --- transport data, §5.4.6 ---------------------------------------------------------------------------------
export const DATA_RECEIVER = 4;
export const DATA_COUNTER = DATA_RECEIVER + 4;
export const DATA_HEADER_LEN = DATA_COUNTER + 8;
export const DATA_KEEPALIVE_LEN = DATA_HEADER_LEN + AUTHTAG_LEN;

// --- time, §6.1 -----------------------------------------------------------------------------------------------
export const REKEY_AFTER_TIME_MS = 120_000;
export const REJECT_AFTER_TIME_MS = 180_000;
export const REKEY_TIMEOUT_MS = 5_000;
export const REKEY_TIMEOUT_JITTER_MAX_MS = 333;
export const REKEY_ATTEMPT_TIME_MS = 90_000;
export const KEEPALIVE_TIMEOUT_MS = 10_000;
export const NEW_HANDSHAKE_TIMEOUT_MS = KEEPALIVE_TIMEOUT_MS + REKEY_TIMEOUT_MS;
export const REKEY_AFTER_TIME_RECEIVING_MS = REJECT_AFTER_TIME_MS - KEEPALIVE_TIMEOUT_MS - REKEY_TIMEOUT_MS;
export const ZERO_KEY_MATERIAL_MS = REJECT_AFTER_TIME_MS * 3;
export const COOKIE_SECRET_MAX_AGE_MS = 120_000;
export const COOKIE_SECRET_LATENCY_MS = 5_000;
export const INITIATIONS_PER_SECOND = 50;
export const MAX_TIMER_HANDSHAKES = REKEY_ATTEMPT_TIME_MS / REKEY_TIMEOUT_MS; // 18

// --- counters, §6.1 and RFC 6479 --------------------------------------------------------------------------------
export const COUNTER_BITS_TOTAL = 8192;
export const COUNTER_WINDOW_SIZE = COUNTER_BITS_TOTAL - 64;
/** log2 of REKEY_AFTER_MESSAGES. */
export const REKEY_AFTER_MESSAGES_LOG2 = 60;
/** REJECT_AFTER_MESSAGES = 2^64 - 1 - this. */
export const REJECT_AFTER_MESSAGES_MARGIN = COUNTER_WINDOW_SIZE + 1;

// --- queues and load (the kernel's choices) ---------------------------------------------------------------------
export const MAX_STAGED_PACKETS = 128;
export const MAX_QUEUED_HANDSHAKES = 4096;
export const UNDER_LOAD_HANDSHAKES = MAX_QUEUED_HANDSHAKES / 8;
export const UNDER_LOAD_STICKY_MS = 1_000;
export const LIMITER_PACKETS_PER_SECOND = 20;
export const LIMITER_PACKETS_BURSTABLE = 5;
export const MAX_PEERS = 1 << 20;

// --- traffic class of handshake packets: AF41, RFC 2597, shifted into the TOS byte ---------------------------------
export const HANDSHAKE_DSCP = 0x88;

// --- defaults ---------------------------------------------------------------------------------------------------
export const DEFAULT_MTU = 1420;
