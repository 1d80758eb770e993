// The text of a measurement: a title for each test, a row a second, a total, and all totals again at the end. Pure.

import type { Interval } from "./message.ts";
import { type Kind, type Plan, isDatagram, isFlow } from "./plan.ts";
import type { Exchanges, Flow, IntervalResult, TestResult } from "./result.ts";

export interface Style {
  /** bold and dim, and bars */
  terminal: boolean;
}

const TITLES: Record<Kind, string> = {
  tcp: "TCP",
  udp: "UDP",
  packets: "UDP packets",
  connections: "TCP connections",
  tcpLatency: "Latency over TCP",
  udpLatency: "Latency over UDP",
};
/** characters of the bar */
const BAR_WIDTH = 16;
const EIGHTHS = " ▏▎▍▌▋▊▉█";
const FIRST_WIDTH = 7;

/** The table of one test. Rows are told one after another: a bar is as long as its share of the most so far. */
export class Table {
  readonly #plan: Plan;
  readonly #style: Style;
  #most = 0;

  constructor(plan: Plan, style: Style) {
    this.#plan = plan;
    this.#style = style;
  }

  title(): string {
    const heads = this.#line("second", HEADS[shapeOf(this.#plan)]);
    return `${bold(describePlan(this.#plan), this.#style)}\n${dim(heads, this.#style)}\n`;
  }

