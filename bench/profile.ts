// Where does each nanosecond of a byte go? perf samples both daemons of a tunnel under TCP (in full mode under
// 64-byte UDP), and each sample is given to a stage: a system call with all that the kernel does in it, a part of the
// core, the JavaScript of the lanes, the runtime around it. Ours alone: the stages are ours.
//
// The core is compiled once more with the names of its functions known, and the engines tell perf where they put each
// (--perf-basic-prof). Shares of samples become ns per byte by the CPU time of the same seconds.

import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { sleep } from "../test/helpers/netlab.ts";
import { type Candidate, type Kind, withArguments } from "./lib/candidates.ts";
import { type Link, warmUp, withLink } from "./lib/lab.ts";
import { usageOf, whyNoSystemCalls } from "./lib/processes.ts";
import { bench } from "./lib/run.ts";
import { figure, formatTable, sum } from "./lib/table.ts";
import { SMALL_LEN, smallPackets, tcp } from "./lib/traffic.ts";

const root = fileURLToPath(new URL("../", import.meta.url));
const SAMPLES_PER_SECOND = 1999;

/** By a frame of the kernel's stack: the first that fits. A call's own name may be gone, where it ended in a jump. */
const SYSTEM_CALLS: [RegExp, string][] = [
  [/^(__x64_sys|__arm64_sys|do|vfs)_(preadv2|preadv|readv|read)$/, "TUN read"],
  [/^(__x64|__arm64|_)_sys_send(mmsg|msg|to)$/, "UDP send"],
  [/^(__x64|__arm64|_)_sys_recv(mmsg|msg|from)$/, "UDP receive"],
  [/^(__x64_sys|__arm64_sys|do|vfs)_(writev|write)$/, "TUN write"],
  [/^(do_syscall_64|invoke_syscall)$/, "other system calls"],
];

/** By the source file of a function of the core. */
const SOURCES: [RegExp, string][] = [
  [/^crypto\/chacha20/, "core: cipher"],
  [/^crypto\/poly1305/, "core: authenticator"],
  [/^crypto\//, "core: AEAD frame"],
  [/^offload\/checksum/, "core: checksums"],
  [/^offload\/segment/, "core: segmentation"],
  [/^offload\/coalesce/, "core: coalescing"],
  [/^/, "core: tunnel"],
];

const STAGES = [
  "TUN read", "core: segmentation", "core: coalescing", "core: checksums", "core: cipher", "core: authenticator",
  "core: AEAD frame", "core: tunnel", "UDP send", "UDP receive", "TUN write", "other system calls",
  "interrupts, faults", "JavaScript", "FFI", "runtime", "C library",
];

/** What of the core each runtime can run: named, since the daemon's own choice depends on a measurement. */
const BUILDS: Record<Kind, string[]> = { "Node 24": ["wide", "relaxed"], "Node 20": ["plain"], Deno: ["relaxed"] };

/**
 * The product with a core whose functions have names.
 * @param dist  where its command lies
 * @returns its folder, and names by build and index
 */
function namedProduct(dist: string, builds: Set<string>): { folder: string; names: Map<string, string[]> } {
  const folder = join(root, "node_modules/.cache/wasmguard-profile/dist");
  mkdirSync(folder, { recursive: true });
  for (const file of readdirSync(dist)) {
    if (file.endsWith(".js")) cpSync(join(dist, file), join(folder, file));
  }
  cpSync(join(root, "package.json"), join(folder, "../package.json"));
  const names = new Map<string, string[]>();
  for (const build of builds) {
    const text = join(folder, `${build}.wat`);
    const asc = join(root, "node_modules/assemblyscript/bin/asc.js");
    const options = ["--config", "asconfig.json", "--target", build, "--textFile", text];
    const out = ["--outFile", join(folder, `core-${build}.wasm`)];
    const product = join(dist, `core-${build}.wasm`);
    if (!existsSync(text) || statSync(text).mtimeMs < statSync(product).mtimeMs) {
      execFileSync(process.execPath, [asc, "assembly/index.ts", ...options, ...out], { cwd: root, stdio: "pipe" });
    }
    // In the text, definitions stand in the order of their indices; the core imports no function.
    const found = [...readFileSync(text, "utf8").matchAll(/^ \(func \$"?(?:assembly\/)?([^\s"]+)/gm)];
    names.set(build, found.map(([, name]) => name));
  }
  return { folder, names };
}

/** The candidate with the named core, and its engine telling perf what it compiles. */
function profiled(candidate: Candidate, folder: string): Candidate {
  const command = candidate.command.map((word) => (word.endsWith("/cli.js") ? join(folder, "cli.js") : word));
  const at = command.indexOf(candidate.executable!);
  if (candidate.kind === "Deno") command.splice(at + 2, 0, "--v8-flags=--perf-basic-prof");
  else command.splice(at + 1, 0, "--perf-basic-prof");
  return { ...candidate, command };
}

