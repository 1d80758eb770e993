// Counts of what went wrong with single packets, by error code.

import type { ErrorCounts } from "../types.ts";
import { errnoCode } from "./errno.ts";

export function countError(counts: ErrorCounts, error: number | string, by = 1): void {
  const code = typeof error === "number" ? errnoCode(error) : error;
  counts.set(code, (counts.get(code) ?? 0) + by);
}
