// What does a gigabyte cost? CPU time of both daemons together, their context switches and their system calls, for
// TCP both ways, from /proc and perf. Kernel work that is done in a daemon's name (its half of the stack) is counted
// with it, iperf3's own is not. System calls are counted in a pass of their own: to count costs time.

import { withLinks } from "./lib/lab.ts";
import { systemCallsDuring, usageOf, whyNoSystemCalls } from "./lib/processes.ts";
import { bench, type Sample } from "./lib/run.ts";
import { tcp } from "./lib/traffic.ts";

await bench("CPU, context switches and system calls of both daemons", (run) =>
  withLinks(run.candidates.all, async (links) => {
    const { seconds } = run.options;
    const noCalls = whyNoSystemCalls();
    const samples = await run.rounds(links, async (link): Promise<Sample> => {
      const bothWays = async (): Promise<number> =>
        (await tcp(link, { seconds })).gigabytes + (await tcp(link, { seconds, reverse: true })).gigabytes;
      const { result: gigabytes, usage } = await usageOf(link.pids, bothWays);
      const sample: Sample = {
        "CPU s/GB": usage.cpuSeconds / gigabytes,
        "switches/MB": (usage.voluntary + usage.involuntary) / gigabytes / 1e3,
        "voluntary/MB": usage.voluntary / gigabytes / 1e3,
        "forced/MB": usage.involuntary / gigabytes / 1e3,
      };
      if (noCalls) return sample;
      const counted = await systemCallsDuring(link.lab, link.pids, () => tcp(link, { seconds }));
      return { ...sample, "1,000 calls/GB": counted.calls / counted.result.gigabytes / 1e3 };
    });
    if (noCalls) run.print(noCalls);
    run.compare("both daemons, TCP one flow both ways", links, samples);
  }),
);
