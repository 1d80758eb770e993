// Runs checks against a stand. Where every check has a peer of its own, those that wait run beside the others, and only
// those that disturb others run alone; where there is one peer, all run one after the other.

import { type Check, Deviation, type Need, Unable, must, sleep } from "./check.ts";
import type { Trial } from "./trial.ts";

/** Where checks find their peer. */
export interface Stand {
  /** what is there beside the wire */
  has: ReadonlySet<Need>;
  /** whether trials do not disturb one another */
  parallel: boolean;
  /** ends with the trial's close() */
  open(): Promise<Trial>;
  /** after the last trial */
  close?(): void;
}

export type Outcome = "pass" | "fail" | "skip";

export interface Result {
  check: Check;
  outcome: Outcome;
  /** what was seen, or why it was skipped; "" when there is no more to say than the title */
  seen: string;
  ms: number;
}

/** Short checks at a time: more would make a timer of ours late, and a packet of theirs. */
const SHORT_MAX_COUNT = 4;
/** Checks that wait longer are begun first, all at once. */
const LONG_SECONDS = 5;
const STAGGER_MS = 60;
/** What a check may take beyond the time that it says, ms. */
const GRACE_MS = 90_000;

const WHY: Record<Need, string> = {
  inner: "needs --source and --target, addresses in the tunnel",
  uapi: "needs the peer's UAPI socket: run the peer by --command",
  system: "needs the peer's system: run the peer by --command",
};

/** @param onResult  called as results come, in any order */
export async function runChecks(
  checks: readonly Check[],
  stand: Stand,
  options: { slow?: boolean; onResult?: (result: Result) => void } = {},
): Promise<Result[]> {
  const results = new Map<Check, Result>();
  const done = (result: Result): void => {
    results.set(result.check, result);
    options.onResult?.(result);
  };
  const ready: Check[] = [];
  for (const check of checks) {
    const missing = check.needs?.find((need) => !stand.has.has(need));
    const seen = missing ? WHY[missing] : check.slow && !options.slow ? `takes ${check.seconds} s: --slow runs it` : "";
    if (seen) done({ check, outcome: "skip", seen, ms: 0 });
    else ready.push(check);
  }
  const each = async (list: Check[]): Promise<void> => {
    for (let check = list.shift(); check; check = list.shift()) done(await runCheck(check, stand));
  };
  if (!stand.parallel) {
    await each(ready);
  } else {
    const free = ready.filter(({ alone }) => !alone);
    const isLong = ({ seconds = 0 }: Check): boolean => seconds >= LONG_SECONDS;
    const short = free.filter((check) => !isLong(check));
    const long = free.filter(isLong).map(async (check, i) => {
      await sleep(i * STAGGER_MS);
      done(await runCheck(check, stand));
    });
    await Promise.all([...long, ...Array.from({ length: SHORT_MAX_COUNT }, () => each(short))]);
    await each(ready.filter(({ alone }) => alone));
  }
  return checks.map((check) => results.get(check)!);
}

async function runCheck(check: Check, stand: Stand): Promise<Result> {
  const start = performance.now();
  const end = (outcome: Outcome, seen: string): Result => ({ check, outcome, seen, ms: performance.now() - start });
  let trial: Trial | undefined;
  try {
    trial = await stand.open();
    const limit = (check.seconds ?? 0) * 1000 + GRACE_MS;
    return end("pass", (await within(limit, check.run(trial))) ?? "");
  } catch (error) {
    if (error instanceof Unable) return end("skip", error.message);
    if (error instanceof Deviation) return end("fail", error.message);
    return end("fail", `the check itself failed: ${(error as Error).stack ?? error}`);
  } finally {
    await trial?.close();
  }
}

function within<T>(ms: number, work: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout>;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Deviation(`not done after ${Math.round(ms / 1000)} s`)), ms);
  });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

/** @throws Deviation when the peer answers no handshake at all: then nothing else would tell anything */
export async function firstContact(stand: Stand): Promise<void> {
  const trial = await stand.open();
  try {
    const { got } = await trial.begin();
    const again = got ?? (await trial.begin()).got;
    must(again, "it answers no handshake: is the key right, and ours known there?");
  } finally {
    await trial.close();
  }
}
