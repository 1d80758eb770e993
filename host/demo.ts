// npm start: a web server that lives inside a WireGuard tunnel, and a program that fetches from it; each in a thread of
// its own with a UDP port on the loopback interface. No network interface, no privileges: what `Tunnel` is for.

import { createServer } from "node:http";
import process from "node:process";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { pickBuild } from "./core.ts";
import { encodeBase64Key, generatePresharedKey, generatePrivateKey } from "./keys.ts";
import { Tunnel, type TunnelStats } from "./tunnel/tunnel.ts";

const SERVER = "10.0.0.1";
const CLIENT = "10.0.0.2";
const LOOPBACK = "127.0.0.1";
const PINGS = 10;
const PING_INTERVAL_MS = 100;
const REQUESTS_MS = 2000;
const DOWNLOAD_MS = 10_000;
const BLOCK_SIZE = 64 << 10;

/** What the threads tell each other before there is a tunnel between them. */
interface Told {
  listenPort: number;
  publicKey: string;
}

/** The thread of the server: a tunnel, and Node's own http server behind it. */
async function serve(presharedKey: string): Promise<void> {
  const settings = { privateKey: encodeBase64Key(generatePrivateKey()), addresses: [`${SERVER}/32`], peers: [] };
  const tunnel = await Tunnel.open(settings, { bindAddress: LOOPBACK });
  const block = new Uint8Array(BLOCK_SIZE);
  const http = createServer((request, response) => {
    if (request.url !== "/download") {
      return response.end(`Hello ${request.socket.remoteAddress}, from inside the tunnel`);
    }
    const more = (): void => {
      while (!response.destroyed && response.write(block));
    };
    response.on("drain", more);
    return more();
  });
  tunnel.serve(http, { port: 80 });
  parentPort!.on("message", async (message: string) => {
    if (message === "stats") return parentPort!.postMessage(tunnel.stats());
    if (message !== "close") return tunnel.setPeer({ publicKey: message, presharedKey, allowedIps: [`${CLIENT}/32`] });
    await tunnel.close();
    return parentPort!.postMessage("closed");
  });
  parentPort!.postMessage({ listenPort: tunnel.listenPort, publicKey: tunnel.publicKey } satisfies Told);
}

const isTerminal = process.stdout.isTTY === true;
const style = (code: number) => (text: string) => (isTerminal ? `\x1b[${code}m${text}\x1b[0m` : text);
const [bold, dim, green] = [1, 2, 32].map(style);

/** A line that the next one takes the place of; nothing where there is no terminal. */
function live(line: string): void {
  if (isTerminal) process.stdout.write(`\r\x1b[2K${line}`);
}

function say(what: string, line: string, note = ""): void {
  process.stdout.write(`${isTerminal ? "\r\x1b[2K" : ""}  ${what.padEnd(12)} ${line}  ${dim(note)}`.trimEnd() + "\n");
}

const mebibytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
const median = (values: number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1];

/** Times of single round trips. */
async function roundTrips(
  what: string,
  count: number,
  once: () => Promise<unknown>,
  signal: AbortSignal,
): Promise<void> {
  const times: number[] = [];
  for (let i = 1; i <= count && !signal.aborted; i++) {
    const begun = performance.now();
    await once();
    times.push(performance.now() - begun);
    live(`  ${what.padEnd(12)} ${times.at(-1)!.toFixed(2)} ms  ${dim(`${i}/${count}`)}`);
    await new Promise((resolve) => setTimeout(resolve, PING_INTERVAL_MS));
  }
  const range = `${Math.min(...times).toFixed(2)} to ${Math.max(...times).toFixed(2)}`;
  if (!signal.aborted) say(what, bold(`${median(times).toFixed(2)} ms`), `median of ${count}, ${range}`);
}

async function requests(tunnel: Tunnel, signal: AbortSignal): Promise<void> {
  const begun = performance.now();
  let count = 0;
  const asker = async (): Promise<void> => {
    while (performance.now() - begun < REQUESTS_MS) {
      await (await tunnel.fetch(`http://${SERVER}/`, { signal })).text();
      count++;
      if (count % 100 === 0) live(`  ${"requests".padEnd(12)} ${count}`);
    }
  };
  await Promise.all(Array.from({ length: 8 }, asker));
  const rate = count / ((performance.now() - begun) / 1000);
  say("requests", bold(`${rate.toFixed(0)} a second`), "8 at a time, connections kept");
}

