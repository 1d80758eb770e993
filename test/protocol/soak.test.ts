// Long random runs with every fault of a network, and users who change their minds: nothing traps, no packet comes out
// twice, changed or in a wrong place, the counters add up, and when the faults end everybody reaches everybody within
// 20 s.
//
// A moment by default; SOAK_SECONDS sets seconds of real time for each of the runs, SOAK_SEED the first seed. A failure
// names its seed: docs/simulator.md tells how to see what happened.
import assert from "node:assert/strict";
import { suite } from "uvu";
import { builds } from "../sim/builds.ts";
import { ALL_FAULTS, soak, type SoakOptions } from "../../host/simulator/soak.ts";

const budget = Number(process.env.SOAK_SECONDS ?? 0) * 1000;
const firstSeed = Number(process.env.SOAK_SEED ?? 1);

for (const build of builds) {
  const test = suite(`soak (${build})`);

  /** Runs seeds until the time is over, once at least. */
  const long = (
    name: string, options: Omit<SoakOptions, "seed" | "build">, check?: (sent: number, delivered: number) => void,
  ): void => {
    test(name, () => {
      const end = performance.now() + budget;
      let seed = firstSeed;
      do {
        const { sent, delivered } = soak({ ...options, seed, build });
        check?.(sent, delivered);
        seed++;
      } while (performance.now() < end);
    });
  };

  long("three nodes, all faults", { nodes: 3, seconds: 600, rate: 2, faults: ALL_FAULTS }, (sent, delivered) => {
    assert.equal(sent > 300 && delivered > sent / 2, true, `${delivered} of ${sent} delivered`);
  });
  long("four nodes, all faults, and changes of keys, peers and the device", {
    nodes: 4, seconds: 600, rate: 2, faults: ALL_FAULTS, changes: true,
  });
  long("two nodes, half of everything lost", { nodes: 2, seconds: 900, rate: 3, faults: { loss: 0.5 } });
  long("two nodes, everything twice and in any order", {
    nodes: 2, seconds: 400, rate: 6, faults: { duplicate: 1, reorder: 0.5, hold: 3e9, jitter: 2e8 },
  }, (sent, delivered) => {
    // Reordering and repetition alone lose nothing but what is held back past a session's end.
    assert.equal(delivered > sent * 0.95, true, `${delivered} of ${sent} delivered`);
  });
  long("four nodes, no faults: nothing is lost", {
    nodes: 4, seconds: 1200, rate: 1, faults: {},
  }, (sent, delivered) => assert.equal(delivered, sent));

  test.run();
}
