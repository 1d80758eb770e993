// How many small packets pass? iperf3 sends UDP payloads of 64 bytes as fast as it can (-b 0); what counts is what
// the receiver got. The sender takes a core for itself, as it does for everybody here.

import { withLinks } from "./lib/lab.ts";
import { bench, type Sample } from "./lib/run.ts";
import { smallPackets } from "./lib/traffic.ts";

await bench("64-byte UDP packets delivered", (run) =>
  withLinks(run.candidates.all, async (links) => {
    const samples = await run.rounds(links, async (link): Promise<Sample> => {
      const { delivered, lost } = await smallPackets(link, run.options.seconds);
      return { "1,000 packets/s": delivered, "lost %": lost };
    });
    run.compare("64-byte UDP", links, samples);
  }),
);
