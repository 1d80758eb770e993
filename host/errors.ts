// Errors that carry a code. The caller's own mistakes (a malformed key, a prefix that is none) are RangeErrors; what
// the system or another program refuses is a WasmguardError with `code`, and `errno` and `syscall` where there are some.
// No message ever holds a key: quote() shows short plain values only, and is never given a secret one.

/** Linux numbers of the errors that this host makes itself; codes of the running system go through its own table. */
export const ERRNO = { EIO: 5, EEXIST: 17, EINVAL: 22, EPROTO: 71, EMSGSIZE: 90, EADDRINUSE: 98 } as const;

export interface ErrorDetails {
  /** positive, as in errno.h */
  errno?: number;
  syscall?: string;
  cause?: unknown;
}

export class WasmguardError extends Error {
  /** "EADDRINUSE", "ERR_ALREADY_RUNNING", ...: for programs; the message is for people */
  readonly code: string;
  readonly errno: number | undefined;
  readonly syscall: string | undefined;

  constructor(code: string, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = "WasmguardError";
    this.code = code;
    this.errno = details.errno;
    this.syscall = details.syscall;
  }
}

/** Longest value that a message repeats: shorter than any key, so that a key in the wrong place is not shown. */
const QUOTE_MAX_LEN = 32;

/** A value for an error message: quoted when short and plain, else only its length. */
export function quote(value: string): string {
  return value.length <= QUOTE_MAX_LEN && /^[\x20-\x7e]*$/.test(value) ? `"${value}"` : `(${value.length} characters)`;
}
