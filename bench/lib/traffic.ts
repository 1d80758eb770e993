// What is sent through a tunnel to measure it: iperf3 and ping, as anybody would run them.

import { INNER, iperf } from "../../test/helpers/system.ts";
import type { Side } from "../../test/helpers/system.ts";
import { sleep } from "../../test/helpers/netlab.ts";
import { quantile } from "./table.ts";

interface Ends {
  a: Side;
  b: Side;
}

export interface TcpOptions {
  seconds: number;
  /** from b to a */
  reverse?: boolean;
  flows?: number;
  /** more for iperf3 */
  options?: string;
}

export interface TcpResult {
  gbits: number;
  /** 10^9 bytes that arrived */
  gigabytes: number;
  retransmits: number;
}

/** iperf3 from a to b. */
export async function tcp({ a, b }: Ends, traffic: TcpOptions): Promise<TcpResult> {
  const { seconds, reverse, flows = 1, options = "" } = traffic;
  const line = [reverse && "-R", flows > 1 && `-P ${flows}`, options].filter(Boolean).join(" ");
  const { bytes, bitsPerSecond, retransmits } = await iperf(a, b, INNER.b[4], { seconds, options: line });
  return { gbits: bitsPerSecond / 1e9, gigabytes: bytes / 1e9, retransmits };
}

/** bytes of UDP payload of a small packet */
export const SMALL_LEN = 64;

/**
 * Packets of 64 bytes as fast as iperf3 makes them.
 * @returns thousands a second that the receiver got, and % of those sent that it did not
 */
export async function smallPackets({ a, b }: Ends, seconds: number): Promise<{ delivered: number; lost: number }> {
  const options = `-u -b 0 -l ${SMALL_LEN}`;
  const { bitsPerSecond, packets, lostPackets } = await iperf(a, b, INNER.b[4], { seconds, options });
  // What is still on its way would be in the next measurement.
  await sleep(200);
  return { delivered: bitsPerSecond / 8 / SMALL_LEN / 1e3, lost: (100 * lostPackets) / Math.max(1, packets) };
}

export interface PingResult {
  /** round trips, us */
  median: number;
  p99: number;
  /** % */
  lost: number;
}

/** Pings from a to b. */
export async function pings({ a }: Pick<Ends, "a">, count: number, intervalMs: number): Promise<PingResult> {
  const line = `ping -n -c ${count} -i ${intervalMs / 1000} -W 1 ${INNER.b[4]}`;
  // When all are lost ping says so by its status: that is a result too.
  const { stdout, stderr } = await a.namespace.try(line, { timeoutMs: count * intervalMs + 20_000 });
  const times = [...stdout.matchAll(/ time=([\d.]+) ms/g)].map(([, ms]) => Number(ms) * 1000);
  if (!stdout.includes("packets transmitted")) throw new Error(`${line}: ${stderr}`);
  return { median: quantile(times, 0.5), p99: quantile(times, 0.99), lost: 100 * (1 - times.length / count) };
}
