// Does our TCP get as much through a bad way as Linux's does? One flow from our stack to the kernel, one from the
// kernel to our stack, and one from the kernel to itself, each through the same shim (test/helpers/netstack-lab.ts):
// 5 ms each way, and what the heading says. CUBIC on all sides, no super-packets on any. What counts is what the reader
// got.

import { performance } from "node:perf_hooks";
import { A4, B4, type Impairment, KernelLab, StackLab } from "../test/helpers/netstack-lab.ts";
import { at } from "../test/helpers/netstack.ts";
import { bench, type Run, type Sample } from "./lib/run.ts";

const CHUNK = new Uint8Array(65_536);
const WARMUP_MS = 500;
const DELAY_MS = 5;

const WAYS: [name: string, way: Impairment][] = [
  ["nothing lost", {}],
  ["1 % reordered by 2 ms", { reorder: 0.01 }],
  ["0.1 % lost", { loss: 0.001 }],
  ["1 % lost", { loss: 0.01 }],
  ["5 % lost", { loss: 0.05 }],
  ["1 % lost, 1 % reordered, 1 % twice", { loss: 0.01, reorder: 0.01, duplicate: 0.01 }],
];

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** What a counter gains in the measured time, after the beginning. @param count  bytes so far */
async function goodput(seconds: number, count: () => Promise<number>): Promise<Sample> {
  await sleep(WARMUP_MS);
  const [from, begin] = [await count(), performance.now()];
  await sleep(seconds * 1000);
  const [to, end] = [await count(), performance.now()];
  return { "Mbit/s": ((to - from) * 8) / 1000 / (end - begin) };
}

async function kernelToKernel({ a, b }: KernelLab, seconds: number): Promise<Sample> {
  const port = await b.listen("count");
  await a.connect(B4, port, "source");
  const sample = await goodput(seconds, async () => (await b.ask<{ counted: number }>("count")).counted);
  await a.ask("stop");
  await b.ask("stop");
  return sample;
}

async function stackToKernel({ stack, kernel }: StackLab, seconds: number): Promise<Sample> {
  const port = await kernel.listen("count");
  const connection = stack.tcp.connect(at(B4, port));
  const send = (): void => {
    while (connection.write(CHUNK) > 0);
  };
  connection.onConnected = send;
  connection.onWritable = send;
  const sample = await goodput(seconds, async () => (await kernel.ask<{ counted: number }>("count")).counted);
  connection.abort();
  await kernel.ask("stop");
  return sample;
}

async function kernelToStack({ stack, kernel }: StackLab, seconds: number): Promise<Sample> {
  const listener = stack.tcp.listen(0);
  let received = 0;
  let stop = (): void => {};
  listener.onConnection = (connection) => {
    const read = (): void => {
      for (let chunk = connection.read(); chunk !== null; chunk = connection.read()) received += chunk.length;
    };
    connection.onReadable = read;
    read();
    stop = () => connection.abort();
  };
  await kernel.connect(A4, listener.local.port, "source");
  const sample = await goodput(seconds, async () => received);
  stop();
  listener.close();
  await kernel.ask("stop");
  return sample;
}

async function measure(run: Run, name: string, way: Impairment): Promise<void> {
  const labs = [new KernelLab({ delayMs: DELAY_MS, ...way }), new StackLab({ delayMs: DELAY_MS, ...way })] as const;
  try {
    const { seconds } = run.options;
    const subjects = [
      { name: "kernel to kernel", measure: () => kernelToKernel(labs[0], seconds) },
      { name: "stack to kernel", measure: () => stackToKernel(labs[1], seconds) },
      { name: "kernel to stack", measure: () => kernelToStack(labs[1], seconds) },
    ];
    run.compare(name, subjects, await run.rounds(subjects, (subject) => subject.measure()));
  } finally {
    for (const lab of labs) await lab.close();
  }
}

await bench("netstack TCP and Linux's TCP through the same shim", async (run) => {
  for (const [name, way] of WAYS) await measure(run, `${name}; ${DELAY_MS} ms each way`, way);
});
