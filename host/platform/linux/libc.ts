// The C library behind one typed object, on Node through koffi and on Deno through Deno.dlopen.
//
// Every pointer is an absolute address as a plain number: user space ends below 2^53 on every Linux, and adding an
// offset to a number costs nothing, to a bigint an allocation. Deno's fast calls take bigints alone, so its addresses
// are converted at the last moment. Results are the low 32 bits, which hold every result of these calls.
// koffi is loaded at the first openLibc(), so that all of this can be imported where there is no koffi. An asynchronous
// call for all was rejected: it costs 18-25 us, against 0.2 us blocked in a thread of its own; only poll has one.
// open, ioctl and fcntl are variadic in C; Linux's calling conventions (not Apple's) pass their arguments all the same.

import { createRequire } from "node:module";
import os from "node:os";
import { WasmguardError } from "../../errors.ts";
import { SystemError } from "./errno.ts";
import { NativeMemory } from "./native.ts";

/** Result and parameters of each function: i i32, u u32, z size_t or pointer, l i64. */
const SIGNATURES = {
  open: "izi",
  close: "ii",
  ioctl: "iizz",
  fcntl: "iiii",
  dup2: "iii",
  read: "iizz",
  write: "iizz",
  readv: "iizi",
  writev: "iizi",
  poll: "izzi",
  eventfd: "iui",
  socket: "iiii",
  bind: "iizu",
  connect: "iizu",
  getsockname: "iizz",
  setsockopt: "iiiizu",
  getsockopt: "iiiizz",
  shutdown: "iii",
  sendto: "iizzizu",
  recv: "iizzi",
  sendmsg: "iizi",
  recvmsg: "iizi",
  sendmmsg: "iizui",
  recvmmsg: "iizuiz",
  clock_gettime: "iiz",
  if_nametoindex: "uz",
  if_indextoname: "zuz",
  sched_setscheduler: "iiiz",
  setns: "iii",
  setsid: "i",
  umask: "uu",
  getuid: "u",
  _exit: "ii",
} as const;

/** Not in every C library; see preadv2 below. */
const PREADV2 = "iizili";
const SYSCALL = "illlllll"; // number and six arguments
const PREADV2_NUMBER: Record<string, number> = { x64: 327, arm64: 286, riscv64: 286, loong64: 286 };

type Native = (...args: (number | bigint)[]) => number;
type Functions = Record<keyof typeof SIGNATURES | "preadv2", Native>;

/** Addresses are absolute; a negative result means: see errno(), before any other call. */
export interface Libc {
  readonly runtime: "koffi" | "deno";
  /** 4 KiB for the arguments of one call: filled, used and forgotten without a call of anything else between. */
  readonly scratch: NativeMemory;
  /** Where a view's bytes lie. They do not move, but live only as long as something holds the view. */
  address(view: ArrayBufferView): number;
  /** The reason of this thread's last failed call. */
  errno(): number;
  /** Throws SystemError for `what` when `result` is negative, else returns it. */
  check(result: number, syscall: string, what: string, advice?: string): number;

