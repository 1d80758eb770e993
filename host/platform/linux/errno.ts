// Errors of system calls: the name, the number, the call, and words a person can use.
// Names come from node:os, so they are those of the running system (and Deno has them too); the words are our own,
// because libc's strerror answers in the user's locale and through a pointer.

import os from "node:os";
import { WasmguardError } from "../../errors.ts";

const WORDS: Record<string, string> = {
  EPERM: "operation not permitted",
  ENOENT: "no such file or directory",
  EINTR: "interrupted",
  EIO: "input/output error",
  EBADF: "bad file descriptor",
  EBADFD: "file descriptor in bad state",
  EAGAIN: "temporarily unavailable",
  ENOMEM: "out of memory",
  EACCES: "permission denied",
  EFAULT: "bad address",
  EBUSY: "device or resource busy",
  EEXIST: "already exists",
  ENODEV: "no such device",
  EINVAL: "invalid argument",
  EMFILE: "too many open files in this process",
  ENFILE: "too many open files in the system",
  ENOSYS: "not implemented by this kernel",
  ENOTSOCK: "not a socket",
  EMSGSIZE: "message too long",
  ENOPROTOOPT: "option not available",
  EPROTONOSUPPORT: "protocol not supported",
  EOPNOTSUPP: "operation not supported",
  EAFNOSUPPORT: "address family not supported",
  EADDRINUSE: "address already in use",
  EADDRNOTAVAIL: "address not available",
  ENETDOWN: "network is down",
  ENETUNREACH: "network is unreachable",
  ENOBUFS: "no buffer space",
  ENOTCONN: "not connected",
  ECONNREFUSED: "connection refused",
  EHOSTUNREACH: "no route to host",
};

const codes = new Map<number, string>();
for (const [code, number] of Object.entries(os.constants.errno)) {
  if (!codes.has(number)) codes.set(number, code);
}
// Linux numbers that node:os leaves out; EAGAIN has an alias that may come first.
if (os.platform() === "linux") {
  codes.set(11, "EAGAIN");
  codes.set(77, "EBADFD");
}

/** "EADDRINUSE" for 98; "E98" for a number without a name. */
export function errnoCode(errno: number): string {
  return codes.get(errno) ?? `E${errno}`;
}

/** A system call that failed: `code`, `syscall` and `errno`, as Node's own errors have them. */
export class SystemError extends WasmguardError {
  /**
   * @param errno    positive
   * @param syscall  "bind", "ioctl"
   * @param what     the attempt: "bind UDP port 51820"
   * @param advice   what the user can do about it, if anything
   */
  constructor(errno: number, syscall: string, what: string, advice = "") {
    const code = errnoCode(errno);
    super(code, `${what}: ${WORDS[code] ?? "system error"} (${code})${advice && `; ${advice}`}`, { errno, syscall });
    this.name = "SystemError";
  }
}

/** Linux numbers of the errors that this host acts on; the same on every architecture it runs on. */
export const EPERM = 1;
export const ENOENT = 2;
export const EINTR = 4;
export const EIO = 5;
export const ENXIO = 6;
export const EBADF = 9;
export const EAGAIN = 11;
export const ENOMEM = 12;
export const EACCES = 13;
export const EFAULT = 14;
export const EBUSY = 16;
export const ENODEV = 19;
export const EINVAL = 22;
export const ENOSYS = 38;
export const EBADFD = 77;
export const ENOTSOCK = 88;
export const EMSGSIZE = 90;
export const EOPNOTSUPP = 95;
export const EAFNOSUPPORT = 97;
export const EADDRNOTAVAIL = 99;
export const ENETDOWN = 100;
export const ENETUNREACH = 101;
export const ENOBUFS = 105;
export const ENOTCONN = 107;
export const ECONNREFUSED = 111;
export const EHOSTUNREACH = 113;
