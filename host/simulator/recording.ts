// A recorded run: its options in the first line, an event a line, so that the run can be made again and compared.
//
//   # wasmguard trace {"seed":7,"nodes":2,...}
//   1000.010000000 b  in        initiation 148 192.0.2.1:51820 3c4ea35dd2254c52
//   # 412 events, 9d1b06c5a0f1e2d3
//
// The options are all that decides a run; the build of the core is left out, because every build gives the same.

import { WasmguardError } from "../errors.ts";
import type { SoakOptions } from "./soak.ts";
import { PERFECT } from "./wire.ts";

const HEADER = "# wasmguard trace ";
/** bytes: hours of virtual time */
const TEXT_MAX_LEN = 256 << 20;

/** What decides a run. */
export type RecordedOptions = Omit<SoakOptions, "build" | "keepTrace">;

export interface Recording {
  options: RecordedOptions;
  /** the events, without the lines that begin with # */
  lines: string[];
}

export function formatRecording({ seed, nodes, seconds, rate, changes, faults }: RecordedOptions, lines: readonly string[], hash: string): string {
  const decided = { seed, nodes, seconds, rate, changes, faults };
  return `${[HEADER + JSON.stringify(decided), ...lines, `# ${lines.length} events, ${hash}`].join("\n")}\n`;
}

const refuse = (why: string): WasmguardError => new WasmguardError("ERR_TRACE", `Trace: ${why}`);

/** @throws WasmguardError ERR_TRACE for what is no trace, or asks for what no run may have */
export function parseRecording(text: string): Recording {
  if (text.length > TEXT_MAX_LEN) throw refuse(`${text.length} characters, and ${TEXT_MAX_LEN} are the most`);
  const end = text.indexOf("\n");
  const header = end < 0 ? text : text.slice(0, end);
  if (!header.startsWith(HEADER)) throw refuse(`it does not begin with "${HEADER.trim()}"`);
  let options: Record<string, unknown>;
  try {
    options = JSON.parse(header.slice(HEADER.length)) as Record<string, unknown>;
  } catch {
    throw refuse("its first line has no options that can be read");
  }
  if (typeof options !== "object" || options === null) throw refuse("its first line has no options that can be read");
  const number = (name: string, least: number, most: number, of: Record<string, unknown> = options): number => {
    const value = of[name];
    if (typeof value !== "number" || !(value >= least && value <= most)) throw refuse(`option ${name} is not in ${least}..${most}`);
    return value;
  };
  const given = (typeof options.faults === "object" && options.faults !== null ? options.faults : {}) as Record<string, unknown>;
  const faults = { ...PERFECT };
  for (const name of ["loss", "duplicate", "corrupt", "reorder", "rebind"] as const) if (given[name] !== undefined) faults[name] = number(name, 0, 1, given);
  for (const name of ["delay", "jitter", "hold"] as const) if (given[name] !== undefined) faults[name] = number(name, 0, 1e12, given);
  return {
    options: {
      seed: number("seed", 0, 2 ** 32 - 1), nodes: number("nodes", 2, 26), seconds: number("seconds", 0, 1e6), rate: number("rate", 1e-6, 1e4),
      changes: options.changes === true, faults,
    },
    lines: text.slice(end + 1).split("\n").filter((line) => line !== "" && !line.startsWith("#")),
  };
}
