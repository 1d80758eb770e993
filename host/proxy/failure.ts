// Why a connection could not be made, in one word: from the error's code to the SOCKS5 reply (RFC 1928 §6), the HTTP
// status (RFC 9110 §15.6) and the words for people. One table, so that all doors tell the same story. Pure.

export type FailureReason =
  | "refused"
  | "host-unreachable"
  | "network-unreachable"
  | "timeout"
  | "no-such-name"
  | "no-name-server"
  | "not-allowed"
  | "reset"
  | "aborted"
  | "limit"
  | "stalled"
  | "login"
  | "protocol"
  | "unsupported"
  | "other";

export interface Failure {
  reason: FailureReason;
  /** RFC 1928 §6 */
  socksReply: number;
  httpStatus: number;
  /** "connection refused" */
  words: string;
}

const failure = (reason: FailureReason, socksReply: number, httpStatus: number, words: string): Failure => ({
  reason,
  socksReply,
  httpStatus,
  words,
});

const OTHER = failure("other", 1, 502, "general failure");
const TIMEOUT = failure("timeout", 6, 504, "no answer in time");
const NOT_ALLOWED = failure("not-allowed", 2, 403, "not allowed");
const NETWORK = failure("network-unreachable", 3, 502, "network unreachable");
const RESET = failure("reset", 1, 502, "connection reset");
const ABORTED = failure("aborted", 1, 502, "given up");
const NO_SERVER = failure("no-name-server", 4, 504, "no name server answers");

const BY_CODE = new Map<string, Failure>([
  ["ECONNREFUSED", failure("refused", 5, 502, "connection refused")],
  ["EHOSTUNREACH", failure("host-unreachable", 4, 502, "host unreachable")],
  ["EHOSTDOWN", failure("host-unreachable", 4, 502, "host unreachable")],
  ["ENETUNREACH", NETWORK],
  ["ENETDOWN", NETWORK],
  ["EADDRNOTAVAIL", NETWORK], // no address of that family on our side
  ["EAFNOSUPPORT", NETWORK],
  ["ERR_TUNNEL_CLOSED", NETWORK], // it is being replaced
  ["ETIMEDOUT", TIMEOUT],
  ["ENOTFOUND", failure("no-such-name", 4, 502, "no such name")],
  ["ENODATA", failure("no-such-name", 4, 502, "no such name")],
  ["EAI_AGAIN", NO_SERVER],
  ["ESERVFAIL", NO_SERVER],
  ["EACCES", NOT_ALLOWED],
  ["EPERM", NOT_ALLOWED],
  ["ECONNRESET", RESET],
  ["EPIPE", RESET],
  ["ABORT_ERR", ABORTED],
  ["EMFILE", failure("limit", 1, 503, "too many connections")],
  ["ENOBUFS", failure("limit", 1, 503, "too many connections")],
]);

/** What an error means for a client. */
export function classify(error: unknown): Failure {
  const { code, name } = (error ?? {}) as { code?: unknown; name?: unknown };
  if (name === "TimeoutError") return TIMEOUT;
  if (name === "AbortError") return ABORTED;
  return BY_CODE.get(String(code)) ?? OTHER;
}
