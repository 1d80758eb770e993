// A TCP or unix-socket listener of ours: bounded in its connections, and ended with all of them. Every service that
// clients connect to stands behind one; what the connection says is the service's business.

import { setMaxListeners } from "node:events";
import { lstatSync, unlinkSync } from "node:fs";
import { type AddressInfo, type Server, type Socket, connect, createServer } from "node:net";
import { WasmguardError } from "../errors.ts";
import { type Bind, formatBind, formatHostPort } from "./address.ts";
import { reset } from "./splice.ts";
import type { Tally } from "./tally.ts";

export interface ListenerOptions {
  bind: Bind;
  tally: Tally;
  maxClients: number;
  /** another server than net's own, as http's: it gets its connections itself */
  server?: Server;
  onSocket?: (socket: Socket) => void;
}

/** Dead peers of an idle connection are found after this and some probes. */
const KEEPALIVE_MS = 60_000;

export class Listener {
  readonly address: string;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #abort = new AbortController();

  private constructor(server: Server, bind: Bind) {
    this.#server = server;
    setMaxListeners(0, this.#abort.signal); // one a client, and clients are bounded
    const bound = server.address();
    this.address = isAddressInfo(bound) ? formatHostPort(bound.address, bound.port) : formatBind(bind);
  }

  /** Rejects with a WasmguardError that names the address. */
  static async open({ bind, tally, maxClients, onSocket, server }: ListenerOptions): Promise<Listener> {
    server ??= createServer({ allowHalfOpen: true, pauseOnConnect: false });
    let listener: Listener | undefined;
    server.on("connection", (socket: Socket) => {
      if (listener) listener.#accept(socket, tally, maxClients, onSocket);
      else socket.destroy();
    });
    await listenOn(server, bind);
    return (listener = new Listener(server, bind));
  }

  /** Aborted when the listener stops. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  async stop(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#abort.abort();
    for (const socket of this.#sockets) reset(socket);
    await closed;
  }

  #accept(socket: Socket, tally: Tally, maxClients: number, onSocket?: (socket: Socket) => void): void {
    socket.on("error", () => {}); // whoever takes it hears of "close"
    if (this.#sockets.size >= maxClients || this.#abort.signal.aborted) {
      tally.failed("limit");
      socket.destroy();
      return;
    }
    this.#sockets.add(socket);
    tally.accepted++;
    tally.open++;
    socket.once("close", () => {
      this.#sockets.delete(socket);
      tally.open--;
    });
    socket.setNoDelay(true);
    socket.setKeepAlive(true, KEEPALIVE_MS);
    onSocket?.(socket);
  }
}

async function listenOn(server: Server, bind: Bind): Promise<void> {
  try {
    await listen(server, bind);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "EADDRINUSE" && "path" in bind && (await isAbandoned(bind.path))) {
      unlinkSync(bind.path);
      return listenOn(server, bind);
    }
    throw listenError(error, bind);
  }
}

/** What is wrong with an address that we cannot listen on, in words. */
export function listenError(error: unknown, bind: Bind): WasmguardError {
  const { code = "EIO", message } = error as NodeJS.ErrnoException;
  const words: Record<string, string> = {
    EADDRINUSE: "the address is in use",
    EADDRNOTAVAIL: "this machine has no such address",
    EINVAL: "this machine has no such address", // what Deno makes of it
    EACCES: "it is not permitted",
    EPERM: "it is not permitted",
    ENOENT: "there is no such folder",
    ENOTFOUND: "the name has no address",
    EAI_AGAIN: "no name server answers",
  };
  const reason = words[code] ?? (message.split("\n")[0] || code);
  return new WasmguardError(code, `Cannot listen on ${formatBind(bind)}: ${reason}`, { cause: error });
}

function listen(server: Server, bind: Bind): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    const done = () => {
      server.off("error", reject);
      server.on("error", () => {}); // an accept that fails (EMFILE) is not the end of the listener
      resolve();
    };
    try {
      if ("path" in bind) server.listen({ path: bind.path }, done);
      else server.listen({ port: bind.port, host: bind.host || undefined }, done);
    } catch (error) {
      reject(error);
    }
  });
}

/** Whether a unix socket's file is there and nobody listens on it: its owner died. */
function isAbandoned(path: string): Promise<boolean> {
  try {
    if (!lstatSync(path).isSocket()) return Promise.resolve(false);
  } catch {
    return Promise.resolve(false);
  }
  return new Promise((resolve) => {
    const probe = connect({ path });
    probe.once("connect", () => {
      probe.destroy();
      resolve(false);
    });
    probe.once("error", (error: NodeJS.ErrnoException) => resolve(error.code === "ECONNREFUSED"));
  });
}

function isAddressInfo(address: AddressInfo | string | null): address is AddressInfo {
  return typeof address === "object" && address !== null;
}
