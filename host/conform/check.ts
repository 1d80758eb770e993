// What a check is, and how it says that the peer did otherwise.

import type { Trial } from "./trial.ts";

/** What a check needs beside the wire. */
export type Need =
  /** an address of the peer in the tunnel that answers echoes, and one of ours */
  | "inner"
  /** the peer's UAPI socket: each check gets a peer of its own there */
  | "uapi"
  /** a hand on the peer's system: pings from there, a second address on both sides, counters of its interface */
  | "system";

export interface Check {
  /** "initiation.mac1": group, and what in it */
  id: string;
  /** what the peer does when it is right: "does not answer an initiation whose mac1 is wrong" */
  title: string;
  /** the paragraph it comes from */
  source: string;
  needs?: Need[];
  /** it lies in wait for about that many seconds: begin it early, let others run meanwhile */
  seconds?: number;
  /** longer than a person waits: only when asked for */
  slow?: true;
  /** it changes what other checks rely on, or counts what they would move */
  alone?: true;
  /** @returns what was seen, when that is more than the title says. @throws Deviation */
  run(trial: Trial): Promise<string | void>;
}

/** The peer did otherwise. */
export class Deviation extends Error {}

/** The check could not be made here. */
export class Unable extends Error {}

/** @throws Deviation unless `holds` */
export function must(holds: unknown, seen: string): asserts holds {
  if (!holds) throw new Deviation(seen);
}

/** Whether an event came in time: not before `from`, and not much later than `to` (a busy machine is slow to tell). */
export function mustBeWithin(what: string, ms: number, from: number, to: number): void {
  must(
    ms >= from - EARLY_MS && ms <= to + LATE_MS,
    `${what} after ${seconds(ms)}, not ${seconds(from)} to ${seconds(to)}`,
  );
}

/** Timers of a peer may be coarse by that much, ms; nothing in the protocol is that exact. */
const EARLY_MS = 60;
const LATE_MS = 1000;

export const seconds = (ms: number): string => `${(ms / 1000).toFixed(2)} s`;
export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
export const hex = (bytes: Uint8Array): string =>
  Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
