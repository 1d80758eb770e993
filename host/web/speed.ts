// How fast a build of the core is in this engine: full packets sealed, and whole handshakes of two devices, both sides'
// work counted. Short rounds, the best one told: a page shares its thread with everything else.

import { type CoreBuild, FULL_PACKET_LEN, openSeal } from "../core.ts";
import { SECOND } from "../simulator/message.ts";
import { prepareBuild } from "../simulator/node.ts";
import { Simulator } from "../simulator/simulator.ts";

export interface Speed {
  build: CoreBuild;
  /** of ChaCha20-Poly1305 over packets of 1420 bytes */
  megabytesPerSecond: number;
  handshakesPerSecond: number;
}

const ROUNDS = 4;
const ROUND_PACKETS = 4000;
const WARM_UP_PACKETS = 2000;
const ROUND_HANDSHAKES = 40;

/** @throws an Error where the engine does not run this build */
export async function measure(build: CoreBuild, breathe: () => Promise<void>): Promise<Speed> {
  const seal = await openSeal(build);
  seal(WARM_UP_PACKETS);
  let bytes = 0;
  for (let round = 0; round < ROUNDS; round++) {
    await breathe();
    bytes = Math.max(
      bytes,
      perSecond(ROUND_PACKETS * FULL_PACKET_LEN, () => seal(ROUND_PACKETS)),
    );
  }
  await prepareBuild(build);
  const sim = new Simulator({ build });
  const [a, b] = [sim.node(), sim.node()];
  const [peer] = sim.connect(a, b);
  let done = 0;
  const handshake = (): void => {
    a.handshake(peer);
    // Longer than the least time between two handshakes, and time enough for both messages.
    sim.run(10 * SECOND);
  };
  for (let i = 0; i < ROUND_HANDSHAKES; i++) handshake();
  for (let round = 0; round < ROUNDS; round++) {
    await breathe();
    done = Math.max(
      done,
      perSecond(ROUND_HANDSHAKES, () => {
        for (let i = 0; i < ROUND_HANDSHAKES; i++) handshake();
      }),
    );
  }
  const completed = a.events.filter(({ what }) => what === "handshake_complete").length;
  if (completed < ROUND_HANDSHAKES * (ROUNDS + 1)) throw new Error(`only ${completed} handshakes were completed`);
  return { build, megabytesPerSecond: bytes / 1e6, handshakesPerSecond: done };
}

function perSecond(amount: number, work: () => void): number {
  const start = performance.now();
  work();
  return (amount / Math.max(performance.now() - start, 0.1)) * 1000;
}
