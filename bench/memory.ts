// How much memory does a daemon hold? Resident memory (program text that is shared included) of a new daemon with one
// peer, under TCP of one flow and of ten, and the most it ever had; the mean of both ends. Every round starts anew.

import { withLink } from "./lib/lab.ts";
import { memoryDuring, residentMemory } from "./lib/processes.ts";
import { bench, type Sample } from "./lib/run.ts";
import { mean } from "./lib/table.ts";
import { tcp } from "./lib/traffic.ts";

await bench("resident memory of a daemon, MB", async (run) => {
  const { seconds } = run.options;
  const samples = await run.rounds(run.candidates.all, (candidate) =>
    withLink(candidate, async (link): Promise<Sample> => {
      const now = (): number => mean(link.pids.map((pid) => residentMemory(pid).now));
      const idle = now();
      const one = await memoryDuring(link.pids, () => tcp(link, { seconds }));
      const ten = await memoryDuring(link.pids, () => tcp(link, { seconds, flows: 10 }));
      return {
        idle,
        "one flow": mean(one.most),
        "10 flows": mean(ten.most),
        after: now(),
        peak: mean(link.pids.map((pid) => residentMemory(pid).peak)),
      };
    }),
  );
  run.compare("resident memory, MB, mean of both ends", run.candidates.all, samples);
});
