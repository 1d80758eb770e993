// The numbers of TCP: those of the RFCs first, then our own choices. Bytes and ms unless the name says otherwise.
//
// What one connection may hold: SEND_BUFFER_MAX + RECEIVE_BUFFER_MAX of payload, where small segments out of order may
// cost up to twice their bytes. What all may hold: the first INITIAL_BUFFER both ways for each, and all growth beyond
// that from one BUFFER_BUDGET. Half-open connections, those in TIME_WAIT and open ones have counts of their own.

// --- The specifications ---

/** RFC 9293 §3.1 */
export const HEADER_LEN = 20;
export const HEADER_MAX_LEN = 60;
export const FIN = 0x01;
export const SYN = 0x02;
export const RST = 0x04;
export const PSH = 0x08;
export const ACK = 0x10;
export const URG = 0x20;

/** RFC 9293 §3.7.1: what to send when the peer named no MSS */
export const DEFAULT_MSS_IPV4 = 536;
export const DEFAULT_MSS_IPV6 = 1220;
export const IPV4_HEADER_LEN = 20;
export const IPV6_HEADER_LEN = 40;

/** RFC 7323 §2.3 */
export const WINDOW_SCALE_MAX = 14;
/** RFC 7323 §3.2, with the two bytes that align it */
export const TIMESTAMPS_LEN = 12;
/** RFC 7323 §5.5: TS.Recent is not trusted after 24 days */
export const TIMESTAMP_VALID_MS = 24 * 24 * 3_600_000;

/** RFC 6298 §2.1 */
export const RTO_INITIAL_MS = 1000;
/** RFC 6298 §5.7 */
export const RTO_AFTER_SYN_LOSS_MS = 3000;
/** RFC 6298 §2.5 */
export const RTO_MAX_MS = 60_000;

/** RFC 6928 */
export const INITIAL_WINDOW_SEGMENTS = 10;
export const INITIAL_WINDOW_MAX = 14_600;

/** RFC 5681, RFC 8985: out-of-order evidence that needs no waiting for reordering */
export const DUPLICATE_THRESHOLD = 3;

/** RFC 9293 §3.4.2, as most systems have it */
export const MSL_MS = 30_000;
export const TIME_WAIT_MS = 2 * MSL_MS;
/** RFC 9293 §3.9.1: the default user timeout; §3.8.3 wants at least 100 s */
export const USER_TIMEOUT_MS = 300_000;
/** RFC 9293 §3.8.3: at least 3 minutes for a SYN */
export const SYN_TIMEOUT_MS = 180_000;
/** RFC 5961 §7: at most so many challenge ACKs in so long */
export const CHALLENGE_COUNT = 10;
export const CHALLENGE_PERIOD_MS = 5000;

/** RFC 6056 §3.2: what is free of services on common systems */
export const EPHEMERAL_FIRST = 32_768;
export const EPHEMERAL_COUNT = 32_768;

// --- Our choices ---

/**
 * RFC 6298's clock granularity G: RTO = SRTT + max(G, 4 RTTVAR). Larger than our clock's, because a peer may hold an
 * acknowledgment that long.
 */
export const RTO_GRANULARITY_MS = 200;
/** Longest that a peer holds an ACK, for the probe of a single segment (RFC 8985 §7.2) */
export const PEER_ACK_DELAY_MS = 200;
/** Added to two round trips before a tail loss probe: what timers and processes add */
export const PROBE_SLACK_MS = 2;
/** RFC 9293 §3.8.6.3 wants < 500 */
export const ACK_DELAY_MS = 40;
/**
 * What only lengthens the last run ahead of a gap is reported together: for a part of the least round trip, at most so
 * long, and so many segments; but the first at once, more than the three of RFC 5681 §3.2, because in a small window
 * each ACK counts: the one that says all may be lost. In a shorter round trip nothing is held: the hosts' timers count
 * in whole ms.
 */
export const REPORT_AT_ONCE_COUNT = 10;
export const REPORT_DELAY_PART = 1 / 20;
export const REPORT_DELAY_MAX_MS = 1;
export const REPORT_MAX_COUNT = 44;
export const REPORT_RTT_MIN_MS = 4;
/** Segments acknowledged at once when a connection begins: slow start lives of ACKs */
export const QUICK_ACK_COUNT = 16;
/** RFC 9293 §3.8.6.1: between two probes of a zero window */
export const PERSIST_MAX_MS = 60_000;
/** RFC 9293 §3.8.6.2.1: 0.1 to 1 s */
export const SILLY_OVERRIDE_MS = 200;
export const KEEPALIVE_INTERVAL_MS = 75_000;
export const KEEPALIVE_PROBE_COUNT = 9;
/** FIN_WAIT_2 of a connection that nobody reads any more */
export const FIN_WAIT_MS = 60_000;
/** SYN-ACKs sent again before a half-open connection is given up */
export const SYN_ACK_RETRY_COUNT = 5;

export const INITIAL_BUFFER = 65_536;
export const SEND_BUFFER_MAX = 4 << 20;
export const RECEIVE_BUFFER_MAX = 6 << 20;
/** of all connections together, beyond INITIAL_BUFFER each way */
export const BUFFER_BUDGET = 256 << 20;
/** 65535 << 7 is more than RECEIVE_BUFFER_MAX and what rounding adds */
export const WINDOW_SCALE = 7;
/** By how much rounding up to the scale may exceed the buffer: see receiver.ts */
export const WINDOW_ROUNDING_MAX = 65_536;

/** Gaps in what was received: more, and the segment is dropped */
export const ISLAND_MAX_COUNT = 1024;
/** Segments shorter than the MSS in flight at once, though Nagle is off */
export const SMALL_IN_FLIGHT_MAX = 256;
export const CONNECTION_MAX_COUNT = 65_536;
export const TIME_WAIT_MAX_COUNT = 32_768;
export const BACKLOG_DEFAULT = 128;
/** Segments that wait because one was sent from within another's processing */
export const DEFERRED_MAX_COUNT = 1024;

/** Sizes to try when a path swallows full segments without a word; RFC 4821 §7.2 and the default MSS */
export const BLACK_HOLE_MSS = [1200, 1024, DEFAULT_MSS_IPV4] as const;
/** Time-outs in a row that make a path look like one */
export const BLACK_HOLE_TIMEOUTS = 3;
/** RFC 9293 §3.7.1: we send nothing smaller, whatever a peer or a router says */
export const MSS_MIN = 88;
