// The SNI door ([SNI] of wireproxy): a TLS connection goes to port 443 of the host that its ClientHello names, through
// the tunnel, byte for byte. For clients that know no proxy, with their DNS pointed here.

import type { Socket } from "node:net";
import { CLIENT_HELLO_MAX_LEN, serverName } from "./client-hello.ts";
import { abortOnClose, dial } from "./dial.ts";
import { classify } from "./failure.ts";
import { Intake } from "./intake.ts";
import { Listener } from "./listener.ts";
import type { ServiceSpec } from "./spec.ts";
import { reset, splice } from "./splice.ts";
import type { Service, ServiceContext } from "./types.ts";

const HTTPS_PORT = 443;
const HELLO_TIMEOUT_MS = 10_000;

export class SniDoor implements Service {
  readonly #context: ServiceContext;
  /** of the servers */
  readonly #port: number;
  #listener!: Listener;

  private constructor(context: ServiceContext, port: number) {
    this.#context = context;
    this.#port = port;
  }

  static async start(
    spec: Extract<ServiceSpec, { kind: "sni" }>,
    context: ServiceContext,
    port = HTTPS_PORT,
  ): Promise<SniDoor> {
    const door = new SniDoor(context, port);
    const { tally, maxClients } = context;
    door.#listener = await Listener.open({
      bind: spec.bind,
      tally,
      maxClients,
      onSocket: (socket) => void door.#serve(socket),
    });
    return door;
  }

  get address(): string {
    return this.#listener.address;
  }

  stop(): Promise<void> {
    return this.#listener.stop();
  }

  async #serve(socket: Socket): Promise<void> {
    const { tally, log, tunnel, prefer } = this.#context;
    const timer = setTimeout(() => {
      tally.failed("stalled");
      socket.destroy();
    }, this.#context.handshakeMs ?? HELLO_TIMEOUT_MS);
    try {
      const { hello, host } = await readHello(socket);
      clearTimeout(timer);
      if (host === null) {
        tally.failed("protocol");
        log.verbose("sni: a client names no server");
        return reset(socket);
      }
      const target = { host, port: this.#port };
      const far = await dial(tunnel(), target, {
        prefer: prefer(),
        signal: abortOnClose(socket, this.#listener.signal),
      });
      if (socket.destroyed) return reset(far);
      far.write(hello);
      tally.sentBytes += hello.length;
      const broken = await splice(socket, far, {
        onSent: (bytes) => (tally.sentBytes += bytes),
        onReceived: (bytes) => (tally.receivedBytes += bytes),
      });
      if (broken) tally.failed(classify(broken).reason);
    } catch (error) {
      const { reason, words } = classify(error);
      if (!socket.destroyed) tally.failed(reason);
      log.verbose(`sni: ${words}`);
      reset(socket);
    } finally {
      clearTimeout(timer);
    }
  }
}

/** All that the client said until it named its server, or made clear that it will not. */
async function readHello(socket: Socket): Promise<{ hello: Buffer; host: string | null }> {
  const intake = new Intake(socket);
  try {
    let hello = Buffer.alloc(0);
    for (;;) {
      hello = Buffer.concat([hello, await intake.takeAny()]);
      const name = serverName(hello);
      if (name !== "more") return { hello, host: name };
      if (hello.length > 2 * CLIENT_HELLO_MAX_LEN) return { hello, host: null };
    }
  } finally {
    intake.release();
  }
}
