// The UAPI on a unix stream socket, /var/run/wireguard/NAME.sock, for `wg`, `wg-quick` and wgctrl. node:net, so it runs
// on Node and on Deno. Any number of operations a connection; one operation at a time over all of them, in order.
// Bounded whatever a client does: a connection holds one request being read and one reply not yet read, and nothing is
// read from it meanwhile; who stops in the middle is cut off; the longest silent makes room for a new one.
// The socket is made in a private directory and renamed into place: never open to others, never half there, and libuv,
// which unlinks the path it was bound to on close, cannot take away a successor's socket.

import { chmodSync, existsSync, lstatSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from "node:fs";
import { unlinkSync, watch } from "node:fs";
import { type Server, type Socket, connect, createServer } from "node:net";
import { constants, networkInterfaces } from "node:os";
import { dirname, join } from "node:path";
import { ERRNO, WasmguardError } from "./errors.ts";
import { type Logger, silentLogger } from "./log.ts";
import type { Configurable, Observable } from "./model.ts";
import { type Operation, RequestReader, UapiError, formatEvent, formatReply, formatState, formatStatistics } from "./uapi.ts";

export const UAPI_DIRECTORY = "/var/run/wireguard";

/** connections at a time: `wg` and wgctrl need one each for a moment */
const CONNECTION_MAX_COUNT = 64;
/** ms that a client may take over a request or a reply without moving a byte */
const STALL_MS = 30_000;
/** ms between looks at the socket file, where the directory cannot be watched */
const POLL_MS = 1000;
/** bytes of events that wait for a client to read them */
const STREAM_MAX_LEN = 64 << 10;

export interface UapiServerOptions {
  name: string;
  /** an Observable one has statistics and events to tell, too */
  device: Configurable & Partial<Observable>;
  directory?: string;
  /** a listening socket that was inherited (WG_UAPI_FD), its file already in place */
  fd?: number;
  log?: Logger;
  /** called once when the socket file is removed or replaced, never after close() */
  onRemoved?: () => void;
  /** STALL_MS, if not given */
  stallMs?: number;
}

/** Where `wg` looks for the socket of an interface. @throws RangeError for a name that no interface can have */
export function socketPath(name: string, directory = UAPI_DIRECTORY): string {
  if (!/^[a-zA-Z0-9_=+.-]{1,15}$/.test(name) || name === "." || name === "..") {
    throw new RangeError(`"${name}" is not an interface name: 1 to 15 of a-z A-Z 0-9 _ = + . -`);
  }
  return join(directory, `${name}.sock`);
}

/**
 * Resolves once the socket answers.
 * @throws WasmguardError ERR_ALREADY_RUNNING when a live process has the socket, or the system's error
 */
export async function startUapiServer(options: UapiServerOptions): Promise<UapiServer> {
  const server = new UapiServer(options);
  await server.start();
  return server;
}

export class UapiServer {
  readonly path: string;
  readonly #options: UapiServerOptions;
  readonly #log: Logger;
  readonly #server: Server;
  /** the longest silent first */
  readonly #connections = new Set<Socket>();
  #identity = ""; // of the socket file while it is there
  #stopWatching = () => {};
  #closed = false;
  #last: Promise<unknown> = Promise.resolve();

  constructor(options: UapiServerOptions) {
    this.path = socketPath(options.name, options.directory);
    this.#options = options;
    this.#log = options.log ?? silentLogger;
    // Half open, because a client may end its side before it reads the reply.
    this.#server = createServer({ allowHalfOpen: true }, (socket) => void this.#serve(socket));
  }

  async start(): Promise<void> {
    const { fd } = this.#options;
    if (fd !== undefined) await listen(this.#server, { fd });
    else await this.#listenOnPath();
    this.#server.on("error", (error) => this.#log.error(`UAPI: ${error.message}`));
    this.#identity = identify(this.path);
    if (this.#identity !== "") this.#watch();
  }

  /** Cuts every connection and removes the socket file, if it is still ours. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#stopWatching();
    if (this.#identity !== "" && identify(this.path) === this.#identity) unlinkSync(this.path);
    const closed = new Promise((resolve) => this.#server.close(resolve));
    for (const socket of this.#connections) socket.destroy();
    await closed;
  }

  async #listenOnPath(): Promise<void> {
    const { name } = this.#options;
    const directory = dirname(this.path);
    if (mkdirSync(directory, { recursive: true }) !== undefined) chmodSync(directory, 0o755);
    if (await answers(this.path)) {
      throw new WasmguardError("ERR_ALREADY_RUNNING", `${name} is already running (its socket ${this.path} answers)`);
    }
    const nest = mkdtempSync(join(directory, `.${name}-`)); // mode 0700
    try {
      const path = join(nest, "s");
      await listen(this.#server, { path });
      chmodSync(path, 0o600);
      renameSync(path, this.path); // replaces the socket of a dead process
    } finally {
      rmSync(nest, { recursive: true });
    }
  }

  #watch(): void {
    const look = () => {
      if (this.#closed || identify(this.path) === this.#identity) return;
      this.#stopWatching();
      this.#options.onRemoved?.();
    };
    const poll = () => {
      const timer = setInterval(look, POLL_MS);
      this.#stopWatching = () => clearInterval(timer);
    };
    try {
      const watcher = watch(dirname(this.path), look);
      this.#stopWatching = () => watcher.close();
      watcher.on("error", () => {
        watcher.close();
        poll();
      });
    } catch {
      poll();
    }
  }

  async #serve(socket: Socket): Promise<void> {
    const stallMs = this.#options.stallMs ?? STALL_MS;
    const reader = new RequestReader(interfaceIndex);
    let streams = false;
    this.#admit(socket);
    socket.setTimeout(stallMs, () => socket.destroy());
    try {
      for await (const chunk of socket) {
        this.#touch(socket);
        if (streams) continue; // who follows events has nothing more to say
        socket.setTimeout(stallMs);
        for (const operation of reader.push(chunk)) {
          streams = operation.kind === "events" && this.#options.device.listen !== undefined;
          if (streams) break;
          await send(socket, await this.#enqueue(operation));
        }
        if (streams) {
          this.#stream(socket);
          continue;
        }
        if (reader.broken) break;
        socket.setTimeout(reader.idle ? 0 : stallMs);
      }
      socket.end();
    } catch (error) {
      this.#log.verbose(`UAPI: connection lost: ${(error as Error).message}`);
      socket.destroy();
    }
  }

  /** Tells events from now on, until the client goes. One that does not read misses some, and is told how many. */
  #stream(socket: Socket): void {
    let lost = 0;
    const stop = this.#options.device.listen!((event) => {
      if (socket.writableLength > STREAM_MAX_LEN) return void lost++;
      if (lost > 0) socket.write(`lost=${lost}\n\n`);
      lost = 0;
      socket.write(formatEvent(event));
    });
    socket.setTimeout(0);
    socket.on("close", stop);
    socket.write("following=1\n\n");
  }

  #admit(socket: Socket): void {
    socket.on("error", () => {}); // reported by the loop over it
    socket.on("close", () => this.#connections.delete(socket));
    if (this.#connections.size >= CONNECTION_MAX_COUNT) {
      const [silent] = this.#connections;
      silent.destroy();
      this.#connections.delete(silent);
    }
    this.#connections.add(socket);
  }

  #touch(socket: Socket): void {
    if (this.#connections.delete(socket)) this.#connections.add(socket);
  }

  /** Operations follow one another, those of other connections too: an apply may wait for the system. */
  #enqueue(operation: Operation): Promise<string> {
    const reply = this.#last.then(() => this.#operate(operation));
    this.#last = reply;
    return reply;
  }

  #statistics(): string {
    const { statistics } = this.#options.device;
    if (!statistics) throw new UapiError("EINVAL", "this device has no statistics");
    return formatStatistics(statistics());
  }

  /** Never rejects: what goes wrong is in the reply. */
  async #operate(operation: Operation): Promise<string> {
    const kind = operation.kind === "refused" ? operation.of : operation.kind;
    try {
      if (operation.kind === "refused") throw operation.error;
      if (operation.kind === "get") return formatReply("get", 0, formatState(this.#options.device.state()));
      if (operation.kind === "set") {
        await this.#options.device.apply(operation.change);
        this.#log.verbose(`UAPI: set, ${operation.change.peers.length} peers named`);
        return formatReply("set", 0);
      }
      if (operation.kind === "statistics") return formatReply("statistics", 0, this.#statistics());
      throw new UapiError("EINVAL", "this device has no events to tell");
    } catch (error) {
      this.#log.error(`UAPI: ${kind} refused: ${error instanceof Error ? error.message : "unknown error"}`);
      return formatReply(kind, errnoOf(error));
    }
  }
}

/** The errno of any error, positive: by its code in this system's table, else its own number, else EIO. */
function errnoOf(error: unknown): number {
  const { code, errno } = (error ?? {}) as { code?: unknown; errno?: unknown };
  const number = (constants.errno as Record<string, number>)[String(code)] ?? errno;
  return typeof number === "number" && Number.isInteger(number) && number !== 0 ? Math.abs(number) : ERRNO.EIO;
}

/** The reply in one write; resolves when the system has taken all of it. */
function send(socket: Socket, reply: string): Promise<void> {
  return new Promise((resolve, reject) => socket.write(reply, (error) => (error ? reject(error) : resolve())));
}

function listen(server: Server, target: { fd: number } | { path: string }): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(target, () => {
      server.removeListener("error", reject);
      resolve();
    });
  });
}

