export interface Mutant {
  name: string;
  edits: [file: string, before: string, after: string][];
  fails: string[];
}

export interface Report {
  ms: number;
  passed: number;
  failed: number;
  skipped: number;
  checks: { id: string; title: string; source: string; outcome: "pass" | "fail" | "skip"; seen: string; ms: number }[];
}

export const MUTANTS: Mutant[];
export function checkTable(): void;
export function buildMutant(mutant: Mutant): Promise<string>;
export function conform(command: string, options?: string[]): Promise<Report>;
export function tryMutant(
  mutant: Mutant,
  options?: string[],
): Promise<{ failed: string[]; seen: Record<string, string>; ms: number }>;
export function runMutants(words?: string[]): Promise<boolean>;
