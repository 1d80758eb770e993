// The client: one control connection, and tests over it, one after another.

import { WasmguardError } from "../errors.ts";
import { Arrivals } from "./arrivals.ts";
import { Control } from "./control.ts";
import { TYPE_DATA, TYPE_PROBE, TYPE_PROBED, decodeHeader, encodeProbe, hasToken } from "./datagram.ts";
import { type Ask, Questions, askStream, askUdp, connectAgain } from "./exchange.ts";
import { encodeFrame, readFirst } from "./frame.ts";
import { type Interval, PROTOCOL, type Program, readMessage } from "./message.ts";
import { type Network, type Stream, type UdpPort, plainAddress } from "./network.ts";
import { type Plan, isDatagram, isFlow, streamsOf } from "./plan.ts";
import { type IntervalResult, type TestResult, summarize } from "./result.ts";
import { DatagramSender, StreamSender } from "./sender.ts";
import { type Parts, Side, StreamReceiver } from "./side.ts";

/** For the server's first message. */
const PATIENCE_MS = 5000;
/** A probe may be lost. */
const PROBE_MS = 200;
const PROBES = 20;

export interface ClientOptions {
  network: Network;
  host: string;
  port: number;
  program: Program;
}

interface Setup {
  parts: Parts;
  close(): void;
}

export class MeasureClient {
  /** of the server */
  readonly program: Program;
  /** of the server, as it was reached */
  readonly address: string;
  readonly #options: ClientOptions;
  readonly #control: Control;
  #side: Side | null = null;
  #stopped = false;

  private constructor(options: ClientOptions, control: Control, address: string, program: Program) {
    this.#options = options;
    this.#control = control;
    this.address = address;
    this.program = program;
  }

  /** Rejects with ECONNREFUSED, ENOTFOUND, ETIMEDOUT, EBUSY, ERR_VERSION, EPROTO, whose messages say what and where. */
  static async connect(options: ClientOptions): Promise<MeasureClient> {
    const { network, host, port, program } = options;
    const where = `${host.includes(":") ? `[${host}]` : host}:${port}`;
    const stream = await network.connect(host, port).catch((error: NodeJS.ErrnoException) => {
      throw new WasmguardError(error.code ?? "EIO", `Cannot reach ${where}: ${connectWords(error)}`, { cause: error });
    });
    stream.on("error", () => {});
    const address = plainAddress(stream.remoteAddress ?? host);
    try {
      stream.write(encodeFrame({ type: "hello", ...program }));
      const message = readMessage(await readFirst(stream, PATIENCE_MS));
      if (message.type === "error") throw new WasmguardError(message.code, message.message);
      if (message.type !== "hello") throw new WasmguardError("EPROTO", "it does not begin with hello");
      const { type: _, ...server } = message;
      if (server.protocol !== PROTOCOL) {
        const theirs = `the server, wasmguard ${server.version}, speaks protocol ${server.protocol}`;
        throw new WasmguardError("ERR_VERSION", `${theirs}, not ${PROTOCOL}`);
      }
      return new MeasureClient(options, new Control(stream), address, server);
    } catch (error) {
      stream.destroy();
      const { code, message } = error as WasmguardError;
      throw new WasmguardError(code ?? "EIO", `Cannot measure with ${where}: ${message}`, { cause: error });
    }
  }