/** Whether a process accepts connections at `path`. @throws the system's error when it cannot be told */
function answers(path: string): Promise<boolean> {
  if (!existsSync(path)) return Promise.resolve(false);
  if (!lstatSync(path).isSocket()) {
    throw new WasmguardError("EEXIST", `${path} exists and is not a socket: remove it`, { errno: ERRNO.EEXIST });
  }
  return new Promise((resolve, reject) => {
    const socket = connect(path, () => {
      socket.destroy();
      resolve(true);
    });
    socket.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "ECONNREFUSED" || error.code === "ENOENT") resolve(false);
      else reject(error);
    });
  });
}

/** Tells one socket file from another at the same path; "" when there is none. */
function identify(path: string): string {
  const stat = lstatSync(path, { throwIfNoEntry: false, bigint: true });
  return stat === undefined ? "" : `${stat.dev}:${stat.ino}`;
}

/** Index of a network interface, for the scope of an endpoint; 0 when there is none of that name. */
function interfaceIndex(name: string): number {
  if (!/^[^/\s]{1,15}$/.test(name) || name === "." || name === "..") return 0;
  try {
    return Number(readFileSync(`/sys/class/net/${name}/ifindex`, "ascii"));
  } catch {
    // Not Linux: what the addresses of the interface say.
    return networkInterfaces()[name]?.find((address) => address.family === "IPv6")?.scopeid ?? 0;
  }
}
