// All checks, in the order of the table.

import type { Check } from "../check.ts";
import { cookies } from "./cookies.ts";
import { data } from "./data.ts";
import { initiation } from "./initiation.ts";
import { initiator } from "./initiator.ts";
import { junkChecks } from "./junk.ts";
import { response } from "./response.ts";
import { roaming } from "./roaming.ts";
import { timers } from "./timers.ts";
import { uapi } from "./uapi.ts";

export const CHECKS: readonly Check[] = [
  ...initiation,
  ...response,
  ...initiator,
  ...data,
  ...roaming,
  ...timers,
  ...cookies,
  ...junkChecks,
  ...uapi,
];

/**
 * Checks whose id has one of the patterns in it: texts parted by commas, "*" for any characters, "-" before one that is
 * left out.
 */
export function choose(checks: readonly Check[], patterns: string | undefined): Check[] {
  const all = (patterns ?? "").split(",").filter(Boolean);
  const matches = (id: string, pattern: string): boolean =>
    new RegExp(pattern.replace(/[.+?^${}()|[\]\\]/g, "\\$&").replaceAll("*", ".*")).test(id);
  const wanted = all.filter((pattern) => !pattern.startsWith("-"));
  const unwanted = all.filter((pattern) => pattern.startsWith("-")).map((pattern) => pattern.slice(1));
  return checks.filter(
    ({ id }) =>
      (wanted.length === 0 || wanted.some((pattern) => matches(id, pattern))) &&
      !unwanted.some((pattern) => matches(id, pattern)),
  );
}