  /** Ends the present test with what there is so far, and lets no other begin. */
  stop(): void {
    this.#stopped = true;
    if (!this.#side) return;
    this.#control.send({ type: "stop" });
    this.#side.stop();
  }

  close(): void {
    this.#control.close();
  }

  /**
   * Runs one test.
   * @param onInterval  a second as the receivers saw it, as soon as it is known
   * @returns null if it was stopped before it began. Rejects when the server goes away or refuses.
   */
  async run(plan: Plan, onInterval: (interval: IntervalResult) => void = () => {}): Promise<TestResult | null> {
    if (this.#stopped) return null;
    const control = this.#control;
    const rows = new Rows(plan, onInterval);
    let setup: Setup | null = null;
    try {
      control.onInterval = (interval) => rows.add("server", interval);
      control.send({ type: "test", plan });
      const { token, port } = await control.expect("ready");
      setup = await Promise.race([this.#setUp(plan, token, port), control.failed]);
      control.send({ type: "go" });
      await control.expect("going");
      const side = new Side(plan, control, setup.parts);
      this.#side = side;
      side.onInterval = (interval) => rows.add("client", interval);
      if (this.#stopped) this.stop();
      const { ours, theirs } = await side.run();
      return summarize(plan, ours, theirs, rows.done);
    } catch (error) {
      const { code, message } = error as WasmguardError;
      throw new WasmguardError(code ?? "EIO", `The test with ${this.address} failed: ${message}`, { cause: error });
    } finally {
      this.#side = null;
      control.onInterval = control.onStop = null;
      setup?.close();
    }
  }

  async #setUp(plan: Plan, token: string, port: number): Promise<Setup> {
    const parts: Parts = { senders: [], streams: [], arrivals: [], exchanger: null };
    const open: (() => void)[] = [];
    const close = (): void => open.forEach((end) => end());
    try {
      if (isDatagram(plan.kind)) await this.#setUpUdp(plan, Buffer.from(token, "hex"), port, parts, open);
      else await this.#setUpTcp(plan, token, parts, open);
      return { parts, close };
    } catch (error) {
      close();
      throw error;
    }
  }

  async #setUpTcp(plan: Plan, token: string, parts: Parts, open: (() => void)[]): Promise<void> {
    const { network, port } = this.#options;
    const { up, down } = streamsOf(plan);
    const all = Array.from({ length: up + down }, (_, number) => number);
    if (plan.kind === "connections") {
      parts.exchanger = new Questions(all.map((number) => connectAgain(network, this.address, port, token, number)));
      return;
    }
    const connect = async (number: number): Promise<Stream> => {
      const stream = await network.connect(this.address, port);
      stream.on("error", () => {});
      open.push(() => stream.destroy());
      stream.write(encodeFrame({ type: "data", token, stream: number }));
      return stream;
    };
    const streams = await Promise.all(all.map(connect));
    if (plan.kind === "tcpLatency") {
      parts.exchanger = new Questions(streams.map((stream) => askStream(stream, plan.length)));
      return;
    }
    parts.senders.push(...streams.slice(0, up).map((stream) => new StreamSender(stream, plan.length, plan.rate / up)));
    parts.streams.push(...streams.slice(up).map((stream) => new StreamReceiver(stream)));
    // Our side of what only comes has nothing to say; the server's side of what only goes ends by itself.
    for (const stream of streams.slice(0, up)) stream.resume();
  }

  async #setUpUdp(plan: Plan, token: Buffer, port: number, parts: Parts, open: (() => void)[]): Promise<void> {
    const { network } = this.#options;
    const to = { address: this.address, port };
    const { up, down } = streamsOf(plan);
    const asks: Ask[] = [];
    for (let stream = 0; stream < plan.streams; stream++) {
      const udp = await network.udp(this.#control.stream.localAddress!, 0);
      open.push(() => udp.close());
      await probe(udp, to, stream, token);
      if (!isFlow(plan.kind)) {
        asks.push(askUdp(udp, to, stream, plan.length));
        continue;
      }
      if (up > 0) parts.senders.push(new DatagramSender(udp, to, stream, plan.length, plan.rate / up));
      if (down > 0) parts.arrivals.push(listen(udp, to));
    }
    if (!isFlow(plan.kind)) parts.exchanger = new Questions(asks);
  }
}

/** Shows the server where our datagrams come from. */
async function probe(udp: UdpPort, to: { address: string; port: number }, stream: number, token: Buffer): Promise<void> {
  const isAnswered = await new Promise<boolean>((resolve) => {
    let left = PROBES;
    const send = (): void => {
      if (left-- > 0) return udp.send(encodeProbe(TYPE_PROBE, stream, token), to.port, to.address, () => {});
      clearInterval(timer);
      resolve(false);
    };
    const timer = setInterval(send, PROBE_MS);
    udp.onDatagram = (bytes, from) => {
      if (from.port !== to.port || decodeHeader(bytes)?.type !== TYPE_PROBED || !hasToken(bytes, token)) return;
      clearInterval(timer);
      resolve(true);
    };
    send();
  });
  if (isAnswered) return;
  throw new WasmguardError("ETIMEDOUT", `no datagram comes back from UDP port ${to.port}: a firewall may be in the way`);
}

function listen(udp: UdpPort, to: { port: number }): Arrivals {
  const arrivals = new Arrivals();
  udp.onDatagram = (bytes, from) => {
    const header = decodeHeader(bytes);
    if (header?.type !== TYPE_DATA || from.port !== to.port) return;
    arrivals.add(header.sequence, bytes.length, header.sentAt, performance.now());
  };
  return arrivals;
}

/** The seconds of both sides, joined by their numbers: what goes up is known to the server alone. */
class Rows {
  readonly done: IntervalResult[] = [];
  readonly #plan: Plan;
  readonly #onRow: (row: IntervalResult) => void;
  readonly #came = { client: [] as Interval[], server: [] as Interval[] };

  constructor(plan: Plan, onRow: (row: IntervalResult) => void) {
    this.#plan = plan;
    this.#onRow = onRow;
  }

  add(side: "client" | "server", interval: Interval): void {
    // What still comes when the time is over belongs to the total.
    if (this.#came[side].length >= Math.ceil(this.#plan.ms / 1000)) return;
    this.#came[side].push(interval);
    const { kind, direction } = this.#plan;
    const needsServer = isFlow(kind) && direction !== "down";
    const needsClient = !isFlow(kind) || direction !== "up";
    for (;;) {
      const second = this.done.length;
      const [up, down] = [this.#came.server[second] ?? null, this.#came.client[second] ?? null];
      if ((needsServer && !up) || (needsClient && !down)) return;
      const row: IntervalResult = { second: second + 1, up: needsServer ? up : null, down: needsClient ? down : null };
      this.done.push(row);
      this.#onRow(row);
    }
  }
}

function connectWords(error: NodeJS.ErrnoException): string {
  const words: Record<string, string> = {
    ECONNREFUSED: "nobody listens there (start it with: wasmguard bench --server)",
    ENOTFOUND: "there is no such name",
    EAI_AGAIN: "the name server does not answer",
    ETIMEDOUT: "no answer",
    EHOSTUNREACH: "no way to there",
    ENETUNREACH: "no way to there",
  };
  const own = error instanceof WasmguardError ? error.message : undefined;
  return words[error.code ?? ""] ?? own ?? error.code ?? error.message;
}