interface Frame {
  symbol: string;
  object: string;
}

function stageOf(frames: Frame[], names: string[]): string {
  for (const [pattern, stage] of SYSTEM_CALLS) if (frames.some(({ symbol }) => pattern.test(symbol))) return stage;
  const [{ symbol, object }] = frames;
  if (object.includes("kernel") || object.includes("vmlinux")) return "interrupts, faults";
  const index = /wasm-function\[(\d+)\]/.exec(symbol)?.[1];
  if (index !== undefined) {
    const name = names[Number(index)] ?? "";
    return SOURCES.find(([pattern]) => pattern.test(name))![1];
  }
  if (/perf-\d+\.map|anon/.test(object)) return /^(JS:|\[unknown\])/.test(symbol) ? "JavaScript" : "runtime";
  if (object.includes("koffi")) return "FFI";
  if (/libc[.-]|vdso/.test(object)) return "C library";
  return "runtime";
}

/** Samples by stage. */
function readSamples(file: string, pid: number, names: string[]): Map<string, number> {
  const command = ["script", "-F", "ip,sym,dso", "--pid", String(pid), "-i", file];
  const text = execFileSync("perf", command, {
    encoding: "utf8", maxBuffer: 1 << 29, stdio: ["ignore", "pipe", "ignore"],
  });
  const stages = new Map<string, number>();
  for (const block of text.split("\n\n")) {
    const lines = [...block.matchAll(/^\s*[0-9a-f]+ (.*) \((.*)\)$/gm)];
    const frames = lines.map(([, symbol, object]) => ({ symbol, object }));
    if (frames.length === 0) continue;
    const stage = stageOf(frames, names);
    stages.set(stage, (stages.get(stage) ?? 0) + 1);
  }
  return stages;
}

interface Profile {
  /** by end: samples by stage */
  ends: Map<string, number>[];
  /** ns of CPU time per unit, of both ends together */
  cost: number;
}

/** @param traffic  returns how many units passed: bytes, packets */
async function profile(link: Link, names: string[], seconds: number, traffic: () => Promise<number>): Promise<Profile> {
  const data = join(link.lab.folder, "perf.data");
  const record = ["record", "-q", "-F", String(SAMPLES_PER_SECOND), "-g", "-o", data, "-p", link.pids.join(",")];
  const perf = link.lab.background(["perf", ...record]);
  await sleep(500);
  const { result, usage } = await usageOf(link.pids, traffic);
  perf.signal("SIGINT");
  await perf.ended((seconds + 20) * 1000);
  return { ends: link.pids.map((pid) => readSamples(data, pid, names)), cost: (usage.cpuSeconds * 1e9) / result };
}

function format(unit: string, { ends, cost }: Profile): string {
  const total = sum(ends.flatMap((end) => [...end.values()]));
  if (total === 0) throw new Error("perf took no samples");
  const value = (samples: number): number => (cost * samples) / total;
  const rows = STAGES.map((stage) => {
    const each = ends.map((end) => end.get(stage) ?? 0);
    return [stage, ...each.map((samples) => figure(value(samples))), `${((100 * sum(each)) / total).toFixed(1)} %`];
  });
  const all = ends.map((end) => figure(value(sum([...end.values()]))));
  const heading = [`ns/${unit}`, "sending end", "receiving end", "of both"];
  return formatTable([heading, ...rows, ["all", ...all, `${total} samples`]]);
}

await bench("where the time goes", async (run) => {
  const reason = whyNoSystemCalls();
  if (reason) return run.print(`cannot profile: ${reason.replace("system calls are not counted: ", "")}`);
  const [, ...ours] = run.few();
  const dist = dirname(ours[0].command.find((word) => word.endsWith("/cli.js"))!);
  const subjects = ours.flatMap((candidate) =>
    BUILDS[candidate.kind!].slice(0, run.options.short ? 1 : 2).map((build) => ({
      build, candidate: withArguments(candidate, `${candidate.name}, ${build}`, "--core", build),
    })),
  );
  const { folder, names } = namedProduct(dist, new Set(subjects.map(({ build }) => build)));
  for (const { build, candidate } of subjects) {
    const functions = names.get(build)!;
    await withLink(profiled(candidate, folder), async (link) => {
      try {
        await warmUp(link);
        const { seconds } = run.options;
        const bulk = await profile(
          link, functions, seconds, async () => (await tcp(link, { seconds })).gigabytes * 1e9,
        );
        run.print(`\n${candidate.name}: TCP, one flow\n\n${format("byte", bulk)}`);
        if (run.options.short) return;
        const small = await profile(
          link, functions, seconds, async () => (await smallPackets(link, seconds)).delivered * 1e3 * seconds,
        );
        run.print(`\n${candidate.name}: ${SMALL_LEN}-byte UDP\n\n${format("packet delivered", small)}`);
      } finally {
        for (const pid of link.pids) rmSync(`/tmp/perf-${pid}.map`, { force: true });
      }
    });
  }
});
