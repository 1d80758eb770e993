// Who takes part: wireguard-go, and ours on each runtime of the goals that this machine has. What is not found is
// named, with the places that were looked at.
//
// Runtimes: the one that runs the benchmark, those of WASMGUARD_RUNTIMES, of .ci/runtimes (npm ci --prefix
// .ci/runtimes) and of PATH; the first of a kind counts. Deno is taken as its own program: behind npm's wrapper
// script the process id would be that of a Node that waits.

import { execFileSync } from "node:child_process";
import { existsSync, realpathSync } from "node:fs";
import { basename, delimiter, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { fetchWireguardGo } from "../../build/peers.mjs";
import { type Implementation, onRuntime } from "../../test/helpers/peers.ts";

/** The columns of the goals. */
export const KINDS = ["Node 24", "Node 20", "Deno"] as const;
export type Kind = (typeof KINDS)[number];

export interface Candidate extends Implementation {
  /** null: wireguard-go */
  kind: Kind | null;
  /** of ours: the runtime's program */
  executable?: string;
}

export interface Candidates {
  all: Candidate[];
  theirs: Candidate;
  ours: Candidate[];
  /** one line each */
  missing: string[];
}

const root = fileURLToPath(new URL("../../", import.meta.url));

/** `env` becomes the program itself, so the process id stays that of the daemon. */
const QUIET = ["env", "LOG_LEVEL=error", "DENO_NO_UPDATE_CHECK=1"];

function places(): string[] {
  const folders = (process.env.PATH ?? "").split(delimiter).filter(Boolean);
  return [
    process.execPath,
    ...(process.env.WASMGUARD_RUNTIMES ?? "").split(",").filter(Boolean),
    join(root, ".ci/runtimes/node_modules/node24/bin/node"),
    join(root, ".ci/runtimes/node_modules/deno/deno"),
    ...folders.flatMap((folder) => [join(folder, "node"), join(folder, "deno")]),
  ];
}

function kindOf(name: string): Kind | null {
  if (name.startsWith("deno")) return "Deno";
  const major = Number(/v(\d+)\./.exec(name)?.[1]);
  return major >= 24 ? "Node 24" : major >= 20 ? "Node 20" : null;
}

/** "node v20.1.2" or "deno 2.9.3 (stable, ...)" to what tables show. */
function title(name: string): string {
  return name.replace(/^node v/, "Node ").replace(/^deno ([^ ]+).*/, "Deno $1");
}

function findRuntimes(): Candidate[] {
  const found = new Map<Kind, Candidate>();
  for (const place of places()) {
    if (!existsSync(place) || !/^(node|deno)$/.test(basename(realpathSync(place)))) continue;
    try {
      const { name, command } = onRuntime(place);
      const kind = kindOf(name);
      if (!kind || found.has(kind)) continue;
      found.set(kind, { name: title(name), command: [...QUIET, ...command], kind, executable: place });
    } catch {
      // It does not run here: the next place may.
    }
  }
  return KINDS.flatMap((kind) => found.get(kind) ?? []);
}

/**
 * All that takes part.
 * @param only  parts of names, as "Node 24" or "deno"; empty = all. wireguard-go always takes part
 * @param core  ours with this build of the core; default: the daemon's own choice
 * @throws {Error} when there is no wireguard-go to compare with
 */
export function findCandidates(only: string[] = [], core?: string): Candidates {
  const { path, version } = fetchWireguardGo();
  const theirs: Candidate = { name: version.replace(/ \(.*/, ""), command: [...QUIET, path], kind: null };
  const wanted = ({ name }: { name: string }): boolean =>
    only.length === 0 || only.some((part) => name.toLowerCase().includes(part.toLowerCase()));
  const runtimes = findRuntimes();
  const ours = runtimes
    .filter(wanted)
    .map((candidate) => (core ? withArguments(candidate, `${candidate.name} ${core}`, "--core", core) : candidate));
  const missing = KINDS.filter((kind) => !runtimes.some((candidate) => candidate.kind === kind)).map(
    (kind) => `not found, so not measured: ${kind} (in WASMGUARD_RUNTIMES, .ci/runtimes and PATH)`,
  );
  for (const { name } of runtimes) if (!wanted({ name })) missing.push(`not asked for: ${name}`);
  if (ours.length === 0) throw new Error(`no runtime of ours matches ${only.join(", ")}`);
  return { all: [theirs, ...ours], theirs, ours, missing };
}

/** The same candidate with more arguments for its daemon. */
export function withArguments(candidate: Candidate, name: string, ...args: string[]): Candidate {
  return { ...candidate, name, command: [...candidate.command, ...args] };
}

/** The command that runs one of our scripts on a runtime; TypeScript needs a loader on Node before 22.18. */
export function scriptCommand(executable: string, script: URL, ...args: string[]): string[] {
  const file = fileURLToPath(script);
  if (basename(executable).startsWith("deno")) return [executable, "run", "-A", file, ...args];
  const version = execFileSync(executable, ["--version"], { encoding: "utf8" });
  const [major, minor] = version.slice(1).split(".").map(Number);
  const strips = major > 22 || (major === 22 && minor >= 18);
  return [executable, ...(strips ? ["--no-warnings"] : ["--import", "tsx"]), file, ...args];
}
