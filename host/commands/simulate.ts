// wasmguard simulate: devices on a virtual clock, over a network with every fault, decided by one seed. docs/simulator.md.

import process from "node:process";
import { type CoreBuild, pickBuild } from "../core.ts";
import { prepareBuild } from "../simulator/node.ts";
import { MS } from "../simulator/message.ts";
import { formatRecording } from "../simulator/recording.ts";
import type { Simulator } from "../simulator/simulator.ts";
import { ALL_FAULTS, soak, SoakFailure, type SoakOptions } from "../simulator/soak.ts";
import { type Faults, PERFECT } from "../simulator/wire.ts";
import { atMost, type Command, parse, UsageError } from "./command.ts";

const PROBABILITIES = ["loss", "duplicate", "corrupt", "reorder", "rebind"] as const;
const SPANS = ["delay", "jitter", "hold"] as const;
const BUILDS: CoreBuild[] = ["plain", "relaxed", "page"];

const text = { type: "string" } as const;
const flag = { type: "boolean" } as const;
const options = {
  seed: text, nodes: text, seconds: text, rate: text, build: text, changes: flag, trace: flag, "all-faults": flag,
  loss: text, duplicate: text, corrupt: text, reorder: text, rebind: text, delay: text, jitter: text, hold: text,
} as const;

export const command: Command = {
  help: `Usage: wasmguard simulate [OPTIONS]

Lets devices talk on a virtual clock, over a network with faults, and checks what must hold. The same options give the
same run, on every machine.

      --seed N --nodes N --seconds N      1, 2 and 300 if not given
      --rate N                            packets a second and node, on the average
      --loss P --duplicate P --corrupt P --reorder P --rebind P    probabilities, 0..1
      --delay MS --jitter MS --hold MS    how long a datagram takes
      --all-faults                        a bit of everything
      --changes                           keys change, devices go down and up, keepalives are set
      --build plain|relaxed|page          which build of the core
      --trace                             print what happened, for wasmguard replay
`,
  async run(args) {
    const { values, positionals } = parse(args, options);
    atMost(positionals, 0);
    const build = (values.build ?? pickBuild()) as CoreBuild;
    if (!BUILDS.includes(build)) throw new UsageError(`--build ${build} is none of ${BUILDS.join(", ")}`);
    const faults: Faults = { ...(values["all-faults"] ? ALL_FAULTS : PERFECT) };
    for (const name of PROBABILITIES) faults[name] = numberOf(name, values[name], 1) ?? faults[name];
    for (const name of SPANS) {
      const span = numberOf(name, values[name], 1e6);
      if (span !== undefined) faults[name] = span * MS;
    }
    const asked: SoakOptions = {
      seed: numberOf("seed", values.seed, 2 ** 32 - 1) ?? 1,
      nodes: Math.max(2, numberOf("nodes", values.nodes, 26) ?? 2),
      seconds: numberOf("seconds", values.seconds, 1e6) ?? 300,
      rate: numberOf("rate", values.rate, 1e4) || 1,
      build, changes: values.changes === true, faults, keepTrace: values.trace === true,
    };
    await prepareBuild(build);
    try {
      const { sim, sent, delivered } = soak(asked);
      if (values.trace) dump(asked, sim);
      process.stdout.write(`# ${sim.trace.count} events, ${sim.trace.hex()}; ${delivered} of ${sent} packets delivered\n`);
      for (const node of sim.nodes) process.stdout.write(`# ${node.name} ${JSON.stringify(node.drops())}\n`);
    } catch (error) {
      if (error instanceof SoakFailure && values.trace) dump(asked, error.sim);
      throw error;
    }
  },
};

function numberOf(name: string, text: string | undefined, most: number): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (text.trim() !== "" && value >= 0 && value <= most) return value;
  throw new UsageError(`--${name} ${text} is not in 0..${most}`);
}

function dump(asked: SoakOptions, sim: Simulator): void {
  process.stdout.write(formatRecording(asked, sim.trace.lines!, sim.trace.hex()));
}
