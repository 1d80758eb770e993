// What a process cost, from /proc: CPU time, context switches, memory; and its system calls, counted by perf where
// there is one. All of it is read from outside, so no implementation has to be trusted with its own figures.

import { existsSync, readFileSync, readdirSync } from "node:fs";
import { delimiter, join } from "node:path";
import process from "node:process";
import type { Lab } from "../../test/helpers/netlab.ts";

/** of utime and stime in /proc/PID/stat: fixed in Linux's interface to programs */
const TICKS_PER_SECOND = 100;

/** Totals since a process began, of all its threads. */
export interface Usage {
  /** user and system, ended threads included; a resolution of 10 ms */
  cpuSeconds: number;
  /** it waited for something */
  voluntary: number;
  /** somebody else took its core */
  involuntary: number;
}

interface Switches {
  voluntary: number;
  involuntary: number;
}

/** A look at a process; `until(later)` tells what it used between. */
export class Snapshot {
  readonly #cpuSeconds: number;
  readonly #threads = new Map<string, Switches>();

  constructor(pid: number) {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The name is in parentheses and may hold blanks: fields count from after it, utime is the 14th of all.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    this.#cpuSeconds = (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
    for (const thread of readdirSync(`/proc/${pid}/task`)) {
      try {
        const status = readFileSync(`/proc/${pid}/task/${thread}/status`, "utf8");
        this.#threads.set(thread, {
          voluntary: field(status, "voluntary_ctxt_switches"),
          involuntary: field(status, "nonvoluntary_ctxt_switches"),
        });
      } catch {
        // The thread ended meanwhile.
      }
    }
  }

  until(later: Snapshot): Usage {
    const usage = { cpuSeconds: later.#cpuSeconds - this.#cpuSeconds, voluntary: 0, involuntary: 0 };
    for (const [thread, { voluntary, involuntary }] of later.#threads) {
      const before = this.#threads.get(thread);
      usage.voluntary += voluntary - (before?.voluntary ?? 0);
      usage.involuntary += involuntary - (before?.involuntary ?? 0);
    }
    return usage;
  }
}

/** What several processes used, added up, while `work` ran. */
export async function usageOf<T>(pids: number[], work: () => Promise<T>): Promise<{ result: T; usage: Usage }> {
  const before = pids.map((pid) => new Snapshot(pid));
  const result = await work();
  const usage = { cpuSeconds: 0, voluntary: 0, involuntary: 0 };
  pids.forEach((pid, i) => {
    const used = before[i].until(new Snapshot(pid));
    usage.cpuSeconds += used.cpuSeconds;
    usage.voluntary += used.voluntary;
    usage.involuntary += used.involuntary;
  });
  return { result, usage };
}

/** Resident memory in MB = 10^6 bytes: now, and the most there ever was. */
export function residentMemory(pid: number): { now: number; peak: number } {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const megabytes = (name: string): number => (field(status, name) * 1024) / 1e6;
  return { now: megabytes("VmRSS"), peak: megabytes("VmHWM") };
}

/** The most resident memory each process has while `work` runs, MB; looked at five times a second. */
export async function memoryDuring<T>(pids: number[], work: () => Promise<T>): Promise<{ result: T; most: number[] }> {
  const most = pids.map(() => 0);
  const look = (): void => pids.forEach((pid, i) => (most[i] = Math.max(most[i], residentMemory(pid).now)));
  const timer = setInterval(look, 200);
  try {
    const result = await work();
    look();
    return { result, most };
  } finally {
    clearInterval(timer);
  }
}

function field(status: string, name: string): number {
  return Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(status)?.[1] ?? NaN);
}

/** Why system calls cannot be counted here; null when they can. */
export function whyNoSystemCalls(): string | null {
  const perf = (process.env.PATH ?? "").split(delimiter).some((folder) => existsSync(join(folder, "perf")));
  if (!perf) return "system calls are not counted: there is no perf (Debian: linux-perf)";
  // strace counts too, but stops the process at each: what it counts is another program's pace.
  if (!existsSync("/sys/kernel/tracing/events/raw_syscalls/sys_enter")) {
    return "system calls are not counted: no tracepoint raw_syscalls:sys_enter (is tracefs mounted?)";
  }
  return null;
}

/** System calls of processes while `work` runs. Apart from other figures: counting costs some 100 ns each. */
export async function systemCallsDuring<T>(
  lab: Lab,
  pids: number[],
  work: () => Promise<T>,
): Promise<{ result: T; calls: number }> {
  const command = ["perf", "stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", pids.join(",")];
  const perf = lab.background(command);
  await new Promise((resolve) => setTimeout(resolve, 300)); // until it is attached; it says nothing
  const result = await work();
  perf.signal("SIGINT");
  await perf.ended();
  const calls = Number(/^(\d+),.*raw_syscalls/m.exec(perf.output())?.[1] ?? NaN);
  if (Number.isNaN(calls)) throw new Error(`perf stat counted nothing:\n${perf.output()}`);
  return { result, calls };
}
