// The server: a port, one client at a time. It serves whoever reaches it, so it must not be of use against a third:
// connections are only answered, datagrams go only to the address of the control connection, to a port that showed the
// token, and answers are no longer than questions. Everything that a client can ask for has a limit, every wait an end.
//
// The UDP port is open during a test only, bound to the very address that the client speaks with: an answer that comes
// from another address of ours would be nobody's.

import { randomBytes, timingSafeEqual } from "node:crypto";
import { WasmguardError } from "../errors.ts";
import { Arrivals } from "./arrivals.ts";
import { Control, SILENCE_MS } from "./control.ts";
import {
  TOKEN_LEN, TYPE_DATA, TYPE_PROBE, TYPE_PROBED, TYPE_REQUEST, decodeHeader, encodeProbe, hasToken, toReply,
} from "./datagram.ts";
import { Answers } from "./exchange.ts";
import { encodeFrame, readFirst } from "./frame.ts";
import { type MessageOf, PROTOCOL, type Program, readMessage } from "./message.ts";
import { type Listening, type Network, type Stream, type UdpPort, isSameAddress, plainAddress } from "./network.ts";
import { type Plan, isDatagram, streamsOf } from "./plan.ts";
import { type TestResult, summarize } from "./result.ts";
import { DatagramSender, type Sender, StreamSender } from "./sender.ts";
import { type Parts, Side, StreamReceiver } from "./side.ts";

/** For a first message, and for all connections of a test. */
const PATIENCE_MS = 5000;
/** connections that have not said what they are */
const STRANGERS_MAX = 64;
/** what a test may take beyond its time, for what is underway */
const OVERTIME_MS = 60_000;
const BIND_TRIES = 20;
const BIND_PAUSE_MS = 50;
/** Connections of a connections test that are not closed yet, above one a stream. */
const LEFT_OVERS = 64;

export interface ServerOptions {
  network: Network;
  /** undefined = every address */
  address?: string;
  /** 0 = any free one */
  port: number;
  program: Program;
  /** told of each client that came and went, and of each test */
  log?: (line: ServerEvent) => void;
}

export type ServerEvent =
  | { type: "client"; from: string; program: Program }
  | { type: "result"; from: string; result: TestResult }
  | { type: "failed"; from: string; error: Error }
  | { type: "gone"; from: string };

/** A test that is being set up or runs: where its connections go. */
interface Running {
  token: string;
  onData: (stream: Stream, message: MessageOf<"data">) => void;
}

export class MeasureServer {
  readonly #options: ServerOptions;
  readonly #strangers = new Set<Stream>();
  readonly #streams = new Set<Stream>();
  #listening!: Listening;
  #control: Control | null = null;
  #running: Running | null = null;

  private constructor(options: ServerOptions) {
    this.#options = options;
  }

  /** Rejects with EADDRINUSE, EACCES ... */
  static async start(options: ServerOptions): Promise<MeasureServer> {
    const server = new MeasureServer(options);
    server.#listening = await options.network.listen(options.address, options.port, (stream) => void server.#accept(stream));
    return server;
  }

  get port(): number {
    return this.#listening.port;
  }

  get address(): string {
    return this.#listening.address;
  }

