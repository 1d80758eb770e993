// Results for people, for TAP readers and for programs. The table says by words what colour says again.

import type { Result } from "./run.ts";

export interface Summary {
  passed: number;
  failed: number;
  skipped: number;
}

const COLOUR = { pass: "32", fail: "31;1", skip: "33", dim: "2", bold: "1" } as const;
const WORD = { pass: "ok", fail: "FAIL", skip: "skip" } as const;
const WORD_WIDTH = 5;
const ID_WIDTH = 32;
const WIDTH_MIN = 72;

export function summarize(results: readonly Result[]): Summary {
  const count = (outcome: Result["outcome"]): number => results.filter((it) => it.outcome === outcome).length;
  return { passed: count("pass"), failed: count("fail"), skipped: count("skip") };
}

export interface Style {
  colour: boolean;
  /** characters of a line */
  width: number;
}

/** One check in the table, with a line end; a headline before it when it is the first of its group. */
export function formatRow({ check, outcome, seen }: Result, before: Result | undefined, style: Style): string {
  const paint = (code: keyof typeof COLOUR, text: string): string =>
    style.colour ? `\x1b[${COLOUR[code]}m${text}\x1b[0m` : text;
  const [group] = check.id.split(".");
  const isFirst = before?.check.id.split(".")[0] !== group;
  const indent = " ".repeat(WORD_WIDTH + ID_WIDTH);
  const room = Math.max(style.width, WIDTH_MIN) - indent.length;
  const rows = wrap(check.title, room).map((line) => indent + line);
  rows[0] =
    paint(outcome, WORD[outcome].padEnd(WORD_WIDTH)) + paint("bold", check.id.padEnd(ID_WIDTH)) + rows[0].trimStart();
  // The source beside the title where there is room for it.
  const lastLength = wrap(check.title, room).at(-1)!.length;
  if (lastLength + 2 + check.source.length <= room) rows[rows.length - 1] += `  ${paint("dim", check.source)}`;
  else rows.push(...wrap(check.source, room).map((line) => indent + paint("dim", line)));
  if (seen) {
    const label = { pass: "seen: ", fail: "but: ", skip: "" }[outcome];
    for (const line of wrap(label + seen, room)) rows.push(indent + paint(outcome === "pass" ? "dim" : outcome, line));
  }
  return `${isFirst && before ? "\n" : ""}${rows.join("\n")}\n`;
}

export function formatSummary(results: readonly Result[], ms: number, style: Style): string {
  const { passed, failed, skipped } = summarize(results);
  const counts = `${passed} passed, ${failed} failed, ${skipped} skipped`;
  const text = `${results.length} checks: ${counts}, in ${(ms / 1000).toFixed(0)} s`;
  const lines = [
    text,
    ...results.filter(({ outcome }) => outcome === "fail").map(({ check }) => `  failed: ${check.id}`),
  ];
  const code = COLOUR[failed ? "fail" : "pass"];
  return lines.map((line) => (style.colour ? `\x1b[${code}m${line}\x1b[0m\n` : `${line}\n`)).join("");
}

/** TAP 14. https://testanything.org/tap-version-14-specification.html */
export function formatTap(results: readonly Result[]): string {
  const escape = (text: string): string => text.replace(/[\\#]/g, "\\$&").replace(/\s+/g, " ");
  const lines = ["TAP version 14", `1..${results.length}`];
  results.forEach(({ check, outcome, seen, ms }, i) => {
    const skip = outcome === "skip" ? ` # SKIP ${seen.replace(/\s+/g, " ")}` : "";
    lines.push(`${outcome === "fail" ? "not ok" : "ok"} ${i + 1} - ${escape(`${check.id}: ${check.title}`)}${skip}`);
    if (outcome === "skip") return;
    lines.push("  ---", `  source: ${JSON.stringify(check.source)}`, `  duration_ms: ${Math.round(ms)}`);
    if (seen) lines.push(`  ${outcome === "fail" ? "message" : "seen"}: ${JSON.stringify(seen)}`);
    lines.push("  ...");
  });
  return `${lines.join("\n")}\n`;
}

export function formatJson(results: readonly Result[], peer: string, ms: number): string {
  const checks = results.map(({ check: { id, title, source }, outcome, seen, ms }) => ({
    id,
    title,
    source,
    outcome,
    seen,
    ms: Math.round(ms),
  }));
  return `${JSON.stringify({ peer, ms: Math.round(ms), ...summarize(results), checks }, null, 2)}\n`;
}

function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const paragraph of text.split("\n")) {
    let line = "";
    for (const word of paragraph.split(" ")) {
      if (line && line.length + 1 + word.length > width) {
        lines.push(line);
        line = word;
      } else line = line ? `${line} ${word}` : word;
    }
    lines.push(line);
  }
  return lines;
}
