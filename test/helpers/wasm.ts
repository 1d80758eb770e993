// Instantiates the modules of test/assembly over a memory of their own, for every build this engine can run.
import { readFileSync } from "node:fs";
import { instantiateSync } from "@assemblyscript/loader";
import { THREAD_MAX, THREADS_BASE, THREAD_SIZE } from "../../assembly/abi.ts";

export interface TestModule<T> {
  /** "plain", "relaxed" or "wide". */
  build: string;
  exports: T;
  memory: WebAssembly.Memory;
  u8: Uint8Array;
  view: DataView;
}

const file = (name: string, build: string) => new URL(`../../dist/test/${name}-${build}.wasm`, import.meta.url);

/** Whether this engine runs relaxed SIMD: a function that returns an i8x16.relaxed_swizzle of two zero vectors. */
export const hasRelaxedSimd = WebAssembly.validate(
  // prettier-ignore
  new Uint8Array([0,97,115,109,1,0,0,0, 1,5,1,96,0,1,123, 3,2,1,0, 10,15,1,13,0,65,0,253,15,65,0,253,15,253,128,2,11]),
);

/** The builds this engine can run; a test that covers fewer than both says so. */
export const builds: string[] = hasRelaxedSimd ? ["plain", "relaxed"] : ["plain"];

/** And the wide one, which differs in crypto/ alone. */
export const cryptoBuilds: string[] = hasRelaxedSimd ? [...builds, "wide"] : builds;

/** @param pages memory size, 64 KiB each; default: thread blocks and 1 MiB above them */
export function loadTest<T>(name: string, build: string, pages = (THREADS_BASE + THREAD_SIZE * THREAD_MAX) / 65536 + 16): TestModule<T> {
  const module = new WebAssembly.Module(readFileSync(file(name, build)));
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  const { exports } = instantiateSync(module, { env: { memory } });
  return { build, exports: exports as T, memory, u8: new Uint8Array(memory.buffer), view: new DataView(memory.buffer) };
}

export const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
export const unhex = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, "hex"));
