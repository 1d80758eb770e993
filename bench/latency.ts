// How long is the way through an idle tunnel and back? 200 pings, 20 ms apart: each wakes both daemons from sleep.

import { withLinks } from "./lib/lab.ts";
import { bench, type Sample } from "./lib/run.ts";
import { pings } from "./lib/traffic.ts";

await bench("ping through the idle tunnel", (run) =>
  withLinks(run.candidates.all, async (links) => {
    const count = run.options.short ? 50 : 200;
    const samples = await run.rounds(links, async (link): Promise<Sample> => {
      const { median, p99, lost } = await pings(link, count, 20);
      return { "median us": median, "p99 us": p99, "lost %": lost };
    });
    run.compare(`${count} pings, 20 ms apart`, links, samples);
  }),
);
