// Statistics and tables of the benchmarks. Medians and not means: one neighbour's burst must not move a figure.

/** The value that `fraction` of the list lies below: 0.5 median, 0.99 p99; the nearest rank. NaN of an empty list. */
export function quantile(values: number[], fraction: number): number {
  if (values.length === 0) return NaN;
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(sorted.length * fraction) - 1))];
}

/** Of an even count the mean of the middle two. */
export function median(values: number[]): number {
  if (values.length % 2 === 1) return quantile(values, 0.5);
  const sorted = [...values].sort((a, b) => a - b);
  return (sorted[sorted.length / 2 - 1] + sorted[sorted.length / 2]) / 2;
}

export const sum = (values: number[]): number => values.reduce((total, value) => total + value, 0);
export const mean = (values: number[]): number => sum(values) / values.length;

/** Three significant digits, without an exponent. */
export function figure(value: number): string {
  if (!Number.isFinite(value)) return "-";
  const digits = Number.isInteger(value) ? 0 : Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return value.toFixed(Math.min(digits, 4)).replace(/\B(?=(\d{3})+$)/g, Math.abs(value) >= 10_000 ? "," : "");
}

/** A table as Markdown, which is also readable as it is: the first column to the left, the others to the right. */
export function formatTable(rows: string[][]): string {
  const widths = rows[0].map((_, column) => Math.max(3, ...rows.map((row) => (row[column] ?? "").length)));
  const pad = (text: string, i: number): string => (i === 0 ? text.padEnd(widths[i]) : text.padStart(widths[i]));
  const line = (row: string[]): string => `| ${widths.map((_, i) => pad(row[i] ?? "", i)).join(" | ")} |`;
  const rules = widths.map((width, i) => (i === 0 ? "-".repeat(width + 2) : `${"-".repeat(width + 1)}:`));
  return [line(rows[0]), `|${rules.join("|")}|`, ...rows.slice(1).map(line)].join("\n");
}
