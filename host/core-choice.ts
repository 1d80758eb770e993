// Which build of the core is the fastest here: plain, relaxed or wide.
//
// The wide build pays where V8 pairs its operations into AVX2, which only an experimental flag makes it do, and where
// the CPU is as good at 256 bits as at 128: no version number tells that, so it is measured. Two small modules with the
// crypto alone seal packets in turn, compiled by the optimizing compiler at once (waiting for V8 to tier up would take
// hundreds of packets and a busy machine's time): 15 to 25 ms of CPU at start-up. Whatever fails, the relaxed build is
// the answer.
//
// V8's flags belong to the process, so only a daemon, which owns its process, asks for this choice; a library takes
// pickBuild(). The flag set on the main thread holds for modules that workers are sent.

import type { CoreBuild } from "./core.ts";

/** What decides whether V8 can be told to pair operations. */
export interface Engine {
  /** "Node", or what passes for it: "Deno", "Bun", "browser" */
  name: string;
  /** of V8 */
  version: string;
  /** as of process.arch */
  arch: string;
}

export function thisEngine(): Engine {
  const { process, Deno, Bun } = globalThis as { process?: NodeJS.Process; Deno?: unknown; Bun?: unknown };
  const name = Deno ? "Deno" : Bun ? "Bun" : process?.versions?.node ? "Node" : "browser";
  return { name, version: process?.versions?.v8 ?? "", arch: process?.arch ?? "" };
}

/** V8 13 is that of Node 24: before, the flag is not there, or pairs too little to be worth it. */
const PAIRING_V8 = 13;

export function canPair({ name, version, arch }: Engine = thisEngine()): boolean {
  return name === "Node" && arch === "x64" && Number.parseInt(version, 10) >= PAIRING_V8;
}

/** Makes V8 pair operations of functions that it compiles from now on, or no longer. Does nothing where it cannot. */
export async function setPairing(on: boolean): Promise<void> {
  if (!canPair()) return;
  const { setFlagsFromString } = await import("node:v8");
  setFlagsFromString(on ? "--experimental-wasm-revectorize" : "--no-experimental-wasm-revectorize");
}

/** Seals a packet of full size `count` times. */
export type Seal = (count: number) => void;

const ROUNDS = 8;
const ROUND_PACKETS = 50;
/** No further round after this many ms: on a slow or busy machine, the first ones have to do. */
const MEASURE_MS = 20;
/** The wide build has to be this much better: less is noise, and its flag is experimental. */
const MIN_GAIN = 1.1;

/** Whether `wide` is clearly faster than `relaxed`: best rounds of each, in turn. */
export function isFaster(wide: Seal, relaxed: Seal, now: () => number = () => performance.now()): boolean {
  const timed = (seal: Seal): number => {
    const start = now();
    seal(ROUND_PACKETS);
    return now() - start;
  };
  let bestWide = Infinity;
  let bestRelaxed = Infinity;
  const end = now() + MEASURE_MS;
  for (let round = 0; round < ROUNDS && (round === 0 || now() < end); round++) {
    bestRelaxed = Math.min(bestRelaxed, timed(relaxed));
    bestWide = Math.min(bestWide, timed(wide));
  }
  return bestWide * MIN_GAIN < bestRelaxed;
}

/**
 * The fastest build of those that `picked` and this CPU allow; V8's flag is set accordingly. Never throws.
 * @param picked    what the engine runs without any flag
 * @param openSeal  the sealing of a build, not called yet
 */
export async function chooseBuild(
  picked: CoreBuild,
  openSeal: (build: CoreBuild) => Promise<Seal>,
  engine: Engine = thisEngine(),
): Promise<CoreBuild> {
  if (picked !== "relaxed" || !canPair(engine)) return picked;
  try {
    const relaxed = await openSeal("relaxed");
    const wide = await openSeal("wide");
    await compileBoth(relaxed, wide);
    if (isFaster(wide, relaxed)) return "wide";
  } catch {
    // as if it were slower
  }
  await setPairing(false);
  return picked;
}

/** Functions are compiled at their first call: by the optimizing compiler, while there is no other. */
async function compileBoth(relaxed: Seal, wide: Seal): Promise<void> {
  const { setFlagsFromString } = await import("node:v8");
  setFlagsFromString("--no-liftoff");
  try {
    relaxed(1);
    await setPairing(true);
    wide(1);
  } finally {
    setFlagsFromString("--liftoff");
  }
}