  open(path: string, flags: number): number;
  close(fd: number): number;
  ioctl(fd: number, request: number, argument: number): number;
  fcntl(fd: number, command: number, argument: number): number;
  dup2(from: number, to: number): number;
  read(fd: number, dst: number, length: number): number;
  write(fd: number, src: number, length: number): number;
  readv(fd: number, iov: number, count: number): number;
  writev(fd: number, iov: number, count: number): number;
  /** preadv2 at the current position (offset -1). */
  preadv2(fd: number, iov: number, count: number, flags: number): number;
  poll(fds: number, count: number, timeoutMs: number): number;
  /**
   * poll() in a thread of the runtime's pool. It keeps the process alive, and while it waits Node cannot exit:
   * something must always be able to end it. Its errno is lost.
   */
  pollAsync(fds: number, count: number, timeoutMs: number): Promise<number>;
  eventfd(initial: number, flags: number): number;
  socket(family: number, type: number, protocol: number): number;
  bind(fd: number, name: number, length: number): number;
  connect(fd: number, name: number, length: number): number;
  getsockname(fd: number, name: number, length: number): number;
  setsockopt(fd: number, level: number, option: number, value: number, length: number): number;
  getsockopt(fd: number, level: number, option: number, value: number, length: number): number;
  shutdown(fd: number, how: number): number;
  sendto(fd: number, src: number, length: number, flags: number, name: number, nameLength: number): number;
  recv(fd: number, dst: number, length: number, flags: number): number;
  sendmsg(fd: number, message: number, flags: number): number;
  recvmsg(fd: number, message: number, flags: number): number;
  sendmmsg(fd: number, messages: number, count: number, flags: number): number;
  /** Without a time-out: the kernel looks at it only after a datagram. */
  recvmmsg(fd: number, messages: number, count: number, flags: number): number;
  clockGettime(clock: number, dst: number): number;
  /** 0 when there is no such interface */
  ifNametoindex(name: string): number;
  /** "" when there is no such interface */
  ifIndextoname(ifindex: number): string;
  /** `parameter`: address of a struct sched_param; pid 0 is the calling thread. */
  schedSetscheduler(pid: number, policy: number, parameter: number): number;
  /** Moves the calling thread into a namespace. */
  setns(fd: number, type: number): number;
  setsid(): number;
  umask(mask: number): number;
  getuid(): number;
  /** Ends the process at once, whatever its threads are blocked in; no exit handler runs. */
  exitNow(status: number): never;
}

/** What a runtime's FFI gives. */
interface Backend {
  runtime: "koffi" | "deno";
  functions: Functions;
  pollAsync(fds: number, count: number, timeoutMs: number): Promise<number>;
  address(view: ArrayBufferView): number;
  errno(): number;
  /** A size or an address as this backend passes it fastest. */
  size(value: number): number | bigint;
}

const SCRATCH_SIZE = 4096;
let opened: Libc | undefined;

/**
 * The C library, opened once a thread.
 * @throws WasmguardError ERR_NOT_LINUX, ERR_NO_KOFFI (not installed), ERR_NO_LIBC
 */
export function openLibc(): Libc {
  return (opened ??= createLibc(openBackend()));
}

function openBackend(): Backend {
  if (os.platform() !== "linux") {
    throw new WasmguardError("ERR_NOT_LINUX", `this part is for Linux, and this is ${os.platform()}; use the portable host`);
  }
  if (os.endianness() !== "LE") throw new WasmguardError("ERR_NOT_LINUX", "this part is for little-endian machines");
  return (globalThis as { Deno?: DenoFfi }).Deno ? openDeno() : openKoffi();
}

/** glibc's name, then musl's, which carries the architecture's. */
function libraryNames(): string[] {
  const architecture = { x64: "x86_64", arm64: "aarch64", ia32: "i386" }[os.arch() as string] ?? os.arch();
  return ["libc.so.6", `libc.musl-${architecture}.so.1`];
}

function openFirst<T>(open: (name: string) => T): T {
  const reasons: string[] = [];
  for (const name of libraryNames()) {
    try {
      return open(name);
    } catch (error) {
      reasons.push(error instanceof Error ? error.message : String(error));
    }
  }
  throw new WasmguardError("ERR_NO_LIBC", `cannot open the C library: ${reasons.join("; ")}`);
}

// --- Node: koffi ---------------------------------------------------------------------------------------------------

interface KoffiFunction extends Native {
  async(...args: unknown[]): void;
}

interface Koffi {
  load(name: string): { func(name: string, result: string, parameters: string[]): KoffiFunction };
  address(view: ArrayBufferView): bigint;
  errno(): number;
}

