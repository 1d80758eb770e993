// The SOCKS5 door: CONNECT and UDP ASSOCIATE into the tunnel, names resolved there. BIND is refused: nobody uses it,
// and a port that anyone inside may reach is what reverse forwards are for. Each failure gets the reply of its kind.

import type { Socket } from "node:net";
import { WasmguardError } from "../errors.ts";
import { Association } from "./associate.ts";
import { Credentials } from "./credentials.ts";
import { abortOnClose, dial } from "./dial.ts";
import { classify } from "./failure.ts";
import { Intake } from "./intake.ts";
import { Listener } from "./listener.ts";
import {
  CMD_CONNECT, CMD_UDP_ASSOCIATE, type Destination, LOGIN_VERSION, METHOD_LOGIN, METHOD_NONE, METHOD_REFUSED, REPLY,
  SocksError, VERSION, encodeReply, readGreeting, readLogin, readRequest,
} from "./socks5-wire.ts";
import { reset, splice } from "./splice.ts";
import type { ServiceSpec } from "./spec.ts";
import type { Service, ServiceContext } from "./types.ts";

/** A client that has not said what it wants by then is ended, however busily it stalls. */
export const HANDSHAKE_TIMEOUT_MS = 30_000;

export class Socks5 implements Service {
  readonly #context: ServiceContext;
  readonly #credentials: Credentials | undefined;
  #listener!: Listener;

  private constructor(context: ServiceContext, credentials?: Credentials) {
    this.#context = context;
    this.#credentials = credentials;
  }

  static async start(spec: Extract<ServiceSpec, { kind: "socks5" }>, context: ServiceContext): Promise<Socks5> {
    const door = new Socks5(context, spec.login && new Credentials(spec.login));
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
    const { tally, log } = this.#context;
    const intake = new Intake(socket);
    const timer = setTimeout(() => {
      tally.failed("stalled");
      log.verbose("socks5: a client stalled");
      socket.destroy();
    }, this.#context.handshakeMs ?? HANDSHAKE_TIMEOUT_MS);
    try {
      const request = await this.#handshake(socket, intake);
      clearTimeout(timer);
      intake.release();
      if (request === null) return;
      if (request.command === CMD_CONNECT) await this.#connect(socket, request);
      else await this.#associate(socket, request);
    } catch (error) {
      if (!(error instanceof SocksError)) {
        // The client went away, or a fault of ours: it has nothing to be told.
        if (!socket.destroyed) tally.failed(classify(error).reason);
        return reset(socket);
      }
      tally.failed(error.reply === REPLY.commandNotSupported ? "unsupported" : "protocol");
      log.verbose(`socks5: a client is refused: ${error.message}`);
      if (error.reply === undefined) socket.destroy();
      else farewell(socket, encodeReply(error.reply));
    } finally {
      clearTimeout(timer);
      intake.release();
    }
  }

  /** @returns null when the client has been refused */
  async #handshake(socket: Socket, { take }: Intake): Promise<(Destination & { command: number }) | null> {
    const { tally, log } = this.#context;
    const method = this.#credentials ? METHOD_LOGIN : METHOD_NONE;
    const offered = await readGreeting(take);
    if (!offered.includes(method)) {
      tally.failed("login");
      log.verbose("socks5: a client offers no login method that is accepted here");
      farewell(socket, Uint8Array.of(VERSION, METHOD_REFUSED));
      return null;
    }
    socket.write(Uint8Array.of(VERSION, method));
    if (this.#credentials) {
      const { username, password } = await readLogin(take);
      const good = this.#credentials.matches(username, password);
      if (!good) {
        tally.failed("login");
        log.verbose("socks5: a client's login is wrong");
        farewell(socket, Uint8Array.of(LOGIN_VERSION, 1));
        return null;
      }
      socket.write(Uint8Array.of(LOGIN_VERSION, 0));
    }
    const request = await readRequest(take);
    if (request.command !== CMD_CONNECT && request.command !== CMD_UDP_ASSOCIATE) {
      throw new SocksError(`command ${request.command}`, REPLY.commandNotSupported);
    }
    return request;
  }

  async #connect(socket: Socket, { host, port }: Destination): Promise<void> {
    const { tally, log, tunnel, prefer } = this.#context;
    if (port === 0) {
      tally.failed("not-allowed");
      return farewell(socket, encodeReply(REPLY.notAllowed));
    }
    const gone = abortOnClose(socket, this.#listener.signal);
    let far;
    try {
      far = await dial(tunnel(), { host, port }, { prefer: prefer(), signal: gone });
    } catch (error) {
      const { reason, socksReply, words } = classify(error);
      tally.failed(reason);
      log.verbose(`socks5: ${host} port ${port}: ${words}`);
      return farewell(socket, encodeReply(socksReply));
    }
    if (socket.destroyed) return reset(far);
    socket.write(encodeReply(REPLY.succeeded, far.localAddress, far.localPort));
    const broken = await splice(socket, far, {
      onSent: (bytes) => (tally.sentBytes += bytes),
      onReceived: (bytes) => (tally.receivedBytes += bytes),
    });
    if (broken) tally.failed(classify(broken).reason);
  }

  async #associate(socket: Socket, expected: Destination): Promise<void> {
    const { tally, log, tunnel } = this.#context;
    if (socket.remoteAddress === undefined)
      throw new SocksError("UDP through a unix socket", REPLY.commandNotSupported);
    let association: Association;
    try {
      association = await Association.open(tunnel(), socket, expected, tally, log);
    } catch (error) {
      tally.failed(classify(error).reason);
      log.error(
        `socks5: no UDP association: ${error instanceof WasmguardError ? error.message : classify(error).words}`,
      );
      return farewell(socket, encodeReply(REPLY.failure));
    }
    if (socket.destroyed) return association.close();
    socket.once("close", () => association.close());
    association.onClosed = () => socket.destroy();
    socket.on("end", () => socket.end());
    socket.resume(); // it has nothing more to say but its end
    socket.write(encodeReply(REPLY.succeeded, association.address, association.port));
  }
}

/** Says a last word; what the client still sends is thrown away, so that it does not hear a reset before our word. */
function farewell(socket: Socket, word: Uint8Array): void {
  socket.resume();
  socket.setTimeout(2000, () => socket.destroy());
  socket.end(word, () => setTimeout(() => socket.destroy(), 500).unref());
}
