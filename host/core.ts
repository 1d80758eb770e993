// The core as the host sees it: compiled once, instantiated once a thread over one memory, exports with types. This is
// the one file that makes or measures a WebAssembly.Memory.
//
// Three builds of one source: relaxed SIMD where the engine has it, plain otherwise: the engine's own answer
// (WebAssembly.validate), never a version number. And wide, for a V8 that pairs its operations: core-choice.ts.

import { instantiateSync } from "@assemblyscript/loader";
import {
  BAD_ARGUMENT, BAD_MEMORY, DEFAULT_MAX_NODES, DEFAULT_MAX_PEERS, EXISTS, FULL, NOT_FOUND, NO_RANDOM, OWN_KEY, PAGE_SIZE,
  SLOTS_SIZE, THREADS_BASE, THREADS_END, THREAD_ARGUMENT, THREAD_DELIVER_COUNT, THREAD_KICK, THREAD_MORE,
  THREAD_OUT_COUNT, THREAD_RANDOM, THREAD_RANDOM_LEFT, THREAD_RANDOM_SIZE, THREAD_SIZE,
} from "../assembly/abi.ts";
import { chooseBuild, type Seal, setPairing } from "./core-choice.ts";
import { WasmguardError } from "./errors.ts";

/** The exports of assembly/index.ts; addresses are byte offsets into the memory. */
export interface CoreExports {
  memoryPages(maxPeers: number, maxNodes: number, threads: number): number;
  threadInit(thread: number): void;
  threadEnded(thread: number): void;
  deviceInit(maxPeers: number, maxNodes: number, threads: number): number;
  deviceUp(): void;
  deviceDown(): void;
  deviceWipe(): void;
  deviceSetMtu(mtu: number): void;
  deviceSetOffload(offload: number): void;
  deviceSetKeyLog(on: number): void;
  deviceSetPrivateKey(key: number): void;
  deviceClearSources(): void;
  deviceSend(packets: number): number;
  deviceReceive(first: number, count: number): number;
  deviceService(): number;
  deviceNextDeadline(): void;
  publicKey(dst: number, key: number): void;
  peerAdd(publicKey: number): number;
  peerRemove(peer: number): number;
  peerFind(publicKey: number): number;
  peerFirst(): number;
  peerNext(peer: number): number;
  peerSetPresharedKey(peer: number, key: number): number;
  peerSetEndpoint(peer: number, endpoint: number): number;
  peerSetPersistentKeepalive(peer: number, seconds: number): number;
  peerHandshake(peer: number): number;
  peerKeepalive(peer: number): number;
  peerInfo(peer: number): number;
  peerClearSource(peer: number): number;
  allowedIpRoom(prefixes: number): number;
  allowedIpAdd(peer: number, record: number): number;
  allowedIpRemove(peer: number, record: number): number;
  allowedIpClear(peer: number): number;
  allowedIpFirst(peer: number): number;
  allowedIpNext(node: number): number;
}

/** "page" is plain over a memory that is not shared: where a page is not cross-origin isolated. */
export type CoreBuild = "plain" | "relaxed" | "wide" | "page";

export interface CoreLimits {
  /** 1 .. 2^20 */
  maxPeers?: number;
  /** nodes of the allowed-IP tries: two a prefix at most */
  maxNodes?: number;
  /** 1 .. 16: the main thread and one a lane */
  threads?: number;
  /** whether other threads may attach; false for the build "page", default true */
  shared?: boolean;
}

// (module (func (result v128) v128.const 0 … i8x16.relaxed_swizzle)): only an engine with relaxed SIMD takes it.
// prettier-ignore
const RELAXED_SIMD_PROBE = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 0, 253, 15, 65, 0, 253, 15, 253,
  128, 2, 11,
]);

/** The fastest build that this engine runs as it is. */
export function pickBuild(): CoreBuild {
  return WebAssembly.validate(RELAXED_SIMD_PROBE) ? "relaxed" : "plain";
}

// Sources under host/ and the bundles in dist/ find the same files.
const dist = new URL(import.meta.url.endsWith(".ts") ? "../dist/" : "./", import.meta.url);

/** Plaintext of a full packet at the usual MTU. */
export const FULL_PACKET_LEN = 1420;

/** The fastest build on this CPU. It sets a flag of V8, so it is for who owns the process; 15 to 25 ms. Never throws. */
export async function fastestBuild(): Promise<CoreBuild> {
  return chooseBuild(pickBuild(), openSeal);
}

