// What is each step of the adapter worth? The same core and the same traffic, with one system call a packet at most
// (--no-offload: what is waiting is still drained and sent together) and with super-packets through TUN and UDP
// (virtio header, UDP_SEGMENT, UDP_GRO). wireguard-go, which has the latter, stands beside them.

import { withArguments } from "./lib/candidates.ts";
import { withLinks } from "./lib/lab.ts";
import { systemCallsDuring, usageOf, whyNoSystemCalls } from "./lib/processes.ts";
import { bench, type Sample } from "./lib/run.ts";
import { smallPackets, tcp } from "./lib/traffic.ts";

await bench("one packet a call against offloads", (run) => {
  const [theirs, ...ours] = run.few();
  const subjects = ours.flatMap((candidate) => [
    withArguments(candidate, `${candidate.name} --no-offload`, "--no-offload"),
    candidate,
  ]);
  const noCalls = whyNoSystemCalls();
  return withLinks([theirs, ...subjects], async (links) => {
    const { seconds } = run.options;
    const samples = await run.rounds(links, async (link): Promise<Sample> => {
      const { result, usage } = await usageOf(link.pids, () => tcp(link, { seconds }));
      const sample: Sample = {
        "TCP Gbit/s": result.gbits,
        "CPU s/GB": usage.cpuSeconds / result.gigabytes,
        "switches/MB": (usage.voluntary + usage.involuntary) / result.gigabytes / 1e3,
        "1,000 UDP/s": (await smallPackets(link, seconds)).delivered,
      };
      if (noCalls || run.options.short) return sample;
      const counted = await systemCallsDuring(link.lab, link.pids, () => tcp(link, { seconds }));
      return { ...sample, "1,000 calls/GB": counted.calls / counted.result.gigabytes / 1e3 };
    });
    if (noCalls) run.print(noCalls);
    run.compare("TCP one flow forward, 64-byte UDP", links, samples);
    ours.forEach(({ name }, i) => {
      const pair = links.slice(1 + 2 * i, 3 + 2 * i);
      run.compare(`${name}: what offloads are worth`, pair, samples.slice(1 + 2 * i, 3 + 2 * i));
    });
  });
});