async function download(tunnel: Tunnel, signal: AbortSignal): Promise<void> {
  const begun = performance.now();
  let bytes = 0;
  let shown = { at: begun, bytes: 0 };
  const response = await tunnel.fetch(`http://${SERVER}/download`, { signal });
  for await (const chunk of response.body!) {
    bytes += chunk.length;
    const now = performance.now();
    if (now - begun >= DOWNLOAD_MS) break;
    if (now - shown.at < 500) continue;
    const rate = ((bytes - shown.bytes) * 8) / ((now - shown.at) * 1000);
    const rest = dim(`${Math.ceil((DOWNLOAD_MS - (now - begun)) / 1000)} s`);
    live(`  ${"download".padEnd(12)} ${bold(`${rate.toFixed(0).padStart(5)} Mbit/s`)}  ${mebibytes(bytes)}  ${rest}`);
    shown = { at: now, bytes };
  }
  const rate = (bytes * 8) / ((performance.now() - begun) * 1000);
  say("download", bold(`${rate.toFixed(0)} Mbit/s`), `${mebibytes(bytes)} in one connection`);
}

function counters(name: string, { peers: [peer], drops }: TunnelStats): void {
  const dropped = Object.entries(drops).map(([reason, count]) => `${reason} ${count}`);
  say(
    name,
    `sent ${mebibytes(peer.txBytes)}, received ${mebibytes(peer.rxBytes)}`,
    dropped.join(", ") || "nothing dropped",
  );
}

async function main(): Promise<void> {
  const interrupted = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => interrupted.abort());
  const { signal } = interrupted;
  const presharedKey = encodeBase64Key(generatePresharedKey());
  const worker = new Worker(new URL(import.meta.url), { workerData: presharedKey });
  const heard = <T>(): Promise<T> =>
    new Promise((resolve, reject) => void worker.once("message", resolve).once("error", reject).once("exit", reject));
  let alive = true;
  worker.once("exit", () => (alive = false));
  let tunnel: Tunnel | undefined;
  try {
    const server = await heard<Told>();
    const peer = {
      publicKey: server.publicKey,
      presharedKey,
      allowedIps: [`${SERVER}/32`],
      endpoint: `${LOOPBACK}:${server.listenPort}`,
    };
    const settings = { privateKey: encodeBase64Key(generatePrivateKey()), addresses: [`${CLIENT}/32`], peers: [peer] };
    tunnel = await Tunnel.open(settings, { bindAddress: LOOPBACK });
    worker.postMessage(tunnel.publicKey);
    const runtime = "Deno" in globalThis ? "Deno" : "Node";
    process.stdout.write(`${bold("wasmguard: a web server inside a WireGuard tunnel, with no privileges at all")}\n`);
    process.stdout.write(`${dim(`  ${runtime} ${process.version}, core "${pickBuild()}", one thread for each end`)}\n`);
    say("server", server.publicKey, `${LOOPBACK}:${server.listenPort}, http://${SERVER}/`);
    say("client", tunnel.publicKey, `${LOOPBACK}:${tunnel.listenPort}, ${CLIENT}`);
    const begun = performance.now();
    tunnel.once("handshake", () => {
      say("handshake", bold(`${(performance.now() - begun).toFixed(1)} ms`), "Noise_IKpsk2, with a preshared key");
    });
    const response = await tunnel.fetch(`http://${SERVER}/`, { signal });
    const text = await response.text();
    say("fetch", bold(`${response.status} in ${(performance.now() - begun).toFixed(1)} ms`), `"${text}"`);
    const ends = tunnel;
    await roundTrips("ping", PINGS, () => ends.ping(SERVER, { timeoutMs: 1000, signal }), signal);
    await requests(tunnel, signal);
    await download(tunnel, signal);
    worker.postMessage("stats");
    counters("server", await heard<TunnelStats>());
    counters("client", tunnel.stats());
    process.stdout.write(
      `${green("  done")}${dim("  in your program: docs/embedding.md; as a daemon: npm start -- wg0")}\n`,
    );
  } catch (error) {
    live("");
    process.stdout.write(signal.aborted ? "  stopped\n" : `wasmguard: ${(error as Error).message}\n`);
    process.exitCode = signal.aborted ? 130 : 1;
  } finally {
    await tunnel?.close();
    // It is asked first: a thread of its own may be blocked in a system call, and terminate() would wait for that.
    worker.postMessage("close");
    if (alive) await heard().catch(() => {});
    await worker.terminate();
  }
}

await (isMainThread ? main() : serve(workerData as string));
