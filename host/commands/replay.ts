// wasmguard replay: makes a recorded run again, or what was done by hand in the lab, and compares it event by event, or
// steps through it.

import { readFileSync } from "node:fs";
import process from "node:process";
import { createInterface } from "node:readline";
import { Primitives } from "../capture/primitives.ts";
import { type CoreBuild, pickBuild } from "../core.ts";
import { WasmguardError } from "../errors.ts";
import { firstDifference, isBenchTrace, parseBenchTrace, replayBench } from "../simulator/bench-trace.ts";
import { prepareBuild } from "../simulator/node.ts";
import { parseRecording } from "../simulator/recording.ts";
import { soak } from "../simulator/soak.ts";
import type { Trace } from "../simulator/trace.ts";
import { atMost, type Command, parse, UsageError } from "./command.ts";

const BUILDS: CoreBuild[] = ["plain", "relaxed", "page"];
/** events shown before the one that differs */
const CONTEXT = 3;

export const command: Command = {
  help: `Usage: wasmguard replay TRACE [--step] [--build plain|relaxed|page]

Runs what wasmguard simulate --trace recorded, or what the lab saved, again, and compares every event. Exit code 1 when one differs.

      --step   print event by event, the next with Enter, q ends
`,
  async run(args) {
    const { values, positionals } = parse(args, { step: { type: "boolean" }, build: { type: "string" } });
    const [path] = positionals;
    if (path === undefined) throw new UsageError("name a trace, as in: wasmguard replay 7.trace");
    atMost(positionals, 1);
    const build = (values.build ?? pickBuild()) as CoreBuild;
    if (!BUILDS.includes(build)) throw new UsageError(`--build ${build} is none of ${BUILDS.join(", ")}`);
    const { recorded, trace } = await runAgain(read(path), build);
    const lines = trace.lines!;
    if (values.step) await step(lines, recorded);
    const first = firstDifference(recorded, lines);
    if (first === null) return void process.stdout.write(`the same: ${lines.length} events, ${trace.hex()}\n`);
    const before = recorded.slice(Math.max(0, first - CONTEXT), first).map((line) => `  ${line}\n`);
    process.stdout.write(`differs at event ${first + 1}:\n${before.join("")}- ${recorded[first] ?? "(the end)"}\n+ ${lines[first] ?? "(the end)"}\n`);
    process.exitCode = 1;
  },
};

/** @throws WasmguardError ERR_TRACE, ERR_ACTION */
async function runAgain(text: string, build: CoreBuild): Promise<{ recorded: readonly string[]; trace: Trace }> {
  if (isBenchTrace(text)) {
    const saved = parseBenchTrace(text);
    await prepareBuild(build);
    return { recorded: saved.lines, trace: replayBench(await Primitives.open(), build, saved).sim.trace };
  }
  const { options, lines: recorded } = parseRecording(text);
  await prepareBuild(build);
  return { recorded, trace: soak({ ...options, build, keepTrace: true }).sim.trace };
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    throw new WasmguardError((error as NodeJS.ErrnoException).code ?? "EIO", `Cannot read ${path}: ${(error as Error).message}`);
  }
}

async function step(lines: readonly string[], recorded: readonly string[]): Promise<void> {
  const input = createInterface({ input: process.stdin });
  let at = 0;
  const show = (): boolean => {
    if (at >= lines.length) return false;
    const same = lines[at] === recorded[at];
    process.stdout.write(`${same ? " " : "!"} ${lines[at]}\n`);
    at++;
    return at < lines.length;
  };
  if (show()) {
    for await (const line of input) if (line.trim() === "q" || !show()) break;
  }
  input.close();
}
