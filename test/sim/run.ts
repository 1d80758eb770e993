// The simulator by hand: runs a seed, prints what happened, and runs a recorded trace again.
//
//   node --import tsx test/sim/run.ts --seed 7 --nodes 2 --loss 0.05 --seconds 300 --trace > 7.trace
//   node --import tsx test/sim/run.ts --replay 7.trace
//
// docs/simulator.md says more.
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import type { CoreBuild } from "../../host/core.ts";
import { builds } from "./node.ts";
import type { Simulator } from "./simulator.ts";
import { ALL_FAULTS, soak, SoakFailure, type SoakOptions } from "./soak.ts";
import { PERFECT, type Faults } from "./wire.ts";

const USAGE = `usage: run.ts [--seed N] [--nodes N] [--seconds N] [--rate N] [--build plain|relaxed] [--changes]
              [--trace] [--all-faults] [--loss P] [--duplicate P] [--corrupt P] [--reorder P] [--rebind P]
              [--delay MS] [--jitter MS] [--hold MS]
       run.ts --replay FILE [--build plain|relaxed]
`;

const MS = 1e6;
const PROBABILITIES = ["loss", "duplicate", "corrupt", "reorder", "rebind"] as const;
const SPANS = ["delay", "jitter", "hold"] as const;

/** The first line of a trace: everything that decided it. */
const HEADER = "# wasmguard trace ";

class UsageError extends Error {}

function numberOf(name: string, text: string, most: number): number {
  const value = Number(text);
  if (text.trim() !== "" && value >= 0 && value <= most) return value;
  throw new UsageError(`--${name}: "${text}" is not in 0..${most}`);
}

function parse(): { options: SoakOptions; trace: boolean; replay: string | undefined } {
  const text = { type: "string" } as const;
  const flag = { type: "boolean", default: false } as const;
  let values;
  try {
    ({ values } = parseArgs({
      options: {
        seed: { ...text, default: "1" }, nodes: { ...text, default: "2" }, seconds: { ...text, default: "300" },
        rate: { ...text, default: "1" }, build: { ...text, default: builds.at(-1) }, replay: text,
        changes: flag, trace: flag, "all-faults": flag, help: flag,
        loss: text, duplicate: text, corrupt: text, reorder: text, rebind: text, delay: text, jitter: text, hold: text,
      },
    }));
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
  if (values.help) throw new UsageError("");
  const build = values.build as CoreBuild;
  if (!builds.includes(build)) throw new UsageError(`--build: this engine runs ${builds.join(", ")}`);
  const faults: Faults = { ...(values["all-faults"] ? ALL_FAULTS : PERFECT) };
  for (const name of PROBABILITIES) if (values[name] !== undefined) faults[name] = numberOf(name, values[name], 1);
  for (const name of SPANS) if (values[name] !== undefined) faults[name] = numberOf(name, values[name], 1e6) * MS;
  const options: SoakOptions = {
    seed: numberOf("seed", values.seed, 2 ** 32 - 1),
    nodes: Math.max(2, numberOf("nodes", values.nodes, 26)),
    seconds: numberOf("seconds", values.seconds, 1e6),
    rate: numberOf("rate", values.rate, 1e4) || 1,
    build,
    changes: values.changes,
    faults,
  };
  return { options, trace: values.trace, replay: values.replay };
}

function dump(options: SoakOptions, sim: Simulator): void {
  // The build is left out: both give the same trace.
  const { build: _, ...decided } = options;
  console.log([HEADER + JSON.stringify(decided), ...sim.trace.lines!].join("\n"));
}

/** Runs a recorded trace again and compares line by line. @returns whether it was the same */
function replayTrace(file: string, build: CoreBuild): boolean {
  const lines = readFileSync(file, "utf8").split("\n");
  const header = lines[0];
  if (!header.startsWith(HEADER)) throw new UsageError(`--replay: ${file} does not begin with "${HEADER.trim()}"`);
  const recorded = lines.slice(1).filter((line) => line !== "" && !line.startsWith("#"));
  const { sim } = soak({ ...(JSON.parse(header.slice(HEADER.length)) as SoakOptions), build, keepTrace: true });
  const again = sim.trace.lines!;
  const at = again.findIndex((line, i) => line !== recorded[i]);
  if (at < 0 && again.length === recorded.length) {
    console.log(`the same: ${again.length} events, ${sim.trace.hex()}`);
    return true;
  }
  const first = at < 0 ? again.length : at;
  console.log(`differs at event ${first + 1}:`);
  for (const line of recorded.slice(Math.max(0, first - 3), first)) console.log(`  ${line}`);
  console.log(`- ${recorded[first] ?? "(the end)"}`);
  console.log(`+ ${again[first] ?? "(the end)"}`);
  return false;
}

try {
  const { options, trace, replay } = parse();
  if (replay !== undefined) {
    process.exitCode = replayTrace(replay, options.build) ? 0 : 1;
  } else {
    const { sim, sent, delivered } = soak({ ...options, keepTrace: trace });
    if (trace) dump(options, sim);
    console.log(`# ${sim.trace.count} events, ${sim.trace.hex()}; ${delivered} of ${sent} packets delivered`);
    for (const node of sim.nodes) console.log(`# ${node.name} ${JSON.stringify(node.drops())}`);
  }
} catch (error) {
  if (error instanceof SoakFailure) {
    if (error.sim.trace.lines) dump(parse().options, error.sim);
    console.error(error);
    process.exit(1);
  }
  if (!(error instanceof UsageError)) throw error;
  console.error(`${error.message ? `${error.message}\n` : ""}${USAGE}`.trimEnd());
  process.exitCode = 2;
}
