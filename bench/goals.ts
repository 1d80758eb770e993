// Are the goals met? One table of everything that the data path is held to, ours on each runtime against
// wireguard-go: the same tunnels, the same traffic, in turn, medians of the rounds. The files beside this one ask
// each question closer.
//
//   node --import tsx bench/goals.ts --rounds 5     (Node >= 22.18 and Deno need no loader), about 6 minutes

import { type Candidate, KINDS, type Kind } from "./lib/candidates.ts";
import { type Link, withLinks } from "./lib/lab.ts";
import { memoryDuring, usageOf } from "./lib/processes.ts";
import { bench, type Sample } from "./lib/run.ts";
import { figure, formatTable, mean, median } from "./lib/table.ts";
import { pings, smallPackets, tcp } from "./lib/traffic.ts";

type Figure = "forward" | "reverse" | "cpu" | "switches" | "udp" | "ping" | "memory";

interface Goal {
  key: Figure;
  title: string;
  /** whether more is better */
  more: boolean;
  /** ratio to wireguard-go, in the order of KINDS */
  ratios: [number, number, number];
}

const GOALS: Goal[] = [
  { key: "forward", title: "TCP, one flow, forward, Gbit/s", more: true, ratios: [1.5, 1.25, 1.25] },
  { key: "reverse", title: "TCP, one flow, reverse, Gbit/s", more: true, ratios: [1.5, 1.25, 1.25] },
  { key: "cpu", title: "daemons' CPU s/GB", more: false, ratios: [0.65, 0.8, 0.75] },
  { key: "switches", title: "context switches/MB", more: false, ratios: [0.4, 0.4, 0.4] },
  { key: "udp", title: "64-byte UDP, 1,000/s delivered", more: true, ratios: [3.5, 2.5, 3] },
  { key: "ping", title: "ping, idle tunnel, us", more: false, ratios: [0.65, 0.7, 0.75] },
  { key: "memory", title: "resident memory under load, MB", more: false, ratios: [0.6, 0.5, 0.75] },
];

function verdict({ more, ratios }: Goal, kind: Kind, ratio: number): string {
  const wanted = ratios[KINDS.indexOf(kind)];
  const met = more ? ratio >= wanted : ratio <= wanted;
  return `${ratio.toFixed(2)}x ${met ? "met" : "MISSED"} (${more ? ">=" : "<="} ${wanted})`;
}

await bench("the goals of the data path", (run) =>
  withLinks(run.candidates.all, async (links) => {
    const { short, seconds } = run.options;
    const measure = async (link: Link): Promise<Sample> => {
      const { median: ping } = await pings(link, short ? 50 : 100, 20);
      const bothWays = async () => ({
        forward: await tcp(link, { seconds }),
        reverse: await tcp(link, { seconds, reverse: true }),
      });
      const { result: { result, most }, usage } = await usageOf(link.pids, () => memoryDuring(link.pids, bothWays));
      const { forward, reverse } = result;
      const gigabytes = forward.gigabytes + reverse.gigabytes;
      const { delivered } = await smallPackets(link, seconds);
      return {
        forward: forward.gbits,
        reverse: reverse.gbits,
        cpu: usage.cpuSeconds / gigabytes,
        switches: (usage.voluntary + usage.involuntary) / gigabytes / 1e3,
        udp: delivered,
        ping,
        memory: mean(most),
        retransmits: forward.retransmits + reverse.retransmits,
      } satisfies Record<Figure | "retransmits", number>;
    };
    const samples = await run.rounds(links, measure);
    const of = (subject: number, key: string): number => median(samples[subject].map((sample) => sample[key]));
    const cell = (goal: Goal, { kind }: Candidate, i: number): string => {
      const value = figure(of(i, goal.key));
      return kind === null ? value : `${value} = ${verdict(goal, kind, of(i, goal.key) / of(0, goal.key))}`;
    };
    const { all } = run.candidates;
    run.print("");
    run.print(
      formatTable([
        ["", ...all.map(({ name }) => name)],
        ...GOALS.map((goal) => [goal.title, ...all.map((candidate, i) => cell(goal, candidate, i))]),
        ["retransmits (no goal)", ...all.map((_, i) => figure(of(i, "retransmits")))],
      ]),
    );
    const counted = GOALS.flatMap((goal) =>
      all.map((candidate, i) => (candidate.kind === null ? "" : cell(goal, candidate, i))).filter(Boolean),
    );
    run.print(`\n${counted.filter((text) => text.includes(" met ")).length} of ${counted.length} met`);
    run.keep("samples", Object.fromEntries(all.map(({ name }, i) => [name, samples[i]])));
  }),
);
