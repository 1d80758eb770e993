// Standard input and output as a connection through the tunnel: ssh's ProxyCommand. The process lives as long as it.

import { Duplex, type Readable, type Writable } from "node:stream";
import { formatBind } from "./address.ts";
import { dial } from "./dial.ts";
import { classify } from "./failure.ts";
import type { ServiceSpec } from "./spec.ts";
import { reset, splice } from "./splice.ts";
import type { Service, ServiceContext } from "./types.ts";

export interface StandardStreams {
  input: Readable;
  output: Writable;
}

export class StdioTunnel implements Service {
  readonly address = "standard input and output";
  /** Resolves when the connection is over: with an error when it could not be made, or broke. */
  readonly ended: Promise<Error | undefined>;
  readonly #abort = new AbortController();
  readonly #near: Duplex;

  private constructor(
    spec: Extract<ServiceSpec, { kind: "stdio" }>,
    context: ServiceContext,
    streams: StandardStreams,
  ) {
    this.#near = Duplex.from({ readable: streams.input, writable: streams.output }) as Duplex;
    this.#near.on("error", () => {});
    this.ended = this.#run(spec, context);
  }

  static async start(
    spec: Extract<ServiceSpec, { kind: "stdio" }>,
    context: ServiceContext,
    streams: StandardStreams,
  ): Promise<StdioTunnel> {
    return new StdioTunnel(spec, context, streams);
  }

  async stop(): Promise<void> {
    this.#abort.abort();
    reset(this.#near);
    await this.ended;
  }

  async #run({ target }: Extract<ServiceSpec, { kind: "stdio" }>, context: ServiceContext): Promise<Error | undefined> {
    const { tally, log, tunnel, prefer } = context;
    tally.accepted++;
    try {
      const far = await dial(tunnel(), target, { prefer: prefer(), signal: this.#abort.signal });
      if (this.#near.destroyed) {
        reset(far);
        return undefined;
      }
      tally.open++;
      const broken = await splice(this.#near, far, {
        onSent: (bytes) => (tally.sentBytes += bytes),
        onReceived: (bytes) => (tally.receivedBytes += bytes),
      });
      tally.open--;
      if (broken) tally.failed(classify(broken).reason);
      return broken;
    } catch (error) {
      const { reason, words } = classify(error);
      tally.failed(reason);
      if (!this.#abort.signal.aborted) log.error(`stdio to ${formatBind(target)}: ${words}`);
      return error as Error;
    }
  }
}
