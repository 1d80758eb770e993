// What do many peers cost? One end has 1, 1,000, 10,000 (--long: 100,000) more of them: the time of `wg addconf` and
// of `wg show dump`, the memory each takes, and what one busy peer still gets through.

import { withArguments } from "./lib/candidates.ts";
import { type Link, withLink } from "./lib/lab.ts";
import { peerSections, strangersKeys } from "./lib/peerconfig.ts";
import { residentMemory } from "./lib/processes.ts";
import { bench, type Sample } from "./lib/run.ts";
import { pings, tcp } from "./lib/traffic.ts";

const WG_TIMEOUT_MS = 120_000;

await bench("many peers on one end", async (run) => {
  const { short, long, seconds } = run.options;
  const counts = short ? [10_000] : long ? [1, 1000, 10_000, 100_000] : [1, 1000, 10_000];
  for (const count of counts) {
    const file = peerSections(strangersKeys(count));
    const samples = await run.rounds(run.candidates.all, (candidate) => {
      const room = String(Math.max(4096, count + 16));
      const b = candidate.kind === null ? candidate : withArguments(candidate, candidate.name, "--max-peers", room);
      const measure = async (link: Link): Promise<Sample> => {
        const { b: side } = link;
        const pid = side.daemon.pid;
        const timed = async (line: string): Promise<number> => {
          const begin = performance.now();
          await side.namespace.run(line, { timeoutMs: WG_TIMEOUT_MS });
          return performance.now() - begin;
        };
        const before = residentMemory(pid).now;
        const added = await timed(`wg addconf ${side.name} ${side.file(file)}`);
        const after = residentMemory(pid).now;
        const shown = await timed(`wg show ${side.name} dump`);
        const { gbits } = await tcp(link, { seconds });
        const { median } = await pings(link, short ? 30 : 100, 10);
        return {
          "addconf ms": added,
          "dump ms": shown,
          "KB/peer": count < 100 ? NaN : ((after - before) * 1000) / count,
          "RSS MB": after,
          "busy peer Gbit/s": gbits,
          "ping us": median,
        };
      };
      return withLink(candidate, measure, b);
    });
    run.compare(`${count.toLocaleString("en")} more peers`, run.candidates.all, samples);
  }
});
