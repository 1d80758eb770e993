// The frame of a benchmark: its options, what is printed of the machine and the versions, rounds in which everybody
// takes part in turn, and the results as a file. Who begins changes from round to round, so that being first or last
// is nobody's property. A benchmark that hangs ends itself, and its laboratories with it.

import { mkdirSync, writeFileSync } from "node:fs";
import { cpus, loadavg, release, totalmem } from "node:os";
import { basename } from "node:path";
import process from "node:process";
import { parseArgs } from "node:util";
import { isBuilt, obstacle } from "../../test/helpers/peers.ts";
import { type Candidate, type Candidates, findCandidates } from "./candidates.ts";
import { figure, formatTable, median } from "./table.ts";

export interface Options {
  /** a few seconds a candidate, one round: does it work, and about how fast is it */
  short: boolean;
  rounds: number;
  /** of each measured transfer */
  seconds: number;
  /** also what takes minutes */
  long: boolean;
}

/** Figures of one candidate in one round, by column. */
export type Sample = Record<string, number>;

const USAGE = `
  --short          one round of one second (npm run bench)
  --rounds N       default 5
  --seconds N      of each transfer, default 4
  --runtimes A,B   ours on these alone, as "node 24,deno"
  --core BUILD     ours with this build of the core; default: the daemon's choice
  --long           also what takes minutes
  --save           write the result to bench/results
`;

const SHORT_LIMIT_S = 150;
const LIMIT_S = 3600;

export class Run {
  readonly name: string;
  readonly title: string;
  readonly options: Options;
  readonly candidates: Candidates;
  readonly #save: boolean;
  readonly #lines: string[] = [];
  readonly #data: Record<string, unknown> = {};

  constructor(name: string, title: string, options: Options, candidates: Candidates, save: boolean) {
    this.name = name;
    this.title = title;
    this.options = options;
    this.candidates = candidates;
    this.#save = save;
  }

  print(text: string): void {
    console.log(text);
    this.#lines.push(text);
  }

  /** Keeps samples for the result file. */
  keep(key: string, value: unknown): void {
    this.#data[key] = value;
  }

  /**
   * Measures every subject in each round.
   * @returns samples by subject, in the order of `subjects`
   */
  async rounds<S extends { name: string }>(
    subjects: S[],
    measure: (subject: S, round: number) => Promise<Sample>,
    rounds = this.options.rounds,
  ): Promise<Sample[][]> {
    const samples: Sample[][] = subjects.map(() => []);
    for (let round = 0; round < rounds; round++) {
      for (let turn = 0; turn < subjects.length; turn++) {
        const i = (turn + round) % subjects.length;
        samples[i].push(await measure(subjects[i], round));
        progress(`round ${round + 1} of ${rounds}: ${subjects[i].name}`);
      }
    }
    progress("");
    return samples;
  }

  /**
   * A row a subject: medians, and the ratio to `base`'s.
   * @param base  default: the first subject
   */
  compare(heading: string, subjects: { name: string }[], samples: Sample[][], base = 0): void {
    const columns = Object.keys(samples[0][0]);
    const medians = samples.map((list) => columns.map((column) => median(list.map((sample) => sample[column]))));
    const rows = subjects.map(({ name }, i) => [
      name,
      ...medians[i].map((value, column) => {
        const ratio = value / medians[base][column];
        return i === base || !Number.isFinite(ratio) ? figure(value) : `${figure(value)} (${ratio.toFixed(2)}x)`;
      }),
    ]);
    this.print(`\n${heading}\n`);
    this.print(formatTable([["", ...columns], ...rows]));
    this.keep(heading, Object.fromEntries(subjects.map(({ name }, i) => [name, samples[i]])));
  }

  /** Who takes part where all would take too long: in a short pass, ours on one runtime alone. */
  few(): Candidate[] {
    const { all, ours, theirs } = this.candidates;
    if (!this.options.short || ours.length === 1) return all;
    this.print(`a short pass: ours on ${ours[0].name} alone`);
    return [theirs, ours[0]];
  }

  finish(): void {
    if (!this.#save) return;
    const folder = new URL("../results/", import.meta.url);
    mkdirSync(folder, { recursive: true });
    const stem = `${new Date().toISOString().slice(0, 10)}-${this.name}`;
    writeFileSync(new URL(`${stem}.md`, folder), this.#lines.join("\n") + "\n");
    writeFileSync(new URL(`${stem}.json`, folder), JSON.stringify(this.#data, null, 1) + "\n");
    console.log(`\nbench/results/${stem}.md`);
  }
}

/** One line that is written over, for whoever watches; nothing in a file or a pipe. */
function progress(text: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`);
}

function describeMachine(): string[] {
  const [cpu] = cpus();
  const memory = Math.round(totalmem() / 2 ** 30);
  const deno = (globalThis as { Deno?: { version: { deno: string } } }).Deno;
  return [
    `${new Date().toISOString()}, load ${figure(loadavg()[0])}`,
    `${cpu?.model.trim() ?? "unknown CPU"} x ${cpus().length}, ${memory} GiB, ${process.platform} ${release()}`,
    `driven by ${deno ? `Deno ${deno.version.deno}` : `Node ${process.version}`}`,
  ];
}

/**
 * Runs a benchmark, with its options from the command line, and sets the exit status.
 * @param title  the question it answers
 */
export async function bench(title: string, body: (run: Run) => Promise<void>): Promise<void> {
  const name = basename(process.argv[1]).replace(/\.[a-z]+$/, "");
  const { values } = parseArgs({
    options: {
      short: { type: "boolean", default: false },
      long: { type: "boolean", default: false },
      save: { type: "boolean", default: false },
      rounds: { type: "string" },
      seconds: { type: "string" },
      runtimes: { type: "string", default: "" },
      core: { type: "string" },
      help: { type: "boolean", default: false },
    },
  });
  console.log(`\n== ${name}: ${title} ==`);
  if (values.help) return console.log(USAGE);
  const reason = obstacle();
  if (reason) return console.log(`cannot run: ${reason}`);
  const limit = values.short ? SHORT_LIMIT_S : LIMIT_S;
  const watchdog = setTimeout(() => {
    console.error(`${name}: not done after ${limit} s`);
    process.exit(1);
  }, limit * 1000);
  try {
    if (!isBuilt()) throw new Error("dist/cli.js is missing: npm run build");
    const whole = (text: string | undefined, otherwise: number): number => {
      const value = text === undefined ? otherwise : Number(text);
      if (!Number.isInteger(value) || value < 1) throw new Error(`"${text}" is not a whole number above 0`);
      return value;
    };
    const { short, long } = values;
    const options: Options = {
      short, long, rounds: whole(values.rounds, short ? 1 : 5), seconds: whole(values.seconds, short ? 1 : 4),
    };
    const candidates = findCandidates(values.runtimes.split(",").filter(Boolean), values.core);
    const run = new Run(name, title, options, candidates, values.save);
    for (const line of describeMachine()) run.print(line);
    run.print(`rounds: ${options.rounds}; medians; (ratio to ${candidates.theirs.name}, or to the first line)`);
    for (const line of candidates.missing) run.print(line);
    await body(run);
    run.finish();
  } catch (error) {
    console.error(`${name}: ${(error as Error).message}`);
    process.exitCode = 1;
  } finally {
    clearTimeout(watchdog);
  }
}
