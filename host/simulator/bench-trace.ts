// A workbench in a file: its link's data in the first line, and what came of it, so that whoever opens it sees whether
// the same happens again.
//
//   # wasmguard bench {"seed":1,"do":"s0.d0.f0-400.d0"}
//   1000.000000000 a  out       initiation 148 192.0.2.2:51820 3c4ea35dd2254c52
//   # 9 events, 9d1b06c5a0f1e2d3
//
// A sibling of recording.ts, whose runs are decided by options, while here each thing was done by hand.

import type { Primitives } from "../capture/primitives.ts";
import type { CoreBuild } from "../core.ts";
import { WasmguardError } from "../errors.ts";
import { type Action, buildBench, formatActions, parseActions, type Workbench } from "./workbench.ts";

const HEADER = "# wasmguard bench ";
const RECORDING_HEADER = "# wasmguard trace ";
/** characters: more than ACTIONS_MAX actions leave behind, floods and all */
export const TRACE_MAX_LEN = 32 << 20;
const SEED_MAX = 2 ** 32 - 1;

export interface BenchTrace {
  seed: number;
  actions: Action[];
  /** the events, without the lines that begin with # */
  lines: string[];
}

const refuse = (why: string): WasmguardError => new WasmguardError("ERR_TRACE", `Trace: ${why}`);

export function isBenchTrace(text: string): boolean {
  return text.startsWith(HEADER);
}

export function formatBenchTrace(bench: Workbench): string {
  const { seed, actions, sim } = bench;
  const lines = sim.trace.lines!;
  const header = HEADER + JSON.stringify({ seed, do: formatActions(actions) });
  return `${[header, ...lines, `# ${lines.length} events, ${sim.trace.hex()}`].join("\n")}\n`;
}

/** @throws WasmguardError ERR_TRACE for what is no trace of a workbench, ERR_ACTION that names an action */
export function parseBenchTrace(text: string): BenchTrace {
  if (text.length > TRACE_MAX_LEN) throw refuse(`${text.length} characters, and ${TRACE_MAX_LEN} are the most`);
  if (text.startsWith(RECORDING_HEADER)) {
    throw refuse("this is a recording of wasmguard simulate, not of the lab: wasmguard replay FILE runs it");
  }
  if (!text.startsWith(HEADER)) throw refuse(`it does not begin with "${HEADER.trim()}"`);
  const [header, ...rest] = text.split("\n");
  let given: unknown;
  try {
    given = JSON.parse(header.slice(HEADER.length));
  } catch {
    throw refuse("its first line cannot be read");
  }
  if (typeof given !== "object" || given === null) throw refuse("its first line cannot be read");
  const { seed, do: done } = given as { seed?: unknown; do?: unknown };
  if (typeof done !== "string") throw refuse("its first line has no actions");
  return {
    seed: checkSeed(seed),
    actions: parseActions(done),
    lines: rest.filter((line) => line !== "" && !line.startsWith("#")),
  };
}

/** @throws WasmguardError ERR_TRACE */
export function checkSeed(seed: unknown): number {
  if (typeof seed !== "number" || !Number.isInteger(seed) || seed < 0 || seed > SEED_MAX)
    throw refuse(`the seed is not in 0..${SEED_MAX}`);
  return seed;
}

/** Where a repetition first differs from what was recorded; null = nowhere. */
export function firstDifference(recorded: readonly string[], lines: readonly string[]): number | null {
  for (let i = 0; i < Math.max(recorded.length, lines.length); i++) if (recorded[i] !== lines[i]) return i;
  return null;
}

/** Does all of it again. @throws WasmguardError ERR_ACTION */
export function replayBench(crypto: Primitives, build: CoreBuild, { seed, actions }: BenchTrace): Workbench {
  return buildBench(crypto, build, seed, actions);
}