  async close(): Promise<void> {
    this.#control?.close({ code: "ERR_CLOSED", message: "the server was stopped" });
    for (const stream of [...this.#strangers, ...this.#streams]) stream.destroy();
    await this.#listening.close();
  }

  async #accept(stream: Stream): Promise<void> {
    stream.on("error", () => {});
    if (this.#strangers.size >= STRANGERS_MAX) return void stream.destroy();
    this.#strangers.add(stream);
    try {
      const message = readMessage(await readFirst(stream, PATIENCE_MS));
      if (message.type === "hello") return await this.#serve(stream, message);
      if (message.type !== "data") throw new WasmguardError("EPROTO", "the first message is hello");
      this.#data(stream, message);
    } catch {
      stream.destroy(); // whoever it was, it is no client
    } finally {
      this.#strangers.delete(stream);
    }
  }

  async #serve(stream: Stream, { type: _, ...client }: MessageOf<"hello">): Promise<void> {
    const { program, log = () => {} } = this.#options;
    const from = `${stream.remoteAddress ?? "?"}`;
    this.#strangers.delete(stream);
    const refuse = (code: string, message: string): void => {
      stream.end(encodeFrame({ type: "error", code, message }));
      stream.resume();
      setTimeout(() => stream.destroy(), 1000);
    };
    if (client.protocol !== PROTOCOL) {
      return refuse("ERR_VERSION", `the server, wasmguard ${program.version}, speaks protocol ${PROTOCOL}, not ${client.protocol}`);
    }
    if (this.#control) return refuse("EBUSY", "the server is busy with another client: try again later");
    const control = new Control(stream);
    this.#control = control;
    control.send({ type: "hello", ...program });
    log({ type: "client", from: plainAddress(from), program: client });
    try {
      while (control.open) {
        const { plan } = await inTime(control.expect("test"), SILENCE_MS, "no test was asked for");
        const result = await this.#test(control, plan);
        log({ type: "result", from: plainAddress(from), result });
      }
    } catch (error) {
      const { code } = error as WasmguardError;
      // Between two tests a client goes as it likes; in one it was ECONNABORTED.
      if (code === "ECONNRESET") log({ type: "gone", from: plainAddress(from) });
      else log({ type: "failed", from: plainAddress(from), error: error as Error });
      control.fail(error as Error);
    } finally {
      this.#control = null;
      this.#running = null;
    }
  }

  async #test(control: Control, plan: Plan): Promise<TestResult> {
    const token = randomBytes(TOKEN_LEN);
    const parts: Parts = { senders: [], streams: [], arrivals: [], exchanger: null };
    const datagrams = isDatagram(plan.kind) ? await this.#openUdp(control, plan, token, parts) : null;
    try {
      const ready = datagrams?.ready ?? this.#awaitStreams(control, plan, token, parts);
      control.send({ type: "ready", token: token.toString("hex"), port: datagrams?.port.port ?? this.port });
      await inTime(control.expect("go"), PATIENCE_MS, "the client did not begin the test that it had asked for");
      const all = Promise.race([ready, control.failed]);
      await inTime(all, PATIENCE_MS, "not all connections of the test came to the server");
      control.send({ type: "going" });
      const side = new Side(plan, control, parts);
      const { ours, theirs } = await inTime(side.run(), plan.ms + OVERTIME_MS, "the test did not end");
      return summarize(plan, theirs, ours, []);
    } catch (error) {
      if ((error as WasmguardError).code === "ECONNRESET") {
        throw new WasmguardError("ECONNABORTED", `the client went away in the middle of a test`, { cause: error });
      }
      throw error;
    } finally {
      this.#running = null;
      datagrams?.port.close();
      for (const stream of this.#streams) stream.destroy();
    }
  }

  /** Takes a connection that shows the token of the present test and comes from its client. */
  #data(stream: Stream, message: MessageOf<"data">): void {
    const running = this.#running;
    const known = running && timingSafeEqual(Buffer.from(message.token), Buffer.from(running.token));
    if (!known || !isSameAddress(stream.remoteAddress, this.#control?.stream.remoteAddress)) return void stream.destroy();
    this.#streams.add(stream);
    stream.once("close", () => this.#streams.delete(stream));
    running.onData(stream, message);
  }

  /** Fulfilled when all connections of the test have come. */
  #awaitStreams(control: Control, plan: Plan, token: Buffer, parts: Parts): Promise<void> {
    const { up, down } = streamsOf(plan);
    const come = new Set<number>();
    const answers = plan.kind === "tcp" ? null : new Answers();
    parts.exchanger = answers;
    return new Promise((resolve) => {
      const onData: Running["onData"] = (stream, { stream: number }) => {
        if (plan.kind === "connections") {
          if (this.#streams.size > plan.streams + LEFT_OVERS) return void stream.destroy();
          answers!.count++;
          stream.setNoDelay(true);
          stream.write(Uint8Array.of(1));
          // The client closes; if it only says so, we do.
          stream.once("end", () => stream.destroy());
          return void stream.resume();
        }
        if (number >= up + down || come.has(number)) return void stream.destroy();
        come.add(number);
        if (answers) echo(stream, plan.length, answers);
        else if (number < up) parts.streams.push(new StreamReceiver(stream));
        else parts.senders.push(new StreamSender(stream, plan.length, plan.rate / down));
        stream.resume();
        if (come.size === up + down) resolve();
      };
      this.#running = { token: token.toString("hex"), onData };
      if (plan.kind === "connections") resolve();
    });
  }

  /** Opens the UDP port of a test; `ready` is fulfilled when each stream has shown where it is. */
  async #openUdp(
    control: Control, plan: Plan, token: Buffer, parts: Parts,
  ): Promise<{ port: UdpPort; ready: Promise<void> }> {
    const { localAddress, remoteAddress } = control.stream;
    const { up, down } = streamsOf(plan);
    const port = await this.#bindUdp(localAddress!);
    this.#running = { token: token.toString("hex"), onData: (stream) => void stream.destroy() };
    const ports: number[] = [];
    const answers = plan.kind === "udpLatency" ? new Answers() : null;
    parts.exchanger = answers;
    const arrivals = Array.from({ length: answers ? 0 : up }, () => new Arrivals());
    parts.arrivals.push(...arrivals);
    const senders: Sender[] = [];
    const ready = new Promise<void>((resolve) => {
      port.onDatagram = (bytes, from) => {
        if (!isSameAddress(from.address, remoteAddress)) return;
        const header = decodeHeader(bytes);
        if (!header || header.stream >= plan.streams) return;
        const { type, stream } = header;
        if (type === TYPE_PROBE) {
          if (!hasToken(bytes, token) || (ports[stream] ?? from.port) !== from.port) return;
          if (ports[stream] === undefined) {
            ports[stream] = from.port;
            if (down > 0) senders.push(new DatagramSender(port, from, stream, plan.length, plan.rate / down));
          }
          port.send(encodeProbe(TYPE_PROBED, stream, token), from.port, from.address, () => {});
          if (Object.keys(ports).length === plan.streams) resolve();
        } else if (ports[stream] === from.port) {
          if (type === TYPE_DATA) arrivals[stream]?.add(header.sequence, bytes.length, header.sentAt, performance.now());
          if (type === TYPE_REQUEST && answers && bytes.length === plan.length) {
            answers.count++;
            port.send(toReply(bytes), from.port, from.address, () => {});
          }
        }
      };
    }).then(() => void parts.senders.push(...senders));
    return { port, ready };
  }

  /** Deno 2.9 gives a port back a little after it was closed, and the test before had the same. */
  async #bindUdp(address: string): Promise<UdpPort> {
    for (let left = BIND_TRIES; ; left--) {
      try {
        return await this.#options.network.udp(address, this.port);
      } catch (error) {
        const { code = "EIO" } = error as NodeJS.ErrnoException;
        if (code !== "EADDRINUSE" || left === 1) {
          throw new WasmguardError(code, `the server cannot open UDP port ${this.port}: ${code}`, { cause: error });
        }
        await new Promise((resolve) => setTimeout(resolve, BIND_PAUSE_MS));
      }
    }
  }
}

/** Sends back what comes, and counts whole requests. */
function echo(stream: Stream, length: number, answers: Answers): void {
  let bytes = 0;
  stream.setNoDelay(true);
  stream.on("data", (chunk: Uint8Array) => {
    const before = Math.floor(bytes / length);
    bytes += chunk.length;
    answers.count += Math.floor(bytes / length) - before;
    if (!stream.write(chunk)) stream.pause();
  });
  stream.on("drain", () => stream.resume());
  stream.on("end", () => stream.end());
}

/** The work, or ETIMEDOUT with these words. */
async function inTime<T>(work: Promise<T>, ms: number, words: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new WasmguardError("ETIMEDOUT", words)), ms);
  });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}