/** The sealing of a build alone (assembly/crypto/speed.ts), in a memory of its own: packets of 1420 bytes. */
export async function openSeal(build: CoreBuild): Promise<Seal> {
  const module = await compileFile(`speed-${build}.wasm`);
  const memory = makeMemory(THREADS_END / PAGE_SIZE + 1, build !== "page");
  const { sealTimes } = instantiateSync(module, { env: { memory } }).exports as unknown as {
    sealTimes(dst: number, src: number, srcLen: number, key: number, count: number): void;
  };
  const [key, src, dst] = [THREADS_END, THREADS_END + 0x100, THREADS_END + 0x8000];
  return (count) => sealTimes(dst, src, FULL_PACKET_LEN, key, count);
}

/** The exports of assembly/crypto/primitives.ts, and room for their arguments: addresses from `room` to the memory's end. */
export interface PrimitiveExports {
  aeadSeal(dst: number, src: number, srcLen: number, ad: number, adLen: number, key: number, counter: bigint): void;
  aeadOpen(dst: number, src: number, srcLen: number, ad: number, adLen: number, key: number, counter: bigint): number;
  aeadSealNonce(dst: number, src: number, srcLen: number, ad: number, adLen: number, key: number, nonce: number): void;
  aeadOpenNonce(dst: number, src: number, srcLen: number, ad: number, adLen: number, key: number, nonce: number): number;
  xaeadSeal(dst: number, src: number, srcLen: number, ad: number, adLen: number, key: number, nonce: number): void;
  xaeadOpen(dst: number, src: number, srcLen: number, ad: number, adLen: number, key: number, nonce: number): number;
  blake2s(dst: number, dstLen: number, src: number, srcLen: number, key: number, keyLen: number): void;
  kdf1(dst: number, key: number, src: number, srcLen: number): void;
  kdf2(dst1: number, dst2: number, key: number, src: number, srcLen: number): void;
  kdf3(dst1: number, dst2: number, dst3: number, key: number, src: number, srcLen: number): void;
  x25519(dst: number, privateKey: number, publicKey: number): number;
  x25519Public(dst: number, privateKey: number): void;
}

const PRIMITIVES_PAGES = 24;

/** The crypto of the core, call by call, over a memory of its own that is not shared. */
export async function openPrimitives(): Promise<{ exports: PrimitiveExports; memory: WebAssembly.Memory; room: number }> {
  const module = await compileFile("primitives.wasm");
  const memory = makeMemory(PRIMITIVES_PAGES, false);
  const exports = instantiateSync(module, { env: { memory } }).exports as unknown as PrimitiveExports;
  return { exports, memory, room: THREADS_END };
}

/**
 * Reads and compiles a build from dist/. For the wide one, V8 is told to pair operations, where it can.
 * @throws WasmguardError ENOTSUP when the engine lacks what the build needs
 */
export async function compileCore(build: CoreBuild = pickBuild()): Promise<WebAssembly.Module> {
  if ((build === "relaxed" || build === "wide") && pickBuild() === "plain") {
    throw new WasmguardError("ENOTSUP", `Cannot run the core "${build}": this engine has no relaxed SIMD`);
  }
  if (build === "wide") await setPairing(true);
  return compileFile(`core-${build}.wasm`);
}

async function compileFile(file: string): Promise<WebAssembly.Module> {
  const url = new URL(file, dist);
  if (url.protocol !== "file:") {
    // Not compileStreaming: it wants a content type that simple servers do not give.
    const response = await fetch(url);
    if (!response.ok) throw new WasmguardError("ENOENT", `Cannot load ${file}: the server answered with status ${response.status}`);
    return WebAssembly.compile(await response.arrayBuffer());
  }
  const { readFile } = await import("node:fs/promises");
  return WebAssembly.compile(await readFile(url));
}

const STATUS_TEXT: Record<number, [code: string, text: string]> = {
  [FULL]: ["ENOSPC", "the pool is full"],
  [NOT_FOUND]: ["ENOENT", "not found"],
  [BAD_ARGUMENT]: ["EINVAL", "a value is out of range"],
  [OWN_KEY]: ["EINVAL", "the public key is the device's own"],
  [EXISTS]: ["EEXIST", "it exists already"],
  [NO_RANDOM]: ["EAGAIN", "no random bytes are left"],
  [BAD_MEMORY]: ["ENOMEM", "the memory is too small for these limits"],
};