  row(row: IntervalResult): string {
    return sides(row)
      .map(([way, interval]) => {
        const { bytes: received, count, ms } = interval;
        const rate = perSecond(shapeOf(this.#plan) === "stream" ? received : count, ms);
        this.#most = Math.max(this.#most, rate);
        const name = `${row.second}${this.#plan.direction === "both" ? ` ${way}` : ""}`;
        const bar = this.#style.terminal ? `  ${barOf(rate / (this.#most || 1))}` : "";
        return `${this.#line(name, intervalCells(this.#plan, interval), bar)}\n`;
      })
      .join("");
  }

  total(result: TestResult): string {
    const lines: string[] = [];
    for (const [way, flow] of [["up", result.up], ["down", result.down]] as const) {
      if (!flow) continue;
      const name = result.direction === "both" ? `all ${way}` : "all";
      lines.push(bold(this.#line(name, flowCells(result, flow)), this.#style), ...flowNotes(flow));
    }
    if (result.exchanges) {
      lines.push(bold(this.#line("all", exchangeCells(result.exchanges)), this.#style));
      lines.push(...exchangeNotes(result.exchanges));
    }
    const { client, server } = result.cpuPercent;
    lines.push(note(dim(`processor: ${client.toFixed(0)} % here, ${server.toFixed(0)} % there`, this.#style)));
    return `${lines.join("\n")}\n`;
  }

  #line(first: string, cells: string[], bar = ""): string {
    const widths = WIDTHS[shapeOf(this.#plan)];
    return `${first.padStart(FIRST_WIDTH)}  ${cells.map((cell, i) => cell.padStart(widths[i])).join("  ")}${bar}`;
  }
}

/** A line each test: what one would tell others. */
export function formatSummary(results: readonly TestResult[], style: Style): string {
  const lines = results.flatMap((result) => {
    const name = TITLES[result.kind].padEnd(18);
    if (result.exchanges) return [`  ${name}      ${headline(result.exchanges)}`];
    return ([["up", result.up], ["down", result.down]] as const).flatMap(([way, flow]) =>
      flow ? [`  ${name}${way.padEnd(6)}${flowHeadline(result.kind, flow)}`] : [],
    );
  });
  return `${bold("Summary", style)}\n${lines.join("\n")}\n`;
}

export function describePlan({ kind, direction, streams, length, rate, ms }: Plan): string {
  const way = { up: "to the server", down: "from the server", both: "both ways at once" }[direction];
  const words = [isFlow(kind) ? `${TITLES[kind]} ${way}` : TITLES[kind]];
  if (streams > 1) words.push(`${streams} ${isFlow(kind) ? "streams" : "at a time"}`);
  if (kind === "tcp") words.push(`writes of ${length} bytes`);
  else if (kind !== "connections") words.push(`${isFlow(kind) ? "datagrams" : "requests"} of ${length} bytes`);
  if (rate > 0) words.push(`at ${bits(rate)}`);
  words.push(`${+(ms / 1000).toFixed(2)} s`);
  return words.join(", ");
}

/** One line for a server's log. */
export function describeResult(result: TestResult): string {
  const plan = describePlan({ ...result, ms: result.plannedSeconds * 1000 });
  const ways = [["up", result.up], ["down", result.down]] as const;
  const flows = ways.flatMap(([way, flow]) =>
    flow ? [`${result.direction === "both" ? `${way} ` : ""}${inLine(flowHeadline(result.kind, flow))}`] : [],
  );
  const exchanges = result.exchanges ? inLine(headline(result.exchanges)) : "";
  return `${plan}: ${[...flows, exchanges].filter(Boolean).join("; ")}`;
}

type Shape = "stream" | "datagram" | "exchange";

const HEADS: Record<Shape, string[]> = {
  stream: ["received", "rate"],
  datagram: ["received", "rate", "datagrams/s", "lost", "jitter"],
  exchange: ["done", "per second", "lost", "p50", "p99"],
};
const WIDTHS: Record<Shape, number[]> = {
  stream: [10, 13],
  datagram: [10, 13, 11, 16, 9],
  exchange: [10, 11, 8, 9, 9],
};

function shapeOf({ kind }: { kind: Kind }): Shape {
  if (!isFlow(kind)) return "exchange";
  return isDatagram(kind) ? "datagram" : "stream";
}

function sides({ up, down }: IntervalResult): ["up" | "down", Interval][] {
  return [...(up ? [["up", up] as ["up", Interval]] : []), ...(down ? [["down", down] as ["down", Interval]] : [])];
}

function intervalCells(plan: Plan, { bytes: received, count, ms, lost, jitterMs, p50Ms, p99Ms }: Interval): string[] {
  const shape = shapeOf(plan);
  if (shape === "exchange") {
    return [thousands(count), thousands(perSecond(count, ms)), thousands(lost), time(p50Ms), time(p99Ms)];
  }
  const cells = [bytes(received), bits(perSecond(received, ms) * 8)];
  if (shape === "stream") return cells;
  return [...cells, thousands(perSecond(count, ms)), lostCell(lost, lost + count), time(jitterMs)];
}

function flowCells({ kind }: TestResult, { receivedBytes, bitsPerSecond, datagrams }: Flow): string[] {
  const cells = [bytes(receivedBytes), bits(bitsPerSecond)];
  if (shapeOf({ kind }) === "stream" || !datagrams) return cells;
  const { perSecond: rate, lost, sent, jitterMs } = datagrams;
  return [...cells, thousands(rate), lostCell(lost, sent), time(jitterMs)];
}

function exchangeCells({ done, perSecond: rate, lost, times }: Exchanges): string[] {
  return [thousands(done), thousands(rate), thousands(lost), time(times?.p50Ms ?? 0), time(times?.p99Ms ?? 0)];
}

/** What is worth saying only when it happened. */
function flowNotes({ sentBytes, receivedBytes, datagrams, errors, bytesByStream }: Flow): string[] {
  const notes: string[] = [];
  if (!datagrams && sentBytes !== receivedBytes) {
    const missing = Math.max(0, sentBytes - receivedBytes);
    notes.push(`${bytes(sentBytes)} were sent: ${bytes(missing)} did not arrive in time`);
  }
  if (datagrams?.reordered) notes.push(`${thousands(datagrams.reordered)} out of order`);
  if (datagrams?.duplicates) notes.push(`${thousands(datagrams.duplicates)} came twice`);
  if (bytesByStream.length > 1) notes.push(`by stream: ${bytesByStream.map(bytes).join(", ")}`);
  return [...notes, ...errorNotes(errors)].map(note);
}

function exchangeNotes({ times, errors, done, answered }: Exchanges): string[] {
  const notes: string[] = [];
  if (times) {
    const { minMs, meanMs, p50Ms, p90Ms, p99Ms, p999Ms, maxMs } = times;
    notes.push(
      `min ${time(minMs)}  mean ${time(meanMs)}  p50 ${time(p50Ms)}  p90 ${time(p90Ms)}  p99 ${time(p99Ms)}  ` +
        `p99.9 ${time(p999Ms)}  max ${time(maxMs)}`,
    );
  }
  if (answered > done) {
    notes.push(`the server answered ${thousands(answered)}: ${thousands(answered - done)} answers did not come in time`);
  }
  return [...notes, ...errorNotes(errors)].map(note);
}

function errorNotes(errors: Record<string, number>): string[] {
  const all = Object.entries(errors).map(([code, count]) => `${code} ${thousands(count)}`);
  return all.length > 0 ? [`errors: ${all.join(", ")}`] : [];
}

function note(text: string): string {
  return `${"".padStart(FIRST_WIDTH)}  ${text}`;
}

function flowHeadline(kind: Kind, { bitsPerSecond, datagrams }: Flow): string {
  const rate = bits(bitsPerSecond).padStart(13);
  if (!datagrams) return rate.trimEnd();
  const { perSecond: count, lost, sent, jitterMs } = datagrams;
  const first = kind === "packets" ? `${thousands(count)} /s`.padStart(13) : rate;
  return `${first}  lost ${lostCell(lost, sent)}  jitter ${time(jitterMs)}`;
}

function headline({ perSecond: rate, times, lost }: Exchanges): string {
  const words = [`${thousands(rate)} /s`.padStart(13)];
  if (times) words.push(`p50 ${time(times.p50Ms)}`, `p99 ${time(times.p99Ms)}`, `p99.9 ${time(times.p999Ms)}`);
  if (lost > 0) words.push(`lost ${thousands(lost)}`);
  return words.join("  ");
}

/** A headline as part of a sentence. */
function inLine(text: string): string {
  return text.trim().replace(/ {2,}/g, ", ");
}

function lostCell(lost: number, of: number): string {
  if (lost === 0) return "0";
  const percent = (lost / of) * 100;
  return `${thousands(lost)} (${percent < 0.1 ? "<0.1" : percent.toFixed(1)} %)`;
}

function perSecond(count: number, ms: number): number {
  return ms > 0 ? (count / ms) * 1000 : 0;
}

/** Three figures and a unit. */
function scaled(value: number, units: readonly string[]): string {
  let unit = 0;
  let left = value;
  while (left >= 999.5 && unit < units.length - 1) {
    left /= 1000;
    unit++;
  }
  if (unit === 0 && Number.isInteger(left)) return `${left} ${units[0]}`;
  return `${left.toFixed(left >= 99.95 ? 0 : left >= 9.995 ? 1 : 2)} ${units[unit]}`;
}

export function bits(perSecond: number): string {
  return scaled(Math.round(perSecond), ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"]);
}

export function bytes(count: number): string {
  return scaled(count, ["B", "kB", "MB", "GB", "TB"]);
}

export function time(ms: number): string {
  if (ms === 0) return "-";
  if (ms >= 1000) return `${(ms / 1000).toFixed(2)} s`;
  return ms < 1 ? `${(ms * 1000).toFixed(0)} us` : `${ms.toFixed(ms < 10 ? 2 : 1)} ms`;
}

function thousands(count: number): string {
  return String(Math.round(count)).replace(/\B(?=(\d{3})+$)/g, ",");
}

function barOf(share: number): string {
  const eighths = Math.round(Math.min(1, share) * BAR_WIDTH * 8);
  return "█".repeat(eighths >> 3) + (eighths & 7 ? EIGHTHS[eighths & 7] : "");
}

function bold(text: string, { terminal }: Style): string {
  return terminal ? `\x1b[1m${text}\x1b[0m` : text;
}

function dim(text: string, { terminal }: Style): string {
  return terminal ? `\x1b[2m${text}\x1b[0m` : text;
}
