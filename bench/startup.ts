// How long until a daemon can be configured? From the start of its process until its control socket accepts, asked
// every millisecond; and until `wg show` has an answer. In the foreground: what wg-quick waits for is the same, plus
// a fork.

import { Lab, sleep } from "../test/helpers/netlab.ts";
import { answers } from "../test/helpers/system.ts";
import type { Candidate } from "./lib/candidates.ts";
import { bench, type Sample } from "./lib/run.ts";

const LIMIT_MS = 15_000;

async function start(candidate: Candidate): Promise<Sample> {
  const lab = new Lab();
  try {
    const namespace = lab.namespace("s");
    const name = lab.interfaceName("s");
    const begin = performance.now();
    const daemon = namespace.start([...candidate.command, "-f", name]);
    while (!(await answers(name))) {
      if (daemon.code !== null) throw new Error(`${candidate.name} ended with ${daemon.code}:\n${daemon.output()}`);
      if (performance.now() > begin + LIMIT_MS) throw new Error(`${candidate.name}: silent for ${LIMIT_MS} ms`);
      await sleep(1);
    }
    const accepted = performance.now() - begin;
    await namespace.run(`wg show ${name} dump`);
    return { "socket accepts, ms": accepted, "wg show answered, ms": performance.now() - begin };
  } finally {
    await lab.close();
  }
}

await bench("time until the control socket answers", async (run) => {
  const rounds = run.options.short ? 3 : Math.max(9, run.options.rounds);
  const samples = await run.rounds(run.candidates.all, start, rounds);
  run.compare(`${rounds} starts each`, run.candidates.all, samples);
});