/** An error for a negative status of the core. */
export function statusError(what: string, status: number): WasmguardError {
  const [code, text] = STATUS_TEXT[status] ?? ["EIO", `status ${status}`];
  return new WasmguardError(code, `Cannot ${what}: ${text}`);
}

/** One instance of the core, bound to one thread block. */
export class Core {
  readonly module: WebAssembly.Module;
  readonly memory: WebAssembly.Memory;
  readonly exports: CoreExports;
  /** 0 = main */
  readonly thread: number;
  /** address of this thread's block */
  readonly base: number;
  /** address of this thread's packet slots */
  readonly slots: number;
  readonly u8: Uint8Array;
  readonly view: DataView;

  /** Use createCore or attachCore. */
  constructor(module: WebAssembly.Module, memory: WebAssembly.Memory, thread: number) {
    this.module = module;
    this.memory = memory;
    this.thread = thread;
    this.exports = instantiateSync(module, { env: { memory } }).exports as unknown as CoreExports;
    this.exports.threadInit(thread);
    this.base = THREADS_BASE + THREAD_SIZE * thread;
    this.slots = THREADS_END + SLOTS_SIZE * thread;
    this.u8 = new Uint8Array(memory.buffer);
    this.view = new DataView(memory.buffer);
  }

  /** Address of the 256 bytes that arguments are handed over in. */
  get argument(): number {
    return this.base + THREAD_ARGUMENT;
  }

  get outCount(): number {
    return this.view.getUint32(this.base + THREAD_OUT_COUNT, true);
  }

  get deliverCount(): number {
    return this.view.getUint32(this.base + THREAD_DELIVER_COUNT, true);
  }

  /** Whether the last call left work for the main thread. */
  get kicked(): boolean {
    return this.view.getUint32(this.base + THREAD_KICK, true) !== 0;
  }

  /** Whether deviceService wants to be called again. */
  get more(): boolean {
    return this.view.getUint32(this.base + THREAD_MORE, true) !== 0;
  }

  /** Puts bytes at the argument place, calls, and wipes them: for keys. */
  withArgument<T>(bytes: Uint8Array, call: (address: number) => T): T {
    this.u8.set(bytes, this.argument);
    try {
      return call(this.argument);
    } finally {
      this.u8.fill(0, this.argument, this.argument + bytes.length);
    }
  }

  /** The public key of a private one. */
  publicKey(privateKey: Uint8Array): Uint8Array {
    return this.withArgument(privateKey, (address) => {
      this.exports.publicKey(address + 32, address);
      return this.u8.slice(address + 32, address + 64);
    });
  }
}

/**
 * A new device in a memory of its own, on thread 0.
 * @param fill fills bytes with randomness; 32 are taken
 * @throws WasmguardError EINVAL when a limit is out of range
 */
export function createCore(module: WebAssembly.Module, fill: (bytes: Uint8Array) => void, limits: CoreLimits = {}): Core {
  const maxPeers = limits.maxPeers ?? DEFAULT_MAX_PEERS;
  const maxNodes = limits.maxNodes ?? Math.max(DEFAULT_MAX_NODES, maxPeers * 4);
  const threads = limits.threads ?? 1;
  const shared = limits.shared ?? true;
  const measure = new Core(module, makeMemory(THREADS_END / PAGE_SIZE, shared), 0);
  const pages = measure.exports.memoryPages(maxPeers, maxNodes, threads) >>> 0;
  const what = `create a device of ${maxPeers} peers, ${maxNodes} allowed-IP nodes and ${threads} threads`;
  if (pages === 0) throw statusError(what, BAD_ARGUMENT);
  const core = new Core(module, makeMemory(pages, shared), 0);
  const secret = new Uint8Array(32);
  fill(secret);
  core.u8.set(secret, core.base + THREAD_RANDOM + THREAD_RANDOM_SIZE - secret.length);
  core.view.setUint32(core.base + THREAD_RANDOM_LEFT, secret.length, true);
  secret.fill(0);
  const status = core.exports.deviceInit(maxPeers, maxNodes, threads);
  if (status < 0) throw statusError(what, status);
  return core;
}

/** Another thread's instance over the memory of a device. */
export function attachCore(module: WebAssembly.Module, memory: WebAssembly.Memory, thread: number): Core {
  return new Core(module, memory, thread);
}

// Fixed size: what is not touched costs address space alone, and Deno's bounds checks know the size from the start.
function makeMemory(pages: number, shared = true): WebAssembly.Memory {
  return new WebAssembly.Memory({ initial: pages, maximum: pages, shared });
}
