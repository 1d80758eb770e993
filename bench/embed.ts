// What does a tunnel inside a program pass, with the stack of our own, beside the daemon with the kernel's? One TCP flow
// between two processes on this machine, each with one end: embedded over the loopback interface, the daemon's between
// two namespaces, measured by iperf3. The goal is 60 % of the daemon's.

import { type ChildProcess, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { encodeBase64Key, generatePrivateKey } from "../host/keys.ts";
import { compileCore, createCore } from "../host/core.ts";
import { fillRandom } from "../host/platform/random.ts";
import { type Candidate, scriptCommand } from "./lib/candidates.ts";
import type { Order, Report } from "./lib/embedded.ts";
import { withLinks } from "./lib/lab.ts";
import { usageOf } from "./lib/processes.ts";
import { bench, type Sample } from "./lib/run.ts";
import { tcp } from "./lib/traffic.ts";

const SCRIPT = new URL("./lib/embedded.ts", import.meta.url);
const core = createCore(await compileCore(), fillRandom, { maxPeers: 1 });

class End {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  constructor(executable: string) {
    const [command, ...args] = scriptCommand(executable, SCRIPT);
    this.#child = spawn(command, args, { stdio: ["pipe", "pipe", "inherit"] });
    this.#lines = createInterface({ input: this.#child.stdout! })[Symbol.asyncIterator]();
  }

  tell(order: Order): void {
    this.#child.stdin!.end(`${JSON.stringify(order)}\n`);
  }

  async hear<T>(): Promise<T> {
    const { value, done } = await this.#lines.next();
    if (done) throw new Error("an end of the embedded tunnel broke off");
    return JSON.parse(value as string) as T;
  }

  kill(): void {
    this.#child.kill("SIGKILL");
  }
}

interface Embedded {
  name: string;
  executable: string;
  carriage: Order["carriage"];
  level: Order["level"];
}

async function transfer({ executable, carriage, level }: Embedded, seconds: number): Promise<Sample> {
  const keys = [0, 1].map(() => {
    const privateKey = generatePrivateKey();
    return { privateKey: encodeBase64Key(privateKey), publicKey: encodeBase64Key(core.publicKey(privateKey)) };
  });
  const ends = [new End(executable), new End(executable)];
  const [listener, dialer] = ends;
  const orders = keys.map(({ privateKey }, i): Order => (
    { privateKey, peerKey: keys[1 - i].publicKey, peerPort: null, carriage, level, seconds }
  ));
  try {
    listener.tell(orders[0]);
    const { port } = await listener.hear<{ port: number }>();
    dialer.tell({ ...orders[1], peerPort: port });
    const reports = await Promise.all(ends.map((end) => end.hear<Report>()));
    const [{ bytes, ms }] = reports;
    const cpuSeconds = reports.reduce((sum, report) => sum + report.cpuSeconds, 0);
    return { "Gbit/s": (bytes * 8) / (ms * 1e6), "CPU s per GB": cpuSeconds / (bytes / 1e9) };
  } finally {
    for (const end of ends) end.kill();
  }
}

await bench("one TCP flow: embedded and its own stack, or the daemon and the kernel's, Gbit/s", (run) => {
  const { seconds } = run.options;
  const { ours } = run.candidates;
  const embedded = ours.flatMap(({ name, executable }): Embedded[] => [
    { name: `${name}, embedded, FFI`, executable: executable!, carriage: "native", level: "stack" },
    { name: `${name}, embedded, FFI, as a stream`, executable: executable!, carriage: "native", level: "tunnel" },
    { name: `${name}, embedded, node:dgram`, executable: executable!, carriage: "udp", level: "stack" },
  ]);
  return withLinks(ours, async (links) => {
    const measureDaemon = async (name: string): Promise<Sample> => {
      const link = links.find((one) => one.name === name)!;
      const { result, usage } = await usageOf(link.pids, () => tcp(link, { seconds, flows: 1 }));
      return { "Gbit/s": result.gbits, "CPU s per GB": usage.cpuSeconds / result.gigabytes };
    };
    const subjects: { name: string; measure: () => Promise<Sample> }[] = [
      ...ours.map(({ name }: Candidate) => ({ name, measure: () => measureDaemon(name) })),
      ...embedded.map((one) => ({ name: one.name, measure: () => transfer(one, seconds) })),
    ];
    const samples = await run.rounds(subjects, ({ measure }) => measure());
    for (const { name } of ours) {
      const rows = subjects.flatMap((subject, i) => (subject.name.startsWith(name) ? [{ subject, list: samples[i] }] : []));
      const heading = `${name}: the daemon (its own CPU alone, the stack is the kernel's), and embedded`;
      run.compare(heading, rows.map(({ subject }) => subject), rows.map(({ list }) => list));
    }
  });
});
