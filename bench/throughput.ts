// How much TCP passes, either way, in one flow and in ten? iperf3 through tunnels of wireguard-go and of ours, both
// ends on this machine. Retransmits are of both directions together: a tunnel that loses packets of its own shows
// here.

import { withLinks } from "./lib/lab.ts";
import { bench, type Sample } from "./lib/run.ts";
import { tcp } from "./lib/traffic.ts";

await bench("iperf3 TCP, Gbit/s", (run) =>
  withLinks(run.candidates.all, async (links) => {
    const { seconds } = run.options;
    for (const flows of [1, 10]) {
      const samples = await run.rounds(links, async (link): Promise<Sample> => {
        const forward = await tcp(link, { seconds, flows });
        const reverse = await tcp(link, { seconds, flows, reverse: true });
        return {
          "forward Gbit/s": forward.gbits,
          "reverse Gbit/s": reverse.gbits,
          "retransmits": forward.retransmits + reverse.retransmits,
        };
      });
      run.compare(`TCP, ${flows === 1 ? "one flow" : `${flows} flows`}`, links, samples);
    }
  }),
);