function openKoffi(): Backend {
  let koffi: Koffi;
  try {
    koffi = createRequire(import.meta.url)("koffi") as Koffi;
  } catch (cause) {
    const message = "koffi is not installed: npm install koffi, or use the portable host";
    throw new WasmguardError("ERR_NO_KOFFI", message, { cause });
  }
  const types: Record<string, string> = { i: "int32", u: "uint32", z: "uintptr_t", l: "int64" };
  const library = openFirst((name) => koffi.load(name));
  const func = (name: string, [result, ...parameters]: string) =>
    library.func(name, types[result], parameters.map((letter) => types[letter]));
  const functions = Object.fromEntries(
    Object.entries(SIGNATURES).map(([name, signature]) => [name, func(name, signature)]),
  ) as unknown as Functions;
  let preadv2: Native | undefined;
  try {
    preadv2 = func("preadv2", PREADV2);
  } catch {
    // musl before 1.2.5
  }
  functions.preadv2 = preadv2 ?? preadv2BySyscall(func("syscall", SYSCALL));
  const { poll } = functions as Functions & { poll: KoffiFunction };
  return {
    runtime: "koffi",
    functions,
    pollAsync: (fds, count, timeoutMs) =>
      new Promise((resolve, reject) => {
        poll.async(fds, count, timeoutMs, (error: Error | null, result: number) =>
          error ? reject(error) : resolve(result),
        );
      }),
    address: (view) => Number(koffi.address(view)),
    errno: () => koffi.errno(),
    size: (value) => value,
  };
}

// --- Deno: dlopen --------------------------------------------------------------------------------------------------

interface DenoSymbol {
  name?: string;
  parameters: string[];
  result: string;
  nonblocking?: boolean;
  optional?: boolean;
}

interface DenoFfi {
  dlopen(name: string, symbols: Record<string, DenoSymbol>): { symbols: Record<string, unknown> };
  UnsafePointer: { of(view: ArrayBufferView): unknown; value(pointer: unknown): number | bigint };
  UnsafePointerView: new (pointer: unknown) => { getInt32(): number };
}

function openDeno(): Backend {
  const { Deno } = globalThis as unknown as { Deno: DenoFfi };
  const types: Record<string, string> = { i: "i32", u: "u32", z: "usize", l: "i64" };
  const symbol = ([result, ...parameters]: string): DenoSymbol => ({
    parameters: parameters.map((letter) => types[letter]),
    result: types[result],
  });
  const definitions: Record<string, DenoSymbol> = {
    preadv2: { ...symbol(PREADV2), optional: true },
    syscall: symbol(SYSCALL),
    pollAsync: { ...symbol(SIGNATURES.poll), name: "poll", nonblocking: true },
    __errno_location: { parameters: [], result: "pointer" },
  };
  for (const [name, signature] of Object.entries(SIGNATURES)) definitions[name] = symbol(signature);
  const { symbols } = openFirst((name) => Deno.dlopen(name, definitions));
  const functions = symbols as Functions & { pollAsync: Native; syscall: Native; __errno_location(): unknown };
  const preadv2 = functions.preadv2 ?? preadv2BySyscall(functions.syscall);
  const pollAsync = functions.pollAsync as unknown as (...args: unknown[]) => Promise<number>;
  // errno has a place of its own in each thread, and a worker of Deno stays on its thread.
  const errno = new Deno.UnsafePointerView(functions.__errno_location());
  return {
    runtime: "deno",
    functions: { ...functions, preadv2 },
    pollAsync: (fds, count, timeoutMs) => pollAsync(BigInt(fds), BigInt(count), timeoutMs),
    address: (view) => Number(Deno.UnsafePointer.value(Deno.UnsafePointer.of(view))),
    errno: () => errno.getInt32(),
    size: BigInt,
  };
}

// --- both ----------------------------------------------------------------------------------------------------------

const CURRENT_POSITION = -1n;

/** preadv2 for a C library without it: syscall(number, fd, iov, count, position low, position high, flags). */
function preadv2BySyscall(syscall: Native): Native {
  const number = PREADV2_NUMBER[os.arch()];
  if (number === undefined) throw new WasmguardError("ERR_NO_LIBC", `no preadv2 in the C library of ${os.arch()}`);
  return (fd, iov, count, position, flags) => syscall(number, fd, iov, count, position, 0, flags);
}

