// One DNS question to one server: by UDP, and by TCP if the answer was too long for it. RFC 1035 §4.2, RFC 7766.
//
// Each question has a socket of its own, with a random port and a random id (RFC 5452 §9.2); what comes from another
// address or does not answer the question is ignored, so that a guess costs its sender everything and us nothing.

import type { IpAddress } from "../ip.ts";
import { sameAddress } from "./address.ts";
import { be16, join, putBe16, totalLength } from "./bytes.ts";
import { type DnsResult, encodeQuery, type QueryType, readAnswer } from "./dns.ts";
import type { Stack } from "./stack.ts";
import type { FillRandom, SocketAddress, StackClock, TcpConnection } from "./types.ts";

const PORT = 53;
/** TCP's prefix */
const LENGTH_LEN = 2;

/** What an exchange needs. */
export interface Means {
  stack: Stack;
  clock: StackClock;
  random: FillRandom;
}

export interface Question {
  name: string;
  type: QueryType;
  server: IpAddress;
  edns: boolean;
  timeoutMs: number;
}

/**
 * Asks, and waits for the answer.
 * @returns also "failure" for a server that does not answer, with what happened as its code
 * @throws the signal's reason
 */
export async function ask(means: Means, question: Question, signal: AbortSignal): Promise<DnsResult> {
  const result = await askUdp(means, question, signal);
  return result.kind === "truncated" ? askTcp(means, question, signal) : result;
}

type Begin = (end: (result: DnsResult) => void) => { stop: () => void };

/** Runs one way of asking under the time-out and the signal. `begin` may call `end` at once. */
function limited(clock: StackClock, timeoutMs: number, signal: AbortSignal, begin: Begin): Promise<DnsResult> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    let running: { stop: () => void } | null = null;
    let done = false;
    const finish = (): boolean => {
      if (done) return false;
      done = true;
      clock.clearTimer(timer);
      signal.removeEventListener("abort", onAbort);
      running?.stop();
      return true;
    };
    const end = (result: DnsResult): void => {
      if (finish()) resolve(result);
    };
    const onAbort = (): void => {
      if (finish()) reject(signal.reason);
    };
    const timer = clock.setTimer(() => end({ kind: "failure", code: "TIMEOUT" }), timeoutMs);
    signal.addEventListener("abort", onAbort, { once: true });
    try {
      running = begin(end);
    } catch (error) {
      end({ kind: "failure", code: codeOf(error) });
      return;
    }
    if (done) running.stop();
  });
}

function codeOf(error: unknown): string {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === "string" ? code : String(error);
}

function createId(random: FillRandom): number {
  const bytes = new Uint8Array(2);
  random(bytes);
  return be16(bytes, 0);
}

function askUdp({ stack, clock, random }: Means, question: Question, signal: AbortSignal): Promise<DnsResult> {
  const { name, type, server, edns } = question;
  return limited(clock, question.timeoutMs, signal, (end) => {
    const id = createId(random);
    const socket = stack.udp.open();
    socket.onDatagram = (message, from) => {
      if (from.port !== PORT || !sameAddress(from, server)) return;
      const result = readAnswer(message, id, name, type);
      if (result !== null) end(result);
    };
    socket.onError = (error, to) => {
      if (sameAddress(to, server) && error.kind !== "tooBig") end({ kind: "failure", code: error.kind });
    };
    try {
      socket.send(encodeQuery(id, name, type, edns), at(server));
    } catch (error) {
      socket.close();
      throw error;
    }
    return { stop: () => socket.close() };
  });
}

function askTcp({ stack, clock, random }: Means, question: Question, signal: AbortSignal): Promise<DnsResult> {
  const { name, type, server, edns } = question;
  return limited(clock, question.timeoutMs, signal, (end) => {
    const id = createId(random);
    const query = encodeQuery(id, name, type, edns);
    const framed = new Uint8Array(LENGTH_LEN + query.length);
    putBe16(framed, 0, query.length);
    framed.set(query, LENGTH_LEN);
    const connection: TcpConnection = stack.tcp.connect(at(server));
    const chunks: Uint8Array[] = [];
    connection.onConnected = () => {
      connection.write(framed); // far less than any send buffer
    };
    connection.onReadable = () => {
      for (let chunk = connection.read(); chunk !== null; chunk = connection.read()) chunks.push(chunk);
      const received = totalLength(chunks);
      if (received >= LENGTH_LEN) {
        const stream = join(chunks);
        const length = be16(stream, 0);
        if (received >= LENGTH_LEN + length) {
          const result = readAnswer(stream.subarray(LENGTH_LEN, LENGTH_LEN + length), id, name, type);
          end(result ?? { kind: "failure", code: "FORMERR" });
          return;
        }
      }
      if (connection.ended) end({ kind: "failure", code: "ECONNRESET" });
    };
    connection.onClosed = (error) => end({ kind: "failure", code: error === null ? "ECONNRESET" : codeOf(error) });
    return { stop: () => connection.abort() };
  });
}

function at(server: IpAddress): SocketAddress {
  return { family: server.family, address: server.address, port: PORT };
}
