// Tunnels to measure: two daemons of one candidate in two namespaces, joined by a veth pair, configured by wg
// (test/helpers/system.ts has the picture). Everything happens in namespaces that go with the benchmark.

import { type Namespace, Lab, sleep } from "../../test/helpers/netlab.ts";
import { INNER, OUTER, PORT, type Tunnel, tunnel } from "../../test/helpers/system.ts";
import type { Candidate } from "./candidates.ts";
import { tcp } from "./traffic.ts";

/** A candidate's tunnel, up and with a session. */
export interface Link extends Tunnel {
  /** of the candidate */
  name: string;
  candidate: Candidate;
  lab: Lab;
  /** of both daemons */
  pids: [number, number];
}

/** Opens a tunnel. `b` may be started differently from `a`. */
export async function openLink(candidate: Candidate, b: Candidate = candidate): Promise<Link> {
  const lab = new Lab();
  try {
    const sides = await tunnel(lab, { a: candidate, b });
    await sides.a.pingSoon(INNER.b[4]);
    return { ...sides, name: candidate.name, candidate, lab, pids: [sides.a.daemon.pid, sides.b.daemon.pid] };
  } catch (error) {
    await lab.close();
    throw error;
  }
}

/** The same for the time of `use`. */
export async function withLink<T>(candidate: Candidate, use: (link: Link) => Promise<T>, b?: Candidate): Promise<T> {
  const link = await openLink(candidate, b);
  try {
    return await use(link);
  } finally {
    await link.lab.close();
  }
}

/**
 * Tunnels of all candidates side by side, for as long as `use` takes: rounds go from one to the next. Idle ones cost
 * nothing but their timers. Each is warmed up first: compilers that work while a program runs are part of a start, not
 * of a pace.
 */
export async function withLinks<T>(candidates: Candidate[], use: (links: Link[]) => Promise<T>): Promise<T> {
  const links: Link[] = [];
  try {
    for (const candidate of candidates) {
      const link = await openLink(candidate);
      links.push(link);
      await warmUp(link);
    }
    return await use(links);
  } finally {
    await Promise.all(links.map(({ lab }) => lab.close()));
  }
}

/** A second of TCP, half of it each way at once. */
export async function warmUp(link: Link): Promise<void> {
  await tcp(link, { seconds: 1, options: "--bidir" });
  await sleep(100);
}

export const STRANGER = { address: "10.0.9.3", target: "10.0.9.2" } as const;

/** A third namespace that reaches daemon b's port from outside of the tunnel. */
export function addStranger({ lab, b }: Link): Namespace {
  const stranger = lab.namespace("c");
  lab.connect([stranger, "veth-c", `${STRANGER.address}/24`], [b.namespace, "veth-bc", `${STRANGER.target}/24`]);
  return stranger;
}

export { INNER, OUTER, PORT };