function createLibc(backend: Backend): Libc {
  const { functions: f, size } = backend;
  const address = (view: ArrayBufferView): number => {
    void view.buffer; // a small view's bytes lie on the moving heap until its buffer is asked for
    const place = backend.address(view);
    if (!Number.isSafeInteger(place)) throw new RangeError("an address is above 2^53");
    return place;
  };
  const scratch = new NativeMemory(address, SCRATCH_SIZE);
  const text = (value: string) => size(scratch.putText(0, value));
  return {
    runtime: backend.runtime,
    scratch,
    address,
    errno: backend.errno,
    check(result, syscall, what, advice) {
      if (result < 0) throw new SystemError(backend.errno(), syscall, what, advice);
      return result;
    },
    open: (path, flags) => f.open(text(path), flags),
    close: (fd) => f.close(fd),
    ioctl: (fd, request, argument) => f.ioctl(fd, size(request), size(argument)),
    fcntl: (fd, command, argument) => f.fcntl(fd, command, argument),
    dup2: (from, to) => f.dup2(from, to),
    read: (fd, dst, length) => f.read(fd, size(dst), size(length)),
    write: (fd, src, length) => f.write(fd, size(src), size(length)),
    readv: (fd, iov, count) => f.readv(fd, size(iov), count),
    writev: (fd, iov, count) => f.writev(fd, size(iov), count),
    preadv2: (fd, iov, count, flags) => f.preadv2(fd, size(iov), count, CURRENT_POSITION, flags),
    poll: (fds, count, timeoutMs) => f.poll(size(fds), size(count), timeoutMs),
    pollAsync: backend.pollAsync,
    eventfd: (initial, flags) => f.eventfd(initial, flags),
    socket: (family, type, protocol) => f.socket(family, type, protocol),
    bind: (fd, name, length) => f.bind(fd, size(name), length),
    connect: (fd, name, length) => f.connect(fd, size(name), length),
    getsockname: (fd, name, length) => f.getsockname(fd, size(name), size(length)),
    setsockopt: (fd, level, option, value, length) => f.setsockopt(fd, level, option, size(value), length),
    getsockopt: (fd, level, option, value, length) => f.getsockopt(fd, level, option, size(value), size(length)),
    shutdown: (fd, how) => f.shutdown(fd, how),
    sendto: (fd, src, length, flags, name, nameLength) =>
      f.sendto(fd, size(src), size(length), flags, size(name), nameLength),
    recv: (fd, dst, length, flags) => f.recv(fd, size(dst), size(length), flags),
    sendmsg: (fd, message, flags) => f.sendmsg(fd, size(message), flags),
    recvmsg: (fd, message, flags) => f.recvmsg(fd, size(message), flags),
    sendmmsg: (fd, messages, count, flags) => f.sendmmsg(fd, size(messages), count, flags),
    recvmmsg: (fd, messages, count, flags) => f.recvmmsg(fd, size(messages), count, flags, size(0)),
    clockGettime: (clock, dst) => f.clock_gettime(clock, size(dst)),
    ifNametoindex: (name) => f.if_nametoindex(text(name)),
    ifIndextoname: (ifindex) => {
      scratch.bytes.fill(0, 0, IF_NAMESIZE);
      f.if_indextoname(ifindex, size(scratch.address));
      return scratch.text(0, IF_NAMESIZE);
    },
    schedSetscheduler: (pid, policy, parameter) => f.sched_setscheduler(pid, policy, size(parameter)),
    setns: (fd, type) => f.setns(fd, type),
    setsid: () => f.setsid(),
    umask: (mask) => f.umask(mask),
    getuid: () => f.getuid(),
    exitNow: (status) => f._exit(status) as never,
  };
}

const IF_NAMESIZE = 16;

// --- constants of more than one caller (asm-generic: x86, ARM, RISC-V) ----------------------------------------------

export const O_RDWR = 2;
export const O_NONBLOCK = 0o4000;
export const O_CLOEXEC = 0o2000000;
export const F_GETFL = 3;
export const F_SETFL = 4;
export const AF_UNIX = 1;
export const AF_INET = 2;
export const AF_INET6 = 10;
export const SOCK_DGRAM = 2;
export const SOCK_RAW = 3;
export const SOCK_CLOEXEC = O_CLOEXEC;
export const MSG_DONTWAIT = 0x40;
export const SOL_SOCKET = 1;
export const POLLIN = 1;
