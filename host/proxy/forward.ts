// TCP forwards: a port or unix socket of ours to a place behind the tunnel, and a port in the tunnel to a place here.

import type { Socket } from "node:net";
import type { HostPort } from "../endpoint.ts";
import type { TunnelServer, TunnelSocket } from "../tunnel/types.ts";
import { formatBind } from "./address.ts";
import { abortOnClose, dial, dialLocal } from "./dial.ts";
import { classify } from "./failure.ts";
import { Listener } from "./listener.ts";
import type { ServiceSpec } from "./spec.ts";
import { reset, splice } from "./splice.ts";
import type { Service, ServiceContext } from "./types.ts";

/** Clients here, the target there. */
export class Forward implements Service {
  readonly #context: ServiceContext;
  readonly #target: HostPort;
  #listener!: Listener;

  private constructor(context: ServiceContext, target: HostPort) {
    this.#context = context;
    this.#target = target;
  }

  static async start(spec: Extract<ServiceSpec, { kind: "forward" }>, context: ServiceContext): Promise<Forward> {
    const forward = new Forward(context, spec.target);
    const { tally, maxClients } = context;
    forward.#listener = await Listener.open({
      bind: spec.bind,
      tally,
      maxClients,
      onSocket: (socket) => void forward.#serve(socket),
    });
    return forward;
  }

  get address(): string {
    return this.#listener.address;
  }

  stop(): Promise<void> {
    return this.#listener.stop();
  }

  async #serve(socket: Socket): Promise<void> {
    const { tally, log, tunnel, prefer } = this.#context;
    let far: TunnelSocket;
    try {
      far = await dial(tunnel(), this.#target, {
        prefer: prefer(),
        signal: abortOnClose(socket, this.#listener.signal),
      });
    } catch (error) {
      const { reason, words } = classify(error);
      tally.failed(reason);
      log.verbose(`forward to ${formatBind(this.#target)}: ${words}`);
      return reset(socket);
    }
    if (socket.destroyed) return reset(far);
    const broken = await splice(socket, far, {
      onSent: (bytes) => (tally.sentBytes += bytes),
      onReceived: (bytes) => (tally.receivedBytes += bytes),
    });
    if (broken) tally.failed(classify(broken).reason);
  }
}

/** Clients there, the target here. */
export class Reverse implements Service {
  readonly #context: ServiceContext;
  readonly #spec: Extract<ServiceSpec, { kind: "reverse" }>;
  readonly #sockets = new Set<TunnelSocket>();
  readonly #abort = new AbortController();
  #server: TunnelServer;

  private constructor(spec: Extract<ServiceSpec, { kind: "reverse" }>, context: ServiceContext) {
    this.#context = context;
    this.#spec = spec;
    this.#server = this.#listen();
  }

  static async start(spec: Extract<ServiceSpec, { kind: "reverse" }>, context: ServiceContext): Promise<Reverse> {
    return new Reverse(spec, context);
  }

  get address(): string {
    return `${formatBind({ ...this.#spec.inner, port: this.#server.port })} in the tunnel`;
  }

  async stop(): Promise<void> {
    this.#abort.abort();
    const gone = [...this.#sockets].map((socket) => new Promise((resolve) => socket.once("close", resolve)));
    for (const socket of this.#sockets) reset(socket);
    await Promise.all([this.#server.close(), ...gone]);
  }

  async tunnelReplaced(): Promise<void> {
    this.#server = this.#listen();
  }

  #listen(): TunnelServer {
    const { host, port } = this.#spec.inner;
    const options = { port, host: host || undefined, allowHalfOpen: true };
    return this.#context.tunnel().listen(options, (socket) => void this.#serve(socket));
  }

  async #serve(far: TunnelSocket): Promise<void> {
    const { tally, log, maxClients } = this.#context;
    far.on("error", () => {});
    if (this.#sockets.size >= maxClients || this.#abort.signal.aborted) {
      tally.failed("limit");
      return reset(far);
    }
    this.#sockets.add(far);
    tally.accepted++;
    tally.open++;
    far.once("close", () => {
      this.#sockets.delete(far);
      tally.open--;
    });
    let near: Socket;
    try {
      near = await dialLocal(this.#spec.target, abortOnClose(far, this.#abort.signal));
    } catch (error) {
      const { reason, words } = classify(error);
      tally.failed(reason);
      log.verbose(`reverse to ${formatBind(this.#spec.target)}: ${words}`);
      return reset(far);
    }
    if (far.destroyed) return reset(near);
    const broken = await splice(near, far, {
      onSent: (bytes) => (tally.sentBytes += bytes),
      onReceived: (bytes) => (tally.receivedBytes += bytes),
    });
    if (broken) tally.failed(classify(broken).reason);
  }
}
